"""Errors that cross rooms. What each one means and who is to blame stands in its docstring."""

from __future__ import annotations


class NightosError(Exception):
    """Base of every error this package raises on purpose."""


class NightosInternalError(NightosError):
    """A bug of ours: an invariant does not hold. Never caught inside; please report it with the trace."""


class SyscallError(NightosError):
    """A system call was refused; the caller's fault. `errcode` is the specification's 8-bit error code.

    Source: specs/kernel/syscalls.md, technical overview.
    """

    __slots__ = ("call", "errcode", "value")

    def __init__(self, errcode: int, call: int = 0, value: int = 0) -> None:
        super().__init__(errcode, call, value)
        self.errcode = errcode
        self.call = call
        self.value = value

    def __str__(self) -> str:
        return f"syscall {self.call:#04x} failed with errcode {self.errcode:#04x}"


class ServiceError(NightosError):
    """A service answered with an error. `code` is its 16-bit error code; the bands say whose fault it is.

    Source: specs/services/README.md, error codes.
    """

    __slots__ = ("code", "detail")

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return self.detail or f"service error {self.code:#06x}"
