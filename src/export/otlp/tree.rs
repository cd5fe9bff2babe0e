//! The retained tree: one [`Entity`] per OTLP Resource with its series, and its bytes as they were last sent.
//!
//! The bytes are written when a series is born or ends; each push overwrites times and values in them. A series is one
//! zone of one workload, booked in whole microjoules; its counter and its power gauge are two points of it.

use std::ops::Range;
use std::sync::Arc;

use super::attributes::{Chain, Rendered};
use super::encode::{Form, Numbers, Slot, Writer};
use crate::meter::Zone;
use crate::semconv::{self, Metric, attr, metric, word};
use crate::unit::Microjoules;
use crate::workload::Kind;

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A primary zone.
    Part,
    /// A whole-node meter.
    Host,
    /// Any zone.
    Meter,
    /// What a zone's energy was booked to workloads.
    Active,
    /// What a zone's energy was booked to rest.
    Idle,
    /// What of that is not shown with workloads.
    IdleUnshared,
    /// What a zone's energy was booked to nobody.
    Unattributed,
    /// What a zone is taken to draw at rest.
    AtRest,
    /// How well that is known.
    AtRestError,
    /// The workload itself.
    Own,
    /// Its part of the machine at rest.
    IdleShare,
    /// Its processes without a series of their own.
    Other,
    /// Its processes that ended unseen.
    Exited,
}

impl Source {
    /// The counter and the gauge of this source on an entity of `kind`.
    const fn metrics(self, kind: Kind) -> (Option<&'static Metric>, Option<&'static Metric>) {
        let (counter, gauge) = match self {
            Self::AtRest => return (None, Some(metric::IDLE_POWER)),
            Self::AtRestError => return (None, Some(metric::IDLE_ERROR)),
            Self::Part => (metric::HW_ENERGY, Some(metric::HW_POWER)),
            Self::Host => (metric::HW_HOST_ENERGY, Some(metric::HW_HOST_POWER)),
            Self::Meter => (metric::METER_ENERGY, Some(metric::METER_POWER)),
            Self::Active | Self::Idle | Self::IdleUnshared => (metric::NODE_ENERGY, None),
            Self::Unattributed => (metric::UNATTRIBUTED_ENERGY, None),
            Self::Other | Self::Exited => (metric::PROCESS_ENERGY, None),
            Self::Own | Self::IdleShare => match kind {
                Kind::Pod => (metric::POD_ENERGY, Some(metric::POD_POWER)),
                Kind::Container => (metric::CONTAINER_ENERGY, Some(metric::CONTAINER_POWER)),
                Kind::Vm => (metric::VM_ENERGY, Some(metric::VM_POWER)),
                Kind::Service => (metric::SERVICE_ENERGY, Some(metric::SERVICE_POWER)),
                Kind::Slice => (metric::SLICE_ENERGY, Some(metric::SLICE_POWER)),
                Kind::Job => (metric::JOB_ENERGY, Some(metric::JOB_POWER)),
                Kind::Kernel => (metric::KERNEL_ENERGY, Some(metric::KERNEL_POWER)),
                Kind::Process => (metric::PROCESS_ENERGY, Some(metric::PROCESS_POWER)),
                Kind::Node => (metric::NODE_ENERGY, None),
            },
        };
        (Some(counter), gauge)
    }
}

/// One counter, with its gauge.
#[derive(Debug, Clone)]
pub struct Series {
    /// The zone it counts.
    pub zone: Arc<Zone>,
    /// Its number.
    pub z: usize,
    /// What of it.
    pub source: Source,
    /// A word that is an attribute of its points, for those sources that have one.
    pub note: &'static str,
    /// The sum since `start`.
    pub total: Microjoules,
    /// Start of the sum, ns since 1970.
    pub start: u64,
    /// What of `total` a receiver has acknowledged (for increments).
    pub acked: Microjoules,
    /// Up to when, ns since 1970.
    pub acked_at: u64,
    /// Mean power over the last interval; none while the meter is silent.
    pub watts: Option<f64>,
}

/// One OTLP Resource and its series.
#[allow(clippy::struct_excessive_bools)] // each is one question
#[derive(Debug, Default)]
pub struct Entity {
    /// The workload's serial number.
    pub serial: u64,
    kind: Option<Kind>,
    parent: Option<Kind>,
    /// Identities that the attributes were made from, to see when they change.
    pub chain: Chain,
    rendered: Rendered,
    /// Start of new series, ns since 1970.
    pub start: u64,
    /// The series.
    pub series: Vec<Series>,
    /// Whether a request ever held it.
    pub sent: bool,
    /// Whether it waits for its names before it is sent.
    pub awaits: bool,
    gauges: bool,
    stale: bool,
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Entity {
    /// An entity without series. `gauges`: whether it also has points of power.
    #[must_use]
    pub fn new(serial: u64, kinds: (Kind, Kind), chain: Chain, rendered: Rendered, start: u64, gauges: bool) -> Self {
        let (kind, parent) = (Some(kinds.0), Some(kinds.1));
        Self { serial, kind, parent, chain, rendered, start, gauges, stale: true, ..Self::default() }
    }

    /// Whether receivers would see `rendered` inside `parent` as the same series.
    #[must_use]
    pub fn is(&self, parent: Kind, rendered: &Rendered) -> bool {
        self.parent == Some(parent) && self.rendered == *rendered
    }

    /// Whether its attributes are these.
    #[must_use]
    pub fn renders(&self, rendered: &Rendered) -> bool {
        self.rendered == *rendered
    }

    /// Gives it other attributes.
    pub fn set_rendered(&mut self, rendered: Rendered) {
        self.rendered = rendered;
        self.stale = true;
    }

    /// Its series count from `start` on: what they counted is another entity's.
    pub fn begin_anew(&mut self, start: u64) {
        for series in &mut self.series {
            (series.total, series.acked) = (Microjoules::ZERO, Microjoules::ZERO);
            (series.start, series.acked_at) = (start, start);
        }
        self.sent = false;
    }

    /// Whether receivers see both as the same series.
    #[must_use]
    pub fn named_as(&self, other: &Self) -> bool {
        self.rendered == other.rendered && self.parent == other.parent
    }

    /// Whether some receiver, of those that look at Resources and those that do not, sees both as the same series.
    #[must_use]
    pub fn reads_as(&self, other: &Self) -> bool {
        self.named_as(other) || (self.looks_like(other) && !self.rendered.names.is_empty())
    }

    /// Whether receivers that look at points only see both as the same series.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.rendered.names == other.rendered.names && self.parent == other.parent
    }

    /// A copy that keeps no bytes.
    #[must_use]
    pub fn memory(&self) -> Self {
        let (kind, parent, start, sent) = (self.kind, self.parent, self.start, self.sent);
        let (rendered, series) = (self.rendered.clone(), self.series.clone());
        Self { serial: self.serial, kind, parent, rendered, start, series, sent, ..Self::default() }
    }

    /// The series of `source` for zone number `z`.
    #[must_use]
    pub fn find(&self, z: usize, source: Source) -> Option<&Series> {
        self.series.iter().find(|series| series.z == z && series.source == source)
    }

    /// Adds an empty series that began at `start`, unless there is one. `note` is the word of its points.
    pub fn ensure(&mut self, z: usize, zone: &Arc<Zone>, source: Source, start: u64, note: &'static str) {
        if self.find(z, source).is_none() {
            self.stale = true;
            self.series.push(Series {
                zone: Arc::clone(zone),
                z,
                source,
                note,
                total: Microjoules::ZERO,
                start,
                acked: Microjoules::ZERO,
                acked_at: start,
                watts: None,
            });
        }
    }

    /// Books to one series; a gauge that appears or falls silent changes the bytes.
    pub fn book(&mut self, index: usize, energy: Microjoules, watts: Option<f64>) {
        let Some(series) = self.series.get_mut(index) else { return };
        series.total += energy;
        self.stale |= series.watts.is_some() != watts.is_some();
        series.watts = watts;
    }

    /// Takes out the series of zone number `z` that `wanted` names, as an entity of their own.
    #[must_use]
    pub fn split(&mut self, z: usize, wanted: impl Fn(Source) -> bool) -> Self {
        let mut gone = self.memory();
        let leaves = |series: &Series| series.z == z && wanted(series.source);
        gone.series.retain(leaves);
        self.series.retain(|series| !leaves(series));
        self.stale = true;
        gone
    }

    /// Forgets what only a live entity needs.
    pub fn rest(&mut self) {
        self.chain = Chain::new();
        self.bytes = Vec::new();
        self.slots = Vec::new();
        self.stale = true;
    }

    /// Number of points in a request.
    #[must_use]
    pub fn points(&self) -> usize {
        self.slots.len()
    }

    /// Everything up to `time` has been delivered.
    pub fn acknowledge(&mut self, time: u64) {
        for series in &mut self.series {
            series.acked = series.total;
            series.acked_at = time;
        }
    }

    /// Appends the entity as one field of a request.
    pub fn append(&mut self, form: Form, time: u64, scratch: &mut Writer, out: &mut Vec<u8>) {
        if self.stale {
            scratch.clear();
            self.write(form, false, scratch);
            self.bytes.clear();
            self.bytes.extend_from_slice(scratch.bytes());
            self.slots.clear();
            self.slots.extend_from_slice(scratch.slots());
            self.stale = false;
        }
        for slot in &self.slots {
            if let Some(series) = self.series.get(slot.series as usize) {
                slot.patch(&mut self.bytes, series.numbers(form, slot.gauge, time));
            }
        }
        self.sent = true;
        out.extend_from_slice(&self.bytes);
    }

    /// Appends an entity that keeps no bytes: its last values, or points that say that there is no value any more.
    /// Returns how many points.
    pub fn append_rested(
        &mut self,
        form: Form,
        time: u64,
        ended: bool,
        scratch: &mut Writer,
        out: &mut Vec<u8>,
    ) -> usize {
        scratch.clear();
        self.write(form, ended, scratch);
        self.sent = true;
        let start = out.len();
        out.extend_from_slice(scratch.bytes());
        for slot in scratch.slots() {
            if let (Some(series), Some(bytes)) = (self.series.get(slot.series as usize), out.get_mut(start..)) {
                let numbers = series.numbers(form, slot.gauge, time);
                slot.patch(bytes, if ended { Numbers { value: None, ..numbers } } else { numbers });
            }
        }
        scratch.slots().len()
    }

    fn write(&self, form: Form, ended: bool, out: &mut Writer) {
        out.message(1, |resource_metrics| {
            resource_metrics.raw(&self.rendered.resource);
            resource_metrics.message(2, |scope_metrics| {
                scope_metrics.message(1, |scope| {
                    scope.string(1, semconv::SCOPE);
                    scope.string(2, env!("CARGO_PKG_VERSION"));
                });
                for gauge in [false, true] {
                    for (index, series) in self.series.iter().enumerate() {
                        let Some(metric) = self.metric(series, gauge) else { continue };
                        let before = self.series.get(..index).unwrap_or_default();
                        if ended {
                            // The Collector's Prometheus exporter looks no further in a metric than the first end.
                            self.write_metric(metric, gauge, form, true, index..index + 1, scope_metrics);
                        } else if before.iter().all(|earlier| self.metric(earlier, gauge) != Some(metric)) {
                            self.write_metric(metric, gauge, form, false, 0..self.series.len(), scope_metrics);
                        }
                    }
                }
            });
        });
    }

    fn metric(&self, series: &Series, gauge: bool) -> Option<&'static Metric> {
        let (counter, power) = series.source.metrics(self.kind.unwrap_or(Kind::Node));
        if gauge { power.filter(|_| self.gauges && series.watts.is_some()) } else { counter }
    }

    fn write_metric(
        &self,
        metric: &'static Metric,
        gauge: bool,
        form: Form,
        ended: bool,
        of: Range<usize>,
        out: &mut Writer,
    ) {
        out.metric(metric, form, |points| {
            for (index, series) in self.series.iter().enumerate() {
                if of.contains(&index) && self.metric(series, gauge) == Some(metric) {
                    let number = u32::try_from(index).unwrap_or(u32::MAX);
                    points.point(number, gauge, ended, |point| self.write_attributes(series, point));
                }
            }
        });
    }

    fn write_attributes(&self, series: &Series, out: &mut Writer) {
        let zone = &series.zone;
        out.attribute(7, attr::HW_ID, &zone.id);
        if !matches!(series.source, Source::Host | Source::Unattributed) {
            out.attribute(7, attr::HW_TYPE, zone.domain.hw_type());
        }
        if let (Source::Part | Source::Meter, Some(parent)) = (series.source, &zone.parent) {
            out.attribute(7, attr::HW_PARENT, parent);
        }
        match series.source {
            Source::Part => out.attribute(7, attr::HW_NAME, &zone.name),
            Source::Meter => {
                out.attribute(7, attr::METER_SOURCE, zone.source);
                out.attribute(7, attr::METER_ROLE, zone.role.as_str());
                out.attribute(7, attr::METER_QUALITY, zone.quality.as_str());
            }
            Source::Active => out.attribute(7, attr::ENERGY_STATE, word::ACTIVE),
            Source::Idle => out.attribute(7, attr::ENERGY_STATE, word::IDLE),
            Source::IdleUnshared => out.attribute(7, attr::ENERGY_STATE, word::IDLE_UNSHARED),
            Source::AtRest | Source::AtRestError => out.attribute(7, attr::IDLE_SOURCE, series.note),
            Source::Host | Source::Unattributed => {}
            Source::Own | Source::Other | Source::Exited | Source::IdleShare => self.write_workload(series, out),
        }
    }

    fn write_workload(&self, series: &Series, out: &mut Writer) {
        let source = series.source;
        let state = if source == Source::IdleShare { word::IDLE } else { word::ACTIVE };
        out.attribute(7, attr::ENERGY_STATE, state);
        out.attribute(7, attr::ATTRIBUTION_METHOD, series.note);
        let itself = matches!(source, Source::Own | Source::IdleShare);
        let around = if itself { self.parent } else { self.kind };
        out.attribute(7, attr::PARENT_KIND, around.unwrap_or(Kind::Node).as_str());
        match source {
            Source::Other => out.attribute(7, attr::PROCESS_GROUP, word::OTHER),
            Source::Exited => out.attribute(7, attr::PROCESS_GROUP, word::EXITED),
            _ => {}
        }
        out.raw(&self.rendered.names);
    }
}

impl Series {
    fn numbers(&self, form: Form, gauge: bool, time: u64) -> Numbers {
        let (start, value) = match form {
            _ if gauge => (0, self.watts.unwrap_or(0.0)),
            Form::Cumulative => (self.start, self.total.joules()),
            Form::Delta => (self.acked_at, self.total.saturating_sub(self.acked).joules()),
        };
        Numbers { start: start.min(time), time, value: Some(value) }
    }
}
