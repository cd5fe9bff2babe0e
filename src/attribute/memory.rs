//! What the agent keeps of a machine at rest, from one run to the next: what was learned, and what `wattribute
//! calibrate` measured. Two small JSON texts; who reads and writes files is no business of this module.
//!
//! What was learned holds for one boot of one processor: settings of the firmware, memory and cards may be others after
//! a boot. A calibration holds for the processor. Both hold for a zone only while its id means the same sensor.
//! Anything that cannot have been written by an agent is refused with its reason, and the prior is used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attribute::learner::{Bin, Estimate, Learner, Source};
use crate::meter::Zone;

const VERSION: u32 = 1;

/// What tells one machine, and one boot of it, from others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Vendor, family, model, stepping and name of the processor.
    pub processor: String,
}

/// What is kept, by zone id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// What was learned.
    pub learned: BTreeMap<String, Kept<Learner>>,
    /// What was measured at rest.
    pub calibrated: BTreeMap<String, Kept<Estimate>>,
}

/// Something that is kept of a zone, and what the zone was.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept<T> {
    /// Its domain, backend and quality.
    pub meaning: String,
    /// What is known.
    pub what: T,
}

/// What a zone's id stands for.
#[must_use]
pub fn meaning(zone: &Zone) -> String {
    format!("{} {} {}", zone.source, zone.domain.as_str(), zone.quality.as_str())
}

/// Whether an id stands for the same in both: whether they have one [`meaning`], which every tick asks.
#[must_use]
pub fn means_the_same(one: &Zone, two: &Zone) -> bool {
    (one.source, one.domain, one.quality) == (two.source, two.domain, two.quality)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LearnedFile {
    version: u32,
    boot_id: String,
    processor: String,
    zones: BTreeMap<String, LearnedZone>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LearnedZone {
    meaning: String,
    samples: u32,
    floor_w: f32,
    quiet_w: Vec<f32>,
    /// Count, utilisation, W, s since boot.
    bins: Vec<(f32, f32, f32, u32)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibrationFile {
    version: u32,
    processor: String,
    zones: BTreeMap<String, CalibratedZone>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibratedZone {
    meaning: String,
    idle_w: f64,
    error_w: f64,
}

/// The text of what was learned.
#[must_use]
pub fn write_learned(machine: &Machine, learned: &BTreeMap<String, Kept<Learner>>) -> String {
    let zones = learned.iter().map(|(id, kept)| {
        let (bins, quiet, floor_w, samples) = kept.what.parts();
        let held = bins.iter().filter(|bin| bin.count > 0.0);
        let zone = LearnedZone {
            meaning: kept.meaning.clone(),
            samples,
            floor_w,
            quiet_w: quiet.to_vec(),
            bins: held.map(|bin| (bin.count, bin.load, bin.watts, bin.at)).collect(),
        };
        (id.clone(), zone)
    });
    let file = LearnedFile {
        version: VERSION,
        boot_id: machine.boot.clone(),
        processor: machine.processor.clone(),
        zones: zones.collect(),
    };
    serde_json::to_string(&file).unwrap_or_default() + "\n"
}

/// Takes in what was learned before; for what is refused, the reason is told to `refuse`.
pub fn read_learned(text: &[u8], machine: &Machine, refuse: &mut dyn FnMut(String)) -> BTreeMap<String, Kept<Learner>> {
    let file: LearnedFile = match serde_json::from_slice(text) {
        Ok(file) => file,
        Err(error) => {
            refuse(format!("not what an agent writes: {error}"));
            return BTreeMap::new();
        }
    };
    let foreign = foreign(file.version, &file.processor, machine)
        .or_else(|| (file.boot_id != machine.boot).then(|| "it is from another boot of the kernel".to_owned()));
    if let Some(reason) = foreign {
        refuse(reason);
        return BTreeMap::new();
    }
    let mut learned = BTreeMap::new();
    for (id, zone) in file.zones {
        let bins: Vec<Bin> = zone.bins.iter().map(|&(count, load, watts, at)| Bin { count, load, watts, at }).collect();
        match Learner::from_parts(&bins, &zone.quiet_w, zone.floor_w, zone.samples) {
            Some(what) => drop(learned.insert(id, Kept { meaning: zone.meaning, what })),
            None => refuse(format!("zone {id}: its figures cannot be")),
        }
    }
    learned
}

/// The text of a calibration.
#[must_use]
pub fn write_calibration(machine: &Machine, calibrated: &BTreeMap<String, Kept<Estimate>>) -> String {
    let zones = calibrated.iter().map(|(id, kept)| {
        let Estimate { watts: idle_w, error: error_w, .. } = kept.what;
        (id.clone(), CalibratedZone { meaning: kept.meaning.clone(), idle_w, error_w })
    });
    let file = CalibrationFile { version: VERSION, processor: machine.processor.clone(), zones: zones.collect() };
    serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
}

/// Takes in a calibration; for what is refused, the reason is told to `refuse`.
pub fn read_calibration(
    text: &[u8],
    machine: &Machine,
    refuse: &mut dyn FnMut(String),
) -> BTreeMap<String, Kept<Estimate>> {
    let file: CalibrationFile = match serde_json::from_slice(text) {
        Ok(file) => file,
        Err(error) => {
            refuse(format!("not what `wattribute calibrate` writes: {error}"));
            return BTreeMap::new();
        }
    };
    if let Some(reason) = foreign(file.version, &file.processor, machine) {
        refuse(reason);
        return BTreeMap::new();
    }
    let mut calibrated = BTreeMap::new();
    for (id, zone) in file.zones {
        let figures = [zone.idle_w, zone.error_w];
        if figures.iter().any(|watts| !watts.is_finite() || *watts < 0.0) {
            refuse(format!("zone {id}: its figures cannot be"));
            continue;
        }
        let what = Estimate { watts: zone.idle_w, error: zone.error_w, source: Source::Calibrated };
        calibrated.insert(id, Kept { meaning: zone.meaning, what });
    }
    calibrated
}

fn foreign(version: u32, processor: &str, machine: &Machine) -> Option<String> {
    if version != VERSION {
        return Some(format!("version {version} is not known, only {VERSION}"));
    }
    let same = processor == machine.processor;
    (!same).then(|| format!("it is of another processor ({processor:?}, here {:?})", machine.processor))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::meter::Domain;

    fn machine() -> Machine {
        Machine { boot: "0d5c".into(), processor: "GenuineIntel 6/85/7".into() }
    }

    fn learned() -> BTreeMap<String, Kept<Learner>> {
        let mut learner = Learner::default();
        for n in 0..100_u32 {
            let load = f64::from(n) / 100.0;
            learner.observe(Duration::from_secs(n.into()), load, 30.0 + 100.0 * load);
        }
        let zone = Zone::new("rapl", "rapl:package-0", Domain::Package);
        BTreeMap::from([(zone.id.clone(), Kept { meaning: meaning(&zone), what: learner })])
    }

    fn read(text: &str, machine: &Machine) -> (usize, Vec<String>) {
        let mut refused = Vec::new();
        let found = read_learned(text.as_bytes(), machine, &mut |reason| refused.push(reason));
        (found.len(), refused)
    }

    #[test]
    fn what_was_learned_comes_back_whole() {
        let text = write_learned(&machine(), &learned());
        let again = read_learned(text.as_bytes(), &machine(), &mut |reason| panic!("{reason}"));
        assert_eq!(again, learned());
        assert!(text.len() < 4096, "{} bytes", text.len());
    }

    #[test]
    fn what_does_not_hold_here_is_refused_with_its_reason() {
        let text = write_learned(&machine(), &learned());
        let later = Machine { boot: "1e6d".into(), ..machine() };
        assert_eq!(read(&text, &later), (0, vec!["it is from another boot of the kernel".to_owned()]));
        let other = Machine { processor: "AuthenticAMD 25/1/1".into(), ..machine() };
        assert!(read(&text, &other).1[0].starts_with("it is of another processor (\"GenuineIntel"));
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert_eq!(read(&newer, &machine()), (0, vec!["version 2 is not known, only 1".to_owned()]));
    }

    #[test]
    fn what_no_agent_wrote_is_refused_with_its_reason() {
        let text = write_learned(&machine(), &learned());
        for cut in [0, 1, 40, text.len() / 2, text.len() - 3] {
            let (found, refused) = read(&text[..cut], &machine());
            assert!(found == 0 && refused[0].starts_with("not what an agent writes: "), "{refused:?}");
        }
        let samples = text.replace("\"samples\":100", "\"samples\":0");
        assert_eq!(read(&samples, &machine()), (0, vec!["zone rapl:package-0: its figures cannot be".to_owned()]));
        let nan = text.replace("\"floor_w\":", "\"floor_w\":null,\"was\":");
        assert_eq!(read(&nan, &machine()).0, 0);
    }

    #[test]
    fn a_calibration_holds_over_boots_but_not_over_processors() {
        let zone = Zone::new("rapl", "rapl:package-0", Domain::Package);
        let what = Estimate { watts: 32.8, error: 0.4, source: Source::Calibrated };
        let calibrated = BTreeMap::from([(zone.id.clone(), Kept { meaning: meaning(&zone), what })]);
        let text = write_calibration(&machine(), &calibrated);
        let read = |text: &str, machine: &Machine| {
            let mut refused = Vec::new();
            let found = read_calibration(text.as_bytes(), machine, &mut |reason| refused.push(reason));
            (found, refused.join("; "))
        };
        let later = Machine { boot: "1e6d".into(), ..machine() };
        assert_eq!(read(&text, &later), (calibrated, String::new()));
        assert!(read(&text, &Machine::default()).1.starts_with("it is of another processor"));
        assert_eq!(read(&text.replace("32.8", "-1"), &later).1, "zone rapl:package-0: its figures cannot be");
    }
}
