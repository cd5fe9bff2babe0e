//! Row B: a real machine again, a two-socket Xeon E5-2667v3 (32 CPUs), 2,202 samples of 3 s of package, DRAM and platform.
//!
//! The trace (`nx12_trace_3s.csv` of kepler-model-db, Apache-2.0) is not part of this repository; without it the row is
//! skipped. The agent sees the samples with work only, one after another, and never the machine at rest; what it makes of
//! that is compared with the median of the samples at rest. Package and DRAM are RAPL zones of one machine; the platform
//! is the ACPI power meter of another one, since beside a package the agent learns only the rest of the machine. Beside
//! all samples, each clock that was set in the trace is a machine of its own.

use std::path::PathBuf;

use super::curves::{fields, median};
use super::metered::{Metered, Sensor};
use super::rules::Samples;
use super::table::Table;

const CPUS: u32 = 32;
const SECONDS: f64 = 3.0;
/// How far the power at rest may be off, in %.
const BOUND: f64 = 30.0;

const ZONES: [(&str, &str, Sensor); 3] = [
    ("package", "package_power", Sensor::Rapl("0", "package-0")),
    ("DRAM", "dram_power", Sensor::Rapl("0:0", "dram")),
    ("platform", "platform_power", Sensor::Acpi),
];

/// One sample: busy CPUs, watts by zone, the clock that was set, and whether there was work.
struct Sample {
    busy: f64,
    watts: [f64; 3],
    clock: String,
    works: bool,
}

/// Where a file of the shared data may be.
fn paths(name: &str) -> Vec<PathBuf> {
    let told = std::env::var_os("WATTRIBUTE_SHARED").map(PathBuf::from);
    let beside = std::env::var_os("CARGO_MANIFEST_DIR").map(|dir| PathBuf::from(dir).join("../shared"));
    let usual = Some(PathBuf::from("../shared"));
    [told, beside, usual].into_iter().flatten().map(|dir| dir.join("data").join(name)).collect()
}

/// The rows.
pub fn rows(table: &mut Table) -> Result<(), String> {
    table.part("B  idle power of a Xeon E5-2667v3 from its trace, error in %", 1, &["ratio", "intercept", "minimum"]);
    let Some(text) = paths("nx12_trace_3s.csv").iter().find_map(|path| std::fs::read_to_string(path).ok()) else {
        table.skipped("package, DRAM, platform", "no data (../shared/data/nx12_trace_3s.csv)");
        return Ok(());
    };
    let samples = parse(&text)?;
    let truth: [f64; 3] = std::array::from_fn(|zone| {
        median(samples.iter().filter(|one| !one.works).map(|one| one.watts[zone]).collect())
    });
    let mut clocks: Vec<&str> = samples.iter().map(|one| one.clock.as_str()).collect();
    clocks.sort_unstable();
    clocks.dedup();
    let busy: Vec<&Sample> = samples.iter().filter(|one| one.works).collect();
    replay(table, &format!("all {} busy samples", busy.len()), &busy, &truth);
    for clock in clocks {
        let some: Vec<&Sample> = busy.iter().copied().filter(|one| one.clock == clock).collect();
        replay(table, &format!("{} at {clock} GHz", some.len()), &some, &truth);
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let mut lines = text.lines().map(fields);
    let header = lines.next().ok_or("an empty trace")?;
    let column = |name: &str| header.iter().position(|known| known == name).ok_or(format!("no column {name}"));
    let (busy, work, clock) = (column("busy_cpus")?, column("wl")?, column("set_ghz")?);
    let mut watts = [0; 3];
    for (at, zone) in watts.iter_mut().zip(ZONES) {
        *at = column(zone.1)?;
    }
    let sample = |row: Vec<String>| {
        let number = |at: usize| row.get(at).and_then(|text| text.parse().ok());
        let works = row.get(work)? != "idle";
        let watts = [number(watts[0])?, number(watts[1])?, number(watts[2])?];
        Some(Sample { busy: number(busy)?, watts, clock: row.get(clock)?.clone(), works })
    };
    lines.map(|row| sample(row).ok_or_else(|| "a sample without a number".to_owned())).collect()
}

/// Shows `samples` to two machines, and compares what they make of them.
fn replay(table: &mut Table, what: &str, samples: &[&Sample], truth: &[f64; 3]) {
    let mut parts = Metered::new(CPUS, &[ZONES[0].2, ZONES[1].2]);
    let mut whole = Metered::new(CPUS, &[ZONES[2].2]);
    let mut seen: [Samples; 3] = Default::default();
    for sample in samples {
        parts.step(SECONDS, sample.busy, &sample.watts[..2]);
        whole.step(SECONDS, sample.busy, &sample.watts[2..]);
        for (seen, watts) in seen.iter_mut().zip(sample.watts) {
            seen.push(sample.busy / f64::from(CPUS), watts);
        }
    }
    for (zone, (name, _, sensor)) in ZONES.iter().enumerate() {
        let machine = if zone < 2 { &parts } else { &whole };
        let found = machine.at_rest(*sensor).map_or(f64::NAN, |found| found.0);
        let off = |watts: f64| 100.0 * (watts / truth[zone] - 1.0);
        let others = [seen[zone].ratio(), seen[zone].intercept(), seen[zone].minimum()].map(off);
        table.bounded(&format!("{name} ({:.1} W), {what}", truth[zone]), off(found), BOUND, &others);
    }
}
