//! Who a series belongs to: the attributes of its OTLP Resource, and the copies on its points.
//!
//! A resource has the keys that kubelet, host and application receivers use, so that users can join: the workload's
//! own, then those of what contains it, then those that name the host. No `service.*` on a workload: it would
//! overwrite what the application says of itself. The copies exist because the Collector's Prometheus exporter tells
//! series apart by *point* attributes only: without them two pods would become one sample.

use std::sync::Arc;
use std::time::Duration;

use super::encode::Writer;
use crate::config;
use crate::export::Snapshot;
use crate::semconv::attr;
use crate::workload::{Attribute, Identity, Kind, WorkloadId};

/// What is known of the node: given by whoever looked it up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeResource {
    /// `host.id`, `host.name`, `host.arch`, `k8s.node.name`, `k8s.node.uid`, `k8s.cluster.uid`, `k8s.cluster.name`.
    pub attributes: Vec<Attribute>,
}

impl NodeResource {
    fn get(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// The same with what became known later, which replaces what was.
    #[must_use]
    pub fn with(&self, known: &[Attribute]) -> Self {
        let kept = self.attributes.iter().filter(|(key, _)| !pairs_has(known, key));
        Self { attributes: kept.chain(known).cloned().collect() }
    }

    /// What people call the node.
    fn name(&self) -> Option<&str> {
        self.get(attr::K8S_NODE_NAME).or_else(|| self.get(attr::HOST_NAME)).or_else(|| self.get(attr::HOST_ID))
    }

    /// The attributes of the node's own Resource. What a user says wins over what was found.
    #[must_use]
    pub fn own(&self, settings: &config::Otlp) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = vec![(attr::SERVICE_NAME.into(), settings.service_name.clone())];
        let mut add = |key: &str, value: &str| {
            if !all.iter().any(|(known, _)| known == key) {
                all.push((key.to_owned(), value.to_owned()));
            }
        };
        settings.resource.iter().for_each(|(key, value)| add(key, value));
        self.attributes.iter().for_each(|(key, value)| add(key, value));
        add(attr::SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
        if let Some(name) = self.name() {
            add(attr::SERVICE_INSTANCE_ID, name);
        }
        all
    }
}

/// What tells the host of a workload.
const HOST: &[&str] =
    &[attr::HOST_ID, attr::HOST_NAME, attr::K8S_NODE_NAME, attr::K8S_CLUSTER_UID, attr::K8S_CLUSTER_NAME];

/// Keys copied to the points of a workload of `kind`; the last is the one without which it could not be told apart.
const fn copied(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Node => &[],
        Kind::Kernel => &[attr::WORKLOAD_ID],
        Kind::Pod => &[attr::K8S_NAMESPACE_NAME, attr::K8S_POD_NAME, attr::K8S_POD_UID],
        Kind::Container => {
            const NAMES: &[&str] = &[
                attr::K8S_NAMESPACE_NAME,
                attr::K8S_POD_NAME,
                attr::K8S_CONTAINER_NAME,
                attr::CONTAINER_NAME,
                attr::CONTAINER_ID,
            ];
            NAMES
        }
        Kind::Vm => &[attr::HOST_NAME, attr::HOST_ID],
        Kind::Service | Kind::Slice => &[attr::SYSTEMD_UNIT, attr::CGROUP],
        Kind::Job => &[attr::JOB_STEP, attr::JOB_ID],
        Kind::Process => &[
            attr::K8S_NAMESPACE_NAME,
            attr::K8S_POD_NAME,
            attr::K8S_CONTAINER_NAME,
            attr::PROCESS_EXECUTABLE_NAME,
            attr::PROCESS_PID,
        ],
    }
}

/// A workload with what contains it, innermost first, the node left out.
pub type Chain = Vec<Arc<Identity>>;

/// The row that contains `row`: for a process the nearest row that is none.
#[must_use]
pub fn parent_of(snapshot: &Snapshot, row: usize) -> usize {
    let workload = |row: usize| snapshot.workloads.get(row).and_then(Option::as_ref);
    let mut parent = workload(row).map_or(0, |found| found.parent);
    for _ in 0..64 {
        match workload(parent) {
            Some(found) if found.identity.id.kind() == Kind::Process => parent = found.parent,
            Some(_) => return parent,
            None => return 0,
        }
    }
    0
}

/// Fills `chain` for `row`, and returns the kind of the workload whose total contains this one: slices are passed
/// through, because a slice's own total leaves out the workloads in it (but not its processes).
pub fn chain_of(snapshot: &Snapshot, row: usize, chain: &mut Chain) -> Kind {
    chain.clear();
    let mut inside = None;
    let mut at = row;
    while at != 0 && chain.len() < 64 {
        let Some(workload) = snapshot.workloads.get(at).and_then(Option::as_ref) else { break };
        let kind = workload.identity.id.kind();
        let contains = kind != Kind::Slice || chain.first().is_some_and(|inner| inner.id.kind() == Kind::Process);
        if at != row && contains {
            inside = inside.or(Some(kind));
        }
        chain.push(Arc::clone(&workload.identity));
        at = parent_of(snapshot, at);
    }
    inside.unwrap_or(Kind::Node)
}

/// Resource and point attributes of one workload, encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// `ResourceMetrics.resource`.
    pub resource: Vec<u8>,
    /// `NumberDataPoint.attributes` that name the workload.
    pub names: Vec<u8>,
}

/// Encodes the node's own Resource.
#[must_use]
pub fn render_node(attributes: &[(String, String)]) -> Rendered {
    let mut writer = Writer::default();
    writer.message(1, |resource| attributes.iter().for_each(|(key, value)| resource.attribute(1, key, value)));
    Rendered { resource: writer.bytes().to_vec(), names: Vec::new() }
}

/// Encodes the attributes of the workload at the head of `chain`. `booted`: when the machine was, since 1970.
#[must_use]
pub fn render(node: &NodeResource, booted: Duration, chain: &[Arc<Identity>], point_names: bool) -> Rendered {
    let Some(own) = chain.first() else { return Rendered::default() };
    let kind = own.id.kind();
    let id = own.id.to_string();
    let (pid, created) = match own.id {
        WorkloadId::Process { pid, start_ticks } => (pid.to_string(), created(booted, start_ticks)),
        _ => (String::new(), String::new()),
    };
    let pairs = pairs(node, chain, [&id, &pid, &created]);
    let mut writer = Writer::default();
    writer.message(1, |resource| pairs.iter().for_each(|(key, value)| put(resource, 1, key, value)));
    let resource = writer.bytes().to_vec();
    writer.clear();
    if point_names {
        for (key, value) in &pairs {
            if copied(kind).contains(key) || *key == attr::WORKLOAD_ID {
                put(&mut writer, 7, key, value);
            }
        }
    }
    Rendered { resource, names: writer.bytes().to_vec() }
}

/// When a process was created, in ISO 8601, to the 10 ms that `/proc/PID/stat` knows.
fn created(booted: Duration, start_ticks: u64) -> String {
    let since = booted.saturating_add(Duration::from_millis(start_ticks.saturating_mul(10)));
    let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis / 10 * 10).map_or_else(|_| String::new(), |time| format!("{time:.2}"))
}

fn pairs<'a>(
    node: &'a NodeResource,
    chain: &'a [Arc<Identity>],
    [id, pid, created]: [&'a str; 3],
) -> Vec<(&'a str, &'a str)> {
    let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(24);
    let mut add = |key: &'a str, value: &'a str| {
        if !pairs.iter().any(|(known, _)| *known == key) {
            pairs.push((key, value));
            // The attribute that it became in the conventions, beside the one that the Collector still writes.
            if key == attr::CONTAINER_IMAGE_TAG {
                pairs.push((attr::CONTAINER_IMAGE_TAGS, value));
            }
        }
    };
    let Some((own, around)) = chain.split_first() else { return pairs };
    let kind = own.id.kind();
    own.attributes.iter().for_each(|(key, value)| add(key, value));
    if kind == Kind::Process {
        add(attr::PROCESS_PID, pid);
        if !created.is_empty() {
            add(attr::PROCESS_CREATION_TIME, created);
        }
        add(attr::PROCESS_EXECUTABLE_NAME, &own.name);
    }
    let told = copied(kind).last().is_some_and(|key| pairs_has(&own.attributes, key) || *key == attr::PROCESS_PID);
    if !told {
        add(attr::WORKLOAD_ID, id);
    }
    for (depth, outer) in around.iter().enumerate() {
        let outer_kind = outer.id.kind();
        if outer_kind == Kind::Slice && !(kind == Kind::Process && depth == 0) {
            continue;
        }
        for (key, value) in &outer.attributes {
            // the process of a VM runs on the host: the VM's own names are not its
            if !(outer_kind == Kind::Vm && HOST.contains(&&**key)) {
                add(key, value);
            }
        }
    }
    for (key, value) in &node.attributes {
        if HOST.contains(&&**key) {
            add(key, value);
        }
    }
    if kind == Kind::Vm {
        node.name().into_iter().for_each(|name| add(attr::NODE_NAME, name));
    }
    pairs
}

fn pairs_has(attributes: &[Attribute], key: &str) -> bool {
    attributes.iter().any(|(known, _)| known == key)
}

/// Attributes that the conventions define as whole numbers, or as lists, are sent as such.
fn put(writer: &mut Writer, field: u32, key: &str, value: &str) {
    match value.parse::<u64>() {
        Ok(number) if key == attr::PROCESS_PID => writer.attribute_int(field, key, number),
        _ if key == attr::CONTAINER_IMAGE_TAGS => writer.attribute_list(field, key, value),
        _ => writer.attribute(field, key, value),
    }
}
