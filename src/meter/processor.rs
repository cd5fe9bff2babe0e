//! Which processor this is: `/proc/cpuinfo`, and the generation that family, model and stepping name.
//!
//! x86 gives vendor, family, model and stepping as CPUID has them (Intel's `arch/x86/include/asm/intel-family.h`, AMD's
//! ranges in `arch/x86/kernel/cpu/amd.c`); a guest is told by its flag `hypervisor`. ARM gives implementer and part, and
//! neither packages nor cores. Names may be masked by whoever runs the machine; family and model mostly are not. What is
//! not recognised is [`unknown`]. Each [`Generation`] has its figures from published `SPECpower_ssj2008` results.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::model::built_in;

/// The figures of one generation: watts of whole servers that have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Generation {
    /// Its key in tables and in `model.file`: `skylake`, `zen4`; empty for [`unknown`].
    pub key: &'static str,
    /// Power at rest over power at full load, the median of its machines: 0 to 1.
    pub idle_over_max: f64,
    /// Watts per hardware thread at rest and at full load, the medians.
    pub per_thread: [f64; 2],
    /// What it adds to the logarithms of power over TDP, at rest and at full load.
    pub offsets: [f64; 2],
    /// The part of the way from rest to full load at 0, 10 … 100 % load: 0 to 1, never falling.
    pub shape: [f64; 11],
}

impl Generation {
    /// [`Generation::shape`] at the load `u` (0 to 1), straight between its points.
    #[must_use]
    pub fn shape_at(&self, u: f64) -> f64 {
        interpolate(&self.shape, u)
    }
}

/// The value at `load` (0 to 1; no number counts as 1) of a curve that is known at 0, 10 … 100 % of it.
#[must_use]
pub fn interpolate(curve: &[f64; 11], load: f64) -> f64 {
    let at = if load.is_nan() { 10.0 } else { load.clamp(0.0, 1.0) * 10.0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 10
    let first = (at as usize).min(9);
    let (low, high) = (curve.get(first).copied().unwrap_or(0.0), curve.get(first + 1).copied().unwrap_or(1.0));
    low + (high - low) * if first == 9 { at - 9.0 } else { at.fract() }
}

/// The two ways in which curves of one generation differ most from its shape, at 0, 10 … 100 % of load, by one standard
/// deviation: the first principal components (75 and 18 % of the variance) of 212 published results since 2017
/// (`SPECpower_ssj2008`).
pub const WAYS: [[f64; 11]; 2] = [
    [0.0, 0.0186, 0.0295, 0.0369, 0.0454, 0.0527, 0.0556, 0.0561, 0.0507, 0.0312, 0.0],
    [0.0, 0.0252, 0.0251, 0.0221, 0.0175, 0.0091, -0.0017, -0.0138, -0.0292, -0.0303, 0.0],
];

/// What a processor that nobody knows is taken for: the medians of the generations since 2017.
#[must_use]
pub fn unknown() -> &'static Generation {
    &built_in::UNKNOWN
}

/// What `/proc/cpuinfo` says of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processor {
    /// `vendor_id`, or `CPU implementer` on ARM.
    pub vendor: String,
    /// `cpu family`; 0 on ARM.
    pub family: u32,
    /// `model`, or `CPU part` on ARM.
    pub model: u32,
    /// `stepping`.
    pub stepping: u32,
    /// `model name`, as the kernel shows it.
    pub name: String,
    /// Processors listed: the threads that are online.
    pub threads: u32,
    /// Different cores among them; as many as threads where cores are not told.
    pub cores: u32,
    /// Different packages among them; 1 where packages are not told.
    pub sockets: u32,
    /// The clock in MHz, as far as it is the base clock: in the name (`@ 2.50GHz`), or what a guest is shown.
    pub base_mhz: Option<u32>,
    /// Whether the flag `hypervisor` is set: a guest. Only x86 has it.
    pub hypervisor: bool,
}

/// Reads `/proc/cpuinfo`; nothing where no processor is listed.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Processor> {
    let mut found = Processor::default();
    let (mut cores, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    let mut package = None;
    let mut shown_mhz = None;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((key, value)) = key_and_value(line) else { continue };
        let number = || number(value);
        match key {
            // ARM has `processor` in front of each as x86 has; s390 writes "processor 0", which is no key.
            "processor" if number().is_some() => {
                found.threads = found.threads.saturating_add(1);
                package = None;
            }
            "physical id" => {
                package = number();
                sockets.extend(package);
            }
            "core id" => drop(cores.insert((package, number()))),
            _ if found.threads > 1 => {} // the first one speaks for all
            "vendor_id" | "CPU implementer" => value.clone_into(&mut found.vendor),
            "cpu family" => found.family = number().unwrap_or(0),
            "model" | "CPU part" => found.model = number().unwrap_or(0),
            "stepping" => found.stepping = number().unwrap_or(0),
            "model name" => found.name = value.chars().take(128).collect(),
            "cpu MHz" => shown_mhz = value.split('.').next().and_then(|whole| whole.parse().ok()),
            "flags" => found.hypervisor = value.split_ascii_whitespace().any(|flag| flag == "hypervisor"),
            _ => {}
        }
    }
    if found.threads == 0 {
        return None;
    }
    let count = |set: usize, least| u32::try_from(set).unwrap_or(u32::MAX).clamp(least, found.threads);
    found.sockets = count(sockets.len(), 1);
    found.cores = if cores.is_empty() { found.threads } else { count(cores.len(), 1) };
    // On bare metal `cpu MHz` is what a core runs at just now; a guest is shown the clock of its TSC, the base clock.
    found.base_mhz = clock_in(&found.name).or(shown_mhz.filter(|mhz| found.hypervisor && *mhz > 0));
    Some(found)
}

fn key_and_value(line: &[u8]) -> Option<(&str, &str)> {
    let (key, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    Some((key.trim(), value.trim()))
}

/// Decimal on x86, `0xd0c` on ARM.
fn number(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok())
}

/// `2500` of `Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz`.
fn clock_in(name: &str) -> Option<u32> {
    let (whole, rest) = name.rsplit_once('@')?.1.trim().strip_suffix("GHz")?.trim().split_once('.')?;
    let thousandths: u32 = format!("{rest:0<3}").get(..3)?.parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(thousandths).filter(|mhz| *mhz > 0)
}

/// How one sort of processor is recognised.
#[derive(Debug)]
pub struct Sort {
    vendor: &'static str,
    family: u32,
    models: &'static [RangeInclusive<u32>],
    steppings: RangeInclusive<u32>,
    /// What people call it.
    pub name: &'static str,
    /// The generation whose figures it has; empty: none has been fitted.
    key: &'static str,
}

impl Sort {
    /// The key of its generation; empty where no figures have been fitted.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// Its figures.
    #[must_use]
    pub fn generation(&self) -> &'static Generation {
        by_key(self.key).unwrap_or(&built_in::UNKNOWN)
    }
}

/// The generation with this key.
#[must_use]
pub fn by_key(key: &str) -> Option<&'static Generation> {
    built_in::GENERATIONS.iter().find(|generation| generation.key == key)
}

/// What people call the generation with this key.
#[must_use]
pub fn name_of(key: &str) -> Option<&'static str> {
    SORTS.iter().find(|sort| sort.key == key && !key.is_empty()).map(|sort| sort.name)
}

/// The sort of a processor, where it is recognised.
#[must_use]
pub fn sort(processor: &Processor) -> Option<&'static Sort> {
    SORTS.iter().find(|sort| {
        sort.vendor == processor.vendor
            && sort.family == processor.family
            && sort.models.iter().any(|models| models.contains(&processor.model))
            && sort.steppings.contains(&processor.stepping)
    })
}

/// The figures of a processor's generation, [`unknown`] where it is not recognised.
#[must_use]
pub fn generation(processor: &Processor) -> &'static Generation {
    sort(processor).map_or(&built_in::UNKNOWN, Sort::generation)
}

const ALL: RangeInclusive<u32> = 0..=u32::MAX;

const fn intel(models: &'static [RangeInclusive<u32>], name: &'static str, key: &'static str) -> Sort {
    Sort { vendor: "GenuineIntel", family: 6, models, steppings: ALL, name, key }
}

const fn skylake_server(steppings: RangeInclusive<u32>, name: &'static str, key: &'static str) -> Sort {
    Sort { vendor: "GenuineIntel", family: 6, models: &[85..=85], steppings, name, key }
}

const fn amd(family: u32, models: &'static [RangeInclusive<u32>], name: &'static str, key: &'static str) -> Sort {
    Sort { vendor: "AuthenticAMD", family, models, steppings: ALL, name, key }
}

/// No published curves: it is named, and has the figures of an unknown one.
const fn arm(implementer: &'static str, part: &'static [RangeInclusive<u32>], name: &'static str) -> Sort {
    Sort { vendor: implementer, family: 0, models: part, steppings: ALL, name, key: "" }
}

/// The sorts; the first that fits counts. Client parts of a generation without figures have those of their nearest kin.
const SORTS: &[Sort] = &[
    intel(&[15..=15, 22..=23, 29..=29], "Core/Penryn", "core"),
    intel(&[26..=26, 30..=31, 37..=37, 44..=44, 46..=47], "Nehalem/Westmere", "nehalem"),
    intel(&[42..=42, 45..=45], "Sandy Bridge", "sandy"),
    intel(&[58..=58, 62..=62], "Ivy Bridge", "ivy"),
    intel(&[60..=60, 63..=63, 69..=70], "Haswell", "haswell"),
    intel(&[61..=61, 71..=71, 79..=79, 86..=86], "Broadwell", "broadwell"),
    intel(&[78..=78, 94..=94], "Skylake client", "skylake_c"),
    skylake_server(0..=4, "Skylake", "skylake"),
    skylake_server(5..=7, "Cascade Lake", "cascade"),
    skylake_server(8..=15, "Cooper Lake", "cascade"),
    intel(&[142..=142, 158..=158, 165..=166], "Kaby/Coffee/Comet Lake", "coffee"),
    intel(&[106..=106, 108..=108], "Ice Lake", "icelake"),
    intel(&[167..=167], "Rocket Lake", "rocket"),
    intel(&[125..=126, 140..=141], "Ice/Tiger Lake client", "rocket"),
    intel(&[151..=151, 154..=154, 183..=183, 186..=186, 190..=191], "Alder/Raptor Lake", "raptor"),
    intel(&[170..=170, 172..=172, 181..=181, 189..=189, 197..=198], "Meteor/Arrow/Lunar Lake", "raptor"),
    intel(&[143..=143], "Sapphire Rapids", "sapphire"),
    intel(&[207..=207], "Emerald Rapids", "emerald"),
    intel(&[173..=174], "Granite Rapids", "granite"),
    intel(&[175..=175], "Sierra Forest", "sierra"),
    amd(16, &[ALL], "K10", "k10"),
    amd(21, &[ALL], "Bulldozer", "bulldozer"),
    amd(23, &[0..=47, 80..=95], "Zen", "zen1"),
    amd(23, &[48..=79, 96..=127, 144..=145, 160..=175], "Zen 2", "zen2"),
    amd(25, &[0..=15, 32..=95], "Zen 3", "zen3"),
    amd(25, &[160..=175], "Zen 4c", "zen4"),
    amd(25, &[16..=31, 96..=159], "Zen 4", "zen4"),
    amd(26, &[16..=31], "Zen 5c", "zen5"),
    amd(26, &[0..=15, 32..=47, 64..=79, 96..=127], "Zen 5", "zen5"),
    Sort { vendor: "HygonGenuine", family: 24, models: &[ALL], steppings: ALL, name: "Dhyana (Zen)", key: "zen1" },
    arm("0x41", &[0xd08..=0xd08], "Cortex-A72"),
    arm("0x41", &[0xd0c..=0xd0c], "Neoverse N1"),
    arm("0x41", &[0xd40..=0xd40], "Neoverse V1"),
    arm("0x41", &[0xd49..=0xd49], "Neoverse N2"),
    arm("0x41", &[0xd4f..=0xd4f], "Neoverse V2"),
    arm("0x41", &[0xd84..=0xd84], "Neoverse V3"),
    arm("0x41", &[0xd8e..=0xd8e], "Neoverse N3"),
    arm("0x48", &[0xd01..=0xd02], "Kunpeng 920"),
    arm("0xc0", &[0xac3..=0xac4], "AmpereOne"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(vendor: &str, family: u32, model: u32, stepping: u32) -> Option<&'static str> {
        let processor = Processor { vendor: vendor.into(), family, model, stepping, ..Processor::default() };
        sort(&processor).map(|sort| sort.name)
    }

    #[test]
    fn family_model_and_stepping_name_the_generation() {
        let rows = [
            ("GenuineIntel", 6, 85, 4, Some("Skylake")),
            ("GenuineIntel", 6, 85, 7, Some("Cascade Lake")),
            ("GenuineIntel", 6, 85, 11, Some("Cooper Lake")),
            ("GenuineIntel", 6, 106, 6, Some("Ice Lake")),
            ("GenuineIntel", 6, 143, 8, Some("Sapphire Rapids")),
            ("GenuineIntel", 6, 207, 2, Some("Emerald Rapids")),
            ("GenuineIntel", 6, 173, 1, Some("Granite Rapids")),
            ("GenuineIntel", 6, 175, 3, Some("Sierra Forest")),
            ("AuthenticAMD", 23, 1, 2, Some("Zen")),
            ("AuthenticAMD", 23, 49, 0, Some("Zen 2")),
            ("AuthenticAMD", 25, 1, 1, Some("Zen 3")),
            ("AuthenticAMD", 25, 17, 1, Some("Zen 4")),
            ("AuthenticAMD", 25, 160, 2, Some("Zen 4c")),
            ("AuthenticAMD", 26, 2, 1, Some("Zen 5")),
            ("AuthenticAMD", 26, 17, 0, Some("Zen 5c")),
            ("0x41", 0, 0xd0c, 1, Some("Neoverse N1")),
            ("GenuineIntel", 6, 6, 3, None),
            ("AuthenticAMD", 15, 107, 1, None),
            ("", 0, 0, 0, None),
        ];
        for (vendor, family, model, stepping, name) in rows {
            assert_eq!(of(vendor, family, model, stepping), name, "{vendor} {family}/{model}/{stepping}");
        }
    }

    #[test]
    fn every_sort_has_figures_or_none_on_purpose() {
        for sort in SORTS {
            assert!(sort.key.is_empty() || by_key(sort.key).is_some(), "{}", sort.name);
            assert_eq!(sort.key.is_empty(), std::ptr::eq(sort.generation(), unknown()), "{}", sort.name);
        }
    }

    #[test]
    fn threads_cores_and_packages_are_counted() {
        let one = |cpu: u32, package: u32, core: u32| {
            format!(
                "processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Intel(R) \
                 Xeon(R) Platinum 8175M CPU @ 2.50GHz\nstepping\t: 4\ncpu MHz\t\t: 3100.118\nphysical id\t: {package}\n\
                 siblings\t: 4\ncore id\t\t: {core}\ncpu cores\t: 2\nflags\t\t: fpu vme\n\n"
            )
        };
        let text: String = (0..8).map(|cpu| one(cpu, cpu / 4, cpu % 2)).collect();
        let found = parse(text.as_bytes()).unwrap();
        assert_eq!((found.threads, found.cores, found.sockets), (8, 4, 2));
        assert_eq!((found.family, found.model, found.stepping), (6, 85, 4));
        assert_eq!((found.base_mhz, found.hypervisor), (Some(2500), false));
        assert_eq!(generation(&found).key, "skylake");
    }

    #[test]
    fn a_clock_that_changes_is_no_base_clock() {
        let text =
            |flags: &str| format!("processor : 0\nvendor_id : AuthenticAMD\ncpu MHz : 2445.434\nflags : {flags}\n");
        assert_eq!(parse(text("fpu").as_bytes()).unwrap().base_mhz, None);
        assert_eq!(parse(text("fpu hypervisor lm").as_bytes()).unwrap().base_mhz, Some(2445));
        assert_eq!(clock_in("Intel(R) Xeon(R) CPU @ 2.20GHz"), Some(2200));
        assert_eq!(clock_in("Intel(R) Xeon(R) CPU @ 99999999999.9GHz"), None);
    }

    #[test]
    fn an_arm_machine_names_its_part() {
        let text = b"processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\n\
                     CPU part\t: 0xd0c\nCPU revision\t: 1\n\nprocessor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        let found = parse(text).unwrap();
        assert_eq!((found.threads, found.cores, found.sockets), (2, 2, 1));
        assert_eq!(sort(&found).map(|sort| sort.name), Some("Neoverse N1"));
        assert_eq!(generation(&found), unknown());
    }

    #[test]
    fn the_shape_is_straight_between_its_points() {
        let skylake = by_key("skylake").unwrap();
        assert!((skylake.shape_at(0.4) - 0.3547).abs() < 1e-9);
        assert!((skylake.shape_at(0.45) - f64::midpoint(0.3547, 0.4209)).abs() < 1e-9);
        assert!(skylake.shape_at(-1.0).abs() < 1e-9 && (skylake.shape_at(7.0) - 1.0).abs() < 1e-9);
        assert!(skylake.shape_at(f64::NAN).is_finite());
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "(processor|model|cpu MHz|core id|physical id|model name|flags|[ :\n@.]|[0-9]|0x|GHz){0,60}") {
            let _ = parse(&bytes);
            if let Some(found) = parse(text.as_bytes()) {
                prop_assert!(found.threads >= found.cores && found.cores >= 1 && found.sockets >= 1);
                let _ = generation(&found);
            }
        }
    }
}
