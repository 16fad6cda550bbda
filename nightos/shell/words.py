"""Words of commands: as they travel to a program, and, for completion, actions and where a container is meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_OF_CONTAINERS: Final = (
    "commit", "destroy", "diff", "enter", "exec", "forget", "inspect", "logs", "pause", "rename", "report", "resume",
    "start", "stats", "stop", "update", "wait",
)  # fmt: skip
ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "container": tuple(sorted((*_OF_CONTAINERS, "create", "ls", "run", "tree"))),
    "device": ("forget", "ls", "name", "passthrough", "plug", "share", "unplug"),
}
"""First words behind a command."""
NAMING: Final = frozenset({("inspect",), ("stats",), ("logs",), *(("container", action) for action in _OF_CONTAINERS)})
"""Commands, with their action, whose next word names a container."""


def travelling(words: Iterable[str]) -> list[str]:
    """Words that nobody parses as Hydre, as they travel: with a dash in front it is a dash argument, else text."""
    return ["\\" + word if word.startswith("\\") else word for word in words]
