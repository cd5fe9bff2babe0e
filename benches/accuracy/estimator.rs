//! What the real agent estimates for a machine without any meter, from its `/proc/cpuinfo`, `/proc/meminfo` and load.
//!
//! A published machine is written as Linux would show it: vendor, family, model and stepping of its generation, the name
//! as a kernel spells it, a thread a processor, and the memory. The agent is stepped through 0, 10 … 100 % load, a second
//! each, and what its zone `model:cpu` measured is the answer.

use std::fmt::Write as _;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::clock::Timestamp;
use wattribute::config::Config;
use wattribute::host::Host;
use wattribute::host::memory::Memory;

use super::metered::{stat, write};
use super::model::Machine;

/// Generation, vendor, family, model, stepping.
const SORTS: [(&str, &str, u32, u32, u32); 8] = [
    ("skylake", "GenuineIntel", 6, 85, 4),
    ("cascade", "GenuineIntel", 6, 85, 7),
    ("coffee", "GenuineIntel", 6, 158, 10),
    ("icelake", "GenuineIntel", 6, 106, 6),
    ("rocket", "GenuineIntel", 6, 167, 1),
    ("zen1", "AuthenticAMD", 23, 1, 2),
    ("zen2", "AuthenticAMD", 23, 49, 0),
    ("zen3", "AuthenticAMD", 25, 1, 1),
];

/// W at 0, 10 … 100 % load; none for a generation that is not in the list.
pub fn watts(machine: &Machine, is_guest: bool) -> Result<Option<[f64; 11]>, String> {
    let Some(cpuinfo) = cpuinfo(machine, is_guest) else { return Ok(None) };
    let cpus = machine.threads as u32;
    let mut memory = Memory::default();
    write(&mut memory, "proc/uptime", "1000.00 1.00\n");
    write(&mut memory, "proc/cpuinfo", &cpuinfo);
    write(&mut memory, "proc/meminfo", &format!("MemTotal: {} kB\n", (machine.memory * 1_048_576.0) as u64));
    write(&mut memory, "proc/stat", &stat(cpus, 0, 0));
    write(&mut memory, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
    let mut now = Timestamp { boot: Duration::from_secs(1000), ..Timestamp::default() };
    let mut agent = Agent::new(Host::memory(memory), Config::default(), now);
    agent.step(now);
    let (mut busy, mut watts) = (0, [0.0; 11]);
    for (tenth, watts) in (0..).zip(&mut watts) {
        now.boot += Duration::from_secs(1);
        busy += tenth * u64::from(cpus) * 10;
        let rest = (tenth + 1) * u64::from(cpus) * 100 - busy;
        agent.host().with_memory(|memory| write(memory, "proc/stat", &stat(cpus, busy, rest)));
        agent.step(now);
        let snapshot = agent.snapshot();
        let book = snapshot.zones.iter().find(|book| book.zone.id == "model:cpu");
        let measured = book.and_then(|book| book.measured).ok_or("the estimator has not measured")?;
        *watts = measured.watts_over(Duration::from_secs(1));
    }
    Ok(Some(watts))
}

fn cpuinfo(machine: &Machine, is_guest: bool) -> Option<String> {
    let (_, vendor, family, model, stepping) = SORTS.iter().find(|sort| sort.0 == machine.generation)?;
    let name = name(&machine.name, machine.mhz);
    let flags = if is_guest { "fpu hypervisor" } else { "fpu" };
    let (threads, cores, chips) = (machine.threads as u32, machine.cores as u32, machine.chips as u32);
    let mut text = String::new();
    for thread in 0..threads {
        let core = thread % cores;
        let chip = core * chips / cores;
        let _ = write!(
            text,
            "processor\t: {thread}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n\
             stepping\t: {stepping}\ncpu MHz\t\t: {:.3}\nphysical id\t: {chip}\ncore id\t\t: {core}\nflags\t\t: {flags}\n\n",
            machine.mhz
        );
    }
    Some(text)
}

/// `Intel Xeon Platinum 8280 CPU 2.70 GHz (Intel Turbo …)` as a kernel has it: `Intel Xeon Platinum 8280 @ 2.70GHz`.
fn name(written: &str, mhz: f64) -> String {
    let plain = written.replace("(R)", "").replace(',', " ");
    let plain = plain.split(['(', '@', '[']).next().unwrap_or_default().to_owned();
    let is_clock =
        |word: &str| word.to_lowercase().contains("ghz") || word.parse::<f64>().is_ok_and(|clock| clock < 10.0);
    let words: Vec<&str> = plain.split_whitespace().take_while(|word| !is_clock(word)).collect();
    format!("{} @ {:.2}GHz", words.join(" "), mhz / 1000.0)
}
