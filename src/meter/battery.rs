//! Batteries, which measure the whole machine while it runs on them: `/sys/class/power_supply/*`.
//!
//! `power_now` is in µW, or `current_now` (µA) × `voltage_now` (µV) where there is none; their sign is the direction of
//! the current, which drivers do not agree on (macsmc is negative while it discharges), so the direction is taken from
//! `status`. A reading is power only while no mains or USB supply is `online` and a battery is `Discharging`; otherwise
//! the zone is inactive. Of two batteries one discharges at a time and the other one says so (`Not charging`, `Unknown`,
//! `Full`): it then gives 0 W, so that the sum of the supplies is the machine. Firmware refreshes its values every few
//! seconds. Batteries of mice and phones (`scope` Device) are no supply of the machine. All attributes are readable by
//! everyone. See the kernel's Documentation/ABI/testing/sysfs-class-power.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::{Errno, Host, Kept};
use crate::meter::sysfs::{self, forbidden, number, parse, parse_signed, plausible, text, why};
use crate::meter::{Backend, Domain, Found, Meter, Reading, Value, Why, Zone};
use crate::unit::Microwatts;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "battery", discover, fingerprint };

const CLASS: &str = "sys/class/power_supply";
/// More than any laptop draws from one battery: USB power delivery ends at 240 W.
const POWER_MAX: Microwatts = Microwatts(300_000_000);

/// The batteries of the machine, read together: what one says depends on the others.
struct Supplies {
    zones: Vec<Arc<Zone>>,
    batteries: Vec<Battery>,
    /// `online` of each supply that is no battery.
    mains: Vec<Kept>,
    buffer: Vec<u8>,
}

struct Battery {
    /// What it said at the last reading.
    state: Result<Status, Why>,
    status: Kept,
    power: Kept,
    current: Kept,
    voltage: Kept,
}

/// What a battery does, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Discharging,
    Charging,
    /// `Full`, `Not charging`, `Unknown`.
    Idle,
}

/// What the machine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    Batteries,
    /// On mains, or from a battery to a battery: what the batteries say is not what the machine draws.
    Other,
    /// A supply cannot be read.
    Unknown(Why),
}

fn discover(host: &Host, _: &Config) -> Found {
    let mut names = Vec::new();
    let _ = host.list(CLASS, |name, _, _| names.push(String::from_utf8_lossy(name).into_owned()));
    names.sort();
    let mut lacks = Vec::new();
    let mut found = Supplies { zones: Vec::new(), batteries: Vec::new(), mains: Vec::new(), buffer: Vec::new() };
    for name in names {
        let dir = format!("{CLASS}/{name}");
        if text(host, &format!("{dir}/scope")).is_some_and(|scope| scope == "Device") {
            continue;
        }
        match text(host, &format!("{dir}/type")).as_deref() {
            Some("Battery") => match lack(host, &dir) {
                None => found.add(host, &name, &dir),
                Some(lack) => lacks.push(format!("; {name} {lack}")),
            },
            Some("UPS") | None => {}
            // Mains, USB and its kinds, Wireless.
            Some(_) if exists(host, &format!("{dir}/online")) => found.mains.push(Kept::new(format!("{dir}/online"))),
            Some(_) => {}
        }
    }
    if found.zones.is_empty() {
        let absent = || Found::Absent(format!("no battery with a power under {}{}", host.shown(CLASS), lacks.concat()));
        return forbidden(host, CLASS).unwrap_or_else(absent);
    }
    Found::Meters(vec![Box::new(found)])
}

/// Changes when a supply comes, goes or is registered anew.
fn fingerprint(host: &Host) -> u64 {
    sysfs::fingerprint(host, CLASS)
}

/// Whether a file is there, readable now or not.
fn exists(host: &Host, path: &str) -> bool {
    host.read(path, &mut Vec::new()) != Err(Errno::NOENT)
}

/// What a battery lacks to be read; `None`: it is in its bay and says what it gives.
fn lack(host: &Host, dir: &str) -> Option<&'static str> {
    let has = |name: &str| exists(host, &format!("{dir}/{name}"));
    if number(host, &format!("{dir}/present")) == Some(0) {
        Some("is not in its bay")
    } else if !has("status") {
        Some("has no status")
    } else if has("power_now") || (has("current_now") && has("voltage_now")) {
        None
    } else {
        Some("has no power_now, nor current_now with voltage_now")
    }
}

impl Supplies {
    fn add(&mut self, host: &Host, name: &str, dir: &str) {
        let file = |name: &str| Kept::new(format!("{dir}/{name}"));
        self.zones.push(Arc::new(Zone {
            name: name.to_owned(),
            power_max: POWER_MAX,
            path: host.shown(dir),
            why: "while it discharges and nothing else feeds the machine".to_owned(),
            ..Zone::new("battery", &format!("battery:{name}"), Domain::Battery)
        }));
        self.batteries.push(Battery {
            state: Err(Why::Pending),
            status: file("status"),
            power: file("power_now"),
            current: file("current_now"),
            voltage: file("voltage_now"),
        });
    }

    /// What feeds the machine. Asks every battery what it does.
    fn supply(&mut self, host: &Host) -> Supply {
        let (mut discharging, mut charging) = (false, false);
        for battery in &mut self.batteries {
            battery.state = battery.status(host, &mut self.buffer);
            discharging |= battery.state == Ok(Status::Discharging);
            charging |= battery.state == Ok(Status::Charging);
        }
        let mut supply = if discharging && !charging { Supply::Batteries } else { Supply::Other };
        for online in &mut self.mains {
            let unknown = match host.reread(online, &mut self.buffer).map(|()| parse(&self.buffer)) {
                Ok(Some(0)) => continue,
                // 1 is fixed and 2 is programmable.
                Ok(Some(_)) => return Supply::Other,
                Ok(None) => Why::Malformed,
                Err(errno) => why(errno),
            };
            if supply == Supply::Batteries {
                supply = Supply::Unknown(unknown);
            }
        }
        supply
    }
}

impl Meter for Supplies {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        let supply = self.supply(host);
        for (battery, out) in self.batteries.iter_mut().zip(out.iter_mut()) {
            let value = match (supply, battery.state) {
                (_, Err(why)) | (Supply::Unknown(why), _) => Value::Missing(why),
                (Supply::Other, _) => Value::Missing(Why::Inactive),
                (Supply::Batteries, Ok(Status::Discharging)) => battery.power(host, &mut self.buffer),
                (Supply::Batteries, Ok(_)) => Value::Power(Microwatts(0)),
            };
            *out = Reading { at: now, value };
        }
        // A machine that runs on its batteries draws something: firmware has not got a number yet.
        if !out.iter().any(|reading| matches!(reading.value, Value::Power(power) if power.0 > 0)) {
            let discharging = |(battery, _): &(&Battery, &mut Reading)| battery.state == Ok(Status::Discharging);
            for (_, reading) in self.batteries.iter().zip(out).filter(discharging) {
                if reading.value == Value::Power(Microwatts(0)) {
                    reading.value = Value::Missing(Why::Implausible);
                }
            }
        }
    }
}

impl Battery {
    fn status(&mut self, host: &Host, buffer: &mut Vec<u8>) -> Result<Status, Why> {
        host.reread(&mut self.status, buffer).map_err(why)?;
        status(buffer).ok_or(Why::Malformed)
    }

    /// What it gives: its power, or its current times its voltage.
    fn power(&mut self, host: &Host, buffer: &mut Vec<u8>) -> Value {
        let errno = match host.reread(&mut self.power, buffer) {
            Ok(()) => return magnitude(buffer).map_or(Value::Missing(Why::Malformed), power),
            Err(errno) => errno,
        };
        if !matches!(errno, Errno::NOENT | Errno::NODEV | Errno::NODATA | Errno::NXIO) {
            return Value::Missing(why(errno));
        }
        let mut number = |file: &mut Kept| match host.reread(file, buffer) {
            Ok(()) => magnitude(buffer).ok_or(Why::Malformed),
            Err(errno) => Err(why(errno)),
        };
        match (number(&mut self.current), number(&mut self.voltage)) {
            (Ok(current), Ok(voltage)) => product(current, voltage),
            (Err(why), _) | (_, Err(why)) => Value::Missing(why),
        }
    }
}

/// What a battery does; `None` for a word that sysfs does not have.
fn status(bytes: &[u8]) -> Option<Status> {
    match bytes.trim_ascii() {
        b"Discharging" => Some(Status::Discharging),
        b"Charging" => Some(Status::Charging),
        b"Full" | b"Not charging" | b"Unknown" => Some(Status::Idle),
        _ => None,
    }
}

/// A number without its sign.
fn magnitude(bytes: &[u8]) -> Option<u64> {
    parse_signed(bytes).map(i64::unsigned_abs).or_else(|| parse(bytes))
}

/// A power in µW, unless it says "unknown". Where a driver scales all ones in 32 bits, -1 or -1000 comes out; a machine
/// never draws as little as a milliwatt.
fn power(microwatts: u64) -> Value {
    if matches!(microwatts, 1 | 1_000) { Value::Missing(Why::Implausible) } else { plausible(microwatts) }
}

/// µA × µV is 10⁻¹² W.
fn product(microamperes: u64, microvolts: u64) -> Value {
    let unknown = |number: u64| matches!(plausible(number), Value::Missing(_)) || matches!(number, 1 | 1_000);
    if unknown(microamperes) || unknown(microvolts) {
        return Value::Missing(Why::Implausible);
    }
    let microwatts = u128::from(microamperes) * u128::from(microvolts) / 1_000_000;
    u64::try_from(microwatts).map_or(Value::Missing(Why::Implausible), power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_battery_lacks_is_said() {
        let mut memory = crate::host::memory::Memory::default();
        let mut file = |name: &str, text: &str| memory.set_file(&format!("{CLASS}/{name}"), text.as_bytes()).unwrap();
        file("BAT0/type", "Battery\n");
        file("BAT0/power_now", "9000000\n");
        file("BAT1/type", "Battery\n");
        file("BAT1/status", "Full\n");
        file("BAT2/type", "Battery\n");
        file("BAT2/present", "0\n");
        let Found::Absent(what) = discover(&Host::memory(memory), &Config::default()) else { panic!("found") };
        assert_eq!(
            what,
            "no battery with a power under /sys/class/power_supply; BAT0 has no status; BAT1 has no power_now, nor \
             current_now with voltage_now; BAT2 is not in its bay"
        );
    }

    #[test]
    fn the_sign_says_nothing() {
        assert_eq!(magnitude(b"-4077000\n"), Some(4_077_000), "macsmc");
        assert_eq!(magnitude(b"18446744073709551615\n"), Some(u64::MAX));
        assert_eq!(magnitude(b"1.5\n"), None);
        assert_eq!(magnitude(b""), None);
    }

    #[test]
    fn unknown_is_no_power() {
        for unknown in [1, 1_000, 0xFFFF_FFFF, 4_294_967_295_000, u64::MAX] {
            assert_eq!(power(unknown), Value::Missing(Why::Implausible), "{unknown}");
            assert_eq!(product(unknown, 12_000_000), Value::Missing(Why::Implausible), "{unknown}");
        }
        assert_eq!(power(0), Value::Power(Microwatts(0)));
        assert_eq!(product(1_500_000, 12_000_000), Value::Power(Microwatts(18_000_000)), "1.5 A at 12 V");
        assert_eq!(product(u64::MAX >> 2, u64::MAX >> 2), Value::Missing(Why::Implausible));
    }

    #[test]
    fn words_of_status() {
        assert_eq!(status(b"Discharging\n"), Some(Status::Discharging));
        assert_eq!(status(b"Not charging\n"), Some(Status::Idle));
        assert_eq!(status(b"Empty\n"), None);
        assert_eq!(status(b""), None);
    }
}
