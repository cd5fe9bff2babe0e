//! Seeded chance: `SplitMix64` (Steele, Lea and Flood, 2014), so that every run of the bench draws the same machines.
//!
//! One stream per purpose, each from a seed of its own: a row that draws more moves no other row's figures. Uniform
//! numbers have 53 bits; the normal ones are by Box and Muller, of which one of two is thrown away.

/// A stream of chance.
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is small beside 2⁶⁴.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Below `limit`, for an index.
    pub const fn index(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }

    /// From 0 to 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True once in `one_in` times.
    pub const fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// Of mean 0 and standard deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A time of this mean, as those between independent events are.
    pub fn waiting(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}
