"""What must be true of what was seen: API server, kubelet and kernel say what the agent should have said."""

import bisect
import collections
import itertools

import control
import pods
from books import Books, Received, check_delivery, require
from packages import AGENT, BURN
from story import CLUSTER, HOME

POD, CONTAINER = "wattribute.pod.energy", "wattribute.container.energy"
TOLERANCE, TOLERANCE_S = 0.02, 0.02  # of the kubelet's figure; the second for what hardly did anything
RESTRICTED = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}


class Checks:
    """Every method that does not begin with `_` is a check, in this order; its first line of text is its title."""

    def __init__(self, story):
        self._story = story
        self._lines = story.log.lines("stdout")
        self._books = Books([line for _, line in self._lines])
        self._received = Received(story.received)

    # Names

    def deployment(self):
        """a Deployment with two replicas of two containers: every Resource has exactly its attributes"""
        found = self._named("web", {"k8s.deployment.name": "web"}, "replicaset", "Burstable")
        require(found == (2, 4), f"{found} pods and containers")

    def statefulset(self):
        """a StatefulSet: the same"""
        require(self._named("store", {}, "statefulset", "Guaranteed") == (1, 1), "not one pod with one container")

    def daemonset(self):
        """a DaemonSet: the same"""
        require(self._named("each", {}, "daemonset", "BestEffort") == (1, 1), "not one pod with one container")

    def cronjob(self):
        """the Jobs of a CronJob: the same, with the names of both"""
        count, _ = self._named("nightly", {"k8s.cronjob.name": "nightly"}, "job", "BestEffort")
        require(count >= 1, "no Job came")

    def static(self):
        """a static pod, whose cgroup has another uid: the same, with the uid that the API knows"""
        require(self._named(pods.STATIC, {}, None, "BestEffort") == (1, 1), "not one pod with one container")
        pod, = self._pods(pods.STATIC)
        hashed = pod["metadata"]["annotations"]["kubernetes.io/config.hash"]
        require(hashed != pod["metadata"]["uid"], "the pod is not a mirror")
        known = {each.resource.get("k8s.pod.uid") for each in self._received.series}
        require(hashed not in known, "the uid of the cgroup came too, which the API does not know")

    def init_container(self):
        """a pod with an init container: that one too, although it ended early"""
        require(self._named("two-step", {}, None, "BestEffort") == (1, 2), "not one pod with two containers")

    def own(self):
        """the agent's own pod and the node: the same"""
        agent = self._story.agent
        self._check_pod(agent, {**self._node_part(), **self._owner(agent, "daemonset")}, "Burstable")
        info = self._story.node["status"]["nodeInfo"]
        expected = {**self._node_part(), "k8s.node.uid": self._story.node["metadata"]["uid"],
                    "host.arch": info["architecture"], "service.name": "wattribute",
                    "service.instance.id": control.NODE}
        resources = {frozenset(each.resource.items()) for each in self._received.of("hw.energy")}
        require(len(resources) == 1, f"the node came in {len(resources)} Resources: {_diff(*resources)}")
        resource = dict(*resources)
        require(resource.pop("service.version", ""), "no service.version")
        _same("the node", resource, expected)

    def others(self):
        """what else is in a pod's cgroup is its sandbox, under the pod's names"""
        known = {container["containerID"].split("//")[1] for pod in self._all() for container in _statuses(pod)}
        uids = {pod["metadata"]["uid"]: pod for pod in self._all()}  # this machine may have other pods
        strange = collections.defaultdict(int)
        for each in self._received.of(CONTAINER):
            pod = uids.get(each.resource.get("k8s.pod.uid"))
            if pod and each.resource["container.id"] not in known:
                strange[each.resource["container.id"]] += each.microjoules
                require(each.resource.get("k8s.pod.name") == pod["metadata"]["name"], f"no name on {each.resource}")
        unknown = strange.keys() - self._story.sandboxes
        require(not unknown, f"containers that are none: {sorted(unknown)}")
        print(f"                {len(strange)} of {len(self._story.sandboxes)} sandboxes, {sum(strange.values())} µJ")

    # Figures

    def books(self):
        """the books balance at every tick and at the receiver, and every total arrives to the microjoule"""
        self._books.check()
        self._received.check_identity()
        check_delivery(self._books, self._received)

    def cpu(self):
        """CPU time of every container and pod agrees with the kubelet's own figures within 2 %"""
        before, after = self._story.cpu
        worst, compared = 0.0, 0
        for key in sorted(before.keys() & after.keys()):
            (begin, old), (end, new) = before[key], after[key]
            ours, theirs = self._between(key, begin, end), new - old
            # The agent itself works at its ticks only, so that nothing can be told of it between two.
            off = max(0, abs(ours - theirs) - (self._largest(key) if key[0] == HOME else 0))
            print(f"                {'/'.join(key):50} {ours:7.3f} s, the kubelet {theirs:7.3f} s "
                  f"in {end - begin:.1f} s ({off / max(theirs, 1e-9):.2%})")
            require(off <= max(TOLERANCE * theirs, TOLERANCE_S), f"{key}: {ours:.3f} s, not {theirs:.3f} s")
            compared += theirs > 1
            worst = max(worst, off / theirs if theirs > 1 else 0)
        require(compared >= 12, f"only {compared} pods and containers did anything")
        print(f"                at most {worst:.2%} off")

    def joules(self):
        """the joules of containers are as their CPU time"""
        cpu, expected = collections.Counter(), collections.Counter()
        for tick in self._books.ticks:
            # What a second of CPU time costs depends on how busy the machine is, so every tick has its own price.
            used = {row["id"]: row["cpu_us"] for row in tick["workloads"] if row["kind"] in ("node", "container")}
            booked = sum(zone.get("attributed_uj", 0) for zone in tick["zones"])
            cpu.update(used)
            expected.update({key: booked * each / used["node"] for key, each in used.items() if used.get("node")})
        rows = {}
        for pod in self._all(pods.NAMESPACE):
            for container in _statuses(pod):
                identity = container["containerID"].split("//")[1]
                joules = sum(each.microjoules for each in self._active(CONTAINER, "container.id", identity)) / 1e6
                require(joules > 0, f"no energy of {pod['metadata']['name']}/{container['name']}")
                key = f"container:{identity}"
                rows[f"{pod['metadata']['name']}/{container['name']}"] = joules, cpu[key] / 1e6, expected[key] / 1e6
        for name, (joules, seconds, price) in rows.items():
            print(f"                {name:32} {joules:8.3f} J for {seconds:6.2f} s of CPU time, "
                  f"{joules / price:.4f} of what it cost then")
        wrong = {name: row for name, row in rows.items() if abs(row[0] / row[2] - 1) > 0.02}
        require(not wrong, f"joules, CPU seconds and what they cost: {wrong}")

    # What it may do, and what it did

    def privilege(self):
        """the agent runs as uid 0 without any capability, in its own pid namespace, under seccomp"""
        status = self._story.process
        got = {key: int(status[key], 10 if key in ("NoNewPrivs", "Seccomp") else 16) for key in RESTRICTED}
        _same("the process", got, RESTRICTED)
        require(status["Uid"].split() == ["0"] * 4, f"uids are {status['Uid']}")
        require(status["NSpid"].split()[-1] == "1", f"pids are {status['NSpid']}: it has no pid namespace of its own")
        spec = self._story.agent["spec"]
        require(not spec.get("hostPID") and not spec.get("hostNetwork"), "it shares namespaces with the host")

    def requests(self):
        """one list and one watch of this node's pods, the node and one namespace; no request to the kubelet"""
        asked = collections.Counter()
        for event in self._story.requests():
            uri, _, query = event["requestURI"].partition("?")
            narrowed = f"spec.nodeName%3D{control.NODE}" in query
            asked[event["verb"], uri, narrowed, event["responseStatus"]["code"]] += 1
        print(f"                {dict(asked)}")
        _same("requests to the API server", asked, {
            ("list", "/api/v1/pods", True, 200): 1, ("watch", "/api/v1/pods", True, 200): 1,
            ("get", f"/api/v1/nodes/{control.NODE}", False, 200): 1,
            ("get", "/api/v1/namespaces/kube-system", False, 200): 1})
        foreign = self._story.foreign_requests
        require(not foreign, f"the kubelet had {foreign} requests beside ours")

    def deleted(self):
        """pods deleted while they ran: their final totals came, under their names, and each series ended once"""
        ends = collections.Counter()
        for pod in self._all(pods.NAMESPACE):
            if pod["metadata"]["name"].startswith("each"):
                continue
            for container in _statuses(pod):
                identity = container["containerID"].split("//")[1]
                self._check_end(f"{pod['metadata']['name']}/{container['name']}", f"container:{identity}",
                                self._points(CONTAINER, "container.id", identity), ends)
            uid = pod["metadata"]["uid"]
            self._check_end(pod["metadata"]["name"], self._row_of(pod)["id"],
                            self._points(POD, "k8s.pod.uid", uid), ends)
        require(ends, "nothing ended")
        print(f"                pods and containers by the number of pushes with their final total: {dict(ends)}")

    def nameless(self):
        """with kubernetes.enabled=false: no token, no request, no name; energy under pod uid and container id"""
        agent = self._story.nameless_agent
        sources = [source for volume in agent["spec"]["volumes"]
                   for source in volume.get("projected", {}).get("sources", [])]
        require(not sources, f"the agent has a token: {sources}")
        asked = self._story.requests_when_nameless
        require(not asked, f"it asked the API server {asked} times")
        received = Received(self._story.nameless)
        received.check_identity()
        pod, = self._pods("each")
        container, = _statuses(pod)
        found = [each for each in received.of(CONTAINER, wattribute_energy_state="active")
                 if each.resource["container.id"] == container["containerID"].split("//")[1]]
        require(found and found[0].microjoules > 0, "the container of the DaemonSet has no energy")
        require(found[0].resource["k8s.pod.uid"] == pod["metadata"]["uid"], f"{found[0].resource}")
        named = [key for each in received.series for key in each.resource if key in ("k8s.pod.name", "k8s.cluster.uid")]
        require(not named, f"there are {set(named)}")

    # What they share

    def _all(self, namespace=None):
        found = [*self._story.pods.values(), self._story.agent]
        return [pod for pod in found if namespace in (None, pod["metadata"]["namespace"])]

    def _pods(self, app):
        return [pod for pod in self._all(pods.NAMESPACE) if pod["metadata"]["labels"].get("app") == app]

    def _named(self, app, more, owner, quality):
        """Checks the Resources of all pods of one kind; returns how many pods and containers there were."""
        containers = 0
        for pod in self._pods(app):
            chosen = {**{f"k8s.pod.label.{key}": value for key, value in pods.LABELS.items()},
                      **{f"k8s.pod.annotation.{key}": value for key, value in pods.ANNOTATIONS.items()}}
            expected = {**self._node_part(), **self._owner(pod, owner), **chosen, **more}
            containers += self._check_pod(pod, expected, quality)
        return len(self._pods(app)), containers

    def _node_part(self):
        node = self._story.node
        name, = [each["address"] for each in node["status"]["addresses"] if each["type"] == "Hostname"]
        return {"host.id": node["status"]["nodeInfo"]["machineID"], "host.name": name, "k8s.node.name": control.NODE,
                "k8s.cluster.uid": self._story.cluster_uid, "k8s.cluster.name": CLUSTER}

    @staticmethod
    def _owner(pod, kind):
        owners = [each for each in pod["metadata"].get("ownerReferences", []) if each["kind"] != "Node"]
        require([each["kind"].lower() for each in owners] == [kind] * bool(kind), f"owners are {owners}")
        return {f"k8s.{kind}.{key}": each[key] for each in owners for key in ("name", "uid")}

    def _check_pod(self, pod, expected, quality):
        meta = pod["metadata"]
        expected = {**expected, "k8s.namespace.name": meta["namespace"], "k8s.pod.name": meta["name"],
                    "k8s.pod.uid": meta["uid"], "k8s.pod.qos_class": quality}
        self._check_resource(POD, "k8s.pod.uid", meta["uid"], expected)
        for container in _statuses(pod):
            runtime, identity = container["containerID"].split("://")
            image, tag = (AGENT if meta["namespace"] == HOME else BURN).rsplit(":", 1)
            self._check_resource(CONTAINER, "container.id", identity, {
                **expected, "k8s.container.name": container["name"], "container.id": identity,
                "container.runtime.name": runtime, "container.image.name": image,
                "container.image.tag": tag, "container.image.tags": str({"values": [{"stringValue": tag}]})})
        return len(_statuses(pod))

    def _check_resource(self, metric, key, value, expected):
        resources = {frozenset(each.resource.items()) for each in self._active(metric, key, value)}
        what = f"{expected['k8s.pod.name']} {expected.get('k8s.container.name', '')}"
        require(len(resources) == 1, f"{what}: {len(resources)} Resources for {metric}: {_diff(*resources)}")
        _same(what, dict(*resources), expected)
        copies = {name: expected[name] for name in ("k8s.namespace.name", "k8s.pod.name", "k8s.container.name", key)
                  if name in expected}
        for each in self._active(metric, key, value):
            require(copies.items() <= each.attributes.items(), f"{what}: points have {each.attributes}, not {copies}")

    def _active(self, metric, key, value):
        return [each for each in self._received.of(metric, wattribute_energy_state="active")
                if each.resource.get(key) == value]

    def _row_of(self, pod):
        """The agent's own row of a pod: by the uid of its cgroup, which is that of the API but for static pods."""
        hashed = pod["metadata"].get("annotations", {}).get("kubernetes.io/config.hash")
        rows = {key: row for key, row in self._books.workloads("pod").items()
                if {key.removeprefix("pod:"), row["attributes"].get("k8s.pod.uid")} & {pod["metadata"]["uid"], hashed}}
        require(len(rows) == 1, f"{len(rows)} rows of {pod['metadata']['name']}")
        return next(iter(rows.values()))

    def _row_id(self, key):
        """The agent's row of what the kubelet calls by namespace, pod and container."""
        namespace, pod_name, name = key
        pod, = [each for each in self._all() if each["metadata"]["name"] == pod_name
                and each["metadata"]["namespace"] == namespace]
        if not name:
            return self._row_of(pod)["id"]
        container, = [each for each in _statuses(pod) if each["name"] == name]
        return "container:" + container["containerID"].split("//")[1]

    def _used(self, key):
        """CPU time in each tick, in µs."""
        row_id = self._row_id(key)
        return [sum(row["cpu_us"] for row in tick["workloads"] if row["id"] == row_id) for tick in self._books.ticks]

    def _largest(self, key):
        return max(self._used(key)) / 1e6

    def _between(self, key, begin, end):
        """CPU seconds by the agent's ticks, between two times that lie between ticks."""
        times = [when for when, _ in self._lines[:-1]]  # the last line is the total
        sums = list(itertools.accumulate(self._used(key)))

        def at(moment):
            after = bisect.bisect_left(times, moment)
            require(0 < after < len(times), f"the agent was not there at {moment}")
            part = (moment - times[after - 1]) / (times[after] - times[after - 1])
            return sums[after - 1] + part * (sums[after] - sums[after - 1])

        return (at(end) - at(begin)) / 1e6

    def _points(self, metric, key, value):
        """The points of one workload's active energy, as they came: µJ, or None where there is no recorded value."""
        found = []
        for resource, name, attributes, point in self._story.points():
            if name == metric and resource.get(key) == value and attributes.get("wattribute.energy.state") == "active":
                found.append(None if int(point.get("flags", 0)) & 1 else round(point["asDouble"] * 1e6))
        return found

    def _check_end(self, what, row_id, points, ends):
        total = next((row for row in self._books.total["workloads"] if row["id"] == row_id), None)
        require(total, f"{what} is not in the agent's total")
        require("ended_s" in total, f"{what} has not ended")
        final = sum(total["active_uj"].values())
        require(points and points[-1] is None and points.count(None) == 1,
                f"{what}: the series did not end once: {points[-4:]}")
        require(points[-2] == final, f"{what}: {points[-2]} µJ came last, not {final}")
        ends[points.count(final)] += 1


def _statuses(pod):
    return [each for kind in ("initContainerStatuses", "containerStatuses") for each in pod["status"].get(kind, [])
            if each.get("containerID")]


def _same(what, got, expected):
    got, expected = dict(got), dict(expected)
    wrong = {key: (got.get(key), expected.get(key)) for key in got.keys() | expected.keys()
             if got.get(key) != expected.get(key)}
    require(not wrong, f"{what}: as it is and as it should be: {wrong}")


def _diff(*resources):
    """What is not in all of them."""
    shared = frozenset.intersection(*resources) if resources else frozenset()
    return [dict(each - shared) for each in resources]
