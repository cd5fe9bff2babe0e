"""The processes of the tests: the agent, the Collector and helpers, each with a time limit and ended by its own pid."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
MINIMAL = HERE.parent / "otel-config" / "minimal.yaml"


class Failed(Exception):
    """What a test found wrong."""


def wait_until(what, condition, seconds):
    """Polls until `condition()` is true and returns its value; fails by naming what did not come."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s in vain for {what}")
        time.sleep(0.05)


def free_ports(count):
    """Ports that nobody listens on. All are held at once while they are picked, so they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Process:
    """A child whose output goes to files, and which is killed when it outlives its limit."""

    def __init__(self, name, argv, directory, limit_s, **popen):
        self.name = name
        self.stdout = directory / f"{name}.stdout"
        self.stderr = directory / f"{name}.stderr"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **popen)
        self.overran = False
        self.timer = threading.Timer(limit_s, self._overrun)
        self.timer.daemon = True
        self.timer.start()

    def _overrun(self):
        self.overran = True
        self.child.kill()

    def lines(self, stream):
        """The complete lines written so far to `stream` ("stdout" or "stderr")."""
        text = getattr(self, stream).read_text(errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()

    def must_run(self):
        """Fails if the process has ended by itself."""
        if self.child.poll() is not None:
            last = (self.lines("stderr") or ["nothing on stderr"])[-1]
            raise Failed(f"{self.name} ended with {self.child.returncode}: {last}")
        return True

    def stop(self, grace_s=10):
        """SIGTERM, then waits: a process that needs longer than the grace period, or that fails, fails the test."""
        self.must_run()
        self.child.send_signal(signal.SIGTERM)
        try:
            code = self.child.wait(grace_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} was still there {grace_s} s after SIGTERM") from None
        finally:
            self.kill()
        if code != 0 or self.overran:
            raise Failed(f"{self.name} ended with {code} after SIGTERM{' (over its time limit)' * self.overran}")

    def kill(self):
        """Ends it at once if it still runs. Safe to call twice."""
        self.timer.cancel()
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Collector(Process):
    """The real Collector with the shipped minimal configuration; only its ports and its file are moved."""

    def __init__(self, binary, directory, ports=None):
        self.grpc, self.http, self.prometheus = ports or free_ports(3)
        self.pushes = directory / "pushes.jsonl"
        moved = {
            "receivers": {"otlp": {"protocols": {
                "grpc": {"endpoint": f"127.0.0.1:{self.grpc}"},
                "http": {"endpoint": f"127.0.0.1:{self.http}"},
            }}},
            "exporters": {
                "file": {"path": str(self.pushes)},
                "prometheus": {"endpoint": f"127.0.0.1:{self.prometheus}"},
            },
        }
        argv = [binary, "--config", MINIMAL, "--config", "yaml:" + json.dumps(moved)]
        super().__init__("collector", argv, directory, limit_s=180)
        wait_until("the Collector to listen", lambda: self.must_run() and self._listens(), 20)

    def _listens(self):
        for port in (self.grpc, self.http, self.prometheus):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return False
        return True

    def has_pushes(self, count):
        """Whether at least `count` requests have arrived."""
        return self.pushes.exists() and self.pushes.read_bytes().count(b"\n") >= count


class Agent(Process):
    """`wattribute run` with settings given as on the command line, and without what our own environment says."""

    def __init__(self, binary, directory, settings, limit_s=120):
        argv = [binary, "run"]
        for key, value in settings.items():
            argv += ["--set", f"{key}={value}"]
        ours = ("OTEL_", "K8S_", "WATTRIBUTE_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        super().__init__("wattribute", argv, directory, limit_s, env=clean)

    def wait_for_ticks(self, count, seconds):
        """Waits until `count` ticks stand on stdout (JSON format)."""
        return wait_until(
            f"{count} ticks on stdout",
            lambda: self.must_run() and len(self.lines("stdout")) >= count,
            seconds,
        )
