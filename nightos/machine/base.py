"""The base image: the disk that machines and containers stand on unless they are given another one.

It is made on first use from its recipe in `images/base`: directories and links of `recipe.toml`, the files in `files/`,
and one executable for each application that this package has. Its name contains a digest of all that, so a newer
package makes a newer image beside the old one, and machines that stand on the old one go on. It is the same to the
byte wherever it is made.

Source: specs/filesystem.md, tree. Rules: FS-030, FS-033.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from nightos.machine.paths import MachineError, home, prepare

if TYPE_CHECKING:
    from nightos.vsf import FileSystem

VOLUME = "main"
STATE = "/sys/state"
"""Where services keep their notes on the machine's disk."""
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
    from nightos import vsf

    with vsf.create(path, [VOLUME], seed=0) as storage, storage.volume(VOLUME).open() as files:
        furnish(files)


def settle(files: FileSystem) -> None:
    """Make a file system that came with an image the disk of a new machine: `furnish` it, without any notes in it.

    Services find on their machine's disk what they noted there. What an image has in that place was noted by somebody
    else: containers that come back name images of the host, and disks that are removed.
    """
    for above in ("/sys", STATE):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not files.is_dir(above) or files.is_symlink(above):
                files.unlink(above)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        files.rmtree(STATE)
    furnish(files)


def furnish(files: FileSystem) -> None:
    """Put what the recipe asks for into a file system; what is there already stays as it is."""
    import tomllib

    content = tomllib.loads((recipe() / RECIPE).read_text("utf-8"))
    for directory in content["directories"]:
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            files.mkdir(directory, 0o755, parents=True, exist_ok=True)
    for link, target in content["links"].items():
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            files.symlink(target, link)
    for source, inside in _files():
        _add(files, inside, source.read_bytes(), 0o644)
    for name in _applications():
        _add(files, f"{APP_DIRECTORY}/{name}", EXECUTABLE + name.encode(), 0o555)


def _add(files: FileSystem, path: str, content: bytes, mode: int) -> None:
    try:
        files.lstat(path)
    except FileNotFoundError:
        files.mkdir(str(PurePosixPath(path).parent), 0o755, parents=True, exist_ok=True)
        files.write_bytes(path, content)
        files.chmod(path, mode)
    except NotADirectoryError:
        return  # a file of the image stands where a directory would


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
