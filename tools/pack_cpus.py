#!/usr/bin/env python3
"""Packs a CSV of processors into src/meter/model/cpus.rs: what the estimator knows of a processor by its name.

Columns: key (xeon-8175m, epyc-9654, opteron-6276), gen, cores, threads, base_mhz, tdp; others are left alone, and all but
key and tdp may be empty. Processors from before 2009 (gen `core`) are left out: no machine with them has been measured by
this program, and their generation's figures do. Standard library only.

  tools/pack_cpus.py cpu_models.csv > src/meter/model/cpus.rs
"""

import csv
import sys
import textwrap

BRANDS = ("xeon", "epyc", "opteron")
HEAD = '''//! What is known of a processor by its name: cores, base clock, TDP. Facts of data sheets, packed as text.
//!
//! Written by `tools/pack_cpus.py`; not edited by hand. The facts were gathered by mlco2/codecarbon (MIT) and
//! cloud-carbon-footprint/ccf-coefficients (Apache-2.0). An entry is `name/cores/MHz/TDP`: a name in lower case without
//! brand and blanks, cores of one processor with `=` where each has one thread, an empty field where nothing is known.
'''


def number(text):
    return f"{float(text):.0f}" if text else ""


def entry(row):
    brand, _, name = row["key"].partition("-")
    if brand not in BRANDS or row["gen"] == "core" or not name or not float(row["tdp"] or 0) > 0:
        return None
    cores, threads = number(row["cores"]), number(row["threads"])
    if not cores and threads:
        cores = str(int(threads) // 2)
    single = "=" if cores and threads == cores else ""
    return brand, f"{name}/{cores}{single}/{number(row['base_mhz'])}/{number(row['tdp'])}"


def main():
    with open(sys.argv[1], encoding="utf-8", newline="") as file:
        found = sorted({packed for packed in map(entry, csv.DictReader(file)) if packed})
    print(HEAD)
    for brand in BRANDS:
        text = " ".join(name for owner, name in found if owner == brand)
        lines = textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)
        print(f"/// {brand.capitalize() if brand != 'epyc' else 'EPYC'}.")
        print(f'pub(super) const {brand.upper()}: &str = "\\')
        print("\n".join(f"{line} \\" for line in lines[:-1]))
        print(f'{lines[-1]}";')


if __name__ == "__main__":
    main()
