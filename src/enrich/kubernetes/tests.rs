//! Pods as the API server has them, and what their workloads are called.

use serde_json::json;

use super::index::{Chosen, Index};
use super::object::{Node, Pod};
use super::{Machine, node_names};
use crate::workload::Names;

const HASH: &str = "7b817f12abc73b6e75cdb9fb44caffa3";

fn pod(value: serde_json::Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn meta(name: &str, uid: &str) -> serde_json::Value {
    json!({"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "7", "creationTimestamp": null,
           "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
           "labels": {"team": "blue", "other": "x"}, "annotations": {"owner": "ann"}})
}

fn get<'a>(names: &'a Names, key: &str) -> Option<&'a str> {
    names.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

fn plain(names: &Names) -> Vec<(&str, &str)> {
    names.attributes.iter().map(|(key, value)| (&**key, value.as_str())).collect()
}

#[test]
fn a_pod_with_every_sort_of_container() {
    let pod = pod(json!({
        "metadata": meta("web-0", "u1"),
        "spec": {
            "nodeName": "n", "volumes": [{"name": "v"}],
            "initContainers": [{"name": "setup", "image": "busybox"}, {"name": "proxy", "image": "envoy:1", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "ghcr.io:443/acme/web:1.2@sha256:00", "env": [{"name": "SECRET", "value": "s"}]}],
            "ephemeralContainers": [{"name": "debug", "image": "tools@sha256:00"}]
        },
        "status": {
            "initContainerStatuses": [
                {"name": "setup", "containerID": format!("containerd://{}", id('1')), "state": {"terminated": {"exitCode": 0, "containerID": format!("containerd://{}", id('1'))}}},
                {"name": "proxy", "containerID": format!("containerd://{}", id('2')), "state": {"running": {}}}],
            "containerStatuses": [
                {"name": "app", "containerID": format!("cri-o://{}", id('4')), "restartCount": 1, "image": "resolved", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"containerID": format!("cri-o://{}", id('3'))}}}],
            "ephemeralContainerStatuses": [{"name": "debug", "containerID": format!("docker://{}", id('5')), "state": {"running": {}}}]
        }
    }));
    let mut index = Index::new(Chosen::new(&["team".into(), "absent".into()], &["owner".into()]));
    assert!(index.apply(&pod), "new");
    assert!(!index.apply(&pod), "nothing new");
    let own = [
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "web-0"),
        ("k8s.pod.uid", "u1"),
        ("k8s.pod.label.team", "blue"),
        ("k8s.pod.annotation.owner", "ann"),
    ];
    let found = index.pod("u1").unwrap();
    assert_eq!((found.names.name.as_str(), plain(&found.names)), ("shop/web-0", own.to_vec()));
    assert_eq!((found.inside.name.as_str(), found.gone), ("", false));
    for (digit, name, runtime, image, tag) in [
        ('1', "setup", "containerd", "busybox", Some("latest")),
        ('2', "proxy", "containerd", "envoy", Some("1")),
        ('3', "app", "cri-o", "ghcr.io:443/acme/web", Some("1.2")),
        ('4', "app", "cri-o", "ghcr.io:443/acme/web", Some("1.2")),
        ('5', "debug", "docker", "tools", None),
    ] {
        let names = index.container(&id(digit)).unwrap();
        let mut expected = own.to_vec();
        expected.extend([("k8s.container.name", name), ("container.runtime.name", runtime)]);
        expected.push(("container.image.name", image));
        expected.extend(tag.map(|tag| ("container.image.tag", tag)));
        assert_eq!((plain(&names), &*names.name), (expected, &*format!("shop/web-0/{name}")));
    }
    assert_eq!(index.container(&id('6')), None);
}

#[test]
fn a_static_pod_is_known_by_both_uids() {
    let mirror = |uid: &str| {
        let mut value = json!({"metadata": meta("etcd-n", uid)});
        value["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": HASH, "kubernetes.io/config.hash": HASH, "kubernetes.io/config.source": "file"});
        value["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "x", "controller": true}]);
        pod(value)
    };
    let mut index = Index::default();
    index.apply(&mirror("u1"));
    for uid in [HASH, "u1"] {
        assert_eq!(get(&index.pod(uid).unwrap().names, "k8s.pod.uid"), Some("u1"));
    }
    // Its mirror is deleted and made again while the pod itself runs on.
    index.delete("u1");
    assert!(index.pod(HASH).unwrap().gone);
    index.apply(&mirror("u2"));
    assert_eq!(get(&index.pod(HASH).unwrap().names, "k8s.pod.uid"), Some("u2"));
}

#[test]
fn deleted_pods_are_known_for_a_while_and_in_bounds() {
    let running = |number: usize| {
        let mut value = json!({"metadata": meta(&format!("p{number}"), &format!("u{number}"))});
        value["status"] =
            json!({"containerStatuses": [{"name": "app", "containerID": format!("containerd://c{number}")}]});
        pod(value)
    };
    let mut index = Index::default();
    for number in 0..2_000 {
        index.apply(&running(number));
        assert!(index.delete(&format!("u{number}")));
        assert!(!index.delete(&format!("u{number}")), "once");
    }
    assert_eq!(index.len(), (512, 512));
    assert!(index.pod("u1999").unwrap().gone && index.container("c1999").is_some());
    assert!(index.pod("u100").is_none() && index.container("c100").is_none());
}

#[test]
fn a_new_list_finds_what_was_deleted_unseen() {
    let bare = |name: &str, uid: &str| pod(json!({"metadata": meta(name, uid)}));
    let mut index = Index::default();
    index.apply(&bare("a", "ua"));
    index.apply(&bare("b", "ub"));
    index.begin();
    index.apply(&bare("b", "ub"));
    index.apply(&bare("c", "uc"));
    assert!(index.finish());
    assert_eq!(["ua", "ub", "uc"].map(|uid| index.pod(uid).unwrap().gone), [true, false, false]);
    index.begin();
    // A list that broke off: the next begins anew.
    index.begin();
    index.apply(&bare("b", "ub"));
    index.apply(&bare("c", "uc"));
    assert!(!index.finish(), "all are there");
}

#[test]
fn a_container_that_is_restarted_for_ever_is_bounded() {
    let mut index = Index::default();
    for number in 0..1_000 {
        let mut value = json!({"metadata": meta("p", "u")});
        value["status"] =
            json!({"containerStatuses": [{"name": "app", "containerID": format!("containerd://c{number}")}]});
        index.apply(&pod(value));
    }
    assert!(index.container("c999").is_some() && index.container("c936").is_some());
    assert!(index.container("c935").is_none());
}

#[test]
fn containers_that_are_there_are_all_known() {
    let statuses: Vec<_> =
        (0..100).map(|number| json!({"name": "app", "containerID": format!("containerd://c{number}")})).collect();
    let mut value = json!({"metadata": meta("p", "u")});
    value["status"] = json!({"containerStatuses": statuses});
    let mut index = Index::default();
    index.apply(&pod(value));
    assert!((0..100).all(|number| index.container(&format!("c{number}")).is_some()));
}

#[test]
fn labels_that_change_are_seen_and_large_ones_are_cut() {
    let with = |value: &str| {
        let mut pod = pod(json!({"metadata": meta("p", "u")}));
        pod.metadata.annotations = Some([("owner".to_owned(), value.to_owned())].into());
        pod
    };
    let mut index = Index::new(Chosen::new(&[], &["owner".into()]));
    let mut owner = |value: &str| {
        assert!(index.apply(&with(value)));
        get(&index.pod("u").unwrap().names, "k8s.pod.annotation.owner").map(str::to_owned)
    };
    assert_eq!(owner("ann").as_deref(), Some("ann"));
    assert_eq!(owner("bob").as_deref(), Some("bob"));
    assert_eq!(owner(&"x".repeat(300_000)), Some("x".repeat(1024)));
    assert_eq!(owner(&"ö".repeat(700)), Some("ö".repeat(512)));
    assert_eq!(owner(&format!("x{}", "ö".repeat(700))), Some(format!("x{}", "ö".repeat(511))), "on a character");
}

#[test]
fn what_is_missing_or_null_is_no_error() {
    let mut index = Index::default();
    assert!(!index.apply(&pod(json!({"metadata": {"name": "no uid"}}))));
    assert!(index.apply(&pod(
        json!({"metadata": {"uid": "u"}, "spec": {"containers": null}, "status": {"containerStatuses": null}})
    )));
    let nulls = json!({"metadata": {"uid": "w", "labels": {"team": null}}, "spec": null, "status": null});
    assert!(index.apply(&pod(nulls)));
    let empty = json!({"metadata": {"uid": "v"}, "status": {"containerStatuses": [{"name": "a"}, {"name": "b", "containerID": ""}, {"name": "c", "state": {"terminated": {"containerID": null}}}]}});
    assert!(index.apply(&pod(empty)));
    assert_eq!(index.container(""), None);
}

#[test]
fn the_node_names_the_machine_only_where_we_cannot_see_it() {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "n", "uid": "u"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "host-1"}],
                   "nodeInfo": {"machineID": "0123456789abcdef0123456789abcdef", "bootID": "b"}}
    }))
    .unwrap();
    let own = [("k8s.node.name", "n"), ("k8s.node.uid", "u"), ("k8s.cluster.uid", "k")];
    let seen = node_names("n", Some(&node), Some("k"), &Machine::default());
    assert_eq!(plain(&seen), own);
    let veiled = Machine { is_veiled: true, ..Machine::default() };
    let seen = node_names("n", Some(&node), Some("k"), &veiled);
    let more = [("host.name", "host-1"), ("host.id", "0123456789abcdef0123456789abcdef")];
    assert_eq!(plain(&seen), [&own[..], &more].concat());
    assert_eq!(plain(&node_names("n", None, None, &veiled)), own[..1]);
}

#[test]
fn the_node_names_its_instance_type() {
    let labels = json!({"node.kubernetes.io/instance-type": "m5.large", "beta.kubernetes.io/instance-type": "old"});
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap();
    let seen = node_names("n", Some(&node), None, &Machine::default());
    assert_eq!(plain(&seen), [("k8s.node.name", "n"), ("host.type", "m5.large")]);
    let node: Node =
        serde_json::from_value(json!({"metadata": {"labels": {"node.kubernetes.io/instance-type": ""}}})).unwrap();
    assert_eq!(plain(&node_names("n", Some(&node), None, &Machine::default())), [("k8s.node.name", "n")]);
}
