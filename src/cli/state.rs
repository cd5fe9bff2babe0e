//! What is kept from one run to the next, in `state.directory`: `learner.json` (what zones draw at rest, as it was
//! learned) and `calibration.json` (as `wattribute calibrate` measured it).
//!
//! Nothing here is a condition for measuring: what cannot be read, or does not hold for this machine, is said once, and
//! the prior is used.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::agent::Agent;
use crate::attribute::learner::Estimate;
use crate::attribute::memory::{self, Kept, Machine, Memory};
use crate::config::{Config, Idle};
use crate::host::{self, Host};
use crate::telemetry;

const LEARNED: &str = "learner.json";
const CALIBRATION: &str = "calibration.json";

/// The agent's directory, and the machine that its files must be of.
#[derive(Debug)]
pub struct Keeper {
    directory: PathBuf,
    machine: Machine,
    failed: bool,
}

impl Keeper {
    /// The state of this machine; none if no directory is set, or nothing is to be learned.
    #[must_use]
    pub fn of(config: &Config, host: &Host) -> Option<Self> {
        let learns = matches!(config.attribution.idle, Idle::Learned | Idle::Watts(_));
        let directory = config.state.directory.clone().filter(|_| learns)?;
        Some(Self { directory, machine: machine(host), failed: false })
    }

    /// Gives the agent what was kept.
    pub fn load(&self, agent: &mut Agent) {
        let mut learned = BTreeMap::new();
        match host::state::read(&self.directory, LEARNED) {
            Ok(None) => {}
            Ok(Some(text)) => {
                let refuse = &mut |reason: String| self.refuse(LEARNED, &reason);
                learned = memory::read_learned(&text, &self.machine, agent.at().boot, refuse);
            }
            Err(error) => self.refuse(LEARNED, &error.to_string()),
        }
        agent.remember(Memory { learned, calibrated: self.calibrated() });
    }

    /// What was measured at rest before, as far as it holds here.
    #[must_use]
    pub fn calibrated(&self) -> BTreeMap<String, Kept<Estimate>> {
        match host::state::read(&self.directory, CALIBRATION) {
            Ok(None) => {}
            Ok(Some(text)) => {
                return memory::read_calibration(&text, &self.machine, &mut |reason: String| {
                    self.refuse(CALIBRATION, &reason);
                });
            }
            Err(error) => self.refuse(CALIBRATION, &error.to_string()),
        }
        BTreeMap::new()
    }

    fn refuse(&self, name: &str, reason: &str) {
        let path = self.directory.join(name);
        telemetry::warn(&format!("{}: {reason}; going on without it", path.display()));
    }

    /// Keeps what the agent has learned. A failure is said once. Where this boot cannot be told from others nothing is
    /// kept, for nobody could tell later what it holds for.
    pub fn save(&mut self, agent: &Agent) {
        let done = if let Some(reason) = self.machine.unknown_boot() {
            Err(reason.to_owned())
        } else {
            let text = memory::write_learned(&self.machine, &agent.memory().learned);
            host::state::write(&self.directory, LEARNED, &text).map_err(|error| error.to_string())
        };
        if let (Err(reason), false) = (&done, self.failed) {
            let path = self.directory.join(LEARNED);
            telemetry::warn(&format!("{}: {reason}; what is learned will be lost at the end", path.display()));
        }
        self.failed = done.is_err();
    }

    /// Makes the directory, and finds out whether a calibration can be kept in it: before it is measured.
    ///
    /// # Errors
    /// Why not, with the path.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let made = host::state::make(&self.directory).and_then(|()| host::state::check(&self.directory, CALIBRATION));
        if let Err(error) = made {
            let path = self.directory.display();
            anyhow::bail!("{path}: {error}; state.directory must be one that can be made and written");
        }
        if let Some(reason) = self.machine.unknown_processor() {
            anyhow::bail!("{reason}; what is measured here could not be told from another machine's");
        }
        Ok(())
    }

    /// Keeps what was measured at rest.
    ///
    /// # Errors
    /// What the kernel said, with the path.
    pub fn save_calibration(&self, calibrated: &BTreeMap<String, Kept<Estimate>>) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(CALIBRATION);
        let text = memory::write_calibration(&self.machine, calibrated);
        match host::state::write(&self.directory, CALIBRATION, &text) {
            Ok(()) => Ok(path),
            Err(error) => Err(anyhow::anyhow!("{}: {error}", path.display())),
        }
    }
}

/// Says what was kept of zones that are something else now.
pub fn warn_of_refused(agent: &mut Agent) {
    for reason in agent.take_refused() {
        telemetry::warn(&format!("what was kept is not used: {reason}"));
    }
}

/// What cannot be read is empty.
fn machine(host: &Host) -> Machine {
    let read = |path: &str| {
        let mut buffer = Vec::new();
        let text = host.read_some(path, &mut buffer, 16 << 10).map(|()| String::from_utf8_lossy(&buffer).into_owned());
        text.unwrap_or_default()
    };
    let boot = read("proc/sys/kernel/random/boot_id").trim().to_owned();
    Machine { boot, processor: processor(&read("proc/cpuinfo")) }
}

/// What the first processor of `/proc/cpuinfo` calls itself.
fn processor(info: &str) -> String {
    const KEYS: &[&str] = &[
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "model name",
        "CPU implementer",
        "CPU part",
        "CPU revision",
        // POWER, and RISC-V.
        "cpu",
        "revision",
        "uarch",
        "mvendorid",
        "marchid",
    ];
    let first = info.split("\n\n").next().unwrap_or_default();
    let lines = first.lines().filter_map(|line| line.split_once(':'));
    let told = lines.filter(|(key, _)| KEYS.contains(&key.trim())).map(|(_, value)| value.trim());
    told.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_told_from_others() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Xeon\ncpu MHz\t: 2500.1\n\nprocessor\t: 1\n";
        assert_eq!(processor(intel), "GenuineIntel 6 85 Xeon", "what differs by the moment is left out");
        assert_eq!(processor("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd40\n"), "0x41 0xd40");
        let power = "processor\t: 0\ncpu\t\t: POWER9\nclock\t\t: 2300.0MHz\nrevision\t: 2.2\n\n";
        assert_eq!(processor(power), "POWER9 2.2");
        let risc = "processor\t: 0\nhart\t: 1\nisa\t: rv64\nuarch\t: sifive,u74\nmvendorid\t: 0x489\nmarchid\t: 0x8\n";
        assert_eq!(processor(risc), "sifive,u74 0x489 0x8");
        assert_eq!(processor(""), "");
    }
}
