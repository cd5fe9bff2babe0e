//! Cray's power counters, which the node's controller fills in: `/sys/cray/pm_counters/{energy,cpu_energy,memory_energy,
//! accelN_energy,…}`.
//!
//! Text is `123 J 1449066123456789 us`, older systems leave the time out. Energy is in whole joules, has 64 bits and does
//! not wrap; power is in whole watts and read only where there is no energy beside it. A scanner refreshes all of them at
//! 10 Hz and counts in `freshness`: files between two equal freshnesses belong together, and a freshness that stands
//! still means that the scanner is dead and the numbers are old. `generation` counts changes of the power cap and `startup`
//! restarts; a counter that starts again with it is seen as a reset. `energy` is the whole node with its accelerators,
//! `cpu_energy` all sockets, `cpuN_energy` one of them. The files are readable by everyone. See "User Access to Compute
//! Node Power Data" in HPE's Cray System Management documentation.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::{Host, Kept};
use crate::meter::sysfs::{plausible, why};
use crate::meter::{Backend, Claim, Domain, Found, Meter, Reading, Sensor, Socket, Value, Why, Zone};
use crate::unit::Microwatts;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "cray", discover, fingerprint };

const DIR: &str = "sys/cray/pm_counters";
/// So many readings, and so long, with the same freshness: the scanner is dead. It scans ten times a second.
const STILL: u32 = 10;
const STILL_FOR: Duration = Duration::from_secs(2);
/// 1.5 × what a module of accelerator or memory is assumed to draw at most.
const PART_MAX: Microwatts = Microwatts(1_500_000_000);

/// The counters, read together.
struct Cray {
    zones: Vec<Arc<Zone>>,
    files: Vec<Kept>,
    freshness: Kept,
    /// The freshness of the last reading, when it was first seen, and in how many further readings.
    last: Option<(u64, Timestamp, u32)>,
    buffer: Vec<u8>,
}

fn discover(host: &Host, _: &Config) -> Found {
    let mut names = Vec::new();
    let _ = host.list(DIR, |name, _, _| names.push(String::from_utf8_lossy(name).into_owned()));
    names.sort();
    let has = |name: &str| names.iter().any(|other| other == name);
    let mut cray = Cray {
        zones: Vec::new(),
        files: Vec::new(),
        freshness: Kept::new(format!("{DIR}/freshness")),
        last: None,
        buffer: Vec::new(),
    };
    for name in &names {
        let Some((part, sensor)) = part(name) else { continue };
        let beside = name.strip_suffix("power").map(|start| format!("{start}energy"));
        if beside.is_some_and(|energy| has(&energy)) {
            continue;
        }
        let path = format!("{DIR}/{name}");
        let whole = ["cpu_energy", "cpu_power"].into_iter().find(|whole| has(whole));
        cray.zones.push(Arc::new(zone(name, part, sensor, whole, host.shown(&path))));
        cray.files.push(Kept::new(path));
    }
    if cray.zones.is_empty() {
        return Found::Absent(format!("no counters in {}", host.shown(DIR)));
    }
    Found::Meters(vec![Box::new(cray)])
}

/// The directory is there from the boot on, or never.
fn fingerprint(host: &Host) -> u64 {
    host.inode(DIR).unwrap_or(0)
}

/// What a counter covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Node,
    Sockets,
    Socket(u32),
    Memory,
    Accelerator,
}

/// What a file measures, by its name; `None` for those that measure no power (`power_cap`, `cpu0_temp`).
fn part(name: &str) -> Option<(Part, Sensor)> {
    let (start, sensor) = match name.strip_suffix("energy") {
        Some(start) => (start, Sensor::Counter { tick: 1_000_000 << 32, max: None }),
        None => (name.strip_suffix("power")?, Sensor::Gauge),
    };
    let part = match start {
        "" => Part::Node,
        "cpu_" => Part::Sockets,
        "memory_" => Part::Memory,
        _ => {
            let numbered = |kind: &str| start.strip_prefix(kind)?.strip_suffix('_')?.parse::<u32>().ok();
            match (numbered("accel"), numbered("cpu")) {
                (Some(_), _) => Part::Accelerator,
                (_, Some(package)) => Part::Socket(package),
                _ => return None,
            }
        }
    };
    Some((part, sensor))
}

fn zone(name: &str, part: Part, sensor: Sensor, sockets: Option<&str>, path: String) -> Zone {
    let (domain, power_max) = match part {
        Part::Node => (Domain::Host, None),
        Part::Sockets => (Domain::Package, None),
        Part::Socket(_) => (Domain::Package, Some(PART_MAX)),
        Part::Memory => (Domain::Dram, Some(PART_MAX)),
        Part::Accelerator => (Domain::Gpu, Some(PART_MAX)),
    };
    let mut zone = Zone::new("cray", &format!("cray:{name}"), domain);
    zone.sensor = sensor;
    zone.path = path;
    zone.power_max = power_max.unwrap_or(zone.power_max);
    match part {
        Part::Sockets => "all sockets".clone_into(&mut zone.why),
        Part::Socket(package) => {
            zone.socket = Some(Socket { package, die: None });
            // One socket is a part of all of them, where all have a counter.
            zone.claim = sockets.map(|_| Claim::Inside);
            zone.parent = sockets.map(|whole| format!("cray:{whole}"));
        }
        _ => {}
    }
    zone
}

impl Meter for Cray {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        let before = self.freshness(host);
        let mut after = self.read_all(host, now, out);
        if before != after {
            // The scanner came between. What a second look gives is at most one scan apart.
            after = self.read_all(host, now, out);
        }
        if self.is_still(after, now) {
            for out in out.iter_mut().filter(|out| !matches!(out.value, Value::Missing(_))) {
                out.value = Value::Missing(Why::Stale);
            }
        }
    }
}

impl Cray {
    /// One look at every file; gives the freshness behind it.
    fn read_all(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) -> Option<u64> {
        for ((zone, file), out) in self.zones.iter().zip(&mut self.files).zip(out) {
            let value = match host.reread(file, &mut self.buffer) {
                Ok(()) => value(&self.buffer, zone.sensor),
                Err(errno) => Value::Missing(why(errno)),
            };
            *out = Reading { at: now, value };
        }
        self.freshness(host)
    }

    fn freshness(&mut self, host: &Host) -> Option<u64> {
        host.reread(&mut self.freshness, &mut self.buffer).ok()?;
        first_number(&self.buffer)
    }

    /// Whether the scanner has stopped. Without a freshness nothing is known.
    fn is_still(&mut self, freshness: Option<u64>, now: Timestamp) -> bool {
        let Some(freshness) = freshness else {
            self.last = None;
            return false;
        };
        match &mut self.last {
            Some((last, since, readings)) if *last == freshness => {
                *readings = readings.saturating_add(1);
                *readings >= STILL && now.awake_since(*since) >= STILL_FOR
            }
            last => {
                *last = Some((freshness, now, 0));
                false
            }
        }
    }
}

/// The number that a text begins with.
fn first_number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// `N J` or `N W`, with or without a time behind it in µs.
fn value(bytes: &[u8], sensor: Sensor) -> Value {
    let words = || {
        let mut words = std::str::from_utf8(bytes).ok()?.split_ascii_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        let unit = words.next()?;
        let rest = (words.next(), words.next(), words.next());
        let time = |time: &str| time.parse::<u64>().is_ok();
        let complete = match rest {
            (None, ..) => true,
            (Some(at), Some("us"), None) => time(at),
            _ => false,
        };
        complete.then_some((number, unit))
    };
    match (words(), sensor) {
        (Some((joules, "J")), Sensor::Counter { .. }) => Value::Ticks(joules),
        (Some((watts, "W")), Sensor::Gauge) => {
            watts.checked_mul(1_000_000).map_or(Value::Missing(Why::Implausible), plausible)
        }
        _ => Value::Missing(Why::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide() {
        let domain = |name| part(name).map(|(part, sensor)| (part, sensor == Sensor::Gauge));
        assert_eq!(domain("energy"), Some((Part::Node, false)));
        assert_eq!(domain("power"), Some((Part::Node, true)));
        assert_eq!(domain("cpu_energy"), Some((Part::Sockets, false)));
        assert_eq!(domain("cpu3_energy"), Some((Part::Socket(3), false)));
        assert_eq!(domain("accel0_power"), Some((Part::Accelerator, true)));
        assert_eq!(domain("memory_energy"), Some((Part::Memory, false)));
        for name in
            ["power_cap", "accel0_power_cap", "cpu0_temp", "freshness", "generation", "accel_energy", "accelx_power"]
        {
            assert_eq!(domain(name), None, "{name}");
        }
    }

    #[test]
    fn one_socket_is_part_of_all_where_all_have_a_counter() {
        let (part, sensor) = part("cpu1_energy").unwrap();
        let inside = zone("cpu1_energy", part, sensor, Some("cpu_energy"), String::new());
        assert_eq!((inside.claim(), inside.parent.as_deref()), (Claim::Inside, Some("cray:cpu_energy")));
        let alone = zone("cpu1_energy", part, sensor, None, String::new());
        assert_eq!((alone.claim(), alone.parent), (Claim::Part, None));
        assert_eq!(alone.socket, Some(Socket { package: 1, die: None }));
    }

    #[test]
    fn a_reading_is_whole_or_nothing() {
        let counter = Sensor::Counter { tick: 1_000_000 << 32, max: None };
        assert_eq!(value(b"123 J 1449066123456789 us\n", counter), Value::Ticks(123));
        assert_eq!(value(b"123 J\n", counter), Value::Ticks(123));
        assert_eq!(value(b"45 W 1 us\n", Sensor::Gauge), Value::Power(Microwatts(45_000_000)));
        for bad in ["", "123", "123 W", "123 kJ", "-1 J", "123 J 5", "123 J x us", "123 J 5 ms", "1 J 2 us 3", "1.5 J"]
        {
            assert_eq!(value(bad.as_bytes(), counter), Value::Missing(Why::Malformed), "{bad}");
        }
        assert_eq!(value(b"45 J 1 us", Sensor::Gauge), Value::Missing(Why::Malformed));
        assert_eq!(value(b"18446744073709551615 W", Sensor::Gauge), Value::Missing(Why::Implausible));
        assert_eq!(value(b"4294967295 W", Sensor::Gauge), Value::Missing(Why::Implausible));
        assert_eq!(value(&[0xff], Sensor::Gauge), Value::Missing(Why::Malformed));
    }
}
