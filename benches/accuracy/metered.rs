//! A small machine in memory with meters and a load, and the real agent on it: for rows about zones, not workloads.
//!
//! Each step writes `/proc/stat` (whole ticks of 1/100 s, what is cut off comes later) and the meters' files, then steps
//! the agent. RAPL zones are counters in µJ that wrap at the usual 262 kJ; the ACPI power meter is a gauge in µW that
//! shows the mean power of the step.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::Config;
use wattribute::export::{Snapshot, ZoneBook};
use wattribute::host::Host;
use wattribute::host::memory::Memory;

/// Where a RAPL counter of the usual unit wraps, µJ.
pub const RANGE: u64 = 262_143_328_850;

/// What measures.
#[derive(Clone, Copy)]
pub enum Sensor {
    /// A powercap zone: its directory below `intel-rapl`, and its name.
    Rapl(&'static str, &'static str),
    /// The ACPI power meter, which sees the whole machine.
    Acpi,
}

impl Sensor {
    fn file(self) -> String {
        match self {
            Self::Rapl(id, _) => format!("sys/class/powercap/intel-rapl:{id}/energy_uj"),
            Self::Acpi => "sys/devices/LNXSYSTM:00/ACPI000D:00/power1_average".to_owned(),
        }
    }

    fn is_of(self, book: &ZoneBook) -> bool {
        match self {
            Self::Rapl(_, name) => book.zone.id.ends_with(name),
            Self::Acpi => book.zone.source == "hwmon",
        }
    }
}

/// The machine with its agent.
pub struct Metered {
    agent: Agent,
    now: Timestamp,
    cpus: u32,
    /// Ticks that the CPUs had and were busy for.
    ticks: [f64; 2],
    sensors: Vec<(Sensor, f64)>,
}

/// Writes a file of a machine in memory.
pub fn write(memory: &mut Memory, path: &str, text: &str) {
    memory.set_file(path, text.as_bytes()).unwrap_or_else(|errno| panic!("{path}: {errno}"));
}

/// `/proc/stat` of a machine with so many CPUs, in ticks.
pub fn stat(cpus: u32, busy: u64, rest: u64) -> String {
    let mut text = format!("cpu  {busy} 0 0 {rest} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let _ = writeln!(text, "cpu{cpu} 0");
    }
    text
}

/// Makes the files of a powercap zone.
pub fn powercap(memory: &mut Memory, id: &str, name: &str, range: u64, watts_max: u64) {
    let dir = format!("sys/class/powercap/intel-rapl:{id}");
    write(memory, &format!("{dir}/name"), &format!("{name}\n"));
    write(memory, &format!("{dir}/max_energy_range_uj"), &format!("{range}\n"));
    write(memory, &format!("{dir}/constraint_0_max_power_uw"), &format!("{}\n", watts_max * 1_000_000));
    write(memory, &format!("{dir}/energy_uj"), "0\n");
}

/// Makes the files of the ACPI power meter.
pub fn acpi(memory: &mut Memory) {
    let link = memory.set_link("sys/class/hwmon/hwmon0/device", "../../../devices/LNXSYSTM:00/ACPI000D:00");
    link.unwrap_or_else(|errno| panic!("the link of hwmon0: {errno}"));
    write(memory, "sys/devices/LNXSYSTM:00/ACPI000D:00/name", "power_meter\n");
    write(memory, &Sensor::Acpi.file(), "1000000\n");
}

impl Metered {
    /// A machine with `cpus` CPUs.
    pub fn new(cpus: u32, sensors: &[Sensor]) -> Self {
        let mut memory = Memory::default();
        write(&mut memory, "proc/uptime", "1000.00 1.00\n");
        write(&mut memory, "proc/stat", &stat(cpus, 0, 0));
        write(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
        for sensor in sensors {
            match sensor {
                Sensor::Rapl(id, name) => powercap(&mut memory, id, name, RANGE, 500),
                Sensor::Acpi => acpi(&mut memory),
            }
        }
        let now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
        let mut agent = Agent::new(Host::memory(memory), Config::default(), now);
        agent.step(now);
        let sensors = sensors.iter().map(|sensor| (*sensor, 0.0)).collect();
        Self { agent, now, cpus, ticks: [0.0; 2], sensors }
    }

    /// Lives for `seconds` with `busy` CPUs busy and these watts at each sensor.
    pub fn step(&mut self, seconds: f64, busy: f64, watts: &[f64]) -> Arc<Snapshot> {
        self.now.boot += Duration::from_secs_f64(seconds);
        self.now.wall += Duration::from_secs_f64(seconds);
        self.ticks[0] += 100.0 * seconds * f64::from(self.cpus);
        self.ticks[1] += 100.0 * seconds * busy;
        let (all, busy) = (self.ticks[0].floor() as u64, self.ticks[1].floor() as u64);
        let (cpus, sensors) = (self.cpus, &mut self.sensors);
        self.agent.host().with_memory(|memory| {
            write(memory, "proc/stat", &stat(cpus, busy, all.saturating_sub(busy)));
            for ((sensor, joules), watts) in sensors.iter_mut().zip(watts) {
                *joules += watts * seconds;
                let number = match sensor {
                    Sensor::Rapl(..) => (*joules * 1e6) as u64 % RANGE,
                    Sensor::Acpi => (watts * 1e6) as u64,
                };
                write(memory, &sensor.file(), &format!("{number}\n"));
            }
        });
        self.agent.step(self.now);
        self.agent.snapshot()
    }

    /// What the agent takes the zone of a sensor to draw at rest, and how far off that may be, W.
    pub fn at_rest(&self, sensor: Sensor) -> Option<(f64, f64)> {
        let snapshot = self.agent.snapshot();
        let found = snapshot.zones.iter().find(|book| sensor.is_of(book))?.at_rest?;
        Some((found.watts, found.error))
    }
}
