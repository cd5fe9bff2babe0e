//! Frozen sensors: a power that stays the same to the last digit while the load moves is no power.
//!
//! Firmware that fails to evaluate gives its last value for ever (the kernel's ACPI power meter passes it on). A steady
//! value alone proves nothing, since an idle machine is steady: the processors must have been busy and idle meanwhile.
//! Nor does a value that is renewed more slowly than it is read: what lies behind a BMC, a network or a battery's
//! controller gets the time of several such rounds.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::meter::{Claim, Domain, Reading, Sensor, Value, Zone};
use crate::unit::{CpuTime, Microwatts};

/// How often the same value must have come,
const READINGS: u32 = 10;
/// and by how much the busy share must have moved meanwhile, in percent.
const MOVED: u64 = 25;

/// What is watched of one sensor.
#[derive(Debug, Default)]
pub struct Frozen {
    power: Option<Microwatts>,
    since: Timestamp,
    count: u32,
    least: u64,
    most: u64,
    busy: CpuTime,
    capacity: CpuTime,
}

impl Frozen {
    /// Takes in what the CPUs did at a tick, and the zone's reading if it has one; says whether the sensor is frozen.
    pub fn watch(&mut self, zone: &Zone, reading: Reading, busy: CpuTime, capacity: CpuTime) -> bool {
        if !follows_load(zone) {
            return false;
        }
        self.busy += busy;
        self.capacity += capacity;
        let Value::Power(power) = reading.value else { return false };
        let load = if self.capacity.0 == 0 { None } else { Some(percent(self.busy, self.capacity)) };
        (self.busy, self.capacity) = Default::default();
        let Some(load) = load else { return false };
        if self.power == Some(power) {
            self.count += 1;
            (self.least, self.most) = (self.least.min(load), self.most.max(load));
        } else {
            let since = reading.at;
            *self = Self { power: Some(power), since, count: 1, least: load, most: load, ..Self::default() };
        }
        let long = self.count > READINGS && reading.at.awake_since(self.since) >= pace(zone);
        long && self.most - self.least >= MOVED && power > Microwatts::ZERO
    }
}

fn percent(busy: CpuTime, capacity: CpuTime) -> u64 {
    u64::try_from(u128::from(busy.0) * 100 / u128::from(capacity.0.max(1))).unwrap_or(100).min(100)
}

/// How long a value may well stay the same because nobody renews it.
fn pace(zone: &Zone) -> Duration {
    Duration::from_secs(match zone.source {
        "ipmi" | "redfish" | "http" => 60,
        "battery" => 180,
        _ => 0,
    })
}

/// Whether the power of a zone moves with the processors.
fn follows_load(zone: &Zone) -> bool {
    let domain = matches!(
        zone.domain,
        Domain::Host | Domain::Module | Domain::Package | Domain::Core | Domain::Psys | Domain::Battery
    );
    zone.sensor == Sensor::Gauge && (domain || zone.claim() == Claim::Node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen_after(domain: Domain, powers: impl Fn(u64) -> u64, loads: impl Fn(u64) -> u64) -> Option<u64> {
        found_out(&Zone::new("hwmon", "hwmon:x", domain), powers, loads)
    }

    fn found_out(zone: &Zone, powers: impl Fn(u64) -> u64, loads: impl Fn(u64) -> u64) -> Option<u64> {
        let mut frozen = Frozen::default();
        (0..100).find(|tick| {
            let at = Timestamp { boot: Duration::from_secs(*tick), ..Timestamp::default() };
            let reading = Reading { at, value: Value::Power(Microwatts(powers(*tick))) };
            frozen.watch(zone, reading, CpuTime(loads(*tick)), CpuTime(100))
        })
    }

    #[test]
    fn a_sensor_is_frozen_only_if_the_load_moved() {
        let swings = |tick: u64| if tick.is_multiple_of(2) { 5 } else { 80 };
        assert_eq!(frozen_after(Domain::Host, |_| 300, swings), Some(10));
        assert_eq!(frozen_after(Domain::Host, |_| 300, |_| 50), None, "a steady machine is steady");
        assert_eq!(frozen_after(Domain::Host, |tick| 300 + tick / 9, swings), None, "it moves now and then");
        assert_eq!(frozen_after(Domain::Gpu, |_| 300, swings), None, "a card does not follow the processors");
        assert_eq!(frozen_after(Domain::Host, |_| 0, swings), None, "nothing is not a frozen something");
        let bmc = Zone::new("ipmi", "ipmi:dcmi", Domain::Host);
        assert_eq!(found_out(&bmc, |_| 300, swings), Some(60), "a BMC renews its value at its own pace");
    }
}
