"""What the node is made of beside Kubernetes: containerd, runc, network plugins, and images that are written here.

The Debian packages are only unpacked, in a directory outside the clone whose name is a hash of theirs and of their
versions: nothing is installed.
"""

import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile

from images import program, write_image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "guest"))
from parts import as_root, over_network, run, settle  # noqa: E402 (the guest's: how packages are fetched and unpacked)

PACKAGES = ["containerd", "runc", "containernetworking-plugins"]
TOOLS = {
    "ip": "iproute2",
    "gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
    "openssl": "openssl",
    "/usr/lib/x86_64-linux-gnu/libseccomp.so.2": "libseccomp2",  # runc is linked to it
}
# No registry is asked: a name that no registry could resolve shows it.
BURN, PAUSE, AGENT = (f"images.invalid/wattribute-e2e/{name}" for name in ("burn:1", "pause:1", "agent:e2e"))


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("WATTRIBUTE_CACHE") or pathlib.Path(base) / "wattribute")


def say(text):
    print(f"node: {text}", file=sys.stderr, flush=True)


def tools():
    missing = [package for what, package in TOOLS.items() if not (shutil.which(what) or os.path.exists(what))]
    if missing:
        say(f"installing {' '.join(missing)}")
        _update()
        as_root("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-qy",
                "--no-install-recommends", *missing, seconds=900)


def unpacked(packages):
    """The directory with the files of these packages. Their versions are those that this release of Debian has now."""
    candidates = {name: _candidate(name) for name in packages}
    if None in candidates.values():
        _update()
        candidates = {name: _candidate(name) for name in packages}
    wanted = [f"{name}={version}" for name, version in candidates.items()]
    directory = cache() / "node" / f"packages-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:16]}"
    if not directory.exists():
        say(f"downloading {' '.join(wanted)}")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as work:
            os.chmod(work, 0o755)  # apt may download as a user of its own
            over_network("apt-get", "download", "-q", *wanted, cwd=work, seconds=600)
            for package in pathlib.Path(work).glob("*.deb"):
                run("dpkg-deb", "-x", package, f"{work}/tree")
            settle(f"{work}/tree", directory)
    return directory


def _candidate(name):
    found = re.search(r"Candidate: (\d\S*)", run("apt-cache", "policy", name))
    return found and found[1]


def _update():
    as_root("apt-get", "-o", "DPkg::Lock::Timeout=120", "update", "-q")


def write_burn(directory):
    """Writes burn.tar and pause.tar, which are one program."""
    run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", directory / "burn", HERE / "burn.c")
    for name, image, entrypoint in (("burn", BURN, ["/bin/burn"]), ("pause", PAUSE, ["/bin/burn", "0"])):
        write_image(directory / f"{name}.tar", image, {"/bin/burn": directory / "burn"}, entrypoint)


def images(binary, directory):
    """Writes all images to `directory` and returns their paths."""
    directory.mkdir()
    write_burn(directory)
    write_image(directory / "agent.tar", AGENT, program(binary, "/bin/wattribute"), ["/bin/wattribute"])
    return sorted(directory.glob("*.tar"))
