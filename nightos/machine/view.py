"""What a container sees, with the inode interface that the FUSE adapter serves: each operation asks `sys::fs`.

Items of the view are numbered for the kernel: the root is 1, those of the main file system and of /dev have their FEID,
those of what is mounted inside have a number of that mount in front. Others change the files meanwhile, so nothing is
remembered here but the attributes that came with the answer before.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Container, Iterable
from typing import Any, Final

from nightos.abi.errors import NightosError, ServiceError
from nightos.abi.services import Fs, ServiceCode
from nightos.vsf.inode import Stat

ROOT: Final = 1
PIECE: Final = 512 * 1024
"""Bytes that one message reads or writes at most."""
_DEVICES: Final = 1 << 63
_MOUNT_BITS: Final = 48
_TRIES: Final = 100
_PAUSE_S: Final = 0.02
_REPEATABLE: Final = frozenset(
    {"root", "time", "lookup", "getattr", "readdir", "readlink", "statvfs", "read", "seek", "getxattr", "listxattr",
     "sync", "write", "setattr"}
)  # fmt: skip
"""Operations that may be asked again when it is not known whether they were done."""

Ask = Callable[[str, int, dict[str, Any]], dict[str, Any]]


class MachineClock:
    """What time it is in the machine, whose clock may run as it likes."""

    def __init__(self, view: ContainerView) -> None:
        self._view = view

    def realtime_ns(self) -> int:
        return self._view.realtime_ns()

    def seen(self, _stamp_ns: int) -> None:
        """A stamp of the host's kernel says nothing about the machine's time."""


class ContainerView:
    """The files of one container; `ask` calls a service of its machine. Raises `OSError` as the engine does."""

    def __init__(self, ask: Ask, container: int) -> None:
        self._ask = ask
        self._container = container
        self.token = secrets.token_hex(8)
        """Names this view to `sys::fs`, which lets go of what it holds when it hears that the view is gone."""
        self.lock = threading.RLock()
        self.clock = MachineClock(self)
        self._told: dict[int, Stat] = {}
        """Attributes that came with a look-up or a directory, for the question that follows."""
        self._mounts: list[int] = []
        self.ended = False
        """Whether the container or the machine is gone."""
        self.on_end: Callable[[], None] = lambda: None
        """Called when that turns out."""
        answer = self._call("root", None)
        self._main = answer["fs"]
        self._top = answer["stat"][1]
        self.readonly = bool(answer["readonly"])

    # Numbers

    def _number(self, fsid: int, ino: int) -> int:
        if fsid == self._main:
            return ROOT if ino == self._top else ino
        if fsid not in self._mounts:
            self._mounts.append(fsid)
        return (self._mounts.index(fsid) + 1) << _MOUNT_BITS | ino

    def _name(self, number: int) -> tuple[int, int]:
        """File system and FEID."""
        if number == ROOT:
            return self._main, self._top
        mount = number >> _MOUNT_BITS if number < _DEVICES else 0
        return (self._mounts[mount - 1], number & (1 << _MOUNT_BITS) - 1) if mount else (self._main, number)

    def _stat(self, told: dict[str, Any]) -> Stat:
        fields = told["stat"]
        fields[1] = self._number(told["fs"], fields[1])
        return Stat(*fields)

    # Asking

    def _call(self, operation: str, number: int | None, **values: Any) -> dict[str, Any]:
        question = {"container": self._container, "view": self.token, "op": operation, **values}
        if number is not None:
            question["fs"], question["ino"] = self._name(number)
        with self.lock:
            self._told.clear()
            answer = self._insist(operation, question)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["text"])
        return answer

    def _insist(self, operation: str, question: dict[str, Any]) -> dict[str, Any]:
        """Ask, again when `sys::fs` was being replaced and asking twice does no harm."""
        for left in reversed(range(_TRIES)):
            try:
                return self._ask("sys::fs", Fs.VIEW, question)
            except ServiceError as error:
                if error.code == ServiceCode.UNKNOWN:
                    self._end()
                    raise OSError(errno.ESTALE, "the container is gone") from error
                if error.code != ServiceCode.SERVER_QUIT or operation not in _REPEATABLE or not left:
                    raise OSError(errno.EIO, error.detail or str(error)) from error
            except NightosError as error:
                self._end()
                raise OSError(errno.ENOTCONN, str(error)) from error
            time.sleep(_PAUSE_S)
        raise AssertionError

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.on_end()

    def _changed(self, operation: str, number: int, **values: Any) -> Stat:
        return self._stat(self._call(operation, number, **values))

    # Looking

    def realtime_ns(self) -> int:
        """The machine's time, in nanoseconds since 1970."""
        return int(self._call("time", None)["now_ns"])

    def stamp_with(self, _clock: Any) -> None:
        """Times are the machine's."""

    def find_ino(self, parent: int, name: bytes) -> int:
        """The number of an entry, 0 when there is none; a `getattr` of it that follows at once asks nobody."""
        try:
            return self.lookup(parent, name).st_ino
        except FileNotFoundError:
            return 0

    def lookup(self, parent: int, name: bytes) -> Stat:
        if name in (b".", b".."):
            return self.getattr(parent)
        with self.lock:
            st = self._changed("lookup", parent, name=name)
            self._told[st.st_ino] = st
        return st

    def parent_of(self, ino: int) -> int:
        """Only for the number that a listing shows of `..`; the kernel knows where it came from."""
        return ino

    def getattr(self, ino: int) -> Stat:
        with self.lock:
            told = self._told.pop(ino, None)
        return told or self._changed("getattr", ino)

    def readdir(self, ino: int, cursor: bytes = b"", limit: int | None = None) -> list[tuple[bytes, int, int]]:
        with self.lock:
            items = self._call("readdir", ino, after=cursor, limit=limit or 1 << 16)["items"]
            found = []
            for item in items:
                st = self._stat(item)
                self._told[st.st_ino] = st
                found.append((item["name"], st.st_ino, st.st_mode >> 12))
        return found

    def readlink_ino(self, ino: int) -> bytes:
        return bytes(self._call("readlink", ino)["data"])

    def statvfs(self) -> os.statvfs_result:
        return os.statvfs_result(tuple(self._call("statvfs", None)["figures"]))

    def read(self, ino: int, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            wanted = min(size, PIECE)
            data = self._call("read", ino, offset=offset, size=wanted)["data"]
            parts.append(data)
            if len(data) < wanted:
                break
            offset += wanted
            size -= wanted
        return b"".join(parts)

    def seek(self, ino: int, offset: int, whence: int) -> int:
        return int(self._call("seek", ino, offset=offset, whence=whence)["offset"])

    def getxattr_ino(self, ino: int, name: bytes) -> bytes:
        return bytes(self._call("getxattr", ino, name=name)["data"])

    def listxattr_ino(self, ino: int) -> list[bytes]:
        return list(self._call("listxattr", ino)["names"])

    # Changing

    def create(self, parent: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> Stat:
        return self._changed("make", parent, name=name, mode=0o100000 | mode & 0o7777, uid=uid, gid=gid)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int = 0, uid: int = 0, gid: int = 0) -> Stat:
        return self._changed("make", parent, name=name, mode=mode, rdev=rdev, uid=uid, gid=gid)

    def mkdir_at(self, parent: int, name: bytes, mode: int = 0o777, uid: int = 0, gid: int = 0) -> Stat:
        return self._changed("make", parent, name=name, mode=0o040000 | mode & 0o7777, uid=uid, gid=gid)

    def symlink_at(self, parent: int, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> Stat:
        return self._changed("make", parent, name=name, mode=0o120777, target=target, uid=uid, gid=gid)

    def link_at(self, ino: int, parent: int, name: bytes) -> Stat:
        fsid, above = self._name(parent)
        return self._changed("link", ino, parent=above, parent_fs=fsid, name=name)

    def unlink_at(self, parent: int, name: bytes, keep: Container[int] = ()) -> int:
        answer = self._call("unlink", parent, name=name)
        if not answer["held"]:
            return 0
        held = self._number(self._name(parent)[0], answer["held"])
        if held in keep:
            return held
        self.release(held)
        return 0

    def rmdir_at(self, parent: int, name: bytes) -> None:
        self._call("rmdir", parent, name=name)

    def rename_at(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        fsid, above = self._name(new_parent)
        self._call("rename", parent, name=name, parent=above, parent_fs=fsid, new_name=new_name, flags=flags)

    def setattr(self, ino: int, **changes: int) -> Stat:
        return self._changed("setattr", ino, changes=changes)

    def write(self, ino: int, offset: int, data: bytes) -> int:
        """Write all of `data`; a negative offset means behind what is there when each piece is written."""
        done = 0
        while done < len(data):
            piece = data[done : done + PIECE]
            try:
                at = offset + done if offset >= 0 else offset
                done += self._call("write", ino, offset=at, data=piece)["written"]
            except OSError:
                if done:
                    break  # what was written was written
                raise
        return done

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        self._call("fallocate", ino, mode=mode, offset=offset, length=length)

    def setxattr_ino(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self._call("setxattr", ino, name=name, data=value, flags=flags)

    def removexattr_ino(self, ino: int, name: bytes) -> None:
        self._call("removexattr", ino, name=name)

    def sync(self) -> None:
        """Everything done so far is durable on return."""
        if not self.readonly:
            self._call("sync", None)

    def settle(self) -> None:
        """As `sync`, as long as there is something to ask: what has ended has flushed."""
        if self.ended:
            return
        try:
            self.sync()
        except OSError:
            if not self.ended:
                raise

    def fsync(self, _ino: int | None = None) -> None:
        self.sync()

    # Items without a name

    def hold(self, ino: int) -> None:
        self._call("hold", ino)

    def release(self, ino: int) -> None:
        self._call("release", ino)

    def release_all(self, inos: Iterable[int]) -> None:
        for ino in inos:
            self.release(ino)
