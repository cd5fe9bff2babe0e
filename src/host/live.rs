//! The live machine: three directory descriptors, plain `openat`/`read`/`getdents64`, and the process CPU clock.
//!
//! Nothing here allocates while it reads. The CPU clock of another process is `clock_gettime` on `((!pid) << 3) | 2`,
//! what `clock_getcpuclockid(3)` returns: nanoseconds for the whole thread group, dead threads included, without a
//! descriptor or a privilege. From a child pid namespace it silently reads the wrong process, so it is used only if
//! `<host.proc>/self/status` shows exactly one pid in `NSpid:`.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use nix::sys::time::TimeValLike;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, open, openat, readlinkat, statat};
use rustix::io::{Errno, pread, read};

use crate::config::HostRoots;
use crate::host::{EntryKind, root_paths, split_root};
use crate::unit::CpuTime;

/// One directory listing fits in this many bytes at a time.
const LISTING: usize = 32 << 10;
/// A file is read in steps of this size; what is kept open fits in one.
const STEP: usize = 8 << 10;

/// The live machine.
pub struct Live {
    roots: [Option<OwnedFd>; 3],
    paths: [PathBuf; 3],
    clock_is_ours: bool,
    listing: RefCell<Vec<MaybeUninit<u8>>>,
}

impl Live {
    /// Opens the roots.
    ///
    /// # Errors
    /// `host.proc` or `host.sys` that is not a directory; `host.dev` may be missing.
    pub fn new(roots: &HostRoots) -> io::Result<Self> {
        let paths = root_paths(roots);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let [proc, sys, dev] = [0, 1, 2].map(|root| open(&paths[root], flags, Mode::empty()));
        let required = |result: Result<OwnedFd, Errno>, key: &str, path: &PathBuf| {
            result.map(Some).map_err(|errno| {
                let error = io::Error::from(errno);
                let advice =
                    format!("host.{key}: cannot open {}: {error}; mount the host's /{key} there", path.display());
                io::Error::new(error.kind(), advice)
            })
        };
        let mut live = Self {
            roots: [required(proc, "proc", &paths[0])?, required(sys, "sys", &paths[1])?, dev.ok()],
            paths,
            clock_is_ours: false,
            listing: RefCell::new(vec![MaybeUninit::uninit(); LISTING]),
        };
        let mut status = Vec::new();
        live.clock_is_ours = live.read("proc/self/status", &mut status, 1 << 16).is_ok() && one_pid_namespace(&status);
        Ok(live)
    }

    /// Opens the same roots again.
    ///
    /// # Errors
    /// A root that has gone away.
    pub fn another(&self) -> io::Result<Self> {
        let [proc, sys, dev] = self.paths.clone();
        Self::new(&HostRoots { proc, sys, dev })
    }

    /// See [`super::Host::proc_is_live`].
    pub fn proc_is_live(&self) -> bool {
        let kind = |root: &OwnedFd| rustix::fs::fstatfs(root).map(|found| found.f_type);
        self.roots[0].as_ref().is_some_and(|root| kind(root) == Ok(PROC_SUPER_MAGIC))
    }

    /// See [`super::Host::read_some`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read(&self, path: &str, buffer: &mut Vec<u8>, limit: usize) -> Result<(), Errno> {
        let file = self.open(path)?;
        loop {
            let start = buffer.len();
            buffer.resize(start + STEP.min(limit - start), 0);
            // Plain reads, no poller: some hwmon drivers answer EAGAIN for ever.
            let got = read(&file, &mut buffer[start..]);
            buffer.truncate(start + *got.as_ref().unwrap_or(&0));
            if got? == 0 || buffer.len() >= limit {
                return Ok(());
            }
        }
    }

    /// See [`super::Host::reread`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn reread(
        &self,
        path: &str,
        file: &mut Option<OwnedFd>,
        keep: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let opened;
        let open = match file {
            Some(open) => open,
            None if keep => file.insert(self.open(path)?),
            None => {
                opened = self.open(path)?;
                &opened
            }
        };
        loop {
            let start = buffer.len();
            buffer.resize(start + STEP, 0);
            let got = pread(open, &mut buffer[start..], start as u64);
            buffer.truncate(start + *got.as_ref().unwrap_or(&0));
            // sysfs and cgroup files give all they have at once: a short read is the end, and saves a second call.
            if got? < STEP || buffer.len() >= super::FILE_MAX {
                break;
            }
        }
        if !keep {
            *file = None;
        }
        Ok(())
    }

    /// See [`super::Host::list`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list(&self, path: &str, each: &mut dyn FnMut(&[u8], u64, EntryKind)) -> Result<(), Errno> {
        let (root, rest) = self.at(path)?;
        let directory = openat(root, rest, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut listing = self.listing.borrow_mut();
        let mut entries = RawDir::new(directory, &mut listing[..]);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = match entry.file_type() {
                    FileType::Directory => EntryKind::Dir,
                    FileType::Symlink => EntryKind::Link,
                    _ => EntryKind::File,
                };
                each(name, entry.ino(), kind);
            }
        }
        Ok(())
    }

    /// See [`super::Host::inode`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn inode(&self, path: &str) -> Result<u64, Errno> {
        let (root, rest) = self.at(path)?;
        Ok(statat(root, rest, AtFlags::empty())?.st_ino)
    }

    /// See [`super::Host::has_directories`].
    #[must_use]
    pub fn has_directories(&self, path: &str) -> bool {
        let Ok((root, rest)) = self.at(path) else { return true };
        // kernfs keeps the link count of a directory at 2 + its subdirectories, as Unix file systems do.
        statat(root, rest, AtFlags::empty()).map_or(true, |found| found.st_nlink != 2)
    }

    /// See [`super::Host::link`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn link(&self, path: &str) -> Result<String, Errno> {
        let (root, rest) = self.at(path)?;
        Ok(readlinkat(root, rest, Vec::new())?.to_string_lossy().into_owned())
    }

    /// See [`super::Host::process_clock`].
    ///
    /// # Errors
    /// [`Errno::SRCH`] if there is no such process.
    pub fn process_clock(&self, pid: u32) -> Result<Option<CpuTime>, Errno> {
        if !self.clock_is_ours {
            return Ok(None);
        }
        // The kernel's encoding of a CPU clock (include/linux/posix-timers_types.h): the pid inverted, shifted by 3,
        // with CPUCLOCK_SCHED = 2.
        let Ok(pid) = i32::try_from(pid) else { return Err(Errno::SRCH) };
        let clock = nix::time::ClockId::from_raw(((!pid) << 3) | 2);
        match nix::time::clock_gettime(clock) {
            Ok(time) => Ok(Some(CpuTime(u64::try_from(time.num_nanoseconds()).unwrap_or(0)))),
            Err(_) => Err(Errno::SRCH),
        }
    }

    /// Whether pids mean the same to us as to the host.
    #[must_use]
    pub fn sees_own_pids(&self) -> bool {
        self.clock_is_ours
    }

    /// The real path behind `path`.
    #[must_use]
    pub fn shown(&self, path: &str) -> String {
        let (root, rest) = split_root(path);
        self.paths[root].join(rest).display().to_string()
    }

    /// Opens a file or a directory for reading.
    pub(super) fn open(&self, path: &str) -> Result<OwnedFd, Errno> {
        let (root, rest) = self.at(path)?;
        openat(root, rest, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
    }

    /// Opens a device for reading and writing.
    pub(super) fn open_device(&self, path: &str) -> Result<OwnedFd, Errno> {
        let (root, rest) = self.at(path)?;
        openat(root, rest, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
    }

    fn at<'a>(&self, path: &'a str) -> Result<(rustix::fd::BorrowedFd<'_>, &'a str), Errno> {
        use rustix::fd::AsFd;
        let (root, rest) = split_root(path);
        // An absolute rest would leave the root: CWD makes openat fail loudly on the empty string instead.
        if rest.starts_with('/') {
            return Ok((CWD, ""));
        }
        self.roots[root].as_ref().map(|root| (root.as_fd(), rest)).ok_or(Errno::NOENT)
    }
}

/// Calls `with` with `proc/PID/NAME` (or `proc/PID`), formatted on the stack.
pub fn with_process_path<T>(pid: u32, name: &str, with: impl FnOnce(&str) -> T) -> T {
    struct Stack([u8; 64], usize);
    impl std::fmt::Write for Stack {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let end = self.1 + text.len();
            self.0.get_mut(self.1..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
            self.1 = end;
            Ok(())
        }
    }
    let mut path = Stack([0; 64], 0);
    let slash = if name.is_empty() { "" } else { "/" };
    // 5 + 10 + 1 + a short name always fits; should it not, the truncated path does not exist.
    let _ = write!(path, "proc/{pid}{slash}{name}");
    with(std::str::from_utf8(&path.0[..path.1]).unwrap_or_default())
}

/// Whether `/proc/self/status` says that our pid is the same in every pid namespace above us.
fn one_pid_namespace(status: &[u8]) -> bool {
    status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"NSpid:"))
        .is_some_and(|pids| String::from_utf8_lossy(pids).split_ascii_whitespace().count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_machine_it_runs_on() {
        let live = Live::new(&HostRoots::default()).unwrap();
        let mut buffer = Vec::new();
        live.read("proc/self/stat", &mut buffer, 1 << 16).unwrap();
        assert!(buffer.ends_with(b"\n"));
        let me = std::process::id();
        let mut found = None;
        live.list("proc", &mut |name, inode, _| {
            if name == me.to_string().as_bytes() {
                found = Some(inode);
            }
        })
        .unwrap();
        assert_eq!(found, Some(live.inode(&format!("proc/{me}")).unwrap()), "getdents gives the inode for free");
    }

    #[test]
    fn a_root_that_is_missing_is_named_with_advice() {
        let roots = HostRoots { proc: "/no/such/place".into(), ..HostRoots::default() };
        let error = Live::new(&roots).err().unwrap().to_string();
        assert!(error.contains("host.proc") && error.contains("/no/such/place"), "{error}");
    }

    #[test]
    fn the_clock_needs_one_pid_namespace() {
        assert!(one_pid_namespace(b"Name:\tx\nNSpid:\t77\nNSpgid:\t1\n"));
        assert!(!one_pid_namespace(b"NSpid:\t4711\t7\n"));
        assert!(!one_pid_namespace(b"Name:\tx\n"));
    }
}
