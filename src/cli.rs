//! The command line: `run` (default), `discover`, `once`, `calibrate`, `validate`, `record`, `replay`, `config`, `metrics`.
//!
//! Exit codes: 0, 1 for a failure, 2 for wrong usage or configuration; the message then names the key, the line and
//! the nearest valid key.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::agent::Agent;
use crate::config::{Config, Idle, Sources};
use crate::enrich::{self, Enricher};
use crate::export::Snapshot;
use crate::export::stdout::printable;
use crate::host::{self, Host};
use crate::meter::set::Report;
use crate::{semconv, telemetry};

pub mod calibrate;
pub mod discover;
pub mod once;
pub mod record;
pub mod replay;
pub mod run;
pub mod signals;
pub mod state;
pub mod validate;
pub mod watch;

/// The most that is read of a configuration, and of a recorded machine.
const CONFIG_MAX: u64 = 2 << 20;
const MACHINE_MAX: u64 = 1 << 30;

/// How long the start may wait for names.
const NAMES_PATIENCE: Duration = Duration::from_secs(3);

/// Books the measured energy of this machine to processes, containers, pods, VMs and services, and pushes it as OTLP.
#[derive(Debug, Parser)]
#[command(name = "wattribute", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file (YAML); `wattribute config` prints the commented default
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one configuration key, e.g. --set export.otlp.endpoint=http://collector:4317
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, attribute, show a live table and push OTLP (the default)
    Run,
    /// Show the meters of this machine, the part each plays in the sum, and why
    Discover {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure for a while, then print what every workload used
    Once {
        /// For how long, e.g. 10s
        #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
        time: Duration,
        /// As JSON lines: one per tick, then a total
        #[arg(long)]
        json: bool,
    },
    /// Measure what a drained node draws at rest, and keep it in state.directory
    Calibrate {
        /// For how long, e.g. 2m
        #[arg(long = "for", value_name = "DURATION", default_value = "2m", value_parser = duration)]
        time: Duration,
    },
    /// Compare the books with another meter: error, lag, and what the books do not see
    Validate {
        /// A zone of `wattribute discover` that is not primary, or a CSV file of time and watts
        #[arg(long, value_name = "ZONE|FILE")]
        reference: String,
        /// For how long, e.g. 30s [default: 10m; with --replay the whole file]
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        time: Option<Duration>,
        /// Write a page with both curves too
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// Run this recorded machine in virtual time instead of the live one
        #[arg(long, value_name = "FILE.machine")]
        replay: Option<PathBuf>,
    },
    /// Write down what is read of this machine as one text file, for replay
    Record {
        /// The .machine file to write
        file: PathBuf,
        /// How many ticks
        #[arg(long, default_value_t = 10)]
        ticks: u64,
        /// Write command lines too (they may hold secrets)
        #[arg(long)]
        command_lines: bool,
    },
    /// Run a recorded machine through the agent in virtual time
    Replay {
        /// The .machine file to read
        file: PathBuf,
        /// As JSON lines: one per tick, then a total
        #[arg(long)]
        json: bool,
    },
    /// Print the commented default configuration
    Config,
    /// Print the table of metrics
    Metrics,
}

/// A failure that is the user's to mend: wrong usage or configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Runs the program and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints its own errors and exits with 2; help and version with 0.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::error(&format!("{error:#}"));
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    match cli.command.unwrap_or(Command::Run) {
        // What is said on the command line is checked here too.
        Command::Config => load(&cli.common).and_then(|_| print_line(crate::config::document().trim_end())),
        Command::Metrics => load(&cli.common).and_then(|_| print_line(semconv::markdown().trim_end())),
        Command::Run => run::run(&load(&cli.common)?),
        Command::Discover { json } => discover::discover(load(&cli.common)?, json),
        Command::Once { time, json } => once::once(load(&cli.common)?, time, json),
        Command::Calibrate { time } => calibrate::calibrate(load(&cli.common)?, time),
        Command::Validate { reference, time, html, json, replay } => {
            validate::validate(load(&cli.common)?, &validate::Wanted { reference, time, html, json, replay })
        }
        Command::Record { file, ticks, command_lines } => {
            record::record(load(&cli.common)?, &file, ticks, command_lines)
        }
        Command::Replay { file, json } => replay::replay(load(&cli.common)?, &file, json),
    }
}

/// The configuration from file, environment and flags.
fn load(common: &Common) -> anyhow::Result<Config> {
    let file = match &common.config {
        None => None,
        Some(path) => {
            let bytes = host::read_stream(path, CONFIG_MAX, None)
                .map_err(|error| UsageError(format!("{}: {error}; --config names a YAML file", path.display())))?;
            Some((path.clone(), bytes))
        }
    };
    let env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let loaded =
        Config::load(Sources { file, env, sets: &common.sets }).map_err(|error| UsageError(error.to_string()))?;
    for warning in &loaded.warnings {
        telemetry::warn(warning);
    }
    Ok(loaded.config)
}

/// The live machine that the configuration names.
fn live(config: &Config) -> anyhow::Result<Host> {
    host::raise_file_limit();
    let host = Host::live(&config.host).map_err(|error| UsageError(error.to_string()))?;
    if let Err(errno) = host.read("proc/stat", &mut Vec::new()) {
        let path = host.shown("proc/stat");
        return Err(UsageError(format!("host.proc: cannot read {path}: {errno}; mount the host's /proc there")).into());
    }
    Ok(host)
}

/// Starts the sources of names, and gives them a moment, unless `stop` says so: what is there at the start begins under
/// its name.
fn names(host: &Host, config: &Config, stop: &mut dyn FnMut() -> bool) -> Vec<Box<dyn Enricher>> {
    const STEP: Duration = Duration::from_millis(50);
    let mut said = |name: &str, reason: &str| telemetry::info(&format!("{name}: no names: {reason}"));
    let enrichers = enrich::start(host, config, &mut said);
    let mut left = NAMES_PATIENCE;
    while !left.is_zero() && !stop() && !enrichers.iter().all(|enricher| enricher.wait(STEP)) {
        left = left.saturating_sub(STEP);
    }
    enrichers
}

/// Says which zones the idle policy names and the machine does not have.
fn check_zones(config: &Config, snapshot: &Snapshot) {
    let Idle::Watts(watts) = &config.attribution.idle else { return };
    let known: Vec<String> = snapshot.zones.iter().map(|book| printable(&book.zone.id)).collect();
    for zone in watts.keys().filter(|zone| !snapshot.zones.iter().any(|book| book.zone.id == **zone)) {
        telemetry::warn(&no_zone(zone, &known));
    }
}

/// Names the zones whose id ends with what was said, else all of them.
fn no_zone(named: &str, known: &[String]) -> String {
    let ends = |id: &&String| id.strip_suffix(named).is_some_and(|front| front.ends_with([':', '/']));
    let meant: Vec<String> = known.iter().filter(ends).map(|id| format!("'{id}'")).collect();
    let advice = match (meant.is_empty(), known.is_empty()) {
        (false, _) => format!("did you mean {}?", meant.join(" or ")),
        (true, false) => format!("there are {}", known.join(", ")),
        (true, true) => "there are none".to_owned(),
    };
    format!("attribution.idle: no zone {named:?} here; {advice}")
}

/// Says what troubles meters and sources of names, a `model.file` that is not used among it; not of those in `shown`.
fn warn_of_troubles(agent: &Agent, shown: &[Report]) {
    for (_, name, trouble) in agent.troubles().filter(|(_, name, _)| !shown.iter().any(|report| report.name == *name)) {
        telemetry::warn(&format!("{name}: {}", printable(&trouble)));
    }
}

/// A duration as the configuration writes it.
fn duration(text: &str) -> Result<Duration, String> {
    let time = crate::config::parse_duration(text)?;
    if time.is_zero() { Err("expected a time above 0, such as 10s".into()) } else { Ok(time) }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.into_iter().any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Writes a line to standard output and flushes it.
fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Reads a file that the user named.
fn read_named(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    host::read_stream(path, MACHINE_MAX, None).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_is_not_here_may_be_one_that_is() {
        let known = ["rapl:package-0", "rapl:package-0/dram", "rapl:package-1/dram"].map(str::to_owned);
        let said = |named| no_zone(named, &known);
        assert_eq!(said("package-0"), "attribution.idle: no zone \"package-0\" here; did you mean 'rapl:package-0'?");
        assert!(said("dram").ends_with("did you mean 'rapl:package-0/dram' or 'rapl:package-1/dram'?"));
        assert!(said("0").ends_with("there are rapl:package-0, rapl:package-0/dram, rapl:package-1/dram"));
        assert!(said("").starts_with("attribution.idle: no zone \"\" here; there are rapl:package-0,"));
        assert!(no_zone("package-0", &[]).ends_with("there are none"));
    }
}
