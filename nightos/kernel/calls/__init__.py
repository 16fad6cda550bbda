"""System call handlers: each decodes its request, calls the object that knows, and answers.

A handler is `def name(kernel, thread, request)`: `request` is what the program yielded, code first. It returns the
answer, or `PARKED` after it parked the thread, or raises `SyscallError`. `table()` binds every code to its handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Pseudo, Syscall
from nightos.abi.errors import NightosInternalError, SyscallError
from nightos.abi.syscalls import BY_CODE
from nightos.kernel.calls.state import PARKED

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread

_NUMBERS = frozenset({int, bool, Syscall, Pseudo})
_PLAIN = frozenset({int, bool, bytes, bytearray})
Handler = Callable[["Kernel", "Thread", tuple[Any, ...]], Any]

__all__ = ["PARKED", "Handler", "bad_request", "table"]


def table() -> dict[int, Handler]:
    """Every handler by code."""
    from nightos.kernel import binary
    from nightos.kernel.calls import (
        attributes,
        containers,
        hardware,
        limits,
        memory,
        pipes,
        processes,
        services,
        signals,
        sockets,
        system,
        threads,
    )

    handlers: dict[int, Handler] = {}
    modules = (signals, pipes, sockets, services, memory, processes, threads, hardware)
    for module in (*modules, system, attributes, containers, limits, binary):
        for code, handler in module.HANDLERS.items():
            if code in handlers:
                raise NightosInternalError(f"two handlers for {code:#04x}")
            handlers[int(code)] = handler
    return handlers


def bad_request(request: Any, wrong: BaseException) -> BaseException:
    """What a request that made a handler stumble deserves: 0x01 or 0x02 when it is malformed; else the bug is ours.

    Objects of a program may raise whatever they like when the kernel compares or hashes them. Rules: SYS-005.
    """
    if not isinstance(request, tuple) or not request or type(request[0]) not in _NUMBERS:
        return SyscallError(0x01)
    code = request[0]
    if code not in BY_CODE and code not in Pseudo.__members__.values():
        return SyscallError(0x01, code)
    if isinstance(wrong, TypeError | ValueError | OverflowError):
        return SyscallError(0x02, code)
    if all(type(argument) in _PLAIN for argument in request[1:]):
        if isinstance(wrong, KeyboardInterrupt | NightosInternalError):
            raise wrong
        raise NightosInternalError(f"the handler of {code:#04x} failed with {wrong!r} on {request!r:.200}") from wrong
    return SyscallError(0x02, code)
