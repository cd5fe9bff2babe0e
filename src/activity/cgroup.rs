//! One cgroup hierarchy as the agent knows it: directories, their usage counters, and the workload each belongs to.
//!
//! v2 counts in `cpu.stat` (`usage_usec`, µs), v1 in `cpuacct.usage` (ns). Both count everything that ever ran in the
//! cgroup or below it, and only grow while the cgroup lives. On a hybrid host v1 cpuacct is the base and the v2 mount
//! under `unified` a second partition of the same time. A cgroup without a counter (the controller is off, or only
//! `/proc/PID/cgroup` tells of it) is the sum of what is seen in it. See Documentation/admin-guide/cgroup-v2.rst.

use crate::host::{Errno, Host, Kept};
use crate::unit::CpuTime;

/// Where cgroups are mounted.
const MOUNT: &str = "sys/fs/cgroup";
/// The names under which v1 mounts the cpuacct controller.
const CPUACCT: &[&str] = &["cpuacct", "cpu,cpuacct", "cpuacct,cpu"];
/// Where v1 mounts the cpuset controller.
const V1_CPUSET: &str = "sys/fs/cgroup/cpuset";
/// The root of a tree.
pub const ROOT: usize = 0;
/// Descriptors kept open at most (accounting rule 12): of the base hierarchy,
const KEPT_MAX: usize = 448;
/// and of the second one.
const KEPT_MAX_SECOND: usize = 64;
/// A cgroup that was not entered in so many walks gives its descriptor to one that is.
const KEPT_IDLE: u64 = 30;
/// Cgroups that are looked at to find such a one.
const KEPT_LOOKS: usize = 8;

/// A cgroup hierarchy.
pub struct Tree {
    mount: Option<String>,
    version: Version,
    nodes: Vec<Node>,
    free: Vec<usize>,
    /// Lent out for the path of the directory that is being read, so that reading allocates nothing.
    lent: String,
    /// The cgroups entered at this tick.
    entered: Vec<usize>,
    round: u64,
    kept: usize,
    kept_max: usize,
    /// Where the search for an idle descriptor goes on.
    hand: usize,
}

/// Which of the two kinds of cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `cpuacct.usage`.
    V1,
    /// `cpu.stat`.
    V2,
}

/// One cgroup.
#[derive(Debug)]
pub struct Node {
    /// `/kubepods/burstable/pod…`; the root's is empty.
    pub path: String,
    /// The directory, relative to the host's roots; `None` if only `/proc/PID/cgroup` tells of it.
    pub dir: Option<String>,
    /// Of the directory.
    pub inode: u64,
    /// Its parent; the root is its own.
    pub parent: usize,
    /// Its children.
    pub children: Vec<usize>,
    /// The workload that it belongs to.
    pub row: usize,
    /// The workloads that begin here, outermost first.
    pub heads: Vec<usize>,
    /// The processes that sit here, as indexes into [`super::process::Processes`].
    pub processes: Vec<usize>,
    /// Distance from the root.
    pub depth: u32,
    /// Usage in the interval; valid if entered.
    pub delta: i64,
    /// What was booked for it while its counter could not be read.
    pub ahead: i64,
    /// The usage counter as it was read on entering; `None` if it has none, or not now.
    pub before: Option<CpuTime>,
    /// Whether the usage counter works.
    pub measured: bool,
    /// Not read before.
    pub fresh: bool,
    /// A threaded cgroup: its processes are listed by the domain above it (`cgroup.procs` gives EOPNOTSUPP).
    pub threaded: bool,
    /// The socket that its CPUs are in, and the tick at which that is looked up again.
    pub pin: Option<usize>,
    /// See above.
    pub pin_due: u64,
    /// The tick at which it was last seen in its parent's listing.
    pub seen: u64,
    round: u64,
    total: CpuTime,
    /// A total that was not believed.
    odd: Option<CpuTime>,
    /// Walks since the last total that was.
    pub missed: u64,
    usage: Option<Kept>,
}

/// The base hierarchy, and the second one of a hybrid host.
#[must_use]
pub fn hierarchies(host: &Host) -> (Tree, Option<Tree>) {
    let is_dir = |path: &str| host.list(path, |_, _, _| ()).is_ok();
    let v1 = CPUACCT.iter().map(|name| format!("{MOUNT}/{name}")).find(|path| is_dir(path));
    if let Some(v1) = v1 {
        let unified = format!("{MOUNT}/unified");
        let second = is_dir(&unified).then_some(unified);
        // Without a unified mount, systemd's own named hierarchy still tells services from each other.
        return (Tree::new(Some(v1), Version::V1, KEPT_MAX), Some(Tree::new(second, Version::V2, KEPT_MAX_SECOND)));
    }
    let unified = [format!("{MOUNT}/unified"), MOUNT.to_owned()].into_iter().find(|path| {
        let mut buffer = Vec::new();
        host.read(&format!("{path}/cgroup.controllers"), &mut buffer).is_ok()
            || host.read(&format!("{path}/cpu.stat"), &mut buffer).is_ok()
    });
    let unified = unified.or_else(|| is_dir(MOUNT).then(|| MOUNT.to_owned()));
    (Tree::new(unified, Version::V2, KEPT_MAX), None)
}

impl Tree {
    fn new(mount: Option<String>, version: Version, kept_max: usize) -> Self {
        let root = Node::new(String::new(), mount.clone(), version, ROOT);
        Self {
            mount,
            version,
            nodes: vec![root],
            free: Vec::new(),
            lent: String::new(),
            entered: Vec::new(),
            round: 0,
            kept: 0,
            kept_max,
            hand: 0,
        }
    }

    /// Whether there is a file system to walk.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.mount.is_some()
    }

    /// Which kind.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cgroup at `index`.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The cgroup at `index`, if there ever was one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// To which sockets cgroups are pinned is to be looked up again.
    pub fn forget_pins(&mut self) {
        for node in &mut self.nodes {
            (node.pin, node.pin_due) = (None, 0);
        }
    }

    /// The cgroup at `index`, to change.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// A new cgroup `name` below `parent`.
    pub fn add(&mut self, parent: usize, name: &str, inode: Option<u64>) -> usize {
        let above = &self.nodes[parent];
        let path = format!("{}/{name}", above.path);
        let dir = above.dir.as_ref().filter(|_| inode.is_some()).map(|dir| format!("{dir}/{name}"));
        let mut node = Node::new(path, dir, self.version, parent);
        node.depth = above.depth + 1;
        node.inode = inode.unwrap_or(0);
        if let Some(usage) = &mut node.usage {
            usage.keep = self.kept < self.kept_max;
            self.kept += usize::from(usage.keep);
        }
        let index = if let Some(index) = self.free.pop() {
            self.nodes[index] = node;
            index
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        self.nodes[parent].children.push(index);
        index
    }

    /// The directory of `index` in a buffer to be given back by [`Tree::take_back`].
    pub fn lend_dir(&mut self, index: usize) -> Option<String> {
        let mut path = std::mem::take(&mut self.lent);
        path.clear();
        path.push_str(self.nodes[index].dir.as_deref()?);
        Some(path)
    }

    /// See [`Tree::lend_dir`].
    pub fn take_back(&mut self, path: String) {
        self.lent = path;
    }

    /// Reads which CPUs a cgroup may use; what it does not say, the cgroup above does.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_cpuset(&mut self, host: &Host, index: usize, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        let (node, version) = (&self.nodes[index], self.version);
        let mut path = std::mem::take(&mut self.lent);
        let mut read = |parts: [&str; 3]| {
            path.clear();
            for part in parts {
                path.push_str(part);
            }
            host.read(&path, buffer)
        };
        let done = match (version, &node.dir) {
            (Version::V2, Some(dir)) => read([dir, "/cpuset.cpus.effective", ""]),
            (Version::V2, None) => Err(Errno::NOENT),
            (Version::V1, _) => read([V1_CPUSET, &node.path, "/cpuset.effective_cpus"])
                .or_else(|_| read([V1_CPUSET, &node.path, "/cpuset.cpus"])),
        };
        self.lent = path;
        done
    }

    /// Begins a walk.
    pub fn begin(&mut self) {
        self.entered.clear();
        self.round += 1;
    }

    /// A cgroup is entered, and with it those above it.
    pub fn mark_entered(&mut self, index: usize, before: Option<CpuTime>) {
        let round = self.round;
        if self.nodes[index].round == round {
            return;
        }
        let node = &mut self.nodes[index];
        (node.round, node.before, node.delta) = (round, before, 0);
        let parent = node.parent;
        self.entered.push(index);
        self.keep_open(index);
        if self.nodes[parent].round != round {
            let unmoved = self.nodes[parent].measured.then_some(self.nodes[parent].total);
            self.mark_entered(parent, unmoved);
        }
    }

    /// An active cgroup gets a descriptor that an idle one holds, so that the most active ones keep theirs.
    fn keep_open(&mut self, index: usize) {
        if self.nodes[index].usage.as_ref().is_none_or(|usage| usage.keep) {
            return;
        }
        let mut free = self.kept < self.kept_max;
        for _ in 0..KEPT_LOOKS {
            if free {
                break;
            }
            self.hand = (self.hand + 1) % self.nodes.len();
            let node = &mut self.nodes[self.hand];
            let idle = node.round + KEPT_IDLE < self.round;
            if let Some(usage) = node.usage.as_mut().filter(|usage| usage.keep && idle) {
                usage.keep = false;
                usage.close();
                self.kept -= 1;
                free = true;
            }
        }
        if let Some(usage) = self.nodes[index].usage.as_mut().filter(|_| free) {
            usage.keep = true;
            self.kept += 1;
        }
    }

    /// The cgroups entered in this walk.
    #[must_use]
    pub fn entered(&self) -> &[usize] {
        &self.entered
    }

    /// Puts children before their parents.
    pub fn sort_entered(&mut self) {
        let nodes = &self.nodes;
        self.entered.retain(|index| !nodes[*index].path.is_empty() || *index == ROOT);
        self.entered.sort_unstable_by_key(|index| (std::cmp::Reverse(nodes[*index].depth), *index));
    }

    /// What the children of a cgroup used in this walk.
    #[must_use]
    pub fn inner(&self, index: usize) -> i64 {
        let children = self.nodes[index].children.iter().map(|child| &self.nodes[*child]);
        children.filter(|child| child.round == self.round).map(|child| child.delta).sum()
    }

    /// Takes a cgroup out of its parent's children; its own are to be removed before.
    pub fn remove(&mut self, index: usize) {
        let parent = self.nodes[index].parent;
        self.nodes[parent].children.retain(|child| *child != index);
        let node = &mut self.nodes[index];
        let kept = node.usage.as_ref().is_some_and(|usage| usage.keep);
        self.kept -= usize::from(kept);
        node.usage = None;
        node.path.clear();
        node.dir = None;
        node.processes.clear();
        node.heads.clear();
        self.free.push(index);
    }

    /// The child of `parent` called `name`.
    #[must_use]
    pub fn child(&self, parent: usize, name: &str) -> Option<usize> {
        self.nodes[parent].children.iter().copied().find(|child| self.nodes[*child].name() == name)
    }

    /// The cgroup whose path ends with `tail` (`/a/b`), if there is exactly one: what a private cgroup namespace
    /// leaves of a path.
    #[must_use]
    pub fn by_tail(&self, tail: &str) -> Option<usize> {
        let mut found = None;
        let mut queue = vec![ROOT];
        while let Some(index) = queue.pop() {
            let node = &self.nodes[index];
            if index != ROOT && node.path.ends_with(tail) && found.replace(index).is_some() {
                return None;
            }
            queue.extend_from_slice(&node.children);
        }
        found
    }

    /// Reads the usage counter of `index` anew; `None` if it has none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_usage(&mut self, host: &Host, index: usize, buffer: &mut Vec<u8>) -> Result<Option<CpuTime>, Errno> {
        let version = self.version;
        let Some(usage) = &mut self.nodes[index].usage else { return Ok(None) };
        match host.reread(usage, buffer) {
            Ok(()) => Ok(match version {
                Version::V1 => parse_cpuacct(buffer),
                Version::V2 => parse_cpu_stat(buffer),
            }),
            Err(errno) => Err(errno),
        }
    }

    /// Takes a new total of the usage counter; gives what was used since the last one. A counter that went back, or
    /// on by more than `limit`, is believed only when the next reading bears it out (half a number was read, or
    /// somebody wrote to `cpuacct.usage`).
    pub fn advance(&mut self, index: usize, total: CpuTime, limit: CpuTime) -> Option<CpuTime> {
        let node = &mut self.nodes[index];
        let limit = CpuTime(limit.0.saturating_mul(node.missed + 1));
        let since = |before: CpuTime| total.0.checked_sub(before.0).map(CpuTime).filter(|used| *used <= limit);
        let used = since(node.total).or_else(|| node.odd.and_then(since));
        if used.is_some() {
            (node.total, node.odd, node.missed) = (total, None, 0);
        } else {
            node.odd = Some(total);
            node.missed += 1;
        }
        used
    }

    /// Takes the first total of a usage counter.
    pub fn begin_at(&mut self, index: usize, total: CpuTime) {
        let node = &mut self.nodes[index];
        node.total = total;
        node.measured = true;
    }

    /// The last total of the usage counter.
    #[must_use]
    pub fn total(&self, index: usize) -> CpuTime {
        self.nodes[index].total
    }
}

impl Node {
    fn new(path: String, dir: Option<String>, version: Version, parent: usize) -> Self {
        let file = match version {
            Version::V1 => "cpuacct.usage",
            Version::V2 => "cpu.stat",
        };
        let usage = dir.as_ref().map(|dir| Kept::new(format!("{dir}/{file}")));
        Self {
            path,
            dir,
            inode: 0,
            parent,
            children: Vec::new(),
            row: 0,
            heads: Vec::new(),
            processes: Vec::new(),
            depth: 0,
            delta: 0,
            ahead: 0,
            before: None,
            measured: false,
            fresh: true,
            threaded: false,
            pin: None,
            pin_due: 0,
            seen: 0,
            round: 0,
            total: CpuTime::ZERO,
            odd: None,
            missed: 0,
            usage,
        }
    }

    /// The last component of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// `cpuacct.usage`: nanoseconds.
#[must_use]
pub fn parse_cpuacct(bytes: &[u8]) -> Option<CpuTime> {
    std::str::from_utf8(bytes).ok()?.trim_ascii().parse().ok().map(CpuTime)
}

/// `usage_usec` of `cpu.stat`: microseconds.
#[must_use]
pub fn parse_cpu_stat(bytes: &[u8]) -> Option<CpuTime> {
    let line = bytes.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"usage_usec "))?;
    std::str::from_utf8(line).ok()?.trim_ascii().parse().ok().map(CpuTime::from_micros)
}

/// The pids of `cgroup.procs`, one a line; `None` stands for one that is not visible from here (`0`) or is no number.
pub fn pids(bytes: &[u8]) -> impl Iterator<Item = Option<u32>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| std::str::from_utf8(line).ok()?.trim_ascii().parse().ok().filter(|pid| *pid > 0))
}

/// One line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership<'a> {
    /// `cpu,cpuacct`, `name=systemd`, or nothing for v2.
    pub controllers: &'a str,
    /// The path, without the `/..` that a private cgroup namespace puts before it and without a final slash.
    pub path: &'a str,
    /// Whether it began with `/..`: outside our own cgroup namespace.
    pub above: bool,
}

/// The lines of `/proc/PID/cgroup` (`9:cpu,cpuacct:/a`, `0::/a`).
pub fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        parts.next().filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()))?;
        let controllers = parts.next()?;
        let mut path =
            parts.next()?.strip_suffix(" (deleted)").unwrap_or_else(|| line.splitn(3, ':').nth(2).unwrap_or(""));
        let mut above = false;
        while let Some(rest) = path.strip_prefix("/..").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            path = rest;
            above = true;
        }
        let path = path.trim_end_matches('/');
        (path.is_empty() || path.starts_with('/')).then_some(Membership { controllers, path, above })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_cgroups_take_the_descriptors_of_idle_ones() {
        let mut tree = Tree::new(Some("sys/fs/cgroup".into()), Version::V2, 2);
        let nodes: Vec<usize> = (0..3).map(|name| tree.add(ROOT, &format!("c{name}"), Some(name))).collect();
        let kept = |tree: &Tree| -> Vec<bool> {
            nodes.iter().map(|node| tree.nodes[*node].usage.as_ref().unwrap().keep).collect()
        };
        assert_eq!(kept(&tree), [true, true, false]);
        for _ in 0..=KEPT_IDLE + 1 {
            tree.begin();
            tree.mark_entered(nodes[0], None);
            tree.mark_entered(nodes[2], None);
        }
        assert_eq!(kept(&tree), [true, false, true], "the one that is never entered gave its descriptor away");
        assert_eq!(tree.kept, 2);
    }

    #[test]
    fn counters_are_whole_numbers_or_nothing() {
        assert_eq!(parse_cpuacct(b"123456789\n"), Some(CpuTime(123_456_789)));
        assert_eq!(parse_cpu_stat(b"usage_usec 12\nuser_usec 5\n"), Some(CpuTime(12_000)));
        for text in [&b""[..], b"usage_usec\n", b"usage_usec x\n", b"user_usec 5\n", b"usage_usec 1.5\n"] {
            assert_eq!(parse_cpu_stat(text), None);
        }
        assert_eq!(parse_cpuacct(b"12 34"), None);
    }

    #[test]
    fn pids_of_another_namespace_are_not_seen() {
        assert_eq!(pids(b"12\n0\nx\n34\n").collect::<Vec<_>>(), [Some(12), None, None, Some(34)]);
    }

    #[test]
    fn memberships_of_every_form() {
        let text =
            "9:cpu,cpuacct:/a\n1:name=systemd:/b c\n0::/../../k/d\nnonsense\n3:x:relative\n0::/gone (deleted)\n0::/\n";
        let found: Vec<_> = memberships(text).map(|line| (line.controllers, line.path)).collect();
        assert_eq!(found, [("cpu,cpuacct", "/a"), ("name=systemd", "/b c"), ("", "/k/d"), ("", "/gone"), ("", "")]);
    }
}
