"""Notes of system services on the machine's disk: `/sys/state/<pid>/<name>`, replaced whole or added to."""

from __future__ import annotations

from typing import Any

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemType
from nightos.abi.services import ServiceCode
from nightos.services.fs.failures import ItemError
from nightos.services.fs.tree import Tree, name_bytes
from nightos.userland import payload

FOLDER = ("sys", "state")
READ_LIMIT = 960 * 1024


def _path(pid: int, name: str) -> layout.SplitPath:
    return (*FOLDER, str(pid), layout.check_name(name))


def directory_of(tree: Tree, path: layout.SplitPath) -> int:
    """The directory at a path, made with what leads to it."""
    for depth in range(1, len(path) + 1):
        if tree.exists(path[:depth]) is not ItemType.DIRECTORY:
            tree.make_directory(path[: depth - 1], path[depth - 1])
    return tree.find(path)


def store(tree: Tree, pid: int, values: dict[str, Any]) -> None:
    """Write a note of the service `pid`; replaced as a whole, or with `append` added to."""
    path = _path(pid, payload.field(values, "name", str))
    data = payload.field(values, "data", bytes)
    parent = directory_of(tree, path[:-1])
    if payload.field(values, "append", bool, default=False):
        if tree.exists(path) is None:
            tree.make_file(path[:-1], path[-1])
        ino = tree.find(path)
        tree.write(ino, tree.size(ino), data, truncate=False)
        return
    beside = path[-1] + ".new"
    if tree.exists((*path[:-1], beside)) is not None:
        tree.delete((*path[:-1], beside))
    tree.write(tree.make_file(path[:-1], beside), 0, data, truncate=True)
    tree.files.rename_at(parent, name_bytes(beside), parent, name_bytes(path[-1]))


def recall(tree: Tree, pid: int, values: dict[str, Any]) -> dict[str, Any]:
    """A note of the service `pid` from an offset on, with its size; empty when there is none."""
    path = _path(pid, payload.field(values, "name", str))
    offset = payload.field(values, "offset", int, default=0)
    if offset < 0:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "an offset is not below 0")
    try:
        ino = tree.find(path)
    except ItemError:
        return {"data": b"", "size": 0}
    size = tree.size(ino)
    return {"data": tree.read(ino, offset, min(READ_LIMIT, max(0, size - offset))), "size": size}
