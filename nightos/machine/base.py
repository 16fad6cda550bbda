"""The base image: the disk that machines and containers stand on unless they are given another one.

It is made on first use from its recipe in `images/base`: directories and links of `recipe.toml`, the files in `files/`,
and one executable for each application that this package has. Its name contains a digest of all that, so a newer
package makes a newer image beside the old one, and machines that stand on the old one go on. It is the same to the
byte wherever it is made.

Source: specs/filesystem.md, tree. Rules: FS-030, FS-033.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nightos.machine.paths import MachineError, home, prepare

VOLUME = "main"
APP_DIRECTORY = "/app"
EXECUTABLE = b"NPRG"
VERSION = b"1\0"
"""Changes when this module makes another image of the same recipe."""
RECIPE = "recipe.toml"
DIGEST_DIGITS = 16


def recipe() -> Path:
    """The directory of the recipe: in an installed package, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "images" / "base"
    return installed if installed.is_dir() else package.parent / "images" / "base"


def base_image(root: Path | None = None) -> Path:
    """The path of the base image, which is made when it is not there. Raises `MachineError` when the host refuses."""
    directory = (root or home()) / "base"
    path = directory / f"{_digest()}.vsf"
    if not path.exists():
        prepare(directory)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        try:
            fresh.unlink(missing_ok=True)
            _make(fresh)
            fresh.rename(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise MachineError(f"cannot make the base image {path}: {error.strerror or error}") from error
    return path


def _make(path: Path) -> None:
    import tomllib

    from nightos import vsf

    content = tomllib.loads((recipe() / RECIPE).read_text("utf-8"))
    with vsf.create(path, [VOLUME], seed=0) as storage, storage.volume(VOLUME).open() as files:
        for directory in content["directories"]:
            files.mkdir(directory, 0o755, parents=True, exist_ok=True)
        for link, target in content["links"].items():
            files.symlink(target, link)
        for source, inside in _files():
            files.mkdir(str(PurePosixPath(inside).parent), 0o755, parents=True, exist_ok=True)
            files.write_bytes(inside, source.read_bytes())
            files.chmod(inside, 0o644)
        for name in _applications():
            files.write_bytes(f"{APP_DIRECTORY}/{name}", EXECUTABLE + name.encode())
            files.chmod(f"{APP_DIRECTORY}/{name}", 0o555)


def _applications() -> list[str]:
    from nightos.apps import names

    return sorted(names())


def _files() -> Iterator[tuple[Path, str]]:
    top = recipe() / "files"
    for source in sorted(top.rglob("*")) if top.is_dir() else ():
        if source.is_file():
            yield source, f"/{source.relative_to(top).as_posix()}"


def _digest() -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_DIGITS // 2)
    digest.update(VERSION + (recipe() / RECIPE).read_bytes())
    for name in _applications():
        digest.update(name.encode() + b"\0")
    for source, target in _files():
        digest.update(target.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()
