//! OTLP push: every interval the newest snapshot as one OTLP Resource per workload, to any OpenTelemetry receiver.
//!
//! [`Otlp::run`] is a task of a current-thread runtime. It never stops because a receiver does: with totals an outage
//! costs resolution only, and only what ended meanwhile is kept; increments are counted since the last acknowledged
//! ones. The first push comes after a full interval and a random part of a tenth more, so that the nodes of a cluster
//! do not push together. [`Encoder`] is the same without the network.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::config;
use crate::export::Subscription;
use crate::telemetry::{self, Log, Stats};

mod attributes;
mod cells;
mod encode;
mod ended;
mod grpc;
mod http;
mod labels;
mod link;
mod named;
mod own;
mod request;
mod retry;
mod series;
mod transport;
mod tree;
mod zones;

pub use crate::host::tls::TlsError;
pub use attributes::NodeResource;
pub use own::{OwnError, OwnExporter};
pub use request::Encoder;
pub use retry::Jitter;
pub use transport::Error;

use link::Link;
use retry::{Backoff, Verdict};
use transport::Transport;

/// Time that a last push may take.
pub const GRACE: Duration = Duration::from_secs(5);

/// Largest request, uncompressed: the Collector's gRPC receiver takes 4 MiB.
const REQUEST_MAX: usize = 3_500_000;

/// A request that a receiver calls too large is halved only above this size,
const HALVED_MIN: usize = 64 << 10;

/// and at most so often.
const HALVINGS_MAX: u8 = 4;

/// The OTLP exporter.
pub struct Otlp {
    interval: Duration,
    encoder: Encoder,
    transport: Transport,
    backoff: Backoff,
    link: Link,
    stats: Arc<Stats>,
    /// Not before this a receiver wants to hear from us; the flag: it said so itself.
    pause: Option<(Instant, bool)>,
    wall: Duration,
    /// The newest tick that was encoded, and what of it is still to be sent.
    encoded: Option<u64>,
    parts: VecDeque<Part>,
}

/// A part of a request on its way.
#[derive(Debug, Clone)]
struct Part {
    entities: Range<usize>,
    halvings: u8,
}

impl Otlp {
    /// An exporter that has not connected yet. Within a tokio runtime.
    ///
    /// # Errors
    /// When the settings cannot work, with advice.
    pub fn new(
        settings: &config::Otlp,
        processes: &config::Processes,
        node: &NodeResource,
        stats: Arc<Stats>,
    ) -> Result<Self, Error> {
        Self::with(settings, processes, node, stats, telemetry::stderr(), Jitter::new())
    }

    /// The same with another log and other random numbers.
    ///
    /// # Errors
    /// When the settings cannot work, with advice.
    pub fn with(
        settings: &config::Otlp,
        processes: &config::Processes,
        node: &NodeResource,
        stats: Arc<Stats>,
        log: Log,
        jitter: Jitter,
    ) -> Result<Self, Error> {
        let transport = Transport::new(settings)?;
        let link = Link::new(transport.shown(), settings.temporality, log);
        let most = settings.interval.clamp(Duration::from_secs(5), Duration::from_secs(30));
        Ok(Self {
            interval: settings.interval,
            encoder: Encoder::new(settings, processes, node),
            transport,
            backoff: Backoff::new(most, jitter),
            link,
            stats,
            pause: None,
            wall: Duration::ZERO,
            encoded: None,
            parts: VecDeque::new(),
        })
    }

    /// The SDK's exporter for our own telemetry, to the same receiver.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn own_exporter(&self) -> Result<OwnExporter, OwnError> {
        self.transport.own_exporter()
    }

    /// Pushes until `shutdown` completes, then once more with the newest snapshot within [`GRACE`].
    pub async fn run(mut self, mut snapshots: Subscription, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        tokio::select! {
            () = self.first(&mut snapshots) => self.push_on(&mut snapshots, shutdown.as_mut()).await,
            () = &mut shutdown => {}
        }
        self.last(&mut snapshots).await;
    }

    /// Waits until a full interval has passed since the baseline.
    async fn first(&mut self, snapshots: &mut Subscription) {
        while snapshots.snapshots.borrow().workloads.is_empty() {
            if snapshots.snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let passed = {
            let snapshot = snapshots.snapshots.borrow();
            snapshot.at.boot.saturating_sub(snapshot.baseline.boot)
        };
        let spread = self.backoff.spread(self.interval / 10);
        tokio::time::sleep(self.interval.saturating_sub(passed) + spread).await;
    }

    /// Pushes every interval until `shutdown` completes. A request under way then may end within half of the grace.
    async fn push_on(&mut self, snapshots: &mut Subscription, mut shutdown: Pin<&mut impl Future<Output = ()>>) {
        let mut due = Instant::now();
        loop {
            due = (due + self.interval).max(Instant::now());
            self.prepare(snapshots);
            while !self.parts.is_empty() {
                if let Some((until, _)) = self.pause {
                    if until >= due {
                        break; // by then there is a newer snapshot
                    }
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = &mut shutdown => return,
                    }
                }
                let mut send = pin!(self.send());
                tokio::select! {
                    () = &mut send => {}
                    () = &mut shutdown => {
                        let _ = timeout_at(Instant::now() + GRACE / 2, send).await;
                        return;
                    }
                }
            }
            tokio::select! {
                () = sleep_until(due) => {}
                () = &mut shutdown => return,
            }
        }
    }

    /// A last push of the newest snapshot. Our own pauses end here; one that the receiver asked for does not. A
    /// receiver that was away before gets one chance, so that nobody waits for it.
    async fn last(&mut self, snapshots: &mut Subscription) {
        let deadline = Instant::now() + GRACE;
        self.encoder.wait_no_more();
        self.prepare(snapshots);
        self.pause = self.pause.filter(|(_, asked)| *asked);
        let patient = !self.link.is_down();
        let work = async {
            while !self.parts.is_empty() {
                if let Some((until, _)) = self.pause {
                    sleep_until(until).await;
                }
                self.send().await;
                if self.link.is_down() && !patient {
                    break;
                }
            }
        };
        let _ = timeout_at(deadline, work).await;
        if !self.parts.is_empty() {
            let lost = self.parts.iter().map(|part| self.encoder.points(&part.entities)).sum();
            self.link.lost(lost);
        }
    }

    /// Takes the newest snapshot and encodes it, in parts that receivers take; unless it was sent already.
    fn prepare(&mut self, snapshots: &mut Subscription) {
        let snapshot = snapshots.take();
        if snapshot.workloads.is_empty() || (self.encoded == Some(snapshot.tick) && self.parts.is_empty()) {
            return;
        }
        self.encoded = Some(snapshot.tick);
        self.wall = snapshot.at.wall;
        self.encoder.encode(&snapshot);
        self.stats.ended_dropped.store(self.encoder.ended_dropped(), Ordering::Relaxed);
        let whole = |entities| Part { entities, halvings: 0 };
        self.parts.clear();
        self.parts.extend(self.encoder.parts(REQUEST_MAX).into_iter().map(whole));
    }

    /// Sends the first part, which leaves the queue only when it is clear what became of it.
    async fn send(&mut self) {
        let Some(Part { entities, halvings }) = self.parts.front().cloned() else { return };
        let body = Bytes::copy_from_slice(self.encoder.part(&entities));
        let (size, points) = (body.len(), self.encoder.points(&entities));
        let verdict = self.transport.send(body, self.wall).await;
        if !matches!(verdict, Verdict::Delivered { .. }) {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        match verdict {
            Verdict::Delivered { rejected, message } => {
                self.parts.pop_front();
                self.encoder.acknowledge_part(entities);
                self.delivered(points, rejected, &message);
            }
            Verdict::Retry { after, reached, error } => {
                self.link.failed(reached, &error);
                let asked = after.is_some_and(|after| !after.is_zero());
                self.pause = Some((Instant::now() + self.backoff.delay(after), asked));
            }
            Verdict::TooLarge(error) => {
                self.parts.pop_front();
                let small = size <= HALVED_MIN || halvings >= HALVINGS_MAX;
                if let Some((first, second)) = self.encoder.halves(&entities).filter(|_| !small) {
                    let half = |entities| Part { entities, halvings: halvings + 1 };
                    self.parts.push_front(half(second));
                    self.parts.push_front(half(first));
                } else {
                    self.dropped(points, &error);
                }
            }
            Verdict::Refused(error) => {
                self.parts.pop_front();
                self.dropped(points, &error);
            }
        }
    }

    fn delivered(&mut self, points: u64, rejected: u64, message: &str) {
        self.stats.delivered.fetch_add(points.saturating_sub(rejected), Ordering::Relaxed);
        self.stats.rejected.fetch_add(rejected, Ordering::Relaxed);
        let now = u64::try_from(self.wall.as_nanos()).unwrap_or(0);
        self.stats.succeeded_at.store(now, Ordering::Relaxed);
        self.link.delivered(rejected, message);
        self.backoff.reset();
        self.pause = None;
    }

    fn dropped(&mut self, points: u64, error: &str) {
        self.stats.dropped.fetch_add(points, Ordering::Relaxed);
        self.link.refused(points, error);
        self.pause = None;
    }
}
