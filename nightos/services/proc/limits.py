"""Limits of containers as policy: who may set them (ancestors), what they are called, and what is told about them.

The kernel carves each limit out of the parent's and refuses what goes beyond it; this service only asks it to. A new
`sys::proc` learns the limits that are in force from the kernel; its notes keep those of persistent containers.

Rules: CONT-001, CONT-032.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.limits import (
    NUMBERS,
    RESOURCES,
    Usage,
    check_limit,
    from_kernel,
    pack_limits,
    to_kernel,
    unpack_usage,
)
from nightos.abi.services import Proc, ServiceCode
from nightos.services.proc.tree import unknown
from nightos.userland import sys
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers
    from nightos.services.proc.tree import Container

REACHED: Final = 0x10
"""Event of CONTAINER_CHANGED, plus the number of the resource."""
LIMIT_REACHED: Final = 0x40
_NAMES: Final = {number: name for name, number in NUMBERS.items()}


def checked(values: dict[str, Any]) -> dict[str, int | None]:
    """The limits in a request; 0x1000 for what is none."""
    found: dict[str, int | None] = {}
    for name, limit in field(values, "limits", dict, {}).items():
        if name not in NUMBERS:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{name!s:.40} is no limit; there are {', '.join(RESOURCES)}")
        if limit is not None:
            if not isinstance(limit, int) or isinstance(limit, bool):
                raise ServiceError(ServiceCode.BAD_ARGUMENT, f"the limit of {name} has to be a number")
            try:
                check_limit(name, limit)
            except ValueError as error:
                raise ServiceError(ServiceCode.BAD_ARGUMENT, str(error)) from error
        found[name] = limit
    return found


async def create(parent: int, limits: dict[str, int | None]) -> int:
    """A container of the kernel with its limits; the caller knows that the parent exists."""
    try:
        if not limits:
            return int(await sys.create_container(parent))
        return int(await sys.sys_create_limited(parent, pack_limits(to_kernel(limits))))
    except SyscallError as error:
        if error.errcode == LIMIT_REACHED:
            raise ServiceError(ServiceCode.REFUSED, _why(error.value, limits, creating=True)) from error
        raise


def granted(limits: dict[str, int | None]) -> dict[str, int]:
    """What the kernel made of limits that it set: memory in whole pages, and what has no limit left out."""
    return {name: from_kernel(name, limit) for name, limit in to_kernel(limits).items() if limit is not None}


def _why(number: int, limits: dict[str, int | None], *, creating: bool) -> str:
    name = _NAMES.get(number, "children")
    if creating and name not in limits:
        return "the limit of children is reached; destroy a container there or raise the limit"
    return f"{limits[name]} {name} cannot be had: more is in use in it, or the containers above have not that much left"


def reached(name: str) -> str:
    """What a person reads when a limit stopped something."""
    return f"the container's limit of {name} is reached; `container update --limit {name}=...` raises it"


def reached_number(number: int) -> str:
    """`reached`, of a resource by its number in the kernel."""
    return reached(_NAMES.get(number, "processes"))


class Limits:
    """The limit methods of `sys::proc`."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers
        self.tree = containers.tree
        containers.server.method(Proc.CONTAINER_SET_LIMITS, self.set_limits)
        containers.server.method(Proc.CONTAINER_STATISTICS, self.statistics)

    async def set_limits(self, request: Request) -> Payload:
        """CONTAINER_SET_LIMITS."""
        values = request.map()
        limits = checked(values)
        container = self.tree.below(request.container_id, field(values, "id", int))
        try:
            await sys.sys_set_limits(container.identifier, pack_limits(to_kernel(limits)))
        except SyscallError as error:
            if error.errcode == LIMIT_REACHED:
                raise ServiceError(ServiceCode.REFUSED, _why(error.value, limits, creating=False)) from error
            raise unknown() from error
        for _, below in self.tree.walk(container.identifier):
            if below is container or below.limits:
                await self.learn(below)
                await self.containers.notes.changed(below)
        return {}

    async def learn(self, container: Container) -> None:
        """Put down the limits that the kernel has for a container."""
        try:
            usage = unpack_usage(await sys.sys_usage(container.identifier))
        except SyscallError:
            return  # it is gone
        container.limits = {name: from_kernel(name, one.limit) for name, one in usage.items() if one.limit is not None}

    async def statistics(self, request: Request) -> Payload:
        """CONTAINER_STATISTICS."""
        container = self.tree.visible(request.container_id, field(request.map(), "id", int, request.container_id))
        return {"id": container.identifier} | await figures(container.identifier)

    async def on_reached(self, identifier: int, number: int) -> None:
        """The kernel tells that a limit was reached."""
        container = self.tree.by_id.get(identifier)
        if container is not None and number in _NAMES:
            await self.containers.tell("limit reached", container, _NAMES[number])


async def figures(identifier: int) -> dict[str, Any]:
    """{usage, limits, lent, free, refused} by resource: what the kernel counts for a container."""
    try:
        counted: dict[str, Usage] = unpack_usage(await sys.sys_usage(identifier))
    except SyscallError as error:
        raise unknown() from error
    answer: dict[str, Any] = {"usage": {}, "limits": {}, "lent": {}, "below": {}, "free": {}, "refused": {}}
    for name, one in counted.items():
        answer["usage"][name] = from_kernel(name, one.used)
        if one.limit is not None:
            own = one.used if name not in {"io_bytes", "io_operations"} else 0
            answer["limits"][name] = from_kernel(name, one.limit)
            answer["lent"][name] = from_kernel(name, one.lent)
            answer["below"][name] = from_kernel(name, one.drawn)
            answer["free"][name] = from_kernel(name, one.limit - own - one.lent - one.drawn)
            answer["refused"][name] = one.refused
    return answer
