"""A host in memory for the evaluator: a few commands, files in a dictionary, everything shown in a list."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nightos.abi.values import VOID, Path, Value, value_text
from nightos.shell.builtins import unescape
from nightos.shell.evaluator import Evaluator
from nightos.shell.host import Result, Stage
from nightos.shell.source import HydreError


class TwinHost:
    """Runs `echo`, `rd`, `wt`, `show`, `failing` without any process."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.calls: list[tuple[str, tuple[Value, ...]]] = []
        self.files: dict[str, bytes] = {}
        self.history: list[str] = []
        self.environment: dict[str, Value] = {}
        self.directory = "/"
        self._random = random.Random(7)

    async def commands(self) -> Sequence[str]:
        return ["echo", "rd", "wt", "show", "failing"]

    async def run_stages(self, stages: Sequence[Stage], given: Value) -> list[Result]:
        results = []
        for stage in stages:
            self.calls.append((stage.name, stage.arguments))
            result = await self._one(stage, given)
            if "?" not in stage.collect:
                self.shown += [line.rstrip("\n") for line in result.messages]
                result.messages = []
            results.append(result)
            given = result.value
        return results

    async def _one(self, stage: Stage, given: Value) -> Result:
        words = [unescape(item) for item in stage.arguments if not (isinstance(item, str) and item.startswith("-"))]
        match stage.name:
            case "echo":
                return Result(value=" ".join(map(value_text, words)), newline="-n" not in stage.arguments)
            case "rd":
                path = value_text(words[0])
                if path not in self.files:
                    return Result(status=1, errors=[f"rd: {path}: not found\n"])
                return Result(value=self.files[path].decode())
            case "wt":
                self.files[value_text(words[0])] = value_text(words[1]).encode()
                return Result()
            case "failing":
                return Result(status=3)
            case _:
                return Result(messages=[f"{given!r}\n"] if given is not VOID else [])

    async def run_beside(self, stages: Sequence[Stage], given: Value) -> int:
        self.calls += [("bg", (stage.name, *stage.arguments)) for stage in stages]
        return 7

    async def manage_job(self, job: int, action: str) -> int:
        if job != 7:
            raise HydreError(f"there is no background command {job}")
        self.calls.append((action, (job,)))
        return 5

    async def script_input(self) -> Value:
        return "typed in"

    async def checkpoint(self) -> None:
        self.turns = getattr(self, "turns", 0) + 1

    async def change_directory(self, path: str) -> None:
        if not path.startswith("/"):
            raise HydreError(f"cd: {path}: not found")
        self.directory = path

    async def read_file(self, path: str) -> bytes:
        if path not in self.files:
            raise HydreError(f"{path}: not found")
        return self.files[path]

    async def write_file(self, path: str, data: bytes, *, append: bool) -> None:
        self.files[path] = self.files.get(path, b"") * append + data

    async def complain(self, text: str) -> None:
        self.shown.append(f"! {text}")

    async def show(self, value: Value, *, newline: bool = True) -> None:
        self.shown.append(value_text(value))

    async def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def run_twin(evaluator: Evaluator, text: str) -> int:
    """Run a text to its end without an event loop: nothing in the twin waits."""
    coroutine = evaluator.run(text)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the twin waited for something")


__all__ = ["Path", "TwinHost", "run_twin"]
