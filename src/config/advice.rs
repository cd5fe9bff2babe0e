//! What is said about a key or a word that is not there: which one was probably meant.
//!
//! The candidates come from the table of keys. A misspelt name is compared with the names that are valid beside it
//! (Damerau-Levenshtein, so that swapped letters count once); a name that is right but stands in the wrong place is
//! found by its last part; failing both, the valid names are listed.

use super::keys::{KEYS, Key, SECTIONS, find};
use super::values::{quote, shorten};

/// `name` below `prefix`.
pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") }
}

/// Says that there is no `name` below the section `prefix`, and which key was probably meant.
pub(super) fn unknown(prefix: &str, name: &str) -> String {
    let path = join(prefix, name);
    let siblings = below(prefix);
    let advice = if let Some(nearest) = nearest(name, &siblings) {
        format!("did you mean '{nearest}'?")
    } else if let Some((section, last)) = find(&path).and_then(|key| key.path.rsplit_once('.')) {
        format!("keys are nested, write '{last}' below '{section}'")
    } else if let Some(elsewhere) = paths().find(|path| path.rsplit('.').next() == Some(name)) {
        format!("did you mean '{elsewhere}'?")
    } else {
        format!("valid here: {}", siblings.join(", "))
    };
    format!("unknown key {}; {advice}", quote(&path))
}

/// Says that a record below `key` has no such field, and which one was probably meant.
pub(super) fn unknown_field(key: &Key, record: &str, field: &str) -> String {
    let fields: Vec<_> = key.fields.iter().map(|known| known.name).collect();
    let record = join(key.path, &shorten(record));
    if field.is_empty() {
        return format!("expected keys below '{record}' ({})", fields.join(", "));
    }
    let advice = match nearest(field, &fields) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => format!("valid here: {}", fields.join(", ")),
    };
    format!("unknown key {}; {advice}", quote(&join(&record, field)))
}

/// Says that a section holds keys and no value.
pub(super) fn is_no_value(section: &str) -> String {
    format!("expected keys below it ({}), found one value", below(section).join(", "))
}

/// All paths, sections and keys.
fn paths() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|(section, _)| *section).chain(KEYS.iter().map(|key| key.path))
}

/// The names that are valid directly below a section.
fn below(prefix: &str) -> Vec<&'static str> {
    let names = KEYS.iter().filter_map(|key| {
        let rest = if prefix.is_empty() { key.path } else { key.path.strip_prefix(prefix)?.strip_prefix('.')? };
        rest.split('.').next()
    });
    let mut names: Vec<_> = names.collect();
    names.dedup(); // the rows of one section stand together
    names
}

/// The name that is most like `name`, if any is: at most about every third letter differs.
pub(super) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(&name, other);
    let best = names.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.6).then_some(best)
}
