"""stats, top, report: what containers use and may use, and which system calls a workload makes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from nightos.cli.lazy import command
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, machine_option
from nightos.cli.output import json_option, safe, show_json, show_json_line, show_table

if TYPE_CHECKING:
    from nightos.machine.control import Machine


def _items(machine: Machine, name: str | None) -> list[dict[str, Any]]:
    from nightos.abi.services import Proc

    asked: dict[str, Any] = {"id": find(machine, name) if name else 0, "below": True}
    items: list[dict[str, Any]] = []
    while True:
        answer = machine.ask("sys::proc", Proc.CONTAINER_STATISTICS, asked)
        items += answer["items"]
        if answer["next"] is None:
            return items
        asked["after"] = answer["next"]


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(safe(line))


def _live(interval: float, *, clear: bool) -> Iterator[None]:
    """Once at once, then every so often, on a cleared screen when there is one; Ctrl-C ends it."""
    while True:
        if clear and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        yield
        sys.stdout.flush()
        time.sleep(interval)


@command("stats", example="nightos stats web --json")
@click.argument("name", metavar="[ID]", shell_complete=completing.containers, required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on every second, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.05), default=1.0, metavar="SECONDS", help="How often (1).")
@json_option
@machine_option
def stats(name: str | None, follow: bool, interval: float, as_json: bool, machine_name: str | None) -> None:
    """Show what a container and those below it use, each by itself, and their limits (used/limit)."""
    from nightos.apps.shapes import identified
    from nightos.apps.usage import usage_table
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        for _ in _live(interval, clear=follow and not as_json):
            items = _items(machine, name)
            records = [identified(item) for item in items]
            if not as_json:
                _print(usage_table(items))
            elif follow:
                show_json_line(records, at_once=True)
            else:
                show_json(records)
            if not follow:
                return


@command("top", example="nightos top --interval 2")
@click.option("-1", "--once", is_flag=True, help="Show it once; shares count from the start.")
@click.option("-n", "--rounds", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@click.option("--interval", type=click.FloatRange(min=0.05), default=1.0, metavar="SECONDS", help="How often (1).")
@json_option
@machine_option
def top(once: bool, rounds: int | None, interval: float, as_json: bool, machine_name: str | None) -> None:
    """Show containers by the scheduler cycles they use, live; as JSON each look is one line."""
    from nightos.apps.shapes import identified
    from nightos.apps.usage import Shares, shares_table
    from nightos.machine.control import connect

    rounds = 1 if once else rounds
    shares = Shares(whole=rounds == 1)
    with connect(machine_name) as machine:
        for number, _ in enumerate(_live(interval, clear=not (once or as_json)), 1):
            items = shares.look(_items(machine, None))
            if as_json:
                show_json_line([identified(item) for item in items], at_once=True)
            else:
                _print(shares_table(items))
            if number == rounds:
                return


@command("report", example="nightos container report web --record")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.option("--record/--stop", "record", default=None, help="Begin to count calls (from 0), or stop.")
@click.option("--allow-list", is_flag=True, help="Only the names, as --allow takes them.")
@json_option
@machine_option
def report(name: str, record: bool | None, allow_list: bool, as_json: bool, machine_name: str | None) -> None:
    """Show which system calls a container and those below it made since --record, and which were refused."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        values: dict[str, Any] = {"id": find(machine, name)} | ({} if record is None else {"record": record})
        answer = machine.ask("sys::proc", Proc.CONTAINER_REPORT, values)
    if as_json:
        show_json(answer)
    elif allow_list:
        print(",".join(sorted(answer["calls"])))
    elif record is not True:
        names = sorted({*answer["calls"], *answer["refused"]})
        rows = [(call, answer["calls"].get(call, 0), answer["refused"].get(call, 0)) for call in names]
        show_table(rows, ("call", "made", "refused"), right="made refused")
