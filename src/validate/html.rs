//! A comparison as one page: both curves as inline SVG, the figures, and what was refused. Nothing is loaded from
//! elsewhere and nothing runs, so the page can be kept and mailed; it is readable on light and on dark. Every text of
//! the machine or of a file is escaped.

use std::fmt::Write as _;

use crate::validate::plot::{scale, watt};
use crate::validate::report;
use crate::validate::series::{Pair, float};
use crate::validate::{Report, View};

/// The size of a chart, and the room for its labels, in units of the drawing.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const BELOW: f64 = 28.0;
/// The most points of a curve: beyond it neighbours become their mean.
const POINTS: usize = 1_200;
/// Lines of the grid.
const LINES: usize = 4;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#8b949e;--books:#0b62c4;--wall:#c2410c}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--soft:#7d8590;--books:#58a6ff;--wall:#ff9657}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:62rem;margin:2rem auto;\
padding:0 1rem}svg{width:100%;height:auto}text{font-size:12px;fill:var(--soft)}line{stroke:var(--soft);opacity:.35}\
polyline{fill:none;stroke-width:1.5}.books{stroke:var(--books);color:var(--books)}\
.wall{stroke:var(--wall);color:var(--wall)}table{border-collapse:collapse}\
td,th{padding:.15rem .9rem .15rem 0;text-align:right;font-variant-numeric:tabular-nums}\
td:first-child,th:first-child{text-align:left}li{overflow-wrap:anywhere}";

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let comparison = &report.comparison;
    let mut html = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
    let title = escape(&format!("The books and {}", report.reference));
    let _ = writeln!(html, "<title>{title}</title>\n<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<ul>");
    let facts = [
        format!("Books: Σ {} over {:.1} s", report.zones.join(", "), report.duration),
        format!("Identity: {}", report::identity(report)),
        format!("Coverage: {}", report::coverage(report)),
        format!("Lag: {}", report::lag(&comparison.lag)),
        format!("Attribution gap: {}", report::gap(&comparison.best().figures)),
    ];
    let fit = report::fit(&comparison.best().figures).map(|fit| format!("Fit: {fit}"));
    list(&mut html, facts.into_iter().chain(fit));
    let _ = writeln!(
        html,
        "</ul>\n<p><span class=\"books\">━ books</span> &nbsp; <span class=\"wall\">━ reference</span></p>"
    );
    chart(&mut html, "As recorded", &comparison.raw, comparison.step);
    if let Some(aligned) = &comparison.aligned {
        chart(&mut html, "Lag removed", aligned, comparison.step);
    }
    html.push_str("<h2>Figures</h2>\n<table><tr><th></th><th>as recorded</th><th>");
    html.push_str(if comparison.aligned.is_some() { "lag removed</th></tr>\n" } else { "</th></tr>\n" });
    for (name, raw, aligned) in report::rows(&comparison.raw, comparison.aligned.as_ref()) {
        let (raw, aligned) = (escape(&raw), escape(&aligned));
        let _ = writeln!(html, "<tr><td>{name}</td><td>{raw}</td><td>{aligned}</td></tr>");
    }
    html.push_str("</table>\n");
    if report.refused.count > 0 {
        let _ = writeln!(html, "<h2>Refused samples: {}</h2>\n<ul>", report.refused.count);
        list(&mut html, report::refused(&report.refused).into_iter());
        html.push_str("</ul>\n");
    }
    if !report.notes.is_empty() {
        html.push_str("<h2>Notes</h2>\n<ul>\n");
        list(&mut html, report.notes.iter().cloned());
        html.push_str("</ul>\n");
    }
    html.push_str("</body></html>\n");
    html
}

fn list(html: &mut String, items: impl Iterator<Item = String>) {
    for item in items {
        let _ = writeln!(html, "<li>{}</li>", escape(&item));
    }
}

fn chart(html: &mut String, title: &str, view: &View, step: f64) {
    let (Some(first), Some(last)) = (view.pairs.first(), view.pairs.last()) else { return };
    let (from, to) = (first.at - step, last.at);
    let (bottom, top) = scale(&view.pairs);
    let x = |at: f64| LEFT + (WIDTH - LEFT) * (at - from) / (to - from);
    let y = |watts: f64| 8.0 + (HEIGHT - BELOW - 8.0) * (top - watts) / (top - bottom);
    let _ =
        writeln!(html, "<h2>{title}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
    for index in 0..=LINES {
        let part = float(index) / float(LINES);
        let (watts, at) = (bottom + part * (top - bottom), from + part * (to - from));
        let (height, label) = (y(watts), watt(watts, top - bottom));
        let _ = writeln!(
            html,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{height:.1}\" y2=\"{height:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label} W</text>",
            LEFT - 6.0,
            height + 4.0
        );
        let anchor = if index == 0 {
            "start"
        } else if index == LINES {
            "end"
        } else {
            "middle"
        };
        let _ = writeln!(
            html,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{at:.0} s</text>",
            x(at),
            HEIGHT - 8.0
        );
    }
    let width = step * float(view.pairs.len().div_ceil(POINTS).max(1));
    for (class, of) in [("wall", (|pair| pair.reference) as fn(&Pair) -> f64), ("books", |pair| pair.books)] {
        for run in runs(&view.pairs, width, of) {
            let points: Vec<String> = run.iter().map(|(at, watts)| format!("{:.1},{:.1}", x(*at), y(*watts))).collect();
            let _ = writeln!(html, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        }
    }
    html.push_str("</svg>\n");
}

/// A curve as points of at most so many seconds each, broken where cells are missing.
fn runs(pairs: &[Pair], width: f64, of: fn(&Pair) -> f64) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut rest = pairs;
    let mut before = f64::NEG_INFINITY;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|pair| pair.at - first.at < width - 1e-6).count().max(1);
        let (head, tail) = rest.split_at(count);
        let watts = head.iter().map(of).sum::<f64>() / float(count);
        if first.at - before > 1.5 * width {
            runs.push(Vec::new());
        }
        if let Some(run) = runs.last_mut() {
            run.push((first.at, watts));
        }
        before = first.at;
        rest = tail;
    }
    runs
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
