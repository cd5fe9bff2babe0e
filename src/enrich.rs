//! Identity → resource attributes: what a workload or the node is called by others.
//!
//! Workloads bring the attributes that their cgroup path or command line gives (see [`crate::workload`]); the node's
//! own come from [`host`]. Names from Kubernetes are not known here yet.

pub mod host;
