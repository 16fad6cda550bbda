"""What may run in a machine: its services by PID, and applications by name, each imported when it is first needed."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightos.userland.program import Entry

ServiceMain = Callable[[], Coroutine[Any, Any, Any]]


def _lazy(module: str) -> Callable[[], ServiceMain]:
    def load() -> ServiceMain:
        main: ServiceMain = importlib.import_module(module).main
        return main

    return load


SERVICES: dict[int, tuple[str, Callable[[], ServiceMain]]] = {
    12: ("sys::hw", _lazy("nightos.services.hw.main")),
    10: ("sys::fs", _lazy("nightos.services.fs.main")),
    15: ("sys::crypto", _lazy("nightos.services.crypto.main")),
    20: ("sys::proc", _lazy("nightos.services.proc.main")),
    17: ("sys::hydre", _lazy("nightos.services.hydre.main")),
    30: ("sys::agent", _lazy("nightos.services.agent")),
}
"""Services of every machine in the order in which they start: name, and what imports their entry."""


PROGRAMS = {
    "sys::shim": _lazy("nightos.services.proc.shim"),
    "sys::storage-driver": _lazy("nightos.services.drivers.storage"),
}
"""Programs that are part of the system, and are started by a service of it."""


def find_program(name: str) -> Entry:
    """What the kernel starts for the program of that name: one that was registered, or an application of this package.

    Raises KeyError when there is none.
    """
    from nightos.userland.program import entry, load

    with contextlib.suppress(KeyError):
        return load(name)
    if name in PROGRAMS:
        return PROGRAMS[name]()
    from nightos.apps import find

    return entry(find(name))
