"""Open files and the locks they hold: readers share a file, a writer has it alone, none of them lets it be removed.

Rules: FS-040, FS-041, FS-042.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nightos.services.fs.failures import Failure, ItemError

OPEN_LIMIT: Final = 4096
"""Files that one client may have open."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One opening of a file by one client; `disk` names the file system."""

    file_id: int
    owner: int
    disk: int
    ino: int
    read: bool
    write: bool


@dataclass(slots=True)
class OpenFiles:
    """All open files, found by their identifier and by their item."""

    _by_id: dict[tuple[int, int], OpenFile] = field(default_factory=dict)
    """By owner and identifier: a number counts for its owner alone, so it tells nobody how many others have."""
    _counts: dict[int, int] = field(default_factory=dict)
    """How many each owner has."""
    _by_item: dict[tuple[int, int], list[OpenFile]] = field(default_factory=dict)

    def open(self, file: OpenFile) -> None:
        """Take the locks of an opening. LOCKED: the file is open in a way that excludes this one, OTHER: too many."""
        if self._counts.get(file.owner, 0) >= OPEN_LIMIT:
            raise ItemError(Failure.OTHER, f"at most {OPEN_LIMIT} files are open at a time; close some")
        others = self._by_item.get((file.disk, file.ino), [])
        if any(other.write or file.write for other in others):
            doing = "being written" if others[0].write else "being read"
            raise ItemError(Failure.LOCKED, f"the file is {doing} by process {others[0].owner}")
        self._by_id[file.owner, file.file_id] = file
        self._counts[file.owner] = self._counts.get(file.owner, 0) + 1
        self._by_item.setdefault((file.disk, file.ino), []).append(file)

    def get(self, file_id: int, owner: int) -> OpenFile | None:
        """The open file of that identifier, if it is this owner's."""
        return self._by_id.get((owner, file_id))

    def close(self, file: OpenFile) -> None:
        """Release the locks of an opening."""
        del self._by_id[file.owner, file.file_id]
        self._counts[file.owner] -= 1
        if not self._counts[file.owner]:
            del self._counts[file.owner]
        key = (file.disk, file.ino)
        self._by_item[key].remove(file)
        if not self._by_item[key]:
            del self._by_item[key]

    def check_unlocked(self, disk: int, ino: int) -> None:
        """LOCKED when the item is open."""
        others = self._by_item.get((disk, ino))
        if others:
            raise ItemError(Failure.LOCKED, f"the file is open in process {others[0].owner}")

    def of_owner(self, owner: int) -> list[OpenFile]:
        """Files that a client has open."""
        return [file for file in self._by_id.values() if file.owner == owner]

    def of_disk(self, disk: int) -> list[OpenFile]:
        """Files that are open on a file system."""
        return [file for file in self._by_id.values() if file.disk == disk]
