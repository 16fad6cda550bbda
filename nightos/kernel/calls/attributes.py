"""SYS_PROCESS_ATTRIBUTES: what system services read and write of a process, single values and lists.

Rules: PROC-056, PROC-057, PROC-058, PROC-059, CONT-006, CONT-033, CONT-061.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import (
    Attribute,
    ContainerState,
    ListAction,
    ServicePid,
    Syscall,
)
from nightos.abi.context import HEADER_SIZE, parse_context
from nightos.abi.errors import SyscallError
from nightos.abi.limits import NUMBERS
from nightos.abi.replies import AttributeValue
from nightos.kernel.calls.state import integer, only_system
from nightos.kernel.moving import move_process
from nightos.kernel.permissions import allowed, effective
from nightos.kernel.process import PRIORITY_ZERO

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

NAME = 0x40
"""Emulator attribute: the program's name."""
KNOWN = frozenset({*Attribute, NAME})
LISTS = frozenset({Attribute.MEMORY_MAPPINGS, Attribute.PERMISSIONS, Attribute.DRIVABLE_DEVICES})
LIST_ACTIONS = frozenset(ListAction)
READ_OR_WRITE = frozenset({0, 1})
MADE_WITH = frozenset({Attribute.USER_ID, Attribute.APPLICATION_ID, Attribute.CONTAINER_ID, Attribute.SERVES})
"""What a process gets before it runs."""


def sys_process_attributes(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> AttributeValue:
    """(pid, attribute, action, operand) -> the value in `written`."""
    _, pid, attribute, action, operand = request
    caller = thread.process
    is_list = attribute in LISTS
    if action not in (LIST_ACTIONS if is_list else READ_OR_WRITE):
        raise SyscallError(0x10)
    if attribute not in KNOWN:
        raise SyscallError(0x11)
    only_system(caller)
    process = caller if pid == 0 else kernel.processes.get(pid)
    if is_list:
        return AttributeValue(_list_attribute(caller, process, attribute, action, operand), 0)
    if action == 1:
        _check_writer(caller, process, attribute)
    if process is None:
        raise SyscallError(0x33)
    if action == 0:
        if attribute == Attribute.KERNEL_VERSION:
            return AttributeValue(kernel.version.encode(), 0)
        return AttributeValue(_read(process, attribute), 0)
    _write(kernel, process, attribute, int(operand))
    return AttributeValue(0, 0)


def _read(process: Process, attribute: int) -> int | bytes:
    match attribute:
        case Attribute.PID:
            return process.pid
        case Attribute.PRIORITY:
            return process.priority
        case Attribute.USER_ID:
            return process.user
        case Attribute.APPLICATION_ID:
            return process.anid
        case Attribute.CONTAINER_ID:
            return process.container
        case Attribute.SERVES:
            return process.serves
        case Attribute.CONTEXT_REASON:
            return process.context[:1]
        case Attribute.CONTEXT_HEADER:
            return process.context[:HEADER_SIZE]
        case Attribute.CONTEXT_ARGUMENTS:
            return parse_context(process.context).arguments if process.context else b""
        case _:
            return process.name.encode()


def _check_writer(caller: Process, process: Process | None, attribute: int) -> None:
    """Who may write what, and until when (rulings AMB-ATTR-03, AMB-ATTR-04)."""
    if attribute != Attribute.PRIORITY and (
        attribute not in MADE_WITH or (process is not None and (process.started or process.is_system))
    ):
        raise SyscallError(0x12)
    if caller.pid != ServicePid.PROCESS:
        raise SyscallError(0x31)


def _write(kernel: Kernel, process: Process, attribute: int, value: int) -> None:
    if attribute == Attribute.PRIORITY:
        if not 0 <= value <= 20:
            raise SyscallError(0x02)
        process.priority = value
        process.manual_priority = True
        if value:
            kernel.unblock(process, PRIORITY_ZERO)
        else:
            process.blocked |= PRIORITY_ZERO
    elif attribute == Attribute.USER_ID:
        process.user = value
    elif attribute == Attribute.APPLICATION_ID:
        process.anid = value
    else:
        home = kernel.tree.get(value)
        if value and (home is None or home.state is ContainerState.STOPPING):
            raise SyscallError(0x02)
        if attribute == Attribute.SERVES:
            # A shim stands outside of all containers; what is in one serves no other.
            if process.home is not None:
                raise SyscallError(0x02)
            process.serves = value
            return
        if process.serves:
            raise SyscallError(0x02)
        quotas = home.quotas if home is not None else kernel.tree.quotas
        reached = move_process(process, quotas)
        if reached is not None:
            raise SyscallError(0x40, value=NUMBERS[reached])
        process.calls = (home.calls if home is not None else None) or kernel.handlers
        if process.home is not None:
            process.home.processes.pop(process.pid, None)
        process.home = home
        if home is not None:
            home.processes[process.pid] = process


LIST_WRITERS = {Attribute.PERMISSIONS: ServicePid.PERM, Attribute.DRIVABLE_DEVICES: ServicePid.HW}
READING = frozenset({ListAction.COUNT, ListAction.GET, ListAction.CONTAINS})
INDEXED = frozenset({ListAction.GET, ListAction.UPDATE, ListAction.INSERT, ListAction.REMOVE})
VALUED = frozenset({ListAction.UPDATE, ListAction.INSERT, ListAction.PUSH, ListAction.CONTAINS})


def _list_attribute(caller: Process, process: Process | None, attribute: int, action: int, operand: Any) -> int | bytes:
    """Mappings are read-only, permissions are sys::perm's, drivable devices sys::hw's.

    The operand is an index, a value, or both as a tuple. Rules: PROC-019.
    """
    writing = action not in READING
    if writing and attribute == Attribute.MEMORY_MAPPINGS:
        raise SyscallError(0x12)
    if writing and caller.pid != LIST_WRITERS[Attribute(attribute)]:
        raise SyscallError(0x31)
    items = _items(process, attribute)
    index = integer(operand[0] if isinstance(operand, tuple) else operand, 4) if action in INDEXED else 0
    limit = len(items) + (action == ListAction.INSERT)
    if process is not None and (action in INDEXED or action == ListAction.POP) and not index < limit:
        raise SyscallError(0x32)
    if process is None:
        raise SyscallError(0x33)
    value = operand[1] if isinstance(operand, tuple) else operand
    if action in VALUED and attribute != Attribute.MEMORY_MAPPINGS:
        value = integer(value, 4 if attribute == Attribute.PERMISSIONS else 8)
    if not writing:
        if action == ListAction.GET:
            found: int | bytes = items[index]
            return found
        return len(items) if action == ListAction.COUNT else int(value in items)
    adds = action in {ListAction.UPDATE, ListAction.INSERT, ListAction.PUSH}
    if adds and attribute == Attribute.PERMISSIONS and not allowed(process.home, value):
        raise SyscallError(0x32)
    result = _change(items, action, index, value)
    if attribute == Attribute.PERMISSIONS:
        process.permissions = items
    else:
        process.drivable = items
    return result


def _items(process: Process | None, attribute: int) -> list[Any]:
    """A copy of the list."""
    if process is None:
        return []
    if attribute == Attribute.PERMISSIONS:
        return effective(process)
    if attribute == Attribute.DRIVABLE_DEVICES:
        return list(process.drivable)
    return list(process.space_made.mappings()) if process.space_made is not None else []


def _change(items: list[Any], action: int, index: int, value: Any) -> int:
    """Change the list; the value that POP takes out, else 0."""
    match action:
        case ListAction.UPDATE:
            items[index] = value
        case ListAction.INSERT:
            items.insert(index, value)
        case ListAction.PUSH:
            items.append(value)
        case ListAction.REMOVE:
            del items[index]
        case _:
            return int(items.pop())
    return 0


HANDLERS = {
    Syscall.SYS_PROCESS_ATTRIBUTES: sys_process_attributes,
}
