//! The only door to `/proc`, `/sys` and `/dev`: the live machine, a machine in memory, or the live machine recorded.
//!
//! Paths are relative and begin with the root they live under: `proc/stat`, `sys/class/powercap`, `dev/ipmi0`. On the
//! live machine each root is a directory of the user's choice (`host.proc`, `host.sys`, `host.dev`), so that the host's
//! file systems mounted elsewhere, as in a `DaemonSet`, work the same way. Reads reuse the caller's buffer; a file that
//! is read at every tick is [`Kept`] open. Every error is an [`Errno`], which the caller turns into words with a path.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;

pub use rustix::io::Errno;

use crate::config::HostRoots;
pub use crate::host::file::{check_stream, create_file, read_file, read_stream};
use crate::host::live::Live;
use crate::host::memory::Memory;
use crate::host::record::Recorder;
use crate::unit::CpuTime;

pub mod file;
pub mod http;
pub mod ipmi;
pub mod live;
pub mod lock;
pub mod memory;
pub mod perf;
pub mod record;
pub mod sandbox;
pub mod script;
pub mod state;
pub mod tls;

/// The most that is read of one file: a `/proc/stat` of 4,096 CPUs and a `cgroup.procs` of 100,000 pids fit.
pub const FILE_MAX: usize = 4 << 20;
/// The most that is read of a command line; a name never needs more.
pub const COMMAND_LINE_MAX: usize = 64 << 10;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// Anything else.
    File,
}

/// A machine to read from.
pub struct Host {
    source: Source,
}

enum Source {
    Live(Live),
    Memory(RefCell<Memory>),
    Recording(Live, RefCell<Recorder>),
}

/// A file that is read again and again. While `keep` is set its descriptor stays open between reads.
#[derive(Debug)]
pub struct Kept {
    path: String,
    file: Option<rustix::fd::OwnedFd>,
    /// Whether the descriptor is kept (4.3 KiB of kernel memory each; accounting rule 12).
    pub keep: bool,
}

impl Kept {
    /// A file at `path` that has not been opened yet.
    #[must_use]
    pub fn new(path: String) -> Self {
        Self { path, file: None, keep: true }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Closes the descriptor; the next read opens the file anew.
    pub fn close(&mut self) {
        self.file = None;
    }
}

impl Host {
    /// The live machine, seen through `roots`.
    ///
    /// # Errors
    /// A root that is not a directory, with its path.
    pub fn live(roots: &HostRoots) -> io::Result<Self> {
        Ok(Self { source: Source::Live(Live::new(roots)?) })
    }

    /// A machine in memory.
    #[must_use]
    pub fn memory(memory: Memory) -> Self {
        Self { source: Source::Memory(RefCell::new(memory)) }
    }

    /// The live machine, with everything that is read of it written down.
    ///
    /// # Errors
    /// A root that is not a directory, with its path.
    pub fn recording(roots: &HostRoots, recorder: Recorder) -> io::Result<Self> {
        Ok(Self { source: Source::Recording(Live::new(roots)?, RefCell::new(recorder)) })
    }

    /// Another door to the same live machine, for a thread of its own; `None` for a machine in memory.
    #[must_use]
    pub fn another(&self) -> Option<Self> {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => {
                Some(Self { source: Source::Live(live.another().ok()?) })
            }
            Source::Memory(_) => None,
        }
    }

    /// Whether `proc` is the kernel's procfs, and not files that somebody wrote.
    #[must_use]
    pub fn proc_is_live(&self) -> bool {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => live.proc_is_live(),
            Source::Memory(_) => false,
        }
    }

    /// Changes a machine in memory; nothing on a live one.
    pub fn with_memory(&self, change: impl FnOnce(&mut Memory)) {
        if let Source::Memory(memory) = &self.source {
            change(&mut memory.borrow_mut());
        }
    }

    /// Reaches the recorder of a recorded machine.
    pub fn with_recorder(&self, change: impl FnOnce(&mut Recorder)) {
        if let Source::Recording(_, recorder) = &self.source {
            change(&mut recorder.borrow_mut());
        }
    }

    /// Whether pids mean the same here as in cgroup.procs, so that processes are found there without listing `/proc`.
    /// A machine in memory says so by [`Memory::trust_cgroups`].
    #[must_use]
    pub fn sees_own_pids(&self) -> bool {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => live.sees_own_pids(),
            Source::Memory(memory) => memory.borrow().cgroups_are_trusted(),
        }
    }

    /// Reads the whole file at `path` into `buffer`, which is cleared first.
    ///
    /// # Errors
    /// What the kernel said; [`Errno::FBIG`] for more than [`FILE_MAX`].
    pub fn read(&self, path: &str, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        self.read_some(path, buffer, FILE_MAX)
    }

    /// Reads at most `limit` bytes of the file at `path`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_some(&self, path: &str, buffer: &mut Vec<u8>, limit: usize) -> Result<(), Errno> {
        buffer.clear();
        match &self.source {
            Source::Live(live) => live.read(path, buffer, limit),
            Source::Memory(memory) => memory.borrow().read(path, buffer, limit),
            Source::Recording(live, recorder) => {
                let result = live.read(path, buffer, limit);
                recorder.borrow_mut().file(path, result.map(|()| &buffer[..]));
                result
            }
        }
    }

    /// Reads the file again from its beginning, in one system call while its descriptor is open.
    ///
    /// # Errors
    /// What the kernel said; the descriptor is then closed, so that the next read opens the file anew.
    pub fn reread(&self, kept: &mut Kept, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        buffer.clear();
        let result = match &self.source {
            Source::Live(live) => live.reread(&kept.path, &mut kept.file, kept.keep, buffer),
            Source::Memory(memory) => memory.borrow().read(&kept.path, buffer, FILE_MAX),
            Source::Recording(live, recorder) => {
                let result = live.reread(&kept.path, &mut kept.file, kept.keep, buffer);
                recorder.borrow_mut().file(&kept.path, result.map(|()| &buffer[..]));
                result
            }
        };
        if result.is_err() {
            kept.close();
        }
        result
    }

    /// Reads `proc/PID/NAME`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_process(&self, pid: u32, name: &str, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        let limit = if name == "cmdline" { COMMAND_LINE_MAX } else { FILE_MAX };
        live::with_process_path(pid, name, |path| self.read_some(path, buffer, limit))
    }

    /// Calls `each` with the name, inode number and kind of every entry of the directory at `path`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list(&self, path: &str, mut each: impl FnMut(&[u8], u64, EntryKind)) -> Result<(), Errno> {
        match &self.source {
            Source::Live(live) => live.list(path, &mut each),
            Source::Memory(memory) => memory.borrow().list(path, &mut each),
            Source::Recording(live, recorder) => {
                let mut entries = Vec::new();
                let result = live.list(path, &mut |name, inode, kind| {
                    each(name, inode, kind);
                    entries.push((String::from_utf8_lossy(name).into_owned(), inode, kind));
                });
                let links = |entry: &str| live.link(&format!("{path}/{entry}")).ok();
                recorder.borrow_mut().directory(path, result.map(|()| entries), links);
                result
            }
        }
    }

    /// The inode number of what is at `path`: it changes when a cgroup or process is replaced by another of its name.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn inode(&self, path: &str) -> Result<u64, Errno> {
        match &self.source {
            Source::Live(live) => live.inode(path),
            Source::Memory(memory) => memory.borrow().inode(path),
            Source::Recording(live, recorder) => {
                let result = live.inode(path);
                recorder.borrow_mut().inode(path, result);
                result
            }
        }
    }

    /// Whether the cgroup directory at `path` may hold directories: one link count instead of a listing of forty files.
    #[must_use]
    pub fn has_directories(&self, path: &str) -> bool {
        match &self.source {
            Source::Live(live) => live.has_directories(path),
            Source::Memory(_) | Source::Recording(..) => true,
        }
    }

    /// The inode number of `proc/PID`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn process_inode(&self, pid: u32) -> Result<u64, Errno> {
        live::with_process_path(pid, "", |path| self.inode(path))
    }

    /// Where the symbolic link at `path` points, as it is written there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn link(&self, path: &str) -> Result<String, Errno> {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => live.link(path),
            Source::Memory(memory) => memory.borrow().link(path),
        }
    }

    /// The CPU time of a whole thread group with its dead threads, from the process CPU clock; `None` where that clock
    /// may not be used and `proc/PID/stat` is to be read instead (accounting rule 8).
    ///
    /// # Errors
    /// [`Errno::SRCH`] if there is no such process.
    pub fn process_clock(&self, pid: u32) -> Result<Option<CpuTime>, Errno> {
        match &self.source {
            Source::Live(live) => live.process_clock(pid),
            Source::Memory(memory) => memory.borrow().process_clock(pid),
            Source::Recording(live, recorder) => {
                let result = live.process_clock(pid);
                recorder.borrow_mut().clock(pid, result);
                result
            }
        }
    }

    /// The path of a root on the live machine, for messages: `proc/stat` → `/host/proc/stat`.
    #[must_use]
    pub fn shown(&self, path: &str) -> String {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => live.shown(path),
            Source::Memory(_) => format!("/{path}"),
        }
    }
}

/// Which errors mean "not allowed".
#[must_use]
pub fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM)
}

/// The roots as the configuration names them, by the first component of a path.
fn split_root(path: &str) -> (usize, &str) {
    let (root, rest) = path.split_once('/').unwrap_or((path, ""));
    let index = match root {
        "proc" => 0,
        "sys" => 1,
        _ => 2,
    };
    (index, if rest.is_empty() { "." } else { rest })
}

/// Raises the soft limit of open files to the hard one (accounting rule 12); failure leaves it as it is.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// How many files may be open.
#[must_use]
pub fn file_limit() -> usize {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// The path of the file that holds a root's name, for error messages about the roots themselves.
fn root_paths(roots: &HostRoots) -> [PathBuf; 3] {
    [roots.proc.clone(), roots.sys.clone(), roots.dev.clone()]
}
