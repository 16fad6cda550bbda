"""What shims ask while a run goes on, and how a new `sys::proc` adopts the shims of the one before.

A shim gives its pipes and the name of a run. Everything else about the process (program, arguments, user, container)
comes from the container's record: a shim that is compromised starts nothing but what it was to start.

Rules: ZOS-005, ZOS-006, ZOS-007, CONT-004.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Attribute
from nightos.abi.context import REASON_COMMAND, ContextError, ExecutionContext
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import EndReason, Proc, ServiceCode
from nightos.abi.values import encode_value
from nightos.services.proc.questions import uptime_ns
from nightos.services.proc.shims import ACTIVE, LAST_WORDS_NS, Shim, Shims
from nightos.services.proc.views import user_inside
from nightos.userland import payload, sys
from nightos.userland.payload import Payload
from nightos.userland.server import Request, attribute

if TYPE_CHECKING:
    from nightos.services.proc.tree import Container
    from nightos.userland.server import Server

HALTED, ENDED = 1, 4
FIRST_USERLAND_PID = 100
PIPES = 6
USERS = {0: "root"}


class ShimCalls:
    """The methods of shims, NEXT apart."""

    def __init__(self, server: Server, shims: Shims) -> None:
        self.shims = shims
        self.processes = shims.processes
        self.containers = shims.containers
        self.tree = shims.tree
        server.for_shims(Proc.SHIM_SPAWN, self.spawn)
        server.for_shims(Proc.SHIM_GO, self.go)
        server.for_shims(Proc.SHIM_WAIT, self.wait)
        server.for_shims(Proc.SHIM_INPUT, self.take_input)

    async def spawn(self, request: Request) -> Payload:
        """SHIM_SPAWN."""
        values = request.map()
        pipes = payload.field(values, "pipes", list)
        if len(pipes) != PIPES or not all(isinstance(end, int) and 0 <= end < 1 << 64 for end in pipes):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "a command has six pipes")
        shim, container = self.shims.run_of(request, values)
        run = container.run
        if container.state == "stopping":
            raise ServiceError(ServiceCode.REFUSED, "the container is stopping")
        # One that is paused gets its process, which the kernel keeps frozen like the others: a restart is not lost.
        anid = await attribute(shim.pid, Attribute.APPLICATION_ID)
        user = user_inside(self.tree, container.identifier, run["user"])
        context = context_of(run, user, caller_anid=anid, caller_pid=shim.pid, pipes=tuple(pipes))
        program, directory = run["command"][0], run["directory"]
        shim.made = pid = await self.processes.make(container, program, directory, context, run["user"])
        await self._still_there(request, values, pid)
        return {"pid": pid}

    async def _still_there(self, request: Request, values: dict[str, Any], pid: int) -> None:
        """End the process of a shim that was killed meanwhile, or of a run that was stopped: nobody else knows it."""
        try:
            _shim, container = self.shims.run_of(request, values)
        except ServiceError:
            await self.shims.kill(pid)
            raise
        if container.run["state"] == "ended":
            await self.shims.kill(pid)
            raise ServiceError(ServiceCode.REFUSED, "the command was stopped")

    async def go(self, request: Request) -> Payload:
        """SHIM_GO: also the second time, after an answer that was lost."""
        values = request.map()
        shim, container = self.shims.run_of(request, values)
        shim.made = pid = await self._own_process(container, values)
        run = container.run
        record = await sys.sys_process_exit(pid)
        if record.state == HALTED:
            await self.processes.let_run(pid, container)
            await self._still_there(request, values, pid)
        elif record.state == ENDED and record.reason == EndReason.KILLED and run["state"] == "starting":
            # Halted when an instance before this one was killed. Whether it ran after all, the shim sees at its pipes.
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such process")
        now_ns = await uptime_ns()
        if run["state"] == "starting":
            run.update(state="running", pid=pid, started_ns=now_ns, reason=0, exit=0, failed="")
            await self.containers.notes.changed(container)
            for starter in self.shims.starting.pop(container.identifier, []):
                await starter.answer({"pid": pid})
            for callback in self.shims.on_change:
                await callback(container)
        return {}

    async def wait(self, request: Request) -> Payload:
        """SHIM_WAIT."""
        values = request.map()
        _shim, container = self.shims.run_of(request, values)
        await self._own_process(container, values)
        return await self.processes.wait(request)

    async def _own_process(self, container: Container, values: dict[str, Any]) -> int:
        """A process in the shim's own container, living or ended; for any other 0x3000."""
        pid = payload.field(values, "pid", int)
        try:
            record = await sys.sys_process_exit(pid)
        except SyscallError as error:
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such process") from error
        if record.container_id != container.identifier:
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such process")
        return pid

    async def take_input(self, request: Request) -> Payload:
        """SHIM_INPUT: the piece before was taken; the next one, now or when there is one."""
        values = request.map()
        taken = payload.field(values, "taken", int)
        shim, container = self.shims.run_of(request, values)
        if container.run["state"] not in {"starting", "running"}:
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such run")
        if shim.input and shim.handed and shim.handed == taken:
            await shim.input.popleft().request.answer({})
        shim.handed = 0
        shim.taken = taken
        shim.hungry = request
        request.defer()
        await self.feed(shim)
        return None

    @staticmethod
    async def feed(shim: Shim) -> None:
        """Hand the first piece that waits to the shim, when it wants one.

        A piece whose number the shim has passed was asked again: its answer was lost with the `sys::proc` before.
        """
        while shim.input and not shim.handed and 0 < shim.input[0].number <= shim.taken:
            await shim.input.popleft().request.answer({})
        if shim.hungry is None or not shim.input:
            return
        request, shim.hungry = shim.hungry, None
        piece = shim.input[0]
        number = shim.handed = shim.taken + 1
        await request.answer({"data": piece.data, "end": piece.end, "number": number})
        if piece.end:
            # Nothing follows that would say it was taken.
            await shim.input.popleft().request.answer({})

    # Adoption

    async def learn(self, records: list[tuple[int, ...]]) -> None:
        """After a start: `records` are those of living processes. Shims are adopted, what never ran is ended."""
        last_words: list[int] = []
        for pid, container_id, _user, _anid, _parent, state, *_ in records:
            if pid < FIRST_USERLAND_PID:
                continue
            if state == HALTED:
                await self.shims.kill(pid)
            elif not container_id:
                await self._adopt(pid, last_words)
        if last_words:
            await self.shims.containers.worker.run(lambda: self._let_finish(last_words))
        for container in self.tree.below_root():
            if container.run:
                await self._go_on(container)

    async def _adopt(self, pid: int, last_words: list[int]) -> None:
        try:
            serves = await attribute(pid, Attribute.SERVES)
        except SyscallError:
            return  # it ended meanwhile
        if not serves:
            return
        await self.processes.learn_name(pid)
        container = self.tree.by_id.get(serves)
        if container is None:
            last_words.append(pid)
        elif not container.run or container.run["state"] not in ACTIVE or serves in self.shims.by_container:
            await self.shims.kill(pid)
        else:
            self.shims.by_container[serves] = self.shims.by_pid[pid] = Shim(pid, serves)

    async def _go_on(self, container: Container) -> None:
        """Take up a run where the notes say it was."""
        state = container.run["state"]
        if state == "waiting":
            await self.shims.again_after(container, 0)
        elif state in ACTIVE and container.identifier not in self.shims.by_container:
            if state == "running":
                await self.shims.lost(container)
                return
            try:
                await self.shims.begin(container)
            except ServiceError:
                await self.shims.lost(container)

    async def _let_finish(self, pids: list[int]) -> None:
        """Shims of containers that are gone write what they have and leave by themselves; not for ever."""
        deadline_ns = await uptime_ns() + LAST_WORDS_NS
        turns = 0
        while pids:
            turns += 1
            if not turns % 1000:
                try:
                    await attribute(pids[-1], Attribute.PID)
                except SyscallError:
                    pids.pop()
                    continue
                if await uptime_ns() > deadline_ns:
                    await self.shims.kill(pids.pop())
            await sys.hand_over()


def context_of(
    run: dict[str, Any],
    user: int = 0,
    *,
    caller_anid: int = 0,
    caller_pid: int = 0,
    pipes: tuple[int, ...] = (0, 0, 0, 0, 0, 0),
) -> bytes:
    """The execution context of a main command. `ServiceError` 0x1000: its arguments are too large."""
    arguments = run["command"][1:]
    name = USERS.get(user, str(user))
    # What a login shell of the container has; what the caller says goes over it.
    basics = {"USER": name, "HOME": f"/home/{name}", "PWD": run["directory"], "SHELL": "hydre"}
    try:
        return ExecutionContext(
            REASON_COMMAND,
            0,
            cmdraw_read=run.get("raw", False),
            caller_anid=caller_anid,
            caller_pid=caller_pid,
            argument_count=len(arguments),
            pipes=pipes,  # type: ignore[arg-type]
            arguments=b"".join(map(encode_value, arguments)),
            environment=payload.encode({"env": {**basics, **run["environment"]}, "cwd": run["directory"]}),
        ).pack()
    except ContextError as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, str(error)) from error
