//! One export as bytes: [`Encoder`] folds a snapshot into its series and writes the request, or for a size-bounded
//! sender several requests of one encoding, and is told what a receiver has acknowledged.
//!
//! This is also the embedding seam: a caller that owns an agent steps it, and has [`Encoder::encode`] give it one
//! encoded `ExportMetricsServiceRequest` to pass on.

use std::ops::Range;

use super::attributes::NodeResource;
use super::encode::{Form, Writer};
use super::series::Book;
use crate::config::{self, Temporality};
use crate::export::Snapshot;

/// Encodes snapshots.
#[derive(Debug)]
pub struct Encoder {
    book: Book,
    form: Form,
    body: Vec<u8>,
    marks: Vec<Mark>,
    scratch: Writer,
}

/// Where one entity ends in the body, and what to tell whom when it was delivered.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// End in the body.
    pub end: usize,
    /// Points of the entity.
    pub points: usize,
    who: Who,
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Live { row: usize, serial: u64 },
    Final(u64),
    Over(u64),
}

impl Encoder {
    /// An encoder that has seen no snapshot yet.
    #[must_use]
    pub fn new(settings: &config::Otlp, processes: &config::Processes, node: &NodeResource) -> Self {
        let form = match settings.temporality {
            Temporality::Cumulative => Form::Cumulative,
            Temporality::Delta | Temporality::LowMemory => Form::Delta,
        };
        let book = Book::new(settings, processes, node);
        Self { book, form, body: Vec::new(), marks: Vec::new(), scratch: Writer::default() }
    }

    /// From now on nothing waits for its names: the next request is the last.
    pub fn wait_no_more(&mut self) {
        self.book.patience_over = true;
    }

    /// Folds `snapshot` and returns everything as one encoded `ExportMetricsServiceRequest`. What was encoded before
    /// and not acknowledged is in it: totals anyway, increments because they are counted since the last acknowledged.
    pub fn encode(&mut self, snapshot: &Snapshot) -> &[u8] {
        self.fold(snapshot);
        self.write()
    }

    /// Books what came since the last snapshot, without encoding it.
    pub fn fold(&mut self, snapshot: &Snapshot) {
        self.book.fold(snapshot);
    }

    /// Encodes what was folded: final totals of what ended, the living, then what says that a series is over.
    pub fn write(&mut self) -> &[u8] {
        self.body.clear();
        self.marks.clear();
        let (form, now) = (self.form, self.book.now());
        self.write_ended(false);
        for (row, entity) in self.book.live() {
            // an increment over no time says nothing
            if entity.series.is_empty() || (form == Form::Delta && entity.series.iter().all(|s| s.acked_at >= now)) {
                continue;
            }
            entity.append(form, now, &mut self.scratch, &mut self.body);
            let who = Who::Live { row, serial: entity.serial };
            self.marks.push(Mark { end: self.body.len(), points: entity.points(), who });
        }
        self.write_ended(true);
        &self.body
    }

    fn write_ended(&mut self, delivered: bool) {
        let now = self.book.now();
        for ended in self.book.ended.iter_mut().filter(|ended| ended.delivered == delivered) {
            let time = if delivered { now } else { ended.time };
            let points = ended.entity.append_rested(self.form, time, delivered, &mut self.scratch, &mut self.body);
            let who = if delivered { Who::Over(ended.number) } else { Who::Final(ended.number) };
            self.marks.push(Mark { end: self.body.len(), points, who });
        }
    }

    /// Everything that was last written has been delivered.
    pub fn acknowledge(&mut self) {
        self.acknowledge_part(0..self.marks.len());
    }

    /// The entities with these numbers have been delivered.
    pub fn acknowledge_part(&mut self, part: Range<usize>) {
        for mark in self.marks.get(part).unwrap_or_default() {
            match mark.who {
                Who::Live { row, serial } => self.book.acknowledge(row, serial),
                Who::Final(number) => self.book.ended.acknowledge_final(number),
                Who::Over(number) => self.book.ended.acknowledge_end(number),
            }
        }
    }

    /// The entities of the last request, in the order of the body.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The bytes of the entities with these numbers: a request of its own.
    #[must_use]
    pub fn part(&self, part: &Range<usize>) -> &[u8] {
        let start = part.start.checked_sub(1).and_then(|before| self.marks.get(before)).map_or(0, |mark| mark.end);
        let end = part.end.checked_sub(1).and_then(|last| self.marks.get(last)).map_or(0, |mark| mark.end);
        self.body.get(start..end).unwrap_or_default()
    }

    /// Points of the entities with these numbers.
    #[must_use]
    pub fn points(&self, part: &Range<usize>) -> u64 {
        self.marks.get(part.clone()).unwrap_or_default().iter().map(|mark| mark.points as u64).sum()
    }

    /// Cuts the last request into parts of at most `limit` bytes, as far as entities allow.
    #[must_use]
    pub fn parts(&self, limit: usize) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut first, mut begin, mut end) = (0, 0, 0);
        for (index, mark) in self.marks.iter().enumerate() {
            if mark.end - begin > limit && index > first {
                parts.push(first..index);
                (first, begin) = (index, end);
            }
            end = mark.end;
        }
        if first < self.marks.len() {
            parts.push(first..self.marks.len());
        }
        parts
    }

    /// Cuts a part in two of about the same size; none if it is one entity.
    #[must_use]
    pub fn halves(&self, part: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
        if part.len() < 2 {
            return None;
        }
        let bytes = self.part(part).len();
        let begin = self.marks.get(part.end - 1).map_or(0, |mark| mark.end) - bytes;
        let inside = self.marks.get(part.start..part.end - 1)?;
        let middle = inside.partition_point(|mark| mark.end - begin < bytes / 2).min(inside.len() - 1);
        let cut = part.start + middle + 1;
        Some((part.start..cut, cut..part.end))
    }

    /// Ended workloads that still wait for a receiver.
    #[must_use]
    pub fn ended_waiting(&self) -> usize {
        self.book.ended.count()
    }

    /// Ended workloads given up so far.
    #[must_use]
    pub fn ended_dropped(&self) -> u64 {
        self.book.ended.dropped
    }
}
