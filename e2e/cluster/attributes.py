"""One node with every kind of pod that there is, and the Resource that each of them must come in, written down by hand.

`before` happens before the agent starts, `midway` while it runs. What is there from the start has one Resource all
along; what begins later may have had fewer attributes at first, but never others.
"""

import secrets

import objects
from books import require
from kit import CLUSTER_NAME
from node import HOSTNAME, MACHINE_ID
from process import Failed

LABELS = ("app", "team", "app.kubernetes.io/version")
ANNOTATIONS = ("example.com/cost-centre", "example.com/huge")
HUGE = "huge ä " * 20_000  # 160 kB: the API server takes up to 256 KiB
VALUE_MAX = 1024  # bytes of it that are sent
HASH = "5d4b8c7f9b"
STATIC, LATE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


def _image(name, tag):
    return {"container.image.name": name, "container.image.tag": tag, "container.image.tags": [tag]}


WEB = "registry.example/shop/web:1.4.2", _image("registry.example/shop/web", "1.4.2")
PROXY = "registry.example:5000/mesh/proxy:v2", _image("registry.example:5000/mesh/proxy", "v2")
DIGEST = f"registry.example:5000/shop/db@sha256:{'c0' * 32}", {"container.image.name": "registry.example:5000/shop/db"}


class Attributes:
    """The pods of one stage. Names of a node's pods end with a letter of their own."""

    def __init__(self, stage, driver, version):
        self._stage, self._driver, self._version = stage, driver, version
        self._letter = stage.node_name.replace("worker-", "n")[:2]
        self._expected = []  # kind, key, id, Resource, whether from the start
        self._host = {}
        self.settings = {"kubernetes.pod_labels": ",".join(LABELS), "kubernetes.pod_annotations": ",".join(ANNOTATIONS)}

    # Pods

    def before(self):
        stage = self._stage
        cluster_uid = stage.client.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        self._host = {"host.id": MACHINE_ID, "host.name": HOSTNAME, "k8s.node.name": stage.node_name,
                      "k8s.cluster.uid": cluster_uid, "k8s.cluster.name": CLUSTER_NAME}
        self._deployment()
        self._set_members()
        self._jobs()
        self._static()
        self._bare()
        self._sidecars()
        self._restarting()

    def midway(self):
        """Containers end, begin, and begin again; a pod completes, another is deleted, a static one comes."""
        self._sidecar_pod.end("prepare")
        self._sidecar_pod.add_ephemeral("debugger", WEB[0])
        for name, image in (("mesh", PROXY), ("app", WEB), ("debugger", WEB)):
            self._sidecar_pod.start(name, 0.1, say=False)
            self._container(self._sidecar_pod, self._sidecar_own, name, image, from_start=False)
        self._late_id = secrets.token_hex(32)
        self._stage.node.add_pod(self._digest(LATE))
        self._stage.node.start(self._digest(LATE), self._late_id, 0.1)
        self._restarting_pod.end("app")
        self._restarting_pod.start("app", 0.1)
        self._container(self._restarting_pod, self._restarting_own, "app", WEB, from_start=False)
        self._completing_pod.end("app", say=False)
        self._completing_pod.say("Succeeded")
        self._completing_pod.vanish()
        self._doomed_pod.delete()

    def later(self):
        """A deleted pod has used its grace. And what a kubelet says only after the start of a container: its id, and
        the mirror of a static pod."""
        self._doomed_pod.vanish()
        self._sidecar_pod.say()
        pod, own = self._mirror("late", LATE, from_start=False)
        pod.adopt("late", self._late_id)
        self._container(pod, own, "late", WEB, from_start=False)

    def _deployment(self):
        """Two replicas of two containers; the first has labels and annotations, one of them huge, and a sandbox."""
        deployment = self._new(objects.deployment("shop", f"web-{self._letter}"))
        replicas = self._new(objects.replica_set(deployment, HASH))
        owner = {"k8s.replicaset.name": f"web-{self._letter}-{HASH}", "k8s.replicaset.uid": replicas["metadata"]["uid"],
                 "k8s.deployment.name": f"web-{self._letter}"}
        for index, suffix in enumerate(("x2x4z", "k9m7q")):
            labels = {"app": "web", "pod-template-hash": HASH, "not-chosen": "secret"}
            annotations = {"kubernetes.io/config.seen": "not chosen"}
            more = {"k8s.pod.label.app": "web"}
            if index == 0:
                labels |= {"team": "checkout", "app.kubernetes.io/version": "1.4.2"}
                annotations |= {"example.com/cost-centre": "4711, Küche", "example.com/huge": HUGE}
                more |= {"k8s.pod.label.team": "checkout", "k8s.pod.label.app.kubernetes.io/version": "1.4.2",
                         "k8s.pod.annotation.example.com/cost-centre": "4711, Küche",
                         "k8s.pod.annotation.example.com/huge": _cut(HUGE)}
            meta = objects.metadata("shop", f"web-{self._letter}-{HASH}-{suffix}", labels, annotations, replicas)
            pod = self._pod(objects.pod(meta, self._stage.node_name, [("web", WEB[0]), ("proxy", PROXY[0])]))
            own = self._own(pod, "Burstable", {**owner, **more})
            for name, image in (("web", WEB), ("proxy", PROXY)):
                pod.start(name, 0.1)
                self._container(pod, own, name, image)
            if index == 0:
                # The sandbox is a container to the machine, and in no status.
                sandbox = {**own, "container.id": pod.run(secrets.token_hex(32), 0.01), **self._runtime(said=False)}
                self._expect("container", "container.id", sandbox, True)

    def _set_members(self):
        """A StatefulSet's pod (guaranteed, an image by digest), a DaemonSet's, and one of a ReplicaSet without hash."""
        for make, name, key, qos, image in (
            (objects.stateful_set, "db", "statefulset", "Guaranteed", DIGEST),
            (objects.daemon_set, "agent", "daemonset", "BestEffort", WEB),
            (objects.bare_replica_set, "alone", "replicaset", "Burstable", WEB),
        ):
            owner = self._new(make("shop", f"{name}-{self._letter}"))
            meta = objects.metadata("shop", f"{name}-{self._letter}-0", {"app": name}, owner=owner)
            pod = self._pod(objects.pod(meta, self._stage.node_name, [("main", image[0])], qos=qos), qos=qos)
            own = self._own(pod, qos, {f"k8s.{key}.name": f"{name}-{self._letter}",
                                       f"k8s.{key}.uid": owner["metadata"]["uid"], "k8s.pod.label.app": name})
            pod.start("main", 0.2)
            self._container(pod, own, "main", image)

    def _jobs(self):
        """A CronJob's Job, named by its time as the controller does it, and a Job of its own that completes."""
        cron = self._new(objects.cron_job("shop", f"bill-{self._letter}"))
        for name, of, more in ((f"bill-{self._letter}-29412345", cron, {"k8s.cronjob.name": f"bill-{self._letter}"}),
                               (f"import-{self._letter}", None, {})):
            job = self._new(objects.job("shop", name, of))
            meta = objects.metadata("shop", f"{name}-7xk2p", {"job-name": name}, owner=job)
            pod = self._pod(objects.pod(meta, self._stage.node_name, [("app", WEB[0])], restart="Never"))
            own = self._own(pod, "Burstable", {
                "k8s.job.name": name, "k8s.job.uid": job["metadata"]["uid"], **more})
            pod.start("app", 0.1)
            self._container(pod, own, "app", WEB)
            self._completing_pod = pod

    def _static(self):
        """Its cgroup bears the hash of its manifest; in the API is a mirror with a uid of its own."""
        pod, own = self._mirror("etcd", STATIC)
        pod.start("etcd", 0.2)
        self._container(pod, own, "etcd", WEB)

    def _mirror(self, name, digest, from_start=True):
        node, digest = self._stage.node_object, self._digest(digest)
        meta = objects.mirror("kube-system", f"{name}-{self._stage.node_name}", digest, node)
        pod = self._pod(objects.pod(meta, self._stage.node_name, [(name, WEB[0])]), digest)
        return pod, self._own(pod, "Burstable", {}, "kube-system", from_start)

    def _digest(self, digest):
        return digest[:-1] + self._letter[-1]

    def _bare(self):
        """Nobody's pods: one stays, one is deleted while it runs."""
        for name in ("bare", "doomed"):
            meta = objects.metadata("shop", f"{name}-{self._letter}")
            qos = "BestEffort"
            pod = self._pod(objects.pod(meta, self._stage.node_name, [("app", WEB[0])], qos=qos), qos=qos)
            own = self._own(pod, qos, {})
            pod.start("app", 0.1)
            self._container(pod, own, "app", WEB)
            self._doomed_pod = pod

    def _sidecars(self):
        """An init container that ends midway; then a sidecar, the container itself, and one to debug it."""
        meta = objects.metadata("shop", f"steps-{self._letter}")
        init = [("prepare", WEB[0]), ("mesh", PROXY[0], "Always")]
        self._sidecar_pod = self._pod(objects.pod(meta, self._stage.node_name, [("app", WEB[0])], init))
        self._sidecar_own = self._own(self._sidecar_pod, "Burstable", {})
        self._sidecar_pod.start("prepare", 0.2)
        self._container(self._sidecar_pod, self._sidecar_own, "prepare", WEB)

    def _restarting(self):
        """A container that begins anew: another id, the same name; the old id is in its last state."""
        meta = objects.metadata("shop", f"flaky-{self._letter}")
        self._restarting_pod = self._pod(objects.pod(meta, self._stage.node_name, [("app", WEB[0])]))
        self._restarting_own = self._own(self._restarting_pod, "Burstable", {})
        self._restarting_pod.start("app", 0.2)
        self._container(self._restarting_pod, self._restarting_own, "app", WEB)

    # What is expected

    def _new(self, body):
        return self._stage.client.create(objects.path_of(body), body)

    def _pod(self, body, cgroup_uid=None, qos="Burstable"):
        return self._stage.pod(body, cgroup_uid, qos)

    def _own(self, pod, qos, more, namespace="shop", from_start=True):
        """A pod's attributes, which its containers have too."""
        own = {**self._host, "k8s.namespace.name": namespace, "k8s.pod.name": pod.object["metadata"]["name"],
               "k8s.pod.uid": pod.uid, "k8s.pod.qos_class": qos, **more}
        self._expect("pod", "k8s.pod.uid", own, from_start)
        return own

    def _container(self, pod, own, name, image, from_start=True):
        self._expect("container", "container.id", {
            **own, "k8s.container.name": name, "container.id": pod.ids[name][-1], **image[1], **self._runtime()},
            from_start)

    def _runtime(self, said=True):
        """The status says it, and so does the name of a cgroup under systemd."""
        return {"container.runtime.name": "containerd"} if said or self._driver == "systemd" else {}

    def _expect(self, kind, key, resource, from_start):
        self._expected.append((kind, key, resource[key], resource, from_start))

    # The verdict

    def check(self, _, pushes):
        wrong = []
        for each in self._expected:
            try:
                self._check_one(pushes, *each)
            except Failed as failed:
                wrong.append(str(failed))
        require(not wrong, f"{len(wrong)} of {len(self._expected)}: {' — '.join(wrong[:3])}")
        for kind, key in (("pod", "k8s.pod.uid"), ("container", "container.id")):
            came = {each.resource.get(key) for each in pushes.series() if each.metric == f"wattribute.{kind}.energy"}
            known = {value for of, _, value, _, _ in self._expected if of == kind}
            require(came - {self._digest(LATE)} == known, f"{kind}s that nobody has: {came - known}")
        self._check_processes(pushes)
        self._check_node(pushes)
        text = "".join(pushes.lines())
        for secret in ("never to be seen", "not-chosen", "not chosen"):
            require(secret not in text, f"{secret!r} was sent")
        print(f"                {self._stage.node_name} ({self._driver}): {len(self._expected)} Resources as "
              f"written down, in {len(pushes)} pushes")

    def _check_one(self, pushes, kind, key, value, wanted, from_start):
        name = f"{kind} {wanted['k8s.pod.name']} {wanted.get('k8s.container.name', '')}".strip()
        found = pushes.resources(kind, key, value)
        require(found, f"nothing came for {name}")
        _require_equal(name, found[-1], wanted)
        for each in found[:-1]:
            require(not from_start, f"{name} came in {len(found)} Resources, first {found[0]}")
            before = {key: value for key, value in each.items() if value != self._digest(LATE)}
            require(before.items() <= wanted.items(), f"{name} was once {each}")
        self._check_points(pushes, kind, key, value, found[-1])

    def _check_points(self, pushes, kind, key, value, resource):
        """The names stand on the points too."""
        copied = {"pod": ("k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid"),
                  "container": ("k8s.namespace.name", "k8s.pod.name", "k8s.container.name", "container.id")}[kind]
        wanted = {each: resource[each] for each in copied if each in resource}
        for each in pushes.of(kind, key, value):
            if each.resource == resource:
                require(wanted.items() <= each.attributes.items(), f"points of {kind} {value} have {each.attributes}")

    def _check_processes(self, pushes):
        """A process has what its container has, and its own."""
        containers = {value: wanted for kind, _, value, wanted, from_start in self._expected
                      if kind == "container" and from_start}
        seen = set()
        for each in pushes.series():
            value = each.resource.get("container.id")
            named = each.metric == "wattribute.process.energy" and "process.pid" in each.resource
            if not named or value not in containers:
                continue
            rest = {key: held for key, held in each.resource.items() if not key.startswith("process.")}
            _require_equal(f"a process of {value[:12]}", rest, containers[value])
            own = {key for key in each.resource if key.startswith("process.")}
            require(own - {"process.creation.time"} == {"process.pid", "process.executable.name", "process.command"},
                    f"a process has {sorted(own)}")
            seen.add(value)
        require(len(seen) > len(containers) / 2, f"{len(seen)} of {len(containers)} containers had processes")

    def _check_node(self, pushes):
        wanted = {**self._host, "host.arch": "amd64", "k8s.node.uid": self._stage.node_object["metadata"]["uid"],
                  "service.name": "wattribute", "service.version": self._version,
                  "service.instance.id": self._stage.node_name}
        found = pushes.node_resources()
        require(len(found) == 1, f"the node came in {len(found)} Resources: {found}")
        _require_equal("the node", found[0], wanted)


class GatewayCase:
    """Pods that the agent knows by uid and id only, and what a Collector with k8s_attributes must make of them."""

    def __init__(self, stage):
        self._stage = stage
        self._expected = []  # kind, key, id, attributes

    def pods(self):
        stage, make = self._stage, self._stage.client.create
        uid = stage.client.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        bare = {"host.id": MACHINE_ID, "host.name": HOSTNAME, "k8s.cluster.name": CLUSTER_NAME,
                "k8s.node.name": stage.node_name}
        common = {**bare, "k8s.cluster.uid": uid}
        deployment = objects.deployment("shop", "web")
        deployment = make(objects.path_of(deployment), deployment)
        replicas = objects.replica_set(deployment, HASH)
        replicas = make(objects.path_of(replicas), replicas)
        meta = objects.metadata("shop", f"web-{HASH}-x2x4z", {"app": "web", "pod-template-hash": HASH}, owner=replicas)
        pod = stage.pod(objects.pod(meta, stage.node_name, [("web", WEB[0]), ("proxy", PROXY[0])]))
        own = {**common, "k8s.namespace.name": "shop", "k8s.pod.name": f"web-{HASH}-x2x4z", "k8s.pod.uid": pod.uid,
               "k8s.replicaset.name": f"web-{HASH}", "k8s.deployment.name": "web"}
        self._expected.append(("pod", "k8s.pod.uid", pod.uid, {**own, "k8s.pod.qos_class": "Burstable"}))
        self._start(pod, own, "web", WEB)
        self._start(pod, own, "proxy", PROXY)
        members = objects.stateful_set("shop", "db")
        members = make(objects.path_of(members), members)
        meta = objects.metadata("shop", "db-0", {"app": "db"}, owner=members)
        pod = stage.pod(objects.pod(meta, stage.node_name, [("db", WEB[0])]))
        own = {**common, "k8s.namespace.name": "shop", "k8s.pod.name": "db-0", "k8s.pod.uid": pod.uid,
               "k8s.statefulset.name": "db"}
        self._expected.append(("pod", "k8s.pod.uid", pod.uid, {**own, "k8s.pod.qos_class": "Burstable"}))
        self._start(pod, own, "db", WEB)
        meta = objects.mirror("kube-system", "etcd-gated", STATIC, stage.node_object)
        pod = stage.pod(objects.pod(meta, stage.node_name, [("etcd", WEB[0])]), STATIC)
        own = {**common, "k8s.namespace.name": "kube-system", "k8s.pod.name": "etcd-gated", "k8s.pod.uid": pod.uid}
        self._start(pod, own, "etcd", WEB)
        # The one limit of this way: the pod's own series stays under the uid of its cgroup.
        self._static = {"k8s.pod.uid": STATIC, "k8s.pod.qos_class": "Burstable", **bare}

    def _start(self, pod, own, name, image):
        pod.start(name, 0.2)
        attributes = {key: value for key, value in image[1].items() if key != "container.image.tags"}
        self._expected.append(("container", "container.id", pod.ids[name][0], {
            **own, "k8s.container.name": name, "container.id": pod.ids[name][0], **attributes}))

    def check(self, pushes):
        for kind, key, value, wanted in self._expected:
            found = pushes.resources(kind, key, value)
            require(len(found) == 1, f"{kind} {wanted['k8s.pod.name']} came in {len(found)} Resources: {found}")
            # The quality of service comes from the cgroup of the pod, and who adds it to containers is free to.
            _require_equal(f"{kind} {wanted['k8s.pod.name']}", {
                key: value for key, value in found[0].items() if key in wanted or key != "k8s.pod.qos_class"}, wanted)
        static = pushes.resources("pod", "k8s.pod.uid", STATIC)
        require(len(static) == 1, f"the static pod came in {len(static)} Resources: {static}")
        _require_equal("the static pod", {key: value for key, value in static[0].items() if key != "k8s.cluster.uid"},
                       self._static)
        # Nobody else got the name of a pod, which is what happens to who associates by connection.
        others = [each for each in pushes.series() if "k8s.pod.uid" not in each.resource]
        require({"hw.energy", "wattribute.service.energy", "wattribute.slice.energy"}
                <= {each.metric for each in others}, "neither node nor services came")
        for each in others:
            require("k8s.pod.name" not in each.resource, f"{each.metric} got the name of a pod: {each.resource}")
        print(f"                {len(self._expected) + 1} Resources as written down, in {len(pushes)} batches")


def _cut(text):
    """The most whole characters that fit."""
    return text.encode()[:VALUE_MAX].decode(errors="ignore")


def _require_equal(what, found, wanted):
    missing = {key: value for key, value in wanted.items() if key not in found}
    more = {key: value for key, value in found.items() if key not in wanted}
    other = {key: (found[key], wanted[key]) for key in found.keys() & wanted.keys() if found[key] != wanted[key]}
    require(not (missing or more or other), f"{what}: missing {missing}, not expected {more}, (found, wanted) {other}")
