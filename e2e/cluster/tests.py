"""The tests: each has a cluster, one node or more with a fake machine, and the chart's own account for the agent."""

import collections
import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

import objects
from api import Cluster
from attributes import Attributes, GatewayCase
from books import require
from checks import (
    NAMESPACE, PODS, ROUND_S, all_names, bare_pod, check_bare, check_missing, check_named, check_requests, check_said,
    check_unnamed, churn, dry_run, owned_pod, request_for, require_410, rules_of, set_rules, user,
)
from kit import Agent, Gateway, Pushes, Stage
from manifests import Applier, render
from process import Collector, wait_until
from proxy import Proxy
from pyyaml import load_all
from suite import Skipped

HERE = pathlib.Path(__file__).resolve().parent
RBAC = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")
OUTAGE_S, UNWATCHED_S = 60, 20
ROUNDS = 3
# Names of deleted pods are kept, up to a number. What else is in their objects is not: it would be 4 MB here.
GROWTH_KB = 1536


class Tests:
    """Every method that does not begin with `_` is a test; its first line of text is its title. The longest come first,
    because some run side by side."""

    def __init__(self, parts, scratch):
        self._parts, self._scratch = parts, scratch

    def checks(self):
        """the checks themselves accept right pushes and refuse wrong ones"""
        suite = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
        with (self._directory("checks") / "unittest.stderr").open("w") as log:
            result = unittest.TextTestRunner(stream=log, verbosity=2).run(suite)
        wrong = [str(test) for test, _ in result.errors + result.failures]
        require(result.testsRun and not wrong, f"{result.testsRun} tests ran; failed: {wrong}")

    def outage(self):
        """the API server away for a minute, and from the start: no joule lost, uids meanwhile, names afterwards"""
        with self._cluster() as cluster, contextlib.ExitStack() as stack:
            proxy = stack.enter_context(Proxy(cluster.port))
            running = stack.enter_context(self._stage(cluster, "was-running"))
            late = stack.enter_context(self._stage(cluster, "comes-late"))
            stays, ends = (running.pod(bare_pod(running, name)) for name in ("stays", "ends"))
            for each in (stays, ends):
                each.start("app", 0.3)
            first = late.pod(bare_pod(late, "first"))
            first.start("app", 0.3)
            self._start(running, cluster, port=proxy.port)
            running.wait_ticks(3)
            # The agent is cut off a moment before the server stops, so that the API knows of pods that it does not.
            proxy.refuse()
            born, brief = (running.pod(bare_pod(running, name)) for name in ("born", "brief"))
            for each in (born, brief):
                each.promise("app")
            token = cluster.token(NAMESPACE, self._account)
            cluster.stop_apiserver()
            started = time.monotonic()
            self._start(late, cluster, port=proxy.port, token=token)
            for each in (born, brief):
                each.run(each.ids["app"][0], 0.3)
            running.wait_ticks(5)
            ends.vanish()
            brief.vanish()
            # Nobody listens at first, then somebody who hangs up at once, as a load balancer does: it is one outage.
            time.sleep(max(0.0, OUTAGE_S / 2 - (time.monotonic() - started)))
            proxy.accept()
            time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - started)))
            for stage, pod in ((running, born), (late, first)):
                check_bare(stage, pod)
            # A server that has just started refuses everybody for a moment (403): nobody meets it before it is ready.
            proxy.refuse()
            cluster.start_apiserver()
            proxy.accept()
            for stage, pod in ((running, born), (late, first)):
                stage.wait_name("container.id", pod.ids["app"][0], all_names(cluster, stage, pod), 90)
                stage.wait_ticks(3)
            for stage in (running, late):
                _, pushes = stage.finish()
                check_said(stage, "")
                print(f"                {stage.node_name}: {stage.agent.said('')[0]}")
                if stage is running:
                    for pod in (stays, ends, born):
                        check_named(pushes, pod)
                    for pod in (stays, ends):  # known before: what was known stays
                        found = pushes.resources("container", "container.id", pod.ids["app"][0])
                        require(len(found) == 1, f"{pod.path} was known and came in {len(found)} Resources: {found}")
                    check_unnamed(pushes, brief)

    def rbac(self):
        """the chart's rules suffice, and without one of them only its names are missing, until it is there again"""
        without = {"pods": "k8s.pod.name", "nodes": "k8s.node.uid", "namespaces": "k8s.cluster.uid"}
        with self._cluster() as cluster, contextlib.ExitStack() as stack:
            runs, proxy = [], stack.enter_context(Proxy(cluster.port))
            for resource, attribute in without.items():
                account = self._install(cluster, f"no-{resource}")
                rules = rules_of(cluster, account)
                set_rules(cluster, account, [each for each in rules if each["resources"] != [resource]])
                stage = stack.enter_context(self._stage(cluster, f"no-{resource}"))
                pod = stage.pod(bare_pod(stage, f"lonely-{resource}"))
                pod.start("app", 0.5)
                self._start(stage, cluster, account=account, port=proxy.port)
                runs.append((resource, attribute, account, rules, stage, pod))
            for resource, attribute, _, _, stage, pod in runs:
                stage.wait_ticks(6)
                check_missing(stage, pod, resource, attribute)
            for _, _, account, rules, stage, _ in runs:
                check_said(stage, "403", over=False)
                set_rules(cluster, account, rules)
            for resource, _, _, _, stage, pod in runs:
                self._check_complete(cluster, stage, pod, resource)
            # The same later, for the rule whose use never ends: a connection that is lost is not allowed again.
            _, _, account, rules, stage, pod = runs[0]
            set_rules(cluster, account, [each for each in rules if each["resources"] != ["pods"]])
            proxy.cut()
            wait_until("a second line about it", lambda: len(stage.agent.said("403")) == 2, 30)
            newcomer = stage.pod(bare_pod(stage, "newcomer"))
            newcomer.start("app", 0.2)
            stage.wait_ticks(4)
            check_bare(stage, newcomer)
            set_rules(cluster, account, rules)
            stage.wait_name("container.id", newcomer.ids["app"][0], all_names(cluster, stage, newcomer), 60)
            for resource, _, _, _, stage, pod in runs:
                _, pushes = stage.finish()
                check_named(pushes, pod)
                print(f"                without {resource}: {stage.agent.said('403')[0]}")

    def _check_complete(self, cluster, stage, pod, resource):
        """Every name is there, and that it is was said."""
        stage.wait_name("container.id", pod.ids["app"][0], all_names(cluster, stage, pod), 90)
        uid = stage.node_object["metadata"]["uid"]
        wait_until(f"the node's uid, {resource} allowed",
                   lambda: Pushes(stage.collector.pushes).node_resources()[-1].get("k8s.node.uid") == uid, 90)
        wait_until(f"a line that {resource} can be read", lambda: stage.agent.said("", "info"), 10)
        check_said(stage, "403")

    def churn(self):
        """110 pods in 10 s, three times: one watch, nothing else asked, every joule once and by name, memory flat"""
        with self._cluster() as cluster, self._stage(cluster, "busy-node", "systemd") as stage:
            # Whoever prints the books keeps every workload for the total, so the memory is that of another agent.
            directory, other = self._directory("quiet"), self._install(cluster, "quiet")
            account = self._start(stage, cluster)
            with Collector(self._parts.otelcol, directory) as collector:
                config = cluster.kubeconfig(directory / "kubeconfig", cluster.token(NAMESPACE, other))
                quiet = {**stage.settings, "kubernetes.kubeconfig": config, "export.stdout.enabled": "false",
                         "export.otlp.endpoint": f"http://127.0.0.1:{collector.grpc}"}
                with Agent(self._parts.binary, directory, quiet) as agent:
                    stage.wait_ticks(2)
                    resident, took_s = [], []
                    for number in range(ROUNDS):
                        took_s.append(churn(stage, number))
                        stage.wait_ticks(3)
                        resident.append(agent.rss_kb())
                    agent.stop()
                _, pushes = stage.finish()
                collector.stop()
            for pod in stage.pods:
                check_named(pushes, pod)
            for each in (account, other):
                asked = collections.Counter(uri.partition("?")[0] for _, uri, _ in cluster.requests_of(user(each)))
                print(f"                {each} asked {dict(asked)}")
                check_requests(cluster, each, stage.node_name)
            print(f"                {len(stage.pods)} pods; resident after each round {resident} kB")
            require(min(took_s) < 2 * ROUND_S, f"{PODS} pods took {min(took_s):.1f} s: the machine is too busy")
            require(resident[-1] - resident[0] <= GROWTH_KB, f"resident memory grew: {resident} kB")

    def attributes(self):
        """every kind of owner and container has exactly its Resource, with both drivers and both versions of cgroups"""
        with self._cluster() as cluster, contextlib.ExitStack() as stack:
            runs = []
            for name, driver, version in (("worker-1.example", "cgroupfs", 1), ("worker-2.example", "systemd", 2)):
                stage = stack.enter_context(self._stage(cluster, name, driver, version))
                runs.append((stage, Attributes(stage, driver, self._version())))
            for stage, case in runs:
                case.before()
                self._start(stage, cluster, case.settings)
            for stage, _ in runs:
                stage.wait_ticks(4)
            for stage, case in runs:
                case.midway()
            for stage, case in runs:
                stage.wait_ticks(2)
                case.later()
            for stage, _ in runs:
                stage.wait_ticks(5)
            for stage, case in runs:
                case.check(*stage.finish())

    def unwatched(self):
        """pods may be listed and not watched: names come, it is said once, and the server is not asked ever faster"""
        with self._cluster() as cluster, self._stage(cluster, "unwatched") as stage:
            rules = rules_of(cluster, self._account)
            set_rules(cluster, self._account, [
                {**each, "verbs": ["list"]} if each["resources"] == ["pods"] else each for each in rules])
            pod = stage.pod(bare_pod(stage, "pod"))
            pod.start("app", 0.3)
            self._start(stage, cluster)
            stage.wait_name("container.id", pod.ids["app"][0], all_names(cluster, stage, pod), 20)
            stage.wait_ticks(UNWATCHED_S)
            _, pushes = stage.finish()
            check_named(pushes, pod)
            asked = collections.Counter(verb for verb, _, _ in cluster.requests_of(user(self._account)))
            print(f"                asked in {UNWATCHED_S} s: {dict(asked)}")
            # Pauses that double from half a second allow six; a server that is asked by every node needs that mercy.
            require(asked["list"] <= 8, f"asked in {UNWATCHED_S} s: {dict(asked)}")
            require(len(stage.agent.said("")) == 1, f"said: {stage.agent.said('')}")

    def dry_run(self):
        """the API server accepts every rendered example of the chart and every plain manifest, strictly"""
        with self._cluster(install=False) as cluster:
            applier = Applier(cluster.admin)
            cases = [("default values", None)]
            cases += [(f"examples/{each.name}", each) for each in sorted(self._parts.chart.glob("examples/*.yaml"))
                      if not each.name.endswith(".rendered.yaml")]
            unknown, accepted = collections.Counter(), 0
            for title, values in cases:
                rendered = render(self._parts.helm, self._parts.chart, "energy", NAMESPACE, values)
                accepted += dry_run(applier, title, rendered, unknown)
            manifests = sorted(self._parts.deploy.glob("*.yaml"))
            for each in manifests:
                accepted += dry_run(applier, f"deploy/{each.name}", load_all(each.read_text()), unknown)
            require(len(cases) > 1 and manifests, f"found {len(cases) - 1} examples and {len(manifests)} manifests")
            print(f"                {accepted} objects of {len(cases)} renderings and {len(manifests)} manifests "
                  f"accepted; kinds that this server has not: {dict(unknown) or 'none'}")

    def token(self):
        """in a pod: a token that expires costs newcomers their names and no joule, a new one in the file brings them"""
        if os.geteuid() != 0:
            raise Skipped("needs root for a mount namespace")
        with self._cluster() as cluster, Proxy(cluster.port) as proxy, self._stage(cluster, "token-node") as stage:
            short = cluster.short_token(NAMESPACE, self._account, 15)
            account = self._account_directory(cluster, short)
            before = stage.pod(bare_pod(stage, "before"))
            before.start("app", 0.3)
            stage.start_agent({}, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(proxy.port),
                                   "K8S_NODE_NAME": stage.node_name}, account)
            stage.wait_name("container.id", before.ids["app"][0], all_names(cluster, stage, before), 20)
            pods = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{stage.node_name}"
            wait_until("the token to expire", lambda: cluster.client(short).call("GET", pods)[0] == 401, 60)
            proxy.cut()  # a watch that is under way outlives its token
            wait_until("a line on stderr about it", lambda: stage.agent.said("401"), 30)
            after = stage.pod(bare_pod(stage, "after"))
            after.start("app", 0.3)
            stage.wait_ticks(5)
            check_bare(stage, after)
            fresh = account / "token.new"
            fresh.write_text(cluster.token(NAMESPACE, self._account))
            os.rename(fresh, account / "token")
            started = time.monotonic()
            stage.wait_name("container.id", after.ids["app"][0], all_names(cluster, stage, after), 90)
            print(f"                names {time.monotonic() - started:.0f} s after the new token")
            stage.wait_ticks(3)
            _, pushes = stage.finish()
            for pod in (before, after):
                check_named(pushes, pod)
            check_said(stage, "401")
            print(f"                {stage.agent.said('401')[0]}")

    def gone(self):
        """a watch that must start anew (410): names are right afterwards, deleted pods are not called back"""
        with self._cluster() as cluster, Proxy(cluster.port) as proxy, self._stage(cluster, "gone-node") as stage:
            stays, dies = (stage.pod(bare_pod(stage, name)) for name in ("stays", "dies"))
            owner = stage.client.create(*request_for(objects.stateful_set("shop", "db")))
            old = stage.pod(owned_pod(stage, "db-0", owner))
            for pod in (stays, dies, old):
                pod.start("app", 0.3)
            self._start(stage, cluster, port=proxy.port)
            stage.wait_ticks(4)
            version = stage.client.get("/api/v1/pods")["metadata"]["resourceVersion"]
            proxy.refuse()
            for pod in (dies, old):
                pod.vanish()
                pod.delete()
            # The same name again, as a StatefulSet does it, and a server whose memory of changes begins after them.
            new = stage.pod(owned_pod(stage, "db-0", owner))
            new.start("app", 0.3)
            cluster.stop_apiserver()
            cluster.start_apiserver()
            require_410(stage.client, version)
            stage.wait_ticks(3)
            gone_at = len(stage.collector.pushes.read_text().splitlines())
            proxy.accept()
            stage.wait_name("container.id", new.ids["app"][0], all_names(cluster, stage, new), 60)
            stage.wait_ticks(4)
            _, pushes = stage.finish()
            for pod in (stays, dies, old, new):
                check_named(pushes, pod)
            for pod in (dies, old):
                last = max(each.last for each in pushes.of("pod", "k8s.pod.uid", pod.uid))
                require(last < gone_at, f"{pod.path} {pod.uid} was gone by push {gone_at}, and came in push {last}")
            grown = [each.metric for each in pushes.of("pod", "k8s.pod.uid", new.uid)]
            require(grown, f"nothing came for {new.path} {new.uid}")
            waiting = pushes.resources("pod", "k8s.pod.uid", stays.uid)
            require(len(waiting) == 1, f"{stays.path} came in {len(waiting)} Resources")

    def slow(self):
        """an API server that delays every byte, or accepts and never answers, delays no tick and no joule"""
        with self._cluster() as cluster, contextlib.ExitStack() as stack:
            runs = []
            for name, how in (("delayed", {"delay_s": 1.0}), ("silent", {"silent": True})):
                proxy = stack.enter_context(Proxy(cluster.port, **how))
                stage = stack.enter_context(self._stage(cluster, name))
                stage.pod(bare_pod(stage, name)).start("app", 0.5)
                self._start(stage, cluster, port=proxy.port)
                runs.append((name, stage, proxy))
            for name, stage, _ in runs:
                stage.wait_ticks(4)
                stage.pod(bare_pod(stage, f"{name}-newcomer")).start("app", 0.2)
            for name, stage, proxy in runs:
                if name == "delayed":
                    for each in stage.pods:
                        stage.wait_name("container.id", each.ids["app"][0], all_names(cluster, stage, each), 60)
                wait_until("25 ticks", lambda s=stage: s.agent.must_run() and s.agent.ticks() >= 25, 60)
                books, pushes = stage.finish()
                late = max(abs(tick["time_s"] - tick["tick"]) for tick in books.ticks[:-1])
                require(late < 0.25, f"{name}: a tick was {late:.3f} s off its time")
                require(proxy.accepted, f"{name}: the agent never asked")
                if name == "silent":
                    for each in stage.pods:
                        check_unnamed(pushes, each)
                    check_said(stage, "", over=False)
                print(f"                {name}: ticks at most {late * 1e3:.0f} ms off, {proxy.accepted} connections, "
                      f"said: {stage.agent.said('') or 'nothing'}")

    def gateway(self):
        """agents without rights, otel-config/gateway.yaml with those it asks for: it names pods, and nobody else"""
        config = self._parts.otel_config / "gateway.yaml"
        if os.geteuid() != 0:
            raise Skipped("needs root for a mount namespace")
        with self._cluster(install=False) as cluster:
            account = self._account_directory(cluster, cluster.token(NAMESPACE, self._grant_gateway(cluster)))

            def receiver(directory):
                return Gateway(self._parts.otelcol, directory, config, account, cluster)

            with Stage(self._parts, self._directory("gateway"), cluster, "gated", "cgroupfs", 2, receiver) as stage:
                case = GatewayCase(stage)
                case.pods()
                wait_until("the gateway to watch pods", lambda: stage.collector.must_run() and any(
                    verb == "watch" and uri.startswith("/api/v1/pods") for verb, uri, _ in
                    cluster.requests_of(user("gateway"))), 30)
                stage.start_agent({"kubernetes.mode": "off"})
                stage.wait_ticks(8)
                _, pushes = stage.finish()
                case.check(pushes)
                refused = [each for each in cluster.requests_of(user("gateway")) if each[2] and each[2] >= 400]
                require(not refused, f"the gateway was refused: {refused}")

    def _grant_gateway(self, cluster):
        """The account and the rights that the head of gateway.yaml asks for."""
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
                 {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"],
                  "verbs": ["list", "watch"]}]
        group, meta = "rbac.authorization.k8s.io", {"name": "gateway"}
        applier = Applier(cluster.admin)
        for each in (
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**meta, "namespace": NAMESPACE}},
            {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": meta, "rules": rules},
            {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": meta,
             "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "gateway"},
             "subjects": [{"kind": "ServiceAccount", "name": "gateway", "namespace": NAMESPACE}]},
        ):
            applier.create(each, NAMESPACE)
        return "gateway"

    # What several tests share

    def _account_directory(self, cluster, token):
        """What a kubelet mounts into a pod for its service account."""
        account = self._directory("account")
        shutil.copy(cluster.ca, account / "ca.crt")
        (account / "namespace").write_text(NAMESPACE)
        (account / "token").write_text(token)
        return account

    def _directory(self, name):
        return pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._scratch))

    def _version(self):
        done = subprocess.run([self._parts.binary, "--version"], capture_output=True, text=True, timeout=20)
        return done.stdout.split()[-1]

    @contextlib.contextmanager
    def _cluster(self, install=True):
        with Cluster(self._directory("cluster"), self._parts.kube_apiserver, self._parts.etcd) as cluster:
            admin = cluster.admin
            for name in (NAMESPACE, "shop"):
                admin.create("/api/v1/namespaces", objects.namespace(name))
            for name in ("shop", "kube-system"):  # a controller makes the account without which there are no pods
                admin.create(*request_for(objects.service_account(name, "default")))
            if install:
                self._account = self._install(cluster, "energy")
            yield cluster

    def _stage(self, cluster, name, driver="cgroupfs", version=2):
        return Stage(self._parts, self._directory(name), cluster, name, driver, version)

    def _install(self, cluster, release):
        """Only the chart's account and rights; returns the account's name, which is also in the role's."""
        rendered = render(self._parts.helm, self._parts.chart, release, NAMESPACE)
        applier = Applier(cluster.admin)
        wanted = [each for each in rendered if each["kind"] in RBAC]
        require(sorted(each["kind"] for each in wanted) == sorted(RBAC), f"rendered: {[e['kind'] for e in rendered]}")
        for each in wanted:
            applier.create(each, NAMESPACE)
        return next(each["metadata"]["name"] for each in wanted if each["kind"] == "ServiceAccount")

    def _start(self, stage, cluster, settings=(), account=None, port=None, token=None):
        account = account or self._account
        token = token or cluster.token(NAMESPACE, account)
        kubeconfig = cluster.kubeconfig(stage.directory / "kubeconfig", token, port)
        stage.start_agent({"kubernetes.kubeconfig": kubeconfig, **dict(settings)})
        return account
