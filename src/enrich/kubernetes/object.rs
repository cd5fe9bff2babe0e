//! Objects of the API server, stripped while they are read: of a pod of 15 kB some hundred bytes remain. No environment,
//! no managed fields, no volumes; annotations only until the chosen ones are picked.
//!
//! Field names are those of the Kubernetes API, v1.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// A pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Name, uid, labels, annotations, owners.
    #[serde(deserialize_with = "stripped")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(deserialize_with = "or_default")]
    pub spec: Spec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: Status,
}

/// `PodSpec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// Containers that run side by side.
    pub containers: Option<Vec<Container>>,
    /// Those before them, and sidecars.
    pub init_containers: Option<Vec<Container>>,
    /// Those put in for debugging.
    pub ephemeral_containers: Option<Vec<Container>>,
    /// Of the pod as a whole.
    pub resources: Option<Requirements>,
    /// What its sandbox needs beside its containers.
    pub overhead: Option<Amounts>,
}

/// `Container`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name in the pod.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The image as the user wrote it.
    pub image: Option<String>,
    /// What it wants.
    pub resources: Option<Requirements>,
    /// `Always` on an init container: a sidecar.
    pub restart_policy: Option<String>,
}

/// `ResourceRequirements`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// What it is sure to get.
    pub requests: Option<Amounts>,
    /// What it may use at most.
    pub limits: Option<Amounts>,
}

/// `ResourceList`, of which two are wanted. Quantities are text, or a number.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// CPUs.
    pub cpu: Option<serde_json::Value>,
    /// Bytes.
    pub memory: Option<serde_json::Value>,
}

/// `PodStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Of [`Spec::containers`].
    pub container_statuses: Option<Vec<ContainerStatus>>,
    /// Of [`Spec::init_containers`].
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
    /// Of [`Spec::ephemeral_containers`].
    pub ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

/// `ContainerStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name in the pod.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `<runtime>://<id>`; empty before it was created.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
    /// What it is doing.
    pub state: Option<State>,
    /// What it did before it was restarted.
    pub last_state: Option<State>,
}

/// `ContainerState`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct State {
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// `ContainerStateTerminated`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Terminated {
    /// `<runtime>://<id>`.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
}

/// A node, or any other object of which only little is wanted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name, uid, labels.
    #[serde(deserialize_with = "stripped")]
    pub metadata: ObjectMeta,
    /// What the kubelet says of it.
    pub status: NodeStatus,
}

/// `NodeStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Addresses, the host name among them.
    pub addresses: Option<Vec<Address>>,
    /// What the kubelet read of the machine.
    pub node_info: NodeInfo,
}

/// `NodeAddress`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `Hostname`, `InternalIP`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// `NodeSystemInfo`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// machine-id(5).
    #[serde(rename = "machineID")]
    pub machine_id: String,
}

/// `List`.
#[derive(Debug, Clone, Deserialize)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
}

/// The parts of `ObjectMeta` that are wanted.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    owner_references: Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>>,
}

fn given(values: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// Not every API server leaves out what is empty: some write null.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn stripped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Meta { name, namespace, uid, resource_version, labels, annotations, owner_references } =
        Meta::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        labels: labels.map(given),
        annotations: annotations.map(given),
        owner_references,
        ..ObjectMeta::default()
    })
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
