//! When to try a refused password again: after 1, 3, 7 … rounds, at most ten minutes apart.
//!
//! BMCs and plugs lock an account, or an address, after a few wrong passwords, and would lock out the people too. The
//! same words are said meanwhile, so the trouble is shown once.

use std::time::Duration;

use crate::meter::slow::Trouble;

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Counts refusals, and the rounds to leave out.
#[derive(Debug, Default)]
pub struct Lockout {
    refused: u32,
    pause: u32,
    refusal: Option<Trouble>,
}

impl Lockout {
    /// Called once each round: what to say instead of asking, if it is still too early.
    pub fn waits(&mut self) -> Option<Trouble> {
        self.pause = self.pause.checked_sub(1)?;
        self.refusal.clone()
    }

    /// A password was refused; rounds are `every` so long.
    pub fn refuse(&mut self, every: Duration, refusal: &Trouble) {
        let rounds = PAUSE_MAX.as_millis() / every.as_millis().max(1);
        self.refused = (self.refused + 1).min(16);
        self.pause = ((1 << self.refused) - 1).min(u32::try_from(rounds).unwrap_or(u32::MAX).max(1));
        self.refusal = Some(refusal.clone());
    }

    /// A password was taken.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}
