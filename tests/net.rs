//! Meters in the network over real sockets on loopback: whom TLS trusts, sessions on a BMC, and servers that misbehave.

#![allow(clippy::unwrap_used, clippy::panic)] // the helpers of a test fail as the test does

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::HeaderMap;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use wattribute::clock;
use wattribute::config::{Config, HostRoots, Redfish, Secret, Trust, Wattmeter};
use wattribute::host::Host;
use wattribute::host::http::{Answer, Failure, Http};
use wattribute::meter::redfish::session::Bmc;
use wattribute::meter::{Backend, Found, Meter, Reading, Value, Why, http as plug, redfish};
use wattribute::unit::Microwatts;

#[path = "net/words.rs"]
mod words;

/// What the server does with a request.
enum Reply {
    /// Status, headers and body.
    Say(u16, String, String),
    /// A whole answer, then the end of the connection although nobody announced it.
    Once(String),
    /// A whole answer of a length that only the end of the connection tells, which is cut without a farewell.
    Cut(String),
    /// A body shorter than announced, then the end of the connection.
    Half,
    /// The end of the connection before the request was read, which resets it.
    Reset,
    /// Nothing for longer than anyone waits.
    Late,
}

fn say(body: &str) -> Reply {
    Reply::Say(200, String::new(), body.to_owned())
}

/// A server on loopback, one thread per connection, that writes down the first lines of its requests.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

impl Server {
    fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        reply: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (Arc::clone(&asked), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, reply, tls) = (Arc::clone(&log), Arc::clone(&reply), tls.clone());
                std::thread::spawn(move || serve(stream, tls, &log, reply.as_ref()));
            }
        });
        Self { port, asked }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    log: &Mutex<Vec<String>>,
    reply: &dyn Fn(&str, &str) -> Reply,
) {
    let plain = stream.try_clone().unwrap();
    let mut wire: Box<dyn Wire> = match tls {
        Some(config) => Box::new(rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream)),
        None => Box::new(stream),
    };
    while plain.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
        if matches!(reply("", ""), Reply::Reset) {
            return;
        }
        let Some(head) = read_request(wire.as_mut()) else { return };
        let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
        log.lock().unwrap().push(line.clone());
        let reply = reply(&line, &head);
        let ends = matches!(reply, Reply::Once(_) | Reply::Cut(_) | Reply::Half);
        let text = match reply {
            Reply::Cut(body) => format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
            Reply::Once(body) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            Reply::Say(status, headers, body) => {
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
            }
            Reply::Half => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"watts\":".to_owned(),
            Reply::Late => return std::thread::sleep(Duration::from_secs(5)),
            Reply::Reset => return,
        };
        if wire.write_all(text.as_bytes()).and_then(|()| wire.flush()).is_err() || ends {
            return;
        }
    }
}

/// The head of a request; its body is read and forgotten.
fn read_request(wire: &mut dyn Wire) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        wire.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length =
        head.lines().find_map(|row| row.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    wire.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    Some(head)
}

/// An authority, and a server's certificate of it for `localhost`.
struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    tls: Arc<rustls::ServerConfig>,
}

impl Pki {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// One whose server's certificate is special.
    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &authority).unwrap().der().clone();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let tls = Arc::new(builder.with_single_cert(vec![certificate.clone()], private).unwrap());
        Self { authority, certificate, tls }
    }

    fn ca_file(&self, directory: &Path) -> Trust {
        let path = directory.join("ca.pem");
        #[allow(clippy::disallowed_methods)] // a test writes files of its own
        std::fs::write(&path, self.authority.pem()).unwrap();
        Trust { ca_file: Some(path), ..Trust::default() }
    }

    fn pinned(&self) -> Trust {
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
        let digest = suite.common.hash_provider.hash(&self.certificate);
        Trust { fingerprint: Some(digest.as_ref().try_into().unwrap()), ..Trust::default() }
    }
}

fn live() -> Host {
    Host::live(&HostRoots::default()).unwrap()
}

fn get(url: &str, trust: &Trust, timeout: Duration) -> Result<Answer, Failure> {
    Http::new(url, trust, timeout).unwrap().get(&live(), "/x", &HeaderMap::new())
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn tls_trusts_the_named_authority_or_the_pinned_certificate_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (Pki::new(), Pki::new());
    let server = Server::start(Some(Arc::clone(&ours.tls)), |_, _| say("{}"));
    let try_with = |trust: &Trust| get(&server.url("https"), trust, SOON);
    assert_eq!(try_with(&ours.ca_file(directory.path())).unwrap().status, 200);
    assert_eq!(try_with(&ours.pinned()).unwrap().status, 200);
    assert_eq!(try_with(&Trust { insecure_skip_verify: true, ..Trust::default() }).unwrap().status, 200);
    let wrong = try_with(&other.ca_file(directory.path())).unwrap_err();
    assert!(matches!(&wrong, Failure::Tls(what) if what.contains("ca_file")), "{wrong}");
    let wrong = try_with(&other.pinned()).unwrap_err();
    let found: Vec<String> = ours.pinned().fingerprint.unwrap().iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(wrong.to_string().contains(&found.join(":")), "the certificate that was shown is named: {wrong}");
    // A certificate for another name is refused although its authority is trusted.
    let by_address = server.url("https").replace("localhost", "127.0.0.1");
    let wrong = get(&by_address, &ours.ca_file(directory.path()), SOON).unwrap_err();
    assert!(matches!(&wrong, Failure::Tls(what) if what.contains("fingerprint")), "{wrong}");
    assert_eq!(get(&by_address, &ours.pinned(), SOON).unwrap().status, 200, "a pinned one may have any name");
    assert_eq!(server.asked().len(), 4, "who is not trusted is asked nothing");
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_without_the_time_of_day() {
    type Change = fn(&mut CertificateParams);
    let directory = tempfile::tempdir().unwrap();
    let cases: [(Change, &str); 4] = [
        (|params| params.not_after = date_time_ymd(2001, 1, 1), "has expired"),
        (|params| params.not_before = date_time_ymd(3001, 1, 1), "is not valid yet; is the clock"),
        (|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "is an authority's own"),
        (|params| params.subject_alt_names.clear(), "is not for the name localhost"),
    ];
    for (change, what) in cases {
        let pki = Pki::with(change);
        let server = Server::start(Some(Arc::clone(&pki.tls)), |_, _| say("{}"));
        let text = get(&server.url("https"), &pki.ca_file(directory.path()), SOON).unwrap_err().to_string();
        assert!(text.starts_with(&format!("TLS: the server's certificate {what}")), "{text}");
        assert!(text.ends_with("pin its certificate by its fingerprint"), "{text}");
        assert!(!text.contains("20") && !text.contains("Context") && !text.contains("Other"), "{text}");
    }
    let (ours, other) = (Pki::new(), Pki::new());
    let server = Server::start(Some(Arc::clone(&ours.tls)), |_, _| say("{}"));
    let text = get(&server.url("https"), &other.ca_file(directory.path()), SOON).unwrap_err().to_string();
    assert!(!text.contains("Unknown") && text.contains("ca_file"), "{text}");
}

#[test]
fn a_server_that_hangs_up_without_a_farewell_has_answered() {
    let pki = Pki::new();
    let server = Server::start(Some(Arc::clone(&pki.tls)), |_, _| Reply::Cut("{\"a\": 1}".into()));
    assert_eq!(get(&server.url("https"), &pki.pinned(), SOON).unwrap().body, b"{\"a\": 1}");
}

#[test]
fn what_a_server_does_wrong_is_said_and_nothing_hangs() {
    let plain = Trust::default();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(get(&format!("http://{closed}"), &plain, SOON), Err(Failure::Refused));
    let server = Server::start(None, |_, _| Reply::Reset);
    assert_eq!(get(&server.url("http"), &plain, SOON), Err(Failure::Reset));
    let wrong = get(&server.url("https"), &plain, SOON).unwrap_err();
    assert!(matches!(wrong, Failure::Reset | Failure::Tls(_)), "{wrong:?}");
    let server = Server::start(None, |_, _| Reply::Half);
    assert_eq!(get(&server.url("http"), &plain, SOON), Err(Failure::Reset));
    let wrong = get(
        &server.url("https"),
        &Trust { insecure_skip_verify: true, ..Trust::default() },
        Duration::from_millis(500),
    );
    assert!(matches!(wrong, Err(Failure::Tls(_) | Failure::Reset | Failure::Timeout(_))), "{wrong:?}");
    let server = Server::start(None, |_, _| say(&"x".repeat((4 << 20) + 1)));
    assert_eq!(get(&server.url("http"), &plain, SOON), Err(Failure::TooLarge));
    let server = Server::start(None, |_, _| Reply::Late);
    #[allow(clippy::disallowed_methods)] // a test measures how long it waited
    let began = Instant::now();
    let limit = Duration::from_millis(300);
    assert_eq!(get(&server.url("http"), &plain, limit), Err(Failure::Timeout(limit)));
    assert!(began.elapsed() < Duration::from_secs(2));
    let wrong = get("http://no-such-host.invalid", &plain, SOON).unwrap_err();
    assert!(matches!(wrong, Failure::Name(_) | Failure::Timeout(_)), "{wrong:?}");
}

#[test]
fn a_redirect_is_followed_on_the_same_server_only() {
    let server = Server::start(None, |line, _| match line {
        "GET /x" => Reply::Say(301, "Location: /y\r\n".into(), String::new()),
        "GET /y" => Reply::Say(302, "Location: http://elsewhere.invalid/secret\r\n".into(), String::new()),
        _ => say("{}"),
    });
    let wrong = get(&server.url("http"), &Trust::default(), SOON).unwrap_err();
    assert_eq!(wrong, Failure::Redirect("http://elsewhere.invalid".into()));
    assert_eq!(server.asked(), ["GET /x", "GET /y"]);
}

#[test]
fn redirects_are_read_as_browsers_do_and_name_no_password() {
    let count = Mutex::new(0);
    let server = Server::start(None, move |line, _| {
        let to = |place: &str| Reply::Say(302, format!("Location: {place}\r\n"), String::new());
        let mut count = count.lock().unwrap();
        *count += 1;
        match line {
            "GET /x" => to("a/b?c=1"),
            "GET /a/b?c=1" => to("../ok"),
            "GET /ok" => say("{}"),
            "GET /away" => to(&format!("http://u:pw@elsewhere{count}.invalid:81/secret?s={count}")),
            "GET /half" => to("//elsewhere.invalid/"),
            _ => Reply::Say(307, String::new(), String::new()),
        }
    });
    assert_eq!(get(&server.url("http"), &Trust::default(), SOON).unwrap().body, b"{}");
    let (host, mut client) = (live(), Http::new(&server.url("http"), &Trust::default(), SOON).unwrap());
    let mut wrong = |path: &str| client.get(&host, path, &HeaderMap::new()).unwrap_err().to_string();
    let text = wrong("/away");
    assert!(text.contains("http://elsewhere") && text.contains(".invalid:81,") && !text.contains("pw"), "{text}");
    assert_eq!(wrong("/away"), text, "a new place each time is no news");
    let text = wrong("/nowhere");
    assert!(text.contains("does not say where"), "{text}");
    let mut client = Http::new(&server.url("http"), &Trust::default(), SOON).unwrap();
    let wrong = client.get(&host, "/half", &HeaderMap::new()).unwrap_err();
    assert_eq!(wrong, Failure::Redirect("http://elsewhere.invalid".into()));
}

#[test]
fn an_interruption_ends_the_running_request_and_what_is_deleted_still_is() {
    let server = Server::start(None, |line, _| match line {
        "" | "DELETE /s" => say("{}"),
        _ => Reply::Late,
    });
    let mut client = Http::new(&server.url("http"), &Trust::default(), Duration::from_secs(60)).unwrap();
    let (interrupt, host) = (client.interrupt_handle(), live());
    #[allow(clippy::disallowed_methods)] // a test measures how long it waited
    let began = Instant::now();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        interrupt();
    });
    assert_eq!(client.get(&host, "/x", &HeaderMap::new()), Err(Failure::Stopped));
    other.join().unwrap();
    assert_eq!(client.get(&host, "/x", &HeaderMap::new()), Err(Failure::Stopped), "and so do those after it");
    assert_eq!(client.post(&host, "/x", &HeaderMap::new(), Vec::new()), Err(Failure::Stopped));
    assert_eq!(client.delete(&host, "/s", &HeaderMap::new()).unwrap().status, 200);
    assert!(matches!(client.delete(&host, "/late", &HeaderMap::new()), Err(Failure::Timeout(_))));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(server.asked(), ["GET /x", "DELETE /s", "DELETE /late"]);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_costs_nothing() {
    let server = Server::start(None, |_, _| Reply::Once("{}".into()));
    let host = live();
    let mut client = Http::new(&server.url("http"), &Trust::default(), SOON).unwrap();
    for pause in [0, 50, 0] {
        assert_eq!(client.get(&host, "/x", &HeaderMap::new()).unwrap().body, b"{}");
        std::thread::sleep(Duration::from_millis(pause));
    }
    assert_eq!(server.asked().len(), 3);
}

/// A BMC with one chassis. It gives the sessions 1, 2 … and takes the one that `valid` names.
fn bmc(valid: Arc<Mutex<u32>>, tls: Option<Arc<rustls::ServerConfig>>) -> Server {
    let given = Mutex::new(0);
    Server::start(tls, move |line, head| {
        let head = head.to_ascii_lowercase();
        let token = format!("x-auth-token: t{}\r", valid.lock().unwrap());
        match line {
            "" | "GET /redfish/v1/" => say("{}"),
            "POST /redfish/v1/SessionService/Sessions" => {
                let mut given = given.lock().unwrap();
                *given += 1;
                let place = format!("/redfish/v1/SessionService/Sessions/{given}");
                Reply::Say(201, format!("X-Auth-Token: t{given}\r\nLocation: {place}\r\n"), "{}".into())
            }
            _ if !head.contains(&token) => Reply::Say(401, String::new(), String::new()),
            "GET /redfish/v1/Chassis" => say(r#"{"Members": [{"@odata.id": "/redfish/v1/Chassis/1"}]}"#),
            "GET /redfish/v1/Chassis/1" => say(r#"{"Id": "1", "EnvironmentMetrics": {"@odata.id": "/redfish/v1/E"}}"#),
            "GET /redfish/v1/E" => say(r#"{"PowerWatts": {"Reading": 344.2}}"#),
            _ if line.starts_with("DELETE") => Reply::Say(204, String::new(), String::new()),
            _ => Reply::Say(404, String::new(), String::new()),
        }
    })
}

fn login(server: &Server, scheme: &str, trust: Trust) -> Redfish {
    Redfish {
        url: Some(server.url(scheme)),
        username: Some("reader".into()),
        password: Some(Secret("s3cret".into())),
        trust,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        ..Redfish::default()
    }
}

#[test]
fn a_session_is_made_once_kept_renewed_and_deleted() {
    let valid = Arc::new(Mutex::new(1));
    let server = bmc(Arc::clone(&valid), None);
    let host = live();
    let mut bmc = Bmc::new(&login(&server, "http", Trust::default())).unwrap();
    bmc.get(&host, "/redfish/v1/E").unwrap();
    bmc.get(&host, "/redfish/v1/E").unwrap();
    *valid.lock().unwrap() = 2; // the BMC has forgotten the first one
    bmc.get(&host, "/redfish/v1/E").unwrap();
    bmc.close(&host);
    bmc.close(&host);
    let (post, get) = ("POST /redfish/v1/SessionService/Sessions", "GET /redfish/v1/E");
    let delete = "DELETE /redfish/v1/SessionService/Sessions/2";
    assert_eq!(server.asked(), [post, get, get, get, post, get, delete]);
}

#[test]
fn a_refused_password_is_not_hammered() {
    let server = Server::start(None, |line, _| match line {
        "" => say(""),
        _ => Reply::Say(401, String::new(), String::new()),
    });
    let host = live();
    let mut settings = login(&server, "http", Trust::default());
    settings.interval = Duration::from_secs(60);
    let mut bmc = Bmc::new(&settings).unwrap();
    let mut tries = Vec::new();
    for round in 0..40 {
        if bmc.pauses().is_none() {
            let trouble = bmc.get(&host, "/redfish/v1/E").unwrap_err().trouble;
            assert_eq!(trouble.why, Why::Denied);
            assert!(
                trouble.what.contains("meters.redfish.username") && !trouble.what.contains("s3cret"),
                "{trouble:?}"
            );
            tries.push(round);
        }
    }
    assert_eq!(tries, [0, 2, 6, 14, 25, 36], "at most ten minutes apart");
    assert_eq!(server.asked().len(), tries.len());
}

#[test]
fn a_session_of_a_slow_bmc_is_deleted_when_it_is_interrupted() {
    let server = Server::start(None, |line, _| match line {
        "POST /redfish/v1/SessionService/Sessions" => {
            // Longer than the others wait, shorter than the grace of a login.
            std::thread::sleep(Duration::from_millis(500));
            Reply::Say(201, "X-Auth-Token: t\r\n".into(), r#"{"@odata.id": "/sessions/7"}"#.into())
        }
        "GET /redfish/v1/E" => Reply::Late,
        _ => say("{}"),
    });
    let host = live();
    for pause in [200, 700] {
        let mut settings = login(&server, "http", Trust::default());
        settings.timeout = Duration::from_secs(60);
        let mut bmc = Bmc::new(&settings).unwrap();
        let interrupt = bmc.interrupt_handle();
        assert!(!bmc.is_open());
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(pause));
            interrupt();
        });
        bmc.get(&host, "/redfish/v1/E").unwrap_err();
        assert!(bmc.is_open() && !bmc.is_stuck());
        bmc.close(&host);
        assert!(!bmc.is_open());
        other.join().unwrap();
        assert_eq!(server.asked().last().unwrap(), "DELETE /sessions/7");
    }
}

#[test]
fn a_login_that_is_not_answered_is_not_hammered() {
    let cut = |line: &str| if line.is_empty() { say("") } else { Reply::Half };
    let late = |line: &str| if line.is_empty() { say("") } else { Reply::Late };
    let tokenless = |_: &str| say("{}");
    let replies: [fn(&str) -> Reply; 3] = [cut, late, tokenless];
    for reply in replies {
        let server = Server::start(None, move |line, _| reply(line));
        let host = live();
        let mut settings = login(&server, "http", Trust::default());
        settings.timeout = Duration::from_millis(100);
        let mut bmc = Bmc::new(&settings).unwrap();
        let mut texts = Vec::new();
        for _ in 0..10 {
            let trouble = bmc.pauses();
            texts.push(trouble.unwrap_or_else(|| bmc.get(&host, "/redfish/v1/E").unwrap_err().trouble).what);
        }
        texts.dedup();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert_eq!(server.asked().len(), 3, "{texts:?}");
    }
}

#[test]
fn a_redirected_login_is_said_to_be_one() {
    let server = Server::start(None, |line, _| match line {
        "POST /redfish/v1/SessionService/Sessions" => Reply::Say(308, "Location: Sessions/\r\n".into(), String::new()),
        "POST /redfish/v1/SessionService/Sessions/" => Reply::Say(201, "X-Auth-Token: t\r\n".into(), String::new()),
        _ => say("{}"),
    });
    let mut bmc = Bmc::new(&login(&server, "http", Trust::default())).unwrap();
    bmc.get(&live(), "/redfish/v1/E").unwrap();
    assert!(bmc.is_stuck() && !bmc.is_open(), "nobody said where the session is");
    for (status, place, said) in
        [(307, "https://other.invalid/", "redirects to https://other.invalid,"), (302, "/login", "is redirected")]
    {
        let server =
            Server::start(None, move |_, _| Reply::Say(status, format!("Location: {place}\r\n"), String::new()));
        let mut bmc = Bmc::new(&login(&server, "http", Trust::default())).unwrap();
        let what = bmc.get(&live(), "/redfish/v1/E").unwrap_err().trouble.what;
        assert!(what.contains(said) && !what.contains("free"), "{what}");
    }
}

/// Waits for a meter's first reading.
fn first(backend: &Backend, config: &Config, host: &Host) -> (Box<dyn Meter>, Value) {
    let Found::Meters(mut meters) = (backend.discover)(host, config) else { panic!("not found") };
    let mut meter = meters.remove(0);
    for _ in 0..400 {
        std::thread::sleep(Duration::from_millis(5));
        let now = clock::now();
        meter.refresh(host, now);
        let mut readings = vec![Reading { at: now, value: Value::Missing(Why::Pending) }; meter.zones().len()];
        meter.read(host, now, &mut readings);
        match readings.first() {
            Some(reading) if reading.value != Value::Missing(Why::Pending) => return (meter, reading.value),
            _ if meter.trouble().is_some() => panic!("{:?}", meter.trouble()),
            _ => {}
        }
    }
    panic!("no reading came");
}

#[test]
fn the_meters_read_over_the_network_and_log_out() {
    let pki = Pki::new();
    let server = bmc(Arc::new(Mutex::new(1)), Some(Arc::clone(&pki.tls)));
    let host = live();
    let mut config = Config::default();
    config.meters.redfish = login(&server, "https", pki.pinned());
    let (mut meter, value) = first(&redfish::BACKEND, &config, &host);
    assert_eq!(value, Value::Power(Microwatts(344_200_000)));
    assert_eq!(meter.zones()[0].id, "redfish:1/environment");
    meter.stop();
    let stopped = (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        meter.is_stopped()
    });
    assert!(stopped, "it did not end");
    assert_eq!(server.asked().last().unwrap(), "DELETE /redfish/v1/SessionService/Sessions/1");

    let server = Server::start(None, |_, _| say(r#"{"apower": "12.5"}"#));
    let url = format!("{}/rpc/Switch.GetStatus?id=0", server.url("http"));
    let settings = Wattmeter { url, power: "/apower".into(), ..Wattmeter::default() };
    config.meters.http.insert("plug".into(), settings);
    let (_, value) = first(&plug::BACKEND, &config, &host);
    assert_eq!(value, Value::Power(Microwatts(12_500_000)));
    assert_eq!(server.asked(), ["GET /rpc/Switch.GetStatus?id=0"]);
}
