//! What the agent gives up where it could reach the processes of its host: a container with the host's pid namespace runs
//! it as uid 0, and uid 0 may signal every other process of uid 0, without any capability.
//!
//! A seccomp filter (seccomp(2)) on this thread, and on all that it will start, answers EPERM to system calls that touch
//! another process: kill and its kin, ptrace, `process_vm_*`, and those on pidfds. Signals to itself stay possible, for
//! abort(3) is one. On machines other than x86-64 and ARM64 nothing is given up.

/// Gives it up.
///
/// # Errors
/// What the kernel said.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn enter() -> Result<(), String> {
    filter().and_then(|program| seccompiler::apply_filter(&program)).map_err(|error| error.to_string())
}

/// Nothing to give up.
///
/// # Errors
/// None.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn enter() -> Result<(), String> {
    Ok(())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter() -> Result<seccompiler::BpfProgram, seccompiler::Error> {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

    use self::call::{ALWAYS, BY_PID};

    let own = u64::from(std::process::id());
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own);
    let other = other.and_then(|other| SeccompRule::new(vec![other])).map_err(seccompiler::Error::Backend)?;
    let rules = ALWAYS.iter().map(|number| (*number, Vec::new()));
    let rules = rules.chain(BY_PID.iter().map(|number| (*number, vec![other.clone()]))).collect();
    let arch = std::env::consts::ARCH.try_into().map_err(seccompiler::Error::Backend)?;
    let refuse = SeccompAction::Errno(u32::try_from(rustix::io::Errno::PERM.raw_os_error()).unwrap_or(1));
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(seccompiler::Error::Backend)?;
    filter.try_into().map_err(seccompiler::Error::Backend)
}

/// Numbers of system calls, from the kernel's tables.
#[cfg(target_arch = "x86_64")]
mod call {
    /// ptrace, tkill, `process_vm_readv`, `process_vm_writev`, kcmp, `pidfd_send_signal`, `pidfd_getfd`, `process_madvise`.
    pub const ALWAYS: [i64; 8] = [101, 200, 310, 311, 312, 424, 438, 440];
    /// kill, `rt_sigqueueinfo`, tgkill, `rt_tgsigqueueinfo`: the first argument is a process.
    pub const BY_PID: [i64; 4] = [62, 129, 234, 297];
}
#[cfg(target_arch = "aarch64")]
mod call {
    /// ptrace, tkill, `process_vm_readv`, `process_vm_writev`, kcmp, `pidfd_send_signal`, `pidfd_getfd`, `process_madvise`.
    pub const ALWAYS: [i64; 8] = [117, 130, 270, 271, 272, 424, 438, 440];
    /// kill, `rt_sigqueueinfo`, tgkill, `rt_tgsigqueueinfo`: the first argument is a process.
    pub const BY_PID: [i64; 4] = [129, 138, 131, 240];
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use rustix::io::Errno;
    use rustix::process::{getpid, getppid, test_kill_process};

    #[test]
    fn other_processes_are_out_of_reach_and_the_rest_is_not() {
        let parent = getppid().unwrap();
        assert_eq!(test_kill_process(parent), Ok(()), "else this test shows nothing");
        // Only this thread is bound by its filter.
        let bound = std::thread::spawn(move || {
            super::enter().unwrap();
            let inherited = std::thread::spawn(move || test_kill_process(parent)).join().unwrap();
            let pid = rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty());
            let signal = pid.and_then(|pid| rustix::process::pidfd_send_signal(&pid, rustix::process::Signal::CONT));
            let file = crate::host::read_file(std::path::Path::new("/etc/passwd"), 1 << 20).is_ok();
            (test_kill_process(parent), inherited, signal, test_kill_process(getpid()), file)
        });
        let refused = Err(Errno::PERM);
        assert_eq!(bound.join().unwrap(), (refused, refused, refused, Ok(()), true));
        assert_eq!(test_kill_process(parent), Ok(()), "other threads are free");
    }
}
