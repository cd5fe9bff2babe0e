//! The seam between the books and whoever reads them: a [`Snapshot`] per tick, and the [`EXPORTERS`] that take it.
//!
//! The agent publishes one snapshot a tick through a [`tokio::sync::watch`] channel, so a slow or stuck exporter
//! sees fewer snapshots but never delays a tick. All values are totals since the agent's baseline (monotone µJ and
//! CPU nanoseconds); an exporter that needs an interval subtracts two snapshots. An ended workload stays in the
//! snapshots until every [`Subscription`] has seen its final totals.

pub mod json;
pub mod otlp;
pub mod printer;
pub mod stdout;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::activity::counters::Measure;
use crate::attribute::learner::Estimate;
use crate::clock::Timestamp;
use crate::meter::{State, Zone};
use crate::unit::{CpuTime, Microjoules, Microwatts};
use crate::workload::Identity;

/// The books after one tick. Rows and zones are columns; index `i` of every per-workload column is the same
/// workload, `row * zones.len() + zone` indexes `active` and `exited`.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Number of the tick: 0 is the baseline, at which all totals are zero.
    pub tick: u64,
    /// When the tick ran.
    pub at: Timestamp,
    /// The baseline tick: the start of every total that has no later start of its own.
    pub baseline: Timestamp,
    /// Time awake since the tick before.
    pub interval: Duration,
    /// Every zone that the meters offer, in a fixed order that only ever grows.
    pub zones: Vec<ZoneBook>,
    /// Every workload row; `None` is a free row. Row 0 is the node. Shared between snapshots, replaced on change.
    pub workloads: Vec<Option<Arc<Workload>>>,
    /// Grows when a workload was born, ended, moved or renamed: equal generations have equal `workloads`.
    pub generation: u64,
    /// CPU time since the baseline (of the workload's life as it was seen), by row.
    pub cpu: Vec<CpuTime>,
    /// Energy booked to a workload, its children and its `exited` included.
    pub active: Vec<Microjoules>,
    /// The part of `active` that neither a live child nor a live process could be given.
    pub exited: Vec<Microjoules>,
    /// How idle energy is shared: `requests`; none: it is not.
    pub idle_share: Option<&'static str>,
    /// Idle energy shown with a workload, whose children have no part of it; empty where it is not shared.
    pub idle: Vec<Microjoules>,
}

/// One workload as exporters see it.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Unique among all workloads that ever lived in this agent: rows are reused, serials never.
    pub serial: u64,
    /// Who it is: id (and kind), name, attributes. Shared, and replaced when it changes.
    pub identity: Arc<Identity>,
    /// The row of its parent; the node is its own parent.
    pub parent: usize,
    /// How often it has got another parent: its totals are its own, wherever it was.
    pub moves: u32,
    /// When its totals began: its birth, or the baseline for what was there before. Shared by those of one tick.
    pub start: Arc<Timestamp>,
    /// When it ended, once its totals are final.
    pub ended: Option<Timestamp>,
    /// Whether names are on their way, within seconds: a series begun now would not keep its name.
    pub awaited: bool,
}

/// One zone's account.
#[derive(Debug, Clone)]
pub struct ZoneBook {
    /// What it is.
    pub zone: Arc<Zone>,
    /// What became of the last reading.
    pub state: State,
    /// The meter's own time of its first accepted reading: the start of its totals.
    pub start: Timestamp,
    /// Energy of the interval that was booked at this tick; `None` if none was.
    pub measured: Option<Microjoules>,
    /// The interval that `measured` covers.
    pub covers: Duration,
    /// The meter's own time of the last accepted reading, which a slow meter took before the tick: where the interval
    /// that `measured` covers ends. The start where none has been accepted.
    pub until: Timestamp,
    /// Idle part of `measured` (primary zones only).
    pub idle: Microjoules,
    /// The part of `idle` that is shown with workloads.
    pub shared: Microjoules,
    /// Part of `measured` booked to workloads.
    pub attributed: Microjoules,
    /// Part of `measured` booked to nobody known.
    pub unattributed: Microjoules,
    /// Totals of the four since `start`.
    pub total: Totals,
    /// Mean power over the last accepted interval.
    pub power: Microwatts,
    /// What it is taken to draw at rest; none where idle energy is not found by that.
    pub at_rest: Option<Estimate>,
    /// By what its energy is split between workloads.
    pub measure: Measure,
    /// Readings refused, by reason, since the start of the agent.
    pub refused: Refused,
}

/// Totals of a zone; `measured = idle + attributed + unattributed` for primary zones, the last three are zero else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the meter reported.
    pub measured: Microjoules,
    /// What the machine needs at rest.
    pub idle: Microjoules,
    /// Booked to workloads.
    pub attributed: Microjoules,
    /// Booked to nobody known.
    pub unattributed: Microjoules,
    /// The part of `idle` that is shown with workloads.
    pub shared: Microjoules,
}

/// How often a zone's reading was refused, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// The counter went back and it was no wrap.
    pub reset: u64,
    /// Too long since the last reading to know how often the counter wrapped.
    pub gap: u64,
    /// More power than the part can draw.
    pub implausible: u64,
    /// The sensor stopped moving.
    pub stale: u64,
    /// Permission denied.
    pub denied: u64,
    /// A read error, or content that is no number.
    pub gone: u64,
    /// The parts measured more than the whole machine (`host:rest` only).
    pub conflict: u64,
}

impl Refused {
    /// The reasons, in the order of [`Refused::counts`].
    pub const REASONS: [&str; 7] = ["reset", "gap", "implausible", "stale", "denied", "gone", "conflict"];

    /// The counts.
    #[must_use]
    pub const fn counts(&self) -> [u64; Self::REASONS.len()] {
        [self.reset, self.gap, self.implausible, self.stale, self.denied, self.gone, self.conflict]
    }
}

impl Snapshot {
    /// The live and ended workloads with their rows.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &Workload)> {
        self.workloads.iter().enumerate().filter_map(|(row, workload)| Some((row, workload.as_deref()?)))
    }

    /// Energy of `row` from zone number `zone`.
    #[must_use]
    pub fn active_of(&self, row: usize, zone: usize) -> Microjoules {
        self.active.get(row * self.zones.len() + zone).copied().unwrap_or_default()
    }

    /// Idle energy of zone number `zone` that is shown with `row`.
    #[must_use]
    pub fn idle_of(&self, row: usize, zone: usize) -> Microjoules {
        self.idle.get(row * self.zones.len() + zone).copied().unwrap_or_default()
    }

    /// Energy of `row` from zone number `zone` that none of its live children explains.
    #[must_use]
    pub fn exited_of(&self, row: usize, zone: usize) -> Microjoules {
        self.exited.get(row * self.zones.len() + zone).copied().unwrap_or_default()
    }
}

/// One reader's end of the channel of snapshots.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The newest snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    seen: Arc<AtomicU64>,
}

impl Subscription {
    /// Joins a reader to the channel; the agent keeps the other end of `seen`.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, seen: Arc<AtomicU64>) -> Self {
        Self { snapshots, seen }
    }

    /// Takes the newest snapshot and says so: workloads that had ended in it may be forgotten by the agent, so the
    /// caller keeps their final totals until they are delivered.
    #[must_use]
    pub fn take(&mut self) -> Arc<Snapshot> {
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        self.saw(snapshot.tick);
        snapshot
    }

    /// Says that the snapshot of `tick` was seen, for a reader that got it another way.
    pub fn saw(&self, tick: u64) {
        self.seen.fetch_max(tick, Ordering::Release);
    }
}
