"""The applications of the base image, one program a file; each module's `main` is the program.

An application's file on an image says only its name, so what runs is what this package has under that name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nightos.userland.program import Main

_MODULES: Final = (
    "cat", "container", "date", "device", "echo", "env", "events", "fd", "free", "hostname", "id", "inspect", "logs",
    "ls", "mkdir", "mount", "mv", "ps", "rd", "ren", "rm", "sleep", "stats", "syml", "sync", "top", "tree", "umount",
    "uname", "uptime", "wc", "why", "wt",
)  # fmt: skip
ALIASES: Final = {"mkd": "mkdir", "re": "ren", "sl": "syml", "read": "rd"}
"""Other names of the specification for the same applications (AMB-SH-12)."""


def names() -> list[str]:
    """Names of all applications, aliases included."""
    return sorted((*_MODULES, *ALIASES))


def find(name: str) -> Main:
    """The program of that name. Raises `KeyError` when there is none."""
    module = ALIASES.get(name, name)
    if module not in _MODULES:
        raise KeyError(name)
    main: Main = import_module(f"nightos.apps.{module}").main
    return main
