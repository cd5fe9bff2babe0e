//! `wattribute record FILE`: what the agent reads of this machine, as a `.machine` file.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::agent::Agent;
use crate::cli::UsageError;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::host::record::Recorder;
use crate::host::script::Tick;
use crate::host::{self, Host};

/// Runs the command.
///
/// # Errors
/// A machine whose roots cannot be opened, or a file that cannot be written.
pub fn record(config: Config, file: &Path, ticks: u64, command_lines: bool) -> anyhow::Result<()> {
    host::raise_file_limit();
    let interval = config.interval.0;
    let host =
        Host::recording(&config.host, Recorder::new(command_lines)).map_err(|error| UsageError(error.to_string()))?;
    let mut out = host::create_file(file).with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(out, "# recorded by wattribute {}", env!("CARGO_PKG_VERSION"))?;
    // The boot clock of the baseline is not read by the agent, but a replay needs it.
    let mut buffer = Vec::new();
    let _ = host.read("proc/uptime", &mut buffer);
    let mut agent = Agent::new(host, config, clock::now());
    let start = clock::now();
    agent.step(start);
    flush(&agent, &mut out)?;
    let mut before = start;
    for number in 1..=ticks {
        let due = start.boot + interval * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(clock::now().boot));
        let now = clock::now();
        agent.host().with_recorder(|recorder| recorder.tick(&tick(number, start, before, now)));
        agent.step(now);
        flush(&agent, &mut out)?;
        before = now;
    }
    crate::telemetry::info(&format!("recorded {ticks} ticks to {}", file.display()));
    Ok(())
}

fn flush(agent: &Agent, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let mut text = String::new();
    agent.host().with_recorder(|recorder| text = recorder.take());
    Ok(out.write_all(text.as_bytes())?)
}

/// The tick line: steps of the wall clock below a millisecond are the reading of the clocks, not steps.
fn tick(number: u64, start: Timestamp, before: Timestamp, now: Timestamp) -> Tick {
    let nanos = |time: std::time::Duration| i128::try_from(time.as_nanos()).unwrap_or(0);
    let step = nanos(now.wall) - nanos(before.wall) - (nanos(now.boot) - nanos(before.boot));
    let suspended = now.asleep.saturating_sub(before.asleep);
    Tick {
        number,
        at: now.boot.saturating_sub(start.boot),
        suspended: if suspended.as_millis() > 0 { suspended } else { std::time::Duration::ZERO },
        wall_step: if step.abs() > 1_000_000 { step } else { 0 },
    }
}
