"""What happens on the node, once, from the first process to the last; what was seen is kept for the checks.

The agent comes by its chart. Some pods are there before it, others come after it, most are deleted while they run,
and at last the agent itself goes.
"""

import calendar
import contextlib
import json
import os
import pathlib
import re
import subprocess
import time

import control
import node
import packages
import pods
from books import _attributes, _points
from process import MINIMAL, Failed, Process, wait_until

RELEASE, HOME, CLUSTER = "wattribute", "power", "e2e"
PATIENCE = "--wait", "--timeout=60s"
COMPARED_S = 45
INTERVAL_S = 5  # between two pushes
PORT = 4317  # the chart's default endpoint is http://$(HOST_IP):4317
VALUES = {
    "image": {"repository": packages.AGENT.rsplit(":", 1)[0], "tag": packages.AGENT.rsplit(":", 1)[1],
              "pullPolicy": "Never"},
    "kubernetes": {"clusterName": CLUSTER, "podLabels": list(pods.LABELS), "podAnnotations": list(pods.ANNOTATIONS)},
    "config": {"interval": "1s", "export": {"stdout": {"enabled": True, "format": "json"},
                                            "otlp": {"interval": f"{INTERVAL_S}s"}}},
}


class Log:
    """What a container writes, from the kubelet's file. It stays open, so that it can be read when the pod is gone."""

    def __init__(self, path):
        self._file = path.open(encoding="utf-8", errors="replace")

    def lines(self, stream):
        """Every complete line of `stdout` or `stderr`, with the time at which it was written."""
        self._file.seek(0)
        found, parts = [], []
        for line in self._file:
            when, from_stream, tag, text = line.rstrip("\n").split(" ", 3)
            if from_stream != stream:
                continue
            parts.append(text)
            if tag == "F":  # P: the runtime has cut a long line here
                found.append((_seconds(when), "".join(parts)))
                parts = []
        return found


def _seconds(text):
    """2026-01-02T03:04:05.678901234Z, in seconds since 1970."""
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + text[19:-1])


class Kubelet:
    """Its own figures; every question is counted, so that those of others stand out."""

    _SAMPLE = re.compile(r'(?:container|pod)_cpu_usage_seconds_total'
                         r'\{(?:container="(.*?)",)?namespace="(.*?)",pod="(.*?)"\} (\S+) (\d+)')

    def __init__(self, api):
        self._api, self.asked = api, 0

    def _text(self, path):
        self.asked += 1
        return self._api.text(path)

    def cpu(self):
        """(namespace, pod, container; the pod itself: "") -> time of the reading, CPU seconds."""
        return {(namespace, pod, container): (int(when) / 1e3, float(value)) for container, namespace, pod, value, when
                in self._SAMPLE.findall(self._text("/metrics/resource"))}

    def requests(self):
        """How many requests it says that it had, with this one."""
        counts = re.findall(r"^kubelet_http_requests_total\{.*\} (\S+)$", self._text("/metrics"), re.M)
        return int(sum(map(float, counts)))


class Collector(Process):
    """Listens where the chart's default endpoint looks for it."""

    def __init__(self, program, directory):
        self.received = directory / "pushes.jsonl"
        moved = {"receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"{control.HOST_IP}:{PORT}"}}}},
                 "exporters": {"file": {"path": str(self.received)}}}
        argv = [program, "--config", MINIMAL, "--config", "yaml:" + json.dumps(moved)]
        super().__init__("collector", argv, directory, control.LIMIT_S)

    def _pushes(self):
        """How many came with energy: what the agent tells of itself comes beside them."""
        return self.received.read_bytes().count(b'"wattribute.node.energy"') if self.received.exists() else 0

    def pushes_more(self, count):
        wanted = self._pushes() + count
        wait_until(f"{count} more pushes", lambda: self.must_run() and self._pushes() >= wanted,
                   count * INTERVAL_S + 20)


class Story:
    """Runs it. The processes and the node are gone when this returns."""

    def __init__(self, programs, chart, tree, images, directory):
        self.programs, self.chart, self.directory = programs, chart, directory
        self.pods = {}  # uid -> the last that the API said of a pod while it was there
        self.steps = []
        self._started = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(node.Namespaces(directory / "host"))
            cgroup = stack.enter_context(node.Cgroup())
            self.api = control.start(stack, programs, directory / "control")
            self._ctr = node.start_containerd(stack, tree, images, directory / "containerd")
            kubelet = node.start_kubelet(stack, programs["kubelet"], cgroup.name, directory / "kubelet", self.api)
            self._step("the Node is ready")
            self.node = self.api.get(f"/api/v1/nodes/{control.NODE}")
            self.cluster_uid = self.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
            self._run(Kubelet(kubelet))
        self._step("everything has ended")

    def _step(self, what):
        self.steps.append(f"{time.monotonic() - self._started:6.1f} s  {what}")

    def _run(self, kubelet):
        with self._collector("collector") as collector:
            self._before_the_agent()
            self._install(VALUES)
            self._look_at_the_agent()
            self._after_the_agent()
            self._compare(kubelet)
            self._delete()
            collector.pushes_more(3)
            self._step("what was deleted has been delivered")
            self._helm("uninstall", RELEASE, *PATIENCE)
            collector.stop()
        self.received = collector.received
        self.foreign_requests = kubelet.requests() - kubelet.asked
        self._step("the agent is gone")
        before = len(self.requests())
        with self._collector("nameless") as collector:
            self._install({**VALUES, "kubernetes": {"enabled": False}})
            self.nameless_agent, = self.api.get(f"/api/v1/namespaces/{HOME}/pods")["items"]
            collector.pushes_more(3)
            self.requests_when_nameless = len(self.requests()) - before
            self._helm("uninstall", RELEASE, *PATIENCE)
            collector.stop()
        self.nameless = collector.received
        self._step("the chart came and went once more, without Kubernetes")

    # Before and after

    def _before_the_agent(self):
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pods.NAMESPACE}})
        wait_until("the namespace's account", lambda: self.api.answers(
            f"/api/v1/namespaces/{pods.NAMESPACE}/serviceaccounts/default"), 30)
        pods.write_static()
        self.api.create(pods.deployment())
        self._running({"web": 2, pods.STATIC: 1})
        self._step("a Deployment and a static pod run")

    def _install(self, values):
        path = self.directory / "values.json"
        path.write_text(json.dumps(values))
        self._helm("install", RELEASE, self.chart, "--create-namespace", f"--values={path}", *PATIENCE)

    def _look_at_the_agent(self):
        agent, = self.api.get(f"/api/v1/namespaces/{HOME}/pods")["items"]
        self.agent = agent
        name, uid = agent["metadata"]["name"], agent["metadata"]["uid"]
        container, = agent["status"]["containerStatuses"]
        self.log = Log(pathlib.Path(f"/var/log/pods/{HOME}_{name}_{uid}/{container['name']}/0.log"))
        wait_until("two ticks of the agent", lambda: len(self.log.lines("stdout")) >= 2, 20)
        self.process = self._process_of(container["containerID"].split("//")[1])
        self._step("the chart is installed, the agent ticks")

    @staticmethod
    def _process_of(container):
        """What the kernel says of the first process of a container."""
        for status in pathlib.Path("/proc").glob("[0-9]*/cgroup"):
            with contextlib.suppress(OSError):
                if container in status.read_text():
                    lines = (status.parent / "status").read_text().splitlines()
                    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        raise Failed(f"no process of {container}")

    def _after_the_agent(self):
        for each in pods.others():
            self.api.create(each)
        self._running({app: 1 for app in ("store", "each", "two-step")})
        self._step("a StatefulSet, a DaemonSet and a pod with an init container run")

    def _compare(self, kubelet):
        """The kubelet's figures at two times; meanwhile a minute begins, and with it a Job."""
        # It reads each some seconds apart, and tells when: the first figures are to be from after the agent's start.
        begin, _ = self.log.lines("stdout")[1]
        lasting = [each for each in [*self._list(), self.agent] if each["metadata"]["labels"].get("app") != "nightly"]
        count = sum(1 + len(each["spec"]["containers"]) for each in lasting)
        self.cpu = []

        def all_later():
            figures = kubelet.cpu()
            if len(figures) < count or min(when for when, _ in figures.values()) < begin:
                time.sleep(1)
                return False
            return self.cpu.append(figures) or True

        wait_until("the kubelet to have read all", all_later, 40)
        end = time.monotonic() + COMPARED_S
        wait_until("a Job of the CronJob to end", lambda: self._seen("nightly", "Succeeded"), 60 + pods.JOB_S + 15)
        self.api.text(f"/apis/batch/v1/namespaces/{pods.NAMESPACE}/cronjobs/nightly", "PATCH",
                      {"spec": {"suspend": True}}, "application/merge-patch+json")
        time.sleep(max(0, end - time.monotonic()))
        self.cpu.append(kubelet.cpu())
        self._step("a Job came and went, the kubelet was asked twice for its figures")

    def _delete(self):
        self._list()
        kind = 'labels."io.cri-containerd.kind"==sandbox'
        self.sandboxes = set(node.run(*self._ctr, "containers", "list", "-q", kind).split())
        inside = f"namespaces/{pods.NAMESPACE}"
        for path in (f"/apis/batch/v1/{inside}/cronjobs/nightly", f"/apis/apps/v1/{inside}/deployments/web",
                     f"/apis/apps/v1/{inside}/statefulsets/store", f"/api/v1/{inside}/pods/two-step"):
            self.api.text(path, "DELETE", {"propagationPolicy": "Background"})
        pods.remove_static()
        # The DaemonSet stays, so that there are living pods beside those that have ended.
        wait_until("the pods to end", lambda: all(each["metadata"]["name"].startswith("each") for each in self._list()),
                   60)
        self._step("all but the DaemonSet were deleted while they ran")

    # What is asked again and again

    def _list(self):
        items = self.api.get(f"/api/v1/namespaces/{pods.NAMESPACE}/pods")["items"]
        self.pods.update({each["metadata"]["uid"]: each for each in items
                          if "deletionTimestamp" not in each["metadata"]})
        return items

    def _seen(self, app, phase):
        return any(each["metadata"]["name"].startswith(app) and each["status"]["phase"] == phase
                   for each in self._list())

    def _running(self, wanted):
        def all_run():
            ready = [each["metadata"]["name"] for each in self._list() if each["status"]["phase"] == "Running"
                     and all(container["ready"] for container in each["status"].get("containerStatuses", []))]
            return all(sum(name.startswith(app) for name in ready) == count for app, count in wanted.items())

        wait_until(f"these pods to run: {', '.join(wanted)}", all_run, 60)

    def _helm(self, *argv):
        homes = {name: str(self.directory / "helm")
                 for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        kubeconfig = str(self.directory / "control/admin.kubeconfig")
        done = subprocess.run([self.programs["helm"], *argv, f"--namespace={HOME}"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
                              env={**os.environ, **homes, "KUBECONFIG": kubeconfig})
        if done.returncode:
            raise Failed(f"helm {argv[0]}: {done.stdout.strip()[-800:]}")

    def requests(self):
        """What the agent asked the API server: one event each."""
        events = map(json.loads, (self.directory / "control/audit.jsonl").read_text().splitlines())
        # A watch is written down when it begins and when it ends.
        return [each for each in events if each["user"]["username"].startswith(f"system:serviceaccount:{HOME}:")
                and (each["verb"] != "watch" or each["stage"] == "ResponseStarted")]

    def points(self):
        """Every point that came: Resource, metric, attributes, and the point itself."""
        for line in self.received.read_text().splitlines():
            for resource, metric, point in _points(json.loads(line)):
                yield resource, metric["name"], _attributes(point), point

    def _collector(self, name):
        directory = self.directory / name
        directory.mkdir()
        return Collector(self.programs["otelcol"], directory)
