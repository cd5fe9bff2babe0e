"""Control groups of our own on the live machine, with a CPU quota and their CPU time, on cgroup v1 or v2."""

import os
import pathlib

from process import wait_until

PERIOD_US = 100_000


class Unavailable(Exception):
    """Why this machine lets us have no cgroup with a quota."""


class Cgroup:
    """One cgroup at the top of the hierarchy. Use as a context: it is removed at the end, which needs it empty."""

    def __init__(self, name, quota_percent):
        self.name = name
        quota = PERIOD_US * quota_percent // 100
        mounts = _mounts()
        if {"cpu", "cpuacct"} <= mounts.keys():
            # One directory where the two controllers share a mount, two where each has its own.
            self.directories = list(dict.fromkeys(mounts[each] / name for each in ("cpu", "cpuacct")))
            self._usage = mounts["cpuacct"] / name / "cpuacct.usage"
            limits = {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota}
        elif "v2" in mounts:
            self.directories = [mounts["v2"] / name]
            self._usage = mounts["v2"] / name / "cpu.stat"
            limits = {"cpu.max": f"{quota} {PERIOD_US}"}
        else:
            raise Unavailable("no cgroup hierarchy with CPU accounting is mounted")
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        try:
            if "v2" in mounts and "cpu.max" in limits:
                # A no-op on any host with systemd; refused inside a container, whose top cgroup holds processes.
                (mounts["v2"] / "cgroup.subtree_control").write_text("+cpu")
            for directory in self.directories:
                directory.mkdir()
            for file, value in limits.items():
                (self.directories[0] / file).write_text(str(value))
        except OSError as error:
            self.remove()
            raise Unavailable(f"no cgroup with a quota to be had: {error}") from error

    def enter(self):
        """Moves the calling process in: for `preexec_fn`, so that a program spends nothing outside."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text("0")

    def cpu_us(self):
        """CPU time of everything that ever ran in here."""
        text = self._usage.read_text()
        if self._usage.name == "cpuacct.usage":
            return int(text) // 1000
        return int(dict(line.split() for line in text.splitlines())["usage_usec"])

    def is_empty(self):
        return not any((directory / "cgroup.procs").read_text() for directory in self.directories)

    def remove(self):
        existing = [directory for directory in self.directories if directory.exists()]
        if len(existing) == len(self.directories):
            wait_until(f"the processes of {self.name} to end", self.is_empty, 10)
        for directory in existing:
            directory.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


def _mounts():
    """Where the v1 controllers and the v2 hierarchy ("v2") are mounted; v2 only where it counts the CPU."""
    mounts = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point, (kind, _, options) = pathlib.Path(before.split()[4]), after.split()[:3]
        if kind == "cgroup":
            for controller in {"cpu", "cpuacct"} & set(options.split(",")):
                mounts.setdefault(controller, point)
        elif kind == "cgroup2" and "cpu" in (point / "cgroup.controllers").read_text().split():
            mounts.setdefault("v2", point)
    return mounts
