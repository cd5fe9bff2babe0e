//! Which chassis of a BMC is this machine: by the computer system that it holds, and that system by its identity.
//!
//! A BMC may list a rack, enclosures and sleds beside the server, or several servers. The power of a chassis that holds
//! more than one computer is not one computer's: such a chassis is shown and never booked. Systems are compared by what
//! SMBIOS says in `/sys/class/dmi/id` (root only) and by the host name.

use serde_json::Value as Json;

use super::payload::Chassis;
use crate::host::Host;
use crate::meter::sysfs;

/// What this machine says of itself.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    uuid: Option<String>,
    serial: Option<String>,
    name: Option<String>,
}

impl Identity {
    /// As far as it can be read.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        Self {
            uuid: sysfs::text(host, "sys/class/dmi/id/product_uuid").map(|uuid| plain(&uuid)),
            serial: sysfs::text(host, "sys/class/dmi/id/product_serial"),
            name: sysfs::text(host, "proc/sys/kernel/hostname"),
        }
    }

    /// Whether enough is known to say of a system that it is another machine.
    #[must_use]
    pub fn can_refuse(&self) -> bool {
        self.uuid.is_some() && self.serial.is_some()
    }

    /// Whether a `ComputerSystem` is this machine: `Some` only if what both state says so.
    #[must_use]
    pub fn is(&self, system: &Json) -> Option<bool> {
        let stated = |key: &str| system[key].as_str().map(str::trim).filter(|text| !text.is_empty());
        let uuid = self.uuid.as_ref().zip(stated("UUID")).map(|(ours, theirs)| same_uuid(ours, &plain(theirs)));
        let serial = self.serial.as_ref().zip(stated("SerialNumber")).map(|(ours, theirs)| ours == theirs);
        let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let name = self.name.as_ref().zip(stated("HostName")).map(|(ours, theirs)| short(ours) == short(theirs));
        if [uuid, serial, name].contains(&Some(true)) {
            return Some(true);
        }
        // Firmware writes UUIDs in more than one order of bytes, so a single difference proves nothing.
        (uuid == Some(false) && serial == Some(false)).then_some(false)
    }
}

/// Hexadecimal digits alone.
fn plain(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}

/// Whether two are the same, also if one of them has the first three fields in the other order of bytes.
fn same_uuid(one: &str, other: &str) -> bool {
    let swapped = |uuid: &str| -> Option<String> {
        let byte = |index: usize| uuid.get(2 * index..2 * index + 2);
        [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().map(byte).collect()
    };
    one == other || swapped(one).is_some_and(|one| one == other)
}

/// A chassis to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the list.
    pub index: usize,
    /// Why it is not this machine's alone; `None`: it is.
    pub doubt: Option<String>,
}

/// The computer systems that the chassis hold, each once.
#[must_use]
pub fn systems(all: &[Chassis]) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for system in all.iter().flat_map(|chassis| &chassis.systems) {
        if !found.contains(&system.as_str()) {
            found.push(system);
        }
    }
    found
}

/// The chassis to read. `mine`: the link of the system that is this machine, where that is known.
#[must_use]
pub fn choose(all: &[Chassis], configured: Option<&str>, mine: Option<&str>) -> Vec<Choice> {
    let has_power =
        |chassis: &Chassis| chassis.environment.is_some() || chassis.subsystem.is_some() || chassis.power.is_some();
    let several = |chassis: &Chassis| {
        let count = chassis.systems.len();
        (count > 1).then(|| format!("it holds {count} computers, of which this machine is at most one"))
    };
    let choice = |index: usize| Choice { index, doubt: several(&all[index]) };
    let powered = (0..all.len()).filter(|index| has_power(&all[*index]));
    if let Some(id) = configured {
        return powered.filter(|index| all[*index].id.eq_ignore_ascii_case(id)).map(choice).take(1).collect();
    }
    let powered: Vec<usize> = powered.collect();
    let known = systems(all);
    if mine.is_none() && known.len() > 1 {
        let doubt = format!("one of {} computers behind this BMC; set meters.redfish.chassis", known.len());
        let unsure = |index: &usize| Choice { index: *index, doubt: several(&all[*index]).or(Some(doubt.clone())) };
        return powered.iter().map(unsure).collect();
    }
    let holds_me = |index: &&usize| mine.is_some_and(|mine| all[**index].systems.iter().any(|system| system == mine));
    let mut ours: Vec<usize> = powered.iter().filter(holds_me).copied().collect();
    if ours.is_empty() {
        ours = powered.into_iter().filter(|index| all[*index].systems.is_empty()).collect();
    }
    // Of several around the same machine the innermost that is a whole machine; the others contain it or are in it.
    ours.sort_by_key(|index| (all[*index].systems.len().max(1), rank(&all[*index].kind)));
    ours.into_iter().map(choice).take(1).collect()
}

/// How likely a chassis of this type is one whole machine.
fn rank(kind: &str) -> u8 {
    match kind {
        "RackMount" | "StandAlone" | "Blade" | "Sled" | "Node" => 0,
        "Rack" | "RackGroup" | "Enclosure" | "Shelf" | "Drawer" | "Row" | "Pod" => 2,
        "Module" | "Component" | "Card" | "Cartridge" | "Expansion" | "Zone" | "StorageEnclosure" => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chassis(id: &str, kind: &str, systems: &[&str]) -> Chassis {
        let systems = systems.iter().map(ToString::to_string).collect();
        Chassis { id: id.into(), kind: kind.into(), systems, power: Some("/p".into()), ..Chassis::default() }
    }

    fn chosen(all: &[Chassis], configured: Option<&str>, mine: Option<&str>) -> Vec<(String, bool)> {
        let name = |choice: Choice| (all[choice.index].id.clone(), choice.doubt.is_none());
        choose(all, configured, mine).into_iter().map(name).collect()
    }

    fn ours(id: &str) -> Vec<(String, bool)> {
        vec![(id.into(), true)]
    }

    #[test]
    fn one_server_is_read_and_neither_its_rack_nor_its_modules() {
        let all =
            [chassis("Rack", "Rack", &[]), chassis("GPU1", "Module", &["/s/1"]), chassis("1", "RackMount", &["/s/1"])];
        assert_eq!(chosen(&all, None, Some("/s/1")), ours("1"));
        assert_eq!(chosen(&[chassis("Self", "", &[])], None, None), ours("Self"));
    }

    #[test]
    fn what_several_computers_share_is_not_ours() {
        let enclosure = chassis("Enclosure", "Enclosure", &["/s/1", "/s/2"]);
        let all = [enclosure.clone(), chassis("Sled2", "Sled", &["/s/2"])];
        assert_eq!(chosen(&all, None, Some("/s/2")), ours("Sled2"));
        assert_eq!(chosen(std::slice::from_ref(&enclosure), None, Some("/s/1")), [("Enclosure".to_owned(), false)]);
        assert_eq!(chosen(&[enclosure], Some("enclosure"), Some("/s/1")), [("Enclosure".to_owned(), false)]);
    }

    #[test]
    fn a_rack_of_servers_needs_an_identity_or_a_word() {
        let all = [chassis("1U", "RackMount", &["/s/1"]), chassis("2U", "RackMount", &["/s/2"])];
        assert_eq!(chosen(&all, None, Some("/s/2")), ours("2U"));
        assert_eq!(chosen(&all, Some("1U"), None), ours("1U"));
        assert_eq!(chosen(&all, None, None), [("1U".to_owned(), false), ("2U".to_owned(), false)]);
        assert_eq!(chosen(&all, Some("3U"), None), []);
    }

    #[test]
    fn a_system_is_known_by_what_both_state() {
        let uuid = plain("38947555-7742-3448-3784-823347823834");
        let me = Identity { uuid: Some(uuid), serial: Some("S1".into()), name: Some("node7".into()) };
        assert_eq!(me.is(&json!({"UUID": "38947555-7742-3448-3784-823347823834"})), Some(true));
        assert_eq!(me.is(&json!({"UUID": "55759438-4277-4834-3784-823347823834"})), Some(true), "the other byte order");
        assert_eq!(me.is(&json!({"HostName": "NODE7.example.org"})), Some(true));
        assert_eq!(me.is(&json!({"UUID": "00000000-0000-0000-0000-000000000000"})), None);
        assert_eq!(me.is(&json!({"UUID": "00000000-0000-0000-0000-000000000000", "SerialNumber": "S2"})), Some(false));
        assert_eq!(Identity::default().is(&json!({"UUID": "x", "SerialNumber": "S1"})), None);
    }
}
