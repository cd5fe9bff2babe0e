//! `wattribute discover`: the meters of this machine, the part each plays in the sum, and why.

use std::fmt::Write as _;

use crate::agent::Agent;
use crate::cli::{live, print_line};
use crate::clock;
use crate::config::Config;
use crate::export::ZoneBook;
use crate::export::stdout::printable;
use crate::meter::set::{Outcome, Report};

/// Runs the command.
///
/// # Errors
/// A machine whose roots cannot be opened.
pub fn discover(config: Config, json: bool) -> anyhow::Result<()> {
    let host = live(&config)?;
    let mut agent = Agent::new(host, config, clock::now());
    agent.step(clock::now());
    let snapshot = agent.snapshot();
    let text =
        if json { as_json(agent.reports(), &snapshot.zones) } else { as_table(agent.reports(), &snapshot.zones) };
    print_line(text.trim_end())
}

/// For people: one line per backend, then the zones.
#[must_use]
pub fn as_table(reports: &[Report], zones: &[ZoneBook]) -> String {
    let mut text = String::from("METER   FOUND\n");
    for report in reports {
        let _ = writeln!(text, "{:<7} {}", report.name, outcome(&report.outcome));
    }
    let width = zones.iter().map(|book| book.zone.id.len()).max().unwrap_or(4).max(4);
    let _ = writeln!(text, "\n{:<width$} {:<9} {:<12} {:<9} {:<8} WHY", "ZONE", "DOMAIN", "ROLE", "QUALITY", "STATE");
    for book in zones {
        let zone = &book.zone;
        let (domain, role, quality) = (zone.domain.as_str(), zone.role.as_str(), zone.quality.as_str());
        let _ = writeln!(
            text,
            "{:<width$} {domain:<9} {role:<12} {quality:<9} {:<8} {}",
            printable(&zone.id),
            book.state.as_str(),
            zone.why
        );
    }
    text
}

/// One line for one backend.
#[must_use]
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Found(1) => "1 zone".into(),
        Outcome::Found(count) => format!("{count} zones"),
        Outcome::Absent(what) => format!("absent: {what}"),
        Outcome::Denied(path, advice) => format!("denied: {path}; {advice}"),
    }
}

fn as_json(reports: &[Report], zones: &[ZoneBook]) -> String {
    let meters: Vec<_> = reports
        .iter()
        .map(|report| {
            let (state, detail) = match &report.outcome {
                Outcome::Found(_) => ("found", String::new()),
                Outcome::Absent(what) => ("absent", what.clone()),
                Outcome::Denied(path, advice) => ("denied", format!("{path}; {advice}")),
            };
            serde_json::json!({"meter": report.name, "state": state, "detail": detail})
        })
        .collect();
    let zones: Vec<_> = zones
        .iter()
        .map(|book| {
            let zone = &book.zone;
            serde_json::json!({
                "zone": zone.id, "domain": zone.domain.as_str(), "role": zone.role.as_str(), "why": zone.why,
                "quality": zone.quality.as_str(), "state": book.state.as_str(), "parent": zone.parent,
                "path": zone.path, "power_max_w": zone.power_max.watts(),
            })
        })
        .collect();
    serde_json::json!({"version": 1, "meters": meters, "zones": zones}).to_string()
}
