//! Rows A and C: what the idle learner makes of machines whose curve is known, beside other rules.
//!
//! Each machine runs 240 intervals of 5 s at loads drawn from one window, never at rest, with 3 % of noise on its power.
//! A is the mean over machines of |found − true| / true of the power at rest; C is that of the energy above rest,
//! Σ(P − idle), which is what workloads are charged. Three draws of all machines are taken together.

use std::hint::black_box;
use std::time::Duration;

use wattribute::attribute::learner::{Learner, Prior};
use wattribute::clock;
use wattribute::meter::Domain;
use wattribute::meter::processor::{Generation, unknown};

use super::curves::{self, Figures, Machine};
use super::random::Random;
use super::rules::Samples;
use super::table::Table;

/// Lowest and highest load, the most that idle and active energy may be off, in %.
const WINDOWS: [(f64, f64, f64, Option<f64>); 4] = [
    (0.02, 0.3, 12.0, Some(12.0)),
    (0.05, 0.4, 16.0, Some(15.0)),
    (0.2, 0.7, 17.0, Some(12.0)),
    (0.3, 0.36, 18.0, None),
];
const INTERVALS: u64 = 240;
const NOISE: f64 = 0.03;
const DRAWS: u64 = 3;

/// Mean errors in one window, in %.
#[derive(Default)]
struct Errors {
    machines: f64,
    known: [f64; 2],
    left_out: [f64; 2],
    unknown: [f64; 2],
    ratio: [f64; 2],
    intercept: [f64; 2],
    minimum: [f64; 2],
    none: [f64; 2],
}

/// All rows on drawn machines, and on published ones where there is a file of them.
pub fn rows(table: &mut Table, published: Option<&[Machine]>) -> Result<(), String> {
    let machines: Vec<Machine> = (1..=DRAWS).flat_map(|seed| curves::drawn(&mut Random::new(seed))).collect();
    let found = WINDOWS.map(|window| errors(&machines, window, 11));
    // A bound that the rule which it is there to keep away would meet is none.
    for ((low, high, bound, active), found) in WINDOWS.iter().zip(&found) {
        if found.ratio[0] <= *bound || active.is_some_and(|bound| found.ratio[1] <= bound) {
            return Err(format!("at load {low}–{high} the ratio rule meets a bound: {:?} %", found.ratio));
        }
    }
    both(table, &format!("{} drawn curves", machines.len()), &found, true);
    match published {
        None => {
            table.part("   the same on published curves", 1, &[]);
            table.skipped("idle and active energy", "WATTRIBUTE_CURVES names no file");
        }
        Some(machines) => {
            let found = WINDOWS.map(|window| errors(machines, window, 12));
            both(table, &format!("{} published curves", machines.len()), &found, false);
        }
    }
    cost(table);
    Ok(())
}

/// The rows of A and C. Nobody's processor is left out of drawn figures: no drawn machine is part of them.
fn both(table: &mut Table, what: &str, found: &[Errors; 4], is_drawn: bool) {
    table.part(&format!("A  idle power on {what}, error in %"), 1, &["ratio", "intercept", "minimum"]);
    for ((low, high, bound, _), e) in WINDOWS.iter().zip(found) {
        let load = format!("load {low}–{high}");
        table.bounded(
            &format!("{load}, generation known"),
            e.known[0],
            *bound,
            &[e.ratio[0], e.intercept[0], e.minimum[0]],
        );
        if !is_drawn {
            table.bounded(&format!("{load}, own processor left out of it"), e.left_out[0], *bound, &[]);
        }
        table.shown(&format!("{load}, generation unknown"), e.unknown[0], &[]);
    }
    table.part(&format!("C  active energy on {what}, error in %"), 1, &["ratio", "intercept", "all active"]);
    for ((low, high, _, bound), e) in WINDOWS.iter().zip(found) {
        let Some(bound) = bound else { continue };
        let load = format!("load {low}–{high}");
        table.bounded(
            &format!("{load}, generation known"),
            e.known[1],
            *bound,
            &[e.ratio[1], e.intercept[1], e.none[1]],
        );
        if !is_drawn {
            table.bounded(&format!("{load}, own processor left out of it"), e.left_out[1], *bound, &[]);
        }
        table.shown(&format!("{load}, generation unknown"), e.unknown[1], &[]);
    }
}

fn errors(machines: &[Machine], (low, high, ..): (f64, f64, f64, Option<f64>), seed: u64) -> Errors {
    let mut random = Random::new(seed);
    let mut errors = Errors { machines: machines.len() as f64, ..Errors::default() };
    for machine in machines {
        let (mut samples, mut learner) = (Samples::default(), Learner::default());
        for n in 0..INTERVALS {
            let load = random.between(low, high);
            let watts = machine.power(load) * (1.0 + NOISE * random.normal());
            samples.push(load, watts);
            learner.observe(Duration::from_secs(5 * n), load, watts);
        }
        let now = Duration::from_secs(5 * INTERVALS);
        let idle = |figures: Option<Figures>| {
            let kin = figures.map(|(idle_over_max, shape)| Generation { idle_over_max, shape, ..*unknown() });
            let prior = Prior::of(Domain::Host, kin.as_ref());
            learner.estimate(now, &prior).map_or(f64::NAN, |found| found.watts)
        };
        let share = errors.machines;
        let add = |sums: &mut [f64; 2], idle: f64| {
            let off = 100.0 * (idle - machine.idle()).abs() / share;
            sums[0] += off / machine.idle();
            sums[1] += off / (samples.watts() - machine.idle());
        };
        add(&mut errors.known, idle(machine.known));
        add(&mut errors.left_out, idle(machine.left_out));
        add(&mut errors.unknown, idle(None));
        add(&mut errors.ratio, samples.ratio());
        add(&mut errors.intercept, samples.intercept());
        add(&mut errors.minimum, samples.minimum());
        add(&mut errors.none, 0.0);
    }
    errors
}

/// What the learner of one zone costs. The time is shown only: it depends on what else runs here.
fn cost(table: &mut Table) {
    const CALLS: u32 = 100_000;
    let (mut learner, mut random) = (Learner::default(), Random::new(5));
    let prior = Prior::of(Domain::Package, None);
    let start = clock::now().boot;
    for n in 0..CALLS {
        let (now, load) = (Duration::from_secs(n.into()), random.between(0.02, 1.0));
        learner.observe(now, load, 50.0 + 100.0 * load);
        black_box(learner.estimate(now, &prior));
    }
    let micros = clock::now().boot.saturating_sub(start).as_secs_f64() * 1e6 / f64::from(CALLS);
    table.part("   what the learner costs, per zone", 2, &[]);
    table.bounded("memory, kB", size_of::<Learner>() as f64 / 1000.0, 2.0, &[]);
    table.shown("time per tick over 10⁵ ticks, µs (to reach: 5)", micros, &[]);
}
