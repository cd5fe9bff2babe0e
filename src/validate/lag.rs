//! How late the reference is: the shift within ±60 s at which it follows the books best.
//!
//! Both sides less their means are correlated at every shift, on the grid of the coarser cadence; a parabola through
//! the best shift and its neighbours gives the time between the shifts. A lag is only said where there is one clear
//! peak: signals that do not move, move too slowly, repeat themselves or do not resemble each other leave it unknown,
//! which is not the same as none.

use crate::validate::figures::Moments;
use crate::validate::series::{Grid, Series, float, whole};

/// The longest lag that is looked for (s).
pub const RANGE: f64 = 60.0;
/// The most cells that are correlated: with more, cells are made longer.
const CELLS_MAX: f64 = 5_000.0;
/// The fewest that say anything.
const CELLS_MIN: usize = 12;
/// A side moves if its standard deviation is more than this part of its mean.
const MOVES: f64 = 0.01;
/// The correlation at the peak must be at least this.
pub const ALIKE: f64 = 0.5;
/// How far the correlation must fall somewhere in the range.
const PROMINENT: f64 = 0.05;
/// In a run too short for all of ±60 s the correlation must be at least this,
const SURE: f64 = 0.9;
/// the load must cross its mean so often, where a few steps may resemble others by chance,
const TURNS: usize = 4;
/// or half as often with at least this correlation, which chance does not reach,
const EXACT: f64 = 0.99;
/// by this part of its standard deviation,
const MARGIN: f64 = 0.25;
/// and the lag must keep this part of the range away from its end.
const NEAR: f64 = 0.1;
/// Removing a lag must leave less than this part of what the correlation left unexplained.
const CLEARLY: f64 = 0.8;

/// The lag of a reference.
#[derive(Debug, Clone, PartialEq)]
pub enum Lag {
    /// It cannot be told, and why.
    Unknown(String),
    /// The reference shows what happened so many seconds before (s); negative: it is early.
    Known {
        /// How late it is (s).
        seconds: f64,
        /// The correlation at that lag.
        correlation: f64,
        /// Whether removing it clearly improves the correlation.
        removed: bool,
    },
}

impl Lag {
    /// The lag, where it is known.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        match self {
            Self::Known { seconds, .. } => Some(*seconds),
            Self::Unknown(_) => None,
        }
    }

    /// The lag, where it is to be removed.
    #[must_use]
    pub fn to_remove(&self) -> Option<f64> {
        self.seconds().filter(|_| matches!(self, Self::Known { removed: true, .. }))
    }
}

/// One shift and the correlation at it.
#[derive(Debug, Clone, Copy)]
struct Point {
    shift: f64,
    correlation: f64,
}

/// Looks for the lag of `reference` behind `books`; `step` is the cell of the grid that both are compared on.
#[must_use]
pub fn find(books: &Series, reference: &Series, step: f64) -> Lag {
    let unknown = |why: &str| Lag::Unknown(why.to_owned());
    let Some((from, to)) = reference.span() else { return unknown("there is no reference") };
    let Some(grid) = Grid::over(reference, step.max((to - from) / CELLS_MAX)) else { return unknown("too short") };
    let theirs = grid.means(reference, 0.0);
    let at = |shift: f64| {
        let ours = grid.means(books, -shift);
        Moments::of(ours.iter().zip(&theirs).filter_map(|(ours, theirs)| Some(((*ours)?, (*theirs)?))))
    };
    let now = at(0.0);
    let length = float(now.count) * grid.step;
    if now.count < CELLS_MIN {
        return unknown("too few samples");
    }
    let (ours_move, theirs_move) = now.deviations();
    if ours_move <= MOVES * now.x.abs() || theirs_move <= MOVES * now.y.abs() {
        return unknown("too little movement to tell: a load that comes and goes would show it");
    }
    // Shifts beyond a third of the time would compare too little.
    let range = RANGE.min(length / 3.0);
    let pitch = books.cadence().min(reference.cadence()).clamp(0.5, 1.0);
    let steps = whole(range / pitch);
    let shifts = (0..=2 * steps).map(|index| (float(index) - float(steps)) * pitch);
    let fewest = now.count / 2;
    let curve: Vec<Point> = shifts
        .filter_map(|shift| {
            let moments = at(shift);
            let correlation = moments.correlation().filter(|_| moments.count >= fewest)?;
            Some(Point { shift, correlation })
        })
        .collect();
    let found = judge(&curve, now.correlation().unwrap_or(0.0), range, now.count);
    if range >= RANGE {
        return found;
    }
    let turns = |shift: f64| {
        let ours = grid.means(books, -shift);
        let both: Vec<(f64, f64)> = ours.iter().zip(&theirs).filter_map(|(x, y)| Some(((*x)?, (*y)?))).collect();
        crossings(both.iter().map(|pair| pair.0)).min(crossings(both.iter().map(|pair| pair.1)))
    };
    sure(found, &curve, range, pitch, turns)
}

/// What is left of a lag that was found in a run too short for all of ±60 s: the true one may lie outside of what was
/// looked at, and a few steps of a load resemble each other by chance.
fn sure(found: Lag, curve: &[Point], range: f64, pitch: f64, turns: impl Fn(f64) -> usize) -> Lag {
    let Lag::Known { seconds, correlation, .. } = found else { return found };
    // A meter that is on time, to a cell or two, is the usual one, and chance seldom hits just there.
    let on_time = seconds.abs() <= 2.0 * pitch;
    let fewest = if correlation >= EXACT { TURNS / 2 } else { TURNS };
    let chance = correlation < SURE || !on_time && turns(seconds) < fewest;
    if chance || !on_time && (range - seconds.abs() < NEAR * range || rises_at_an_end(curve, correlation)) {
        let why = format!(
            "the run is too short to be sure, it may lie beyond ±{range:.0} s: measure for at least three times the lag"
        );
        return Lag::Unknown(why);
    }
    found
}

/// Whether the correlation grows towards an end of the range, to something that beyond it may become a peak.
fn rises_at_an_end(curve: &[Point], peak: f64) -> bool {
    let rises = |end: Option<&Point>, inner: Option<&Point>| {
        end.zip(inner).is_some_and(|(end, inner)| end.correlation > inner.correlation && end.correlation > 0.5 * peak)
    };
    let last = curve.len().saturating_sub(1);
    rises(curve.first(), curve.get(2)) || rises(curve.get(last), curve.get(last.saturating_sub(2)))
}

/// How often a signal crosses its mean, by [`MARGIN`] on both sides.
fn crossings(values: impl Iterator<Item = f64> + Clone) -> usize {
    let moments = Moments::of(values.clone().map(|value| (value, value)));
    let margin = MARGIN * moments.deviations().0;
    let sides = values.filter(|value| (value - moments.x).abs() > margin).map(|value| value > moments.x);
    let (mut count, mut before) = (0, None);
    for side in sides {
        count += usize::from(before.is_some_and(|before: bool| before != side));
        before = Some(side);
    }
    count
}

/// What the curve of correlations says.
fn judge(curve: &[Point], before: f64, range: f64, count: usize) -> Lag {
    let unknown = |why: &str| Lag::Unknown(why.to_owned());
    let best = curve.iter().enumerate().max_by(|a, b| a.1.correlation.total_cmp(&b.1.correlation));
    let Some((index, peak)) = best else { return unknown("too few samples") };
    // Noise alone reaches about 1/√n at any shift, and there are many shifts.
    if peak.correlation < ALIKE.max(2.5 / float(count).sqrt()) {
        return unknown("the two do not move together");
    }
    let lowest = curve.iter().map(|point| point.correlation).fold(f64::INFINITY, f64::min);
    if peak.correlation - lowest < PROMINENT {
        return unknown("both move too slowly to tell");
    }
    let (Some(left), Some(right)) = (index.checked_sub(1).and_then(|at| curve.get(at)), curve.get(index + 1)) else {
        let advice = if range < RANGE { ": measure for at least three times the lag" } else { "" };
        return Lag::Unknown(format!("it may lie beyond ±{range:.0} s{advice}"));
    };
    if has_rival(curve, index) {
        return unknown("the load repeats itself, so several lags fit equally well");
    }
    let bend = left.correlation - 2.0 * peak.correlation + right.correlation;
    let shift = if bend < 0.0 { 0.5 * (left.correlation - right.correlation) / bend } else { 0.0 };
    let pitch = right.shift - peak.shift;
    let seconds = peak.shift + shift.clamp(-0.5, 0.5) * pitch;
    let removed = 1.0 - peak.correlation <= CLEARLY * (1.0 - before) && seconds.abs() >= pitch / 4.0;
    Lag::Known { seconds, correlation: peak.correlation, removed }
}

/// Whether another peak, with a valley between, is about as good.
fn has_rival(curve: &[Point], best: usize) -> bool {
    let peak = curve[best].correlation;
    let rival = 1.0 - (1.2 * (1.0 - peak) + 0.01);
    let seen = |points: Vec<f64>| {
        let mut valley = peak;
        points.into_iter().any(|correlation| {
            valley = valley.min(correlation);
            correlation >= rival && correlation - valley > 0.5 * (1.0 - peak) + 0.01
        })
    };
    let correlation = |point: &Point| point.correlation;
    seen(curve[..best].iter().rev().map(correlation).collect())
        || seen(curve[best + 1..].iter().map(correlation).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Comparison;
    use crate::validate::series::{Piece, Sample};
    use crate::validate::truth::{Refused, sift};

    /// Noise in −1..1 with a fixed seed: normal enough, as a sum of three.
    struct Noise(u64);

    impl Noise {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
        }

        /// Of standard deviation 1.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    /// Steps of 5 to 25 s between 60 and 180 W: power at every second from −100 s on.
    fn load() -> impl Fn(f64) -> f64 {
        seeded(7)
    }

    fn seeded(seed: u64) -> impl Fn(f64) -> f64 {
        let mut noise = Noise(seed);
        let mut steps = Vec::new();
        let mut at = -100.0;
        while at < 2_000.0 {
            steps.push((at, 60.0 + 120.0 * noise.uniform()));
            at += 5.0 + (20.0 * noise.uniform()).round();
        }
        move |at| steps[steps.partition_point(|step| step.0 < at).max(1) - 1].1
    }

    fn books(seconds: usize, load: impl Fn(f64) -> f64) -> Series {
        let piece = |second| Piece { from: float(second), to: float(second + 1), watts: load(float(second + 1)) };
        Series::new((0..seconds).map(piece).collect())
    }

    /// What a wattmeter shows every `cadence` seconds, `lag` late and with 2 % of noise; `keep` says which samples.
    fn reference(cadence: usize, lag: f64, load: impl Fn(f64) -> f64, keep: impl Fn(usize) -> bool) -> Vec<Sample> {
        let mut noise = Noise(42);
        let times = (cadence..=600).step_by(cadence).filter(|second| keep(*second));
        let sample = |second: usize| {
            let mean = (0..cadence).map(|before| load(float(second - before) - lag)).sum::<f64>() / float(cadence);
            Sample { at: float(second), watts: mean * (1.0 + 0.02 * noise.normal()), line: second }
        };
        times.map(sample).collect()
    }

    fn compared(samples: Vec<Sample>, load: impl Fn(f64) -> f64) -> (Comparison, Refused) {
        let mut refused = Refused::default();
        let kept = sift(samples, &mut refused);
        (Comparison::of(&books(600, load), &Series::from_samples(&kept)).unwrap(), refused)
    }

    fn seconds(comparison: &Comparison) -> f64 {
        comparison.lag.seconds().unwrap_or_else(|| panic!("{:?}", comparison.lag))
    }

    #[test]
    fn thirty_seconds_late_with_noise_and_a_sentinel() {
        let load = load();
        let mut samples = reference(1, 30.0, &load, |_| true);
        samples[299].watts = 4e6;
        let (comparison, refused) = compared(samples, &load);
        assert!((seconds(&comparison) - 30.0).abs() < 1.0, "{:?}", comparison.lag);
        let aligned = comparison.aligned.as_ref().unwrap().figures.mape.unwrap();
        assert!((1.4..1.9).contains(&aligned), "E|N(0, 2 %)| is 1.6 %: {aligned}");
        assert!(comparison.raw.figures.mape.unwrap() > 10.0, "{}", comparison.raw.figures.mape.unwrap());
        assert_eq!((refused.count, refused.first[0].place.as_str()), (1, "line 300"));
    }

    #[test]
    fn early_slow_and_broken_references() {
        let load = load();
        let (early, _) = compared(reference(1, -20.0, &load, |_| true), &load);
        assert!((seconds(&early) + 20.0).abs() < 1.0, "{:?}", early.lag);
        let (slow, _) = compared(reference(10, 30.0, &load, |_| true), &load);
        assert!((seconds(&slow) - 30.0).abs() < 2.0, "{:?}", slow.lag);
        assert!((slow.step - 10.0).abs() < 1e-9 && slow.aligned.unwrap().figures.mape.unwrap() < 3.0);
        let (half, _) = compared(reference(1, 12.0, &load, |second| second / 50 % 2 == 0), &load);
        assert!((seconds(&half) - 12.0).abs() < 1.0, "{:?}", half.lag);
        assert!((250..=310).contains(&half.best().figures.samples), "{}", half.best().figures.samples);
        let (none, _) = compared(reference(1, 0.0, &load, |_| true), &load);
        assert!(seconds(&none).abs() < 0.3 && none.aligned.is_none(), "{:?}", none.lag);
    }

    #[test]
    fn what_cannot_be_told_is_unknown_and_not_zero() {
        let why = |load: &dyn Fn(f64) -> f64, reference: Vec<Sample>| match compared(reference, load).0.lag {
            Lag::Unknown(why) => why,
            known @ Lag::Known { .. } => panic!("{known:?}"),
        };
        let flat = |_: f64| 100.0;
        assert!(why(&flat, reference(1, 30.0, flat, |_| true)).starts_with("too little movement"));
        assert!(why(&|_| 0.0, reference(1, 30.0, load(), |_| true)).starts_with("too little movement"));
        let other = |at: f64| 100.0 + 40.0 * (at * at / 900.0).sin();
        assert_eq!(why(&load(), reference(1, 0.0, other, |_| true)), "the two do not move together");
        let square = |at: f64| if at.rem_euclid(20.0) < 10.0 { 60.0 } else { 150.0 };
        let repeats = "the load repeats itself, so several lags fit equally well";
        assert_eq!(why(&square, reference(1, 5.0, square, |_| true)), repeats);
        let ramp = |at: f64| 100.0 + at / 10.0;
        let said = why(&ramp, reference(1, 20.0, ramp, |_| true));
        assert!(said.contains("too slowly") || said.contains("beyond"), "{said}");
        let load = load();
        let far = why(&load, reference(1, 90.0, &load, |_| true));
        assert!(far.contains("do not move together") || far.contains("beyond"), "{far}");
    }

    /// A build: compilers on all CPUs, dips where units wait for each other, a linker on one CPU, and pauses.
    fn build(seed: u64) -> impl Fn(f64) -> f64 {
        let mut noise = Noise(seed);
        let mut steps = Vec::new();
        let mut at = -100.0;
        while at < 2_000.0 {
            let (watts, length) = match noise.uniform() {
                kind if kind < 0.55 => (165.0 + 6.0 * noise.normal(), 1.0 + (4.0 * noise.uniform()).round()),
                kind if kind < 0.75 => (120.0 + 15.0 * noise.normal(), 1.0 + (2.0 * noise.uniform()).round()),
                kind if kind < 0.9 => (90.0 + 4.0 * noise.normal(), 3.0 + (8.0 * noise.uniform()).round()),
                _ => (60.0 + 1.0 * noise.normal(), 2.0 + (10.0 * noise.uniform()).round()),
            };
            steps.push((at, watts));
            at += length;
        }
        move |at| steps[steps.partition_point(|step| step.0 < at).max(1) - 1].1
    }

    type Load = Box<dyn Fn(f64) -> f64>;
    type Seeded = fn(u64) -> Load;

    /// Two levels, for as long as chance has it.
    fn two(seed: u64, least: f64, more: f64) -> impl Fn(f64) -> f64 {
        let mut noise = Noise(seed);
        let mut steps = Vec::new();
        let mut at = -100.0;
        while at < 2_000.0 {
            steps.push((at, if steps.len() % 2 == 0 { 60.0 } else { 180.0 }));
            at += least + (more * noise.uniform()).round();
        }
        move |at| steps[steps.partition_point(|step| step.0 < at).max(1) - 1].1
    }

    /// How many of `seeds` have the right lag, an unknown and a wrong one, in a run of so many seconds.
    fn told(seeds: u64, length: usize, lag: f64, load: Seeded) -> [usize; 3] {
        let mut told = [0; 3];
        for seed in 1..=seeds {
            let (load, mut noise) = (load(seed), Noise(seed + 99));
            let mut sample = |second: usize| {
                let watts = load(float(second) - lag) * (1.0 + 0.02 * noise.normal());
                Sample { at: float(second), watts, line: second }
            };
            let samples: Vec<Sample> = (1..=length).map(&mut sample).collect();
            let found = Comparison::of(&books(length, &load), &Series::from_samples(&samples)).unwrap().lag;
            told[match found.seconds() {
                Some(seconds) if (seconds - lag).abs() < 1.0 => 0,
                None => 1,
                Some(_) => 2,
            }] += 1;
        }
        told
    }

    /// A run of a minute cannot show a lag of 30 s, and must not show another one.
    #[test]
    fn a_run_too_short_for_its_lag_says_so() {
        const SEEDS: u64 = 20;
        let loads: [(&str, Seeded); 4] = [
            ("steps", |seed| Box::new(seeded(seed))),
            ("a build", |seed| Box::new(build(seed))),
            ("two levels", |seed| Box::new(two(seed, 5.0, 20.0))),
            ("two levels, slowly", |seed| Box::new(two(seed, 8.0, 30.0))),
        ];
        for (name, load) in loads {
            for length in [60, 75, 90, 120] {
                let (on_time, late) = (told(SEEDS, length, 0.0, load), told(SEEDS, length, 30.0, load));
                println!("{name}, {length} s: right, unknown, wrong {on_time:?} on time, {late:?} at 30 s late");
                assert_eq!(on_time, [20, 0, 0], "{name}, {length} s");
                assert!(late[2] == 0 && (length < 120 || late[0] >= 15), "{name}, {length} s: {late:?}");
            }
        }
        let load = seeded(3);
        let samples = reference(1, 30.0, &load, |second| second <= 60);
        let found = Comparison::of(&books(60, &load), &Series::from_samples(&samples)).unwrap().lag;
        let Lag::Unknown(why) = found else { panic!("{found:?}") };
        assert!(why.contains("measure for at least three times the lag"), "{why}");
    }

    /// Over many loads: the lag is found, and two loads that have nothing to do with each other have none.
    #[test]
    fn many_loads() {
        let (mut worst, mut unknown, mut invented) = (0.0_f64, 0, 0);
        for seed in 1..=20_usize {
            let (load, lag) = (seeded(seed as u64), float(seed) * 4.0 - 41.0);
            match compared(reference(1, lag, &load, |_| true), &load).0.lag.seconds() {
                Some(seconds) => worst = worst.max((seconds - lag).abs()),
                None => unknown += 1,
            }
            let other = compared(reference(1, 0.0, seeded(seed as u64 + 1_000), |_| true), &load).0;
            invented += usize::from(other.lag.seconds().is_some());
        }
        assert!(worst < 0.2 && unknown == 0 && invented == 0, "{worst} s off, {unknown} unknown, {invented} invented");
    }
}
