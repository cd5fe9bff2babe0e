"""The checks of books.py: a right run passes, and each way to be wrong that they are there for is refused."""

import copy
import json
import pathlib
import tempfile
import unittest

from books import Books, Received, check_delivery, check_prometheus
from process import Failed

ZONE = "rapl:package-0"
POD, CONTAINER, SERVICE = "pod:u1", "container:c1", "service:/system.slice/nginx.service"
OTHER, SLICE = "pod:u2", "slice:/user.slice"


def tick(number):
    """One tick in which all accounts are used. The second pod is there in the first tick only."""
    node, pod, other, slice_, service = 700, 300, 100 if number == 1 else 0, 150, 50
    zone = {"zone": ZONE, "domain": "package", "role": "primary", "quality": "measured", "state": "ok",
            "measured_uj": 1000, "idle_uj": 250, "attributed_uj": node, "unattributed_uj": 50}
    # Not booked, so its accounts need not add up.
    core = {**zone, "zone": "rapl:core", "role": "contained", "idle_uj": 0, "attributed_uj": 0, "unattributed_uj": 0}

    def row(key, parent, active, exited, attributes):
        return {"id": key, "kind": key.split(":")[0], "parent": parent, "name": key, "attributes": attributes,
                "cpu_us": active, "active_uj": {ZONE: active}, "exited_uj": {ZONE: exited}}

    rows = [
        row("node", "node", node, node - pod - other - slice_ - service, {"host.name": "here"}),
        row(POD, "node", pod, 20, {"k8s.pod.uid": "u1"}),
        row(CONTAINER, POD, pod - 20, 180, {"k8s.pod.uid": "u1", "container.id": "c1"}),
        row("process:7@9", CONTAINER, 100, 0, {}),
        row(SERVICE, "node", service, service, {"process.linux.cgroup": "/system.slice/nginx.service"}),
        row(SLICE, "node", slice_, slice_, {"process.linux.cgroup": "/user.slice"}),
    ]
    if number == 1:
        rows.append(row(OTHER, "node", other, other, {"k8s.pod.uid": "u2"}))
    return {"type": "tick", "version": 1, "tick": number, "time_s": number, "interval_s": 1.0,
            "zones": [zone, core], "workloads": rows}


def run():
    """Two ticks and their total, without the pod that ended."""
    ticks = [tick(1), tick(2)]
    total = copy.deepcopy({**ticks[1], "type": "total"})
    for zone in total["zones"]:
        for part in ("measured_uj", "idle_uj", "attributed_uj", "unattributed_uj"):
            zone[part] *= 2
    for row in total["workloads"]:
        for column in ("active_uj", "exited_uj"):
            row[column] = {zone: 2 * energy for zone, energy in row[column].items()}
    total["workloads"][0]["exited_uj"][ZONE] -= 100
    return [*ticks, total]


def books_of(objects):
    return Books([json.dumps(each) for each in objects])


def push(scale=1.0):
    """What an agent that measured `run()` pushes at its end, as the file exporter writes it."""
    def metric(name, energy, **attributes):
        attributes = {"hw.id": ZONE, **{key.replace("_", "."): value for key, value in attributes.items()}}
        point = {"asDouble": scale * energy * 1e-6, "startTimeUnixNano": "1", "timeUnixNano": "2",
                 "attributes": pairs(attributes)}
        return {"name": name, "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [point]}}

    def pairs(attributes):
        return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]

    def entity(metrics, **attributes):
        attributes = {key.replace("_", "."): value for key, value in attributes.items()}
        return {"resource": {"attributes": pairs(attributes)}, "scopeMetrics": [{"metrics": metrics}]}

    def workload(kind, energy, parent="node"):
        return [metric(f"wattribute.{kind}.energy", energy,
                       wattribute_energy_state="active", wattribute_parent_kind=parent)]

    nobody = workload("process", 2 * 200 - 100)  # what the node gave to none of its children
    return {"resourceMetrics": [
        entity([metric("hw.energy", 2000), metric("wattribute.unattributed.energy", 100),
                metric("wattribute.node.energy", 1400, wattribute_energy_state="active"),
                metric("wattribute.node.energy", 500, wattribute_energy_state="idle"), *nobody], host_name="here"),
        entity(workload("pod", 600), k8s_pod_uid="u1"),
        entity(workload("pod", 100), k8s_pod_uid="u2"),
        entity(workload("container", 560, "pod"), k8s_pod_uid="u1", container_id="c1"),
        entity(workload("service", 100), process_linux_cgroup="/system.slice/nginx.service"),
        entity(workload("slice", 300), process_linux_cgroup="/user.slice"),
    ]}


def received_of(*pushes):
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory) / "pushes.jsonl"
        file.write_text("".join(json.dumps(each) + "\n" for each in pushes))
        return Received(file)


def first_metric(request, group):
    return request["resourceMetrics"][group]["scopeMetrics"][0]["metrics"][0]


class JsonLines(unittest.TestCase):
    def refused(self, change, why):
        objects = run()
        change(objects)
        with self.assertRaisesRegex(Failed, why):
            books_of(objects).check()

    def test_right_books_pass(self):
        books_of(run()).check()

    def test_a_run_without_a_total(self):
        self.refused(lambda objects: objects.pop(), "does not end with the one total")

    def test_a_microjoule_lost_in_a_zone(self):
        def change(objects):
            objects[1]["zones"][0]["idle_uj"] -= 1
        self.refused(change, r"tick 2: rapl:package-0 measured, and idle .* differ: 1000 and 999")

    def test_a_negative_account(self):
        def change(objects):
            objects[0]["zones"][0].update(idle_uj=-5, unattributed_uj=305)
        self.refused(change, "negative")

    def test_a_node_that_differs_from_attributed(self):
        def change(objects):
            objects[0]["workloads"][0]["active_uj"][ZONE] += 1
        self.refused(change, "active of the node, and attributed")

    def test_a_microjoule_lost_in_the_tree(self):
        def change(objects):
            objects[1]["workloads"][3]["active_uj"][ZONE] -= 1  # the process, so its container is the one off
        self.refused(change, "active of container:c1, and its children")

    def test_a_leaf_that_does_not_explain_itself(self):
        def change(objects):
            objects[0]["workloads"][4]["exited_uj"][ZONE] = 0
        self.refused(change, "active of service:")

    def test_an_orphan(self):
        def change(objects):
            objects[0]["workloads"][3]["parent"] = "container:gone"
        self.refused(change, "a parent that is not there")

    def test_a_workload_twice(self):
        def change(objects):
            objects[0]["workloads"].append(objects[0]["workloads"][3])
        self.refused(change, "listed twice")

    def test_a_zone_total_that_is_not_the_sum(self):
        def change(objects):
            objects[2]["zones"][0]["measured_uj"] += 1
        self.refused(change, "sum of the ticks and total of rapl:package-0 measured_uj differ: 2000 and 2001")

    def test_a_workload_total_that_is_not_the_sum(self):
        def change(objects):
            objects[2]["workloads"][1]["active_uj"] = {}
        self.refused(change, "sum of the ticks and total of pod:u1")

    def test_a_workload_missing_from_the_total(self):
        self.refused(lambda objects: objects[2]["workloads"].pop(1), "alive in the last tick but not in the total")


class Delivery(unittest.TestCase):
    def refused(self, change, why):
        request = push()
        change(request)
        with self.assertRaisesRegex(Failed, why):
            received = received_of(push(0.5), request)
            received.check_identity()
            check_delivery(books_of(run()), received)

    def test_right_pushes_pass(self):
        received = received_of(push(0.5), push())
        received.check_identity()
        check_delivery(books_of(run()), received)

    def test_no_push(self):
        with self.assertRaisesRegex(Failed, "received no energy"):
            received_of()

    def test_a_point_without_a_value_is_no_value(self):
        ended = push()
        point = first_metric(ended, 1)["sum"]["dataPoints"][0]
        del point["asDouble"]
        point["flags"] = 1
        check_delivery(books_of(run()), received_of(push(), ended))

    def test_a_series_with_two_starts_is_their_sum(self):
        first, second = push(0.25), push(0.75)
        for group in second["resourceMetrics"]:
            for metric in group["scopeMetrics"][0]["metrics"]:
                metric["sum"]["dataPoints"][0]["startTimeUnixNano"] = "2"
        check_delivery(books_of(run()), received_of(first, second))

    def test_a_counter_that_falls(self):
        with self.assertRaisesRegex(Failed, "fell from"):
            received_of(push(), push(0.5))

    def test_delta(self):
        self.refused(lambda request: first_metric(request, 1)["sum"].update(aggregationTemporality=1), "no cumulative")

    def test_a_microjoule_too_many_for_a_pod(self):
        def change(request):
            first_metric(request, 1)["sum"]["dataPoints"][0]["asDouble"] += 1e-6
        self.refused(change, "at the receiver: rapl:package-0 meter")

    def test_a_microjoule_too_many_inside_a_pod(self):
        def change(request):
            first_metric(request, 3)["sum"]["dataPoints"][0]["asDouble"] += 1e-6
        self.refused(change, "container:c1 of rapl:package-0, received and total differ: 561 and 560")

    def test_an_ended_pod_that_went_to_nobody(self):
        request = push()
        del request["resourceMetrics"][2]
        nobody = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][-1]
        nobody["sum"]["dataPoints"][0]["asDouble"] += 100e-6
        received = received_of(request)
        received.check_identity()  # the sum is right: only the comparison by workload sees it
        with self.assertRaisesRegex(Failed, "pod:u2 came in 0 Resources"):
            check_delivery(books_of(run()), received)

    def test_a_workload_counted_at_two_levels(self):
        def change(request):
            first_metric(request, 3)["sum"]["dataPoints"][0]["attributes"][2]["value"]["stringValue"] = "node"
        self.refused(change, "at the receiver")

    def test_a_resource_that_changed_midway(self):
        later = push()
        name = {"key": "k8s.pod.name", "value": {"stringValue": "p"}}
        later["resourceMetrics"][1]["resource"]["attributes"].append(name)
        with self.assertRaisesRegex(Failed, "pod:u1 came in 2 Resources"):
            check_delivery(books_of(run()), received_of(push(0.5), later))

    def test_two_workloads_in_one_resource(self):
        request = push()
        groups = request["resourceMetrics"]
        both = {"key": "process.linux.cgroup", "value": {"stringValue": "/user.slice"}}
        groups[1]["resource"]["attributes"].append(both)
        groups[5]["resource"] = groups[1]["resource"]
        with self.assertRaisesRegex(Failed, "share a Resource"):
            check_delivery(books_of(run()), received_of(request))

    def test_a_zone_that_is_not_booked(self):
        def change(request):
            metric = copy.deepcopy(first_metric(request, 0))
            metric["sum"]["dataPoints"][0]["attributes"][0]["value"]["stringValue"] = "rapl:core"
            metric["sum"]["dataPoints"][0]["asDouble"] = 0.0
            request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].append(metric)
        self.refused(change, "zones booked and received differ")


class Prometheus(unittest.TestCase):
    def exposition(self, uid_of_pod="u1", value=600e-6):
        sample = '{name}_joules_total{{hw_id="rapl:package-0",wattribute_energy_state="active",id="{id}"}} {value}\n'
        return (sample.format(name="wattribute_pod_energy", id=uid_of_pod, value=value)
                + sample.format(name="wattribute_container_energy", id="c1", value=560e-6)
                + sample.format(name="wattribute_pod_power", id="u1", value=1))

    def test_right_samples_pass(self):
        check_prometheus(books_of(run()), self.exposition())

    def test_a_pod_that_another_has_overwritten(self):
        with self.assertRaisesRegex(Failed, "0 samples of pod:u1"):
            check_prometheus(books_of(run()), self.exposition(uid_of_pod="u2"))

    def test_a_wrong_value(self):
        with self.assertRaisesRegex(Failed, "Prometheus and total differ"):
            check_prometheus(books_of(run()), self.exposition(value=601e-6))


if __name__ == "__main__":
    unittest.main()
