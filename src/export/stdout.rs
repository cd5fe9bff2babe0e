//! The terminal: a table of the workloads that draw most, redrawn in place; plain lines where it is no terminal.
//!
//! Watts are the mean over the last interval, joules the total since the agent's baseline, both summed over the
//! primary zones. A workload's figures include its children's, so the column does not add up: the first line does.

use std::fmt::Write as _;
use std::time::Duration;

use crate::export::{Snapshot, Workload};
use crate::meter::{Quality, Role, State};
use crate::unit::Microjoules;
use crate::workload::WorkloadId;

/// The table as it goes on.
#[derive(Debug, Default)]
pub struct Table {
    before: Vec<(u64, u64)>,
    ranking: Vec<Entry>,
    drawn: usize,
}

/// How much room there is.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Columns.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// Whether the table may be redrawn in place.
    pub redraw: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    row: usize,
    watts: f64,
    joules: f64,
}

impl Table {
    /// How many lines of it stand on the terminal.
    #[must_use]
    pub fn drawn(&self) -> usize {
        self.drawn
    }

    /// Something else was written: how many lines still stand right above the cursor.
    pub fn set_drawn(&mut self, lines: usize) {
        self.drawn = lines;
    }

    /// The next state of the table, as text to be written as it is.
    pub fn render(&mut self, snapshot: &Snapshot, window: Window) -> String {
        self.rank(snapshot);
        let mut text = String::new();
        if window.redraw && self.drawn > 0 {
            // Up to the first line of the last table, and clear from there on.
            let _ = write!(text, "\x1b[{}A\r\x1b[J", self.drawn);
        }
        let mut lines = vec![headline(snapshot), format!("{:>10} {:>12}  {:<9} {}", "WATTS", "JOULES", "KIND", "NAME")];
        let rows = window.height.saturating_sub(lines.len() + 1).max(1);
        for entry in self.ranking.iter().take(rows) {
            let Some(workload) = snapshot.workloads.get(entry.row).and_then(Option::as_ref) else { continue };
            let kind = workload.identity.id.kind().as_str();
            let name = shown_name(snapshot, workload);
            lines.push(format!("{:>10.3} {:>12.3}  {kind:<9} {name}", entry.watts, entry.joules));
        }
        self.drawn = lines.len();
        for line in lines {
            let _ = writeln!(text, "{}", cut(&line, window.width));
        }
        text
    }

    fn rank(&mut self, snapshot: &Snapshot) {
        self.before.resize(snapshot.workloads.len(), (0, 0));
        self.ranking.clear();
        for (row, workload) in snapshot.rows() {
            let total = energy_of(snapshot, row);
            let known = &mut self.before[row];
            let before = if known.0 == workload.serial { known.1 } else { 0 };
            *known = (workload.serial, total.0);
            if workload.identity.id == WorkloadId::Node || total == Microjoules::ZERO {
                continue;
            }
            let watts = Microjoules(total.0 - before).watts_over(snapshot.interval);
            self.ranking.push(Entry { row, watts, joules: total.joules() });
        }
        self.ranking
            .sort_by(|a, b| b.watts.total_cmp(&a.watts).then(b.joules.total_cmp(&a.joules)).then(a.row.cmp(&b.row)));
    }
}

/// The books at the end: every workload with energy, most first, at most `rows` of them.
#[must_use]
pub fn summary(snapshot: &Snapshot, rows: usize) -> String {
    let time = snapshot.at.boot.saturating_sub(snapshot.baseline.boot);
    let mut table = Table::default();
    table.rank(snapshot);
    table.ranking.sort_by(|a, b| b.joules.total_cmp(&a.joules).then(a.row.cmp(&b.row)));
    let mut text = format!("{}\n{:>10} {:>12}  {:<9} NAME\n", totals(snapshot, time), "WATTS", "JOULES", "KIND");
    for entry in table.ranking.iter().take(rows) {
        let Some(workload) = snapshot.workloads.get(entry.row).and_then(Option::as_ref) else { continue };
        let watts = entry.joules / time.as_secs_f64().max(f64::MIN_POSITIVE);
        let kind = workload.identity.id.kind().as_str();
        let _ = writeln!(text, "{watts:>10.3} {:>12.3}  {kind:<9} {}", entry.joules, shown_name(snapshot, workload));
    }
    if table.ranking.len() > rows {
        let _ = writeln!(text, "… and {} more; --json lists all", table.ranking.len() - rows);
    }
    text.pop();
    text
}

/// Energy of a workload over all primary zones.
fn energy_of(snapshot: &Snapshot, row: usize) -> Microjoules {
    (0..snapshot.zones.len()).map(|zone| snapshot.active_of(row, zone)).sum()
}

/// Watts of the last interval.
fn headline(snapshot: &Snapshot) -> String {
    let sum = |part: fn(&crate::export::ZoneBook) -> Microjoules| -> f64 {
        snapshot
            .zones
            .iter()
            .filter(|book| book.measured.is_some())
            .map(|book| part(book).watts_over(book.covers))
            .sum()
    };
    let (idle, active, lost) = (sum(|book| book.idle), sum(|book| book.attributed), sum(|book| book.unattributed));
    format!(
        "{}{:.3} W = idle {idle:.3} + attributed {active:.3} + unattributed {lost:.3}{}",
        estimated(snapshot),
        idle + active + lost,
        meters(snapshot)
    )
}

/// Joules since the baseline.
fn totals(snapshot: &Snapshot, time: Duration) -> String {
    let sum = |part: fn(&crate::export::Totals) -> Microjoules| -> f64 {
        // Also of those that were primary for a while.
        snapshot.zones.iter().map(|book| part(&book.total)).sum::<Microjoules>().joules()
    };
    format!(
        "{}{:.3} J in {:.1} s = idle {:.3} + attributed {:.3} + unattributed {:.3}{}",
        estimated(snapshot),
        sum(|total| total.idle + total.attributed + total.unattributed),
        time.as_secs_f64(),
        sum(|total| total.idle),
        sum(|total| total.attributed),
        sum(|total| total.unattributed),
        meters(snapshot)
    )
}

fn estimated(snapshot: &Snapshot) -> &'static str {
    let primary = |quality| {
        snapshot
            .zones
            .iter()
            .any(|book| book.zone.role == Role::Primary && book.zone.quality == quality && book.state != State::Gone)
    };
    if primary(Quality::Estimated) { "estimated: " } else { "" }
}

/// The zones that have no reading now, so that a low sum is not taken for a low power.
fn meters(snapshot: &Snapshot) -> String {
    let missing: Vec<String> = snapshot
        .zones
        .iter()
        .filter(|book| {
            book.zone.role == Role::Primary && book.zone.quality == Quality::Measured && book.measured.is_none()
        })
        .map(|book| printable(&format!("{} {}", book.zone.id, book.state.as_str())))
        .collect();
    if missing.is_empty() { String::new() } else { format!("  [{}]", missing.join(", ")) }
}

/// A name that tells two workloads apart: a process with its pid and where it runs.
fn shown_name(snapshot: &Snapshot, workload: &Workload) -> String {
    let name = &workload.identity.name;
    let shown = match &workload.identity.id {
        WorkloadId::Process { pid, .. } => {
            let parent = snapshot.workloads.get(workload.parent).and_then(Option::as_ref);
            let place = parent.filter(|parent| parent.identity.id != WorkloadId::Node);
            place.map_or_else(
                || format!("{name} [{pid}]"),
                |parent| format!("{name} [{pid}] in {}", parent.identity.name),
            )
        }
        WorkloadId::Named(_, text) if !text.ends_with(name.as_str()) && !text.starts_with(name.as_str()) => {
            format!("{name} ({text})")
        }
        WorkloadId::Named(crate::workload::Kind::Slice, path) => path.to_string(),
        _ => name.clone(),
    };
    printable(&shown)
}

/// The name of a VM and the path of a cgroup are what their owner chose: no terminal sees their escapes.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The first `width` characters.
fn cut(line: &str, width: usize) -> &str {
    line.char_indices().nth(width).map_or(line, |(end, _)| &line[..end])
}
