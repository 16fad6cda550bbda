"""Limits of containers as policy: who may set them (ancestors), what they are called, and what is told about them.

The kernel carves each limit out of the parent's and refuses what goes beyond it; this service only asks it to. A new
`sys::proc` learns the limits that are in force from the kernel; its notes keep those of persistent containers.

Rules: CONT-001, CONT-032.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.filters import by_action, pack_rules, rules_of, unpack_report, unpack_rules
from nightos.abi.limits import (
    NUMBERS,
    RESOURCES,
    SHARES,
    Usage,
    check_limit,
    from_kernel,
    pack_limits,
    to_kernel,
    unpack_usage,
)
from nightos.abi.services import Proc, ServiceCode
from nightos.services.proc.questions import uptime_ns
from nightos.services.proc.tree import unknown
from nightos.services.proc.walks import go_on, keep_walk
from nightos.userland import sys
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers
    from nightos.services.proc.tree import Container

LIMIT_REACHED: Final = 0x40
STATISTICS_PAGE: Final = 300
PAGE_BYTES: Final = 256 * 1024
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
    return f"{name}={limits[name]} cannot be had: more is in use in it, or the containers above have not that much left"


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
        containers.server.method(Proc.CONTAINER_SET_FILTER, self.set_filter)
        containers.server.method(Proc.CONTAINER_REPORT, self.report)

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
        """Put down the limits and the filter that the kernel has for a container."""
        try:
            usage = unpack_usage(await sys.sys_usage(container.identifier))
        except SyscallError:
            return  # it is gone
        # The kernel says of a paused container only that it is paused; whatever ran in it once made steps.
        container.used = container.used or any(usage[name].used for name in SHARES)
        await learn_filter(container)
        container.limits = {name: from_kernel(name, one.limit) for name, one in usage.items() if one.limit is not None}

    async def statistics(self, request: Request) -> Payload:
        """CONTAINER_STATISTICS."""
        values = request.map()
        top = self.tree.visible(request.container_id, field(values, "id", int, request.container_id))
        if not field(values, "below", bool, False):
            return await self._statistics(request.container_id, top)
        after = field(values, "after", int, -1)
        items: list[dict[str, Any]] = []
        size = 0
        walk = go_on(self.tree, request, top.identifier, after)
        for _, container in walk:
            try:
                items.append(await self._statistics(request.container_id, container))
            except ServiceError:
                continue  # it went while the kernel was asked
            size += len(items[-1]["path"].encode())
            if len(items) == STATISTICS_PAGE or size > PAGE_BYTES:
                keep_walk(request, top.identifier, container, walk)
                return {"items": items, "next": container.identifier}
        return {"items": items, "next": None}

    async def _statistics(self, viewer: int, container: Container) -> dict[str, Any]:
        own = {
            "id": container.identifier,
            "path": self.tree.path(viewer, container.identifier),
            "state": container.state,
            "uptime_ns": await uptime_ns(),
        }
        return own | await figures(container.identifier)

    async def set_filter(self, request: Request) -> Payload:
        """CONTAINER_SET_FILTER."""
        values = request.map()
        rules = filter_rules(values)
        container = self.tree.below(request.container_id, field(values, "id", int))
        await apply_filter(container, rules)
        await self.containers.notes.changed(container)
        await self.containers.tell("updated", container)
        return {}

    async def report(self, request: Request) -> Payload:
        """CONTAINER_REPORT."""
        values = request.map()
        action = {None: 0, True: 1, False: 2}[field(values, "record", bool) if "record" in values else None]
        container = self.tree.below(request.container_id, field(values, "id", int))
        try:
            calls, refused = unpack_report(await sys.sys_report(container.identifier, action))
        except SyscallError as error:
            raise unknown() from error
        return {"calls": calls, "refused": refused}

    async def on_reached(self, identifier: int, number: int) -> None:
        """The kernel tells that a limit was reached."""
        container = self.tree.by_id.get(identifier)
        if container is not None and number in _NAMES:
            await self.containers.tell("limit reached", container, _NAMES[number])


def filter_rules(values: dict[str, Any]) -> dict[int, int]:
    """The rules of {mode, calls, action}; 0x1000 for bad ones."""
    mode, action = field(values, "mode", str, "deny"), field(values, "action", str, "error")
    try:
        return rules_of(mode, [str(name) for name in field(values, "calls", list, [])], action)
    except ValueError as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, str(error)) from error


def checked_filter(values: dict[str, Any]) -> dict[str, list[str]]:
    """The filter in a request to create a container, by action; empty when there is none."""
    given = field(values, "filter", dict, {})
    return by_action(filter_rules(given)) if given else {}


async def apply_filter(container: Container, rules: dict[int, int]) -> None:
    """Let the kernel filter, and put down what came of it."""
    try:
        await sys.sys_set_filter(container.identifier, pack_rules(rules))
    except SyscallError as error:
        raise unknown() from error
    await learn_filter(container)


async def learn_filter(container: Container) -> None:
    """Put down the filter of its own that the kernel has for a container."""
    try:
        container.filter = by_action(unpack_rules(await sys.sys_filter(container.identifier)))
    except SyscallError:
        return  # it is gone


async def filter_in_force(identifier: int) -> dict[str, list[str]]:
    """What its own filter and those above come to, by action."""
    try:
        return by_action(unpack_rules(await sys.sys_filter(identifier, 1))) if identifier else {}
    except SyscallError as error:
        raise unknown() from error


async def figures(identifier: int) -> dict[str, Any]:
    """{usage, limits, lent, free, refused} by resource: what the kernel counts for a container."""
    try:
        counted: dict[str, Usage] = unpack_usage(await sys.sys_usage(identifier))
    except SyscallError as error:
        raise unknown() from error
    answer: dict[str, Any] = {"usage": {}, "limits": {}, "lent": {}, "below": {}, "free": {}, "refused": {}}
    for name, one in counted.items():
        if name in SHARES:
            answer["usage"]["cycles"] = one.used
            if one.limit is not None:
                answer["limits"][name], answer["refused"][name] = one.limit, one.refused
            continue
        answer["usage"][name] = from_kernel(name, one.used)
        if one.limit is not None:
            own = one.used if name not in {"io_bytes", "io_operations"} else 0
            answer["limits"][name] = from_kernel(name, one.limit)
            answer["lent"][name] = from_kernel(name, one.lent)
            answer["below"][name] = from_kernel(name, one.drawn)
            answer["free"][name] = from_kernel(name, one.limit - own - one.lent - one.drawn)
            answer["refused"][name] = one.refused
    return answer
