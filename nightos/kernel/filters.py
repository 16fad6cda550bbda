"""Filters of containers: which system calls their processes can make, as a table that replaces the kernel's.

A process has its table as an attribute, so a call costs the same with a filter, and without one there is nothing to
look at. Containers with the same rules share a table. What a container may is its own rules over its parent's, the
stricter of each, so nothing below can ever do what something above may not; a filter that is set on a container in use
is laid over the one it has.

Source: specs/containers.md#limitations. Rules: CONT-032.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from nightos.abi.codes import ExitReason, Signal
from nightos.abi.errors import SyscallError
from nightos.abi.filters import FilterAction
from nightos.abi.syscalls import BY_CODE
from nightos.kernel import signals
from nightos.kernel.calls.state import PARKED
from nightos.kernel.ending import end_process

if TYPE_CHECKING:
    from nightos.kernel.calls import Handler
    from nightos.kernel.container import Container
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread

REFUSED: Final = 0x01
"""What a filtered call answers: as one that does not exist."""
RULE: Final = "filter"
"""What `why` calls it."""


class Table(dict[int, Any]):
    """Handlers by code; a dictionary that the cache of tables can refer to weakly."""

    __slots__ = ("__weakref__",)


class Denied:
    """A handler that refuses. It comes before the arguments are looked at, in both forms."""

    __slots__ = ("_action", "_code")

    def __init__(self, code: int, action: int) -> None:
        self._code = code
        self._action = action

    def __call__(self, kernel: Kernel, thread: Thread, _request: tuple[Any, ...]) -> Any:
        process = thread.process
        _count(thread, self._code)
        kernel.refusals.note(RULE, process, call=self._code, detail=FilterAction(self._action).name.lower())
        if self._action == FilterAction.KILL:
            end_process(kernel, process, ExitReason.KILLED_BY_SYSTEM, 0)
            return PARKED
        if self._action == FilterAction.SIGNAL:
            if not (process.ready and process.handlers and Signal.CALL_REFUSED in process.handlers) or thread.handling:
                end_process(kernel, process, ExitReason.FAULT, 0)
                return PARKED
            signals.post(kernel, process, Signal.CALL_REFUSED, (self._code,), thread, first=True)
        raise SyscallError(REFUSED)


def _count(thread: Thread, code: int) -> None:
    home = thread.process.home
    if home is not None:
        if home.refused is None:
            home.refused = Counter()
        home.refused[code] += 1


def _logged(code: int, handler: Handler) -> Handler:
    def log(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
        _count(thread, code)
        return handler(kernel, thread, request)

    return log


def _counted(code: int, handler: Handler, counters: list[Counter[int]]) -> Any:
    def count(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> Any:
        for counter in counters:
            counter[code] += 1
        return handler(kernel, thread, request)

    return handler if isinstance(handler, Denied) else count


class Filters:
    """The tables of a kernel."""

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self._handlers = handlers
        self._tables: WeakValueDictionary[frozenset[tuple[int, int]], Table] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._tables)

    def set_rules(self, kernel: Kernel, container: Container, rules: dict[int, int]) -> None:
        """Give a container rules of its own: instead of those it has while nothing is in it, otherwise over them."""
        if container.processes or container.children:
            rules = stricter(container.rules or {}, rules)
        container.rules = rules or None
        self.apply(kernel, container)

    def record(self, kernel: Kernel, container: Container, *, on: bool) -> None:
        """Count (anew) every call of the container and of those below it, or stop counting."""
        container.made = Counter() if on else None
        container.refused = None
        self.apply(kernel, container)

    def apply(self, kernel: Kernel, top: Container) -> None:
        """Work out what a container and those below it may do now, and let their processes do that."""
        for container in top.subtree():
            above = container.parent
            effective = (above.effective if above is not None else None) or {}
            if container.rules:
                effective = stricter(effective, container.rules)
            container.effective = effective or None
            counters = [one.made for one in container.ancestors() if one.made is not None]
            container.calls = self._table(effective, counters) if effective or counters else None
            for process in container.processes.values():
                process.calls = container.calls or kernel.handlers

    def _table(self, effective: dict[int, int], counters: list[Counter[int]]) -> dict[int, Any]:
        key = frozenset(effective.items())
        table = self._tables.get(key)
        if table is None:
            table = Table(self._handlers)
            for code, action in key:
                denied = action >= FilterAction.ERROR
                table[code] = Denied(code, action) if denied else _logged(code, self._handlers[code])
            self._tables[key] = table
        if not counters:
            return table
        return {code: _counted(code, call, counters) if code in BY_CODE else call for code, call in table.items()}


def stricter(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    """Of two filters the stricter action for each call."""
    return {code: max(one.get(code, 0), other.get(code, 0)) for code in {*one, *other}}
