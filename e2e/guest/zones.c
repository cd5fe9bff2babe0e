// SPDX-License-Identifier: Apache-2.0
// Registers powercap zones with the kernel's own framework, under the control type of RAPL: what an agent reads is then
// made by the real drivers/powercap/powercap_sys.c, with its names, modes (energy_uj is 0400) and errors. Every zone
// draws a constant power, which the parameter `watts` gives in the order of the table; its counter is that power times
// the time since boot, so that it is known exactly at any instant, and starts again at max_energy_range_uj.
#include <linux/err.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/powercap.h>

#define UWATT 1000000ULL
#define UJOULE 1000000ULL
// What Intel's 61 uJ unit gives: 2^32 units.
#define USUAL_RANGE 262143328850ULL

struct part {
	struct powercap_zone zone;
	const char *name;
	int above; // index of the zone that contains it, or -1
	u64 rated_watts;
	bool wraps_soon;
	bool registered;
};

static struct part parts[] = {
	{ .name = "package-0", .above = -1, .rated_watts = 120 },
	{ .name = "core", .above = 0, .rated_watts = 120 },
	{ .name = "uncore", .above = 0, .rated_watts = 120 },
	{ .name = "dram", .above = 0, .rated_watts = 30 },
	{ .name = "package-1", .above = -1, .rated_watts = 60, .wraps_soon = true },
	{ .name = "dram", .above = 4, .rated_watts = 30 },
	{ .name = "psys", .above = -1, .rated_watts = 400 },
};

static unsigned int watts[ARRAY_SIZE(parts)];
module_param_array(watts, uint, NULL, 0444);
MODULE_PARM_DESC(watts, "power of each zone");

static unsigned int soon_joules = 600;
module_param(soon_joules, uint, 0444);
MODULE_PARM_DESC(soon_joules, "range of the zone that wraps within the test");

static struct powercap_control_type *control;

static struct part *part_of(struct powercap_zone *zone)
{
	return container_of(zone, struct part, zone);
}

static u64 range_of(const struct part *part)
{
	return part->wraps_soon ? soon_joules * UJOULE : USUAL_RANGE;
}

static int get_range(struct powercap_zone *zone, u64 *range)
{
	*range = range_of(part_of(zone));
	return 0;
}

static int get_energy(struct powercap_zone *zone, u64 *energy)
{
	struct part *part = part_of(zone);
	u64 total = div_u64(ktime_get_boottime_ns() * watts[part - parts], 1000);

	div64_u64_rem(total, range_of(part), energy);
	return 0;
}

// The framework wants it where the zones outlive their owner; here they are static.
static int release(struct powercap_zone *zone)
{
	return 0;
}

static const struct powercap_zone_ops zone_ops = {
	.get_max_energy_range_uj = get_range,
	.get_energy_uj = get_energy,
	.release = release,
};

static int get_limit(struct powercap_zone *zone, int id, u64 *limit)
{
	*limit = part_of(zone)->rated_watts * UWATT;
	return 0;
}

static int get_window(struct powercap_zone *zone, int id, u64 *window)
{
	*window = 28 * USEC_PER_SEC;
	return 0;
}

static int refuse(struct powercap_zone *zone, int id, u64 value)
{
	return -EACCES;
}

static const char *get_name(struct powercap_zone *zone, int id)
{
	return "long_term";
}

static const struct powercap_zone_constraint_ops constraint_ops = {
	.set_power_limit_uw = refuse,
	.get_power_limit_uw = get_limit,
	.set_time_window_us = refuse,
	.get_time_window_us = get_window,
	.get_max_power_uw = get_limit,
	.get_name = get_name,
};

static void take_away(void)
{
	int i;

	// Children first: the framework refuses to remove a zone that has some.
	for (i = ARRAY_SIZE(parts) - 1; i >= 0; i--)
		if (parts[i].registered)
			powercap_unregister_zone(control, &parts[i].zone);
	powercap_unregister_control_type(control);
}

static int __init zones_init(void)
{
	int i;

	control = powercap_register_control_type(NULL, "intel-rapl", NULL);
	if (IS_ERR(control))
		return PTR_ERR(control);
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		struct powercap_zone *above = parts[i].above < 0 ? NULL : &parts[parts[i].above].zone;
		struct powercap_zone *zone = powercap_register_zone(&parts[i].zone, control, parts[i].name, above,
								    &zone_ops, 1, &constraint_ops);

		if (IS_ERR(zone)) {
			take_away();
			return PTR_ERR(zone);
		}
		parts[i].registered = true;
	}
	return 0;
}

static void __exit zones_exit(void)
{
	take_away();
}

module_init(zones_init);
module_exit(zones_exit);
MODULE_DESCRIPTION("powercap zones of known power");
MODULE_LICENSE("GPL");
