//! What a pod asked for and what it may use at most: its resource requests and limits, as the scheduler counts them.
//!
//! The larger of what its containers (sidecars included) want together and what its init containers want one after
//! another, plus its overhead; what is set for the pod as a whole wins (pod-level resources, Kubernetes 1.34). Quantities
//! are written as in the API (`250m`, `0.5`, `64Mi`, `1e3`); one that cannot be read counts as not set.

use serde_json::Value;

use super::object::{Amounts, Container, Requirements, Spec};
use crate::workload::Resources;

/// What the pod wants.
#[must_use]
pub fn of(spec: &Spec) -> Resources {
    let whole = |pick: fn(&Requirements) -> Option<&Amounts>| spec.resources.as_ref().and_then(pick);
    let (asked, most) = (whole(|all| all.requests.as_ref()), whole(|all| all.limits.as_ref()));
    Resources {
        cpu_request: asked.and_then(cpu).or_else(|| sum(spec, |all| all.requests.as_ref().and_then(cpu), false)),
        cpu_limit: most.and_then(cpu).or_else(|| sum(spec, |all| all.limits.as_ref().and_then(cpu), true)),
        memory_request: asked
            .and_then(memory)
            .or_else(|| sum(spec, |all| all.requests.as_ref().and_then(memory), false)),
        memory_limit: most.and_then(memory).or_else(|| sum(spec, |all| all.limits.as_ref().and_then(memory), true)),
    }
}

/// `of_each` over the containers of a pod. With `every`, one container without a value leaves the pod without one.
fn sum(spec: &Spec, of_each: impl Fn(&Requirements) -> Option<u64>, every: bool) -> Option<u64> {
    let value = |container: &Container| container.resources.as_ref().and_then(&of_each);
    let (mut sidecars, mut peak, mut any, mut missing) = (0_u64, 0_u64, false, false);
    for container in spec.init_containers.as_deref().unwrap_or_default() {
        let wanted = value(container);
        any |= wanted.is_some();
        if container.restart_policy.as_deref() == Some("Always") {
            missing |= wanted.is_none();
            sidecars = sidecars.saturating_add(wanted.unwrap_or(0));
        } else {
            peak = peak.max(sidecars.saturating_add(wanted.unwrap_or(0)));
        }
    }
    let mut together = sidecars;
    for container in spec.containers.as_deref().unwrap_or_default() {
        let wanted = value(container);
        any |= wanted.is_some();
        missing |= wanted.is_none();
        together = together.saturating_add(wanted.unwrap_or(0));
    }
    let overhead = spec
        .overhead
        .as_ref()
        .map(|overhead| Requirements { requests: Some(overhead.clone()), limits: Some(overhead.clone()) });
    let more = overhead.as_ref().and_then(&of_each).unwrap_or(0);
    (any && !(every && missing)).then(|| together.max(peak).saturating_add(more))
}

/// In thousandths of a CPU.
fn cpu(amounts: &Amounts) -> Option<u64> {
    quantity(amounts.cpu.as_ref()?, 1000.0)
}

/// In bytes.
fn memory(amounts: &Amounts) -> Option<u64> {
    quantity(amounts.memory.as_ref()?, 1.0)
}

/// More than any machine has counts as this, 1 PiB or 10¹² CPUs: what pods ask for must add up.
const MOST: f64 = 1_125_899_906_842_624.0;

/// A quantity of the API in units of `1 / per_one`, rounded up.
fn quantity(value: &Value, per_one: f64) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => parse(text)?,
        _ => return None,
    };
    let units = (number * per_one).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked
    (units >= 0.0).then_some(units.min(MOST) as u64)
}

/// k8s.io/apimachinery/pkg/api/resource: a decimal number and a suffix.
fn parse(text: &str) -> Option<f64> {
    const SUFFIXES: &[(&str, f64)] = &[
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    // `1e3` and `1E3` are numbers; `1E` is a suffix.
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor))).unwrap_or((text, 1.0));
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    let number: f64 = number.chars().all(plain).then(|| number.parse().ok()).flatten()?;
    number.is_finite().then_some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(spec: &str) -> Resources {
        of(&serde_json::from_str(spec).unwrap())
    }

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        let rows = [
            ("250m", 0.25),
            ("0.5", 0.5),
            ("2", 2.0),
            ("64Mi", 67_108_864.0),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("1E", 1e18),
            ("128974848", 128_974_848.0),
            ("100M", 1e8),
        ];
        for (text, value) in rows {
            let found = parse(text).unwrap();
            assert!((found - value).abs() <= value * 1e-12, "{text}: {found}");
        }
        for bad in ["", "m", "1x", "inf", "NaN", "1 Gi", "0x10", "1ee3"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(quantity(&Value::from("-1"), 1.0), None);
        assert_eq!(quantity(&Value::from("100u"), 1000.0), Some(1), "the API rounds up");
        assert_eq!(quantity(&Value::from(2), 1000.0), Some(2000));
        assert_eq!(quantity(&Value::from("7E"), 1.0), Some(1 << 50), "thousands of such pods still add up");
        assert_eq!(quantity(&Value::from("8E"), 1000.0), Some(1 << 50));
    }

    #[test]
    fn containers_add_up_and_init_containers_come_one_after_another() {
        let found = wanted(
            r#"{"containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m"}}}],
              "initContainers": [
                {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "100m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "900m"}}}],
              "overhead": {"cpu": "10m"}}"#,
        );
        assert_eq!(found.cpu_request, Some(1010), "900 and the sidecar before it, and the overhead");
        assert_eq!(found.cpu_limit, Some(1610));
        assert_eq!(found.memory_request, Some(64 << 20));
        assert_eq!(found.memory_limit, None, "b may use all");
    }

    #[test]
    fn nothing_wanted_is_nothing_and_the_pod_as_a_whole_wins() {
        assert_eq!(wanted(r#"{"containers": [{"name": "a"}]}"#), Resources::default());
        assert_eq!(wanted("{}"), Resources::default());
        let whole = wanted(
            r#"{"resources": {"requests": {"cpu": 2}}, "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": []}}}]}"#,
        );
        assert_eq!((whole.cpu_request, whole.memory_request), (Some(2000), None));
    }
}
