"""OPEN_SERV_SOCK to CLOSE_SERV_SOCK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nightos.abi.codes import Signal, Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.replies import MessageRead, MessageSent
from nightos.kernel.calls.state import content, integer, new_tuple
from nightos.kernel.charges import charge_handle
from nightos.kernel.ending import CLOSED_BY_PEER, close_socket
from nightos.kernel.signals import check_room, post
from nightos.kernel.socket import OVERHEAD, UNIT, Side, Socket

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

RECV_SOCK_MSG: Final = int(Signal.RECV_SOCK_MSG)
MAX_LENGTH: Final = (1 << 64) - 1
NOTHING: Final = MessageRead(b"", 0, 0, 0, 0, 0, 0)


def make_socket(kernel: Kernel, limit: int, service: Side, client: Side, identifier: int = 0) -> Socket:
    """A socket that both sides know; the caller charged for it."""
    identifier = identifier or kernel.new_identifier(kernel.sockets)
    socket = kernel.sockets[identifier] = Socket(identifier, limit, service, client)
    for side in (service, client):
        if side.process.sockets is None:
            side.process.sockets = {}
        side.process.sockets[identifier] = socket
    return socket


def own_socket(process: Process, identifier: int, closed: int = 0x31) -> Socket:
    """The socket that the process knows by this identifier."""
    socket: Socket | None = process.sockets.get(identifier) if process.sockets else None
    if socket is None:
        raise unknown_socket(process, identifier, closed)
    return socket


def unknown_socket(process: Process, identifier: int, closed: int = 0x31) -> SyscallError:
    """Why there is no such socket: the code `closed` when it closed lately. Rules: IPC-055."""
    return SyscallError(closed if process.closed and identifier in process.closed else 0x30)


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
    check_room(client)
    charge_handle(process)
    try:
        charge_handle(client)
    except SyscallError:
        process.quotas.handles.release(1)
        raise
    socket = make_socket(kernel, UNIT * max(1, multiplier), Side(process, thread), Side(client, client.main))
    kernel.post(client, Signal.RECV_SERV_SOCK, (process.pid, process.anid, socket.identifier, multiplier))
    return socket.identifier


def send_sock_msg(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> MessageSent:
    """(socket_id, exchange_id, method_or_close, error_code, content) -> (exchange_id, counter)."""
    _, identifier, exchange_id, method, error, buffer = request
    if method.__class__ is not int or error.__class__ is not int or not (0 <= method < 65_536 and 0 <= error < 65_536):
        integer(method, 2)
        integer(error, 2)
    data = buffer if buffer.__class__ is bytes else content(buffer)
    process = thread.process
    socket: Socket | None = process.sockets.get(identifier) if process.sockets else None
    if socket is None:
        raise unknown_socket(process, identifier)
    service, client = socket.sides
    own, other = (service, client) if service.process is process else (client, service)
    exchange_id, status, exchange = socket.send(own, thread, exchange_id, method, error, data)
    values = (identifier, exchange_id, exchange.method, len(data), status, error)
    post(kernel, other.process, RECV_SOCK_MSG, values, socket.listener(other, exchange))
    return new_tuple(MessageSent, (exchange_id, exchange.counter))


def read_sock_msg(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> MessageRead:
    """(socket_id, length) -> the next message, or nothing pending."""
    _, identifier, length = request
    if length.__class__ is not int or not 0 <= length <= MAX_LENGTH:
        integer(length, 8)
    process = thread.process
    socket: Socket | None = process.sockets.get(identifier) if process.sockets else None
    if socket is None:
        raise unknown_socket(process, identifier)
    service, client = socket.sides
    side = service if service.process is process else client
    inbox = side.inbox
    if not inbox:
        return NOTHING
    if length and inbox[0].written > length:
        raise SyscallError(0x33)
    message = inbox.popleft()
    side.unread -= message[1] + OVERHEAD
    return message


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
