//! `wattribute validate`: the books of a run beside what another meter saw of it.
//!
//! The agent is stepped as `once` does it, or runs a recorded machine in virtual time with `--replay`. The reference
//! is another zone of the machine, or the file of a wattmeter, which is read at the end, because a logger may still
//! write to it, and which must be there at the start, because ten minutes later is too late to hear of a wrong path.
//! A pipe can be read once only, so at the start it is only looked at.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use crate::agent::Agent;
use crate::cli::{UsageError, check_zones, live, print_line, read_named, replay, warn_of_troubles};
use crate::clock;
use crate::config::Config;
use crate::host::memory::Memory;
use crate::host::script::Script;
use crate::host::{check_stream, create_file, read_stream};
use crate::telemetry;
use crate::validate::gather::Gather;
use crate::validate::lag::RANGE;
use crate::validate::series::Series;
use crate::validate::truth::sift;
use crate::validate::{Comparison, Report, csv, html, report};

/// The most that is read of a reference file.
const FILE_MAX: u64 = 64 << 20;
/// For how long a pipe that is the reference may be silent when it is read.
const SILENCE: Duration = Duration::from_secs(10);
/// For how long a live run waits for a reference zone that it does not see (s).
const PATIENCE: Duration = Duration::from_secs(60);

/// What a user asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The zone or the file to compare with.
    pub reference: String,
    /// For how long; `None` is ten minutes, and all of a recorded machine.
    pub time: Option<Duration>,
    /// Where to write the page.
    pub html: Option<PathBuf>,
    /// Print JSON instead of text.
    pub json: bool,
    /// The recorded machine to run.
    pub replay: Option<PathBuf>,
}

/// Where the reference comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reference {
    Zone(String),
    File(PathBuf),
}

/// Runs the command.
///
/// # Errors
/// A reference that is not there or is part of the books, or nothing to compare.
pub fn validate(config: Config, wanted: &Wanted) -> anyhow::Result<()> {
    let reference = reference(&wanted.reference)?;
    let mut page = match &wanted.html {
        None => None,
        Some(path) => Some((path, create_file(path).with_context(|| format!("cannot write {}", path.display()))?)),
    };
    let found = match &wanted.replay {
        Some(file) => recorded(config, file, &reference, wanted.time)?,
        None => measured(config, &reference, wanted.time.unwrap_or(Duration::from_secs(600)))?,
    };
    let found = compare(found, &reference)?;
    if let Some((path, file)) = &mut page {
        let written = file.write_all(html::page(&found).as_bytes()).and_then(|()| file.flush());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    print_line(&if wanted.json { report::json(&found).to_string() } else { report::text(&found) })
}

/// Runs a recorded machine and compares it: what the command does, for tests.
///
/// # Errors
/// As [`validate`].
pub fn replayed(config: Config, file: &Path, named: &str) -> anyhow::Result<Report> {
    let reference = reference(named)?;
    compare(recorded(config, file, &reference, None)?, &reference)
}

/// A name that a file has is a file; a zone's id has a colon.
fn reference(named: &str) -> anyhow::Result<Reference> {
    let path = Path::new(named);
    match check_stream(path, FILE_MAX) {
        Ok(()) => Ok(Reference::File(path.to_owned())),
        Err(error) if named.contains(':') && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Reference::Zone(named.to_owned()))
        }
        Err(error) => {
            let advice = "--reference names a CSV file of time and watts, or a zone of `wattribute discover`";
            Err(UsageError(format!("{named}: {error}; {advice}")).into())
        }
    }
}

fn gather(reference: &Reference) -> Gather {
    Gather::new(match reference {
        Reference::Zone(id) => Some(id.clone()),
        Reference::File(_) => None,
    })
}

/// A live run.
fn measured(config: Config, reference: &Reference, time: Duration) -> anyhow::Result<Gather> {
    let interval = config.interval.0.min(time);
    let host = live(&config)?;
    let mut gather = gather(reference);
    let settings = config.clone();
    let mut agent = Agent::new(host, config, clock::now());
    let start = clock::now();
    let mut reader = agent.subscribe();
    agent.step(start);
    gather.tick(&reader.take());
    check_zones(&settings, &agent.snapshot());
    telemetry::info(&format!("comparing for {} s", time.as_secs_f64()));
    let mut next = start.boot;
    while next < start.boot + time {
        next = (next + interval).min(start.boot + time);
        std::thread::sleep(next.saturating_sub(clock::now().boot));
        agent.step(clock::now());
        gather.tick(&reader.take());
        // A meter that answers slowly is not there at once.
        check(&gather, next.saturating_sub(start.boot) >= PATIENCE.min(time))?;
    }
    warn_of_troubles(&agent, &[]);
    Ok(gather)
}

/// A recorded run, in virtual time.
fn recorded(config: Config, file: &Path, reference: &Reference, time: Option<Duration>) -> anyhow::Result<Gather> {
    let bytes = read_named(file)?;
    let wrong = |error| UsageError(format!("{}: {error}", file.display()));
    Script::check(&bytes).map_err(wrong)?;
    let mut gather = gather(reference);
    let settings = config.clone();
    let walked = replay::walk(Memory::default(), &bytes, config, |snapshot| {
        let passed = snapshot.at.boot.saturating_sub(snapshot.baseline.boot);
        if time.is_none_or(|time| passed <= time) {
            gather.tick(snapshot);
        }
    });
    let (agent, _) = walked.map_err(wrong)?;
    check_zones(&settings, &agent.snapshot());
    warn_of_troubles(&agent, &[]);
    check(&gather, true)?;
    Ok(gather)
}

fn check(gather: &Gather, settled: bool) -> Result<(), UsageError> {
    gather.problem(settled).map_or(Ok(()), |problem| Err(UsageError(problem)))
}

/// The books of a run beside its reference.
fn compare(gather: Gather, reference: &Reference) -> anyhow::Result<Report> {
    let mut run = gather.finish();
    let (name, series) = match reference {
        Reference::Zone(id) => (id.clone(), std::mem::take(&mut run.reference)),
        Reference::File(path) => {
            let name = path.display().to_string();
            let bytes = read_stream(path, FILE_MAX, Some(SILENCE)).with_context(|| format!("cannot read {name}"))?;
            if bytes.iter().all(u8::is_ascii_whitespace) {
                return Err(anyhow!("nothing to compare: {name} is empty"));
            }
            let read = csv::parse(&bytes, run.start).map_err(|error| anyhow!("{name}: {error}"))?;
            run.refused = read.refused;
            let near = -RANGE..=run.duration + RANGE;
            let (near, far): (Vec<_>, Vec<_>) = read.samples.into_iter().partition(|sample| near.contains(&sample.at));
            if !far.is_empty() {
                run.notes.push(format!("{} samples of the file are from before or after the run", far.len()));
            }
            let kept = sift(near, &mut run.refused);
            if kept.len() < 2 {
                return Err(anyhow!("{}", nothing(&name, kept.len(), far.len(), &report::refused(&run.refused))));
            }
            (name, Series::from_samples(&kept))
        }
    };
    let comparison = Comparison::of(&run.books, &series).map_err(|error| anyhow!("{error}"))?;
    Ok(Report {
        reference: name,
        is_zone: matches!(reference, Reference::Zone(_)),
        duration: run.duration,
        start: run.start,
        zones: run.zones,
        identity: run.identity,
        comparison,
        refused: run.refused,
        notes: run.notes,
    })
}

/// Why a file gives nothing to compare.
fn nothing(name: &str, kept: usize, far: usize, refused: &[String]) -> String {
    let far = match far {
        0 => String::new(),
        far => format!(", and {far} from before or after it; do the clocks agree?"),
    };
    let first = refused.first().map_or_else(String::new, |first| format!("; {first}"));
    format!("nothing to compare: {name} has {kept} samples of the time of the run{far}{first}")
}
