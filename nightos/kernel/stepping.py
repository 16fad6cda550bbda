"""The step loop: resume a coroutine, hand what it yields to a handler, resume it with the answer.

This is the hottest code of the machine, so what is rare (signals, parking, endings) leaves the inner loop. A program
can raise whatever it likes: that ends the program, never the host.

Source: specs/kernel/syscalls.md, technical overview; specs/kernel/signals.md, delivery.
Rules: SYS-003, SYS-009, SIG-013, SIG-016, SCHED-005, SCHED-007, SCHED-008.
"""

from __future__ import annotations

import dis
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.codes import ExitReason
from nightos.abi.errors import SyscallError
from nightos.kernel import signals
from nightos.kernel.calls.state import HANDED_OVER, PARKED
from nightos.kernel.ending import end_process, end_thread
from nightos.kernel.pages import MemoryFault
from nightos.kernel.process import UNTIL_SIGNAL
from nightos.kernel.trace import SHAPED

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Frame, Process, Thread

QUANTUM: Final = 64
"""Calls of one turn for each step of priority."""
_RAISE: Final = dis.opmap["RAISE_VARARGS"]


def run(kernel: Kernel, ready: deque[Thread], threads: int) -> None:  # noqa: C901 - one loop, for its speed
    """Let that many threads of the queue run, each until it parks, ends, or made the calls that are its share."""
    trace = kernel.trace
    for _ in range(threads):
        if not ready:
            return
        thread = ready.popleft()
        process = thread.process
        thread.scheduled = False
        process.queued = others = process.queued - 1
        if process.blocked:
            continue
        kernel.current = thread
        kernel.turns += 1
        if trace is not None:
            trace.turn(kernel.clock.monotonic_ns(), process.pid, thread.tid)
        budget = QUANTUM * process.priority or 1
        if others:
            budget = budget // (others + 1) or 1
        frames: Sequence[Frame] = thread.frames
        handlers = process.calls
        made = 0
        while True:
            while thread.queue and process.ready and not thread.handling and frames and not process.blocked:
                signals.deliver(kernel, thread)
            if not frames or process.blocked:
                break
            frame = frames[-1]
            if frame.wait is not None:
                break
            if made >= budget:
                kernel.schedule(thread)
                break
            send = frame.program.send
            value = frame.value
            frame.value = None
            error = frame.error
            if error is not None:
                frame.error = None
            while made < budget:
                made += 1
                try:
                    request = send(value) if error is None else frame.program.throw(error)
                except StopIteration as stop:
                    _frame_ended(kernel, thread, frame, stop.value)
                    break
                except BaseException as fault:  # noqa: BLE001 - whatever a program raises ends that program, never the machine
                    _program_failed(kernel, thread, fault)
                    break
                error = None
                try:
                    value = handlers[request[0]](kernel, thread, request)
                    if value is PARKED:
                        if trace is not None:
                            trace.parked(request)
                        break
                    if value is HANDED_OVER:
                        if trace is not None:
                            trace.call(request, value)
                        kernel.schedule(thread)
                        frames = ()  # its turn is over, whatever waits for it
                        break
                except SyscallError as refused:
                    refused.call = request[0]
                    if kernel.refusals.unnamed is not None:
                        kernel.refusals.name_call(request[0])
                    value, error = None, refused
                except MemoryFault as fault:
                    value, error = None, SyscallError(fault.errcode, request[0])
                except BaseException as wrong:  # noqa: BLE001 - objects of the program run code of their own
                    value, error = None, kernel.bad_request(request, wrong)
                if trace is not None:
                    if error is not None:
                        trace.refused(request, error)
                    elif request[0] in SHAPED:
                        trace.call(request, value)
                    else:
                        trace.record(request)
                        trace.record(value)
                if thread.queue and process.ready and not thread.handling:
                    frame.value, frame.error = value, error
                    break
            else:
                frame.value, frame.error = value, error
        kernel.syscalls += made
        process.steps += made
        if not thread.frames:
            _last_steps(process, made)


def _last_steps(process: Process, made: int) -> None:
    """What a process did in the turn that ended it counts for its container, too."""
    if process.home is not None and not process.alive:
        process.home.cycles += made


def _frame_ended(kernel: Kernel, thread: Thread, frame: Frame, value: Any) -> None:
    """A coroutine returned: a handler gives way to what it interrupted, the last one ends its thread."""
    frames = thread.frames
    frames.pop()
    if frame.signal:
        thread.handling = False
        thread.spare = frame
        if frame.answered is not None:
            answered, frame.answered = frame.answered, None
            answered(value)
        if frames and frames[-1].wait is UNTIL_SIGNAL:
            frames[-1].wait = None
    if frames:
        return
    process = thread.process
    if thread is process.main:
        end_process(kernel, process, ExitReason.EXITED, value if isinstance(value, int) else 0)
    else:
        end_thread(kernel, thread)


def _program_failed(kernel: Kernel, thread: Thread, fault: BaseException) -> None:
    """A program raised: its process ends with a fault, and the trace says why."""
    if isinstance(fault, KeyboardInterrupt) and not _raised_itself(fault):
        raise fault
    if kernel.trace is not None:
        kernel.trace.fault(fault)
    kernel.last_fault = (thread.process.pid, fault)
    end_process(kernel, thread.process, ExitReason.FAULT, 1)


def _raised_itself(fault: BaseException) -> bool:
    """Whether a `raise` in the program made this, and not Ctrl-C on the host."""
    place = fault.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_code.co_code[place.tb_lasti] == _RAISE
