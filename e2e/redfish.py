"""A BMC and a wattmeter that do not exist: sushy-tools' Redfish service over TLS, a plug, and BMCs that misbehave.

The good BMC is the static service of sushy-tools 2.2.0 over a tree written here; it is installed once, into a virtual
environment outside the clone. Everything listens on loopback.
"""

import hashlib
import http.server
import json
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request

from process import Failed, Process, free_ports, wait_until

SUSHY = "sushy-tools==2.2.0"
LATE_S = 20
# The inputs of two supplies, one in stand-by. What Power says is another figure, and not the one to read.
INPUTS_W, INPUT_W, CONTROLS_W = (268, 25), 293, (344, 45)
PLUG_W = 42.5
_V1 = "/redfish/v1"


def _sushy():
    """The program, installed when it is needed first."""
    cache = os.environ.get("WATTRIBUTE_CACHE") or pathlib.Path(
        os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "wattribute"
    venv = pathlib.Path(cache) / SUSHY.replace("==", "-")
    program = venv / "bin" / "sushy-static"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "3", SUSHY]
        subprocess.run(pip, check=True, timeout=300)
    return program


def _link(path):
    return {"@odata.id": path}


def _members(path, names):
    return {path: {"Members": [_link(f"{path}/{name}") for name in names], "Members@odata.count": len(names)}}


def _tree():
    """One server with two supplies and a module in it that states a part of the same power."""
    chassis, supplies = f"{_V1}/Chassis/1", f"{_V1}/Chassis/1/PowerSubsystem/PowerSupplies"
    system = [_link(f"{_V1}/Systems/1")]
    documents = {
        _V1: {"Id": "RootService", "RedfishVersion": "1.17.0", "Chassis": _link(f"{_V1}/Chassis"),
              "Systems": _link(f"{_V1}/Systems")},
        **_members(f"{_V1}/Chassis", ["GPU1", "1"]),
        **_members(f"{_V1}/Systems", ["1"]),
        f"{_V1}/Systems/1": {"Id": "1", "Links": {"Chassis": [_link(chassis)]}},
        f"{_V1}/Chassis/GPU1": {"Id": "GPU1", "ChassisType": "Module", "Links": {"ComputerSystems": system},
                                "EnvironmentMetrics": _link(f"{_V1}/Chassis/GPU1/EnvironmentMetrics")},
        f"{_V1}/Chassis/GPU1/EnvironmentMetrics": {"PowerWatts": {"Reading": 75}},
        chassis: {"Id": "1", "ChassisType": "RackMount", "Links": {"ComputerSystems": system},
                  "Power": _link(f"{chassis}/Power"), "PowerSubsystem": _link(f"{chassis}/PowerSubsystem")},
        f"{chassis}/Power": {"PowerControl": [{"MemberId": str(index), "PowerConsumedWatts": watts}
                                              for index, watts in enumerate(CONTROLS_W)]},
        f"{chassis}/PowerSubsystem": {"PowerSupplies": _link(supplies)},
        **_members(supplies, [f"Bay{bay}" for bay in range(len(INPUTS_W))]),
    }
    for bay, watts in enumerate(INPUTS_W):
        place = f"{supplies}/Bay{bay}"
        documents[place] = {"Id": f"Bay{bay}", "PowerCapacityWatts": 800, "Metrics": _link(f"{place}/Metrics"),
                            "Status": {"State": "Enabled"}}
        documents[f"{place}/Metrics"] = {"Id": "Metrics", "InputPowerWatts": {"Reading": watts}}
    return documents


def _write(root, documents):
    for path, document in documents.items():
        place = root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "index.json").write_text(json.dumps({"@odata.id": path, **document}))


def _certificates(directory):
    """An authority of our own, and a certificate of it for localhost."""
    ca, key, csr, cert = (directory / name for name in ("ca.pem", "bmc.key", "bmc.csr", "bmc.pem"))
    names = directory / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    days = ["-days", "2"]
    for arguments in (
        ["req", "-x509", *curve, *days, "-subj", "/CN=wattribute e2e", "-keyout", directory / "ca.key", "-out", ca],
        ["req", *curve, "-subj", "/CN=bmc", "-keyout", key, "-out", csr],
        ["x509", "-req", *days, "-in", csr, "-CA", ca, "-CAkey", directory / "ca.key", "-CAcreateserial",
         "-extfile", names, "-out", cert],
    ):
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise Failed(f"openssl {arguments[0]}: {done.stderr.strip()}")
    return ca, cert, key


class Bmc(Process):
    """A BMC that works. `ca` is the authority to trust, `fingerprint` that of its certificate."""

    def __init__(self, directory):
        self.ca, cert, key = _certificates(directory)
        digest = ssl.PEM_cert_to_DER_cert(cert.read_text())
        self.fingerprint = hashlib.sha256(digest).hexdigest()
        _write(directory / "tree", _tree())
        (self.port,) = free_ports(1)
        self.url = f"https://localhost:{self.port}"
        tree = directory / "tree" / _V1.lstrip("/")
        argv = [_sushy(), "-i", "127.0.0.1", "-p", str(self.port), "-c", cert, "-k", key, "-m", tree]
        super().__init__("bmc", argv, directory, 120)
        self._context = ssl.create_default_context(cafile=self.ca)
        wait_until("the BMC to answer", lambda: self.must_run() and self._answers(), 20)

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}{_V1}/", timeout=2, context=self._context) as answer:
                return answer.status == 200
        except OSError:
            return False


class _Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status, text, length=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text) if length is None else length))
        self.end_headers()
        self.wfile.write(text.encode())


class _Server:
    """An HTTP server on loopback in a thread of its own. Use as a context."""

    def __init__(self, handler):
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.socket.close()


def plug():
    """A Shelly of the second generation, as far as anyone asks."""
    class Handler(_Silent):
        def do_GET(self):
            known = self.path == "/rpc/Switch.GetStatus?id=0"
            self.reply(200 if known else 404, json.dumps({"apower": PLUG_W, "aenergy": {"total": 1234.567}}))

    return _Server(Handler)


def bad_bmc(kind):
    """A BMC that is `late` with every answer, `refused` to let us in, `reset` or `half`; or `slow`: late, but right."""
    stop = threading.Event()

    class Handler(_Silent):
        def do_GET(self):
            if kind == "late" or (kind == "slow" and self.path.endswith("EnvironmentMetrics")):
                stop.wait(LATE_S)
            if kind == "reset":
                linger = struct.pack("ii", 1, 0)  # on, for no time: the close is a reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                return
            document = {"Chassis": _link(f"{_V1}/Chassis"), "Members": [_link(f"{_V1}/Chassis/1")], "Id": "1",
                        "EnvironmentMetrics": _link(f"{_V1}/EnvironmentMetrics"), "PowerWatts": {"Reading": 150}}
            text = json.dumps(document)
            try:
                if kind == "half":
                    self.reply(200, text[: len(text) // 2])
                elif kind == "refused":
                    self.reply(401, "{}")
                else:
                    self.reply(200, text)
            except OSError:
                pass  # they did not wait

    server = _Server(Handler)
    server.kind = kind
    return server
