//! A node in a bottle: makes snapshots as the agent would, with whatever births, deaths and energy a test wants.

use std::sync::Arc;
use std::time::Duration;

use wattribute::clock::Timestamp;
use wattribute::export::{Refused, Snapshot, Totals, Workload, ZoneBook};
use wattribute::meter::{Domain, Quality, Role, Sensor, State, Zone};
use wattribute::semconv::attr;
use wattribute::unit::{CpuTime, Microjoules, Microwatts};
use wattribute::workload::{Identity, Kind, WorkloadId};

/// Wall clock at boot, s since 1970.
pub const BOOT: u64 = 1_700_000_000;

pub struct World {
    pub snapshot: Snapshot,
    serial: u64,
    ended: Vec<usize>,
}

pub fn at(seconds: u64) -> Timestamp {
    let boot = Duration::from_secs(seconds);
    Timestamp { boot, asleep: Duration::ZERO, wall: Duration::from_secs(BOOT) + boot }
}

/// Nanoseconds since 1970 at so many seconds after boot.
pub fn nanos(seconds: u64) -> u64 {
    at(seconds).unix_nanos()
}

pub fn zone(id: &str, domain: Domain, role: Role) -> Zone {
    Zone {
        id: id.to_owned(),
        name: id.rsplit(':').next().unwrap().to_owned(),
        source: "rapl",
        domain,
        role,
        why: String::new(),
        quality: Quality::Measured,
        parent: None,
        claim: None,
        socket: None,
        whole: false,
        sensor: Sensor::microjoules(None),
        power_max: Microwatts(1_000_000_000),
        idle: None,
        path: String::new(),
        ambiguous: false,
    }
}

pub fn package(id: &str) -> Zone {
    zone(id, Domain::Package, Role::Primary)
}

impl World {
    /// The baseline is at 100 s after boot.
    pub fn new(zones: Vec<Zone>) -> Self {
        let snapshot = Snapshot { at: at(100), baseline: at(100), ..Snapshot::default() };
        let mut world = Self { snapshot, serial: 0, ended: Vec::new() };
        zones.into_iter().for_each(|zone| world.add_zone(zone));
        let node = Identity { id: WorkloadId::Node, name: "node".into(), attributes: vec![] };
        world.insert(node, 0);
        world
    }

    pub fn add_zone(&mut self, zone: Zone) {
        let (old, rows) = (self.snapshot.zones.len(), self.snapshot.workloads.len());
        for column in [&mut self.snapshot.active, &mut self.snapshot.exited, &mut self.snapshot.idle] {
            let mut wider = vec![Microjoules::ZERO; rows * (old + 1)];
            for row in 0..rows {
                wider[row * (old + 1)..][..old].copy_from_slice(&column[row * old..][..old]);
            }
            *column = wider;
        }
        self.snapshot.zones.push(ZoneBook {
            zone: Arc::new(zone),
            state: State::First,
            start: self.snapshot.at,
            measured: None,
            covers: Duration::ZERO,
            until: self.snapshot.at,
            idle: Microjoules::ZERO,
            shared: Microjoules::ZERO,
            attributed: Microjoules::ZERO,
            unattributed: Microjoules::ZERO,
            total: Totals::default(),
            power: Microwatts::ZERO,
            at_rest: None,
            measure: wattribute::activity::counters::Measure::CpuTime,
            refused: Refused::default(),
        });
    }

    pub fn change_zone(&mut self, z: usize, change: impl FnOnce(&mut Zone)) {
        let mut zone = (*self.snapshot.zones[z].zone).clone();
        change(&mut zone);
        self.snapshot.zones[z].zone = Arc::new(zone);
    }

    fn insert(&mut self, identity: Identity, parent: usize) -> usize {
        let zones = self.snapshot.zones.len();
        let row = self.snapshot.workloads.iter().position(Option::is_none).unwrap_or(self.snapshot.workloads.len());
        if row == self.snapshot.workloads.len() {
            self.snapshot.workloads.push(None);
            self.snapshot.cpu.push(CpuTime::ZERO);
            for column in [&mut self.snapshot.active, &mut self.snapshot.exited, &mut self.snapshot.idle] {
                column.resize((row + 1) * zones, Microjoules::ZERO);
            }
        }
        for column in [&mut self.snapshot.active, &mut self.snapshot.exited, &mut self.snapshot.idle] {
            column[row * zones..][..zones].fill(Microjoules::ZERO);
        }
        let start = self.snapshot.at;
        let serial = self.serial;
        self.serial += 1;
        self.snapshot.generation += 1;
        self.snapshot.workloads[row] = Some(Arc::new(Workload {
            serial,
            identity: Arc::new(identity),
            parent,
            moves: 0,
            start: Arc::new(start),
            ended: None,
            awaited: false,
        }));
        row
    }

    pub fn identity(&self, row: usize) -> Identity {
        (*self.snapshot.workloads[row].as_ref().unwrap().identity).clone()
    }

    pub fn container(&mut self, id: &str, parent: usize) -> usize {
        self.insert(Identity::new(Kind::Container, id, id).with(attr::CONTAINER_ID, id), parent)
    }

    pub fn pod(&mut self, uid: &str, parent: usize) -> usize {
        self.insert(Identity::new(Kind::Pod, uid, uid).with(attr::K8S_POD_UID, uid), parent)
    }

    pub fn slice(&mut self, path: &str, parent: usize) -> usize {
        self.insert(Identity::new(Kind::Slice, path, path).with(attr::CGROUP, path), parent)
    }

    pub fn service(&mut self, path: &str, parent: usize) -> usize {
        let unit = path.rsplit('/').next().unwrap();
        let identity = Identity::new(Kind::Service, path, unit);
        self.insert(identity.with(attr::SYSTEMD_UNIT, unit).with(attr::CGROUP, path), parent)
    }

    pub fn vm(&mut self, uuid: &str, parent: usize) -> usize {
        let identity = Identity::new(Kind::Vm, uuid, "guest").with(attr::HOST_ID, uuid);
        self.insert(identity.with(attr::HOST_NAME, "guest"), parent)
    }

    pub fn process(&mut self, pid: u32, name: &str, parent: usize) -> usize {
        let id = WorkloadId::Process { pid, start_ticks: u64::from(pid) * 7 };
        let attributes = vec![(attr::PROCESS_EXECUTABLE_NAME.into(), name.to_owned())];
        self.insert(Identity { id, name: name.into(), attributes }, parent)
    }

    pub fn rename(&mut self, row: usize, change: impl FnOnce(&mut Identity)) {
        let mut identity = self.identity(row);
        change(&mut identity);
        Arc::make_mut(self.snapshot.workloads[row].as_mut().unwrap()).identity = Arc::new(identity);
        self.snapshot.generation += 1;
    }

    pub fn set_awaited(&mut self, row: usize, awaited: bool) {
        Arc::make_mut(self.snapshot.workloads[row].as_mut().unwrap()).awaited = awaited;
        self.snapshot.generation += 1;
    }

    pub fn move_to(&mut self, row: usize, parent: usize) {
        let workload = Arc::make_mut(self.snapshot.workloads[row].as_mut().unwrap());
        workload.moves += u32::from(workload.parent != parent);
        workload.parent = parent;
        self.snapshot.generation += 1;
    }

    /// Energy of a row that is booked to it and everything around it.
    pub fn spend(&mut self, row: usize, z: usize, energy: u64) {
        let zones = self.snapshot.zones.len();
        let mut row = row;
        loop {
            self.snapshot.active[row * zones + z] += Microjoules(energy);
            if row == 0 {
                break;
            }
            row = self.snapshot.workloads[row].as_ref().unwrap().parent;
        }
        let book = &mut self.snapshot.zones[z];
        book.total.attributed += Microjoules(energy);
        book.total.measured += Microjoules(energy);
    }

    /// The same by processes that were never seen.
    pub fn spend_unseen(&mut self, row: usize, z: usize, energy: u64) {
        self.spend(row, z, energy);
        let zones = self.snapshot.zones.len();
        self.snapshot.exited[row * zones + z] += Microjoules(energy);
    }

    pub fn rest(&mut self, z: usize, idle: u64, unattributed: u64) {
        let book = &mut self.snapshot.zones[z];
        book.total.idle += Microjoules(idle);
        book.total.unattributed += Microjoules(unattributed);
        book.total.measured += Microjoules(idle + unattributed);
    }

    /// Idle energy that is shown with a row, as with `attribution.idle_share`.
    pub fn share_idle(&mut self, row: usize, z: usize, energy: u64) {
        let zones = self.snapshot.zones.len();
        self.snapshot.idle[row * zones + z] += Microjoules(energy);
        self.snapshot.zones[z].total.shared += Microjoules(energy);
        self.rest(z, energy, 0);
    }

    pub fn is_outermost(&self, row: usize) -> bool {
        let workload = self.snapshot.workloads[row].as_ref().unwrap();
        let around = self.snapshot.workloads[workload.parent].as_ref().unwrap();
        matches!(around.identity.id.kind(), Kind::Node | Kind::Slice) && !workload.awaited
    }

    /// Ends a workload and everything in it; final from the next tick on.
    pub fn end(&mut self, row: usize) {
        let now = self.snapshot.at;
        let inside: Vec<usize> = self
            .snapshot
            .rows()
            .filter(|(other, workload)| *other != row && workload.parent == row && workload.ended.is_none())
            .map(|(other, _)| other)
            .collect();
        inside.into_iter().for_each(|other| self.end(other));
        Arc::make_mut(self.snapshot.workloads[row].as_mut().unwrap()).ended = Some(now);
        self.snapshot.generation += 1;
        self.ended.push(row);
    }

    /// A workload that ended, and that some reader has not seen yet, is there again: a service that was restarted.
    pub fn revive(&mut self, pick: usize) {
        let alive = |row: usize| self.snapshot.workloads[row].as_ref().is_some_and(|found| found.ended.is_none());
        let fits = |row: &&usize| {
            let workload = self.snapshot.workloads[**row].as_ref().unwrap();
            workload.identity.id.kind() != Kind::Process && alive(workload.parent)
        };
        let rows: Vec<usize> = self.ended.iter().filter(fits).copied().collect();
        if let Some(row) = (!rows.is_empty()).then(|| rows[pick % rows.len()]) {
            self.ended.retain(|ended| *ended != row);
            Arc::make_mut(self.snapshot.workloads[row].as_mut().unwrap()).ended = None;
            self.snapshot.generation += 1;
        }
    }

    /// Rows of ended workloads become free, as they do when every reader has seen them.
    pub fn forget(&mut self) {
        for row in self.ended.drain(..) {
            self.snapshot.workloads[row] = None;
            self.snapshot.generation += 1;
        }
    }

    /// The snapshot so many seconds later.
    pub fn tick(&mut self, seconds: u64) -> Arc<Snapshot> {
        let passed = Duration::from_secs(seconds);
        self.snapshot.tick += 1;
        self.snapshot.interval = passed;
        self.snapshot.at.boot += passed;
        self.snapshot.at.wall += passed;
        for book in &mut self.snapshot.zones {
            book.covers = Duration::from_secs(1);
            book.until = self.snapshot.at;
            book.state = State::Ok;
        }
        Arc::new(self.snapshot.clone())
    }
}
