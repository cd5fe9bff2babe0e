//! A processor's name as the kernel shows it, and what the table of [`cpus`] knows of it.
//!
//! `Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz` is `8175m` among the Xeons, `AMD EPYC 9654 96-Core Processor` is
//! `9654` among the EPYCs. A masked name (`Intel(R) Xeon(R) Processor @ 2.70GHz`, `AMD EPYC`) and that of an emulated
//! processor (`QEMU Virtual CPU version 2.5+`, `Intel Xeon Processor (Skylake, IBRS)`) is that of none.

use super::cpus;

/// Words that tell no processor from another, in lower case.
const FILLERS: &[&str] =
    &["intel", "amd", "xeon", "epyc", "opteron", "cpu", "processor", "platinum", "gold", "silver", "bronze", "genuine"];

/// What a data sheet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpu {
    /// Of one processor.
    pub(super) cores: Option<u32>,
    /// Whether a core has two threads.
    pub(super) smt: bool,
    /// Base clock in MHz.
    pub(super) mhz: Option<u32>,
    /// Watts of one processor.
    pub(super) tdp: u32,
}

/// The name without trade marks, clock and number of cores: `Intel Xeon Platinum 8175M`.
pub(super) fn plain(name: &str) -> String {
    let mut text = name.to_owned();
    for mark in ["(R)", "(r)", "(TM)", "(tm)"] {
        text = text.replace(mark, " ");
    }
    // What an emulated processor stands in brackets for says nothing of the real one.
    let text = text.split(['(', '@']).next().unwrap_or_default();
    let said = |word: &&str| !word.ends_with("-Core") && !["CPU", "Processor"].contains(word);
    text.split_ascii_whitespace().filter(said).collect::<Vec<_>>().join(" ")
}

/// What is known of the processor with this name.
pub(super) fn find(name: &str) -> Option<Cpu> {
    let plain = plain(name).to_ascii_lowercase();
    let table = [("xeon", cpus::XEON), ("epyc", cpus::EPYC), ("opteron", cpus::OPTERON)];
    let (_, table) = table.into_iter().find(|(brand, _)| plain.split(' ').any(|word| word == *brand))?;
    // "E5-2686 v4" is one name; a Xeon 6 says so with a word of its own.
    let words = plain.split(' ').filter(|word| !FILLERS.contains(word) && *word != "6");
    let key: String = words.collect();
    let entry = table.split(' ').find_map(|entry| entry.split_once('/').filter(|(known, _)| *known == key));
    let mut fields = entry?.1.split('/');
    let cores = fields.next()?;
    let mhz = fields.next()?.parse().ok();
    let tdp = fields.next()?.parse().ok()?;
    Some(Cpu { cores: cores.trim_end_matches('=').parse().ok(), smt: !cores.ends_with('='), mhz, tdp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_the_kernel_shows_them() {
        let tdps = [
            ("Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz", Some(240)),
            ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", Some(145)),
            ("Intel(R) Xeon(R) CPU           X5670  @ 2.93GHz", Some(95)),
            ("Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz", Some(125)),
            ("Intel(R) Xeon(R) E-2288G CPU @ 3.70GHz", Some(95)),
            ("INTEL(R) XEON(R) PLATINUM 8581V", Some(270)),
            ("Intel(R) Xeon(R) 6979P", Some(500)),
            ("Intel(R) Xeon(R) CPU D-1541 @ 2.10GHz", Some(45)),
            ("AMD EPYC 9654 96-Core Processor", Some(360)),
            ("AMD EPYC 7763 64-Core Processor", Some(280)),
            ("AMD EPYC 7R13 Processor", Some(225)),
            ("AMD Opteron(tm) Processor 6276", Some(115)),
            ("Intel(R) Xeon(R) Processor @ 2.70GHz", None),
            ("Intel(R) Xeon(R) CPU @ 2.20GHz", None),
            ("Intel Xeon Processor (Skylake, IBRS)", None),
            ("AMD EPYC", None),
            ("AMD EPYC-Milan Processor", None),
            ("QEMU Virtual CPU version 2.5+", None),
            ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", None),
            ("", None),
            ("@", None),
            ("(((é", None),
        ];
        for (name, tdp) in tdps {
            assert_eq!(find(name).map(|cpu| cpu.tdp), tdp, "{name}");
        }
        let known = Cpu { cores: Some(24), smt: true, mhz: None, tdp: 240 };
        assert_eq!(find("Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz"), Some(known));
        assert_eq!(plain("AMD EPYC 9654 96-Core Processor"), "AMD EPYC 9654");
        assert_eq!(plain("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz"), "Intel Xeon E5-2686 v4");
    }

    #[test]
    fn every_entry_reads() {
        let mut count = 0;
        for (brand, table) in [("xeon", cpus::XEON), ("epyc", cpus::EPYC), ("opteron", cpus::OPTERON)] {
            for entry in table.split(' ') {
                let name = entry.split('/').next().unwrap();
                let cpu = find(&format!("{brand} {name}")).unwrap_or_else(|| panic!("{brand} {entry}"));
                assert!((10..=1000).contains(&cpu.tdp), "{brand} {entry}");
                assert!(cpu.cores.is_none_or(|cores| (1..=300).contains(&cores)), "{brand} {entry}");
                assert!(cpu.mhz.is_none_or(|mhz| (500..=5000).contains(&mhz)), "{brand} {entry}");
                count += 1;
            }
        }
        assert!(count > 1000, "{count}");
    }
}
