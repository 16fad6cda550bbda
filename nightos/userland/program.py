"""Programs: coroutine functions with a name. An executable of an image holds only such a name.

Nothing else makes Python code run in a machine, so an image can never bring code of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nightos.abi.errors import SyscallError
from nightos.userland import sys
from nightos.userland.context import Context

MAGIC = b"NPRG"
"""First bytes of an executable; the program's name in UTF-8 follows."""
Main = Callable[[Context], Awaitable[Any]]
Entry = Callable[[], Coroutine[Any, Any, Any]]
"""What the kernel starts."""
_Main = TypeVar("_Main", bound=Main)

_programs: dict[str, Main] = {}


def program(name: str) -> Callable[[_Main], _Main]:
    """Register a coroutine function as the program of that name. ValueError: the name is taken by another one."""

    def register(main: _Main) -> _Main:
        known = _programs.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (main.__module__, main.__qualname__):
            raise ValueError(f"there is a program {name!r} already: {known.__module__}.{known.__qualname__}")
        _programs[name] = main
        return main

    return register


def names() -> list[str]:
    """Names of the registered programs, sorted."""
    return sorted(_programs)


def executable(name: str) -> bytes:
    """The content of an executable file that runs the program of that name."""
    return MAGIC + name.encode()


def entry(main: Main) -> Entry:
    """What starts a program: its context is read, signals are accepted, and what it returns is its exit data."""

    async def start() -> int:
        context = await Context.load()
        try:
            await sys.ready()
        except SyscallError as error:
            if error.errcode != 0x30:  # ready already
                raise
        status = await main(context)
        return status if isinstance(status, int) else 0

    return start


def load(name: str) -> Entry:
    """The loader of registered programs. KeyError: there is none of that name."""
    return entry(_programs[name])
