//! What a user may say: [`Config`], every field of which has a default that works.
//!
//! It is made by [`Config::load`] from four layers, each stronger than the one before: the defaults below, a YAML
//! file, the `OTEL_*` environment, and `--set key.path=value`. The names of the keys, their explanations and how
//! their values are read stand in one table (`keys.rs`), which the file, `--set`, the environment and [`document`]
//! share: what is not in it is an error that names the nearest key. Reading the file and the environment is the
//! caller's business: nothing here does I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

mod advice;
mod document;
mod environment;
mod keys;
mod load;
mod meters;
mod values;
mod yaml;

#[cfg(test)]
mod tests;

pub use document::document;
pub use load::{ConfigError, Loaded, Sources};
pub use meters::{Auth, DOMAINS, EnergyUnit, PowerUnit, Redfish, Trust, Wattmeter};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Time between two ticks.
    pub interval: Interval,
    /// Where the machine's file systems are.
    pub host: HostRoots,
    /// Meters that are asked over a bus or a network.
    pub meters: Meters,
    /// What is reckoned where nothing measures.
    pub model: Model,
    /// How energy is booked.
    pub attribution: Attribution,
    /// Which processes are exported as series of their own.
    pub processes: Processes,
    /// Names of pods and of the node.
    pub kubernetes: Kubernetes,
    /// Names of containers outside of Kubernetes.
    pub containers: Containers,
    /// What outlives the agent.
    pub state: State,
    /// What the books are checked against during a run.
    pub validation: Validation,
    /// Where the books go.
    pub export: Export,
}

/// Time between two ticks: 100 ms to 1 h. Below 1 s it is finer than most meters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Duration);
impl Default for Interval {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

/// Where the machine's file systems are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoots {
    /// procfs of the host.
    pub proc: PathBuf,
    /// sysfs of the host, with the cgroup file systems below `fs/cgroup`.
    pub sys: PathBuf,
    /// Device nodes of the host.
    pub dev: PathBuf,
}
impl Default for HostRoots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// Meters that are asked over a bus or a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meters {
    /// The BMC, from within the machine.
    pub ipmi: Ipmi,
    /// A BMC that speaks Redfish.
    pub redfish: Redfish,
    /// Wattmeters that answer with JSON, by name.
    pub http: BTreeMap<String, Wattmeter>,
}

/// The BMC, from within the machine: IPMI with DCMI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipmi {
    /// Whether to ask it.
    pub enabled: bool,
    /// Time between two questions: 1 s to 1 h.
    pub interval: Duration,
}
impl Default for Ipmi {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_secs(10) }
    }
}

/// What is reckoned where nothing measures.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The instance type of a cloud, where neither DMI nor a node label says it.
    pub instance_type: Option<String>,
    /// What idle and active power are multiplied by: finite and above 0.
    pub calibration: f64,
    /// Figures of one's own, as `tools/fit_node_model.py` writes them.
    pub file: Option<PathBuf>,
}
impl Default for Model {
    fn default() -> Self {
        Self { instance_type: None, calibration: 1.0, file: None }
    }
}

/// How energy is booked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attribution {
    /// What part of a zone's energy is idle.
    pub idle: Idle,
    /// How idle energy is shown with workloads.
    pub idle_share: IdleShare,
    /// By what energy is split between workloads.
    pub weights: Weights,
}

/// By what energy is split between workloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Weights {
    /// Time on a CPU.
    #[default]
    CpuTime,
    /// Cycles for packages, misses of the last-level cache for memory, CPU time for all else.
    Perf,
}

/// How idle energy is told from active energy.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Idle {
    /// What the zone is seen to draw at rest, learned from how its power follows the load.
    #[default]
    Learned,
    /// The idle share of CPU time.
    Ratio,
    /// Nothing is idle.
    None,
    /// Watts (finite, not negative) per zone id; zones not named are learned.
    Watts(BTreeMap<String, f64>),
}

/// How idle energy is shown with workloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IdleShare {
    /// Not at all.
    #[default]
    None,
    /// Each the same.
    Even,
    /// By what pods asked for.
    Requests,
    /// By what pods may use at most.
    Limits,
    /// As active energy is split.
    Usage,
}

impl IdleShare {
    /// The word for it in the configuration and in attributes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Even => "even",
            Self::Requests => "requests",
            Self::Limits => "limits",
            Self::Usage => "usage",
        }
    }
}

/// Which processes are exported singly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// off, top or all.
    pub export: ProcessExport,
    /// How many, for `top`: at least 1.
    pub top: usize,
}
impl Default for Processes {
    fn default() -> Self {
        Self { export: ProcessExport::Top, top: 100 }
    }
}

/// Which processes are exported singly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExport {
    /// None: processes are not even read, except where a VM must be told from its cgroup.
    Off,
    /// Those with the most energy.
    Top,
    /// All.
    All,
}

/// Names of pods and of the node, from the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// auto or off.
    pub mode: KubernetesMode,
    /// A kubeconfig to use instead of what is found.
    pub kubeconfig: Option<PathBuf>,
    /// The node's name, mostly from `K8S_NODE_NAME` (a downward-API field).
    pub node_name: Option<String>,
    /// `k8s.cluster.name`: no object of the cluster says it.
    pub cluster_name: Option<String>,
    /// Labels of pods that become attributes.
    pub pod_labels: Vec<String>,
    /// Annotations of pods that become attributes.
    pub pod_annotations: Vec<String>,
}

/// Whether the API server is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KubernetesMode {
    /// With the service account of a pod, else with a kubeconfig, else not.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Where runtimes keep what they know of their containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containers {
    /// Docker's data root; none: its containers get no names.
    pub docker: Option<PathBuf>,
    /// Podman's storage; none: its containers get no names.
    pub podman: Option<PathBuf>,
}
impl Default for Containers {
    fn default() -> Self {
        Self { docker: Some("/var/lib/docker".into()), podman: Some("/var/lib/containers/storage".into()) }
    }
}

/// What outlives the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// A directory of the agent's own; none: nothing is kept, and nobody else is kept away.
    pub directory: Option<PathBuf>,
}

/// What the books are checked against during a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// Id of the zone to compare with; empty: off.
    pub reference: String,
    /// The time that is compared: 1 min to 24 h.
    pub window: Duration,
}
impl Default for Validation {
    fn default() -> Self {
        Self { reference: String::new(), window: Duration::from_secs(600) }
    }
}

/// Where the books go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    /// OTLP push.
    pub otlp: Otlp,
    /// The terminal.
    pub stdout: Stdout,
}

/// OTLP push.
#[allow(clippy::struct_excessive_bools)] // each is a key of its own
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Whether to push at all.
    pub enabled: bool,
    /// A URL of scheme http or https without user, query or fragment: `http://localhost:4317`, or
    /// `http://localhost:4318` if the protocol is http/protobuf and no endpoint was given. For http/protobuf the URL
    /// to post to is this with `/v1/metrics` appended unless `endpoint_is_exact` (a query is then possible).
    pub endpoint: String,
    /// True when it came from `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`: used as it is.
    pub endpoint_is_exact: bool,
    /// grpc or http/protobuf.
    pub protocol: Protocol,
    /// Sent with every request, by lower-case name; values are secret, visible ASCII.
    pub headers: BTreeMap<String, Secret>,
    /// Compression of requests.
    pub compression: Compression,
    /// Limit of one request: 1 ms to 1 h.
    pub timeout: Duration,
    /// Time between two pushes: 100 ms to 1 h.
    pub interval: Duration,
    /// Cumulative or delta.
    pub temporality: Temporality,
    /// Copy the names of the workload to every point (for the Prometheus exporter).
    pub point_names: bool,
    /// Power gauges of processes too.
    pub process_power: bool,
    /// Transport security.
    pub tls: Tls,
    /// Attributes from `OTEL_RESOURCE_ATTRIBUTES` except `service.name`, added to the node's resource.
    pub resource: BTreeMap<String, String>,
    /// `OTEL_SERVICE_NAME`, else `service.name` of `OTEL_RESOURCE_ATTRIBUTES`.
    pub service_name: String,
}
impl Default for Otlp {
    fn default() -> Self {
        Self {
            enabled: true,
            endpoint: "http://localhost:4317".into(),
            endpoint_is_exact: false,
            protocol: Protocol::Grpc,
            headers: BTreeMap::new(),
            compression: Compression::None,
            timeout: Duration::from_secs(10),
            interval: Duration::from_secs(15),
            temporality: Temporality::Cumulative,
            point_names: true,
            process_power: false,
            tls: Tls::default(),
            resource: BTreeMap::new(),
            service_name: "wattribute".into(),
        }
    }
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// OTLP transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP/1.1 with protobuf bodies.
    HttpProtobuf,
}

/// Compression of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// zstd, an extension that the Collector understands.
    Zstd,
}

/// Aggregation temporality of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// Totals since the series began.
    Cumulative,
    /// Increments.
    Delta,
    /// As `delta` for counters.
    LowMemory,
}

/// Transport security.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM bundle of authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM client key.
    pub key_file: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// The terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stdout {
    /// Whether to print at all.
    pub enabled: bool,
    /// table or json.
    pub format: StdoutFormat,
}
impl Default for Stdout {
    fn default() -> Self {
        Self { enabled: true, format: StdoutFormat::Table }
    }
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdoutFormat {
    /// A table of the top workloads.
    Table,
    /// JSON lines, one per tick and a total.
    Json,
}

/// Reads a duration as the configuration writes it: `500ms`, `15s`, `2m`, `1h`.
///
/// # Errors
/// What is expected instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    values::duration(text, [Duration::ZERO, Duration::from_secs(24 * 3600)])
}
