//! The command line of a hypervisor: identities of bounded length, and two nameless VMs never become one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::workload::hypervisor::from_command_line;

const BINARIES: &[&str] = &[
    "",
    "qemu-system-x86_64",
    "/usr/lib/xen-4.17/bin/qemu-system-i386",
    "kvm",
    "VBoxHeadless",
    "vmware-vmx",
    "firecracker",
    "cloud-hypervisor",
];

fuzz_target!(|input: (u8, &[u8])| {
    // The program decides whether there is a VM at all, so most inputs are given one.
    let program = BINARIES[usize::from(input.0) % BINARIES.len()];
    let mut line = program.as_bytes().to_vec();
    if !line.is_empty() {
        line.push(0);
    }
    line.extend_from_slice(input.1);
    let Some(found) = from_command_line(&line, "12@34") else { return };
    let id = found.id.to_string();
    assert!(id.starts_with("vm:") && id.len() > "vm:".len(), "{id:?}");
    assert!(id.chars().count() <= "vm:".len() + 255, "an id of {} characters", id.chars().count());
    let texts = found.attributes.iter().map(|(_, text)| text).chain([&found.name]);
    for text in texts {
        assert!(!text.is_empty() && text.chars().count() <= 255, "{text:?}");
    }
    assert_eq!(from_command_line(&line, "12@34").as_ref(), Some(&found), "the same line is the same VM");
});
