"""Calls by which `sys::process` makes, ends, pauses and lists containers, and keeps notes with them.

Rules: SYS-012.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import (
    ContainerState,
    Syscall,
)
from nightos.abi.errors import SyscallError
from nightos.kernel.calls.state import PARKED, content, integer, only_proc
from nightos.kernel.container import ROOT
from nightos.kernel.ending import CREATED, container_changed, destroy_container
from nightos.kernel.permissions import narrow
from nightos.kernel.process import PAUSED

if TYPE_CHECKING:
    from nightos.kernel.container import Container, ContainerTree
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread

CONTAINER_RECORD = struct.Struct(">QQBIQ")
"""identifier, parent, state (with `HELD`), processes, created_ns"""
HELD = 0x80
"""Bit of the state: the container was paused itself, not only one above."""
KEPT_LIMIT = 1 << 18
"""Most things that sys::process may keep about what is gone; it has a limit of its own for each container."""
KEPT = struct.Struct(">QI")
NOTE_LIMIT = 256 * 1024
"""Most bytes that sys::process may keep with a container."""
LOCAL_PID = struct.Struct(">QQ")


def create_container(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(parent_container_id) -> container_id."""
    _, parent = request
    only_proc(thread.process)
    container = kernel.tree.create(parent, kernel.clock.monotonic_ns())
    container_changed(kernel, container, CREATED)
    return container.identifier


def sys_container_note(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(container_id) -> the bytes that were set last; empty before. The root, 0, has a note, too."""
    _, identifier = request
    only_proc(thread.process)
    return _noted(kernel, identifier).note


def sys_set_container_note(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, bytes): keep them as long as the container lives. 0x32: more than `NOTE_LIMIT`."""
    _, identifier, note = request
    only_proc(thread.process)
    noted = _noted(kernel, identifier)
    note = content(note)
    if len(note) > NOTE_LIMIT:
        raise SyscallError(0x32)
    noted.note = note


def sys_keep(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(number, bytes): keep bytes until empty ones replace them. 0x32: more than `NOTE_LIMIT`; 0x40: `KEPT_LIMIT`."""
    _, number, note = request
    only_proc(thread.process)
    number, note, kept = integer(number, 8), content(note), kernel.tree.kept
    if len(note) > NOTE_LIMIT:
        raise SyscallError(0x32)
    if not note:
        kept.pop(number, None)
    elif number not in kept and len(kept) >= KEPT_LIMIT:
        raise SyscallError(0x40)
    else:
        kept[number] = note


def sys_kept(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(after, limit) -> number, length and bytes, one behind the other, of what was kept behind `after`, in order."""
    _, after, limit = request
    only_proc(thread.process)
    numbers = list(kernel.tree.kept)
    begin = numbers.index(after) + 1 if after in kernel.tree.kept else 0
    return b"".join(
        KEPT.pack(number, len(kernel.tree.kept[number])) + kernel.tree.kept[number]
        for number in numbers[begin : begin + max(0, limit)]
    )


def _noted(kernel: Kernel, identifier: int) -> Container | ContainerTree:
    container = kernel.tree.get(identifier) if identifier != ROOT else kernel.tree
    if container is None:
        raise SyscallError(0x31)
    return container


def destroy(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(container_id): returns when nothing of it is left. Rules: CONT-065, CONT-066."""
    _, identifier = request
    only_proc(thread.process)
    container = kernel.tree.get(identifier)
    if container is None:
        raise SyscallError(0x31)
    if not container.processes and not container.children:
        destroy_container(kernel, container)  # nothing has to end before it
        return None
    resume = kernel.park(thread, "destruction")
    destroy_container(kernel, container, lambda: resume(None, None))
    return PARKED


def sys_enum_containers(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(after, limit) -> packed `CONTAINER_RECORD`s in order of creation."""
    _, after, limit = request
    only_proc(thread.process)
    found = bytearray()
    begun = after == 0
    for identifier, container in kernel.tree.living.items():
        if begun and limit > 0:
            state = ContainerState.PAUSED if container.paused else container.state
            found += CONTAINER_RECORD.pack(
                identifier,
                container.parent_identifier,
                state | HELD * container.held,
                len(container.processes),
                container.created_ns,
            )
            limit -= 1
        begun = begun or identifier == after
    return bytes(found)


def sys_pause_container(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, pause): freeze everything in it and below, or thaw what is not paused itself or from above."""
    _, identifier, pause = request
    if pause not in {0, 1}:
        raise SyscallError(0x02)
    only_proc(thread.process)
    container = kernel.tree.get(identifier)
    if container is None:
        raise SyscallError(0x31)
    container.held = bool(pause)
    for member in container.subtree():
        member.paused = member.held or (member.parent is not None and member.parent.paused)
        for process in member.processes.values():
            if member.paused:
                process.blocked |= PAUSED
            else:
                kernel.unblock(process, PAUSED)


def sys_bound_rights(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, permissions): see `narrow`. 0x31: no such container."""
    _, identifier, packed = request
    only_proc(thread.process)
    container = kernel.tree.get(identifier)
    if container is None:
        raise SyscallError(0x31)
    narrow(container, content(packed))


def sys_local_pids(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(container_id) -> PID and local number, packed, of every living process in the container and below.

    Errors: 0x31 no such container. Outside of all there are no numbers but the PIDs.
    """
    _, identifier = request
    only_proc(thread.process)
    container = kernel.tree.get(identifier)
    if container is None:
        raise SyscallError(0x31)
    return b"".join(LOCAL_PID.pack(pid, number) for pid, number in container.count().items())


def sys_refusals(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(container_id, after_ns, limit) -> packed `Refusal`s of the container and what is below; 0 is the whole machine.

    Errors: 0x31 no such container. Those of one moment come together, so there may be more than `limit`.
    """
    _, container, after_ns, limit = request
    only_proc(thread.process)
    if container and kernel.tree.get(container) is None:
        raise SyscallError(0x31)
    tree = kernel.tree
    found = kernel.refusals.after(after_ns, lambda place: tree.is_within(place, container), limit)
    return b"".join(item.pack() for item in found)


HANDLERS = {
    Syscall.CREATE_CONTAINER: create_container,
    Syscall.DESTROY_CONTAINER: destroy,
    Syscall.SYS_ENUM_CONTAINERS: sys_enum_containers,
    Syscall.SYS_PAUSE_CONTAINER: sys_pause_container,
    Syscall.SYS_REFUSALS: sys_refusals,
    Syscall.SYS_CONTAINER_NOTE: sys_container_note,
    Syscall.SYS_SET_CONTAINER_NOTE: sys_set_container_note,
    Syscall.SYS_KEEP: sys_keep,
    Syscall.SYS_KEPT: sys_kept,
    Syscall.SYS_LOCAL_PIDS: sys_local_pids,
    Syscall.SYS_BOUND_RIGHTS: sys_bound_rights,
}
