//! The task that asks the API server: one list and watch of this node's pods, and two small questions besides.
//!
//! A watch ends every few minutes, and the next goes on where it was. Every failure ends in a new connection after a pause
//! (0.5 to 20 s, doubled and spread), with credentials read anew and a new list; a watch that ends within seconds is one.
//! A single failure after good times is not worth a word. What the two small questions did not answer is asked again
//! once a minute.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::client::AuthError;
use kube::{Api, Client, ResourceExt as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::object::{List, Node, Pod};
use super::source::{Source, chain, shorten};
use super::{Machine, Shared, Topic, Trouble, node_names};

/// Pauses between attempts.
const PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(20)];
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a watch is asked for. It is quiet for as long as nothing happens; one that outlives this is dead.
const WATCH: Duration = Duration::from_secs(290);
/// Time for the answer to a small question; pods are not listened to meanwhile.
const SHORT: Duration = Duration::from_secs(5);
/// A watch that has stood for so long is well. One that may not be watched, or that somebody on the way cuts, ends before.
const CALM: Duration = Duration::from_secs(3);
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
            let failure = self.follow().await;
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

    /// One connection, until it fails.
    async fn follow(&mut self) -> Failure {
        match self.connect().await {
            Ok((client, at)) => {
                let failure = self.listen(&client).await;
                Failure { what: format!("{at}: {}", failure.what), ..failure }
            }
            Err(failure) => failure,
        }
    }

    async fn connect(&self) -> Result<(Client, String), Failure> {
        let config = self.source.read().await.map_err(Failure::new)?;
        let at = config.cluster_url.to_string();
        let at = at.trim_end_matches('/').to_owned();
        // It may run the command of a kubeconfig and wait for it.
        let command = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
        let of = command.map_or_else(|| at.clone(), |command| format!("the kubeconfig's command {command}"));
        let client = timeout(ANSWER, tokio::task::spawn_blocking(move || Client::try_from(config))).await;
        match client {
            Ok(Ok(Ok(client))) => Ok((client, at)),
            Ok(Ok(Err(error))) => {
                let failure = failure(&error);
                Err(Failure { what: format!("{of}: {}", failure.what), ..failure })
            }
            Ok(Err(error)) => Err(Failure::new(error.to_string())),
            Err(_) => Err(Failure::new(format!("{of}: no credentials within {} s", ANSWER.as_secs()))),
        }
    }

    /// Lists and watches for as long as that goes well.
    async fn listen(&mut self, client: &Client) -> Failure {
        let name = match self.find_node(client).await {
            Ok(name) => name,
            Err(failure) => return failure,
        };
        let pods: Api<Pod> = Api::all(client.clone());
        let selector = format!("spec.nodeName={name}");
        let mut version = match self.list(&pods, &selector).await {
            Ok(version) => version,
            Err(failure) => {
                if matches!(failure.code, Some(401 | 403)) {
                    // Pods are refused, the rest may not be.
                    self.ask(client, &name).await;
                }
                return failure;
            }
        };
        let mut asked = self.ask(client, &name).await;
        self.shared.answer();
        loop {
            if let Err(failure) = self.watch(client, &pods, [&name, &selector], &mut version, &mut asked).await {
                return failure;
            }
        }
    }

    /// All pods, and the version of the list.
    async fn list(&self, pods: &Api<Pod>, selector: &str) -> Result<String, Failure> {
        // Of any age: what it lacks, the watch brings.
        let list = within(ANSWER, pods.list(&ListParams::default().fields(selector).match_any())).await?;
        self.shared.update(|known| {
            known.index.begin();
            for pod in &list.items {
                known.index.apply(pod);
            }
            known.index.finish();
            known.is_watching = true;
            true
        });
        Ok(list.metadata.resource_version.unwrap_or_default())
    }

    /// One watch, until the API server ends it.
    async fn watch(
        &mut self,
        client: &Client,
        pods: &Api<Pod>,
        [name, selector]: [&str; 2],
        version: &mut String,
        asked: &mut Instant,
    ) -> Result<(), Failure> {
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default().fields(selector).timeout(seconds);
        let mut events = pin!(within(ANSWER, pods.watch(&params, version)).await?);
        let began = Instant::now();
        loop {
            let calm = (self.failures > 0).then_some(began + CALM);
            tokio::select! {
                event = timeout(WATCH + ANSWER, events.try_next()) => match event {
                    Ok(Ok(Some(event))) => self.take(&event, version)?,
                    Ok(Ok(None)) => break,
                    // One object that is not as it should be costs its own names only.
                    Ok(Err(kube::Error::SerdeError(_))) => {}
                    Ok(Err(error)) => return Err(failure(&error)),
                    Err(_) => return Err(Failure::new("the watch has been silent for too long".into())),
                },
                () = sleep_until(calm.unwrap_or(began)), if calm.is_some() => {
                    self.failures = 0;
                    self.shared.tell(Topic::Pods, None);
                }
                () = sleep_until(*asked + AGAIN), if self.node.is_none() || self.cluster.is_none() => {
                    *asked = self.ask(client, name).await;
                }
            }
        }
        let stood = began.elapsed();
        if stood < CALM {
            return Err(Failure::new(format!("a watch of pods is ended after {} ms", stood.as_millis())));
        }
        Ok(())
    }

    /// Takes in an event, and up to which version pods are known with it.
    fn take(&self, event: &WatchEvent<Pod>, version: &mut String) -> Result<(), Failure> {
        let pod = match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                self.shared.update(|known| known.index.apply(pod));
                pod
            }
            WatchEvent::Deleted(pod) => {
                self.shared.update(|known| {
                    let changed = known.index.apply(pod);
                    known.index.delete(&pod.uid().unwrap_or_default()) || changed
                });
                pod
            }
            WatchEvent::Bookmark(mark) => {
                version.clone_from(&mark.metadata.resource_version);
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(Failure { what: spell(status), code: Some(status.code) }),
        };
        if let Some(newer) = pod.resource_version() {
            *version = newer;
        }
        Ok(())
    }

    /// The name of this node: as configured, else that of the node with this machine's name, or its machine id.
    async fn find_node(&mut self, client: &Client) -> Result<String, Failure> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let advice = "set K8S_NODE_NAME or kubernetes.node_name";
        let host = self.machine.name.clone().filter(|_| !self.machine.is_veiled).unwrap_or_default().to_lowercase();
        if !host.is_empty() && get::<Node>(client, &path_of(&host)).await.is_ok() {
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
            let node = get::<Node>(client, &path_of(name)).await.map_err(|failure| match failure.code {
                Some(404) => Failure {
                    what: format!("the cluster has no node {name:?}, so no pod can be named; set K8S_NODE_NAME"),
                    ..failure
                },
                _ => failure,
            });
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

/// Where a node is asked for.
fn path_of(node: &str) -> String {
    const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    format!("/api/v1/nodes/{}", utf8_percent_encode(node, UNSAFE))
}

/// One object.
async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Failure> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| Failure::new(error.to_string()))?;
    within(SHORT, client.request(request)).await
}

/// An answer in time.
async fn within<T>(time: Duration, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(time, answer).await {
        Ok(answer) => answer.map_err(|error| failure(&error)),
        Err(_) => Err(Failure::new(format!("no answer within {} s", time.as_secs()))),
    }
}

/// What the API server said, or why it said nothing. What a command of a kubeconfig wrote may be a secret.
fn failure(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => Failure { what: spell(status), code: Some(status.code) },
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => Failure::new(format!("it ended with {}", out.status)),
        kube::Error::Auth(AuthError::AuthExecParse(_)) => Failure::new("what it wrote is no ExecCredential".into()),
        kube::Error::Auth(AuthError::AuthExecStart(error)) => Failure::new(format!("it cannot be started: {error}")),
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

/// The pause after so many failures in a row: between half and all of it, so that nodes do not come together.
fn pause(failures: u32) -> Duration {
    let [shortest, longest] = PAUSE;
    let whole = shortest.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest);
    let random = RandomState::new().build_hasher().finish();
    let part = u32::try_from(random % 512).unwrap_or(0);
    whole / 2 + whole / 2 * part / 511
}
