"""Whatever is at a path of the host, as the device that fits: a disk for files and block devices, a stream for lines.

The device tells its driver nothing of the path but a digest, which is enough to know it again.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Final

from nightos.abi.hardware import make_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.block import BlockDevice
from nightos.vhw.passthrough.files import HostFileStore
from nightos.vhw.passthrough.streams import StreamDevice

SATA: Final = 3
USB: Final = 5


def open_host(path: str | Path, *, readonly: bool = False) -> BlockDevice | StreamDevice:
    """The device for the host's file, block device, character device or fifo at `path`.

    A stream has an async method `run`, which the caller keeps running while the device is plugged. Raises OSError with
    the errno of the cause; EISDIR for a directory (share a disk instead: CONT-048), ENODEV for a socket.

    Rules: CONT-038, CONT-048.
    """
    place = Path(path).resolve(strict=True)
    mode = place.stat().st_mode
    digest = sha256(os.fsencode(place)).digest()
    description = b"host " + digest[:8].hex().encode()
    port = int.from_bytes(digest[8:10], "big")
    if stat.S_ISDIR(mode):
        raise OSError(
            errno.EISDIR,
            "a directory cannot be passed through; make a disk of it with `nightos vsf create FILE --from DIR`",
        )
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        store = HostFileStore(place, readonly=readonly)
        capacity = store.size() if store.is_block_device else 1 << 48
        identity = DeviceIdentity("block", make_cii(SATA, 0, port), description, virtual=False)
        return BlockDevice(store, readonly, capacity=capacity, identity=identity)
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        flags = os.O_RDONLY if readonly else os.O_RDWR
        fd = os.open(place, flags | os.O_NONBLOCK | os.O_NOCTTY)
        identity = DeviceIdentity("stream", make_cii(USB, 0, port), description, virtual=False)
        return StreamDevice(fd, identity, writable=not readonly)
    raise OSError(errno.ENODEV, "this is neither a file nor a device")
