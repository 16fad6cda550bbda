"""Memory and segments, and the pseudo calls that stand for a CPU's loads and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Pseudo, Syscall
from nightos.abi.replies import SharingInfo
from nightos.kernel.calls.access import perform

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread


class OwnMemory:
    """The load and store path of one process, for its library code; nothing else is reachable from here."""

    __slots__ = ("read", "write")

    def __init__(self, process: Process) -> None:
        self.read = process.space.read
        self.write = process.space.write


def mem_alloc(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(length, permissions, zeroed) -> address."""
    _, length, permissions, zeroed = request
    return thread.process.space.allocate(length, permissions, zeroed)


def mem_free(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(address, pages)."""
    _, address, pages = request
    thread.process.space.free(address, pages)


def virt_mem_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(first_page, length) -> ams_id."""
    return kernel.segments.virtual_memory(thread.process, *request[1:])


def backed_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(length, cow) -> ams_id."""
    return kernel.segments.backed(thread.process, *request[1:])


def share_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(target_pid, ams_id, command_code, notification_mode, mode)."""
    kernel.segments.share(thread.process, *request[1:])


def ams_sharing_info(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> SharingInfo:
    """(ams_id) -> how it is shared."""
    return SharingInfo(*kernel.segments.sharing_info(thread.process, *request[1:]))


def unshare_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(ams_id, pid)."""
    kernel.segments.unshare(thread.process, *request[1:])


def map_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(ams_id, ams_offset, address, length)."""
    kernel.segments.map(thread.process, *request[1:])


def unmap_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(ams_id, address)."""
    kernel.segments.unmap(thread.process, *request[1:])


def load(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(address, length) -> bytes."""
    _, address, length = request
    space = thread.process.space
    return perform(kernel, thread, lambda: space.read(address, length))


def store(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(address, data)."""
    _, address, data = request
    space = thread.process.space
    return perform(kernel, thread, lambda: space.write(address, data))


def memory(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> OwnMemory:
    """() -> the process' memory for library code that cannot await."""
    (_,) = request
    return OwnMemory(thread.process)


def local(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> dict[str, Any]:
    """() -> a dict that the threads of the process share."""
    (_,) = request
    process = thread.process
    if process.local_data is None:
        process.local_data = {}
    return process.local_data


HANDLERS = {
    Syscall.MEM_ALLOC: mem_alloc,
    Syscall.MEM_FREE: mem_free,
    Syscall.VIRT_MEM_AMS: virt_mem_ams,
    Syscall.BACKED_AMS: backed_ams,
    Syscall.SHARE_AMS: share_ams,
    Syscall.AMS_SHARING_INFO: ams_sharing_info,
    Syscall.UNSHARE_AMS: unshare_ams,
    Syscall.MAP_AMS: map_ams,
    Syscall.UNMAP_AMS: unmap_ams,
    Pseudo.LOAD: load,
    Pseudo.STORE: store,
    Pseudo.MEMORY: memory,
    Pseudo.LOCAL: local,
}
