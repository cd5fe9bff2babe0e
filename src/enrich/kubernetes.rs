//! Names from Kubernetes: pods, their containers and owners, the node and the cluster, by one watch of this node's pods.
//!
//! A thread of its own lists and watches pods with the field selector `spec.nodeName`, gets the node, and the namespace
//! kube-system, whose uid stands for the cluster. Nothing else is asked, the kubelet never. When the API server is away,
//! refuses (401, 403), is slow or has forgotten where we were (410), what is known stays known, newcomers go on under
//! their uid and container id, and names follow when they can. In a pod the service account is used, whose token is
//! read anew; elsewhere a kubeconfig.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::config::{self, KubernetesMode};
use crate::enrich::{Answer, Enricher};
use crate::semconv::attr;
use crate::workload::{Identity, Kind, Names, WorkloadId};

pub mod index;
pub mod object;
pub mod owner;
mod resources;
mod source;
mod watch;

use index::{Chosen, Index};
use source::Source;

/// What there may be trouble with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Pods,
    Node,
    Cluster,
}

const TOPICS: usize = 3;
/// The label of a node that a cloud's controller sets.
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";

/// Names from Kubernetes.
pub struct Kubernetes {
    shared: Arc<Shared>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// What is known of the machine itself before anybody is asked.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// `host.name`, where it is the machine's own.
    pub name: Option<String>,
    /// `host.id`.
    pub id: Option<String>,
    /// Whether the node's own name and id are better than these: we are in a container that shows its own.
    pub is_veiled: bool,
}

/// What the thread and the enricher share.
#[derive(Debug, Default)]
struct Shared {
    generation: AtomicU64,
    known: Mutex<Known>,
    /// Rings when the first answer is there, good or bad.
    answered: Condvar,
    /// Set when there is a pod on this machine.
    pods_here: AtomicBool,
    pod_here: Notify,
}

#[derive(Debug, Default)]
struct Known {
    index: Index,
    node: Arc<Names>,
    /// The watch is up, so a container that is not known will be, within seconds.
    is_watching: bool,
    has_answered: bool,
    troubles: [Option<Trouble>; TOPICS],
}

/// What is wrong with a topic.
#[derive(Debug, Clone)]
struct Trouble {
    what: Arc<str>,
    /// 401, 403, …; none where nobody answered. The same trouble may be told in other words at each attempt.
    code: Option<u16>,
}

impl Kubernetes {
    /// Starts the thread, if there is a cluster to ask: else why not.
    ///
    /// # Errors
    /// Why nobody is asked.
    pub fn start(settings: &config::Kubernetes, machine: Machine) -> Result<Self, String> {
        if settings.mode == KubernetesMode::Off {
            return Err("off".into());
        }
        let source = Source::find(settings.kubeconfig.as_deref())?;
        let shared = Arc::new(Shared::default());
        shared.known().index = Index::new(Chosen::new(&settings.pod_labels, &settings.pod_annotations));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = watch::Task::new(source, settings.node_name.clone(), machine, Arc::clone(&shared));
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    tokio::select! { () = task.run() => {}, _ = stopped => {} }
                });
                runtime.shutdown_background();
            }
        };
        let thread = std::thread::Builder::new().name("kubernetes".into()).spawn(run);
        thread.map_err(|error| format!("cannot start its thread: {error}"))?;
        Ok(Self { shared, _stop: stop })
    }
}

impl Enricher for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    fn describe(&self, workload: &Identity, around: &Identity) -> Answer {
        let known = self.shared.known();
        match &workload.id {
            WorkloadId::Node => Answer::Known(Arc::clone(&known.node)),
            WorkloadId::Named(Kind::Pod, uid) => {
                self.shared.see_pod();
                known.index.pod(uid).map_or(Answer::Unknown, |pod| Answer::Known(pod.names))
            }
            WorkloadId::Named(Kind::Container, id) => match (known.index.container(id), &around.id) {
                (Some(names), _) => Answer::Known(names),
                (None, WorkloadId::Named(Kind::Pod, uid)) => known.unnamed(uid),
                (None, _) => Answer::Unknown,
            },
            _ => Answer::Unknown,
        }
    }

    fn troubles(&self, say: &mut dyn FnMut(usize, Arc<str>)) {
        for (topic, trouble) in self.shared.known().troubles.iter().enumerate() {
            if let Some(trouble) = trouble {
                say(topic, Arc::clone(&trouble.what));
            }
        }
    }

    /// Until the API server has answered, or refused to.
    fn wait(&self, patience: Duration) -> bool {
        let known = self.shared.known();
        let waiting = |known: &mut Known| !known.has_answered;
        let waited = self.shared.answered.wait_timeout_while(known, patience, waiting);
        waited.is_ok_and(|(known, _)| known.has_answered)
    }
}

impl Known {
    /// A container of the pod `uid` that no status names: just created, or the pod's sandbox.
    fn unnamed(&self, uid: &str) -> Answer {
        let pod = self.index.pod(uid);
        // A pod that is not known may be new; but where no pod is known we look at another node, and none will come.
        let may_come = pod.as_ref().map_or_else(|| self.index.has_pods(), |pod| !pod.gone);
        let comes = self.is_watching && may_come;
        match pod.map(|pod| pod.inside) {
            inside if comes => Answer::Soon(inside),
            Some(inside) => Answer::Known(inside),
            None => Answer::Unknown,
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known; `change` says whether answers did.
    fn update(&self, change: impl FnOnce(&mut Known) -> bool) {
        if change(&mut self.known()) {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn see_pod(&self) {
        if !self.pods_here.swap(true, Ordering::AcqRel) {
            self.pod_here.notify_one();
        }
    }

    /// Says what is wrong with a topic, or that nothing is. The same trouble keeps its first words.
    fn tell(&self, topic: Topic, trouble: Option<Trouble>) {
        let mut known = self.known();
        if let Some(told) = known.troubles.get_mut(topic as usize) {
            let code = |trouble: &Option<Trouble>| trouble.as_ref().map(|trouble| trouble.code);
            if code(told) != code(&trouble) {
                *told = trouble;
            }
        }
    }

    /// The first answer is there, good or bad.
    fn answer(&self) {
        self.known().has_answered = true;
        self.answered.notify_all();
    }
}

/// The attributes of the node.
fn node_names(name: &str, node: Option<&object::Node>, cluster: Option<&str>, machine: &Machine) -> Names {
    let mut attributes = vec![(attr::K8S_NODE_NAME.into(), name.to_owned())];
    let mut add = |key: &'static str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            attributes.push((key.into(), value.to_owned()));
        }
    };
    add(attr::K8S_NODE_UID, node.and_then(|node| node.metadata.uid.as_deref()));
    add(attr::K8S_CLUSTER_UID, cluster);
    add(attr::HOST_TYPE, node.and_then(|node| node.metadata.labels.as_ref()?.get(INSTANCE_TYPE)).map(String::as_str));
    if let Some(node) = node.filter(|_| machine.is_veiled) {
        let addresses = node.status.addresses.as_deref().unwrap_or_default();
        let host = addresses.iter().find(|address| address.kind == "Hostname");
        add(attr::HOST_NAME, host.map(|address| address.address.as_str()));
        add(attr::HOST_ID, Some(&node.status.node_info.machine_id));
    }
    Names { attributes, ..Names::default() }
}

#[cfg(test)]
mod tests;
