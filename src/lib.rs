//! wattribute finds every power meter of a Linux node, books the measured energy to processes, containers, pods, VMs
//! and services, and pushes the books as OTLP metrics.
//!
//! The program is one line, run once a tick by [`agent::Agent::step`]. A [`host::Host`] is the only door to `/proc`,
//! `/sys` and `/dev`, live or in memory. [`meter`]s give readings; one function decides what lies between two of them.
//! [`activity`] says how much CPU time each [`workload`] used, cgroups first and processes second. The ledger in
//! [`attribute`] books every microjoule exactly once: to a workload, to the machine at rest, or to nobody known. A
//! [`export::Snapshot`] of the books is published to exporters, which never hold up a tick. Time is an argument, the
//! core cannot fail, and what is not known is said.

pub mod activity;
pub mod agent;
pub mod attribute;
pub mod cli;
pub mod clock;
pub mod config;
pub mod enrich;
pub mod export;
pub mod host;
pub mod meter;
pub mod semconv;
pub mod telemetry;
pub mod unit;
pub mod validate;
pub mod workload;
