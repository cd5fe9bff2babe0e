//! What a tick costs: `make bench`.
//!
//! `live` makes 200 cgroups of 50 sleeping processes each, real ones, and measures the CPU time of a tick of the agent
//! beside the bare system calls that no agent could do without, in the same run. Which cgroups are busy is decided by
//! stopping and continuing one process in each before a tick. The other modes run on a machine in memory, for
//! instruction counts: `idle`, `busy20`, `busy200` (ticks) and `encode` (one OTLP request of 1,000 containers in 4
//! zones). Allocations are counted by the allocator itself.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]
#![allow(unsafe_code)] // a global allocator cannot be had without

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use wattribute::agent::Agent;
use wattribute::clock::{self, Timestamp};
use wattribute::config::{Config, ProcessExport, Processes};
use wattribute::export::otlp::{Encoder, NodeResource};
use wattribute::host::Host;
use wattribute::host::memory::Memory;
use wattribute::unit::CpuTime;

const CGROUPS: usize = 200;
const EACH: usize = 50;
const TICKS: usize = 60;

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let words: Vec<String> = std::env::args().filter(|word| !word.starts_with("--")).collect();
    let rounds = words.get(2).and_then(|word| word.parse().ok()).unwrap_or(25);
    match words.get(1).map(String::as_str) {
        Some("live") => live(),
        Some("idle") => drop(in_memory(0, rounds)),
        Some("busy20") => drop(in_memory(20, rounds)),
        Some("busy200") => drop(in_memory(CGROUPS, rounds)),
        Some("encode") => drop(encode(rounds)),
        _ => {
            let allocations = in_memory(20, 25);
            println!("a steady tick in memory, 20 of 200 cgroups busy: {allocations} allocations");
            println!("one OTLP request, 1,000 containers × 4 zones: {} allocations", encode(SETTLED));
        }
    }
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Median CPU time of `rounds` calls, and allocations in the last half of them.
fn measure(rounds: usize, mut before: impl FnMut(usize), mut call: impl FnMut()) -> (Duration, u64) {
    let mut times = Vec::with_capacity(rounds);
    let mut allocations = 0;
    for round in 0..rounds {
        before(round);
        let (start, count) = (thread_time(), ALLOCATIONS.load(Ordering::Relaxed));
        call();
        times.push(thread_time().saturating_sub(start));
        if round >= rounds / 2 {
            allocations += ALLOCATIONS.load(Ordering::Relaxed) - count;
        }
    }
    times.sort();
    (times[rounds / 2], allocations)
}

// ---------------------------------------------------------------- a live machine

struct Lab {
    mount: PathBuf,
    root: tempfile::TempDir,
    cgroups: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Lab {
    fn new() -> Result<Self, String> {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let mount = mounts.iter().map(Path::new).find(|path| path.join("cgroup.controllers").exists());
        let mount = mount.ok_or("no cgroup v2 mount")?.to_owned();
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        let sys = root.path().join("sys");
        let zone = sys.join("class/powercap/intel-rapl:0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::create_dir_all(sys.join("fs")).unwrap();
        std::os::unix::fs::symlink(&mount, sys.join("fs/cgroup")).unwrap();
        for (name, text) in
            [("name", "package-0\n"), ("energy_uj", "5000000\n"), ("max_energy_range_uj", "262143328850\n")]
        {
            std::fs::write(zone.join(name), text).unwrap();
        }
        let mut lab = Self { mount, root, cgroups: Vec::new(), children: Vec::new() };
        for index in 0..CGROUPS {
            let path = lab.mount.join(format!("wattribute-bench-{}-{index}", std::process::id()));
            std::fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
            lab.cgroups.push(path);
        }
        for index in 0..CGROUPS * EACH {
            let child =
                Command::new("sleep").arg("900").stdin(Stdio::null()).spawn().map_err(|error| error.to_string())?;
            let procs = lab.cgroups[index % CGROUPS].join("cgroup.procs");
            std::fs::write(&procs, child.id().to_string()).map_err(|error| error.to_string())?;
            lab.children.push(child);
        }
        Ok(lab)
    }

    fn agent(&self, export: ProcessExport) -> Agent {
        let mut config = Config { processes: Processes { export, ..Processes::default() }, ..Config::default() };
        config.host.sys = self.root.path().join("sys");
        let host = Host::live(&config.host).unwrap();
        Agent::new(host, config, clock::now())
    }

    /// Makes one process in each of the first `busy` cgroups run for a moment.
    fn poke(&self, busy: usize, round: usize) {
        for index in 0..busy {
            let child = &self.children[(round % EACH) * CGROUPS + index];
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            kill_process(pid, Signal::STOP).unwrap();
            kill_process(pid, Signal::CONT).unwrap();
        }
        if busy > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn tick(&self, export: ProcessExport, busy: usize) -> (Duration, u64) {
        let mut agent = self.agent(export);
        for _ in 0..5 {
            agent.step(clock::now());
        }
        measure(TICKS, |round| self.poke(busy, round), || agent.step(clock::now()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        for path in &self.cgroups {
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// Reads kept descriptors of one file in each of `paths`.
fn bare_reads(paths: &[PathBuf], name: &str) -> impl FnMut() {
    let files: Vec<_> =
        paths.iter().map(|path| open(path.join(name), OFlags::RDONLY, Mode::empty()).unwrap()).collect();
    let mut buffer = vec![0_u8; 4096];
    move || {
        for file in &files {
            rustix::io::pread(file.as_fd(), &mut buffer, 0).unwrap();
        }
    }
}

fn bare_clocks(pids: Vec<u32>) -> impl FnMut() {
    move || {
        for pid in &pids {
            let clock = nix::time::ClockId::from_raw(((!pid.cast_signed()) << 3) | 2);
            nix::time::clock_gettime(clock).unwrap();
        }
    }
}

fn bare_enumeration() -> impl FnMut() {
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 << 10];
    move || {
        let proc = open("/proc", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut entries = RawDir::new(proc, &mut buffer[..]);
        while let Some(entry) = entries.next() {
            std::hint::black_box(entry.unwrap().ino());
        }
    }
}

fn live() {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(why) => {
            println!("skipped: the live bench: {why}");
            return;
        }
    };
    println!("{CGROUPS} cgroups × {EACH} sleeping processes, median CPU time of {TICKS} ticks");
    // The bare calls are made in the same conditions as the ticks: after the same processes ran.
    let bare = |busy: usize, call: &mut dyn FnMut()| measure(TICKS, |round| lab.poke(busy, round), call).0;
    let pids = |count: usize| lab.children.iter().take(count).map(Child::id).collect::<Vec<_>>();
    let mut stats = bare_reads(&lab.cgroups, "cpu.stat");
    let mut procs = bare_reads(&lab.cgroups[..20], "cgroup.procs");
    let (mut thousand, mut clocks) = (bare_clocks(pids(1000)), bare_clocks(pids(CGROUPS * EACH)));
    let mut enumeration = bare_enumeration();
    let asleep = bare(0, &mut stats);
    let some = bare(20, &mut || {
        stats();
        procs();
        thousand();
    });
    let all = bare(CGROUPS, &mut || {
        enumeration();
        clocks();
    });
    let row = |name: &str, got: (Duration, u64), bare: Duration, most: f64| {
        let ratio = got.0.as_secs_f64() / bare.as_secs_f64();
        println!(
            "  {name:<28} {:>9.1} µs, bare calls {:>9.1} µs: {ratio:>4.2} × (to reach {most:.1} ×), {} allocations",
            got.0.as_secs_f64() * 1e6,
            bare.as_secs_f64() * 1e6,
            got.1,
        );
    };
    row("containers only, all asleep", lab.tick(ProcessExport::Off, 0), asleep, 3.0);
    row("all asleep", lab.tick(ProcessExport::Top, 0), asleep, 3.0);
    row("20 of 200 cgroups busy", lab.tick(ProcessExport::Top, 20), some, 2.0);
    row("every cgroup busy", lab.tick(ProcessExport::Top, CGROUPS), all, 1.5);
    resident(&lab);
    println!("  one OTLP request of 1,000 containers × 4 zones: {} allocations", encode(SETTLED));
}

/// Resident memory of the release binary beside all these processes.
fn resident(lab: &Lab) {
    let binary = Path::new(env!("CARGO_BIN_EXE_wattribute"));
    let sys = format!("host.sys={}", lab.root.path().join("sys").display());
    let mut run = Command::new(binary);
    run.args(["run", "--set", &sys, "--set", "export.otlp.interval=2s", "--set", "export.stdout.enabled=false"]);
    let mut child = run.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(12));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or(" unknown").trim().to_owned();
    println!(
        "  resident memory of `wattribute run` after 12 s: {} (to reach 16,384 kB), peak {}; {} of it are its \
         own, the rest is code",
        line("VmRSS:"),
        line("VmHWM:"),
        line("RssAnon:")
    );
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    let _ = child.wait();
}

// ---------------------------------------------------------------- a machine in memory

fn set(memory: &mut Memory, path: &str, text: &str) {
    memory.set_file(path, text.as_bytes()).unwrap();
}

fn machine() -> Memory {
    let mut memory = Memory::default();
    set(&mut memory, "proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0\ncpu1 0\n");
    set(&mut memory, "proc/uptime", "1000.00 0.00\n");
    set(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
    set(&mut memory, "sys/class/powercap/intel-rapl:0/name", "package-0\n");
    set(&mut memory, "sys/class/powercap/intel-rapl:0/energy_uj", "0\n");
    set(&mut memory, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
    for index in 0..CGROUPS {
        let dir = format!("sys/fs/cgroup/bench-{index}");
        set(&mut memory, &format!("{dir}/cpu.stat"), "usage_usec 0\n");
        let mut procs = String::new();
        for number in 0..EACH {
            let pid = 1000 + index * EACH + number;
            let _ = writeln!(procs, "{pid}");
            let stat = format!("{pid} (sleep) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 5000 0 0\n");
            set(&mut memory, &format!("proc/{pid}/stat"), &stat);
            set(&mut memory, &format!("proc/{pid}/cgroup"), &format!("0::/bench-{index}\n"));
            memory.set_clock(u32::try_from(pid).unwrap(), CpuTime(1));
        }
        set(&mut memory, &format!("{dir}/cgroup.procs"), &procs);
    }
    memory
}

/// Ticks with the first `busy` cgroups busy; allocations of the agent in the last half.
fn in_memory(busy: usize, rounds: usize) -> u64 {
    let mut now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
    let mut agent = Agent::new(Host::memory(machine()), Config::default(), now);
    agent.step(now);
    let mut allocations = 0;
    for round in 1..=rounds {
        let seconds = round as u64;
        now.boot += Duration::from_secs(1);
        agent.host().with_memory(|memory| {
            set(memory, "sys/class/powercap/intel-rapl:0/energy_uj", &format!("{}\n", seconds * 30_000_000));
            for index in 0..busy {
                let usage = format!("usage_usec {}\n", seconds * 1000);
                set(memory, &format!("sys/fs/cgroup/bench-{index}/cpu.stat"), &usage);
                memory.set_clock(u32::try_from(1000 + index * EACH).unwrap(), CpuTime(seconds * 990_000));
            }
        });
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        agent.step(now);
        if round > rounds / 2 {
            allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
        }
    }
    allocations
}

/// After 20 intervals what is learned of idle begins a series of its own; twice as many are steady.
const SETTLED: usize = 50;

/// Encodes one request of 1,000 containers in 4 zones again and again; allocations in the last half.
fn encode(rounds: usize) -> u64 {
    let mut memory = Memory::default();
    set(&mut memory, "proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0\n");
    set(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
    for zone in 0..4 {
        let dir = format!("sys/class/powercap/intel-rapl:{zone}");
        set(&mut memory, &format!("{dir}/name"), &format!("package-{zone}\n"));
        set(&mut memory, &format!("{dir}/energy_uj"), "0\n");
        set(&mut memory, &format!("{dir}/max_energy_range_uj"), "262143328850\n");
    }
    for index in 0..1000 {
        set(&mut memory, &format!("sys/fs/cgroup/docker-{index:064x}.scope/cpu.stat"), "usage_usec 0\n");
    }
    let config = Config { processes: Processes { export: ProcessExport::Off, top: 1 }, ..Config::default() };
    let mut encoder = Encoder::new(&config.export.otlp, &config.processes, &NodeResource::default());
    let mut now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
    let mut agent = Agent::new(Host::memory(memory), config, now);
    agent.step(now);
    let mut allocations = 0;
    for round in 1..=rounds {
        now.boot += Duration::from_secs(1);
        now.wall += Duration::from_secs(1);
        agent.host().with_memory(|memory| {
            for zone in 0..4 {
                let joules = format!("{}\n", round * 30_000_000);
                set(memory, &format!("sys/class/powercap/intel-rapl:{zone}/energy_uj"), &joules);
            }
            for index in 0..1000 {
                let usage = format!("usage_usec {}\n", round * 500);
                set(memory, &format!("sys/fs/cgroup/docker-{index:064x}.scope/cpu.stat"), &usage);
            }
        });
        agent.step(now);
        let snapshot: Arc<_> = agent.snapshot();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let bytes = encoder.encode(&snapshot).len();
        if round > rounds / 2 {
            allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
        }
        assert!(bytes > 100_000, "a request of 1,000 containers has {bytes} bytes");
    }
    allocations
}
