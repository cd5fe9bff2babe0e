//! Small hwmon trees in memory: what is found in them, what it is, and what it reads.

use crate::config::Sources;
use crate::host::memory::Memory;
use crate::meter::Domain;
use crate::unit::Microwatts;

use super::*;

/// A machine from lines `hwmon0/name amdgpu`; `hwmon0/device -> ../0000:03:00.0` is a link, `hwmon0/power1_input !13`
/// an error, and a path that begins with `/` lies anywhere under sys.
fn machine(text: &str) -> Host {
    let mut memory = Memory::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (path, content) = line.split_once(' ').unwrap();
        let path = path.strip_prefix('/').map_or_else(|| format!("{CLASS}/{path}"), |path| format!("sys/{path}"));
        if let Some(target) = content.strip_prefix("-> ") {
            memory.set_link(&path, target).unwrap();
        } else if let Some(errno) = content.strip_prefix('!') {
            memory.set_error(&path, Some(Errno::from_raw_os_error(errno.parse().unwrap()))).unwrap();
        } else {
            memory.set_file(&path, format!("{}\n", content.replace("\\n", "\n")).as_bytes()).unwrap();
        }
    }
    Host::memory(memory)
}

fn config() -> Config {
    let env: [(String, String); 0] = [];
    Config::load(Sources { file: None, env, sets: &[] }).unwrap().config
}

/// The zones of a machine, each with its first reading.
fn found(host: &Host) -> Vec<(Arc<Zone>, Value)> {
    let (Found::Meters(mut meters) | Found::Denied { mut meters, .. }) = discover(host, &config()) else {
        return vec![];
    };
    let mut readings = vec![Reading { at: Timestamp::default(), value: Value::Ticks(0) }; meters[0].zones().len()];
    meters[0].read(host, Timestamp::default(), &mut readings);
    meters[0].zones().iter().cloned().zip(readings.iter().map(|reading| reading.value)).collect()
}

/// The zones as `channel name domain claim value`, the claim in brackets where there is a parent; watts and joules.
fn table(text: &str) -> Vec<String> {
    let zones = found(&machine(text));
    let line = |(zone, value): &(Arc<Zone>, Value)| {
        let channel = zone.id.rsplit('/').next().unwrap_or_default();
        let value = match value {
            Value::Power(power) => format!("{}W", power.watts()),
            Value::Ticks(ticks) => format!("{}J", ticks / 1_000_000),
            Value::Missing(why) => format!("{why:?}"),
        };
        let parent = zone.parent.as_deref().and_then(|parent| parent.rsplit('/').next());
        let claim = parent.map_or_else(|| format!("{:?}", zone.claim()), |parent| format!("in:{parent}"));
        format!("{channel} {} {} {claim} {value}", zone.name, zone.domain.as_str())
    };
    zones.iter().map(line).collect()
}

#[test]
fn the_rows_of_the_field() {
    let chip = |name: &str, rest: &str| table(&format!("hwmon0/name {name}\n{rest}"));
    assert_eq!(
        chip(
            "k10temp",
            "hwmon0/power1_input 45000000\nhwmon0/power1_label Package\nhwmon0/power2_input 15000000\nhwmon0/power2_label Core"
        ),
        ["power1 Package package Part 45W", "power2 Core core in:power1 15W"]
    );
    assert_eq!(
        chip("amdgpu", "hwmon0/power1_average 118000000\nhwmon0/power1_input 120000000"),
        ["power1 amdgpu_power1 gpu Part 118W"],
        "the average wins"
    );
    assert_eq!(
        chip("platform_sensor", "hwmon0/power1_input 30000000"),
        ["power1 platform_sensor_power1 other Unknown 30W"]
    );
    assert_eq!(
        chip(
            "x",
            "hwmon0/power1_input 50000000\nhwmon0/power1_label package\nhwmon0/power2_input 30000000\nhwmon0/power2_label package"
        ),
        ["power1 package other Unknown 50W", "power2 package other Unknown 30W"],
        "labels are never summed"
    );
    assert_eq!(
        chip("x", "hwmon0/energy1_input 500000000\nhwmon0/energy1_label Total"),
        ["energy1 Total other Unknown 500J"]
    );
    assert_eq!(chip("x", "hwmon0/power1_input 1\nhwmon0/power1_enable 0\nhwmon0/power2_input 2000000").len(), 1);
    assert_eq!(chip("coretemp", "hwmon0/temp1_input 45000\nhwmon0/temp1_label Package id 0"), [""; 0]);
}

#[test]
fn voltage_times_current() {
    let ina = "hwmon0/name ina3221
        hwmon0/in1_input 12000\nhwmon0/curr1_input 5000\nhwmon0/in1_label VDD_CPU
        hwmon0/in2_input 3300\nhwmon0/curr2_input 10000\nhwmon0/in2_label VDD_GPU
        hwmon0/in3_input 5000\nhwmon0/in3_label VDD_SOC\nhwmon0/in4_input 10\nhwmon0/curr4_input 5";
    let cpu_and_gpu = ["in1_curr1 VDD_CPU package Part 60W", "in2_curr2 VDD_GPU gpu Part 33W"];
    assert_eq!(table(ina), cpu_and_gpu, "no current, no power; in4 is a shunt");
    assert_eq!(table(&format!("{ina}\nhwmon0/in2_enable 0")), cpu_and_gpu[..1]);
    let sensor = |rest: &str| table(&format!("hwmon0/name x\nhwmon0/in1_input 12000\nhwmon0/curr1_input 5000\n{rest}"));
    assert_eq!(
        sensor("hwmon0/in1_average 11800\nhwmon0/curr1_average 4900"),
        ["in1_curr1 x_in1_curr1 other Unknown 57.82W"]
    );
    assert_eq!(
        sensor("hwmon0/in1_average 11800"),
        ["in1_curr1 x_in1_curr1 other Unknown 60W"],
        "never an average times an instant"
    );
    assert_eq!(sensor("hwmon0/power1_input 7000000").len(), 1, "the chip's own power is better");
    assert_eq!(sensor("hwmon0/curr1_input -3"), ["in1_curr1 x_in1_curr1 other Unknown Implausible"]);
    assert_eq!(sensor("hwmon0/curr1_input !11"), ["in1_curr1 x_in1_curr1 other Unknown Busy"]);
    assert_eq!(product(Some(i64::MAX), Some(i64::MAX)), Value::Missing(Why::Implausible));
    assert_eq!(product(Some(1), None), Value::Missing(Why::Malformed));
}

#[test]
fn a_counter_beats_a_gauge_of_the_same_rail() {
    let chip = "hwmon0/name ibmpowernv
        hwmon0/power1_input 300000000\nhwmon0/power1_label System
        hwmon0/power2_input 90000000\nhwmon0/power2_label Chip 0\nhwmon0/energy2_input 5000000\nhwmon0/energy2_label Chip 0
        hwmon0/power3_input 40000000\nhwmon0/power3_label Chip 0 Vdd
        hwmon0/power4_input 10000000\nhwmon0/power4_label Chip 0 Vdn
        hwmon0/power5_input 20000000\nhwmon0/power5_label Chip 0 Memory";
    assert_eq!(
        table(chip),
        [
            "energy2 Chip 0 package Part 5J",
            "power1 System host Node 300W",
            "power3 Chip 0 Vdd core in:energy2 40W",
            "power4 Chip 0 Vdn other in:energy2 10W",
            "power5 Chip 0 Memory dram in:power1 20W",
        ]
    );
}

#[test]
fn a_device_is_named_by_its_link_else_by_its_uevent_else_by_its_number() {
    let ids = |text: &str| -> Vec<String> { found(&machine(text)).iter().map(|(zone, _)| zone.id.clone()).collect() };
    let chip = "hwmon3/name amdgpu\nhwmon3/power1_average 1\n";
    assert_eq!(ids(&format!("{chip}hwmon3/device -> ../../../0000:03:00.0")), ["hwmon:amdgpu@0000:03:00.0/power1"]);
    assert_eq!(
        ids(&format!("{chip}hwmon3/device/uevent DRIVER=amdgpu\\nPCI_SLOT_NAME=0000:04:00.0")),
        ["hwmon:amdgpu@0000:04:00.0/power1"]
    );
    assert_eq!(ids(&format!("{chip}hwmon3/device/vendor 0x1002")), ["hwmon:amdgpu@hwmon3/power1"]);
    assert_eq!(ids(chip), ["hwmon:amdgpu@hwmon3/power1"]);
    let twins = "hwmon10/name x\nhwmon10/power1_input 1\nhwmon10/device -> ../d\nhwmon9/name x\nhwmon9/power1_input 1\nhwmon9/device -> ../d";
    assert_eq!(ids(twins), ["hwmon:x@d/power1", "hwmon:x@d/power1#hwmon10"]);
    assert!(found(&machine(twins)).iter().all(|(zone, _)| zone.ambiguous));
}

#[test]
fn hostile_texts_stay_on_one_line() {
    let zones = found(&machine(
        "hwmon0/name a b\u{7}/c\nhwmon0/power1_input 1\nhwmon0/power1_label CPU\\n\u{1b}[31mred\nhwmon1/power1_input 2",
    ));
    assert_eq!((zones[0].0.id.as_str(), zones[0].0.name.as_str()), ("hwmon:a_b_c@hwmon0/power1", "CPU[31mred"));
    assert_eq!((zones[1].0.id.as_str(), zones[1].0.name.as_str()), ("hwmon:hwmon@hwmon1/power1", "hwmon_power1"));
}

#[test]
fn an_acpi_meter_is_the_whole_machine_unless_it_says_otherwise() {
    let meter = |rest: &str| {
        let text = format!("hwmon0/device/name power_meter\nhwmon0/device/power1_average 300000000\n{rest}");
        found(&machine(&text)).remove(0).0
    };
    let info = |info: &str| meter(&format!("hwmon0/device/power1_oem_info {info}"));
    assert_eq!(meter("").id, "hwmon:power_meter@hwmon0/power1");
    assert_eq!((meter("").claim(), meter("").domain), (Claim::Node, Domain::Host));
    assert!(meter("/class/dmi/id/sys_vendor Dell Inc.").why.contains("goes through IPMI on Dell"));
    assert_eq!(meter("hwmon0/device/power1_is_battery 1").claim(), Claim::Unknown);
    assert_eq!((info("CPU0 power").domain, info("Node").domain), (Domain::Package, Domain::Host));
    assert_eq!(info("GPU Power Socket 1").claim(), Claim::Unknown, "a part of a socket is not the machine");
    assert_eq!(info("CPU Power Socket 1").claim(), Claim::Part, "alone it is nobody's part");
    assert_eq!(info("CPU Power Socket 1").socket.map(|socket| socket.package), Some(1));
    let capped = meter("hwmon0/device/power1_cap_max 800000000");
    assert_eq!(capped.power_max, Microwatts(1_200_000_000));
    assert_eq!(meter("hwmon0/device/power1_cap_max 4294967295000").power_max, Microwatts(10_000_000_000));
}

#[test]
fn a_processor_with_graphics_is_no_card() {
    let chip = |rest: &str| {
        let text = format!("hwmon0/name amdgpu\nhwmon0/power1_average 9000000\nhwmon0/power1_label PPT\n{rest}");
        let zone = found(&machine(&text)).remove(0).0;
        (zone.domain, zone.socket.map(|socket| socket.package), zone.power_max.0 / 1_000_000)
    };
    assert_eq!(chip(""), (Domain::Gpu, None, 1500));
    assert_eq!(chip("hwmon0/power1_cap_max 332000000"), (Domain::Gpu, None, 498));
    assert_eq!(chip("hwmon0/in1_label vddnb\nhwmon0/power1_cap_max 29000000"), (Domain::Package, Some(0), 300));
    assert_eq!(chip("hwmon0/device/gpu_metrics \u{8}\u{1}\u{3}\u{0}").0, Domain::Package);
    assert_eq!(chip("hwmon0/device/gpu_metrics \u{8}\u{1}\u{1}\u{3}").0, Domain::Gpu);
    let asleep = "hwmon0/device/gpu_metrics \u{8}\u{1}\u{3}\u{0}\nhwmon0/device/power/runtime_status suspended";
    assert_eq!(chip(asleep).0, Domain::Gpu, "the table of a card that sleeps is not read");
    let apu = "hwmon0/name amdgpu\nhwmon0/in1_label vddnb\nhwmon0/power1_input 4057000\nhwmon0/power1_average 3218000
        hwmon0/power1_label slowPPT\nhwmon0/power2_average 3040000\nhwmon0/power2_label fastPPT";
    assert_eq!(table(apu), ["power1 slowPPT package Part 3.218W", "power2 fastPPT package in:power1 3.04W"]);
}

#[test]
fn intel_graphics_contain_their_parts() {
    let card = "hwmon0/name xe\nhwmon0/energy1_input 11000000\nhwmon0/energy1_label card\n";
    let chip = "hwmon0/name xe\nhwmon0/energy2_input 7000000\nhwmon0/energy2_label pkg\nhwmon0/power2_label pkg\n";
    let both = format!("{card}{chip}hwmon0/energy3_input 1000000\nhwmon0/energy3_label vram");
    assert_eq!(
        table(&both),
        ["energy1 card gpu Part 11J", "energy2 pkg gpu in:energy1 7J", "energy3 vram gpu in:energy1 1J"]
    );
    assert_eq!(table(chip), ["energy2 pkg gpu Part 7J"]);
    let tiles = "hwmon0/name i915\nhwmon0/energy1_input 9000000\nhwmon0/device -> ../0000:0b:00.0
        hwmon1/name i915_gt0\nhwmon1/energy1_input 4000000\nhwmon1/device -> ../0000:0b:00.0";
    assert_eq!(table(tiles), ["energy1 i915_energy1 gpu Part 9J", "energy1 i915_gt0_energy1 gpu in:energy1 4J"]);
}

#[test]
fn supplies_count_what_they_take_in() {
    let supply = |name: &str, vin: &str| {
        table(&format!(
            "hwmon0/name {name}\nhwmon0/in1_input {vin}\nhwmon0/in1_label vin\nhwmon0/power1_input 250000000
            hwmon0/power1_label pin\nhwmon0/power2_input 230000000\nhwmon0/power2_label pout1"
        ))
    };
    let known = ["power1 pin psu Supply 250W", "power2 pout1 psu in:power1 230W"];
    assert_eq!(supply("cffps2", "12000"), known);
    assert_eq!(supply("pmbus", "230000"), known);
    assert_eq!(supply("pmbus", "12000"), ["power1 pin other Unknown 250W", "power2 pout1 other Unknown 230W"]);
    assert_eq!(supply("adm1278", "12000")[0], "power1 pin other Unknown 250W", "a hot-swap controller");
    let corsair = "hwmon0/name corsairpsu\nhwmon0/power1_input 100000000\nhwmon0/power1_label power total
        hwmon0/power2_input 80000000\nhwmon0/power2_label power +12v";
    assert_eq!(table(corsair), ["power1 power total psu Supply 100W", "power2 power +12v psu in:power1 80W"]);
    assert_eq!(
        table("hwmon0/name cffps2\nhwmon0/power2_input 5000000\nhwmon0/power2_label pout1"),
        ["power2 pout1 psu Unknown 5W"],
        "what comes out is not what is drawn"
    );
    assert_eq!(
        table("hwmon0/name BAT0\nhwmon0/power1_input 5000000\nhwmon0/device/type Battery"),
        ["power1 BAT0_power1 battery Unknown 5W"]
    );
}

#[test]
fn sockets_follow_from_labels_or_order() {
    let energy = |sockets: &str| {
        table(&format!(
            "hwmon0/name amd_energy\nhwmon0/energy1_input 1000000\nhwmon0/energy1_label Ecore000
            hwmon0/energy2_input 5000000\nhwmon0/energy2_label Esocket0\n{sockets}"
        ))
    };
    assert_eq!(energy(""), ["energy1 Ecore000 core in:energy2 1J", "energy2 Esocket0 package Part 5J"]);
    let two = energy("hwmon0/energy3_input 6000000\nhwmon0/energy3_label Esocket1");
    assert_eq!(two[0], "energy1 Ecore000 core Inside 1J", "in which socket is not said");
    let socket = |text: &str| -> Vec<Option<u32>> {
        found(&machine(text)).iter().map(|(zone, _)| zone.socket.map(|socket| socket.package)).collect()
    };
    let hsmp = "hwmon3/name amd_hsmp_hwmon\nhwmon3/power1_input 1\nhwmon3/device -> ../amd_hsmp
        hwmon4/name amd_hsmp_hwmon\nhwmon4/power1_input 1\nhwmon4/device -> ../amd_hsmp";
    assert_eq!(socket(hsmp), [Some(0), Some(1)]);
    let stated = "hwmon3/name amd_hsmp_hwmon\nhwmon3/power1_input 1\nhwmon3/device/firmware_node/uid ID01";
    assert_eq!(socket(stated), [Some(1)]);
}

#[test]
fn only_when_nothing_may_be_read_it_is_denied() {
    let all = machine("hwmon0/name amd_energy\nhwmon0/energy1_label Esocket0\nhwmon0/energy1_input !13");
    let Found::Denied { path, meters, .. } = discover(&all, &config()) else { panic!("not denied") };
    assert_eq!((path.as_str(), meters[0].zones().len()), ("/sys/class/hwmon/hwmon0/energy1_input", 1));
    let some = machine("hwmon0/name x\nhwmon0/power1_input !13\nhwmon0/power2_input 1");
    assert!(matches!(discover(&some, &config()), Found::Meters(_)));
    assert_eq!(found(&some)[0].1, Value::Missing(Why::Denied));
    let nothing = machine("hwmon0/name coretemp\nhwmon0/temp1_input 45000");
    assert!(matches!(discover(&nothing, &config()), Found::Absent(_)));
    assert!(matches!(discover(&machine(""), &config()), Found::Absent(_)));
}

#[test]
fn what_the_part_has_not_is_no_zone_and_what_sleeps_is_inactive() {
    let chip = |error: &str| format!("hwmon0/name amdgpu\nhwmon0/power1_average !{error}\n");
    assert_eq!(table(&chip("95")), [""; 0], "EOPNOTSUPP");
    assert_eq!(table(&format!("{}hwmon0/power1_input 5000000", chip("95"))), ["power1 amdgpu_power1 gpu Part 5W"]);
    assert_eq!(table(&chip("1")), ["power1 amdgpu_power1 gpu Part Inactive"], "EPERM");
    assert_eq!(table(&chip("6")), ["power1 amdgpu_power1 gpu Part Gone"], "ENXIO");
    assert_eq!(table(&chip("61")), ["power1 amdgpu_power1 gpu Part Gone"], "ENODATA");
}

#[test]
fn a_card_that_sleeps_is_not_woken() {
    let status = "hwmon0/device/power/runtime_status";
    let sleeping = |chip: &str| table(&format!("{chip}\n{status} suspended"));
    let card = "hwmon0/name amdgpu\nhwmon0/power1_average 5000000\nhwmon0/power1_input 6000000";
    assert_eq!(sleeping(card), ["power1 amdgpu_power1 gpu Part Inactive"]);
    assert_eq!(
        sleeping("hwmon0/name xe\nhwmon0/energy1_input 5\nhwmon0/energy1_label card"),
        ["energy1 card gpu Part Pending"]
    );
    assert_eq!(sleeping("hwmon0/name nvme\nhwmon0/power1_input 5000000"), ["power1 nvme_power1 storage Part 5W"]);
    assert_eq!(table(&format!("{card}\n{status} active")), ["power1 amdgpu_power1 gpu Part 5W"]);
}

#[test]
fn the_fingerprint_follows_the_class() {
    let host = machine("hwmon0/name x\nhwmon1/name y");
    let before = fingerprint(&host);
    assert_eq!(fingerprint(&host), before);
    host.with_memory(|memory| memory.remove("sys/class/hwmon/hwmon1").unwrap());
    assert_ne!(fingerprint(&host), before);
    host.with_memory(|memory| memory.set_dir("sys/class/hwmon/hwmon1").unwrap());
    assert_ne!(fingerprint(&host), before, "registered anew");
    assert_eq!(fingerprint(&machine("/class/other x")), 0);
}
