//! The door to perf events that count for a whole CPU: `perf_event_open(2)` with no process, and its 64-bit count.
//!
//! An event is named as the kernel names it, by the PMU's `type`, a `config` and a CPU; it counts from 0 from the moment
//! at which it is opened. Opening needs `CAP_PERFMON`, or `kernel.perf_event_paranoid` of 0 or less: EACCES or EPERM
//! otherwise, ENOENT for an event and ENODEV for a CPU that is not there. Reading allocates nothing. On a machine in
//! memory the count is the decimal number in the file `perf/<type>/<config>@<cpu>`, and a recorded machine has that
//! file written down.

use std::os::fd::{FromRawFd as _, OwnedFd};

use nix::libc;
use rustix::io::{Errno, read};

use super::{FILE_MAX, Host, Source};

/// `PERF_FLAG_FD_CLOEXEC` of `linux/perf_event.h`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// An event that counts.
#[derive(Debug)]
pub struct Perf {
    /// The event on a live machine.
    event: Option<OwnedFd>,
    /// The file on a machine in memory or in a recording.
    path: String,
    text: Vec<u8>,
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
            Source::Live(_) => perf.event = Some(open(kind, config, cpu)?),
            Source::Memory(memory) => {
                perf.path = path();
                memory.borrow().read(&perf.path, &mut perf.text, FILE_MAX)?;
            }
            Source::Recording(_, recorder) => {
                perf.path = path();
                let event = open(kind, config, cpu);
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
        perf.text.clear();
        match &self.source {
            Source::Live(_) => perf.count(),
            Source::Memory(memory) => {
                memory.borrow().read(&perf.path, &mut perf.text, FILE_MAX)?;
                let text = std::str::from_utf8(&perf.text).map_err(|_| Errno::INVAL)?;
                text.trim_ascii().parse().map_err(|_| Errno::INVAL)
            }
            Source::Recording(_, recorder) => {
                let count = perf.count();
                let text = count.map(|count| format!("{count}\n"));
                recorder.borrow_mut().file(&perf.path, text.as_ref().map(String::as_bytes).map_err(|errno| *errno));
                count
            }
        }
    }
}

impl Perf {
    fn count(&self) -> Result<u64, Errno> {
        let mut count = [0; 8];
        match read(self.event.as_ref().ok_or(Errno::BADF)?, &mut count)? {
            8 => Ok(u64::from_ne_bytes(count)),
            // The end of the file: the event has been put into an error state.
            _ => Err(Errno::NODEV),
        }
    }
}

/// Neither libc nor rustix has a function for this system call.
#[allow(unsafe_code)]
fn open(kind: u32, config: u64, cpu: u32) -> Result<OwnedFd, Errno> {
    let size = u32::try_from(size_of::<Attributes>()).map_err(|_| Errno::INVAL)?;
    let cpu = libc::c_int::try_from(cpu).map_err(|_| Errno::INVAL)?;
    let mut attributes = Attributes { kind, size, config, ..Attributes::default() };
    let (anybody, no_group): (libc::pid_t, libc::c_int) = (-1, -1);
    // SAFETY: `attributes` is a live `perf_event_attr` of the `size` it states; the kernel reads that many bytes of it,
    // writes at most its `size` field, and keeps no pointer to it.
    let opened =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw mut attributes, anybody, cpu, no_group, CLOSE_ON_EXEC) };
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
