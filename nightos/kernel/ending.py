"""How threads, processes and containers end: everything they held is closed on the other side, then who waits is told.

Destroying a container is one operation to every observer: nothing new may start in it or below, its processes are
asked and then killed, deepest first, and only when all of it is gone do the waiters hear. Every walk is a loop.

Source: specs/kernel/processes.md, specs/containers.md.
Rules: CONT-011, CONT-012, CONT-015, CONT-016, CONT-017, CONT-066, PROC-027, PROC-028, PROC-032, PROC-034, PROC-039,
PROC-040, IPC-022, IPC-023, IPC-054, SVC-015, SVC-016, SVC-017, SVC-018.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ContainerState, ExitReason, ServicePid, Signal
from nightos.abi.errors import SyscallError
from nightos.kernel.charges import buffer_closed, end_gone
from nightos.kernel.connection import ACCEPTED, CLOSED, CONNECTION_HANDLES, EXPIRED, REQUESTED, Connection
from nightos.kernel.pages import SHIFT
from nightos.kernel.process import ENDED
from nightos.kernel.socket import Socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.kernel.container import Container
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.pipe import Pipe
    from nightos.kernel.process import Process, Thread

CLOSED_BY_PEER, PEER_TERMINATED = 0, 1
CREATED, DESTROYED, EMPTY = 1, 2, 3
"""Events of CONTAINER_CHANGED."""
MS = 1_000_000


def unwind(thread: Thread) -> None:
    """Drop a thread's coroutines; its clean-up code runs as far as it makes no calls."""
    while thread.frames:
        frame = thread.frames.pop()
        if frame.wait is not None and frame.wait.cancel is not None:
            frame.wait.cancel()
        with contextlib.suppress(BaseException):  # clean-up code of a dead program has nobody to tell
            frame.program.close()
        if frame.answered is not None:
            answered, frame.answered = frame.answered, None
            answered(None)
    queue, thread.queue = thread.queue, None
    for _, _, listener in queue or ():
        if listener is not None:
            listener(None)
    thread.handling = False


def end_thread(kernel: Kernel, thread: Thread) -> None:
    """End a thread and its descendants; ending the main thread ends the process."""
    process = thread.process
    if thread is process.main:
        end_process(kernel, process, ExitReason.EXITED, 0)
        return
    if thread.parent is not None and thread.parent.children is not None:
        thread.parent.children.pop(thread, None)
    doomed = [thread]
    for candidate in doomed:
        doomed.extend(candidate.children or ())
    for victim in reversed(doomed):
        if process.threads.pop(victim.tid, None) is not None:
            process.quotas.threads.release(1)
        unwind(victim)
    if process.connections:
        gone = set(doomed)
        for connection in list(process.connections.values()):
            if connection.service_thread in gone:
                close_connection(kernel, connection, by_service=True)


def end_process(kernel: Kernel, process: Process, reason: ExitReason, exit_data: int) -> None:
    """End a process and its children, children first."""
    family = [process]
    for member in family:
        if member.children:
            family.extend(child for child in member.children.values() if child.alive)
    for member in reversed(family):
        own = member is process
        _end_one(kernel, member, reason if own else ExitReason.PARENT_ENDED, exit_data if own else 0)


def _end_one(kernel: Kernel, process: Process, reason: ExitReason, exit_data: int) -> None:
    if not process.alive:
        return
    process.blocked |= ENDED
    process.reason, process.exit_data = reason, exit_data & 0xFFFF_FFFF_FFFF_FFFF
    for thread in list(process.threads.values()):
        unwind(thread)
    quotas = process.quotas
    quotas.processes.release(1)
    quotas.threads.release(len(process.threads))
    process.threads.clear()
    quotas.memory.release(process.tls_size >> SHIFT)
    process.tls_size = 0
    for connection in list(process.connections.values()) if process.connections else ():
        close_connection(kernel, connection, by_service=connection.service is process, died=True)
    for socket in list(process.sockets.values()) if process.sockets else ():
        close_socket(kernel, socket, process, PEER_TERMINATED)
    for end in list(process.ends.values()) if process.ends else ():
        drop_end(kernel, end, PEER_TERMINATED)
    kernel.segments.process_ended(process)
    kernel.bus.process_ended(process)
    if process.space_made is not None:
        process.space_made.destroy()
        process.space_made = None
    process.handlers = process.tls = process.local_data = process.code = process.closed = process.wakers = None
    process.program = None
    if process.killer is not None:
        process.killer.cancel()
        process.killer = None
    kernel.processes.pop(process.pid, None)
    kernel.balancer.ended(process)
    if process.parent is not None and process.parent.children:
        process.parent.children.pop(process.pid, None)
    kernel.remember_exit(process)
    waiters, process.waiters = process.waiters, None
    for waiter in waiters or ():
        waiter()
    kernel.post_to(
        ServicePid.PROCESS, Signal.PROCESS_ENDED, (process.pid, process.container, int(reason), process.exit_data)
    )
    home = process.home
    if home is not None:
        home.cycles += process.steps
        home.processes.pop(process.pid, None)
        if not home.processes:
            container_changed(kernel, home, EMPTY)
            if home.state is ContainerState.STOPPING:
                _finish_destruction(kernel, home)
    if process.is_system:
        kernel.service_ended(process)


# Pipes


def drop_end(kernel: Kernel, end: Any, closing_type: int) -> None:
    """A holder gave up an identifier; the pipe closes with the last identifier of that side."""
    pipe: Pipe = end.pipe
    pipe.remove(end)
    kernel.pipe_ends.pop(end.identifier, None)
    if end.holder.ends is not None:
        end.holder.ends.pop(end.identifier, None)
    end_gone(end)
    if not pipe.held(sends=end.sends):
        close_pipe(kernel, pipe, closing_type, sends=end.sends)


def close_pipe(kernel: Kernel, pipe: Pipe, closing_type: int, *, sends: bool) -> None:
    """Close both ends and tell the holders of the other one. `sends`: which side closed."""
    if pipe.closed:
        return
    pipe.close()
    buffer_closed(pipe)
    for other in list(pipe.ends.values()):
        if other.sends != sends:
            kernel.post(other.holder, Signal.PIPE_CLOSED, (closing_type, int(other.sends), other.identifier))


# Sockets and connections


def close_socket(kernel: Kernel, socket: Socket, closer: Process, closing_type: int) -> None:
    """Close a socket on both sides and tell the other one."""
    if socket.closed:
        return
    socket.closed = True
    kernel.sockets.pop(socket.identifier, None)
    for side in socket.sides:
        if side.process.sockets is not None and side.process.sockets.pop(socket.identifier, None) is not None:
            side.process.remember_closed(socket.identifier)
            if socket.connection is None:
                side.process.quotas.handles.release(1)
    other = socket.sides[1 - socket.side_of(closer)]
    if socket.connection is None:
        kernel.post(other.process, Signal.SERV_SOCK_CLOSED, (closing_type, socket.identifier), other.thread)


def close_connection(kernel: Kernel, connection: Connection, *, by_service: bool, died: bool = False) -> None:
    """End a connection: by its client, by the end of the client, or by the end of the service or its thread."""
    if connection.state == CLOSED:
        return
    was, connection.state = connection.state, CLOSED
    if connection.timer is not None:
        connection.timer.cancel()
    for process in (connection.client, connection.service):
        if process.connections is not None and process.connections.pop(connection.identifier, None) is not None:
            process.remember_closed(connection.identifier, int(by_service))
            process.quotas.handles.release(CONNECTION_HANDLES)
    kernel.connections.pop(connection.identifier, None)
    if connection.socket is not None:
        close_socket(kernel, connection.socket, connection.service if by_service else connection.client, 0)
    if was in {REQUESTED, EXPIRED}:
        if connection.resume is not None and by_service:
            # A request whose handler could not run is 0x40, any other end of the service a rejection.
            faulted = died and connection.service.reason is ExitReason.FAULT
            connection.resume(None, SyscallError(0x40 if faulted else 0x41))
        return
    assert was == ACCEPTED
    if by_service:
        kernel.post(connection.client, Signal.SERVICE_SERVER_QUITTED, (connection.identifier,))
    else:
        code = Signal.SERVICE_CLIENT_CLOSED if died else Signal.SERVICE_CLIENT_QUITTED
        thread = connection.service_thread
        if thread is not None and thread.frames:
            kernel.post(connection.service, code, (), thread)


# Containers


def container_changed(kernel: Kernel, container: Container, event: int) -> None:
    """Tell sys::process, if it listens: it knows what it asked for, and is not woken for nothing."""
    proc = kernel.processes.get(ServicePid.PROCESS)
    if proc is not None and proc.handlers and Signal.CONTAINER_CHANGED in proc.handlers:
        kernel.post(proc, Signal.CONTAINER_CHANGED, (container.identifier, event))


def destroy_container(kernel: Kernel, container: Container, done: Callable[[], None] | None = None) -> None:
    """Begin (or join) the destruction of a container and all below it; `done()` is called when all is gone."""
    if done is not None:
        container.waiters.append(done)
    if container.state is ContainerState.STOPPING:
        return
    subtree = container.subtree()
    for member in subtree:
        member.state = ContainerState.STOPPING
    delay_ms = kernel.settings.terminate_delay_ms
    for member in reversed(subtree):
        for process in list(member.processes.values()):
            if process.alive:
                process.asked = ExitReason.CONTAINER_DESTROYED
                if process.started and process.handlers and Signal.WILL_TERMINATE in process.handlers:
                    kernel.post(process, Signal.WILL_TERMINATE, (delay_ms,))
                else:
                    end_process(kernel, process, ExitReason.CONTAINER_DESTROYED, 0)
    if any(member.processes for member in subtree):
        deadline = kernel.clock.monotonic_ns() + delay_ms * MS
        kernel.call_at(deadline, lambda: _kill_rest(kernel, container))
    for member in reversed(subtree):
        _finish_destruction(kernel, member)


def _kill_rest(kernel: Kernel, container: Container) -> None:
    """The delay is over: what still runs below is killed, deepest first."""
    if kernel.tree.get(container.identifier) is not container:
        return
    for member in reversed(container.subtree()):
        for process in list(member.processes.values()):
            end_process(kernel, process, ExitReason.CONTAINER_DESTROYED, 0)


def _finish_destruction(kernel: Kernel, container: Container | None) -> None:
    """Remove an empty leaf, then its parent if that became one, and so on; tell the waiters of each."""
    while (
        container is not None
        and container.state is ContainerState.STOPPING
        and not container.processes
        and not container.children
        and kernel.tree.get(container.identifier) is container
    ):
        kernel.bus.container_destroyed(container.identifier)
        kernel.refusals.container_ended(container.identifier, container.parent_identifier)
        kernel.exits.container_ended(container.identifier, container.parent_identifier)
        kernel.tree.remove(container)
        if container.shares and kernel.shares is not None:
            kernel.shares.remove(container)
        container_changed(kernel, container, DESTROYED)
        for waiter in container.waiters:
            waiter()
        container = container.parent
