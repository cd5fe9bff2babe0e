//! Every machine under tests/machines runs through the real agent in virtual time.
//!
//! Three things are held: the books balance at every tick (checked from the JSON alone, as any reader could); each
//! `# expect` line of the machine file, written by hand from the facts, holds; and the whole report equals the golden
//! file beside it (`BLESS=1 cargo test --test machines` rewrites it: read the difference before committing).
//!
//! `# expect 2 zones[rapl:package-0].state = wrap` reads: at tick 2, in the list `zones`, of the entry with that id.
//! Instead of a tick stands `total`, instead of `= value` `absent`; numbers take a tolerance, `= 15000000 ±2`.

// A test may panic, and reads files of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wattribute::cli::replay;
use wattribute::config::{Config, Idle, IdleShare, Sources};
use wattribute::host::memory::Memory;

fn machines() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines");
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "machine"))
        .collect();
    found.sort();
    found
}

/// `# set attribution.idle=none` lines configure the run.
fn config(text: &str) -> Config {
    let sets: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("# set ")).map(str::to_owned).collect();
    let env: [(String, String); 0] = [];
    Config::load(Sources { file: None, env, sets: &sets }).unwrap().config
}

/// The report of a machine whose cgroup.procs are trusted, as on a live one: `/proc` is not listed.
fn report_by_cgroups(path: &Path) -> Vec<Value> {
    let bytes = std::fs::read(path).unwrap();
    let mut memory = Memory::default();
    memory.trust_cgroups();
    let mut lines = Vec::new();
    let config = config(&String::from_utf8_lossy(&bytes));
    let total = replay::run_on(memory, &bytes, config, |line| lines.push(line)).unwrap().total;
    lines.push(total);
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn report(path: &Path) -> (String, Vec<Value>, String) {
    let bytes = std::fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = Vec::new();
    let replayed = replay::run(&bytes, config(&text), |line| lines.push(line))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    lines.push(replayed.total);
    let values = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    (text, values, lines.join("\n") + "\n")
}

#[test]
fn golden_reports() {
    let mut wrong = Vec::new();
    let all = machines();
    assert!(all.len() > 5, "the machines are there");
    for path in all {
        let (_, _, got) = report(&path);
        let golden = path.with_extension("jsonl");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&golden, &got).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != got {
            wrong.push(path.file_name().unwrap().to_owned());
        }
    }
    assert!(wrong.is_empty(), "differ from their golden files: {wrong:?}");
}

#[test]
fn expectations() {
    let mut wrong = Vec::new();
    let mut held = 0;
    for path in machines() {
        let (text, values, _) = report(&path);
        held += hold(&path, &text, &values, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} held; these did not:\n{}", held, wrong.join("\n"));
    assert!(held > 0);
}

/// Where every process is in a cgroup.procs, both ways of finding them must say the same.
#[test]
fn expectations_by_cgroups() {
    let mut wrong = Vec::new();
    let mut held = 0;
    for path in machines() {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        if !text.contains("/cgroup.procs --") || text.contains("# only scanned:") {
            continue;
        }
        let values = report_by_cgroups(&path);
        held += hold(&path, &text, &values, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} held; these did not:\n{}", held, wrong.join("\n"));
    assert!(held > 50, "the machines with cgroup.procs are there");
}

/// How many of a machine's expectations hold; the others go to `wrong`.
fn hold(path: &Path, text: &str, values: &[Value], wrong: &mut Vec<String>) -> usize {
    let mut held = 0;
    for (number, line) in text.lines().enumerate() {
        let Some(expectation) = line.strip_prefix("# expect ") else { continue };
        match check(values, expectation) {
            Ok(()) => held += 1,
            Err(why) => wrong.push(format!("{}:{}: {expectation}: {why}", path.display(), number + 1)),
        }
    }
    held
}

fn check(values: &[Value], expectation: &str) -> Result<(), String> {
    let mut words = expectation.splitn(2, ' ');
    let (when, rest) = (words.next().unwrap_or(""), words.next().ok_or("too short")?);
    let line = values
        .iter()
        .find(|value| {
            if when == "total" {
                value["type"] == "total"
            } else {
                value["type"] == "tick" && value["tick"].as_u64().map(|tick| tick.to_string()).as_deref() == Some(when)
            }
        })
        .ok_or("no such tick")?;
    if let Some(path) = rest.strip_suffix(" absent") {
        return match look_up(line, path) {
            None => Ok(()),
            Some(value) => Err(format!("is there: {value}")),
        };
    }
    let (path, wanted) = rest.split_once(" = ").ok_or("expected ' = ' or ' absent'")?;
    let value = look_up(line, path).ok_or("is not there")?;
    let (wanted, tolerance) = wanted.split_once(" ±").unwrap_or((wanted, "0"));
    if let (Some(got), Ok(wanted)) = (value.as_f64(), wanted.parse::<f64>()) {
        let tolerance: f64 = tolerance.parse().map_err(|_| "the tolerance is no number")?;
        return if (got - wanted).abs() <= tolerance { Ok(()) } else { Err(format!("is {value}")) };
    }
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if shown == wanted { Ok(()) } else { Err(format!("is {shown}")) }
}

/// `zones[ID].state`, `workloads[ID].active_uj[ZONE]`, `workloads[ID].attributes[k8s.pod.uid]`, `interval_s`.
fn look_up<'a>(line: &'a Value, path: &str) -> Option<&'a Value> {
    let Some((list, rest)) = path.split_once('[') else { return line.get(path) };
    let (id, rest) = match rest.find("].") {
        Some(end) => (&rest[..end], &rest[end + 2..]),
        None => (rest.strip_suffix(']')?, ""),
    };
    let key = if list == "zones" { "zone" } else { "id" };
    let entry = line[list].as_array()?.iter().find(|entry| entry[key] == id)?;
    if rest.is_empty() {
        return Some(entry);
    }
    match rest.split_once('[') {
        None => entry.get(rest),
        Some((field, inner)) => entry.get(field)?.get(inner.strip_suffix(']')?),
    }
}

/// Idle energy is shown with somebody or with nobody, also of a zone that was primary for a part of the time.
#[test]
fn idle_energy_that_is_shown_adds_up() {
    let mut changed = 0;
    for path in machines() {
        let bytes = std::fs::read(&path).unwrap();
        let mut config = config(&String::from_utf8_lossy(&bytes));
        config.attribution.idle_share = IdleShare::Even;
        config.attribution.idle = Idle::Learned;
        let mut lines = Vec::new();
        let total = replay::run(&bytes, config, |line| lines.push(line)).unwrap().total;
        for line in lines.iter().chain([&total]) {
            let line: Value = serde_json::from_str(line).unwrap();
            for zone in line["zones"].as_array().unwrap() {
                let (id, at) = (zone["zone"].as_str().unwrap(), format!("{}: {}", path.display(), line["tick"]));
                assert_eq!(zone["idle_uj"].is_u64(), zone["idle_unshared_uj"].is_u64(), "{at} {id}");
                let Some(idle) = zone["idle_uj"].as_u64() else { continue };
                let with = |workload: &Value| workload["idle_uj"][id].as_u64().unwrap_or(0);
                let shown: u64 = line["workloads"].as_array().unwrap().iter().map(with).sum();
                assert_eq!(idle, shown + zone["idle_unshared_uj"].as_u64().unwrap(), "{at} {id}");
                changed += usize::from(zone["role"] != "primary" && idle > 0);
            }
        }
    }
    assert!(changed > 0, "a machine with a zone that is no longer primary");
}

#[test]
fn the_books_balance_at_every_tick() {
    for path in machines() {
        let (text, values, _) = report(&path);
        let split = !text.contains("# set processes.export=off");
        let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
        for value in &values {
            let at = format!("{}: {} {}", path.display(), value["type"], value["tick"]);
            let total = value["type"] == "total";
            for zone in value["zones"].as_array().unwrap().iter().filter(|zone| zone["role"] == "primary") {
                let id = zone["zone"].as_str().unwrap();
                let part = |key: &str| zone[key].as_u64().unwrap_or(0);
                assert_eq!(
                    part("measured_uj"),
                    part("idle_uj") + part("attributed_uj") + part("unattributed_uj"),
                    "{at} {id}"
                );
                let node = look_up(value, &format!("workloads[node].active_uj[{id}]")).and_then(Value::as_u64);
                assert_eq!(node, Some(part("attributed_uj")), "{at} {id}: the node is what is attributed");
                let sum = sums.entry(("zone".into(), id.into())).or_default();
                if total { assert_eq!(*sum, part("measured_uj"), "{at} {id}") } else { *sum += part("measured_uj") }
            }
            check_tree(value, split && !total, &at);
            let ids: Vec<&Value> =
                value["workloads"].as_array().unwrap().iter().map(|workload| &workload["id"]).collect();
            for workload in value["workloads"].as_array().unwrap() {
                let parent = &workload["parent"];
                assert!(parent.is_null() || ids.contains(&parent), "{at}: {} without its parent", workload["id"]);
            }
            for workload in value["workloads"].as_array().unwrap() {
                for (zone, energy) in workload["active_uj"].as_object().unwrap() {
                    let energy = energy.as_u64().unwrap();
                    let sum = sums.entry((workload["id"].as_str().unwrap().into(), zone.clone())).or_default();
                    if total { assert_eq!(*sum, energy, "{at} {} {zone}", workload["id"]) } else { *sum += energy }
                }
            }
        }
    }
}

/// A parent's energy is its children's and its exited.
fn check_tree(value: &Value, leaves: bool, at: &str) {
    let workloads = value["workloads"].as_array().unwrap();
    for parent in workloads.iter().filter(|workload| workload["kind"] != "process") {
        let children: Vec<&Value> = workloads.iter().filter(|child| child["parent"] == parent["id"]).collect();
        if value["type"] == "total" || (children.is_empty() && !leaves) {
            continue; // over a life, processes move
        }
        for (zone, energy) in parent["active_uj"].as_object().unwrap() {
            let parts: u64 = children.iter().map(|child| child["active_uj"][zone].as_u64().unwrap_or(0)).sum();
            let exited = parent["exited_uj"][zone].as_u64().unwrap_or(0);
            assert_eq!(energy.as_u64().unwrap(), parts + exited, "{at}: {} {zone}", parent["id"]);
        }
    }
}
