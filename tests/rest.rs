//! `host:rest` against a machine whose truth is known: meters of the caller's own, read at times of their own.
//!
//! The processors' counter is read at every tick, the whole machine's at any other time. Whatever the times, what is
//! booked must be the true difference between the same two instants, and the parts with the rest must be the whole.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::Config;
use wattribute::export::ZoneBook;
use wattribute::host::Host;
use wattribute::host::memory::Memory;
use wattribute::meter::{Domain, Meter, Reading, Role, Sensor, State, Value, Why, Zone};
use wattribute::unit::Microwatts;

const J: u64 = 1_000_000;

fn at(millis: u64) -> Timestamp {
    let boot = Duration::from_millis(millis);
    Timestamp { boot, wall: boot, ..Timestamp::default() }
}

/// A meter that gives what the test has put on its desk.
struct Desk(Arc<Mutex<Reading>>, [Arc<Zone>; 1]);

impl Meter for Desk {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.1
    }

    fn read(&mut self, _: &Host, _: Timestamp, out: &mut [Reading]) {
        out[0] = *self.0.lock().unwrap();
    }
}

struct Machine {
    agent: Agent,
    package: Arc<Mutex<Reading>>,
    whole: Arc<Mutex<Reading>>,
}

impl Machine {
    fn new(whole: Sensor) -> Self {
        let mut agent = Agent::new(Host::memory(Memory::default()), Config::default(), at(0));
        let missing = Reading { at: at(0), value: Value::Missing(Why::Pending) };
        let mut add = |id: &str, domain, sensor| {
            let desk = Arc::new(Mutex::new(missing));
            let power_max = Microwatts(100_000 * J);
            let zone = Zone { sensor, power_max, ..Zone::new("bench", id, domain) };
            agent.add_meter(Box::new(Desk(Arc::clone(&desk), [Arc::new(zone)])));
            desk
        };
        let package = add("bench:package-0", Domain::Package, Sensor::microjoules(None));
        let whole = add("bench:node", Domain::Host, whole);
        Self { agent, package, whole }
    }

    fn step(&mut self, millis: u64, package: Value, whole: Option<(u64, Value)>) {
        *self.package.lock().unwrap() = Reading { at: at(millis), value: package };
        let (then, value) = whole.unwrap_or((millis, Value::Missing(Why::Pending)));
        *self.whole.lock().unwrap() = Reading { at: at(then), value };
        self.agent.step(at(millis));
    }

    fn book(&self, id: &str) -> Option<ZoneBook> {
        self.agent.snapshot().zones.iter().find(|book| book.zone.id == id).cloned()
    }

    fn joules(&self, id: &str) -> f64 {
        self.book(id).map_or(0.0, |book| book.total.measured.joules())
    }
}

#[test]
fn a_bmc_every_ten_seconds_and_a_load_that_swings() {
    // The processors draw 50 W or 250 W for 7 s each, all else 80 W. The BMC gives its mean of the last 10 s.
    let package = |second: u64| if (second / 7).is_multiple_of(2) { 50 } else { 250 };
    let energy = |second: u64| (0..second).map(package).sum::<u64>();
    let mut machine = Machine::new(Sensor::microjoules(None));
    let (mut naive, mut latest) = (0_i64, None);
    for second in 0..=3600 {
        let whole = (second % 10 == 0).then(|| (second * 1000, Value::Ticks((energy(second) + 80 * second) * J)));
        machine.step(second * 1000, Value::Ticks(energy(second) * J), whole);
        if second % 10 == 0 && second > 0 {
            latest = Some((energy(second) - energy(second - 10) + 800) / 10);
        }
        if let Some(watts) = latest {
            naive += i64::try_from(watts).unwrap() - i64::try_from(package(second)).unwrap();
        }
    }
    let (rest, parts, whole) =
        (machine.joules("host:rest"), machine.joules("bench:package-0"), machine.joules("bench:node"));
    assert!((rest - 80.0 * 3600.0).abs() < 1e-3, "{rest} J of {} J", 80 * 3600);
    assert!((parts + rest - whole).abs() < 1e-3, "the parts and the rest are the whole");
    assert!(naive != 80 * 3600, "the naive way gives {naive}");
    let rest = machine.book("host:rest").unwrap();
    assert_eq!((rest.zone.role, rest.zone.domain), (Role::Primary, Domain::Rest));
    assert_eq!(machine.book("bench:node").unwrap().zone.role, Role::Reference);
}

#[test]
fn a_part_that_is_late_holds_up_the_rest_and_loses_nothing() {
    let mut machine = Machine::new(Sensor::microjoules(None));
    for second in 0..30 {
        let broken = (10..20).contains(&second);
        let package = if broken { Value::Missing(Why::Gone) } else { Value::Ticks(second * 100 * J) };
        machine.step(second * 1000, package, Some((second * 1000, Value::Ticks(second * 150 * J))));
        if broken {
            assert_eq!(machine.book("host:rest").unwrap().state, State::Pending, "second {second}");
        }
    }
    assert!((machine.joules("host:rest") - 29.0 * 50.0).abs() < 1e-6);
}

#[test]
fn an_interval_that_is_not_known_is_not_made_up() {
    // At second 10 the processors' counter starts again from 0: 100 J are in no part, and not in the rest either.
    let mut machine = Machine::new(Sensor::microjoules(None));
    for second in 0..20 {
        let count = if second < 10 { 5000 + second * 100 } else { (second - 10) * 100 };
        machine.step(second * 1000, Value::Ticks(count * J), Some((second * 1000, Value::Ticks(second * 150 * J))));
    }
    assert!((machine.joules("host:rest") - 18.0 * 50.0).abs() < 1e-6, "{}", machine.joules("host:rest"));
    assert_eq!(machine.book("host:rest").unwrap().refused.gap, 1);
}

#[test]
fn meters_that_contradict_each_other_are_counted() {
    let mut machine = Machine::new(Sensor::microjoules(None));
    for second in 0..100 {
        machine.step(
            second * 1000,
            Value::Ticks(second * 200 * J),
            Some((second * 1000, Value::Ticks(second * 100 * J))),
        );
    }
    let rest = machine.book("host:rest").unwrap();
    assert_eq!(rest.total.measured.0, 0, "less than nothing is nothing");
    // 100 W are missing; 5 % of 100 W over 60 s are 300 J, so every fourth second it is too much.
    assert_eq!(rest.refused.conflict, 24);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any load, any times of the whole machine's readings, each behind its tick by any time.
    #[test]
    fn the_parts_and_the_rest_are_the_whole_between_the_same_two_instants(
        loads in proptest::collection::vec(1_u64..400, 30..120),
        rests in proptest::collection::vec(0_u64..100, 120),
        every in 1_usize..12,
        delays in proptest::collection::vec(0_u64..3_000, 120),
    ) {
        // True energies in mJ at every millisecond: piecewise even between ticks of 1 s.
        let truth = |of: &dyn Fn(usize) -> u64, millis: u64| {
            let (whole, part) = (usize::try_from(millis / 1000).unwrap(), millis % 1000);
            (0..whole).map(of).sum::<u64>() * 1000 + of(whole) * part
        };
        let package = |second: usize| loads.get(second).copied().unwrap_or(0);
        let node = |second: usize| package(second) + rests.get(second).copied().unwrap_or(0);
        let mut machine = Machine::new(Sensor::microjoules(None));
        let (mut first, mut last) = (None, None);
        for (second, delay) in delays.iter().enumerate().take(loads.len()) {
            let millis = u64::try_from(second).unwrap() * 1000;
            let read = (second % every == every - 1).then(|| millis.saturating_sub(*delay));
            let read = read.filter(|read| last.is_none_or(|last| *read > last));
            machine.step(
                millis,
                Value::Ticks(truth(&package, millis) * 1000),
                read.map(|read| (read, Value::Ticks(truth(&node, read) * 1000))),
            );
            if let Some(read) = read {
                first = first.or(Some(read));
                last = Some(read);
            }
        }
        if let (Some(first), Some(last)) = (first, last) {
            let between = |of: &dyn Fn(usize) -> u64| (truth(of, last) - truth(of, first)) * 1000;
            let expected = between(&node) - between(&package);
            let got = machine.book("host:rest").map_or(0, |book| book.total.measured.0);
            // One µJ of rounding for each interpolation.
            prop_assert!(got.abs_diff(expected) <= 240, "{got} µJ, in truth {expected} µJ");
        }
        for book in &machine.agent.snapshot().zones {
            let total = &book.total;
            if book.zone.role == Role::Primary {
                prop_assert_eq!(total.measured, total.idle + total.attributed + total.unattributed);
            }
        }
    }
}
