//! Sums along the tree: from what cgroups and processes used to a weight and an `exited` for every workload.
//!
//! For each row `own` is what its cgroups used beyond the cgroups inside them that belong to others, and `live` what
//! its live processes used. Its weight is `own` plus the weights of the workloads inside; `own − live` is `exited`,
//! signed and carried.

use std::collections::HashMap;

use crate::activity::{Usage, is_generic};
use crate::workload::table::{NODE, Table};

/// Signed CPU nanoseconds by row.
#[derive(Debug, Default)]
pub struct Flows {
    own: Vec<i64>,
    live: Vec<i64>,
    inner: Vec<i64>,
    /// Remainders of earlier intervals: of `exited`, and of the weight.
    carry: Vec<i64>,
    debt: Vec<i64>,
    /// What the second hierarchy of a hybrid host says a row used.
    other: Vec<i64>,
    /// How many cgroups of the base hierarchy begin the row; rows without one are carved or grouped.
    heads: Vec<u32>,
    /// Where the processes of a row that only the second hierarchy knows sit in the base hierarchy.
    homes: HashMap<usize, Vec<usize>>,
    /// What live processes of such a row used, by row and home.
    away: Vec<(usize, usize, i64)>,
    /// Where the processes of a base row sit in the second hierarchy.
    abroad: Vec<usize>,
    /// Rows whose processes run in their parent's cgroup: a VM that only its command line tells apart, and the kernel.
    grouped: Vec<bool>,
    marked: Vec<bool>,
    touched: Vec<usize>,
    carved: Vec<usize>,
    /// What cgroups that are pinned to a socket used: row, socket, and how much.
    pinned: Vec<(usize, usize, i64)>,
    root_usage: i64,
}

/// No row.
pub const NOWHERE: usize = usize::MAX;

impl Flows {
    /// Begins an interval.
    pub fn begin(&mut self, rows: usize) {
        for row in self.touched.drain(..) {
            self.own[row] = 0;
            self.live[row] = 0;
            self.inner[row] = 0;
            self.other[row] = 0;
            self.marked[row] = false;
        }
        self.carved.clear();
        self.away.clear();
        self.pinned.clear();
        self.root_usage = 0;
        self.grow(rows);
    }

    /// Makes room for `rows` rows.
    pub fn grow(&mut self, rows: usize) {
        if self.own.len() >= rows {
            return;
        }
        for column in [&mut self.own, &mut self.live, &mut self.inner, &mut self.carry, &mut self.debt, &mut self.other]
        {
            column.resize(rows, 0);
        }
        self.heads.resize(rows, 0);
        self.abroad.resize(rows, NOWHERE);
        self.grouped.resize(rows, false);
        self.marked.resize(rows, false);
    }

    /// Clears a row for the next workload.
    pub fn forget(&mut self, row: usize) {
        if row < self.own.len() {
            (self.own[row], self.live[row], self.inner[row]) = (0, 0, 0);
            (self.carry[row], self.debt[row], self.other[row]) = (0, 0, 0);
            (self.heads[row], self.abroad[row]) = (0, NOWHERE);
            self.homes.remove(&row);
            self.grouped[row] = false;
        }
    }

    /// A cgroup of the base hierarchy begins, or ends, the row.
    pub fn head(&mut self, row: usize, begins: bool) {
        self.grow(row + 1);
        self.heads[row] = if begins { self.heads[row] + 1 } else { self.heads[row].saturating_sub(1) };
    }

    /// Whether a cgroup of the base hierarchy counts for the row.
    #[must_use]
    pub fn is_backed(&self, row: usize) -> bool {
        self.heads.get(row).is_some_and(|heads| *heads > 0)
    }

    /// A cgroup of `row` used this much beyond the cgroups inside it.
    pub fn own(&mut self, table: &Table, row: usize, nanos: i64) {
        self.touch(table, row);
        self.own[row] += nanos;
    }

    /// A cgroup of `row` that is pinned to a socket used this much of it there.
    pub fn pin(&mut self, row: usize, socket: usize, nanos: i64) {
        self.pinned.push((row, socket, nanos));
    }

    /// See [`Flows::pin`].
    #[must_use]
    pub fn pinned(&self) -> &[(usize, usize, i64)] {
        &self.pinned
    }

    /// What the cgroups of `row` used beyond those inside it.
    #[must_use]
    pub fn own_of(&self, row: usize) -> i64 {
        self.own.get(row).copied().unwrap_or(0)
    }

    /// A process of `row` used this much of what the row's cgroups used.
    pub fn live(&mut self, table: &Table, row: usize, nanos: i64) {
        self.touch(table, row);
        self.live[row] += nanos;
    }

    /// What the root cgroup's own counter says.
    pub fn root(&mut self, nanos: i64) {
        self.root_usage = nanos;
    }

    /// What the root cgroup's own counter said.
    #[must_use]
    pub fn root_usage(&self) -> i64 {
        self.root_usage
    }

    /// The second hierarchy says that `row` used this much.
    pub fn other(&mut self, table: &Table, row: usize, nanos: i64) {
        self.touch(table, row);
        self.other[row] += nanos;
    }

    /// A process of `base` (a row of the base hierarchy) sits in `other` in the second one; `finer` if that says more.
    pub fn sits(&mut self, base: usize, other: usize, finer: bool) {
        self.grow(base.max(other) + 1);
        self.abroad[base] = other;
        if finer && other != base {
            let homes = self.homes.entry(other).or_default();
            if !homes.contains(&base) {
                homes.push(base);
            }
        }
    }

    /// A process of `row`, which only the second hierarchy knows, used this much in the base row `home`.
    pub fn live_away(&mut self, row: usize, home: usize, nanos: i64) {
        match self.away.iter_mut().find(|(one, two, _)| (*one, *two) == (row, home)) {
            Some((.., sum)) => *sum += nanos,
            None => self.away.push((row, home, nanos)),
        }
    }

    /// Accounting rule 6: what only the second hierarchy knows is carved out of the base cgroups its processes sit in,
    /// by its own usage and never by more than theirs. What live processes used goes first, so that no workload takes
    /// what another is known to have used.
    pub fn carve(&mut self, table: &Table, root_is_measured: bool) {
        for index in 0..self.touched.len() {
            let row = self.touched[index];
            // What a container of the base hierarchy used is not its surrounding service's of the second one.
            let abroad = self.abroad[row];
            let differs = abroad != NOWHERE && abroad != row && self.marked[abroad];
            if differs && !is_generic(table.kind(row)) && self.is_backed(row) {
                self.other[abroad] -= self.own[row];
            }
            if row != NODE && !self.is_backed(row) && self.homes.contains_key(&row) {
                self.carved.push(row);
            }
        }
        let id = |row: &usize| table.get(*row).map(|row| &row.identity.id);
        self.carved.sort_unstable_by(|one, two| id(one).cmp(&id(two)));
        for index in 0..self.away.len() {
            let (row, home, nanos) = self.away[index];
            let taken = self.take(row, home, nanos, root_is_measured);
            self.other[row] -= taken;
            self.live[row] -= nanos - taken;
        }
        for index in 0..self.carved.len() {
            let row = self.carved[index];
            let homes = self.homes.remove(&row).unwrap_or_default();
            for home in &homes {
                let taken = self.take(row, *home, self.other[row], root_is_measured);
                self.other[row] -= taken;
            }
            self.homes.insert(row, homes);
        }
    }

    /// Moves at most `wanted` of what `home` has left over to `row`.
    fn take(&mut self, row: usize, home: usize, wanted: i64, root_is_measured: bool) -> i64 {
        let there = self.own[home] - self.live[home];
        let bounded = home != NODE || root_is_measured;
        let taken = if bounded { wanted.min(there) } else { wanted }.max(0);
        self.own[row] += taken;
        self.own[home] -= taken;
        taken
    }

    /// Weights and exited of every row that used anything, children before parents.
    pub fn finish(&mut self, table: &Table, usage: &mut Usage, slack: i64) {
        let depth = |row: &usize| std::cmp::Reverse(table.get(*row).map_or(0, |row| row.depth));
        self.touched.sort_unstable_by_key(depth);
        for index in 0..self.touched.len() {
            let row = self.touched[index];
            if row == NODE {
                continue;
            }
            let weight = self.own[row] + self.inner[row] + self.debt[row];
            self.debt[row] = weight.clamp(-slack, 0);
            let weight = weight.max(0);
            let parent = table.parent(row);
            if parent != NODE && !self.grouped[row] {
                self.inner[parent] += weight;
            }
            let mut exited = 0;
            if usage.split_below || !table.children(row).is_empty() {
                let rest = self.own[row] - self.live[row] + self.carry[row];
                self.carry[row] = rest.clamp(-slack, 0);
                exited = rest.max(0);
            }
            usage.set(row, weight.unsigned_abs(), exited.unsigned_abs());
        }
    }

    /// Nothing of the time before the baseline is carried.
    pub fn drop_carries(&mut self) {
        self.carry.fill(0);
        self.debt.fill(0);
    }

    /// The row has no cgroup of its own: its processes run in its parent's.
    pub fn group(&mut self, row: usize) {
        self.grow(row + 1);
        self.grouped[row] = true;
    }

    /// Whether the row is a group of processes in its parent's cgroup.
    #[must_use]
    pub fn is_grouped(&self, row: usize) -> bool {
        self.grouped.get(row).copied().unwrap_or(false)
    }

    fn touch(&mut self, table: &Table, row: usize) {
        self.grow(row + 1);
        let mut row = row;
        while !self.marked[row] {
            self.marked[row] = true;
            self.touched.push(row);
            if row == NODE {
                break;
            }
            row = table.parent(row);
            self.grow(row + 1);
        }
    }
}
