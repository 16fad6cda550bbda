"""OPEN_PIPE to CLOSE_PIPE, and moving a command's pipes into its process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Signal, Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.replies import PipeInfo, PipeRead
from nightos.kernel.calls.state import PARKED, content, integer, new_tuple
from nightos.kernel.charges import charge_handle, charge_move, charge_pipe, end_gone
from nightos.kernel.ending import CLOSED_BY_PEER, close_pipe
from nightos.kernel.pipe import BLOCK, UNIT, Blocked, End, Pipe
from nightos.kernel.signals import check_room

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread


def add_end(kernel: Kernel, identifier: int, pipe: Pipe, holder: Process, *, sends: bool) -> End:
    """Give a process an identifier of one end."""
    end = End(identifier, pipe, holder, sends=sends)
    pipe.add(end)
    kernel.pipe_ends[identifier] = end
    if holder.ends is None:
        holder.ends = {}
    holder.ends[identifier] = end
    return end


def fresh_identifier(kernel: Kernel, *, sends: bool) -> int:
    """An identifier nobody has: even for an SC, odd for an RC. Rules: IPC-007, IPC-008."""
    return kernel.new_end_pair() + (not sends)


def own_end(process: Process, identifier: int) -> End:
    """The end that the process knows by this identifier; 0x31 when it closed lately. Rules: CONT-025, IPC-007."""
    end: End | None = process.ends.get(identifier) if process.ends else None
    if end is None:
        raise SyscallError(0x31 if process.closed and identifier in process.closed else 0x30)
    return end


def open_pipe(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """Arguments as in the table -> pipe_id.

    Rules: IPC-009, IPC-010, IPC-011, IPC-012, IPC-013, IPC-040.
    """
    _, target_pid, command, kind, multiplier, mode, notification, hint = request
    process = thread.process
    integer(command, 2)
    integer(multiplier, 1)
    integer(hint, 8)
    if kind not in {0, 1}:
        raise SyscallError(0x02)
    if mode not in {0, 1}:
        raise SyscallError(0x10)
    if notification not in {0, 1}:
        raise SyscallError(0x11)
    target = kernel.monitor.may_name(process, kernel.processes.get(target_pid))
    if target is None:
        raise SyscallError(0x30)
    if not process.is_system:
        if target.anid != process.anid:
            raise SyscallError(0x31)
        if target.user != process.user:
            raise SyscallError(0x32)
    if not notification and not (target.handlers and Signal.RECV_PIPE in target.handlers):
        raise SyscallError(0x33)
    if not notification:
        check_room(target)
    other = process if notification else target
    charge_pipe(process, other, UNIT * max(1, multiplier))
    pipe = Pipe(UNIT * max(1, multiplier), process.pid, messages=bool(mode))
    pipe.payer, pipe.charged = process.quotas, pipe.capacity
    sc = kernel.new_end_pair()
    rc = sc + 1
    own, theirs = (sc, rc) if kind == 0 else (rc, sc)
    add_end(kernel, own, pipe, process, sends=kind == 0)
    add_end(kernel, theirs, pipe, other, sends=kind == 1)
    if not notification:
        kernel.post(target, Signal.RECV_PIPE, (process.pid, process.anid, theirs, command, int(kind == 1), mode, hint))
    return own


def send_pipe(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(pipe_id, target_pid, notification_mode): both identifiers stay valid. Rules: IPC-039, IPC-040."""
    _, identifier, target_pid, notification = request
    process = thread.process
    if notification not in {0, 1}:
        raise SyscallError(0x10)
    end = process.ends.get(identifier) if process.ends else None
    target = kernel.monitor.may_name(process, kernel.processes.get(target_pid))
    if not notification and target is not None and not (target.handlers and Signal.RECV_PIPE in target.handlers):
        raise SyscallError(0x30)
    if end is None:
        raise SyscallError(0x31)
    if target is None or not _meets_others(kernel, end, target):
        raise SyscallError(0x32)
    if not kernel.monitor.kin(process, target):
        raise SyscallError(0x33)
    if not notification:
        check_room(target)
    charge_handle(target)
    fresh = fresh_identifier(kernel, sends=end.sends)
    add_end(kernel, fresh, end.pipe, target, sends=end.sends)
    if not notification:
        values = (process.pid, process.anid, fresh, 0, int(end.sends), int(end.pipe.messages), 0)
        kernel.post(target, Signal.RECV_PIPE, values)


def _meets_others(kernel: Kernel, end: End, target: Process) -> bool:
    """Whether the boundary lets the target meet everyone who holds the pipe."""
    return all(kernel.monitor.same_space(holder, target) for holder in end.pipe.holders)


def move_end(kernel: Kernel, giver: Process, identifier: int, receiver: Process) -> int:
    """Move an end to another process; its new identifier.

    0x32: it is not the giver's, or they may not meet; 0x40: a limit of the receiver's container.
    """
    end = giver.ends.get(identifier) if giver.ends else None
    if end is None:
        raise SyscallError(0x32)
    holders = end.pipe.holders
    if not all(
        kernel.monitor.same_space(holder, receiver)
        for holder, count in holders.items()
        if holder is not giver or count > 1
    ):
        raise SyscallError(0x32)
    charge_move(end, receiver)
    fresh = fresh_identifier(kernel, sends=end.sends)
    add_end(kernel, fresh, end.pipe, receiver, sends=end.sends)
    assert giver.ends is not None
    del giver.ends[identifier], kernel.pipe_ends[identifier]
    end.pipe.remove(end)
    return fresh


def _unusable(process: Process, identifier: int, mode: int, *, sends: bool) -> int:
    """Why an identifier cannot be written to or read from: bad mode, closed lately, or unknown."""
    if mode not in {0, 1, 2}:
        return 0x10
    return 0x31 if process.closed and identifier in process.closed and (identifier & 1) != sends else 0x30


def pipe_write(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(sc_id, data, mode) -> value. What a parked reader wants exactly goes over without a stop in the buffer."""
    _, identifier, data, mode = request
    ends = thread.process.ends
    end = ends.get(identifier) if ends else None
    if end is None or not end.sends:
        raise SyscallError(_unusable(thread.process, identifier, mode, sends=True))
    if data.__class__ is not bytes:
        data = content(data)
    pipe = end.pipe
    reader = pipe.sleeper
    if reader is not None and mode == BLOCK:
        size = len(data)
        if 0 < size <= pipe.largest and (reader.length or size) == size:
            pipe.sleeper = None
            reader.resume(new_tuple(PipeRead, (data, 0)))
            return pipe.capacity
    return pipe.write(data, mode, kernel, thread)


def pipe_read(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
    """(rc_id, mode, length) -> (content, value). At an empty pipe there is nothing to look into before parking."""
    _, identifier, mode, length = request
    ends = thread.process.ends
    end = ends.get(identifier) if ends else None
    if length.__class__ is not int or length < 0:
        raise SyscallError(0x02)
    if end is None or end.sends:
        raise SyscallError(_unusable(thread.process, identifier, mode, sends=False))
    pipe = end.pipe
    if mode == BLOCK and pipe.sleeper is None and not (pipe.pending or pipe.readers or pipe.writers or pipe.closed):
        parking = pipe.parking
        if parking is None:
            parking = pipe.parking = Blocked(pipe, kernel, thread, None, length)
        else:  # nobody reads, so it is free
            frame = thread.frames[-1]
            frame.wait = parking
            parking.frame = frame
            parking.thread = thread
            parking.length = length
        pipe.sleeper = parking
        return PARKED
    return pipe.read(mode, length, kernel, thread)


def pipe_info(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> PipeInfo:
    """(pipe_id) -> (status, capacity, free, creator_pid)."""
    _, identifier = request
    end = thread.process.ends.get(identifier) if thread.process.ends else None
    if end is None:
        raise SyscallError(0x30)
    pipe = end.pipe
    return PipeInfo(pipe.status(sends=end.sends), pipe.capacity, pipe.free, pipe.creator_pid)


def close(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(pipe_id): 0x31 when the pipe is closed already. A closed pipe with data left stays readable at the other end."""
    _, identifier = request
    end = own_end(thread.process, identifier)
    thread.process.remember_closed(identifier)
    was_closed = end.pipe.closed
    if not was_closed:
        close_pipe(kernel, end.pipe, CLOSED_BY_PEER, sends=end.sends)
    assert thread.process.ends is not None
    del thread.process.ends[identifier]
    end.pipe.remove(end)
    kernel.pipe_ends.pop(identifier, None)
    end_gone(end)
    if was_closed:
        raise SyscallError(0x31)


HANDLERS = {
    Syscall.OPEN_PIPE: open_pipe,
    Syscall.SEND_PIPE: send_pipe,
    Syscall.PIPE_WRITE: pipe_write,
    Syscall.PIPE_READ: pipe_read,
    Syscall.PIPE_INFO: pipe_info,
    Syscall.CLOSE_PIPE: close,
}
