#!/usr/bin/env python3
"""Fits the node power model (`model:cpu`) to measured curves of whole machines, and says how wrong it is.

The input is a CSV with one machine a row and these columns; --map names others, --generation renames words in one:

  cpu          the processor's name; all machines with the same one are kept out together
  generation   a key of the model, as in src/meter/model/built_in.rs: skylake, zen4, ...
  chips        processors in the machine
  cores        of the whole machine
  threads      of the whole machine
  base_mhz     base clock
  tdp          watts of one processor
  memory_gb    of the whole machine
  year         when the machine was to be had
  idle         watts at active idle
  p10 ... p100 watts at 10 % ... 100 % load

A row that lacks a number is left out, and its line is named. A curve that falls is no curve: where the median
of a generation does, it is made level there, and it is said so. What the agent would refuse is not written. Standard library
only. Example, for a file with other names:

  tools/fit_node_model.py curves.csv --map cpu=CPUName --map base_mhz=HW_CPUFreq --map p10=10_AvgPower \\
      --generation epyc-gen2=zen2 --json model.json --rust src/meter/model/built_in.rs

The JSON is what the configuration key `model.file` takes. The Rust table is what is built in: `cargo fmt` and `make test`
come after it.
"""

import argparse
import csv
import difflib
import io
import json
import math
import statistics
import sys

LEVELS = [f"p{level}" for level in range(10, 101, 10)]
COLUMNS = ["cpu", "generation", "chips", "cores", "threads", "base_mhz", "tdp", "memory_gb", "year", "idle", *LEVELS]
FEATURES = ["ln(mem_gb/threads)", "ln(tdp_total/threads)", "ln(chips)", "ln(cores/chip)", "ln(base_mhz)", "smt", "amd"]
FORMULA = ("P0=TDP*chips*exp(b0+sum(w_i*(f_i-mu_i)/sd_i)+gen[g]); P100 likewise; "
           "P(u)=P0+(P100-P0)*interp(shape[g],u)")
# One pseudo-machine that says "no effect" for each weight, and two that say "as the others" for each generation: with
# fewer machines than that of a generation, its own offset is mostly theirs.
RIDGE_WEIGHT, RIDGE_GENERATION = 1.0, 2.0
# Rounds of a fit, and the share of its power by which a machine is missed at least: below that it has no more weight.
ROUNDS, MISSED_MIN = 6, 0.15
# A generation with fewer curves has the shape of all.
CURVES_MIN = 5
# Of the machines that the shape of all is taken from: what was sold before rests and rises differently.
SHAPE_SINCE = 2017
AMD = ("k10", "bulldozer", "zen")
# The generations that the agent knows (built_in.rs), and the limits within which it takes figures (figures.rs).
KNOWN = ("broadwell", "bulldozer", "cascade", "coffee", "core", "emerald", "granite", "haswell", "icelake", "ivy", "k10",
         "nehalem", "raptor", "rocket", "sandy", "sapphire", "sierra", "skylake", "skylake_c", "zen1", "zen2", "zen3", "zen4",
         "zen5")
LOG_MAX, WATTS_MAX = 5.0, 1000.0
# How many of the rows that are left out are named.
NAMED_MAX = 5
ONE_THREAD = ("core", "k10", "bulldozer", "sierra")  # generations whose cores have one thread each


class Machine:
    """One row."""

    def __init__(self, row):
        number = {name: float(row[name]) for name in COLUMNS if name not in ("cpu", "generation")}
        if not all(math.isfinite(value) and value > 0 for value in number.values()):
            raise ValueError("a number is missing, not finite or not above 0")
        self.cpu, self.generation = row["cpu"].strip().lower(), row["generation"].strip()
        if not self.cpu or not self.generation:
            raise ValueError("no cpu or no generation")
        self.chips, self.cores, self.threads = number["chips"], number["cores"], number["threads"]
        self.mhz, self.tdp, self.memory, self.year = (number[k] for k in ("base_mhz", "tdp", "memory_gb", "year"))
        self.watts = [number["idle"]] + [number[name] for name in LEVELS]
        if self.watts[-1] <= self.watts[0]:
            raise ValueError("idle is above full load")

    def features(self, chips=None, memory=True):
        """The features; None for what is not known. With `chips`, those of the same processor in such a host."""
        scale = (chips or self.chips) / self.chips
        tdp_total, threads = self.tdp * self.chips * scale, self.threads * scale
        return [
            math.log(self.memory / self.threads) if memory else None,
            math.log(tdp_total / threads),
            math.log(self.chips * scale),
            math.log(self.cores / self.chips),
            math.log(self.mhz),
            1.0 if self.threads > self.cores else 0.0,
            1.0 if self.generation.startswith(AMD) else 0.0,
        ]

    def shape(self):
        idle, full = self.watts[0], self.watts[-1]
        return [(watts - idle) / (full - idle) for watts in self.watts]


def solve(matrix, right):
    """Gaussian elimination with row exchange; both are overwritten."""
    size = len(right)
    for column in range(size):
        best = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        if abs(matrix[best][column]) < 1e-12:
            raise SystemExit("the machines do not differ enough to fit the weights")
        matrix[column], matrix[best] = matrix[best], matrix[column]
        right[column], right[best] = right[best], right[column]
        for row in range(column + 1, size):
            factor = matrix[row][column] / matrix[column][column]
            if factor:
                right[row] -= factor * right[column]
                for at in range(column, size):
                    matrix[row][at] -= factor * matrix[column][at]
    for row in reversed(range(size)):
        known = sum(matrix[row][at] * right[at] for at in range(row + 1, size))
        right[row] = (right[row] - known) / matrix[row][row]
    return right


def fit_line(machines, rows, names, index):
    """b0, weights and one offset per generation, for idle (index 0) or full load (index -1): those with the least sum of
    absolute errors, so that a few machines that are built unlike the others move nothing. Each round fits squares, with
    a machine's weight the inverse of what the round before missed it by."""
    place = {name: 1 + len(FEATURES) + at for at, name in enumerate(names)}
    targets = [math.log(machine.watts[index] / (machine.tdp * machine.chips)) for machine in machines]
    entries = [[(0, 1.0), *((at + 1, value) for at, value in enumerate(z)), (place[machine.generation], 1.0)]
               for machine, z in zip(machines, rows)]
    trust = [1.0] * len(machines)
    for _ in range(ROUNDS):
        size = 1 + len(FEATURES) + len(names)
        matrix = [[0.0] * size for _ in range(size)]
        right = [0.0] * size
        for target, terms, weight in zip(targets, entries, trust):
            for i, a in terms:
                right[i] += weight * a * target
                for j, b in terms:
                    matrix[i][j] += weight * a * b
        for at in range(1, size):
            matrix[at][at] += RIDGE_WEIGHT if at <= len(FEATURES) else RIDGE_GENERATION
        found = solve(matrix, right)
        missed = [abs(target - sum(found[at] * value for at, value in terms)) for target, terms in zip(targets, entries)]
        trust = [1.0 / max(miss, MISSED_MIN) for miss in missed]
        mean = statistics.fmean(trust)
        trust = [weight / mean for weight in trust]
    weights = found[1:1 + len(FEATURES)]
    return {"b0": found[0], "w": weights, "gen": {name: found[place[name]] for name in names}}


def middle_shape(machines, name):
    middle = [statistics.median(column) for column in zip(*(machine.shape() for machine in machines))]
    shape = rising(middle)
    if any(abs(one - other) > 1e-9 for one, other in zip(middle, shape)):
        LEVELLED.add(name)
    return shape


# Whose shape fell somewhere in a fit: the name of a generation, or "all".
LEVELLED = set()


def rising(shape):
    """The nearest curve from 0 to 1 that never falls: neighbours that fall become their mean (pool adjacent violators)."""
    pools = []
    for value in shape:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, count), (other, more) = pools[-2:]
            pools[-2:] = [[(one * count + other * more) / (count + more), count + more]]
    level = [min(max(value, 0.0), 1.0) for value, count in pools for _ in range(count)]
    return [0.0, *level[1:-1], 1.0]


def wrong_with(model):
    """Why the agent would refuse this model, in words; the checks of `Figures::parse` in src/meter/model/figures.rs."""
    if not isinstance(model, dict):
        return "expected an object of figures"
    for key in ("features", "mu", "sd", "default_shape", "generations", "idle", "max"):
        if key not in model:
            return f"{key}: missing"
    if model["features"] != FEATURES:
        return f"features: expected {', '.join(FEATURES)}"
    try:
        return (numbers_wrong("mu", model["mu"], 7) or numbers_wrong("sd", model["sd"], 7)
                or ("sd: a standard deviation that is not above 0" if min(model["sd"]) <= 0 else None)
                or shape_wrong("default_shape", model["default_shape"])
                or line_wrong("idle", model) or line_wrong("max", model) or generations_wrong(model["generations"]))
    except (AttributeError, KeyError, TypeError) as error:
        return f"a figure is missing or of the wrong kind: {error}"


def numbers_wrong(of, values, count):
    is_number = lambda value: isinstance(value, (int, float)) and math.isfinite(value)  # noqa: E731
    if len(values) != count or not all(map(is_number, values)):
        return f"{of}: expected {count} finite numbers"
    return None


def shape_wrong(of, shape):
    rises = all(one <= other for one, other in zip(shape, shape[1:]))
    ends = numbers_wrong(of, shape, 11) or abs(shape[0]) >= 1e-6 or abs(shape[-1] - 1.0) >= 1e-6
    return f"{of}: a shape goes from 0 to 1 and never falls" if ends or not rises else None


def line_wrong(of, model):
    line, names = model[of], [name for name in model["generations"] if name in KNOWN]
    missing = [name for name in names if name not in line["gen"]]
    if missing:
        return f"{of}.gen.{missing[0]}: missing; generations lists {missing[0]}, so it needs its offset"
    places = {"b0": line["b0"], **{f"w[{at}]": value for at, value in enumerate(line["w"])},
              **{f"gen.{name}": value for name, value in line["gen"].items()}}
    for name, value in places.items():
        if not math.isfinite(value) or abs(value) > LOG_MAX:
            return f"{of}.{name}: {value} is beyond ±{LOG_MAX:g}"
    return numbers_wrong(f"{of}.w", line["w"], 7)


def generations_wrong(generations):
    known = {name: given for name, given in generations.items() if name in KNOWN}
    if not known:
        return f"generations: none that the agent knows; it knows {', '.join(KNOWN)}"
    for name, given in known.items():
        idle, full = given["idle_w_per_thread"], given["max_w_per_thread"]
        wrong = shape_wrong(f"generations.{name}.shape", given["shape"])
        if not wrong and not 0.0 < given["idle_over_max"] < 1.0:
            wrong = f"generations.{name}.idle_over_max: expected a part between 0 and 1"
        if not wrong and not 0.0 < idle < full < WATTS_MAX:
            wrong = (f"generations.{name}: expected 0 < idle_w_per_thread < max_w_per_thread < {WATTS_MAX:g}, "
                     f"found {idle} and {full}")
        if wrong:
            return wrong
    return None


def fit(machines):
    """The model in the form of its JSON."""
    names = sorted({machine.generation for machine in machines})
    raw = [machine.features() for machine in machines]
    mean = [statistics.fmean(column) for column in zip(*raw)]
    spread = [statistics.pstdev(column) or 1.0 for column in zip(*raw)]
    rows = [[(value - m) / s for value, m, s in zip(row, mean, spread)] for row in raw]
    newer = [machine for machine in machines if machine.year >= SHAPE_SINCE]
    default = middle_shape(newer if len(newer) >= CURVES_MIN else machines, "all")
    generations = {}
    for name in names:
        own = [machine for machine in machines if machine.generation == name]
        median = lambda value: statistics.median(value(machine) for machine in own)  # noqa: E731
        generations[name] = {
            "n": len(own),
            "first_year": int(min(machine.year for machine in own)),
            "idle_over_max": median(lambda m: m.watts[0] / m.watts[-1]),
            "idle_w_per_thread": median(lambda m: m.watts[0] / m.threads),
            "max_w_per_thread": median(lambda m: m.watts[-1] / m.threads),
            "shape": middle_shape(own, name) if len(own) >= CURVES_MIN else default,
        }
    idle, full = (fit_line(machines, rows, names, index) for index in (0, -1))
    return {"formula": FORMULA, "features": FEATURES, "mu": mean, "sd": spread, "default_shape": default,
            "generations": generations, "idle": idle, "max": full}


def take_over(model, known, cpus):
    """What `known` knows from more machines: medians and shapes; and for generations of which there are no curves here
    the offsets that put a typical machine of theirs (two chips, a usual processor, as much memory as others) on them."""
    medians = ("n", "first_year", "idle_over_max", "idle_w_per_thread", "max_w_per_thread", "shape")
    model["default_shape"] = known["default_shape"]
    for name, generation in known["generations"].items():
        if name in model["generations"] and generation["n"] > model["generations"][name]["n"]:
            model["generations"][name] = {key: generation[key] for key in medians}
        own = [cpu for cpu in cpus if cpu["gen"] == name and all(cpu[key] for key in ("cores", "base_mhz", "tdp"))]
        if name in model["generations"] or not own:
            continue
        median = lambda key: statistics.median(float(cpu[key]) for cpu in own)  # noqa: E731
        per_thread = generation["idle_w_per_thread"] / generation["idle_per_tdp"]
        smt = name not in ONE_THREAD
        cores = median("tdp") / per_thread / (2 if smt else 1)
        features = [None, math.log(per_thread), math.log(2), math.log(cores), math.log(median("base_mhz")), float(smt),
                    1.0 if name.startswith(AMD) else 0.0]
        z = [0.0 if value is None else (value - mean) / spread
             for value, mean, spread in zip(features, model["mu"], model["sd"])]
        for end, key in (("idle", "idle_per_tdp"), ("max", "max_per_tdp")):
            line = model[end]
            line["gen"][name] = math.log(generation[key]) - line["b0"] - sum(w * x for w, x in zip(line["w"], z))
        model["generations"][name] = {key: generation[key] for key in medians}
        print(f"  {name}: taken over, {cores:.0f} cores a chip, offsets {model['idle']['gen'][name]:+.3f} "
              f"{model['max']['gen'][name]:+.3f}")


def predict(model, machine, visible, known_generation=True):
    """Watts at idle and at each level. `visible`: only what a guest can know, in a host taken to have two chips."""
    chips = 2.0 if visible else machine.chips
    features = machine.features(chips=chips, memory=not visible)
    z = [0.0 if value is None else (value - mean) / spread
         for value, mean, spread in zip(features, model["mu"], model["sd"])]
    generation = model["generations"].get(machine.generation) if known_generation else None
    ends = []
    for line in (model["idle"], model["max"]):
        offset = line["gen"].get(machine.generation, 0.0) if generation else 0.0
        power = machine.tdp * chips * math.exp(line["b0"] + sum(w * x for w, x in zip(line["w"], z)) + offset)
        ends.append(power * machine.chips / chips)
    shape = generation["shape"] if generation else model["default_shape"]
    return [ends[0] + (ends[1] - ends[0]) * part for part in shape]


class Errors:
    """Of predictions, over machines and levels."""

    def __init__(self):
        self.relative, self.absolute, self.factors = [], [], []

    def add(self, machine, predicted):
        for guess, true in zip(predicted, machine.watts):
            self.relative.append(abs(guess - true) / true)
            self.absolute.append(abs(guess - true))
            self.factors.append(max(guess / true, true / guess))

    def __str__(self):
        if not self.relative:
            return "nothing to judge by"
        factors = sorted(self.factors)
        at = lambda part: factors[min(int(part * len(factors)), len(factors) - 1)]  # noqa: E731
        return (f"MAPE {100 * statistics.fmean(self.relative):.1f} %, MAE {statistics.fmean(self.absolute):.0f} W, "
                f"90 % within a factor {at(.90):.2f}, 95 % within {at(.95):.2f}")


def judge(machines, since, model=None):
    """Prints the errors on the machines of `since` and later: of `model`, else of fits without the one judged."""
    judged = [machine for machine in machines if machine.year >= since]
    everything, visible, median, unseen = Errors(), Errors(), Errors(), Errors()
    for cpu in sorted({machine.cpu for machine in judged}):
        fitted = model or fit([machine for machine in machines if machine.cpu != cpu])
        for machine in (machine for machine in judged if machine.cpu == cpu):
            everything.add(machine, predict(fitted, machine, visible=False))
            visible.add(machine, predict(fitted, machine, visible=True))
            generation = fitted["generations"].get(machine.generation)
            if generation:
                ends = (generation["idle_w_per_thread"], generation["max_w_per_thread"])
                watts = [ends[0] + (ends[1] - ends[0]) * part for part in generation["shape"]]
                median.add(machine, [value * machine.threads for value in watts])
    for name in sorted({machine.generation for machine in judged}):
        fitted = model or fit([machine for machine in machines if machine.generation != name])
        for machine in (machine for machine in judged if machine.generation == name):
            unseen.add(machine, predict(fitted, machine, visible=False, known_generation=False))
    print(f"  {len(judged)} machines of {since} and later, {len({machine.cpu for machine in judged})} CPU models")
    print(f"  all inputs                {everything}")
    print(f"  what a guest sees         {visible}")
    print(f"  generation alone          {median}")
    print(f"  unseen generation         {unseen}")


def rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def rust(model):
    """The table that is built in. The words for people and how a generation is recognised are in processor.rs."""
    number = lambda value: f"{value:.4f}".rstrip("0").ljust(3, "0") if "." in f"{value:.4f}" else f"{value}"  # noqa: E731
    numbers = lambda values: "[" + ", ".join(map(number, values)) + "]"  # noqa: E731

    def row(name, generation):
        per_thread = [generation["idle_w_per_thread"], generation["max_w_per_thread"]]
        offsets = [model[end]["gen"].get(name, 0.0) for end in ("idle", "max")]
        return [
            "    Generation {",
            f'        key: "{name}",',
            f"        idle_over_max: {number(generation['idle_over_max'])},",
            f"        per_thread: {numbers(per_thread)},",
            f"        offsets: {numbers(offsets)},",
            f"        shape: {numbers(generation['shape'])},",
            "    },",
        ]

    out = [
        "//! The figures of the estimator, fitted on published `SPECpower_ssj2008` results: watts of whole servers.",
        "//!",
        "//! Written by `tools/fit_node_model.py`, which says how they are fitted and how wrong they are. Not edited by hand.",
        "",
        "use super::figures::{Line, Standard};",
        "use crate::meter::processor::Generation;",
        "",
        "/// Means and standard deviations of the features.",
        "pub(super) const STANDARD: Standard = Standard {",
        f"    mean: {numbers(model['mu'])},",
        f"    spread: {numbers(model['sd'])},",
        "};",
    ]
    for end, name, what in (("idle", "IDLE", "at rest"), ("max", "FULL", "at full load")):
        out += [
            f"/// The logarithm of watts per watt of TDP {what}.",
            f"pub(super) const {name}: Line =",
            f"    Line {{ base: {number(model[end]['b0'])}, weights: {numbers(model[end]['w'])} }};",
        ]
    generations = model["generations"]
    recent = [g for g in generations.values() if g["first_year"] >= SHAPE_SINCE]
    unknown = {key: statistics.median(g[key] for g in recent or generations.values())
               for key in ("idle_over_max", "idle_w_per_thread", "max_w_per_thread")}
    rows = row("", unknown | {"shape": model["default_shape"]})
    out += ["", f"/// What an unknown processor is taken for: the medians of the generations since {SHAPE_SINCE}.",
            "pub(in crate::meter) const UNKNOWN: Generation = Generation {",
            *(line[4:] for line in rows[1:-1]), "};", "", "/// By key, in alphabetical order.",
            "pub(in crate::meter) const GENERATIONS: &[Generation] = &["]
    for name in sorted(generations):
        out += row(name, generations[name])
    return "\n".join([*out, "];", ""])


def pairs(texts):
    for text in texts:
        if "=" not in text:
            raise SystemExit(f"expected NAME=NAME, found {text}")
    return dict(text.split("=", 1) for text in texts)


def text_of(path):
    """The text of a file; a spreadsheet's mark of byte order is none of it."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SystemExit(f"{path}: line {line} is not UTF-8; save it as UTF-8, or: iconv -f LATIN1 -t UTF-8 {path}") from None


def model_of(path):
    try:
        model = json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise SystemExit(f"{path}: no JSON: {error}; expected what --json writes") from None
    wrong = wrong_with(model)
    if wrong:
        raise SystemExit(f"{path}: {wrong}; expected what --json writes")
    return model


def known_or_stop(path, line, name):
    if name in KNOWN:
        return
    near = difflib.get_close_matches(name, KNOWN, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise SystemExit(f"{path}: line {line}: no generation {name!r}; {meant}known are {', '.join(KNOWN)}; see --generation")


def read(path, columns, words):
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise SystemExit(f"--map: there is no column {', '.join(sorted(unknown))}; there are {', '.join(COLUMNS)}")
    machines, left_out = [], []
    table = csv.DictReader(io.StringIO(text_of(path), newline=""))
    missing = [columns.get(name, name) for name in COLUMNS if columns.get(name, name) not in (table.fieldnames or [])]
    if missing:
        raise SystemExit(f"{path}: no column {', '.join(missing)}; see --map")
    for row in table:
        values = {name: row[columns.get(name, name)] or "" for name in COLUMNS}
        values["generation"] = words.get(values["generation"], values["generation"])
        try:
            machine = Machine(values)
        except ValueError:
            left_out.append(table.line_num)
            continue
        known_or_stop(path, table.line_num, machine.generation)
        machines.append(machine)
    print(f"{path}: {len(machines)} machines; {len(left_out)} rows lack a number, or their generation, and are left out"
          f"{lines(left_out)}")
    return machines


def lines(numbers):
    """`: lines 3, 7, 9, 12, 20 and 4 more`."""
    if not numbers:
        return ""
    more = f" and {len(numbers) - NAMED_MAX} more" if len(numbers) > NAMED_MAX else ""
    return f": line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:NAMED_MAX]))}{more}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="?", help="measured curves; not needed where only --model is written out anew")
    parser.add_argument("--map", action="append", default=[], metavar="COLUMN=NAME", help="what a column is called there")
    parser.add_argument("--generation", action="append", default=[], metavar="WORD=KEY", help="what a generation is called there")
    parser.add_argument("--since", type=int, default=2017, metavar="YEAR", help="judge by machines from then on (default 2017)")
    parser.add_argument("--fit-since", type=int, metavar="YEAR",
                        help="fit to machines from then on (default: five years before --since): older ones are no guide "
                             "to new ones, but a generation without machines is then unknown to the model")
    parser.add_argument("--model", metavar="JSON", help="judge, and write out, this model instead of fitting one")
    parser.add_argument("--known", metavar="JSON",
                        help="a model of more machines: its medians and shapes are taken over, and its other generations")
    parser.add_argument("--cpus", metavar="CSV", help="with --known: processors (gen, cores, threads, base_mhz, tdp)")
    parser.add_argument("--json", metavar="PATH", help="write the model as JSON, for the key model.file")
    parser.add_argument("--rust", metavar="PATH", help="write the table that is built in")
    options = parser.parse_args()
    if not options.csv and not options.model:
        parser.error("a CSV, or --model")
    model = model_of(options.model) if options.model else None
    if options.csv:
        machines = read(options.csv, pairs(options.map), pairs(options.generation))
        if model is not None:
            print(f"{options.model}, on machines that it may have been fitted to:")
            judge(machines, options.since, model)
        else:
            begin = options.since - 5 if options.fit_since is None else options.fit_since
            machines = [machine for machine in machines if machine.year >= begin]
            if len(machines) < 2 * len(FEATURES):
                raise SystemExit(f"too few machines since {begin} to fit anything")
            print(f"fitted to {len(machines)} machines since {begin}, each time without those judged (all with the same CPU, "
                  "or all of a generation):")
            judge(machines, options.since)
            LEVELLED.clear()
            model = fit(machines)
            for name in sorted(LEVELLED):
                print(f"  the shape of {name} falls somewhere: it is made level there")
            if options.known and options.cpus:
                cpus = csv.DictReader(io.StringIO(text_of(options.cpus), newline=""))
                take_over(model, model_of(options.known), list(cpus))
    written = rounded(model)
    wrong = wrong_with(written)
    if wrong and (options.json or options.rust):
        raise SystemExit(f"nothing is written, the agent would refuse it: {wrong}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(written, file, separators=(",", ":"), allow_nan=False)
            file.write("\n")
    if options.rust:
        with open(options.rust, "w", encoding="utf-8") as file:
            file.write(rust(model))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(str(error))
