//! A machine as one text file (`.machine`): the tree at the baseline and what changes at each tick.
//!
//! ```text
//! # comment
//! -- file sys/devices/virtual/powercap/intel-rapl/intel-rapl:0/name --
//! package-0
//! -- link sys/class/powercap/intel-rapl:0 -> ../../devices/virtual/powercap/intel-rapl/intel-rapl:0 --
//! == tick 1 at 1s wall +3600s suspended 0s ==
//! -- cpu 123 5900000000 --
//! ```
//!
//! The file is bytes; a file's text runs to the next header line. A content line that begins with `-- `, `== `, `# `
//! or `\` is written with a leading `\`. ARCHITECTURE.md lists every header. Errors name the line.

use std::time::Duration;

use base64::Engine as _;
use rustix::io::Errno;

use crate::host::memory::Memory;
use crate::unit::CpuTime;

/// Error names as `errno(3)` spells them, with their codes: every one a meter or `/proc` is known to give.
pub const ERRNOS: &[(&str, Errno)] = &[
    ("EACCES", Errno::ACCESS),
    ("EAGAIN", Errno::AGAIN),
    ("EBADF", Errno::BADF),
    ("EBUSY", Errno::BUSY),
    ("EFAULT", Errno::FAULT),
    ("EINTR", Errno::INTR),
    ("EINVAL", Errno::INVAL),
    ("EIO", Errno::IO),
    ("EISDIR", Errno::ISDIR),
    ("ELOOP", Errno::LOOP),
    ("EMFILE", Errno::MFILE),
    ("ENAMETOOLONG", Errno::NAMETOOLONG),
    ("ENFILE", Errno::NFILE),
    ("ENODATA", Errno::NODATA),
    ("ENODEV", Errno::NODEV),
    ("ENOENT", Errno::NOENT),
    ("ENOMEM", Errno::NOMEM),
    ("ENOSYS", Errno::NOSYS),
    ("ENOTCONN", Errno::NOTCONN),
    ("ENOTDIR", Errno::NOTDIR),
    ("ENOTSUP", Errno::OPNOTSUPP),
    ("ENXIO", Errno::NXIO),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EPERM", Errno::PERM),
    ("EPIPE", Errno::PIPE),
    ("EPROTO", Errno::PROTO),
    ("ERANGE", Errno::RANGE),
    ("EREMOTEIO", Errno::REMOTEIO),
    ("ESRCH", Errno::SRCH),
    ("ETIMEDOUT", Errno::TIMEDOUT),
];

/// A syntax error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ScriptError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what is expected.
    pub what: String,
}

/// One change of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Write a file.
    File(String, Vec<u8>),
    /// Make a directory.
    Dir(String),
    /// Make a symbolic link to a target.
    Link(String, String),
    /// Remove a path and all below it.
    Remove(String),
    /// Make a path fail, or work again.
    Error(String, Option<Errno>),
    /// Set a process's CPU clock.
    Cpu(u32, CpuTime),
}

/// One header with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A change.
    Edit(Edit),
    /// The next tick begins.
    Tick(Tick),
}

/// The time of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tick {
    /// Its number, from 1.
    pub number: u64,
    /// Boot time since the baseline.
    pub at: Duration,
    /// How much of the interval the machine slept.
    pub suspended: Duration,
    /// Step of the wall clock beyond the interval, in nanoseconds.
    pub wall_step: i128,
}

/// Reads a `.machine` file item by item.
pub struct Script<'a> {
    rest: &'a [u8],
    line: usize,
    last: Tick,
}

impl<'a> Script<'a> {
    /// Begins at the top of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, line: 0, last: Tick::default() }
    }

    /// Reads the whole file once and says what is wrong with it; then a run of it cannot fail half-way.
    ///
    /// # Errors
    /// The first syntax error.
    pub fn check(bytes: &[u8]) -> Result<(), ScriptError> {
        let mut script = Script::new(bytes);
        let mut memory = Memory::default();
        while let Some(item) = script.next_item()? {
            if let Item::Edit(edit) = item {
                edit.apply(&mut memory).map_err(|what| script.error(what))?;
            }
        }
        Ok(())
    }

    /// The next header with its content; `None` at the end of the file.
    ///
    /// # Errors
    /// A syntax error with its line.
    pub fn next_item(&mut self) -> Result<Option<Item>, ScriptError> {
        loop {
            let Some(line) = self.take_line() else { return Ok(None) };
            if line.starts_with(b"#") || line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let text = std::str::from_utf8(line).map_err(|_| self.error("a header must be UTF-8"))?;
            if let Some(inner) = text.strip_prefix("== ") {
                let inner =
                    inner.trim_end().strip_suffix(" ==").ok_or_else(|| self.error("a tick line ends with ' =='"))?;
                return self.tick(inner).map(Item::Tick).map(Some);
            }
            let inner = text
                .strip_prefix("-- ")
                .and_then(|inner| inner.trim_end().strip_suffix(" --"))
                .ok_or_else(|| self.error(format!("expected '-- … --', '== … ==' or a comment, not {text:?}")))?;
            return self.edit(inner).map(Item::Edit).map(Some);
        }
    }

    fn tick(&mut self, inner: &str) -> Result<Tick, ScriptError> {
        const FORM: &str = "expected '== tick N at 1.5s [wall +3600s] [suspended 0s] =='";
        let mut words = inner.split_ascii_whitespace();
        let (Some("tick"), Some(number), Some("at"), Some(at)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(self.error(FORM));
        };
        let duration = |text: &str| {
            parse_seconds(text)
                .and_then(|nanos| u64::try_from(nanos).ok())
                .map(Duration::from_nanos)
                .ok_or_else(|| self.error(format!("{text:?} is no time; write 1s, 1.5s or 250ms")))
        };
        let mut tick = Tick { at: duration(at)?, ..Tick::default() };
        tick.number = number.parse().map_err(|_| self.error(format!("{number:?} is no tick number")))?;
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| self.error(FORM))?;
            match word {
                "suspended" => tick.suspended = duration(value)?,
                "wall" => {
                    tick.wall_step = parse_seconds(value)
                        .ok_or_else(|| self.error(format!("{value:?} is no step; write +3600s or -2.5s")))?;
                }
                _ => return Err(self.error(format!("unknown word {word:?}; {FORM}"))),
            }
        }
        if tick.number <= self.last.number {
            return Err(self.error(format!("tick {} follows tick {}", tick.number, self.last.number)));
        }
        if tick.at < self.last.at {
            return Err(self.error("boot time never goes back; a clock step is written 'wall -10s'"));
        }
        if tick.suspended > tick.at.saturating_sub(self.last.at) {
            return Err(self.error("the machine cannot sleep longer than the interval"));
        }
        self.last = tick;
        Ok(tick)
    }

    fn edit(&mut self, inner: &str) -> Result<Edit, ScriptError> {
        let (verb, rest) = inner.split_once(' ').unwrap_or((inner, ""));
        let path = |text: &str| {
            let text = text.trim_start_matches('/');
            if text.is_empty() {
                return Err(self.error(format!("'{verb}' needs a path, as in '-- {verb} proc/stat --'")));
            }
            Ok(text.to_owned())
        };
        match verb {
            "file" => Ok(Edit::File(path(rest)?, self.content())),
            "base64" => {
                let path = path(rest)?;
                let (line, mut text) = (self.line, self.content());
                text.retain(|byte| !byte.is_ascii_whitespace());
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(&text)
                    .map_err(|error| ScriptError { line, what: format!("no base64: {error}") })?;
                Ok(Edit::File(path, bytes))
            }
            "empty" => Ok(Edit::File(path(rest)?, Vec::new())),
            "dir" => Ok(Edit::Dir(path(rest)?)),
            "remove" => Ok(Edit::Remove(path(rest)?)),
            "ok" => Ok(Edit::Error(path(rest)?, None)),
            "link" => {
                let (from, to) =
                    rest.split_once(" -> ").ok_or_else(|| self.error("expected '-- link PATH -> TARGET --'"))?;
                Ok(Edit::Link(path(from)?, to.to_owned()))
            }
            "error" => {
                let (at, name) =
                    rest.rsplit_once(' ').ok_or_else(|| self.error("expected '-- error PATH ERRNO --'"))?;
                let errno = ERRNOS.iter().find(|(known, _)| *known == name).map(|(_, errno)| *errno);
                let number = || name.parse().ok().filter(|code| (1..4096).contains(code));
                let errno = errno.or_else(|| number().map(Errno::from_raw_os_error));
                let errno = errno.ok_or_else(|| self.error(format!("unknown error {name:?}; write EACCES, EIO, …")))?;
                Ok(Edit::Error(path(at)?, Some(errno)))
            }
            "cpu" => {
                let numbers =
                    rest.split_once(' ').and_then(|(pid, ns)| Some((pid.parse().ok()?, ns.trim().parse().ok()?)));
                let (pid, nanos) = numbers.ok_or_else(|| self.error("expected '-- cpu PID NANOSECONDS --'"))?;
                Ok(Edit::Cpu(pid, CpuTime(nanos)))
            }
            _ => Err(self.error(format!(
                "unknown header {verb:?}; expected file, base64, empty, dir, link, remove, error, ok or cpu"
            ))),
        }
    }

    /// The lines up to the next header, unescaped.
    fn content(&mut self) -> Vec<u8> {
        let mut content = Vec::new();
        while !self.rest.is_empty() {
            if self.rest.starts_with(b"-- ") || self.rest.starts_with(b"== ") {
                break;
            }
            let comment = self.rest.starts_with(b"# ");
            let before = self.rest;
            let Some(line) = self.take_line() else { break };
            if !comment {
                content.extend_from_slice(line.strip_prefix(b"\\").unwrap_or(line));
                if before.len() > line.len() {
                    content.push(b'\n');
                }
            }
        }
        content
    }

    fn take_line(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.line += 1;
        let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        Some(line)
    }

    pub(crate) fn error(&self, what: impl Into<String>) -> ScriptError {
        ScriptError { line: self.line, what: what.into() }
    }
}

impl Edit {
    /// Makes this change to `memory`.
    ///
    /// # Errors
    /// One line that says why it cannot be made.
    pub fn apply(self, memory: &mut Memory) -> Result<(), String> {
        let (result, path) = match self {
            Self::File(path, bytes) => (memory.set_file(&path, &bytes), path),
            Self::Dir(path) => (memory.set_dir(&path), path),
            Self::Link(path, target) => (memory.set_link(&path, &target), path),
            Self::Error(path, errno) => (memory.set_error(&path, errno), path),
            // A process that ended twice is no contradiction.
            Self::Remove(path) => {
                (memory.remove(&path).or_else(|errno| (errno == Errno::NOENT).then_some(()).ok_or(errno)), path)
            }
            Self::Cpu(pid, time) => {
                memory.set_clock(pid, time);
                return Ok(());
            }
        };
        result.map_err(|errno: Errno| format!("{path}: {errno}"))
    }
}

/// `1s`, `1.5s`, `250ms`, with a sign, in nanoseconds.
fn parse_seconds(text: &str) -> Option<i128> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1_000_000),
        None => (text.strip_suffix('s')?, 1_000_000_000_i128),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) || fraction.len() > 18 {
        return None;
    }
    let whole: i128 = whole.parse::<u64>().ok()?.into();
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<i128>().ok()? * unit / scale };
    let nanos = whole * unit + part;
    Some(if negative { -nanos } else { nanos })
}

/// The name of an error as a `.machine` file writes it.
#[must_use]
pub fn errno_name(errno: Errno) -> String {
    let known = ERRNOS.iter().find(|(_, known)| *known == errno);
    known.map_or_else(|| errno.raw_os_error().to_string(), |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Vec<Item>, ScriptError> {
        let mut script = Script::new(text.as_bytes());
        std::iter::from_fn(|| script.next_item().transpose()).collect()
    }

    #[test]
    fn content_runs_to_the_next_header_and_is_unescaped() {
        let text = "# top\n\n-- file proc/a b --\nx\n# not content\n\\-- y --\n\\\\z\n#hash\n-- empty proc/e --\n-- base64 sys/b --\naGk=\n";
        let file = |path: &str, text: &[u8]| Item::Edit(Edit::File(path.into(), text.into()));
        assert_eq!(
            items(text).unwrap(),
            [file("proc/a b", b"x\n-- y --\n\\z\n#hash\n"), file("proc/e", b""), file("sys/b", b"hi")]
        );
    }

    #[test]
    fn ticks_carry_their_times() {
        let found = items("== tick 1 at 1.5s ==\n== tick 3 at 3602s suspended 3600s wall -2.5s ==\n").unwrap();
        let first = Tick { number: 1, at: Duration::from_millis(1500), ..Tick::default() };
        let third = Tick {
            number: 3,
            at: Duration::from_secs(3602),
            suspended: Duration::from_secs(3600),
            wall_step: -2_500_000_000,
        };
        assert_eq!(found, [Item::Tick(first), Item::Tick(third)]);
    }

    #[test]
    fn errors_name_the_line_and_what_is_expected() {
        let message = |text: &str| {
            let error = Script::check(text.as_bytes()).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            message("# a\n-- fil proc/x --\n"),
            "line 2: unknown header \"fil\"; expected file, base64, empty, dir, link, remove, error, ok or cpu"
        );
        assert_eq!(message("-- file --\n"), "line 1: 'file' needs a path, as in '-- file proc/stat --'");
        assert_eq!(message("stray\n"), "line 1: expected '-- … --', '== … ==' or a comment, not \"stray\"");
        assert_eq!(message("-- error sys/x EWHAT --\n"), "line 1: unknown error \"EWHAT\"; write EACCES, EIO, …");
        assert_eq!(message("== tick 2 at 2s ==\n== tick 1 at 3s ==\n"), "line 2: tick 1 follows tick 2");
        assert_eq!(message("== tick 1 at soon ==\n"), "line 1: \"soon\" is no time; write 1s, 1.5s or 250ms");
        assert_eq!(message("-- error sys/x 0 --\n"), "line 1: unknown error \"0\"; write EACCES, EIO, …");
        assert!(message("== tick 2 at 2s ==\n== tick 3 at 1s ==\n").contains("never goes back"));
        assert!(message("-- base64 sys/x --\n!!\n").starts_with("line 1: no base64"));
        assert!(message("-- file proc/x --\n1\n-- dir proc/x/y --\n").contains("proc/x/y"));
    }
}
