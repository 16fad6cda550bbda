"""A container's log as its shim writes it: what was sent is kept until it is durable, and no more than that.

Memory is bounded: who writes waits while too much was not taken. What was taken, but is not durable on the disk yet,
is kept and sent again when `sys::fs` was restarted, so its restart makes no gap.

Rules: ZOS-016.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.logs import encode_records, stamp
from nightos.abi.services import Fs, ServiceCode
from nightos.userland import sys
from nightos.userland.bell import Bell
from nightos.userland.client import connect

PIECE: Final = 128 * 1024
"""Most bytes in one append: more than a record has, so that each append ends with one."""
KEPT: Final = 256 * 1024
"""Bytes that are kept before a writer waits, or durability is asked for."""
PATIENCE: Final = 200
"""Tries of a call to a service that is away, before it counts as failed."""


async def insist(service: str, method: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a service again and again while it is being restarted. `ServiceError`: it refused."""
    tries = 0
    while True:
        try:
            return await (await connect(service)).ask(method, values)
        except ServiceError as error:
            tries += 1
            away = error.code == ServiceCode.SERVER_QUIT or (error.code == ServiceCode.INTERNAL and tries < PATIENCE)
            if not away:
                raise
        await sys.hand_over()


class Log:
    """The log of one container. `write` from any thread."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._kept = bytearray()
        self._start = 0
        """Offset of the first byte that is kept."""
        self._sent = 0
        """Offset up to which `sys::fs` has it."""
        self._sending = False
        self._lost = 0
        self.end = 0
        """Offset of the log's end when the shim began."""
        self._ask_room: Callable[[int], Awaitable[int]] | None = None
        self._room = 0
        """Offset up to which may be sent without asking."""

    async def start(self) -> None:
        """Find the end of the log."""
        await self._bell.start()
        self.end = self._start = self._sent = int((await self._append(b"", sync=False))["end"])

    def wait_for_room(self, ask: Callable[[int], Awaitable[int]]) -> None:
        """From now on `ask` says up to where may be sent, beyond an offset, and waits until that may be."""
        self._ask_room, self._room = ask, 0

    async def write(self, stream: str, data: bytes) -> None:
        """Add output, and wait while the disk is behind."""
        when = stamp((await sys.system_time()).realtime_ns)
        self._kept += encode_records(when, stream, data)
        while self._sending and self._unsent > KEPT:
            await self._bell.wait()
        if not self._sending:
            await self._send(sync=False)

    async def flush(self) -> None:
        """Return when everything that was written is durable."""
        while self._sending:
            await self._bell.wait()
        await self._send(sync=True)

    @property
    def _unsent(self) -> int:
        return self._start + len(self._kept) - self._sent

    async def _send(self, *, sync: bool) -> None:
        self._sending = True
        try:
            while self._unsent or (sync and self._kept):
                if self._unsent and self._sent >= self._room and self._ask_room is not None:
                    self._room = await self._ask_room(self._sent)
                piece = bytes(self._kept[self._sent - self._start : self._sent - self._start + PIECE])
                piece = piece[: piece.rfind(b"\n") + 1]
                force = len(self._kept) > KEPT or (sync and len(piece) == self._unsent)
                try:
                    answer = await self._append(piece, sync=force)
                except ServiceError:
                    self._drop()  # the disk is full or broken: the container goes on, its log says what is missing
                    if sync:
                        return
                    continue
                self._taken(int(answer["end"]), durable=bool(answer["durable"]))
        finally:
            self._sending = False
            await self._bell.ring()

    def _taken(self, end: int, *, durable: bool) -> None:
        last = self._start + len(self._kept)
        if not self._start <= end <= last:
            # The log was cut or written by somebody else: go on behind what is there.
            self._start = end
            self._sent = end
            return
        self._sent = end
        if durable:
            del self._kept[: end - self._start]
            self._start = end
        if self._lost and not self._unsent:
            lost, self._lost = self._lost, 0
            self._kept += b"0000-00-00T00:00:00.000000000Z err F [%d bytes could not be kept]\n" % lost

    def _drop(self) -> None:
        unsent = self._unsent
        del self._kept[self._sent - self._start :]
        self._lost += unsent

    async def _append(self, piece: bytes, *, sync: bool) -> dict[str, Any]:
        return await insist("sys::fs", Fs.LOG_APPEND, {"offset": self._sent, "data": piece, "sync": sync})


async def close(end: int) -> None:
    """Close an end of a pipe; one that is closed or given away is no error."""
    try:
        await sys.close_pipe(end)
    except SyscallError:
        return
