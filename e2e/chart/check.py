#!/usr/bin/env python3
"""The chart, rendered by the real Helm: what it asks for, what it refuses, and that the files beside it are true.

    e2e/chart/check.py [--helm PATH] [--bin PATH] [--otelcol PATH] [--promtool PATH] [--bless] [CHECK…]

One line per check, the counts alone on the last line, exit code 1 if anything failed. --bless writes the rendered
examples and deploy/kubernetes.yaml anew: read the difference before you keep it.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # before our own modules: the clone stays as it is
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from books import require
from chart import CHART, EXAMPLES, KUBE_VERSION, PLAIN, ROOT, Helm, Refused, changes, container
from process import Failed
from pyyaml import load_all
from suite import Skipped, finish, names_of, refuse_unknown, run_one

QUICK_START = ROOT / "examples" / "kubernetes"
RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]},
]
# The libraries that distroless/cc has and a Rust program may want.
DISTROLESS = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
POD = "DaemonSet.spec.template.spec"
MAIN = f"{POD}.containers[wattribute]"
IPMI = {"enabled": True, "access": "devicePlugin", "resource": "example.com/ipmi"}
# Values, and all that they may change.
OPT_INS = [
    ({"hostPID": True}, {f"{POD}.hostPID": (None, True)}),
    ({"perf": {"enabled": True}}, {f"{MAIN}.securityContext.capabilities.add[0]": (None, "PERFMON")}),
    ({"ipmi": IPMI}, {f"{MAIN}.resources.limits.example.com/ipmi": (None, 1)}),
    ({"ipmi": {"enabled": True, "access": "privileged"}}, {
        f"{MAIN}.securityContext.privileged": (None, True),
        f"{MAIN}.securityContext.allowPrivilegeEscalation": (False, None),
        f"{MAIN}.securityContext.capabilities.drop[0]": ("ALL", None),
    }),
    ({"priorityClassName": "high"}, {f"{POD}.priorityClassName": (None, "high")}),
    ({"kubernetes": {"clusterName": "c1", "podLabels": ["team"], "podAnnotations": ["example.com/owner"]}}, {
        "config.kubernetes.cluster_name": (None, "c1"),
        "config.kubernetes.pod_labels[0]": (None, "team"),
        "config.kubernetes.pod_annotations[0]": (None, "example.com/owner"),
    }),
    ({"otlp": {"endpoint": "https://x:4317", "protocol": "http/protobuf"}}, {
        f"{MAIN}.env[OTEL_EXPORTER_OTLP_ENDPOINT].value": ("http://$(HOST_IP):4317", "https://x:4317"),
        "config.export.otlp.protocol": ("grpc", "http/protobuf"),
    }),
    ({"otlp": {"headersSecret": {"name": "s"}}}, {
        f"{MAIN}.env[OTEL_EXPORTER_OTLP_HEADERS].name": (None, "OTEL_EXPORTER_OTLP_HEADERS"),
        f"{MAIN}.env[OTEL_EXPORTER_OTLP_HEADERS].valueFrom.secretKeyRef.name": (None, "s"),
        f"{MAIN}.env[OTEL_EXPORTER_OTLP_HEADERS].valueFrom.secretKeyRef.key": (None, "headers"),
    }),
    ({"otlp": {"tls": {"secretName": "s", "ca": "ca.crt"}}}, {
        "config.export.otlp.tls.ca_file": (None, "/etc/wattribute-tls/ca.crt"),
        f"{MAIN}.volumeMounts[tls].name": (None, "tls"),
        f"{MAIN}.volumeMounts[tls].mountPath": (None, "/etc/wattribute-tls"),
        f"{MAIN}.volumeMounts[tls].readOnly": (None, True),
        f"{POD}.volumes[tls].name": (None, "tls"),
        f"{POD}.volumes[tls].secret.secretName": (None, "s"),
        f"{POD}.volumes[tls].secret.defaultMode": (None, 0o400),
        f"{POD}.volumes[tls].secret.items[0].key": (None, "ca.crt"),
        f"{POD}.volumes[tls].secret.items[0].path": (None, "ca.crt"),
    }),
    ({"redfish": {"url": "https://$(HOST_IP)", "username": "u", "passwordSecret": {"name": "s"}}}, {
        f"{MAIN}.args[2]": (None, "--set=meters.redfish.url=https://$(HOST_IP)"),
        "config.meters.redfish.username": (None, "u"),
        f"{MAIN}.env[WATTRIBUTE_REDFISH_PASSWORD].name": (None, "WATTRIBUTE_REDFISH_PASSWORD"),
        f"{MAIN}.env[WATTRIBUTE_REDFISH_PASSWORD].valueFrom.secretKeyRef.name": (None, "s"),
        f"{MAIN}.env[WATTRIBUTE_REDFISH_PASSWORD].valueFrom.secretKeyRef.key": (None, "password"),
    }),
    ({"config": {"interval": "2s", "host": {"proc": "/p"}, "attribution": {"idle": {"rapl:package-0": 12.5}}}}, {
        "config.interval": (None, "2s"),
        "config.host.proc": ("/host/proc", "/p"),
        "config.attribution.idle.rapl:package-0": (None, 12.5),
    }),
    ({"stateDirectory": "/mnt/state"}, {
        "config.state.directory": ("/var/lib/wattribute", "/mnt/state"),
        f"{MAIN}.volumeMounts[state].mountPath": ("/var/lib/wattribute", "/mnt/state"),
        f"{POD}.volumes[state].hostPath.path": ("/var/lib/wattribute", "/mnt/state"),
    }),
]
# Values that must not render, and what the message must say.
WRONG = [
    ({"nonsense": 1}, "nonsense"),
    ({"image": {"repo": "x"}}, "repo"),
    ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"kubernetes": {"enabled": "yes"}}, "/kubernetes/enabled"),
    ({"kubernetes": {"podLabels": "team"}}, "/kubernetes/podLabels"),
    ({"kubernetes": {"podLabels": ["a b"]}}, "/kubernetes/podLabels"),
    ({"otlp": {"endpoint": "collector:4317"}}, "/otlp/endpoint"),
    ({"otlp": {"protocol": "http/json"}}, "/otlp/protocol"),
    ({"otlp": {"tls": {"caFile": "x"}}}, "caFile"),
    ({"redfish": {"url": "http://bmc"}}, "/redfish/url"),
    ({"redfish": {"password": "secret"}}, "password"),
    ({"hostPID": 1}, "/hostPID"),
    ({"hostNetwork": True}, "hostNetwork"),
    ({"securityContext": {"privileged": True}}, "securityContext"),
    ({"ipmi": {"access": "hostPath"}}, "/ipmi/access"),
    ({"config": ["interval"]}, "/config"),
    ({"stateDirectory": "state"}, "/stateDirectory"),
    ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge"),
    ({"terminationGracePeriodSeconds": 1}, "/terminationGracePeriodSeconds"),
    ({"networkPolicy": {"otlpPorts": [0]}}, "/networkPolicy/otlpPorts/0"),
    ({"podMonitor": {"targetPort": 1}}, "targetPort"),
    # Values that need each other.
    ({"config": {"export": {"otlp": {"endpoint": "http://x:4317"}}}}, "config.export.otlp.endpoint"),
    ({"config": {"kubernetes": {"mode": "off"}}}, "config.kubernetes.mode"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
    ({"otlp": {"tls": {"secretName": "s"}}}, "otlp.tls"),
    ({"otlp": {"tls": {"ca": "ca.crt"}}}, "otlp.tls.secretName"),
    ({"otlp": {"tls": {"secretName": "s", "cert": "tls.crt"}}}, "cert and key"),
    ({"redfish": {"url": "https://one-bmc"}}, "redfish.url"),
    ({"ipmi": {"enabled": True}}, "ipmi.access"),
    ({"ipmi": {"enabled": True, "access": "devicePlugin"}}, "ipmi.resource"),
    ({"podMonitor": {"enabled": True}}, "podMonitor.selector"),
    ({"serviceMonitor": {"enabled": True}}, "serviceMonitor.selector"),
]


def equal(what, found, expected):
    require(found == expected, f"{what} is {found!r}, not {expected!r}")


class Checks:
    """Every method that does not begin with `_` is a check, in this order; its first line of text is its title."""

    def __init__(self, helm, options, scratch):
        self._helm, self._options, self._scratch = helm, options, scratch
        self._binary = pathlib.Path(options.bin).resolve()

    def lint(self):
        """helm lint --strict: the defaults and every example"""
        for values in [{}, *_examples()]:
            self._helm.with_values(values, "lint", "--strict", str(CHART))

    def least_privilege(self):
        """defaults: root without any capability, nothing of the host but /proc, /sys and the state directory"""
        text, objects = self._helm.template(), self._helm.objects()
        for word in ("privileged", "hostPID", "hostNetwork", "hostIPC", "nodes/proxy", "add:", "hostPort"):
            require(word not in text, f"{word} stands in the defaults")
        pod, main = objects["DaemonSet"]["spec"]["template"]["spec"], container(objects)
        equal("the pod's security context", pod["securityContext"],
              {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}})
        equal("the container's security context", main["securityContext"],
              {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}})
        paths = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
        equal("host paths", paths, {"proc": "/proc", "sys": "/sys", "state": "/var/lib/wattribute"})
        mounts = {each["name"]: each for each in main["volumeMounts"]}
        read_only = {"readOnly": True, "recursiveReadOnly": "IfPossible"}
        equal("mount proc", mounts["proc"], {"name": "proc", "mountPath": "/host/proc", **read_only})
        equal("mount sys", mounts["sys"], {"name": "sys", "mountPath": "/host/sys", **read_only})
        equal("what may be written", [name for name, each in mounts.items() if not each.get("readOnly")], ["state"])
        equal("tolerations", pod["tolerations"], [{"operator": "Exists"}])
        equal("what wants a listener", {"ports", "livenessProbe", "readinessProbe"} & set(main), set())

    def rights(self):
        """defaults: list and watch pods, get nodes and the namespace kube-system, for one account, and no more"""
        objects = self._helm.objects()
        equal("kinds", sorted(objects),
              ["ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "ServiceAccount"])
        equal("rules", objects["ClusterRole"]["rules"], RULES)
        binding, account = objects["ClusterRoleBinding"], objects["ServiceAccount"]["metadata"]
        equal("the role", binding["roleRef"]["name"], objects["ClusterRole"]["metadata"]["name"])
        equal("the account", binding["subjects"],
              [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}])
        pod = objects["DaemonSet"]["spec"]["template"]["spec"]
        equal("the pod's account", (pod["serviceAccountName"], pod["automountServiceAccountToken"]),
              (account["name"], True))
        equal("the account's own token", objects["ServiceAccount"]["automountServiceAccountToken"], False)

    def no_rights(self):
        """kubernetes.enabled=false: no right, no token, and nothing else is different"""
        before = self._helm.objects()
        after = self._helm.objects({"kubernetes": {"enabled": False}})
        equal("kinds", sorted(after), ["ConfigMap", "DaemonSet", "ServiceAccount"])
        equal("the account's own token", after["ServiceAccount"]["automountServiceAccountToken"], False)
        equal("what changed", changes({kind: before[kind] for kind in after}, after), {
            f"{POD}.automountServiceAccountToken": (True, False),
            "config.kubernetes.mode": ("auto", "off"),
        })

    def foreign_rights(self):
        """rbac.create=false and serviceAccount.create=false leave out these objects and nothing else"""
        before = self._helm.objects()
        after = self._helm.objects({"rbac": {"create": False}})
        equal("without rbac", (set(before) - set(after), changes({kind: before[kind] for kind in after}, after)),
              ({"ClusterRole", "ClusterRoleBinding"}, {}))
        after = self._helm.objects({"serviceAccount": {"create": False, "name": "mine"}})
        equal("without account", (set(before) - set(after), changes({kind: before[kind] for kind in after}, after)),
              ({"ServiceAccount"}, {f"{POD}.serviceAccountName": ("wattribute", "mine"),
                                    "ClusterRoleBinding.subjects[wattribute].kind": ("ServiceAccount", None),
                                    "ClusterRoleBinding.subjects[wattribute].name": ("wattribute", None),
                                    "ClusterRoleBinding.subjects[wattribute].namespace": ("wattribute", None),
                                    "ClusterRoleBinding.subjects[mine].kind": (None, "ServiceAccount"),
                                    "ClusterRoleBinding.subjects[mine].name": (None, "mine"),
                                    "ClusterRoleBinding.subjects[mine].namespace": (None, "wattribute")}))

    def opt_ins(self):
        """each opt-in changes what it says and nothing else"""
        before = self._helm.objects()
        for values, expected in OPT_INS:
            equal(f"what {json.dumps(values)} changes", changes(before, self._helm.objects(values)), expected)

    def objects_of_their_own(self):
        """networkPolicy, podMonitor and serviceMonitor add one object and change nothing"""
        before = self._helm.objects()
        monitor = {"enabled": True, "selector": {"app": "otel"}}
        for value, kind, settings in (("networkPolicy", "NetworkPolicy", {"enabled": True}),
                                      ("podMonitor", "PodMonitor", monitor),
                                      ("serviceMonitor", "ServiceMonitor", monitor)):
            after = self._helm.objects({value: settings})
            equal(f"the kinds that {value} adds", set(after) - set(before), {kind})
            new = after.pop(kind)
            equal(f"what {value} changes", changes(before, after), {})
            if "Monitor" in kind:
                equal("whom it selects", new["spec"]["selector"], {"matchLabels": {"app": "otel"}})
        policy = self._helm.objects({"networkPolicy": {"enabled": True}})["NetworkPolicy"]["spec"]
        equal("what may come in", (policy["policyTypes"], policy["ingress"]), (["Ingress", "Egress"], []))
        closed = {"networkPolicy": {"enabled": True}, "kubernetes": {"enabled": False}}
        ports = [port["port"] for rule in self._helm.objects(closed)["NetworkPolicy"]["spec"]["egress"]
                 for port in rule["ports"]]
        equal("ports without the API server", ports, [53, 53, 4317, 4318])

    def refused(self):
        """unknown keys, wrong types and values that do not fit together are refused by name"""
        for values, named in WRONG:
            try:
                self._helm.template(values)
            except Refused as refused:
                # Helm 3 writes a path in the schema as image.digest, Helm 4 as /image/digest.
                forms = (named, named.strip("/").replace("/", "."))
                require(any(form in str(refused) for form in forms), f"{values}: {named} is not named: {refused}")
            else:
                raise Failed(f"{values} was taken")

    def variables(self):
        """the endpoint's variables stand before it, and $(…) names only variables that are there"""
        for values in [{}, *_examples()]:
            main = container(self._helm.objects(values))
            known = set()
            for each in main["env"]:
                wanted = set(re.findall(r"\$\((\w+)\)", each.get("value", "")))
                require(wanted <= known, f"{each['name']} uses {wanted - known}")
                known.add(each["name"])
            wanted = set(re.findall(r"\$\((\w+)\)", " ".join(main["args"])))
            require(wanted <= known, f"the arguments use {wanted - known}")

    def kubernetes_versions(self):
        """an API server that does not know recursiveReadOnly is not sent it; one that is too old is refused"""
        before, after = self._helm.objects(), self._helm.objects(kube_version="1.30.0")
        equal("what is different in 1.30", changes(before, after), {
            f"{MAIN}.volumeMounts[{name}].recursiveReadOnly": ("IfPossible", None) for name in ("proc", "sys")})
        try:
            self._helm.template(kube_version="1.24.0")
        except Refused as refused:
            require("kubeVersion" in str(refused), f"1.24 is refused otherwise: {refused}")
        else:
            raise Failed("1.24 was taken")

    def names(self):
        """two releases share no name, and the DaemonSet selects its own pods"""
        def render(release, namespace):
            return load_all(self._helm.run("template", release, str(CHART), "--namespace", namespace, "--kube-version",
                                           KUBE_VERSION))
        seen = set()
        for release, namespace in (("wattribute", "a"), ("gpu", "a"), ("wattribute", "b"), ("w" * 53, "a")):
            for each in render(release, namespace):
                meta = each["metadata"]
                name = (each["kind"], meta.get("namespace"), meta["name"])
                require(name not in seen, f"{name} comes twice")
                require(len(meta["name"]) <= 63, f"{meta['name']} is too long")
                seen.add(name)
                if each["kind"] == "DaemonSet":
                    wanted = each["spec"]["selector"]["matchLabels"].items()
                    require(wanted <= each["spec"]["template"]["metadata"]["labels"].items(), "it selects other pods")

    def configuration(self):
        """the agent takes the configuration of the defaults and of every example, and refuses a wrong one"""
        cases = [({}, 0), *((path, 0) for path in _examples()), ({"config": {"intervall": "1s"}}, 2)]
        with concurrent.futures.ThreadPoolExecutor() as several:
            answers = list(several.map(lambda case: self._discover(self._helm.objects(case[0])), cases))
        for (values, expected), (code, said) in zip(cases, answers):
            equal(f"the agent's exit code for {values} ({said})", code, expected)
            require(not expected or "intervall" in said, f"the wrong key is not named: {said}")

    def schema(self):
        """values.schema.json knows the keys of values.yaml, no more and no fewer, and lets no object grow"""
        schema = json.loads((CHART / "values.schema.json").read_text())
        (values,) = load_all((CHART / "values.yaml").read_text())
        definitions = schema["definitions"]

        def walk(path, node, value):
            node = definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
            if "properties" not in node:
                return
            require(node.get("additionalProperties") is False, f"{path or 'the top'} may grow")
            known = set(node["properties"]) - ({"global"} if not path else set())
            equal(f"the keys of {path or 'the top'}", known, set(value))
            for key in known:
                walk(f"{path}.{key}", node["properties"][key], value[key])

        walk("", schema, values)

    def readme(self):
        """the chart's README lists every value with its default, and no other"""
        (values,) = load_all((CHART / "values.yaml").read_text())
        text = (CHART / "README.md").read_text()
        listed = dict(re.findall(r"^\| `([A-Za-z.]+)` \| `(.*?)` \|", text, re.MULTILINE))
        expected = {path: json.dumps(value) for path, value in _leaves(values)}
        equal("the table less the values", set(listed) - set(expected), set())
        equal("the values less the table", set(expected) - set(listed), set())
        for path, value in expected.items():
            equal(f"the default of {path}", json.loads(listed[path]), json.loads(value))

    def notes(self):
        """NOTES.txt names the objects of its release, and says what an opt-in means"""
        # `helm template` shows no notes, `helm install` may want a cluster: a copy of the chart has them in an object.
        copy = self._scratch / "chart"
        shutil.copytree(CHART, copy)
        (copy / "templates/notes.yaml").write_text(
            'notes: |\n  {{- include (print $.Template.BasePath "/NOTES.txt") . | nindent 2 }}\n')

        def notes(values):
            shown = self._helm.with_values(values, "template", "r", str(copy), "--namespace", "ns", "--kube-version",
                                           KUBE_VERSION, "--show-only", "templates/notes.yaml")
            return load_all(shown)[0]["notes"]

        for name in ("wattribute", "wattribute-gpu"):
            text = notes({"fullnameOverride": name})
            require(f"kubectl -n ns exec daemonset/{name} -- wattribute once" in text, f"no first joule: {text}")
            require("pod-security.kubernetes.io/enforce=privileged" in text, "no word about Pod Security")
        default = notes({})
        for values, word in (({"hostPID": True}, "gives up to signal"), ({"kubernetes": {"enabled": False}}, "no rights"),
                             ({"ipmi": IPMI}, "Pending"),
                             ({"ipmi": {"enabled": True, "access": "privileged"}}, "every capability")):
            require(word not in default and word in notes(values), f"no word about {values}")

    def golden(self):
        """every example renders what lies beside it (--bless after a change, and read the difference)"""
        for example in _examples():
            self._same(example.with_suffix(".rendered.yaml"), self._helm.template(example))

    def plain(self):
        """deploy/kubernetes.yaml is the chart with its defaults, in a namespace that lets it in"""
        text = self._helm.plain()
        self._same(PLAIN, text)
        namespace, *objects = load_all(text)
        equal("the first object", (namespace["kind"], namespace["metadata"]["name"]), ("Namespace", "wattribute"))
        places = {each["metadata"].get("namespace") for each in objects if not each["kind"].startswith("Cluster")}
        equal("the namespace of the others", places, {"wattribute"})
        labels = {label for each in objects for label in each["metadata"].get("labels", {})}
        equal("Helm's own labels", labels & {"helm.sh/chart", "app.kubernetes.io/managed-by"}, set())

    def version(self):
        """chart, image and agent have one version"""
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        (chart,) = load_all((CHART / "Chart.yaml").read_text())
        equal("appVersion", chart["appVersion"], version)
        equal("the image", container(self._helm.objects())["image"], f"wattribute:{version}")
        require(f"-t wattribute:{version} ." in (ROOT / "deploy/Dockerfile").read_text(), "deploy/Dockerfile")

    def libraries(self):
        """the binary wants no shared library that distroless/cc lacks"""
        listed = subprocess.run(["ldd", self._binary], capture_output=True, text=True, check=True, timeout=30).stdout
        wanted = {pathlib.Path(line.split()[0]).name for line in listed.splitlines()} - {"linux-vdso.so.1"}
        require("libc.so.6" in wanted, f"not linked with glibc: {wanted}")
        equal("libraries that are not in the image", wanted - DISTROLESS, set())

    def quick_start(self):
        """examples/kubernetes: the Collector loads its configuration there, and the default endpoint reaches it"""
        (manifest,) = QUICK_START.glob("collector.yaml")
        objects = {each["kind"]: each for each in load_all(manifest.read_text())}
        (config,) = objects["ConfigMap"]["data"].values()
        path = self._scratch / "collector.yaml"
        path.write_text(config)
        validate = [self._options.otelcol or _component("otelcol"), "validate", "--config", path]
        done = subprocess.run(validate, capture_output=True, text=True, timeout=60)
        require(done.returncode == 0, f"refused: {done.stderr.strip()}")
        (receiver,) = objects["DaemonSet"]["spec"]["template"]["spec"]["containers"]
        ports = {each.get("hostPort"): each["containerPort"] for each in receiver["ports"]}
        equal("the port behind hostPort 4317", ports.get(4317), 4317)
        require('"0.0.0.0:4317"' in config or "0.0.0.0:4317" in config, "it does not listen on the pod's address")
        self._helm.template(QUICK_START / "values.yaml")

    def queries(self):
        """examples/kubernetes: promtool takes every query, and figures worked out by hand come out"""
        promtool = self._options.promtool
        if not promtool:
            raise Skipped("no promtool on PATH (it comes with Prometheus); --promtool says where it is")
        done = subprocess.run([promtool, "test", "rules", "rules.test.yaml"], cwd=QUICK_START, capture_output=True,
                              text=True, timeout=60)
        require(done.returncode == 0, f"{done.stdout.strip()} {done.stderr.strip()}")
        asked = re.findall(r"^\| [^`|]+ \| `(.*)` \|$", (QUICK_START / "README.md").read_text(), re.MULTILINE)
        require(len(asked) >= 9, f"the README asks {len(asked)} questions")
        rules = {"groups": [{"name": "readme", "rules": [{"record": f"q{at}", "expr": each}
                                                         for at, each in enumerate(asked)]}]}
        path = self._scratch / "readme.yaml"
        path.write_text(json.dumps(rules))  # JSON is YAML
        done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, timeout=60)
        require(done.returncode == 0, f"{done.stdout.strip()} {done.stderr.strip()}")

    def _same(self, path, text):
        require(path.exists() and path.read_text() == text, f"{path.relative_to(ROOT)} is not what the chart renders")

    def _discover(self, objects):
        """What the agent says to a configuration, on this machine: the host's directories are not below /host here."""
        path = pathlib.Path(tempfile.mkdtemp(dir=self._scratch), "config.yaml")
        path.write_text(objects["ConfigMap"]["data"]["config.yaml"])
        here = ["--set", "host.proc=/proc", "--set", "host.sys=/sys"]
        ours = ("OTEL_", "K8S_", "WATTRIBUTE_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        done = subprocess.run([self._binary, "--config", path, *here, "discover", "--json"], capture_output=True,
                              text=True, timeout=60, env=clean)
        return done.returncode, done.stderr.strip()


def _examples():
    found = sorted(path for path in EXAMPLES.glob("*.yaml") if not path.name.endswith(".rendered.yaml"))
    require(found, "no examples")
    return found


def _leaves(value, path=""):
    """The values that a table lists: what is no map, or a map that is empty or whose keys are free."""
    free = ("resources.requests", "resources.limits", "nodeSelector")
    if isinstance(value, dict) and value and path not in free:
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _bless(helm):
    for example in _examples():
        example.with_suffix(".rendered.yaml").write_text(helm.template(example))
    PLAIN.write_text(helm.plain())


def _component(name):
    built = subprocess.run([ROOT / "e2e/components/build.sh", name], check=True, stdout=subprocess.PIPE, text=True)
    return built.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", help="default: what e2e/components/build.sh has built, or builds now")
    parser.add_argument("--bin", default=os.environ.get("WATTRIBUTE_BIN", ROOT / "target/release/wattribute"))
    parser.add_argument("--otelcol", help="default: likewise")
    parser.add_argument("--promtool", default=shutil.which("promtool"), help="default: the one on PATH")
    parser.add_argument("--bless", action="store_true", help="write the rendered files anew, and check nothing")
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    options = parser.parse_args()
    helm = Helm(options.helm or _component("helm"))
    if options.bless:
        return _bless(helm)
    if not os.access(options.bin, os.X_OK):
        parser.error(f"no binary at {options.bin}: `make build` builds it")
    with tempfile.TemporaryDirectory(prefix="wattribute-chart-") as scratch:
        checks = Checks(helm, options, pathlib.Path(scratch))
        names = names_of(Checks)
        refuse_unknown(parser, "check", options.checks, names)
        words = [run_one(name, getattr(checks, name)) for name in options.checks or names]
    finish(words)


if __name__ == "__main__":
    main()
