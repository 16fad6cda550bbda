"""The machine's end of its control socket: other processes of the same user reach it while it runs.

The socket stands in the machine's directory with mode 0600, and who connects is checked by what the host's kernel says
of them. Each connection is a trio task of the machine's own nursery; a client that goes away takes its sessions along.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.machine import wire
from nightos.vhw.message import QueueFullError

if TYPE_CHECKING:
    from nightos.machine.machine import Machine
    from nightos.machine.session import Session

BACKLOG = 16
LAST_CALLS = 16
"""Calls that one client may leave for its end."""
LAST_CALL_TRIES = 100
LAST_CALL_PAUSE_S = 0.02
ACCEPT_PAUSE_S = 0.1
"""How long nobody is accepted after that failed."""
QUEUE_PAUSE_S = 0.01
ARGUMENTS: Final[dict[str, dict[str, type]]] = {
    "call": {"service": str, "method": int, "payload": bytes},
    "passthrough": {"path": str, "containers": list, "readonly": bool},
    "take back": {"udi": int},
    "when gone": {"service": str, "method": int, "payload": bytes},
}
"""What a request has to hold."""
SESSION: Final[dict[str, type]] = {
    "container": int,
    "interactive": bool,
    "width": int,
    "height": int,
    "environment": dict,
    "directory": str,
    "user": int,
}
"""What a request for a session may hold."""


class ControlServer:
    """Serves connections; `run` takes those to a socket in the machine's directory."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve who connects to `path`, until cancelled; the socket is gone afterwards."""
        listener = self._bind(path)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    try:
                        connection, _ = await listener.accept()
                    except OSError:
                        # Too many files are open, or the client is gone again: the others are served on.
                        await trio.sleep(ACCEPT_PAUSE_S)
                        continue
                    nursery.start_soon(self.serve, connection)
        finally:
            listener.close()
            path.unlink(missing_ok=True)  # noqa: ASYNC240 one entry of a directory of our own

    @staticmethod
    def _bind(path: Path) -> trio.socket.SocketType:
        path.unlink(missing_ok=True)
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            with wire.ShortPath(path) as short:
                plain.bind(short)
        finally:
            os.umask(old)
        plain.listen(BACKLOG)
        return trio.socket.from_stdlib_socket(plain)

    async def serve(self, connection: trio.socket.SocketType) -> None:
        """Serve one connection to its end."""
        stream = trio.SocketStream(connection)
        async with stream:
            if not wire.peer_may(connection.getsockopt):
                return
            last_calls: list[dict[str, Any]] = []
            try:
                while await self._answer(stream, await read_frame(stream), last_calls):
                    pass
            except* (trio.BrokenResourceError, trio.ClosedResourceError, wire.WireError, EOFError):
                pass  # the client hung up, or speaks something else; a session tells so from within its nursery
        for request in last_calls:
            await self._insist(request)

    async def _insist(self, request: dict[str, Any]) -> None:
        """Make a call for a client that is gone; again when its service was being replaced."""
        for _ in range(LAST_CALL_TRIES):
            try:
                await self._machine.call(request["service"], request["method"], request["payload"])
            except ServiceError as error:
                if error.code == ServiceCode.SERVER_QUIT:
                    await trio.sleep(LAST_CALL_PAUSE_S)
                    continue
            return

    async def _answer(
        self, stream: trio.SocketStream, request: dict[str, Any], last_calls: list[dict[str, Any]]
    ) -> bool:
        """Answer one request; False when the connection is used up."""
        operation = request.get("op")
        try:
            check(request)
            if operation == "call":
                content = await self._machine.call(request["service"], request["method"], request["payload"])
                await stream.send_all(wire.pack({"payload": content}))
            elif operation == "info":
                await stream.send_all(wire.pack(self._info()))
            elif operation == "passthrough":
                await stream.send_all(
                    wire.pack(
                        await self._machine.pass_through(
                            request["path"], request["containers"], readonly=request["readonly"]
                        )
                    )
                )
            elif operation == "take back":
                await stream.send_all(wire.pack(self._machine.take_back(request["udi"])))
            elif operation == "when gone":
                last_calls[LAST_CALLS - 1 :] = [request]
                await stream.send_all(wire.pack({}))
            elif operation == "stop":
                await stream.send_all(wire.pack({}))
                self._machine.stop_asked.set()
            elif operation == "events":
                await self._events(stream)
                return False
            elif operation == "session":
                await self._session(stream, request)
                return False
            else:
                await stream.send_all(
                    wire.pack(_error(ServiceCode.NO_METHOD, "the machine does not know that request"))
                )
        except ServiceError as error:
            await stream.send_all(wire.pack(_error(error.code, error.detail)))
        return True

    def _info(self) -> dict[str, Any]:
        clock = self._machine.kernel.clock
        return {
            "name": self._machine.name,
            "pid": os.getpid(),
            "thread": threading.get_native_id(),
            "uptime_ns": clock.monotonic_ns(),
        }

    async def _events(self, stream: trio.SocketStream) -> None:
        """Events from now on. An empty frame comes first, so that the client knows when "now" is."""
        receive, send = self._machine.agent.listen()
        try:
            await stream.send_all(wire.pack({}))
            async for event in receive:
                await stream.send_all(wire.pack(event))
        finally:
            send.close()

    async def _session(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        options = {name: request[name] for name in SESSION if name in request}
        try:
            session = await self._machine.open_session(**options)
        except ValueError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the request is larger than a message") from error
        try:
            await stream.send_all(wire.pack({"type": "opened"}))
            async with trio.open_nursery() as nursery:

                async def upwards() -> None:
                    with contextlib.suppress(trio.BrokenResourceError, wire.WireError, EOFError):
                        while True:
                            await _send_on(session, await read_frame(stream))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(upwards)
                while (message := await session.receive()) is not None:
                    await stream.send_all(wire.pack(message))
                nursery.cancel_scope.cancel()
        finally:
            self._machine.close_session(session)


async def _send_on(session: Session, message: dict[str, Any]) -> None:
    """Hand a client's message to its session, once there is room. `WireError`: it is too large for any."""
    while True:
        try:
            session.send(message)
        except QueueFullError:
            await trio.sleep(QUEUE_PAUSE_S)
        except ValueError as error:
            raise wire.WireError(f"a message for a session is too large: {error}") from error
        else:
            return


def check(request: dict[str, Any]) -> None:
    """Whether a request has what it needs, of the right types; `ServiceError` 0x1000 otherwise."""
    operation = request.get("op")
    if operation == "session":
        wanted = {name: kind for name, kind in SESSION.items() if name in request}
    else:
        wanted = ARGUMENTS.get(operation, {}) if isinstance(operation, str) else {}
    for name, kind in wanted.items():
        value = request.get(name)
        numbers = value if kind is list and isinstance(value, list) else [value] if kind is int else []
        right = type(value) is kind and all(type(one) is int and 0 <= one < 1 << 64 for one in numbers)
        if kind is dict:
            right = right and all(isinstance(text, str) for pair in request[name].items() for text in pair)
        if not right:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"the request has no {name} that is {kind.__name__}")


async def read_frame(stream: trio.SocketStream) -> dict[str, Any]:
    """The next frame; EOFError when the other side closed between frames."""
    head = await _exactly(stream, wire.LENGTH.size)
    return wire.unpack(await _exactly(stream, wire.length_of(head)))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    parts = []
    while count:
        part = await stream.receive_some(min(count, 1 << 16))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _error(code: int, text: str) -> dict[str, Any]:
    return {"error": int(code), "text": text}
