//! A `.machine` file of any bytes: it is read to its end or refused with a line, and what a recorder writes of any
//! content reads back as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::host::record::Recorder;
use wattribute::host::script::{Edit, Item, Script};

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = Script::check(bytes) {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        assert!((1..=lines).contains(&error.line), "{error} in a file of {lines} lines");
    }
    let mut recorder = Recorder::new(true);
    recorder.file("sys/any", Ok(bytes));
    let text = recorder.take();
    let mut script = Script::new(text.as_bytes());
    let first = script.next_item().expect("what is recorded can be read");
    assert_eq!(first, Some(Item::Edit(Edit::File("sys/any".into(), bytes.to_vec()))));
    assert_eq!(script.next_item(), Ok(None));
});
