//! The file of a wattmeter: rows of time and power, as loggers write them. RFC 4180 and what is made of it in the field.
//!
//! Fields are separated by semicolons, tabs or commas, whichever the first row has; with the first two a number may
//! have a decimal comma, with commas only in quotes. A header names the columns (`time`, `timestamp`, `t`, `seconds`; `watts`, `power`, `power_mw`,
//! …); without one they are the first two. A time is RFC 3339, or a number: seconds, ms, µs or ns since 1970 by its
//! magnitude, and below 10⁸ seconds since the start of the run. `#` begins a comment. A row that cannot be read costs
//! that row only, with its line and the reason; one with more fields than the first row is such a row, because a
//! decimal comma without quotes cuts a number in two.

use std::borrow::Cow;

use crate::validate::series::Sample;
use crate::validate::truth::Refused;

/// Numbers below this are seconds since the start, not since 1970.
const RELATIVE: f64 = 1e8;
/// The most fields of a row.
const FIELDS_MAX: usize = 1024;
/// The columns of time, in order of preference.
const TIMES: &[&str] = &["time", "timestamp", "t", "seconds", "time_s", "timestamp_s", "unix", "epoch", "datetime"];
/// The columns of power, in order of preference, and their unit in watts.
const POWERS: &[(&str, f64)] = &[
    ("watts", 1.0),
    ("power", 1.0),
    ("power_w", 1.0),
    ("w", 1.0),
    ("watt", 1.0),
    ("power_watts", 1.0),
    ("power_mw", 1e-3),
    ("milliwatts", 1e-3),
    ("power_uw", 1e-6),
    ("microwatts", 1e-6),
    ("power_kw", 1e3),
    ("kilowatts", 1e3),
    ("kw", 1e3),
];

/// What a file says.
#[derive(Debug, Default, PartialEq)]
pub struct Csv {
    /// Its rows, in their order; times are seconds since the start of the run.
    pub samples: Vec<Sample>,
    /// Rows that could not be read.
    pub refused: Refused,
}

/// Where the two columns are.
#[derive(Debug, Clone, Copy)]
struct Columns {
    time: usize,
    power: usize,
    /// Watts per unit.
    unit: f64,
}

/// How the fields of the file are told apart.
#[derive(Debug, Clone, Copy)]
struct Dialect {
    separator: char,
    decimal_comma: bool,
}

/// A time as the file writes it.
#[derive(Debug, Clone, Copy)]
enum When {
    /// Seconds since the start.
    Relative(f64),
    /// Seconds since 1970.
    Wall(f64),
}

/// Reads a file; `start` is when the run began, in seconds since 1970.
///
/// # Errors
/// Columns that cannot be told, with what there is.
pub fn parse(bytes: &[u8], start: f64) -> Result<Csv, String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut rows = text.lines().enumerate().map(|(at, row)| (at + 1, row.trim_end())).filter(|(_, row)| {
        let row = row.trim_start();
        !row.is_empty() && !row.starts_with('#')
    });
    let mut rows = rows.by_ref().peekable();
    let Some((_, first)) = rows.peek() else { return Ok(Csv::default()) };
    let dialect = dialect(first);
    let first = fields(first, dialect, FIELDS_MAX + 1);
    if first.len() > FIELDS_MAX {
        return Err(format!("more than {FIELDS_MAX} fields in its first row"));
    }
    let header = columns(&first, dialect)?;
    // A title of one field stands above rows of two.
    let width = first.len().max(2);
    if header.is_some() {
        rows.next();
    }
    let columns = header.unwrap_or(Columns { time: 0, power: 1, unit: 1.0 });
    let mut refused = Refused::default();
    let mut read = Vec::new();
    for (line, row) in rows {
        match sample(row, columns, width, dialect) {
            Ok((when, watts)) => read.push((line, when, watts)),
            Err(why) => refused.add(|| format!("line {line}"), || why),
        }
    }
    // A row with 0 in a file of dates is no row of the start.
    let relative = read.iter().filter(|(_, when, _)| matches!(when, When::Relative(_))).count();
    let is_relative = 2 * relative > read.len();
    let mut samples = Vec::with_capacity(read.len());
    for (line, when, watts) in read {
        let at = match when {
            When::Relative(at) if is_relative => at,
            When::Wall(at) if !is_relative => at - start,
            _ => {
                refused.add(|| format!("line {line}"), || "its time is not written like that of other lines".into());
                continue;
            }
        };
        samples.push(Sample { at, watts, line });
    }
    Ok(Csv { samples, refused })
}

fn dialect(row: &str) -> Dialect {
    let separator = [';', '\t'].into_iter().find(|separator| row.contains(*separator)).unwrap_or(',');
    Dialect { separator, decimal_comma: separator != ',' }
}

/// The fields of a row, without their quotes, and no more than `most`.
fn fields(row: &str, dialect: Dialect, most: usize) -> Vec<Cow<'_, str>> {
    let mut found = Vec::new();
    let mut rest = Some(row);
    while let Some(text) = rest.filter(|_| found.len() < most) {
        let inner = text.trim_start_matches(' ');
        let quoted = inner.strip_prefix('"').and_then(|inner| {
            let mut from = 0;
            loop {
                let end = from + inner[from..].find('"')?;
                if !inner[end + 1..].starts_with('"') {
                    return Some((inner[..end].replace("\"\"", "\""), &inner[end + 1..]));
                }
                from = end + 2;
            }
        });
        let (field, after) = quoted.map_or_else(
            || {
                let end = text.find(dialect.separator).unwrap_or(text.len());
                (Cow::Borrowed(text[..end].trim()), &text[end..])
            },
            |(field, after)| (Cow::Owned(field.trim().to_owned()), after),
        );
        found.push(field);
        rest = after.find(dialect.separator).map(|at| &after[at + dialect.separator.len_utf8()..]);
    }
    found
}

/// The columns that a header names; `None` if the row is no header.
fn columns(header: &[Cow<'_, str>], dialect: Dialect) -> Result<Option<Columns>, String> {
    // `mW` and `MW` differ by their case alone, so neither is taken without its name in words.
    let names: Vec<String> = header.iter().map(|name| name.to_lowercase().replace([' ', '-'], "_")).collect();
    let time = TIMES.iter().find_map(|known| names.iter().position(|name| name == known));
    let power = POWERS.iter().find_map(|(known, unit)| Some((names.iter().position(|name| name == known)?, *unit)));
    let is_data = header.first().is_some_and(|field| when(field, dialect).is_ok());
    if time.is_none() && power.is_none() && (is_data || header.len() < 2) {
        return Ok(None);
    }
    let other = |taken: usize| (names.len() == 2).then_some(1 - taken.min(1));
    let shown = || header.iter().map(|name| shorten(name)).collect::<Vec<_>>().join(", ");
    let time = time.or_else(|| other(power.map_or(1, |(at, _)| at)));
    let time = time.ok_or_else(|| format!("no column of time (time, timestamp, t or seconds) among {}", shown()))?;
    let power = power.or_else(|| other(time).filter(|at| !names[*at].ends_with("mw")).map(|at| (at, 1.0)));
    let (power, unit) =
        power.ok_or_else(|| format!("no column of power (watts, power, power_w, power_mw …) among {}", shown()))?;
    Ok(Some(Columns { time, power, unit }))
}

fn sample(row: &str, columns: Columns, width: usize, dialect: Dialect) -> Result<(When, f64), String> {
    // One more shows that there are more; a separator that only ends the row makes no field.
    let fields = fields(row, dialect, width + 1);
    let more = fields.get(width);
    if more.is_some_and(|field| dialect.separator == ',' || !field.is_empty()) {
        let advice = match dialect.separator {
            ',' => "; write decimal commas in quotes, or semicolons between the fields",
            _ => "",
        };
        return Err(format!("more than the {width} fields of the first row{advice}"));
    }
    let field = |at: usize, what: &str| {
        let text = fields.get(at).map(AsRef::as_ref).filter(|text: &&str| !text.is_empty());
        text.ok_or_else(|| format!("no {what} in column {}", at + 1))
    };
    let when = when(field(columns.time, "time")?, dialect)?;
    let text = field(columns.power, "power")?;
    let watts = number(text, dialect).ok_or_else(|| format!("'{}' is no power", shorten(text)))?;
    Ok((when, watts * columns.unit))
}

fn number(text: &str, dialect: Dialect) -> Option<f64> {
    let Some((whole, decimals)) = text.split_once(',').filter(|_| !text.contains('.')) else {
        return text.parse().ok();
    };
    // Among commas it was in quotes, where three digits may as well be thousands.
    let is_decimal = dialect.decimal_comma || decimals.len() != 3;
    is_decimal.then(|| format!("{whole}.{decimals}").parse().ok()).flatten()
}

fn when(text: &str, dialect: Dialect) -> Result<When, String> {
    if let Some(number) = number(text, dialect) {
        return match number.abs() {
            size if !size.is_finite() => Err(format!("'{}' is no time", shorten(text))),
            size if size < RELATIVE => Ok(When::Relative(number)),
            size if size < 1e11 => Ok(When::Wall(number)),
            size if size < 1e14 => Ok(When::Wall(number / 1e3)),
            size if size < 1e17 => Ok(When::Wall(number / 1e6)),
            _ => Ok(When::Wall(number / 1e9)),
        };
    }
    rfc3339(text).map(When::Wall)
}

/// `2026-03-01T12:00:00.5+01:00` in seconds since 1970. A leap second is the second after it.
fn rfc3339(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{}' is no time; write seconds or 2026-03-01T12:00:00Z", shorten(text));
    let (date, clock) = text.split_once(['T', 't', ' ']).ok_or_else(wrong)?;
    let date = numbers(date, '-', [4, 2, 2]).ok_or_else(wrong)?;
    let zone = clock.find(['Z', 'z', '+', '-']);
    let (clock, zone) = clock.split_at(zone.unwrap_or(clock.len()));
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let clock = numbers(clock, ':', [2, 2, 2]).ok_or_else(wrong)?;
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction: f64 = digits.then(|| format!("0.{fraction}").parse().ok()).flatten().ok_or_else(wrong)?;
    let east = match zone {
        "" => return Err(format!("'{}' has no time zone; write Z or +01:00 behind it", shorten(text))),
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':').ok_or_else(wrong)?;
            let [hours, minutes, _] = numbers(&format!("{hours}:{minutes}:00"), ':', [2, 2, 2]).ok_or_else(wrong)?;
            let seconds = hours * 3600 + minutes * 60;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let [year, month, day] = date;
    let [hour, minute, second] = clock;
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid {
        return Err(wrong());
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - east;
    #[allow(clippy::cast_precision_loss)] // exact below 2^53
    Ok(seconds as f64 + fraction)
}

/// Three numbers with so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Days since 1970-01-01 in the Gregorian calendar: years begin in March, so that the odd day ends them.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The user's text for a sentence: a binary file given by mistake cannot garble a terminal.
fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-03-01T12:00:00Z.
    const START: f64 = 1_772_366_400.0;

    fn rows(text: &str) -> Vec<(f64, f64)> {
        let csv = parse(text.as_bytes(), START).unwrap();
        assert_eq!(csv.refused.first, [], "{text:?}");
        csv.samples.iter().map(|sample| (sample.at, sample.watts)).collect()
    }

    #[test]
    fn the_forms_that_loggers_write() {
        let two = [(1.0, 12.5), (2.5, 13.0)];
        assert_eq!(rows("1,12.5\n2.5,13\n"), two, "no header");
        assert_eq!(rows("\u{feff}# logger\r\n\r\nPower_W,Time\r\n12.5,1\r\n13,2.5\r\n"), two, "by name");
        assert_eq!(rows("t;volts;watts\n1;230;12,5\n2,5;231;13\n"), two, "decimal comma");
        assert_eq!(rows("seconds\tpower_mw\n1\t12500\n2,5\t13000\n"), two, "tabs");
        assert_eq!(rows("\"time\",\"kw\"\n\"1\",\"0.0125\"\n\"2.5\",\"0.013\"\n"), two, "quotes");
        assert_eq!(rows("time,outlet 3\n1,12.5\n2.5,13\n"), two, "two columns, one of them time");
        assert_eq!(rows("1772366401,12.5\n1772366402.5,13\n"), two, "unix seconds");
        assert_eq!(rows("1772366401000,12.5\n1772366402500,13\n"), two, "ms");
        assert_eq!(rows("1772366401000000,12.5\n1772366402500000,13\n"), two, "µs");
        let nanos = rows("1772366401000000000,12.5\n1772366402500000000,13\n");
        assert!(nanos.iter().zip(two).all(|(a, b)| (a.0 - b.0).abs() < 1e-6), "{nanos:?}");
        assert_eq!(rows("2026-03-01T12:00:01Z,12.5\n2026-03-01 13:00:02.5+01:00,13\n"), two);
        assert_eq!(rows("2026-03-01t04:30:01-07:30,12.5\n2026-03-01T12:00:02.50z,13\n"), two);
        assert_eq!(rows(""), []);
        assert_eq!((days(1970, 1, 1), days(2000, 2, 29), days(2000, 3, 1)), (0, 11_016, 11_017));
    }

    #[test]
    fn a_decimal_comma_without_quotes_is_not_cut() {
        let refused = |text: &str| {
            let csv = parse(text.as_bytes(), START).unwrap();
            let said = csv.refused.first.iter().map(|one| format!("{}: {}", one.place, one.why)).collect::<Vec<_>>();
            (csv.samples.len(), said.join(" | "))
        };
        let advice = "more than the 2 fields of the first row; \
                      write decimal commas in quotes, or semicolons between the fields";
        assert_eq!(refused("time,watts\n1,0,95\n2,95\n"), (1, format!("line 2: {advice}")));
        assert_eq!(refused("1,95\n1,5,95,5\n"), (1, format!("line 2: {advice}")), "without a header");
        assert_eq!(refused("time,watts\n1,0,\n"), (0, format!("line 2: {advice}")));
        assert_eq!(refused("time;watts\n1;95;7\n"), (0, "line 2: more than the 2 fields of the first row".into()));
        assert_eq!(refused("a logger\n1,95\n").0, 1, "a title is no first row");
        assert_eq!(rows("time;watts\n1,5;95,25;\n"), [(1.5, 95.25)], "the separator ends the row");
        assert_eq!(rows("time,watts\n\"1,5\",\"95,25\"\n"), [(1.5, 95.25)], "in quotes");
        assert_eq!(refused("time,watts\n1,\"1,250\"\n"), (0, "line 2: '1,250' is no power".into()), "or thousands?");
    }

    #[test]
    fn a_row_of_commas_is_not_read_to_its_end() {
        let commas = ",".repeat(20_000_000);
        let time = crate::clock::now().boot;
        let csv = parse(format!("time,watts\n1,95\n{commas}\n2,96\n").as_bytes(), START).unwrap();
        assert_eq!((csv.samples.len(), csv.refused.count), (2, 1));
        let error = parse(commas.as_bytes(), START).unwrap_err();
        assert_eq!(error, "more than 1024 fields in its first row");
        let time = crate::clock::now().boot.saturating_sub(time);
        assert!(time.as_secs() < 4, "{time:?}");
    }

    #[test]
    fn a_bad_line_costs_that_line_only() {
        let text = "time,watts\n1772366401,10\nsoon,10\n1772366402,many\n1772366403\n2026-03-01T12:00:04,1\n0,5\n\
                    2026-13-01T12:00:04Z,1\n1772366405,NaN\n";
        let csv = parse(text.as_bytes(), START).unwrap();
        let said: Vec<String> = csv.refused.first.iter().map(|one| format!("{}: {}", one.place, one.why)).collect();
        assert_eq!(
            said,
            [
                "line 3: 'soon' is no time; write seconds or 2026-03-01T12:00:00Z",
                "line 4: 'many' is no power",
                "line 5: no power in column 2",
                "line 6: '2026-03-01T12:00:04' has no time zone; write Z or +01:00 behind it",
                "line 8: '2026-13-01T12:00:04Z' is no time; write seconds or 2026-03-01T12:00:00Z",
                "line 7: its time is not written like that of other lines",
            ]
        );
        assert_eq!(csv.samples.iter().map(|sample| sample.line).collect::<Vec<_>>(), [2, 9], "NaN is sifted later");
        let error = parse(b"time,volts,amps\n1,230,0.1\n", START).unwrap_err();
        assert_eq!(error, "no column of power (watts, power, power_w, power_mw …) among time, volts, amps");
        assert!(parse(b"time,MW\n1,3\n", START).is_err(), "milli or mega?");
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[0-9tw,;\t\"\n .:ZT+-]{0,80}") {
            let _ = parse(&bytes, START);
            let _ = parse(text.as_bytes(), START);
        }
    }
}
