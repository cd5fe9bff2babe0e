//! The figures of the estimator, fitted on published `SPECpower_ssj2008` results: watts of whole servers.
//!
//! Written by `tools/fit_node_model.py`, which says how they are fitted and how wrong they are. Not edited by hand.

use super::figures::{Line, Standard};
use crate::meter::processor::Generation;

/// Means and standard deviations of the features.
pub(super) const STANDARD: Standard = Standard {
    mean: [0.2325, 1.4332, 0.6577, 2.8586, 7.7899, 0.9489, 0.2097],
    spread: [0.5476, 0.4635, 0.4283, 0.8352, 0.1375, 0.2202, 0.4071],
};
/// The logarithm of watts per watt of TDP at rest.
pub(super) const IDLE: Line =
    Line { base: -1.5242, weights: [0.1389, -0.0819, -0.0876, -0.359, -0.1397, -0.0348, 0.1671] };
/// The logarithm of watts per watt of TDP at full load.
pub(super) const FULL: Line =
    Line { base: 0.0315, weights: [0.072, -0.0719, -0.0246, -0.0735, -0.0378, -0.0496, -0.041] };

/// What an unknown processor is taken for: the medians of the generations since 2017.
pub(in crate::meter) const UNKNOWN: Generation = Generation {
    key: "",
    idle_over_max: 0.235,
    per_thread: [0.6944, 3.2754],
    offsets: [0.0, 0.0],
    shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
};

/// By key, in alphabetical order.
pub(in crate::meter) const GENERATIONS: &[Generation] = &[
    Generation {
        key: "broadwell",
        idle_over_max: 0.1755,
        per_thread: [0.5437, 3.1932],
        offsets: [-0.1824, -0.1211],
        shape: [0.0, 0.1821, 0.2519, 0.3209, 0.388, 0.4485, 0.517, 0.6005, 0.7189, 0.8588, 1.0],
    },
    Generation {
        key: "bulldozer",
        idle_over_max: 0.239,
        per_thread: [2.3672, 9.6094],
        offsets: [-0.0302, 0.1978],
        shape: [0.0, 0.1924, 0.2802, 0.367, 0.4588, 0.5528, 0.6519, 0.7437, 0.8313, 0.9199, 1.0],
    },
    Generation {
        key: "cascade",
        idle_over_max: 0.1547,
        per_thread: [0.6136, 4.048],
        offsets: [-0.0504, 0.035],
        shape: [0.0, 0.1681, 0.2316, 0.2924, 0.3548, 0.4208, 0.5022, 0.596, 0.7121, 0.8509, 1.0],
    },
    Generation {
        key: "coffee",
        idle_over_max: 0.2096,
        per_thread: [1.1165, 6.1167],
        offsets: [-0.1901, -0.1816],
        shape: [0.0, 0.0863, 0.1311, 0.1863, 0.249, 0.3296, 0.4245, 0.528, 0.6541, 0.8216, 1.0],
    },
    Generation {
        key: "core",
        idle_over_max: 0.6128,
        per_thread: [18.775, 31.25],
        offsets: [1.255, 0.4304],
        shape: [0.0, 0.1153, 0.2234, 0.3279, 0.4359, 0.5447, 0.6503, 0.7483, 0.8431, 0.9293, 1.0],
    },
    Generation {
        key: "emerald",
        idle_over_max: 0.2498,
        per_thread: [0.8281, 3.2754],
        offsets: [0.6749, 0.1436],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
    Generation {
        key: "granite",
        idle_over_max: 0.2316,
        per_thread: [0.6221, 2.7238],
        offsets: [0.8426, 0.2422],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
    Generation {
        key: "haswell",
        idle_over_max: 0.1773,
        per_thread: [0.7, 3.9931],
        offsets: [-0.1165, -0.0106],
        shape: [0.0, 0.1605, 0.2318, 0.3011, 0.3723, 0.441, 0.5239, 0.6278, 0.7481, 0.8857, 1.0],
    },
    Generation {
        key: "icelake",
        idle_over_max: 0.235,
        per_thread: [0.9236, 4.0994],
        offsets: [0.3795, 0.1029],
        shape: [0.0, 0.1259, 0.1872, 0.2476, 0.3068, 0.3715, 0.4503, 0.5491, 0.6759, 0.8756, 1.0],
    },
    Generation {
        key: "ivy",
        idle_over_max: 0.3048,
        per_thread: [2.1917, 7.0125],
        offsets: [0.1667, 0.1003],
        shape: [0.0, 0.1324, 0.2042, 0.2716, 0.3398, 0.4149, 0.4999, 0.6056, 0.7404, 0.8913, 1.0],
    },
    Generation {
        key: "k10",
        idle_over_max: 0.4552,
        per_thread: [9.1375, 18.1667],
        offsets: [0.0014, 0.1647],
        shape: [0.0, 0.1697, 0.2729, 0.3684, 0.4591, 0.5494, 0.6399, 0.7291, 0.8191, 0.9143, 1.0],
    },
    Generation {
        key: "nehalem",
        idle_over_max: 0.3074,
        per_thread: [3.3734, 10.9355],
        offsets: [0.3549, 0.2576],
        shape: [0.0, 0.2033, 0.285, 0.3537, 0.4271, 0.5065, 0.5942, 0.6917, 0.7935, 0.8958, 1.0],
    },
    Generation {
        key: "raptor",
        idle_over_max: 0.2407,
        per_thread: [1.3875, 5.5875],
        offsets: [0.019, -0.0742],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
    Generation {
        key: "rocket",
        idle_over_max: 0.2621,
        per_thread: [1.2812, 4.875],
        offsets: [-0.0529, -0.2182],
        shape: [0.0, 0.1149, 0.187, 0.2552, 0.3254, 0.4041, 0.4878, 0.58, 0.6892, 0.8285, 1.0],
    },
    Generation {
        key: "sandy",
        idle_over_max: 0.2315,
        per_thread: [1.7672, 7.9229],
        offsets: [0.1948, 0.232],
        shape: [0.0, 0.1233, 0.1826, 0.2429, 0.3121, 0.3847, 0.4786, 0.5864, 0.7072, 0.8645, 1.0],
    },
    Generation {
        key: "sapphire",
        idle_over_max: 0.2429,
        per_thread: [0.9, 3.9875],
        offsets: [0.5237, 0.2302],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
    Generation {
        key: "sierra",
        idle_over_max: 0.27,
        per_thread: [0.6944, 2.5573],
        offsets: [0.8597, -0.0747],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
    Generation {
        key: "skylake",
        idle_over_max: 0.1268,
        per_thread: [0.5304, 4.1183],
        offsets: [-0.1827, 0.0696],
        shape: [0.0, 0.1744, 0.2352, 0.2948, 0.3547, 0.4209, 0.5011, 0.5974, 0.7202, 0.8692, 1.0],
    },
    Generation {
        key: "skylake_c",
        idle_over_max: 0.2595,
        per_thread: [1.6375, 5.9875],
        offsets: [-0.1217, -0.0621],
        shape: [0.0, 0.1388, 0.2057, 0.2669, 0.3323, 0.4046, 0.4933, 0.6032, 0.7338, 0.8793, 1.0],
    },
    Generation {
        key: "zen1",
        idle_over_max: 0.3216,
        per_thread: [0.7438, 2.3203],
        offsets: [-0.0707, -0.1371],
        shape: [0.0, 0.242, 0.3143, 0.3817, 0.4479, 0.5173, 0.5923, 0.6832, 0.7868, 0.894, 1.0],
    },
    Generation {
        key: "zen2",
        idle_over_max: 0.2479,
        per_thread: [0.4371, 1.6641],
        offsets: [0.1155, 0.022],
        shape: [0.0, 0.2533, 0.34, 0.4223, 0.5009, 0.5763, 0.6472, 0.7249, 0.8077, 0.8946, 1.0],
    },
    Generation {
        key: "zen3",
        idle_over_max: 0.2231,
        per_thread: [0.4238, 1.916],
        offsets: [-0.0122, -0.058],
        shape: [0.0, 0.2005, 0.2712, 0.3374, 0.4028, 0.4809, 0.57, 0.6569, 0.7475, 0.867, 1.0],
    },
    Generation {
        key: "zen4",
        idle_over_max: 0.1931,
        per_thread: [0.3276, 1.665],
        offsets: [0.2042, 0.1248],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
    Generation {
        key: "zen5",
        idle_over_max: 0.1762,
        per_thread: [0.2141, 1.1687],
        offsets: [0.3626, 0.0682],
        shape: [0.0, 0.1741, 0.2406, 0.3047, 0.3688, 0.4381, 0.5184, 0.6113, 0.7239, 0.8651, 1.0],
    },
];
