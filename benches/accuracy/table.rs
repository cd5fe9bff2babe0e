//! The table: each figure beside what it has to reach and beside what other rules give in the same run.
//!
//! A figure with a bound is met if its size is at most the bound; what is no number is not met. A row without data says
//! so and counts as skipped, never as passed. The last line, `accuracy: P passed, F failed, S skipped`, is what
//! `.ci/run` sums up. [`Table::self_test`] shows at every run that a figure worse than its bound is refused.

use std::fmt::Write as _;

/// Rows stand below their title by so many columns.
const INDENT: usize = 3;

/// One figure.
struct Row {
    name: String,
    /// Why there is none, otherwise.
    figure: Result<f64, String>,
    bound: Option<f64>,
    others: Vec<f64>,
}

/// Rows of one unit, with the same other rules beside them.
#[derive(Default)]
struct Part {
    title: String,
    digits: usize,
    rules: Vec<&'static str>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// All figures of one run.
#[derive(Default)]
pub struct Table {
    parts: Vec<Part>,
}

/// How many rows have met their bound.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// At most their bound.
    pub passed: usize,
    /// Worse, or no number.
    pub failed: usize,
    /// Without data.
    pub skipped: usize,
}

/// What became of a row.
#[derive(PartialEq)]
enum Verdict {
    Met,
    Missed,
    Skipped,
    Shown,
}

impl Row {
    fn verdict(&self) -> Verdict {
        match (&self.figure, self.bound) {
            (Err(_), _) => Verdict::Skipped,
            (Ok(_), None) => Verdict::Shown,
            (Ok(figure), Some(bound)) if figure.abs() <= bound => Verdict::Met,
            _ => Verdict::Missed,
        }
    }
}

impl Table {
    /// Begins a part; `rules` names the other rules that its rows have figures of.
    pub fn part(&mut self, title: &str, digits: usize, rules: &[&'static str]) {
        self.parts.push(Part { title: title.to_owned(), digits, rules: rules.to_vec(), ..Part::default() });
    }

    /// A figure that must be at most `bound`, on either side of 0.
    pub fn bounded(&mut self, name: &str, figure: f64, bound: f64, others: &[f64]) {
        self.push(Row { name: name.to_owned(), figure: Ok(figure), bound: Some(bound), others: others.to_vec() });
    }

    /// A figure that is shown only.
    pub fn shown(&mut self, name: &str, figure: f64, others: &[f64]) {
        self.push(Row { name: name.to_owned(), figure: Ok(figure), bound: None, others: others.to_vec() });
    }

    /// A figure that cannot be had here.
    pub fn skipped(&mut self, name: &str, why: &str) {
        self.push(Row { name: name.to_owned(), figure: Err(why.to_owned()), bound: None, others: Vec::new() });
    }

    /// A line below the rows of this part.
    pub fn note(&mut self, text: String) {
        if let Some(part) = self.parts.last_mut() {
            part.notes.push(text);
        }
    }

    fn push(&mut self, row: Row) {
        if self.parts.is_empty() {
            self.part("", 1, &[]);
        }
        if let Some(part) = self.parts.last_mut() {
            part.rows.push(row);
        }
    }

    /// How the rows did.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in self.parts.iter().flat_map(|part| &part.rows) {
            match row.verdict() {
                Verdict::Met => counts.passed += 1,
                Verdict::Missed => counts.failed += 1,
                Verdict::Skipped => counts.skipped += 1,
                Verdict::Shown => {}
            }
        }
        counts
    }

    /// As text, with the counts in the last line.
    pub fn text(&self) -> String {
        let names = self.parts.iter().flat_map(|part| part.rows.iter().map(|row| row.name.chars().count()));
        let titles = self.parts.iter().map(|part| part.title.chars().count().saturating_sub(INDENT));
        let width = names.chain(titles).max().unwrap_or(0);
        let mut text = String::new();
        for part in &self.parts {
            part.write(&mut text, width);
        }
        let Counts { passed, failed, skipped } = self.counts();
        let _ = writeln!(text, "accuracy: {passed} passed, {failed} failed, {skipped} skipped");
        text
    }

    /// Shows that bounds are held.
    ///
    /// # Errors
    /// The figure that got through.
    pub fn self_test() -> Result<(), String> {
        let cases = [
            (Ok(1.0), Some(1.0), Verdict::Met),
            (Ok(-1.0), Some(1.0), Verdict::Met),
            (Ok(1.01), Some(1.0), Verdict::Missed),
            (Ok(-1.01), Some(1.0), Verdict::Missed),
            (Ok(f64::NAN), Some(1.0), Verdict::Missed),
            (Ok(f64::INFINITY), Some(1.0), Verdict::Missed),
            (Ok(1e9), None, Verdict::Shown),
            (Err("no data".to_owned()), Some(1.0), Verdict::Skipped),
        ];
        for (figure, bound, expected) in cases {
            let said = format!("{figure:?} with the bound {bound:?}");
            let row = Row { name: String::new(), figure, bound, others: Vec::new() };
            if row.verdict() != expected {
                return Err(format!("the table takes {said} for something else"));
            }
        }
        let mut table = Self::default();
        table.bounded("worse than its bound", 2.0, 1.0, &[]);
        table.skipped("without data", "none");
        let right = table.counts() == Counts { passed: 0, failed: 1, skipped: 1 };
        let told =
            table.text().ends_with("accuracy: 0 passed, 1 failed, 1 skipped\n") && table.text().contains("WORSE");
        (right && told).then_some(()).ok_or_else(|| "the table does not count a figure worse than its bound".to_owned())
    }
}

impl Part {
    fn write(&self, text: &mut String, width: usize) {
        let _ = write!(text, "{:<w$}  {:>8}  {:>8}       ", self.title, "figure", "to reach", w = width + INDENT);
        for rule in &self.rules {
            let _ = write!(text, "  {rule:>12}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        for row in &self.rows {
            row.write(text, width, self.digits);
        }
        for note in &self.notes {
            let _ = writeln!(text, "   {note}");
        }
        text.push('\n');
    }
}

impl Row {
    fn write(&self, text: &mut String, width: usize, digits: usize) {
        let figure = match &self.figure {
            Ok(figure) => format!("{figure:.digits$}"),
            Err(why) => {
                let _ = writeln!(text, "   {:<width$}  skipped: {why}", self.name);
                return;
            }
        };
        let bound = self.bound.map_or("–".to_owned(), |bound| format!("{bound:.digits$}"));
        let word = match self.verdict() {
            Verdict::Met => "ok",
            Verdict::Missed => "WORSE",
            _ => "",
        };
        let _ = write!(text, "   {:<width$}  {figure:>8}  {bound:>8}  {word:<5}", self.name);
        for other in &self.others {
            let shown = if other.is_nan() { "–".to_owned() } else { format!("{other:.digits$}") };
            let _ = write!(text, "  {shown:>12}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
}
