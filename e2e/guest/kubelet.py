"""A second guest: systemd, cgroup v2 alone, containerd and a kubelet with the systemd driver, and static pods.

There is no API server, so the agent knows its pods by their slices and scopes only; the kubelet says what they are.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

from checks import ZONES, Report, require
from console import Console, qemu
from parts import HERE, Unsuitable, put_program, put_script
from process import Process, wait_until

sys.path.insert(1, str(HERE.parent / "node"))
from packages import BURN, PAUSE, unpacked, write_burn  # noqa: E402

SYSTEMD = pathlib.Path("/lib/systemd/systemd")
SYSTEMD_LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu/systemd")
ROOT = "/sys/fs/cgroup/kubepods.slice"
BOOT_S, RUN_S = 60, 240  # half a minute and a minute, where the machine has nothing else to do
SECONDS = 12  # in which the pods run while the agent measures
# Name, uid or None (the kubelet makes one), container -> (percent, resources)
GIVEN = "6f2b1f7e-9c1e-4a53-8a55-0d0000000001"
PODS = {
    "sure": (GIVEN, "Guaranteed", {"main": (20, {"limits": {"cpu": "1", "memory": "32Mi"}})}),
    "burst": (None, "Burstable", {"left": (12, {"requests": {"cpu": "50m"}}), "right": (6, {})}),
    "rest": (None, "BestEffort", {"only": (10, {})}),
}
CONTAINERS = sum(len(containers) for _, _, containers in PODS.values())

CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
"""
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "systemd",
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock", "staticPodPath": "/etc/pods",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"}, "address": "127.0.0.1", "readOnlyPort": 10255,
    "makeIPTablesUtilChains": False, "failSwapOn": False, "fileCheckFrequency": "1s",
}
_UNIT = "[Unit]\nDefaultDependencies=no\n{unit}\n[Service]\nEnvironment=PATH=/bin HOME=/tmp\n{service}\n"
UNITS = {
    "node.target": "[Unit]\nDefaultDependencies=no\nRequires=node.service\n",
    "containerd.service": _UNIT.format(unit="", service=(
        "ExecStart=/bin/containerd --config /etc/containerd.toml\nDelegate=yes\nKillMode=process\n"
        "StandardOutput=file:/var/log/containerd.log\nStandardError=file:/var/log/containerd.log")),
    "images.service": _UNIT.format(unit="Requires=containerd.service\nAfter=containerd.service", service=(
        "Type=oneshot\nExecStart=/bin/sh -c 'until ctr -n k8s.io images import --snapshotter native /images/burn.tar"
        " && ctr -n k8s.io images import --snapshotter native /images/pause.tar; do sleep 0.2; done'")),
    "kubelet.service": _UNIT.format(unit="Requires=images.service\nAfter=images.service", service=(
        "ExecStart=/bin/kubelet --config=/etc/kubelet.json --hostname-override=guest\n"
        "StandardOutput=file:/var/log/kubelet.log\nStandardError=file:/var/log/kubelet.log")),
    "node.service": _UNIT.format(unit="Wants=kubelet.service", service=(
        "Type=oneshot\nTimeoutStartSec=infinity\nExecStart=/node\nStandardOutput=file:/dev/console\n"
        "StandardError=file:/dev/console")),
}


def _pod(name, uid, containers):
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", **({"uid": uid} if uid else {})},
            "spec": {"hostNetwork": True, "containers": [
                {"name": container, "image": BURN, "imagePullPolicy": "Never", "args": [str(percent)],
                 "resources": resources} for container, (percent, resources) in containers.items()]}}


def initramfs(parts, path, binary, kubelet):
    tree = unpacked(["containerd", "runc"])
    with parts.root(path, [watts for watts, _ in ZONES.values()]) as root:
        for directory in ("etc/pods", "etc/systemd/system", "images", "usr", "lib64"):
            (root / directory).mkdir(parents=True)
        put_program(root, binary, "bin/wattribute")
        for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
            put_program(root, tree / "usr/bin" / name, f"bin/{name}")
        put_program(root, tree / "usr/sbin/runc", "bin/runc")
        put_program(root, SYSTEMD, "lib/systemd/systemd", SYSTEMD_LIBRARIES)
        shutil.copy(kubelet, root / "bin/kubelet")  # it is static and has no symbols
        write_burn(root / "images")
        (root / "etc/containerd.toml").write_text(CONTAINERD)
        (root / "etc/kubelet.json").write_text(json.dumps(KUBELET))
        (root / "etc/containers").write_text(str(CONTAINERS))
        (root / "etc/os-release").write_text("ID=guest\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (root / "etc/resolv.conf").write_text("")
        (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        for name, (uid, _, containers) in PODS.items():
            (root / f"etc/pods/{name}.json").write_text(json.dumps(_pod(name, uid, containers)))
        for name, text in UNITS.items():
            (root / "etc/systemd/system" / name).write_text(text)
        (root / "seconds").write_text(str(SECONDS))
        put_script(root, HERE / "node", "node")
        put_script(root, HERE / "init-systemd", "init")


class PodGuest(Console):
    """Boots and runs everything."""

    def __init__(self, parts, binary, kubelet, directory):
        super().__init__(directory)
        initramfs(parts, directory / "initramfs", binary, kubelet or _built_kubelet())
        started = time.monotonic()
        argv = qemu(parts, directory / "initramfs", "2G", "systemd.show_status=0")
        with Process("qemu", argv, directory, BOOT_S + RUN_S + 20) as machine:
            def reached(mark):
                return mark in self.text() or machine.child.poll() is not None

            wait_until("systemd to come up", lambda: reached("@@ end load"), BOOT_S)
            self.boot_s = time.monotonic() - started
            wait_until("the guest to end", lambda: machine.child.poll() is not None, RUN_S)
        self.whole_s = time.monotonic() - started


def _built_kubelet():
    build = HERE.parent / "components/build.sh"
    if not shutil.which("go"):
        raise Unsuitable("a kubelet is built with Go, which is not there")
    return subprocess.run([build, "kubelet"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class PodChecks:
    """Every method that does not begin with `_` is a check, in this order; its first line of text is its title."""

    def __init__(self, guest):
        self._guest = guest
        self._pods = {pod["metadata"]["name"].removesuffix("-guest"): pod
                      for answer in guest.json("status") for pod in answer["items"]}
        self._report = Report(guest.json("measure"))
        self._rows = {row["id"]: row for row in self._report.last["workloads"]}

    def slices(self):
        """systemd is process 1, cgroup v2 is alone, every pod is a slice, its containers and its sandbox are scopes"""
        lines = self._guest.part("tree")[0]
        require(lines[0] == "systemd", f"process 1 is {lines[0]}")
        mounts = [line.split()[2] for line in lines if line.count(" ") == 5]
        require("cgroup2" in mounts and "cgroup" not in mounts, f"mounted are {mounts}")
        require(self._pods.keys() == PODS.keys(), f"the kubelet has {sorted(self._pods)}")
        for name in PODS:
            inside = {line.rsplit("/", 1)[1] for line in lines if line.startswith(f"{self._slice(name)}/")}
            scopes = {f"cri-containerd-{each}.scope" for each in self._containers(name).values()}
            require(len(scopes) == len(PODS[name][2]) and scopes <= inside, f"{name}: {inside}, not {scopes}")
            require(len(inside) == len(scopes) + 1, f"{name}: one sandbox is expected: {inside}")

    def names(self):
        """the agent has each pod by its uid and its class, and in it each container by its id"""
        pods = {row["attributes"]["k8s.pod.uid"] for row in self._rows.values() if row["kind"] == "pod"}
        require(pods == {self._uid(name) for name in PODS}, f"pods are {pods}")
        for name, (given, quality, _) in PODS.items():
            require(given in (None, self._uid(name)), f"{name} has the uid {self._uid(name)}")
            self._same(f"pod:{self._uid(name)}", {"k8s.pod.uid": self._uid(name), "k8s.pod.qos_class": quality})
            for container in self._containers(name).values():
                row = self._same(f"container:{container}", {
                    "container.id": container, "container.runtime.name": "containerd", "k8s.pod.uid": self._uid(name)})
                require(row["parent"] == f"pod:{self._uid(name)}", f"{name}: {container} is in {row['parent']}")

    def cpu(self):
        """CPU time of each pod and container is what its cpu.stat says, to the microsecond or two"""
        before, after = ({path: int(usage) for path, usage in map(str.split, self._guest.part(part)[0])}
                         for part in ("before", "after"))
        for name in PODS:
            for path in (each for each in after if each.startswith(self._slice(name))):
                scope = re.search(r"/cri-containerd-(\w+)\.scope$", path)
                row = self._row(f"container:{scope[1]}" if scope else f"pod:{self._uid(name)}")
                used = after[path] - before[path]
                require(used > 0 or scope, f"{name} used nothing")
                print(f"                {name:6} {row['id'][:26]:26} {row['cpu_us']:9} µs, cpu.stat {used:9} µs")
                require(abs(row["cpu_us"] - used) <= 2, f"{row['id']}: {row['cpu_us']} µs, not {used} µs")

    def joules(self):
        """joules of a powercap zone: containers have them as their CPU time, and a pod what is in it"""
        self._report.check_balance()
        price = []
        for name in PODS:
            for container in self._containers(name).values():
                row = self._row(f"container:{container}")
                joules = row["active_uj"]["rapl:package-0"] / 1e6
                print(f"                {name:6} {row['id'][:26]:26} {joules:8.3f} J for {row['cpu_us'] / 1e6:6.3f} s")
                price.append(joules / row["cpu_us"] * 1e6)
            pod = self._row(f"pod:{self._uid(name)}")["active_uj"]["rapl:package-0"]
            inside = sum(row["active_uj"]["rapl:package-0"] for row in self._rows.values()
                         if row["kind"] == "container" and row["parent"] == f"pod:{self._uid(name)}")
            require(0 < inside <= pod, f"{name}: {pod} µJ, its containers {inside} µJ")
        # The zone has constant watts: a tick in which there is less else to do gives more for a second.
        require(min(price) > 0 and max(price) / min(price) < 1.5, f"joules per CPU second: {price}")

    def _uid(self, name):
        return self._pods[name]["metadata"]["uid"]

    def _containers(self, name):
        return {each["name"]: each["containerID"].removeprefix("containerd://")
                for each in self._pods[name]["status"]["containerStatuses"]}

    def _slice(self, name):
        quality = PODS[name][1].lower()
        inner = "" if quality == "guaranteed" else f"-{quality}"
        middle = f"/kubepods{inner}.slice" if inner else ""
        return f"{ROOT}{middle}/kubepods{inner}-pod{self._uid(name).replace('-', '_')}.slice"

    def _row(self, key):
        require(key in self._rows, f"{key} is not among {sorted(self._rows)}")
        return self._rows[key]

    def _same(self, key, expected):
        row = self._row(key)
        require(row["attributes"] == expected, f"{key} has {row['attributes']}, not {expected}")
        return row
