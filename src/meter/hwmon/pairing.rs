//! Which voltage of a chip belongs to which current, for chips that state no power.
//!
//! Drivers number voltages and currents each from their own beginning: in0 is the shunt of an INA226 and the bus of an
//! LTC2947, and a MAX20730 states its input voltage as in1 but only its output current. The pairs follow each driver's
//! page under the kernel's Documentation/hwmon. A chip that is not listed is paired by equal numbers; what is paired
//! with nothing gives no power.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// How the channels of a chip are paired.
enum Pairs {
    /// These, (voltage, current), and no other.
    Only(&'static [(u32, u32)]),
    /// By equal numbers, without these voltages (shunts) and currents (phases of one rail).
    Equal(RangeInclusive<u32>, RangeInclusive<u32>),
}

const NONE: RangeInclusive<u32> = RangeInclusive::new(1, 0);
/// The usual power monitor: in0 is its shunt, in1 the bus.
const BUS: Pairs = Pairs::Only(&[(1, 1)]);
const EQUAL: Pairs = Pairs::Equal(NONE, NONE);

const TABLE: &[(&[&str], Pairs)] = &[
    (&["ina209", "ina219", "ina220", "ina226", "ina230", "ina231", "ina233", "ina238", "ina260"], BUS),
    (&["ltc2945", "ltc4260", "ltc4261", "ltc4282"], BUS),
    (&["adm1275", "adm1276", "adm1278", "adm1293"], BUS),
    (&["ltc2947"], Pairs::Only(&[(0, 1)])),
    (&["ltc2992"], Pairs::Only(&[(0, 1), (2, 2)])),
    (&["max20730", "max20751"], Pairs::Only(&[(2, 1)])),
    (&["mp2975"], BUS),
    (&["ina3221"], Pairs::Equal(4..=7, NONE)),
    (&["max34440"], Pairs::Equal(NONE, 7..=8)),
    (&["max34451", "tps40422", "tps53679", "tps546d24", "ir35221"], EQUAL),
    (&["xdpe12284", "pmbus", "ucd9000", "ucd90320"], EQUAL),
];

/// The pairs (voltage, current) of a chip.
pub fn pairs(chip: &str, voltages: &BTreeSet<u32>, currents: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let rule = TABLE.iter().find(|(names, _)| names.contains(&chip)).map_or(&EQUAL, |(_, rule)| rule);
    let mut pairs: Vec<(u32, u32)> = match rule {
        Pairs::Only(pairs) => pairs.to_vec(),
        Pairs::Equal(no_voltage, no_current) => {
            let kept = |index: &&u32| !no_voltage.contains(index) && !no_current.contains(index);
            voltages.iter().filter(kept).map(|index| (*index, *index)).collect()
        }
    };
    pairs.retain(|(voltage, current)| voltages.contains(voltage) && currents.contains(current));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(chip: &str, voltages: &[u32], currents: &[u32]) -> Vec<(u32, u32)> {
        pairs(chip, &voltages.iter().copied().collect(), &currents.iter().copied().collect())
    }

    #[test]
    fn every_chip_pairs_as_its_driver_numbers() {
        let bus =
            "ina209 ina219 ina226 ina238 ina260 ina233 ltc2945 ltc4260 ltc4261 ltc4282 adm1275 adm1276 adm1278 adm1293";
        for chip in bus.split(' ') {
            assert_eq!(paired(chip, &[0, 1], &[1]), [(1, 1)], "{chip}: in0 is its shunt");
        }
        assert_eq!(paired("ltc2947", &[0, 1], &[1]), [(0, 1)]);
        assert_eq!(paired("ltc2992", &[0, 1, 2, 3], &[1, 2]), [(0, 1), (2, 2)]);
        assert_eq!(paired("max20730", &[1, 2], &[1]), [(2, 1)], "the output's voltage, not 48 V");
        assert_eq!(paired("max20751", &[1, 2], &[1]), [(2, 1)]);
        assert_eq!(paired("ina3221", &[1, 2, 3, 4, 5, 6, 7], &[1, 2, 3, 4]), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(paired("max34440", &[1, 6, 7, 8], &[1, 6, 7, 8]), [(1, 1), (6, 6)]);
        assert_eq!(paired("mp2975", &[1, 2], &[1, 2, 3, 8]), [(1, 1)]);
        let equal = "max34451 tps40422 tps53679 tps546d24 ir35221 xdpe12284 pmbus ucd9000 ucd90320";
        for chip in equal.split(' ') {
            assert_eq!(paired(chip, &[1, 2, 3], &[1, 3]), [(1, 1), (3, 3)], "{chip}");
        }
    }

    #[test]
    fn an_unknown_chip_pairs_equal_numbers_and_nothing_else() {
        assert_eq!(paired("platform_sensor", &[1, 2], &[1, 2]), [(1, 1), (2, 2)]);
        assert_eq!(paired("platform_sensor", &[0], &[1]), []);
    }
}
