//! One zone's account: its baseline, its totals, and the activity of an interval that is still open.

use std::sync::Arc;
use std::time::Duration;

use crate::activity::Usage;
use crate::activity::counters::Measure;
use crate::attribute::cpu::Split;
use crate::attribute::curve::Curve;
use crate::attribute::frozen::Frozen;
use crate::attribute::learner::{Estimate, Learner};
use crate::clock::Timestamp;
use crate::export::{Refused, Totals, ZoneBook};
use crate::meter::energy::{self, Delta};
use crate::meter::{Reading, Sensor, State, Value, Why, Zone};
use crate::unit::{Microjoules, Microwatts};
use crate::workload::Kind;
use crate::workload::table::{NODE, Table};

/// The longest interval that a gauge is integrated over: beyond it a mean of two readings says nothing.
const GAUGE_HORIZON: Duration = Duration::from_secs(300);

/// The books of one zone.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each says another thing of the zone
pub struct Account {
    /// The zone as it is offered now.
    pub zone: Arc<Zone>,
    /// Whether a meter offered it at this tick.
    pub offered: bool,
    /// What exporters see.
    pub book: ZoneBook,
    /// Energy booked to each row, its children included.
    pub active: Vec<u64>,
    /// The part of it that no child could be given.
    pub exited: Vec<u64>,
    /// Idle energy shown with each row; empty until any is.
    pub idle: Vec<u64>,
    /// For the split of idle energy.
    pub idle_phase: u32,
    /// The activity since the last accepted reading, where that was before the last tick.
    pub late: Late,
    phase: Vec<u32>,
    /// Whether the zone has been offered before.
    pub known: bool,
    /// What it had measured when, for what is reckoned from several zones.
    pub curve: Curve,
    traced: bool,
    frozen: Frozen,
    /// What it draws at rest: as it is learned, and as it was calibrated.
    pub learner: Learner,
    /// See above.
    pub calibrated: Option<Estimate>,
    /// The least mean power of an interval.
    pub least: Microwatts,
    last: Option<(Timestamp, Value)>,
    lost: bool,
}

/// What became of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Energy over an interval.
    Booked {
        /// How much.
        energy: Microjoules,
        /// Over what time awake.
        covers: Duration,
        /// Whether the counter wrapped.
        wrapped: bool,
    },
    /// No energy yet: the interval goes on.
    Waiting(State),
    /// Nothing is known of the interval: it begins anew here.
    Baseline(State),
}

impl Account {
    /// An empty account.
    #[must_use]
    pub fn new(zone: Arc<Zone>, now: Timestamp) -> Self {
        let book = ZoneBook {
            zone: Arc::clone(&zone),
            state: State::Pending,
            start: now,
            measured: None,
            covers: Duration::ZERO,
            until: now,
            idle: Microjoules::ZERO,
            shared: Microjoules::ZERO,
            attributed: Microjoules::ZERO,
            unattributed: Microjoules::ZERO,
            total: Totals::default(),
            power: Microwatts::ZERO,
            at_rest: None,
            measure: Measure::CpuTime,
            refused: Refused::default(),
        };
        Self {
            zone,
            offered: true,
            book,
            active: Vec::new(),
            exited: Vec::new(),
            idle: Vec::new(),
            idle_phase: 0,
            late: Late::default(),
            phase: Vec::new(),
            known: false,
            curve: Curve::default(),
            traced: false,
            frozen: Frozen::default(),
            learner: Learner::default(),
            calibrated: None,
            least: Microwatts(u64::MAX),
            last: None,
            lost: false,
        }
    }

    /// Makes room for `rows` rows.
    pub fn grow(&mut self, rows: usize) {
        if self.active.len() < rows {
            self.active.resize(rows, 0);
            self.exited.resize(rows, 0);
            self.phase.resize(rows, 0);
        }
        if !Arc::ptr_eq(&self.book.zone, &self.zone) {
            self.book.zone = Arc::clone(&self.zone);
        }
    }

    /// Clears a row for the next workload.
    pub fn forget(&mut self, row: usize) {
        for column in [&mut self.active, &mut self.exited, &mut self.idle] {
            if let Some(cell) = column.get_mut(row) {
                *cell = 0;
            }
        }
        if let Some(phase) = self.phase.get_mut(row) {
            *phase = 0;
        }
        self.late.forget(row);
    }

    /// Forgets the last reading: the next one is the first.
    pub fn rebase(&mut self) {
        self.last = None;
        self.lost = false;
        self.late.clear();
    }

    /// Its id means another sensor now: nothing that was learned of it holds. Whether anything was.
    pub fn unlearn(&mut self) -> bool {
        let knew = self.calibrated.is_some() || self.learner.samples() > 0;
        self.learner = Learner::default();
        self.calibrated = None;
        self.least = Microwatts(u64::MAX);
        knew
    }

    /// Nothing is known of the time since the last reading: the next one is a baseline, and the gap is counted.
    pub fn lose(&mut self) {
        self.rebase();
        self.lost = true;
    }

    /// The reading, unless the sensor is frozen.
    pub fn watched(&mut self, reading: Reading, usage: &Usage) -> Reading {
        // Only a load that is known can show that a sensor does not follow it.
        let frozen = usage.load_known && self.frozen.watch(&self.zone, reading, usage.busy, usage.capacity);
        if frozen { Reading { value: Value::Missing(Why::Stale), ..reading } } else { reading }
    }

    /// Whether what was measured when is to be kept.
    pub fn keep_trace(&mut self, traced: bool) {
        if self.traced && !traced {
            self.curve = Curve::default();
        } else if traced
            && !self.traced
            && let Some((at, _)) = self.last
        {
            self.curve.push(at, self.book.total.measured);
        }
        self.traced = traced;
    }

    /// Keeps what was measured up to an accepted reading.
    pub fn trace(&mut self, verdict: Verdict, at: Timestamp) {
        if !self.traced {
            return;
        }
        match verdict {
            Verdict::Booked { energy, .. } => self.curve.push(at, self.book.total.measured + energy),
            Verdict::Baseline(_) => {
                self.curve.cut();
                if self.has_baseline() {
                    self.curve.push(at, self.book.total.measured);
                }
            }
            Verdict::Waiting(_) => {}
        }
    }

    /// When the reading was taken that the next one counts from.
    #[must_use]
    pub fn last_reading(&self) -> Option<Timestamp> {
        self.last.map(|(at, _)| at)
    }

    /// Whether there is a reading to count from.
    #[must_use]
    pub fn has_baseline(&self) -> bool {
        self.last.is_some()
    }

    /// Decides what a reading means (METERS: the delta rule), and keeps it as the next baseline where it is one.
    pub fn judge(&mut self, reading: Reading) -> Verdict {
        let Value::Missing(why) = reading.value else { return self.judge_value(reading) };
        let refused = &mut self.book.refused;
        match why {
            Why::Denied => refused.denied += 1,
            Why::Gone | Why::Malformed => refused.gone += 1,
            Why::Stale => {
                refused.stale += 1;
                if self.zone.sensor == Sensor::Gauge {
                    // What it said before it was found out is booked; what it drew since is unknown. A counter that
                    // stands still will have the energy when it moves on.
                    self.lose();
                    return Verdict::Baseline(State::Stale);
                }
            }
            Why::Implausible => refused.implausible += 1,
            Why::Pending | Why::Busy => {}
            Why::Inactive => {
                self.rebase();
                return Verdict::Baseline(State::Pending);
            }
        }
        // A zone that stays away longer than its counter can be trusted has nothing to wait for.
        if self.last.is_some_and(|(then, _)| reading.at.awake_since(then) > self.horizon()) {
            self.last = None;
            self.lost = true;
            return Verdict::Baseline(why.into());
        }
        Verdict::Waiting(why.into())
    }

    fn judge_value(&mut self, reading: Reading) -> Verdict {
        if let (Sensor::Gauge, Value::Power(power)) = (self.zone.sensor, reading.value)
            && power > self.zone.power_max
        {
            self.book.refused.implausible += 1;
            return Verdict::Waiting(State::Implausible);
        }
        let Some((then, before)) = self.last else {
            self.last = Some((reading.at, reading.value));
            if let Value::Power(power) = reading.value {
                self.book.power = power;
            }
            if std::mem::take(&mut self.lost) {
                self.book.refused.gap += 1;
                return Verdict::Baseline(State::Gap);
            }
            if self.book.total.measured == Microjoules::ZERO {
                self.book.start = reading.at;
            }
            return Verdict::Baseline(State::First);
        };
        let covers = reading.at.awake_since(then);
        if covers.is_zero() {
            // The same instant twice: whatever moved belongs to the interval that has just begun.
            return Verdict::Waiting(State::Pending);
        }
        self.last = Some((reading.at, reading.value));
        let delta = match (self.zone.sensor, before, reading.value) {
            (Sensor::Counter { tick, max }, Value::Ticks(before), Value::Ticks(now)) => {
                energy::counted(before, now, tick, max, self.zone.power_max, covers)
            }
            (Sensor::Gauge, Value::Power(_), Value::Power(_)) if covers > GAUGE_HORIZON => Delta::Gap,
            (Sensor::Gauge, Value::Power(before), Value::Power(now)) => {
                Delta::Energy(energy::integrated(before, now, covers))
            }
            // The zone changed its sensor, or the meter broke its word: nothing can be counted across that.
            _ => Delta::Reset,
        };
        let refused = &mut self.book.refused;
        match delta {
            Delta::Energy(energy) => Verdict::Booked { energy, covers, wrapped: false },
            Delta::Wrapped(energy) => Verdict::Booked { energy, covers, wrapped: true },
            Delta::Reset => {
                refused.reset += 1;
                Verdict::Baseline(State::Reset)
            }
            Delta::Gap => {
                refused.gap += 1;
                Verdict::Baseline(State::Gap)
            }
            Delta::Implausible => {
                refused.implausible += 1;
                Verdict::Baseline(State::Implausible)
            }
        }
    }

    fn horizon(&self) -> Duration {
        match self.zone.sensor {
            Sensor::Counter { tick, max: Some(max) } => energy::horizon(tick, max, self.zone.power_max),
            // Without a range a counter has no horizon: it is not known to wrap.
            Sensor::Counter { max: None, .. } => Duration::MAX,
            Sensor::Gauge => GAUGE_HORIZON,
        }
    }

    /// The split of one row's energy over its children, whose weights sum to `known`, and `rest` beside them. Where a
    /// carried remainder makes the parts fall short of the row's `weight`, `rest` keeps its share of the weight and the
    /// children divide what is left: over two intervals everybody then has what it used.
    fn split(&mut self, row: usize, energy: Microjoules, known: u64, rest: u64, weight: u64) -> (Split, Microjoules) {
        if row == NODE || known.saturating_add(rest) == weight || weight <= rest {
            return (Split::new(energy, known.saturating_add(rest), &mut self.phase[row]), energy);
        }
        let children = Split::new(energy, weight, &mut self.phase[row]).share(weight - rest);
        (Split::new(children, known, &mut self.phase[row]), children)
    }

    /// Cuts `energy` along the tree of workloads; returns what nobody known used.
    pub fn distribute(
        &mut self,
        stack: &mut Vec<(usize, Microjoules)>,
        energy: Microjoules,
        usage: &Usage,
        table: &Table,
    ) -> Microjoules {
        let mut unattributed = energy;
        stack.clear();
        stack.push((NODE, energy));
        while let Some((row, energy)) = stack.pop() {
            let children = table.children(row);
            let rest = if row == NODE { usage.unattributed.0 } else { usage.exited_of(row) };
            let known: u64 = children.iter().map(|child| usage.weight_of(*child)).sum();
            let mut given = Microjoules::ZERO;
            if known > 0 && energy > Microjoules::ZERO {
                let (mut split, most) = self.split(row, energy, known, rest, usage.weight_of(row));
                for child in children {
                    let weight = usage.weight_of(*child);
                    if weight == 0 {
                        continue;
                    }
                    let share = split.share(weight);
                    given += share;
                    self.active[*child] += share.0;
                    if table.kind(*child) != Kind::Process && share > Microjoules::ZERO {
                        stack.push((*child, share));
                    }
                }
                debug_assert!(given <= most);
            }
            let left = energy - given;
            if row == NODE {
                unattributed = left;
                self.active[NODE] += given.0;
            } else if usage.split_below || known > 0 {
                self.exited[row] += left.0;
            }
        }
        unattributed
    }
}

/// Activity of ticks at which the zone had no reading, added up until it has one.
#[derive(Debug, Default)]
pub struct Late {
    /// The sum.
    pub usage: Usage,
    open: bool,
}

impl Late {
    /// Whether there is nothing to book late.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.open
    }

    /// Adds one tick.
    pub fn add(&mut self, usage: &Usage) {
        if !self.open {
            self.usage.clear();
        }
        self.open = true;
        self.usage.add(usage);
    }

    /// Everything is booked.
    pub fn clear(&mut self) {
        if self.open {
            self.open = false;
            self.usage.clear();
        }
    }

    /// Whether nothing of `row` waits to be booked.
    #[must_use]
    pub fn is_settled(&self, row: usize) -> bool {
        !self.open || (self.usage.weight_of(row) == 0 && self.usage.exited_of(row) == 0)
    }

    /// What `row` used before it moved stays with `parent`.
    pub fn moved(&mut self, row: usize, parent: usize) {
        if self.open {
            self.usage.leave_behind(row, parent);
        }
    }

    fn forget(&mut self, row: usize) {
        self.usage.forget(row);
    }
}
