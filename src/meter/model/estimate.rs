//! From facts to watts: what this machine draws at each load, and in words what that rests on.
//!
//! Bare metal has the whole curve of its generation. A guest is a share of its host, its threads over the host's: at rest
//! that share of the host's idle power; above it a fixed slope, that of the curve from rest to 40 % load. A guest's
//! own load says nothing of where on the curve its host is; with hosts at 25 to 65 % load that is 6 % wrong where the
//! guest's own place on the curve would be 22 %. Without a TDP, watts are those per thread of the generation.

use std::fmt::Write as _;

use super::facts::Facts;
use super::figures::Figures;
use super::instances::{self, Machine};
use super::names::{self, Cpu};
use crate::meter::processor::{self, Generation, Processor, Sort};
use crate::unit::Microwatts;

/// Where the load of a host that is shared lies, mostly.
const SHARED_LOAD: f64 = 0.4;
/// No machine draws as much: what a factor of calibration may make of it ends here.
const WATTS_MAX: f64 = 1e6;

/// What a machine draws.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Estimate {
    /// At 0, 10 … 100 % load.
    pub(super) curve: [Microwatts; 11],
    /// What it rests on, on one line.
    pub(super) why: String,
    /// The factor within which the watts probably are.
    pub(super) band: f64,
}

/// The host, as far as it is known.
struct Chassis {
    generation: Generation,
    /// Watts of one processor.
    tdp: Option<u32>,
    chips: u32,
    cores_per_chip: Option<u32>,
    threads: Option<u32>,
    mhz: Option<u32>,
    memory: Option<f64>,
    amd: bool,
}

/// The facts with what the tables say of them.
struct Known<'a> {
    facts: &'a Facts,
    processor: Option<&'a Processor>,
    sort: Option<&'static Sort>,
    cpu: Option<Cpu>,
    machine: Option<&'static Machine>,
}

/// What a machine with these facts draws; watts are multiplied by `calibration`.
pub(super) fn estimate(facts: &Facts, figures: &Figures, calibration: f64) -> Estimate {
    let processor = facts.processor.as_ref();
    let known = Known {
        facts,
        processor,
        sort: processor.and_then(processor::sort),
        cpu: processor.and_then(|processor| names::find(&processor.name)),
        machine: facts.instance.as_ref().and_then(|(kind, _)| instances::find(kind)),
    };
    let chassis = chassis(&known, figures);
    let own = f64::from(facts.cpus);
    let [idle, full] = match (chassis.watts(figures), chassis.threads) {
        (Some(watts), Some(threads)) if facts.is_guest => watts.map(|watts| watts * own / f64::from(threads)),
        (Some(watts), _) => watts,
        (None, _) => chassis.generation.per_thread.map(|watts| watts * own),
    };
    let slope = chassis.generation.shape_at(SHARED_LOAD) / SHARED_LOAD;
    let mut curve = [Microwatts::ZERO; 11];
    for (at, point) in (0..=10_u8).zip(&mut curve) {
        let u = f64::from(at) / 10.0;
        let part = if facts.is_guest { slope * u } else { chassis.generation.shape_at(u) };
        let watts = ((idle + (full - idle) * part) * calibration).min(WATTS_MAX);
        // Whole milliwatts: nothing below is known, and the last digit of exp() is not the same everywhere.
        *point = Microwatts::from_watts((watts * 1e3).round() * 1e-3);
    }
    let mut why = known.why(&chassis, &curve, calibration);
    if full * calibration > WATTS_MAX {
        let _ = write!(why, "; cut at {WATTS_MAX} W, which no machine draws");
    }
    Estimate { curve, why, band: known.band(&chassis) }
}

/// The machine itself, or the host of which it is a part.
fn chassis(known: &Known<'_>, figures: &Figures) -> Chassis {
    let Known { facts, processor, sort, cpu, machine } = known;
    let key = sort.map_or("", Sort::key);
    let key = if key.is_empty() && sort.is_none() { machine.map_or("", |machine| machine.generation) } else { key };
    let generation = *figures.generation(key);
    let tdp = cpu.map(|cpu| cpu.tdp).or(machine.map(|machine| machine.tdp));
    let mhz = cpu.and_then(|cpu| cpu.mhz).or(processor.and_then(|processor| processor.base_mhz));
    let amd = processor.is_some_and(|processor| processor.vendor == "AuthenticAMD") || key.starts_with("zen");
    if !facts.is_guest {
        let (chips, cores) = processor.map_or((1, None), |processor| (processor.sockets, Some(processor.cores)));
        let cores_per_chip = cores.map(|cores| cores.div_ceil(chips));
        let threads = Some(facts.cpus);
        return Chassis { generation, tdp, chips, cores_per_chip, threads, mhz, memory: facts.memory, amd };
    }
    let cores_per_chip = machine.map(|machine| machine.cores).or(cpu.and_then(|cpu| cpu.cores));
    let per_chip = match (machine, cpu) {
        (Some(machine), _) => Some(machine.threads / machine.chips.max(1)),
        (None, Some(cpu)) => cpu.cores.map(|cores| if cpu.smt { cores * 2 } else { cores }),
        (None, None) => None,
    };
    // A host with more threads than a pair has: as many processors as the guest needs.
    let pair = if ["coffee", "rocket", "raptor", "skylake_c"].contains(&key) { 1 } else { 2 };
    let least = per_chip.map_or(1, |threads| facts.cpus.div_ceil(threads.max(1)));
    let chips = machine.map_or(pair, |machine| machine.chips).max(least);
    let threads = per_chip.map(|threads| threads.saturating_mul(chips));
    // The memory that a guest sees is its own; nothing is known of the host's.
    Chassis { generation, tdp, chips, cores_per_chip, threads, mhz, memory: None, amd }
}

impl Chassis {
    /// Of the whole of it, at rest and at full load; nothing without a TDP or threads.
    fn watts(&self, figures: &Figures) -> Option<[f64; 2]> {
        let (tdp, threads) = (f64::from(self.tdp?) * f64::from(self.chips), f64::from(self.threads?));
        let ln = |value: Option<u32>| value.map(|value| f64::from(value.max(1)).ln());
        let cores = self.cores_per_chip.map(|cores| f64::from(cores) * f64::from(self.chips));
        let flag = |flag: bool| Some(f64::from(u8::from(flag)));
        let features = [
            self.memory.map(|memory| (memory / threads).ln()),
            Some((tdp / threads).ln()),
            ln(Some(self.chips)),
            ln(self.cores_per_chip),
            ln(self.mhz),
            cores.and_then(|cores| flag(threads > cores)),
            flag(self.amd),
        ];
        Some(figures.watts(tdp, features, &self.generation))
    }

    fn is_by_tdp(&self) -> bool {
        self.tdp.is_some() && self.threads.is_some()
    }
}

impl Known<'_> {
    fn why(&self, chassis: &Chassis, curve: &[Microwatts; 11], calibration: f64) -> String {
        let mut text = self.title();
        let facts = self.facts;
        let (cpus, chips) = (facts.cpus, chassis.chips);
        let s = if cpus == 1 { "" } else { "s" };
        let _ = match (facts.is_guest, chassis.threads, chassis.tdp) {
            (true, Some(threads), Some(tdp)) => {
                write!(text, ": {cpus} of {threads} threads of a host with {chips} x {tdp} W TDP")
            }
            (false, _, Some(tdp)) => write!(text, ": {cpus} thread{s}, {chips} x {tdp} W TDP"),
            (true, ..) => write!(text, ": {cpus} thread{s} of a host"),
            (false, ..) => write!(text, ": {cpus} thread{s}"),
        };
        let [idle, .., full] = curve.map(Microwatts::watts);
        let _ = write!(text, ", {} to {} W, within a factor {}", shown(idle), shown(full), self.band(chassis));
        if (calibration - 1.0).abs() > f64::EPSILON {
            let _ = write!(text, "; model.calibration {calibration}");
        }
        for what in &facts.contradicted {
            let _ = write!(text, "; not used: instance type {what}");
        }
        for (word, list) in [("used", self.used(chassis)), ("assumed", self.assumed(chassis))] {
            if !list.is_empty() {
                let _ = write!(text, "; {word}: {}", list.join(", "));
            }
        }
        text
    }

    /// `Skylake Xeon Platinum 8175M`, `Zen 3 (masked as "AMD EPYC")`, `unknown processor`.
    fn title(&self) -> String {
        let by_type = || self.machine.and_then(|machine| processor::name_of(machine.generation));
        let sort = self.sort.map(|sort| sort.name).or_else(by_type).unwrap_or("unknown processor");
        let name = self.processor.map_or("", |processor| processor.name.as_str());
        if self.cpu.is_some() {
            let plain = names::plain(name);
            let plain = plain.trim_start_matches("Intel ").trim_start_matches("INTEL ").trim_start_matches("AMD ");
            return format!("{sort} {plain}");
        }
        if name.is_empty() { sort.to_owned() } else { format!("{sort} ({name:?})") }
    }

    /// With all inputs, nine of ten points of machines since 2017 lie within 1.28; by their generation alone within 1.5,
    /// but those were all servers. A guest's host is not known, nor what else is in it; of an unknown processor only
    /// its age is guessed. Where facts contradict each other, what a machine is is not known so well either.
    fn band(&self, chassis: &Chassis) -> f64 {
        let is_sure = self.facts.contradicted.is_empty() && chassis.is_by_tdp();
        match (chassis.generation.key.is_empty(), self.facts.is_guest, is_sure) {
            (true, ..) => 3.0,
            (false, false, true) => 1.4,
            (false, ..) => 2.0,
        }
    }

    fn used(&self, chassis: &Chassis) -> Vec<String> {
        let mut used = Vec::new();
        if self.cpu.is_some() {
            used.push("CPU name".to_owned());
        }
        if let (Some(processor), Some(_)) = (self.processor, self.sort) {
            used.push(if processor.family == 0 {
                format!("CPU implementer {} part {:#x}", processor.vendor, processor.model)
            } else {
                format!("family {} model {} stepping {}", processor.family, processor.model, processor.stepping)
            });
        }
        if let (Some((kind, who)), Some(_)) = (&self.facts.instance, self.machine) {
            used.push(format!("instance type {kind} ({who})"));
        } else if let Some(cloud) = self.facts.cloud {
            used.push(format!("DMI ({cloud})"));
        }
        if let (Some(mhz), true) = (chassis.mhz, chassis.is_by_tdp()) {
            used.push(format!("base clock {mhz} MHz"));
        }
        if let (Some(memory), true) = (chassis.memory, chassis.is_by_tdp()) {
            used.push(format!("{memory:.0} GiB of memory"));
        }
        used
    }

    fn assumed(&self, chassis: &Chassis) -> Vec<String> {
        let mut assumed = Vec::new();
        let mut assume = |what: &str| assumed.push(what.to_owned());
        let is_guest = self.facts.is_guest;
        if let (Some((kind, who)), None) = (&self.facts.instance, self.machine) {
            assume(&format!("nothing of the instance type {kind} ({who}), which is not known"));
        }
        if chassis.generation.key.is_empty() {
            let said = if self.sort.is_some() { "no figures of it" } else { "family and model not recognised" };
            let what = if chassis.is_by_tdp() { "a generation" } else { "watts per thread" };
            assume(&format!("{what} like the median since 2017 ({said})"));
        } else if !chassis.is_by_tdp() {
            let said = if self.cpu.is_some() { "cores of the CPU not known" } else { "CPU name in no table" };
            assume(&format!("watts per thread like the median of its generation ({said})"));
        }
        if is_guest && chassis.is_by_tdp() {
            if self.machine.is_none() {
                assume(&match chassis.chips {
                    1 => "a host of one such CPU".to_owned(),
                    2 => "a host of two such CPUs".to_owned(),
                    chips => format!("a host of {chips} such CPUs, to hold all threads"),
                });
            }
            assume("host memory as usual");
        } else if chassis.is_by_tdp() && chassis.memory.is_none() {
            assume("memory as usual");
        }
        assume(if is_guest { "neighbours as busy as usual" } else { "few disks, no cards" });
        assumed
    }
}

/// Two digits or whole watts.
fn shown(watts: f64) -> String {
    if watts < 20.0 { format!("{watts:.1}") } else { format!("{watts:.0}") }
}

#[cfg(test)]
mod tests;
