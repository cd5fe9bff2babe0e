//! The door to HTTP servers that meters ask: one server per client, plain or over TLS, blocking, with a limit of time.
//!
//! It is for the threads of slow meters: a request blocks its caller for at most the timeout, connecting and reading
//! included. Requests name a path, never a server, so that no password and no token can leave for another one; a
//! redirect is followed only to the same server. The connection is kept between the requests of one round. Another
//! thread may end the running request ([`Http::interrupt_handle`]); what is deleted after that still is. On a machine
//! in memory a request is the file `http/HOST[:PORT]/PATH?QUERY`, or `index.json` in it where it is a directory:
//! its bytes are the answer with status 200, unless they begin with `HTTP 401` and perhaps headers up to an empty line.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use url::Url;

use crate::config::Trust;
use crate::host::{Errno, FILE_MAX, Host, Source};

mod wire;

/// The most that is read of one answer.
pub const BODY_MAX: usize = 4 << 20;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;
/// The most that a DELETE may take: it is what is done at the end, when somebody waits.
const DELETE_MAX: Duration = Duration::from_millis(1500);
/// How long a POST may go on after an interruption: one that is cut may leave a session behind whose name nobody knows.
const POST_GRACE: Duration = Duration::from_secs(1);

/// A client of one server.
pub struct Http {
    /// `https://bmc`, for messages.
    origin: String,
    uri: Uri,
    trust: Trust,
    timeout: Duration,
    runtime: Option<Runtime>,
    connection: Option<wire::Connection>,
    /// Whether it was interrupted.
    stop: Arc<watch::Sender<bool>>,
    /// The other server that it redirects to; the first one, until it answers again: some name a new one each time.
    elsewhere: Option<String>,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200, 401, …
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Its body as text, without the mark that some write before it (U+FEFF in UTF-8), which is no part of JSON.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.body)
    }
}

/// Why a server gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its name is unknown.
    #[error("the name cannot be resolved ({0})")]
    Name(String),
    /// Nobody listens there.
    #[error("connection refused; is it switched on, and the port right?")]
    Refused,
    /// It hung up.
    #[error("the connection was reset before the answer was complete")]
    Reset,
    /// It is not trusted, or speaks no TLS.
    #[error("{0}")]
    Tls(String),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// It sent more than [`BODY_MAX`].
    #[error("the answer is larger than 4 MiB")]
    TooLarge,
    /// It sends us elsewhere.
    #[error("it redirects to {0}, which is another server and not followed; write that one as url")]
    Redirect(String),
    /// We stop.
    #[error("interrupted, since the agent stops")]
    Stopped,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// One request.
#[derive(Debug, Clone)]
struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Http {
    /// A client of the server of `url`, which connects when it is first asked; `None` if that is no URL.
    #[must_use]
    pub fn new(url: &str, trust: &Trust, timeout: Duration) -> Option<Self> {
        let uri: Uri = url.trim().parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let authority = uri.authority().filter(|authority| !authority.host().is_empty())?;
        let origin = format!("{scheme}://{}", authority.as_str().rsplit('@').next().unwrap_or_default());
        let stop = Arc::new(watch::Sender::new(false));
        let trust = trust.clone();
        Some(Self { origin, uri, trust, timeout, runtime: None, connection: None, stop, elsewhere: None })
    }

    /// What another thread calls once to end this client: the running request fails at once (a POST after a second), and
    /// so does every later one but DELETE, which has a connection and a short time of its own.
    #[must_use]
    pub fn interrupt_handle(&self) -> Arc<dyn Fn() + Send + Sync> {
        let stop = Arc::clone(&self.stop);
        Arc::new(move || {
            stop.send_replace(true);
        })
    }

    /// The server: `https://bmc`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn get(&mut self, host: &Host, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
        let (path, headers) = (path.to_owned(), headers.clone());
        let request = Request { method: Method::GET, path, headers, body: Bytes::new() };
        self.follow(host, request, &[301, 302, 303, 307, 308])
    }

    /// Posts JSON to a path. It is posted again only where a redirect says so, and only to the same server.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn post(&mut self, host: &Host, path: &str, headers: &HeaderMap, body: Vec<u8>) -> Result<Answer, Failure> {
        let mut headers = headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = Request { method: Method::POST, path: path.to_owned(), headers, body: body.into() };
        self.follow(host, request, &[307, 308])
    }

    /// Deletes what is at a path.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn delete(&mut self, host: &Host, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
        let (path, headers) = (path.to_owned(), headers.clone());
        self.send(host, &Request { method: Method::DELETE, path, headers, body: Bytes::new() })
    }

    /// The path of a link on this server; `None` for one that leads elsewhere.
    #[must_use]
    pub fn path_of(&self, link: &str) -> Option<String> {
        let path = link.strip_prefix(&self.origin).unwrap_or(link);
        (path.starts_with('/') && !path.starts_with("//")).then(|| path.to_owned())
    }

    /// Sends a request, and again to where an answer of one of these statuses leads.
    fn follow(&mut self, host: &Host, mut request: Request, redirects: &[u16]) -> Result<Answer, Failure> {
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(host, &request)?;
            if !redirects.contains(&answer.status) {
                self.elsewhere = None;
                return Ok(answer);
            }
            request.path = self.redirect(&request.path, &answer)?;
        }
        Err(Failure::Other("it redirects in a circle".into()))
    }

    /// The path on this server to which the answer to `path` leads.
    fn redirect(&mut self, path: &str, answer: &Answer) -> Result<String, Failure> {
        let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let base = Url::parse(&format!("{}{path}", self.origin)).ok();
        let target = location.zip(base.as_ref()).and_then(|(location, base)| base.join(location).ok());
        let (Some(base), Some(target)) = (base, target) else {
            return Err(Failure::Other("it redirects, but does not say where to".into()));
        };
        if target.origin() == base.origin() {
            let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
            return Ok(format!("{}{query}", target.path()));
        }
        // Without a user and password that may stand in it.
        let server = format!("{}://{}", target.scheme(), &target[url::Position::BeforeHost..url::Position::AfterPort]);
        Err(Failure::Redirect(self.elsewhere.get_or_insert(server).clone()))
    }

    fn send(&mut self, host: &Host, request: &Request) -> Result<Answer, Failure> {
        match &host.source {
            Source::Memory(memory) => {
                let server = format!("http/{}", self.uri.authority().map_or("", |authority| authority.as_str()));
                remembered(&server, &request.path, |path, buffer| memory.borrow().read(path, buffer, FILE_MAX))
            }
            Source::Live(_) | Source::Recording(..) => self.ask(request),
        }
    }

    /// Asks over the network.
    fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let runtime = match &mut self.runtime {
            Some(runtime) => runtime,
            none => {
                let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
                none.insert(built.map_err(|error| Failure::Other(format!("cannot start the network: {error}")))?)
            }
        };
        let mut stop = self.stop.subscribe();
        let last = request.method == Method::DELETE;
        if *stop.borrow() && !last {
            return Err(Failure::Stopped);
        }
        let kept = self.connection.take().filter(|_| !*stop.borrow());
        let limit = if last { self.timeout.min(DELETE_MAX) } else { self.timeout };
        let (uri, trust) = (&self.uri, &self.trust);
        let answer = runtime.block_on(async {
            let exchange = tokio::time::timeout(limit, wire::exchange(uri, trust, kept, request));
            let stopped = async {
                // Nobody else can close it: the sender is ours.
                let _ = stop.wait_for(|stop| *stop && !last).await;
                if request.method == Method::POST {
                    tokio::time::sleep(POST_GRACE).await;
                }
            };
            tokio::select! {
                answer = exchange => answer.unwrap_or(Err(Failure::Timeout(limit))),
                () = stopped => Err(Failure::Stopped),
            }
        });
        let (answer, connection) = answer?;
        self.connection = connection;
        Ok(answer)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // Dropping a runtime waits for a name that is still being resolved, for as long as that takes.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The answer of a machine in memory.
fn remembered(
    server: &str,
    path: &str,
    read: impl Fn(&str, &mut Vec<u8>) -> Result<(), Errno>,
) -> Result<Answer, Failure> {
    let mut bytes = Vec::new();
    let failed = |errno: Errno| match errno {
        Errno::CONNREFUSED | Errno::NOENT => Failure::Refused,
        Errno::CONNRESET | Errno::PIPE => Failure::Reset,
        Errno::TIMEDOUT => Failure::Timeout(Duration::from_secs(30)),
        other => Failure::Other(std::io::Error::from(other).to_string()),
    };
    match read(server, &mut bytes) {
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(failed(errno)),
        Ok(()) => return Err(Failure::Refused),
    }
    let file = format!("{server}/{}", path.trim_matches('/'));
    let found = match read(&file, &mut bytes) {
        Err(Errno::ISDIR) => read(&format!("{file}/index.json"), &mut bytes),
        found => found,
    };
    match found {
        Ok(()) => Ok(scripted(&bytes)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Answer { status: 404, headers: HeaderMap::new(), body: Vec::new() }),
        Err(errno) => Err(failed(errno)),
    }
}

/// `HTTP 401`, headers, an empty line and the body; or the body alone.
fn scripted(bytes: &[u8]) -> Answer {
    let mut answer = Answer { status: 200, headers: HeaderMap::new(), body: bytes.to_vec() };
    let text = String::from_utf8_lossy(bytes);
    let Some(rest) = text.strip_prefix("HTTP ") else { return answer };
    let (head, body) = rest.split_once("\n\n").unwrap_or((rest.trim_end(), ""));
    let mut lines = head.lines();
    answer.status = lines.next().and_then(|status| status.trim().parse().ok()).unwrap_or(500);
    for (name, value) in lines.filter_map(|row| row.split_once(':')) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.trim()), HeaderValue::try_from(value.trim())) {
            answer.headers.insert(name, value);
        }
    }
    answer.body = body.as_bytes().to_vec();
    answer
}

/// The header of HTTP basic authentication.
#[must_use]
pub fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
