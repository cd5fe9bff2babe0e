"""What the tests hold true of the books: of the JSON lines on stdout, of what a receiver gets, and of both together.

Energies are integer microjoules on both sides. OTLP carries them as joules in a double, which is exact to the
microjoule after rounding for anything that a test can burn.
"""

import collections
import json
import re

from process import Failed

NODE = "node"
WORKLOAD_METRIC = re.compile(r"wattribute\.(pod|container|vm|service|slice|job|kernel|process)\.energy$")
# Zone accounts, and the parts that must add up to the first.
ROUNDING_UJ = 5
OWED_UJ = 40_000_000  # two steps of the fake machine's 90 W
MEASURED, PARTS = "measured_uj", ("idle_uj", "attributed_uj", "unattributed_uj")


def require(condition, what):
    if not condition:
        raise Failed(what)


# The JSON lines


class Books:
    """The ticks and the total of one run, and their sums."""

    def __init__(self, lines):
        objects = [json.loads(line) for line in lines]
        self.ticks = [each for each in objects if each["type"] == "tick"]
        totals = [each for each in objects if each["type"] == "total"]
        require(self.ticks, "no tick on stdout")
        require(len(totals) == 1 and objects[-1] is totals[0], "stdout does not end with the one total")
        self.total = totals[0]

    def check(self):
        """Everything that must hold within the JSON alone."""
        for tick in self.ticks:
            _check_tick(tick)
        self._check_total()

    def _check_total(self):
        zones = _sum((zone["zone"], {part: zone.get(part) or 0 for part in (MEASURED, *PARTS)})
                     for tick in self.ticks for zone in tick["zones"])
        for zone in self.total["zones"]:
            for part in (MEASURED, *PARTS):
                _equal(f"sum of the ticks and total of {zone['zone']} {part}",
                       zones[zone["zone"]][part], zone.get(part) or 0)
        sums = self._active_of_ticks()
        for workload in self.total["workloads"]:
            for zone in sums[workload["id"]].keys() | workload["active_uj"].keys():
                _equal(f"sum of the ticks and total of {workload['id']} {zone}",
                       sums[workload["id"]][zone], workload["active_uj"].get(zone, 0))
        gone = {row["id"] for row in self.ticks[-1]["workloads"]} - {row["id"] for row in self.total["workloads"]}
        require(not gone, f"alive in the last tick but not in the total: {sorted(gone)}")

    def _active_of_ticks(self):
        return _sum((row["id"], row["active_uj"]) for tick in self.ticks for row in tick["workloads"])

    def primary(self):
        """The zones that are booked, by id, with their totals."""
        return {zone["zone"]: zone for zone in self.total["zones"] if zone["role"] == "primary"}

    def workloads(self, *kinds):
        """Every workload of these kinds that ever stood in a tick, by id, with its active energy over the run."""
        rows = {row["id"]: row for tick in self.ticks for row in tick["workloads"]}
        sums = self._active_of_ticks()
        return {key: {**row, "active_uj": dict(sums[key])} for key, row in rows.items() if row["kind"] in kinds}

    def alive(self, *kinds):
        """The workloads of these kinds in the last tick."""
        living = {row["id"] for row in self.ticks[-1]["workloads"]}
        return {key: row for key, row in self.workloads(*kinds).items() if key in living}


def _check_tick(tick):
    where = f"tick {tick['tick']}"
    rows = {row["id"]: row for row in tick["workloads"]}
    require(len(rows) == len(tick["workloads"]), f"{where}: a workload is listed twice")
    children = collections.defaultdict(list)
    for row in tick["workloads"]:
        if row["id"] != NODE:
            require(row["parent"] in rows, f"{where}: {row['id']} has a parent that is not there: {row['parent']}")
            children[row["parent"]].append(row)
    for zone in tick["zones"]:
        if zone["role"] != "primary":
            continue
        name = zone["zone"]
        measured, parts = zone[MEASURED] or 0, [zone[part] for part in PARTS]
        _equal(f"{where}: {name} measured, and idle + attributed + unattributed", measured, sum(parts))
        require(min(measured, *parts) >= 0, f"{where}: {name} has a negative account")
        _equal(f"{where}: {name} active of the node, and attributed", _active(rows[NODE], name), zone["attributed_uj"])
        for key, row in rows.items():
            if children[key] or row["kind"] not in ("process", "kernel"):  # those two may be leaves, without `exited`
                explained = sum(_active(child, name) for child in children[key]) + row["exited_uj"].get(name, 0)
                _equal(f"{where}: {name} active of {key}, and its children + exited", _active(row, name), explained)


def _active(row, zone):
    return row["active_uj"].get(zone, 0)


def _equal(what, left, right):
    require(left == right, f"{what} differ: {left} and {right} µJ")


def _sum(pairs):
    sums = collections.defaultdict(collections.Counter)
    for key, amounts in pairs:
        sums[key].update(amounts)
    return sums


# What the Collector wrote


Series = collections.namedtuple("Series", "metric resource attributes microjoules")


class Received:
    """The last value of every cumulative energy series in the file of the Collector's file exporter."""

    def __init__(self, path):
        values = {}  # (metric, resource, attributes) -> start time -> µJ
        self.attributes = collections.defaultdict(set)  # every value that an attribute of any point has
        for line in path.read_text().splitlines():
            for resource, metric, point in _points(json.loads(line)):
                attributes = _attributes(point)
                for key, value in attributes.items():
                    self.attributes[key].add(value)
                if not metric["name"].endswith(".energy") or int(point.get("flags", 0)) & 1:  # 1: no recorded value
                    continue
                _cumulative(metric)
                key = metric["name"], frozenset(resource.items()), frozenset(attributes.items())
                lives = values.setdefault(key, {})
                value = round(point["asDouble"] * 1e6)
                start = point.get("startTimeUnixNano")
                require(start, f"{key[0]} {attributes} has no start time")
                require(value >= lives.get(start, 0),
                        f"{key[0]} {attributes} fell from {lives.get(start)} to {value} µJ")
                lives[start] = value
        self.series = [Series(name, dict(resource), dict(attributes), sum(lives.values()))
                       for (name, resource, attributes), lives in values.items()]
        require(self.series, "the Collector received no energy")

    def of(self, metric, **attributes):
        """The series of a metric whose points have these attributes (`_` in a key stands for `.`)."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [each for each in self.series if each.metric == metric and wanted.items() <= each.attributes.items()]

    def sum(self, metric, **attributes):
        return sum(each.microjoules for each in self.of(metric, **attributes))

    def of_workload(self, row):
        """The active energy series of one workload, which its identifying attributes single out."""
        require(row["attributes"], f"{row['id']} has no attributes to find it by")
        wanted = {key: str(value) for key, value in row["attributes"].items()}
        return [each for each in self.of(f"wattribute.{row['kind']}.energy", wattribute_energy_state="active")
                if wanted.items() <= (each.resource | each.attributes).items()]

    def check_identity(self):
        """The books as a receiver can check them, knowing nothing but the points: nothing lost, nothing twice."""
        meters = [each for name in ("hw.energy", "hw.host.energy") for each in self.of(name)]
        require(meters, "the Collector received no meter")
        booked_zones = {each.attributes["hw.id"] for each in self.of("wattribute.node.energy")}
        for meter in meters:
            zone = meter.attributes["hw.id"]
            if meter.metric == "hw.host.energy" and zone not in booked_zones:
                # A meter of the whole machine beside those of its parts: with the rest they are what it measured, and
                # at most what the rest still owes more. Counters that move in steps may owe a step in a short last tick.
                owed = sum(each.microjoules for each in self.of("hw.energy")) - meter.microjoules
                require(-ROUNDING_UJ <= owed <= OWED_UJ,
                        f"at the receiver: the parts with the rest are {owed} µJ more than {zone}")
                continue
            workloads = [each for each in self.series if WORKLOAD_METRIC.match(each.metric)
                         and each.attributes["hw.id"] == zone
                         and each.attributes["wattribute.energy.state"] == "active"
                         and each.attributes["wattribute.parent.kind"] == NODE]
            booked = (sum(each.microjoules for each in workloads)
                      + self.sum("wattribute.unattributed.energy", hw_id=zone)
                      + self.sum("wattribute.node.energy", hw_id=zone, wattribute_energy_state="idle"))
            _equal(f"at the receiver: {zone} meter, and workloads + unattributed + idle", meter.microjoules, booked)


def check_delivery(books, received):
    """What the receiver holds is what the total line says, for every zone and every workload, in its own Resource."""
    zones = books.primary()
    ids = {name: {each.attributes["hw.id"] for each in received.of(name)}
           for name in ("hw.energy", "hw.host.energy", "wattribute.node.energy")}
    # A meter of the whole machine is booked only where there is no part: else it is a reference.
    metered = ids["hw.energy"] | ids["hw.host.energy"] & ids["wattribute.node.energy"]
    require(metered == set(zones), f"zones booked and received differ: {sorted(zones)} and {sorted(metered)}")
    for name, zone in zones.items():
        pairs = {
            "hw.energy": (received.sum("hw.energy", hw_id=name) + received.sum("hw.host.energy", hw_id=name), MEASURED),
            "unattributed": (received.sum("wattribute.unattributed.energy", hw_id=name), "unattributed_uj"),
        }
        for state, part in (("active", "attributed_uj"), ("idle", "idle_uj")):
            pairs[f"node {state}"] = (
                received.sum("wattribute.node.energy", hw_id=name, wattribute_energy_state=state), part)
        for what, (got, part) in pairs.items():
            _equal(f"{what} of {name}, received and total", got, zone[part])
    homes = collections.defaultdict(list)
    for row in books.workloads("pod", "container", "service", "slice").values():
        mine = received.of_workload(row)
        # The same key as `received` uses: a Resource that gained an attribute midway is another Resource.
        resources = {frozenset(each.resource.items()) for each in mine}
        require(len(resources) == 1 or not any(row["active_uj"].values()) and not resources,
                f"{row['id']} came in {len(resources)} Resources")
        for resource in resources:
            homes[resource].append(row["id"])
        for name in zones:
            got = sum(each.microjoules for each in mine if each.attributes["hw.id"] == name)
            _equal(f"{row['id']} of {name}, received and total", got, _active(row, name))
    shared = [owners for owners in homes.values() if len(owners) > 1]
    require(not shared, f"workloads that share a Resource: {shared}")


def _points(request):
    for group in request.get("resourceMetrics", []):
        resource = _attributes(group.get("resource", {}))
        for scope in group.get("scopeMetrics", []):
            for metric in scope.get("metrics", []):
                data = metric.get("sum") or metric.get("gauge") or metric.get("histogram") or {}
                for point in data.get("dataPoints", []):
                    yield resource, metric, point


def _attributes(holder):
    return {each["key"]: str(next(iter(each["value"].values()), "")) for each in holder.get("attributes", [])}


def _cumulative(metric):
    shape = metric.get("sum", {})
    require(shape.get("aggregationTemporality") == 2 and shape.get("isMonotonic"),
            f"{metric['name']} is no cumulative monotonic sum")


# What the Collector's Prometheus exporter shows


_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)\{(?P<labels>.*)\} (?P<value>\S+)( \d+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def prometheus_samples(text, prefix):
    """The samples in an exposition whose metric name starts with `prefix`: (labels, µJ)."""
    found = []
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample and sample["name"].startswith(prefix):
            found.append((dict(_LABEL.findall(sample["labels"])), round(float(sample["value"]) * 1e6)))
    return found


def check_prometheus(books, text):
    """Every living pod and container is a sample of its own, with its own energy."""
    for row in books.alive("pod", "container").values():
        text_id = row["id"].split(":", 1)[1]
        samples = prometheus_samples(text, f"wattribute_{row['kind']}_energy")
        for zone in books.primary():
            mine = [value for labels, value in samples if text_id in labels.values()
                    and labels.get("hw_id") == zone and labels.get("wattribute_energy_state") == "active"]
            require(len(mine) == 1,
                    f"{len(mine)} samples of {row['id']} for {zone} (in all {len(samples)} of its kind)")
            _equal(f"{row['id']} of {zone}, Prometheus and total", mine[0], _active(row, zone))
