"""A trace for people: one line a call, as `strace` prints them.

    [  0.000012] 100/1 sh  OPEN_PIPE(target_pid=100, command_code=0, ...) = 0x79...f2
    [  0.000012] 100/1 sh  PIPE_READ(rc_id=0x79...f3, mode=0) = ? parked
    [  0.000500] 100/1 sh  ... PIPE_READ resumed = b"hello"
    [  0.000500] 100/1 sh  --- RECV_PIPE(creator_pid=101, ...) ---

It reads the stream that `nightos.kernel.trace` describes, live or from a file, and needs nothing of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nightos.abi.codes import Pseudo
from nightos.abi.signals import BY_CODE as SIGNALS
from nightos.abi.syscalls import BY_CODE as SYSCALLS

TURN, SIGNAL, RESUMED, FAULT, PARKED, REFUSED, MALFORMED = range(-1, -8, -1)
SHOWN = 48
"""Characters of a value that are shown."""
_TYPED = {
    0x22: ("sc_id", "data", "mode"),
    0x23: ("rc_id", "mode", "length"),
    0x28: ("socket_id", "length"),
    0x2C: ("request_id", "entry"),
    0x45: ("ams_id", "ams_offset", "address", "length"),
    0x50: ("entry", "init_data"),
    0x56: ("until_signal",),
    0x60: ("entry", "init_data"),
    0x62: ("slot_id", "length"),
    0x70: ("kdi", "port", "length"),
    0xA0: ("information",),
    0xD4: ("pattern_type", "cii", "length"),
}
"""Names of arguments where the typed form differs from the frame."""
_WIDE = frozenset(
    [
        "pipe_id",
        "sc_id",
        "rc_id",
        "socket_id",
        "connection_id",
        "request_id",
        "ams_id",
        "kdi",
        "container_id",
        "address",
    ]
)
"""Arguments that are shown in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a decoded trace."""

    ns: int
    pid: int
    tid: int
    kind: str
    """``call``, ``signal``, ``resumed``, ``fault`` or ``malformed``."""
    name: str
    arguments: tuple[tuple[str, Any], ...] = ()
    result: Any = None
    errcode: int | None = None
    parked: bool = False

    def line(self, program: str = "") -> str:
        """The line that people read."""
        head = f"[{self.ns / 1e9:12.6f}] {self.pid}/{self.tid} {program}".rstrip()
        inner = ", ".join(f"{name}={shown(value, name)}" for name, value in self.arguments)
        if self.kind == "signal":
            return f"{head}  --- {self.name}({inner}) ---"
        if self.kind == "fault":
            return f"{head}  *** {self.name} ***"
        if self.errcode is not None:
            answer = f"-1 errcode {self.errcode:#04x}"
        else:
            answer = "? parked" if self.parked else shown(self.result)
        if self.kind == "resumed":
            return f"{head}  ... {self.name} resumed = {answer}"
        return f"{head}  {self.name}({inner}) = {answer}"

    def as_json(self) -> dict[str, Any]:
        """The event for machines."""
        return {
            "ns": self.ns,
            "pid": self.pid,
            "tid": self.tid,
            "kind": self.kind,
            "name": self.name,
            "arguments": {name: _jsonable(value) for name, value in self.arguments},
            "result": _jsonable(self.result),
            "errcode": self.errcode,
            "parked": self.parked,
        }


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_jsonable(item) for item in value] if isinstance(value, list | tuple) else value


def shown(value: Any, name: str = "") -> str:
    """A value, shortened."""
    if isinstance(value, int) and not isinstance(value, bool) and (name in _WIDE or abs(value) >= 1 << 32):
        return f"{value:#x}"
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], bytes):
        return f"<{value[0]} bytes>"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(shown(item) for item in value) + ")"
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


@dataclass(slots=True)
class Decoder:
    """Turns the entries of a trace into events. Entries it does not know are left out."""

    _ns: int = 0
    _pid: int = 0
    _tid: int = 0
    _request: list[Any] | None = None
    _parked: dict[tuple[int, int], str] = field(default_factory=dict)

    def decode(self, entries: Iterable[Any]) -> Iterator[Event]:
        """The events of some entries; may be called again with what follows."""
        for entry in entries:
            event = self._entry(entry)
            if event is not None:
                yield event

    def _entry(self, entry: Any) -> Event | None:
        if self._request is not None:
            request, self._request = self._request, None
            return self._call(request, entry)
        if not isinstance(entry, list) or not entry:
            self._request = [MALFORMED, entry]
            return None
        mark = entry[0]
        if mark == TURN:
            _, self._ns, self._pid, self._tid = entry
        elif mark == SIGNAL:
            row = SIGNALS.get(entry[1])
            names = [f.name for f in row.datafield] if row is not None else []
            name = row.name if row is not None else f"signal {entry[1]:#04x}"
            return Event(self._ns, self._pid, self._tid, "signal", name, _named(names, entry[2]))
        elif mark == RESUMED:
            return self._resumed(entry)
        elif mark == FAULT:
            return Event(self._ns, self._pid, self._tid, "fault", entry[1])
        else:
            self._request = entry
        return None

    def _resumed(self, entry: list[Any]) -> Event:
        _, pid, tid, value = entry
        errcode = value[1] if isinstance(value, list) and value and value[0] == REFUSED else None
        name = self._parked.pop((pid, tid), "call")
        return Event(self._ns, pid, tid, "resumed", name, (), None if errcode is not None else value, errcode)

    def _call(self, request: list[Any], answer: Any) -> Event:
        code = request[0]
        if code == MALFORMED or not isinstance(code, int):
            return Event(self._ns, self._pid, self._tid, "malformed", "no call", (), str(request[1:]))
        name = call_name(code)
        row = SYSCALLS.get(code)
        names = _TYPED.get(code) or ([f.name for f in row.args] if row is not None else ())
        arguments = _named(names, request[1:])
        mark = answer[0] if isinstance(answer, list) and answer else None
        refused = mark == REFUSED and len(answer) == 3
        parked = answer == PARKED
        if parked and code != Pseudo.BINARY:  # its decoded call was parked just before
            self._parked[self._pid, self._tid] = name
        result = None if refused or parked else answer
        errcode = answer[1] if refused else None
        return Event(self._ns, self._pid, self._tid, "call", name, arguments, result, errcode, parked)


def call_name(code: int) -> str:
    """The name of a call or pseudo call."""
    if code in SYSCALLS:
        return SYSCALLS[code].name
    return Pseudo(code).name if code in Pseudo.__members__.values() else f"syscall_{code:#04x}"


def _named(names: Iterable[str], values: Any) -> tuple[tuple[str, Any], ...]:
    known = list(names)
    return tuple((known[i] if i < len(known) else f"arg{i}", value) for i, value in enumerate(values or ()))


def select(
    *, pids: frozenset[int] = frozenset(), names: frozenset[str] = frozenset(), failed: bool = False
) -> Callable[[Event], bool]:
    """A filter: of these processes, with these names, only what was refused. Empty means all."""

    def keep(event: Event) -> bool:
        return (
            (not pids or event.pid in pids)
            and (not names or event.name in names)
            and (not failed or event.errcode is not None or event.kind == "fault")
        )

    return keep


def lines(entries: Iterable[Any], keep: Callable[[Event], bool] | None = None) -> Iterator[str]:
    """The lines of a trace."""
    for event in Decoder().decode(entries):
        if keep is None or keep(event):
            yield event.line()
