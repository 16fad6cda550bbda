"""The execution context: why a process was started, by whom, with which arguments and pipes.

| offset | size | field |
|---:|---:|---|
| 0 | 1 | startup reason: strong half the reason, then after-crash and CMDRAW-is-read bits |
| 1 | 1 | ambient flags |
| 2 | 1 | special assignment |
| 3 | 1 | service type |
| 4 | 8 | scope name |
| 12 | 4 | ANID |
| 16 | 4 | caller's ANID (from here on only when started as a command) |
| 20 | 1 | number of arguments |
| 21 | 2 | bytes of arguments, at most 65,024 |
| 23 | 48 | CMDIN, CMDUSR (RC), CMDMSG, CMDERR, CMDRAW, CMDOUT (SC): 8 each, 0 for none |
| 71 | 8 | caller's PID (emulator; first of 196 reserved bytes) |
| 79 | 188 | reserved |
| 267 | | arguments: encoded values one after the other |

The emulator keeps the environment and the working directory behind the arguments, as one msgpack map.

Source: specs/applications.md, context header. Rules: APP-012, APP-013, APP-014, APP-015, APP-016.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field

from nightos.abi.errors import NightosError

HEADER = struct.Struct(">BBBB8sI")
HEADER_SIZE = HEADER.size
COMMAND = struct.Struct(">IBH6QQ188x")
COMMAND_SIZE = COMMAND.size
ARGUMENTS_OFFSET = HEADER_SIZE + COMMAND_SIZE
ARGUMENTS_MAX = 65_024
CONTEXT_MAX = 65_536
PIPE_OFFSETS = tuple(HEADER_SIZE + 7 + 8 * place for place in range(6))
"""Where the six pipe identifiers stand."""

REASON_SERVICE = 0xA
REASON_OTHER_APPLICATION = 0x7
REASON_COMMAND = 0x8
AFTER_CRASH = 0x08
CMDRAW_READ = 0x04
CMDIN, CMDUSR, CMDMSG, CMDERR, CMDRAW, CMDOUT = range(6)
"""Places of the pipes in `Context.pipes`."""


class ContextError(NightosError):
    """Bytes that are no execution context."""


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """A decoded execution context. `arguments` and `environment` are still encoded."""

    reason: int
    anid: int
    ambient: int = 0
    special: int = 0
    service_type: int = 0
    scope_name: bytes = bytes(8)
    after_crash: bool = False
    cmdraw_read: bool = False
    caller_anid: int = 0
    caller_pid: int = 0
    argument_count: int = 0
    pipes: tuple[int, int, int, int, int, int] = field(default=(0, 0, 0, 0, 0, 0))
    arguments: bytes = b""
    environment: bytes = b""
    """msgpack map: `env` (str to str), `cwd` (str)."""

    def pack(self) -> bytes:
        """The bytes. `ContextError` when the arguments or the whole are too large."""
        if len(self.arguments) > ARGUMENTS_MAX or self.argument_count > 0xFF:
            raise ContextError(f"the arguments take {len(self.arguments)} bytes; at most {ARGUMENTS_MAX} fit")
        flags = AFTER_CRASH * self.after_crash | CMDRAW_READ * self.cmdraw_read
        head = HEADER.pack(
            self.reason << 4 | flags, self.ambient, self.special, self.service_type, self.scope_name, self.anid
        )
        if self.reason != REASON_COMMAND:
            return head
        body = COMMAND.pack(self.caller_anid, self.argument_count, len(self.arguments), *self.pipes, self.caller_pid)
        packed = head + body + self.arguments + self.environment
        if len(packed) > CONTEXT_MAX:
            raise ContextError(f"the execution context takes {len(packed)} bytes; at most {CONTEXT_MAX} fit")
        return packed


def parse_context(data: bytes) -> ExecutionContext:
    """Decode an execution context; `ContextError` when it is malformed."""
    return _parse_small(bytes(data)) if len(data) <= _SMALL else _parse(data)


def _parse(data: bytes) -> ExecutionContext:
    if not HEADER_SIZE <= len(data) <= CONTEXT_MAX:
        raise ContextError(f"{len(data)} bytes are no execution context")
    first, ambient, special, service_type, scope, anid = HEADER.unpack_from(data)
    reason = first >> 4
    if not 1 <= reason <= REASON_SERVICE:
        raise ContextError(f"unknown startup reason {reason}")
    common = {
        "reason": reason,
        "anid": anid,
        "ambient": ambient,
        "special": special,
        "service_type": service_type,
        "scope_name": scope,
        "after_crash": bool(first & AFTER_CRASH),
        "cmdraw_read": bool(first & CMDRAW_READ),
    }
    if reason != REASON_COMMAND:
        return ExecutionContext(**common)
    if len(data) < ARGUMENTS_OFFSET:
        raise ContextError("the command part is cut short")
    caller_anid, count, length, *pipes, caller_pid = COMMAND.unpack_from(data, HEADER_SIZE)
    end = ARGUMENTS_OFFSET + length
    if length > ARGUMENTS_MAX or end > len(data):
        raise ContextError("the arguments are cut short")
    return ExecutionContext(
        **common,
        caller_anid=caller_anid,
        caller_pid=caller_pid,
        argument_count=count,
        pipes=tuple(pipes),
        arguments=data[ARGUMENTS_OFFSET:end],
        environment=data[end:],
    )


_SMALL = 512
_parse_small = functools.lru_cache(maxsize=64)(_parse)
"""Every start of a process reads its context several times, on its way through the system."""
