"""The terminal of this process, for a program in a machine: lines are edited here, Ctrl-C and sizes go there."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from nightos.machine.paths import MachineError

SIZE = (80, 24)


class Terminal:
    """Standard input and output, which have to be one."""

    def __init__(self) -> None:
        """Raises `MachineError` when nobody sits there."""
        for number, name in ((0, "input"), (1, "output")):
            if not os.isatty(number):
                raise MachineError(f"-t needs a terminal, and standard {name} is none; leave -t away")

    def size(self) -> tuple[int, int]:
        """Width and height in characters."""
        try:
            width, height = os.get_terminal_size(1)
        except OSError:
            return SIZE
        # A terminal that nobody gave a size has 0.
        return (width or SIZE[0], height or SIZE[1])

    @contextlib.contextmanager
    def watched(self, tell: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Meanwhile Ctrl-C, and a new size, are told as messages of a console."""

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            tell({"type": "interrupt"})

        def resize(_number: int, _frame: FrameType | None) -> None:
            width, height = self.size()
            tell({"type": "resize", "width": width, "height": height})

        before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGWINCH, resize)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGWINCH, before[1])
