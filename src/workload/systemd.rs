//! systemd units: which cgroup directories are services and which are slices.
//!
//! Rules of systemd.unit(5), systemd.slice(5) and the cgroup delegation document: a unit's directory bears the unit's
//! name, slices nest, and `\xNN` stands for a byte that may not be in a unit name. Ids and the unit attribute keep the
//! escapes, because that is how `systemctl` wants them; names show the bytes. A scope of a login session or of an
//! application that a user manager started is no workload of its own: it belongs to the user's slice or to the user's
//! manager. This file also holds what the other classifiers need to read cgroup paths.

use std::borrow::Cow;

use super::{Identity, Kind, Verdict};
use crate::semconv::attr;

/// Units that own processes and are neither slice nor scope. (Timers, targets and paths never have a cgroup.)
const UNITS: [&str; 4] = [".service", ".mount", ".socket", ".swap"];

/// Says whether a unit or a slice begins at `path`.
#[must_use]
pub fn classify(path: &str) -> Verdict {
    let mut up = upwards(path);
    let Some(unit) = up.next() else { return Verdict::Unknown };
    let is = |suffix: &str| unit.len() > suffix.len() && unit.ends_with(suffix);
    if is(".slice") {
        let mut slice = begin(Kind::Slice, path, unit);
        if let Some(uid) = slice_user(unit) {
            slice = slice.with(attr::USER_ID, uid);
        }
        return Verdict::Begins(vec![slice]);
    }
    if is(".scope") && up.any(|above| slice_user(above).is_some() || is_user_manager(above)) {
        return Verdict::Inside;
    }
    if is(".scope") || UNITS.into_iter().any(is) {
        return Verdict::Begins(vec![begin(Kind::Service, path, unit).with(attr::SYSTEMD_UNIT, unit)]);
    }
    Verdict::Unknown
}

fn begin(kind: Kind, path: &str, unit: &str) -> Identity {
    Identity::new(kind, path, &unescape(unit)).with(attr::CGROUP, path)
}

/// The user id of `user-<uid>.slice`.
fn slice_user(unit: &str) -> Option<&str> {
    unit.strip_prefix("user-")?.strip_suffix(".slice").filter(|uid| is_number(uid))
}

/// `user@<uid>.service`, below which a user's own systemd keeps its units.
fn is_user_manager(unit: &str) -> bool {
    unit.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service")).is_some_and(is_number)
}

/// The components of a cgroup path, the last one first. Empty ones do not count.
pub(super) fn upwards(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.rsplit('/').filter(|component| !component.is_empty())
}

/// The paths of the directories above `path`, the nearest first, without the root.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let above = |path: &str| path.trim_end_matches('/').rfind('/');
    let cut = move |path| above(path).and_then(|end| path.get(..end)).filter(|rest| !rest.is_empty());
    std::iter::successors(cut(path), move |path| cut(path))
}

/// Whether `text` is a decimal number.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Replaces every `\xNN` by its byte. What would not be readable text then (not UTF-8, or control characters, which a
/// terminal obeys) stays as it is.
pub(super) fn unescape(unit: &str) -> Cow<'_, str> {
    if !unit.contains("\\x") {
        return Cow::Borrowed(unit);
    }
    let mut bytes = Vec::with_capacity(unit.len());
    let mut rest = unit.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', high, low, tail @ ..] => hex(*high).zip(hex(*low)).map(|(h, l)| (h << 4 | l, tail)),
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = tail;
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Cow::Owned(text),
        _ => Cow::Borrowed(unit),
    }
}

/// The value of one hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind and name that must begin at a path; the id must be the path itself.
    fn check(path: &str, kind: Kind, name: &str, last: (&'static str, &str)) {
        let expected = Identity::new(kind, path, name).with(attr::CGROUP, path);
        let expected = if last.0.is_empty() { expected } else { expected.with(last.0, last.1) };
        assert_eq!(classify(path), Verdict::Begins(vec![expected]), "{path}");
    }

    #[test]
    fn services_keep_path_and_suffix() {
        for (path, name) in [
            ("/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/ssh.service", "ssh.service"),
            ("/ssh.service", "ssh.service"),
            ("/init.scope", "init.scope"),
            ("/system.slice/docker.socket", "docker.socket"),
            ("/system.slice/tmp.mount", "tmp.mount"),
            ("/system.slice/swapfile.swap", "swapfile.swap"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            ("/system.slice/run-r1234.scope", "run-r1234.scope"),
            ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/dbus.service", "dbus.service"),
            ("/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.socket", "pipewire.socket"),
            ("/system.slice/a b.service", "a b.service"),
            ("/system.slice/größe.service", "größe.service"),
            ("/../b.service", "b.service"),
        ] {
            check(path, Kind::Service, name, (attr::SYSTEMD_UNIT, name));
        }
        let long = format!("/system.slice/{}.service", "x".repeat(4000));
        check(&long, Kind::Service, &long[14..], (attr::SYSTEMD_UNIT, &long[14..]));
    }

    #[test]
    fn escapes_stay_in_ids_and_units_but_not_in_names() {
        for (unit, name) in [
            (r"mnt-my\x2ddata.mount", "mnt-my-data.mount"),
            (r"dev-disk-by\x2duuid-1.swap", "dev-disk-by-uuid-1.swap"),
            (r"a\xc3\xa4.service", "aä.service"),
            (r"bad\xff.service", r"bad\xff.service"),
            (r"bell\x07.service", r"bell\x07.service"),
            (r"cut\x2.service", r"cut\x2.service"),
            (r"no\xzz\x2dhex.service", r"no\xzz-hex.service"),
            (r"plus\x+1.service", r"plus\x+1.service"),
        ] {
            check(&format!("/system.slice/{unit}"), Kind::Service, name, (attr::SYSTEMD_UNIT, unit));
        }
        assert_eq!(unescape(r"end\x"), r"end\x");
    }

    #[test]
    fn slices_know_their_user() {
        for (path, name, user) in [
            ("/system.slice", "system.slice", None),
            ("/user.slice", "user.slice", None),
            ("/user.slice/user-1000.slice", "user-1000.slice", Some("1000")),
            ("/user.slice/user-.slice", "user-.slice", None),
            ("/user.slice/user-me.slice", "user-me.slice", None),
            ("/kubepods.slice/kubepods-burstable.slice", "kubepods-burstable.slice", None),
            (r"/system.slice/system-a\x2db.slice", "system-a-b.slice", None),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice", "app.slice", None),
        ] {
            check(path, Kind::Slice, name, user.map_or(("", ""), |uid| (attr::USER_ID, uid)));
        }
    }

    #[test]
    fn scopes_of_users_are_inside() {
        for path in [
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-12.scope",
            "/user@1000.service/app.slice/app-x.scope",
        ] {
            assert_eq!(classify(path), Verdict::Inside, "{path}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        for path in [
            "",
            "/",
            "//",
            "/..",
            "/../b",
            "/docker",
            "/kubepods",
            "/kubepods/burstable",
            "/.service",
            "/.slice",
            "/system.slice/.scope",
            "/system.slice/nginx.service/worker",
            "/system.slice/foo.timer",
            "/system.slice/nginx.service ",
            "/SYSTEM.SLICE",
        ] {
            assert_eq!(classify(path), Verdict::Unknown, "{path}");
        }
    }

    #[test]
    fn paths_are_read_upwards() {
        assert_eq!(upwards("//a///b/").collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a"]);
        assert_eq!(ancestors("a//b/").collect::<Vec<_>>(), ["a/"]);
        assert_eq!(ancestors("/").count() + ancestors("").count() + ancestors("/a").count(), 0);
    }
}
