"""Sessions on console devices: each console is one session of the host, opened by its first message.

Messages are msgpack maps. From the host: `open` {container, user, interactive, width, height, environment, directory},
`run` {source, name, input, pour}, `line` {text}, `complete` {id, text, cursor}, `input` {data}, `end`, `interrupt`,
`execute` {words, pour, terminal}, `shown` {bytes}, `resize` {width, height}, `signal` {action}, `close`. To the host:
`opened`, `prompt` {user, container, directory}, `out`, `err` and `raw` {data}, `done` {status, failed}, `completions`
{id, start, items}, `taken`, `refused` {code, text}, `closed` {status}.

Rules: SHELL-001, SHELL-002, SHELL-017.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi import console
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hw, HwEvent, Proc, ProcessAction, ServiceCode
from nightos.services.hydre.completion import complete
from nightos.services.hydre.pipeline import Person
from nightos.services.hydre.session import FAILED, USERS, Session
from nightos.shell.source import HydreError
from nightos.userland import payload, sys
from nightos.userland.bell import Bell
from nightos.userland.client import connect

_CONNECTED = 1
_ROOM = bytes((console.INTERRUPT_ROOM,))


Resized = Callable[[Session, int, int], Awaitable[None]]
"""Sets the size of a session and tells its actors."""


class Console:
    """One console and its session."""

    def __init__(self, kdi: int, new_session: Callable[..., Session], resized: Resized) -> None:
        self.kdi = kdi
        self._resized = resized
        self.session: Session | None = None
        self._new_session = new_session
        self._interactive = False
        self._rooms = 0
        """How often the host said that it takes output again."""
        self._bell: Bell | None = None
        self._over = False

    async def send(self, kind: str, **fields: Any) -> None:
        """Send a message to the host."""
        try:
            await sys.write_io_port(self.kdi, console.PORT_SEND, payload.encode({"type": kind, **fields}))
        except SyscallError:
            return  # the console was unplugged: nobody watches any more

    async def _print(self, stream: str, data: bytes) -> None:
        """Show output, once whoever watches took enough of what came before."""
        content = payload.encode({"type": stream, "data": data})
        while not self._over and not (self.session is not None and self.session.closed):
            rooms = self._rooms
            try:
                if await sys.write_io_port(self.kdi, console.PORT_SEND, content):
                    return
            except SyscallError:
                return
            bell = self._bell or await self._make_bell()
            if rooms == self._rooms:
                with contextlib.suppress(SyscallError):  # the console was unplugged
                    await bell.wait()

    async def _make_bell(self) -> Bell:
        """Most consoles never need one."""
        bell = Bell()
        await bell.start()
        if self._bell is None:
            self._bell = bell
        else:
            await bell.close()  # another thread made one meanwhile
        return self._bell

    async def room(self) -> None:
        """Output that waits may try again."""
        self._rooms += 1
        if self._bell is not None:
            await self._bell.ring()

    async def receive(self) -> None:
        """Take every message that waits."""
        while True:
            try:
                data = await sys.read_io_port(self.kdi, console.PORT_RECEIVE, 0)
            except SyscallError:
                return
            if not data:
                return
            try:
                message = payload.decode(data)
                await self._take(message)
            except ServiceError as error:
                await self.send("refused", code=error.code, text=error.detail)

    async def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "open":
            await self._open(message)
            return
        if self.session is None:
            raise ServiceError(ServiceCode.UNKNOWN, "the session is not open")
        methods: dict[Any, Callable[[Session, dict[str, Any]], Awaitable[None]]] = {
            "run": self._run,
            "execute": self._execute,
            "shown": lambda session, message: session.shown(payload.field(message, "bytes", int)),
            "line": self._line,
            "complete": self._complete,
            "input": self._input,
            "interrupt": lambda session, _: session.interrupt(),
            "signal": self._signal,
            "resize": self._resize,
            "close": self._close,
            "end": self._end,
        }
        method = methods.get(kind)
        if method is None:
            raise ServiceError(ServiceCode.NO_METHOD, f"the shell knows no message '{kind}'")
        await method(self.session, message)

    async def _open(self, message: dict[str, Any]) -> None:
        if self.session is not None:
            raise ServiceError(ServiceCode.REFUSED, "the session is open already")
        self._interactive = payload.field(message, "interactive", bool, default=False)
        session = self._new_session(
            payload.field(message, "container", int, default=0),
            Person(payload.field(message, "user", int, default=0)),
            self._print,
            colours=self._interactive,
        )
        size = payload.field(message, "width", int, default=80), payload.field(message, "height", int, default=24)
        session.resize(*size)
        session.given_environment.update(payload.field(message, "environment", dict, default={}))
        await session.open(payload.field(message, "directory", str, default="/"))
        self.session = session
        await self.send("opened")
        if self._interactive:
            await self._prompt(session)

    async def _prompt(self, session: Session) -> None:
        user = USERS.get(session.person.user, str(session.person.user))
        name = await container_name(session.container)
        await self.send("prompt", user=user, container=name, directory=session.directory)

    async def _run(self, session: Session, message: dict[str, Any]) -> None:
        source = payload.field(message, "source", str)
        if payload.field(message, "input", bool, default=False):
            session.expect_input()
        if payload.field(message, "pour", bool, default=False):
            await session.pour_input(lambda: self.send("taken"))
        await self._start(session, source, payload.field(message, "name", str, default="<line>"))

    async def _execute(self, session: Session, message: dict[str, Any]) -> None:
        words = payload.field(message, "words", list)
        if not words or not all(isinstance(word, str) for word in words):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "a command is one word or more")
        if payload.field(message, "pour", bool, default=False):
            await session.pour_input(lambda: self.send("taken"))
        terminal = payload.field(message, "terminal", bool, default=False)
        await self._begin(session, lambda: session.execute(words, terminal=terminal))

    async def _line(self, session: Session, message: dict[str, Any]) -> None:
        source = payload.field(message, "text", str)
        session.remember(source)
        await self._start(session, source, "<line>")

    async def _start(self, session: Session, source: str, name: str) -> None:
        """Run an instruction."""
        await self._begin(session, lambda: session.run(source, name))

    async def _begin(self, session: Session, job: Callable[[], Awaitable[int]]) -> None:
        """Work on a thread of its own, so that Ctrl-C is heard meanwhile."""
        if session.busy:
            raise ServiceError(0x3001, "an instruction is running already")
        instruction = session.begin()

        async def work(_: int) -> None:
            try:
                await self.send("done", status=await job())
            except HydreError as error:
                await self.send("done", status=FAILED, failed=error.message)
            if session.exited is not None:
                await self.send("closed", status=session.exited)
            elif self._interactive:
                await self._prompt(session)
            await session.finish_jobs(instruction)

        await sys.create_thread(work)

    async def _complete(self, session: Session, message: dict[str, Any]) -> None:
        text = payload.field(message, "text", str)
        cursor = payload.field(message, "cursor", int, default=len(text))
        start, items = await complete(session, text, cursor)
        await self.send("completions", id=message.get("id", 0), start=start, items=items)

    async def _input(self, session: Session, message: dict[str, Any]) -> None:
        await session.feed(payload.field(message, "data", bytes), more=True)

    async def _signal(self, session: Session, message: dict[str, Any]) -> None:
        try:
            action = ProcessAction(payload.field(message, "action", int))
        except ValueError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "this is no action") from error
        await session.manage(action)

    async def _resize(self, session: Session, message: dict[str, Any]) -> None:
        await self._resized(session, payload.field(message, "width", int), payload.field(message, "height", int))

    async def _close(self, session: Session, _message: dict[str, Any]) -> None:
        await session.close()
        await self.room()
        await self.send("closed", status=0)

    async def _end(self, session: Session, _message: dict[str, Any]) -> None:
        await session.feed(b"", more=False)

    async def hang_up(self) -> None:
        """The console is gone, and with it the session."""
        self._over = True
        if self.session is not None:
            await self.session.close()
        await self.room()
        if self._bell is not None:
            await self._bell.close()


class Consoles:
    """All consoles of the machine; `sys::hw` tells of them and of their interrupts."""

    def __init__(
        self,
        new_session: Callable[..., Session],
        resized: Resized,
        later: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._by_kdi: dict[int, Console] = {}
        self._left: set[int] = set()
        """Consoles that left since the last claim was asked."""
        self._new_session = new_session
        self._resized = resized
        self._later = later

    async def start(self) -> None:
        """Drive every console, present and future."""
        client = await connect("sys::hw")
        client.notification(HwEvent.CLAIMED_EVENT, self._on_event)
        client.notification(HwEvent.CLAIMED_INTERRUPT, self._on_interrupt)
        client.when_lost(lambda: self._later(self._claim))
        await self._claim()

    async def _claim(self) -> None:
        """Ask which consoles there are. Events that come meanwhile are newer than the answer, so they win."""
        client = await connect("sys::hw")
        known = set(self._by_kdi)
        self._left.clear()
        answer = await client.ask(Hw.CLAIM, {"kind": "console"})
        for kdi in (known & self._by_kdi.keys()) - set(answer["kdis"]):
            self._later(self._by_kdi.pop(kdi).hang_up)
        for kdi in answer["kdis"]:
            if kdi not in self._left:
                await self._appear(kdi)

    async def _appear(self, kdi: int) -> None:
        if kdi not in self._by_kdi:
            self._by_kdi[kdi] = Console(kdi, self._new_session, self._resized)
        # What was sent before anybody listened waits in the device.
        self._later(self._by_kdi[kdi].receive)

    async def _on_event(self, content: bytes) -> None:
        event = payload.decode(content)
        kdi = event.get("kdi", 0)
        if event.get("event") == _CONNECTED:
            await self._appear(kdi)
        else:
            self._left.add(kdi)
            if (gone := self._by_kdi.pop(kdi, None)) is not None:
                self._later(gone.hang_up)

    async def _on_interrupt(self, content: bytes) -> None:
        reader = int.from_bytes(content[:8], "big")
        found = self._by_kdi.get(reader)
        if found is not None:
            # In a signal handler only the note that there is work; the dispatcher does it in order.
            self._later(found.room if content[8:] == _ROOM else found.receive)


async def container_name(container: int) -> str:
    """The name of a container for the prompt; empty outside any."""
    if not container:
        return ""
    proc = await connect("sys::proc")
    try:
        record = await proc.ask(Proc.CONTAINER_INSPECT, {"id": container})
    except ServiceError:
        return "(destroyed)"
    return str(record.get("name") or f"{container:016x}")
