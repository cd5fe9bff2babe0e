//! One walk over the machine: cgroups top-down, entered only where usage moved, and the processes in them.
//!
//! In an entered cgroup the children come first, then the processes' clocks, then the usage again: that order halves
//! the noise of reading one after another, and a parent is never read before its children. At the baseline everything
//! is entered, so that later intervals have something to count from.

use crate::activity::cgroup::{self, Membership, ROOT, Tree};
use crate::activity::flow::Flows;
use crate::activity::process::{self, Process, Processes, Stat};
use crate::activity::{Moment, Usage, is_generic, signed};
use crate::host::{EntryKind, Errno, Host};
use crate::unit::CpuTime;
use crate::workload::table::{NODE, Table};
use crate::workload::{self, Identity, Kind, Verdict, WorkloadId, hypervisor};

/// Cgroups nested deeper than this are left to their ancestor.
const DEPTH_MAX: u32 = 64;

/// A walk in progress.
pub struct Walk<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The workloads.
    pub table: &'a mut Table,
    /// When.
    pub moment: Moment,
    /// More than this no single process or cgroup can have used.
    pub limit: CpuTime,
    /// Sums by row.
    pub flows: &'a mut Flows,
    /// Weights by row.
    pub usage: &'a mut Usage,
    /// The processes.
    pub processes: &'a mut Processes,
    /// For files.
    pub buffer: &'a mut Vec<u8>,
    /// Told of each workload that changed its place, with its old parent.
    pub moved: &'a mut dyn FnMut(usize, usize),
}

impl Walk<'_> {
    /// Walks the base hierarchy, and the second one of a hybrid host.
    pub fn run(&mut self, base: &mut Tree, mut other: Option<&mut Tree>) {
        if let Some(other) = other.as_deref_mut() {
            self.visit(other, None, ROOT, 0);
        }
        if self.processes.scan {
            self.scan(base, other.as_deref_mut());
        }
        self.visit(base, Some(&mut other), ROOT, 0);
        if self.processes.scan {
            sweep(self, base);
        }
        self.flows.carve(self.table, base.node(ROOT).measured);
    }

    /// Reads one cgroup. `other` is the second hierarchy while the base is walked, and `None` while it itself is.
    fn visit(&mut self, tree: &mut Tree, mut other: Option<&mut Option<&mut Tree>>, at: usize, depth: u32) {
        tree.node_mut(at).delta = 0;
        let before = match tree.read_usage(self.host, at, self.buffer) {
            Ok(before) => before,
            // The counter is not there: what is seen inside is all that is known.
            Err(Errno::NOENT | Errno::NODEV) => None,
            // It cannot be read now; its next reading covers this interval too.
            Err(_) if tree.node(at).measured => return,
            Err(_) => None,
        };
        let fresh = tree.node(at).fresh;
        if let Some(total) = before {
            if !fresh && at != ROOT && tree.node(at).measured && total == tree.total(at) {
                return;
            }
        }
        if depth < DEPTH_MAX {
            self.list_children(tree, other.is_some(), at);
        }
        let mut inner = 0;
        for index in 0..tree.node(at).children.len() {
            let child = tree.node(at).children[index];
            if !tree.node(child).threaded {
                self.visit(tree, other.as_deref_mut(), child, depth + 1);
                inner += tree.node(child).delta;
            }
        }
        let live = match other {
            Some(other) => self.read_processes(tree, other, at),
            None => None,
        };
        let after = before.map(|before| {
            let again = tree.node(at).children.len() + tree.node(at).processes.len() > 0;
            let again = again.then(|| tree.read_usage(self.host, at, self.buffer)).and_then(Result::ok).flatten();
            again.unwrap_or(before)
        });
        self.settle(tree, at, after, inner, live);
    }

    /// Turns the new total into what the cgroup used, and books what is its own.
    fn settle(&mut self, tree: &mut Tree, at: usize, after: Option<CpuTime>, inner: i64, live: Option<i64>) {
        let fresh = std::mem::replace(&mut tree.node_mut(at).fresh, false);
        let row = tree.node(at).row;
        let own = if let Some(total) = after {
            let known = tree.node(at).measured;
            let used = tree.advance(at, total);
            // A new cgroup's usage is all of this interval, unless that cannot be: then it was there, unseen.
            let plausible = self.moment.tick > 0 && (known || fresh) && used <= self.limit;
            let used = if plausible { signed(used.0) } else { inner };
            tree.node_mut(at).delta = used;
            used - inner
        } else {
            let live = live.unwrap_or(0);
            tree.node_mut(at).delta = inner + live;
            live
        };
        if at == ROOT && live.is_some() && after.is_some() {
            self.flows.root(tree.node(at).delta);
        }
        if own == 0 {
            return;
        }
        if live.is_some() {
            self.flows.own(self.table, row, own);
        } else if row != NODE && !self.flows.is_backed(row) {
            self.flows.other(self.table, row, own);
        }
    }

    /// Compares the directory with the children that are known.
    fn list_children(&mut self, tree: &mut Tree, is_base: bool, at: usize) {
        let Some(dir) = tree.lend_dir(at) else { return };
        let tick = self.moment.tick;
        let mut newcomers: Vec<(String, u64)> = Vec::new();
        let mut hint = 0;
        let listed = self.host.list(&dir, |name, inode, kind| {
            if kind != EntryKind::Dir {
                return;
            }
            match known_child(tree, at, name, &mut hint) {
                Some(child) if tree.node(child).inode == inode || tree.node(child).dir.is_none() => {
                    tree.node_mut(child).seen = tick;
                }
                _ => newcomers.push((String::from_utf8_lossy(name).into_owned(), inode)),
            }
        });
        tree.take_back(dir);
        if matches!(listed, Err(errno) if errno != Errno::NOENT && errno != Errno::NODEV) {
            return; // not readable now: nothing is known to have gone
        }
        let mut index = 0;
        while let Some(&child) = tree.node(at).children.get(index) {
            if tree.node(child).seen < tick && tree.node(child).dir.is_some() {
                self.remove(tree, is_base, child);
            } else {
                index += 1;
            }
        }
        for (name, inode) in newcomers {
            self.add(tree, is_base, at, &name, inode, true);
        }
    }

    /// A cgroup appeared: which workload is it?
    fn add(&mut self, tree: &mut Tree, is_base: bool, parent: usize, name: &str, inode: u64, is_dir: bool) -> usize {
        let at = tree.add(parent, name, inode, is_dir);
        tree.node_mut(at).seen = self.moment.tick;
        let around = tree.node(parent).row;
        let path = tree.node(at).path.clone();
        tree.node_mut(at).row = around;
        if let Verdict::Begins(found) = workload::classify(&path, self.table.kind(around)) {
            let mut row = around;
            for identity in found {
                let above = if self.table.kind(row) == Kind::Slice { self.table.parent(row) } else { row };
                row = self.find_or_birth(identity, above);
                tree.node_mut(at).heads.push(row);
                if is_base {
                    self.flows.head(row, true);
                }
            }
            tree.node_mut(at).row = row;
        }
        if let Some(dir) = &tree.node(at).dir {
            let listed = self.host.read(&format!("{dir}/cgroup.procs"), self.buffer);
            tree.node_mut(at).threaded = listed == Err(Errno::OPNOTSUPP);
        }
        at
    }

    fn find_or_birth(&mut self, identity: Identity, parent: usize) -> usize {
        let row = match self.table.find(&identity.id) {
            Some(row) => row,
            None => {
                let start = if self.moment.tick == 0 { self.moment.now } else { self.moment.before };
                self.table.birth(identity, parent, start)
            }
        };
        self.flows.grow(row + 1);
        row
    }

    /// A cgroup is gone: its last usage is in its parent's counter; its workloads end unless they live elsewhere.
    fn remove(&mut self, tree: &mut Tree, is_base: bool, at: usize) {
        while let Some(&child) = tree.node(at).children.last() {
            self.remove(tree, is_base, child);
        }
        let (heads, processes) = {
            let node = tree.node_mut(at);
            (std::mem::take(&mut node.heads), std::mem::take(&mut node.processes))
        };
        let parent = tree.node(at).parent;
        tree.remove(at);
        for index in processes {
            // Until its new cgroup lists it, a process that still lives waits in the cgroup above.
            let alive = self.host.process_inode(self.processes.get(index).pid) == Ok(self.processes.get(index).inode);
            if alive {
                let above = tree.node(parent).row;
                self.processes.get_mut(index).node = parent;
                tree.node_mut(parent).processes.push(index);
                self.adopt(index, above);
            } else {
                self.bury(index);
            }
        }
        for row in heads.into_iter().rev() {
            if is_base {
                self.flows.head(row, false);
            }
            if !self.flows.is_backed(row) {
                self.end_workload(row);
            }
        }
    }

    fn end_workload(&mut self, row: usize) {
        for child in self.table.children(row).to_vec() {
            // A process that was here and lives on has moved before; what is left ended with its place.
            if self.table.kind(child) != Kind::Process && !self.flows.is_backed(child) {
                self.end_workload(child);
            }
        }
        self.table.end(row, self.moment.now, self.moment.tick);
    }

    /// The processes of a base cgroup: who is here, and what they used. Gives the sum of that.
    fn read_processes(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, at: usize) -> Option<i64> {
        let look = self.processes.split || at == ROOT || tree.node(at).fresh || !tree.node(at).processes.is_empty();
        if look {
            self.read_procs_file(tree, other, at);
        }
        let mut live = 0;
        let mut index = 0;
        while let Some(&process) = tree.node(at).processes.get(index) {
            match self.sample(tree, other, process) {
                Some(used) => {
                    live += used;
                    index += 1;
                }
                None => {
                    tree.node_mut(at).processes.swap_remove(index);
                }
            }
        }
        Some(live)
    }

    /// cgroup.procs: births, moves and deaths.
    fn read_procs_file(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, at: usize) {
        let Some(dir) = tree.lend_dir(at) else { return };
        let mut path = dir;
        let length = path.len();
        path.push_str("/cgroup.procs");
        let mut listed = std::mem::take(self.buffer);
        let result = self.host.read(&path, &mut listed);
        path.truncate(length);
        tree.take_back(path);
        let mut complete = result.is_ok();
        for pid in cgroup::pids(&listed) {
            let Some(pid) = pid else {
                complete = false;
                continue;
            };
            match self.processes.find(pid) {
                Some(process) => {
                    self.processes.get_mut(process).seen = self.moment.tick;
                    if self.processes.get(process).node != at {
                        self.relocate(tree, other, process, at);
                    }
                }
                None if !self.processes.scan => self.birth(tree, other, pid, None, Some(at)),
                None => {}
            }
        }
        *self.buffer = listed;
        if complete && !self.processes.scan {
            self.check_unlisted(tree, other, at);
        }
    }

    /// Processes that this cgroup no longer lists have died or moved to one that is not entered.
    fn check_unlisted(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, at: usize) {
        let mut index = 0;
        while let Some(&process) = tree.node(at).processes.get(index) {
            let known = self.processes.get(process);
            if known.seen == self.moment.tick {
                index += 1;
                continue;
            }
            if self.host.process_inode(known.pid) == Ok(known.inode) {
                self.processes.get_mut(process).seen = self.moment.tick;
                let pid = self.processes.get(process).pid;
                let target = self.place(tree, other, pid).map_or(at, |(target, _)| target);
                if target != at {
                    self.relocate(tree, other, process, target);
                    continue;
                }
                index += 1;
            } else {
                tree.node_mut(at).processes.swap_remove(index);
                self.bury(process);
            }
        }
    }

    /// Lists `/proc`: deaths and pids used again now, births afterwards.
    fn scan(&mut self, base: &mut Tree, other: Option<&mut Tree>) {
        let mut listing = std::mem::take(&mut self.processes.listing);
        listing.clear();
        let listed = self.host.list("proc", |name, inode, kind| {
            if kind != EntryKind::File {
                if let Some(pid) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
                    listing.push((pid, inode));
                }
            }
        });
        let mut other = other;
        for &(pid, inode) in &listing {
            let Some(process) = self.processes.find(pid) else { continue };
            self.processes.get_mut(process).seen = self.moment.tick;
            if self.processes.get(process).inode != inode {
                self.check_reuse(process, inode);
            }
        }
        if listed.is_ok() {
            let gone: Vec<usize> =
                self.processes.indexes().filter(|index| self.processes.get(*index).seen < self.moment.tick).collect();
            for process in gone {
                let node = self.processes.get(process).node;
                base.node_mut(node).processes.retain(|index| *index != process);
                self.bury(process);
            }
        }
        for &(pid, inode) in &listing {
            if self.processes.find(pid).is_none() {
                self.birth(base, &mut other, pid, Some(inode), None);
            }
        }
        self.processes.listing = listing;
    }

    /// Another inode: is it still the same process? If not, the new one takes its slot at the next look.
    fn check_reuse(&mut self, index: usize, inode: u64) {
        let process = self.processes.get(index);
        let (pid, start_ticks) = (process.pid, process.start_ticks);
        let read = self.host.read_process(pid, "stat", self.buffer);
        let start = read.ok().and_then(|()| Stat::parse(self.buffer)).map(|stat| stat.start_ticks);
        if start == Some(start_ticks) {
            self.processes.get_mut(index).inode = inode;
        } else {
            // Marked as unseen: the scan buries it and then meets the new process of this pid.
            self.processes.get_mut(index).seen = 0;
            self.processes.get_mut(index).inode = 0;
        }
    }

    /// A process appeared.
    fn birth(
        &mut self,
        tree: &mut Tree,
        other: &mut Option<&mut Tree>,
        pid: u32,
        inode: Option<u64>,
        at: Option<usize>,
    ) {
        let mut text = Vec::new();
        if self.host.read_process(pid, "stat", &mut text).is_err() {
            return; // gone again, or not ours to read: what it used is its cgroup's `exited`
        }
        let Some(stat) = Stat::parse(&text) else { return };
        let Some(inode) = inode.or_else(|| self.host.process_inode(pid).ok()) else { return };
        let has_command_line = self.host.read_process(pid, "cmdline", self.buffer).is_ok() && !self.buffer.is_empty();
        let command_line = if has_command_line { self.buffer.clone() } else { Vec::new() };
        let placed = if at.is_none() || other.is_some() { self.place(tree, other, pid) } else { None };
        let node = at.or(placed.map(|(node, _)| node)).unwrap_or(ROOT);
        let abroad = placed.and_then(|(_, abroad)| abroad);
        let kernel = stat.is_kernel_thread(pid, has_command_line) && node == ROOT;
        // One that began before the last tick was there unseen: its first reading is a baseline.
        let newborn = self.moment.tick > 0 && (self.processes.scan || self.began_since_last_tick(stat.start_ticks));
        let process = Process {
            pid,
            inode,
            start_ticks: stat.start_ticks,
            clock: newborn.then_some(CpuTime::ZERO),
            node,
            parent: NODE,
            row: None,
            tracked: self.processes.split || kernel,
            born: self.moment.tick,
            seen: self.moment.tick,
        };
        let start_ticks = process.start_ticks;
        let index = self.processes.add(process);
        tree.node_mut(node).processes.push(index);
        let parent = if kernel { self.kernel() } else { self.parent_of(tree, index, abroad, &command_line) };
        self.processes.get_mut(index).parent = parent;
        if self.processes.split {
            let identity = process::identity(pid, start_ticks, stat.comm, &command_line);
            let row = self.find_or_birth(identity, parent);
            self.table.set_parent(row, parent);
            self.processes.get_mut(index).row = Some(row);
        }
    }

    fn began_since_last_tick(&self, start_ticks: u64) -> bool {
        // Start times are cut to 10 ms, and two ticks of tolerance cover the reading of the clocks.
        let began = CpuTime::from_ticks(start_ticks.saturating_add(2));
        began >= CpuTime::from(self.moment.before.boot)
    }

    fn kernel(&mut self) -> usize {
        let identity = Identity { id: WorkloadId::Kernel, name: "kernel".into(), attributes: Vec::new() };
        let row = self.find_or_birth(identity, NODE);
        self.flows.group(row);
        row
    }

    /// The workload that a process belongs to: its cgroup's, a more specific one that only the second hierarchy
    /// knows, or the VM that its command line names.
    fn parent_of(&mut self, tree: &Tree, index: usize, abroad: Option<usize>, command_line: &[u8]) -> usize {
        let process = self.processes.get(index);
        let base = tree.node(process.node).row;
        let mut parent = base;
        if let Some(abroad) = abroad {
            self.flows.sits(base, abroad);
            if abroad != NODE
                && !self.flows.is_backed(abroad)
                && (is_generic(self.table.kind(base)) || self.lies_in(abroad, base))
            {
                parent = abroad;
            }
        }
        let fallback = format!("{}@{}", process.pid, process.start_ticks);
        let Some(identity) = hypervisor::from_command_line(command_line, &fallback) else { return parent };
        self.processes.get_mut(index).tracked = true;
        if self.table.kind(parent) == Kind::Vm {
            if self.table.find(&identity.id).is_none() {
                self.table.set_identity(parent, identity);
            }
            return parent;
        }
        let vm = self.find_or_birth(identity, parent);
        if !self.flows.is_backed(vm) {
            self.flows.group(vm);
        }
        vm
    }

    fn lies_in(&self, row: usize, ancestor: usize) -> bool {
        let mut row = row;
        while row != NODE && row != ancestor {
            row = self.table.parent(row);
        }
        row == ancestor
    }

    /// Reads `/proc/PID/cgroup`: the base cgroup, and the row of the second hierarchy.
    fn place(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, pid: u32) -> Option<(usize, Option<usize>)> {
        let mut text = Vec::new();
        self.host.read_process(pid, "cgroup", &mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<Membership<'_>> = cgroup::memberships(&text).collect();
        let line =
            |wanted: &dyn Fn(&str) -> bool| lines.iter().find(|line| wanted(line.controllers)).map(|line| line.path);
        let cpuacct = |controllers: &str| controllers.split(',').any(|name| name == "cpuacct");
        let base = if tree.version() == cgroup::Version::V1 { line(&cpuacct) } else { line(&str::is_empty) };
        if !tree.is_mounted() {
            // Nothing is mounted: the line that says most decides.
            let path = lines.iter().map(|line| line.path).max_by_key(|path| specificity(path))?;
            return Some((self.ensure(tree, true, path), None));
        }
        let Some(other) = other.as_deref_mut() else {
            let path = base.or_else(|| lines.iter().map(|line| line.path).max_by_key(|path| specificity(path)))?;
            return Some((self.ensure(tree, true, path), None));
        };
        let base = self.ensure(tree, true, base.unwrap_or_default());
        let unified = line(&str::is_empty).filter(|path| !path.is_empty());
        let systemd = || line(&|name: &str| name == "name=systemd").filter(|path| !path.is_empty());
        let specific = || {
            lines
                .iter()
                .map(|line| line.path)
                .filter(|path| specificity(path).0 > 1)
                .max_by_key(|path| specificity(path))
        };
        let path = unified.or_else(systemd).or_else(specific);
        let abroad = path.map(|path| self.ensure(other, false, path));
        Some((base, abroad.map(|abroad| other.node(abroad).row)))
    }

    /// The cgroup at `path`, made known with those above it.
    fn ensure(&mut self, tree: &mut Tree, is_base: bool, path: &str) -> usize {
        let mut at = ROOT;
        for (depth, name) in path.split('/').filter(|part| !part.is_empty()).enumerate() {
            if depth as u32 >= DEPTH_MAX {
                break;
            }
            at = match tree.child(at, name) {
                Some(child) => child,
                None => {
                    let dir = tree.node(at).dir.as_ref().map(|dir| format!("{dir}/{name}"));
                    let inode = dir.and_then(|dir| self.host.inode(&dir).ok());
                    if inode.is_none() && at == ROOT {
                        // A private cgroup namespace shows the tail of a path only.
                        if let Some(found) = tree.by_tail(path) {
                            return found;
                        }
                    }
                    self.add(tree, is_base, at, name, inode.unwrap_or(0), inode.is_some())
                }
            };
            if tree.node(at).threaded {
                at = tree.node(at).parent;
                break;
            }
        }
        at
    }

    /// What a process used since its clock was last read; `None` if it is gone (and buried).
    fn sample(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, index: usize) -> Option<i64> {
        let process = self.processes.get(index);
        if !process.tracked {
            return Some(0);
        }
        let (pid, inode, before) = (process.pid, process.inode, process.clock);
        if process.born + 1 == self.moment.tick {
            self.refresh(tree, index);
        }
        let (clock, start) = match self.host.process_clock(pid) {
            Ok(Some(clock)) => (clock, None),
            Ok(None) => match self.read_stat(pid) {
                Ok(Some((time, start))) => (time, Some(start)),
                Ok(None) => return Some(0),
                Err(()) => return self.buried(index),
            },
            Err(_) => return self.buried(index),
        };
        let known = self.processes.get(index).start_ticks;
        let suspicious = match (start, before) {
            (Some(start), _) => start != known,
            (None, Some(before)) if clock < before => self.is_another(pid, known),
            (None, Some(before)) if clock > before && self.host.is_live() => {
                self.host.process_inode(pid) != Ok(inode) && self.is_another(pid, known)
            }
            _ => false,
        };
        if suspicious {
            return self.replace(tree, other, index);
        }
        self.processes.get_mut(index).clock = Some(clock);
        let used = before.map_or(CpuTime::ZERO, |before| clock.saturating_sub(before));
        let used = if used > self.limit || self.moment.tick == 0 { 0 } else { signed(used.0) };
        self.count(index, used);
        Some(used)
    }

    /// Books what a process used: to itself and to every group and workload it lives in.
    fn count(&mut self, index: usize, used: i64) {
        if used == 0 {
            return;
        }
        let process = self.processes.get(index);
        if let Some(row) = process.row {
            self.usage.set(row, self.usage.weight_of(row) + used.unsigned_abs(), 0);
        }
        let mut row = process.parent;
        while row != NODE {
            self.flows.live(self.table, row, used);
            if !self.flows.is_grouped(row) {
                break;
            }
            self.flows.own(self.table, row, used);
            row = self.table.parent(row);
        }
        if row == NODE {
            self.flows.live(self.table, NODE, used);
        }
    }

    fn read_stat(&mut self, pid: u32) -> Result<Option<(CpuTime, u64)>, ()> {
        match self.host.read_process(pid, "stat", self.buffer) {
            Ok(()) => Ok(Stat::parse(self.buffer).map(|stat| (stat.time, stat.start_ticks))),
            Err(Errno::NOENT | Errno::SRCH) => Err(()),
            Err(_) => Ok(None),
        }
    }

    fn is_another(&mut self, pid: u32, start_ticks: u64) -> bool {
        self.read_stat(pid).ok().flatten().is_some_and(|(_, start)| start != start_ticks)
    }

    /// The pid belongs to another process now: the old one ends, the new one begins in its slot.
    fn replace(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, index: usize) -> Option<i64> {
        let (pid, node) = (self.processes.get(index).pid, self.processes.get(index).node);
        self.bury(index);
        let at = (!self.processes.scan).then_some(node);
        self.birth(tree, other, pid, None, at);
        // The newcomer was put at the end of its cgroup's list and is sampled there.
        None
    }

    fn buried(&mut self, index: usize) -> Option<i64> {
        self.bury(index);
        None
    }

    /// A process is no more. Its group ends with its last process.
    fn bury(&mut self, index: usize) {
        let process = self.processes.get(index).clone();
        self.processes.remove(index);
        if let Some(row) = process.row {
            self.table.end(row, self.moment.now, self.moment.tick);
        }
        self.end_if_empty(process.parent);
    }

    fn end_if_empty(&mut self, row: usize) {
        let grouped = self.flows.is_grouped(row) && self.table.kind(row) != Kind::Kernel;
        if !grouped {
            return;
        }
        let alive = self.processes.indexes().any(|index| self.processes.get(index).parent == row);
        if !alive {
            self.table.end(row, self.moment.now, self.moment.tick);
        }
    }

    /// A process sits in another cgroup now: its own series goes on, below the new parent.
    fn relocate(&mut self, tree: &mut Tree, other: &mut Option<&mut Tree>, index: usize, node: usize) {
        let old = self.processes.get(index).node;
        tree.node_mut(old).processes.retain(|process| *process != index);
        tree.node_mut(node).processes.push(index);
        self.processes.get_mut(index).node = node;
        let pid = self.processes.get(index).pid;
        let abroad = if other.is_some() { self.place(tree, other, pid).and_then(|(_, abroad)| abroad) } else { None };
        let command_line = match self.host.read_process(pid, "cmdline", self.buffer) {
            Ok(()) => self.buffer.clone(),
            Err(_) => Vec::new(),
        };
        let before = self.processes.get(index).parent;
        if self.table.kind(before) == Kind::Kernel {
            return;
        }
        let parent = self.parent_of(tree, index, abroad, &command_line);
        self.adopt(index, parent);
        self.end_if_empty(before);
    }

    /// On a process's second tick its identity is read again: runtimes fork, move and exec.
    fn refresh(&mut self, tree: &mut Tree, index: usize) {
        let process = self.processes.get(index);
        let (pid, start_ticks, before) = (process.pid, process.start_ticks, process.parent);
        if self.table.kind(before) == Kind::Kernel {
            return;
        }
        let command_line = match self.host.read_process(pid, "cmdline", self.buffer) {
            Ok(()) => self.buffer.clone(),
            Err(_) => Vec::new(),
        };
        if let Some(row) = process.row {
            if self.host.read_process(pid, "comm", self.buffer).is_ok() {
                self.table.set_identity(row, process::identity(pid, start_ticks, self.buffer, &command_line));
            }
        }
        let is_vm = self.table.kind(before) == Kind::Vm && self.flows.is_grouped(before);
        if !is_vm && !command_line.is_empty() {
            let parent = self.parent_of(tree, index, None, &command_line);
            let base = tree.node(self.processes.get(index).node).row;
            if parent != before && parent != base {
                self.adopt(index, parent);
            }
        }
    }

    /// A process counts for another workload from now on.
    fn adopt(&mut self, index: usize, parent: usize) {
        let before = std::mem::replace(&mut self.processes.get_mut(index).parent, parent);
        if let Some(row) = self.processes.get(index).row.filter(|_| parent != before) {
            (self.moved)(row, before);
            self.table.set_parent(row, parent);
        }
    }
}

/// How much a path tells: a workload of its own beats a unit beats a plain place, and then the longer path.
fn specificity(path: &str) -> (u8, usize) {
    let mut around = Kind::Node;
    let mut best = 0;
    let parts = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    for end in parts {
        if end == 0 {
            continue;
        }
        if let Verdict::Begins(found) = workload::classify(&path[..end], around) {
            around = found.last().map_or(around, |identity| identity.id.kind());
            best = best.max(match around {
                Kind::Node | Kind::Kernel | Kind::Process => 0,
                Kind::Slice => 1,
                Kind::Service => 2,
                _ => 3,
            });
        }
    }
    (best, path.len())
}

/// The child called `name`, searched from where the last one was found: directories list in a stable order.
fn known_child(tree: &Tree, at: usize, name: &[u8], hint: &mut usize) -> Option<usize> {
    let children = &tree.node(at).children;
    for step in 0..children.len() {
        let position = (*hint + step) % children.len();
        if tree.node(children[position]).name().as_bytes() == name {
            *hint = position + 1;
            return Some(children[position]);
        }
    }
    None
}

/// After a scan: cgroups that only `/proc/PID/cgroup` told of, and in which nothing lives any more, are gone.
fn sweep(walk: &mut Walk<'_>, tree: &mut Tree) {
    let mut queue = vec![ROOT];
    let mut order = Vec::new();
    while let Some(at) = queue.pop() {
        order.push(at);
        queue.extend_from_slice(&tree.node(at).children);
    }
    for at in order.into_iter().rev() {
        let node = tree.node(at);
        if at != ROOT && node.dir.is_none() && node.children.is_empty() && node.processes.is_empty() {
            walk.remove(tree, true, at);
        }
    }
}
