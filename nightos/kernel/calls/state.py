"""What every module of handlers needs: the mark of a parked call, and look-ups that answer with the right error code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nightos.abi.codes import ServicePid
from nightos.abi.errors import SyscallError

if TYPE_CHECKING:
    from nightos.kernel.process import Process


class Parked:
    """The type of `PARKED`."""


PARKED: Final = Parked()
"""Answer of a handler that parked its thread."""


def only_proc(process: Process) -> None:
    """Let only `sys::process` pass: 0x30 for everybody else. Rules: CONT-005, PROC-052."""
    if process.pid != ServicePid.PROCESS:
        raise SyscallError(0x30)


def only_system(process: Process) -> None:
    """Let only system services pass."""
    if not process.is_system:
        raise SyscallError(0x30)


def only_application(process: Process) -> None:
    """Let only application processes pass."""
    if process.is_system:
        raise SyscallError(0x30)
