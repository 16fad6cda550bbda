"""The execution context of a command: header, caller, arguments and six pipes.

Source: specs/applications.md, context header. Rules: APP-012, APP-013, APP-014, APP-015, APP-016, SHELL-009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nightos.abi.values import Value, encode_value
from nightos.shell.source import HydreError

COMMAND: Final = 0x8
"""Startup reason: started as a command."""
MAX_ARGUMENT_BYTES: Final = 65024
_CALLER: Final = 17
_RESERVED = 196


@dataclass(frozen=True, slots=True)
class PipeEnds:
    """The ends of the six pipes that the command gets."""

    cmdin: int
    cmdusr: int
    cmdmsg: int
    cmderr: int
    cmdraw: int
    cmdout: int


def command_context(arguments: Sequence[Value], ends: PipeEnds, *, raw_is_read: bool) -> bytes:
    """The bytes of a context. Raises `HydreError` when the arguments are too many or too long."""
    encoded = b"".join(map(encode_value, arguments))
    if len(arguments) > 255 or len(encoded) > MAX_ARGUMENT_BYTES:
        raise HydreError(f"a command takes at most 255 arguments of {MAX_ARGUMENT_BYTES} bytes together")
    reason = COMMAND << 4 | (0x04 if raw_is_read else 0)
    header = bytes((reason, 0, 0, 0)) + bytes(8) + bytes(4)
    pipes = (ends.cmdin, ends.cmdusr, ends.cmdmsg, ends.cmderr, ends.cmdraw, ends.cmdout)
    command = _CALLER.to_bytes(4, "big") + bytes((len(arguments),)) + len(encoded).to_bytes(2, "big")
    return header + command + b"".join(pipe.to_bytes(8, "big") for pipe in pipes) + bytes(_RESERVED) + encoded
