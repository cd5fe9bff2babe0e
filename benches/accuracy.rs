//! How right the books are: `make accuracy`.
//!
//! Every figure is computed in the run that prints it, from seeded chance and, where it is there, the data in
//! `../shared/data` (or `$WATTRIBUTE_SHARED/data`); beside each stands what other rules give on the same samples. The
//! exit code is 1 when a figure is worse than its bound, and 2 when the bench itself is not in order. A is the idle
//! learner on power curves of servers, B a real machine, C the active energy, D a simulated node with processes, E the
//! gap in the books, F node power without a meter, G the highest watts. A word on the command line is where the plot goes.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::panic, missing_docs)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures for people

use std::path::PathBuf;
use std::process::ExitCode;

/// The parts of the bench.
mod accuracy {
    pub mod curves;
    pub mod estimator;
    pub mod learner;
    pub mod ledger;
    pub mod life;
    pub mod metered;
    pub mod model;
    pub mod node;
    pub mod plot;
    pub mod random;
    pub mod rules;
    pub mod shares;
    pub mod table;
    pub mod trace;
}

use accuracy::table::Table;
use accuracy::{curves, learner, ledger, model, plot, shares, trace};

fn main() -> ExitCode {
    match run() {
        Ok(table) => {
            print!("{}", table.text());
            ExitCode::from(u8::from(table.counts().failed > 0))
        }
        Err(why) => {
            eprintln!("the bench is not in order: {why}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<Table, String> {
    Table::self_test()?;
    let text = published_text()?;
    let published = text.as_deref().map(curves::published).transpose()?;
    let mut table = Table::default();
    learner::rows(&mut table, published.as_deref())?;
    trace::rows(&mut table)?;
    shares::rows(&mut table)?;
    ledger::rows(&mut table)?;
    model::rows(&mut table, text.as_deref())?;
    plot::row(&mut table, &plot_path())?;
    Ok(table)
}

/// The file of published curves, where the user has one: it may not be passed on.
fn published_text() -> Result<Option<String>, String> {
    let Some(path) = std::env::var_os("WATTRIBUTE_CURVES").map(PathBuf::from) else { return Ok(None) };
    std::fs::read_to_string(&path).map(Some).map_err(|error| format!("{}: {error}", path.display()))
}

/// Where the plot goes: what the command line says, else below the target directory.
fn plot_path() -> PathBuf {
    let told = std::env::args().skip(1).find(|word| !word.starts_with("--")).map(PathBuf::from);
    told.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        target.join("accuracy/idle-day.svg")
    })
}
