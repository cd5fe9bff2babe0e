//! A BMC over Redfish (DMTF DSP0266): the power of the whole machine as the service processor measures it.
//!
//! The first round finds the chassis that holds this machine and the way its power is stated; later rounds ask only for
//! that, with one or two requests. In order: `EnvironmentMetrics.PowerWatts`, one figure for the chassis; the inputs of
//! all supplies of the `PowerSubsystem`, added up (DMTF's rack with 268 W and 25 W in stand-by is 293 W, not the 344 + 45 of its
//! `PowerControl`); the first entry of `Power.PowerControl` that is for the whole, or its average where there is no reading
//! (AMI); Fujitsu's own `ChassisPowerConsumption`; the supplies of `Power`, unless they state their rating. Entries are never
//! added up: those for processors and memory are in the first. Gauges in W, mostly whole ones, refreshed every 1 to 10 s.
//! 0 W for a running machine is refused; null, as BMCs say while they start, is no reading. What goes wrong is said once
//! with the address that failed first, and the next round tries again; after three failed rounds the BMC is looked over anew.

use std::time::Duration;

use serde_json::Value as Json;

use crate::config::{Config, Redfish as Settings};
use crate::host::Host;
use crate::meter::slow::{Interrupt, Slow, Source, Trouble};
use crate::meter::{Backend, Claim, Domain, Found, Value, Why, Zone};
use crate::unit::Microwatts;

pub mod choose;
pub mod lockout;
pub mod payload;
pub mod session;

use choose::{Choice, Identity, choose, systems};
use payload::{Chassis, Supply};
use session::{Bmc, Problem};

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "redfish", discover, fingerprint: |_| 0 };

/// Failed rounds after which the BMC is looked over anew.
const PATIENCE: u32 = 3;
/// The most of anything that is looked at.
const MANY: usize = 32;
/// The most that a chassis can draw where it does not say.
const POWER_MAX: f64 = 10_000.0;

fn discover(host: &Host, config: &Config) -> Found {
    let settings = &config.meters.redfish;
    let Some(bmc) = Bmc::new(settings) else {
        return Found::Absent("meters.redfish.url is not set".into());
    };
    let source = Redfish { bmc, settings: settings.clone(), plan: Vec::new(), failed: 0, said: None };
    let every = settings.interval.max(Duration::from_secs(1));
    Found::Meters(vec![Box::new(Slow::start(Box::new(source), "redfish", every, host))])
}

struct Redfish {
    bmc: Bmc,
    settings: Settings,
    /// What is asked each round; empty: to be found.
    plan: Vec<Target>,
    failed: u32,
    /// What was said of the last round, if it failed.
    said: Option<Trouble>,
}

/// A chassis and the way to its power.
struct Target {
    chassis: String,
    /// Why it is not this machine's alone.
    doubt: Option<String>,
    way: Way,
}

/// Where the power of a chassis is stated. The paths are those of documents.
enum Way {
    Environment(String),
    /// The supplies with the documents that state their input.
    Inputs(Vec<(Supply, String)>),
    Power(String, Whole),
}

/// What of a `Power` is the whole machine.
enum Whole {
    /// The entry of that id.
    Control(String),
    Fujitsu,
    Inputs,
}

type Readings = Vec<(Zone, Value)>;

impl Source for Redfish {
    fn ask(&mut self, host: &Host) -> Result<Readings, Trouble> {
        if let Some(refusal) = self.bmc.pauses() {
            return Err(self.same(refusal));
        }
        let answer = self.round(host);
        self.failed = if answer.is_ok() { 0 } else { self.failed + 1 };
        if self.failed >= PATIENCE {
            self.plan.clear();
        }
        if answer.is_ok() {
            self.said = None;
        }
        answer.map_err(|trouble| self.same(trouble))
    }

    fn interrupt(&self) -> Option<Interrupt> {
        Some(self.bmc.interrupt_handle())
    }

    fn closes(&self) -> bool {
        self.bmc.is_open()
    }

    fn logs_in(&self) -> bool {
        true
    }

    fn close(&mut self, host: &Host) {
        self.bmc.close(host);
    }
}

impl Redfish {
    /// The same reason as in the round before is said in the same words, whichever document it was this time: those that
    /// are asked for change when the BMC is looked over anew.
    fn same(&mut self, trouble: Trouble) -> Trouble {
        let reason = |trouble: &Trouble| trouble.what.split_once(": ").map(|(_, reason)| reason.to_owned());
        let same = self.said.take().filter(|said| said.why == trouble.why && reason(said) == reason(&trouble));
        self.said.insert(same.unwrap_or(trouble)).clone()
    }

    fn round(&mut self, host: &Host) -> Result<Readings, Trouble> {
        // The first reading is that of the look around: a BMC that needs 20 s for it is not asked twice.
        self.bmc.remember(self.plan.is_empty());
        if self.plan.is_empty() {
            self.plan = self.look(host)?;
        }
        let (mut readings, mut trouble) = (Readings::new(), None);
        for target in &self.plan {
            match target.read(&mut self.bmc, host) {
                Ok(found) => readings.extend(found),
                Err(problem) if problem.only_this => trouble = Some(problem.trouble),
                Err(problem) => return Err(problem.trouble),
            }
        }
        if self.bmc.is_stuck() {
            for (zone, _) in readings.iter_mut().filter(|(zone, _)| zone.parent.is_none()) {
                zone.why.push_str("; the session cannot be closed at the end: the login did not say where it is");
            }
        }
        match trouble {
            Some(trouble) if readings.is_empty() => Err(trouble),
            _ => Ok(readings),
        }
    }

    /// Finds the chassis of this machine and the way to its power.
    fn look(&mut self, host: &Host) -> Result<Vec<Target>, Trouble> {
        let root = match self.bmc.open(host, "/redfish/v1/") {
            Ok(root) => root,
            // Some let nobody in without a login, not even here.
            Err(problem) if problem.trouble.why == Why::Denied => self.bmc.get(host, "/redfish/v1/")?,
            Err(problem) => return Err(problem.trouble),
        };
        let sessions = payload::link(&root["Links"]["Sessions"]);
        if let Some(path) = sessions.and_then(|link| self.bmc.path_of(&link)) {
            self.bmc.sessions = path;
        }
        let collection =
            self.get(host, &payload::link(&root["Chassis"]).unwrap_or_else(|| "/redfish/v1/Chassis".into()))?;
        let mut all = Vec::new();
        for path in payload::members(&collection).iter().take(MANY) {
            if let Some(doc) = self.optional(host, path)? {
                all.push(payload::chassis(&doc, path));
            }
        }
        let mut plan = Vec::new();
        let mut last = None;
        for Choice { index, doubt } in self.choose(host, &all)? {
            match self.way(host, &all[index]) {
                Ok(Some(way)) => plan.push(Target { chassis: all[index].id.clone(), doubt, way }),
                Ok(None) => {}
                Err(problem) if problem.only_this => last = Some(problem.trouble),
                Err(problem) => return Err(problem.trouble),
            }
        }
        if !plan.is_empty() {
            return Ok(plan);
        }
        Err(last.unwrap_or_else(|| {
            let names: Vec<_> = all.iter().map(|chassis| chassis.id.as_str()).collect();
            let wanted = self.settings.chassis.as_deref().map(|id| format!(" named {id:?}")).unwrap_or_default();
            let what = format!("no chassis{wanted} states its power now (chassis: {})", names.join(", "));
            Trouble { why: Why::Busy, what: format!("{}: {what}", self.bmc.shown("/redfish/v1/Chassis")) }
        }))
    }

    fn choose(&mut self, host: &Host, all: &[Chassis]) -> Result<Vec<Choice>, Trouble> {
        let (identity, known) = (Identity::of(host), systems(all));
        let mut mine = None;
        let mut foreign = false;
        // Where there is one system only, a stranger is all that could be found out.
        let asks = known.len() > 1 || identity.can_refuse();
        for system in known.iter().take(MANY).filter(|_| asks) {
            let same = self.optional(host, system)?.and_then(|doc| identity.is(&doc));
            mine = mine.or((same == Some(true)).then_some(*system));
            foreign = same == Some(false);
        }
        if let ([only], None) = (&known[..], mine) {
            mine = Some(*only);
        }
        let mut choices = choose(all, self.settings.chassis.as_deref(), mine);
        if foreign && known.len() == 1 {
            for choice in &mut choices {
                let doubt = "UUID and serial number are another machine's: is this the BMC of this one?";
                choice.doubt.get_or_insert_with(|| doubt.into());
            }
        }
        Ok(choices)
    }

    /// The best way to the power of a chassis that has a reading now.
    fn way(&mut self, host: &Host, chassis: &Chassis) -> Result<Option<Way>, Problem> {
        if let Some(path) = chassis.environment.as_deref()
            && self.optional(host, path)?.and_then(|doc| payload::environment(&doc)).is_some_and(|watts| watts > 0.0)
        {
            return Ok(self.bmc.path_of(path).map(Way::Environment));
        }
        if let Some(path) = chassis.subsystem.as_deref()
            && let Some(supplies) = self.inputs(host, path)?
        {
            return Ok(Some(Way::Inputs(supplies)));
        }
        let Some(path) = chassis.power.as_deref() else { return Ok(None) };
        let doc = self.get(host, path)?;
        let path = self.bmc.path_of(path).unwrap_or_default();
        let controls = payload::controls(&doc);
        let whole = controls.iter().find(|control| !control.part && control.watts.is_some_and(|watts| watts > 0.0));
        let whole = match whole {
            Some(control) => Whole::Control(control.id.clone()),
            None if payload::fujitsu(&doc).is_some_and(|watts| watts > 0.0) => Whole::Fujitsu,
            None if payload::input(&payload::supplies(&doc)).is_some_and(|watts| watts > 0.0) => Whole::Inputs,
            None => return Ok(None),
        };
        Ok(Some(Way::Power(path, whole)))
    }

    /// The supplies of a `PowerSubsystem`, if all that are there state their input.
    fn inputs(&mut self, host: &Host, path: &str) -> Result<Option<Vec<(Supply, String)>>, Problem> {
        let subsystem = self.optional(host, path)?.unwrap_or_default();
        let Some(list) = payload::link(&subsystem["PowerSupplies"]) else { return Ok(None) };
        let list = payload::members(&self.optional(host, &list)?.unwrap_or_default());
        let mut found = Vec::new();
        for (index, path) in list.iter().take(MANY).enumerate() {
            let Some(doc) = self.optional(host, path)? else { return Ok(None) };
            let mut supply = payload::supply(&doc, index);
            let mut place = path.clone();
            if let Some(metrics) = supply.metrics.clone().filter(|_| supply.present)
                && let Some(input) =
                    self.optional(host, &metrics)?.and_then(|doc| payload::stated_input(&doc, supply.capacity))
            {
                supply.input = Some(input);
                place = metrics;
            }
            if supply.present {
                let Some(place) = self.bmc.path_of(&place) else { return Ok(None) };
                found.push((supply, place));
            }
        }
        let supplies: Vec<Supply> = found.iter().map(|(supply, _)| supply.clone()).collect();
        Ok(payload::input(&supplies).filter(|sum| *sum > 0.0).map(|_| found))
    }

    fn get(&mut self, host: &Host, link: &str) -> Result<Json, Problem> {
        match self.bmc.path_of(link) {
            Some(path) => self.bmc.get(host, &path),
            None => Ok(Json::Null), // another server's: never asked
        }
    }

    /// A document that need not be there, or need not be right.
    fn optional(&mut self, host: &Host, link: &str) -> Result<Option<Json>, Problem> {
        match self.get(host, link) {
            Ok(doc) => Ok(Some(doc)),
            Err(problem) if problem.only_this => Ok(None),
            Err(problem) => Err(problem),
        }
    }
}

impl Target {
    fn read(&self, bmc: &mut Bmc, host: &Host) -> Result<Readings, Problem> {
        match &self.way {
            Way::Environment(path) => {
                let doc = bmc.get(host, path)?;
                let mut zone = self.zone("environment", Domain::Host, bmc.shown(path));
                zone.why = self.why("EnvironmentMetrics");
                Ok(vec![(zone, whole(payload::environment(&doc)))])
            }
            Way::Inputs(supplies) => {
                let mut now = Vec::new();
                for (supply, path) in supplies {
                    let doc = bmc.get(host, path)?;
                    let input = payload::stated_input(&doc, supply.capacity);
                    now.push(Supply { input, ..supply.clone() });
                }
                let place = supplies.first().map(|(_, path)| bmc.shown(path)).unwrap_or_default();
                Ok(self.of_inputs(&now, &place))
            }
            Way::Power(path, whole) => {
                let doc = bmc.get(host, path)?;
                Ok(self.of_power(&doc, whole, &bmc.shown(path)))
            }
        }
    }

    /// The sum of the supplies, and each of them within it.
    fn of_inputs(&self, supplies: &[Supply], place: &str) -> Readings {
        let mut zone = self.zone("input", Domain::Host, place.to_owned());
        zone.why = self.why(&format!("input of {} supplies", supplies.iter().filter(|supply| supply.present).count()));
        let capacity: Option<f64> = supplies.iter().map(|supply| supply.capacity).sum();
        limit(&mut zone, capacity);
        let parent = zone.id.clone();
        let mut readings = vec![(zone, whole(payload::input(supplies)))];
        readings.extend(self.of_supplies(supplies, &parent, place));
        readings
    }

    fn of_supplies(&self, supplies: &[Supply], parent: &str, place: &str) -> Readings {
        let present = supplies.iter().filter(|supply| supply.present);
        present
            .map(|supply| {
                let mut zone = self.zone(&supply.id, Domain::Psu, place.to_owned());
                zone.claim = Some(Claim::Inside);
                zone.parent = Some(parent.to_owned());
                limit(&mut zone, supply.capacity);
                (zone, supply.input.map_or(Value::Missing(Why::Busy), power))
            })
            .collect()
    }

    fn of_power(&self, doc: &Json, what: &Whole, place: &str) -> Readings {
        let supplies = payload::supplies(doc);
        let id = match what {
            Whole::Inputs => return self.of_inputs(&supplies, place),
            Whole::Fujitsu => {
                let mut zone = self.zone("chassis", Domain::Host, place.to_owned());
                zone.why = self.why("Fujitsu's ChassisPowerConsumption");
                return vec![(zone, whole(payload::fujitsu(doc)))];
            }
            Whole::Control(id) => id,
        };
        let controls = payload::controls(doc);
        let mut zone = self.zone(id, Domain::Host, place.to_owned());
        let control = controls.iter().find(|control| control.id == *id);
        let name = control.map(|control| control.name.as_str()).filter(|name| !name.is_empty());
        let kind = if control.is_some_and(|control| control.average) { ", an average over minutes" } else { "" };
        zone.why = self.why(&format!("{}{kind}", name.unwrap_or("PowerControl")));
        limit(&mut zone, control.and_then(|control| control.capacity));
        let parent = zone.id.clone();
        let mut readings = vec![(zone, whole(control.and_then(|control| control.watts)))];
        for other in controls.iter().filter(|other| other.id != *id) {
            let mut zone = self.zone(&other.id, Domain::Other, place.to_owned());
            zone.claim = Some(Claim::Inside);
            zone.parent = Some(parent.clone());
            zone.why = self.why(&other.name);
            readings.push((zone, other.watts.map_or(Value::Missing(Why::Busy), power)));
        }
        // Entries and supplies may have the same number for a name.
        let mut inputs = self.of_supplies(&supplies, &parent, place);
        inputs.retain(|(zone, value)| {
            matches!(value, Value::Power(_)) && readings.iter().all(|(known, _)| known.id != zone.id)
        });
        readings.extend(inputs);
        readings
    }

    fn zone(&self, control: &str, domain: Domain, path: String) -> Zone {
        let claim = if self.doubt.is_some() { Some(Claim::Unknown) } else { None };
        let mut zone =
            Zone { claim, path, ..Zone::new("redfish", &format!("redfish:{}/{control}", self.chassis), domain) };
        zone.power_max = Microwatts::from_watts(POWER_MAX);
        zone
    }

    fn why(&self, what: &str) -> String {
        let doubt = self.doubt.as_ref().map(|doubt| format!("; {doubt}")).unwrap_or_default();
        format!("chassis {}: {what}{doubt}", self.chassis)
    }
}

/// The limit of a zone whose part is rated so.
fn limit(zone: &mut Zone, capacity: Option<f64>) {
    if let Some(watts) = capacity {
        zone.power_max = Microwatts::from_watts(1.5 * watts);
    }
}

/// The power of the whole machine, which runs, so it is not 0.
fn whole(watts: Option<f64>) -> Value {
    match watts {
        None => Value::Missing(Why::Busy),
        Some(watts) if watts <= 0.0 => Value::Missing(Why::Implausible),
        Some(watts) => power(watts),
    }
}

fn power(watts: f64) -> Value {
    if watts < 0.0 { Value::Missing(Why::Implausible) } else { Value::Power(Microwatts::from_watts(watts)) }
}
