//! Signals that end a run, heard from the very start.
//!
//! A process that is the first of its pid namespace, as in a container, loses every signal that it does not handle
//! (`pid_namespaces(7)`); so handlers stand before anything waits. What comes is counted.

use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Signals within this time are one.
pub const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// SIGTERM, SIGINT and SIGHUP, heard from the very start.
pub struct Signals {
    streams: [Signal; 3],
    /// How many have come.
    pub count: watch::Sender<u32>,
}

impl Signals {
    /// From here on none is lost.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(runtime: &Runtime) -> anyhow::Result<Self> {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("cannot listen to signals");
        let streams =
            [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?];
        Ok(Self { streams, count: watch::Sender::new(0) })
    }

    /// Whether one has come, while the runtime does not run otherwise.
    pub fn came(&mut self, runtime: &Runtime) -> bool {
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(1), self.listen()).await });
        *self.count.borrow() > 0
    }

    /// Counts them, for ever.
    pub async fn listen(&mut self) {
        let [term, interrupt, hangup] = &mut self.streams;
        loop {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {}, _ = hangup.recv() => {} }
            self.count.send_modify(|count| *count += 1);
        }
    }
}

/// Waits until so many signals have come.
pub async fn count(mut signals: watch::Receiver<u32>, wanted: u32) {
    if signals.wait_for(|count| *count >= wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The second of them. Wrappers send one to the process and one to its group: those at once count as one.
pub async fn twice(signals: watch::Receiver<u32>) {
    count(signals.clone(), 1).await;
    tokio::time::sleep(SAME_SIGNAL).await;
    let so_far = *signals.borrow();
    count(signals, so_far + 1).await;
}
