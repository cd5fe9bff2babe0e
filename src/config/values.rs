//! How one value is read: durations, words, counts, watts, endpoints, header names.
//!
//! Every function takes the text as it was written and either gives the value or a sentence that says what is
//! expected, with the unit, and what was found instead. Text from outside is shortened and escaped before it enters
//! a sentence, so that a binary file given by mistake cannot garble a terminal.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::advice::nearest;

/// The longest piece of a user's text that an error repeats, in characters.
const QUOTED_MAX: usize = 60;

/// The limits of every configurable interval.
pub(super) const INTERVAL: [Duration; 2] = [Duration::from_millis(100), HOUR];
/// The limits of the interval of a meter that is asked over a bus or a network: a gauge is integrated over 300 s at most.
pub(super) const SLOW: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(240)];
/// The limits of a request's time.
pub(super) const TIMEOUT: [Duration; 2] = [Duration::from_millis(1), HOUR];
/// The limits of a time that is looked back over.
pub(super) const WINDOW: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(24 * 3600)];
/// The most labels, or annotations, that become attributes.
const LABELS_MAX: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// A user's text for a sentence: control characters escaped, and cut.
pub(super) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().take(QUOTED_MAX) {
        if matches!(c, '\'' | '"' | '\\') { short.push(c) } else { short.extend(c.escape_debug()) }
    }
    if text.chars().nth(QUOTED_MAX).is_some() {
        short.push('…');
    }
    short
}

/// `'text'`, or `nothing`.
pub(super) fn quote(text: &str) -> String {
    if text.is_empty() { "nothing".into() } else { format!("'{}'", shorten(text)) }
}

/// `expected …, found …`.
pub(super) fn expected(what: &str, found: &str) -> String {
    format!("expected {what}, found {}", quote(found))
}

/// A whole number with a unit: `500ms`, `1s`, `2m`, `1h`, within `limits`.
pub(super) fn duration(text: &str, limits: [Duration; 2]) -> Result<Duration, String> {
    let wrong = || expected("a duration such as 500ms, 15s, 2m or 1h", text);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "" => return Err(format!("{}; write {number}s", wrong())),
        _ => return Err(wrong()),
    };
    let value = Duration::from_millis(millis.unwrap_or(u64::MAX));
    if value < limits[0] || value > limits[1] {
        return Err(expected(&format!("{} to {}", spell(limits[0]), spell(limits[1])), text));
    }
    Ok(value)
}

/// The shortest spelling that [`duration`] reads: `1h`, `15s`, `100ms`.
fn spell(value: Duration) -> String {
    match value.as_millis() {
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// One of a few words, in any case.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        return Ok(*value);
    }
    let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let advice = nearest(text, &words).map(|word| format!("; did you mean '{word}'?")).unwrap_or_default();
    Err(expected(&choice(words.iter().copied()), text) + &advice)
}

/// `a, b or c`.
fn choice<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_string(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// `true` or `false`. The other words of YAML 1.1 (`yes`, `off`) are not taken: `off` means something else here.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    word(text, &[("true", true), ("false", false)])
}

/// A whole number of at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n >= 1).ok_or_else(|| expected("a whole number of at least 1", text))
}

/// Watts: finite and not negative.
pub(super) fn watts(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|watts: &f64| watts.is_finite() && *watts >= 0.0);
    value.map(|watts| watts + 0.0).ok_or_else(|| expected("watts, a number of at least 0 such as 12.5", text))
}

/// A factor that puts an estimate right: no model is wrong by more than a hundred.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|factor| (0.01..=100.0).contains(factor));
    value.ok_or_else(|| expected("a factor from 0.01 to 100 such as 1.2", text))
}

/// The id of a zone, or nothing. Which zones there are is known only to the meters.
pub(super) fn zone(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') {
        Ok(text.into())
    } else {
        Err(expected("a zone such as ipmi:dcmi", text))
    }
}

/// A path; whether something is there is seen when it is opened.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(expected("a path", text));
    }
    Ok(text.into())
}

/// A path, or nothing.
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

/// A URL of scheme http or https with a host, as it was written. `exact` is used as it is and may have a query; to
/// any other a path is appended, so it may not.
pub(super) fn endpoint(text: &str, exact: bool) -> Result<String, String> {
    if user_info(text) {
        // Not repeated: it holds a password.
        return Err("a user name in the URL is not sent to the receiver; use export.otlp.headers".into());
    }
    // Queries may hold keys, so they are not repeated either.
    let wrong = || expected("a URL such as http://host:4317", text.split('?').next().unwrap_or_default());
    let Some((scheme, _)) = text.split_once("://") else {
        let whole = format!("http://{text}");
        let advice = if is_url(&whole) { format!("; write {whole}, or https:// for TLS") } else { String::new() };
        return Err(wrong() + &advice);
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        let advice = match scheme {
            "grpc" => "; write http:// and set export.otlp.protocol to grpc",
            _ => "; the scheme is http, or https for TLS",
        };
        return Err(wrong() + advice);
    }
    if !is_url(text) {
        return Err(wrong());
    }
    if text.contains('#') || (text.contains('?') && !exact) {
        return Err(format!("{}; a path is appended to it, so it ends before any '?' or '#'", wrong()));
    }
    Ok(text.into())
}

/// A URL of scheme http or https with a host, as it was written; nothing where nothing is written.
pub(super) fn web(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if user_info(text) {
        // Not repeated: it holds a password.
        return Err("a user name in the URL is not sent; use username and password_file".into());
    }
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !known || !is_url(text) || text.contains('#') {
        // Queries may hold keys.
        return Err(expected("a URL such as https://host", text.split('?').next().unwrap_or_default()));
    }
    Ok(Some(text.into()))
}

/// The same without a path: `https://bmc`.
pub(super) fn base(text: &str) -> Result<Option<String>, String> {
    let url = web(text)?;
    let rest = text.split_once("://").and_then(|(_, rest)| rest.trim_end_matches('/').split_once(['/', '?']));
    match rest {
        Some(_) => Err("expected a URL without a path such as https://bmc; /redfish/v1 is appended to it".into()),
        None => Ok(url.map(|url| url.trim_end_matches('/').into())),
    }
}

/// A JSON pointer (RFC 6901), or nothing.
pub(super) fn pointer(text: &str) -> Result<String, String> {
    let escaped = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if text.is_empty() || (text.starts_with('/') && escaped) {
        return Ok(text.into());
    }
    Err(expected("a JSON pointer such as /StatusSNS/ENERGY/Power", text))
}

/// A SHA-256 in hexadecimal digits, with or without colons; nothing where nothing is written.
pub(super) fn fingerprint(text: &str) -> Result<Option<[u8; 32]>, String> {
    let digits: Vec<u32> = text.chars().filter(|c| *c != ':').filter_map(|c| c.to_digit(16)).collect();
    if text.is_empty() {
        return Ok(None);
    }
    let mut bytes = [0; 32];
    if digits.len() != 64 || digits.len() + text.matches(':').count() != text.chars().count() {
        return Err(expected("the SHA-256 of a certificate, 64 hexadecimal digits", text));
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |sum, digit| sum << 4 | u8::try_from(*digit).unwrap_or(0));
    }
    Ok(Some(bytes))
}

/// Whether both the WHATWG reading (which knows ports) and that of the HTTP client (which takes no spaces,
/// backslashes or other repairs) accept it, with a host.
fn is_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.has_host())
        && text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

/// Whether a password that is sent to this URL can be read on the way.
pub(super) fn is_overheard(text: &str) -> bool {
    let Some(url) = Url::parse(text).ok().filter(|url| url.scheme() == "http") else { return false };
    match url.host() {
        Some(url::Host::Ipv4(address)) => !address.is_loopback(),
        Some(url::Host::Ipv6(address)) => !address.is_loopback(),
        Some(url::Host::Domain(name)) => name != "localhost" && !name.ends_with(".localhost"),
        None => false,
    }
}

fn user_info(text: &str) -> bool {
    let after = text.split_once("://").map_or(text, |(_, rest)| rest);
    after.split(['/', '?', '#']).next().unwrap_or_default().contains('@')
}

/// Keys of labels or annotations with commas between, in brackets or not.
pub(super) fn label_keys(text: &str) -> Result<Vec<String>, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let mut keys = Vec::new();
    for key in bare.split(',').map(str::trim).filter(|key| !key.is_empty()) {
        if !is_label_key(key) {
            return Err(expected("keys of labels such as team or app.kubernetes.io/name", key));
        }
        if !keys.iter().any(|known| known == key) {
            keys.push(key.to_owned());
        }
    }
    if keys.len() > LABELS_MAX {
        return Err(format!("expected at most {LABELS_MAX} keys, found {}", keys.len()));
    }
    Ok(keys)
}

/// `[prefix/]name` as the API server takes it.
fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let part = |text: &str, longest: usize, others: &[u8]| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        text.len() <= longest && text.bytes().all(inner) && ends(text.bytes().next()) && ends(text.bytes().next_back())
    };
    part(name, 63, b"-_.") && prefix.is_none_or(|prefix| part(prefix, 253, b"-."))
}

/// The name of a header, in lower case: names differ only by spelling, and HTTP/2 takes no capitals.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Ok(name.as_str().into()),
        // Not repeated: where a separator is missing, the name holds the value.
        Err(_) => Err("expected the name of a header: letters, digits and '-'".into()),
    }
}

/// The value of a header. It is a secret: no error repeats it.
pub(super) fn header_value(text: &str) -> Result<String, String> {
    match http::HeaderValue::from_str(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("expected the value of a header: visible ASCII characters on one line".into()),
    }
}
