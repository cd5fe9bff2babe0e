//! Any bytes as the file of a wattmeter, through to the report: nothing panics, and every figure is a number.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::validate::series::{Piece, Series};
use wattribute::validate::truth::sift;
use wattribute::validate::{Comparison, csv, plot};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut read) = csv::parse(bytes, 1.772e9) else { return };
    read.samples.retain(|sample| (-60.0..120.0).contains(&sample.at));
    let reference = Series::from_samples(&sift(read.samples, &mut read.refused));
    let piece = |at: u8| Piece { from: at.into(), to: f64::from(at) + 1.0, watts: f64::from(at % 7) };
    let Ok(comparison) = Comparison::of(&Series::new((0..60).map(piece).collect()), &reference) else { return };
    let figures = &comparison.best().figures;
    assert!(figures.samples > 0 && figures.mae.is_finite() && figures.rmse >= figures.mae * 0.999);
    let drawn = plot::plot(&comparison.best().pairs, comparison.step);
    assert!(drawn.lines().count() <= 16 && drawn.lines().all(|line| line.chars().count() <= 80));
});
