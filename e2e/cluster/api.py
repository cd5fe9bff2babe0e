"""A Kubernetes API that is real as far as the agent can see: etcd and kube-apiserver on loopback, with RBAC on.

There is no kubelet and no controller: who wants a pod, its owner or its status writes them through the API, as those
would. Everything lies in one directory and listens on ports that were free; the processes end with the context.
"""

import base64
import http.client
import json
import secrets
import ssl
import subprocess
import time
import urllib.parse

from process import Failed, Process, free_ports, wait_until

LIMIT_S = 600
LEEWAY_S = 60  # that the API server grants to a token's times
ISSUER = "https://kubernetes.default.svc"
# One line per request in the audit log: who, what, and the answer.
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
                "rules": [{"level": "Metadata"}]}


class Cluster:
    """Use as a context. `admin` may do everything; `port`, `ca` and a token are all that another client needs."""

    def __init__(self, directory, kube_apiserver, etcd):
        self.directory = directory
        self._binaries = kube_apiserver, etcd
        self._etcd_port, self._peer_port, self.port = free_ports(3)
        self.audit_log = directory / "audit.jsonl"
        self.ca = directory / "ca.pem"
        self._starts = 0
        self._etcd = self._apiserver = None
        self._admin_token = secrets.token_hex(16)

    def __enter__(self):
        self._write_keys()
        try:
            self._start_etcd()
            self.start_apiserver()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for each in (self._apiserver, self._etcd):
            if each:
                each.kill()

    @property
    def admin(self):
        return self.client(self._admin_token)

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def client(self, token):
        return Client(self.port, self.ca, token)

    # The two programs

    def _write_keys(self):
        """An authority, a certificate of it for loopback, the key that signs service accounts' tokens, and our own."""
        here = self.directory
        extension = here / "names"
        extension.write_text("subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        days = ["-days", "2"]
        _openssl("req", "-x509", *key, *days, "-subj", "/CN=cluster", "-keyout", here / "ca.key", "-out", self.ca)
        _openssl("req", *key, "-subj", "/CN=kube-apiserver", "-keyout", here / "tls.key", "-out", here / "tls.csr")
        _openssl("x509", "-req", *days, "-in", here / "tls.csr", "-CA", self.ca, "-CAkey", here / "ca.key",
                 "-CAcreateserial", "-extfile", extension, "-out", here / "tls.pem")
        _openssl("genrsa", "-out", here / "accounts.key", "2048")
        (here / "tokens.csv").write_text(f'{self._admin_token},admin,admin,"system:masters"\n')
        (here / "audit.json").write_text(json.dumps(AUDIT_POLICY))

    def _start_etcd(self):
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        argv = [self._binaries[1], "--data-dir", self.directory / "etcd", "--listen-client-urls", client,
                "--advertise-client-urls", client, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--unsafe-no-fsync"]
        self._etcd = Process("etcd", argv, self.directory, LIMIT_S)

    def start_apiserver(self):
        here = self.directory
        self._starts += 1
        argv = [
            self._binaries[0],
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self.port}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none", f"--cert-dir={here / 'certs'}",
            f"--tls-cert-file={here / 'tls.pem'}", f"--tls-private-key-file={here / 'tls.key'}",
            f"--service-account-key-file={here / 'accounts.key'}",
            f"--service-account-signing-key-file={here / 'accounts.key'}",
            f"--service-account-issuer={ISSUER}", "--service-cluster-ip-range=10.96.0.0/24",
            f"--token-auth-file={here / 'tokens.csv'}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            f"--audit-policy-file={here / 'audit.json'}", f"--audit-log-path={self.audit_log}",
        ]
        self._apiserver = Process(f"kube-apiserver-{self._starts}", argv, here, LIMIT_S)
        # Ready is not enough: the roles and namespaces that come with it are written after the start.
        wait_until("the API server to be ready", self._is_ready, 90)

    def _is_ready(self):
        self._etcd.must_run()
        self._apiserver.must_run()
        try:
            return (self.admin.call("GET", "/readyz")[0] == 200
                    and self.admin.call("GET", "/api/v1/namespaces/kube-system")[0] == 200)
        except OSError:
            return False

    def stop_apiserver(self):
        """Ends it for good; nobody listens on its port then."""
        self._apiserver.kill()

    # Ways in

    def token(self, namespace, account, seconds=3600):
        """A token of a service account, through the TokenRequest API."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                   "spec": {"expirationSeconds": seconds}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return self.admin.create(path, request)["status"]["token"]

    def short_token(self, namespace, account, seconds):
        """The same, signed by us, because the API gives none for less than ten minutes. The server forgives a minute,
        and remembers for ten seconds whom it let in."""
        uid = self.admin.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}")["metadata"]["uid"]
        now = int(time.time())
        subject = f"system:serviceaccount:{namespace}:{account}"
        claims = {"iss": ISSUER, "aud": [ISSUER], "sub": subject, "iat": now - 600,
                  "nbf": now - 600, "exp": now + seconds - LEEWAY_S,
                  "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}}}
        text = b".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        signature = _openssl("dgst", "-sha256", "-sign", self.directory / "accounts.key", text=text)
        return (text + b"." + _base64url(signature)).decode()

    def kubeconfig(self, path, token, port=None):
        """Writes a kubeconfig; YAML takes JSON."""
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {"server": f"https://127.0.0.1:{port or self.port}",
                                                     "certificate-authority-data": authority}}],
            "users": [{"name": "e2e", "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        }))
        return path

    def requests_of(self, user):
        """What a user asked for, by the audit log: one entry per request, the answer's code where it is known."""
        requests = {}
        for line in self.audit_log.read_text().splitlines():
            entry = json.loads(line)
            if entry["user"].get("username") == user:
                requests[entry["auditID"]] = (
                    entry["verb"], urllib.parse.unquote(entry["requestURI"]),
                    entry.get("responseStatus", {}).get("code"))
        return list(requests.values())


class Client:
    """A small client of the REST API: one connection, kept. Not for two threads at once."""

    def __init__(self, port, ca, token):
        self._context = ssl.create_default_context(cafile=ca)
        self._port, self._token = port, token
        self._connection = None

    def call(self, method, path, body=None, kind="application/json", timeout=30):
        """One request: its status and the object that came back."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", "Content-Type": kind}
        text = json.dumps(body) if body is not None else None
        for last in (False, True):
            try:
                if not self._connection:
                    self._connection = http.client.HTTPSConnection(
                        "127.0.0.1", self._port, context=self._context, timeout=timeout)
                self._connection.request(method, path, text, headers)
                answer = self._connection.getresponse()
                content = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection = None
                if last:  # a kept connection may have been closed meanwhile; a new one that fails has failed
                    raise error if isinstance(error, OSError) else OSError(str(error)) from None
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(content) if is_json else content.decode(errors="replace")

    def must(self, method, path, body=None, kind="application/json"):
        """The object of a request that has to succeed."""
        status, answer = self.call(method, path, body, kind)
        if status >= 300:
            reason = answer.get("message") if isinstance(answer, dict) else answer
            raise Failed(f"{method} {path}: {status} {reason}")
        return answer

    def get(self, path):
        return self.must("GET", path)

    def create(self, path, body):
        return self.must("POST", path, body)

    def patch(self, path, body, kind="application/merge-patch+json"):
        return self.must("PATCH", path, body, kind)

    def put(self, path, body):
        return self.must("PUT", path, body)

    def delete(self, path):
        """At once, without a grace period: nobody is there who would end the containers."""
        return self.must("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})


def _openssl(*arguments, text=None):
    done = subprocess.run(["openssl", *arguments], input=text, capture_output=True, timeout=30)
    if done.returncode:
        raise Failed(f"openssl {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout


def _base64url(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=")
