//! The pods of this node, by uid and by the ids of their containers, as the names that their workloads get.
//!
//! Only names are kept, so the size follows the number of pods and not that of their objects. Names of a container are
//! those of its pod and its own. A static pod has two uids: the kubelet's own, which is in the cgroup path (the hash of
//! its manifest), and that of its mirror in the API server, which others know; the mirror's annotation joins them. A pod
//! that is deleted may still run and is booked for a while after, so the newest of them are kept.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::object::{Container, ContainerStatus, Pod};
use super::{owner, resources};
use crate::enrich::image;
use crate::semconv::attr;
use crate::workload::{Attribute, Names};

/// Deleted pods that are kept.
const GONE_MAX: usize = 512;
/// Containers that are kept per pod, beside those that its status names: those before a restart.
const CONTAINERS_MAX: usize = 64;
/// The longest value of a label or annotation, in bytes.
const VALUE_MAX: usize = 1024;
/// On a mirror pod: the uid that the kubelet gave to the static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What of a pod becomes attributes.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    labels: Vec<(String, Cow<'static, str>)>,
    annotations: Vec<(String, Cow<'static, str>)>,
}

impl Chosen {
    /// These labels and annotations.
    #[must_use]
    pub fn new(labels: &[String], annotations: &[String]) -> Self {
        let named = |keys: &[String], prefix| {
            keys.iter().map(|name| (name.clone(), format!("{prefix}.{name}").into())).collect()
        };
        Self { labels: named(labels, attr::K8S_POD_LABEL), annotations: named(annotations, attr::K8S_POD_ANNOTATION) }
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    chosen: Chosen,
    pods: HashMap<String, Entry>,
    /// The kubelet's uid of a static pod → that of its mirror.
    mirrors: HashMap<String, String>,
    containers: HashMap<String, Arc<Names>>,
    gone: VecDeque<String>,
    /// Pods seen since a list began.
    listed: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct Entry {
    names: Arc<Names>,
    /// The same without what people call the pod, for containers that nobody names.
    inside: Arc<Names>,
    containers: Vec<String>,
    mirrors: Option<String>,
    gone: bool,
}

/// What is known of a pod's workload.
#[derive(Debug, Clone)]
pub struct Found {
    /// The pod's.
    pub names: Arc<Names>,
    /// For anything in it.
    pub inside: Arc<Names>,
    /// Whether it was deleted: nothing more will come.
    pub gone: bool,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new(chosen: Chosen) -> Self {
        Self { chosen, ..Self::default() }
    }

    /// A pod that is there; whether names changed.
    pub fn apply(&mut self, pod: &Pod) -> bool {
        let Some(uid) = pod.metadata.uid.clone() else { return false };
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        let attributes = self.attributes(pod, &uid);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default());
        let mut containers = Vec::new();
        for (container, (runtime, id), image) in containers_of(pod) {
            let mut attributes = attributes.clone();
            let mut add = |key: &'static str, value: &str| attributes.push((key.into(), value.to_owned()));
            add(attr::K8S_CONTAINER_NAME, container);
            if !runtime.is_empty() {
                add(attr::CONTAINER_RUNTIME_NAME, runtime);
            }
            if let Some(image) = image {
                image::describe(image, &mut add);
            }
            containers
                .push((id.to_owned(), Names { name: format!("{name}/{container}"), attributes, ..Names::default() }));
        }
        let mirrors = pod.metadata.annotations.as_ref().and_then(|all| all.get(MIRROR)).cloned();
        let names = Names { name, attributes, resources: resources::of(&pod.spec) };
        let changed = self.enter(&uid, names, mirrors);
        self.enter_containers(&uid, containers) || changed
    }

    fn attributes(&self, pod: &Pod, uid: &str) -> Vec<Attribute> {
        let meta = &pod.metadata;
        let mut attributes: Vec<Attribute> = Vec::new();
        let mut add = |key: Cow<'static, str>, value: &str| attributes.push((key, value.to_owned()));
        let (name, namespace) = (meta.name.as_deref(), meta.namespace.as_deref());
        add(attr::K8S_NAMESPACE_NAME.into(), namespace.unwrap_or_default());
        add(attr::K8S_POD_NAME.into(), name.unwrap_or_default());
        add(attr::K8S_POD_UID.into(), uid);
        let chosen =
            [(&self.chosen.labels, meta.labels.as_ref()), (&self.chosen.annotations, meta.annotations.as_ref())];
        for (keys, values) in chosen {
            let Some(values) = values else { continue };
            for (name, attribute) in keys {
                values.get(name).into_iter().for_each(|value| add(attribute.clone(), cut(value)));
            }
        }
        attributes.extend(owner::attributes(meta));
        attributes
    }

    fn enter(&mut self, uid: &str, names: Names, mirrors: Option<String>) -> bool {
        if let Some(hash) = &mirrors {
            self.mirrors.insert(hash.clone(), uid.to_owned());
        }
        if self.pods.get(uid).is_some_and(|known| *known.names == names && !known.gone) {
            return false;
        }
        self.gone.retain(|gone| gone != uid);
        let inside = Arc::new(Names { attributes: names.attributes.clone(), ..Names::default() });
        let containers = self.pods.remove(uid).map_or_else(Vec::new, |known| known.containers);
        let entry = Entry { names: Arc::new(names), inside, containers, mirrors, gone: false };
        self.pods.insert(uid.to_owned(), entry);
        true
    }

    fn enter_containers(&mut self, uid: &str, containers: Vec<(String, Names)>) -> bool {
        let Some(entry) = self.pods.get_mut(uid) else { return false };
        let mut changed = false;
        let current: Vec<String> = containers.iter().map(|(id, _)| id.clone()).collect();
        for (id, names) in containers {
            if self.containers.get(&id).is_some_and(|known| **known == names) {
                continue;
            }
            changed = true;
            if !entry.containers.contains(&id) {
                entry.containers.push(id.clone());
            }
            self.containers.insert(id, Arc::new(names));
        }
        while entry.containers.len() > CONTAINERS_MAX {
            let Some(oldest) = entry.containers.iter().position(|id| !current.contains(id)) else { break };
            self.containers.remove(&entry.containers.remove(oldest));
        }
        changed
    }

    /// A pod that was deleted: its names stay for a while.
    pub fn delete(&mut self, uid: &str) -> bool {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| !entry.gone) else { return false };
        entry.gone = true;
        self.gone.push_back(uid.to_owned());
        while self.gone.len() > GONE_MAX {
            self.gone.pop_front().into_iter().for_each(|oldest| self.forget(&oldest));
        }
        true
    }

    fn forget(&mut self, uid: &str) {
        let Some(entry) = self.pods.remove(uid) else { return };
        for id in &entry.containers {
            self.containers.remove(id);
        }
        // A static pod whose manifest comes back has the same hash, and a new mirror.
        if let Some(hash) = entry.mirrors.filter(|hash| self.mirrors.get(hash).is_some_and(|mirror| mirror == uid)) {
            self.mirrors.remove(&hash);
        }
    }

    /// A list of all pods begins.
    pub fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// The list is complete: those that are not in it were deleted while nobody looked.
    pub fn finish(&mut self) -> bool {
        let Some(listed) = self.listed.take() else { return false };
        let missing = self.pods.iter().filter(|(uid, entry)| !entry.gone && !listed.contains(*uid));
        let missing: Vec<String> = missing.map(|(uid, _)| uid.clone()).collect();
        for uid in &missing {
            self.delete(uid);
        }
        !missing.is_empty()
    }

    /// The pod with this uid, the kubelet's or the API server's.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<Found> {
        let entry = self.pods.get(uid).or_else(|| self.pods.get(self.mirrors.get(uid)?))?;
        let (names, inside) = (Arc::clone(&entry.names), Arc::clone(&entry.inside));
        Some(Found { names, inside, gone: entry.gone })
    }

    /// The container with this id.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<Arc<Names>> {
        self.containers.get(id).cloned()
    }

    /// Whether any pod is there.
    #[must_use]
    pub fn has_pods(&self) -> bool {
        self.pods.len() > self.gone.len()
    }

    /// How many pods are known, and how many of them were deleted.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.pods.len(), self.gone.len())
    }
}

/// What was asked for, and what became of it.
type Group<'a> = (&'a Option<Vec<Container>>, &'a Option<Vec<ContainerStatus>>);

/// The containers that were ever created, those before a restart too: name, runtime and id, image.
fn containers_of(pod: &Pod) -> impl Iterator<Item = (&str, (&str, &str), Option<&str>)> {
    let (spec, status) = (&pod.spec, &pod.status);
    let groups: [Group<'_>; 3] = [
        (&spec.init_containers, &status.init_container_statuses),
        (&spec.containers, &status.container_statuses),
        (&spec.ephemeral_containers, &status.ephemeral_container_statuses),
    ];
    groups.into_iter().flat_map(|(containers, statuses)| {
        let containers = containers.as_deref().unwrap_or_default();
        statuses.as_deref().unwrap_or_default().iter().flat_map(move |status| {
            let image = containers.iter().find(|container| container.name == status.name);
            let image = image.and_then(|container| container.image.as_deref()).filter(|image| !image.is_empty());
            let ended = [&status.last_state, &status.state].map(|state| {
                let terminated = state.as_ref().and_then(|state| state.terminated.as_ref());
                terminated.and_then(|terminated| terminated.container_id.as_deref())
            });
            let [before, ended] = ended;
            let ids = [before, ended, status.container_id.as_deref()].into_iter().flatten();
            let parts = ids.map(|id| id.split_once("://").unwrap_or(("", id))).filter(|(_, id)| !id.is_empty());
            parts.map(move |parts| (status.name.as_str(), parts, image))
        })
    })
}

/// At most [`VALUE_MAX`] bytes of a text.
fn cut(text: &str) -> &str {
    let end = (0..=VALUE_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
