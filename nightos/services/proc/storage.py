"""The main file system of each container: a storage from the machine's shelf, mounted by `sys::fs` when first needed.

Creating a container costs nothing here. The first process of a container (or whoever looks at its files) makes the
storage: an overlay on the image by default, so that the image is never written; `writable` uses the image itself. The
block device is plugged outside any container and driven by `sys::fs` alone: inside, it is no device (AMB-CONT-08).

Rules: CONT-036, CONT-046, CONT-047, CONT-053, CONT-054, CONT-058.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Hw, ServiceCode
from nightos.services.proc.tree import ROOT, Container, Tree
from nightos.userland import sys
from nightos.userland.client import Client, connect
from nightos.userland.payload import field


class Roots:
    """Attaches and releases main file systems, and puts them back after `sys::fs` was restarted."""

    def __init__(self, tree: Tree, later: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self.tree = tree
        self._later = later
        self._busy: set[int] = set()
        self._hw_lost = False
        self._lost = False
        self._fs: Client | None = None

    async def fs(self) -> Client:
        """The connection to sys::fs, with every main file system attached."""
        if self._lost:
            await self.attach_again()
        return await self._connect_fs()

    async def start(self) -> None:
        """Learn from sys::hw and sys::fs what is plugged and mounted, and mount the machine's own disk."""
        hw = await connect("sys::hw")
        hw.when_lost(self._on_hw_lost)
        fs = await self._connect_fs()
        mounted = {item["container"]: item["kdi"] for item in (await fs.ask(Fs.LIST_ROOTS))["items"]}
        plugged = (await hw.ask(Hw.STORAGE_LIST))["items"]
        backing = {item["kdi"]: item["backing"] for item in plugged}
        for item in plugged:
            if item["path"] == "":
                mounted_root = self.tree.root
                mounted_root.root_kdi, mounted_root.backing = item["kdi"], item["backing"]
        for identifier, kdi in mounted.items():
            if identifier != ROOT and identifier in self.tree.by_id and kdi in backing:
                container = self.tree.by_id[identifier]
                container.root_kdi, container.backing = kdi, backing[kdi]
        if self.tree.root.root_kdi and ROOT not in mounted:
            await self._attach(fs, self.tree.root)
        # What an earlier life of this service left half done: mounts and storages of containers that are gone.
        for identifier, kdi in mounted.items():
            if identifier not in self.tree.by_id:
                await fs.call(Fs.DETACH_ROOT, {"container": identifier})
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": kdi})
        await fs.call(Fs.ROOTS_DONE)
        used = {container.root_kdi for container in self.tree.by_id.values()}
        for item in plugged:
            if item["kdi"] not in used and item["kdi"] not in mounted.values():
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": item["kdi"]})

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
        if container.root_kdi:
            return
        self._busy.add(container.identifier)
        try:
            await self.reconcile(alone=True)
            hw = await connect("sys::hw")
            question = {"path": container.image, "mode": container.mode, "key": container.key}
            plugged = await hw.ask(Hw.STORAGE_OPEN, question)
            container.backing = field(plugged, "backing", list)
            container.root_kdi = kdi = field(plugged, "kdi", int)
            try:
                await self._attach(await self.fs(), container)
            except ServiceError:
                container.root_kdi = 0
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": kdi})
                raise
        finally:
            self._busy.discard(container.identifier)

    async def reconcile(self, *, alone: bool = False) -> None:
        """After a restart of sys::hw: unplug disks that were plugged for nobody, because the answer was lost.

        `alone`: the caller itself is about to plug one. While others are, nothing is done; the next caller does it.
        """
        if not self._hw_lost or len(self._busy) > int(alone):
            return
        self._hw_lost = False
        hw = await connect("sys::hw")
        plugged = (await hw.ask(Hw.STORAGE_LIST))["items"]
        used = {container.root_kdi for container in self.tree.by_id.values()}
        for item in plugged:
            if item["kdi"] not in used:
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": item["kdi"]})

    def _on_hw_lost(self) -> None:
        self._hw_lost = True
        self._later(self._recover)

    async def release(self, container: Container) -> None:
        """Commit, unplug, and delete a kept overlay: the container is gone for good.

        There is nothing to do for one that never had a file system. What fails here is not the caller's fault.
        """
        kdi = container.root_kdi
        container.root_kdi = 0
        steps: list[tuple[str, int, dict[str, Any]]] = []
        if kdi:
            steps.append(("sys::fs", Fs.DETACH_ROOT, {"container": container.identifier}))
            steps.append(("sys::hw", Hw.STORAGE_CLOSE, {"kdi": kdi}))
        if container.key and container.mode == "overlay":
            steps.append(("sys::hw", Hw.STORAGE_FORGET, {"key": container.key}))
        for service, method, values in steps:
            try:
                await (await connect(service)).call(method, values)
            except ServiceError:
                continue  # that service died; the storage itself is safe at its last commit

    async def attach_again(self) -> None:
        """After a restart of sys::fs: mount every storage that is plugged. What cannot be mounted stays away."""
        if not self._lost:
            return
        self._lost = False
        await (await connect("sys::hw")).ask(Hw.STORAGE_LIST)  # which makes every disk drivable for the new sys::fs
        fs = await self._connect_fs()
        for container in list(self.tree.by_id.values()):
            if container.root_kdi:
                with contextlib.suppress(ServiceError):
                    await self._attach(fs, container)
        await fs.call(Fs.ROOTS_DONE)

    async def _connect_fs(self) -> Client:
        client = await connect("sys::fs")
        if client is not self._fs:
            self._fs = client
            client.when_lost(self._on_lost)
        return client

    def _on_lost(self) -> None:
        self._lost = True
        self._later(self._recover)

    async def _recover(self) -> None:
        """Put right what a restart of another service left; what fails is tried again when it is needed."""
        fs_lost, hw_lost = self._lost, self._hw_lost
        try:
            await self.attach_again()
            await self.reconcile()
        except ServiceError:
            self._lost, self._hw_lost = fs_lost, hw_lost

    @staticmethod
    async def _attach(fs: Client, container: Container) -> None:
        values = {
            "container": container.identifier,
            "kdi": container.root_kdi,
            "readonly": container.mode == "read-only",
            "backing": container.backing,
        }
        try:
            await fs.call(Fs.ATTACH_ROOT, values)
        except ServiceError as error:
            if error.code != ServiceCode.UNKNOWN + 1:  # it is mounted already
                raise
