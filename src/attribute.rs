//! The ledger: every microjoule that a meter reports is booked exactly once.
//!
//! Each zone has an account with its own interval, from the last accepted reading to this one. What it measured is
//! split into idle (by the [`idle`] policy, and what the [`learner`] of the zone has found), attributed and unattributed, and the attributed part is cut along the
//! tree of workloads by integer weights. Policies and activity hand out weights; only this module touches energy.
//! `measured = idle + attributed + unattributed` holds in integer µJ at every booking. No I/O and no clock here.

use std::sync::Arc;
use std::time::Duration;

use crate::activity::Usage;
use crate::attribute::account::{Account, Verdict};
use crate::attribute::idle::Rule;
use crate::attribute::learner::{Estimate, Prior, Source};
use crate::attribute::memory::{Kept, Memory, meaning, means_the_same};
use crate::attribute::rest::Rest;
use crate::attribute::share::Sharers;
use crate::clock::Timestamp;
use crate::config::Attribution;
use crate::meter::graph::stands_for_the_machine;
use crate::meter::processor::Generation;
use crate::meter::{Domain, Quality, Reading, Role, State, Value, Why, Zone};
use crate::unit::{CpuTime, Microjoules, Microwatts};
use crate::workload::table::Table;

pub mod account;
pub mod cpu;
pub mod curve;
pub mod fit;
pub mod frozen;
pub mod idle;
pub mod learner;
pub mod memory;
pub mod rest;
pub mod share;

/// The books of all zones.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    stack: Vec<(usize, Microjoules)>,
    rest: Rest,
    sharers: Sharers,
    /// The tick before.
    before: Timestamp,
    /// The generation of the processor, where known.
    generation: Option<&'static Generation>,
    /// What was kept of zones that have not been offered yet.
    memory: Memory,
    /// What was kept of zones that are something else now.
    refused: Vec<String>,
}

/// What all zones of one tick are booked by.
#[derive(Clone, Copy)]
struct Tick<'a> {
    usage: &'a Usage,
    table: &'a Table,
    policy: &'a Attribution,
    generation: Option<&'static Generation>,
    sharers: &'a Sharers,
    /// A card has work: a meter that holds it shows more than the CPUs' load.
    cards_work: bool,
}

impl Ledger {
    /// Books one tick: `readings` of the zones that are offered now, by what the workloads of `table` used. While
    /// `estimating`, the zones that the estimator stands in for have no baseline.
    pub fn book<'a>(
        &mut self,
        now: Timestamp,
        readings: &(impl Iterator<Item = (&'a Arc<Zone>, Reading)> + Clone),
        usage: &Usage,
        table: &Table,
        policy: &Attribution,
        estimating: bool,
    ) {
        for account in &mut self.accounts {
            account.offered = false;
        }
        // Only the rest of the machine is reckoned from several zones at once.
        let traced = readings.clone().any(|(zone, _)| zone.whole);
        let cards_work = self.accounts.iter().any(card_works);
        let mut sharers = std::mem::take(&mut self.sharers);
        sharers.update(policy.idle_share, table);
        let tick = Tick { usage, table, policy, generation: self.generation, sharers: &sharers, cards_work };
        let (mut entered, mut refused) = (false, Vec::new());
        for (zone, reading) in readings.clone() {
            let index = self.account(zone, now);
            let account = &mut self.accounts[index];
            account.offered = true;
            account.keep_trace(traced);
            let moved = account.zone.path != zone.path && (account.zone.ambiguous || zone.ambiguous);
            let enters = zone.role == Role::Primary && (account.zone.role != Role::Primary || !account.known);
            entered |= enters;
            account.known = true;
            // An equal name elsewhere may be another counter; and what the estimator, or whoever was in the sum before,
            // has booked is not booked again.
            let booked = enters && account.last_reading().is_some_and(|last| last.boot < self.before.boot);
            if moved || booked || (estimating && stands_for_the_machine(zone)) {
                account.rebase();
            }
            if (moved || !means_the_same(&account.zone, zone)) && account.unlearn() {
                refused.push(changed(&account.zone, zone));
            }
            account.zone = Arc::clone(zone);
            settle(account, &mut self.stack, reading, tick);
        }
        self.refused.append(&mut refused);
        let absent = |account: &&mut Account| !account.offered && account.zone.id != rest::ZONE;
        for account in self.accounts.iter_mut().filter(absent) {
            // Somebody else may book the same joules from now on: what comes back begins anew.
            if entered || account.zone.quality == Quality::Estimated {
                account.rebase();
            }
            let gone = Reading { at: now, value: Value::Missing(Why::Gone) };
            settle(account, &mut self.stack, gone, tick);
        }
        self.book_rest(now, tick);
        self.sharers = sharers;
        self.before = now;
    }

    /// Books what the meter of the whole machine shows beyond the parts.
    fn book_rest(&mut self, now: Timestamp, tick: Tick<'_>) {
        let Some(step) = self.rest.step(now, &self.accounts) else { return };
        let index = self.account(&step.zone, now);
        let account = &mut self.accounts[index];
        account.offered = true;
        account.zone = step.zone;
        if step.broken {
            account.lose();
        }
        settle(account, &mut self.stack, step.reading, tick);
        if step.conflict {
            account.book.refused.conflict += 1;
        }
        if let Some(needed) = self.rest.needed_from() {
            for account in &mut self.accounts {
                account.curve.forget_before(needed);
            }
        }
    }

    /// The accounts, in a fixed order that only grows.
    #[must_use]
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Whether every zone has booked what the ended workload in `row` used.
    #[must_use]
    pub fn is_final(&self, row: usize) -> bool {
        self.accounts.iter().all(|account| account.late.is_settled(row))
    }

    /// Clears a row for the next workload.
    pub fn forget(&mut self, row: usize) {
        for account in &mut self.accounts {
            account.forget(row);
        }
    }

    /// A workload moved from `parent`: what it used there, and no zone has booked yet, stays there.
    pub fn moved(&mut self, row: usize, parent: usize) {
        for account in &mut self.accounts {
            account.late.moved(row, parent);
        }
    }

    /// What is known of the processor.
    pub fn set_generation(&mut self, generation: Option<&'static Generation>) {
        self.generation = generation;
    }

    /// What was kept from the run before.
    pub fn remember(&mut self, memory: Memory) {
        self.memory = memory;
    }

    /// What is to be kept for the next run: what is known now, and what was kept of zones that have not come yet.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let mut memory = self.memory.clone();
        for account in self.accounts.iter().filter(|account| account.learner.samples() > 0) {
            let kept = Kept { meaning: meaning(&account.zone), what: account.learner.clone() };
            memory.learned.insert(account.zone.id.clone(), kept);
        }
        memory
    }

    /// Why what was kept of a zone does not hold for it, once for each.
    pub fn take_refused(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refused)
    }

    fn account(&mut self, zone: &Arc<Zone>, now: Timestamp) -> usize {
        let known = self.accounts.iter().position(|account| account.zone.id == zone.id);
        known.unwrap_or_else(|| {
            let mut account = Account::new(Arc::clone(zone), now);
            let (learned, calibrated) = (self.memory.learned.remove(&zone.id), self.memory.calibrated.remove(&zone.id));
            let refused = &mut self.refused;
            account.learner = held(learned, zone, refused).unwrap_or_default();
            account.calibrated = held(calibrated, zone, refused);
            self.accounts.push(account);
            self.accounts.len() - 1
        })
    }
}

/// What was kept, if the zone still is what it was.
fn held<T>(kept: Option<Kept<T>>, zone: &Zone, refused: &mut Vec<String>) -> Option<T> {
    let kept = kept?;
    let now = meaning(zone);
    if kept.meaning == now {
        return Some(kept.what);
    }
    refused.push(format!("zone {}: it was {:?} and is {now:?}", zone.id, kept.meaning));
    None
}

/// Why what was learned of a zone in this run holds no longer.
fn changed(before: &Zone, now: &Zone) -> String {
    let sensor = |zone: &Zone| format!("{:?} at {}", meaning(zone), zone.path);
    format!("zone {}: it was {} and is {}", now.id, sensor(before), sensor(now))
}

/// Whether a card draws clearly more than the least that it was seen to draw.
fn card_works(account: &Account) -> bool {
    let least = account.least.0;
    account.zone.domain == Domain::Gpu
        && account.book.power.0 > least.saturating_add(least / 4).saturating_add(5_000_000)
}

/// One zone at one tick: judge the reading, then book it or let its interval go on.
fn settle(account: &mut Account, stack: &mut Vec<(usize, Microjoules)>, reading: Reading, tick: Tick<'_>) {
    let Tick { table, .. } = tick;
    let usage = tick.usage.of(account.zone.domain, account.zone.socket);
    account.grow(table.len());
    account.book.measured = None;
    account.book.covers = Duration::ZERO;
    (account.book.idle, account.book.shared) = Default::default();
    (account.book.attributed, account.book.unattributed) = Default::default();
    account.book.measure = tick.usage.measure_of(account.zone.domain, account.zone.socket);
    let primary = account.zone.role == Role::Primary;
    if !primary {
        account.book.at_rest = None;
    }
    let reading = account.watched(reading, usage);
    let verdict = account.judge(reading);
    account.trace(verdict, reading.at);
    if let Some(at) = account.last_reading() {
        account.book.until = at;
    }
    match verdict {
        Verdict::Booked { energy, covers, wrapped } => {
            account.book.state = if wrapped { State::Wrap } else { State::Ok };
            account.book.measured = Some(energy);
            account.book.covers = covers;
            account.book.total.measured += energy;
            account.book.power = mean_power(energy, covers);
            account.least = account.least.min(account.book.power);
            if primary {
                divide(account, stack, (energy, covers, reading.at), tick);
            }
            account.late.clear();
        }
        Verdict::Waiting(state) => {
            account.book.state = state;
            if primary && account.has_baseline() {
                account.late.add(usage);
            }
        }
        Verdict::Baseline(state) => {
            account.book.state = state;
            account.late.clear();
        }
    }
}

/// Splits the energy of one interval into idle, attributed and unattributed.
fn divide(
    account: &mut Account,
    stack: &mut Vec<(usize, Microjoules)>,
    interval: (Microjoules, Duration, Timestamp),
    tick: Tick<'_>,
) {
    let Tick { table, .. } = tick;
    let usage = tick.usage.of(account.zone.domain, account.zone.socket);
    if !account.late.is_empty() {
        account.late.add(usage);
    }
    let energy = interval.0;
    let idle = idle_of(account, interval, tick);
    let shared = share_idle(account, idle, tick);
    let active = energy - idle;
    let late = std::mem::take(&mut account.late.usage);
    let weights = if account.late.is_empty() { usage } else { &late };
    // What a card or a drive did says no CPU clock: until their own activity is known, nobody is charged.
    let unattributed = match account.zone.domain {
        Domain::Gpu | Domain::Storage => active,
        _ => account.distribute(stack, active, weights, table),
    };
    account.late.usage = late;
    let book = &mut account.book;
    (book.idle, book.shared) = (idle, shared);
    book.unattributed = unattributed;
    book.attributed = active - unattributed;
    book.total.idle += book.idle;
    book.total.shared += shared;
    book.total.attributed += book.attributed;
    book.total.unattributed += book.unattributed;
}

/// How busy the CPUs were in an interval.
#[derive(Clone, Copy)]
struct Load {
    busy: CpuTime,
    capacity: CpuTime,
    stolen: CpuTime,
    /// Whether the CPUs said so themselves.
    known: bool,
}

/// What the zone draws at rest, after one more interval of so many watts that ended then.
fn at_rest(account: &mut Account, tick: Tick<'_>, load: Load, (watts, at): (f64, Timestamp)) -> Option<Estimate> {
    if let Some((power, error)) = account.zone.idle {
        return Some(Estimate { watts: power.watts(), error: error.watts(), source: Source::Prior });
    }
    let Load { busy, capacity, stolen, known } = load;
    // A CPU that somebody else used, and a card, draw power that the CPUs' load does not tell.
    let foreign = stolen.0 > capacity.0 / 200
        || tick.cards_work && matches!(account.zone.domain, Domain::Host | Domain::Psys | Domain::Module);
    if known && capacity > CpuTime::ZERO && !foreign {
        account.learner.observe(at.boot, busy.seconds() / capacity.seconds(), watts);
    }
    let prior = Prior::of(account.zone.domain, tick.generation);
    account.calibrated.or_else(|| account.learner.estimate(at.boot, &prior))
}

/// Shows idle energy with workloads; returns how much.
fn share_idle(account: &mut Account, idle: Microjoules, tick: Tick<'_>) -> Microjoules {
    if !tick.sharers.is_on() {
        return Microjoules::ZERO;
    }
    let Account { late, idle: column, idle_phase, zone, .. } = account;
    column.resize(tick.table.len().max(column.len()), 0);
    let usage = if late.is_empty() { tick.usage.of(zone.domain, zone.socket) } else { &late.usage };
    tick.sharers.split(idle, zone.domain, usage, idle_phase, |row, share| {
        if let Some(cell) = column.get_mut(row) {
            *cell += share.0;
        }
    })
}

/// The idle part of what was measured, by the rule for the zone.
fn idle_of(
    account: &mut Account,
    (energy, covers, at): (Microjoules, Duration, Timestamp),
    tick: Tick<'_>,
) -> Microjoules {
    let usage = if account.late.is_empty() {
        tick.usage.of(account.zone.domain, account.zone.socket)
    } else {
        &account.late.usage
    };
    let load = Load { busy: usage.busy, capacity: usage.capacity, stolen: usage.stolen, known: usage.load_known };
    account.book.at_rest = match idle::rule(&tick.policy.idle, &account.zone) {
        Rule::None => return Microjoules::ZERO,
        Rule::Ratio => return idle::ratio(energy, load.busy, load.capacity),
        Rule::Configured(said) => Some(said),
        Rule::Learned => at_rest(account, tick, load, (energy.watts_over(covers), at)),
    };
    account.book.at_rest.map_or(Microjoules::ZERO, |found| idle::at_rest(energy, covers, found.watts))
}

fn mean_power(energy: Microjoules, covers: Duration) -> Microwatts {
    Microwatts::from_watts(energy.watts_over(covers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_changes_its_meaning_is_learned_anew_and_that_is_said() {
        let at = |seconds: u64| Timestamp { boot: Duration::from_secs(seconds), ..Timestamp::default() };
        let of = |domain| Zone { path: "sys/x".into(), role: Role::Primary, ..Zone::new("http", "http:plug", domain) };
        let (package, memory) = (Arc::new(of(Domain::Package)), Arc::new(of(Domain::Dram)));
        let (mut ledger, table, policy) = (Ledger::default(), Table::new(at(0)), Attribution::default());
        let mut usage = Usage::default();
        (usage.busy, usage.capacity, usage.load_known) = (CpuTime(500_000_000), CpuTime(1_000_000_000), true);
        let mut book = |second: u64, zone: &Arc<Zone>| {
            let reading = [Reading { at: at(second), value: Value::Power(Microwatts(50_000_000)) }];
            ledger.book(at(second), &[zone].into_iter().zip(reading), &usage, &table, &policy, false);
            let source = ledger.accounts()[0].book.at_rest.map(|found| found.source);
            (source, ledger.accounts()[0].learner.samples(), ledger.take_refused())
        };
        for second in 0..=30 {
            let (source, samples, refused) = book(second, &package);
            assert_eq!((source.is_some(), u64::from(samples), refused.len()), (second > 0, second, 0));
        }
        let (source, samples, refused) = book(31, &memory);
        assert_eq!((source, samples), (Some(Source::Prior), 1));
        let said = r#"zone http:plug: it was "http package measured" at sys/x and is "http dram measured" at sys/x"#;
        assert_eq!(refused, [said]);
    }

    #[test]
    fn a_booking_ends_when_its_meter_was_read() {
        let at = |seconds: u64| Timestamp { boot: Duration::from_secs(seconds), ..Timestamp::default() };
        let zone = Arc::new(Zone::new("ipmi", "ipmi:dcmi", Domain::Host));
        let (mut ledger, table, policy) = (Ledger::default(), Table::new(at(100)), Attribution::default());
        let mut until = |now: u64, read: u64, value: Value| {
            let reading = [Reading { at: at(read), value }];
            let readings = [&zone].into_iter().zip(reading);
            ledger.book(at(now), &readings, &Usage::default(), &table, &policy, false);
            let book = &ledger.accounts()[0].book;
            (book.until.boot.as_secs(), book.covers.as_secs())
        };
        assert_eq!(until(100, 100, Value::Missing(Why::Pending)), (100, 0), "nothing accepted yet");
        assert_eq!(until(101, 96, Value::Power(crate::unit::Microwatts(1_000_000))), (96, 0), "its baseline");
        assert_eq!(until(111, 106, Value::Power(crate::unit::Microwatts(2_000_000))), (106, 10));
        assert_eq!(until(112, 112, Value::Missing(Why::Pending)), (106, 0));
    }
}
