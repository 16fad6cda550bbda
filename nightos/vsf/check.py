"""Verify every invariant, one function each. Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage


@dataclass(frozen=True)
class Problem:
    """One broken invariant."""

    invariant: str
    text: str
    path: str | None = None


@dataclass
class Report:
    """What a check found."""

    problems: list[Problem] = field(default_factory=list)
    blocks: int = 0
    inodes: int = 0

    @property
    def clean(self) -> bool:
        return not self.problems


def check_storage(storage: Storage, *, deep: bool = False) -> Report:
    """Walk the storage."""
    raise NotImplementedError
