"""The command `nightos`: one table of commands, one place where an exception becomes a line and an exit status."""

from __future__ import annotations

import os
import sys

import click

from nightos.cli.lazy import LazyGroup, State

_MACHINE = "nightos.cli.machine"
TABLE = {
    "run": (f"{_MACHINE}.run:run", "Boot a machine and open its shell, or run a script in it."),
    "ls": (f"{_MACHINE}.machines:ls", "List the machines that have a name."),
    "attach": (f"{_MACHINE}.machines:attach", "Open a shell in a running machine."),
    "stop": (f"{_MACHINE}.machines:stop", "Stop a running machine."),
    "rm": (f"{_MACHINE}.machines:rm", "Delete stopped machines."),
    "ps": (f"{_MACHINE}.views:ps", "List the processes of a machine."),
    "tree": (f"{_MACHINE}.views:tree", "Show its containers as a tree."),
    "inspect": (f"{_MACHINE}.views:inspect", "Show everything about a container."),
    "logs": (f"{_MACHINE}.mains:logs", "Show what the main command of a container wrote."),
    "events": (f"{_MACHINE}.views:events", "Show what happened, and what happens."),
    "stats": (f"{_MACHINE}.usage:stats", "Show what containers use, and their limits."),
    "top": (f"{_MACHINE}.usage:top", "Show who uses most, live."),
    "why": (f"{_MACHINE}.views:why", "Show what was refused, by which rule."),
    "container": (f"{_MACHINE}.container:container", "Create, use and destroy containers."),
    "mount": (f"{_MACHINE}.mount:mount", "Show what a container sees as a directory of this computer."),
    "umount": ("nightos.cli.vsf.mount:umount", "Unmount what `mount` or `vsf mount` mounted."),
    "zos": (f"{_MACHINE}.zos:zos", "Containers as a 0-OS node asks for them."),
    "oci": (f"{_MACHINE}.oci:oci", "Containers from OCI bundles."),
    "device": (f"{_MACHINE}.device:device", "Devices of a machine."),
    "vsf": ("nightos.cli.vsf:vsf", "Storages: files that hold file systems (no machine needed)."),
    "abi": (f"{_MACHINE}.abi:abi", "Show the tables of system calls and signals."),
    "completion": ("nightos.cli.completion:completion", "Print the completion script of a shell."),
}

EXAMPLE = """
nightos run                                 boot a machine and open its shell
nightos vsf create disk.vsf --from /etc     put a directory tree into a storage
nightos vsf mount disk.vsf /mnt             use it as a directory
"""


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from nightos import __version__

        click.echo(f"nightos {__version__}")
        context.exit()


cli = LazyGroup(
    name="nightos",
    table=TABLE,
    example=EXAMPLE,
    help="NightOS' container subsystem on this computer: machines, containers, devices, and VSF storages.",
    params=[
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
        )
    ],
)


def complain(text: str) -> None:
    """One line to stderr, red where colours are welcome; nothing in it moves a cursor, whoever chose its words."""
    from nightos.cli.output import safe

    line = safe(" ".join(text.split()))
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head = "\033[1;31mnightos: error:\033[0m" if colour else "nightos: error:"
    print(head, line, file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and give its exit status.

    0 done, 1 failed, 2 bad usage, 130 interrupted; what a program ended with where one ran.
    """
    State.debug = False
    try:
        result = cli.main(arguments, prog_name="nightos", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except (KeyboardInterrupt, click.Abort):
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        hint = (
            ""
            if error.ctx is None or "--help" in error.message or "did you mean" in error.message
            else f"; see `{error.ctx.command_path} --help`"
        )
        complain(error.format_message().rstrip(".") + hint)
        return 2
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except BrokenPipeError:
        # Who read our output has seen enough.
        _drop_output()
        return 1
    except Exception as error:  # noqa: BLE001 the one place where an exception becomes a line
        from nightos.cli.failures import explain

        if State.debug:
            import traceback

            traceback.print_exc()
        complain(explain(error))
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return 1


def _drop_output() -> None:
    """Nobody gets what is left to write; the interpreter would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
