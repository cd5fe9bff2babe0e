//! The book checked against the wall: the power that was booked beside the power that another meter saw.
//!
//! The books of a run are gathered from snapshots (`gather`), a reference is another zone of the machine or the file
//! of a wattmeter (`csv`). What cannot be true is refused (`truth`), both become power over time on one axis
//! (`series`), the lag of the reference is looked for (`lag`), and the figures are taken with and without it
//! (`figures`). Reports are text (`report`, `plot`) and a page (`html`); `rolling` does the same all along a run. No
//! files and no clocks here.

use crate::validate::figures::Figures;
use crate::validate::gather::Identity;
use crate::validate::lag::Lag;
use crate::validate::series::{Grid, Pair, Series};
use crate::validate::truth::Refused;

pub mod csv;
pub mod figures;
pub mod gather;
pub mod html;
pub mod lag;
pub mod plot;
pub mod report;
pub mod rolling;
pub mod series;
pub mod truth;

/// The most cells of a comparison: with more, cells are made longer.
const CELLS_MAX: f64 = 100_000.0;
/// The shortest cell (s).
const STEP_MIN: f64 = 0.1;

/// Both sides on one grid.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The cells that both have.
    pub pairs: Vec<Pair>,
    /// What they say.
    pub figures: Figures,
}

/// Two signals compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The length of a cell (s): the coarser of the two cadences.
    pub step: f64,
    /// As the clocks have it.
    pub raw: View,
    /// How late the reference is.
    pub lag: Lag,
    /// With the lag removed, where that is clearly better.
    pub aligned: Option<View>,
}

/// Everything that a report says.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The zone or the file.
    pub reference: String,
    /// Whether it is a zone of the machine.
    pub is_zone: bool,
    /// How long the run was (s).
    pub duration: f64,
    /// When it began, seconds since 1970.
    pub start: f64,
    /// The zones in the sum.
    pub zones: Vec<String>,
    /// The totals of the sum and of what it was booked to.
    pub identity: Identity,
    /// What was compared.
    pub comparison: Comparison,
    /// What the reference said that cannot be.
    pub refused: Refused,
    /// What a reader must know to read the figures.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Compares `books` with `reference`.
    ///
    /// # Errors
    /// That they have no time in common, and which time each has.
    pub fn of(books: &Series, reference: &Series) -> Result<Self, String> {
        let (Some(ours), Some(theirs)) = (books.span(), reference.span()) else {
            let empty = if books.span().is_none() { "the books have no energy" } else { "the reference has no power" };
            return Err(format!("nothing to compare: {empty} in this time"));
        };
        let step = books.cadence().max(reference.cadence()).max(STEP_MIN).max((theirs.1 - theirs.0) / CELLS_MAX);
        let grid = Grid::over(reference, step);
        let view = |lag: f64| {
            let pairs = grid?.pairs(books, reference, lag);
            Some(View { figures: Figures::of(&pairs)?, pairs })
        };
        let raw = view(0.0).ok_or_else(|| {
            let span = |span: (f64, f64)| format!("from {:.1} s to {:.1} s", span.0, span.1);
            format!(
                "nothing to compare: the books have {}, the reference {} of the run; do the clocks agree?",
                span(ours),
                span(theirs)
            )
        })?;
        let lag = lag::find(books, reference, step);
        let aligned = lag.to_remove().and_then(view);
        Ok(Self { step, raw, lag, aligned })
    }

    /// The view that says most: the one without the lag, where there is one.
    #[must_use]
    pub fn best(&self) -> &View {
        self.aligned.as_ref().unwrap_or(&self.raw)
    }
}

impl Report {
    /// The part of the run in which both sides are known.
    #[must_use]
    pub fn coverage(&self) -> f64 {
        let known = series::float(self.comparison.best().figures.samples) * self.comparison.step;
        if self.duration > 0.0 { (known / self.duration).min(1.0) } else { 0.0 }
    }
}
