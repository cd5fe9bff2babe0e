//! The file: YAML read into the table of keys, with the line of everything that is wrong.
//!
//! The text is first read into a small tree in which every scalar keeps its spelling, so that `off` and `none` are
//! words and `1.50` stays `1.50` whatever a version of YAML makes of them. The reader is limited (1 MiB, 16 levels,
//! 4096 nodes, 1024 replayed events), so that a hostile file costs milliseconds: far more than a configuration needs.

use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Error, Options, Spanned};

use super::Config;
use super::advice::{is_no_value, join, unknown, unknown_field};
use super::keys::{Key, find, is_section};
use super::load::ConfigError;
use super::values::{quote, shorten};

/// The largest file, in bytes.
const SIZE_MAX: usize = 1 << 20;

/// Reads the file's bytes over `config`. The path is for errors only.
pub(super) fn apply(config: &mut Config, path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    let source = text(bytes).map_err(|problem| ConfigError::File { path: path.into(), problem })?;
    let root = parse(source).and_then(|root| Walk { config, source }.root(root));
    root.map_err(|Wrong { line, problem }| match line {
        0 => ConfigError::File { path: path.into(), problem },
        line => ConfigError::Line { path: path.into(), line, problem },
    })
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() > SIZE_MAX {
        return Err(format!("{} bytes is too large for a configuration (1 MiB at most)", bytes.len()));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = good.split(|byte| *byte == b'\n').count();
        format!("not UTF-8: byte {} on line {line}; save the file as UTF-8", error.valid_up_to())
    })
}

fn parse(source: &str) -> Result<Spanned<Node>, Wrong> {
    serde_saphyr::from_str_with_options(source, options()).map_err(|error| wrong_yaml(&error))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 16, max_nodes: 4096, max_events: 16384 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 1024 },
        // Doubled keys are found in the walk, which knows their paths.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        reject_unsupported_tags: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// What is wrong, and on which line; 0 is unknown.
struct Wrong {
    line: u64,
    problem: String,
}

/// Our words for what a configuration is likely to have, and the parser's for the rest.
fn wrong_yaml(error: &Error) -> Wrong {
    let line = error.location().map_or(0, |location| location.line());
    let problem = match error.without_snippet() {
        Error::MultipleDocuments { .. } => "a second document begins here; a configuration is one document".into(),
        Error::Budget { .. }
        | Error::AliasError { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "too many levels, values or aliases for a configuration".into()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias inside of what it stands for".into(),
        Error::NullIntoString { .. } | Error::Unexpected { .. } => "expected a name as key".into(),
        other => {
            let message = other.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            format!("not valid YAML: {message}{}", if message.contains("tab") { "; indent with spaces" } else { "" })
        }
    };
    Wrong { line, problem }
}

/// A YAML node. Scalars that YAML takes for numbers or booleans are `Plain`: their spelling is in the source.
enum Node {
    Null,
    Plain,
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// The walk over the tree. Lines are those of keys: that is where people look for the value too.
struct Walk<'a> {
    config: &'a mut Config,
    source: &'a str,
}

impl Walk<'_> {
    fn root(&mut self, root: Spanned<Node>) -> Result<(), Wrong> {
        let line = root.referenced.line();
        match root.value {
            Node::Null => Ok(()),
            Node::Map(entries) => self.section("", entries),
            _ => Err(Wrong { line, problem: "expected keys such as 'interval: 1s'".into() }),
        }
    }

    fn section(&mut self, prefix: &str, entries: Vec<(Spanned<String>, Spanned<Node>)>) -> Result<(), Wrong> {
        once(prefix, &entries)?;
        for (name, node) in entries {
            let line = name.referenced.line();
            let path = join(prefix, &name.value);
            // A name with a dot in it is no key, even if the path looks like one.
            let known = if name.value.contains('.') { None } else { find(&path) };
            match (known, node.value) {
                (Some(key), value) => {
                    let node = Spanned { value, referenced: node.referenced, defined: node.defined };
                    self.value(key, line, node)?;
                }
                (None, value) if !name.value.contains('.') && is_section(&path) => match value {
                    Node::Null => {} // all of its keys are comments
                    Node::Map(entries) => self.section(&path, entries)?,
                    _ => return Err(Wrong { line, problem: format!("{path}: {}", is_no_value(&path)) }),
                },
                _ => return Err(Wrong { line, problem: unknown(prefix, &name.value) }),
            }
        }
        Ok(())
    }

    fn value(&mut self, key: &Key, line: u64, node: Spanned<Node>) -> Result<(), Wrong> {
        let path = key.path;
        if let Some(text) = self.scalar(&node) {
            return (key.set)(self.config, &text).map_err(|wrong| Wrong { line, problem: format!("{path}: {wrong}") });
        }
        let (entries, set_entry) = match (node.value, key.set_entry) {
            (Node::Map(records), _) if !key.fields.is_empty() => return self.records(key, records),
            (Node::Map(entries), Some(set_entry)) => (entries, set_entry),
            (Node::Map(_), None) => return Err(shape(line, path, key.form, "keys below it")),
            (Node::List(items), _) if key.is_list => return self.list(key, line, &items),
            _ => return Err(shape(line, path, key.form, "a list")),
        };
        once(path, &entries)?;
        for (name, node) in entries {
            let (line, path) = (name.referenced.line(), join(path, &shorten(&name.value)));
            let text = self.scalar(&node).ok_or_else(|| shape(line, &path, "one value", "a list or keys"))?;
            let set = set_entry(self.config, &name.value, &text);
            set.map_err(|wrong| Wrong { line, problem: format!("{path}: {wrong}") })?;
        }
        Ok(())
    }

    /// The items of a list, as `--set` gives them: with commas between.
    fn list(&mut self, key: &Key, line: u64, items: &[Spanned<Node>]) -> Result<(), Wrong> {
        let items: Option<Vec<String>> = items.iter().map(|item| self.scalar(item)).collect();
        let items = items.ok_or_else(|| shape(line, key.path, key.form, "a list of lists or keys"))?;
        let set = (key.set)(self.config, &items.join(","));
        set.map_err(|wrong| Wrong { line, problem: format!("{}: {wrong}", key.path) })
    }

    /// Named records, whose fields the key knows.
    fn records(&mut self, key: &Key, records: Vec<(Spanned<String>, Spanned<Node>)>) -> Result<(), Wrong> {
        once(key.path, &records)?;
        for (record, node) in records {
            let (line, path) = (record.referenced.line(), join(key.path, &shorten(&record.value)));
            let Node::Map(fields) = node.value else {
                return Err(Wrong { line, problem: unknown_field(key, &record.value, "") });
            };
            once(&path, &fields)?;
            for (name, node) in fields {
                let line = name.referenced.line();
                let wrong = |problem| Wrong { line, problem };
                let field = key.fields.iter().find(|known| known.name == name.value);
                let field = field.ok_or_else(|| wrong(unknown_field(key, &record.value, &name.value)))?;
                let path = join(&path, field.name);
                let text = self.scalar(&node).ok_or_else(|| shape(line, &path, "one value", "a list or keys"))?;
                let set = (field.set)(self.config, &record.value, &text);
                set.map_err(|problem| wrong(format!("{path}: {problem}")))?;
            }
        }
        Ok(())
    }

    /// The text of a scalar as it was written; null is empty. `None` for lists and maps.
    fn scalar(&self, node: &Spanned<Node>) -> Option<String> {
        match &node.value {
            Node::Null => Some(String::new()),
            Node::Text(text) => Some(text.clone()),
            Node::Plain => {
                let span = node.defined.span();
                let start = usize::try_from(span.byte_offset()?).ok()?;
                let end = start + usize::try_from(span.byte_len()?).ok()?;
                self.source.get(start..end).map(str::to_string)
            }
            Node::List(_) | Node::Map(_) => None,
        }
    }
}

fn shape(line: u64, path: &str, form: &str, found: &str) -> Wrong {
    Wrong { line, problem: format!("{path}: expected {form}, found {found}") }
}

/// Refuses a key that is there twice: which one counts would be a guess.
fn once(prefix: &str, entries: &[(Spanned<String>, Spanned<Node>)]) -> Result<(), Wrong> {
    for (i, (name, _)) in entries.iter().enumerate() {
        if let Some((first, _)) = entries.iter().take(i).find(|(other, _)| other.value == name.value) {
            let key = quote(&join(prefix, &name.value));
            let problem = format!("{key} is there twice, first on line {}", first.referenced.line());
            return Err(Wrong { line: name.referenced.line(), problem });
        }
    }
    Ok(())
}
