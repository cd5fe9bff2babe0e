//! Both curves in a terminal: the reference as an area of shade, the books as a line of Braille dots over it.
//!
//! It is text of at most 80 × 16 characters and the same whether it goes to a terminal or to a file. Every column is
//! the mean of the cells in it; where a side is not known its column stays empty. The axis of power begins at 0 unless
//! both sides stay far above it.

use std::fmt::Write as _;

use crate::validate::series::{Pair, float, whole};

/// Columns and rows of the field in which the curves are.
const WIDTH: usize = 70;
const HEIGHT: usize = 12;
/// Dots of a Braille character.
const DOTS: [usize; 2] = [2, 4];
/// What fills a part of a character from below, by eighths.
const EIGHTHS: [char; 8] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇'];
/// The bits of the dots of a Braille character, by column and row.
const BITS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// The two curves as lines of text.
#[must_use]
pub fn plot(pairs: &[Pair], step: f64) -> String {
    let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else { return String::new() };
    let (from, to) = (first.at - step, last.at);
    let (bottom, top) = scale(pairs);
    let height = |watts: f64, parts: usize| float(parts) * (watts - bottom) / (top - bottom);
    let mut field = vec![[' '; WIDTH]; HEIGHT];
    for (column, watts) in columns(pairs, [from, to], step, WIDTH, |pair| pair.reference).into_iter().enumerate() {
        let Some(watts) = watts else { continue };
        let eighths = whole(height(watts, 8 * HEIGHT).round()).min(8 * HEIGHT);
        for (row, line) in field.iter_mut().rev().enumerate() {
            let rest = eighths.saturating_sub(8 * row);
            line[column] = if rest >= 8 { '░' } else { EIGHTHS[rest] };
        }
    }
    let dots = columns(pairs, [from, to], step, DOTS[0] * WIDTH, |pair| pair.books);
    let mut before: Option<usize> = None;
    for (column, watts) in dots.into_iter().enumerate() {
        let row = watts.map(|watts| whole(height(watts, DOTS[1] * HEIGHT)).min(DOTS[1] * HEIGHT - 1));
        // A steep line has no holes.
        let Some(row) = row else {
            before = None;
            continue;
        };
        let start =
            before.map_or(row, |before| if before < row { before + 1 } else { before.saturating_sub(1).max(row) });
        for dot in start.min(row)..=start.max(row) {
            let cell = &mut field[HEIGHT - 1 - dot / DOTS[1]][column / DOTS[0]];
            let bits = if ('\u{2800}'..='\u{28ff}').contains(cell) { u32::from(*cell) } else { 0x2800 };
            *cell = char::from_u32(bits | BITS[column % DOTS[0]][DOTS[1] - 1 - dot % DOTS[1]]).unwrap_or('⠒');
        }
        before = Some(row);
    }
    draw(&field, [bottom, top], [from, to])
}

/// The field with its axes.
fn draw(field: &[[char; WIDTH]], [bottom, top]: [f64; 2], [from, to]: [f64; 2]) -> String {
    let mut text = String::from("      W  ⠒ books  ░ reference\n");
    for (row, line) in field.iter().enumerate() {
        let line: String = line.iter().collect();
        let at = match row {
            0 => Some(top),
            row if row == HEIGHT / 2 => Some(f64::midpoint(bottom, top)),
            row if row == HEIGHT - 1 => Some(bottom),
            _ => None,
        };
        let label = at.map_or_else(String::new, |watts| watt(watts, top - bottom));
        let _ = writeln!(text, "{}", format!("{label:>7} ┤{line}").trim_end());
    }
    let _ = writeln!(text, "        └{}", "─".repeat(WIDTH));
    let (from, to) = (format!("{from:.0} s"), format!("{to:.0} s"));
    let middle = WIDTH - from.chars().count() - to.chars().count();
    let _ = write!(text, "         {from}{}{to}", " ".repeat(middle));
    text
}

/// The mean of the cells in each of `count` equal columns; a column narrower than a cell shows the cell around it.
fn columns(pairs: &[Pair], [from, to]: [f64; 2], step: f64, count: usize, of: fn(&Pair) -> f64) -> Vec<Option<f64>> {
    let width = (to - from) / float(count);
    let mean = |column: usize| {
        let (left, right) = (from + float(column) * width, from + float(column + 1) * width);
        let middle = f64::midpoint(left, right);
        let first = pairs.partition_point(|pair| pair.at - step / 2.0 < left);
        let inside = pairs[first..].iter().take_while(|pair| pair.at - step / 2.0 < right);
        let (count, sum) = inside.fold((0, 0.0), |(count, sum), pair| (count + 1, sum + of(pair)));
        let around = || {
            let next = pairs.get(pairs.partition_point(|pair| pair.at < middle))?;
            (next.at - step <= middle).then(|| of(next))
        };
        if count > 0 { Some(sum / float(count)) } else { around() }
    };
    (0..count).map(mean).collect()
}

/// The range of the axis of power: round numbers.
pub(crate) fn scale(pairs: &[Pair]) -> (f64, f64) {
    let all = || pairs.iter().flat_map(|pair| [pair.books, pair.reference]);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let low = if low < 0.6 * high { 0.0 } else { low };
    let round = 10_f64.powf(((high - low).max(1e-3)).log10().floor()) / 2.0;
    let (bottom, top) = ((low / round).floor() * round, (high / round).ceil() * round);
    (bottom, if top > bottom { top } else { bottom + round })
}

/// A label of the axis.
pub(crate) fn watt(watts: f64, range: f64) -> String {
    if range < 1.0 {
        format!("{watts:.3}")
    } else if range < 50.0 {
        format!("{watts:.1}")
    } else {
        format!("{watts:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_and_shows_both() {
        let pair = |at: usize| {
            let load = if at % 40 < 20 { 40.0 } else { 100.0 };
            Pair { at: float(at), books: load, reference: 1.2 * load + 20.0 }
        };
        let pairs: Vec<Pair> = (1..=120).filter(|at| !(60..70).contains(at)).map(pair).collect();
        let text = plot(&pairs, 1.0);
        assert!(text.lines().count() <= 16 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text, @r"
          W  ⠒ books  ░ reference
        150 ┤           ▂▂▂▂▂▂▂▂▂▂▂▂                 ▂▂▂▂▂▂            ▂▂▂▂▂▂▂▂▂▂▂
            ┤           ░░░░░░░░░░░░                 ░░░░░░            ░░░░░░░░░░░
            ┤           ░░░░░░░░░░░░                 ░░░░░░            ░░░░░░░░░░░
            ┤           ⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀                 ⣀⣀⣀⣀⣀⣀            ⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⡀
            ┤           ⡇░░░░░░░░░░░⡇                ░░░░░░⡇           ⡇░░░░░░░░░░⢸
            ┤           ⡇░░░░░░░░░░░⡇                ░░░░░░⡇           ⡇░░░░░░░░░░⢸
         75 ┤▄▄▄▄▄▄▄▄▄▄▄⡇░░░░░░░░░░░⡇▄▄▄▄▄▄▄▄▄▄▄     ░░░░░░⡇▄▄▄▄▄▄▄▄▄▄▄⡇░░░░░░░░░░⢸
            ┤░░░░░░░░░░░⡇░░░░░░░░░░░⡇░░░░░░░░░░░     ░░░░░░⡇░░░░░░░░░░░⡇░░░░░░░░░░⢸
            ┤⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⠇░░░░░░░░░░░⣇⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⡀     ░░░░░░⣇⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⠇░░░░░░░░░░⢸
            ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
            ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
          0 ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░     ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
            └──────────────────────────────────────────────────────────────────────
             0 s                                                              120 s
        ");
        assert_eq!(plot(&[], 1.0), "");
        let one = plot(&[Pair { at: 1.0, books: 0.0, reference: 0.0 }], 1.0);
        assert_eq!(one.lines().count(), 15, "{one}");
    }
}
