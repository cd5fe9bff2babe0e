//! Row D: what the real agent books to each process of a simulated node, beside what it truly used.
//!
//! The node's life is written as `/proc`, a cgroup tree and powercap zones, a second at a time, and the agent is stepped
//! through it: once as it is by default, and once for each other rule of what is idle. The error is
//! Σ|booked − true| / Σ true over the processes, packages and DRAM together, from the agent's first second on, on the mean
//! of four nodes: one and two sockets, 15 to 65 % busy. Watts of the regression intercept, the minimum and the truth are
//! configured per zone, so those rules go through the same agent. The rows with counters are the same runs with
//! `attribution.weights: perf`; what a socket's CPUs count stands on its first one, since only the sum matters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::{Attribution, Config, Idle, ProcessExport, Processes, Weights};
use wattribute::export::Snapshot;
use wattribute::host::Host;
use wattribute::host::memory::Memory;
use wattribute::unit::CpuTime;
use wattribute::workload::WorkloadId;

use super::metered::{RANGE, powercap, stat, write};
use super::node::{Node, Workload};
use super::rules::Samples;
use super::table::Table;

const SECONDS: usize = 1200;
/// Sockets and mean load of the nodes.
const NODES: [(usize, f64); 4] = [(1, 0.15), (2, 0.3), (1, 0.5), (2, 0.65)];
/// How far processes may be off by CPU time, and by the processor's counters.
const WORKLOADS: [(&str, Workload, f64, f64); 3] = [
    ("homogeneous", Workload::Homogeneous, 12.0, 10.0),
    ("mixed", Workload::Mixed, 16.0, 12.0),
    ("half-pinned", Workload::HalfPinned, 19.0, 16.0),
];
/// Cycles, and reads that miss the last-level cache.
const EVENTS: [&str; 2] = ["0/0", "3/65538"];
const PID: u32 = 1000;

/// What one run of the agent gives: errors in % over the whole life and over single minutes, and of the packages' idle.
struct Outcome {
    life: f64,
    minutes: f64,
    idle: f64,
}

/// The rows.
pub fn rows(table: &mut Table) -> Result<(), String> {
    let rules = ["ratio", "all by CPU", "intercept", "minimum", "exact idle"];
    table.part("D  energy of a process on a simulated node, error in %", 1, &rules);
    let mut notes = Vec::new();
    for (name, workload, bound, bound_counted) in WORKLOADS {
        let (mut learned, mut minutes, mut idle, mut others) = (0.0, 0.0, 0.0_f64, [0.0; 5]);
        let (mut counted, mut counted_exact) = (0.0, 0.0);
        for (number, (sockets, load)) in (1..).zip(NODES) {
            let node = Node::live(number, workload, sockets, load, SECONDS);
            let share = 1.0 / NODES.len() as f64;
            let found = run(&node, Idle::Learned, Weights::CpuTime)?;
            counted += run(&node, Idle::Learned, Weights::Perf)?.life * share;
            counted_exact += run(&node, configured(node.idle().into_iter()), Weights::Perf)?.life * share;
            learned += found.life * share;
            minutes += found.minutes * share;
            idle = if found.idle.abs() > idle.abs() { found.idle } else { idle };
            for (sum, rule) in others.iter_mut().zip(others_of(&node)) {
                *sum += run(&node, rule, Weights::CpuTime)?.life * share;
            }
        }
        table.bounded(name, learned, bound, &others);
        let none = f64::NAN;
        table.bounded(
            &format!("{name}, by counters"),
            counted,
            bound_counted,
            &[none, none, none, none, counted_exact],
        );
        notes.push((name, minutes, idle));
        // With nothing learned and the idle share of CPU time instead, the bound must be out of reach.
        if others[0] <= bound {
            return Err(format!("{name}: the ratio rule meets the bound: {:.1} %", others[0]));
        }
    }
    table.part("   the same learned runs", 1, &[]);
    for (name, minutes, idle) in notes {
        table.shown(&format!("{name}, minute by minute"), minutes, &[]);
        table.shown(&format!("{name}, learned idle of a package, farthest off"), idle, &[]);
    }
    Ok(())
}

/// The other rules, with what they make of this node's life.
fn others_of(node: &Node) -> [Idle; 5] {
    let zones = node.idle().len();
    let mut seen: Vec<Samples> = (0..zones).map(|_| Samples::default()).collect();
    for pair in node.seconds.windows(2) {
        let used: u64 = pair[1].clocks.iter().sum::<u64>() - pair[0].clocks.iter().sum::<u64>();
        let load = used as f64 / 1e9 / node.cpus() as f64;
        for (zone, samples) in seen.iter_mut().enumerate() {
            samples.push(load, (pair[1].energy[zone] - pair[0].energy[zone]) / 1e6);
        }
    }
    let watts = |rule: &dyn Fn(&Samples) -> f64| configured(seen.iter().map(rule));
    [Idle::Ratio, Idle::None, watts(&Samples::intercept), watts(&Samples::minimum), configured(node.idle().into_iter())]
}

fn configured(watts: impl Iterator<Item = f64>) -> Idle {
    let id = |zone: usize| if zone.is_multiple_of(2) { format!("rapl:package-{}", zone / 2) } else { dram(zone / 2) };
    Idle::Watts(watts.enumerate().map(|(zone, watts)| (id(zone), watts)).collect())
}

fn dram(socket: usize) -> String {
    format!("rapl:package-{socket}/dram")
}

/// The agent through the whole life of a node.
fn run(node: &Node, idle: Idle, weights: Weights) -> Result<Outcome, String> {
    let mut now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
    let config = Config {
        attribution: Attribution { idle, weights, ..Attribution::default() },
        processes: Processes { export: ProcessExport::All, ..Processes::default() },
        ..Config::default()
    };
    let mut agent = Agent::new(Host::memory(machine(node)), config, now);
    agent.step(now);
    if let Some((_, _, trouble)) = agent.troubles().find(|trouble| trouble.1 == "weights") {
        return Err(trouble.to_string());
    }
    let before = vec![0.0; node.processes.len()];
    let (mut marks, mut off, mut all) = ((before.clone(), before), 0.0, 0.0);
    for (number, second) in node.seconds.iter().enumerate() {
        now.boot += Duration::from_secs(1);
        now.wall += Duration::from_secs(1);
        agent.host().with_memory(|memory| update(memory, node, number));
        agent.step(now);
        if (number + 1) % 60 == 0 {
            let booked = booked(&agent.snapshot(), node);
            for (process, (booked, truth)) in booked.iter().zip(&second.truth).enumerate() {
                off += ((booked - marks.0[process]) - (truth - marks.1[process])).abs();
                all += truth - marks.1[process];
            }
            marks = (booked, second.truth.clone());
        }
    }
    let truth = &node.seconds.last().ok_or("a node that never lived")?.truth;
    let snapshot = agent.snapshot();
    let booked = booked(&snapshot, node);
    let missed: f64 = booked.iter().zip(truth).map(|(booked, truth)| (booked - truth).abs()).sum();
    let packages = snapshot.zones.iter().filter(|book| book.zone.name.starts_with("package"));
    let errors = packages.filter_map(|book| Some(100.0 * (book.at_rest?.watts / node.idle()[0] - 1.0)));
    let idle = errors.fold(0.0, |most: f64, off| if off.abs() > most.abs() { off } else { most });
    check(&snapshot, node)?;
    Ok(Outcome { life: 100.0 * missed / truth.iter().sum::<f64>(), minutes: 100.0 * off / all, idle })
}

/// The agent has measured all that the node has drawn; else the errors say nothing.
fn check(snapshot: &Snapshot, node: &Node) -> Result<(), String> {
    let measured: f64 = snapshot.zones.iter().map(|book| book.total.measured.joules()).sum();
    let last = node.seconds.last().ok_or("a node that never lived")?;
    let drawn = last.energy.iter().sum::<f64>() / 1e6;
    let all = snapshot.zones.len() == node.idle().len() && (measured / drawn - 1.0).abs() < 1e-6;
    all.then_some(()).ok_or_else(|| format!("of {drawn} J in {} zones {measured} J were measured", node.idle().len()))
}

/// J booked to each process.
fn booked(snapshot: &Snapshot, node: &Node) -> Vec<f64> {
    let mut pids = BTreeMap::new();
    for (row, workload) in snapshot.rows() {
        if let WorkloadId::Process { pid, .. } = workload.identity.id {
            let energy: f64 = (0..snapshot.zones.len()).map(|zone| snapshot.active_of(row, zone).joules()).sum();
            *pids.entry(pid).or_insert(0.0) += energy;
        }
    }
    (0..node.processes.len()).map(|number| pids.get(&pid(number)).copied().unwrap_or(0.0)).collect()
}

fn pid(process: usize) -> u32 {
    PID + process as u32
}

/// The cgroup of a container; the first is the system's own service.
fn cgroup(container: usize) -> String {
    match container {
        0 => "/system.slice/kubelet.service".to_owned(),
        _ => format!("/system.slice/docker-{container:064x}.scope"),
    }
}

/// The machine before anything ran.
fn machine(node: &Node) -> Memory {
    let mut memory = Memory::default();
    write(&mut memory, "proc/uptime", "1000.00 1.00\n");
    write(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu cpuset\n");
    write(&mut memory, "sys/fs/cgroup/cgroup.procs", "");
    write(&mut memory, "sys/fs/cgroup/system.slice/cgroup.procs", "");
    for cpu in 0..node.cpus() {
        let socket = cpu * node.sockets / node.cpus();
        let dir = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        write(&mut memory, &format!("{dir}/physical_package_id"), &format!("{socket}\n"));
        write(&mut memory, &format!("{dir}/core_id"), &format!("{}\n", cpu / 2));
    }
    for socket in 0..node.sockets {
        powercap(&mut memory, &socket.to_string(), &format!("package-{socket}"), RANGE, 250);
        powercap(&mut memory, &format!("{socket}:0"), "dram", RANGE, 60);
    }
    let mut members: Vec<String> = vec![String::new(); node.allowed.len()];
    for (number, process) in node.processes.iter().enumerate() {
        let (pid, path) = (pid(number), cgroup(process.container));
        let _ = writeln!(members[process.container], "{pid}");
        write(&mut memory, &format!("proc/{pid}/cgroup"), &format!("0::{path}\n"));
        let text = format!("{pid} (p{number}) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 5000 0 0\n");
        write(&mut memory, &format!("proc/{pid}/stat"), &text);
        memory.set_clock(pid, CpuTime::ZERO);
    }
    for (container, (members, allowed)) in members.iter().zip(&node.allowed).enumerate() {
        let dir = format!("sys/fs/cgroup{}", cgroup(container));
        write(&mut memory, &format!("{dir}/cgroup.procs"), members);
        let range = format!("{}-{}\n", allowed[0], allowed[allowed.len() - 1]);
        write(&mut memory, &format!("{dir}/cpuset.cpus.effective"), &range);
    }
    for event in EVENTS {
        write(&mut memory, &format!("perf/{event}@0.in/sys/fs/cgroup/count"), "0\n");
    }
    write(&mut memory, "sys/devices/system/cpu/online", if node.sockets == 1 { "0\n" } else { "0,32\n" });
    counts(&mut memory, node, None);
    let nothing = vec![0; node.processes.len()];
    times(&mut memory, node, &nothing, 0);
    // The counters begin shortly before their end, so that each wraps.
    energies(&mut memory, &vec![0.0; node.idle().len()]);
    memory
}

fn update(memory: &mut Memory, node: &Node, number: usize) {
    let second = &node.seconds[number];
    times(memory, node, &second.clocks, number as u64 + 1);
    energies(memory, &second.energy);
    counts(memory, node, Some(&second.counts));
}

/// What the processor's counters say, of each socket on its first CPU.
fn counts(memory: &mut Memory, node: &Node, counts: Option<&[Vec<f64>; 2]>) {
    let all = node.allowed.len();
    for (number, event) in EVENTS.into_iter().enumerate() {
        for (socket, container) in (0..node.sockets).flat_map(|socket| (0..=all).map(move |one| (socket, one))) {
            let cpu = socket * node.cpus() / node.sockets;
            let count = counts.map_or(0.0, |counts| counts[number][container * node.sockets + socket]);
            let place = match container {
                _ if container == all => format!("perf/{event}@{cpu}"),
                _ => format!("perf/{event}@{cpu}.in/sys/fs/cgroup{}/count", cgroup(container)),
            };
            write(memory, &place, &format!("{}\n", count as u64));
        }
    }
}

/// CPU time, as every file shows it.
fn times(memory: &mut Memory, node: &Node, clocks: &[u64], seconds: u64) {
    let mut usage = vec![0; node.allowed.len()];
    for (number, (process, clock)) in node.processes.iter().zip(clocks).enumerate() {
        usage[process.container] += clock / 1000;
        memory.set_clock(pid(number), CpuTime(*clock));
    }
    let all: u64 = usage.iter().sum();
    let (busy, cpus) = (all / 10_000, node.cpus() as u64);
    write(memory, "proc/stat", &stat(node.cpus() as u32, busy, seconds * 100 * cpus - busy));
    write(memory, "sys/fs/cgroup/system.slice/cpu.stat", &format!("usage_usec {all}\n"));
    for (container, usage) in usage.iter().enumerate() {
        let path = format!("sys/fs/cgroup{}/cpu.stat", cgroup(container));
        write(memory, &path, &format!("usage_usec {usage}\n"));
    }
}

fn energies(memory: &mut Memory, energy: &[f64]) {
    const FIRST: u64 = RANGE - 10_000_000_000;
    for (zone, micros) in energy.iter().enumerate() {
        let id = if zone.is_multiple_of(2) { (zone / 2).to_string() } else { format!("{}:0", zone / 2) };
        let path = format!("sys/class/powercap/intel-rapl:{id}/energy_uj");
        write(memory, &path, &format!("{}\n", (FIRST + *micros as u64) % RANGE));
    }
}
