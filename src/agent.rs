//! The line itself: rediscover if due → sample meters → observe activity → book the ledger → describe newcomers → publish
//! a snapshot.
//!
//! An agent is stepped by its owner, who passes the time in: the program on a timer, `replay` in virtual time, a test
//! as it likes, another program as a library. A step never fails and, once the machine is steady, allocates nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::activity::{Activity, Moment, Usage};
use crate::attribute::Ledger;
use crate::attribute::memory::Memory;
use crate::clock::Timestamp;
use crate::config::{Config, IdleShare, ProcessExport};
use crate::enrich::{self, Answer, Enricher};
use crate::export::{Snapshot, Subscription, Workload};
use crate::host::Host;
use crate::meter::Meter;
use crate::meter::processor::{self, Generation};
use crate::meter::set::{MeterSet, Report};
use crate::semconv::attr;
use crate::unit::{CpuTime, Microjoules};
use crate::workload::table::{Row, Table};
use crate::workload::{Attribute, Kind};

/// Ended workloads kept for readers that do not take their snapshots; beyond this the oldest are forgotten.
const ENDED_MAX: usize = 20_000;

/// How long a newcomer may wait for its names: a kubelet reports the id of a container mostly within two seconds.
const NAMES_WAIT: Duration = Duration::from_secs(10);

/// An agent.
pub struct Agent {
    host: Host,
    config: Config,
    meters: MeterSet,
    activity: Activity,
    ledger: Ledger,
    table: Table,
    tick: u64,
    baseline: Timestamp,
    before: Timestamp,
    publisher: watch::Sender<Arc<Snapshot>>,
    spare: Vec<Arc<Snapshot>>,
    readers: Vec<Arc<AtomicU64>>,
    moves: Vec<(usize, usize)>,
    enrichers: Vec<Box<dyn Enricher>>,
    /// By row: the serial number and the enrichers' generation for which its names were asked.
    asked: Vec<(u64, u64)>,
    /// Every row as the snapshots show it, and the generation of the table that this shows.
    described: Vec<Option<Arc<Workload>>>,
    generation: u64,
}

impl Agent {
    /// An agent for `host`, which it looks over for meters at `now`. The first step will be the baseline: take its time
    /// after this, for looking takes a while.
    #[must_use]
    pub fn new(host: Host, config: Config, now: Timestamp) -> Self {
        let mut activity = Activity::new(&host, config.processes.export, config.attribution.weights);
        let mut table = Table::new(now);
        if config.processes.export != ProcessExport::Off {
            activity.reserve(&host, &mut table);
        }
        let mut meters = MeterSet::new();
        meters.look(&host, &config, now);
        let mut ledger = Ledger::default();
        ledger.set_generation(generation(&host));
        Self {
            host,
            config,
            meters,
            activity,
            ledger,
            table,
            tick: 0,
            baseline: now,
            before: now,
            publisher: watch::Sender::new(Arc::default()),
            spare: Vec::new(),
            readers: Vec::new(),
            moves: Vec::new(),
            enrichers: Vec::new(),
            asked: Vec::new(),
            described: Vec::new(),
            generation: 0,
        }
    }

    /// Adds a meter of the caller's own, best before the first step (see `examples/custom_meter.rs`).
    pub fn add_meter(&mut self, meter: Box<dyn Meter>) {
        self.meters.add(meter);
    }

    /// Adds a source of names, best before the first step.
    pub fn add_enricher(&mut self, enricher: Box<dyn Enricher>) {
        self.enrichers.push(enricher);
        // What is known of the machine already counts from the first tick on.
        if let Some(kind) = value_of(&enrich::node(&self.enrichers), attr::HOST_TYPE) {
            self.meters.host_type(kind);
        }
    }

    /// A reader's end of the channel of snapshots. An ended workload is kept until every reader has taken a snapshot
    /// with its final totals, so a reader that no longer reads should be dropped with its agent.
    pub fn subscribe(&mut self) -> Subscription {
        let seen = Arc::new(AtomicU64::new(0));
        self.readers.push(Arc::clone(&seen));
        Subscription::new(self.publisher.subscribe(), seen)
    }

    /// The machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What was kept from the run before, best before the first step.
    pub fn remember(&mut self, memory: Memory) {
        self.ledger.remember(memory);
    }

    /// When it was stepped last, or made.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.before
    }

    /// What was used between the last two steps.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        self.activity.usage()
    }

    /// What is to be kept for the next run.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.ledger.memory()
    }

    /// Why what was kept of a zone does not hold for it: each reason once.
    pub fn take_refused(&mut self) -> Vec<String> {
        self.ledger.take_refused()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.publisher.borrow())
    }

    /// What each backend found when it was last looked for.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        self.meters.reports()
    }

    /// What troubles meters and sources of names as a whole: a number that tells them apart, the backend, and words.
    pub fn troubles(&self) -> impl Iterator<Item = (usize, &'static str, Arc<str>)> {
        let mut others = Vec::new();
        for (number, enricher) in self.enrichers.iter().enumerate() {
            // Counted down from the end, where no meter is.
            let mut say = |topic, what| others.push((usize::MAX - number * 64 - topic, enricher.name(), what));
            enricher.troubles(&mut say);
        }
        // Between the enrichers, which count in steps of 64, and the meters.
        others.extend(self.activity.troubles().map(|(topic, what)| (usize::MAX / 2 + topic, "weights", what.into())));
        self.meters.troubles().chain(others)
    }

    /// Whether a meter has been asked and nothing has come of it yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.meters.is_waiting()
    }

    /// One tick. The first is the baseline, from which everything counts.
    pub fn step(&mut self, now: Timestamp) {
        if self.tick == 0 {
            (self.baseline, self.before) = (now, now);
        }
        self.forget_ended();
        let passed = self.before.boot.saturating_sub(self.baseline.boot);
        let moment = Moment { now, before: self.before, tick: self.tick, passed };
        self.meters.sample(&self.host, &self.config, now);
        self.moves.clear();
        let moves = &mut self.moves;
        self.activity.observe(&self.host, &mut self.table, moment, &mut |row, parent| moves.push((row, parent)));
        for &(row, parent) in &self.moves {
            self.ledger.moved(row, parent);
        }
        let estimating = self.meters.is_estimating();
        let (usage, policy) = (self.activity.usage(), &self.config.attribution);
        self.ledger.book(now, &self.meters.readings(), usage, &self.table, policy, estimating);
        let books = self.ledger.accounts().iter();
        let books = books.map(|account| (account.zone.id.as_str(), account.book.state, account.book.total.measured));
        self.meters.learn(now, &books);
        self.describe_newcomers(now);
        self.publish(now);
        self.before = now;
        self.tick += 1;
    }

    /// Asks for the names of those who are new, and again of all when more is known.
    fn describe_newcomers(&mut self, now: Timestamp) {
        if self.enrichers.is_empty() {
            return;
        }
        let generation = self.enrichers.iter().map(|enricher| enricher.generation()).sum();
        self.asked.resize(self.table.len(), (0, 0));
        for row in 0..self.table.len() {
            let Some(entry) = self.table.get(row) else { continue };
            if !matches!(entry.kind(), Kind::Node | Kind::Pod | Kind::Container) {
                continue;
            }
            if self.asked[row] == (entry.serial, generation) && !entry.awaited {
                continue;
            }
            self.asked[row] = (entry.serial, generation);
            let around = self.table.get(entry.parent).unwrap_or(entry);
            // What stands at the top is never held back: the sums of an export would miss it.
            let is_inside = around.kind() == Kind::Pod;
            let patient = is_inside && now.boot.saturating_sub(entry.start.boot) < NAMES_WAIT;
            let answers = self.enrichers.iter().map(|enricher| enricher.describe(&entry.identity, &around.identity));
            let (names, awaited) = match answers.into_iter().find(|answer| *answer != Answer::Unknown) {
                Some(Answer::Known(names)) => (Some(names), false),
                Some(Answer::Soon(names)) => (names, patient),
                Some(Answer::Unknown) | None => (None, false),
            };
            if entry.kind() == Kind::Node
                && let Some(kind) = names.as_ref().and_then(|names| value_of(&names.attributes, attr::HOST_TYPE))
            {
                self.meters.host_type(kind);
            }
            self.table.set_names(row, names.as_ref(), awaited);
        }
    }

    /// Frees the rows of workloads whose totals are final and seen by every reader.
    fn forget_ended(&mut self) {
        if self.table.ended().is_empty() {
            return;
        }
        let seen = self.readers.iter().map(|seen| seen.load(Ordering::Acquire)).min().unwrap_or(u64::MAX);
        let crowded = self.table.ended().len() > ENDED_MAX;
        let (ledger, activity) = (&self.ledger, &mut self.activity);
        let mut freed = Vec::new();
        let done = |row: usize, entry: &Row| {
            crowded || entry.ended.as_ref().is_some_and(|ended| ended.1 <= seen) && ledger.is_final(row)
        };
        self.table.forget(done, |row| freed.push(row));
        for row in freed {
            activity.forget(row);
            self.ledger.forget(row);
        }
    }

    /// Fills a recycled snapshot and hands it to the readers.
    fn publish(&mut self, now: Timestamp) {
        let free = self.spare.iter_mut().position(|spare| Arc::get_mut(spare).is_some());
        let mut next = free.map_or_else(Arc::default, |index| self.spare.swap_remove(index));
        if let Some(snapshot) = Arc::get_mut(&mut next) {
            self.fill(snapshot, now);
        }
        let old = self.publisher.send_replace(next);
        self.spare.push(old);
        // Readers hold at most a few; what they still hold beyond that is theirs to free.
        if self.spare.len() > 3 {
            self.spare.remove(0);
        }
    }

    fn fill(&mut self, snapshot: &mut Snapshot, now: Timestamp) {
        let rows = self.table.len();
        snapshot.tick = self.tick;
        snapshot.at = now;
        snapshot.baseline = self.baseline;
        snapshot.interval = now.awake_since(self.before);
        snapshot.zones.clear();
        snapshot.zones.extend(self.ledger.accounts().iter().map(|account| account.book.clone()));
        self.table.finish_ended(self.tick, |row| self.ledger.is_final(row));
        if self.generation != self.table.generation() {
            self.described.resize_with(rows, || None);
            for (row, slot) in self.described.iter_mut().enumerate() {
                describe(slot, self.table.get(row), self.tick);
            }
            self.generation = self.table.generation();
        }
        if snapshot.generation != self.generation || snapshot.workloads.len() != rows {
            snapshot.workloads.resize_with(rows, || None);
            for (slot, known) in snapshot.workloads.iter_mut().zip(&self.described) {
                if !is_shared(slot.as_ref(), known.as_ref()) {
                    slot.clone_from(known);
                }
            }
            snapshot.generation = self.generation;
        }
        snapshot.cpu.clear();
        snapshot.cpu.extend_from_slice(self.activity.cpu());
        snapshot.cpu.resize(rows, CpuTime::ZERO);
        let zones = self.ledger.accounts().len();
        for column in [&mut snapshot.active, &mut snapshot.exited] {
            column.clear();
            column.resize(rows * zones, Microjoules::ZERO);
        }
        let share = self.config.attribution.idle_share;
        snapshot.idle_share = (share != IdleShare::None).then(|| share.as_str());
        snapshot.idle.clear();
        snapshot.idle.resize(if snapshot.idle_share.is_some() { rows * zones } else { 0 }, Microjoules::ZERO);
        for (zone, account) in self.ledger.accounts().iter().enumerate() {
            for row in 0..rows.min(account.active.len()) {
                snapshot.active[row * zones + zone] = Microjoules(account.active[row]);
                snapshot.exited[row * zones + zone] = Microjoules(account.exited[row]);
            }
            for (row, idle) in account.idle.iter().enumerate().take(rows) {
                snapshot.idle[row * zones + zone] = Microjoules(*idle);
            }
        }
    }
}

/// The generation of the machine's processor, where it is recognised and has figures.
fn generation(host: &Host) -> Option<&'static Generation> {
    let mut buffer = Vec::new();
    host.read("proc/cpuinfo", &mut buffer).ok()?;
    let processor = processor::parse(&buffer)?;
    processor::by_key(processor::sort(&processor)?.key())
}

fn value_of<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

/// Brings the description of one row up to date; replaces it only if it changed, since snapshots share it.
fn describe(slot: &mut Option<Arc<Workload>>, row: Option<&Row>, tick: u64) {
    let Some(row) = row else {
        *slot = None;
        return;
    };
    let ended = row.ended.as_ref().filter(|ended| ended.1 <= tick).map(|ended| ended.0);
    let same = slot.as_ref().is_some_and(|known| {
        known.serial == row.serial
            && Arc::ptr_eq(&known.identity, &row.shown)
            && known.awaited == row.awaited
            && (known.parent, known.moves) == (row.parent, row.moves)
            && known.ended == ended
    });
    if !same {
        *slot = Some(Arc::new(Workload {
            serial: row.serial,
            identity: Arc::clone(&row.shown),
            parent: row.parent,
            moves: row.moves,
            start: Arc::clone(&row.start),
            ended,
            awaited: row.awaited,
        }));
    }
}

/// Whether two slots hold the same description.
fn is_shared(one: Option<&Arc<Workload>>, two: Option<&Arc<Workload>>) -> bool {
    match (one, two) {
        (Some(one), Some(two)) => Arc::ptr_eq(one, two),
        (None, None) => true,
        _ => false,
    }
}
