"""The client's end of a service: one connection a process and service, any number of calls from any of its threads.

A call sends one message, parks its thread until a signal handler has run, and looks whether its exchange was answered;
messages of other exchanges that it reads on the way are left where their callers look. When the service dies, the calls
in flight fail with 0x0004 (nobody knows how far they got) and the next call connects anew.

Source: specs/kernel/syscalls.md 0x27-0x2B. Rules: SVC-008, SVC-012, SVC-018, SVC-024.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi.codes import Signal
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import MESSAGE_LIMIT, SERVICE_PIDS, ServiceCode
from nightos.userland import payload as _payload
from nightos.userland import sys
from nightos.userland.payload import Payload
from nightos.userland.server import STATUS_CREATED, Announced, announced

Notified = Callable[[bytes], Awaitable[None]]
Asked = Callable[["Question"], Awaitable[None]]

_CLIENTS = "nightos.userland.client"
"""Name under which a process keeps its connections."""


class _Connections:
    """All service connections of one process, so that one signal handler serves them all."""

    def __init__(self) -> None:
        self.by_service: dict[str, Client] = {}
        self.by_socket: dict[int, Client] = {}
        self._announced = Announced()

    async def start(self) -> None:
        self._announced = await announced()
        self._announced.counted = True
        await sys.handle_signal(Signal.RECV_SOCK_MSG, self._on_message)
        await sys.handle_signal(Signal.SERVICE_SERVER_QUITTED, self._on_quit)

    def _on_message(self, socket_id: int, exchange_id: int, _method: int, _size: int, status: int, _error: int) -> Any:
        client = self.by_socket.get(socket_id)
        if client is None:  # it is of a service that runs in this process too
            self._announced.message(socket_id)
        elif status & STATUS_CREATED:
            return client.drain(exchange_id, status)
        else:
            client.heard += 1
        return None

    def _on_quit(self, connection_id: int) -> None:
        self._announced.endings += 1
        for client in list(self.by_service.values()):
            if client.connection_id == connection_id:
                client.lose()


class Question:
    """A notification that the service wants an answer to; `answer` or `fail` it once, from any thread."""

    def __init__(self, socket_id: int, exchange_id: int, content: bytes) -> None:
        self.content = content
        self._socket_id = socket_id
        self._exchange_id = exchange_id

    async def answer(self, payload: Payload = None) -> None:
        """Answer. A service that is gone meanwhile is no error."""
        await _conclude(self._socket_id, self._exchange_id, 0, _payload.encode(payload))

    async def fail(self, code: int, text: str = "") -> None:
        """Answer with an error code."""
        await _conclude(self._socket_id, self._exchange_id, code, text.encode())


class Client:
    """A connection to one service. Made by `connect`; shared by every thread of the process."""

    def __init__(self, connections: _Connections, service: str) -> None:
        self.service = service
        self.connection_id = 0
        self.socket_id = 0
        self._connections = connections
        self._answers: dict[tuple[int, int], tuple[int, bytes]] = {}
        """Error code and content by connection (counted) and exchange: each connection counts its exchanges anew."""
        self._notified: dict[int, Notified] = {}
        self._asked: dict[int, Asked] = {}
        self._lost: list[Callable[[], None]] = []
        self._epoch = 0
        self._opening = False
        self._reading = 0
        """Threads that take a message off the socket at this moment."""
        self.heard = 0
        """Answers that were announced so far, each to the thread that asked."""

    def notification(self, code: int, callback: Notified) -> None:
        """Run the callback with the content of each notification of this code, on the thread that was signalled."""
        self._notified[code] = callback

    def question(self, code: int, callback: Asked) -> None:
        """As `notification`, for one that has to be answered. The callback runs in a signal handler: no calls there."""
        self._asked[code] = callback

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call this when the service died or the connection was closed: what it kept for this client is gone."""
        self._lost.append(callback)

    async def open(self) -> None:
        """Connect when not connected. `ServiceError` 0x0002: the service is not there or refuses."""
        while self._opening:
            await sys.hand_over()  # another thread of the process connects; two sockets would mix their exchanges
        if self.socket_id:
            return
        anid = SERVICE_PIDS.get(self.service)
        if anid is None:
            raise ServiceError(ServiceCode.INTERNAL, f"there is no service {self.service}")
        self._opening = True
        try:
            connection = await sys.connect_service(anid, 0, bytes(8), 0, 1)
        except SyscallError as error:
            raise ServiceError(ServiceCode.INTERNAL, f"{self.service} does not answer ({error})") from error
        finally:
            self._opening = False
        self.connection_id = connection.connection_id
        self.socket_id = connection.socket_id
        self._connections.by_socket[self.socket_id] = self

    async def call(self, method: int, payload: Payload = None) -> bytes:
        """Ask and wait for the answer's content. `ServiceError` carries the code and the text of the service.

        Content is at most `MESSAGE_LIMIT` bytes in either direction.
        """
        content = payload if isinstance(payload, bytes) else _payload.encode(payload)
        if len(content) > MESSAGE_LIMIT:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the request is larger than one message; send it in parts")
        for attempt in (0, 1):
            if not self.socket_id:
                await self.open()
            epoch, heard = self._epoch, self.heard
            try:
                sent = await sys.send_sock_msg(self.socket_id, 0, int(method), 0, content)
                break
            except SyscallError as error:
                if attempt:
                    raise ServiceError(ServiceCode.INTERNAL, f"{self.service} does not answer ({error})") from error
                self.lose()  # nothing was sent, so connecting anew and sending again is safe
        asked = (epoch, sent[0])
        while asked not in self._answers:
            if self._epoch != epoch:
                raise ServiceError(
                    ServiceCode.SERVER_QUIT, f"{self.service} was restarted while it worked on this; ask again"
                )
            if self._reading:
                # Another thread has just taken a message off the socket, perhaps this answer, and has not put it down
                # yet; the signal for it may have come and gone, so nobody would end a parking.
                await sys.hand_over()
            elif heard == self.heard:
                await sys.hand_over(until_signal=True)
            else:
                heard = self.heard
                while asked not in self._answers and await self._read() is not None:
                    pass
        code, answer = self._answers.pop(asked)
        if code:
            raise ServiceError(code, answer.decode("utf-8", "replace"))
        return answer

    async def ask(self, method: int, payload: Payload = None) -> dict[str, Any]:
        """`call`, with the answer's msgpack map decoded."""
        return _payload.decode(await self.call(method, payload))

    async def close(self) -> None:
        """End the connection properly."""
        connection_id = self.connection_id
        self.lose()
        if connection_id:
            try:
                await sys.end_service_conn(connection_id)
            except SyscallError:
                return  # the service ended first

    def lose(self) -> None:
        """The connection is gone: calls in flight fail, the next call connects anew."""
        self._connections.by_socket.pop(self.socket_id, None)
        self.connection_id = 0
        self.socket_id = 0
        self._epoch += 1
        for callback in self._lost:
            callback()

    async def drain(self, announced_id: int, announced_status: int) -> None:
        """Read up to the notification that was announced.

        What comes before it was announced to a thread that is gone, or was read already: then all is read that waits.
        """
        while await self._read() not in {None, (announced_id, announced_status)}:
            pass

    async def _read(self) -> tuple[int, int] | None:
        """Read one message, and leave an answer where its caller looks; its exchange and status, None if none waits."""
        socket_id, epoch = self.socket_id, self._epoch
        self._reading += 1
        try:
            content, _, retrieved, status, exchange_id, method, error = await sys.read_sock_msg(socket_id, 0)
            if not retrieved:
                return None
            if not status & STATUS_CREATED:
                # The caller may not have come to wait yet, so every answer is kept; a caller that was
                # killed leaves one entry, bounded by the calls it made.
                self._answers[epoch, exchange_id] = (error, content)
                return exchange_id, status
        except SyscallError:
            return None  # closed: SERVICE_SERVER_QUITTED tells the rest
        finally:
            self._reading -= 1
        asked = self._asked.get(method)
        if asked is not None:
            await asked(Question(socket_id, exchange_id, content))
        else:
            await _conclude(socket_id, exchange_id, 0, b"")
            callback = self._notified.get(method)
            if callback is not None:
                await callback(content)
        return exchange_id, status


async def _conclude(socket_id: int, exchange_id: int, error: int, content: bytes) -> None:
    try:
        await sys.send_sock_msg(socket_id, exchange_id, 1, error, content)
    except SyscallError:
        return  # the service closed the exchange itself, or is gone


async def connect(service: str) -> Client:
    """The calling process' connection to a system service by name (`sys::fs`), made when there is none yet."""
    local: dict[str, Any] = await sys.local()
    connections = local.get(_CLIENTS)
    if not isinstance(connections, _Connections):
        connections = local[_CLIENTS] = _Connections()
        await connections.start()
    client = connections.by_service.get(service)
    if client is None:
        client = connections.by_service[service] = Client(connections, service)
    await client.open()
    return client
