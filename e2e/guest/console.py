"""How the guests are started, and what they write on their console."""

import json

from process import Failed


def qemu(parts, initramfs, memory, more=""):
    """The command that boots one. It has no disk and no network, and its console is QEMU's stdout."""
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=multi",
        "-cpu", "max", "-smp", "2", "-m", memory, "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", parts.built / "vmlinuz", "-initrd", initramfs,
        "-append", f"console=ttyS0 quiet panic=-1 mitigations=off {more}".strip(),
    ]


class Console:
    """Keeps what stood between the marks."""

    def __init__(self, directory):
        self.directory = directory
        self.console = directory / "qemu.stdout"

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
