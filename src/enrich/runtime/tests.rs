//! Files of docker and podman, good and bad, and the thread that reads them.

#![allow(clippy::disallowed_methods)] // a test has files of its own

use std::path::Path;
use std::sync::Weak;

use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::json;

use super::found::{Found, TEXT_MAX};
use super::*;

const ID: &str = "2fa3e04b676df750842faf017052dd37ea0cc5bc7259a3487a1718c7fe100c94";
const OTHER: &str = "9d3c2f6a1b0e4d5c8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e";
const IMAGE_ID: &str = "sha256:016010fb1c1605f2578bae4cfd224168e16a12674a4b53c068dc2fe82e3787da";

const FAST: Pace = Pace {
    round: Duration::from_millis(1),
    pauses: [Duration::from_millis(5), Duration::from_millis(10), Duration::from_secs(3600)],
    old: Duration::from_secs(3600),
};

/// As docker writes it, less what nobody here reads.
fn config(id: &str, name: &str, image: &str) -> String {
    json!({
        "StreamConfig": {}, "State": {"Running": true, "Pid": 4711, "ExitCode": 0, "Health": null}, "ID": id,
        "Created": "2026-11-22T07:52:30.123456789Z", "Path": "/bin/sh", "Args": ["-c", "sleep 1"],
        "Config": {"Hostname": "web", "Env": ["PATH=/bin"], "Image": image, "Labels": {"com.docker.compose.project": "shop"}},
        "Image": IMAGE_ID, "NetworkSettings": {"Networks": {"none": {"Aliases": null}}}, "Name": format!("/{name}"),
        "Driver": "vfs", "OS": "linux", "RestartCount": 0, "MountPoints": {}, "LocalLogCacheMeta": {"HaveNotifyEnabled": false}
    })
    .to_string()
}

/// One entry of a list of containers/storage, as podman writes it.
fn entry(id: &str, name: &str, image: &str) -> serde_json::Value {
    let bare = IMAGE_ID.trim_start_matches("sha256:");
    let metadata =
        json!({"image-name": image, "image-id": bare, "name": name, "created-at": 1_760_200_649}).to_string();
    json!({
        "id": id, "names": [name], "image": bare, "layer": OTHER, "metadata": metadata,
        "created": "2026-10-11T16:37:29.5Z", "flags": {"MountLabel": "", "ProcessLabel": ""}
    })
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

fn put_docker(root: &Path, id: &str, text: &str) {
    put(&root.join("containers").join(id).join("config.v2.json"), text);
}

fn found(name: Option<&str>, image: Option<&str>) -> Found {
    Found { id: ID.into(), name: name.map(str::to_owned), image: image.map(str::to_owned) }
}

fn container(id: &str, runtime: Option<&'static str>) -> Identity {
    let container = Identity::new(Kind::Container, id, "short").with(attr::CONTAINER_ID, id);
    match runtime {
        Some(runtime) => container.with(attr::CONTAINER_RUNTIME_NAME, runtime),
        None => container,
    }
}

fn node() -> Identity {
    Identity { id: WorkloadId::Node, name: String::new(), attributes: Vec::new() }
}

/// Asks as the agent does, again each time the generation has grown, until there is an answer.
fn described(runtimes: &Runtimes, workload: &Identity) -> Arc<Names> {
    let deadline = clock::now().boot + Duration::from_secs(20);
    loop {
        let generation = runtimes.generation();
        if let Answer::Known(names) = runtimes.describe(workload, &node()) {
            return names;
        }
        until(deadline, || runtimes.generation() != generation);
    }
}

fn until(deadline: Duration, mut done: impl FnMut() -> bool) {
    while !done() {
        assert!(clock::now().boot < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn soon(done: impl FnMut() -> bool) {
    until(clock::now().boot + Duration::from_secs(20), done);
}

fn plain(names: &Names) -> Vec<(&str, &str)> {
    names.attributes.iter().map(|(key, value)| (&**key, value.as_str())).collect()
}

fn troubles(runtimes: &Runtimes) -> Vec<(usize, String)> {
    let mut said = Vec::new();
    runtimes.troubles(&mut |topic, what| said.push((topic, what.to_string())));
    said
}

#[test]
fn a_file_of_docker() {
    let parse = |text: &str| docker::parse(text.as_bytes());
    assert_eq!(parse(&config(ID, "web", "nginx:1.25")), Some(found(Some("web"), Some("nginx:1.25"))));
    let short = &IMAGE_ID["sha256:".len()..][..12];
    for by_id in [IMAGE_ID, short, &short[..4]] {
        assert_eq!(parse(&config(ID, "web", by_id)), Some(found(Some("web"), None)), "{by_id} is no name");
    }
    for name in ["016", "cafe", "016010fb1c1605f2578bae4cfd224168e16a12674a4b53c068dc2fe82e3787db", "sha256:tag"] {
        assert_eq!(parse(&config(ID, "web", name)), Some(found(Some("web"), Some(name))), "another's id, or none");
    }
    let with = |rest: &str| parse(&format!(r#"{{"ID": "{ID}"{rest}}}"#));
    assert_eq!(with(r#", "Name": "web""#), Some(found(Some("web"), None)));
    assert_eq!(with(r#", "Name": null, "Config": {"Image": "a"}"#), Some(found(None, Some("a"))));
    assert_eq!(with(r#", "Name": "/web", "Image": null, "Config": null"#), Some(found(Some("web"), None)));
    assert_eq!(with(r#", "Name": "/a", "Name2": [[[{"x": 1e999}]]]"#), Some(found(Some("a"), None)));
    for nothing in ["", r#", "Name": "/", "Config": {"Image": ""}"#, r#", "Name": "a\nb""#, r#", "Config": {}"#] {
        assert_eq!(with(nothing), None, "{nothing}");
    }
    assert_eq!(with(&format!(r#", "Name": "/{}""#, "x".repeat(TEXT_MAX + 1))), None, "longer than a name is");
    for wrong in [r#", "Name": 5"#, r#", "Name": "a", "Config": []"#, r#", "Name": "a", "ID": "b""#] {
        assert_eq!(with(wrong), None, "{wrong}");
    }
    assert_eq!(parse(&config("2fa3", "web", "a")), None, "no id");
    assert_eq!(parse(&config("../../../../etc", "web", "a")), None, "no id");
}

#[test]
fn a_list_of_podman() {
    let parse = |value: &serde_json::Value| podman::parse(value.to_string().as_bytes());
    let image = "docker.io/library/nginx:1.27.4";
    let cri_o =
        json!({"id": OTHER, "names": ["k8s_POD_a"], "metadata": "{\"pod-name\": 7, \"image-name\": \"pause\"}"});
    let listed = parse(&json!([entry(ID, "web", image), cri_o])).unwrap();
    assert_eq!(listed[0], found(Some("web"), Some(image)));
    assert_eq!((&*listed[1].id, listed[1].image.as_deref()), (OTHER, Some("pause")));
    let bare = IMAGE_ID.trim_start_matches("sha256:");
    assert_eq!(parse(&json!([entry(ID, "web", bare)])).unwrap()[0], found(Some("web"), None));
    let renamed = json!([{"id": ID, "names": ["new", "x"], "metadata": "{\"name\": \"old\"}"}]);
    assert_eq!(parse(&renamed).unwrap()[0].name.as_deref(), Some("new"));
    let by_metadata = json!([{"id": ID, "metadata": "{\"name\": \"web\"}"}]);
    assert_eq!(parse(&by_metadata).unwrap()[0].name.as_deref(), Some("web"));
    for metadata in ["", "{", "\u{0}", "[]", "{\"name\": []}"] {
        let value = json!([{"id": ID, "names": ["web"], "image": bare, "metadata": metadata}, {"id": "x"}, {"id": ID, "names": []}]);
        assert_eq!(parse(&value).unwrap(), [found(Some("web"), None)], "{metadata}");
    }
    assert_eq!(podman::parse(b""), Some(Vec::new()));
    assert_eq!(podman::parse(b"null\n"), Some(Vec::new()));
    for wrong in [&b"{}"[..], b"[{}]", b"[", b"[{\"id\": 5}]", b"[{\"id\": \"\xff\"}]", b"\0"] {
        assert_eq!(podman::parse(wrong), None, "{}", String::from_utf8_lossy(wrong));
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_no_file() {
    let docker = config(ID, "web", "nginx:1.25");
    let podman = json!([entry(ID, "web", "nginx:1.25")]).to_string();
    for length in 0..docker.len() {
        assert_eq!(docker::parse(&docker.as_bytes()[..length]), None, "{length}");
    }
    for length in 1..podman.len() {
        assert_eq!(podman::parse(&podman.as_bytes()[..length]), None, "{length}");
    }
    let web = docker.find("/web").unwrap();
    let mut damaged = docker.clone().into_bytes();
    damaged[web + 1] = 0xff;
    assert_eq!(docker::parse(&damaged), None, "not UTF-8");
    let deep = format!(r#"{{"ID": "{ID}", "Name": "/web", "X": {}"#, "[".repeat(1 << 20));
    assert_eq!(docker::parse(deep.as_bytes()), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn damage_of_any_sort_panics_nowhere(at in any::<proptest::sample::Index>(), byte: u8, cut in any::<proptest::sample::Index>()) {
        for text in [config(ID, "web", "nginx:1.25"), json!([entry(ID, "web", "nginx:1.25")]).to_string()] {
            let mut bytes = text.into_bytes();
            let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len()));
            bytes[at] = byte;
            for bytes in [&bytes[..], &bytes[cut..], &bytes[..cut]] {
                let all = docker::parse(bytes).into_iter().chain(podman::parse(bytes).unwrap_or_default());
                all.for_each(|found| assert!(is_id(&found.id) && found.name.as_deref() != Some("")));
            }
        }
    }
}

#[test]
fn names_come_from_the_thread() {
    let (docker, podman) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put_docker(docker.path(), ID, &config(ID, "web", "registry:5000/nginx:1.25"));
    let list = json!([entry(OTHER, "db", "docker.io/library/postgres:16")]).to_string();
    put(&podman.path().join("overlay-containers/volatile-containers.json"), &list);
    let runtimes = Runtimes::start_at(FAST, [Some(docker.path().into()), Some(podman.path().into())]).unwrap();
    let web = [
        ("container.runtime.name", "docker"),
        ("container.name", "web"),
        ("container.image.name", "registry:5000/nginx"),
        ("container.image.tag", "1.25"),
    ];
    let db = [
        ("container.runtime.name", "podman"),
        ("container.name", "db"),
        ("container.image.name", "docker.io/library/postgres"),
        ("container.image.tag", "16"),
    ];
    for (id, runtime, name, attributes) in [
        (ID, Some("docker"), "web", web),
        (ID, None, "web", web),
        (OTHER, None, "db", db),
        (OTHER, Some("podman"), "db", db),
        (&OTHER[..12], Some("podman"), "db", db),
    ] {
        // Each is asked of a fresh one: the first to ask says where to look.
        let runtimes = Runtimes::start_at(FAST, [Some(docker.path().into()), Some(podman.path().into())]).unwrap();
        let names = described(&runtimes, &container(id, runtime));
        assert_eq!((&*names.name, plain(&names)), (name, attributes.to_vec()), "{id} {runtime:?}");
        assert_eq!(troubles(&runtimes), []);
    }
    let pod = Identity::new(Kind::Pod, "uid", "uid");
    let strangers = [
        (node(), node()),
        (Identity::new(Kind::Service, ID, ID), node()),
        (pod.clone(), node()),
        (container(ID, Some("docker")), pod),
        (container(ID, Some("containerd")), node()),
        (container(ID, Some("cri-o")), node()),
        (container("web", Some("lxc")), node()),
        (container("k3nbz5w9kqm2rvvu7t0yx1abc", Some("docker")), node()),
        (container("0123456789abcdef0123456789abcdef-1234567890", None), node()),
        (container("../../x", None), node()),
    ];
    for (workload, around) in strangers {
        assert_eq!(runtimes.describe(&workload, &around), Answer::Unknown, "{workload:?}");
    }
    assert!(runtimes.shared.lock().entries.is_empty(), "nobody is looked up who cannot be found");
}

#[test]
fn a_file_that_comes_late_is_found_and_what_never_comes_is_let_be() {
    let docker = tempfile::tempdir().unwrap();
    let pace = Pace { pauses: [Duration::from_millis(5), Duration::from_millis(10), Duration::from_secs(20)], ..FAST };
    let runtimes = Runtimes::start_at(pace, [Some(docker.path().join("data")), None]).unwrap();
    let late = container(ID, Some("docker"));
    assert_eq!(runtimes.describe(&late, &node()), Answer::Unknown);
    soon(|| runtimes.shared.lock().entries[ID].tries > 0);
    put_docker(&docker.path().join("data"), ID, &config(ID, "late", "a"));
    soon(|| runtimes.generation() > 0);
    assert_eq!(described(&runtimes, &late).name, "late");

    let pace = Pace { pauses: [Duration::from_millis(1); 3], ..FAST };
    let runtimes = Runtimes::start_at(pace, [Some(docker.path().join("none")), None]).unwrap();
    assert_eq!(runtimes.describe(&late, &node()), Answer::Unknown);
    soon(|| runtimes.shared.lock().entries[ID].due.is_none());
    assert_eq!(runtimes.shared.lock().entries[ID].tries, 4);
    assert_eq!(runtimes.describe(&late, &node()), Answer::Unknown);
    assert!(runtimes.shared.lock().entries[ID].due.is_none(), "it is remembered");
    assert_eq!((runtimes.generation(), troubles(&runtimes)), (0, Vec::new()), "absent is normal");
}

#[test]
fn a_container_that_is_renamed_is_found_out_and_one_that_is_removed_keeps_its_name() {
    let docker = tempfile::tempdir().unwrap();
    put_docker(docker.path(), ID, &config(ID, "old", "a"));
    let pace = Pace { old: Duration::from_millis(5), ..FAST };
    let runtimes = Runtimes::start_at(pace, [Some(docker.path().into()), None]).unwrap();
    let workload = container(ID, Some("docker"));
    assert_eq!(described(&runtimes, &workload).name, "old");
    for _ in 0..3 {
        let looked = runtimes.shared.lock().entries[ID].looked;
        soon(|| described(&runtimes, &workload).name == "old" && runtimes.shared.lock().entries[ID].looked > looked);
    }
    assert_eq!(runtimes.generation(), 1, "the same answer again is nothing new");
    put_docker(docker.path(), ID, &config(ID, "new", "a"));
    soon(|| described(&runtimes, &workload).name == "new");
    std::fs::remove_dir_all(docker.path().join("containers")).unwrap();
    soon(|| {
        assert_eq!(described(&runtimes, &workload).name, "new");
        runtimes.shared.lock().entries[ID].tries > 0
    });
    assert_eq!(runtimes.generation(), 2);
}

#[test]
fn what_is_wrong_with_a_file_is_said_until_one_is_good() {
    let (docker, podman) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtimes = Runtimes::start_at(FAST, [Some(docker.path().into()), Some(podman.path().into())]).unwrap();
    put_docker(docker.path(), ID, &config(OTHER, "web", "a"));
    let overlay = podman.path().join("overlay-containers");
    put(&overlay.join("containers.json"), &" ".repeat((16 << 20) + 1));
    put(&podman.path().join("vfs-containers/containers.json"), &json!([entry(OTHER, "db", "a")]).to_string());
    assert_eq!(runtimes.describe(&container(ID, Some("docker")), &node()), Answer::Unknown);
    assert_eq!(described(&runtimes, &container(OTHER, Some("podman"))).name, "db", "one bad list costs no other");
    soon(|| troubles(&runtimes).len() == 2);
    let path = docker.path().join("containers").join(ID).join("config.v2.json");
    let expected = [
        (0, format!("{}: not what docker writes there", path.display())),
        (1, format!("{}: larger than 16 MiB", overlay.join("containers.json").display())),
    ];
    assert_eq!(troubles(&runtimes), expected);
    put_docker(docker.path(), OTHER, &config(OTHER, "good", "a"));
    assert_eq!(described(&runtimes, &container(OTHER, None)).name, "db", "that is already known");
    soon(|| runtimes.shared.lock().entries[ID].tries == 3);
    let third = ID.replace('2', "3");
    put_docker(docker.path(), &third, &config(&third, "good", "a"));
    assert_eq!(described(&runtimes, &container(&third, None)).name, "good");
    assert_eq!(troubles(&runtimes).len(), 1);
    put_docker(docker.path(), &OTHER.replace('9', "8"), &" ".repeat((1 << 20) + 1));
    assert_eq!(runtimes.describe(&container(&OTHER.replace('9', "8"), Some("docker")), &node()), Answer::Unknown);
    soon(|| troubles(&runtimes).first().is_some_and(|(_, what)| what.ends_with("larger than 1 MiB")));
}

#[test]
fn what_may_not_be_read_is_said_with_advice() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    put_docker(directory.path(), ID, &config(ID, "web", "a"));
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o0)).unwrap();
    let root = directory.path().to_owned();
    let round = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            // Of this thread only, and for good.
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        look(&[Some(root.clone()), Some(root)], vec![(ID.into(), [true, true])])
    });
    let round = round.join().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let said = |place: &str| {
        let place = directory.path().join(place);
        let advice = "containers keep their id; run as root, or grant CAP_DAC_READ_SEARCH";
        Some(format!("{}: permission denied: {advice}", place.display()))
    };
    assert_eq!(round.looked, [true, true]);
    assert_eq!(round.troubles, [said("containers"), said("overlay-containers")]);
    assert_eq!(round.found, [(ID.into(), None)]);
}

#[test]
fn many_are_bounded_and_nobody_waits() {
    let docker = tempfile::tempdir().unwrap();
    let runtimes = Runtimes::start_at(FAST, [Some(docker.path().into()), None]).unwrap();
    let id = |number: usize| format!("{number:064x}");
    let name = |number: usize| runtimes.describe(&container(&id(number), Some("docker")), &node());
    for number in 0..ENTRIES_MAX + 100 {
        assert_eq!(name(number), Answer::Unknown);
    }
    assert_eq!(runtimes.shared.lock().entries.len(), ENTRIES_MAX);
    let now = clock::now().boot;
    runtimes.shared.lock().tidy(now + FAST.old, FAST.old);
    assert!(runtimes.shared.lock().entries.is_empty(), "nobody asked for them lately");
    assert_eq!(name(7), Answer::Unknown);
    runtimes.shared.lock().tidy(now + FAST.old, FAST.old);
    assert_eq!(runtimes.shared.lock().entries.len(), 1, "there is room");
}

#[test]
fn a_list_is_read_once_a_round() {
    let podman = tempfile::tempdir().unwrap();
    let list = json!([entry(ID, "web", "a"), entry(OTHER, "db", "a")]).to_string();
    put(&podman.path().join("btrfs-containers/containers.json"), &list);
    let pace = Pace { round: Duration::from_millis(200), ..FAST };
    let runtimes = Runtimes::start_at(pace, [None, Some(podman.path().into())]).unwrap();
    let began = clock::now().boot;
    assert_eq!(described(&runtimes, &container(ID, Some("podman"))).name, "web");
    assert_eq!(described(&runtimes, &container(OTHER, Some("podman"))).name, "db");
    assert!(clock::now().boot >= began + pace.round, "the second waits for the next round");
}

#[test]
fn it_ends_when_it_is_dropped_and_does_not_begin_without_a_place_to_look_at() {
    let directory = tempfile::tempdir().unwrap();
    let runtimes = Runtimes::start_at(PACE, [Some(directory.path().into()), None]).unwrap();
    runtimes.wait(Duration::from_secs(3600));
    let shared: Weak<Shared> = Arc::downgrade(&runtimes.shared);
    drop(runtimes);
    soon(|| shared.upgrade().is_none());
    let none = config::Containers { docker: None, podman: None };
    assert!(Runtimes::start(&none).is_err_and(|why| why == "containers.docker and containers.podman are empty"));
}
