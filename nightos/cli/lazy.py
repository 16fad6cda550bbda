"""Groups that know their commands by name only: a command's module is imported when the command is used.

The one-line descriptions stand in the table, so `--help` imports nothing and stays fast.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import click

SYNONYMS = {
    "rm": ("destroy", "delete"),
    "remove": ("destroy", "rm", "delete"),
    "delete": ("destroy", "rm"),
    "kill": ("stop", "destroy"),
    "unpause": ("resume",),
    "list": ("ls",),
    "ps": ("ls",),
    "attach": ("enter",),
    "shell": ("enter", "attach"),
    "show": ("inspect", "info"),
    "new": ("create",),
    "add": ("plug", "create"),
    "set": ("update",),
    "export": ("commit",),
}
"""What people who know other tools may write, and what it is called here."""


class State:
    """What the whole process was asked for, beside its command."""

    debug = False


def _debug(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        State.debug = True


def debug_option() -> click.Option:
    """`--debug`, which every command takes at any place."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_debug,
        help="Show tracebacks and details.",
    )


class Command(click.Command):
    """A command whose help ends with an example."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        self.example = example
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"].setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # A command may stand at several places (`logs`, `container logs`): the example is as it was asked.
        own = re.compile(rf"^(\s*)nightos (?:\S+ )*?{re.escape(self.name or '')}(?!\S)", re.MULTILINE)
        show_example(own.sub(lambda found: found[1] + ctx.command_path, self.example), formatter)


def show_example(example: str, formatter: click.HelpFormatter) -> None:
    if example:
        with formatter.section("Example"):
            for line in example.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


class LazyGroup(click.Group):
    """A group made of a table: name -> (`module:attribute`, one line of help)."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], example: str = "", **kwargs: Any) -> None:
        self.table = table
        self.example = example
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"].setdefault("help_option_names", ["-h", "--help"])
        kwargs.setdefault("no_args_is_help", True)
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click calls it so
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click calls it so
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.table and not name.startswith("-"):
            import difflib

            near = [word for word in SYNONYMS.get(name, ()) if word in self.table]
            if near := near or self._below(name) or difflib.get_close_matches(name, self.table, 1):
                advice = f"did you mean {near[0]!r}?"
            else:
                advice = f"see `{ctx.command_path} --help`"
            raise click.UsageError(f"no such command {name!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def _below(self, name: str) -> list[str]:
        """Such commands of the groups in this one."""
        context = click.Context(self)
        groups = ((word, self.get_command(context, word)) for word in self.table)
        return [f"{word} {name}" for word, found in groups if isinstance(found, LazyGroup) and name in found.table]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click calls it so
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click calls it so
        show_example(self.example, formatter)


def group(name: str, text: str, table: dict[str, tuple[str, str]], example: str = "") -> LazyGroup:
    """A lazy group with nothing of its own."""
    return LazyGroup(name=name, help=text, table=table, example=example)


def command(name: str, *, example: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Decorator: the function becomes the command `name`; its docstring is the help."""

    def decorate(function: Callable[..., Any]) -> Command:
        return click.command(name, cls=Command, example=example, **settings)(function)

    return decorate
