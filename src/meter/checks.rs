//! Containment checked while the machine runs: nature does not always keep to what the documents say.
//!
//! Psys should hold the packages, a card its chip, a module its parts. Real ones do not always: firmware that counts
//! psys from another epoch, a card's counter that stays at 0 while its chip counts, a module that shows less than its
//! processor. Absolute counts mean nothing (they start at different times), so what is compared is what both counted
//! over the same time: over [`WINDOW`] a container must have [`SHARE`] of what lies in it, and over [`FROZEN`] it must
//! have counted at all. What fails is refuted for good, with the figures.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::meter::graph::Known;
use crate::meter::{Reading, State, Value, Zone};
use crate::unit::Microjoules;

/// Over how long a container is compared with its parts.
const WINDOW: Duration = Duration::from_secs(60);
/// After how long a container that has counted nothing is out.
const FROZEN: Duration = Duration::from_secs(20);
/// The least share of its parts that a container must show, in percent.
const SHARE: u128 = 98;
/// Below this energy the units of the counters (1 J for some psys) decide, and nothing is said.
const ENOUGH: Microjoules = Microjoules(50_000_000);
/// The same for a container that shows nothing at all.
const SOME: Microjoules = Microjoules(5_000_000);

/// The containers that are being watched.
#[derive(Debug, Default)]
pub struct Checks {
    watched: Vec<Watch>,
    frozen: Vec<String>,
}

#[derive(Debug)]
struct Watch {
    container: String,
    parts: Vec<String>,
    since: Option<(Timestamp, Microjoules, Microjoules)>,
    /// Whether the container's counter has ever stood above 0.
    moved: bool,
}

impl Checks {
    /// Watches these containers; those that were watched with the same parts before go on.
    pub fn watch(&mut self, containers: Vec<(String, Vec<String>)>) {
        let mut before = std::mem::take(&mut self.watched);
        for (container, parts) in containers {
            let same = before.iter().position(|watch| watch.container == container && watch.parts == parts);
            let watch = match same {
                Some(index) => before.swap_remove(index),
                None => Watch { container, parts, since: None, moved: false },
            };
            self.watched.push(watch);
        }
    }

    /// Notes whether a zone's sensor is frozen; says whether that is new.
    pub fn freeze(&mut self, id: &str, frozen: bool) -> bool {
        let known = self.frozen.iter().position(|known| known == id);
        match (known, frozen) {
            (None, true) => self.frozen.push(id.to_owned()),
            (Some(index), false) => drop(self.frozen.swap_remove(index)),
            _ => return false,
        }
        true
    }

    /// Whether a zone's sensor is frozen.
    #[must_use]
    pub fn is_frozen(&self, id: &str) -> bool {
        self.frozen.iter().any(|known| known == id)
    }

    /// A container whose counter stands at 0 while a part of it has counted does not count. Says whether that is new.
    pub fn at_once(&mut self, zones: &[Arc<Zone>], readings: &[Reading], known: &mut Known) -> bool {
        let count = |id: &str| {
            let index = zones.iter().position(|zone| zone.id == id)?;
            match readings.get(index)?.value {
                Value::Ticks(count) => Some(count),
                _ => None,
            }
        };
        let mut found = None;
        for watch in &mut self.watched {
            let stands = count(&watch.container);
            watch.moved |= stands > Some(0);
            if stands == Some(0) && !watch.moved && watch.parts.iter().any(|part| count(part) > Some(0)) {
                found = Some(watch.container.clone());
            }
        }
        let Some(container) = found else { return false };
        let evidence = "its counter stands at 0 while its parts count".to_owned();
        known.refuted.insert(container, evidence).is_none()
    }

    /// Compares what containers and parts counted over the same time. Says whether one was refuted.
    pub fn over_time<'a>(
        &mut self,
        now: Timestamp,
        books: &(impl Iterator<Item = (&'a str, State, Microjoules)> + Clone),
        known: &mut Known,
    ) -> bool {
        let mut found = None;
        for watch in &mut self.watched {
            // Only time in which all of them were read is compared.
            let read = |id: &String| {
                books.clone().any(|(known, state, _)| known == id && matches!(state, State::Ok | State::Wrap))
            };
            if !read(&watch.container) || !watch.parts.iter().all(read) {
                watch.since = None;
                continue;
            }
            let sum = |ids: &mut dyn Iterator<Item = &String>| -> Microjoules {
                let of = |id: &String| books.clone().find(|(known, _, _)| known == id).map(|(_, _, total)| total);
                ids.filter_map(of).sum()
            };
            let (container, parts) = (sum(&mut std::iter::once(&watch.container)), sum(&mut watch.parts.iter()));
            let Some((since, container_before, parts_before)) = watch.since else {
                watch.since = Some((now, container, parts));
                continue;
            };
            let (container, parts) = (container.saturating_sub(container_before), parts.saturating_sub(parts_before));
            let time = now.awake_since(since);
            let nothing = time >= FROZEN && container == Microjoules::ZERO && parts >= SOME;
            let less = u128::from(container.0) * 100 < u128::from(parts.0) * SHARE;
            if nothing || (time >= WINDOW && less && parts >= ENOUGH) {
                let evidence = format!(
                    "counted {:.1} J while its parts counted {:.1} J in {} s: it does not contain them",
                    container.joules(),
                    parts.joules(),
                    time.as_secs()
                );
                found = Some((watch.container.clone(), evidence));
            } else if time >= WINDOW {
                watch.since = None;
            }
        }
        let Some((container, evidence)) = found else { return false };
        known.refuted.insert(container, evidence).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const J: u64 = 1_000_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp { boot: Duration::from_secs(seconds), ..Timestamp::default() }
    }

    /// Runs a psys against two packages, given what each counts in a second; the second in which it is refuted.
    fn refuted(psys: u64, packages: [u64; 2]) -> Option<u64> {
        let (mut checks, mut known) = (Checks::default(), Known::default());
        checks.watch(vec![("psys".into(), vec!["p0".into(), "p1".into()])]);
        (0..200).find(|second| {
            let book = |id, joules: u64| (id, State::Ok, Microjoules(joules * second * J));
            let books = [book("psys", psys), book("p0", packages[0]), book("p1", packages[1])];
            checks.over_time(at(*second), &books.into_iter(), &mut known)
        })
    }

    #[test]
    fn a_container_must_hold_what_lies_in_it() {
        assert_eq!(refuted(100, [40, 40]), None);
        assert_eq!(refuted(79, [40, 40]), None, "98 % is enough: sensors differ");
        assert_eq!(refuted(70, [40, 40]), Some(60));
        assert_eq!(refuted(0, [40, 40]), Some(20), "one that counts nothing is out soon");
        assert_eq!(refuted(0, [0, 0]), None, "an idle card proves nothing");
    }
}
