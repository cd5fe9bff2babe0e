//! `wattribute discover`: the meters of this machine, the part each plays in the sum, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::Agent;
use crate::attribute::learner::Source;
use crate::cli::state::{Keeper, warn_of_refused};
use crate::cli::{check_zones, live, names, print_line, warn_of_troubles};
use crate::clock;
use crate::config::Config;
use crate::export::stdout::printable;
use crate::export::{Refused, ZoneBook};
use crate::meter::set::{Outcome, Report};
use crate::meter::{Quality, Sensor, State};
use crate::unit::Microwatts;

/// Between two looks: long enough for a power to be the mean of something.
const LOOK: Duration = Duration::from_secs(1);
/// How long a slow meter may take for its first answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// A machine whose roots cannot be opened.
pub fn discover(config: Config, json: bool) -> anyhow::Result<()> {
    let host = live(&config)?;
    let settings = config.clone();
    // A node's label says what kind of host the estimator takes this machine for.
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
    agent.step(start);
    // Twice, so that powers and what was refused can be shown; and until those that are asked elsewhere have answered.
    loop {
        std::thread::sleep(LOOK);
        let waiting = agent.is_waiting();
        agent.step(clock::now());
        if !waiting || clock::now().boot.saturating_sub(start.boot) >= PATIENCE {
            break;
        }
    }
    warn_of_refused(&mut agent);
    check_zones(&settings, &agent.snapshot());
    warn_of_troubles(&agent, agent.reports());
    print_line(report(&agent, json).trim_end())
}

/// What an agent has found.
#[must_use]
pub fn report(agent: &Agent, json: bool) -> String {
    let troubles: Vec<_> = agent.troubles().map(|(_, name, what)| (name, what)).collect();
    // A stand-in that no longer stands in is not there any more.
    let stands = |book: &&ZoneBook| book.zone.quality == Quality::Measured || book.state != State::Gone;
    let zones: Vec<ZoneBook> = agent.snapshot().zones.iter().filter(stands).cloned().collect();
    if json { as_json(agent.reports(), &troubles, &zones) } else { as_table(agent.reports(), &troubles, &zones) }
}

/// For people: one line per backend, then the zones, each below the one that it is listed in.
fn as_table(reports: &[Report], troubles: &[(&str, Arc<str>)], zones: &[ZoneBook]) -> String {
    let mut text = String::from("METER   FOUND\n");
    for report in reports {
        let _ = writeln!(text, "{:<7} {}", report.name, printable(&outcome(&report.outcome)));
        for (_, trouble) in troubles.iter().filter(|(name, _)| *name == report.name) {
            let _ = writeln!(text, "{:<7} {}", "", printable(trouble));
        }
    }
    let rows = tree(zones);
    let shown = |depth: usize, book: &ZoneBook| format!("{}{}", "  ".repeat(depth), printable(&book.zone.id));
    let width = rows.iter().map(|(depth, book)| shown(*depth, book).chars().count()).max().unwrap_or(4).max(4);
    let _ = writeln!(
        text,
        "\n{:<width$} {:<8} {:<12} {:<9} {:<11} {:>10} {:<26} WHY",
        "ZONE", "DOMAIN", "ROLE", "QUALITY", "STATE", "WATTS", "AT REST"
    );
    for (depth, book) in rows {
        let zone = &book.zone;
        let (domain, role, quality) = (zone.domain.as_str(), zone.role.as_str(), zone.quality.as_str());
        let watts = watts(book).map_or_else(|| "-".to_owned(), |watts| format!("{watts:.3}"));
        let refused = refused(book).map_or_else(String::new, |refused| format!(" (refused: {refused})"));
        let _ = writeln!(
            text,
            "{:<width$} {domain:<8} {role:<12} {quality:<9} {:<11} {watts:>10} {:<26} {}{refused}{}",
            shown(depth, book),
            book.state.as_str(),
            at_rest(book),
            printable(&zone.why),
            if is_all_idle(book) { " (all idle: it draws less than the watts configured at rest)" } else { "" }
        );
    }
    text
}

/// The zones with how deep each lies, parents before what is listed in them.
fn tree(zones: &[ZoneBook]) -> Vec<(usize, &ZoneBook)> {
    let known = |id: &str| zones.iter().any(|book| book.zone.id == id);
    let root = |book: &&ZoneBook| book.zone.parent.as_deref().is_none_or(|parent| !known(parent));
    let mut open: Vec<(usize, &ZoneBook)> = zones.iter().filter(root).map(|book| (0, book)).rev().collect();
    let mut rows: Vec<(usize, &ZoneBook)> = Vec::new();
    while let Some((depth, book)) = open.pop() {
        rows.push((depth, book));
        let inside = zones.iter().filter(|inner| inner.zone.parent.as_ref() == Some(&book.zone.id));
        open.extend(inside.map(|inner| (depth + 1, inner)).rev());
    }
    // Two zones that name each other as parent hang from no root.
    let lost = zones.iter().filter(|book| !rows.iter().any(|(_, row)| row.zone.id == book.zone.id));
    let lost: Vec<_> = lost.map(|book| (0, book)).collect();
    rows.extend(lost);
    rows
}

/// The mean over the last interval; of a slow gauge that has answered once, that answer.
fn watts(book: &ZoneBook) -> Option<f64> {
    let once = book.zone.sensor == Sensor::Gauge && matches!(book.state, State::First | State::Pending);
    (book.measured.is_some() || once && book.power > Microwatts::ZERO).then(|| book.power.watts())
}

/// What it is taken to draw at rest, one standard deviation of that, and where it comes from.
fn at_rest(book: &ZoneBook) -> String {
    let Some(found) = book.at_rest else { return "-".into() };
    format!("{:.1} ± {:.1} W {}", found.watts, found.error, found.source.as_str())
}

/// Whether the user's own watts at rest leave nothing for workloads.
fn is_all_idle(book: &ZoneBook) -> bool {
    let configured = book.at_rest.filter(|found| found.source == Source::Configured);
    configured.zip(watts(book)).is_some_and(|(found, watts)| watts > 0.0 && watts < found.watts)
}

/// How often readings of a zone were refused, and why.
fn refused(book: &ZoneBook) -> Option<String> {
    let counts = Refused::REASONS.iter().zip(book.refused.counts()).filter(|(_, count)| *count > 0);
    let words: Vec<String> = counts.map(|(reason, count)| format!("{count} {reason}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// One line for one backend.
#[must_use]
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Found(0) => "asked; no answer yet".into(),
        Outcome::Found(1) => "1 zone".into(),
        Outcome::Found(count) => format!("{count} zones"),
        Outcome::Absent(what) => format!("absent: {what}"),
        Outcome::Denied(path, advice) => format!("denied: {path}; {advice}"),
    }
}

fn as_json(reports: &[Report], troubles: &[(&str, Arc<str>)], zones: &[ZoneBook]) -> String {
    let meters: Vec<_> = reports
        .iter()
        .map(|report| {
            let (state, detail) = match &report.outcome {
                Outcome::Found(_) => ("found", String::new()),
                Outcome::Absent(what) => ("absent", what.clone()),
                Outcome::Denied(path, advice) => ("denied", format!("{path}; {advice}")),
            };
            let troubles: Vec<&str> =
                troubles.iter().filter(|(name, _)| *name == report.name).map(|(_, what)| what.as_ref()).collect();
            serde_json::json!({"meter": report.name, "state": state, "detail": detail, "troubles": troubles})
        })
        .collect();
    let zones: Vec<_> = zones
        .iter()
        .map(|book| {
            let zone = &book.zone;
            let refused: BTreeMap<_, _> = Refused::REASONS.into_iter().zip(book.refused.counts()).collect();
            serde_json::json!({
                "zone": zone.id, "domain": zone.domain.as_str(), "role": zone.role.as_str(), "why": zone.why,
                "quality": zone.quality.as_str(), "state": book.state.as_str(), "parent": zone.parent,
                "path": zone.path, "power_max_w": zone.power_max.watts(), "name": zone.name, "meter": zone.source,
                "power_w": watts(book), "refused": refused,
                "idle_w": book.at_rest.map(|found| found.watts), "idle_error_w": book.at_rest.map(|found| found.error),
                "idle_source": book.at_rest.map(|found| found.source.as_str()),
            })
        })
        .collect();
    serde_json::json!({"version": 1, "meters": meters, "zones": zones}).to_string()
}
