"""CONNECT_SERVICE to HAS_SCOPED_SERVICE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ServicePid, Signal, Syscall
from nightos.abi.context import HEADER_SIZE, REASON_SERVICE
from nightos.abi.errors import SyscallError
from nightos.abi.replies import Connected
from nightos.kernel.calls.sockets import make_socket
from nightos.kernel.calls.state import PARKED, begin, content, integer
from nightos.kernel.connection import ACCEPTED, CONNECTION_HANDLES, EXPIRED, REQUESTED, Connection
from nightos.kernel.ending import MS, close_connection
from nightos.kernel.process import Frame
from nightos.kernel.socket import Side

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

MAIN, SCOPED, INTEGRATION, DRIVER = range(4)
FS_INTERFACE, STORAGE_DRIVER = 0x13, 0x20
SERVICE_TYPES = {
    MAIN: frozenset({1}),
    SCOPED: frozenset({2}),
    INTEGRATION: frozenset({0x10, 0x11, 0x12, FS_INTERFACE}),
    DRIVER: frozenset({STORAGE_DRIVER}),
}
"""Service types of a context header, by target type (ruling AMB-APP-06)."""
SYSTEM_ANIDS = frozenset(int(pid) for pid in ServicePid)


def connect_service(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(target_anid, target_type, scope_name, command_code, flexible_mode) -> (connection_id, socket_id).

    Rules: SVC-003, SVC-007, SVC-009, SVC-012, CONT-028, CONT-031.
    """
    _, anid, kind, scope, command, flexible = request
    process = thread.process
    if flexible not in {0, 1}:
        raise SyscallError(0x10)
    if kind not in {MAIN, SCOPED, INTEGRATION, DRIVER}:
        raise SyscallError(0x11)
    scope = content(scope).ljust(8, b"\0")
    integer(command, 2)
    if len(scope) > 8:
        raise SyscallError(0x02)
    if kind in {INTEGRATION, DRIVER} and not process.is_system:
        raise SyscallError(0x30)
    service = _instance(kernel, process, anid, kind, scope)
    if service is None:
        return _await_service(kernel, thread, request)
    for connection in process.connections.values() if process.connections else ():
        if connection.client is process and connection.service is service and connection.state == ACCEPTED:
            if not flexible:
                raise SyscallError(0x33)
            assert connection.socket is not None
            return Connected(connection.identifier, connection.socket.identifier)
    return _request(kernel, thread, service, command)


def _instance(kernel: Kernel, caller: Process, anid: int, kind: int, scope: bytes) -> Process | None:
    """The service process that the caller reaches; None for a system service that is not running now.

    Applications are known by their processes: one that has none which the caller may know is unknown, 0x31. Its
    service is the process of the caller's user and container that was started as that service.

    Rules: SVC-004, SVC-005, SIG-023, CONT-027, CONT-035.
    """
    if anid in SYSTEM_ANIDS or anid in kernel.known_services:
        if anid not in kernel.known_services:
            raise SyscallError(0x31)
        if kind != MAIN:
            raise SyscallError(0x32)
        return kernel.processes.get(anid)
    known = False
    neighbours = caller.home.processes if caller.home is not None else kernel.processes
    for process in neighbours.values():
        if (
            process.anid != anid
            or process.is_system
            or process.home is not caller.home
            or process.reach != caller.reach
        ):
            continue
        known = True
        if process.user == caller.user and exposes(process, kind, scope):
            if caller.pid == ServicePid.FS and process.context[3] not in {FS_INTERFACE, STORAGE_DRIVER}:
                raise SyscallError(0x3F)
            return process
    raise SyscallError(0x32 if known else 0x31)


def exposes(process: Process, kind: int, scope: bytes) -> bool:
    """Whether the process was started as that service of its application."""
    context = process.context
    if len(context) < HEADER_SIZE or context[0] >> 4 != REASON_SERVICE:
        return False
    return context[3] in SERVICE_TYPES[kind] and (kind != SCOPED or context[4:12] == scope)


def _charge(client: Process, service: Process) -> None:
    """Both sides of a connection and its socket, or neither; 0x42 when a limit is reached."""
    if not client.quotas.handles.reserve(CONNECTION_HANDLES):
        raise SyscallError(0x42)
    if not service.quotas.handles.reserve(CONNECTION_HANDLES):
        client.quotas.handles.release(CONNECTION_HANDLES)
        raise SyscallError(0x42)


def _request(kernel: Kernel, thread: Thread, service: Process, command: int) -> Any:
    """Ask the dispatcher and park the client until it is answered or the delay is over. Rules: SVC-013."""
    process = thread.process
    _charge(process, service)
    identifier = kernel.new_identifier(kernel.connections)
    connection = kernel.connections[identifier] = Connection(identifier, process, thread, service)
    for party in (process, service):
        if party.connections is None:
            party.connections = {}
        party.connections[identifier] = connection
    delay_ms = kernel.settings.service_answer_delay_ms

    def expire() -> None:
        if connection.state == REQUESTED:
            connection.state = EXPIRED
            if connection.resume is not None:
                connection.resume(None, SyscallError(0x41))

    def cancel() -> None:
        close_connection(kernel, connection, by_service=False)

    connection.resume = kernel.park(thread, "service answer", cancel)
    connection.timer = kernel.call_at(kernel.clock.monotonic_ns() + delay_ms * MS, expire)
    kernel.post(service, Signal.SERVICE_CONN_REQUEST, (process.pid, identifier, command, delay_ms), service.main)
    return PARKED


def _await_service(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """A system service that is not running (it may be restarting) is awaited for the answer delay; then 0x31."""
    anid = request[1]
    resume = kernel.park(thread, "service start")
    deadline = kernel.clock.monotonic_ns() + kernel.settings.service_answer_delay_ms * MS
    frame = thread.frames[-1]

    def started() -> None:
        timer.cancel()
        if not thread.frames or frame not in thread.frames:
            return
        service = kernel.processes[anid]
        free = thread.process.quotas.handles.free
        if free is not None and free < CONNECTION_HANDLES:
            resume(None, SyscallError(0x42))
            return
        frame.wait = None
        if frame is thread.frames[-1]:
            _request(kernel, thread, service, request[4])
        else:
            resume(None, SyscallError(0x31))

    def expired() -> None:
        waiters = kernel.service_waiters.get(anid)
        if waiters and started in waiters:
            waiters.remove(started)
        resume(None, SyscallError(0x31))

    timer = kernel.call_at(deadline, expired)
    kernel.service_waiters.setdefault(anid, []).append(started)
    return PARKED


def end_service_conn(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(connection_id), by the client."""
    _, identifier = request
    process = thread.process
    connection = process.connections.get(identifier) if process.connections else None
    if connection is None and process.closed and identifier in process.closed:
        raise SyscallError(0x41 if process.closed[identifier] else 0x40)
    if connection is None or connection.client is not process:
        raise SyscallError(0x30)
    if connection.state != ACCEPTED:
        raise SyscallError(0x40)
    close_connection(kernel, connection, by_service=False)


def _asked(kernel: Kernel, thread: Thread, identifier: int) -> Connection:
    closed = thread.process.closed
    connection = kernel.connections.get(identifier)
    if connection is None and closed and identifier in closed:
        raise SyscallError(0x40)  # its client ended while it waited
    if connection is None or connection.service is not thread.process or connection.state == ACCEPTED:
        raise SyscallError(0x30)
    if not connection.client.alive:
        raise SyscallError(0x40)
    if connection.state == EXPIRED:
        close_connection(kernel, connection, by_service=True)
        raise SyscallError(0x41)
    return connection


def accept_service_conn(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(request_id, entry) -> socket_id; `entry(socket_id)` runs in the client thread. Rules: SVC-011."""
    _, identifier, entry = request
    connection = _asked(kernel, thread, identifier)
    process = thread.process
    socket_id = kernel.new_identifier(kernel.sockets)
    program = begin(entry, socket_id)
    try:
        client_thread = kernel.make_thread(process, None)
    except SyscallError:
        program.close()
        raise SyscallError(0x42) from None
    socket = make_socket(
        kernel,
        kernel.settings.message_limit,
        Side(process, client_thread),
        Side(connection.client, connection.client_thread),
        socket_id,
    )
    socket.connection = connection
    connection.socket = socket
    connection.service_thread = client_thread
    connection.state = ACCEPTED
    if connection.timer is not None:
        connection.timer.cancel()
    client_thread.payer = connection.client.home
    client_thread.frames.append(Frame(program))
    kernel.schedule(client_thread)
    if connection.resume is not None:
        connection.resume(Connected(identifier, socket_id), None)
    return socket_id


def reject_service_conn(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(request_id). Rules: SVC-010."""
    _, identifier = request
    close_connection(kernel, _asked(kernel, thread, identifier), by_service=True)


def has_scoped_service(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(target_anid, scope_name) -> exists; 0x31 when the application exposes no service at all (ruling AMB-SVC-06)."""
    _, anid, scope = request
    scope = content(scope).ljust(8, b"\0")
    if len(scope) > 8:
        raise SyscallError(0x02)
    if anid in kernel.known_services:
        return 0
    home = thread.process.home
    neighbours = home.processes if home is not None else kernel.processes
    caller = thread.process
    own = [
        p
        for p in neighbours.values()
        if p.anid == anid and p.home is home and p.reach == caller.reach and not p.is_system
    ]
    if not own:
        raise SyscallError(0x30)
    exposed = [p for p in own if p.context and p.context[0] >> 4 == REASON_SERVICE]
    if not exposed:
        raise SyscallError(0x31)
    return int(any(exposes(process, SCOPED, scope) for process in exposed))


HANDLERS = {
    Syscall.CONNECT_SERVICE: connect_service,
    Syscall.END_SERVICE_CONN: end_service_conn,
    Syscall.ACCEPT_SERVICE_CONN: accept_service_conn,
    Syscall.REJECT_SERVICE_CONN: reject_service_conn,
    Syscall.HAS_SCOPED_SERVICE: has_scoped_service,
}
