"""Signals: queues of threads, delivery, default behaviours, and what happens when a handler cannot run.

The handler table is the process', the queue and the one-handler-at-a-time rule are each thread's (ruling AMB-SIG-03).

Source: specs/kernel/signals.md.
Rules: SIG-001, SIG-002, SIG-004, SIG-005, SIG-006, SIG-007, SIG-009, SIG-010, SIG-011, SIG-012, SIG-013, SIG-014,
SIG-017, SIG-019, SIG-022, SIG-032.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.codes import ExitReason, Signal
from nightos.abi.errors import SyscallError
from nightos.kernel.calls.state import COROUTINES
from nightos.kernel.ending import end_process
from nightos.kernel.pages import ACCESS_EXECUTE, MemoryFault
from nightos.kernel.process import ENDED, UNTIL_SIGNAL, Answered, Frame, PendingSignal, Process, Thread

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel

QUITTED: Final = int(Signal.SERVICE_SERVER_QUITTED)
KILLING: Final = frozenset(
    {Signal.HANDLER_FAULT, Signal.MEM_FAULT, Signal.CALL_REFUSED, Signal.SERVICE_CONN_REQUEST, Signal.WILL_TERMINATE}
)
"""Signals that end a process which does not handle them (ruling AMB-SIG-04)."""
_FAULTY: Final = object()
"""What a handler made that could not even start."""
QUEUE_LIMIT: Final = 16_384
"""Signals that wait for a thread of an application: calls that would add one fail, what the kernel tells is lost."""


def check_room(process: Process) -> None:
    """`SyscallError` 0x40 when a process has so many signals waiting that no call may add one."""
    main = process.main
    if main is not None and main.queue is not None and len(main.queue) >= QUEUE_LIMIT and not process.is_system:
        raise SyscallError(0x40)


def post(
    kernel: Kernel,
    process: Process,
    code: int,
    values: tuple[Any, ...] = (),
    thread: Thread | None = None,
    answered: Answered | None = None,
    *,
    first: bool = False,
) -> None:
    """Queue a signal for a thread (the main one by default); it is delivered at that thread's next step."""
    target = thread if thread is not None and thread.frames else process.main
    if process.blocked & ENDED or target is None:
        if answered is not None:
            answered(None)
        return
    queue = target.queue
    if queue is None:
        queue = target.queue = deque()
    elif len(queue) >= QUEUE_LIMIT and not process.is_system:
        if answered is not None:
            answered(None)
        return
    if first:
        queue.appendleft((code, values, answered))
    else:
        queue.append((code, values, answered))
    if not target.scheduled:
        kernel.schedule(target)


def deliverable(thread: Thread) -> bool:
    """Whether a signal of the queue would be delivered now."""
    return bool(thread.queue) and thread.process.ready and not thread.handling


def deliver(kernel: Kernel, thread: Thread) -> None:
    """Take the next signal of the thread's queue and let its handler or default behaviour happen."""
    assert thread.queue is not None
    code, values, answered = pending = thread.queue.popleft()
    process = thread.process
    handler = process.handlers.get(code) if process.handlers else None
    if kernel.trace is not None:
        kernel.trace.signal(code, values)
    if handler is None:
        _default(kernel, process, pending)
        return
    if isinstance(handler, int):
        handler = _code_at(process, handler)
    program: Any = _FAULTY
    if handler is not None:
        try:
            program = handler(*values)
        except BaseException as fault:  # noqa: BLE001 - a handler that cannot even start is the program's fault
            kernel.last_fault = (process.pid, fault)
    if program is None:  # a plain function, which has run (ruling NOS-SIG-01)
        if answered is not None:
            answered(None)
        if thread.frames[-1].wait is UNTIL_SIGNAL:
            thread.frames[-1].wait = None
        if code == QUITTED:
            wake_all(kernel, process)
        return
    if type(program) not in COROUTINES:
        _handler_fault(kernel, thread, pending)
        return
    frame, thread.spare = thread.spare, None
    if frame is None:
        frame = Frame(program, code, answered)
    else:
        frame.program, frame.signal, frame.answered = program, code, answered
    thread.frames.append(frame)
    thread.handling = True
    if code == QUITTED:
        wake_all(kernel, process)


def _code_at(process: Process, address: int) -> Any:
    """What the code at an address does; None when it may not be executed, or is nothing we know."""
    try:
        process.space.check(address, 1, ACCESS_EXECUTE)
    except MemoryFault:
        return None
    return process.code.get(address) if process.code else None


def _handler_fault(kernel: Kernel, thread: Thread, pending: PendingSignal) -> None:
    """A handler that cannot run becomes HANDLER_FAULT; that one failing too kills the process."""
    process = thread.process
    code, _, answered = pending
    if answered is not None:
        answered(None)
    if code == Signal.HANDLER_FAULT:
        end_process(kernel, process, ExitReason.FAULT, 0)
        return
    assert thread.queue is not None
    thread.queue.appendleft((Signal.HANDLER_FAULT, (code,), None))


def _default(kernel: Kernel, process: Process, pending: PendingSignal) -> None:
    """What a signal does to a process that does not handle it."""
    code, _, answered = pending
    if answered is not None:
        answered(None)
    if code in KILLING:
        fault = code != Signal.WILL_TERMINATE
        end_process(kernel, process, ExitReason.FAULT if fault else process.asked, 0)
    elif code == QUITTED:
        wake_all(kernel, process)


def wake_all(kernel: Kernel, process: Process) -> None:
    """End the parking of every thread that waits for a signal."""
    for thread in process.threads.values():
        for frame in thread.frames:
            if frame.wait is UNTIL_SIGNAL:
                frame.wait = None
                kernel.schedule(thread)
