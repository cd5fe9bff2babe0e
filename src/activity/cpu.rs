//! How long the CPUs were busy: `/proc/stat`, `USER_HZ` 100.
//!
//! The busy columns (user, system…) are sampled at the tick and biased (measured −15 ms/s), so busy time is what the
//! online CPUs had, less idle, iowait and steal, which the kernel accounts to the nanosecond on tickless systems.
//! Guest time is already in user time. Online CPUs are counted from the `cpuN` lines, else from
//! `/sys/devices/system/cpu/online`.

use std::time::Duration;

use crate::host::Host;
use crate::unit::CpuTime;

/// Of the FNV hash, 64 bits.
const PRIME: u64 = 0x0100_0000_01b3;

/// One reading of `/proc/stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// idle + iowait + steal of all CPUs.
    pub at_rest: CpuTime,
    /// steal alone: the hypervisor gave the CPU to somebody else.
    pub stolen: CpuTime,
    /// All columns together.
    pub all: CpuTime,
    /// CPUs online (0: the file lists none singly).
    pub online: u64,
    /// Which: a number that changes when another CPU stands in the place of one.
    pub which: u64,
}

impl CpuTimes {
    /// Reads the `cpu` line and counts the `cpuN` lines.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut times = None;
        let (mut online, mut which) = (0, 0_u64);
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(rest) = line.strip_prefix(b"cpu") else { break };
            if rest.first().is_some_and(u8::is_ascii_digit) {
                online += 1;
                let number = rest.iter().take_while(|byte| byte.is_ascii_digit());
                which = number.fold(which, |which, digit| (which ^ u64::from(*digit)).wrapping_mul(PRIME));
                which = which.wrapping_mul(PRIME);
                continue;
            }
            let text = std::str::from_utf8(rest).ok()?;
            let mut columns = [0_u64; 8];
            let mut count = 0;
            // user nice system idle iowait irq softirq steal; guest columns after these are part of user and nice.
            for (column, word) in columns.iter_mut().zip(text.split_ascii_whitespace()) {
                *column = word.parse().ok()?;
                count += 1;
            }
            if count < 4 {
                return None;
            }
            let at_rest = columns[3].saturating_add(columns[4]).saturating_add(columns[7]);
            let all = columns.iter().fold(0_u64, |sum, column| sum.saturating_add(*column));
            times = Some([at_rest, columns[7], all].map(CpuTime::from_ticks));
        }
        times.map(|[at_rest, stolen, all]| Self { at_rest, stolen, all, online, which })
    }

    /// The CPU of a `cpuN` line, its time at rest (idle + iowait + steal), and what of that was stolen.
    #[must_use]
    pub fn parse_one(line: &[u8]) -> Option<(usize, CpuTime, CpuTime)> {
        let mut words = std::str::from_utf8(line.strip_prefix(b"cpu")?).ok()?.split_ascii_whitespace();
        let cpu = words.next()?.parse().ok()?;
        let mut columns = [0_u64; 8];
        for (column, word) in columns.iter_mut().zip(words) {
            *column = word.parse().ok()?;
        }
        let at_rest = columns[3].saturating_add(columns[4]).saturating_add(columns[7]);
        Some((cpu, CpuTime::from_ticks(at_rest), CpuTime::from_ticks(columns[7])))
    }

    /// Busy time since `before` and the time that the CPUs had, for an interval that was `awake` long.
    #[must_use]
    pub fn busy_since(&self, before: &Self, awake: Duration) -> (CpuTime, CpuTime) {
        let cpus = self.cpus_since(before, awake);
        let capacity = CpuTime(CpuTime::from(awake).0.saturating_mul(cpus));
        // iowait may go back (the kernel says so itself): no time at rest is then known, and none is invented.
        (capacity.saturating_sub(self.at_rest.saturating_sub(before.at_rest)), capacity)
    }

    /// The CPUs that were online all through the interval. A file without `cpuN` lines still tells it by its sum.
    fn cpus_since(&self, before: &Self, awake: Duration) -> u64 {
        let counted = self.online.min(before.online);
        if counted > 0 {
            return counted;
        }
        let interval = CpuTime::from(awake).0.max(1);
        (self.all.saturating_sub(before.all).0.saturating_add(interval / 2) / interval).max(1)
    }
}

/// How many CPUs are online.
#[must_use]
pub fn online(host: &Host) -> u64 {
    let mut buffer = Vec::new();
    let listed =
        host.read("proc/stat", &mut buffer).ok().and_then(|()| CpuTimes::parse(&buffer)).map(|times| times.online);
    if let Some(count) = listed.filter(|count| *count > 0) {
        return count;
    }
    let range = host.read("sys/devices/system/cpu/online", &mut buffer).ok().and_then(|()| parse_list(&buffer));
    if let Some(count) = range {
        return count;
    }
    let lines = host.read("proc/cpuinfo", &mut buffer).map(|()| buffer.split(|byte| *byte == b'\n'));
    let count = lines.map(|lines| lines.filter(|line| line.starts_with(b"processor")).count() as u64);
    count.unwrap_or(0)
}

/// The number of CPUs in a list such as `0-3,8,10-11` (Documentation/admin-guide/cputopology.rst).
#[must_use]
pub fn parse_list(bytes: &[u8]) -> Option<u64> {
    let mut count = 0_u64;
    for part in parts(bytes) {
        let (first, last) = part?;
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// The ranges of a list, first and last CPU; up to the first that is none.
pub fn ranges(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    parts(bytes).map_while(|part| part).filter(|(first, last)| first <= last)
}

fn parts(bytes: &[u8]) -> impl Iterator<Item = Option<(u64, u64)>> {
    std::str::from_utf8(bytes).unwrap_or("?").trim().split(',').map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixture_of_the_field() {
        let text = b"cpu 8608833 7605 4179891 1295036209 426072 15697167 1285624 0 5327346 0\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 5\n";
        let times = CpuTimes::parse(text).unwrap();
        assert_eq!(times.online, 2);
        assert_eq!(times.at_rest, CpuTime::from_ticks(1_295_036_209 + 426_072));
    }

    #[test]
    fn busy_is_what_is_left_of_the_time_the_cpus_had() {
        let before = CpuTimes::parse(b"cpu 0 0 0 100 0 0 0 0\ncpu0 0\ncpu1 0\n").unwrap();
        let after = CpuTimes::parse(b"cpu 80 0 0 200 10 0 0 10\ncpu0 0\ncpu1 0\n").unwrap();
        let (busy, capacity) = after.busy_since(&before, Duration::from_secs(1));
        assert_eq!((busy, capacity), (CpuTime::from_ticks(80), CpuTime::from_ticks(200)));
    }

    #[test]
    fn without_single_cpus_the_sum_tells_how_many() {
        let before = CpuTimes::parse(b"cpu 0 0 0 0").unwrap();
        let after = CpuTimes::parse(b"cpu 100 0 0 299 0 0 0 0").unwrap();
        assert_eq!(after.busy_since(&before, Duration::from_secs(1)).1, CpuTime::from_ticks(400));
    }

    #[test]
    fn half_a_line_is_nothing() {
        for text in [&b"cpu 1 2"[..], b"cpu 1 2 x 4", b"", b"intr 5\ncpu 1 2 3 4", &[b'c', b'p', b'u', b' ', 0xff]] {
            assert_eq!(CpuTimes::parse(text), None, "{text:?}");
        }
        assert_eq!(parse_list(b"0-3,8\n"), Some(5));
        assert_eq!(parse_list(b"3-0"), None);
        assert_eq!(parse_list(b"\n"), None);
    }
}
