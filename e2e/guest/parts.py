"""What the guest is made of: tools, a kernel, modules, a BMC, an ACPI table and the initramfs.

What is downloaded or built is kept outside the clone, in a directory whose name is a hash of what it is made from; it
appears there by one rename, so that an interrupted build leaves nothing that looks finished. The packages of the kernel
and of busybox are only unpacked: nothing of them is installed on the machine.
"""

import contextlib
import hashlib
import lzma
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "wattribute" / "guest"
# The command, or file, that a package is needed for.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "iasl": "acpica-tools",
    "ipmi_sim": "openipmi",
    "/usr/include/OpenIPMI/mcserv.h": "libopenipmi-dev",
    "gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
    "make": "make",
    "/usr/lib/x86_64-linux-gnu/libelf.so.1": "libelf1",  # kbuild's objtool
    "strip": "binutils",
    "/lib/systemd/systemd": "systemd",  # for the guest with pods
}
# Loaded in this order, each after those that it depends on.
MODULES = ["ipmi_devintf", "ipmi_si", "acpi_power_meter"]
KERNEL = re.compile(r"^linux-image-(6\.12\.\S+-amd64) ")


class Unsuitable(Exception):
    """Why the guest cannot be made on this machine at all."""


def say(text):
    print(f"guest: {text}", file=sys.stderr, flush=True)


def run(*argv, seconds=300, **more):
    """Runs a command; if it fails, its output is part of the error."""
    argv = [str(word) for word in argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=seconds, text=True, errors="replace", **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def over_network(*argv, **more):
    """The same up to three times: mirrors fail now and then."""
    for pause in (5, 10, None):
        try:
            return run(*argv, **more)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if pause is None:
                raise
            say(f"{error}\nagain in {pause} s")
            time.sleep(pause)


def as_root(*argv, **more):
    """A command that needs root, by sudo if we are not."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    return over_network(*sudo, *argv, **more)


def settle(made, place):
    """Gives a finished directory its name. If somebody else was faster, theirs is as good."""
    try:
        os.rename(made, place)
    except OSError:
        if not place.is_dir():
            raise


class Parts:
    """Makes sure that everything is there and knows where it is."""

    def __init__(self):
        if platform.machine() != "x86_64" or not shutil.which("apt-get"):
            raise Unsuitable("it needs an x86-64 machine with Debian's packages")
        CACHE.mkdir(parents=True, exist_ok=True)
        self._updated = False
        self._tools()
        sources = b"".join((HERE / name).read_bytes() for name in ("zones.c", "meter.dsl", "dcmi.c", "parts.py"))
        self.built = CACHE / f"built-{hashlib.sha256(sources).hexdigest()[:16]}"
        if not (self.built / "release").exists():
            self._build()
        self.release = (self.built / "release").read_text()

    def _update(self):
        if not self._updated:
            as_root("apt-get", "-o", "DPkg::Lock::Timeout=120", "update", "-q")
            self._updated = True

    def _tools(self):
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        os.environ["PATH"] = path
        missing = [package for what, package in TOOLS.items() if not (shutil.which(what) or os.path.exists(what))]
        if missing:
            say(f"installing {' '.join(missing)}")
            self._update()
            as_root("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120", "install",
                    "-qy", "--no-install-recommends", *missing, seconds=900)

    def _unpacked(self, packages):
        """A directory with the files of these packages, which are not installed."""
        directory = CACHE / f"packages-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:16]}"
        if not directory.exists():
            say(f"downloading {' '.join(packages)}")
            self._update()
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                os.chmod(work, 0o755)  # apt may download as a user of its own
                over_network("apt-get", "download", "-q", *packages, cwd=work, seconds=900)
                for package in pathlib.Path(work).glob("*.deb"):
                    run("dpkg-deb", "-x", package, f"{work}/tree")
                settle(f"{work}/tree", directory)
            # They are needed only while something is built, and those of an older kernel never again.
            for old in set(CACHE.glob("packages-*")) - {directory}:
                shutil.rmtree(old, ignore_errors=True)
        return directory

    def _newest_kernel(self):
        self._update()
        names = run("apt-cache", "search", "--names-only", r"^linux-image-6\.12\.").splitlines()
        releases = [match[1] for match in map(KERNEL.match, names) if match and "cloud" not in match[1]
                    and "rt" not in match[1]]
        if not releases:
            raise Unsuitable("there is no package of Linux 6.12 for amd64")
        return max(releases, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])

    def _build(self):
        release = self._newest_kernel()
        base = release.removesuffix("-amd64")
        tree = self._unpacked([f"linux-image-{release}", f"linux-headers-{release}", f"linux-headers-{base}-common",
                               f"linux-kbuild-{base}", "busybox-static"])
        say(f"building for Linux {release}")
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            made = pathlib.Path(work) / "made"
            (made / "modules").mkdir(parents=True)
            shutil.copy(tree / "boot" / f"vmlinuz-{release}", made / "vmlinuz")
            shutil.copy(next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.exists()), made)
            order = []
            for name in MODULES:
                self._copy_module(tree, release, name, made / "modules", order)
            (made / "modules/list").write_text("".join(f"{name}\n" for name in order))
            self._build_zones(tree / "usr/src", release, base, pathlib.Path(work))
            shutil.copy(pathlib.Path(work) / "zones.ko", made / "modules")
            run("iasl", "-p", made / "meter", HERE / "meter.dsl")
            run("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", made / "dcmi.so",
                HERE / "dcmi.c")
            (made / "release").write_text(release)
            settle(made, self.built)

    def _copy_module(self, tree, release, name, target, order):
        """Copies a module of the kernel, and first those that it needs; `order` is how they are to be loaded."""
        if name in order:
            return
        # A file's name has `-` where the module's has `_`, or not.
        pattern = name.replace("_", "[-_]") + ".ko*"
        places = (tree / place / "modules" / release for place in ("lib", "usr/lib"))
        found = next(path for place in places for path in place.rglob(pattern))
        plain = lzma.open(found).read() if found.suffix == ".xz" else found.read_bytes()
        for needed in re.search(rb"\0depends=([^\0]*)", plain)[1].decode().split(","):
            if needed:
                self._copy_module(tree, release, needed, target, order)
        (target / f"{name}.ko").write_bytes(plain)
        order.append(name)

    @staticmethod
    def _build_zones(sources, release, base, work):
        headers = sources / f"linux-headers-{release}"
        # The package names where it would be installed; and without the kernel's types no tool for them is needed.
        (headers / "Makefile").write_text(f"include {sources}/linux-headers-{base}-common/Makefile\n")
        (headers / "vmlinux").unlink(missing_ok=True)
        shutil.copy(HERE / "zones.c", work)
        (work / "Makefile").write_text("obj-m := zones.o\n")
        run("make", "-C", headers, f"M={work}", "modules")

    def initramfs(self, path, binary, watts, seconds):
        """Writes the initial file system: busybox, the agent with its libraries, the modules, and `init`."""
        with self.root(path, watts) as root:
            put_program(root, binary, "bin/wattribute")
            for module in (self.built / "modules").iterdir():
                if module.name not in ("list", "zones.ko"):
                    shutil.copy(module, root / "modules")
            (root / "modules/list").write_text((self.built / "modules/list").read_text()
                                               + (root / "modules/list").read_text())
            (root / "seconds").write_text(str(seconds))
            put_script(root, HERE / "init", "init")

    @contextlib.contextmanager
    def root(self, path, watts):
        """What every guest has: busybox, accounts, the powercap zones. At the end all of it is packed into `path`."""
        with tempfile.TemporaryDirectory() as work:
            root = pathlib.Path(work)
            root.chmod(0o755)  # it becomes the guest's `/`
            for directory in ("bin", "modules", "etc"):
                (root / directory).mkdir()
            shutil.copy(self.built / "busybox", root / "bin")
            shutil.copy(self.built / "modules/zones.ko", root / "modules")
            (root / "modules/list").write_text(f"zones watts={','.join(map(str, watts))}\n")
            (root / "etc/passwd").write_text("root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n")
            (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
            put_script(root, HERE / "part", "part")
            yield root
            with path.open("wb") as archive:
                names = subprocess.run(["find", "."], cwd=root, check=True, stdout=subprocess.PIPE).stdout
                subprocess.run([self.built / "busybox", "cpio", "-o", "-H", "newc"], cwd=root, check=True, input=names,
                               stdout=archive, stderr=subprocess.DEVNULL)


def put_program(root, binary, inside, *search):
    """Copies a program, without its symbols, and the libraries and the loader that it needs."""
    target = root / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    run("strip", "-o", target, binary)
    listed = run("ldd", binary, env={**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, search))})
    if "not found" in listed:
        raise RuntimeError(f"libraries of {binary} are missing:\n{listed}")
    for library in re.findall(r"(/\S+) \(0x", listed):
        copy = root / library.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copy(library, copy)


def put_script(root, script, inside):
    shutil.copy(script, root / inside)
    (root / inside).chmod(0o755)
