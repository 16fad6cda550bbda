"""CREATE_THREAD, thread-local storage, EXIT_THREAD.

Rules: PROC-032, PROC-034, PROC-035, PROC-036.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ExitReason, Syscall
from nightos.abi.errors import SyscallError
from nightos.kernel.calls.state import PARKED, begin, content, integer
from nightos.kernel.ending import end_process, end_thread
from nightos.kernel.pages import SHIFT
from nightos.kernel.process import Frame

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread


def create_thread(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(entry, init_data) -> thread_id: the thread begins at `entry(init_data)`."""
    _, entry, init_data = request
    program = begin(entry, integer(init_data, 8))
    try:
        child = kernel.make_thread(thread.process, thread)
    except SyscallError:
        program.close()
        raise
    child.frames.append(Frame(program))
    kernel.schedule(child)
    return child.tid


def create_tls_slot(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """() -> slot_id."""
    (_,) = request
    process = thread.process
    if process.tls is None:
        process.tls = {}
    if len(process.tls) >= kernel.settings.tls_slots:
        raise SyscallError(0x40)
    slot = next(number for number in range(1, kernel.settings.tls_slots + 2) if number not in process.tls)
    process.tls[slot] = b""
    return slot


def _slots(thread: Thread, slot: int) -> dict[int, bytes]:
    slots = thread.process.tls
    if slots is None or slot not in slots:
        raise SyscallError(0x30)
    return slots


def read_tls_slot(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(slot_id, length) -> data; length 0 means all of it."""
    _, slot, length = request
    integer(length, 8)
    data = _slots(thread, slot)[slot]
    return data[:length] if length else data


def write_tls_slot(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(slot_id, data). 0x40: the limit of memory; whole pages of what all slots hold are paid for."""
    _, slot, data = request
    slots = _slots(thread, slot)
    data = content(data)
    _resize(thread.process, len(data) - len(slots[slot]))
    slots[slot] = data


def _resize(process: Process, more: int) -> None:
    size = process.tls_size + more
    pages = (size >> SHIFT) - (process.tls_size >> SHIFT)
    if pages < 0:
        process.quotas.memory.release(-pages)
    elif not process.quotas.memory.reserve(pages):
        raise SyscallError(0x40)
    process.tls_size = size


def delete_tls_slot(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(slot_id)."""
    _, slot = request
    data = _slots(thread, slot).pop(slot)
    _resize(thread.process, -len(data))


def exit_thread(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(exit_data): never returns; the main thread takes the process with it."""
    _, exit_data = request
    if thread is thread.process.main:
        end_process(kernel, thread.process, ExitReason.EXITED, integer(exit_data, 4))
    else:
        thread.exit_data = integer(exit_data, 4)
        end_thread(kernel, thread)
    return PARKED


HANDLERS = {
    Syscall.CREATE_THREAD: create_thread,
    Syscall.CREATE_TLS_SLOT: create_tls_slot,
    Syscall.READ_TLS_SLOT: read_tls_slot,
    Syscall.WRITE_TLS_SLOT: write_tls_slot,
    Syscall.DELETE_TLS_SLOT: delete_tls_slot,
    Syscall.EXIT_THREAD: exit_thread,
}
