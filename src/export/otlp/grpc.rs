//! OTLP over gRPC: `opentelemetry.proto.collector.metrics.v1.MetricsService/Export` with bodies that are encoded already.
//!
//! tonic's channel connects when first used and reconnects by itself. Responses may be compressed as requests are:
//! without `accept_compressed` a success would look like `UNIMPLEMENTED`.

use std::error::Error as _;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Request, Status};

use super::retry::{Verdict, of_grpc, of_response};
use super::transport::{Error, Target, USER_AGENT, connector, explain};
use crate::config::{self, Compression};

const METHOD: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// A gRPC client.
#[derive(Debug)]
pub struct Client {
    grpc: tonic::client::Grpc<Channel>,
    metadata: MetadataMap,
}

impl Client {
    /// A client that connects when it first sends.
    ///
    /// # Errors
    /// When the endpoint or the certificates cannot be used.
    pub fn new(settings: &config::Otlp, target: &Target, headers: &HeaderMap) -> Result<Self, Error> {
        let mut grpc = tonic::client::Grpc::new(channel(settings, target)?);
        let encoding = match settings.compression {
            Compression::None => None,
            Compression::Gzip => Some(CompressionEncoding::Gzip),
            Compression::Zstd => Some(CompressionEncoding::Zstd),
        };
        if let Some(encoding) = encoding {
            grpc = grpc.send_compressed(encoding).accept_compressed(encoding);
        }
        Ok(Self { grpc, metadata: MetadataMap::from_headers(headers.clone()) })
    }

    /// Sends one request.
    pub async fn send(&mut self, body: Bytes) -> Verdict {
        let request = Request::from_parts(self.metadata.clone(), Extensions::default(), body);
        if let Err(error) = self.grpc.ready().await {
            return Verdict::Retry { after: None, reached: false, error: explain(&error) };
        }
        match self.grpc.unary(request, PathAndQuery::from_static(METHOD), Encoded).await {
            Ok(response) => of_response(response.get_ref()),
            Err(status) => verdict(&status),
        }
    }
}

/// A status with a cause was made by the transport; one without came from the receiver.
fn verdict(status: &Status) -> Verdict {
    match status.source() {
        Some(cause) => of_grpc(status, false, explain(cause)),
        None => of_grpc(status, true, format!("gRPC {:?}: {}", status.code(), status.message())),
    }
}

/// The channel to a receiver.
///
/// # Errors
/// When the endpoint or the certificates cannot be used.
pub fn channel(settings: &config::Otlp, target: &Target) -> Result<Channel, Error> {
    let wrong = |_| Error::Endpoint { endpoint: target.shown.clone() };
    let connector = Dial { inner: connector(settings, target, &[b"h2"])?, secure: target.secure };
    let plain = with_scheme(&target.uri, Scheme::HTTP);
    let endpoint = Endpoint::from(plain)
        .origin(with_scheme(&target.uri, if target.secure { Scheme::HTTPS } else { Scheme::HTTP }))
        .user_agent(USER_AGENT)
        .map_err(wrong)?
        .connect_timeout(settings.timeout)
        .timeout(settings.timeout + Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// `uri` with another scheme and without path.
fn with_scheme(uri: &Uri, scheme: Scheme) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(scheme);
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_default()
}

/// Does TLS in our connector: tonic's own does not know `insecure_skip_verify`, and refuses `https` to any other.
#[derive(Debug, Clone)]
struct Dial {
    inner: HttpsConnector<HttpConnector>,
    secure: bool,
}

impl Service<Uri> for Dial {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = <HttpsConnector<HttpConnector> as Service<Uri>>::Error;
    type Future = <HttpsConnector<HttpConnector> as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.inner.call(if self.secure { with_scheme(&uri, Scheme::HTTPS) } else { uri })
    }
}

/// Messages that are bytes already.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
