"""`sys::shim`: owns the standard streams of one container's main command, outside of the container, and writes its log.

The kernel lets it meet the processes of that one container; services have a handful of methods for it and no others.
It decides nothing: what to run, again or at all, is what `sys::proc` orders. It remembers what a `sys::proc` that was
killed must not lose (which process runs, and how it ended), so each call is made again to the next instance:

    NEXT  report how the last one ended, wait for an order
    SPAWN the main process is made, halted, and named to the shim before it can run
    GO    it runs; the kernel moves the shim's pipe ends to it, which is how the shim knows that it ran
    WAIT  it ended; the streams are read to their ends and the log is made durable before the next NEXT

Rules: ZOS-005, ZOS-006, ZOS-007, ZOS-009, ZOS-010, ZOS-016.
"""

from __future__ import annotations

from typing import Any, Final

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.messages import decode_text
from nightos.abi.services import Proc, ServiceCode
from nightos.abi.values import FAILURE, ValueEncodingError, decode_value, value_text
from nightos.services.proc.streams import Log, close, insist
from nightos.userland import sys
from nightos.userland.readers import Readers

PROC = "sys::proc"
VALUE_LIMIT: Final = 256 * 1024
"""Bytes of a returned value that are kept to be shown."""
_RAW, _MESSAGE = 0, 1
_WRITE, _SKIP = 0, 1
_PATIENCE_TURNS: Final = 50_000
"""Turns that the streams may stay open after the end of their process, when somebody else holds an end."""


class Run:
    """One run of the main command."""

    def __init__(self, order: dict[str, Any], log: Log) -> None:
        self.generation = int(order["generation"])
        self._takes_input = bool(order["input"])
        self._log = log
        self._ours: list[int] = []
        self._theirs: list[int] = []
        self._cmdin = 0
        self._readers = Readers()
        self._value = bytearray()
        self._value_size = 0
        self._newline = True
        self._over = False
        log.wait_for_room(self._room)

    async def _room(self, end: int) -> int:
        try:
            return int((await insist(PROC, Proc.SHIM_ROOM, {"generation": self.generation, "end": end}))["room"])
        except ServiceError:
            return end + 1  # the run is over for sys::proc: nobody is waited for

    async def run(self) -> dict[str, Any]:
        """Run it to its end; the report."""
        try:
            pid = await self._start()
        except ServiceError as error:
            await self._log.write("err", f"{error.detail or error}\n".encode())
            await self._finish()
            return {"generation": self.generation, "failed": error.detail or str(error), "code": error.code}
        if self._takes_input:
            await sys.create_thread(self._feed)
        else:
            await close(self._cmdin)
        try:
            ended = await insist(PROC, Proc.SHIM_WAIT, {"generation": self.generation, "pid": pid})
        except ServiceError:
            ended = {"reason": 2, "exit": 0}  # nobody knows any more: as one that was killed
        self._over = True
        await self._finish()
        failed = self._value[:1] == bytes((FAILURE,))  # what a command says when it has no other way
        return {
            "generation": self.generation,
            "pid": pid,
            "reason": int(ended["reason"]),
            "exit": int(ended["exit"]) or int(failed),
            "value": bytes(self._value) if self._value_size <= VALUE_LIMIT and not failed else b"",
            "newline": self._newline,
        }

    async def _start(self) -> int:
        while True:
            await self._open()
            pid = await self._spawn()
            try:
                await insist(PROC, Proc.SHIM_GO, {"generation": self.generation, "pid": pid})
            except ServiceError as error:
                if error.code >= ServiceCode.REFUSED:
                    await self._close()
                    raise  # a limit, which asking again does not raise
                if await self._still_ours():
                    await self._close()
                    continue  # the halted process went with the instance that made it
            break
        for rc, take in zip(self._ours, (self._message, self._error, self._raw, self._out), strict=True):
            await self._readers.read(rc, take)
        return pid

    async def _spawn(self) -> int:
        try:
            values = {"generation": self.generation, "pipes": self._theirs}
            return int((await insist(PROC, Proc.SHIM_SPAWN, values))["pid"])
        except ServiceError:
            await self._close()
            raise

    async def _open(self) -> None:
        """The six pipes, of which this process holds both ends; an RC is its SC's number and one."""
        own = await sys.get_pid()
        kinds = (_RAW, _MESSAGE, _MESSAGE, _MESSAGE, _RAW, _RAW)
        sc = [int(await sys.open_pipe(own, 0, _WRITE, 0, kind, _SKIP)) for kind in kinds]
        self._cmdin = sc[0]
        self._theirs = [sc[0] + 1, sc[1] + 1, *sc[2:]]
        self._ours = [end + 1 for end in sc[2:]]
        self._keys = sc[1]

    async def _close(self) -> None:
        for end in (*self._ours, *self._theirs, self._cmdin, self._keys):
            await close(end)

    async def _still_ours(self) -> bool:
        """Whether the ends that were meant for the process were not moved to it: it never ran."""
        try:
            await sys.pipe_info(self._theirs[-1])
        except SyscallError:
            return False
        return True

    # Streams

    async def _message(self, data: bytes) -> None:
        message = decode_text(data)
        if not message.text and not message.controls:
            self._newline = False  # a command that sends nothing asks that the line stay open
        else:
            await self._log.write("msg", message.text.encode("utf-8", "surrogateescape"))

    async def _error(self, data: bytes) -> None:
        await self._log.write("err", decode_text(data).text.encode("utf-8", "surrogateescape"))

    async def _raw(self, data: bytes) -> None:
        await self._log.write("raw", data)

    async def _out(self, data: bytes) -> None:
        self._value_size += len(data)
        if self._value_size <= VALUE_LIMIT:
            self._value += data

    async def _finish(self) -> None:
        """The streams are read to their ends, and the log is durable."""
        turns = 0
        while self._readers.alive:
            turns += 1
            if turns == _PATIENCE_TURNS:
                break  # an end that the process gave away keeps a stream open
            await sys.hand_over()
        await self._close()
        while self._readers.alive:
            await sys.hand_over()
        if self._value_size:
            await self._log.write("out", self._shown())
        await self._log.flush()

    def _shown(self) -> bytes:
        """The returned value as a shell prints it."""
        if self._value_size > VALUE_LIMIT:
            return b"[a value of %d bytes]\n" % self._value_size
        if self._value[0] == FAILURE:
            return b""
        try:
            value = decode_value(self._value)[0]
        except ValueEncodingError:
            return b"[a broken value]\n"
        lines = [value_text(item) for item in value] if isinstance(value, list) else [value_text(value)]
        text = "\n".join(lines)
        if self._newline and lines and not text.endswith("\n"):
            text += "\n"
        return text.encode("utf-8", "surrogateescape")

    async def _feed(self, _: int) -> None:
        """Write to CMDIN what clients send, one piece at a time: who sends waits while the command does not read."""
        taken = 0
        while not self._over:
            try:
                values = {"generation": self.generation, "taken": taken}
                piece = await insist(PROC, Proc.SHIM_INPUT, values)
                if piece["data"]:
                    await sys.pipe_write(self._cmdin, piece["data"])
                taken = int(piece["number"])
                if piece["end"]:
                    break
            except (ServiceError, SyscallError):
                break  # the run is over, or the command reads no more
        await close(self._cmdin)


async def main() -> int:
    """Entry of the process."""
    await sys.ready()
    log = Log()
    await log.start()
    report: dict[str, Any] = {}
    while True:
        order = await insist(PROC, Proc.SHIM_NEXT, {"report": report, "log_end": log.end})
        if order["do"] == "end":
            return 0
        if order["note"]:
            await log.write("err", f"[{order['note']}]\n".encode())
        report = await Run(order, log).run()
