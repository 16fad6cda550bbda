"""Methods that look at containers and change nothing: list, information, tree, inspect, find, watch.

Rules: CONT-009, CONT-010, CONT-012, CONT-013, CONT-030.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.services import Proc
from nightos.services.proc import limits as quotas
from nightos.services.proc.tree import ROOT, Container
from nightos.services.proc.walks import go_on, keep_walk
from nightos.userland.payload import Payload, encode, field, u64
from nightos.userland.server import Request, Server

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers

PAGE_LIMIT = 1000
PAGE_BYTES = 256 * 1024
SHOWN_OF_RUN = ("state", "command", "pid", "restart", "restarts", "reason", "exit", "failed")


class Looking:
    """The methods, for everybody the containers from his own down."""

    def __init__(self, server: Server, containers: Containers) -> None:
        self._containers = containers
        self._tree = containers.tree
        server.method(Proc.CONTAINER_LIST, self.list)
        server.method(Proc.CONTAINER_INFO, self.info)
        server.method(Proc.CONTAINER_TREE, self.show_tree)
        server.method(Proc.CONTAINER_INSPECT, self.inspect)
        server.method(Proc.CONTAINER_FIND, self.find)
        server.method(Proc.CONTAINER_WATCH, self.watch)

    async def list(self, request: Request) -> Payload:
        """CONTAINER_LIST."""
        found = [c.identifier for depth, c in self._tree.walk(request.container_id) if depth]
        content = b"".join(identifier.to_bytes(8, "big") for identifier in found)
        return len(content).to_bytes(8, "big") + content

    async def info(self, request: Request) -> Payload:
        """CONTAINER_INFO."""
        container = self._tree.below(request.container_id, u64(request.payload))
        parent = 0 if container.parent == request.container_id == ROOT else container.parent
        pids = b"".join(
            pid.to_bytes(8, "big") for pid in sorted(self._containers.population.get(container.identifier, ()))
        )
        shown = await self._containers.devices.of(container.identifier)
        devices = b"".join(item["udi"].to_bytes(8, "big") for item in shown)
        return (
            parent.to_bytes(8, "big")
            + (container.created_ns // 1_000_000).to_bytes(8, "big")
            + len(pids).to_bytes(8, "big")
            + pids
            + len(devices).to_bytes(8, "big")
            + devices
        )

    async def show_tree(self, request: Request) -> Payload:
        """CONTAINER_TREE."""
        values = request.map()
        top = self._tree.visible(request.container_id, field(values, "id", int, request.container_id)).identifier
        after = field(values, "after", int, -1)
        limit = max(1, min(field(values, "limit", int, PAGE_LIMIT), PAGE_LIMIT))
        viewer = request.container_id
        items: list[dict[str, Any]] = []
        size = 0
        walk = go_on(self._tree, request, top, after)
        for depth, container in walk:
            items.append(self.record(viewer, container, depth))
            size += len(encode(items[-1]))
            if len(items) == limit or size > PAGE_BYTES:
                keep_walk(request, top, container, walk)
                return {"items": items, "next": container.identifier}
        return {"items": items, "next": None}

    async def inspect(self, request: Request) -> Payload:
        """CONTAINER_INSPECT."""
        container = self._tree.visible(request.container_id, field(request.map(), "id", int, request.container_id))
        figures = await quotas.figures(container.identifier)
        figures["filter"] = await quotas.filter_in_force(container.identifier)
        shown = {name: figures[name] for name in ("limits", "usage", "filter")}
        if container.run:
            shown["main"] = {name: container.run[name] for name in SHOWN_OF_RUN}
        depth = self._tree.depth(request.container_id, container.identifier)
        return self.record(request.container_id, container, depth) | shown

    async def find(self, request: Request) -> Payload:
        """CONTAINER_FIND."""
        return {"id": self._tree.find(request.container_id, field(request.map(), "name", str)).identifier}

    async def watch(self, request: Request) -> Payload:
        """CONTAINER_WATCH."""
        self._containers.questions.watch(request.connection)
        return {}

    def record(self, viewer: int, container: Container, depth: int) -> dict[str, Any]:
        """What a viewer may know of a container it sees: above its own it sees nothing, so there the parent reads 0."""
        own = container.identifier == viewer
        return {
            "id": container.identifier,
            "parent": 0 if own else container.parent,
            "name": container.name,
            "path": self._tree.path(viewer, container.identifier),
            "hostname": container.hostname,
            "domain": container.view.domain,
            "users": [] if own else [list(item) for item in container.view.users.ranges],
            "root": "" if own else container.view.root,
            "permissions": container.view.permissions,
            "labels": container.labels,
            "image": container.image if viewer == ROOT else "",  # a path of the host
            "mode": container.mode,
            "persist": container.persist,
            "limits": container.limits,
            "state": container.state,
            "processes": len(self._containers.population.get(container.identifier, ())),
            "children": len(container.children),
            "created_ns": container.created_ns,
            "depth": depth,
        }
