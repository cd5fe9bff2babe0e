//! Our own telemetry: the SDK's metrics arrive at the same receiver, as the node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wattribute::config::{Compression, Otlp as Settings, ProcessExport, Protocol, Secret};
use wattribute::export::otlp::Otlp;
use wattribute::telemetry::{Stats, Telemetry};

use crate::arithmetic::{node, processes};
use crate::receiver::{Receiver, grpc, http};
use crate::sender::settings;

#[tokio::test]
async fn self_metrics_arrive_over_either_protocol() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let receiver = Receiver::script([]);
            let (address, _stop) = match protocol {
                Protocol::Grpc => grpc(&receiver, None, None).await,
                Protocol::HttpProtobuf => http(&receiver, None).await,
            };
            let headers = [("api-key".to_owned(), Secret("k".into()))].into();
            let settings = Settings { headers, compression, ..settings(protocol, address) };
            let stats = Arc::new(Stats::default());
            stats.tick_nanos.store(2_500_000, Ordering::Relaxed);
            stats.dropped.store(7, Ordering::Relaxed);
            stats.set_refused(1, "rapl:package-0", [0, 3, 0, 0, 0, 0, 0]);
            let otlp = Otlp::new(&settings, &processes(ProcessExport::Off, 0), &node(), Arc::clone(&stats)).unwrap();
            let attributes = node().own(&settings);
            let exporter = otlp.own_exporter().unwrap();
            let telemetry = Telemetry::start(exporter, Duration::from_millis(20), &attributes, &stats);
            let found = receiver.taken(1).await;
            assert_eq!(found[0].headers["api-key"], "k");
            let resource = found[0].request.resource_metrics[0].resource.clone().unwrap();
            let service = resource.attributes.iter().find(|pair| pair.key == "service.name").unwrap();
            assert!(format!("{service:?}").contains("wattribute"));
            let metrics = &found[0].request.resource_metrics[0].scope_metrics[0].metrics;
            let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
            let wanted = ["readings.refused", "points", "tick.duration", "exports.failed"];
            for name in wanted.map(|name| format!("wattribute.agent.{name}")) {
                assert!(names.contains(&name.as_str()), "{name}: {names:?}");
            }
            let text = format!("{metrics:?}");
            assert!(
                text.contains("AsInt(7)") && text.contains("AsInt(3)") && text.contains("AsDouble(0.0025)"),
                "{text}"
            );
            assert!(text.contains("\"gap\"") && !text.contains("\"reset\""), "{text}");
            telemetry.stop(Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test]
async fn without_a_receiver_stopping_takes_no_longer_than_allowed() {
    let settings = settings(Protocol::Grpc, "127.0.0.1:1".parse().unwrap());
    let stats = Arc::new(Stats::default());
    let otlp = Otlp::new(&settings, &processes(ProcessExport::Off, 0), &node(), Arc::clone(&stats)).unwrap();
    let telemetry = Telemetry::start(otlp.own_exporter().unwrap(), Duration::from_secs(60), &[], &stats);
    tokio::time::timeout(Duration::from_secs(30), telemetry.stop(Duration::from_secs(1))).await.unwrap();
}
