//! Writes down what the agent reads of a live machine, as a `.machine` file that replays the same way.
//!
//! Only what changed since it was last written appears again, under the tick at which it was read. Command lines and
//! environments may hold secrets and are left out unless asked for.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use rustix::io::Errno;

use crate::host::EntryKind;
use crate::host::script::{Tick, errno_name};
use crate::unit::CpuTime;

/// The state of one path as it was last written.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    File(Vec<u8>),
    Dir(u64),
    Link,
    Error(Errno),
}

/// Turns reads into the text of a `.machine` file.
#[derive(Debug, Default)]
pub struct Recorder {
    known: HashMap<String, Known>,
    listed: HashMap<String, Vec<String>>,
    clocks: HashMap<u32, u64>,
    text: String,
    command_lines: bool,
}

impl Recorder {
    /// A recorder that also writes command lines if `command_lines`.
    #[must_use]
    pub fn new(command_lines: bool) -> Self {
        Self { command_lines, ..Self::default() }
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Begins a tick.
    pub fn tick(&mut self, tick: &Tick) {
        let Tick { number, at, suspended, wall_step } = tick;
        let at = seconds(i128::try_from(at.as_nanos()).unwrap_or(0));
        let _ = write!(self.text, "== tick {number} at {at}");
        if !suspended.is_zero() {
            let _ = write!(self.text, " suspended {}", seconds(i128::try_from(suspended.as_nanos()).unwrap_or(0)));
        }
        if *wall_step != 0 {
            let sign = if *wall_step > 0 { "+" } else { "" };
            let _ = write!(self.text, " wall {sign}{}", seconds(*wall_step));
        }
        self.text.push_str(" ==\n");
    }

    /// A file was read.
    pub fn file(&mut self, path: &str, result: Result<&[u8], Errno>) {
        if !self.command_lines && (path.ends_with("/cmdline") || path.ends_with("/environ")) {
            return;
        }
        match result {
            Ok(bytes) => {
                self.works(path);
                if !matches!(self.known.get(path), Some(Known::File(known)) if known == bytes) {
                    self.known.insert(path.to_owned(), Known::File(bytes.to_vec()));
                    write_file(&mut self.text, path, bytes);
                }
            }
            Err(errno) => self.fails(path, errno),
        }
    }

    /// A directory was listed; `link` tells where a link in it points.
    pub fn directory(
        &mut self,
        path: &str,
        result: Result<Vec<(String, u64, EntryKind)>, Errno>,
        link: impl Fn(&str) -> Option<String>,
    ) {
        let entries = match result {
            Ok(entries) => entries,
            Err(errno) => return self.fails(path, errno),
        };
        self.works(path);
        if !self.listed.contains_key(path) && !self.known.contains_key(path) {
            let _ = writeln!(self.text, "-- dir {path} --");
            self.known.insert(path.to_owned(), Known::Dir(0));
        }
        let mut names = Vec::with_capacity(entries.len());
        // /proc holds much that nobody reads; elsewhere a plain file counts when it is read.
        let wanted = |name: &str| path != "proc" || name.bytes().all(|byte| byte.is_ascii_digit());
        for (name, inode, kind) in entries.into_iter().filter(|(name, ..)| wanted(name)) {
            let entry = format!("{path}/{name}");
            match kind {
                EntryKind::Dir => self.inode(&entry, Ok(inode)),
                EntryKind::Link if !self.known.contains_key(&entry) => {
                    if let Some(target) = link(&name) {
                        let _ = writeln!(self.text, "-- link {entry} -> {target} --");
                        self.known.insert(entry, Known::Link);
                    }
                }
                _ => {}
            }
            names.push(name);
        }
        for gone in self.listed.remove(path).unwrap_or_default() {
            if !names.contains(&gone) {
                self.forget(&format!("{path}/{gone}"));
            }
        }
        self.listed.insert(path.to_owned(), names);
    }

    /// The inode of a directory was read.
    pub fn inode(&mut self, path: &str, result: Result<u64, Errno>) {
        match result {
            Ok(inode) => {
                match self.known.get_mut(path) {
                    Some(Known::Dir(known)) if *known == inode || *known == 0 => {
                        *known = inode;
                        return;
                    }
                    Some(Known::Dir(_)) => self.forget(path),
                    _ => {}
                }
                let _ = writeln!(self.text, "-- dir {path} --");
                self.known.insert(path.to_owned(), Known::Dir(inode));
            }
            Err(errno) => self.fails(path, errno),
        }
    }

    /// A process clock was read.
    pub fn clock(&mut self, pid: u32, result: Result<Option<CpuTime>, Errno>) {
        match result {
            Ok(Some(time)) => {
                if self.clocks.insert(pid, time.0) != Some(time.0) {
                    let _ = writeln!(self.text, "-- cpu {pid} {} --", time.0);
                }
            }
            Ok(None) => {}
            Err(_) => {
                self.clocks.remove(&pid);
                self.forget(&format!("proc/{pid}"));
            }
        }
    }

    fn works(&mut self, path: &str) {
        if matches!(self.known.get(path), Some(Known::Error(_))) {
            let _ = writeln!(self.text, "-- ok {path} --");
            self.known.remove(path);
        }
    }

    fn fails(&mut self, path: &str, errno: Errno) {
        if errno == Errno::NOENT || errno == Errno::SRCH || errno == Errno::NODEV {
            self.forget(path);
        } else if self.known.get(path) != Some(&Known::Error(errno)) {
            let _ = writeln!(self.text, "-- error {path} {} --", errno_name(errno));
            self.known.insert(path.to_owned(), Known::Error(errno));
        }
    }

    /// Removes a path and all that is known below it, if any of it was written.
    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        let before = self.known.len();
        self.known.retain(|known, _| known != path && !known.starts_with(&below));
        self.listed.retain(|known, _| known != path && !known.starts_with(&below));
        if let Some(pid) = path.strip_prefix("proc/").and_then(|pid| pid.parse().ok()) {
            self.clocks.remove(&pid);
        }
        if self.known.len() < before {
            let _ = writeln!(self.text, "-- remove {path} --");
        }
    }
}

fn write_file(text: &mut String, path: &str, bytes: &[u8]) {
    if bytes.is_empty() {
        let _ = writeln!(text, "-- empty {path} --");
        return;
    }
    let plain = std::str::from_utf8(bytes).ok().filter(|content| content.ends_with('\n') && !content.contains('\0'));
    let Some(content) = plain else {
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
        let _ = writeln!(text, "-- base64 {path} --\n{encoded}");
        return;
    };
    let _ = writeln!(text, "-- file {path} --");
    for line in content.split_inclusive('\n') {
        if ["-- ", "== ", "# ", "\\"].iter().any(|special| line.starts_with(special)) {
            text.push('\\');
        }
        text.push_str(line);
    }
}

/// Nanoseconds as decimal seconds, exactly.
fn seconds(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::Memory;
    use crate::host::script::{Item, Script};

    #[test]
    fn what_was_read_replays_as_it_was() {
        let mut recorder = Recorder::new(false);
        recorder.directory(
            "proc",
            Ok(vec![("7".into(), 70, EntryKind::Dir), ("stat".into(), 1, EntryKind::File)]),
            |_| None,
        );
        recorder.file("proc/7/comm", Ok(b"# x\n"));
        recorder.file("proc/7/cmdline", Ok(b"secret\0"));
        recorder.file("proc/7/environ", Ok(b"token=1\0"));
        recorder.file("sys/raw", Ok(&[0, 255]));
        recorder.clock(7, Ok(Some(CpuTime(5))));
        recorder.file("sys/bad", Err(Errno::IO));
        let text = recorder.take();
        assert!(!text.contains("secret") && !text.contains("token"), "{text}");
        let mut memory = Memory::default();
        let mut script = Script::new(text.as_bytes());
        while let Some(item) = script.next_item().unwrap() {
            let Item::Edit(edit) = item else { panic!("{item:?}") };
            edit.apply(&mut memory).unwrap();
        }
        let mut buffer = Vec::new();
        memory.read("proc/7/comm", &mut buffer, 100).unwrap();
        assert_eq!(buffer, b"# x\n");
        buffer.clear();
        memory.read("sys/raw", &mut buffer, 100).unwrap();
        assert_eq!(buffer, [0, 255]);
        assert_eq!(memory.read("sys/bad", &mut buffer, 100), Err(Errno::IO));
        assert_eq!(memory.process_clock(7), Ok(Some(CpuTime(5))));
    }

    #[test]
    fn only_changes_are_written() {
        let mut recorder = Recorder::new(false);
        recorder.file("sys/a", Ok(b"1\n"));
        recorder.take();
        recorder.file("sys/a", Ok(b"1\n"));
        assert_eq!(recorder.take(), "");
        recorder.file("sys/a", Err(Errno::ACCESS));
        recorder.file("sys/a", Ok(b"1\n"));
        assert_eq!(recorder.take(), "-- error sys/a EACCES --\n-- ok sys/a --\n-- file sys/a --\n1\n");
        recorder.directory("proc", Ok(vec![("7".into(), 70, EntryKind::Dir)]), |_| None);
        recorder.directory("proc", Ok(vec![("7".into(), 71, EntryKind::Dir)]), |_| None);
        recorder.directory("proc", Ok(vec![]), |_| None);
        assert_eq!(
            recorder.take(),
            "-- dir proc --\n-- dir proc/7 --\n-- remove proc/7 --\n-- dir proc/7 --\n-- remove proc/7 --\n"
        );
    }
}
