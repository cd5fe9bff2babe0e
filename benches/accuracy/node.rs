//! A node, simulated in steps of 50 ms: cores with clocks of their own, processes that run and rest, and what each costs.
//!
//! A socket has 16 cores of two threads and draws 33 W at rest, 25 W more while any core is awake (both as a Xeon
//! E5-2667v3 does), and 9 W for one core at full clock, ∝ f^2.45. A core's clock follows its load within 100 ms, from
//! half of the highest on, and the highest falls by 15 % while all cores run. The second thread of a core adds 21 to
//! 25 %. DRAM draws 20 W per socket at rest, and what programs do to it. A process runs 1 to 6 threads in bursts of 0.1
//! to 8 s, between which it rests; a thread takes an idle core before a sibling and stays there for its burst.
//!
//! What a process truly used is the switching energy of its threads (siblings share their core's by how hungry they are),
//! what it did to DRAM, and its equal part, among the threads that run on a socket at a time, of what being awake costs.
//! Its counters count the cycles of a core for each thread on it, and 10 misses of the last-level cache for a µJ of DRAM.

use super::random::Random;

const STEP: f64 = 0.05;
const STEPS: u32 = 20;
pub const CORES: usize = 16;
const IDLE: f64 = 33.0;
const WAKE: f64 = 25.0;
const CORE: f64 = 9.0;
const DRAM_IDLE: f64 = 20.0;
/// Cycles a second at full clock, and misses for a joule of DRAM.
const CLOCK: f64 = 3.2e9;
const MISSES: f64 = 1e7;

/// What runs.
#[derive(Clone, Copy, PartialEq)]
pub enum Workload {
    /// Everybody runs the same program.
    Homogeneous,
    /// Programs draw .7 to 1.4 of the usual power, and 0.1 to 1.2 W of DRAM, per busy CPU.
    Mixed,
    /// Mixed, and every other container may use four cores of the first socket only.
    HalfPinned,
}

/// A process.
pub struct Process {
    /// Its container's number.
    pub container: usize,
    /// Threads that it may run at once.
    threads: usize,
    /// Mean time of a burst, s, and the part of its life in bursts.
    burst: f64,
    duty: f64,
    /// Switching power relative to the usual, W of DRAM per busy CPU, and what a sibling adds.
    hunger: f64,
    dram: f64,
    sibling: f64,
}

/// The machine after one second.
#[derive(Clone)]
pub struct Second {
    /// CPU time of each process, ns.
    pub clocks: Vec<u64>,
    /// Package and DRAM of each socket, µJ.
    pub energy: Vec<f64>,
    /// What each process truly used, J.
    pub truth: Vec<f64>,
    /// Cycles, and misses of the last-level cache, of each container on each socket, and those of all containers last.
    pub counts: [Vec<f64>; 2],
}

/// A life of a node.
pub struct Node {
    pub sockets: usize,
    pub processes: Vec<Process>,
    /// The CPUs that each container may use.
    pub allowed: Vec<Vec<usize>>,
    pub seconds: Vec<Second>,
}

struct Thread {
    process: usize,
    /// Until when it runs or rests.
    until: f64,
    runs: bool,
    cpu: Option<usize>,
}

struct Simulator<'a> {
    random: Random,
    node: &'a Node,
    threads: Vec<Thread>,
    /// By CPU: the thread on it.
    on: Vec<Option<usize>>,
    /// By core: its load over the last 100 ms.
    load: Vec<f64>,
    now: f64,
    state: Second,
}

impl Node {
    /// Lets a node of `sockets` live for `seconds` with `load` of its CPUs busy on the mean.
    pub fn live(seed: u64, workload: Workload, sockets: usize, load: f64, seconds: usize) -> Self {
        let mut random = Random::new(seed);
        let cpus = sockets * CORES * 2;
        let (mut processes, mut allowed, mut wanted) = (vec![upkeep()], vec![(0..cpus).collect::<Vec<_>>()], 0.0);
        while wanted < load * cpus as f64 {
            let container = allowed.len();
            for _ in 0..=random.below(2) {
                let process = process(&mut random, workload, container);
                wanted += process.duty * process.threads as f64;
                processes.push(process);
            }
            let is_pinned = workload == Workload::HalfPinned && container % 2 == 1;
            let first = container / 2 * 8 % (CORES * 2);
            allowed.push(if is_pinned { (first..first + 8).collect() } else { (0..cpus).collect() });
        }
        let mut node = Self { sockets, processes, allowed, seconds: Vec::new() };
        let mut simulator = Simulator::new(random, &node);
        let lived = (0..seconds).map(|_| simulator.second()).collect();
        node.seconds = lived;
        node
    }

    /// True power at rest of each zone, W.
    pub fn idle(&self) -> Vec<f64> {
        [IDLE, DRAM_IDLE].repeat(self.sockets)
    }

    /// CPUs of the node.
    pub fn cpus(&self) -> usize {
        self.sockets * CORES * 2
    }
}

/// What the system does for itself: 5 % of one CPU, in bursts of 50 ms.
const fn upkeep() -> Process {
    Process { container: 0, threads: 1, burst: 0.05, duty: 0.05, hunger: 1.0, dram: 0.5, sibling: 0.23 }
}

fn process(random: &mut Random, workload: Workload, container: usize) -> Process {
    let mixed = workload != Workload::Homogeneous;
    Process {
        container,
        threads: 1 + random.index(6),
        burst: random.between(0.1_f64.ln(), 8.0_f64.ln()).exp(),
        duty: random.between(0.1, 0.9),
        hunger: if mixed { random.between(0.7, 1.4) } else { 1.0 },
        dram: if mixed { random.between(0.1, 1.2) } else { 0.5 },
        sibling: random.between(0.21, 0.25),
    }
}

impl<'a> Simulator<'a> {
    fn new(mut random: Random, node: &'a Node) -> Self {
        let of = |(number, process): (usize, &Process)| (0..process.threads).map(move |_| number);
        let numbers = node.processes.iter().enumerate().flat_map(of);
        let threads =
            numbers.map(|process| Thread { process, until: random.between(0.0, 5.0), runs: false, cpu: None });
        let (threads, processes) = (threads.collect(), node.processes.len());
        let counts = vec![0.0; (node.allowed.len() + 1) * node.sockets];
        let state = Second {
            clocks: vec![0; processes],
            energy: vec![0.0; node.sockets * 2],
            truth: vec![0.0; processes],
            counts: [counts.clone(), counts],
        };
        let (on, load) = (vec![None; node.cpus()], vec![0.0; node.cpus() / 2]);
        Self { random, node, threads, on, load, now: 0.0, state }
    }

    fn second(&mut self) -> Second {
        for _ in 0..STEPS {
            self.schedule();
            for socket in 0..self.node.sockets {
                self.draw(socket);
            }
            self.now += STEP;
        }
        self.state.clone()
    }

    /// Bursts begin and end; who runs gets a CPU if there is one.
    fn schedule(&mut self) {
        // Load swings within ten minutes, from a quarter of the mean to nearly twice that.
        let swing = 1.0 + 0.75 * (std::f64::consts::TAU * self.now / 600.0).sin();
        for (number, thread) in self.threads.iter_mut().enumerate() {
            let process = &self.node.processes[thread.process];
            if thread.until <= self.now {
                thread.runs = !thread.runs;
                let rest = process.burst * (1.0 - process.duty) / process.duty / swing;
                thread.until = self.now + self.random.waiting(if thread.runs { process.burst } else { rest });
                if let Some(cpu) = thread.cpu.take() {
                    self.on[cpu] = None;
                }
            }
            if thread.runs && thread.cpu.is_none() {
                let allowed = &self.node.allowed[process.container];
                thread.cpu = place(&self.on, allowed, self.random.index(allowed.len()));
                if let Some(cpu) = thread.cpu {
                    self.on[cpu] = Some(number);
                }
            }
        }
    }

    /// One step of one socket: its energy, and whose it is.
    fn draw(&mut self, socket: usize) {
        let cores = socket * CORES..(socket + 1) * CORES;
        let pair = |on: &[Option<usize>], core: usize| [on[2 * core], on[2 * core + 1]];
        let active = cores.clone().filter(|core| pair(&self.on, *core) != [None, None]).count();
        let running: Vec<usize> = self.on[socket * CORES * 2..][..CORES * 2].iter().flatten().copied().collect();
        let highest = 1.0 - 0.15 * active.saturating_sub(1) as f64 / (CORES - 1) as f64;
        let mut power = IDLE + if active > 0 { WAKE } else { 0.0 };
        let mut memory = DRAM_IDLE;
        for core in cores {
            let threads = pair(&self.on, core).map(|thread| thread.map(|thread| self.threads[thread].process));
            let both = threads.iter().all(Option::is_some);
            let busy = f64::from(u8::from(threads != [None, None]));
            self.load[core] += (busy - self.load[core]) * (1.0 - (-STEP / 0.1_f64).exp());
            let clock = (1.25 * self.load[core]).clamp(0.5, highest);
            for process in threads.into_iter().flatten() {
                let Process { hunger, dram, sibling, .. } = self.node.processes[process];
                let part = if both { f64::midpoint(1.0, sibling) } else { 1.0 };
                let switching = CORE * clock.powf(2.45) * hunger * part;
                power += switching;
                memory += dram;
                self.state.clocks[process] += (STEP * 1e9) as u64;
                self.state.truth[process] += (switching + dram) * STEP;
                let all = self.node.allowed.len();
                for container in [self.node.processes[process].container, all] {
                    let place = container * self.node.sockets + socket;
                    self.state.counts[0][place] += CLOCK * clock * STEP;
                    self.state.counts[1][place] += MISSES * dram * STEP;
                }
            }
        }
        for thread in &running {
            self.state.truth[self.threads[*thread].process] += WAKE * STEP / running.len() as f64;
        }
        self.state.energy[2 * socket] += power * STEP * 1e6;
        self.state.energy[2 * socket + 1] += memory * STEP * 1e6;
    }
}

/// A free CPU of those `allowed`, from `first` on: of an idle core, else beside a sibling.
fn place(on: &[Option<usize>], allowed: &[usize], first: usize) -> Option<usize> {
    let free = || allowed.iter().cycle().skip(first).take(allowed.len()).copied().filter(|cpu| on[*cpu].is_none());
    free().find(|cpu| on[cpu ^ 1].is_none()).or_else(|| free().next())
}
