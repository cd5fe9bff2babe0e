"""The tool that fits the node model: what it writes the agent takes, and what it cannot use it names."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "fit_node_model.py"
sys.path.insert(0, str(TOOL.parent))
import fit_node_model as tool  # noqa: E402


def machine(at, generation, **changed):
    """One row, different enough from others that weights can be fitted."""
    cores, tdp = 16 + 4 * (at % 5), 150 + 7 * (at % 7)
    idle, full = 40.0 + at % 11, 300.0 + 5 * (at % 13)
    row = {"cpu": f"cpu {generation} {at % 6}", "generation": generation, "chips": 1 + at % 2, "cores": cores,
           "threads": cores * (1 + at % 3 % 2), "base_mhz": 2000 + 50 * (at % 9), "tdp": tdp, "memory_gb": 64 << at % 3,
           "year": 2018 + at % 4, "idle": idle, **{f"p{level}": idle + (full - idle) * level / 100
                                                   for level in range(10, 101, 10)}}
    return row | changed


def machines(**changed):
    return [machine(at, "skylake" if at % 2 else "zen2", **changed) for at in range(40)]


class Fit(unittest.TestCase):
    def setUp(self):
        self._directory = tempfile.TemporaryDirectory()
        self.addCleanup(self._directory.cleanup)
        self.path = pathlib.Path(self._directory.name)

    def write(self, rows, encoding="utf-8"):
        path = self.path / "curves.csv"
        with open(path, "w", encoding=encoding, newline="") as file:
            table = csv.DictWriter(file, tool.COLUMNS)
            table.writeheader()
            table.writerows(rows)
        return path

    def run_tool(self, *arguments):
        done = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, timeout=120)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def fitted(self, rows):
        """The model, and what was printed."""
        out = self.path / "model.json"
        done = self.run_tool(self.write(rows), "--json", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        model = json.loads(out.read_text())
        self.assertIsNone(tool.wrong_with(model))
        self.agent_takes(out)
        return model, done.stdout

    def agent_takes(self, path):
        """The agent itself, where it has been built."""
        agent = ROOT / os.environ.get("WATTRIBUTE_BIN", "target/release/wattribute")
        if agent.exists():
            guest = ROOT / "tests" / "machines" / "meter-model-m5-large.machine"
            done = subprocess.run([agent, "replay", guest, "--set", f"model.file={path}"], capture_output=True, text=True,
                                  timeout=60)
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def refused(self, *arguments):
        done = self.run_tool(*arguments)
        self.assertEqual(done.returncode, 1, done.stdout)
        return done.stderr.strip()

    def test_what_is_written_is_taken(self):
        model, said = self.fitted(machines())
        self.assertEqual(set(model["generations"]), {"skylake", "zen2"})
        self.assertNotIn("level", said)

    def test_a_curve_that_falls_is_made_level_and_that_is_said(self):
        for level, watts in (("p30", 50.0), ("p10", 20.0)):
            with self.subTest(level):
                model, said = self.fitted(machines(**{level: watts}))
                shape = model["generations"]["zen2"]["shape"]
                self.assertEqual(shape, sorted(shape))
                self.assertIn("the shape of zen2 falls somewhere: it is made level there", said)

    def test_a_falling_curve_becomes_the_nearest_that_rises(self):
        self.assertEqual(tool.rising([0, .1, .3, .2, .4, .5, .6, .7, .8, .9, 1])[2:4], [.25, .25])
        self.assertEqual(tool.rising([0, -.2, .1, .2, .4, .5, .6, .7, 1.2, .9, 1])[:2], [0, 0])
        level = [at / 10 for at in range(11)]
        self.assertEqual(tool.rising(level), level)

    def test_what_the_agent_would_refuse_is_not_written(self):
        rows = machines()
        for row in rows:
            row["tdp"] = row["tdp"] / 1e6
        out = self.path / "model.json"
        self.assertIn("nothing is written, the agent would refuse it: ", self.refused(self.write(rows), "--json", out))
        self.assertFalse(out.exists())

    def test_the_checks_are_those_of_the_agent(self):
        model, _ = self.fitted(machines())
        cases = [
            (lambda m: m["sd"].__setitem__(0, 0), "sd: a standard deviation"),
            (lambda m: m["mu"].pop(), "mu: expected 7"),
            (lambda m: m["default_shape"].__setitem__(5, 0), "default_shape: a shape goes"),
            (lambda m: m["idle"]["gen"].pop("zen2"), "idle.gen.zen2: missing"),
            (lambda m: m["max"].__setitem__("b0", 9), "max.b0: 9 is beyond ±5"),
            (lambda m: m["max"]["w"].__setitem__(1, float("nan")), "max.w[1]: nan is beyond ±5"),
            (lambda m: m["generations"]["zen2"].__setitem__("idle_over_max", 1), "generations.zen2.idle_over_max"),
            (lambda m: m["generations"]["zen2"].__setitem__("max_w_per_thread", 0), "generations.zen2: expected 0 <"),
            (lambda m: m["generations"]["zen2"].pop("shape"), "a figure is missing"),
            (lambda m: m.__setitem__("generations", {"skylak": 1}), "generations: none that the agent knows"),
        ]
        for change, reason in cases:
            changed = json.loads(json.dumps(model))
            change(changed)
            self.assertIn(reason, tool.wrong_with(changed) or "nothing", reason)

    def test_a_table_in_another_encoding_is_named_with_advice(self):
        rows = machines()
        rows[3]["cpu"] = "Prozessör"
        path = self.write(rows, "latin-1")
        self.assertEqual(self.refused(path), f"{path}: line 5 is not UTF-8; save it as UTF-8, or: iconv -f LATIN1 -t UTF-8 {path}")
        self.fitted_with_a_mark(rows)

    def fitted_with_a_mark(self, rows):
        """A spreadsheet's UTF-8 begins with a mark of byte order."""
        done = self.run_tool(self.write(rows, "utf-8-sig"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_an_empty_model_is_no_model(self):
        path = self.path / "empty.json"
        path.write_text("{}")
        self.assertEqual(self.refused(self.write(machines()), "--model", path),
                         f"{path}: features: missing; expected what --json writes")
        path.write_text("")
        self.assertIn(f"{path}: no JSON: ", self.refused("--model", path))

    def test_rows_that_are_left_out_are_named_by_their_lines(self):
        rows = machines()
        rows[1]["tdp"] = rows[4]["p40"] = ""
        self.assertIn("2 rows lack a number, or their generation, and are left out: lines 3, 6\n", self.fitted(rows)[1])
        for at in range(10, 16):
            rows[at]["idle"] = "x"
        self.assertIn("are left out: lines 3, 6, 12, 13, 14 and 3 more\n", self.fitted(rows)[1])

    def test_a_word_that_is_no_generation_is_named(self):
        rows = machines()
        rows[7]["generation"] = "skylak"
        said = self.refused(self.write(rows))
        self.assertIn("line 9: no generation 'skylak'; did you mean skylake? known are broadwell, ", said)

    def test_the_tool_knows_the_generations_of_the_agent(self):
        table = (ROOT / "src" / "meter" / "model" / "built_in.rs").read_text()
        self.assertEqual(list(tool.KNOWN), re.findall(r'key: "(\w+)"', table))


if __name__ == "__main__":
    unittest.main()
