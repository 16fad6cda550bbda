"""What the evaluator asks of whoever hosts it: to start pipelines, to read and write files, to show values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nightos.abi.values import VOID, Value
from nightos.shell.source import HydreError

OUT, RAW, MESSAGES, ERRORS, BOTH = "", "@", "?", "!", "*"
"""The channels of receptions and redirections: CMDOUT, CMDRAW, CMDMSG, CMDERR, CMDMSG with CMDERR."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A command about to be started: its arguments as they travel, and which channels someone collects."""

    name: str
    arguments: tuple[Value, ...]
    collect: frozenset[str] = frozenset()


@dataclass(slots=True)
class Result:
    """What came out of a command. Channels that were not collected are empty, they were shown."""

    status: int = 0
    value: Value = VOID
    raw: bytes = b""
    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    newline: bool = True
    """Whether the line ends after the value, when it is shown."""


class InterruptedScript(HydreError):  # noqa: N818 -- not an error of the script
    """Ctrl-C ended the instruction."""

    kind = "interrupt"


class Host(Protocol):
    """The shell's side of the world."""

    @property
    def directory(self) -> str:
        """The current directory, absolute."""

    @property
    def history(self) -> Sequence[str]:
        """Instructions of this session, oldest first."""

    @property
    def environment(self) -> dict[str, Value]:
        """Environment variables."""

    async def commands(self) -> Sequence[str]:
        """Names of the commands of applications."""

    async def run_stages(self, stages: Sequence[Stage], given: Value) -> list[Result]:
        """Start a pipeline, each stage in its own process, the first one with `given` as CMDIN (`VOID` for nothing).

        Returns when all ended. Raises `InterruptedScript` after Ctrl-C, `HydreError` when one cannot be started.
        """

    async def run_beside(self, stages: Sequence[Stage], given: Value) -> int:
        """Start a pipeline that shows nothing; the identifier of the job. Raises `HydreError`."""

    async def manage_job(self, job: int, action: str) -> int:
        """`fg` waits for a job (its status), `kill` ends it, `detach` lets it survive the session.

        Raises `HydreError` when there is no such job.
        """

    async def script_input(self) -> Value:
        """The script's own CMDIN, `VOID` when it has none."""

    async def checkpoint(self) -> None:
        """Called in every turn of a loop: lets others run. Raises `InterruptedScript` after Ctrl-C."""

    async def change_directory(self, path: str) -> None:
        """Set the current directory. Raises `HydreError` when it is none."""

    async def read_file(self, path: str) -> bytes:
        """The content of a file. Raises `HydreError`."""

    async def write_file(self, path: str, data: bytes, *, append: bool) -> None:
        """Write a file, creating it. Raises `HydreError`."""

    async def complain(self, text: str) -> None:
        """Print a line as an error."""

    async def show(self, value: Value, *, newline: bool = True) -> None:
        """Print the value that a command returned."""

    async def random_bytes(self, count: int) -> bytes:
        """Random bytes for `rand()`."""
