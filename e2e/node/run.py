"""The chart on a real node of this machine: kubelet, containerd and runc, with pods whose names and joules are known.

    e2e/node/run.py [--bin PATH] [--chart PATH] [--keep DIRECTORY] [--otelcol PATH …]

It needs root, cgroup v1 with the CPU controllers, and Debian's packages. Nothing is left running, and what else runs on
the machine is not touched. One line per check, the counts alone on the last line, exit code 1 if anything failed.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # before our own modules: the clone stays as it is
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import node
import packages
from checks import Checks
from process import Failed
from story import Story
from suite import end_on_signals, finish, names_of, run_one

PROGRAMS = ("otelcol", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "helm")


def _programs(options):
    """Those that are given, and those that e2e/components/build.sh has built, or builds now."""
    given = {name: getattr(options, name.replace("-", "_")) for name in PROGRAMS}
    missing = [name for name, path in given.items() if not path]
    if missing:
        built = subprocess.run([HERE.parent / "components/build.sh", *missing], check=True, stdout=subprocess.PIPE,
                               text=True).stdout.split()
        given.update(zip(missing, built, strict=True))
    return {name: pathlib.Path(path).resolve() for name, path in given.items()}


def _all(options, binary, scratch):
    programs = _programs(options)
    packages.tools()
    tree = packages.unpacked(packages.PACKAGES)
    images = packages.images(binary, scratch / "images")
    story = Story(programs, options.chart.resolve(), tree, images, scratch)
    for step in story.steps:
        print(f"                {step}")
    checks = Checks(story)
    return [run_one(name, getattr(checks, name)) for name in names_of(Checks)]


def _keep(scratch, kept):
    shutil.copytree(scratch, kept, symlinks=True, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("run", "var-lib", "etcd", "images"))
    print(f"node            logs are in {kept}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    clone = HERE.parent.parent
    parser.add_argument("--bin", default=os.environ.get("WATTRIBUTE_BIN", clone / "target/release/wattribute"))
    parser.add_argument("--chart", type=pathlib.Path, default=clone / "charts/wattribute")
    parser.add_argument("--keep", type=pathlib.Path, help="where logs and all that was seen are kept")
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", help="default: what e2e/components/build.sh has built, or builds now")
    options = parser.parse_args()
    end_on_signals()
    binary = pathlib.Path(options.bin).resolve()
    if not os.access(binary, os.X_OK):
        parser.error(f"no binary at {binary}: `make e2e-node` builds it first")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="wattribute-node-"))
    words = ["FAILED"]
    try:
        node.check_machine()
        words = _all(options, binary, scratch)
    except node.Unsuitable as why:
        print(f"node            skipped: {why}")
        words = ["skipped"]
    except Failed as failed:
        print(f"node            FAILED: {failed}")
    finally:
        try:
            if options.keep or "FAILED" in words:
                _keep(scratch, options.keep or pathlib.Path(tempfile.mkdtemp(prefix="wattribute-node-failed-")))
        finally:
            shutil.rmtree(scratch)
    finish(words)


if __name__ == "__main__":
    main()
