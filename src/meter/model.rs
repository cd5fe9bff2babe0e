//! The estimator: idle and full watts per logical CPU from the processor's generation, and how busy the CPUs were.
//!
//! A plain default for machines on which nothing measures. Power is `threads · (idle + (full − idle) · u)` with u the
//! busy share of `/proc/stat` (idle, iowait and steal taken out). The figures are the medians per generation of
//! published `SPECpower_ssj2008` results, whole-server watts divided by hardware threads; a desktop or a busy cloud host
//! may well be off by a factor of two, so everything derived from it is marked `estimated`. It enters the sum only
//! while no package or whole-node meter can be read.

use std::sync::Arc;

use crate::activity::cpu::{self, CpuTimes};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::{Host, Kept};
use crate::meter::{Backend, Domain, Found, Meter, Quality, Reading, Role, Sensor, Value, Why, Zone};
use crate::unit::{Microjoules, Microwatts};

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "model", discover, fingerprint: |_| 0 };

/// The id of the estimator's zone.
pub const ZONE: &str = "model:cpu";

/// One processor generation: vendor, family, models, name, idle and full milliwatts per hardware thread.
struct Generation(&'static str, u32, &'static [u32], &'static str, u64, u64);

const INTEL: &str = "GenuineIntel";
const AMD: &str = "AuthenticAMD";
/// The models of `/proc/cpuinfo` (arch/x86/include/asm/intel-family.h; AMD by family and model range, see [`lookup`]).
const GENERATIONS: &[Generation] = &[
    Generation(INTEL, 6, &[26, 30, 31, 37, 44, 46, 47], "Nehalem/Westmere", 3373, 10936),
    Generation(INTEL, 6, &[42, 45], "Sandy Bridge", 1767, 7923),
    Generation(INTEL, 6, &[58, 62], "Ivy Bridge", 2192, 7013),
    Generation(INTEL, 6, &[60, 63, 69, 70], "Haswell", 700, 3993),
    Generation(INTEL, 6, &[61, 71, 79, 86], "Broadwell", 544, 3193),
    Generation(INTEL, 6, &[85], "Skylake/Cascade Lake server", 614, 4048),
    Generation(INTEL, 6, &[78, 94], "Skylake client", 1638, 5988),
    Generation(INTEL, 6, &[142, 158, 165, 166], "Kaby/Coffee/Comet Lake", 1050, 5975),
    Generation(INTEL, 6, &[106, 108], "Ice Lake server", 924, 4099),
    Generation(INTEL, 6, &[167], "Rocket Lake", 1281, 4875),
    Generation(INTEL, 6, &[151, 154, 183, 186, 191], "Alder/Raptor Lake", 1388, 5588),
    Generation(INTEL, 6, &[143], "Sapphire Rapids", 900, 3988),
    Generation(INTEL, 6, &[207], "Emerald Rapids", 828, 3275),
    Generation(INTEL, 6, &[173, 174], "Granite Rapids", 622, 2724),
    Generation(INTEL, 6, &[175], "Sierra Forest", 694, 2557),
    Generation(AMD, 23, &[1, 8, 17, 24], "Zen", 744, 2320),
    Generation(AMD, 23, &[49, 71, 96, 104, 113, 144, 160], "Zen 2", 437, 1664),
    Generation(AMD, 25, &[1, 8, 33, 68, 80], "Zen 3", 424, 1916),
    Generation(AMD, 25, &[17, 24, 97, 116, 117, 120, 160], "Zen 4", 328, 1665),
    Generation(AMD, 26, &[2, 17, 36, 68, 96, 112], "Zen 5", 214, 1169),
];
/// What an unknown processor is taken for: the median of the generations since 2017.
const UNKNOWN: Generation = Generation("", 0, &[], "unknown processor", 694, 3275);

struct Model {
    zones: [Arc<Zone>; 1],
    idle: Microwatts,
    span: Microwatts,
    stat: Kept,
    buffer: Vec<u8>,
    last: Option<(Timestamp, CpuTimes)>,
    total: Microjoules,
}

fn discover(host: &Host, _: &Config) -> Found {
    let mut info = Vec::new();
    let _ = host.read("proc/cpuinfo", &mut info);
    let cpus = cpu::online(host).max(1);
    let Generation(_, _, _, name, idle, full) = lookup(&info);
    let watts = |milliwatts: u64| Microwatts(milliwatts.saturating_mul(1000).saturating_mul(cpus));
    let zone = Zone {
        id: ZONE.into(),
        name: "cpu".into(),
        source: "model",
        domain: Domain::Package,
        role: Role::Unclassified,
        why: format!(
            "{name}: {cpus} CPUs at {}.{:03} to {}.{:03} W each (SPECpower medians, whole server)",
            idle / 1000,
            idle % 1000,
            full / 1000,
            full % 1000
        ),
        quality: Quality::Estimated,
        ambiguous: false,
        parent: None,
        claim: None,
        socket: None,
        whole: false,
        sensor: Sensor::microjoules(None),
        power_max: Microwatts(watts(*full).0.saturating_mul(2)),
        path: host.shown("proc/stat"),
    };
    Found::Meters(vec![Box::new(Model {
        zones: [Arc::new(zone)],
        idle: watts(*idle),
        span: Microwatts(watts(*full).0 - watts(*idle).0),
        stat: Kept::new("proc/stat".into()),
        buffer: Vec::new(),
        last: None,
        total: Microjoules::ZERO,
    })])
}

/// The generation that `/proc/cpuinfo` names.
fn lookup(info: &[u8]) -> &'static Generation {
    let text = String::from_utf8_lossy(&info[..info.len().min(8192)]);
    let field = |key: &str| {
        text.lines()
            .find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key))
            .map(|(_, value)| value.trim())
    };
    let (vendor, family, model) = (field("vendor_id"), field("cpu family"), field("model"));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    let (Some(vendor), Some(family), Some(model)) = (vendor, number(family), number(model)) else { return &UNKNOWN };
    GENERATIONS
        .iter()
        .find(|known| known.0 == vendor && known.1 == family && known.2.contains(&model))
        .unwrap_or(&UNKNOWN)
}

impl Meter for Model {
    fn stays(&self) -> bool {
        true
    }

    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        let value = match host.reread(&mut self.stat, &mut self.buffer) {
            Ok(()) => match CpuTimes::parse(&self.buffer) {
                Some(times) => {
                    self.advance(now, times);
                    Value::Ticks(self.total.0)
                }
                None => Value::Missing(Why::Malformed),
            },
            Err(errno) => Value::Missing(super::sysfs::why(errno)),
        };
        if let Some(out) = out.first_mut() {
            *out = Reading { at: now, value };
        }
    }
}

impl Model {
    fn advance(&mut self, now: Timestamp, times: CpuTimes) {
        if let Some((then, before)) = self.last {
            let awake = now.awake_since(then);
            let (busy, capacity) = times.busy_since(&before, awake);
            let above = u128::from(self.span.0) * u128::from(busy.0) / u128::from(capacity.0.max(1));
            let power = Microwatts(self.idle.0 + u64::try_from(above).unwrap_or(self.span.0).min(self.span.0));
            self.total += power.over(awake);
        }
        self.last = Some((now, times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_decides_and_an_unknown_one_is_said_to_be() {
        let info =
            b"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(lookup(info).3, "Zen 3");
        assert_eq!(lookup(b"vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\n").3, "Sapphire Rapids");
        assert_eq!(lookup(b"CPU implementer : 0x41\n").3, "unknown processor");
        assert_eq!(lookup(&[0xff; 100]).3, "unknown processor");
    }

    #[test]
    fn every_generation_draws_more_at_full_load() {
        assert!(GENERATIONS.iter().chain([&UNKNOWN]).all(|generation| generation.4 < generation.5));
    }
}
