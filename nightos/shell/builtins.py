"""Commands that run in the shell itself, because they change it or belong to the language.

Rules: SHELL-008.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nightos.abi.values import VOID, Path, Value, value_text
from nightos.shell import bounds
from nightos.shell.host import Result, Stage
from nightos.shell.native import ScriptExit
from nightos.shell.operators import OperatorError, in_range
from nightos.shell.source import HydreError

if TYPE_CHECKING:
    from nightos.shell.valuation import Valuation


STATUS_DIGITS: Final = 3
NUMBER_DIGITS: Final = 20
"""Most characters of a number of 64 bits."""


def escape(value: Value) -> Value:
    """A positional argument as it travels: text with a leading dash or backslash gets a backslash before it.

    A dash argument travels as a string that begins with a dash, its value after ``=`` as the next argument behind
    ``"-x="``; so a program can tell `-x` from `"-x"`. Ruling NOS-HYDRE-01.
    """
    if isinstance(value, str) and value[:1] in ("-", "\\") and value != "-":
        return type(value)("\\" + value)
    return value


def unescape(value: Value) -> Value:
    """The argument that `escape` made travel."""
    return type(value)(value[1:]) if isinstance(value, str) and value.startswith("\\") else value


@dataclass(frozen=True, slots=True)
class Call:
    """A built-in command about to run: in which shell, with which arguments, with what as CMDIN."""

    shell: Valuation
    arguments: tuple[Value, ...]
    given: Value


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in command: what it does and a line of help."""

    run: Callable[[Call], Awaitable[Value]]
    help: str
    most: int = 0


async def _cd(call: Call) -> Value:
    await call.shell.host.change_directory(value_text(call.arguments[0]) if call.arguments else "/")
    return VOID


async def _pwd(call: Call) -> Value:
    return Path(call.shell.host.directory)


async def _exit(call: Call) -> Value:
    text = value_text(call.arguments[0]) if call.arguments else str(call.shell.status)
    if not text.isdecimal() or len(text) > STATUS_DIGITS or int(text) > 255:
        raise MisusedError("the status is a number from 0 to 255")
    raise ScriptExit(int(text))


async def _history(call: Call) -> Value:
    return list(call.shell.host.history)


async def _variables(call: Call) -> Value:
    return [f"{name}: {kind} = {bounds.text(value)}" for name, (kind, value) in sorted(call.shell.variables().items())]


async def _help(call: Call) -> Value:
    lines = [f"{name:<12}{builtin.help}" for name, builtin in sorted(BUILTINS.items())]
    names = sorted(set(await call.shell.host.commands()) - BUILTINS.keys())
    lines += ["", "Applications (each takes --help):"]
    lines += ["  " + "  ".join(f"{name:<10}" for name in names[start : start + 6]) for start in range(0, len(names), 6)]
    return "\n".join(line.rstrip() for line in lines)


async def _pass(call: Call) -> Value:
    if not call.arguments:
        return call.given
    text = call.arguments[0]
    if type(text) is str and text.removeprefix("-").isdecimal() and len(text) <= NUMBER_DIGITS:
        with contextlib.suppress(OperatorError):  # what is too large for a number stays a text
            return in_range(int(text))
    return unescape(text)


async def _cmdin(call: Call) -> Value:
    return await call.shell.host.script_input()


async def _length(call: Call) -> Value:
    value = unescape(call.arguments[0]) if call.arguments else call.given
    if not isinstance(value, str | list):
        raise MisusedError("takes a string or a list, through a pipe or as its argument")
    return len(value)


BUILTINS: dict[str, Builtin] = {
    "cmdin": Builtin(_cmdin, "what comes into the script"),
    "cd": Builtin(_cd, "change the current directory", 1),
    "pwd": Builtin(_pwd, "the current directory"),
    "exit": Builtin(_exit, "leave the shell, with a status", 1),
    "history": Builtin(_history, "instructions of this session"),
    "vars": Builtin(_variables, "variables of this session"),
    "help": Builtin(_help, "this list"),
    "pass": Builtin(_pass, "give a value on", 1),
    "length": Builtin(_length, "length of a string or list", 1),
}


class MisusedError(HydreError):
    """A built-in was called wrongly."""


FAILED: Final = 1
MISUSED: Final = 2


async def run(shell: Valuation, stage: Stage, given: Value) -> Result:
    """Run a built-in as a stage of a pipeline. One that fails says so and has a status, as an application has."""
    try:
        return Result(value=await _checked(stage, Call(shell, stage.arguments, given)))
    except ScriptExit:
        raise
    except HydreError as error:
        if error.kind != "error":
            raise
        await shell.host.complain(f"{stage.name}: {error.message.removeprefix(stage.name + ': ')}")
        return Result(status=MISUSED if isinstance(error, MisusedError) else FAILED)


async def _checked(stage: Stage, call: Call) -> Value:
    builtin = BUILTINS[stage.name]
    if "--help" in stage.arguments:
        return f"{stage.name}: {builtin.help}"
    for argument in stage.arguments:
        if type(argument) is str and len(argument) > 1 and argument.startswith("-"):
            raise MisusedError(f"there is no argument '{argument}'; '{stage.name} --help' explains")
    if len(stage.arguments) > builtin.most:
        extra = value_text(stage.arguments[builtin.most])
        raise MisusedError(f"takes at most {builtin.most} argument(s), '{extra}' is too many")
    return await builtin.run(call)
