//! The task that asks the API server: one list and watch of this node's pods, and two small questions besides.
//!
//! Every failure ends in a new connection after a pause (0.5 to 20 s, doubled and spread), with credentials read anew and
//! a new list, which shows at once that names are back. A single failure after good times is not worth a word; a refusal
//! is. What the two small questions did not answer is asked again once a minute.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource as _};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::object::{List, Node, Pod};
use super::source::{Source, chain, shorten};
use super::{Machine, Shared, Topic, Trouble, node_names};

/// Pauses between attempts.
const PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(20)];
/// Time for an answer. A watch is quiet for as long as nothing happens; [`watcher`] itself ends one that is dead.
const ANSWER: Duration = Duration::from_secs(20);
/// Time for the answer to a small question; pods are not listened to meanwhile.
const SHORT: Duration = Duration::from_secs(5);
/// A watch that has stood for so long is well: one that may be listed and not watched ends at once.
const CALM: Duration = Duration::from_secs(2);
/// Time between two attempts at what is only nice to know.
const AGAIN: Duration = Duration::from_secs(60);
/// The namespace whose uid is the cluster's.
const KUBE_SYSTEM: &str = "/api/v1/namespaces/kube-system";

/// The task.
pub(super) struct Task {
    source: Source,
    node_name: Option<String>,
    machine: Machine,
    shared: Arc<Shared>,
    node: Option<Node>,
    cluster: Option<String>,
    /// In a row, since it last went well.
    failures: u32,
}

/// Why there is no answer.
struct Failure {
    what: String,
    /// What the API server answered instead.
    code: Option<u16>,
}

impl Failure {
    fn new(what: String) -> Self {
        Self { what, code: None }
    }

    fn trouble(&self, advice: &str) -> Trouble {
        Trouble { what: format!("{}; {advice}", self.what).into(), code: self.code }
    }
}

impl Task {
    pub(super) fn new(source: Source, node_name: Option<String>, machine: Machine, shared: Arc<Shared>) -> Self {
        Self { source, node_name, machine, shared, node: None, cluster: None, failures: 0 }
    }

    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        if matches!(self.source, Source::Home(_)) {
            self.shared.answer();
            while !self.shared.pods_here.load(Ordering::Acquire) {
                self.shared.pod_here.notified().await;
            }
        }
        loop {
            let failure = match self.follow().await {
                Ok(()) => Failure::new("the watch ended".into()),
                Err(failure) => failure,
            };
            self.shared.update(|known| std::mem::take(&mut known.is_watching));
            self.failures += 1;
            // One failure is not worth a word: a connection ends, an API server starts and knows no rights yet.
            if self.failures > 1 {
                let advice = "pods keep their uid, containers their id, until names can be had";
                self.shared.tell(Topic::Pods, Some(failure.trouble(advice)));
                self.shared.answer();
            }
            sleep(pause(self.failures)).await;
        }
    }

    /// One connection.
    async fn follow(&mut self) -> Result<(), Failure> {
        let config = self.source.read().await.map_err(Failure::new)?;
        let at = config.cluster_url.to_string();
        let at = at.trim_end_matches('/');
        let client = Client::try_from(config).map_err(|error| Failure::new(format!("{at}: {}", chain(&error))))?;
        let name = self.find_node(&client).await?;
        // When the list was complete, and when the extras were asked for.
        let (mut listed, mut asked) = (None, Instant::now());
        let pods: Api<Pod> = Api::all(client.clone());
        let selected = watcher::Config::default().fields(&format!("spec.nodeName={name}")).any_semantic();
        let mut events = pin!(watcher::watcher(pods, selected));
        loop {
            let next = async {
                if listed.is_some() { Ok(events.try_next().await) } else { timeout(ANSWER, events.try_next()).await }
            };
            let calm = listed.map(|at| at + CALM).filter(|_| self.failures > 0);
            tokio::select! {
                event = next => match event {
                    Ok(Ok(Some(event))) => {
                        if self.take(event) {
                            asked = self.ask(&client, &name).await;
                            listed = Some(asked);
                            self.shared.answer();
                        }
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) => {
                        let failure = of_watch(at, &error);
                        if matches!(failure.code, Some(401 | 403)) {
                            // Pods are, the rest may not be.
                            self.ask(&client, &name).await;
                        }
                        return Err(failure);
                    }
                    Err(_) => return Err(Failure::new(format!("{at}: no answer within {} s", ANSWER.as_secs()))),
                },
                () = sleep_until(calm.unwrap_or(asked)), if calm.is_some() => {
                    self.failures = 0;
                    self.shared.tell(Topic::Pods, None);
                }
                () = sleep_until(asked + AGAIN), if self.node.is_none() || self.cluster.is_none() => {
                    asked = self.ask(&client, &name).await;
                }
            }
        }
    }

    /// Takes in an event; whether a list is complete with it.
    fn take(&mut self, event: Event<Pod>) -> bool {
        let uid = |pod: &Pod| pod.meta().uid.clone().unwrap_or_default();
        let is_complete = matches!(event, Event::InitDone);
        match event {
            Event::Init => self.shared.update(|known| {
                known.index.begin();
                false
            }),
            Event::InitApply(pod) | Event::Apply(pod) => self.shared.update(|known| known.index.apply(&pod)),
            Event::Delete(pod) => self.shared.update(|known| {
                let changed = known.index.apply(&pod);
                known.index.delete(&uid(&pod)) || changed
            }),
            Event::InitDone => self.shared.update(|known| {
                known.index.finish();
                known.is_watching = true;
                true
            }),
        }
        is_complete
    }

    /// The name of this node: as configured, else that of the node with this machine's name, or its machine id.
    async fn find_node(&mut self, client: &Client) -> Result<String, Failure> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let advice = "set K8S_NODE_NAME or kubernetes.node_name";
        let host = self.machine.name.clone().filter(|_| !self.machine.is_veiled).unwrap_or_default().to_lowercase();
        if !host.is_empty() && get::<Node>(client, &format!("/api/v1/nodes/{host}")).await.is_ok() {
            return Ok(self.node_name.insert(host).clone());
        }
        let nodes: List<Node> = get(client, "/api/v1/nodes?limit=500").await.map_err(|failure| Failure {
            what: format!("which node this is cannot be told: {}; {advice}", failure.what),
            ..failure
        })?;
        let found = nodes.items.iter().find(|node| {
            let id = &node.status.node_info.machine_id;
            !id.is_empty() && Some(id) == self.machine.id.as_ref()
        });
        match found.and_then(|node| node.metadata.name.clone()) {
            Some(name) => Ok(self.node_name.insert(name).clone()),
            None => Err(Failure { what: format!("no node of the cluster is this machine; {advice}"), code: Some(404) }),
        }
    }

    /// Asks for the node and the cluster, as far as they are not known.
    async fn ask(&mut self, client: &Client, name: &str) -> Instant {
        if self.node.is_none() {
            let node = get::<Node>(client, &format!("/api/v1/nodes/{name}")).await;
            self.node = self.answered(Topic::Node, node, "without k8s.node.uid");
        }
        if self.cluster.is_none() {
            let cluster = get::<Node>(client, KUBE_SYSTEM).await;
            self.cluster =
                self.answered(Topic::Cluster, cluster, "without k8s.cluster.uid").and_then(|found| found.metadata.uid);
        }
        let names = Arc::new(node_names(name, self.node.as_ref(), self.cluster.as_deref(), &self.machine));
        self.shared.update(|known| {
            let changed = known.node != names;
            known.node = names;
            changed
        });
        Instant::now()
    }

    fn answered<T>(&self, topic: Topic, answer: Result<T, Failure>, without: &str) -> Option<T> {
        let advice = format!("going on {without}");
        self.shared.tell(topic, answer.as_ref().err().map(|failure| failure.trouble(&advice)));
        answer.ok()
    }
}

/// One object.
async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Failure> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| Failure::new(error.to_string()))?;
    match timeout(SHORT, client.request(request)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(Failure::new(format!("{path}: no answer within {} s", SHORT.as_secs()))),
    }
}

/// What the API server said, or why it said nothing.
fn failure(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => Failure { what: spell(status), code: Some(status.code) },
        kube::Error::Service(error) => Failure::new(chain(&**error)),
        other => Failure::new(chain(other)),
    }
}

fn spell(status: &kube::core::Status) -> String {
    let advice = match status.code {
        401 => " (the token is not accepted: expired, or of another cluster)",
        403 => " (grant what charts/wattribute grants: list and watch pods, get nodes, get the namespace kube-system)",
        _ => "",
    };
    let text = if status.message.is_empty() { &status.reason } else { &status.message };
    format!("{} {}{advice}", status.code, shorten(text))
}

fn of_watch(at: &str, error: &watcher::Error) -> Failure {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    let failure = match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => failure(error),
        WatchError(status) => Failure { what: spell(status), code: Some(status.code) },
        NoResourceVersion => Failure::new(error.to_string()),
    };
    Failure { what: format!("{at}: {}", failure.what), ..failure }
}

/// The pause after so many failures in a row: between half and all of it, so that nodes do not come together.
fn pause(failures: u32) -> Duration {
    let [shortest, longest] = PAUSE;
    let whole = shortest.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest);
    let random = RandomState::new().build_hasher().finish();
    let part = u32::try_from(random % 512).unwrap_or(0);
    whole / 2 + whole / 2 * part / 511
}
