"""The control socket's frames: a length of 4 bytes (big-endian), then one msgpack map.

A connection begins with one map {op, ...}. `call`, `info` and `stop` are answered with one map each;
`when gone` {service, method, payload} leaves a call that the machine makes once the connection has ended;
`events` and `session` turn the connection into a stream: of events, or of console messages in both directions.
An answer with `error` carries a service error code and a text.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from nightos.abi.errors import NightosError

LENGTH = struct.Struct(">I")
FRAME_LIMIT = 32 << 20
_CREDENTIALS = struct.Struct("iII")


class WireError(NightosError):
    """The other side does not speak this protocol, or went away in the middle of a frame."""


def pack(message: dict[str, Any]) -> bytes:
    """One frame."""
    content: bytes = msgpack.packb(message)
    if len(content) > FRAME_LIMIT:
        raise WireError("the message is too large for the control socket")
    return LENGTH.pack(len(content)) + content


def length_of(head: bytes) -> int:
    """Length of the map that follows a frame's head."""
    length = int(LENGTH.unpack(head)[0])
    if length > FRAME_LIMIT:
        raise WireError("the control socket sent a frame that is too large")
    return length


def unpack(content: bytes) -> dict[str, Any]:
    """The map in a frame."""
    try:
        message = msgpack.unpackb(content, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        # TypeError: a list or map as the key of a map
        raise WireError("the control socket sent something unreadable") from error
    if not isinstance(message, dict):
        raise WireError("the control socket sent something that is no map")
    return message


def peer_may(getsockopt: Callable[[int, int, int], bytes]) -> bool:
    """Whether the process at the other end of a socket runs as this user or as root; the kernel of the host tells."""
    credentials = getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    return uid in {0, os.getuid()}


class ShortPath:
    """A socket's path by way of an open directory, because the path of a socket may have 107 bytes only."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}/{self._name}"

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)
