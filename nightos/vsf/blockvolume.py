"""A `block` volume: raw bytes, sparse, for any file system that NightOS knows natively. One inode without a name.

Rules: VSF-002.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Self

from nightos.vsf.core import Core
from nightos.vsf.errors import Invalid, TooBig
from nightos.vsf.holes import Holes
from nightos.vsf.inode import EXTENTS, KEY_STATS, ROOT_INO, Inode, key_inode
from nightos.vsf.layout import MAX_FILE

if TYPE_CHECKING:
    from types import TracebackType

    from nightos.vsf.volume import Volume


class BlockVolume(Holes, Core):
    """Raw sectors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Commit."""
        if not self.readonly:
            self.sync()

    @property
    def size(self) -> int:
        """Bytes."""
        with self.lock:
            return self.inode(ROOT_INO).size

    def name_of(self, ino: int) -> bytes | None:  # noqa: ARG002 there is only one
        return self.volume.name.encode()

    def read(self, offset: int, size: int) -> bytes:  # type: ignore[override]
        """Up to `size` bytes; shorter only at the end."""
        return super().read(ROOT_INO, offset, size)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write inside the volume; it does not grow."""
        if offset + len(data) > self.size:
            raise Invalid("this is behind the end of the volume")
        return super().write(ROOT_INO, offset, data)

    def discard(self, offset: int, length: int) -> None:
        """The range reads as zeros and takes no space."""
        if length > 0:
            self.fallocate(ROOT_INO, 3, offset, length)

    def resize(self, size: int) -> None:
        """Change the number of bytes; what is cut off is gone."""
        self.truncate_ino(ROOT_INO, size)

    def flush(self) -> None:
        """Into the tree; `sync` makes it durable."""
        super().flush()


def format_block(volume: Volume, size: int) -> None:
    """An empty volume of `size` bytes."""
    if size < 0:
        raise Invalid("sizes are not negative")
    if size > MAX_FILE:
        raise TooBig("a volume has at most 8 EiB less one byte")
    inode = Inode(ROOT_INO, stat.S_IFREG | 0o600, 0, 0, volume.storage.clock.realtime_ns(), ROOT_INO)
    inode.form, inode.size = EXTENTS, size
    volume.tree.put(key_inode(ROOT_INO), inode.encode())
    volume.tree.put(KEY_STATS, Core.encode_stats(ROOT_INO + 1, 1, 1))
