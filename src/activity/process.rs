//! Processes: the split of what a cgroup used. Identity, CPU clock, birth, reuse of pids and death.
//!
//! A process is its pid and the inode of its `/proc` entry: the inode changes when the pid is used again and stays
//! across exec. `/proc/PID/stat` gives the start time in clock ticks and, where the CPU clock may not be read, user and
//! system time truncated to 10 ms. comm may hold spaces, newlines and `)`, so stat is read from its last `)`.

use std::collections::HashMap;

use crate::host::Host;
use crate::semconv::attr;
use crate::unit::CpuTime;
use crate::workload::{Identity, WorkloadId};

/// Flag of a kernel thread in field 9 of stat (include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

/// The processes that are known.
pub struct Processes {
    list: Vec<Process>,
    free: Vec<usize>,
    by_pid: HashMap<u32, usize>,
    /// Whether each process has a row of its own.
    pub split: bool,
    /// Whether `/proc` is listed at every tick because cgroup.procs cannot be trusted to name every process.
    pub scan: bool,
    /// The listing in progress: pid and inode.
    pub listing: Vec<(u32, u64)>,
    /// The cgroup.procs in progress.
    pub text: Vec<u8>,
    /// Processes to be placed anew: born at the last tick, or left without their cgroup.
    pub again: Vec<(usize, u32)>,
    /// Whether a process showed that we look from within a private cgroup namespace (`/..`).
    pub namespaced: bool,
}

/// One process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id in the host's `/proc`.
    pub pid: u32,
    /// Inode of `/proc/PID`.
    pub inode: u64,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The last reading of its clock; `None`: the next one is a baseline.
    pub clock: Option<CpuTime>,
    /// The cgroup that it sits in.
    pub node: usize,
    /// The row of its parent workload.
    pub parent: usize,
    /// Its own row; none where processes are not split.
    pub row: Option<usize>,
    /// Whether its clock is read at all.
    pub tracked: bool,
    /// Ticks at which its clock could not be read since it last could.
    pub missed: u32,
    /// The tick at which it was first seen.
    pub born: u64,
    /// The tick at which it was last known to live.
    pub seen: u64,
    /// The tick at which a cgroup.procs last listed it.
    pub listed: u64,
}

/// What `/proc/PID/stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat<'a> {
    /// The command name, as bytes: it may be anything.
    pub comm: &'a [u8],
    /// Parent pid.
    pub ppid: u32,
    /// Kernel flags.
    pub flags: u64,
    /// User and system time.
    pub time: CpuTime,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl<'a> Stat<'a> {
    /// Reads `/proc/PID/stat`.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let open = bytes.iter().position(|byte| *byte == b'(')?;
        let close = bytes.iter().rposition(|byte| *byte == b')')?;
        let comm = bytes.get(open + 1..close)?;
        let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
        // The first word here is field 3 (state) of proc(5).
        let mut fields = rest.split_ascii_whitespace();
        let ppid = fields.nth(1)?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let user: u64 = fields.nth(4)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(6)?.parse().ok()?;
        Some(Self { comm, ppid, flags, time: CpuTime::from_ticks(user.saturating_add(system)), start_ticks })
    }

    /// Whether this is a kernel thread: by its flag, or where no flags are shown as a child of kthreadd.
    #[must_use]
    pub fn is_kernel_thread(&self, pid: u32, has_command_line: bool) -> bool {
        self.flags & PF_KTHREAD != 0
            || (!has_command_line && (pid == 2 || self.ppid == 2) && self.flags & !PF_KTHREAD == 0)
    }
}

impl Processes {
    /// None yet. Where the host's pids are not ours, or no cgroup lists them, `/proc` is scanned.
    #[must_use]
    pub fn new(host: &Host, split: bool, mounted: bool) -> Self {
        let clocks = host.sees_own_pids();
        Self {
            list: Vec::new(),
            free: Vec::new(),
            by_pid: HashMap::new(),
            split,
            scan: !(clocks && mounted),
            listing: Vec::new(),
            text: Vec::new(),
            again: Vec::new(),
            namespaced: false,
        }
    }

    /// Makes room for `count` processes at once.
    pub fn reserve(&mut self, count: usize) {
        self.list.reserve(count);
        self.by_pid.reserve(count);
    }

    /// The process with this pid.
    #[must_use]
    pub fn find(&self, pid: u32) -> Option<usize> {
        self.by_pid.get(&pid).copied()
    }

    /// The process at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> &Process {
        &self.list[index]
    }

    /// The process at `index`, to change.
    pub fn get_mut(&mut self, index: usize) -> &mut Process {
        &mut self.list[index]
    }

    /// The indexes of all.
    pub fn indexes(&self) -> impl Iterator<Item = usize> {
        self.by_pid.values().copied()
    }

    /// Adds a process.
    pub fn add(&mut self, process: Process) -> usize {
        let pid = process.pid;
        let index = if let Some(index) = self.free.pop() {
            self.list[index] = process;
            index
        } else {
            self.list.push(process);
            self.list.len() - 1
        };
        self.by_pid.insert(pid, index);
        index
    }

    /// Forgets a process.
    pub fn remove(&mut self, index: usize) {
        let pid = self.list[index].pid;
        if self.by_pid.get(&pid) == Some(&index) {
            self.by_pid.remove(&pid);
        }
        self.free.push(index);
    }
}

/// The identity of a process from its comm and command line.
#[must_use]
pub fn identity(pid: u32, start_ticks: u64, comm: &[u8], command_line: &[u8]) -> Identity {
    let comm = printable(comm);
    let command = printable(command_line.split(|byte| *byte == 0).next().unwrap_or_default());
    let base = command.rsplit('/').next().unwrap_or_default();
    let name = if comm.is_empty() { base } else { &comm };
    let name = if name.is_empty() { pid.to_string() } else { name.to_owned() };
    // What id and name tell is not held twice: there may be ten thousand processes.
    let told = command.is_empty() || command == name;
    let attributes = if told { Vec::new() } else { vec![(attr::PROCESS_COMMAND.into(), command)] };
    Identity { id: WorkloadId::Process { pid, start_ticks }, name, attributes }
}

/// Text that is safe to show: at most 256 characters, control characters and broken UTF-8 replaced.
fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(1024)];
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes));
    text.chars().take(256).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 1 1 1 0 -1 4194304 10 0 0 0 27 30 0 0 20 0 1 0 8700 1 2";

    #[test]
    fn stat_is_read_from_its_last_parenthesis() {
        let text = format!("7 (a) b (\n)) {TAIL}");
        let stat = Stat::parse(text.as_bytes()).unwrap();
        assert_eq!(stat.comm, b"a) b (\n)");
        assert_eq!((stat.ppid, stat.start_ticks, stat.time), (1, 8700, CpuTime::from_ticks(57)));
        assert!(!stat.is_kernel_thread(7, false));
    }

    #[test]
    fn a_broken_stat_is_no_process() {
        for text in
            ["", "7", "7 (a", "7 (a)", "7 (a) S 1 1", ") (", "7 (a) S x 1 1 0 -1 4194304 10 0 0 0 27 30 0 0 20 0 1 0 1"]
        {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn kernel_threads_have_their_flag() {
        let text = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 5 0 0 20 0 1 0 0 0 0";
        assert!(Stat::parse(text.as_bytes()).unwrap().is_kernel_thread(2, false));
    }

    #[test]
    fn names_are_safe_to_show() {
        let found = identity(7, 1, b"a\x1b[31m\n", b"/usr/bin/x\0--password=y\0");
        assert_eq!(found.name, "a\u{fffd}[31m");
        assert_eq!(found.id.to_string(), "process:7@1");
        assert!(!format!("{found:?}").contains("password"), "never the command line");
        assert_eq!(identity(7, 1, b"", b"/usr/bin/x\0").name, "x");
    }
}
