//! The agent's own directory, locked: two agents on one node would send the same series twice, each with its own start,
//! and no receiver could tell which one counts.
//!
//! The lock is flock(2) on `lock` in it, which the kernel takes back when its holder ends, however it ends. The file
//! holds the holder's pid for people. Whether the directory can be used is no condition for measuring: only a lock that
//! another agent holds is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, open};
use rustix::io::{Errno, read, write};

/// The lock; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "{}: another agent{holder} holds it; one agent per node, or another state.directory for each that looks at another \
         machine", path.display()
    )]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// ` (pid 7)`, where known.
        holder: String,
    },
    /// The directory cannot be used.
    #[error("{}: {error}; going on without it", path.display())]
    Unusable {
        /// What cannot be used.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Locks `directory`, which is made if it is missing. Waits up to `patience` for an agent that is just ending.
///
/// # Errors
/// See [`LockError`].
pub fn lock(directory: &Path, patience: Duration) -> Result<Lock, LockError> {
    const STEP: Duration = Duration::from_millis(100);
    let path = directory.join("lock");
    let unusable = |path: &Path, errno: Errno| LockError::Unusable { path: path.into(), error: errno.into() };
    super::state::make(directory).map_err(|error| LockError::Unusable { path: directory.into(), error })?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| unusable(&path, errno))?;
    // To read who holds a pipe would wait for ever.
    if !fstat(&file).is_ok_and(|known| FileType::from_raw_mode(known.st_mode).is_file()) {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(LockError::Unusable { path, error });
    }
    let mut left = patience;
    while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::WOULDBLOCK && errno != Errno::INTR {
            return Err(unusable(&path, errno));
        }
        if left.is_zero() {
            return Err(LockError::Held { path, holder: holder(&file) });
        }
        std::thread::sleep(STEP.min(left));
        left = left.saturating_sub(STEP);
    }
    // For people only: a full disk is no reason to stop.
    let _ = ftruncate(&file, 0).and_then(|()| write(&file, format!("{}\n", std::process::id()).as_bytes()));
    Ok(Lock { _file: file })
}

fn holder(file: &OwnedFd) -> String {
    let mut text = [0; 16];
    let length = read(file, &mut text).unwrap_or(0);
    let pid =
        std::str::from_utf8(text.get(..length).unwrap_or_default()).ok().and_then(|text| text.trim().parse().ok());
    pid.map_or_else(String::new, |pid: u32| format!(" (pid {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_next_gets_it() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        let first = lock(&directory, Duration::ZERO).unwrap();
        let refused = lock(&directory, Duration::from_millis(150)).unwrap_err();
        assert!(
            matches!(&refused, LockError::Held { holder, .. } if *holder == format!(" (pid {})", std::process::id()))
        );
        assert!(refused.to_string().starts_with(&format!("{}: another agent", directory.join("lock").display())));
        drop(first);
        drop(lock(&directory, Duration::ZERO).unwrap());
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_told_from_a_lock_that_is_held() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        drop(crate::host::create_file(&file).unwrap());
        for bad in [file, home.path().join("no/such/parent")] {
            assert!(matches!(lock(&bad, Duration::ZERO), Err(LockError::Unusable { .. })), "{}", bad.display());
        }
    }

    #[test]
    fn a_pipe_is_no_lock_and_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let place = open(home.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::mknodat(place, "lock", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(matches!(lock(home.path(), Duration::ZERO), Err(LockError::Unusable { .. })));
    }
}
