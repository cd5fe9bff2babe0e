//! The books of a run, from its snapshots: what each primary zone measured and when, and what a reference zone said.
//!
//! A zone that books late, because its meter is slow, spreads its energy evenly over the time that it covers, which
//! ends when its meter was read and not when that was booked: a lag of the books' own would look like one of the
//! reference. What was measured before the run does not count. The sum is known where every zone in it is known: a zone is needed since it first answered, and until it went for good. A
//! reference that `host:rest` is reckoned from would be compared with itself, so then the rest is left out of the sum.

use crate::clock::Timestamp;
use crate::export::{Snapshot, ZoneBook};
use crate::meter::{Claim, Domain, Quality, Role, State, Zone};
use crate::validate::series::{Member, Piece, Sample, Series};
use crate::validate::truth::{Refused, sift};

/// After so many ticks the roles have settled: a meter that answers late may make another one a reference.
const SETTLED: u64 = 3;

/// Totals of the zones in the sum over the run, in µJ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    /// What the meters measured.
    pub measured: u64,
    /// Booked to rest.
    pub idle: u64,
    /// Booked to workloads.
    pub attributed: u64,
    /// Booked to nobody known.
    pub unattributed: u64,
}

impl Identity {
    /// Measured less what was booked: 0, or the books are wrong.
    #[must_use]
    pub fn difference(&self) -> i128 {
        i128::from(self.measured) - [self.idle, self.attributed, self.unattributed].map(i128::from).iter().sum::<i128>()
    }

    fn add(&mut self, other: Self) {
        self.measured += other.measured;
        self.idle += other.idle;
        self.attributed += other.attributed;
        self.unattributed += other.unattributed;
    }
}

/// Gathers a run.
#[derive(Debug, Default)]
pub struct Gather {
    reference: Option<String>,
    zones: Vec<Gathered>,
    ticks: u64,
    now: f64,
    start: f64,
}

/// One zone so far.
#[derive(Debug, Default)]
struct Gathered {
    zone: Option<std::sync::Arc<Zone>>,
    state: Option<State>,
    pieces: Vec<Piece>,
    /// Pieces of a time in which it was not primary.
    beside: Vec<Piece>,
    /// When it first and last was primary and answered.
    answered: Option<(f64, f64)>,
    identity: Identity,
    refused: u64,
}

/// A run, gathered.
#[derive(Debug, Default)]
pub struct Run {
    /// Power of the sum.
    pub books: Series,
    /// Power of the reference zone; empty where the reference is a file.
    pub reference: Series,
    /// What the reference zone said that cannot be.
    pub refused: Refused,
    /// The zones in the sum.
    pub zones: Vec<String>,
    /// Their totals.
    pub identity: Identity,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// How long it was (s).
    pub duration: f64,
    /// When it began, seconds since 1970.
    pub start: f64,
}

impl Gather {
    /// For a reference zone, or for a file (`None`).
    #[must_use]
    pub fn new(reference: Option<String>) -> Self {
        Self { reference, ..Self::default() }
    }

    /// Takes the next snapshot.
    pub fn tick(&mut self, snapshot: &Snapshot) {
        self.now = seconds(snapshot);
        self.start = snapshot.baseline.wall.as_secs_f64();
        self.ticks = snapshot.tick;
        self.zones.resize_with(snapshot.zones.len().max(self.zones.len()), Gathered::default);
        for (book, known) in snapshot.zones.iter().zip(&mut self.zones) {
            known.take(book, snapshot);
        }
    }

    /// When the run began, seconds since 1970.
    #[must_use]
    pub fn start(&self) -> f64 {
        self.start
    }

    /// What makes the reference zone useless; with `settled`, that it is not there at all too.
    #[must_use]
    pub fn problem(&self, settled: bool) -> Option<String> {
        let wanted = self.reference.as_ref()?;
        let zone = self.zones.iter().filter_map(|known| known.zone.as_ref()).find(|zone| zone.id == *wanted);
        match zone {
            Some(zone) if zone.role == Role::Primary && (settled || self.ticks >= SETTLED) => Some(format!(
                "{wanted} is primary: it is part of the books and cannot check them; \
                 give another meter or the CSV file of a wattmeter ({})",
                self.others()
            )),
            None if settled => Some(format!("there is no zone {wanted} here ({})", self.others())),
            _ => None,
        }
    }

    fn others(&self) -> String {
        let zones = self.zones.iter().filter_map(|known| known.zone.as_ref());
        let ids: Vec<&str> = zones.filter(|zone| zone.role != Role::Primary).map(|zone| zone.id.as_str()).collect();
        if ids.is_empty() {
            "no zone here is fit for it".into()
        } else {
            format!("zones fit for it: {}", ids.join(", "))
        }
    }

    /// The run.
    #[must_use]
    pub fn finish(self) -> Run {
        let mut run = Run { duration: self.now, start: self.start, ..Run::default() };
        let reference = |zone: &Zone| self.reference.as_ref() == Some(&zone.id);
        let zones = || self.zones.iter().filter_map(|known| Some((known.zone.as_deref()?, known)));
        let wall = zones().map(|(zone, _)| zone).find(|zone| reference(zone));
        let mut members = Vec::new();
        for (zone, known) in zones() {
            if reference(zone) {
                run.reference = truthful(&known.beside, &mut run.refused);
                run.notes.extend(known.said_of_reference(zone));
                let supply = |other: &Zone| other.claim() == Claim::Supply && other.source == zone.source;
                if supply(zone) && zones().filter(|(other, _)| supply(other)).count() > 1 {
                    run.notes.push(format!("{} is one of several supplies: it feeds a part of the machine", zone.id));
                }
                continue;
            }
            let Some((from, to)) = known.answered else {
                if zone.role == Role::Primary {
                    let state = known.state.map_or("pending", State::as_str);
                    run.notes.push(format!("{} is {state} and not in the sum", zone.id));
                }
                continue;
            };
            if let Some(wall) = wall.filter(|wall| leaves_out(wall, zone)) {
                let why = if wall.claim() == Claim::Platform { "no part of" } else { "reckoned from" };
                run.notes.push(format!("{} is {why} {}: left out of the sum", zone.id, wall.id));
                continue;
            }
            let ended = to < self.now;
            if ended && zone.quality == Quality::Measured {
                run.notes.push(format!("{} was there until {to:.1} s only; the sum goes on without it", zone.id));
            }
            if zone.quality == Quality::Estimated {
                run.notes.push(format!("{} is a model: its part of the books is estimated, not measured", zone.id));
            }
            let to = if ended { to } else { f64::INFINITY };
            members.push(Member { series: Series::new(known.pieces.clone()), from, to });
            run.identity.add(known.identity);
            run.zones.push(zone.id.clone());
        }
        let seen = |domains: &[Domain]| {
            let measured = |(zone, known): (&Zone, &Gathered)| {
                known.answered.is_some() && zone.quality == Quality::Measured && domains.contains(&zone.domain)
            };
            zones().any(measured)
        };
        let whole = [Domain::Host, Domain::Rest, Domain::Psu, Domain::Battery, Domain::Psys];
        if wall.is_none() && seen(&[Domain::Package]) && !seen(&whole) {
            let note = "the books hold processors and memory, not fans, disks and losses: a wall meter reads more";
            run.notes.push(note.into());
        }
        run.books = Series::sum(&members);
        run
    }
}

impl Gathered {
    fn take(&mut self, book: &ZoneBook, snapshot: &Snapshot) {
        let now = seconds(snapshot);
        let primary = book.zone.role == Role::Primary;
        if self.zone.as_ref().is_none_or(|zone| !std::sync::Arc::ptr_eq(zone, &book.zone)) {
            self.zone = Some(std::sync::Arc::clone(&book.zone));
        }
        self.state = Some(book.state);
        self.refused = refused(book);
        if primary && answers(book.state) {
            let first = self.answered.map_or(now, |(first, _)| first);
            self.answered = Some((first, now));
        }
        if primary && let Some(measured) = book.measured {
            self.identity.add(Identity {
                measured: measured.0,
                idle: book.idle.0,
                attributed: book.attributed.0,
                unattributed: book.unattributed.0,
            });
        }
        let pieces = if primary { &mut self.pieces } else { &mut self.beside };
        let end = pieces.last().map_or(0.0, |piece| piece.to);
        pieces.extend(piece(book, snapshot.baseline, end));
    }

    /// What to say of a zone that is the reference.
    fn said_of_reference(&self, zone: &Zone) -> Vec<String> {
        let mut notes = Vec::new();
        match zone.role {
            Role::Contained => {
                notes.push(format!("{} is contained in what the books hold: it should be less", zone.id));
            }
            Role::Duplicate => notes.push(format!("{} is {}: no independent meter", zone.id, zone.why)),
            _ => {}
        }
        if self.refused > 0 {
            notes.push(format!("{} readings of {} were refused before they became power", self.refused, zone.id));
        }
        notes
    }
}

/// What a zone says of its power, without what cannot be.
fn truthful(pieces: &[Piece], refused: &mut Refused) -> Series {
    let samples = pieces.iter().map(|piece| Sample { at: piece.to, watts: piece.watts, line: 0 }).collect();
    let kept = sift(samples, refused);
    let mut kept = kept.iter().map(|sample| sample.at.to_bits()).peekable();
    let stays = |piece: &&Piece| kept.next_if(|at| *at == piece.to.to_bits()).is_some();
    Series::new(pieces.iter().filter(stays).copied().collect())
}

/// Whether `zone` must not be in a sum that is compared with `reference`.
pub(crate) fn leaves_out(reference: &Zone, zone: &Zone) -> bool {
    let contains = reference.whole || matches!(reference.claim(), Claim::Node | Claim::Supply | Claim::Platform);
    zone.domain == Domain::Rest && contains
}

/// Whether a zone in this state gives energy, now or later.
pub(crate) fn answers(state: State) -> bool {
    !matches!(state, State::Gone | State::Denied)
}

/// Seconds since the baseline.
pub(crate) fn seconds(snapshot: &Snapshot) -> f64 {
    snapshot.at.boot.saturating_sub(snapshot.baseline.boot).as_secs_f64()
}

/// What was booked at this tick as power over the time that it covers, from the `baseline` on and from `end`, where
/// the piece before ends.
pub(crate) fn piece(book: &ZoneBook, baseline: Timestamp, end: f64) -> Option<Piece> {
    let covers = book.covers.as_secs_f64();
    let energy = book.measured.filter(|_| covers > 0.0)?;
    // Of a reading from before the baseline nothing is left.
    let to = book.until.boot.saturating_sub(baseline.boot).as_secs_f64();
    let from = (to - covers).max(end);
    (to > from).then(|| Piece { from, to, watts: energy.joules() / covers })
}

fn refused(book: &ZoneBook) -> u64 {
    let refused = book.refused;
    refused.reset + refused.gap + refused.implausible + refused.stale + refused.gone
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::attribute::account::Account;
    use crate::unit::Microjoules;

    fn at(seconds: u64) -> Timestamp {
        Timestamp { boot: Duration::from_secs(1_000 + seconds), ..Timestamp::default() }
    }

    fn zone(id: &str, domain: Domain, role: Role) -> Arc<Zone> {
        let (source, whole) = if domain == Domain::Host { ("ipmi", true) } else { ("rapl", false) };
        Arc::new(Zone { role, whole, ..Zone::new(source, id, domain) })
    }

    /// A booking of so many joules over so many seconds; of 0 seconds: none.
    fn book(zone: &Arc<Zone>, state: State, joules: u64, covers: u64) -> ZoneBook {
        let measured = (covers > 0).then_some(Microjoules(joules * 1_000_000));
        let booked = Account::new(Arc::clone(zone), at(0)).book;
        let active = measured.unwrap_or_default();
        let (covers, until) = (Duration::from_secs(covers), Timestamp::default()); // when is for `snapshot` to say
        ZoneBook { state, measured, covers, until, attributed: active, ..booked }
    }

    fn snapshot(tick: u64, mut zones: Vec<ZoneBook>) -> Snapshot {
        zones.iter_mut().filter(|book| book.until == Timestamp::default()).for_each(|book| book.until = at(tick));
        let interval = Duration::from_secs(tick.min(1));
        Snapshot { tick, at: at(tick), baseline: at(0), interval, zones, ..Snapshot::default() }
    }

    /// A package of 50 W; a BMC of 80 W that answers every tenth second, and the rest that is reckoned from it.
    fn server(reference: Option<&str>, ticks: u64) -> Run {
        let package = zone("rapl:package-0", Domain::Package, Role::Primary);
        let bmc = zone("ipmi:dcmi", Domain::Host, Role::Reference);
        let rest = zone("host:rest", Domain::Rest, Role::Primary);
        let mut gather = Gather::new(reference.map(str::to_owned));
        for tick in 0..=ticks {
            let slow = if tick > 0 && tick % 10 == 0 { 10 } else { 0 };
            let state = if slow > 0 { State::Ok } else { State::Pending };
            let zones = vec![
                book(&package, State::Ok, 50, tick.min(1)),
                book(&bmc, state, 800, slow),
                book(&rest, state, 300, slow),
            ];
            gather.tick(&snapshot(tick, zones));
        }
        gather.finish()
    }

    #[test]
    fn the_rest_is_not_compared_with_what_it_is_reckoned_from() {
        let run = server(Some("ipmi:dcmi"), 25);
        assert_eq!(run.zones, ["rapl:package-0"]);
        assert_eq!(run.notes, ["host:rest is reckoned from ipmi:dcmi: left out of the sum"]);
        assert_eq!((run.books.span(), run.books.mean(0.0, 25.0)), (Some((0.0, 25.0)), Some(50.0)));
        assert_eq!((run.reference.span(), run.reference.mean(0.0, 20.0)), (Some((0.0, 20.0)), Some(80.0)));
        assert_eq!((run.identity.measured, run.identity.difference()), (25 * 50_000_000, 0));
        let run = server(None, 25);
        assert_eq!(run.zones, ["rapl:package-0", "host:rest"], "beside a wattmeter it belongs to the sum");
        assert_eq!((run.books.span(), run.books.mean(0.0, 20.0)), (Some((0.0, 20.0)), Some(80.0)));
        assert_eq!(run.identity.measured, 25 * 50_000_000 + 2 * 300_000_000);
    }

    /// A package that is read at its tick, and a BMC that says every second what it was five seconds ago.
    #[test]
    fn a_reading_that_is_older_than_its_tick_is_no_lag() {
        let package = zone("rapl:package-0", Domain::Package, Role::Primary);
        let bmc = zone("ipmi:dcmi", Domain::Host, Role::Reference);
        let scattered = |second: u64| (second / 7 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let load = |second: u64| 60 + ((scattered(second) * 120) >> 32);
        let mut gather = Gather::new(Some(bmc.id.clone()));
        for tick in 0..=300_u64 {
            let until = Timestamp { boot: Duration::from_secs(995 + tick), ..Timestamp::default() };
            let theirs = book(&bmc, State::Ok, 30 + load(tick.saturating_sub(5)), tick.min(1));
            let ours = book(&package, State::Ok, load(tick), tick.min(1));
            gather.tick(&snapshot(tick, vec![ours, ZoneBook { until, ..theirs }]));
        }
        let run = gather.finish();
        assert_eq!((run.reference.span(), run.books.span()), (Some((0.0, 295.0)), Some((0.0, 300.0))));
        let comparison = crate::validate::Comparison::of(&run.books, &run.reference).unwrap();
        let seconds = comparison.lag.seconds().unwrap();
        assert!(seconds.abs() < 0.3 && comparison.aligned.is_none(), "{seconds}");
        assert!((comparison.raw.figures.bias() + 30.0).abs() < 1e-6, "{:?}", comparison.raw.figures);
    }

    #[test]
    fn a_zone_that_fails_leaves_a_gap_and_one_that_goes_ends() {
        let (package, gpu) =
            (zone("rapl:package-0", Domain::Package, Role::Primary), zone("gpu:0", Domain::Gpu, Role::Primary));
        let run = |state: fn(u64) -> (State, u64)| {
            let mut gather = Gather::new(None);
            for tick in 0..=20 {
                let (state, covers) = state(tick);
                let zones = vec![book(&package, State::Ok, 50, tick.min(1)), book(&gpu, state, 30, covers)];
                gather.tick(&snapshot(tick, zones));
            }
            gather.finish()
        };
        let failing = run(|tick| match tick {
            5..8 => (State::Gone, 0),
            8 => (State::Reset, 0), // what it used meanwhile is lost
            tick => (State::Ok, tick.min(1)),
        });
        assert_eq!(failing.books.mean(0.0, 4.0), Some(80.0));
        assert_eq!(failing.books.mean(4.0, 8.0), None, "no sum without one of its zones");
        assert_eq!(failing.books.mean(8.0, 20.0), Some(80.0));
        let gone = run(|tick| if tick < 10 { (State::Ok, tick.min(1)) } else { (State::Gone, 0) });
        assert_eq!((gone.books.mean(0.0, 9.0), gone.books.mean(9.0, 20.0)), (Some(80.0), Some(50.0)));
        assert!(gone.notes.contains(&"gpu:0 was there until 9.0 s only; the sum goes on without it".to_owned()));
    }
}
