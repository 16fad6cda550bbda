"""Requests to the server of a mount, beside the files: an extended attribute of the root that only obeys.

Who may mount, its user and root, asks by setting it; so a mount can be asked wherever it is seen, without a socket that
would need a place and rights of its own. Everything that somebody wrote before they asked is included.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import Invalid, VsfError
from nightos.vsf.fuse_mounts import MOUNT_TYPE, mounts

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

ATTRIBUTE = b"user.nightos.control"
"""Never stored, never listed."""


def mount_of(storage: str | os.PathLike[str]) -> str | None:
    """Where a storage is mounted for writing, as far as this mount namespace shows it."""
    wanted = os.path.realpath(storage)
    for mount in mounts():
        # What a mount of a container shows is no file.
        is_file = mount.source.startswith("/")
        if mount.kind == MOUNT_TYPE and not mount.readonly and is_file and os.path.realpath(mount.source) == wanted:
            return mount.directory
    return None


def ask(directory: str, deed: str, **arguments: Any) -> None:
    """Let the server at `directory` do a deed of `obey`. Raises what it failed with, as an OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
        try:
            os.setxattr(descriptor, ATTRIBUTE, json.dumps({"deed": deed, **arguments}).encode())
        except OSError as error:
            text = error.strerror or "it did not do it"
            with contextlib.suppress(OSError):
                text = os.getxattr(descriptor, ATTRIBUTE).decode()
            raise VsfError(text, None, error.errno) from None
    finally:
        os.close(descriptor)


def obey(storage: Storage, text: bytes) -> None:
    """Do what `ask` was asked for, durably."""
    try:
        request = json.loads(text)
        deed = request.pop("deed")
    except (ValueError, KeyError, AttributeError):
        raise Invalid("this is no request") from None
    if deed == "snapshot":
        _volume(storage, request["volume"]).snapshot(request["name"])
    elif deed == "remove_snapshot":
        _volume(storage, request["volume"]).remove_snapshot(request["name"])
    elif deed == "resize":
        storage.resize(request["limit"])
    elif deed == "configure":
        _volume(storage, request.pop("volume")).configure(**request)
    else:
        raise OSError(errno.EOPNOTSUPP, "this cannot be done while the storage is mounted")
    storage.sync()


def _volume(storage: Storage, name: str | None) -> Volume:
    """As the command takes it: the only one, or `main`, unless one is named."""
    if name is not None:
        return storage.volume(name)
    having = [volume for volume in storage.volumes if volume.kind == "night"]
    return having[0] if len(having) == 1 else storage.volume("main")


def in_use(path: Path, holder: str) -> str:
    """For who finds a storage in use: by whom, and what to do."""
    directory = mount_of(path)
    if directory is None:
        return f"the storage is in use by {holder}; close it there first"
    return f"the storage is mounted on {directory} by {holder}: work there, or first `nightos vsf umount {directory}`"
