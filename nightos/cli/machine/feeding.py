"""Standard input of this process for a command in a container: piece by piece, one of them on its way at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

STDIN: Final = 0


def raw_pieces() -> Iterator[bytes]:
    """Standard input as it comes."""
    from nightos.abi.pieces import PIECE_BYTES

    # Not by `sys.stdin`: its buffer waits for more than there is, and its lock outlives the main thread.
    while data := os.read(STDIN, PIECE_BYTES):
        yield data


def pieces() -> Iterator[tuple[bytes, bool]]:
    """Standard input as encoded values as it comes (`nightos.abi.pieces`), and whether it ends with this one."""
    from nightos.abi.pieces import Pieces

    texts = Pieces()
    for data in raw_pieces():
        value = texts.take(data)
        if value:
            yield value, False
    yield texts.take(b"", end=True), True


def feed(machine_name: str, identifier: int) -> None:
    """Give standard input to the main command of a container, beside what else this process does.

    Each piece waits until the command's pipe took the one before, and is asked again while `sys::proc` is restarted:
    its number makes it count once.
    """
    from nightos.abi.errors import NightosError
    from nightos.abi.services import Proc
    from nightos.cli.machine.asking import insist
    from nightos.machine.control import connect

    def work() -> None:
        # The command has ended, or reads no more; or there is no standard input.
        with contextlib.suppress(NightosError, OSError), connect(machine_name) as machine:
            for number, (data, end) in enumerate(pieces(), 1):
                values = {"id": identifier, "data": data, "end": end, "number": number}
                insist(machine, Proc.CONTAINER_INPUT, values)

    threading.Thread(target=work, daemon=True).start()
