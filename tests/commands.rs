//! The commands as a user runs them: what they say on standard error of settings that do not fit the machine, and that
//! they say of one machine the same.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::pedantic)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use wattribute::cli::{discover, replay};
use wattribute::config::{Config, Sources};

const M5_LARGE: &str = "tests/machines/meter-model-m5-large.machine";
const EVERYTHING: &str = "tests/machines/meter-server-with-everything.machine";
const PACKAGE: &str = "tests/machines/meter-intel-1-socket.machine";

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattribute"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).stdin(Stdio::null());
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("WATTRIBUTE_") || key.starts_with("KUBE")) {
            command.env_remove(key);
        }
    }
    command
}

/// What it says on standard error, and on standard output.
fn said(arguments: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = program(arguments).output().unwrap();
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(status.code(), Some(0), "{err}");
    (err, out)
}

/// A guest with two CPUs and no meter, as files.
struct Guest {
    directory: TempDir,
}

impl Guest {
    fn new(product: &str) -> Self {
        let guest = Self { directory: tempfile::tempdir().unwrap() };
        let cpu = "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nstepping : 4\nflags : fpu hypervisor\n";
        guest.write("proc/cpuinfo", &format!("processor : 0\n{cpu}\nprocessor : 1\n{cpu}"));
        guest.write("proc/stat", "cpu 0 0 0 0 0 0 0 0\ncpu0 0\ncpu1 0\nbtime 1700000000\n");
        guest.write("proc/meminfo", "MemTotal: 8388608 kB\n");
        guest.write("sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
        guest.write("sys/class/dmi/id/product_name", product);
        guest.write("dev/null", "");
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The settings with which a command sees it.
    fn settings(&self) -> Vec<String> {
        let root = |name: &str| format!("--set=host.{name}={}", self.path(name).display());
        ["proc", "sys", "dev"].map(root).into_iter().collect()
    }
}

#[test]
fn a_model_file_that_cannot_be_used_is_said_by_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let bad = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = [
        (bad("nan.json", "{\"features\": [], \"mu\": [NaN]}"), "NaN at line 1"),
        (bad("empty.json", ""), "EOF"),
        (directory.path().join("missing.json"), "No such file"),
        (directory.path().to_owned(), "not a regular file"),
    ];
    for (path, why) in &files {
        let set = format!("--set=model.file={}", path.display());
        for machine in [M5_LARGE, PACKAGE] {
            let (err, _) = said(&["replay", machine, &set]);
            assert!(err.starts_with("wattribute: warning: model: model.file ") && err.contains(why), "{err}");
            assert!(
                err.contains(&path.display().to_string()) && err.contains("the built-in figures are used"),
                "{err}"
            );
        }
    }
    let set = format!("--set=model.file={}", files[1].0.display());
    let reference = ["validate", "--reference", "rapl:psys", "--replay", EVERYTHING];
    let output = program(&reference).arg(&set).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("warning: model: model.file "), "{err}");
    assert_eq!(said(&["replay", M5_LARGE]).0, "", "nothing is wrong");
}

#[test]
fn a_zone_that_is_not_here_is_said_by_every_command() {
    let set = "--set=attribution.idle.package-0=3";
    let expected = "wattribute: warning: attribution.idle: no zone \"package-0\" here; did you mean 'rapl:package-0'?";
    let (err, _) = said(&["replay", PACKAGE, set]);
    assert!(err.contains(expected), "{err}");
    let reference = ["validate", "--reference", "rapl:psys", "--replay", EVERYTHING];
    let output = program(&reference).arg(set).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains(expected), "{err}");

    let guest = Guest::new("m5.large\n");
    let mut settings = guest.settings();
    settings.extend(["--set=kubernetes.mode=off".into(), "--set=attribution.idle.cpu=3".into()]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    for command in [&["discover"][..], &["once", "--for", "200ms"]] {
        let (err, out) = said(&[command, &settings].concat());
        assert!(err.contains("no zone \"cpu\" here; did you mean 'model:cpu'?"), "{command:?}: {err}\n{out}");
    }
}

#[test]
fn discover_says_when_all_that_a_zone_draws_is_idle() {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(EVERYTHING)).unwrap();
    let report = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let env: [(String, String); 0] = [];
        let config = Config::load(Sources { file: None, env, sets: &sets }).unwrap().config;
        discover::report(&replay::run(&bytes, config, drop).unwrap().agent, false)
    };
    let said = report(&["attribution.idle.rapl:package-0=200", "attribution.idle.rapl:package-1=30"]);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("(all idle: ")).collect();
    assert!(matches!(lines[..], [one] if one.starts_with("rapl:package-0 ")), "{said}");
    assert!(!report(&[]).contains("all idle"));
}

/// An API server with one node, which is an m5.large, and no pods.
fn api_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

fn serve(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if lines.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
        }
        let node =
            r#"{"metadata": {"name": "n", "uid": "u", "labels": {"node.kubernetes.io/instance-type": "m5.large"}}}"#;
        let path = first.split(' ').nth(1).unwrap();
        let body = if path.contains("watch=true") {
            std::thread::sleep(Duration::from_secs(60));
            return;
        } else if path.starts_with("/api/v1/nodes/") {
            node
        } else if path.starts_with("/api/v1/namespaces/") {
            r#"{"metadata": {"name": "kube-system", "uid": "cluster"}}"#
        } else {
            r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}"#
        };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        if stream.write_all((head + body).as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn discover_knows_the_instance_type_from_the_label_of_the_node() {
    let guest = Guest::new("\n");
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: \
         'http://127.0.0.1:{}'}}}}], users: [{{name: u, user: {{token: t}}}}], contexts: [{{name: c, context: {{cluster: c, \
         user: u}}}}]}}",
        api_server()
    );
    guest.write("kubeconfig", &kubeconfig);
    let path = guest.path("kubeconfig");
    let mut settings = guest.settings();
    settings.push(format!("--set=kubernetes.kubeconfig={}", path.display()));
    settings.push("--set=kubernetes.node_name=n".into());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (err, out) = said(&[&["discover"], &settings[..]].concat());
    assert!(out.contains("2 of 96 threads of a host with 2 x 240 W TDP"), "{err}{out}");
    assert!(out.contains("instance type m5.large (the node's label)"), "{err}{out}");
}

#[test]
fn no_escape_of_a_machine_reaches_the_terminal() {
    let guest = Guest::new("m5.\u{1b}[31mred\n");
    let mut command = program(&["run", "--set=kubernetes.mode=off", "--set=export.otlp.enabled=false"]);
    command.args(guest.settings()).arg(format!("--set=state.directory={}", guest.path("state").display()));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let mut told = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        told = line.unwrap();
        if told.contains("stands in for a meter") || began.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(told.contains("instance type m5.\u{fffd}[31mred (DMI product_name)"), "{told:?}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
}

/// The samples of the README are what the program prints.
#[test]
fn the_readme_shows_what_discover_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut shown = 0;
    let samples = readme.split("```").filter(|block| block.starts_with("text\nZONE "));
    for (sample, machine) in samples.zip([EVERYTHING, M5_LARGE]) {
        let bytes = std::fs::read(root.join(machine)).unwrap();
        let agent = replay::run(&bytes, Config::default(), drop).unwrap().agent;
        let printed = discover::report(&agent, false);
        for line in sample.lines().skip(1) {
            assert!(printed.lines().any(|known| known == line), "{machine} does not print: {line}\n{printed}");
        }
        shown += 1;
    }
    assert_eq!(shown, 2, "samples in the README");
}
