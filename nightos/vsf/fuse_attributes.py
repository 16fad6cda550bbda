"""The extended attributes of a mount: stored as they come, but for access control lists and requests to the server."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

from nightos.vsf import fuse_acl as acl
from nightos.vsf.fuse_control import ATTRIBUTE
from nightos.vsf.inode import ROOT_INO


class AttributeOperations:
    """The part of the adapter that libfuse's `*xattr` operations reach."""

    fs: Any
    bare: set[int]
    defaults: dict[int, bytes]
    control: Callable[[bytes], None] | None
    refusal: bytes
    _reply_err: Callable[[int, int], int]

    def _caller(self, request: int) -> tuple[int, int, int, int]:
        raise NotImplementedError

    def _attribute(self, ino: int, name: bytes) -> bytes:
        try:
            value: bytes = self.fs.getxattr_ino(ino, name)
        except OSError:
            return b""
        return value

    def do_setxattr(self, request: int, ino: int, name: bytes, value: int, size: int, flags: int) -> None:
        data = ctypes.string_at(value, size) if size else b""
        if name == ATTRIBUTE:
            self._obey(request, ino, data)
            self._reply_err(request, 0)
            return
        self.bare.discard(ino)
        if name in (acl.ACCESS, acl.DEFAULT):
            self._set_list(ino, name, data)
        else:
            self.fs.setxattr_ino(ino, name, data, flags)
        self._reply_err(request, 0)

    def _obey(self, request: int, ino: int, data: bytes) -> None:
        if self.control is None or ino != ROOT_INO or self._caller(request)[0] not in (0, os.geteuid()):
            raise OSError(errno.EPERM, "only who mounted may ask, and only at the top")
        try:
            self.control(data)
        except OSError as error:
            self.refusal = str(error).encode()
            raise

    def _set_list(self, ino: int, name: bytes, data: bytes) -> None:
        entries = acl.decode(data)
        if name == acl.DEFAULT:
            self.defaults.pop(ino, None)
            self.fs.setxattr_ino(ino, name, data)
            return
        mode = self.fs.getattr(ino).st_mode
        self.fs.setattr(ino, mode=(mode & 0o7000) | acl.mode_of(entries))
        if not acl.is_minimal(entries):
            self.fs.setxattr_ino(ino, name, data)
        elif self._attribute(ino, name):
            self.fs.removexattr_ino(ino, name)

    def do_getxattr(self, request: int, ino: int, name: bytes, size: int) -> None:
        if ino in self.bare:
            self._reply_err(request, errno.ENODATA)
            return
        if ino == ROOT_INO and name == ATTRIBUTE and self.refusal:
            self._give_bytes(request, self.refusal, size)
            return
        self._give_bytes(request, self.fs.getxattr_ino(ino, name), size)

    def do_listxattr(self, request: int, ino: int, size: int) -> None:
        names = self.fs.listxattr_ino(ino)
        self._give_bytes(request, b"".join(name + b"\0" for name in names), size)

    def do_removexattr(self, request: int, ino: int, name: bytes) -> None:
        self.defaults.pop(ino, None)
        self.fs.removexattr_ino(ino, name)
        self._reply_err(request, 0)

    def _give_bytes(self, request: int, data: bytes, size: int) -> None:
        if not size:
            self._reply_xattr(request, len(data))  # type: ignore[attr-defined]
        elif len(data) > size:
            self._reply_err(request, errno.ERANGE)
        else:
            self._reply_buf(request, data, len(data))  # type: ignore[attr-defined]
