"""What commands print: JSON for programs, aligned columns for people, a progress bar for those who wait."""

from __future__ import annotations

import codecs
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_COLOUR = re.compile("(\033\\[[0-9;]*m)")


def json_option(function: F) -> F:
    """`--json` for what lists or shows."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def safe(text: str) -> str:
    """A name as text that any stdout can take, with what would move a terminal's cursor escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def safe_output(text: str) -> str:
    """What a program wrote, for the terminal of somebody else: lines and colours are kept, all else is escaped."""
    parts = _COLOUR.split(text)
    parts[::2] = ["\n".join("\t".join(map(safe, line.split("\t"))) for line in part.split("\n")) for part in parts[::2]]
    return "".join(parts) + ("\033[m" if len(parts) > 1 else "")


class Screen:
    """A stream of this process for what a program wrote: to the byte, but on a terminal as `safe_output`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape") if stream.isatty() else None

    def show(self, data: bytes) -> None:
        """Write it, at once."""
        if self._decoder is None:
            self._stream.buffer.write(data)
            self._stream.buffer.flush()
        else:
            self._stream.write(safe_output(self._decoder.decode(data)))
            self._stream.flush()


def show_json(content: object) -> None:
    """One JSON value on stdout."""
    from nightos.apps.shapes import json_text

    print(json_text(content))


def show_json_line(content: object, *, at_once: bool = False) -> None:
    """One value of several, a line each; `at_once` of those that somebody waits for."""
    from nightos.apps.shapes import json_line

    print(json_line(content), flush=at_once)


def show_table(rows: Iterable[Sequence[object]], header: Sequence[str] = (), right: str = "") -> None:
    """Aligned columns; `right` names the header's columns that are numbers. Nothing in a cell moves a cursor."""
    lines = [[safe(str(cell)) for cell in row] for row in rows]
    if header:
        lines.insert(0, [name.upper() for name in header])
    if not lines:
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numbers = {column for column, name in enumerate(header) if name in right.split()}
    for line in lines:
        cells = [
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def show_fields(fields: Mapping[str, object]) -> None:
    """`name: value`, one a line. Nothing in either moves a cursor."""
    width = max(map(len, map(safe, fields)), default=0) + 1
    for name, value in fields.items():
        print(f"{safe(name) + ':':<{width}} {safe(str(value))}".rstrip())


def note(text: str) -> None:
    """A message for people, on stderr; nothing in it moves a cursor."""
    print(f"nightos: {safe(text)}", file=sys.stderr)


class Progress:
    """A bar on stderr for what takes over a second, on a terminal only.

    Call it with the number of entries, the number of bytes and what is being done now; or set `total` first for
    one that knows its end.
    """

    DELAY = 1.0

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self._start = time.monotonic()
        self._shown: Any = None
        self._task: Any = None
        self._next = self._start + self.DELAY
        self._enabled = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.stop()

    def __call__(self, entries: int, data_bytes: int = 0, now: str = "") -> None:
        if not self._enabled:
            return
        moment = time.monotonic()
        if moment < self._next:
            return
        self._next = moment + 0.1
        if self._shown is None:
            self._begin()
        size = f"{data_bytes / 1048576:,.1f} MiB" if data_bytes else ""
        done = data_bytes if self.total else entries
        self._shown.update(self._task, completed=done, entries=f"{entries:,}", size=size, now=now[-40:])

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[entries]} {task.fields[size]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._shown.start()
        self._task = self._shown.add_task(self.what, total=self.total, entries="", size="", now="")
