//! The estimator as a meter: what it integrates, what it is told later, and the user's file.

use std::time::Duration;

use super::*;
use crate::host::memory::Memory;
use crate::meter::Why;

const CPUINFO: &str = "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nmodel name : Intel(R) Xeon(R) \
    Processor @ 2.50GHz\nstepping : 4\nflags : fpu hypervisor\n\nprocessor : 1\nvendor_id : GenuineIntel\n";

fn host(files: &[(&str, &str)]) -> Host {
    let mut memory = Memory::default();
    for (path, text) in files {
        memory.set_file(path, text.as_bytes()).unwrap();
    }
    Host::memory(memory)
}

fn found(host: &Host, config: &Config) -> Box<dyn Meter> {
    match discover(host, config) {
        Found::Meters(mut meters) => meters.remove(0),
        _ => panic!("it is always there"),
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp { boot: Duration::from_secs(seconds), ..Timestamp::default() }
}

fn read(meter: &mut dyn Meter, host: &Host, seconds: u64) -> Value {
    let mut out = [Reading { at: at(0), value: Value::Missing(Why::Pending) }];
    meter.refresh(host, at(seconds));
    meter.read(host, at(seconds), &mut out);
    out[0].value
}

fn set(host: &Host, path: &str, text: &str) {
    host.with_memory(|memory| memory.set_file(path, text.as_bytes()).unwrap());
}

#[test]
fn the_load_is_a_place_on_the_curve() {
    let curve: [Microwatts; 11] = std::array::from_fn(|at| Microwatts(1000 + 100 * (at * at) as u64));
    for (busy, power) in [(0, 1000), (10, 1100), (15, 1250), (95, 10_050), (100, 11_000), (130, 11_000)] {
        assert_eq!(on_curve(&curve, CpuTime(busy), CpuTime(100)), Microwatts(power), "{busy} %");
    }
    assert_eq!(on_curve(&curve, CpuTime(0), CpuTime(0)), Microwatts(1000));
    let _ = on_curve(&curve, CpuTime(u64::MAX), CpuTime(u64::MAX));
}

#[test]
fn stolen_time_is_not_busy() {
    let host = host(&[("proc/stat", "cpu 0 0 0 0 0 0 0 0\ncpu0 0\n"), ("proc/cpuinfo", CPUINFO)]);
    let mut meter = found(&host, &Config::default());
    let idle = meter.zones()[0].idle.unwrap().0;
    read(meter.as_mut(), &host, 0);
    set(&host, "proc/stat", "cpu 0 0 0 40 10 0 0 50\ncpu0 0\n");
    assert_eq!(read(meter.as_mut(), &host, 1), Value::Ticks(idle.0), "a second at rest");
    assert_eq!(meter.zones()[0].quality, Quality::Estimated);
}

#[test]
fn what_is_learnt_later_changes_the_zone_once() {
    let host = host(&[("proc/stat", "cpu 0 0 0 0\ncpu0 0\ncpu1 0\n"), ("proc/cpuinfo", CPUINFO)]);
    let mut meter = found(&host, &Config::default());
    assert!(meter.zones()[0].why.contains("CPU name in no table"), "{}", meter.zones()[0].why);
    meter.host_type("m5.large");
    assert!(meter.refresh(&host, at(1)));
    let why = meter.zones()[0].why.clone();
    assert!(why.contains("2 of 96 threads") && why.contains("instance type m5.large (the node's label)"), "{why}");
    meter.host_type("m5.large");
    assert!(!meter.refresh(&host, at(2)));
    // A CPU goes.
    read(meter.as_mut(), &host, 3);
    set(&host, "proc/stat", "cpu 0 0 0 0\ncpu0 0\n");
    read(meter.as_mut(), &host, 4);
    assert!(meter.refresh(&host, at(5)));
    assert!(meter.zones()[0].why.contains("1 of 96 threads"));
}

#[test]
fn a_file_that_is_none_is_refused_and_the_figures_are_the_built_in_ones() {
    let host = host(&[("proc/stat", "cpu 0 0 0 0\ncpu0 0\n"), ("proc/cpuinfo", CPUINFO)]);
    let plain = found(&host, &Config::default());
    assert!(plain.trouble().is_none());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.json");
    #[allow(clippy::disallowed_methods)] // a test's own file
    std::fs::write(&path, "{\"features\": [], \"mu\": [NaN, 1]}").unwrap();
    let mut config = Config::default();
    config.model.file = Some(path.clone());
    let meter = found(&host, &config);
    let trouble = meter.trouble().unwrap();
    let expected = format!("model.file {}: NaN at line 1 column", path.display());
    assert!(trouble.starts_with(&expected) && trouble.ends_with("; the built-in figures are used"), "{trouble}");
    assert_eq!(meter.zones(), plain.zones());
    config.model.file = Some(directory.path().to_owned());
    assert!(found(&host, &config).trouble().unwrap().contains("not a regular file"));
}

#[test]
fn what_of_the_file_is_ignored_is_said() {
    let host = host(&[("proc/stat", "cpu 0 0 0 0\ncpu0 0\n")]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("strange.json");
    let shape = built_in::UNKNOWN.shape;
    let zen4 =
        serde_json::json!({"idle_over_max": 0.2, "idle_w_per_thread": 0.3, "max_w_per_thread": 1.7, "shape": shape});
    let line = serde_json::json!({"b0": 0.1, "w": [0, 0, 0, 0, 0, 0, 0], "gen": {"zen4": 0.1, "zen44": 0.1}});
    let file = serde_json::json!({
        "features": figures::FEATURES, "mu": built_in::STANDARD.mean, "sd": built_in::STANDARD.spread,
        "default_shape": shape, "generations": {"zen4": zen4, "zen44": zen4}, "idle": line, "max": line,
    });
    #[allow(clippy::disallowed_methods)] // a test's own file
    std::fs::write(&path, file.to_string()).unwrap();
    let mut config = Config::default();
    config.model.file = Some(path.clone());
    let meter = found(&host, &config);
    let expected = "ignored: generations.\"zen44\", which this version does not know";
    assert_eq!(&*meter.trouble().unwrap(), format!("model.file {}: {expected}", path.display()));
    // Its median, and not the built-in one.
    assert!(meter.zones()[0].why.contains("1 thread, 0.3 to 1.7 W"), "{}", meter.zones()[0].why);
}

#[test]
fn the_error_at_rest_is_one_standard_deviation_of_what_nine_in_ten_lie_within() {
    let host = host(&[("proc/stat", "cpu 0 0 0 0\ncpu0 0\ncpu1 0\n"), ("proc/cpuinfo", CPUINFO)]);
    let zone = Arc::clone(&found(&host, &Config::default()).zones()[0]);
    let (idle, error) = zone.idle.unwrap();
    assert!(zone.why.contains("within a factor 2"), "{}", zone.why);
    // 1.645 of it are the factor 2: ln 2 / 1.645 = 0.4214.
    assert!((error.watts() / idle.watts() - 0.4214).abs() < 0.001, "{idle:?} {error:?}");
}

#[test]
fn the_tables_are_small() {
    let packed = cpus::XEON.len() + cpus::EPYC.len() + cpus::OPTERON.len();
    let figures = size_of_val(built_in::GENERATIONS) + size_of_val(&built_in::UNKNOWN);
    let sources = [include_str!("cpus.rs"), include_str!("built_in.rs"), include_str!("instances.rs")].map(str::len);
    let sum: usize = sources.iter().sum();
    assert!(sum <= 64 << 10, "{sum} bytes of tables in the source: {sources:?}");
    assert!(packed + figures <= 48 << 10, "{packed} bytes of names, {figures} of figures");
}
