//! The identity of a virtual machine, from the command line of the process that runs it.
//!
//! Reads what `/proc/PID/cmdline` holds (arguments, NUL-separated, any bytes) of QEMU with KVM or Xen, `VirtualBox`,
//! `VMware`, Firecracker and Cloud Hypervisor. Only the program itself (the first argument) decides whether there is
//! a VM, so an editor with a QEMU file open or a shell with QEMU in its script is none, nor are QEMU's tools. A VM
//! without UUID and name takes the caller's `fallback` into its id: two nameless VMs must not become one. Work is
//! bounded: at most 64 KiB are looked at, and no id or name gets longer than 255 characters.

use super::{Identity, Kind};
use crate::semconv::attr;

/// How far a command line is read, in bytes: managers give name and UUID near the front, disks and devices follow.
const LOOK_AT: usize = 64 * 1024;

/// The longest text taken over from a command line, in characters.
const TEXT_MAX: usize = 255;

/// The VM that a process with this command line runs, or `None` if it runs none. `fallback` must differ between any
/// two processes of the node (such as `<pid>@<starttime>`).
#[must_use]
pub fn from_command_line(cmdline: &[u8], fallback: &str) -> Option<Identity> {
    let line = CommandLine::new(cmdline);
    let path = line.args().next()?;
    let program = path.rsplit(|byte| *byte == b'/').next()?;
    match program {
        b"VBoxHeadless" | b"VirtualBoxVM" | b"VBoxSDL" => virtualbox(line),
        b"firecracker" | b"cloud-hypervisor" => Some(micro(line, &String::from_utf8_lossy(program), fallback)),
        _ if program.starts_with(b"vmware-vmx") => Some(vmware(line, fallback)),
        _ if is_qemu(program) && is_xen(line, path) => Some(xen(line, fallback)),
        _ if is_qemu(program) => Some(kvm(line, fallback)),
        _ => None,
    }
}

/// `qemu-system-<arch>` (in Nix behind a dot), `qemu-kvm` of RHEL, `kvm` of Proxmox, `qemu-dm` of old Xen.
fn is_qemu(program: &[u8]) -> bool {
    let program = program.strip_prefix(b".").unwrap_or(program);
    let emulator = program.strip_prefix(b"qemu-system-").is_some_and(|arch| !arch.is_empty());
    emulator || matches!(program, b"qemu" | b"qemu-kvm" | b"kvm" | b"qemu-dm")
}

/// Xen's device model is QEMU too: told by its option, or by a directory like `/usr/lib/xen-4.17/bin`.
fn is_xen(line: CommandLine<'_>, path: &[u8]) -> bool {
    let directory = path.rsplit(|byte| *byte == b'/').skip(1).any(|name| name.starts_with(b"xen"));
    directory || line.options("xen-domid").next().is_some()
}

fn kvm(line: CommandLine<'_>, fallback: &str) -> Identity {
    let (name, uuid) = (qemu_name(line), qemu_uuid(line));
    let nameless = || match &uuid {
        Some(uuid) => format!("kvm-{}", uuid.get(..8).unwrap_or(uuid)),
        None => format!("qemu-{fallback}"),
    };
    let name = name.unwrap_or_else(nameless);
    vm("kvm", uuid.as_deref().unwrap_or(&name), &name, uuid.as_deref())
}

fn xen(line: CommandLine<'_>, fallback: &str) -> Identity {
    let (name, domid) = (qemu_name(line), line.value("xen-domid"));
    let nameless = || format!("xen-{}", domid.as_deref().unwrap_or(fallback));
    let name = name.unwrap_or_else(nameless);
    vm("xen", domid.as_deref().unwrap_or(&name), &name, qemu_uuid(line).as_deref())
}

/// Without a comment or a machine to start these programs print their usage and end: no VM.
fn virtualbox(line: CommandLine<'_>) -> Option<Identity> {
    let (comment, machine) = (line.value("comment"), line.value("startvm"));
    let machine = machine.map(|machine| uuid(machine.trim_matches(['{', '}'])).unwrap_or(machine));
    let id = machine.as_ref().or(comment.as_ref())?;
    let name = comment.clone().unwrap_or_else(|| match uuid(id) {
        Some(uuid) => format!("virtualbox-{}", uuid.get(..8).unwrap_or(&uuid)),
        None => id.clone(),
    });
    Some(vm("virtualbox", id, &name, uuid(id).as_deref()))
}

/// `VMware` names the machine by its configuration file, `…/<name>.vmx`, mostly as the last argument.
fn vmware(line: CommandLine<'_>, fallback: &str) -> Identity {
    let stem = |arg: &[u8]| -> Option<String> {
        let file = arg.strip_suffix(b".vmx")?.rsplit(|byte| *byte == b'/').next()?;
        text(file)
    };
    let name = line.args().skip(1).filter_map(stem).last().unwrap_or_else(|| format!("vmware-{fallback}"));
    vm("vmware", &name, &name, None)
}

/// Firecracker has `--id`; Cloud Hypervisor has no name but may be given a UUID: `--platform uuid=…`. Both use KVM.
fn micro(line: CommandLine<'_>, program: &str, fallback: &str) -> Identity {
    let platform = line.value("platform").and_then(|list| uuid(&list_value(&list, "uuid", None)?));
    let id = line.value("id").or_else(|| platform.clone()).unwrap_or_else(|| format!("{program}-{fallback}"));
    let uuid = platform.or_else(|| uuid(&id));
    vm("kvm", &id, &id, uuid.as_deref())
}

fn vm(hypervisor: &'static str, id: &str, name: &str, uuid: Option<&str>) -> Identity {
    let (id, name) = (bounded(id), bounded(name));
    let mut identity = Identity::new(Kind::Vm, id, name);
    if let Some(uuid) = uuid {
        identity = identity.with(attr::HOST_ID, uuid);
    }
    identity.with(attr::HOST_NAME, name).with(attr::VM_HYPERVISOR, hypervisor)
}

/// `text` up to its [`TEXT_MAX`]th character.
fn bounded(text: &str) -> &str {
    text.char_indices().nth(TEXT_MAX).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// `-name <name>` or `-name guest=<name>`, with more behind a comma.
fn qemu_name(line: CommandLine<'_>) -> Option<String> {
    list_value(&line.value("name")?, "guest", Some("guest"))
}

/// `-uuid <uuid>`, or where Proxmox gives it: `-smbios type=1,uuid=<uuid>`.
fn qemu_uuid(line: CommandLine<'_>) -> Option<String> {
    let tables = line.options("smbios").filter_map(text).filter_map(|table| list_value(&table, "uuid", None));
    line.value("uuid").into_iter().chain(tables).find_map(|found| uuid(&found))
}

/// The value of `key` in `key=value,key=value`, where `,,` is a comma within a value and a first item without `=` is
/// the value of `implied` (qemu(1), the keyval syntax of options).
fn list_value(list: &str, key: &str, implied: Option<&str>) -> Option<String> {
    // No option of a hypervisor has a NUL in it, so it may hold the place of the doubled comma.
    let list = list.replace(",,", "\0");
    let mut items = list.split(',').enumerate().map(|(place, item)| match item.split_once('=') {
        None if place == 0 => (implied, item),
        None => (Some(item), ""),
        Some((key, value)) => (Some(key), value),
    });
    let (_, value) = items.find(|(found, value)| *found == Some(key) && !value.is_empty())?;
    Some(value.replace('\0', ","))
}

/// `text` in lower case, if it is a UUID.
fn uuid(text: &str) -> Option<String> {
    is_uuid(text).then(|| text.to_ascii_lowercase())
}

/// Whether `text` is a UUID in its usual form: 8-4-4-4-12 hex digits of either case.
pub(super) fn is_uuid(text: &str) -> bool {
    let dash = |place| matches!(place, 8 | 13 | 18 | 23);
    let fits = |(place, byte): (usize, u8)| if dash(place) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// Bytes as text, unless there are none.
fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// The arguments of a process, as far as they are looked at.
#[derive(Clone, Copy)]
struct CommandLine<'a>(&'a [u8]);

impl<'a> CommandLine<'a> {
    /// An argument that goes on beyond the limit is left out: half a name is the wrong name.
    fn new(cmdline: &'a [u8]) -> Self {
        let Some(head) = cmdline.get(..LOOK_AT) else { return Self(cmdline) };
        let end = head.iter().rposition(|byte| *byte == 0).unwrap_or(0);
        Self(head.get(..end).unwrap_or_default())
    }

    fn args(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == 0)
    }

    /// The values of `-option value`, `--option value`, `-option=value` and `--option=value`, as often as it is given;
    /// empty where the option stands without one.
    fn options(self, option: &str) -> impl Iterator<Item = &'a [u8]> {
        let mut args = self.args().skip(1);
        std::iter::from_fn(move || {
            while let Some(arg) = args.next() {
                let name = arg.strip_prefix(b"--").or_else(|| arg.strip_prefix(b"-"));
                match name.and_then(|name| name.strip_prefix(option.as_bytes())) {
                    Some([]) => return Some(args.next().filter(|value| !value.starts_with(b"-")).unwrap_or_default()),
                    Some([b'=', value @ ..]) => return Some(value),
                    _ => {}
                }
            }
            None
        })
    }

    /// The first value of an option that has one.
    fn value(self, option: &str) -> Option<String> {
        self.options(option).find_map(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "df12672f-fedb-4f6f-9d51-0166868835fb";

    fn read(line: &str) -> Option<Identity> {
        from_command_line(line.replace("<uuid>", UUID).replace(' ', "\0").as_bytes(), "42@1000")
    }

    /// Command line (a space for each NUL), hypervisor, id, name; with UUID if `<uuid>` is in the line.
    const ROWS: &[(&str, &str, &str, &str)] = &[
        ("qemu-system-x86_64 -name guest=test-vm,debug-threads=on -uuid <uuid>", "kvm", UUID, "test-vm"),
        ("/usr/bin/qemu-system-x86_64 -name guest=test-vm,debug-threads=on -m 1", "kvm", "test-vm", "test-vm"),
        ("/usr/bin/qemu-system-x86_64 -name debug-threads=on,guest=test-vm", "kvm", "test-vm", "test-vm"),
        ("qemu-system-x86_64 -name simple-vm", "kvm", "simple-vm", "simple-vm"),
        ("qemu-system-x86_64 -m 4 -name=test-vm", "kvm", "test-vm", "test-vm"),
        ("qemu-system-x86_64 --name=test-vm --uuid=<uuid>", "kvm", UUID, "test-vm"),
        ("qemu-system-aarch64 -name guest=arm,process=x -uuid <uuid>", "kvm", UUID, "arm"),
        ("qemu-system-aarch64 -name arm", "kvm", "arm", "arm"),
        ("/usr/libexec/qemu-kvm -name guest=instance-0000008b,x=y -uuid <uuid>", "kvm", UUID, "instance-0000008b"),
        ("/usr/libexec/qemu-kvm -name guest=instance-0000008b", "kvm", "instance-0000008b", "instance-0000008b"),
        ("/usr/bin/kvm -name test-vm", "kvm", "test-vm", "test-vm"),
        ("/usr/bin/kvm -id 100 -name web,debug-threads=on -smbios type=1,uuid=<uuid>", "kvm", UUID, "web"),
        ("kvm -smbios type=0,vendor=x -smbios type=1,uuid=<uuid> -name web", "kvm", UUID, "web"),
        ("/nix/store/x/bin/.qemu-system-x86_64-wrapped -name nix", "kvm", "nix", "nix"),
        ("qemu-system-x86_64 -name a,,b,debug-threads=on", "kvm", "a,b", "a,b"),
        ("qemu -uuid <uuid>", "kvm", UUID, "kvm-df12672f"),
        ("/usr/bin/qemu-system-x86_64 -m 1024", "kvm", "qemu-42@1000", "qemu-42@1000"),
        ("/usr/bin/qemu-system-x86_64 -name debug-threads=on", "kvm", "qemu-42@1000", "qemu-42@1000"),
        ("/usr/bin/qemu-system-x86_64 -name", "kvm", "qemu-42@1000", "qemu-42@1000"),
        ("/usr/bin/qemu-system-x86_64 -name -uuid nonsense", "kvm", "qemu-42@1000", "qemu-42@1000"),
        ("VBoxHeadless --comment Ubuntu --startvm <uuid> --vrde config", "virtualbox", UUID, "Ubuntu"),
        ("VBoxHeadless --comment Ubuntu --startvm {<uuid>}", "virtualbox", UUID, "Ubuntu"),
        ("/usr/lib/virtualbox/VirtualBoxVM -comment Win -startvm <uuid>", "virtualbox", UUID, "Win"),
        ("VirtualBoxVM --startvm <uuid>", "virtualbox", UUID, "virtualbox-df12672f"),
        ("VBoxHeadless --startvm web", "virtualbox", "web", "web"),
        ("VBoxSDL --comment Only", "virtualbox", "Only", "Only"),
        ("/usr/lib/vmware/bin/vmware-vmx -s a=b -# product=1 /path/UbuntuVM.vmx", "vmware", "UbuntuVM", "UbuntuVM"),
        ("vmware-vmx-debug UbuntuVM.vmx", "vmware", "UbuntuVM", "UbuntuVM"),
        ("vmware-vmx -s a=b", "vmware", "vmware-42@1000", "vmware-42@1000"),
        ("/usr/lib/xen/bin/qemu-system-i386 -xen-domid 5 -name guest", "xen", "5", "guest"),
        ("/usr/lib/xen/bin/qemu-system-i386 -xen-domid 5", "xen", "5", "xen-5"),
        ("/usr/lib/xen-4.17/bin/qemu-system-i386 -xen-domid -name guest", "xen", "guest", "guest"),
        ("/usr/lib/xen/bin/qemu-system-i386 -name guest -xen-domid", "xen", "guest", "guest"),
        ("/usr/bin/qemu-system-i386 -xen-domid 7 -uuid <uuid>", "xen", "7", "xen-7"),
        ("/usr/lib/xen/bin/qemu-system-i386", "xen", "xen-42@1000", "xen-42@1000"),
        ("/firecracker --id 551e7604 --start-time-us 1", "kvm", "551e7604", "551e7604"),
        ("firecracker --api-sock /x", "kvm", "firecracker-42@1000", "firecracker-42@1000"),
        ("/usr/bin/cloud-hypervisor --id web --kernel k", "kvm", "web", "web"),
        ("cloud-hypervisor --platform num_pci_segments=1,uuid=<uuid>", "kvm", UUID, UUID),
        ("cloud-hypervisor --api-socket /x", "kvm", "cloud-hypervisor-42@1000", "cloud-hypervisor-42@1000"),
    ];

    #[test]
    fn command_lines_of_vms() {
        for (line, hypervisor, id, name) in ROWS {
            let mut expected = Identity::new(Kind::Vm, id, name);
            if line.contains("<uuid>") {
                expected = expected.with(attr::HOST_ID, UUID);
            }
            let expected = expected.with(attr::HOST_NAME, *name).with(attr::VM_HYPERVISOR, *hypervisor);
            assert_eq!(expected.id.to_string(), format!("vm:{id}"));
            assert_eq!(read(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn everything_else_is_no_vm() {
        for line in [
            "",
            " ",
            "   qemu-system-x86_64",
            "/usr/bin/firefox -name x",
            "qemu-img convert a b",
            "/usr/bin/qemu-ga --method=virtio-serial",
            "qemu-nbd -c /dev/nbd0 x",
            "qemu-storage-daemon --name x",
            "qemu-x86_64 ./a.out",
            "qemu-system- -name x",
            "vim qemu-system.c",
            "qemu-system.c",
            "bash -c qemu-system-x86_64 -name x",
            "sh /usr/bin/kvm -name x",
            "kvm-ok",
            "/opt/qemu-system-x86_64/ -name x",
            "VBoxHeadless",
            "VBoxHeadless --comment --vrde",
            "VBoxManage startvm --startvm x",
            "VirtualBox",
            "vmware x.vmx",
            "firecracker-jailer --id x",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
        assert_eq!(from_command_line(b"bash\0-c\0exec qemu-system-x86_64 -name x", "1@1"), None);
    }

    #[test]
    fn nameless_vms_stay_apart() {
        let id = |fallback| from_command_line(b"/usr/bin/qemu-system-x86_64\0", fallback).map(|vm| vm.id);
        assert_ne!(id("1@5"), id("2@5"));
    }

    #[test]
    fn a_uuid_has_one_spelling() {
        let upper = UUID.to_ascii_uppercase();
        assert_eq!(read(&format!("kvm -uuid {upper} -name x")), read("kvm -uuid <uuid> -name x"));
        let shapes =
            [UUID, &upper, &UUID[1..], "df12672f_fedb-4f6f-9d51-0166868835fb", "é12672f-fedb-4f6f-9d51-0166868835fb"];
        assert_eq!(shapes.map(is_uuid), [true, true, false, false, false]);
    }

    #[test]
    fn hostile_command_lines() {
        let name = |line: &[u8]| from_command_line(line, "1@1").map(|vm| vm.name);
        assert_eq!(name(b"kvm\0-name\0a\xff\xfe b\n\0").as_deref(), Some("a\u{fffd}\u{fffd} b\n"));
        assert_eq!(name(b"/usr/bin/\xff\0-name\0x"), None);
        assert_eq!(name(b"kvm\0-name\0\0"), Some("qemu-1@1".to_owned()));
        let endless = [b"kvm\0-name\0".as_slice(), &b"x".repeat(200_000)].concat();
        assert_eq!(name(&endless).as_deref(), Some("qemu-1@1"), "an argument beyond the limit");
        let long = [b"kvm\0-name\0".as_slice(), "ä".repeat(1000).as_bytes()].concat();
        assert_eq!(name(&long), Some("ä".repeat(255)));
        let far = format!("kvm\0-name\0x\0-smbios\0type=1,serial={},uuid={UUID}\0", "s".repeat(1000));
        assert_eq!(from_command_line(far.as_bytes(), "1@1"), read("kvm -name x -uuid <uuid>"));
        let late = [b"kvm\0".as_slice(), &b"-x\0".repeat(50_000), b"-name\0late"].concat();
        assert_eq!(name(&late).as_deref(), Some("qemu-1@1"));
        assert_eq!(name(&vec![0; 1_000_000]), None);
        assert_eq!(name(&vec![b'q'; 1_000_000]), None);
        let empty = [b"kvm".as_slice(), &vec![0; 1_000_000]].concat();
        assert_eq!(name(&empty).as_deref(), Some("qemu-1@1"));
    }
}
