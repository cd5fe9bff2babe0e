//! Virtual machines (and libvirt's own kind of containers) by the cgroup that their manager makes.
//!
//! libvirt asks systemd for a scope `machine-qemu\x2d<number>\x2d<domain>.scope`; without systemd it makes
//! `machine/qemu-<number>-<domain>.libvirt-qemu` itself, older versions without the number. Inside are `libvirt`,
//! `emulator`, `vcpu0`…: threads of one process, never workloads. Proxmox puts a VM in `qemu.slice/<vmid>.scope`. The
//! path names the domain only (systemd's form even lacks characters that a host name may not have), so the id holds
//! until the command line gives a UUID: see [`super::hypervisor`].

use super::systemd::{ancestors, is_number, unescape, upwards};
use super::{Identity, Kind, Verdict, docker};
use crate::semconv::attr;

/// Says whether a VM begins at `path`; `Inside` for everything below one.
#[must_use]
pub fn classify(path: &str) -> Verdict {
    match machine(path) {
        Some(identity) => Verdict::Begins(vec![identity]),
        None if ancestors(path).any(|above| machine(above).is_some()) => Verdict::Inside,
        None => Verdict::Unknown,
    }
}

fn machine(path: &str) -> Option<Identity> {
    let mut up = upwards(path);
    let name = up.next()?;
    if let Some((driver, domain)) = by_scope(name) {
        return identity(driver, &unescape(domain));
    }
    for (suffix, driver) in [(".libvirt-qemu", "qemu"), (".libvirt-lxc", "lxc")] {
        if let Some(domain) = name.strip_suffix(suffix) {
            let numbered = domain.strip_prefix(driver).and_then(|rest| rest.strip_prefix('-'));
            return identity(driver, numbered.and_then(|rest| after_number(rest, "-")).unwrap_or(domain));
        }
    }
    let proxmox = name.strip_suffix(".scope").filter(|vmid| is_number(vmid) && up.next() == Some("qemu.slice"))?;
    identity("qemu", proxmox)
}

/// The driver and the domain, escapes and all, of libvirt's scopes.
pub(super) fn by_scope(name: &str) -> Option<(&str, &str)> {
    const DASH: &str = r"\x2d";
    let machine = name.strip_prefix("machine-")?.strip_suffix(".scope")?;
    let (driver, domain) = machine.split_once(DASH)?;
    let libvirt = matches!(driver, "qemu" | "lxc");
    libvirt.then_some((driver, after_number(domain, DASH).unwrap_or(domain)))
}

/// What follows `<number><dash>`.
fn after_number<'a>(text: &'a str, dash: &str) -> Option<&'a str> {
    text.split_once(dash).filter(|(number, _)| is_number(number)).map(|(_, rest)| rest)
}

fn identity(driver: &str, domain: &str) -> Option<Identity> {
    if domain.is_empty() {
        return None;
    }
    if driver == "lxc" {
        return Some(docker::Container { id: domain, runtime: Some("lxc") }.identity());
    }
    let vm = Identity::new(Kind::Vm, domain, domain);
    Some(vm.with(attr::HOST_NAME, domain).with(attr::VM_HYPERVISOR, "kvm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_become_vms() {
        for (path, domain) in [
            (r"/machine.slice/machine-qemu\x2d1\x2dweb.scope", "web"),
            (r"/machine-qemu\x2d1\x2dweb.scope", "web"),
            (r"/machine.slice/machine-qemu\x2d12\x2dmy\x2dvm\x2d2.scope", "my-vm-2"),
            (r"/machine.slice/machine-qemu\x2dold.scope", "old"),
            (r"/machine.slice/machine-qemu\x2d1\x2dinstance\x2d0000008b.scope", "instance-0000008b"),
            (r"/machine.slice/machine-qemu\x2d1\x2d\xc3\xa4.scope", "ä"),
            (r"/machine.slice/machine-qemu\x2d1\x2d\xff.scope", r"\xff"),
            ("/machine/qemu-1-web.libvirt-qemu", "web"),
            ("/machine/qemu-3-my-vm.libvirt-qemu", "my-vm"),
            ("/machine/web.libvirt-qemu", "web"),
            ("/machine/qemu-web.libvirt-qemu", "qemu-web"),
            ("/machine/two words ü.libvirt-qemu", "two words ü"),
            ("/web.libvirt-qemu", "web"),
            ("/qemu.slice/100.scope", "100"),
        ] {
            let expected =
                Identity::new(Kind::Vm, domain, domain).with(attr::HOST_NAME, domain).with(attr::VM_HYPERVISOR, "kvm");
            assert_eq!(expected.id.to_string(), format!("vm:{domain}"));
            assert_eq!(classify(path), Verdict::Begins(vec![expected]), "{path}");
        }
    }

    #[test]
    fn lxc_domains_become_containers() {
        for path in [
            r"/machine.slice/machine-lxc\x2d77\x2dbox.scope",
            r"/machine.slice/machine-lxc\x2dbox.scope",
            "/machine/lxc-77-box.libvirt-lxc",
            "/machine/box.libvirt-lxc",
        ] {
            let expected = Identity::new(Kind::Container, "box", "box")
                .with(attr::CONTAINER_ID, "box")
                .with(attr::CONTAINER_RUNTIME_NAME, "lxc");
            assert_eq!(classify(path), Verdict::Begins(vec![expected]), "{path}");
        }
    }

    #[test]
    fn threads_are_inside() {
        for path in [
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/vcpu0",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/vcpu0",
            "/machine/qemu-1-web.libvirt-qemu/emulator",
            "/qemu.slice/100.scope/x",
        ] {
            assert_eq!(classify(path), Verdict::Inside, "{path}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        for path in [
            "",
            "/",
            "/../b",
            "/machine",
            "/machine.slice",
            "/machine.slice/machine-deb.scope",
            r"/machine.slice/machine-qemu\x2d1\x2d.scope",
            r"/machine.slice/machine-qemu\x2d.scope",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.service",
            "/machine.slice/machine-qemu.scope",
            "/machine/.libvirt-qemu",
            "/machine/qemu-1-.libvirt-qemu",
            "/machine/web.libvirt-xen",
            "/qemu.slice",
            "/qemu.slice/web.scope",
            "/qemu.slice/.scope",
            "/system.slice/100.scope",
            "/100.scope",
            "/libvirt/vcpu0",
        ] {
            assert_eq!(classify(path), Verdict::Unknown, "{path}");
        }
        assert_eq!(classify(&"/a".repeat(50_000)), Verdict::Unknown);
    }
}
