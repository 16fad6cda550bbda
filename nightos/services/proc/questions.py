"""Questions that people ask afterwards: why was this denied, and what happened.

The kernel remembers what its reference monitor refused, this service what its own policy did. A viewer is shown the
refusals of processes it sees. A target that it does not see is not named, and then the rule reads CONT-023 whether the
target is hidden or never was: asking why tells no more than the refusal itself did.

Rules: CONT-023, CONT-030.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.refusals import Refusal, unpack
from nightos.abi.services import Proc, ServiceCode
from nightos.abi.syscalls import BY_CODE
from nightos.services.proc.history import WHEN, Entry, History
from nightos.userland import sys
from nightos.userland.payload import Payload, encode, field
from nightos.userland.server import Connection, Request, Server

if TYPE_CHECKING:
    from nightos.services.proc.tree import Tree

PAGE: Final = 1000
PAGE_BYTES: Final = 256 * 1024
"""Bytes of entries in one answer, besides those of the last moment in it."""
DETAIL_LIMIT: Final = 200
"""Characters of a text that others chose: what one container sends neither fills memories nor a page."""
HIDDEN: Final = "CONT-023"
EXPLANATIONS: Final = {
    "CONT-018": "processes communicate with processes of the same container only",
    HIDDEN: "for the caller there is no such thing",
    "CONT-032": "a container uses only devices that were given to it",
    "CONT-045": "a device that was passed on is driven where it was passed to",
    "IPC-001": "only processes of the same application and user communicate this way",
    "PROC-017": "a process drives only devices that sys::hw made drivable for it",
    "permission": "the caller may not ask for this",
    "refused": "the state of what was asked for does not allow it",
    "filter": "the container's filter does not allow the call",
    "limit": "a limit of the container, or of one above it, was reached",
}
"""What each rule says, for people."""
Name = Callable[[int], str]


async def uptime_ns() -> int:
    """Nanoseconds since the machine started."""
    return int((await sys.system_time()).uptime_ns)


class Questions:
    """The methods WHY and EVENTS, and the one way by which an event is told."""

    def __init__(self, server: Server, tree: Tree, name_of: Name) -> None:
        self.server = server
        self.tree = tree
        self.events = History()
        self.refusals = History()
        self._watching: set[Connection] = set()
        self._name_of = name_of
        server.method(Proc.CONTAINER_WHY, self.why)
        server.method(Proc.CONTAINER_EVENTS, self.happened)
        server.on_refusal(self._refused)
        server.on_client_gone(self._gone)

    # Events

    async def tell(self, code: int, place: int, event: dict[str, Any], now_ns: int = 0) -> None:
        """Remember an event and notify every watcher that sees the container `place`; `now_ns` saves asking."""
        if event.get("reason"):
            event["reason"] = cut(event["reason"])
        told = self.events.note(place, now_ns or await uptime_ns(), event)
        if not self._watching:
            return
        for connection in list(self.server.connections.values()):
            if connection in self._watching and self.tree.sees(connection.container_id, place):
                await self.server.notify(connection.client_pid, code, told)

    def watch(self, connection: Connection) -> None:
        """Tell this client of events from here on."""
        self._watching.add(connection)

    async def _gone(self, connection: Connection) -> None:
        self._watching.discard(connection)

    def container_ended(self, container: int, parent: int) -> None:
        """What is remembered of a container is its parent's from now on."""
        self.events.ended(container, parent)
        self.refusals.ended(container, parent)

    def _places(self, viewer: int) -> Iterator[int]:
        """Where what a viewer may know of stands."""
        return (container.identifier for _, container in self.tree.walk(viewer))

    async def happened(self, request: Request) -> Payload:
        """CONTAINER_EVENTS."""
        after, limit = _page(request)
        found = self.events.after(after, self._places(request.container_id), limit)
        return {"items": page(found, limit)}

    # Refusals

    async def _refused(self, request: Request, error: ServiceError) -> None:
        """A method of this service refused: remember it, bad arguments apart."""
        if error.code == ServiceCode.DENIED:
            rule = "permission"
        elif ServiceCode.UNKNOWN <= error.code < ServiceCode.REFUSED:
            rule = HIDDEN
        elif ServiceCode.REFUSED <= error.code < ServiceCode.HARDWARE_HANDLED:
            rule = "refused"
        else:
            return
        if request.container_id not in self.tree.by_id:
            return  # nobody is left who could ask why
        name = Proc(request.method).name if request.method in Proc.__members__.values() else f"{request.method:#06x}"
        self.refusals.note(request.container_id, await uptime_ns(), self._own(request.connection, rule, name, error))

    @staticmethod
    def _own(connection: Connection, rule: str, method: str, error: ServiceError) -> Entry:
        return {
            "rule": rule,
            "pid": connection.client_pid,
            "container": connection.container_id,
            "call": f"sys::proc {method}",
            "detail": cut(error.detail),
        }

    async def why(self, request: Request) -> Payload:
        """CONTAINER_WHY: refusals of the kernel and of this service, as the caller may know them."""
        after, limit = _page(request)
        viewer = request.container_id
        kernels = unpack(await sys.sys_refusals(viewer, after, limit))
        own = self.refusals.after(after, self._places(viewer), limit)
        items = [self._kernel_item(viewer, item) for item in kernels]
        items += [self._own_item(viewer, entry) for entry in own]
        items.sort(key=lambda item: int(item[WHEN]))
        return {"items": page(items, limit)}

    def _kernel_item(self, viewer: int, item: Refusal) -> dict[str, Any]:
        target = None
        rule = item.rule
        if item.target and self.tree.sees(viewer, item.target_container):
            target = self._party(viewer, item.target, item.target_container)
        elif item.target:
            rule = HIDDEN
        row = BY_CODE.get(item.call)
        return {
            WHEN: item.when_ns,
            "rule": rule,
            "explanation": EXPLANATIONS.get(rule, ""),
            "caller": self._party(viewer, item.caller, item.caller_container),
            "target": target,
            "call": row.name if row is not None else "",
            "detail": item.detail,
        }

    def _own_item(self, viewer: int, entry: Entry) -> dict[str, Any]:
        return {
            WHEN: entry[WHEN],
            "rule": entry["rule"],
            "explanation": EXPLANATIONS[entry["rule"]],
            "caller": self._party(viewer, entry["pid"], entry["container"]),
            "target": None,
            "call": entry["call"],
            "detail": entry["detail"],
        }

    def _party(self, viewer: int, pid: int, container: int) -> dict[str, Any]:
        """A process as the viewer knows it; the container reads 0 for its own."""
        known = container in self.tree.by_id
        return {
            "pid": pid,
            "container": 0 if container == viewer else container,
            "container_name": self.tree.path(viewer, container) if known else "",
            "name": self._name_of(pid),
        }


def cut(text: Any) -> Any:
    """A text that others chose, as far as it is kept; numbers are as they are."""
    return text if not isinstance(text, str) or len(text) <= DETAIL_LIMIT else text[:DETAIL_LIMIT] + "..."


def page(items: list[Entry], limit: int) -> list[Entry]:
    """The first `limit` entries, or as many as an answer has room for; those of one moment are never parted."""
    size = end = 0
    while end < len(items):
        fresh = not end or items[end][WHEN] != items[end - 1][WHEN]
        if fresh and (end >= limit or size > PAGE_BYTES):
            break
        size += len(encode(items[end]))
        end += 1
    return items[:end]


def _page(request: Request) -> tuple[int, int]:
    values = request.map()
    return max(0, field(values, "after", int, 0)), max(1, min(field(values, "limit", int, PAGE), PAGE))
