//! Power curves of whole servers: drawn ones around the figures of each generation, or published ones from a file.
//!
//! Published curves may not be passed on, so machines are drawn: the ratio of idle to full power around its generation's,
//! and the shape as the generation's plus the four ways in which shapes of one generation differ most. Both are what 212
//! published results since 2017 show within their generations: how often a ratio is how far off, and the principal
//! components of the shapes with how often which score is met. As with the published ones, a shape is off by .02 to .05
//! on average, and what it is off by goes on over several levels.
//! `WATTRIBUTE_CURVES` may name a CSV of real results, with the columns of the published table (`ActiveIdle`,
//! `10_AvgPower` … `100_AvgPower`, `CPUName`, `Architecture`, `Hardware_Availability_Year`).

use wattribute::meter::processor;

use super::random::Random;

/// The parts of the quantiles below.
const PARTS: [f64; 13] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98];
/// Quantiles of ln(idle over full power of a machine / that of its generation).
const RATIO: [f64; 13] = [-0.486, -0.37, -0.289, -0.218, -0.128, -0.061, -0.021, 0.01, 0.072, 0.18, 0.38, 0.513, 0.769];
/// How shapes differ at 10, 20 … 90 % load, in standard deviations, and the quantiles of that: 74, 18, 5 and 2 % of all
/// variance within generations.
const WAYS: [([f64; 9], [f64; 13]); 4] = [
    (
        [0.0186, 0.0295, 0.0369, 0.0454, 0.0527, 0.0556, 0.0561, 0.0507, 0.0312],
        [-1.71, -1.237, -1.005, -0.677, -0.341, -0.148, -0.036, 0.15, 0.459, 0.757, 1.212, 1.612, 2.93],
    ),
    (
        [0.0252, 0.0251, 0.0221, 0.0175, 0.0091, -0.0017, -0.0138, -0.0292, -0.0303],
        [-2.527, -1.951, -1.099, -0.564, -0.376, -0.186, -0.016, 0.185, 0.427, 0.715, 1.096, 1.695, 1.974],
    ),
    (
        [0.0182, 0.0116, 0.0025, -0.0059, -0.0095, -0.0107, -0.0052, 0.0075, 0.0161],
        [-2.447, -1.877, -1.335, -0.883, -0.619, -0.424, -0.145, 0.066, 0.305, 0.581, 1.021, 1.483, 1.907],
    ),
    (
        [-0.0075, -0.0012, 0.0047, 0.0085, 0.0045, -0.0052, -0.0089, -0.0026, 0.0093],
        [-2.379, -1.923, -1.476, -1.098, -0.771, -0.545, -0.245, -0.059, 0.224, 0.525, 1.105, 1.264, 1.422],
    ),
];
/// Machines before this year are another world: idle was half of full power.
const YEAR_MIN: u32 = 2017;

/// Idle over full power, and the shape of the curve between them at 0, 10 … 100 % load.
pub type Figures = (f64, [f64; 11]);

/// One machine.
pub struct Machine {
    /// W at 0, 10 … 100 % load.
    pub watts: [f64; 11],
    /// Of its generation.
    pub known: Option<Figures>,
    /// Of its generation without the machines that have the same processor.
    pub left_out: Option<Figures>,
}

impl Machine {
    /// W at a load of 0 to 1.
    pub fn power(&self, load: f64) -> f64 {
        level(&self.watts, load)
    }

    /// W at rest.
    pub fn idle(&self) -> f64 {
        self.watts[0]
    }
}

/// A generation: name, published machines, idle over full power, shape.
type Generation = (&'static str, usize, f64, [f64; 11]);

/// The median of all generations since 2017, for those of which no curve is known.
const USUAL: [f64; 11] = [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0];
/// Medians of published results (`SPECpower_ssj2008`) of the generations since 2017.
#[rustfmt::skip]
const GENERATIONS: &[Generation] = &[
    ("skylake", 78, 0.1268, [0.0, 0.1744, 0.2352, 0.2948, 0.3547, 0.4209, 0.5011, 0.5974, 0.7202, 0.8692, 1.0]),
    ("cascade", 85, 0.1547, [0.0, 0.1681, 0.2316, 0.2924, 0.3548, 0.4208, 0.5022, 0.596, 0.7121, 0.8509, 1.0]),
    ("coffee", 9, 0.2044, [0.0, 0.1097, 0.1641, 0.2208, 0.2833, 0.3576, 0.4444, 0.5459, 0.6694, 0.8246, 1.0]),
    ("icelake", 43, 0.235, [0.0, 0.1259, 0.1872, 0.2476, 0.3068, 0.3715, 0.4503, 0.5491, 0.6759, 0.8756, 1.0]),
    ("rocket", 15, 0.2621, [0.0, 0.1149, 0.187, 0.2552, 0.3254, 0.4041, 0.4878, 0.58, 0.6892, 0.8285, 1.0]),
    ("raptor", 7, 0.2407, USUAL),
    ("sapphire", 63, 0.2429, USUAL),
    ("emerald", 33, 0.2498, USUAL),
    ("granite", 33, 0.2316, USUAL),
    ("sierra", 20, 0.27, USUAL),
    ("zen1", 10, 0.3216, [0.0, 0.242, 0.3143, 0.3817, 0.4479, 0.5173, 0.5923, 0.6832, 0.7868, 0.894, 1.0]),
    ("zen2", 36, 0.2479, [0.0, 0.2533, 0.34, 0.4223, 0.5009, 0.5763, 0.6472, 0.7249, 0.8077, 0.8946, 1.0]),
    ("zen3", 28, 0.2231, [0.0, 0.2005, 0.2712, 0.3374, 0.4028, 0.4809, 0.57, 0.6569, 0.7475, 0.867, 1.0]),
    ("zen4", 76, 0.1931, USUAL),
    ("zen5", 41, 0.1762, USUAL),
];
/// Words of the published table that are not the keys of generations.
const WORDS: &[(&str, &str)] = &[
    ("cascadelake", "cascade"),
    ("cooperlake", "cascade"),
    ("coffeelake", "coffee"),
    ("kabylabe", "coffee"),
    ("rocketlake", "rocket"),
    ("sandybridge", "sandy"),
    ("ivybridge", "ivy"),
    ("opteron", "k10"),
    ("epyc", "zen3"),
    ("epyc-gen1", "zen1"),
    ("epyc-gen2", "zen2"),
    ("epyc-gen3", "zen3"),
];

/// The key of the generation that the published table calls `word`.
pub fn key_of(word: &str) -> &str {
    WORDS.iter().find(|known| known.0 == word).map_or(word, |known| known.1)
}

/// The value at `load` of a curve that is known at every 10 %, straight between.
pub fn level(curve: &[f64; 11], load: f64) -> f64 {
    let at = load.clamp(0.0, 1.0) * 10.0;
    let first = (at as usize).min(9);
    curve[first] + (curve[first + 1] - curve[first]) * (at - first as f64)
}

/// As many machines of each generation as have been published, drawn.
pub fn drawn(random: &mut Random) -> Vec<Machine> {
    let each = GENERATIONS.iter().flat_map(|generation| std::iter::repeat_n(generation, generation.1));
    each.map(|generation| draw(random, generation)).collect()
}

fn draw(random: &mut Random, (name, _, ratio, shape): &Generation) -> Machine {
    let full = random.between(150.0, 900.0);
    let idle = full * (ratio * quantile(&RATIO, random.unit()).exp()).min(0.8);
    let mut drawn = *shape;
    for (way, quantiles) in &WAYS {
        let score = quantile(quantiles, random.unit());
        for (level, way) in drawn[1..10].iter_mut().zip(way) {
            *level += score * way;
        }
    }
    for at in 1..11 {
        drawn[at] = drawn[at].clamp(drawn[at - 1], 1.0); // more load never draws less
    }
    Machine { watts: drawn.map(|level| idle + (full - idle) * level), known: figures(name), left_out: None }
}

/// What the part `part` of all is below; straight between the known ones, and beyond them on as between the last two.
fn quantile(quantiles: &[f64; 13], part: f64) -> f64 {
    let first = PARTS.iter().rposition(|known| *known <= part).unwrap_or(0).min(PARTS.len() - 2);
    let slope = (quantiles[first + 1] - quantiles[first]) / (PARTS[first + 1] - PARTS[first]);
    quantiles[first] + slope * (part - PARTS[first])
}

/// What the agent knows of a generation.
fn figures(name: &str) -> Option<Figures> {
    processor::by_key(name).map(|generation| (generation.idle_over_max, generation.shape))
}

/// The machines since 2017 of a CSV.
///
/// # Errors
/// What is missing.
pub fn published(text: &str) -> Result<Vec<Machine>, String> {
    let mut lines = text.lines().map(fields);
    let header = lines.next().ok_or("an empty file")?;
    let column = |name: &str| header.iter().position(|known| known == name).ok_or(format!("no column {name}"));
    let (year, word, name) = (column("Hardware_Availability_Year")?, column("Architecture")?, column("CPUName")?);
    let mut levels = [column("ActiveIdle")?; 11];
    for (tenth, level) in levels.iter_mut().enumerate().skip(1) {
        *level = column(&format!("{}_AvgPower", tenth * 10))?;
    }
    let mut found: Vec<(String, Option<&Generation>, [f64; 11])> = Vec::new();
    for row in lines {
        let number = |at: usize| row.get(at).and_then(|text| text.trim().parse::<f64>().ok());
        let watts = levels.map(|at| number(at).filter(|watts| *watts > 0.0).unwrap_or(f64::NAN));
        let is_new = number(year).is_some_and(|year| year >= f64::from(YEAR_MIN));
        if is_new && watts[10] > watts[0] && watts.iter().all(|watts| watts.is_finite()) {
            let key = row.get(word).map_or("", |word| key_of(word));
            let generation = GENERATIONS.iter().find(|generation| generation.0 == key);
            found.push((row.get(name).cloned().unwrap_or_default(), generation, watts));
        }
    }
    if found.is_empty() {
        return Err("no machine since 2017".to_owned());
    }
    Ok(found.iter().map(|one| machine(one, &found)).collect())
}

type Found = (String, Option<&'static Generation>, [f64; 11]);

fn machine((name, generation, watts): &Found, all: &[Found]) -> Machine {
    let kin = |other: &&Found| other.0 != *name && other.1.map(|one| one.0) == generation.map(|one| one.0);
    let kin: Vec<&Found> = all.iter().filter(kin).collect();
    let of = |value: &dyn Fn(&[f64; 11]) -> f64| median(kin.iter().map(|other| value(&other.2)).collect());
    let shape = std::array::from_fn(|at| of(&|watts| (watts[at] - watts[0]) / (watts[10] - watts[0])));
    let left_out = generation.filter(|_| !kin.is_empty()).map(|_| (of(&|watts| watts[0] / watts[10]), shape));
    Machine { watts: *watts, known: generation.and_then(|one| figures(one.0)), left_out }
}

/// The median; no number of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len() / 2), at(values.len().saturating_sub(1) / 2))
}

/// The fields of a line of CSV; a field in quotes may hold commas.
pub fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for letter in line.trim_end_matches('\r').chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().into_iter().for_each(|field| field.push(letter)),
        }
    }
    fields
}
