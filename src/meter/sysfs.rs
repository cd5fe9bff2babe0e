//! Numbers in sysfs attributes, and what counts as one: the common part of all backends that read files.
//!
//! A counter is decimal digits and a newline. A gauge may also be negative in the file, which is no power that anything
//! draws, or hold a value that firmware uses for "unknown": all ones in 32 bits, in whatever unit it is scaled to
//! (4,294,967,295 µW, or 4,294,967,295,000 µW, which the kernel's ACPI power meter used to print). Both are refused.
//! See the kernel's Documentation/hwmon/sysfs-interface.rst.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::host::{Errno, Host, is_denied};
use crate::meter::{Found, Value, Why};
use crate::unit::Microwatts;

/// "Unknown" in 32 bits.
const UNKNOWN: u64 = 0xFFFF_FFFF;

/// The number in a sysfs attribute: decimal digits and a newline. A copy of one may be padded with NUL to a page.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<u64> {
    unpadded(bytes)?.parse().ok()
}

/// The same with a sign.
#[must_use]
pub fn parse_signed(bytes: &[u8]) -> Option<i64> {
    unpadded(bytes)?.parse().ok()
}

fn unpadded(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Some(std::str::from_utf8(&bytes[..end]).ok()?.trim_ascii())
}

/// What a gauge in µW says.
#[must_use]
pub fn power(bytes: &[u8]) -> Value {
    match (parse(bytes), parse_signed(bytes)) {
        (Some(microwatts), _) => plausible(microwatts),
        (None, Some(_)) => Value::Missing(Why::Implausible),
        (None, None) => Value::Missing(Why::Malformed),
    }
}

/// A power in µW, unless it is what firmware says for "unknown".
#[must_use]
pub fn plausible(microwatts: u64) -> Value {
    let unknown = [1, 1_000, 1_000_000].iter().any(|scale| microwatts == UNKNOWN * scale);
    if unknown || microwatts > i64::MAX.unsigned_abs() {
        return Value::Missing(Why::Implausible);
    }
    Value::Power(Microwatts(microwatts))
}

/// What a failed read means for a meter.
#[must_use]
pub fn why(errno: Errno) -> Why {
    match errno {
        _ if is_denied(errno) => Why::Denied,
        Errno::AGAIN | Errno::BUSY | Errno::INTR => Why::Busy,
        _ => Why::Gone,
    }
}

/// What to say of a class in which nothing was found: that it may not be listed; `None` where it may, or is not there.
#[must_use]
pub fn forbidden(host: &Host, class: &str) -> Option<Found> {
    host.list(class, |_, _, _| {}).err().filter(|errno| is_denied(*errno))?;
    let advice = "the directory cannot be listed: run as root, or grant CAP_DAC_READ_SEARCH (systemd: \
                  AmbientCapabilities=CAP_DAC_READ_SEARCH)"
        .to_owned();
    Some(Found::Denied { path: host.shown(class), advice, meters: Vec::new() })
}

/// The text of an attribute without white space around it; `None` if it cannot be read or is empty.
#[must_use]
pub fn text(host: &Host, path: &str) -> Option<String> {
    let mut buffer = Vec::new();
    host.read(path, &mut buffer).ok()?;
    // Some drivers pad with NUL.
    let text = String::from_utf8_lossy(&buffer);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
    (!text.is_empty()).then_some(text)
}

/// The number in an attribute; `None` if it cannot be read or is none.
#[must_use]
pub fn number(host: &Host, path: &str) -> Option<u64> {
    text(host, path)?.parse().ok()
}

/// A number that changes when an entry of a directory comes, goes or is registered anew. Order does not matter, so that
/// no list has to be kept.
#[must_use]
pub fn fingerprint(host: &Host, dir: &str) -> u64 {
    let mut sum = 0_u64;
    let _ = host.list(dir, |name, inode, _| {
        let mut hasher = DefaultHasher::new();
        (name, inode).hash(&mut hasher);
        sum = sum.wrapping_add(hasher.finish());
    });
    sum
}

/// The last component of where a link points: the name of the device behind `…/device`.
#[must_use]
pub fn link_name(host: &Host, path: &str) -> Option<String> {
    let target = host.link(path).ok()?;
    let name = target.trim_end_matches('/').rsplit('/').next()?.to_owned();
    (!name.is_empty() && name != "." && name != "..").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_or_nothing() {
        assert_eq!(parse(b"123\n"), Some(123));
        assert_eq!(parse(b"123\n\0\0\0"), Some(123));
        assert_eq!(parse(b"\0\0"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"12a\n"), None);
        assert_eq!(parse(b"-1\n"), None);
        assert_eq!(parse(b"99999999999999999999999\n"), None);
        assert_eq!(parse(&[0xff]), None);
    }

    #[test]
    fn what_may_not_be_listed_is_not_absent() {
        use crate::host::memory::Memory;
        let config = crate::config::Config::default();
        for (class, backend) in [
            ("sys/class/powercap", crate::meter::rapl::BACKEND),
            ("sys/class/hwmon", crate::meter::hwmon::BACKEND),
            ("sys/class/power_supply", crate::meter::battery::BACKEND),
        ] {
            let mut memory = Memory::default();
            memory.set_dir(class).unwrap();
            assert!(matches!((backend.discover)(&Host::memory(memory), &config), Found::Absent(_)), "{class}");
            let mut memory = Memory::default();
            memory.set_error(class, Some(Errno::ACCESS)).unwrap();
            match (backend.discover)(&Host::memory(memory), &config) {
                Found::Denied { path, advice, meters } => {
                    assert!(path == format!("/{class}") && advice.contains("CAP_DAC_READ_SEARCH"), "{path} {advice}");
                    assert!(meters.is_empty());
                }
                Found::Absent(what) => panic!("{class}: {what}"),
                Found::Meters(_) => panic!("{class}: found"),
            }
        }
    }

    #[test]
    fn what_firmware_says_for_unknown_is_no_power() {
        let refused = Value::Missing(Why::Implausible);
        for text in ["4294967295\n", "4294967295000\n", "4294967295000000\n", "-4077000\n", "18446744073709551615\n"] {
            assert_eq!(power(text.as_bytes()), refused, "{text}");
        }
        assert_eq!(power(b"0\n"), Value::Power(Microwatts(0)));
        assert_eq!(power(b"300000000\n"), Value::Power(Microwatts(300_000_000)));
        assert_eq!(power(b"nan\n"), Value::Missing(Why::Malformed));
    }
}
