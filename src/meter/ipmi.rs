//! The whole machine as its BMC measures it: IPMI with DCMI, through `/dev/ipmi0`.
//!
//! Get Power Reading (DCMI 1.5, 6.6.1: netfn 0x2c, command 0x02) gives the power that the machine draws now, in whole
//! watts, which BMCs renew every 1 to 5 s; it is a gauge, asked every 10 s on a thread of its own, because the
//! interface between host and BMC is slow and costs CPU time. Minimum, maximum and average of the same answer are not
//! used: they are taken over a period of the BMC's own (often since it started), some BMCs never renew them, and
//! even a rolling average is not the average between two of our readings. Get DCMI Capabilities (command 0x01) says
//! first whether there is power management; a BMC without it is asked again every 10 minutes only. A refusal has a
//! completion code (IPMI 2.0, table 5-2), which is put into words. An empty answer, 0 W and 65,535 W are no readings: so
//! a BMC speaks that is not wired to its power supply. The device is for root only (mode 0600).

use std::time::Duration;

use crate::config::Config;
use crate::host::{Errno, Host, is_denied};
use crate::meter::slow::{Slow, Source, Trouble};
use crate::meter::sysfs::why;
use crate::meter::{Backend, Domain, Found, Value, Why, Zone};
use crate::unit::Microwatts;

/// The entry in the table of meters.
pub const BACKEND: Backend = Backend { name: "ipmi", discover, fingerprint: |_| 0 };

/// The names that the device has had (`ipmi_devintf`, with and without devfs).
const DEVICES: [&str; 3] = ["dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0"];
/// The limit of one question: a BMC that is well answers within some 100 ms.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a BMC that measures no power is left alone.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most that one machine may draw: one with eight accelerators is rated up to some 15 kW.
const POWER_MAX: Microwatts = Microwatts(20_000_000_000);
/// The group extension of requests, and that of DCMI among them.
const GROUP: u8 = 0x2c;
const DCMI: u8 = 0xdc;
const GET_CAPABILITIES: u8 = 0x01;
const GET_POWER_READING: u8 = 0x02;
/// What opens the device to us.
const ADVICE: &str = "run as root; under systemd with DevicePolicy= add DeviceAllow=/dev/ipmi0 rw; in a pod mount \
                      /dev/ipmi0 and allow the device";

/// The BMC behind one device.
struct Bmc {
    device: &'static str,
    every: Duration,
    /// Whether its capabilities have been asked for.
    probed: bool,
    /// Why it is not asked, and for how many rounds.
    given_up: Option<(Trouble, u128)>,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Power(Value),
    /// A completion code other than 0.
    Refused(u8),
    /// Power measurement is switched off.
    Inactive,
    /// Too short to hold a reading.
    Nothing,
    /// An answer to something else.
    Foreign,
}

fn discover(host: &Host, config: &Config) -> Found {
    let settings = &config.meters.ipmi;
    if !settings.enabled {
        return Found::Absent("switched off by meters.ipmi.enabled".into());
    }
    for device in DEVICES {
        match host.ipmi_usable(device) {
            Ok(()) => {
                let bmc = Bmc { device, every: settings.interval, probed: false, given_up: None };
                return Found::Meters(vec![Box::new(Slow::start(Box::new(bmc), "ipmi", settings.interval, host))]);
            }
            Err(errno) if is_denied(errno) => {
                return Found::Denied { path: host.shown(device), advice: ADVICE.into(), meters: Vec::new() };
            }
            // A node without a driver behind it says ENXIO or ENODEV.
            Err(_) => {}
        }
    }
    let [first, second, third] = DEVICES.map(|device| host.shown(device));
    Found::Absent(format!("no BMC at {first}, {second} or {third} (kernel modules ipmi_si and ipmi_devintf)"))
}

impl Source for Bmc {
    fn ask(&mut self, host: &Host) -> Result<Vec<(Zone, Value)>, Trouble> {
        if let Some((trouble, rounds)) = &mut self.given_up {
            *rounds = rounds.saturating_sub(1);
            if *rounds > 0 {
                return Err(trouble.clone());
            }
            self.given_up = None;
        }
        if !self.probed {
            let answer = self.request(host, GET_CAPABILITIES, &[DCMI, 0x01])?;
            // What gives no such list may still measure: then the reading itself decides.
            if has_power(&answer) == Some(false) {
                return Err(self.give_up(host, "it does not list power management among its capabilities"));
            }
            self.probed = true;
        }
        let answer = self.request(host, GET_POWER_READING, &[DCMI, 0x01, 0x00, 0x00])?;
        match reading(&answer) {
            Said::Power(value) => Ok(vec![(self.zone(host), value)]),
            Said::Refused(code) if is_final(code) => Err(self.give_up(host, &spell(code))),
            Said::Refused(code) => {
                let what = format!("the BMC gave no reading: {}", spell(code));
                Err(self.trouble(host, refusal(code), &what))
            }
            Said::Inactive => Err(self.trouble(
                host,
                Why::Inactive,
                "the BMC says that it is not measuring power now; its own settings switch that on",
            )),
            Said::Nothing => Err(self.trouble(
                host,
                Why::Gone,
                "the BMC answered without a reading: it is probably not wired to the power supply (PMBus)",
            )),
            Said::Foreign => Err(self.trouble(host, Why::Malformed, "the BMC answered something that is not DCMI")),
        }
    }
}

impl Bmc {
    fn request(&self, host: &Host, cmd: u8, data: &[u8]) -> Result<Vec<u8>, Trouble> {
        host.ipmi(self.device, GROUP, cmd, data, TIMEOUT).map_err(|errno| {
            let what = match errno {
                _ if is_denied(errno) => format!("not allowed; {ADVICE}"),
                Errno::TIMEDOUT => format!(
                    "the BMC did not answer within {} s; if that lasts, restart it (ipmitool mc reset cold)",
                    TIMEOUT.as_secs()
                ),
                _ => format!("{errno}; is the kernel module ipmi_si loaded, and does the BMC answer ipmitool mc info?"),
            };
            self.trouble(host, why(errno), &what)
        })
    }

    fn trouble(&self, host: &Host, why: Why, what: &str) -> Trouble {
        Trouble { why, what: format!("{}: {what}", host.shown(self.device)) }
    }

    /// Leaves the BMC alone for a while, because of `what`.
    fn give_up(&mut self, host: &Host, what: &str) -> Trouble {
        let what = format!(
            "the BMC measures no power over DCMI: {what}; asked again every 10 minutes; a firmware update or \
             meters.redfish may help, meters.ipmi.enabled=false ends it"
        );
        let trouble = self.trouble(host, Why::Gone, &what);
        let rounds = PATIENCE.as_millis().div_ceil(self.every.as_millis().max(1));
        self.given_up = Some((trouble.clone(), rounds));
        self.probed = false;
        trouble
    }

    fn zone(&self, host: &Host) -> Zone {
        Zone {
            name: "DCMI power".into(),
            why: "as the BMC measures it".into(),
            power_max: POWER_MAX,
            path: host.shown(self.device),
            ..Zone::new("ipmi", "ipmi:dcmi", Domain::Host)
        }
    }
}

/// Whether power management is among the capabilities: completion code, group, major, minor and parameter revision,
/// then a reserved byte and the optional platform capabilities, of which bit 0 is power management.
fn has_power(answer: &[u8]) -> Option<bool> {
    match answer {
        [0, DCMI, _, _, _, _, optional, ..] => Some(optional & 1 == 1),
        _ => None,
    }
}

/// What a power reading says: completion code, group, then little-endian current (2 bytes), minimum, maximum and
/// average watts, time stamp (4), period (4) and the state, of which bit 6 is that measurement is active.
fn reading(answer: &[u8]) -> Said {
    match answer {
        [] | [0] | [0, DCMI] => Said::Nothing,
        [0, DCMI, low, high, rest @ ..] => match rest.get(14) {
            None => Said::Nothing,
            Some(state) if state & 0x40 == 0 => Said::Inactive,
            Some(_) => Said::Power(match u16::from_le_bytes([*low, *high]) {
                0 | u16::MAX => Value::Missing(Why::Implausible),
                watts => Value::Power(Microwatts(u64::from(watts) * 1_000_000)),
            }),
        },
        [0, ..] => Said::Foreign,
        [code, ..] => Said::Refused(*code),
    }
}

/// Whether a completion code means that the BMC will not answer this request at any time.
fn is_final(code: u8) -> bool {
    matches!(code, 0xc1 | 0xc2 | 0xcc | 0xd6)
}

/// What a refusal means for the books.
fn refusal(code: u8) -> Why {
    match code {
        0xc0 | 0xd0..=0xd2 => Why::Busy,
        0xd4 => Why::Denied,
        _ => Why::Gone,
    }
}

/// A completion code in words.
fn spell(code: u8) -> String {
    let meaning = match code {
        0xc0 => "busy",
        0xc1 => "unsupported command",
        0xc2 => "command not valid for this LUN",
        0xc3 => "timeout within the BMC or on the way to it",
        0xc4 => "out of space",
        0xc5 => "reservation cancelled",
        0xc6 => "request truncated",
        0xc7 => "wrong length of the request",
        0xc8 => "request too long",
        0xc9 => "parameter out of range",
        0xca => "cannot return that many bytes",
        0xcb => "requested sensor, data or record not present",
        0xcc => "invalid field in the request",
        0xcd => "command not allowed for this sensor or record",
        0xce => "response could not be provided",
        0xcf => "duplicated request",
        0xd0 => "its sensor repository is being updated",
        0xd1 => "its firmware is being updated",
        0xd2 => "it is starting up",
        0xd3 => "destination unavailable",
        0xd4 => "insufficient privilege, perhaps a firewall of the BMC against its own host",
        0xd5 => "not supported in its present state",
        0xd6 => "switched off in its firmware",
        0xff => "unspecified error",
        0x01..=0x7e => "a code of its maker",
        _ => "a code of this command",
    };
    format!("completion code {code:#04x}, {meaning}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole answer with these watts and this state.
    fn answer(watts: u16, state: u8) -> Vec<u8> {
        let mut answer = vec![0, DCMI];
        for value in [watts, 180, 420, 240] {
            answer.extend(value.to_le_bytes());
        }
        answer.extend([0x10, 0x20, 0x30, 0x60, 0xe8, 0x03, 0, 0, state]);
        answer
    }

    #[test]
    fn a_reading_is_current_watts_while_measurement_is_active() {
        assert_eq!(answer(215, 0x40).len(), 19);
        assert_eq!(reading(&answer(215, 0x40)), Said::Power(Value::Power(Microwatts(215_000_000))));
        assert_eq!(reading(&answer(0x1234, 0x40)), Said::Power(Value::Power(Microwatts(4_660_000_000))));
        assert_eq!(reading(&answer(215, 0x00)), Said::Inactive);
        for watts in [0, 0xffff] {
            assert_eq!(reading(&answer(watts, 0x40)), Said::Power(Value::Missing(Why::Implausible)));
        }
    }

    #[test]
    fn what_is_no_reading_is_told_apart() {
        for nothing in [&[][..], &[0], &[0, DCMI], &answer(215, 0x40)[..18]] {
            assert_eq!(reading(nothing), Said::Nothing);
        }
        assert_eq!(reading(&[0xc1]), Said::Refused(0xc1));
        assert_eq!(reading(&[0xc1, DCMI]), Said::Refused(0xc1), "some repeat the group");
        assert_eq!(reading(&[0, 0x01, 0x02]), Said::Foreign);
        assert_eq!(spell(0xc1), "completion code 0xc1, unsupported command");
    }

    #[test]
    fn capabilities_say_whether_there_is_power_management() {
        assert_eq!(has_power(&[0, DCMI, 1, 5, 2, 0, 1, 1]), Some(true));
        assert_eq!(has_power(&[0, DCMI, 1, 5, 2, 0, 0, 1]), Some(false));
        assert_eq!(has_power(&[0xc1]), None);
        assert_eq!(has_power(&[0, DCMI, 1, 5, 2]), None);
    }
}
