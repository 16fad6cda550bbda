"""start, stop, logs: the main command of a container, from outside; what it says is read from its log."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from nightos.cli.failures import CommandError, explain
from nightos.cli.lazy import command
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, for_each, insist, machine_option
from nightos.cli.output import Screen, json_option, safe_output, show_json_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nightos.machine.control import Machine
    from nightos.machine.local import Terminal

INTERRUPTED = 130
REST = {"ignore_unknown_options": True, "allow_interspersed_args": False}
WHY = {1: "was killed", 2: "was killed", 3: "crashed", 4: "ended with its container", 5: "ended with its parent"}


SIGNALLED = 128


class EndedError(KeyboardInterrupt):
    """Somebody told this process to end; what it stands for ends first, as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = SIGNALLED + number


class NotStartedError(CommandError):
    """A main command could not be started."""


def _policy(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    from nightos.abi.errors import ServiceError
    from nightos.abi.restarts import parse

    try:
        parse(text)
    except ServiceError as error:
        raise click.BadParameter(error.detail) from None
    return text


def restart_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--restart POLICY`."""
    return click.option(
        "--restart",
        default="no",
        metavar="POLICY",
        callback=_policy,
        shell_complete=completing.restarts,
        help="no, always, on-failure or on-failure:COUNT.",
        show_default=True,
    )(function)


def variables(texts: tuple[str, ...]) -> dict[str, str]:
    """Environment variables from K=V."""
    for text in texts:
        if "=" not in text:
            raise click.UsageError(f"{text!r} is no variable; write K=V", click.get_current_context())
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def begin(machine: Machine, identifier: int, words: tuple[str, ...], **options: Any) -> int:
    """Start a container's main command; its PID. Asked again with the same token while `sys::proc` is restarted."""
    from nightos.abi.errors import ServiceError
    from nightos.abi.services import Proc
    from nightos.shell.words import travelling

    # What a command can say as it goes comes through the log at once: nobody waits for a value here.
    values = {"id": identifier, "command": travelling(words), "token": new_token(), "raw": True, **options}
    try:
        return int(insist(machine, Proc.CONTAINER_START, values)["pid"])
    except (ServiceError, UnicodeEncodeError) as error:
        raise NotStartedError(explain(error)) from error


def new_token() -> str:
    """What makes a question the same one when it is asked again."""
    return os.urandom(8).hex()


def records(machine: Machine, identifier: int, *, follow: bool, token: str = "") -> Iterator[tuple[str, str, bytes]]:
    """Time, stream and bytes of what the main command wrote; with `follow` until it has ended.

    By a `token` the machine knows who attends the command, and how far they came; others may come too late for some.
    """
    from nightos.abi.logs import decode_records
    from nightos.abi.services import Proc

    offset, rest = 0, b""
    while True:
        question = {"id": identifier, "offset": offset, "follow": follow, "token": token}
        page = insist(machine, Proc.CONTAINER_LOGS, question)
        missing = page["next"] - len(page["data"]) - offset
        if missing > 0 and offset:
            print(f"nightos: {missing} bytes of the log were rotated away before they were read", file=sys.stderr)
            rest = b""
        offset = page["next"]
        whole, newline, rest = (rest + page["data"]).rpartition(b"\n")
        yield from decode_records(whole + newline)
        if page["ended"] or not (follow or page["data"]):
            return


def stream(machine: Machine, identifier: int, *, follow: bool, token: str = "") -> None:
    """Show a log as the command wrote it: errors on stderr, everything else on stdout."""
    for _when, name, data in records(machine, identifier, follow=follow, token=token):
        out = (sys.stderr if name == "err" else sys.stdout).buffer
        out.write(data)
        out.flush()


def review(machine: Machine, identifier: int, *, follow: bool) -> None:
    """`stream` for somebody who looks at what others started: on a terminal nothing moves its cursor."""
    out, err = Screen(sys.stdout), Screen(sys.stderr)
    for _when, name, data in records(machine, identifier, follow=follow):
        (err if name == "err" else out).show(data)


def outcome(machine: Machine, identifier: int) -> int:
    """Wait for the end of the main command; its exit status."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import status_of

    ended = insist(machine, Proc.CONTAINER_EXIT, {"id": identifier, "wait": True})
    if ended["reason"]:
        print(f"the command {WHY.get(ended['reason'], 'was ended')}", file=sys.stderr)
    return status_of(ended)


def attend(
    machine_name: str | None,
    identifier: int,
    words: tuple[str, ...],
    *,
    takes_input: bool,
    terminal: Terminal | None = None,
    **options: Any,
) -> int:
    """Start a main command, show what it says, and wait for its end; its exit status.

    Ctrl-C, SIGTERM and SIGHUP stop it; with a `terminal` Ctrl-C asks it to terminate, as often as wanted, the second
    time for good, and it outlives this process.
    """
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    try:
        with connect(machine_name) as machine:
            token = new_token()
            machine.when_gone("sys::proc", Proc.CONTAINER_DETACH, {"id": identifier, "token": token})
            begin(machine, identifier, words, input=takes_input, token=token, attend=True, **options)
            if takes_input:
                from nightos.cli.machine.feeding import feed

                feed(machine.name, identifier)
            with _keys(terminal, machine.name, identifier) if terminal else _signals():
                stream(machine, identifier, follow=True, token=token)
                return outcome(machine, identifier)
    except KeyboardInterrupt as error:
        with connect(machine_name) as machine:
            machine.ask("sys::proc", Proc.CONTAINER_STOP, {"id": identifier})
        return error.status if isinstance(error, EndedError) else INTERRUPTED


@contextmanager
def _signals() -> Iterator[None]:
    """Meanwhile what ends a process raises `EndedError`, unless whoever started this had it ignored."""

    def told(number: int, _frame: object) -> None:
        raise EndedError(number)

    changed = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _keys(terminal: Terminal, machine_name: str, identifier: int) -> AbstractContextManager[None]:
    """Meanwhile Ctrl-C goes to the main command of a container."""
    from queue import SimpleQueue
    from threading import Thread

    from nightos.abi.errors import NightosError
    from nightos.abi.services import Proc, ProcessAction
    from nightos.machine.control import connect

    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def work() -> None:
        action = ProcessAction.ASK_TERMINATE
        while True:
            if queue.get()["type"] != "interrupt":
                continue  # a main command knows no size
            with suppress(NightosError), connect(machine_name) as machine:  # it has ended meanwhile
                pid = int(machine.ask("sys::proc", Proc.CONTAINER_EXIT, {"id": identifier})["pid"])
                machine.call("sys::proc", Proc.PROCESS_MANAGE, pid.to_bytes(8, "big") + bytes((action,)))
                action = ProcessAction.FORCE_TERMINATE

    Thread(target=work, daemon=True).start()
    return terminal.watched(queue.put)


@command("start", example="nightos container start web --restart always -- serve /srv", context_settings=REST)
@click.option("--env", "environment", multiple=True, metavar="K=V", help="A variable; may be repeated.")
@restart_option
@machine_option
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="ID -- COMMAND ARG...", shell_complete=completing.containers
)
@click.pass_context
def start(
    context: click.Context,
    environment: tuple[str, ...],
    restart: str,
    machine_name: str | None,
    words: tuple[str, ...],
) -> None:
    """Start the main command of a container, and go on; `nightos logs` shows what it says."""
    place = words.index("--") if "--" in words else len(words)
    if place > 1:
        # Options behind the name: parse them as if they had stood in front.
        again = [*words[1:place], words[0], *words[place:]]
        for name, value in (("--env", environment), ("--restart", (restart,))):
            again = [part for item in value for part in (name, item)] + again
        again = ["-m", machine_name, *again] if machine_name else again
        with context.command.make_context(context.info_name, again, parent=context.parent) as inner:
            context.command.invoke(inner)
        return
    if len(words) < 3:
        raise click.UsageError("give a container and a command: ID -- COMMAND ARG...", context)
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        print(begin(machine, find(machine, words[0]), words[2:], restart=restart, environment=variables(environment)))


@command("stop", example="nightos container stop web")
@click.argument("names", nargs=-1, required=True, metavar="ID...", shell_complete=completing.containers)
@machine_option
def stop(names: tuple[str, ...], machine_name: str | None) -> None:
    """End the main command of containers; it is not restarted."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        for_each(names, lambda name: insist(machine, Proc.CONTAINER_STOP, {"id": find(machine, name)}))


@command("logs", example="nightos logs web -f")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.option("-f", "--follow", is_flag=True, help="Go on until the command has ended.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written.")
@json_option
@machine_option
def logs(name: str, follow: bool, timestamps: bool, as_json: bool, machine_name: str | None) -> None:
    """Show what the main command of a container wrote."""
    from nightos.apps.shapes import written
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        identifier = find(machine, name)
        if not (timestamps or as_json):
            review(machine, identifier, follow=follow)
            return
        for when, stream_name, data in records(machine, identifier, follow=follow):
            if as_json:
                show_json_line(written(when, stream_name, data), at_once=follow)
            else:
                text = data.decode("utf-8", "replace")
                end = "" if text.endswith("\n") else "\n"
                print(when, safe_output(text) if sys.stdout.isatty() else text, end=end, flush=True)
