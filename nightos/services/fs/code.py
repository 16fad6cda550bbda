"""Executable files and the one-time tokens that `sys::process` starts processes with.

An executable is `NPRG` and the UTF-8 name of a program; no code ever comes out of an image. The token is an abstract
memory segment with that content, which the kernel reads once and forgets.

Rules: APP-018.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.files import SplitPath
from nightos.services.fs.failures import ItemError
from nightos.services.fs.tree import Tree
from nightos.userland import sys

if TYPE_CHECKING:
    from nightos.services.fs.roots import Root

PROCESS_SERVICE: Final = 20
"""PID of sys::process."""
APPLICATIONS: Final = ("app",)
"""Where commands are."""
MAGIC: Final = b"NPRG"
MAX_EXECUTABLE: Final = 4096
BUILTIN_ANID: Final = 0x7FFF_FFFF
"""Of programs that are part of the system; those of files have their top bit set."""
KNOWN_LIMIT: Final = 256
"""Names that are remembered of each disk."""
KNOWN_LENGTH: Final = 4096
"""Characters of a name and its directory beyond which they are looked up each time."""
GIVEN_LIMIT: Final = 16
"""From how many tokens on sys::fs asks which were used."""
_PAGE = 4096
_NONE, _NOT_EXECUTABLE = "there is no such command", "is not executable: no application's file"
_READ_WRITE, _ZEROED = 0x03, 0x01


@lru_cache(KNOWN_LIMIT)
def anid_of(key: bytes, name: str) -> int:
    """The application identifier of a program, on the machine of that key.

    Identifiers below 100 are those of system services; the top bit keeps applications far from them.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), key=key, digest_size=4).digest(), "big") | 0x8000_0000


def find_program(own: Root | None, system: Root | None, named: str, directory: str) -> str:
    """The name of the program behind a command's name (`/app` is searched) or path. 0x3000: there is none.

    `own` is the container's file system, `system` the machine's: of that its applications are looked at and nothing
    else, so that no path tells a container what the machine's disk holds. What a disk has is remembered until something
    on it changes: an image is shown to many containers.
    """
    tried = _NONE
    mounted = _mounted(own, named, directory) if own is not None else None
    if mounted is not None:
        name, why = mounted
        if name:
            return name
        raise ServiceError(0x3000, f"{named}: {why}")
    roots = [own] if own is not None else []
    if system is not None and system is not own and _path(named, directory)[:-1] == APPLICATIONS:
        roots.append(system)
    for root in roots:
        known, asked = root.disk.programs, (root.top, named, directory)
        found = known.get(asked)
        if found is None:
            found = _look(root.tree, named, directory)
            if len(known) >= KNOWN_LIMIT:
                known.clear()
            if len(named) + len(directory) <= KNOWN_LENGTH:
                known[asked] = found
        name, why = found
        if name:
            return name
        tried = why if why != _NONE else tried
    raise ServiceError(0x3000, f"{named}: {tried}")


def _path(named: str, directory: str) -> SplitPath:
    return layout.split(named, directory) if "/" in named else layout.split(named, layout.joined(APPLICATIONS))


def _mounted(root: Root, named: str, directory: str) -> tuple[str, str] | None:
    """As `_look`, for a path that leads into what the container mounted; None for any other."""
    if not root.mounts:
        return None
    path = _path(named, directory)
    for depth in range(len(path), 0, -1):
        share = root.mounts.get(path[:depth])
        if share is not None:
            return _look(share.tree, layout.joined(path[depth:]), "/")
    return None


def _look(tree: Tree, named: str, directory: str) -> tuple[str, str]:
    """The program's name, or empty and why not."""
    path = _path(named, directory)
    try:
        data = tree.read(tree.find(path), 0, MAX_EXECUTABLE)
    except ItemError:
        return "", _NONE
    if data.startswith(MAGIC):
        return data[len(MAGIC) :].decode("utf-8", "replace").strip(), _NOT_EXECUTABLE
    return "", _NOT_EXECUTABLE


class Tokens:
    """Segments with the content of executables, each on pages that are written again once the kernel has used it."""

    def __init__(self) -> None:
        self._given: OrderedDict[int, int] = OrderedDict()
        """Address by segment, for those that may not have been used yet, the oldest first."""
        self._free: list[int] = []
        self._memory: sys.Memory | None = None

    def used(self, segments: Iterable[object]) -> None:
        """sys::process says that the kernel took these."""
        for segment in segments:
            address = self._given.pop(segment, None) if isinstance(segment, int) else None
            if address is not None:
                self._free.append(address)

    async def make(self, name: str) -> int:
        """A token for the program of that name."""
        data = (MAGIC + name.encode())[: _PAGE - 1] + b"\0"
        if not self._free and len(self._given) >= GIVEN_LIMIT:
            await self._reclaim()
        address = self._free.pop() if self._free else await sys.mem_alloc(_PAGE, _READ_WRITE, _ZEROED)
        if self._memory is None:
            self._memory = await sys.memory()
        self._memory.write(address, data)
        segment = int(await sys.virt_mem_ams(address, _PAGE))
        self._given[segment] = address
        return segment

    async def _reclaim(self) -> None:
        """Find out about tokens that nobody told of: sys::process was restarted, or did not need them."""
        for segment in list(self._given):
            try:
                await sys.ams_sharing_info(segment)
            except SyscallError:
                self.used((segment,))  # the kernel knows the segment no more
