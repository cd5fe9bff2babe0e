//! Pods and their containers, from the cgroups that the kubelet makes.
//!
//! With the cgroupfs driver a pod is `kubepods[/burstable|/besteffort]/pod<uid>`; with the systemd driver it is a slice
//! `kubepods[-burstable|-besteffort]-pod<uid>.slice` whose uid has `_` for `-`, possibly below a `--cgroup-root` whose
//! name is then part of the slice's (kind: `kubelet-kubepods-…`). Static pods have 32 hex digits for a uid. The
//! quality-of-service class is in the path too: guaranteed pods are those directly below kubepods. Seen from a private
//! cgroup namespace the components above may be missing; then the uid alone must do, and a class that cannot be seen
//! is not given.

use super::systemd::upwards;
use super::{Identity, Kind, Verdict, docker, hypervisor};
use crate::semconv::attr;

/// What a path component (for the class also the one above it) tells of a pod.
struct Pod {
    uid: String,
    qos: Option<&'static str>,
}

/// Says whether a pod, a container in a pod, or both begin at `path`.
#[must_use]
pub fn classify(path: &str) -> Verdict {
    let mut up = upwards(path);
    let Some(name) = up.next() else { return Verdict::Unknown };
    let parent = up.next();
    if let Some(pod) = pod(name, parent) {
        return Verdict::Begins(vec![pod.identity()]);
    }
    if let Some((slice, container)) = docker::by_colons(name) {
        return match by_slice(slice) {
            Some(pod) => Verdict::Begins(vec![pod.identity(), pod.container(container)]),
            None => Verdict::Unknown,
        };
    }
    let Some(pod) = parent.and_then(|parent| self::pod(parent, None)) else { return Verdict::Unknown };
    let bare = || docker::is_id(name).then_some(docker::Container { id: name, runtime: None });
    match docker::by_scope(name).or_else(bare) {
        Some(container) => Verdict::Begins(vec![pod.container(container)]),
        // crio-conmon, kata's sandbox and whatever else a runtime keeps beside the containers.
        None => Verdict::Inside,
    }
}

impl Pod {
    fn identity(&self) -> Identity {
        let identity = Identity::new(Kind::Pod, &self.uid, &self.uid).with(attr::K8S_POD_UID, &*self.uid);
        match self.qos {
            Some(class) => identity.with(attr::K8S_POD_QOS_CLASS, class),
            None => identity,
        }
    }

    /// A container in this pod.
    fn container(&self, container: docker::Container<'_>) -> Identity {
        container.identity().with(attr::K8S_POD_UID, &*self.uid)
    }
}

/// The pod whose directory is called `name`, by either driver.
fn pod(name: &str, parent: Option<&str>) -> Option<Pod> {
    by_slice(name).or_else(|| by_directory(name, parent))
}

/// `[<root>-]kubepods[-burstable|-besteffort]-pod<uid>.slice`
fn by_slice(name: &str) -> Option<Pod> {
    let (prefix, uid) = name.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let classes = [("-burstable", "Burstable"), ("-besteffort", "BestEffort")];
    let (root, class) = classes
        .into_iter()
        .find_map(|(suffix, class)| Some((prefix.strip_suffix(suffix)?, class)))
        .unwrap_or((prefix, "Guaranteed"));
    let ours = root == "kubepods" || root.ends_with("-kubepods");
    let uid = uid.replace('_', "-");
    (ours && is_uid(&uid)).then_some(Pod { uid, qos: Some(class) })
}

/// `pod<uid>`. The parent is no condition, since it may be out of sight.
fn by_directory(name: &str, parent: Option<&str>) -> Option<Pod> {
    let uid = name.strip_prefix("pod").filter(|uid| is_uid(uid))?;
    let qos = match parent {
        Some("kubepods") => Some("Guaranteed"),
        Some("burstable") => Some("Burstable"),
        Some("besteffort") => Some("BestEffort"),
        _ => None,
    };
    Some(Pod { uid: uid.to_owned(), qos })
}

/// A UUID, or the 32 hex digits (a hash of the manifest) of a static pod.
fn is_uid(text: &str) -> bool {
    hypervisor::is_uuid(text) || (text.len() == 32 && docker::is_hex(text))
}

/// Everything that begins along a cgroup path, the outermost first, found as the agent finds it: directory by
/// directory from the root. Takes a path, or a line of `/proc/PID/cgroup`.
#[cfg(test)]
pub(crate) fn walk(line: &str) -> Vec<Identity> {
    let is_line = line.starts_with(|first: char| first.is_ascii_digit());
    let path = if is_line { line.splitn(3, ':').nth(2).unwrap_or_default() } else { line };
    let mut found: Vec<Identity> = Vec::new();
    let mut here = String::new();
    for component in
        path.split('/').filter(|component| !component.is_empty()).skip_while(|component| *component == "..")
    {
        here.push('/');
        here.push_str(component);
        let inside = found.last().map_or(Kind::Node, |identity| identity.id.kind());
        if let Verdict::Begins(begun) = super::classify(&here, inside) {
            found.extend(begun);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "a09343ca97901516c25036e2b954421254f8c68b384b536064e8999f0c4ed18d";
    const OTHER: &str = "2fa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c94";
    const UID: &str = "2c9f8a79-5391-454b-88cb-86190881cb96";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    /// `<id>`, `<other>`, `<uid>`, `<uid_>` and `<static>` in a row stand for the constants.
    fn path(row: &str) -> String {
        row.replace("<id>", ID)
            .replace("<other>", OTHER)
            .replace("<uid>", UID)
            .replace("<uid_>", &UID.replace('-', "_"))
            .replace("<static>", STATIC)
    }

    fn expected_pod(uid: &str, qos: &str) -> Identity {
        let pod = Identity::new(Kind::Pod, uid, uid).with(attr::K8S_POD_UID, uid);
        if qos.is_empty() { pod } else { pod.with(attr::K8S_POD_QOS_CLASS, qos) }
    }

    fn expected_container(uid: &str, runtime: &str) -> Identity {
        let container = Identity::new(Kind::Container, ID, "a09343ca9790").with(attr::CONTAINER_ID, ID);
        let container =
            if runtime.is_empty() { container } else { container.with(attr::CONTAINER_RUNTIME_NAME, runtime) };
        container.with(attr::K8S_POD_UID, uid)
    }

    #[test]
    fn pods_have_uid_and_class() {
        for (row, uid, qos) in [
            ("/kubepods/pod<uid>", UID, "Guaranteed"),
            ("/kubepods/burstable/pod<uid>", UID, "Burstable"),
            ("kubelet/kubepods/besteffort/pod<uid>", UID, "BestEffort"),
            ("/kubepods/burstable/pod<static>", STATIC, "Burstable"),
            ("/pod<uid>", UID, ""),
            ("/pod<static>", STATIC, ""),
            ("/kubepods.slice/kubepods-pod<uid_>.slice", UID, "Guaranteed"),
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice", UID, "Burstable"),
            ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid_>.slice", UID, "BestEffort"),
            ("/kubepods-besteffort-pod<uid_>.slice", UID, "BestEffort"),
            ("/kubepods-burstable-pod<static>.slice", STATIC, "Burstable"),
            ("/a/kubelet-kubepods-burstable-pod<uid_>.slice", UID, "Burstable"),
            ("/a/kubelet-kubepods-pod<uid_>.slice", UID, "Guaranteed"),
        ] {
            assert_eq!(classify(&path(row)), Verdict::Begins(vec![expected_pod(uid, qos)]), "{row}");
        }
        assert_eq!(expected_pod(UID, "").id.to_string(), format!("pod:{UID}"));
    }

    #[test]
    fn containers_in_pods() {
        for (row, uid, runtime) in [
            ("/kubepods/burstable/pod<uid>/<id>", UID, ""),
            ("/kubepods/pod<static>/<id>", STATIC, ""),
            ("/pod<uid>/<id>", UID, ""),
            ("/kubepods/burstable/pod<uid>/crio-<id>", UID, "cri-o"),
            ("/kubepods-besteffort-pod<uid_>.slice/cri-containerd-<id>.scope", UID, "containerd"),
            ("/kubepods-pod<uid_>.slice/crio-<id>.scope", UID, "cri-o"),
            ("/kubepods-pod<uid_>.slice/docker-<id>.scope", UID, "docker"),
        ] {
            assert_eq!(classify(&path(row)), Verdict::Begins(vec![expected_container(uid, runtime)]), "{row}");
        }
        let row = "/x/kubepods-burstable-pod<uid_>.slice:cri-containerd:<id>";
        let both = vec![expected_pod(UID, "Burstable"), expected_container(UID, "containerd")];
        assert_eq!(classify(&path(row)), Verdict::Begins(both));
    }

    #[test]
    fn beside_and_outside() {
        for (row, verdict) in [
            ("/kubepods-pod<uid_>.slice/crio-conmon-<id>.scope", Verdict::Inside),
            ("/kubepods/pod<uid>/kata_<id>", Verdict::Inside),
            ("/kubepods/pod<uid>/", Verdict::Begins(vec![expected_pod(UID, "Guaranteed")])),
            ("/kubepods/pod<uid>/<id>/init", Verdict::Unknown),
            ("/system.slice/crio-conmon-<id>.scope", Verdict::Unknown),
            ("/cri-containerd-<id>.scope", Verdict::Unknown),
            ("/system.slice:docker:<id>", Verdict::Unknown),
            ("/kubepods", Verdict::Unknown),
            ("/kubepods/burstable", Verdict::Unknown),
            ("/kubepods.slice/kubepods-burstable.slice", Verdict::Unknown),
            ("/kubepods.slice/kubepods-pod.slice", Verdict::Unknown),
            ("/kubepods.slice/kubepods-pod<uid_>x.slice", Verdict::Unknown),
            ("/kubepods.slice/kubepods-odd-pod<uid_>.slice", Verdict::Unknown),
            ("/notkubepods-pod<uid_>.slice", Verdict::Unknown),
            ("/user.slice/foo-pod<uid_>.slice", Verdict::Unknown),
            ("/kubepods/pod<uid_>", Verdict::Unknown),
            ("/kubepods/podman", Verdict::Unknown),
            ("/kubepods/pod", Verdict::Unknown),
            ("/kubepods/pod ü", Verdict::Unknown),
            ("/kubepods/pod2c9f8a79-5391-454b-88cb-86190881cb9g", Verdict::Unknown),
            ("", Verdict::Unknown),
            ("///", Verdict::Unknown),
            ("/../b", Verdict::Unknown),
        ] {
            assert_eq!(classify(&path(row)), verdict, "{row}");
        }
        assert_eq!(classify(&format!("/kubepods/pod{}", "a".repeat(100_000))), Verdict::Unknown);
    }

    /// Whole paths with the ids that begin along them; the last is where usage at that path is booked.
    #[test]
    #[allow(clippy::too_many_lines)] // one table of paths
    fn whole_paths_end_to_end() {
        const KUBE: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice";
        const SLICES: &str = "slice:/kubepods.slice slice:/kubepods.slice/kubepods-burstable.slice pod:<uid>";
        let kubelet = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice";
        let kubelet = format!("{kubelet}/kubelet-kubepods-burstable-pod<uid_>.slice/cri-containerd-<id>.scope");
        let rootless = "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope/container";
        let manager = "slice:/user.slice slice:/user.slice/user-1000.slice \
                       service:/user.slice/user-1000.slice/user@1000.service";
        let colons = "kubepods-burstable-pod<uid_>.slice:cri-containerd:<id>";
        let rows: Vec<(String, String)> = [
            ("/docker-<id>", "container:<id>"),
            ("/docker/<id>", "slice:/docker container:<id>"),
            ("13:hugetlb:/system.slice/docker-<id>.scope", "slice:/system.slice container:<id>"),
            ("/crio-<id>", "container:<id>"),
            (&format!("0::{KUBE}/crio-<id>.scope"), &format!("{SLICES} container:<id>")),
            (&format!("1:name=systemd:{KUBE}/crio-<id>.scope/container"), &format!("{SLICES} container:<id>")),
            (&format!("0::{KUBE}/crio-conmon-<id>.scope"), SLICES),
            (
                "kubepods.slice/kubepods-pod<uid_>.slice/crio-<id>.scope",
                "slice:/kubepods.slice pod:<uid> container:<id>",
            ),
            ("/kubepods-besteffort-pod<uid_>.slice/crio-<id>.scope", "pod:<uid> container:<id>"),
            ("/containerd/<id>", "slice:/containerd container:<id>"),
            (
                &format!("/system.slice/containerd.service/{colons}"),
                "slice:/system.slice service:/system.slice/containerd.service pod:<uid> container:<id>",
            ),
            (
                &format!("/sys/fs/cgroup/systemd/system.slice/containerd.service/{colons}"),
                "slice:/sys slice:/sys/fs slice:/sys/fs/cgroup slice:/sys/fs/cgroup/systemd \
                 slice:/sys/fs/cgroup/systemd/system.slice \
                 service:/sys/fs/cgroup/systemd/system.slice/containerd.service pod:<uid> container:<id>",
            ),
            (
                &format!("0::/{kubelet}"),
                "slice:/kubelet.slice slice:/kubelet.slice/kubelet-kubepods.slice \
                 slice:/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice \
                 pod:<uid> container:<id>",
            ),
            (
                &format!("0::/system.slice/docker-<other>.scope/{kubelet}"),
                "slice:/system.slice container:<other> pod:<uid> container:<id>",
            ),
            ("0::/system.slice/docker-<other>.scope/init.scope", "slice:/system.slice container:<other>"),
            (
                "/docker/<other>/kubelet/kubepods/besteffort/pod<uid>/<id>",
                "slice:/docker container:<other> pod:<uid> container:<id>",
            ),
            (
                "11:blkio:/kubepods/burstable/pod<uid>/<id>",
                "slice:/kubepods slice:/kubepods/burstable pod:<uid> container:<id>",
            ),
            ("/kubepods/pod<uid>/<id>", "slice:/kubepods pod:<uid> container:<id>"),
            (
                "kubelet/kubepods/besteffort/pod<uid>/<id>",
                "slice:/kubelet slice:/kubelet/kubepods slice:/kubelet/kubepods/besteffort pod:<uid> container:<id>",
            ),
            ("/libpod-<id>", "container:<id>"),
            ("/machine.slice/libpod-<id>.scope/container", "slice:/machine.slice container:<id>"),
            (rootless, &format!("{manager} container:<id>")),
            (
                "/machine.slice/libpod-conmon-<id>.scope",
                "slice:/machine.slice service:/machine.slice/libpod-conmon-<id>.scope",
            ),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-<id>.scope", manager),
            (
                "0::/system.slice/kepler.service/libpod-payload-<id>",
                "slice:/system.slice service:/system.slice/kepler.service container:<id>",
            ),
            ("/system.slice/ssh.service", "slice:/system.slice service:/system.slice/ssh.service"),
            ("/system.slice/user.slice", "slice:/system.slice slice:/system.slice/user.slice"),
            ("/user.slice/user-1000.slice/session-3.scope", "slice:/user.slice slice:/user.slice/user-1000.slice"),
            ("/init.scope", "service:/init.scope"),
            ("/system.slice/tmp.mount", "slice:/system.slice service:/system.slice/tmp.mount"),
            ("/default/<id>", "slice:/default container:<id>"),
            ("/ecs/<static>/<static>-1234567890", "slice:/ecs slice:/ecs/<static> container:<static>-1234567890"),
            ("/lxc.payload.web/system.slice/nginx.service", "container:web"),
            ("/lxc/web/system.slice/docker-<id>.scope", "slice:/lxc container:web container:<id>"),
            ("/lxc.monitor.web", "slice:/lxc.monitor.web"),
            ("/machine.slice/systemd-nspawn@deb.service/payload/init.scope", "slice:/machine.slice container:deb"),
            (
                "/system.slice/slurmstepd.scope/job_123/step_batch/user/task_0",
                "slice:/system.slice service:/system.slice/slurmstepd.scope job:123 job:123/batch",
            ),
            ("/slurm/uid_1000/job_123/step_0/task_0", "slice:/slurm slice:/slurm/uid_1000 job:123 job:123/0"),
            (r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator", "slice:/machine.slice vm:web"),
            ("0::/", ""),
            ("0::/../cri-containerd-<id>.scope", "container:<id>"),
            ("0::/../../kubepods-besteffort-pod<uid_>.slice/cri-containerd-<id>.scope", "pod:<uid> container:<id>"),
            ("0::/../pod<uid>/<id>", "pod:<uid> container:<id>"),
            ("0::/../b", "slice:/b"),
        ]
        .map(|(row, ids)| (path(row), path(ids)))
        .into();
        for (line, ids) in rows {
            let found: Vec<String> = walk(&line).iter().map(|identity| identity.id.to_string()).collect();
            assert_eq!(found.join(" "), ids, "{line}");
        }
    }
}
