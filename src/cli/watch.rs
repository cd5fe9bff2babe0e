//! The thread that checks the books against a reference zone all along a run (`validation.reference`).
//!
//! It takes every snapshot into a ring of fixed size and reckons the figures once a minute, so that no tick waits for
//! it; snapshots that come while it reckons wait in a short queue. The figures go out with our own telemetry.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::config::Config;
use crate::export::Snapshot;
use crate::telemetry::{self, Stats, Validation};
use crate::validate::rolling::{Rolling, Standing};

/// Time between two reckonings.
const EVERY: Duration = Duration::from_secs(60);
/// Snapshots that wait while it reckons.
const WAITING_MAX: usize = 64;

/// Starts the thread, where a reference is configured. It ends when the sender is dropped.
#[must_use]
pub fn start(config: &Config, stats: &Arc<Stats>) -> Option<SyncSender<Arc<Snapshot>>> {
    let settings = &config.validation;
    if settings.reference.is_empty() {
        return None;
    }
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let rolling = Rolling::new(&settings.reference, settings.window.as_secs_f64(), config.interval.0.as_secs_f64());
    let (id, stats) = (Arc::from(settings.reference.as_str()), Arc::clone(stats));
    let thread = std::thread::Builder::new().name("validation".into());
    match thread.spawn(move || watch(rolling, &id, &receiver, &stats)) {
        Ok(_) => Some(sender),
        Err(error) => {
            telemetry::warn(&format!("validation: no thread for it: {error}"));
            None
        }
    }
}

fn watch(mut rolling: Rolling, id: &Arc<str>, snapshots: &Receiver<Arc<Snapshot>>, stats: &Stats) {
    let mut said = Standing::Fit;
    let mut due = EVERY;
    while let Ok(snapshot) = snapshots.recv() {
        rolling.push(&snapshot);
        let passed = snapshot.at.boot.saturating_sub(snapshot.baseline.boot);
        // The agent fills this snapshot again once nobody holds it.
        drop(snapshot);
        if passed < due {
            continue;
        }
        due = passed + EVERY;
        let standing = rolling.standing();
        if standing != said {
            said = standing;
            say(standing, id);
        }
        stats.set_validation(figures(&rolling, id).filter(|_| standing == Standing::Fit));
    }
}

fn say(standing: Standing, id: &str) {
    match standing {
        Standing::Fit => telemetry::info(&format!("validation: {id} is there now")),
        Standing::Absent => {
            telemetry::warn(&format!("validation.reference: no zone {id} here; `wattribute discover` lists the zones"));
        }
        Standing::Primary => telemetry::warn(&format!(
            "validation.reference: {id} is primary: it is part of the books and cannot check them"
        )),
    }
}

/// The figures of the window, without the lag where it is clear.
fn figures(rolling: &Rolling, id: &Arc<str>) -> Option<Validation> {
    let comparison = rolling.compare().ok()?;
    let figures = &comparison.best().figures;
    Some(Validation {
        reference: Arc::clone(id),
        mape: figures.mape,
        bias: Some(figures.bias()),
        rmse: Some(figures.rmse),
        correlation: figures.correlation,
        lag: comparison.lag.seconds(),
    })
}
