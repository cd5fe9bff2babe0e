//! Multiples of what was used, row by row, that still add up along the tree: what was used on a socket, or the cycles of it.

use crate::activity::Usage;
use crate::workload::Kind;
use crate::workload::table::{NODE, Table};

/// The rows below the node that used anything, children before parents.
pub fn children_first(usage: &Usage, table: &Table, order: &mut Vec<(u32, usize)>) {
    order.clear();
    let used = usage.touched().iter().filter(|row| **row != NODE);
    order.extend(used.map(|row| (table.get(*row).map_or(0, |row| row.depth), *row)));
    order.sort_unstable_by(|one, two| two.cmp(one));
}

/// Books `factor` × what a row used to `out`, and into its parent's place of `inside`; children before parents. What the
/// children came to is taken as it is, so the factor is that of the row's own part.
pub fn book(row: usize, factor: f64, usage: &Usage, table: &Table, inside: &mut [u64], out: &mut Usage) {
    let (weight, exited) = (usage.weight_of(row), usage.exited_of(row));
    let scaled_exited = times(exited, factor);
    let here = if table.kind(row) == Kind::Process {
        times(weight, factor)
    } else {
        // What neither those inside nor `exited` explain: time that was carried.
        let known: u64 =
            table.children(row).iter().fold(exited, |sum, child| sum.saturating_add(usage.weight_of(*child)));
        let scaled = inside.get(row).copied().unwrap_or(0).saturating_add(scaled_exited);
        let rest = times(weight.abs_diff(known), factor);
        if weight < known { scaled.saturating_sub(rest) } else { scaled.saturating_add(rest) }
    };
    out.set(row, here, scaled_exited);
    if let Some(sum) = inside.get_mut(table.parent(row)) {
        *sum = sum.saturating_add(here);
    }
}

/// As a number with a fraction.
#[allow(clippy::cast_precision_loss)] // 15 digits are more than any weight needs
#[must_use]
pub fn float(weight: u64) -> f64 {
    weight as f64
}

/// `factor` × `weight`, to the whole number below; it is not negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // no number is 0, more than fits is the most
#[must_use]
pub fn times(weight: u64, factor: f64) -> u64 {
    (float(weight) * factor) as u64
}
