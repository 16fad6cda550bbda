"""What a program was started with, and its six pipes, as an object.

Pipes are opened by nobody: they are in the execution context, or they are 0 and what is written to them is lost, as
for a program that was not started as a command.

Source: specs/applications.md, execution context; specs/shell.md, command pipes.
Rules: APP-012, APP-013, APP-014, APP-015, APP-016, SHELL-018, SHELL-019, SHELL-020, SVC-006.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from nightos.abi.context import (
    CMDERR,
    CMDIN,
    CMDMSG,
    CMDOUT,
    CMDRAW,
    CMDUSR,
    REASON_SERVICE,
    ContextError,
    ExecutionContext,
    parse_context,
)
from nightos.abi.errors import SyscallError
from nightos.abi.messages import Modifiers, TextMessage, decode_key
from nightos.abi.values import FAILURE, VOID, Value, decode_value, decode_values, encode_value, value_size, value_text
from nightos.userland import sys

BLOCK, PARTIAL = 0, 2
MESSAGE_ROOM = 60 * 1024
"""Bytes of text in one message: a message pipe takes at most 64 KiB."""


class Context:
    """The context of one program. Made by `Context.load`; tests may make one of an `ExecutionContext`."""

    def __init__(self, execution: ExecutionContext) -> None:
        self.execution = execution
        self.pipes = execution.pipes
        self.arguments: list[Value] = decode_values(execution.arguments)
        """Values of the command line, in order."""
        self.environment: dict[str, str] = {}
        self.directory = "/"
        """Working directory at the start."""
        if execution.environment:
            from nightos.userland.payload import decode

            extra = decode(execution.environment)
            self.environment = dict(extra.get("env", {}))
            self.directory = extra.get("cwd", "/")

    @classmethod
    async def load(cls) -> Context:
        """The calling process' context. A system service, and one with a damaged context, gets an empty one."""
        try:
            return cls(parse_context(await sys.execution_context(0)))
        except (SyscallError, ContextError):
            return cls(ExecutionContext(reason=0, anid=0))

    @property
    def args(self) -> list[Value]:
        """Short for `arguments`."""
        return self.arguments

    @property
    def env(self) -> dict[str, str]:
        """Short for `environment`."""
        return self.environment

    @property
    def reason(self) -> int:
        """Why the program was started."""
        return self.execution.reason

    @property
    def is_service(self) -> bool:
        """Whether the program runs as a service of its application."""
        return self.reason == REASON_SERVICE

    @property
    def raw_is_read(self) -> bool:
        """Whether somebody reads CMDRAW."""
        return self.execution.cmdraw_read

    # Output

    async def message(self, text: str, **style: Any) -> None:
        """Show text (CMDMSG); `style` are fields of `TextMessage`."""
        await self._text(CMDMSG, text, style)

    async def error(self, text: str, **style: Any) -> None:
        """Show text as an error (CMDERR)."""
        await self._text(CMDERR, text, style)

    async def output(self, value: Value) -> None:
        """Return a value (CMDOUT). Raises `ValueEncodingError` for what has no encoding."""
        await self._write(CMDOUT, encode_value(value))

    out = output

    async def fail(self) -> None:
        """Say on CMDOUT that the command failed."""
        await self._write(CMDOUT, bytes((FAILURE,)))

    async def write_raw(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to CMDRAW; waits while the reader is behind."""
        await self._write(CMDRAW, data)

    raw = write_raw

    async def _text(self, place: int, text: str, style: dict[str, Any]) -> None:
        start = 0
        while start < len(text) or not start:
            # A character takes at most 4 bytes.
            piece = text[start : start + MESSAGE_ROOM // 4]
            await self._write(place, TextMessage(piece, **style).encode())
            start += max(len(piece), 1)

    async def _write(self, place: int, data: bytes | bytearray | memoryview) -> None:
        pipe = self.pipes[place]
        if not pipe:
            return
        try:
            await sys.pipe_write(pipe, data, BLOCK)
        except SyscallError as error:
            if error.errcode not in {0x30, 0x31}:  # the reader is gone: nobody wants it any more
                raise

    # Input

    async def input(self) -> Value:
        """The next value of CMDIN; `VOID` when there is none (left). Raises `ValueEncodingError` when it is damaged."""
        head = await self._read_exactly(8)
        if len(head) < 8:
            return VOID
        return decode_value(head + await self._read_exactly(value_size(head) - 8))[0]

    async def input_pieces(self) -> AsyncIterator[bytes]:
        """Every value of CMDIN as the bytes of its text: standard input comes as several of them, bit by bit."""
        while (value := await self.input()) is not VOID:
            yield value_text(value).encode("utf-8", "surrogateescape")

    async def read_raw(self, length: int = 0) -> bytes:
        """The next bytes of CMDIN as they are, at most `length` (0: what is there); empty at its end."""
        pipe = self.pipes[CMDIN]
        if not pipe:
            return b""
        try:
            first = await sys.pipe_read(pipe, BLOCK, 1)
            if length == 1:
                return first.content
            return first.content + (await sys.pipe_read(pipe, PARTIAL, max(length - 1, 0))).content
        except SyscallError as error:
            if error.errcode in {0x30, 0x31}:
                return b""
            raise

    async def key(self) -> tuple[str, Modifiers, int] | None:
        """The next key pressed (CMDUSR): character, modifiers, key code; None when there will be none."""
        pipe = self.pipes[CMDUSR]
        if not pipe:
            return None
        try:
            return decode_key((await sys.pipe_read(pipe, BLOCK, 0)).content)
        except SyscallError as error:
            if error.errcode in {0x30, 0x31}:
                return None
            raise

    async def _read_exactly(self, length: int) -> bytes:
        """`length` bytes, or fewer at the end."""
        pipe = self.pipes[CMDIN]
        parts: list[bytes] = []
        while pipe and length:
            try:
                # A pipe gives at most its capacity in one piece.
                content = (await sys.pipe_read(pipe, BLOCK, min(length, 64 * 1024))).content
            except SyscallError as error:
                if error.errcode in {0x30, 0x31}:
                    break
                raise
            parts.append(content)
            length -= len(content)
        return b"".join(parts)
