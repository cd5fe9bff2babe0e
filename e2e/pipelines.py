"""The Collector configurations of otel-config/: each is loaded, and each that can run here is run from end to end.

The agent on a fake machine pushes into the real Collector with the shipped file. What differs from the file is its
ports, the path of its output, and where its exporter sends: to a Prometheus server, or to an HTTP server of ours. The
fake machine has no Kubernetes, so a Collector of our own before it gives the pods their namespaces.
"""

import collections
import http.server
import json
import os
import re
import socket
import threading
import time
import urllib.parse
import urllib.request

from books import Books, prometheus_samples, require
from machine import NGINX, POD_BUSY, POD_CALM, POD_ENDS, Machine
from process import HERE, Agent, Process, free_ports, wait_until

CONFIGS = HERE.parent / "otel-config"
# Each file, and the test of run.py that runs it from end to end.
TESTED = {
    "chargeback": "chargeback",
    "datadog": "vendors",
    "drop-processes": "drop_processes",
    "dynatrace": "vendors",
    "gateway": None,  # loaded here; e2e/cluster runs it against an API server
    "minimal": "grpc",
    "newrelic": "vendors",
    "prometheus": "scrape",
    "prometheus-otlp": "prometheus_server",
    "prometheus-remote-write": "prometheus_server",
}
# Of each vendor: the header with the secret, and what it holds.
VENDORS = {
    "datadog": ("dd-api-key", "a-dd_api_key"),
    "dynatrace": ("authorization", "Api-Token a-dt_api_token"),
    "newrelic": ("api-key", "a-new_relic_license_key"),
}
NAMESPACES = {POD_BUSY: "shop", POD_ENDS: "shop", POD_CALM: "lab"}
PODS = {POD_BUSY: "busy", POD_ENDS: "ends", POD_CALM: "calm"}
DELTA, CUMULATIVE = 1, 2
NO_VALUE = 1  # the flag of a point that says only that its series has ended
TICKS = 8  # the pod that ends does so after four
J_PER_KWH = 3.6e6
_VARIABLE = re.compile(r"\$\{env:([A-Z0-9_]+)(:-)?")


# Loading


def environment(config):
    """A value for every variable that a configuration asks for and has no default for."""
    names = {name for name, default in _VARIABLE.findall(config.read_text()) if not default}
    return {name: f"{'http://' if 'ENDPOINT' in name else ''}a-{name.lower()}" for name in names}


def check_configs(otelcol, directory, tests):
    """Every file loads, and a wrong one would not; no file is left out of the tests."""
    found = {path.stem for path in CONFIGS.glob("*.yaml")}
    require(found == set(TESTED), f"files and tests differ: {sorted(found ^ set(TESTED))}")
    gone = {test for test in TESTED.values() if test} - set(tests)
    require(not gone, f"tests that are not there: {sorted(gone)}")
    for name in sorted(found):
        config = CONFIGS / f"{name}.yaml"
        wanted = environment(config)
        code, said = _validate(otelcol, directory, config, wanted, {})
        require(code == 0, f"{config.name} is refused: {said}")
        code, _ = _validate(otelcol, directory, config, wanted, {"exporters": {"nonsense": {}}})
        require(code != 0, f"{config.name} loads with an exporter that does not exist")
        print(f"                {config.name} loads{', given ' + ', '.join(sorted(wanted)) if wanted else ''}")


def _validate(otelcol, directory, config, variables, more):
    argv = [otelcol, "validate", "--config", config, "--config", "yaml:" + json.dumps(more)]
    with Process("validate", argv, directory, 30, env=_clean(variables)) as check:
        return check.child.wait(), check.stderr.read_text().strip()


def _clean(variables):
    """Our environment without what a configuration may ask for."""
    asked = {name for path in CONFIGS.glob("*.yaml") for name, _ in _VARIABLE.findall(path.read_text())}
    return {key: value for key, value in os.environ.items() if key not in asked} | variables


# What runs


class Pipeline(Process):
    """The Collector with a file of otel-config/, moved to free ports; `changes` is merged over it."""

    def __init__(self, otelcol, directory, name, changes, variables=None, config=None):
        self.grpc, self.http = free_ports(2)
        moved = {
            "receivers": {"otlp": {"protocols": {
                "grpc": {"endpoint": f"127.0.0.1:{self.grpc}"},
                "http": {"endpoint": f"127.0.0.1:{self.http}"},
            }}},
            "service": {"telemetry": {"metrics": {"level": "none"}}},
        }
        argv = [otelcol]
        for each in (config or CONFIGS / f"{name}.yaml", moved, changes):
            argv += ["--config", "yaml:" + json.dumps(each) if isinstance(each, dict) else each]
        super().__init__(f"collector-{name}", argv, directory, 180, env=_clean(variables or {}))
        wait_until(f"the Collector with {name} to listen",
                   lambda: self.must_run() and _listens(self.grpc) and _listens(self.http), 30)


class Names(Pipeline):
    """A Collector that gives the fake machine's pods a namespace and a name, and hands on to another."""

    def __init__(self, otelcol, directory, target):
        def where(key, values):
            return [f'set(resource.attributes["{key}"], "{value}") where resource.attributes["k8s.pod.uid"] == "{uid}"'
                    for uid, value in values.items()]

        statements = where("k8s.namespace.name", NAMESPACES) + where("k8s.pod.name", PODS)
        self.pushes = directory / "named.jsonl"
        super().__init__(otelcol, directory, "names", {}, config={
            "receivers": {"otlp": {"protocols": {"grpc": {}, "http": {}}}},
            "processors": {"transform": {"metric_statements": [{"context": "resource", "statements": statements}]}},
            "exporters": {
                "file": {"path": str(self.pushes)},
                # Without a queue, a push has arrived when the agent gets its answer.
                "otlp_grpc": {"endpoint": f"127.0.0.1:{target.grpc}", "tls": {"insecure": True},
                              "sending_queue": {"enabled": False}},
            },
            "service": {"pipelines": {"metrics": {
                "receivers": ["otlp"], "processors": ["transform"], "exporters": ["file", "otlp_grpc"]}}},
        })


class Sink:
    """An HTTP server that keeps what is posted to it: bodies as lines of a file, and headers."""

    def __init__(self, path):
        self.path, self.requests = path, []
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                with sink.path.open("ab") as file:
                    file.write(body + b"\n")
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class Prometheus(Process):
    """A Prometheus server with the shipped prometheus.yml, which takes OTLP and remote write."""

    def __init__(self, binary, directory):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        argv = [binary, f"--config.file={CONFIGS / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}", "--web.enable-otlp-receiver",
                "--web.enable-remote-write-receiver", "--enable-feature=created-timestamp-zero-ingestion"]
        super().__init__("prometheus", argv, directory, 180)
        wait_until("Prometheus to be ready", lambda: self.must_run() and self._ready(), 30)

    def _ready(self):
        try:
            return _get(f"{self.url}/-/ready")
        except OSError:
            return False

    def query(self, promql):
        """The answer to an instant query: (labels, value) of each series."""
        answer = json.loads(_get(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"))
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]


def _get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def run_agent(binary, directory, port, more=None, node="fake-node"):
    """Some seconds of the agent on a fake machine; the books of the run."""
    directory = directory / node
    directory.mkdir()
    with Machine(directory / "machine") as machine:
        (machine.root / "proc/sys/kernel/hostname").write_text(f"{node}\n")
        settings = {
            "interval": "1s",
            "export.stdout.format": "json",
            "export.otlp.endpoint": f"http://127.0.0.1:{port}",
            "export.otlp.interval": "2s",
            **machine.settings,
            **(more or {}),
        }
        with Agent(binary, directory, settings) as agent:
            agent.wait_for_ticks(TICKS, 40)
            agent.stop()
    books = Books(agent.lines("stdout"))
    books.check()
    return books


def joules(books, kind="pod"):
    """What each workload of a kind used in the run, by id and zone, in µJ."""
    return {(row["id"].split(":", 1)[1], zone): row["active_uj"].get(zone, 0)
            for row in books.workloads(kind).values() for zone in books.primary()}


# Prometheus scrapes


def check_scrape(binary, otelcol, directory):
    """Two nodes, one page: each pod, container and service of each node is one series with its own joules."""
    nodes = ("node-a", "node-b")
    (port,) = free_ports(1)
    changes = {"exporters": {"prometheus": {"endpoint": f"127.0.0.1:{port}"}}}
    with Pipeline(otelcol, directory, "prometheus", changes) as collector:
        runs = {node: run_agent(binary, directory, collector.grpc, node=node) for node in nodes}
        page = _get(f"http://127.0.0.1:{port}/metrics")
        collector.stop()
    counted = 0
    for kind in ("pod", "container", "service"):
        samples = prometheus_samples(page, f"wattribute_{kind}_energy")
        for node, books in runs.items():
            for (text_id, zone), microjoules in joules(books, kind).items():
                text_id = NGINX.rsplit("/", 1)[-1] if text_id == NGINX else text_id
                mine = [value for labels, value in samples if labels["host_name"] == node and labels["hw_id"] == zone
                        and text_id in labels.values() and labels["wattribute_energy_state"] == "active"]
                if microjoules or mine:
                    require(mine == [microjoules],
                            f"{node}: {kind} {text_id} of {zone} used {microjoules} µJ; the page has {mine}")
                    counted += 1
    print(f"                {counted} series of two nodes, those of ended pods too, have the joules of the books")


# A Prometheus server


def check_prometheus_server(binary, otelcol, prometheus, directory):
    """By OTLP and by remote write, the server has the joules of the books, and the examples' queries are right."""
    for name in ("prometheus-otlp", "prometheus-remote-write"):
        place = directory / name
        place.mkdir()
        with Prometheus(prometheus, place) as server:
            endpoint = server.url if name == "prometheus-otlp" else f"{server.url}/api/v1/write"
            variable = "PROMETHEUS_URL" if name == "prometheus-otlp" else "REMOTE_WRITE_ENDPOINT"
            with Pipeline(otelcol, place, name, {}, {variable: endpoint}) as collector, \
                 Names(otelcol, place, collector) as names:
                books = run_agent(binary, place, names.grpc)
                names.stop()
                collector.stop()  # it sends what it still has
            _check_promql(name, server, books)
            server.stop()


def _check_promql(name, server, books):
    pods = joules(books)
    # A pod that has ended is stale, so its last sample is asked for, not its present one.
    last = "last_over_time(wattribute_pod_energy_joules_total{wattribute_energy_state='active'}[1h])"
    found = collections.defaultdict(list)
    for labels, value in server.query(last):
        found[labels["k8s_pod_uid"], labels["hw_id"]].append(round(value * 1e6))
    wrong = {key: (value, found[key]) for key, value in pods.items() if found[key] != [value]}
    require(not wrong, f"{name}: joules of pods in the books, and in Prometheus: {wrong}")
    namespaces = _by_namespace(pods)
    kwh = {labels["k8s_namespace_name"]: value
           for labels, value in server.query(f"sum by (k8s_namespace_name) ({last}) / 3.6e6")}
    _close(f"{name}: kWh by namespace", kwh, {key: value / 1e6 / J_PER_KWH for key, value in namespaces.items()})
    # The last interval of the run is short, and the fake machine may not have moved in it.
    for selected, pods_in_it in (("wattribute_pod_power_watts", (POD_BUSY, POD_CALM)),
                                 ("avg_over_time(wattribute_pod_power_watts[1h])", PODS)):
        watts = server.query(f"sum by (k8s_namespace_name, k8s_pod_name) ({selected})")
        seen = {(labels.get("k8s_namespace_name"), labels.get("k8s_pod_name")) for labels, _ in watts}
        require(seen == {(NAMESPACES[uid], PODS[uid]) for uid in pods_in_it}, f"{name}: {selected}: {watts}")
    require(all(value > 0 for _, value in watts), f"{name}: watts by pod: {watts}")
    increase = {labels["k8s_namespace_name"]: value for labels, value in server.query(
        "sum by (k8s_namespace_name)"
        " (increase(wattribute_pod_energy_joules_total{wattribute_energy_state='active'}[1h]))")}
    # By OTLP the server knows when a series began at 0. By remote write its first value is lost to increase(), here the
    # first of four pushes; and at both ends it guesses.
    least = 0.9 if name == "prometheus-otlp" else 0.5
    for key, microjoules in namespaces.items():
        require(least < increase[key] / (microjoules / 1e6) < 1.2,
                f"{name}: increase() is {increase} of {namespaces} µJ")
    nodes = server.query("sum(wattribute_unattributed_energy_joules_total) + sum(wattribute_node_energy_joules_total)"
                         " - sum(hw_energy_joules_total)")
    require(len(nodes) == 1 and abs(nodes[0][1]) < 1e-6, f"{name}: the node's books differ by {nodes} J")
    print(f"                {name}: {len(pods)} series of pods to the microjoule; kWh {_short(kwh)}; "
          f"increase() {_short(increase)} J of {_short(namespaces, 1e-6)} J")


def _by_namespace(pods):
    sums = collections.Counter()
    for (uid, _), microjoules in pods.items():
        sums[NAMESPACES[uid]] += microjoules
    return dict(sums)


def _close(what, got, expected):
    require(got.keys() == expected.keys() and all(abs(got[key] - value) <= 1e-9 * value
                                                  for key, value in expected.items()),
            f"{what}: {got}, expected {expected}")


def _short(values, factor=1):
    return ", ".join(f"{key} {value * factor:.6g}" for key, value in sorted(values.items()))


# Chargeback


def check_chargeback(binary, otelcol, directory):
    """A namespace's kWh are the sum of its pods', also of those that have ended, and never fall."""
    for temporality in ("cumulative", "delta"):
        place = directory / temporality
        with _chargeback(otelcol, place) as collector, Names(otelcol, place, collector) as names:
            books = run_agent(binary, place, names.grpc, {"export.otlp.temporality": temporality})
            names.stop()
            collector.stop()
        require(f"pod:{POD_ENDS}" not in books.alive("pod"), "the pod that ends has not ended")
        kwh = _never_falls(collector.output)
        expected = {key: value / 1e6 / J_PER_KWH for key, value in _by_namespace(joules(books)).items()}
        _close(f"chargeback of {temporality} points", kwh, expected)
        print(f"                {temporality}: {_short(kwh)} kWh, as the pods' books; "
              f"{len(_lines(collector.output))} totals that never fell")


def _chargeback(otelcol, place):
    place.mkdir()
    (port,) = free_ports(1)
    output = place / "chargeback.jsonl"
    changes = {"exporters": {"file": {"path": str(output)}, "prometheus": {"endpoint": f"127.0.0.1:{port}"}}}
    collector = Pipeline(otelcol, place, "chargeback", changes)
    collector.output = output
    return collector


def _never_falls(path):
    """The last kWh of each namespace. Fails if one is ever less than before, or if two series are of one namespace."""
    last = {}
    for request in _lines(path):
        points = [_attributes(point) for _, _, point in _points(request)]
        require(all(points.count(each) == 1 for each in points), f"a namespace was not summed up: {points}")
        for _, metric, point in _points(request):
            require((metric["name"], metric["unit"]) == ("chargeback.energy", "kWh"), f"unexpected: {metric}")
            require(metric["sum"]["aggregationTemporality"] == CUMULATIVE, "a total is to be cumulative")
            attributes = _attributes(point)
            require(attributes.pop("wattribute.energy.state") == "active", f"unexpected: {point}")
            namespace = attributes.pop("k8s.namespace.name")
            require(not attributes, f"attributes of single pods: {attributes}")
            require(int(point["startTimeUnixNano"]) > 1e18, f"{namespace} begins in 1970: {point}")
            before = last.get(namespace, 0)
            require(point["asDouble"] >= before, f"{namespace} fell from {before} kWh to {point}")
            last[namespace] = point["asDouble"]
    return last


def check_chargeback_changes(otelcol, directory):
    """What could be counted twice or lost: late names, changed labels, two nodes, a split push, restarts of agents."""
    place = directory / "changes"
    with _chargeback(otelcol, place) as collector:
        clock = time.time_ns()

        def push(second, *pods):
            _post(f"http://127.0.0.1:{collector.http}/v1/metrics", _pods(clock, second, pods))

        push(1, ("a", 100, {"k8s.node.name": "one"}, 0))  # no namespace yet
        push(1, ("x", 40, {"k8s.namespace.name": "lab", "k8s.node.name": "two"}, 0))  # the same instant, another node
        push(2, ("a", 150, {"k8s.namespace.name": "shop"}, 0), ("b", 7, {"k8s.namespace.name": "shop"}, 1))
        push(2, ("c", 3, {"k8s.namespace.name": "shop"}, 1))  # the rest of that push, as the agent splits a large one
        time.sleep(1.5)  # another batch
        push(3, ("a", 200, {"k8s.namespace.name": "shop", "k8s.pod.label.team": "new"}, 0))  # b has ended
        push(4, ("a", 30, {"k8s.namespace.name": "shop"}, 3.5))  # the agent has started anew: totals from 0
        push(4, ("d", 5, {"k8s.namespace.name": "shop"}, 0.5))  # found late, with a start before that of the total
        collector.stop()
    kwh = _never_falls(collector.output)
    _close("chargeback of changing pods", kwh, {"shop": (200 + 30 + 7 + 3 + 5) / J_PER_KWH, "lab": 40 / J_PER_KWH})
    print(f"                late names, new labels, a restart, a split push: {_short(kwh, J_PER_KWH)} J, none twice")


def _pods(clock, second, pods):
    """A request with the totals of pods: (uid, joules, attributes, start)."""
    def time_of(at):
        return str(clock + round(at * 1e9))

    return {"resourceMetrics": [{
        "resource": {"attributes": _key_values({"k8s.pod.uid": uid, **attributes})},
        "scopeMetrics": [{"metrics": [{"name": "wattribute.pod.energy", "unit": "J", "sum": {
            "aggregationTemporality": CUMULATIVE, "isMonotonic": True, "dataPoints": [{
                "asDouble": total, "startTimeUnixNano": time_of(start), "timeUnixNano": time_of(second),
                "attributes": _key_values({"hw.id": "rapl:package-0", "wattribute.energy.state": "active"})}]}}]}],
    } for uid, total, attributes, start in pods]}


def _key_values(attributes):
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


def _post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


# Processes


def check_drop_processes(binary, otelcol, directory):
    """Nothing of processes arrives, and of all else every point."""
    with Sink(directory / "received.jsonl") as sink:
        changes = {"exporters": {"otlp_http": {"encoding": "json", "compression": "none"}}}
        variables = {"BACKEND_ENDPOINT": sink.url}
        with Pipeline(otelcol, directory, "drop-processes", changes, variables) as collector, \
             Names(otelcol, directory, collector) as names:
            run_agent(binary, directory, names.grpc)
            names.stop()
            collector.stop()
    sent, received = _count(names.pushes), _count(sink.path)
    processes = {name: count for name, count in sent.items() if name.startswith("wattribute.process.")}
    require(processes, f"the agent has sent no processes: {sent}")
    rest = {name: count for name, count in sent.items() if name not in processes}
    require(received == rest, f"received {received}, expected {rest}")
    print(f"                {sum(processes.values())} points of processes are gone, {sum(rest.values())} others came")


def _count(path):
    """How many points of each metric a file has."""
    return dict(collections.Counter(metric["name"] for request in _lines(path) for _, metric, _ in _points(request)))


# Vendors


def check_vendors(binary, otelcol, directory):
    """What a vendor would get: every counter as deltas whose sums are the totals of the books, and the secret."""
    for name in VENDORS:
        for temporality in ("cumulative", "delta") if name == "datadog" else ("cumulative",):
            place = directory / f"{name}-{temporality}"
            place.mkdir()
            _check_vendor(name, temporality, binary, otelcol, place)


def _check_vendor(name, temporality, binary, otelcol, place):
    with Sink(place / "received.jsonl") as sink:
        exporter = {"encoding": "json", "compression": "none"}
        if name == "datadog":
            exporter["metrics_endpoint"] = f"{sink.url}/v1/metrics"
        else:
            exporter["endpoint"] = sink.url
        variables = environment(CONFIGS / f"{name}.yaml")
        with Pipeline(otelcol, place, name, {"exporters": {"otlp_http": exporter}}, variables) as collector:
            books = run_agent(binary, place, collector.grpc, {"export.otlp.temporality": temporality})
            collector.stop()
    header, value = VENDORS[name]
    require(sink.requests, f"{name}: nothing arrived")
    for path, headers in sink.requests:
        require(path == "/v1/metrics" and headers.get(header) == value, f"{name}: {path} with {headers}")
    sums = collections.Counter()
    for request in _lines(sink.path):
        for resource, metric, point in _points(request):
            if "sum" not in metric or int(point.get("flags", 0)) & NO_VALUE:
                continue
            require(metric["sum"]["aggregationTemporality"] == DELTA, f"{name}: {metric['name']} is no delta")
            attributes = resource | _attributes(point)
            if metric["name"] == "wattribute.pod.energy":
                sums[attributes["k8s.pod.uid"], attributes["hw.id"]] += round(point["asDouble"] * 1e6)
    wrong = {key: (value, sums[key]) for key, value in joules(books).items() if abs(sums[key] - value) > TICKS}
    require(sums and not wrong, f"{name}: totals of the books and sums of deltas: {wrong}")
    print(f"                {name}, {temporality} points: {len(sink.requests)} requests, all counters deltas; "
          f"{len(sums)} sums of pods are the books' totals ({sum(sums.values()) / 1e6:.3f} J)")


# OTLP in JSON


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _points(request):
    for group in request.get("resourceMetrics", []):
        for scope in group.get("scopeMetrics", []):
            for metric in scope.get("metrics", []):
                for point in (metric.get("sum") or metric.get("gauge"))["dataPoints"]:
                    yield _attributes(group["resource"]), metric, point


def _attributes(holder):
    return {each["key"]: next(iter(each["value"].values()), "") for each in holder.get("attributes", [])}
