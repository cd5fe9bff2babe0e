//! The book checked against the wall, end to end: a recorded machine with a RAPL package and a second meter, the file
//! of a wattmeter beside it, and the figures that are known beforehand.

// A test may panic, and reads files of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wattribute::cli::replay::walk;
use wattribute::cli::validate::replayed;
use wattribute::config::{Config, Sources};
use wattribute::host::memory::Memory;
use wattribute::validate::lag::Lag;
use wattribute::validate::rolling::{Rolling, Standing};
use wattribute::validate::{Report, html, report};

/// When the machine booted, seconds since 1970; it has been up for 1000 s.
const BOOTED: u64 = 1_772_366_400;

/// A load that comes and goes without repeating itself, in W.
fn load(second: i64) -> u64 {
    let mut state = u64::try_from(second.div_euclid(7) + 1_000).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^= state >> 29;
    60 + state.wrapping_mul(0xbf58_476d_1ce4_e5b9) % 120
}

/// A machine whose dram (5 W) answers every fifth second only, beside a package (`load`) and a platform (30 W more).
fn slow_machine(ticks: i64) -> String {
    let dram = "sys/class/powercap/intel-rapl:0:0";
    let start = format!(
        "-- file {dram}/name --\ndram\n-- file {dram}/max_energy_range_uj --\n262143328850\n\
         -- file {dram}/energy_uj --\n0\n== tick 1 at 1s ==\n"
    );
    let text = machine(ticks).replacen("== tick 1 at 1s ==\n", &start, 1);
    let mut slow = String::new();
    for line in text.lines() {
        let _ = writeln!(slow, "{line}");
        let Some(tick) = line.strip_prefix("== tick ").and_then(|rest| rest.split(' ').next()) else { continue };
        let tick: i64 = tick.parse().unwrap();
        if tick % 5 == 0 {
            let _ = write!(slow, "-- ok {dram}/energy_uj --\n-- file {dram}/energy_uj --\n{}\n", tick * 5_000_000);
        } else {
            let _ = writeln!(slow, "-- error {dram}/energy_uj EAGAIN --");
        }
    }
    slow
}

/// A machine of one package that draws `load`, and of a platform zone that draws 30 W more.
fn machine(ticks: i64) -> String {
    let zone = |number: u8, name: &str| {
        let dir = format!("sys/class/powercap/intel-rapl:{number}");
        format!(
            "-- file {dir}/name --\n{name}\n-- file {dir}/max_energy_range_uj --\n262143328850\n\
             -- file {dir}/constraint_0_max_power_uw --\n400000000\n-- file {dir}/energy_uj --\n1000000\n"
        )
    };
    let mut text = format!("# a package and a platform\n{}{}", zone(0, "package-0"), zone(1, "psys"));
    let _ = write!(text, "-- file proc/uptime --\n1000.00 0.00\n");
    let _ = write!(text, "-- file proc/stat --\ncpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\nbtime {BOOTED}\n");
    let (mut package, mut psys) = (1_000_000, 1_000_000);
    for tick in 1..=ticks {
        package += load(tick) * 1_000_000;
        psys += (load(tick) + 30) * 1_000_000;
        let _ = write!(
            text,
            "== tick {tick} at {tick}s ==\n-- file sys/class/powercap/intel-rapl:0/energy_uj --\n{package}\n\
             -- file sys/class/powercap/intel-rapl:1/energy_uj --\n{psys}\n\
             -- file proc/stat --\ncpu  {0} 0 0 {0} 0 0 0 0 0 0\ncpu0 {0} 0 0 {0} 0 0 0 0 0 0\nbtime {BOOTED}\n",
            tick * 50
        );
    }
    text
}

fn config() -> Config {
    let env: [(String, String); 0] = [];
    Config::load(Sources { file: None, env, sets: &["attribution.idle=ratio".to_owned()] }).unwrap().config
}

fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn compared(ticks: i64, csv: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let machine = written(dir.path(), "node.machine", &machine(ticks));
    let csv = written(dir.path(), "wall.csv", csv);
    let mut report = replayed(config(), &machine, csv.to_str().unwrap()).unwrap();
    report.reference = "wall.csv".into();
    report
}

#[test]
fn a_wattmeter_30_s_late_with_a_sentinel() {
    let mut csv = String::from("# a logger\ntime,watts\n");
    for second in 0..630 {
        // 2 % of noise, alternating and so exactly known: a MAPE of 2 %.
        let noise = if second % 2 == 0 { 1.02 } else { 0.98 };
        let at = i64::try_from(BOOTED).unwrap() + 1000 + second;
        #[allow(clippy::cast_precision_loss)]
        let watts = if second == 300 { 4e6 } else { load(second - 30) as f64 * noise };
        let _ = writeln!(csv, "{at},{watts:.3}");
    }
    let report = compared(600, &csv);
    let seconds = report.comparison.lag.seconds().unwrap();
    assert!((seconds - 30.0).abs() < 1.0, "{seconds}");
    assert!(matches!(report.comparison.lag, Lag::Known { removed: true, .. }));
    let raw = report.comparison.raw.figures.mape.unwrap();
    let aligned = report.comparison.aligned.as_ref().unwrap().figures.mape.unwrap();
    assert!((aligned - 2.0).abs() < 0.3 && raw > 10.0 * aligned, "{raw} {aligned}");
    assert_eq!(report.refused.first.iter().map(|one| one.place.as_str()).collect::<Vec<_>>(), ["line 303"]);
    assert_eq!((report.identity.difference(), report.identity.measured > 0), (0, true));
    assert!(report.coverage() > 0.98, "{}", report.coverage());
    let page = html::page(&report);
    assert!(page.contains("<svg") && page.contains("Lag removed") && !page.contains("http"), "{page}");
    let hostile = Report { reference: "<script>\"&".into(), ..report.clone() };
    let page = html::page(&hostile);
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;&quot;&amp;"), "what a file is called is text");
    let json = report::json(&report);
    assert_eq!((&json["version"], &json["identity"]["difference_uj"]), (&1.into(), &0.into()));
    assert!((json["lag"]["lag_s"].as_f64().unwrap() - 30.0).abs() < 1.0);
}

#[test]
fn another_zone_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let machine = written(dir.path(), "node.machine", &machine(60));
    let report = replayed(config(), &machine, "rapl:psys").unwrap();
    let figures = &report.comparison.raw.figures;
    assert!((figures.bias() + 30.0).abs() < 1e-6, "30 W are not in the books: {figures:?}");
    let fit = figures.fit.unwrap();
    assert!((fit.scale - 1.0).abs() < 1e-6 && (fit.offset - 30.0).abs() < 1e-6, "{fit:?}");
    assert_eq!((figures.samples, report.zones.as_slice()), (60, &["rapl:package-0".to_owned()][..]));
    assert_eq!(report.comparison.lag.to_remove(), None, "{:?}", report.comparison.lag);

    let error = |named: &str| replayed(config(), &machine, named).unwrap_err();
    assert_eq!(
        error("rapl:package-0").to_string(),
        "rapl:package-0 is primary: it is part of the books and cannot check them; \
         give another meter or the CSV file of a wattmeter (zones fit for it: rapl:psys)"
    );
    assert_eq!(error("ipmi:dcmi").to_string(), "there is no zone ipmi:dcmi here (zones fit for it: rapl:psys)");
    assert!(error("wal.csv").to_string().starts_with("wal.csv: No such file or directory"));
    for named in ["rapl:package-0", "ipmi:dcmi", "wal.csv"] {
        assert!(error(named).is::<wattribute::cli::UsageError>(), "{named}: exit code 2");
    }
}

#[test]
fn a_slow_zone_spreads_its_energy() {
    let dir = tempfile::tempdir().unwrap();
    let machine = written(dir.path(), "node.machine", &slow_machine(62));
    let report = replayed(config(), &machine, "rapl:psys").unwrap();
    let figures = &report.comparison.raw.figures;
    assert_eq!(report.zones, ["rapl:package-0", "rapl:package-0/dram"]);
    assert!((report.comparison.step - 5.0).abs() < 1e-9, "the coarser cadence: {}", report.comparison.step);
    assert_eq!(figures.samples, 12, "60 of 62 s: the slow zone has not booked the last two");
    // Package and dram are booked; the platform is the package and 30 W.
    assert!((figures.bias() + 25.0).abs() < 1e-6 && figures.mae - 25.0 < 1e-6, "{figures:?}");
    assert_eq!(report.identity.difference(), 0);
}

#[test]
fn a_window_that_rolls() {
    let rolled = |machine: &str, reference: &str| {
        let mut rolling = Rolling::new(reference, 60.0, 1.0);
        let mut worst: f64 = 0.0;
        walk(Memory::default(), machine.as_bytes(), config(), |snapshot| {
            rolling.push(snapshot);
            if snapshot.tick > 20 && snapshot.tick % 7 == 0 {
                let figures = rolling.compare().unwrap().raw.figures;
                worst = worst.max((figures.reference - figures.books - 30.0).abs());
            }
        })
        .unwrap();
        (rolling, worst)
    };
    let (rolling, worst) = rolled(&machine(200), "rapl:psys");
    assert!(worst < 1e-6, "30 W are not in the books, in any window: {worst}");
    let figures = rolling.compare().unwrap().raw.figures;
    assert!((59..=60).contains(&figures.samples), "the window and no more: {}", figures.samples);
    let (rolling, worst) = rolled(&slow_machine(200), "rapl:psys");
    assert!((worst - 5.0).abs() < 1e-6, "dram is booked too, evenly: {worst}");
    assert_eq!(rolling.standing(), Standing::Fit);
    let standing = |reference: &str| {
        let mut rolling = Rolling::new(reference, 60.0, 1.0);
        walk(Memory::default(), machine(3).as_bytes(), config(), |snapshot| rolling.push(snapshot)).unwrap();
        assert!(rolling.compare().is_err());
        rolling.standing()
    };
    assert_eq!((standing("rapl:package-0"), standing("ipmi:dcmi")), (Standing::Primary, Standing::Absent));
}

#[test]
fn what_people_see() {
    let mut csv = String::from("t;W\n");
    for second in 1..=40 {
        let watts = if second == 20 { "N/A".to_owned() } else { format!("{},5", load(second) + 21) };
        let _ = writeln!(csv, "{second};{watts}");
    }
    let report = compared(40, &csv);
    insta::assert_snapshot!(report::text(&report), @r"
    books      Σ rapl:package-0 over 40.0 s
    reference  wall.csv
    identity   measured 4620.000 J = idle 2310.000 + attributed 0.000 + unattributed 2310.000; difference 0 µJ
    coverage   97.5 % of the run has both, in 39 cells of 1.0 s
    lag        the reference is on time (correlation 1.0000 there)

          W  ⠒ books  ░ reference
        200 ┤
            ┤
            ┤           ▆▆▆▆▆▆▆▆▆▆▆▆                                     ▄▄▄▄▄▄▄▄▄▄
            ┤          ⢠⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⡀▃▃▃▃▃▃▃▃▃  ▇▇▇▇▇▇▇▇▇▇▇▇            ⢀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀
            ┤▇▇▇▇▇▇▇▇▇▇⢸░░░░░░░░░░░░⣇⣀⣀⣀⣀⣀⣀⣀⣀⣀⡀ ⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⢢           ⢸░░░░░░░░░░
            ┤⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠊░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░⢸           ⢸░░░░░░░░░░
        100 ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░⢸▂▂▂▂▂▂▂▂▂▂▂⢸░░░░░░░░░░
            ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░⢸░░░░░░░░░░░⢸░░░░░░░░░░
            ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░⠈⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠁░░░░░░░░░░
            ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
            ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
          0 ┤░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
            └──────────────────────────────────────────────────────────────────────
             0 s                                                               40 s

                                 as recorded
    samples                               39
    books                          115.410 W
    reference                      136.910 W
    MAE                             21.500 W
    RMSE                            21.500 W
    MAPE                             16.46 %
    bias                -21.500 W (-15.70 %)
    correlation                       1.0000
    worst sample     136.0/157.5 W at 40.0 s

    attribution gap  21.500 W (15.70 % of the reference) not in the books
    fit              reference ≈ 1.0000 × books + 21.500 W, off by 0.000 W RMS
    refused: line 21: 'N/A' is no power
    note: the books hold processors and memory, not fans, disks and losses: a wall meter reads more
    ");
}

#[test]
fn a_pipe_is_read_once_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let machine = written(dir.path(), "node.machine", &machine(40));
    let fifo = dir.path().join("wall");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        let csv: String = (1..=40).map(|second| format!("{second},{}", load(second))).collect::<Vec<_>>().join("\n");
        move || std::fs::write(fifo, csv)
    });
    let report = replayed(config(), &machine, fifo.to_str().unwrap()).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!((report.comparison.best().figures.samples, report.refused.count), (40, 0));
}

#[test]
fn nothing_to_compare_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let machine = written(dir.path(), "node.machine", &machine(20));
    let error = |text: &str| {
        let csv = written(dir.path(), "wall.csv", text);
        let error = replayed(config(), &machine, csv.to_str().unwrap()).unwrap_err();
        assert!(!error.is::<wattribute::cli::UsageError>(), "exit code 1");
        error.to_string().replace(dir.path().to_str().unwrap(), "")
    };
    assert_eq!(error(""), "nothing to compare: /wall.csv is empty");
    assert_eq!(error("time,watts\n"), "nothing to compare: /wall.csv has 0 samples of the time of the run");
    assert_eq!(
        error("time,watts\n100000000000,5\n100000000001,6\n"),
        "nothing to compare: /wall.csv has 0 samples of the time of the run, and 2 from before or after it; \
         do the clocks agree?"
    );
    assert_eq!(
        error("time,watts\n1,-5\n2,nan\n"),
        "nothing to compare: /wall.csv has 0 samples of the time of the run; \
         refused: line 2: -5 W is less than nothing"
    );
    assert!(error("-50,5\n-49,6\n").contains("do the clocks agree?"));
}
