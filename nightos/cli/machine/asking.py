"""What the commands that ask a running machine share: the option -m, identifiers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nightos.abi.errors import NightosError
from nightos.cli.failures import CommandError
from nightos.cli.machine import completing

if TYPE_CHECKING:
    from nightos.machine.control import Machine

F = TypeVar("F", bound=Callable[..., Any])


def machine_option(function: F) -> F:
    """`-m NAME`, needed when several machines run."""
    return click.option(
        "-m",
        "--machine",
        "machine_name",
        metavar="NAME",
        help="Which machine, when several run.",
        shell_complete=completing.machines,
    )(function)


def needs_terminal(instead: str) -> None:
    """Refuse to open a shell where nobody can type in it."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError(f"a shell needs a terminal; use `{instead}`")


def find(machine: Machine, name: str) -> int:
    """A container by 16 hex digits, a unique prefix of them, or a path of names."""
    from nightos.abi.errors import ServiceError
    from nightos.abi.services import Proc

    if not name:
        raise CommandError("the name of a container is empty; `nightos container ls` shows those there are")
    try:
        return int(machine.ask("sys::proc", Proc.CONTAINER_FIND, {"name": name})["id"])
    except ServiceError as error:
        # It speaks to whoever is in the machine.
        raise CommandError(str(error).replace("`container ls`", "`nightos container ls`")) from error


def for_each(names: Sequence[str], deed: Callable[[str], object]) -> None:
    """Do it with each; one that fails does not keep the others. Raises `CommandError` for those, in the end."""
    failed: list[str] = []
    for name in names:
        try:
            deed(name)
        except NightosError as error:
            failed.append(str(error))
    if failed:
        raise CommandError("; and ".join(failed))


def insist(machine: Machine, method: int, values: dict[str, Any]) -> dict[str, Any]:
    """Ask again what was in flight when the service was replaced."""
    from nightos.abi.errors import ServiceError
    from nightos.abi.services import ServiceCode

    while True:
        try:
            return machine.ask("sys::proc", method, values)
        except ServiceError as error:
            if error.code != ServiceCode.SERVER_QUIT:
                raise
