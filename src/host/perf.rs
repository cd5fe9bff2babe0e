//! The door to perf events that count on a CPU, for whoever runs there or for one cgroup: `perf_event_open(2)` with no
//! process, or with a cgroup's directory in the place of one, and its 64-bit count.
//!
//! An event is named as the kernel names it, by the PMU's `type`, a `config` and a CPU; it counts from 0 from the moment
//! at which it is opened. Opening needs `CAP_PERFMON`, or `kernel.perf_event_paranoid` of 0 or less: EACCES or EPERM
//! otherwise, ENOENT for an event and ENODEV for a CPU that is not there. Reading allocates nothing. On a machine in
//! memory the count is the decimal number in the file `perf/<type>/<config>@<cpu>`, and a recorded machine has that
//! file written down; of a cgroup it is `perf/<type>/<config>@<cpu>.in/<directory>/count`. Where the times matter (a PMU
//! with too few counters takes turns), two more numbers follow: for how long the event was wanted, and counted, in ns.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::libc;
use rustix::io::{Errno, read};

use super::live::Live;
use super::{FILE_MAX, Host, Source};

/// `PERF_FLAG_FD_CLOEXEC` of `linux/perf_event.h`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
/// `PERF_FLAG_PID_CGROUP`: the file descriptor of a cgroup's directory stands in the place of a process.
const OF_CGROUP: libc::c_ulong = 1 << 2;
/// `PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING`.
const TIMES: u64 = 1 | 1 << 1;

/// An event that counts.
#[derive(Debug)]
pub struct Perf {
    /// The event on a live machine.
    event: Option<OwnedFd>,
    /// The file on a machine in memory or in a recording.
    path: String,
    text: Vec<u8>,
}

/// A count, and for how long the event was wanted and counted, in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// What was counted.
    pub value: u64,
    /// For how long it was to count.
    pub enabled: u64,
    /// For how much of that it had a counter.
    pub running: u64,
}

/// `struct perf_event_attr` as its first version had it, which every kernel takes: `PERF_ATTR_SIZE_VER0`, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

impl Host {
    /// Opens event `config` of the PMU of type `kind`, counted on `cpu` for whoever runs there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn perf(&self, kind: u32, config: u64, cpu: u32) -> Result<Perf, Errno> {
        let path = || format!("perf/{kind}/{config}@{cpu}");
        let mut perf = Perf { event: None, path: String::new(), text: Vec::new() };
        match &self.source {
            // What may not be opened is tried again and again, so that a failure here allocates nothing.
            Source::Live(_) => perf.event = Some(open(kind, config, cpu, 0, None)?),
            Source::Memory(memory) => {
                perf.path = path();
                memory.borrow().read(&perf.path, &mut perf.text, FILE_MAX)?;
            }
            Source::Recording(_, recorder) => {
                perf.path = path();
                let event = open(kind, config, cpu, 0, None);
                perf.event = Some(event.inspect_err(|errno| recorder.borrow_mut().file(&perf.path, Err(*errno)))?);
            }
        }
        Ok(perf)
    }

    /// Opens event `config` of the PMU of type `kind` with its times, counted on `cpu` for whoever runs there, or for the
    /// processes of a cgroup and of those inside it.
    ///
    /// # Errors
    /// What the kernel said; EBADF where the directory is not of a hierarchy that has perf events.
    pub fn perf_timed(&self, kind: u32, config: u64, cpu: u32, cgroup: Option<&str>) -> Result<Perf, Errno> {
        let path = || match cgroup {
            None => format!("perf/{kind}/{config}@{cpu}"),
            Some(cgroup) => format!("perf/{kind}/{config}@{cpu}.in/{cgroup}/count"),
        };
        let mut perf = Perf { event: None, path: String::new(), text: Vec::new() };
        let open = |live: &Live| {
            let directory = cgroup.map(|cgroup| live.open(cgroup)).transpose()?;
            open(kind, config, cpu, TIMES, directory.as_ref())
        };
        match &self.source {
            Source::Live(live) => perf.event = Some(open(live)?),
            Source::Memory(memory) => {
                perf.path = path();
                memory.borrow().read(&perf.path, &mut perf.text, FILE_MAX)?;
            }
            Source::Recording(live, recorder) => {
                perf.path = path();
                let event = open(live);
                perf.event = Some(event.inspect_err(|errno| recorder.borrow_mut().file(&perf.path, Err(*errno)))?);
            }
        }
        Ok(perf)
    }

    /// What an event has counted since it was opened.
    ///
    /// # Errors
    /// What the kernel said; EINVAL where a machine in memory holds no number.
    pub fn perf_count(&self, perf: &mut Perf) -> Result<u64, Errno> {
        self.perf_numbers::<1>(perf).map(|[count]| count)
    }

    /// What an event that was opened with its times has counted since.
    ///
    /// # Errors
    /// See [`Host::perf_count`].
    pub fn perf_timed_count(&self, perf: &mut Perf) -> Result<Count, Errno> {
        self.perf_numbers::<3>(perf).map(|[value, enabled, running]| Count { value, enabled, running })
    }

    fn perf_numbers<const N: usize>(&self, perf: &mut Perf) -> Result<[u64; N], Errno> {
        perf.text.clear();
        match &self.source {
            Source::Live(_) => perf.numbers(),
            Source::Memory(memory) => {
                memory.borrow().read(&perf.path, &mut perf.text, FILE_MAX)?;
                let text = std::str::from_utf8(&perf.text).map_err(|_| Errno::INVAL)?;
                let mut words = text.split_ascii_whitespace();
                // Without times it has counted all the time, however long that was.
                let mut numbers = [0; N];
                for (at, number) in numbers.iter_mut().enumerate() {
                    let word = words.next().or_else(|| (at > 0).then_some("0")).ok_or(Errno::INVAL)?;
                    *number = word.parse().map_err(|_| Errno::INVAL)?;
                }
                if words.next().is_some() { Err(Errno::INVAL) } else { Ok(numbers) }
            }
            Source::Recording(_, recorder) => {
                let numbers = perf.numbers();
                let text = numbers.map(|numbers: [u64; N]| {
                    let words = numbers.map(|number| number.to_string());
                    words.join(" ") + "\n"
                });
                recorder.borrow_mut().file(&perf.path, text.as_ref().map(String::as_bytes).map_err(|errno| *errno));
                numbers
            }
        }
    }
}

impl Perf {
    fn numbers<const N: usize>(&self) -> Result<[u64; N], Errno> {
        let mut bytes = [0; 24];
        let bytes = bytes.get_mut(..8 * N).ok_or(Errno::INVAL)?;
        // The end of the file: the event has been put into an error state.
        if read(self.event.as_ref().ok_or(Errno::BADF)?, &mut *bytes)? != bytes.len() {
            return Err(Errno::NODEV);
        }
        let mut numbers = [0; N];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = bytes.try_into().map_or(0, u64::from_ne_bytes);
        }
        Ok(numbers)
    }
}

/// Neither libc nor rustix has a function for this system call.
#[allow(unsafe_code)]
fn open(kind: u32, config: u64, cpu: u32, read_format: u64, cgroup: Option<&OwnedFd>) -> Result<OwnedFd, Errno> {
    let size = u32::try_from(size_of::<Attributes>()).map_err(|_| Errno::INVAL)?;
    let cpu = libc::c_int::try_from(cpu).map_err(|_| Errno::INVAL)?;
    let mut attributes = Attributes { kind, size, config, read_format, ..Attributes::default() };
    let (anybody, no_group): (libc::pid_t, libc::c_int) = (-1, -1);
    let (whom, flags) = match cgroup {
        None => (anybody, CLOSE_ON_EXEC),
        Some(directory) => (directory.as_raw_fd(), CLOSE_ON_EXEC | OF_CGROUP),
    };
    // SAFETY: `attributes` is a live `perf_event_attr` of the `size` it states; the kernel reads that many bytes of it,
    // writes at most its `size` field, and keeps no pointer to it. `whom` is no process or an open file of ours.
    let opened = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw mut attributes, whom, cpu, no_group, flags) };
    match libc::c_int::try_from(opened) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
        Ok(file) if file >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
        _ => Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostRoots;
    use crate::host::is_denied;
    use crate::host::memory::Memory;
    use crate::host::record::Recorder;

    #[test]
    fn the_attributes_are_what_every_kernel_takes() {
        assert_eq!(size_of::<Attributes>(), 64);
        assert_eq!(std::mem::offset_of!(Attributes, config), 8);
        assert_eq!(std::mem::offset_of!(Attributes, flags), 40);
    }

    /// `PERF_TYPE_SOFTWARE` with `PERF_COUNT_SW_CPU_CLOCK`: nanoseconds, on any machine.
    #[test]
    fn a_clock_of_the_live_machine_counts() {
        let host = Host::live(&HostRoots::default()).unwrap();
        let mut perf = match host.perf(1, 0, 0) {
            Ok(perf) => perf,
            Err(errno) if is_denied(errno) || errno == Errno::NOSYS => {
                println!("skipped: perf_event_open: {errno}");
                return;
            }
            Err(errno) => panic!("{errno}"),
        };
        let first = host.perf_count(&mut perf).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = host.perf_count(&mut perf).unwrap();
        assert!((10_000_000..10_000_000_000).contains(&(second - first)), "{first} {second}");
        println!("counted {} ns in 20 ms", second - first);
        assert_eq!(host.perf(0xffff_fff0, 0, 0).err(), Some(Errno::NOENT), "no such PMU");

        let recording = Host::recording(&HostRoots::default(), Recorder::new(false)).unwrap();
        let mut perf = recording.perf(1, 0, 0).unwrap();
        let count = recording.perf_count(&mut perf).unwrap();
        let mut text = String::new();
        recording.with_recorder(|recorder| text = recorder.take());
        assert_eq!(text, format!("-- file perf/1/0@0 --\n{count}\n"), "a replay reads what was read");
    }

    /// The CPU clock of our own cgroup, on whichever CPU this runs; on a host where it has no perf events this is skipped.
    #[test]
    fn a_clock_of_a_cgroup_counts_what_runs_in_it() {
        let host = Host::live(&HostRoots::default()).unwrap();
        let whole = ["sys/fs/cgroup/perf_event", "sys/fs/cgroup/unified", "sys/fs/cgroup"];
        let mut said = Vec::new();
        for root in whole {
            let mut perfs = match (0..64).map(|cpu| host.perf_timed(1, 0, cpu, Some(root))).collect::<Vec<_>>() {
                all if all[0].is_ok() => all.into_iter().flatten().collect::<Vec<_>>(),
                mut all => {
                    said.push(all.swap_remove(0).err());
                    continue;
                }
            };
            let mut sum = || {
                let counts = perfs.iter_mut().map(|perf| host.perf_timed_count(perf).unwrap());
                counts.fold(Count::default(), |sum, one| Count {
                    value: sum.value + one.value,
                    enabled: sum.enabled + one.enabled,
                    running: sum.running + one.running,
                })
            };
            let first = sum();
            let start = crate::clock::now().boot;
            while crate::clock::now().boot.saturating_sub(start) < std::time::Duration::from_millis(20) {}
            let second = sum();
            assert!(second.value - first.value > 5_000_000, "{first:?} {second:?}");
            assert!(second.enabled - first.enabled >= second.running - first.running, "{first:?} {second:?}");
            println!("{root}: {} ns counted", second.value - first.value);
            return;
        }
        println!("skipped: perf_event_open of a cgroup: {said:?}");
    }

    #[test]
    fn a_cgroup_of_a_machine_in_memory_counts_in_a_file() {
        let mut memory = Memory::default();
        memory.set_file("perf/0/0@1.in/sys/fs/cgroup/a/count", b"12 100 50\n").unwrap();
        memory.set_file("perf/0/0@1.in/sys/fs/cgroup/a/b/count", b"7\n").unwrap();
        memory.set_file("perf/0/0@1", b"20 x 1\n").unwrap();
        let host = Host::memory(memory);
        let count = |cgroup: Option<&str>| {
            let mut perf = host.perf_timed(0, 0, 1, cgroup)?;
            host.perf_timed_count(&mut perf)
        };
        assert_eq!(count(Some("sys/fs/cgroup/a")), Ok(Count { value: 12, enabled: 100, running: 50 }));
        assert_eq!(count(Some("sys/fs/cgroup/a/b")), Ok(Count { value: 7, enabled: 0, running: 0 }));
        assert_eq!(count(Some("sys/fs/cgroup/c")), Err(Errno::NOENT));
        assert_eq!(count(None), Err(Errno::INVAL));
    }

    #[test]
    fn a_machine_in_memory_counts_in_a_file() {
        let mut memory = Memory::default();
        memory.set_file("perf/23/2@0", b"77\n").unwrap();
        memory.set_file("perf/23/3@0", b"x\n").unwrap();
        memory.set_error("perf/23/4@0", Some(Errno::ACCESS)).unwrap();
        let host = Host::memory(memory);
        assert_eq!(host.perf(23, 1, 0).err(), Some(Errno::NOENT));
        assert_eq!(host.perf(23, 4, 0).err(), Some(Errno::ACCESS));
        let mut perf = host.perf(23, 2, 0).unwrap();
        assert_eq!(host.perf_count(&mut perf), Ok(77));
        host.with_memory(|memory| memory.set_file("perf/23/2@0", b"78\n").unwrap());
        assert_eq!(host.perf_count(&mut perf), Ok(78));
        let mut none = host.perf(23, 3, 0).unwrap();
        assert_eq!(host.perf_count(&mut none), Err(Errno::INVAL));
    }
}
