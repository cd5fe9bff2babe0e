//! Time, always passed in: one instant as the boot clock, the time asleep and the wall clock see it.
//!
//! Intervals are measured on `CLOCK_BOOTTIME`, which no clock step or slew by NTP moves and which goes on while the
//! machine sleeps; how long it slept is `CLOCK_BOOTTIME − CLOCK_MONOTONIC`. The wall clock only labels what is
//! exported. This file and `main.rs` are the only ones that may read a clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// One instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Time since boot, sleep included (`CLOCK_BOOTTIME`).
    pub boot: Duration,
    /// How much of `boot` the machine was suspended.
    pub asleep: Duration,
    /// Time since 1970-01-01 UTC (`CLOCK_REALTIME`).
    pub wall: Duration,
}

impl Timestamp {
    /// The time awake between `earlier` and this instant: what meters and CPUs had to run in.
    #[must_use]
    pub fn awake_since(self, earlier: Self) -> Duration {
        let asleep = self.asleep.saturating_sub(earlier.asleep);
        self.boot.saturating_sub(earlier.boot).saturating_sub(asleep)
    }

    /// The time awake since boot.
    #[must_use]
    pub fn awake(self) -> Duration {
        self.boot.saturating_sub(self.asleep)
    }

    /// The wall clock in nanoseconds since the epoch, as OTLP wants it.
    #[must_use]
    pub fn unix_nanos(self) -> u64 {
        u64::try_from(self.wall.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Reads the clocks of the live machine.
#[must_use]
pub fn now() -> Timestamp {
    let boot = read(ClockId::Boottime);
    Timestamp { boot, asleep: boot.saturating_sub(read(ClockId::Monotonic)), wall: read(ClockId::Realtime) }
}

fn read(id: ClockId) -> Duration {
    let spec = clock_gettime(id);
    let seconds = u64::try_from(spec.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(spec.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_taken_out_of_an_interval() {
        let before = Timestamp { boot: Duration::from_secs(10), ..Timestamp::default() };
        let after = Timestamp { boot: Duration::from_secs(3612), asleep: Duration::from_secs(3600), ..before };
        assert_eq!(after.awake_since(before), Duration::from_secs(2));
        assert_eq!(before.awake_since(after), Duration::ZERO, "never negative");
    }

    #[test]
    fn the_live_clock_goes_forward() {
        let first = now();
        assert!(now().boot >= first.boot);
    }
}
