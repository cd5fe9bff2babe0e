//! What the agent keeps of a machine at rest, from one run to the next: what was learned, and what `wattribute
//! calibrate` measured. Two small JSON texts; who reads and writes files is no business of this module.
//!
//! What was learned holds for one boot of one processor: settings of the firmware, memory and cards may be others after
//! a boot. A calibration holds for the processor. Both hold for a zone only while its id means the same sensor. A boot
//! or a processor that cannot be told is the same as no other. Anything that cannot have been written by an agent is
//! refused with its reason, and the prior is used; what is wrong with one zone is no reason to refuse another.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::attribute::learner::{Bin, Estimate, Learner, Parts, Source, WATTS_MAX};
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

impl Machine {
    /// Why the processor cannot be told from others.
    #[must_use]
    pub fn unknown_processor(&self) -> Option<&'static str> {
        let reason = "this processor cannot be told: /proc/cpuinfo cannot be read, or does not name it";
        self.processor.is_empty().then_some(reason)
    }

    /// Why this boot of this processor cannot be told from others.
    #[must_use]
    pub fn unknown_boot(&self) -> Option<&'static str> {
        let reason = "this boot cannot be told: /proc/sys/kernel/random/boot_id cannot be read";
        self.unknown_processor().or_else(|| self.boot.is_empty().then_some(reason))
    }
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
    let meaning = format!("{} {} {}", zone.source, zone.domain.as_str(), zone.quality.as_str());
    // Names that several have are told apart by numbers, which a boot may give to others.
    if zone.ambiguous { format!("{meaning} {}", zone.path) } else { meaning }
}

/// Whether an id stands for the same in both: whether they have one [`meaning`], which every tick asks.
#[must_use]
pub fn means_the_same(one: &Zone, two: &Zone) -> bool {
    let path = |zone| Some(zone).filter(|zone: &&Zone| zone.ambiguous).map(|zone| zone.path.as_str());
    (one.source, one.domain, one.quality) == (two.source, two.domain, two.quality) && path(one) == path(two)
}

/// Zones in the order of the text, so that one that is there twice is seen.
struct Zones<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for Zones<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, zone)| (id, zone)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Zones<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("zones by their id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

impl<T> Zones<T> {
    /// What `take` makes of each zone; of what it refuses, and of those that are there twice, the reason is told.
    fn take_in<U>(
        self,
        refuse: &mut dyn FnMut(String),
        take: impl Fn(T) -> Result<Kept<U>, &'static str>,
    ) -> BTreeMap<String, Kept<U>> {
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for (id, _) in &self.0 {
            *times.entry(id.clone()).or_default() += 1;
        }
        let mut found = BTreeMap::new();
        for (id, zone) in self.0 {
            match times.get(&id) {
                Some(1) => match take(zone) {
                    Ok(kept) => drop(found.insert(id, kept)),
                    Err(reason) => refuse(format!("zone {id}: its figures cannot be: {reason}")),
                },
                Some(_) => {
                    times.remove(&id);
                    refuse(format!("zone {id}: it is there twice"));
                }
                None => {}
            }
        }
        found
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LearnedFile {
    version: u32,
    boot_id: String,
    processor: String,
    zones: Zones<LearnedZone>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LearnedZone {
    meaning: String,
    samples: u32,
    floor_w: f32,
    quiet_w: Vec<f32>,
    /// When the last of them came, s since boot. Without it that is when the first bin last held anything.
    quiet_at: Option<u32>,
    /// Count, utilisation, W, s since boot.
    bins: Vec<(f32, f32, f32, u32)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibrationFile {
    version: u32,
    processor: String,
    zones: Zones<CalibratedZone>,
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
        let Parts { bins, quiet, quiet_at, floor, samples } = kept.what.parts();
        let held = bins.iter().filter(|bin| bin.count > 0.0);
        let zone = LearnedZone {
            meaning: kept.meaning.clone(),
            samples,
            floor_w: floor,
            quiet_w: quiet.to_vec(),
            quiet_at: Some(quiet_at),
            bins: held.map(|bin| (bin.count, bin.load, bin.watts, bin.at)).collect(),
        };
        (id.clone(), zone)
    });
    let file = LearnedFile {
        version: VERSION,
        boot_id: machine.boot.clone(),
        processor: machine.processor.clone(),
        zones: Zones(zones.collect()),
    };
    serde_json::to_string(&file).unwrap_or_default() + "\n"
}

/// Takes in at `now`, since boot, what was learned before; for what is refused, the reason is told to `refuse`.
pub fn read_learned(
    text: &[u8],
    machine: &Machine,
    now: Duration,
    refuse: &mut dyn FnMut(String),
) -> BTreeMap<String, Kept<Learner>> {
    let file: LearnedFile = match serde_json::from_slice(text) {
        Ok(file) => file,
        Err(error) => {
            refuse(format!("not what an agent writes: {error}"));
            return BTreeMap::new();
        }
    };
    let foreign = foreign(file.version, &file.processor, machine)
        .or_else(|| machine.unknown_boot().map(ToOwned::to_owned))
        .or_else(|| (file.boot_id != machine.boot).then(|| "it is from another boot of the kernel".to_owned()));
    if let Some(reason) = foreign {
        refuse(reason);
        return BTreeMap::new();
    }
    file.zones.take_in(refuse, |zone| {
        let bins: Vec<Bin> = zone.bins.iter().map(|&(count, load, watts, at)| Bin { count, load, watts, at }).collect();
        let LearnedZone { meaning, samples, floor_w: floor, quiet_w, quiet_at, .. } = zone;
        let latest = bins.iter().min_by(|one, two| one.load.total_cmp(&two.load)).map_or(0, |bin| bin.at);
        let parts = Parts { bins: &bins, quiet: &quiet_w, quiet_at: quiet_at.unwrap_or(latest), floor, samples };
        Learner::from_parts(&parts, now).map(|what| Kept { meaning, what })
    })
}

/// The text of a calibration.
#[must_use]
pub fn write_calibration(machine: &Machine, calibrated: &BTreeMap<String, Kept<Estimate>>) -> String {
    let zones = calibrated.iter().map(|(id, kept)| {
        let Estimate { watts: idle_w, error: error_w, .. } = kept.what;
        (id.clone(), CalibratedZone { meaning: kept.meaning.clone(), idle_w, error_w })
    });
    let file =
        CalibrationFile { version: VERSION, processor: machine.processor.clone(), zones: Zones(zones.collect()) };
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
    file.zones.take_in(refuse, |zone| {
        let CalibratedZone { meaning, idle_w: watts, error_w: error } = zone;
        if !(watts > 0.0 && watts <= WATTS_MAX && (0.0..=WATTS_MAX).contains(&error)) {
            return Err("no zone draws that at rest");
        }
        Ok(Kept { meaning, what: Estimate { watts, error, source: Source::Calibrated } })
    })
}

fn foreign(version: u32, processor: &str, machine: &Machine) -> Option<String> {
    if version != VERSION {
        return Some(format!("version {version} is not known, only {VERSION}"));
    }
    if let Some(reason) = machine.unknown_processor() {
        return Some(reason.to_owned());
    }
    let same = processor == machine.processor;
    (!same).then(|| format!("it is of another processor ({processor:?}, here {:?})", machine.processor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Domain;

    const NOW: Duration = Duration::from_secs(100);

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
        let found = read_learned(text.as_bytes(), machine, NOW, &mut |reason| refused.push(reason));
        (found.len(), refused)
    }

    #[test]
    fn what_was_learned_comes_back_whole() {
        let text = write_learned(&machine(), &learned());
        let again = read_learned(text.as_bytes(), &machine(), NOW, &mut |reason| panic!("{reason}"));
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
        let bad = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            let (found, refused) = read(&text.replacen(from, to, 1), &machine());
            assert_eq!((found, refused.len()), (0, 1), "{refused:?}");
            refused.concat()
        };
        let says = |reason: &str| format!("zone rapl:package-0: its figures cannot be: {reason}");
        assert_eq!(bad("\"samples\":100", "\"samples\":0"), says("there are no intervals in it"));
        assert_eq!(bad("\"samples\":100", "\"samples\":9"), says("the bins hold more intervals than there were"));
        assert_eq!(bad("\"bins\":[", "\"bins\":[[1,0,60,4000000000],"), says("a bin is dated after now"));
        assert_eq!(bad("\"bins\":[", "\"bins\":[[1,0,3e38,1],"), says("no zone draws the power of a bin"));
        assert_eq!(bad("\"quiet_w\":[", "\"quiet_w\":[1e30,"), says("no zone draws the power of a quiet interval"));
        for floor in ["3e38", "1e39", "-1"] {
            let floor = format!("\"floor_w\":{floor},\"quiet_w\"");
            let (from, _) = text.split_once(",\"quiet_w\"").unwrap();
            let (_, from) = from.split_once("\"floor_w\"").unwrap();
            let from = format!("\"floor_w\"{from},\"quiet_w\"");
            assert_eq!(bad(&from, &floor), says("no zone draws the power of the floor"));
        }
        let nan = text.replace("\"floor_w\":", "\"floor_w\":null,\"was\":");
        assert_eq!(read(&nan, &machine()).0, 0);
    }

    #[test]
    fn a_zone_that_is_refused_or_there_twice_leaves_the_others() {
        let mut both = learned();
        for id in ["rapl:package-1", "rapl:package-2"] {
            both.insert(id.into(), both["rapl:package-0"].clone());
        }
        let text = write_learned(&machine(), &both);
        let twice = text.replace("rapl:package-1", "rapl:package-0");
        let twice_said = "zone rapl:package-0: it is there twice".to_owned();
        assert_eq!(read(&twice, &machine()), (1, vec![twice_said.clone()]));
        let broken = text.replacen("\"samples\":100", "\"samples\":0", 1);
        let (found, refused) = read(&broken, &machine());
        assert_eq!((found, refused.len()), (2, 1), "{refused:?}");
        let zone = |id: &str| format!("\"{id}\":{{\"meaning\":\"rapl package measured\",\"idle_w\":30,\"error_w\":1}}");
        let zones = [zone("rapl:package-0"), zone("rapl:package-0"), zone("rapl:package-1")].join(",");
        let text = format!("{{\"version\":1,\"processor\":\"GenuineIntel 6/85/7\",\"zones\":{{{zones}}}}}");
        let mut refused = Vec::new();
        let found = read_calibration(text.as_bytes(), &machine(), &mut |reason| refused.push(reason));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["rapl:package-1"]);
        assert_eq!(refused, [twice_said]);
    }

    #[test]
    fn a_boot_or_a_processor_that_cannot_be_told_is_the_same_as_no_other() {
        let no_boot = Machine { boot: String::new(), ..machine() };
        let text = write_learned(&no_boot, &learned());
        let reason = "this boot cannot be told: /proc/sys/kernel/random/boot_id cannot be read";
        assert_eq!(read(&text, &no_boot), (0, vec![reason.to_owned()]));
        let no_processor = Machine { processor: String::new(), ..machine() };
        let reason = "this processor cannot be told: /proc/cpuinfo cannot be read, or does not name it";
        assert_eq!(read(&write_learned(&no_processor, &learned()), &no_processor), (0, vec![reason.to_owned()]));
        let text = write_calibration(&no_processor, &BTreeMap::new());
        let mut refused = Vec::new();
        read_calibration(text.as_bytes(), &no_processor, &mut |said| refused.push(said));
        assert_eq!(refused, [reason]);
    }

    #[test]
    fn a_file_from_before_quiet_intervals_had_a_date_is_taken() {
        let text = write_learned(&machine(), &learned());
        let older = text.replace("\"quiet_at\":1,", "");
        assert_ne!(older, text);
        let again = read_learned(older.as_bytes(), &machine(), NOW, &mut |reason| panic!("{reason}"));
        assert_eq!(again["rapl:package-0"].what.parts().quiet_at, 2, "the first bin held 0, 1 and 2 %");
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
        let other = Machine { processor: "AuthenticAMD 25/1/1".into(), ..machine() };
        assert!(read(&text, &other).1.starts_with("it is of another processor"));
        for bad in ["-1", "0", "1e300", "1000001"] {
            let refused = read(&text.replace("32.8", bad), &later).1;
            assert_eq!(refused, "zone rapl:package-0: its figures cannot be: no zone draws that at rest", "{bad}");
        }
    }
}
