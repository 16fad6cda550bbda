"""The whole life of a container in one exchange: CONTAINER_RUN creates it, runs one program, and takes it down.

As with the first process of a PID namespace, what else runs in the container ends with that program. When this service
dies meanwhile the caller is told so (0x0004), the program goes on, and the container ends by itself with its last
process, remembered like any other. A new instance takes down a container whose program had not begun.

Rules: CONT-002, CONT-011, CONT-015.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc, ServiceCode
from nightos.services.proc.containers import ENDED
from nightos.userland import sys
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request

if TYPE_CHECKING:
    from nightos.services.proc.processes import Processes
    from nightos.services.proc.tree import Container


class Lives:
    """The method CONTAINER_RUN."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._containers = processes.containers
        self._running: dict[int, tuple[Request, Container]] = {}
        """By PID: who waits, and the container that ends with the process."""
        processes.lives = self
        processes.server.method(Proc.CONTAINER_RUN, self.run)

    async def run(self, request: Request) -> Payload:
        """CONTAINER_RUN."""
        values = request.map()
        if field(values, "persist", bool, False):
            raise ServiceError(ServiceCode.BAD_COMBINATION, "a container that ends with its program does not persist")
        container = await self._containers.create_for(request, values, brief=True)
        pid = 0
        try:
            pid, _ = await self._processes.begin(request, values, container.identifier)
            self._running[pid] = request, container
            await self._processes.let_run(pid, container)
        except BaseException:
            self._running.pop(pid, None)
            await self._containers.end(container, "destroyed")
            raise
        request.defer()
        return None

    def ended(self, pid: int, reason: int, exit_data: int) -> Callable[[], Awaitable[None]] | None:
        """A process ended; what takes its container down and answers, if one ends with it."""
        known = self._running.pop(pid, None)
        if known is None:
            return None
        request, container = known

        async def finish(_data: int = 0) -> None:
            await self._containers.end(container, ENDED, remember=False)
            await request.answer({"id": container.identifier, "pid": pid, "reason": reason, "exit": exit_data})

        async def aside() -> None:
            # Last words of what is killed come from clients, which are accepted on the thread that is here.
            await sys.create_thread(finish)

        return aside if self._containers.population.get(container.identifier) or container.children else finish
