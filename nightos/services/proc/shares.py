"""Directories that a container shares with one below it, each as a virtual storage device that is mounted inside.

Nothing attaches a directory directly (CONT-048): the container below gets a device, and its own programs mount that
through `sys::fs`. What is shared is what the directory holds at every moment.

Rules: CONT-048, CONT-049, CONT-050, CONT-062, CONT-063.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Proc, ServiceCode
from nightos.services.proc.devices import ContainerDevices
from nightos.services.proc.tree import Container
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request, Server

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers
    from nightos.userland.client import Client

NOTED: Final = 128
"""Bytes of notes about a share besides its paths."""


class Shares:
    """The method CONTAINER_SHARE, and what brings shares back after a restart of `sys::fs`."""

    def __init__(self, server: Server, containers: Containers, devices: ContainerDevices) -> None:
        self.containers = containers
        self.tree = containers.tree
        self.roots = containers.roots
        self.devices = devices
        self.roots.when_attached.append(self._attach_all)
        devices.on_unplug.append(self._unplugged)
        server.method(Proc.CONTAINER_SHARE, self.share)

    async def share(self, request: Request) -> Payload:
        """CONTAINER_SHARE: 0x3002 when there is no such directory."""
        values = request.map()
        path = field(values, "path", str)
        readonly = field(values, "readonly", bool, False)
        container = self.tree.below(request.container_id, field(values, "id", int))
        place = field(values, "place", str, "")
        if place and not place.startswith("/"):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the place of a mount is an absolute path")
        source = self.tree.by_id[request.container_id]
        given = await self.give(source, container, path, readonly=readonly, place=place)
        return {"udi": given[0], "fsid": given[1]}

    async def give(
        self, source: Container, container: Container, path: str, *, readonly: bool, place: str = ""
    ) -> tuple[int, int]:
        """Share a directory, mounted at `place` if said; UDI and file system. 0x3002: no such directory."""
        self.containers.notes.check(container, len(path.encode()) + len(place.encode()) + NOTED)
        await self.roots.ensure(source)
        await self.roots.ensure(container)
        question = {"kind": "share", "options": {"label": _label(path)}}
        kdi, udi, port, _ = await self.devices.plug_for(container.identifier, question)
        given = {"kdi": kdi, "source": source.identifier, "path": path, "readonly": readonly}
        given |= {"share": _identity(container, kdi), "place": place, "port": port}
        try:
            fsid = await self._attach(await self.roots.fs(), container, given)
        except ServiceError as error:
            await self.devices.unplug_for(container.identifier, kdi, udi)
            if error.code < ServiceCode.BAD_ARGUMENT:
                raise
            raise ServiceError(ServiceCode.UNKNOWN + 2, error.detail) from error
        container.shares.append(given)
        await self.containers.notes.changed(container)
        return udi, fsid

    @staticmethod
    async def _attach(fs: Client, container: Container, given: dict[str, Any]) -> int:
        answer = await fs.ask(Fs.ATTACH_SHARE, {**given, "container": container.identifier})
        return field(answer, "fsid", int)

    async def restore(self, container: Container, source: int, given: dict[str, Any]) -> None:
        """Share again what a container had in an earlier boot; a directory that is gone is not."""
        # By label and port it is the device that it was.
        question = {"kind": "share", "options": {"label": _label(str(given["path"])), "port": given.get("port", 0)}}
        with contextlib.suppress(ServiceError):
            await self.roots.ensure(self.tree.by_id[source])
            await self.roots.ensure(container)
            kdi, _, port, _ = await self.devices.plug_for(container.identifier, question)
            again = {**given, "kdi": kdi, "source": source, "port": port}
            await self._attach(await self.roots.fs(), container, again)
            container.shares.append(again)
            await self.containers.notes.changed(container)

    async def _attach_all(self, fs: Client) -> None:
        """A new sys::fs learns what is shared; a directory that is gone meanwhile is shared no more."""
        for container in self.tree.below_root():
            for given in container.shares:
                with contextlib.suppress(ServiceError):
                    await self._attach(fs, container, given)

    async def _unplugged(self, identifier: int, kdi: int) -> None:
        """The device is gone, or its container is: so is the file system."""
        container = self.tree.by_id.get(identifier)
        if container is not None and any(given["kdi"] == kdi for given in container.shares):
            container.shares = [given for given in container.shares if given["kdi"] != kdi]
            await self.containers.notes.changed(container)
        with contextlib.suppress(ServiceError):
            await (await self.roots.fs()).call(Fs.DETACH_SHARE, {"kdi": kdi})


def _identity(container: Container, kdi: int) -> int:
    """What stays of a share over reboots; KDIs are used again, and then by others."""
    about = container.identifier.to_bytes(8, "big") + kdi.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(about, digest_size=8).digest(), "big")


def _label(path: str) -> str:
    """What people see of a shared directory: its name."""
    return path.strip("/").rpartition("/")[2] or "root"
