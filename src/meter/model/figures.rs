//! The figures of the estimator: built in, or read from the file that `model.file` names.
//!
//! Power at rest and at full load of a whole server is `TDP · chips · exp(base + Σ weightᵢ·zᵢ + offset)` with z the
//! standardised features, of which any may be unknown and then counts as the mean. The file is the JSON that
//! `tools/fit_node_model.py` writes. A file with anything that is no figure (NaN, a shape that falls, a missing weight or
//! offset) is refused as a whole, with the reason. Of a file that is taken nothing is mixed with the built-in fit: a
//! generation that it does not list has no offset, its default shape, and the medians of those that it does list (since
//! 2017, where it says from when they are). What it says of generations that nobody here knows is ignored and named.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::built_in;
use crate::meter::processor::Generation;

/// The features, in the order of weights and of the file.
pub(super) const FEATURES: [&str; 7] =
    ["ln(mem_gb/threads)", "ln(tdp_total/threads)", "ln(chips)", "ln(cores/chip)", "ln(base_mhz)", "smt", "amd"];
/// No machine of the fit lies further from the mean; beyond it nothing is known.
const Z_MAX: f64 = 4.0;
/// Logarithms of power over TDP, and what adds to them, lie far within.
const LOG_MAX: f64 = 5.0;
/// Watts per thread lie far within.
const WATTS_MAX: f64 = 1000.0;
/// An unknown processor is taken to be as new.
const RECENT: f64 = 2017.0;
/// How many of the parts that are ignored are named.
const NAMED_MAX: usize = 5;

/// Means and standard deviations of the features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::meter) struct Standard {
    pub(super) mean: [f64; 7],
    pub(super) spread: [f64; 7],
}

/// The logarithm of power over TDP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::meter) struct Line {
    pub(super) base: f64,
    pub(super) weights: [f64; 7],
}

/// All of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figures {
    standard: Standard,
    lines: [Line; 2],
    generations: Vec<Generation>,
    unknown: Generation,
    /// What of the file is not used, in words.
    pub(super) ignored: Option<String>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            standard: built_in::STANDARD,
            lines: [built_in::IDLE, built_in::FULL],
            generations: built_in::GENERATIONS.to_vec(),
            unknown: built_in::UNKNOWN,
            ignored: None,
        }
    }
}

impl Figures {
    /// Those of the generation with this key, else of an unknown processor.
    pub(super) fn generation(&self, key: &str) -> &Generation {
        self.generations.iter().find(|known| known.key == key).unwrap_or(&self.unknown)
    }

    /// Watts of a whole server with `tdp` watts of processors, at rest and at full load.
    pub(super) fn watts(&self, tdp: f64, features: [Option<f64>; 7], generation: &Generation) -> [f64; 2] {
        let mut z = [0.0; 7];
        for (at, z) in z.iter_mut().enumerate() {
            if let Some(value) = features[at] {
                *z = ((value - self.standard.mean[at]) / self.standard.spread[at]).clamp(-Z_MAX, Z_MAX);
            }
        }
        let power = |line: &Line, offset: f64| {
            let sum: f64 = line.weights.iter().zip(z).map(|(weight, z)| weight * z).sum();
            tdp * (line.base + sum + offset).exp()
        };
        let [idle, full] = &self.lines;
        let (idle, full) = (power(idle, generation.offsets[0]), power(full, generation.offsets[1]));
        [idle.min(full), full]
    }

    /// Reads a file of figures.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| said(bytes, &error))?;
        let expected = FEATURES.join(", ");
        let features = document.features.join(", ");
        if features != expected {
            return Err(format!("its features are {features}; this version knows {expected}"));
        }
        if document.sd.iter().any(|spread| *spread <= 0.0) {
            return Err("sd: a standard deviation that is not above 0".into());
        }
        check_shape("default_shape", &document.default_shape)?;
        let (idle, full) = (document.idle.line("idle")?, document.max.line("max")?);
        let (mut generations, mut years) = (Vec::new(), Vec::new());
        for known in built_in::GENERATIONS {
            let Some(given) = document.generations.get(known.key) else { continue };
            let offsets = [document.idle.offset("idle", known.key)?, document.max.offset("max", known.key)?];
            generations.push(given.take(known.key, offsets)?);
            years.push(given.first_year);
        }
        if generations.is_empty() {
            return Err("generations: none that this version knows, such as skylake or zen4".into());
        }
        let is_recent = |year: &Option<f64>| year.is_some_and(|year| year >= RECENT);
        let recent: Vec<&Generation> =
            generations.iter().zip(&years).filter(|(_, year)| is_recent(year)).map(|(known, _)| known).collect();
        let like = if recent.is_empty() { generations.iter().collect() } else { recent };
        let of = |value: fn(&Generation) -> f64| median(like.iter().map(|known| value(known)).collect());
        let unknown = Generation {
            key: "",
            idle_over_max: of(|known| known.idle_over_max),
            per_thread: [of(|known| known.per_thread[0]), of(|known| known.per_thread[1])],
            offsets: [0.0, 0.0],
            shape: document.default_shape,
        };
        let standard = Standard { mean: document.mu, spread: document.sd };
        let ignored = document.ignored();
        Ok(Self { standard, lines: [idle, full], generations, unknown, ignored })
    }
}

/// The middle one, or between the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(0.0);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// JSON has no NaN, but what writes JSON may not know.
fn said(bytes: &[u8], error: &serde_json::Error) -> String {
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let from = error.column().saturating_sub(2).min(line.len());
    let rest = String::from_utf8_lossy(line.get(from..).unwrap_or_default());
    let word = ["NaN", "Infinity", "-Infinity", "nan", "inf"].iter().find(|word| {
        let start = rest.get(..word.len() + 2).unwrap_or(&rest);
        start.contains(**word)
    });
    match word {
        Some(word) => format!("{word} at line {} column {}: no figure", error.line(), error.column()),
        None => error.to_string(),
    }
}

fn check_shape(of: &str, shape: &[f64; 11]) -> Result<(), String> {
    let rises = shape.windows(2).all(|pair| pair[0] <= pair[1]);
    let [first, .., last] = shape;
    if rises && first.abs() < 1e-6 && (last - 1.0).abs() < 1e-6 {
        return Ok(());
    }
    Err(format!("{of}: a shape goes from 0 to 1 and never falls"))
}

#[derive(Deserialize)]
struct Document {
    features: Vec<String>,
    mu: [f64; 7],
    sd: [f64; 7],
    default_shape: [f64; 11],
    generations: BTreeMap<String, Given>,
    idle: Weights,
    max: Weights,
}

impl Document {
    /// The parts about generations that are not used: of those that nobody knows, and offsets of those not listed.
    fn ignored(&self) -> Option<String> {
        let is_known = |name: &str| built_in::GENERATIONS.iter().any(|known| known.key == name);
        let strange =
            self.generations.keys().filter(|name| !is_known(name)).map(|name| format!("generations.{name:?}"));
        let mut parts: Vec<String> = strange.map(|what| what + ", which this version does not know").collect();
        for (of, line) in [("idle", &self.idle), ("max", &self.max)] {
            let alone = line.generation.keys().filter(|name| !self.generations.contains_key(*name));
            parts.extend(alone.map(|name| format!("{of}.gen.{name:?}, which is not in generations")));
        }
        let more = parts.len().saturating_sub(NAMED_MAX);
        parts.truncate(NAMED_MAX);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        (!parts.is_empty()).then(|| format!("ignored: {}{more}", parts.join("; ")))
    }
}

#[derive(Deserialize)]
struct Weights {
    b0: f64,
    w: [f64; 7],
    #[serde(rename = "gen")]
    generation: BTreeMap<String, f64>,
}

impl Weights {
    fn offset(&self, of: &str, key: &str) -> Result<f64, String> {
        let offset = self.generation.get(key).copied();
        offset.ok_or_else(|| format!("{of}.gen.{key}: missing; generations lists {key}, so it needs its offset"))
    }

    fn line(&self, of: &str) -> Result<Line, String> {
        let parts = [("b0", &[self.b0][..]), ("w", &self.w[..])];
        for (name, values) in parts {
            if let Some(value) = values.iter().find(|value| value.abs() > LOG_MAX) {
                return Err(format!("{of}.{name}: {value} is beyond ±{LOG_MAX}"));
            }
        }
        if let Some((name, value)) = self.generation.iter().find(|(_, value)| value.abs() > LOG_MAX) {
            return Err(format!("{of}.gen.{name}: {value} is beyond ±{LOG_MAX}"));
        }
        Ok(Line { base: self.b0, weights: self.w })
    }
}

#[derive(Deserialize)]
struct Given {
    first_year: Option<f64>,
    idle_over_max: f64,
    idle_w_per_thread: f64,
    max_w_per_thread: f64,
    shape: [f64; 11],
}

impl Given {
    fn take(&self, key: &'static str, offsets: [f64; 2]) -> Result<Generation, String> {
        let (idle, full) = (self.idle_w_per_thread, self.max_w_per_thread);
        check_shape(&format!("generations.{key}.shape"), &self.shape)?;
        if !(self.idle_over_max > 0.0 && self.idle_over_max < 1.0) {
            return Err(format!("generations.{key}.idle_over_max: expected a part between 0 and 1"));
        }
        if !(idle > 0.0 && idle < full && full < WATTS_MAX) {
            return Err(format!(
                "generations.{key}: expected 0 < idle_w_per_thread < max_w_per_thread < {WATTS_MAX}, found {idle} and {full}"
            ));
        }
        Ok(Generation { key, idle_over_max: self.idle_over_max, per_thread: [idle, full], offsets, shape: self.shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> serde_json::Value {
        let shape = built_in::UNKNOWN.shape;
        serde_json::json!({
            "features": FEATURES, "mu": built_in::STANDARD.mean, "sd": built_in::STANDARD.spread,
            "default_shape": shape,
            "generations": {"zen4": {"idle_over_max": 0.2, "idle_w_per_thread": 0.3, "max_w_per_thread": 1.7, "shape": shape}},
            "idle": {"b0": -1.0, "w": [0, 0, 0, 0, 0, 0, 0], "gen": {"zen4": 0.1}},
            "max": {"b0": 0.1, "w": [0, 0, 0, 0, 0, 0, 0], "gen": {"zen4": 0.0}},
        })
    }

    fn refused(pointer: &str, value: &str) -> String {
        let mut file = file();
        *file.pointer_mut(pointer).unwrap() = serde_json::json!("@");
        Figures::parse(file.to_string().replace("\"@\"", value).as_bytes()).expect_err(pointer)
    }

    #[test]
    fn built_in_figures_are_figures() {
        for generation in built_in::GENERATIONS.iter().chain([&built_in::UNKNOWN]) {
            check_shape(generation.key, &generation.shape).unwrap();
            let [idle, full] = generation.per_thread;
            assert!(idle > 0.0 && idle < full, "{}", generation.key);
            assert!(generation.idle_over_max > 0.0 && generation.idle_over_max < 1.0, "{}", generation.key);
        }
        assert!(built_in::GENERATIONS.is_sorted_by_key(|generation| generation.key));
    }

    #[test]
    fn a_file_replaces_the_figures() {
        let figures = Figures::parse(file().to_string().as_bytes()).unwrap();
        assert!((figures.generation("zen4").offsets[0] - 0.1).abs() < 1e-9);
        assert_eq!(figures.generation("skylake").key, "", "what it does not name is unknown");
        let [idle, full] = figures.watts(100.0, [None; 7], figures.generation("zen4"));
        assert!((idle - 100.0 * (-0.9_f64).exp()).abs() < 1e-9 && (full - 100.0 * 0.1_f64.exp()).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_mixed_with_the_built_in_figures() {
        let mut file = file();
        let zen4 = file["generations"]["zen4"].clone();
        let mut more = |name: &str, year: Option<u32>, idle: f64| {
            file["generations"][name] = zen4.clone();
            file["generations"][name]["idle_w_per_thread"] = idle.into();
            file["generations"][name]["first_year"] = year.into();
            file["idle"]["gen"][name] = 0.2.into();
            file["max"]["gen"][name] = 0.2.into();
        };
        more("skylake", None, 0.5);
        more("zen3", None, 0.4);
        let parse = |file: &serde_json::Value| Figures::parse(file.to_string().as_bytes()).unwrap();
        let unknown = *parse(&file).generation("sapphire");
        assert_eq!((unknown.per_thread, unknown.offsets), ([0.4, 1.7], [0.0, 0.0]), "the medians of the file");
        assert_eq!((unknown.idle_over_max, unknown.shape), (0.2, built_in::UNKNOWN.shape));
        let mut more = |name: &str, year| file["generations"][name]["first_year"] = u32::into(year);
        more("skylake", 2017);
        more("zen3", 2016);
        let [idle, full] = parse(&file).generation("").per_thread;
        assert!((idle - 0.5).abs() < 1e-9 && (full - 1.7).abs() < 1e-9, "of those since 2017: {idle} {full}");
        assert_eq!(parse(&file).ignored, None);
    }

    #[test]
    fn an_offset_is_there_for_every_generation_and_strange_ones_are_named() {
        for of in ["idle", "max"] {
            let mut file = file();
            file[of]["gen"] = serde_json::json!({});
            let said = Figures::parse(file.to_string().as_bytes()).unwrap_err();
            assert_eq!(said, format!("{of}.gen.zen4: missing; generations lists zen4, so it needs its offset"));
        }
        let mut file = file();
        file["generations"]["skylak"] = file["generations"]["zen4"].clone();
        file["max"]["gen"]["zen\u{1b}2"] = 0.1.into();
        let ignored = Figures::parse(file.to_string().as_bytes()).unwrap().ignored.unwrap();
        assert_eq!(
            ignored,
            "ignored: generations.\"skylak\", which this version does not know; max.gen.\"zen\\u{1b}2\", which is not in \
             generations"
        );
    }

    #[test]
    fn what_is_no_figure_is_refused_with_a_reason() {
        let cases = [
            ("/idle/w/3", "NaN", "NaN at line 1"),
            ("/max/b0", "Infinity", "Infinity at line 1"),
            ("/max/b0", "-Infinity", "Infinity at line 1"),
            ("/max/b0", "1e999", "number out of range"),
            ("/idle/b0", "null", "invalid type: null"),
            ("/idle/b0", "77", "idle.b0: 77 is beyond ±5"),
            ("/idle/gen/zen4", "-6", "idle.gen.zen4: -6 is beyond ±5"),
            ("/sd/0", "0", "sd: a standard deviation"),
            ("/mu", "[1, 2]", "invalid length 2"),
            ("/default_shape/5", "0.9", "default_shape: a shape goes"),
            ("/generations/zen4/shape/0", "0.1", "generations.zen4.shape: a shape goes"),
            ("/generations/zen4/idle_over_max", "1.5", "generations.zen4.idle_over_max"),
            ("/generations/zen4/idle_w_per_thread", "-1", "generations.zen4: expected 0 <"),
            ("/generations", "{}", "generations: none"),
            ("/features/0", "\"ln(x)\"", "its features are ln(x)"),
        ];
        for (pointer, value, reason) in cases {
            let said = refused(pointer, value);
            assert!(said.contains(reason), "{pointer} = {value}: {said}");
        }
        assert!(Figures::parse(b"").is_err());
        assert!(Figures::parse(b"{\"mu\": [1]").is_err());
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]:,\"0-9eNaInf\\n-]{0,80}") {
            let _ = Figures::parse(&bytes);
            let _ = Figures::parse(text.as_bytes());
        }

        #[test]
        fn any_machine_has_watts(tdp in 1.0..20_000.0, features in proptest::array::uniform7(proptest::option::of(-50.0..50.0)), at in 0..built_in::GENERATIONS.len()) {
            let [idle, full] = Figures::default().watts(tdp, features, &built_in::GENERATIONS[at]);
            prop_assert!(idle.is_finite() && full.is_finite() && idle > 0.0 && idle <= full);
        }
    }
}
