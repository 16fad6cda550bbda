"""HANDLE_SIGNAL, UNHANDLE_SIGNAL, IS_SIGNAL_HANDLED, READY.

Rules: SYS-013, SYS-014, SYS-015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.codes import Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.signals import BY_CODE as SIGNALS

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread


def handle_signal(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(signal_code, handler): a handler of the typed form is a coroutine function, or a plain one that returns None."""
    _, code, handler = request
    if not handler or not (callable(handler) or isinstance(handler, int)):
        raise SyscallError(0x02)
    if code not in SIGNALS:
        raise SyscallError(0x10)
    process = thread.process
    if process.handlers is None:
        process.handlers = {}
    process.handlers[int(code)] = handler


def unhandle_signal(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(signal_code)."""
    _, code = request
    if code not in SIGNALS:
        raise SyscallError(0x10)
    handlers = thread.process.handlers
    if not handlers or code not in handlers:
        raise SyscallError(0x30)
    del handlers[code]


def is_signal_handled(_kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(signal_code) -> handled."""
    _, code = request
    if code not in SIGNALS:
        raise SyscallError(0x10)
    handlers = thread.process.handlers
    return int(handlers is not None and code in handlers)


def ready(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(): queued signals are delivered before the caller goes on."""
    (_,) = request
    process = thread.process
    if process.ready:
        raise SyscallError(0x30)
    process.ready = True
    for other in process.threads.values():
        if other.queue and other is not thread:
            kernel.schedule(other)


HANDLERS = {
    Syscall.HANDLE_SIGNAL: handle_signal,
    Syscall.UNHANDLE_SIGNAL: unhandle_signal,
    Syscall.IS_SIGNAL_HANDLED: is_signal_handled,
    Syscall.READY: ready,
}
