//! Names of containers outside of Kubernetes, from the files in which docker and podman keep what they know of them.
//!
//! A container of docker has a file of its own, those of podman stand in lists: see [`docker`] and [`podman`]. Both are
//! readable by root only, and no daemon is asked. A thread of its own looks up what the agent asks for, a few times, as
//! a file may come late; what it found is looked up again when somebody asks later, as a container may be renamed. Where
//! a runtime is not installed, or its files are not mounted, nothing is found and nothing is said. Containers in pods
//! have their names from Kubernetes. Those of rootless daemons are in homes that we do not know.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::config;
use crate::enrich::{Answer, Enricher};
use crate::semconv::attr;
use crate::workload::docker::{is_hex, is_id};
use crate::workload::{Identity, Kind, Names, WorkloadId};

pub mod docker;
pub mod found;
pub mod podman;

/// Containers that are remembered, those without a name too.
const ENTRIES_MAX: usize = 4096;

/// Names from docker and podman.
pub struct Runtimes {
    shared: Arc<Shared>,
    pace: Pace,
}

/// How often is looked.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// From one round to the next, at least: a list is read once in each.
    round: Duration,
    /// After a look-up that found nothing.
    pauses: [Duration; 3],
    /// What is older is looked up again when asked for, and forgotten where it is crowded.
    old: Duration,
}

const PACE: Pace = Pace {
    round: Duration::from_secs(2),
    pauses: [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(30)],
    old: Duration::from_secs(10),
};

/// How long the thread sleeps where nothing is due and nobody rings.
const LONG: Duration = Duration::from_secs(3600);

/// Where each runtime keeps its files.
type Roots = [Option<PathBuf>; 2];
const DOCKER: usize = 0;
const PODMAN: usize = 1;

/// What the thread and the enricher share.
#[derive(Default)]
struct Shared {
    generation: AtomicU64,
    state: Mutex<State>,
    /// Rings when something is asked, and at the end.
    bell: Condvar,
}

#[derive(Default)]
struct State {
    entries: HashMap<Box<str>, Entry>,
    troubles: [Option<Arc<str>>; 2],
    stop: bool,
}

/// One container that was asked for.
struct Entry {
    /// The runtimes that may know it.
    keepers: [bool; 2],
    names: Option<Arc<Names>>,
    /// When it is to be looked up; none: it was.
    due: Option<Duration>,
    /// Look-ups that found nothing.
    tries: usize,
    looked: Duration,
    asked: Duration,
}

/// What a round found.
#[derive(Default)]
struct Round {
    found: Vec<(Box<str>, Option<Names>)>,
    /// Which runtimes were looked at.
    looked: [bool; 2],
    /// What was wrong there first.
    troubles: [Option<String>; 2],
}

impl Runtimes {
    /// Starts the thread.
    ///
    /// # Errors
    /// Why there is nobody to look at.
    pub fn start(settings: &config::Containers) -> Result<Self, String> {
        Self::start_at(PACE, [settings.docker.clone(), settings.podman.clone()])
    }

    fn start_at(pace: Pace, roots: Roots) -> Result<Self, String> {
        if roots.iter().all(Option::is_none) {
            return Err("containers.docker and containers.podman are empty".into());
        }
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("containers".into());
        let thread = thread.spawn(move || theirs.work(pace, &roots));
        thread.map_err(|error| format!("cannot start its thread: {error}"))?;
        Ok(Self { shared, pace })
    }

    fn ask(&self, id: &str, keepers: [bool; 2]) -> Option<Arc<Names>> {
        let now = clock::now().boot;
        let mut state = self.shared.lock();
        if let Some(entry) = state.entries.get_mut(id) {
            entry.asked = now;
            if entry.due.is_none() && now.saturating_sub(entry.looked) >= self.pace.old {
                entry.due = Some(now);
                self.shared.bell.notify_one();
            }
            return entry.names.clone();
        }
        if state.entries.len() < ENTRIES_MAX {
            let entry = Entry { keepers, names: None, due: Some(now), tries: 0, looked: now, asked: now };
            state.entries.insert(id.into(), entry);
            self.shared.bell.notify_one();
        }
        None
    }
}

impl Drop for Runtimes {
    /// Does not wait: the thread may be in the middle of a read.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.bell.notify_all();
    }
}

impl Enricher for Runtimes {
    fn name(&self) -> &'static str {
        "containers"
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    fn describe(&self, workload: &Identity, around: &Identity) -> Answer {
        let WorkloadId::Named(Kind::Container, id) = &workload.id else { return Answer::Unknown };
        if around.id.kind() == Kind::Pod {
            return Answer::Unknown;
        }
        let keepers = keepers(workload, id);
        let names = if keepers.contains(&true) { self.ask(id, keepers) } else { None };
        names.map_or(Answer::Unknown, Answer::Known)
    }

    fn troubles(&self, say: &mut dyn FnMut(usize, Arc<str>)) {
        for (topic, trouble) in self.shared.lock().troubles.iter().enumerate() {
            if let Some(trouble) = trouble {
                say(topic, Arc::clone(trouble));
            }
        }
    }

    /// Nothing is asked yet when the agent starts.
    fn wait(&self, _: Duration) -> bool {
        true
    }
}

/// The runtimes that may know a container: its own, or both where its path does not tell.
fn keepers(workload: &Identity, id: &str) -> [bool; 2] {
    let runtime = workload.attributes.iter().find(|(key, _)| key == attr::CONTAINER_RUNTIME_NAME);
    match runtime.map(|(_, runtime)| runtime.as_str()) {
        Some("docker") => [is_id(id), false],
        // The cgroup of its payload may bear the beginning of the id only.
        Some("podman") => [false, is_hex(id)],
        Some(_) => [false, false],
        None => [is_id(id); 2],
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: rounds of look-ups until the end.
    fn work(&self, pace: Pace, roots: &Roots) {
        let mut not_before = Duration::ZERO;
        while let Some(asked) = self.next(pace, not_before) {
            let round = look(roots, asked);
            let now = clock::now().boot;
            not_before = now + pace.round;
            if self.lock().take(pace, round, now) {
                self.generation.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Waits until something is due; none: the end.
    fn next(&self, pace: Pace, not_before: Duration) -> Option<Vec<(Box<str>, [bool; 2])>> {
        let mut state = self.lock();
        while !state.stop {
            let now = clock::now().boot;
            state.tidy(now, pace.old);
            let due = state.entries.values().filter_map(|entry| entry.due).min();
            let wait = due.map_or(LONG, |due| due.max(not_before).saturating_sub(now));
            if wait.is_zero() {
                let asked = state.entries.iter().filter(|(_, entry)| entry.due.is_some_and(|due| due <= now));
                return Some(asked.map(|(id, entry)| (id.clone(), entry.keepers)).collect());
            }
            let wait = if state.is_crowded() { wait.min(pace.old) } else { wait };
            let waited = self.bell.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }
}

impl State {
    fn is_crowded(&self) -> bool {
        self.entries.len() > ENTRIES_MAX / 2
    }

    /// Where it is crowded, forgets those that nobody asked for lately. Their workloads keep the names that they have.
    fn tidy(&mut self, now: Duration, old: Duration) {
        if self.is_crowded() {
            self.entries.retain(|_, entry| now.saturating_sub(entry.asked) < old);
        }
    }

    /// Takes what a round found; says whether answers changed.
    fn take(&mut self, pace: Pace, round: Round, now: Duration) -> bool {
        for ((told, trouble), looked) in self.troubles.iter_mut().zip(round.troubles).zip(round.looked) {
            if looked && told.as_deref() != trouble.as_deref() {
                *told = trouble.map(Arc::from);
            }
        }
        let mut changed = false;
        for (id, names) in round.found {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.looked = now;
            let Some(names) = names else {
                // Names that are known stay: the container is about to go.
                let pause = pace.pauses.get(entry.tries).filter(|_| entry.names.is_none());
                entry.due = pause.map(|pause| now + *pause);
                entry.tries += 1;
                continue;
            };
            entry.due = None;
            if entry.names.as_deref() != Some(&names) {
                entry.names = Some(Arc::new(names));
                changed = true;
            }
        }
        changed
    }
}

/// Looks containers up. A list is read once for all of them.
fn look(roots: &Roots, asked: Vec<(Box<str>, [bool; 2])>) -> Round {
    let mut round = Round::default();
    let mut lists = None;
    for (id, keepers) in asked {
        let mut names = None;
        if let Some(root) = roots[DOCKER].as_deref().filter(|_| keepers[DOCKER]) {
            round.looked[DOCKER] = true;
            match docker::look(root, &id) {
                Ok(found) => names = found.map(|found| found.names("docker")),
                Err(wrong) => round.troubles[DOCKER] = round.troubles[DOCKER].take().or(Some(wrong)),
            }
        }
        if let Some(root) = roots[PODMAN].as_deref().filter(|_| keepers[PODMAN] && names.is_none()) {
            let lists = lists.get_or_insert_with(|| {
                let (lists, wrong) = podman::Containers::read(root);
                round.looked[PODMAN] = true;
                round.troubles[PODMAN] = wrong;
                lists
            });
            names = lists.get(&id).map(|found| found.names("podman"));
        }
        round.found.push((id, names));
    }
    round
}

#[cfg(test)]
mod tests;
