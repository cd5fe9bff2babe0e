//! `cgroup.procs`: one entry a line, and never pid 0.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::activity::cgroup::pids;

fuzz_target!(|bytes: &[u8]| {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    let found: Vec<_> = pids(bytes).collect();
    assert_eq!(found.len(), lines);
    assert!(!found.contains(&Some(0)), "pid 0 is a process of another namespace");
});
