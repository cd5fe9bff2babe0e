//! Identity → resource attributes: what a workload or the node is called by others.
//!
//! Workloads bring the attributes that their cgroup path or command line gives (see [`crate::workload`]); the node's own
//! come from [`host`]. What only others know (the API server, a container runtime) an [`Enricher`] says, which looks it
//! up on a thread of its own: the agent asks it about newcomers, never waits, and asks again when it knows more. Energy
//! never depends on it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::host::Host;
use crate::semconv::attr;
use crate::workload::{Attribute, Identity, Names, WorkloadId};

pub mod host;
mod image;
pub mod kubernetes;
pub mod runtime;

/// What an enricher says of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, and nothing will come.
    Unknown,
    /// Nothing more for now (what there is, is given), but more is on its way within seconds. Exporters may hold back
    /// the series of a container in a pod, so that it does not begin under a name that it will not keep.
    Soon(Option<Arc<Names>>),
    /// All of it.
    Known(Arc<Names>),
}

/// A source of names.
pub trait Enricher: Send {
    /// For logs.
    fn name(&self) -> &'static str;

    /// A number that grows when an answer may differ from before.
    fn generation(&self) -> u64;

    /// What is known of `workload` inside `around` (the node's own identity for the node itself). Called for the node,
    /// for pods and for containers. Never blocks.
    fn describe(&self, workload: &Identity, around: &Identity) -> Answer;

    /// What keeps it from knowing, one line each with advice, by topic (0 to 63).
    fn troubles(&self, say: &mut dyn FnMut(usize, Arc<str>));

    /// Waits until it has something to say, but not longer than `patience`; whether it has.
    fn wait(&self, patience: Duration) -> bool;
}

/// Starts an enricher, or says why not.
pub type Start = fn(&Host, &Config) -> Result<Box<dyn Enricher>, String>;

/// One sort of enricher.
pub struct Source {
    /// For logs.
    pub name: &'static str,
    /// Starts it.
    pub start: Start,
}

/// The sources of names, the strongest first.
pub const ENRICHERS: &[Source] =
    &[Source { name: "kubernetes", start: kubernetes }, Source { name: "containers", start: containers }];

fn kubernetes(host: &Host, config: &Config) -> Result<Box<dyn Enricher>, String> {
    let own = host::attributes(host, config);
    let get = |key| own.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
    let machine = kubernetes::Machine {
        name: get(attr::HOST_NAME),
        id: get(attr::HOST_ID),
        is_veiled: host::is_veiled(host, config),
    };
    Ok(Box::new(kubernetes::Kubernetes::start(&config.kubernetes, machine)?))
}

fn containers(_: &Host, config: &Config) -> Result<Box<dyn Enricher>, String> {
    Ok(Box::new(runtime::Runtimes::start(&config.containers)?))
}

/// Starts every enricher that can work here; `said` gets the reason of each that cannot.
pub fn start(host: &Host, config: &Config, said: &mut dyn FnMut(&str, &str)) -> Vec<Box<dyn Enricher>> {
    let mut started = Vec::new();
    for source in ENRICHERS {
        match (source.start)(host, config) {
            Ok(enricher) => started.push(enricher),
            Err(reason) => said(source.name, &reason),
        }
    }
    started
}

/// What the enrichers know of the node.
#[must_use]
pub fn node(enrichers: &[Box<dyn Enricher>]) -> Vec<Attribute> {
    let node = Identity { id: WorkloadId::Node, name: String::new(), attributes: Vec::new() };
    let answers = enrichers.iter().map(|enricher| enricher.describe(&node, &node));
    let known = answers.filter_map(|answer| if let Answer::Known(names) = answer { Some(names) } else { None });
    known.flat_map(|names| names.attributes.clone()).collect()
}
