//! A machine in memory: a small file system with links, errors and process clocks, for replay and for tests.
//!
//! It answers as the kernel would: directories list in byte order, a path removed and made again has a new inode,
//! links are followed (absolute ones from the machine's own root), and an error set on a path hits open, read and
//! listing of the real file behind it until it is lifted.

use std::collections::{BTreeMap, HashMap};

use rustix::io::Errno;

use crate::host::EntryKind;
use crate::unit::CpuTime;

/// Links followed before a path counts as a loop, as in Linux.
const LINKS_MAX: usize = 40;

/// A machine in memory.
#[derive(Debug)]
pub struct Memory {
    nodes: Vec<Node>,
    clocks: HashMap<u32, CpuTime>,
    trusted: bool,
}

#[derive(Debug)]
struct Node {
    parent: usize,
    error: Option<Errno>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(Vec<u8>),
    Link(String),
    Dir(BTreeMap<Vec<u8>, usize>),
    Gone,
}

impl Default for Memory {
    fn default() -> Self {
        let root = Node { parent: 0, error: None, content: Content::Dir(BTreeMap::new()) };
        Self { nodes: vec![root], clocks: HashMap::new(), trusted: false }
    }
}

impl Memory {
    /// Writes a file, making the directories above it. An existing file keeps its inode.
    ///
    /// # Errors
    /// A path that leads through a file or a loop of links.
    pub fn set_file(&mut self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let node = self.make(path, true, || Content::File(Vec::new()))?;
        match &mut self.nodes[node].content {
            Content::File(file) => {
                file.clear();
                file.extend_from_slice(bytes);
                Ok(())
            }
            Content::Dir(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// Makes a directory and those above it; an existing one stays.
    ///
    /// # Errors
    /// A path that leads through a file or a loop of links.
    pub fn set_dir(&mut self, path: &str) -> Result<(), Errno> {
        let node = self.make(path, true, || Content::Dir(BTreeMap::new()))?;
        if matches!(self.nodes[node].content, Content::Dir(_)) { Ok(()) } else { Err(Errno::NOTDIR) }
    }

    /// Makes a symbolic link, replacing what was there.
    ///
    /// # Errors
    /// A path that leads through a file or a loop of links.
    pub fn set_link(&mut self, path: &str, target: &str) -> Result<(), Errno> {
        let node = self.make(path, false, || Content::Link(String::new()))?;
        self.nodes[node].content = Content::Link(target.to_owned());
        Ok(())
    }

    /// Removes what is at `path` with everything below it; a link itself, not its target. A process that is removed
    /// takes its clock along.
    ///
    /// # Errors
    /// [`Errno::NOENT`] if nothing is there.
    pub fn remove(&mut self, path: &str) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(path)?;
        let Content::Dir(entries) = &mut self.nodes[parent].content else { return Err(Errno::NOTDIR) };
        let node = entries.remove(name.as_bytes()).ok_or(Errno::NOENT)?;
        self.bury(node);
        if let Some(pid) = path.strip_prefix("proc/").and_then(|pid| pid.trim_end_matches('/').parse().ok()) {
            self.clocks.remove(&pid);
        }
        Ok(())
    }

    /// Makes open, read and listing of the real file at `path` fail with `errno`, until `None` lifts it. What is not
    /// there yet is made, as an empty file, so that it can fail.
    ///
    /// # Errors
    /// A path that leads through a file or a loop of links.
    pub fn set_error(&mut self, path: &str, errno: Option<Errno>) -> Result<(), Errno> {
        let node = self.make(path, true, || Content::File(Vec::new()))?;
        self.nodes[node].error = errno;
        Ok(())
    }

    /// Its cgroup.procs name every process, as on the live machine: `/proc` is then not listed.
    pub fn trust_cgroups(&mut self) {
        self.trusted = true;
    }

    /// See [`Memory::trust_cgroups`].
    #[must_use]
    pub fn cgroups_are_trusted(&self) -> bool {
        self.trusted
    }

    /// Sets the CPU clock of a process.
    pub fn set_clock(&mut self, pid: u32, time: CpuTime) {
        self.clocks.insert(pid, time);
    }

    /// See [`super::Host::read_some`].
    ///
    /// # Errors
    /// As the kernel would.
    pub fn read(&self, path: &str, buffer: &mut Vec<u8>, limit: usize) -> Result<(), Errno> {
        match &self.open(path)?.content {
            Content::File(bytes) => {
                buffer.extend_from_slice(&bytes[..bytes.len().min(limit)]);
                Ok(())
            }
            Content::Dir(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// See [`super::Host::list`].
    ///
    /// # Errors
    /// As the kernel would.
    pub fn list(&self, path: &str, each: &mut dyn FnMut(&[u8], u64, EntryKind)) -> Result<(), Errno> {
        let Content::Dir(entries) = &self.open(path)?.content else { return Err(Errno::NOTDIR) };
        for (name, node) in entries {
            let kind = match self.nodes[*node].content {
                Content::Dir(_) => EntryKind::Dir,
                Content::Link(_) => EntryKind::Link,
                _ => EntryKind::File,
            };
            each(name, *node as u64, kind);
        }
        Ok(())
    }

    /// See [`super::Host::inode`].
    ///
    /// # Errors
    /// As the kernel would.
    pub fn inode(&self, path: &str) -> Result<u64, Errno> {
        self.resolve(path, true).map(|node| node as u64)
    }

    /// See [`super::Host::link`].
    ///
    /// # Errors
    /// As the kernel would.
    pub fn link(&self, path: &str) -> Result<String, Errno> {
        match &self.nodes[self.resolve(path, false)?].content {
            Content::Link(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    /// See [`super::Host::process_clock`]: `None` (use stat) where the machine gives no clock.
    ///
    /// # Errors
    /// [`Errno::SRCH`] if the process is not there.
    pub fn process_clock(&self, pid: u32) -> Result<Option<CpuTime>, Errno> {
        crate::host::live::with_process_path(pid, "", |path| self.resolve(path, true)).map_err(|_| Errno::SRCH)?;
        Ok(self.clocks.get(&pid).copied())
    }

    fn open(&self, path: &str) -> Result<&Node, Errno> {
        let node = &self.nodes[self.resolve(path, true)?];
        node.error.map_or(Ok(node), Err)
    }

    fn resolve(&self, path: &str, follow: bool) -> Result<usize, Errno> {
        self.walk(0, path, follow, &mut 0)
    }

    fn walk(&self, start: usize, path: &str, follow: bool, links: &mut usize) -> Result<usize, Errno> {
        let mut at = if path.starts_with('/') { 0 } else { start };
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        while let Some(part) = parts.next() {
            if part == ".." {
                at = self.nodes[at].parent;
                continue;
            }
            let Content::Dir(entries) = &self.nodes[at].content else { return Err(Errno::NOTDIR) };
            let next = *entries.get(part.as_bytes()).ok_or(Errno::NOENT)?;
            at = match &self.nodes[next].content {
                Content::Link(target) if follow || parts.peek().is_some() => {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    self.walk(at, target, true, links)?
                }
                _ => next,
            };
        }
        Ok(at)
    }

    /// The node at `path`, made as `content` with the directories above it where missing, through links too.
    fn make(&mut self, path: &str, follow: bool, content: fn() -> Content) -> Result<usize, Errno> {
        self.make_at(0, path, follow, content, &mut 0)
    }

    fn make_at(
        &mut self,
        start: usize,
        path: &str,
        follow: bool,
        content: fn() -> Content,
        links: &mut usize,
    ) -> Result<usize, Errno> {
        let mut at = if path.starts_with('/') { 0 } else { start };
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            if part == ".." {
                at = self.nodes[at].parent;
                continue;
            }
            let made = if last { content } else { || Content::Dir(BTreeMap::new()) };
            let new = self.nodes.len();
            let Content::Dir(entries) = &mut self.nodes[at].content else { return Err(Errno::NOTDIR) };
            let next = *entries.entry(part.into()).or_insert(new);
            if next == new {
                self.nodes.push(Node { parent: at, error: None, content: made() });
            }
            at = match &self.nodes[next].content {
                Content::Link(target) if next != new && (follow || !last) => {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = target.clone();
                    self.make_at(at, &target, true, made, links)?
                }
                _ => next,
            };
        }
        Ok(at)
    }

    fn parent_of<'a>(&self, path: &'a str) -> Result<(usize, &'a str), Errno> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Errno::INVAL);
        }
        Ok((self.resolve(parent, true)?, name))
    }

    fn bury(&mut self, node: usize) {
        let content = std::mem::replace(&mut self.nodes[node].content, Content::Gone);
        if let Content::Dir(entries) = content {
            for child in entries.into_values() {
                self.bury(child);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(memory: &Memory, path: &str) -> Result<String, Errno> {
        let mut buffer = Vec::new();
        memory.read(path, &mut buffer, 1 << 20)?;
        Ok(String::from_utf8(buffer).unwrap())
    }

    #[test]
    fn links_are_followed_in_the_middle_and_at_the_end() {
        let mut memory = Memory::default();
        memory.set_link("sys/class/powercap/intel-rapl:0", "../../devices/rapl/intel-rapl:0").unwrap();
        memory.set_file("sys/devices/rapl/intel-rapl:0/name", b"package-0\n").unwrap();
        assert_eq!(text(&memory, "sys/class/powercap/intel-rapl:0/name").unwrap(), "package-0\n");
        memory.set_file("sys/class/powercap/intel-rapl:0/name", b"x").unwrap();
        assert_eq!(text(&memory, "sys/devices/rapl/intel-rapl:0/name").unwrap(), "x", "writes go through links too");
        memory.set_link("a", "b").unwrap();
        memory.set_link("b", "a").unwrap();
        assert_eq!(text(&memory, "a"), Err(Errno::LOOP));
    }

    #[test]
    fn an_error_on_a_link_hits_the_real_file() {
        let mut memory = Memory::default();
        memory.set_link("l", "d").unwrap();
        memory.set_file("d/f", b"1").unwrap();
        memory.set_error("l/f", Some(Errno::ACCESS)).unwrap();
        assert_eq!(text(&memory, "d/f"), Err(Errno::ACCESS));
        memory.set_error("d/f", None).unwrap();
        assert_eq!(text(&memory, "d/f").unwrap(), "1");
        memory.set_error("d", Some(Errno::IO)).unwrap();
        assert_eq!(memory.list("l", &mut |_, _, _| ()), Err(Errno::IO));
        assert_eq!(text(&memory, "d/f").unwrap(), "1", "what lies below a failing directory can still be opened");
    }

    #[test]
    fn made_again_is_a_new_inode_and_rewritten_is_not() {
        let mut memory = Memory::default();
        memory.set_file("proc/7/stat", b"a").unwrap();
        memory.set_clock(7, CpuTime(5));
        let first = memory.inode("proc/7").unwrap();
        memory.set_file("proc/7/stat", b"b").unwrap();
        assert_eq!(memory.inode("proc/7").unwrap(), first);
        assert_eq!(memory.process_clock(7), Ok(Some(CpuTime(5))));
        memory.remove("proc/7").unwrap();
        assert_eq!(memory.process_clock(7), Err(Errno::SRCH));
        memory.set_dir("proc/7").unwrap();
        assert_ne!(memory.inode("proc/7").unwrap(), first);
        assert_eq!(memory.process_clock(7), Ok(None), "the clock went with the process");
        assert_eq!(memory.remove("proc/8"), Err(Errno::NOENT));
    }

    #[test]
    fn directories_list_in_byte_order() {
        let mut memory = Memory::default();
        for name in ["proc/9", "proc/10", "proc/a"] {
            memory.set_dir(name).unwrap();
        }
        let mut names = Vec::new();
        memory.list("proc", &mut |name, _, _| names.push(String::from_utf8_lossy(name).into_owned())).unwrap();
        assert_eq!(names, ["10", "9", "a"]);
        assert_eq!(memory.list("proc/nothing", &mut |_, _, _| ()), Err(Errno::NOENT));
    }
}
