//! The default configuration as a commented file, printed by `wattribute config`: every key of the table with what
//! it does, what may be written and which variable sets it, ready to be edited.

use super::environment::variable_of;
use super::keys::{KEYS, Key, SECTIONS};

/// The widest comment, in characters.
const WIDTH: usize = 100;

/// The default configuration with every key and its explanation. Read back, it is [`super::Config::default`].
#[must_use]
pub fn document() -> String {
    let mut out = String::new();
    let head = "The configuration of wattribute. Every key is here with its default; keep what you change. \
                Stronger than this file: the environment, then --set key.path=value.";
    comment(&mut out, 0, head);
    let mut open: Vec<&str> = Vec::new();
    for key in KEYS {
        let parts: Vec<&str> = key.path.split('.').collect();
        let Some((name, parents)) = parts.split_last() else { continue };
        let shared = open.iter().zip(parents).take_while(|(a, b)| a == b).count();
        for depth in shared..parents.len() {
            let path = parents.get(..=depth).unwrap_or_default().join(".");
            out.push('\n');
            let help = SECTIONS.iter().find(|(section, _)| *section == path).map_or("", |(_, help)| help);
            comment(&mut out, depth, help);
            line(&mut out, depth, &format!("{}:", parents.get(depth).unwrap_or(&"")));
        }
        if parents.is_empty() {
            out.push('\n');
        }
        open = parents.to_vec();
        explain(&mut out, parents.len(), key);
        line(&mut out, parents.len(), &format!("{name}: {}", key.default));
    }
    out
}

fn explain(out: &mut String, depth: usize, key: &Key) {
    comment(out, depth, key.help);
    let default = if key.default == "\"\"" { "nothing" } else { key.default };
    let variable = variable_of(key.path).map(|(name, unit)| format!("; environment {name}{unit}"));
    comment(out, depth, &format!("({}; default {default}{})", key.form, variable.unwrap_or_default()));
    for field in key.fields {
        comment(out, depth, &format!("- {}: {}", field.name, field.help));
    }
    for row in key.example {
        line(out, depth, &format!("# {row}"));
    }
}

/// A comment, broken between words.
fn comment(out: &mut String, depth: usize, text: &str) {
    let width = WIDTH - 2 * depth - 2;
    let mut row = String::new();
    for word in text.split_whitespace() {
        if !row.is_empty() && row.chars().count() + 1 + word.chars().count() > width {
            line(out, depth, &format!("# {row}"));
            row.clear();
        }
        if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    line(out, depth, &format!("# {row}"));
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.push_str(&"  ".repeat(depth));
    out.push_str(text);
    out.push('\n');
}
