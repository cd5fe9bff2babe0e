//! `/proc/cpuinfo`: a processor with its generation, or nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::meter::processor::{generation, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Some(processor) = parse(bytes) {
        assert!(processor.cores >= 1 && processor.cores <= processor.threads, "cores have threads");
        assert!(processor.sockets >= 1, "a processor is in a package");
        let shape = generation(&processor).shape;
        assert!(shape.is_sorted(), "more load draws more");
    }
});
