//! `wattribute calibrate`: what a drained node draws at rest, measured and kept.
//!
//! Zones are watched as `run` would, from nothing. What counts is the median of the intervals in which the CPUs were
//! busy for less than 1.5 % of their time; where a quarter of the intervals was busier, the node is not drained, and the
//! zone is refused. Cards and drives are not calibrated: how busy the CPUs are says nothing about them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::agent::Agent;
use crate::attribute::learner::{Estimate, Learner, Source};
use crate::attribute::memory::{Kept, Memory};
use crate::cli::state::Keeper;
use crate::cli::{UsageError, live, print_line};
use crate::clock;
use crate::config::{Config, Idle};
use crate::export::{Snapshot, ZoneBook};
use crate::meter::{Quality, Role};

/// As many intervals as a learner keeps of quiet ones.
const INTERVALS: u32 = 32;
/// Fewer have no median worth keeping.
const INTERVALS_MIN: usize = 8;

/// Runs the command.
///
/// # Errors
/// Without a state directory, on a machine whose roots cannot be opened, and when nothing could be calibrated.
pub fn calibrate(mut config: Config, time: Duration) -> anyhow::Result<()> {
    // The user's own watts are no reason not to measure.
    config.attribution.idle = Idle::Learned;
    let host = live(&config)?;
    let Some(keeper) = Keeper::of(&config, &host) else {
        let advice = "state.directory: calibrate keeps what it measures there; set it, as `run` will need it too";
        return Err(UsageError(advice.into()).into());
    };
    let step = (time / INTERVALS).max(Duration::from_secs(1));
    let mut agent = Agent::new(host, config, clock::now());
    let start = clock::now();
    agent.step(start);
    let mut next = start.boot;
    while next < start.boot + time {
        next += step;
        std::thread::sleep(next.saturating_sub(clock::now().boot));
        agent.step(clock::now());
    }
    let snapshot = agent.snapshot();
    let meters = |book: &ZoneBook| book.zone.role == Role::Primary && book.zone.quality == Quality::Measured;
    if !snapshot.zones.iter().any(meters) {
        anyhow::bail!("no meter can be read here (see wattribute discover); a model is set right by model.calibration");
    }
    let (text, measured) = judge(&agent.memory().learned, &snapshot);
    print_line(text.trim_end())?;
    if measured.calibrated.is_empty() {
        anyhow::bail!("nothing was calibrated; drain the node (kubectl drain), wait for it to settle, and try again");
    }
    let path = keeper.save_calibration(&measured)?;
    print_line(&format!("\nkept in {}; a running agent takes it at its next start", path.display()))
}

/// A line for each zone of the sum, and what is to be kept.
fn judge(learned: &BTreeMap<String, Kept<Learner>>, snapshot: &Snapshot) -> (String, Memory) {
    let mut memory = Memory::default();
    let mut text = format!("{:<24} {:>10} {:>8}  {}\n", "ZONE", "IDLE W", "± W", "FROM");
    let books = snapshot.zones.iter().filter(|book| book.zone.role == Role::Primary);
    for book in books.filter(|book| book.zone.quality == Quality::Measured) {
        let id = &book.zone.id;
        let Some(kept) = learned.get(id) else {
            let _ = writeln!(text, "{id:<24} {:>10} {:>8}  {}: not calibrated", "-", "-", book.state.as_str());
            continue;
        };
        match measured(&kept.what, book.at_rest) {
            Ok((found, from)) => {
                let _ = writeln!(text, "{id:<24} {:>10.3} {:>8.3}  {from} quiet intervals", found.watts, found.error);
                let what = Estimate { source: Source::Calibrated, ..found };
                memory.calibrated.insert(id.clone(), Kept { meaning: kept.meaning.clone(), what });
            }
            Err(why) => {
                let _ = writeln!(text, "{id:<24} {:>10} {:>8}  {why}: not calibrated", "-", "-");
            }
        }
    }
    (text, memory)
}

/// What a zone drew at rest, from how many intervals; or why that is not known.
fn measured(learner: &Learner, at_rest: Option<Estimate>) -> Result<(Estimate, usize), String> {
    let (bins, quiet, ..) = learner.parts();
    let seen = learner.samples() as usize;
    match at_rest
        .filter(|found| found.source == Source::Observed && quiet.len() * 4 >= seen.min(INTERVALS as usize) * 3)
    {
        _ if seen < INTERVALS_MIN => Err(format!("{seen} readings, {INTERVALS_MIN} are needed (--for longer)")),
        Some(found) => Ok((found, quiet.len())),
        None => {
            let (count, load) =
                bins.iter().fold((0.0, 0.0), |(n, sum), bin| (n + bin.count, sum + bin.count * bin.load));
            Err(format!("the CPUs were {:.1} % busy", 100.0 * load / count.max(1.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::learner::Prior;
    use crate::meter::Domain;

    fn told(loads: impl Iterator<Item = f64>) -> Result<(f64, usize), String> {
        let (mut learner, mut end) = (Learner::default(), Duration::ZERO);
        for load in loads {
            end += Duration::from_secs(4);
            learner.observe(end, load, 30.0 + 100.0 * load);
        }
        let found = learner.estimate(end, &Prior::of(Domain::Package, None));
        measured(&learner, found).map(|(found, from)| (found.watts, from))
    }

    #[test]
    fn only_a_drained_node_is_calibrated() {
        let (watts, from) = told((0..32).map(|n| f64::from(n % 10) / 1000.0)).unwrap();
        assert!((watts - 30.45).abs() < 0.1, "{watts}");
        assert_eq!(from, 32);
        assert_eq!(told((0..32).map(|n| if n % 2 == 0 { 0.0 } else { 0.4 })).unwrap_err(), "the CPUs were 20.0 % busy");
        assert_eq!(told((0..5).map(|_| 0.0)).unwrap_err(), "5 readings, 8 are needed (--for longer)");
    }
}
