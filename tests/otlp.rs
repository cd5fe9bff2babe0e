//! The OTLP export against in-process receivers: one test for each rule of the export, and the sums at the receiver.

#![allow(missing_docs, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

#[path = "otlp/arithmetic.rs"]
mod arithmetic;
#[path = "otlp/cost.rs"]
mod cost;
#[path = "otlp/delivery.rs"]
mod delivery;
#[path = "otlp/ledger.rs"]
mod ledger;
#[path = "otlp/own.rs"]
mod own;
#[path = "otlp/receiver.rs"]
mod receiver;
#[path = "otlp/secure.rs"]
mod secure;
#[path = "otlp/sender.rs"]
mod sender;
#[path = "otlp/world.rs"]
mod world;
