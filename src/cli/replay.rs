//! `wattribute replay FILE`: a recorded machine through the same agent, in virtual time.
//!
//! Nothing of the live machine is read or written. Boot time begins at the recorded `/proc/uptime`, the wall clock at
//! the boot time that `/proc/stat` states (`btime`), and both move as the file's tick lines say.

use std::path::Path;
use std::time::Duration;

use crate::agent::Agent;
use crate::cli::{UsageError, check_zones, print_line, read_named, warn_of_troubles};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::export::Snapshot;
use crate::export::json::Report;
use crate::export::stdout;
use crate::host::Host;
use crate::host::memory::Memory;
use crate::host::script::{Item, Script, ScriptError, Tick};

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, or a syntax error with its line.
pub fn replay(config: Config, file: &Path, json: bool) -> anyhow::Result<()> {
    let bytes = read_named(file)?;
    Script::check(&bytes).map_err(|error| UsageError(format!("{}: {error}", file.display())))?;
    let settings = config.clone();
    let mut failed = Ok(());
    let total = run(&bytes, config, |line| {
        if json && failed.is_ok() {
            failed = print_line(&line);
        }
    });
    failed?;
    if let Ok(Replayed { agent, .. }) = &total {
        check_zones(&settings, &agent.snapshot());
        warn_of_troubles(agent, &[]);
    }
    match total {
        Ok(Replayed { total, .. }) if json => print_line(&total),
        Ok(Replayed { agent, .. }) => print_line(&stdout::summary(&agent.snapshot(), 50)),
        Err(error) => Err(UsageError(format!("{}: {error}", file.display())).into()),
    }
}

/// A machine at the end of its file.
pub struct Replayed {
    /// The agent after the last tick.
    pub agent: Agent,
    /// The `total` line.
    pub total: String,
}

/// Replays `bytes`; `line` is called with the JSON line of each tick.
///
/// # Errors
/// A syntax error with its line.
pub fn run(bytes: &[u8], config: Config, line: impl FnMut(String)) -> Result<Replayed, ScriptError> {
    run_on(Memory::default(), bytes, config, line)
}

/// The same on a machine that is there already.
///
/// # Errors
/// A syntax error with its line.
pub fn run_on(
    memory: Memory,
    bytes: &[u8],
    config: Config,
    mut line: impl FnMut(String),
) -> Result<Replayed, ScriptError> {
    let mut report = Report::default();
    let (agent, start) = walk(memory, bytes, config, |snapshot| {
        if let Some(text) = report.tick(snapshot) {
            line(text);
        }
    })?;
    Ok(Replayed { agent, total: report.total(start) })
}

/// Steps an agent through `bytes`; `each` is called with the snapshot of each tick, the baseline first. Gives the
/// agent after the last tick and the time of the baseline.
///
/// # Errors
/// A syntax error with its line.
pub fn walk(
    mut memory: Memory,
    bytes: &[u8],
    config: Config,
    mut each: impl FnMut(&Snapshot),
) -> Result<(Agent, Timestamp), ScriptError> {
    let mut script = Script::new(bytes);
    let mut next = apply(&mut script, &mut memory)?;
    let mut now = baseline(&memory);
    let start = now;
    let mut agent = Agent::new(Host::memory(memory), config, now);
    let mut reader = agent.subscribe();
    let mut last = Tick::default();
    agent.step(now);
    each(&reader.take());
    while let Some(tick) = next {
        let mut result = Ok(None);
        agent.host().with_memory(|memory| result = apply(&mut script, memory));
        next = result?;
        now = advance(now, &last, &tick);
        last = tick;
        agent.step(now);
        each(&reader.take());
    }
    Ok((agent, start))
}

/// Makes the changes up to the next tick line, which is returned.
fn apply(script: &mut Script<'_>, memory: &mut Memory) -> Result<Option<Tick>, ScriptError> {
    while let Some(item) = script.next_item()? {
        match item {
            Item::Tick(tick) => return Ok(Some(tick)),
            Item::Edit(edit) => edit.apply(memory).map_err(|what| script.error(what))?,
        }
    }
    Ok(None)
}

/// The clocks of the machine before the first tick.
fn baseline(memory: &Memory) -> Timestamp {
    let mut buffer = Vec::new();
    let _ = memory.read("proc/uptime", &mut buffer, 256);
    let seconds = String::from_utf8_lossy(&buffer).split_ascii_whitespace().next().and_then(|word| word.parse().ok());
    let boot = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default();
    buffer.clear();
    let _ = memory.read("proc/stat", &mut buffer, 1 << 20);
    let text = String::from_utf8_lossy(&buffer);
    let booted = text.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse().ok());
    Timestamp { boot, asleep: Duration::ZERO, wall: Duration::from_secs(booted.unwrap_or(0)).saturating_add(boot) }
}

fn advance(before: Timestamp, last: &Tick, tick: &Tick) -> Timestamp {
    let passed = tick.at.saturating_sub(last.at);
    let wall = i128::try_from(before.wall.saturating_add(passed).as_nanos()).unwrap_or(0) + tick.wall_step;
    Timestamp {
        boot: before.boot.saturating_add(passed),
        asleep: before.asleep.saturating_add(tick.suspended),
        wall: Duration::from_nanos(u64::try_from(wall).unwrap_or(0)),
    }
}
