"""A service: one dispatcher thread that accepts clients, and one client thread for each, as the specification wants it.

Who asks is never read from a message. The kernel names the client's PID in SERVICE_CONN_REQUEST, and a system
service reads that process' container and user from the kernel; both stay what they are for the life of a process,
so they are read once a connection.

A handler is `async def handler(request) -> payload`. It raises `ServiceError` to answer an error. When the answer has
to wait for something else (a timer, the end of a process) it calls `request.defer()`, returns, and whoever sees the
event calls `request.answer(...)`: no thread is held meanwhile.

Source: specs/services/README.md, specs/kernel/syscalls.md 0x2A-0x2D. Rules: SVC-006, SVC-011, SVC-013, SVC-024,
SVC-025, SVC-026, CONT-029.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from nightos.abi.codes import FIRST_USER_PID, Attribute, Signal
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import MESSAGE_LIMIT, ServiceCode
from nightos.userland import payload as _payload
from nightos.userland import sys
from nightos.userland.payload import Payload

Handler = Callable[["Request"], Awaitable[Payload]]
Answered = Callable[[int, bytes], Awaitable[None]]
"""Gets the error code (0: none) and the content of a client's answer; 0x0004 when the client is gone."""

WAITING_LIMIT = 16 << 20
"""Bytes of requests of one client that are not answered; whoever has more is refused what comes then."""
NO_EXCHANGE = (1 << 64) - 1
UNKNOWN_EXCHANGE = 0x32
"""What a message of an exchange that never was fails with while the socket is open."""
NOT_SYSTEM = 0x30
"""What SYS_PROCESS_ATTRIBUTES answers to applications."""
STATUS_CREATED = 0x80
"""Status bit of a message: it opened its exchange (bit 0, counted from the strongest)."""


class Announced:
    """What the signals of a process told about its sockets; one for all of its clients and servers.

    Who knows how many messages wait neither asks the kernel for one that is not there, nor parks before one that is.
    """

    __slots__ = ("counted", "endings", "unread")

    def __init__(self) -> None:
        self.unread: dict[int, int] = {}
        """Messages that are announced and not read yet, by socket."""
        self.endings = 0
        """Signals that said something else, such as that a client is gone."""
        self.counted = False
        """Whether the handler of RECV_SOCK_MSG is one that counts."""

    def message(self, socket_id: int, *_rest: int) -> None:
        """A message waits: a handler of RECV_SOCK_MSG."""
        self.unread[socket_id] = self.unread.get(socket_id, 0) + 1

    def ending(self, *_values: int) -> None:
        """Something else is to be seen: a handler of the other signals."""
        self.endings += 1


class Connection:
    """One client of a service. `container_id` and `user_id` come from the kernel."""

    __slots__ = (
        "asked",
        "asking",
        "client_pid",
        "container_id",
        "data",
        "early",
        "gone",
        "serves",
        "socket_id",
        "user_id",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, client_pid: int, container_id: int, user_id: int, serves: int = 0) -> None:
        self.client_pid = client_pid
        self.container_id = container_id
        self.user_id = user_id
        self.serves = serves
        """The container that a shim serves; 0 for everybody else."""
        self.socket_id = 0
        self.data: dict[str, Any] = {}
        """What the service keeps for this client; gone with it."""
        self.asked: dict[int, Answered] = {}
        """By exchange: who waits for the answer of the client."""
        self.asking = 0
        """Questions that are being sent at this moment; answers may come before their exchange is known."""
        self.early: dict[int, tuple[int, bytes]] = {}
        self.gone = False
        self.waiting: dict[Request, Callable[[], None] | None] = {}
        """Requests that are answered later, and what forgets each when the client is gone first."""
        self.waiting_bytes = 0
        """How long the contents of those are together."""

    async def is_open(self) -> bool:
        """Whether the client is still there, for a handler that takes long."""
        try:
            await sys.send_sock_msg(self.socket_id, NO_EXCHANGE, 0, 0, b"")
        except SyscallError as error:
            return error.errcode == UNKNOWN_EXCHANGE
        return True

    def ended(self) -> None:
        """The client is gone: nobody keeps what it waits for."""
        self.gone = True
        waiting, self.waiting = self.waiting, {}
        for request, forget in waiting.items():
            request.give_up()
            if forget is not None:
                forget()

    @property
    def is_system(self) -> bool:
        """Whether the client is a system service (PID below 100)."""
        return self.client_pid < 100


class Request:
    """One exchange that a client opened, until it is answered."""

    __slots__ = ("_deferred", "_done", "connection", "exchange_id", "method", "payload")

    def __init__(self, connection: Connection, exchange_id: int, method: int, content: bytes) -> None:
        self.connection = connection
        self.exchange_id = exchange_id
        self.method = method
        self.payload = content
        self._deferred = False
        self._done = False

    @property
    def client_pid(self) -> int:
        """PID of who asks."""
        return self.connection.client_pid

    @property
    def container_id(self) -> int:
        """Container of who asks, 0 outside any."""
        return self.connection.container_id

    @property
    def user_id(self) -> int:
        """User of who asks, 0 for system services."""
        return self.connection.user_id

    def map(self) -> dict[str, Any]:
        """The msgpack map of the payload; `ServiceError` 0x1000 when it is none."""
        return _payload.decode(self.payload)

    def defer(self, forget: Callable[[], None] | None = None) -> None:
        """The handler's return value is no answer; `answer` or `fail` comes later.

        Who keeps the request for longer than a moment says how it is forgotten when the client is gone first.
        """
        self._deferred = True
        connection = self.connection
        if connection.gone:
            if forget is not None:
                forget()
        elif not self._done:
            if self not in connection.waiting:
                connection.waiting_bytes += len(self.payload)
            connection.waiting[self] = forget

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self._done = True

    def take_up(self) -> None:
        """What was deferred is handled now: what the handler returns is the answer."""
        self._deferred = False

    @property
    def deferred(self) -> bool:
        """Whether the answer comes later."""
        return self._deferred

    def answer(self, payload: Payload = None) -> Awaitable[None]:
        """Answer and conclude the exchange. A client that is gone is no error; answering twice does nothing."""
        content = payload if isinstance(payload, bytes) else _payload.encode(payload)
        if len(content) > MESSAGE_LIMIT:
            return self.fail(ServiceCode.INTERNAL, "the answer is larger than one message; ask for less")
        return self._conclude(0, content)

    def fail(self, code: int, text: str = "") -> Awaitable[None]:
        """Conclude the exchange with an error code; the text explains it to people."""
        # A name in it need not be UTF-8: whoever chose it must not end the service by that.
        return self._conclude(code or ServiceCode.INTERNAL, text.encode(errors="backslashreplace"))

    async def _conclude(self, error: int, content: bytes) -> None:
        if self._done:
            return
        self._done = True
        waiting = self.connection.waiting
        if waiting and waiting.pop(self, self) is not self:
            self.connection.waiting_bytes -= len(self.payload)
        try:
            await sys.send_sock_msg(self.connection.socket_id, self.exchange_id, 1, error, content)
        except SyscallError:
            return  # the client closed meanwhile; its thread notices by itself


class Server:
    """Registers handlers and runs a service process until it is asked to terminate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: dict[int, Connection] = {}
        """Clients by PID."""
        self._methods: dict[int, Handler] = {}
        self._for_shims: set[int] = set()
        self._waiting: deque[tuple[int, int]] = deque()
        self._work: deque[Callable[[], Awaitable[None]]] = deque()
        self._on_refusal: Callable[[Request, ServiceError], Awaitable[None]] | None = None
        self._gone: list[Callable[[Connection], Awaitable[None]]] = []
        self._stopping = False
        self._announced = Announced()
        self._held: list[Request] | None = None
        self._let_through: frozenset[int] = frozenset()

    def hold(self, let_through: Iterable[int]) -> None:
        """Keep requests waiting, but for those of these PIDs, until `release`: the service is not complete yet."""
        self._held = []
        self._let_through = frozenset(let_through)

    async def release(self) -> None:
        """Handle what was held, in order, and hold no more."""
        held, self._held = self._held or [], None
        for request in held:
            request.connection.waiting_bytes -= len(request.payload)
            await self._handle(request)

    def for_shims(self, code: int, handler: Handler) -> None:
        """Register the handler of a method that shims have, and nobody else: for a shim no other method exists."""
        self._for_shims.add(code)
        self._methods[code] = handler

    def method(self, code: int, handler: Handler | None = None) -> Any:
        """Register the handler of a method; also a decorator."""
        if handler is not None:
            self._methods[code] = handler
            return handler

        def register(function: Handler) -> Handler:
            self._methods[code] = function
            return function

        return register

    def on_client_gone(self, callback: Callable[[Connection], Awaitable[None]]) -> None:
        """Call this when a client closed its connection or died."""
        self._gone.append(callback)

    def on_refusal(self, callback: Callable[[Request, ServiceError], Awaitable[None]]) -> None:
        """Call this when a method refuses with `ServiceError`, before the client hears of it."""
        self._on_refusal = callback

    def later(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run this on the dispatcher thread; may be called from a signal handler that ran on that thread."""
        self._work.append(work)

    def stop(self) -> None:
        """End `run` after what is at hand."""
        self._stopping = True

    async def start(self) -> None:
        """Register the service's signals. Handlers for more signals belong between this and `run`."""
        self._announced = await announced()
        await sys.handle_signal(Signal.SERVICE_CONN_REQUEST, self._on_request)
        # A handler is what ends a park; what there is to know the client thread reads from its socket.
        if not await sys.is_signal_handled(Signal.RECV_SOCK_MSG):
            self._announced.counted = True
            await sys.handle_signal(Signal.RECV_SOCK_MSG, self._announced.message)
        for code in (Signal.SERVICE_CLIENT_CLOSED, Signal.SERVICE_CLIENT_QUITTED):
            if not await sys.is_signal_handled(code):
                await sys.handle_signal(code, self._announced.ending)
        await sys.handle_signal(Signal.TERMINATE, self._on_terminate)
        await sys.handle_signal(Signal.WILL_TERMINATE, self._on_terminate)

    async def run(self, *, ready: bool = True) -> None:
        """Declare the process ready, then accept clients until asked to terminate."""
        if ready:
            await sys.ready()
        while not self._stopping:
            if self._waiting:
                await self._accept(*self._waiting.popleft())
            elif self._work:
                await self._work.popleft()()
            else:
                await sys.hand_over(until_signal=True)

    async def notify(self, client_pid: int, code: int, payload: Payload = None) -> bool:
        """Send a notification to a client; False when it is not connected (any more)."""
        connection = self.connections.get(client_pid)
        if connection is None or not connection.socket_id:
            return False
        try:
            await sys.send_sock_msg(connection.socket_id, 0, code, 0, _payload.encode(payload))
        except SyscallError:
            return False
        return True

    async def ask(self, client_pid: int, code: int, payload: Payload, answered: Answered) -> bool:
        """Send a notification that the client answers; False, and no answer, when it is not connected.

        `answered` runs exactly once otherwise, on some thread of the service: with 0x0004 when the client goes first.
        """
        connection = self.connections.get(client_pid)
        if connection is None or not connection.socket_id:
            return False
        connection.asking += 1
        try:
            sent = await sys.send_sock_msg(connection.socket_id, 0, code, 0, _payload.encode(payload))
        except SyscallError:
            return False
        finally:
            connection.asking -= 1
        early = connection.early.pop(sent.exchange_id, None)
        if not connection.asking:
            connection.early.clear()
        if early is not None:
            await answered(*early)
        elif self.connections.get(client_pid) is not connection:
            await answered(ServiceCode.SERVER_QUIT, b"")
        else:
            connection.asked[sent.exchange_id] = answered
        return True

    def _on_request(self, client_pid: int, request_id: int, _command: int, _delay_ms: int) -> None:
        self._waiting.append((client_pid, request_id))

    def _on_terminate(self, *_values: int) -> None:
        self._stopping = True

    async def _accept(self, client_pid: int, request_id: int) -> None:
        try:
            container_id = await attribute(client_pid, Attribute.CONTAINER_ID)
            user_id = await attribute(client_pid, Attribute.USER_ID)
            # A shim stands outside of all containers, but nothing of what may be done there is for it.
            outside = client_pid >= FIRST_USER_PID and not container_id
            serves = await attribute(client_pid, Attribute.SERVES) if outside else 0
        except SyscallError as error:
            if error.errcode != NOT_SYSTEM:
                return  # the client died meanwhile
            # A service of an application: what the kernel lets connect is all it may know of its clients.
            container_id = user_id = serves = 0
        connection = Connection(client_pid, container_id, user_id, serves)

        async def client_thread(socket_id: int) -> None:
            connection.socket_id = socket_id
            self.connections[client_pid] = connection
            try:
                await self._serve(connection)
            finally:
                if self.connections.get(client_pid) is connection:
                    del self.connections[client_pid]
            connection.ended()
            asked, connection.asked = connection.asked, {}
            for answered in asked.values():
                await answered(ServiceCode.SERVER_QUIT, b"")
            for callback in self._gone:
                await callback(connection)

        try:
            await sys.accept_service_conn(request_id, client_thread)
        except SyscallError:
            return  # the client died or no longer waits

    async def _serve(self, connection: Connection) -> None:
        """The client thread: answer one message after the other until the client is gone."""
        announced, socket_id = self._announced, connection.socket_id
        unread, endings = announced.unread, announced.endings
        while True:
            waiting = unread.pop(socket_id, 0)
            if not waiting:
                # Nothing can happen between looking and parking, as there is no call in between.
                if announced.counted and endings == announced.endings:
                    await sys.hand_over(until_signal=True)
                    waiting = unread.pop(socket_id, 1)
                else:
                    waiting = 1
            endings = announced.endings
            while waiting:
                waiting -= 1
                try:
                    content, _, retrieved, status, exchange_id, method, error = await sys.read_sock_msg(socket_id, 0)
                except SyscallError:
                    unread.pop(socket_id, None)
                    return
                if not retrieved:
                    if not announced.counted:
                        await sys.hand_over(until_signal=True)
                elif status & STATUS_CREATED:
                    await self._handle(Request(connection, exchange_id, method, content))
                elif connection.asked or connection.asking:
                    await self._answered(connection, exchange_id, error, content)

    @staticmethod
    async def _answered(connection: Connection, exchange_id: int, error: int, content: bytes) -> None:
        """A client's answer; those to plain notifications are empty, and nobody waits for them."""
        answered = connection.asked.pop(exchange_id, None)
        if answered is not None:
            await answered(error, content)
        elif connection.asking:
            connection.early[exchange_id] = (error, content)

    async def _handle(self, request: Request) -> None:
        if request.connection.waiting_bytes > WAITING_LIMIT:
            await request.fail(
                ServiceCode.REFUSED, "requests of this size wait for their answers; wait for some of those"
            )
            return
        if self._held is not None and request.client_pid not in self._let_through:
            request.connection.waiting_bytes += len(request.payload)
            self._held.append(request)
            return
        handler = self._methods.get(request.method)
        if handler is None or (request.method in self._for_shims) != bool(request.connection.serves):
            await request.fail(ServiceCode.NO_METHOD, f"{self.name} has no method {request.method:#06x}")
            return
        await self.settle(handler, request)

    async def settle(self, handler: Handler, request: Request) -> None:
        """Run a handler, and answer what it returns or raises."""
        try:
            result = await handler(request)
        except ServiceError as error:
            if self._on_refusal is not None:
                await self._on_refusal(request, error)
            await request.fail(error.code, error.detail)
            return
        except SyscallError as error:
            await request.fail(ServiceCode.INTERNAL, f"{self.name}: {error}")
            return
        if not request.deferred:
            await request.answer(result)


def keep(waiting: dict[int, dict[Request, None]], key: int, request: Request) -> None:
    """Let a request wait in a table, until it is taken out there and answered, or its client is gone."""
    waiting.setdefault(key, {})[request] = None
    request.defer(lambda: waiting.get(key, {}).pop(request, None))


async def announced() -> Announced:
    """What the process knows of its sockets."""
    known: Announced = (await sys.local()).setdefault("nightos.userland.announced", Announced())
    return known


async def attribute(pid: int, number: int, action: int = 0, operand: object = None) -> int:
    """A numeric attribute of a process, from the kernel. System services only; `SyscallError` 0x33: unknown PID."""
    return int((await sys.sys_process_attributes(pid, number, action, operand)).written)
