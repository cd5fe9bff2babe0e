//! Who pays for idle: the part of a node's idle energy that is shown with its workloads (`attribution.idle_share`).
//!
//! This is a view, not a booking: idle energy stays idle in the books, and what is not shared is said. It is cut in
//! integers as active energy is, over those that people run and pay for: pods, and at the top containers, VMs and jobs;
//! services only where there is nothing else. `even` gives each the same, `requests` and `limits` go by what a pod asked
//! for or may use at most (memory for DRAM, CPUs for everything else; who says nothing counts as the smallest that is
//! said), `usage` goes by CPU time. With nobody to share it among, nothing is shared.

use crate::activity::Usage;
use crate::attribute::cpu::Split;
use crate::config::IdleShare;
use crate::meter::Domain;
use crate::unit::Microjoules;
use crate::workload::table::{NODE, Table};
use crate::workload::{Kind, Resources};

/// The workloads that share, in the order of their ids.
#[derive(Debug, Default)]
pub struct Sharers {
    policy: IdleShare,
    /// The table for which they were found.
    generation: Option<u64>,
    all: Vec<Sharer>,
    open: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Sharer {
    row: usize,
    cpu: u64,
    memory: u64,
}

impl Sharers {
    /// Finds them anew if the table has changed.
    pub fn update(&mut self, policy: IdleShare, table: &Table) {
        self.policy = policy;
        if policy == IdleShare::None || self.generation == Some(table.generation()) {
            return;
        }
        self.generation = Some(table.generation());
        self.gather(table, |kind| kind != Kind::Service);
        if self.all.is_empty() {
            self.gather(table, |_| true);
        }
        let weight = |sharer: &Sharer, pick: fn(&Resources) -> Option<u64>| {
            table.get(sharer.row).and_then(|row| pick(&row.resources())).filter(|wanted| *wanted > 0)
        };
        let [cpu, memory]: [fn(&Resources) -> Option<u64>; 2] = match policy {
            IdleShare::Limits => [|wanted| wanted.cpu_limit, |wanted| wanted.memory_limit],
            _ => [|wanted| wanted.cpu_request, |wanted| wanted.memory_request],
        };
        let least = |pick| self.all.iter().filter_map(|sharer| weight(sharer, pick)).min().unwrap_or(1);
        let (least_cpu, least_memory) = (least(cpu), least(memory));
        for sharer in &mut self.all {
            sharer.cpu = weight(sharer, cpu).unwrap_or(least_cpu);
            sharer.memory = weight(sharer, memory).unwrap_or(least_memory);
        }
    }

    /// The outermost workloads that are more than a place, of the kinds that `wanted` names.
    fn gather(&mut self, table: &Table, wanted: impl Fn(Kind) -> bool) {
        self.all.clear();
        self.open.clear();
        self.open.push(NODE);
        while let Some(row) = self.open.pop() {
            let living = |child: &&usize| table.get(**child).is_some_and(|row| row.ended.is_none());
            for &child in table.children(row).iter().filter(living) {
                match table.kind(child) {
                    Kind::Process | Kind::Kernel => {}
                    Kind::Pod | Kind::Container | Kind::Vm | Kind::Job => {
                        self.all.push(Sharer { row: child, cpu: 1, memory: 1 });
                    }
                    Kind::Service if wanted(Kind::Service) => self.all.push(Sharer { row: child, cpu: 1, memory: 1 }),
                    Kind::Node | Kind::Slice | Kind::Service => self.open.push(child),
                }
            }
        }
        let id = |sharer: &Sharer| table.get(sharer.row).map(|row| &row.identity.id);
        self.all.sort_unstable_by(|one, two| id(one).cmp(&id(two)));
    }

    /// Whether anything is to be shared.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.policy != IdleShare::None
    }

    /// Cuts the idle energy of a zone of `domain`; `give` gets each row's part. Returns what was given away.
    pub fn split(
        &self,
        idle: Microjoules,
        domain: Domain,
        usage: &Usage,
        phase: &mut u32,
        mut give: impl FnMut(usize, Microjoules),
    ) -> Microjoules {
        let weight = |sharer: &Sharer| match self.policy {
            IdleShare::None => 0,
            IdleShare::Even => 1,
            IdleShare::Usage => usage.weight_of(sharer.row),
            IdleShare::Requests | IdleShare::Limits if domain == Domain::Dram => sharer.memory,
            IdleShare::Requests | IdleShare::Limits => sharer.cpu,
        };
        let total = self.all.iter().map(weight).fold(0, u64::saturating_add);
        let mut given = Microjoules::ZERO;
        if total == 0 || idle == Microjoules::ZERO {
            return given;
        }
        let mut split = Split::new(idle, total, phase);
        for sharer in &self.all {
            let share = split.share(weight(sharer));
            given += share;
            give(sharer.row, share);
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::workload::{Identity, Names};

    struct World {
        table: Table,
        usage: Usage,
    }

    impl World {
        fn new() -> Self {
            Self { table: Table::new(Timestamp::default()), usage: Usage::default() }
        }

        fn add(&mut self, kind: Kind, name: &str, parent: usize) -> usize {
            self.table.birth(Identity::new(kind, name, name), parent, Timestamp::default())
        }

        fn wants(&mut self, row: usize, cpu_request: u64, memory_request: u64) {
            let some = |value: u64| (value > 0).then_some(value);
            let resources = Resources {
                cpu_request: some(cpu_request),
                cpu_limit: some(2 * cpu_request),
                memory_request: some(memory_request),
                memory_limit: None,
            };
            self.table.set_names(row, Some(&Arc::new(Names { resources, ..Names::default() })), false);
        }

        fn split(&self, policy: IdleShare, domain: Domain) -> (u64, Vec<(usize, u64)>) {
            let (mut sharers, mut phase, mut parts) = (Sharers::default(), 0, Vec::new());
            sharers.update(policy, &self.table);
            let give = |row, share: Microjoules| parts.push((row, share.0));
            let given = sharers.split(Microjoules(1_000), domain, &self.usage, &mut phase, give);
            parts.sort_unstable();
            (given.0, parts)
        }
    }

    #[test]
    fn pods_share_by_what_they_asked_for_and_services_pay_nothing() {
        let mut world = World::new();
        let slice = world.add(Kind::Slice, "/kubepods", NODE);
        let small = world.add(Kind::Pod, "a", slice);
        let large = world.add(Kind::Pod, "b", slice);
        let silent = world.add(Kind::Pod, "c", slice);
        let inside = world.add(Kind::Container, "d", large);
        let system = world.add(Kind::Slice, "/system.slice", NODE);
        let service = world.add(Kind::Service, "/system.slice/x.service", system);
        world.wants(small, 100, 256);
        world.wants(large, 300, 256);
        world.wants(inside, 9_000, 0);
        world.usage.set(large, 30, 0);
        world.usage.set(silent, 10, 0);
        world.usage.set(service, 60, 0);
        let split = |policy, domain| world.split(policy, domain);
        assert_eq!(split(IdleShare::None, Domain::Package), (0, vec![]));
        assert_eq!(
            split(IdleShare::Requests, Domain::Package),
            (1_000, vec![(small, 200), (large, 600), (silent, 200)])
        );
        assert_eq!(split(IdleShare::Limits, Domain::Package), (1_000, vec![(small, 200), (large, 600), (silent, 200)]));
        let third = (1_000, vec![(small, 333), (large, 333), (silent, 334)]);
        assert_eq!(split(IdleShare::Even, Domain::Package), third);
        assert_eq!(split(IdleShare::Requests, Domain::Dram), third, "by memory, and c counts as the smallest");
        assert_eq!(split(IdleShare::Limits, Domain::Dram), third, "nobody says anything");
        assert_eq!(split(IdleShare::Usage, Domain::Package), (1_000, vec![(small, 0), (large, 750), (silent, 250)]));
    }

    #[test]
    fn where_nothing_else_runs_services_share_and_nobody_is_nobody() {
        let mut world = World::new();
        assert_eq!(world.split(IdleShare::Even, Domain::Package), (0, vec![]));
        let system = world.add(Kind::Slice, "/system.slice", NODE);
        let service = world.add(Kind::Service, "/system.slice/x.service", system);
        assert_eq!(world.split(IdleShare::Even, Domain::Package), (1_000, vec![(service, 1_000)]));
        assert_eq!(world.split(IdleShare::Usage, Domain::Package), (0, vec![]), "nobody used anything");
        let job = world.add(Kind::Job, "7", service);
        assert_eq!(world.split(IdleShare::Even, Domain::Package), (1_000, vec![(job, 1_000)]), "in a service, too");
    }
}
