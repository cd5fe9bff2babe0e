//! Every metric and attribute name, with unit, instrument and help text: the one table that METRICS.md is printed from.
//!
//! Attribute names are those of the OpenTelemetry semantic conventions 1.44 (`host.*`, `k8s.*`, `container.*`,
//! `process.*`, `hw.*`) so that energy joins with what kubelet, host and application receivers send; what has no
//! conventional name lives under `wattribute.`. Names carry no unit and no `_total`: the unit is a field of its own, and
//! backends that want suffixes add them. Values are `f64` joules and watts; joules are whole microjoules × 10⁻⁶.

use std::fmt::Write;

macro_rules! attributes {
    ($($(#[doc = $doc:literal])+ $name:ident = $key:literal;)+) => {
        /// Attribute keys.
        pub mod attr {
            $($(#[doc = $doc])+ pub const $name: &str = $key;)+

            /// Every key with its meaning, for METRICS.md.
            pub const ALL: &[(&str, &str)] = &[$(($key, concat!($($doc),+))),+];
        }
    };
}

attributes! {
    /// UID of a pod, with dashes.
    K8S_POD_UID = "k8s.pod.uid";
    /// Name of a pod.
    K8S_POD_NAME = "k8s.pod.name";
    /// Namespace of a pod.
    K8S_NAMESPACE_NAME = "k8s.namespace.name";
    /// Name of a container in its pod.
    K8S_CONTAINER_NAME = "k8s.container.name";
    /// Label of a pod, where chosen: `k8s.pod.label.<key>`.
    K8S_POD_LABEL = "k8s.pod.label";
    /// Annotation of a pod, where chosen: `k8s.pod.annotation.<key>`.
    K8S_POD_ANNOTATION = "k8s.pod.annotation";
    /// Name of the Deployment that owns a pod's ReplicaSet.
    K8S_DEPLOYMENT_NAME = "k8s.deployment.name";
    /// Name of the ReplicaSet that owns a pod.
    K8S_REPLICASET_NAME = "k8s.replicaset.name";
    /// UID of the ReplicaSet.
    K8S_REPLICASET_UID = "k8s.replicaset.uid";
    /// Name of the StatefulSet that owns a pod.
    K8S_STATEFULSET_NAME = "k8s.statefulset.name";
    /// UID of the StatefulSet.
    K8S_STATEFULSET_UID = "k8s.statefulset.uid";
    /// Name of the DaemonSet that owns a pod.
    K8S_DAEMONSET_NAME = "k8s.daemonset.name";
    /// UID of the DaemonSet.
    K8S_DAEMONSET_UID = "k8s.daemonset.uid";
    /// Name of the Job that owns a pod.
    K8S_JOB_NAME = "k8s.job.name";
    /// UID of the Job.
    K8S_JOB_UID = "k8s.job.uid";
    /// Name of the CronJob that made the Job.
    K8S_CRONJOB_NAME = "k8s.cronjob.name";
    /// Name of the Kubernetes node.
    K8S_NODE_NAME = "k8s.node.name";
    /// UID of the Kubernetes node.
    K8S_NODE_UID = "k8s.node.uid";
    /// UID of the cluster: that of its namespace kube-system.
    K8S_CLUSTER_UID = "k8s.cluster.uid";
    /// Name of the cluster, where one is configured.
    K8S_CLUSTER_NAME = "k8s.cluster.name";
    /// Quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`, from its cgroup path.
    K8S_POD_QOS_CLASS = "k8s.pod.qos_class";
    /// Full id of a container.
    CONTAINER_ID = "container.id";
    /// Name of a container, as its runtime has it.
    CONTAINER_NAME = "container.name";
    /// Image of a container, without tag and digest.
    CONTAINER_IMAGE_NAME = "container.image.name";
    /// Tag of the image, as the Collector's `k8s_attributes` has it.
    CONTAINER_IMAGE_TAG = "container.image.tag";
    /// The tag as the conventions have it: a list of one.
    CONTAINER_IMAGE_TAGS = "container.image.tags";
    /// Runtime that manages a container: `docker`, `containerd`, `cri-o`, `podman`, `lxc`, `systemd-nspawn`.
    CONTAINER_RUNTIME_NAME = "container.runtime.name";
    /// Path of the cgroup of a service, slice or job.
    CGROUP = "process.linux.cgroup";
    /// systemd unit name of a service, with its suffix.
    SYSTEMD_UNIT = "systemd.unit";
    /// User id that a user slice belongs to.
    USER_ID = "user.id";
    /// Id of a batch job.
    JOB_ID = "slurm.job.id";
    /// Step of a batch job.
    JOB_STEP = "slurm.step.id";
    /// UUID of a VM, or id of the host.
    HOST_ID = "host.id";
    /// Name of a VM's domain, or of the host.
    HOST_NAME = "host.name";
    /// CPU architecture of the host.
    HOST_ARCH = "host.arch";
    /// Instance type of the node: its label `node.kubernetes.io/instance-type`.
    HOST_TYPE = "host.type";
    /// Hypervisor that runs a VM: `kvm`, `xen`, `virtualbox`, `vmware`.
    VM_HYPERVISOR = "wattribute.vm.hypervisor";
    /// Process id.
    PROCESS_PID = "process.pid";
    /// Creation time of a process, ISO 8601.
    PROCESS_CREATION_TIME = "process.creation.time";
    /// Name of a process's executable.
    PROCESS_EXECUTABLE_NAME = "process.executable.name";
    /// First word of a process's command line.
    PROCESS_COMMAND = "process.command";
    /// Name of the service that sends: `wattribute` unless `OTEL_SERVICE_NAME` says otherwise.
    SERVICE_NAME = "service.name";
    /// Version of the agent.
    SERVICE_VERSION = "service.version";
    /// The node that the agent runs on.
    SERVICE_INSTANCE_ID = "service.instance.id";
    /// Stable id of a zone: `rapl:package-0`.
    HW_ID = "hw.id";
    /// What a zone covers: `cpu`, `memory`, `gpu`, `battery`, `power_supply`, `physical_disk`, `rest`, `other`.
    HW_TYPE = "hw.type";
    /// The driver's own name of a zone.
    HW_NAME = "hw.name";
    /// `hw.id` of the zone that contains this one.
    HW_PARENT = "hw.parent";
    /// Backend that reads a zone.
    METER_SOURCE = "wattribute.meter.source";
    /// Part that a zone plays in the sum: `primary`, `contained`, `duplicate`, `reference`, `unclassified`.
    METER_ROLE = "wattribute.meter.role";
    /// `measured` or `estimated`.
    METER_QUALITY = "wattribute.meter.quality";
    /// `active` or `idle`; of the node also `idle_unshared`, the part of `idle` that is not shown with workloads.
    ENERGY_STATE = "wattribute.energy.state";
    /// Where the power at rest comes from: `configured`, `calibrated`, `observed` in quiet intervals, `learned` from how power
    /// follows the load, or the `prior` of such zones.
    IDLE_SOURCE = "wattribute.idle.source";
    /// How energy was split between workloads: by `cpu_time`, or with `attribution.weights: perf` by `cycles` (packages) and
    /// `llc_misses` (memory); idle energy by `attribution.idle_share`: `even`, `requests`, `limits`, `usage`.
    ATTRIBUTION_METHOD = "wattribute.attribution.method";
    /// Kind of the workload whose total contains this one; `node` at the top. Slices contain nothing: what is in a
    /// slice belongs to the workload around the slice.
    PARENT_KIND = "wattribute.parent.kind";
    /// `exited`: used by processes that ended unseen. `other`: used by processes without a series of their own.
    PROCESS_GROUP = "wattribute.process.group";
    /// Id of a workload that has no conventional attribute to tell it by.
    WORKLOAD_ID = "wattribute.workload.id";
    /// Name of the node that a VM runs on (its `host.*` are its own).
    NODE_NAME = "wattribute.node.name";
    /// Why a reading was refused: `reset`, `gap`, `implausible`, `stale`, `denied`, `gone`, `conflict`.
    REASON = "wattribute.reason";
    /// What became of data points: `delivered`, `rejected` by the receiver, `dropped` here.
    OUTCOME = "wattribute.outcome";
}

/// Words that are values of attributes.
pub mod word {
    /// Energy of work.
    pub const ACTIVE: &str = "active";
    /// Energy of the machine at rest.
    pub const IDLE: &str = "idle";
    /// Energy of the machine at rest that is not shown with workloads.
    pub const IDLE_UNSHARED: &str = "idle_unshared";
    /// Processes without a series of their own.
    pub const OTHER: &str = "other";
    /// Processes that ended unseen.
    pub const EXITED: &str = "exited";
    /// Points that a receiver took.
    pub const DELIVERED: &str = "delivered";
    /// Points that a receiver refused.
    pub const REJECTED: &str = "rejected";
    /// Points given up here.
    pub const DROPPED: &str = "dropped";
}

/// Name of the instrumentation scope.
pub const SCOPE: &str = "wattribute";

/// How a metric is aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instrument {
    /// A monotone sum.
    Counter,
    /// The last value.
    Gauge,
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it is aggregated.
    pub instrument: Instrument,
    /// UCUM unit.
    pub unit: &'static str,
    /// The entity whose OTLP Resource carries it.
    pub resource: &'static str,
    /// Keys of its points, besides the copies of names.
    pub attributes: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const PART: &[&str] = &[attr::HW_ID, attr::HW_TYPE, attr::HW_NAME, attr::HW_PARENT];
const METER: &[&str] =
    &[attr::HW_ID, attr::HW_TYPE, attr::HW_PARENT, attr::METER_SOURCE, attr::METER_ROLE, attr::METER_QUALITY];
const IDLE: &[&str] = &[attr::HW_ID, attr::HW_TYPE, attr::IDLE_SOURCE];
const WORKLOAD: &[&str] =
    &[attr::HW_ID, attr::HW_TYPE, attr::ENERGY_STATE, attr::ATTRIBUTION_METHOD, attr::PARENT_KIND];
const PROCESS: &[&str] =
    &[attr::HW_ID, attr::HW_TYPE, attr::ENERGY_STATE, attr::ATTRIBUTION_METHOD, attr::PARENT_KIND, attr::PROCESS_GROUP];

macro_rules! metrics {
    ($($name:ident = $text:literal, $instrument:ident $unit:literal on $resource:literal, $attributes:expr, $help:literal;)+) => {
        /// The metrics by name.
        pub mod metric {
            use super::{IDLE, Instrument, METER, Metric, PART, PROCESS, WORKLOAD, attr};
            $(
                #[doc = $help]
                pub const $name: &Metric = &Metric {
                    name: $text,
                    instrument: Instrument::$instrument,
                    unit: $unit,
                    resource: $resource,
                    attributes: $attributes,
                    help: $help,
                };
            )+
        }

        /// Every metric, in the order of METRICS.md.
        pub const METRICS: &[&Metric] = &[$(metric::$name),+];
    };
}

metrics! {
    HW_ENERGY = "hw.energy", Counter "J" on "node", PART, "Energy of a part of the machine; parts do not overlap.";
    HW_POWER = "hw.power", Gauge "W" on "node", PART, "Power of a part of the machine; parts do not overlap.";
    HW_HOST_ENERGY = "hw.host.energy", Counter "J" on "node", &[attr::HW_ID], "Energy of the whole machine.";
    HW_HOST_POWER = "hw.host.power", Gauge "W" on "node", &[attr::HW_ID], "Power of the whole machine.";
    METER_ENERGY = "wattribute.meter.energy", Counter "J" on "node", METER, "Energy of a zone, overlapping ones too.";
    METER_POWER = "wattribute.meter.power", Gauge "W" on "node", METER, "Power of a zone, overlapping ones too.";
    NODE_ENERGY = "wattribute.node.energy", Counter "J" on "node",
        &[attr::HW_ID, attr::HW_TYPE, attr::ENERGY_STATE], "Energy booked to workloads (active) and to rest (idle).";
    IDLE_POWER = "wattribute.idle.power", Gauge "W" on "node", IDLE, "What a zone is taken to draw at rest.";
    IDLE_ERROR = "wattribute.idle.error", Gauge "W" on "node", IDLE, "One standard deviation of the power at rest.";
    UNATTRIBUTED_ENERGY = "wattribute.unattributed.energy", Counter "J" on "node",
        &[attr::HW_ID], "Energy that no known workload used.";
    POD_ENERGY = "wattribute.pod.energy", Counter "J" on "pod", WORKLOAD, "Energy of a pod with its containers.";
    POD_POWER = "wattribute.pod.power", Gauge "W" on "pod", WORKLOAD, "Mean power of a pod since the last export.";
    CONTAINER_ENERGY = "wattribute.container.energy", Counter "J" on "container", WORKLOAD, "Energy of a container.";
    CONTAINER_POWER = "wattribute.container.power", Gauge "W" on "container", WORKLOAD,
        "Mean power of a container since the last export.";
    VM_ENERGY = "wattribute.vm.energy", Counter "J" on "VM", WORKLOAD, "Energy of a virtual machine.";
    VM_POWER = "wattribute.vm.power", Gauge "W" on "VM", WORKLOAD, "Mean power of a VM since the last export.";
    SERVICE_ENERGY = "wattribute.service.energy", Counter "J" on "service", WORKLOAD, "Energy of a systemd unit.";
    SERVICE_POWER = "wattribute.service.power", Gauge "W" on "service", WORKLOAD,
        "Mean power of a systemd unit since the last export.";
    SLICE_ENERGY = "wattribute.slice.energy", Counter "J" on "slice", WORKLOAD,
        "Energy in a slice outside of the workloads in it.";
    SLICE_POWER = "wattribute.slice.power", Gauge "W" on "slice", WORKLOAD,
        "Mean power in a slice outside of its workloads since the last export.";
    JOB_ENERGY = "wattribute.job.energy", Counter "J" on "job", WORKLOAD, "Energy of a batch job or a step of it.";
    JOB_POWER = "wattribute.job.power", Gauge "W" on "job", WORKLOAD, "Mean power of a batch job since the last export.";
    KERNEL_ENERGY = "wattribute.kernel.energy", Counter "J" on "kernel", WORKLOAD, "Energy of kernel threads.";
    KERNEL_POWER = "wattribute.kernel.power", Gauge "W" on "kernel", WORKLOAD,
        "Mean power of kernel threads since the last export.";
    PROCESS_ENERGY = "wattribute.process.energy", Counter "J" on "process, or what contains the group", PROCESS,
        "Energy of a process, or of a group of processes of a workload.";
    PROCESS_POWER = "wattribute.process.power", Gauge "W" on "process", WORKLOAD,
        "Mean power of a process since the last export; off by default.";
    VALIDATION_MAPE = "wattribute.validation.mape", Gauge "%" on "node", &[attr::HW_ID],
        "Mean absolute error of the books against the reference zone, lag removed where it is clear.";
    VALIDATION_BIAS = "wattribute.validation.bias", Gauge "W" on "node", &[attr::HW_ID],
        "Mean of books less reference zone: negative is what the books do not see.";
    VALIDATION_RMSE = "wattribute.validation.rmse", Gauge "W" on "node", &[attr::HW_ID],
        "Root of the mean squared difference of the books from the reference zone.";
    VALIDATION_CORRELATION = "wattribute.validation.correlation", Gauge "1" on "node", &[attr::HW_ID],
        "Correlation of the books with the reference zone.";
    VALIDATION_LAG = "wattribute.validation.lag", Gauge "s" on "node", &[attr::HW_ID],
        "How late the reference zone is; absent where it cannot be told.";
    AGENT_TICK = "wattribute.agent.tick.duration", Gauge "s" on "node", &[], "How long the last tick took.";
    AGENT_REFUSED = "wattribute.agent.readings.refused", Counter "{reading}" on "node",
        &[attr::HW_ID, attr::REASON], "Readings that were not booked.";
    AGENT_POINTS = "wattribute.agent.points", Counter "{data_point}" on "node",
        &[attr::OUTCOME], "Data points of the OTLP export.";
    AGENT_FAILED = "wattribute.agent.exports.failed", Counter "{request}" on "node", &[],
        "Export requests that failed, retries included.";
    AGENT_SUCCESS = "wattribute.agent.export.success.time", Gauge "s" on "node", &[],
        "When an export last succeeded, in seconds since 1970.";
    AGENT_ENDED_DROPPED = "wattribute.agent.ended.dropped", Counter "{workload}" on "node", &[],
        "Ended workloads whose final totals were given up undelivered.";
}

/// METRICS.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Printed from `src/semconv.rs` by `wattribute metrics`; do not edit. Names follow the OpenTelemetry semantic\n\
         conventions 1.44. Counters are monotone sums in joules (whole microjoules × 10⁻⁶), gauges are watts: the mean over\n\
         the export interval, so that power × interval is the increase of the energy beside it.\n\n\
         Per `hw.id`, the sum of all points with `wattribute.energy.state=active` and `wattribute.parent.kind=node`, plus\n\
         `wattribute.unattributed.energy`, plus `wattribute.node.energy` with state `idle`, is `hw.energy` (`hw.host.energy` where only\n\
         the whole machine is metered). A workload contains its children: do not add metrics of different kinds, except those\n\
         with `wattribute.parent.kind=node`.\n\n\
         | metric | kind | unit | resource | point attributes | meaning |\n|---|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = match metric.instrument {
            Instrument::Counter => "counter",
            Instrument::Gauge => "gauge",
        };
        let keys: Vec<String> = metric.attributes.iter().map(|key| format!("`{key}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} | {} | {} |",
            metric.name,
            metric.unit,
            metric.resource,
            keys.join(", "),
            metric.help
        );
    }
    text.push_str(
        "\nUnless `point_names` is off, points also carry what names their workload (`k8s.namespace.name`, `k8s.pod.name`,\n\
         `k8s.container.name`, `k8s.pod.uid`, `container.id`, `systemd.unit`, `process.pid`, …): receivers such as the Collector's\n\
         Prometheus exporter tell series apart by point attributes only.\n\n# Attributes\n\n| key | meaning |\n|---|---|\n",
    );
    for (key, meaning) in attr::ALL {
        let _ = writeln!(text, "| `{key}` |{meaning} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_naming_rules() {
        let mut seen = BTreeSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(
                metric.name.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_'),
                "{}: lower case and dots",
                metric.name
            );
            assert!(!metric.name.ends_with("total") && !metric.name.contains("joule"), "{}", metric.name);
            assert!(metric.help.ends_with('.') && metric.help.len() <= 100, "{}", metric.name);
            assert!(metric.attributes.iter().all(|key| attr::ALL.iter().any(|(known, _)| known == key)));
        }
        let keys: BTreeSet<_> = attr::ALL.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), attr::ALL.len(), "no key twice");
    }

    #[test]
    fn the_document_has_a_row_for_everything() {
        let text = markdown();
        assert!(METRICS.iter().all(|metric| text.contains(&format!("| `{}` |", metric.name))));
        assert!(attr::ALL.iter().all(|(key, _)| text.contains(&format!("| `{key}` |"))));
    }
}
