//! RAPL over powercap: `/sys/class/powercap/<type>:<id>[:<id>]/{name,energy_uj,max_energy_range_uj}`.
//!
//! Energy is in µJ; the counter wraps at `max_energy_range_uj` (262 kJ with the usual 61 µJ unit, 65.7 kJ with AMD's
//! 15.3 µJ). `energy_uj` is readable by its owner, root, alone (mode 0400); a failing register read shows as EINVAL.
//! Names decide, not directory numbers: ids are hexadecimal and in any order. Several control types may name the same
//! zones (`intel-rapl-mmio` beside `intel-rapl`), and foreign ones may stand beside them (`arm-scmi`, `dtpm`: a gauge
//! `power_uw` and no energy); one zone that cannot be read costs that zone only. See the kernel's
//! Documentation/power/powercap/powercap.rst and drivers/powercap/.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::{EntryKind, Errno, Host, Kept, is_denied};
use crate::meter::sysfs::{self, forbidden, number, parse, power, text, why};
use crate::meter::{Backend, Claim, Domain, Found, Meter, Reading, Sensor, Socket, Value, Why, Zone};
use crate::unit::Microwatts;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "rapl", discover, fingerprint };

const CLASS: &str = "sys/class/powercap";
/// Where the class's links point to, for a copy of sysfs that lacks them.
const DEVICES: &str = "sys/devices/virtual/powercap";
const ADVICE: &str = "energy_uj is readable by root only (CVE-2020-8694): run as root, or grant CAP_DAC_READ_SEARCH \
                      (systemd: AmbientCapabilities=CAP_DAC_READ_SEARCH)";
/// What a package is assumed to draw at most where it states no limit.
const PACKAGE_MAX: Microwatts = Microwatts(1_000_000_000);
/// Limits at or above this are "unlimited" (4,090 W and its neighbours), as is 0.
const UNLIMITED: u64 = 4_000_000_000;

/// The RAPL zones of the machine, read together.
struct Rapl {
    zones: Vec<Arc<Zone>>,
    files: Vec<Kept>,
    /// Whether the file has ended with a newline before: then a number without one is half of a number.
    terminated: Vec<bool>,
    buffer: Vec<u8>,
}

/// One directory of the powercap class.
struct Found0 {
    dir: String,
    control: String,
    name: String,
    parent: Option<String>,
}

fn discover(host: &Host, _: &Config) -> Found {
    let directories = directories(host);
    if directories.is_empty() {
        let absent = || Found::Absent(format!("no zones under {}", host.shown(CLASS)));
        return forbidden(host, CLASS).unwrap_or_else(absent);
    }
    let mut rapl = Rapl { zones: Vec::new(), files: Vec::new(), terminated: Vec::new(), buffer: Vec::new() };
    let mut ids = BTreeMap::new();
    let mut denied = None;
    let mut readable = false;
    for (entry, found) in &directories {
        let Some((file, gauge, result)) = probe(host, &found.dir) else { continue };
        match result {
            Err(errno) if is_denied(errno) => denied = Some(host.shown(&file)),
            _ => readable = true,
        }
        let parent = found.parent.as_ref().and_then(|parent| directories.get(parent));
        let id = unique_id(found, parent, entry, &mut ids);
        let parent_id = found.parent.as_ref().and_then(|parent| ids.get(parent)).cloned();
        let zone = zone(host, found, &id, parent_id, gauge, parent);
        rapl.zones.push(Arc::new(zone));
        rapl.files.push(Kept::new(file));
        rapl.terminated.push(false);
    }
    mark_ambiguous(&mut rapl.zones);
    match (rapl.zones.is_empty(), readable, denied) {
        (true, ..) => Found::Absent(format!("{} has no zone with a meter", host.shown(CLASS))),
        // The zones are kept although all are denied: they are listed with advice, and tried again at every tick.
        (_, false, Some(path)) => Found::Denied { path, advice: ADVICE.to_owned(), meters: vec![Box::new(rapl)] },
        _ => Found::Meters(vec![Box::new(rapl)]),
    }
}

/// Equal names are told apart by their directories, which may change hands.
fn mark_ambiguous(zones: &mut [Arc<Zone>]) {
    let names: Vec<String> = zones.iter().filter_map(|zone| Some(zone.id.split_once('#')?.0.to_owned())).collect();
    for zone in zones {
        if names.iter().any(|name| zone.id.split('#').next() == Some(name)) {
            Arc::make_mut(zone).ambiguous = true;
        }
    }
}

/// Changes when a zone comes, goes or is registered anew.
fn fingerprint(host: &Host) -> u64 {
    sysfs::fingerprint(host, CLASS)
}

/// The zone directories by entry name. The class holds a flat link for each; nested directories are looked into too,
/// since a partial copy of sysfs may hold only those.
fn directories(host: &Host) -> BTreeMap<String, Found0> {
    let mut found: BTreeMap<String, Found0> = BTreeMap::new();
    let mut nameless = Vec::new();
    let mut queue = vec![(DEVICES.to_owned(), None::<String>), (CLASS.to_owned(), None)];
    while let Some((dir, above)) = queue.pop() {
        let mut entries = Vec::new();
        let _ = host.list(&dir, |name, _, kind| {
            if kind != EntryKind::File {
                entries.push(String::from_utf8_lossy(name).into_owned());
            }
        });
        for entry in entries {
            let inside = above.as_ref().is_none_or(|above| entry.starts_with(&format!("{above}:")));
            let depth = dir.matches('/').count();
            if !inside || found.contains_key(&entry) || depth > 6 {
                continue;
            }
            let path = format!("{dir}/{entry}");
            if let Some((control, id)) = entry.split_once(':') {
                let name = text(host, &format!("{path}/name"));
                let parent = id.rsplit_once(':').map(|(parent, _)| format!("{control}:{parent}"));
                let control = control.to_owned();
                match name {
                    Some(name) => {
                        drop(found.insert(entry.clone(), Found0 { dir: path.clone(), control, name, parent }));
                    }
                    None => nameless.push(entry.clone()),
                }
            }
            queue.push((path, Some(entry)));
        }
    }
    // A zone without a readable name has no id, and nor have those inside it.
    found.retain(|_, zone| zone.parent.as_ref().is_none_or(|parent| !nameless.contains(parent)));
    found
}

/// The file that is read, whether it is a gauge, and what a first read said.
fn probe(host: &Host, dir: &str) -> Option<(String, bool, Result<(), Errno>)> {
    let mut buffer = Vec::new();
    [("energy_uj", false), ("power_uw", true)].into_iter().find_map(|(name, gauge)| {
        let file = format!("{dir}/{name}");
        match host.read(&file, &mut buffer) {
            Err(Errno::NOENT) => None,
            result => Some((file, gauge, result)),
        }
    })
}

/// `rapl:package-0`, `rapl:package-0/dram`, `intel-rapl-mmio:package-0`; equal names get their directory behind `#`.
fn unique_id(found: &Found0, parent: Option<&Found0>, entry: &str, ids: &mut BTreeMap<String, String>) -> String {
    let control = if found.control == "intel-rapl" { "rapl" } else { &found.control };
    let mut id = match parent {
        Some(parent) => format!("{control}:{}/{}", parent.name, found.name),
        None => format!("{control}:{}", found.name),
    };
    if ids.values().any(|taken| *taken == id) {
        id = format!("{id}#{entry}");
    }
    ids.insert(entry.to_owned(), id.clone());
    id
}

fn zone(
    host: &Host,
    found: &Found0,
    id: &str,
    parent_id: Option<String>,
    gauge: bool,
    parent: Option<&Found0>,
) -> Zone {
    let domain = if is_rapl(&found.control) { domain(&found.name) } else { Domain::Other };
    let range = number(host, &format!("{}/max_energy_range_uj", found.dir)).filter(|range| *range > 0);
    let mut limit = limit(host, &found.dir);
    if matches!(domain, Domain::Core | Domain::Uncore | Domain::Dram) {
        // A part draws no more than its package may, and memory hardly more.
        limit = limit.or_else(|| parent.and_then(|parent| self::limit(host, &parent.dir)));
    }
    let power_max = Microwatts(limit.unwrap_or(PACKAGE_MAX).0.saturating_mul(3) / 2);
    let in_psys = parent.is_some_and(|parent| self::domain(&parent.name) == Domain::Psys);
    let claim = match domain {
        Domain::Dram if in_psys => Some(Claim::Inside),
        _ => None,
    };
    Zone {
        name: found.name.clone(),
        claim,
        socket: socket(&found.name).or_else(|| parent.and_then(|parent| socket(&parent.name))),
        parent: parent_id,
        sensor: if gauge { Sensor::Gauge } else { Sensor::microjoules(range) },
        power_max,
        path: host.shown(&found.dir),
        ..Zone::new("rapl", id, domain)
    }
}

/// The socket that `package-1-die-0` names.
fn socket(name: &str) -> Option<Socket> {
    let rest = name.to_ascii_lowercase();
    let rest = rest.strip_prefix("package-")?;
    let (package, die) = rest.split_once("-die-").map_or((rest, None), |(package, die)| (package, Some(die)));
    Some(Socket { package: package.parse().ok()?, die: die.and_then(|die| die.parse().ok()) })
}

/// Whether a control type is one of RAPL's, and not a foreign one beside it.
#[must_use]
pub fn is_rapl(control: &str) -> bool {
    control.starts_with("intel-rapl")
}

/// The domain that a zone's name stands for.
fn domain(name: &str) -> Domain {
    let name = name.to_ascii_lowercase();
    match name.split('-').next().unwrap_or_default() {
        "package" => Domain::Package,
        "core" | "cores" => Domain::Core,
        "uncore" => Domain::Uncore,
        "dram" | "memory" => Domain::Dram,
        // `system` is what the TPMI driver calls it.
        "psys" | "platform" | "system" => Domain::Psys,
        _ => Domain::Other,
    }
}

/// The most that a zone's constraints allow: the rated maximum, or 1.5 × the long-term limit; and never less than its
/// limits, since a laptop may be set above its rated power and reaches its short-term limit for seconds at a time.
fn limit(host: &Host, dir: &str) -> Option<Microwatts> {
    let number = |file: String| number(host, &file).filter(|limit| (1..UNLIMITED).contains(limit));
    let rated = number(format!("{dir}/constraint_0_max_power_uw"));
    let long = number(format!("{dir}/constraint_0_power_limit_uw"));
    let is_short = text(host, &format!("{dir}/constraint_1_name")).is_some_and(|name| name == "short_term");
    let short = if is_short { number(format!("{dir}/constraint_1_power_limit_uw")) } else { None };
    let base = rated.max(rated.and(long)).or_else(|| long.map(|long| long.saturating_mul(3) / 2));
    base.max(short).map(Microwatts)
}

impl Meter for Rapl {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        let files = self.files.iter_mut().zip(&mut self.terminated);
        for ((zone, (file, terminated)), out) in self.zones.iter().zip(files).zip(out) {
            let value = match host.reread(file, &mut self.buffer) {
                Ok(()) if *terminated && !self.buffer.ends_with(b"\n") => Value::Missing(Why::Malformed),
                Ok(()) => match zone.sensor {
                    Sensor::Counter { .. } => parse(&self.buffer).map_or(Value::Missing(Why::Malformed), Value::Ticks),
                    Sensor::Gauge => power(&self.buffer),
                },
                Err(errno) => Value::Missing(why(errno)),
            };
            *terminated |= !matches!(value, Value::Missing(_)) && self.buffer.ends_with(b"\n");
            *out = Reading { at: now, value };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide() {
        assert_eq!(domain("package-1-die-0"), Domain::Package);
        assert_eq!(domain("psys-1"), Domain::Psys);
        assert_eq!(domain("DRAM"), Domain::Dram);
        assert_eq!(domain("core"), Domain::Core);
        assert_eq!(domain("gt"), Domain::Other);
    }
}
