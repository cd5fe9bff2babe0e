//! What is kept from one run to the next, in `state.directory`: `learner.json` (what zones draw at rest, as it was
//! learned) and `calibration.json` (as `wattribute calibrate` measured it).
//!
//! Nothing here is a condition for measuring: what cannot be read, or does not hold for this machine, is said once, and
//! the prior is used.

use std::path::PathBuf;

use crate::agent::Agent;
use crate::attribute::memory::{self, Machine, Memory};
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
        let refuse = |name: &str, reason: String| {
            let path = self.directory.join(name);
            telemetry::warn(&format!("{}: {reason}; going on without it", path.display()));
        };
        let mut found = Memory::default();
        match host::state::read(&self.directory, LEARNED) {
            Ok(None) => {}
            Ok(Some(text)) => {
                found.learned = memory::read_learned(&text, &self.machine, &mut |reason| refuse(LEARNED, reason));
            }
            Err(error) => refuse(LEARNED, error.to_string()),
        }
        match host::state::read(&self.directory, CALIBRATION) {
            Ok(None) => {}
            Ok(Some(text)) => {
                found.calibrated =
                    memory::read_calibration(&text, &self.machine, &mut |reason| refuse(CALIBRATION, reason));
            }
            Err(error) => refuse(CALIBRATION, error.to_string()),
        }
        agent.remember(found);
    }

    /// Keeps what the agent has learned. A failure is said once.
    pub fn save(&mut self, agent: &Agent) {
        let text = memory::write_learned(&self.machine, &agent.memory().learned);
        let done = host::state::write(&self.directory, LEARNED, &text);
        if let (Err(error), false) = (&done, self.failed) {
            let path = self.directory.join(LEARNED);
            telemetry::warn(&format!("{}: {error}; what is learned will be lost at the end", path.display()));
        }
        self.failed = done.is_err();
    }

    /// Keeps what was measured at rest.
    ///
    /// # Errors
    /// What the kernel said, with the path.
    pub fn save_calibration(&self, measured: &Memory) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(CALIBRATION);
        let text = memory::write_calibration(&self.machine, &measured.calibrated);
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

fn machine(host: &Host) -> Machine {
    let mut buffer = Vec::new();
    let _ = host.read("proc/sys/kernel/random/boot_id", &mut buffer);
    let boot = String::from_utf8_lossy(&buffer).trim().to_owned();
    let _ = host.read_some("proc/cpuinfo", &mut buffer, 16 << 10);
    Machine { boot, processor: processor(&String::from_utf8_lossy(&buffer)) }
}

/// What the first processor of `/proc/cpuinfo` calls itself.
fn processor(info: &str) -> String {
    const KEYS: &[&str] =
        &["vendor_id", "cpu family", "model", "stepping", "model name", "CPU implementer", "CPU part", "CPU revision"];
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
        assert_eq!(processor(""), "");
    }
}
