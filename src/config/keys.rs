//! The keys that a user may set: [`KEYS`], one row each.
//!
//! A row holds all there is to know about a key, so the file, `--set`, the environment and the printed default
//! cannot drift apart; a test loads every row and holds that no field of [`Config`] is left without one. To add a
//! key, add its field and its row.

use std::collections::BTreeMap;

use super::meters::{WATTMETER, optional};
use super::values::{
    INTERVAL, SLOW, TIMEOUT, WINDOW, base, boolean, count, duration, endpoint, factor, fingerprint, header_name,
    header_value, label_keys, optional_path, path, watts, word, zone,
};
use super::{
    Auth, Compression, Config, Idle, IdleShare, KubernetesMode, ProcessExport, Protocol, Secret, StdoutFormat,
    Temporality, Weights,
};

/// Reads a value into its field, or says what was expected.
type Set = fn(&mut Config, &str) -> Result<(), String>;
/// Reads one entry of a map of values into its field.
type SetEntry = fn(&mut Config, &str, &str) -> Result<(), String>;
/// Reads one field of a named record: the record's name, then the value.
pub(super) type SetField = SetEntry;

/// One key.
pub(super) struct Key {
    /// Where it stands: `export.otlp.timeout`.
    pub(super) path: &'static str,
    /// What may be written, for people.
    pub(super) form: &'static str,
    /// The default as YAML; a test holds that it is the one of [`Config::default`].
    pub(super) default: &'static str,
    /// What it does, for people.
    pub(super) help: &'static str,
    /// Reads one value.
    pub(super) set: Set,
    /// Reads `NAME: VALUE` below the key, where the key is a map.
    pub(super) set_entry: Option<SetEntry>,
    /// What may stand in `NAME: {FIELD: VALUE}` below the key, where the key is a map of records.
    pub(super) fields: &'static [Field],
    /// Whether the value is a list: items with commas between, or a list of YAML.
    pub(super) is_list: bool,
    /// A record, as lines of YAML.
    pub(super) example: &'static [&'static str],
}

/// One field of the records below a key.
pub(super) struct Field {
    /// Its name.
    pub(super) name: &'static str,
    /// What it does and what may be written, for people.
    pub(super) help: &'static str,
    /// Reads one value.
    pub(super) set: SetField,
}

/// What the levels above the keys are for.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("host", "Where the file systems of the host are. Change them where the host's are mounted into a container."),
    ("meters", "Meters that are asked over a bus or a network, each at its own pace."),
    ("meters.ipmi", "The BMC, asked from within the machine through /dev/ipmi0 (IPMI with DCMI)."),
    (
        "meters.redfish",
        "The BMC of this machine over Redfish: a meter of the whole machine. The password stands in password_file or \
         in the environment as WATTRIBUTE_REDFISH_PASSWORD, nowhere else.",
    ),
    (
        "model",
        "The estimate that stands in where nothing measures: watts by processor, its share where this is a guest.",
    ),
    ("attribution", "How energy is booked."),
    (
        "kubernetes",
        "Names of pods, containers and owners from the API server, which must allow to list and watch the pods of this \
         node, to get the node, and the namespace kube-system. Without it energy flows on under uids and container ids.",
    ),
    ("containers", "Names of containers outside of Kubernetes, from the files of their runtimes where readable."),
    ("state", "What outlives the agent."),
    ("processes", "Processes as series of their own. What is not exported singly stays in its container or service."),
    (
        "validation",
        "The books checked against another meter during `run`, as metrics. `wattribute validate` does it once.",
    ),
    ("export", "Where the books go."),
    ("export.otlp", "OTLP push to an OpenTelemetry Collector or any other receiver."),
    ("export.otlp.tls", "Transport security, for https endpoints."),
    ("export.stdout", "The terminal."),
];

/// The keys, in the order in which they are printed.
pub(super) const KEYS: &[Key] = &[
    key(
        "interval",
        "a duration from 100ms to 1h",
        "1s",
        "Time between two readings of the meters. Below 1s it is finer than most meters are.",
        |config, text| duration(text, INTERVAL).map(|value| config.interval.0 = value),
    ),
    key("host.proc", "a path", "/proc", "procfs of the host.", |config, text| {
        path(text).map(|value| config.host.proc = value)
    }),
    key(
        "host.sys",
        "a path",
        "/sys",
        "sysfs of the host, with the cgroup file systems below fs/cgroup.",
        |config, text| path(text).map(|value| config.host.sys = value),
    ),
    key("host.dev", "a path", "/dev", "Device nodes of the host.", |config, text| {
        path(text).map(|value| config.host.dev = value)
    }),
    key("meters.ipmi.enabled", "true or false", "true", "Whether to ask it.", |config, text| {
        boolean(text).map(|value| config.meters.ipmi.enabled = value)
    }),
    key(
        "meters.ipmi.interval",
        "a duration from 1s to 4m",
        "10s",
        "Time between two questions. BMCs measure anew every 1 to 5 s, and each question costs CPU time.",
        |config, text| duration(text, SLOW).map(|value| config.meters.ipmi.interval = value),
    ),
    key(
        "meters.redfish.url",
        "https://HOST or nothing",
        "\"\"",
        "The BMC; nothing: it is not asked.",
        |config, text| base(text).map(|value| config.meters.redfish.url = value),
    ),
    key(
        "meters.redfish.username",
        "a name or nothing",
        "\"\"",
        "A user who may only read is enough.",
        |config, text| {
            config.meters.redfish.username = optional(text);
            Ok(())
        },
    ),
    key(
        "meters.redfish.password_file",
        "a path or nothing",
        "\"\"",
        "A file that holds the user's password, readable by the agent alone.",
        |config, text| optional_path(text).map(|value| config.meters.redfish.password_file = value),
    ),
    key(
        "meters.redfish.auth",
        "session, basic or none",
        "session",
        "Log in once for a session, or send the password with every request. Without a username: none.",
        |config, text| {
            let words = [("session", Auth::Session), ("basic", Auth::Basic), ("none", Auth::None)];
            word(text, &words).map(|value| config.meters.redfish.auth = value)
        },
    ),
    key(
        "meters.redfish.ca_file",
        "a path or nothing",
        "\"\"",
        "PEM bundle of authorities to trust instead of the system's.",
        |config, text| optional_path(text).map(|value| config.meters.redfish.trust.ca_file = value),
    ),
    key(
        "meters.redfish.fingerprint",
        "64 hexadecimal digits or nothing",
        "\"\"",
        "SHA-256 of the BMC's certificate, with or without colons: that certificate is trusted and no other. For \
         certificates that the BMC has signed itself.",
        |config, text| fingerprint(text).map(|value| config.meters.redfish.trust.fingerprint = value),
    ),
    key(
        "meters.redfish.insecure_skip_verify",
        "true or false",
        "false",
        "Accept any certificate: anyone on the way can read the password.",
        |config, text| boolean(text).map(|value| config.meters.redfish.trust.insecure_skip_verify = value),
    ),
    key(
        "meters.redfish.interval",
        "a duration from 1s to 4m",
        "30s",
        "Time between two rounds of questions. A BMC is slow; most measure every few seconds.",
        |config, text| duration(text, SLOW).map(|value| config.meters.redfish.interval = value),
    ),
    key(
        "meters.redfish.timeout",
        "a duration from 1ms to 1h",
        "30s",
        "The limit of one question. Some BMCs need 20 s; no tick waits for it.",
        |config, text| duration(text, TIMEOUT).map(|value| config.meters.redfish.timeout = value),
    ),
    key(
        "meters.redfish.chassis",
        "an id or nothing",
        "\"\"",
        "The chassis to read where there are several and the right one cannot be told.",
        |config, text| {
            config.meters.redfish.chassis = optional(text);
            Ok(())
        },
    ),
    Key {
        fields: WATTMETER,
        example: &[
            "http:",
            "  plug:             # Shelly, second generation and later",
            "    url: http://192.168.1.20/rpc/Switch.GetStatus?id=0",
            "    power: /apower  # or only the counter, energy: /aenergy/total",
            "  desk:             # Tasmota",
            "    url: http://192.168.1.21/cm?cmnd=Status%208",
            "    power: /StatusSNS/ENERGY/Power",
        ],
        ..key(
            "meters.http",
            "meters by name",
            "{}",
            "Wattmeters that answer a GET with JSON: plugs, power strips, adapters. Each is a zone http:NAME.",
            |_, text| match text {
                "" => Ok(()),
                _ => Err("expected meters by name such as {plug: {url: …, power: /apower}}, found one value".into()),
            },
        )
    },
    key(
        "model.instance_type",
        "an instance type such as m5.large, or nothing",
        "\"\"",
        "What kind of instance of a cloud this is. Nothing: what the node's label or DMI says, where one of them does.",
        |config, text| {
            config.model.instance_type = optional(text);
            Ok(())
        },
    ),
    key(
        "model.calibration",
        "a number from 0.01 to 100",
        "1",
        "What the estimate is multiplied by, at rest and under load: measured watts over estimated ones, where a meter of \
         this kind of machine could once be read.",
        |config, text| factor(text).map(|value| config.model.calibration = value),
    ),
    key(
        "model.file",
        "a path or nothing",
        "\"\"",
        "Figures of one's own, as tools/fit_node_model.py writes them. A file that is none is refused and said so; nothing: \
         the built-in ones.",
        |config, text| optional_path(text).map(|value| config.model.file = value),
    ),
    Key {
        set_entry: Some(|config, zone, text| {
            let value = watts(text)?;
            if let Idle::Watts(zones) = &mut config.attribution.idle {
                zones.insert(zone.into(), value);
            } else {
                config.attribution.idle = Idle::Watts(BTreeMap::from([(zone.into(), value)]));
            }
            Ok(())
        }),
        ..key(
            "attribution.idle",
            "learned, ratio, none, or watts by zone such as {\"rapl:package-0\": 12.5}",
            "learned",
            "What part of a zone's energy is idle: what it is seen to draw at rest (learned), the idle share of CPU time \
             (ratio), nothing (none), or watts that you have measured. Zones that are not named are learned; \
             `wattribute discover` lists the zones.",
            |config, text| {
                let words: [(&str, &Idle); 3] =
                    [("learned", &Idle::Learned), ("ratio", &Idle::Ratio), ("none", &Idle::None)];
                let idle = word(text, &words);
                let idle = idle.map_err(|wrong| wrong.replace("ratio or none", "ratio, none or watts by zone"))?;
                config.attribution.idle = idle.clone();
                Ok(())
            },
        )
    },
    key(
        "attribution.idle_share",
        "none, even, requests, limits or usage",
        "none",
        "Idle energy as points of workloads with state idle, beside their active energy: each the same (even), by what pods \
         asked for (requests) or may use at most (limits), or as active energy is split (usage). What is not shared is idle_unshared.",
        |config, text| {
            use IdleShare::{Even, Limits, None, Requests, Usage};
            let words = [None, Even, Requests, Limits, Usage].map(|share| (share.as_str(), share));
            word(text, &words).map(|value| config.attribution.idle_share = value)
        },
    ),
    key(
        "attribution.weights",
        "cpu_time or perf",
        "cpu_time",
        "By what energy is split. perf: packages by cycles and memory by misses of the last-level cache, counted for each \
         workload's cgroup on each CPU, which takes CAP_PERFMON and a file for each; all else by CPU time.",
        |config, text| {
            let words = [("cpu_time", Weights::CpuTime), ("perf", Weights::Perf)];
            word(text, &words).map(|value| config.attribution.weights = value)
        },
    ),
    key(
        "kubernetes.mode",
        "auto or off",
        "auto",
        "auto: with the service account of the pod, else with a kubeconfig. ~/.kube/config is used only once there is a \
         pod on this machine.",
        |config, text| {
            let words = [("auto", KubernetesMode::Auto), ("off", KubernetesMode::Off)];
            word(text, &words).map(|value| config.kubernetes.mode = value)
        },
    ),
    key(
        "kubernetes.kubeconfig",
        "a path or nothing",
        "\"\"",
        "A kubeconfig to use in any case. Nothing: the service account, else KUBECONFIG, else ~/.kube/config.",
        |config, text| optional_path(text).map(|value| config.kubernetes.kubeconfig = value),
    ),
    key(
        "kubernetes.node_name",
        "a name or nothing",
        "\"\"",
        "The name of this node. Nothing: the node that has this machine's name or machine id.",
        |config, text| {
            config.kubernetes.node_name = optional(text);
            Ok(())
        },
    ),
    key(
        "kubernetes.cluster_name",
        "a name or nothing",
        "\"\"",
        "k8s.cluster.name, which a cluster does not say of itself.",
        |config, text| {
            config.kubernetes.cluster_name = optional(text);
            Ok(())
        },
    ),
    list(
        "kubernetes.pod_labels",
        "a list of labels, such as [team, app.kubernetes.io/name]",
        "Labels of pods to send as k8s.pod.label.<key>, cut after 1024 bytes.",
        |config, text| label_keys(text).map(|keys| config.kubernetes.pod_labels = keys),
    ),
    list(
        "kubernetes.pod_annotations",
        "a list of annotations",
        "Annotations of pods to send as k8s.pod.annotation.<key>, cut after 1024 bytes.",
        |config, text| label_keys(text).map(|keys| config.kubernetes.pod_annotations = keys),
    ),
    key(
        "containers.docker",
        "a path or nothing",
        "/var/lib/docker",
        "Docker's data root, with containers/ in it.",
        |config, text| optional_path(text).map(|value| config.containers.docker = value),
    ),
    key(
        "containers.podman",
        "a path or nothing",
        "/var/lib/containers/storage",
        "Podman's storage, with overlay-containers/ in it.",
        |config, text| optional_path(text).map(|value| config.containers.podman = value),
    ),
    key(
        "state.directory",
        "a path or nothing",
        "\"\"",
        "A directory of the agent's own. `run` locks it: two agents on a node would send the same series twice. What \
         was learned of power at rest is kept there (learner.json), and what `calibrate` measured (calibration.json).",
        |config, text| optional_path(text).map(|value| config.state.directory = value),
    ),
    key(
        "processes.export",
        "off, top or all",
        "top",
        "Which processes are exported: none, those with the most energy, or all.",
        |config, text| {
            let words = [("off", ProcessExport::Off), ("top", ProcessExport::Top), ("all", ProcessExport::All)];
            word(text, &words).map(|value| config.processes.export = value)
        },
    ),
    key("processes.top", "a count of at least 1", "100", "How many processes `export: top` names.", |config, text| {
        count(text).map(|value| config.processes.top = value)
    }),
    key(
        "validation.reference",
        "the id of a zone or nothing",
        "\"\"",
        "The zone to compare the books with: one that is not primary. `wattribute discover` lists them.",
        |config, text| zone(text).map(|value| config.validation.reference = value),
    ),
    key(
        "validation.window",
        "a duration from 1m to 24h",
        "10m",
        "The time that is compared, up to now.",
        |config, text| duration(text, WINDOW).map(|value| config.validation.window = value),
    ),
    key("export.otlp.enabled", "true or false", "true", "Whether to push.", |config, text| {
        boolean(text).map(|value| config.export.otlp.enabled = value)
    }),
    key(
        "export.otlp.endpoint",
        "an http or https URL",
        "http://localhost:4317",
        "The receiver. Where no endpoint is given and the protocol is http/protobuf it is http://localhost:4318. For \
         http/protobuf, /v1/metrics is appended.",
        |config, text| {
            config.export.otlp.endpoint = endpoint(text, false)?;
            config.export.otlp.endpoint_is_exact = false;
            Ok(())
        },
    ),
    key("export.otlp.protocol", "grpc or http/protobuf", "grpc", "The protocol.", |config, text| {
        let words = [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)];
        let value = word(text, &words).map_err(|wrong| match text {
            "http/json" => format!("{wrong}; write http/protobuf, receivers take both on the same port"),
            _ => wrong,
        })?;
        config.export.otlp.protocol = value;
        Ok(())
    }),
    Key {
        set_entry: Some(|config, name, text| {
            config.export.otlp.headers.insert(header_name(name)?, Secret(header_value(text)?));
            Ok(())
        }),
        ..key(
            "export.otlp.headers",
            "headers by name such as {x-scope-orgid: team}",
            "{}",
            "Sent with every request. Secrets are better kept in the environment.",
            // `headers:` with nothing below it is an empty map; no error repeats the value, which may be a secret.
            |_, text| match text {
                "" => Ok(()),
                _ => Err("expected headers by name such as {x-scope-orgid: team}, found one value".into()),
            },
        )
    },
    key(
        "export.otlp.compression",
        "none, gzip or zstd",
        "none",
        "Compression of requests. The Collector takes all three.",
        |config, text| {
            let words = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
            word(text, &words).map(|value| config.export.otlp.compression = value)
        },
    ),
    key("export.otlp.timeout", "a duration from 1ms to 1h", "10s", "The limit of one request.", |config, text| {
        duration(text, TIMEOUT).map(|value| config.export.otlp.timeout = value)
    }),
    key("export.otlp.interval", "a duration from 100ms to 1h", "15s", "Time between two pushes.", |config, text| {
        duration(text, INTERVAL).map(|value| config.export.otlp.interval = value)
    }),
    key(
        "export.otlp.temporality",
        "cumulative, delta or lowmemory",
        "cumulative",
        "Whether counters are totals since their start or increments (some vendors want delta). For counters, \
         lowmemory is delta.",
        |config, text| {
            let words = [
                ("cumulative", Temporality::Cumulative),
                ("delta", Temporality::Delta),
                ("lowmemory", Temporality::LowMemory),
            ];
            word(text, &words).map(|value| config.export.otlp.temporality = value)
        },
    ),
    key(
        "export.otlp.point_names",
        "true or false",
        "true",
        "Copy the names of pod, container and process to every point. The Collector's prometheus exporter needs them \
         there to tell two pods apart.",
        |config, text| boolean(text).map(|value| config.export.otlp.point_names = value),
    ),
    key(
        "export.otlp.process_power",
        "true or false",
        "false",
        "Export the power of processes, in watts, beside their energy.",
        |config, text| boolean(text).map(|value| config.export.otlp.process_power = value),
    ),
    key(
        "export.otlp.tls.ca_file",
        "a path or nothing",
        "\"\"",
        "PEM bundle of authorities to trust instead of the system's.",
        |config, text| optional_path(text).map(|value| config.export.otlp.tls.ca_file = value),
    ),
    key("export.otlp.tls.cert_file", "a path or nothing", "\"\"", "PEM certificate of the client.", |config, text| {
        optional_path(text).map(|value| config.export.otlp.tls.cert_file = value)
    }),
    key("export.otlp.tls.key_file", "a path or nothing", "\"\"", "PEM key of the client.", |config, text| {
        optional_path(text).map(|value| config.export.otlp.tls.key_file = value)
    }),
    key(
        "export.otlp.tls.insecure_skip_verify",
        "true or false",
        "false",
        "Accept any certificate: anyone on the way can read and change what is sent.",
        |config, text| boolean(text).map(|value| config.export.otlp.tls.insecure_skip_verify = value),
    ),
    key("export.stdout.enabled", "true or false", "true", "Whether to print.", |config, text| {
        boolean(text).map(|value| config.export.stdout.enabled = value)
    }),
    key(
        "export.stdout.format",
        "table or json",
        "table",
        "A table of the top workloads, or JSON lines.",
        |config, text| {
            let words = [("table", StdoutFormat::Table), ("json", StdoutFormat::Json)];
            word(text, &words).map(|value| config.export.stdout.format = value)
        },
    ),
];

const fn key(path: &'static str, form: &'static str, default: &'static str, help: &'static str, set: Set) -> Key {
    Key { path, form, default, help, set, set_entry: None, fields: &[], is_list: false, example: &[] }
}

const fn list(path: &'static str, form: &'static str, help: &'static str, set: Set) -> Key {
    Key { path, form, default: "[]", help, set, set_entry: None, fields: &[], is_list: true, example: &[] }
}

/// The key at a path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether keys stand below this path.
pub(super) fn is_section(path: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == path)
}
