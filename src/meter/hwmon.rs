//! Sensors of the hwmon class: `/sys/class/hwmon/hwmonN/{name,powerN_{input,average},energyN_input,inN_*,currN_*}`.
//!
//! Power is a gauge in µW and energy a counter in µJ of 64 bits that starts at 0 with its driver and states no range,
//! so a step back is a reset; a voltage in mV times a current in mA is a gauge in µW too. See the kernel's
//! Documentation/hwmon/sysfs-interface.rst and one file per driver beside it. `powerN_average` is taken before
//! `powerN_input`, since the driver averages over some time and not over one instant. What a sensor measures follows
//! from its driver (`chips`), never from labels alone: two zones `package` stay two zones, and a driver that is not
//! known gives an unclassified zone, which is shown and never summed. A read that says EAGAIN, ENXIO or ENODATA (a part
//! that is off) is a missing reading, and a file that only root may read (`amd_energy`, mode 0440) makes its zone
//! denied. A graphics card that sleeps is not read, since that would wake it; chips without power cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::{Errno, Host, Kept};
use crate::meter::hwmon::chips::Place;
use crate::meter::hwmon::directory::{Channel, Chip, Files};
use crate::meter::sysfs::{self, forbidden, parse, parse_signed, plausible, power, why};
use crate::meter::{Backend, Claim, Found, Meter, Reading, Sensor, Value, Why, Zone};

mod chips;
mod directory;
mod pairing;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "hwmon", discover, fingerprint };

const CLASS: &str = "sys/class/hwmon";
const ADVICE: &str = "the driver lets only root read it: run as root, or grant CAP_DAC_READ_SEARCH (systemd: \
                      AmbientCapabilities=CAP_DAC_READ_SEARCH)";

/// How many files are kept open: `amd_energy` has one for each core, and a descriptor costs 4.3 KiB.
const KEPT: usize = 64;

/// The hwmon zones of the machine, read together.
struct Hwmon {
    zones: Vec<Arc<Zone>>,
    sources: Vec<Source>,
    /// Where it is said whether the device of each zone sleeps, if that matters.
    naps: Vec<Option<Kept>>,
    buffer: Vec<u8>,
}

/// What is read for one zone.
enum Source {
    /// A counter in µJ.
    Energy(Kept),
    /// A gauge in µW.
    Power(Kept),
    /// A voltage in mV and a current in mA.
    Product(Kept, Kept),
}

fn discover(host: &Host, _: &Config) -> Found {
    let mut hwmon = Hwmon { zones: Vec::new(), sources: Vec::new(), naps: Vec::new(), buffer: Vec::new() };
    let mut places = Vec::new();
    let mut zones = Vec::new();
    let mut denied = None;
    let mut readable = false;
    let chips = directory::chips(host);
    for chip in &chips {
        let status = chips::runtime_status(host, chip);
        for channel in chip.channels(host) {
            let mut nap = status.clone().map(Kept::new);
            let asleep = is_asleep(host, nap.as_mut(), &mut hwmon.buffer);
            let Some((source, result)) = hwmon.probe(host, &channel, asleep) else { continue };
            match result {
                Err(Errno::ACCESS) => denied = denied.or_else(|| Some(host.shown(source.path()))),
                _ => readable = true,
            }
            let place = chips::place(host, chip, &chips, &channel);
            zones.push(zone(host, chip, &channel, &place, &source));
            places.push(place);
            hwmon.sources.push(source);
            hwmon.naps.push(nap);
        }
    }
    for file in hwmon.sources.iter_mut().flat_map(Source::files).skip(KEPT) {
        file.keep = false;
        file.close();
    }
    distinguish(&mut zones);
    nest(&mut zones, &places);
    hwmon.zones = zones.into_iter().map(|(zone, _)| Arc::new(zone)).collect();
    match (hwmon.zones.is_empty(), readable, denied) {
        (true, ..) => forbidden(host, CLASS)
            .unwrap_or_else(|| Found::Absent(format!("no chip with power or energy under {}", host.shown(CLASS)))),
        (_, false, Some(path)) => Found::Denied { path, advice: ADVICE.to_owned(), meters: vec![Box::new(hwmon)] },
        _ => Found::Meters(vec![Box::new(hwmon)]),
    }
}

/// Changes when a chip comes, goes or is registered anew.
fn fingerprint(host: &Host) -> u64 {
    sysfs::fingerprint(host, CLASS)
}

/// A zone, with the name of its directory.
fn zone(host: &Host, chip: &Chip, channel: &Channel, place: &Place, source: &Source) -> (Zone, String) {
    let id = format!("hwmon:{}@{}/{}", chip.name, chip.device, channel.name);
    let zone = Zone {
        name: place.name.clone().or(channel.label.clone()).unwrap_or_else(|| format!("{}_{}", chip.name, channel.name)),
        claim: place.claim,
        socket: place.socket,
        sensor: if matches!(source, Source::Energy(_)) { Sensor::microjoules(None) } else { Sensor::Gauge },
        power_max: place.power_max,
        why: place.why.clone(),
        parent: place.same_as.map(str::to_owned),
        path: host.shown(source.path()),
        ..Zone::new("hwmon", &id, place.domain)
    };
    (zone, chip.entry.clone())
}

/// Equal ids (two chips of one name on one device) get their directory behind `#`, which may change hands.
fn distinguish(zones: &mut [(Zone, String)]) {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (zone, _) in zones.iter() {
        *count.entry(zone.id.clone()).or_default() += 1;
    }
    let mut seen = BTreeSet::new();
    for (zone, entry) in zones {
        zone.ambiguous = count.get(&zone.id).is_some_and(|count| *count > 1);
        if !seen.insert(zone.id.clone()) {
            zone.id = format!("{}#{entry}", zone.id);
        }
    }
}

/// Finds for each zone the zone that contains it.
fn nest(zones: &mut [(Zone, String)], places: &[Place]) {
    let ids: Vec<String> = zones.iter().map(|(zone, _)| zone.id.clone()).collect();
    for (at, ((zone, _), place)) in zones.iter_mut().zip(places).enumerate() {
        let holder = |key: &String| places.iter().position(|other| other.key.as_ref() == Some(key));
        if let Some(parent) = place.inside.iter().find_map(holder).filter(|parent| *parent != at) {
            zone.parent = ids.get(parent).cloned();
            zone.claim = Some(Claim::Inside);
        }
    }
}

impl Source {
    fn path(&self) -> &str {
        match self {
            Self::Energy(file) | Self::Power(file) | Self::Product(file, _) => file.path(),
        }
    }

    fn files(&mut self) -> impl Iterator<Item = &mut Kept> {
        let (first, second) = match self {
            Self::Energy(file) | Self::Power(file) => (file, None),
            Self::Product(voltage, current) => (voltage, Some(current)),
        };
        [Some(first), second].into_iter().flatten()
    }

    fn read(&mut self, host: &Host, buffer: &mut Vec<u8>) -> Result<Value, Errno> {
        match self {
            Self::Energy(file) => {
                host.reread(file, buffer)?;
                Ok(parse(buffer).map_or(Value::Missing(Why::Malformed), Value::Ticks))
            }
            Self::Power(file) => {
                host.reread(file, buffer)?;
                Ok(power(buffer))
            }
            Self::Product(voltage, current) => {
                host.reread(voltage, buffer)?;
                let millivolts = parse_signed(buffer);
                host.reread(current, buffer)?;
                Ok(product(millivolts, parse_signed(buffer)))
            }
        }
    }
}

/// Whether a device sleeps. This may be asked without waking it.
fn is_asleep(host: &Host, status: Option<&mut Kept>, buffer: &mut Vec<u8>) -> bool {
    status.is_some_and(|status| host.reread(status, buffer).is_ok() && buffer.starts_with(b"suspend"))
}

/// mV times mA is µW. A negative one flows backwards, which is no power that anything draws.
fn product(millivolts: Option<i64>, milliamperes: Option<i64>) -> Value {
    let (Some(voltage), Some(current)) = (millivolts, milliamperes) else { return Value::Missing(Why::Malformed) };
    let (Ok(voltage), Ok(current)) = (u64::try_from(voltage), u64::try_from(current)) else {
        return Value::Missing(Why::Implausible);
    };
    voltage.checked_mul(current).map_or(Value::Missing(Why::Implausible), plausible)
}

impl Hwmon {
    /// The files of a channel, and what a first read said; `None` if the driver says that it cannot measure this.
    fn probe(&mut self, host: &Host, channel: &Channel, asleep: bool) -> Option<(Source, Result<Value, Errno>)> {
        let kept = |path: &String| Kept::new(path.clone());
        let candidates: Vec<Source> = match &channel.files {
            Files::Energy(path) => vec![Source::Energy(kept(path))],
            Files::Power(paths) => paths.iter().map(|path| Source::Power(kept(path))).collect(),
            Files::Product(voltage, current) => vec![Source::Product(kept(voltage), kept(current))],
        };
        candidates.into_iter().find_map(|mut source| {
            let result = if asleep { Err(Errno::AGAIN) } else { source.read(host, &mut self.buffer) };
            // A driver that serves many parts lists attributes that this part has not.
            let unsupported = matches!(result, Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOENT));
            (!unsupported).then_some((source, result))
        })
    }
}

impl Meter for Hwmon {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        for ((source, nap), out) in self.sources.iter_mut().zip(&mut self.naps).zip(out) {
            let value = if is_asleep(host, nap.as_mut(), &mut self.buffer) {
                // A counter tells afterwards what was used meanwhile; a gauge does not.
                let why = if matches!(source, Source::Energy(_)) { Why::Pending } else { Why::Inactive };
                Value::Missing(why)
            } else {
                match source.read(host, &mut self.buffer) {
                    Ok(value) => value,
                    // The file could be opened, so nobody is forbidden to read it: amdgpu says it of a card asleep.
                    Err(Errno::PERM) => Value::Missing(Why::Inactive),
                    Err(errno) => Value::Missing(why(errno)),
                }
            };
            *out = Reading { at: now, value };
        }
    }
}

#[cfg(test)]
mod tests;
