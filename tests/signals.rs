//! The program itself, and signals while it starts.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::pedantic)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wattribute::host::lock;

#[test]
fn one_that_comes_while_another_agent_has_the_lock_ends_the_run_well() {
    let home = tempfile::tempdir().unwrap();
    let held = lock::lock(home.path(), Duration::ZERO).unwrap();
    let directory = format!("state.directory={}", home.path().display());
    let run = |patience: Option<Duration>| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wattribute"))
            .args(["--set", &directory, "--set", "export.otlp.enabled=false", "--set", "kubernetes.mode=off", "run"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        if let Some(patience) = patience {
            std::thread::sleep(patience);
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        (child.wait().unwrap().code(), began.elapsed())
    };
    let (code, took) = run(Some(Duration::from_millis(1500)));
    assert_eq!(code, Some(0), "told to stop");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (code, _) = run(None);
    assert_eq!(code, Some(1), "the lock stays another's");
    drop(held);
    let (code, _) = run(Some(Duration::from_millis(1500)));
    assert_eq!(code, Some(0), "it runs, and ends when told");
}
