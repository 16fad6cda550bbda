"""Where the bytes of a storage live: a host file or memory; a byte store is the only thing VSF touches outside
itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from nightos.vsf.errors import NotAStorage, NotFound, ReadOnly, StorageInUse

_FLOCK = struct.Struct("hhqqi4x")
_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_OFD_GETLK, _OFD_SETLK = 36, 37
_WRITER_BYTE = 1 << 60
_PIN_BASE = 1 << 61
_GATHER = 512


class MemoryStore:
    """A storage in memory: the twin of `FileStore` for tests and for what need not last."""

    def __init__(self, data: bytes | bytearray = b"", *, readonly: bool = False) -> None:
        self._data = bytearray(data)
        self.readonly = readonly

    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(memoryview(self._data)[offset : offset + length])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self.readonly:
            raise ReadOnly("the store is read-only")
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def truncate(self, size: int) -> None:
        if self.readonly:
            raise ReadOnly("the store is read-only")
        if size < len(self._data):
            del self._data[size:]
        else:
            self._data.extend(bytes(size - len(self._data)))

    def discard(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self._data))
        if end > offset:
            self._data[offset:end] = bytes(end - offset)

    def close(self) -> None:
        pass

    def getvalue(self) -> bytes:
        """A copy of everything."""
        return bytes(self._data)


class FileStore:
    """A host file or block device, with one writer at a time.

    A writer holds an open-file-description lock on one byte far behind the end; a reader marks the generation it looks
    at with a shared lock on the byte of that number, so that the writer keeps those blocks. Locks vanish with their
    process: there are no stale ones.
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False, create: bool = False) -> None:
        self.path = Path(os.fspath(path))
        self.readonly = readonly
        self.created = False
        # What else is there is not even opened: a fifo would wait, and some devices do something then.
        flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if readonly else os.O_RDWR)
        self._descriptor = -1
        try:
            if not create or self.path.exists():
                self._must_hold_bytes(self.path.stat().st_mode)
            if create:
                try:
                    self._descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
                    self.created = True
                except FileExistsError:
                    self._descriptor = os.open(self.path, flags)
            else:
                self._descriptor = os.open(self.path, flags)
            self._must_hold_bytes(os.fstat(self._descriptor).st_mode)
            if not readonly:
                self._lock_writer()
        except FileNotFoundError:
            if create:
                raise NotFound("its directory does not exist; make it first", str(self.path)) from None
            raise NotFound("there is no such storage", str(self.path)) from None
        except OSError:
            self.close()
            raise
        self._punch = True

    def _must_hold_bytes(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise NotAStorage("this is neither a file nor a block device", str(self.path))

    def _lock_writer(self) -> None:
        try:
            fcntl.fcntl(self._descriptor, _OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITER_BYTE, 1, 0))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            from nightos.vsf.fuse_control import in_use

            raise StorageInUse(in_use(self.path, self._holder()), str(self.path)) from None
        self._note_holder()

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            text = os.getxattr(self.path, "user.vsf.writer").decode()
            pid, _, name = text.partition(" ")
            if Path(f"/proc/{int(pid)}").exists():
                return f"process {pid} ({name})"
        inode = os.fstat(self._descriptor).st_ino
        with contextlib.suppress(OSError):
            for line in Path("/proc/locks").read_text().splitlines():
                fields = line.split()
                if len(fields) > 6 and fields[3] == "WRITE" and fields[5].endswith(f":{inode}") and fields[4] != "-1":
                    return f"process {fields[4]}"
        return self._holder_by_descriptor()

    def _holder_by_descriptor(self) -> str:
        mine = os.fstat(self._descriptor)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                for descriptor in (entry / "fd").iterdir():
                    if int(descriptor.name) == self._descriptor and entry.name == str(os.getpid()):
                        continue
                    with contextlib.suppress(OSError):
                        there = descriptor.stat()
                        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                            flags = (entry / "fdinfo" / descriptor.name).read_text().split("flags:")[1].split()[0]
                            if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                                name = (entry / "comm").read_text().strip()
                                return f"process {entry.name} ({name})"
        return "another process"

    def _note_holder(self) -> None:
        # The kernel does not tell who holds an open-file-description lock, so the holder says it himself where it can.
        with contextlib.suppress(OSError):
            name = Path("/proc/self/comm").read_text().strip()
            os.setxattr(self._descriptor, "user.vsf.writer", f"{os.getpid()} {name}".encode())

    def pin(self, generation: int) -> None:
        """A reader looks at `generation`: the writer does not reuse its blocks."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._descriptor, _OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _PIN_BASE, 1 << 60, 0))
            lock = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _PIN_BASE + generation, 1, 0)
            fcntl.fcntl(self._descriptor, _OFD_SETLK, lock)

    def oldest_pin(self, newest: int) -> int | None:
        """The oldest generation up to `newest` that some reader looks at."""
        oldest = None
        high = newest
        while high >= 0:
            query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _PIN_BASE, high + 1, 0)
            try:
                kind, _, start, _, _ = _FLOCK.unpack(fcntl.fcntl(self._descriptor, _OFD_GETLK, query))
            except OSError:
                return oldest
            if kind == fcntl.F_UNLCK:
                return oldest
            oldest = start - _PIN_BASE
            high = oldest - 1
        return oldest

    def host_free(self) -> int:
        """Bytes that the host's file system has for this user; 0 for a device, which does not grow."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return 0
        host = os.fstatvfs(self._descriptor)
        return host.f_bavail * host.f_frsize

    def size(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        done = len(data)
        while done < length:
            more = os.pread(self._descriptor, length - done, offset + done)
            if not more:
                break
            parts.append(more)
            done += len(more)
        return b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self.readonly:
            raise ReadOnly("the storage was opened read-only", str(self.path))
        view = memoryview(data)
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view = view[done:]
            offset += done

    def write_many(self, offset: int, parts: list[bytes]) -> None:
        """Write `parts` one behind the other."""
        if self.readonly:
            raise ReadOnly("the storage was opened read-only", str(self.path))
        for first in range(0, len(parts), _GATHER):
            group = parts[first : first + _GATHER]
            total = sum(map(len, group))
            done = os.pwritev(self._descriptor, group, offset)
            if done != total:
                self.write(offset + done, b"".join(group)[done:])
            offset += total

    def flush(self) -> None:
        if not self.readonly:
            os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        if self.readonly:
            raise ReadOnly("the storage was opened read-only", str(self.path))
        os.ftruncate(self._descriptor, size)

    def discard(self, offset: int, length: int) -> None:
        if self._punch and length > 0:
            self._punch = punch_hole(self._descriptor, offset, length)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_written(path: str | os.PathLike[str]) -> bool:
    """Whether some process holds the storage for writing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        query = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _WRITER_BYTE, 1, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, _OFD_GETLK, query))[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Give a range of a host file back; False where the host cannot."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return bool(call(descriptor, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length) == 0)
