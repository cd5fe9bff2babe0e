//! Energy split by the processor's counters (`attribution.weights: perf`), on machines in memory.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::{Attribution, Config, Idle, Weights};
use wattribute::export::Snapshot;
use wattribute::host::memory::Memory;
use wattribute::host::{Errno, Host};
use wattribute::unit::Microjoules;

/// Two containers, by the first letter of their id.
const CONTAINERS: [char; 2] = ['a', 'b'];

fn cgroup(container: char) -> String {
    format!("sys/fs/cgroup/docker-{}.scope", container.to_string().repeat(64))
}

/// A machine of `cpus` CPUs in one package with DRAM, which has used nothing yet. Intel's, so misses are event 3.
struct World {
    agent: Agent,
    now: Timestamp,
    cpus: u64,
    used: [u64; 2],
    ticks: u64,
}

fn put(memory: &mut Memory, path: &str, text: &str) {
    memory.set_file(path, format!("{text}\n").as_bytes()).unwrap();
}

/// A count of one event on one CPU, of everybody or of a container.
fn count(memory: &mut Memory, event: u64, cpu: u64, container: Option<char>, text: &str) {
    let whole = format!("perf/0/{event}@{cpu}");
    let path = container.map_or_else(|| whole.clone(), |one| format!("{whole}.in/{}/count", cgroup(one)));
    put(memory, &path, text);
}

fn base(cpus: u64) -> Memory {
    let mut memory = Memory::default();
    put(&mut memory, "proc/uptime", "1000.00 1.00");
    put(&mut memory, "proc/cpuinfo", "vendor_id\t: GenuineIntel");
    for (zone, name) in [("0", "package-0"), ("0:0", "dram")] {
        let dir = format!("sys/class/powercap/intel-rapl:{zone}");
        put(&mut memory, &format!("{dir}/name"), name);
        put(&mut memory, &format!("{dir}/energy_uj"), "0");
        put(&mut memory, &format!("{dir}/max_energy_range_uj"), "262143328850");
    }
    put(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu");
    online(&mut memory, cpus);
    stat(&mut memory, cpus, 0, 0);
    for event in [0, 3] {
        put(&mut memory, &format!("perf/0/{event}@0.in/sys/fs/cgroup/count"), "0");
    }
    for container in CONTAINERS {
        appear(&mut memory, container, cpus);
    }
    memory
}

fn online(memory: &mut Memory, cpus: u64) {
    put(memory, "sys/devices/system/cpu/online", &format!("0-{}", cpus - 1));
    for (event, cpu) in [0, 3].into_iter().flat_map(|event| (0..cpus).map(move |cpu| (event, cpu))) {
        count(memory, event, cpu, None, "0");
    }
}

fn appear(memory: &mut Memory, container: char, cpus: u64) {
    put(memory, &format!("{}/cgroup.procs", cgroup(container)), "");
    put(memory, &format!("{}/cpu.stat", cgroup(container)), "usage_usec 0");
    for (event, cpu) in [0, 3].into_iter().flat_map(|event| (0..cpus).map(move |cpu| (event, cpu))) {
        count(memory, event, cpu, Some(container), "0");
    }
}

/// `busy` and `rest` in hundredths of a second, on the first CPU.
fn stat(memory: &mut Memory, cpus: u64, busy: u64, rest: u64) {
    let mut text = format!("cpu  {busy} 0 0 {rest} 0 0 0 0 0 0");
    for cpu in 0..cpus {
        let (busy, rest) = if cpu == 0 { (busy, rest - rest * (cpus - 1) / cpus.max(1)) } else { (0, rest / cpus) };
        let _ = write!(text, "\ncpu{cpu} {busy} 0 0 {rest} 0 0 0 0 0 0");
    }
    put(memory, "proc/stat", &text);
}

impl World {
    fn new(memory: Memory, cpus: u64) -> Self {
        let now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
        let attribution = Attribution { idle: Idle::None, weights: Weights::Perf, ..Attribution::default() };
        let mut agent = Agent::new(Host::memory(memory), Config { attribution, ..Config::default() }, now);
        agent.step(now);
        Self { agent, now, cpus, used: [0; 2], ticks: 0 }
    }

    /// A second in which the containers used so many µs, and the package and the memory drew 10 J each.
    fn step(&mut self, used: [u64; 2], change: impl FnOnce(&mut Memory)) -> Arc<Snapshot> {
        self.ticks += 1;
        self.now.boot += Duration::from_secs(1);
        self.now.wall += Duration::from_secs(1);
        let (cpus, ticks) = (self.cpus, self.ticks);
        for (sum, used) in self.used.iter_mut().zip(used) {
            *sum += used;
        }
        let (sums, all) = (self.used, self.used.iter().sum::<u64>());
        self.agent.host().with_memory(|memory| {
            put(memory, "sys/fs/cgroup/cpu.stat", &format!("usage_usec {all}"));
            for (container, sum) in CONTAINERS.into_iter().zip(sums) {
                let path = format!("{}/cpu.stat", cgroup(container));
                if memory.read(&path, &mut Vec::new(), 100).is_ok() {
                    put(memory, &path, &format!("usage_usec {sum}"));
                }
            }
            for zone in ["0", "0:0"] {
                put(
                    memory,
                    &format!("sys/class/powercap/intel-rapl:{zone}/energy_uj"),
                    &format!("{}", 10_000_000 * ticks),
                );
            }
            stat(memory, cpus, all / 10_000, ticks * 100 * cpus - all / 10_000);
            change(memory);
        });
        self.agent.step(self.now);
        self.agent.snapshot()
    }

    fn trouble(&self) -> String {
        self.agent
            .troubles()
            .find(|trouble| trouble.1 == "weights")
            .map_or_else(String::new, |trouble| trouble.2.to_string())
    }
}

/// J of the package and the memory that a container has in all.
fn joules(snapshot: &Snapshot, container: char) -> [f64; 2] {
    let id = format!("container:{}", container.to_string().repeat(64));
    let row = snapshot.rows().find(|(_, workload)| workload.identity.id.to_string() == id).unwrap().0;
    ["rapl:package-0", "rapl:package-0/dram"].map(|zone| {
        let zone = snapshot.zones.iter().position(|book| book.zone.id == zone).unwrap();
        snapshot.active_of(row, zone).joules()
    })
}

fn close(one: [f64; 2], two: [f64; 2]) -> bool {
    one.iter().zip(two).all(|(one, two)| (one - two).abs() < 1e-5)
}

fn balance(snapshot: &Snapshot) {
    for (zone, book) in snapshot.zones.iter().enumerate() {
        let total = &book.total;
        assert_eq!(total.measured, total.idle + total.attributed + total.unattributed, "{}", book.zone.id);
        let top = snapshot.rows().filter(|(row, workload)| *row != 0 && workload.parent == 0);
        let top: Microjoules = top.fold(Microjoules::ZERO, |sum, (row, _)| sum + snapshot.active_of(row, zone));
        assert_eq!(top, total.attributed, "{}", book.zone.id);
    }
}

#[test]
fn cycles_weigh_packages_and_misses_memory() {
    let mut world = World::new(base(2), 2);
    let snapshot = world.step([500_000, 500_000], |memory| {
        for (event, one, two) in [(0, 3_000, 1_000), (3, 1, 9)] {
            count(memory, event, 0, None, &format!("{}", one + two));
            count(memory, event, 0, Some('a'), &format!("{one}"));
            count(memory, event, 1, Some('b'), "0");
            count(memory, event, 0, Some('b'), &format!("{two}"));
        }
    });
    assert_eq!(world.trouble(), "");
    assert!(close(joules(&snapshot, 'a'), [7.5, 1.0]), "{:?}", joules(&snapshot, 'a'));
    assert!(close(joules(&snapshot, 'b'), [2.5, 9.0]), "{:?}", joules(&snapshot, 'b'));
    assert_eq!(snapshot.zones.iter().map(|book| book.measure.as_str()).collect::<Vec<_>>(), ["cycles", "llc_misses"]);
    balance(&snapshot);
}

#[test]
fn a_container_that_comes_is_weighed_by_what_the_others_leave_and_then_by_its_own_counts() {
    let mut memory = base(1);
    memory.remove(&cgroup('b')).unwrap();
    let mut world = World::new(memory, 1);
    let first = world.step([500_000, 500_000], |memory| {
        appear(memory, 'b', 1);
        put(memory, &format!("{}/cpu.stat", cgroup('b')), "usage_usec 500000");
        count(memory, 0, 0, None, "4000");
        count(memory, 0, 0, Some('a'), "3000");
        count(memory, 0, 0, Some('b'), "777");
    });
    assert!((joules(&first, 'b')[0] - 2.5).abs() < 1e-5, "1000 cycles were left: {:?}", joules(&first, 'b'));
    let second = world.step([500_000, 500_000], |memory| {
        count(memory, 0, 0, None, "8000");
        count(memory, 0, 0, Some('a'), "4000");
        count(memory, 0, 0, Some('b'), "3777");
    });
    assert!((joules(&second, 'b')[0] - 10.0).abs() < 1e-5, "3000 of 4000: {:?}", joules(&second, 'b'));
    balance(&second);
}

#[test]
fn where_cpus_come_everything_is_opened_anew() {
    let mut world = World::new(base(1), 1);
    world.step([500_000, 500_000], |memory| {
        count(memory, 0, 0, None, "4000");
        count(memory, 0, 0, Some('a'), "3000");
        count(memory, 0, 0, Some('b'), "1000");
    });
    let before = world.step([500_000, 500_000], |memory| {
        online(memory, 2);
        for (cpu, container) in (0..2).flat_map(|cpu| CONTAINERS.map(|container| (cpu, container))) {
            for event in [0, 3] {
                count(memory, event, cpu, Some(container), "0");
            }
        }
    });
    world.cpus = 2;
    assert!(
        (joules(&before, 'a')[0] - 12.5).abs() < 1e-5,
        "by CPU time at the tick of the change: {:?}",
        joules(&before, 'a')
    );
    let after = world.step([500_000, 500_000], |memory| {
        count(memory, 0, 0, None, "1000");
        count(memory, 0, 1, None, "3000");
        count(memory, 0, 0, Some('a'), "1000");
        count(memory, 0, 1, Some('b'), "3000");
    });
    assert!((joules(&after, 'a')[0] - 15.0).abs() < 1e-5, "1000 of 4000: {:?}", joules(&after, 'a'));
}

/// A CPU that was offline between two ticks, or while the machine slept, leaves dead events behind: their times stand still.
#[test]
fn events_that_died_are_opened_anew() {
    let mut world = World::new(base(2), 2);
    // A runs on the first CPU, B on the second one, whose events live or are dead.
    let mut tick = |first: u64, second: u64| {
        let snapshot = world.step([500_000, 500_000], |memory| {
            for (cpu, whose, rounds) in [(0, 'a', first), (1, 'b', second)] {
                let cycles = rounds * if cpu == 0 { 3000 } else { 1000 };
                let text = format!("{cycles} {} {}", 100 * rounds, 100 * rounds);
                count(memory, 0, cpu, None, &text);
                count(memory, 0, cpu, Some(whose), &text);
            }
        });
        balance(&snapshot);
        joules(&snapshot, 'b')[0]
    };
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
    near(tick(1, 1), 2.5);
    near(tick(2, 2), 5.0);
    near(tick(3, 2), 10.0); // by CPU time while one does not count
    near(tick(4, 3), 15.0); // opened at this tick
    near(tick(5, 4), 17.5); // 1000 of 4000 again
}

#[test]
fn a_reading_that_fails_once_is_not_counted_twice_afterwards() {
    let mut world = World::new(base(1), 1);
    let mut tick = |sum: Option<u64>| {
        let snapshot = world.step([500_000, 500_000], |memory| {
            memory.set_error("perf/0/0@0", sum.is_none().then_some(Errno::IO)).unwrap();
            let sum = sum.unwrap_or(0);
            for (whose, part) in [(None, 4), (Some('a'), 3), (Some('b'), 1)] {
                count(memory, 0, 0, whose, &format!("{}", sum * part));
            }
        });
        balance(&snapshot);
        joules(&snapshot, 'a')[0]
    };
    assert!((tick(Some(1000)) - 7.5).abs() < 1e-5);
    assert!((tick(None) - 12.5).abs() < 1e-5, "by CPU time");
    assert!((tick(Some(3000)) - 17.5).abs() < 1e-5, "from here on it counts");
    assert!((tick(Some(4000)) - 25.0).abs() < 1e-5);
}

/// What is in a slice is nobody's but the slice's; its event, if it had one, would count everything inside.
#[test]
fn a_slice_has_what_its_workloads_leave() {
    let mut memory = base(1);
    let slice = "sys/fs/cgroup/system.slice";
    put(&mut memory, &format!("{slice}/cgroup.procs"), "");
    put(&mut memory, &format!("{slice}/cpu.stat"), "usage_usec 0");
    put(&mut memory, &format!("perf/0/0@0.in/{slice}/count"), "0");
    put(&mut memory, &format!("perf/0/3@0.in/{slice}/count"), "0");
    let mut world = World::new(memory, 1);
    let snapshot = world.step([400_000, 400_000], |memory| {
        put(memory, "sys/fs/cgroup/cpu.stat", "usage_usec 1000000");
        put(memory, &format!("{slice}/cpu.stat"), "usage_usec 200000");
        put(memory, &format!("perf/0/0@0.in/{slice}/count"), "9000");
        stat(memory, 1, 100, 0);
        count(memory, 0, 0, None, "4000");
        count(memory, 0, 0, Some('a'), "2500");
        count(memory, 0, 0, Some('b'), "1000");
    });
    let row = snapshot.rows().find(|(_, workload)| workload.identity.id.to_string().starts_with("slice:")).unwrap().0;
    let zone = snapshot.zones.iter().position(|book| book.zone.id == "rapl:package-0").unwrap();
    let found = snapshot.active_of(row, zone).joules();
    assert!((found - 1.25).abs() < 1e-5, "500 of 4000: {found}");
    assert!((joules(&snapshot, 'a')[0] - 6.25).abs() < 1e-5);
}

#[test]
fn what_cannot_be_counted_is_said_and_cpu_time_is_used() {
    let mut memory = base(1);
    memory.set_error("perf/0/0@0", Some(Errno::ACCESS)).unwrap();
    let mut world = World::new(memory, 1);
    assert!(
        world.trouble().contains("cycles cannot be counted") && world.trouble().contains("CAP_PERFMON"),
        "{}",
        world.trouble()
    );
    let snapshot = world.step([750_000, 250_000], |memory| count(memory, 0, 0, Some('b'), "5"));
    assert!(close(joules(&snapshot, 'a'), [7.5, 7.5]));
    assert!(snapshot.zones.iter().all(|book| book.measure.as_str() == "cpu_time"));

    let mut memory = base(1);
    memory.remove("perf/0/3@0").unwrap();
    let mut world = World::new(memory, 1);
    assert!(world.trouble().contains("misses of the last-level cache cannot be counted"), "{}", world.trouble());
    let snapshot = world.step([500_000, 500_000], |memory| {
        count(memory, 0, 0, None, "4000");
        count(memory, 0, 0, Some('a'), "3000");
        count(memory, 0, 0, Some('b'), "1000");
    });
    assert!(close(joules(&snapshot, 'a'), [7.5, 5.0]), "memory by CPU time: {:?}", joules(&snapshot, 'a'));

    let mut memory = base(1);
    memory.remove("perf/0/0@0.in/sys/fs/cgroup/count").unwrap();
    assert!(World::new(memory, 1).trouble().contains("attribution.weights to cpu_time"));
}

/// On a hybrid processor each kind of core has a PMU of its own.
#[test]
fn each_kind_of_core_counts_with_its_own_pmu() {
    let mut memory = base(2);
    let (core, atom) = (4_u64 << 32, 10_u64 << 32);
    for (pmu, kind, cpus) in [("cpu_core", 4, "0"), ("cpu_atom", 10, "1")] {
        put(&mut memory, &format!("sys/bus/event_source/devices/{pmu}/type"), &format!("{kind}"));
        put(&mut memory, &format!("sys/bus/event_source/devices/{pmu}/cpus"), cpus);
    }
    for (cpu, pmu) in [(0, core), (1, atom)] {
        for event in [0, 3] {
            count(&mut memory, event | pmu, cpu, None, "0");
            put(&mut memory, &format!("perf/0/{}@{cpu}.in/sys/fs/cgroup/count", event | pmu), "0");
            for container in CONTAINERS {
                count(&mut memory, event | pmu, cpu, Some(container), "0");
            }
        }
    }
    let mut world = World::new(memory, 2);
    assert_eq!(world.trouble(), "");
    let snapshot = world.step([500_000, 500_000], |memory| {
        for (cpu, pmu, container, cycles) in [(0, core, 'a', "3000"), (1, atom, 'b', "1000")] {
            count(memory, pmu, cpu, None, cycles);
            count(memory, pmu, cpu, Some(container), cycles);
        }
    });
    assert!((joules(&snapshot, 'a')[0] - 7.5).abs() < 1e-5, "{:?}", joules(&snapshot, 'a'));
}

fn any_count() -> impl Strategy<Value = Option<(u64, u64, u64)>> {
    let number = prop_oneof![0..10_u64, 0..1_u64 << 40, any::<u64>()];
    proptest::option::weighted(0.9, (number.clone(), number.clone(), number))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Counts that go back, stand still, overflow or fail: the books balance, and everybody's energy only grows.
    #[test]
    fn the_books_balance_whatever_is_counted(
        ticks in proptest::collection::vec(
            ((0..600_000_u64, 0..400_000_u64), proptest::collection::vec(any_count(), 6)), 1..12,
        ),
    ) {
        let mut world = World::new(base(1), 1);
        let mut last = [[0.0; 2]; 2];
        for ((one, two), counts) in ticks {
            let snapshot = world.step([one, two], |memory| {
                let places = [0, 3].into_iter().flat_map(|event| [None, Some('a'), Some('b')].map(|whose| (event, whose)));
                for ((event, whose), found) in places.zip(counts) {
                    let whole = format!("perf/0/{event}@0");
                    let path = whose.map_or_else(|| whole.clone(), |one| format!("{whole}.in/{}/count", cgroup(one)));
                    memory.set_error(&path, found.is_none().then_some(Errno::IO)).unwrap();
                    if let Some((value, enabled, running)) = found {
                        put(memory, &path, &format!("{value} {enabled} {running}"));
                    }
                }
            });
            balance(&snapshot);
            for (container, last) in CONTAINERS.into_iter().zip(&mut last) {
                let now = joules(&snapshot, container);
                prop_assert!(now.iter().zip(*last).all(|(now, last)| *now >= last));
                *last = now;
            }
        }
    }
}
