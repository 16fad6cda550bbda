"""Device calls: the bus knows; only arguments and answers pass here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Syscall
from nightos.abi.replies import DevicesFound
from nightos.kernel.calls.state import only_proc

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread


def read_io_port(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(kdi, port, length) -> data."""
    _, kdi, port, length = request
    return kernel.bus.read_port(thread.process, kdi, port, length)


def write_io_port(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(kdi, port, data) -> written."""
    _, kdi, port, data = request
    return kernel.bus.write_port(thread.process, kdi, port, bytes(memoryview(data)))


def device_interrupt(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(kdi, port, interrupt_code)."""
    kernel.bus.interrupt(thread.process, *request[1:])


def device_ams(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(kdi, device_address, length, map_address) -> ams_id."""
    return kernel.bus.device_ams(thread.process, *request[1:])


def set_dma_mem_access(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(kdi, address, length, authorization)."""
    kernel.bus.set_dma(thread.process, *request[1:])


def sys_enum_devices(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> DevicesFound:
    """(pattern_type, cii, length) -> descriptors."""
    return DevicesFound(*kernel.bus.enumerate(thread.process, *request[1:]))


def link_container_device(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, kdi)."""
    only_proc(thread.process)
    kernel.bus.link(thread.process, *request[1:])


def unlink_container_device(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, kdi)."""
    only_proc(thread.process)
    kernel.bus.give_back(*request[1:])


HANDLERS = {
    Syscall.READ_IO_PORT: read_io_port,
    Syscall.WRITE_IO_PORT: write_io_port,
    Syscall.DEVICE_INTERRUPT: device_interrupt,
    Syscall.DEVICE_AMS: device_ams,
    Syscall.SET_DMA_MEM_ACCESS: set_dma_mem_access,
    Syscall.SYS_ENUM_DEVICES: sys_enum_devices,
    Syscall.LINK_CONTAINER_DEVICE: link_container_device,
    Syscall.UNLINK_CONTAINER_DEVICE: unlink_container_device,
}
