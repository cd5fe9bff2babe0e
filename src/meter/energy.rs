//! What lies between two readings: the one place where wrap, reset, gap and spike are told apart.
//!
//! A counter that went back has either wrapped or started again, and nothing in the two numbers says which. What says
//! it is how much the part can draw: over an interval of Δt at most `power_max · Δt` can have been used (the
//! *ceiling*). A step back is a wrap only if the energy it stands for is below the ceiling and the ceiling is below
//! the counter's range; otherwise it is a reset. Where the ceiling reaches the range, the counter may have gone round
//! any number of times, forwards or backwards: the energy is unknowable, a *gap*. Reset, spike and gap book nothing.

use std::time::Duration;

use crate::unit::{Microjoules, Microwatts};

/// What lies between two readings of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta {
    /// This much energy.
    Energy(Microjoules),
    /// This much energy, across one wrap.
    Wrapped(Microjoules),
    /// The counter started again: nothing is known.
    Reset,
    /// Too long to know how often the counter wrapped.
    Gap,
    /// More than the part can draw.
    Implausible,
}

/// The energy between counts `previous` and `current` of a counter.
///
/// `tick` is the energy of one count in 2⁻³² µJ, `range` the count at which it starts again from 0 (`None`: unknown,
/// then a step back is never a wrap), `power_max` the most that the part can draw and `interval` the time awake
/// between the two readings.
#[must_use]
pub fn counted(
    previous: u64,
    current: u64,
    tick: u64,
    range: Option<u64>,
    power_max: Microwatts,
    interval: Duration,
) -> Delta {
    let ceiling = ceiling(tick, power_max, interval);
    if range.is_some_and(|range| ceiling >= u128::from(range)) {
        return Delta::Gap;
    }
    if let Some(forward) = current.checked_sub(previous) {
        return if u128::from(forward) <= ceiling {
            Delta::Energy(microjoules(forward, tick))
        } else {
            Delta::Implausible
        };
    }
    let around = range.and_then(|range| range.checked_sub(previous)).map(|rest| rest.saturating_add(current));
    match around {
        Some(around) if u128::from(around) <= ceiling => Delta::Wrapped(microjoules(around, tick)),
        _ => Delta::Reset,
    }
}

/// The energy of a gauge between two readings, by the trapezoid rule.
#[must_use]
pub fn integrated(previous: Microwatts, current: Microwatts, interval: Duration) -> Microjoules {
    let sum = u128::from(previous.0) + u128::from(current.0);
    let exact = sum * interval.as_nanos();
    Microjoules(u64::try_from((exact + 1_000_000_000) / 2_000_000_000).unwrap_or(u64::MAX))
}

/// The longest interval after which a counter of this range can still be trusted.
#[must_use]
pub fn horizon(tick: u64, range: u64, power_max: Microwatts) -> Duration {
    let range_uj = (u128::from(range) * u128::from(tick)) >> 32;
    let nanos = range_uj * 1_000_000_000 / u128::from(power_max.0.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The most counts that can have passed.
fn ceiling(tick: u64, power_max: Microwatts, interval: Duration) -> u128 {
    // µW · ns = 10⁻⁹ µJ; shifted by 32 to divide by the tick. 2^64 · 2^64 would overflow, 10^13 µW · 10^18 ns not.
    let energy = u128::from(power_max.0).saturating_mul(interval.as_nanos()) / 1_000_000_000;
    energy.saturating_mul(1 << 32) / u128::from(tick.max(1))
}

fn microjoules(counts: u64, tick: u64) -> Microjoules {
    Microjoules(u64::try_from((u128::from(counts) * u128::from(tick)) >> 32).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MICRO: u64 = 1 << 32;
    const J: u64 = 1_000_000;

    /// The delta of joules over one second under a ceiling of `ceiling_j` joules.
    fn delta(previous: u64, current: u64, range: u64, ceiling_j: u64) -> Delta {
        let range = (range > 0).then_some(range * J);
        counted(previous * J, current * J, MICRO, range, Microwatts(ceiling_j * J), Duration::from_secs(1))
    }

    #[test]
    fn the_rows_of_the_field() {
        let energy = |joules: u64| Delta::Energy(Microjoules(joules * J));
        let wrapped = |joules: u64| Delta::Wrapped(Microjoules(joules * J));
        assert_eq!(delta(20, 25, 100, 99), energy(5));
        assert_eq!(delta(90, 10, 100, 99), wrapped(20));
        assert_eq!(delta(0, 0, 100, 99), energy(0));
        assert_eq!(delta(20, 10, 0, 99), Delta::Reset, "no range known: never invent energy");
        assert_eq!(delta(8, 2, 10, 9), wrapped(4));
        assert_eq!(delta(90, 100, 100, 99), energy(10));
        assert_eq!(delta(100, 10, 100, 99), wrapped(10));
        assert_eq!(delta(100, 0, 100, 99), wrapped(0), "exact wrap");
    }

    #[test]
    fn one_joule_back_is_a_reset_and_no_quarter_megajoule() {
        assert_eq!(delta(100_000, 99_999, 262_143, 1_500), Delta::Reset);
    }

    #[test]
    fn what_cannot_be_true_books_nothing() {
        assert_eq!(delta(0, 1_501, 262_143, 1_500), Delta::Implausible);
        assert_eq!(delta(5, 10, 100, 100), Delta::Gap, "the counter may have gone round");
        assert_eq!(delta(300, 10, 100, 50), Delta::Reset, "the old reading lies beyond the range");
    }

    #[test]
    fn fractional_ticks_are_multiplied_once() {
        // perf: 2^-32 J = 2^-32 · 10^6 µJ, that is a tick of 10^6 in units of 2^-32 µJ.
        let second = Duration::from_secs(1);
        let count = 30 << 32;
        assert_eq!(counted(0, count, 1_000_000, None, Microwatts(100 * J), second), Delta::Energy(Microjoules(30 * J)));
    }

    #[test]
    fn a_gauge_is_a_trapezoid() {
        let watts = |watts: u64| Microwatts(watts * J);
        assert_eq!(integrated(watts(50), watts(40), Duration::from_secs(2)), Microjoules(90 * J));
    }

    proptest! {
        #[test]
        fn never_above_the_ceiling_and_never_twice_round(
            previous in 0..1_000_000_u64, step in 0..2_000_000_u64, range in 1_000_000..1_100_000_u64,
            millis in 0..2_000_u64, power in 0..2_000_000_u64,
        ) {
            let interval = Duration::from_millis(millis);
            let current = (previous + step) % range;
            let most = u128::from(power) * u128::from(millis) / 1000;
            match counted(previous, current, MICRO, Some(range), Microwatts(power), interval) {
                Delta::Energy(energy) | Delta::Wrapped(energy) => {
                    prop_assert!(u128::from(energy.0) <= most);
                    if u128::from(step) <= most { prop_assert_eq!(energy.0, step); }
                }
                Delta::Gap => prop_assert!(most >= u128::from(range)),
                Delta::Reset | Delta::Implausible => prop_assert!(u128::from(step) > most),
            }
        }
    }
}
