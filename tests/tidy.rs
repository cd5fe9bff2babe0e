//! The rules of the house, as tests: sizes, headers, who may use whom, where names live, what the documents promise.
//!
//! Each rule is a function from sources to complaints, so that the last test here can show that it complains. An
//! exception is named with its reason, and one that is no longer needed is itself a complaint.

#![allow(clippy::disallowed_methods)] // a test reads the sources of the repository it stands in
#![allow(clippy::unwrap_used, clippy::panic)] // the helpers of a test fail as the test does

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use wattribute::attribute::rest;
use wattribute::config::{Config, Sources};
use wattribute::{cli, meter, semconv};

/// Most lines of a file, tests aside.
const LINES_MAX: usize = 600;
/// Most lines of main.rs.
const MAIN_MAX: usize = 60;

/// The rooms, those that others build on first. A room uses rooms of lines above its own, and itself.
const RANKS: &[&[&str]] = &[
    &["unit", "clock", "semconv"],
    &["config", "telemetry"],
    &["host"],
    &["meter", "workload"],
    &["activity"],
    &["attribute"],
    &["enrich", "export"],
    &["agent", "validate"],
    &["cli"],
    &["main"],
];
/// The only rooms that may speak to the user or count themselves.
const MAY_LOG: &[&str] = &["export", "agent", "cli"];
/// Uses against the direction: file, room, reason.
const AGAINST: &[(&str, &str, &str)] = &[
    ("meter/model.rs", "activity", "the estimator reads /proc/stat with the one parser there is, activity::cpu"),
    ("attribute/account.rs", "export", "a book is kept in the form in which the snapshot shows it (ZoneBook)"),
];
/// Literals that look like names of metrics or attributes and are none: file, literal, reason.
const NO_NAMES: &[(&str, &str, &str)] =
    &[("workload/docker.rs", "k8s.io", "the containerd namespace of Kubernetes, a directory name")];

/// One file of `src`, taken apart.
struct Source {
    /// Relative to `src`.
    path: String,
    text: String,
    /// Without tests and comments, and with empty strings.
    code: String,
    /// The string literals of `code`.
    strings: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let (code, strings) = scan(&without_tests(text));
        Self { path: path.into(), text: text.into(), code, strings }
    }

    /// The first component of its path: `meter` for meter.rs and meter/rapl.rs.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
    }
}

/// Where the repository is: as cargo says at run time, so that the same test can be pointed at a copy.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources() -> Vec<Source> {
    let top = root().join("src");
    let mut found = Vec::new();
    let mut queue = vec![top.clone()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
                found.push(Source::new(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 30, "the sources are there");
    found
}

/// The text without its `#[cfg(test)]` items. The code is formatted, so an item ends where its indentation does.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#["));
        if item.is_some_and(|item| !item.ends_with(';') && !item.ends_with('}')) {
            let end = format!("{indent}}}");
            let _ = lines.by_ref().find(|line| line.strip_suffix(';').unwrap_or(line) == end);
        }
    }
    kept
}

/// Takes comments out of code and the contents out of strings; gives both.
fn scan(text: &str) -> (String, Vec<String>) {
    let (mut code, mut strings) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        let raw = raw.filter(|hashes| rest[1 + hashes..].starts_with('"') && !code.ends_with(char::is_alphanumeric));
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(hashes) = raw {
            let inner = &rest[2 + hashes..];
            let end = inner.find(&format!("\"{}", "#".repeat(hashes))).unwrap_or(inner.len());
            strings.push(inner[..end].to_owned());
            code.push_str("\"\"");
            rest = inner.get(end + 1 + hashes..).unwrap_or_default();
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.map_or(rest.len() - 1, |end| end + 1);
            strings.push(rest[1..end].to_owned());
            code.push_str("\"\"");
            rest = rest.get(end + 1..).unwrap_or_default();
        } else if let Some(length) = char_literal(rest) {
            code.push_str("' '");
            rest = &rest[length..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    (code, strings)
}

/// The length of the character literal that `text` begins with; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if let Some(escaped) = inner.strip_prefix('\\') {
        let skip = 2 + escaped.chars().next()?.len_utf8();
        return Some(skip + text[skip..].find('\'')? + 1);
    }
    let length = inner.chars().next()?.len_utf8();
    inner[length..].starts_with('\'').then_some(length + 2)
}

/// The rooms that a file uses: what follows `crate::`, and `super::` where that is the crate.
fn uses(source: &Source) -> BTreeSet<String> {
    let depth = source.path.matches('/').count() + 1;
    let mut found = BTreeSet::new();
    for start in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in source.code.match_indices(&start) {
            let before = source.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue; // `$crate::`, or the tail of a longer chain of `super::`
            }
            let rest = &source.code[at + start.len()..];
            let word =
                |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
            let Some(group) = rest.strip_prefix('{') else {
                found.insert(word(rest));
                continue;
            };
            let mut nested = 0;
            let mut first = true;
            for (at, c) in group.char_indices() {
                match c {
                    '{' => nested += 1,
                    '}' if nested == 0 => break,
                    '}' => nested -= 1,
                    ',' if nested == 0 => first = true,
                    c if first && !c.is_whitespace() => {
                        found.insert(word(&group[at..]));
                        first = false;
                    }
                    _ => {}
                }
            }
        }
    }
    found
}

fn rank(room: &str) -> Option<usize> {
    RANKS.iter().position(|rooms| rooms.contains(&room))
}

/// Rule: no file is too long.
fn sizes(sources: &[Source]) -> Vec<String> {
    let lines = |source: &Source| without_tests(&source.text).lines().count();
    let limit = |source: &Source| if source.path == "main.rs" { MAIN_MAX } else { LINES_MAX };
    let long = sources.iter().filter(|source| !source.is_test() && lines(source) > limit(source));
    long.map(|source| format!("{}: {} lines, more than {}", source.path, lines(source), limit(source))).collect()
}

/// Rule: a file begins by saying what it is for.
fn headers(sources: &[Source]) -> Vec<String> {
    let bare = sources.iter().filter(|source| !source.text.starts_with("//! "));
    bare.map(|source| format!("{}: does not begin with `//! `", source.path)).collect()
}

/// Rule: rooms build on each other in one direction.
fn directions(sources: &[Source], against: &[(&str, &str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources.iter().filter(|source| source.path != "lib.rs" && !source.is_test()) {
        let room = source.room();
        let Some(own) = rank(room) else {
            wrong.push(format!("{}: the room `{room}` has no rank; give it one in tests/tidy.rs", source.path));
            continue;
        };
        for used in uses(source).into_iter().filter(|used| used != room) {
            let Some(other) = rank(&used) else { continue }; // an item of the crate's root, or a word of a macro
            let allowed = other < own && (used != "telemetry" || MAY_LOG.contains(&room));
            let exception = against.iter().find(|(file, room, _)| *file == source.path && *room == used);
            match exception {
                Some(exception) if !allowed => drop(needed.insert(*exception)),
                None if !allowed => wrong.push(format!("{}: may not use `{used}`", source.path)),
                _ => {}
            }
        }
    }
    let unused = against.iter().filter(|exception| !needed.contains(exception));
    wrong.extend(unused.map(|(file, room, _)| format!("{file}: no longer uses `{room}`; take the exception away")));
    wrong
}

/// Rule: some words stand in some rooms only.
fn words(sources: &[Source], forbidden: &[&str], applies: impl Fn(&Source) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| applies(source) && !source.is_test()) {
        for word in forbidden.iter().filter(|word| source.code.contains(**word)) {
            wrong.push(format!("{}: `{word}` does not belong here", source.path));
        }
    }
    wrong
}

/// Rule: only host opens files.
fn doors(sources: &[Source]) -> Vec<String> {
    let files = ["std::fs", "rustix::fs", "tokio::fs", "nix::fcntl", "nix::dir", "File::", "OpenOptions", "openat"];
    words(sources, &files, |source| source.room() != "host")
}

/// Rule: the ledger computes, and does nothing else.
fn purity(sources: &[Source]) -> Vec<String> {
    let effects = [
        "std::fs",
        "std::io",
        "std::net",
        "std::env",
        "std::process",
        "std::thread",
        "rustix",
        "nix::",
        "crate::host",
        "clock::now",
        "Instant",
        "SystemTime",
        "tokio",
        "telemetry",
        "println!",
        "print!",
        "dbg!",
    ];
    words(sources, &effects, |source| source.room() == "attribute")
}

/// Rule: nothing is left undone in silence.
fn leftovers(sources: &[Source]) -> Vec<String> {
    words(sources, &["todo!", "unimplemented!", "dbg!"], |_| true)
}

/// Rule: names of metrics and attributes stand in semconv.rs alone.
fn names(sources: &[Source], no_names: &[(&str, &str, &str)]) -> Vec<String> {
    let known: BTreeSet<&str> = semconv::attr::ALL.iter().map(|(key, _)| *key).collect();
    let is_name = |text: &str| {
        let spelt =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte));
        let ours = ["hw.", "k8s.", "container.", "process.", "wattribute."];
        let prefixed = ours.iter().any(|prefix| text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
        known.contains(text) || (spelt && prefixed)
    };
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources.iter().filter(|source| source.path != "semconv.rs" && !source.is_test()) {
        for text in source.strings.iter().filter(|text| is_name(text)) {
            match no_names.iter().find(|(file, literal, _)| *file == source.path && literal == text) {
                Some(exception) => drop(needed.insert(*exception)),
                None => wrong.push(format!("{}: {text:?} belongs in semconv.rs", source.path)),
            }
        }
    }
    let unused = no_names.iter().filter(|exception| !needed.contains(exception));
    wrong.extend(unused.map(|(file, text, _)| format!("{file}: {text:?} is gone; take the exception away")));
    wrong
}

/// The shell lines of a document: in its fenced blocks, without a prompt.
fn shell_lines(document: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut shell = false;
    for line in document.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            shell = !shell && matches!(language, "sh" | "console");
        } else if shell && (line.starts_with("cargo ") || line.starts_with("make ") || line.starts_with("wattribute")) {
            lines.push(line.split('#').next().unwrap_or_default().trim().to_owned());
        }
    }
    lines
}

/// Rule: what a document tells people to type can be typed. `help` gives the help of a command of ours.
fn commands(document: &str, makefile: &str, help: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in shell_lines(document) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "make" {
            for target in words[1..].iter().filter(|word| !word.contains('=')) {
                if !makefile.lines().any(|line| line.starts_with(&format!("{target}:"))) {
                    wrong.push(format!("`{line}`: the Makefile has no `{target}`"));
                }
            }
            continue;
        }
        let ours = if words[0] == "wattribute" {
            &words[1..]
        } else {
            let known = ["run", "test", "build", "install", "fmt", "clippy", "fuzz", "+nightly", "bench"];
            if !known.contains(&words[1]) {
                wrong.push(format!("`{line}`: cargo has no `{}`", words[1]));
            }
            if words[1] != "run" || words.contains(&"--example") {
                continue;
            }
            words.split(|word| *word == "--").nth(1).unwrap_or_default()
        };
        let command = ours.first().filter(|word| !word.starts_with('-')).unwrap_or(&"");
        let Some(help) = help(command) else {
            wrong.push(format!("`{line}`: there is no command `{command}`"));
            continue;
        };
        for (at, flag) in ours.iter().enumerate().filter(|(_, word)| word.starts_with("--")) {
            if !help.contains(flag) {
                wrong.push(format!("`{line}`: `{command}` does not take {flag}"));
            }
            if *flag == "--set"
                && let Err(error) =
                    load(None, &[ours.get(at + 1).copied().unwrap_or_default().trim_matches('\'').to_owned()])
            {
                wrong.push(format!("`{line}`: {error}"));
            }
        }
    }
    wrong
}

/// Rule: a configuration that a document shows is taken.
fn configurations(document: &str) -> Vec<String> {
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter_map(|block| load(Some(block), &[]).err()).collect()
}

/// Rule: links of a document and the source files that it names lead somewhere.
fn links(name: &str, document: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let linked = document.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let named = document.split('`').skip(1).step_by(2);
    let named = named
        .filter(|text| ["src/", "tests/", "examples/", "e2e/", "otel-config/"].iter().any(|dir| text.starts_with(dir)));
    let named = named.filter(|text| !text.contains(['*', '{', '<', ' ']));
    let local = linked.chain(named).filter(|target| !target.is_empty() && !target.contains("://"));
    let dead: BTreeSet<&str> = local.filter(|target| !exists(target) && !target.contains("xyz")).collect();
    dead.into_iter().map(|target| format!("{name}: {target} is not there")).collect()
}

fn load(file: Option<&str>, sets: &[String]) -> Result<Config, String> {
    let file = file.map(|text| (PathBuf::from("README.md"), text.as_bytes().to_vec()));
    let env: [(String, String); 0] = [];
    Config::load(Sources { file, env, sets }).map(|loaded| loaded.config).map_err(|error| error.to_string())
}

fn help(command: &str) -> Option<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_wattribute"));
    let output =
        if command.is_empty() { program.arg("--help") } else { program.args([command, "--help"]) }.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn files_are_short_and_begin_with_a_header() {
    let sources = sources();
    none(&[sizes(&sources), headers(&sources)].concat());
}

#[test]
fn rooms_build_on_each_other_in_one_direction() {
    none(&directions(&sources(), AGAINST));
}

#[test]
fn only_host_opens_files() {
    none(&doors(&sources()));
}

#[test]
fn the_ledger_only_computes() {
    none(&purity(&sources()));
}

#[test]
fn nothing_is_left_undone() {
    none(&leftovers(&sources()));
}

#[test]
fn names_stand_in_semconv_alone() {
    none(&names(&sources(), NO_NAMES));
}

#[test]
fn metrics_md_is_the_table() {
    assert!(read("METRICS.md") == semconv::markdown(), "METRICS.md is not what the table says: run `make metrics`");
}

/// A backend without a machine that it measured on was never run.
#[test]
fn every_meter_has_a_machine() {
    let mut measured: BTreeMap<&str, usize> = meter::METERS.iter().map(|backend| (backend.name, 0)).collect();
    for entry in std::fs::read_dir(root().join("tests/machines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "machine") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let sets: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# set ")).map(str::to_owned).collect();
        let config = load(None, &sets).unwrap();
        let replayed = cli::replay::run(&bytes, config, |_| ()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for book in &replayed.agent.snapshot().zones {
            // The rest of the node is reckoned, by no backend.
            if book.total.measured.0 > 0 && book.zone.id != rest::ZONE {
                *measured.entry(book.zone.source).or_default() += 1;
            }
        }
    }
    let idle: Vec<_> = measured.iter().filter(|(_, zones)| **zones == 0).collect();
    assert!(idle.is_empty(), "no machine under tests/machines is measured by {idle:?}");
    assert_eq!(measured.len(), meter::METERS.len(), "zones name their backend as METERS does: {measured:?}");
}

#[test]
fn documents_keep_what_they_promise() {
    let makefile = read("Makefile");
    let mut wrong = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let document = read(name);
        wrong.extend(commands(&document, &makefile, help));
        wrong.extend(configurations(&document));
        wrong.extend(links(name, &document, |path| root().join(path).exists()));
    }
    assert!(shell_lines(&read("README.md")).len() >= 2, "the README begins with commands");
    none(&wrong);
}

/// A rule that never complains holds nothing.
#[test]
fn every_rule_complains_when_it_is_broken() {
    let one = |path: &str, text: &str| vec![Source::new(path, text)];
    let long = "//! x\n".to_owned() + &"fn f() {}\n".repeat(LINES_MAX);
    assert_eq!(sizes(&one("meter.rs", &long)).len(), 1);
    let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn f() {}\n".repeat(LINES_MAX));
    assert!(sizes(&one("meter.rs", &tested)).is_empty(), "tests do not count");
    assert_eq!(sizes(&one("main.rs", &"\n".repeat(MAIN_MAX + 1))).len(), 1);
    assert_eq!(headers(&one("meter.rs", "// x\nfn f() {}\n")).len(), 1);

    for upwards in
        ["use crate::agent::Agent;", "use crate::{unit, agent::{Agent}};", "fn f() { super::super::agent::f() }"]
    {
        assert_eq!(
            directions(&one("meter/rapl.rs", upwards), &[]),
            ["meter/rapl.rs: may not use `agent`"],
            "{upwards}"
        );
    }
    assert!(
        directions(&one("meter/rapl.rs", "use crate::host::Host; use super::agent; // crate::cli"), &[]).is_empty()
    );
    assert_eq!(directions(&one("workload.rs", "use super::activity;"), &[]).len(), 1);
    assert_eq!(directions(&one("meter.rs", "use crate::telemetry;"), &[]).len(), 1, "the core does not log");
    assert_eq!(directions(&one("newroom.rs", ""), &[]).len(), 1);
    assert_eq!(directions(&[], &[("meter.rs", "agent", "")]).len(), 1, "an exception that nobody needs");

    assert_eq!(doors(&one("meter/rapl.rs", "let x = std::fs::read(\"a\");")).len(), 1);
    assert!(doors(&one("host/live.rs", "use rustix::fs::open;")).is_empty());
    assert_eq!(purity(&one("attribute/idle.rs", "let now = crate::clock::now();")).len(), 1);
    assert_eq!(purity(&one("attribute.rs", "async fn f() { tokio::task::yield_now().await }")).len(), 1);
    assert_eq!(leftovers(&one("cli.rs", "fn f() { todo!() }")).len(), 1);
    assert!(leftovers(&one("cli.rs", "// todo!\n#[cfg(test)]\nmod tests {\n    fn f() { dbg!(1); }\n}\n")).is_empty());

    assert_eq!(names(&one("meter.rs", "f(\"hw.id\")"), &[]).len(), 1);
    assert_eq!(names(&one("meter.rs", "f(r#\"wattribute.pod.energy\"#)"), &[]).len(), 1);
    assert_eq!(
        names(&one("meter.rs", "f('\"', \"slurm.job.id\")"), &[]).len(),
        1,
        "behind a quote that is a character"
    );
    assert!(names(&one("meter.rs", "/// \"hw.id\"\nf(\"hw.\", \"process: x\", 'a')"), &[]).is_empty());
    assert_eq!(names(&[], NO_NAMES).len(), NO_NAMES.len());

    let typed = |line: &str| commands(&format!("```sh\n{line}\n```\n"), "test: ## x\n", help).len();
    assert_eq!((typed("make test"), typed("make tea")), (0, 1));
    assert_eq!(
        (typed("wattribute once --for 3s"), typed("wattribute twice"), typed("wattribute once --wat")),
        (0, 1, 1)
    );
    assert_eq!(
        (typed("cargo run --release -- discover"), typed("cargo run -- discovers"), typed("cargo sing")),
        (0, 1, 1)
    );
    assert_eq!((typed("wattribute --set interval=5s"), typed("wattribute --set intervall=5s")), (0, 1));
    assert_eq!(configurations("```yaml\nintervall: 1s\n```\n").len(), 1);
    let dead = links("x.md", "[a](src/a.rs) [b](https://x/y) `src/b.rs` `src/xyz.rs`", |path| {
        Path::new(path) == Path::new("src/a.rs")
    });
    assert_eq!(dead, ["x.md: src/b.rs is not there"]);
}
