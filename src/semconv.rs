//! Every metric and attribute name, with unit, instrument and help text: the one table that METRICS.md is printed from.
//!
//! Attribute names are those of the OpenTelemetry semantic conventions 1.44 (`host.*`, `k8s.*`, `container.*`,
//! `process.*`, `hw.*`) so that energy joins with what kubelet, host and application receivers send; what has no
//! conventional name lives under `wattribute.`.

/// Attribute keys.
pub mod attr {
    /// UID of a pod, with dashes.
    pub const K8S_POD_UID: &str = "k8s.pod.uid";
    /// Quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`, from its cgroup path.
    pub const K8S_POD_QOS_CLASS: &str = "k8s.pod.qos_class";
    /// Full id of a container.
    pub const CONTAINER_ID: &str = "container.id";
    /// Runtime that manages a container: `docker`, `containerd`, `cri-o`, `podman`, `lxc`, `systemd-nspawn`.
    pub const CONTAINER_RUNTIME_NAME: &str = "container.runtime.name";
    /// Path of the cgroup of a service, slice or job.
    pub const CGROUP: &str = "process.linux.cgroup";
    /// systemd unit name of a service, with its suffix.
    pub const SYSTEMD_UNIT: &str = "systemd.unit";
    /// User id that a user slice belongs to.
    pub const USER_ID: &str = "user.id";
    /// Id of a batch job.
    pub const JOB_ID: &str = "slurm.job.id";
    /// Step of a batch job.
    pub const JOB_STEP: &str = "slurm.step.id";
    /// UUID of a VM, or id of the host.
    pub const HOST_ID: &str = "host.id";
    /// Name of a VM's domain, or of the host.
    pub const HOST_NAME: &str = "host.name";
    /// Hypervisor that runs a VM: `kvm`, `xen`, `virtualbox`, `vmware`.
    pub const VM_HYPERVISOR: &str = "wattribute.vm.hypervisor";
    /// Process id.
    pub const PROCESS_PID: &str = "process.pid";
    /// Creation time of a process, ISO 8601.
    pub const PROCESS_CREATION_TIME: &str = "process.creation.time";
    /// Name of a process's executable.
    pub const PROCESS_EXECUTABLE_NAME: &str = "process.executable.name";
    /// First word of a process's command line.
    pub const PROCESS_COMMAND: &str = "process.command";
}
/// Placeholder.
#[must_use]
pub fn markdown() -> String {
    String::new()
}
