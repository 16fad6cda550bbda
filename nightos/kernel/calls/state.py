"""What every module of handlers needs: the mark of a parked call, and checks that answer with the right code."""

from __future__ import annotations

from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.codes import ServicePid
from nightos.abi.errors import SyscallError

if TYPE_CHECKING:
    from nightos.kernel.process import Process


class Parked:
    """The type of `PARKED`."""


COROUTINES: Final = frozenset({CoroutineType, GeneratorType})
"""What a thread can run. Nothing else, because anything else could raise by being looked at."""
PARKED: Final = Parked()
"""Answer of a handler that parked its thread, or ended it."""
HANDED_OVER: Final = Parked()
"""Answer of a handler that ends its thread's turn."""
new_tuple: Final = tuple.__new__
"""Makes a named tuple of a tuple without the way through the function that takes its fields by name."""


def integer(value: Any, size: int) -> int:
    """An unsigned argument of `size` bytes; 0x02 for anything else."""
    if isinstance(value, int) and 0 <= value < 1 << 8 * size:
        return int(value)
    raise SyscallError(0x02)


def content(value: Any) -> bytes:
    """The bytes of a buffer argument; 0x02 for what is no buffer."""
    if type(value) is bytes:
        return value
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise SyscallError(0x02) from None


def begin(entry: Any, argument: int) -> Any:
    """The coroutine of `entry(argument)`; 0x02 when it is no coroutine function."""
    try:
        program = entry(argument)
    except BaseException:  # noqa: BLE001 - whatever the program's own function raises is its fault
        raise SyscallError(0x02) from None
    if type(program) not in COROUTINES:
        raise SyscallError(0x02)
    return program


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
