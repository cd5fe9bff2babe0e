//! What a zone had measured at any instant of the recent past: its accepted readings, joined by straight lines.
//!
//! Zones are read at different times. To take the energy of one from that of another over the same interval, both are
//! needed at the same instants; between two readings a counter is taken to have risen evenly. Where a reading was
//! refused the line is broken, and nothing is known across the break.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::unit::Microjoules;

/// The most points that are kept: an hour at one a second.
const POINTS_MAX: usize = 3600;

/// The recent readings of a zone.
#[derive(Debug, Default)]
pub struct Curve {
    points: VecDeque<Point>,
    breaks: u64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    at: Timestamp,
    sum: Microjoules,
    /// How often the line was broken before this point.
    breaks: u64,
}

/// Where a curve stands at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// This much, on the piece of line with this number.
    At(Microjoules, u64),
    /// The instant is later than the last reading.
    Later,
    /// The instant is earlier than what is kept, or in a break.
    Unknown,
}

impl Curve {
    /// Adds an accepted reading, up to which `sum` was measured.
    pub fn push(&mut self, at: Timestamp, sum: Microjoules) {
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(Point { at, sum, breaks: self.breaks });
    }

    /// What came before is not joined to what comes.
    pub fn cut(&mut self) {
        self.breaks += 1;
    }

    /// The last accepted reading.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.points.back().map(|point| point.at)
    }

    /// What had been measured at an instant.
    #[must_use]
    pub fn level(&self, at: Timestamp) -> Level {
        let instant = at.awake();
        let after = self.points.partition_point(|point| point.at.awake() < instant);
        let Some(upper) = self.points.get(after) else { return Level::Later };
        if upper.at.awake() == instant {
            return Level::At(upper.sum, upper.breaks);
        }
        let Some(lower) = after.checked_sub(1).and_then(|before| self.points.get(before)) else {
            return Level::Unknown;
        };
        if lower.breaks != upper.breaks {
            return Level::Unknown;
        }
        let start = lower.at.awake();
        let (whole, part) = (upper.at.awake().saturating_sub(start), instant.saturating_sub(start));
        Level::At(lower.sum + share(upper.sum - lower.sum, part, whole), upper.breaks)
    }

    /// Forgets what is not needed to know the curve from `at` on.
    pub fn forget_before(&mut self, at: Timestamp) {
        while self.points.get(1).is_some_and(|second| second.at.awake() <= at.awake()) {
            self.points.pop_front();
        }
    }
}

fn share(energy: Microjoules, part: Duration, whole: Duration) -> Microjoules {
    let exact = u128::from(energy.0) * part.as_nanos() / whole.as_nanos().max(1);
    Microjoules(u64::try_from(exact).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp { boot: Duration::from_millis(millis), ..Timestamp::default() }
    }

    #[test]
    fn between_two_readings_it_rises_evenly_and_across_a_break_nothing_is_known() {
        let mut curve = Curve::default();
        curve.push(at(1000), Microjoules(0));
        curve.push(at(2000), Microjoules(100));
        curve.cut();
        curve.push(at(3000), Microjoules(100));
        curve.push(at(4000), Microjoules(300));
        assert_eq!(curve.level(at(1250)), Level::At(Microjoules(25), 0));
        assert_eq!(curve.level(at(2000)), Level::At(Microjoules(100), 0));
        assert_eq!(curve.level(at(2500)), Level::Unknown);
        assert_eq!(curve.level(at(3000)), Level::At(Microjoules(100), 1));
        assert_eq!(curve.level(at(3500)), Level::At(Microjoules(200), 1));
        assert_eq!(curve.level(at(4500)), Level::Later);
        assert_eq!(curve.level(at(500)), Level::Unknown);
        curve.forget_before(at(3500));
        assert_eq!(curve.level(at(3500)), Level::At(Microjoules(200), 1), "what it is needed for stays");
        assert_eq!(curve.level(at(1250)), Level::Unknown);
    }
}
