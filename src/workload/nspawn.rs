//! Containers of systemd-nspawn.
//!
//! `machinectl start` runs one as `systemd-nspawn@<machine>.service`, a call by hand gets a scope
//! `machine-<machine>.scope` from systemd-machined; both lie in machine.slice. The units inside (`payload/…`,
//! `supervisor`) are the container's own affair. libvirt's scopes have the same form with `qemu` or `lxc` in front and
//! are left to [`super::libvirt`]. The machine's name is its id: systemd-machined lets it be used only once.

use super::systemd::{unescape, upwards};
use super::{Identity, Kind, Verdict, libvirt};
use crate::semconv::attr;

/// Says whether an nspawn container begins at `path`.
#[must_use]
pub fn classify(path: &str) -> Verdict {
    let machine = upwards(path).next().and_then(machine).filter(|machine| !machine.is_empty());
    let Some(machine) = machine.map(unescape) else { return Verdict::Unknown };
    let container = Identity::new(Kind::Container, &machine, &machine)
        .with(attr::CONTAINER_ID, &*machine)
        .with(attr::CONTAINER_RUNTIME_NAME, "systemd-nspawn");
    Verdict::Begins(vec![container])
}

fn machine(unit: &str) -> Option<&str> {
    if let Some(instance) = unit.strip_prefix("systemd-nspawn@") {
        return instance.strip_suffix(".service");
    }
    let machine = unit.strip_prefix("machine-")?.strip_suffix(".scope")?;
    libvirt::by_scope(unit).is_none().then_some(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_become_containers() {
        for (path, machine) in [
            ("/machine.slice/systemd-nspawn@deb.service", "deb"),
            ("/systemd-nspawn@deb.service", "deb"),
            (r"/machine.slice/systemd-nspawn@my\x2dbox.service", "my-box"),
            ("/machine.slice/systemd-nspawn@my-box.service", "my-box"),
            ("/machine.slice/machine-deb.scope", "deb"),
            (r"/machine.slice/machine-my\x2dbox.scope", "my-box"),
            (r"/machine.slice/machine-\xff.scope", r"\xff"),
            ("/machine.slice/machine-qemu.scope", "qemu"),
            ("/machine.slice/machine-a b ü.scope", "a b ü"),
        ] {
            let expected = Identity::new(Kind::Container, machine, machine)
                .with(attr::CONTAINER_ID, machine)
                .with(attr::CONTAINER_RUNTIME_NAME, "systemd-nspawn");
            assert_eq!(expected.id.to_string(), format!("container:{machine}"));
            assert_eq!(classify(path), Verdict::Begins(vec![expected]), "{path}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        for path in [
            "",
            "/",
            "/../b",
            "/machine.slice",
            "/machine.slice/machine-.scope",
            "/machine.slice/systemd-nspawn@.service",
            "/machine.slice/systemd-nspawn.service",
            "/machine.slice/systemd-nspawn@deb.socket",
            "/machine.slice/machine-libpod_pod_1.slice",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope",
            r"/machine.slice/machine-qemu\x2d1\x2d.scope",
            r"/machine.slice/machine-lxc\x2d1\x2dbox.scope",
            "/machine.slice/systemd-nspawn@deb.service/payload",
        ] {
            assert_eq!(classify(path), Verdict::Unknown, "{path}");
        }
    }
}
