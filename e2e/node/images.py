"""Container images without a registry: OCI layouts in a tar, which `ctr images import` takes as they are.

An image has one layer, which holds the files that are asked for and the directories above them. Nothing in it depends
on the time or on the machine.
"""

import hashlib
import io
import json
import pathlib
import re
import subprocess
import tarfile

ACCOUNTS = {"/etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
            "/etc/group": b"root:x:0:\nnogroup:x:65534:\n"}


def write_image(path, name, files, entrypoint):
    """Writes the image `name` to `path`. `files`: path inside -> a file outside, or its bytes."""
    layer = _layer({**ACCOUNTS, **files})
    platform = {"architecture": "amd64", "os": "linux"}
    blobs = {}
    config = _blob(blobs, "config", {
        **platform, "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}})
    manifest = _blob(blobs, "manifest", {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **_held(blobs, layer)}]})
    index = {"schemaVersion": 2, "manifests": [
        {**manifest, "platform": platform, "annotations": {"io.containerd.image.name": name}}]}
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644)
        _add(archive, "index.json", json.dumps(index).encode(), 0o644)
        for digest, content in blobs.items():
            _add(archive, "blobs/" + digest.replace(":", "/"), content, 0o644)


def program(binary, inside):
    """The files that a dynamically linked program needs: itself, as `inside`, its libraries and its loader."""
    listed = subprocess.run(["ldd", binary], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {inside: binary, **{library: pathlib.Path(library) for library in re.findall(r"(/\S+) \(0x", listed)}}


def _layer(files):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        made = {"/", "/tmp"}
        _add(archive, "tmp", None, 0o1777)
        for inside, content in sorted(files.items()):
            for parent in reversed(pathlib.PurePosixPath(inside).parents):
                if str(parent) not in made:
                    made.add(str(parent))
                    _add(archive, str(parent)[1:], None, 0o755)
            _add(archive, inside[1:], content if isinstance(content, bytes) else content.read_bytes(), 0o755)
    return held.getvalue()


def _add(archive, name, content, mode):
    """A file, or with None a directory."""
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if content is None:
        entry.type = tarfile.DIRTYPE
    else:
        entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content or b""))


def _blob(blobs, kind, value):
    return {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", **_held(blobs, json.dumps(value).encode())}


def _held(blobs, content):
    blobs[_digest(content)] = content
    return {"digest": _digest(content), "size": len(content)}


def _digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()
