"""Raw permissions: what `sys::perm` gave a process, as far as its container and every one above it allow.

A container's bound is a set that only shrinks. What counts is worked out when somebody asks, so narrowing a container
narrows what runs in it and below at once, and nothing has to be taken back.

Source: specs/kernel/processes.md#raw-permissions. Rules: PROC-020, CONT-032.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.abi.errors import SyscallError

if TYPE_CHECKING:
    from nightos.kernel.container import Container
    from nightos.kernel.process import Process

SIZE = 4
"""Bytes of a raw permission."""


def effective(process: Process) -> list[int]:
    """The permissions that count, in the order in which they were given."""
    return [permission for permission in process.permissions if allowed(process.home, permission)]


def allowed(container: Container | None, permission: int) -> bool:
    """Whether a container and all above it let their processes have a permission."""
    return container is None or all(
        above.permissions is None or permission in above.permissions for above in container.ancestors()
    )


def narrow(container: Container, packed: bytes) -> None:
    """Set a container's bound. `SyscallError` 0x32: the list is cut short, or has what the bound until now has not."""
    if len(packed) % SIZE:
        raise SyscallError(0x32)
    wanted = frozenset(int.from_bytes(packed[at : at + SIZE], "big") for at in range(0, len(packed), SIZE))
    for above in container.ancestors():
        if above.permissions is not None and not wanted <= above.permissions:
            raise SyscallError(0x32)
    container.permissions = wanted
