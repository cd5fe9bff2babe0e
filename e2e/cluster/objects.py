"""Objects as a cluster has them: what the controllers, the kubelet and the scheduler would have written, as JSON.

Only what somebody reads is filled in, but that is as they write it: owner references, hashes, mirror annotations,
container statuses with their ids.
"""

PAUSE = "registry.k8s.io/pause:3.10"
# Requests or limits that give a pod its quality-of-service class.
_RESOURCES = {
    "Guaranteed": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
    "Burstable": {"requests": {"cpu": "100m"}},
    "BestEffort": {},
}
_PLURALS = {"Deployment": "deployments", "ReplicaSet": "replicasets", "StatefulSet": "statefulsets",
            "DaemonSet": "daemonsets", "Job": "jobs", "CronJob": "cronjobs", "Pod": "pods",
            "ServiceAccount": "serviceaccounts", "Secret": "secrets"}
_THEN = "2026-01-01T00:00:00Z"


def path_of(body):
    """Where an object of ours is created, in a namespace."""
    version, kind, namespace = body["apiVersion"], body["kind"], body["metadata"]["namespace"]
    root = "api" if version == "v1" else "apis"
    return f"/{root}/{version}/namespaces/{namespace}/{_PLURALS[kind]}"


def metadata(namespace, name, labels=None, annotations=None, owner=None):
    made = {"namespace": namespace, "name": name, "labels": labels or {}, "annotations": annotations or {}}
    if owner:
        made["ownerReferences"] = [{
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}]
    return made


def node(name, hostname):
    return {"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": hostname}}}


def namespace(name):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def service_account(namespace_, name):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace_, "name": name}}


# Owners. Templates are what the API insists on; no controller is there to use them.


def _template(labels, restart="Always"):
    return {"metadata": {"labels": labels},
            "spec": {"restartPolicy": restart, "containers": [{"name": "app", "image": PAUSE}]}}


def _owner(version, kind, namespace_, name, spec, owner=None, labels=None):
    return {"apiVersion": version, "kind": kind, "metadata": metadata(namespace_, name, labels, owner=owner),
            "spec": spec}


def deployment(namespace_, name):
    labels = {"app": name}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": _template(labels)}
    return _owner("apps/v1", "Deployment", namespace_, name, spec, labels=labels)


def replica_set(of, digest):
    """The ReplicaSet of a Deployment, as its controller names it."""
    name, labels = of["metadata"]["name"], {"app": of["metadata"]["name"], "pod-template-hash": digest}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": _template(labels)}
    return _owner("apps/v1", "ReplicaSet", of["metadata"]["namespace"], f"{name}-{digest}", spec, of, labels)


def bare_replica_set(namespace_, name):
    labels = {"app": name}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": _template(labels)}
    return _owner("apps/v1", "ReplicaSet", namespace_, name, spec)


def stateful_set(namespace_, name):
    labels = {"app": name}
    spec = {"serviceName": name, "selector": {"matchLabels": labels}, "template": _template(labels)}
    return _owner("apps/v1", "StatefulSet", namespace_, name, spec)


def daemon_set(namespace_, name):
    labels = {"app": name}
    spec = {"selector": {"matchLabels": labels}, "template": _template(labels)}
    return _owner("apps/v1", "DaemonSet", namespace_, name, spec)


def cron_job(namespace_, name):
    job = {"spec": {"template": _template({}, "Never")}}
    return _owner("batch/v1", "CronJob", namespace_, name, {"schedule": "*/5 * * * *", "jobTemplate": job})


def job(namespace_, name, of=None):
    return _owner("batch/v1", "Job", namespace_, name, {"template": _template({}, "Never")}, of)


# Pods


def pod(meta, node_name, containers, init=(), qos="Burstable", restart="Always"):
    """A pod that is bound to a node. Containers are (name, image); an init container's third member is its policy."""
    def container(name, image, policy=None):
        made = {"name": name, "image": image, "resources": _RESOURCES[qos],
                "env": [{"name": "PASSWORD", "value": "never to be seen"}]}
        return {**made, "restartPolicy": policy} if policy else made

    spec = {"nodeName": node_name, "restartPolicy": restart, "tolerations": [{"operator": "Exists"}],
            "containers": [container(*each) for each in containers],
            "initContainers": [container(*each) for each in init]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def mirror(namespace_, name, digest, node_object):
    """The metadata of a static pod's mirror: the kubelet's own uid of the pod, a hash, is in its annotations."""
    annotations = {"kubernetes.io/config.hash": digest, "kubernetes.io/config.mirror": digest,
                   "kubernetes.io/config.seen": _THEN, "kubernetes.io/config.source": "file"}
    meta = metadata(namespace_, name, {"component": "etcd", "tier": "control-plane"}, annotations)
    meta["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": node_object["metadata"]["name"],
                                "uid": node_object["metadata"]["uid"], "controller": True}]
    return meta


def _status(name, image, container_id, restarts, **state):
    return {"name": name, "image": image, "imageID": f"{image.split(':')[0]}@sha256:{'5a' * 32}", "ready": True,
            "restartCount": restarts, "containerID": container_id and f"containerd://{container_id}", **state}


def _terminated(container_id):
    return {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": _THEN, "finishedAt": _THEN,
                           "containerID": f"containerd://{container_id}"}}


def container_status(name, image, ids, running):
    """What the kubelet says of a container that had these ids, the last of them now."""
    if not ids:
        return _status(name, image, "", 0, state={"waiting": {"reason": "ContainerCreating"}}, ready=False)
    before = _terminated(ids[-2]) if len(ids) > 1 else {}
    state = {"running": {"startedAt": _THEN}} if running else _terminated(ids[-1])
    return _status(name, image, ids[-1], len(ids) - 1, state=state, lastState=before, started=running)
