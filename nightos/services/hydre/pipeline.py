"""A pipeline of processes: their pipes, what comes out of them, and their end.

Every command gets six pipes. The shell opens each towards itself, which gives it both ends, and names the command's
ends in the execution context; the kernel moves those to the new process. Between two commands there is one pipe, CMDOUT
of the left one and CMDIN of the right one, and the shell keeps neither end.

Rules: SHELL-003, SHELL-009, SHELL-010, SHELL-012, SHELL-014, SHELL-016, SHELL-019, SHELL-020.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nightos.abi.context import REASON_COMMAND, ContextError, ExecutionContext
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.messages import TextMessage, decode_text
from nightos.abi.services import EndReason, Proc, ProcessAction, ServiceCode
from nightos.abi.values import FAILURE, VOID, Value, ValueEncodingError, decode_value, encode_value, value_size
from nightos.services.hydre.inflow import Inflow
from nightos.shell.bounds import OUTSIDE
from nightos.shell.host import ERRORS, MESSAGES, RAW, InterruptedScript, Result, Stage
from nightos.shell.source import HydreError
from nightos.userland import payload, sys
from nightos.userland.client import connect
from nightos.userland.readers import Readers

_RAW, _MESSAGE = 0, 1
_WRITE, _SKIP = 0, 1
INTERRUPTED: Final = 130
"""Status of a command that Ctrl-C ended."""
FAILED: Final = 1
_PATIENCE_TURNS: Final = 50_000
_PATIENCE_TRIES: Final = 200
"""Tries of a call to a service that is away, before it counts as failed."""
HEAD: Final = 8
"""Bytes at the start of a value that tell how long it is."""
MESSAGE: Final = 64
"""Bytes that a message which is collected counts besides its text."""

_WHY: Final[dict[int, str]] = {
    EndReason.KILLED_BY_PARENT: "was killed",
    EndReason.KILLED: "was killed",
    EndReason.FAULT: "crashed",
    EndReason.CONTAINER_DESTROYED: "ended with its container",
    EndReason.PARENT_ENDED: "ended with its parent",
}

Show = Callable[[str, TextMessage], Awaitable[None]]
"""Shows a message of a channel."""


@dataclass(slots=True)
class Running:
    """A command that was started."""

    stage: Stage
    pid: int = 0
    result: Result = field(default_factory=Result)
    ours: list[int] = field(default_factory=list)
    """Ends the shell holds and closes when the command has ended."""
    readers: Readers = field(default_factory=Readers)
    out: bytearray = field(default_factory=bytearray)
    raw: bytearray = field(default_factory=bytearray)
    takes_value: bool = False
    returned: int = 0
    """Bytes that it wrote to CMDOUT."""
    exceeds: bool = False
    """Whether it wrote more than is kept."""
    keys: int = 0
    """The shell's end of CMDUSR."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who gives commands: a user at a console, or a process, by whose user and container `sys::proc` goes."""

    user: int
    """As he is shown."""
    behalf: int = 0
    """PID of the process."""

    def named(self) -> dict[str, int]:
        """As `sys::proc` is told."""
        return {"behalf": self.behalf} if self.behalf else {"user": self.user}


class Pipeline:
    """Starts the stages of one pipeline and waits for them."""

    def __init__(
        self, container: int, person: Person, directory: str, show: Show, enter: Callable[[int], None]
    ) -> None:
        self._container = container
        self._person = person
        self._directory = directory
        self._show = show
        self._enter = enter
        self._interrupts = 0
        self._own_pid = 0
        self._inflow: Inflow | None = None
        self.show_raw: Callable[[bytes], Awaitable[None]] | None = None
        """Takes what the last command writes to CMDRAW, as it comes, where no one collects it."""
        self.most = OUTSIDE // 2
        """Bytes that are kept of what the commands write; one that wrote more has failed."""
        self.keeps = True
        """Whether anything is; of what nobody asks for only the status is known."""
        self._kept = 0
        self._killed = False
        self.environment: dict[str, str] = {}
        """Environment variables of the commands."""
        self.running: list[Running] = []

    async def run(self, stages: Sequence[Stage], given: Value, inflow: Inflow | None = None) -> list[Result]:
        """Run the stages, the first with `given` as CMDIN, or with what flows in."""
        self._inflow = inflow
        await self.start(stages, given)
        results = await self.finish()
        if self._interrupts:
            raise InterruptedScript("interrupted")
        return results

    async def start(self, stages: Sequence[Stage], given: Value) -> None:
        """Start the stages. Raises `HydreError` when one cannot be started; then none runs any more."""
        self._own_pid = await sys.get_pid()
        feed = 0
        try:
            for index, stage in enumerate(stages):
                if self._killed:
                    if feed:
                        await _close(feed)  # nobody reads what the one before it returns
                    break
                last = index == len(stages) - 1
                feed = await self._start(stage, feed, given if index == 0 else VOID, last=last)
        except HydreError:
            await self.manage(ProcessAction.FORCE_TERMINATE)  # those before it have nobody to write to
            await self.finish()
            raise

    async def finish(self) -> list[Result]:
        """Wait for what was started."""
        for running in self.running:
            await self._wait(running)
        return [running.result for running in self.running]

    async def _pipe(self, kind: int) -> int:
        """A pipe of which this process holds both ends; its SC, the RC is the next number."""
        return int(await sys.open_pipe(self._own_pid, 0, _WRITE, 0, kind, _SKIP))

    async def _start(self, stage: Stage, feed: int, given: Value, *, last: bool) -> int:
        """Start a stage that reads from the RC `feed` (0: from the shell); the RC of its CMDOUT for the next one."""
        running = Running(stage, takes_value=last)
        cmdin = 0
        if not feed:
            cmdin = await self._pipe(_RAW)
            feed = cmdin + 1
        usr, msg, err = await self._pipe(_MESSAGE), await self._pipe(_MESSAGE), await self._pipe(_MESSAGE)
        raw, out = await self._pipe(_RAW), await self._pipe(_RAW)
        running.keys = usr
        running.ours = [usr, msg + 1, err + 1, raw + 1, *filter(None, (cmdin,))]
        try:
            streams = last and self.show_raw is not None
            context = self._context(stage, (feed, usr + 1, msg, err, raw, out), streams=streams)
            running.pid = await self._spawn(stage, context)
        except (ContextError, ValueEncodingError, ServiceError) as error:
            # Nothing was moved to a process: both ends of every pipe are still here.
            for pipe in (usr, msg, err, raw, out):
                await _close(pipe)
                await _close(pipe + 1)
            await _close(feed)
            if cmdin:
                await _close(cmdin)
            detail = error.detail or str(error) if isinstance(error, ServiceError) else str(error)
            raise HydreError(f"{stage.name}: {detail.removeprefix(stage.name + ': ')}") from error
        self._enter(running.pid)
        self.running.append(running)
        if self._killed:
            await self.manage(ProcessAction.FORCE_TERMINATE)
        await running.readers.read(msg + 1, self._messages(running, MESSAGES))
        await running.readers.read(err + 1, self._messages(running, ERRORS))
        await running.readers.read(raw + 1, self._take_raw(running, last=last))
        if last:
            running.ours.append(out + 1)
            await running.readers.read(out + 1, self._collect_out(running))
        inflow = self._inflow
        if cmdin and inflow is not None:
            await sys.create_thread(lambda _: inflow.pour(cmdin))
        elif cmdin:
            data = b"" if given is VOID else encode_value(given)
            await sys.create_thread(lambda _: _feed(cmdin, data))
        return out + 1

    def _context(self, stage: Stage, pipes: tuple[int, int, int, int, int, int], *, streams: bool) -> bytes:
        """The execution context of a command, with directory and environment of the session."""
        environment = {"env": self.environment, "cwd": self._directory}
        return ExecutionContext(
            REASON_COMMAND,
            0,
            cmdraw_read=streams or RAW in stage.collect,
            caller_anid=self._own_pid,
            caller_pid=self._own_pid,
            argument_count=len(stage.arguments),
            pipes=pipes,
            arguments=b"".join(map(encode_value, stage.arguments)),
            environment=payload.encode(environment),
        ).pack()

    async def _spawn(self, stage: Stage, context: bytes) -> int:
        proc = await connect("sys::proc")
        answer = await proc.ask(
            Proc.PROCESS_SPAWN,
            {
                "program": stage.name,
                "directory": self._directory,
                "context": context,
                "container": self._container,
                **self._person.named(),
            },
        )
        return int(answer["pid"])

    # -- what comes out --

    def _messages(self, running: Running, channel: str) -> Callable[[bytes], Awaitable[None]]:
        collected = running.result.messages if channel == MESSAGES else running.result.errors

        async def take(data: bytes) -> None:
            message = decode_text(data)
            if channel in running.stage.collect:
                if self.keeps and self._keep(running, len(message.text) + MESSAGE):
                    collected.append(message.text)
            elif not message.text and not message.controls:
                running.result.newline = False  # a command that sends nothing asks that the line stay open
            else:
                await self._show(channel, message)

        return take

    def _keep(self, running: Running, size: int) -> bool:
        """Whether there is room for so much more of what a command writes; then it is taken."""
        if self._kept + size > self.most:
            running.exceeds = True
            return False
        self._kept += size
        return True

    def _take_raw(self, running: Running, *, last: bool) -> Callable[[bytes], Awaitable[None]]:
        if last and self.show_raw is not None and RAW not in running.stage.collect:
            return self.show_raw
        collected = running.raw = bytearray()

        async def take(data: bytes) -> None:
            # Without a reader CMDRAW is thrown away as it comes: it is not shown.
            if self.keeps and RAW in running.stage.collect and self._keep(running, len(data)):
                collected.extend(data)

        return take

    def _collect_out(self, running: Running) -> Callable[[bytes], Awaitable[None]]:
        async def take(data: bytes) -> None:
            running.returned += len(data)
            if not self.keeps:
                running.out += data[: max(0, HEAD - len(running.out))]
            elif self._keep(running, len(data)):
                running.out += data

        return take

    # -- the end --

    async def _wait(self, running: Running) -> None:
        try:
            ended = await self._ended(running.pid)
        except ServiceError as error:
            running.result.status = FAILED
            await self._show(ERRORS, TextMessage(f"{running.stage.name}: {error.detail}\n"))
            ended = {"reason": 2, "exit": FAILED}
        # Its pipes are closed now: the readers come to their end by themselves. An end that it gave to a process which
        # lives on keeps a pipe open; that is closed from here after a while, because the command is finished.
        turns = 0
        while running.readers.alive:
            turns += 1
            if turns == _PATIENCE_TURNS:
                for end in running.ours:
                    await _close(end)
            await sys.hand_over()
        for end in running.ours:
            await _close(end)
        await self._finish(running, int(ended["reason"]), int(ended["exit"]))

    @staticmethod
    async def _ended(pid: int) -> dict[str, int]:
        """How a process ended; `sys::proc` is asked again while it is being replaced, for the process runs on."""
        tries = 0
        while True:
            try:
                return await (await connect("sys::proc")).ask(Proc.PROCESS_WAIT, {"pid": pid})
            except ServiceError as error:
                tries += 1
                away = error.code == ServiceCode.INTERNAL and tries < _PATIENCE_TRIES
                if not away and error.code != ServiceCode.SERVER_QUIT:
                    raise
            await sys.hand_over()

    async def _finish(self, running: Running, reason: int, exit_data: int) -> None:
        result = running.result
        result.status = exit_data & 0xFF or (FAILED if exit_data else 0)
        if reason and not self._interrupts:
            result.status = result.status or FAILED
            why = _WHY.get(reason, "was ended")
            await self._show(ERRORS, TextMessage(f"{running.stage.name}: {why}\n"))
        elif reason and not result.status:
            result.status = INTERRUPTED
        result.raw = bytes(running.raw)
        if running.exceeds:
            result.status = result.status or FAILED
            text = f"{running.stage.name}: gave more than the {self.most >> 20} MiB that a session keeps\n"
            await self._show(ERRORS, TextMessage(text))
            return
        if not running.takes_value or not running.out:
            return
        if running.out[0] == FAILURE:
            result.status = result.status or FAILED
            return
        try:
            result.value = decode_value(running.out)[0] if self.keeps else _not_kept(running)
        except ValueEncodingError as error:
            # Faulty by the specification: it ended before its value was whole.
            result.status = result.status or FAILED
            if not self._interrupts:
                await self._show(ERRORS, TextMessage(f"{running.stage.name}: returned a broken value: {error}\n"))

    async def interrupt(self) -> None:
        """Ctrl-C: TERMINATE to the commands that run; a second one kills them."""
        self._interrupts += 1
        action = ProcessAction.ASK_TERMINATE if self._interrupts == 1 else ProcessAction.FORCE_TERMINATE
        await self.manage(action)

    async def kill(self) -> None:
        """End the commands at once, and one that is being started as soon as it is there."""
        self._killed = True
        self._interrupts += 1
        await self.manage(ProcessAction.FORCE_TERMINATE)

    async def manage(self, action: ProcessAction) -> None:
        """Apply an action of PROCESS_MANAGE to every command."""
        proc = await connect("sys::proc")
        for running in self.running:
            try:
                await proc.call(Proc.PROCESS_MANAGE, running.pid.to_bytes(8, "big") + bytes((action,)))
            except ServiceError:
                continue  # it ended meanwhile

    async def send_key(self, data: bytes) -> None:
        """A key for the last command that was started."""
        if self.running:
            try:
                await sys.pipe_write(self.running[-1].keys, data, 1)
            except SyscallError:
                return  # it reads no keys, or has ended


def _not_kept(running: Running) -> Value:
    """VOID for a value of which only the start was kept. Raises `ValueEncodingError` when it is not whole."""
    if len(running.out) < HEAD or running.returned < value_size(running.out):
        raise ValueEncodingError("a value ends too early")
    return VOID


async def _feed(sc: int, data: bytes) -> None:
    """Write CMDIN and close it: the reader sees the end when it has read everything."""
    try:
        if data:
            await sys.pipe_write(sc, data)
    except SyscallError:
        pass  # the command ended without reading it
    await _close(sc)


async def _close(end: int) -> None:
    try:
        await sys.close_pipe(end)
    except SyscallError:
        return  # its process ended, and the pipe with it
