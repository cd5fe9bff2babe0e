//! What part of a zone's energy is idle: the policies.
//!
//! `learned` takes what the zone draws at rest, as [`crate::attribute::learner`] finds it, or as `wattribute calibrate`
//! or the user has measured it. `ratio` takes the idle share of CPU time (simple, and wrong at high load: idle power
//! does not vanish when the CPUs are busy). `none` calls everything active. How busy the CPUs are says nothing about a
//! card or a drive: without watts of its own nothing of it is called idle.

use std::time::Duration;

use crate::attribute::learner::{Estimate, Source};
use crate::config::Idle;
use crate::meter::{Domain, Zone};
use crate::unit::{CpuTime, Microjoules, Microwatts};

/// How a zone's idle energy is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// There is none.
    None,
    /// The idle share of CPU time.
    Ratio,
    /// By its power at rest, which the user has said.
    Configured(Estimate),
    /// By its power at rest, which is to be learned.
    Learned,
}

/// The rule that `policy` has for `zone`.
#[must_use]
pub fn rule(policy: &Idle, zone: &Zone) -> Rule {
    match policy {
        Idle::None => Rule::None,
        Idle::Watts(zones) if zones.contains_key(&zone.id) => {
            let watts = zones.get(&zone.id).copied().unwrap_or_default();
            Rule::Configured(Estimate { watts, error: 0.0, source: Source::Configured })
        }
        _ if matches!(zone.domain, Domain::Gpu | Domain::Storage) => Rule::None,
        Idle::Watts(_) | Idle::Learned => Rule::Learned,
        Idle::Ratio => Rule::Ratio,
    }
}

/// The idle part of `energy` that was measured over `covers`, for a zone that draws `watts` at rest.
#[must_use]
pub fn at_rest(energy: Microjoules, covers: Duration, watts: f64) -> Microjoules {
    Microwatts::from_watts(watts).over(covers).min(energy)
}

/// The idle share of CPU time, rounded to the nearest µJ of active energy.
#[must_use]
pub fn ratio(energy: Microjoules, busy: CpuTime, capacity: CpuTime) -> Microjoules {
    let capacity = u128::from(capacity.0);
    if capacity == 0 {
        return Microjoules::ZERO;
    }
    let active = (u128::from(energy.0) * u128::from(busy.0) + capacity / 2) / capacity;
    energy.saturating_sub(Microjoules(u64::try_from(active).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const J: u64 = 1_000_000;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_ratio_rows_of_the_field() {
        let idle = |joules: u64, busy_percent: u64| {
            ratio(Microjoules(joules * J), CpuTime(busy_percent * 10_000_000), CpuTime::from(SECOND)).0 / J
        };
        assert_eq!(idle(50, 40), 30);
        assert_eq!(idle(60, 40), 36);
        assert_eq!(idle(40, 80), 8);
        assert_eq!(idle(40, 130), 0, "busier than possible is all active, never negative");
    }

    #[test]
    fn watts_at_rest_never_exceed_what_was_measured() {
        assert_eq!(at_rest(Microjoules(50 * J), SECOND, 12.0).0, 12 * J);
        assert_eq!(at_rest(Microjoules(50 * J), SECOND, 80.0).0, 50 * J);
        assert_eq!(at_rest(Microjoules(50 * J), SECOND * 2, 12.0).0, 24 * J);
    }

    #[test]
    fn every_zone_has_its_rule() {
        let package = Zone::new("rapl", "rapl:package-0", Domain::Package);
        let card = Zone::new("nvml", "nvml:0", Domain::Gpu);
        let watts = |zone: &str| Idle::Watts([(zone.to_owned(), 12.0)].into());
        assert_eq!(rule(&Idle::default(), &package), Rule::Learned);
        assert_eq!(rule(&Idle::Ratio, &package), Rule::Ratio);
        assert_eq!(rule(&Idle::None, &package), Rule::None);
        assert!(
            matches!(rule(&watts("rapl:package-0"), &package), Rule::Configured(said) if said == Estimate { watts: 12.0, error: 0.0, source: Source::Configured })
        );
        assert_eq!(rule(&watts("rapl:psys"), &package), Rule::Learned, "others are learned");
        for policy in [Idle::Learned, Idle::Ratio] {
            assert_eq!(rule(&policy, &card), Rule::None);
        }
        assert!(matches!(rule(&watts("nvml:0"), &card), Rule::Configured(_)));
    }
}
