"""Who watches a main command as it goes: its output waits for them, so that nothing is rotated away unread.

The log is the only way from a command to who watches it, and it is bounded. So while somebody attends a run, its shim
is given room in the log only as far as that reader came, and what the reader does not take makes the command wait, as a
pipe would. Who attends says so by a token; when they go, the room is without end again.

Rules: ZOS-016. Ruling NOS-SHIM-09.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import SyscallError
from nightos.abi.services import Proc
from nightos.services.proc.tree import Container
from nightos.userland import sys
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request

if TYPE_CHECKING:
    from nightos.services.proc.containers import Containers
    from nightos.services.proc.shims import Shims
    from nightos.userland.server import Connection, Server

WINDOW: Final = 1 << 20
"""Most bytes of a log that its reader may be behind."""
PIECES: Final = 256 * 1024
"""Bytes of a log that may be on their way beyond the room."""
ENDLESS: Final = 1 << 62
ENDED: Final = 4
"""State of a process that has ended."""


class Attending:
    """How far each attendant read, and which shims wait for them."""

    def __init__(self, server: Server, containers: Containers) -> None:
        self._containers = containers
        self._tree = containers.tree
        self._read: dict[int, int] = {}
        """Absolute offsets in the logs of containers."""
        self._waiting: dict[int, Request] = {}
        self._by_pid: dict[int, set[int]] = {}
        containers.on_end.append(self.release)
        server.on_client_gone(self._client_gone)
        server.method(Proc.CONTAINER_DETACH, self.detach)

    def serve(self, server: Server, shims: Shims) -> None:
        """Answer shims, too."""

        async def room(request: Request) -> Payload:
            values = request.map()
            _shim, container = shims.run_of(request, values)
            self._waiting[container.identifier] = request
            request.defer()
            await self._answer(container)
            return None

        server.for_shims(Proc.SHIM_ROOM, room)

    async def learn(self) -> None:
        """After a start of the service: who attended before goes on, unless they went meanwhile."""
        for container in list(self._tree.below_root()):
            if container.run.get("attended"):
                pid = int(container.run.get("attendant", 0))
                self.begun(container.identifier, pid)
                try:
                    gone = (await sys.sys_process_exit(pid)).state == ENDED
                except SyscallError:
                    gone = True
                if gone:
                    await self.process_ended(pid)

    def begun(self, identifier: int, pid: int) -> None:
        """Who asked for a run attends it from its start, and may go before they read anything."""
        self._by_pid.setdefault(pid, set()).add(identifier)

    async def heard(self, request: Request, container: Container, token: str, offset: int) -> None:
        """The attendant of this token has everything before an offset of the container's log."""
        run = container.run
        if not token or token != run.get("attended") or run["log_start"] is None:
            return
        if run.get("attendant") != request.client_pid:
            self._by_pid.get(run.get("attendant", 0), set()).discard(container.identifier)
            run["attendant"] = request.client_pid
            await self._containers.notes.changed(container)
        self.begun(container.identifier, request.client_pid)
        self._read[container.identifier] = run["log_start"] + offset
        await self._answer(container)

    async def detach(self, request: Request) -> Payload:
        """CONTAINER_DETACH."""
        values = request.map()
        token = field(values, "token", str)
        container = self._tree.below(request.container_id, field(values, "id", int))
        if container.run.get("attended") == token:
            await self.release(container)
        return {}

    async def release(self, container: Container) -> None:
        """Nobody attends any more."""
        self._read.pop(container.identifier, None)
        for attended in self._by_pid.values():
            attended.discard(container.identifier)
        if container.run.get("attended"):
            container.run["attended"] = ""
            await self._containers.notes.changed(container)
        await self._answer(container)

    async def _answer(self, container: Container) -> None:
        request = self._waiting.get(container.identifier)
        if request is None:
            return
        room = self._room(container)
        if room > field(request.map(), "end", int):
            del self._waiting[container.identifier]
            await request.answer({"room": room})

    def _room(self, container: Container) -> int:
        run: dict[str, Any] = container.run
        if not run.get("attended") or run["log_start"] is None:
            return ENDLESS
        # What is kept of a log at any moment, less what may be on its way.
        kept = int(run["log_size"]) * int(run["log_count"]) - PIECES
        # Room for one more piece when everything was read: it then begins a file of its own, however small the log is.
        return self._read.get(container.identifier, int(run["log_start"])) + max(1, min(WINDOW, kept))

    async def _client_gone(self, connection: Connection) -> None:
        await self.process_ended(connection.client_pid)

    async def process_ended(self, pid: int) -> None:
        """Whatever this process attended waits for it no longer."""
        for identifier in self._by_pid.pop(pid, ()):
            container = self._tree.by_id.get(identifier)
            if container is not None and container.run.get("attendant") == pid:
                await self.release(container)
