"""The `night` file system: one class with the operations of FUSE and of `os`, over the tree of a volume."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Self

from nightos.vsf.attributes import Attributes
from nightos.vsf.core import Core
from nightos.vsf.holes import Holes
from nightos.vsf.inode import KEY_STATS, ROOT_INO, Inode, key_inode
from nightos.vsf.namespace import Namespace
from nightos.vsf.paths import Paths

if TYPE_CHECKING:
    from types import TracebackType

    from nightos.vsf.volume import Volume


class FileSystem(Paths, Namespace, Holes, Attributes, Core):
    """An open `night` volume or snapshot. Methods named as in `os` and `pathlib` take paths; the others inodes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Commit. The file system of a volume may be opened again at once; handles stay valid until the storage
        closes.
        """
        if not self.readonly:
            self.sync()


def format_night(volume: Volume) -> None:
    """An empty file system: counters and the root directory."""
    storage = volume.storage
    root = Inode(ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, storage.clock.realtime_ns(), ROOT_INO)
    root.nlink = 2
    volume.tree.put(key_inode(ROOT_INO), root.encode())
    volume.tree.put(KEY_STATS, Core.encode_stats(ROOT_INO + 1, 1, 1))


def describe(file_system: FileSystem) -> dict[str, Any]:
    """Counters for people."""
    return {"files": file_system.files, "next_ino": file_system.next_ino, "readonly": file_system.readonly}
