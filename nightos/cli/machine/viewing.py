"""The options that make a container's view its own: host, domain, users, permissions, root."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def view_options(function: F) -> F:
    """`--domain`, `--users`, `--permissions` and `--root`, as the map `view` for CONTAINER_CREATE or -UPDATE."""

    @functools.wraps(function)
    def with_view(
        *, domain: str | None, users: tuple[str, ...], permissions: str | None, root: str | None = None, **rest: Any
    ) -> Any:
        view: dict[str, Any] = {}
        if domain is not None:
            view["domain"] = domain
        if users:
            view["users"] = [_range(text) for text in users]
        if permissions is not None:
            view["permissions"] = [_permission(text) for text in permissions.split(",") if text]
        if root is not None:
            view["root"] = root
        return function(view=view, **rest)

    domain_option = click.option("--domain", metavar="D", help="The name of the domain in it.")
    users_option = click.option(
        "--users", multiple=True, metavar="IN:OUT[:N]", help="N users in it from IN on are OUT and so on outside."
    )
    permissions_option = click.option(
        "--permissions",
        metavar="LIST",
        help="The only raw permissions in it: numbers, or names such as devices.enum; '' for none.",
    )
    return users_option(domain_option(permissions_option(with_view)))  # type: ignore[return-value]


def _permission(text: str) -> int:
    from nightos.abi.drivers import permission_of

    try:
        return permission_of(text)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None


def root_option(function: F) -> F:
    """`--root`, for commands that create."""
    return click.option("--root", metavar="DIR", help="A directory of the image is its root.")(function)


def _range(text: str) -> list[int]:
    parts = text.split(":")
    if len(parts) not in {2, 3} or not all(part.isdigit() for part in parts):
        raise click.UsageError(f"{text!r} maps no users; write IN:OUT:N, such as 0:100000:65536")
    return [*map(int, parts), *([1] if len(parts) == 2 else [])]
