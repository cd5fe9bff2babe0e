"""A fake machine with pods: the cgroups that a kubelet and containerd make, with processes that use CPU time.

Pods and containers come and go while it runs. What an ended container used stays in the cgroups around it, as in a
kernel. Names follow the cgroupfs driver or systemd's, files cgroup v1 or v2.
"""

import collections
import itertools
import os
import shutil
import threading
import time

from machine import _RANGE_UJ, _ZONES, HZ, Machine, Task, _cpu_us, _stat, _with_parents

HOSTNAME = "fake-node"  # of machine.py: never the name of the Node
MACHINE_ID = "6f1d0a3b8c2e4957a0b1c2d3e4f50617"
_SYSTEM = [Task(1, "systemd", "/init.scope", 0.01), Task(2, "kthreadd", "/", 0.05),
           Task(4_190_002, "kubelet", "/system.slice/kubelet.service", 0.05)]


class Node(Machine):
    """Use as a context, see Machine."""

    def __init__(self, root, driver="cgroupfs", version=2):
        self._driver, self._version = driver, version
        self._pids = itertools.count(4_190_100)
        self._lock = threading.Lock()
        self._tasks = {task.pid: task for task in _SYSTEM}
        self._containers = {}  # container id -> pid
        self._pods = {}  # pod's cgroup uid -> its cgroup
        self._ended_us = collections.Counter()  # by cgroup: used by tasks that are gone
        self._still = set()  # files that were written once
        super().__init__(root)

    def _lay_out(self):
        super()._lay_out()
        shutil.rmtree(self.root / "sys/class/hwmon")  # the zones of RAPL are enough here
        self._create("proc/1/root/etc/machine-id", MACHINE_ID + "\n")

    # What a kubelet does

    def add_pod(self, uid, qos="Burstable"):
        """Makes the cgroup of a pod; `uid` is the one that cgroups are called by."""
        with self._lock:
            self._pods[uid] = self._pod_cgroup(uid, qos)
            self._put_cgroup(self._pods[uid], 0, [])

    def start(self, uid, container_id, cpus, comm="app"):
        """Starts a container of a pod, with one process that uses so many CPUs. Returns its pid."""
        with self._lock:
            pid = next(self._pids)
            cgroup = f"{self._pods[uid]}/{self._container_directory(container_id)}"
            task = Task(pid, comm, cgroup, cpus, self._now())
            self._tasks[pid], self._containers[container_id] = task, pid
            self._put_cgroup(cgroup, 0, [pid])
            self._put_task(task, 0)
            return pid

    def end(self, *container_ids):
        """Ends containers; their cgroups go with them."""
        with self._lock:
            for each in container_ids:
                self._end(self._containers.pop(each))

    def remove_pod(self, uid):
        """Ends what is left of a pod and removes its cgroup."""
        with self._lock:
            cgroup = self._pods.pop(uid)
            inside = [each for each, pid in self._containers.items()
                      if self._tasks[pid].cgroup.startswith(cgroup + "/")]
            for each in inside:
                self._end(self._containers.pop(each))
            self._ended_us.pop(cgroup, None)
            self._remove(self._cgroup_directory(cgroup))

    def _end(self, pid):
        task = self._tasks.pop(pid)
        used = _cpu_us(task, self._now())
        for cgroup in _with_parents(task.cgroup):
            self._ended_us[cgroup] += used
        del self._ended_us[task.cgroup]  # no other container is in it
        self._remove(self._cgroup_directory(task.cgroup))
        self._remove(f"proc/{pid}")

    def _pod_cgroup(self, uid, qos):
        middle = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}[qos]
        if self._driver == "cgroupfs":
            return f"/kubepods{middle and '/'}{middle}/pod{uid}"
        slices = ["kubepods"] + ([f"kubepods-{middle}"] if middle else [])
        path = "".join(f"/{each}.slice" for each in slices)
        return f"{path}/{slices[-1]}-pod{uid.replace('-', '_')}.slice"

    def _container_directory(self, container_id):
        return container_id if self._driver == "cgroupfs" else f"cri-containerd-{container_id}.scope"

    # What moves

    def _now(self):
        return time.monotonic() - self._start_s

    def _write(self, _):
        with self._lock:
            at_s = self._now()
            used_us = collections.Counter(self._ended_us)
            pids = collections.defaultdict(list)
            for task in self._tasks.values():
                used = _cpu_us(task, at_s)
                pids[task.cgroup].append(task.pid)
                for cgroup in _with_parents(task.cgroup):
                    used_us[cgroup] += used
                self._put_task(task, used)
            for cgroup in used_us.keys() | set(self._pods.values()):
                self._put_cgroup(cgroup, used_us[cgroup], pids[cgroup])
            uptime_s = self._boot_s + at_s
            self._put("proc/uptime", f"{uptime_s:015.2f} {uptime_s:015.2f}\n")
            self._put("proc/stat", _stat(used_us["/"], uptime_s, self._boot_wall_s))
            for path, (_, watts, start_uj, _) in _ZONES.items():
                register = (start_uj + round(watts * 1e6 * at_s)) % _RANGE_UJ
                self._put(f"sys/devices/virtual/powercap/intel-rapl/{path}/energy_uj", f"{register:012d}\n")

    def _put_still(self, path, content):
        """A file that does not change, so that no descriptor is kept for it."""
        if path not in self._still:
            self._create(path, content)
            self._still.add(path)

    def _cgroup_directory(self, cgroup):
        mount = "sys/fs/cgroup" if self._version == 2 else "sys/fs/cgroup/cpu,cpuacct"
        return f"{mount}{cgroup}".rstrip("/")

    def _put_cgroup(self, cgroup, used_us, pids):
        directory = self._cgroup_directory(cgroup)
        if self._version == 2:
            self._put_still(f"{directory}/cgroup.controllers", "cpuset cpu io memory pids\n")
            text = f"usage_usec {used_us:015d}\nuser_usec {used_us:015d}\nsystem_usec {0:015d}\n"
            self._put(f"{directory}/cpu.stat", text)
        else:
            self._put(f"{directory}/cpuacct.usage", f"{used_us * 1000:018d}\n")
        self._put(f"{directory}/cgroup.procs", "".join(f"{pid}\n" for pid in pids))

    def _put_task(self, task, used_us):
        kernel = task.pid == 2
        # Fields 3 to 22 of proc(5), as in machine.py.
        fields = ["S", 0 if task.pid <= 2 else 1] + [0] * 18
        fields[6] = 0x0020_0000 if kernel else 0x0040_0000
        fields[11] = f"{used_us * HZ // 1_000_000:010d}"
        fields[17] = 1
        fields[19] = int((self._boot_s + task.born_s) * HZ) if task.born_s else 1000 + task.pid % 100
        rest = " ".join(map(str, fields + [0] * 30))
        self._put(f"proc/{task.pid}/stat", f"{task.pid} ({task.comm}) {rest}\n")
        line = f"0::{task.cgroup}\n" if self._version == 2 else f"4:cpu,cpuacct:{task.cgroup}\n"
        self._put_still(f"proc/{task.pid}/cgroup", line)
        self._put_still(f"proc/{task.pid}/comm", f"{task.comm}\n")
        self._put_still(f"proc/{task.pid}/cmdline", "" if kernel else f"/usr/bin/{task.comm}\0--serve\0")
        self._put_still(f"proc/{task.pid}/status",
                        f"Name:\t{task.comm}\nTgid:\t{task.pid}\nPid:\t{task.pid}\nNSpid:\t{task.pid}\n")

    def _remove(self, directory):
        for path in [path for path in self._files if path.startswith(directory + "/")]:
            os.close(self._files.pop(path))
        self._still = {path for path in self._still if not path.startswith(directory + "/")}
        # The directory goes at once, as a cgroup does: what is renamed away cannot be listed half empty.
        grave = self.root / f"gone-{time.monotonic_ns()}"
        os.rename(self.root / directory, grave)
        shutil.rmtree(grave)
