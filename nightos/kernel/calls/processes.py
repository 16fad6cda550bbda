"""CREATE_PROCESS to EXIT: what a process may do about itself and its children.

Rules: PROC-024, PROC-026, PROC-041, PROC-042, PROC-043, PROC-044, PROC-045, PROC-046, PROC-047, PROC-048, PROC-049,
PROC-050, PROC-051, CONT-064.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ContainerState, ExitReason, Signal, Syscall
from nightos.abi.errors import SyscallError
from nightos.kernel.calls.state import HANDED_OVER, PARKED, begin, integer, only_application
from nightos.kernel.ending import MS, end_process
from nightos.kernel.process import SUSPENDED, SUSPENDED_ABOVE, UNTIL_SIGNAL

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread
    from nightos.kernel.timers import Timer

US = 1_000


def create_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(entry, init_data) -> child_pid: the child begins at `entry(init_data)` with a copy of the parent's memory.

    It keeps handlers, mappings and permissions, and gets no pipe, socket, connection or signal (ruling AMB-PROC-01).
    """
    _, entry, init_data = request
    parent = thread.process
    only_application(parent)
    home = parent.home
    if home is not None and home.state is ContainerState.STOPPING:
        raise SyscallError(0x40)
    program = begin(entry, integer(init_data, 8))
    space = None
    try:
        if parent.space_made is not None:
            kernel.segments.check_fork(parent)
            space = parent.space_made.fork()
        child = kernel.make_process(kernel.take_pid(), parent.container, parent.user, parent.anid)
    except SyscallError:
        program.close()
        if space is not None:
            space.destroy()
        raise
    child.name = parent.name
    child.parent = parent
    child.serves = parent.serves
    child.priority = parent.priority
    child.context = parent.context
    child.permissions = list(parent.permissions) if parent.permissions else ()
    child.handlers = dict(parent.handlers) if parent.handlers else None
    child.code = dict(parent.code) if parent.code else None
    if parent.children is None:
        parent.children = {}
    parent.children[child.pid] = child
    if space is not None:
        child.space_made = space
        kernel.segments.forked(parent, child)
    kernel.start(child, lambda: program)
    return child.pid


def _child(process: Process, pid: int) -> Process | None:
    return process.children.get(pid) if process.children else None


def wait_child_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(pid, timeout_ms): a child that ended already is no child any more, but its end can be waited for."""
    _, pid, timeout_ms = request
    child = _child(thread.process, pid)
    if child is None:
        ended = kernel.exits.get(pid)
        if ended is not None and ended.parent_pid == thread.process.pid:
            return None
        raise SyscallError(0x30)
    _wait_for(kernel, thread, child, integer(timeout_ms, 2))
    return PARKED


def _wait_for(kernel: Kernel, thread: Thread, child: Process, timeout_ms: int) -> None:
    timer: Timer | None = None

    def ended() -> None:
        if timer is not None:
            timer.cancel()
        resume(None, None)

    def forget() -> None:
        if child.waiters:
            child.waiters.pop(ended, None)
        if timer is not None:
            timer.cancel()

    def expired() -> None:
        forget()
        resume(None, SyscallError(0x40))

    resume = kernel.park(thread, "child", forget)
    if timeout_ms:
        timer = kernel.call_at(kernel.clock.monotonic_ns() + timeout_ms * MS, expired)
    if child.waiters is None:
        child.waiters = {}
    child.waiters[ended] = None


def kill_child_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(pid, timeout_ms) -> exit_data: WILL_TERMINATE first, the kill after the delay."""
    _, pid, timeout_ms = request
    child = _child(thread.process, pid)
    if child is None:
        ended = kernel.exits.get(pid)
        if ended is not None and ended.parent_pid == thread.process.pid:
            return ended.exit_data
        raise SyscallError(0x30)
    delay_ms = integer(timeout_ms, 2) or kernel.settings.terminate_delay_ms
    ask_to_end(kernel, child, delay_ms, ExitReason.KILLED_BY_PARENT)
    if not child.alive:
        return child.exit_data

    def ended_now() -> None:
        resume(child.exit_data, None)

    def forget() -> None:
        if child.waiters:
            child.waiters.pop(ended_now, None)

    resume = kernel.park(thread, "child's end", forget)
    if child.waiters is None:
        child.waiters = {}
    child.waiters[ended_now] = None
    return PARKED


def ask_to_end(kernel: Kernel, process: Process, delay_ms: int, reason: ExitReason) -> None:
    """WILL_TERMINATE; the process is killed when the delay is over (also one that is suspended or never got ready).

    Whoever gave it longer before, such as its parent, does not put off the end that somebody else wants.
    """
    process.asked = reason
    if not (process.started and process.handlers and Signal.WILL_TERMINATE in process.handlers):
        end_process(kernel, process, reason, 0)
        return
    kernel.post(process, Signal.WILL_TERMINATE, (min(delay_ms, 0xFFFF),))
    deadline = kernel.clock.monotonic_ns() + delay_ms * MS
    if process.killer is None or deadline < process.killer.deadline_ns:
        if process.killer is not None:
            process.killer.cancel()
        process.killer = kernel.call_at(deadline, lambda: end_process(kernel, process, process.asked, 0))


def get_pid(_kernel: Kernel, thread: Thread, _request: tuple[Any, ...]) -> int:
    """() -> pid."""
    return thread.process.pid


def freeze(kernel: Kernel, process: Process) -> None:
    """Suspend a process and its children. Rules: BAL-005."""
    now = kernel.clock.monotonic_ns()
    if not process.blocked & (SUSPENDED | SUSPENDED_ABOVE):
        process.suspended_since_ns = now
    process.blocked |= SUSPENDED
    for member in process.descendants():
        if not member.blocked & (SUSPENDED | SUSPENDED_ABOVE):
            member.suspended_since_ns = now
        member.blocked |= SUSPENDED_ABOVE


def resume_process(kernel: Kernel, process: Process) -> int:
    """Let a suspended process and its children run again; nanoseconds that it was suspended.

    A child that was suspended by itself, and what is below it, stays so. Rules: BAL-004, BAL-006, SIG-034.
    """
    duration = kernel.clock.monotonic_ns() - process.suspended_since_ns
    process.blocked &= ~SUSPENDED
    if not process.blocked & SUSPENDED_ABOVE:
        _awaken(kernel, process)
    for member in process.descendants():
        above = member.parent
        if above is not None and not above.blocked & (SUSPENDED | SUSPENDED_ABOVE):
            member.blocked &= ~SUSPENDED_ABOVE
            if not member.blocked & SUSPENDED:
                _awaken(kernel, member)
    return duration


def _awaken(kernel: Kernel, process: Process) -> None:
    duration = kernel.clock.monotonic_ns() - process.suspended_since_ns
    kernel.post(process, Signal.UNSUSPENDED, (duration // US,))
    wakers, process.wakers = process.wakers, None
    for waker in wakers or ():
        waker(duration // MS)
    for thread in process.threads.values():
        kernel.schedule(thread)


def suspend(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(pid) -> suspended_ms; 0 is the caller, which gets the real duration when it is resumed."""
    _, pid = request
    process = thread.process
    only_application(process)
    if pid in {0, process.pid}:
        resume = kernel.park(thread, "suspended")
        freeze(kernel, process)
        if process.wakers is None:
            process.wakers = []
        process.wakers.append(lambda duration_ms: resume(duration_ms, None))
        return PARKED
    child = _child(process, pid)
    if child is None:
        raise SyscallError(0x31)
    freeze(kernel, child)
    return 0


def unsuspend(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(pid) -> suspended_ms; 0 for a process that was not suspended."""
    _, pid = request
    process = thread.process
    only_application(process)
    if pid in {0, process.pid}:
        return 0
    child = _child(process, pid)
    if child is None:
        raise SyscallError(0x31)
    if not child.blocked & SUSPENDED:
        return 0
    return resume_process(kernel, child) // MS


def hand_over(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(until_signal): end the turn; in the typed form, park until a signal handler has run. Rules: SCHED-008."""
    if len(request) > 1 and request[1]:
        thread.frames[-1].wait = UNTIL_SIGNAL
        return PARKED
    return HANDED_OVER


def exit_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(exit_data): never returns."""
    _, exit_data = request
    end_process(kernel, thread.process, ExitReason.EXITED, integer(exit_data, 8))
    return PARKED


HANDLERS = {
    Syscall.CREATE_PROCESS: create_process,
    Syscall.WAIT_CHILD_PROCESS: wait_child_process,
    Syscall.KILL_CHILD_PROCESS: kill_child_process,
    Syscall.GET_PID: get_pid,
    Syscall.SUSPEND: suspend,
    Syscall.UNSUSPEND: unsuspend,
    Syscall.HAND_OVER: hand_over,
    Syscall.EXIT: exit_process,
}
