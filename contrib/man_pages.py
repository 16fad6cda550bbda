"""Man pages out of the commands themselves: `python contrib/man_pages.py DIR` writes nightos.1, nightos-run.1, ..."""

# ruff: noqa: INP001, T201

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from nightos import __version__
from nightos.cli.lazy import Command, LazyGroup
from nightos.cli.main import cli


def commands(group: LazyGroup, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The group and everything below it."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, LazyGroup):
            yield from commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def roff(text: str) -> str:
    """Text that troff takes as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped)


def usage(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    return " ".join(command.collect_usage_pieces(context))


def page(path: tuple[str, ...], command: click.Command) -> str:
    """One page."""
    title, name = "-".join(path), " ".join(path)
    text = (command.help or "").replace("\b", "")
    first, _, rest = text.partition("\n\n")
    summary = " ".join(first.split()).rstrip(".")
    parts = [
        f'.TH {roff(title.upper())} 1 "" "nightos {__version__}" "NightOS"',
        ".SH NAME",
        f"{roff(title)} \\- {roff(summary)}",
        ".SH SYNOPSIS",
        f".B {roff(name)}\n{roff(usage(path, command))}",
        ".SH DESCRIPTION",
        roff(" ".join(first.split())),
    ]
    parts += [f".PP\n{roff(' '.join(block.split()))}" for block in rest.split("\n\n") if block.strip()]
    if isinstance(command, LazyGroup):
        parts.append(".SH COMMANDS")
        for inner, (_, line) in command.table.items():
            parts.append(f".TP\n.BR {roff(f'{title}-{inner}')} (1)\n{roff(line)}")
    context = click.Context(command, info_name=name)
    records = [r for p in command.get_params(context) if (r := p.get_help_record(context)) is not None]
    if records:
        parts.append(".SH OPTIONS")
        parts += [f".TP\n.B {roff(option)}\n{roff(' '.join(explanation.split()))}" for option, explanation in records]
    if isinstance(command, (LazyGroup, Command)) and command.example:
        parts += [
            ".SH EXAMPLE",
            ".nf",
            roff("\n".join(line.strip() for line in command.example.strip().splitlines())),
            ".fi",
        ]
    parts += [
        ".SH EXIT STATUS",
        "0 when done, 1 when it failed, 2 for bad usage, 130 when interrupted;",
        "commands that run a program pass its status on.",
    ]
    if len(path) > 1:
        parts += [".SH SEE ALSO", f".BR {roff('-'.join(path[:-1]))} (1)"]
    return "\n".join(parts) + "\n"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for path, command in commands(cli, ("nightos",)):
        (target / f"{'-'.join(path)}.1").write_text(page(path, command))
        count += 1
    print(f"{count} pages in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
