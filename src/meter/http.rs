//! Wattmeters that answer a GET with JSON: Wi-Fi plugs, power strips, adapters to anything else.
//!
//! Which number is read is configured by JSON pointers (RFC 6901): a power, taken as a gauge in W, mW or kW, or else an
//! energy counter in Wh, kWh or J. A counter is kept in millionths of a watt-hour (3,600 µJ, exactly) or in µJ, so that no
//! digit is lost. It moves in coarse steps, 1 Wh on many plugs: while it stands still its interval goes on, for up to
//! 5 min, so that a step is booked to the time in which it was drawn. It is taken to start again, not to wrap, when it
//! falls. Numbers may be strings. Negative ones are refused. What is absent or refused is said with the zone and the address.

use http::{HeaderMap, header};
use serde_json::Value as Json;

use crate::config::{Config, EnergyUnit, PowerUnit, Wattmeter};
use crate::host::http::{Http, basic};
use crate::host::{Host, read_file};
use crate::meter::redfish::lockout::Lockout;
use crate::meter::redfish::payload::number;
use crate::meter::slow::{Interrupt, Slow, Source, Trouble};
use crate::meter::{Backend, Domain, Found, Meter, Sensor, Value, Why, Zone};
use crate::unit::Microwatts;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "http", discover, fingerprint: |_| 0 };

/// How long a counter may stand still before its interval ends with nothing, in seconds.
const STILL: u64 = 300;
/// What a single part can draw.
const PART_MAX: Microwatts = Microwatts(1_500_000_000);
/// What a zone may measure.
const DOMAINS: [Domain; 10] = [
    Domain::Host,
    Domain::Package,
    Domain::Dram,
    Domain::Gpu,
    Domain::Module,
    Domain::Soc,
    Domain::Io,
    Domain::Storage,
    Domain::Psu,
    Domain::Other,
];

fn discover(host: &Host, config: &Config) -> Found {
    let mut meters: Vec<Box<dyn Meter>> = Vec::new();
    for (name, settings) in &config.meters.http {
        if let Some(plug) = Plug::new(name, settings) {
            meters.push(Box::new(Slow::start(Box::new(plug), name, settings.interval, host)));
        }
    }
    if meters.is_empty() { Found::Absent("no meters.http.NAME.url is set".into()) } else { Found::Meters(meters) }
}

struct Plug {
    http: Http,
    settings: Wattmeter,
    path: String,
    /// Without its query, for people.
    shown: String,
    zone: Zone,
    /// The last count, and for how many rounds it has been that.
    last: Option<(u64, u64)>,
    lockout: Lockout,
}

impl Plug {
    fn new(name: &str, settings: &Wattmeter) -> Option<Self> {
        let uri: http::Uri = settings.url.parse().ok()?;
        let http = Http::new(&settings.url, &settings.trust, settings.timeout)?;
        let shown = format!("{}{}", http.origin(), uri.path());
        let domain = DOMAINS.into_iter().find(|domain| domain.as_str() == settings.domain)?;
        let mut zone = Zone::new("http", &format!("http:{name}"), domain);
        zone.path.clone_from(&shown);
        zone.sensor = if settings.power.is_empty() { counter(settings.energy_unit) } else { Sensor::Gauge };
        if !matches!(domain, Domain::Host | Domain::Psu | Domain::Other) {
            zone.power_max = PART_MAX;
        }
        zone.why = format!("a wattmeter at {shown}");
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { http, settings: settings.clone(), path, shown, zone, last: None, lockout: Lockout::default() })
    }

    fn trouble(&self, why: Why, what: &str) -> Trouble {
        Trouble { why, what: format!("{}: {}: {what}", self.zone.id, self.shown) }
    }

    fn read(&mut self, host: &Host) -> Result<Value, Trouble> {
        let headers = self.credentials()?;
        let answer = self.http.get(host, &self.path, &headers);
        let answer = answer.map_err(|failure| self.trouble(Why::Gone, &failure.to_string()))?;
        match answer.status {
            200..=299 => self.lockout.reset(),
            401 | 403 => {
                let what = "it wants another user or password; set username and password_file (basic authentication)";
                let refusal = self.trouble(Why::Denied, &format!("HTTP {}: {what}", answer.status));
                self.lockout.refuse(self.settings.interval, &refusal);
                return Err(refusal);
            }
            status => return Err(self.trouble(Why::Gone, &format!("HTTP {status}"))),
        }
        let doc: Json = serde_json::from_slice(answer.text())
            .map_err(|_| self.trouble(Why::Malformed, "the answer is no JSON, or half of it"))?;
        let pointer = if self.settings.power.is_empty() { &self.settings.energy } else { &self.settings.power };
        let found = doc.pointer(pointer);
        let Some(value) = found.and_then(number) else {
            let found = match found {
                None => "nothing",
                Some(Json::Null) => "null",
                Some(Json::String(_)) => "a text",
                Some(Json::Bool(_)) => "true/false",
                Some(Json::Object(_)) => "an object",
                Some(Json::Array(_)) => "a list",
                Some(Json::Number(_)) => "a number that is too large",
            };
            return Err(self.trouble(Why::Malformed, &format!("expected a number at {pointer}, found {found}")));
        };
        Ok(self.value(value))
    }

    fn value(&mut self, value: f64) -> Value {
        if value < 0.0 {
            return Value::Missing(Why::Implausible);
        }
        if self.zone.sensor == Sensor::Gauge {
            return Value::Power(power(value, self.settings.power_unit));
        }
        let count = count(value, self.settings.energy_unit);
        let patience = STILL / self.settings.interval.as_secs().max(1);
        let still = match self.last {
            Some((last, still)) if last == count && still < patience => still + 1,
            _ => 0,
        };
        self.last = Some((count, still));
        if still > 0 { Value::Missing(Why::Pending) } else { Value::Ticks(count) }
    }

    fn credentials(&self) -> Result<HeaderMap, Trouble> {
        let (Some(username), Some(path)) = (&self.settings.username, &self.settings.password_file) else {
            return Ok(HeaderMap::new());
        };
        let password = read_file(path, 4096).map_err(|error| {
            self.trouble(Why::Denied, &format!("cannot read password_file {}: {error}", path.display()))
        })?;
        let value = basic(username, String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n']));
        let value = value.ok_or_else(|| self.trouble(Why::Denied, "the password cannot be sent in a header"))?;
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
    }
}

impl Source for Plug {
    fn ask(&mut self, host: &Host) -> Result<Vec<(Zone, Value)>, Trouble> {
        if let Some(refusal) = self.lockout.waits() {
            return Err(refusal);
        }
        self.read(host).map(|value| vec![(self.zone.clone(), value)])
    }

    fn interrupt(&self) -> Option<Interrupt> {
        Some(self.http.interrupt_handle())
    }
}

fn power(value: f64, unit: PowerUnit) -> Microwatts {
    Microwatts::from_watts(match unit {
        PowerUnit::Milliwatt => value / 1e3,
        PowerUnit::Watt => value,
        PowerUnit::Kilowatt => value * 1e3,
    })
}

/// Counts of a millionth of a watt-hour, 3,600 µJ, or of 1 µJ.
const fn counter(unit: EnergyUnit) -> Sensor {
    match unit {
        EnergyUnit::Joule => Sensor::microjoules(None),
        EnergyUnit::WattHour | EnergyUnit::KilowattHour => Sensor::Counter { tick: 3_600 << 32, max: None },
    }
}

/// The count of [`counter`]; a decimal of up to 15 digits gives exactly its own.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates; never negative here
fn count(value: f64, unit: EnergyUnit) -> u64 {
    let scale = if unit == EnergyUnit::KilowattHour { 1e9 } else { 1e6 };
    (value * scale).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(energy: &str) -> Plug {
        let settings = Wattmeter { url: "http://plug/x".into(), energy: energy.into(), ..Wattmeter::default() };
        Plug::new("plug", &settings).unwrap()
    }

    #[test]
    fn no_digit_is_lost() {
        assert_eq!(count(1234.567, EnergyUnit::WattHour), 1_234_567_000);
        assert_eq!(count(325_675.31, EnergyUnit::KilowattHour), 325_675_310_000_000);
        assert_eq!(count(0.001, EnergyUnit::Joule), 1_000);
        assert_eq!(counter(EnergyUnit::WattHour), Sensor::Counter { tick: 15_461_882_265_600, max: None });
        assert_eq!(power(12.5, PowerUnit::Watt), Microwatts(12_500_000));
        assert_eq!(power(12_500.0, PowerUnit::Milliwatt), power(0.0125, PowerUnit::Kilowatt));
    }

    #[test]
    fn a_counter_that_stands_still_is_waited_for() {
        let mut plug = plug("/e");
        assert_eq!(plug.value(1.0), Value::Ticks(1_000_000));
        for _ in 0..STILL / 5 {
            assert_eq!(plug.value(1.0), Value::Missing(Why::Pending));
        }
        assert_eq!(plug.value(1.0), Value::Ticks(1_000_000), "but not for ever");
        assert_eq!(plug.value(2.0), Value::Ticks(2_000_000));
        assert_eq!(plug.value(-1.0), Value::Missing(Why::Implausible));
    }

    #[test]
    fn every_configured_domain_is_one() {
        let words = DOMAINS.map(Domain::as_str);
        assert_eq!(words, crate::config::DOMAINS);
    }
}
