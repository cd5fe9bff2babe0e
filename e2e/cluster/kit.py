"""What most tests need: one node with its pods, its agent and its Collector, and what that has written."""

import collections
import contextlib
import json
import os
import secrets
import shlex

import objects
from books import WORKLOAD_METRIC, Books, require
from node import Node
from process import Collector, Process, free_ports, wait_until

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # fixed by Kubernetes
CLUSTER_NAME = "lab"


def in_pod(argv, account):
    """A command that sees a service account as a pod does. It runs in a mount namespace of its own, and by exec
    throughout, so that our pid is its."""
    inside = f"mount -t tmpfs none /run && mkdir -p {MOUNT} && mount --bind {account} {MOUNT} && exec "
    return ["unshare", "--mount", "sh", "-ec", inside + shlex.join(map(str, argv))]


def clean_environment(directory, more=()):
    """Nothing of our own environment but what a program needs to be found."""
    keep = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    return {**keep, "HOME": str(directory), **dict(more)}


class Agent(Process):
    """`wattribute run`; in a pod (as it sees it) with `account`, a directory."""

    def __init__(self, binary, directory, settings, environment=(), account=None, limit_s=240):
        argv = [binary, "run"]
        for key, value in settings.items():
            argv += ["--set", f"{key}={value}"]
        argv = in_pod(argv, account) if account else argv
        super().__init__("wattribute", argv, directory, limit_s, env=clean_environment(directory, environment))

    def said(self, word, level="warning"):
        """What stderr says of Kubernetes with this word in it: troubles, or with `info` that they are over."""
        mine = [line for line in self.lines("stderr") if f"{level}: kubernetes: " in line]
        return [line for line in mine if word in line]

    def rss_kb(self):
        with open(f"/proc/{self.child.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    def ticks(self):
        return len(self.lines("stdout"))


class Gateway(Process):
    """The Collector with otel-config/gateway.yaml in a pod (as it sees it); what it hands on goes to a file instead."""

    def __init__(self, binary, directory, config, account, cluster):
        self.grpc, http, health = free_ports(3)
        self.pushes = directory / "pushes.jsonl"
        endpoints = {"grpc": {"endpoint": f"127.0.0.1:{self.grpc}"}, "http": {"endpoint": f"127.0.0.1:{http}"}}
        moved = {
            "receivers": {"otlp": {"protocols": endpoints}},
            "extensions": {"health_check": {"endpoint": f"127.0.0.1:{health}"}},
            "exporters": {"file": {"path": str(self.pushes)}},
            "service": {"pipelines": {"metrics": {"exporters": ["file"]}}, "telemetry": {"metrics": {"level": "none"}}},
        }
        argv = in_pod([binary, "--config", config, "--config", "yaml:" + json.dumps(moved)], account)
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port)}
        super().__init__("gateway", argv, directory, 240, env=clean_environment(directory, environment))


class Stage:
    """One node: a Node object, a fake machine of another host name, a Collector, and an agent once it is started."""

    def __init__(self, parts, directory, cluster, node_name, driver="cgroupfs", version=2, receiver=None):
        self._parts, self.directory, self._cluster = parts, directory, cluster
        self.node_name = node_name
        self.client = cluster.admin
        self.node_object = self.client.create("/api/v1/nodes", objects.node(node_name, "another-name"))
        self._stack = contextlib.ExitStack()
        self._driver, self._version = driver, version
        self._receiver = receiver or (lambda directory: Collector(parts.otelcol, directory))
        self.agent = None
        self.pods = []

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.node = stack.enter_context(Node(self.directory / "machine", self._driver, self._version))
            self.collector = stack.enter_context(self._receiver(self.directory))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    @property
    def settings(self):
        """What every agent on this node is told."""
        return {**self.node.settings, "interval": "1s", "export.otlp.interval": "1s",
                "kubernetes.node_name": self.node_name, "kubernetes.cluster_name": CLUSTER_NAME}

    def start_agent(self, settings, environment=(), account=None):
        everything = {**self.settings, "export.stdout.format": "json",
                      "export.otlp.endpoint": f"http://127.0.0.1:{self.collector.grpc}", **settings}
        self.agent = self._stack.enter_context(
            Agent(self._parts.binary, self.directory, everything, environment, account))
        return self.agent

    def pod(self, body, cgroup_uid=None, qos="Burstable"):
        made = Pod(self, body, cgroup_uid, qos)
        self.pods.append(made)
        return made

    def wait_ticks(self, count):
        """Waits until the agent has made so many more ticks."""
        target = self.agent.ticks() + count
        wait_until(f"{count} more ticks", lambda: self.agent.must_run() and self.agent.ticks() >= target,
                   30 + 4 * count)

    def wait_name(self, key, value, wanted, seconds):
        """Waits until the newest Resource of a container or pod has these attributes."""
        kind = "container" if key == "container.id" else "pod"

        def named():
            self.agent.must_run()
            found = Pushes(self.collector.pushes).resources(kind, key, value)
            return found and wanted.items() <= found[-1].items()

        wait_until(f"{kind} {value[:12]} to be called {wanted}", named, seconds)

    def finish(self):
        """Ends agent and Collector, checks what always holds; the books, and what the Collector has written."""
        self.agent.stop()
        self.collector.stop()
        books, pushes = Books(self.agent.lines("stdout")), Pushes(self.collector.pushes)
        books.check()
        pushes.check_identity()
        pushes.check_delivery(books, {each.cgroup_uid: each.uid for each in self.pods})
        return books, pushes


class Pod:
    """A pod in the API and on the node. `ids` has every id that each container had, the newest last."""

    def __init__(self, stage, body, cgroup_uid, qos):
        self._stage = stage
        self.path = f"{objects.path_of(body)}/{body['metadata']['name']}"
        self.object = stage.client.create(objects.path_of(body), body)
        self.uid = self.object["metadata"]["uid"]
        self.cgroup_uid = cgroup_uid or self.uid
        self.ids, self._running, self._ephemeral = {}, set(), []
        self._qos, self._placed = qos, False

    def start(self, name, cpus=0.1, say=True):
        """Starts a container (again); the API hears of its id at once, or with the next `say()`."""
        self.ids.setdefault(name, []).append(secrets.token_hex(32))
        self._running.add(name)
        self.run(self.ids[name][-1], cpus)
        if say:
            self.say()
        return self.ids[name][-1]

    def run(self, container_id, cpus=0.1):
        """Only the cgroups: for a container that the API hears of before or after, or never."""
        if not self._placed:
            self._stage.node.add_pod(self.cgroup_uid, self._qos)
            self._placed = True
        self._stage.node.start(self.cgroup_uid, container_id, cpus)
        return container_id

    def adopt(self, name, container_id):
        """A container that the machine had before the API knew of the pod."""
        self.ids[name], self._placed = [container_id], True
        self._running.add(name)
        self.say()

    def promise(self, name):
        """A container that the API knows as running, before the machine has it."""
        self.ids.setdefault(name, []).append(secrets.token_hex(32))
        self._running.add(name)
        self.say()
        return self.ids[name][-1]

    def end(self, *names, say=True):
        for name in names:
            self._running.discard(name)
            self._stage.node.end(self.ids[name][-1])
        if say:
            self.say()

    def add_ephemeral(self, name, image):
        self._ephemeral.append({"name": name, "image": image, "terminationMessagePolicy": "File",
                                "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log"})
        self._stage.client.patch(f"{self.path}/ephemeralcontainers", {"spec": {"ephemeralContainers": self._ephemeral}},
                                 "application/strategic-merge-patch+json")

    def say(self, phase="Running"):
        """Tells the API what the kubelet would."""
        spec = self.object["spec"]
        lists = {"containerStatuses": spec["containers"], "initContainerStatuses": spec.get("initContainers", []),
                 "ephemeralContainerStatuses": self._ephemeral}
        status = {key: [objects.container_status(each["name"], each["image"], self.ids.get(each["name"], []),
                                                 each["name"] in self._running) for each in members]
                  for key, members in lists.items()}
        self._stage.client.patch(f"{self.path}/status", {"status": {"phase": phase, **status}})

    def vanish(self):
        """Only from the machine."""
        self._stage.node.remove_pod(self.cgroup_uid)
        self._placed = False

    def delete(self):
        """Only from the API."""
        self._stage.client.delete(self.path)


class Pushes:
    """The lines of the Collector's file exporter. Attributes keep their types: a list stays a list."""

    def __init__(self, path):
        text = path.read_text() if path.exists() else ""
        self._lines = text[: text.rfind("\n") + 1].splitlines()
        self._series = None
        self._balance = collections.Counter()  # by zone: measured less booked
        self._off = []  # after each push: the zones whose balance is not nothing

    def __len__(self):
        return len(self._lines)

    def lines(self):
        return self._lines

    def series(self):
        """Every series with a value, in the order of first appearance. Checks on the way that none ever falls."""
        if self._series is None:
            self._series = {}
            for number, line in enumerate(self._lines):
                for resource, metric, point in _points(json.loads(line)):
                    if metric["name"].endswith(".energy") and not int(point.get("flags", 0)) & 1:  # 1: no value
                        self._take(number, metric["name"], resource, point)
                self._off.append({zone: off for zone, off in self._balance.items() if off})
        return list(self._series.values())

    def _take(self, number, name, resource, point):
        attributes = _attributes(point)
        key = json.dumps([name, resource, attributes], sort_keys=True)
        one = self._series.setdefault(key, Series(name, resource, attributes, number))
        start, value = point["startTimeUnixNano"], round(point["asDouble"] * 1e6)
        grown = value - one.lives.get(start, 0)
        require(grown >= 0, f"push {number}: {name} {attributes} fell by {-grown} µJ")
        one.lives[start], one.last = value, number
        if name == "hw.energy":
            self._balance[attributes["hw.id"]] += grown
        elif _is_booked(name, attributes):
            self._balance[attributes["hw.id"]] -= grown

    def of(self, kind, key, value):
        """The series of one workload, in the order in which they were last seen, then first."""
        found = [each for each in self.series()
                 if each.metric == f"wattribute.{kind}.energy" and each.resource.get(key) == value]
        return sorted(found, key=lambda each: (each.first, each.last))

    def resources(self, kind, key, value):
        """The different Resources that a workload came in, the oldest first."""
        found = []
        for each in self.of(kind, key, value):
            if each.resource not in found:
                found.append(each.resource)
        return found

    def node_resources(self):
        found = []
        for each in self.series():
            if each.metric == "hw.energy" and each.resource not in found:
                found.append(each.resource)
        return found

    def check_identity(self):
        """Nothing lost and nothing twice, after every single push: what the meters measured is what was booked, summed
        over the last values of all series ever received, whatever Resources they came in."""
        require(self._lines and self.series(), "the Collector received nothing")
        require(self._balance, "the Collector received no meter")
        wrong = {number: off for number, off in enumerate(self._off, 1) if off}
        require(not wrong, f"after {len(wrong)} of {len(self._lines)} pushes meters and books differ, in µJ: {wrong}")

    def check_delivery(self, books, uids):
        """Every pod and container got at the receiver, over all its Resources, what the books say."""
        for row in books.workloads("pod", "container").values():
            name = row["id"].split(":", 1)[1]
            key, names = ("container.id", [name]) if row["kind"] == "container" else (
                "k8s.pod.uid", sorted({name, uids.get(name, name)}))
            mine = [each for name in names for each in self.of(row["kind"], key, name)
                    if each.attributes["wattribute.energy.state"] == "active"]
            for zone, energy in row["active_uj"].items():
                got = sum(sum(each.lives.values()) for each in mine if each.attributes["hw.id"] == zone)
                require(got == energy, f"{row['id']} of {zone}: the books have {energy} µJ, {got} µJ were received")


class Series:
    def __init__(self, metric, resource, attributes, first):
        self.metric, self.resource, self.attributes = metric, resource, attributes
        self.first = self.last = first
        self.lives = {}


def _is_booked(name, attributes):
    """Whether a series is a part of what the meters measured (METRICS.md)."""
    state = attributes.get("wattribute.energy.state")
    if WORKLOAD_METRIC.match(name):
        return state == "active" and attributes["wattribute.parent.kind"] == "node"
    return name == "wattribute.unattributed.energy" or (name == "wattribute.node.energy" and state == "idle")


def _points(request):
    for group in request.get("resourceMetrics", []):
        resource = _attributes(group.get("resource", {}))
        for scope in group.get("scopeMetrics", []):
            for metric in scope.get("metrics", []):
                data = metric.get("sum") or metric.get("gauge") or {}
                for point in data.get("dataPoints", []):
                    yield resource, metric, point


def _attributes(holder):
    return {each["key"]: _plain(each["value"]) for each in holder.get("attributes", [])}


def _plain(value):
    if "arrayValue" in value:
        return [_plain(each) for each in value["arrayValue"].get("values", [])]
    return next(iter(value.values()), "")
