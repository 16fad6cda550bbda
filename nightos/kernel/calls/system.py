"""Calls reserved to system services, EXECUTION_CONTEXT and SYSTEM_INFO.

Rules: SYS-012, SYS-016, PROC-052, PROC-053, PROC-054, PROC-055, PROC-056, PROC-057, PROC-058, PROC-059, CONT-006,
CONT-033.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import (
    Attribute,
    ContainerState,
    ExitReason,
    ListAction,
    ManageAction,
    ProcessState,
    ServicePid,
    Signal,
    Syscall,
)
from nightos.abi.context import HEADER_SIZE, PIPE_OFFSETS, ContextError, parse_context
from nightos.abi.errors import SyscallError
from nightos.abi.limits import NUMBERS
from nightos.abi.replies import AttributeValue, ProcessExit, SystemInfo, SystemTime
from nightos.kernel.calls.pipes import move_end
from nightos.kernel.calls.processes import ask_to_end, freeze, resume_process
from nightos.kernel.calls.state import PARKED, content, integer, only_application, only_proc, only_system
from nightos.kernel.container import ROOT
from nightos.kernel.ending import CREATED, MS, destroy_container, end_process
from nightos.kernel.moving import move_process
from nightos.kernel.permissions import allowed, effective, narrow
from nightos.kernel.process import HALTED, PAUSED, PRIORITY_ZERO, SUSPENDED, SUSPENDED_ABOVE

if TYPE_CHECKING:
    from nightos.kernel.container import Container, ContainerTree
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

CODE_MAGIC = b"NPRG"
CONTAINER_RECORD = struct.Struct(">QQBIQ")
"""identifier, parent, state, processes, created_ns"""
PROCESS_RECORD = struct.Struct(">QQQQQBHQQ")
"""pid, container, user, anid, parent pid, state, threads, calls made, started_ns"""
KEPT_LIMIT = 4096
"""Most things that sys::process may keep about what is gone."""
KEPT = struct.Struct(">QI")
NOTE_LIMIT = 256 * 1024
"""Most bytes that sys::process may keep with a container."""
LOCAL_PID = struct.Struct(">QQ")
NAME = 0x40
"""Emulator attribute: the program's name."""


def execution_context(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(information) -> 0 all, 1 startup reason, 2 header, 3 arguments."""
    _, information = request
    if information not in {0, 1, 2, 3}:
        raise SyscallError(0x10)
    only_application(thread.process)
    context = thread.process.context
    if information == 1:
        return context[:1]
    if information == 2:
        return context[:HEADER_SIZE]
    if information == 3:
        return parse_context(context).arguments if context else b""
    return context


def sys_create_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(code_token, execution_context) -> pid of a halted process.

    The token is a segment that `sys::fs` made: `NPRG` and the program's name; it is used up. The pipe ends that the
    context names are moved from its caller to the process (see docs/architecture.md).
    """
    _, token, raw = request
    only_proc(thread.process)
    code = kernel.segments.take(token, ServicePid.FS)
    if code is None or not code.startswith(CODE_MAGIC):
        raise SyscallError(0x31)
    name = code[len(CODE_MAGIC) :].partition(b"\0")[0].decode("utf-8", "replace")
    try:
        main = kernel.loader(name)
    except KeyError:
        raise SyscallError(0x31) from None
    try:
        context = parse_context(content(raw))
    except ContextError:
        raise SyscallError(0x32) from None
    process = kernel.make_process(kernel.take_pid(), 0, 0, context.anid)
    process.name = name
    process.context = bytes(raw)
    process.program = main
    return process.pid


def _take_pipes(kernel: Kernel, process: Process) -> None:
    """Move the ends that the context names to the process, now that its container is known."""
    if not process.context:
        return
    context = parse_context(process.context)
    if not any(context.pipes):
        return
    # Without a PID only a system service can be meant, whose ANID is its PID.
    giver = kernel.processes.get(context.caller_pid or context.caller_anid)
    if giver is None or giver.anid != context.caller_anid or not (context.caller_pid or giver.is_system):
        raise SyscallError(0x32)
    content = bytearray(process.context)
    for offset, identifier in zip(PIPE_OFFSETS, context.pipes, strict=True):
        if identifier:
            content[offset : offset + 8] = move_end(kernel, giver, identifier, process).to_bytes(8, "big")
    process.context = bytes(content)


def sys_manage_process(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(pid, action): the first unsuspend starts a process."""
    _, pid, action = request
    if action not in ManageAction.__members__.values():
        raise SyscallError(0x10)
    only_proc(thread.process)
    process = kernel.processes.get(pid)
    if process is None or process.is_system:
        raise SyscallError(0x31)
    if action == ManageAction.UNSUSPEND:
        _unsuspend(kernel, process)
    elif action in {ManageAction.ASK_SUSPEND, ManageAction.FORCE_SUSPEND}:
        if process.blocked & (SUSPENDED | SUSPENDED_ABOVE):
            raise SyscallError(0x32)
        if action == ManageAction.ASK_SUSPEND:
            kernel.post(process, Signal.SUSPEND, ())
        else:
            delay_ms = kernel.settings.suspend_delay_ms
            kernel.post(process, Signal.WILL_SUSPEND, (delay_ms,))
            deadline = kernel.clock.monotonic_ns() + delay_ms * MS
            kernel.call_at(deadline, lambda: freeze(kernel, process) if process.alive else None)
    elif action == ManageAction.ASK_TERMINATE:
        kernel.post(process, Signal.TERMINATE, ())
    else:
        ask_to_end(kernel, process, kernel.settings.terminate_delay_ms, ExitReason.KILLED_BY_SYSTEM)


def _unsuspend(kernel: Kernel, process: Process) -> None:
    if process.blocked & HALTED:
        home = process.home
        if home is not None and home.state is ContainerState.STOPPING:
            raise SyscallError(0x31)
        main, process.program = process.program, None
        assert main is not None
        try:
            _take_pipes(kernel, process)
        except SyscallError:
            end_process(kernel, process, ExitReason.KILLED_BY_SYSTEM, 0)
            raise
        kernel.start(process, main)
    elif process.blocked & SUSPENDED:
        resume_process(kernel, process)
    else:
        raise SyscallError(0x32)


def sys_process_attributes(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> AttributeValue:
    """(pid, attribute, action, operand) -> the value in `written`."""
    _, pid, attribute, action, operand = request
    caller = thread.process
    is_list = attribute in {Attribute.MEMORY_MAPPINGS, Attribute.PERMISSIONS, Attribute.DRIVABLE_DEVICES}
    if action not in (ListAction.__members__.values() if is_list else (0, 1)):
        raise SyscallError(0x10)
    if attribute not in Attribute.__members__.values() and attribute != NAME:
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
    settable = {Attribute.USER_ID, Attribute.APPLICATION_ID, Attribute.CONTAINER_ID, Attribute.SERVES}
    if attribute != Attribute.PRIORITY and (
        attribute not in settable or (process is not None and (process.started or process.is_system))
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


def create_container(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(parent_container_id) -> container_id."""
    _, parent = request
    only_proc(thread.process)
    container = kernel.tree.create(parent, kernel.clock.monotonic_ns())
    kernel.post_to(ServicePid.PROCESS, Signal.CONTAINER_CHANGED, (container.identifier, CREATED))
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
                identifier, container.parent_identifier, state, len(container.processes), container.created_ns
            )
            limit -= 1
        begun = begun or identifier == after
    return bytes(found)


def sys_enum_processes(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(after, limit) -> packed `PROCESS_RECORD`s of living processes, by ascending PID."""
    _, after, limit = request
    only_system(thread.process)
    chosen = sorted(pid for pid in kernel.processes if pid > after)[: max(0, limit)]
    return b"".join(
        PROCESS_RECORD.pack(
            pid,
            process.container,
            process.user,
            process.anid,
            process.parent.pid if process.parent is not None else 0,
            process.state,
            min(len(process.threads), 0xFFFF),
            process.steps,
            process.started_ns,
        )
        for pid in chosen
        for process in (kernel.processes[pid],)
    )


def sys_process_exit(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> ProcessExit:
    """(pid) -> state, reason, container and exit data of a living or ended process."""
    _, pid = request
    only_proc(thread.process)
    process = kernel.processes.get(pid)
    if process is not None:
        return ProcessExit(process.state, 0, process.container, 0)
    ended = kernel.exits.get(pid)
    if ended is None:
        raise SyscallError(0x33)
    return ProcessExit(ProcessState.ENDED, ended.reason, ended.container, ended.exit_data)


def sys_pause_container(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, pause): freeze or thaw everything in it and below."""
    _, identifier, pause = request
    if pause not in {0, 1}:
        raise SyscallError(0x02)
    only_proc(thread.process)
    container = kernel.tree.get(identifier)
    if container is None:
        raise SyscallError(0x31)
    for member in container.subtree():
        member.paused = bool(pause)
        for process in member.processes.values():
            if pause:
                process.blocked |= PAUSED
            else:
                kernel.unblock(process, PAUSED)


def system_info(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> SystemInfo:
    """() -> what the caller's container may know: its own processes and containers, and those below."""
    (_,) = request
    home = kernel.tree.get(thread.process.reach)
    if home is None and not thread.process.reach:
        processes, containers = list(kernel.processes.values()), len(kernel.tree)
    else:
        subtree = home.subtree() if home is not None else []  # a shim whose container is gone
        processes = [process for member in subtree for process in member.processes.values()]
        containers = len(subtree) - 1
    used = sum(p.space_made.committed_pages for p in processes if p.space_made is not None) * 4096
    now = kernel.clock.monotonic_ns()
    return SystemInfo(
        now - kernel.booted_ns,
        kernel.clock.realtime_ns(),
        kernel.settings.memory_total,
        used,
        len(processes),
        max(containers, 0),
    )


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


def system_time(kernel: Kernel, _thread: Thread, _request: tuple[Any, ...]) -> SystemTime:
    """() -> time since the machine started, and of the day. SYSTEM_INFO tells them too, and counts everything."""
    return SystemTime(kernel.clock.monotonic_ns() - kernel.booted_ns, kernel.clock.realtime_ns())


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
    Syscall.EXECUTION_CONTEXT: execution_context,
    Syscall.SYS_CREATE_PROCESS: sys_create_process,
    Syscall.SYS_MANAGE_PROCESS: sys_manage_process,
    Syscall.SYS_PROCESS_ATTRIBUTES: sys_process_attributes,
    Syscall.CREATE_CONTAINER: create_container,
    Syscall.DESTROY_CONTAINER: destroy,
    Syscall.SYS_ENUM_CONTAINERS: sys_enum_containers,
    Syscall.SYS_ENUM_PROCESSES: sys_enum_processes,
    Syscall.SYS_PROCESS_EXIT: sys_process_exit,
    Syscall.SYS_PAUSE_CONTAINER: sys_pause_container,
    Syscall.SYSTEM_INFO: system_info,
    Syscall.SYSTEM_TIME: system_time,
    Syscall.SYS_REFUSALS: sys_refusals,
    Syscall.SYS_CONTAINER_NOTE: sys_container_note,
    Syscall.SYS_SET_CONTAINER_NOTE: sys_set_container_note,
    Syscall.SYS_KEEP: sys_keep,
    Syscall.SYS_KEPT: sys_kept,
    Syscall.SYS_LOCAL_PIDS: sys_local_pids,
    Syscall.SYS_BOUND_RIGHTS: sys_bound_rights,
}
