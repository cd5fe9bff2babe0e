"""The release binary in guests with a real Linux 6.12.

    e2e/guest/run.py [--bin PATH] [--keep DIRECTORY] [--kubelet PATH] [GUEST…]

`meters` has the kernel's powercap tree, /dev/ipmi0 and an ACPI power meter; `pods` has systemd, cgroup v2 alone and a
real kubelet with the systemd driver. They are emulated (no KVM needed) and have no disk and no network; everything that
is measured in them is known from the outside. One line per check, the counts alone on the last line, exit code 1 if
anything failed; then the whole console of that guest is printed too.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # before our own modules: the clone stays as it is
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from checks import BMC_STATISTICS_W, BMC_W, SECONDS, ZONES, Checks
from console import Console, qemu
from kubelet import PodChecks, PodGuest
from parts import HERE, Parts, Unsuitable, run
from process import Failed, Process, free_ports, wait_until
from suite import end_on_signals, finish, names_of, refuse_unknown, run_one

BOOT_S = 120
RUN_S = 150
HANG_AFTER_S, HANG_S = 3, 5


class Guest(Console):
    """Boots, runs everything, and keeps what stood between the marks on the console."""

    def __init__(self, parts, binary, directory):
        super().__init__(directory)
        parts.initramfs(directory / "initramfs", binary, [watts for watts, _ in ZONES.values()], SECONDS)
        port, = free_ports(1)
        started = time.monotonic()
        with self._bmc(parts, port) as bmc, self._machine(parts, port) as machine:
            def reached(mark):
                bmc.must_run()
                return mark in self.text() or machine.child.poll() is not None

            wait_until("the guest to come up", lambda: reached("@@ end load"), BOOT_S)
            self.boot_s = time.monotonic() - started
            if "@@ end load" not in self.text():
                raise Failed(f"QEMU ended with {machine.child.poll()} before the guest was up")
            wait_until("the guest to get into trouble", lambda: reached("@@ begin trouble"), RUN_S)
            # A BMC that hangs for a while.
            time.sleep(HANG_AFTER_S)
            bmc.child.send_signal(signal.SIGSTOP)
            time.sleep(HANG_S)
            bmc.child.send_signal(signal.SIGCONT)
            wait_until("the guest to end", lambda: machine.child.poll() is not None, RUN_S)
        self.whole_s = time.monotonic() - started

    def _bmc(self, parts, port):
        state = self.directory / "bmc"
        state.mkdir()
        watts = " ".join(map(str, (BMC_W, *BMC_STATISTICS_W)))
        text = (HERE / "bmc.conf").read_text()
        for name, value in {"dcmi": parts.built / "dcmi.so", "watts": watts, "port": port}.items():
            text = text.replace(f"@{name}@", str(value))
        (state / "bmc.conf").write_text(text)
        argv = ["ipmi_sim", "-n", "-c", state / "bmc.conf", "-f", HERE / "bmc.emu", "-s", state]
        bmc = Process("bmc", argv, self.directory, BOOT_S + RUN_S + 30)
        try:
            # A connection of our own would be taken for the guest's, so the kernel is asked who listens.
            wait_until("the BMC to listen", lambda: bmc.must_run() and _listens(port), 10)
        except BaseException:
            bmc.kill()
            raise
        return bmc

    def _machine(self, parts, port):
        argv = [
            *qemu(parts, self.directory / "initramfs", "512M"), "-acpitable", f"file={parts.built / 'meter.aml'}",
            "-chardev", f"socket,id=bmc,host=127.0.0.1,port={port},{_reconnect()}",
            "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0",
        ]
        return Process("qemu", argv, self.directory, BOOT_S + RUN_S + 20)


def _reconnect():
    """A BMC that is connected before the device is made crashes QEMU; one that reconnects is connected later."""
    major, minor = map(int, re.search(r"version (\d+)\.(\d+)", run("qemu-system-x86_64", "--version")).groups())
    return "reconnect-ms=1000" if (major, minor) >= (9, 2) else "reconnect=1"


def _listens(port):
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[1] == wanted and row[3] == "0A" for row in rows)


def _one_guest(name, boot, checks, keep):
    """Boots a guest in a directory of its own, checks what it wrote, and returns the words of the checks."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="wattribute-guest-"))
    try:
        guest = boot(scratch)
        print(f"{name:15} up in {guest.boot_s:.1f} s, ended after {guest.whole_s:.1f} s")
        guest.part("load")
        checks = checks(guest)
        words = [run_one(each, getattr(checks, each)) for each in names_of(type(checks))]
    except Failed as failed:
        print(f"{name:15} FAILED: {failed}")
        words = ["FAILED"]
    except Unsuitable as why:
        print(f"{name:15} skipped: {why}")
        words = ["skipped"]
    finally:
        if keep:
            shutil.copytree(scratch, keep / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("initramfs"))
        logs = {path.name: path.read_text(errors="replace") for path in sorted(scratch.glob("*.std*"))}
        shutil.rmtree(scratch)
    if "FAILED" in words:
        for log, text in logs.items():
            print(f"---- {log}\n{text}")
    return words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent.parent / "target/release/wattribute"
    parser.add_argument("--bin", default=os.environ.get("WATTRIBUTE_BIN", default))
    parser.add_argument("--kubelet", help="default: what e2e/components/build.sh has built, or builds now")
    parser.add_argument("--keep", type=pathlib.Path, help="where consoles and logs are kept")
    parser.add_argument("guests", nargs="*", metavar="GUEST", help="meters or pods; default: both")
    options = parser.parse_args()
    end_on_signals()
    binary = pathlib.Path(options.bin).resolve()
    if not os.access(binary, os.X_OK):
        parser.error(f"no binary at {binary}: `make e2e-guest` builds it first")
    try:
        parts = Parts()
    except Unsuitable as why:
        print(f"guest           skipped: {why}")
        finish(["skipped"])
    print(f"guest           Linux {parts.release}")
    guests = {
        "meters": (lambda scratch: Guest(parts, binary, scratch), Checks),
        "pods": (lambda scratch: PodGuest(parts, binary, options.kubelet, scratch), PodChecks),
    }
    wanted = options.guests or list(guests)
    refuse_unknown(parser, "guest", wanted, guests)
    finish([word for name in wanted for word in _one_guest(name, *guests[name], options.keep)])


if __name__ == "__main__":
    main()
