//! Machines of every sort, and what is said of them. The watts were reckoned by hand from the formula.

use super::*;

fn cpuinfo(vendor: &str, family: u32, model: u32, stepping: u32, name: &str, threads: u32) -> Processor {
    let (vendor, name) = (vendor.to_owned(), name.to_owned());
    let base_mhz = name.contains("@ 2.50GHz").then_some(2500);
    Processor {
        vendor,
        family,
        model,
        stepping,
        name,
        threads,
        cores: threads.div_ceil(2),
        sockets: 1,
        base_mhz,
        hypervisor: true,
    }
}

fn guest(processor: Processor, instance: Option<&str>) -> Facts {
    Facts {
        cpus: processor.threads,
        processor: Some(processor),
        is_guest: true,
        memory: Some(8.0),
        cloud: None,
        instance: instance.map(|kind| (kind.to_owned(), "DMI product_name")),
        contradicted: Vec::new(),
    }
}

fn m5_large() -> Facts {
    let name = "Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz";
    guest(cpuinfo("GenuineIntel", 6, 85, 4, name, 2), Some("m5.large"))
}

/// Milliwatts at rest and at full load, and why.
fn said(facts: &Facts) -> (u64, u64, String) {
    let Estimate { curve, why, .. } = estimate(facts, &Figures::default(), 1.0);
    (curve[0].0 / 1000, curve[10].0 / 1000, why)
}

#[test]
fn a_guest_is_a_share_of_its_host() {
    let (idle, full, why) = said(&m5_large());
    // 480 W of TDP, z = (0, .380, .083, .382, .248, .232, -.515): exp(-1.5242 - .1827 - .3043) of it at rest, exp(.0315 +
    // .0696 - .0572) at full load; a 48th of that: 1.338 and 10.449 W; .8868 of the rise.
    assert!((1336..=1340).contains(&idle) && (9412..=9422).contains(&full), "{idle} to {full}");
    assert_eq!(
        why,
        "Skylake Xeon Platinum 8175M: 2 of 96 threads of a host with 2 x 240 W TDP, 1.3 to 9.4 W, within a factor 2; used: \
         CPU name, family 6 model 85 stepping 4, instance type m5.large (DMI product_name), base clock 2500 MHz; assumed: host \
         memory as usual, neighbours as busy as usual"
    );
    let curve = estimate(&m5_large(), &Figures::default(), 1.0).curve.map(Microwatts::watts);
    let middle = f64::midpoint(curve[0], curve[10]);
    assert!((curve[5] - middle).abs() < 0.002, "straight: {curve:?}");
}

#[test]
fn without_the_instance_type_a_pair_is_assumed() {
    let mut facts = m5_large();
    let (idle, full, _) = said(&facts);
    facts.instance = None;
    let (same_idle, same_full, why) = said(&facts);
    assert_eq!((idle, full), (same_idle, same_full), "an 8175M has 24 cores, which is what an m5 runs on");
    assert!(why.contains("assumed: a host of two such CPUs"), "{why}");
    facts.instance = Some(("q9.large".into(), "model.instance_type"));
    assert!(said(&facts).2.contains("nothing of the instance type q9.large (model.instance_type), which is not known"));
}

#[test]
fn a_masked_guest_has_the_watts_of_its_generation() {
    let (idle, full, why) = said(&guest(cpuinfo("AuthenticAMD", 25, 1, 1, "AMD EPYC", 2), None));
    // 2 x .4238 W, and 1.007 (.4028 / .4) of the way to 2 x 1.916 W.
    assert_eq!((idle, full), (848, 3853));
    assert_eq!(
        why,
        "Zen 3 (\"AMD EPYC\"): 2 threads of a host, 0.8 to 3.9 W, within a factor 2; used: family 25 model 1 stepping 1; \
         assumed: watts per thread like the median of its generation (CPU name in no table), neighbours as busy as usual"
    );
}

#[test]
fn the_type_says_what_a_masked_name_does_not() {
    let masked = cpuinfo("GenuineIntel", 6, 143, 8, "Intel(R) Xeon(R) Processor @ 2.70GHz", 4);
    let (.., why) = said(&guest(masked, Some("m7i.xlarge")));
    assert!(why.starts_with("Sapphire Rapids (\"Intel(R) Xeon(R) Processor @ 2.70GHz\"): 4 of 192 threads"), "{why}");
    // An emulated processor says nothing of its own.
    let emulated = cpuinfo("GenuineIntel", 6, 6, 3, "QEMU Virtual CPU version 2.5+", 4);
    let (.., why) = said(&guest(emulated, Some("m7i.xlarge")));
    assert!(why.starts_with("Sapphire Rapids (\"QEMU Virtual CPU version 2.5+\"): 4 of 192 threads"), "{why}");
}

#[test]
fn a_server_has_the_whole_curve_of_its_generation() {
    let mut processor = cpuinfo("AuthenticAMD", 25, 17, 1, "AMD EPYC 9654 96-Core Processor", 384);
    (processor.cores, processor.sockets, processor.hypervisor) = (192, 2, false);
    let facts = Facts { cpus: 384, processor: Some(processor), memory: Some(768.0), ..Facts::default() };
    let (idle, full, why) = said(&facts);
    assert!((115_000..175_000).contains(&idle) && (600_000..800_000).contains(&full), "{idle} to {full}");
    assert!(why.starts_with("Zen 4 EPYC 9654: 384 threads, 2 x 360 W TDP, "), "{why}");
    assert!(why.contains("within a factor 1.4; used: CPU name, family 25 model 17 stepping 1, base clock 2400 MHz, 768 GiB of memory; assumed: few disks"), "{why}");
    let curve = estimate(&facts, &Figures::default(), 1.0).curve.map(Microwatts::watts);
    assert!(curve[4] < curve[0] + 0.4 * (curve[10] - curve[0]), "below the straight line: {curve:?}");
}

#[test]
fn an_unknown_processor_is_said_to_be_one() {
    let (idle, full, why) = said(&Facts { cpus: 2, ..Facts::default() });
    assert_eq!((idle, full), (1389, 6551));
    assert_eq!(
        why,
        "unknown processor: 2 threads, 1.4 to 6.6 W, within a factor 3; assumed: watts per thread like the median since \
         2017 (family and model not recognised), few disks, no cards"
    );
    let arm =
        Processor { vendor: "0x41".into(), model: 0xd0c, threads: 4, cores: 4, sockets: 1, ..Processor::default() };
    let (.., why) = said(&Facts { cpus: 4, processor: Some(arm), ..Facts::default() });
    assert!(why.starts_with("Neoverse N1: 4 threads, ") && why.contains("no figures of it"), "{why}");
}

#[test]
fn a_guest_larger_than_two_processors_has_a_larger_host() {
    let facts = guest(cpuinfo("GenuineIntel", 6, 85, 4, "Intel(R) Xeon(R) Platinum 8176M CPU @ 2.10GHz", 448), None);
    let (.., why) = said(&facts);
    assert!(why.contains("448 of 448 threads of a host with 8 x 165 W TDP"), "{why}");
    assert!(why.contains("assumed: a host of 8 such CPUs, to hold all threads"), "{why}");
}

#[test]
fn what_contradicts_the_machine_is_said_and_makes_the_band_wider() {
    let mut processor = cpuinfo("GenuineIntel", 6, 85, 4, "Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz", 96);
    processor.hypervisor = false;
    let mut facts = Facts { cpus: 96, processor: Some(processor), memory: Some(384.0), ..Facts::default() };
    let (.., why) = said(&facts);
    assert!(why.contains("W, within a factor 1.4; used"), "{why}");
    facts.contradicted = vec!["m5.large (the node's label), which has 2 CPUs, and this machine 96".into()];
    let (.., why) = said(&facts);
    assert!(why.contains("W, within a factor 2; not used"), "{why}");
    assert!(
        why.contains(
            "; not used: instance type m5.large (the node's label), which has 2 CPUs, and this machine 96; used: "
        ),
        "{why}"
    );
}

#[test]
fn calibration_moves_idle_and_active_alike() {
    let figures = Figures::default();
    let one = estimate(&m5_large(), &figures, 1.0).curve.map(Microwatts::watts);
    let Estimate { curve, why, .. } = estimate(&m5_large(), &figures, 1.5);
    for (one, more) in one.iter().zip(curve.map(Microwatts::watts)) {
        assert!((one * 1.5 - more).abs() < 0.002);
    }
    assert!(why.contains("; model.calibration 1.5; used:"), "{why}");
    let mad = estimate(&m5_large(), &figures, f64::MAX);
    assert_eq!(mad.curve[10], Microwatts(1_000_000_000_000));
    assert!(mad.why.ends_with("; cut at 1000000 W, which no machine draws"), "{}", mad.why);
    assert!(estimate(&m5_large(), &figures, f64::MIN_POSITIVE).curve.iter().all(|watts| *watts == Microwatts::ZERO));
}

#[test]
fn every_instance_type_has_sensible_watts() {
    for kind in ["m5.large", "c6i.large", "m7a.large", "n2d-standard-2", "Standard_D2s_v5", "m8i.large", "r5a.large"] {
        let (idle, full, why) = said(&guest(cpuinfo("", 0, 0, 0, "", 2), Some(kind)));
        assert!((200..4000).contains(&idle) && full > idle * 2 && full < 20_000, "{kind}: {idle} to {full}: {why}");
        assert!(!why.contains("unknown"), "{why}");
    }
}
