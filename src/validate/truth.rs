//! What a reference says that cannot be true, and where: refused, counted, and the first of it listed.
//!
//! Not a number, less than nothing, the all-ones word of a register that could not be read (0xFFFFFFFF as µW, mW or
//! W), and more power than any machine of its kind draws: above 10 kW and above 20 times the median. One such sample
//! would decide every mean.

use crate::validate::series::{Sample, median};

/// The most refusals that are kept in words.
const KEPT: usize = 10;
/// What the largest machines draw (W).
const LARGE: f64 = 10_000.0;
/// How many medians a peak may have.
const MEDIANS: f64 = 20.0;
/// 0xFFFFFFFF, the content of a 32-bit register that nobody drives.
const ALL_ONES: f64 = 4_294_967_295.0;

/// One refused sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Where: a line of the file, or a time of a zone.
    pub place: String,
    /// Why.
    pub why: String,
}

/// The refused samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Refused {
    /// How many.
    pub count: usize,
    /// The first of them.
    pub first: Vec<Refusal>,
}

impl Refused {
    /// One more.
    pub fn add(&mut self, place: impl FnOnce() -> String, why: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(Refusal { place: place(), why: why() });
        }
    }
}

/// The samples that may be true.
#[must_use]
pub fn sift(samples: Vec<Sample>, refused: &mut Refused) -> Vec<Sample> {
    let possible = |sample: &&Sample| lie(sample.watts).is_none();
    let mut watts: Vec<f64> = samples.iter().filter(possible).map(|sample| sample.watts).collect();
    let limit = LARGE.max(MEDIANS * median(&mut watts).unwrap_or(0.0));
    let mut kept = Vec::with_capacity(samples.len());
    for sample in samples {
        let outlier = || (sample.watts > limit).then(|| format!("{} W is above {limit:.0} W", shown(sample.watts)));
        match lie(sample.watts).or_else(outlier) {
            None => kept.push(sample),
            Some(why) => refused.add(|| place(&sample), || why),
        }
    }
    kept
}

fn place(sample: &Sample) -> String {
    if sample.line > 0 { format!("line {}", sample.line) } else { format!("at {:.1} s", sample.at) }
}

/// Why a power is none, whatever the machine.
fn lie(watts: f64) -> Option<String> {
    if !watts.is_finite() {
        return Some("not a number".into());
    }
    if watts < 0.0 {
        return Some(format!("{} W is less than nothing", shown(watts)));
    }
    // Loggers round: to two decimals where watts were made from µW.
    let all_ones = [1e6, 1e3, 1.0].iter().any(|unit| (watts - ALL_ONES / unit).abs() <= 0.003);
    all_ones.then(|| format!("{} W is 0xFFFFFFFF, a register that could not be read", shown(watts)))
}

/// A number without a tail of digits that says nothing.
fn shown(watts: f64) -> String {
    if watts.abs() >= 1e12 { format!("{watts:.1e}") } else { format!("{}", (watts * 1000.0).round() / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_true_is_refused_and_said() {
        let watts = [100.0, 101.0, f64::NAN, -5.0, 4_294.967_295, 4_294_967.295, 4_000_000.0, 9_000.0, 99.0];
        let samples: Vec<Sample> =
            watts.iter().enumerate().map(|(at, &watts)| Sample { at: 1.0, watts, line: at + 1 }).collect();
        let mut refused = Refused::default();
        let kept: Vec<f64> = sift(samples, &mut refused).iter().map(|sample| sample.watts).collect();
        assert_eq!(kept, [100.0, 101.0, 9_000.0, 99.0], "9 kW may be a large machine's start");
        let said: Vec<String> = refused.first.iter().map(|one| format!("{}: {}", one.place, one.why)).collect();
        assert_eq!(
            said,
            [
                "line 3: not a number",
                "line 4: -5 W is less than nothing",
                "line 5: 4294.967 W is 0xFFFFFFFF, a register that could not be read",
                "line 6: 4294967.295 W is 0xFFFFFFFF, a register that could not be read",
                "line 7: 4000000 W is above 10000 W",
            ]
        );
        let rack = |at: usize, watts: f64| Sample { at: 0.0, watts, line: at };
        let mut refused = Refused::default();
        assert_eq!(sift(vec![rack(1, 4_000.0), rack(2, 30_000.0)], &mut refused).len(), 2, "a rack draws more");
    }
}
