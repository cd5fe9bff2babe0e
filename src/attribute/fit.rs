//! The power at no load of a machine that is seen at other loads: curves through weighted points.
//!
//! Four are fitted, `P = a + c·s(u)`: with a straight `s`; with a knee at 10 %, as of machines with deep sleep states; a
//! logarithmic one; and the shape of the processor's generation, which may bend in the two ways in which published
//! curves of one generation differ most ([`WAYS`]). Each is drawn towards the usual ratio of idle to full power. `a`,
//! averaged over the four by how well they fit and how likely they were before, is the power at no load.

use super::learner::{BINS, Prior};
use crate::meter::processor::{WAYS, interpolate};

/// The fit trusts all samples together as much as so many with an error of [`SIGMA`].
const WEIGHT: f64 = 8.0;
/// How far curves of real machines are from the shapes, as a share of the mean power.
const SIGMA: f64 = 0.04;
/// The generation's shape is so many times as likely as one of the three others, before anything is seen.
const KNOWN: f64 = 4.5;
/// How far it bends, in the standard deviations of published curves.
const BENDS: f64 = 0.8;
/// The active power is at least this share of the mean power.
const ACTIVE_MIN: f64 = 1e-3;
/// How often a fit is repeated, as its prior depends on what it finds.
const ROUNDS: usize = 8;

/// Samples at about one load.
#[derive(Debug, Clone, Copy, Default)]
pub struct Point {
    /// How many.
    pub count: f64,
    /// Their mean utilisation, 0 to 1.
    pub load: f64,
    /// Their mean power, W.
    pub watts: f64,
}

/// Points to fit curves to.
#[derive(Debug)]
pub struct Points {
    /// With weights in the place of counts.
    points: [Point; BINS],
    mean: f64,
}

/// What one curve says of no load.
#[derive(Debug, Clone, Copy)]
struct Fit {
    idle: f64,
    variance: f64,
    /// −2 ln of how likely the points are with it.
    cost: f64,
}

impl Points {
    /// The first [`BINS`] of `points`; none if there is nothing in them.
    #[must_use]
    pub fn new(points: impl Iterator<Item = Point>) -> Option<Self> {
        let mut weighted = [Point::default(); BINS];
        let (mut sum, mut count, mut energy) = (0.0, 0.0, 0.0);
        for (place, point) in weighted.iter_mut().zip(points) {
            // A quiet bin says more of rest than a busy one.
            let weight = point.count * (1.5 - point.load);
            *place = Point { count: weight, ..point };
            sum += weight;
            count += point.count;
            energy += point.count * point.watts;
        }
        if sum <= 0.0 || energy <= 0.0 {
            return None;
        }
        for point in &mut weighted {
            point.count *= WEIGHT / sum;
        }
        Some(Self { points: weighted, mean: energy / count })
    }

    /// The mean power of all samples, W.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The power at no load and its standard deviation, W.
    #[must_use]
    pub fn rest(&self, prior: &Prior) -> (f64, f64) {
        let mut fits = [
            self.fit(|load| [1.0, load], prior),
            self.fit(|load| [1.0, knee(load)], prior),
            self.fit(|load| [1.0, (20.0 * load).ln_1p() / 21.0_f64.ln()], prior),
            self.fit(
                |load| {
                    let [first, second] = &WAYS;
                    [1.0, interpolate(&prior.shape, load), interpolate(first, load), interpolate(second, load)]
                },
                prior,
            ),
        ];
        fits[3].cost -= 2.0 * KNOWN.ln();
        let best = fits.iter().map(|fit| fit.cost).fold(f64::INFINITY, f64::min);
        let chance = |fit: &Fit| ((best - fit.cost) / 2.0).exp();
        let sum: f64 = fits.iter().map(chance).sum();
        let mean = fits.iter().map(|fit| chance(fit) * fit.idle).sum::<f64>() / sum;
        let spread: f64 = fits.iter().map(|fit| chance(fit) * ((fit.idle - mean).powi(2) + fit.variance)).sum();
        (mean, (spread / sum).sqrt())
    }

    /// The least-squares sum of the terms `basis`: idle power, active power times a shape, and ways in which it bends, in
    /// standard deviations of active power. It is drawn towards the prior's ratio of idle power to the full one and to no
    /// bends. The strength of that depends on the active power: it is solved for again, each time with the geometric mean
    /// of what was taken and what was found, since taking what was found goes to and fro where power hardly follows the
    /// load.
    fn fit<const N: usize>(&self, basis: impl Fn(f64) -> [f64; N], prior: &Prior) -> Fit {
        let variance = (SIGMA * self.mean).powi(2);
        let mut seen = System::<N>::default();
        for point in self.points.iter().filter(|point| point.count > 0.0) {
            seen.add(point.count / variance, &basis(point.load), point.watts);
        }
        let rho = prior.ratio / (1.0 - prior.ratio);
        let off_ratio: [f64; N] = std::array::from_fn(|term| [1.0, -rho].get(term).copied().unwrap_or(0.0));
        let mut active = self.mean * (1.0 - prior.ratio);
        let mut fit = Fit { idle: 0.0, variance: 0.0, cost: 0.0 };
        for _ in 0..ROUNDS {
            let mut all = seen.clone();
            all.add((prior.spread * rho * active).powi(-2), &off_ratio, 0.0);
            for bend in 2..N {
                all.add((BENDS * active).powi(-2), &std::array::from_fn(|term| f64::from(u8::from(term == bend))), 0.0);
            }
            let (mut terms, variance) = all.solve();
            terms[1] = terms[1].max(ACTIVE_MIN * self.mean);
            active = (active * terms[1]).sqrt();
            fit = Fit { idle: terms[0], variance, cost: all.cost(&terms) };
        }
        fit
    }
}

/// The shape with a knee.
fn knee(load: f64) -> f64 {
    match load {
        ..0.1 => 2.2 * load,
        ..0.5 => 0.22 + 1.2 * (load - 0.1),
        _ => 0.70 + 0.6 * (load - 0.5),
    }
}

/// The normal equations of a least-squares fit of `N` terms.
#[derive(Clone)]
struct System<const N: usize> {
    /// Symmetric.
    left: [[f64; N]; N],
    right: [f64; N],
    /// The sum of squares of what is to be fitted.
    square: f64,
}

impl<const N: usize> Default for System<N> {
    fn default() -> Self {
        Self { left: [[0.0; N]; N], right: [0.0; N], square: 0.0 }
    }
}

impl<const N: usize> System<N> {
    /// One equation: `Σ terms·row = value`.
    fn add(&mut self, weight: f64, row: &[f64; N], value: f64) {
        for ((left, right), of) in self.left.iter_mut().zip(&mut self.right).zip(row) {
            for (left, other) in left.iter_mut().zip(row) {
                *left += weight * of * other;
            }
            *right += weight * of * value;
        }
        self.square += weight * value * value;
    }

    /// The terms, and the variance of the first. The matrix is positive definite: Gauss needs no pivot.
    fn solve(&self) -> ([f64; N], f64) {
        let mut left = self.left;
        let mut right: [[f64; 2]; N] = std::array::from_fn(|at| [self.right[at], f64::from(u8::from(at == 0))]);
        for pivot in 0..N {
            let (row, value) = (left[pivot], right[pivot]);
            for other in (0..N).filter(|other| *other != pivot) {
                let factor = left[other][pivot] / row[pivot];
                left[other].iter_mut().zip(&row).for_each(|(to, from)| *to -= factor * from);
                right[other].iter_mut().zip(&value).for_each(|(to, from)| *to -= factor * from);
            }
        }
        (std::array::from_fn(|at| right[at][0] / left[at][at]), right[0][1] / left[0][0])
    }

    /// The weighted sum of squares that the terms leave.
    fn cost(&self, terms: &[f64; N]) -> f64 {
        let row = |left: &[f64; N]| left.iter().zip(terms).map(|(left, term)| left * term).sum::<f64>();
        let explained = self.left.iter().zip(terms).map(|(left, term)| row(left) * term).sum::<f64>();
        let mixed: f64 = self.right.iter().zip(terms).map(|(right, term)| right * term).sum();
        self.square - 2.0 * mixed + explained
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of the four shapes, not bent.
    pub fn shape(which: usize, load: f64, prior: &Prior) -> f64 {
        match which {
            0 => load,
            1 => knee(load),
            2 => (20.0 * load).ln_1p() / 21.0_f64.ln(),
            _ => interpolate(&prior.shape, load),
        }
    }

    #[test]
    fn equations_are_solved() {
        // 2x + y = 5 and x + 3y = 10 have x = 1, y = 3; as many equations as terms leave nothing.
        let mut system = System::<2>::default();
        system.add(4.0, &[2.0, 1.0], 5.0);
        system.add(0.5, &[1.0, 3.0], 10.0);
        let (terms, variance) = system.solve();
        assert!((terms[0] - 1.0).abs() < 1e-12 && (terms[1] - 3.0).abs() < 1e-12, "{terms:?}");
        assert!(system.cost(&terms).abs() < 1e-9);
        assert!((system.cost(&[0.0, 0.0]) - (4.0 * 25.0 + 0.5 * 100.0)).abs() < 1e-9);
        // (AᵀWA)⁻¹ by hand: [16.5 9.5; 9.5 8.5]⁻¹, its first element.
        assert!((variance - 8.5 / (16.5 * 8.5 - 9.5 * 9.5)).abs() < 1e-12, "{variance}");
    }

    #[test]
    fn a_curve_that_bends_as_published_ones_do_is_followed_to_no_load() {
        let prior = Prior { ratio: 0.25, spread: 0.45, shape: crate::meter::processor::unknown().shape };
        for (first, second) in [(1.5, 0.0), (-1.5, 0.0), (0.0, 1.5), (0.0, -1.5), (1.0, -1.0)] {
            let watts = |load: f64| {
                let bent = first * interpolate(&WAYS[0], load) + second * interpolate(&WAYS[1], load);
                30.0 + 100.0 * (interpolate(&prior.shape, load) + bent)
            };
            let loads = (2..16).map(|step| 0.025 * f64::from(step));
            let points = Points::new(loads.map(|load| Point { count: 20.0, load, watts: watts(load) })).unwrap();
            let (idle, error) = points.rest(&prior);
            assert!((idle - 30.0).abs() < 2.5, "{first} {second}: {idle} ± {error}");
        }
    }

    /// Memory and fans of some machines draw the same whatever happens, and a sensor may even say less under load.
    #[test]
    fn power_that_hardly_follows_the_load_is_nearly_all_at_rest() {
        let prior = Prior::of(crate::meter::Domain::Dram, None);
        for (slope, most) in [(0.0, 9.0), (3.0, 9.0), (15.0, 9.0), (-10.0, 13.0)] {
            for (low, high) in [(2, 36), (8, 20)] {
                let loads = (low..high).map(|step| 0.025 * (f64::from(step) + 0.5));
                let points = loads.map(|load| Point { count: 20.0, load, watts: 60.0 + slope * load });
                let (idle, error) = Points::new(points).unwrap().rest(&prior);
                assert!((idle - 60.0).abs() < most, "{slope} W, bins {low} to {high}: {idle} ± {error}");
            }
        }
    }

    #[test]
    fn nothing_is_learned_from_nothing() {
        assert!(Points::new(std::iter::empty()).is_none());
        let none = Point { count: 3.0, load: 0.2, watts: 0.0 };
        assert!(Points::new([none].into_iter()).is_none(), "0 W has no share that could be idle");
    }
}
