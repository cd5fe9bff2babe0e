//! Who is where: births, moves, reuse and death of processes, and what each used.
//!
//! On the live machine cgroup.procs of the entered cgroups names every process. Where it cannot (another pid
//! namespace, no cgroup file system, a machine in memory) `/proc` is listed and `/proc/PID/cgroup` read at birth. A
//! process is looked at again on its second tick, since runtimes fork, move and exec.

use crate::activity::cgroup::{self, ROOT, Tree};
use crate::activity::place::Other;
use crate::activity::process::{self, Process, Stat};
use crate::activity::walk::Walk;
use crate::activity::{is_generic, signed};
use crate::host::{EntryKind, Errno};
use crate::unit::CpuTime;
use crate::workload::table::NODE;
use crate::workload::{Identity, Kind, WorkloadId, hypervisor};

impl Walk<'_> {
    /// Learns who is where, before any clock is read.
    pub(super) fn find_processes(&mut self, tree: &mut Tree, other: Other<'_, '_>) {
        if self.processes.scan {
            self.scan(tree, other);
        }
        for index in 0..tree.entered().len() {
            let at = tree.entered()[index];
            let fresh = tree.node(at).fresh;
            if self.processes.split || at == ROOT || fresh || !tree.node(at).processes.is_empty() {
                self.read_procs_file(tree, other, at);
            }
        }
        self.look_again(tree, other);
    }

    /// Lists `/proc`: deaths and pids used again now, births afterwards.
    fn scan(&mut self, tree: &mut Tree, other: Other<'_, '_>) {
        let mut listing = std::mem::take(&mut self.processes.listing);
        listing.clear();
        let listed = self.host.list("proc", |name, inode, kind| {
            if kind != EntryKind::File
                && let Some(pid) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok())
            {
                listing.push((pid, inode));
            }
        });
        let mut reused = Vec::new();
        for &(pid, inode) in &listing {
            let Some(process) = self.processes.find(pid) else { continue };
            self.processes.get_mut(process).seen = self.moment.tick;
            if self.processes.get(process).inode != inode && !self.is_the_same(process, inode) {
                self.leave(tree, process);
                self.bury(process);
                reused.push(pid);
            }
        }
        if listed.is_ok() {
            let unseen = |index: &usize| self.processes.get(*index).seen < self.moment.tick;
            let gone: Vec<usize> = self.processes.indexes().filter(unseen).collect();
            for process in gone {
                self.leave(tree, process);
                self.bury(process);
            }
        }
        if self.moment.tick == 0 {
            // Before any is placed: one that shows the namespace's edge makes `/` mean another place.
            for &(pid, _) in &listing {
                self.look_for_edge(tree, pid);
            }
        }
        // Should that show only later, all are placed anew.
        for _ in 0..2 {
            let edge = self.processes.namespaced;
            for &(pid, inode) in &listing {
                if self.processes.find(pid).is_none() {
                    self.birth(tree, other, pid, Some(inode), None, reused.contains(&pid));
                }
            }
            if self.processes.namespaced == edge {
                break;
            }
            let placed: Vec<usize> = tree.node(ROOT).processes.clone();
            for process in placed {
                self.leave(tree, process);
                self.bury(process);
            }
        }
        self.processes.listing = listing;
    }

    /// Another inode (procfs may drop and remake one): is it still the same process?
    fn is_the_same(&mut self, index: usize, inode: u64) -> bool {
        let process = self.processes.get(index);
        let (pid, start_ticks) = (process.pid, process.start_ticks);
        let same = !self.is_another(pid, start_ticks);
        if same {
            self.processes.get_mut(index).inode = inode;
        }
        same
    }

    /// cgroup.procs: births, moves and deaths.
    fn read_procs_file(&mut self, tree: &mut Tree, other: Other<'_, '_>, at: usize) {
        let Some(mut path) = tree.lend_dir(at) else { return };
        path.push_str("/cgroup.procs");
        let mut listed = std::mem::take(self.buffer);
        let mut complete = self.host.read(&path, &mut listed).is_ok();
        tree.take_back(path);
        let mut text = std::mem::take(&mut self.processes.text);
        std::mem::swap(&mut listed, &mut text);
        *self.buffer = listed;
        for pid in cgroup::pids(&text) {
            let Some(pid) = pid else {
                complete = false;
                continue;
            };
            match self.processes.find(pid) {
                Some(process) => {
                    self.processes.get_mut(process).seen = self.moment.tick;
                    self.processes.get_mut(process).listed = self.moment.tick;
                    if self.processes.get(process).node != at {
                        self.relocate(tree, other, process, at);
                    }
                }
                None => self.birth(tree, other, pid, None, Some(at), false),
            }
        }
        self.processes.text = text;
        if complete {
            self.check_unlisted(tree, other, at);
        }
    }

    /// Processes that this cgroup no longer lists have died or moved to one that is not entered.
    fn check_unlisted(&mut self, tree: &mut Tree, other: Other<'_, '_>, at: usize) {
        let mut index = 0;
        while let Some(&process) = tree.node(at).processes.get(index) {
            let known = self.processes.get(process);
            if known.listed == self.moment.tick {
                index += 1;
                continue;
            }
            let (pid, inode) = (known.pid, known.inode);
            if self.host.process_inode(pid) == Ok(inode) {
                self.processes.get_mut(process).listed = self.moment.tick;
                self.processes.get_mut(process).seen = self.moment.tick;
                let target = self.place(tree, other, pid).map_or(at, |place| place.node);
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

    /// Those on their second tick, and those whose cgroup was removed, are placed anew.
    fn look_again(&mut self, tree: &mut Tree, other: Other<'_, '_>) {
        let mut again = std::mem::take(&mut self.processes.again);
        again.retain(|&(index, pid)| {
            let process = self.processes.get(index);
            if process.pid != pid || self.processes.find(pid) != Some(index) {
                return false;
            }
            if process.born == self.moment.tick {
                return true;
            }
            if let Some(place) = self.place(tree, other, pid)
                && place.node != self.processes.get(index).node
            {
                self.relocate(tree, other, index, place.node);
            }
            false
        });
        // Births of this tick may have been added meanwhile.
        again.append(&mut self.processes.again);
        if again.is_empty() {
            // At the baseline it held every process.
            again.shrink_to(64);
        }
        self.processes.again = again;
    }

    /// A process appeared; `reused` if it has the pid of one that was known.
    fn birth(
        &mut self,
        tree: &mut Tree,
        other: Other<'_, '_>,
        pid: u32,
        inode: Option<u64>,
        at: Option<usize>,
        reused: bool,
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
        // A kernel thread of which no cgroup is told is in the root all the same.
        let root = stat.is_kernel_thread(pid, has_command_line).then_some(ROOT);
        let Some(node) = at.or(placed.map(|place| place.node)).or(root) else { return };
        let kernel = stat.is_kernel_thread(pid, has_command_line) && node == ROOT;
        // One that began before the last tick was there unseen: its first reading is a baseline.
        let newborn = self.moment.tick > 0 && (reused || self.began_since_last_tick(stat.start_ticks));
        let index = self.processes.add(Process {
            pid,
            inode,
            start_ticks: stat.start_ticks,
            clock: newborn.then_some(CpuTime::ZERO),
            node,
            parent: NODE,
            row: None,
            tracked: self.processes.split || kernel,
            missed: 0,
            born: self.moment.tick,
            seen: self.moment.tick,
            listed: self.moment.tick,
        });
        tree.node_mut(node).processes.push(index);
        if self.processes.get(index).tracked {
            self.processes.again.push((index, pid));
        }
        let abroad = placed.and_then(|place| place.abroad);
        let parent = if kernel { self.kernel() } else { self.parent_of(tree, index, abroad, &command_line) };
        self.processes.get_mut(index).parent = parent;
        if self.processes.split {
            let identity = process::identity(pid, stat.start_ticks, stat.comm, &command_line);
            let row = self.find_or_birth(identity, parent);
            self.table.set_parent(row, parent);
            self.processes.get_mut(index).row = Some(row);
        }
    }

    fn began_since_last_tick(&self, start_ticks: u64) -> bool {
        // Without a boot clock (a machine file without proc/uptime) the listing alone decides.
        if self.moment.before.boot <= self.moment.passed {
            return true;
        }
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
            let finer = is_generic(self.table.kind(base)) || self.lies_in(abroad, base);
            self.flows.sits(base, abroad, finer);
            if abroad != NODE && finer && !self.flows.is_backed(abroad) {
                parent = abroad;
                // Where the second hierarchy has no counter its processes are all that is known of it.
                self.processes.get_mut(index).tracked = true;
            }
        }
        let process = self.processes.get(index);
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

    /// Reads the clocks of all processes in a cgroup; gives the sum of what they used.
    pub(super) fn sample_all(&mut self, tree: &mut Tree, other: Other<'_, '_>, at: usize) -> i64 {
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
        live
    }

    /// What a process used since its clock was last read; `None` if it is gone (and buried).
    fn sample(&mut self, tree: &mut Tree, other: Other<'_, '_>, index: usize) -> Option<i64> {
        let process = self.processes.get(index);
        if !process.tracked {
            return Some(0);
        }
        let (pid, inode, before, known) = (process.pid, process.inode, process.clock, process.start_ticks);
        let (clock, start) = match self.host.process_clock(pid) {
            Ok(Some(clock)) => (clock, None),
            Ok(None) => match self.read_stat(pid) {
                Ok(Some((time, start))) => (time, Some(start)),
                Ok(None) => {
                    self.processes.get_mut(index).missed += 1;
                    return Some(0);
                }
                Err(()) => return self.buried(index),
            },
            Err(_) => return self.buried(index),
        };
        let another = match (start, before) {
            (Some(start), _) => start != known,
            (None, Some(before)) if clock < before => self.is_another(pid, known),
            // A pid used again may also show more than before: where a clock moved, the inode must be the same.
            (None, Some(before)) if clock > before => {
                self.host.process_inode(pid).is_ok_and(|now| now != inode && !self.is_the_same(index, now))
            }
            _ => false,
        };
        if another {
            return self.replace(tree, other, index);
        }
        if self.processes.get(index).born + 1 == self.moment.tick {
            self.refresh(tree, index);
        }
        self.processes.get_mut(index).clock = Some(clock);
        let used = before.map_or(CpuTime::ZERO, |before| clock.saturating_sub(before));
        // What it used while it could not be read is booked already, as its cgroup's exited or to nobody.
        let missed = std::mem::take(&mut self.processes.get_mut(index).missed);
        let used = CpuTime(used.0 / u64::from(missed + 1));
        let used = if used > self.limit || self.moment.tick == 0 { 0 } else { signed(used.0) };
        self.count(tree, index, used);
        Some(used)
    }

    /// Books what a process used: to itself and to every group and workload it lives in.
    fn count(&mut self, tree: &Tree, index: usize, used: i64) {
        if used == 0 {
            return;
        }
        let process = self.processes.get(index);
        if let Some(row) = process.row {
            self.usage.set(row, self.usage.weight_of(row) + used.unsigned_abs(), 0);
        }
        let base = tree.node(process.node).row;
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
        } else if row != base && !self.flows.is_backed(row) {
            self.flows.live_away(row, base, used);
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
        self.read_stat(pid).ok().flatten().is_none_or(|(_, start)| start != start_ticks)
    }

    /// The pid belongs to another process now: the old one ends, the new one begins in its slot.
    fn replace(&mut self, tree: &mut Tree, other: Other<'_, '_>, index: usize) -> Option<i64> {
        let (pid, node) = (self.processes.get(index).pid, self.processes.get(index).node);
        self.bury(index);
        let at = (!self.processes.scan).then_some(node);
        // The newcomer is put at the end of its cgroup's list and is sampled there.
        self.birth(tree, other, pid, None, at, true);
        None
    }

    fn buried(&mut self, index: usize) -> Option<i64> {
        self.bury(index);
        None
    }

    /// A process is no more. Its group ends with its last process.
    pub(super) fn bury(&mut self, index: usize) {
        let process = self.processes.get(index);
        let (row, parent) = (process.row, process.parent);
        self.processes.remove(index);
        if let Some(row) = row {
            self.table.end(row, self.moment.now, self.moment.tick);
        }
        self.end_if_empty(parent);
    }

    /// Takes a process off its cgroup's list.
    fn leave(&mut self, tree: &mut Tree, index: usize) {
        let node = self.processes.get(index).node;
        tree.node_mut(node).processes.retain(|process| *process != index);
    }

    fn end_if_empty(&mut self, row: usize) {
        let grouped = self.flows.is_grouped(row) && self.table.kind(row) != Kind::Kernel;
        let carved = row != NODE && !self.flows.is_backed(row) && self.table.kind(row) != Kind::Kernel;
        if !grouped && !carved {
            return;
        }
        let alive = self.processes.indexes().any(|index| self.processes.get(index).parent == row);
        let full = self.table.children(row).iter().any(|child| self.table.kind(*child) != Kind::Process);
        if !alive && !full {
            self.table.end(row, self.moment.now, self.moment.tick);
        }
    }

    /// A process sits in another cgroup now: its own series goes on, below the new parent.
    fn relocate(&mut self, tree: &mut Tree, other: Other<'_, '_>, index: usize, node: usize) {
        self.leave(tree, index);
        tree.node_mut(node).processes.push(index);
        self.processes.get_mut(index).node = node;
        let pid = self.processes.get(index).pid;
        let before = self.processes.get(index).parent;
        if self.table.kind(before) == Kind::Kernel {
            return;
        }
        let place = if other.is_some() { self.place(tree, other, pid) } else { None };
        let command_line = self.command_line(pid);
        let parent = self.parent_of(tree, index, place.and_then(|place| place.abroad), &command_line);
        self.adopt(index, parent);
        self.end_if_empty(before);
    }

    fn command_line(&mut self, pid: u32) -> Vec<u8> {
        match self.host.read_process(pid, "cmdline", self.buffer) {
            Ok(()) => self.buffer.clone(),
            Err(_) => Vec::new(),
        }
    }

    /// On a process's second tick its identity is read again.
    fn refresh(&mut self, tree: &mut Tree, index: usize) {
        let process = self.processes.get(index);
        let (pid, start_ticks, before, row) = (process.pid, process.start_ticks, process.parent, process.row);
        if self.table.kind(before) == Kind::Kernel {
            return;
        }
        let command_line = self.command_line(pid);
        if let Some(row) = row {
            let comm = self.host.read_process(pid, "comm", self.buffer).is_ok();
            let stat = !comm && self.host.read_process(pid, "stat", self.buffer).is_ok();
            let name = if stat { Stat::parse(self.buffer).map(|stat| stat.comm) } else { None };
            let name = name.or_else(|| comm.then(|| self.buffer.strip_suffix(b"\n").unwrap_or(self.buffer)));
            if let Some(name) = name {
                self.table.set_identity(row, process::identity(pid, start_ticks, name, &command_line));
            }
        }
        let is_vm = self.table.kind(before) == Kind::Vm;
        if !is_vm && !command_line.is_empty() {
            let parent = self.parent_of(tree, index, None, &command_line);
            if parent != before && self.flows.is_grouped(parent) {
                self.adopt(index, parent);
            }
        }
    }

    /// A process counts for another workload from now on.
    pub(super) fn adopt(&mut self, index: usize, parent: usize) {
        let before = std::mem::replace(&mut self.processes.get_mut(index).parent, parent);
        if let Some(row) = self.processes.get(index).row.filter(|_| parent != before) {
            (self.moved)(row, before);
            self.table.set_parent(row, parent);
        }
    }
}
