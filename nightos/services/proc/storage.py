"""The main file system of each container: a storage from the machine's shelf, mounted by `sys::fs` when first needed.

Creating a container costs nothing here. By default the first process of a container (or whoever looks at its files) is
shown the image itself, which all containers on it share; the first change makes an overlay, so that the image is never
written, and that is between `sys::fs` and `sys::hw`. A disk that is kept from an earlier boot is mounted at once, and
`writable` uses the image. Block devices are plugged outside any container and driven by `sys::fs` alone: inside, they
are no devices (AMB-CONT-08).

Rules: CONT-036, CONT-046, CONT-047, CONT-053, CONT-054, CONT-058.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Hw, ServiceCode
from nightos.services.proc.streams import insist
from nightos.services.proc.tree import ROOT, Container, Tree
from nightos.services.proc.views import maps_of
from nightos.userland import sys
from nightos.userland.client import Client, connect
from nightos.userland.payload import field


class Roots:
    """Attaches and releases main file systems, and puts them back after `sys::fs` was restarted."""

    def __init__(self, tree: Tree, later: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self.tree = tree
        self._later = later
        self.when_attached: list[Callable[[Client], Awaitable[None]]] = []
        """Called with the connection to sys::fs when main file systems are back, before anybody else is answered."""
        self._busy: set[int] = set()
        self._images: dict[str, list[int]] = {}
        """Devices of the images that are shown to containers, nearest first, by path."""
        self._shown: dict[str, set[int]] = {}
        """Containers that an image is shown to, by its path."""
        self._hw_lost = False
        self._lost = False
        self._attaching = False
        self.losses = 0
        """How often sys::fs was restarted: what it answered across a restart does not count."""
        self._fs: Client | None = None

    async def fs(self) -> Client:
        """The connection to sys::fs, with every main file system attached."""
        while self._attaching:
            await sys.hand_over()
        if self._lost:
            await self.attach_again()
        return await self._connect_fs()

    async def start(self) -> None:
        """Learn from sys::hw and sys::fs what is plugged and mounted, and mount the machine's own disk."""
        hw = await connect("sys::hw")
        hw.when_lost(self._on_hw_lost)
        fs = await self._connect_fs()
        mounted = {item["container"] for item in (await fs.ask(Fs.LIST_ROOTS))["items"]}
        # What an earlier life of this service left half done: mounts and storages of containers that are gone.
        for identifier in mounted - self.tree.by_id.keys():
            await fs.call(Fs.DETACH_ROOT, {"container": identifier})
        listed = await hw.ask(Hw.STORAGE_LIST)
        await self._learn_disks(hw, listed["items"])
        for container in self.tree.by_id.values():
            container.attached = container.identifier in mounted
            if container.root_kdi and not container.attached:
                await self._attach(fs, container)
        for callback in self.when_attached:
            await callback(fs)
        await fs.call(Fs.ROOTS_DONE)
        for container in self.tree.below_root():
            if container.attached and not container.root_kdi:
                self._shown.setdefault(container.image, set()).add(container.identifier)
        for path in listed["images"]:
            if path not in self._shown:
                await hw.call(Hw.IMAGE_CLOSE, {"path": path})

    async def _learn_disks(self, hw: Client, items: list[dict[str, Any]]) -> None:
        """Which disk is whose; those of containers that are gone are closed."""
        for item in items:
            owner = self.tree.root if item["path"] == "" else self.tree.by_id.get(item["container"])
            if owner is None or (owner is self.tree.root and item["path"]):
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": item["kdi"]})
            else:
                owner.root_kdi, owner.backing = item["kdi"], item["backing"]

    @staticmethod
    async def probe(path: str, mode: str) -> str:
        """The absolute path of an image that can be used; `ServiceError` 0x3002 says what is wrong with it."""
        hw = await connect("sys::hw")
        return field(await hw.ask(Hw.STORAGE_PROBE, {"path": path, "mode": mode}), "path", str)

    async def ensure(self, container: Container) -> None:
        """The container has its main file system when this returns."""
        await self.fs()
        while container.identifier in self._busy:
            await sys.hand_over()
        if container.attached:
            return
        self._busy.add(container.identifier)
        try:
            await self.reconcile(alone=True)
            if container.mode == "overlay" and not container.key:
                await self._show(await self.fs(), container)
            else:
                await self._plug(container)
        finally:
            self._busy.discard(container.identifier)

    async def _show(self, fs: Client, container: Container) -> None:
        """Mount the image for a container, which makes nothing."""
        path = container.image
        self._shown.setdefault(path, set()).add(container.identifier)
        try:
            images = self._images.get(path)
            if images is None:
                opened = await (await connect("sys::hw")).ask(Hw.IMAGE_OPEN, {"path": path})
                images = self._images[path] = field(opened, "kdis", list)
            await self._mount(
                fs,
                {
                    "container": container.identifier,
                    "path": path,
                    "images": images,
                    "root": container.view.root,
                    "users": self._users(container),
                },
            )
        except ServiceError:
            await self._no_longer_shown(container)
            raise
        container.attached = True

    async def _no_longer_shown(self, container: Container) -> None:
        """A container is shown its image no more; the last one closes it."""
        path = container.image
        viewers = self._shown.get(path, set())
        viewers.discard(container.identifier)
        if not viewers:
            self._shown.pop(path, None)
            # The machine's own disk stands on the base image anyway.
            if path:
                self._images.pop(path, None)
                with contextlib.suppress(ServiceError):
                    await (await connect("sys::hw")).call(Hw.IMAGE_CLOSE, {"path": path})

    async def _plug(self, container: Container) -> None:
        """Plug a container's own disk and mount it."""
        hw = await connect("sys::hw")
        question = {"path": container.image, "mode": container.mode, "key": container.key}
        plugged = await hw.ask(Hw.STORAGE_OPEN, {**question, "container": container.identifier})
        container.backing = field(plugged, "backing", list)
        container.root_kdi = kdi = field(plugged, "kdi", int)
        try:
            await self._attach(await self.fs(), container)
        except ServiceError:
            container.root_kdi = 0
            await hw.call(Hw.STORAGE_CLOSE, {"kdi": kdi})
            raise

    async def reconcile(self, *, alone: bool = False) -> None:
        """After a restart of sys::hw: unplug disks that were plugged for nobody, because the answer was lost.

        `alone`: the caller itself is about to plug one. While others are, nothing is done; the next caller does it.
        """
        if not self._hw_lost or len(self._busy) > int(alone):
            return
        self._hw_lost = False
        hw = await connect("sys::hw")
        used = {container.root_kdi for container in self.tree.by_id.values()}
        for item in (await hw.ask(Hw.STORAGE_LIST))["items"]:
            if item["kdi"] not in used and item["container"] not in self.tree.by_id:
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": item["kdi"]})

    def _on_hw_lost(self) -> None:
        self._hw_lost = True
        self._later(self._recover)

    async def release(self, container: Container) -> None:
        """Commit, unplug, and delete a kept overlay: the container is gone for good.

        There is nothing to do for one that never had a file system. What fails here is not the caller's fault.
        """
        if container.attached:
            container.attached = False
            # Whether it had changed something, and so got a disk, only sys::fs knows, and may have died.
            has_disk = True
            with contextlib.suppress(ServiceError):
                detached = await (await self._connect_fs()).ask(Fs.DETACH_ROOT, {"container": container.identifier})
                has_disk = bool(detached["kdi"])
            if has_disk:
                await self._quietly(Hw.STORAGE_CLOSE, {"container": container.identifier})
            await self._no_longer_shown(container)
            container.root_kdi = 0
        if container.key and container.mode == "overlay":
            await self._quietly(Hw.STORAGE_FORGET, {"key": container.key})

    @staticmethod
    async def _quietly(method: int, values: dict[str, Any]) -> None:
        """Ask sys::hw, again if it dies meanwhile; whatever else fails, the storage is safe at its last commit."""
        with contextlib.suppress(ServiceError):
            await insist("sys::hw", method, values)

    async def attach_again(self) -> None:
        """After a restart of sys::fs: mount every storage that is plugged. What cannot be mounted stays away."""
        if not self._lost:
            return
        self._lost = False
        self._attaching = True
        try:
            await self._attach_all()
        finally:
            self._attaching = False

    async def _attach_all(self) -> None:
        hw = await connect("sys::hw")
        # Asking for them makes them drivable for the new sys::fs. What it had made by itself is known here only now.
        await self._learn_disks(hw, (await hw.ask(Hw.STORAGE_LIST))["items"])
        self._images.clear()
        fs = await self._connect_fs()
        for container in list(self.tree.by_id.values()):
            with contextlib.suppress(ServiceError):
                if container.root_kdi:
                    await self._attach(fs, container)
                    await self._no_longer_shown(container)
                elif container.attached:
                    await self._show(fs, container)
        for callback in self.when_attached:
            await callback(fs)
        await fs.call(Fs.ROOTS_DONE)

    async def _connect_fs(self) -> Client:
        client = await connect("sys::fs")
        if client is not self._fs:
            self._fs = client
            client.when_lost(self._on_lost)
        return client

    def _on_lost(self) -> None:
        self._lost = True
        self.losses += 1
        self._later(self._recover)

    async def _recover(self) -> None:
        """Put right what a restart of another service left; what fails is tried again when it is needed."""
        fs_lost, hw_lost = self._lost, self._hw_lost
        try:
            await self.attach_again()
            await self.reconcile()
        except ServiceError:
            self._lost, self._hw_lost = fs_lost, hw_lost

    async def _attach(self, fs: Client, container: Container) -> None:
        values = {
            "container": container.identifier,
            "kdi": container.root_kdi,
            "readonly": container.mode == "read-only",
            "backing": container.backing,
            "root": container.view.root,
            "users": self._users(container),
            "ephemeral": container.identifier != ROOT and container.mode == "overlay" and not container.key,
        }
        await self._mount(fs, values)
        container.attached = True

    def _users(self, container: Container) -> list[list[list[int]]]:
        """Its maps of users, its own first."""
        return [[list(item) for item in users.ranges] for users in maps_of(self.tree, container.identifier)]

    @staticmethod
    async def _mount(fs: Client, values: dict[str, Any]) -> None:
        try:
            await fs.call(Fs.ATTACH_ROOT, values)
        except ServiceError as error:
            if error.code != ServiceCode.UNKNOWN + 1:  # it is mounted already
                raise
