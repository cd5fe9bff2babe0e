//! Any bytes as a `.machine` file, through the real agent: whatever the machine does, the books balance in the JSON.
//!
//! Give it the machines of the tests to begin with: `cargo fuzz run replay fuzz/corpus/replay tests/machines`.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use wattribute::cli::replay;
use wattribute::config::{Config, Sources};
use wattribute::export::stdout;
use wattribute::host::script::{Item, Script};

/// More ticks than this tell nothing new and take long.
const TICKS_MAX: usize = 50;

fuzz_target!(|bytes: &[u8]| {
    if ticks(bytes).is_none_or(|ticks| ticks > TICKS_MAX) {
        return;
    }
    let mut lines = Vec::new();
    let Ok(replayed) = replay::run(bytes, config(bytes), |line| lines.push(line)) else { return };
    let shown = stdout::summary(&replayed.agent.snapshot(), 50);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?} is not safe to show");
    lines.push(replayed.total);
    let mut sums = BTreeMap::new();
    for line in &lines {
        let value: Value = serde_json::from_str(line).expect("a line of JSON");
        balance(&value, &mut sums);
    }
});

/// The meters that the file's `# set meters.…` lines name, if they are right.
fn config(bytes: &[u8]) -> Config {
    let text = String::from_utf8_lossy(bytes);
    let sets = text.lines().filter_map(|line| line.strip_prefix("# set ")).filter(|set| set.starts_with("meters."));
    let sets: Vec<String> = sets.map(str::to_owned).collect();
    let env: [(String, String); 0] = [];
    Config::load(Sources { file: None, env, sets: &sets }).map(|loaded| loaded.config).unwrap_or_default()
}

/// How many ticks the file has; nothing if it is no machine.
fn ticks(bytes: &[u8]) -> Option<usize> {
    let mut script = Script::new(bytes);
    let mut count = 0;
    while let Some(item) = script.next_item().ok()? {
        count += usize::from(matches!(item, Item::Tick(_)));
    }
    Some(count)
}

/// Holds what version 1 of the JSON promises of one line; `sums` are those of the lines before.
fn balance(line: &Value, sums: &mut BTreeMap<String, u64>) {
    let total = line["type"] == "total";
    let mut add_up = |what: String, energy: u64| {
        let sum = sums.entry(what.clone()).or_default();
        if total {
            assert_eq!(*sum, energy, "{what}: the total is the sum of the ticks");
        } else {
            *sum += energy;
        }
    };
    let workloads = line["workloads"].as_array().expect("a list of workloads");
    let node = workloads.iter().find(|workload| workload["id"] == "node").expect("the node");
    for zone in line["zones"].as_array().expect("a list of zones").iter().filter(|zone| zone["role"] == "primary") {
        let id = zone["zone"].as_str().expect("an id");
        let part = |key: &str| zone[key].as_u64().unwrap_or(0);
        let (measured, attributed) = (part("measured_uj"), part("attributed_uj"));
        assert_eq!(measured, part("idle_uj") + attributed + part("unattributed_uj"), "{id} of {line}");
        assert_eq!(node["active_uj"][id].as_u64(), Some(attributed), "{id}: the node is what is attributed");
        add_up(format!("zone {id}"), measured);
    }
    for workload in workloads {
        let id = workload["id"].as_str().expect("an id");
        for (zone, energy) in workload["active_uj"].as_object().expect("energy by zone") {
            let energy = energy.as_u64().expect("whole microjoules");
            add_up(format!("{id} {zone}"), energy);
            if !total && workload["kind"] != "process" {
                let children = workloads.iter().filter(|child| child["parent"] == workload["id"]);
                let inside: u64 = children.map(|child| child["active_uj"][zone].as_u64().unwrap_or(0)).sum();
                let exited = workload["exited_uj"][zone].as_u64().unwrap_or(0);
                assert_eq!(energy, inside + exited, "{id} {zone}: its children and its exited, in {line}");
            }
        }
    }
}
