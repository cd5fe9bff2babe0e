//! Names that others give: when the agent asks for them, how long it waits, and what stays.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::pedantic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::Config;
use wattribute::enrich::{Answer, Enricher};
use wattribute::export::Workload;
use wattribute::host::Host;
use wattribute::host::memory::Memory;
use wattribute::semconv::attr;
use wattribute::workload::{Identity, Names};

const POD: &str = "2c9f8a79-5391-454b-88cb-86190881cb96";
const TOP: &str = "sys/fs/cgroup/kubepods";

/// What an enricher knows, and how often it was asked.
#[derive(Default)]
struct Known {
    answers: Vec<(String, Answer)>,
    generation: u64,
    asked: usize,
}

struct Oracle(Arc<Mutex<Known>>);

impl Enricher for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn generation(&self) -> u64 {
        self.0.lock().unwrap().generation
    }

    fn describe(&self, workload: &Identity, _: &Identity) -> Answer {
        let mut known = self.0.lock().unwrap();
        known.asked += 1;
        let id = workload.id.to_string();
        known.answers.iter().find(|(other, _)| *other == id).map_or(Answer::Unknown, |(_, answer)| answer.clone())
    }

    fn troubles(&self, _: &mut dyn FnMut(usize, Arc<str>)) {}

    fn wait(&self, _: Duration) -> bool {
        true
    }
}

struct Node {
    agent: Agent,
    known: Arc<Mutex<Known>>,
    seconds: u64,
}

impl Node {
    /// A node with a pod of one container, and one container outside of any pod.
    fn new() -> Self {
        let mut memory = Memory::default();
        for (path, text) in [
            ("proc/stat", "cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\nbtime 1700000000\n".to_owned()),
            ("sys/class/powercap/intel-rapl:0/name", "package-0\n".into()),
            ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n".into()),
            ("sys/class/powercap/intel-rapl:0/energy_uj", "0\n".into()),
            ("sys/fs/cgroup/cgroup.controllers", "cpu\n".into()),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 0\n".into()),
            (&format!("{TOP}/cpu.stat"), "usage_usec 0\n".into()),
            (&format!("{TOP}/pod{POD}/cpu.stat"), "usage_usec 0\n".into()),
            (&format!("{TOP}/pod{POD}/{}/cpu.stat", id('a')), "usage_usec 0\n".into()),
            (&format!("sys/fs/cgroup/docker-{}.scope/cpu.stat", id('b')), "usage_usec 0\n".into()),
        ] {
            memory.set_file(path, text.as_bytes()).unwrap();
        }
        let known = Arc::new(Mutex::new(Known::default()));
        let mut agent = Agent::new(Host::memory(memory), Config::default(), at(0));
        agent.add_enricher(Box::new(Oracle(Arc::clone(&known))));
        Self { agent, known, seconds: 0 }
    }

    fn say(&self, id: &str, answer: Answer) {
        let mut known = self.known.lock().unwrap();
        known.answers.retain(|(other, _)| other != id);
        known.answers.push((id.into(), answer));
        known.generation += 1;
    }

    fn step(&mut self) {
        // Where nothing is used, nobody looks who is there.
        let usage = format!("usage_usec {}\n", self.seconds * 1000);
        self.agent.host().with_memory(|memory| {
            for path in ["sys/fs/cgroup", TOP, &format!("{TOP}/pod{POD}")] {
                memory.set_file(&format!("{path}/cpu.stat"), usage.as_bytes()).unwrap();
            }
        });
        self.agent.step(at(self.seconds));
        self.seconds += 1;
    }

    fn workload(&self, id: &str) -> Option<Arc<Workload>> {
        let snapshot = self.agent.snapshot();
        let mut all = snapshot.workloads.iter().flatten();
        all.find(|workload| workload.identity.id.to_string() == id).cloned()
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut self.known.lock().unwrap().asked)
    }
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn at(seconds: u64) -> Timestamp {
    let wall = Duration::from_secs(1_700_000_000 + seconds);
    Timestamp { boot: Duration::from_secs(1000 + seconds), asleep: Duration::ZERO, wall }
}

fn named(name: &str) -> Arc<Names> {
    let attributes = vec![(attr::K8S_CONTAINER_NAME.into(), name.to_owned()), (attr::K8S_POD_UID.into(), "api".into())];
    Arc::new(Names { name: format!("shop/web/{name}"), attributes, ..Names::default() })
}

fn attribute<'a>(workload: &'a Workload, key: &str) -> Option<&'a str> {
    workload.identity.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

#[test]
fn a_newcomer_is_asked_for_once_and_again_when_more_is_known() {
    let mut node = Node::new();
    let container = format!("container:{}", id('a'));
    node.step();
    node.step();
    assert!(node.asked() >= 4, "the node, the pod, both containers");
    node.step();
    assert_eq!(node.asked(), 0, "nothing new");
    node.say(&container, Answer::Known(named("app")));
    node.step();
    let known = node.workload(&container).unwrap();
    assert_eq!(known.identity.name, "shop/web/app");
    assert_eq!(attribute(&known, "k8s.container.name"), Some("app"));
    assert_eq!(attribute(&known, "k8s.pod.uid"), Some("api"), "replaces what the path says");
    assert_eq!(attribute(&known, "container.id"), Some(&*id('a')), "beside what it says otherwise");
    // What is known stays, when the pod is deleted and forgotten while it runs.
    node.say(&container, Answer::Unknown);
    node.step();
    assert_eq!(attribute(&node.workload(&container).unwrap(), "k8s.container.name"), Some("app"));
    node.say(&container, Answer::Known(named("other")));
    node.step();
    assert_eq!(node.workload(&container).unwrap().identity.name, "shop/web/other");
}

#[test]
fn names_are_waited_for_inside_of_pods_and_not_for_ever() {
    let mut node = Node::new();
    let (inside, outside) = (format!("container:{}", id('a')), format!("container:{}", id('b')));
    let part = Arc::new(Names { attributes: vec![(attr::K8S_POD_NAME.into(), "web".into())], ..Names::default() });
    for id in [&inside, &outside, &format!("pod:{POD}")] {
        node.say(id, Answer::Soon(Some(Arc::clone(&part))));
    }
    node.step();
    node.step();
    let waiting = node.workload(&inside).unwrap();
    assert!(waiting.awaited);
    assert_eq!(attribute(&waiting, "k8s.pod.name"), Some("web"), "what there is, is given");
    assert!(!node.workload(&outside).unwrap().awaited && !node.workload(&format!("pod:{POD}")).unwrap().awaited);
    for _ in 0..8 {
        node.step();
        assert!(node.workload(&inside).unwrap().awaited);
    }
    node.step();
    assert!(!node.workload(&inside).unwrap().awaited, "10 s are over");
    node.step();
    node.asked();
    node.step();
    assert_eq!(node.asked(), 0);
}

#[test]
fn a_container_that_ends_before_its_names_came_is_not_over_yet() {
    let mut node = Node::new();
    let mut reader = node.agent.subscribe();
    let container = format!("container:{}", id('a'));
    node.say(&container, Answer::Soon(None));
    node.step();
    node.step();
    let path = format!("{TOP}/pod{POD}/{}", id('a'));
    node.agent.host().with_memory(|memory| {
        memory.remove(&path).unwrap();
    });
    for _ in 0..3 {
        node.step();
        let _ = reader.take();
        let waiting = node.workload(&container).unwrap();
        assert!(waiting.awaited && waiting.ended.is_none());
    }
    node.say(&container, Answer::Known(named("app")));
    node.step();
    let over = node.workload(&container).unwrap();
    assert_eq!((over.ended.is_some(), over.identity.name.as_str()), (true, "shop/web/app"));
    let _ = reader.take();
    node.step();
    assert!(node.workload(&container).is_none(), "seen by all");
}

/// A guest without meters, and an agent for it.
fn guest() -> Agent {
    let mut memory = Memory::default();
    memory.set_file("proc/stat", b"cpu 0 0 0 0 0 0 0 0\ncpu0 0\ncpu1 0\n").unwrap();
    let cpuinfo =
        b"processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nstepping : 4\nflags : hypervisor\n";
    memory.set_file("proc/cpuinfo", cpuinfo).unwrap();
    Agent::new(Host::memory(memory), Config::default(), at(0))
}

/// Where the estimator stands in, the label of the node says on what kind of host it runs.
#[test]
fn the_instance_type_of_the_node_reaches_the_estimator() {
    let why = |agent: &Agent| agent.snapshot().zones[0].zone.why.clone();
    let attributes = vec![(attr::HOST_TYPE.into(), "m5.large".to_owned())];
    let names = Arc::new(Names { attributes, ..Names::default() });
    let answers = vec![("node".into(), Answer::Known(names))];
    let known = Arc::new(Mutex::new(Known::default()));
    let mut agent = guest();
    agent.add_enricher(Box::new(Oracle(Arc::clone(&known))));
    agent.step(at(0));
    assert!(why(&agent).contains("2 threads of a host"), "{}", why(&agent));
    *known.lock().unwrap() = Known { answers, generation: 1, asked: 0 };
    // It is told after the meters were read, and shows at the tick after.
    agent.step(at(1));
    agent.step(at(2));
    assert!(why(&agent).contains("2 of 96 threads"), "{}", why(&agent));
    assert!(why(&agent).contains("instance type m5.large (the node's label)"), "{}", why(&agent));

    // What is known before the first tick counts from there.
    let mut agent = guest();
    agent.add_enricher(Box::new(Oracle(known)));
    agent.step(at(0));
    assert!(why(&agent).contains("2 of 96 threads"), "{}", why(&agent));
}
