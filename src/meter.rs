//! Meters: things that measure. A meter has zones (measured instances, `package-0`), and gives one reading per zone
//! when asked; what a reading means in joules is decided in [`energy`], in one place for all meters.
//!
//! [`METERS`] is the table of backends. A backend never fails as a whole: what is absent or forbidden is said so in
//! [`Found`], and one bad zone costs that zone only.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::host::Host;
use crate::unit::Microwatts;

pub mod energy;
pub mod model;
pub mod rapl;
pub mod set;

/// The backends, in the order in which `discover` lists them.
pub const METERS: &[Backend] = &[rapl::BACKEND, model::BACKEND];

/// A thing that measures.
pub trait Meter: Send {
    /// What it measures. The order is fixed for the life of the meter.
    fn zones(&self) -> &[Arc<Zone>];

    /// Writes one reading per zone, in the order of `zones`. Never allocates in the steady state and never fails:
    /// what cannot be read is [`Value::Missing`].
    fn read(&mut self, host: &Host, now: Timestamp, out: &mut [Reading]);
}

/// One measured instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Stable id, unique on the node: `rapl:package-0`, `rapl:package-1/dram`, `model:cpu`.
    pub id: String,
    /// What people call it: the driver's own name (`package-0`).
    pub name: String,
    /// The backend that reads it: `rapl`, `model`.
    pub source: &'static str,
    /// What it covers.
    pub domain: Domain,
    /// What part it plays in the sum.
    pub role: Role,
    /// Why it has that role, for `discover`.
    pub why: String,
    /// Whether it is a meter or a model.
    pub quality: Quality,
    /// Whether other zones have the same name, so that its id may pass from one counter to another.
    pub ambiguous: bool,
    /// The id of the zone that contains it.
    pub parent: Option<String>,
    /// How its readings are to be read.
    pub sensor: Sensor,
    /// The most that the part can draw: a reading above it is refused.
    pub power_max: Microwatts,
    /// Where it is read: a path, for `discover` and for errors.
    pub path: String,
}

/// What a zone covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the words are the field's own
pub enum Domain {
    Host,
    Module,
    Package,
    Core,
    Uncore,
    Dram,
    Psys,
    Gpu,
    Soc,
    Io,
    Storage,
    Psu,
    Battery,
    Rest,
    Other,
}

impl Domain {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Module => "module",
            Self::Package => "package",
            Self::Core => "core",
            Self::Uncore => "uncore",
            Self::Dram => "dram",
            Self::Psys => "psys",
            Self::Gpu => "gpu",
            Self::Soc => "soc",
            Self::Io => "io",
            Self::Storage => "storage",
            Self::Psu => "psu",
            Self::Battery => "battery",
            Self::Rest => "rest",
            Self::Other => "other",
        }
    }

    /// The `hw.type` of the OpenTelemetry hardware conventions.
    #[must_use]
    pub const fn hw_type(self) -> &'static str {
        match self {
            Self::Package | Self::Core | Self::Uncore | Self::Soc => "cpu",
            Self::Dram => "memory",
            Self::Gpu => "gpu",
            Self::Storage => "physical_disk",
            Self::Psu => "power_supply",
            Self::Battery => "battery",
            Self::Host | Self::Module | Self::Psys | Self::Io | Self::Rest | Self::Other => "other",
        }
    }
}

/// What part a zone plays in the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Enters the sum; the only role that is booked.
    Primary,
    /// Part of what another zone measures.
    Contained,
    /// The same joules as another zone.
    Duplicate,
    /// A wider or second opinion, for comparison.
    Reference,
    /// Not known well enough to be summed.
    Unclassified,
}

impl Role {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Contained => "contained",
            Self::Duplicate => "duplicate",
            Self::Reference => "reference",
            Self::Unclassified => "unclassified",
        }
    }
}

/// Whether the joules of a zone were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// By a meter.
    Measured,
    /// By a model.
    Estimated,
}

impl Quality {
    /// The word in JSON and in attributes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Estimated => "estimated",
        }
    }
}

/// How the readings of a zone are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sensor {
    /// A counter of energy.
    Counter {
        /// Energy of one count, in 2⁻³² µJ (so that RAPL's powers of two are exact): `1 << 32` is 1 µJ.
        tick: u64,
        /// The count at which it starts again from 0, where known.
        max: Option<u64>,
    },
    /// A gauge of power, integrated by trapezoid over its own timestamps.
    Gauge,
}

impl Sensor {
    /// A counter of whole microjoules that wraps at `max`.
    #[must_use]
    pub const fn microjoules(max: Option<u64>) -> Self {
        Self::Counter { tick: 1 << 32, max }
    }
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When the meter was read, which is not always when the tick ran.
    pub at: Timestamp,
    /// What it said.
    pub value: Value,
}

/// What a meter said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A counter's raw count.
    Ticks(u64),
    /// A gauge's power.
    Power(Microwatts),
    /// Nothing, and why.
    Missing(Why),
}

/// Why a reading is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A slow meter has no new reading yet.
    Pending,
    /// The file or device is not there (any more), or reading it failed.
    Gone,
    /// Permission denied.
    Denied,
    /// The driver asked to try again.
    Busy,
    /// What was read is no number.
    Malformed,
    /// The value cannot be true.
    Implausible,
    /// The value has not changed although it should have.
    Stale,
}

/// What became of a zone's reading at a tick: the `state` of the JSON contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted.
    Ok,
    /// Accepted across one wrap of the counter.
    Wrap,
    /// The first reading: a baseline.
    First,
    /// No new reading yet.
    Pending,
    /// The counter started again: a new baseline.
    Reset,
    /// Too long ago to know how often the counter wrapped: a new baseline.
    Gap,
    /// More than the part can draw: a new baseline.
    Implausible,
    /// The sensor is frozen.
    Stale,
    /// Permission denied.
    Denied,
    /// A read error.
    Gone,
}

impl State {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Wrap => "wrap",
            Self::First => "first",
            Self::Pending => "pending",
            Self::Reset => "reset",
            Self::Gap => "gap",
            Self::Implausible => "implausible",
            Self::Stale => "stale",
            Self::Denied => "denied",
            Self::Gone => "gone",
        }
    }
}

impl From<Why> for State {
    fn from(why: Why) -> Self {
        match why {
            Why::Pending | Why::Busy => Self::Pending,
            Why::Gone | Why::Malformed => Self::Gone,
            Why::Denied => Self::Denied,
            Why::Implausible => Self::Implausible,
            Why::Stale => Self::Stale,
        }
    }
}

/// One kind of meter.
pub struct Backend {
    /// Its name in `discover` and in `hw.id`s.
    pub name: &'static str,
    /// Looks for it on the machine.
    pub discover: fn(&Host, &Config) -> Found,
    /// A cheap value that changes when `discover` would find something else: compared at every tick.
    pub fingerprint: fn(&Host) -> u64,
}

/// What a backend found.
pub enum Found {
    /// Meters; some of their zones may still be denied.
    Meters(Vec<Box<dyn Meter>>),
    /// Nothing, and what was looked for.
    Absent(String),
    /// Something that may not be read.
    Denied {
        /// What was forbidden.
        path: String,
        /// One line that says how to allow it.
        advice: String,
        /// The meters all the same: they are listed as denied and tried again at every tick.
        meters: Vec<Box<dyn Meter>>,
    },
}
