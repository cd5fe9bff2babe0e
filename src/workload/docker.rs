//! Containers of every runtime, by the name that the runtime gives their cgroup.
//!
//! With the systemd driver a container is a scope `<runtime>-<id>.scope` (runc's `<slice>:<runtime>:<id>` where a
//! systemd path met the cgroupfs driver), with the cgroupfs driver a directory `<id>` below one that the runtime or its
//! user chose. Ids are 64 lower-case hex digits (docker, containerd, cri-o, podman) except for ECS on Fargate
//! (`<task>-<number>`), buildkit (25 letters and digits) and LXC (the name). The runtime is named only where the path
//! tells it. Conmon's cgroups hold the monitor of a container, not the container, and are not taken for one.

use super::systemd::{is_number, upwards};
use super::{Identity, Kind, Verdict};
use crate::semconv::attr;

/// Prefix of a scope or directory, and the runtime that uses it.
const PREFIXES: [(&str, &str); 6] = [
    ("docker", "docker"),
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
    (PAYLOAD, "podman"),
];

/// Podman without a scope of its own (quadlet) puts the container here, below its service; any 12 digits or more do.
const PAYLOAD: &str = "libpod-payload";

/// What a path tells of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Container<'a> {
    /// Its full id.
    pub(super) id: &'a str,
    /// Its runtime, where known.
    pub(super) runtime: Option<&'static str>,
}

impl Container<'_> {
    /// The workload of this container.
    pub(super) fn identity(self) -> Identity {
        let short = if self.runtime == Some("lxc") { self.id } else { self.id.get(..12).unwrap_or(self.id) };
        let identity = Identity::new(Kind::Container, self.id, short).with(attr::CONTAINER_ID, self.id);
        match self.runtime {
            Some(runtime) => identity.with(attr::CONTAINER_RUNTIME_NAME, runtime),
            None => identity,
        }
    }
}

/// Says whether a container begins at `path`; `Inside` for the directories that runtimes make within one.
#[must_use]
pub fn classify(path: &str) -> Verdict {
    let mut up = upwards(path);
    let Some(name) = up.next() else { return Verdict::Unknown };
    let found = by_scope(name)
        .or_else(|| by_colons(name).map(|(_, container)| container))
        .or_else(|| by_directory(name, up.clone()))
        .or_else(|| lxc(name, up.clone().next()));
    match found {
        Some(container) => Verdict::Begins(vec![container.identity()]),
        // crun may put the processes one level below the scope; that makes no second container.
        None if name == "container" && up.next().is_some_and(|above| by_scope(above).is_some()) => Verdict::Inside,
        None => Verdict::Unknown,
    }
}

/// `<prefix>-<id>.scope` or `<prefix>-<id>`.
pub(super) fn by_scope(name: &str) -> Option<Container<'_>> {
    let (prefix, id) = name.strip_suffix(".scope").unwrap_or(name).rsplit_once('-')?;
    by_prefix(prefix, id)
}

/// `<slice>:<prefix>:<id>`: the slice and the container.
pub(super) fn by_colons(name: &str) -> Option<(&str, Container<'_>)> {
    let (front, id) = name.rsplit_once(':')?;
    let (slice, prefix) = front.rsplit_once(':')?;
    Some((slice, by_prefix(prefix, id)?))
}

fn by_prefix<'a>(prefix: &str, id: &'a str) -> Option<Container<'a>> {
    let (_, runtime) = PREFIXES.into_iter().find(|(known, _)| *known == prefix)?;
    let valid = is_id(id) || (prefix == PAYLOAD && id.len() >= 12 && is_hex(id));
    valid.then_some(Container { id, runtime: Some(runtime) })
}

/// A directory that bears nothing but the id; `up` are the components above it.
fn by_directory<'a, 'b>(name: &'a str, mut up: impl Iterator<Item = &'b str> + Clone) -> Option<Container<'a>> {
    let container = |runtime| Some(Container { id: name, runtime });
    let parent = up.clone().next().unwrap_or_default();
    if is_id(name) {
        return match parent {
            // Podman with cgroupfs: the directory of one of its pods, the containers are below.
            "libpod_parent" => None,
            "docker" => container(Some("docker")),
            // The namespaces of nerdctl, of Kubernetes, and the directory that ctr is mostly given.
            "default" | "k8s.io" | "containerd" => container(Some("containerd")),
            _ => container(buildkit(up)),
        };
    }
    if parent == "buildkit" && name.len() == 25 && name.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) {
        return container(buildkit(up));
    }
    let (task, number) = name.split_once('-')?;
    let fargate = task.len() == 32 && is_hex(task) && is_number(number);
    if fargate && up.any(|above| above == "ecs") { container(None) } else { None }
}

/// `docker` for `docker/buildkit/<id>`: a build step of the docker daemon.
fn buildkit<'b>(mut up: impl Iterator<Item = &'b str>) -> Option<&'static str> {
    (up.next() == Some("buildkit") && up.next() == Some("docker")).then_some("docker")
}

/// `lxc/<name>`, `lxc.payload/<name>`, `lxc.payload.<name>` of LXC, LXD, Incus and Proxmox.
fn lxc<'a>(name: &'a str, parent: Option<&str>) -> Option<Container<'a>> {
    let id = match parent {
        Some("lxc" | "lxc.payload") => name,
        _ => name.strip_prefix("lxc.payload.").filter(|name| !name.is_empty())?,
    };
    (id != "..").then_some(Container { id, runtime: Some("lxc") })
}

/// A full container id: 64 lower-case hex digits.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

/// Whether `text` is made of lower-case hex digits only.
pub(crate) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "2fa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c94";

    /// `<id>` in a row stands for [`ID`].
    fn path(row: &str) -> String {
        row.replace("<id>", ID)
    }

    #[test]
    fn containers_and_their_runtimes() {
        for (row, runtime) in [
            ("/docker/<id>", "docker"),
            ("/docker-<id>", "docker"),
            ("/docker-<id>.scope", "docker"),
            ("/system.slice/docker-<id>.scope", "docker"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-<id>.scope", "docker"),
            ("/docker/buildkit/<id>", "docker"),
            ("/system.slice:docker:<id>", "docker"),
            ("//docker//<id>/", "docker"),
            ("/a b/ü/docker/<id>", "docker"),
            ("/crio-<id>", "cri-o"),
            ("/crio-<id>.scope", "cri-o"),
            ("/containerd/<id>", "containerd"),
            ("/cri-containerd-<id>.scope", "containerd"),
            ("/system.slice/nerdctl-<id>.scope", "containerd"),
            ("/default/<id>", "containerd"),
            ("/k8s.io/<id>", "containerd"),
            ("/libpod-<id>", "podman"),
            ("/machine.slice/libpod-<id>.scope", "podman"),
            ("/libpod_parent/libpod-<id>", "podman"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope", "podman"),
            ("/system.slice/kepler.service/libpod-payload-<id>", "podman"),
            ("/actions_job/<id>", ""),
            ("/<id>", ""),
            ("/ecs/0123456789abcdef0123456789abcdef/<id>", ""),
            ("/ecs/56446d16-c6e4-4b44-b1b2-0a1b2c3d4e5f/<id>", ""),
            ("/ecs/cluster/0123456789abcdef0123456789abcdef/<id>", ""),
            ("/buildkit/<id>", ""),
        ] {
            let mut expected = Identity::new(Kind::Container, ID, "2fa3e04b676d").with(attr::CONTAINER_ID, ID);
            if !runtime.is_empty() {
                expected = expected.with(attr::CONTAINER_RUNTIME_NAME, runtime);
            }
            assert_eq!(expected.id.to_string(), format!("container:{ID}"));
            assert_eq!(classify(&path(row)), Verdict::Begins(vec![expected]), "{row}");
        }
    }

    #[test]
    fn ids_that_are_not_64_digits() {
        for (path, id, name, runtime) in [
            ("/system.slice/a.service/libpod-payload-2fa3e04b676d", "2fa3e04b676d", "2fa3e04b676d", Some("podman")),
            ("/a.service/libpod-payload-2fa3e04b676df750", "2fa3e04b676df750", "2fa3e04b676d", Some("podman")),
            (
                "/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890",
                "0123456789abcdef0123456789abcdef-1234567890",
                "0123456789ab",
                None,
            ),
            ("/docker/buildkit/k3nbz5w9kqm2rvvu7t0yx1abc", "k3nbz5w9kqm2rvvu7t0yx1abc", "k3nbz5w9kqm2", Some("docker")),
            ("/buildkit/k3nbz5w9kqm2rvvu7t0yx1abc", "k3nbz5w9kqm2rvvu7t0yx1abc", "k3nbz5w9kqm2", None),
            ("/lxc/web", "web", "web", Some("lxc")),
            ("/lxc/100", "100", "100", Some("lxc")),
            ("/lxc.payload/a-rather-long-name", "a-rather-long-name", "a-rather-long-name", Some("lxc")),
            ("/lxc.payload.db 1", "db 1", "db 1", Some("lxc")),
            ("/lxc.payload.größe", "größe", "größe", Some("lxc")),
        ] {
            let expected = Container { id, runtime }.identity();
            assert_eq!((&*expected.name, expected.id.to_string()), (name, format!("container:{id}")));
            assert_eq!(classify(path), Verdict::Begins(vec![expected]), "{path}");
        }
    }

    #[test]
    fn the_payload_directory_is_inside() {
        for row in ["/libpod-<id>.scope/container", "/machine.slice/libpod-<id>.scope/container"] {
            assert_eq!(classify(&path(row)), Verdict::Inside, "{row}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        let rows = [
            "",
            "/",
            "/..",
            "/../b",
            "/docker",
            "/docker/",
            "/lxc",
            "/lxc/..",
            "/lxc.payload.",
            "/lxc.monitor.web",
            "/lxc.monitor/web",
            "/lxc.pivot",
            "/ecs/0123456789abcdef0123456789abcdef",
            "/ecs/t/0123456789abcdef0123456789abcdef-",
            "/ecs/t/0123456789abcdef0123456789abcdef-12a",
            "/other/0123456789abcdef0123456789abcdef-1234567890",
            "/docker/buildkit",
            "/docker/buildkit/tooshort",
            "/docker/<id>0",
            "/docker/2fa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c9",
            "/docker/<id>/child",
            "/docker-<id>.service",
            "/docker-<id>.scope.scope",
            "/docker_<id>.scope",
            "/Docker-<id>.scope",
            "/foo-<id>.scope",
            "/libpod_parent/<id>",
            "/machine.slice/libpod-conmon-<id>.scope",
            "/system.slice/crio-conmon-<id>.scope",
            "/crio-conmon-<id>",
            "/a.service/libpod-payload-2fa3e04b676",
            "/a.service/libpod-payload-nothexnothex",
            "/a.service/container",
            ":docker:",
            "/a:b:<id>",
            "/docker:<id>",
            "/docker/2fa3e04b676d",
            "/docker/2FA3E04B676DF750842FAF017052DD37EA0CC5BC7259A3487A1718C7FE100C94",
            "/docker/zfa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c94",
            "/docker/éfa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c9",
        ];
        for row in rows.into_iter().map(path).chain([format!("/docker/{}", "a".repeat(100_000))]) {
            assert_eq!(classify(&row), Verdict::Unknown, "{row}");
        }
    }
}
