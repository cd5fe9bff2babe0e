//! Where a process sits: `/proc/PID/cgroup`, in every form that hosts have.
//!
//! On v1 and hybrid hosts each controller has a line of its own, and the one that counts CPU time decides; what only the
//! second hierarchy (or systemd's named one) tells is kept beside it. Without a cgroup file system the line that says
//! most decides. In a private cgroup namespace paths begin with `/..`, and `/` is our own cgroup, wherever that is.

use crate::activity::cgroup::{self, Membership, ROOT, Tree, Version};
use crate::activity::walk::{DEPTH_MAX, Walk};
use crate::host::Errno;
use crate::workload::{self, Kind, Verdict};

/// The second hierarchy of a hybrid host, if there is one.
pub(super) type Other<'a, 'b> = &'a mut Option<&'b mut Tree>;

/// Where a process sits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// In the base hierarchy.
    pub node: usize,
    /// The row of the second hierarchy.
    pub abroad: Option<usize>,
}

impl Walk<'_> {
    /// Whether a process shows that we sit in a private cgroup namespace.
    pub(super) fn look_for_edge(&mut self, tree: &Tree, pid: u32) {
        let mut text = Vec::new();
        if tree.is_mounted() && self.host.read_process(pid, "cgroup", &mut text).is_ok() {
            let text = String::from_utf8_lossy(&text);
            let v1 = tree.version() == Version::V1;
            let counts =
                |line: &Membership<'_>| if v1 { is_cpuacct(line.controllers) } else { line.controllers.is_empty() };
            self.processes.namespaced |= cgroup::memberships(&text).filter(counts).any(|line| line.above);
        }
    }

    /// Reads `/proc/PID/cgroup`.
    pub(super) fn place(&mut self, tree: &mut Tree, other: Other<'_, '_>, pid: u32) -> Option<Place> {
        let mut text = Vec::new();
        match self.host.read_process(pid, "cgroup", &mut text) {
            Ok(()) => {}
            // A kernel without cgroups has no such file: every process is the node's.
            Err(Errno::NOENT) if !tree.is_mounted() => return Some(Place { node: ROOT, abroad: None }),
            Err(_) => return None,
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<Membership<'_>> = cgroup::memberships(&text).collect();
        let line = |wanted: &dyn Fn(&str) -> bool| lines.iter().find(|line| wanted(line.controllers)).copied();
        let telling = || lines.iter().max_by_key(|line| specificity(line.path)).copied();
        let v1 = tree.version() == Version::V1;
        let base = if v1 { line(&is_cpuacct) } else { line(&str::is_empty) };
        let base = if tree.is_mounted() { base.or_else(|| telling().filter(|_| !v1)) } else { telling() };
        // Controllers may differ in where they cut: only the hierarchy that counts says whether we sit below an edge.
        self.processes.namespaced |= base.is_some_and(|line| line.above);
        // Below a namespace's edge `/` is our own cgroup, wherever that is: only cgroup.procs can tell.
        if base.is_some_and(|line| line.path.is_empty() && !line.above) && self.processes.namespaced {
            return None;
        }
        let node = self.ensure(tree, true, base.map_or("", |line| line.path));
        let Some(other) = other.as_deref_mut() else { return Some(Place { node, abroad: None }) };
        let unified = line(&str::is_empty).filter(|line| !line.path.is_empty());
        let systemd = || line(&|name: &str| name == "name=systemd").filter(|line| !line.path.is_empty());
        let path = unified.or_else(systemd).or_else(|| telling().filter(|line| specificity(line.path).0 > 1));
        let abroad = path.map(|line| self.ensure(other, false, line.path));
        Some(Place { node, abroad: abroad.map(|abroad| other.node(abroad).row) })
    }

    /// The cgroup at `path`, made known with those above it.
    fn ensure(&mut self, tree: &mut Tree, is_base: bool, path: &str) -> usize {
        let mut at = ROOT;
        for name in path.split('/').filter(|part| !part.is_empty()) {
            if tree.node(at).depth >= DEPTH_MAX {
                break;
            }
            at = if let Some(child) = tree.child(at, name) {
                child
            } else {
                let dir = tree.node(at).dir.as_ref().map(|dir| format!("{dir}/{name}"));
                let inode = dir.and_then(|dir| self.host.inode(&dir).ok());
                if inode.is_none() && at == ROOT {
                    // A private cgroup namespace shows the tail of a path only.
                    if let Some(found) = tree.by_tail(path) {
                        return found;
                    }
                }
                self.add(tree, is_base, at, name, inode)
            };
            if tree.node(at).threaded {
                at = tree.node(at).parent;
                break;
            }
        }
        if is_base && tree.node(at).dir.is_none() || tree.node(at).fresh {
            let before = tree.read_usage(self.host, at, self.buffer).ok().flatten();
            tree.mark_entered(at, before);
        }
        at
    }
}

fn is_cpuacct(controllers: &str) -> bool {
    controllers.split(',').any(|name| name == "cpuacct")
}

/// How much a path tells: a workload of its own beats a unit beats a plain place, and then the longer path.
fn specificity(path: &str) -> (u8, usize) {
    let mut around = Kind::Node;
    let mut best = 0;
    let parts = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    for end in parts.filter(|end| *end > 0).take(DEPTH_MAX as usize) {
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
