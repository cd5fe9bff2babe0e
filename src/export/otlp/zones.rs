//! The node's own series: what every zone measured, and what of it was active, idle and unattributed.
//!
//! `hw.energy` is for the parts that enter the sum, so that a sum over it is right; `hw.host.energy` for meters of the whole
//! machine, whether they enter the sum (where no part is metered) or not; `wattribute.meter.energy` for every zone. A zone that changes its role or quality ends its series and
//! begins others: the joules on the two sides of the change are not the same thing.

use std::sync::Arc;

use super::attributes::Rendered;
use super::ended::{Queue, Why};
use super::labels::Labels;
use super::tree::{Entity, Source};
use crate::activity::counters::Measure;
use crate::attribute::learner::Estimate;
use crate::export::{Snapshot, Totals, ZoneBook};
use crate::meter::{Domain, Role, State, Zone};
use crate::unit::Microjoules;
use crate::workload::Kind;

/// The zones and the node's entity.
#[derive(Debug)]
pub struct Zones {
    /// The node's Resource with its series.
    pub entity: Entity,
    states: Vec<ZoneState>,
}

/// One zone.
#[derive(Debug)]
pub struct ZoneState {
    /// What it is.
    pub zone: Arc<Zone>,
    /// Whether it ever gave a reading.
    pub present: bool,
    last: Totals,
    came: Totals,
    watts: Option<f64>,
    at_rest: Option<Estimate>,
    /// By what its energy is split.
    pub measure: Measure,
}

/// Whether `zone` measures the whole machine.
fn whole(zone: &Zone) -> bool {
    match zone.domain {
        Domain::Host => matches!(zone.role, Role::Primary | Role::Reference),
        Domain::Psys => zone.role == Role::Primary,
        _ => false,
    }
}

/// Whether receivers see the same series for both.
fn same(a: &Zone, b: &Zone) -> bool {
    let words = |zone: &Zone| (zone.role, zone.quality, zone.domain, zone.source);
    words(a) == words(b) && a.id == b.id && a.name == b.name && a.parent == b.parent
}

fn of_zones(source: Source) -> bool {
    !matches!(source, Source::Own | Source::Other | Source::Exited | Source::IdleShare)
}

fn given(book: &ZoneBook) -> bool {
    matches!(book.state, State::Ok | State::Wrap | State::First) || book.total.measured.0 > 0
}

fn difference(new: Totals, old: Totals) -> Totals {
    Totals {
        measured: new.measured.saturating_sub(old.measured),
        idle: new.idle.saturating_sub(old.idle),
        shared: new.shared.saturating_sub(old.shared),
        attributed: new.attributed.saturating_sub(old.attributed),
        unattributed: new.unattributed.saturating_sub(old.unattributed),
    }
}

/// The mean since the last push. A meter slower than that, or as slow, says its own mean; a silent one nothing.
fn watts(book: &ZoneBook, came: Microjoules, labels: &Labels) -> Option<f64> {
    let heard = matches!(book.state, State::Ok | State::Wrap | State::Pending);
    if book.covers.as_secs_f64() * 2.0 > labels.seconds {
        (heard && book.total.measured.0 > 0).then(|| book.power.watts())
    } else {
        (heard || came.0 > 0).then(|| labels.watts(came.0))
    }
}

impl Zones {
    /// No zones yet.
    #[must_use]
    pub fn new(rendered: Rendered) -> Self {
        let entity = Entity::new(0, (Kind::Node, Kind::Node), Vec::new(), rendered, 0, true);
        Self { entity, states: Vec::new() }
    }

    /// Gives the node's Resource other attributes: receivers see other series from here on.
    pub fn rename(&mut self, rendered: Rendered, labels: &Labels, ended: &mut Queue) {
        if self.entity.renders(&rendered) {
            return;
        }
        if self.entity.sent {
            // The node's points carry no names, so nothing may say on them that the series is over.
            ended.push(self.entity.memory(), labels.before, Why::Replaced { hidden: true });
            self.entity.begin_anew(labels.before);
        }
        self.entity.set_rendered(rendered);
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &ZoneState)> {
        self.states.iter().enumerate()
    }

    /// The node's entity, and the zones.
    pub fn split(&mut self) -> (&mut Entity, &[ZoneState]) {
        (&mut self.entity, &self.states)
    }

    /// Takes in zones that are new in `snapshot`.
    pub fn grow(&mut self, snapshot: &Snapshot) {
        for book in snapshot.zones.iter().skip(self.states.len()) {
            let (last, came) = (Totals::default(), Totals::default());
            self.states.push(ZoneState {
                zone: Arc::clone(&book.zone),
                present: false,
                last,
                came,
                watts: None,
                at_rest: None,
                measure: book.measure,
            });
        }
    }

    /// Books what the zones measured since the last snapshot; whether zones came or changed.
    pub fn update(&mut self, snapshot: &Snapshot, labels: &Labels, ended: &mut Queue) -> bool {
        let mut changed = false;
        for (z, book) in snapshot.zones.iter().enumerate() {
            changed |= self.follow(z, book, snapshot, labels, ended);
        }
        for index in 0..self.entity.series.len() {
            let Some(series) = self.entity.series.get(index) else { continue };
            let Some(state) = self.states.get(series.z) else { continue };
            let (energy, watts) = match series.source {
                Source::Part | Source::Host | Source::Meter => (state.came.measured, state.watts),
                Source::Active => (state.came.attributed, None),
                Source::Idle => (state.came.idle, None),
                Source::IdleUnshared => (state.came.idle.saturating_sub(state.came.shared), None),
                Source::Unattributed => (state.came.unattributed, None),
                Source::AtRest => (Microjoules::ZERO, state.at_rest.map(|found| found.watts)),
                Source::AtRestError => (Microjoules::ZERO, state.at_rest.map(|found| found.error)),
                Source::Own | Source::Other | Source::Exited | Source::IdleShare => continue,
            };
            self.entity.book(index, energy, watts);
        }
        changed
    }

    fn follow(&mut self, z: usize, book: &ZoneBook, snapshot: &Snapshot, labels: &Labels, ended: &mut Queue) -> bool {
        let Some(state) = self.states.get_mut(z) else { return false };
        state.came = difference(book.total, state.last);
        state.last = book.total;
        state.watts = watts(book, state.came.measured, labels);
        let other = !Arc::ptr_eq(&state.zone, &book.zone) && !same(&state.zone, &book.zone);
        let mut start = labels.start(book.start.max(snapshot.baseline));
        if other && state.present {
            let was_primary = state.zone.role == Role::Primary;
            if was_primary && book.zone.role != Role::Primary {
                self.close_books(z);
            }
            let Some(state) = self.states.get_mut(z) else { return false };
            let came = state.came;
            if !was_primary && book.zone.role == Role::Primary {
                // what came before it was booked is in nobody's books
                state.came.measured = came.idle + came.attributed + came.unattributed;
            }
            ended.push(self.entity.split(z, of_zones), labels.before, Why::Replaced { hidden: false });
            start = labels.before;
        }
        let Some(state) = self.states.get_mut(z) else { return false };
        let appeared = !state.present && given(book);
        state.present |= appeared;
        state.zone = Arc::clone(&book.zone);
        if state.present && (appeared || other) {
            self.ensure(z, start, snapshot.idle_share.is_some());
        }
        self.follow_rest(z, book, labels, ended);
        appeared || other
    }

    /// A power at rest that comes from elsewhere is another series.
    fn follow_rest(&mut self, z: usize, book: &ZoneBook, labels: &Labels, ended: &mut Queue) {
        const SOURCES: [Source; 2] = [Source::AtRest, Source::AtRestError];
        let Some(state) = self.states.get_mut(z).filter(|state| state.present) else { return };
        let before = std::mem::replace(&mut state.at_rest, book.at_rest);
        let zone = Arc::clone(&state.zone);
        let source = |found: Option<Estimate>| found.map(|found| found.source);
        if before.is_some() && source(before) != source(book.at_rest) {
            let gone = self.entity.split(z, |source| SOURCES.contains(&source));
            ended.push(gone, labels.before, Why::Replaced { hidden: false });
        }
        let Some(found) = book.at_rest else { return };
        for source in SOURCES {
            if self.entity.find(z, source).is_none() {
                self.entity.ensure(z, &zone, source, labels.before, found.source.as_str());
            }
        }
    }

    /// A zone leaves the sum: what was booked up to now belongs to the series that end.
    fn close_books(&mut self, z: usize) {
        let Some(state) = self.states.get_mut(z) else { return };
        let came = std::mem::take(&mut state.came);
        let booked = came.idle + came.attributed + came.unattributed;
        for index in 0..self.entity.series.len() {
            let Some(series) = self.entity.series.get(index) else { continue };
            let energy = match series.source {
                _ if series.z != z => continue,
                Source::Part | Source::Host | Source::Meter => booked,
                Source::Active => came.attributed,
                Source::Idle => came.idle,
                Source::IdleUnshared => came.idle.saturating_sub(came.shared),
                Source::Unattributed => came.unattributed,
                Source::AtRest
                | Source::AtRestError
                | Source::Own
                | Source::Other
                | Source::Exited
                | Source::IdleShare => continue,
            };
            let watts = series.watts;
            self.entity.book(index, energy, watts);
        }
        if let Some(state) = self.states.get_mut(z) {
            state.came.measured = came.measured.saturating_sub(booked);
        }
    }

    fn ensure(&mut self, z: usize, start: u64, shares: bool) {
        let Some(state) = self.states.get(z) else { return };
        if state.zone.role == Role::Primary {
            for source in [Source::Active, Source::Idle, Source::Unattributed] {
                self.entity.ensure(z, &state.zone, source, start, "");
            }
            if shares {
                self.entity.ensure(z, &state.zone, Source::IdleUnshared, start, "");
            }
        }
        if whole(&state.zone) {
            self.entity.ensure(z, &state.zone, Source::Host, start, "");
        } else if state.zone.role == Role::Primary {
            self.entity.ensure(z, &state.zone, Source::Part, start, "");
        }
        self.entity.ensure(z, &state.zone, Source::Meter, start, "");
    }
}
