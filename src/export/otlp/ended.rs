//! What has ended and is not yet delivered: final totals wait here until a receiver has acknowledged them, then one
//! `no recorded value` point says that the series is over.
//!
//! Bounded: with no receiver for long, the oldest are given up and counted.

use std::collections::VecDeque;

use super::tree::Entity;

/// Most entities that wait.
pub const LIMIT: usize = 10_000;

/// Why a series ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The workload is over.
    Dead,
    /// The process is no longer one of the first; its series may go on later.
    Demoted,
    /// The same workload goes on under other attributes. `hidden`: on points with the same attributes, so that a point
    /// that ends the old series would end the new one where receivers see point attributes only.
    Replaced {
        /// See above.
        hidden: bool,
    },
}

/// One ended entity.
#[derive(Debug)]
pub struct Ended {
    /// Grows with each; the queue is in its order.
    pub number: u64,
    /// The entity with its final totals.
    pub entity: Entity,
    /// Time of the final totals, ns since 1970.
    pub time: u64,
    /// Why.
    pub why: Why,
    /// The final totals have been acknowledged.
    pub delivered: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Ended>,
    next: u64,
    /// Entities given up so far.
    pub dropped: u64,
}

impl Queue {
    /// Adds an entity whose totals are final.
    pub fn push(&mut self, mut entity: Entity, time: u64, why: Why) {
        let empty = entity.series.iter().all(|series| series.total.0 == 0);
        if entity.series.is_empty() || (empty && !entity.sent) {
            return;
        }
        entity.rest();
        if self.waiting.len() >= LIMIT
            && let Some(oldest) = self.waiting.pop_front()
            && !oldest.delivered
        {
            self.dropped += 1;
        }
        self.waiting.push_back(Ended { number: self.next, entity, time, why, delivered: false });
        self.next += 1;
    }

    /// `entity` begins: what is over under the same names goes on in it, so nobody must hear that it is over.
    pub fn succeed(&mut self, entity: &Entity) {
        let hidden = Why::Replaced { hidden: true };
        for ended in self.waiting.iter_mut().filter(|ended| ended.why == Why::Dead && ended.entity.reads_as(entity)) {
            ended.why = hidden;
        }
        self.waiting.retain(|ended| !(ended.delivered && ended.why == hidden));
    }

    /// Takes a demoted process back that has these names. It may have been demoted under others, too.
    pub fn take_back(&mut self, entity: &Entity) -> Option<Entity> {
        let same = |known: &Entity| known.serial == entity.serial && known.named_as(entity);
        let at = self.waiting.iter().position(|ended| ended.why == Why::Demoted && same(&ended.entity))?;
        self.waiting.remove(at).map(|ended| ended.entity)
    }

    /// A receiver has the final totals of `number`.
    pub fn acknowledge_final(&mut self, number: u64) {
        let Ok(at) = self.position(number) else { return };
        if let Some(ended) = self.waiting.get_mut(at) {
            ended.delivered = true;
            ended.entity.acknowledge(ended.time);
            if ended.why == (Why::Replaced { hidden: true }) {
                self.waiting.remove(at);
            }
        }
    }

    /// A receiver knows that `number` is over.
    pub fn acknowledge_end(&mut self, number: u64) {
        if let Ok(at) = self.position(number) {
            self.waiting.remove(at);
        }
    }

    /// Everything that waits, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Ended> {
        self.waiting.iter_mut()
    }

    /// How many wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    fn position(&self, number: u64) -> Result<usize, usize> {
        self.waiting.binary_search_by_key(&number, |ended| ended.number)
    }
}
