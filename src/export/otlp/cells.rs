//! One row and zone in the exporter's books: what came since the last push, and what of it is whose.
//!
//! What of a workload's energy its children and named processes do not account for is its `other` or its own; a
//! difference that would be negative, because parts of it were seen earlier, waits for the next push.

use super::tree::Source;

/// One row and zone: totals at the last push, and what came since.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cell {
    /// Total at the last push.
    pub active: u64,
    /// The same of its `exited`.
    pub exited: u64,
    /// Energy since then.
    pub came: u64,
    /// The same of its `exited`.
    pub came_exited: u64,
    /// What its children and named processes account for.
    pub claimed: u64,
    /// What of that is no process's.
    pub claimed_by_workloads: u64,
    /// What is its own.
    pub own: Signed,
    /// What is the group's.
    pub other: Signed,
}

impl Cell {
    /// What of the energy that came is the workload's own, and what its group's.
    pub fn close(&mut self, slice: bool, groups: bool) {
        self.own.set(self.came, if slice { self.claimed_by_workloads } else { 0 });
        if groups {
            self.other.set(self.came, self.came_exited.saturating_add(self.claimed));
        } else {
            self.came_exited = 0;
        }
    }

    /// What is to be booked to which series.
    #[must_use]
    pub fn increments(&self) -> [(u64, Source); 3] {
        [(self.own.increment, Source::Own), (self.other.increment, Source::Other), (self.came_exited, Source::Exited)]
    }
}

/// An increment that waits while it is negative.
#[derive(Debug, Default, Clone, Copy)]
pub struct Signed {
    carry: i64,
    /// What is to be booked now.
    pub increment: u64,
}

impl Signed {
    fn set(&mut self, gain: u64, loss: u64) {
        let sum = i128::from(self.carry) + i128::from(gain) - i128::from(loss);
        self.increment = u64::try_from(sum.max(0)).unwrap_or(u64::MAX);
        self.carry = i64::try_from(sum.min(0)).unwrap_or(i64::MIN);
    }
}

/// The same cells with room for more zones in each row.
#[must_use]
pub fn widened<T: Copy + Default>(cells: &[T], old: usize, new: usize) -> Vec<T> {
    let mut wider = vec![T::default(); cells.len().checked_div(old).unwrap_or(0) * new];
    for (before, place) in cells.chunks_exact(old.max(1)).zip(wider.chunks_exact_mut(new.max(1))) {
        if let Some(place) = place.get_mut(..old) {
            place.copy_from_slice(before);
        }
    }
    wider
}
