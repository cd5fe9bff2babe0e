//! The agent's own files in its `state.directory`: small texts, each replaced as a whole.
//!
//! A new text is written beside the old one and renamed over it (rename(2) is atomic), so that a reader sees one or the
//! other. It is not synced: what is kept holds for one boot, and after a crash of the machine a torn text is refused.
//! Symbolic links are not followed, because others may write where the directory lies.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, renameat, unlinkat};
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

/// Replaces the file called `name`, or makes it.
///
/// # Errors
/// What the kernel said; the old file is then still there.
pub fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let place = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let draft = format!(".{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(openat(&place, &draft, flags, Mode::RUSR | Mode::WUSR)?);
    let done = file.write_all(text.as_bytes()).and_then(|()| Ok(renameat(&place, &draft, &place, name)?));
    if done.is_err() {
        let _ = unlinkat(&place, &draft, AtFlags::empty());
    }
    done
}

#[cfg(test)]
mod tests {
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
}
