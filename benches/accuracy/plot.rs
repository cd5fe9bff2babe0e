//! A day of changing load on one machine, drawn: its power, its true idle power, and what the agent has learned of it.
//!
//! The machine is a drawn one, a RAPL package zone, read every 5 s by the real agent. It is never at rest: 4 % of load at
//! night, 45 % in the office hours, two backups, bursts, and 3 % of noise. The SVG is written by hand: one panel, hours
//! across, watts up, the band is one standard deviation as the learner states it.

use std::fmt::Write as _;
use std::path::Path;

use super::curves::{self, Machine};
use super::metered::{Metered, Sensor};
use super::random::Random;
use super::table::Table;

const SECONDS: f64 = 5.0;
const TICKS: u32 = 17_280;
const ZONE: Sensor = Sensor::Rapl("0", "package-0");
/// A point of the plot is the mean of so many ticks: 5 min.
const POINT: u32 = 60;
/// Size of the panel and its place, px.
const PANEL: [f64; 4] = [64.0, 56.0, 840.0, 320.0];

/// One point: hour, W.
struct Point {
    hour: f64,
    power: f64,
    idle: f64,
    error: f64,
}

/// Draws the day into `path`, and puts how far the learned power is off at its end into the table.
pub fn row(table: &mut Table, path: &Path) -> Result<(), String> {
    let mut random = Random::new(77);
    let machines = curves::drawn(&mut Random::new(4));
    let machine = machines.get(random.index(machines.len())).ok_or("no machine")?;
    let points = day(machine, &mut random)?;
    let svg = svg(&points, machine.idle());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    std::fs::write(path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
    let off = |idle: f64| 100.0 * (idle / machine.idle() - 1.0);
    table.part("   a day on one drawn machine, as plotted: idle power, error in %", 1, &[]);
    for hour in [1.0, 8.0, 24.0] {
        let found = points.iter().rev().find(|point| point.hour <= hour).map_or(f64::NAN, |point| point.idle);
        table.shown(&format!("after {hour:.0} h"), off(found), &[]);
    }
    table.note(format!("plot: {}", path.display()));
    Ok(())
}

/// Load at `hour`, without bursts.
fn load(hour: f64) -> f64 {
    let rise = |at: f64, width: f64| 1.0 / (1.0 + (-(hour - at) / width).exp());
    let office = rise(8.0, 0.4) - rise(18.0, 0.7) - 0.15 * (-(hour - 12.5).powi(2) / 0.5).exp();
    let backups = f64::from(u8::from((2.0..2.6).contains(&hour) || (22.0..22.4).contains(&hour)));
    0.04 + 0.41 * office + 0.3 * backups
}

fn day(machine: &Machine, random: &mut Random) -> Result<Vec<Point>, String> {
    const CPUS: u32 = 64;
    let mut metered = Metered::new(CPUS, &[ZONE]);
    let (mut points, mut sum, mut burst) = (Vec::new(), 0.0, 0);
    for tick in 1..=TICKS {
        let hour = f64::from(tick) * SECONDS / 3600.0;
        if burst == 0 && random.chance(120) {
            burst = 2 + random.below(20);
        }
        burst = burst.saturating_sub(1);
        let wanted = load(hour) * (1.0 + 0.15 * random.normal()) + if burst > 0 { 0.2 } else { 0.0 };
        let load = wanted.clamp(0.02, 1.0);
        let watts = machine.power(load) * (1.0 + 0.03 * random.normal());
        metered.step(SECONDS, load * f64::from(CPUS), &[watts]);
        sum += watts;
        if tick % POINT == 0 {
            let (idle, error) = metered.at_rest(ZONE).ok_or("the agent has learned nothing of the day")?;
            points.push(Point { hour, power: sum / f64::from(POINT), idle, error });
            sum = 0.0;
        }
    }
    Ok(points)
}

fn svg(points: &[Point], truth: f64) -> String {
    let highest = points.iter().map(|point| point.power).fold(0.0, f64::max);
    let step = [10.0, 20.0, 25.0, 50.0, 100.0, 200.0].into_iter().find(|step| highest / step <= 8.0).unwrap_or(500.0);
    let top = (highest / step).ceil() * step;
    let [left, above, wide, high] = PANEL;
    let x = |hour: f64| left + wide * hour / 24.0;
    let y = |watts: f64| above + high * (1.0 - watts / top);
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 930 430\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"#333\">\n<rect width=\"930\" height=\"430\" fill=\"#fff\"/>\n",
    );
    axes(&mut text, top, step);
    let line = |value: &dyn Fn(&Point) -> f64| {
        points.iter().fold(String::new(), |mut line, point| {
            let _ = write!(line, "{:.1},{:.1} ", x(point.hour), y(value(point).clamp(0.0, top)));
            line
        })
    };
    let upper = line(&|point| point.idle + point.error);
    let mut lower: Vec<String> =
        line(&|point| point.idle - point.error).split_whitespace().map(str::to_owned).collect();
    lower.reverse();
    let _ = writeln!(text, "<polygon points=\"{upper}{}\" fill=\"#0072b2\" fill-opacity=\".2\"/>", lower.join(" "));
    let mut polyline = |points: &str, style: &str| {
        let _ = writeln!(text, "<polyline points=\"{points}\" fill=\"none\" {style}/>");
    };
    polyline(&line(&|point| point.power), "stroke=\"#999\" stroke-width=\"1\"");
    polyline(&line(&|point| point.idle), "stroke=\"#0072b2\" stroke-width=\"2\"");
    let level = format!("{:.1},{:.1} {:.1},{:.1}", x(0.0), y(truth), x(24.0), y(truth));
    polyline(&level, "stroke=\"#d55e00\" stroke-width=\"2\" stroke-dasharray=\"7 4\"");
    legend(&mut text, truth);
    text.push_str("</svg>\n");
    text
}

fn axes(text: &mut String, top: f64, step: f64) {
    let [left, above, wide, high] = PANEL;
    let (bottom, right) = (above + high, left + wide);
    for line in 0..=(top / step) as u32 {
        let watts = f64::from(line) * step;
        let y = bottom - high * watts / top;
        let _ = writeln!(text, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#e5e5e5\"/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{watts:.0}</text>", left - 8.0, y + 4.0);
    }
    for hour in (0..=24_u32).step_by(3) {
        let x = left + wide * f64::from(hour) / 24.0;
        let _ = writeln!(text, "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#333\"/>");
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{hour}</text>", bottom + 20.0);
    }
    let _ = writeln!(text, "<path d=\"M{left} {above}V{bottom}H{right}\" fill=\"none\" stroke=\"#333\"/>");
    let middle = left + wide / 2.0;
    let _ = writeln!(text, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">time of day, h</text>", bottom + 42.0);
    let y = above + high / 2.0;
    let _ = writeln!(text, "<text transform=\"translate(18 {y}) rotate(-90)\" text-anchor=\"middle\">power, W</text>");
}

fn legend(text: &mut String, truth: f64) {
    let _ = writeln!(
        text,
        "<text x=\"64\" y=\"22\" font-size=\"15\">Power at rest, learned on a day on which the machine never rests</text>"
    );
    let entries = [
        ("#999", "power, mean of 5 min".to_owned()),
        ("#0072b2", "learned idle ± one standard deviation".to_owned()),
        ("#d55e00", format!("true idle, {truth:.0} W")),
    ];
    for ((color, words), x) in entries.iter().zip([64, 250, 540]) {
        let dashes = if x == 540 { " stroke-dasharray=\"7 4\"" } else { "" };
        let _ = writeln!(text, "<path d=\"M{x} 40h24\" stroke=\"{color}\" stroke-width=\"3\"{dashes}/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"44\">{words}</text>", x + 32);
    }
}
