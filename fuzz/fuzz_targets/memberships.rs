//! `/proc/PID/cgroup`: every path that comes out can be walked.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::activity::cgroup::memberships;

fuzz_target!(|text: &str| {
    for line in memberships(text) {
        assert!(line.path.is_empty() || line.path.starts_with('/'), "{line:?}");
        assert!(!line.path.ends_with('/') && !line.path.starts_with("/.."), "{line:?}");
        assert!(!line.controllers.contains(':'), "{line:?}");
    }
});
