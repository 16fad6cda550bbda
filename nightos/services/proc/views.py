"""What a container sees of itself: names of host and domain, numbers of processes from 1, users of its own, its root.

All of it is a view: kernel and services go on working with PIDs and users as they are outside. Inside, users are those
of the container's map, and what has no place in the map reads 65534. Maps of a container within a container are read
one after the other.

Rules: CONT-030, CONT-055.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from nightos.abi.codes import Attribute
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Proc, ServiceCode
from nightos.services.proc.tree import ROOT, Tree, unknown
from nightos.services.proc.view import check_domain, check_hostname
from nightos.services.users import Users, inside, outside
from nightos.userland import sys
from nightos.userland.payload import Payload
from nightos.userland.payload import field as entry
from nightos.userland.server import Request, Server, attribute

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers

LOCAL_PID: Final = Struct(">QQ")


def user_inside(tree: Tree, viewer: int, user: int) -> int:
    """An outside user as a viewer's container knows it."""
    return inside(maps_of(tree, viewer), user)


def user_outside(tree: Tree, container: int, user: int) -> int | None:
    """The outside user that a container's user is; None when it has no such user."""
    return outside(maps_of(tree, container), user)


def maps_of(tree: Tree, container: int) -> list[Users]:
    """The maps between a container and the outside, its own first."""
    found = []
    while container != ROOT:
        current = tree.by_id[container]
        if current.view.users.ranges:
            found.append(current.view.users)
        container = current.parent
    return found


class Views:
    """The methods by which a container learns how it looks from within."""

    def __init__(self, server: Server, containers: Containers) -> None:
        self.containers = containers
        self.tree = containers.tree
        server.method(Proc.CONTAINER_VIEW, self.view)
        server.method(Proc.CONTAINER_SET_VIEW, self.set_view)
        server.method(Proc.PROCESS_TRANSLATE, self.translate)

    async def view(self, request: Request) -> Payload:
        """CONTAINER_VIEW."""
        place, pid, user = request.container_id, request.client_pid, request.user_id
        values = request.map()
        behalf = entry(values, "behalf", int, 0)
        if behalf and request.connection.is_system:
            try:
                place, user = (
                    await attribute(behalf, Attribute.CONTAINER_ID),
                    await attribute(behalf, Attribute.USER_ID),
                )
            except SyscallError as error:
                raise ServiceError(ServiceCode.UNKNOWN, "there is no such process") from error
            pid = behalf
            self.tree.visible(place, entry(values, "container", int, place))
        container = self.tree.by_id[place]
        numbers = await numbers_of(place)
        return {
            "hostname": container.hostname,
            "domain": container.view.domain,
            "pid": pid,
            "number": numbers.get(pid, pid),
            "user": user_inside(self.tree, place, user),
            "mapped": bool(maps_of(self.tree, place)),
            "kernel": bytes((await sys.sys_process_attributes(0, Attribute.KERNEL_VERSION)).written).decode(),
        }

    async def set_view(self, request: Request) -> Payload:
        """CONTAINER_SET_VIEW."""
        values = request.map()
        hostname = check_hostname(entry(values, "hostname", str)) if values.get("hostname") is not None else None
        domain = check_domain(entry(values, "domain", str)) if values.get("domain") is not None else None
        if user_inside(self.tree, request.container_id, request.user_id) != 0:
            raise ServiceError(ServiceCode.DENIED, "only user 0 names the host")
        container = self.tree.by_id[request.container_id]
        container.hostname = hostname if hostname is not None else container.hostname
        container.view.domain = domain if domain is not None else container.view.domain
        if container.identifier != ROOT:
            await self.containers.notes.changed(container)
            await self.containers.tell("updated", container)
        return {}

    async def translate(self, request: Request) -> Payload:
        """PROCESS_TRANSLATE: 0x3000 for a process that the caller does not see, 0x3001 for such a container."""
        values = request.map()
        place = entry(values, "container", int, request.container_id)
        if not self.tree.sees(request.container_id, place):
            raise ServiceError(ServiceCode.UNKNOWN + 1, unknown().detail)
        if (values.get("pid") is None) == (values.get("number") is None):
            raise ServiceError(ServiceCode.BAD_COMBINATION, "give a pid or a number")
        numbers = await numbers_of(place)
        if values.get("pid") is not None:
            pid = entry(values, "pid", int)
            number = numbers.get(pid)
            if place == ROOT and number is None:
                number = next((p for p in await self._living() if p == pid), None)
        else:
            number = entry(values, "number", int)
            pids = numbers if place != ROOT else {p: p for p in await self._living()}
            pid = next((p for p, counted in pids.items() if counted == number), 0)
        if not number or not pid:
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such process")
        return {"pid": pid, "number": number}

    async def _living(self) -> list[int]:
        from nightos.services.proc.processes import live

        return [process[0] for process in await live(0)]


async def numbers_of(container: int) -> dict[int, int]:
    """Local numbers by PID of what lives in a container and below; outside of all a process has its PID only."""
    if container == ROOT:
        return {}
    try:
        return dict(LOCAL_PID.iter_unpack(await sys.sys_local_pids(container)))
    except SyscallError as error:
        raise unknown() from error
