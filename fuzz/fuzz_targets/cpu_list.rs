//! A list of CPUs (`0-3,8`): a count, or nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::activity::cpu::parse_list;

fuzz_target!(|bytes: &[u8]| {
    if let Some(count) = parse_list(bytes) {
        assert!(count > 0, "a list that names a CPU counts it");
    }
});
