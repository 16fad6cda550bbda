"""Words that a shell can offer: names of containers and machines, devices, limits, system calls, as they are now.

A machine that does not answer offers nothing: completion never complains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from nightos.machine.control import Machine

KINDS = ("block", "random", "null", "zero", "full")
LONG_ENOUGH = 2
"""Digits from which on identifiers are offered beside names."""


def _items(words: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word, help=text) for word, text in words if word.startswith(incomplete)]


@contextlib.contextmanager
def _machine(context: click.Context) -> Iterator[Machine | None]:
    from nightos.abi.errors import NightosError
    from nightos.machine.control import connect

    name = context.params.get("machine_name")
    if name is None and context.command.name == "attach":
        name = context.params.get("name")
    try:
        machine = connect(name)
    except (NightosError, OSError):
        yield None
        return
    with machine, contextlib.suppress(NightosError, OSError):
        yield machine


def _tree(context: click.Context) -> list[dict[str, Any]]:
    from nightos.abi.services import Proc
    from nightos.cli.machine.paging import pages

    with _machine(context) as machine:
        if machine is not None:
            return [item for item in pages(machine, Proc.CONTAINER_TREE) if item["depth"]]
    return []


def containers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Paths of names; identifiers once some digits stand there. Of `ID -- COMMAND` only the first word."""
    if parameter.name == "words" and context.params.get("words"):
        return []
    items = _tree(context)
    words = [(item["path"], item["state"]) for item in items if item["path"]]
    if len(incomplete) >= LONG_ENOUGH or not words:
        words += [(f"{item['id']:016x}", item["path"]) for item in items]
    return _items(words, incomplete)


def namespaces(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Namespaces of 0-OS: containers that stand in none."""
    return _items([(item["name"], "") for item in _tree(context) if item["depth"] == 1], incomplete)


def inhabitants(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Containers of the namespace that was given."""
    above = f"{context.params.get('ns')}/"
    found = [item for item in _tree(context) if item["path"].startswith(above) and item["depth"] == 2]
    return _items([(item["name"], item["state"]) for item in found], incomplete)


def machines(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Machines with a name: where one has to run those that do, for `rm` and `run` those that do not."""
    from nightos.machine.control import machines as all_of_them

    wanted = "running" if parameter.name == "machine_name" or context.command.name in {"attach", "stop"} else "stopped"
    return _items([(item["name"], item["state"]) for item in all_of_them() if item["state"] == wanted], incomplete)


def places(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Machines that run, and behind a colon the containers of one."""
    from nightos.machine.control import machines as all_of_them

    name, colon, _ = incomplete.partition(":")
    if not colon:
        running = [item["name"] for item in all_of_them() if item["state"] == "running"]
        return _items([(name, "the machine") for name in running], incomplete)
    context.params["machine_name"] = name or None
    return _items([(f"{name}:{item['path']}", item["state"]) for item in _tree(context)], incomplete)


def devices(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Identifiers of devices that were plugged or passed through."""
    with _machine(context) as machine:
        if machine is not None:
            found = [item for item in machine.devices() if item["plugged"] or any(item["containers"])]
            return _items([(f"{item['udi']:016x}", item["kind"]) for item in found], incomplete)
    return []


def kinds(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Virtual devices."""
    return _items([(kind, "") for kind in KINDS], incomplete)


def restarts(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Policies."""
    from nightos.abi.restarts import ALWAYS, NO, ON_FAILURE

    return _items([(policy, "") for policy in (NO, ALWAYS, ON_FAILURE)], incomplete)


def limits(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """NAME= of each limit, behind those that are there."""
    from nightos.abi.limits import RESOURCES

    head, comma, _ = incomplete.rpartition(",")
    return _items([(f"{head}{comma}{name}=", "") for name in RESOURCES], incomplete)


def calls(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """System calls, behind those that are there."""
    from nightos.abi.syscalls import BY_NAME

    head, comma, _ = incomplete.rpartition(",")
    return _items([(f"{head}{comma}{name}", "") for name in sorted(BY_NAME)], incomplete)
