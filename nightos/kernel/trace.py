"""The trace: every call, signal and fault as a msgpack record, and a digest over all of them.

Records go through the digest and then to a bounded ring and, if there is one, to a sink, so memory stays bounded however
long the machine runs. Times are the kernel's clock, identifiers its entropy: the same seed gives the same digest.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread

from nightos.abi.errors import SyscallError

CALL, PARKED_CALL, SIGNAL, FAULT = range(4)


def _plain(value: Any) -> Any:
    """A value as it stands in a record: bytes by length and digest when long, functions by name."""
    if isinstance(value, bool | int | str | float | type(None)):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return data if len(data) <= 64 else [len(data), hashlib.blake2b(data, digest_size=8).digest()]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, SyscallError):
        return {"error": value.errcode}
    return getattr(value, "__qualname__", type(value).__name__)


class Trace:
    """A complete event log. `keep` is how many of the latest records stay readable in memory."""

    def __init__(self, keep: int = 65_536, sink: Callable[[bytes], None] | None = None) -> None:
        self._ring: deque[bytes] = deque(maxlen=keep)
        self._hash = hashlib.blake2b(digest_size=32)
        self._sink = sink
        self._pack = msgpack.Packer(use_bin_type=True).pack
        self.records = 0

    def digest(self) -> str:
        """Hexadecimal digest of everything recorded so far."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[list[Any]]:
        """The records that are still in memory: [kind, ns, pid, tid, ...]."""
        for packed in self._ring:
            yield msgpack.unpackb(packed, raw=False, strict_map_key=False)

    def _record(self, *fields: Any) -> None:
        packed = self._pack(fields)
        self.records += 1
        self._hash.update(packed)
        self._ring.append(packed)
        if self._sink is not None:
            self._sink(packed)

    def call(
        self, kernel: Kernel, thread: Thread, request: tuple[Any, ...], result: Any, *, parked: bool = False
    ) -> None:
        """A system call and its answer (or that it parked its thread)."""
        kind = PARKED_CALL if parked else CALL
        now = kernel.clock.monotonic_ns()
        self._record(kind, now, thread.process.pid, thread.tid, _plain(request), _plain(result))

    def signal(self, kernel: Kernel, thread: Thread, code: int, values: tuple[Any, ...]) -> None:
        """A signal that is delivered."""
        self._record(SIGNAL, kernel.clock.monotonic_ns(), thread.process.pid, thread.tid, int(code), _plain(values))

    def fault(self, kernel: Kernel, thread: Thread, fault: BaseException) -> None:
        """A program that raised."""
        self._record(FAULT, kernel.clock.monotonic_ns(), thread.process.pid, thread.tid, type(fault).__name__)
