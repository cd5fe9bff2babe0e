//! `host:rest`: what the meter of the whole machine shows beyond the parts that are metered.
//!
//! Fans, disks, boards and the losses of the power supply have no meter of their own; the whole machine's has them. Its
//! readings come at their own times (a BMC every ten seconds), so the rest is booked when one comes, for the time since
//! the one before, less what the parts measured between the same two instants: each part's counter is interpolated
//! there. (Taking a tick's parts from a BMC's latest value was measured to be 12 % off; aligned like this, 0.1 %.)
//!
//! A negative remainder books nothing and is carried, because two sensors differ by a little; what exceeds 2 W, or 5 %
//! of the machine, over 60 s is a conflict between the meters: it is dropped and counted. Where a part or the whole has
//! no energy for some of the interval, or another set of parts came to count, the rest of that interval is unknown.

use std::sync::Arc;
use std::time::Duration;

use crate::attribute::account::Account;
use crate::attribute::curve::Level;
use crate::clock::Timestamp;
use crate::meter::{Domain, Quality, Reading, Role, Sensor, Value, Why, Zone};
use crate::unit::{Microjoules, Microwatts};

/// The id of the zone.
pub const ZONE: &str = "host:rest";
/// How long a part that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a negative remainder may amount to over [`OVER`]: this, or [`PERCENT`] of the whole.
const SLACK: Microwatts = Microwatts(2_000_000);
const PERCENT: u64 = 5;
const OVER: Duration = Duration::from_secs(60);

/// The rest in the making.
#[derive(Debug, Default)]
pub struct Rest {
    /// The zone once there is a meter of the whole machine.
    zone: Option<Arc<Zone>>,
    /// The instant up to which it is booked, and which zones it was reckoned from.
    from: Option<(Timestamp, u64)>,
    /// Whether there has been a first reading.
    began: bool,
    total: Microjoules,
    owed: Microjoules,
}

/// What became of one step.
#[derive(Debug)]
pub struct Step {
    /// The zone.
    pub zone: Arc<Zone>,
    /// Its reading: the rest since the start, as of the last reading of the whole machine.
    pub reading: Reading,
    /// The interval up to this reading is unknown.
    pub broken: bool,
    /// The parts measured more than the whole, beyond what sensors differ by.
    pub conflict: bool,
}

/// What one interval gives.
enum Interval {
    Pending,
    Broken,
    Energy { whole: Microjoules, parts: Microjoules },
}

impl Rest {
    /// Looks whether the meter of the whole machine has a new reading that the parts can be compared with.
    pub fn step(&mut self, now: Timestamp, accounts: &[Account]) -> Option<Step> {
        let wholes = || accounts.iter().filter(|account| account.zone.whole && account.offered);
        let Some(first) = wholes().next() else {
            self.from = None;
            let zone = Arc::clone(self.zone.as_ref()?);
            return Some(Step::new(zone, now, Value::Missing(Why::Gone)));
        };
        let zone = self.zone_for(first);
        let pending = Step::new(Arc::clone(&zone), now, Value::Missing(Why::Pending));
        // The latest instant up to which the whole machine is known.
        let mut end: Option<Timestamp> = None;
        for account in wholes() {
            let Some(last) = account.curve.last() else { return Some(pending) };
            end = Some(end.filter(|end| end.awake() <= last.awake()).unwrap_or(last));
        }
        let Some(end) = end else { return Some(pending) };
        let parts = signature(accounts);
        let Some((from, before)) = self.from else {
            if all_known(accounts, end) {
                self.from = Some((end, parts));
                // What was between the last time that it was known and now is not.
                let broken = std::mem::replace(&mut self.began, true);
                return Some(Step { broken, ..Step::new(zone, end, Value::Ticks(self.total.0)) });
            }
            return Some(pending);
        };
        if end.awake() <= from.awake() {
            return Some(pending);
        }
        let overdue = now.awake_since(end) > PATIENCE;
        match interval(accounts, from, end, parts == before) {
            Interval::Pending if !overdue => Some(pending),
            Interval::Energy { whole, parts: metered } => {
                let conflict = self.book(whole, metered, end.awake_since(from));
                self.from = Some((end, parts));
                Some(Step { conflict, ..Step::new(zone, end, Value::Ticks(self.total.0)) })
            }
            Interval::Pending | Interval::Broken => {
                self.from = all_known(accounts, end).then_some((end, parts));
                self.owed = Microjoules::ZERO;
                let value = match self.from {
                    Some(_) => Value::Ticks(self.total.0),
                    None => Value::Missing(Why::Pending),
                };
                Some(Step { broken: true, ..Step::new(zone, end, value) })
            }
        }
    }

    /// The instant before which no reading is needed any more.
    #[must_use]
    pub fn needed_from(&self) -> Option<Timestamp> {
        self.from.map(|(from, _)| from)
    }

    /// Books one interval; says whether the meters contradict each other.
    fn book(&mut self, whole: Microjoules, parts: Microjoules, time: Duration) -> bool {
        let claimed = parts + self.owed;
        self.total += whole.saturating_sub(claimed);
        self.owed = claimed.saturating_sub(whole);
        let mean = Microwatts::from_watts(whole.watts_over(time));
        let slack = SLACK.max(Microwatts(mean.0 / 100 * PERCENT)).over(OVER);
        let conflict = self.owed > slack;
        if conflict {
            self.owed = Microjoules::ZERO;
        }
        conflict
    }

    fn zone_for(&mut self, whole: &Account) -> Arc<Zone> {
        let same = |zone: &&Arc<Zone>| zone.parent.as_ref() == Some(&whole.zone.id);
        if let Some(zone) = self.zone.as_ref().filter(same) {
            return Arc::clone(zone);
        }
        let zone = Arc::new(Zone {
            role: Role::Primary,
            why: format!(
                "what {} shows beyond the metered parts (fans, boards, losses, all that has no meter)",
                whole.zone.id
            ),
            parent: Some(whole.zone.id.clone()),
            sensor: Sensor::microjoules(None),
            power_max: Microwatts(whole.zone.power_max.0.saturating_mul(4)),
            path: whole.zone.path.clone(),
            ..Zone::new("host", ZONE, Domain::Rest)
        });
        self.zone = Some(Arc::clone(&zone));
        zone
    }
}

impl Step {
    fn new(zone: Arc<Zone>, at: Timestamp, value: Value) -> Self {
        Self { zone, reading: Reading { at, value }, broken: false, conflict: false }
    }
}

/// Whether an account is a part whose energy is to be taken away.
fn is_part(account: &Account) -> bool {
    let zone = &account.zone;
    zone.role == Role::Primary
        && zone.quality == Quality::Measured
        && zone.domain != Domain::Rest
        && account.has_baseline()
}

/// Which zones the rest is reckoned from, as a number.
fn signature(accounts: &[Account]) -> u64 {
    accounts.iter().enumerate().fold(1, |sum, (index, account)| {
        let word = u64::from(is_part(account)) * 2 + u64::from(account.zone.whole && account.offered);
        sum ^ (word.wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(u32::try_from(index % 64).unwrap_or(0))
    })
}

fn all_known(accounts: &[Account], at: Timestamp) -> bool {
    let mut needed = accounts.iter().filter(|account| is_part(account) || (account.zone.whole && account.offered));
    needed.all(|account| matches!(account.curve.level(at), Level::At(..)))
}

fn interval(accounts: &[Account], from: Timestamp, end: Timestamp, same: bool) -> Interval {
    let (mut whole, mut parts) = (Microjoules::ZERO, Microjoules::ZERO);
    for account in accounts {
        let is_whole = account.zone.whole && account.offered;
        if !is_whole && !is_part(account) {
            continue;
        }
        match (account.curve.level(from), account.curve.level(end)) {
            (_, Level::Later) => return Interval::Pending,
            (Level::At(before, piece), Level::At(after, same_piece)) if piece == same_piece => {
                *(if is_whole { &mut whole } else { &mut parts }) += after - before;
            }
            _ => return Interval::Broken,
        }
    }
    if same { Interval::Energy { whole, parts } } else { Interval::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    const J: u64 = 1_000_000;

    /// Books intervals of 10 s with a whole and parts in watts; the total in joules and the number of conflicts.
    fn booked(intervals: &[(u64, u64)]) -> (u64, usize) {
        let mut rest = Rest::default();
        let mut conflicts = 0;
        for (whole, parts) in intervals {
            let joules = |watts: &u64| Microjoules(watts * 10 * J);
            conflicts += usize::from(rest.book(joules(whole), joules(parts), Duration::from_secs(10)));
        }
        (rest.total.0 / J, conflicts)
    }

    #[test]
    fn what_is_missing_once_is_taken_from_what_is_over_later() {
        assert_eq!(booked(&[(300, 200)]), (1000, 0));
        assert_eq!(booked(&[(300, 310), (300, 200)]), (900, 0), "10 W for 10 s are owed, and paid");
        assert_eq!(booked(&[(20, 21); 5]), (0, 0), "1 W over 50 s stays within 2 W over 60 s");
    }

    #[test]
    fn meters_that_contradict_each_other_are_said_to() {
        assert_eq!(booked(&[(100, 200), (100, 200), (300, 200)]), (1000, 2), "dropped each time, and nothing is owed");
        assert_eq!(booked(&[(1000, 1040); 8]).1, 1, "4 % over 80 s is more than 5 % over 60 s");
    }
}
