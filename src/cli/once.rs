//! `wattribute once`: measure for a while, then say what every workload used.

use std::time::Duration;

use crate::agent::Agent;
use crate::cli::state::{Keeper, warn_of_refused};
use crate::cli::{check_zones, live, names, print_line, warn_of_troubles};
use crate::clock;
use crate::config::Config;
use crate::export::json::Report;
use crate::export::stdout;

/// Runs the command.
///
/// # Errors
/// A machine whose roots cannot be opened.
pub fn once(config: Config, time: Duration, json: bool) -> anyhow::Result<()> {
    let interval = config.interval.0.min(time);
    let named = config.clone();
    let host = live(&config)?;
    let enrichers = names(&host, &config, &mut || false);
    let keeper = Keeper::of(&config, &host);
    let mut agent = Agent::new(host, config, clock::now());
    if let Some(keeper) = &keeper {
        keeper.load(&mut agent);
    }
    for enricher in enrichers {
        agent.add_enricher(enricher);
    }
    let start = clock::now();
    let mut reader = agent.subscribe();
    let mut report = Report::default();
    agent.step(start);
    report.tick(&reader.take());
    check_zones(&named, &agent.snapshot());
    let mut next = start.boot;
    while next < start.boot + time {
        next = (next + interval).min(start.boot + time);
        std::thread::sleep(next.saturating_sub(clock::now().boot));
        agent.step(clock::now());
        if let Some(line) = report.tick(&reader.take()).filter(|_| json) {
            print_line(&line)?;
        }
    }
    warn_of_refused(&mut agent);
    warn_of_troubles(&agent, &[]);
    if json { print_line(&report.total(start)) } else { print_line(&stdout::summary(&agent.snapshot(), 50)) }
}
