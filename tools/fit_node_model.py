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

A row that lacks a number is left out and counted. Standard library only. Example, for a file with other names:

  tools/fit_node_model.py curves.csv --map cpu=CPUName --map base_mhz=HW_CPUFreq --map p10=10_AvgPower \\
      --generation epyc-gen2=zen2 --json model.json --rust src/meter/model/built_in.rs

The JSON is what the configuration key `model.file` takes. The Rust table is what is built in: `cargo fmt` and `make test`
come after it.
"""

import argparse
import csv
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
# A generation with fewer curves has the shape of all.
CURVES_MIN = 5
# Of the machines that the shape of all is taken from: what was sold before rests and rises differently.
SHAPE_SINCE = 2017
AMD = ("k10", "bulldozer", "zen")
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
    """b0, weights and one offset per generation, for idle (index 0) or full load (index -1)."""
    size = 1 + len(FEATURES) + len(names)
    matrix = [[0.0] * size for _ in range(size)]
    right = [0.0] * size
    place = {name: 1 + len(FEATURES) + at for at, name in enumerate(names)}
    for machine, z in zip(machines, rows):
        target = math.log(machine.watts[index] / (machine.tdp * machine.chips))
        entries = [(0, 1.0), *((at + 1, value) for at, value in enumerate(z)), (place[machine.generation], 1.0)]
        for i, a in entries:
            right[i] += a * target
            for j, b in entries:
                matrix[i][j] += a * b
    for at in range(1, size):
        matrix[at][at] += RIDGE_WEIGHT if at <= len(FEATURES) else RIDGE_GENERATION
    found = solve(matrix, right)
    weights = found[1:1 + len(FEATURES)]
    return {"b0": found[0], "w": weights, "gen": {name: found[place[name]] for name in names}}


def mean_shape(machines):
    return [statistics.fmean(column) for column in zip(*(machine.shape() for machine in machines))]


def fit(machines):
    """The model in the form of its JSON."""
    names = sorted({machine.generation for machine in machines})
    raw = [machine.features() for machine in machines]
    mean = [statistics.fmean(column) for column in zip(*raw)]
    spread = [statistics.pstdev(column) or 1.0 for column in zip(*raw)]
    rows = [[(value - m) / s for value, m, s in zip(row, mean, spread)] for row in raw]
    newer = [machine for machine in machines if machine.year >= SHAPE_SINCE]
    default = mean_shape(newer if len(newer) >= CURVES_MIN else machines)
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
            "shape": mean_shape(own) if len(own) >= CURVES_MIN else default,
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


def read(path, columns, words):
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise SystemExit(f"--map: there is no column {', '.join(sorted(unknown))}; there are {', '.join(COLUMNS)}")
    machines, left_out = [], 0
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        missing = [columns.get(name, name) for name in COLUMNS if columns.get(name, name) not in (table.fieldnames or [])]
        if missing:
            raise SystemExit(f"{path}: no column {', '.join(missing)}; see --map")
        for row in table:
            values = {name: row[columns.get(name, name)] or "" for name in COLUMNS}
            values["generation"] = words.get(values["generation"], values["generation"])
            try:
                machines.append(Machine(values))
            except ValueError:
                left_out += 1
    print(f"{path}: {len(machines)} machines; {left_out} rows lack a number, or their generation, and are left out")
    return machines


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
    model = None
    if options.model:
        with open(options.model, encoding="utf-8") as file:
            model = json.load(file)
    if options.csv:
        machines = read(options.csv, pairs(options.map), pairs(options.generation))
        if model:
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
            model = fit(machines)
            if options.known and options.cpus:
                with open(options.known, encoding="utf-8") as known, open(options.cpus, encoding="utf-8", newline="") as cpus:
                    take_over(model, json.load(known), list(csv.DictReader(cpus)))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rounded(model), file, separators=(",", ":"), allow_nan=False)
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
