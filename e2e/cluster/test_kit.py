"""The checks of kit.py: right pushes pass, and each way to be wrong that they are there for is refused."""

import copy
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from kit import Pushes
from process import Failed

ZONE = "rapl:package-0"


def metric(name, joules, start="1", flags=0, **attributes):
    attributes = {"hw.id": ZONE, **{key.replace("__", "."): value for key, value in attributes.items()}}
    point = {"attributes": pairs(attributes), "asDouble": joules, "startTimeUnixNano": start, "flags": flags}
    return {"name": name, "sum": {"dataPoints": [point]}}


def pairs(attributes):
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


def group(metrics, **resource):
    resource = {key.replace("__", "."): value for key, value in resource.items()}
    return {"resource": {"attributes": pairs(resource)}, "scopeMetrics": [{"metrics": metrics}]}


def pod(joules, start="1", **names):
    active = {"wattribute__energy__state": "active", "wattribute__parent__kind": "node"}
    return group([metric("wattribute.pod.energy", joules, start, **active)], k8s__pod__uid="u1", **names)


def push(measured, *pods):
    """A push of a node with 1 J of idle energy and these pods."""
    idle = metric("wattribute.node.energy", 1.0, wattribute__energy__state="idle")
    return {"resourceMetrics": [group([metric("hw.energy", measured), idle], host__name="here"), *pods]}


# The pod is unnamed for 2 J, and named from then on.
RIGHT = [push(3.0, pod(2.0)), push(4.5, pod(1.5, "2", k8s__pod__name="p"))]


class FakeBooks:
    def __init__(self, microjoules):
        self.rows = {"pod:u1": {"id": "pod:u1", "kind": "pod", "active_uj": {ZONE: microjoules}}}

    def workloads(self, *_):
        return self.rows


class Identity(unittest.TestCase):
    def pushes(self, requests):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "pushes.jsonl"
            file.write_text("".join(json.dumps(each) + "\n" for each in requests))
            return Pushes(file)

    def refused(self, requests, why):
        with self.assertRaisesRegex(Failed, why):
            pushes = self.pushes(requests)
            pushes.check_identity()
            pushes.check_delivery(FakeBooks(3_500_000), {})

    def test_right_pushes_pass(self):
        pushes = self.pushes(RIGHT)
        pushes.check_identity()
        pushes.check_delivery(FakeBooks(3_500_000), {})

    def test_a_new_name_that_brings_the_old_total_along(self):
        self.refused([RIGHT[0], push(4.5, pod(3.5, k8s__pod__name="p"))], "after 1 of 2 pushes .*{2: {.*-2000000}}")

    def test_a_new_name_that_forgets_a_push(self):
        self.refused([RIGHT[0], push(4.5, pod(1.4, "2", k8s__pod__name="p"))], "after 1 of 2 pushes .*100000")

    def test_a_pod_that_waits_for_its_name(self):
        self.refused([push(3.0), push(4.5, pod(3.5))], "after 1 of 2 pushes .*{1: {.*2000000}}")

    def test_a_microjoule(self):
        self.refused([RIGHT[0], push(4.500001, pod(1.5, "2", k8s__pod__name="p"))], "pushes meters and books differ")

    def test_a_series_that_falls(self):
        self.refused([RIGHT[0], push(2.0, pod(1.0))], "fell by")

    def test_a_value_that_is_none(self):
        ended = push(4.5, pod(1.5, "2", k8s__pod__name="p"))
        empty = copy.deepcopy(ended["resourceMetrics"][1])
        empty["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0].update(flags=1, asDouble=0.0)
        ended["resourceMetrics"].append(empty)
        self.pushes([RIGHT[0], ended]).check_identity()

    def test_books_that_have_more(self):
        with self.assertRaisesRegex(Failed, "the books have 3500001 µJ, 3500000 µJ were received"):
            self.pushes(RIGHT).check_delivery(FakeBooks(3_500_001), {})

    def test_a_static_pod_under_both_uids(self):
        late = pod(1.5, "2")
        late["resource"]["attributes"][0]["value"]["stringValue"] = "mirror"
        pushes = self.pushes([RIGHT[0], push(4.5, late)])
        pushes.check_delivery(FakeBooks(3_500_000), {"u1": "mirror"})
        with self.assertRaisesRegex(Failed, "2000000 µJ were received"):
            pushes.check_delivery(FakeBooks(3_500_000), {})


if __name__ == "__main__":
    unittest.main()
