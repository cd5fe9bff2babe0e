//! What kind of host an instance of a cloud runs on, by its type: `m5.large`, `n2d-standard-8`, `Standard_D4s_v5`.
//!
//! The type is what the node label `node.kubernetes.io/instance-type`, DMI (AWS Nitro: `product_name`) or the user says.
//! Clouds publish processors and the largest size, not boards, so a host is taken to have two processors of that kind
//! unless something else is known. Processors that are made for one cloud have no data sheet: their TDP is that of the
//! nearest one that has. A family that runs on several generations has the oldest here: what `/proc/cpuinfo` says of
//! the generation, and a name that is in the table of processors, count for more.

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

/// Families, and what they run on. Azure's are without the letters of storage and memory (`s`, `d`, `l`, `i`).
const FAMILIES: &[(&[&str], Machine)] = &[
    // Amazon EC2
    (&["c4"], machine("haswell", 10, 40, 2, 135)),
    (&["x1", "x1e"], machine("haswell", 18, 144, 4, 150)),
    (&["m4", "r4", "i3", "p3", "g3", "f1", "h1", "t2"], machine("broadwell", 18, 72, 2, 145)),
    (&["m5", "m5d", "r5", "r5d", "t3", "i3en"], machine("skylake", 24, 96, 2, 240)),
    (&["c5", "c5d", "c5n"], machine("skylake", 18, 72, 2, 240)),
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
    let family = family(kind)?;
    FAMILIES.iter().find(|(names, _)| names.contains(&family.as_str())).map(|(_, machine)| machine)
}

/// Whether it is a whole host: `m5.metal`, `c6i.metal-24xl`.
pub(super) fn is_metal(kind: &str) -> bool {
    kind.split_once('.').is_some_and(|(_, size)| size.starts_with("metal")) || kind.ends_with("-metal")
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
            let _ = (find(&kind), find(&azure), is_metal(&kind));
        }
    }
}
