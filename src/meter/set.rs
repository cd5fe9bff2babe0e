//! The meters that were found: when to look again, who stands in for whom, and what is learnt of them while they run.
//!
//! Roles come from [`graph`]; what it cannot know beforehand is learnt here. A twin stands in for a zone that cannot be
//! read, and for one whose counter has gone round during a long stall. A container (psys, a card, a module) that counts
//! less than what lies in it is refuted. A meter of the whole machine that falls silent gives way to another. The
//! estimator is primary only while nothing that holds the processors can be read.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::Host;
use crate::meter::checks::Checks;
use crate::meter::graph::{self, Known, stands_for_the_machine};
use crate::meter::{Claim, Found, METERS, Meter, Quality, Reading, Role, Sensor, State, Value, Why, Zone, energy};
use crate::unit::Microjoules;

/// How often the machine is looked over for new meters even if no fingerprint changed.
const REDISCOVER: Duration = Duration::from_secs(60);
/// How long all real zones may be absent or denied before the estimator comes back,
const BLIND: Duration = Duration::from_secs(60);
/// and how long they may fail.
const FAILING: Duration = Duration::from_secs(3600);
/// How long the end of the program waits for all meters to log out, and how often it looks.
const CLOSING: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(10);
/// How long a meter of the whole machine may be silent before another is taken: several rounds of a slow one.
const SILENT: Duration = Duration::from_secs(300);

/// The meters of a machine.
pub struct MeterSet {
    /// With the names of their backends.
    meters: Vec<(&'static str, Box<dyn Meter>)>,
    /// How many of them, the first ones, are the caller's own.
    own: usize,
    /// The zones of all meters in the order of `readings`, with their roles.
    zones: Vec<Arc<Zone>>,
    readings: Vec<Reading>,
    reports: Vec<Report>,
    fingerprint: u64,
    looked: Option<Timestamp>,
    /// When a real package or whole-node zone was last readable; `None`: not yet.
    seen: Option<Timestamp>,
    estimating: bool,
    /// What was learnt of the zones, and what is being checked.
    known: Known,
    checks: Checks,
    /// When each zone last answered, in the order of `zones`; and when the meters were last read.
    heard: Vec<Option<Timestamp>>,
    /// When a part of the machine was last offered that has ever answered.
    parts_seen: Option<Timestamp>,
    /// Twins that stood in for a stall at the last tick.
    for_a_stall: Vec<String>,
    before: Option<Timestamp>,
}

/// What a backend said when it was looked for, for `discover` and the start-up lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The backend.
    pub name: &'static str,
    /// What it found, in words.
    pub outcome: Outcome,
}

/// What a backend found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This many zones.
    Found(usize),
    /// Nothing, and where it looked.
    Absent(String),
    /// A path that may not be read, and how to allow it.
    Denied(String, String),
}

impl MeterSet {
    /// No meters yet; the first [`MeterSet::sample`] looks for them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            meters: Vec::new(),
            own: 0,
            zones: Vec::new(),
            readings: Vec::new(),
            reports: Vec::new(),
            fingerprint: 0,
            looked: None,
            seen: None,
            estimating: false,
            known: Known::default(),
            checks: Checks::default(),
            heard: Vec::new(),
            parts_seen: None,
            for_a_stall: Vec::new(),
            before: None,
        }
    }

    /// Adds a meter of the caller's own. It stays when the machine is looked over again.
    pub fn add(&mut self, meter: Box<dyn Meter>) {
        self.meters.insert(self.own, ("", meter));
        self.own += 1;
        self.looked = None;
    }

    /// Looks for meters if it is due or something changed.
    pub fn look(&mut self, host: &Host, config: &Config, now: Timestamp) {
        let fingerprint = METERS.iter().fold(0_u64, |sum, meter| sum.rotate_left(7) ^ (meter.fingerprint)(host));
        let due = self.looked.is_none_or(|looked| now.boot.saturating_sub(looked.boot) >= REDISCOVER);
        if due || fingerprint != self.fingerprint {
            self.discover(host, config);
            self.fingerprint = fingerprint;
            self.looked = Some(now);
        }
    }

    /// Looks for meters if it is due or something changed, and reads them all.
    pub fn sample(&mut self, host: &Host, config: &Config, now: Timestamp) {
        self.look(host, config, now);
        let mut changed = false;
        for (_, meter) in &mut self.meters {
            changed |= meter.refresh(host, now);
        }
        if changed {
            self.lay_out();
        }
        let mut start = 0;
        for (_, meter) in &mut self.meters {
            let end = start + meter.zones().len();
            meter.read(host, now, &mut self.readings[start..end]);
            start = end;
        }
        self.listen(now);
        self.wait_for_parts(now);
        self.stand_in(now);
        self.choose(now);
        self.before = Some(now);
    }

    /// Notes who answers, and who has been silent for long.
    fn listen(&mut self, now: Timestamp) {
        let mut changed = false;
        for index in 0..self.zones.len() {
            let (zone, reading) = (&self.zones[index], &self.readings[index]);
            if !matches!(reading.value, Value::Missing(_)) {
                self.heard[index] = Some(now);
                if !self.known.answered.contains(&zone.id) {
                    changed |= self.known.answered.insert(zone.id.clone());
                }
            }
            if !matches!(zone.claim(), Claim::Node | Claim::Supply) {
                continue;
            }
            let inactive = matches!(reading.value, Value::Missing(Why::Inactive));
            let silent =
                inactive || self.heard[index].is_some_and(|heard| now.boot.saturating_sub(heard.boot) >= SILENT);
            if silent && !self.known.silent.contains(&zone.id) {
                changed |= self.known.silent.insert(zone.id.clone());
            } else if self.heard[index] == Some(now) && !self.checks.is_frozen(&zone.id) {
                changed |= self.known.silent.remove(&zone.id);
            }
        }
        if changed {
            self.assign_roles();
        }
        if self.checks.at_once(&self.zones, &self.readings, &mut self.known) {
            self.assign_roles();
        }
    }

    /// Parts that have vanished may come back and book the time themselves: the meter of the whole machine takes their
    /// place only after a while.
    fn wait_for_parts(&mut self, now: Timestamp) {
        if graph::is_metered(&self.zones, &self.known) {
            self.parts_seen = Some(now);
        }
        let expected = self.parts_seen.is_some_and(|seen| now.boot.saturating_sub(seen.boot) < BLIND);
        if expected != self.known.parts_expected {
            self.known.parts_expected = expected;
            self.assign_roles();
        }
    }

    /// A twin stands in for a preferred zone that never could be read, and stays for as long as it answers itself. For
    /// one whose counter may have gone round since it was last read it does so once: what it counted meanwhile is the
    /// same energy, and from then on the preferred zone counts again.
    fn stand_in(&mut self, now: Timestamp) {
        let stall = self.before.map_or(Duration::ZERO, |before| now.awake_since(before));
        let outlived = |zone: &Zone| match zone.sensor {
            Sensor::Counter { tick, max: Some(max) } => stall > energy::horizon(tick, max, zone.power_max),
            Sensor::Counter { max: None, .. } => false,
            Sensor::Gauge => true,
        };
        let mut demoted = std::mem::take(&mut self.for_a_stall);
        let known = &self.known;
        let reads = |id: &str| self.heard_of(id) == Some(now);
        let silent = |id: &str| self.heard_of(id).is_none_or(|heard| now.boot.saturating_sub(heard.boot) >= BLIND);
        let ever = |zone: &Zone| known.answered.contains(&zone.id);
        let mut promoted = Vec::new();
        let mut stalled = Vec::new();
        for zone in &self.zones {
            if demoted.contains(&zone.id) {
                continue;
            }
            if known.promoted.contains(&zone.id) {
                let better = graph::twin(zone, &self.zones);
                if silent(&zone.id) && better.is_some_and(|twin| reads(&twin.id)) {
                    demoted.push(zone.id.clone());
                }
            } else if zone.role == Role::Duplicate && reads(&zone.id) {
                let Some(twin) = graph::twin(zone, &self.zones) else { continue };
                let lost = ever(twin) && !matches!(twin.sensor, Sensor::Gauge) && outlived(twin) && !outlived(zone);
                if lost {
                    stalled.push(zone.id.clone());
                }
                if lost || !ever(twin) {
                    promoted.push(zone.id.clone());
                }
            }
        }
        if !promoted.is_empty() || !demoted.is_empty() {
            for id in &demoted {
                self.known.promoted.remove(id);
            }
            self.known.promoted.extend(promoted);
            self.assign_roles();
        }
        self.for_a_stall = stalled;
    }

    /// When a zone last answered.
    fn heard_of(&self, id: &str) -> Option<Timestamp> {
        let index = self.zones.iter().position(|zone| zone.id == id)?;
        self.heard.get(index).copied().flatten()
    }

    /// Takes in what the ledger made of the readings of this tick: the energy of each zone since its start.
    pub fn learn<'a>(&mut self, now: Timestamp, books: &(impl Iterator<Item = (&'a str, State, Microjoules)> + Clone)) {
        let mut changed = false;
        for (id, state, _) in books.clone() {
            if self.checks.freeze(id, state == State::Stale) && state == State::Stale {
                changed |= self.known.silent.insert(id.to_owned());
            }
        }
        changed |= self.checks.over_time(now, books, &mut self.known);
        if changed {
            self.assign_roles();
        }
    }

    /// What troubles meters as a whole: the number of the meter among those that stay, its backend, and words.
    pub fn troubles(&self) -> impl Iterator<Item = (usize, &'static str, Arc<str>)> {
        let stay = self.meters.iter().filter(|(_, meter)| meter.stays()).enumerate();
        stay.filter_map(|(number, (name, meter))| Some((number, *name, meter.trouble()?)))
    }

    /// Tells all meters the instance type of the machine.
    pub fn host_type(&mut self, kind: &str) {
        self.meters.iter_mut().for_each(|(_, meter)| meter.host_type(kind));
    }

    /// Whether a meter has been asked and nothing has come of it yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let silent = |meter: &dyn Meter| meter.stays() && meter.zones().is_empty() && meter.trouble().is_none();
        self.meters.iter().any(|(_, meter)| silent(meter.as_ref()))
    }

    fn assign_roles(&mut self) {
        let zones: Vec<Arc<Zone>> = self.meters.iter().flat_map(|(_, meter)| meter.zones().iter().cloned()).collect();
        self.zones = graph::with_roles(&zones, &self.known);
        self.checks.watch(graph::containers(&self.zones, &self.known));
    }

    /// The zones that are offered now, with what they said: the estimator's only while it stands in for a meter.
    pub fn readings(&self) -> impl Iterator<Item = (&Arc<Zone>, Reading)> + Clone {
        let shown = |zone: &Zone| zone.quality == Quality::Measured || self.estimating;
        self.zones
            .iter()
            .zip(&self.readings)
            .filter(move |(zone, _)| shown(zone))
            .map(|(zone, reading)| (zone, *reading))
    }

    /// What each backend said when it was last looked for.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    fn discover(&mut self, host: &Host, config: &Config) {
        // What looks after itself, as the estimator and all that is asked elsewhere, is looked for until it is found.
        let own = self.own;
        let mut index = 0;
        let mut stays = |meter: &mut (&'static str, Box<dyn Meter>)| {
            index += 1;
            index <= own || meter.1.stays()
        };
        self.meters.retain_mut(&mut stays);
        self.reports.clear();
        for backend in METERS {
            let kept = self.meters[self.own..].iter().filter(|(name, _)| *name == backend.name);
            let kept: Vec<usize> = kept.map(|(_, meter)| meter.zones().len()).collect();
            if !kept.is_empty() {
                self.reports.push(Report { name: backend.name, outcome: Outcome::Found(kept.iter().sum()) });
                continue;
            }
            let (outcome, meters) = match (backend.discover)(host, config) {
                Found::Meters(meters) => (Outcome::Found(meters.iter().map(|meter| meter.zones().len()).sum()), meters),
                Found::Absent(what) => (Outcome::Absent(what), Vec::new()),
                Found::Denied { path, advice, meters } => (Outcome::Denied(path, advice), meters),
            };
            self.reports.push(Report { name: backend.name, outcome });
            self.meters.extend(meters.into_iter().map(|meter| (backend.name, meter)));
        }
        // Reports and zones stand in the order of the table.
        let place = |name: &str| METERS.iter().position(|backend| backend.name == name);
        self.meters[self.own..].sort_by_key(|(name, _)| place(name));
        self.lay_out();
    }

    /// Assigns the roles anew and makes room for the readings.
    fn lay_out(&mut self) {
        let before: Vec<(String, Option<Timestamp>)> =
            self.zones.iter().zip(&self.heard).map(|(zone, heard)| (zone.id.clone(), *heard)).collect();
        self.assign_roles();
        for report in &mut self.reports {
            if let Outcome::Found(count) = &mut report.outcome {
                let of = self.meters.iter().filter(|(name, _)| *name == report.name);
                *count = of.map(|(_, meter)| meter.zones().len()).sum();
            }
        }
        let heard = |zone: &Arc<Zone>| before.iter().find(|(id, _)| *id == zone.id).and_then(|(_, heard)| *heard);
        self.heard = self.zones.iter().map(heard).collect();
        let missing = Reading { at: Timestamp::default(), value: Value::Missing(Why::Pending) };
        self.readings.clear();
        self.readings.resize(self.zones.len(), missing);
    }

    /// Decides whether the estimator stands in (accounting rule 11). It books the interval in which a real zone first
    /// answers, since that zone's own books only begin there; from the next tick on it is gone. A zone that fails for
    /// a while will book that time when it is back, so the estimator waits much longer for it.
    fn choose(&mut self, now: Timestamp) {
        let real = self.zones.iter().zip(&self.readings).filter(|(zone, _)| stands_for_the_machine(zone));
        let (mut answers, mut fails, mut rests, mut waits) = (false, false, false, false);
        for (_, reading) in real {
            answers |= !matches!(reading.value, Value::Missing(_));
            fails |= matches!(reading.value, Value::Missing(why) if !matches!(why, Why::Denied | Why::Inactive));
            let inactive = matches!(reading.value, Value::Missing(Why::Inactive));
            (rests, waits) = (rests || inactive, waits || !inactive);
        }
        // What says that it does not measure now is not waited for.
        let patience = match (fails, rests && !waits) {
            (true, _) => FAILING,
            (false, false) => BLIND,
            (false, true) => Duration::ZERO,
        };
        self.estimating = match self.seen {
            None => !answers || self.estimating,
            Some(seen) => !answers && now.boot.saturating_sub(seen.boot) >= patience,
        };
        if answers {
            self.seen = Some(now);
        } else if self.estimating {
            self.seen = None;
        }
    }

    /// Whether the estimator stands in for a meter now.
    #[must_use]
    pub fn is_estimating(&self) -> bool {
        self.estimating
    }
}

impl Drop for MeterSet {
    /// All meters are told to end at once, and waited for together: one that hangs ends with the process.
    fn drop(&mut self) {
        self.meters.iter_mut().for_each(|(_, meter)| meter.stop());
        let mut waited = Duration::ZERO;
        while waited < CLOSING && !self.meters.iter().all(|(_, meter)| meter.is_stopped()) {
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
    }
}

impl Default for MeterSet {
    fn default() -> Self {
        Self::new()
    }
}
