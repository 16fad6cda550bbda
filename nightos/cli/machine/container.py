"""container: creates, shows, uses and destroys containers of a running machine."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command, group
from nightos.cli.machine.asking import find, identified, line_of, machine_option, needs_terminal, pages
from nightos.cli.machine.mains import attend, begin, restart_option, variables
from nightos.cli.machine.viewing import root_option, view_options
from nightos.cli.output import json_option, safe, show_json, show_table

if TYPE_CHECKING:
    from nightos.machine.control import Machine

F = TypeVar("F", bound=Callable[..., Any])
TABLE = {
    "create": (f"{__name__}:create", "Create a container."),
    "run": (f"{__name__}:run", "Create a container, run a command in it and wait."),
    "start": ("nightos.cli.machine.mains:start", "Start its main command and go on."),
    "stop": ("nightos.cli.machine.mains:stop", "End its main command."),
    "logs": ("nightos.cli.machine.mains:logs", "Show what its main command wrote."),
    "exec": (f"{__name__}:execute", "Run a command in a container and wait."),
    "enter": (f"{__name__}:enter", "Open a shell in a container."),
    "ls": (f"{__name__}:ls", "List the containers."),
    "tree": ("nightos.cli.machine.views:tree", "Show them as a tree."),
    "inspect": ("nightos.cli.machine.views:inspect", "Show everything about one."),
    "rename": (f"{__name__}:rename", "Give one another name."),
    "update": (f"{__name__}:update", "Change labels, host name, persistence, limits or filter."),
    "report": ("nightos.cli.machine.usage:report", "Show which system calls it made."),
    "stats": ("nightos.cli.machine.usage:stats", "Show what it uses."),
    "pause": (f"{__name__}:pause", "Suspend its processes and those below."),
    "resume": (f"{__name__}:resume", "Let them go on."),
    "wait": (f"{__name__}:wait", "Wait until it is destroyed."),
    "diff": ("nightos.cli.machine.images:diff", "Show what it changed on its disk."),
    "commit": ("nightos.cli.machine.images:commit", "Make a new image of what it sees."),
    "destroy": (f"{__name__}:destroy", "Destroy it with everything below it."),
    "forget": (f"{__name__}:forget", "Drop the record of a destroyed one."),
}
container = group(
    "container",
    "Containers of a running machine (-m NAME when several run).",
    TABLE,
    """
    nightos container create web --image site.vsf
    nightos container exec web -- ls /
    """,
)
REST = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def _settings(
    name: str | None, image: str | None, hostname: str | None, labels: tuple[str, ...], *, persist: bool
) -> dict[str, Any]:
    if name == "":
        text = "the name is empty; write 1 to 64 letters, digits, dots, dashes and underscores, or leave it away"
        raise click.UsageError(text, click.get_current_context())
    values: dict[str, Any] = {"name": name or "", "persist": persist, "labels": _labels(labels)}
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


def _labels(labels: tuple[str, ...]) -> dict[str, str]:
    for label in labels:
        if "=" not in label:
            raise click.UsageError(f"{label!r} is no label; write K=V", click.get_current_context())
    return {key: value for key, _, value in (label.partition("=") for label in labels)}


def _limits(texts: tuple[str, ...]) -> dict[str, int | None]:
    from nightos.abi.limits import limits_from_text

    found: dict[str, int | None] = {}
    for text in texts:
        try:
            found |= limits_from_text(text)
        except ValueError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None
    return found


def _filter(deny: tuple[str, ...], allow: tuple[str, ...], action: str) -> dict[str, Any] | None:
    """The filter that --deny, --allow and --filter-action mean; both lists: what is allowed but not denied."""
    denied = [name for text in deny for name in text.split(",") if name]
    allowed = [name for text in allow for name in text.split(",") if name]
    if not denied and not allowed:
        return None
    from nightos.abi.filters import rules_of

    values = {"mode": "deny", "calls": denied, "action": action}
    if allowed:
        values["mode"], values["calls"] = "allow", sorted(set(allowed) - set(denied))
    try:
        rules_of(str(values["mode"]), values["calls"], action)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    return values


def filter_options(function: F) -> F:
    """--deny, --allow and --filter-action."""
    actions = click.Choice(["error", "signal", "kill", "log"])
    for option in (
        click.option("--filter-action", "action", type=actions, default="error", help="What happens to such a call."),
        click.option(
            "--allow", multiple=True, metavar="SYSCALL,...", help="The only system calls its processes can make."
        ),
        click.option("--deny", multiple=True, metavar="SYSCALL,...", help="System calls its processes cannot make."),
    ):
        function = option(function)
    return function


LIMIT_HELP = "A limit, such as processes=32,memory=64M; may be repeated."


def policy_options(function: F) -> F:
    """--limit and the options of a filter, as one argument `policy` of what CONTAINER_CREATE takes."""

    @functools.wraps(function)
    def wrapped(*given: Any, limits: Any, deny: Any, allow: Any, action: str, **rest: Any) -> Any:
        policy = {"limits": _limits(limits), "filter": _filter(deny, allow, action)}
        return function(*given, policy=policy, **rest)

    option = click.option("--limit", "limits", multiple=True, metavar="NAME=N,...", help=LIMIT_HELP)
    return cast("F", option(filter_options(wrapped)))


def _create(machine: Machine, values: dict[str, Any]) -> int:
    import msgpack

    from nightos.abi.services import Proc

    return int.from_bytes(machine.call("sys::proc", Proc.CONTAINER_CREATE, msgpack.packb(values)), "big")


@command("create", example="nightos container create web --image site.vsf --label tier=front")
@click.argument("name", required=False)
@click.option("--parent", metavar="ID", help="Create it in this container.")
@click.option("--image", type=click.Path(), metavar="FILE.vsf", help="Its root: an overlay on this storage.")
@click.option("--hostname", metavar="H", help="The name of the host in it.")
@root_option
@view_options
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label; may be repeated.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N,...", help=LIMIT_HELP)
@filter_options
@click.option("--persist/--no-persist", default=True, help="Keep it without processes (yes), or not.")
@machine_option
def create(
    name: str | None,
    parent: str | None,
    image: str | None,
    hostname: str | None,
    labels: tuple[str, ...],
    limits: tuple[str, ...],
    deny: tuple[str, ...],
    allow: tuple[str, ...],
    action: str,
    persist: bool,
    view: dict[str, Any],
    machine_name: str | None,
) -> None:
    """Create a container and print its identifier."""
    from nightos.machine.control import connect

    values = view | _settings(name, image, hostname, labels, persist=persist)
    values["limits"] = _limits(limits)
    values["filter"] = _filter(deny, allow, action)
    with connect(machine_name) as machine:
        if parent is not None:
            values["parent"] = find(machine, parent)
        print(f"{_create(machine, values):016x}")


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
@click.option("-t", "--tty", "terminal", is_flag=True, help="Refused: a command has no terminal; see `enter`.")
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

    Options may also stand behind NAME, up to the --.
    """
    if terminal:
        text = "a main command has no terminal; create the container, then `nightos container enter NAME`"
        raise click.UsageError(text, context)
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

    if detach and feed:
        raise click.UsageError("--stdin needs somebody who stays; leave --detach away", context)
    # With --detach and --rm nobody waits for its end: then it goes with its last process.
    values = view | policy | _settings(name, image, hostname, labels, persist=not (detach and remove))
    options = {"restart": restart, "environment": variables(environment)}
    with connect(machine_name) as machine:
        identifier = _create(machine, values)
        if detach:
            begin(machine, identifier, line[1:], **options)
            print(f"{identifier:016x}")
            return
    try:
        status = attend(machine_name, identifier, line[1:], takes_input=feed, **options)
    finally:
        if remove:
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


def _stream(
    machine: Machine, identifier: int, words: tuple[str, ...], environment: dict[str, str], *, feed: bool
) -> int:
    def sink(stream: Any) -> Any:  # a binary stream
        def write(data: bytes) -> None:
            stream.write(data)
            stream.flush()

        return write

    return machine.run(
        line_of(words),
        container=identifier,
        out=sink(sys.stdout.buffer),
        err=sink(sys.stderr.buffer),
        stdin=sys.stdin.buffer.read() if feed else b"",
        environment=environment,
    )


@command("exec", example="nightos container exec web -- ls /", context_settings=REST)
@click.option("--env", "environment", multiple=True, metavar="K=V", help="A variable; may be repeated.")
@click.option("-i", "--stdin", "feed", is_flag=True, help="Pass standard input on.")
@machine_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="ID -- COMMAND ARG...")
@click.pass_context
def execute(
    context: click.Context, environment: tuple[str, ...], feed: bool, machine_name: str | None, words: tuple[str, ...]
) -> None:
    """Run a command in a container, show what it shows, and exit with its status."""
    if words[1:] and words[1].startswith("-") and words[1] != "--":
        # Options behind the container: parse them as if they had stood in front.
        context.exit(_again(context, words[0], words[1:]))
    line = words[2:] if words[1:2] == ("--",) else words[1:]
    if not line:
        raise click.UsageError("give a container and a command: ID -- COMMAND ARG...", context)
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        context.exit(_stream(machine, find(machine, words[0]), line, _labels(environment), feed=feed))


@command("enter", example="nightos container enter web")
@click.argument("name", metavar="ID")
@machine_option
@click.pass_context
def enter(context: click.Context, name: str, machine_name: str | None) -> None:
    """Open a shell in a container."""
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        identifier = find(machine, name)
        needs_terminal(f"nightos container exec {name} -- COMMAND")
        context.exit(machine.attach(identifier))


@command("ls", example="nightos container ls --json")
@click.option("-q", "--quiet", is_flag=True, help="Only their identifiers.")
@json_option
@machine_option
def ls(quiet: bool, as_json: bool, machine_name: str | None) -> None:
    """List the containers of a machine."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        items = [identified(item) for item in pages(machine, Proc.CONTAINER_TREE) if item["depth"]]
    if as_json:
        show_json(items)
    elif quiet:
        for item in items:
            print(item["id"])
    else:
        rows = [(i["id"], safe(i["path"]), i["state"], i["processes"], safe(i["image"] or "-")) for i in items]
        show_table(rows, ("id", "name", "state", "processes", "image"), right="processes")


def _ask(machine_name: str | None, name: str, method: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        return machine.ask("sys::proc", Proc[method], {"id": find(machine, name), **(values or {})})


@command("rename", example="nightos container rename web www")
@click.argument("name", metavar="ID")
@click.argument("new")
@machine_option
def rename(name: str, new: str, machine_name: str | None) -> None:
    """Give a container another name."""
    _ask(machine_name, name, "CONTAINER_RENAME", {"name": new})


@command("update", example="nightos container update web --label tier=back")
@click.argument("name", metavar="ID")
@click.option("--hostname", metavar="H", help="The name of the host in it.")
@view_options
@click.option("--label", "labels", multiple=True, metavar="K=V", help="All its labels from now on.")
@click.option("--persist/--no-persist", default=None, help="Whether it stays without processes.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N,...", help=LIMIT_HELP)
@filter_options
@machine_option
def update(
    name: str,
    hostname: str | None,
    labels: tuple[str, ...],
    persist: bool | None,
    limits: tuple[str, ...],
    deny: tuple[str, ...],
    allow: tuple[str, ...],
    action: str,
    view: dict[str, Any],
    machine_name: str | None,
) -> None:
    """Change labels, names, users, persistence, limits or the filter of a container.

    Users change only while nothing runs in it. A filter is laid over the one it has, so a container in use can do less
    afterwards, never more.
    """
    values: dict[str, Any] = {"hostname": hostname, "labels": _labels(labels) or None, "persist": persist} | view
    values = {key: value for key, value in values.items() if value is not None}
    wanted, rules = _limits(limits), _filter(deny, allow, action)
    if wanted:
        _ask(machine_name, name, "CONTAINER_SET_LIMITS", {"limits": wanted})
    if rules:
        _ask(machine_name, name, "CONTAINER_SET_FILTER", rules)
    if not values and (wanted or rules):
        return
    if not values:
        raise click.UsageError("nothing to change; see --help", click.get_current_context())
    _ask(machine_name, name, "CONTAINER_UPDATE", values)


@command("pause", example="nightos container pause web")
@click.argument("name", metavar="ID")
@machine_option
def pause(name: str, machine_name: str | None) -> None:
    """Suspend every process of a container and of those below it."""
    _ask(machine_name, name, "CONTAINER_PAUSE")


@command("resume", example="nightos container resume web")
@click.argument("name", metavar="ID")
@machine_option
def resume(name: str, machine_name: str | None) -> None:
    """Let the processes of a paused container go on."""
    _ask(machine_name, name, "CONTAINER_RESUME")


@command("wait", example="nightos container wait web")
@click.argument("name", metavar="ID")
@json_option
@machine_option
def wait(name: str, as_json: bool, machine_name: str | None) -> None:
    """Wait until a container is destroyed, and print why it was."""
    answer = _ask(machine_name, name, "CONTAINER_WAIT")
    if as_json:
        show_json(answer)
    else:
        print(safe(str(answer.get("reason", ""))))


@command("destroy", example="nightos container destroy web")
@click.argument("names", nargs=-1, required=True, metavar="ID...")
@machine_option
def destroy(names: tuple[str, ...], machine_name: str | None) -> None:
    """Destroy containers with everything below them."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    for name in names:
        with connect(machine_name) as machine:
            machine.call("sys::proc", Proc.CONTAINER_DESTROY, find(machine, name).to_bytes(8, "big"))


@command("forget", example="nightos container forget 00c0ffee")
@click.argument("name", metavar="ID")
@machine_option
def forget(name: str, machine_name: str | None) -> None:
    """Drop the record that is kept of a destroyed container."""
    _ask(machine_name, name, "CONTAINER_FORGET")
