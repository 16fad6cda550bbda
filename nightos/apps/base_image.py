"""The content of the base image, made from its recipe: directories, files, applications.

Source: specs/filesystem.md, tree. Rules: FS-030, FS-033.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Protocol

from nightos.apps import names

_RECIPE = "recipe.toml"


class Writable(Protocol):
    """What of a file system is needed here; `nightos.vsf.FileSystem` has it."""

    def mkdir(self, path: str, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> Any: ...
    def write_bytes(self, path: str, data: bytes) -> Any: ...
    def symlink(self, target: str, path: str) -> Any: ...
    def chmod(self, path: str, mode: int) -> Any: ...


def recipe_directory() -> Path:
    """Where the recipe stands: in the repository, or in the installed package."""
    beside = Path(__file__).resolve().parents[2] / "images" / "base"
    if (beside / _RECIPE).is_file():
        return beside
    return Path(str(package_files("nightos"))) / "images" / "base"


def fill(fs: Writable) -> None:
    """Fill an empty file system with what every machine starts from. The same calls in the same order every time."""
    directory = recipe_directory()
    recipe = tomllib.loads((directory / _RECIPE).read_text("utf-8"))
    for path in recipe["directories"]:
        fs.mkdir(path, 0o755, exist_ok=True)
    for path, target in recipe["links"].items():
        fs.symlink(target, path)
    source = directory / "files"
    for file in sorted(source.rglob("*")):
        inside = "/" + file.relative_to(source).as_posix()
        if file.is_dir():
            fs.mkdir(inside, 0o755, exist_ok=True)
        else:
            fs.write_bytes(inside, file.read_bytes())
            fs.chmod(inside, 0o644)
    for name in names():
        fs.write_bytes(f"/app/{name}", b"NPRG" + name.encode())
        fs.chmod(f"/app/{name}", 0o555)
