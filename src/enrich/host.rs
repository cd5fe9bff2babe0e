//! The node's own attributes: `host.id`, `host.name`, `host.arch`, and `k8s.node.name` where the environment gives it.
//!
//! `host.id` is the machine id of systemd (machine-id(5)), else the DMI product UUID (readable by root), else absent: a
//! made-up id would not join with anything. The host name is the kernel's, `/proc/sys/kernel/hostname`; where that is the
//! name of our own container, it is the node's until the API server says better.

use std::path::Path;

use crate::config::Config;
use crate::host::{Host, read_file};
use crate::semconv::attr;
use crate::workload::Attribute;

/// The attributes of the node's resource.
#[must_use]
pub fn attributes(host: &Host, config: &Config) -> Vec<Attribute> {
    let mut found = Vec::new();
    let mut add = |key: &'static str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            found.push((key.into(), value));
        }
    };
    add(attr::HOST_ID, machine_id(host, config));
    let kubernetes = &config.kubernetes;
    let own_name = || text(host, "proc/sys/kernel/hostname");
    add(attr::HOST_NAME, if is_veiled(host, config) { kubernetes.node_name.clone() } else { own_name() });
    add(attr::HOST_ARCH, Some(arch(std::env::consts::ARCH).to_owned()));
    add(attr::K8S_NODE_NAME, kubernetes.node_name.clone());
    add(attr::K8S_CLUSTER_NAME, kubernetes.cluster_name.clone());
    found
}

/// Whether we are in a container that shows its own name where the host's would be: a procfs of the host that is mounted
/// elsewhere still answers `sys/kernel/hostname` to each reader with the reader's own.
#[must_use]
pub fn is_veiled(host: &Host, config: &Config) -> bool {
    config.host.proc != Path::new("/proc") && host.proc_is_live()
}

fn machine_id(host: &Host, config: &Config) -> Option<String> {
    // Our own /etc is the host's only where our own /proc is.
    let own = config.host.proc == Path::new("/proc");
    let file = own.then(|| read_file(Path::new("/etc/machine-id"), 4096).ok()).flatten();
    let file = file.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    file.filter(|id| is_id(id))
        .or_else(|| text(host, "proc/1/root/etc/machine-id").filter(|id| is_id(id)))
        .or_else(|| text(host, "sys/class/dmi/id/product_uuid").map(|id| id.to_lowercase()).filter(|id| is_id(id)))
}

/// Hexadecimal digits and dashes, and not all zero (`uninitialized`, placeholders of firmware).
fn is_id(text: &str) -> bool {
    text.len() >= 32
        && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_hexdigit() && byte != b'0')
}

fn text(host: &Host, path: &str) -> Option<String> {
    let mut buffer = Vec::new();
    host.read_some(path, &mut buffer, 4096).ok()?;
    Some(String::from_utf8_lossy(&buffer).trim().to_owned())
}

/// The name that the semantic conventions give an architecture.
fn arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "x86",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::Memory;

    #[test]
    fn a_machine_tells_its_name_and_id() {
        let mut memory = Memory::default();
        memory.set_file("proc/sys/kernel/hostname", b"node-7\n").unwrap();
        memory.set_file("proc/1/root/etc/machine-id", b"0123456789abcdef0123456789abcdef\n").unwrap();
        let mut config = Config::default();
        config.kubernetes.node_name = Some("k8s-7".into());
        config.host.proc = "/host/proc".into();
        let found = attributes(&Host::memory(memory), &config);
        let get = |key: &str| found.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str());
        assert_eq!(get("host.id"), Some("0123456789abcdef0123456789abcdef"));
        assert_eq!((get("host.name"), get("k8s.node.name")), (Some("node-7"), Some("k8s-7")));
    }

    #[test]
    fn a_placeholder_is_no_id() {
        assert!(!is_id("uninitialized"));
        assert!(!is_id("00000000-0000-0000-0000-000000000000"));
        assert!(is_id("4c4c4544-0042-3510-8052-c4c04f4b3532"));
    }
}
