//! The graph of zones: which measure the same joules, which lie within others, and so what part each plays in the sum.
//!
//! Facts decide, never labels: what a backend claims of a zone, the socket it measures, what contains it. Parts enter the
//! sum. What measures the same again is a duplicate of the better source. What lies within another zone is contained. Of
//! the meters of the whole machine one is chosen; where parts are metered too it is the reference from which `host:rest`
//! is reckoned, and else it is the sum itself. Where a container was seen to count less than what lies in it, it is out
//! and its parts come in. What is not known is not summed. DESIGN: no joule twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::meter::rapl::is_rapl;
use crate::meter::{Claim, Domain, Quality, Role, Zone};

/// What is known of the zones beside what they say themselves.
#[derive(Debug, Default)]
pub struct Known {
    /// Zones that have ever given a reading.
    pub answered: BTreeSet<String>,
    /// Twins that stand in for a zone that is preferred and cannot serve.
    pub promoted: BTreeSet<String>,
    /// Containers that counted less than what lies in them, with the evidence.
    pub refuted: BTreeMap<String, String>,
    /// Meters of the whole machine that have been silent or frozen for long.
    pub silent: BTreeSet<String>,
    /// Parts have been metered until lately: should none be there, they may come back and book the time themselves.
    pub parts_expected: bool,
}

/// The zones with the role of each, and why.
#[must_use]
pub fn with_roles(zones: &[Arc<Zone>], known: &Known) -> Vec<Arc<Zone>> {
    let parts: Vec<Option<(Role, String)>> = zones.iter().map(|zone| part(zone, zones, known)).collect();
    let enters = |(zone, part): (&Arc<Zone>, &Option<(Role, String)>)| {
        part.as_ref().is_some_and(|(role, _)| is_metered_part(zone, *role, known))
    };
    let metered = known.parts_expected || zones.iter().zip(&parts).any(enters);
    let candidates = zones.iter().zip(&parts).filter(|(_, part)| part.is_none()).map(|(zone, _)| zone);
    let chosen = choose(candidates, known);
    let whole = |zone: &Zone| match &chosen {
        Some(group) if group_of(zone).as_ref() == Some(group) && metered => {
            (Role::Reference, "the whole machine: host:rest is what it has beyond the parts".to_owned())
        }
        Some(group) if group_of(zone).as_ref() == Some(group) => {
            (Role::Primary, "the whole machine, none of whose parts can be read".to_owned())
        }
        Some(group) => (Role::Reference, format!("the whole machine, for which {group} is taken")),
        None => (Role::Reference, "the whole machine".to_owned()),
    };
    let finish = |zone: &Arc<Zone>, part: Option<(Role, String)>| {
        let is_part = part.is_some();
        let (role, why) = part.unwrap_or_else(|| whole(zone));
        let mut zone = Zone::clone(zone);
        zone.whole = !is_part && metered && group_of(&zone) == chosen;
        zone.role = role;
        zone.parent = zone.parent.filter(|parent| zones.iter().any(|other| other.id == *parent));
        zone.why = if zone.why.is_empty() { why } else { format!("{why}; {}", zone.why) };
        Arc::new(zone)
    };
    zones.iter().zip(parts).map(|(zone, part)| finish(zone, part)).collect()
}

/// Whether parts of the machine are metered, of zones that have their roles.
#[must_use]
pub fn is_metered(zones: &[Arc<Zone>], known: &Known) -> bool {
    zones.iter().any(|zone| !is_node(zone) && is_metered_part(zone, zone.role, known))
}

fn is_metered_part(zone: &Zone, role: Role, known: &Known) -> bool {
    role == Role::Primary && zone.quality == Quality::Measured && known.answered.contains(&zone.id)
}

/// The role of a zone, if it is not one of those that measure the whole machine and are no one else's duplicate.
fn part(zone: &Zone, all: &[Arc<Zone>], known: &Known) -> Option<(Role, String)> {
    let said = |role, why: &str| Some((role, why.to_owned()));
    if zone.quality == Quality::Estimated {
        return said(Role::Primary, "a model, while no package or whole-node meter can be read");
    }
    if let Some(other) = all.iter().find(|other| known.promoted.contains(&other.id) && are_twins(zone, other)) {
        return Some((Role::Duplicate, format!("the same joules as {}, which stands in for it", other.id)));
    }
    if let Some(twin) = twin(zone, all).filter(|_| !known.promoted.contains(&zone.id)) {
        return Some((Role::Duplicate, format!("the same joules as {}", twin.id)));
    }
    if let Some(evidence) = known.refuted.get(&zone.id) {
        // A psys beside packages is for comparison only, and the comparison is what it lost.
        let role = if zone.claim() == Claim::Platform { Role::Reference } else { Role::Unclassified };
        return Some((role, evidence.clone()));
    }
    let parent = zone.parent.as_deref().and_then(|parent| all.iter().find(|other| other.id == parent));
    match zone.claim() {
        Claim::Part => Some((Role::Primary, describe(zone))),
        Claim::Inside if parent.is_some_and(|parent| known.refuted.contains_key(&parent.id)) => {
            Some((Role::Primary, format!("{}; what should contain it does not", describe(zone))))
        }
        Claim::Inside => Some(contained(zone)),
        Claim::Platform if packages(all) => {
            said(Role::Reference, "the platform contains the packages; some firmware misreports it")
        }
        Claim::Platform if all.iter().any(|zone| is_node(zone) && answers(zone, known)) => {
            said(Role::Reference, "the platform, of a machine that is metered as a whole")
        }
        Claim::Platform => said(Role::Primary, "the platform; there is no package to sum"),
        Claim::Unknown => said(Role::Unclassified, "not known what it contains: never summed"),
        // What stands in for the whole machine and has a parent is that one's sensor seen another way.
        Claim::Node | Claim::Supply => parent
            .filter(|same| known.answered.contains(&same.id))
            .map(|same| (Role::Duplicate, format!("the same sensor as {}", same.id))),
    }
}

fn is_node(zone: &Zone) -> bool {
    zone.quality == Quality::Measured && matches!(zone.claim(), Claim::Node | Claim::Supply)
}

fn answers(zone: &Zone, known: &Known) -> bool {
    known.answered.contains(&zone.id) && !known.silent.contains(&zone.id)
}

fn describe(zone: &Zone) -> String {
    match zone.domain {
        Domain::Package => "a processor package",
        Domain::Dram => "memory is not part of the package's counter",
        Domain::Module => "the whole module, while not all its parts are metered",
        Domain::Gpu => "a graphics card or accelerator",
        _ => "a part of the machine beside the others",
    }
    .to_owned()
}

fn contained(zone: &Zone) -> (Role, String) {
    let why = match (zone.domain, &zone.parent) {
        (Domain::Core, _) if zone.source == "rapl" => "part of its package (on AMD one single core)".to_owned(),
        (_, Some(parent)) => format!("part of {parent}"),
        (_, None) => "part of its package".to_owned(),
    };
    (Role::Contained, why)
}

fn packages(all: &[Arc<Zone>]) -> bool {
    all.iter().any(|zone| zone.domain == Domain::Package && zone.quality == Quality::Measured)
}

/// What the meters of the whole machine are chosen by: one zone, or all supplies of one source together.
fn group_of(zone: &Zone) -> Option<String> {
    match zone.claim() {
        _ if zone.quality == Quality::Estimated => None,
        Claim::Node => Some(zone.id.clone()),
        Claim::Supply if zone.source == "battery" => Some("the batteries".to_owned()),
        Claim::Supply => Some(format!("the supplies of {}", zone.source)),
        _ => None,
    }
}

/// The meter of the whole machine among the candidates: the best of those that answer, else the best.
fn choose<'a>(candidates: impl Iterator<Item = &'a Arc<Zone>>, known: &Known) -> Option<String> {
    let standing = |zone: &Zone| (!answers(zone, known), node_rank(zone));
    candidates.min_by_key(|zone| (standing(zone), zone.id.clone())).and_then(|zone| group_of(zone))
}

/// Meters of the whole machine, the best first: what the operator named, what counts, what asks a BMC, firmware.
fn node_rank(zone: &Zone) -> u8 {
    match (zone.source, zone.claim()) {
        ("http", _) => 0,
        ("cray", _) => 2,
        ("redfish", _) => 3,
        ("ipmi", _) => 4,
        ("hwmon", Claim::Node) => 5,
        ("hwmon", _) => 6,
        ("battery", _) => 7,
        _ => 1, // a meter that the program around the agent brought along
    }
}

/// Sources of the same quantity, the best first; among the chips of hwmon those that count before those that guess.
fn rank(zone: &Zone) -> Option<(u8, &str)> {
    let (control, rest) = zone.id.split_once(':')?;
    let chip = rest.split('@').next().unwrap_or_default();
    match zone.source {
        "rapl" if control == "rapl" => Some((0, control)),
        "perf" => Some((1, control)),
        "rapl" if is_rapl(control) => Some((2, control)),
        "hwmon" if zone.claim() == Claim::Inside => None,
        "hwmon" => Some(match chip {
            "amd_energy" => (3, chip),
            "amd_hsmp_hwmon" => (4, chip),
            "amdgpu" => (6, chip),
            _ => (5, chip),
        }),
        "cray" => Some((7, control)),
        _ => None,
    }
}

/// Whether two zones of different sources measure the same joules.
#[must_use]
pub fn are_twins(one: &Zone, two: &Zone) -> bool {
    let (Some(first), Some(second)) = (rank(one), rank(two)) else { return false };
    if first == second || one.domain != two.domain {
        return false;
    }
    if one.source == "rapl" && two.source == "rapl" {
        return one.id.split_once(':').map(|(_, name)| name) == two.id.split_once(':').map(|(_, name)| name);
    }
    let of_all_sockets = one.source == "cray" || two.source == "cray";
    match one.domain {
        Domain::Package | Domain::Dram | Domain::Gpu if of_all_sockets => true,
        Domain::Package if one.source == two.source => same_socket(one, two) == Some(true),
        // Where a sensor does not say which socket it measures, it is one of those that are metered already.
        Domain::Package | Domain::Psys => same_socket(one, two) != Some(false),
        Domain::Dram => same_socket(one, two) == Some(true),
        // An EPYC's Ecore and a RAPL core are one core each, and not the same one.
        Domain::Core | Domain::Uncore => first.0.max(second.0) <= 2 && same_socket(one, two) == Some(true),
        _ => false,
    }
}

/// Whether both measure one socket; a die and the whole socket do, since the dies together are the socket.
fn same_socket(one: &Zone, two: &Zone) -> Option<bool> {
    let (one, two) = (one.socket?, two.socket?);
    let die = one.die.is_none() || two.die.is_none() || one.die == two.die;
    Some(one.package == two.package && die)
}

/// The zone of a better source that measures the same as this one.
#[must_use]
pub fn twin<'a>(zone: &Zone, all: &'a [Arc<Zone>]) -> Option<&'a Arc<Zone>> {
    let own = rank(zone)?;
    let better = all.iter().filter(|other| rank(other).is_some_and(|rank| rank < own) && are_twins(zone, other));
    better.min_by(|one, two| (rank(one), &one.id).cmp(&(rank(two), &two.id)))
}

/// Whether a zone makes the estimator superfluous: it, or what is reckoned from it, holds what the processors draw.
#[must_use]
pub fn stands_for_the_machine(zone: &Zone) -> bool {
    let domain = matches!(zone.domain, Domain::Package | Domain::Psys | Domain::Host | Domain::Module)
        || zone.domain == Domain::Soc && zone.socket.is_some();
    let primary = zone.role == Role::Primary && (domain || zone.claim() == Claim::Supply);
    zone.quality == Quality::Measured && zone.domain != Domain::Rest && (primary || zone.whole)
}

/// The containers whose word is checked against what lies in them: each with its parts.
#[must_use]
pub fn containers(zones: &[Arc<Zone>], known: &Known) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for zone in zones.iter().filter(|zone| zone.quality == Quality::Measured && !known.refuted.contains_key(&zone.id)) {
        let counts = |part: &&Arc<Zone>| known.answered.contains(&part.id);
        let ids = |parts: &mut dyn Iterator<Item = &Arc<Zone>>| parts.map(|part| part.id.clone()).collect::<Vec<_>>();
        let parts = match (zone.claim(), zone.role) {
            (Claim::Platform, Role::Reference) => ids(&mut zones
                .iter()
                .filter(|part| part.domain == Domain::Package && part.role == Role::Primary)
                .filter(counts)),
            // A package's own parts come from the same registers, and AMD's are known to be odd: they stay out.
            (Claim::Part, Role::Primary) if zone.domain != Domain::Package => {
                let inside =
                    |part: &&Arc<Zone>| part.claim() == Claim::Inside && part.parent.as_ref() == Some(&zone.id);
                ids(&mut zones.iter().filter(inside).filter(counts))
            }
            _ => continue,
        };
        if !parts.is_empty() {
            found.push((zone.id.clone(), parts));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Socket;

    fn zone(source: &'static str, id: &str, domain: Domain) -> Zone {
        Zone::new(source, id, domain)
    }

    fn on(mut zone: Zone, package: u32) -> Zone {
        zone.socket = Some(Socket { package, die: None });
        zone
    }

    fn inside(mut zone: Zone, parent: &str) -> Zone {
        zone.parent = Some(parent.to_owned());
        zone.claim = Some(Claim::Inside);
        zone
    }

    fn shared(zones: Vec<Zone>) -> Vec<Arc<Zone>> {
        zones.into_iter().map(Arc::new).collect()
    }

    fn all_answer(zones: &[Arc<Zone>]) -> Known {
        Known { answered: zones.iter().map(|zone| zone.id.clone()).collect(), ..Known::default() }
    }

    fn roles(zones: Vec<Zone>) -> Vec<Role> {
        let zones = shared(zones);
        with_roles(&zones, &all_answer(&zones)).iter().map(|zone| zone.role).collect()
    }

    #[test]
    fn twins_are_counted_once_whatever_their_order() {
        use Role::{Duplicate, Primary};
        let mmio = || zone("rapl", "intel-rapl-mmio:package-0", Domain::Package);
        let msr = || zone("rapl", "rapl:package-0", Domain::Package);
        assert_eq!(roles(vec![mmio(), msr()]), [Duplicate, Primary]);
        assert_eq!(roles(vec![msr(), mmio()]), [Primary, Duplicate]);
        assert_eq!(roles(vec![mmio()]), [Primary], "alone it is kept");
        let dram = |id: &str| zone("rapl", id, Domain::Dram);
        assert_eq!(
            roles(vec![dram("rapl:package-0/dram"), dram("intel-rapl-mmio:package-0/dram")]),
            [Primary, Duplicate]
        );
    }

    #[test]
    fn sockets_tell_what_other_sources_measure_again() {
        use Role::{Duplicate, Primary};
        let package = |source, id, socket| on(zone(source, id, Domain::Package), socket);
        let rapl = || vec![package("rapl", "rapl:package-1", 1), package("rapl", "rapl:package-0", 0)];
        let mut zones = rapl();
        zones.push(package("perf", "perf:energy-pkg@0", 0));
        zones.push(package("hwmon", "hwmon:amd_energy@0/energy9", 1));
        zones.push(package("hwmon", "hwmon:amdgpu@0000:c1:00.0/power1", 0));
        zones.push(zone("cray", "cray:cpu_energy", Domain::Package));
        assert_eq!(roles(zones), [Primary, Primary, Duplicate, Duplicate, Duplicate, Duplicate]);
        assert_eq!(roles(vec![zone("cray", "cray:cpu_energy", Domain::Package)]), [Primary]);
    }

    #[test]
    fn a_die_and_its_socket_are_the_same_joules() {
        let mut die = on(zone("rapl", "rapl:package-0-die-1", Domain::Package), 0);
        die.socket = Some(Socket { package: 0, die: Some(1) });
        let socket = on(zone("hwmon", "hwmon:amd_energy@0/energy9", Domain::Package), 0);
        assert_eq!(roles(vec![die, socket]), [Role::Primary, Role::Duplicate]);
    }

    #[test]
    fn psys_is_a_reference_beside_packages_and_primary_without() {
        let psys = || zone("rapl", "rapl:psys", Domain::Psys);
        assert_eq!(roles(vec![psys()]), [Role::Primary]);
        assert_eq!(
            roles(vec![psys(), zone("rapl", "rapl:package-0", Domain::Package)]),
            [Role::Reference, Role::Primary]
        );
        assert_eq!(roles(vec![zone("rapl", "arm-scmi:soc", Domain::Other)]), [Role::Unclassified]);
    }

    #[test]
    fn one_meter_of_the_whole_machine_is_chosen() {
        use Role::{Primary, Reference};
        let dcmi = || zone("ipmi", "ipmi:dcmi", Domain::Host);
        let plug = || zone("http", "http:plug", Domain::Host);
        assert_eq!(roles(vec![dcmi(), plug()]), [Reference, Primary], "the operator's own comes first");
        let zones = shared(vec![dcmi(), plug()]);
        let mut known = all_answer(&zones);
        known.silent.insert("http:plug".into());
        assert_eq!(with_roles(&zones, &known)[0].role, Primary, "until it falls silent");
        let mut beside = with_roles(
            &shared(vec![dcmi(), zone("rapl", "rapl:package-0", Domain::Package)]),
            &Known { answered: ["ipmi:dcmi".into()].into(), ..Known::default() },
        );
        assert_eq!(beside[0].role, Primary, "a package that cannot be read is no part yet");
        let zones = shared(vec![dcmi(), zone("rapl", "rapl:package-0", Domain::Package)]);
        beside = with_roles(&zones, &all_answer(&zones));
        assert_eq!((beside[0].role, beside[0].whole), (Reference, true));
    }

    #[test]
    fn supplies_are_the_machine_together() {
        let pin = |id: &str| zone("hwmon", id, Domain::Psu);
        assert_eq!(roles(vec![pin("hwmon:pmbus@1-58/power1"), pin("hwmon:pmbus@1-59/power1")]), [Role::Primary; 2]);
        let zones = shared(vec![pin("hwmon:a@1/power1"), zone("rapl", "rapl:package-0", Domain::Package)]);
        assert!(with_roles(&zones, &all_answer(&zones))[0].whole);
    }

    #[test]
    fn a_module_holds_its_parts_until_it_is_refuted() {
        use Role::{Contained, Primary, Unclassified};
        let zones = || {
            vec![
                zone("hwmon", "hwmon:m", Domain::Module),
                inside(zone("hwmon", "hwmon:grace", Domain::Soc), "hwmon:m"),
                inside(zone("hwmon", "hwmon:cpu", Domain::Package), "hwmon:grace"),
            ]
        };
        assert_eq!(roles(zones()), [Primary, Contained, Contained]);
        let zones = shared(zones());
        let mut known = all_answer(&zones);
        assert_eq!(containers(&with_roles(&zones, &known), &known), [("hwmon:m".into(), vec!["hwmon:grace".into()])]);
        known.refuted.insert("hwmon:m".into(), "counts less".into());
        let found: Vec<_> = with_roles(&zones, &known).iter().map(|zone| zone.role).collect();
        assert_eq!(found, [Unclassified, Primary, Contained]);
    }
}
