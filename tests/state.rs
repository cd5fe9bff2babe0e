//! What was learned of a machine at rest goes on in the next run, and only where it holds.

// A test may panic, and reads files of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, mknodat, open};
use rustix::process::{Pid, Signal, kill_process};
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
    start: u64,
    tick: u64,
    energy: u64,
    busy: u64,
}

fn at(seconds: u64) -> Timestamp {
    Timestamp { boot: Duration::from_secs(seconds), ..Timestamp::default() }
}

impl Machine {
    fn new(directory: &Path, change: impl FnOnce(&mut Memory)) -> Self {
        Self::started(1000, directory, change)
    }

    /// The next run, later.
    fn later(directory: &Path, change: impl FnOnce(&mut Memory)) -> Self {
        Self::started(2000, directory, change)
    }

    fn started(start: u64, directory: &Path, change: impl FnOnce(&mut Memory)) -> Self {
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
        let mut agent = Agent::new(host, config, at(start));
        keeper.load(&mut agent);
        agent.step(at(start));
        Self { agent, keeper, start, tick: 0, energy: 0, busy: 0 }
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
        self.agent.step(at(self.start + self.tick));
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
    assert_eq!(Machine::later(home.path(), |_| ()).second(50), Source::Learned, "it goes on");
    assert_eq!(Machine::new(home.path(), |_| ()).second(50), Source::Prior, "what is dated after now is not believed");

    let later = |memory: &mut Memory| set(memory, BOOT, "6b1a3f0c-0000-4000-8000-000000000002\n");
    assert_eq!(Machine::later(home.path(), later).second(50), Source::Prior, "another boot");
    let other = |memory: &mut Memory| {
        set(
            memory,
            "proc/cpuinfo",
            "processor : 0\nvendor_id : AuthenticAMD\ncpu family : 25\nmodel : 1\nstepping : 1\n",
        );
    };
    assert_eq!(Machine::later(home.path(), other).second(50), Source::Prior, "another processor");
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
    let mut second = Machine::later(home.path(), |_| ());
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

#[test]
fn where_the_boot_cannot_be_told_nothing_is_kept_and_nothing_taken() {
    let home = tempfile::tempdir().unwrap();
    let unknown = |memory: &mut Memory| memory.remove(BOOT).unwrap();
    let mut first = Machine::new(home.path(), unknown);
    for load in [20, 60, 40, 80, 30, 70].into_iter().cycle().take(30) {
        first.second(load);
    }
    first.keeper.save(&first.agent);
    assert_eq!(home.path().read_dir().unwrap().count(), 0);
    let mut known = Machine::new(home.path(), |_| ());
    for load in [20, 60, 40, 80, 30, 70].into_iter().cycle().take(30) {
        known.second(load);
    }
    known.keeper.save(&known.agent);
    let path = home.path().join("learner.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("6b1a3f0c-0000-4000-8000-000000000001", "")).unwrap();
    assert_eq!(Machine::later(home.path(), unknown).second(50), Source::Prior, "two that are unknown are not the same");
}

/// A machine as files, whose package draws 30 W and its memory 6 W, and which has nothing to do.
fn machine(root: &Path) {
    let file = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    file("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nstepping : 7\n");
    file(BOOT, "6b1a3f0c-0000-4000-8000-000000000001\n");
    for (zone, name) in [("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "dram")] {
        file(&format!("sys/class/powercap/{zone}/name"), &format!("{name}\n"));
        file(&format!("sys/class/powercap/{zone}/max_energy_range_uj"), "262143328850\n");
    }
    std::fs::create_dir_all(root.join("dev")).unwrap();
    tell(root, 0, 0);
}

/// What the machine shows after so many hundredths of a second.
fn tell(root: &Path, hundredths: u64, busy: u64) {
    // Each in one write(2) over the old text, so that no reader sees half of it.
    let put = |path: &str, text: String| {
        use std::io::Write as _;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(false).open(root.join(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let idle = hundredths - busy;
    put("proc/stat", format!("cpu  {busy:010} 0 0 {idle:010} 0 0 0 0\ncpu0 {busy:010} 0 0 {idle:010} 0 0 0 0\n"));
    put("sys/class/powercap/intel-rapl:0/energy_uj", format!("{:012}\n", hundredths * 300_000));
    put("sys/class/powercap/intel-rapl:0:0/energy_uj", format!("{:012}\n", hundredths * 60_000));
}

/// Runs the program on that machine for as long as it takes, or until it is told to stop.
fn program(root: &Path, state: &Path, args: &[&str], stop: Option<Duration>) -> (Option<i32>, String) {
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    let sets = [
        set("host.proc", &root.join("proc")),
        set("host.sys", &root.join("sys")),
        set("host.dev", &root.join("dev")),
        set("state.directory", state),
        "export.otlp.enabled=false".into(),
        "export.stdout.format=json".into(),
        "kubernetes.mode=off".into(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattribute"));
    for set in sets {
        command.args(["--set", &set]);
    }
    let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (done, over) = std::sync::mpsc::channel::<()>();
    let (root, began) = (root.to_owned(), std::time::Instant::now());
    let clock = std::thread::spawn(move || {
        let mut told = false;
        while over.recv_timeout(Duration::from_millis(10)).is_err() {
            let passed = began.elapsed();
            tell(&root, u64::try_from(passed.as_millis()).unwrap() / 10, 0);
            if stop.is_some_and(|stop| passed > stop) && !std::mem::replace(&mut told, true) {
                kill_process(pid, Signal::TERM).unwrap();
            }
            if passed > Duration::from_secs(30) {
                // It hangs: its exit code then says so.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    done.send(()).unwrap();
    clock.join().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

#[test]
fn a_calibration_makes_its_directory_and_leaves_what_was_kept_of_other_zones() {
    let home = tempfile::tempdir().unwrap();
    let (root, state) = (home.path().join("root"), home.path().join("state"));
    machine(&root);
    let (code, said) = program(&root, &home.path().join("no/such"), &["calibrate", "--for", "1h"], None);
    assert_eq!(code, Some(1), "before anything is measured: {said}");
    assert!(said.contains("no/such: No such file or directory"), "{said}");
    assert!(said.contains("; state.directory must be one that can be made and written"), "{said}");

    let (code, said) = program(&root, &state, &["calibrate", "--for", "10s"], None);
    assert_eq!(code, Some(0), "{said}");
    let kept = || std::fs::read_to_string(state.join("calibration.json")).unwrap();
    assert!(kept().contains("\"rapl:package-0\"") && kept().contains("\"rapl:package-0/dram\""), "{said}");

    std::fs::remove_dir_all(root.join("sys/class/powercap/intel-rapl:0:0")).unwrap();
    std::fs::create_dir_all(root.join("sys/class/powercap/intel-rapl:0:0")).unwrap();
    let (code, said) = program(&root, &state, &["calibrate", "--for", "10s"], None);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\nrapl:package-0/dram: left as it was: "), "{said}");
    assert!(kept().contains("\"rapl:package-0/dram\""), "{}", kept());
}

#[test]
fn without_the_lock_a_run_uses_what_was_kept_and_keeps_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (root, state) = (home.path().join("root"), home.path().join("state"));
    machine(&root);
    std::fs::create_dir_all(state.join("lock")).unwrap();
    let text = r#"{"version": 1, "processor": "GenuineIntel 6 85 7", "zones":
        {"rapl:package-0": {"meaning": "rapl package measured", "idle_w": 21.5, "error_w": 0.2}}}"#;
    std::fs::write(state.join("calibration.json"), text).unwrap();
    let (code, said) = program(&root, &state, &["run"], Some(Duration::from_millis(2500)));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(r#""idle_w":21.5"#) && said.contains(r#""idle_source":"calibrated""#), "{said}");
    assert!(said.contains("state.directory: nothing that is learned will be kept in it"), "{said}");
    assert!(!state.join("learner.json").exists());
}

#[test]
fn a_pipe_in_the_state_directory_stops_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (root, state) = (home.path().join("root"), home.path().join("state"));
    machine(&root);
    std::fs::create_dir(&state).unwrap();
    let place = open(&state, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for name in [".learner.json.new", "learner.json", "calibration.json", "lock"] {
        mknodat(&place, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let (code, said) = program(&root, &state, &["run"], Some(Duration::from_millis(2500)));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("learner.json: not a regular file; going on without it"), "{said}");
    std::fs::remove_file(state.join("lock")).unwrap();
    let (code, said) = program(&root, &state, &["run"], Some(Duration::from_millis(2500)));
    assert_eq!(code, Some(0), "{said}");
    let kept = std::fs::read_to_string(state.join("learner.json")).unwrap();
    assert!(kept.contains("\"rapl:package-0\""), "what was learned took the pipe's place: {kept}");
}
