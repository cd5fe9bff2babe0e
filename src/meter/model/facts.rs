//! What the machine says of itself without being asked over a network: `/proc/cpuinfo`, `/proc/meminfo`, DMI.
//!
//! DMI lies under `/sys/class/dmi/id`, of which four files are readable by everybody. AWS Nitro writes the instance type
//! to `product_name`, Google's says only whose it is, Azure is told by its asset tag. A guest is told by the flag
//! `hypervisor` of x86, elsewhere by DMI, and by an instance type that is known and no whole host; where none of them is
//! there the machine is taken for bare metal. What others know of the instance type, the user or a node label, comes
//! from outside. A type that the machine contradicts counts for nothing, and it is kept why.

use crate::host::Host;
use crate::meter::model::instances;
use crate::meter::processor::{self, Processor};

/// Azure's `chassis_asset_tag`, the same on all of its machines.
const AZURE: &str = "7783-7084-3265-9085-8269-3286-77";
/// In `sys_vendor` or `product_name` of guests.
const VIRTUAL: &[&str] = &[
    "QEMU",
    "KVM",
    "VMware",
    "VirtualBox",
    "Virtual Machine",
    "HVM domU",
    "OpenStack",
    "Bochs",
    "Droplet",
    "vServer",
    "KubeVirt",
    "Parallels",
    "BHYVE",
    "Apple Virtualization",
];
/// What begins `sys_vendor` or `product_name` at clouds that say nothing else there. Some of them have bare metal too, so
/// where the processor can tell a guest (x86) it is believed.
const CLOUDS: &[(&str, &str)] = &[
    ("Alibaba Cloud", "Alibaba Cloud"),
    ("Tencent Cloud", "Tencent Cloud"),
    ("Hetzner", "Hetzner Cloud"),
    ("DigitalOcean", "DigitalOcean"),
    ("Scaleway", "Scaleway"),
    ("Vultr", "Vultr"),
    ("Akamai", "Akamai"),
    ("Linode", "Akamai"),
];
/// `chassis_asset_tag` of clouds that write it on bare metal too: it names them and tells no guest.
const TAGS: &[(&str, &str)] = &[("OracleCloud.com", "Oracle Cloud"), ("HUAWEICLOUD", "Huawei Cloud")];
/// Long enough for every name there is.
const DMI_MAX: usize = 128;

/// The facts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// What `/proc/cpuinfo` says, where it says anything.
    pub(super) processor: Option<Processor>,
    /// Threads online, at least 1.
    pub(super) cpus: u32,
    /// Whether this is a part of a machine.
    pub(super) is_guest: bool,
    /// Of this machine, in GiB.
    pub(super) memory: Option<f64>,
    /// The cloud, where DMI tells it.
    pub(super) cloud: Option<&'static str>,
    /// The instance type, and who says so.
    pub(super) instance: Option<(String, &'static str)>,
    /// The instance types that the machine contradicts, each with who says so and why it cannot be.
    pub(super) contradicted: Vec<String>,
}

impl Facts {
    /// Looks at a machine with so many threads online. `configured` and `told` are instance types from elsewhere; the
    /// first counts for most, DMI for least.
    pub(super) fn gather(host: &Host, cpus: u64, configured: Option<&str>, told: Option<&str>) -> Self {
        let mut buffer = Vec::new();
        let read = host.read("proc/cpuinfo", &mut buffer);
        let processor = read.ok().and_then(|()| processor::parse(&buffer));
        let dmi = |name: &str| dmi(host, name);
        let (vendor, product) = (dmi("sys_vendor"), dmi("product_name"));
        let tag = dmi("chassis_asset_tag");
        let sold = match (vendor.as_str(), product.as_str()) {
            ("Amazon EC2", _) => Some("Amazon EC2"),
            (_, "Google Compute Engine") => Some("Google Compute Engine"),
            _ if dmi("bios_vendor") == "Amazon EC2" => Some("Amazon EC2"),
            _ if tag == AZURE => Some("Microsoft Azure"),
            _ => None,
        };
        let begins = |word: &str| vendor.starts_with(word) || product.starts_with(word);
        let rented = CLOUDS.iter().find(|(word, _)| begins(word)).map(|(_, name)| *name);
        let tagged = TAGS.iter().find(|(known, _)| *known == tag).map(|(_, name)| *name);
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX).max(1);
        let nitro = (sold == Some("Amazon EC2") && product.contains('.')).then_some(product.as_str());
        let sources = [(configured, "model.instance_type"), (told, "the node's label"), (nitro, "DMI product_name")];
        let mut contradicted = Vec::new();
        let mut possible = Vec::new();
        for (kind, who) in sources.into_iter().filter_map(|(kind, who)| Some((kind?, who))) {
            match instances::contradiction(kind, cpus, processor.as_ref()) {
                Some(why) => contradicted.push(format!("{kind} ({who}), {why}")),
                None => possible.push((kind, who)),
            }
        }
        // A label that tells nothing (k3s labels its nodes `k3s`) hides none that does; the user's word comes first.
        let tells = |(kind, _): &&(&str, _)| instances::is_metal(kind) || instances::find(kind).is_some();
        let told = possible.iter().find(|one| configured.is_some_and(|said| said == one.0) || tells(one));
        let instance = told.or(possible.first()).map(|(kind, who)| ((*kind).to_owned(), *who));
        let is_metal = instance.as_ref().is_some_and(|(kind, _)| instances::is_metal(kind));
        let is_part = instance.as_ref().is_some_and(|(kind, _)| instances::find(kind).is_some());
        let is_virtual = VIRTUAL.iter().any(|word| vendor.contains(word) || product.contains(word));
        let flagged = processor.as_ref().is_some_and(|processor| processor.hypervisor);
        // ARM has no family, and no flag that tells a guest.
        let is_x86 = processor.as_ref().is_some_and(|processor| processor.family > 0);
        let memory = host.read("proc/meminfo", &mut buffer).ok().and_then(|()| total_memory(&buffer));
        Self {
            processor,
            cpus,
            is_guest: !is_metal && (flagged || is_part || sold.is_some() || is_virtual || rented.is_some() && !is_x86),
            memory,
            cloud: sold.or(rented).or(tagged),
            instance,
            contradicted,
        }
    }
}

/// One attribute; empty where it is not there.
fn dmi(host: &Host, name: &str) -> String {
    let mut buffer = Vec::new();
    let _ = host.read_some(&format!("sys/class/dmi/id/{name}"), &mut buffer, DMI_MAX);
    String::from_utf8_lossy(&buffer).trim().to_owned()
}

/// `MemTotal` in GiB; the file says kB and means KiB.
fn total_memory(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u32 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    (kibibytes > 0).then(|| f64::from(kibibytes) / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::Memory;

    fn facts(files: &[(&str, &str)], configured: Option<&str>, told: Option<&str>) -> Facts {
        of(files, 2, configured, told)
    }

    fn of(files: &[(&str, &str)], cpus: u64, configured: Option<&str>, told: Option<&str>) -> Facts {
        let mut memory = Memory::default();
        for (path, text) in files {
            memory.set_file(path, text.as_bytes()).unwrap();
        }
        Facts::gather(&Host::memory(memory), cpus, configured, told)
    }

    #[test]
    fn a_cloud_is_told_by_dmi() {
        let cpuinfo = ("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor\n");
        let nitro =
            [("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"), ("sys/class/dmi/id/product_name", "m5.large\n"), cpuinfo];
        let found = facts(&nitro, None, None);
        assert_eq!((found.cloud, found.is_guest), (Some("Amazon EC2"), true));
        assert_eq!(found.instance, Some(("m5.large".into(), "DMI product_name")));
        assert_eq!(facts(&nitro, None, Some("c5.large")).instance, Some(("c5.large".into(), "the node's label")));
        assert_eq!(facts(&nitro, Some("n1"), Some("c5")).instance, Some(("n1".into(), "model.instance_type")));

        let google = [("sys/class/dmi/id/product_name", "Google Compute Engine\n"), cpuinfo];
        assert_eq!(facts(&google, None, None).cloud, Some("Google Compute Engine"));
        let azure = [("sys/class/dmi/id/chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n")];
        assert_eq!(
            (facts(&azure, None, None).cloud, facts(&azure, None, None).is_guest),
            (Some("Microsoft Azure"), true)
        );
    }

    #[test]
    fn a_guest_is_told_by_its_flag_or_by_dmi() {
        let metal =
            [("proc/cpuinfo", "processor : 0\nflags : fpu\n"), ("sys/class/dmi/id/product_name", "PowerEdge R740\n")];
        assert!(!facts(&metal, None, None).is_guest);
        assert!(!facts(&[], None, None).is_guest);
        assert!(facts(&[("proc/cpuinfo", "processor : 0\nflags : hypervisor\n")], None, None).is_guest);
        // ARM has no such flag.
        assert!(facts(&[("sys/class/dmi/id/product_name", "KVM Virtual Machine\n")], None, None).is_guest);
        let whole = [("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"), ("sys/class/dmi/id/product_name", "c5.metal\n")];
        assert!(!of(&whole, 96, None, None).is_guest);
    }

    #[test]
    fn an_arm_guest_is_told_by_the_words_of_its_cloud() {
        const ARM: (&str, &str) = ("proc/cpuinfo", "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd49\n");
        const X86: (&str, &str) = ("proc/cpuinfo", "processor : 0\ncpu family : 6\nflags : fpu\n");
        let of = |name: &str, text, cpuinfo| {
            let found = facts(&[(&format!("sys/class/dmi/id/{name}"), text), cpuinfo], None, None);
            (found.cloud, found.is_guest)
        };
        assert_eq!(of("product_name", "Alibaba Cloud ECS\n", ARM), (Some("Alibaba Cloud"), true));
        assert_eq!(of("sys_vendor", "Tencent Cloud\n", ARM), (Some("Tencent Cloud"), true));
        assert_eq!(of("sys_vendor", "Linode\n", ARM), (Some("Akamai"), true));
        // A server that is rented whole: its processor would say that it is a guest.
        assert_eq!(of("sys_vendor", "Alibaba Cloud\n", X86), (Some("Alibaba Cloud"), false));
        // The same on guests and on bare metal.
        assert_eq!(of("chassis_asset_tag", "OracleCloud.com\n", ARM), (Some("Oracle Cloud"), false));
        assert_eq!(of("product_name", "PowerEdge R740\n", ARM), (None, false));
    }

    #[test]
    fn an_instance_type_that_is_known_is_a_guest_unless_it_is_a_whole_host() {
        let plain = ("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nflags : fpu\n");
        assert!(facts(&[plain], None, Some("m5.large")).is_guest, "without flag and DMI");
        assert!(facts(&[plain], Some("M5.LARGE"), None).is_guest);
        assert!(!facts(&[plain], None, Some("k3s")).is_guest, "a word that no cloud uses");
        let nitro = [("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"), ("sys/class/dmi/id/product_name", "m5.large\n")];
        let found = facts(&[plain, nitro[0], nitro[1]], None, Some("k3s")).instance;
        assert_eq!(found, Some(("m5.large".into(), "DMI product_name")), "and hides none that clouds use");
        let many = "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nflags : fpu hypervisor\n";
        let found = facts(&[("proc/cpuinfo", many)], Some("M5.METAL"), Some("m5.large"));
        assert!(found.is_guest, "the processor says so");
        assert_eq!(found.contradicted, ["M5.METAL (model.instance_type), which is a whole host, and this is a guest"]);
        assert_eq!(found.instance, Some(("m5.large".into(), "the node's label")), "the next one that may be");
        let found = facts(&[plain], None, Some("m6a.large"));
        assert_eq!((found.is_guest, found.instance), (false, None), "what cannot be tells nothing");
    }

    #[test]
    fn memory_is_in_gibibytes() {
        assert_eq!(total_memory(b"MemTotal:       8388608 kB\nMemFree: 1 kB\n"), Some(8.0));
        assert_eq!(total_memory(b"MemTotal: 0 kB\n"), None);
        assert_eq!(total_memory(b"MemTotal: x\n"), None);
        assert_eq!(total_memory(&[0xff]), None);
    }
}
