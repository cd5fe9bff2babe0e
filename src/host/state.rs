//! The agent's own files in its `state.directory`: small texts, each replaced as a whole.
//!
//! A new text is written beside the old one and renamed over it (rename(2) is atomic), so that a reader sees one or the
//! other. It is not synced: what is kept holds for one boot, and after a crash of the machine a torn text is refused.
//! Others may write where the directory lies. So symbolic links are not followed, nothing but a regular file is read,
//! and a draft is always a new file: a pipe, or another name of somebody's file, is taken away and never written to. A
//! draft bears the pid, so that two programs at once do not write the same one.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdir, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// More than any text of ours: a thousand zones.
const LIMIT: u64 = 4 << 20;

/// The file called `name`; none if there is no such file.
///
/// # Errors
/// What the kernel said, or that it is too large.
pub fn read(directory: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match open(directory.join(name), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 4 MiB"));
    }
    Ok(Some(bytes))
}

/// Makes `directory`, if it is missing.
///
/// # Errors
/// What the kernel said.
pub fn make(directory: &Path) -> io::Result<()> {
    match mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the file called `name` could be replaced or made, found out by a draft that is taken away again.
///
/// # Errors
/// What [`write`] would say.
pub fn check(directory: &Path, name: &str) -> io::Result<()> {
    let place = place(directory)?;
    let known = statat(&place, name, AtFlags::SYMLINK_NOFOLLOW);
    if known.is_ok_and(|known| FileType::from_raw_mode(known.st_mode).is_dir()) {
        return Err(Errno::ISDIR.into());
    }
    let draft = draft_of(name, std::process::id());
    new_file(&place, &draft)?;
    Ok(unlinkat(&place, &draft, AtFlags::empty())?)
}

/// Replaces the file called `name`, or makes it.
///
/// # Errors
/// What the kernel said; the old file is then still there.
pub fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let place = place(directory)?;
    let draft = draft_of(name, std::process::id());
    let mut file = new_file(&place, &draft)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| Ok(renameat(&place, &draft, &place, name)?));
    if done.is_err() {
        let _ = unlinkat(&place, &draft, AtFlags::empty());
    }
    done
}

fn place(directory: &Path) -> io::Result<OwnedFd> {
    Ok(open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn draft_of(name: &str, pid: u32) -> String {
    format!(".{name}.{pid}.new")
}

/// A file that was not there before. Whatever stands in its place is from a program that ended, or planted.
fn new_file(place: &OwnedFd, draft: &str) -> io::Result<File> {
    match unlinkat(place, draft, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(io::Error::new(errno.kind(), format!("{errno}; remove {draft} there"))),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat(place, draft, flags, Mode::RUSR | Mode::WUSR)?))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{linkat, mknodat};

    use super::*;

    #[test]
    fn a_text_is_there_as_a_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(read(home.path(), "learner.json").unwrap(), None);
        for text in ["long ago\n", "now\n"] {
            write(home.path(), "learner.json", text).unwrap();
            assert_eq!(read(home.path(), "learner.json").unwrap().unwrap(), text.as_bytes());
        }
        assert_eq!(home.path().read_dir().unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_is_no_file_of_ours_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = home.path().join("elsewhere");
        write(home.path(), "elsewhere", "not ours\n").unwrap();
        rustix::fs::symlink(&elsewhere, home.path().join("link")).unwrap();
        rustix::fs::mkdir(home.path().join("directory"), Mode::RWXU).unwrap();
        for bad in ["link", "directory"] {
            assert!(read(home.path(), bad).is_err(), "{bad}");
        }
        assert!(write(home.path(), "directory", "x").is_err());
        assert!(write(&home.path().join("missing"), "x", "x").is_err());
        write(home.path(), "link", "ours\n").unwrap();
        assert_eq!(read(home.path(), "elsewhere").unwrap().unwrap(), b"not ours\n", "the link was replaced");
    }

    #[test]
    fn what_stands_where_the_draft_goes_is_neither_waited_for_nor_written_to() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path()).unwrap();
        let draft = draft_of("learner.json", std::process::id());
        // Opening a pipe to write waits for a reader.
        mknodat(&place, &draft, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        write(home.path(), "learner.json", "past the pipe\n").unwrap();
        write(home.path(), "elsewhere", "not ours\n").unwrap();
        linkat(&place, "elsewhere", &place, &draft, AtFlags::empty()).unwrap();
        write(home.path(), "learner.json", "past the link\n").unwrap();
        assert_eq!(read(home.path(), "elsewhere").unwrap().unwrap(), b"not ours\n");
        assert_eq!(read(home.path(), "learner.json").unwrap().unwrap(), b"past the link\n");
        mkdir(home.path().join(&draft), Mode::RWXU).unwrap();
        let refused = write(home.path(), "learner.json", "x").unwrap_err().to_string();
        assert!(refused.ends_with(&format!("; remove {draft} there")), "{refused}");
        assert_eq!(check(home.path(), "learner.json").unwrap_err().to_string(), refused);
    }

    #[test]
    fn the_draft_of_another_program_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let other = draft_of("calibration.json", std::process::id() + 1);
        write(home.path(), &other, "half a te").unwrap();
        check(home.path(), "calibration.json").unwrap();
        write(home.path(), "calibration.json", "ours\n").unwrap();
        assert_eq!(read(home.path(), &other).unwrap().unwrap(), b"half a te");
        assert_eq!(read(home.path(), "calibration.json").unwrap().unwrap(), b"ours\n");
    }

    #[test]
    fn a_pipe_and_an_endless_file_are_not_read() {
        let home = tempfile::tempdir().unwrap();
        mknodat(place(home.path()).unwrap(), "pipe", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        rustix::fs::symlink("/dev/zero", home.path().join("endless")).unwrap();
        for bad in ["pipe", "endless"] {
            assert!(read(home.path(), bad).is_err(), "{bad}");
        }
        assert_eq!(read(Path::new("/dev"), "zero").unwrap_err().to_string(), "not a regular file");
    }

    #[test]
    fn a_directory_is_made_and_tried_without_a_trace() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        assert!(check(&directory, "learner.json").is_err());
        make(&directory).unwrap();
        make(&directory).unwrap();
        check(&directory, "learner.json").unwrap();
        assert_eq!(directory.read_dir().unwrap().count(), 0);
        make(&directory.join("learner.json")).unwrap();
        assert!(check(&directory, "learner.json").is_err(), "a directory is no file to replace");
        assert!(make(&home.path().join("no/such")).is_err());
    }
}
