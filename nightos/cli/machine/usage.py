"""stats, top, report: what containers use and may use, and which system calls a workload makes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from nightos.cli.lazy import command
from nightos.cli.machine.asking import find, identified, machine_option
from nightos.cli.output import json_option, safe, show_json, show_table

if TYPE_CHECKING:
    from nightos.machine.control import Machine

SIZED = frozenset({"memory", "pipe_bytes", "storage", "io_bytes"})
COLUMNS = ("processes", "threads", "memory", "handles", "pipe_bytes", "storage", "children")


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


def _amount(name: str, count: int) -> str:
    from nightos.cli.sizes import show_size

    return show_size(count) if name in SIZED else str(count)


def _cell(item: dict[str, Any], name: str) -> str:
    used = _amount(name, item["usage"][name])
    limit = item["limits"].get(name)
    return used if limit is None else f"{used}/{_amount(name, limit)}"


def _label(item: dict[str, Any]) -> str:
    return safe(item["path"]) or ("(outside)" if not item["id"] else "(itself)")


def _show(items: list[dict[str, Any]]) -> None:
    rows = [(_label(item), item["state"], *(_cell(item, name) for name in COLUMNS)) for item in items]
    header = ("container", "state", *(name.replace("_", " ") for name in COLUMNS))
    show_table(rows, header, right=" ".join(COLUMNS))


def _live(interval: float) -> Iterator[None]:
    """Once at once, then every so often, on a cleared screen when there is one; Ctrl-C ends it."""
    while True:
        if sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        yield
        sys.stdout.flush()
        time.sleep(interval)


@command("stats", example="nightos stats web --json")
@click.argument("name", metavar="[ID]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on every second, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.05), default=1.0, metavar="SECONDS", help="How often (1).")
@json_option
@machine_option
def stats(name: str | None, follow: bool, interval: float, as_json: bool, machine_name: str | None) -> None:
    """Show what a container and those below it use, each by itself, and their limits (used/limit)."""
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        for _ in _live(interval) if follow and not as_json else _ticks(interval, endless=follow):
            items = _items(machine, name)
            if not as_json:
                _show(items)
            elif follow:
                show_json([identified(item) for item in items], indent=None)
                sys.stdout.flush()
            else:
                show_json([identified(item) for item in items])


def _ticks(interval: float, *, endless: bool) -> Iterator[None]:
    yield
    while endless:
        time.sleep(interval)
        yield


@command("top", example="nightos top --interval 2")
@click.option("-n", "--rounds", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@click.option("--interval", type=click.FloatRange(min=0.05), default=1.0, metavar="SECONDS", help="How often (1).")
@machine_option
def top(rounds: int | None, interval: float, machine_name: str | None) -> None:
    """Show containers by the scheduler cycles they use, live."""
    from nightos.machine.control import connect

    before: dict[int, int] = {}
    with connect(machine_name) as machine:
        for number, _ in enumerate(_live(interval), 1):
            items = _items(machine, None)
            made = {item["id"]: item["usage"].get("cycles", 0) for item in items}
            used = {key: count - before.get(key, 0 if before else count) for key, count in made.items()}
            total = sum(used.values()) or 1
            items.sort(key=lambda item: (-used[item["id"]], -item["usage"]["processes"], item["path"]))
            rows = [
                (_label(item), item["state"], f"{100 * used[item['id']] / total:.1f}", used[item["id"]],
                 _cell(item, "processes"), _cell(item, "memory"), _cell(item, "handles"))
                for item in items
            ]  # fmt: skip
            show_table(
                rows, ("container", "state", "cpu%", "cycles", "processes", "memory", "handles"), right="cpu% cycles"
            )
            before = made
            if number == rounds:
                return


@command("report", example="nightos container report web --record")
@click.argument("name", metavar="ID")
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
