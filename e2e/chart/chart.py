"""The chart as Helm renders it: values in, objects out, and what changed between two renderings."""

import json
import pathlib
import subprocess
import tempfile

from process import Failed
from pyyaml import load_all

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "wattribute"
EXAMPLES = CHART / "examples"
PLAIN = ROOT / "deploy" / "kubernetes.yaml"
# Fixed, so that a newer Helm, which assumes a newer cluster, renders the same.
KUBE_VERSION = "1.33.0"
PLAIN_HEAD = """\
# The chart with its defaults, for those who use no Helm: kubectl apply -f deploy/kubernetes.yaml
# Made by `e2e/chart/check.py --bless`; do not edit. Needs Kubernetes 1.31 or newer, a Collector on every node that
# listens on hostPort 4317, and an image `wattribute` (see Dockerfile). charts/wattribute has the choices.
---
apiVersion: v1
kind: Namespace
metadata:
  name: wattribute
  labels:
    # hostPath volumes are refused below this level.
    pod-security.kubernetes.io/enforce: privileged
"""


class Refused(Failed):
    """What Helm said when it would not render."""


class Helm:
    """Helm, and the chart rendered with it."""

    def __init__(self, program):
        self.program = program

    def run(self, *arguments):
        """What Helm prints; Refused if it fails."""
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Refused(done.stderr.strip() + done.stdout.strip())
        return done.stdout

    def with_values(self, values, *arguments):
        """Runs Helm with values, a dictionary or the path of a file."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(values.read_text() if isinstance(values, pathlib.Path) else json.dumps(values))
            file.flush()
            return self.run(*arguments, "--values", file.name)

    def template(self, values=None, kube_version=KUBE_VERSION):
        """The rendered chart as text, without blank lines: their number differs between versions of Helm."""
        text = self.with_values(values or {}, "template", "wattribute", str(CHART), "--namespace", "wattribute",
                                "--kube-version", kube_version)
        return "".join(line for line in text.splitlines(True) if line.strip())

    def objects(self, values=None, kube_version=KUBE_VERSION):
        """The rendered objects by kind; no kind comes twice."""
        documents = load_all(self.template(values, kube_version))
        by_kind = {document["kind"]: document for document in documents}
        assert len(by_kind) == len(documents), "two objects of a kind"
        return by_kind

    def plain(self):
        """The manifests for those who use no Helm: its own labels would be a lie there."""
        lines = self.template().splitlines(True)
        helm = ("helm.sh/chart: ", "app.kubernetes.io/managed-by: ", "# Source: ")
        return PLAIN_HEAD + "".join(line for line in lines if not line.strip().startswith(helm))


def container(objects):
    """The agent's container."""
    (only,) = objects["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return only


def config_of(objects):
    """The agent's configuration."""
    (config,) = load_all(objects["ConfigMap"]["data"]["config.yaml"])
    return config


def changes(before, after):
    """What differs between two renderings, as {path: (old, new)}; None where there is nothing. The configuration is
    looked into, and its checksum is left out where it moved together with the configuration, as it must."""
    old, new = _flat(before), _flat(after)
    found = {path: (old.get(path), new.get(path)) for path in {**old, **new} if old.get(path) != new.get(path)}
    checksum = "DaemonSet.spec.template.metadata.annotations.checksum/config"
    moved = any(path.startswith("config.") for path in found)
    if moved != (checksum in found):
        raise AssertionError(f"the checksum {'does not follow' if moved else 'moved without'} the configuration")
    found.pop(checksum, None)
    return found


def _flat(objects):
    flat = {}

    def walk(path, value):
        if isinstance(value, dict) and value:
            for key, below in value.items():
                walk(f"{path}.{key}", below)
        elif isinstance(value, list) and value:
            for index, below in enumerate(value):
                walk(f"{path}[{below.get('name', index) if isinstance(below, dict) else index}]", below)
        else:
            flat[path] = value

    for kind, document in objects.items():
        if kind == "ConfigMap":
            walk("config", config_of(objects))
            document = {key: value for key, value in document.items() if key != "data"}
        walk(kind, document)
    return flat
