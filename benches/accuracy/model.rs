//! Row F: watts of whole machines where nothing measures, by the form of the estimator's model.
//!
//! `P = TDP · chips · exp(b + Σ wᵢ·zᵢ + g[generation])` at rest and at full load, with the generation's shape between them.
//! It is fitted here, with a ridge and to the least absolute errors, to the published machines since 2012 without those that it is judged by (all
//! with the same processor, or of the same generation), so that no machine judges what it has taught. A guest knows
//! neither the memory nor the chips of its host: it takes the usual memory and two chips. Needs `WATTRIBUTE_CURVES`
//! with the columns that describe the machines; the figures that are built into the estimator come from the same form
//! (`tools/fit_node_model.py`). Beside it stands the median of watts per thread of the generation.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::curves::{fields, key_of, level, median};
use super::estimator;
use super::table::Table;

const FIT_SINCE: f64 = 2012.0;
const JUDGE_SINCE: f64 = 2017.0;
const FEATURES: usize = 7;
/// Pseudo-machines that say "no effect" of each weight, and "as the others" of each generation.
const RIDGE: [f64; 2] = [1.0, 2.0];
/// Rounds of a fit, and by how much a machine is missed at least.
const ROUNDS: usize = 6;
const MISSED_MIN: f64 = 0.15;
/// A generation with fewer machines has the shape of all.
const CURVES_MIN: usize = 5;
/// What is estimated, and how far it may be off on the mean over machines and loads, in %.
const ROWS: [(&str, f64); 3] = [("all inputs", 13.0), ("what a guest sees", 14.0), ("an unseen generation", 19.0)];

/// A published machine.
pub struct Machine {
    /// The processor, without spaces and as it is written.
    cpu: String,
    pub name: String,
    pub generation: String,
    pub chips: f64,
    pub cores: f64,
    pub threads: f64,
    pub mhz: f64,
    tdp: f64,
    /// GiB.
    pub memory: f64,
    year: f64,
    watts: [f64; 11],
}

/// What is to be estimated with what.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    All,
    Guest,
    NoGeneration,
}

/// A fitted model.
struct Model {
    mean: [f64; FEATURES],
    spread: [f64; FEATURES],
    usual: [f64; 11],
    shapes: BTreeMap<String, [f64; 11]>,
    per_thread: BTreeMap<String, [f64; 2]>,
    /// At rest and at full load.
    lines: [Line; 2],
}

/// Base, weights, and what each generation adds.
type Line = (f64, [f64; FEATURES], BTreeMap<String, f64>);

/// The rows; `text` is the file of published results.
pub fn rows(table: &mut Table, text: Option<&str>) -> Result<(), String> {
    table.part("F  node power without a meter, held out, error in %", 1, &["per thread"]);
    let Some(text) = text else {
        for (name, bound) in ROWS {
            table.skipped(&format!("{name} (to reach {bound})"), "WATTRIBUTE_CURVES names no file");
        }
        return Ok(());
    };
    let machines = parse(text)?;
    let by_cpu = judge(&machines, |machine| &machine.cpu)?;
    let by_generation = judge(&machines, |machine| &machine.generation)?;
    for ((name, bound), known) in ROWS.into_iter().zip([Known::All, Known::Guest, Known::NoGeneration]) {
        let judged = if known == Known::NoGeneration { &by_generation } else { &by_cpu };
        let off = |watts: &dyn Fn(&Model, &Machine) -> Option<[f64; 11]>| {
            let errors = judged.iter().filter_map(|(model, machine)| Some(error(&watts(model, machine)?, machine)));
            let errors: Vec<f64> = errors.collect();
            100.0 * errors.iter().sum::<f64>() / errors.len() as f64
        };
        let found = off(&|model, machine| Some(model.predict(machine, known)));
        let other = off(&Model::by_threads);
        table.bounded(&format!("{name}, {} machines", judged.len()), found, bound, &[other]);
    }
    built_in(table, &machines)
}

/// What the agent says of the same machines, with the figures that are built in. They have been fitted to these, so
/// this shows that facts and figures find together, and no more. A guest has a slope instead of its host's curve, so it is
/// compared at rest and at 40 % load, where the two meet.
fn built_in(table: &mut Table, machines: &[Machine]) -> Result<(), String> {
    table.part("   the agent's estimator, figures as built in, error in %", 1, &[]);
    let cases = [
        ("whole machines", false, 1),
        ("whole machines, at rest and 40 %", false, 4),
        ("guests as large as their host, at rest and 40 %", true, 4),
    ];
    for (what, is_guest, step) in cases {
        let (mut sum, mut count) = (0.0, 0.0);
        for machine in machines.iter().filter(|machine| machine.year >= JUDGE_SINCE) {
            let Some(watts) = estimator::watts(machine, is_guest)? else { continue };
            for (guess, truth) in watts.iter().zip(&machine.watts).step_by(step).take(if step > 1 { 2 } else { 11 }) {
                sum += (guess / truth - 1.0).abs();
                count += 1.0;
            }
        }
        table.shown(what, 100.0 * sum / count, &[]);
    }
    Ok(())
}

/// Each machine that is judged, with a model that has not seen it nor its `kin`.
fn judge(machines: &[Machine], kin: impl Fn(&Machine) -> &String) -> Result<Vec<(Rc<Model>, &Machine)>, String> {
    let judged = || machines.iter().filter(|machine| machine.year >= JUDGE_SINCE);
    let groups: BTreeSet<&String> = judged().map(&kin).collect();
    let mut all = Vec::new();
    for group in groups {
        let others: Vec<&Machine> = machines.iter().filter(|machine| kin(machine) != group).collect();
        let model = Rc::new(Model::fit(&others)?);
        all.extend(judged().filter(|machine| kin(machine) == group).map(|machine| (model.clone(), machine)));
    }
    Ok(all)
}

/// The mean over loads of |estimated − true| / true.
fn error(watts: &[f64; 11], machine: &Machine) -> f64 {
    watts.iter().zip(&machine.watts).map(|(guess, truth)| (guess / truth - 1.0).abs() / 11.0).sum()
}

fn parse(text: &str) -> Result<Vec<Machine>, String> {
    let mut lines = text.lines().map(fields);
    let header = lines.next().ok_or("an empty file")?;
    let column = |name: &str| header.iter().position(|known| known == name).ok_or(format!("no column {name}"));
    let (cpu, name, word) = (column("CPUName")?, column("HW_CPUName")?, column("Architecture")?);
    let names =
        ["CPUChips", "CPUCores", "CPUThreads", "HW_CPUFreq", "TDP", "HW_MemAmountGB", "Hardware_Availability_Year"];
    let mut numbers = [0; 7];
    for (at, name) in numbers.iter_mut().zip(names) {
        *at = column(name)?;
    }
    let mut levels = [column("ActiveIdle")?; 11];
    for (tenth, level) in levels.iter_mut().enumerate().skip(1) {
        *level = column(&format!("{}_AvgPower", tenth * 10))?;
    }
    let machine = |row: Vec<String>| {
        let number = |at: usize| row.get(at)?.trim().parse::<f64>().ok().filter(|number| *number > 0.0);
        let [chips, cores, threads, mhz, tdp, memory, year] = numbers.map(number);
        let watts = levels.map(|at| number(at).unwrap_or(f64::NAN));
        let generation = key_of(row.get(word)?).to_owned();
        let cpu = row.get(cpu)?.trim().to_lowercase();
        let is_whole = watts[10] > watts[0] && watts.iter().all(|watts| watts.is_finite());
        let machine = Machine {
            cpu,
            name: row.get(name)?.clone(),
            generation,
            chips: chips?,
            cores: cores?,
            threads: threads?,
            mhz: mhz?,
            tdp: tdp?,
            memory: memory?,
            year: year?,
            watts,
        };
        let is_named = !machine.cpu.is_empty() && !machine.generation.is_empty();
        (is_whole && is_named && machine.year >= FIT_SINCE).then_some(machine)
    };
    let machines: Vec<Machine> = lines.filter_map(machine).collect();
    if machines.iter().all(|machine| machine.year < JUDGE_SINCE) {
        return Err("no machine since 2017 with all columns".to_owned());
    }
    Ok(machines)
}

impl Machine {
    fn features(&self) -> [f64; FEATURES] {
        let is_amd = ["zen", "bulldozer", "k10"].iter().any(|word| self.generation.starts_with(word));
        [
            (self.memory / self.threads).ln(),
            (self.tdp * self.chips / self.threads).ln(),
            self.chips.ln(),
            (self.cores / self.chips).ln(),
            self.mhz.ln(),
            f64::from(u8::from(self.threads > self.cores)),
            f64::from(u8::from(is_amd)),
        ]
    }

    fn shape(&self) -> [f64; 11] {
        self.watts.map(|watts| (watts - self.watts[0]) / (self.watts[10] - self.watts[0]))
    }
}

fn middle_shape(machines: &[&Machine]) -> [f64; 11] {
    std::array::from_fn(|at| median(machines.iter().map(|machine| machine.shape()[at]).collect()))
}

impl Model {
    fn fit(machines: &[&Machine]) -> Result<Self, String> {
        let count = machines.len() as f64;
        let raw: Vec<_> = machines.iter().map(|machine| machine.features()).collect();
        let mean = std::array::from_fn(|at| raw.iter().map(|row: &[f64; 7]| row[at]).sum::<f64>() / count);
        let spread = std::array::from_fn(|at| {
            let variance = raw.iter().map(|row| (row[at] - mean[at]).powi(2)).sum::<f64>() / count;
            if variance > 0.0 { variance.sqrt() } else { 1.0 }
        });
        let rows: Vec<[f64; FEATURES]> =
            raw.iter().map(|row| std::array::from_fn(|at| (row[at] - mean[at]) / spread[at])).collect();
        let names: BTreeSet<&String> = machines.iter().map(|machine| &machine.generation).collect();
        let names: Vec<&String> = names.into_iter().collect();
        let newer: Vec<&Machine> = machines.iter().copied().filter(|machine| machine.year >= JUDGE_SINCE).collect();
        let usual = middle_shape(if newer.len() >= CURVES_MIN { &newer } else { machines });
        let (mut shapes, mut per_thread) = (BTreeMap::new(), BTreeMap::new());
        for name in &names {
            let own: Vec<&Machine> = machines.iter().copied().filter(|one| one.generation == **name).collect();
            shapes.insert((*name).clone(), if own.len() >= CURVES_MIN { middle_shape(&own) } else { usual });
            let ends = [0, 10].map(|at| median(own.iter().map(|one| one.watts[at] / one.threads).collect()));
            per_thread.insert((*name).clone(), ends);
        }
        let [idle, full] = [0, 10].map(|at| line(machines, &rows, &names, at));
        Ok(Self { mean, spread, usual, shapes, per_thread, lines: [idle?, full?] })
    }

    /// Watts at 0, 10 … 100 % load.
    fn predict(&self, machine: &Machine, known: Known) -> [f64; 11] {
        let chips = if known == Known::Guest { 2.0 } else { machine.chips };
        let mut z = machine.features();
        z[2] = chips.ln();
        for ((z, mean), spread) in z.iter_mut().zip(self.mean).zip(self.spread) {
            *z = (*z - mean) / spread;
        }
        if known == Known::Guest {
            z[0] = 0.0;
        }
        let own = (known != Known::NoGeneration).then_some(&machine.generation);
        let [idle, full] = [0, 1].map(|end| {
            let (base, weights, offsets) = &self.lines[end];
            let sum: f64 = weights.iter().zip(z).map(|(weight, z)| weight * z).sum();
            let offset = own.and_then(|own| offsets.get(own)).unwrap_or(&0.0);
            machine.tdp * machine.chips * (base + sum + offset).exp()
        });
        let shape = own.and_then(|own| self.shapes.get(own)).unwrap_or(&self.usual);
        shape.map(|part| idle + (full - idle) * part)
    }

    /// The median of the generation, by threads alone; none where it has not been seen.
    fn by_threads(model: &Self, machine: &Machine) -> Option<[f64; 11]> {
        let [idle, full] = *model.per_thread.get(&machine.generation)?;
        let shape = model.shapes.get(&machine.generation)?;
        Some(std::array::from_fn(|at| machine.threads * (idle + (full - idle) * level(shape, at as f64 / 10.0))))
    }
}

/// The weights for the logarithm of watts per watt of TDP, at level `at`: those with the least absolute errors, by rounds
/// of least squares in which a machine counts by the inverse of what it was missed by.
fn line(machines: &[&Machine], rows: &[[f64; FEATURES]], names: &[&String], at: usize) -> Result<Line, String> {
    let size = 1 + FEATURES + names.len();
    let mut equations = Vec::new();
    for (machine, z) in machines.iter().zip(rows) {
        let mut entry = vec![0.0; size];
        entry[0] = 1.0;
        entry[1..=FEATURES].copy_from_slice(z);
        let place = names.iter().position(|name| **name == machine.generation).ok_or("an unnamed generation")?;
        entry[1 + FEATURES + place] = 1.0;
        equations.push((entry, (machine.watts[at] / (machine.tdp * machine.chips)).ln()));
    }
    let mut trust = vec![1.0; equations.len()];
    let mut found = Vec::new();
    for _ in 0..ROUNDS {
        found = fitted(&equations, &trust);
        for (weight, (entry, target)) in trust.iter_mut().zip(&equations) {
            let reached: f64 = entry.iter().zip(&found).map(|(left, term)| left * term).sum();
            *weight = 1.0 / (target - reached).abs().max(MISSED_MIN);
        }
        let mean = trust.iter().sum::<f64>() / trust.len() as f64;
        for weight in &mut trust {
            *weight /= mean;
        }
    }
    let weights = std::array::from_fn(|at| found[1 + at]);
    let offsets = names.iter().zip(&found[1 + FEATURES..]).map(|(name, offset)| ((*name).clone(), *offset));
    Ok((found[0], weights, offsets.collect()))
}

/// The least-squares solution of weighted equations, with the ridge.
fn fitted(equations: &[(Vec<f64>, f64)], trust: &[f64]) -> Vec<f64> {
    let size = equations.first().map_or(0, |(entry, _)| entry.len());
    let (mut matrix, mut right) = (vec![vec![0.0; size]; size], vec![0.0; size]);
    for ((entry, target), weight) in equations.iter().zip(trust) {
        for (one, left) in entry.iter().enumerate().filter(|(_, left)| **left != 0.0) {
            right[one] += weight * left * target;
            for (cell, other) in matrix[one].iter_mut().zip(entry) {
                *cell += weight * left * other;
            }
        }
    }
    for (one, row) in matrix.iter_mut().enumerate().skip(1) {
        row[one] += RIDGE[usize::from(one > FEATURES)];
    }
    solve(matrix, right)
}

/// Gauss's elimination; the ridge keeps every diagonal above 0, so no rows need be exchanged.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    for column in 0..size {
        let pivot = matrix[column].clone();
        for row in column + 1..size {
            let factor = matrix[row][column] / pivot[column];
            right[row] -= factor * right[column];
            for (cell, above) in matrix[row].iter_mut().zip(&pivot) {
                *cell -= factor * above;
            }
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|at| matrix[row][at] * right[at]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}
