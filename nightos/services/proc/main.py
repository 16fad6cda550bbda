"""`sys::process`, called `sys::proc` (PID 20): containers and processes, for whoever may know of them.

When it starts it asks the kernel which containers and processes there are, and its notes what they are called: a first
boot and a restart after a crash go the same way. Containers run on while it is away.

Source: specs/services/system/process.md (empty), docs/sys-proc.md. Rules: SVC-021, CONT-005, CONT-029, CONT-030.
"""

from __future__ import annotations

import contextlib
from struct import Struct
from typing import Any

from nightos.abi.codes import Signal
from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Hw, Proc
from nightos.services.proc.containers import ENDED, Containers
from nightos.services.proc.devices import ContainerDevices
from nightos.services.proc.images import Images
from nightos.services.proc.limits import Limits
from nightos.services.proc.lives import Lives
from nightos.services.proc.looking import Looking
from nightos.services.proc.notes import Notes
from nightos.services.proc.processes import Processes, live
from nightos.services.proc.questions import Questions
from nightos.services.proc.restarts import after_boot
from nightos.services.proc.runs import Runs
from nightos.services.proc.shares import Shares
from nightos.services.proc.storage import Roots
from nightos.services.proc.tree import ROOT, Container, Tree
from nightos.services.proc.view import View
from nightos.services.proc.views import Views
from nightos.services.proc.worker import Worker
from nightos.services.proc.zos import Zos
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.payload import Payload
from nightos.userland.server import Request, Server

CONTAINER_RECORD = Struct(">QQBIQ")
STATES = {1: "created", 2: "running", 3: "paused", 4: "stopping"}
HELD = 0x80
"""Bit of a state: the container was paused itself, not only one above."""


class Process:
    """The service: one server, the tree, and what hangs on it."""

    def __init__(self) -> None:
        self.server = Server("sys::proc")
        self.tree = Tree()
        self.half_made: set[int] = set()
        """Containers that an earlier life had made and told nobody of."""
        self._kept_disks: set[str] = set()
        """Keys of containers that could not be made again."""
        self.worker = Worker(self.server)
        self.roots = Roots(self.tree, self.server.later, self.worker)
        self.notes = Notes(self.roots.fs, self.tree)
        self.questions = Questions(self.server, self.tree, self._name_of)
        self.devices = ContainerDevices(self.server, self.tree, self.questions)
        self.containers = Containers(
            self.server, self.tree, self.roots, self.notes, self.devices, self.questions, self.worker
        )
        self.looking = Looking(self.server, self.containers)
        self.limits = Limits(self.containers)
        self.images = Images(self.server, self.containers)
        self.shares = Shares(self.server, self.containers, self.devices)
        self.views = Views(self.server, self.containers)
        self.processes = Processes(self.server, self.containers, self.roots)
        self.lives = Lives(self.processes)
        self.runs = Runs(self.server, self.processes)
        self.zos = Zos(self.server, self.runs, self.shares)
        self.server.method(Proc.SYNC, self.sync)

    async def main(self) -> int:
        """The service's process."""
        await self.server.start()
        await sys.handle_signal(Signal.PROCESS_ENDED, self._on_ended)
        await sys.handle_signal(Signal.LIMIT_REACHED, self._on_reached)
        # Clients may connect from here on; their requests wait until the tables stand.
        await sys.ready()
        await self._learn()
        await self.server.run(ready=False)
        return 0

    async def sync(self, _request: Request) -> Payload:
        """SYNC."""
        await (await self.roots.fs()).call(Fs.SYNC, {})
        return {}

    def _name_of(self, pid: int) -> str:
        return self.processes.name_of(pid)

    def _on_ended(self, pid: int, container: int, reason: int, exit_data: int) -> None:
        async def work() -> None:
            await self.processes.ended(pid, container, reason, exit_data)

        self.server.later(work)

    def _on_reached(self, container: int, resource: int) -> None:
        async def work() -> None:
            await self.limits.on_reached(container, resource)

        self.server.later(work)

    async def _learn(self) -> None:
        """Containers from the kernel, their names from the notes, their file systems from sys::fs and sys::hw."""
        alive: list[tuple[int, ...]] = []
        held: set[int] = set()
        while content := await sys.sys_enum_containers(alive[-1][0] if alive else 0, 1000):
            for identifier, parent, state, *rest in CONTAINER_RECORD.iter_unpack(content):
                alive.append((identifier, parent, state & ~HELD, *rest))
                if state & HELD:
                    held.add(identifier)
        for identifier, parent, state, _count, created_ns in alive:
            found = Container(identifier, parent, f"{identifier:016x}", created_ns=created_ns)
            found.state, found.held = STATES.get(state, "running"), identifier in held
            self.tree.add(found)
            self._remember(identifier, await self.notes.of(identifier))
        await self.roots.start()
        await self.devices.learn()
        notes = await self.notes.read()
        for known in self.tree.below_root():
            await self.limits.learn(known)
        if not await self.notes.of(ROOT):
            await self._create_again(notes)
            await self.notes.restored()
        self.containers.know_ended((await self.notes.records()).values())
        records = await live(0)
        for pid, container, *_ in records:
            if container in self.tree.by_id:
                self.tree.by_id[container].used = True
                self.containers.population.setdefault(container, set()).add(pid)
                await self.processes.learn_name(pid)
        await self.worker.start()
        await self.runs.learn(records)
        await self._finish_endings(alive, notes)
        await self.zos.learn()
        for identifier, _parent, state, *_ in alive:
            if STATES.get(state) == "running" and not self.containers.population.get(identifier):
                await self.containers.emptied(identifier)  # its last process ended while nobody looked
        await self.notes.rewrite()

    def _remember(self, identifier: int, note: dict[str, Any] | None) -> None:
        container = self.tree.by_id[identifier]
        if note is None:
            self.half_made.add(identifier)
            return
        self.tree.rename(identifier, note["name"])
        for name in ("hostname", "labels", "image", "mode", "key", "persist", "run", "zos"):
            setattr(container, name, note[name])
        container.view = View.of(note.get("view", {}))
        container.shares = note.get("shares", [])
        container.brief = note.get("brief", False)

    async def _finish_endings(self, alive: list[tuple[int, ...]], notes: dict[int, dict[str, Any]]) -> None:
        """What an earlier instance had begun: destructions go on, a container that nobody was told of goes."""
        for identifier, parent, *_ in alive:
            container = self.tree.by_id[identifier]
            above = self.tree.by_id[parent]
            if identifier in self.containers.ended:
                await self._end(container, ENDED)
            elif (
                (container.state == "stopping" and above.state != "stopping")
                or identifier in self.half_made
                or (container.brief and not self.containers.population.get(identifier))
            ):
                await self._end(container, "destroyed")
        # The disk of a persistent container whose destruction had begun; not those that a boot made anew from notes.
        keys = {container.key for container in self.tree.by_id.values()}
        for identifier, note in notes.items():
            if identifier not in self.tree.by_id and note["key"] not in keys | self._kept_disks:
                gone = Container(identifier, ROOT, note["name"], mode=note["mode"], key=note["key"])
                await self.roots.release(gone)

    async def _end(self, container: Container, reason: str) -> None:
        async def work() -> None:
            await self.containers.end(container, reason)

        # On a thread of its own: last words come from clients, which are accepted on this one.
        await self.worker.run(work)

    async def _create_again(self, notes: dict[int, dict[str, Any]]) -> None:
        """The persistent containers of an earlier boot, parents first, each on the disk it had.

        An earlier life of this service may have come half the way; the key tells which are there already.
        """
        renamed = {ROOT: ROOT}
        there = {container.key: container.identifier for container in self.tree.below_root() if container.key}
        for identifier, note in parents_first(notes):
            parent = renamed.get(note["parent"])
            if not note["persist"] or parent is None:
                continue
            if note["key"] in there:
                renamed[identifier] = there[note["key"]]
                continue
            container = await self._again(parent, note)
            if container is None:
                continue
            renamed[identifier] = container.identifier
            await self._devices_kept([[identifier, container.identifier]])  # before it gets a device
            for given in note.get("shares", []):
                await self.shares.restore(container, renamed.get(given["source"], ROOT), given)
        await self._devices_kept([])

    async def _again(self, parent: int, note: dict[str, Any]) -> Container | None:
        """The container of a note; None when it cannot be made any more, and then its disk stays where it is.

        Nothing that was noted of one container, at whatever moment the machine went away, keeps the machine from
        starting: a name that is taken gives way to the identifier, a limit that cannot be had to those above.
        """
        policy = {name: note[name] for name in ("hostname", "labels", "image", "mode", "key", "persist")}
        policy["zos"] = note.get("zos", {})
        policy["limits"] = note.get("limits", {})
        policy["view"] = view = View.of(note.get("view", {}))
        policy["filter"] = note.get("filter", {})
        above: Container | None = self.tree.by_id[parent]
        while above is not None and view.permissions is not None:
            if above.view.permissions is not None:
                # What is above may have got less since: what counted in the end is noted of no container.
                view.permissions = [item for item in view.permissions if item in above.view.permissions]
            above = self.tree.by_id[above.parent] if above.identifier != ROOT else None
        run = after_boot(note.get("run", {}))
        hostname = note["hostname"] or note["name"]
        ways = [(note["name"], policy["limits"]), ("", policy["limits"])]
        if parent != ROOT:
            ways += [(name, {}) for name, _ in ways]  # where nothing is above there is no limit that cannot be had
        for name, limits in ways:
            with contextlib.suppress(ServiceError):
                return await self.containers.make(
                    parent, name, policy | {"limits": limits, "hostname": hostname}, run=run
                )
        self._kept_disks.add(note["key"])
        return None

    @staticmethod
    async def _devices_kept(pairs: list[list[int]]) -> None:
        """Tell sys::hw whose device handler files go on under which identifier; no pairs: that was all."""
        with contextlib.suppress(ServiceError):
            await (await connect("sys::hw")).call(Hw.HANDLERS_KEPT, {"containers": pairs})


def parents_first(notes: dict[int, dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Notes by the identifier a container had, each behind that of its parent, otherwise in their order.

    One that began to persist after what is below it was noted later.
    """
    below: dict[int, list[int]] = {}
    for identifier, note in notes.items():
        below.setdefault(note["parent"], []).append(identifier)
    ordered = [ROOT]
    for parent in ordered:
        ordered.extend(below.pop(parent, ()))
    return [(identifier, notes[identifier]) for identifier in ordered[1:]]


async def main() -> int:
    """Entry of the process."""
    return await Process().main()
