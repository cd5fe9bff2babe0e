//! Who owns a pod, from its own object: no ReplicaSet and no Job is read for it.
//!
//! A Deployment's ReplicaSet is called `<deployment>-<pod-template-hash>`, and its pods bear that hash as a label; one
//! without it is nobody's. A CronJob's Job is called `<cronjob>-<scheduled time>`, in minutes since 1970 (Kubernetes
//! 1.21 and newer: 8 digits) or in seconds (before: 10 digits). Any other owner is not named.

use kube::api::ObjectMeta;

use crate::semconv::attr;
use crate::workload::Attribute;

/// The label that a Deployment puts on each `ReplicaSet` and its pods.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Minutes since 1970 that can be the time of a Job: 2015 to 2100.
const MINUTES: std::ops::Range<u64> = 23_668_560..68_374_080;

/// The attributes that name the owner.
#[must_use]
pub fn attributes(pod: &ObjectMeta) -> Vec<Attribute> {
    let owners = pod.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else { return Vec::new() };
    // Other groups have kinds of the same names: an OpenKruise StatefulSet is none of ours.
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let (name, uid) = match (group, owner.kind.as_str()) {
        ("apps", "ReplicaSet") => (attr::K8S_REPLICASET_NAME, attr::K8S_REPLICASET_UID),
        ("apps", "StatefulSet") => (attr::K8S_STATEFULSET_NAME, attr::K8S_STATEFULSET_UID),
        ("apps", "DaemonSet") => (attr::K8S_DAEMONSET_NAME, attr::K8S_DAEMONSET_UID),
        ("batch", "Job") => (attr::K8S_JOB_NAME, attr::K8S_JOB_UID),
        _ => return Vec::new(),
    };
    let above = match owner.kind.as_str() {
        "ReplicaSet" => deployment(&owner.name, pod).map(|name| (attr::K8S_DEPLOYMENT_NAME, name)),
        "Job" => cron_job(&owner.name).map(|name| (attr::K8S_CRONJOB_NAME, name)),
        _ => None,
    };
    let own = [(name, owner.name.as_str()), (uid, owner.uid.as_str())];
    above.into_iter().chain(own).map(|(key, value)| (key.into(), value.to_owned())).collect()
}

fn deployment<'a>(replica_set: &'a str, pod: &ObjectMeta) -> Option<&'a str> {
    let hash = pod.labels.as_ref()?.get(TEMPLATE_HASH)?;
    let name = replica_set.strip_suffix(hash.as_str())?.strip_suffix('-')?;
    (!name.is_empty() && !hash.is_empty()).then_some(name)
}

fn cron_job(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let number: u64 = time.parse().ok().filter(|_| time.bytes().all(|byte| byte.is_ascii_digit()))?;
    let minutes = match time.len() {
        8 => number,
        10 => number / 60,
        _ => return None,
    };
    (!name.is_empty() && MINUTES.contains(&minutes)).then_some(name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn owned(api_version: &str, kind: &str, name: &str, hash: Option<&str>) -> Vec<(String, String)> {
        let owner = OwnerReference {
            api_version: api_version.into(),
            kind: kind.into(),
            name: name.into(),
            uid: "u".into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let other = OwnerReference { kind: "Pod".into(), name: "other".into(), ..OwnerReference::default() };
        let labels = hash.map(|hash| [(TEMPLATE_HASH.to_owned(), hash.to_owned())].into());
        let pod = ObjectMeta { labels, owner_references: Some(vec![other, owner]), ..ObjectMeta::default() };
        attributes(&pod).into_iter().map(|(key, value)| (key.into_owned(), value)).collect()
    }

    fn named(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_deployment_is_told_by_the_hash_only() {
        let replica_set = [("k8s.replicaset.name", "web-7d9f8c6b5"), ("k8s.replicaset.uid", "u")];
        let deployment = [&[("k8s.deployment.name", "web")][..], &replica_set].concat();
        assert_eq!(owned("apps/v1", "ReplicaSet", "web-7d9f8c6b5", Some("7d9f8c6b5")), named(&deployment));
        assert_eq!(owned("apps/v1", "ReplicaSet", "web-7d9f8c6b5", None), named(&replica_set));
        assert_eq!(owned("apps/v1", "ReplicaSet", "web-7d9f8c6b5", Some("other")), named(&replica_set));
        assert_eq!(owned("apps/v1", "ReplicaSet", "web-7d9f8c6b5", Some("")), named(&replica_set));
        let dashed = owned("apps/v1", "ReplicaSet", "a-b-c-123", Some("123"));
        assert_eq!(dashed.first(), Some(&("k8s.deployment.name".into(), "a-b-c".into())));
    }

    #[test]
    fn a_cron_job_is_told_by_a_time() {
        for (job, cron_job) in [
            ("report-29671380", Some("report")),
            ("nightly-report-1780282800", Some("nightly-report")),
            ("backup-20261122", None),
            ("backup-99999999", None),
            ("report-1", None),
            ("-29671380", None),
            ("29671380", None),
            ("report-+9671380", None),
        ] {
            let expected: Vec<_> = cron_job.map(|name| ("k8s.cronjob.name", name)).into_iter().collect();
            let expected = [&expected[..], &[("k8s.job.name", job), ("k8s.job.uid", "u")]].concat();
            assert_eq!(owned("batch/v1", "Job", job, None), named(&expected));
        }
    }

    #[test]
    fn others_are_not_mistaken() {
        let set = named(&[("k8s.statefulset.name", "db"), ("k8s.statefulset.uid", "u")]);
        assert_eq!(owned("apps/v1", "StatefulSet", "db", None), set);
        assert_eq!(owned("apps/v1", "DaemonSet", "log", None)[0].0, "k8s.daemonset.name");
        assert_eq!(owned("apps.kruise.io/v1", "StatefulSet", "db", None), []);
        assert_eq!(owned("v1", "Node", "node-7", Some("7")), []);
        assert_eq!(attributes(&ObjectMeta::default()), []);
    }
}
