//! What to do about an answer (OTLP specification, "Failures"): delivered, try again, make it smaller, or give up.
//!
//! gRPC: `CANCELLED`, `DEADLINE_EXCEEDED`, `ABORTED`, `OUT_OF_RANGE`, `UNAVAILABLE`, `DATA_LOSS` are retried, and
//! `RESOURCE_EXHAUSTED` only where a `RetryInfo` says so; without it the request is too large. HTTP: 429, 502, 503 and 504
//! are retried, 413 is too large. A receiver that names a delay (`RetryInfo`, `Retry-After`) gets it; else the delay is
//! random between nothing and an exponentially growing bound ("full jitter"). Randomness and time are arguments.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tonic::{Code, Status};

/// Longest delay that a receiver may ask for.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken, but for `rejected` points.
    Delivered {
        /// Points that the receiver refused for good.
        rejected: u64,
        /// What it said of them, or a warning.
        message: String,
    },
    /// Try again.
    Retry {
        /// Not before this long.
        after: Option<Duration>,
        /// Whether a receiver answered at all.
        reached: bool,
        /// Why.
        error: String,
    },
    /// Too large for the receiver.
    TooLarge(String),
    /// Never try this again.
    Refused(String),
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl RpcStatus {
    /// The delay of the `RetryInfo` among the details; an empty one asks for none.
    fn delay(&self) -> Option<Duration> {
        let any = self.details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(any.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
        let seconds = u64::try_from(delay.seconds).unwrap_or(0);
        let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
        Some(Duration::new(seconds, nanos).min(DELAY_MAX))
    }
}

/// Reads the body of a success. `partial_success {0, ""}` is a full success; a body that cannot be read was a success
/// all the same.
#[must_use]
pub fn of_response(body: &[u8]) -> Verdict {
    let partial = ExportMetricsServiceResponse::decode(body).ok().and_then(|response| response.partial_success);
    let partial = partial.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_data_points).unwrap_or(0);
    Verdict::Delivered { rejected, message: partial.error_message }
}

/// Reads a gRPC status. `answered`: it came from the receiver, not from the transport.
#[must_use]
pub fn of_grpc(status: &Status, answered: bool, error: String) -> Verdict {
    let after = RpcStatus::decode(status.details()).ok().and_then(|rpc| rpc.delay());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry { after, reached: answered, error },
        Code::ResourceExhausted if after.is_some() => Verdict::Retry { after, reached: true, error },
        Code::ResourceExhausted => Verdict::TooLarge(error),
        _ if !answered => Verdict::Retry { after: None, reached: false, error },
        _ => Verdict::Refused(error),
    }
}

/// An HTTP answer.
#[derive(Debug, Default, Clone, Copy)]
pub struct HttpAnswer<'a> {
    /// Status code.
    pub status: u16,
    /// `Retry-After`: seconds or a date.
    pub retry_after: Option<&'a str>,
    /// `Date`: the receiver's clock, against which a date in `Retry-After` is read.
    pub date: Option<&'a str>,
    /// Our clock, for receivers that send no `Date`.
    pub wall: Duration,
    /// The body: `google.rpc.Status` as protobuf, or a text.
    pub body: &'a [u8],
}

/// Reads an HTTP answer.
#[must_use]
pub fn of_http(answer: HttpAnswer<'_>) -> Verdict {
    if (200..300).contains(&answer.status) {
        return of_response(answer.body);
    }
    let rpc = RpcStatus::decode(answer.body).ok().filter(|rpc| !rpc.message.is_empty() || !rpc.details.is_empty());
    let text = match &rpc {
        Some(rpc) => rpc.message.clone(),
        None => String::from_utf8_lossy(answer.body).chars().filter(|c| !c.is_control()).take(200).collect(),
    };
    let error = format!("HTTP {} {}", answer.status, text.trim()).trim_end().to_owned();
    match answer.status {
        429 | 502 | 503 | 504 => {
            let named = answer.retry_after.and_then(|text| retry_after(text, answer.date, answer.wall));
            let after = named.or_else(|| rpc.and_then(|rpc| rpc.delay()));
            Verdict::Retry { after, reached: true, error }
        }
        413 => Verdict::TooLarge(error),
        _ => Verdict::Refused(error),
    }
}

/// `Retry-After` as a delay.
fn retry_after(text: &str, date: Option<&str>, wall: Duration) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(DELAY_MAX));
    }
    let then = http_date(text)?;
    let now = date.and_then(http_date).unwrap_or(wall.as_secs());
    Some(Duration::from_secs(then.saturating_sub(now)).min(DELAY_MAX))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7, the only form that may be sent).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.trim().split_once(", ")?;
    let mut words = rest.strip_suffix(" GMT")?.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if !(1970..10_000).contains(&year) || day == 0 || day > 31 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // days since 1970 of a date, years beginning in March so that the leap day comes last
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = (365 * year + year / 4 - year / 100 + year / 400 + day_of_year).checked_sub(719_468)?;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// Random numbers for delays (xorshift64*): not secret, only different on every node.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Different in every process.
    #[must_use]
    pub fn new() -> Self {
        Self::seeded(std::collections::hash_map::RandomState::new().build_hasher().finish() | 1)
    }

    /// The same for the same seed; for seed 0 always nothing, so that nothing is waited for.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// In 0..1.
    #[allow(clippy::cast_precision_loss)] // 53 bits are exact
    pub fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Default for Jitter {
    fn default() -> Self {
        Self::new()
    }
}

/// Delays between attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// Bounds of the delay grow from 1 s to `most`.
    #[must_use]
    pub const fn new(most: Duration, jitter: Jitter) -> Self {
        Self { first: Duration::from_secs(1), most, failures: 0, jitter }
    }

    /// The delay after one more failure. A delay that the receiver asked for is made up to a tenth longer, so that not
    /// every node comes back at once.
    pub fn delay(&mut self, after: Option<Duration>) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let fraction = self.jitter.fraction();
        match after {
            Some(after) if !after.is_zero() => after.mul_f64(1.0 + fraction / 10.0),
            _ => bound.mul_f64(fraction),
        }
    }

    /// It worked.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// A random part of `span`.
    pub fn spread(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.jitter.fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_the_rfc_writes_them() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:60 GMT"), Some(1_709_251_200));
        for bad in [
            "",
            "06 Nov 1994",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_on_the_receivers_clock() {
        let wall = Duration::from_secs(784_111_700);
        assert_eq!(retry_after("120", None, wall), Some(Duration::from_secs(120)));
        let then = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(then, Some("Sun, 06 Nov 1994 08:49:30 GMT"), wall), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(then, None, wall), Some(Duration::from_secs(77)));
        assert_eq!(retry_after("soon", None, wall), None);
        assert_eq!(retry_after("99999999999", None, wall), Some(DELAY_MAX));
    }

    #[test]
    fn the_delay_is_random_below_a_growing_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(30), Jitter::seeded(7));
        for bound in [1u64, 2, 4, 8, 16, 30, 30, 30] {
            assert!(backoff.delay(None) < Duration::from_secs(bound));
        }
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            longest = longest.max(backoff.delay(None));
        }
        assert!(longest > Duration::from_secs(25), "the whole range is used: {longest:?}");
        backoff.reset();
        assert!(backoff.delay(None) < Duration::from_secs(1));
        let asked = backoff.delay(Some(Duration::from_secs(10)));
        assert!(asked >= Duration::from_secs(10) && asked < Duration::from_secs(11));
    }

    #[test]
    fn every_grpc_code_has_its_verdict() {
        for code in (0..17).map(Code::from_i32) {
            let verdict = of_grpc(&Status::new(code, "no"), true, String::new());
            let retried = matches!(verdict, Verdict::Retry { .. });
            let expected = matches!(code as i32, 1 | 4 | 10 | 11 | 14 | 15);
            assert_eq!(retried, expected, "{code:?}");
            assert_eq!(matches!(verdict, Verdict::TooLarge(_)), code == Code::ResourceExhausted, "{code:?}");
        }
        let lost = of_grpc(&Status::unknown("connection reset"), false, String::new());
        assert!(matches!(lost, Verdict::Retry { reached: false, .. }), "a lost connection is no answer");
    }

    #[test]
    fn every_http_status_has_its_verdict() {
        for status in 200..600 {
            let verdict = of_http(HttpAnswer { status, ..HttpAnswer::default() });
            let expected = [429, 502, 503, 504].contains(&status);
            assert_eq!(matches!(verdict, Verdict::Retry { .. }), expected, "{status}");
            assert_eq!(matches!(verdict, Verdict::TooLarge(_)), status == 413, "{status}");
            assert_eq!(matches!(verdict, Verdict::Delivered { .. }), status < 300, "{status}");
        }
    }
}
