"""What the tests of the cluster do and check more than once: roles, pods, names, requests, and what was said."""

import collections
import json
import time

import objects
from books import require
from kit import CLUSTER_NAME, Pushes
from manifests import Unknown
from process import Failed

ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
NAMESPACE = "observability"
PODS, ROUND_S = 110, 10
BALLAST = "x" * 20_000


def request_for(body):
    return objects.path_of(body), body


def user(account):
    return f"system:serviceaccount:{NAMESPACE}:{account}"


def bare_pod(stage, name):
    return owned_pod(stage, name, None)


def owned_pod(stage, name, owner):
    meta = objects.metadata("shop", name, owner=owner)
    return objects.pod(meta, stage.node_name, [("app", "registry.example/shop/app:1.0")])


def rules_of(cluster, account):
    return cluster.admin.get(f"{ROLES}/{NAMESPACE}-{account}")["rules"]


def set_rules(cluster, account, rules):
    role = cluster.admin.get(f"{ROLES}/{NAMESPACE}-{account}")
    require(role["rules"] != rules, f"the role of {account} has no such rule to take or to give")
    cluster.admin.put(f"{ROLES}/{NAMESPACE}-{account}", {**role, "rules": rules})
    time.sleep(1)  # the server's authorizer watches roles


def all_names(cluster, stage, pod):
    """The attributes that need every rule."""
    return {"k8s.namespace.name": "shop", "k8s.pod.name": pod.object["metadata"]["name"], "k8s.pod.uid": pod.uid,
            "k8s.container.name": "app", "k8s.node.name": stage.node_name, "k8s.cluster.name": CLUSTER_NAME,
            "k8s.cluster.uid": cluster.admin.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]}


def newest_of(stage, pod):
    found = Pushes(stage.collector.pushes).resources("container", "container.id", pod.ids["app"][-1])
    require(found, f"nothing came for the container of {pod.path}")
    return found[-1]


def check_missing(stage, pod, resource, attribute):
    """Without one rule: what it gives is missing, and nothing else."""
    newest, node = newest_of(stage, pod), Pushes(stage.collector.pushes).node_resources()[-1]
    require(newest.get("k8s.pod.uid") == pod.uid, f"without {resource} the pod's uid is missing: {newest}")
    for key, holder in (("k8s.pod.name", newest), ("k8s.container.name", newest), ("k8s.node.uid", node),
                        ("k8s.cluster.uid", newest)):
        missing = key == attribute or (key == "k8s.container.name" and resource == "pods")
        require((key in holder) != missing, f"without {resource}, {key} is {holder.get(key)}")


def check_bare(stage, pod):
    newest = newest_of(stage, pod)
    require(newest.get("k8s.pod.uid") == pod.uid and "k8s.pod.name" not in newest, f"not bare: {newest}")


def check_named(pushes, pod):
    """A pod and its container end up with their names, and never had others."""
    name = pod.object["metadata"]["name"]
    wanted = {"k8s.namespace.name": "shop", "k8s.pod.name": name, "k8s.pod.uid": pod.uid}
    for kind, key, value, more in [("pod", "k8s.pod.uid", pod.uid, {})] + [
            ("container", "container.id", each, {"k8s.container.name": "app"}) for each in pod.ids["app"]]:
        found = pushes.resources(kind, key, value)
        require(found, f"nothing came for {kind} {value} of {name}")
        named = {**wanted, **more}
        require(named.items() <= found[-1].items(), f"{kind} {value} is to be {named} and is {found[-1]}")
        for each in found[:-1]:
            require(all(each.get(key, value) == value for key, value in named.items()), f"{name} was once {each}")


def check_unnamed(pushes, pod):
    found = pushes.resources("container", "container.id", pod.ids["app"][0])
    require(found, f"nothing came for the container of {pod.path}")
    for each in found:
        require(each.get("k8s.pod.uid") == pod.uid and "k8s.pod.name" not in each, f"{pod.path} is {each}")


def dry_run(applier, title, rendered, unknown):
    """Offers objects to the API server; returns how many it took, and counts the kinds that it does not have."""
    accepted = 0
    require(rendered, f"{title} is empty")
    for each in rendered:
        try:
            applier.create(each, NAMESPACE, dry_run=True)
            accepted += 1
            if each["kind"] == "Namespace":  # what else stands in the file is in it
                applier.create(each, NAMESPACE)
        except Unknown as kind:
            unknown[str(kind)] += 1
        except Failed as failed:
            raise Failed(f"{title}: {failed}") from None
    return accepted


def churn(stage, number):
    """Pods come evenly over two thirds of the time, each lives for a third. Returns the time that it took."""
    started = time.monotonic()
    born = started
    living = collections.deque()
    life_s, apart_s = ROUND_S / 3, ROUND_S * 2 / 3 / PODS

    def bury():
        pod, at = living.popleft()
        time.sleep(max(0.0, at - time.monotonic()))
        # A kubelet deletes the object when the containers are gone; who forces it deletes the object first.
        steps = (pod.vanish, pod.delete) if len(living) % 2 else (pod.delete, pod.vanish)
        for step in steps:
            step()

    for index in range(PODS):
        body = bare_pod(stage, f"brief-{number}-{index}")
        body["metadata"]["annotations"]["example.com/ballast"] = BALLAST
        pod = stage.pod(body)
        container = pod.promise("app")
        pod.run(container, 0.02)
        living.append((pod, time.monotonic() + life_s))
        born += apart_s
        while living and living[0][1] < born:
            bury()
        time.sleep(max(0.0, born - time.monotonic()))
    while living:
        bury()
    took_s = time.monotonic() - started
    print(f"                round {number + 1}: {PODS} pods in {took_s:.1f} s")
    return took_s


def check_requests(cluster, account, node_name):
    allowed = {
        ("list", "/api/v1/pods"): 1, ("watch", "/api/v1/pods"): 1,
        ("get", f"/api/v1/nodes/{node_name}"): 2, ("get", "/api/v1/namespaces/kube-system"): 2,
    }
    counts = collections.Counter()
    for verb, uri, code in cluster.requests_of(user(account)):
        path, _, query = uri.partition("?")
        require((verb, path) in allowed, f"the agent asked for {verb} {uri}")
        require(verb == "get" or f"fieldSelector=spec.nodeName={node_name}" in query, f"not only its own pods: {uri}")
        require(code is None or code < 400, f"{verb} {uri} was answered {code}")
        counts[verb, path] += 1
    require(counts["watch", "/api/v1/pods"] == 1, f"watches: {counts}")
    for key, most in allowed.items():
        require(counts[key] <= most, f"{' '.join(key)} was asked {counts[key]} times")


def require_410(client, version):
    """The test is one of 410 only if the server gives it to a watch from where the agent's ended."""
    path = f"/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion={version}"
    status, answer = client.call("GET", path)
    require(status == 410 or '"code":410' in json.dumps(answer, separators=(",", ":")),
            f"a watch from {version} was answered {status} {answer}")


def check_said(stage, word, over=True):
    """A state of the enricher is said once, and so is its end."""
    trouble, end = stage.agent.said(word), stage.agent.said("", "info")
    require(len(trouble) == 1 and len(end) == over,
            f"{stage.node_name}: the trouble was said in {len(trouble)} lines, its end in {len(end)}: {trouble + end}")
