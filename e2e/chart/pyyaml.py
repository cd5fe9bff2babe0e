"""PyYAML, installed once into the cache outside the clone: Python has no YAML reader of its own."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

VERSION = "PyYAML==6.0.3"


def _directory():
    """Where the package lies, installed when it is needed first. It appears by one rename."""
    cache = pathlib.Path(os.environ.get("WATTRIBUTE_CACHE") or pathlib.Path(
        os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "wattribute")
    # The package has a compiled part: one directory per Python and machine.
    made_for = f"{VERSION} {sys.version} {os.uname().machine}"
    name = f"{VERSION.replace('==', '-')}-{hashlib.sha256(made_for.encode()).hexdigest()[:16]}"
    place = cache / name
    if place.exists():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        venv, packages = pathlib.Path(work, "venv"), pathlib.Path(work, "packages")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "3"]
        subprocess.run([*pip, "--target", packages, VERSION], check=True, timeout=300)
        try:
            packages.rename(place)
        except OSError:  # somebody else was first
            if not place.exists():
                raise
    return place


sys.path.insert(0, str(_directory()))

import yaml  # noqa: E402


def load_all(text):
    """The documents of a YAML text. A key that stands twice is an error: YAML forbids it, PyYAML does not."""
    return [document for document in yaml.load_all(text, Loader=_Strict) if document is not None]


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{node.start_mark}: {sorted(map(str, twice))} stands twice")
        return super().construct_mapping(node, deep)
