//! The meters that were found: what part each zone plays in the sum, and when to look again.
//!
//! Containment decides the roles, never a label: packages (and their dies) and DRAM are primary; core and uncore are
//! parts of their package (AMD's `core` is one single core); psys contains everything and is only a reference, unless
//! there is no package; a second control type that names the same zone is a duplicate; what is not known is not summed.
//! The estimator is primary only while no package or whole-node zone can be read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::Host;
use crate::meter::rapl::is_rapl;
use crate::meter::{Domain, Found, METERS, Meter, Quality, Reading, Role, Value, Why, Zone};

/// How often the machine is looked over for new meters even if no fingerprint changed.
const REDISCOVER: Duration = Duration::from_secs(60);
/// How long all real zones may be absent or denied before the estimator comes back,
const BLIND: Duration = Duration::from_secs(60);
/// and how long they may fail.
const FAILING: Duration = Duration::from_secs(3600);

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
    /// Zones that have answered, and twins that answered while the preferred zone never had.
    answered: BTreeSet<String>,
    promoted: BTreeSet<String>,
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
            answered: BTreeSet::new(),
            promoted: BTreeSet::new(),
        }
    }

    /// Adds a meter of the caller's own. It stays when the machine is looked over again.
    pub fn add(&mut self, meter: Box<dyn Meter>) {
        self.meters.insert(self.own, ("", meter));
        self.own += 1;
        self.looked = None;
    }

    /// Looks for meters if it is due or something changed, and reads them all.
    pub fn sample(&mut self, host: &Host, config: &Config, now: Timestamp) {
        let fingerprint = METERS.iter().fold(0_u64, |sum, meter| sum.rotate_left(7) ^ (meter.fingerprint)(host));
        let due = self.looked.is_none_or(|looked| now.boot.saturating_sub(looked.boot) >= REDISCOVER);
        if due || fingerprint != self.fingerprint {
            self.discover(host, config);
            self.fingerprint = fingerprint;
            self.looked = Some(now);
        }
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
        self.promote();
        self.choose(now);
    }

    /// A twin stands in for a preferred zone that cannot be read and never could, and then stays: what the other
    /// counted meanwhile is the same energy.
    fn promote(&mut self) {
        let silent = |reading: &Reading| matches!(reading.value, Value::Missing(_));
        for (zone, _) in self.zones.iter().zip(&self.readings).filter(|(_, reading)| !silent(reading)) {
            if !self.answered.contains(&zone.id) {
                self.answered.insert(zone.id.clone());
            }
        }
        let stands_in = |zone: &&Arc<Zone>| {
            zone.role == Role::Duplicate
                && self.answered.contains(&zone.id)
                && !self.promoted.contains(&zone.id)
                && twin(zone, &self.zones).is_some_and(|twin| !self.answered.contains(&twin.id))
        };
        let found: Vec<String> = self.zones.iter().filter(stands_in).map(|zone| zone.id.clone()).collect();
        if !found.is_empty() {
            self.promoted.extend(found);
            self.assign_roles();
        }
    }

    fn assign_roles(&mut self) {
        let zones: Vec<Arc<Zone>> = self.meters.iter().flat_map(|(_, meter)| meter.zones().iter().cloned()).collect();
        self.zones = with_roles(&zones, &self.promoted);
    }

    /// The zones that are offered now, with what they said: the estimator's only while it stands in for a meter.
    pub fn readings(&self) -> impl Iterator<Item = (&Arc<Zone>, Reading)> {
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
        self.assign_roles();
        let missing = Reading { at: Timestamp::default(), value: Value::Missing(Why::Pending) };
        self.readings.clear();
        self.readings.resize(self.zones.len(), missing);
    }

    /// Decides whether the estimator stands in (accounting rule 11). It books the interval in which a real zone first
    /// answers, since that zone's own books only begin there; from the next tick on it is gone. A zone that fails for
    /// a while will book that time when it is back, so the estimator waits much longer for it.
    fn choose(&mut self, now: Timestamp) {
        let real = self.zones.iter().zip(&self.readings).filter(|(zone, _)| stands_for_the_machine(zone));
        let (mut answers, mut fails) = (false, false);
        for (_, reading) in real {
            answers |= !matches!(reading.value, Value::Missing(_));
            fails |= matches!(reading.value, Value::Missing(why) if why != Why::Denied);
        }
        let patience = if fails { FAILING } else { BLIND };
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

impl Default for MeterSet {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a zone makes the estimator superfluous.
pub(crate) fn stands_for_the_machine(zone: &Zone) -> bool {
    zone.quality == Quality::Measured
        && zone.role == Role::Primary
        && matches!(zone.domain, Domain::Package | Domain::Psys | Domain::Host | Domain::Module)
}

/// The zones with the role of each, from what the others are.
#[must_use]
pub fn with_roles(zones: &[Arc<Zone>], promoted: &BTreeSet<String>) -> Vec<Arc<Zone>> {
    zones
        .iter()
        .map(|zone| {
            let (role, why) = role(zone, zones, promoted);
            let mut zone = Zone::clone(zone);
            zone.role = role;
            zone.why = if zone.why.is_empty() { why } else { format!("{why}; {}", zone.why) };
            Arc::new(zone)
        })
        .collect()
}

fn role(zone: &Zone, all: &[Arc<Zone>], promoted: &BTreeSet<String>) -> (Role, String) {
    let said = |role, why: &str| (role, why.to_owned());
    if zone.quality == Quality::Estimated {
        return said(Role::Primary, "a model, while no package or whole-node meter can be read");
    }
    let stand_in = all.iter().find(|other| promoted.contains(&other.id) && are_twins(zone, other));
    if let Some(other) = stand_in {
        return (Role::Duplicate, format!("the same counter as {}, which could be read first", other.id));
    }
    if let Some(twin) = twin(zone, all).filter(|_| !promoted.contains(&zone.id)) {
        return (Role::Duplicate, format!("the same counter as {}", twin.id));
    }
    let packages =
        all.iter().filter(|other| other.domain == Domain::Package && other.quality == Quality::Measured).count();
    match zone.domain {
        Domain::Package => said(Role::Primary, "a processor package"),
        Domain::Dram if lies_in_psys(zone, all) => said(Role::Contained, "part of the platform"),
        Domain::Dram => said(Role::Primary, "memory is not part of the package's counter"),
        Domain::Core => said(Role::Contained, "part of its package (on AMD one single core)"),
        Domain::Uncore => said(Role::Contained, "part of its package"),
        Domain::Psys if packages == 0 => said(Role::Primary, "the platform; there is no package to sum"),
        Domain::Host if packages == 0 => said(Role::Primary, "the whole machine; there is no package to sum"),
        Domain::Host => said(Role::Reference, "the whole machine contains the packages"),
        Domain::Psys => said(Role::Reference, "the platform contains the packages; some firmware misreports it"),
        _ => said(Role::Unclassified, "not known what it contains: never summed"),
    }
}

/// Whether the zone is listed inside a platform zone.
fn lies_in_psys(zone: &Zone, all: &[Arc<Zone>]) -> bool {
    let parent = zone.parent.as_ref().and_then(|parent| all.iter().find(|other| other.id == *parent));
    parent.is_some_and(|parent| parent.domain == Domain::Psys)
}

/// Whether two zones of different control types measure the same.
fn are_twins(one: &Zone, two: &Zone) -> bool {
    let parts = |zone: &'_ Zone| zone.id.split_once(':').map(|(control, name)| (control.to_owned(), name.to_owned()));
    let (Some(one), Some(two)) = (parts(one), parts(two)) else { return false };
    let rapl = |control: &str| control == "rapl" || is_rapl(control);
    one.0 != two.0 && one.1 == two.1 && rapl(&one.0) && rapl(&two.0)
}

/// The zone of the preferred control type (`intel-rapl`) that measures the same as this one of another.
fn twin<'a>(zone: &Zone, all: &'a [Arc<Zone>]) -> Option<&'a Arc<Zone>> {
    let (control, name) = zone.id.split_once(':')?;
    if !is_rapl(control) {
        return None;
    }
    // Among several other control types the first in order of name is kept.
    let rank = |id: &str| id.split_once(':').map(|(control, _)| (control != "rapl", control.to_owned()));
    all.iter()
        .filter(|other| other.source == zone.source && other.id != zone.id)
        .filter(|other| other.id.split_once(':').is_some_and(|(_, other)| other == name))
        .filter(|other| rank(&other.id) < rank(&zone.id))
        .min_by_key(|other| rank(&other.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(zones: &[(&str, Domain)]) -> Vec<Role> {
        let zones: Vec<_> = zones
            .iter()
            .map(|(id, domain)| {
                Arc::new(Zone::new("rapl", id, *domain))
            })
            .collect();
        with_roles(&zones, &BTreeSet::new()).iter().map(|zone| zone.role).collect()
    }

    #[test]
    fn twins_are_counted_once_whatever_their_order() {
        use Role::{Duplicate, Primary};
        let mmio = ("intel-rapl-mmio:package-0", Domain::Package);
        let msr = ("rapl:package-0", Domain::Package);
        assert_eq!(roles(&[mmio, msr]), [Duplicate, Primary]);
        assert_eq!(roles(&[msr, mmio]), [Primary, Duplicate]);
        assert_eq!(roles(&[mmio]), [Primary], "alone it is kept");
        let dram = [("rapl:package-0/dram", Domain::Dram), ("intel-rapl-mmio:package-0/dram", Domain::Dram)];
        assert_eq!(roles(&dram), [Primary, Duplicate]);
    }

    #[test]
    fn psys_is_a_reference_beside_packages_and_primary_without() {
        assert_eq!(roles(&[("rapl:psys", Domain::Psys)]), [Role::Primary]);
        let both = [("rapl:psys", Domain::Psys), ("rapl:package-0", Domain::Package)];
        assert_eq!(roles(&both), [Role::Reference, Role::Primary]);
        assert_eq!(roles(&[("arm-scmi:soc", Domain::Other)]), [Role::Unclassified]);
    }
}
