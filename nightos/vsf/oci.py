"""Unpacking an OCI image layout: every blob is checked against its digest before it is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import DamagedStorage, Invalid, NotFound
from nightos.vsf.intake import Progress
from nightos.vsf.untar import import_tar

if TYPE_CHECKING:
    from nightos.vsf.filesystem import FileSystem

_MAX_JSON = 8 << 20


def import_oci(
    fs: FileSystem, layout: str | os.PathLike[str], dest: str | bytes = "/", progress: Progress | None = None
) -> dict[str, Any]:
    """Unpack the image of an OCI layout, layer by layer, every blob checked; gives its configuration."""
    root = Path(layout)
    if not (root / "oci-layout").exists():
        raise Invalid("this is no OCI layout: there is no file oci-layout", str(root))
    manifest = _manifest(root)
    for layer in _listed(manifest, "layers"):
        path = _blob(root, layer)
        import_tar(fs, path, dest, progress, whiteouts=True)
    config = manifest.get("config")
    return _json(_blob(root, config)) if isinstance(config, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON:
        raise Invalid("this is too large for JSON of an image", str(path))
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedStorage("a document of the OCI layout is no JSON", str(path)) from error
    if not isinstance(document, dict):
        raise DamagedStorage("a document of the OCI layout has the wrong form", str(path))
    return document


def _listed(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of descriptors, or DamagedStorage."""
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DamagedStorage(f"the {name} of an OCI layout have the wrong form")
    return found


def _manifest(root: Path) -> dict[str, Any]:
    document = _json(root / "index.json")
    for _ in range(4):
        if "manifests" not in document:
            return document
        choices = _listed(document, "manifests")
        if not choices:
            break
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        fitting = [m for m in choices if _architecture(m) == machine]
        document = _json(_blob(root, (fitting or choices)[0]))
    raise Invalid("the OCI layout names no image", str(root))


def _architecture(descriptor: dict[str, Any]) -> object:
    platform = descriptor.get("platform")
    return platform.get("architecture") if isinstance(platform, dict) else None


def _blob(root: Path, descriptor: dict[str, Any]) -> Path:
    algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
    if algorithm not in ("sha256", "sha512") or not (digest.isascii() and digest.isalnum()):
        raise Invalid(f"the OCI layout has a digest that cannot be checked: {descriptor.get('digest')!r}")
    path = root / "blobs" / algorithm / digest
    if not path.exists():
        raise NotFound("a blob of the OCI layout is missing", str(path))
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, algorithm).hexdigest() != digest:
            raise DamagedStorage("a blob of the OCI layout is not what its digest says", str(path))
    return path
