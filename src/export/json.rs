//! The books as JSON lines: one object per tick, then one `total`. A contract, version 1 (see ARCHITECTURE.md).
//!
//! Energy is in whole µJ and adds up exactly: of every primary zone `measured = idle + attributed + unattributed`, of
//! the node `active` is what is attributed, of every parent `active` is its children's plus its `exited`, and the
//! total is the sum of the ticks. Times are seconds since the baseline on the boot clock; `interval_s` leaves sleep out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::activity::counters::Measure;
use crate::clock::Timestamp;
use crate::export::{Snapshot, Totals, Workload, ZoneBook};
use crate::meter::Role;
use crate::unit::{CpuTime, Microjoules};
use crate::workload::table::NODE;
use crate::workload::{Identity, WorkloadId};

/// The version of the contract.
const VERSION: u32 = 1;

/// Turns successive snapshots into lines.
#[derive(Debug, Default)]
pub struct Report {
    seen: BTreeMap<u64, Seen>,
    total: BTreeMap<WorkloadId, Lived>,
    zones: Vec<ZoneBook>,
    ticks: u64,
    time: Duration,
    awake: Duration,
    /// Whether idle energy is shown with workloads.
    shares: bool,
}

/// The totals of a row as the last snapshot had them.
#[derive(Debug, Default)]
struct Seen {
    cpu: CpuTime,
    active: Vec<Microjoules>,
    exited: Vec<Microjoules>,
    idle: Vec<Microjoules>,
}

/// All that a workload ever used, over all its rows.
#[derive(Debug, Default, Clone)]
struct Lived {
    identity: Option<Arc<Identity>>,
    parent: String,
    cpu: u64,
    active: Vec<u64>,
    exited: Vec<u64>,
    idle: Vec<u64>,
    ended: Option<Timestamp>,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    version: u32,
    tick: u64,
    time_s: f64,
    interval_s: f64,
    zones: Vec<ZoneLine<'a>>,
    workloads: Vec<WorkloadLine<'a>>,
}

#[derive(Serialize)]
struct ZoneLine<'a> {
    zone: &'a str,
    domain: &'static str,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    quality: &'static str,
    state: &'static str,
    measured_uj: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    covers_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_uj: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributed_uj: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unattributed_uj: Option<u64>,
    /// The part of `idle_uj` that is not shown with workloads; absent where none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_unshared_uj: Option<u64>,
    /// By what its active energy is split, where that is not CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    split_by: Option<&'static str>,
    /// What it is taken to draw at rest, one standard deviation of that, and where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_w: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_error_w: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_source: Option<&'static str>,
}

#[derive(Serialize)]
struct WorkloadLine<'a> {
    id: String,
    kind: &'static str,
    parent: Option<&'a str>,
    name: &'a str,
    attributes: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    cpu_us: u64,
    active_uj: BTreeMap<&'a str, u64>,
    exited_uj: BTreeMap<&'a str, u64>,
    /// Idle energy shown with it; absent where none is shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_uj: Option<BTreeMap<&'a str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_s: Option<f64>,
}

impl Report {
    /// Takes the next snapshot. The baseline gives no line.
    pub fn tick(&mut self, snapshot: &Snapshot) -> Option<String> {
        self.time = snapshot.at.boot.saturating_sub(snapshot.baseline.boot);
        self.zones.clone_from(&snapshot.zones);
        self.shares = snapshot.idle_share.is_some();
        let increments: Vec<(usize, Lived)> =
            snapshot.rows().map(|(row, workload)| (row, self.advance(snapshot, row, workload))).collect();
        let mut listed = vec![false; snapshot.workloads.len()];
        for (row, increment) in &increments {
            let has_any = |energy: &[u64]| energy.iter().any(|uj| *uj > 0);
            if *row == NODE || increment.cpu > 0 || has_any(&increment.active) || has_any(&increment.idle) {
                mark_upwards(snapshot, *row, &mut listed);
            }
        }
        let mut used: BTreeMap<WorkloadId, Lived> = BTreeMap::new();
        for (row, increment) in increments.iter().filter(|(row, _)| listed[*row]) {
            if let Some(workload) = &snapshot.workloads[*row] {
                used.entry(workload.identity.id.clone()).or_default().add(increment);
            }
        }
        let living = |serial: &u64| snapshot.workloads.iter().flatten().any(|workload| workload.serial == *serial);
        if self.seen.len() > snapshot.workloads.len() {
            self.seen.retain(|serial, _| living(serial));
        }
        if snapshot.tick == 0 {
            return None;
        }
        self.ticks += 1;
        self.awake += snapshot.interval;
        let line = Line {
            r#type: "tick",
            version: VERSION,
            tick: snapshot.tick,
            time_s: self.time.as_secs_f64(),
            interval_s: snapshot.interval.as_secs_f64(),
            zones: snapshot
                .zones
                .iter()
                .filter(|book| is_listed(book))
                .map(|book| of_tick(book, snapshot.interval, self.shares))
                .collect(),
            workloads: workload_lines(&snapshot.zones, used.values(), self.shares, None),
        };
        serde_json::to_string(&line).ok()
    }

    /// The last line: everything summed, every workload that ever lived.
    #[must_use]
    pub fn total(&self, baseline: Timestamp) -> String {
        let line = Line {
            r#type: "total",
            version: VERSION,
            tick: self.ticks,
            time_s: self.time.as_secs_f64(),
            interval_s: self.awake.as_secs_f64(),
            zones: self.zones.iter().map(|book| of_total(book, self.shares)).collect(),
            workloads: workload_lines(&self.zones, self.total.values(), self.shares, Some(baseline)),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// What a row used since the last snapshot, added to its total.
    fn advance(&mut self, snapshot: &Snapshot, row: usize, workload: &Workload) -> Lived {
        let zones = snapshot.zones.len();
        let seen = self.seen.entry(workload.serial).or_default();
        seen.active.resize(zones, Microjoules::ZERO);
        seen.exited.resize(zones, Microjoules::ZERO);
        seen.idle.resize(zones, Microjoules::ZERO);
        let cpu = snapshot.cpu.get(row).copied().unwrap_or_default();
        let mut increment = Lived {
            identity: Some(Arc::clone(&workload.identity)),
            parent: parent_of(snapshot, workload),
            // Differences of whole microseconds, so that the ticks sum to the total.
            cpu: cpu.micros() - seen.cpu.micros(),
            ended: workload.ended,
            ..Lived::default()
        };
        seen.cpu = cpu;
        for zone in 0..zones {
            let (active, exited) = (snapshot.active_of(row, zone), snapshot.exited_of(row, zone));
            increment.active.push((active - seen.active[zone]).0);
            increment.exited.push((exited - seen.exited[zone]).0);
            (seen.active[zone], seen.exited[zone]) = (active, exited);
            let idle = snapshot.idle_of(row, zone);
            increment.idle.push((idle - seen.idle[zone]).0);
            seen.idle[zone] = idle;
        }
        self.total.entry(workload.identity.id.clone()).or_default().add(&increment);
        increment
    }
}

impl Lived {
    fn add(&mut self, more: &Self) {
        self.identity.clone_from(&more.identity);
        self.parent.clone_from(&more.parent);
        self.ended = more.ended;
        self.cpu += more.cpu;
        let columns =
            [(&mut self.active, &more.active), (&mut self.exited, &more.exited), (&mut self.idle, &more.idle)];
        for (sum, part) in columns {
            sum.resize(part.len().max(sum.len()), 0);
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum += part;
            }
        }
    }
}

/// A workload is listed with all those around it.
fn mark_upwards(snapshot: &Snapshot, row: usize, listed: &mut [bool]) {
    let mut row = row;
    while !std::mem::replace(&mut listed[row], true) {
        row = snapshot.workloads[row].as_ref().map_or(NODE, |workload| workload.parent);
    }
}

fn parent_of(snapshot: &Snapshot, workload: &Workload) -> String {
    let parent = snapshot.workloads.get(workload.parent).and_then(Option::as_ref);
    parent.map_or_else(String::new, |parent| parent.identity.id.to_string())
}

/// A stand-in that no longer stands in is not there any more; a meter that vanished still is, as `gone`.
fn is_listed(book: &ZoneBook) -> bool {
    book.zone.quality == crate::meter::Quality::Measured || book.state != crate::meter::State::Gone
}

fn of_tick(book: &ZoneBook, interval: Duration, shares: bool) -> ZoneLine<'_> {
    let sums = Totals {
        measured: book.measured.unwrap_or_default(),
        idle: book.idle,
        shared: book.shared,
        attributed: book.attributed,
        unattributed: book.unattributed,
    };
    let mut line = zone_line(book, &sums, shares);
    line.measured_uj = book.measured.map(|energy| energy.0);
    line.covers_s = book.measured.filter(|_| book.covers > interval).map(|_| book.covers.as_secs_f64());
    line
}

/// A zone that was primary for a part of the time balances over that part.
fn of_total(book: &ZoneBook, shares: bool) -> ZoneLine<'_> {
    let total = &book.total;
    let booked = total.idle + total.attributed + total.unattributed;
    let mut line = zone_line(book, total, shares);
    line.why = Some(&book.zone.why);
    if booked > Microjoules::ZERO || book.zone.role == Role::Primary {
        line.measured_uj = Some(booked.0);
        line.idle_uj = Some(total.idle.0);
        line.idle_unshared_uj = shares.then(|| total.idle.saturating_sub(total.shared).0);
        line.attributed_uj = Some(total.attributed.0);
        line.unattributed_uj = Some(total.unattributed.0);
    }
    line
}

fn zone_line<'a>(book: &'a ZoneBook, sums: &Totals, shares: bool) -> ZoneLine<'a> {
    let zone = &book.zone;
    let primary = |energy: Microjoules| (zone.role == Role::Primary).then_some(energy.0);
    ZoneLine {
        zone: &zone.id,
        domain: zone.domain.as_str(),
        role: zone.role.as_str(),
        why: None,
        quality: zone.quality.as_str(),
        state: book.state.as_str(),
        measured_uj: Some(sums.measured.0),
        covers_s: None,
        idle_uj: primary(sums.idle),
        attributed_uj: primary(sums.attributed),
        unattributed_uj: primary(sums.unattributed),
        idle_unshared_uj: primary(sums.idle.saturating_sub(sums.shared)).filter(|_| shares),
        split_by: Some(book.measure).filter(|measure| *measure != Measure::CpuTime).map(Measure::as_str),
        idle_w: book.at_rest.map(|found| milliwatts(found.watts)),
        idle_error_w: book.at_rest.map(|found| milliwatts(found.error)),
        idle_source: book.at_rest.map(|found| found.source.as_str()),
    }
}

/// Watts to the milliwatt: more is not known.
fn milliwatts(watts: f64) -> f64 {
    (watts * 1000.0).round() / 1000.0
}

fn attributes(identity: &Identity) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    let own = identity.attributes.iter().map(|(key, value)| (Cow::from(&**key), Cow::from(value)));
    identity.derived().into_iter().map(|(key, value)| (key, Cow::from(value))).chain(own).collect()
}

fn workload_lines<'a>(
    zones: &'a [ZoneBook],
    lived: impl Iterator<Item = &'a Lived>,
    shares: bool,
    total_since: Option<Timestamp>,
) -> Vec<WorkloadLine<'a>> {
    let by_zone = |energy: &[u64]| -> BTreeMap<&'a str, u64> {
        let shown = |book: &ZoneBook| book.zone.role == Role::Primary && (total_since.is_some() || is_listed(book));
        let booked = zones.iter().zip(energy).filter(|(book, energy)| shown(book) || **energy > 0);
        booked.map(|(book, energy)| (book.zone.id.as_str(), *energy)).collect()
    };
    lived
        .filter_map(|lived| {
            let identity = lived.identity.as_deref()?;
            let id = identity.id.to_string();
            let seconds = |since: Timestamp, ended: Timestamp| ended.boot.saturating_sub(since.boot).as_secs_f64();
            Some(WorkloadLine {
                kind: identity.id.kind().as_str(),
                parent: (identity.id != WorkloadId::Node).then_some(lived.parent.as_str()),
                name: &identity.name,
                attributes: attributes(identity),
                cpu_us: lived.cpu,
                active_uj: by_zone(&lived.active),
                exited_uj: by_zone(&lived.exited),
                idle_uj: shares.then(|| by_zone(&lived.idle)),
                ended_s: total_since.and_then(|since| lived.ended.map(|ended| seconds(since, ended))),
                id,
            })
        })
        .collect()
}
