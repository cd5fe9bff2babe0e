//! What workloads did by the processor's own counters: cycles for packages, misses of the last-level cache for memory.
//!
//! For each cgroup that begins a workload with nothing but processes in it, and on each CPU, an event is opened for the
//! cgroup and all inside it (`perf_event_open(2)` with `PERF_FLAG_PID_CGROUP`), and one for the CPU as a whole. What the
//! counted cgroups leave of the whole is spread over what is not counted (slices' own, kernel threads, what has just
//! begun) as they used CPU time; inside a counted cgroup, processes and `exited` divide by CPU time. So everybody has a
//! weight in every interval, and counts by CPU say on which socket it was without asking where anybody is pinned.
//!
//! Generic events count on any PMU that knows them; on hybrid processors each kind of core has its own, named in the
//! upper half of `config`. A PMU with too few counters takes turns, and a count is then scaled by how long the event had
//! a counter. An interval in which the machine's counts cannot be read is divided by CPU time at the last known rate.

use crate::activity::cgroup::{ROOT, Tree, Version};
use crate::activity::cpu::ranges;
use crate::activity::scale::{self, children_first};
use crate::activity::{Usage, is_generic};
use crate::host::perf::{Count, Perf};
use crate::host::{Errno, Host, Kept, is_denied};
use crate::meter::{Domain, Socket};
use crate::unit::CpuTime;
use crate::workload::Kind;
use crate::workload::table::{NODE, Table};

/// `PERF_TYPE_HARDWARE` and `PERF_TYPE_HW_CACHE`.
const HARDWARE: u32 = 0;
const HARDWARE_CACHE: u32 = 3;
/// `PERF_COUNT_HW_CPU_CYCLES`: they stand still while a CPU sleeps.
const CYCLES: u64 = 0;
/// `PERF_COUNT_HW_CACHE_MISSES`: of the last level on Intel's processors; other makers count another level.
const CACHE_MISSES: u64 = 3;
/// Reads that miss `PERF_COUNT_HW_CACHE_LL`: 2 | `OP_READ` 0 << 8 | `RESULT_MISS` 1 << 16.
const LAST_LEVEL_READ_MISSES: u64 = 2 | 1 << 16;
const ADVICE: &str =
    "grant CAP_PERFMON (systemd: AmbientCapabilities=CAP_PERFMON), or set kernel.perf_event_paranoid to 0";
/// What is not counted has at most so many times the mean rate of all.
const RATE_MAX: f64 = 8.0;
/// A cgroup that the hierarchy of perf events does not have is tried so often: it may be made a moment later.
const TRIES_MAX: u32 = 3;
/// After so many ticks without the machine's cycles that is said.
const UNKNOWN_MAX: u32 = 10;
/// Topics of what is not counted.
const MISSES: usize = 0;
const FILES: usize = 1;
const UNKNOWN: usize = 2;
/// No CPU counts more than this in a nanosecond: weights stay far from the limits of `u64`, whatever a counter says.
const PER_NANO_MAX: f64 = 64.0;
/// At most so many events are open (each is a file), whatever the limit of files.
const EVENTS_MAX: usize = 1 << 18;
/// So many files are left to everything else.
const FILES_LEFT: usize = 1024;

/// By what energy is split between workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Nanoseconds on a CPU.
    CpuTime,
    /// Cycles of the CPUs while they were not asleep.
    Cycles,
    /// Misses of the last-level cache.
    Misses,
}

impl Measure {
    /// The word in attributes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CpuTime => "cpu_time",
            Self::Cycles => "cycles",
            Self::Misses => "llc_misses",
        }
    }

    /// What fits a zone best, where it is counted.
    const fn best(domain: Domain) -> Self {
        match domain {
            Domain::Package | Domain::Core | Domain::Soc => Self::Cycles,
            Domain::Dram => Self::Misses,
            _ => Self::CpuTime,
        }
    }
}

/// What was counted in an interval: weights by row, beside the same busy time as by CPU time.
#[derive(Debug, Clone)]
pub struct Counted {
    measure: Measure,
    /// `physical_package_id`; none: all of them.
    package: Option<u32>,
    /// By row.
    pub usage: Usage,
    /// Events per nanosecond of CPU time, when it was last known.
    rate: f64,
    /// What the counted cgroups had beyond the whole: they are read one after another.
    carry: f64,
}

impl Usage {
    /// What was used of a zone: on its socket where that is known, and by the measure that fits it where that is counted.
    #[must_use]
    pub fn of(&self, domain: Domain, socket: Option<Socket>) -> &Self {
        self.counted_of(domain, socket).map_or_else(|| self.on(socket), |counted| &counted.usage)
    }

    /// By what the energy of a zone is split.
    #[must_use]
    pub fn measure_of(&self, domain: Domain, socket: Option<Socket>) -> Measure {
        self.counted_of(domain, socket).map_or(Measure::CpuTime, |counted| counted.measure)
    }

    fn counted_of(&self, domain: Domain, socket: Option<Socket>) -> Option<&Counted> {
        let measure = Measure::best(domain);
        let mut fitting = self.counted.iter().filter(|counted| counted.measure == measure);
        let here =
            fitting.clone().find(|counted| counted.package.is_some() && counted.package == socket.map(|it| it.package));
        here.or_else(|| fitting.find(|counted| counted.package.is_none()))
    }
}

/// One event on one CPU.
#[derive(Debug)]
struct Counter {
    perf: Perf,
    /// None after a reading that failed: the next one is a beginning.
    last: Option<Count>,
}

/// The events of a cgroup, all CPUs of one measure after those of another.
#[derive(Debug)]
struct Group {
    path: String,
    inode: u64,
    /// None where the hierarchy of perf events does not have it, so often as it was tried.
    counters: Vec<Counter>,
    tries: u32,
}

/// One CPU.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    number: u32,
    /// The place of its package in `packages`.
    side: usize,
    /// The PMU of its kind of core, in the upper half.
    pmu: u64,
}

/// The processor's counters.
#[derive(Debug)]
pub struct Counters {
    /// Where the cgroups are that have perf events.
    mount: String,
    events: Vec<(Measure, u32, u64)>,
    cpus: Vec<Cpu>,
    packages: Vec<u32>,
    online: (Kept, Vec<u8>),
    machine: Vec<Counter>,
    /// By cgroup of the base hierarchy.
    groups: Vec<Option<Group>>,
    open: usize,
    open_max: usize,
    /// Ticks in a row at which the machine's cycles were not known.
    unknown: u32,
    troubles: [Option<String>; 3],
    // From here on: kept so that a steady tick allocates nothing.
    buffer: Vec<u8>,
    rows: Vec<usize>,
    /// By row and side: what was counted; and by row the CPU time that it was counted over.
    counts: Vec<f64>,
    times: Vec<f64>,
    sums: Vec<Option<f64>>,
    whole: Vec<Option<f64>>,
    inside: Vec<u64>,
    order: Vec<(u32, usize)>,
}

impl Counters {
    /// Opens the machine's events.
    ///
    /// # Errors
    /// Why nothing can be counted, with advice.
    pub fn new(host: &Host, base: &Tree) -> Result<Self, String> {
        let is_dir = |path: &str| host.list(path, |_, _, _| ()).is_ok();
        let v1 = "sys/fs/cgroup/perf_event";
        let mount = match base.version() {
            Version::V2 => base.node(ROOT).dir.clone(),
            Version::V1 if is_dir(v1) => Some(v1.to_owned()),
            Version::V1 => Some("sys/fs/cgroup/unified".to_owned()).filter(|path| is_dir(path)),
        };
        let mount =
            mount.ok_or("cycles are counted by cgroup, and no cgroup file system with perf events is mounted")?;
        let open_max = crate::host::file_limit().saturating_sub(FILES_LEFT).min(EVENTS_MAX);
        let mut counters = Self {
            mount,
            events: Vec::new(),
            cpus: Vec::new(),
            packages: Vec::new(),
            online: (Kept::new("sys/devices/system/cpu/online".into()), Vec::new()),
            machine: Vec::new(),
            groups: Vec::new(),
            open: 0,
            open_max,
            unknown: 0,
            troubles: [None, None, None],
            buffer: Vec::new(),
            rows: Vec::new(),
            counts: Vec::new(),
            times: Vec::new(),
            sums: Vec::new(),
            whole: Vec::new(),
            inside: Vec::new(),
            order: Vec::new(),
        };
        counters.find_cpus(host);
        let misses = if is_intel(host) { (HARDWARE, CACHE_MISSES) } else { (HARDWARE_CACHE, LAST_LEVEL_READ_MISSES) };
        let wanted = [(Measure::Cycles, HARDWARE, CYCLES), (Measure::Misses, misses.0, misses.1)];
        let first = counters.cpus.first().copied().ok_or("no CPU is online, by sys/devices/system/cpu/online")?;
        for event in wanted {
            // A cgroup's event is another thing than a CPU's: both must be allowed and known.
            let root = counters.mount.clone();
            let tried = [None, Some(root.as_str())]
                .map(|cgroup| host.perf_timed(event.1, event.2 | first.pmu, first.number, cgroup));
            match tried.into_iter().find_map(Result::err) {
                None => counters.events.push(event),
                Some(errno) if event.0 == Measure::Cycles => return Err(refused("cycles", errno)),
                Some(errno) => {
                    counters.troubles[MISSES] = Some(refused("misses of the last-level cache", errno));
                }
            }
        }
        counters.machine = counters.open_all(host, None).map_err(|errno| refused("cycles", errno))?;
        counters.open = counters.machine.len();
        Ok(counters)
    }

    /// What is not counted although it was asked for, by topic.
    pub fn troubles(&self) -> impl Iterator<Item = (usize, &str)> {
        self.troubles.iter().enumerate().filter_map(|(topic, trouble)| Some((topic, trouble.as_deref()?)))
    }

    /// What it will count, in the order of [`Usage::of`].
    #[must_use]
    pub fn columns(&self) -> Vec<Counted> {
        let packages = self.packages.iter().map(|package| Some(*package)).filter(|_| self.packages.len() > 1);
        let packages: Vec<Option<u32>> = packages.chain([None]).collect();
        let column = |measure: Measure, package: Option<u32>| Counted {
            measure,
            package,
            usage: Usage::default(),
            rate: if measure == Measure::Cycles { 2.0 } else { 0.002 },
            carry: 0.0,
        };
        let events = self.events.iter();
        events.flat_map(|event| packages.iter().map(move |package| column(event.0, *package))).collect()
    }

    fn find_cpus(&mut self, host: &Host) {
        let (kept, known) = &mut self.online;
        known.clear();
        if host.reread(kept, known).is_err() {
            known.clear();
        }
        let numbers = ranges(known).flat_map(|(first, last)| first..=last.min(1 << 16));
        let numbers: Vec<u32> = numbers.filter_map(|number| u32::try_from(number).ok()).collect();
        let mut text = Vec::new();
        let mut read = |path: &str| -> Option<u32> {
            host.read(path, &mut text).ok()?;
            std::str::from_utf8(&text).ok()?.trim().parse().ok()
        };
        let package = |number: &u32| format!("sys/devices/system/cpu/cpu{number}/topology/physical_package_id");
        let packages: Vec<u32> = numbers.iter().map(|number| read(&package(number)).unwrap_or(0)).collect();
        let mut cores = Vec::new();
        for pmu in ["cpu_core", "cpu_atom"] {
            let dir = format!("sys/bus/event_source/devices/{pmu}");
            let kind = read(&format!("{dir}/type"));
            let mut list = Vec::new();
            if let (Some(kind), Ok(())) = (kind, host.read(&format!("{dir}/cpus"), &mut list)) {
                cores.push((u64::from(kind) << 32, list));
            }
        }
        let pmu = |number: u32| {
            let holds = |list: &[u8]| ranges(list).any(|(first, last)| (first..=last).contains(&u64::from(number)));
            cores.iter().find(|(_, list)| holds(list)).map_or(0, |(pmu, _)| *pmu)
        };
        self.packages.clone_from(&packages);
        self.packages.sort_unstable();
        self.packages.dedup();
        let side = |package: &u32| self.packages.binary_search(package).ok();
        let cpus = numbers.iter().zip(&packages);
        let cpus =
            cpus.filter_map(|(number, package)| Some(Cpu { number: *number, side: side(package)?, pmu: pmu(*number) }));
        self.cpus = cpus.collect();
    }

    /// Opens every event on every CPU.
    fn open_all(&self, host: &Host, cgroup: Option<&str>) -> Result<Vec<Counter>, Errno> {
        let mut counters = Vec::with_capacity(self.events.len() * self.cpus.len());
        for (_, kind, config) in &self.events {
            for cpu in &self.cpus {
                let mut perf = host.perf_timed(*kind, config | cpu.pmu, cpu.number, cgroup)?;
                let last = host.perf_timed_count(&mut perf)?;
                counters.push(Counter { perf, last: Some(last) });
            }
        }
        Ok(counters)
    }

    /// Counts one interval, after what was used in it is known by CPU time. Where the machine `slept`, its CPUs were
    /// offline, and events do not come back from that.
    pub fn count(&mut self, host: &Host, tree: &Tree, table: &Table, usage: &mut Usage, slept: bool) {
        let anew = self.follow_cpus(host, slept);
        let mut sums = std::mem::take(&mut self.whole);
        let sides = self.packages.len();
        sums.clear();
        sums.resize(self.events.len() * sides, (!anew).then_some(0.0));
        let stopped = !anew && add_up(host, &mut self.machine, &self.cpus, sides, &mut sums);
        if stopped {
            // An event that stood still is of a CPU that was offline: nothing here is of the whole interval.
            sums.fill(None);
            self.close();
        }
        self.note_unknown(anew || sums.iter().take(sides).any(Option::is_none));
        self.whole = sums;
        self.count_groups(host, tree, table);
        if usage.counted.len() != self.events.len() * columns_of(sides) || anew {
            usage.counted = self.columns_like(&usage.counted);
        }
        let mut columns = std::mem::take(&mut usage.counted);
        children_first(usage, table, &mut self.order);
        for (index, column) in columns.iter_mut().enumerate() {
            let (event, place) = (index / columns_of(sides), index % columns_of(sides));
            let here = if column.package.is_some() { place..place + 1 } else { 0..sides };
            let places = here.start + event * sides..here.end + event * sides;
            let whole: Option<f64> = self.whole[places.clone()].iter().copied().sum();
            self.weigh(whole, places, table, usage, column);
        }
        usage.counted = columns;
        for row in self.rows.drain(..) {
            self.times[row] = 0.0;
        }
    }

    /// The columns of what can be counted now, with the rates that are known.
    fn columns_like(&self, before: &[Counted]) -> Vec<Counted> {
        let mut columns = self.columns();
        for column in &mut columns {
            let same = |one: &&Counted| one.measure == column.measure && one.package == column.package;
            let like = before.iter().find(same).or_else(|| before.iter().find(|one| one.measure == column.measure));
            column.rate = like.map_or(column.rate, |one| one.rate);
        }
        columns
    }

    /// Says so when the machine's cycles have not been known for a while, and when they are again.
    fn note_unknown(&mut self, unknown: bool) {
        self.unknown = if unknown { self.unknown.saturating_add(1) } else { 0 };
        if self.unknown == UNKNOWN_MAX {
            self.troubles[UNKNOWN] = Some(format!(
                "the machine's cycles have not been counted for {UNKNOWN_MAX} ticks (another user of the processor's \
                 counters, such as the NMI watchdog?): energy is split by CPU time meanwhile"
            ));
        } else if !unknown {
            self.troubles[UNKNOWN] = None;
        }
    }

    /// Opens everything anew when CPUs have come or gone, or are to be.
    fn follow_cpus(&mut self, host: &Host, slept: bool) -> bool {
        let (kept, known) = &mut self.online;
        let moved = host.reread(kept, &mut self.buffer).is_ok() && self.buffer != *known;
        if moved {
            self.find_cpus(host);
            self.counts.clear();
            self.times.clear();
        }
        if moved || slept {
            self.close();
        }
        if self.machine.is_empty() {
            self.machine = self.open_all(host, None).unwrap_or_default();
            self.open += self.machine.len();
            return true;
        }
        false
    }

    /// Closes everything.
    fn close(&mut self) {
        self.machine.clear();
        self.groups.clear();
        self.open = 0;
    }

    /// What the cgroups of workloads counted; those that have just begun are opened, those that ended closed.
    fn count_groups(&mut self, host: &Host, tree: &Tree, table: &Table) {
        let width = self.events.len() * self.packages.len();
        self.counts.resize(table.len().max(self.times.len()) * width, 0.0);
        self.times.resize(table.len().max(self.times.len()), 0.0);
        let mut groups = std::mem::take(&mut self.groups);
        for (at, place) in groups.iter_mut().enumerate() {
            let lives =
                |group: &Group| tree.get(at).is_some_and(|node| node.path == group.path && node.inode == group.inode);
            if place.as_ref().is_some_and(|group| !lives(group)) {
                self.open -= place.take().map_or(0, |group| group.counters.len());
            }
        }
        for &at in tree.entered() {
            let node = tree.node(at);
            let counts = at != ROOT && node.dir.is_some() && !node.heads.is_empty() && is_leaf(table, node.row);
            let again = |group: &Group| group.counters.is_empty() && group.tries < TRIES_MAX;
            if groups.len() <= at {
                groups.resize_with(at + 1, || None);
            }
            if !counts {
                self.open -= groups[at].take().map_or(0, |group| group.counters.len());
            } else if let Some(group) = groups[at].as_mut().filter(|group| !again(group)) {
                self.sums.clear();
                self.sums.resize(width, Some(0.0));
                add_up(host, &mut group.counters, &self.cpus, self.packages.len(), &mut self.sums);
                self.take_in(node.row, node.delta);
            } else {
                let tries = groups[at].as_ref().map_or(0, |group| group.tries) + 1;
                groups[at] = self.open_group(host, &node.path, node.inode, tries);
            }
        }
        self.groups = groups;
    }

    /// Adds what a cgroup counted while it used `nanos` to its row.
    fn take_in(&mut self, row: usize, nanos: i64) {
        let nanos = scale::float(nanos.max(0).unsigned_abs());
        let cycles = || self.sums.iter().take(self.packages.len()).flatten().sum::<f64>();
        // Who was on a CPU had cycles: an event that saw none is dead.
        if nanos <= 0.0 || row >= self.times.len() || (nanos > 1e6 && cycles() <= 0.0) {
            return;
        }
        let width = self.sums.len();
        let counts = &mut self.counts[row * width..(row + 1) * width];
        if self.times[row] == 0.0 {
            counts.fill(0.0);
            self.rows.push(row);
        }
        self.times[row] += nanos;
        for (count, sum) in counts.iter_mut().zip(&self.sums) {
            // What is not known of one CPU is not known of its package, nor of all.
            *count += sum.unwrap_or(f64::NAN);
        }
    }

    fn open_group(&mut self, host: &Host, path: &str, inode: u64, tries: u32) -> Option<Group> {
        let needed = self.events.len() * self.cpus.len();
        let short = if self.open + needed > self.open_max {
            format!("more than {} events would be open", self.open_max)
        } else {
            match self.open_all(host, Some(&format!("{}{path}", self.mount))) {
                Ok(counters) => {
                    self.open += counters.len();
                    return Some(Group { path: path.to_owned(), inode, counters, tries });
                }
                // Not every hierarchy has every cgroup; one without is weighed as what is not counted.
                Err(Errno::NOENT | Errno::BADF | Errno::NODEV | Errno::INVAL) => {
                    return Some(Group { path: path.to_owned(), inode, counters: Vec::new(), tries });
                }
                Err(errno) => format!("perf_event_open for {path}: {errno}"),
            }
        };
        self.troubles[FILES].get_or_insert_with(|| {
            format!(
                "{short}: some workloads are split by CPU time; raise the limit of open files (systemd: LimitNOFILE=), or \
                 set attribution.weights to cpu_time"
            )
        });
        None
    }

    /// The weights of one column: `whole` is what the machine counted, `places` which of the counts of a row are its.
    fn weigh(
        &mut self,
        whole: Option<f64>,
        places: std::ops::Range<usize>,
        table: &Table,
        usage: &Usage,
        column: &mut Counted,
    ) {
        let width = self.events.len() * self.packages.len();
        let busy = scale::float(usage.busy.0);
        let (mut counted, mut time) = (0.0, 0.0);
        for &row in &self.rows {
            let used = scale::float(usage.weight_of(row));
            let rate = self.counts[row * width..][places.clone()].iter().sum::<f64>() / self.times[row];
            if !rate.is_nan() {
                counted += used * rate;
                time += used;
            }
        }
        let known = whole.filter(|whole| *whole > 0.0 && busy > 0.0);
        let rest = known.map_or(column.rate, |whole| {
            column.rate = (whole / busy).min(PER_NANO_MAX);
            let left = whole + column.carry - counted;
            column.carry = left.clamp(-whole, 0.0);
            (left.max(0.0) / (busy - time).max(1.0)).min(RATE_MAX * column.rate).min(PER_NANO_MAX)
        });
        // How busy the socket was is known by time alone.
        let on = column.package.and_then(|package| usage.sockets.iter().find(|one| one.package == package));
        let on = on.map_or(usage, |one| &one.usage);
        let source = if known.is_some() { usage } else { on };
        column.usage.clear();
        self.inside.clear();
        self.inside.resize(table.len(), 0);
        for &(_, row) in &self.order {
            let place = if table.kind(row) == Kind::Process { table.parent(row) } else { row };
            let time = self.times.get(place).copied().unwrap_or(0.0);
            let counted = known
                .filter(|_| time > 0.0)
                .map(|_| self.counts[place * width..][places.clone()].iter().sum::<f64>() / time);
            let factor = counted.filter(|rate| !rate.is_nan()).map_or(rest, |rate| rate.min(PER_NANO_MAX));
            scale::book(row, factor, source, table, &mut self.inside, &mut column.usage);
        }
        let all = self.inside.get(NODE).copied().unwrap_or(0);
        column.usage.set(NODE, all, 0);
        column.usage.unattributed = CpuTime(scale::times(source.unattributed.0, rest));
        column.usage.split_below = usage.split_below;
        (column.usage.busy, column.usage.capacity, column.usage.stolen) = (on.busy, on.capacity, on.stolen);
        column.usage.load_known = on.load_known;
    }
}

/// How many columns an event has: one for each package, where there are several, and one for all.
fn columns_of(packages: usize) -> usize {
    if packages > 1 { packages + 1 } else { 1 }
}

/// What the counters of a machine or a cgroup counted since they were last read, by event and side; none if one of them
/// wanted to count and could not, or cannot be read. Whether one of them has wanted before and did not at all now.
fn add_up(host: &Host, counters: &mut [Counter], cpus: &[Cpu], sides: usize, sums: &mut [Option<f64>]) -> bool {
    let mut stopped = false;
    if counters.is_empty() {
        sums.fill(None);
    }
    for (index, counter) in counters.iter_mut().enumerate() {
        let Some(cpu) = cpus.get(index % cpus.len().max(1)) else { continue };
        let place = index / cpus.len() * sides + cpu.side;
        let now = host.perf_timed_count(&mut counter.perf).ok();
        let both = std::mem::replace(&mut counter.last, now).zip(now);
        stopped |= both.is_some_and(|(before, now)| before.enabled > 0 && now.enabled == before.enabled);
        let counted = both.and_then(|(before, now)| counted(before, now));
        if let Some(sum) = sums.get_mut(place) {
            *sum = sum.zip(counted).map(|(sum, counted)| sum + counted);
        }
    }
    stopped
}

/// What was counted between two readings, had the event had a counter all the time.
fn counted(before: Count, now: Count) -> Option<f64> {
    let value = scale::float(now.value.checked_sub(before.value)?);
    let enabled = scale::float(now.enabled.checked_sub(before.enabled)?);
    let running = scale::float(now.running.checked_sub(before.running)?);
    match running {
        _ if running >= enabled => Some(value),
        0.0 => None,
        _ => Some(value * enabled / running),
    }
}

/// Whether nothing but processes is in a workload.
fn is_leaf(table: &Table, row: usize) -> bool {
    // What is in a slice belongs to the workload around the slice.
    !is_generic(table.kind(row)) && table.children(row).iter().all(|child| table.kind(*child) == Kind::Process)
}

fn is_intel(host: &Host) -> bool {
    let mut buffer = Vec::new();
    let read = host.read("proc/cpuinfo", &mut buffer);
    read.is_ok() && buffer.windows(12).any(|word| word == b"GenuineIntel")
}

fn refused(what: &str, errno: Errno) -> String {
    let split = if what == "cycles" { "energy" } else { "memory's energy" };
    let why = format!("{what} cannot be counted (perf_event_open: {errno}): {split} is split by CPU time");
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP if what != "cycles" => why,
        errno if is_denied(errno) => format!("{why}; {ADVICE}"),
        Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP => {
            format!(
                "{why}; this machine has no such counter (most guests have none): set attribution.weights to cpu_time"
            )
        }
        _ => why,
    }
}
