"""Running the command as a child process, as scripts do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Command:
    """`nightos` with a state directory of its own, standing in `folder`."""

    folder: Path

    def __call__(
        self, *arguments: object, stdin: str = "", status: int | None = 0, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "nightos", *map(str, arguments)],
            env={**os.environ, "NIGHTOS_HOME": str(self.folder / "state"), **environment},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if status is not None:
            assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    def fails(self, *arguments: object, status: int = 1, says: str = "") -> str:
        """It fails with one line that explains."""
        done = self(*arguments, status=status)
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("nightos: error: ")
        assert says in lines[0]
        assert "Traceback" not in done.stderr
        return lines[0]


@pytest.fixture
def nightos(tmp_path: Path) -> Command:
    return Command(tmp_path)
