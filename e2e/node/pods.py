"""The workloads of the test: pods of every kind of owner, with loads that differ from container to container."""

import json

import node
from packages import BURN

NAMESPACE = "shop"
STATIC = "beacon"
# Percent of one processor, by pod name's start and container; together about one processor.
DUTY = {"web": {"front": 12, "back": 6}, "store": {"db": 10}, "each": {"one": 8}, "nightly": {"work": 20},
        STATIC: {"light": 8}, "two-step": {"main": 9}}
INIT_DUTY, INIT_S = 30, 4
JOB_S = 20
LABELS = {"team": "payments"}
ANNOTATIONS = {"example.com/cost-center": "4711"}


def _container(name, percent, seconds=None):
    return {"name": name, "image": BURN, "imagePullPolicy": "Never",
            "args": [str(percent), *([str(seconds)] if seconds else [])]}


def _template(app, **more):
    containers = [_container(name, percent, JOB_S if app == "nightly" else None) for name, percent in DUTY[app].items()]
    return {"metadata": {"labels": {"app": app, **LABELS}, "annotations": ANNOTATIONS},
            "spec": {"containers": containers, "terminationGracePeriodSeconds": 5, **more}}


def _of(kind, app, spec, version="apps/v1"):
    return {"apiVersion": version, "kind": kind, "metadata": {"name": app, "namespace": NAMESPACE}, "spec": spec}


def _selected(kind, app, template, **spec):
    return _of(kind, app, {"selector": {"matchLabels": {"app": app}}, "template": template, **spec})


def deployment():
    web = _template("web")
    for container in web["spec"]["containers"]:
        container["resources"] = {"requests": {"cpu": "50m"}}  # burstable
    return _selected("Deployment", "web", web, replicas=2)


def others():
    store, two_step = _template("store"), _template("two-step")
    for container in store["spec"]["containers"]:
        container["resources"] = {"limits": {"cpu": "500m", "memory": "32Mi"}}  # guaranteed; the rest is best effort
    two_step["spec"]["initContainers"] = [_container("prepare", INIT_DUTY, INIT_S)]
    job = {"spec": {"template": _template("nightly", restartPolicy="Never")}}
    return [
        # First, as its minute may begin any moment.
        _of("CronJob", "nightly", {"schedule": "* * * * *", "jobTemplate": job}, "batch/v1"),
        _selected("StatefulSet", "store", store, serviceName="store", replicas=1),
        _selected("DaemonSet", "each", _template("each")),
        {"apiVersion": "v1", "kind": "Pod", "spec": two_step["spec"],
         "metadata": {**two_step["metadata"], "name": "two-step", "namespace": NAMESPACE}},
    ]


def write_static():
    """A file for the kubelet, which makes a pod of it that the API server only mirrors."""
    pod = _template(STATIC)
    pod["metadata"].update(name=STATIC, namespace=NAMESPACE)
    (node.STATIC_PODS / f"{STATIC}.json").write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}))


def remove_static():
    (node.STATIC_PODS / f"{STATIC}.json").unlink()
