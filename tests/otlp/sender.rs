//! A running exporter, fed by hand: each snapshot that is published is one push.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use wattribute::config::{self, Protocol};
use wattribute::export::otlp::{Jitter, Otlp};
use wattribute::export::{Snapshot, Subscription};
use wattribute::telemetry::{Level, Log, Stats};

use crate::arithmetic::{node, processes};

pub struct Sender {
    publisher: watch::Sender<Arc<Snapshot>>,
    pub stats: Arc<Stats>,
    pub log: Arc<Mutex<Vec<(Level, String)>>>,
    pub seen: Arc<AtomicU64>,
    shutdown: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

/// Settings for a receiver at `address`: pushes follow each other at once, and nothing waits for randomness.
pub fn settings(protocol: Protocol, address: SocketAddr) -> config::Otlp {
    config::Otlp {
        endpoint: format!("http://{address}"),
        protocol,
        interval: Duration::from_millis(5),
        ..config::Otlp::default()
    }
}

impl Sender {
    pub fn start(settings: &config::Otlp) -> Self {
        let publisher = watch::Sender::new(Arc::new(Snapshot::default()));
        let (stats, seen) = (Arc::new(Stats::default()), Arc::new(AtomicU64::new(0)));
        let log: Arc<Mutex<Vec<(Level, String)>>> = Arc::default();
        let lines = Arc::clone(&log);
        let write: Log = Arc::new(move |level, text: &str| lines.lock().unwrap().push((level, text.to_owned())));
        let processes = processes(config::ProcessExport::Off, 0);
        let otlp = Otlp::with(settings, &processes, &node(), Arc::clone(&stats), write, Jitter::seeded(0)).unwrap();
        let subscription = Subscription::new(publisher.subscribe(), Arc::clone(&seen));
        let (shutdown, down) = oneshot::channel::<()>();
        let task = tokio::spawn(otlp.run(subscription, async move { drop(down.await) }));
        Self { publisher, stats, log, seen, shutdown: Some(shutdown), task }
    }

    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.publisher.send_replace(snapshot);
    }

    /// Publishes and waits until the exporter has taken it.
    pub async fn push(&self, snapshot: Arc<Snapshot>) {
        let tick = snapshot.tick;
        self.publish(snapshot);
        while self.seen.load(Ordering::Acquire) < tick {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    /// Waits for a line of the log.
    pub async fn said(&self, part: &str) -> String {
        let line = async {
            loop {
                if let Some(line) = self.lines().into_iter().find(|line| line.contains(part)) {
                    return line;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), line).await;
        found.unwrap_or_else(|_| panic!("{part:?} is not among {:#?}", self.lines()))
    }

    pub async fn counted_at_least(&self, read: impl Fn(&Stats) -> &AtomicU64, value: u64) {
        while read(&self.stats).load(Ordering::Relaxed) < value {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until a counter has a value, and no more.
    pub async fn counted(&self, read: impl Fn(&Stats) -> &AtomicU64, value: u64) {
        self.counted_at_least(&read, value).await;
        assert_eq!(read(&self.stats).load(Ordering::Relaxed), value);
    }

    pub async fn stop(mut self) -> Arc<Stats> {
        drop(self.shutdown.take());
        (&mut self.task).await.unwrap();
        Arc::clone(&self.stats)
    }
}
