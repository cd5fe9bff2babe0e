//! A machine that everything happens to: wraps, resets, late and failing reads, suspends, exits, births, reused pids.
//!
//! Three RAPL counters of 65.7 kJ (AMD's range), two packages of at most 100 W and a DRAM zone of at most 40 W, and an
//! ACPI power meter; four services with twelve processes. A tick comes after 0.5 to 1.5 s, and once in a hundred times
//! after 3 to 10 s. One counter in ten is read up to 10 ms after the time that the tick carries, one in 300 fails for up to
//! four ticks, one in 2,000 starts again from 0. The truth is kept beside each counter: what its register moved by
//! since the last reading that the agent has accepted, and what was really drawn in that time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use wattribute::clock::Timestamp;
use wattribute::host::Errno;
use wattribute::host::memory::Memory;
use wattribute::unit::CpuTime;

use super::metered::{acpi, powercap, stat, write};
use super::random::Random;

/// AMD's: 2³² counts of 15.3 µJ.
const RANGE: u64 = 65_712_999_613;
const CPUS: u32 = 4;
const SERVICES: usize = 4;
const PROCESSES: usize = 12;
/// Directory, name, rated W.
const COUNTERS: [(&str, &str, u64); 3] = [("0", "package-0", 100), ("1", "package-1", 100), ("0:0", "dram", 40)];
/// Everything that can happen.
pub const EVENTS: [&str; 8] =
    ["wrap", "reset", "late read", "failed read", "stall", "suspend", "exit", "pid used again"];

/// One counter and the truth about it.
#[derive(Clone)]
pub struct Counter {
    pub name: &'static str,
    id: &'static str,
    watts_max: u64,
    register: u64,
    /// What the register already shows of the next interval, because it was read late.
    ahead: u64,
    failing: u32,
    /// What the register moved by since the last accepted reading; none after a reset.
    pub owed: Option<u64>,
    /// What was drawn since the last accepted reading, µJ.
    pub drawn: u64,
    /// What rules that know no better make of it.
    naive: Naive,
}

/// Kinds of naive reader: one divides by the tick that it has asked for, one takes every step back for a wrap.
#[derive(Clone, Default)]
struct Naive {
    last: Option<u64>,
    drawn: u64,
    millis: u64,
}

/// The machine.
pub struct Life {
    random: Random,
    pub now: Timestamp,
    pub counters: Vec<Counter>,
    /// pid → service, CPU time in ticks of 1/100 s, start.
    processes: BTreeMap<u32, (usize, u64, u64)>,
    usage: [u64; SERVICES],
    busy: u64,
    rest: u64,
    /// How often each of [`EVENTS`] happened.
    pub events: BTreeMap<&'static str, u64>,
    /// Highest reported over true watts of the naive readers: nominal interval, every step back a wrap.
    pub naive: [f64; 2],
}

impl Life {
    /// The machine, and its files at the start.
    pub fn new(seed: u64) -> (Self, Memory) {
        let mut memory = Memory::default();
        write(&mut memory, "proc/uptime", "1000.00 1.00\n");
        write(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
        for dir in ["sys/fs/cgroup", "sys/fs/cgroup/system.slice"] {
            write(&mut memory, &format!("{dir}/cgroup.procs"), "");
        }
        let counters = COUNTERS.map(|(id, name, watts_max)| {
            powercap(&mut memory, id, name, RANGE, watts_max);
            let naive = Naive::default();
            Counter { name, id, watts_max, register: 0, ahead: 0, failing: 0, owed: Some(0), drawn: 0, naive }
        });
        acpi(&mut memory);
        let now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
        let mut life = Self {
            random: Random::new(seed),
            now,
            counters: counters.to_vec(),
            processes: BTreeMap::new(),
            usage: [0; SERVICES],
            busy: 0,
            rest: 0,
            events: EVENTS.map(|event| (event, 0)).into(),
            naive: [0.0; 2],
        };
        life.births();
        life.write(&mut memory, 100.0);
        (life, memory)
    }

    fn happened(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    /// One interval.
    pub fn live(&mut self, memory: &mut Memory) {
        let mut millis = 500 + self.random.below(1001);
        if self.random.chance(100) {
            millis = 3000 + self.random.below(7001);
            self.happened("stall");
        }
        if self.random.chance(500) {
            let asleep = Duration::from_secs(60 + self.random.below(9000));
            self.now.boot += asleep;
            self.now.asleep += asleep;
            self.now.wall += asleep;
            self.happened("suspend");
        }
        self.now.boot += Duration::from_millis(millis);
        self.now.wall += Duration::from_millis(millis);
        let mut watts = 60.0;
        for index in 0..self.counters.len() {
            watts += self.count(index, millis);
        }
        self.work(memory, millis / 10);
        self.write(memory, watts);
    }

    /// One counter goes on; its mean power.
    fn count(&mut self, index: usize, millis: u64) -> f64 {
        let random = &mut self.random;
        let counter = &mut self.counters[index];
        let watts = 10 + random.below(counter.watts_max - 10);
        let drawn = watts * millis * 1000;
        let ahead = if random.chance(10) { watts * (1 + random.below(10)) * 1000 } else { 0 };
        let moved = drawn + ahead - counter.ahead;
        let (is_late, is_reset) = (ahead > 0, random.chance(2000));
        let wraps = counter.register + moved >= RANGE;
        counter.ahead = ahead;
        counter.drawn += drawn;
        counter.naive.drawn += drawn;
        counter.naive.millis += millis;
        counter.owed = counter.owed.map(|owed| owed + moved);
        counter.register = (counter.register + moved) % RANGE;
        if is_reset {
            (counter.register, counter.owed) = (0, None);
        }
        let fails = counter.failing == 0 && random.chance(300);
        counter.failing = if fails { 1 + random.below(4) as u32 } else { counter.failing.saturating_sub(1) };
        if counter.failing == 0 {
            let found = counter.naive.read(counter.register);
            for (highest, found) in self.naive.iter_mut().zip(found) {
                *highest = highest.max(found);
            }
        }
        for (event, is) in [("late read", is_late), ("reset", is_reset), ("wrap", wraps), ("failed read", fails)] {
            if is {
                self.happened(event);
            }
        }
        watts as f64
    }

    /// The living work, some end, and others begin.
    fn work(&mut self, memory: &mut Memory, ticks: u64) {
        let mut free = ticks * u64::from(CPUS);
        let pids: Vec<u32> = self.processes.keys().copied().collect();
        for pid in pids {
            let used = if self.random.chance(2) { self.random.below(ticks / 3 + 1).min(free) } else { 0 };
            free -= used;
            self.busy += used;
            let Some((service, time, _)) = self.processes.get_mut(&pid) else { continue };
            *time += used;
            self.usage[*service] += used;
            if self.random.chance(100) {
                self.processes.remove(&pid);
                memory.remove(&format!("proc/{pid}")).unwrap_or_else(|errno| panic!("proc/{pid}: {errno}"));
                self.happened("exit");
                if self.random.chance(2) {
                    self.birth(pid);
                    self.happened("pid used again");
                }
            }
        }
        self.rest += free;
        self.births();
    }

    fn births(&mut self) {
        while self.processes.len() < PROCESSES {
            let pid = 100 + self.random.below(60) as u32;
            if !self.processes.contains_key(&pid) {
                self.birth(pid);
            }
        }
    }

    fn birth(&mut self, pid: u32) {
        let start = self.now.boot.as_millis() as u64 / 10 - 1;
        self.processes.insert(pid, (self.random.index(SERVICES), 0, start));
    }

    fn write(&self, memory: &mut Memory, watts: f64) {
        let mut members: [String; SERVICES] = Default::default();
        for (pid, (service, time, start)) in &self.processes {
            let text = format!("{pid} (p) S 1 1 1 0 -1 4194304 0 0 0 0 {time} 0 0 0 20 0 1 0 {start} 0 0\n");
            write(memory, &format!("proc/{pid}/stat"), &text);
            write(memory, &format!("proc/{pid}/cgroup"), &format!("0::/system.slice/s{service}.service\n"));
            memory.set_clock(*pid, CpuTime::from_ticks(*time));
            let _ = writeln!(members[*service], "{pid}");
        }
        let slice = "sys/fs/cgroup/system.slice";
        for (service, members) in members.iter().enumerate() {
            let usage = format!("usage_usec {}\n", self.usage[service] * 10_000);
            write(memory, &format!("{slice}/s{service}.service/cpu.stat"), &usage);
            write(memory, &format!("{slice}/s{service}.service/cgroup.procs"), members);
        }
        let all: u64 = self.usage.iter().sum();
        write(memory, &format!("{slice}/cpu.stat"), &format!("usage_usec {}\n", all * 10_000));
        write(memory, "proc/stat", &stat(CPUS, self.busy, self.rest));
        for counter in &self.counters {
            let path = format!("sys/class/powercap/intel-rapl:{}/energy_uj", counter.id);
            write(memory, &path, &format!("{}\n", counter.register));
            let error = (counter.failing > 0).then_some(Errno::IO);
            memory.set_error(&path, error).unwrap_or_else(|errno| panic!("{path}: {errno}"));
        }
        let path = "sys/devices/LNXSYSTM:00/ACPI000D:00/power1_average";
        write(memory, path, &format!("{}\n", (watts * 1e6) as u64));
    }
}

impl Naive {
    /// Takes a reading; what two naive readers say of its power, over the true one.
    fn read(&mut self, register: u64) -> [f64; 2] {
        let (drawn, millis) = (self.drawn as f64, self.millis as f64);
        (self.drawn, self.millis) = (0, 0);
        let Some(last) = self.last.replace(register) else { return [0.0; 2] };
        let true_watts = drawn / millis / 1000.0;
        let forward = register.saturating_sub(last) as f64 / 1e6;
        let around = if register < last { RANGE - last + register } else { register - last };
        [forward / true_watts, around as f64 / millis / 1000.0 / true_watts]
    }
}
