//! Our own telemetry: what the agent says on standard error, and its self-metrics.
//!
//! Self-metrics go out through the OpenTelemetry SDK and its OTLP exporter, apart from the energy: they must tell of
//! trouble in that path. The agent and the exporters only set numbers in [`Stats`], which the SDK's instruments read on
//! its one thread. Without OTLP nothing is started. Logs are one line each, and each change of state is one line.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

use crate::semconv::{self, Metric, attr, metric, word};

/// How grave a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something is not as it should be, and the agent goes on.
    Warn,
    /// The agent cannot go on.
    Error,
}

/// Where log lines go.
pub type Log = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// One line on standard error. A closed standard error is no reason to stop.
pub fn log(level: Level, text: &str) {
    let word = match level {
        Level::Info => "info",
        Level::Warn => "warning",
        Level::Error => "error",
    };
    let mut drawn = screen();
    let mut out = std::io::stderr().lock();
    if *drawn > 0 && out.is_terminal() {
        // The table would be drawn over this line: it is taken away and comes back below it.
        let _ = write!(out, "\x1b[{drawn}A\r\x1b[J");
        *drawn = 0;
    }
    let _ = writeln!(out, "wattribute: {word}: {text}");
}

/// The lines of a table that may be redrawn and stand on the terminal now. Whoever writes there holds this lock.
pub fn screen() -> MutexGuard<'static, usize> {
    static DRAWN: Mutex<usize> = Mutex::new(0);
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says something good to know.
pub fn info(text: &str) {
    log(Level::Info, text);
}

/// Says that something is not as it should be.
pub fn warn(text: &str) {
    log(Level::Warn, text);
}

/// Says why the agent stops.
pub fn error(text: &str) {
    log(Level::Error, text);
}

/// [`log`] as a [`Log`].
#[must_use]
pub fn stderr() -> Log {
    Arc::new(log)
}

/// Reasons for which readings are refused, in the order of [`Stats::set_refused`].
pub const REASONS: [&str; 7] = ["reset", "gap", "implausible", "stale", "denied", "gone", "conflict"];

/// Readings refused in one zone: its id and a count per reason.
pub type ZoneRefused = (String, [u64; REASONS.len()]);

/// What the agent and its exporters count.
#[derive(Debug, Default)]
pub struct Stats {
    /// How long the last tick took, ns.
    pub tick_nanos: AtomicU64,
    /// Points that a receiver took.
    pub delivered: AtomicU64,
    /// Points that a receiver refused in an answer of partial success.
    pub rejected: AtomicU64,
    /// Points of requests given up.
    pub dropped: AtomicU64,
    /// Requests that failed, retries included.
    pub failed: AtomicU64,
    /// When a request last succeeded, ns since 1970; 0 is never.
    pub succeeded_at: AtomicU64,
    /// Ended workloads whose final totals were given up.
    pub ended_dropped: AtomicU64,
    refused: Mutex<Vec<ZoneRefused>>,
    validation: Mutex<Option<Validation>>,
}

/// The last figures of the books against a reference zone; what is not known is not sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Validation {
    /// Id of the zone.
    pub reference: Arc<str>,
    /// Mean absolute error (%).
    pub mape: Option<f64>,
    /// Mean of books less reference (W).
    pub bias: Option<f64>,
    /// Root of the mean squared difference (W).
    pub rmse: Option<f64>,
    /// Pearson's correlation.
    pub correlation: Option<f64>,
    /// How late the reference is (s).
    pub lag: Option<f64>,
}

impl Stats {
    /// Sets the figures of the validation; `None` takes them away.
    pub fn set_validation(&self, figures: Option<Validation>) {
        *self.validation.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// The figures of the validation.
    #[must_use]
    pub fn validation(&self) -> Option<Validation> {
        self.validation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the counts of zone number `zone`.
    pub fn set_refused(&self, zone: usize, id: &str, counts: [u64; REASONS.len()]) {
        let mut zones = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if zones.len() <= zone {
            zones.resize_with(zone + 1, Default::default);
        }
        if let Some((name, known)) = zones.get_mut(zone) {
            if name != id {
                id.clone_into(name);
            }
            *known = counts;
        }
    }

    /// Refused readings by zone.
    #[must_use]
    pub fn refused(&self) -> Vec<ZoneRefused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The running self-metrics.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkMeterProvider,
}

impl Telemetry {
    /// Starts the SDK's thread, which sends `stats` through `exporter` every `interval` as the node's resource.
    #[must_use]
    pub fn start<E: PushMetricExporter>(
        exporter: E,
        interval: Duration,
        attributes: &[(String, String)],
        stats: &Arc<Stats>,
    ) -> Self {
        let attributes = attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
        instruments(&provider.meter(semconv::SCOPE), stats);
        Self { provider }
    }

    /// Sends a last time and ends the thread, within `grace`. On a thread of its own, because the SDK blocks.
    pub async fn stop(self, grace: Duration) {
        let (done, wait) = tokio::sync::oneshot::channel();
        let stop = move || {
            let _ = self.provider.shutdown_with_timeout(grace);
            let _ = done.send(());
        };
        if std::thread::Builder::new().name("telemetry-stop".into()).spawn(stop).is_ok() {
            let _ = tokio::time::timeout(grace, wait).await;
        }
    }
}

/// One of the figures.
type Figure = fn(&Validation) -> Option<f64>;

fn instruments(meter: &Meter, stats: &Arc<Stats>) {
    counter(meter, metric::AGENT_FAILED, stats, |stats| vec![(load(&stats.failed), vec![])]);
    counter(meter, metric::AGENT_ENDED_DROPPED, stats, |stats| vec![(load(&stats.ended_dropped), vec![])]);
    counter(meter, metric::AGENT_POINTS, stats, |stats| {
        let outcome = |count, word| (load(count), vec![KeyValue::new(attr::OUTCOME, word)]);
        vec![
            outcome(&stats.delivered, word::DELIVERED),
            outcome(&stats.rejected, word::REJECTED),
            outcome(&stats.dropped, word::DROPPED),
        ]
    });
    counter(meter, metric::AGENT_REFUSED, stats, |stats| {
        let of_zone = |(zone, counts): ZoneRefused| {
            let keys =
                move |reason| vec![KeyValue::new(attr::HW_ID, zone.clone()), KeyValue::new(attr::REASON, reason)];
            REASONS.into_iter().zip(counts).map(move |(reason, count)| (count, keys(reason)))
        };
        stats.refused().into_iter().flat_map(of_zone).filter(|(count, _)| *count > 0).collect()
    });
    let figures: [(_, Figure); 5] = [
        (metric::VALIDATION_MAPE, |figures| figures.mape),
        (metric::VALIDATION_BIAS, |figures| figures.bias),
        (metric::VALIDATION_RMSE, |figures| figures.rmse),
        (metric::VALIDATION_CORRELATION, |figures| figures.correlation),
        (metric::VALIDATION_LAG, |figures| figures.lag),
    ];
    for (metric, figure) in figures {
        labelled_gauge(meter, metric, stats, move |stats| {
            let figures = stats.validation()?;
            Some((figure(&figures)?, vec![KeyValue::new(attr::HW_ID, figures.reference)]))
        });
    }
    gauge(meter, metric::AGENT_TICK, stats, |stats| Some(seconds(load(&stats.tick_nanos))));
    gauge(meter, metric::AGENT_SUCCESS, stats, |stats| {
        Some(load(&stats.succeeded_at)).filter(|nanos| *nanos > 0).map(seconds)
    });
}

fn load(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

fn counter(
    meter: &Meter,
    metric: &'static Metric,
    stats: &Arc<Stats>,
    read: impl Fn(&Stats) -> Vec<(u64, Vec<KeyValue>)> + Send + Sync + 'static,
) {
    let stats = Arc::clone(stats);
    let _ = meter
        .u64_observable_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(move |observer| {
            for (count, attributes) in read(&stats) {
                observer.observe(count, &attributes);
            }
        })
        .build();
}

fn gauge(
    meter: &Meter,
    metric: &'static Metric,
    stats: &Arc<Stats>,
    read: impl Fn(&Stats) -> Option<f64> + Send + Sync + 'static,
) {
    labelled_gauge(meter, metric, stats, move |stats| read(stats).map(|value| (value, Vec::new())));
}

fn labelled_gauge(
    meter: &Meter,
    metric: &'static Metric,
    stats: &Arc<Stats>,
    read: impl Fn(&Stats) -> Option<(f64, Vec<KeyValue>)> + Send + Sync + 'static,
) {
    let stats = Arc::clone(stats);
    let _ = meter
        .f64_observable_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(move |observer| {
            if let Some((value, attributes)) = read(&stats) {
                observer.observe(value, &attributes);
            }
        })
        .build();
}
