//! `wattribute run`: the agent on its own thread, the exporters on a current-thread runtime, until SIGTERM or SIGINT.
//!
//! The sampling thread never waits for an exporter. At the end there is a last tick, a last push within its grace
//! period, and for JSON the total; a second signal ends the program at once.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::agent::Agent;
use crate::cli::signals::{SAME_SIGNAL, Signals, count, twice};
use crate::cli::state::{Keeper, warn_of_refused};
use crate::cli::{UsageError, check_zones, discover, live, names, watch};
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::enrich::{self, Enricher};
use crate::export::otlp::{GRACE, NodeResource, Otlp};
use crate::export::printer::Printer;
use crate::export::stdout::printable;
use crate::export::{Snapshot, Subscription, ZoneBook};
use crate::host::lock::{Lock, LockError};
use crate::host::{self, Host};
use crate::meter::set::Outcome;
use crate::meter::{Quality, State};
use crate::telemetry::{self, Stats, Telemetry};

/// How long to wait for an agent that is just ending: its last push takes no longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(6);
/// A meter whose trouble keeps changing is not heard more often than this.
const QUIET: Duration = Duration::from_secs(60);
/// How much of what was learned a crash may cost.
const SAVE_EVERY: Duration = Duration::from_secs(300);
/// Snapshots that wait for a slow terminal; beyond that it misses some.
const WAITING_MAX: usize = 64;

/// Runs the command.
///
/// # Errors
/// A machine whose roots cannot be opened, or settings that cannot work.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let Some(Prepared { runtime, mut signals, lock, host, enrichers, node }) = prepare(config)? else { return Ok(()) };
    let stats = Arc::new(Stats::default());
    let exporter = {
        let _inside = runtime.enter();
        let settings = &config.export.otlp;
        let otlp = settings.enabled.then(|| Otlp::new(settings, &config.processes, &node, Arc::clone(&stats)));
        otlp.transpose().map_err(|error| UsageError(error.to_string()))?
    };
    let keeper = Keeper::of(config, &host);
    let mut agent = Agent::new(host, config.clone(), clock::now());
    let keeper = remember(keeper, &mut agent, lock.is_some());
    for enricher in enrichers {
        agent.add_enricher(enricher);
    }
    let start = clock::now();
    let pushes = exporter.is_some().then(|| agent.subscribe());
    let (printer, shown) = start_printer(config, &mut agent, start);
    agent.step(start);
    announce(&agent);
    check_zones(config, &agent.snapshot());
    let (stop, stopped) = channel();
    let checked = watch::start(config, &stats);
    let (finished, ticked) = tokio::sync::oneshot::channel::<()>();
    let sampler =
        Sampler { agent, config: config.clone(), stats: Arc::clone(&stats), shown, checked, stopped, finished, keeper };
    let sampler = std::thread::Builder::new().name("sampler".into()).spawn(move || sampler.run(start));
    let sampler = sampler.context("cannot start the sampling thread")?;
    let inside = runtime.enter();
    let own = exporter.as_ref().and_then(|otlp| start_telemetry(otlp, config, &node, &stats));
    drop(inside);
    // Dropping it would wait for its receiver: it is stopped within the grace period, or left to the end of the process.
    let own = own.map(ManuallyDrop::new);
    let [first, late, again] = [(); 3].map(|()| signals.count.subscribe());
    let in_time = runtime.block_on(async {
        let (quit, quitting) = tokio::sync::oneshot::channel::<()>();
        let push = async {
            if let (Some(otlp), Some(pushes)) = (exporter, pushes) {
                otlp.run(pushes, async { drop(quitting.await) }).await;
            }
        };
        let watch = async {
            count(first, 1).await;
            drop(stop);
            // The last push goes out while the meters log out.
            let _ = ticked.await;
            drop(quit);
            if let Some(own) = own {
                ManuallyDrop::into_inner(own).stop(GRACE).await;
            }
            join(sampler).await;
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(push, watch) } => true,
            () = signals.listen() => true,
            () = overdue(late) => {
                telemetry::warn("the last push took too long: not waiting for it");
                false
            }
            () = twice(again) => {
                telemetry::warn("second signal: not waiting for the last push");
                false
            }
        }
    });
    if let Some(printer) = printer.filter(|_| in_time) {
        let _ = printer.join();
    }
    Ok(())
}

/// Gives the agent what was kept. Without the lock there may be another agent that nobody can tell from here, so
/// nothing is written then.
fn remember(keeper: Option<Keeper>, agent: &mut Agent, locked: bool) -> Option<Keeper> {
    let keeper = keeper?;
    keeper.load(agent);
    if !locked {
        telemetry::warn("state.directory: nothing that is learned will be kept in it, for want of the lock");
    }
    locked.then_some(keeper)
}

/// What a run begins with.
struct Prepared {
    runtime: Runtime,
    signals: Signals,
    lock: Option<Lock>,
    host: Host,
    enrichers: Vec<Box<dyn Enricher>>,
    node: NodeResource,
}

/// Waits for what may take a moment: another agent that is ending, names. `None` if a signal came meanwhile.
fn prepare(config: &Config) -> anyhow::Result<Option<Prepared>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the network")?;
    // Before anything waits: a process that is the first of its pid namespace loses signals that it does not handle.
    let mut signals = Signals::new(&runtime)?;
    let lock = match lock(config, &mut || signals.came(&runtime))? {
        Locked::Ours(lock) => Some(lock),
        Locked::Without => None,
        Locked::Stopped => return Ok(None),
    };
    let host = live(config)?;
    give_up_signals(&host, config);
    let enrichers = names(&host, config, &mut || signals.came(&runtime));
    if signals.came(&runtime) {
        return Ok(None);
    }
    let node = NodeResource { attributes: enrich::host::attributes(&host, config) };
    let node = node.with(&enrich::node(&enrichers));
    Ok(Some(Prepared { runtime, signals, lock, host, enrichers, node }))
}

/// What became of the lock.
enum Locked {
    Ours(Lock),
    /// No directory is set, or it cannot be used.
    Without,
    /// We were told to stop.
    Stopped,
}

/// In a container that sees the host's processes, signals to them are not ours to send.
fn give_up_signals(host: &Host, config: &Config) {
    if config.host.proc != Path::new("/proc")
        && host.sees_own_pids()
        && let Err(error) = host::sandbox::enter()
    {
        telemetry::warn(&format!("cannot give up the right to signal other processes: {error}"));
    }
}

/// The lock of the agent's own directory.
fn lock(config: &Config, stop: &mut dyn FnMut() -> bool) -> anyhow::Result<Locked> {
    const STEP: Duration = Duration::from_millis(100);
    let Some(directory) = &config.state.directory else { return Ok(Locked::Without) };
    let mut left = LOCK_PATIENCE;
    loop {
        match host::lock::lock(directory, STEP) {
            Ok(lock) => return Ok(Locked::Ours(lock)),
            Err(LockError::Held { .. }) if stop() => return Ok(Locked::Stopped),
            Err(LockError::Held { .. }) if !left.is_zero() => left = left.saturating_sub(STEP),
            Err(error @ LockError::Held { .. }) => return Err(error.into()),
            Err(error @ LockError::Unusable { .. }) => {
                telemetry::warn(&format!("state.directory: {error}"));
                return Ok(Locked::Without);
            }
        }
    }
}

/// The thread that owns the agent.
struct Sampler {
    agent: Agent,
    config: Config,
    stats: Arc<Stats>,
    shown: Option<SyncSender<Arc<Snapshot>>>,
    checked: Option<SyncSender<Arc<Snapshot>>>,
    stopped: Receiver<()>,
    /// Dropped after the last tick.
    finished: tokio::sync::oneshot::Sender<()>,
    keeper: Option<Keeper>,
}

impl Sampler {
    fn run(mut self, start: Timestamp) {
        let interval = self.config.interval.0;
        let mut due = start.boot;
        let mut states = states(&self.agent.snapshot());
        let mut troubles = Troubles::default();
        let mut saved = start.boot;
        loop {
            due += interval;
            let now = clock::now().boot;
            if due <= now {
                // Late by a whole interval or more (stopped, suspended): one tick covers it, none is made up.
                due = now;
            }
            let last = self.stopped.recv_timeout(due.saturating_sub(now)) != Err(RecvTimeoutError::Timeout);
            let began = clock::now();
            self.agent.step(began);
            let took = clock::now().boot.saturating_sub(began.boot);
            self.stats.tick_nanos.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            let snapshot = self.agent.snapshot();
            self.report(&snapshot, &mut states);
            troubles.report(&self.agent, began);
            warn_of_refused(&mut self.agent);
            if last || began.boot.saturating_sub(saved) >= SAVE_EVERY {
                saved = began.boot;
                if let Some(keeper) = &mut self.keeper {
                    keeper.save(&self.agent);
                }
            }
            for reader in [&self.checked, &self.shown].into_iter().flatten() {
                let _ = reader.try_send(Arc::clone(&snapshot));
            }
            drop(snapshot);
            if last {
                // Nobody waits for the meters to log out, which the agent does when it is dropped.
                drop((self.shown, self.checked, self.finished));
                return;
            }
        }
    }

    /// Counts refused readings, and says once when a zone comes or its state changes for good or ill.
    fn report(&self, snapshot: &Snapshot, states: &mut Vec<(bool, u64)>) {
        for (index, book) in snapshot.zones.iter().enumerate() {
            self.stats.set_refused(index, &book.zone.id, book.refused.counts());
            let Some((before, conflicts)) = states.get_mut(index) else {
                if book.zone.quality == Quality::Measured {
                    telemetry::info(&format!("meter {}: found, {}", book.zone.id, book.zone.role.as_str()));
                }
                warn_of(book);
                states.push((is_fine(book.state), book.refused.conflict));
                continue;
            };
            if *conflicts == 0 && book.refused.conflict > 0 {
                let whole = book.zone.parent.as_deref().unwrap_or("the meter of the whole machine");
                telemetry::warn(&format!(
                    "meter {}: the parts measure more than {whole}; one of them is wrong, see wattribute discover",
                    book.zone.id
                ));
            }
            *conflicts = book.refused.conflict;
            let fine = is_fine(book.state);
            // Between two answers of a slow meter nothing is known of it, and what troubles it as a whole is said once.
            let troubled = || self.agent.troubles().any(|(_, backend, _)| backend == book.zone.source);
            if *before != fine && book.state != State::Pending && (fine || !troubled()) {
                *before = fine;
                if fine && book.zone.quality == Quality::Measured {
                    telemetry::info(&format!("meter {}: works again ({})", book.zone.id, book.state.as_str()));
                }
                warn_of(book);
            }
        }
    }
}

/// Says what is wrong with a zone, and what may help.
fn warn_of(book: &ZoneBook) {
    // The estimator goes when a meter answers, and perf counts what powercap counts too.
    if is_fine(book.state) || book.zone.quality == Quality::Estimated || book.zone.source == "perf" {
        return;
    }
    let advice = match book.state {
        State::Denied => "; run as root, or grant CAP_DAC_READ_SEARCH",
        State::Stale => "; its value stays the same while the load moves",
        _ => "",
    };
    telemetry::warn(&format!("meter {}: {}; {}{advice}", book.zone.id, book.state.as_str(), book.zone.path));
}

/// What is said of meters as a whole: once each time it changes, and not more often than once in [`QUIET`].
#[derive(Default)]
struct Troubles(Vec<Told>);

struct Told {
    meter: usize,
    backend: &'static str,
    what: Arc<str>,
    at: Timestamp,
}

impl Troubles {
    fn report(&mut self, agent: &Agent, now: Timestamp) {
        for (meter, backend, what) in agent.troubles() {
            match self.0.iter_mut().find(|told| told.meter == meter) {
                Some(told) if told.what == what || now.boot.saturating_sub(told.at.boot) < QUIET => {}
                known => {
                    telemetry::warn(&format!("{backend}: {what}"));
                    let told = Told { meter, backend, what, at: now };
                    match known {
                        Some(known) => *known = told,
                        None => self.0.push(told),
                    }
                }
            }
        }
        self.0.retain(|told| {
            let stands = agent.troubles().any(|(meter, _, _)| meter == told.meter);
            if !stands {
                telemetry::info(&format!("{}: answers again, after: {}", told.backend, told.what));
            }
            stands
        });
    }
}

fn states(snapshot: &Snapshot) -> Vec<(bool, u64)> {
    snapshot.zones.iter().map(|book| (is_fine(book.state), book.refused.conflict)).collect()
}

fn is_fine(state: State) -> bool {
    !matches!(state, State::Gone | State::Denied | State::Stale)
}

/// What was found, once, at the start: on standard error, so that standard output stays the table's.
fn announce(agent: &Agent) {
    for report in agent.reports() {
        match &report.outcome {
            // Perf is an extra: what it counts powercap counts too.
            Outcome::Denied(..) if report.name != "perf" => {
                telemetry::warn(&format!("{}: {}", report.name, discover::outcome(&report.outcome)));
            }
            outcome => telemetry::info(&format!("{}: {}", report.name, discover::outcome(outcome))),
        }
    }
    let denied = |source: &str| {
        agent.reports().iter().any(|report| report.name == source && matches!(report.outcome, Outcome::Denied(..)))
    };
    // Where all of a backend is denied, that is said once, above.
    agent.snapshot().zones.iter().filter(|book| !denied(book.zone.source)).for_each(warn_of);
    for book in agent.snapshot().zones.iter().filter(|book| book.zone.quality == Quality::Estimated) {
        telemetry::info(&format!("{} stands in for a meter: {}", book.zone.id, printable(&book.zone.why)));
    }
}

/// The thread that writes to standard output.
fn start_printer(
    config: &Config,
    agent: &mut Agent,
    start: Timestamp,
) -> (Option<JoinHandle<()>>, Option<SyncSender<Arc<Snapshot>>>) {
    if !config.export.stdout.enabled {
        return (None, None);
    }
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let reader: Subscription = agent.subscribe();
    let printer = Printer::new(config.export.stdout.format, start);
    let thread = std::thread::Builder::new().name("stdout".into()).spawn(move || printer.run(&receiver, &reader));
    match thread {
        Ok(thread) => (Some(thread), Some(sender)),
        Err(_) => (None, None),
    }
}

fn start_telemetry(otlp: &Otlp, config: &Config, node: &NodeResource, stats: &Arc<Stats>) -> Option<Telemetry> {
    match otlp.own_exporter() {
        Ok(exporter) => {
            let settings = &config.export.otlp;
            Some(Telemetry::start(exporter, settings.interval, &node.own(settings), stats))
        }
        Err(error) => {
            telemetry::warn(&format!("no telemetry of our own: {error}"));
            None
        }
    }
}

/// The end of the grace period after the first signal.
async fn overdue(signals: tokio::sync::watch::Receiver<u32>) {
    count(signals, 1).await;
    tokio::time::sleep(GRACE + SAME_SIGNAL).await;
}

/// Waits for the sampling thread without blocking the runtime.
async fn join(thread: JoinHandle<()>) {
    while !thread.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = thread.join();
}
