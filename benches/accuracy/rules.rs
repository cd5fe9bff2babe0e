//! Other rules for what a machine draws at rest, for comparison: what others do, on the same samples.
//!
//! Kepler's ratio rule takes the idle share of CPU time as idle energy, so idle is `P·(1 − u)`; the regression intercept
//! is that of the least-squares line through load and watts; the minimum is the lowest watts seen. A figure of each is
//! the idle power that it books on the mean over the samples.

/// Load (0 to 1) and watts of one zone.
#[derive(Default)]
pub struct Samples {
    pairs: Vec<(f64, f64)>,
}

impl Samples {
    /// Takes one in.
    pub fn push(&mut self, load: f64, watts: f64) {
        self.pairs.push((load, watts));
    }

    fn mean(&self, value: impl Fn(&(f64, f64)) -> f64) -> f64 {
        self.pairs.iter().map(value).sum::<f64>() / self.pairs.len() as f64
    }

    /// Mean watts.
    pub fn watts(&self) -> f64 {
        self.mean(|pair| pair.1)
    }

    /// Kepler's ratio rule.
    pub fn ratio(&self) -> f64 {
        self.mean(|(load, watts)| watts * (1.0 - load))
    }

    /// The regression intercept, never below 0; the mean where the load never changed.
    pub fn intercept(&self) -> f64 {
        let (load, watts) = (self.mean(|pair| pair.0), self.watts());
        let spread = self.mean(|pair| (pair.0 - load).powi(2));
        let slope = if spread > 0.0 { self.mean(|pair| (pair.0 - load) * (pair.1 - watts)) / spread } else { 0.0 };
        (watts - slope * load).max(0.0)
    }

    /// The lowest watts.
    pub fn minimum(&self) -> f64 {
        self.pairs.iter().map(|pair| pair.1).fold(f64::INFINITY, f64::min)
    }
}
