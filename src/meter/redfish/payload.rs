//! What BMCs answer, as numbers: DMTF's schemas Chassis, `EnvironmentMetrics`, `PowerSubsystem`,
//! `PowerSupply` and Power, and what vendors make of them.
//!
//! Watts come as numbers, as strings (`"152"`, `"N/A"`) and as null while a BMC starts; `PowerControl` is a list, or on
//! some the one object itself; `MemberId` may be an integer; `Status` may be missing. Everything here is pure: what is
//! not understood is `None`, and nothing is ever made up.

use serde_json::Value as Json;

/// A chassis, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chassis {
    /// `1U`.
    pub id: String,
    /// `RackMount`, `Enclosure`, …
    pub kind: String,
    /// The computer systems in it, as links.
    pub systems: Vec<String>,
    /// The chassis around it, as a link.
    pub contained_by: Option<String>,
    /// Links to where its power may be read: `EnvironmentMetrics`, `PowerSubsystem` and `Power`.
    pub environment: Option<String>,
    /// See `environment`.
    pub subsystem: Option<String>,
    /// See `environment`.
    pub power: Option<String>,
}

/// One entry of `PowerControl`.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    /// `MemberId`, or its place in the list.
    pub id: String,
    /// For people.
    pub name: String,
    /// What it says, in watts.
    pub watts: Option<f64>,
    /// Whether that is an average over some minutes, for want of a reading.
    pub average: bool,
    /// The most that it can draw, where stated.
    pub capacity: Option<f64>,
    /// Whether it is for a part of the machine: its processors, its memory.
    pub part: bool,
}

/// One power supply.
#[derive(Debug, Clone, PartialEq)]
pub struct Supply {
    /// `Id` or `MemberId`, or its place in the list.
    pub id: String,
    /// Whether it is there and plugged in.
    pub present: bool,
    /// Its input in watts, unless that is no measurement.
    pub input: Option<f64>,
    /// Its rating.
    pub capacity: Option<f64>,
    /// Where its metrics are.
    pub metrics: Option<String>,
}

/// A number, which may be written as a string.
#[must_use]
pub fn number(value: &Json) -> Option<f64> {
    let number = match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// A number, or the `Reading` of a sensor excerpt.
fn reading(value: &Json) -> Option<f64> {
    number(value).or_else(|| number(&value["Reading"]))
}

/// A text, or an integer as one.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Where `value` leads.
#[must_use]
pub fn link(value: &Json) -> Option<String> {
    text(&value["@odata.id"])
}

/// Where the entries of a list lead.
fn links(value: &Json) -> Vec<String> {
    value.as_array().map(|list| list.iter().filter_map(link).collect()).unwrap_or_default()
}

/// The members of a collection.
#[must_use]
pub fn members(collection: &Json) -> Vec<String> {
    links(&collection["Members"])
}

/// A list, or the one thing that stands in its place.
fn each(value: &Json) -> &[Json] {
    match value {
        Json::Array(list) => list,
        Json::Object(_) => std::slice::from_ref(value),
        _ => &[],
    }
}

/// A chassis. `path`: where it was read.
#[must_use]
pub fn chassis(doc: &Json, path: &str) -> Chassis {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    Chassis {
        id: text(&doc["Id"]).unwrap_or_else(|| last.to_owned()),
        kind: text(&doc["ChassisType"]).unwrap_or_default(),
        systems: links(&doc["Links"]["ComputerSystems"]),
        contained_by: link(&doc["Links"]["ContainedBy"]),
        environment: link(&doc["EnvironmentMetrics"]),
        subsystem: link(&doc["PowerSubsystem"]),
        power: link(&doc["Power"]),
    }
}

/// The power of an `EnvironmentMetrics`, in watts.
#[must_use]
pub fn environment(doc: &Json) -> Option<f64> {
    reading(&doc["PowerWatts"])
}

/// The entries of `PowerControl` of a `Power`.
#[must_use]
pub fn controls(doc: &Json) -> Vec<Control> {
    each(&doc["PowerControl"]).iter().enumerate().map(|(index, entry)| control(entry, index)).collect()
}

fn control(entry: &Json, index: usize) -> Control {
    let consumed = reading(&entry["PowerConsumedWatts"]);
    // The schema has `PowerMetrics`; one vendor writes `PowerMetric`.
    let average = ["PowerMetrics", "PowerMetric"].iter().find_map(|key| number(&entry[key]["AverageConsumedWatts"]));
    // AMI has no `PowerConsumedWatts` at all. Where it is null the BMC is starting, and an old average would be wrong.
    let instead = average.filter(|_| entry.get("PowerConsumedWatts").is_none());
    let name = text(&entry["Name"]).unwrap_or_default();
    Control {
        id: member_id(entry, index),
        part: is_part(&name) || is_part(&text(&entry["PhysicalContext"]).unwrap_or_default()),
        name,
        watts: consumed.or(instead),
        average: consumed.is_none() && instead.is_some(),
        capacity: rating(&entry["PowerCapacityWatts"]),
    }
}

fn member_id(entry: &Json, index: usize) -> String {
    ["MemberId", "MemberID", "Id"].iter().find_map(|key| text(&entry[key])).unwrap_or_else(|| index.to_string())
}

/// Whether a name or a context is that of a part of a machine.
fn is_part(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = ["cpu", "processor", "memory", "dimm", "gpu", "accelerator", "fan", "storage", "disk", "pcie"];
    parts.iter().any(|part| name.contains(part))
}

/// A stated limit, unless it is absurd.
fn rating(value: &Json) -> Option<f64> {
    number(value).filter(|watts| (50.0..100_000.0).contains(watts))
}

/// One power supply: an entry of `PowerSupplies` in a `Power`, or a `PowerSupply` of its own.
#[must_use]
pub fn supply(doc: &Json, index: usize) -> Supply {
    let capacity = rating(&doc["PowerCapacityWatts"]);
    let outputs = ["LastPowerOutputWatts", "PowerOutputWatts", "OutputPowerWatts"];
    let output = outputs.iter().find_map(|key| reading(&doc[key]));
    let state = doc["Status"]["State"].as_str().unwrap_or_default();
    // Firmware that does not measure gives the rated input instead, and no output with it.
    let input = stated_input(doc, capacity).filter(|_| capacity.is_some() || output.is_some());
    Supply {
        id: ["Id", "MemberId", "MemberID"].iter().find_map(|key| text(&doc[key])).unwrap_or_else(|| index.to_string()),
        present: !matches!(state, "Absent" | "Disabled" | "UnavailableOffline"),
        input,
        capacity,
        metrics: link(&doc["Metrics"]),
    }
}

/// The input that a `PowerSupply` or its `PowerSupplyMetrics` states, where the supply is rated at `capacity`.
#[must_use]
pub fn stated_input(doc: &Json, capacity: Option<f64>) -> Option<f64> {
    let input = ["InputPowerWatts", "PowerInputWatts"].iter().find_map(|key| reading(&doc[key]));
    measured(input, capacity)
}

/// An input that is the rating or above it was not measured.
fn measured(input: Option<f64>, capacity: Option<f64>) -> Option<f64> {
    input.filter(|input| *input >= 0.0 && capacity.is_none_or(|capacity| *input < capacity))
}

/// The power supplies of a `Power`.
#[must_use]
pub fn supplies(doc: &Json) -> Vec<Supply> {
    each(&doc["PowerSupplies"]).iter().enumerate().map(|(index, entry)| supply(entry, index)).collect()
}

/// The sum of the inputs, if every supply that is there has one.
#[must_use]
pub fn input(supplies: &[Supply]) -> Option<f64> {
    let present: Vec<_> = supplies.iter().filter(|supply| supply.present).collect();
    let sum: Option<f64> = present.iter().map(|supply| supply.input).sum();
    sum.filter(|_| !present.is_empty())
}

/// What Fujitsu states in a `Power` and nowhere else.
#[must_use]
pub fn fujitsu(doc: &Json) -> Option<f64> {
    let of = |doc: &Json| number(&doc["Oem"]["ts_fujitsu"]["ChassisPowerConsumption"]["CurrentPowerConsumptionW"]);
    of(doc).or_else(|| each(&doc["PowerControl"]).iter().find_map(of))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn watts_come_in_many_spellings() {
        let cases = [(json!(152), Some(152.0)), (json!("152"), Some(152.0)), (json!(232.5), Some(232.5))];
        for (value, watts) in cases {
            assert_eq!(number(&value), watts);
        }
        for value in [json!("N/A"), json!(null), json!(""), json!("NaN"), json!([1]), json!(true)] {
            assert_eq!(number(&value), None, "{value}");
        }
    }

    #[test]
    fn a_power_control_may_be_an_object_with_strings() {
        let doc =
            json!({"PowerControl": {"PowerConsumedWatts": "152", "PowerMetric": {"AverageConsumedWatts": "170"}}});
        let found = controls(&doc);
        assert_eq!((found.len(), found[0].id.as_str(), found[0].watts, found[0].average), (1, "0", Some(152.0), false));
    }

    #[test]
    fn an_average_stands_in_only_where_there_is_no_reading_at_all() {
        let metrics = json!({"AverageConsumedWatts": 148, "MinConsumedWatts": 0});
        let found = controls(&json!({"PowerControl": [{"MemberId": 0, "PowerMetrics": metrics}]}));
        assert_eq!((found[0].id.as_str(), found[0].watts, found[0].average), ("0", Some(148.0), true));
        let starting = json!({"PowerControl": [{"PowerConsumedWatts": null, "PowerMetrics": metrics}]});
        assert_eq!(controls(&starting)[0].watts, None);
    }

    #[test]
    fn a_rated_input_is_no_measurement() {
        let of = |doc: Json| supply(&doc, 0).input;
        assert_eq!(of(json!({"PowerInputWatts": 900, "PowerCapacityWatts": 750, "LastPowerOutputWatts": null})), None);
        assert_eq!(of(json!({"PowerInputWatts": 900, "PowerCapacityWatts": 900})), None);
        assert_eq!(
            of(json!({"PowerInputWatts": 900, "LastPowerOutputWatts": null})),
            None,
            "no rating to compare with"
        );
        assert_eq!(of(json!({"PowerInputWatts": 268, "PowerCapacityWatts": 800})), Some(268.0));
        assert_eq!(of(json!({"PowerInputWatts": 0, "PowerCapacityWatts": 800})), Some(0.0), "a standby supply");
        assert_eq!(stated_input(&json!({"InputPowerWatts": {"Reading": 937.4}}), Some(400.0)), None);
    }

    #[test]
    fn a_sum_needs_every_supply_that_is_there() {
        let list = |second: Json| {
            let first = json!({"PowerInputWatts": 268, "PowerCapacityWatts": 800});
            input(&supplies(&json!({"PowerSupplies": [first, second]})))
        };
        assert_eq!(list(json!({"PowerInputWatts": 25, "PowerCapacityWatts": 800})), Some(293.0));
        assert_eq!(list(json!({"PowerInputWatts": null})), None);
        assert_eq!(list(json!({"PowerInputWatts": null, "Status": {"State": "Absent"}})), Some(268.0));
        assert_eq!(input(&[]), None);
    }

    #[test]
    fn parts_are_told_by_name() {
        let doc = json!({"PowerControl": [
            {"Name": "Server Power Control", "PowerConsumedWatts": 344},
            {"Name": "CPU Subsystem Power", "PowerConsumedWatts": 120},
        ]});
        let parts: Vec<bool> = controls(&doc).iter().map(|control| control.part).collect();
        assert_eq!(parts, [false, true]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[\\[\\]{}:,\"0-9a-zA-Z. @#]{0,200}") {
            if let Ok(doc) = serde_json::from_str::<Json>(&text) {
                let _ = (chassis(&doc, "/x"), environment(&doc), controls(&doc), supplies(&doc), fujitsu(&doc));
            }
        }
    }
}
