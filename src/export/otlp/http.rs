//! OTLP over HTTP/1.1: a POST of `application/x-protobuf`, by default to `/v1/metrics` below the endpoint.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT as AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::retry::{HttpAnswer, Verdict, of_http};
use super::transport::{Error, Target, USER_AGENT, connector, explain};
use crate::config::{self, Compression};

/// Longest answer that is read.
const ANSWER_MAX: usize = 64 << 10;

/// hyper's client with our connector.
type Hyper = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// An HTTP client.
#[derive(Debug, Clone)]
pub struct Client {
    hyper: Hyper,
    uri: Uri,
    headers: HeaderMap,
    compression: Compression,
}

impl Client {
    /// A client that connects when it first sends.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn new(settings: &config::Otlp, target: &Target, headers: &HeaderMap) -> Result<Self, Error> {
        let mut headers = headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(AGENT, HeaderValue::from_static(USER_AGENT));
        let encoding = match settings.compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        };
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let hyper = hyper(settings, target)?;
        Ok(Self { hyper, uri: target.uri.clone(), headers, compression: settings.compression })
    }

    /// Sends one request.
    pub async fn send(&self, body: Bytes, wall: Duration) -> Verdict {
        let body = match compressed(body, self.compression) {
            Ok(body) => body,
            Err(error) => return Verdict::Refused(format!("cannot compress: {error}")),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        match self.hyper.request(request).await {
            Ok(response) => answer(response, wall).await,
            Err(error) => Verdict::Retry { after: None, reached: false, error: explain(&error) },
        }
    }
}

fn hyper(settings: &config::Otlp, target: &Target) -> Result<Hyper, Error> {
    let connector = connector(settings, target, &[b"http/1.1"])?;
    Ok(hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(90))
        .build(connector))
}

async fn answer(response: Response<Incoming>, wall: Duration) -> Verdict {
    let (parts, body) = response.into_parts();
    // the status is the answer; a body that breaks off does not change it
    let body = Limited::new(body, ANSWER_MAX).collect().await.map(http_body_util::Collected::to_bytes);
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    of_http(HttpAnswer {
        status: parts.status.as_u16(),
        retry_after: text(RETRY_AFTER),
        date: text(DATE),
        wall,
        body: &body.unwrap_or_default(),
    })
}

fn compressed(body: Bytes, compression: Compression) -> std::io::Result<Bytes> {
    match compression {
        Compression::None => Ok(body),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body)?;
            encoder.finish().map(Bytes::from)
        }
        Compression::Zstd => zstd::bulk::compress(&body, 1).map(Bytes::from),
    }
}
