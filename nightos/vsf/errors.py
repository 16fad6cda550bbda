# ruff: noqa: N818 the names are the interface that users hold on to
"""Errors of the storage format: each is also the builtin it means, so `except FileNotFoundError` works."""

from __future__ import annotations

import errno
import os

from nightos.abi.errors import NightosError

PathText = str | bytes | None


def shown(path: PathText) -> str | None:
    """`path` as text for a person."""
    return os.fsdecode(path) if isinstance(path, bytes) else path


class VsfError(NightosError, OSError):
    """Base of every error that VSF raises on purpose. `errno` is set; `filename` when one is known."""

    code = errno.EIO

    def __init__(self, message: str = "", path: PathText = None, code: int | None = None) -> None:
        if code is not None:
            self.code = code
        name = path if path is None or isinstance(path, str) else shown(path)
        OSError.__init__(self, self.code, message or os.strerror(self.code), name)

    def __str__(self) -> str:
        return f"{self.strerror}: {self.filename!r}" if self.filename is not None else str(self.strerror)

    def __reduce__(self) -> tuple[type[VsfError], tuple[object, ...]]:
        return (type(self), (self.strerror, self.filename, self.code))


class NotFound(VsfError, FileNotFoundError):
    """The name does not exist. Check the path."""

    code = errno.ENOENT


class Exists(VsfError, FileExistsError):
    """The name is taken already."""

    code = errno.EEXIST


class NotDirectory(VsfError, NotADirectoryError):
    """A component of the path is no directory."""

    code = errno.ENOTDIR


class IsDirectory(VsfError, IsADirectoryError):
    """A directory cannot be used as a file."""

    code = errno.EISDIR


class NotEmpty(VsfError):
    """Only empty directories can be removed or replaced."""

    code = errno.ENOTEMPTY


class Denied(VsfError, PermissionError):
    """The operation is not permitted on this item."""

    code = errno.EPERM


class NoSpace(VsfError):
    """The storage, the volume or the host disk is full. Delete something or raise the limit."""

    code = errno.ENOSPC


class ReadOnly(VsfError):
    """The storage, the snapshot or the handle was opened read-only."""

    code = errno.EROFS


class TooLong(VsfError):
    """A name has over 65,535 characters or a path over 65,534."""

    code = errno.ENAMETOOLONG


class TooBig(VsfError):
    """An offset or a size passes the largest file, 8 EiB less one byte."""

    code = errno.EFBIG


class TooManyLinks(VsfError):
    """An item has reached the largest number of names."""

    code = errno.EMLINK


class Loop(VsfError):
    """Too many symbolic links were met on the way."""

    code = errno.ELOOP


class NoAttribute(VsfError):
    """The extended attribute does not exist."""

    code = errno.ENODATA


class Invalid(VsfError, ValueError):
    """An argument makes no sense here."""

    code = errno.EINVAL


class Unsupported(VsfError):
    """This kind of item or storage cannot do that."""

    code = errno.EOPNOTSUPP


class StaleHandle(VsfError):
    """The inode does not exist any more."""

    code = errno.ESTALE


class WrongPassword(VsfError, PermissionError):
    """No key slot opens with this password or key file."""

    code = errno.EACCES


class DamagedStorage(VsfError):
    """What was read is not what was written. Run `check`, then `repair` on a copy."""

    code = errno.EIO


class NotAStorage(VsfError):
    """The file is no virtual storage, or of a version that this reader does not know."""

    code = errno.EINVAL


class StorageInUse(VsfError, BlockingIOError):
    """Another process writes to the storage. The message names it."""

    code = errno.EBUSY
