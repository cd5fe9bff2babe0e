"""A machine that does not exist: its /proc and /sys as files in a directory, kept moving by a thread.

Every number is a closed function of the time since the machine started, so a late thread makes a coarser machine but
never a wrong one. Files are overwritten in place, with numbers of fixed width, because that is how a kernel's file
looks through a descriptor that its reader keeps open; a renamed file would stay at its old content for ever there.
"""

import collections
import os
import shutil
import threading
import time

CPUS = 4
HZ = 100  # the kernel's USER_HZ
STEP_S = 0.2

Task = collections.namedtuple("Task", "pid comm cgroup cpus born_s died_s", defaults=(0.0, float("inf")))

POD_BUSY = "7d1a0c5e-93b4-4f0e-8a51-2f6b1c9d0e11"
POD_CALM = "0b9e4d27-5c68-4a3f-b1d0-8e7f6a5c4b22"
POD_ENDS = "c3f8e6a9-1d24-47b5-9e0c-5a4b3c2d1e33"
_PODS = {POD_BUSY: "b1" * 32, POD_CALM: "c2" * 32, POD_ENDS: "e3" * 32}
ENDS_S = 4.0  # when one pod goes, with its container, and a process of nginx with another in its place


def _container(pod):
    return f"/kubepods/burstable/pod{pod}/{_PODS[pod]}"


NGINX = "/system.slice/nginx.service"
# The pids are above any that a real kernel gives out here, so a reader that asks the kernel by mistake finds nobody.
TASKS = [
    Task(1, "systemd", "/init.scope", 0.0),
    Task(2, "kthreadd", "/", 0.05),
    Task(4_190_010, "busy", _container(POD_BUSY), 0.6),
    Task(4_190_011, "busy-helper", _container(POD_BUSY), 0.3),
    Task(4_190_020, "calm", _container(POD_CALM), 0.3),
    Task(4_190_030, "job", _container(POD_ENDS), 0.25, 0.0, ENDS_S),
    Task(4_190_040, "nginx", NGINX, 0.1),
    Task(4_190_041, "nginx", NGINX, 0.15, 0.0, ENDS_S),
    Task(4_190_042, "nginx", NGINX, 0.15, ENDS_S),
]

# What the whole machine draws, by an ACPI power meter: 34 W more than the package and the memory.
HOST_W = 90.0
# Watts of the zones. The package's register starts 100 J below its end, so it wraps after two seconds.
PACKAGE_W, DRAM_W, CORE_W = 50.0, 6.0, 30.0
_RANGE_UJ = 262_143_328_850
_ZONES = {  # directory below intel-rapl: name, watts, value at the start, highest power
    "intel-rapl:0": ("package-0", PACKAGE_W, _RANGE_UJ - 100_000_000, 200_000_000),
    "intel-rapl:0/intel-rapl:0:0": ("core", CORE_W, 1_000_000_000, None),
    "intel-rapl:0/intel-rapl:0:1": ("dram", DRAM_W, 2_000_000_000, None),
}


class Machine:
    """Use as a context: the thread runs inside it. `settings` points the agent at this machine."""

    def __init__(self, root):
        self.root = root
        self._files = {}
        self._stop = threading.Event()
        self._error = None
        self._boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._boot_wall_s = int(time.time() - self._boot_s)
        self._start_s = time.monotonic()
        self._lay_out()
        self._write(0.0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def settings(self):
        """What the agent must be told to read this machine instead of the real one."""
        return {f"host.{each}": self.root / each for each in ("proc", "sys", "dev")}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        for file in self._files.values():
            os.close(file)
        if self._error:
            raise self._error

    def _run(self):
        try:
            while not self._stop.wait(STEP_S):
                self._write(time.monotonic() - self._start_s)
        except Exception as error:  # must not die in silence: the tests would check a machine that stands still
            self._error = error

    # What never changes

    def _lay_out(self):
        still = {
            "proc/cpuinfo": "".join(
                f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: A CPU that does not exist\n"
                f"physical id\t: 0\ncore id\t\t: {cpu}\ncpu MHz\t\t: 2400.000\n\n" for cpu in range(CPUS)),
            # Two pids in NSpid: the agent sits in a pid namespace of its own, as a pod does.
            "proc/self/status": "Name:\twattribute\nPid:\t4190001\nNSpid:\t4190001\t1\n",
            "proc/sys/kernel/random/boot_id": "5f0c2b1e-6a7d-4c3e-9b8a-1d2e3f405162\n",
            "proc/sys/kernel/hostname": "fake-node\n",
        }
        for each in ("online", "possible", "present"):
            still[f"sys/devices/system/cpu/{each}"] = f"0-{CPUS - 1}\n"
        powercap = "sys/devices/virtual/powercap/intel-rapl"
        links = {"intel-rapl": "intel-rapl"}
        for path, (name, _, _, most_uw) in _ZONES.items():
            still[f"{powercap}/{path}/name"] = name + "\n"
            still[f"{powercap}/{path}/max_energy_range_uj"] = f"{_RANGE_UJ}\n"
            if most_uw:
                still[f"{powercap}/{path}/constraint_0_name"] = "long_term\n"
                still[f"{powercap}/{path}/constraint_0_max_power_uw"] = f"{most_uw}\n"
            links[path.rsplit("/", 1)[-1]] = f"intel-rapl/{path}"
        still["sys/class/hwmon/hwmon0/name"] = "power_meter\n"
        still["sys/class/hwmon/hwmon0/power1_average"] = f"{HOST_W * 1e6:.0f}\n"
        for path, content in still.items():
            self._create(path, content)
        (self.root / "dev").mkdir()
        (self.root / "sys/class/powercap").mkdir(parents=True)
        for name, target in links.items():
            (self.root / "sys/class/powercap" / name).symlink_to(f"../../devices/virtual/powercap/{target}")

    def _create(self, path, content):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    # What moves

    def _put(self, path, content):
        """Overwrites a file in place; creates it the first time."""
        if path not in self._files:
            self._create(path, content)
            self._files[path] = os.open(self.root / path, os.O_WRONLY)
        written = os.pwrite(self._files[path], content.encode(), 0)
        os.ftruncate(self._files[path], written)  # changes nothing but for the lists of pids

    def _write(self, at_s):
        used_us = {task: _cpu_us(task, at_s) for task in TASKS}
        cgroups = collections.defaultdict(int)
        for task, used in used_us.items():
            for cgroup in _with_parents(task.cgroup):
                cgroups[cgroup] += used
        for cgroup, used in cgroups.items():
            tasks = [task for task in TASKS if _below(task.cgroup, cgroup)]
            if any(at_s < task.died_s for task in tasks):
                own = [task.pid for task in tasks if task.cgroup == cgroup and _lives(task, at_s)]
                self._put_cgroup(cgroup, used, own)
            else:
                self._remove(f"sys/fs/cgroup{cgroup}")
        for task, used in used_us.items():
            if _lives(task, at_s):
                self._put_task(task, used)
            else:
                self._remove(f"proc/{task.pid}")
        self._put("proc/uptime", f"{self._boot_s + at_s:015.2f} {self._boot_s + at_s:015.2f}\n")
        self._put("proc/stat", _stat(sum(used_us.values()), self._boot_s + at_s, self._boot_wall_s))
        for path, (_, watts, start_uj, _) in _ZONES.items():
            register = (start_uj + round(watts * 1e6 * at_s)) % _RANGE_UJ
            self._put(f"sys/devices/virtual/powercap/intel-rapl/{path}/energy_uj", f"{register:012d}\n")

    def _put_cgroup(self, cgroup, used_us, pids):
        directory = f"sys/fs/cgroup{cgroup}".rstrip("/")
        self._put(f"{directory}/cgroup.controllers", "cpuset cpu io memory pids\n")
        self._put(f"{directory}/cgroup.procs", "".join(f"{pid}\n" for pid in pids))
        self._put(f"{directory}/cpu.stat",
                  f"usage_usec {used_us:015d}\nuser_usec {used_us:015d}\nsystem_usec {0:015d}\n")

    def _put_task(self, task, used_us):
        kernel = task.pid == 2
        # Fields 3 to 22 of proc(5): state, parent, …, flags (7th), utime (12th), stime (13th), …, starttime (20th).
        fields = ["S", 0 if task.pid <= 2 else 1] + [0] * 18
        fields[6] = 0x0020_0000 if kernel else 0x0040_0000  # PF_KTHREAD or not
        fields[11] = f"{used_us * HZ // 1_000_000:010d}"
        fields[17] = 1
        fields[19] = int((self._boot_s + task.born_s) * HZ) if task.born_s else 1000 + task.pid % 100
        rest = " ".join(map(str, fields + [0] * 30))
        self._put(f"proc/{task.pid}/stat", f"{task.pid} ({task.comm}) {rest}\n")
        self._put(f"proc/{task.pid}/comm", f"{task.comm}\n")
        self._put(f"proc/{task.pid}/cmdline", "" if kernel else f"/usr/bin/{task.comm}\0--serve\0")
        self._put(f"proc/{task.pid}/cgroup", f"0::{task.cgroup}\n")
        self._put(f"proc/{task.pid}/status",
                  f"Name:\t{task.comm}\nTgid:\t{task.pid}\nPid:\t{task.pid}\nNSpid:\t{task.pid}\n")

    def _remove(self, directory):
        for path in [path for path in self._files if path.startswith(directory + "/")]:
            os.close(self._files.pop(path))
        shutil.rmtree(self.root / directory, ignore_errors=True)


def _lives(task, at_s):
    return task.born_s <= at_s < task.died_s


def _cpu_us(task, at_s):
    """CPU time of a task since its birth; those that were there before us have some already."""
    before = 0 if task.born_s else 3_000_000
    return before + round(1e6 * task.cpus * max(0.0, min(at_s, task.died_s) - task.born_s))


def _with_parents(cgroup):
    parts = cgroup.strip("/").split("/") if cgroup != "/" else []
    return ["/"] + ["/" + "/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _below(cgroup, ancestor):
    return ancestor in _with_parents(cgroup)


def _stat(used_us, uptime_s, boot_wall_s):
    """/proc/stat: all work is user time, spread evenly over the CPUs; the rest of the time is idle."""
    busy = used_us * HZ // 1_000_000 // CPUS
    idle = max(0, int(uptime_s * HZ) - busy)

    def row(name, times):
        return f"{name} {busy * times:012d} 0 0 {idle * times:012d} 0 0 0 0 0 0\n"

    rows = row("cpu ", CPUS) + "".join(row(f"cpu{cpu}", 1) for cpu in range(CPUS))
    return rows + f"intr 0\nctxt 0\nbtime {boot_wall_s}\nprocesses 100\nprocs_running 1\nprocs_blocked 0\n"
