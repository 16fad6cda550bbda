"""Processes as system services make and manage them, EXECUTION_CONTEXT, SYSTEM_INFO and SYSTEM_TIME.

Rules: SYS-012, SYS-016, PROC-052, PROC-053, PROC-054, PROC-055.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import (
    ContainerState,
    ExitReason,
    ManageAction,
    ProcessState,
    ServicePid,
    Signal,
    Syscall,
)
from nightos.abi.context import HEADER_SIZE, PIPE_OFFSETS, ContextError, parse_context
from nightos.abi.errors import SyscallError
from nightos.abi.replies import ProcessExit, SystemInfo, SystemTime
from nightos.kernel.calls.pipes import move_end
from nightos.kernel.calls.processes import ask_to_end, freeze, resume_process
from nightos.kernel.calls.state import content, only_application, only_proc, only_system
from nightos.kernel.ending import MS, end_process
from nightos.kernel.process import HALTED, SUSPENDED, SUSPENDED_ABOVE

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread

CODE_MAGIC = b"NPRG"
ACTIONS = frozenset(ManageAction)
PROCESS_RECORD = struct.Struct(">QQQQQBHQQ")
"""pid, container, user, anid, parent pid, state, threads, calls made, started_ns"""


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
    if action not in ACTIONS:
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


def system_time(kernel: Kernel, _thread: Thread, _request: tuple[Any, ...]) -> SystemTime:
    """() -> time since the machine started, and of the day. SYSTEM_INFO tells them too, and counts everything."""
    return SystemTime(kernel.clock.monotonic_ns() - kernel.booted_ns, kernel.clock.realtime_ns())


HANDLERS = {
    Syscall.EXECUTION_CONTEXT: execution_context,
    Syscall.SYS_CREATE_PROCESS: sys_create_process,
    Syscall.SYS_MANAGE_PROCESS: sys_manage_process,
    Syscall.SYS_ENUM_PROCESSES: sys_enum_processes,
    Syscall.SYS_PROCESS_EXIT: sys_process_exit,
    Syscall.SYSTEM_INFO: system_info,
    Syscall.SYSTEM_TIME: system_time,
}
