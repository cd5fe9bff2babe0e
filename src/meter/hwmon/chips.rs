//! What the channels of each driver measure: the table of chip rules.
//!
//! Each rule follows the driver's page under the kernel's Documentation/hwmon (amdgpu: Documentation/gpu/amdgpu) and,
//! where labels are the vendor's, the vendor's guide. A rule gives the domain, the socket, the place among the other
//! zones, and the words with which `discover` explains it. A zone that lies within others names them by *keys* in order
//! of preference; what it claims when none of them is there stands beside. What no rule knows is passed on
//! unclassified. The most that a part can draw is 1.5 times what the driver states for it, and at least 300 W, since a
//! limit is what firmware aims at and not what cannot be exceeded.

use crate::host::Host;
use crate::meter::hwmon::directory::{Channel, Chip, clean};
use crate::meter::sysfs::text;
use crate::meter::{Claim, Domain, Socket};
use crate::unit::Microwatts;

/// What is known of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it covers.
    pub domain: Domain,
    /// What it is if nothing that contains it is there; `None`: what its domain says.
    pub claim: Option<Claim>,
    /// The socket that it measures.
    pub socket: Option<Socket>,
    /// Under what name others lie within it.
    pub key: Option<String>,
    /// The names of what may contain it, the closest first.
    pub inside: Vec<String>,
    /// The zone of another backend that is the same sensor.
    pub same_as: Option<&'static str>,
    /// What people call it, if that is not its label.
    pub name: Option<String>,
    /// What the driver says about it.
    pub why: String,
    /// The most that it can draw.
    pub power_max: Microwatts,
}

/// A channel among the chips of its machine.
struct Seen<'a> {
    host: &'a Host,
    chip: &'a Chip,
    chips: &'a [Chip],
    channel: &'a Channel,
    /// Its label in lower case, or nothing.
    label: String,
}

type Rule = fn(&Seen) -> Place;

/// Which chips each rule is for; a name that ends in `*` stands for all that begin with it.
const RULES: &[(&[&str], Rule)] = &[
    (&["power_meter"], acpi),
    (&["amdgpu"], amdgpu),
    (&["xe"], xe),
    (&["i915"], i915),
    (&["i915_gt*"], i915_gt),
    (&["smpro_hwmon", "altra_hwmon", "apm_xgene"], ampere),
    (&["amd_energy"], amd_energy),
    (&["amd_hsmp_hwmon"], amd_hsmp),
    (&["k10temp", "zenpower"], zen),
    (&["occ", "ibmpowernv"], open_power),
    (&["ina3221", "ina219", "ina226", "ina230", "ina231", "ina238"], jetson),
    (&["corsairpsu"], corsair),
    (&["pmbus"], pmbus),
    (&["cffps*", "dps460", "dps650ab", "dps800", "dps920ab", "sgd009", "ipsps1", "pfe1100", "pfe3000"], supply),
    (&["bpa_rs600", "fsg032", "crps*", "ym2151e", "yh5151e", "pem", "d1u74t"], supply),
    (&["nvme", "drivetemp"], storage),
];

/// Rails of NVIDIA Jetson modules, as their device trees label them.
const RAILS: &[(&[&str], Domain)] = &[
    (&["CPU", "VDD_CPU", "VDD_SYS_CPU", "POM_5V_CPU", "VDD_CPU_CV"], Domain::Package),
    (&["GPU", "VDD_GPU", "VDD_SYS_GPU", "POM_5V_GPU"], Domain::Gpu),
    (&["SOC", "VDD_SOC", "VDD_SYS_SOC", "CV", "VDD_GPU_SOC", "VDD_CPU_GPU_CV"], Domain::Soc),
    (&["VDDRQ", "VDD_DDR", "VDD_SYS_DDR", "VDDQ_VDD2_1V8AO"], Domain::Dram),
];

/// The least that a part's ceiling is, and the stated limits that are believed.
const CEILING_MIN: u64 = 300_000_000;
const STATED: std::ops::RangeInclusive<u64> = 1_000_000..=20_000_000_000;
/// What is assumed of a whole machine or what is not known, and of one part of it.
const MACHINE_MAX: Microwatts = Microwatts(10_000_000_000);
const PART_MAX: Microwatts = Microwatts(1_500_000_000);
/// Beside a device's own attributes; see the kernel's Documentation/ABI/testing/sysfs-devices-power.
const RUNTIME_STATUS: &str = "power/runtime_status";
/// No mains is below this: a converter on the board is fed with 12 V or 48 V.
const MAINS_MILLIVOLTS: u64 = 90_000;

/// What a channel of a chip is.
pub fn place(host: &Host, chip: &Chip, chips: &[Chip], channel: &Channel) -> Place {
    let label = channel.label.as_deref().unwrap_or_default().to_ascii_lowercase();
    let seen = Seen { host, chip, chips, channel, label };
    let is_for = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => chip.name.starts_with(start),
        None => chip.name == *pattern,
    };
    let rule = RULES.iter().find(|(names, _)| names.iter().any(is_for)).map_or(unknown as Rule, |rule| rule.1);
    let mut place = rule(&seen);
    place.power_max = seen.power_max(place.domain);
    place
}

/// The file that says whether the device of a chip sleeps, for graphics cards: their drivers wake the card to read a
/// sensor.
pub fn runtime_status(host: &Host, chip: &Chip) -> Option<String> {
    let is_card = matches!(chip.name.as_str(), "amdgpu" | "xe" | "nouveau") || chip.name.starts_with("i915");
    let path = chip.of_device(RUNTIME_STATUS);
    (is_card && text(host, &path).is_some()).then_some(path)
}

impl Place {
    fn new(domain: Domain) -> Self {
        let (claim, socket, key, name) = (None, None, None, None);
        Self {
            domain,
            claim,
            socket,
            key,
            inside: Vec::new(),
            same_as: None,
            name,
            why: String::new(),
            power_max: MACHINE_MAX,
        }
    }

    fn claim(self, claim: Claim) -> Self {
        Self { claim: Some(claim), ..self }
    }

    fn socket(self, package: Option<u32>) -> Self {
        Self { socket: package.map(|package| Socket { package, die: None }), ..self }
    }

    fn key(self, key: String) -> Self {
        Self { key: Some(key), ..self }
    }

    fn inside(self, keys: &[String]) -> Self {
        Self { inside: keys.to_vec(), ..self }
    }

    fn why(self, why: &str) -> Self {
        Self { why: why.to_owned(), ..self }
    }
}

impl Seen<'_> {
    /// A key of this chip alone.
    fn own(&self, what: &str) -> String {
        format!("{}/{what}", self.chip.entry)
    }

    /// How many chips like this one stand before it.
    fn order(&self, like: impl Fn(&Chip) -> bool) -> Option<u32> {
        let before = self.chips.iter().filter(|chip| chip.name == self.chip.name && like(chip));
        u32::try_from(before.take_while(|chip| chip.entry != self.chip.entry).count()).ok()
    }

    fn power_max(&self, domain: Domain) -> Microwatts {
        let index = self.channel.index;
        let stated = |what: &str| {
            self.chip.number(self.host, &format!("power{index}_{what}")).filter(|max| STATED.contains(max))
        };
        let mut limit = stated("cap_max").max(stated("rated_max"));
        if domain == Domain::Gpu {
            // What xe and i915 call the limit that is set.
            limit = limit.or_else(|| stated("max"));
        }
        let assumed = match domain {
            Domain::Host | Domain::Module | Domain::Psu | Domain::Other => MACHINE_MAX,
            _ => PART_MAX,
        };
        limit.map_or(assumed, |limit| Microwatts((limit.saturating_mul(3) / 2).max(CEILING_MIN)))
    }
}

fn unknown(seen: &Seen) -> Place {
    // The power_supply class registers its batteries and chargers here too.
    let is_battery = text(seen.host, &seen.chip.of_device("type")).is_some_and(|kind| kind == "Battery");
    if is_battery {
        return Place::new(Domain::Battery).claim(Claim::Unknown).why("what goes into or out of a battery");
    }
    Place::new(Domain::Other)
}

/// The ACPI power meter: the whole machine, unless its `oem_info` names a part. NVIDIA Grace has one for each of
/// `Module` ⊇ `Grace` ⊇ `CPU`, `SysIO`, followed by `Power Socket N`.
fn acpi(seen: &Seen) -> Place {
    let attribute = |what: &str| format!("power{}_{what}", seen.channel.index);
    if seen.chip.number(seen.host, &attribute("is_battery")) == Some(1) {
        return Place::new(Domain::Battery)
            .claim(Claim::Unknown)
            .why("ACPI: what a battery gives, not what the machine draws");
    }
    let info = seen.chip.text(seen.host, &attribute("oem_info")).map(|info| clean(&info)).unwrap_or_default();
    let mut place = match info.split_once(" Power Socket ").and_then(|(part, n)| Some((part, n.parse::<u32>().ok()?))) {
        Some((part, socket)) => {
            let [module, grace] = ["module", "grace"].map(|part| format!("{part} {socket}"));
            let (domain, key, inside) = match part {
                "Module" => (Domain::Module, Some(module), vec![]),
                "Grace" => (Domain::Soc, Some(grace), vec![module]),
                "CPU" => (Domain::Package, None, vec![grace, module]),
                "SysIO" => (Domain::Io, None, vec![grace, module]),
                // A part of one socket that is not known; it is not the whole machine.
                _ => (Domain::Other, None, vec![]),
            };
            Place { key, ..Place::new(domain).socket(Some(socket)).inside(&inside) }
        }
        None if info.to_ascii_lowercase().contains("cpu") => Place::new(Domain::Package),
        None => Place::new(Domain::Host),
    };
    place.why = if info.is_empty() { "ACPI power meter".to_owned() } else { format!("ACPI power meter, {info:?}") };
    let vendor = text(seen.host, "sys/class/dmi/id/sys_vendor").unwrap_or_default();
    if vendor.starts_with("Dell") {
        place.why += "; goes through IPMI on Dell";
        place.same_as = (place.domain == Domain::Host).then_some("ipmi:dcmi");
    }
    place.name = (!info.is_empty()).then_some(info);
    place
}

/// AMD graphics. On a processor with graphics (an APU) the sensor measures the whole package.
fn amdgpu(seen: &Seen) -> Place {
    let apu = is_apu(seen.host, seen.chip);
    let place = if apu {
        let socket = seen.order(|chip| is_apu(seen.host, chip));
        Place::new(Domain::Package).socket(socket).why("amdgpu on an APU: includes the CPU")
    } else {
        Place::new(Domain::Gpu)
    };
    match seen.label.as_str() {
        "slowppt" => place.key(seen.own("slow")),
        // The same power with another time constant.
        "fastppt" => Place { socket: None, ..place.inside(&[seen.own("slow")]) },
        _ => place,
    }
}

/// Whether an amdgpu is part of a processor: only those have a north bridge voltage, and their metrics table is of
/// format 2 or later.
fn is_apu(host: &Host, chip: &Chip) -> bool {
    if chip.labelled("in", "vddnb").is_some() {
        return true;
    }
    if text(host, &chip.of_device(RUNTIME_STATUS)).is_some_and(|status| status.starts_with("suspend")) {
        // Reading the table could wake the card. An APU never sleeps alone.
        return false;
    }
    let mut header = Vec::new();
    host.read_some(&chip.of_device("gpu_metrics"), &mut header, 4).is_ok() && is_apu_metrics(&header)
}

/// The table begins with its size (u16), the format (u8) and the content (u8) revision.
fn is_apu_metrics(header: &[u8]) -> bool {
    matches!(header, [_, _, format, _, ..] if *format >= 2)
}

/// Intel graphics, driver xe: the card, and within it the chip (`pkg`).
fn xe(seen: &Seen) -> Place {
    match (seen.label.as_str(), seen.channel.index) {
        ("card", _) | ("", 1) => Place::new(Domain::Gpu).key(seen.own("card")).why("the card"),
        ("pkg", _) | ("", 2) => Place::new(Domain::Gpu).inside(&[seen.own("card")]).why("the GPU's package"),
        _ => Place::new(Domain::Gpu).claim(Claim::Unknown).inside(&[seen.own("card")]).why("a part of the card"),
    }
}

fn i915(seen: &Seen) -> Place {
    Place::new(Domain::Gpu).key(format!("i915 {}", seen.chip.device))
}

fn i915_gt(seen: &Seen) -> Place {
    Place::new(Domain::Gpu).inside(&[format!("i915 {}", seen.chip.device)]).why("a tile of the GPU")
}

/// Ampere: rails beside each other.
fn ampere(seen: &Seen) -> Place {
    let has = |word: &str| seen.label.contains(word);
    let domain = match () {
        () if has("dimm") => Domain::Dram,
        () if has("rca") || has("io") => Domain::Io,
        () if has("soc") => Domain::Soc,
        () if has("cpu") || has("core") => Domain::Package,
        () => Domain::Other,
    };
    Place::new(domain)
}

/// `Esocket1` is the counter of RAPL's package 1, `Ecore003` that of one core in some socket.
fn amd_energy(seen: &Seen) -> Place {
    if let Some(socket) = seen.label.strip_prefix("esocket").and_then(|number| number.parse().ok()) {
        return Place::new(Domain::Package).socket(Some(socket)).key(seen.own(&format!("socket {socket}")));
    }
    if !seen.label.starts_with("ecore") {
        return Place::new(Domain::Other);
    }
    // With several sockets it is not said which one a core is in.
    let several = seen.chip.labelled("energy", "Esocket1").is_some();
    let inside = if several { vec![] } else { vec![seen.own("socket 0")] };
    Place::new(Domain::Core).inside(&inside).why("one core")
}

/// The socket's power as its management unit states it: one chip for each socket.
fn amd_hsmp(seen: &Seen) -> Place {
    // ACPI says which one it is: ID00, ID01.
    let uid = text(seen.host, &seen.chip.of_device("firmware_node/uid"));
    let stated = uid.and_then(|uid| u32::from_str_radix(uid.strip_prefix("ID")?, 16).ok());
    Place::new(Domain::Package).socket(stated.or_else(|| seen.order(|_| true))).why("HSMP")
}

/// Drivers for AMD processors that state power: out of the kernel's tree, from the voltage regulator or from RAPL.
fn zen(seen: &Seen) -> Place {
    let package = seen.own("package");
    let has = |word: &str| seen.label.contains(word);
    match () {
        () if has("package") => Place::new(Domain::Package).socket(seen.order(|_| true)).key(package),
        () if has("core") => Place::new(Domain::Core).inside(&[package]),
        () if has("soc") => Place::new(Domain::Soc).claim(Claim::Inside).inside(&[package]),
        () => Place::new(Domain::Other),
    }
}

/// POWER: `System` ⊇ `Chip 0` ⊇ `Chip 0 Vdd`, `Chip 0 Vdn`; the on-chip controller itself says `system`, `proc`, `vdd`.
fn open_power(seen: &Seen) -> Place {
    let words: Vec<&str> =
        seen.label.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let has = |word: &str| words.contains(&word);
    let number = words.iter().find_map(|word| word.parse::<u32>().ok());
    let socket = if has("chip") { number } else { None };
    let proc = seen.own(&format!("proc {}", socket.unwrap_or(0)));
    let system = seen.own("system");
    match () {
        () if has("system") => Place::new(Domain::Host).key(system),
        () if has("vdd") => Place::new(Domain::Core).inside(&[proc]),
        () if has("vdn") => Place::new(Domain::Other).inside(&[proc]),
        () if has("proc") || matches!(words[..], ["chip", _]) => Place::new(Domain::Package).socket(socket).key(proc),
        () if has("memory") || has("mem") => Place::new(Domain::Dram).claim(Claim::Unknown).inside(&[system]),
        () => Place::new(Domain::Other).inside(&[system]),
    }
}

/// Monitors of rails that their board names. Those of NVIDIA Jetson modules are known: `VDD_IN` (Nano: `POM_5V_IN`)
/// feeds the module with all that is on it.
fn jetson(seen: &Seen) -> Place {
    let label = seen.label.to_ascii_uppercase();
    if matches!(label.as_str(), "VDD_IN" | "POM_5V_IN") {
        return Place::new(Domain::Host).key(seen.own("in")).why("the input of a Jetson module");
    }
    let rail = RAILS.iter().find(|(names, _)| names.contains(&label.as_str()));
    Place::new(rail.map_or(Domain::Other, |rail| rail.1)).inside(&[seen.own("in")])
}

fn corsair(seen: &Seen) -> Place {
    if seen.label.contains("total") {
        return Place::new(Domain::Psu).key(seen.own("total")).why("all rails of a power supply");
    }
    Place::new(Domain::Psu).claim(Claim::Unknown).inside(&[seen.own("total")]).why("a rail of a power supply")
}

/// A chip of no particular make: a power supply if it is fed from the mains, else a converter on the board.
fn pmbus(seen: &Seen) -> Place {
    let vin = seen.chip.labelled("in", "vin");
    let vin = vin.and_then(|index| seen.chip.number(seen.host, &format!("in{index}_input")));
    match vin {
        Some(vin) if vin >= MAINS_MILLIVOLTS => supply(seen),
        Some(_) => Place::new(Domain::Other).why("a converter on the board"),
        None => Place::new(Domain::Other).why("PMBus, input voltage not known"),
    }
}

/// A power supply: what it takes in, and within it what it gives out.
fn supply(seen: &Seen) -> Place {
    let place = Place::new(Domain::Psu);
    match () {
        () if seen.label.starts_with("pin") => place.key(seen.own("pin")).why("input of a power supply"),
        () if seen.label.starts_with("pout") => {
            place.claim(Claim::Unknown).inside(&[seen.own("pin")]).why("output of a power supply")
        }
        () => place.claim(Claim::Unknown),
    }
}

fn storage(_: &Seen) -> Place {
    Place::new(Domain::Storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_metrics_tells_a_processor_from_a_card() {
        assert!(is_apu_metrics(&[120, 0, 2, 1]), "Phoenix");
        assert!(is_apu_metrics(&[8, 1, 3, 0]), "Strix");
        assert!(!is_apu_metrics(&[120, 0, 1, 3]), "every card");
        assert!(!is_apu_metrics(&[120, 0]));
    }
}
