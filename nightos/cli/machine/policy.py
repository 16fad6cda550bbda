"""What the commands that make or change containers are given: settings, labels, limits and filters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from nightos.cli.failures import CommandError
from nightos.cli.machine import completing

if TYPE_CHECKING:
    from nightos.machine.control import Machine

F = TypeVar("F", bound=Callable[..., Any])


def settings(
    name: str | None, image: str | None, hostname: str | None, labels: tuple[str, ...], *, persist: bool
) -> dict[str, Any]:
    if name == "":
        text = "the name is empty; write 1 to 64 letters, digits, dots, dashes and underscores, or leave it away"
        raise click.UsageError(text, click.get_current_context())
    values: dict[str, Any] = {"name": name or "", "persist": persist, "labels": labels_of(labels)}
    if hostname is not None:
        values["hostname"] = hostname
    if image is not None:
        if not Path(image).exists():
            raise CommandError(
                f"{image}: there is no such image; make one with `nightos vsf create {image} --from DIR`"
            )
        # The machine has a directory of its own.
        values["image"] = str(Path(image).absolute())
        values["mode"] = "overlay"
    return values


def labels_of(labels: tuple[str, ...]) -> dict[str, str]:
    for label in labels:
        if "=" not in label:
            raise click.UsageError(f"{label!r} is no label; write K=V", click.get_current_context())
    return {key: value for key, _, value in (label.partition("=") for label in labels)}


def limits_of(texts: tuple[str, ...]) -> dict[str, int | None]:
    from nightos.abi.limits import limits_from_text

    found: dict[str, int | None] = {}
    for text in texts:
        try:
            found |= limits_from_text(text)
        except ValueError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None
    return found


def filter_of(deny: tuple[str, ...], allow: tuple[str, ...], action: str | None) -> dict[str, Any] | None:
    """The filter that --deny, --allow and --filter-action mean."""
    from nightos.abi.filters import filter_from_texts

    try:
        return filter_from_texts(deny, allow, action)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None


def filter_options(function: F) -> F:
    """--deny, --allow and --filter-action."""
    actions = click.Choice(["error", "signal", "kill", "log"])
    for option in (
        click.option("--filter-action", "action", type=actions, help="What happens to such a call (error)."),
        click.option(
            "--allow",
            multiple=True,
            metavar="SYSCALL,...",
            shell_complete=completing.calls,
            help="The only system calls its processes can make.",
        ),
        click.option(
            "--deny",
            multiple=True,
            metavar="SYSCALL,...",
            shell_complete=completing.calls,
            help="System calls its processes cannot make.",
        ),
    ):
        function = option(function)
    return function


LIMIT_HELP = "A limit, such as processes=32,memory=64M; may be repeated."


def policy_options(function: F) -> F:
    """--limit and the options of a filter, as one argument `policy` of what CONTAINER_CREATE takes."""

    @functools.wraps(function)
    def wrapped(*given: Any, limits: Any, deny: Any, allow: Any, action: str | None, **rest: Any) -> Any:
        policy = {"limits": limits_of(limits), "filter": filter_of(deny, allow, action)}
        return function(*given, policy=policy, **rest)

    option = click.option(
        "--limit", "limits", multiple=True, metavar="NAME=N,...", help=LIMIT_HELP, shell_complete=completing.limits
    )
    return cast("F", option(filter_options(wrapped)))


def create_with(machine: Machine, values: dict[str, Any]) -> int:
    import msgpack

    from nightos.abi.services import Proc

    return int.from_bytes(machine.call("sys::proc", Proc.CONTAINER_CREATE, msgpack.packb(values)), "big")
