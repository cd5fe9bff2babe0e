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

pub mod battery;
pub mod checks;
pub mod cray;
pub mod energy;
pub mod graph;
pub mod http;
pub mod hwmon;
pub mod ipmi;
pub mod model;
pub mod perf;
pub mod processor;
pub mod rapl;
pub mod redfish;
pub mod set;
pub mod slow;
pub mod sysfs;

/// The backends, in the order in which `discover` lists them.
pub const METERS: &[Backend] = &[
    rapl::BACKEND,
    perf::BACKEND,
    hwmon::BACKEND,
    battery::BACKEND,
    cray::BACKEND,
    ipmi::BACKEND,
    redfish::BACKEND,
    http::BACKEND,
    model::BACKEND,
];

/// A thing that measures.
pub trait Meter: Send {
    /// What it measures. It changes only in [`Meter::refresh`].
    fn zones(&self) -> &[Arc<Zone>];

    /// Called once before each reading: a meter that is asked elsewhere takes over what has come. Says whether its
    /// zones changed.
    fn refresh(&mut self, _: &Host, _: Timestamp) -> bool {
        false
    }

    /// Whether it looks after itself for as long as the agent lives. Others are looked for again now and then.
    fn stays(&self) -> bool {
        false
    }

    /// Tells it the instance type of the machine (`host.type`), once others know it. What follows from that shows in the
    /// next [`Meter::refresh`].
    fn host_type(&mut self, _: &str) {}

    /// Tells a meter that is asked elsewhere to end; it is not waited for here.
    fn stop(&mut self) {}

    /// Whether there is nothing left to wait for after [`Meter::stop`].
    fn is_stopped(&self) -> bool {
        true
    }

    /// What is wrong with it as a whole, in one line with advice; shown once each time it changes.
    fn trouble(&self) -> Option<Arc<str>> {
        None
    }

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
    /// What its backend knows of its place among the others; `None`: what its domain says.
    pub claim: Option<Claim>,
    /// The processor socket (and die) that it measures, where it measures one.
    pub socket: Option<Socket>,
    /// The id of the zone that contains it.
    pub parent: Option<String>,
    /// Whether `host:rest` is reckoned from it. Decided with its role.
    pub whole: bool,
    /// How its readings are to be read.
    pub sensor: Sensor,
    /// The most that the part can draw: a reading above it is refused.
    pub power_max: Microwatts,
    /// What its backend knows it draws at rest, and how far that may be off; `None`: nothing.
    pub idle: Option<(Microwatts, Microwatts)>,
    /// Where it is read: a path, for `discover` and for errors.
    pub path: String,
}

impl Zone {
    /// A measured zone of `domain` that `source` reads: a gauge without a limit, until its backend knows better. The
    /// name is the end of the id.
    #[must_use]
    pub fn new(source: &'static str, id: &str, domain: Domain) -> Self {
        Self {
            id: id.to_owned(),
            name: id.rsplit([':', '/']).next().unwrap_or_default().to_owned(),
            source,
            domain,
            role: Role::Unclassified,
            why: String::new(),
            quality: Quality::Measured,
            ambiguous: false,
            claim: None,
            socket: None,
            parent: None,
            whole: false,
            sensor: Sensor::Gauge,
            power_max: Microwatts(10_000_000_000),
            idle: None,
            path: String::new(),
        }
    }

    /// What is known of its place: what its backend says, else what its domain usually is.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.claim.unwrap_or(match self.domain {
            Domain::Package
            | Domain::Dram
            | Domain::Module
            | Domain::Gpu
            | Domain::Soc
            | Domain::Io
            | Domain::Storage
            | Domain::Rest => Claim::Part,
            Domain::Core | Domain::Uncore => Claim::Inside,
            Domain::Psys => Claim::Platform,
            Domain::Host => Claim::Node,
            Domain::Psu | Domain::Battery => Claim::Supply,
            Domain::Other => Claim::Unknown,
        })
    }
}

/// What is known of a zone's place among the others. Its role follows from this and from what else is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A part of the machine beside the other parts.
    Part,
    /// Within the zone that is its parent.
    Inside,
    /// The packages and more, but not the whole machine: psys.
    Platform,
    /// The whole machine.
    Node,
    /// One of several supplies of one source that together feed the whole machine.
    Supply,
    /// Nothing is known.
    Unknown,
}

/// A processor socket, and a die in it where the dies have zones of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// `physical_package_id`.
    pub package: u32,
    /// `die_id`.
    pub die: Option<u32>,
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
            Self::Rest => "rest",
            Self::Host | Self::Module | Self::Psys | Self::Io | Self::Other => "other",
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
    /// It does not measure now (a battery on mains, a BMC that is switched off): the interval ends without energy.
    Inactive,
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
            Why::Pending | Why::Busy | Why::Inactive => Self::Pending,
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
