//! Names from an API server over real sockets on loopback: what is asked, and what becomes of refusals, outages, a
//! history that is gone, an expired token and a server that never answers.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::pedantic)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wattribute::config;
use wattribute::enrich::kubernetes::{Kubernetes, Machine};
use wattribute::enrich::{Answer, Enricher};
use wattribute::semconv::attr;
use wattribute::workload::{Identity, Kind, Names, WorkloadId};

/// What the server says to a path, instead of what it knows.
#[derive(Clone)]
enum Mood {
    Refuse(u16),
    Silent,
    /// An empty answer.
    End,
}

#[derive(Default)]
struct State {
    pods: Vec<Value>,
    watchers: Vec<std::sync::mpsc::Sender<Option<Value>>>,
    moods: Vec<(&'static str, Mood)>,
    token: String,
    asked: Vec<String>,
    version: u64,
}

/// An API server with one node `n`, the namespace kube-system and pods.
struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn listen(listener: TcpListener) -> Self {
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { token: "good".into(), version: 10, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, state, stop }
    }

    fn set_moods(&self, moods: &[(&'static str, Mood)]) {
        self.state.lock().unwrap().moods = moods.to_vec();
    }

    fn send(&self, kind: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        state.watchers.retain(|watcher| watcher.send(Some(json!({"type": kind, "object": object}))).is_ok());
    }

    fn add(&self, name: &str, container: Option<char>) {
        let pod = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            let pod = pod(name, container, state.version);
            state.pods.retain(|known| known["metadata"]["uid"] != pod["metadata"]["uid"]);
            state.pods.push(pod.clone());
            pod
        };
        self.send("ADDED", pod);
    }

    fn remove(&self, name: &str, said: bool) {
        let (gone, left) = {
            let mut state = self.state.lock().unwrap();
            let is = |pod: &Value| pod["metadata"]["name"] == name;
            let gone = state.pods.iter().find(|pod| is(pod)).cloned();
            state.pods.retain(|pod| !is(pod));
            (gone.unwrap(), state.pods.len())
        };
        let _ = left;
        if said {
            self.send("DELETED", gone);
        }
    }

    fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.state.lock().unwrap().watchers.clear();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pod(name: &str, container: Option<char>, version: u64) -> Value {
    let statuses: Vec<Value> = container
        .into_iter()
        .map(|digit| json!({"name": "app", "containerID": format!("containerd://{}", id(digit)), "state": {"running": {}}}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        "spec": {"nodeName": "n", "containers": [{"name": "app", "image": "web:1"}]},
        "status": {"containerStatuses": statuses}
    })
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut first = String::new();
        let mut token = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            if let Some(value) = line.to_lowercase().strip_prefix("authorization: bearer ") {
                token = value.trim().to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mood, refused) = {
            let mut state = state.lock().unwrap();
            state.asked.push(first.split(' ').take(2).collect::<Vec<_>>().join(" "));
            let mood = state
                .moods
                .iter()
                .find(|(part, _)| path.starts_with(part) || path.contains(&format!("{part}=")))
                .map(|(_, mood)| mood.clone());
            (mood, token != state.token)
        };
        let status = match mood {
            Some(Mood::Silent) => {
                std::thread::sleep(Duration::from_secs(60));
                return;
            }
            Some(Mood::End) => {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n");
                continue;
            }
            Some(Mood::Refuse(code)) => code,
            None if refused => 401,
            None => 200,
        };
        if status != 200 {
            let words = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status,
                               "reason": "Forbidden", "message": format!("{path} is forbidden")});
            answer(&mut stream, status, &words);
        } else if path.starts_with("/api/v1/nodes/") {
            answer(&mut stream, 200, &json!({"kind": "Node", "metadata": {"name": "n", "uid": "node-uid"}}));
        } else if path.starts_with("/api/v1/nodes") {
            let node = |name: &str, id: &str| json!({"metadata": {"name": name, "uid": "x"}, "status": {"nodeInfo": {"machineID": id}}});
            answer(&mut stream, 200, &json!({"kind": "NodeList", "items": [node("other", "b"), node("n", "a")]}));
        } else if path.starts_with("/api/v1/namespaces/") {
            answer(
                &mut stream,
                200,
                &json!({"kind": "Namespace", "metadata": {"name": "kube-system", "uid": "cluster-uid"}}),
            );
        } else if path.contains("watch=true") {
            watch(&mut stream, state);
            return;
        } else {
            let (pods, version) = {
                let state = state.lock().unwrap();
                (state.pods.clone(), state.version)
            };
            let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": pods});
            answer(&mut stream, 200, &list);
        }
    }
}

fn answer(stream: &mut TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}

fn watch(stream: &mut TcpStream, state: &Mutex<State>) {
    let (sender, events) = std::sync::mpsc::channel();
    state.lock().unwrap().watchers.push(sender);
    let _ =
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    while let Ok(Some(event)) = events.recv() {
        let line = format!("{event}\n");
        if stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).is_err() {
            return;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
}

/// A kubeconfig with its token in a file.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(port: u16, token: &str) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        files.set_token(token);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
            "users": [{"name": "u", "user": {"tokenFile": files.path("token")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        });
        std::fs::write(files.path("kubeconfig"), kubeconfig.to_string()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn set_token(&self, token: &str) {
        std::fs::write(self.path("token"), token).unwrap();
    }

    fn start(&self) -> Kubernetes {
        self.start_as(Some("n"), Machine::default())
    }

    fn start_as(&self, node: Option<&str>, machine: Machine) -> Kubernetes {
        let settings = config::Kubernetes {
            kubeconfig: Some(self.path("kubeconfig")),
            node_name: node.map(str::to_owned),
            ..config::Kubernetes::default()
        };
        Kubernetes::start(&settings, machine).unwrap()
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn node() -> Identity {
    Identity { id: WorkloadId::Node, name: String::new(), attributes: vec![] }
}

fn of_pod(kubernetes: &Kubernetes, name: &str) -> Answer {
    kubernetes.describe(&Identity::new(Kind::Pod, &format!("uid-{name}"), name), &node())
}

fn of_container(kubernetes: &Kubernetes, digit: char, pod: &str) -> Answer {
    let around = Identity::new(Kind::Pod, &format!("uid-{pod}"), pod);
    kubernetes.describe(&Identity::new(Kind::Container, &id(digit), "c"), &around)
}

fn known(answer: Answer) -> Option<Arc<Names>> {
    if let Answer::Known(names) = answer { Some(names) } else { None }
}

fn get(names: &Names, key: &str) -> Option<String> {
    names.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
}

fn troubles(kubernetes: &Kubernetes) -> Vec<String> {
    let mut said = Vec::new();
    kubernetes.troubles(&mut |_, what| said.push(what.to_string()));
    said
}

#[test]
fn one_list_and_one_watch_name_everything() {
    let server = Server::start();
    server.add("a", Some('1'));
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    kubernetes.wait(Duration::from_secs(10));
    assert_eq!(known(of_pod(&kubernetes, "a")).unwrap().name, "shop/a");
    let container = known(of_container(&kubernetes, '1', "a")).unwrap();
    assert_eq!((get(&container, attr::K8S_CONTAINER_NAME), &*container.name), (Some("app".into()), "shop/a/app"));
    let names = known(kubernetes.describe(&node(), &node())).unwrap();
    assert_eq!(get(&names, attr::K8S_NODE_UID).as_deref(), Some("node-uid"));
    assert_eq!(get(&names, attr::K8S_CLUSTER_UID).as_deref(), Some("cluster-uid"));
    assert_eq!(of_pod(&kubernetes, "b"), Answer::Unknown, "a pod is never waited for");

    let before = kubernetes.generation();
    until("the watch", || (!server.state.lock().unwrap().watchers.is_empty()).then_some(()));
    server.add("b", None);
    until("b", || known(of_pod(&kubernetes, "b")));
    assert!(kubernetes.generation() > before);
    let soon = of_container(&kubernetes, '2', "b");
    assert!(
        matches!(&soon, Answer::Soon(Some(names)) if get(names, attr::K8S_POD_NAME).as_deref() == Some("b")),
        "{soon:?}"
    );
    server.add("b", Some('2'));
    until("its container", || known(of_container(&kubernetes, '2', "b")));
    server.remove("b", true);
    until("its end", || known(of_container(&kubernetes, '9', "b")));
    assert!(known(of_container(&kubernetes, '2', "b")).is_some(), "it may still run");
    let asked = server.asked();
    assert_eq!(asked[1..3], ["GET /api/v1/nodes/n", "GET /api/v1/namespaces/kube-system"]);
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(
        [&asked[0], &asked[3]]
            .iter()
            .all(|line| line.starts_with("GET /api/v1/pods?") && line.contains("fieldSelector=spec.nodeName%3Dn"))
    );
    assert_eq!(asked.iter().filter(|line| line.contains("watch=true")).count(), 1);
    assert_eq!(troubles(&kubernetes), [""; 0]);
}

#[test]
fn a_refusal_is_said_with_advice_and_ends_by_itself() {
    let server = Server::start();
    server.add("a", Some('1'));
    server.set_moods(&[("/api/v1/pods", Mood::Refuse(403))]);
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    kubernetes.wait(Duration::from_secs(10));
    let said = troubles(&kubernetes);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("403") && said[0].contains("list and watch pods") && said[0].contains("uid"), "{said:?}");
    assert_eq!(of_container(&kubernetes, '1', "a"), Answer::Unknown, "nobody waits for names that cannot come");
    let names = known(kubernetes.describe(&node(), &node())).unwrap();
    assert_eq!(get(&names, attr::K8S_CLUSTER_UID).as_deref(), Some("cluster-uid"), "which were not refused");
    server.set_moods(&[]);
    until("names", || known(of_pod(&kubernetes, "a")));
    until("silence", || troubles(&kubernetes).is_empty().then_some(()));
}

#[test]
fn a_list_without_a_watch_is_said_once_and_not_asked_for_ever_faster() {
    let server = Server::start();
    server.add("a", Some('1'));
    server.set_moods(&[("watch", Mood::Refuse(403))]);
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    until("names", || known(of_pod(&kubernetes, "a")));
    until("trouble", || troubles(&kubernetes).pop());
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(troubles(&kubernetes).len(), 1, "it stands until a watch does");
        std::thread::sleep(Duration::from_millis(20));
    }
    let lists = server.asked().iter().filter(|line| line.contains("/pods?") && !line.contains("watch=")).count();
    assert!((2..=6).contains(&lists), "{lists}");
}

#[test]
fn a_watch_that_is_cut_at_once_is_a_failure() {
    let server = Server::start();
    server.add("a", Some('1'));
    server.set_moods(&[("watch", Mood::End)]);
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    until("names", || known(of_pod(&kubernetes, "a")));
    let said = until("trouble", || troubles(&kubernetes).pop());
    assert!(said.contains("a watch of pods is ended after"), "{said}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(server.asked().len() < 20, "{:?}", server.asked());
    server.set_moods(&[]);
    until("silence", || troubles(&kubernetes).is_empty().then_some(()));
}

#[test]
fn one_object_that_is_none_costs_nobody_else_a_name() {
    let server = Server::start();
    server.add("a", Some('1'));
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    until("the watch", || (!server.state.lock().unwrap().watchers.is_empty()).then_some(()));
    server.send("ADDED", json!({"metadata": {"name": 7}}));
    server.add("b", Some('2'));
    until("b", || known(of_container(&kubernetes, '2', "b")));
    assert_eq!(troubles(&kubernetes), [""; 0]);
}

#[test]
fn a_node_that_is_not_there_is_said_and_nobody_is_waited_for() {
    let server = Server::start();
    server.set_moods(&[("/api/v1/nodes", Mood::Refuse(404))]);
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    kubernetes.wait(Duration::from_secs(10));
    let said = troubles(&kubernetes);
    assert!(said.len() == 1 && said[0].contains("no pod can be named; set K8S_NODE_NAME"), "{said:?}");
    assert_eq!(of_container(&kubernetes, '1', "a"), Answer::Unknown);
    let odd = files.start_as(Some("a-b.c/../x?"), Machine::default());
    odd.wait(Duration::from_secs(10));
    assert!(server.asked().contains(&"GET /api/v1/nodes/a-b.c%2F..%2Fx%3F".to_owned()), "{:?}", server.asked());
}

#[test]
fn what_stands_in_a_kubeconfig_is_never_repeated() {
    let server = Server::start();
    let files = Files::new(server.port, "good");
    let plugin = |command: &str, args: &[&str]| {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", server.port)}}],
            "users": [{"name": "u", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": args}}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        })
        .to_string()
    };
    for (text, words) in [
        ("users:\n- user: {token: SECRET}\n  extra: [\n".to_owned(), "no kubeconfig: line"),
        ("users: [{name: u, user: {token: [SECRET]}}]\n".into(), "no kubeconfig: line"),
        (plugin("/bin/echo", &["{SECRET"]), "no ExecCredential"),
        (plugin("/bin/sh", &["-c", "echo SECRET >&2; exit 3"]), "command /bin/sh: it ended with exit status: 3"),
        (plugin("/no/such/command", &[]), "cannot be started"),
    ] {
        std::fs::write(files.path("kubeconfig"), &text).unwrap();
        let kubernetes = files.start();
        let said = until("trouble", || troubles(&kubernetes).pop());
        assert!(said.contains(words) && !said.contains("SECRET"), "{text}: {said}");
    }
}

#[test]
fn the_node_and_the_cluster_are_extras() {
    let server = Server::start();
    server.add("a", Some('1'));
    server.set_moods(&[("/api/v1/nodes", Mood::Refuse(403)), ("/api/v1/namespaces", Mood::Refuse(403))]);
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    kubernetes.wait(Duration::from_secs(10));
    assert!(known(of_pod(&kubernetes, "a")).is_some());
    let names = known(kubernetes.describe(&node(), &node())).unwrap();
    assert_eq!(names.attributes, [(attr::K8S_NODE_NAME.into(), "n".to_owned())]);
    let said = troubles(&kubernetes);
    assert!(said.len() == 2 && said[0].contains("k8s.node.uid") && said[1].contains("k8s.cluster.uid"), "{said:?}");
}

#[test]
fn a_history_that_is_gone_is_read_anew() {
    let server = Server::start();
    server.add("a", Some('1'));
    server.add("b", Some('2'));
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    until("the watch", || (!server.state.lock().unwrap().watchers.is_empty()).then_some(()));
    server.remove("a", false);
    server.send("ERROR", json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"}));
    server.add("c", Some('3'));
    until("c", || known(of_container(&kubernetes, '3', "c")));
    // Known to be deleted: nobody waits for names of its containers any more.
    until("the end of a", || known(of_container(&kubernetes, '9', "a")));
    assert!(known(of_container(&kubernetes, '1', "a")).is_some(), "its names are kept for what still runs");
    assert_eq!(troubles(&kubernetes), [""; 0], "which is not worth a word");
}

#[test]
fn a_new_token_is_read_when_the_old_one_is_refused() {
    let server = Server::start();
    server.add("a", None);
    let files = Files::new(server.port, "old");
    let kubernetes = files.start();
    kubernetes.wait(Duration::from_secs(10));
    assert!(
        troubles(&kubernetes).iter().any(|said| said.contains("401") && said.contains("token")),
        "{:?}",
        troubles(&kubernetes)
    );
    files.set_token("good");
    until("names", || known(of_pod(&kubernetes, "a")));
    until("silence", || troubles(&kubernetes).iter().all(|said| !said.contains("401 ")).then_some(()));
}

#[test]
fn an_outage_is_said_and_what_is_known_stays() {
    let server = Server::start();
    server.add("a", Some('1'));
    let (port, files) = (server.port, Files::new(server.port, "good"));
    let kubernetes = files.start();
    kubernetes.wait(Duration::from_secs(10));
    until("the watch", || (!server.state.lock().unwrap().watchers.is_empty()).then_some(()));
    drop(server);
    let said = until("trouble", || troubles(&kubernetes).pop());
    assert!(said.contains(&format!("http://127.0.0.1:{port}")), "{said}");
    assert!(known(of_container(&kubernetes, '1', "a")).is_some());
    assert_eq!(of_container(&kubernetes, '2', "b"), Answer::Unknown);
    let listener = until("the port", || TcpListener::bind(("127.0.0.1", port)).ok());
    let server = Server::listen(listener);
    server.add("b", Some('2'));
    until("b", || known(of_container(&kubernetes, '2', "b")));
    until("silence", || troubles(&kubernetes).is_empty().then_some(()));
}

#[test]
fn a_server_that_never_answers_holds_up_nobody() {
    let server = Server::start();
    server.set_moods(&[("/", Mood::Silent)]);
    let files = Files::new(server.port, "good");
    let kubernetes = files.start();
    let began = Instant::now();
    kubernetes.wait(Duration::from_millis(300));
    assert_eq!(of_pod(&kubernetes, "a"), Answer::Unknown);
    assert_eq!(of_container(&kubernetes, '1', "a"), Answer::Unknown);
    drop(kubernetes);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_node_is_found_by_its_name_or_its_machine_id() {
    let server = Server::start();
    server.add("a", None);
    let files = Files::new(server.port, "good");
    let machine = |name: &str, id: &str| Machine { name: Some(name.into()), id: Some(id.into()), is_veiled: false };
    for (name, refused) in [("N", false), ("elsewhere", true)] {
        server.set_moods(if refused { &[("/api/v1/nodes/elsewhere", Mood::Refuse(404))] } else { &[] });
        let kubernetes = files.start_as(None, machine(name, "a"));
        kubernetes.wait(Duration::from_secs(10));
        assert!(known(of_pod(&kubernetes, "a")).is_some());
        let names = known(kubernetes.describe(&node(), &node())).unwrap();
        assert_eq!(get(&names, attr::K8S_NODE_NAME).as_deref(), Some("n"));
    }
    let kubernetes = files.start_as(None, machine("elsewhere", "c"));
    kubernetes.wait(Duration::from_secs(10));
    let said = troubles(&kubernetes);
    assert!(said.len() == 1 && said[0].contains("K8S_NODE_NAME"), "{said:?}");
}

#[test]
fn without_a_cluster_there_is_a_reason() {
    let off = config::Kubernetes { mode: config::KubernetesMode::Off, ..config::Kubernetes::default() };
    assert_eq!(Kubernetes::start(&off, Machine::default()).err().as_deref(), Some("off"));
    let missing = config::Kubernetes { kubeconfig: Some("/no/such/file".into()), ..config::Kubernetes::default() };
    let kubernetes = Kubernetes::start(&missing, Machine::default()).unwrap();
    kubernetes.wait(Duration::from_secs(10));
    let said = troubles(&kubernetes);
    assert!(said.len() == 1 && said[0].contains("/no/such/file"), "{said:?}");
}
