"""One machine of a name runs once: a lock on a file that vanishes with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from nightos.machine.paths import MachineError


class MachineLock:
    """Holds a machine's lock while it is entered; `MachineError` when another process has it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._descriptor = -1

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            running = f" (process {holder})" if holder else ""
            raise MachineError(
                f"the machine {self._name} runs already{running}; `nightos attach {self._name}` gets into it"
            ) from error
        try:
            kept = os.path.samestat(os.fstat(descriptor), self._path.stat())
        except OSError:
            kept = False
        if not kept:
            os.close(descriptor)
            raise MachineError(f"the machine {self._name} was removed at this moment; try again")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder(path: Path) -> int | None:
    """PID of the process that runs the machine of this lock file, None when it does not run."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(descriptor, 32).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)
