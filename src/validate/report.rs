//! A comparison as text for people and as one JSON object, version 1: every key of it names its unit.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::validate::figures::Figures;
use crate::validate::lag::{ALIKE, Lag};
use crate::validate::plot::plot;
use crate::validate::truth::Refused;
use crate::validate::{Report, View};

/// The version of the JSON object.
const VERSION: u32 = 1;

/// For people.
#[must_use]
pub fn text(report: &Report) -> String {
    let comparison = &report.comparison;
    let best = comparison.best();
    let mut text = String::new();
    let _ = writeln!(text, "books      Σ {} over {:.1} s", listed(&report.zones), report.duration);
    let _ = writeln!(text, "reference  {}", report.reference);
    let _ = writeln!(text, "identity   {}", identity(report));
    let _ = writeln!(text, "coverage   {}", coverage(report));
    let _ = writeln!(text, "lag        {}", lag(&comparison.lag));
    let _ = writeln!(text, "\n{}\n", plot(&best.pairs, comparison.step));
    let columns = ["", "as recorded", if comparison.aligned.is_some() { "lag removed" } else { "" }];
    let _ = writeln!(text, "{}", row(columns[0], columns[1], columns[2]));
    let aligned = comparison.aligned.as_ref();
    for (name, raw, lagless) in rows(&comparison.raw, aligned) {
        let _ = writeln!(text, "{}", row(name, &raw, &lagless));
    }
    let _ = write!(text, "\nattribution gap  {}", gap(&best.figures));
    if let Some(fit) = fit(&best.figures) {
        let _ = write!(text, "\nfit              {fit}");
    }
    for line in refused(&report.refused) {
        let _ = write!(text, "\n{line}");
    }
    for note in &report.notes {
        let _ = write!(text, "\nnote: {note}");
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn row(name: &str, raw: &str, aligned: &str) -> String {
    format!("{name:<14}{raw:>26}{aligned:>26}").trim_end().to_owned()
}

/// The figures by name: as recorded, and with the lag removed.
pub(crate) fn rows(raw: &View, aligned: Option<&View>) -> Vec<(&'static str, String, String)> {
    type Shown = fn(&Figures) -> String;
    let list: [(&str, Shown); 9] = [
        ("samples", |figures| figures.samples.to_string()),
        ("books", |figures| watts(figures.books)),
        ("reference", |figures| watts(figures.reference)),
        ("MAE", |figures| watts(figures.mae)),
        ("RMSE", |figures| watts(figures.rmse)),
        ("MAPE", |figures| percent(figures.mape)),
        ("bias", |figures| format!("{} ({})", watts(figures.bias()), percent(figures.bias_percent()))),
        ("correlation", |figures| figures.correlation.map_or_else(|| "–".into(), |value| format!("{value:.4}"))),
        ("worst sample", |figures| {
            let worst = figures.worst;
            format!("{:.1}/{:.1} W at {:.1} s", worst.books, worst.reference, worst.at)
        }),
    ];
    let shown = |show: Shown| aligned.map_or_else(String::new, |view| show(&view.figures));
    list.into_iter().map(|(name, show)| (name, show(&raw.figures), shown(show))).collect()
}

fn listed(zones: &[String]) -> String {
    match zones {
        [one, two, three, rest @ ..] if !rest.is_empty() => format!("{one}, {two}, {three} and {} more", rest.len()),
        _ => zones.join(", "),
    }
}

/// That what was measured is what was booked.
pub(crate) fn identity(report: &Report) -> String {
    let identity = &report.identity;
    let joules = |uj: u64| crate::unit::Microjoules(uj).joules();
    format!(
        "measured {:.3} J = idle {:.3} + attributed {:.3} + unattributed {:.3}; difference {} µJ",
        joules(identity.measured),
        joules(identity.idle),
        joules(identity.attributed),
        joules(identity.unattributed),
        identity.difference()
    )
}

/// How much of the run both sides know.
pub(crate) fn coverage(report: &Report) -> String {
    let (samples, step) = (report.comparison.best().figures.samples, report.comparison.step);
    format!("{:.1} % of the run has both, in {samples} cells of {step:.1} s", 100.0 * report.coverage())
}

/// The lag in words.
pub(crate) fn lag(lag: &Lag) -> String {
    match lag {
        Lag::Unknown(why) => format!("unknown: {why}"),
        Lag::Known { seconds, correlation, removed } => {
            let what = match *seconds {
                seconds if seconds.abs() < 0.05 => "the reference is on time".to_owned(),
                seconds if seconds > 0.0 => format!("the reference is {seconds:.1} s late"),
                seconds => format!("the reference is {:.1} s early", -seconds),
            };
            let is_late = seconds.abs() >= 0.05;
            let done = if *removed || !is_late { "" } else { "; not removed, since it changes too little" };
            format!("{what} (correlation {correlation:.4} there{done})")
        }
    }
}

/// What the reference has and the books have not.
pub(crate) fn gap(figures: &Figures) -> String {
    let bias = figures.bias();
    let percent = percent(figures.bias_percent().map(f64::abs));
    let which = if bias > 0.0 { "more in the books than in the reference" } else { "not in the books" };
    format!("{} ({percent} of the reference) {which}", watts(bias.abs()))
}

/// The line from the books to the reference in words.
pub(crate) fn fit(figures: &Figures) -> Option<String> {
    // A line through a cloud says nothing.
    let fit = figures.fit.filter(|_| figures.correlation.is_some_and(|value| value >= ALIKE))?;
    let sign = if fit.offset < 0.0 { '−' } else { '+' };
    let offset = watts(fit.offset.abs());
    Some(format!("reference ≈ {:.4} × books {sign} {offset}, off by {} RMS", fit.scale, watts(fit.rmse)))
}

/// What was refused, one line each.
pub(crate) fn refused(refused: &Refused) -> Vec<String> {
    let mut lines: Vec<String> =
        refused.first.iter().map(|one| format!("refused: {}: {}", one.place, one.why)).collect();
    if refused.count > lines.len() {
        lines.push(format!("refused: {} more, {} in all", refused.count - lines.len(), refused.count));
    }
    lines
}

fn watts(watts: f64) -> String {
    // −0.000 is 0.
    format!("{:.3} W", if watts.abs() < 5e-4 { 0.0 } else { watts })
}

fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(|| "–".into(), |value| format!("{:.2} %", if value.abs() < 5e-3 { 0.0 } else { value }))
}

/// For programs.
#[must_use]
pub fn json(report: &Report) -> Value {
    let identity = &report.identity;
    let comparison = &report.comparison;
    let (known, lag) = match &comparison.lag {
        Lag::Unknown(why) => (false, json!({"known": false, "reason": why})),
        Lag::Known { seconds, correlation, removed } => {
            (true, json!({"known": true, "lag_s": seconds, "correlation_ratio": correlation, "removed": removed}))
        }
    };
    debug_assert!(known || comparison.aligned.is_none(), "what is not known is not removed");
    let first: Vec<Value> =
        report.refused.first.iter().map(|one| json!({"place": one.place, "reason": one.why})).collect();
    json!({
        "version": VERSION,
        "type": "validation",
        "reference": report.reference,
        "reference_kind": if report.is_zone { "zone" } else { "file" },
        "start_unix_s": report.start,
        "duration_s": report.duration,
        "step_s": comparison.step,
        "coverage_ratio": report.coverage(),
        "zones": report.zones,
        "identity": {
            "measured_uj": identity.measured,
            "idle_uj": identity.idle,
            "attributed_uj": identity.attributed,
            "unattributed_uj": identity.unattributed,
            "difference_uj": i64::try_from(identity.difference()).unwrap_or(i64::MAX),
        },
        "lag": lag,
        "raw": figures(&comparison.raw.figures),
        "aligned": comparison.aligned.as_ref().map(|view| figures(&view.figures)),
        "refused": {"count": report.refused.count, "first": first},
        "notes": report.notes,
    })
}

fn figures(figures: &Figures) -> Value {
    json!({
        "samples": figures.samples,
        "books_mean_w": figures.books,
        "reference_mean_w": figures.reference,
        "mae_w": figures.mae,
        "rmse_w": figures.rmse,
        "mape_percent": figures.mape,
        "bias_w": figures.bias(),
        "bias_percent": figures.bias_percent(),
        "gap_w": -figures.bias(),
        "gap_percent": figures.bias_percent().map(|bias| -bias),
        "correlation_ratio": figures.correlation,
        "worst": {
            "time_s": figures.worst.at, "books_w": figures.worst.books, "reference_w": figures.worst.reference,
        },
        "fit": figures.fit.map(|fit| {
            json!({"scale_ratio": fit.scale, "offset_w": fit.offset, "rmse_w": fit.rmse})
        }),
    })
}
