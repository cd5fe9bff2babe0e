//! Meters that are asked over the network: what a user may say of a BMC and of wattmeters, and how it is read.
//!
//! Redfish is one BMC with keys of its own. Wattmeters are records by name, `meters.http.NAME.FIELD`; their fields
//! stand in [`WATTMETER`], as keys do in the table of keys. No password is a key: it comes from a file or from the
//! environment, so that neither a command line nor a printed configuration can show it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Field;
use super::values::{SLOW, TIMEOUT, boolean, duration, expected, fingerprint, optional_path, pointer, web, word};
use super::{Config, ConfigError, Secret};

/// A BMC that speaks Redfish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redfish {
    /// `https://bmc` without a path; none: there is nothing to ask.
    pub url: Option<String>,
    /// The user to log in as; none: nobody.
    pub username: Option<String>,
    /// Holds the password and perhaps a newline.
    pub password_file: Option<PathBuf>,
    /// The password itself: from the environment only, or from a program that embeds the agent.
    pub password: Option<Secret>,
    /// How to log in.
    pub auth: Auth,
    /// Whom to trust.
    pub trust: Trust,
    /// Time between two rounds of questions: 1 s to 5 min.
    pub interval: Duration,
    /// The limit of one question.
    pub timeout: Duration,
    /// The id of the chassis to read; none: the one that holds this machine.
    pub chassis: Option<String>,
}
impl Default for Redfish {
    fn default() -> Self {
        Self {
            url: None,
            username: None,
            password_file: None,
            password: None,
            auth: Auth::Session,
            trust: Trust::default(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            chassis: None,
        }
    }
}

/// How to log in to a BMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Once, for a token.
    Session,
    /// With every request.
    Basic,
    /// Not at all.
    None,
}

/// Which server is trusted, for https.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM bundle of authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the one certificate to trust, whatever else is said of it.
    pub fingerprint: Option<[u8; 32]>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// A wattmeter that answers with JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wattmeter {
    /// Where to ask, with path and query.
    pub url: String,
    /// JSON pointer (RFC 6901) to the power; empty: none.
    pub power: String,
    /// JSON pointer to the energy counter, which is read where there is no power; empty: none.
    pub energy: String,
    /// Unit of the power.
    pub power_unit: PowerUnit,
    /// Unit of the energy.
    pub energy_unit: EnergyUnit,
    /// Time between two questions: 1 s to 5 min.
    pub interval: Duration,
    /// The limit of one question.
    pub timeout: Duration,
    /// What it measures, a word of [`DOMAINS`].
    pub domain: &'static str,
    /// The user of HTTP basic authentication; none: nobody.
    pub username: Option<String>,
    /// Holds the password and perhaps a newline.
    pub password_file: Option<PathBuf>,
    /// Whom to trust.
    pub trust: Trust,
}
impl Default for Wattmeter {
    fn default() -> Self {
        Self {
            url: String::new(),
            power: String::new(),
            energy: String::new(),
            power_unit: PowerUnit::Watt,
            energy_unit: EnergyUnit::WattHour,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
            domain: "host",
            username: None,
            password_file: None,
            trust: Trust::default(),
        }
    }
}

/// Unit of a power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerUnit {
    /// 1/1000 W.
    Milliwatt,
    /// W.
    Watt,
    /// 1000 W.
    Kilowatt,
}

/// Unit of an energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnergyUnit {
    /// J.
    Joule,
    /// 3600 J.
    WattHour,
    /// 3.6 MJ.
    KilowattHour,
}

/// What a wattmeter may measure; the words are those of `meter::Domain`.
pub const DOMAINS: [&str; 10] = ["host", "package", "dram", "gpu", "module", "soc", "io", "storage", "psu", "other"];

/// The fields of a wattmeter, in the order in which they are printed.
pub(super) const WATTMETER: &[Field] = &[
    field("url", "an http or https URL, needed", |config, name, text| {
        entry(config, name)?.url = web(text)?.ok_or("expected a URL such as http://plug/status, found nothing")?;
        Ok(())
    }),
    field("power", "JSON pointer (RFC 6901) to the power", |config, name, text| {
        pointer(text).and_then(|value| entry(config, name).map(|meter| meter.power = value))
    }),
    field("energy", "JSON pointer to an energy counter, which counts where no power is given", |config, name, text| {
        pointer(text).and_then(|value| entry(config, name).map(|meter| meter.energy = value))
    }),
    field("power_unit", "mW, W or kW; default W", |config, name, text| {
        let units = [("mW", PowerUnit::Milliwatt), ("W", PowerUnit::Watt), ("kW", PowerUnit::Kilowatt)];
        word(text, &units).and_then(|value| entry(config, name).map(|meter| meter.power_unit = value))
    }),
    field("energy_unit", "J, Wh or kWh; default Wh", |config, name, text| {
        let units = [("J", EnergyUnit::Joule), ("Wh", EnergyUnit::WattHour), ("kWh", EnergyUnit::KilowattHour)];
        word(text, &units).and_then(|value| entry(config, name).map(|meter| meter.energy_unit = value))
    }),
    field("interval", "a duration from 1s to 4m; default 5s", |config, name, text| {
        duration(text, SLOW).and_then(|value| entry(config, name).map(|meter| meter.interval = value))
    }),
    field("timeout", "a duration from 1ms to 1h; default 4s", |config, name, text| {
        duration(text, TIMEOUT).and_then(|value| entry(config, name).map(|meter| meter.timeout = value))
    }),
    field(
        "domain",
        "host, package, dram, gpu, module, soc, io, storage, psu or other; default host",
        |config, name, text| {
            let words = DOMAINS.map(|domain| (domain, domain));
            word(text, &words).and_then(|value| entry(config, name).map(|meter| meter.domain = value))
        },
    ),
    field("username", "the user of basic authentication", |config, name, text| {
        entry(config, name).map(|meter| meter.username = optional(text))
    }),
    field("password_file", "a path to the user's password", |config, name, text| {
        optional_path(text).and_then(|value| entry(config, name).map(|meter| meter.password_file = value))
    }),
    field("ca_file", "PEM bundle of authorities to trust instead of the system's", |config, name, text| {
        optional_path(text).and_then(|value| entry(config, name).map(|meter| meter.trust.ca_file = value))
    }),
    field("fingerprint", "SHA-256 of the one certificate to trust", |config, name, text| {
        fingerprint(text).and_then(|value| entry(config, name).map(|meter| meter.trust.fingerprint = value))
    }),
    field("insecure_skip_verify", "true or false: accept any certificate; default false", |config, name, text| {
        boolean(text).and_then(|value| entry(config, name).map(|meter| meter.trust.insecure_skip_verify = value))
    }),
];

const fn field(name: &'static str, help: &'static str, set: super::keys::SetField) -> Field {
    Field { name, help, set }
}

/// Text, or nothing.
pub(super) fn optional(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The wattmeter of that name, made where there is none yet. Its name becomes part of a zone's.
fn entry<'a>(config: &'a mut Config, name: &str) -> Result<&'a mut Wattmeter, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 40 || !name.chars().all(fine) {
        return Err(expected("a name of letters, digits, '-' and '_', at most 40", name));
    }
    Ok(config.meters.http.entry(name.to_owned()).or_default())
}

/// What must be there beside what is there.
pub(super) fn check(redfish: &Redfish, wattmeters: &BTreeMap<String, Wattmeter>) -> Result<(), ConfigError> {
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    let no_password = redfish.password.is_none() && redfish.password_file.is_none();
    if redfish.url.is_some() && redfish.auth != Auth::None && redfish.username.is_some() && no_password {
        return conflict(
            "meters.redfish: a username needs a password; set password_file or WATTRIBUTE_REDFISH_PASSWORD".into(),
        );
    }
    for (name, meter) in wattmeters {
        if meter.url.is_empty() {
            return conflict(format!("meters.http.{name}: url is missing"));
        }
        if meter.power.is_empty() && meter.energy.is_empty() {
            return conflict(format!("meters.http.{name}: power or energy is missing, a JSON pointer such as /apower"));
        }
        if meter.username.is_some() != meter.password_file.is_some() {
            return conflict(format!("meters.http.{name}: username and password_file belong together"));
        }
    }
    Ok(())
}
