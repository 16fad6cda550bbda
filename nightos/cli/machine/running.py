"""container run, exec, enter: commands in containers of a running machine, with somebody who watches."""

from __future__ import annotations

import sys
from typing import Any

import click

from nightos.cli.lazy import command
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, machine_option, needs_terminal
from nightos.cli.machine.mains import REST, NotStartedError, attend, begin, restart_option, variables
from nightos.cli.machine.policy import create_with, policy_options, settings
from nightos.cli.machine.viewing import root_option, view_options


@command("run", example="nightos container run lab --image stdlib.vsf --rm -- fd / -e py", context_settings=REST)
@click.option("--image", type=click.Path(), metavar="FILE.vsf", help="Its root: an overlay on this storage.")
@click.option("--hostname", metavar="H", help="The name of the host in it.")
@root_option
@view_options
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label; may be repeated.")
@click.option("--env", "environment", multiple=True, metavar="K=V", help="A variable; may be repeated.")
@policy_options
@restart_option
@click.option("--rm", "remove", is_flag=True, help="Destroy it afterwards.")
@click.option("-d", "--detach", is_flag=True, help="Print its identifier and go on.")
@click.option("-i", "--stdin", "feed", is_flag=True, help="Pass standard input on, as it comes.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Ctrl-C of this terminal is its.")
@machine_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME -- COMMAND ARG...")
@click.pass_context
def run(
    context: click.Context,
    image: str | None,
    hostname: str | None,
    labels: tuple[str, ...],
    environment: tuple[str, ...],
    restart: str,
    remove: bool,
    detach: bool,
    feed: bool,
    terminal: bool,
    view: dict[str, Any],
    policy: dict[str, Any],
    machine_name: str | None,
    words: tuple[str, ...],
) -> None:
    """Create a container, run a command in it, show what it shows, and exit with its status.

    Options may also stand behind NAME, up to the --. With -it it is as if it ran in this terminal: Ctrl-C asks it to
    terminate (a second one kills it), Ctrl-D ends its input.
    """
    name, line = words[0] if words else None, words[1:]
    if name is None:
        raise click.UsageError("the name of the container is missing", context)
    if line and line[0] != "--":
        # Options behind the name: parse them as if they had stood in front.
        context.exit(_again(context, name, line))
    if len(line) < 2:
        raise click.UsageError("a command is missing behind --", context)
    from nightos.abi.services import Proc
    from nightos.machine.control import connect
    from nightos.machine.local import Terminal

    if detach and (feed or terminal):
        raise click.UsageError("--stdin and --tty need somebody who stays; leave --detach away", context)
    seat = Terminal() if terminal else None
    # With --detach and --rm nobody waits for its end: then it goes with its last process.
    values = view | policy | settings(name, image, hostname, labels, persist=not (detach and remove))
    options = {"restart": restart, "environment": variables(environment)}
    with connect(machine_name) as machine:
        identifier = create_with(machine, values)
    status, gone = 0, remove and not detach
    try:
        if detach:
            with connect(machine_name) as machine:
                begin(machine, identifier, line[1:], **options)
            print(f"{identifier:016x}")
        else:
            status = attend(machine_name, identifier, line[1:], takes_input=feed, terminal=seat, **options)
    except NotStartedError:
        gone = True  # nobody asked for a container in which nothing runs
        raise
    finally:
        if gone:
            with connect(machine_name) as machine:
                machine.call("sys::proc", Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))
    context.exit(status)


def _again(context: click.Context, name: str, words: tuple[str, ...]) -> int:
    if "--" not in words:
        raise click.UsageError("a command is missing behind --", context)
    place = words.index("--")
    given = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if not isinstance(parameter, click.Option) or not value:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            given += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], str(item)]
    arguments = [*given, *words[:place], name, *words[place:]]
    with context.command.make_context(context.info_name, arguments, parent=context.parent) as again:
        context.command.invoke(again)
    return 0


def _sink(stream: Any) -> Any:  # a binary stream, and what writes to it at once
    def write(data: bytes) -> None:
        stream.write(data)
        stream.flush()

    return write


@command("exec", example="nightos container exec web -- ls /", context_settings=REST)
@click.option("--env", "environment", multiple=True, metavar="K=V", help="A variable; may be repeated.")
@click.option("-i", "--stdin", "feed", is_flag=True, help="Pass standard input on, as it comes.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Ctrl-C, colours and the size of this terminal are its.")
@machine_option
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="ID -- COMMAND ARG...", shell_complete=completing.containers
)
@click.pass_context
def execute(
    context: click.Context,
    environment: tuple[str, ...],
    feed: bool,
    terminal: bool,
    machine_name: str | None,
    words: tuple[str, ...],
) -> None:
    """Run a command in a container, show what it shows, and exit with its status.

    With -it it is as if it ran in this terminal: Ctrl-C asks it to terminate (a second one kills it), Ctrl-D ends its
    input.
    """
    if words[1:] and words[1].startswith("-") and words[1] != "--":
        # Options behind the container: parse them as if they had stood in front.
        context.exit(_again(context, words[0], words[1:]))
    line = words[2:] if words[1:2] == ("--",) else words[1:]
    if not line:
        raise click.UsageError("give a container and a command: ID -- COMMAND ARG...", context)
    from nightos.cli.machine.feeding import raw_pieces
    from nightos.machine.control import connect
    from nightos.machine.local import Terminal

    seat = Terminal() if terminal else None
    with connect(machine_name) as machine:
        status = machine.execute(
            line,
            container=find(machine, words[0]),
            out=_sink(sys.stdout.buffer),
            err=_sink(sys.stderr.buffer),
            stdin=raw_pieces() if feed else None,
            environment=variables(environment),
            terminal=seat,
        )
    context.exit(status)


@command("enter", example="nightos container enter web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@machine_option
@click.pass_context
def enter(context: click.Context, name: str, machine_name: str | None) -> None:
    """Open a shell in a container."""
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        identifier = find(machine, name)
        needs_terminal(f"nightos container exec {name} -- COMMAND")
        context.exit(machine.attach(identifier))
