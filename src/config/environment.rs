//! The environment: the variables of the OpenTelemetry specification (OTLP exporter, SDK), `K8S_NODE_NAME`, and
//! the password of a BMC.
//!
//! Every `OTEL_EXPORTER_OTLP_X` has a stronger form `OTEL_EXPORTER_OTLP_METRICS_X`. As the specification has it, an
//! empty value is unset, and a value that cannot be read is warned about and ignored (the next weaker form counts
//! then); times are whole milliseconds. Values are read by the same rows of the table of keys as the file's.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::keys::find;
use super::load::ConfigError;
use super::values::{boolean, endpoint, expected, header_name, header_value};
use super::{Config, Secret};
use crate::semconv::attr;

/// How a variable's value is written.
#[derive(Clone, Copy)]
enum Form {
    /// As in the file.
    Same,
    /// Whole milliseconds.
    Millis,
}

/// The variables that set one key as the file does: names from strong to weak.
const VARIABLES: &[(&str, &[&str], Form)] = &[
    ("export.otlp.protocol", &["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"], Form::Same),
    (
        "export.otlp.compression",
        &["OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"],
        Form::Same,
    ),
    ("export.otlp.timeout", &["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], Form::Millis),
    ("export.otlp.interval", &["OTEL_METRIC_EXPORT_INTERVAL"], Form::Millis),
    ("export.otlp.temporality", &["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"], Form::Same),
    (
        "export.otlp.tls.ca_file",
        &["OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"],
        Form::Same,
    ),
    (
        "export.otlp.tls.cert_file",
        &["OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"],
        Form::Same,
    ),
    (
        "export.otlp.tls.key_file",
        &["OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"],
        Form::Same,
    ),
];

const ENDPOINT: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const INSECURE: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const DISABLED: [&str; 1] = ["OTEL_SDK_DISABLED"];
const REDFISH_PASSWORD: &str = "WATTRIBUTE_REDFISH_PASSWORD";
const NODE_NAME: &str = "K8S_NODE_NAME";
const RESOURCE: [&str; 1] = ["OTEL_RESOURCE_ATTRIBUTES"];

/// The weakest name of the variable that sets a key, for the printed default, and its unit where it differs.
pub(super) fn variable_of(key: &str) -> Option<(&'static str, &'static str)> {
    if let Some((_, names, form)) = VARIABLES.iter().find(|(path, ..)| *path == key) {
        let unit = if matches!(form, Form::Millis) { " in ms" } else { "" };
        return names.last().map(|name| (*name, unit));
    }
    match key {
        "export.otlp.endpoint" => Some((ENDPOINT[1], "")),
        "export.otlp.headers" => Some((HEADERS[1], " as a=b,c=d")),
        "export.otlp.enabled" => Some((DISABLED[0], ", reversed")),
        "kubernetes.node_name" => Some((NODE_NAME, "")),
        _ => None,
    }
}

/// Lays the environment over `config`.
pub(super) fn apply(
    config: &mut Config,
    env: impl IntoIterator<Item = (String, String)>,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let mut env =
        Environment { variables: env.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect(), warnings };
    for (path, names, form) in VARIABLES {
        let Some(key) = find(path) else { continue };
        if *path == "export.otlp.protocol" {
            env.refuse_json(names)?;
        }
        env.first(names, |text| match form {
            Form::Same => (key.set)(config, text),
            Form::Millis => (key.set)(config, &millis(text)?),
        });
    }
    env.endpoint(config)?;
    if let Some(headers) = env.first(&HEADERS, headers) {
        config.export.otlp.headers = headers;
    }
    if env.first(&DISABLED, boolean) == Some(true) {
        config.export.otlp.enabled = false;
    }
    if let Some(attributes) = env.first(&RESOURCE, attributes) {
        config.export.otlp.resource = attributes;
    }
    if let Some(name) = config.export.otlp.resource.remove(attr::SERVICE_NAME).filter(|name| !name.is_empty()) {
        config.export.otlp.service_name = name;
    }
    if let Some(name) = env.get("OTEL_SERVICE_NAME") {
        config.export.otlp.service_name = name.into();
    }
    if let Some(password) = env.variables.get(REDFISH_PASSWORD) {
        config.meters.redfish.password = Some(Secret(password.trim_end_matches(['\r', '\n']).into()));
    }
    if let Some(name) = env.get(NODE_NAME) {
        config.kubernetes.node_name = Some(name.to_string());
    }
    Ok(())
}

/// The variables that are set, and what was ignored of them.
struct Environment<'a> {
    variables: BTreeMap<String, String>,
    warnings: &'a mut Vec<String>,
}

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim())
    }

    /// The first of the names whose value can be read; those before it that cannot are warned about.
    fn first<T>(&mut self, names: &[&str], mut read: impl FnMut(&str) -> Result<T, String>) -> Option<T> {
        for name in names {
            let Some(text) = self.variables.get(*name) else { continue };
            match read(text.trim()) {
                Ok(value) => return Some(value),
                Err(problem) => self.warnings.push(format!("{name} is ignored: {problem}")),
            }
        }
        None
    }

    /// JSON is the one protocol of the specification that is not spoken here: falling back to grpc would talk to a
    /// port that does not understand it.
    fn refuse_json(&self, names: &[&str]) -> Result<(), ConfigError> {
        let set = names.iter().find_map(|name| Some((*name, self.get(name)?)));
        let Some((name, "http/json")) = set else { return Ok(()) };
        let problem = "http/json is not supported; set http/protobuf, receivers take both on the same port".into();
        Err(ConfigError::Environment { name: name.into(), problem })
    }

    fn endpoint(&mut self, config: &mut Config) -> Result<(), ConfigError> {
        let insecure = self.first(&INSECURE, boolean);
        let Some((exact, name, text)) =
            [true, false].into_iter().zip(ENDPOINT).find_map(|(exact, name)| Some((exact, name, self.get(name)?)))
        else {
            return Ok(());
        };
        // The specification takes no scheme for TLS unless told otherwise; guessing that silently would cost the
        // user of a plain port an hour, so it must be said.
        let whole = match insecure {
            Some(insecure) if !text.contains("://") => format!("{}://{text}", if insecure { "http" } else { "https" }),
            _ => text.to_string(),
        };
        let url = endpoint(&whole, exact);
        let url = url.map_err(|problem| ConfigError::Environment { name: name.into(), problem })?;
        config.export.otlp.endpoint = url;
        config.export.otlp.endpoint_is_exact = exact;
        Ok(())
    }
}

/// Whole milliseconds, spelt as the file's durations are.
fn millis(text: &str) -> Result<String, String> {
    match text.parse::<u64>() {
        Ok(millis) => Ok(format!("{millis}ms")),
        Err(_) => Err(expected("whole milliseconds such as 10000", text)),
    }
}

/// `name=value,name=value`, percent-encoded, as in W3C Baggage. Errors name the entry and repeat nothing of it.
fn list(text: &str) -> Result<Vec<(String, String)>, String> {
    let decode = |text: &str| percent_decode_str(text.trim()).decode_utf8().map(std::borrow::Cow::into_owned).ok();
    let mut entries = Vec::new();
    for (i, entry) in text.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
        let pair = entry.split_once('=').and_then(|(name, value)| Some((decode(name)?, decode(value)?)));
        let pair = pair.filter(|(name, _)| !name.is_empty());
        entries.push(pair.ok_or_else(|| format!("expected name=value,name=value; entry {} is not", i + 1))?);
    }
    Ok(entries)
}

fn headers(text: &str) -> Result<BTreeMap<String, Secret>, String> {
    let header = |(name, value): (String, String)| Ok((header_name(&name)?, Secret(header_value(&value)?)));
    list(text)?.into_iter().map(header).collect()
}

fn attributes(text: &str) -> Result<BTreeMap<String, String>, String> {
    let attributes: BTreeMap<_, _> = list(text)?.into_iter().collect();
    match attributes.keys().find(|name| name.chars().any(char::is_control)) {
        Some(name) => Err(expected("the name of an attribute", name)),
        None => Ok(attributes),
    }
}
