//! Apportionment by CPU time: accounting rule 1.
//!
//! To split E µJ over weights w₁…wₙ, share i is ⌊(E·Wᵢ + r)/W⌋ − ⌊(E·Wᵢ₋₁ + r)/W⌋ with Wᵢ the running sum. The shares
//! are integers and sum to E exactly, whatever the weights and the remainder r < W; r moves on at every split, so that
//! no row is favoured for ever by rounding.

use crate::unit::Microjoules;

/// One split in progress.
#[derive(Debug)]
pub struct Split {
    energy: u64,
    total: u64,
    remainder: u64,
    running: u64,
    given: u64,
}

/// How far the remainder moves at each split: 2³² divided by the golden ratio, which spreads it most evenly.
const STEP: u32 = 0x9E37_79B9;

impl Split {
    /// Splits `energy` over weights that sum to `total`; `phase` is kept by the caller for the next split here.
    #[must_use]
    pub fn new(energy: Microjoules, total: u64, phase: &mut u32) -> Self {
        let remainder = u64::try_from((u128::from(total) * u128::from(*phase)) >> 32).unwrap_or(0);
        *phase = phase.wrapping_add(STEP);
        Self { energy: energy.0, total, remainder, running: 0, given: 0 }
    }

    /// The share of the next weight.
    pub fn share(&mut self, weight: u64) -> Microjoules {
        self.running = self.running.saturating_add(weight).min(self.total);
        let upto = self.upto(self.running);
        let share = upto - self.given;
        self.given = upto;
        Microjoules(share)
    }

    /// What the weights so far get together.
    fn upto(&self, running: u64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        let small = self.energy.checked_mul(running).and_then(|product| product.checked_add(self.remainder));
        if let Some(product) = small {
            return product / self.total;
        }
        let product = u128::from(self.energy) * u128::from(running) + u128::from(self.remainder);
        u64::try_from(product / u128::from(self.total)).unwrap_or(self.energy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(energy: u64, weights: &[u64], phase: u32) -> Vec<u64> {
        let mut phase = phase;
        let mut split = Split::new(Microjoules(energy), weights.iter().sum(), &mut phase);
        weights.iter().map(|weight| split.share(*weight).0).collect()
    }

    proptest! {
        #[test]
        fn shares_sum_to_the_energy_and_stay_within_one(
            energy in 0..u64::MAX / 4, weights in proptest::collection::vec(0..1_u64 << 45, 1..50), phase: u32,
        ) {
            let total: u64 = weights.iter().sum();
            prop_assume!(total > 0);
            let shares = split(energy, &weights, phase);
            prop_assert_eq!(shares.iter().map(|share| u128::from(*share)).sum::<u128>(), u128::from(energy));
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = u128::from(energy) * u128::from(*weight) / u128::from(total);
                prop_assert!(u128::from(*share) >= exact && u128::from(*share) <= exact + 1);
                if *weight == 0 { prop_assert_eq!(*share, 0); }
            }
        }

        #[test]
        fn permuting_the_weights_moves_no_share_by_more_than_one(
            energy in 0..1_u64 << 40, weights in proptest::collection::vec(1..1_000_u64, 2..20), phase: u32,
        ) {
            let mut turned = weights.clone();
            turned.rotate_left(1);
            let (plain, mut other) = (split(energy, &weights, phase), split(energy, &turned, phase));
            other.rotate_right(1);
            for (one, two) in plain.iter().zip(&other) {
                prop_assert!(one.abs_diff(*two) <= 1);
            }
        }
    }

    #[test]
    fn nobody_is_favoured_for_ever() {
        let (mut phase, mut sums) = (0, [0_u64; 3]);
        for _ in 0..3_000 {
            let mut split = Split::new(Microjoules(1), 3, &mut phase);
            for sum in &mut sums {
                *sum += split.share(1).0;
            }
        }
        assert!(sums.iter().all(|sum| sum.abs_diff(1_000) <= 2), "{sums:?}");
    }
}
