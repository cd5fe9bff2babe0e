"""The chart and the plain manifests as objects: rendered by the real Helm and given to the API server."""

import subprocess

from process import Failed
from pyyaml import load_all


def render(helm, chart, release, namespace, values=None):
    """What `helm template` makes of the chart, with a file of values or without."""
    argv = [helm, "template", release, chart, "--namespace", namespace]
    if values:
        argv += ["--values", values]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Failed(f"helm template: {done.stderr.strip()}")
    return load_all(done.stdout)


class Unknown(Exception):
    """A kind that the API server does not have, such as one of a CustomResourceDefinition."""


class Applier:
    """Creates objects of any kind that the API server knows."""

    def __init__(self, client):
        self._client = client
        self._kinds = {}  # apiVersion -> kind -> (plural, namespaced)

    def path(self, body, namespace):
        """Where such an object is created; the default namespace is the release's."""
        version = body["apiVersion"]
        root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        if version not in self._kinds:
            status, answer = self._client.call("GET", root)
            known = answer["resources"] if status == 200 else []
            self._kinds[version] = {each["kind"]: (each["name"], each["namespaced"])
                                    for each in known if "/" not in each["name"]}
        if body["kind"] not in self._kinds[version]:
            raise Unknown(f"{version} {body['kind']}")
        plural, namespaced = self._kinds[version][body["kind"]]
        if not namespaced:
            return f"{root}/{plural}"
        return f"{root}/namespaces/{body['metadata'].get('namespace', namespace)}/{plural}"

    def create(self, body, namespace, dry_run=False):
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self._client.create(self.path(body, namespace) + query, body)
