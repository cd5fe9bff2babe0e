//! The directories of the hwmon class: chips, their devices, and the channels in which they measure power or energy.
//!
//! A chip is named by `hwmonN/name` and told apart by the device that `hwmonN/device` links to (`0000:03:00.0`,
//! `ACPI000D:00`, `1-0040`), since the number N changes from boot to boot. Drivers that register without a name (the
//! ACPI power meter) have everything, `name` too, in `hwmonN/device/`. Where a copy of sysfs has no such link, the
//! device's uevent tells the PCI address. A channel is a counter of energy, else a gauge of power; in a chip that has
//! neither it is a voltage times a current.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::{EntryKind, Host};
use crate::meter::hwmon::CLASS;
use crate::meter::hwmon::pairing::pairs;
use crate::meter::sysfs::{link_name, number, text};

/// Longest name or label that is taken over.
const NAME_MAX: usize = 96;

/// One hwmon device.
#[derive(Debug)]
pub struct Chip {
    /// The driver's name for it: `amdgpu`.
    pub name: String,
    /// What it is part of: `0000:03:00.0`; the entry, where that is not known.
    pub device: String,
    /// Its directory in the class: `hwmon3`.
    pub entry: String,
    /// Where the attributes are.
    dir: String,
    files: BTreeSet<String>,
    /// Of `power1_label` and its like, by `power1`.
    labels: BTreeMap<String, String>,
}

/// One thing that a chip measures.
#[derive(Debug, PartialEq, Eq)]
pub struct Channel {
    /// The kernel's name: `power1`, `energy2`, `in1_curr1`.
    pub name: String,
    /// Its number: 1 of `power1`.
    pub index: u32,
    /// What the driver calls it.
    pub label: Option<String>,
    /// What is read.
    pub files: Files,
}

/// The files of a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Files {
    /// A counter in µJ.
    Energy(String),
    /// A gauge in µW, the better one first.
    Power(Vec<String>),
    /// A gauge in mV and one in mA.
    Product(String, String),
}

/// The chips of the machine, in an order that does not depend on their numbers as long as their devices differ.
pub fn chips(host: &Host) -> Vec<Chip> {
    let mut entries = Vec::new();
    let _ = host.list(CLASS, |name, _, kind| {
        if kind != EntryKind::File {
            entries.push(String::from_utf8_lossy(name).into_owned());
        }
    });
    let mut chips: Vec<Chip> = entries.into_iter().filter_map(|entry| Chip::at(host, entry)).collect();
    let number = |chip: &Chip| chip.entry.trim_start_matches("hwmon").parse::<u64>().unwrap_or(u64::MAX);
    chips.sort_by(|one, two| {
        (&one.name, &one.device, number(one), &one.entry).cmp(&(&two.name, &two.device, number(two), &two.entry))
    });
    chips
}

impl Chip {
    /// The chip of an entry of the class, if it has to do with power.
    fn at(host: &Host, entry: String) -> Option<Self> {
        let top = format!("{CLASS}/{entry}");
        let inner = format!("{top}/device");
        let mut files = files(host, &top)?;
        let mut dir = top.clone();
        if !files.iter().any(|file| is_sensor(file)) {
            files = self::files(host, &inner)?;
            dir.clone_from(&inner);
        }
        let has = |kind: &str| files.iter().filter_map(|file| split(file)).any(|(found, ..)| found == kind);
        (has("power") || has("energy") || has("in") && has("curr")).then_some(())?;
        let name = text(host, &format!("{top}/name")).or_else(|| text(host, &format!("{inner}/name")));
        let name = name.map_or_else(|| "hwmon".to_owned(), |name| part_of_id(&name));
        let slot = || {
            let uevent = text(host, &format!("{inner}/uevent"))?;
            uevent.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME=")).map(str::to_owned)
        };
        let device = link_name(host, &inner).or_else(slot);
        let device = device.map_or_else(|| entry.clone(), |device| part_of_id(&device));
        let label = |file: &String| {
            let (kind, index, _) = split(file).filter(|(_, _, what)| *what == "label")?;
            let label = clean(&text(host, &format!("{dir}/{file}"))?);
            (!label.is_empty()).then_some((format!("{kind}{index}"), label))
        };
        let labels = files.iter().filter_map(label).collect();
        Some(Self { name, device, entry, dir, files, labels })
    }

    /// The text of one of its attributes.
    pub fn text(&self, host: &Host, file: &str) -> Option<String> {
        if self.files.contains(file) { text(host, &format!("{}/{file}", self.dir)) } else { None }
    }

    /// The number in one of its attributes.
    pub fn number(&self, host: &Host, file: &str) -> Option<u64> {
        if self.files.contains(file) { number(host, &format!("{}/{file}", self.dir)) } else { None }
    }

    /// The path of an attribute of the device that it is part of.
    pub fn of_device(&self, file: &str) -> String {
        format!("{CLASS}/{}/device/{file}", self.entry)
    }

    /// The number of the channel of this kind that has this label: the 1 of `in1_label` = `vin`.
    pub fn labelled(&self, kind: &str, label: &str) -> Option<u32> {
        let is_it = |index: &u32| self.label(kind, *index).is_some_and(|found| found == label);
        self.indices(kind, &["label"]).into_iter().find(is_it)
    }

    /// What it measures, what is switched off left out.
    pub fn channels(&self, host: &Host) -> Vec<Channel> {
        let channel = |kind: &str, index: u32, files: Files| Channel {
            name: format!("{kind}{index}"),
            index,
            label: self.label(kind, index),
            files,
        };
        let counters = self.live(host, "energy", &["input"]).into_iter();
        let mut channels: Vec<Channel> = counters
            .map(|index| channel("energy", index, Files::Energy(self.file("energy", index, "input"))))
            .collect();
        let counted = channels.len();
        for index in self.live(host, "power", &["average", "input"]) {
            let listed = ["average", "input"].into_iter().filter(|what| self.has("power", index, what));
            let files = listed.map(|what| self.file("power", index, what)).collect();
            let gauge = channel("power", index, Files::Power(files));
            if !channels.iter().take(counted).any(|counter| same_rail(counter, &gauge)) {
                channels.push(gauge);
            }
        }
        if channels.is_empty() { self.products(host) } else { channels }
    }

    /// Voltage times current: both averages, or both inputs.
    fn products(&self, host: &Host) -> Vec<Channel> {
        let voltages = self.live(host, "in", &["average", "input"]);
        let currents = self.live(host, "curr", &["average", "input"]);
        let pairs = pairs(&self.name, &voltages, &currents).into_iter();
        let channels = pairs.filter_map(|(voltage, current)| {
            let both = |what: &&str| self.has("in", voltage, what) && self.has("curr", current, what);
            let what = ["average", "input"].into_iter().find(both)?;
            Some(Channel {
                name: format!("in{voltage}_curr{current}"),
                index: voltage,
                label: self.label("in", voltage).or_else(|| self.label("curr", current)),
                files: Files::Product(self.file("in", voltage, what), self.file("curr", current, what)),
            })
        });
        channels.collect()
    }

    fn file(&self, kind: &str, index: u32, what: &str) -> String {
        format!("{}/{kind}{index}_{what}", self.dir)
    }

    fn has(&self, kind: &str, index: u32, what: &str) -> bool {
        self.files.contains(&format!("{kind}{index}_{what}"))
    }

    fn label(&self, kind: &str, index: u32) -> Option<String> {
        self.labels.get(&format!("{kind}{index}")).cloned()
    }

    /// The numbers of the channels of one kind that have one of these attributes, in order.
    fn indices(&self, kind: &str, whats: &[&str]) -> BTreeSet<u32> {
        let parts = self.files.iter().filter_map(|file| split(file));
        parts.filter(|(found, _, what)| *found == kind && whats.contains(what)).map(|(_, index, _)| index).collect()
    }

    /// Those of them that are not switched off. Without a switch they are on.
    fn live(&self, host: &Host, kind: &str, whats: &[&str]) -> BTreeSet<u32> {
        let mut indices = self.indices(kind, whats);
        indices.retain(|index| self.number(host, &format!("{kind}{index}_enable")) != Some(0));
        indices
    }
}

/// Whether a counter and a gauge measure the same: the same label, or the same number where one has no label.
fn same_rail(counter: &Channel, gauge: &Channel) -> bool {
    match (&counter.label, &gauge.label) {
        (Some(counter), Some(gauge)) => counter == gauge,
        _ => counter.index == gauge.index,
    }
}

/// The names of the files in a directory.
fn files(host: &Host, dir: &str) -> Option<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let listed = host.list(dir, |name, _, kind| {
        if kind == EntryKind::File {
            files.insert(String::from_utf8_lossy(name).into_owned());
        }
    });
    listed.ok().map(|()| files)
}

/// `power1_average` → (`power`, 1, `average`), for the kinds that have to do with power.
fn split(file: &str) -> Option<(&str, u32, &str)> {
    let (kind, index, what) = attribute(file)?;
    matches!(kind, "power" | "energy" | "in" | "curr").then_some((kind, index, what))
}

/// Whether this is an attribute of any sensor: `temp1_input`, `fan2_label`.
fn is_sensor(file: &str) -> bool {
    attribute(file).is_some()
}

fn attribute(file: &str) -> Option<(&str, u32, &str)> {
    let (channel, what) = file.split_once('_')?;
    let (kind, index) = channel.split_at(channel.find(|c: char| c.is_ascii_digit())?);
    Some((kind, index.parse().ok()?, what))
}

/// A driver's text without control characters.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect::<String>().trim().to_owned()
}

/// The same where it becomes part of an id.
fn part_of_id(text: &str) -> String {
    clean(text).replace(|c: char| c.is_whitespace() || c == '/', "_")
}
