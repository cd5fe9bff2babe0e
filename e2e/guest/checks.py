"""What must be true of what the guest wrote: every figure is known from the outside."""

from process import Failed

# In the order of the table in zones.c: what each zone draws, and the part that the agent is to give it.
ZONES = {
    "rapl:package-0": (60, "primary"),
    "rapl:package-0/core": (41, "contained"),
    "rapl:package-0/uncore": (3, "contained"),
    "rapl:package-0/dram": (8, "primary"),
    "rapl:package-1": (50, "primary"),
    "rapl:package-1/dram": (5, "primary"),
    "rapl:psys": (150, "reference"),
}
PARTS_W = sum(watts for watts, role in ZONES.values() if role == "primary")
# 600 J last 12 s at 50 W. No absence in these runs is long enough for more than one wrap.
WRAPS = "rapl:package-1"
BMC = "ipmi:dcmi"
BMC_W = 230
BMC_STATISTICS_W = (120, 380, 190)  # minimum, maximum, average: not to be taken
ACPI_W = 231  # in meter.dsl
SECONDS = 15
WORK = "service:/system.slice/work.service"


def require(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


class Report:
    """The JSON lines of one run."""

    def __init__(self, lines):
        require(lines and lines[-1]["type"] == "total", f"{len(lines)} lines of JSON, and no total at the end")
        self.lines, self.ticks, self.last = lines, lines[:-1], lines[-1]

    @staticmethod
    def zone(line, name):
        return next((zone for zone in line["zones"] if zone["zone"] == name), None)

    def total(self, name):
        zone = self.zone(self.last, name)
        require(zone, f"there is no {name} among {[zone['zone'] for zone in self.last['zones']]}")
        return zone

    def states(self, name):
        """One for each tick."""
        zones = [self.zone(tick, name) for tick in self.ticks]
        return [zone["state"] if zone else "not there" for zone in zones]

    def measured(self, name):
        """Joules and seconds of all intervals. The first one is left out: `start` looks at that."""
        booked = [(tick, self.zone(tick, name)) for tick in self.ticks[1:]]
        booked = [(tick, zone) for tick, zone in booked if zone and zone["measured_uj"] is not None]
        require(booked, f"{name} was never measured: {self.states(name)}")
        return (sum(zone["measured_uj"] for _, zone in booked) / 1e6,
                sum(zone.get("covers_s", tick["interval_s"]) for tick, zone in booked))

    def check_watts(self, name, wanted, tolerance):
        joules, seconds = self.measured(name)
        watts = joules / seconds
        print(f"                {name} {watts:.3f} W, in truth {wanted} W")
        require(abs(watts / wanted - 1) <= tolerance, f"{name}: {watts:.3f} W, not {wanted} W")

    def check_balance(self):
        """Every zone's books balance, and all of them together never hold more than the whole machine drew."""
        booked = 0
        for line in self.lines:
            for zone in line["zones"]:
                if zone["role"] == "primary":
                    parts = zone["idle_uj"] + zone["attributed_uj"] + zone["unattributed_uj"]
                    require((zone["measured_uj"] or 0) == parts, f"{zone}")
                    booked += parts if line["type"] == "tick" else 0
        drawn = max(BMC_W, ACPI_W) * self.last["interval_s"]
        print(f"                booked {booked / 1e6:.1f} J of {drawn:.1f} J")
        require(booked / 1e6 < 1.01 * drawn, f"{booked / 1e6:.1f} J are booked, but only {drawn:.1f} J were drawn")


class Checks:
    """Every method that does not begin with `_` is a check, in this order; its first line of text is its title."""

    def __init__(self, guest):
        self._guest = guest

    def kernel(self):
        """the kernel's own framework and drivers made the tree, and said nothing bad"""
        tree = "\n".join(self._guest.part("tree")[0])
        require("6.12." in tree, "no Linux 6.12")
        require(tree.count(" 400\n") == len(ZONES), "energy_uj is not for its owner only")
        require("/dev/ipmi0" in tree, "no /dev/ipmi0")
        require("/device/power1_average 23" in tree, "no ACPI power meter with its files in hwmonN/device/")
        words = ("BUG:", "Oops", "WARNING:", "Call Trace")
        bad = [line for line in self._guest.part("dmesg")[0] if any(word in line for word in words)]
        require(not bad, f"{bad}")

    def discover(self):
        """discover lists every zone with its role"""
        found, = self._guest.json("discover")
        states = {meter["meter"]: meter["state"] for meter in found["meters"]}
        zones = {zone["zone"]: zone["role"] for zone in found["zones"]}
        require(states.get("rapl") == "found" and states.get("ipmi") == "found", f"{found['meters']}")
        wrong = {name: zones.get(name) for name, (_, role) in ZONES.items() if zones.get(name) != role}
        require(not wrong, f"roles differ: {wrong}")
        require(zones.get(BMC) == "reference", f"{BMC} is {zones.get(BMC)}; there are {sorted(zones)}")

    def energy(self):
        """every powercap zone counts what the module says, within 2 %"""
        report = self._once()
        for name, (watts, role) in ZONES.items():
            report.check_watts(name, watts, 0.02)
            require(report.total(name)["role"] == role, f"{report.total(name)}")

    def start(self):
        """the first interval begins when the meters were first read, not when they were looked for"""
        report = self._once()
        first = report.ticks[0]
        wanted = ZONES["rapl:package-0"][0] * first["interval_s"]
        joules = report.zone(first, "rapl:package-0")["measured_uj"] / 1e6
        print(f"                {joules:.3f} J in the first {first['interval_s']:.3f} s, in truth {wanted:.3f} J")
        require(abs(joules / wanted - 1) < 0.1, f"{joules:.3f} J, not {wanted:.3f} J")

    def wrap(self):
        """a counter that starts again at max_energy_range_uj is a wrap and loses nothing"""
        states = self._once().states(WRAPS)
        require("wrap" in states and set(states) <= {"ok", "wrap"}, f"states: {states}")

    def bmc(self):
        """ipmi:dcmi reads the current watts of the BMC, at its own pace, and is not summed"""
        report = self._once()
        report.check_watts(BMC, BMC_W, 0.01)
        states = report.states(BMC)
        require("pending" in states and states.count("ok") >= SECONDS // 2 - 3, f"states: {states}")
        require(set(states) <= {"not there", "first", "pending", "ok"}, f"states: {states}")
        require(report.total(BMC)["role"] == "reference", f"{report.total(BMC)}")

    def acpi(self):
        """the ACPI power meter is found although its files lie in hwmonN/device/"""
        report = self._once()
        names = [zone["zone"] for zone in report.last["zones"]]
        name = next((name for name in names if name.startswith("hwmon:power_meter@")), None)
        require(name, f"no zone hwmon:power_meter@… among {names}")
        report.check_watts(name, ACPI_W, 0.01)
        require(set(report.states(name)) == {"ok"}, f"states: {report.states(name)}")
        require(report.total(name)["role"] == "reference", f"{report.total(name)}")

    def rest(self):
        """host:rest is what the whole machine draws beyond its parts"""
        report = self._once()
        joules, seconds = report.measured("host:rest")
        watts = joules / seconds
        print(f"                host:rest {watts:.3f} W, in truth {BMC_W - PARTS_W} or {ACPI_W - PARTS_W} W")
        near = any(abs(watts / (whole - PARTS_W) - 1) < 0.05 for whole in (BMC_W, ACPI_W))
        require(near, f"{watts:.3f} W, neither {BMC_W - PARTS_W} nor {ACPI_W - PARTS_W}")
        require(report.total("host:rest")["role"] == "primary", f"{report.total('host:rest')}")

    def books(self):
        """the books balance at every tick, and the service that is busy has most of them"""
        report = self._once()
        report.check_balance()
        total = {each["id"]: sum(each["active_uj"].values()) for each in report.last["workloads"]}
        require(WORK in total, f"{WORK} is not among {sorted(total)}")
        share = total[WORK] / max(1, total["node"])
        require(share > 0.5, f"a service that keeps a processor busy got {share:.0%} of what was used")

    def hang(self):
        """a BMC that hangs is said so, delays no tick, and is read again when it is back"""
        report = Report(self._guest.json("trouble"))
        states = report.states(BMC)
        require("gone" in states, f"states: {states}")
        require("ok" in states[:states.index("gone")] and states[-1] in ("ok", "pending"), f"states: {states}")
        require("ok" in states[states.index("gone"):], f"it never came back: {states}")
        late = [tick["interval_s"] for tick in report.ticks if tick["interval_s"] > 1.5]
        require(not late, f"ticks took {late} s")

    def replug(self):
        """zones that go and come back book what they counted meanwhile, and nothing is booked twice"""
        report = Report(self._guest.json("trouble"))
        states = report.states("rapl:package-0")
        away = [state not in ("ok", "wrap") for state in states]
        require(any(away) and not away[0] and not away[-1], f"states: {states}")
        require(set(states) <= {"ok", "gone", "not there"}, f"states: {states}")
        report.check_watts("rapl:package-0", ZONES["rapl:package-0"][0], 0.02)
        _, seconds = report.measured("rapl:package-0")
        awake = sum(tick["interval_s"] for tick in report.ticks[1:])
        require(abs(seconds / awake - 1) < 0.03, f"{seconds:.1f} s of {awake:.1f} s: the time away is not booked")
        report.check_balance()

    def nobody(self):
        """without root, what is forbidden is said with advice, and what is not is still read"""
        found, = self._guest.json("nobody")
        meters = {meter["meter"]: meter for meter in found["meters"]}
        denied = (("rapl", "energy_uj", "CAP_DAC_READ_SEARCH"), ("ipmi", "/dev/ipmi0", "DeviceAllow"))
        for name, path, advice in denied:
            detail = meters[name]["detail"]
            require(meters[name]["state"] == "denied" and path in detail and advice in detail, f"{meters[name]}")
        zones = {zone["zone"]: zone for zone in found["zones"]}
        require("rapl:package-0" in zones, f"zones: {sorted(zones)}")
        require(zones["rapl:package-0"]["state"] == "denied", f"{zones['rapl:package-0']}")
        require(BMC not in zones or zones[BMC]["state"] == "denied", f"{zones.get(BMC)}")

    def _once(self):
        report = Report(self._guest.json("once"))
        require(len(report.ticks) >= SECONDS - 2, f"{len(report.ticks)} ticks in {SECONDS} s")
        return report
