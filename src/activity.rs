//! What each workload used in an interval, as columns of CPU time by row.
//!
//! Cgroups come first: a cgroup's counter sees every process that ever ran in it. Processes are the split of what a
//! cgroup used; what no live process explains is its `exited` (accounting rules 4 to 8). Clocks and counters are read
//! one after another, so a remainder may be negative: it is carried to the next interval, never clamped away, at most
//! [`SLACK`] per CPU.

use std::time::Duration;

use crate::activity::cgroup::Tree;
use crate::activity::counters::{Counted, Counters};
use crate::activity::cpu::CpuTimes;
use crate::activity::flow::Flows;
use crate::activity::process::Processes;
use crate::activity::sockets::Sockets;
use crate::activity::walk::Walk;
use crate::clock::Timestamp;
use crate::config::{ProcessExport, Weights};
use crate::host::{Host, Kept};
use crate::unit::CpuTime;
use crate::workload::Kind;
use crate::workload::table::{NODE, Table};

pub mod cgroup;
pub mod counters;
pub mod cpu;
pub mod flow;
mod members;
mod place;
pub mod process;
pub mod scale;
pub mod sockets;
pub mod walk;

/// The most that a negative remainder is carried, per CPU.
pub const SLACK: CpuTime = CpuTime(20_000_000);

/// More than this (208 days of CPU time) nothing used in one interval; sums of it stay far from the limits of `i64`.
const USAGE_MAX: CpuTime = CpuTime(1 << 54);

/// CPU time of one interval, by row.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    weight: Vec<u64>,
    exited: Vec<u64>,
    touched: Vec<usize>,
    /// Busy time of the node.
    pub busy: CpuTime,
    /// What the online CPUs had.
    pub capacity: CpuTime,
    /// Busy time that no workload explains.
    pub unattributed: CpuTime,
    /// What the hypervisor gave to somebody else.
    pub stolen: CpuTime,
    /// Whether workloads were looked into: if not, a leaf has no `exited`.
    pub split_below: bool,
    /// Whether `busy` is what the CPUs said of the whole interval; if not, it tells nothing of how power follows it.
    pub load_known: bool,
    /// The same by processor socket, where there are several and the interval is known of each.
    pub sockets: Vec<OnSocket>,
    /// The same by the processor's own counters, where they are asked.
    pub counted: Vec<Counted>,
}

/// What was used on one socket.
#[derive(Debug, Clone, Default)]
pub struct OnSocket {
    /// `physical_package_id`.
    pub package: u32,
    /// How much, by row. It has no sockets of its own.
    pub usage: Usage,
}

impl Usage {
    /// CPU time of a workload, its children included.
    #[must_use]
    pub fn weight_of(&self, row: usize) -> u64 {
        self.weight.get(row).copied().unwrap_or(0)
    }

    /// CPU time of a workload that none of its live children explains.
    #[must_use]
    pub fn exited_of(&self, row: usize) -> u64 {
        self.exited.get(row).copied().unwrap_or(0)
    }

    /// The rows that used anything.
    #[must_use]
    pub fn touched(&self) -> &[usize] {
        &self.touched
    }

    /// Sets the weight and the exited part of a row.
    pub fn set(&mut self, row: usize, weight: u64, exited: u64) {
        self.grow(row + 1);
        if self.weight[row] == 0 && self.exited[row] == 0 && (weight > 0 || exited > 0) {
            self.touched.push(row);
        }
        self.weight[row] = weight;
        self.exited[row] = exited;
    }

    /// Adds another interval.
    pub fn add(&mut self, other: &Self) {
        for &row in &other.touched {
            let (weight, exited) = (self.weight_of(row) + other.weight[row], self.exited_of(row) + other.exited[row]);
            self.set(row, weight, exited);
        }
        self.busy += other.busy;
        self.capacity += other.capacity;
        self.unattributed += other.unattributed;
        self.stolen += other.stolen;
        self.split_below = other.split_below;
        self.load_known &= other.load_known;
    }

    /// Forgets the interval.
    pub fn clear(&mut self) {
        for row in self.touched.drain(..) {
            self.weight[row] = 0;
            self.exited[row] = 0;
        }
        (self.busy, self.capacity, self.unattributed, self.stolen) = Default::default();
        self.load_known = true;
    }

    /// What `row` used stays with its old parent.
    pub fn leave_behind(&mut self, row: usize, parent: usize) {
        let weight = self.weight_of(row);
        if weight == 0 {
            return;
        }
        self.set(row, 0, 0);
        if parent == NODE {
            self.unattributed += CpuTime(weight);
        } else {
            self.set(parent, self.weight_of(parent), self.exited_of(parent) + weight);
        }
    }

    /// Clears a row for the next workload.
    pub fn forget(&mut self, row: usize) {
        if row < self.weight.len() {
            self.weight[row] = 0;
            self.exited[row] = 0;
        }
        for one in &mut self.sockets {
            one.usage.forget(row);
        }
        for one in &mut self.counted {
            one.usage.forget(row);
        }
    }

    fn grow(&mut self, rows: usize) {
        if self.weight.len() < rows {
            self.weight.resize(rows, 0);
            self.exited.resize(rows, 0);
        }
    }
}

/// What an observation depends on besides the machine.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// When.
    pub now: Timestamp,
    /// The tick before.
    pub before: Timestamp,
    /// Number of the tick; 0 is the baseline.
    pub tick: u64,
    /// Time since the baseline at the tick before.
    pub passed: Duration,
}

/// Observes the machine.
pub struct Activity {
    usage: Usage,
    cpu: Vec<CpuTime>,
    flows: Flows,
    base: Tree,
    other: Option<Tree>,
    processes: Processes,
    stat: Kept,
    buffer: Vec<u8>,
    times: Option<CpuTimes>,
    /// CPUs online as they were last known; 0: not known.
    cpus: u64,
    carry: i64,
    sockets: Option<Sockets>,
    counters: Option<Counters>,
    /// Why the processor's counters are not used although they were asked for.
    uncounted: Option<String>,
}

impl Activity {
    /// Looks at how the machine's cgroups are mounted.
    #[must_use]
    pub fn new(host: &Host, export: ProcessExport, weights: Weights) -> Self {
        let (base, other) = cgroup::hierarchies(host);
        let counters = (weights == Weights::Perf).then(|| Counters::new(host, &base));
        let (counters, uncounted) = match counters {
            Some(Ok(counters)) => (Some(counters), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let counted = counters.as_ref().map(Counters::columns).unwrap_or_default();
        Self {
            usage: Usage { split_below: export != ProcessExport::Off, counted, ..Usage::default() },
            cpu: Vec::new(),
            flows: Flows::default(),
            processes: Processes::new(host, export != ProcessExport::Off, base.is_mounted()),
            base,
            other,
            stat: Kept::new("proc/stat".into()),
            buffer: Vec::new(),
            times: None,
            cpus: 0,
            carry: 0,
            sockets: Sockets::find(host),
            counters,
            uncounted,
        }
    }

    /// What is not counted although it was asked for, by topic.
    pub fn troubles(&self) -> impl Iterator<Item = (usize, &str)> {
        let uncounted = self.uncounted.as_deref().map(|why| (0, why));
        uncounted.into_iter().chain(self.counters.iter().flat_map(Counters::troubles))
    }

    /// Makes room at once for the processes that are there: growing bit by bit would leave holes behind.
    pub fn reserve(&mut self, host: &Host, table: &mut Table) {
        let mut count = 0;
        let _ = host.list("proc", |name, _, _| count += usize::from(name.iter().all(u8::is_ascii_digit)));
        let count = count + count / 16;
        self.processes.reserve(count);
        self.flows.grow(count);
        self.usage.grow(count);
        self.cpu.resize(count, CpuTime::ZERO);
        table.reserve(count);
    }

    /// What the workloads used since the tick before.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// CPU time since the baseline, by row.
    #[must_use]
    pub fn cpu(&self) -> &[CpuTime] {
        &self.cpu
    }

    /// Clears a row for the next workload.
    pub fn forget(&mut self, row: usize) {
        self.usage.forget(row);
        self.flows.forget(row);
        if let Some(cpu) = self.cpu.get_mut(row) {
            *cpu = CpuTime::ZERO;
        }
    }

    /// Reads the machine. At the baseline nothing is an interval yet. `moved` is called with (row, old parent) for
    /// each workload that changed its place.
    pub fn observe(&mut self, host: &Host, table: &mut Table, moment: Moment, moved: &mut dyn FnMut(usize, usize)) {
        self.usage.clear();
        let awake = moment.now.awake_since(moment.before);
        let (stat_busy, capacity) = self.cpu_times(host, awake);
        let cpus = if awake.is_zero() { 1 } else { (capacity.0 / CpuTime::from(awake).0.max(1)).max(1) };
        let slack = signed(SLACK.0.saturating_mul(cpus));
        self.flows.begin(table.len());
        // Without knowing what the CPUs had (no count of them, or no time between two ticks) nothing is too much.
        let known = capacity > CpuTime::ZERO;
        let limit = if known { capacity + CpuTime(SLACK.0.saturating_mul(cpus)) } else { USAGE_MAX }.min(USAGE_MAX);
        let mut walk = Walk {
            host,
            table,
            moment,
            limit,
            flows: &mut self.flows,
            usage: &mut self.usage,
            processes: &mut self.processes,
            buffer: &mut self.buffer,
            moved,
            sockets: self.sockets.as_ref(),
        };
        walk.run(&mut self.base, self.other.as_mut());
        self.flows.finish(table, &mut self.usage, slack);
        self.sum_up(table, stat_busy, capacity, slack);
        if let Some(sockets) = &mut self.sockets {
            sockets.cut(&self.flows, table, awake.into(), &mut self.usage);
        }
        if self.cpu.len() < table.len() {
            self.cpu.resize(table.len(), CpuTime::ZERO);
        }
        if moment.tick == 0 {
            self.usage.clear();
            self.carry = 0;
            self.flows.drop_carries();
        }
        if let Some(counters) = &mut self.counters {
            let passed = moment.now.boot.saturating_sub(moment.before.boot);
            let slept = passed > awake + Duration::from_millis(50);
            counters.count(host, &self.base, table, &mut self.usage, slept);
        }
        for &row in &self.usage.touched {
            self.cpu[row] += CpuTime(self.usage.weight[row]);
        }
    }

    /// Busy time by `/proc/stat` and what the CPUs had. Where the file tells nothing of this interval (it cannot be
    /// read, could not be read at the last tick, or has not moved), busy is what is known of the workloads.
    fn cpu_times(&mut self, host: &Host, awake: Duration) -> (Option<CpuTime>, CpuTime) {
        let read = host.reread(&mut self.stat, &mut self.buffer);
        let times = read.ok().and_then(|()| CpuTimes::parse(&self.buffer));
        let moved = |now: &CpuTimes| self.times.is_some_and(|before| before.which != now.which);
        let hotplug = times.as_ref().is_some_and(moved);
        if hotplug || self.sockets.as_ref().is_some_and(|sockets| times.is_some() && sockets.misses(&self.buffer)) {
            self.sockets = Sockets::find(host);
            self.usage.sockets.clear();
            self.base.forget_pins();
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.read(times.is_some().then_some(&self.buffer));
        }
        let found = match (&times, &self.times) {
            (Some(now), Some(before)) if now.all > before.all => {
                if now.online != before.online {
                    self.carry = 0; // hot-plug: what was carried belonged to other CPUs
                }
                let (busy, capacity) = now.busy_since(before, awake);
                self.usage.stolen = now.stolen.saturating_sub(before.stolen);
                Some((Some(busy), capacity))
            }
            _ => None,
        };
        self.times = times;
        self.usage.load_known = found.is_some() && !hotplug;
        let (busy, capacity) = found.unwrap_or_else(|| {
            if self.cpus == 0 {
                self.cpus = cpu::online(host);
            }
            (None, CpuTime(CpuTime::from(awake).0.saturating_mul(self.cpus)))
        });
        if let (Some(cpus), false) = (capacity.0.checked_div(CpuTime::from(awake).0), capacity == CpuTime::ZERO) {
            self.cpus = cpus;
        }
        (busy, capacity)
    }

    /// Accounting rule 4: busy time is what the CPUs say, or what is known where that is more.
    fn sum_up(&mut self, table: &Table, stat_busy: Option<CpuTime>, capacity: CpuTime, slack: i64) {
        let known: u64 = table.children(NODE).iter().fold(0, |sum, row| sum.saturating_add(self.usage.weight_of(*row)));
        // Without /proc/stat the root cgroup's own counter is the next best; a negative remainder then means nothing.
        let root = u64::try_from(self.flows.root_usage()).unwrap_or(0);
        let busy = stat_busy.map_or(root.max(known), |busy| busy.0);
        let rest = signed(busy).saturating_sub(signed(known)).saturating_add(self.carry);
        self.carry = rest.clamp(-slack, 0);
        self.usage.unattributed = CpuTime(u64::try_from(rest).unwrap_or(0));
        self.usage.busy = CpuTime(known) + self.usage.unattributed;
        self.usage.capacity = capacity;
        self.usage.set(NODE, known, 0);
    }
}

/// As a signed number; CPU time never comes near the limit (292 years).
pub(crate) fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// Whether a workload is a mere place, from which others may be carved (accounting rule 6).
pub(crate) fn is_generic(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::Slice)
}
