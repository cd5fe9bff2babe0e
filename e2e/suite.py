"""A row of checks: one line each, how they ended, and the counts alone on the last line.

The checks are the public methods of an object; their docstrings say what holds.
"""

import signal
import sys
import time
import traceback

from process import Failed


class Skipped(Exception):
    """Cannot be checked on this machine."""


def end_on_signals():
    """A signal ends us through every `with`, so that nothing of ours is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def names_of(checks):
    """The names of the checks of a class, in their order."""
    return [name for name in vars(checks) if not name.startswith("_")]


def refuse_unknown(parser, what, wanted, known):
    """Ends the program if a check is wanted that is not there."""
    if unknown := set(wanted) - set(known):
        parser.error(f"no such {what}: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")


def run_one(name, check, keep=None):
    """Runs one check, prints its line and returns the word for it; its output is in `keep`."""
    kept = f" (output in {keep})" if keep else ""
    started = time.monotonic()
    try:
        check()
        word, reason = "ok", ""
    except Skipped as skipped:
        word, reason = "skipped", f": {skipped}"
    except Failed as failed:
        word, reason = "FAILED", f": {failed}{kept}"
    except Exception as error:  # a check that stumbles has failed; the others still run
        traceback.print_exc()
        word, reason = "FAILED", f": {type(error).__name__}: {error}{kept}"
    print(f"{name:15} {word}{reason} — {check.__doc__}, {time.monotonic() - started:.1f} s", flush=True)
    return word


def finish(words):
    """Prints the counts and ends the program."""
    words = list(words)
    passed, failed, skipped = (words.count(word) for word in ("ok", "FAILED", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    sys.exit(1 if failed else 0)
