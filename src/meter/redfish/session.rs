//! Talking to a BMC: one session for as long as the agent lives, and every trouble as one line with the address.
//!
//! A login is a POST to `SessionService/Sessions`; the token of its answer stands in `X-Auth-Token` from then on, and the
//! session is deleted at the end, since BMCs have few of them and forget none for half an hour. A token that is no longer
//! taken is renewed once. BMCs lock accounts, so after a refusal the next try waits for 1, 3, 7 … rounds, up to ten
//! minutes; so it does after a login that was not answered, since each may have taken a session. A login that does not
//! state where its session is leaves one that cannot be deleted. A BMC without sessions is asked with basic
//! authentication.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value as Json;

use super::lockout::Lockout;
use crate::config::{Auth, Redfish};
use crate::host::http::{Answer, Failure, Http, basic};
use crate::host::{Host, read_file};
use crate::meter::Why;
use crate::meter::slow::Trouble;

/// The header that carries the session.
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// Where sessions are, where the service root does not say.
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// A BMC, and our session on it.
pub struct Bmc {
    http: Http,
    settings: Redfish,
    /// Where sessions are made.
    pub sessions: String,
    session: Option<Session>,
    /// Whether it has turned out to have no sessions.
    basic: bool,
    lockout: Lockout,
    /// What has been read in this round, while the BMC is looked over: nothing is asked for twice.
    remembered: Option<HashMap<String, Json>>,
}

struct Session {
    token: HeaderValue,
    /// What to delete at the end.
    path: Option<String>,
}

/// What to say of a password that cannot be used.
fn denied(what: String) -> Problem {
    Problem { trouble: Trouble { why: Why::Denied, what }, only_this: false }
}

/// The path of a link, whatever name the BMC gives itself in it.
fn path_alone(link: &str) -> Option<String> {
    let path = link.split_once("://").map_or(link, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    path.starts_with('/').then(|| path.to_owned())
}

/// What every request to a Redfish service says.
fn common() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("odata-version"), HeaderValue::from_static("4.0"))])
}

/// Why there is no document.
#[derive(Debug)]
pub struct Problem {
    /// For the books and for people.
    pub trouble: Trouble,
    /// Whether the BMC itself is fine, and only this document is not to be had.
    pub only_this: bool,
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        problem.trouble
    }
}

impl Bmc {
    /// A BMC that has not been asked yet; `None` if there is no URL.
    #[must_use]
    pub fn new(settings: &Redfish) -> Option<Self> {
        let http = Http::new(settings.url.as_deref()?, &settings.trust, settings.timeout)?;
        Some(Self {
            http,
            settings: settings.clone(),
            sessions: SESSIONS.into(),
            session: None,
            basic: settings.auth == Auth::Basic,
            lockout: Lockout::default(),
            remembered: None,
        })
    }

    /// What another thread calls once to end the running request and all that follow but [`Bmc::close`].
    #[must_use]
    pub fn interrupt_handle(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.http.interrupt_handle()
    }

    /// Whether there is a session to delete.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.path.is_some())
    }

    /// Whether there is a session that cannot be deleted, since the login did not say where it is.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.path.is_none())
    }

    /// Called once each round: whether it is still too early after a refusal.
    pub fn pauses(&mut self) -> Option<Trouble> {
        self.lockout.waits()
    }

    /// Whether documents are kept, until this is called again.
    pub fn remember(&mut self, yes: bool) {
        self.remembered = yes.then(HashMap::new);
    }

    /// The path of a link on this BMC.
    #[must_use]
    pub fn path_of(&self, link: &str) -> Option<String> {
        self.http.path_of(link)
    }

    /// The URL of a path, for people.
    #[must_use]
    pub fn shown(&self, path: &str) -> String {
        format!("{}{path}", self.http.origin())
    }

    /// A document that needs no login.
    ///
    /// # Errors
    /// Why it did not come.
    pub fn open(&mut self, host: &Host, path: &str) -> Result<Json, Problem> {
        let answer = self.http.get(host, path, &common()).map_err(|failure| self.failed(path, &failure))?;
        self.document(path, &answer)
    }

    /// A document.
    ///
    /// # Errors
    /// Why it did not come.
    pub fn get(&mut self, host: &Host, path: &str) -> Result<Json, Problem> {
        if let Some(known) = self.remembered.as_ref().and_then(|known| known.get(path)) {
            return Ok(known.clone());
        }
        let mut answer = self.ask(host, path)?;
        if answer.status == 401 && self.session.take().is_some() {
            // It has expired, or the BMC was restarted.
            answer = self.ask(host, path)?;
        }
        if answer.status == 401 {
            self.close(host);
            return Err(self.refuse(path, 401));
        }
        let document = self.document(path, &answer)?;
        self.lockout.reset();
        if let Some(known) = &mut self.remembered {
            known.insert(path.to_owned(), document.clone());
        }
        Ok(document)
    }

    fn ask(&mut self, host: &Host, path: &str) -> Result<Answer, Problem> {
        let headers = self.credentials(host)?;
        self.http.get(host, path, &headers).map_err(|failure| self.failed(path, &failure))
    }

    /// The headers of a request, after a login where one is needed.
    fn credentials(&mut self, host: &Host) -> Result<HeaderMap, Problem> {
        let mut headers = common();
        let Some(username) = self.settings.username.clone().filter(|_| self.settings.auth != Auth::None) else {
            return Ok(headers);
        };
        if !self.basic && self.session.is_none() {
            self.login(host, &username)?;
        }
        if let Some(session) = &self.session {
            headers.insert(TOKEN, session.token.clone());
        } else {
            let value = basic(&username, &self.password()?);
            let unusable = || denied("meters.redfish: the password cannot be sent in a header".into());
            headers.insert(header::AUTHORIZATION, value.ok_or_else(unusable)?);
        }
        Ok(headers)
    }

    fn login(&mut self, host: &Host, username: &str) -> Result<(), Problem> {
        let path = self.sessions.clone();
        let body = serde_json::json!({"UserName": username, "Password": self.password()?}).to_string();
        let answer = self.http.post(host, &path, &common(), body.into_bytes());
        let answer = answer.map_err(|failure| self.unanswered(&path, &failure))?;
        match answer.status {
            200..=299 => {
                let Some(mut token) = answer.headers.get(TOKEN).cloned() else {
                    let what = "the login gave no X-Auth-Token; set meters.redfish.auth to basic";
                    let problem = self.problem(&path, Why::Malformed, what, false);
                    self.lockout.refuse(self.settings.interval, &problem.trouble);
                    return Err(problem);
                };
                token.set_sensitive(true);
                let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                let stated = location
                    .map(str::to_owned)
                    .or_else(|| super::payload::link(&serde_json::from_slice(answer.text()).ok()?));
                self.session = Some(Session { token, path: stated.as_deref().and_then(path_alone) });
                Ok(())
            }
            400 | 401 | 403 => Err(self.refuse(&path, answer.status)),
            404 | 405 | 501 => {
                self.basic = true;
                Ok(())
            }
            300..=399 => {
                let what = format!("HTTP {}: the login is redirected, and not followed", answer.status);
                Err(self.problem(&path, Why::Gone, &what, false))
            }
            status => Err(self.problem(
                &path,
                Why::Gone,
                &format!("no session: HTTP {status}; it may have no free one"),
                false,
            )),
        }
    }

    /// Ends the session.
    pub fn close(&mut self, host: &Host) {
        let Some(Session { token, path: Some(path) }) = self.session.take() else { return };
        let _ = self.http.delete(host, &path, &HeaderMap::from_iter([(TOKEN, token)]));
    }

    fn password(&self) -> Result<String, Problem> {
        if let Some(password) = &self.settings.password {
            return Ok(password.0.clone());
        }
        let Some(path) = &self.settings.password_file else { return Ok(String::new()) };
        match read_file(path, 4096) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                let what = format!("meters.redfish.password_file: cannot read {}: {error}", path.display());
                Err(denied(what))
            }
        }
    }

    fn document(&self, path: &str, answer: &Answer) -> Result<Json, Problem> {
        match answer.status {
            200..=299 => serde_json::from_slice(answer.text()).map_err(|_| {
                let text = answer.text().trim_ascii_start();
                let what = if text.starts_with(b"<") {
                    "the answer is a page of HTML and no JSON; is this a Redfish service?".to_owned()
                } else {
                    "the answer is no JSON, or half of it; the BMC may be starting".to_owned()
                };
                self.problem(path, Why::Malformed, &what, true)
            }),
            401 => Err(self.problem(path, Why::Denied, &self.advice(401), false)),
            403 => {
                Err(self.problem(path, Why::Denied, "HTTP 403; the user needs a role that may read (ReadOnly)", false))
            }
            503 => Err(self.problem(path, Why::Busy, "HTTP 503; the BMC is busy or starting", false)),
            status => Err(self.problem(path, Why::Gone, &format!("HTTP {status}"), true)),
        }
    }

    /// A refused login: the next one waits.
    fn refuse(&mut self, path: &str, status: u16) -> Problem {
        let problem = self.problem(path, Why::Denied, &self.advice(status), false);
        self.lockout.refuse(self.settings.interval, &problem.trouble);
        problem
    }

    /// A login that was not answered: the next one waits if it may have come in and taken a session.
    fn unanswered(&mut self, path: &str, failure: &Failure) -> Problem {
        use Failure::{Name, Redirect, Refused, Stopped, Tls};
        if matches!(failure, Name(_) | Redirect(_) | Refused | Stopped | Tls(_)) {
            return self.failed(path, failure);
        }
        let what = format!("the login: {failure} (tried ever less often, since each try may take a session)");
        let problem = self.problem(path, Why::Gone, &what, false);
        self.lockout.refuse(self.settings.interval, &problem.trouble);
        problem
    }

    fn advice(&self, status: u16) -> String {
        match &self.settings.username {
            Some(_) if self.settings.auth != Auth::None => format!(
                "HTTP {status}: the user or the password is not accepted; check meters.redfish.username and its \
                 password (tried ever less often, since BMCs lock accounts)"
            ),
            _ => format!("HTTP {status}: it wants a login; set meters.redfish.username and password_file"),
        }
    }

    fn failed(&self, path: &str, failure: &Failure) -> Problem {
        let why = if matches!(failure, Failure::Tls(_)) { Why::Denied } else { Why::Gone };
        self.problem(path, why, &failure.to_string(), false)
    }

    fn problem(&self, path: &str, why: Why, what: &str, only_this: bool) -> Problem {
        Problem { trouble: Trouble { why, what: format!("{}: {what}", self.shown(path)) }, only_this }
    }
}
