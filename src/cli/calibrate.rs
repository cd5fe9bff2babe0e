//! `wattribute calibrate`: what a drained node draws at rest, measured and kept.
//!
//! Zones are watched as `run` would, from nothing, and as often: longer steps would outlast what a counter can be
//! trusted for. What is known of the steps is added up to at most 32 intervals. What counts is the median of those in
//! which the CPUs were busy for less than 1.5 % of their time; where a quarter of the intervals was busier, the node is
//! not drained, and the zone is refused. A step that `run` would not learn from is not used, and is said. Cards and
//! drives are not calibrated: how busy the CPUs are says nothing about them. What was kept of other zones stays.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::agent::Agent;
use crate::attribute::learner::{Bin, Estimate, Learner, Prior, Source};
use crate::attribute::memory::{Kept, meaning};
use crate::cli::state::Keeper;
use crate::cli::{UsageError, live, print_line};
use crate::clock::{self, Timestamp};
use crate::config::{Config, Idle};
use crate::export::{Snapshot, ZoneBook};
use crate::meter::{Domain, Quality, Role, State};
use crate::unit::{CpuTime, Microjoules};

/// As many intervals as a learner keeps of quiet ones.
const INTERVALS: u32 = 32;
/// Fewer have no median worth keeping.
const INTERVALS_MIN: usize = 8;
/// No interval is shorter.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// No step is longer, however seldom `run` reads its meters: the smallest counters wrap after less than a minute.
const STEP_MAX: Duration = Duration::from_secs(5);

const STOLEN: &str = "with time stolen by the hypervisor";
const UNKNOWN: &str = "with CPU time unknown";
const CARD: &str = "with a card at work";

type Calibrated = BTreeMap<String, Kept<Estimate>>;

/// Runs the command.
///
/// # Errors
/// Without a state directory that can be written, on a machine whose roots cannot be opened, and when nothing could be
/// calibrated.
pub fn calibrate(mut config: Config, time: Duration) -> anyhow::Result<()> {
    // The user's own watts are no reason not to measure.
    config.attribution.idle = Idle::Learned;
    let host = live(&config)?;
    let Some(keeper) = Keeper::of(&config, &host) else {
        let advice = "state.directory: calibrate keeps what it measures there; set it, as `run` will need it too: \
                      --set state.directory=/var/lib/wattribute";
        return Err(UsageError(advice.into()).into());
    };
    keeper.prepare()?;
    let interval = config.interval.0;
    let mut agent = Agent::new(host, config, clock::now());
    let watches = watch(&mut agent, time, interval, clock::now(), &mut |_, next| {
        std::thread::sleep(next.saturating_sub(clock::now().boot));
        clock::now()
    });
    let snapshot = agent.snapshot();
    if !snapshot.zones.iter().any(is_metered) {
        anyhow::bail!("no meter can be read here (see wattribute discover); a model is set right by model.calibration");
    }
    let (text, measured) = judge(&watches, &snapshot);
    print_line(text.trim_end())?;
    if measured.is_empty() {
        anyhow::bail!("nothing was calibrated, for the reasons above; what was kept before is left as it was");
    }
    // Read as late as this, so that little is lost if another one was at it too.
    let (text, calibrated) = merge(keeper.calibrated(), measured, &snapshot);
    let path = keeper.save_calibration(&calibrated)?;
    print_line(&format!("{text}\nkept in {}; a running agent takes it at its next start", path.display()))
}

/// Zones of the sum that are measured.
fn is_metered(book: &ZoneBook) -> bool {
    book.zone.role == Role::Primary && book.zone.quality == Quality::Measured
}

/// Steps the agent for `time`, which begins at `start`; `wait` returns when the boot time that it is given has come.
fn watch(
    agent: &mut Agent,
    time: Duration,
    interval: Duration,
    start: Timestamp,
    wait: &mut dyn FnMut(&Agent, Duration) -> Timestamp,
) -> BTreeMap<String, Watch> {
    let span = (time / INTERVALS).max(INTERVAL_MIN);
    let steps = span.as_nanos().div_ceil(interval.min(STEP_MAX).as_nanos().max(1));
    let step = span / u32::try_from(steps).unwrap_or(u32::MAX);
    let mut watches: BTreeMap<String, Watch> = BTreeMap::new();
    agent.step(start);
    let mut next = start.boot;
    while next < start.boot + time {
        next += step;
        let now = wait(agent, next);
        // Late by more than a step (stopped, suspended): one step covers it, none is made up.
        next = next.max(now.boot.saturating_sub(step));
        agent.step(now);
        let learned = agent.memory().learned;
        for book in agent.snapshot().zones.iter().filter(|book| is_metered(book)) {
            let watch = watches.entry(book.zone.id.clone()).or_default();
            let usage = agent.usage().on(book.zone.socket);
            watch.cpu.add((usage.busy, usage.capacity, usage.stolen));
            watch.cpu.unknown |= !usage.load_known;
            let samples = learned.get(&book.zone.id).map_or(0, |kept| kept.what.samples());
            watch.take(book, samples);
            if watch.open.covers + step / 2 >= span {
                watch.close(now);
            }
        }
    }
    watches
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default)]
struct Cpu {
    busy: CpuTime,
    capacity: CpuTime,
    stolen: CpuTime,
    /// How busy the CPUs were is not known of all of it.
    unknown: bool,
}

impl Cpu {
    fn add(&mut self, (busy, capacity, stolen): (CpuTime, CpuTime, CpuTime)) {
        self.busy += busy;
        self.capacity += capacity;
        self.stolen += stolen;
    }
}

/// An interval that is not over.
#[derive(Debug, Default)]
struct Open {
    energy: Microjoules,
    covers: Duration,
    cpu: Cpu,
}

/// What was seen of a zone.
#[derive(Debug, Default)]
struct Watch {
    /// What its id stands for.
    meaning: String,
    /// How much the ledger has learned of.
    samples: u32,
    /// When its last reading was, and what was used since.
    until: Timestamp,
    cpu: Cpu,
    open: Open,
    /// Of whole intervals.
    learner: Learner,
    /// Steps that are not used, by reason.
    unused: BTreeMap<&'static str, u32>,
}

impl Watch {
    /// Takes in what became of the zone at this step; the ledger has learned from so many `samples`.
    fn take(&mut self, book: &ZoneBook, samples: u32) {
        let now = meaning(&book.zone);
        if self.meaning != now {
            // Another sensor: nothing of what was seen holds.
            *self = Self { meaning: now, cpu: self.cpu, ..Self::default() };
        }
        let learns = std::mem::replace(&mut self.samples, samples) != samples;
        let begins = std::mem::replace(&mut self.until, book.until) != book.until;
        let Some(energy) = book.measured else {
            if !matches!(book.state, State::First | State::Pending) {
                *self.unused.entry(book.state.as_str()).or_default() += 1;
            }
            // A reading was accepted, and nothing booked: the interval begins anew.
            if begins {
                self.cpu = Cpu::default();
            }
            return;
        };
        let Cpu { busy, capacity, stolen, unknown } = std::mem::take(&mut self.cpu);
        if learns {
            self.open.energy += energy;
            self.open.covers += book.covers;
            self.open.cpu.add((busy, capacity, stolen));
            return;
        }
        let why = if unknown || capacity == CpuTime::ZERO {
            UNKNOWN
        } else if stolen.0 > capacity.0 / 200 {
            STOLEN
        } else {
            CARD
        };
        *self.unused.entry(why).or_default() += 1;
    }

    /// One interval is over.
    fn close(&mut self, now: Timestamp) {
        let Open { energy, covers, cpu } = std::mem::take(&mut self.open);
        self.learner.observe(now.boot, cpu.busy.seconds() / cpu.capacity.seconds(), energy.watts_over(covers));
    }

    /// What the zone drew at rest, from how many intervals; or why that is not known, and what may help.
    fn measured(&self, book: &ZoneBook) -> Result<(Estimate, usize), String> {
        let parts = self.learner.parts();
        let seen = self.learner.samples() as usize;
        let most = self.unused.iter().max_by_key(|(_, count)| **count);
        if matches!(book.zone.domain, Domain::Gpu | Domain::Storage) {
            return Err(
                "how busy the CPUs are says nothing about it: not calibrated; attribution.idle takes watts".into()
            );
        }
        if let (true, Some((cause, _))) = (seen < INTERVALS_MIN, most) {
            let advice = match *cause {
                STOLEN => "wait until the other guests of this host are quiet",
                CARD => "end what runs on the cards",
                _ => "see wattribute discover",
            };
            return Err(format!("{}: not calibrated; {advice}", self.unused()));
        }
        if seen < INTERVALS_MIN {
            let few =
                if seen == 0 { "no readings".into() } else { format!("{seen} readings, {INTERVALS_MIN} are needed") };
            return Err(format!("{few}: not calibrated; --for longer"));
        }
        if parts.floor == 0.0 {
            return Err(format!("it stands still: not calibrated; {} should move even at rest", book.zone.path));
        }
        let latest = Duration::from_secs(parts.bins.iter().map(|bin| u64::from(bin.at)).max().unwrap_or(0));
        let found = self.learner.estimate(latest, &Prior::of(book.zone.domain, None));
        let drained = parts.quiet.len() * 4 >= seen.min(INTERVALS as usize) * 3;
        match found.filter(|found| found.source == Source::Observed && drained) {
            Some(found) if found.watts > 0.0 => Ok((found, parts.quiet.len())),
            Some(_) => {
                Err(format!("it mostly stands still: not calibrated; is {} the counter of a part?", book.zone.path))
            }
            None => {
                let sum = |(count, load): (f64, f64), bin: &Bin| {
                    let more = f64::from(bin.count);
                    (count + more, load + more * f64::from(bin.load))
                };
                let (count, load) = parts.bins.iter().fold((0.0, 0.0), sum);
                let busy = 100.0 * load / count.max(1.0);
                let advice = "drain the node (kubectl drain), wait for it to settle, and try again";
                Err(format!("the CPUs were {busy:.1} % busy: not calibrated; {advice}"))
            }
        }
    }

    /// The steps that are not used, in words: `not used: 2 gap, 5 with a card at work`.
    fn unused(&self) -> String {
        let words: Vec<String> = self.unused.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        format!("not used: {}", words.join(", "))
    }
}

/// A line for each zone of the sum, and what is to be kept.
fn judge(watches: &BTreeMap<String, Watch>, snapshot: &Snapshot) -> (String, Calibrated) {
    let mut calibrated = Calibrated::new();
    let mut text = format!("{:<24} {:>10} {:>8}  {}\n", "ZONE", "IDLE W", "± W", "FROM");
    for book in snapshot.zones.iter().filter(|book| is_metered(book)) {
        let id = &book.zone.id;
        let Some(watch) = watches.get(id) else { continue };
        match watch.measured(book) {
            Ok((found, from)) => {
                let _ = write!(text, "{id:<24} {:>10.3} {:>8.3}  {from} quiet intervals", found.watts, found.error);
                let unused = if watch.unused.is_empty() { String::new() } else { format!("; {}", watch.unused()) };
                let _ = writeln!(text, "{unused}");
                let what = Estimate { source: Source::Calibrated, ..found };
                calibrated.insert(id.clone(), Kept { meaning: watch.meaning.clone(), what });
            }
            Err(why) => {
                let _ = writeln!(text, "{id:<24} {:>10} {:>8}  {why}", "-", "-");
            }
        }
    }
    (text, calibrated)
}

/// What was measured and what was kept `before`; a line for each zone that was not measured.
fn merge(before: Calibrated, measured: Calibrated, snapshot: &Snapshot) -> (String, Calibrated) {
    let mut text = String::new();
    let mut calibrated = measured;
    for (id, kept) in before {
        if calibrated.contains_key(&id) {
            continue;
        }
        let book = snapshot.zones.iter().find(|book| book.zone.id == id);
        if let Some(now) = book.map(|book| meaning(&book.zone)).filter(|now| *now != kept.meaning) {
            let _ = writeln!(text, "{id}: no longer kept: it was {:?} and is {now:?}", kept.meaning);
            continue;
        }
        let Estimate { watts, error, .. } = kept.what;
        let _ = writeln!(text, "{id}: left as it was: {watts:.3} ± {error:.3} W");
        calibrated.insert(id, kept);
    }
    (text, calibrated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::host::Host;
    use crate::host::memory::Memory;

    /// What a machine does: by the second, how busy it is and what of its time is stolen, in percent, and µJ a second
    /// of its two zones.
    struct Machine {
        range: u64,
        limit: Option<u64>,
        load: fn(u64) -> u64,
        stolen: fn(u64) -> u64,
        package: fn(u64) -> u64,
        dram: fn(u64) -> u64,
    }

    const QUIET: Machine = Machine {
        range: 262_143_328_850,
        limit: None,
        load: |_| 0,
        stolen: |_| 0,
        package: |_| 30_000_000,
        dram: |_| 5_000_000,
    };

    fn set(memory: &mut Memory, path: &str, text: &str) {
        memory.set_file(path, text.as_bytes()).unwrap();
    }

    impl Machine {
        fn show(&self, memory: &mut Memory, now: Duration) {
            let whole = now.as_secs();
            let sum = |one: fn(u64) -> u64| {
                (0..whole).map(one).sum::<u64>() + one(whole) * u64::from(now.subsec_nanos()) / 1_000_000_000
            };
            let (busy, stolen) = (sum(self.load), sum(self.stolen));
            let idle = sum(|_| 100) - busy - stolen;
            let line = format!("{busy} 0 0 {idle} 0 0 0 {stolen} 0 0");
            set(memory, "proc/stat", &format!("cpu  {line}\ncpu0 {line}\n"));
            for (zone, energy) in [("intel-rapl:0", self.package), ("intel-rapl:0:0", self.dram)] {
                let count = sum(energy) % self.range;
                set(memory, &format!("sys/class/powercap/{zone}/energy_uj"), &format!("{count}\n"));
            }
        }

        /// What is seen of it in `time`, with meters read every `interval`.
        fn watched(&self, time: Duration, interval: Duration) -> (BTreeMap<String, Watch>, Agent) {
            let mut memory = Memory::default();
            for (zone, name) in [("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "dram")] {
                set(&mut memory, &format!("sys/class/powercap/{zone}/name"), &format!("{name}\n"));
                let range = format!("{}\n", self.range);
                set(&mut memory, &format!("sys/class/powercap/{zone}/max_energy_range_uj"), &range);
                if let Some(limit) = self.limit {
                    set(
                        &mut memory,
                        &format!("sys/class/powercap/{zone}/constraint_0_max_power_uw"),
                        &format!("{limit}\n"),
                    );
                }
            }
            self.show(&mut memory, Duration::ZERO);
            let config = Config::load(Sources { file: None, env: [], sets: &[] }).unwrap().config;
            let mut agent = Agent::new(Host::memory(memory), config, Timestamp::default());
            let watches = watch(&mut agent, time, interval, Timestamp::default(), &mut |agent, next| {
                agent.host().with_memory(|memory| self.show(memory, next));
                Timestamp { boot: next, ..Timestamp::default() }
            });
            (watches, agent)
        }

        /// The lines of both zones, and what is to be kept of them.
        fn judged(&self, time: u64) -> (String, String, Calibrated) {
            let (watches, agent) = self.watched(Duration::from_secs(time), Duration::from_secs(1));
            let (text, calibrated) = judge(&watches, &agent.snapshot());
            let line = |id: &str| text.lines().find(|line| line.starts_with(id)).unwrap_or_default().to_owned();
            (line("rapl:package-0 "), line("rapl:package-0/dram"), calibrated)
        }
    }

    const DRAIN: &str = "drain the node (kubectl drain), wait for it to settle, and try again";

    #[test]
    fn only_a_drained_node_is_calibrated() {
        let (package, dram, calibrated) = QUIET.judged(120);
        assert!(package.ends_with("     30.000    0.000  32 quiet intervals"), "{package}");
        assert!(dram.ends_with("      5.000    0.000  32 quiet intervals"), "{dram}");
        assert_eq!(calibrated.len(), 2);
        let load = |second: u64| if (second / 4).is_multiple_of(2) { 0 } else { 40 };
        let (package, _, calibrated) = Machine { load, ..QUIET }.judged(128);
        assert!(package.ends_with(&format!("the CPUs were 20.0 % busy: not calibrated; {DRAIN}")), "{package}");
        assert!(calibrated.is_empty());
        let (package, ..) = QUIET.judged(5);
        assert!(package.ends_with("5 readings, 8 are needed: not calibrated; --for longer"), "{package}");
    }

    #[test]
    fn a_long_calibration_reads_as_often_as_a_run() {
        // Two kilojoules last for 1.3 s at what a part without a limit can draw, 65,532 J for 44 s.
        for (range, limit, time) in
            [(2_000_000_000, None, 64), (65_532_610_987, None, 3600), (65_532_610_987, Some(1_000_000_000), 7200)]
        {
            let (package, _, calibrated) = Machine { range, limit, ..QUIET }.judged(time);
            assert!(package.ends_with("  32 quiet intervals"), "{time} s: {package}");
            assert!((calibrated["rapl:package-0"].what.watts - 30.0).abs() < 0.01, "{time} s: {package}");
        }
        // However seldom the run reads, there are as many steps as needed, and no more intervals than are kept.
        let (watches, _) = QUIET.watched(Duration::from_secs(3600), Duration::from_secs(600));
        assert_eq!(watches["rapl:package-0"].learner.samples(), 32);
    }

    #[test]
    fn what_was_refused_is_not_used_and_is_said() {
        // In the 40th second the counter jumps by more than the part can draw.
        let package = |second: u64| if second == 40 { 9_000_000_000 } else { 30_000_000 };
        let (package, dram, calibrated) = Machine { package, ..QUIET }.judged(128);
        assert!(package.ends_with("  31 quiet intervals; not used: 1 implausible"), "{package}");
        assert!(dram.ends_with("  32 quiet intervals"), "{dram}");
        assert!((calibrated["rapl:package-0"].what.watts - 30.0).abs() < 0.001, "{package}");
        let (package, _, calibrated) = Machine { stolen: |_| 2, ..QUIET }.judged(64);
        let why = "not used: 64 with time stolen by the hypervisor: not calibrated; wait until the other guests of \
                   this host are quiet";
        assert!(package.ends_with(why), "{package}");
        assert!(calibrated.is_empty());
    }

    #[test]
    fn a_counter_that_stands_still_is_not_calibrated() {
        let (package, dram, calibrated) = Machine { dram: |_| 0, ..QUIET }.judged(60);
        assert!(package.ends_with("quiet intervals"), "{package}");
        let why = "it stands still: not calibrated; /sys/class/powercap/intel-rapl:0:0 should move even at rest";
        assert!(dram.ends_with(why), "{dram}");
        assert_eq!(calibrated.keys().collect::<Vec<_>>(), ["rapl:package-0"]);
        let dram = |second: u64| if second.is_multiple_of(10) { 1_000_000 } else { 0 };
        let (_, dram, calibrated) = Machine { dram, ..QUIET }.judged(60);
        assert!(dram.contains("  it mostly stands still: not calibrated; "), "{dram}");
        assert_eq!(calibrated.len(), 1, "a median of 0 W is none");
    }

    #[test]
    fn what_was_kept_of_other_zones_stays_and_is_said() {
        let (_, agent) = QUIET.watched(Duration::from_secs(2), Duration::from_secs(1));
        let kept = |meaning: &str, watts: f64| {
            let what = Estimate { watts, error: 0.5, source: Source::Calibrated };
            Kept { meaning: meaning.into(), what }
        };
        let of = |zones: &[(&str, &str, f64)]| -> Calibrated {
            zones.iter().map(|(id, meaning, watts)| ((*id).to_owned(), kept(meaning, *watts))).collect()
        };
        let before = of(&[
            ("rapl:package-0", "rapl package measured", 28.0),
            ("rapl:package-0/dram", "rapl dram measured", 6.0),
            ("rapl:package-1/dram", "rapl dram measured", 7.0),
        ]);
        let measured = of(&[("rapl:package-0", "rapl package measured", 30.0)]);
        let (text, all) = merge(before.clone(), measured.clone(), &agent.snapshot());
        let lines = "rapl:package-0/dram: left as it was: 6.000 ± 0.500 W\n\
                     rapl:package-1/dram: left as it was: 7.000 ± 0.500 W\n";
        assert_eq!(text, lines);
        assert_eq!(all.values().map(|kept| kept.what.watts).collect::<Vec<_>>(), [30.0, 6.0, 7.0]);
        let other = of(&[("rapl:package-0/dram", "rapl package measured", 6.0)]);
        let (text, all) = merge(other, measured.clone(), &agent.snapshot());
        let line =
            "rapl:package-0/dram: no longer kept: it was \"rapl package measured\" and is \"rapl dram measured\"\n";
        assert_eq!((text.as_str(), all), (line, measured));
    }
}
