//! The layers: default < file < environment < `--set`, and the checks that need all of them.
//!
//! What a person wrote for this program (the file, `--set`) must be right in every word. What the OpenTelemetry
//! specification says of the environment is kept: an empty variable is unset, and one that cannot be read is
//! ignored with a warning, because other programs on the node read the same variables. Only an endpoint that is not
//! a URL is an error there too: without it everything would go where nobody listens.

use std::path::PathBuf;

use url::Url;

use super::advice::{is_no_value, unknown, unknown_field};
use super::keys::{KEYS, Key, find, is_section};
use super::values::{is_overheard, shorten};
use super::{Config, Protocol, environment, yaml};

/// The default receiver of http/protobuf.
const HTTP_ENDPOINT: &str = "http://localhost:4318";

/// Where a configuration comes from. Nothing here is read by this module itself.
pub struct Sources<'a, E> {
    /// The file's path, for errors, and its bytes.
    pub file: Option<(PathBuf, Vec<u8>)>,
    /// The environment, as names and values.
    pub env: E,
    /// The values of `--set`: `key.path=value`.
    pub sets: &'a [String],
}

/// A configuration, and what was ignored on the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// One sentence per variable that was ignored, or per setting that is probably not what was meant.
    pub warnings: Vec<String>,
}

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// On a line of the file.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, and advice.
        problem: String,
    },
    /// In the file as a whole.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and advice.
        problem: String,
    },
    /// In a `--set`. The value is not repeated: it may be a secret.
    #[error("--set {key}: {problem}")]
    Set {
        /// The key as it was given.
        key: String,
        /// What is wrong, and advice.
        problem: String,
    },
    /// In an environment variable.
    #[error("{name}: {problem}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong, and advice.
        problem: String,
    },
    /// Between two settings that are right by themselves.
    #[error("{0}")]
    Conflict(String),
}

impl Config {
    /// Lays the sources over the default, in the order default < file < environment < `--set`.
    ///
    /// # Errors
    /// The first key or value that cannot be taken, with its place.
    pub fn load<E>(sources: Sources<'_, E>) -> Result<Loaded, ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let mut config = Self::default();
        let mut warnings = Vec::new();
        // Empty means that nobody gave one, which no layer can say: an empty endpoint is an error.
        config.export.otlp.endpoint.clear();
        if let Some((path, bytes)) = &sources.file {
            yaml::apply(&mut config, path, bytes)?;
        }
        environment::apply(&mut config, sources.env, &mut warnings)?;
        for set in sources.sets {
            apply_set(&mut config, set)?;
        }
        finish(&mut config, &mut warnings)?;
        Ok(Loaded { config, warnings })
    }
}

/// Reads one `key.path=value`.
fn apply_set(config: &mut Config, set: &str) -> Result<(), ConfigError> {
    let result = match set.split_once('=') {
        Some((key, value)) => set_key(config, key.trim(), value.trim()),
        None => Err("expected KEY=VALUE such as interval=5s".into()),
    };
    // Only up to a space: where the '=' is missing or late, what follows may be a secret.
    let key = set.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
    result.map_err(|problem| ConfigError::Set { key: shorten(key), problem })
}

fn set_key(config: &mut Config, path: &str, value: &str) -> Result<(), String> {
    if let Some(key) = find(path) {
        return (key.set)(config, value);
    }
    // Names in a map may hold dots, so all that follows the map's path is the name.
    let entry = KEYS.iter().find_map(|key| {
        let name = path.strip_prefix(key.path)?.strip_prefix('.')?;
        Some((key, name))
    });
    match entry {
        Some((key, name)) if !key.fields.is_empty() => set_field(config, key, name, value),
        Some((key, name)) => match key.set_entry {
            Some(set_entry) => set_entry(config, name, value),
            None => Err(format!("'{}' takes {} and has no keys below it", key.path, key.form)),
        },
        None if is_section(path) => Err(is_no_value(path)),
        None => Err(unknown_path(path)),
    }
}

/// Reads `NAME.FIELD` of a record.
fn set_field(config: &mut Config, key: &Key, path: &str, value: &str) -> Result<(), String> {
    let (name, field) = path.split_once('.').unwrap_or((path, ""));
    match key.fields.iter().find(|known| known.name == field) {
        Some(known) => (known.set)(config, name, value),
        None => Err(unknown_field(key, name, field)),
    }
}

/// Finds the first part of a path that is wrong.
fn unknown_path(path: &str) -> String {
    let mut prefix = "";
    for (dot, _) in path.match_indices('.') {
        let section = path.get(..dot).unwrap_or_default();
        if !is_section(section) {
            break;
        }
        prefix = section;
    }
    let rest = path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('.');
    unknown(prefix, rest.split('.').next().unwrap_or_default())
}

/// What can only be said when all layers are there.
fn finish(config: &mut Config, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    super::meters::check(&config.meters.redfish, &config.meters.http)?;
    let bmc = &config.meters.redfish;
    let overheard = "http sends the password for all to read; use https";
    if bmc.username.is_some() && bmc.url.as_deref().is_some_and(is_overheard) {
        warnings.push(format!("meters.redfish.url: {overheard}"));
    }
    for (name, meter) in &config.meters.http {
        if meter.username.is_some() && is_overheard(&meter.url) {
            warnings.push(format!("meters.http.{name}.url: {overheard}, or a meter that needs no password"));
        }
    }
    let otlp = &mut config.export.otlp;
    if otlp.endpoint.is_empty() {
        otlp.endpoint = match otlp.protocol {
            Protocol::Grpc => super::Otlp::default().endpoint,
            Protocol::HttpProtobuf => HTTP_ENDPOINT.into(),
        };
    }
    match (&otlp.tls.cert_file, &otlp.tls.key_file) {
        (Some(_), None) => return Err(half_identity("key_file")),
        (None, Some(_)) => return Err(half_identity("cert_file")),
        _ => {}
    }
    let port = Url::parse(&otlp.endpoint).ok().and_then(|url| url.port());
    let usual = match (otlp.protocol, port) {
        (Protocol::HttpProtobuf, Some(4317)) => "4317 is usually grpc, and http/protobuf on 4318",
        (Protocol::Grpc, Some(4318)) => "4318 is usually http/protobuf, and grpc on 4317",
        _ => return Ok(()),
    };
    if otlp.enabled {
        warnings.push(format!("export.otlp.endpoint: port {usual}"));
    }
    Ok(())
}

fn half_identity(missing: &str) -> ConfigError {
    ConfigError::Conflict(format!("export.otlp.tls: cert_file and key_file belong together; {missing} is missing"))
}
