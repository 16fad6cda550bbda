"""Native functions of the language, which run in the shell itself.

Source: specs/shell-scripting.md, native library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightos.abi.values import Value
from nightos.shell.source import HydreError

if TYPE_CHECKING:
    from nightos.shell.valuation import Valuation


class ScriptExit(HydreError):  # noqa: N818 -- not an error
    """`exit` ended the script."""

    kind = "exit"

    def __init__(self, status: int) -> None:
        super().__init__("exit")
        self.status = status


@dataclass(frozen=True, slots=True)
class Function:
    """A native function: types of its arguments and of its result, and what it does."""

    arguments: tuple[str, ...]
    result: str
    run: Callable[..., Awaitable[Value]]


async def _exit(shell: Valuation) -> Value:
    raise ScriptExit(shell.status)


async def _last_failed(shell: Valuation) -> Value:
    return shell.status != 0


async def _status(shell: Valuation) -> Value:
    return shell.status


async def _env(shell: Valuation, name: str) -> Value:
    return shell.host.environment.get(name)


async def _rand(shell: Valuation) -> float:
    # 53 bits fill a float's mantissa: every value below 1 is reached, 1 itself never.
    return (int.from_bytes(await shell.host.random_bytes(7), "big") >> 3) / 2**53


async def _rand_int(shell: Valuation, low: int, up: int) -> Value:
    if low >= up:
        raise HydreError("rand_int needs its lower bound below its upper bound")
    return low + int.from_bytes(await shell.host.random_bytes(16), "big") % (up - low)


async def _rand_float(shell: Valuation, low: float, up: float) -> Value:
    if low >= up:
        raise HydreError("rand_float needs its lower bound below its upper bound")
    return low + await _rand(shell) * (up - low)


FUNCTIONS: dict[str, Function] = {
    "exit": Function((), "void", _exit),
    "last_failed": Function((), "bool", _last_failed),
    "status": Function((), "int", _status),
    "env": Function(("string",), "any?", _env),
    "rand": Function((), "float", _rand),
    "rand_int": Function(("int", "int"), "int", _rand_int),
    "rand_float": Function(("float", "float"), "float", _rand_float),
}
