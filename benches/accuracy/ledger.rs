//! Rows E and G: the gap in the books, and the highest watts they show, over 10⁵ intervals of a machine full of faults.
//!
//! E compares, in whole µJ, at every tick and for every zone: what was measured with idle + attributed + unattributed;
//! what the workloads at the top were booked with what was attributed; each workload with its children and its exited;
//! and what a counter was measured to give with what its register moved by. G is the highest power that the books show of
//! a counter over what it truly drew in that interval; beside it stand a reader that divides by the tick it asked for and
//! one that takes every step back for a wrap. A kind of event that never happened is a failure, as is a check that a
//! book with 1 µJ too much passes.

use std::collections::BTreeMap;

use wattribute::agent::Agent;
use wattribute::config::Config;
use wattribute::export::{Snapshot, Workload};
use wattribute::host::Host;
use wattribute::meter::{Role, State};
use wattribute::workload::Kind;

use super::life::{EVENTS, Life};
use super::table::Table;

/// One in 25 tells nothing of one zone or another, and each is to be booked for 10⁵ of them.
const TICKS: u64 = 105_000;
const INTERVALS: u64 = 100_000;

/// Two packages, DRAM, and what the machine draws beyond them.
const ZONES: usize = 4;

/// The largest gaps, µJ.
#[derive(Default, Debug, PartialEq)]
struct Gaps {
    zone: u64,
    top: u64,
    tree: u64,
    counter: u64,
}

/// The rows.
pub fn rows(table: &mut Table) -> Result<(), String> {
    let (mut life, memory) = Life::new(0x5EED);
    let mut agent = Agent::new(Host::memory(memory), Config::default(), life.now);
    let mut reader = agent.subscribe();
    agent.step(life.now);
    let mut before = reader.take();
    let (mut gaps, mut highest, mut booked) = (Gaps::default(), 0.0_f64, BTreeMap::new());
    for _ in 0..TICKS {
        agent.host().with_memory(|memory| life.live(memory));
        agent.step(life.now);
        let after = reader.take();
        gaps.widen(&before, &after);
        highest = highest.max(counters(&mut life, &after, &mut gaps));
        for book in after.zones.iter().filter(|book| book.zone.role == Role::Primary) {
            *booked.entry(book.zone.id.clone()).or_insert(0_u64) += u64::from(book.measured.is_some());
        }
        before = after;
    }
    self_test(&before)?;
    let missing = EVENTS.iter().filter(|event| life.events.get(*event).is_none_or(|count| *count == 0)).count();
    let least = booked.values().min().copied().unwrap_or(0);
    let all: u64 = booked.values().sum();
    table.part(&format!("E  gaps in the books over {all} intervals of {} zones, µJ", booked.len()), 0, &[]);
    table.bounded("measured − (idle + attributed + unattributed)", gaps.zone as f64, 0.0, &[]);
    table.bounded("workloads at the top − attributed", gaps.top as f64, 0.0, &[]);
    table.bounded("a workload − (its children + its exited)", gaps.tree as f64, 0.0, &[]);
    table.bounded("a counter's register − measured", gaps.counter as f64, 0.0, &[]);
    table.bounded("intervals of a zone short of 10⁵", INTERVALS.saturating_sub(least) as f64, 0.0, &[]);
    table.bounded("zones short of four", ZONES.saturating_sub(booked.len()) as f64, 0.0, &[]);
    table.bounded("kinds of events that never happened", missing as f64, 0.0, &[]);
    let events: Vec<String> = life.events.iter().map(|(event, count)| format!("{count} × {event}")).collect();
    table.note(events.join(", "));
    table.part("G  highest watts over true watts, same life", 3, &["nominal tick", "back is wrap"]);
    table.bounded("RAPL counters", highest, 1.05, &life.naive);
    if life.naive.iter().any(|naive| *naive <= 1.05) {
        return Err(format!("naive readers meet the bound on watts: {:?}", life.naive));
    }
    Ok(())
}

impl Gaps {
    /// Compares two ticks.
    fn widen(&mut self, before: &Snapshot, after: &Snapshot) {
        for (zone, book) in after.zones.iter().enumerate().filter(|(_, book)| book.zone.role == Role::Primary) {
            let parts = book.idle.0 + book.attributed.0 + book.unattributed.0;
            let total = book.total;
            let totals = total.idle.0 + total.attributed.0 + total.unattributed.0;
            let gap = book.measured.unwrap_or_default().0.abs_diff(parts);
            self.zone = self.zone.max(gap).max(total.measured.0.abs_diff(totals));
            let rise = |row: usize, exited: bool| rise(before, after, row, zone, exited);
            let top = after.rows().filter(|(row, workload)| *row != 0 && workload.parent == 0);
            let top: u64 = top.map(|(row, _)| rise(row, false)).sum();
            self.top = self.top.max(top.abs_diff(book.attributed.0));
            let inner = |(_, workload): &(usize, &Workload)| workload.identity.id.kind() != Kind::Process;
            for (row, _) in after.rows().filter(inner) {
                let children = after.rows().filter(|(child, workload)| *child != row && workload.parent == row);
                let children: u64 = children.map(|(child, _)| rise(child, false)).sum();
                self.tree = self.tree.max(rise(row, false).abs_diff(children + rise(row, true)));
            }
        }
    }
}

/// What a workload was booked between two ticks; all that it has, if it is new.
fn rise(before: &Snapshot, after: &Snapshot, row: usize, zone: usize, exited: bool) -> u64 {
    let of = |snapshot: &Snapshot| if exited { snapshot.exited_of(row, zone) } else { snapshot.active_of(row, zone) };
    let serial = |snapshot: &Snapshot| Some(snapshot.workloads.get(row)?.as_ref()?.serial);
    let known = if serial(before) == serial(after) { of(before).0 } else { 0 };
    // A total that fell would be a gap as large as that.
    of(after).0.checked_sub(known).unwrap_or(u64::MAX / 1024)
}

/// Compares the counters with the truth, and begins a new interval of the truth where the agent has; the highest
/// reported over true power.
fn counters(life: &mut Life, after: &Snapshot, gaps: &mut Gaps) -> f64 {
    let mut highest = 0.0_f64;
    for counter in &mut life.counters {
        let Some(book) = after.zones.iter().find(|book| book.zone.name.ends_with(counter.name)) else { continue };
        match book.state {
            State::Ok | State::Wrap => {
                let measured = book.measured.unwrap_or_default();
                if let Some(owed) = counter.owed {
                    gaps.counter = gaps.counter.max(measured.0.abs_diff(owed));
                }
                let true_watts = counter.drawn as f64 / 1e6 / book.covers.as_secs_f64();
                highest = highest.max(book.power.watts() / true_watts);
            }
            State::First | State::Reset | State::Gap | State::Implausible => {}
            _ => continue,
        }
        (counter.owed, counter.drawn) = (Some(0), 0);
    }
    highest
}

/// A book with 1 µJ too much is found out, wherever it is.
fn self_test(last: &Snapshot) -> Result<(), String> {
    let zone = last.zones.iter().position(|book| book.zone.role == Role::Primary).ok_or("no zone was ever booked")?;
    let still = || {
        let mut still = last.clone();
        for book in &mut still.zones {
            (book.measured, book.idle, book.attributed, book.unattributed) = Default::default();
        }
        still
    };
    let found = |spoil: &dyn Fn(&mut Snapshot)| {
        let (mut gaps, mut spoiled) = (Gaps::default(), still());
        spoil(&mut spoiled);
        gaps.widen(&still(), &spoiled);
        gaps
    };
    let zones = last.zones.len();
    let top = last.rows().find(|(row, workload)| *row != 0 && workload.parent == 0).ok_or("no workload")?.0;
    let nothing = found(&|_| {});
    let idle = found(&|spoiled| spoiled.zones[zone].idle.0 += 1);
    let one = found(&|spoiled| spoiled.active[top * zones + zone].0 += 1);
    let right = nothing == Gaps::default() && idle.zone == 1 && one.top == 1 && one.tree == 1;
    right.then_some(()).ok_or_else(|| format!("1 µJ too much is not found: {nothing:?}, {idle:?}, {one:?}"))
}
