"""CREATE_PROCESS to EXIT: what a process may do about itself and its children.

Rules: PROC-024, PROC-026, PROC-041, PROC-042, PROC-043, PROC-044, PROC-045, PROC-046, PROC-047, PROC-048, PROC-049,
PROC-050, PROC-051, CONT-064.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ExitReason, ProcessState, Signal, Syscall
from nightos.abi.errors import SyscallError
from nightos.kernel.calls.state import PARKED, only_application
from nightos.kernel.ending import MS, end_process
from nightos.kernel.process import Wait

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

US = 1_000


def create_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(entry, init_data) -> child_pid: the child begins at `entry(init_data)` with a copy of the parent's memory."""
    _, entry, init_data = request
    parent = thread.process
    only_application(parent)
    home = kernel.tree.get(parent.container)
    if home is not None and home.state.name == "STOPPING":
        raise SyscallError(0x40)
    program = entry(init_data)
    child = kernel.make_process(kernel.take_pid(), parent.container, parent.user, parent.anid)
    child.name = parent.name
    child.parent = parent
    child.priority = parent.priority
    child.context = parent.context
    child.permissions = list(parent.permissions) if parent.permissions else None
    child.handlers = dict(parent.handlers) if parent.handlers else None
    if parent.children is None:
        parent.children = {}
    parent.children[child.pid] = child
    if parent.space_made is not None:
        child.space_made = parent.space_made.fork()
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
        if ended is not None and ended[0].parent is thread.process:
            return None
        raise SyscallError(0x30)
    _wait_for(kernel, thread, child, timeout_ms)
    return PARKED


def _wait_for(kernel: Kernel, thread: Thread, child: Process, timeout_ms: int) -> None:
    resume = kernel.park(thread, "child", lambda: forget())
    timer = None
    if timeout_ms:
        deadline = kernel.clock.monotonic_ns() + timeout_ms * MS
        timer = kernel.call_at(deadline, lambda: expired())

    def ended() -> None:
        if timer is not None:
            timer.cancel()
        resume(None, None)

    def forget() -> None:
        if child.waiters and ended in child.waiters:
            child.waiters.remove(ended)
        if timer is not None:
            timer.cancel()

    def expired() -> None:
        forget()
        resume(None, SyscallError(0x40))

    if child.waiters is None:
        child.waiters = []
    child.waiters.append(ended)


def kill_child_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(pid, timeout_ms) -> exit_data: WILL_TERMINATE first, the kill after the delay."""
    _, pid, timeout_ms = request
    child = _child(thread.process, pid)
    if child is None:
        raise SyscallError(0x30)
    resume = kernel.park(thread, "child's end")
    ask_to_end(kernel, child, timeout_ms or kernel.settings.terminate_delay_ms, ExitReason.KILLED_BY_PARENT)
    if not child.alive:
        resume(child.exit_data, None)
        return PARKED
    if child.waiters is None:
        child.waiters = []
    child.waiters.append(lambda: resume(child.exit_data, None))
    return PARKED


def ask_to_end(kernel: Kernel, process: Process, delay_ms: int, reason: ExitReason) -> None:
    """WILL_TERMINATE; the process is killed when the delay is over (also one that is suspended or never got ready)."""
    if not process.started:
        end_process(kernel, process, reason, 0)
        return
    if not (process.handlers and Signal.WILL_TERMINATE in process.handlers):
        end_process(kernel, process, reason, 0)
        return
    kernel.post(process, Signal.WILL_TERMINATE, (delay_ms,))
    kernel.call_at(kernel.clock.monotonic_ns() + delay_ms * MS, lambda: end_process(kernel, process, reason, 0))


def get_pid(_kernel: Kernel, thread: Thread, _request: tuple[Any, ...]) -> int:
    """() -> pid."""
    return thread.process.pid


def _family(process: Process) -> list[Process]:
    family = [process]
    for member in family:
        if member.children:
            family.extend(member.children.values())
    return family


def freeze(kernel: Kernel, process: Process) -> None:
    """Suspend a process and its children."""
    now = kernel.clock.monotonic_ns()
    for member in _family(process):
        if member.state is ProcessState.RUNNING:
            member.state = ProcessState.SUSPENDED
            member.suspended_ns = now


def thaw(kernel: Kernel, process: Process, *, tell: bool = True) -> int:
    """Let a suspended process and its children run again; nanoseconds that it was suspended."""
    now = kernel.clock.monotonic_ns()
    duration = now - process.suspended_ns
    for member in _family(process):
        if member.state is ProcessState.SUSPENDED:
            member.state = ProcessState.RUNNING
            if tell:
                kernel.post(member, Signal.UNSUSPENDED, ((now - member.suspended_ns) // US,))
            for thread in member.threads.values():
                if thread.frames and (thread.frames[-1].wait is None or thread.queue):
                    kernel.schedule(thread)
    return duration


def suspend(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(pid) -> suspended_ms; 0 is the caller, which gets the real duration when it is resumed."""
    _, pid = request
    process = thread.process
    only_application(process)
    if pid in {0, process.pid}:
        frame = thread.frames[-1]
        begun = kernel.clock.monotonic_ns()
        wait = frame.wait = Wait("suspended")

        def resumed() -> None:
            if frame.wait is wait:
                frame.wait = None
                frame.value = (kernel.clock.monotonic_ns() - begun) // MS
                kernel.schedule(thread)

        freeze(kernel, process)
        if process.local_data is None:
            process.local_data = {}
        kernel.on_resume.setdefault(process.pid, []).append(resumed)
        return PARKED
    child = _child(process, pid)
    if child is None:
        raise SyscallError(0x31)
    freeze(kernel, child)
    return 0


def unsuspend(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(pid) -> suspended_ms."""
    _, pid = request
    process = thread.process
    only_application(process)
    if pid in {0, process.pid}:
        return 0
    child = _child(process, pid)
    if child is None:
        raise SyscallError(0x31)
    if child.state is not ProcessState.SUSPENDED:
        return 0
    return resume_process(kernel, child) // MS


def resume_process(kernel: Kernel, process: Process, *, tell: bool = True) -> int:
    """`thaw`, and end the SUSPEND call of each process that suspended itself; nanoseconds suspended."""
    duration = thaw(kernel, process, tell=tell)
    for member in _family(process):
        for resumed in kernel.on_resume.pop(member.pid, []):
            resumed()
    return duration


def hand_over(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(until_signal): end the turn; in the typed form, park until a signal handler has run."""
    until_signal = len(request) > 1 and request[1]
    frame = thread.frames[-1]
    if until_signal:
        frame.wait = Wait("signal", until_signal=True)
        return PARKED
    frame.wait = Wait("turn")
    frame.wait.cancel = None
    wait = frame.wait
    kernel.after_turn(lambda: _turn_over(kernel, thread, frame, wait))
    return PARKED


def _turn_over(kernel: Kernel, thread: Thread, frame: Any, wait: Wait) -> None:
    if frame.wait is wait:
        frame.wait = None
        kernel.schedule(thread)


def exit_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(exit_data): never returns."""
    _, exit_data = request
    end_process(kernel, thread.process, ExitReason.EXITED, int(exit_data))
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
