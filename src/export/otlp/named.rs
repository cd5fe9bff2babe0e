//! Which processes have a series of their own (accounting rule 9): ranked node-wide by energy in the last push interval.
//!
//! The first N become named; a named one leaves only after two pushes outside of the first 2N, so that neighbours in
//! the ranking do not take turns. A push interval in which no process used energy (a slow meter) ranks nobody.

/// Pushes outside of the first 2N after which a process leaves.
const PATIENCE: u8 = 2;

/// One process in the ranking.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Energy since the last push, µJ.
    pub energy: u64,
    /// Serial number: earlier ones win a draw.
    pub serial: u64,
    /// Row.
    pub row: usize,
    /// Whether it is named now.
    pub named: bool,
}

/// The ranking, kept between pushes for its memory.
#[derive(Debug, Default)]
pub struct Ranking {
    /// Every live process, filled in by the caller.
    pub candidates: Vec<Candidate>,
}

/// What becomes of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Named, if it is not yet.
    Promote,
    /// Stays as it is.
    Keep,
    /// Was outside of the first 2N once more.
    Outside,
}

impl Ranking {
    /// Decides for every candidate; `apply` is called with the row and what becomes of it.
    pub fn decide(&mut self, top: usize, mut apply: impl FnMut(usize, Change)) {
        if self.candidates.iter().all(|candidate| candidate.energy == 0) {
            return;
        }
        let order = |a: &Candidate, b: &Candidate| b.energy.cmp(&a.energy).then(a.serial.cmp(&b.serial));
        let first = top.saturating_mul(2).min(self.candidates.len());
        if first < self.candidates.len() && first > 0 {
            self.candidates.select_nth_unstable_by(first, order);
        }
        if let Some(head) = self.candidates.get_mut(..first) {
            head.sort_unstable_by(order);
        }
        for (rank, candidate) in self.candidates.iter().enumerate() {
            let change = match rank {
                rank if rank < top && candidate.energy > 0 => Change::Promote,
                rank if rank < first && candidate.energy > 0 => Change::Keep,
                _ if candidate.named => Change::Outside,
                _ => Change::Keep,
            };
            apply(candidate.row, change);
        }
    }
}

/// Counts a push outside; whether it was one too many.
pub fn outside_too_long(pushes: &mut u8) -> bool {
    *pushes = pushes.saturating_add(1);
    *pushes >= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(energies: &[u64], named: &[usize], top: usize) -> Vec<Change> {
        let mut ranking = Ranking::default();
        for (row, energy) in energies.iter().enumerate() {
            let named = named.contains(&row);
            ranking.candidates.push(Candidate { energy: *energy, serial: row as u64, row, named });
        }
        let mut changes = vec![Change::Keep; energies.len()];
        ranking.decide(top, |row, change| changes[row] = change);
        changes
    }

    #[test]
    fn the_first_are_named_and_those_up_to_twice_as_far_stay() {
        use Change::{Keep, Outside, Promote};
        assert_eq!(ranked(&[7, 9, 1, 5, 3], &[0, 2], 1), [Keep, Promote, Outside, Keep, Keep]);
        assert_eq!(ranked(&[4, 4, 4], &[], 1), [Promote, Keep, Keep], "the elder wins a draw");
        assert_eq!(ranked(&[0, 0], &[0], 1), [Keep, Keep], "a silent meter demotes nobody");
        assert_eq!(ranked(&[0, 3], &[0], 4), [Outside, Promote], "what uses nothing is not among the first");
        assert_eq!(ranked(&[1, 2], &[0], 0), [Outside, Keep], "top: 0 names nobody");
    }
}
