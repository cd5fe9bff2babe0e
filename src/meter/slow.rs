//! Meters that answer slowly (a BMC, a plug in the network): each on its own thread and cadence, never in a tick's way.
//!
//! The thread asks, waits, asks again; the tick takes what has come and says `pending` otherwise. A reading keeps the
//! time at which it was measured, taken as the middle between question and answer, so its interval is its own. What
//! goes wrong is said once, in words, and the next round tries again. On a machine in memory there are no threads: a
//! meter is asked in the tick in which it is due.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{self, Timestamp};
use crate::host::Host;
use crate::meter::{Meter, Reading, Value, Why, Zone};

/// Ends a source's running question from another thread.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

/// Something that is asked in one blocking round.
pub trait Source: Send {
    /// Asks. What it measures is part of the answer: it may be known only then.
    ///
    /// # Errors
    /// Why nothing came at all.
    fn ask(&mut self, host: &Host) -> Answer;

    /// Called once at the end: logs out.
    fn close(&mut self, _: &Host) {}

    /// Whether there is something to close now, so that the end of the program is worth a wait.
    fn closes(&self) -> bool {
        false
    }

    /// Whether a question may leave something to close.
    fn logs_in(&self) -> bool {
        false
    }

    /// What ends a running question, if that can be done.
    fn interrupt(&self) -> Option<Interrupt> {
        None
    }
}

/// What a source says: zones with their values, or why there are none.
pub type Answer = Result<Vec<(Zone, Value)>, Trouble>;

/// Why a source gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// For the books.
    pub why: Why,
    /// For people: one line, with the place and advice.
    pub what: String,
}

/// A slow source as a meter.
pub struct Slow {
    interrupt: Option<Interrupt>,
    zones: Vec<Arc<Zone>>,
    readings: Vec<Reading>,
    trouble: Option<Arc<str>>,
    every: Duration,
    asked: Option<Timestamp>,
    mode: Mode,
}

enum Mode {
    /// Asked in the tick.
    Inline(Box<dyn Source>),
    Thread(Arc<Desk>, Option<JoinHandle<()>>),
}

/// Where the thread leaves its answers, and is told to stop.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<(Timestamp, Answer)>,
    stop: bool,
    stopped: bool,
    /// Whether the source has something to close.
    closes: bool,
}

impl Slow {
    /// Asks `source` every so often, for as long as the meter lives.
    #[must_use]
    pub fn start(source: Box<dyn Source>, name: &str, every: Duration, host: &Host) -> Self {
        let interrupt = source.interrupt();
        let mode = match host.another() {
            None => Mode::Inline(source),
            Some(door) => {
                let desk = Arc::new(Desk::default());
                let (theirs, mut source) = (Arc::clone(&desk), source);
                let thread = std::thread::Builder::new().name(name.chars().take(15).collect());
                let thread = thread.spawn(move || theirs.work(source.as_mut(), &door, every));
                Mode::Thread(desk, thread.ok())
            }
        };
        Self { interrupt, zones: Vec::new(), readings: Vec::new(), trouble: None, every, asked: None, mode }
    }

    /// Takes one answer; says whether the zones changed.
    fn take(&mut self, at: Timestamp, answer: Answer) -> bool {
        match answer {
            Ok(values) => {
                self.trouble = None;
                let before = self.zones.len();
                for reading in &mut self.readings {
                    *reading = Reading { at, value: Value::Missing(Why::Gone) };
                }
                let mut changed = false;
                for (zone, value) in values {
                    let index = self.zones.iter().position(|known| known.id == zone.id).unwrap_or_else(|| {
                        self.zones.push(Arc::new(zone.clone()));
                        self.readings.push(Reading { at, value });
                        self.zones.len() - 1
                    });
                    self.readings[index] = Reading { at, value };
                    if *self.zones[index] != zone {
                        self.zones[index] = Arc::new(zone);
                        changed = true;
                    }
                }
                changed || self.zones.len() != before
            }
            Err(trouble) => {
                for reading in &mut self.readings {
                    *reading = Reading { at, value: Value::Missing(trouble.why) };
                }
                if self.trouble.as_deref() != Some(trouble.what.as_str()) {
                    self.trouble = Some(trouble.what.into());
                }
                false
            }
        }
    }
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nobody panics while holding it; should it happen, the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, source: &mut dyn Source, host: &Host, every: Duration) {
        loop {
            self.lock().closes |= source.logs_in();
            let asked = clock::now();
            let answer = source.ask(host);
            let answered = clock::now();
            let took = answered.boot.saturating_sub(asked.boot);
            let mut state = self.lock();
            state.closes = source.closes();
            state.answer = Some((middle(asked, answered), answer));
            while !state.stop {
                let passed = clock::now().boot.saturating_sub(asked.boot);
                // A source that takes as long as its cadence is not asked without a pause.
                let due = every.max(took + every / 10);
                if passed >= due {
                    break;
                }
                let waited = self.bell.wait_timeout(state, due.saturating_sub(passed));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.stop {
                break;
            }
        }
        // The lock is not held while the source logs out.
        source.close(host);
        self.lock().stopped = true;
        self.bell.notify_all();
    }
}

/// The instant half way between two.
fn middle(one: Timestamp, two: Timestamp) -> Timestamp {
    let half = |a: Duration, b: Duration| a + b.saturating_sub(a) / 2;
    Timestamp { boot: half(one.boot, two.boot), asleep: one.asleep.max(two.asleep), wall: half(one.wall, two.wall) }
}

impl Meter for Slow {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn stays(&self) -> bool {
        true
    }

    fn stop(&mut self) {
        if let Mode::Thread(desk, Some(_)) = &self.mode {
            desk.lock().stop = true;
            desk.bell.notify_all();
            if let Some(interrupt) = &self.interrupt {
                interrupt();
            }
        }
    }

    fn is_stopped(&self) -> bool {
        let Mode::Thread(desk, Some(_)) = &self.mode else { return true };
        let state = desk.lock();
        state.stopped || !state.closes
    }

    fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.clone()
    }

    fn refresh(&mut self, host: &Host, now: Timestamp) -> bool {
        for reading in &mut self.readings {
            *reading = Reading { at: now, value: Value::Missing(Why::Pending) };
        }
        let answer = match &mut self.mode {
            Mode::Inline(source) => {
                let due = self.asked.is_none_or(|asked| now.boot.saturating_sub(asked.boot) >= self.every);
                due.then(|| (now, source.ask(host)))
            }
            // Never waits: an answer that is being put down is taken at the next tick.
            Mode::Thread(desk, _) => desk.state.try_lock().ok().and_then(|mut state| state.answer.take()),
        };
        let Some((at, answer)) = answer else { return false };
        self.asked = Some(now);
        self.take(at, answer)
    }

    fn read(&mut self, _: &Host, _: Timestamp, out: &mut [Reading]) {
        out.copy_from_slice(&self.readings);
    }
}

impl Drop for Slow {
    /// Its thread ends soon, and is not waited for.
    fn drop(&mut self) {
        self.stop();
    }
}
