//! A number in a sysfs attribute: what is read is what stands there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::meter::sysfs::parse;

fuzz_target!(|bytes: &[u8]| {
    if let Some(number) = parse(bytes) {
        let digits: Vec<u8> =
            bytes.trim_ascii().iter().copied().skip_while(|byte| matches!(byte, b'+' | b'0')).collect();
        let expected = if number == 0 { String::new() } else { number.to_string() };
        assert_eq!(digits, expected.as_bytes());
    }
});
