//! The comparison that goes on during a run: the last minutes of the books beside a reference zone.
//!
//! The window is a ring of at most 3,600 cells, made once. A tick adds its bookings to the cells that they cover, also
//! to older ones where a meter is slow, and allocates nothing; a cell counts once every zone of the sum has filled it.
//! The figures are reckoned from the ring when they are asked for, once a minute, on a thread that no tick waits for.

use crate::export::Snapshot;
use crate::meter::Role;
use crate::validate::Comparison;
use crate::validate::gather::{answers, leaves_out, piece, seconds};
use crate::validate::series::{Piece, Series, float, whole};

/// The most cells of the window.
const CELLS_MAX: f64 = 3_600.0;
/// The part of a cell that must be filled.
const FILLED: f64 = 0.9;

/// The ring.
#[derive(Debug)]
pub struct Rolling {
    reference: String,
    step: f64,
    cells: Vec<Cell>,
    /// The end of each zone's last piece.
    ends: Vec<f64>,
    before: f64,
    /// The length of the last piece of each zone, of the sum (0) and of the reference (1).
    lengths: [Vec<f64>; 2],
    standing: Standing,
}

/// What is known of the reference zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not been seen.
    Absent,
    /// It is part of the books, so it cannot check them.
    Primary,
    /// It can be compared with.
    Fit,
}

/// One cell of the ring.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// Its number since the baseline, from 1; 0 is never filled.
    number: usize,
    /// Joules and zone-seconds of the books, and the zone-seconds that they need.
    joules: f64,
    known: f64,
    needed: f64,
    /// Joules and seconds of the reference.
    their_joules: f64,
    their_known: f64,
}

impl Rolling {
    /// A window of so many seconds on a reference zone, for ticks of `interval` seconds.
    #[must_use]
    pub fn new(reference: &str, window: f64, interval: f64) -> Self {
        let step = interval.max(window / CELLS_MAX);
        let cells = whole((window / step).ceil()).max(1);
        Self {
            reference: reference.to_owned(),
            step,
            cells: vec![Cell::default(); cells],
            ends: Vec::with_capacity(64),
            before: 0.0,
            lengths: [Vec::with_capacity(64), Vec::with_capacity(64)],
            standing: Standing::Absent,
        }
    }

    /// What is known of the reference zone.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Takes the next snapshot. Allocates only for zones beyond the 64th.
    pub fn push(&mut self, snapshot: &Snapshot) {
        let now = seconds(snapshot);
        for column in self.lengths.iter_mut().chain([&mut self.ends]) {
            column.resize(snapshot.zones.len().max(column.len()), 0.0);
        }
        let wall = snapshot.zones.iter().map(|book| &book.zone).find(|zone| zone.id == self.reference);
        self.standing = match wall {
            None => Standing::Absent,
            Some(zone) if zone.role == Role::Primary => Standing::Primary,
            Some(_) => Standing::Fit,
        };
        for (index, book) in snapshot.zones.iter().enumerate() {
            let theirs = book.zone.id == self.reference;
            let in_sum = book.zone.role == Role::Primary && !wall.is_some_and(|wall| leaves_out(wall, &book.zone));
            if !theirs && !in_sum || !answers(book.state) {
                // It tells nothing of the cadence any more.
                self.lengths.iter_mut().for_each(|lengths| lengths[index] = 0.0);
                continue;
            }
            if in_sum {
                self.fill(self.before, now, |cell, time| cell.needed += time);
            }
            let Some(piece) = piece(book, snapshot.baseline, self.ends[index]) else { continue };
            self.ends[index] = piece.to;
            self.lengths[usize::from(theirs)][index] = piece.to - piece.from;
            self.fill(piece.from, piece.to, |cell, time| {
                if theirs {
                    cell.their_joules += piece.watts * time;
                    cell.their_known += time;
                } else {
                    cell.joules += piece.watts * time;
                    cell.known += time;
                }
            });
        }
        self.before = now;
    }

    /// Adds to every cell of a time; `add` gets the part of the time that lies in it.
    fn fill(&mut self, from: f64, to: f64, mut add: impl FnMut(&mut Cell, f64)) {
        let length = self.cells.len();
        let last = whole(to / self.step) + 1;
        let first = (whole(from / self.step) + 1).max((last + 1).saturating_sub(length));
        for number in first..=last {
            let begin = float(number - 1) * self.step;
            let time = to.min(begin + self.step) - from.max(begin);
            let cell = &mut self.cells[number % length];
            if time <= 0.0 || cell.number > number {
                continue; // older than the window
            }
            if cell.number < number {
                *cell = Cell { number, ..Cell::default() };
            }
            add(cell, time);
        }
    }

    /// The figures of the window.
    ///
    /// # Errors
    /// That there is nothing to compare yet, and why.
    pub fn compare(&self) -> Result<Comparison, String> {
        let newest = self.cells.iter().map(|cell| cell.number).max().unwrap_or(0);
        let oldest = (newest + 1).saturating_sub(self.cells.len()).max(1);
        let (mut books, mut reference) = (Vec::new(), Vec::new());
        for number in oldest..=newest {
            let cell = &self.cells[number % self.cells.len()];
            let (from, to) = (float(number - 1) * self.step, float(number) * self.step);
            if cell.number != number {
                continue;
            }
            if cell.needed > 0.0 && cell.known >= FILLED * cell.needed && cell.needed >= FILLED * self.step {
                let zones = cell.needed / self.step; // in the sum, as a mean over the cell
                books.push(Piece { from, to, watts: cell.joules * zones / cell.known });
            }
            if cell.their_known >= FILLED * self.step {
                reference.push(Piece { from, to, watts: cell.their_joules / cell.their_known });
            }
        }
        let longest = |side: usize| self.lengths[side].iter().copied().fold(self.step, f64::max);
        let books = Series::new(books).with_cadence(longest(0));
        Comparison::of(&books, &Series::new(reference).with_cadence(longest(1)))
    }
}
