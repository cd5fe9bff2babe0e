"""The control plane: etcd, kube-apiserver (Node and RBAC, with an audit log), controllers, scheduler; a client."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request

from process import Failed, Process, wait_until

NODE, HOST_IP, SERVICE_IP = "node-one", "10.87.0.1", "10.96.0.1"
ADMIN, KUBELET = "admin-of-the-test", "kubelet-of-the-test"
SERVER = f"https://{SERVICE_IP}"  # as pods reach it: port 443, so that no proxy for services is needed
LIMIT_S = 280  # of each process, and so of everything


class Api:
    """A JSON client of the API server, or of the kubelet. The certificates are of this run; nobody else is there."""

    def __init__(self, server, token):
        self._server, self._token = server, token
        self._trust = ssl.create_default_context()
        self._trust.check_hostname, self._trust.verify_mode = False, ssl.CERT_NONE

    def text(self, path, method="GET", body=None, kind="application/json"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data, method=method, headers={
            "Authorization": f"Bearer {self._token}", "Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=20, context=self._trust) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read().decode()[:400]}") from None
        except OSError as error:
            raise Failed(f"{method} {path}: {error}") from None

    def get(self, path):
        return json.loads(self.text(path))

    def create(self, thing):
        group, namespace = thing["apiVersion"], thing["metadata"].get("namespace")
        kind = thing["kind"].lower() + "s"
        path = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        return json.loads(self.text(f"{path}/namespaces/{namespace}/{kind}" if namespace else f"{path}/{kind}",
                                    "POST", thing))

    def answers(self, path):
        try:
            return self.text(path)
        except Failed:
            return ""


def kubeconfig(path, token):
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": SERVER, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }))
    path.chmod(0o600)
    return path


def start(stack, programs, directory):
    """Starts everything within `stack` and returns the client."""
    directory.mkdir()
    key, public = directory / "accounts.key", directory / "accounts.pub"
    for argv in (["genrsa", "-out", key, "2048"], ["rsa", "-in", key, "-pubout", "-out", public]):
        subprocess.run(["openssl", *argv], check=True, stderr=subprocess.DEVNULL)
    tokens = directory / "tokens.csv"
    tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n{KUBELET},system:node:{NODE},2,"system:nodes"\n')
    policy = directory / "audit-policy.json"
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
                                  "rules": [{"level": "Metadata"}]}))

    def run(name, *flags):
        return stack.enter_context(Process(name, [programs[name], *flags], directory, LIMIT_S))

    store = "http://127.0.0.1:2379"
    run("etcd", f"--data-dir={directory / 'etcd'}", f"--listen-client-urls={store}", f"--advertise-client-urls={store}",
        "--listen-peer-urls=http://127.0.0.1:2380")
    server = run(
        "kube-apiserver", f"--etcd-servers={store}", "--bind-address=0.0.0.0", "--secure-port=443",
        f"--advertise-address={HOST_IP}", f"--service-cluster-ip-range={SERVICE_IP}/24", "--allow-privileged=false",
        f"--cert-dir={directory / 'certificates'}", f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={key}", "--service-account-issuer=https://kubernetes.default.svc",
        f"--token-auth-file={tokens}", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
        f"--audit-policy-file={policy}", f"--audit-log-path={directory / 'audit.jsonl'}")
    api = Api(SERVER, ADMIN)
    wait_until("the API server", lambda: server.must_run() and api.answers("/readyz") == "ok", 60)
    admin = kubeconfig(directory / "admin.kubeconfig", ADMIN)
    own = [f"--{kind}kubeconfig={admin}" for kind in ("", "authentication-", "authorization-")]
    own += ["--bind-address=127.0.0.1", "--leader-elect=false"]
    run("kube-controller-manager", *own, f"--cert-dir={directory / 'controllers'}",
        f"--service-account-private-key-file={key}",
        f"--root-ca-file={directory / 'certificates/apiserver.crt'}", "--controllers=*,-node-ipam-controller",
        "--flex-volume-plugin-dir=/var/lib/volume-plugins")  # not /usr
    run("kube-scheduler", *own, f"--cert-dir={directory / 'scheduler'}")
    return api
