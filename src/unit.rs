//! Units as types, and the only arithmetic between them that means something.
//!
//! Energy is a whole number of microjoules, power a whole number of microwatts and CPU time a whole number of
//! nanoseconds: the books are integers, so that they can balance exactly. Floating point appears only at the edges
//! (a table for people, OTLP's joules).

use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The difference, or nothing where it would be negative.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                debug_assert!(self.0 >= other.0, "a quantity cannot be negative");
                self.saturating_sub(other)
            }
        }

        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                *self = *self - other;
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Add::add)
            }
        }
    };
}

quantity! {
    /// Energy in microjoules (µJ).
    Microjoules
}
quantity! {
    /// Power in microwatts (µW).
    Microwatts
}
quantity! {
    /// CPU time in nanoseconds.
    CpuTime
}

impl Microjoules {
    /// In joules, for people and for OTLP.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 µJ = 9.0e9 J; beyond that within 1 ulp
    pub fn joules(self) -> f64 {
        self.0 as f64 / 1e6 // the nearest number to the decimal, which a multiplication is not
    }

    /// The mean power over `interval`, in watts; nothing over no time.
    #[must_use]
    pub fn watts_over(self, interval: Duration) -> f64 {
        if interval.is_zero() { 0.0 } else { self.joules() / interval.as_secs_f64() }
    }
}

impl Microwatts {
    /// From watts as a person writes them; negative and not-a-number become nothing.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, and NaN becomes 0
    pub fn from_watts(watts: f64) -> Self {
        Self((watts * 1e6).round() as u64)
    }

    /// In watts.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 µW = 9.0e9 W
    pub fn watts(self) -> f64 {
        self.0 as f64 * 1e-6
    }

    /// The energy of this power over `interval`, rounded to the nearest µJ.
    #[must_use]
    pub fn over(self, interval: Duration) -> Microjoules {
        let exact = u128::from(self.0) * interval.as_nanos();
        Microjoules(u64::try_from((exact + 500_000_000) / 1_000_000_000).unwrap_or(u64::MAX))
    }
}

impl CpuTime {
    /// From whole microseconds (`usage_usec` of cpu.stat).
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// From `USER_HZ` ticks of 1/100 s (`/proc/stat`, `/proc/PID/stat`).
    #[must_use]
    pub const fn from_ticks(ticks: u64) -> Self {
        Self(ticks.saturating_mul(10_000_000))
    }

    /// In seconds, to 53 bits.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// In whole microseconds.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0 / 1_000
    }
}

impl From<Duration> for CpuTime {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_over_time_is_energy_to_the_microjoule() {
        assert_eq!(Microwatts(30_000_000).over(Duration::from_millis(1500)), Microjoules(45_000_000));
        assert_eq!(Microwatts(1).over(Duration::from_millis(500)), Microjoules(1), "rounds to nearest");
        assert_eq!(Microwatts::from_watts(f64::NAN), Microwatts::ZERO);
        assert!((Microjoules(45_000_000).watts_over(Duration::from_secs(3)) - 15.0).abs() < 1e-12);
        assert!(Microjoules(1).watts_over(Duration::ZERO).abs() < f64::EPSILON);
    }

    #[test]
    fn sums_saturate_instead_of_wrapping() {
        assert_eq!(Microjoules(u64::MAX) + Microjoules(1), Microjoules(u64::MAX));
    }
}
