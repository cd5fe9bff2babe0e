//! The library in ten lines: own an agent, step it, look at its books.
//!
//!     cargo run --example once

#![allow(clippy::print_stdout)] // an example talks to the person who runs it

use std::thread::sleep;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::config::Config;
use wattribute::host::Host;
use wattribute::{clock, export::stdout};

fn main() -> std::io::Result<()> {
    let config = Config::default();
    let host = Host::live(&config.host)?;
    let mut agent = Agent::new(host, config, clock::now());
    agent.step(clock::now()); // the baseline, from which everything counts
    for _ in 0..3 {
        sleep(Duration::from_secs(1));
        agent.step(clock::now());
    }
    println!("{}", stdout::summary(&agent.snapshot(), 10));
    Ok(())
}
