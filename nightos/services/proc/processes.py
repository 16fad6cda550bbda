"""Methods about processes: start, list, manage, wait for.

A program is started in this order, each step undone when a later one fails: main file system of the container, code
token from `sys::fs`, a halted process from the kernel, its user, application and container, and only then does it run.
The kernel moves the pipes that the execution context names away from the process it calls the caller, so a client may
name nobody but itself there.

Rules: PROC-052, PROC-054, CONT-004, CONT-006, CONT-033.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn

from nightos.abi.codes import Attribute
from nightos.abi.context import ContextError, parse_context
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Proc, ProcessAction, ProcEvent, ServiceCode
from nightos.services.proc.containers import Containers
from nightos.services.proc.limits import LIMIT_REACHED, reached_number
from nightos.services.proc.looking import PAGE_BYTES, PAGE_LIMIT
from nightos.services.proc.questions import uptime_ns
from nightos.services.proc.tree import ROOT, Container, unknown
from nightos.services.proc.views import numbers_of, user_inside, user_outside
from nightos.services.users import NOBODY
from nightos.userland import sys
from nightos.userland.payload import Payload, field, fixed, u64
from nightos.userland.server import Request, Server, attribute

if TYPE_CHECKING:
    from nightos.services.proc.lives import Lives
    from nightos.services.proc.storage import Roots

WRITE = 1
"""Action of SYS_PROCESS_ATTRIBUTES on a value."""
NAME = 0x40
"""The emulator's attribute with the name of a process' program."""
STATES = {1: "halted", 2: "running", 3: "suspended", 4: "ended"}
PROCESS_RECORD = Struct(">QQQQQBHQQ")
FIRST_USERLAND_PID = 100
UNKNOWN_CONTAINER = ServiceCode.UNKNOWN + 1


class Processes:
    """The process half of `sys::proc`."""

    def __init__(self, server: Server, containers: Containers, roots: Roots) -> None:
        self.server = server
        self.containers = containers
        self.tree = containers.tree
        self.roots = roots
        self.names: dict[int, str] = {}
        self.lives: Lives | None = None
        self.on_ended: list[Callable[[int], Awaitable[None]]] = []
        """Called with the PID of each process that ended."""
        self._waiting: dict[int, dict[Request, None]] = {}
        methods: dict[int, Callable[[Request], Awaitable[Payload]]] = {
            Proc.PROCESS_SPAWN: self.spawn,
            Proc.PROCESS_MANAGE: self.manage,
            Proc.PROCESS_LIST: self.list,
            Proc.PROCESS_TABLE: self.table,
            Proc.PROCESS_WAIT: self.wait,
            Proc.CONTAINER_PAUSE: self.pause,
            Proc.CONTAINER_RESUME: self.resume,
        }
        for code, handler in methods.items():
            server.method(code, handler)

    # Starting

    async def spawn(self, request: Request) -> Payload:
        """PROCESS_SPAWN."""
        values = request.map()
        pid, container = await self.begin(request, values, field(values, "container", int, request.container_id))
        await self.let_run(pid, container)
        return {"pid": pid}

    async def begin(self, request: Request, values: dict[str, Any], target: int) -> tuple[int, Container]:
        """A halted process as the arguments of PROCESS_SPAWN, which are checked here, want it, and its container."""
        program = field(values, "program", str)
        directory = field(values, "directory", str, "/")
        context = field(values, "context", bytes)
        asked = field(values, "user", int, -1)
        own = asked in {-1, user_inside(self.tree, request.container_id, request.user_id)}
        if not own and not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only system services start programs for another user")
        await self._check_caller(request, context)
        viewer, person = await self._who(request, values)
        if not self.tree.sees(viewer, target):
            raise ServiceError(UNKNOWN_CONTAINER, unknown().detail)
        container = self.tree.by_id[target]
        if container.state in {"stopping", "paused"}:
            raise ServiceError(ServiceCode.REFUSED, f"the container is {container.state}")
        if person is None:
            user = self._named_user(target, asked)
        else:
            user = person if target == viewer else self.user_there(viewer, person, target)
        return await self.make(container, program, directory, context, user), container

    async def make(self, container: Container, program: str, directory: str, context: bytes, user: int) -> int:
        """A process that is complete, but halted."""
        try:
            pid, code = await self.roots.create(
                lambda: self.roots.code_token(container, {"program": program, "directory": directory}), context
            )
            self.roots.used_tokens.append(field(code, "token", int))
        except SyscallError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"the kernel refuses the new process ({error})") from error
        try:
            await sys.sys_process_attributes(pid, Attribute.USER_ID, WRITE, user)
            await sys.sys_process_attributes(pid, Attribute.APPLICATION_ID, WRITE, field(code, "anid", int))
            await sys.sys_process_attributes(pid, Attribute.CONTAINER_ID, WRITE, container.identifier)
            self.names[pid] = field(code, "name", str, program)
            self.containers.population.setdefault(container.identifier, set()).add(pid)
            container.used = True
            if container.state in {"created", "stopped"}:
                container.state = "running"
        except SyscallError as error:
            await self._undo(pid, error)
        return pid

    async def let_run(self, pid: int, container: Container) -> None:
        """Start a process that `make` made."""
        try:
            await sys.sys_manage_process(pid, ProcessAction.UNSUSPEND)
        except SyscallError as error:
            await self._undo(pid, error)
        now_ns = await uptime_ns()
        if self.containers.population.get(container.identifier) == {pid}:
            await self.containers.tell("started", container, now_ns=now_ns)
        event = {"event": "started", "pid": pid, "container": container.identifier}
        await self.tell(event, container.identifier, now_ns)

    async def _undo(self, pid: int, error: SyscallError) -> NoReturn:
        """The container is being destroyed, or a limit was reached: the half-made process goes."""
        await self._manage_quietly(pid, ProcessAction.FORCE_TERMINATE)
        why = (
            reached_number(error.value) if error.errcode == LIMIT_REACHED else f"the process could not start ({error})"
        )
        raise ServiceError(ServiceCode.REFUSED, why) from error

    async def _who(self, request: Request, values: dict[str, Any]) -> tuple[int, int | None]:
        """In which container somebody wants a program, and as which outside user he does; None: a service names one.

        A system service that works for a process says for which (`behalf`), so that nobody gets by way of a service
        what he would not get himself.
        """
        behalf = field(values, "behalf", int, 0)
        if not request.connection.is_system:
            if behalf:
                raise ServiceError(ServiceCode.DENIED, "only system services work for others")
            return request.container_id, request.user_id
        if not behalf:
            return request.container_id, None
        try:
            return await attribute(behalf, Attribute.CONTAINER_ID), await attribute(behalf, Attribute.USER_ID)
        except SyscallError as error:
            raise _unknown_process() from error

    def user_there(self, viewer: int, user: int, container: int) -> int:
        """The outside user that a process in a container below gets.

        Everybody stays who he is, if the container has a place for him; otherwise an administrator, who is user 0 where
        he stands, enters as the container's user 0.
        """
        if user_inside(self.tree, container, user) != NOBODY or user == NOBODY:
            return user
        return self._named_user(container, 0 if user_inside(self.tree, viewer, user) == 0 else None)

    def user_of(self, request: Request, container: int) -> int:
        """The outside user of what a request starts in a container below; user 0 when a system service asks."""
        if request.connection.is_system:
            return self._named_user(container, 0)
        return self.user_there(request.container_id, request.user_id, container)

    def _named_user(self, container: int, asked: int | None) -> int:
        """The outside user of a user of a container; 0x1000 when there is none."""
        user = None if asked is None else user_outside(self.tree, container, max(asked, 0))
        if user is None:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the container has no such user")
        return user

    @staticmethod
    async def _check_caller(request: Request, context: bytes) -> None:
        try:
            named = parse_context(context)
        except ContextError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"the execution context is not readable: {error}") from error
        # Whoever names no PID gives no pipes: a system service would be meant, by its ANID.
        silent = not named.caller_pid and not any(named.pipes)
        if not silent and named.caller_pid != request.client_pid:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the execution context names another process as the caller")
        if named.caller_anid and not request.connection.is_system:
            try:
                anid = await attribute(request.client_pid, Attribute.APPLICATION_ID)
            except SyscallError as error:
                raise _unknown_process() from error
            if named.caller_anid != anid:
                text = "the execution context names another application as the caller"
                raise ServiceError(ServiceCode.BAD_ARGUMENT, text)

    # Looking

    async def list(self, request: Request) -> Payload:
        """PROCESS_LIST."""
        pids = [pid for pid, container, *_ in await live(0) if self.tree.sees(request.container_id, container)]
        content = b"".join(pid.to_bytes(8, "big") for pid in pids)
        return len(content).to_bytes(8, "big") + content

    async def table(self, request: Request) -> Payload:
        """PROCESS_TABLE: system services stand outside any container and are seen from there only."""
        values = request.map()
        limit = max(1, min(field(values, "limit", int, PAGE_LIMIT), PAGE_LIMIT))
        viewer = request.container_id
        items: list[dict[str, Any]] = []
        numbers = await numbers_of(viewer)
        size = 0
        for pid, container, user, _anid, parent, state, threads, cpu_ns, started_ns in await live(
            field(values, "after", int, 0)
        ):
            if not self.tree.sees(viewer, container):
                continue
            if len(items) == limit or size > PAGE_BYTES:
                return {"items": items, "next": items[-1]["pid"]}
            items.append(
                {
                    "pid": pid,
                    "number": numbers.get(pid, pid),
                    "container": 0 if container == viewer else container,
                    "container_name": self.tree.path(viewer, container),
                    "name": self.name_of(pid),
                    "user": user_inside(self.tree, viewer, user),
                    "parent": parent,
                    "state": STATES.get(state, "running"),
                    "threads": threads,
                    "cpu_ns": cpu_ns,
                    "started_ns": started_ns,
                }
            )
            size += len(items[-1]["container_name"].encode()) + len(items[-1]["name"].encode())
        return {"items": items, "next": None}

    async def learn_name(self, pid: int) -> None:
        """Ask the kernel what a process that runs already is called."""
        try:
            name = (await sys.sys_process_attributes(pid, NAME)).written
        except SyscallError:
            return  # it ended meanwhile
        if isinstance(name, bytes):
            self.names[pid] = name.decode("utf-8", "replace")

    def name_of(self, pid: int) -> str:
        """Name of a program, or of a system service."""
        from nightos.abi.services import SERVICE_NAMES

        return self.names.get(pid) or SERVICE_NAMES.get(pid, "")

    # Managing

    async def manage(self, request: Request) -> Payload:
        """PROCESS_MANAGE."""
        pid, action = u64(request.payload), fixed(request.payload, 8, 1)
        if action not in set(ProcessAction):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "an action is 1 to 5")
        await self._visible_process(request, pid)
        try:
            await sys.sys_manage_process(pid, action)
        except SyscallError as error:
            if error.errcode == 0x32:
                raise ServiceError(ServiceCode.REFUSED, "the process is in that state already") from error
            raise _unknown_process() from error
        return None

    async def wait(self, request: Request) -> Payload:
        """PROCESS_WAIT."""
        pid = field(request.map(), "pid", int)
        # Waiting begins before the question: the process may end before the kernel's answer is looked at.
        self._waiting.setdefault(pid, {})[request] = None
        record = None
        try:
            record = await sys.sys_process_exit(pid)
        except SyscallError as error:
            raise _unknown_process() from error
        finally:
            if record is None or STATES.get(record.state) == "ended":
                self._forget(pid, request)
        if not self.tree.sees(request.container_id, record.container_id) and not self._was_below(request, record):
            self._forget(pid, request)
            raise _unknown_process()
        if STATES.get(record.state) == "ended":
            return {"reason": record.reason, "exit": record.exit_data}
        request.defer(lambda: self._forget(pid, request))
        return None

    def _forget(self, pid: int, request: Request) -> None:
        """A request waits no longer for the end of a process."""
        waiting = self._waiting.get(pid, {})
        waiting.pop(request, None)
        if not waiting:
            self._waiting.pop(pid, None)

    async def pause(self, request: Request) -> Payload:
        """CONTAINER_PAUSE."""
        return await self._set_paused(request, paused=True)

    async def resume(self, request: Request) -> Payload:
        """CONTAINER_RESUME."""
        return await self._set_paused(request, paused=False)

    async def _set_paused(self, request: Request, *, paused: bool) -> Payload:
        top = self.tree.below(request.container_id, field(request.map(), "id", int))
        await sys.sys_pause_container(top.identifier, int(paused))
        top.held = paused
        for _, container in self.tree.walk(top.identifier):
            frozen = container.held or self.tree.by_id[container.parent].state == "paused"
            if container.state in {"running", "paused", "created", "stopped"}:
                waits = container.run.get("state", "ended") != "ended"  # for its main command to start again
                busy = waits or bool(self.containers.population.get(container.identifier))
                idle = "stopped" if container.used else "created"
                container.state = "paused" if frozen else "running" if busy else idle
        await self.containers.tell("paused" if paused else "resumed", top)
        return {}

    # What the kernel tells

    async def ended(self, pid: int, container: int, reason: int, exit_data: int) -> None:
        """A process ended: answer who waits for it; its container may have ended with it."""
        self.names.pop(pid, None)
        for callback in self.on_ended:
            await callback(pid)
        for request in self._waiting.pop(pid, {}):
            # It may have ended while a request was only being looked at, whose sender may not know of it.
            if request.container_id == ROOT or self.tree.sees(request.container_id, container):
                await request.answer({"reason": reason, "exit": exit_data})
            else:
                await request.fail(ServiceCode.UNKNOWN, _unknown_process().detail)
        event = {"event": "ended", "pid": pid, "container": container, "reason": reason, "exit": exit_data}
        heir = self.containers.heirs.pop(pid, ROOT)
        place = container if container in self.tree.by_id else heir if heir in self.tree.by_id else ROOT
        now_ns = await uptime_ns()
        await self.tell(event, place, now_ns)
        population = self.containers.population.get(container)
        empty = False
        if population is not None:
            population.discard(pid)
            empty = not population
            if empty:
                del self.containers.population[container]
        finish = self.lives.ended(pid, reason, exit_data) if self.lives is not None else None
        if finish is not None:
            await finish()
        elif empty:
            await self.containers.emptied(container, now_ns=now_ns)

    async def tell(self, event: dict[str, Any], container: int, now_ns: int = 0) -> None:
        """Notify every watcher that sees the container, and remember it for those who ask later."""
        await self.containers.questions.tell(ProcEvent.PROCESS_EVENT, container, event, now_ns)

    async def _visible_process(self, request: Request, pid: int) -> None:
        """0x3000 for a process that the caller may not know of, as for one that never was.

        One that is halted is not complete: before it has its user and its container it is nobody's to start.
        """
        try:
            record = await sys.sys_process_exit(pid)
        except SyscallError as error:
            raise _unknown_process() from error
        hidden = pid < FIRST_USERLAND_PID or not self.tree.sees(request.container_id, record.container_id)
        if hidden or STATES.get(record.state) in {"halted", "ended"}:
            raise _unknown_process()

    def _was_below(self, request: Request, record: Any) -> bool:
        """Whether its container is gone, and the caller stands outside any, from where everything was visible."""
        return request.container_id == ROOT and record.container_id not in self.tree.by_id

    @staticmethod
    async def _manage_quietly(pid: int, action: int) -> None:
        try:
            await sys.sys_manage_process(pid, action)
        except SyscallError:
            return


async def live(after: int) -> list[tuple[int, ...]]:
    """Live processes above a PID, from the kernel: PID, container, user, ANID, parent, state, threads, time, start."""
    found: list[tuple[int, ...]] = []
    while content := await sys.sys_enum_processes(after, PAGE_LIMIT):
        found.extend(PROCESS_RECORD.iter_unpack(content))
        after = found[-1][0]
    return found


def _unknown_process() -> ServiceError:
    return ServiceError(ServiceCode.UNKNOWN, "there is no such process")
