//! The SDK's exporter for our own telemetry, over the same kind of connection as the energy: same endpoint, headers,
//! certificates and protocol. It tries once per interval: the next values replace those that were lost.
//!
//! gRPC is `opentelemetry-otlp`'s exporter over our channel. Its HTTP client would need a runtime on the SDK's thread,
//! so HTTP is ours: the SDK's data as messages of `opentelemetry-proto`, posted from the runtime we were made on.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use opentelemetry_otlp::{
    Compression as Packed, ExporterBuildError, MetricExporter, RetryPolicy, WithExportConfig, WithTonicConfig,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::Temporality as Form;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use prost::Message;
use tokio::runtime::Handle;
use tonic::metadata::MetadataMap;

use super::retry::Verdict;
use super::transport::{Error, Target};
use super::{grpc, http as plain};
use crate::config::{self, Compression, Protocol, Temporality};

/// Why there are no self-metrics.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The connection cannot be made.
    #[error(transparent)]
    Transport(#[from] Error),
    /// The SDK refuses the settings.
    #[error("self-metrics are off: {0}")]
    Sdk(#[from] ExporterBuildError),
}

/// An exporter for the SDK.
#[derive(Debug)]
pub struct OwnExporter {
    form: Form,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Grpc(Box<MetricExporter>),
    Http { client: Box<plain::Client>, runtime: Handle, limit: Duration },
}

impl OwnExporter {
    /// Within a tokio runtime, which must run for as long as the exporter is used.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn new(settings: &config::Otlp, target: &Target, headers: &HeaderMap) -> Result<Self, OwnError> {
        let form = match settings.temporality {
            Temporality::Cumulative => Form::Cumulative,
            Temporality::Delta => Form::Delta,
            Temporality::LowMemory => Form::LowMemory,
        };
        let way = match settings.protocol {
            Protocol::Grpc => Way::Grpc(Box::new(over_grpc(settings, target, headers, form)?)),
            Protocol::HttpProtobuf => {
                let client = Box::new(plain::Client::new(settings, target, headers)?);
                Way::Http { client, runtime: Handle::current(), limit: settings.timeout }
            }
        };
        Ok(Self { form, way })
    }
}

fn over_grpc(
    settings: &config::Otlp,
    target: &Target,
    headers: &HeaderMap,
    form: Form,
) -> Result<MetricExporter, OwnError> {
    let mut builder = MetricExporter::builder()
        .with_temporality(form)
        .with_tonic()
        .with_channel(grpc::channel(settings, target)?)
        .with_metadata(MetadataMap::from_headers(headers.clone()))
        .with_timeout(settings.timeout)
        .with_retry_policy(RetryPolicy::disabled());
    if settings.compression == Compression::Gzip {
        builder = builder.with_compression(Packed::Gzip);
    }
    Ok(builder.build()?)
}

impl PushMetricExporter for OwnExporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let (client, runtime, limit) = match &self.way {
            Way::Grpc(exporter) => return exporter.export(metrics).await,
            Way::Http { client, runtime, limit } => (client, runtime, *limit),
        };
        let body = Bytes::from(ExportMetricsServiceRequest::from(metrics).encode_to_vec());
        let client = client.clone();
        let exchange = async move { client.send(body, Duration::ZERO).await };
        let task = runtime.spawn(async move { tokio::time::timeout(limit, exchange).await });
        match task.await {
            Ok(Ok(Verdict::Delivered { .. })) => Ok(()),
            Ok(Ok(Verdict::Retry { error, .. } | Verdict::TooLarge(error) | Verdict::Refused(error))) => {
                Err(OTelSdkError::InternalFailure(error))
            }
            Ok(Err(_)) => Err(OTelSdkError::Timeout(limit)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        match &self.way {
            Way::Grpc(exporter) => exporter.shutdown_with_timeout(timeout),
            Way::Http { .. } => Ok(()),
        }
    }

    fn temporality(&self) -> Form {
        self.form
    }
}
