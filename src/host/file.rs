//! The user's own files, which are not the machine's: a configuration, a secret, a certificate, a recorded machine, the
//! file of a wattmeter. What is read has a largest size, because a device that never ends must not be read to its end.
//!
//! A file that the configuration names must be a regular one: opening a FIFO that nobody writes waits for ever
//! (fifo(7)), and a meter's thread would wait there without a word. What the user names at a command line may also be a
//! pipe or a character device (`<(…)`, `/dev/stdin`); it can be read once only, so it is looked at without opening it,
//! and its reader may say how long the silence may last.

use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Access, Mode, OFlags, access, open};
use rustix::io::{Errno, read};

use crate::clock;

/// A pipe is read in steps of this size, which is what one holds.
const STEP: usize = 64 << 10;
/// A pipe may take so many times as long as it may be silent.
const SILENCES: u32 = 6;

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// What the kernel said, that it is no regular file, or that it is too large.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    regular(reader(path)?, limit)
}

/// Reads a regular file, a pipe or a character device of at most `limit` bytes. With `patience`, a pipe may be silent
/// for no longer.
///
/// # Errors
/// What the kernel said, that it is something else or too large, or that nobody writes to it or it does not end.
pub fn read_stream(path: &Path, limit: u64, patience: Option<Duration>) -> io::Result<Vec<u8>> {
    let kind = metadata(path)?.file_type();
    if kind.is_file() {
        return regular(reader(path)?, limit);
    }
    expect_stream(kind)?;
    let file = reader(path)?;
    let begin = clock::now().boot;
    let mut bytes = Vec::new();
    let mut heard = begin;
    loop {
        let now = clock::now().boot;
        let wait = patience.map(|patience| {
            let silence = (heard + patience).saturating_sub(now);
            silence.min((begin + patience * SILENCES).saturating_sub(now))
        });
        if wait.is_some_and(|wait| wait.is_zero()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, unended(now.saturating_sub(begin), bytes.len())));
        }
        // A FIFO that nobody has opened for writing yet is not at its end: poll waits for the first writer.
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], wait.as_ref()) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let start = bytes.len();
        bytes.resize(start + STEP, 0);
        let got = read(&file, &mut bytes[start..]);
        bytes.truncate(start + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => return Ok(bytes),
            Ok(_) => heard = clock::now().boot,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        within(&bytes, limit)?;
    }
}

/// Whether [`read_stream`] may be able to read `path` later; nothing is opened, so that nothing is taken from a pipe.
///
/// # Errors
/// What the kernel said, that it is something else, or that it is too large already.
pub fn check_stream(path: &Path, limit: u64) -> io::Result<()> {
    let found = metadata(path)?;
    if !found.is_file() {
        expect_stream(found.file_type())?;
    } else if found.len() > limit {
        return Err(too_large(limit));
    }
    Ok(access(path, Access::READ_OK)?)
}

/// Creates or truncates a file that the user named for output, readable by its owner only.
///
/// # Errors
/// What the kernel said.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // the one place that creates the user's own files
pub fn create_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        // The mode of an existing file is not touched by opening it.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[allow(clippy::disallowed_methods)] // the one place that looks at the user's own files
fn metadata(path: &Path) -> io::Result<Metadata> {
    std::fs::metadata(path)
}

/// Opens without waiting for the other end of a FIFO, should it have taken the place of a file just now.
fn reader(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

fn regular(file: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
    within(&bytes, limit)?;
    Ok(bytes)
}

fn expect_stream(kind: FileType) -> io::Result<()> {
    if kind.is_fifo() || kind.is_char_device() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a pipe"))
}

fn within(bytes: &[u8], limit: u64) -> io::Result<()> {
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(()) }
}

fn too_large(limit: u64) -> io::Error {
    let shown = if limit < 1 << 20 { format!("{} KiB", limit >> 10) } else { format!("{} MiB", limit >> 20) };
    io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {shown}"))
}

fn unended(time: Duration, bytes: usize) -> String {
    let time = time.as_secs_f64();
    match bytes {
        0 => format!("a pipe that nobody wrote to for {time:.0} s"),
        _ => format!("a pipe that has not ended after {time:.0} s; end its writer, or name a file"),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test has files of its own
mod tests {
    use std::path::PathBuf;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn fifo(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    const SHORT: Option<Duration> = Some(Duration::from_millis(50));

    #[test]
    fn a_fifo_that_nobody_writes_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        assert_eq!(read_file(&path, 4096).unwrap_err().to_string(), "not a regular file");
        check_stream(&path, 4096).unwrap();
        let error = read_stream(&path, 4096, SHORT).unwrap_err().to_string();
        assert_eq!(error, "a pipe that nobody wrote to for 0 s");
        let silent = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut &silent, b"1,2\n").unwrap();
        let error = read_stream(&path, 4096, SHORT).unwrap_err().to_string();
        assert_eq!(error, "a pipe that has not ended after 0 s; end its writer, or name a file");
    }

    #[test]
    fn a_pipe_is_looked_at_and_then_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        let written = vec![b'x'; 200_000];
        let writer = std::thread::spawn({
            let (path, written) = (path.clone(), written.clone());
            move || std::fs::write(path, written)
        });
        check_stream(&path, 1 << 20).unwrap();
        let patience = Some(Duration::from_secs(10));
        assert!(read_stream(&path, 1 << 20, patience).unwrap() == written);
        writer.join().unwrap().unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, written)
        });
        assert_eq!(read_stream(&path, 4096, patience).unwrap_err().to_string(), "larger than 4 KiB");
        let _ = writer.join().unwrap(); // a broken pipe
    }

    #[test]
    fn files_devices_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![0; 5000]).unwrap();
        assert_eq!(read_file(&path, 5000).unwrap().len(), 5000);
        for error in [read_file(&path, 4096).map(drop), check_stream(&path, 4096)] {
            assert_eq!(error.unwrap_err().to_string(), "larger than 4 KiB");
        }
        let error = read_stream(Path::new("/dev/zero"), 1 << 20, None).unwrap_err().to_string();
        assert_eq!(error, "larger than 1 MiB", "a device that never ends");
        assert!(read_stream(Path::new("/dev/null"), 4096, None).unwrap().is_empty());
        for error in [read_stream(dir.path(), 4096, None).map(drop), check_stream(dir.path(), 4096)] {
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::IsADirectory);
        }
        assert_eq!(check_stream(&dir.path().join("none"), 4096).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read_file(Path::new("/dev/null"), 4096).is_err());
    }
}
