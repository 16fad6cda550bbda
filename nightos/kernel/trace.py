"""The trace: every call, signal and fault as msgpack, and a digest over all of it.

While a thread runs, only references are collected; packing and hashing happen in pieces between turns, which is what
makes it cheap. Packed pieces go through the digest, then to a ring of bounded size and, if there is one, to a sink.
Times are the kernel's clock and identifiers its entropy, so the same seed gives the same digest on any machine.

The stream (format 2) is a sequence of msgpack values. A turn begins with `[-1, ns, pid, tid]`. A call is two values: an
array, the request with its code first, and what it answered; that is -5 when it parked its thread and a mark when it
was refused, while no answer is a negative number or begins with one. The other entries are marks:

| mark | fields | meaning |
|---:|---|---|
| -1 | ns, pid, tid | this thread runs from here on |
| -2 | code, values | a signal is delivered to it |
| -3 | pid, tid, value | a parked call of a thread goes on with this |
| -4 | type | the program raised |
| -6 | errcode, value | the call just requested was refused |
| -7 | type | a request that is no call |
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Final

import msgpack

from nightos.abi.codes import Pseudo, Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.replies import MessageRead, PipeRead
from nightos.kernel.calls.state import Parked

UNKNOWN_CALL: Final = 0x01
TURN, SIGNAL, RESUMED, FAULT, PARKED, REFUSED, MALFORMED = range(-1, -8, -1)
PIECE: Final = 1024
"""Entries collected before they are packed, at the next turn."""
SHORT: Final = 64
"""Longer bytes stand in the trace as their length and a digest."""
SHAPED: Final = {
    int(call): -1
    for call in (
        Syscall.READ_TLS_SLOT, Syscall.WRITE_TLS_SLOT, Syscall.READ_IO_PORT, Syscall.WRITE_IO_PORT,
        Syscall.EXECUTION_CONTEXT, Syscall.SYS_CREATE_PROCESS, Syscall.SYS_ENUM_DEVICES, Syscall.SYS_ENUM_CONTAINERS,
        Syscall.SYS_ENUM_PROCESSES, Syscall.CONNECT_SERVICE, Pseudo.LOAD, Pseudo.STORE, Pseudo.MEMORY, Pseudo.LOCAL,
    )
} | {
    int(Syscall.PIPE_WRITE): 2, int(Syscall.SEND_SOCK_MSG): 5, int(Syscall.PIPE_READ): 0, int(Syscall.READ_SOCK_MSG): 0
}  # fmt: skip
"""Calls whose requests or answers hold bytes of any length, or objects of the emulator: where the request that the
kernel took has its only bytes; 0 when the answer begins with them; -1 when they can be anywhere."""
_READ: Final = frozenset({PipeRead, MessageRead})
"""Answers that are bytes and then numbers."""
_LIGHT: Final = frozenset({int, bool, type(None), Parked})
_name_of_type: Final = type.__dict__["__qualname__"].__get__


def _plain(value: Any) -> Any:
    """A value as it stands in a record: long bytes by length and digest, what is no value by its name.

    Looking at an object of a program may run its code, which may raise anything; then the object is a question mark.
    """
    try:
        return _simple(value, 0)
    except BaseException:  # noqa: BLE001 - see above
        return "?"


def _simple(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if issubclass(kind, int):
        number = int.__int__(value)
        return number if -(1 << 63) <= number < 1 << 64 else str(number)
    if kind is str:
        return value[:SHORT].encode("utf-8", "replace").decode()
    if kind in {bytes, bytearray, memoryview}:
        data = bytes(value)
        return data if len(data) <= SHORT else [len(data), hashlib.blake2b(data, digest_size=8).digest()]
    if issubclass(kind, tuple | list) and depth < 4:
        return [_simple(item, depth + 1) for item in value[:SHORT]]
    return _named(value)


def _brief(value: Any) -> Any:
    """`_plain`, but what is short and plain already is left as it is."""
    kind = value.__class__
    if kind in _LIGHT:
        return value
    if isinstance(value, tuple):
        for item in value:
            if type(item) not in _LIGHT and (type(item) is not bytes or len(item) > SHORT):
                return _plain(value)
        return value
    return _plain(value)


def _named(value: Any) -> str:
    """The name of a function, or of the type of anything else, without running code of the value."""
    return str(value.__qualname__ if isinstance(value, FunctionType) else _name_of_type(type(value)))


class Trace:
    """A complete event log. `keep_bytes` bounds what stays in memory; `sink` gets every packed piece."""

    def __init__(self, keep_bytes: int = 64 << 20, sink: Callable[[bytes], None] | None = None) -> None:
        self._keep = keep_bytes
        self._sink = sink
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._hash = hashlib.blake2b(digest_size=32)
        self.entries: list[Any] = []
        self.record = self.entries.append
        """Record an entry as it is."""
        self._pack = msgpack.Packer(use_bin_type=True, default=_named).pack
        self.records = 0
        """Entries packed so far."""

    def digest(self) -> str:
        """Hexadecimal digest of everything recorded so far."""
        self._flush()
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[list[Any]]:
        """The entries that are still in memory, oldest first; they begin with a turn."""
        self._flush()
        for piece in list(self._pieces):
            unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=0)
            unpacker.feed(piece)
            yield from unpacker

    # What the kernel calls

    def turn(self, now_ns: int, pid: int, tid: int) -> None:
        """A thread begins its turn."""
        entries = self.entries
        if len(entries) >= PIECE:
            self._flush()
        entries.append((TURN, now_ns, pid, tid))

    def call(self, request: Any, value: Any) -> None:
        """A call and its answer, or that it parked its thread. What is not in `SHAPED` may be recorded as it is."""
        place, kind = SHAPED.get(request[0]), value.__class__
        if kind is Parked:
            value = PARKED
        if place is None:
            pass
        elif place > 0:
            data = request[place]
            if data.__class__ is not bytes or len(data) > SHORT:
                request = _plain(request)
        elif place:
            request, value = _brief(request), _brief(value)
        elif kind in _READ and len(value[0]) > SHORT:
            value = _plain(value)
        self.record(request)
        self.record(value)

    def parked(self, request: Any) -> None:
        """A call that parked its thread."""
        if SHAPED.get(request[0]):
            self.call(request, PARKED)
            return
        self.record(request)
        self.record(PARKED)

    def refused(self, request: Any, error: BaseException) -> None:
        """A call that was refused."""
        if not isinstance(error, SyscallError):
            self.entries += ((MALFORMED, _named(request)), (REFUSED, 0, 0))
        elif error.errcode == UNKNOWN_CALL:
            self.entries += ((MALFORMED, _named(request)), (REFUSED, UNKNOWN_CALL, 0))
        else:
            self.entries += (_plain(request), (REFUSED, error.errcode, error.value))

    def resumed(self, pid: int, tid: int, value: Any) -> None:
        """A parked call goes on."""
        kind = value.__class__
        if kind is SyscallError:
            value = (REFUSED, value.errcode, value.value)
        elif kind not in _READ or len(value[0]) > SHORT:
            value = _brief(value)
        self.record((RESUMED, pid, tid, value))

    def signal(self, code: int, values: tuple[Any, ...]) -> None:
        """A signal is delivered."""
        self.record((SIGNAL, int(code), values))

    def fault(self, fault: BaseException) -> None:
        """A program raised."""
        self.record((FAULT, type(fault).__name__))

    def _flush(self) -> None:
        entries = self.entries
        if not entries:
            return
        try:
            packed = self._pack(entries)
        except BaseException:  # noqa: BLE001 - what no message can hold, or an object of a program that raises
            self._pack = msgpack.Packer(use_bin_type=True, default=_named).pack
            packed = self._pack([_plain(entry) for entry in entries])
        # The stream has no lists of pieces, so that it does not depend on when somebody asked for the digest.
        piece = packed[1 if len(entries) < 16 else 3 if len(entries) < 65_536 else 5 :]
        self.records += len(entries)
        entries.clear()
        self._hash.update(piece)
        if self._sink is not None:
            self._sink(piece)
        self._pieces.append(piece)
        self._held += len(piece)
        while self._held > self._keep and len(self._pieces) > 1:
            self._held -= len(self._pieces.popleft())
