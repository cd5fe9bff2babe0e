//! The way to the receiver: gRPC or HTTP/protobuf over one kind of connector.
//!
//! A client is built lazily and anew after every failure to reach the receiver, so that names are resolved and
//! certificates are read again. Every request has one limit of time, connecting included.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;

use super::retry::Verdict;
use super::{grpc, http as plain, own};
use crate::config::{self, Protocol, Trust};
use crate::host::tls::{self, TlsError};

/// How we introduce ourselves.
pub const USER_AGENT: &str = concat!("wattribute/", env!("CARGO_PKG_VERSION"));

/// What is wrong with the settings of the export.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is no URL.
    #[error("OTLP endpoint {endpoint:?} is no URL; write it like http://localhost:4317")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A header cannot be sent.
    #[error("OTLP header {name:?} has a name or a value that HTTP does not allow")]
    Header {
        /// Its name.
        name: String,
    },
    /// Transport security.
    #[error("OTLP over TLS: {0}")]
    Tls(#[from] TlsError),
}

/// Where to send to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL; for HTTP with its path.
    pub uri: Uri,
    /// Whether it is `https`.
    pub secure: bool,
    /// As it is shown in logs: without user, password and query.
    pub shown: String,
}

impl Target {
    fn new(settings: &config::Otlp) -> Result<Self, Error> {
        let endpoint = settings.endpoint.trim();
        let wrong = || Error::Endpoint { endpoint: endpoint.to_owned() };
        let mut text = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        if settings.protocol == Protocol::HttpProtobuf && !settings.endpoint_is_exact {
            text = format!("{}/v1/metrics", text.trim_end_matches('/'));
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(wrong)?;
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let path = if settings.protocol == Protocol::Grpc { "" } else { uri.path() };
        let shown = format!("{}://{host}{path}", if secure { "https" } else { "http" });
        Ok(Self { uri, secure, shown })
    }
}

/// Sends requests.
#[derive(Debug)]
pub struct Transport {
    settings: config::Otlp,
    target: Target,
    headers: HeaderMap,
    client: Client,
}

#[derive(Debug)]
enum Client {
    Grpc(Box<grpc::Client>),
    Http(Box<plain::Client>),
}

impl Transport {
    /// A transport that has not connected yet. Within a tokio runtime.
    ///
    /// # Errors
    /// When the settings cannot work: no URL, forbidden headers, unreadable certificates.
    pub fn new(settings: &config::Otlp) -> Result<Self, Error> {
        let target = Target::new(settings)?;
        let headers = headers(settings)?;
        let client = build(settings, &target, &headers)?;
        Ok(Self { settings: settings.clone(), target, headers, client })
    }

    /// The receiver, for logs.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.target.shown
    }

    /// The SDK's exporter for our own telemetry.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn own_exporter(&self) -> Result<own::OwnExporter, own::OwnError> {
        own::OwnExporter::new(&self.settings, &self.target, &self.headers)
    }

    /// Sends one request. `wall`: the wall clock, for answers that name a date.
    pub async fn send(&mut self, body: Bytes, wall: Duration) -> Verdict {
        let limit = self.settings.timeout;
        let sent = async {
            match &mut self.client {
                Client::Grpc(client) => client.send(body).await,
                Client::Http(client) => client.send(body, wall).await,
            }
        };
        let verdict = tokio::time::timeout(limit, sent).await.unwrap_or_else(|_| Verdict::Retry {
            after: None,
            reached: false,
            error: format!("no answer within {} s", limit.as_secs_f64()),
        });
        if matches!(verdict, Verdict::Retry { reached: false, .. }) {
            self.rebuild();
        }
        verdict
    }

    /// A new client resolves the name and reads the certificates again; if it cannot, the old one tries on.
    fn rebuild(&mut self) {
        if let Ok(client) = build(&self.settings, &self.target, &self.headers) {
            self.client = client;
        }
    }
}

fn build(settings: &config::Otlp, target: &Target, headers: &HeaderMap) -> Result<Client, Error> {
    Ok(match settings.protocol {
        Protocol::Grpc => Client::Grpc(Box::new(grpc::Client::new(settings, target, headers)?)),
        Protocol::HttpProtobuf => Client::Http(Box::new(plain::Client::new(settings, target, headers)?)),
    })
}

/// TCP with keepalive, and TLS where the endpoint asks for it.
///
/// # Errors
/// When certificates cannot be used.
pub fn connector(
    settings: &config::Otlp,
    target: &Target,
    alpn: &[&[u8]],
) -> Result<HttpsConnector<HttpConnector>, Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    tcp.set_connect_timeout(Some(settings.timeout));
    let config::Tls { ca_file, cert_file, key_file, insecure_skip_verify } = settings.tls.clone();
    let trust = Trust { ca_file, fingerprint: None, insecure_skip_verify };
    let identity = [cert_file.as_deref(), key_file.as_deref()];
    Ok(HttpsConnector::from((tcp, tls::client(&trust, identity, target.secure, alpn)?)))
}

fn headers(settings: &config::Otlp) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let wrong = || Error::Header { name: name.clone() };
        let key = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.0.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// An error with everything that caused it, each cause once.
#[must_use]
pub fn explain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    if ["UnknownIssuer", "BadSignature"].iter().any(|reason| text.contains(reason)) {
        text.push_str("; name the authority's certificate as the CA file (OTEL_EXPORTER_OTLP_CERTIFICATE)");
    }
    text
}
