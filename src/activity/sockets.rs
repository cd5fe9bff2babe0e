//! Which processor socket used what, on machines with several: a package's energy belongs to those who ran on it.
//!
//! How busy each socket was is in the `cpuN` lines of `/proc/stat`; which CPU sits in which socket is in
//! `topology/physical_package_id`. A cgroup whose `cpuset.cpus.effective` (v1: `cpuset.effective_cpus`) lies in one socket
//! ran there; what nobody pins is taken to have run wherever the sockets were busy with none that is pinned. Only for
//! sockets: within one, where a process ran is not asked (a read per thread), nor would it move the books by more than a
//! few percent.

use crate::activity::Usage;
use crate::activity::cpu::{CpuTimes, ranges};
use crate::activity::flow::Flows;
use crate::activity::scale::{self, children_first, times};
use crate::host::Host;
use crate::meter::Socket;
use crate::unit::CpuTime;
use crate::workload::Kind;
use crate::workload::table::{NODE, Table};

/// The sockets of a machine that has more than one.
#[derive(Debug)]
pub struct Sockets {
    /// `physical_package_id`, ascending.
    packages: Vec<u32>,
    /// By CPU: its place in `packages`; `NOWHERE` for a CPU that is not there.
    of_cpu: Vec<usize>,
    before: Vec<Times>,
    now: Vec<Times>,
    /// Whether `before` and `now` are of two ticks in a row.
    follows: bool,
    sides: Vec<Side>,
    order: Vec<(u32, usize)>,
    shares: Vec<f64>,
}

const NOWHERE: usize = usize::MAX;

/// What the CPUs of a socket did since boot.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    at_rest: CpuTime,
    stolen: CpuTime,
    online: u64,
}

/// One socket in the interval.
#[derive(Debug, Default)]
struct Side {
    busy: u64,
    capacity: u64,
    /// The part of what is not pinned that ran here.
    free: f64,
    /// By row: what those inside have here, and what of the row's own is pinned here.
    inside: Vec<u64>,
    pinned: Vec<i64>,
}

impl Sockets {
    /// Looks at the machine; none if it has one socket, or does not say.
    #[must_use]
    pub fn find(host: &Host) -> Option<Self> {
        let mut cpus = Vec::new();
        let listed = host.list("sys/devices/system/cpu", |name, _, _| {
            let digits = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix("cpu"));
            cpus.extend(digits.and_then(|digits| digits.parse::<usize>().ok()).filter(|cpu| *cpu < 1 << 16));
        });
        listed.ok()?;
        let mut buffer = Vec::new();
        let mut package = |cpu: usize| {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id");
            host.read(&path, &mut buffer).ok()?;
            std::str::from_utf8(&buffer).ok()?.trim().parse::<u32>().ok()
        };
        let found: Vec<(usize, u32)> = cpus.into_iter().filter_map(|cpu| Some((cpu, package(cpu)?))).collect();
        let mut packages: Vec<u32> = found.iter().map(|(_, package)| *package).collect();
        packages.sort_unstable();
        packages.dedup();
        if packages.len() < 2 {
            return None;
        }
        let mut of_cpu = vec![NOWHERE; found.iter().map(|(cpu, _)| cpu + 1).max().unwrap_or(0)];
        for (cpu, package) in found {
            of_cpu[cpu] = packages.binary_search(&package).unwrap_or(NOWHERE);
        }
        let sides = packages.iter().map(|_| Side::default()).collect();
        let times = vec![Times::default(); packages.len()];
        let (before, now) = (times.clone(), times);
        let (order, shares) = (Vec::new(), Vec::new());
        Some(Self { packages, of_cpu, before, now, follows: false, sides, order, shares })
    }

    /// The place of the one socket in which all CPUs of a list (`0-3,8`) are; none if there are several, or if it is not
    /// known of one.
    #[must_use]
    pub fn pin_of(&self, list: &[u8]) -> Option<usize> {
        let mut pin = None;
        for (first, last) in ranges(list) {
            for cpu in first..=last {
                let place = usize::try_from(cpu).ok().and_then(|cpu| self.of_cpu.get(cpu)).copied();
                let place = place.filter(|place| *place != NOWHERE)?;
                if pin.is_some_and(|known| known != place) {
                    return None;
                }
                pin = Some(place);
            }
        }
        pin
    }

    /// Whether a CPU is online of which it is not known where it sits.
    #[must_use]
    pub fn misses(&self, stat: &[u8]) -> bool {
        let mut cpus = stat.split(|byte| *byte == b'\n').skip(1).map_while(CpuTimes::parse_one);
        cpus.any(|(cpu, ..)| self.of_cpu.get(cpu).is_none_or(|place| *place == NOWHERE))
    }

    /// Takes in `/proc/stat`; without it, nothing is known of this interval nor of the next.
    pub fn read(&mut self, stat: Option<&[u8]>) {
        std::mem::swap(&mut self.before, &mut self.now);
        self.now.fill(Times::default());
        for line in stat.unwrap_or_default().split(|byte| *byte == b'\n').skip(1) {
            let Some((cpu, at_rest, stolen)) = CpuTimes::parse_one(line) else { break };
            let Some(times) = self.of_cpu.get(cpu).and_then(|place| self.now.get_mut(*place)) else { continue };
            times.at_rest += at_rest;
            times.stolen += stolen;
            times.online += 1;
        }
        // A socket that lost or got a CPU is known again at the next tick.
        let same = |(before, now): (&Times, &Times)| before.online == now.online && now.online > 0;
        self.follows = self.before.iter().zip(&self.now).all(same);
    }

    /// What each socket's CPUs did in an interval that was `awake` long, into the usages of the sockets.
    pub fn cut(&mut self, flows: &Flows, table: &Table, awake: CpuTime, usage: &mut Usage) {
        if !self.follows || awake == CpuTime::ZERO {
            usage.sockets.clear();
            return;
        }
        let Self { packages, before, now, sides, order, shares, .. } = self;
        for ((side, before), now) in sides.iter_mut().zip(before.iter()).zip(now.iter()) {
            side.capacity = awake.0.saturating_mul(now.online);
            side.busy = side.capacity.saturating_sub(now.at_rest.saturating_sub(before.at_rest).0);
            side.inside.clear();
            side.inside.resize(table.len(), 0);
            side.pinned.clear();
            side.pinned.resize(table.len(), 0);
        }
        for &(row, place, nanos) in flows.pinned() {
            if let Some(pinned) = sides.get_mut(place).and_then(|side| side.pinned.get_mut(row)) {
                *pinned += nanos;
            }
        }
        spread(sides);
        usage.sockets.resize_with(packages.len(), Default::default);
        for ((one, package), (side, (before, now))) in
            usage.sockets.iter_mut().zip(packages.iter()).zip(sides.iter().zip(before.iter().zip(now.iter())))
        {
            one.package = *package;
            one.usage.clear();
            one.usage.split_below = usage.split_below;
            one.usage.load_known = usage.load_known;
            one.usage.capacity = CpuTime(side.capacity);
            one.usage.stolen = now.stolen.saturating_sub(before.stolen);
        }
        children_first(usage, table, order);
        for &(_, row) in order.iter() {
            book(row, flows, table, usage, sides, shares);
        }
        close(usage, sides);
    }
}

/// How what is not pinned spreads: as the sockets were busy with nothing that is.
fn spread(sides: &mut [Side]) {
    for side in sides.iter_mut() {
        let pinned = side.pinned.iter().fold(0_i64, |sum, nanos| sum.saturating_add(*nanos)).max(0);
        side.free = CpuTime(side.busy.saturating_sub(pinned.unsigned_abs())).seconds();
    }
    let left: f64 = sides.iter().map(|side| side.free).sum();
    let all: f64 = sides.iter().map(|side| CpuTime(side.capacity).seconds()).sum();
    for side in sides {
        let capacity = CpuTime(side.capacity).seconds() / all.max(f64::MIN_POSITIVE);
        side.free = if left > 0.0 { side.free / left } else { capacity };
    }
}

/// Books one row to the sockets; those inside it have been booked before.
fn book(row: usize, flows: &Flows, table: &Table, usage: &mut Usage, sides: &mut [Side], shares: &mut Vec<f64>) {
    let parent = table.parent(row);
    let process = table.kind(row) == Kind::Process;
    let place = if process { parent } else { row };
    let own = CpuTime(flows.own_of(place).max(0).unsigned_abs()).seconds();
    let on = |side: &Side| {
        let pinned = side.pinned.get(place).copied().unwrap_or(0);
        CpuTime(pinned.max(0).unsigned_abs()).seconds().min(own)
    };
    let pinned: f64 = sides.iter().map(on).sum::<f64>().min(own);
    shares.clear();
    shares.extend(
        sides.iter().map(|side| if own > 0.0 { (on(side) + side.free * (own - pinned)) / own } else { side.free }),
    );
    // Taken out, since they are written while the whole is read.
    let mut sockets = std::mem::take(&mut usage.sockets);
    for ((side, share), one) in sides.iter_mut().zip(shares.iter()).zip(&mut sockets) {
        scale::book(row, *share, usage, table, &mut side.inside, &mut one.usage);
    }
    usage.sockets = sockets;
}

/// What no workload explains, and how busy each socket then was.
fn close(usage: &mut Usage, sides: &[Side]) {
    let known = |side: &Side| side.inside.get(NODE).copied().unwrap_or(0);
    let gap = |side: &Side| CpuTime(side.busy.saturating_sub(known(side))).seconds();
    let gaps: f64 = sides.iter().map(gap).sum();
    let unattributed = usage.unattributed.0;
    for (side, one) in sides.iter().zip(&mut usage.sockets) {
        let share = if gaps > 0.0 { gap(side) / gaps } else { side.free };
        one.usage.unattributed = CpuTime(times(unattributed, share));
        one.usage.busy = CpuTime(known(side)) + one.usage.unattributed;
        one.usage.set(NODE, known(side), 0);
    }
}

impl Usage {
    /// What was used on `socket`; on all of them where that is not known.
    #[must_use]
    pub fn on(&self, socket: Option<Socket>) -> &Self {
        let found = socket.and_then(|socket| self.sockets.iter().find(|one| one.package == socket.package));
        found.map_or(self, |one| &one.usage)
    }
}
