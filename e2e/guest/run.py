"""The release binary in a guest with a real Linux 6.12: the kernel's powercap tree, /dev/ipmi0 and ACPI power meter.

    e2e/guest/run.py [--bin PATH] [--keep DIRECTORY]

The guest is emulated (no KVM needed) and has no disk and no network; everything that it measures is known from the
outside. One line per check, the counts alone on the last line, exit code 1 if anything failed; then the whole console
of the guest is printed too.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True  # before our own modules: the clone stays as it is
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from checks import BMC_STATISTICS_W, BMC_W, SECONDS, ZONES, Checks
from parts import HERE, Parts, Unsuitable, run
from process import Failed, Process, free_ports, wait_until

BOOT_S = 120
RUN_S = 150
HANG_AFTER_S, HANG_S = 3, 5


class Guest:
    """Boots, runs everything, and keeps what stood between the marks on the console."""

    def __init__(self, parts, binary, directory):
        self.directory = directory
        self.console = directory / "qemu.stdout"
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
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=multi",
            "-cpu", "max", "-smp", "2", "-m", "512M", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", parts.built / "vmlinuz", "-initrd", self.directory / "initramfs",
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
            "-acpitable", f"file={parts.built / 'meter.aml'}",
            "-chardev", f"socket,id=bmc,host=127.0.0.1,port={port},{_reconnect()}",
            "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0",
        ]
        return Process("qemu", argv, self.directory, BOOT_S + RUN_S + 20)

    def text(self):
        """The console so far."""
        return self.console.read_text(errors="replace").replace("\r", "")

    def part(self, name):
        """What one command wrote, and what it wrote to stderr. A command that failed fails the check."""
        _, begun, rest = self.text().partition(f"@@ begin {name}\n")
        inside, ended, rest = rest.partition(f"@@ end {name} ")
        if not begun or not ended:
            raise Failed(f"the guest never finished `{name}`")
        if (code := rest.split("\n", 1)[0]) != "0":
            raise Failed(f"`{name}` ended with {code}: {inside[-500:]}")
        lines = inside.splitlines()
        mark = "@@ stderr "
        return ([line for line in lines if not line.startswith(mark)],
                [line.removeprefix(mark) for line in lines if line.startswith(mark)])

    def json(self, name):
        """The JSON lines of one command."""
        try:
            return [json.loads(line) for line in self.part(name)[0] if line.startswith("{")]
        except ValueError as error:
            raise Failed(f"`{name}` wrote a line that is no JSON: {error}") from None


def _reconnect():
    """A BMC that is connected before the device is made crashes QEMU; one that reconnects is connected later."""
    major, minor = map(int, re.search(r"version (\d+)\.(\d+)", run("qemu-system-x86_64", "--version")).groups())
    return "reconnect-ms=1000" if (major, minor) >= (9, 2) else "reconnect=1"


def _listens(port):
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[1] == wanted and row[3] == "0A" for row in rows)


def _run_one(name, check):
    try:
        check()
        word, reason = "ok", ""
    except Failed as failed:
        word, reason = "FAILED", f": {failed}"
    except Exception as error:  # a check that stumbles has failed; the others still run
        traceback.print_exc()
        word, reason = "FAILED", f": {type(error).__name__}: {error}"
    print(f"{name:15} {word}{reason} — {check.__doc__}", flush=True)
    return word


def _finish(words):
    passed, failed, skipped = (words.count(word) for word in ("ok", "FAILED", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    sys.exit(1 if failed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent.parent / "target/release/wattribute"
    parser.add_argument("--bin", default=os.environ.get("WATTRIBUTE_BIN", default))
    parser.add_argument("--keep", type=pathlib.Path, help="where console and logs are kept")
    options = parser.parse_args()
    # A signal ends us through every `with`, so that neither QEMU nor the BMC is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binary = pathlib.Path(options.bin).resolve()
    if not os.access(binary, os.X_OK):
        parser.error(f"no binary at {binary}: `make e2e-guest` builds it first")
    try:
        parts = Parts()
    except Unsuitable as why:
        print(f"guest           skipped: {why}")
        _finish(["skipped"])
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="wattribute-guest-"))
    try:
        guest = Guest(parts, binary, scratch)
        print(f"guest           Linux {parts.release}: up in {guest.boot_s:.1f} s, ended after {guest.whole_s:.1f} s")
        guest.part("load")
        checks = Checks(guest)
        names = [name for name in vars(Checks) if not name.startswith("_")]
        words = [_run_one(name, getattr(checks, name)) for name in names]
    except Failed as failed:
        print(f"guest           FAILED: {failed}")
        words = ["FAILED"]
    finally:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copytree(scratch, options.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("initramfs"))
        logs = {name: (scratch / name) for name in ("qemu.stdout", "qemu.stderr", "bmc.stdout", "bmc.stderr")}
        logs = {name: path.read_text(errors="replace") for name, path in logs.items() if path.exists()}
        shutil.rmtree(scratch)
    if "FAILED" in words:
        for name, text in logs.items():
            print(f"---- {name}\n{text}")
    _finish(words)


if __name__ == "__main__":
    main()
