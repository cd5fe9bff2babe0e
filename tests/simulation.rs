//! A long life in virtual time, seeded: wraps, resets, failing reads, suspends, exits, births and pids used again.
//!
//! A small machine is driven through 10⁵ ticks (`SIMULATION_TICKS` for more) while the test keeps the truth beside it.
//! At every tick: the books balance to the microjoule, no exported total falls, no zone shows more than its part can
//! draw, and what was measured is what was used wherever the reading was fit to be accepted.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::Config;
use wattribute::export::Snapshot;
use wattribute::host::memory::Memory;
use wattribute::host::{Errno, Host};
use wattribute::meter::State;
use wattribute::unit::CpuTime;
use wattribute::workload::Kind;

/// Small enough to wrap every few minutes.
const RANGE: u64 = 5_000_000_000;
const MAX_WATTS: u64 = 150;
const CPUS: u64 = 4;

/// xorshift64*: seeded, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

#[derive(Clone)]
struct Process {
    service: usize,
    start: u64,
    time: u64,
}

struct Machine {
    random: Random,
    now: Timestamp,
    registers: [u64; 2],
    /// What each zone must book when it is next accepted: `None` after a reset, when nothing is known.
    owed: [Option<u64>; 2],
    failing: [u32; 2],
    processes: BTreeMap<u32, Process>,
    usage: [u64; 4],
    rest: u64,
    awake: u64,
}

impl Machine {
    fn new(seed: u64) -> (Self, Memory) {
        let now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
        let mut machine = Self {
            random: Random(seed),
            now,
            registers: [RANGE - 1_000_000_000, 5],
            owed: [Some(0); 2],
            failing: [0; 2],
            processes: BTreeMap::new(),
            usage: [0; 4],
            rest: 100_000,
            awake: 100_000,
        };
        let mut memory = Memory::default();
        let mut set = |path: &str, text: &str| memory.set_file(path, text.as_bytes()).unwrap();
        set("proc/uptime", "1000.00 1.00\n");
        set("sys/fs/cgroup/cgroup.controllers", "cpu\n");
        set("sys/fs/cgroup/cgroup.procs", "");
        for zone in 0..2 {
            let dir = format!("sys/class/powercap/intel-rapl:{zone}");
            set(&format!("{dir}/name"), &format!("package-{zone}\n"));
            set(&format!("{dir}/max_energy_range_uj"), &format!("{RANGE}\n"));
            set(&format!("{dir}/constraint_0_max_power_uw"), &format!("{}\n", MAX_WATTS * 1_000_000 * 2 / 3));
        }
        for pid in 100..112 {
            machine.processes.insert(pid, Process { service: pid as usize % 4, start: 5000, time: 7_000_000_000 });
        }
        machine.write(&mut memory);
        (machine, memory)
    }

    fn service(index: usize) -> String {
        format!("sys/fs/cgroup/system.slice/s{index}.service")
    }

    /// One interval: time, energy, work, births and deaths. Returns how long the machine was awake.
    fn live(&mut self, memory: &mut Memory) -> Duration {
        let millis = [1000, 1000, 1000, 900 + self.random.below(300), 200][self.random.below(5) as usize];
        let asleep = if self.random.chance(500) { 3600 + self.random.below(9000) } else { 0 };
        self.now.boot += Duration::from_millis(millis) + Duration::from_secs(asleep);
        self.now.asleep += Duration::from_secs(asleep);
        self.now.wall = if self.random.chance(300) {
            Duration::from_secs(self.random.below(2_000_000_000))
        } else {
            self.now.wall + Duration::from_millis(millis)
        };
        let ticks = millis / 10;
        let mut budget = ticks * CPUS;
        self.work(memory, &mut budget, millis);
        self.awake += ticks * CPUS;
        self.rest += budget;
        for zone in 0..2 {
            let used = self.random.below(millis * MAX_WATTS * 990) + 1;
            self.registers[zone] = (self.registers[zone] + used) % RANGE;
            self.owed[zone] = self.owed[zone].map(|owed| owed + used);
            if self.random.chance(2000) {
                // A driver was loaded again: the register starts somewhere below, and what it counted is lost.
                self.registers[zone] =
                    self.registers[zone].saturating_sub(1_000_000_000 + self.random.below(RANGE / 2));
                self.owed[zone] = None;
            }
            self.failing[zone] = match self.failing[zone] {
                0 if self.random.chance(300) => 1 + self.random.below(4) as u32,
                left => left.saturating_sub(1),
            };
        }
        self.write(memory);
        Duration::from_millis(millis)
    }

    /// Work of the living, then exits, births, and pids used again at once.
    fn work(&mut self, memory: &mut Memory, budget: &mut u64, millis: u64) {
        let pids: Vec<u32> = self.processes.keys().copied().collect();
        let tick = 10_000_000;
        for pid in pids {
            let ticks = if self.random.chance(3) { self.random.below(millis / 40 + 1).min(*budget) } else { 0 };
            *budget -= ticks;
            let process = self.processes.get_mut(&pid).unwrap();
            process.time += ticks * tick;
            self.usage[process.service] += ticks * tick;
            if self.random.chance(40) {
                let service = process.service;
                self.processes.remove(&pid);
                memory.remove(&format!("proc/{pid}")).unwrap();
                if self.random.chance(2) {
                    self.birth(pid, service, budget);
                }
            }
        }
        while self.processes.len() < 12 {
            let pid = 100 + self.random.below(60) as u32;
            if !self.processes.contains_key(&pid) {
                let service = self.random.below(4) as usize;
                self.birth(pid, service, budget);
            }
        }
    }

    fn birth(&mut self, pid: u32, service: usize, budget: &mut u64) {
        let ticks = self.random.below(8).min(*budget);
        *budget -= ticks;
        let start = self.now.boot.as_millis() as u64 / 10 - 1;
        self.usage[service] += ticks * 10_000_000;
        self.processes.insert(pid, Process { service, start, time: ticks * 10_000_000 });
    }

    fn write(&mut self, memory: &mut Memory) {
        let mut set = |path: &str, text: &str| memory.set_file(path, text.as_bytes()).unwrap();
        let busy = self.awake - self.rest;
        set("proc/stat", &format!("cpu  {busy} 0 0 {} 0 0 0 0 0 0\ncpu0 0\ncpu1 0\ncpu2 0\ncpu3 0\n", self.rest));
        let mut members: [String; 4] = Default::default();
        for (pid, process) in &self.processes {
            let time = process.time / 10_000_000;
            let stat = format!("{pid} (p) S 1 1 1 0 -1 4194304 0 0 0 0 {time} 0 0 0 20 0 1 0 {} 0 0\n", process.start);
            set(&format!("proc/{pid}/stat"), &stat);
            set(&format!("proc/{pid}/cgroup"), &format!("0::/system.slice/s{}.service\n", process.service));
            members[process.service].push_str(&pid.to_string());
            members[process.service].push('\n');
        }
        let all: u64 = self.usage.iter().sum();
        set("sys/fs/cgroup/system.slice/cpu.stat", &format!("usage_usec {}\n", all / 1000));
        set("sys/fs/cgroup/system.slice/cgroup.procs", "");
        for (index, members) in members.iter().enumerate() {
            set(&format!("{}/cpu.stat", Self::service(index)), &format!("usage_usec {}\n", self.usage[index] / 1000));
            set(&format!("{}/cgroup.procs", Self::service(index)), members);
        }
        for zone in 0..2 {
            let path = format!("sys/class/powercap/intel-rapl:{zone}/energy_uj");
            memory.set_file(&path, format!("{}\n", self.registers[zone]).as_bytes()).unwrap();
            memory.set_error(&path, (self.failing[zone] > 0).then_some(Errno::IO)).unwrap();
        }
        for pid in self.processes.keys() {
            let time = self.processes[pid].time;
            memory.set_clock(*pid, CpuTime(time));
        }
    }
}

/// Compares a snapshot with the one before and with the truth.
fn check(machine: &mut Machine, before: &Snapshot, after: &Snapshot, states: &mut BTreeMap<&'static str, u64>) {
    for (index, book) in after.zones.iter().enumerate() {
        *states.entry(book.state.as_str()).or_default() += 1;
        let parts = book.idle + book.attributed + book.unattributed;
        assert_eq!(book.measured.unwrap_or_default(), parts, "{} at tick {}", book.zone.id, after.tick);
        let total = book.total;
        assert_eq!(total.measured, total.idle + total.attributed + total.unattributed);
        let zone = usize::from(book.zone.id.ends_with('1'));
        match book.state {
            State::Ok | State::Wrap => {
                let measured = book.measured.unwrap();
                assert!(
                    measured.watts_over(book.covers) <= (MAX_WATTS as f64) + 1e-6,
                    "a spike at tick {}",
                    after.tick
                );
                if let Some(owed) = machine.owed[zone] {
                    assert_eq!(measured.0, owed, "{} at tick {}", book.zone.id, after.tick);
                }
                machine.owed[zone] = Some(0);
            }
            State::First | State::Reset | State::Implausible | State::Gap => {
                assert!(machine.owed[zone].is_none() || book.state == State::First, "{:?} without a cause", book.state);
                machine.owed[zone] = Some(0);
            }
            _ => {}
        }
        assert_eq!(after.active_of(0, index), total.attributed, "the node is what is attributed");
    }
    for (row, workload) in after.rows() {
        let same = before.workloads.get(row).and_then(Option::as_ref).is_some_and(|old| old.serial == workload.serial);
        let children = || after.rows().filter(|(child, entry)| *child != row && entry.parent == row);
        for zone in 0..after.zones.len() {
            if same {
                assert!(after.active_of(row, zone) >= before.active_of(row, zone), "a total fell");
                assert!(after.exited_of(row, zone) >= before.exited_of(row, zone), "a total fell");
            }
            if workload.identity.id.kind() == Kind::Service && workload.serial < 20 {
                // Children are forgotten with time, so their sum is at most the parent's.
                let sum =
                    children().map(|(child, _)| after.active_of(child, zone)).sum::<wattribute::unit::Microjoules>();
                assert!(sum + after.exited_of(row, zone) <= after.active_of(row, zone));
            }
        }
    }
}

fn simulate(seed: u64, ticks: u64, trusted: bool) -> Arc<Snapshot> {
    let (mut machine, mut memory) = Machine::new(seed);
    if trusted {
        memory.trust_cgroups();
    }
    let mut agent = Agent::new(Host::memory(memory), Config::default(), machine.now);
    let mut reader = agent.subscribe();
    agent.step(machine.now);
    let mut before = reader.take();
    let mut states = BTreeMap::new();
    let mut energy = 0;
    for _ in 0..ticks {
        agent.host().with_memory(|memory| {
            machine.live(memory);
        });
        agent.step(machine.now);
        let after = reader.take();
        check(&mut machine, &before, &after, &mut states);
        energy += after.zones.iter().map(|book| book.measured.unwrap_or_default().0).sum::<u64>();
        before = after;
    }
    let total: u64 = before.zones.iter().map(|book| book.total.measured.0).sum();
    assert_eq!(energy, total);
    for state in ["ok", "wrap", "reset", "gone"] {
        assert!(states.get(state).is_some_and(|count| *count > 0), "{state} was exercised: {states:?}");
    }
    assert!(before.workloads.len() < 200, "rows are used again: {}", before.workloads.len());
    before
}

fn ticks() -> u64 {
    std::env::var("SIMULATION_TICKS").ok().and_then(|ticks| ticks.parse().ok()).unwrap_or(100_000)
}

#[test]
fn a_long_life_in_balance() {
    simulate(0x5EED_0001, ticks(), false);
}

#[test]
fn a_long_life_in_balance_by_cgroups() {
    simulate(0x5EED_0002, ticks() / 4, true);
}
