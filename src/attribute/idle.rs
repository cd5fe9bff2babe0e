//! What part of a zone's energy is idle: the policies.
//!
//! `ratio` takes the idle share of CPU time (simple, and wrong at high load: idle power does not vanish when the CPUs
//! are busy). `none` calls everything active. Watts per zone are the user's own measurement.

use std::time::Duration;

use crate::config::Idle;
use crate::meter::{Domain, Zone};
use crate::unit::{CpuTime, Microjoules, Microwatts};

/// The idle part of `energy`, measured by `zone` over `covers` while the CPUs were `busy` of `capacity`. How busy the
/// CPUs are says nothing about a card or a drive: without watts of its own nothing of it is called idle.
#[must_use]
pub fn energy(
    policy: &Idle,
    zone: &Zone,
    energy: Microjoules,
    covers: Duration,
    busy: CpuTime,
    capacity: CpuTime,
) -> Microjoules {
    match policy {
        Idle::None => Microjoules::ZERO,
        Idle::Watts(zones) if zones.contains_key(&zone.id) => {
            let watts = zones.get(&zone.id).copied().unwrap_or_default();
            Microwatts::from_watts(watts).over(covers).min(energy)
        }
        _ if matches!(zone.domain, Domain::Gpu | Domain::Storage) => Microjoules::ZERO,
        Idle::Watts(_) | Idle::Ratio => ratio(energy, busy, capacity),
    }
}

/// The idle share of CPU time, rounded to the nearest µJ of active energy.
fn ratio(energy: Microjoules, busy: CpuTime, capacity: CpuTime) -> Microjoules {
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

    fn idle(policy: &Idle, joules: u64, busy_percent: u64) -> u64 {
        let second = Duration::from_secs(1);
        let busy = CpuTime(busy_percent * 10_000_000);
        let zone = Zone::new("rapl", "rapl:package-0", Domain::Package);
        energy(policy, &zone, Microjoules(joules * J), second, busy, CpuTime::from(second)).0 / J
    }

    #[test]
    fn the_ratio_rows_of_the_field() {
        assert_eq!(idle(&Idle::Ratio, 50, 40), 30);
        assert_eq!(idle(&Idle::Ratio, 60, 40), 36);
        assert_eq!(idle(&Idle::Ratio, 40, 80), 8);
        assert_eq!(idle(&Idle::Ratio, 40, 130), 0, "busier than possible is all active, never negative");
        assert_eq!(idle(&Idle::None, 40, 0), 0);
    }

    #[test]
    fn fixed_watts_never_exceed_what_was_measured() {
        let watts = |watts: f64| Idle::Watts([("rapl:package-0".to_owned(), watts)].into());
        assert_eq!(idle(&watts(12.0), 50, 100), 12);
        assert_eq!(idle(&watts(80.0), 50, 100), 50);
        assert_eq!(idle(&Idle::Watts([("rapl:psys".to_owned(), 9.0)].into()), 50, 40), 30, "others use the ratio");
    }
}
