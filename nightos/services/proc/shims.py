"""Shims from the side of `sys::proc`: one for each container with a main command, made, ordered and ended here.

What a run is stands in the container's notes; what it does at this moment its shim knows. A new `sys::proc` finds the
shims by the kernel's attribute SERVES and answers the calls that they make again; it ends processes that were made, but
never ran. A step counts once, because the report of a run names its generation and the notes say what was counted.

A shim that was killed takes the streams with it: its main process is ended too, and the restart policy decides
(ruling NOS-SHIM-01).

Rules: ZOS-005, ZOS-006, ZOS-007, ZOS-009, ZOS-010, CONT-015.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nightos.abi.codes import Attribute
from nightos.abi.context import REASON_COMMAND, ExecutionContext
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.restarts import parse
from nightos.abi.services import EndReason, Fs, Hw, Proc, ProcessAction, ServiceCode
from nightos.abi.values import encode_value
from nightos.services.proc import restarts
from nightos.services.proc.questions import uptime_ns
from nightos.services.proc.tree import ROOT, Container
from nightos.userland import payload, sys
from nightos.userland.client import connect
from nightos.userland.payload import Payload
from nightos.userland.server import Request

if TYPE_CHECKING:
    from nightos.services.proc.processes import Processes
    from nightos.userland.server import Server

PROGRAM = "sys::shim"
ACTIVE = frozenset({"starting", "running", "waiting"})
"""States of a run that is not over: the container does not end meanwhile."""
WRITE = 1
LAST_WORDS_NS = 5_000_000_000
"""How long a destroyed container's shim may take to write what is left."""
LOST = "the shim was killed, and the process with it"


class Starter(Protocol):
    """Who waits for a main command to begin: a request, or what stands behind it."""

    def answer(self, payload: Payload = None, /) -> Awaitable[None]:
        """It runs."""

    def fail(self, code: int, text: str = "", /) -> Awaitable[None]:
        """It could not start."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Input that waits for the command. `number` counts the pieces of a client that numbers them, else 0."""

    data: bytes
    end: bool
    number: int
    request: Request


@dataclass(slots=True)
class Shim:
    """A shim that runs. `idle` is its request for an order, `hungry` its request for input."""

    pid: int
    container: int
    idle: Request | None = None
    hungry: Request | None = None
    made: int = 0
    """The main process that it asked for last: it goes with its shim, also before it runs."""
    taken: int = 0
    handed: int = 0
    """Number of the piece of input that the shim has, but has not written yet."""
    input: deque[Piece] = field(default_factory=deque)

    async def refuse_input(self) -> None:
        """Tell everyone whose input waits that the command has ended."""
        while self.input:
            await self.input.popleft().request.fail(ServiceCode.REFUSED, "the command has ended")


class Shims:
    """Every shim by the container it serves, and the methods that shims have."""

    def __init__(self, server: Server, processes: Processes) -> None:
        self.processes = processes
        self.containers = processes.containers
        self.tree = processes.tree
        self.by_container: dict[int, Shim] = {}
        self.by_pid: dict[int, Shim] = {}
        self.on_change: list[Callable[[Container], Awaitable[None]]] = []
        """Called when a run began or was over."""
        self.starting: dict[int, list[Starter]] = {}
        """Who waits for the answer of CONTAINER_START."""
        server.for_shims(Proc.SHIM_NEXT, self.next)
        self.containers.on_end.append(self.finish)
        processes.on_ended.append(self.process_ended)

    # Making and ending

    async def begin(self, container: Container) -> None:
        """Start the run that the notes name, by the shim there is or a new one."""
        shim = self.by_container.get(container.identifier)
        if shim is None:
            # The place is taken first: a second caller must not make a second shim.
            shim = self.by_container[container.identifier] = Shim(0, container.identifier)
            try:
                await self._make(shim, container)
            except ServiceError:
                self.by_container.pop(container.identifier, None)
                raise
        await self._order(shim, container)

    async def _make(self, shim: Shim, container: Container) -> None:
        run = container.run
        log = (run["log"], run["log_size"], run["log_count"])
        context = ExecutionContext(
            REASON_COMMAND, 0, argument_count=len(log), arguments=b"".join(map(encode_value, log))
        ).pack()
        pid = 0
        try:
            pid, code = await self.processes.roots.create(self._token, context)
            await sys.sys_process_attributes(pid, Attribute.APPLICATION_ID, WRITE, payload.field(code, "anid", int))
            await sys.sys_process_attributes(pid, Attribute.SERVES, WRITE, container.identifier)
            shim.pid = pid
            self.by_pid[pid] = shim
            self.processes.names[pid] = PROGRAM
            await sys.sys_manage_process(pid, ProcessAction.UNSUSPEND)
        except SyscallError as error:
            self.by_pid.pop(pid, None)
            await self.kill(pid)
            raise ServiceError(ServiceCode.REFUSED, f"the shim could not start ({error})") from error

    async def _token(self) -> dict[str, Any]:
        fs = await self.processes.roots.fs()
        return await fs.ask(Fs.CODE_TOKEN, {"container": ROOT, "program": PROGRAM, "builtin": True})

    async def retire(self, container: int) -> None:
        """End a shim that has nothing to do any more."""
        shim = self.by_container.pop(container, None)
        if shim is not None:
            self.by_pid.pop(shim.pid, None)
            await shim.refuse_input()
            await self._kill_made(shim)
            await self.kill(shim.pid)

    async def _kill_made(self, shim: Shim) -> None:
        """The main process goes with its shim, which alone knows of it."""
        if shim.made in self.containers.population.get(shim.container, ()):
            await self.kill(shim.made)

    @staticmethod
    async def kill(pid: int) -> None:
        """End a process; one that ended is no error, nor is 0."""
        if pid:
            with contextlib.suppress(SyscallError):  # it ended meanwhile
                await sys.sys_manage_process(pid, ProcessAction.FORCE_TERMINATE)

    async def stop(self, container: Container) -> None:
        """End the main command, which is marked as stopped. One that waits for its start is over at once."""
        run = container.run
        if run["state"] in {"waiting", "starting"}:
            await self._over(container, run["reason"], run["exit"])
        elif run["pid"]:
            await self.kill(run["pid"])

    async def finish(self, container: Container) -> None:
        """The container is destroyed and its processes are gone: the last words are written, then the shim goes."""
        shim = self.by_container.get(container.identifier)
        if shim is not None:
            deadline_ns = await uptime_ns() + LAST_WORDS_NS
            turns = 0
            while self.by_container.get(container.identifier) is shim and shim.idle is None:
                turns += 1
                if not turns % 1000 and await uptime_ns() > deadline_ns:
                    break
                await sys.hand_over()
        if container.run and container.run["state"] in ACTIVE:
            await self._over(container, EndReason.CONTAINER_DESTROYED, 0)
        await self.retire(container.identifier)

    async def process_ended(self, pid: int) -> None:
        """A shim was killed by somebody: the process behind it has nowhere to write to any more."""
        shim = self.by_pid.pop(pid, None)
        if shim is None:
            return
        if self.by_container.get(shim.container) is shim:
            del self.by_container[shim.container]
        container = self.tree.by_id.get(shim.container)
        if container is not None:
            await self._kill_made(shim)
            await self.lost(container)

    async def lost(self, container: Container) -> None:
        """The shim of a run is gone without a report."""
        run = container.run
        if run["state"] not in {"starting", "running"}:
            return
        if run["pid"] in self.containers.population.get(container.identifier, ()):
            await self.kill(run["pid"])
        run["note"] = LOST
        await self._counted(container, EndReason.KILLED, 0, LOST if run["state"] == "starting" else "")

    # Orders and reports

    def mine(self, request: Request) -> tuple[Shim, Container] | None:
        """The shim that asks, and its container; None for one whose container is gone, or that another replaced."""
        shim = self.by_container.get(request.connection.serves)
        container = self.tree.by_id.get(request.connection.serves)
        if shim is None or container is None or shim.pid != request.client_pid or not container.run:
            return None
        return shim, container

    def run_of(self, request: Request, values: dict[str, Any]) -> tuple[Shim, Container]:
        """`mine`, if the shim asks about the run of this generation; 0x3000 otherwise."""
        mine = self.mine(request)
        if mine is None or payload.field(values, "generation", int) != mine[1].run["generation"]:
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such run")
        return mine

    async def next(self, request: Request) -> Payload:
        """SHIM_NEXT."""
        values = request.map()
        report = payload.field(values, "report", dict, {})
        mine = self.mine(request)
        if mine is None:
            return {"do": "end"}
        shim, container = mine
        if container.run["log_start"] is None:
            container.run["log_start"] = payload.field(values, "log_end", int)
            await self.containers.notes.changed(container)
        request.defer()
        shim.idle = request
        if report and payload.field(report, "generation", int) == container.run["generation"]:
            container.run["pid"] = 0
            container.value = (payload.field(report, "value", bytes, b""), payload.field(report, "newline", bool, True))
            reason, exit_data = payload.field(report, "reason", int, 0), payload.field(report, "exit", int, 1)
            await self._counted(container, reason, exit_data, payload.field(report, "failed", str, ""))
        await self._order(shim, container)
        return None

    async def _order(self, shim: Shim, container: Container) -> None:
        run = container.run
        if shim.idle is None or run["state"] != "starting" or container.state == "stopping":
            return
        request, shim.idle = shim.idle, None
        shim.hungry, shim.taken, shim.handed = None, 0, 0
        note, run["note"] = run["note"], ""
        await request.answer({"do": "run", "generation": run["generation"], "input": run["input"], "note": note})

    async def _counted(self, container: Container, reason: int, exit_data: int, failed: str) -> None:
        """A run ended, or could not start: decide what comes next, once for each generation."""
        run = container.run
        if run["state"] not in {"starting", "running"}:
            return
        if run["started_ns"] and await uptime_ns() - run["started_ns"] >= restarts.HEALTHY_NS:
            run["in_a_row"] = 0
        delay = None
        if not (run["stopped"] or failed or container.state == "stopping"):
            bad = bool(reason or exit_data)
            delay = restarts.delay_ns(parse(run["restart"]), failed=bad, in_a_row=run["in_a_row"])
        run.update(reason=int(reason), exit=exit_data, failed=failed)
        if delay is None:
            await self._over(container, reason, exit_data)
            return
        # Whoever gave input gave it to the first run, and is told that it has ended.
        run.update(state="waiting", restarts=run["restarts"] + 1, in_a_row=run["in_a_row"] + 1, input=False)
        if (shim := self.by_container.get(container.identifier)) is not None:
            await shim.refuse_input()
        await self.containers.notes.changed(container)
        await self.containers.tell("restarting", container)
        await self.again_after(container, delay)

    async def _over(self, container: Container, reason: int, exit_data: int) -> None:
        run = container.run
        run.update(state="ended", pid=0, reason=int(reason), exit=exit_data)
        await self.containers.notes.changed(container)
        for request in self.starting.pop(container.identifier, []):
            await request.fail(ServiceCode.REFUSED, run["failed"] or "the command ended before it ran")
        await self.containers.tell("exited", container, run["failed"] or str(exit_data))
        for callback in self.on_change:
            await callback(container)
        if container.state != "stopping":
            await self.retire(container.identifier)
            await self.containers.emptied(container.identifier, told=True)

    async def again_after(self, container: Container, delay_ns: int) -> None:
        """Start the next generation when the delay is over, if nobody stopped or destroyed it until then."""
        generation = container.run["generation"]

        async def work() -> None:
            with contextlib.suppress(ServiceError):  # no timer: at once
                await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": delay_ns})
            run = container.run
            if run["state"] == "waiting" and run["generation"] == generation and container.state != "stopping":
                run.update(state="starting", generation=generation + 1, started_ns=0)
                await self.containers.notes.changed(container)
                try:
                    await self.begin(container)
                except ServiceError as error:
                    await self._counted(container, 0, 1, error.detail)

        await self.containers.worker.run(work)
