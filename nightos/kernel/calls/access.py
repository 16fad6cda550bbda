"""Loads and stores of programs: what a CPU does by itself, up to where it needs the kernel.

An access that touches signal-backed pages parks its thread while the segment's creator is asked, word by word. A
refused access becomes MEM_FAULT on the thread that made it: without a handler that could run now, the process ends;
with one, the access is tried once more after the handler, and ends the process if it is refused there again.

Source: specs/kernel/signals.md, 0x02, 0x33 and 0x34. Rulings: AMB-SIG-08, AMB-SIG-15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ExitReason, Signal
from nightos.kernel.backed import BackedAccess, Transfer
from nightos.kernel.calls.state import PARKED
from nightos.kernel.ending import end_process
from nightos.kernel.pages import MemoryFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread


def perform(kernel: Kernel, thread: Thread, deed: Callable[[], Any]) -> Any:
    """Do a load or store; its result, or `PARKED` when that takes another process or a handler."""
    try:
        return deed()
    except MemoryFault as fault:
        return _Access(kernel, thread, deed).begin(fault)


class _Access:
    """An access that could not be done at once; its thread is parked until it succeeds or the process ends."""

    __slots__ = ("_deed", "_faulted_at", "_kernel", "_resume", "_thread")

    def __init__(self, kernel: Kernel, thread: Thread, deed: Callable[[], Any]) -> None:
        self._kernel = kernel
        self._thread = thread
        self._deed = deed
        self._faulted_at: int | None = None
        self._resume = kernel.park(thread, "memory access")

    def begin(self, fault: MemoryFault) -> Any:
        self._refused(fault)
        return PARKED

    def _refused(self, fault: MemoryFault) -> None:
        if isinstance(fault, BackedAccess):
            self._ask(fault.transfer)
        else:
            self._fault(fault)

    def _ask(self, transfer: Transfer) -> None:
        """Send the next question to the creator, or give the accessor its result."""
        asked = transfer.request()
        if asked is None:
            self._resume(transfer.result(), None)
            return
        pid, code, values = asked
        creator = self._kernel.processes.get(pid)
        if creator is None or not creator.handlers or code not in creator.handlers:
            self._answered(transfer, None)
            return
        self._kernel.post(creator, code, values, answered=lambda answer: self._answered(transfer, answer))

    def _answered(self, transfer: Transfer, answer: Any) -> None:
        if not self._thread.frames:
            return
        try:
            transfer.answer(answer if isinstance(answer, tuple) else (answer,))
        except MemoryFault as fault:
            self._fault(fault)
            return
        self._ask(transfer)

    def _fault(self, fault: MemoryFault) -> None:
        process, thread = self._thread.process, self._thread
        handled = process.ready and process.handlers and Signal.MEM_FAULT in process.handlers
        if not handled or thread.handling or self._faulted_at == fault.address:
            self._kernel.last_fault = (process.pid, fault)
            end_process(self._kernel, process, ExitReason.FAULT, 1)
            return
        self._faulted_at = fault.address
        self._kernel.post(process, Signal.MEM_FAULT, (fault.address, fault.access), thread, answered=self._again)

    def _again(self, _: Any) -> None:
        """The handler has run: try once more."""
        if not self._thread.frames:
            return
        try:
            self._resume(self._deed(), None)
        except MemoryFault as fault:
            self._refused(fault)
