//! The workloads that live now, in rows: birth, death, and rows used again.
//!
//! A row is a dense index into every per-workload column of the agent (weights, energy, CPU time). Row 0 is the node.
//! An ended row stays until all its energy is booked and every reader has seen its final totals; then it is free for
//! the next workload, under a new serial number. Children are kept in the order of their ids, in which shares are cut.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::workload::{Identity, Kind, Names, Resources, WorkloadId};

/// The row of the node.
pub const NODE: usize = 0;

/// The tree of workloads.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Option<Row>>,
    free: Vec<usize>,
    by_id: HashMap<WorkloadId, usize>,
    ended: Vec<usize>,
    serial: u64,
    generation: u64,
    /// The start of the latest births, which share it.
    start: Arc<Timestamp>,
}

/// One workload.
#[derive(Debug, Clone)]
pub struct Row {
    /// Unique among all workloads of this agent.
    pub serial: u64,
    /// Who it is, as far as the machine says.
    pub identity: Arc<Identity>,
    /// Who it is, as far as anybody says: this is what readers see.
    pub shown: Arc<Identity>,
    /// Whether more names are on their way, within seconds.
    pub awaited: bool,
    names: Option<Arc<Names>>,
    /// The row of its parent; the node's is the node.
    pub parent: usize,
    /// How often it has got another parent.
    pub moves: u32,
    /// Distance from the node.
    pub depth: u32,
    /// When its totals began.
    pub start: Arc<Timestamp>,
    /// When it ended, and at which tick.
    pub ended: Option<Box<(Timestamp, u64)>>,
    children: Vec<usize>,
}

impl Row {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.identity.id.kind()
    }

    /// The rows of its children, in the order of their ids.
    #[must_use]
    pub fn children(&self) -> &[usize] {
        &self.children
    }

    /// What it asked for.
    #[must_use]
    pub fn resources(&self) -> Resources {
        self.names.as_ref().map(|names| names.resources).unwrap_or_default()
    }

    fn show(&mut self) {
        self.shown = match &self.names {
            Some(names) => Arc::new(self.identity.under(names)),
            None => Arc::clone(&self.identity),
        };
    }
}

impl Table {
    /// A tree of the node alone.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        let identity = Identity { id: WorkloadId::Node, name: "node".into(), attributes: Vec::new() };
        let mut table = Self {
            rows: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            ended: Vec::new(),
            serial: 0,
            generation: 0,
            start: Arc::new(start),
        };
        table.birth(identity, NODE, start);
        table
    }

    /// How many rows there are, free ones included: the length of every column.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never: the node is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A number that grows with every birth, death, move and change of identity.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The workload in `row`.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&Row> {
        self.rows.get(row)?.as_ref()
    }

    /// The kind of the workload in `row`; the node's for a free row.
    #[must_use]
    pub fn kind(&self, row: usize) -> Kind {
        self.get(row).map_or(Kind::Node, Row::kind)
    }

    /// The parent of `row`; the node for a free row.
    #[must_use]
    pub fn parent(&self, row: usize) -> usize {
        self.get(row).map_or(NODE, |row| row.parent)
    }

    /// The children of `row`, in the order of their ids.
    #[must_use]
    pub fn children(&self, row: usize) -> &[usize] {
        self.get(row).map_or(&[], Row::children)
    }

    /// The row of the workload called `id`, unless it ended; processes are not found this way.
    #[must_use]
    pub fn find(&self, id: &WorkloadId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Every row that is in use.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate().filter_map(|(index, row)| Some((index, row.as_ref()?)))
    }

    /// A new workload below `parent`. One that ended, but whose row still waits to be forgotten, goes on in it.
    pub fn birth(&mut self, identity: Identity, parent: usize, start: Timestamp) -> usize {
        self.generation += 1;
        if let Some(row) = self.revive(&identity, parent) {
            return row;
        }
        let row = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            self.rows.len() - 1
        });
        self.serial += 1;
        let depth = if row == NODE { 0 } else { self.get(parent).map_or(1, |parent| parent.depth + 1) };
        self.name(&identity.id, row);
        let identity = Arc::new(identity);
        if *self.start != start {
            self.start = Arc::new(start);
        }
        let start = Arc::clone(&self.start);
        self.rows[row] = Some(Row {
            serial: self.serial,
            shown: Arc::clone(&identity),
            identity,
            awaited: false,
            names: None,
            parent,
            moves: 0,
            depth,
            start,
            ended: None,
            children: Vec::new(),
        });
        if row != NODE {
            self.adopt(row, parent);
        }
        row
    }

    /// A service that is restarted within one interval keeps its row: its cgroup is new, its name is not.
    fn revive(&mut self, identity: &Identity, parent: usize) -> Option<usize> {
        let at = self.ended.iter().position(|row| self.get(*row).is_some_and(|row| row.identity.id == identity.id))?;
        let row = self.ended.swap_remove(at);
        self.name(&identity.id, row);
        if let Some(entry) = self.rows[row].as_mut() {
            entry.ended = None;
        }
        self.set_parent(row, parent);
        Some(row)
    }

    /// Processes are found by their pid elsewhere, and there are many of them.
    fn name(&mut self, id: &WorkloadId, row: usize) {
        if id.kind() != Kind::Process {
            self.by_id.insert(id.clone(), row);
        }
    }

    /// Makes room for `rows` rows at once.
    pub fn reserve(&mut self, rows: usize) {
        self.rows.reserve(rows);
    }

    /// The workload in `row` is no more; its row waits in [`Table::ended`].
    pub fn end(&mut self, row: usize, at: Timestamp, tick: u64) {
        if row == NODE {
            return;
        }
        if let Some(entry) = self.rows.get_mut(row).and_then(Option::as_mut)
            && entry.ended.is_none()
        {
            entry.ended = Some(Box::new((at, tick)));
            let id = entry.identity.id.clone();
            self.by_id.remove(&id);
            self.ended.push(row);
            self.generation += 1;
        }
    }

    /// The rows that ended and wait to be forgotten.
    #[must_use]
    pub fn ended(&self) -> &[usize] {
        &self.ended
    }

    /// Marks at `tick` which ended rows have their final totals now: those wait for one more look of every reader.
    pub fn finish_ended(&mut self, tick: u64, is_final: impl Fn(usize) -> bool) {
        for index in 0..self.ended.len() {
            let row = self.ended[index];
            let Some(entry) = self.rows[row].as_mut() else { continue };
            let Some((at, last)) = entry.ended.as_deref().copied() else { continue };
            let now = if is_final(row) && !entry.awaited { last.min(tick) } else { tick + 1 };
            entry.ended = Some(Box::new((at, now)));
            // It changes when it has to wait on, and when this is the tick at which it is shown as ended.
            if now != last || now == tick {
                self.generation += 1;
            }
        }
    }

    /// Frees those ended rows that `done` says are done with, children before parents, and calls `freed` for each.
    pub fn forget(&mut self, mut done: impl FnMut(usize, &Row) -> bool, mut freed: impl FnMut(usize)) {
        let mut index = 0;
        while index < self.ended.len() {
            let row = self.ended[index];
            let ready = self.get(row).is_none_or(|entry| entry.children.is_empty() && done(row, entry));
            if !ready {
                index += 1;
                continue;
            }
            self.ended.swap_remove(index);
            self.abandon(row);
            self.rows[row] = None;
            self.free.push(row);
            self.generation += 1;
            freed(row);
        }
    }

    /// Moves `row` below another parent: its own series goes on, its energy counts there from now on.
    pub fn set_parent(&mut self, row: usize, parent: usize) {
        if row == NODE || self.parent(row) == parent {
            return;
        }
        self.abandon(row);
        self.adopt(row, parent);
        if let Some(entry) = self.rows[row].as_mut() {
            entry.moves = entry.moves.wrapping_add(1);
        }
        self.generation += 1;
    }

    /// Gives `row` a new identity (a process after exec, a VM whose uuid became known).
    pub fn set_identity(&mut self, row: usize, identity: Identity) {
        let Some(entry) = self.rows.get_mut(row).and_then(Option::as_mut) else { return };
        if *entry.identity == identity {
            return;
        }
        let old = entry.identity.id.clone();
        let (parent, moved) = (entry.parent, old != identity.id);
        let new = identity.id.clone();
        entry.identity = Arc::new(identity);
        entry.show();
        self.generation += 1;
        if moved {
            self.by_id.remove(&old);
            self.name(&new, row);
            if let Some(entry) = self.rows[parent].as_mut() {
                entry.children.retain(|child| *child != row);
            }
            self.adopt(row, parent);
        }
    }

    /// What others say of `row`: their names, if any, and whether more are `awaited`. Names once known stay until others
    /// replace them.
    pub fn set_names(&mut self, row: usize, names: Option<&Arc<Names>>, awaited: bool) {
        let Some(entry) = self.rows.get_mut(row).and_then(Option::as_mut) else { return };
        let other = names.is_some_and(|names| entry.names.as_deref() != Some(&**names));
        if other {
            entry.names = names.cloned();
            entry.show();
        }
        if other || entry.awaited != awaited {
            entry.awaited = awaited;
            self.generation += 1;
        }
    }

    fn abandon(&mut self, row: usize) {
        let parent = self.parent(row);
        if let Some(entry) = self.rows.get_mut(parent).and_then(Option::as_mut) {
            entry.children.retain(|child| *child != row);
        }
    }

    fn adopt(&mut self, row: usize, parent: usize) {
        let depth = self.get(parent).map_or(1, |parent| parent.depth + 1);
        let Some(identity) = self.get(row).map(|row| Arc::clone(&row.identity)) else { return };
        let at = self
            .children(parent)
            .partition_point(|child| self.get(*child).is_some_and(|child| child.identity.id < identity.id));
        if let Some(entry) = self.rows[parent].as_mut() {
            entry.children.insert(at, row);
        }
        if let Some(entry) = self.rows[row].as_mut() {
            entry.parent = parent;
        }
        self.set_depth(row, depth);
    }

    fn set_depth(&mut self, row: usize, depth: u32) {
        if let Some(entry) = self.rows[row].as_mut() {
            entry.depth = depth;
            for child in entry.children.clone() {
                self.set_depth(child, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(path: &str) -> Identity {
        Identity::new(Kind::Service, path, path)
    }

    #[test]
    fn children_stand_in_the_order_of_their_ids_whenever_they_came() {
        let mut table = Table::new(Timestamp::default());
        let b = table.birth(service("/b"), NODE, Timestamp::default());
        let a = table.birth(service("/a"), NODE, Timestamp::default());
        assert_eq!(table.children(NODE), [a, b]);
        table.set_identity(a, service("/c"));
        assert_eq!(table.children(NODE), [b, a]);
        table.set_parent(a, b);
        assert_eq!((table.children(NODE), table.children(b)), (&[b][..], &[a][..]));
        assert_eq!(table.get(a).unwrap().depth, 2);
    }

    #[test]
    fn a_row_is_used_again_only_when_it_is_done_with() {
        let mut table = Table::new(Timestamp::default());
        let pod = table.birth(service("/pod"), NODE, Timestamp::default());
        let child = table.birth(service("/pod/c"), pod, Timestamp::default());
        let serial = table.get(pod).unwrap().serial;
        table.end(pod, Timestamp::default(), 1);
        table.end(child, Timestamp::default(), 1);
        table.forget(|row, _| row == pod, |_| panic!("a parent waits for its children"));
        let mut freed = Vec::new();
        table.forget(|_, _| true, |row| freed.push(row));
        table.forget(|_, _| true, |row| freed.push(row));
        assert_eq!(freed, [child, pod]);
        let next = table.birth(service("/next"), NODE, Timestamp::default());
        assert_eq!(next, pod);
        assert_ne!(table.get(next).unwrap().serial, serial);
    }

    #[test]
    fn a_restarted_service_goes_on_in_its_row() {
        let mut table = Table::new(Timestamp::default());
        let row = table.birth(service("/s"), NODE, Timestamp::default());
        table.end(row, Timestamp::default(), 1);
        assert_eq!(table.find(&service("/s").id), None);
        assert_eq!(table.birth(service("/s"), NODE, Timestamp::default()), row);
        assert!(table.get(row).unwrap().ended.is_none() && table.ended().is_empty());
    }
}
