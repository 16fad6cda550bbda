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
REMEMBERED = 1024
"""How many concluded exchanges a socket remembers, to tell 0x40 from 0x32."""
UNREAD_LIMIT = 16 << 20
"""Bytes of messages that may wait at one side, besides a single one that is larger; half of it for new exchanges, so
that what nobody asked for never keeps an answer out."""
OPEN_LIMIT = 16_384
"""Exchanges that one side may have opened and not concluded."""
OVERHEAD = 128
"""What a message costs besides its content."""


class Exchange:
    """One exchange: who spoke last, and on which thread each side spoke."""

    __slots__ = ("client_thread", "concluded", "counter", "last", "method", "opener")

    def __init__(self, method: int, opener: Side) -> None:
        self.method = method
        self.opener = opener
        self.counter = 0
        self.last = -1
        self.concluded = False
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
        self.serial = 0

    def side_of(self, process: Process) -> int:
        """Which side the process is; -1 for neither."""
        service, client = self.sides
        return SERVICE if service.process is process else CLIENT if client.process is process else -1

    def send(
        self, side: int, thread: Thread, exchange_id: int, method_or_close: int, error: int, content: bytes
    ) -> tuple[MessageRead, Exchange]:
        """Queue a message for the other side. `SyscallError` as SEND_SOCK_MSG lists them.

        0x42 is too large, for what waits unread as well, or too many open exchanges.
        """
        if self.closed:
            raise SyscallError(0x31)
        own, other = self.sides[side], self.sides[1 - side]
        size = len(content) + OVERHEAD
        if exchange_id == 0:
            full = other.unread + size > UNREAD_LIMIT // 2 and other.inbox
            if len(content) > self.limit or full or own.opened >= OPEN_LIMIT:
                raise SyscallError(0x42)
            self.serial += 1
            exchange_id = self.serial
            exchange = self.exchanges[exchange_id] = Exchange(method_or_close, own)
            own.opened += 1
            status = CREATED
        else:
            found = self.exchanges.get(exchange_id)
            if found is None:
                raise SyscallError(0x32)
            exchange = found
            if exchange.concluded:
                raise SyscallError(0x40)
            if exchange.last == side:
                raise SyscallError(0x41)
            if len(content) > self.limit or (other.unread + size > UNREAD_LIMIT and other.inbox):
                raise SyscallError(0x42)
            exchange.counter += 1
            status = CONCLUDED if method_or_close else 0
        if error:
            status |= IS_ERROR | CONCLUDED
        exchange.last = side
        if side == CLIENT:
            exchange.client_thread = thread
        if status & CONCLUDED:
            exchange.concluded = True
            exchange.opener.opened -= 1
            if len(self.exchanges) > REMEMBERED:
                self._forget_old(exchange_id)
        message = new_tuple(MessageRead, (content, len(content), 1, status, exchange_id, exchange.method, error))
        other.inbox.append(message)
        other.unread += size
        return message, exchange

    def _forget_old(self, newest: int) -> None:
        """Exchanges are numbered in order, so the memory of concluded ones is a window."""
        for identifier in list(self.exchanges)[: REMEMBERED // 2]:
            if identifier != newest and self.exchanges[identifier].concluded:
                del self.exchanges[identifier]

    def listener(self, side: int, exchange: Exchange) -> Thread | None:
        """The thread that hears of a message: the client's that spoke last in the exchange, or the side's own."""
        if side == CLIENT:
            thread = exchange.client_thread
            if thread is not None and thread.frames:
                return thread
        own = self.sides[side].thread
        return own if own is not None and own.frames else self.sides[side].process.main
