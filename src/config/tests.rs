//! The configuration as a user meets it: every message word by word, every layer, every key.

use std::time::Duration;

use proptest::prelude::*;

use super::keys::{KEYS, SECTIONS};
use super::*;

/// Loads a file, an environment and `--set` values.
fn load_all(file: Option<&[u8]>, env: &[(&str, &str)], sets: &[&str]) -> Result<Loaded, String> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let file = file.map(|bytes| ("config.yaml".into(), bytes.to_vec()));
    Config::load(Sources { file, env, sets: &sets }).map_err(|error| error.to_string())
}

fn from_file(text: &str) -> Result<Config, String> {
    load_all(Some(text.as_bytes()), &[], &[]).map(|loaded| loaded.config)
}

fn from_env(env: &[(&str, &str)]) -> Result<Loaded, String> {
    load_all(None, env, &[])
}

fn from_sets(sets: &[&str]) -> Result<Config, String> {
    load_all(None, &[], sets).map(|loaded| loaded.config)
}

fn messages(cases: &[(&str, &str)], load: impl Fn(&str) -> Result<Config, String>) {
    for (input, message) in cases {
        assert_eq!(load(input).expect_err(input), *message, "for {input:?}");
    }
}

const FINGERPRINT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

/// A value other than the default for every key, as a file and as `--set`.
const OTHER: &[(&str, &str)] = &[
    ("interval", "5s"),
    ("host.proc", "/host/proc"),
    ("host.sys", "/host/sys"),
    ("host.dev", "/host/dev"),
    ("meters.ipmi.enabled", "false"),
    ("meters.ipmi.interval", "30s"),
    ("meters.redfish.url", "https://bmc"),
    ("meters.redfish.username", "reader"),
    ("meters.redfish.password_file", "/run/secrets/bmc"),
    ("meters.redfish.auth", "basic"),
    ("meters.redfish.ca_file", "/bmc.pem"),
    ("meters.redfish.fingerprint", FINGERPRINT),
    ("meters.redfish.insecure_skip_verify", "true"),
    ("meters.redfish.interval", "1m"),
    ("meters.redfish.timeout", "5s"),
    ("meters.redfish.chassis", "1U"),
    ("meters.http.plug.url", "http://plug/rpc/Switch.GetStatus?id=0"),
    ("meters.http.plug.power", "/apower"),
    ("meters.http.plug.energy", "/aenergy/total"),
    ("meters.http.plug.power_unit", "kW"),
    ("meters.http.plug.energy_unit", "kWh"),
    ("meters.http.plug.interval", "10s"),
    ("meters.http.plug.timeout", "1s"),
    ("meters.http.plug.domain", "gpu"),
    ("meters.http.plug.username", "admin"),
    ("meters.http.plug.password_file", "/plug"),
    ("meters.http.plug.ca_file", "/plug.pem"),
    ("meters.http.plug.fingerprint", FINGERPRINT),
    ("meters.http.plug.insecure_skip_verify", "true"),
    ("model.instance_type", "m5.large"),
    ("model.calibration", "1.25"),
    ("model.file", "/model.json"),
    ("attribution.idle", "none"),
    ("attribution.idle_share", "requests"),
    ("attribution.weights", "perf"),
    ("kubernetes.mode", "off"),
    ("kubernetes.kubeconfig", "/kubeconfig"),
    ("kubernetes.node_name", "node-7"),
    ("kubernetes.cluster_name", "blue"),
    ("kubernetes.pod_labels", "[team, app.kubernetes.io/name]"),
    ("kubernetes.pod_annotations", "owner"),
    ("containers.docker", "/docker"),
    ("containers.podman", "/podman"),
    ("state.directory", "/state"),
    ("processes.export", "off"),
    ("processes.top", "7"),
    ("validation.reference", "ipmi:dcmi"),
    ("validation.window", "1h"),
    ("export.otlp.enabled", "false"),
    ("export.otlp.endpoint", "https://collector:4318"),
    ("export.otlp.protocol", "http/protobuf"),
    ("export.otlp.headers.x-scope-orgid", "007"),
    ("export.otlp.compression", "zstd"),
    ("export.otlp.timeout", "500ms"),
    ("export.otlp.interval", "2m"),
    ("export.otlp.temporality", "delta"),
    ("export.otlp.point_names", "false"),
    ("export.otlp.process_power", "true"),
    ("export.otlp.tls.ca_file", "/ca.pem"),
    ("export.otlp.tls.cert_file", "/cert.pem"),
    ("export.otlp.tls.key_file", "/key.pem"),
    ("export.otlp.tls.insecure_skip_verify", "true"),
    ("export.stdout.enabled", "false"),
    ("export.stdout.format", "json"),
];

fn assert_names_differ(kubernetes: &Kubernetes, containers: &Containers, state: &State) {
    let Kubernetes { mode, kubeconfig, node_name, cluster_name, pod_labels, pod_annotations } = kubernetes;
    let Containers { docker, podman } = containers;
    let State { directory } = state;
    assert_eq!(*mode, KubernetesMode::Off);
    assert!(kubeconfig.is_some() && node_name.is_some() && cluster_name.is_some() && directory.is_some());
    assert_eq!(*pod_labels, ["team", "app.kubernetes.io/name"]);
    assert_eq!(*pod_annotations, ["owner"]);
    assert_ne!((docker, podman), (&Containers::default().docker, &Containers::default().podman));
    assert!(*docker != Containers::default().docker && *podman != Containers::default().podman);
}

fn assert_model_differs(model: &Model) {
    let Model { instance_type, calibration, file } = model;
    assert_eq!((instance_type.as_deref(), *calibration), (Some("m5.large"), 1.25));
    assert_eq!(file.as_deref(), Some(std::path::Path::new("/model.json")));
}

/// Fails to compile when a field is added, and fails when a field has no key.
#[allow(clippy::too_many_lines)] // a line for each field
fn assert_everything_differs(config: &Config) {
    let Config {
        interval,
        host,
        meters,
        model,
        attribution,
        processes,
        kubernetes,
        containers,
        state,
        validation,
        export,
    } = config;
    assert_model_differs(model);
    assert_names_differ(kubernetes, containers, state);
    assert_meters_differ(meters);
    let HostRoots { proc, sys, dev } = host;
    let ipmi = &meters.ipmi;
    let Ipmi { enabled: ipmi_enabled, interval: ipmi_interval } = ipmi;
    let Attribution { idle, idle_share, weights } = attribution;
    let Processes { export: process_export, top } = processes;
    let Validation { reference, window } = validation;
    let Export { otlp, stdout } = export;
    let Otlp {
        enabled,
        endpoint,
        endpoint_is_exact: _, // environment only, as resource and service_name
        protocol,
        headers,
        compression,
        timeout,
        interval: push,
        temporality,
        point_names,
        process_power,
        tls,
        resource: _,
        service_name: _,
    } = otlp;
    let Tls { ca_file, cert_file, key_file, insecure_skip_verify } = tls;
    let Stdout { enabled: stdout_enabled, format } = stdout;
    let default = Config::default();
    assert_ne!(*interval, default.interval);
    assert_ne!(*proc, default.host.proc);
    assert_ne!(*sys, default.host.sys);
    assert_ne!(*dev, default.host.dev);
    assert_ne!(*ipmi_enabled, default.meters.ipmi.enabled);
    assert_ne!(*ipmi_interval, default.meters.ipmi.interval);
    assert_ne!(*idle_share, default.attribution.idle_share);
    assert_ne!(*weights, default.attribution.weights);
    assert_ne!(*idle, default.attribution.idle);
    assert_ne!(*process_export, default.processes.export);
    assert_ne!(*top, default.processes.top);
    assert_ne!(*reference, default.validation.reference);
    assert_ne!(*window, default.validation.window);
    let was = default.export.otlp;
    assert_ne!(*enabled, was.enabled);
    assert_ne!(*endpoint, was.endpoint);
    assert_ne!(*protocol, was.protocol);
    assert_ne!(*headers, was.headers);
    assert_ne!(*compression, was.compression);
    assert_ne!(*timeout, was.timeout);
    assert_ne!(*push, was.interval);
    assert_ne!(*temporality, was.temporality);
    assert_ne!(*point_names, was.point_names);
    assert_ne!(*process_power, was.process_power);
    assert_ne!(*ca_file, was.tls.ca_file);
    assert_ne!(*cert_file, was.tls.cert_file);
    assert_ne!(*key_file, was.tls.key_file);
    assert_ne!(*insecure_skip_verify, was.tls.insecure_skip_verify);
    assert_ne!(*stdout_enabled, default.export.stdout.enabled);
    assert_ne!(*format, default.export.stdout.format);
}

fn assert_meters_differ(meters: &Meters) {
    let Meters { redfish, http, ipmi: _ } = meters;
    let was = Redfish::default();
    let Redfish { url, username, password_file, password: _, auth, trust, interval, timeout, chassis } = redfish;
    assert!(url.is_some() && username.is_some() && password_file.is_some() && chassis.is_some());
    assert_ne!((*auth, *interval, *timeout), (was.auth, was.interval, was.timeout));
    assert_ne!(*interval, was.interval);
    assert_ne!(*timeout, was.timeout);
    let Trust { ca_file, fingerprint, insecure_skip_verify } = trust;
    assert!(ca_file.is_some() && *insecure_skip_verify);
    assert_eq!(fingerprint.unwrap()[28..], [0x1c, 0x1d, 0x1e, 0xff]);
    let plug = Wattmeter {
        url: "http://plug/rpc/Switch.GetStatus?id=0".into(),
        power: "/apower".into(),
        energy: "/aenergy/total".into(),
        power_unit: PowerUnit::Kilowatt,
        energy_unit: EnergyUnit::KilowattHour,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        domain: "gpu",
        username: Some("admin".into()),
        password_file: Some("/plug".into()),
        trust: Trust { ca_file: Some("/plug.pem".into()), ..trust.clone() },
    };
    assert_eq!(*http, BTreeMap::from([("plug".to_owned(), plug)]));
}

/// Writes `path: value` as nested YAML over the lines of `out`, which must be in the table's order.
fn nested(rows: &[(&str, &str)]) -> String {
    let (mut out, mut open) = (String::new(), Vec::<&str>::new());
    for (path, value) in rows {
        let parts: Vec<&str> = path.split('.').collect();
        let shared = open.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        for (depth, part) in parts.iter().enumerate().skip(shared) {
            let value = if depth + 1 == parts.len() { value } else { "" };
            out += &("  ".repeat(depth) + part + ": " + value + "\n");
        }
        open = parts;
    }
    out
}

#[test]
fn every_key_can_be_set_and_every_field_has_a_key() {
    for key in KEYS {
        assert!(OTHER.iter().any(|(path, _)| path.starts_with(key.path)), "no sample for {}", key.path);
    }
    let file = from_file(&nested(OTHER)).unwrap();
    assert_everything_differs(&file);
    let sets: Vec<String> = OTHER.iter().map(|(path, value)| format!("{path}={value}")).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    assert_eq!(from_sets(&sets).unwrap(), file);
}

#[test]
fn lists_are_written_in_any_form() {
    let labels = |config: Config| config.kubernetes.pod_labels;
    let expected = ["team", "example.com/cost.center"];
    for text in [
        "[team, example.com/cost.center]",
        "\n  - team\n  - example.com/cost.center\n  - team",
        "team, example.com/cost.center",
    ] {
        assert_eq!(labels(from_file(&format!("kubernetes:\n pod_labels: {text}")).unwrap()), expected, "{text}");
    }
    assert_eq!(labels(from_sets(&["kubernetes.pod_labels=[team,example.com/cost.center]"]).unwrap()), expected);
    assert_eq!(labels(from_sets(&["kubernetes.pod_labels=a", "kubernetes.pod_labels="]).unwrap()), [""; 0]);
    let many: Vec<String> = (0..65).map(|number| format!("l{number}")).collect();
    let wrong = from_sets(&[&format!("kubernetes.pod_labels={}", many.join(","))]).unwrap_err();
    assert_eq!(wrong, "--set kubernetes.pod_labels: expected at most 64 keys, found 65");
    for bad in ["-a", "a-", "/a", "a/", "a/b/c", "ä"] {
        assert!(from_sets(&[&format!("kubernetes.pod_labels={bad}")]).is_err(), "{bad}");
    }
}

#[test]
fn nothing_given_is_the_default() {
    let default = Loaded { config: Config::default(), warnings: vec![] };
    assert_eq!(from_env(&[]).unwrap(), default);
    for empty in
        ["", "\n", "# only a comment\n", "---\n", "{}", "\u{feff}", "export:\n  otlp:\n#   timeout: 1s\nhost:\n"]
    {
        assert_eq!(from_file(empty).unwrap(), Config::default(), "{empty:?}");
    }
}

#[test]
fn the_document_is_the_default_and_has_every_key() {
    let document = document();
    assert_eq!(from_file(&document).unwrap(), Config::default());
    let rows: Vec<&str> = document.lines().map(str::trim).filter(|row| !row.starts_with('#')).collect();
    for key in KEYS {
        let row = format!("{}: {}", key.path.rsplit('.').next().unwrap(), key.default);
        assert!(rows.contains(&row.as_str()), "{row}");
        assert!(document.contains(key.form.split(' ').next().unwrap()));
    }
    assert_eq!(rows.iter().filter(|row| !row.is_empty()).count(), KEYS.len() + SECTIONS.len());
    // Each default is the row's own, so that a key cannot print what another sets.
    for key in KEYS {
        let mut config = Config::default();
        if key.default != "{}" {
            (key.set)(&mut config, key.default.trim_matches('"')).unwrap();
        }
        assert_eq!(config, Config::default(), "{}", key.path);
    }
    assert!(document.lines().all(|line| line.chars().count() <= 100), "{document}");
    assert!(document.lines().all(|line| line == line.trim_end()));
}

#[test]
fn the_document_reads_well() {
    let start: String = document().lines().take(16).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(start, @r"
    # The configuration of wattribute. Every key is here with its default; keep what you change.
    # Stronger than this file: the environment, then --set key.path=value.

    # Time between two readings of the meters. Below 1s it is finer than most meters are.
    # (a duration from 100ms to 1h; default 1s)
    interval: 1s

    # Where the file systems of the host are. Change them where the host's are mounted into a container.
    host:
      # procfs of the host.
      # (a path; default /proc)
      proc: /proc
      # sysfs of the host, with the cgroup file systems below fs/cgroup.
      # (a path; default /sys)
      sys: /sys
      # Device nodes of the host.
    ");
}

#[test]
fn sections_and_keys_are_one_tree() {
    for key in KEYS {
        for (dot, _) in key.path.match_indices('.') {
            assert!(SECTIONS.iter().any(|(section, _)| *section == &key.path[..dot]), "{}", key.path);
        }
        assert_eq!(KEYS.iter().filter(|other| other.path == key.path).count(), 1);
    }
    for (section, _) in SECTIONS {
        assert!(KEYS.iter().any(|key| key.path.starts_with(&format!("{section}."))), "{section}");
    }
}

#[test]
fn unknown_keys_name_the_nearest() {
    messages(
        &[
            (
                "interval: 1s\n\n\nexport:\n  otlp:\n    enabled: true\n    endpont: x\n",
                "config.yaml:7: unknown key 'export.otlp.endpont'; did you mean 'endpoint'?",
            ),
            ("intervall: 1s", "config.yaml:1: unknown key 'intervall'; did you mean 'interval'?"),
            ("Interval: 1s", "config.yaml:1: unknown key 'Interval'; did you mean 'interval'?"),
            ("processes: {tpo: 1}", "config.yaml:1: unknown key 'processes.tpo'; did you mean 'top'?"),
            (
                "export: {otlp: {tls: {ca-file: x}}}",
                "config.yaml:1: unknown key 'export.otlp.tls.ca-file'; did you mean 'ca_file'?",
            ),
            (
                "export: {otlp: {pointNames: true}}",
                "config.yaml:1: unknown key 'export.otlp.pointNames'; did you mean 'point_names'?",
            ),
            ("endpoint: x", "config.yaml:1: unknown key 'endpoint'; did you mean 'export.otlp.endpoint'?"),
            ("\notlp: {}", "config.yaml:2: unknown key 'otlp'; did you mean 'export.otlp'?"),
            (
                "export.otlp.endpoint: x",
                "config.yaml:1: unknown key 'export.otlp.endpoint'; keys are nested, write 'endpoint' below 'export.otlp'",
            ),
            (
                "prometheus: x",
                "config.yaml:1: unknown key 'prometheus'; valid here: interval, host, meters, model, attribution, kubernetes, containers, state, processes, validation, export",
            ),
            (
                "\"a\\e[2Jb\": x",
                "config.yaml:1: unknown key 'a\\u{1b}[2Jb'; valid here: interval, host, meters, model, attribution, kubernetes, containers, state, processes, validation, export",
            ),
            (
                "\"\": x",
                "config.yaml:1: unknown key nothing; valid here: interval, host, meters, model, attribution, kubernetes, containers, state, processes, validation, export",
            ),
        ],
        from_file,
    );
    messages(
        &[
            (
                "export.otlp.endpont=x",
                "--set export.otlp.endpont: unknown key 'export.otlp.endpont'; did you mean 'endpoint'?",
            ),
            ("exprt.otlp.endpoint=x", "--set exprt.otlp.endpoint: unknown key 'exprt'; did you mean 'export'?"),
            ("endpoint=x", "--set endpoint: unknown key 'endpoint'; did you mean 'export.otlp.endpoint'?"),
            ("export=x", "--set export: expected keys below it (otlp, stdout), found one value"),
            (
                "interval.x=1s",
                "--set interval.x: 'interval' takes a duration from 100ms to 1h and has no keys below it",
            ),
            ("interval", "--set interval: expected KEY=VALUE such as interval=5s"),
            ("", "--set : expected KEY=VALUE such as interval=5s"),
            (
                "=5s",
                "--set : unknown key nothing; valid here: interval, host, meters, model, attribution, kubernetes, containers, state, processes, validation, export",
            ),
            ("interval=15", "--set interval: expected a duration such as 500ms, 15s, 2m or 1h, found '15'; write 15s"),
        ],
        |set| from_sets(&[set]),
    );
}

#[test]
#[allow(clippy::too_many_lines)] // one table
fn bad_values_say_what_is_expected() {
    let duration = "expected a duration such as 500ms, 15s, 2m or 1h, found";
    let url = "config.yaml:1: export.otlp.endpoint: expected a URL such as http://host:4317, found";
    messages(
        &[
            ("host:\n  proc: /p\ninterval: 15\n", &format!("config.yaml:3: interval: {duration} '15'; write 15s")),
            ("interval: 1.5s", &format!("config.yaml:1: interval: {duration} '1.5s'")),
            ("interval: 1 s", &format!("config.yaml:1: interval: {duration} '1 s'")),
            ("interval: -1s", &format!("config.yaml:1: interval: {duration} '-1s'")),
            ("interval:", &format!("config.yaml:1: interval: {duration} nothing")),
            ("interval: 1d", &format!("config.yaml:1: interval: {duration} '1d'")),
            ("interval: 99ms", "config.yaml:1: interval: expected 100ms to 1h, found '99ms'"),
            ("interval: 2h", "config.yaml:1: interval: expected 100ms to 1h, found '2h'"),
            (
                "interval: 18446744073709551615h",
                "config.yaml:1: interval: expected 100ms to 1h, found '18446744073709551615h'",
            ),
            ("interval: [1s]", "config.yaml:1: interval: expected a duration from 100ms to 1h, found a list"),
            (
                "kubernetes:\n  pod_labels: [team, 'a b']",
                "config.yaml:2: kubernetes.pod_labels: expected keys of labels such as team or app.kubernetes.io/name, found 'a b'",
            ),
            (
                "kubernetes: {pod_labels: [[team]]}",
                "config.yaml:1: kubernetes.pod_labels: expected a list of labels, such as [team, app.kubernetes.io/name], found a list of lists or keys",
            ),
            (
                "kubernetes: {pod_labels: {team: blue}}",
                "config.yaml:1: kubernetes.pod_labels: expected a list of labels, such as [team, app.kubernetes.io/name], found keys below it",
            ),
            ("kubernetes: {mode: on}", "config.yaml:1: kubernetes.mode: expected auto or off, found 'on'"),
            ("interval: {s: 1}", "config.yaml:1: interval: expected a duration from 100ms to 1h, found keys below it"),
            ("validation: {window: 59s}", "config.yaml:1: validation.window: expected 1m to 24h, found '59s'"),
            (
                "validation: {reference: dcmi}",
                "config.yaml:1: validation.reference: expected a zone such as ipmi:dcmi, found 'dcmi'",
            ),
            ("export: {otlp: {timeout: 0s}}", "config.yaml:1: export.otlp.timeout: expected 1ms to 1h, found '0s'"),
            ("processes: {export: false}", "config.yaml:1: processes.export: expected off, top or all, found 'false'"),
            ("processes: {export: some}", "config.yaml:1: processes.export: expected off, top or all, found 'some'"),
            ("processes: {top: 0}", "config.yaml:1: processes.top: expected a whole number of at least 1, found '0'"),
            ("processes: {top: -1}", "config.yaml:1: processes.top: expected a whole number of at least 1, found '-1'"),
            (
                "processes: {top: 1.5}",
                "config.yaml:1: processes.top: expected a whole number of at least 1, found '1.5'",
            ),
            ("processes: 5", "config.yaml:1: processes: expected keys below it (export, top), found one value"),
            ("host: {proc: }", "config.yaml:1: host.proc: expected a path, found nothing"),
            ("host: {proc: \"a\\0\"}", "config.yaml:1: host.proc: expected a path, found 'a\\0'"),
            (
                "attribution: {idle: 5}",
                "config.yaml:1: attribution.idle: expected learned, ratio, none or watts by zone, found '5'",
            ),
            (
                "attribution:\n  idle:\n    rapl:package-0: -1\n",
                "config.yaml:3: attribution.idle.rapl:package-0: expected watts, a number of at least 0 such as 12.5, found '-1'",
            ),
            (
                "attribution: {idle: {a: .inf}}",
                "config.yaml:1: attribution.idle.a: expected watts, a number of at least 0 such as 12.5, found '.inf'",
            ),
            (
                "attribution: {idle: {a: 1e999}}",
                "config.yaml:1: attribution.idle.a: expected watts, a number of at least 0 such as 12.5, found '1e999'",
            ),
            (
                "attribution: {idle: {a: NaN}}",
                "config.yaml:1: attribution.idle.a: expected watts, a number of at least 0 such as 12.5, found 'NaN'",
            ),
            (
                "attribution: {idle: {a: [1]}}",
                "config.yaml:1: attribution.idle.a: expected one value, found a list or keys",
            ),
            (
                "model: {calibration: 0}",
                "config.yaml:1: model.calibration: expected a factor from 0.01 to 100 such as 1.2, found '0'",
            ),
            (
                "model: {calibration: .nan}",
                "config.yaml:1: model.calibration: expected a factor from 0.01 to 100 such as 1.2, found '.nan'",
            ),
            (
                "model: {calibration: -1.5}",
                "config.yaml:1: model.calibration: expected a factor from 0.01 to 100 such as 1.2, found '-1.5'",
            ),
            (
                "model: {calibration: 1e308}",
                "config.yaml:1: model.calibration: expected a factor from 0.01 to 100 such as 1.2, found '1e308'",
            ),
            (
                "model: {calibration: 100.1}",
                "config.yaml:1: model.calibration: expected a factor from 0.01 to 100 such as 1.2, found '100.1'",
            ),
            (
                "model: {calibration: 1e-12}",
                "config.yaml:1: model.calibration: expected a factor from 0.01 to 100 such as 1.2, found '1e-12'",
            ),
            (
                "export: {otlp: {enabled: yes}}",
                "config.yaml:1: export.otlp.enabled: expected true or false, found 'yes'",
            ),
            (
                "export: {otlp: {protocol: http/json}}",
                "config.yaml:1: export.otlp.protocol: expected grpc or http/protobuf, found 'http/json'; \
                 write http/protobuf, receivers take both on the same port",
            ),
            (
                "export: {otlp: {compression: brotli}}",
                "config.yaml:1: export.otlp.compression: expected none, gzip or zstd, found 'brotli'",
            ),
            (
                "export: {otlp: {temporality: sum}}",
                "config.yaml:1: export.otlp.temporality: expected cumulative, delta or lowmemory, found 'sum'",
            ),
            (
                "export: {stdout: {format: xml}}",
                "config.yaml:1: export.stdout.format: expected table or json, found 'xml'",
            ),
            (
                "export: {otlp: {endpoint: collector:4317}}",
                &format!("{url} 'collector:4317'; write http://collector:4317, or https:// for TLS"),
            ),
            ("export: {otlp: {endpoint: 'http://'}}", &format!("{url} 'http://'")),
            ("export: {otlp: {endpoint: 'http://a b'}}", &format!("{url} 'http://a b'")),
            ("export: {otlp: {endpoint: 'http://a:99999'}}", &format!("{url} 'http://a:99999'")),
            ("export: {otlp: {endpoint: 'http://a\\b'}}", &format!("{url} 'http://a\\b'")),
            ("export: {otlp: {endpoint: ''}}", &format!("{url} nothing")),
            (
                "export: {otlp: {endpoint: 'ftp://a'}}",
                &format!("{url} 'ftp://a'; the scheme is http, or https for TLS"),
            ),
            (
                "export: {otlp: {endpoint: 'grpc://a:4317'}}",
                &format!("{url} 'grpc://a:4317'; write http:// and set export.otlp.protocol to grpc"),
            ),
            (
                "export: {otlp: {endpoint: 'http://a/?key=secret'}}",
                &format!("{url} 'http://a/'; a path is appended to it, so it ends before any '?' or '#'"),
            ),
            (
                "export: {otlp: {endpoint: 'http://me:secret@a'}}",
                "config.yaml:1: export.otlp.endpoint: a user name in the URL is not sent to the receiver; use export.otlp.headers",
            ),
            (
                "export: {otlp: {tls: {cert_file: /c.pem}}}",
                "export.otlp.tls: cert_file and key_file belong together; key_file is missing",
            ),
            (
                "export: {otlp: {tls: {key_file: /k.pem}}}",
                "export.otlp.tls: cert_file and key_file belong together; cert_file is missing",
            ),
        ],
        from_file,
    );
}

#[test]
fn words_that_yaml_knows_stay_words() {
    let config = from_file(
        "processes: {export: off}\nattribution: {idle: none}\nexport:\n  otlp:\n    compression: none\n    \
         headers: {a: 1.50, B: off, c: 0x1F, d: \"~\", e: yes, f: 007}\n",
    )
    .unwrap();
    assert_eq!(config.processes.export, ProcessExport::Off);
    assert_eq!(config.attribution.idle, Idle::None);
    assert_eq!(config.export.otlp.compression, Compression::None);
    let headers: Vec<_> = config.export.otlp.headers.iter().map(|(name, value)| (&**name, &*value.0)).collect();
    assert_eq!(headers, [("a", "1.50"), ("b", "off"), ("c", "0x1F"), ("d", "~"), ("e", "yes"), ("f", "007")]);
    assert_eq!(from_file("processes: {export: \"OFF\"}").unwrap().processes.export, ProcessExport::Off);
    assert_eq!(
        from_file("export: {otlp: {endpoint: \"http://[::1]:4317\"}}").unwrap().export.otlp.endpoint,
        "http://[::1]:4317"
    );
}

#[test]
fn idle_watts_by_zone() {
    let watts =
        |rows: &[(&str, f64)]| Idle::Watts(rows.iter().map(|(zone, watts)| (zone.to_string(), *watts)).collect());
    let zones = watts(&[("rapl:package-0", 12.5), ("rapl:package-1/dram", 0.0)]);
    for text in [
        "attribution: {idle: {\"rapl:package-0\": 12.5, rapl:package-1/dram: -0}}",
        "attribution:\n  idle:\n    rapl:package-0: 12.5\n    rapl:package-1/dram: 0\n",
    ] {
        assert_eq!(from_file(text).unwrap().attribution.idle, zones);
    }
    assert_eq!(from_file("attribution: {idle: {}}").unwrap().attribution.idle, Idle::Learned);
    let sets = ["attribution.idle.rapl:package-0=12.5", "attribution.idle.rapl:package-1/dram=0"];
    assert_eq!(from_sets(&sets).unwrap().attribution.idle, zones);
    let later = from_sets(&["attribution.idle.a=1", "attribution.idle=none"]).unwrap();
    assert_eq!(later.attribution.idle, Idle::None);
}

#[test]
fn durations() {
    let cases = [("100ms", 100), ("1s", 1_000), ("90s", 90_000), ("2m", 120_000), ("1h", 3_600_000), ("0001s", 1_000)];
    for (text, millis) in cases {
        assert_eq!(from_sets(&[&format!("interval={text}")]).unwrap().interval.0, Duration::from_millis(millis));
    }
}

#[test]
fn hostile_files_are_refused_in_words() {
    let flow = "[".repeat(5000);
    let deep = "a: ".to_string() + &"{a: ".repeat(40) + &"}".repeat(40);
    let large = "#".repeat((1 << 20) + 1);
    let many = "k: 1\n".repeat(5000);
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n";
    messages(
        &[
            ("interval: 1s\ninterval: 2s\n", "config.yaml:2: 'interval' is there twice, first on line 1"),
            (
                "export:\n  otlp:\n    timeout: 1s\n    enabled: true\n    timeout: 2s\n",
                "config.yaml:5: 'export.otlp.timeout' is there twice, first on line 3",
            ),
            (
                "export: {otlp: {headers: {a: 1, a: 2}}}",
                "config.yaml:1: 'export.otlp.headers.a' is there twice, first on line 1",
            ),
            (
                "interval: 1s\n---\ninterval: 2s\n",
                "config.yaml:3: a second document begins here; a configuration is one document",
            ),
            (
                "host:\n\tproc: /p\n",
                "config.yaml:2: not valid YAML: tabs disallowed within this context (block indentation); indent with spaces",
            ),
            ("interval: 1s\0", "config.yaml:1: not valid YAML: unexpected character: `\\u{0}'"),
            ("interval: [1s\n", "config.yaml:1: not valid YAML: unclosed bracket '['"),
            ("interval: *x\n", "config.yaml:1: not valid YAML: alias references unknown anchor"),
            ("interval: !secret x\n", "config.yaml:1: not valid YAML: unsupported tag `!secret`"),
            ("interval: !include x\n", "config.yaml:1: not valid YAML: unsupported tag `!include`"),
            ("host: &a [*a]\n", "config.yaml:1: an alias inside of what it stands for"),
            ("- interval: 1s\n", "config.yaml:1: expected keys such as 'interval: 1s'"),
            ("interval", "config.yaml:1: expected keys such as 'interval: 1s'"),
            ("? [a]\n: 1\n", "config.yaml:1: expected a name as key"),
            ("~: 1\n", "config.yaml:1: expected a name as key"),
            (bomb, "config.yaml:4: too many levels, values or aliases for a configuration"),
            (&deep, "config.yaml:1: too many levels, values or aliases for a configuration"),
            (&flow, "config.yaml:1: not valid YAML: recursion limit exceeded"),
            (&many, "config.yaml:2048: too many levels, values or aliases for a configuration"),
            (&large, "config.yaml: 1048577 bytes is too large for a configuration (1 MiB at most)"),
        ],
        from_file,
    );
    let latin = load_all(Some(b"interval: 1s\n# \xe9\n"), &[], &[]).unwrap_err();
    assert_eq!(latin, "config.yaml: not UTF-8: byte 15 on line 2; save the file as UTF-8");
    let utf16 = load_all(Some(b"\xff\xfei\0"), &[], &[]).unwrap_err();
    assert_eq!(utf16, "config.yaml: not UTF-8: byte 0 on line 1; save the file as UTF-8");
}

#[test]
fn anchors_and_merges_are_yaml_and_work() {
    let config = from_file("interval: &t 5s\nexport:\n  otlp:\n    interval: *t\n").unwrap();
    assert_eq!(config.export.otlp.interval, Duration::from_secs(5));
    let config =
        from_file("attribution:\n  idle: &w\n    a: 1.5\nexport:\n  otlp:\n    headers:\n      <<: *w\n").unwrap();
    assert_eq!(config.export.otlp.headers["a"].0, "1.5");
}

#[test]
fn secrets_are_never_repeated() {
    let config = from_file("export: {otlp: {headers: {authorization: s3cret}}}").unwrap();
    assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    for file in [
        "export: {otlp: {headers: {authorization: \"s3cret\\n\"}}}",
        "export: {otlp: {headers: \"authorization=s3cret\"}}",
        "export: {otlp: {headers: [s3cret]}}",
        "export: {otlp: {endpoint: \"http://me:s3cret@host\"}}",
        "export: {otlp: {endpoint: \"me:s3cret@host:4317\"}}",
        "export: {otlp: {header: {authorization: s3cret}}}",
    ] {
        let error = from_file(file).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
    for set in [
        "export.otlp.header.authorization=s3cret",
        "export.otlp.headers=s3cret",
        "export.otlp.headers.authorization: s3cret",
        "export.otlp.headers.authorization: s3cret=",
    ] {
        let error = from_sets(&[set]).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
    for headers in ["authorization: s3cret", "Authorization: Bearer s3cret=", "a=s3cret%0A", "a=b,s3cret"] {
        let loaded = from_env(&[("OTEL_EXPORTER_OTLP_HEADERS", headers)]).unwrap();
        assert_eq!(loaded.warnings.len(), 1, "{headers}");
        assert!(!loaded.warnings[0].contains("s3cret"), "{:?}", loaded.warnings);
        assert_eq!(loaded.config, Config::default());
    }
}

#[test]
#[allow(clippy::too_many_lines)] // one table
fn what_is_wrong_with_a_meter_is_said_by_its_name() {
    let plug = "meters:\n  http:\n    plug:\n";
    messages(
        &[
            (
                &format!("{plug}      powr: /apower\n"),
                "config.yaml:4: unknown key 'meters.http.plug.powr'; did you mean 'power'?",
            ),
            (
                &format!("{plug}      url: http://h/\n      url: http://i/\n"),
                "config.yaml:5: 'meters.http.plug.url' is there twice, first on line 4",
            ),
            (
                &format!("{plug}      power: apower\n"),
                "config.yaml:4: meters.http.plug.power: expected a JSON pointer such as /StatusSNS/ENERGY/Power, found \
                 'apower'",
            ),
            (
                &format!("{plug}      domain: rest\n"),
                "config.yaml:4: meters.http.plug.domain: expected host, package, dram, gpu, module, soc, io, storage, psu \
                 or other, found 'rest'",
            ),
            (
                &format!("{plug}      domain: hst\n"),
                "config.yaml:4: meters.http.plug.domain: expected host, package, dram, gpu, module, soc, io, storage, psu \
                 or other, found 'hst'; did you mean 'host'?",
            ),
            (&format!("{plug}      power: /p\n"), "meters.http.plug: url is missing"),
            (
                &format!("{plug}      url: http://h\n"),
                "meters.http.plug: power or energy is missing, a JSON pointer such as /apower",
            ),
            (
                "meters: {http: {plug: http://h}}",
                "config.yaml:1: expected keys below 'meters.http.plug' (url, power, energy, power_unit, energy_unit, \
                 interval, timeout, domain, username, password_file, ca_file, fingerprint, insecure_skip_verify)",
            ),
            (
                "meters: {http: {'a b': {url: http://h}}}",
                "config.yaml:1: meters.http.a b.url: expected a name of letters, digits, '-' and '_', at most 40, found \
                 'a b'",
            ),
            (
                "meters: {redfish: {url: https://bmc/redfish/v1}}",
                "config.yaml:1: meters.redfish.url: expected a URL without a path such as https://bmc; /redfish/v1 is \
                 appended to it",
            ),
            (
                "meters: {redfish: {url: bmc}}",
                "config.yaml:1: meters.redfish.url: expected a URL such as https://host, found 'bmc'",
            ),
            (
                "meters: {redfish: {fingerprint: 'AB:CD'}}",
                "config.yaml:1: meters.redfish.fingerprint: expected the SHA-256 of a certificate, 64 hexadecimal digits, \
                 found 'AB:CD'",
            ),
            (
                "meters: {redfish: {url: https://bmc, username: root}}",
                "meters.redfish: a username needs a password; set password_file or WATTRIBUTE_REDFISH_PASSWORD",
            ),
        ],
        from_file,
    );
    messages(
        &[(
            "meters.http.plug=x",
            "--set meters.http.plug: expected keys below 'meters.http.plug' (url, power, energy, power_unit, energy_unit, \
             interval, timeout, domain, username, password_file, ca_file, fingerprint, insecure_skip_verify)",
        )],
        |set| from_sets(&[set]),
    );
    let trailing = from_file("meters: {redfish: {url: 'https://bmc:8443/'}}").unwrap();
    assert_eq!(trailing.meters.redfish.url.as_deref(), Some("https://bmc:8443"));
    let colons: Vec<&str> = (0..64).step_by(2).map(|at| &FINGERPRINT[at..at + 2]).collect();
    let colons = from_sets(&[&format!("meters.redfish.fingerprint={}", colons.join(":"))]).unwrap();
    assert_eq!(
        colons.meters.redfish.trust,
        from_sets(&[&format!("meters.redfish.fingerprint={FINGERPRINT}")]).unwrap().meters.redfish.trust
    );
}

#[test]
fn a_password_in_the_clear_is_warned_about() {
    let warnings = |url: &str| {
        let sets = [url, "meters.redfish.username=reader", "meters.redfish.password_file=/p"];
        load_all(None, &[], &sets).unwrap().warnings
    };
    assert_eq!(
        warnings("meters.redfish.url=http://bmc"),
        ["meters.redfish.url: http sends the password for all to read; use https"]
    );
    assert_eq!(warnings("meters.redfish.url=https://bmc"), Vec::<String>::new());
    let warnings = |url: &str, user: bool| {
        let url = format!("meters.http.plug.url={url}");
        let mut sets = vec![url.as_str(), "meters.http.plug.power=/p"];
        if user {
            sets.extend(["meters.http.plug.username=u", "meters.http.plug.password_file=/p"]);
        }
        load_all(None, &[], &sets).unwrap().warnings
    };
    for url in ["http://plug/x", "HTTP://192.0.2.7:8080/x", "http://[2001:db8::1]/x"] {
        let [warning] = &warnings(url, true)[..] else { panic!("{url}") };
        assert!(warning.starts_with("meters.http.plug.url: http sends the password for all to read"), "{warning}");
        assert_eq!(warnings(url, false), Vec::<String>::new());
    }
    for url in ["https://plug/x", "http://localhost:80/x", "http://127.8.0.1/x", "http://[::1]/x"] {
        assert_eq!(warnings(url, true), Vec::<String>::new(), "{url}");
    }
}

#[test]
fn a_password_is_never_a_key() {
    let sets = [
        "meters.redfish.password=s3cret",
        "meters.http.plug.password=s3cret",
        "meters.redfish.url=http://u:s3cret@h",
        "meters.http.p.url=ftp://h/?key=s3cret",
    ];
    for set in sets {
        let error = from_sets(&[set]).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
    let file = from_file("meters: {redfish: {password: s3cret}}").unwrap_err();
    assert_eq!(file, "config.yaml:1: unknown key 'meters.redfish.password'; did you mean 'password_file'?");
    let loaded = from_env(&[("WATTRIBUTE_REDFISH_PASSWORD", " s3cret \n")]).unwrap().config;
    assert_eq!(loaded.meters.redfish.password, Some(Secret(" s3cret ".into())));
    assert!(!format!("{loaded:?}").contains("s3cret"));
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let file = b"export: {otlp: {timeout: 1s, headers: {a: file}, endpoint: \"http://file:1\"}}".as_slice();
    let env = [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "b=env"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://env:2/x"),
    ];
    let timeout = |loaded: &Loaded| loaded.config.export.otlp.timeout.as_secs();
    let one = load_all(Some(file), &[], &[]).unwrap();
    assert_eq!((timeout(&one), &*one.config.export.otlp.endpoint), (1, "http://file:1"));
    let two = load_all(Some(file), &env, &[]).unwrap();
    assert_eq!((timeout(&two), &*two.config.export.otlp.endpoint), (2, "http://env:2/x"));
    assert!(two.config.export.otlp.endpoint_is_exact);
    let headers: Vec<_> = two.config.export.otlp.headers.keys().collect();
    assert_eq!(headers, ["b"]);
    let sets = ["export.otlp.timeout=3s", "export.otlp.endpoint=http://set:3", "export.otlp.headers.c=set"];
    let three = load_all(Some(file), &env, &sets).unwrap();
    assert_eq!((timeout(&three), &*three.config.export.otlp.endpoint), (3, "http://set:3"));
    assert!(!three.config.export.otlp.endpoint_is_exact);
    let headers: Vec<_> = three.config.export.otlp.headers.keys().collect();
    assert_eq!(headers, ["b", "c"]);
}

#[test]
fn the_environment_by_variable() {
    type Get = fn(&Config) -> String;
    let cases: &[(&str, &str, &str, Get)] = &[
        ("PROTOCOL", "http/protobuf", "HttpProtobuf", |c| format!("{:?}", c.export.otlp.protocol)),
        ("TIMEOUT", "2500", "2.5s", |c| format!("{:?}", c.export.otlp.timeout)),
        ("COMPRESSION", "gzip", "Gzip", |c| format!("{:?}", c.export.otlp.compression)),
        ("CERTIFICATE", "/ca", "Some(\"/ca\")", |c| format!("{:?}", c.export.otlp.tls.ca_file)),
        ("ENDPOINT", "https://h:1/p", "https://h:1/p", |c| c.export.otlp.endpoint.clone()),
        ("HEADERS", "X-A=b", "{\"x-a\": ***}", |c| format!("{:?}", c.export.otlp.headers)),
    ];
    for (suffix, value, expected, get) in cases {
        let generic = format!("OTEL_EXPORTER_OTLP_{suffix}");
        let specific = format!("OTEL_EXPORTER_OTLP_METRICS_{suffix}");
        let other = if *suffix == "ENDPOINT" { "http://other:9" } else { "" };
        let loaded = from_env(&[(&generic, value)]).unwrap();
        assert_eq!((get(&loaded.config).as_str(), loaded.warnings.len()), (*expected, 0), "{generic}");
        let loaded = from_env(&[(&generic, other), (&specific, value)]).unwrap();
        assert_eq!((get(&loaded.config).as_str(), loaded.warnings.len()), (*expected, 0), "{specific}");
        let loaded = from_env(&[(&generic, value), (&specific, " ")]).unwrap();
        assert_eq!(get(&loaded.config).as_str(), *expected, "empty {specific} is unset");
    }
    let loaded = from_env(&[
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/weak"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "/cert"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory"),
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("K8S_NODE_NAME", "node-7"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "x"),
    ])
    .unwrap();
    let otlp = loaded.config.export.otlp;
    assert_eq!((otlp.tls.cert_file, otlp.tls.key_file), (Some("/cert".into()), Some("/key".into())));
    assert_eq!((otlp.interval, otlp.temporality), (Duration::from_secs(60), Temporality::LowMemory));
    assert!(!otlp.enabled);
    assert_eq!(loaded.config.kubernetes.node_name.as_deref(), Some("node-7"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn what_cannot_be_read_in_the_environment_is_ignored_and_said() {
    let loaded = from_env(&[
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "lz4"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
        ("OTEL_SDK_DISABLED", "1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b c=2"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "no"),
    ])
    .unwrap();
    let mut expected = Config::default();
    expected.export.otlp.timeout = Duration::from_secs(3);
    assert_eq!(loaded.config, expected);
    assert_eq!(
        loaded.warnings,
        [
            "OTEL_EXPORTER_OTLP_PROTOCOL is ignored: expected grpc or http/protobuf, found 'thrift'",
            "OTEL_EXPORTER_OTLP_COMPRESSION is ignored: expected none, gzip or zstd, found 'lz4'",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT is ignored: expected whole milliseconds such as 10000, found '10s'",
            "OTEL_METRIC_EXPORT_INTERVAL is ignored: expected 100ms to 1h, found '1ms'",
            "OTEL_EXPORTER_OTLP_INSECURE is ignored: expected true or false, found 'no'",
            "OTEL_EXPORTER_OTLP_HEADERS is ignored: expected the name of a header: letters, digits and '-'",
            "OTEL_SDK_DISABLED is ignored: expected true or false, found '1'",
            "OTEL_RESOURCE_ATTRIBUTES is ignored: expected name=value,name=value; entry 2 is not",
        ]
    );
}

#[test]
fn endpoints_in_the_environment() {
    let endpoint = |env: &[(&str, &str)]| from_env(env).map(|loaded| loaded.config.export.otlp.endpoint);
    let (generic, insecure) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_INSECURE");
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    assert_eq!(endpoint(&[http]).unwrap(), "http://localhost:4318");
    assert_eq!(endpoint(&[http, (generic, "http://h")]).unwrap(), "http://h");
    assert_eq!(endpoint(&[(generic, "h:4317"), (insecure, "true")]).unwrap(), "http://h:4317");
    assert_eq!(endpoint(&[(generic, "h:4317"), (insecure, "False")]).unwrap(), "https://h:4317");
    assert_eq!(endpoint(&[(generic, "https://h:4317"), (insecure, "true")]).unwrap(), "https://h:4317");
    let exact = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
    assert_eq!(endpoint(&[(exact, "https://h/otlp?k=v")]).unwrap(), "https://h/otlp?k=v");
    assert_eq!(
        endpoint(&[(generic, "h:4317")]).unwrap_err(),
        "OTEL_EXPORTER_OTLP_ENDPOINT: expected a URL such as http://host:4317, found 'h:4317'; \
         write http://h:4317, or https:// for TLS"
    );
    assert_eq!(
        endpoint(&[(exact, "nonsense here"), (insecure, "true")]).unwrap_err(),
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: expected a URL such as http://host:4317, found 'http://nonsense here'"
    );
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json")]).unwrap_err(),
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL: http/json is not supported; set http/protobuf, \
         receivers take both on the same port"
    );
    let file = load_all(Some(b"export: {otlp: {protocol: http/protobuf}}"), &[], &[]).unwrap();
    assert_eq!(file.config.export.otlp.endpoint, "http://localhost:4318");
    assert_eq!(file.warnings, Vec::<String>::new());
}

#[test]
fn a_port_of_the_other_protocol_is_warned_about() {
    let warnings = |sets: &[&str]| load_all(None, &[], sets).unwrap().warnings;
    let (http, grpc) = ("export.otlp.protocol=http/protobuf", "export.otlp.protocol=grpc");
    let usual = ["export.otlp.endpoint: port 4317 is usually grpc, and http/protobuf on 4318"];
    assert_eq!(warnings(&[http, "export.otlp.endpoint=http://h:4317"]), usual);
    let usual = ["export.otlp.endpoint: port 4318 is usually http/protobuf, and grpc on 4317"];
    assert_eq!(warnings(&[grpc, "export.otlp.endpoint=http://h:4318"]), usual);
    assert_eq!(warnings(&[http, "export.otlp.endpoint=http://h:4318"]), Vec::<String>::new());
    assert_eq!(
        warnings(&[grpc, "export.otlp.endpoint=http://h:4318", "export.otlp.enabled=false"]),
        Vec::<String>::new()
    );
}

#[test]
fn resource_attributes_and_the_service_name() {
    let load = |env: &[(&str, &str)]| from_env(env).unwrap().config.export.otlp;
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", " a = 1 ,b%2Cc=x%3Dy%20z,service.name=from%2Fattributes, ,d=é,e=");
    let otlp = load(&[attributes]);
    let resource: Vec<_> = otlp.resource.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(resource, [("a", "1"), ("b,c", "x=y z"), ("d", "é"), ("e", "")]);
    assert_eq!(otlp.service_name, "from/attributes");
    let otlp = load(&[attributes, ("OTEL_SERVICE_NAME", "named")]);
    assert_eq!((otlp.service_name.as_str(), otlp.resource.contains_key("service.name")), ("named", false));
    assert_eq!(load(&[attributes, ("OTEL_SERVICE_NAME", "")]).service_name, "from/attributes");
    assert_eq!(load(&[("OTEL_RESOURCE_ATTRIBUTES", "a=%ff")]).resource.len(), 0, "not UTF-8 when decoded");
    let headers = load(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb%3D+c, Authorization = Basic%20eA== ")]).headers;
    assert_eq!(headers["api-key"].0, "a,b=+c");
    assert_eq!(headers["authorization"].0, "Basic eA==");
}

/// YAML-like text: what a user types, cut and mixed at random.
fn yaml_like() -> impl Strategy<Value = String> {
    let words = [
        "interval", "export", "otlp", "headers", "idle", ":", ": ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}",
        ", ", "&a ", "*a", "<<", "!x ", "\"", "'", "#", "|", ">", "1s", "12.5", "off", "~", "\t", "\0", "é", "%",
        "---\n", "? ", "=",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in yaml_like()) {
        let _ = load_all(Some(&bytes), &[], &[]);
        if let Err(error) = load_all(Some(text.as_bytes()), &[], &[]) {
            prop_assert!(!error.contains('\n') && !error.contains('\0'), "{error:?}");
        }
    }

    #[test]
    fn no_set_or_variable_panics(key in "[a-z._=: ]{0,40}", value in ".{0,40}") {
        let _ = load_all(None, &[], &[&format!("{key}={value}"), &key]);
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            let _ = load_all(None, &[(name, &value)], &[]);
        }
    }

    #[test]
    fn encoded_attributes_come_back(value in "\\PC{1,30}") {
        let encoded = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        let loaded = from_env(&[("OTEL_RESOURCE_ATTRIBUTES", &format!("k={encoded}"))]).unwrap();
        prop_assert_eq!(&loaded.config.export.otlp.resource["k"], &value);
    }
}
