//! Power over time as pieces of constant watts, and the arithmetic on them that comparing needs: means, sums, grids.
//!
//! Times are seconds since the baseline of the run, on one axis for both sides. A meter's interval is a piece as it
//! is. A sample of a file stands for the time since the sample before it, because that is what a wattmeter averages
//! over; across a gap of more than 1.5 cadences it stands for one cadence only, and the rest is not known. What is not
//! known is no zero: a mean exists only where pieces cover most of the time.

/// The part of a cell that must be covered for its mean to count.
const COVERED: f64 = 0.75;
/// How many cadences may lie between two samples that belong together.
const TOGETHER: f64 = 1.5;
/// Edges closer than this are one (s).
const SAME: f64 = 1e-6;

/// Constant power over a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    /// Its begin (s).
    pub from: f64,
    /// Its end (s).
    pub to: f64,
    /// Its power (W).
    pub watts: f64,
}

/// One reading of a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When (s).
    pub at: f64,
    /// Its power (W).
    pub watts: f64,
    /// The line of its file; 0 for a zone.
    pub line: usize,
}

/// Pieces in order of time that do not overlap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    pieces: Vec<Piece>,
    cadence: f64,
}

/// The mean of both sides over one cell of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The end of the cell, on the reference's clock (s).
    pub at: f64,
    /// Mean power of the books (W).
    pub books: f64,
    /// Mean power of the reference (W).
    pub reference: f64,
}

/// One zone of a sum: its pieces, and the time in which the sum is not known without it.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// What it measured.
    pub series: Series,
    /// Since when it is needed (s).
    pub from: f64,
    /// Until when (s).
    pub to: f64,
}

impl Series {
    /// Pieces that are in order already. The cadence is the median of their lengths.
    #[must_use]
    pub fn new(pieces: Vec<Piece>) -> Self {
        let mut lengths: Vec<f64> = pieces.iter().map(|piece| piece.to - piece.from).collect();
        let cadence = median(&mut lengths).unwrap_or(0.0);
        Self { pieces, cadence }
    }

    /// The same with a cadence that is known from elsewhere.
    #[must_use]
    pub fn with_cadence(mut self, cadence: f64) -> Self {
        self.cadence = cadence;
        self
    }

    /// Samples in any order; of those at the same time the last wins.
    #[must_use]
    pub fn from_samples(samples: &[Sample]) -> Self {
        let mut sorted: Vec<Sample> = samples.to_vec();
        sorted.sort_by(|a, b| a.at.total_cmp(&b.at)); // stable: equal times stay in their order
        let mut single: Vec<Sample> = Vec::with_capacity(sorted.len());
        for sample in sorted {
            match single.last_mut() {
                Some(last) if sample.at - last.at < SAME => *last = sample,
                _ => single.push(sample),
            }
        }
        let mut steps: Vec<f64> = single.windows(2).map(|two| two[1].at - two[0].at).collect();
        let Some(cadence) = median(&mut steps) else { return Self::default() };
        let mut before = f64::NEG_INFINITY;
        let pieces = single.iter().map(|sample| {
            let step = sample.at - before;
            let from = if step > TOGETHER * cadence { sample.at - cadence } else { before };
            before = sample.at;
            Piece { from, to: sample.at, watts: sample.watts }
        });
        Self { pieces: pieces.collect(), cadence }
    }

    /// Their sum, wherever every member that is needed has a piece.
    #[must_use]
    pub fn sum(members: &[Member]) -> Self {
        let mut edges: Vec<f64> = members.iter().flat_map(|member| [member.from, member.to]).collect();
        edges.extend(members.iter().flat_map(|m| m.series.pieces.iter().flat_map(|piece| [piece.from, piece.to])));
        edges.retain(|edge| edge.is_finite());
        edges.sort_by(f64::total_cmp);
        edges.dedup_by(|later, earlier| *later - *earlier < SAME);
        let mut next = vec![0; members.len()];
        let mut pieces = Vec::new();
        for two in edges.windows(2) {
            let middle = f64::midpoint(two[0], two[1]);
            let watts = members.iter().zip(&mut next).try_fold(None, |sum, (member, next)| {
                while member.series.pieces.get(*next).is_some_and(|piece| piece.to <= middle) {
                    *next += 1;
                }
                let piece = member.series.pieces.get(*next).filter(|piece| piece.from <= middle);
                match piece {
                    Some(piece) => Some(Some(sum.unwrap_or(0.0) + piece.watts)),
                    None if middle < member.from || middle > member.to => Some(sum),
                    None => None,
                }
            });
            if let Some(Some(watts)) = watts {
                pieces.push(Piece { from: two[0], to: two[1], watts });
            }
        }
        let cadence = members.iter().map(|member| member.series.cadence).fold(0.0, f64::max);
        Self { pieces, cadence }
    }

    /// The pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The usual time between two readings (s).
    #[must_use]
    pub fn cadence(&self) -> f64 {
        self.cadence
    }

    /// Its begin and its end.
    #[must_use]
    pub fn span(&self) -> Option<(f64, f64)> {
        Some((self.pieces.first()?.from, self.pieces.last()?.to))
    }

    /// The mean over a time, where enough of it is covered.
    #[must_use]
    pub fn mean(&self, from: f64, to: f64) -> Option<f64> {
        let (mut joules, mut covered) = (0.0, 0.0);
        for piece in self.within(from, to) {
            let time = piece.to - piece.from;
            joules += piece.watts * time;
            covered += time;
        }
        (covered >= COVERED * (to - from)).then(|| joules / covered)
    }

    /// The means of `other`, delayed by `lag`, and of this one, over the part of a time in which both are known: were
    /// it two parts, a load that moves would look like an error.
    fn means_with(&self, other: &Self, lag: f64, from: f64, to: f64) -> Option<(f64, f64)> {
        let (mut theirs, mut ours, mut common) = (0.0, 0.0, 0.0);
        for piece in self.within(from, to) {
            for twin in other.within(piece.from - lag, piece.to - lag) {
                let time = twin.to - twin.from;
                theirs += twin.watts * time;
                ours += piece.watts * time;
                common += time;
            }
        }
        (common >= COVERED * (to - from)).then(|| (theirs / common, ours / common))
    }

    /// The pieces of a time, cut to it.
    fn within(&self, from: f64, to: f64) -> impl Iterator<Item = Piece> {
        let first = self.pieces.partition_point(|piece| piece.to <= from);
        let pieces = self.pieces[first..].iter().take_while(move |piece| piece.from < to);
        pieces.map(move |piece| Piece { from: piece.from.max(from), to: piece.to.min(to), ..*piece })
    }
}

/// Equal cells over a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// The begin of the first cell (s).
    pub from: f64,
    /// The length of a cell (s).
    pub step: f64,
    /// How many.
    pub cells: usize,
}

impl Grid {
    /// Cells of `step` that cover the reference, whose pieces they begin with: its samples are not blurred.
    #[must_use]
    pub fn over(reference: &Series, step: f64) -> Option<Self> {
        let (from, to) = reference.span()?;
        let cells = ((to - from) / step - SAME).ceil();
        (step > 0.0 && cells >= 1.0).then(|| Self { from, step, cells: whole(cells) })
    }

    /// The mean of a series in every cell; of one that is `late` by so much.
    #[must_use]
    pub fn means(self, series: &Series, late: f64) -> Vec<Option<f64>> {
        let edge = |cell: usize| self.from + float(cell) * self.step + late;
        (0..self.cells).map(|cell| series.mean(edge(cell), edge(cell + 1))).collect()
    }

    /// The cells in which both are known, with the books delayed by `lag`, as the reference is.
    #[must_use]
    pub fn pairs(self, books: &Series, reference: &Series, lag: f64) -> Vec<Pair> {
        let edge = |cell: usize| self.from + float(cell) * self.step;
        let cells = (0..self.cells).filter_map(|cell| {
            let (books, reference) = reference.means_with(books, lag, edge(cell), edge(cell + 1))?;
            Some(Pair { at: edge(cell + 1), books, reference })
        });
        cells.collect()
    }
}

/// The middle one; the mean of the two in the middle of an even number.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[half - 1], upper) } else { upper })
}

/// A count as a number to reckon with.
#[must_use]
#[allow(clippy::cast_precision_loss)] // counts of samples are far below 2^53
pub fn float(count: usize) -> f64 {
    count as f64
}

/// A number as a count; nothing below zero.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, and NaN becomes 0
pub fn whole(number: f64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(f64, f64)]) -> Vec<Sample> {
        rows.iter().map(|&(at, watts)| Sample { at, watts, line: 0 }).collect()
    }

    #[test]
    fn a_sample_stands_for_the_time_before_it_and_not_for_a_gap() {
        let series =
            Series::from_samples(&samples(&[(2.0, 20.0), (1.0, 10.0), (2.0, 22.0), (10.0, 30.0), (11.0, 40.0)]));
        let piece = |from, to, watts| Piece { from, to, watts };
        assert_eq!(
            series.pieces(),
            [piece(0.0, 1.0, 10.0), piece(1.0, 2.0, 22.0), piece(9.0, 10.0, 30.0), piece(10.0, 11.0, 40.0)],
            "sorted, the last of two wins, the gap stays one"
        );
        assert_eq!(series.mean(0.0, 2.0), Some(16.0));
        assert_eq!(series.mean(2.0, 9.0), None, "what is not known is no zero");
        assert_eq!(Series::from_samples(&samples(&[(1.0, 1.0)])).pieces(), [], "one sample has no cadence");
    }

    #[test]
    fn a_sum_is_known_only_with_all_its_members() {
        let every = |step: f64, count: usize, watts: f64| {
            let piece = |i| Piece { from: float(i) * step, to: float(i + 1) * step, watts };
            Series::new((0..count).map(piece).collect())
        };
        let fast = Member { series: every(1.0, 30, 10.0), from: 0.0, to: f64::INFINITY };
        let slow = Member { series: every(10.0, 2, 5.0), from: 0.0, to: f64::INFINITY };
        let sum = Series::sum(&[fast.clone(), slow.clone()]);
        assert_eq!(sum.span(), Some((0.0, 20.0)), "the last 10 s lack the slow zone");
        assert_eq!((sum.mean(0.0, 20.0), sum.cadence()), (Some(15.0), 10.0));
        let ended = Series::sum(&[fast, Member { to: 20.0, ..slow }]);
        assert_eq!(ended.mean(20.0, 30.0), Some(10.0), "a zone that has gone is not waited for");
    }
}
