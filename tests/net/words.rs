//! What meters in the network say of their troubles, round after round, on machines in memory.

use std::ops::Range;
use std::time::Duration;

use wattribute::clock::Timestamp;
use wattribute::config::{Config, Redfish, Secret, Wattmeter};
use wattribute::host::memory::Memory;
use wattribute::host::{Errno, Host};
use wattribute::meter::{Found, Meter, http as plug, redfish};

/// A machine in memory that such servers answer, by path.
fn remembered(answers: &[(&str, &str)]) -> Host {
    let mut memory = Memory::default();
    for (path, text) in answers {
        memory.set_file(&format!("http/{path}"), text.as_bytes()).unwrap();
    }
    Host::memory(memory)
}

/// What a meter complains of in some rounds, one every ten minutes.
fn complaints(meter: &mut dyn Meter, host: &Host, rounds: Range<u64>) -> Vec<Option<String>> {
    let at = |round| Timestamp { boot: Duration::from_secs(600 * round), asleep: Duration::ZERO, wall: Duration::ZERO };
    let mut ask = |round| {
        meter.refresh(host, at(round));
        meter.trouble().map(|trouble| trouble.to_string())
    };
    rounds.map(&mut ask).collect()
}

#[test]
fn the_same_fault_of_a_bmc_is_said_in_the_same_words() {
    let host = remembered(&[
        ("bmc/redfish/v1/index.json", "\u{feff}{}"),
        ("bmc/redfish/v1/Chassis/index.json", r#"{"Members": [{"@odata.id": "/redfish/v1/Chassis/1"}]}"#),
        ("bmc/redfish/v1/Chassis/1", r#"{"Id": "1", "EnvironmentMetrics": {"@odata.id": "/redfish/v1/E"}}"#),
        ("bmc/redfish/v1/E", "\u{feff}{\"PowerWatts\": {\"Reading\": 344.2}}"),
    ]);
    let mut config = Config::default();
    config.meters.redfish.url = Some("http://bmc".into());
    let Found::Meters(mut meters) = (redfish::BACKEND.discover)(&host, &config) else { panic!("not found") };
    let meter = meters[0].as_mut();
    assert_eq!(complaints(meter, &host, 0..2), [None, None]);
    host.with_memory(|memory| memory.set_error("http/bmc", Some(Errno::CONNREFUSED)).unwrap());
    let mut said = complaints(meter, &host, 2..10);
    said.dedup();
    assert!(matches!(&said[..], [Some(what)] if what.starts_with("http://bmc/redfish/v1/E: ")), "{said:?}");
    host.with_memory(|memory| memory.set_error("http/bmc", None).unwrap());
    assert_eq!(complaints(meter, &host, 10..12), [None, None]);
}

#[test]
fn a_wattmeter_says_whose_trouble_it_is_and_what_it_found() {
    let text = "\u{feff}{\"watts\": 12.5, \"relay\": true, \"meter\": {\"W\": 1}, \"list\": []}";
    let host = remembered(&[("plug/x", text)]);
    for (pointer, found) in [
        ("/watts", None),
        ("/relay", Some("found true/false")),
        ("/meter", Some("found an object")),
        ("/list", Some("found a list")),
    ] {
        let mut config = Config::default();
        for name in ["left", "right"] {
            let power = pointer.to_owned();
            let settings = Wattmeter { url: "http://plug/x".into(), power, ..Wattmeter::default() };
            config.meters.http.insert(name.into(), settings);
        }
        let Found::Meters(mut meters) = (plug::BACKEND.discover)(&host, &config) else { panic!("not found") };
        for (meter, name) in meters.iter_mut().zip(["left", "right"]) {
            match (&complaints(meter.as_mut(), &host, 0..1)[0], found) {
                (None, None) => {}
                (Some(what), Some(found)) => {
                    assert!(
                        what.starts_with(&format!("http:{name}: http://plug/x: ")) && what.ends_with(found),
                        "{what}"
                    );
                }
                (what, _) => panic!("{pointer}: {what:?}"),
            }
        }
    }
}

#[test]
fn a_session_that_cannot_be_closed_is_said_to_be_one() {
    let host = remembered(&[
        ("bmc/redfish/v1/index.json", "{}"),
        ("bmc/redfish/v1/SessionService/Sessions", "HTTP 201\nX-Auth-Token: t\n\n{}"),
        ("bmc/redfish/v1/Chassis/index.json", r#"{"Members": [{"@odata.id": "/redfish/v1/Chassis/1"}]}"#),
        ("bmc/redfish/v1/Chassis/1", r#"{"Id": "1", "EnvironmentMetrics": {"@odata.id": "/redfish/v1/E"}}"#),
        ("bmc/redfish/v1/E", r#"{"PowerWatts": {"Reading": 344.2}}"#),
    ]);
    let mut config = Config::default();
    let (username, password) = (Some("reader".into()), Some(Secret("s3cret".into())));
    config.meters.redfish = Redfish { url: Some("http://bmc".into()), username, password, ..Redfish::default() };
    let Found::Meters(mut meters) = (redfish::BACKEND.discover)(&host, &config) else { panic!("not found") };
    for round in 0..3 {
        assert_eq!(complaints(meters[0].as_mut(), &host, round..round + 1), [None]);
        let why = &meters[0].zones()[0].why;
        assert_eq!(why.matches("the session cannot be closed").count(), 1, "{why}");
    }
}
