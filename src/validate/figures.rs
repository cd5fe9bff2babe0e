//! The figures of a comparison: how far the books are from the reference, and what line leads from one to the other.
//!
//! Differences are books − reference. MAPE is the mean of |books − reference| / reference over cells in which the
//! reference draws at least 0.1 W. The fit `reference ≈ scale · books + offset` is by least squares: the offset holds
//! what the books do not see at all (fans, disks), the scale what grows with the load (losses of the power supply).
//! Correlation and fit do not exist for a side that does not move.

use crate::validate::series::{Pair, float};

/// Below this a reference is too small to divide by (W).
const DIVISIBLE: f64 = 0.1;

/// How the books compare with a reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// How many cells.
    pub samples: usize,
    /// Mean power of the books (W).
    pub books: f64,
    /// Mean power of the reference (W).
    pub reference: f64,
    /// Mean absolute difference (W).
    pub mae: f64,
    /// Root of the mean squared difference (W).
    pub rmse: f64,
    /// Mean absolute difference in % of the reference.
    pub mape: Option<f64>,
    /// Pearson's correlation.
    pub correlation: Option<f64>,
    /// The cell with the largest difference.
    pub worst: Pair,
    /// The line from the books to the reference.
    pub fit: Option<Fit>,
}

/// `reference ≈ scale · books + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// Watts of the reference per watt of the books.
    pub scale: f64,
    /// Watts of the reference where the books have none.
    pub offset: f64,
    /// What is left: root of the mean squared difference from the line (W).
    pub rmse: f64,
}

impl Figures {
    /// Of the cells that both have; `None` without any.
    #[must_use]
    pub fn of(pairs: &[Pair]) -> Option<Self> {
        let far = |pair: &Pair| (pair.books - pair.reference).abs();
        let worst = *pairs.iter().max_by(|a, b| far(a).total_cmp(&far(b)))?;
        let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).sum::<f64>() / float(pairs.len());
        let ratios = pairs.iter().filter(|pair| pair.reference >= DIVISIBLE).map(|pair| far(pair) / pair.reference);
        let ratios: Vec<f64> = ratios.collect();
        let moments = Moments::of(pairs.iter().map(|pair| (pair.books, pair.reference)));
        let fit = moments.slope().map(|scale| {
            let offset = moments.y - scale * moments.x;
            let rmse = mean(&|pair| (pair.reference - scale * pair.books - offset).powi(2)).sqrt();
            Fit { scale, offset, rmse }
        });
        Some(Self {
            samples: pairs.len(),
            books: moments.x,
            reference: moments.y,
            mae: mean(&far),
            rmse: mean(&|pair| far(pair).powi(2)).sqrt(),
            mape: (!ratios.is_empty()).then(|| 100.0 * ratios.iter().sum::<f64>() / float(ratios.len())),
            correlation: moments.correlation(),
            worst,
            fit,
        })
    }

    /// Mean of books − reference (W).
    #[must_use]
    pub fn bias(&self) -> f64 {
        self.books - self.reference
    }

    /// The same in % of the reference.
    #[must_use]
    pub fn bias_percent(&self) -> Option<f64> {
        (self.reference >= DIVISIBLE).then(|| 100.0 * self.bias() / self.reference)
    }
}

/// Means, and mean squares about them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moments {
    /// How many.
    pub count: usize,
    /// Mean of the first.
    pub x: f64,
    /// Mean of the second.
    pub y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Moments {
    /// Of pairs of numbers.
    #[must_use]
    pub fn of(pairs: impl Iterator<Item = (f64, f64)>) -> Self {
        let mut sums = Self::default();
        for (x, y) in pairs {
            // Welford's running means: no difference of two large squares.
            sums.count += 1;
            let (dx, dy) = (x - sums.x, y - sums.y);
            sums.x += dx / float(sums.count);
            sums.y += dy / float(sums.count);
            sums.xx += dx * (x - sums.x);
            sums.yy += dy * (y - sums.y);
            sums.xy += dx * (y - sums.y);
        }
        sums
    }

    /// How much the first moves: its standard deviation.
    #[must_use]
    pub fn deviations(&self) -> (f64, f64) {
        let count = float(self.count.max(1));
        ((self.xx / count).sqrt(), (self.yy / count).sqrt())
    }

    /// Whether both move at all, beyond what rounding makes of a constant.
    fn moves(&self) -> bool {
        let (x, y) = self.deviations();
        x > 1e-6 * self.x.abs().max(1e-6) && y > 1e-6 * self.y.abs().max(1e-6)
    }

    /// Pearson's correlation; `None` if one of the two does not move.
    #[must_use]
    pub fn correlation(&self) -> Option<f64> {
        self.moves().then(|| (self.xy / (self.xx * self.yy).sqrt()).clamp(-1.0, 1.0))
    }

    fn slope(&self) -> Option<f64> {
        self.moves().then(|| self.xy / self.xx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let pair = |at, books, reference| Pair { at, books, reference };
        // The reference is 1.1 · books + 20.
        let figures =
            Figures::of(&[pair(1.0, 100.0, 130.0), pair(2.0, 200.0, 240.0), pair(3.0, 300.0, 350.0)]).unwrap();
        assert!((figures.mae - 40.0).abs() < 1e-9 && (figures.bias() + 40.0).abs() < 1e-9);
        assert!((figures.rmse - (5000.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        let mape = (30.0 / 130.0 + 40.0 / 240.0 + 50.0 / 350.0) / 3.0 * 100.0;
        assert!((figures.mape.unwrap() - mape).abs() < 1e-9);
        assert!((figures.bias_percent().unwrap() + 100.0 / 6.0).abs() < 1e-9);
        assert_eq!(figures.worst, pair(3.0, 300.0, 350.0));
        let fit = figures.fit.unwrap();
        assert!((fit.scale - 1.1).abs() < 1e-9 && (fit.offset - 20.0).abs() < 1e-9 && fit.rmse < 1e-9);
        assert!((figures.correlation.unwrap() - 1.0).abs() < 1e-9);
        let flat = Figures::of(&[pair(1.0, 100.0, 0.0), pair(2.0, 100.0, 0.0)]).unwrap();
        assert_eq!((flat.mape, flat.correlation, flat.fit, flat.bias_percent()), (None, None, None, None));
        assert!(Figures::of(&[]).is_none());
    }
}
