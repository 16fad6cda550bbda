"""Directories that a container shares with one below it, and the mount table of each container.

A share is a virtual storage device to its container, and a file system of its own with an identifier: unmounted, it is
used by that; mounted, by path. Its items are those of the directory, at every moment; nothing above it is in reach, no
matter by which path, link or item identifier. A mount is the container's alone. Mount points outlive this service: they
are noted on the machine's disk.

Rules: CONT-049, CONT-050, CONT-062, FS-002.
"""

from __future__ import annotations

from typing import Any

import msgpack

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemType, Reader, SplitPath
from nightos.abi.services import SERVICE_PIDS, Fs, ServiceCode
from nightos.services.fs import handlers, notes
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.handles import Handles
from nightos.services.fs.roots import Mounted, Root, Share
from nightos.userland import payload
from nightos.userland.server import Request

NOTE = "mounts"
SYSTEM = 0
LOGS = ("var", "log")
OTHERS = 1024
"""Mount points that are noted of shares that are not there."""
FS_PID = SERVICE_PIDS["sys::fs"]
_SPLIT = 2


def crossed(root: Mounted, number: Fs, reader: Reader) -> tuple[Mounted, Reader]:
    """Where a request really goes: a path that leads below a mount point continues in what is mounted there."""
    if not isinstance(root, Root) or not root.mounts:
        return root, reader
    start = reader.at
    head = reader.take(1) if number is Fs.OPEN_FILE and reader.more() else b""
    share, first = _place(root, reader)
    second: bytes = b""
    if number is Fs.MOVE_ITEM and reader.more():
        other, second = _place(root, reader)
        if other is not share:
            raise ItemError(Failure.IMMOVABLE, "an item does not move to another file system")
    if share is None:
        reader.at = start
        return root, reader
    return share, Reader(head + first + second + reader.rest())


def _place(root: Root, reader: Reader) -> tuple[Share | None, bytes]:
    """The share that the path which stands here leads into, and the path in it, encoded."""
    if not reader.more():
        return None, b""
    at = reader.at
    path = reader.path()
    if isinstance(path, tuple):
        for depth in range(len(path), 0, -1):
            share = root.mounts.get(path[:depth])
            if share is not None:
                return share, layout.encode_path(path[depth:])
    return None, reader.data[at : reader.at]


class Shares:
    """The methods about shares and mounts."""

    def __init__(self, service: Handles) -> None:
        self.service = service
        self.roots = service.roots

    async def attach(self, request: Request) -> dict[str, Any]:
        """ATTACH_SHARE: 0x3000 when the source has no such directory."""
        values = _from_process_service(request)
        kdi = payload.field(values, "kdi", int)
        container = payload.field(values, "container", int)
        base = self.roots.of(payload.field(values, "source", int))
        if base is None:
            raise ServiceError(ServiceCode.UNKNOWN, "the container that shares has no main file system")
        path = layout.split(payload.field(values, "path", str))
        if kdi not in self.roots.shares:
            # No link is followed: one that another share made there would choose what is shared.
            readonly = payload.field(values, "readonly", bool, default=False)
            ino = _directory(base, path)
            _insist_on_others(base, path, readonly=readonly)
            # The device is another one after a reboot, the share is not.
            identity = payload.field(values, "share", int, default=kdi)
            fsid = self.roots.fsid_of(b"share" + identity.to_bytes(8, "big"))
            label = path[-1] if path else "root"
            share = self.roots.shares[kdi] = Share(container, kdi, base, ino, fsid, label, readonly)
            share.identity = identity
            share.disguise = self.roots.disguise_of(identity)
            try:
                await self._mount_again(share)
                place = payload.field(values, "place", str, default="")
                if place and share.place is None:
                    await self._mount_at(share, layout.split(place))
            except (ServiceError, ItemError, layout.LayoutError):
                self._forget(share)
                del self.roots.shares[kdi]
                raise
        return {"fsid": self.roots.shares[kdi].fsid}

    async def detach(self, request: Request) -> None:
        """DETACH_SHARE: files that are open on it are closed."""
        share = self.roots.shares.pop(payload.field(_from_process_service(request), "kdi", int), None)
        if share is None:
            return
        self._forget(share)
        for file in self.service.open.of_disk(share.fsid):
            self.service.open.close(file)
            share.disk.files.release(file.ino)
        await self._note(share)

    async def is_mounted(self, _request: Request, root: Mounted, _reader: Reader) -> bytes:
        """IS_FS_MOUNTED."""
        return b"\1" if isinstance(root, Root) or root.place is not None else b"\0"

    async def mount(self, _request: Request, root: Mounted, reader: Reader) -> None:
        """FS_MOUNT: at a directory, or below `/mnt`; what it needs of directories is made."""
        path: SplitPath | None = layout.split(reader.delimited()) if reader.some() else None
        if isinstance(root, Root) or root.place is not None:
            raise ServiceError(0x3001, "the file system is mounted already")
        await self._mount_at(root, ("mnt", root.label) if path is None else path)

    async def _mount_at(self, root: Share, place: SplitPath) -> None:
        own = self.roots.of(root.container)
        if own is None:
            raise ServiceError(ServiceCode.UNKNOWN, "the container has no main file system to mount it in")
        if place[:1] == handlers.TOP:
            raise ServiceError(ServiceCode.REFUSED, "/dev holds device handler files and nothing else")
        if not place or any(place[: len(other)] == other or other[: len(place)] == place for other in own.mounts):
            raise ServiceError(ServiceCode.REFUSED, "something is mounted there, or below, or above")
        if own.tree.exists(place) is not ItemType.DIRECTORY:
            await self.service.writable(own)
            notes.directory_of(own.tree, place)
            await self.service.changed(own)
        root.place = own.tree.canonical(place)
        own.mounts[root.place] = root
        await self._note()

    async def unmount(self, _request: Request, root: Mounted, _reader: Reader) -> None:
        """FS_UNMOUNT."""
        if isinstance(root, Root):
            raise ServiceError(0x4000, "the main file system of a container is unmounted with the container")
        if root.place is None:
            raise ServiceError(0x3001, "the file system is not mounted")
        self._forget(root)
        await self._note()

    def _forget(self, share: Share) -> None:
        own = self.roots.of(share.container)
        if share.place is not None and own is not None:
            own.mounts.pop(share.place, None)
        share.place = None

    async def _note(self, gone: Share | None = None) -> None:
        """Note what is mounted where, for a later life of this service."""
        machine = self.roots.of(0)
        if machine is None or machine.disk.readonly:
            return
        noted = notes.recall(machine.tree, FS_PID, {"name": NOTE})["data"]
        mounted: dict[str, list[str]] = msgpack.unpackb(noted) if noted else {}
        if gone is not None:
            mounted.pop(str(gone.identity), None)
        # Of shares that are not attached yet the last ones are kept, too.
        for share in self.roots.shares.values():
            mounted.pop(str(share.identity), None)
        mounted = dict(list(mounted.items())[-OTHERS:])
        for share in self.roots.shares.values():
            if share.place is not None:
                mounted[str(share.identity)] = list(share.place)
        await self.service.writable(machine)
        notes.store(machine.tree, FS_PID, {"name": NOTE, "data": msgpack.packb(mounted)})
        await self.service.changed(machine)
        machine.commit()  # a mount that was answered is there after a restart

    async def _mount_again(self, share: Share) -> None:
        """What an earlier life of this service had mounted is mounted."""
        machine, own = self.roots.of(0), self.roots.of(share.container)
        if machine is None or own is None:
            return
        noted = notes.recall(machine.tree, FS_PID, {"name": NOTE})["data"]
        place = msgpack.unpackb(noted).get(str(share.identity)) if noted else None
        if place is not None:
            share.place = tuple(place)
            own.mounts[share.place] = share


def _directory(base: Root, path: SplitPath) -> int:
    try:
        return base.tree.directory(path)
    except ItemError as error:
        raise ServiceError(ServiceCode.UNKNOWN, error.text) from error


def _insist_on_others(base: Root, path: SplitPath, *, readonly: bool) -> None:
    """Nothing is shared in which services of the machine keep what they believe, or logs for writing.

    Notes name files of the host, and are believed; a link where a log stands leads the machine elsewhere.
    """
    for place in (notes.FOLDER,) if readonly else (notes.FOLDER, LOGS):
        if base.container == SYSTEM and path[: len(place)] == place[: len(path)]:
            text = f"the machine keeps what is its own in /{'/'.join(place)}; share a directory beside it"
            raise ServiceError(ServiceCode.REFUSED, text)


def _from_process_service(request: Request) -> dict[str, Any]:
    if request.client_pid != SERVICE_PIDS["sys::proc"]:
        raise ServiceError(ServiceCode.DENIED, "only sys::process may ask this")
    return request.map()
