"""The checks of the pipelines accept what is right and refuse what is wrong."""

import copy
import json
import pathlib
import tempfile
import unittest

import pipelines
from process import Failed

RIGHT = {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"metrics": [{
    "name": "chargeback.energy", "unit": "kWh", "sum": {"aggregationTemporality": 2, "dataPoints": [
        {"startTimeUnixNano": "1800000000000000000", "asDouble": kwh, "attributes": [
            {"key": "k8s.namespace.name", "value": {"stringValue": namespace}},
            {"key": "wattribute.energy.state", "value": {"stringValue": "active"}}]}
        for namespace, kwh in (("shop", 2.0), ("lab", 1.0))]}}]}]}]}


class Chargeback(unittest.TestCase):
    def read(self, *requests):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "chargeback.jsonl"
            path.write_text("".join(json.dumps(request) + "\n" for request in requests))
            return pipelines._never_falls(path)

    def changed(self, change):
        request = copy.deepcopy(RIGHT)
        metric = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]
        change(metric, metric["sum"]["dataPoints"][0])
        return request

    def test_last_totals(self):
        later = self.changed(lambda _, point: point.update(asDouble=2.5))
        self.assertEqual(self.read(RIGHT, later), {"shop": 2.5, "lab": 1.0})

    def test_wrong_ones(self):
        for what, change in {
            "falls": lambda _, point: point.update(asDouble=1.9),
            "is twice there": lambda metric, point: metric["sum"]["dataPoints"].append(point),
            "is a delta": lambda metric, _: metric["sum"].update(aggregationTemporality=1),
            "is in joules": lambda metric, _: metric.update(unit="J"),
            "is of one pod": lambda _, point: point["attributes"].append({"key": "k8s.pod.uid", "value": {}}),
            "begins in 1970": lambda _, point: point.update(startTimeUnixNano="1"),
        }.items():
            with self.subTest(what), self.assertRaises(Failed):
                self.read(RIGHT, self.changed(change))


class Configs(unittest.TestCase):
    def test_only_variables_without_default_are_asked_for(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "x.yaml"
            path.write_text("a: ${env:KEY}\nb: ${env:LISTEN:-127.0.0.1}:1\nc: https://${env:X_ENDPOINT}\n")
            self.assertEqual(pipelines.environment(path), {"KEY": "a-key", "X_ENDPOINT": "http://a-x_endpoint"})


if __name__ == "__main__":
    unittest.main()
