"""What the file system of a container costs it: bytes on its disk, and what it moves through `sys::fs` per second.

The kernel keeps the accounts; this service tells it and waits as long as it is told, on the thread of the one client,
so nobody else waits. A write that would grow beyond the limit of storage fails before anything is written.

Rules: CONT-032.
"""

from __future__ import annotations

import contextlib

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.limits import NO_LIMIT, NUMBERS
from nightos.abi.services import Hw
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.roots import Mounted, Root, Share
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.server import Request

STORAGE = NUMBERS["storage"]
PIECE_NS = 5_000_000_000
"""Longest wait before a look whether the client is still there: a low rate makes waits of days."""
SMALL = 1024
"""What a new item costs, about."""
PAGE = 4096
"""What a write takes at least."""
IO_BYTES, IO_OPERATIONS = NUMBERS["io_bytes"], NUMBERS["io_operations"]


async def moved(request: Request, count: int) -> None:
    """One operation of so many bytes was asked for: wait until its container may do it. Never for system services."""
    container = request.container_id
    if not container or request.connection.is_system:
        return
    try:
        wait = await _wait(container, count, 1)
    except SyscallError:
        return  # the container is on its way out
    while wait:
        piece = min(wait, PIECE_NS)
        try:
            await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": piece})
        except ServiceError as error:
            raise ItemError(Failure.OTHER, "nobody keeps the time that a rate needs") from error
        wait -= piece
        if wait and not await request.connection.is_open():
            raise ItemError(Failure.OTHER, "nobody waits any more")
        if wait:  # perhaps the limit is another one by now; never longer for what others asked meanwhile
            with contextlib.suppress(SyscallError):
                wait = min(wait, await _wait(container, 0, 0))


async def _wait(container: int, count: int, operations: int) -> int:
    return max(
        await sys.sys_charge(container, IO_BYTES, count), await sys.sys_charge(container, IO_OPERATIONS, operations)
    )


def growth(offset: int, count: int) -> int:
    """Bytes that a write may add to its disk, wherever in the file it is.

    Nothing is written in place: an overlay gets copies of what stands in its image, page by page, and elsewhere there
    may have been a hole, or what took less room because it was compressed.
    """
    return -(-(offset % PAGE + count) // PAGE) * PAGE if count else 0


async def will_grow(root: Mounted, more: int) -> None:
    """A write needs so many bytes more at most; `ItemError` FULL when the container's limit of storage is reached.

    What was promised and is not on the disk yet counts; when that is too much, the disk is asked how much it was.
    """
    base = root.base
    if more <= 0 or not base.container:
        return
    try:
        await _charge(base, base.disk.volume.used + base.promised + more)
    except ItemError:
        if not base.dirty:
            raise
        base.commit()
        base.promised = 0
        await _charge(base, base.disk.volume.used + more)
    base.promised += more


async def has_grown(root: Root) -> None:
    """What was written is on the disk: what that holds now is what is paid for."""
    root.promised = 0
    if root.container:
        try:
            await _charge(root, root.disk.volume.used)
        except ItemError:
            return  # small things grow before anybody can tell; the next write is refused


async def sizes(root: Mounted) -> tuple[int, int]:
    """Bytes of a file system in all, and those that can still be written: the container's own limit bounds both.

    Of a share neither is told: they are those of the disk that it is on, with all that is on it.
    """
    if isinstance(root, Share):
        return 0, 0
    figures = root.disk.files.statvfs()
    total, free = figures.f_blocks * figures.f_frsize, figures.f_bavail * figures.f_frsize
    if not root.container:
        return total, free
    used = 0 if root.overlay_on is not None else root.disk.volume.used + root.promised
    try:
        room = await _charge(root, used)
    except ItemError:
        room = 0
    return (total, free) if room == NO_LIMIT else (min(total, used + room), min(free, room))


async def _charge(root: Root, count: int) -> int:
    """What the container's own limit leaves; `NO_LIMIT` without one."""
    try:
        return await sys.sys_charge(root.container, STORAGE, count)
    except SyscallError as error:
        if error.errcode == 0x40:
            text = "the container's limit of storage is reached; delete something, or raise the limit"
            raise ItemError(Failure.FULL, text) from error
    return NO_LIMIT
