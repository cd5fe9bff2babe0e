//! What a receiver knows: every series that it was ever sent, and the sums over them.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, metric};
use prost::Message;
use wattribute::semconv::attr;

pub type Attributes = BTreeMap<String, String>;

/// One point as it was received.
#[derive(Debug, Clone)]
pub struct Point {
    pub metric: String,
    pub resource: Attributes,
    pub attributes: Attributes,
    pub start: u64,
    pub time: u64,
    /// None: no recorded value.
    pub value: Option<f64>,
    pub gauge: bool,
    pub delta: bool,
}

impl Point {
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    pub fn of(&self, key: &str) -> &str {
        self.resource.get(key).map_or("", String::as_str)
    }

    /// In whole microjoules.
    pub fn micro(&self) -> u64 {
        (self.value.unwrap() * 1e6).round() as u64
    }
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    let mut all = Attributes::new();
    for pair in pairs {
        let text = match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::StringValue(text)) => text.clone(),
            Some(any_value::Value::IntValue(number)) => number.to_string(),
            Some(any_value::Value::ArrayValue(list)) => format!("{:?}", list.values),
            other => panic!("{}: {other:?}", pair.key),
        };
        assert!(all.insert(pair.key.clone(), text).is_none(), "{} twice", pair.key);
    }
    all
}

/// Every point of a request, in its order.
pub fn points(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let mut all = Vec::new();
    for resource_metrics in &request.resource_metrics {
        let resource = attributes(&resource_metrics.resource.as_ref().unwrap().attributes);
        for scope in &resource_metrics.scope_metrics {
            assert_eq!(scope.scope.as_ref().unwrap().name, "wattribute");
            for metric in &scope.metrics {
                let (found, gauge, delta): (&[NumberDataPoint], _, _) = match metric.data.as_ref().unwrap() {
                    metric::Data::Gauge(gauge) => (&gauge.data_points, true, false),
                    metric::Data::Sum(sum) => {
                        assert!(sum.is_monotonic);
                        (&sum.data_points, false, sum.aggregation_temporality == 1)
                    }
                    other => panic!("{other:?}"),
                };
                let mut flagged = BTreeSet::new();
                for point in found {
                    let value = match point.value {
                        Some(Value::AsDouble(value)) => Some(value),
                        None => None,
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(point.flags == 1, value.is_none());
                    flagged.insert(point.flags);
                    all.push(Point {
                        metric: metric.name.clone(),
                        resource: resource.clone(),
                        attributes: attributes(&point.attributes),
                        start: point.start_time_unix_nano,
                        time: point.time_unix_nano,
                        value,
                        gauge,
                        delta,
                    });
                }
                assert!(found.len() == 1 || !flagged.contains(&1), "a flagged point has a Metric of its own");
            }
        }
    }
    all
}

pub fn decode(bytes: &[u8]) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest::decode(bytes).unwrap()
}

/// Metric, resource, point, and for totals the start: another start is another sum.
pub type Key = (String, Attributes, Attributes, u64);

#[derive(Debug, Default)]
pub struct Known {
    /// Whole microjoules: the last value, or the sum of the increments.
    micro: u64,
    start: u64,
    time: u64,
    over: bool,
}

/// A receiver's memory.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Without processes only the energy of workloads in workloads is known.
    pub no_processes: bool,
    /// Idle energy is shown with workloads.
    pub idle_is_shared: bool,
    /// Some containers are not sent yet, though what is around them is.
    pub some_wait: bool,
    pub series: BTreeMap<Key, Known>,
}

impl Ledger {
    pub fn take(&mut self, request: &ExportMetricsServiceRequest) {
        let mut over = false;
        let request_is_delta = points(request).iter().any(|point| point.delta);
        for point in points(request) {
            over |= point.value.is_none();
            assert!(!over || point.value.is_none(), "what is over comes after the living");
            assert!(point.start <= point.time);
            if point.gauge {
                continue;
            }
            let sum = if request_is_delta { 0 } else { point.start };
            let key = (point.metric.clone(), point.resource.clone(), point.attributes.clone(), sum);
            if point.value.is_none() {
                let known = self.series.get_mut(&key).expect("ends a series that was sent");
                assert!(!known.over, "said once: {key:?}");
                known.over = true;
                continue;
            }
            let micro = point.micro();
            let known = self.series.entry(key).or_default();
            if point.delta {
                assert!(known.time == 0 || known.time <= point.start, "intervals do not overlap: {point:?}");
                known.micro += micro;
            } else {
                assert!(micro >= known.micro, "never falls: {point:?}");
                known.micro = micro;
            }
            assert!(point.time >= known.time);
            (known.start, known.time, known.over) = (point.start, point.time, false);
        }
    }

    /// Sum in whole microjoules over the series that `choose` wants.
    pub fn sum(&self, choose: impl Fn(&str, &Attributes, &Attributes) -> bool) -> u64 {
        let wanted = self.series.iter().filter(|((metric, resource, point, _), _)| choose(metric, resource, point));
        wanted.map(|(_, known)| known.micro).sum()
    }

    /// Panics unless the books balance at this receiver.
    pub fn check(&self) {
        let has = |map: &Attributes, key: &str, value: &str| map.get(key).is_some_and(|found| found == value);
        let ids: BTreeSet<String> =
            self.series.keys().filter_map(|(_, _, point, _)| point.get(attr::HW_ID).cloned()).collect();
        for id in &ids {
            let of = |point: &Attributes| has(point, attr::HW_ID, id);
            let top =
                self.sum(|_, _, p| of(p) && has(p, attr::ENERGY_STATE, "active") && has(p, attr::PARENT_KIND, "node"));
            let unattributed = self.sum(|m, _, p| of(p) && m == "wattribute.unattributed.energy");
            let node =
                |state| self.sum(|m, _, p| of(p) && m == "wattribute.node.energy" && has(p, attr::ENERGY_STATE, state));
            let measured = self.sum(|m, _, p| of(p) && m == "hw.energy");
            assert_eq!(top, node("active"), "{id}: workloads at the top are what was booked");
            assert_eq!(top + unattributed + node("idle"), measured, "{id}: the books balance");
            let shared =
                self.sum(|m, _, p| of(p) && has(p, attr::ENERGY_STATE, "idle") && m != "wattribute.node.energy");
            if self.idle_is_shared {
                assert_eq!(shared + node("idle_unshared"), node("idle"), "{id}: idle, as it is shown with workloads");
            } else {
                assert_eq!(shared + node("idle_unshared"), 0, "{id}: nobody asked");
            }
            for (key, kind) in
                [(attr::CONTAINER_ID, "container"), (attr::K8S_POD_UID, "pod"), (attr::CGROUP, "service")]
            {
                self.check_kind(id, key, kind);
            }
        }
    }

    /// What is in a workload is what the workload used.
    fn check_kind(&self, id: &str, key: &str, kind: &str) {
        let metric = format!("wattribute.{kind}.energy");
        let of = |point: &Attributes| point.get(attr::HW_ID).is_some_and(|found| found == id);
        let names: BTreeSet<&String> =
            self.series.keys().filter(|(m, _, _, _)| *m == metric).filter_map(|(_, r, _, _)| r.get(key)).collect();
        for name in names {
            let here = |r: &Attributes| r.get(key) == Some(name);
            let active = |p: &Attributes| p.get(attr::ENERGY_STATE).is_some_and(|state| state == "active");
            let whole = self.sum(|m, r, p| of(p) && m == metric && here(r) && active(p));
            let inside = self.sum(|m, r, p| {
                of(p)
                    && here(r)
                    && active(p)
                    && m.starts_with("wattribute.")
                    && p.get(attr::PARENT_KIND).is_some_and(|k| k == kind)
            });
            if !(self.no_processes || self.some_wait && kind == "pod") {
                assert_eq!(inside, whole, "{id}: inside of {kind} {name}");
            } else {
                assert!(inside <= whole, "{id}: inside of {kind} {name}");
            }
        }
    }
}
