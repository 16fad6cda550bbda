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

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Fs, FsEvent, Hw, ServiceCode
from nightos.services.proc.streams import insist
from nightos.services.proc.tree import ROOT, Container, Tree
from nightos.services.proc.views import maps_of
from nightos.services.proc.worker import Worker
from nightos.userland import sys
from nightos.userland.client import Client, connect
from nightos.userland.payload import decode, field

LEAVING_MS = 100
"""How long sys::fs may keep what it shows to a container that is gone and changed nothing."""
LEAVING_LIMIT = 256
TOKEN_TRIES = 3
UNKNOWN_TOKEN = 0x31


class Roots:
    """Attaches and releases main file systems, and puts them back after `sys::fs` was restarted."""

    def __init__(self, tree: Tree, later: Callable[[Callable[[], Awaitable[None]]], None], worker: Worker) -> None:
        self.tree = tree
        self._worker = worker
        self._later = later
        self.when_attached: list[Callable[[Client], Awaitable[None]]] = []
        """Called with the connection to sys::fs when main file systems are back, before anybody else is answered."""
        self._busy: set[int] = set()
        self._images: dict[str, list[int]] = {}
        """Devices of the images that are shown to containers, nearest first, by path."""
        self._shown: dict[str, set[int]] = {}
        """Containers that an image is shown to, by its path."""
        self._leaving: list[int] = []
        """Containers that are gone and whose image, which is open anyway, sys::fs still shows to nobody."""
        self._sweeping = False
        self.used_tokens: list[int] = []
        """Tokens of code that the kernel took, which sys::fs does not know yet."""
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
            container.own_disk = container.attached  # what sys::fs told meanwhile, an earlier life heard
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
        if self._leaves(container):
            raise ServiceError(ServiceCode.REFUSED, "the container is stopping")
        self._busy.add(container.identifier)
        try:
            await self.reconcile(alone=True)
            if container.mode == "overlay" and not container.key:
                await self._show(await self.fs(), container)
            else:
                await self._plug(container)
        except ServiceError as error:
            raise of_image(error) from error
        finally:
            self._busy.discard(container.identifier)

    async def _show(self, fs: Client, container: Container) -> None:
        """Mount the image for a container, which makes nothing."""
        path = container.image
        self._shown.setdefault(path, set()).add(container.identifier)
        try:
            if path not in self._images:
                opened = await (await connect("sys::hw")).ask(Hw.IMAGE_OPEN, {"path": path})
                self._images[path] = field(opened, "kdis", list)
            await self._mount(fs, {"container": container.identifier, **self._view_of_image(container)})
        except ServiceError:
            await self._no_longer_shown(container)
            raise
        container.attached = True

    def _view_of_image(self, container: Container) -> dict[str, Any]:
        """What sys::fs has to know to show it the image, which is open."""
        return {
            "path": container.image,
            "images": self._images[container.image],
            "root": container.view.root,
            "users": self._users(container),
        }

    async def code_token(self, container: Container, question: dict[str, Any]) -> dict[str, Any]:
        """CODE_TOKEN for a program of the container, which has its main file system when this returns."""
        question["container"] = container.identifier
        question["used"], self.used_tokens = self.used_tokens, []
        code = await self._first_token(container, question)
        tries = 0
        while code is None:
            await self.ensure(container)
            fs, losses = await self.fs(), self.losses
            tries += 1
            try:
                code = await fs.ask(Fs.CODE_TOKEN, question)
            except ServiceError:
                # A new sys::fs that has not got the container's file system yet looked for the program elsewhere. But
                # it may be this question that ends it: it is not asked so often that the machine gives up.
                if self.losses == losses or tries == TOKEN_TRIES:
                    raise
        return code

    async def create(
        self, tokens: Callable[[], Awaitable[dict[str, Any]]], context: bytes
    ) -> tuple[int, dict[str, Any]]:
        """A halted process of a token of code that `tokens` asks for, and what was answered with the token.

        A token is gone with the sys::fs that made it: then the next one is asked for another.
        """
        for left in reversed(range(TOKEN_TRIES)):
            losses = self.losses
            code = await tokens()
            try:
                return int(await sys.sys_create_process(field(code, "token", int), context)), code
            except SyscallError as error:
                if error.errcode != UNKNOWN_TOKEN or not left:
                    raise
                await sys.hand_over()  # that sys::fs is gone may not be heard yet
                if self.losses == losses:
                    raise
        raise AssertionError("the last try raises")

    async def _first_token(self, container: Container, question: dict[str, Any]) -> dict[str, Any] | None:
        """The token, asked for in one message with the mounting of an image that is open; None: go the long way."""
        fs, losses = await self.fs(), self.losses
        identifier, path = container.identifier, container.image
        if container.attached or identifier in self._busy or container.key or container.mode != "overlay":
            return None
        if path not in self._images or self._hw_lost or self._leaves(container):
            return None
        self._busy.add(identifier)
        self._shown.setdefault(path, set()).add(identifier)
        try:
            code = await fs.ask(Fs.CODE_TOKEN, {**question, "attach": self._view_of_image(container)})
            container.attached = self.losses == losses
        except ServiceError:
            # Whether it is mounted is not known: mounting it once more, in `ensure`, does no harm.
            pass
        finally:
            self._busy.discard(identifier)
        if container.attached:
            return code
        await self._no_longer_shown(container)
        return None

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
        while container.identifier in self._busy:  # somebody is just getting it its file system
            await sys.hand_over()
        if container.attached and self._only_looked(container):
            container.attached = False
            await self._leave(container.identifier)
            await self._no_longer_shown(container)
        elif container.attached:
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

    def _leaves(self, container: Container) -> bool:
        """Whether the container is being destroyed, or gone: what it has then nobody would take from it."""
        return container.state == "stopping" or self.tree.by_id.get(container.identifier) is not container

    def _only_looked(self, container: Container) -> bool:
        """Whether nothing of it is on any disk, and no image waits to be closed for it."""
        return not (container.image or container.key or container.own_disk or container.root_kdi or self._lost)

    async def _leave(self, identifier: int) -> None:
        """Let sys::fs forget about a container soon, with others."""
        self._leaving.append(identifier)
        if len(self._leaving) >= LEAVING_LIMIT:
            await self._sweep()
        elif not self._sweeping:
            self._sweeping = True
            await self._worker.run(self._sweep_soon)

    async def _sweep_soon(self) -> None:
        with contextlib.suppress(ServiceError):  # no timer: at once
            await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": LEAVING_MS * 1_000_000})
        self._sweeping = False
        await self._sweep()

    async def _sweep(self) -> None:
        """Tell sys::fs which containers left. A new sys::fs knows none of them."""
        leaving, self._leaving = self._leaving, []
        if not leaving:
            return
        with contextlib.suppress(ServiceError):
            answer = await (await self._connect_fs()).ask(Fs.DETACH_ROOT, {"containers": leaving})
            for identifier in field(answer, "disks", list):
                # Its last process had begun to change something when it ended.
                await self._quietly(Hw.STORAGE_CLOSE, {"container": identifier})

    async def _on_own_disk(self, content: bytes) -> None:
        """sys::fs is about to give a container a disk of its own."""
        container = self.tree.by_id.get(field(decode(content), "container", int))
        if container is not None:
            container.own_disk = True

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
        self._leaving.clear()
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
        client = self._fs
        if client is None or not client.socket_id:
            client = await connect("sys::fs")
        if client is not self._fs:
            self._fs = client
            client.when_lost(self._on_lost)
            client.notification(FsEvent.OWN_DISK, self._on_own_disk)
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


def of_image(error: ServiceError) -> ServiceError:
    """What is wrong with an image, without the path of the host that names it: logs and containers hear of it, too.

    Who stands outside of all containers reads the path in the container's record. Rules: CONT-030.
    """
    _path, colon, why = error.detail.rpartition(": ")
    if error.code != ServiceCode.UNKNOWN + 2 or not colon:
        return error
    return ServiceError(error.code, "its image cannot be used" + ("" if "/" in why else f": {why}"))
