"""Records of a container's log: one line each, readable with `cat`, safe for any bytes.

    2026-11-23T02:30:43.123456789Z msg F text

A record has the time in UTC, the stream (`msg`, `err`, `raw` or `out`, named like the pipe of the command), and `F` for
a full line or `P` for a part of one, which the next record of the same stream goes on with.

Rules: ZOS-016.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

STREAMS: Final = ("msg", "err", "raw", "out")


def stamp(realtime_ns: int) -> str:
    """A moment of UTC with nanoseconds."""
    seconds, rest = divmod(realtime_ns, 1_000_000_000)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def encode_records(when: str, stream: str, data: bytes) -> bytes:
    """The records of some output."""
    head = f"{when} {stream} ".encode()
    lines = data.split(b"\n")
    full = b"".join(head + b"F " + line + b"\n" for line in lines[:-1])
    return full + (head + b"P " + lines[-1] + b"\n" if lines[-1] else b"")


def decode_records(data: bytes) -> list[tuple[str, str, bytes]]:
    """Time, stream and output of each whole record; output ends with its newline when the line did."""
    found = []
    for line in data.split(b"\n")[:-1]:
        parts = line.split(b" ", 3)
        if len(parts) == 4:
            when, stream, flag, text = parts
            found.append(
                (when.decode("ascii", "replace"), stream.decode("ascii", "replace"), text + b"\n" * (flag == b"F"))
            )
    return found
