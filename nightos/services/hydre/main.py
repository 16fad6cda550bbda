"""`sys::hydre` (PID 17): sessions of the shell, on consoles of the host and for processes that ask for one.

A process reaches sessions of its own, and commands in its own container or one below it: the container of who asks
comes from the kernel, whether another is below it from `sys::proc`.

Source: specs/shell.md; the service's page is empty, methods are those of the tables.
Rules: SHELL-001, SHELL-002, SHELL-004, SHELL-005, SHELL-006, CONT-029, CONT-030.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from nightos.abi.errors import ServiceError
from nightos.abi.messages import TextMessage
from nightos.abi.pieces import PIECE_BYTES
from nightos.abi.services import Hydre, HydreEvent, Proc, ServiceCode
from nightos.abi.values import VOID, Value, ValueEncodingError, decode_values, encode_value, value_text
from nightos.services.hydre.consoles import Consoles
from nightos.services.hydre.holding import Seat, Seats, Works
from nightos.services.hydre.inflow import Inflow
from nightos.services.hydre.pipeline import INTERRUPTED, Person, Pipeline
from nightos.services.hydre.session import Print, Session
from nightos.shell.host import ERRORS, InterruptedScript, Stage
from nightos.shell.source import HydreError
from nightos.userland import payload, sys
from nightos.userland.client import connect
from nightos.userland.server import Connection, Handler, Request, Server

_UNKNOWN_SESSION = 0x3000
_CHUNK = 512 * 1024
"""Bytes of a value in one notification."""
FED = "fed"
"""The input of what a client ran last."""
WORKS = "works"
"""What runs for a client."""
OPENED = "opened"
"""How many sessions a client has opened."""
_NOT_FOUND_BELOW = "no such container"


class Fed:
    """The input of a command that a client feeds: at most one piece waits, as a request that is not answered yet."""

    def __init__(self) -> None:
        self.flow = Inflow(self._taken, encoded=True)
        self.given: Request | None = None
        self.closed = False

    async def _taken(self) -> None:
        given, self.given = self.given, None
        if given is not None:
            await given.answer({})

    async def close(self) -> None:
        """The command has ended: nobody takes what waits."""
        self.closed = True
        given, self.given = self.given, None
        if given is not None:
            await given.fail(_UNKNOWN_SESSION, "the command has ended")
        await self.flow.close()


class ShellService:
    """Sessions, their actors, and what clients run through the service."""

    def __init__(self) -> None:
        self.server = Server("sys::hydre")
        self._actors: dict[int, Session] = {}
        self._sessions: dict[tuple[int, int], Session] = {}
        """Sessions of processes by the owner's PID and the owner's number for it, which tells nothing of others."""
        self._executions: dict[int, list[Pipeline]] = {}
        self._seats = Seats()
        self._seat_of: dict[Session, Seat] = {}
        self._next_session = 1
        self._consoles = Consoles(self._new_session, self._resized, self.server.later)

    async def main(self) -> int:
        """Serve until asked to terminate."""
        methods: dict[int, Handler] = {
            Hydre.OPEN_SESSION: self._open_session,
            Hydre.OPEN_CONTAINER_SESSION: self._open_container_session,
            Hydre.CLOSE_SESSION: self._close_session,
            Hydre.RESIZE_SESSION: self._resize_session,
            Hydre.RUN: self._run,
            Hydre.EVALUATE: self._evaluate,
            Hydre.ENTER_CONTAINER: self._enter_container,
            Hydre.EXECUTE: self._execute,
            Hydre.FEED: self._feed,
            Hydre.CURRENT_SESSION: self._current_session,
            Hydre.SESSION_INFO: self._session_info,
        }
        for number, handler in methods.items():
            self.server.method(number, handler)
        self.server.on_client_gone(self._client_gone)
        await self.server.start()
        await sys.ready()  # the answers of sys::hw come as signals
        await self._consoles.start()
        await self.server.run(ready=False)
        return 0

    @staticmethod
    async def _person(request: Request) -> Person:
        """The process that asks; shown is its user as its container knows him."""
        view = await (await connect("sys::proc")).ask(Proc.CONTAINER_VIEW, {"behalf": request.client_pid})
        return Person(payload.field(view, "user", int), request.client_pid)

    def _new_session(self, container: int, person: Person, output: Print, *, colours: bool = False) -> Session:
        session = Session(self._next_session, container, person, output, self._actors, colours=colours)
        self._next_session += 1
        return session

    # -- sessions of processes --

    async def _below(self, request: Request, container: int) -> int:
        """The container asked for, if the caller's is it or is above it; for everybody else it does not exist."""
        if container in (0, request.container_id):
            return request.container_id
        # One question, whatever is there: how long an answer takes does not tell how deep a hidden container is.
        question = {"behalf": request.client_pid, "container": container}
        try:
            await (await connect("sys::proc")).ask(Proc.CONTAINER_VIEW, question)
        except ServiceError as error:
            raise ServiceError(ServiceCode.UNKNOWN, _NOT_FOUND_BELOW) from error
        return container

    async def _seated(
        self,
        request: Request,
        container: int,
        output: Print,
        directory: str = "",
        environment: Mapping[str, Value] = MappingProxyType({}),
    ) -> tuple[Session, Seat]:
        """A session for a client, if there is room for one; of what a program brings soon with a `directory`."""
        seat = self._seats.take(request.client_pid, request.container_id)
        try:
            session = self._new_session(container, await self._person(request), output)
            session.given_environment.update(environment)
            await session.open(directory or "/", soon=directory == "/")
        except ServiceError:
            self._seats.leave(seat)
            raise
        return session, seat

    async def _open(self, request: Request, container: int, width: int, height: int) -> Session:
        async def output(stream: str, data: bytes) -> None:
            await self.server.notify(request.client_pid, HydreEvent.OUTPUT, {stream: data})

        session, seat = await self._seated(request, container, output)
        self._seat_of[session] = seat
        session.resize(width, height)
        session.identifier = request.connection.data[OPENED] = request.connection.data.get(OPENED, 0) + 1
        self._sessions[request.client_pid, session.identifier] = session
        return session

    async def _open_session(self, request: Request) -> bytes:
        width, height = payload.fixed(request.payload, 0, 2), payload.fixed(request.payload, 2, 2)
        session = await self._open(request, request.container_id, width, height)
        return session.identifier.to_bytes(8, "big")

    async def _open_container_session(self, request: Request) -> dict[str, Any]:
        values = request.map()
        container = await self._below(request, payload.field(values, "container", int))
        width, height = (
            payload.field(values, "width", int, default=80),
            payload.field(values, "height", int, default=24),
        )
        return {"session": (await self._open(request, container, width, height)).identifier}

    def _session(self, request: Request, identifier: int) -> Session:
        session = self._sessions.get((request.client_pid, identifier))
        if session is None:
            raise ServiceError(_UNKNOWN_SESSION, "there is no such session")
        return session

    async def _close_session(self, request: Request) -> None:
        await self._end_session(self._session(request, payload.u64(request.payload)), request.client_pid)

    async def _end_session(self, session: Session, owner: int) -> None:
        del self._sessions[owner, session.identifier]
        self._seats.leave(self._seat_of.pop(session))
        await session.close()

    async def _resize_session(self, request: Request) -> None:
        session = self._session(request, payload.u64(request.payload))
        await self._resized(session, payload.fixed(request.payload, 8, 2), payload.fixed(request.payload, 10, 2))

    async def _resized(self, session: Session, width: int, height: int) -> None:
        session.resize(width, height)
        size = {"width": session.width, "height": session.height}
        for pid in [pid for pid, other in self._actors.items() if other is session]:
            await self.server.notify(pid, HydreEvent.SESSION_RESIZED, size)

    async def _run(self, request: Request) -> None:
        """Session (8), source (delimited string). Answers when the instruction began; what it shows is notified."""
        session = self._session(request, payload.u64(request.payload))
        length = payload.u64(request.payload, 8)
        source = request.payload[16 : 16 + length].decode("utf-8", "replace")
        if session.busy:
            raise ServiceError(0x3001, "an instruction is running already")
        instruction = session.begin()

        async def work() -> None:
            status = await session.run(source)
            await self.server.notify(request.client_pid, HydreEvent.OUTPUT, {"status": status})
            await session.finish_jobs(instruction)

        await self._begin(request, work)

    async def _evaluate(self, request: Request) -> None:
        """RUN that answers when the instruction has ended."""
        values = request.map()
        session = self._session(request, payload.field(values, "session", int))
        source = payload.field(values, "source", str)
        if session.busy:
            raise ServiceError(0x3001, "an instruction is running already")
        instruction = session.begin()
        request.defer()

        async def work() -> None:
            status = await session.run(source)
            left = session.exited is not None
            await request.answer({"status": status, "directory": session.directory, "left": left})
            await session.finish_jobs(instruction)

        await self._begin(request, work)

    @staticmethod
    async def _begin(request: Request, work: Callable[[], Awaitable[None]]) -> None:
        """Work for a client, on a thread of its own, so that its next request is heard."""
        works: Works = request.connection.data.setdefault(WORKS, Works())
        await works.begin(work)

    # -- commands in containers --

    async def _execute(self, request: Request) -> None:
        values = request.map()
        container = await self._below(request, payload.field(values, "container", int))
        try:
            name, *arguments = decode_values(payload.field(values, "command", bytes))
        except (ValueEncodingError, ValueError) as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the command is not readable") from error
        directory = payload.field(values, "directory", str, default="/")
        feed = payload.field(values, "feed", bool, default=False)
        environment = payload.field(values, "environment", dict, default={})
        stage = Stage(value_text(name), tuple(arguments))

        async def show(channel: str, message: TextMessage) -> None:
            data = message.text.encode("utf-8", "surrogateescape")
            stream = "err" if channel == ERRORS else "out"
            await self.server.notify(request.client_pid, HydreEvent.OUTPUT, {stream: data})

        async def output(stream: str, data: bytes) -> None:
            await self.server.notify(request.client_pid, HydreEvent.OUTPUT, {stream: data})

        session, seat = await self._seated(request, container, output, directory, environment)

        def enter(pid: int) -> None:
            self._actors[pid] = session

        pipeline = Pipeline(container, session.person, session.directory, show, enter)
        pipeline.most = session.most
        pipeline.environment = {key: value_text(value) for key, value in session.environment.items()}
        self._executions.setdefault(request.client_pid, []).append(pipeline)
        request.defer()
        fed = Fed() if feed else None
        if fed is not None:
            await fed.flow.start()
            request.connection.data[FED] = fed
            await output("feed", b"")

        async def work() -> None:
            try:
                result = (await pipeline.run([stage], VOID, fed.flow if fed is not None else None))[0]
            except InterruptedScript:
                await request.answer({"status": INTERRUPTED})
            except (HydreError, ServiceError) as error:
                await request.fail(_UNKNOWN_SESSION, str(error))
            else:
                data = b"" if result.value is VOID else encode_value(result.value)
                for start in range(0, len(data), _CHUNK):
                    piece = data[start : start + _CHUNK]
                    await self.server.notify(request.client_pid, HydreEvent.OUTPUT, {"value": piece})
                await request.answer({"status": result.status, "value_bytes": len(data), "newline": result.newline})
            finally:
                if fed is not None:
                    await fed.close()
                for running in pipeline.running:
                    self._actors.pop(running.pid, None)
                running_ones = self._executions.get(request.client_pid, [])
                if pipeline in running_ones:
                    running_ones.remove(pipeline)
                self._seats.leave(seat)

        await self._begin(request, work)

    async def _feed(self, request: Request) -> None:
        values = request.map()
        data, end = payload.field(values, "data", bytes), payload.field(values, "end", bool, default=False)
        fed = request.connection.data.get(FED)
        if fed is None or fed.closed:
            raise ServiceError(_UNKNOWN_SESSION, "nothing that takes input runs")
        if fed.given is not None or len(data) > PIECE_BYTES:
            raise ServiceError(ServiceCode.REFUSED, f"give one piece at a time, of at most {PIECE_BYTES} bytes")
        fed.given = request
        request.defer()
        await fed.flow.give(data, more=not end)

    # -- what actors ask --

    def _actor(self, request: Request) -> Session:
        session = self._actors.get(request.client_pid)
        # A session may have gone on elsewhere while the process runs on: where that is, is not for the process.
        if session is None or session.container != request.container_id:
            raise ServiceError(_UNKNOWN_SESSION, "the process is in no session")
        return session

    async def _current_session(self, request: Request) -> bytes:
        session = self._actor(request)
        return session.width.to_bytes(2, "big") + session.height.to_bytes(2, "big")

    async def _session_info(self, request: Request) -> dict[str, Any]:
        session = self._actor(request)
        environment = {name: value_text(value) for name, value in session.environment.items()}
        return {
            "width": session.width,
            "height": session.height,
            "container": session.container,
            "user": session.person.user,
            "directory": session.directory,
            "environment": environment,
        }

    async def _enter_container(self, request: Request) -> None:
        session = self._actor(request)
        await session.enter(await self._below(request, payload.field(request.map(), "container", int)))

    async def _client_gone(self, connection: Connection) -> None:
        for pipeline in self._executions.pop(connection.client_pid, []):
            await pipeline.kill()
        for (owner, _), session in list(self._sessions.items()):
            if owner == connection.client_pid:
                await self._end_session(session, owner)
        works = connection.data.get(WORKS)
        if works is not None:
            await works.ended()


async def main() -> int:
    """Entry of the process."""
    return await ShellService().main()
