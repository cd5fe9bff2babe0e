//! One walk over the machine: cgroups top-down, entered only where usage moved, then the processes in them.
//!
//! The phases: read usage and list children from the root down; learn who is where (births, moves, deaths); then, from
//! the deepest cgroup up, read the processes' clocks and the usage again. That order halves the noise of reading one
//! after another, and a parent is never settled before its children. At the baseline everything is entered, so that
//! later intervals have something to count from.

use crate::activity::cgroup::{ROOT, Tree};
use crate::activity::flow::Flows;
use crate::activity::process::Processes;
use crate::activity::sockets::Sockets;
use crate::activity::{Moment, Usage, signed};
use crate::host::{EntryKind, Errno, Host};
use crate::unit::CpuTime;
use crate::workload::table::{NODE, Table};
use crate::workload::{self, Identity, Kind, Verdict};

/// Cgroups nested deeper than this are left to their ancestor.
pub(super) const DEPTH_MAX: u32 = 64;
/// After so many ticks it is looked up again to which socket a cgroup is pinned.
const PIN_TICKS: u64 = 30;

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
    /// The sockets, where there are several.
    pub sockets: Option<&'a Sockets>,
}

impl Walk<'_> {
    /// Walks the base hierarchy, and the second one of a hybrid host.
    pub fn run(&mut self, base: &mut Tree, mut other: Option<&mut Tree>) {
        base.begin();
        self.enter(base, true, ROOT);
        if let Some(other) = other.as_deref_mut() {
            other.begin();
            self.enter(other, false, ROOT);
        }
        self.find_processes(base, &mut other);
        base.sort_entered();
        for index in 0..base.entered().len() {
            let at = base.entered()[index];
            let live = self.sample_all(base, &mut other, at);
            self.settle(base, true, at, live);
        }
        if let Some(other) = other {
            other.sort_entered();
            for index in 0..other.entered().len() {
                let at = other.entered()[index];
                self.settle(other, false, at, 0);
            }
        }
        if self.processes.scan {
            self.sweep(base);
        }
        self.flows.carve(self.table, base.node(ROOT).measured);
    }

    /// Reads one cgroup and, where its usage moved, those inside it.
    fn enter(&mut self, tree: &mut Tree, is_base: bool, at: usize) {
        // What cannot be read now, or has no counter, is the sum of what is seen inside.
        let before = tree.read_usage(self.host, at, self.buffer).unwrap_or_default();
        let node = tree.node(at);
        let idle = before.is_some_and(|total| node.measured && total == tree.total(at));
        if idle && !node.fresh && at != ROOT {
            return;
        }
        let deep = node.depth >= DEPTH_MAX;
        tree.mark_entered(at, before);
        if is_base {
            self.look_up_pin(tree, at);
        }
        if !deep {
            self.list_children(tree, is_base, at);
        }
        for index in 0..tree.node(at).children.len() {
            let child = tree.node(at).children[index];
            if !tree.node(child).threaded {
                self.enter(tree, is_base, child);
            }
        }
    }

    /// Which socket a cgroup is pinned to. A runtime sets that a moment after it has made the cgroup.
    fn look_up_pin(&mut self, tree: &mut Tree, at: usize) {
        let Some(sockets) = self.sockets.filter(|_| tree.node(at).pin_due <= self.moment.tick) else { return };
        let pin = match tree.read_cpuset(self.host, at, self.buffer) {
            Ok(()) => sockets.pin_of(self.buffer),
            Err(_) => tree.node(tree.node(at).parent).pin,
        };
        let node = tree.node_mut(at);
        node.pin = pin;
        node.pin_due = self.moment.tick + if node.pin_due == 0 { 1 } else { PIN_TICKS };
    }

    /// Turns the new total into what the cgroup used, and books what is its own. `live` is what its processes used.
    fn settle(&mut self, tree: &mut Tree, is_base: bool, at: usize, live: i64) {
        let inner = tree.inner(at);
        let fresh = std::mem::replace(&mut tree.node_mut(at).fresh, false);
        let row = tree.node(at).row;
        let again = tree.node(at).children.len() + tree.node(at).processes.len() > 0;
        let again = again.then(|| tree.read_usage(self.host, at, self.buffer)).and_then(Result::ok).flatten();
        let total = tree.node(at).before.map(|before| again.unwrap_or(before));
        let seen = inner + live;
        let used = match total {
            Some(total) if !tree.node(at).measured => {
                tree.begin_at(at, total);
                // A new cgroup's usage is all of this interval, unless that cannot be: then it was there, unseen.
                (fresh && self.moment.tick > 0 && total <= self.limit).then_some(total)
            }
            Some(total) => tree.advance(at, total, self.limit),
            None => {
                tree.node_mut(at).missed += 1;
                None
            }
        };
        let node = tree.node_mut(at);
        node.delta = match used {
            Some(used) if self.moment.tick > 0 => (signed(used.0) - std::mem::take(&mut node.ahead)).max(0),
            // The sum of what is seen; when the counter is back, this much is booked already.
            _ => {
                node.ahead += if node.measured && self.moment.tick > 0 && !fresh { seen } else { 0 };
                seen
            }
        };
        let used = node.delta;
        if at == ROOT && is_base && total.is_some() {
            self.flows.root(used);
        }
        let pin = tree.node(at).pin.filter(|_| is_base);
        self.own(is_base, row, used - inner);
        if let Some(socket) = pin {
            self.flows.pin(row, socket, used - inner);
        }
    }

    fn own(&mut self, is_base: bool, row: usize, nanos: i64) {
        if nanos == 0 {
            return;
        }
        if is_base {
            self.flows.own(self.table, row, nanos);
        } else if row != NODE && !self.flows.is_backed(row) {
            self.flows.other(self.table, row, nanos);
        }
    }

    /// Compares the directory with the children that are known.
    fn list_children(&mut self, tree: &mut Tree, is_base: bool, at: usize) {
        let Some(dir) = tree.lend_dir(at) else { return };
        if tree.node(at).children.is_empty() && !self.host.has_directories(&dir) {
            return tree.take_back(dir);
        }
        let tick = self.moment.tick;
        let mut newcomers: Vec<(String, u64)> = Vec::new();
        let mut hint = 0;
        let listed = self.host.list(&dir, |name, inode, kind| {
            if kind != EntryKind::Dir {
                return;
            }
            match known_child(tree, at, name, &mut hint) {
                Some(child) if tree.node(child).inode == inode => tree.node_mut(child).seen = tick,
                _ => newcomers.push((String::from_utf8_lossy(name).into_owned(), inode)),
            }
        });
        tree.take_back(dir);
        if matches!(listed, Err(errno) if errno != Errno::NOENT && errno != Errno::NODEV) {
            return; // not readable now: nothing is known to have gone
        }
        let mut index = 0;
        while let Some(&child) = tree.node(at).children.get(index) {
            let node = tree.node(child);
            let replaced = node.dir.is_none() && newcomers.iter().any(|(name, _)| name == node.name());
            if (node.seen < tick && node.dir.is_some()) || replaced {
                self.remove(tree, is_base, child);
            } else {
                index += 1;
            }
        }
        for (name, inode) in newcomers {
            self.add(tree, is_base, at, &name, Some(inode));
        }
    }

    /// A cgroup appeared: which workload is it? Without an inode it has no directory.
    pub(super) fn add(
        &mut self,
        tree: &mut Tree,
        is_base: bool,
        parent: usize,
        name: &str,
        inode: Option<u64>,
    ) -> usize {
        let at = tree.add(parent, name, inode);
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

    pub(super) fn find_or_birth(&mut self, identity: Identity, parent: usize) -> usize {
        let row = self.table.find(&identity.id).unwrap_or_else(|| {
            let start = if self.moment.tick == 0 { self.moment.now } else { self.moment.before };
            self.table.birth(identity, parent, start)
        });
        self.flows.grow(row + 1);
        row
    }

    /// A cgroup is gone: its last usage is in its parent's counter; its workloads end unless they live elsewhere.
    fn remove(&mut self, tree: &mut Tree, is_base: bool, at: usize) {
        while let Some(&child) = tree.node(at).children.last() {
            self.remove(tree, is_base, child);
        }
        let node = tree.node_mut(at);
        let (heads, processes) = (std::mem::take(&mut node.heads), std::mem::take(&mut node.processes));
        let parent = node.parent;
        tree.remove(at);
        for index in processes {
            // Until its new cgroup lists it, a process that still lives waits in the cgroup above.
            let process = self.processes.get(index);
            if self.host.process_inode(process.pid) == Ok(process.inode) {
                let above = tree.node(parent).row;
                self.processes.get_mut(index).node = parent;
                self.processes.again.push((index, self.processes.get(index).pid));
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

    /// Cgroups that only `/proc/PID/cgroup` told of, and in which nothing lives any more, are gone.
    fn sweep(&mut self, tree: &mut Tree) {
        for index in 0..tree.entered().len() {
            let at = tree.entered()[index];
            let node = tree.node(at);
            if at != ROOT && node.dir.is_none() && node.children.is_empty() && node.processes.is_empty() {
                self.remove(tree, true, at);
            }
        }
    }
}

/// The child called `name`, searched from where the last one was found: directories list in a stable order.
fn known_child(tree: &Tree, at: usize, name: &[u8], hint: &mut usize) -> Option<usize> {
    let children = &tree.node(at).children;
    for step in 0..children.len() {
        let position = (*hint + step) % children.len();
        let child = tree.node(children[position]);
        if child.name().as_bytes() == name && child.dir.is_some() {
            *hint = position + 1;
            return Some(children[position]);
        }
    }
    None
}
