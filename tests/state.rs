//! What was learned of a machine at rest goes on in the next run, and only where it holds.

// A test may panic, and reads files of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::path::Path;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::attribute::learner::Source;
use wattribute::cli::state::Keeper;
use wattribute::clock::Timestamp;
use wattribute::config::{Config, Sources};
use wattribute::host::Host;
use wattribute::host::memory::Memory;

const BOOT: &str = "proc/sys/kernel/random/boot_id";

fn set(memory: &mut Memory, path: &str, text: &str) {
    memory.set_file(path, text.as_bytes()).unwrap();
}

/// A package that draws 20 W at rest and 60 W more at full load.
struct Machine {
    agent: Agent,
    keeper: Keeper,
    tick: u64,
    energy: u64,
    busy: u64,
}

fn at(seconds: u64) -> Timestamp {
    Timestamp { boot: Duration::from_secs(1000 + seconds), ..Timestamp::default() }
}

impl Machine {
    fn new(directory: &Path, change: impl FnOnce(&mut Memory)) -> Self {
        let mut memory = Memory::default();
        set(&mut memory, BOOT, "6b1a3f0c-0000-4000-8000-000000000001\n");
        set(
            &mut memory,
            "proc/cpuinfo",
            "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nstepping : 7\n",
        );
        set(&mut memory, "proc/uptime", "1000.00 0.00\n");
        set(&mut memory, "proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n");
        set(&mut memory, "sys/class/powercap/intel-rapl:0/name", "package-0\n");
        set(&mut memory, "sys/class/powercap/intel-rapl:0/energy_uj", "0\n");
        set(&mut memory, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
        change(&mut memory);
        let host = Host::memory(memory);
        let sets = [format!("state.directory={}", directory.display())];
        let env: [(String, String); 0] = [];
        let config = Config::load(Sources { file: None, env, sets: &sets }).unwrap().config;
        let keeper = Keeper::of(&config, &host).unwrap();
        let mut agent = Agent::new(host, config, at(0));
        keeper.load(&mut agent);
        agent.step(at(0));
        Self { agent, keeper, tick: 0, energy: 0, busy: 0 }
    }

    /// One second at this load, in percent; where the power at rest then comes from.
    fn second(&mut self, load: u64) -> Source {
        self.tick += 1;
        self.busy += load;
        self.energy += 20_000_000 + 600_000 * load;
        let (busy, idle, energy) = (self.busy, 100 * self.tick - self.busy, self.energy);
        self.agent.host().with_memory(|memory| {
            set(memory, "proc/stat", &format!("cpu  {busy} 0 0 {idle} 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0\n"));
            set(memory, "sys/class/powercap/intel-rapl:0/energy_uj", &format!("{energy}\n"));
        });
        self.agent.step(at(self.tick));
        self.agent.snapshot().zones[0].at_rest.unwrap().source
    }
}

#[test]
fn what_was_learned_goes_on_in_the_same_boot_of_the_same_machine() {
    let home = tempfile::tempdir().unwrap();
    let mut first = Machine::new(home.path(), |_| ());
    assert_eq!(first.second(50), Source::Prior);
    for load in [20, 60, 40, 80, 30, 70].into_iter().cycle().take(30) {
        first.second(load);
    }
    assert_eq!(first.second(50), Source::Learned);
    let Machine { agent, mut keeper, .. } = first;
    keeper.save(&agent);
    let size = std::fs::metadata(home.path().join("learner.json")).unwrap().len();
    assert!(size < 2048, "{size} bytes for one zone");
    assert_eq!(Machine::new(home.path(), |_| ()).second(50), Source::Learned, "it goes on");

    let later = |memory: &mut Memory| set(memory, BOOT, "6b1a3f0c-0000-4000-8000-000000000002\n");
    assert_eq!(Machine::new(home.path(), later).second(50), Source::Prior, "another boot");
    let other = |memory: &mut Memory| {
        set(
            memory,
            "proc/cpuinfo",
            "processor : 0\nvendor_id : AuthenticAMD\ncpu family : 25\nmodel : 1\nstepping : 1\n",
        );
    };
    assert_eq!(Machine::new(home.path(), other).second(50), Source::Prior, "another processor");
}

#[test]
fn a_zone_whose_id_means_something_else_is_told_and_starts_anew() {
    let home = tempfile::tempdir().unwrap();
    let mut first = Machine::new(home.path(), |_| ());
    for load in [20, 60, 40, 80, 30, 70].into_iter().cycle().take(30) {
        first.second(load);
    }
    first.keeper.save(&first.agent);
    let path = home.path().join("learner.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("rapl package measured"), "{text}");
    std::fs::write(&path, text.replace("rapl package measured", "rapl dram measured")).unwrap();
    let mut second = Machine::new(home.path(), |_| ());
    assert_eq!(second.second(50), Source::Prior);
    let refused = second.agent.take_refused();
    assert_eq!(refused, ["zone rapl:package-0: it was \"rapl dram measured\" and is \"rapl package measured\""]);
    assert!(second.agent.take_refused().is_empty(), "said once");
}

#[test]
fn a_torn_file_and_one_that_nobody_may_read_leave_the_prior() {
    let home = tempfile::tempdir().unwrap();
    for text in ["", "{", "{\"version\":1}", "\u{0}\u{0}\u{0}", "[1,2,3]"] {
        std::fs::write(home.path().join("learner.json"), text).unwrap();
        std::fs::write(home.path().join("calibration.json"), text).unwrap();
        assert_eq!(Machine::new(home.path(), |_| ()).second(50), Source::Prior, "{text:?}");
    }
    std::fs::remove_file(home.path().join("learner.json")).unwrap();
    std::fs::create_dir(home.path().join("learner.json")).unwrap();
    assert_eq!(Machine::new(home.path(), |_| ()).second(50), Source::Prior, "a directory");
}

#[test]
fn a_calibration_outlives_a_boot_and_beats_what_is_learned() {
    let home = tempfile::tempdir().unwrap();
    let text = r#"{"version": 1, "processor": "GenuineIntel 6 85 7", "zones":
        {"rapl:package-0": {"meaning": "rapl package measured", "idle_w": 21.5, "error_w": 0.2}}}"#;
    std::fs::write(home.path().join("calibration.json"), text).unwrap();
    let later = |memory: &mut Memory| set(memory, BOOT, "6b1a3f0c-0000-4000-8000-000000000003\n");
    let mut machine = Machine::new(home.path(), later);
    assert_eq!(machine.second(100), Source::Calibrated);
    assert_eq!(machine.agent.snapshot().zones[0].idle.0, 21_500_000);
}
