//! What kind of host an instance of a cloud runs on, by its type: `m5.large`, `n2d-standard-8`, `Standard_D4s_v5`.
//!
//! The type is what the node label `node.kubernetes.io/instance-type`, DMI (AWS Nitro: `product_name`) or the user says.
//! Clouds publish processors and the largest size, not boards, so a host is taken to have two processors of that kind
//! unless something else is known. Processors that are made for one cloud have no data sheet: their TDP is that of the
//! nearest one that has. A family that runs on several generations has the oldest here: what `/proc/cpuinfo` says of
//! the generation, and a name that is in the table of processors, count for more. A type that the machine contradicts
//! (more CPUs than it has, another maker, a whole host that is a guest) says nothing.

use crate::meter::processor::Processor;

/// The host of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    /// Key of its generation.
    pub(super) generation: &'static str,
    /// Cores of one processor.
    pub(super) cores: u32,
    /// Threads of the host.
    pub(super) threads: u32,
    /// Processors of the host.
    pub(super) chips: u32,
    /// Watts of one processor.
    pub(super) tdp: u32,
}

const fn machine(generation: &'static str, cores: u32, threads: u32, chips: u32, tdp: u32) -> Machine {
    Machine { generation, cores, threads, chips, tdp }
}

/// Families, and what they run on; a size that runs on something else has a row of its own. Azure's are without the
/// letters of storage and memory (`s`, `d`, `l`, `i`).
const FAMILIES: &[(&[&str], Machine)] = &[
    // Amazon EC2
    (&["c4"], machine("haswell", 10, 40, 2, 135)),
    (&["x1", "x1e"], machine("haswell", 18, 144, 4, 150)),
    (&["m4", "r4", "i3", "p3", "g3", "f1", "h1", "t2"], machine("broadwell", 18, 72, 2, 145)),
    (&["m5", "m5d", "r5", "r5d", "t3", "i3en"], machine("skylake", 24, 96, 2, 240)),
    (&["c5", "c5d", "c5n"], machine("skylake", 18, 72, 2, 240)),
    (
        &["c5.12xlarge", "c5.24xlarge", "c5.metal", "c5d.12xlarge", "c5d.24xlarge", "c5d.metal"],
        machine("cascade", 24, 96, 2, 240),
    ),
    (&["z1d"], machine("skylake", 12, 48, 2, 240)),
    (&["m5n", "m5dn", "r5n", "r5dn", "r5b", "g4dn", "inf1"], machine("cascade", 24, 96, 2, 210)),
    (&["p4d", "p4de"], machine("cascade", 24, 96, 2, 240)),
    (&["m5a", "m5ad", "r5a", "r5ad", "t3a"], machine("zen1", 32, 128, 2, 200)),
    (&["c5a", "c5ad", "g4ad", "g5"], machine("zen2", 48, 192, 2, 280)),
    (&["m6a", "c6a", "r6a"], machine("zen3", 48, 192, 2, 225)),
    (
        &[
            "m6i", "m6id", "m6in", "m6idn", "c6i", "c6id", "c6in", "r6i", "r6id", "r6in", "r6idn", "i4i", "x2idn",
            "x2iedn", "trn1",
        ],
        machine("icelake", 32, 128, 2, 300),
    ),
    (&["m7i", "m7i-flex", "c7i", "c7i-flex", "r7i", "r7iz", "p5"], machine("sapphire", 48, 192, 2, 350)),
    (&["m7a", "c7a", "r7a"], machine("zen4", 96, 192, 2, 400)),
    (&["m8i", "m8i-flex", "c8i", "c8i-flex", "r8i", "r8i-flex"], machine("granite", 96, 384, 2, 500)),
    (&["m8a", "c8a", "r8a"], machine("zen5", 96, 192, 2, 400)),
    // Google Compute Engine
    (&["n1"], machine("skylake", 28, 112, 2, 165)),
    (&["n2d"], machine("zen2", 64, 256, 2, 240)),
    (&["c3"], machine("sapphire", 48, 192, 2, 350)),
    (&["c3d"], machine("zen4", 96, 384, 2, 360)),
    // Microsoft Azure
    (&["d_v3", "e_v3"], machine("broadwell", 20, 80, 2, 135)),
    (&["f_v2"], machine("skylake", 24, 96, 2, 205)),
    (&["d_v4", "e_v4"], machine("cascade", 26, 104, 2, 195)),
    (&["d_v5", "e_v5"], machine("icelake", 32, 128, 2, 205)),
    (&["da_v4", "ea_v4"], machine("zen2", 32, 128, 2, 155)),
    (&["da_v5", "ea_v5"], machine("zen3", 64, 256, 2, 280)),
    (&["da_v6", "ea_v6"], machine("zen4", 96, 384, 2, 360)),
];

/// The host of an instance type; nothing for one that is not known.
pub(super) fn find(kind: &str) -> Option<&'static Machine> {
    let row = |name: &str| FAMILIES.iter().find(|(names, _)| names.contains(&name)).map(|(_, machine)| machine);
    row(&kind.trim().to_ascii_lowercase()).or_else(|| row(&family(kind)?))
}

/// Whether it is a whole host: `m5.metal`, `c6i.metal-24xl`.
pub(super) fn is_metal(kind: &str) -> bool {
    let kind = kind.trim().to_ascii_lowercase();
    kind.split_once('.').is_some_and(|(_, size)| size.starts_with("metal")) || kind.ends_with("-metal")
}

/// Why a machine with so many CPUs, with this processor, cannot be an instance of this type; nothing where it can be.
/// It may have fewer CPUs than the type: clouds let threads and cores be left out, and CPUs can be taken offline.
pub(super) fn contradiction(kind: &str, cpus: u32, processor: Option<&Processor>) -> Option<String> {
    let is_flagged = processor.is_some_and(|processor| processor.hypervisor);
    if is_metal(kind) && is_flagged {
        return Some("which is a whole host, and this is a guest".into());
    }
    let machine = find(kind)?;
    let most = cpus_max(kind).map_or(machine.threads, |size| size.min(machine.threads));
    // One of two processors, a smaller one, and one thread a core, are an eighth.
    if cpus > most || is_metal(kind) && cpus < machine.threads / 8 {
        return Some(format!("which has {most} CPUs, and this machine {cpus}"));
    }
    let is_amd = machine.generation.starts_with("zen");
    let maker = if is_amd { "AMD" } else { "Intel" };
    let is_another = match processor.map_or("", |processor| processor.vendor.as_str()) {
        "" => false,
        "GenuineIntel" => is_amd,
        "AuthenticAMD" => !is_amd,
        _ => true,
    };
    is_another.then(|| format!("which runs on {maker}, and this machine does not"))
}

/// The most CPUs of an instance of this size: 8 of `m5.2xlarge`, `n2d-standard-8` and `Standard_D8s_v5`. Nothing where
/// the size is no number, as that of a whole host.
fn cpus_max(kind: &str) -> Option<u32> {
    let kind = kind.trim().to_ascii_lowercase();
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    if let Some(rest) = kind.strip_prefix("standard_") {
        // E16-4as_v5 has the memory of 16 and the CPUs of 4.
        let size = rest.split('_').next()?.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let few = size.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix('-');
        return number(few.unwrap_or(size));
    }
    let Some((_, size)) = kind.split_once('.') else { return number(kind.split('-').nth(2)?) };
    match size {
        "nano" | "micro" | "small" | "medium" | "large" => Some(2),
        "xlarge" => Some(4),
        "8xlarge" if kind.starts_with("c4.") => Some(36),
        _ => size.strip_suffix("xlarge")?.parse::<u32>().ok()?.checked_mul(4),
    }
}

/// `m5` of `m5.large`, `n2d` of `n2d-standard-8`, `da_v5` of `Standard_D4as_v5`.
fn family(kind: &str) -> Option<String> {
    let kind = kind.trim().to_ascii_lowercase();
    if let Some(rest) = kind.strip_prefix("standard_") {
        let (size, version) = rest.split_once('_').unwrap_or((rest, ""));
        let letters = size.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let series = size.strip_suffix(letters)?;
        // DS2_v2 is D2s_v2 in the older way of writing.
        let series = if series.len() > 1 { series.trim_end_matches('s') } else { series };
        let maker = letters.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
        let maker = maker.chars().find(|c| matches!(c, 'a' | 'p')).map_or(String::new(), String::from);
        let version = version.rsplit('_').next().unwrap_or_default();
        return Some(format!("{series}{maker}_{version}"));
    }
    let end = if kind.contains('.') { '.' } else { '-' };
    kind.split(end).next().filter(|family| !family.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::processor;
    use proptest::prelude::*;

    #[test]
    fn types_name_their_family() {
        let rows = [
            ("m5.large", "m5"),
            ("m7i-flex.2xlarge", "m7i-flex"),
            ("c6i.metal", "c6i"),
            ("n1-standard-4", "n1"),
            ("n2d-custom-4-8192", "n2d"),
            ("e2-medium", "e2"),
            ("Standard_D4s_v3", "d_v3"),
            ("Standard_D8ds_v5", "d_v5"),
            ("Standard_DS2_v2", "d_v2"),
            ("Standard_E16-4as_v5", "ea_v5"),
            ("Standard_D2ps_v5", "dp_v5"),
            ("Standard_F8s_v2", "f_v2"),
            ("Standard_NC4as_T4_v3", "nca_v3"),
            ("Standard_B2ms", "b_"),
            ("k3s", "k3s"),
        ];
        for (kind, name) in rows {
            assert_eq!(family(kind).as_deref(), Some(name), "{kind}");
        }
        assert_eq!(find("m5.large").map(|machine| machine.threads), Some(96));
        assert_eq!(find("Standard_D4s_v5").map(|machine| machine.generation), Some("icelake"));
        assert!(["k3s", "", ".", "standard_", "m6g.large", "ecs.g6.large"].iter().all(|kind| find(kind).is_none()));
        assert!(is_metal("c6i.metal-24xl") && is_metal("m5.metal") && !is_metal("m5.large"));
        assert!(is_metal(" M5.METAL") && is_metal("c3-standard-192-METAL"), "as M5.LARGE is known");
        assert_eq!(find("C5.24xlarge").map(|machine| machine.threads), Some(96), "larger than the other sizes' host");
    }

    #[test]
    fn a_size_is_the_most_cpus_that_there_can_be() {
        let rows = [
            ("t3.nano", Some(2)),
            ("m5.large", Some(2)),
            ("M5.4XLARGE", Some(16)),
            ("c4.8xlarge", Some(36)),
            ("m5.metal", None),
            ("c6i.metal-24xl", None),
            ("m5.99999999999xlarge", None),
            ("m5.2000000000xlarge", None),
            ("n2d-standard-8", Some(8)),
            ("c3-standard-8-lssd", Some(8)),
            ("n2d-custom-4-8192", Some(4)),
            ("c3-standard-192-metal", Some(192)),
            ("n1", None),
            ("Standard_D16ds_v5", Some(16)),
            ("Standard_E16-4as_v5", Some(4)),
            ("Standard_", None),
        ];
        for (kind, most) in rows {
            assert_eq!(cpus_max(kind), most, "{kind}");
        }
    }

    #[test]
    fn what_the_machine_contradicts_is_told_and_what_may_be_is_not() {
        let processor =
            |vendor: &str, hypervisor| Processor { vendor: vendor.into(), hypervisor, ..Processor::default() };
        let said = |kind: &str, cpus, vendor| contradiction(kind, cpus, Some(&processor(vendor, true)));
        assert_eq!(said("m5.large", 200, "GenuineIntel").unwrap(), "which has 2 CPUs, and this machine 200");
        assert_eq!(said("m6a.large", 2, "GenuineIntel").unwrap(), "which runs on AMD, and this machine does not");
        assert_eq!(said("m5.large", 2, "AuthenticAMD").unwrap(), "which runs on Intel, and this machine does not");
        assert_eq!(said("m5.large", 2, "0x41").unwrap(), "which runs on Intel, and this machine does not");
        assert_eq!(said("m5.metal", 96, "GenuineIntel").unwrap(), "which is a whole host, and this is a guest");
        assert_eq!(said("x.metal", 96, "GenuineIntel").unwrap(), "which is a whole host, and this is a guest");
        let few = contradiction("m5.metal", 2, Some(&processor("GenuineIntel", false)));
        assert_eq!(few.unwrap(), "which has 96 CPUs, and this machine 2");
        let right = [("m5.large", 2), ("m5.large", 1), ("m5.24xlarge", 2), ("c5.24xlarge", 96), ("k3s", 500)];
        for (kind, cpus) in right {
            assert_eq!(said(kind, cpus, "GenuineIntel"), None, "{kind}");
            assert_eq!(said(kind, cpus, ""), None, "{kind}: nothing is said of the processor");
            assert_eq!(contradiction(kind, cpus, None), None, "{kind}");
        }
        for cpus in [12, 48, 96] {
            assert_eq!(contradiction("m5.metal", cpus, Some(&processor("GenuineIntel", false))), None, "{cpus}");
        }
    }

    #[test]
    fn every_host_could_be_built() {
        for (names, machine) in FAMILIES {
            assert!(processor::by_key(machine.generation).is_some(), "{names:?}");
            let per_core = f64::from(machine.threads) / f64::from(machine.cores * machine.chips);
            assert!([1.0, 2.0].contains(&per_core), "{names:?}: {per_core} threads per core");
            assert!((100..=500).contains(&machine.tdp), "{names:?}");
        }
        let mut names: Vec<&str> = FAMILIES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "no family twice");
    }

    proptest! {
        #[test]
        fn no_type_panics(kind in "\\PC{0,40}", azure in "(?i)standard_\\PC{0,20}") {
            let _ = (find(&kind), find(&azure), is_metal(&kind), cpus_max(&kind), cpus_max(&azure));
            let _ = (contradiction(&kind, 1, None), contradiction(&azure, 1, None));
        }
    }
}
