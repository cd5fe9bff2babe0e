//! `/proc/stat`: two readings in any order never give more busy time than the CPUs had.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use wattribute::activity::cpu::CpuTimes;

fuzz_target!(|input: (&[u8], &[u8], u32)| {
    let (first, second, millis) = input;
    let (Some(before), Some(after)) = (CpuTimes::parse(first), CpuTimes::parse(second)) else { return };
    for (before, after) in [(before, after), (after, before), (before, before)] {
        let (busy, capacity) = after.busy_since(&before, Duration::from_millis(millis.into()));
        assert!(busy <= capacity, "{busy:?} of {capacity:?}");
    }
});
