//! One exchange with a server: connect, shake hands, send, read, in words that say which of these failed.
//!
//! HTTP/1.1 by hyper over tokio's TCP, and rustls where the URL is https. A connection that was kept may have been
//! closed by the server meanwhile without our seeing it, so an exchange that fails on one is tried once more on a new
//! one. Of several addresses of one name the next is tried beside the first after a moment (RFC 8305), so that one behind
//! a firewall that answers nothing does not cost the whole time. Authorities are read again for each connection: a
//! renewed certificate needs no restart. What is said of a failure holds no clock and no port of ours, so that the same
//! failure reads the same each time.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Answer, BODY_MAX, Failure, Request};
use crate::config::Trust;
use crate::host::tls;

/// How long an address is waited for before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(300);

/// A connection that can carry another request.
pub struct Connection(SendRequest<Full<Bytes>>);

/// Sends a request and reads the answer; gives the connection back where it can be used again.
pub async fn exchange(
    uri: &Uri,
    trust: &Trust,
    kept: Option<Connection>,
    request: &Request,
) -> Result<(Answer, Option<Connection>), Failure> {
    // Lets the task of a kept connection see that the server has closed it.
    tokio::task::yield_now().await;
    if let Some(connection) = kept.filter(|kept| kept.0.is_ready()) {
        match carry(connection, uri, request).await {
            Err(Failure::Reset) if request.method != Method::POST => {}
            other => return other,
        }
    }
    carry(connect(uri, trust).await?, uri, request).await
}

async fn connect(uri: &Uri, trust: &Trust) -> Result<Connection, Failure> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let addresses = tokio::net::lookup_host((host, port)).await;
    let stream = reach(addresses.map_err(|error| Failure::Name(error.to_string()))?.collect()).await?;
    let _ = stream.set_nodelay(true);
    if !secure {
        return begin(TokioIo::new(stream)).await;
    }
    let config = tls::client(trust, [None, None], true, &[b"http/1.1"]);
    let config = config.map_err(|error| Failure::Tls(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Failure::Name(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| of_io(&error))?;
    begin(TokioIo::new(stream)).await
}

/// A connection to the first of these that takes one.
async fn reach(addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let mut tries = JoinSet::new();
    let mut addresses = addresses.into_iter();
    let mut failed = Failure::Name("it has no address".into());
    loop {
        if let Some(address) = addresses.next() {
            tries.spawn(TcpStream::connect(address));
        }
        let patience = if addresses.len() > 0 { HEAD_START } else { Duration::MAX };
        match timeout(patience, tries.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            // That one of them is up, and refuses, tells more than that another has no route.
            Ok(Some(Ok(Err(error)))) if failed != Failure::Refused => failed = of_io(&error),
            Ok(None) => return Err(failed),
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

async fn begin<T>(io: T) -> Result<Connection, Failure>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(io).await.map_err(|error| of_hyper(&error))?;
    // It ends with the connection; how is seen by who sends on it.
    drop(tokio::spawn(connection));
    Ok(Connection(sender))
}

async fn carry(
    mut connection: Connection,
    uri: &Uri,
    request: &Request,
) -> Result<(Answer, Option<Connection>), Failure> {
    let mut message = http::Request::new(Full::new(request.body.clone()));
    *message.method_mut() = request.method.clone();
    let path = request.path.parse::<Uri>();
    *message.uri_mut() = path.map_err(|_| Failure::Other("its address is no path".into()))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let headers = message.headers_mut();
    headers.insert(header::HOST, HeaderValue::try_from(authority).map_err(|error| Failure::Other(error.to_string()))?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("wattribute/", env!("CARGO_PKG_VERSION"))));
    headers.extend(request.headers.clone());
    let response = connection.0.send_request(message).await.map_err(|error| of_hyper(&error))?;
    let (parts, body) = response.into_parts();
    let announced =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| parts.headers.contains_key(name));
    let body = read(body, announced).await?;
    let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
    // Ready once more only if the server keeps it open.
    let kept = connection.0.ready().await.is_ok().then_some(connection);
    Ok((answer, kept))
}

/// Reads a body. One whose length was not announced ends with the connection, and small servers hang up there without
/// the farewell that TLS asks for: that is the end all the same, and a document that was cut shows it by itself.
async fn read(mut body: Incoming, announced: bool) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) if !announced && hung_up(&error) => break,
            Err(error) => return Err(of_hyper(&error)),
        }
        if bytes.len() > BODY_MAX {
            return Err(Failure::TooLarge);
        }
    }
    Ok(bytes)
}

fn cause(error: &hyper::Error) -> Option<&io::Error> {
    error.source().and_then(|cause| cause.downcast_ref())
}

fn hung_up(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof)
}

fn of_hyper(error: &hyper::Error) -> Failure {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::Reset;
    }
    match cause(error) {
        Some(cause) => of_io(cause),
        None if error.is_parse() => Failure::Other(format!("the answer is no HTTP/1.1 ({error})")),
        None => Failure::Other(error.to_string()),
    }
}

fn of_io(error: &io::Error) -> Failure {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Failure::Tls(format!("TLS: {}", of_tls(inner)));
    }
    match error.kind() {
        ConnectionRefused => Failure::Refused,
        ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => Failure::Reset,
        _ => Failure::Other(error.to_string()),
    }
}

/// What went wrong with a connection that was to be secure. rustls's own texts hold the time of day and words of Rust.
fn of_tls(error: &rustls::Error) -> String {
    use rustls::Error::{
        AlertReceived, General, InappropriateHandshakeMessage, InappropriateMessage, InvalidCertificate,
        InvalidMessage, NoCertificatesPresented, PeerIncompatible, PeerMisbehaved,
    };
    match error {
        InvalidCertificate(error) => of_certificate(error),
        NoCertificatesPresented => "the server shows no certificate".into(),
        InvalidMessage(_) => "what the server answers is no TLS; does it speak https on this port?".into(),
        PeerIncompatible(_) => "the server speaks none that is still safe; at least TLS 1.2 is needed".into(),
        AlertReceived(_) => "the server refused the connection; at least TLS 1.2 is needed".into(),
        PeerMisbehaved(_) | InappropriateMessage { .. } | InappropriateHandshakeMessage { .. } => {
            "the server does not keep to the protocol".into()
        }
        General(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What is wrong with a certificate, and what to do.
fn of_certificate(error: &CertificateError) -> String {
    use CertificateError::{
        BadEncoding, BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidForName,
        NotValidForNameContext, NotValidYet, NotValidYetContext, Revoked, UnknownIssuer,
    };
    let pin = "; if it is the right server, pin its certificate by its fingerprint";
    let what = match error {
        UnknownIssuer | BadSignature => {
            let what = if *error == UnknownIssuer {
                "comes from no authority that is trusted"
            } else {
                "is not signed by the authority"
            };
            return format!(
                "the server's certificate {what}; name the authority's certificate as ca_file, or pin this one by its \
                 fingerprint"
            );
        }
        Expired | ExpiredContext { .. } => "has expired",
        NotValidYet | NotValidYetContext { .. } => "is not valid yet; is the clock of this machine right?",
        NotValidForName => "is for another name",
        NotValidForNameContext { expected, .. } => {
            return format!("the server's certificate is not for the name {}{pin}", expected.to_str());
        }
        InvalidPurpose | InvalidPurposeContext { .. } => "is not meant for a server",
        Revoked => "has been revoked",
        BadEncoding => "cannot be read",
        // Of the library below rustls, whose type is not to be had.
        other if other.to_string().contains("CaUsedAsEndEntity") => "is an authority's own",
        _ => "is not accepted",
    };
    format!("the server's certificate {what}{pin}")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[test]
    fn an_address_that_answers_nothing_does_not_cost_the_whole_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mute = TcpSocket::new_v4().unwrap();
            mute.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let mute = mute.listen(1).unwrap();
            let full = mute.local_addr().unwrap();
            // With its queue full it drops whoever knocks.
            let mut inside = Vec::new();
            while let Ok(Ok(stream)) = timeout(HEAD_START, TcpStream::connect(full)).await {
                inside.push(stream);
            }
            let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let open = open.local_addr().map(|address| (open, address)).unwrap();
            let soon = Duration::from_secs(2);
            let stream = timeout(soon, reach(vec![full, open.1])).await.unwrap().unwrap();
            assert_eq!(stream.peer_addr().unwrap(), open.1);
            // One that refuses is passed over at once, and what is left is not forgotten.
            drop(open.0);
            assert_eq!(timeout(soon, reach(vec![open.1])).await.unwrap().unwrap_err(), Failure::Refused);
            assert!(timeout(soon, reach(vec![open.1, full])).await.is_err(), "the other may still answer");
            assert!(matches!(reach(Vec::new()).await, Err(Failure::Name(_))));
        });
    }
}
