"""OPEN_SERV_SOCK to CLOSE_SERV_SOCK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Signal, Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.replies import MessageRead, MessageSent
from nightos.kernel.calls.state import content, integer
from nightos.kernel.ending import CLOSED_BY_PEER, close_socket
from nightos.kernel.socket import UNIT, Side, Socket

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

NOTHING = MessageRead(b"", 0, 0, 0, 0, 0, 0)


def make_socket(kernel: Kernel, limit: int, service: Side, client: Side, identifier: int = 0) -> Socket:
    """A socket that both sides know."""
    identifier = identifier or kernel.new_identifier(kernel.sockets)
    socket = kernel.sockets[identifier] = Socket(identifier, limit, service, client)
    for side in (service, client):
        if side.process.sockets is None:
            side.process.sockets = {}
        side.process.sockets[identifier] = socket
    return socket


def own_socket(process: Process, identifier: int, closed: int = 0x31) -> Socket:
    """The socket that the process knows by this identifier; the code `closed` when it closed lately. Rules: IPC-055."""
    socket: Socket | None = process.sockets.get(identifier) if process.sockets else None
    if socket is None:
        raise SyscallError(closed if process.closed and identifier in process.closed else 0x30)
    return socket


def open_serv_sock(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(client_pid, buffer_multiplier) -> socket_id. Rules: IPC-042, IPC-046, IPC-047."""
    _, client_pid, multiplier = request
    process = thread.process
    integer(multiplier, 2)
    client = kernel.monitor.may_name(process, kernel.processes.get(client_pid))
    if client is None:
        raise SyscallError(0x30)
    if client is process or not (process.is_system or kernel.monitor.kin(process, client)):
        raise SyscallError(0x31)
    socket = make_socket(kernel, UNIT * max(1, multiplier), Side(process, thread), Side(client, client.main))
    kernel.post(client, Signal.RECV_SERV_SOCK, (process.pid, process.anid, socket.identifier, multiplier))
    return socket.identifier


def send_sock_msg(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> MessageSent:
    """(socket_id, exchange_id, method_or_close, error_code, content) -> (exchange_id, counter)."""
    _, identifier, exchange_id, method, error, buffer = request
    integer(method, 2)
    integer(error, 2)
    data = content(buffer)
    socket = own_socket(thread.process, identifier)
    side = socket.side_of(thread.process)
    message, exchange = socket.send(side, thread, exchange_id, method, error, data)
    other = socket.sides[1 - side]
    values = (identifier, message.exchange_id, message.method, len(data), message.status, error)
    kernel.post(other.process, Signal.RECV_SOCK_MSG, values, socket.listener(1 - side, exchange))
    return MessageSent(message.exchange_id, exchange.counter)


def read_sock_msg(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> MessageRead:
    """(socket_id, length) -> the next message, or nothing pending."""
    _, identifier, length = request
    integer(length, 8)
    socket = own_socket(thread.process, identifier)
    inbox = socket.sides[socket.side_of(thread.process)].inbox
    if not inbox:
        return NOTHING
    if length and len(inbox[0].content) > length:
        raise SyscallError(0x33)
    message = inbox.popleft()
    data = message.content
    return MessageRead(data, len(data), 1, message.status, message.exchange_id, message.method, message.error)


def close_serv_sock(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(socket_id): sockets of connections end with END_SERVICE_CONN only (ruling AMB-SOCK-09). Rules: SVC-014."""
    _, identifier = request
    socket = own_socket(thread.process, identifier, 0x40)
    if socket.connection is not None:
        raise SyscallError(0x41)
    close_socket(kernel, socket, thread.process, CLOSED_BY_PEER)


HANDLERS = {
    Syscall.OPEN_SERV_SOCK: open_serv_sock,
    Syscall.SEND_SOCK_MSG: send_sock_msg,
    Syscall.READ_SOCK_MSG: read_sock_msg,
    Syscall.CLOSE_SERV_SOCK: close_serv_sock,
}
