//! The estimator: what the machine draws at rest and at full load as its processor tells, and how busy the CPUs were.
//!
//! A stand-in where nothing measures: a model of whole servers, fitted on published `SPECpower_ssj2008` results (see
//! `figures.rs`), of which a guest gets its share (see `estimate.rs`). Busy is what `/proc/stat` says, without idle, iowait
//! and steal; between two readings the load is taken to have been even. Everything derived from it is marked
//! `estimated`, and `discover` says with which facts and within which factor. Nine in ten are taken to lie within that
//! factor, which gives the standard deviation of the power at rest: idle · ln(factor) / 1.645. It enters the sum only
//! while no package or whole-node meter can be read.

use std::path::Path;
use std::sync::Arc;

use crate::activity::cpu::{self, CpuTimes};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::{Host, Kept, read_file};
use crate::meter::{Backend, Domain, Found, Meter, Quality, Reading, Sensor, Value, Zone};
use crate::unit::{CpuTime, Microjoules, Microwatts};

pub(super) mod built_in;
mod cpus;
mod estimate;
mod facts;
mod figures;
mod instances;
mod names;

use estimate::Estimate;
use facts::Facts;
use figures::Figures;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "model", discover, fingerprint: |_| 0 };

/// The id of the estimator's zone.
pub const ZONE: &str = "model:cpu";

/// Nine in ten of a normal distribution lie within so many standard deviations, and nine in ten machines within the
/// factor that is said.
const NINE_IN_TEN: f64 = 1.645;

/// The largest file of figures: ten times what the tool writes.
const FILE_MAX: u64 = 128 << 10;

struct Model {
    zones: [Arc<Zone>; 1],
    figures: Figures,
    calibration: f64,
    /// Why the file of figures is not used, or what of it is not.
    trouble: Option<Arc<str>>,
    /// The instance type that the user says, and that others say.
    configured: Option<String>,
    told: Option<String>,
    curve: [Microwatts; 11],
    /// The CPUs for which that was reckoned, and whether it holds no longer.
    cpus: u64,
    is_outdated: bool,
    stat: Kept,
    buffer: Vec<u8>,
    last: Option<(Timestamp, CpuTimes)>,
    total: Microjoules,
}

fn discover(host: &Host, config: &Config) -> Found {
    let settings = &config.model;
    let (figures, trouble) = settings.file.as_deref().map_or_else(|| (Figures::default(), None), read_figures);
    let mut model = Model {
        zones: [Arc::new(Zone::new("model", ZONE, Domain::Package))],
        figures,
        calibration: settings.calibration,
        trouble: trouble.map(Arc::from),
        configured: settings.instance_type.clone(),
        told: None,
        curve: [Microwatts::ZERO; 11],
        cpus: 0,
        is_outdated: false,
        stat: Kept::new("proc/stat".into()),
        buffer: Vec::new(),
        last: None,
        total: Microjoules::ZERO,
    };
    model.reckon(host);
    Found::Meters(vec![Box::new(model)])
}

/// The figures in the user's file, and what of it is ignored; else the built-in ones, and why.
fn read_figures(path: &Path) -> (Figures, Option<String>) {
    let bytes = read_file(path, FILE_MAX).map_err(|error| error.to_string());
    match bytes.and_then(|bytes| Figures::parse(&bytes)) {
        Ok(figures) => {
            let trouble = figures.ignored.as_ref().map(|what| format!("model.file {}: {what}", path.display()));
            (figures, trouble)
        }
        Err(why) => {
            let why = format!("model.file {}: {why}; the built-in figures are used", path.display());
            (Figures::default(), Some(why))
        }
    }
}

impl Meter for Model {
    fn stays(&self) -> bool {
        true
    }

    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn host_type(&mut self, kind: &str) {
        if self.told.as_deref() != Some(kind) {
            self.told = Some(kind.to_owned());
            self.is_outdated = true;
        }
    }

    fn refresh(&mut self, host: &Host, _: Timestamp) -> bool {
        if !std::mem::take(&mut self.is_outdated) {
            return false;
        }
        let before = Arc::clone(&self.zones[0]);
        self.reckon(host);
        before != self.zones[0]
    }

    fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.clone()
    }

    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]) {
        let value = match host.reread(&mut self.stat, &mut self.buffer) {
            Ok(()) => match CpuTimes::parse(&self.buffer) {
                Some(times) => {
                    self.advance(now, times);
                    Value::Ticks(self.total.0)
                }
                None => Value::Missing(super::Why::Malformed),
            },
            Err(errno) => Value::Missing(super::sysfs::why(errno)),
        };
        if let Some(out) = out.first_mut() {
            *out = Reading { at: now, value };
        }
    }
}

impl Model {
    /// Looks at the machine and reckons what it draws.
    fn reckon(&mut self, host: &Host) {
        self.cpus = cpu::online(host).max(1);
        let facts = Facts::gather(host, self.cpus, self.configured.as_deref(), self.told.as_deref());
        let Estimate { curve, why, band } = estimate::estimate(&facts, &self.figures, self.calibration);
        let [idle, .., full] = curve;
        self.curve = curve;
        self.zones = [Arc::new(Zone {
            why,
            quality: Quality::Estimated,
            idle: Some((idle, Microwatts::from_watts(idle.watts() * band.ln() / NINE_IN_TEN))),
            sensor: Sensor::microjoules(None),
            power_max: Microwatts(full.0.saturating_mul(2)),
            path: host.shown("proc/stat"),
            ..Zone::new("model", ZONE, Domain::Package)
        })];
    }

    fn advance(&mut self, now: Timestamp, times: CpuTimes) {
        if let Some((then, before)) = self.last {
            let awake = now.awake_since(then);
            let (busy, capacity) = times.busy_since(&before, awake);
            self.total += on_curve(&self.curve, busy, capacity).over(awake);
        }
        // CPUs came or went: the share of the host is another one from the next tick on.
        self.is_outdated |= times.online > 0 && times.online != self.cpus;
        self.last = Some((now, times));
    }
}

/// The power at a load of `busy` out of `capacity`, straight between the points of the curve.
fn on_curve(curve: &[Microwatts; 11], busy: CpuTime, capacity: CpuTime) -> Microwatts {
    let (busy, capacity) = (u128::from(busy.0.min(capacity.0)), u128::from(capacity.0.max(1)));
    let tenth = usize::try_from(busy * 10 / capacity).unwrap_or(0).min(9);
    let (low, high) = (u128::from(curve[tenth].0), u128::from(curve[tenth + 1].0));
    let beyond = busy * 10 - capacity * tenth as u128;
    let power = low + high.saturating_sub(low) * beyond / capacity;
    Microwatts(u64::try_from(power).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
