//! `/proc/PID/stat`, and the name that is made of its comm.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::activity::process::{Stat, identity};

fuzz_target!(|bytes: &[u8]| {
    if let Some(stat) = Stat::parse(bytes) {
        assert!(stat.comm.len() < bytes.len());
        let _ = stat.is_kernel_thread(2, false);
    }
    let (comm, command_line) = bytes.split_at(bytes.len() / 2);
    let found = identity(1, 2, comm, command_line);
    let texts = found.attributes.iter().map(|(_, text)| text).chain([&found.name]);
    for text in texts {
        assert!(!text.is_empty() && text.chars().count() <= 256, "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?} is not safe to show");
    }
});
