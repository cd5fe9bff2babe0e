//! The export rules: what is sent, what is done about each answer, and that nothing is lost.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wattribute::config::{Compression, Protocol, Secret, Temporality};
use wattribute::export::otlp::{Error, NodeResource, Otlp};
use wattribute::telemetry::Level;

use crate::arithmetic::processes;
use crate::ledger::{Ledger, points};
use crate::receiver::{Answer, Receiver, Wait, grpc, http};
use crate::sender::{Sender, settings};
use crate::world::{World, nanos, package};

const CONTAINER: &str = "wattribute.container.energy";

fn world() -> (World, usize) {
    let mut world = World::new(vec![package("rapl:package-0")]);
    let container = world.container("c", 0);
    world.spend(container, 0, 10);
    (world, container)
}

fn received(receiver: &Receiver, wanted: &str) -> u64 {
    let mut ledger = Ledger { no_processes: true, ..Ledger::default() };
    for received in receiver.received.lock().unwrap().iter().filter(|received| received.taken) {
        ledger.take(&received.request);
    }
    ledger.sum(|metric, _, _| metric == wanted)
}

#[tokio::test]
async fn grpc_carries_headers_user_agent_and_either_compression() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let receiver = Receiver::script([]);
        let (address, _stop) = grpc(&receiver, None, None).await;
        let headers = BTreeMap::from([("api-key".to_owned(), Secret("s3cret".into()))]);
        let sender =
            Sender::start(&wattribute::config::Otlp { headers, compression, ..settings(Protocol::Grpc, address) });
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        let found = receiver.wait(1).await;
        assert_eq!(points(&found[0].request).iter().filter(|p| p.metric == CONTAINER).count(), 1);
        assert_eq!(found[0].headers["api-key"], "s3cret");
        let agent = found[0].headers["user-agent"].to_str().unwrap();
        assert!(agent.starts_with(concat!("wattribute/", env!("CARGO_PKG_VERSION"))), "{agent}");
        let encoding = found[0].headers.get("grpc-encoding").map(|value| value.to_str().unwrap());
        let wanted = match compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        };
        assert_eq!(encoding, wanted);
        sender.counted(|stats| &stats.delivered, points(&found[0].request).len() as u64).await;
        assert_eq!(sender.lines(), Vec::<String>::new(), "an answer that is compressed is understood");
        let stats = sender.stop().await;
        assert_eq!(stats.succeeded_at.load(Ordering::Relaxed), nanos(115));
        assert_eq!(receiver.received.lock().unwrap().len(), 1, "nothing new, nothing sent");
    }
}

#[tokio::test]
async fn http_posts_protobuf_to_the_right_path() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for exact in [false, true] {
            let receiver = Receiver::script([]);
            let (address, _stop) = http(&receiver, None).await;
            let headers = BTreeMap::from([("authorization".to_owned(), Secret("Api-Token x".into()))]);
            let base = settings(Protocol::HttpProtobuf, address);
            let endpoint = if exact { format!("http://{address}/otlp/m") } else { format!("http://{address}/base/") };
            let sender = Sender::start(&wattribute::config::Otlp {
                endpoint,
                endpoint_is_exact: exact,
                headers,
                compression,
                ..base
            });
            let (mut world, _) = world();
            sender.publish(world.tick(15));
            let found = receiver.wait(1).await;
            assert_eq!(found[0].path, if exact { "/otlp/m" } else { "/base/v1/metrics" });
            assert_eq!(found[0].headers["content-type"], "application/x-protobuf");
            assert_eq!(found[0].headers["authorization"], "Api-Token x");
            assert_eq!(found[0].headers["user-agent"], concat!("wattribute/", env!("CARGO_PKG_VERSION")));
            sender.counted(|stats| &stats.delivered, points(&found[0].request).len() as u64).await;
            sender.stop().await;
        }
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_told_with_advice() {
    let try_settings = |settings: &wattribute::config::Otlp| {
        let processes = processes(wattribute::config::ProcessExport::Off, 0);
        Otlp::new(settings, &processes, &NodeResource::default(), std::sync::Arc::default())
            .err()
            .map(|e| e.to_string())
    };
    let with = |endpoint: &str| wattribute::config::Otlp { endpoint: endpoint.into(), ..Default::default() };
    for bad in ["", "http://", "ftp://host:1", "http://ho st:4317"] {
        let error = try_settings(&with(bad)).unwrap();
        assert!(error.contains("http://localhost:4317"), "{bad}: {error}");
    }
    assert_eq!(try_settings(&with("collector:4317")), None, "as gRPC users write it");
    let headers = BTreeMap::from([("api-key".to_owned(), Secret("s3cret\n".to_owned() + "\u{1}"))]);
    let error = try_settings(&wattribute::config::Otlp { headers, ..Default::default() }).unwrap();
    assert!(error.contains("api-key") && !error.contains("s3cret"), "{error}");
    let mut secure = with("https://localhost:4317");
    secure.tls.ca_file = Some("/nowhere/ca.pem".into());
    let error = try_settings(&secure).unwrap();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
    secure.tls.ca_file = Some("Cargo.toml".into());
    let error = try_settings(&secure).unwrap();
    assert!(error.contains("no certificate in PEM format"), "{error}");
    let _: fn(&Error) -> String = |error| error.to_string();
}

#[tokio::test]
async fn retryable_grpc_codes_are_retried_and_others_dropped_and_counted() {
    for code in [1, 4, 10, 11, 14, 15] {
        let receiver = Receiver::script([Answer::Fail(code, None)]);
        let (address, _stop) = grpc(&receiver, None, None).await;
        let sender = Sender::start(&settings(Protocol::Grpc, address));
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        let found = receiver.taken(1).await;
        sender.said("is back").await;
        assert_eq!(found.len(), 1, "code {code}");
        let lines = sender.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with(&format!("cannot deliver to http://{address}, keeps measuring and retries")));
        assert_eq!(sender.stop().await.failed.load(Ordering::Relaxed), 1);
    }
    for code in [2, 3, 5, 6, 7, 9, 12, 13, 16] {
        let receiver = Receiver::script([Answer::Fail(code, None)]);
        let (address, _stop) = grpc(&receiver, None, None).await;
        let sender = Sender::start(&settings(Protocol::Grpc, address));
        let (mut world, container) = world();
        sender.publish(world.tick(15));
        let found = receiver.wait(1).await;
        sender.counted(|stats| &stats.dropped, points(&found[0].request).len() as u64).await;
        sender.said("refuses the metrics").await;
        world.spend(container, 0, 5);
        sender.publish(world.tick(15));
        receiver.taken(1).await;
        sender.said("takes the metrics again").await;
        sender.stop().await;
        assert_eq!(receiver.received.lock().unwrap().len(), 2, "code {code}: not the same again");
        assert_eq!(received(&receiver, CONTAINER), 15, "the next total has it all");
    }
}

#[tokio::test]
async fn retryable_http_statuses_are_retried_and_others_dropped_and_counted() {
    for status in [429, 502, 503, 504] {
        let receiver = Receiver::script([Answer::Fail(status, None)]);
        let (address, _stop) = http(&receiver, None).await;
        let sender = Sender::start(&settings(Protocol::HttpProtobuf, address));
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        receiver.taken(1).await;
        let line = sender.said("cannot deliver").await;
        assert!(line.contains(&format!("HTTP {status} no")), "{line}");
        assert_eq!(sender.stop().await.dropped.load(Ordering::Relaxed), 0);
    }
    for status in [301, 400, 401, 403, 404, 405, 500, 501] {
        let receiver = Receiver::script([Answer::Fail(status, None)]);
        let (address, _stop) = http(&receiver, None).await;
        let sender = Sender::start(&settings(Protocol::HttpProtobuf, address));
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        sender.said("refuses the metrics").await;
        sender.publish(world.tick(15));
        receiver.taken(1).await;
        sender.stop().await;
        assert_eq!(receiver.received.lock().unwrap().len(), 2, "{status}");
    }
}

/// The receiver's own delay is waited for, and so would be a longer one: only a lower bound is looked at.
#[tokio::test]
async fn a_delay_that_the_receiver_asks_for_is_honoured() {
    let ask = Duration::from_millis(300);
    let cases = [
        (Protocol::Grpc, Answer::Fail(14, Some(Wait::Info(ask))), ask),
        (Protocol::Grpc, Answer::Fail(8, Some(Wait::Info(ask))), ask),
        (Protocol::HttpProtobuf, Answer::Fail(503, Some(Wait::Info(ask))), ask),
        (Protocol::HttpProtobuf, Answer::Fail(429, Some(Wait::Header("1"))), Duration::from_secs(1)),
    ];
    for (protocol, answer, least) in cases {
        let receiver = Receiver::script([answer.clone()]);
        let (address, _stop) = match protocol {
            Protocol::Grpc => grpc(&receiver, None, None).await,
            Protocol::HttpProtobuf => http(&receiver, None).await,
        };
        let sender = Sender::start(&settings(protocol, address));
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        receiver.taken(1).await;
        let found = receiver.received.lock().unwrap().clone();
        assert_eq!(found.len(), 2, "{answer:?}");
        assert!(found[1].at - found[0].at >= least, "{answer:?}: {:?}", found[1].at - found[0].at);
        sender.stop().await;
    }
}

#[tokio::test]
async fn partial_success_is_counted_and_said_and_never_retried() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let script = [Answer::Partial(2, "too old"), Answer::Partial(2, "too old"), Answer::Partial(0, "deprecated")];
        let receiver = Receiver::script(script);
        let (address, _stop) = match protocol {
            Protocol::Grpc => grpc(&receiver, None, None).await,
            Protocol::HttpProtobuf => http(&receiver, None).await,
        };
        let sender = Sender::start(&settings(protocol, address));
        let (mut world, _) = world();
        for n in 1..=4 {
            sender.push(world.tick(15)).await;
            receiver.wait(n).await;
        }
        sender.said("deprecated").await;
        let stats = sender.stop().await;
        assert_eq!(receiver.received.lock().unwrap().len(), 4, "one request a push");
        assert_eq!(stats.rejected.load(Ordering::Relaxed), 4);
        assert_eq!(stats.dropped.load(Ordering::Relaxed), 0);
        assert_eq!(stats.failed.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn partial_success_is_said_once_per_message() {
    let script = [Answer::Partial(2, "too old"), Answer::Partial(2, "too old"), Answer::Partial(0, "deprecated")];
    let receiver = Receiver::script(script);
    let (address, _stop) = grpc(&receiver, None, None).await;
    let sender = Sender::start(&settings(Protocol::Grpc, address));
    let (mut world, _) = world();
    for n in 1..=3 {
        sender.push(world.tick(15)).await;
        receiver.wait(n).await;
    }
    sender.said("deprecated").await;
    let lines = sender.log.lock().unwrap().clone();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|(level, _)| *level == Level::Warn));
    assert!(lines[0].1.ends_with("rejected 2 data points: too old") && lines[1].1.contains("warning: deprecated"));
}

#[tokio::test]
async fn what_is_too_large_for_a_receiver_is_halved_at_most_four_times() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let receiver = Receiver::script([Answer::AtMost(200_000)]);
        let (address, _stop) = match protocol {
            Protocol::Grpc => grpc(&receiver, None, None).await,
            Protocol::HttpProtobuf => http(&receiver, None).await,
        };
        let sender = Sender::start(&settings(protocol, address));
        let mut world = World::new(vec![package("rapl:package-0")]);
        for n in 0..600 {
            let row = world.container(&format!("container-{n}"), 0);
            world.spend(row, 0, 1);
        }
        sender.publish(world.tick(15));
        receiver.taken(3).await;
        while received(&receiver, CONTAINER) < 600 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let stats = sender.stop().await;
        assert_eq!(stats.dropped.load(Ordering::Relaxed), 0);

        let receiver = Receiver::script([Answer::AtMost(1)]);
        let (address, _stop) = match protocol {
            Protocol::Grpc => grpc(&receiver, None, None).await,
            Protocol::HttpProtobuf => http(&receiver, None).await,
        };
        let sender = Sender::start(&settings(protocol, address));
        sender.publish(world.tick(15));
        let line = sender.said("refuses the metrics").await;
        assert!(line.contains("data points dropped"), "{line}");
        let all = points(&receiver.received.lock().unwrap()[0].request).len() as u64;
        sender.counted(|stats| &stats.dropped, all).await;
        let sizes: Vec<usize> = receiver.received.lock().unwrap().iter().map(|received| received.size).collect();
        assert!(sizes.len() <= 31, "at most 1 + 2 + 4 + 8 + 16 requests: {sizes:?}");
        let halved = sizes.iter().filter(|size| **size <= 64 << 10).count();
        assert!(halved > 0 && sizes.len() < 2 * halved + 1, "what is small is not halved: {sizes:?}");
        sender.stop().await;
    }
}

#[tokio::test]
async fn a_request_is_cut_below_what_the_collector_takes() {
    let receiver = Receiver::script([]);
    let (address, _stop) = grpc(&receiver, None, None).await;
    let sender = Sender::start(&settings(Protocol::Grpc, address));
    let mut world = World::new(vec![package("rapl:package-0"), package("rapl:package-1")]);
    for n in 0..4000 {
        let row = world.container(&format!("container-{n:064}"), 0);
        world.spend(row, 0, 1);
    }
    sender.publish(world.tick(15));
    let found = receiver.taken(2).await;
    while received(&receiver, CONTAINER) < 4000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(found.iter().all(|received| received.size <= 3_500_000), "the receiver takes 4 MiB");
    assert_eq!(sender.lines(), Vec::<String>::new());
    sender.stop().await;
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_in_time() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let receiver = Receiver::script([Answer::Hang]);
        let (address, _stop) = match protocol {
            Protocol::Grpc => grpc(&receiver, None, None).await,
            Protocol::HttpProtobuf => http(&receiver, None).await,
        };
        let timeout = Duration::from_millis(500);
        let sender = Sender::start(&wattribute::config::Otlp { timeout, ..settings(protocol, address) });
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        let line = sender.said("cannot reach").await;
        assert!(line.contains("no answer within 0.5 s"), "{line}");
        receiver.taken(1).await;
        sender.stop().await;
    }
}

/// Down at the start, up, down again, up again: one line each time, and every microjoule arrives, with either
/// temporality, of the living and of those who died meanwhile.
#[tokio::test]
async fn an_outage_costs_resolution_only() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let receiver = Receiver::script([]);
        let (address, stop) = grpc(&receiver, None, None).await;
        drop(stop);
        let sender = Sender::start(&wattribute::config::Otlp { temporality, ..settings(Protocol::Grpc, address) });
        let (mut world, container) = world();
        sender.push(world.tick(15)).await;
        let line = sender.said("cannot reach").await;
        assert!(line.starts_with(&format!("cannot reach http://{address}, keeps measuring and retries: ")), "{line}");
        assert!(line.contains("refused"), "{line}");
        let mut spent = 10;
        for outage in 0..2 {
            for n in 0..5 {
                let short = world.container(&format!("short-{outage}-{n}"), 0);
                world.spend(short, 0, 100);
                world.spend(container, 0, 1);
                world.end(short);
                spent += 101;
                sender.push(world.tick(15)).await;
                world.forget();
            }
            let (_, stop) = grpc(&receiver, Some(address), None).await;
            while received(&receiver, CONTAINER) < spent {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sender.said("is back after").await;
            world.spend(container, 0, 7);
            spent += 7;
            sender.push(world.tick(15)).await;
            while received(&receiver, CONTAINER) < spent {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(stop);
            sender.push(world.tick(15)).await;
            while sender.lines().len() < 3 + 2 * outage {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(received(&receiver, CONTAINER), spent, "{temporality:?}");
        assert_eq!(received(&receiver, "hw.energy"), spent, "{temporality:?}");
        let lines = sender.lines();
        assert_eq!(lines.len(), 5, "each change once: {lines:#?}");
        assert_eq!(sender.stop().await.ended_dropped.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_an_outage_like_any_other() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let base = settings(protocol, "127.0.0.1:1".parse().unwrap());
        let endpoint = "http://user:secret@collector.invalid:4317".to_owned();
        let sender = Sender::start(&wattribute::config::Otlp { endpoint, ..base });
        let (mut world, _) = world();
        sender.publish(world.tick(15));
        let line = sender.said("cannot reach http://collector.invalid:4317").await;
        assert!(!line.contains("secret"), "{line}");
        sender.counted_at_least(|stats| &stats.failed, 3).await;
        assert_eq!(sender.lines().len(), 1, "{:?}", sender.lines());
    }
}

#[tokio::test]
async fn the_last_push_has_the_newest_snapshot_even_if_one_is_under_way() {
    let receiver = Receiver::script([Answer::Fail(14, None), Answer::Take]);
    let (address, _stop) = grpc(&receiver, None, None).await;
    let interval = Duration::from_secs(3600);
    let sender = Sender::start(&wattribute::config::Otlp { interval, ..settings(Protocol::Grpc, address) });
    let (mut world, container) = world();
    sender.publish(world.tick(15));
    world.spend(container, 0, 5);
    sender.publish(world.tick(15));
    let stats = sender.stop().await;
    assert_eq!(received(&receiver, CONTAINER), 15, "before the first interval is over, and retried");
    assert_eq!(stats.failed.load(Ordering::Relaxed), 1);

    let receiver = Receiver::script([Answer::Hang]);
    let (address, _stop) = grpc(&receiver, None, None).await;
    let sender = Sender::start(&settings(Protocol::Grpc, address));
    let (mut world, container) = self::world();
    sender.publish(world.tick(15));
    receiver.wait(1).await;
    world.spend(container, 0, 5);
    sender.publish(world.tick(15));
    sender.stop().await;
    assert_eq!(received(&receiver, CONTAINER), 15, "the request under way is given up for the last one");
}

#[tokio::test]
async fn without_a_receiver_the_last_push_ends_in_time() {
    let receiver = Receiver::script([]);
    let (address, stop) = grpc(&receiver, None, None).await;
    drop(stop);
    let sender = Sender::start(&settings(Protocol::Grpc, address));
    let (mut world, _) = world();
    sender.push(world.tick(15)).await;
    let log = std::sync::Arc::clone(&sender.log);
    sender.said("cannot reach").await;
    sender.stop().await;
    let last = log.lock().unwrap().last().unwrap().1.clone();
    assert!(last.contains("did not take the last"), "{last}");
}

#[tokio::test]
async fn the_first_push_comes_after_a_full_interval() {
    let receiver = Receiver::script([]);
    let (address, _stop) = grpc(&receiver, None, None).await;
    let interval = Duration::from_millis(15_400);
    let sender = Sender::start(&wattribute::config::Otlp { interval, ..settings(Protocol::Grpc, address) });
    let (mut world, _) = world();
    let begin = tokio::time::Instant::now();
    sender.publish(world.tick(15)); // 15 s of the interval have passed
    let found = receiver.taken(1).await;
    assert!(found[0].at - begin >= Duration::from_millis(400), "{:?}", found[0].at - begin);
    sender.stop().await;
}
