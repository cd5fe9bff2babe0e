//! Workloads: everything that energy can be booked to, as one tree (node → pod → container → process).
//!
//! A [`WorkloadId`] is the stable name of one workload; its [`Kind`] is data, so a pod, a VM and a Slurm step share
//! all code. What a cgroup path says about identity is decided by [`CLASSIFIERS`], a table of pure functions: each
//! looks at one cgroup directory (by its full path) and says whether a workload begins there. A directory in which
//! none begins belongs to the workload of its parent directory.

use std::borrow::Cow;
use std::fmt;

pub mod docker;
pub mod hypervisor;
pub mod kubernetes;
pub mod libvirt;
pub mod nspawn;
pub mod slurm;
pub mod systemd;
pub mod table;

/// What sort of thing a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The machine itself: the root of the tree.
    Node,
    /// Kernel threads that sit in no cgroup of their own.
    Kernel,
    /// A Kubernetes pod.
    Pod,
    /// A container of any runtime.
    Container,
    /// A virtual machine.
    Vm,
    /// A systemd service, mount or other unit.
    Service,
    /// A slice, or any other plain cgroup: what it uses beyond the workloads inside it.
    Slice,
    /// A batch job or one step of it.
    Job,
    /// A process (thread group).
    Process,
}

impl Kind {
    /// The word for this kind in JSON and in metric names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Kernel => "kernel",
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Vm => "vm",
            Self::Service => "service",
            Self::Slice => "slice",
            Self::Job => "job",
            Self::Process => "process",
        }
    }
}

/// The identity of a workload: unique on a node for as long as the agent runs.
///
/// The order of ids is the order in which shares are cut (accounting rule 1), so it must not depend on discovery.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadId {
    /// `node`
    Node,
    /// `kernel`
    Kernel,
    /// `<kind>:<text>` for everything that a cgroup or a command line names: pod uid, container id, VM uuid,
    /// cgroup path of a service or slice, `<job>/<step>`.
    Named(Kind, Box<str>),
    /// `process:<pid>@<starttime>`, the start time in clock ticks (1/100 s) since boot, as in `/proc/PID/stat`.
    Process {
        /// The process id as `/proc` shows it.
        pid: u32,
        /// Field 22 of `/proc/PID/stat`.
        start_ticks: u64,
    },
}

impl WorkloadId {
    /// The kind that this identity names.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Node => Kind::Node,
            Self::Kernel => Kind::Kernel,
            Self::Named(kind, _) => *kind,
            Self::Process { .. } => Kind::Process,
        }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Kernel => f.write_str("kernel"),
            Self::Named(kind, text) => write!(f, "{}:{text}", kind.as_str()),
            Self::Process { pid, start_ticks } => write!(f, "process:{pid}@{start_ticks}"),
        }
    }
}

/// An OpenTelemetry attribute: a name from [`crate::semconv`] (or one that begins with a prefix from there), and a value.
pub type Attribute = (Cow<'static, str>, String);

/// What others know of a workload (the API server, a container runtime).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// What people call it; empty: nothing better is known.
    pub name: String,
    /// Attributes, which replace those of the workload itself where the keys are equal.
    pub attributes: Vec<Attribute>,
    /// What it asked for.
    pub resources: Resources,
}

/// What a workload asked for, and what it may use at most, where that is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// In thousandths of a CPU.
    pub cpu_request: Option<u64>,
    /// In thousandths of a CPU.
    pub cpu_limit: Option<u64>,
    /// In bytes.
    pub memory_request: Option<u64>,
    /// In bytes.
    pub memory_limit: Option<u64>,
}

/// What is known of a workload besides its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub id: WorkloadId,
    /// The short name for people: `nginx.service`, the first 12 digits of a container id, a VM's domain.
    pub name: String,
    /// Resource attributes that the path or command line gives. Those of a process that its id and name tell are added by
    /// [`Identity::derived`].
    pub attributes: Vec<Attribute>,
}

impl Identity {
    /// An identity of `kind` with the text behind the colon of its id, a name and no attributes yet.
    #[must_use]
    pub fn new(kind: Kind, text: &str, name: &str) -> Self {
        Self { id: WorkloadId::Named(kind, text.into()), name: name.to_owned(), attributes: Vec::new() }
    }

    /// The attributes of a process that its id and name tell: `process.pid` and `process.executable.name`.
    #[must_use]
    pub fn derived(&self) -> Vec<Attribute> {
        match self.id {
            WorkloadId::Process { pid, .. } => vec![
                (crate::semconv::attr::PROCESS_PID.into(), pid.to_string()),
                (crate::semconv::attr::PROCESS_EXECUTABLE_NAME.into(), self.name.clone()),
            ],
            _ => Vec::new(),
        }
    }

    /// Adds one attribute.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((Cow::Borrowed(key), value.into()));
        self
    }

    /// The same workload as `names` has it.
    #[must_use]
    pub fn under(&self, names: &Names) -> Self {
        let mut same = self.clone();
        if !names.name.is_empty() {
            same.name.clone_from(&names.name);
        }
        for (key, value) in &names.attributes {
            match same.attributes.iter_mut().find(|(known, _)| known == key) {
                Some((_, known)) => known.clone_from(value),
                None => same.attributes.push((key.clone(), value.clone())),
            }
        }
        same
    }
}

/// What a classifier says of one cgroup directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not known to this classifier: ask the next.
    Unknown,
    /// Known to be part of the workload around it (a container's payload directory, a session of a user slice).
    Inside,
    /// Workloads that begin here, outermost first (one path component may name a pod and its container).
    Begins(Vec<Identity>),
}

/// One way to read identity from a cgroup path.
pub struct Classifier {
    /// For logs and documents.
    pub name: &'static str,
    /// `path` is the absolute cgroup path of one directory (`/kubepods/pod…/<id>`); only what its *last* component
    /// begins is asked for; the components before it may be used as evidence.
    pub classify: fn(path: &str) -> Verdict,
}

/// The classifiers, the most specific first. The first verdict other than `Unknown` stands.
pub const CLASSIFIERS: &[Classifier] = &[
    Classifier { name: "kubernetes", classify: kubernetes::classify },
    Classifier { name: "docker", classify: docker::classify },
    Classifier { name: "libvirt", classify: libvirt::classify },
    Classifier { name: "nspawn", classify: nspawn::classify },
    Classifier { name: "slurm", classify: slurm::classify },
    Classifier { name: "systemd", classify: systemd::classify },
];

/// What begins in the cgroup directory at `path`. `inside` is the kind of the workload around it: below a container,
/// VM or job only containers, pods, VMs and job steps begin; units and plain directories in there are its insides.
#[must_use]
pub fn classify(path: &str, inside: Kind) -> Verdict {
    let verdict = CLASSIFIERS
        .iter()
        .map(|classifier| (classifier.classify)(path))
        .find(|verdict| *verdict != Verdict::Unknown)
        .unwrap_or(Verdict::Unknown);
    let open = matches!(inside, Kind::Node | Kind::Slice);
    match verdict {
        Verdict::Begins(found) => {
            let nests = |kind| match kind {
                Kind::Slice => open,
                Kind::Service => open || inside == Kind::Service,
                _ => true,
            };
            if found.iter().all(|identity| nests(identity.id.kind())) {
                Verdict::Begins(found)
            } else {
                Verdict::Inside
            }
        }
        Verdict::Unknown if open => {
            let name = path.rsplit('/').next().unwrap_or(path);
            Verdict::Begins(vec![Identity::new(Kind::Slice, path, name).with(crate::semconv::attr::CGROUP, path)])
        }
        Verdict::Unknown | Verdict::Inside => Verdict::Inside,
    }
}
