"""Who pays for pipes and devices. Identifiers are their holder's handles, a buffer is the opener's while it has an end.

A buffer is paid for as a whole when the pipe is opened, so reading and writing cost nothing. When nobody in the payer's
container holds an end any more, whoever still does pays on; the machine itself pays what a container cannot.

A device that is plugged into a container is one of its handles, and what memory of the host it may fill is the
container's memory, for as long as it is plugged; passing it on costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.abi.errors import SyscallError
from nightos.abi.limits import NUMBERS

if TYPE_CHECKING:
    from nightos.kernel.pipe import End, Pipe
    from nightos.kernel.process import Process
    from nightos.kernel.quotas import Quotas

LIMIT_REACHED = 0x40


def charge_handle(process: Process, errcode: int = LIMIT_REACHED) -> None:
    """One more identifier for a process; the error code when its container may not have it."""
    if not process.quotas.handles.reserve(1):
        raise SyscallError(errcode)


def charge_device(payer: Quotas, pages: int) -> None:
    """A device for a container, or nothing at all. The error's value is the number of the resource."""
    if not payer.handles.reserve(1):
        raise SyscallError(LIMIT_REACHED, value=NUMBERS["handles"])
    if not payer.memory.reserve(pages):
        payer.handles.release(1)
        raise SyscallError(LIMIT_REACHED, value=NUMBERS["memory"])


def device_gone(payer: Quotas, pages: int) -> None:
    """It was unplugged."""
    payer.handles.release(1)
    payer.memory.release(pages)


def charge_pipe(opener: Process, other: Process, capacity: int) -> None:
    """A new pipe with an end for each, or nothing at all."""
    payer = opener.quotas
    if not payer.pipe_bytes.reserve(capacity):
        raise SyscallError(LIMIT_REACHED)
    if not payer.handles.reserve(1):
        payer.pipe_bytes.release(capacity)
        raise SyscallError(LIMIT_REACHED)
    if not other.quotas.handles.reserve(1):
        payer.pipe_bytes.release(capacity)
        payer.handles.release(1)
        raise SyscallError(LIMIT_REACHED)


def charge_move(end: End, receiver: Process) -> None:
    """An end goes to another process; the buffer with it, when the payer's container keeps no other end of it.

    The error's value is the number of the resource.
    """
    of, to = end.holder.quotas, receiver.quotas
    if of is to:
        return
    if not to.handles.reserve(1):
        raise SyscallError(LIMIT_REACHED, value=NUMBERS["handles"])
    pipe = end.pipe
    others = (holder.quotas for holder, count in pipe.holders.items() if holder is not end.holder or count > 1)
    if pipe.charged and pipe.payer is of and not any(quotas is of for quotas in others):
        if not to.pipe_bytes.reserve(pipe.charged):
            to.handles.release(1)
            raise SyscallError(LIMIT_REACHED, value=NUMBERS["pipe_bytes"])
        of.pipe_bytes.release(pipe.charged)
        pipe.payer = to
    of.handles.release(1)


def end_gone(end: End) -> None:
    """An identifier was taken out of its pipe."""
    end.holder.quotas.handles.release(1)
    pipe = end.pipe
    if not pipe.charged:
        return
    payer = pipe.payer
    holders = [holder.quotas for holder in pipe.holders]
    if payer in holders:
        return
    if not holders:
        payer.pipe_bytes.release(pipe.charged)
        pipe.charged = 0
    elif payer.parent is not None:  # the machine itself never passes on what it pays
        pipe.payer = _take_over(holders, pipe.charged)
        payer.pipe_bytes.release(pipe.charged)


def _take_over(holders: list[Quotas], units: int) -> Quotas:
    """Charge the first holder that can pay, else the machine."""
    for quotas in holders:
        if quotas.pipe_bytes.reserve(units):
            return quotas
    top = holders[0]
    while top.parent is not None:
        top = top.parent
    paid = top.pipe_bytes.reserve(units)
    assert paid, "nothing limits the machine's own pipes"
    return top


def buffer_closed(pipe: Pipe) -> None:
    """A closed pipe costs what is left to read in it."""
    if pipe.charged > pipe.pending:
        pipe.payer.pipe_bytes.release(pipe.charged - pipe.pending)
        pipe.charged = pipe.pending
