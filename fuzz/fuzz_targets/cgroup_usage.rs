//! `cpu.stat` and `cpuacct.usage`: a whole number or nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::activity::cgroup::{parse_cpu_stat, parse_cpuacct};

fuzz_target!(|bytes: &[u8]| {
    let digits = bytes.iter().any(u8::is_ascii_digit);
    assert!(digits || (parse_cpu_stat(bytes).is_none() && parse_cpuacct(bytes).is_none()), "a number out of nothing");
    if let Some(time) = parse_cpuacct(bytes) {
        assert_eq!(parse_cpuacct(format!("{}\n", time.0).as_bytes()), Some(time));
    }
    if let Some(time) = parse_cpu_stat(bytes).filter(|time| time.0 < u64::MAX) {
        assert_eq!(parse_cpu_stat(format!("usage_usec {}\n", time.micros()).as_bytes()), Some(time));
    }
});
