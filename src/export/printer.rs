//! The thread behind standard output: JSON lines, the live table, or plain tables where it is no terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use crate::clock::Timestamp;
use crate::config::StdoutFormat;
use crate::export::json::Report;
use crate::export::stdout::{Table, Window};
use crate::export::{Snapshot, Subscription};
use crate::telemetry;

/// Time between two tables where they cannot be redrawn in place.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Their size.
const PLAIN: Window = Window { width: 200, height: 23, redraw: false };

/// Writes snapshots to standard output.
pub struct Printer {
    format: StdoutFormat,
    start: Timestamp,
}

impl Printer {
    /// A printer for an agent whose baseline is at `start`.
    #[must_use]
    pub fn new(format: StdoutFormat, start: Timestamp) -> Self {
        Self { format, start }
    }

    /// Prints until the agent is gone, or until nobody reads any more; then it only keeps up with the agent.
    pub fn run(self, snapshots: &Receiver<Arc<Snapshot>>, reader: &Subscription) {
        let mut report = Report::default();
        let mut table = Table::default();
        let mut broken = false;
        let mut printed = self.start.boot;
        let mut first = true;
        while let Ok(snapshot) = snapshots.recv() {
            let mut drawn = telemetry::screen();
            table.set_drawn(*drawn);
            let text = match self.format {
                StdoutFormat::Json => report.tick(&snapshot).map(|line| line + "\n"),
                StdoutFormat::Table => match window() {
                    Some(window) => Some(table.render(&snapshot, window)),
                    None if first || snapshot.at.boot.saturating_sub(printed) >= PLAIN_EVERY => {
                        printed = snapshot.at.boot;
                        Some(table.render(&snapshot, PLAIN))
                    }
                    None => None,
                },
            };
            first = false;
            reader.saw(snapshot.tick);
            drop(snapshot);
            broken = broken || text.is_some_and(|text| write(&text).is_err());
            *drawn = if window().is_some() { table.drawn() } else { 0 };
        }
        if matches!(self.format, StdoutFormat::Json) && !broken {
            let _ = write(&(report.total(self.start) + "\n"));
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The size of the terminal, if it is one.
fn window() -> Option<Window> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(&out).ok()?;
    let (width, height) = (usize::from(size.ws_col), usize::from(size.ws_row));
    // A terminal that does not tell its size says 0.
    Some(Window {
        width: if width == 0 { 80 } else { width },
        height: if height == 0 { 24 } else { height },
        redraw: true,
    })
}
