//! The times that go out with the numbers: one instant per push, by the wall clock, which may be stepped back.
//!
//! In nanoseconds since 1970. Between two pushes lies what the boot clock says, so power × interval stays the energy.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::export::Snapshot;
use crate::unit::Microjoules;

/// Wall-clock labels that never go back: after a step back of the clock they run at half speed until it has caught up.
#[derive(Debug, Default, Clone, Copy)]
pub struct Labels {
    /// Label of the newest snapshot, ns since 1970.
    pub now: u64,
    /// Label of the one before.
    pub before: u64,
    /// Time between the two.
    pub seconds: f64,
    /// Boot time of the newest snapshot.
    pub boot: Option<Duration>,
}

impl Labels {
    /// Takes the time of the next snapshot.
    pub fn advance(&mut self, snapshot: &Snapshot) {
        let since = self.boot.unwrap_or(snapshot.baseline.boot);
        let passed = snapshot.at.boot.saturating_sub(since);
        self.before = if self.boot.is_some() { self.now } else { snapshot.baseline.unix_nanos() };
        let half = u64::try_from(passed.as_nanos() / 2).unwrap_or(0);
        self.now = snapshot.at.unix_nanos().max(self.now.saturating_add(half.max(u64::from(self.now > 0))));
        self.seconds = passed.as_secs_f64();
        self.boot = Some(snapshot.at.boot);
    }

    /// A start that is not after the present.
    #[must_use]
    pub fn start(&self, at: Timestamp) -> u64 {
        at.unix_nanos().min(self.now)
    }

    /// Mean power, so that power × interval is the energy.
    #[must_use]
    pub fn watts(&self, energy: u64) -> f64 {
        if self.seconds > 0.0 { Microjoules(energy).joules() / self.seconds } else { 0.0 }
    }
}
