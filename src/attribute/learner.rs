//! What a zone draws at rest, learned while it works.
//!
//! Idle power decides more than any weight how much of a meter's energy is anybody's: the share of time that CPUs were
//! idle makes it vanish at full load, the lowest power seen doubles it on a machine that is never quiet. So power is
//! kept by how busy the CPUs were, in [`BINS`] bins, and curves are fitted to them ([`super::fit`]), with the usual ratio
//! of idle to full power as a prior; what they say of no load is the power at rest. Where intervals with (nearly)
//! nothing to do were seen, their median is, instead.
//!
//! What is learned is the power at the lowest activity that the model can tell: on a node that is never quiet, what it
//! takes to keep the sockets awake is part of it. A machine changes: bins forget within a day, and quiet intervals
//! count for [`QUIET_MEMORY`] after the last of them. Watts and shares of time are plain `f32`/`f64` here; the ledger
//! turns the result into whole microjoules.

use std::time::Duration;

use super::fit::{Point, Points};
use crate::meter::Domain;
use crate::meter::processor::{Generation, unknown};

/// Bins of utilisation: the first is 0 to 2.5 %.
pub const BINS: usize = 40;
/// The mean of a bin follows its newest samples.
const COUNT_MAX: f32 = 20.0;
/// What was seen longer ago than this counts a third.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Below this share of CPU time nothing but the system's own upkeep runs.
const QUIET: f64 = 0.015;
/// So long after the last quiet interval their median is what the machine draws at rest: later it may have other
/// memory, cards and settings, and the curve, which follows it within a day, knows better.
pub const QUIET_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);
/// So many quiet intervals have a median,
const QUIET_MIN: usize = 3;
/// and no more are kept.
const QUIET_MAX: usize = 32;
/// So many intervals make an estimate more than the prior.
const LEARNED_MIN: u32 = 20;
/// No zone draws as much, W.
pub const WATTS_MAX: f64 = 1e6;
/// At least this share of the mean power is drawn at rest.
const SHARE_MIN: f64 = 0.02;
/// The step of the running percentile, as a share of the mean power, and the percentile.
const STEP: f64 = 0.02;
const PERCENTILE: f64 = 0.01;

/// What is known of a zone before it was ever read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Idle over full power.
    pub ratio: f64,
    /// How far the ratio of idle to active power of a zone is from that of `ratio`, as a share of it.
    pub spread: f64,
    /// The shape of the curve between idle (0) and full power (1), at 0, 10, … 100 % of load.
    pub shape: [f64; 11],
}

impl Prior {
    /// Of a zone of `domain`, on a machine with a processor of `generation`, where that is known.
    #[must_use]
    pub fn of(domain: Domain, generation: Option<&Generation>) -> Self {
        let (ratio, spread) = match (domain, generation) {
            // Memory refreshes and fans turn whether anything happens or not: some do nothing else.
            (Domain::Dram | Domain::Rest, _) => (0.5, 1.0),
            (_, Some(generation)) => (generation.idle_over_max, 0.45),
            (Domain::Package | Domain::Soc | Domain::Module, None) => (0.2, 0.45),
            (_, None) => (0.22, 0.45),
        };
        Self { ratio, spread, shape: generation.unwrap_or_else(|| unknown()).shape }
    }
}

/// Where a power at rest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The user has said it.
    Configured,
    /// `wattribute calibrate` has measured it.
    Calibrated,
    /// There were quiet intervals.
    Observed,
    /// From the curve.
    Learned,
    /// Too little has been seen: what such zones usually draw.
    Prior,
}

impl Source {
    /// The word in JSON and in attributes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Calibrated => "calibrated",
            Self::Observed => "observed",
            Self::Learned => "learned",
            Self::Prior => "prior",
        }
    }
}

/// A power at rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// W.
    pub watts: f64,
    /// One standard deviation, W.
    pub error: f64,
    /// Where it comes from.
    pub source: Source,
}

/// The samples of one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// How many, when the last came.
    pub count: f32,
    /// Mean utilisation, 0 to 1.
    pub load: f32,
    /// Mean power, W.
    pub watts: f32,
    /// When the last came, s since boot.
    pub at: u32,
}

/// The learner of one zone: 0.8 kB.
#[derive(Debug, Clone, PartialEq)]
pub struct Learner {
    bins: [Bin; BINS],
    quiet: [f32; QUIET_MAX],
    quiet_count: u32,
    /// When the last of them came, s since boot.
    quiet_at: u32,
    /// The running first percentile of power; 0 only while no interval had any energy.
    floor: f32,
    samples: u32,
}

/// What is to be kept of a learner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts<'a> {
    /// The bins; those with a count of 0 hold nothing.
    pub bins: &'a [Bin],
    /// The power of quiet intervals, W.
    pub quiet: &'a [f32],
    /// When the last of them came, s since boot.
    pub quiet_at: u32,
    /// The running first percentile of power, W.
    pub floor: f32,
    /// How many intervals it has seen.
    pub samples: u32,
}

impl Default for Learner {
    fn default() -> Self {
        Self {
            bins: [Bin::default(); BINS],
            quiet: [0.0; QUIET_MAX],
            quiet_count: 0,
            quiet_at: 0,
            floor: f32::INFINITY,
            samples: 0,
        }
    }
}

impl Learner {
    /// Takes one interval in, which ended at `at` since boot: the CPUs were busy for the share `load` of their time, and
    /// the zone drew `watts`.
    pub fn observe(&mut self, at: Duration, load: f64, watts: f64) {
        if !(load.is_finite() && (0.0..=WATTS_MAX).contains(&watts)) {
            return;
        }
        let load = load.clamp(0.0, 1.0);
        let now = seconds(at);
        // By what is kept of it, so that a bin is found again where it was.
        if let Some(bin) = self.bins.get_mut(bin_of(f64::from(single(load)))) {
            let kept = (bin.count * decay(now, bin.at)).min(COUNT_MAX - 1.0);
            bin.count = kept + 1.0;
            bin.load += (single(load) - bin.load) / bin.count;
            bin.watts += (single(watts) - bin.watts) / bin.count;
            bin.at = now;
        }
        if load < QUIET {
            if self.quiet_is_over(now) {
                self.quiet_count = 0;
            }
            if let Some(place) = self.quiet.get_mut(self.quiet_count as usize % QUIET_MAX) {
                *place = single(watts);
                self.quiet_count = self.quiet_count.wrapping_add(1).max(1);
                self.quiet_at = now;
            }
        }
        self.follow_floor(watts);
        self.samples = self.samples.saturating_add(1);
    }

    /// Whether the quiet intervals are too long ago.
    fn quiet_is_over(&self, now: u32) -> bool {
        u64::from(now.saturating_sub(self.quiet_at)) > QUIET_MEMORY.as_secs()
    }

    /// A percentile that needs no memory: it sinks often by little and rises seldom by much, in balance at its place.
    /// An interval without energy is one in which a coarse counter did not move: beside others it says nothing.
    fn follow_floor(&mut self, watts: f64) {
        let floor = f64::from(self.floor);
        if single(watts) == 0.0 {
            self.floor = if floor.is_finite() { self.floor } else { 0.0 };
            return;
        }
        self.floor = single(if !floor.is_finite() || floor == 0.0 {
            watts
        } else if self.samples < LEARNED_MIN {
            floor.min(watts)
        } else if watts < floor {
            floor - (STEP * watts * (1.0 - PERCENTILE)).min(floor - watts)
        } else {
            floor + (STEP * watts * PERCENTILE).min(watts - floor)
        });
    }

    /// How many intervals it has seen.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// The power at rest at `now` since boot; none before the first interval.
    #[must_use]
    pub fn estimate(&self, now: Duration, prior: &Prior) -> Option<Estimate> {
        let now = seconds(now);
        self.observed().filter(|_| !self.quiet_is_over(now)).or_else(|| self.fitted(now, prior))
    }

    /// The median of the quiet intervals, and how far three quarters of them are from it.
    fn observed(&self) -> Option<Estimate> {
        let count = (self.quiet_count as usize).min(QUIET_MAX);
        if count < QUIET_MIN {
            return None;
        }
        let mut sorted = self.quiet;
        let sorted = sorted.get_mut(..count)?;
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |index: usize| sorted.get(index).copied().map_or(0.0, f64::from);
        let median = f64::midpoint(at(count / 2), at((count - 1) / 2));
        // Half of a normal distribution is within 0.674 standard deviations.
        let error = (at(count * 3 / 4) - at(count / 4)) / 2.0 / 0.674;
        Some(Estimate { watts: median, error, source: Source::Observed })
    }

    fn fitted(&self, now: u32, prior: &Prior) -> Option<Estimate> {
        let held = self.bins.iter().filter(|bin| bin.count > 0.0);
        let points = Points::new(held.map(|bin| Point {
            count: f64::from(bin.count * decay(now, bin.at)),
            load: f64::from(bin.load),
            watts: f64::from(bin.watts),
        }))?;
        let (rest, error) = points.rest(prior);
        let watts = rest.max(SHARE_MIN * points.mean()).min(f64::from(self.floor));
        let source = if self.samples < LEARNED_MIN { Source::Prior } else { Source::Learned };
        Some(Estimate { watts, error, source })
    }

    /// What is to be kept.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        let quiet = self.quiet.get(..(self.quiet_count as usize).min(QUIET_MAX)).unwrap_or_default();
        Parts { bins: &self.bins, quiet, quiet_at: self.quiet_at, floor: self.floor, samples: self.samples }
    }

    /// A learner from what was kept, at `now` since boot.
    ///
    /// What is asked is what every learner keeps to, whatever it has seen. The floor may be above all bins: it sinks
    /// more slowly than they do.
    ///
    /// # Errors
    /// Why that cannot have come from one.
    pub fn from_parts(parts: &Parts<'_>, now: Duration) -> Result<Self, &'static str> {
        let &Parts { bins, quiet, quiet_at, floor, samples } = parts;
        let now = seconds(now);
        let check = |holds: bool, reason| if holds { Ok(()) } else { Err(reason) };
        let power = |watts: f32| (0.0..=WATTS_MAX).contains(&f64::from(watts));
        let mut learner = Self { floor, samples, ..Self::default() };
        let mut counts = 0.0;
        for bin in bins.iter().filter(|bin| bin.count != 0.0) {
            check(power(bin.watts), "no zone draws the power of a bin")?;
            check((1.0..=COUNT_MAX).contains(&bin.count), "no bin holds so many intervals")?;
            check((0.0..=1.0).contains(&bin.load), "no CPU is so busy")?;
            check(bin.at <= now, "a bin is dated after now")?;
            let place = learner.bins.get_mut(bin_of(f64::from(bin.load))).filter(|place| place.count == 0.0);
            *place.ok_or("a bin is there twice")? = *bin;
            counts += f64::from(bin.count);
        }
        check(samples > 0 && counts > 0.0, "there are no intervals in it")?;
        // Adding up rounds in the seventh digit.
        check(counts < f64::from(samples) + 0.01, "the bins hold more intervals than there were")?;
        check(power(floor), "no zone draws the power of the floor")?;
        let energy = |watts: f32| watts > 0.0;
        let any = bins.iter().any(|bin| bin.count != 0.0 && energy(bin.watts)) || quiet.iter().any(|one| energy(*one));
        check(floor > 0.0 || !any, "the floor is 0 W beside bins that are not")?;
        check(quiet.iter().all(|watts| power(*watts)), "no zone draws the power of a quiet interval")?;
        let places = learner.quiet.get_mut(..quiet.len()).ok_or("it has too many quiet intervals")?;
        places.copy_from_slice(quiet);
        let first = learner.bins.first().filter(|bin| bin.count > 0.0);
        check(quiet.is_empty() || first.is_some(), "quiet intervals are in no bin")?;
        check(quiet.len() as u64 <= u64::from(samples), "there are more quiet intervals than intervals")?;
        check(quiet_at <= now, "a quiet interval is dated after now")?;
        learner.quiet_count = u32::try_from(quiet.len()).unwrap_or_default();
        learner.quiet_at = quiet_at;
        Ok(learner)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 40
fn bin_of(load: f64) -> usize {
    ((load * 40.0) as usize).min(BINS - 1)
}

#[allow(clippy::cast_possible_truncation)] // seven digits are more than a meter has
fn single(value: f64) -> f32 {
    value as f32
}

/// Since boot, as it is kept.
fn seconds(at: Duration) -> u32 {
    u32::try_from(at.as_secs()).unwrap_or(u32::MAX)
}

fn decay(now: u32, then: u32) -> f32 {
    single((-f64::from(now.saturating_sub(then)) / MEMORY.as_secs_f64()).exp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attribute::fit::tests::shape as curve;

    const PRIOR: Prior =
        Prior { ratio: 0.2, spread: 0.45, shape: [0.0, 0.17, 0.24, 0.3, 0.37, 0.44, 0.52, 0.61, 0.72, 0.87, 1.0] };

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    /// 30 W at rest, 130 W at full load, along one of the shapes.
    fn taught(shape: usize, loads: impl Iterator<Item = f64>) -> Learner {
        let mut learner = Learner::default();
        for (n, load) in loads.enumerate() {
            let at = Duration::from_secs(5 * n as u64);
            learner.observe(at, load, 30.0 + 100.0 * curve(shape, load, &PRIOR));
        }
        learner
    }

    fn sweep(low: f64, high: f64) -> impl Iterator<Item = f64> {
        (0..240).map(move |n| low + (high - low) * f64::from(n * 77 % 240) / 240.0)
    }

    #[test]
    fn rest_is_found_below_the_load_that_was_seen_along_every_shape() {
        for shape in 0..4 {
            let found = taught(shape, sweep(0.05, 0.6)).estimate(hours(1), &PRIOR).unwrap();
            assert_eq!(found.source, Source::Learned);
            assert!((found.watts - 30.0).abs() < 6.5, "shape {shape}: {found:?}");
            assert!((found.watts - 30.0).abs() < 2.0 * found.error, "shape {shape}: {found:?}");
        }
    }

    #[test]
    fn a_load_that_never_changes_leaves_the_prior() {
        let found = taught(0, sweep(0.5, 0.5)).estimate(hours(1), &PRIOR).unwrap();
        assert!((20.0..35.0).contains(&found.watts), "80 W at half load: {found:?}");
        assert!(found.error > 5.0, "and says how little is known: {found:?}");
    }

    #[test]
    fn quiet_intervals_beat_the_curve() {
        let quiet = [0.01, 0.002, 0.012].into_iter();
        let found = taught(0, sweep(0.3, 0.9).chain(quiet)).estimate(hours(1), &PRIOR).unwrap();
        assert_eq!(found.source, Source::Observed);
        assert!((found.watts - 31.0).abs() < 0.1, "their median: {found:?}");
    }

    #[test]
    fn few_intervals_are_called_the_prior() {
        assert_eq!(Learner::default().estimate(hours(0), &PRIOR), None);
        let found = taught(0, [1.0].into_iter()).estimate(hours(0), &PRIOR).unwrap();
        assert_eq!(found.source, Source::Prior);
        assert!((found.watts - 26.0).abs() < 0.1, "a fifth of 130 W: {found:?}");
    }

    #[test]
    fn rest_is_never_more_than_nearly_all_that_was_drawn() {
        let mut learner = Learner::default();
        for n in 0..2000_u32 {
            // The busier, the less: no machine, but a sensor may say so.
            let load = f64::from(n % 20) / 20.0 * 0.5 + 0.5;
            learner.observe(Duration::from_secs(n.into()), load, 100.0 - 60.0 * load);
        }
        let found = learner.estimate(hours(1), &PRIOR).unwrap();
        assert!(found.watts <= 44.0, "the lowest was 41.5 W: {found:?}");
    }

    #[test]
    fn a_machine_that_changes_is_learned_anew_within_days() {
        let mut learner = taught(0, sweep(0.05, 0.6));
        for (n, load) in (0..8).flat_map(|_| sweep(0.05, 0.6)).enumerate() {
            learner.observe(hours(48) + Duration::from_secs(n as u64), load, 60.0 + 200.0 * curve(3, load, &PRIOR));
        }
        let found = learner.estimate(hours(49), &PRIOR).unwrap();
        assert!((found.watts - 60.0).abs() < 4.0, "{found:?}");
    }

    #[test]
    fn what_was_kept_goes_on_and_what_cannot_be_is_refused() {
        let learner = taught(3, sweep(0.0, 0.6));
        let parts = learner.parts();
        let again = Learner::from_parts(&parts, hours(1)).unwrap();
        assert_eq!(again.estimate(hours(1), &PRIOR), learner.estimate(hours(1), &PRIOR));
        let why = |parts: Parts<'_>| Learner::from_parts(&parts, hours(1)).unwrap_err();
        let bad = |change: &dyn Fn(&mut Bin)| {
            let mut bins = parts.bins.to_vec();
            change(&mut bins[3]);
            why(Parts { bins: &bins, ..parts })
        };
        for watts in [f32::NAN, -1.0, 3e38] {
            assert_eq!(bad(&|bin| bin.watts = watts), "no zone draws the power of a bin");
        }
        assert_eq!(bad(&|bin| bin.load = 1.5), "no CPU is so busy");
        assert_eq!(bad(&|bin| bin.load = 0.001), "a bin is there twice");
        for count in [21.0, 0.5, f32::NAN] {
            assert_eq!(bad(&|bin| bin.count = count), "no bin holds so many intervals");
        }
        assert_eq!(bad(&|bin| bin.at = 3601), "a bin is dated after now");
        for quiet in [f32::INFINITY, 1e30, -1.0] {
            assert_eq!(why(Parts { quiet: &[quiet], ..parts }), "no zone draws the power of a quiet interval");
        }
        assert_eq!(why(Parts { quiet: &[1.0; 33], ..parts }), "it has too many quiet intervals");
        assert_eq!(why(Parts { quiet_at: 3601, ..parts }), "a quiet interval is dated after now");
        for floor in [f32::NAN, f32::INFINITY, 3e38, -1.0] {
            assert_eq!(why(Parts { floor, ..parts }), "no zone draws the power of the floor");
        }
        assert_eq!(why(Parts { floor: 0.0, ..parts }), "the floor is 0 W beside bins that are not");
        assert_eq!(why(Parts { bins: &[], ..parts }), "there are no intervals in it");
        assert_eq!(why(Parts { samples: 0, ..parts }), "there are no intervals in it");
        assert_eq!(why(Parts { samples: 20, ..parts }), "the bins hold more intervals than there were");
        let bins = &parts.bins[1..];
        assert_eq!(why(Parts { bins, ..parts }), "quiet intervals are in no bin");
        let one = [Bin { count: 1.0, load: 0.0, watts: 1.0, at: 0 }];
        let few = Parts { bins: &one, quiet: &[1.0; 2], quiet_at: 0, floor: 1.0, samples: 1 };
        assert_eq!(why(few), "there are more quiet intervals than intervals");
    }

    proptest! {
        #[test]
        fn whatever_a_learner_has_seen_it_is_taken_back(
            seen in proptest::collection::vec(
                (0..100_000_u64, prop_oneof![0.0..0.02_f64, 0.0..=1.0_f64, Just(0.025), Just(0.7)],
                    prop_oneof![Just(0.0), 0.0..0.001_f64, 0.0..400.0_f64, 0.0..2e6_f64]),
                1..400,
            ),
            last in 0..4_u32,
        ) {
            let (mut learner, mut now) = (Learner::default(), Duration::ZERO);
            for (step, load, watts) in seen {
                // Mostly seconds, sometimes a day.
                now += Duration::from_secs(if step < 99_000 { step % 10 } else { step });
                learner.observe(now, load, watts * f64::from(last.min(1)));
            }
            prop_assume!(learner.samples() > 0);
            let again = Learner::from_parts(&learner.parts(), now);
            prop_assert_eq!(again.map(|again| again.estimate(now, &PRIOR)), Ok(learner.estimate(now, &PRIOR)));
        }
    }

    #[test]
    fn quiet_intervals_count_for_a_week() {
        let mut learner = taught(0, sweep(0.05, 0.6).chain([0.0; 3]));
        // Memory and a card were added: twice as much, and the machine is never quiet again.
        let days = |days: u64| hours(24 * days);
        for (n, load) in (0..8).flat_map(|_| sweep(0.05, 0.6)).enumerate() {
            learner.observe(days(7) + Duration::from_secs(n as u64), load, 60.0 + 200.0 * curve(3, load, &PRIOR));
        }
        let found = learner.estimate(days(7), &PRIOR).unwrap();
        assert_eq!((found.source, found.watts), (Source::Observed, 30.0));
        let found = learner.estimate(days(7) + hours(1), &PRIOR).unwrap();
        assert_eq!(found.source, Source::Learned);
        assert!((found.watts - 60.0).abs() < 4.0, "{found:?}");
        learner.observe(days(8), 0.0, 60.0);
        assert_eq!(learner.parts().quiet, [60.0], "a new quiet interval is not mixed with those of then");
        let again = Learner::from_parts(&learner.parts(), days(8)).unwrap();
        assert_eq!(again.parts().quiet_at, learner.parts().quiet_at, "the age of the quiet ones is kept");
    }

    #[test]
    fn an_interval_without_energy_does_not_hold_the_floor_at_nothing() {
        let mut learner = Learner::default();
        learner.observe(hours(0), 0.5, 0.0);
        assert!(learner.parts().floor.abs() < f32::EPSILON);
        for (n, load) in sweep(0.05, 0.6).enumerate() {
            learner.observe(Duration::from_secs(n as u64), load, 30.0 + 100.0 * curve(0, load, &PRIOR));
        }
        let found = learner.estimate(hours(0), &PRIOR).unwrap();
        assert!((found.watts - 30.0).abs() < 8.0, "{found:?}");
    }

    #[test]
    fn what_is_no_number_teaches_nothing() {
        let mut learner = Learner::default();
        for (load, watts) in [(f64::NAN, 1.0), (0.5, f64::NAN), (0.5, -1.0), (f64::INFINITY, 1.0), (0.5, 3e38)] {
            learner.observe(hours(0), load, watts);
        }
        assert_eq!(learner.samples(), 0);
        assert!(std::mem::size_of::<Learner>() <= 1024);
    }
}
