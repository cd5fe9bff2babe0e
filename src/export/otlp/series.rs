//! From snapshots to series (accounting rules 9 and 10): books the increments between two pushes to the series that
//! receivers see, so that at the receiver, too, every microjoule is counted once.
//!
//! A workload's series is the increase of its row. What its children and its named processes do not explain is the
//! group `exited` (processes that ended unseen, as the ledger says) or `other` (the rest: processes without a series).
//! A slice counts only what the workloads in it do not. Differences that would be negative are carried, never clamped.
//! When attributes change, receivers see another series: the old one ends at its last value and the new one starts at
//! nothing, so that sums over all series ever sent stay right. Rows are reused, serial numbers are not.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::{Chain, NodeResource, chain_of, parent_of, render, render_node};
use super::cells::{Cell, widened};
use super::ended::{Queue, Why};
use super::labels::Labels;
use super::named::{Candidate, Change, Ranking, outside_too_long};
use super::tree::{Entity, Source};
use super::zones::Zones;
use crate::config::{self, ProcessExport};
use crate::export::{Snapshot, Workload};
use crate::meter::{Domain, Role};
use crate::unit::Microjoules;
use crate::workload::{Identity, Kind};

/// Everything that has a series, from one push to the next.
#[allow(clippy::struct_excessive_bools)] // each is one question
#[derive(Debug)]
pub struct Book {
    export: ProcessExport,
    top: usize,
    point_names: bool,
    process_power: bool,
    settings: config::Otlp,
    /// What was known of the node at the start, and what is now.
    found: NodeResource,
    node: NodeResource,
    node_identity: Option<Arc<Identity>>,
    /// When the machine was booted, since 1970, as the baseline has it.
    booted: Duration,
    /// Set while a snapshot is folded that brings other names of the node, which every Resource carries.
    renamed: bool,
    /// No entity waits for its names any more.
    pub patience_over: bool,
    /// The zones, and the node's own series.
    zones: Zones,
    rows: Vec<Row>,
    /// `row * zones + zone`, as in the snapshot.
    cells: Vec<Cell>,
    /// Idle energy shown with each row, at the last push and since; empty where none is.
    idle: Vec<(u64, u64)>,
    generation: Option<u64>,
    ranking: Ranking,
    chain: Chain,
    labels: Labels,
    /// What has ended.
    pub ended: Queue,
}

/// One row of the snapshot.
#[derive(Debug, Default)]
struct Row {
    serial: Option<u64>,
    kind: Option<Kind>,
    parent: usize,
    parent_serial: u64,
    moves: u32,
    /// When it ended, since boot, once that has been booked.
    over: Option<Duration>,
    held_back: bool,
    /// A process that moved since the last push: what it used meanwhile is part of two parents, who each know how much.
    astray: bool,
    outside: u8,
    entity: Option<Box<Entity>>,
    /// Totals of a process that was named before.
    kept: Option<Box<Entity>>,
}

/// Adds the increments of a row to its series.
fn post(entity: &mut Entity, cells: &[Cell], idle: &[(u64, u64)], labels: &Labels) {
    for index in 0..entity.series.len() {
        let Some(series) = entity.series.get(index) else { continue };
        let Some(cell) = cells.get(series.z) else { continue };
        let source = series.source;
        let increment = match source {
            Source::IdleShare => idle.get(series.z).map(|(_, came)| *came),
            _ => cell.increments().into_iter().find(|(_, of)| *of == source).map(|(increment, _)| increment),
        };
        let Some(increment) = increment else { continue };
        let watts = matches!(source, Source::Own | Source::IdleShare).then(|| labels.watts(increment));
        entity.book(index, Microjoules(increment), watts);
    }
}

/// Whether names of the workload in `row`, or of one around it, are on their way.
fn is_awaited(snapshot: &Snapshot, row: usize) -> bool {
    let mut at = row;
    for _ in 0..64 {
        match snapshot.workloads.get(at).and_then(Option::as_ref) {
            Some(found) if found.awaited => return true,
            Some(found) if at != 0 => at = found.parent,
            _ => return false,
        }
    }
    false
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new(settings: &config::Otlp, processes: &config::Processes, node: &NodeResource) -> Self {
        Self {
            export: processes.export,
            top: processes.top,
            point_names: settings.point_names,
            process_power: settings.process_power,
            settings: settings.clone(),
            found: node.clone(),
            node: node.clone(),
            node_identity: None,
            booted: Duration::ZERO,
            renamed: false,
            patience_over: false,
            zones: Zones::new(render_node(&node.own(settings))),
            rows: Vec::new(),
            cells: Vec::new(),
            idle: Vec::new(),
            generation: None,
            ranking: Ranking::default(),
            chain: Chain::new(),
            labels: Labels::default(),
            ended: Queue::default(),
        }
    }

    /// Label of the newest snapshot.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.labels.now
    }

    /// The live entities to send: the node's, then those of the rows that do not wait for their names.
    pub fn live(&mut self) -> impl Iterator<Item = (usize, &mut Entity)> {
        let over = self.patience_over;
        let rows = self.rows.iter_mut().enumerate().skip(1);
        let rows = rows.filter_map(|(row, state)| Some((row, state.entity.as_deref_mut()?)));
        let rows = rows.filter(move |(_, entity)| over || entity.sent || !entity.awaits);
        std::iter::once((0, &mut self.zones.entity)).chain(rows)
    }

    /// A receiver has what was sent of `row`'s entity with this serial number.
    pub fn acknowledge(&mut self, row: usize, serial: u64) {
        let time = self.labels.now;
        let entity = match row {
            0 => Some(&mut self.zones.entity),
            _ => self.rows.get_mut(row).and_then(|state| state.entity.as_deref_mut()),
        };
        if let Some(entity) = entity.filter(|entity| entity.serial == serial) {
            entity.acknowledge(time);
        }
    }

    /// Books what came since the last snapshot.
    pub fn fold(&mut self, snapshot: &Snapshot) {
        if self.labels.boot == Some(snapshot.at.boot) {
            return;
        }
        self.labels.advance(snapshot);
        if self.generation.is_none() {
            self.booted = snapshot.baseline.wall.saturating_sub(snapshot.baseline.boot);
        }
        self.grow(snapshot);
        self.know_node(snapshot);
        let zones_changed = self.zones.update(snapshot, &self.labels, &mut self.ended);
        if zones_changed || self.renamed || self.generation != Some(snapshot.generation) {
            self.generation = Some(snapshot.generation);
            self.meet(snapshot);
        }
        self.measure(snapshot);
        self.measure_idle(snapshot);
        self.claim();
        self.book(snapshot);
        if self.export == ProcessExport::Top {
            self.rank(snapshot);
        }
        self.bury(snapshot);
    }

    /// Takes in what others say of the node.
    fn know_node(&mut self, snapshot: &Snapshot) {
        self.renamed = false;
        let Some(identity) = snapshot.workloads.first().and_then(Option::as_ref).map(|node| &node.identity) else {
            return;
        };
        if self.node_identity.as_ref().is_some_and(|known| Arc::ptr_eq(known, identity)) {
            return;
        }
        self.node_identity = Some(Arc::clone(identity));
        let node = self.found.with(&identity.attributes);
        if node != self.node {
            let rendered = render_node(&node.own(&self.settings));
            self.zones.rename(rendered, &self.labels, &mut self.ended);
            (self.node, self.renamed) = (node, true);
        }
    }

    fn stride(&self) -> usize {
        self.zones.len()
    }

    /// Makes room for rows and zones.
    fn grow(&mut self, snapshot: &Snapshot) {
        let (old, new) = (self.stride(), snapshot.zones.len().max(self.stride()));
        if new > old {
            self.cells = widened(&self.cells, old, new);
            self.idle = widened(&self.idle, old, new);
            self.zones.grow(snapshot);
        }
        let rows = snapshot.workloads.len().max(self.rows.len());
        self.rows.resize_with(rows, Row::default);
        self.cells.resize(rows * new, Cell::default());
    }

    /// Looks at every row: births, deaths, moves, new names.
    fn meet(&mut self, snapshot: &Snapshot) {
        for row in 0..self.rows.len() {
            let workload = snapshot.workloads.get(row).and_then(Option::as_ref);
            let serial = workload.map(|workload| workload.serial);
            if self.rows.get(row).is_some_and(|state| state.serial != serial) {
                self.vacate(row);
            }
            if let Some(workload) = workload {
                self.settle(snapshot, row, workload);
            }
        }
    }

    fn vacate(&mut self, row: usize) {
        let stride = self.stride();
        let Some(state) = self.rows.get_mut(row) else { return };
        let old = std::mem::take(state);
        if let Some(entity) = old.entity {
            self.ended.push(*entity, self.labels.before, Why::Dead);
        }
        if let Some(cells) = self.cells.get_mut(row * stride..(row + 1) * stride) {
            cells.fill(Cell::default());
        }
        if let Some(idle) = self.idle.get_mut(row * stride..(row + 1) * stride) {
            idle.fill((0, 0));
        }
    }

    fn settle(&mut self, snapshot: &Snapshot, row: usize, workload: &Workload) {
        let parent = parent_of(snapshot, row);
        let parent_serial = snapshot.workloads.get(parent).and_then(Option::as_ref).map_or(0, |found| found.serial);
        let kind = workload.identity.id.kind();
        let Some(state) = self.rows.get_mut(row) else { return };
        let born = state.serial.is_none();
        let elsewhere = !born && state.parent_serial != parent_serial;
        // One that moved and came back has moved, too.
        let moved = elsewhere || state.moves != workload.moves;
        (state.serial, state.kind, state.moves) = (Some(workload.serial), Some(kind), workload.moves);
        (state.parent, state.parent_serial) = (parent, parent_serial);
        // It ended here, but another reader had not seen that yet when it began again.
        let back = state.over.is_some_and(|over| workload.ended.is_none_or(|ended| ended.boot != over));
        if back {
            state.over = None;
        }
        if row == 0 || state.over.is_some() {
            return;
        }
        state.astray = moved && kind == Kind::Process;
        if moved {
            state.kept = None;
        }
        let singly = kind != Kind::Process || self.export == ProcessExport::All;
        let awaits = is_awaited(snapshot, row);
        if kind == Kind::Process && awaits {
            // Until its container has its names, a process is one of the container's `other`.
            self.hold_back(row);
        } else if singly && (born || back || self.rows.get(row).is_some_and(|state| state.held_back)) {
            let start = match born {
                _ if self.is_astray(row) => self.labels.now,
                true => self.labels.start(*workload.start),
                false => self.labels.before,
            };
            let entity = self.entity(snapshot, row, workload.serial, kind, start);
            if kind != Kind::Process {
                self.ended.succeed(&entity);
            }
            self.put(row, entity);
        } else if self.rows.get(row).is_some_and(|state| state.entity.is_some()) {
            self.rename(snapshot, row, workload, moved);
        }
        if let Some(state) = self.rows.get_mut(row) {
            state.held_back = kind == Kind::Process && awaits;
            state.entity.iter_mut().for_each(|entity| entity.awaits = awaits);
        }
        self.ensure_zones(row);
    }

    fn is_astray(&self, row: usize) -> bool {
        self.rows.get(row).is_some_and(|state| state.astray)
    }

    fn hold_back(&mut self, row: usize) {
        if let Some(entity) = self.rows.get_mut(row).and_then(|state| state.entity.take()) {
            self.ended.push(*entity, self.labels.before, Why::Replaced { hidden: false });
        }
    }

    fn entity(&self, snapshot: &Snapshot, row: usize, serial: u64, kind: Kind, start: u64) -> Entity {
        let mut chain = Chain::new();
        let parent = chain_of(snapshot, row, &mut chain);
        let rendered = render(&self.node, self.booted, &chain, self.point_names);
        let gauges = kind != Kind::Process || self.process_power;
        Entity::new(serial, (kind, parent), chain, rendered, start, gauges)
    }

    fn put(&mut self, row: usize, entity: Entity) {
        if let Some(state) = self.rows.get_mut(row) {
            state.entity = Some(Box::new(entity));
            state.outside = 0;
        }
    }

    /// Ends the series and begins another where receivers would see another.
    fn rename(&mut self, snapshot: &Snapshot, row: usize, workload: &Workload, moved: bool) {
        let parent = chain_of(snapshot, row, &mut self.chain);
        let Some(state) = self.rows.get_mut(row) else { return };
        let astray = state.astray;
        let Some(old) = state.entity.as_deref_mut() else { return };
        if !moved
            && !self.renamed
            && old.chain.len() == self.chain.len()
            && old.chain.iter().zip(&self.chain).all(|(a, b)| a == b)
        {
            return;
        }
        let rendered = render(&self.node, self.booted, &self.chain, self.point_names);
        if !moved && old.is(parent, &rendered) {
            old.chain.clone_from(&self.chain);
            return;
        }
        let kind = workload.identity.id.kind();
        let sent = old.sent;
        let start = match sent {
            _ if astray => self.labels.now,
            true => self.labels.before,
            false => old.start,
        };
        let mut new = self.entity(snapshot, row, workload.serial, kind, start);
        let Some(old) = self.rows.get_mut(row).and_then(|state| state.entity.take()) else { return };
        if sent || astray {
            let hidden = old.looks_like(&new);
            self.ended.push(*old, self.labels.before, Why::Replaced { hidden });
        } else {
            new.series = old.series;
        }
        self.put(row, new);
    }

    /// A workload has a series for every primary zone from the start; for GPUs from the first energy on.
    fn ensure_zones(&mut self, row: usize) {
        let Some(entity) = self.rows.get_mut(row).and_then(|state| state.entity.as_deref_mut()) else { return };
        let start = entity.start;
        for (z, state) in self.zones.iter() {
            if state.present && state.zone.role == Role::Primary && state.zone.domain != Domain::Gpu {
                entity.ensure(z, &state.zone, Source::Own, start, state.measure.as_str());
            }
        }
    }

    /// What came since the last push, by row and zone.
    fn measure(&mut self, snapshot: &Snapshot) {
        let stride = self.stride();
        for (row, state) in self.rows.iter().enumerate() {
            let Some(cells) = self.cells.get_mut(row * stride..(row + 1) * stride) else { continue };
            for (z, cell) in cells.iter_mut().enumerate() {
                let (mut active, mut exited) = (cell.active, cell.exited);
                if state.serial.is_some() && z < snapshot.zones.len() {
                    active = active.max(snapshot.active_of(row, z).0);
                    exited = exited.max(snapshot.exited_of(row, z).0);
                }
                cell.came = active - cell.active;
                cell.came_exited = exited - cell.exited;
                (cell.active, cell.exited) = (active, exited);
                (cell.claimed, cell.claimed_by_workloads) = (0, 0);
            }
        }
    }

    /// The same for idle energy, where it is shared.
    fn measure_idle(&mut self, snapshot: &Snapshot) {
        let stride = self.stride();
        if snapshot.idle_share.is_none() || stride == 0 {
            return;
        }
        self.idle.resize(self.cells.len(), (0, 0));
        for (row, (state, cells)) in self.rows.iter().zip(self.idle.chunks_exact_mut(stride)).enumerate() {
            for (z, (before, came)) in cells.iter_mut().enumerate() {
                let now = if state.serial.is_some() { snapshot.idle_of(row, z).0.max(*before) } else { *before };
                (*came, *before) = (now - *before, now);
            }
        }
    }

    /// Children tell their parent what they account for.
    fn claim(&mut self) {
        let stride = self.stride();
        for (row, state) in self.rows.iter().enumerate().skip(1) {
            let process = state.kind == Some(Kind::Process);
            let silent = process && (state.entity.is_none() || state.astray);
            if state.serial.is_none() || silent || state.parent == row {
                continue;
            }
            for z in 0..stride {
                let came = self.cells.get(row * stride + z).map_or(0, |cell| cell.came);
                if let Some(parent) = self.cells.get_mut(state.parent * stride + z) {
                    parent.claimed = parent.claimed.saturating_add(came);
                    if !process {
                        parent.claimed_by_workloads = parent.claimed_by_workloads.saturating_add(came);
                    }
                }
            }
        }
    }

    /// Books to the series.
    fn book(&mut self, snapshot: &Snapshot) {
        let stride = self.stride();
        let (node, zones) = self.zones.split();
        for (row, state) in self.rows.iter_mut().enumerate() {
            let Some(kind) = state.kind else { continue };
            if std::mem::take(&mut state.astray) {
                continue;
            }
            let Some(cells) = self.cells.get_mut(row * stride..(row + 1) * stride) else { continue };
            let (entity, start) = match (row, state.entity.as_deref_mut()) {
                (0, _) => (&mut *node, self.labels.start(snapshot.baseline)),
                (_, Some(entity)) => {
                    let start = entity.start;
                    (entity, start)
                }
                (_, None) => continue,
            };
            // without processes only the node says what no workload explains: the identity needs it
            let groups = kind != Kind::Process && (self.export != ProcessExport::Off || row == 0);
            for (z, (cell, zone)) in cells.iter_mut().zip(zones).enumerate() {
                cell.close(kind == Kind::Slice, groups);
                for (increment, source) in cell.increments() {
                    if increment > 0 && !(row == 0 && source == Source::Own) {
                        entity.ensure(z, &zone.zone, source, start, zone.measure.as_str());
                    }
                }
            }
            let idle = self.idle.get(row * stride..(row + 1) * stride).unwrap_or_default();
            for (z, ((_, came), zone)) in idle.iter().zip(zones).enumerate() {
                if *came > 0 && row != 0 {
                    let share = snapshot.idle_share.unwrap_or_default();
                    entity.ensure(z, &zone.zone, Source::IdleShare, start, share);
                }
            }
            post(entity, cells, idle, &self.labels);
        }
    }

    /// Names the first processes and lets go those that have long been behind.
    fn rank(&mut self, snapshot: &Snapshot) {
        let stride = self.stride();
        self.ranking.candidates.clear();
        self.ranking.candidates.reserve(snapshot.workloads.len());
        for (row, state) in self.rows.iter().enumerate() {
            let Some(serial) = state.serial.filter(|_| state.kind == Some(Kind::Process) && state.over.is_none())
            else {
                continue;
            };
            let alive = snapshot.workloads.get(row).and_then(Option::as_ref).is_some_and(|w| w.ended.is_none());
            if alive && !state.held_back {
                let cells = self.cells.get(row * stride..(row + 1) * stride).unwrap_or_default();
                let energy = cells.iter().map(|cell| cell.came).fold(0, u64::saturating_add);
                let named = state.entity.is_some();
                self.ranking.candidates.push(Candidate { energy, serial, row, named });
            }
        }
        let mut ranking = std::mem::take(&mut self.ranking);
        ranking.decide(self.top, |row, change| match change {
            Change::Promote => self.promote(snapshot, row),
            Change::Keep => {
                self.rows.get_mut(row).into_iter().for_each(|state| state.outside = 0);
            }
            Change::Outside => {
                if self.rows.get_mut(row).is_some_and(|state| outside_too_long(&mut state.outside)) {
                    self.demote(row);
                }
            }
        });
        self.ranking = ranking;
    }

    /// From here on the process counts for itself; what it used before stays with the group of its parent.
    fn promote(&mut self, snapshot: &Snapshot, row: usize) {
        let Some(state) = self.rows.get_mut(row) else { return };
        state.outside = 0;
        let (Some(serial), None) = (state.serial, &state.entity) else { return };
        let kept = state.kept.take();
        let mut entity = self.entity(snapshot, row, serial, Kind::Process, self.labels.now);
        if let Some(kept) = kept.filter(|kept| kept.named_as(&entity)) {
            let before = self.ended.take_back(&entity).unwrap_or(*kept);
            (entity.start, entity.series, entity.sent) = (before.start, before.series, true);
        }
        self.put(row, entity);
        self.ensure_zones(row);
        self.show_power(row);
    }

    /// The gauge of a process that was just named says what it drew in the interval that got it there.
    fn show_power(&mut self, row: usize) {
        let stride = self.stride();
        let Some(entity) = self.rows.get_mut(row).and_then(|state| state.entity.as_deref_mut()) else { return };
        for index in 0..entity.series.len() {
            let came = entity.series.get(index).and_then(|series| self.cells.get(row * stride + series.z));
            let watts = came.map(|cell| self.labels.watts(cell.came));
            entity.book(index, Microjoules::ZERO, watts);
        }
    }

    /// A final point; what the process uses from here on goes to the group of its parent.
    fn demote(&mut self, row: usize) {
        let Some(state) = self.rows.get_mut(row) else { return };
        let Some(entity) = state.entity.take() else { return };
        let mut kept = entity.memory();
        kept.acknowledge(self.labels.now);
        state.kept = Some(Box::new(kept));
        state.outside = 0;
        self.ended.push(*entity, self.labels.now, Why::Demoted);
    }

    /// Workloads that ended have their final totals now.
    fn bury(&mut self, snapshot: &Snapshot) {
        for (row, workload) in snapshot.rows() {
            let Some(ended) = workload.ended.filter(|_| row != 0) else { continue };
            let Some(state) = self.rows.get_mut(row) else { continue };
            state.over = Some(ended.boot);
            state.kept = None;
            if let Some(entity) = state.entity.take() {
                self.ended.push(*entity, self.labels.now, Why::Dead);
            }
        }
    }
}
