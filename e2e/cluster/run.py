"""The agent against a real etcd and kube-apiserver with RBAC on, a fake machine with pods, and the real Collector.

    e2e/cluster/run.py [--bin PATH] [--jobs N] [TEST…]

Each test has a cluster of its own on loopback. Pods are written through the API, their cgroups by node.py. One line per
test, the counts alone on the last line, exit code 1 if anything failed. A failed test leaves its output behind.
"""

import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # before our own modules: the clone stays as it is
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[1:1] = [str(HERE.parent), str(HERE.parent / "chart")]

from suite import end_on_signals, finish, names_of, refuse_unknown, run_one
from tests import Tests

Parts = collections.namedtuple("Parts", "binary otelcol kube_apiserver etcd helm chart deploy otel_config")
COMPONENTS = {"kube_apiserver": "kube-apiserver", "etcd": "etcd", "helm": "helm"}


def _here(parts, names):
    """One test after another in this process; the counts of how they ended."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="wattribute-cluster-"))
    tests = Tests(parts, scratch)
    words = collections.Counter(run_one(name, getattr(tests, name), scratch) for name in names)
    if not words["FAILED"]:
        shutil.rmtree(scratch)
    return words


def _side_by_side(argv, names, jobs):
    """Each test in a process of its own, `jobs` at a time; prints what they print, one test after another."""
    words, waiting, running = collections.Counter(), list(names), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                output = tempfile.TemporaryFile("w+")
                child = subprocess.Popen([*argv, name], stdout=output, stderr=subprocess.STDOUT)
                running[name] = child, output
            for name in [name for name, (child, _) in running.items() if child.poll() is not None]:
                _, output = running.pop(name)
                output.seek(0)
                *lines, counts = output.read().splitlines() or [""]
                output.close()
                print("\n".join(lines), flush=True)
                found = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", counts)
                amounts = map(int, found.groups()) if found else (0, 1, 0)
                words.update(dict(zip(("ok", "FAILED", "skipped"), amounts, strict=True)))
            time.sleep(0.2)
    finally:
        for child, _ in running.values():
            child.terminate()
        for child, _ in running.values():
            child.wait()
    return words


def _parts(options):
    paths = {}
    for key, component in COMPONENTS.items():
        given = getattr(options, key)
        paths[key] = given or _build([HERE.parent / "components/build.sh", component])
    paths["otelcol"] = options.otelcol or _build([HERE.parent / "components/build.sh", "otelcol"])
    return Parts(binary=pathlib.Path(options.bin).resolve(), chart=pathlib.Path(options.chart).resolve(),
                 deploy=pathlib.Path(options.deploy).resolve(),
                 otel_config=pathlib.Path(options.otel_config).resolve(), **paths)


def _build(argv):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("WATTRIBUTE_BIN", ROOT / "target/release/wattribute"))
    for each in (*COMPONENTS.values(), "otelcol"):
        parser.add_argument(f"--{each}", help="default: what e2e/components/build.sh has built, or builds now")
    parser.add_argument("--chart", default=ROOT / "charts/wattribute")
    parser.add_argument("--deploy", default=ROOT / "deploy", help="directory of the plain manifests")
    parser.add_argument("--otel-config", default=ROOT / "otel-config")
    parser.add_argument("--jobs", type=int, default=3, help="tests at a time (default 3)")
    names = names_of(Tests)
    parser.add_argument("tests", nargs="*", metavar="TEST")
    options = parser.parse_args()
    end_on_signals()
    refuse_unknown(parser, "test", options.tests, names)
    if not os.access(options.bin, os.X_OK):
        parser.error(f"no binary at {options.bin}: `make build` builds it first")
    parts = _parts(options)
    chosen = options.tests or names
    if len(chosen) == 1:
        words = _here(parts, chosen)
    else:
        argv = [sys.executable, __file__, "--bin", parts.binary]
        for each in Parts._fields[1:]:
            argv += [f"--{each.replace('_', '-')}", getattr(parts, each)]
        words = _side_by_side([str(each) for each in argv], chosen, options.jobs)
    finish(words.elements())


if __name__ == "__main__":
    main()
