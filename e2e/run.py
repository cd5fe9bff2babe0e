"""The end-to-end tests: the release binary, the real Collector, and a machine that is fake or this one.

    e2e/run.py [--bin PATH] [--otelcol PATH] [TEST…]

One line per test, the counts alone on the last line, exit code 1 if anything failed. A failed test leaves the
output of its processes behind and says where.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request

sys.dont_write_bytecode = True  # before our own modules: the clone stays as it is

import pipelines
from books import Books, Received, check_delivery, check_prometheus, require
from cgroups import Cgroup, Unavailable
from machine import DRAM_W, HOST_W, NGINX, PACKAGE_W, POD_BUSY, POD_CALM, POD_ENDS, Machine
from process import HERE, Agent, Collector, Process, free_ports, wait_until
from redfish import INPUT_W, INPUTS_W, PLUG_W, Bmc, bad_bmc, plug
from suite import Skipped, end_on_signals, finish, names_of, refuse_unknown, run_one

TICKS = 8
JSON_EACH_SECOND = {"interval": "1s", "export.stdout.format": "json"}


class Tests:
    """Every method that does not begin with `_` is a test, in this order; its first line of text is its title."""

    def __init__(self, binary, otelcol, scratch):
        self._binary, self._otelcol, self._scratch = binary, otelcol, scratch

    def checks(self):
        """the checks themselves accept right books and refuse wrong ones"""
        suite = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
        with (self._directory("checks") / "unittest.stderr").open("w") as log:
            result = unittest.TextTestRunner(stream=log, verbosity=2).run(suite)
        wrong = [str(test) for test, _ in result.errors + result.failures]
        require(result.testsRun and not wrong, f"{result.testsRun} tests ran; failed: {wrong}")

    def configs(self):
        """every file of otel-config/ loads in the Collector, and has its test"""
        pipelines.check_configs(self._otelcol, self._directory("configs"), names_of(Tests))

    def grpc(self):
        """fake machine → gRPC → Collector: the books balance, and arrive to the microjoule"""
        self._check_fake_run("grpc")

    def http(self):
        """fake machine → http/protobuf → Collector: the books balance, and arrive to the microjoule"""
        self._check_fake_run("http/protobuf")

    def prometheus(self):
        """the Collector's Prometheus exporter keeps every pod and container apart"""
        books, _, exposition = self._fake_run("grpc")
        check_prometheus(books, exposition)

    def scrape(self):
        """otel-config/prometheus: two nodes on one page keep all pods, containers and services apart, ended ones too"""
        pipelines.check_scrape(self._binary, self._otelcol, self._directory("scrape"))

    def prometheus_server(self):
        """otel-config/prometheus-otlp, -remote-write: a Prometheus server has all joules, watts, kWh"""
        directory = self._directory("server")
        pipelines.check_prometheus_server(self._binary, self._otelcol, component("prometheus"), directory)

    def chargeback(self):
        """otel-config/chargeback: a namespace's kWh are its pods', never fall, and nothing is counted twice"""
        pipelines.check_chargeback(self._binary, self._otelcol, self._directory("chargeback"))
        pipelines.check_chargeback_changes(self._otelcol, self._directory("chargeback"))

    def drop_processes(self):
        """otel-config/drop-processes: no series of processes arrives, all others do"""
        pipelines.check_drop_processes(self._binary, self._otelcol, self._directory("drop"))

    def vendors(self):
        """otel-config/datadog, dynatrace, newrelic: only deltas, whose sums are the totals, and the right header"""
        pipelines.check_vendors(self._binary, self._otelcol, self._directory("vendors"))

    def late_collector(self):
        """a Collector that starts late costs one line at each end and no energy"""
        directory = self._directory("late")
        ports = free_ports(3)
        endpoint = f"127.0.0.1:{ports[0]}"
        with Machine(directory / "machine") as machine:
            with self._agent(directory, endpoint, "grpc", machine.settings, {"export.otlp.interval": "1s"}) as agent:
                def said():
                    return [line for line in agent.lines("stderr") if endpoint in line]

                wait_until("a line on stderr that the Collector is not there", said, 20)
                agent.wait_for_ticks(4, 20)  # several pushes fail by then
                require(len(said()) == 1, f"the outage was said {len(said())} times: {said()}")
                with Collector(self._otelcol, directory, ports) as collector:
                    # Retries back off, so the first push after an outage takes a moment.
                    wait_until("a line on stderr that the Collector is back", lambda: len(said()) > 1, 40)
                    wait_until("a push", lambda: collector.has_pushes(2), 20)
                    agent.stop()
                    collector.stop()
                    require(len(said()) == 2, f"outage and recovery took {len(said())} lines: {said()}")
        books, received = Books(agent.lines("stdout")), Received(collector.pushes)
        books.check()
        received.check_identity()
        check_delivery(books, received)

    def live(self):
        """this machine, as it is: estimated and said so, workloads in Resources, plain lines on a pipe"""
        if list(pathlib.Path("/sys/class/powercap").glob("*/energy_uj")):
            raise Skipped("this machine has meters")
        directory = self._directory("live")
        with Collector(self._otelcol, directory) as collector:
            with Agent(self._binary, directory, {"export.otlp.endpoint": f"http://127.0.0.1:{collector.grpc}",
                                                 "export.otlp.interval": "2s"}) as agent:
                wait_until("three pushes", lambda: agent.must_run() and collector.has_pushes(3), 60)
                agent.stop()
            collector.stop()
        output = agent.stdout.read_text()
        require(output.strip(), "nothing on stdout")
        require(not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", output),
                "control characters on a stdout that is no terminal")
        received = Received(collector.pushes)
        received.check_identity()
        qualities = received.attributes["wattribute.meter.quality"]
        require(qualities == {"estimated"}, f"wattribute.meter.quality is {sorted(qualities) or 'on no point'}")
        resources = {frozenset(each.resource.items()) for kind in ("service", "slice", "container")
                     for each in received.of(f"wattribute.{kind}.energy")}
        print(f"                {len(resources)} Resources of services, slices and containers, quality {sorted(qualities)}")
        require(resources or not _populated_cgroups(), "no service, slice or container came, but there are some")

    def burners(self):
        """live: a steady load and 5 ms processes get the joules of their cgroups' CPU time, within 3 %"""
        directory = self._directory("burners")
        try:
            with Cgroup(f"wattribute-e2e-steady-{os.getpid()}", 40) as steady, \
                 Cgroup(f"wattribute-e2e-forks-{os.getpid()}", 40) as forks:
                self._burn(directory, steady, forks)
        except Unavailable as reason:
            raise Skipped(reason) from None

    def _burn(self, directory, steady, forks):
        with Collector(self._otelcol, directory) as collector:
            with self._agent(directory, f"127.0.0.1:{collector.grpc}", "grpc", {}) as agent:
                agent.wait_for_ticks(2, 30)
                # Both loads run between two ticks of the agent, so it and we see the whole of the same CPU time.
                before = [steady.cpu_us(), forks.cpu_us()]
                with self._burner(directory, "steady", steady) as one, self._burner(directory, "forks", forks) as other:
                    agent.wait_for_ticks(22, 60)
                    one.must_run()
                    other.must_run()
                for cgroup in (steady, forks):
                    wait_until("the burners to end", cgroup.is_empty, 10)
                used = [steady.cpu_us() - before[0], forks.cpu_us() - before[1]]
                agent.wait_for_ticks(len(agent.lines("stdout")) + 2, 30)
                agent.stop()
            collector.stop()
        books, received = Books(agent.lines("stdout")), Received(collector.pushes)
        books.check()
        received.check_identity()
        check_delivery(books, received)
        slices = books.workloads("slice")
        rows = [[row for key, row in slices.items() if key.endswith("/" + cgroup.name)] for cgroup in (steady, forks)]
        require(all(len(found) == 1 for found in rows), f"the two cgroups are not among the slices: {sorted(slices)}")
        for name, zone in books.primary().items():
            if zone["domain"] != "package":
                continue
            joules = [sum(each.microjoules for each in received.of_workload(row) if each.attributes["hw.id"] == name)
                      for (row,) in rows]
            require(sum(joules) > 0, f"no energy of {name} for the two cgroups")
            for what, got, cpu in zip(("steady load", "5 ms processes"), joules, used, strict=True):
                ratio = (got / sum(joules)) / (cpu / sum(used))
                require(abs(ratio - 1) <= 0.03,
                        f"{what} got {ratio:.3f} of its share of {name} ({joules} µJ for {used} µs)")
                print(f"                {what}: {got / 1e6:.6f} J received for {cpu / 1e6:.3f} s of CPU time, "
                      f"{ratio:.4f} of its share of {name}")

    def _burner(self, directory, kind, cgroup):
        return Process(kind, [sys.executable, HERE / "burner.py", kind], directory, 90, preexec_fn=cgroup.enter)

    def redfish(self):
        """live: a BMC over TLS (sushy-tools) and a plug: their watts are read, the supplies' input and not Power's"""
        directory = self._directory("redfish")
        with Bmc(directory) as bmc, plug() as shelly:
            for trust in ({"ca_file": bmc.ca}, {"fingerprint": bmc.fingerprint}):
                books = Books(self._network_run(bmc.url, shelly.url, trust, 50))
                books.check()
                self._check_network(books)
            lines = self._network_run(bmc.url, shelly.url, {}, 20, "untrusting")
            require(not [zone for zone in _zones(lines) if zone["zone"].startswith("redfish:")],
                    "a BMC was read that nobody trusts")

    def _network_run(self, bmc, shelly, trust, ticks, name="redfish"):
        """The JSON lines of a run beside a BMC and a plug."""
        # Ticks closer together than readings, so that their times say well when those were taken.
        settings = {**self._network(bmc, shelly), "interval": "200ms",
                    **{f"meters.redfish.{key}": value for key, value in trust.items()}}
        with Agent(self._binary, self._directory(name), settings) as agent:
            agent.wait_for_ticks(ticks, 60)
            agent.stop()
        return agent.lines("stdout")

    def _network(self, bmc, shelly):
        return {
            **JSON_EACH_SECOND,
            "export.otlp.enabled": "false",
            "meters.redfish.url": bmc,
            "meters.redfish.interval": "1s",
            "meters.http.plug.url": f"{shelly}/rpc/Switch.GetStatus?id=0",
            "meters.http.plug.power": "/apower",
            "meters.http.plug.interval": "1s",
        }

    def _check_network(self, books):
        seen = {zone["zone"]: zone for tick in books.ticks for zone in tick["zones"]}
        expected = {"redfish:1/input": INPUT_W, "http:plug": PLUG_W,
                    **{f"redfish:1/Bay{bay}": watts for bay, watts in enumerate(INPUTS_W)}}
        for name, watts in expected.items():
            require(name in seen, f"{name} is not among the zones: {sorted(seen)}")
            mean = _mean_watts(books.ticks, name)
            print(f"                {name}: {mean:.2f} W of {watts} W")
            require(abs(mean / watts - 1) < 0.05, f"{name} is {watts} W and was measured as {mean:.2f} W")
        require(seen["redfish:1/Bay0"]["role"] == "contained", "a supply is in the sum of the supplies")
        whole = [seen[name]["role"] for name in ("redfish:1/input", "http:plug")]
        require(whole.count("primary") <= 1 and set(whole) <= {"primary", "reference"},
                f"the whole machine is booked once: {whole}")
        others = [name for name in seen if name.startswith("redfish:") and name not in expected]
        require(not others, f"read beside what was asked for: {others}")

    def bad_bmcs(self):
        """live: BMCs that are late, refuse, reset or say half delay no tick, cost the plug nothing and are said once"""
        said = {"late": "no answer within 3 s", "refused": "HTTP 401", "reset": "reset", "half": "half", "slow": None}
        with contextlib.ExitStack() as stack:
            shelly = stack.enter_context(plug())
            runs = {}
            for kind in said:
                server = stack.enter_context(bad_bmc(kind))
                settings = self._network(server.url, shelly.url)
                if kind == "late":
                    settings["meters.redfish.timeout"] = "3s"
                agent = stack.enter_context(Agent(self._binary, self._directory(kind), settings))
                runs[kind] = (server, agent)
            for kind, (_, agent) in runs.items():
                agent.wait_for_ticks(25, 60)
                agent.stop()
        for kind, (server, agent) in runs.items():
            self._check_bad(kind, said[kind], server.url, agent)

    def _check_bad(self, kind, reason, url, agent):
        books = Books(agent.lines("stdout"))
        books.check()
        # The last tick is that of the end, whenever it comes.
        late = max(abs(tick["time_s"] - tick["tick"]) for tick in books.ticks[:-1])
        require(late < 0.25, f"{kind}: a tick was {late:.3f} s off its time")
        answered = sum(zone["state"] == "ok" for tick in books.ticks for zone in tick["zones"]
                       if zone["zone"] == "http:plug")
        require(answered > len(books.ticks) / 2,
                f"{kind}: the plug was booked in {answered} of {len(books.ticks)} ticks")
        about = [line for line in agent.lines("stderr") if url in line]
        print(f"                {kind}: ticks at most {late * 1e3:.0f} ms off, said: {about or 'nothing'}")
        bmc = [zone for zone in _zones(agent.lines("stdout")) if zone["zone"] == "redfish:1/environment"]
        if reason is None:
            require(bmc and not about, f"{kind}: {len(bmc)} readings after {len(books.ticks)} s, said: {about}")
            return
        require(not bmc, f"{kind}: there are readings")
        require(len(about) == 1 and reason in about[0], f"{kind}: expected {reason!r} once, said: {about}")

    # What several tests share

    def _directory(self, name):
        return pathlib.Path(tempfile.mkdtemp(prefix=name.replace("/", "-") + "-", dir=self._scratch))

    def _agent(self, directory, endpoint, protocol, host, more=()):
        settings = {
            **JSON_EACH_SECOND,
            **host,
            "export.otlp.endpoint": f"http://{endpoint}",
            "export.otlp.protocol": protocol,
            "export.otlp.interval": "2s",
            **dict(more),
        }
        return Agent(self._binary, directory, settings)

    @functools.cache
    def _fake_run(self, protocol):
        """Some seconds on the fake machine: the books, what the Collector wrote, what its Prometheus exporter shows."""
        directory = self._directory(protocol)
        with Collector(self._otelcol, directory) as collector:
            port = collector.grpc if protocol == "grpc" else collector.http
            with Machine(directory / "machine") as machine:
                with self._agent(directory, f"127.0.0.1:{port}", protocol, machine.settings) as agent:
                    agent.wait_for_ticks(TICKS, 40)
                    agent.stop()
            # The exporters run one after another on each request, and the agent has waited for its last answer.
            url = f"http://127.0.0.1:{collector.prometheus}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                exposition = answer.read().decode()
            (directory / "exposition.txt").write_text(exposition)
            collector.stop()
        return Books(agent.lines("stdout")), Received(collector.pushes), exposition

    def _check_fake_run(self, protocol):
        books, received, _ = self._fake_run(protocol)
        books.check()
        received.check_identity()
        check_delivery(books, received)
        self._check_truth(books)

    def _check_truth(self, books):
        """The numbers are those of the fake machine, not just consistent with each other. It moves in steps of 0.2 s,
        so a few percent are noise; a wrap that was lost or invented is more."""
        zones = books.primary()
        require(len(zones) == 3, f"package, dram and the rest are to be booked, core is inside package: {sorted(zones)}")
        seconds = sum(tick["interval_s"] for tick in books.ticks)
        of_domain = {zone["domain"]: name for name, zone in zones.items()}
        package = of_domain["package"]
        truth = {package: PACKAGE_W, of_domain["dram"]: DRAM_W, of_domain["rest"]: HOST_W - PACKAGE_W - DRAM_W}
        for name, watts in truth.items():
            mean = zones[name]["measured_uj"] / 1e6 / seconds
            require(abs(mean / watts - 1) < 0.1, f"{name} drew {watts} W but was measured as {mean:.1f} W")
        pods, services = books.workloads("pod"), books.workloads("service")
        require(set(pods) == {f"pod:{uid}" for uid in (POD_BUSY, POD_CALM, POD_ENDS)}, f"pods: {sorted(pods)}")
        require(f"service:{NGINX}" in services, f"services: {sorted(services)}")
        require(len(books.workloads("container")) == 3, f"containers: {sorted(books.workloads('container'))}")
        energy = {uid: pods[f"pod:{uid}"]["active_uj"].get(package, 0) for uid in (POD_BUSY, POD_CALM, POD_ENDS)}
        require(energy[POD_ENDS] > 0, "the pod that ended got nothing")
        ratio = energy[POD_BUSY] / max(1, energy[POD_CALM])
        require(abs(ratio / 3 - 1) < 0.1,
                f"one pod used 3 times the CPU time of the other and got {ratio:.2f} times its energy")


def component(name):
    """The path of a real component, which is built first if it has not been yet."""
    script = HERE / "components/build.sh"
    return subprocess.run([script, name], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _populated_cgroups():
    """Cgroups of this machine, the root aside, with processes in them, in the hierarchies that count CPU time."""
    return {line.split(":", 2)[2] for entry in pathlib.Path("/proc").glob("[0-9]*/cgroup") for line in _lines(entry)
            if line.split(":", 2)[1] in ("", "cpuacct", "cpu,cpuacct")} - {"/"}


def _zones(lines):
    """The zones of every tick."""
    return [zone for line in lines for tick in [json.loads(line)] if tick["type"] == "tick" for zone in tick["zones"]]


def _mean_watts(ticks, name):
    """The energy of a zone between two of its readings over the time between the ticks that first saw them."""
    read = [(tick["time_s"], zone) for tick in ticks for zone in tick["zones"]
            if zone["zone"] == name and zone["state"] == "ok"]
    require(len(read) > 2, f"{name} was read {len(read)} times")
    energy = sum(zone["measured_uj"] for _, zone in read[1:])
    seconds = read[-1][0] - read[0][0]
    return energy / 1e6 / seconds


def _lines(path):
    try:
        return path.read_text().splitlines()
    except OSError:  # the process has ended
        return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("WATTRIBUTE_BIN", HERE.parent / "target/release/wattribute"))
    parser.add_argument("--otelcol", help="default: what e2e/components/build.sh has built, or builds now")
    parser.add_argument("tests", nargs="*", metavar="TEST")
    options = parser.parse_args()
    end_on_signals()

    binary = pathlib.Path(options.bin).resolve()
    if not os.access(binary, os.X_OK):
        parser.error(f"no binary at {binary}: `make e2e` builds it first")
    otelcol = options.otelcol or component("otelcol")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="wattribute-e2e-"))
    tests = Tests(binary, otelcol, scratch)
    names = names_of(Tests)
    refuse_unknown(parser, "test", options.tests, names)
    words = [run_one(name, getattr(tests, name), scratch) for name in options.tests or names]
    if "FAILED" not in words:
        shutil.rmtree(scratch)
    finish(words)


if __name__ == "__main__":
    main()
