//! RAPL through perf: the `power` PMU, `/sys/bus/event_source/devices/power/{type,cpumask,events/energy-*}`. AMD's
//! `power_core` (Linux 6.13 and newer) is left out: an interrupt per core and tick for parts of packages that are
//! metered. See arch/x86/events/rapl.c and `perf_event_open(2)`.
//!
//! These are the registers that powercap reads, with two differences: the kernel itself adds up the wraps of the 32-bit
//! registers, so a long pause of the agent loses nothing, and the permission is another one (`CAP_PERFMON`, where
//! powercap wants root's files). A count is `events/NAME.scale` joules, 2⁻³² J, held exactly here; it has 64 bits, begins
//! at 0 when the event is opened, and goes round after 4.29 GJ. `cpumask` lists one CPU per package or die.
//! Guests have no such PMU. An event that may not be opened is listed as denied and tried again once a tick.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::perf::Perf;
use crate::host::{Errno, Host, Kept, is_denied};
use crate::meter::sysfs::{number, text, why};
use crate::meter::{Backend, Domain, Found, Meter, Reading, Sensor, Socket, Value, Why, Zone};
use crate::unit::Microwatts;

/// The entry in the table of meters. What is open looks after itself; what is not is looked for now and then.
pub const BACKEND: Backend = Backend { name: "perf", discover, fingerprint: |_| 0 };

const DEVICES: &str = "sys/bus/event_source/devices";
/// The PMUs that are read.
const PMUS: [&str; 1] = ["power"];
const ADVICE: &str = "an extra beside powercap, needed only where powercap may not be read, or where the agent may pause \
                      for longer than its counters take to wrap: grant CAP_PERFMON (systemd: \
                      AmbientCapabilities=CAP_PERFMON), or set kernel.perf_event_paranoid to 0";
/// 1.5 × what a package is assumed to draw at most: the PMU states no limit.
const POWER_MAX: Microwatts = Microwatts(1_500_000_000);
/// The most that a count may stand for, in 2⁻³² µJ: 1 J, as the coarsest register has.
const TICK_MAX: u128 = 1_000_000 << 32;

/// The events of all PMUs, read together.
struct Power {
    zones: Vec<Arc<Zone>>,
    events: Vec<Event>,
    /// Each PMU's list of CPUs, and what stood there when the zones were laid out.
    masks: Vec<(Kept, Vec<u8>)>,
    buffer: Vec<u8>,
}

/// One event on one CPU.
struct Event {
    kind: u32,
    config: u64,
    cpu: u32,
    state: Result<Perf, Errno>,
}

fn discover(host: &Host, _: &Config) -> Found {
    let power = Power::new(host);
    if power.zones.is_empty() {
        return Found::Absent(format!("no energy events under {}/power", host.shown(DEVICES)));
    }
    let denied = |event: &Event| event.state.as_ref().is_err_and(|errno| is_denied(*errno));
    if power.events.iter().all(denied) {
        let path = format!("perf_event_open of {}", power.zones[0].path);
        return Found::Denied { path, advice: ADVICE.to_owned(), meters: vec![Box::new(power)] };
    }
    Found::Meters(vec![Box::new(power)])
}

impl Power {
    fn new(host: &Host) -> Self {
        let mask = |pmu| (Kept::new(format!("{DEVICES}/{pmu}/cpumask")), Vec::new());
        let masks = PMUS.into_iter().map(mask).collect();
        let mut power = Self { zones: Vec::new(), events: Vec::new(), masks, buffer: Vec::new() };
        power.lay_out(host);
        power
    }

    /// Finds the zones anew. An event that was open stays open, for a new one would count from 0.
    fn lay_out(&mut self, host: &Host) {
        let mut before: Vec<(Arc<Zone>, Event)> = self.zones.drain(..).zip(self.events.drain(..)).collect();
        let mut sockets = Vec::new();
        for (pmu, (file, known)) in PMUS.into_iter().zip(&mut self.masks) {
            known.clear();
            if host.reread(file, known).is_err() {
                known.clear();
            }
            let cpus = cpus(known).unwrap_or_default();
            let places = places(host, &cpus, &mut sockets);
            for found in found(host, pmu) {
                for (cpu, socket) in &places {
                    let id = format!("perf:{}@{cpu}", found.name);
                    let kept = before.iter().position(|(zone, event)| zone.id == id && event.is(&found, *cpu));
                    let event = match kept {
                        Some(kept) => before.swap_remove(kept).1,
                        None => Event::open(host, &found, *cpu),
                    };
                    self.zones.push(Arc::new(zone(host, &found, &id, *socket)));
                    self.events.push(event);
                }
            }
        }
        self.find_parents();
    }

    /// Cores and graphics are parts of the package that is counted on the same CPU, or else of the same socket's.
    fn find_parents(&mut self) {
        let packages = self.zones.iter().zip(&self.events).filter(|(zone, _)| zone.domain == Domain::Package);
        let packages: Vec<_> = packages.map(|(zone, event)| (event.cpu, Arc::clone(zone))).collect();
        for (zone, event) in self.zones.iter_mut().zip(&self.events) {
            if !matches!(zone.domain, Domain::Core | Domain::Uncore) {
                continue;
            }
            let here = packages.iter().find(|(cpu, _)| *cpu == event.cpu);
            let beside = || packages.iter().find(|(_, one)| one.socket.is_some() && one.socket == zone.socket);
            let parent = here.or_else(beside).map(|(_, package)| package.id.clone());
            Arc::make_mut(zone).parent = parent;
        }
    }
}

impl Meter for Power {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    /// Where a package comes, goes, or is counted on another of its CPUs, the zones are laid out anew.
    fn refresh(&mut self, host: &Host, _: Timestamp) -> bool {
        let mut moved = false;
        for (file, known) in &mut self.masks {
            // What can no longer be read stays as it is: the events themselves say that they are gone.
            moved |= host.reread(file, &mut self.buffer).is_ok() && self.buffer != *known;
        }
        if moved {
            self.lay_out(host);
        }
        moved
    }

    /// While an event is open: opened again it would count from 0.
    fn stays(&self) -> bool {
        self.events.iter().any(|event| event.state.is_ok())
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        for (event, out) in self.events.iter_mut().zip(out) {
            *out = Reading { at: now, value: event.read(host) };
        }
    }
}

impl Event {
    fn open(host: &Host, found: &Described, cpu: u32) -> Self {
        Self { kind: found.kind, config: found.config, cpu, state: host.perf(found.kind, found.config, cpu) }
    }

    fn is(&self, found: &Described, cpu: u32) -> bool {
        (self.kind, self.config, self.cpu) == (found.kind, found.config, cpu)
    }

    fn read(&mut self, host: &Host) -> Value {
        if self.state.is_err() {
            self.state = host.perf(self.kind, self.config, self.cpu);
        }
        match self.state.as_mut().map_err(|errno| *errno).and_then(|perf| host.perf_count(perf)) {
            Ok(count) => Value::Ticks(count),
            Err(errno) => {
                // An event that fails has ended: the next tick opens another.
                self.state = Err(errno);
                Value::Missing(if errno == Errno::INVAL { Why::Malformed } else { why(errno) })
            }
        }
    }
}

/// What a PMU says of one of its events.
struct Described {
    name: String,
    domain: Domain,
    kind: u32,
    config: u64,
    tick: u64,
    path: String,
}

/// The energy events of a PMU, in order of name.
fn found(host: &Host, pmu: &str) -> Vec<Described> {
    let dir = format!("{DEVICES}/{pmu}");
    let Some(kind) = number(host, &format!("{dir}/type")).and_then(|kind| u32::try_from(kind).ok()) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    let _ = host.list(&format!("{dir}/events"), |name, _, _| names.push(String::from_utf8_lossy(name).into_owned()));
    names.sort();
    let describe = |name: String| {
        let domain = domain(&name)?;
        let path = format!("{dir}/events/{name}");
        if text(host, &format!("{path}.unit")).is_some_and(|unit| unit != "Joules") {
            return None;
        }
        let config = config(&text(host, &path)?)?;
        let tick = tick(&text(host, &format!("{path}.scale"))?)?;
        Some(Described { name, domain, kind, config, tick, path })
    };
    names.into_iter().filter_map(describe).collect()
}

/// The domain that an event measures; `None` for what is no event of energy (`energy-pkg.scale`).
fn domain(event: &str) -> Option<Domain> {
    match event {
        "energy-pkg" => Some(Domain::Package),
        "energy-cores" | "energy-core" => Some(Domain::Core),
        "energy-ram" => Some(Domain::Dram),
        "energy-gpu" => Some(Domain::Uncore),
        "energy-psys" => Some(Domain::Psys),
        _ => None,
    }
}

fn zone(host: &Host, found: &Described, id: &str, socket: Option<Socket>) -> Zone {
    // The platform is no socket's, and may draw what a whole machine draws, which is the limit that a zone has anyway.
    let platform = found.domain == Domain::Psys;
    let zone = Zone::new("perf", id, found.domain);
    Zone {
        socket: socket.filter(|_| !platform),
        sensor: Sensor::Counter { tick: found.tick, max: Some(u64::MAX) },
        power_max: if platform { zone.power_max } else { POWER_MAX },
        path: host.shown(&found.path),
        why: "the kernel adds up the register's wraps".to_owned(),
        ..zone
    }
}

/// The socket of each CPU, in the order of `cpus`. The die counts only where a package has several; `seen` holds the
/// sockets of the PMUs before this one, so that a core is told its package in the same words.
fn places(host: &Host, cpus: &[u32], seen: &mut Vec<Socket>) -> Vec<(u32, Option<Socket>)> {
    let topology = |cpu: u32, name: &str| {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        number(host, &path).and_then(|id| u32::try_from(id).ok())
    };
    let place = |cpu: &u32| {
        let package = topology(*cpu, "physical_package_id")?;
        Some(Socket { package, die: topology(*cpu, "die_id") })
    };
    let mut places: Vec<_> = cpus.iter().map(|cpu| (*cpu, place(cpu))).collect();
    if seen.is_empty() {
        seen.extend(places.iter().filter_map(|(_, socket)| *socket));
    }
    let several = seen.iter().any(|one| seen.iter().any(|two| one.package == two.package && one.die != two.die));
    for (_, socket) in &mut places {
        if let Some(socket) = socket.as_mut().filter(|_| !several) {
            socket.die = None;
        }
    }
    places
}

/// A list of CPUs as the kernel prints it: `0,28`, `0-3,8`.
fn cpus(bytes: &[u8]) -> Option<Vec<u32>> {
    /// More CPUs than any kernel is built for.
    const CPUS_MAX: u32 = 1 << 16;
    let mut cpus = Vec::new();
    for part in std::str::from_utf8(bytes).ok()?.trim_ascii().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// The config of an event that its file describes: `event=0x02`. A further term would mean bits we do not know.
fn config(text: &str) -> Option<u64> {
    let value = text.strip_prefix("event=")?;
    value.strip_prefix("0x").map_or_else(|| value.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// The energy of a count in 2⁻³² µJ from its decimal text in joules, exactly, then rounded: 2.3283064365386962890625e-10
/// is 2⁻³² J, a million of these. `None` for what is no number, for 0, and for more than a joule.
fn tick(scale: &str) -> Option<u64> {
    let (mantissa, exponent) = scale.split_once(['e', 'E']).unwrap_or((scale, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: u128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        digits = digits.checked_mul(10)?.checked_add(u128::from(digit.to_digit(10)?))?;
    }
    if whole.is_empty() {
        return None;
    }
    let exponent: i32 = exponent.parse().ok()?;
    // Joules to microjoules is six places.
    let places = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(6)?;
    let power = 10_u128.checked_pow(places.unsigned_abs())?;
    let units = digits.checked_mul(1 << 32)?;
    let tick = if places < 0 { units.checked_add(power / 2)? / power } else { units.checked_mul(power)? };
    (1..=TICK_MAX).contains(&tick).then(|| u64::try_from(tick).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_exact() {
        assert_eq!(tick("2.3283064365386962890625e-10"), Some(1_000_000), "2^-32 J");
        assert_eq!(tick("2.3283064365386962890625E-10"), Some(1_000_000));
        assert_eq!(tick("0.00000000023283064365386962890625"), Some(1_000_000));
        assert_eq!(tick("6.103515625e-05"), Some(262_144_000_000), "2^-14 J, Intel's register: 61.03515625 µJ");
        assert_eq!(tick("1"), Some(1_000_000 << 32), "SPR's psys");
        assert_eq!(tick("1e-6"), Some(1 << 32));
    }

    #[test]
    fn a_scale_that_cannot_be_is_refused() {
        let nonsense = [
            "",
            "x",
            "-1",
            "0",
            "0.0",
            "1e",
            "e-10",
            ".5",
            "1e-99",
            "1e99",
            "2",
            "nan",
            "1.2.3",
            "1e-30",
            "1e2147483647",
            "999999999999999999999999999999999999999999",
            "0x1p-32",
            "1e-2147483648",
        ];
        for text in nonsense {
            assert_eq!(tick(text), None, "{text}");
        }
    }

    #[test]
    fn an_event_is_one_number() {
        assert_eq!(config("event=0x02"), Some(2));
        assert_eq!(config("event=5"), Some(5));
        for text in ["event=", "event=0x", "event=0x02,umask=1", "config=2", "event=-1", "2"] {
            assert_eq!(config(text), None, "{text}");
        }
    }

    #[test]
    fn a_mask_is_a_list_of_cpus() {
        assert_eq!(cpus(b"0\n"), Some(vec![0]));
        assert_eq!(cpus(b"56,0,1-3\n"), Some(vec![0, 1, 2, 3, 56]));
        assert_eq!(cpus(b"\n"), Some(vec![]));
        for text in ["3-1", "a", "0-", "0-4294967295", "0,,x"] {
            assert_eq!(cpus(text.as_bytes()), None, "{text}");
        }
    }
}
