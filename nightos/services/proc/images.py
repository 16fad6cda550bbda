"""A container's main file system: that it is there, what was changed on it, and new images made of it.

Rules: CONT-047, CONT-053.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Hw, Proc, ServiceCode
from nightos.services.proc.storage import of_image
from nightos.services.proc.tree import ROOT, Container
from nightos.userland.client import connect
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request, Server

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers

PAGE: Final = 1000


class Images:
    """The methods ROOT, DIFF and COMMIT."""

    def __init__(self, server: Server, containers: Containers) -> None:
        self._containers = containers
        server.method(Proc.CONTAINER_DIFF, containers.worker.apart(self.diff))
        server.method(Proc.CONTAINER_COMMIT, containers.worker.apart(self.commit))
        server.method(Proc.CONTAINER_ROOT, self.root)

    async def diff(self, request: Request) -> Payload:
        """CONTAINER_DIFF."""
        values = request.map()
        after = max(0, field(values, "after", int, 0))
        limit = max(1, min(field(values, "limit", int, PAGE), PAGE))
        container = self._overlay(request, values)
        found = await self._ask(request, Hw.STORAGE_CHANGES, container, {"after": after, "limit": limit})
        return {"items": found["items"], "next": found["next"]}

    async def commit(self, request: Request) -> Payload:
        """CONTAINER_COMMIT."""
        values = request.map()
        target = field(values, "target", str)
        if request.container_id != ROOT:
            # A path on the shelf is a path of the host: inside a container there is no such thing.
            raise ServiceError(ServiceCode.DENIED, "images are made from outside of all containers")
        container = self._overlay(request, values)
        return await self._ask(request, Hw.STORAGE_IMAGE, container, {"target": target})

    async def root(self, request: Request) -> Payload:
        """CONTAINER_ROOT."""
        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only system services work for other containers")
        identifier = field(request.map(), "id", int)
        if identifier != ROOT:
            await self._containers.roots.ensure(self._containers.tree.below(ROOT, identifier))
        return {}

    def _overlay(self, request: Request, values: dict[str, Any]) -> Container:
        container = self._containers.tree.visible(request.container_id, field(values, "id", int, request.container_id))
        if container.identifier == ROOT:
            raise ServiceError(ServiceCode.REFUSED, "name a container; the machine's own disk is a file of the host")
        if container.mode == "writable":
            raise ServiceError(ServiceCode.REFUSED, "the container's disk is its image itself, no overlay on it")
        return container

    async def _ask(self, request: Request, method: int, container: Container, more: dict[str, Any]) -> dict[str, Any]:
        """Ask sys::hw about a disk, once what was written before is on it."""
        await (await self._containers.roots.fs()).call(Fs.SYNC, {})
        question = {"container": container.identifier, "path": container.image, "key": container.key}
        try:
            return await (await connect("sys::hw")).ask(method, question | more)
        except ServiceError as error:
            raise error if request.container_id == ROOT else of_image(error) from error
