"""One node that is real: containerd, runc and a kubelet, in namespaces and below a cgroup of its own.

Mounts and network are those of a private namespace each, in which /run, /var/lib and /var/log are empty directories of
ours, and what a kubelet would set in the kernel are files. So everything has its usual path and port, nothing of the
host's is seen or touched, and what is left at the end goes with the last process. All processes are below one cgroup,
by which they are found and ended, whoever their parent is.
"""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import time

import control
from packages import PAUSE
from process import Failed, Process, wait_until

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
SOCKET = "/run/containerd/containerd.sock"
STATIC_PODS = pathlib.Path("/run/static-pods")
# What a kubelet sets in the kernel when it starts: what to do without memory, and after an oops.
TUNABLES = [f"/proc/sys/{name}" for name in (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes")]
PRIVATE = ("/run", "/var/lib", "/var/log")


class Unsuitable(Exception):
    """Why this machine cannot be such a node."""


def check_machine():
    if os.geteuid() != 0:
        raise Unsuitable("it needs root")
    if not any("overlay" in line.split() for line in pathlib.Path("/proc/filesystems").read_text().splitlines()):
        raise Unsuitable("it needs the kernel's overlay file system")
    missing = {"cpu", "cpuacct", "memory", "pids"} - _hierarchies().keys()
    if missing:
        raise Unsuitable(f"it needs cgroup v1 with {', '.join(sorted(missing))}; v2 is shown by make e2e-guest")


def _hierarchies():
    """Controller (or name) -> mount point, of cgroup v1; and `unified`, where v2 is mounted beside it."""
    found = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point, (kind, _, options) = pathlib.Path(before.split()[4]), after.split()[:3]
        if kind == "cgroup":
            for option in set(options.split(",")) - {"rw", "ro"}:
                found.setdefault(option.removeprefix("name="), point)
        elif kind == "cgroup2":
            found.setdefault("unified", point)
    return found


class Cgroup:
    """One cgroup in every hierarchy. Within it we are in its `machinery` ourselves, and so is whatever we start; at the
    end all that is left below it is killed, and it is removed."""

    def __init__(self):
        self.name = f"/wattribute-node-{os.getpid()}"
        self._mounts = _hierarchies()
        self._roots = sorted({point / self.name[1:] for point in self._mounts.values()})
        self._ours = self._mounts["cpuacct"] / self.name[1:]
        self._before = next(line.split(":", 2)[2] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()
                            if "cpuacct" in line.split(":")[1].split(","))

    def __enter__(self):
        try:
            for root in self._roots:
                root.mkdir()
                for file in ("cpuset.cpus", "cpuset.mems"):  # of v1, which begin empty and then take no process
                    if (root / file).exists():
                        (root / file).write_text((root.parent / file).read_text())
            # Else best-effort pods, of the least weight, get nothing at all on a machine that is busy otherwise. What
            # they may use is little, see pods.py.
            (self._mounts["cpu"] / self.name[1:] / "cpu.shares").write_text("20000")
            (self._ours / "machinery").mkdir()
            self._move(self._ours / "machinery")
        except OSError as error:
            self._remove()
            raise Unsuitable(f"no cgroup of our own to be had: {error}") from error
        return self

    def __exit__(self, *_):
        undisturbed()
        self._move(self._mounts["cpuacct"] / self._before.lstrip("/"))
        wait_until(f"the processes of {self.name} to end", self._killed, 20)
        self._remove()

    @staticmethod
    def _move(directory):
        (directory / "cgroup.procs").write_text(str(os.getpid()))

    def _killed(self):
        """Kills whatever is there; whether there was nothing."""
        left = {int(pid) for root in self._roots for file in root.rglob("cgroup.procs") for pid in _words(file)}
        for pid in left - {os.getpid()}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not left

    def _remove(self):
        for root in self._roots:
            for directory, _, _ in os.walk(root, topdown=False):
                for _ in range(20):  # a process that was just killed may hold it for a moment
                    try:
                        os.rmdir(directory)
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        time.sleep(0.1)


def undisturbed():
    """From here on no signal that can be ignored stops us: we are cleaning up, which takes seconds."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)


def _words(path):
    try:
        return path.read_text().split()
    except OSError:  # removed meanwhile
        return []


class Namespaces:
    """Mounts and network of our own from here on, until we end; at the end all that is mounted there is unmounted."""

    def __init__(self, directory):
        self._directory = directory

    def __enter__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
            raise Unsuitable(f"no namespaces of our own to be had: {os.strerror(ctypes.get_errno())}")
        run("mount", "--make-rprivate", "/")
        for place in (*PRIVATE, *filter(os.path.exists, TUNABLES)):
            source = self._directory / place[1:].replace("/", "-")
            if place in PRIVATE:
                source.mkdir(parents=True)
            else:  # a file that has the same value, so that the kernel keeps its own
                source.write_text(pathlib.Path(place).read_text())
            run("mount", "--bind", source, place)
        run("mount", "--make-rshared", "/")  # the kubelet's and the pods', among themselves
        run("ip", "link", "set", "lo", "up")
        for address in (control.HOST_IP, control.SERVICE_IP):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        return self

    def __exit__(self, *_):
        undisturbed()
        ours = str(self._directory)
        points = [line.split()[1] for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
        inside = [point for point in points if point.startswith((ours, *(f"{place}/" for place in PRIVATE)))]
        for point in [*sorted(inside, key=len, reverse=True), *TUNABLES, *PRIVATE]:
            subprocess.run(["umount", "--lazy", point], stderr=subprocess.DEVNULL, check=False)


def run(*argv):
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, argv))} ended with {done.returncode}: {done.stdout.strip()[-600:]}")
    return done.stdout


def start_containerd(stack, packages, images, directory):
    """Starts it, gives it the images, and returns the command of its client."""
    directory.mkdir()
    (directory / "net").mkdir()
    (directory / "net/10-pods.conflist").write_text(json.dumps({
        "cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": {
            "type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}))
    config = directory / "containerd.toml"
    config.write_text(f"""version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt" # not /opt
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true # lowering it needs CAP_SYS_RESOURCE, which not every machine has
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{packages}/usr/lib/cni"
    conf_dir = "{directory}/net"
""")
    # Containers are made by what lies beside it: the shim and runc.
    path = f"{packages}/usr/bin:{packages}/usr/sbin:{os.environ['PATH']}:/usr/sbin:/sbin"
    containerd = stack.enter_context(Process("containerd", [f"{packages}/usr/bin/containerd", "--config", config],
                                             directory, control.LIMIT_S, env={**os.environ, "PATH": path}))
    ctr = [f"{packages}/usr/bin/ctr", "--namespace", "k8s.io"]

    def serves():
        return containerd.must_run() and not subprocess.run(
            [*ctr, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode

    wait_until("containerd", serves, 30)
    for image in images:
        run(*ctr, "images", "import", image)
    return ctr


def start_kubelet(stack, program, cgroup, directory, api):
    """Starts the kubelet and waits until its Node is ready; returns a client of the kubelet's own server."""
    directory.mkdir()
    STATIC_PODS.mkdir()
    config = directory / "kubelet.json"
    config.write_text(json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs", "cgroupRoot": cgroup, "failCgroupV1": False, "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{SOCKET}", "staticPodPath": str(STATIC_PODS),
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"}, "readOnlyPort": 0,
        "makeIPTablesUtilChains": False, "containerLogMaxSize": "200Mi",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",  # not /usr
        # The disk of a test machine may be nearly full, and is not ours to clear.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%",
                         "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
    }))
    kubelet = stack.enter_context(Process("kubelet", [
        program, f"--config={config}", f"--kubeconfig={control.kubeconfig(directory / 'kubeconfig', control.KUBELET)}",
        f"--hostname-override={control.NODE}", f"--node-ip={control.HOST_IP}", "--v=2"], directory, control.LIMIT_S))

    def ready():
        kubelet.must_run()
        answer = api.answers(f"/api/v1/nodes/{control.NODE}")
        conditions = json.loads(answer)["status"].get("conditions", []) if answer else []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    wait_until("the Node to be ready", ready, 60)
    return control.Api(f"https://{control.HOST_IP}:10250", control.ADMIN)
