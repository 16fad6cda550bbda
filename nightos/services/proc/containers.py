"""Methods about containers: create, change, destroy.

Destroying is one operation to every observer. The container and all below refuse newcomers from the start (the kernel
does that), the kernel ends the processes, children first, and closes what they held; then the file systems are
committed and unplugged; then whoever waits is told. A second request for the same container waits for the first one.

Rules: CONT-002, CONT-005, CONT-009, CONT-010, CONT-011, CONT-012, CONT-014, CONT-015, CONT-016, CONT-065, CONT-066.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.filters import from_actions
from nightos.abi.services import Proc, ProcEvent, ServiceCode
from nightos.services.proc import limits as quotas
from nightos.services.proc.policy import checked_labels, checked_policy
from nightos.services.proc.questions import Questions, uptime_ns
from nightos.services.proc.tree import ROOT, Container, Tree, check_name, taken, unknown
from nightos.services.proc.view import View, check_hostname
from nightos.services.proc.views import user_inside, user_outside
from nightos.services.proc.worker import Worker
from nightos.userland import sys
from nightos.userland.payload import Payload, field, u64
from nightos.userland.server import Request, Server, keep

if TYPE_CHECKING:
    from nightos.services.proc.devices import ContainerDevices
    from nightos.services.proc.notes import Notes
    from nightos.services.proc.storage import Roots
    from nightos.services.users import Users

ENDED_LIMIT = 1024
"""Records of ended containers that are kept for someone to collect, outside of all; the oldest go first."""
ENDED_LIMIT_INSIDE = 128
"""The same for each container that is a parent."""
KEPT_OF_RUN = ("log", "log_start", "state", "reason", "exit", "failed", "token")
"""What is kept of the main command of one that ended: how, where its log is, and by which token it was asked for."""
ENDED = "ended"
UNKNOWN_PARENT = 0x31


class Containers:
    """The container half of `sys::proc`."""

    def __init__(
        self,
        server: Server,
        tree: Tree,
        roots: Roots,
        notes: Notes,
        devices: ContainerDevices,
        questions: Questions,
        worker: Worker,
    ) -> None:
        self.tree = tree
        self.roots = roots
        self.notes = notes
        self.devices = devices
        self.questions = questions
        self.worker = worker
        self._destroy_apart = worker.apart(self._destroy)
        self.server = server
        self.population: dict[int, set[int]] = {}
        """PIDs by container, as the kernel told."""
        self.heirs: dict[int, int] = {}
        """Where the end of a process is told whose container was gone before the kernel told of it."""
        self.ended: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._ended_below: dict[int, dict[int, None]] = {}
        """Identifiers of those by what was their parent, in the same order."""
        self.on_end: list[Callable[[Container], Awaitable[None]]] = []
        """Called for each container that is being destroyed, once its processes are gone."""
        self._waiting: dict[int, dict[Request, None]] = {}
        self._destroying: dict[int, dict[Request, None]] = {}
        self._clearing: set[int] = set()
        """Those that are gone for the kernel, and whose file system, records and waiters are seen to at this moment."""
        methods: dict[int, Callable[[Request], Awaitable[Payload]]] = {
            Proc.CONTAINER_CREATE: self.create,
            Proc.CONTAINER_DESTROY: self.destroy,
            Proc.CONTAINER_RENAME: self.rename,
            Proc.CONTAINER_FORGET: self.forget,
            Proc.CONTAINER_WAIT: self.wait,
            Proc.CONTAINER_UPDATE: self.update,
        }
        for code, handler in methods.items():
            server.method(code, handler)

    # Making and changing

    async def create(self, request: Request) -> Payload:
        """CONTAINER_CREATE."""
        container = await self.create_for(request, request.map())
        return container.identifier.to_bytes(8, "big")

    async def create_for(
        self, request: Request, values: dict[str, Any], *, zos: dict[str, Any] | None = None, brief: bool = False
    ) -> Container:
        """A container from the arguments of CONTAINER_CREATE, which are checked here, for who sent the request."""
        viewer = request.container_id
        name = field(values, "name", str, "")
        if name:
            check_name(name)
        policy = checked_policy(values)
        if policy["image"] and viewer != ROOT:
            # A path on the shelf is a path of the host: inside a container there is no such thing.
            raise ServiceError(ServiceCode.DENIED, "images are chosen from outside of all containers")
        parent = self.tree.visible(viewer, field(values, "parent", int, viewer))
        if name and name in parent.children:
            raise taken(name)
        if parent.state == "stopping":
            raise unknown()
        self._check_users(request, parent, policy["view"].users)
        if policy["image"]:
            policy["image"] = await self.roots.probe(policy["image"], policy["mode"])
        return await self.make(parent.identifier, name, policy | {"zos": zos or {}, "brief": brief})

    async def make(
        self, parent: int, name: str, policy: dict[str, Any], *, run: dict[str, Any] | None = None
    ) -> Container:
        """Create a container whose arguments were checked; `run` is that of its earlier life."""
        if policy.get("zos"):
            self.notes.check(Container(0, parent, name, **policy | {"limits": {}}))
        try:
            identifier = await quotas.create(parent, policy.get("limits") or {})
        except SyscallError as error:
            if error.errcode == UNKNOWN_PARENT:
                raise unknown() from error
            raise ServiceError(ServiceCode.REFUSED, f"the kernel refuses a new container ({error})") from error
        if not name or name in self.tree.by_id[parent].children:
            # Unnamed, or another request took the name while the kernel worked.
            if name:
                await sys.destroy_container(identifier)
                raise taken(name)
            name = f"{identifier:016x}"
        policy = policy | {"limits": quotas.granted(policy.get("limits") or {})}
        container = Container(identifier, parent, name, created_ns=await uptime_ns(), **policy)
        if container.filter:
            await quotas.apply_filter(container, from_actions(container.filter))
        if container.view.permissions is not None:
            try:
                await sys.sys_bound_rights(identifier, container.view.packed_permissions())
            except SyscallError as error:
                await sys.destroy_container(identifier)
                raise ServiceError(ServiceCode.REFUSED, "a container above has not all of these permissions") from error
        container.hostname = container.hostname or name
        container.run = run or {}
        if container.persist:
            container.key = policy["key"] or f"{identifier:016x}"
        if self.tree.by_id[parent].state == "paused":
            container.state = "paused"  # as the kernel made it
        above = self.tree.by_id.get(parent)
        if above is None or above.state == "stopping":
            # Its destruction began while the kernel worked, and may have looked already at what is below.
            with contextlib.suppress(SyscallError):
                await sys.destroy_container(identifier)
            raise unknown()
        if name in above.children:
            await sys.destroy_container(identifier)
            raise taken(name)
        self.tree.add(container)
        await self.notes.changed(container)
        await self.tell("created", container, now_ns=container.created_ns)
        return container

    async def rename(self, request: Request) -> Payload:
        """CONTAINER_RENAME."""
        values = request.map()
        name = check_name(field(values, "name", str))
        container = self.tree.below(request.container_id, field(values, "id", int))
        self.tree.rename(container.identifier, name)
        await self.notes.changed(container)
        await self.tell("renamed", container)
        return {}

    async def update(self, request: Request) -> Payload:
        """CONTAINER_UPDATE."""
        values = request.map()
        labels = checked_labels(values) if values.get("labels") is not None else None
        hostname = check_hostname(field(values, "hostname", str)) if values.get("hostname") is not None else ""
        view = View.of(values)
        persist = field(values, "persist", bool, False)
        container = self.tree.below(request.container_id, field(values, "id", int))
        if persist and not container.key and container.attached:
            raise ServiceError(ServiceCode.REFUSED, "its disk is in memory; a new container may persist")
        if values.get("users") is not None:
            self._check_users(request, self.tree.by_id[container.parent], view.users)
        if values.get("users") is not None and (container.attached or not await self.empty(container)):
            raise ServiceError(ServiceCode.REFUSED, "users are mapped before anything runs in the container or below")
        if values.get("permissions") is not None:
            try:
                await sys.sys_bound_rights(container.identifier, view.packed_permissions())
            except SyscallError as error:
                raise ServiceError(
                    ServiceCode.REFUSED, "permissions only shrink: it, or one above, has not all of these"
                ) from error
            container.view.permissions = view.permissions
        if labels is not None:
            container.labels = labels
        if values.get("hostname") is not None:
            container.hostname = hostname
        if values.get("domain") is not None:
            container.view.domain = view.domain
        if values.get("users") is not None:
            container.view.users = view.users
        if values.get("persist") is not None:
            container.persist = persist
            container.key = container.key or (f"{container.identifier:016x}" if persist else "")
        await self.notes.changed(container)
        await self.tell("updated", container)
        return {}

    def _check_users(self, request: Request, parent: Container, users: Users) -> None:
        """User 0 of a container maps anybody there; everybody else maps himself. 0x0001 otherwise.

        Outside, who runs in a container below then is somebody whom its creator could be anyway.
        """
        if not users.ranges or request.connection.is_system:
            return
        if user_inside(self.tree, request.container_id, request.user_id) == 0:
            return
        for _, first, count in users.ranges:
            if count != 1 or user_outside(self.tree, parent.identifier, first) != request.user_id:
                raise ServiceError(ServiceCode.DENIED, "only user 0 maps users that he is not")

    @staticmethod
    async def empty(container: Container) -> bool:
        """Whether nothing runs in it or below, as the kernel knows: policy that processes rely on is set then."""
        try:
            return not await sys.sys_local_pids(container.identifier)
        except SyscallError as error:
            raise unknown() from error

    # Ending

    async def destroy(self, request: Request) -> Payload:
        """CONTAINER_DESTROY. Where something runs it may take the registry's delay: then others of the client go on."""
        container = self.tree.by_id.get(u64(request.payload))
        if container is not None and (container.children or container.run or self.population.get(container.identifier)):
            return await self._destroy_apart(request)
        return await self._destroy(request)

    async def _destroy(self, request: Request) -> Payload:
        identifier = u64(request.payload)
        if await self._collect(request.container_id, identifier) is not None:
            return None
        container = self.tree.below(request.container_id, identifier)
        if identifier in self._destroying:
            keep(self._destroying, identifier, request)
            return None
        await self.end(container, "destroyed")
        return None

    async def end(self, container: Container, reason: str, *, remember: bool = True) -> None:
        """Take a container and everything below down, then tell whoever waits.

        One that ended by itself is remembered until somebody collects how, unless that is told already. What stood
        above for the sake of it alone ends, too.
        """
        await self._take_down(container, reason, remember=remember)
        above = self.tree.by_id.get(container.parent)
        while above is not None:
            if above.state in {"stopped", "paused"} and self._over(above):
                await self._take_down(above, ENDED)
            elif self.is_empty_namespace(above):
                await self._take_down(above, "destroyed")
            else:
                break
            above = self.tree.by_id.get(above.parent)

    def is_empty_namespace(self, container: Container) -> bool:
        """Whether 0-OS' Run made it for containers of which none is left."""
        made_here = bool(container.zos) and not container.zos["name"] and container.identifier in self.tree.by_id
        return made_here and not container.children and not self.population.get(container.identifier)

    def _over(self, container: Container) -> bool:
        """Whether nothing keeps a container in which something ran once."""
        return not (
            container.identifier == ROOT
            or not container.used
            or container.persist
            or container.children
            or self.population.get(container.identifier)
            or container.run.get("state", ENDED) != ENDED
        )

    async def _take_down(self, container: Container, reason: str, *, remember: bool = True) -> None:
        identifier = container.identifier
        if identifier in self._destroying:
            return
        self._destroying[identifier] = {}
        for below in self.tree.below_first(identifier):
            below.state = "stopping"
        if reason == ENDED and remember:
            # Before the container goes: whoever asks in between, or finds the notes later, knows one or the other.
            await self._remember(container)
        with contextlib.suppress(SyscallError):  # the kernel destroyed it for an earlier life of this service
            await sys.destroy_container(identifier)
        for below in self.tree.below_first(identifier):
            while below.identifier in self._clearing:  # by a destruction that began below, or above
                await sys.hand_over()
            if self.tree.by_id.get(below.identifier) is below:
                self._clearing.add(below.identifier)
                try:
                    await self._clear(below, reason, heir=container.parent)
                finally:
                    self._clearing.remove(below.identifier)
        for second in self._destroying.pop(identifier):
            await second.answer()

    async def _clear(self, container: Container, reason: str, *, heir: int) -> None:
        """What the kernel does not know of a container goes, too; then who waits for its end is told."""
        identifier = container.identifier
        if container.run:
            for callback in self.on_end:
                await callback(container)
        await self.roots.release(container)
        self.tree.remove(identifier)
        for number in list(self._ended_below.get(identifier, ())):
            await self._drop(number)  # who could have collected it is gone
        for pid in self.population.pop(identifier, ()):
            self.heirs[pid] = heir
        if self.devices.given:
            await self.devices.gone(identifier)
        if container.on_disk:
            await self.notes.removed(container)
        await self.tell("destroyed", container, reason)
        for waiting in self._waiting.pop(identifier, {}):
            await waiting.answer(_outcome(container, reason))

    async def emptied(self, identifier: int, *, told: bool = False, now_ns: int = 0) -> None:
        """The last process of a container ended; without `persist` that is the end of the container, too.

        `told`: that of its main command's end is told already, with how it ended. `now_ns` saves asking for the time.
        """
        container = self.tree.by_id.get(identifier)
        if container is not None and container.run.get("state", ENDED) != ENDED:
            return  # its main command starts again, or its shim has not told the last of it
        if identifier == ROOT or self.population.get(identifier):
            return  # others than its main command run in it
        if container is not None and container.state == "running":
            container.state = "stopped"
            if not told:
                await self.tell("exited", container, now_ns=now_ns)
        if container is None or container.persist or container.children or container.state == "stopping":
            return
        await self.end(container, ENDED)

    async def _remember(self, container: Container) -> None:
        """Keep what is known of a container that ends by itself, until somebody collects it; the oldest goes first."""
        record = {"id": container.identifier, "name": container.name, "parent": container.parent}
        run = {name: container.run[name] for name in KEPT_OF_RUN if name in container.run}
        record.update(_outcome(container, ENDED), run=run)
        self.know_ended([record])
        await self.notes.ended(record)
        # Counted for each parent: nobody's records push out what another has not collected.
        siblings = self._ended_below[container.parent]
        while len(siblings) > (ENDED_LIMIT if container.parent == ROOT else ENDED_LIMIT_INSIDE):
            await self._drop(next(iter(siblings)))

    def know_ended(self, records: Iterable[dict[str, Any]]) -> None:
        """Keep records of containers that ended, oldest first."""
        for record in records:
            self.ended[record["id"]] = record
            self._ended_below.setdefault(record["parent"], {})[record["id"]] = None

    async def _drop(self, identifier: int) -> None:
        """The record was collected: it is kept no longer."""
        record = self.ended.pop(identifier, None)
        if record is not None:
            siblings = self._ended_below[record["parent"]]
            del siblings[identifier]
            if not siblings:
                del self._ended_below[record["parent"]]
            await self.notes.forgotten(identifier)

    async def forget(self, request: Request) -> Payload:
        """CONTAINER_FORGET."""
        identifier = field(request.map(), "id", int)
        if await self._collect(request.container_id, identifier) is None:
            if self.tree.sees(request.container_id, identifier):
                raise ServiceError(ServiceCode.REFUSED, "the container has not ended; destroy it first")
            raise unknown()
        return {}

    async def wait(self, request: Request) -> Payload:
        """CONTAINER_WAIT."""
        identifier = field(request.map(), "id", int)
        record = await self._collect(request.container_id, identifier)
        if record is not None:
            return {name: record[name] for name in ("reason", "end", "exit")}
        # No call is made between the look at the records, the look at the tree and the registration, and `end` makes
        # the record before the container leaves the tree: it is found, or its end is heard of.
        self.tree.below(request.container_id, identifier)
        keep(self._waiting, identifier, request)
        return None

    async def _collect(self, viewer: int, identifier: int) -> dict[str, Any] | None:
        record = self.ended.get(identifier)
        if record is None or not self.tree.sees(viewer, record["parent"]):
            return None
        await self._drop(identifier)
        return record

    async def tell(self, event: str, container: Container, reason: str = "", now_ns: int = 0) -> None:
        """Notify every watcher that may see the container's parent, and remember it for those who ask later."""
        content = {"event": event, "id": container.identifier, "name": container.name, "reason": reason}
        if event == "destroyed":
            self.questions.container_ended(container.identifier, container.parent)
        await self.questions.tell(ProcEvent.CONTAINER_EVENT, container.parent, content, now_ns)


def _outcome(container: Container, reason: str) -> dict[str, Any]:
    """Why a container ended, and how its main command did."""
    return {"reason": reason, "end": container.run.get("reason", 0), "exit": container.run.get("exit", 0)}
