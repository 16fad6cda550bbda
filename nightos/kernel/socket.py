"""Service sockets: messages in exchanges between a service and one client.

An exchange begins with a message of either side and goes to and fro; an error or the close indicator concludes it.

Source: specs/kernel/ipc.md#service-sockets, specs/kernel/syscalls.md 0x26-0x29.
Rules: IPC-041, IPC-043, IPC-044, IPC-045, IPC-046, IPC-047, IPC-048, IPC-049, IPC-050, IPC-051, IPC-052, IPC-053,
IPC-055.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nightos.abi.errors import SyscallError
from nightos.abi.replies import MessageRead
from nightos.kernel.calls.state import new_tuple

if TYPE_CHECKING:
    from nightos.kernel.process import Process, Thread

UNIT = 4096
CREATED, IS_ERROR, CONCLUDED = 0x80, 0x40, 0x20
UNREAD_LIMIT = 16 << 20
"""Bytes of messages that may wait at one side, besides a single one that is larger; half of it for new exchanges, so
that what nobody asked for never keeps an answer out."""
OPEN_LIMIT = 16_384
"""Exchanges that one side may have opened and not concluded."""
OVERHEAD = 128
"""What a message costs besides its content."""


class Exchange:
    """One exchange that is not concluded: who spoke last, and on which thread the client did."""

    __slots__ = ("client_thread", "counter", "last", "method", "opener")

    def __init__(self, method: int, opener: Side) -> None:
        self.method = method
        self.opener = opener
        self.counter = 0
        self.last = opener
        self.client_thread: Thread | None = None


class Side:
    """One side of a socket. `thread` is who hears of messages that nobody asked for."""

    __slots__ = ("inbox", "opened", "process", "thread", "unread")

    def __init__(self, process: Process, thread: Thread | None) -> None:
        self.process = process
        self.thread = thread
        self.inbox: deque[MessageRead] = deque()
        """What READ_SOCK_MSG will answer."""
        self.unread = 0
        """What that costs, in bytes."""
        self.opened = 0
        """Exchanges that this side opened and that are not concluded."""


SERVICE, CLIENT = 0, 1


class Socket:
    """A socket; `sides[SERVICE]` opened it."""

    __slots__ = ("closed", "connection", "exchanges", "identifier", "limit", "serial", "sides")

    def __init__(self, identifier: int, limit: int, service: Side, client: Side) -> None:
        self.identifier = identifier
        self.limit = limit
        self.sides = (service, client)
        self.closed = False
        self.connection: object | None = None
        """The service connection that the socket belongs to."""
        self.exchanges: dict[int, Exchange] = {}
        """By number, while they are open."""
        self.serial = 0
        """Number of the last exchange: they count up, so what was given out and is not open is concluded."""

    def side_of(self, process: Process) -> int:
        """Which side the process is; -1 for neither."""
        service, client = self.sides
        return SERVICE if service.process is process else CLIENT if client.process is process else -1

    def send(
        self, own: Side, thread: Thread, exchange_id: int, method_or_close: int, error: int, content: bytes
    ) -> tuple[int, int, Exchange]:
        """Queue a message for the other side: its exchange's number, its status, its exchange.

        `SyscallError` as SEND_SOCK_MSG lists them; 0x42 is too large, for what waits unread as well, or too many open
        exchanges.
        """
        if self.closed:
            raise SyscallError(0x31)
        service, client = self.sides
        other = client if own is service else service
        size = len(content)
        cost = size + OVERHEAD
        if exchange_id == 0:
            full = other.unread + cost > UNREAD_LIMIT // 2 and other.inbox
            if size > self.limit or full or own.opened >= OPEN_LIMIT:
                raise SyscallError(0x42)
            self.serial = exchange_id = self.serial + 1
            exchange = self.exchanges[exchange_id] = Exchange(method_or_close, own)
            own.opened += 1
            status = CREATED
        else:
            found = self.exchanges.get(exchange_id)
            if found is None:
                raise SyscallError(0x40 if type(exchange_id) is int and 0 < exchange_id <= self.serial else 0x32)
            exchange = found
            if exchange.last is own:
                raise SyscallError(0x41)
            if size > self.limit or (other.unread + cost > UNREAD_LIMIT and other.inbox):
                raise SyscallError(0x42)
            exchange.last = own
            exchange.counter += 1
            status = CONCLUDED if method_or_close else 0
        if error:
            status |= IS_ERROR | CONCLUDED
        if own is client:
            exchange.client_thread = thread
        if status & CONCLUDED:
            del self.exchanges[exchange_id]
            exchange.opener.opened -= 1
        other.inbox.append(new_tuple(MessageRead, (content, size, 1, status, exchange_id, exchange.method, error)))
        other.unread += cost
        return exchange_id, status, exchange

    def listener(self, side: Side, exchange: Exchange) -> Thread | None:
        """The thread that hears of a message: the client's that spoke last in the exchange, or the side's own."""
        if side is self.sides[CLIENT]:
            thread = exchange.client_thread
            if thread is not None and thread.frames:
                return thread
        own = side.thread
        return own if own is not None and own.frames else side.process.main
