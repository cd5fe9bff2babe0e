//! In-process receivers: a gRPC MetricsService and an HTTP/1.1 server, which answer as a script says and keep what they
//! were sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Status};

/// One answer of the script; when it is used up, every request is taken.
#[derive(Debug, Clone)]
pub enum Answer {
    Take,
    Partial(i64, &'static str),
    /// gRPC code or HTTP status, and how long to wait before the next try.
    Fail(u16, Option<Wait>),
    /// No answer at all.
    Hang,
    /// Refuses requests above this size, uncompressed.
    AtMost(usize),
}

#[derive(Debug, Clone)]
pub enum Wait {
    /// `RetryInfo`, in the status details or the body.
    Info(Duration),
    /// `Retry-After`.
    Header(&'static str),
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub request: ExportMetricsServiceRequest,
    pub headers: HeaderMap,
    pub path: String,
    pub size: usize,
    pub at: Instant,
    pub taken: bool,
}

#[derive(Debug, Default)]
pub struct Receiver {
    pub received: Mutex<Vec<Received>>,
    pub script: Mutex<VecDeque<Answer>>,
    limit: Mutex<Option<usize>>,
    arrived: Notify,
}

impl Receiver {
    pub fn script(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        let receiver = Self { script: Mutex::new(answers.into_iter().collect()), ..Self::default() };
        Arc::new(receiver)
    }

    /// Waits until so many requests have come, and returns all.
    pub async fn wait(&self, count: usize) -> Vec<Received> {
        self.wait_for(count, |_| true).await
    }

    /// Waits until so many requests have been taken.
    pub async fn taken(&self, count: usize) -> Vec<Received> {
        self.wait_for(count, |received| received.taken).await
    }

    async fn wait_for(&self, count: usize, want: impl Fn(&Received) -> bool) -> Vec<Received> {
        let arrived = async {
            loop {
                let next = self.arrived.notified();
                let found: Vec<_> = self.received.lock().unwrap().iter().filter(|r| want(r)).cloned().collect();
                if found.len() >= count {
                    return found;
                }
                next.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), arrived).await.expect("requests come")
    }

    fn answer(&self, request: ExportMetricsServiceRequest, headers: HeaderMap, path: &str) -> Answer {
        let mut answer = self.script.lock().unwrap().pop_front().unwrap_or(Answer::Take);
        if let Answer::AtMost(most) = answer {
            *self.limit.lock().unwrap() = Some(most);
        }
        let size = request.encoded_len();
        if let Some(most) = *self.limit.lock().unwrap() {
            answer = if size > most { Answer::AtMost(most) } else { Answer::Take };
        }
        let taken = matches!(answer, Answer::Take | Answer::Partial(..));
        let (path, at) = (path.to_owned(), Instant::now());
        self.received.lock().unwrap().push(Received { request, headers, path, size, at, taken });
        self.arrived.notify_waiters();
        answer
    }
}

fn response(answer: &Answer) -> ExportMetricsServiceResponse {
    let partial = match answer {
        Answer::Partial(rejected, message) => {
            ExportMetricsPartialSuccess { rejected_data_points: *rejected, error_message: (*message).into() }
        }
        // the Collector says so on full success
        _ => ExportMetricsPartialSuccess::default(),
    };
    ExportMetricsServiceResponse { partial_success: Some(partial) }
}

/// `google.rpc.Status` with a `RetryInfo`, by hand.
pub fn status_with_delay(code: u8, message: &str, delay: Option<Duration>) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    };
    let mut out = vec![0x08, code];
    out.extend(field(2, message.as_bytes()));
    if let Some(delay) = delay {
        let mut duration = Vec::new();
        prost::encoding::int64::encode(1, &i64::try_from(delay.as_secs()).unwrap(), &mut duration);
        prost::encoding::int32::encode(2, &i32::try_from(delay.subsec_nanos()).unwrap(), &mut duration);
        let mut any = field(1, b"type.googleapis.com/google.rpc.RetryInfo");
        any.extend(field(2, &field(1, &duration)));
        out.extend(field(3, &any));
    }
    out
}

struct Grpc(Arc<Receiver>);

#[tonic::async_trait]
impl MetricsService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let answer = self.0.answer(request, metadata.into_headers(), "");
        match answer {
            Answer::Take | Answer::Partial(..) => Ok(tonic::Response::new(response(&answer))),
            Answer::Fail(code, wait) => {
                let delay = wait.map(|wait| match wait {
                    Wait::Info(delay) => delay,
                    Wait::Header(_) => unreachable!("gRPC has no Retry-After"),
                });
                let code = u8::try_from(code).unwrap();
                let details = status_with_delay(code, "no", delay).into();
                Err(Status::with_details(Code::from_i32(code.into()), "no", details))
            }
            Answer::AtMost(_) => Err(Status::resource_exhausted("message larger than max")),
            Answer::Hang => std::future::pending().await,
        }
    }
}

/// Serves gRPC until the runtime ends. Returns the address.
pub async fn grpc(
    receiver: &Arc<Receiver>,
    at: Option<SocketAddr>,
    tls: Option<ServerTlsConfig>,
) -> (SocketAddr, Stop) {
    let listener = listen(at).await;
    let address = listener.local_addr().unwrap();
    let service = MetricsServiceServer::new(Grpc(Arc::clone(receiver)))
        .max_decoding_message_size(4 << 20)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let router = server.add_service(service);
    let serve = async move |listener| drop(router.serve_with_incoming(TcpIncoming::from(listener)).await);
    (address, Stop::serve(listener, serve))
}

/// Ends a server with its connections when dropped: it has a runtime of its own.
pub struct Stop {
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stop {
    fn serve(listener: TcpListener, serve: impl AsyncFnOnce(TcpListener) + Send + 'static) -> Self {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let listener = listener.into_std().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener) => {}
                    _ = ended => {}
                }
            });
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn listen(at: Option<SocketAddr>) -> TcpListener {
    let at = at.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves HTTP/1.1 until the runtime ends; over TLS if a configuration is given.
pub async fn http(receiver: &Arc<Receiver>, tls: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, Stop) {
    let listener = listen(None).await;
    let address = listener.local_addr().unwrap();
    let receiver = Arc::clone(receiver);
    let serve = async move |listener: TcpListener| {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (receiver, tls) = (Arc::clone(&receiver), tls.clone());
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let receiver = Arc::clone(&receiver);
                    async move { Ok::<_, Infallible>(plain(&receiver, request).await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                            drop(http.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                    None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                }
            });
        }
    };
    (address, Stop::serve(listener, serve))
}

async fn plain(receiver: &Receiver, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = match parts.headers.get("content-encoding").map(|value| value.to_str().unwrap()) {
        None => body.to_vec(),
        Some("gzip") => {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body.as_ref()), &mut plain).unwrap();
            plain
        }
        Some("zstd") => zstd::bulk::decompress(&body, 64 << 20).unwrap(),
        Some(other) => panic!("{other}"),
    };
    let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
    let answer = receiver.answer(request, parts.headers, parts.uri.path());
    let reply = Response::builder().header("content-type", "application/x-protobuf");
    match answer {
        Answer::Take | Answer::Partial(..) => reply.body(Full::new(response(&answer).encode_to_vec().into())).unwrap(),
        Answer::AtMost(_) => reply.status(413).body(Full::default()).unwrap(),
        Answer::Hang => std::future::pending().await,
        Answer::Fail(status, wait) => {
            let reply = reply.status(status);
            match wait {
                None => reply.body(Full::new(status_with_delay(3, "no", None).into())).unwrap(),
                Some(Wait::Header(text)) => reply.header("retry-after", text).body(Full::default()).unwrap(),
                Some(Wait::Info(delay)) => {
                    reply.body(Full::new(status_with_delay(14, "no", Some(delay)).into())).unwrap()
                }
            }
        }
    }
}
