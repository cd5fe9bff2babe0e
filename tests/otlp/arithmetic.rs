//! Series arithmetic: what receivers can add up, whatever happens on the node and on the way.

use proptest::prelude::*;
use wattribute::activity::counters::Measure;
use wattribute::config::{self, ProcessExport, Temporality};
use wattribute::export::otlp::{Encoder, NodeResource};
use wattribute::meter::{Domain, Quality, Role};
use wattribute::semconv::attr;
use wattribute::unit::Microwatts;

use crate::ledger::{Ledger, Point, decode, points};
use crate::world::{World, nanos, package, zone};

pub fn processes(export: ProcessExport, top: usize) -> config::Processes {
    config::Processes { export, top }
}

fn encoder(temporality: Temporality, processes: &config::Processes) -> Encoder {
    let settings = config::Otlp { temporality, ..config::Otlp::default() };
    Encoder::new(&settings, processes, &node())
}

pub fn node() -> NodeResource {
    NodeResource {
        attributes: vec![
            (attr::HOST_ID.into(), "machine".into()),
            (attr::HOST_NAME.into(), "node-a".into()),
            (attr::HOST_ARCH.into(), "amd64".into()),
        ],
    }
}

fn push(encoder: &mut Encoder, world: &mut World) -> Vec<Point> {
    let found = points(&decode(encoder.encode(&world.tick(15))));
    encoder.acknowledge();
    world.forget();
    found
}

fn one<'a>(points: &'a [Point], metric: &str, choose: impl Fn(&Point) -> bool) -> &'a Point {
    let found: Vec<_> = points.iter().filter(|point| point.metric == metric && choose(point)).collect();
    assert_eq!(found.len(), 1, "{metric}: {found:#?}");
    found[0]
}

fn none(points: &[Point], metric: &str, choose: impl Fn(&Point) -> bool) {
    assert!(!points.iter().any(|point| point.metric == metric && choose(point)), "{metric}: {points:#?}");
}

fn micro(points: &[Point], metric: &str, choose: impl Fn(&Point) -> bool) -> u64 {
    one(points, metric, choose).micro()
}

const PROCESS: &str = "wattribute.process.energy";
const CONTAINER: &str = "wattribute.container.energy";

#[test]
fn the_metrics_of_a_node_are_those_of_the_table() {
    let mut dram = zone("rapl:package-0/dram", Domain::Dram, Role::Contained);
    dram.parent = Some("rapl:package-0".into());
    let mut world = World::new(vec![package("rapl:package-0"), dram, zone("dcmi:host", Domain::Host, Role::Reference)]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let pod = world.pod("0a1b", 0);
    let container = world.container("c0ffee", pod);
    world.spend(container, 0, 45_000_000);
    world.rest(0, 30_000_000, 0);
    world.rest(1, 1_000_000, 0);
    let found = push(&mut encoder, &mut world);
    let part = one(&found, "hw.energy", |_| true);
    assert_eq!(part.micro(), 75_000_000);
    assert_eq!((part.get("hw.id"), part.get("hw.type"), part.get("hw.name")), ("rapl:package-0", "cpu", "package-0"));
    assert_eq!((part.start, part.time), (nanos(100), nanos(115)));
    assert_eq!(part.of("service.name"), "wattribute");
    assert_eq!(part.of("service.instance.id"), "node-a");
    assert_eq!(part.of("host.arch"), "amd64");
    assert!((one(&found, "hw.power", |_| true).value.unwrap() - 5.0).abs() < 1e-9, "75 J in 15 s");
    assert_eq!(one(&found, "hw.host.energy", |_| true).get("hw.id"), "dcmi:host");
    let meter = one(&found, "wattribute.meter.energy", |p| p.get("hw.id").ends_with("dram"));
    assert_eq!(meter.get("hw.parent"), "rapl:package-0");
    assert_eq!(meter.get(attr::METER_ROLE), "contained");
    assert_eq!(meter.get(attr::METER_QUALITY), "measured");
    assert_eq!(meter.get(attr::METER_SOURCE), "rapl");
    let booked = one(&found, CONTAINER, |_| true);
    assert_eq!(booked.micro(), 45_000_000);
    assert_eq!(booked.get(attr::PARENT_KIND), "pod");
    assert_eq!(booked.get(attr::ATTRIBUTION_METHOD), "cpu_time");
    assert_eq!((booked.of("container.id"), booked.of("k8s.pod.uid")), ("c0ffee", "0a1b"));
    assert_eq!((booked.of("host.name"), booked.of("service.name")), ("node-a", ""));
    assert_eq!(booked.get("container.id"), "c0ffee", "point copy");
    let watts = one(&found, "wattribute.container.power", |_| true).value.unwrap();
    assert!((watts * 15.0 - 45.0).abs() < 1e-9, "W × interval = ΔJ");
    assert_eq!(one(&found, "wattribute.pod.energy", |_| true).get(attr::PARENT_KIND), "node");
    none(&found, PROCESS, |_| true);
    let idle = micro(&found, "wattribute.node.energy", |p| p.get(attr::ENERGY_STATE) == "idle");
    assert_eq!(idle, 30_000_000);
    for point in &found {
        let row = wattribute::semconv::METRICS.iter().find(|metric| metric.name == point.metric);
        let row = row.unwrap_or_else(|| panic!("{} is not in the table", point.metric));
        for key in point.attributes.keys() {
            assert!(row.attributes.contains(&key.as_str()) || key == "container.id" || key == "k8s.pod.uid", "{key}");
        }
    }
}

#[test]
fn what_a_user_says_of_the_node_wins_and_stays_off_workloads() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let said = [("deployment.environment.name", "prod"), (attr::HOST_NAME, "mine"), (attr::SERVICE_INSTANCE_ID, "i-1")];
    let resource = said.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let settings = config::Otlp { resource, service_name: "energy".into(), ..config::Otlp::default() };
    let mut encoder = Encoder::new(&settings, &processes(ProcessExport::Off, 0), &node());
    world.container("c", 0);
    world.rest(0, 1, 0);
    let found = push(&mut encoder, &mut world);
    let own = one(&found, "hw.energy", |_| true);
    assert_eq!((own.of("service.name"), own.of("service.instance.id")), ("energy", "i-1"));
    assert_eq!((own.of("host.name"), own.of("deployment.environment.name")), ("mine", "prod"));
    assert_eq!((own.of("host.id"), own.of("service.version")), ("machine", env!("CARGO_PKG_VERSION")));
    let container = one(&found, CONTAINER, |_| true);
    assert_eq!((container.of("host.name"), container.of("deployment.environment.name")), ("node-a", ""));
    assert!(container.resource.keys().all(|key| !key.starts_with("service.")));
}

#[test]
fn a_machine_metered_as_a_whole_only_is_no_part() {
    let mut world = World::new(vec![zone("dcmi:host", Domain::Host, Role::Primary)]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    world.rest(0, 7, 1);
    let found = push(&mut encoder, &mut world);
    assert_eq!(micro(&found, "hw.host.energy", |_| true), 8);
    none(&found, "hw.energy", |_| true);
    assert_eq!(micro(&found, "wattribute.unattributed.energy", |_| true), 1);
}

#[test]
fn a_slice_counts_what_its_workloads_do_not_and_they_belong_to_what_is_around_it() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::All, 0));
    let slice = world.slice("/system.slice", 0);
    let service = world.service("/system.slice/nginx.service", slice);
    let loose = world.process(7, "loose", slice);
    world.spend(service, 0, 10);
    world.spend(loose, 0, 3);
    let found = push(&mut encoder, &mut world);
    assert_eq!(micro(&found, "wattribute.slice.energy", |_| true), 3);
    let unit = one(&found, "wattribute.service.energy", |_| true);
    assert_eq!((unit.micro(), unit.get(attr::PARENT_KIND), unit.get("systemd.unit")), (10, "node", "nginx.service"));
    let process = one(&found, PROCESS, |p| p.get("process.pid") == "7");
    assert_eq!((process.get(attr::PARENT_KIND), process.of(attr::CGROUP)), ("slice", "/system.slice"));
    let mut ledger = Ledger::default();
    ledger.take(&decode(encoder.encode(&world.tick(15))));
    ledger.check();
}

#[test]
fn two_workloads_never_have_the_same_point_attributes() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::All, 0));
    for n in 0..2 {
        let pod = world.pod(&format!("pod-{n}"), 0);
        let container = world.container(&format!("container-{n}"), pod);
        let service = world.service(&format!("/user-{n}.slice/same.service"), 0);
        let slice = world.slice(&format!("/slice-{n}"), 0);
        let vm = world.vm(&format!("vm-{n}"), 0);
        for (m, row) in [container, service, slice, vm, pod, 0].into_iter().enumerate() {
            let process = world.process(10 * n + u32::try_from(m).unwrap(), "same", row);
            world.spend(process, 0, 5);
            world.spend_unseen(row, 0, 1);
        }
    }
    let found = push(&mut encoder, &mut world);
    let mut seen = std::collections::BTreeSet::new();
    for point in &found {
        assert!(seen.insert((point.metric.clone(), point.attributes.clone())), "{point:#?}");
    }
    let vm = one(&found, "wattribute.vm.energy", |p| p.of("host.id") == "vm-0");
    assert_eq!((vm.of("host.name"), vm.of(attr::NODE_NAME)), ("guest", "node-a"));
    let qemu = one(&found, PROCESS, |p| p.get("process.pid") == "3");
    assert_eq!(qemu.of("host.id"), "machine", "the process of a VM runs on the host");
}

#[test]
fn an_ended_workload_is_final_once_and_then_over() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let (container, other) = (world.container("old", 0), world.container("other", 0));
    world.spend(container, 0, 5);
    push(&mut encoder, &mut world);
    world.spend(container, 0, 7);
    world.spend(other, 0, 1);
    world.end(container);
    let old = |p: &Point| p.of("container.id") == "old";
    let found = push(&mut encoder, &mut world);
    assert_eq!(micro(&found, CONTAINER, old), 12, "the final total");
    let found = push(&mut encoder, &mut world);
    assert!(one(&found, CONTAINER, old).value.is_none(), "no recorded value");
    assert!(one(&found, "wattribute.container.power", old).value.is_none());
    assert!(found.iter().rposition(|p| p.value.is_some()) < found.iter().position(|p| p.value.is_none()));
    let found = push(&mut encoder, &mut world);
    none(&found, CONTAINER, old);
}

#[test]
fn what_a_zone_draws_at_rest_is_a_series_for_each_source() {
    use wattribute::attribute::learner::{Estimate, Source};
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let power = "wattribute.idle.power";
    world.rest(0, 30_000_000, 0);
    none(&push(&mut encoder, &mut world), power, |_| true);
    for (source, watts) in [(Source::Prior, 20.0), (Source::Learned, 31.5), (Source::Learned, 32.0)] {
        world.rest(0, 30_000_000, 0);
        world.snapshot.zones[0].at_rest = Some(Estimate { watts, error: watts / 10.0, source });
        let found = push(&mut encoder, &mut world);
        let of = |p: &Point| p.get(attr::IDLE_SOURCE) == source.as_str();
        let point = one(&found, power, of);
        assert!(point.gauge && point.value == Some(watts), "{point:?}");
        assert_eq!((point.get("hw.id"), point.get("hw.type")), ("rapl:package-0", "cpu"));
        assert_eq!(one(&found, "wattribute.idle.error", of).value, Some(watts / 10.0));
    }
    let found = push(&mut encoder, &mut world);
    assert_eq!(found.iter().filter(|p| p.metric == power).count(), 1, "the prior's series is over: {found:#?}");
}

#[test]
fn every_series_says_by_what_its_energy_was_split() {
    let dram = zone("rapl:package-0/dram", Domain::Dram, Role::Primary);
    let mut world = World::new(vec![package("rapl:package-0"), dram]);
    world.snapshot.zones[0].measure = Measure::Cycles;
    world.snapshot.zones[1].measure = Measure::Misses;
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::All, 10));
    let pod = world.pod("0a1b", 0);
    let container = world.container("c0ffee", pod);
    let process = world.process(7, "app", container);
    for zone in 0..2 {
        world.spend(process, zone, 3_000_000);
    }
    let found = push(&mut encoder, &mut world);
    let mut seen = 0;
    for point in found.iter().filter(|point| point.attributes.contains_key(attr::ATTRIBUTION_METHOD)) {
        let method = if point.get("hw.id").ends_with("dram") { "llc_misses" } else { "cycles" };
        assert_eq!(point.get(attr::ATTRIBUTION_METHOD), method, "{point:?}");
        seen += usize::from(!point.gauge);
    }
    assert_eq!(seen, 6, "pod, container and process, of both zones: {found:#?}");
}

#[test]
fn idle_that_is_shared_is_a_view_with_its_own_state() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    world.snapshot.idle_share = Some("requests");
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let pod = world.pod("0a1b", 0);
    world.spend(pod, 0, 45_000_000);
    world.share_idle(pod, 0, 20_000_000);
    world.rest(0, 10_000_000, 0);
    let found = push(&mut encoder, &mut world);
    let state = |state: &'static str| move |p: &Point| p.get(attr::ENERGY_STATE) == state;
    assert_eq!(micro(&found, "wattribute.pod.energy", state("active")), 45_000_000);
    let shown = one(&found, "wattribute.pod.energy", state("idle"));
    assert_eq!((shown.micro(), shown.get(attr::ATTRIBUTION_METHOD)), (20_000_000, "requests"));
    let watts = one(&found, "wattribute.pod.power", state("idle")).value.unwrap();
    assert!((watts * 15.0 - 20.0).abs() < 1e-9);
    assert_eq!(micro(&found, "wattribute.node.energy", state("idle")), 30_000_000);
    assert_eq!(micro(&found, "wattribute.node.energy", state("idle_unshared")), 10_000_000);
}

#[test]
fn a_service_that_is_restarted_is_never_said_to_be_over() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let mut ledger = Ledger { no_processes: true, ..Ledger::default() };
    let mut service = world.service("/nginx.service", 0);
    for step in 0..9 {
        if step % 3 == 2 {
            service = world.service("/nginx.service", 0);
        }
        world.spend(service, 0, 5);
        if step % 3 == 1 {
            world.end(service);
        }
        let request = decode(encoder.encode(&world.tick(15)));
        world.forget();
        encoder.acknowledge();
        ledger.take(&request);
        ledger.check();
        if step % 3 == 2 {
            let of = |p: &Point| p.get(attr::CGROUP) == "/nginx.service";
            let value = one(&points(&request), "wattribute.service.energy", of).value;
            assert!(value.is_some(), "the old one is not said to be over beside the new one");
        }
    }
    assert_eq!(ledger.sum(|metric, _, _| metric == "wattribute.service.energy"), 45);
}

#[test]
fn final_totals_wait_for_a_receiver_and_are_bounded() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    for n in 0..10_050 {
        let row = world.container(&format!("c{n}"), 0);
        world.spend(row, 0, 1);
        world.end(row);
        if n % 1000 == 999 || n == 10_049 {
            encoder.encode(&world.tick(15));
            world.forget();
        }
    }
    assert_eq!((encoder.ended_waiting(), encoder.ended_dropped()), (10_000, 50));
    let found = push(&mut encoder, &mut world);
    assert_eq!(found.iter().filter(|p| p.metric == CONTAINER && p.value.is_some()).count(), 10_000);
    push(&mut encoder, &mut world);
    assert_eq!(encoder.ended_waiting(), 0);
}

#[test]
fn starts_are_the_later_of_birth_and_baseline() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    world.container("first", 0);
    push(&mut encoder, &mut world);
    world.tick(3);
    let second = world.container("second", 0);
    world.spend(second, 0, 9);
    let found = push(&mut encoder, &mut world);
    assert_eq!(one(&found, CONTAINER, |p| p.of("container.id") == "first").start, nanos(100));
    assert_eq!(one(&found, CONTAINER, |p| p.of("container.id") == "second").start, nanos(118));
    assert!(found.iter().all(|point| point.time == nanos(133)), "one instant per push");
}

#[test]
fn increments_are_folded_until_they_are_delivered_and_keep_the_oldest_start() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Delta, &processes(ProcessExport::Off, 0));
    let container = world.container("c", 0);
    world.spend(container, 0, 10);
    let found = push(&mut encoder, &mut world);
    let first = one(&found, CONTAINER, |_| true);
    assert!(first.delta);
    assert_eq!((first.micro(), first.start, first.time), (10, nanos(100), nanos(115)));
    world.spend(container, 0, 4);
    encoder.encode(&world.tick(15)); // lost
    world.spend(container, 0, 2);
    let found = push(&mut encoder, &mut world);
    let folded = one(&found, CONTAINER, |_| true);
    assert_eq!((folded.micro(), folded.start, folded.time), (6, nanos(115), nanos(145)));
    world.spend(container, 0, 1);
    world.end(container);
    encoder.encode(&world.tick(15)); // lost
    world.forget();
    let found = push(&mut encoder, &mut world);
    let last = one(&found, CONTAINER, |_| true);
    assert_eq!((last.micro(), last.start, last.time), (1, nanos(145), nanos(160)), "final, though late");
}

#[test]
fn processes_are_named_from_their_promotion_and_keep_their_series() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Top, 1));
    let mut ledger = Ledger::default();
    let container = world.container("c", 0);
    let rows: Vec<usize> = (1..=4).map(|pid| world.process(pid, "p", container)).collect();
    let mut turn = |world: &mut World, energies: [u64; 4]| {
        for (row, energy) in rows.iter().zip(energies) {
            world.spend(*row, 0, energy);
        }
        world.spend_unseen(container, 0, 1);
        let request = decode(encoder.encode(&world.tick(15)));
        encoder.acknowledge();
        ledger.take(&request);
        ledger.check();
        points(&request)
    };
    let pid = |number: &'static str| move |p: &Point| p.get("process.pid") == number;
    let group = |name: &'static str| move |p: &Point| p.get(attr::PROCESS_GROUP) == name;

    let found = turn(&mut world, [100, 10, 10, 0]);
    let named = one(&found, PROCESS, pid("1"));
    assert_eq!((named.micro(), named.start), (0, nanos(115)), "counts from its promotion");
    assert_eq!(micro(&found, PROCESS, group("other")), 120, "what it used before stays in the group");
    assert_eq!(micro(&found, PROCESS, group("exited")), 1);
    let found = turn(&mut world, [50, 60, 10, 0]);
    assert_eq!(micro(&found, PROCESS, pid("1")), 50);
    assert_eq!(micro(&found, PROCESS, pid("2")), 0, "promoted");
    let found = turn(&mut world, [5, 60, 10, 0]);
    assert_eq!(micro(&found, PROCESS, pid("1")), 55, "once outside of the first two");
    let found = turn(&mut world, [5, 60, 10, 0]);
    assert_eq!(micro(&found, PROCESS, pid("1")), 60, "its final point");
    let found = turn(&mut world, [5, 60, 10, 0]);
    assert!(one(&found, PROCESS, pid("1")).value.is_none(), "over for now");
    let found = turn(&mut world, [500, 60, 10, 0]);
    assert_eq!(micro(&found, PROCESS, pid("1")), 60, "named again: the series goes on");
    let found = turn(&mut world, [7, 60, 10, 0]);
    let again = one(&found, PROCESS, pid("1"));
    assert_eq!((again.micro(), again.start), (67, nanos(115)));
    none(&found, PROCESS, pid("4"));
}

#[test]
fn without_names_points_have_no_copies() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let settings = config::Otlp { point_names: false, process_power: true, ..config::Otlp::default() };
    let mut encoder = Encoder::new(&settings, &processes(ProcessExport::All, 0), &node());
    let container = world.container("c", 0);
    let process = world.process(5, "p", container);
    world.spend(process, 0, 30_000_000);
    let found = push(&mut encoder, &mut world);
    assert_eq!(one(&found, CONTAINER, |_| true).get("container.id"), "");
    let power = one(&found, "wattribute.process.power", |_| true);
    assert_eq!((power.get("process.pid"), power.of("process.pid")), ("", "5"));
    assert_eq!(power.of("process.creation.time"), "2023-11-14T22:13:20.35Z");
    assert!((power.value.unwrap() - 2.0).abs() < 1e-9);
}

#[test]
fn another_role_or_quality_is_another_series() {
    let mut model = zone("model:cpu", Domain::Package, Role::Primary);
    model.quality = Quality::Estimated;
    let mut world = World::new(vec![model]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let mut ledger = Ledger { no_processes: true, ..Ledger::default() };
    let container = world.container("c", 0);
    world.spend(container, 0, 10);
    world.rest(0, 5, 1);
    let mut turn = |world: &mut World| {
        let request = decode(encoder.encode(&world.tick(15)));
        encoder.acknowledge();
        ledger.take(&request);
        ledger.check();
        points(&request)
    };
    turn(&mut world);
    world.spend(container, 0, 3);
    world.change_zone(0, |zone| zone.role = Role::Reference);
    world.add_zone(package("rapl:package-0"));
    world.spend(container, 1, 20);
    world.snapshot.zones[0].total.measured.0 += 100; // measured on, booked no more
    let found = turn(&mut world);
    let part = |id: &'static str| move |p: &Point| p.get("hw.id") == id;
    assert_eq!(
        micro(&found, "hw.energy", part("model:cpu")),
        19,
        "what was booked before the change, as a final point"
    );
    assert_eq!(micro(&found, "hw.energy", part("rapl:package-0")), 20);
    assert_eq!(one(&found, "hw.energy", part("rapl:package-0")).start, nanos(115));
    let role = |role: &'static str| move |p: &Point| p.get("hw.id") == "model:cpu" && p.get(attr::METER_ROLE) == role;
    assert_eq!(micro(&found, "wattribute.meter.energy", role("primary")), 19);
    assert_eq!(micro(&found, "wattribute.meter.energy", role("reference")), 100);
    assert_eq!(micro(&found, CONTAINER, part("model:cpu")), 13);
    let found = turn(&mut world);
    assert!(one(&found, "hw.energy", part("model:cpu")).value.is_none(), "over");
    none(&turn(&mut world), "hw.energy", part("model:cpu"));
}

#[test]
fn another_name_is_another_series_and_nothing_is_counted_twice() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let mut ledger = Ledger { no_processes: true, ..Ledger::default() };
    let container = world.container("c", 0);
    world.spend(container, 0, 10);
    ledger.take(&decode(encoder.encode(&world.tick(15))));
    encoder.acknowledge();
    world.spend(container, 0, 4);
    world.rename(container, |identity| identity.attributes.push((attr::K8S_POD_NAME.into(), "web-0".into())));
    let request = decode(encoder.encode(&world.tick(15)));
    let found = points(&request);
    let new = one(&found, CONTAINER, |p| p.of("k8s.pod.name") == "web-0");
    assert_eq!((new.micro(), new.start), (4, nanos(115)));
    ledger.take(&request);
    ledger.check();
    assert_eq!(ledger.sum(|metric, _, _| metric == CONTAINER), 14);
}

#[test]
fn a_series_waits_for_its_names_and_loses_nothing() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::All, 0));
    let mut ledger = Ledger::default();
    let pod = world.pod("u", 0);
    let container = world.container("c", pod);
    world.set_awaited(container, true);
    let process = world.process(7, "p", container);
    let mut turn = |world: &mut World, encoder: &mut Encoder| {
        let request = decode(encoder.encode(&world.tick(15)));
        encoder.acknowledge();
        ledger.take(&request);
        points(&request)
    };
    world.spend(process, 0, 10);
    let found = turn(&mut world, &mut encoder);
    none(&found, CONTAINER, |_| true);
    none(&found, PROCESS, |_| true);
    assert_eq!(micro(&found, "wattribute.pod.energy", |_| true), 10, "what is around it does not wait");
    world.spend(process, 0, 5);
    none(&turn(&mut world, &mut encoder), CONTAINER, |_| true);
    world.set_awaited(container, false);
    world.rename(container, |identity| identity.attributes.push((attr::K8S_CONTAINER_NAME.into(), "app".into())));
    let found = turn(&mut world, &mut encoder);
    let named = one(&found, CONTAINER, |_| true);
    assert_eq!((named.micro(), named.start, named.of("k8s.container.name")), (15, nanos(100), "app"));
    let other = one(&found, PROCESS, |p| p.get(attr::PROCESS_GROUP) == "other");
    assert_eq!((other.micro(), other.of("k8s.container.name")), (15, "app"), "what came before is the container's");
    let process = one(&found, PROCESS, |p| p.get("process.pid") == "7");
    assert_eq!((process.micro(), process.start, process.of("k8s.container.name")), (0, nanos(130), "app"));
    let late = world.container("d", pod);
    world.set_awaited(late, true);
    world.spend_unseen(late, 0, 3);
    none(&turn(&mut world, &mut encoder), CONTAINER, |p| p.of("container.id") == "d");
    world.spend_unseen(late, 0, 4);
    encoder.wait_no_more();
    assert_eq!(micro(&turn(&mut world, &mut encoder), CONTAINER, |p| p.of("container.id") == "d"), 7, "the last push");
    ledger.check();
}

#[test]
fn what_is_learned_of_the_node_is_on_every_resource() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let mut ledger = Ledger { no_processes: true, ..Ledger::default() };
    let container = world.container("c", 0);
    for (known, start) in [(false, 100), (true, 115)] {
        if known {
            let uids = [(attr::K8S_NODE_UID, "n"), (attr::K8S_CLUSTER_UID, "k")];
            world.rename(0, |node| node.attributes = uids.map(|(key, uid)| (key.into(), uid.into())).into());
        }
        world.spend(container, 0, 10);
        world.rest(0, 5, 1);
        let request = decode(encoder.encode(&world.tick(15)));
        encoder.acknowledge();
        ledger.take(&request);
        ledger.check();
        let found = points(&request);
        let uid = if known { "k" } else { "" };
        let now = |point: &Point| point.of("k8s.cluster.uid") == uid && point.value.is_some();
        let part = one(&found, "hw.energy", now);
        assert_eq!(
            (part.micro(), part.start, part.of("k8s.node.uid")),
            (16, nanos(start), if known { "n" } else { "" })
        );
        let container = one(&found, CONTAINER, now);
        assert_eq!((container.micro(), container.start, container.of("k8s.node.uid")), (10, nanos(start), ""));
    }
    assert_eq!(ledger.sum(|metric, _, _| metric == "hw.energy"), 32);
}

#[test]
fn a_process_that_moves_between_two_pushes_is_counted_once() {
    for export in [ProcessExport::All, ProcessExport::Top] {
        let mut world = World::new(vec![package("rapl:package-0")]);
        let mut encoder = encoder(Temporality::Cumulative, &processes(export, 10));
        let mut ledger = Ledger::default();
        let slice = world.slice("/machinery", 0);
        let shim = world.process(343, "containerd-shim", slice);
        for (before, after) in [(7, 0), (40_000, 3_000), (0, 5)] {
            world.spend(shim, 0, before);
            if after == 3_000 {
                world.move_to(shim, 0);
            }
            world.spend(shim, 0, after);
            ledger.take(&decode(encoder.encode(&world.tick(15))));
            encoder.acknowledge();
            ledger.check();
        }
    }
}

#[test]
fn a_step_back_of_the_wall_clock_never_makes_time_run_backwards() {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    let mut ledger = Ledger::default();
    let container = world.container("c", 0);
    for step in 0..40u64 {
        world.spend(container, 0, 1);
        if step == 3 {
            world.snapshot.at.wall -= std::time::Duration::from_secs(120);
        }
        ledger.take(&decode(encoder.encode(&world.tick(15))));
        encoder.acknowledge();
    }
    let found = points(&decode(encoder.encode(&world.tick(15))));
    assert_eq!(found[0].time, world.snapshot.at.unix_nanos(), "it has caught up");
}

#[test]
fn a_silent_or_slow_meter_says_no_power_that_it_did_not_measure() {
    let mut world = World::new(vec![package("rapl:package-0"), zone("dcmi:host", Domain::Host, Role::Reference)]);
    let mut encoder = encoder(Temporality::Cumulative, &processes(ProcessExport::Off, 0));
    world.rest(0, 15_000_000, 0);
    world.rest(1, 400_000_000, 0);
    world.tick(15);
    world.snapshot.zones[0].state = wattribute::meter::State::Denied;
    world.snapshot.zones[1].covers = std::time::Duration::from_secs(20);
    world.snapshot.zones[1].power = Microwatts(20_000_000);
    let mut at = world.snapshot.clone();
    let found = points(&decode(encoder.encode(&at)));
    assert!((one(&found, "hw.power", |_| true).value.unwrap() - 1.0).abs() < 1e-9);
    let slow = one(&found, "hw.host.power", |_| true).value.unwrap();
    assert!((slow - 20.0).abs() < 1e-9, "its own mean, not 400 J in 15 s");
    at.at.boot += std::time::Duration::from_secs(15);
    at.at.wall += std::time::Duration::from_secs(15);
    let found = points(&decode(encoder.encode(&at)));
    none(&found, "hw.power", |_| true);
    assert_eq!(micro(&found, "hw.energy", |_| true), 15_000_000, "the total stays");
}

#[derive(Debug, Clone)]
enum Op {
    Container(u8),
    Service,
    Pod,
    Slice,
    Process(u8),
    Spend(u8, u8, u32),
    Unseen(u8, u8, u32),
    Rest(u8, u32, u32),
    /// Idle energy that is shown with a workload, where any is.
    ShareIdle(u8, u8, u32),
    End(u8),
    Revive(u8),
    Move(u8, u8),
    Rename(u8),
    NameNode,
    /// A container is born whose names are on their way.
    Await(u8),
    /// They come, or nobody waits any longer.
    Come(u8, bool),
    Zone,
    /// Delivered, lost, or cut in small parts of which only some arrive.
    Push(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any::<u8>().prop_map(Op::Container),
        1 => Just(Op::Service),
        1 => Just(Op::Pod),
        1 => Just(Op::Slice),
        4 => any::<u8>().prop_map(Op::Process),
        12 => (any::<u8>(), any::<u8>(), any::<u32>()).prop_map(|(row, z, e)| Op::Spend(row, z, e)),
        4 => (any::<u8>(), any::<u8>(), any::<u32>()).prop_map(|(row, z, e)| Op::Unseen(row, z, e)),
        3 => (any::<u8>(), any::<u32>(), any::<u32>()).prop_map(|(z, i, u)| Op::Rest(z, i, u)),
        3 => (any::<u8>(), any::<u8>(), any::<u32>()).prop_map(|(row, z, e)| Op::ShareIdle(row, z, e)),
        2 => any::<u8>().prop_map(Op::End),
        1 => any::<u8>().prop_map(Op::Revive),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(row, to)| Op::Move(row, to)),
        1 => any::<u8>().prop_map(Op::Rename),
        1 => Just(Op::NameNode),
        2 => any::<u8>().prop_map(Op::Await),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(pick, named)| Op::Come(pick, named)),
        1 => Just(Op::Zone),
        6 => any::<u8>().prop_map(Op::Push),
    ]
}

struct Story {
    world: World,
    encoder: Encoder,
    ledger: Ledger,
    born: u32,
    renamed: u32,
}

impl Story {
    fn live(&self, pick: u8, want: impl Fn(&str) -> bool) -> Option<usize> {
        let fits = |(row, workload): (usize, &wattribute::export::Workload)| {
            (workload.ended.is_none() && want(workload.identity.id.kind().as_str())).then_some(row)
        };
        let rows: Vec<usize> = self.world.snapshot.rows().filter_map(fits).collect();
        (!rows.is_empty()).then(|| rows[usize::from(pick) % rows.len()])
    }

    fn act(&mut self, op: &Op) {
        self.born += 1;
        let born = self.born;
        let zones = self.world.snapshot.zones.len();
        match *op {
            Op::Container(pick) => {
                let parent = self.live(pick, |kind| kind == "pod" || kind == "node" || kind == "slice").unwrap();
                self.world.container(&format!("c{born}"), parent);
            }
            Op::Service => {
                let parent = self.live(born as u8, |kind| kind == "slice" || kind == "node").unwrap();
                self.world.service(&format!("/s{born}.service"), parent);
            }
            Op::Pod => drop(self.world.pod(&format!("pod{born}"), 0)),
            Op::Slice => drop(self.world.slice(&format!("/slice{born}"), 0)),
            Op::Process(pick) => {
                let parent = self.live(pick, |kind| kind != "process").unwrap();
                self.world.process(born, "p", parent);
            }
            Op::Spend(pick, z, energy) => {
                // inner nodes use energy through what is in them, or unseen
                let row = self.live(pick, |kind| kind == "process");
                row.into_iter().for_each(|row| self.world.spend(row, usize::from(z) % zones, u64::from(energy)));
            }
            Op::Unseen(pick, z, energy) => {
                let row = self.live(pick, |kind| kind != "process").unwrap();
                self.world.spend_unseen(row, usize::from(z) % zones, u64::from(energy));
            }
            Op::Rest(z, idle, unattributed) => {
                self.world.rest(usize::from(z) % zones, u64::from(idle), u64::from(unattributed));
            }
            Op::ShareIdle(pick, z, energy) if self.ledger.idle_is_shared => {
                let row = self.live(pick, |kind| !matches!(kind, "process" | "node" | "slice"));
                // only the outermost share
                if let Some(row) = row.filter(|row| self.world.is_outermost(*row)) {
                    self.world.share_idle(row, usize::from(z) % zones, u64::from(energy));
                }
            }
            Op::ShareIdle(..) => {}
            Op::End(pick) => {
                let row = self.live(pick, |kind| kind != "node");
                row.into_iter().for_each(|row| self.world.end(row));
            }
            Op::Revive(pick) => self.world.revive(usize::from(pick)),
            Op::Move(pick, to) => {
                if let Some(row) = self.live(pick, |kind| kind == "process") {
                    let parent = self.live(to, |kind| kind != "process").unwrap();
                    self.world.move_to(row, parent);
                }
            }
            Op::Rename(pick) => {
                self.renamed += 1;
                let name = format!("name-{}", self.renamed);
                if let Some(row) = self.live(pick, |kind| kind != "node") {
                    self.world.rename(row, |identity| {
                        identity.attributes.retain(|(key, _)| *key != attr::K8S_POD_NAME);
                        identity.attributes.push((attr::K8S_POD_NAME.into(), name));
                    });
                }
            }
            Op::NameNode => {
                self.renamed += 1;
                let uid = format!("uid-{}", self.renamed);
                self.world.rename(0, |node| node.attributes = vec![(attr::K8S_CLUSTER_UID.into(), uid)]);
            }
            Op::Await(pick) => {
                if let Some(parent) = self.live(pick, |kind| kind == "pod") {
                    let row = self.world.container(&format!("c{born}"), parent);
                    self.world.set_awaited(row, true);
                }
            }
            Op::Come(pick, named) => {
                let Some(row) = self.live(pick, |kind| kind == "container") else { return };
                if self.world.snapshot.workloads[row].as_ref().unwrap().awaited {
                    self.world.set_awaited(row, false);
                    let name = (attr::K8S_CONTAINER_NAME.into(), format!("app{born}"));
                    self.world.rename(row, |identity| identity.attributes.extend(named.then_some(name)));
                }
            }
            Op::Zone if zones < 4 => self.world.add_zone(package(&format!("rapl:package-{zones}"))),
            Op::Zone => {}
            Op::Push(how) => self.push(how),
        }
    }

    fn push(&mut self, how: u8) {
        self.encoder.encode(&self.world.tick(15));
        self.ledger.some_wait = self.world.snapshot.rows().any(|(_, workload)| workload.awaited);
        // now and then another reader has not seen it yet
        if how % 5 < 3 {
            self.world.forget();
        }
        match how % 4 {
            0 | 1 => {
                let parts = self.encoder.parts(1 << (6 + how % 16));
                for part in parts {
                    self.ledger.take(&decode(self.encoder.part(&part)));
                    self.encoder.acknowledge_part(part);
                }
                self.ledger.check();
            }
            2 => {}
            _ => {
                let parts = self.encoder.parts(3000);
                let arrived = parts.len() / 2;
                for part in parts.into_iter().take(arrived) {
                    self.ledger.take(&decode(self.encoder.part(&part)));
                    self.encoder.acknowledge_part(part);
                }
            }
        }
    }
}

fn tell(ops: &[Op], temporality: Temporality, processes: &config::Processes) {
    let world = World::new(vec![package("rapl:package-0"), zone("rapl:package-0/dram", Domain::Dram, Role::Primary)]);
    let encoder = encoder(temporality, processes);
    let no_processes = processes.export == ProcessExport::Off;
    // With an even number of steps, idle is shared.
    let idle_is_shared = ops.len().is_multiple_of(2);
    let mut world = world;
    world.snapshot.idle_share = idle_is_shared.then_some("requests");
    let ledger = Ledger { no_processes, idle_is_shared, ..Ledger::default() };
    let mut story = Story { world, encoder, ledger, born: 0, renamed: 0 };
    ops.iter().for_each(|op| story.act(op));
    story.encoder.wait_no_more();
    story.push(0);
    story.ledger.some_wait = false;
    story.ledger.check();
    let measured: u64 = story.world.snapshot.zones.iter().map(|book| book.total.measured.0).sum();
    assert_eq!(story.ledger.sum(|metric, _, _| metric == "hw.energy"), measured);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn totals_balance_at_the_receiver(ops in proptest::collection::vec(op(), 1..120), top in 0usize..6) {
        tell(&ops, Temporality::Cumulative, &processes(ProcessExport::Top, top));
    }

    #[test]
    fn increments_balance_at_the_receiver(ops in proptest::collection::vec(op(), 1..120), top in 0usize..6) {
        tell(&ops, Temporality::Delta, &processes(ProcessExport::Top, top));
    }

    #[test]
    fn both_balance_with_all_processes_and_with_none(ops in proptest::collection::vec(op(), 1..120), delta: bool, all: bool) {
        let form = if delta { Temporality::Delta } else { Temporality::Cumulative };
        let export = if all { ProcessExport::All } else { ProcessExport::Off };
        tell(&ops, form, &processes(export, 0));
    }
}
