//! Any bytes as the files of docker and podman: what is taken is a whole id, and names of bounded length.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::enrich::runtime::{docker, podman};

fuzz_target!(|bytes: &[u8]| {
    for found in docker::parse(bytes).into_iter().chain(podman::parse(bytes).unwrap_or_default()) {
        assert!(found.id.len() == 64 && found.id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert!(found.name.is_some() || found.image.is_some());
        for text in [found.name, found.image].into_iter().flatten() {
            assert!(!text.is_empty() && text.len() <= 1024 && !text.contains(char::is_control), "{text:?}");
        }
    }
});
