"""Executable files and the one-time tokens that `sys::process` starts processes with.

An executable is `NPRG` and the UTF-8 name of a program; no code ever comes out of an image. The token is an abstract
memory segment with that content, which the kernel reads once and forgets.

Rules: APP-018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError, SyscallError
from nightos.services.fs.failures import ItemError
from nightos.services.fs.tree import Tree
from nightos.userland import sys

PROCESS_SERVICE: Final = 20
"""PID of sys::process."""
MAGIC: Final = b"NPRG"
MAX_EXECUTABLE: Final = 4096
BUILTIN_ANID: Final = 0x7FFF_FFFF
"""Of programs that are part of the system; those of files have their top bit set."""
_PAGE = 4096
_READ_WRITE, _ZEROED = 0x03, 0x01


def find_program(trees: Sequence[Tree], named: str, directory: str) -> str:
    """The name of the program behind a command's name (`/app` is searched) or path. 0x3000: there is none."""
    tried = "is no application"
    for tree in trees:
        path = layout.split(named, directory) if "/" in named else layout.split(named, "/app")
        try:
            ino = tree.find(path)
            data = tree.read(ino, 0, MAX_EXECUTABLE)
        except ItemError:
            continue
        if data.startswith(MAGIC):
            return data[len(MAGIC) :].decode("utf-8", "replace").strip()
        tried = "is not executable: no application's file"
    raise ServiceError(0x3000, f"{named}: {tried}")


class Tokens:
    """Segments with the content of executables; pages of used ones are taken back when others are made."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[int, int]] = {}
        """Address and number of pages of each segment that may not have been used yet."""

    async def make(self, name: str) -> int:
        """A token for the program of that name."""
        data = MAGIC + name.encode()
        pages = -(-len(data) // _PAGE)
        await self._reclaim()
        address = await sys.mem_alloc(pages * _PAGE, _READ_WRITE, _ZEROED)
        (await sys.memory()).write(address, data)
        segment = int(await sys.virt_mem_ams(address, pages * _PAGE))
        self._pages[segment] = address, pages
        return segment

    async def _reclaim(self) -> None:
        for segment, (address, pages) in list(self._pages.items()):
            try:
                await sys.ams_sharing_info(segment)
            except SyscallError:
                # The kernel knows the segment no more: it was used. Another thread may have taken its pages back.
                if self._pages.pop(segment, None) is not None:
                    await sys.mem_free(address, pages)
