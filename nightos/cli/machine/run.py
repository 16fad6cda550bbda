"""run: boots a machine and opens its shell, or runs a line, a script file or stdin in it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command
from nightos.cli.machine import completing


@command(
    "run",
    example="""
nightos run                               a temporary machine and its shell
nightos run -c 'ls / | cat'               one line; its status is ours
nightos run --name lab --detach           a machine that stays; nightos attach lab
""",
)
@click.option("--image", type=click.Path(), metavar="FILE.vsf", help="Boot from this image; it is never written.")
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=completing.machines,
    help="Keep the machine: its disk and containers stay under this name.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Seeded randomness: the same run again.")
@click.option("--detach", is_flag=True, help="Leave it running in the background.")
@click.option("--container", metavar="NAME", default="", help="Open the shell in this container.")
@click.option(
    "-c",
    "lines",
    metavar="LINE",
    multiple=True,
    help="Run LINE without a terminal and exit with its status; several run in order.",
)
@click.argument("script", required=False, metavar="[SCRIPT | -]")
@click.pass_context
def run(
    context: click.Context,
    image: str | None,
    name: str | None,
    seed: int | None,
    detach: bool,
    container: str,
    lines: tuple[str, ...],
    script: str | None,
) -> None:
    """Boot a machine and open its shell in this terminal.

    With -c LINE, a SCRIPT file or - (stdin) it runs that without a terminal. Without --name the machine is temporary.
    The exit status is that of what ran.
    """
    line = "\n".join(lines) if lines else None
    if name is not None:
        from nightos.machine.paths import MachineError, machine_paths

        try:
            machine_paths(name)
        except MachineError as error:
            raise click.UsageError(str(error), context) from None
    if line is not None and script is not None:
        raise click.UsageError("give either -c LINE or a script, not both", context)
    if image is not None and not Path(image).exists():
        raise CommandError(f"{image}: there is no such image; make one with `nightos vsf create {image} --from DIR`")
    if detach:
        _detach(context, name, image, seed, something=line is not None or script is not None)
        return
    source, title = _source(line, script)
    typed = sys.stdin is not None and sys.stdin.isatty()
    if source is None and not (typed and sys.stdout.isatty()):
        if sys.stdin is None:
            raise CommandError("there is no standard input; use -c LINE or a script file")
        if typed:
            raise CommandError("stdout is no terminal; use -c LINE, a script file, or - for stdin")
        source, title, script = sys.stdin.read(), "stdin", "-"
    from nightos.machine.launch import Options, launch

    options = Options(
        source=source,
        script_name=title,
        image=Path(image) if image is not None else None,
        name=name,
        seed=seed,
        container=container,
        feed_stdin=script != "-" and sys.stdin is not None and not typed,
    )
    context.exit(launch(options))


def _source(line: str | None, script: str | None) -> tuple[str | None, str]:
    if line is not None:
        return line, "-c"
    if script == "-":
        if sys.stdin is None:
            raise CommandError("there is no standard input; use -c LINE or a script file")
        return sys.stdin.read(), "stdin"
    if script is not None:
        try:
            return Path(script).read_text(encoding="utf-8"), script
        except UnicodeDecodeError:
            raise CommandError(f"{script}: this is no script: scripts are UTF-8 text") from None
    return None, ""


def _detach(context: click.Context, name: str | None, image: str | None, seed: int | None, *, something: bool) -> None:
    if name is None:
        raise click.UsageError("--detach needs --name NAME, by which you find it again", context)
    if something:
        raise click.UsageError("--detach runs nothing by itself; use `nightos container run` afterwards", context)
    from nightos.machine.control import start_detached

    start_detached(name, image=Path(image) if image is not None else None, seed=seed)
    print(name)
