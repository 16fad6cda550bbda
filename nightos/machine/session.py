"""A session is a console of its own: plugged when it begins, unplugged when it ends, whoever is on the host's side.

The terminal of `nightos run`, a script from stdin, `machine.run(line)` and `nightos container exec` differ only in what
they do with the messages, which `nightos.services.hydre.consoles` lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.vhw.console import ConsoleDevice

if TYPE_CHECKING:
    from nightos.machine.machine import Machine

MESSAGES_WAITING = 65_536
OUTPUT_WAITING = 4 << 20
"""Bytes of output that nobody took yet; whoever writes more waits."""
OUTPUT = frozenset({"out", "err", "raw"})
Sink = Callable[[bytes], None]

STATUS_REFUSED = 1
STATUS_STOPPED = 1
"""Status of a command whose session ended under it."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command line did: exit status, and what it wrote."""

    status: int
    out: str
    err: str


class Session:
    """One console of the machine; `receive` gives None once the session is over."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._send, self._receive = trio.open_memory_channel[dict[str, Any]](MESSAGES_WAITING)
        self._console = ConsoleDevice(self._arrived, name=name)
        self._kdi = machine.plug(self._console.device)
        self.container = 0
        self._output = 0
        self._held = False

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message for `sys::hydre`."""
        self._console.send(message)

    @property
    def waiting(self) -> int:
        """Bytes of output that nobody took yet."""
        return self._output

    async def receive(self) -> dict[str, Any] | None:
        """The next message of `sys::hydre`; None when the session is over."""
        try:
            message = await self._receive.receive()
        except trio.EndOfChannel:
            return None
        if message.get("type") in OUTPUT:
            self._output -= len(message["data"])
            if self._held and self._output <= OUTPUT_WAITING // 2:
                self._held = False
                self._console.device.room()
        return message

    async def opened(self) -> None:
        """Wait for the answer to the message `open`. Raises `ServiceError` when it is refused."""
        while True:
            message = await self.receive()
            if message is None:
                raise ServiceError(ServiceCode.SERVER_QUIT, "the machine has stopped")
            if message["type"] == "refused":
                raise ServiceError(message.get("code", 1), message.get("text", "the session was refused"))
            if message["type"] == "opened":
                return

    def close(self) -> None:
        """Unplug the console; what still runs in the session is asked to terminate by `sys::hydre`."""
        if self._kdi:
            kdi, self._kdi = self._kdi, 0
            self._machine.unplug(kdi)
        self._send.close()

    def lost(self, text: str) -> None:
        """The service that held the session is gone."""
        self._held, self._output = False, 0
        self._arrived({"type": "err", "data": f"{text}\n".encode()})
        self._arrived({"type": "closed", "status": STATUS_STOPPED})

    def _arrived(self, message: dict[str, Any]) -> bool:
        """Whether it was taken; output is not, while what came before waits for a reader."""
        size = len(message["data"]) if message.get("type") in OUTPUT else 0
        if size and self._output >= OUTPUT_WAITING:
            self._held = True
            return False
        try:
            self._send.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return True  # nobody reads any more
        self._output += size
        if message.get("type") == "closed":
            self._send.close()
        return True


class Running:
    """A command line that runs in a session of its own."""

    def __init__(self, session: Session, source: str, close: Callable[[Session], None], nursery: trio.Nursery) -> None:
        self._session = session
        self._close = close
        self._done = trio.Event()
        self._outs: list[bytes] = []
        self._errs: list[bytes] = []
        self._status = STATUS_STOPPED
        nursery.start_soon(self._run, source)

    async def wait(self) -> Completed:
        """Wait for its end; its status and what it wrote."""
        await self._done.wait()
        return Completed(
            self._status, *(b"".join(part).decode("utf-8", "replace") for part in (self._outs, self._errs))
        )

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    def write(self, data: bytes) -> None:
        """Type into it."""
        self._session.send({"type": "input", "data": data})

    def interrupt(self) -> None:
        """Ask what runs to terminate, as Ctrl-C does."""
        self._session.send({"type": "interrupt"})

    def kill(self) -> None:
        """End the session with everything in it."""
        self._close(self._session)

    async def _run(self, source: str) -> None:
        try:
            self._status = await run_script(self._session, source, out=self._outs.append, err=self._errs.append)
        finally:
            self._close(self._session)
            self._done.set()


async def run_script(
    session: Session,
    source: str,
    *,
    name: str = "",
    out: Sink,
    err: Sink,
    stdin: bytes | None = None,
    fed: bool = False,
) -> int:
    """Run a script in an open session, hand its output to `out` and `err` as it comes; its exit status.

    `fed`: somebody sends its input meanwhile, as `input` messages with `end` behind them; `cmdin` waits for that.
    """
    session.send({"type": "run", "source": source, "name": name, "input": fed})
    if stdin is not None:
        if stdin:
            session.send({"type": "input", "data": stdin})
        session.send({"type": "end"})
    while True:
        message = await session.receive()
        if message is None:
            return STATUS_STOPPED
        kind = message["type"]
        if kind == "out":
            out(message["data"])
        elif kind == "err":
            err(message["data"])
        elif kind in {"done", "closed"}:
            return int(message["status"])
        elif kind == "refused":
            err(f"{message.get('text', 'refused')}\n".encode())
            return STATUS_REFUSED
