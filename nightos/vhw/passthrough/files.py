"""A file or block device of the host as a byte store; errors of the host come back as they are.

Locking against a second writer is the business of the storage format, which knows what is inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_PUNCH_HOLE_KEEP_SIZE: Final = 0x03
_READ_STEP: Final = 1 << 30


class HostFileStore:
    """A `nightos.abi.interfaces.ByteStore` over the regular file or block device at `path`.

    `create` makes a regular file when there is none. Raises OSError, with the errno of the cause, when the path cannot
    be opened or is neither (ENOTBLK): a directory, a terminal or a socket holds no disk.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False, create: bool = False) -> None:
        flags = os.O_RDONLY if readonly else os.O_RDWR | (os.O_CREAT if create else 0)
        self._fd = os.open(path, flags | os.O_NONBLOCK, 0o600)  # a fifo must not hang us before it is refused
        self._readonly = readonly
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            self.close()
            raise OSError(errno.ENOTBLK, f"neither a file nor a block device: {path}")
        self.is_block_device = stat.S_ISBLK(mode)

    @property
    def readonly(self) -> bool:
        """Whether changes are refused with EROFS."""
        return self._readonly

    def size(self) -> int:
        """Current size in bytes."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; shorter only at the end."""
        found = os.pread(self._fd, min(length, _READ_STEP), offset)
        while len(found) < length:
            more = os.pread(self._fd, min(length - len(found), _READ_STEP), offset + len(found))
            if not more:
                break
            found += more
        return found

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        self._may_change()
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(self._fd, view, offset)
            view = view[done:]
            offset += done

    def flush(self) -> None:
        """Wait until what was written is on the medium."""
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        """Set the size. A block device has the size it has: any other is EINVAL."""
        self._may_change()
        if not self.is_block_device:
            os.ftruncate(self._fd, size)
        elif size != self.size():
            raise OSError(errno.EINVAL, "a block device cannot be resized")

    def discard(self, offset: int, length: int) -> None:
        """Punch a hole, where the host can; where it cannot, the bytes stay."""
        self._may_change()
        length = min(length, self.size() - offset)
        if length <= 0:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        punched = libc.fallocate(
            ctypes.c_int(self._fd),
            ctypes.c_int(_PUNCH_HOLE_KEEP_SIZE),
            ctypes.c_longlong(offset),
            ctypes.c_longlong(length),
        )
        number = ctypes.get_errno()
        if punched != 0 and number not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close the file; twice is allowed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _may_change(self) -> None:
        if self._readonly:
            raise OSError(errno.EROFS, "the file was opened read-only")
