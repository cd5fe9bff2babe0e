//! What the machine says of itself without being asked over a network: `/proc/cpuinfo`, `/proc/meminfo`, DMI.
//!
//! DMI lies under `/sys/class/dmi/id`, of which four files are readable by everybody. AWS Nitro writes the instance type
//! to `product_name`, Google's says only whose it is, Azure is told by its asset tag. A guest is told by the flag
//! `hypervisor` of x86, elsewhere by DMI; where none of them is there the machine is taken for bare metal. What others
//! know of the instance type, the user or a node label, comes from outside.

use crate::host::Host;
use crate::meter::model::instances;
use crate::meter::processor::{self, Processor};

/// Azure's `chassis_asset_tag`, the same on all of its machines.
const AZURE: &str = "7783-7084-3265-9085-8269-3286-77";
/// In `sys_vendor` or `product_name` of guests.
const VIRTUAL: &[&str] =
    &["QEMU", "KVM", "VMware", "VirtualBox", "Virtual Machine", "HVM domU", "OpenStack", "Bochs", "Droplet", "vServer"];
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
        let cloud = match (vendor.as_str(), product.as_str()) {
            ("Amazon EC2", _) => Some("Amazon EC2"),
            (_, "Google Compute Engine") => Some("Google Compute Engine"),
            _ if dmi("bios_vendor") == "Amazon EC2" => Some("Amazon EC2"),
            _ if dmi("chassis_asset_tag") == AZURE => Some("Microsoft Azure"),
            _ => None,
        };
        let nitro = (cloud == Some("Amazon EC2") && product.contains('.')).then_some(product.as_str());
        let sources = [(configured, "model.instance_type"), (told, "the node's label"), (nitro, "DMI product_name")];
        let instance = sources.into_iter().find_map(|(kind, who)| Some((kind?.to_owned(), who)));
        let is_metal = instance.as_ref().is_some_and(|(kind, _)| instances::is_metal(kind));
        let is_virtual = VIRTUAL.iter().any(|word| vendor.contains(word) || product.contains(word));
        let flagged = processor.as_ref().is_some_and(|processor| processor.hypervisor);
        let memory = host.read("proc/meminfo", &mut buffer).ok().and_then(|()| total_memory(&buffer));
        Self {
            processor,
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX).max(1),
            is_guest: !is_metal && (flagged || cloud.is_some() || is_virtual),
            memory,
            cloud,
            instance,
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
        let mut memory = Memory::default();
        for (path, text) in files {
            memory.set_file(path, text.as_bytes()).unwrap();
        }
        Facts::gather(&Host::memory(memory), 1, configured, told)
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
        assert!(!facts(&whole, None, None).is_guest);
    }

    #[test]
    fn memory_is_in_gibibytes() {
        assert_eq!(total_memory(b"MemTotal:       8388608 kB\nMemFree: 1 kB\n"), Some(8.0));
        assert_eq!(total_memory(b"MemTotal: 0 kB\n"), None);
        assert_eq!(total_memory(b"MemTotal: x\n"), None);
        assert_eq!(total_memory(&[0xff]), None);
    }
}
