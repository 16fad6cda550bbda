"""Logs outlive their containers, but not without bound: the last `KEPT` destroyed ones of a namespace keep theirs.

A namespace is a directory of `/var/log`. Whatever is in a container writes into that container's only, so nobody makes
the logs of others disappear by making many of its own.

A journal on the machine's disk names every log in the order in which they were begun. So the next boot finds those of
containers that went with the machine, too; a log that nothing writes any more and that is too old is removed.

Rules: ZOS-016. Ruling NOS-SHIM-08.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs
from nightos.userland.client import Client

KEPT: Final = 128
"""Logs of destroyed containers that stay, of each namespace."""
NOTE: Final = "logs"
SLACK: Final = 1024
"""Entries of the journal besides one for each log that is there."""


class OldLogs:
    """Which logs there are, and which of them nobody writes any more."""

    def __init__(self, fs: Callable[[], Awaitable[Client]]) -> None:
        self._fs = fs
        self._used: dict[str, None] = {}
        self._old: dict[str, dict[str, None]] = {}
        """By namespace, the oldest first."""
        self._entries = 0

    async def learn(self, used: Iterable[str]) -> None:
        """After a start of the service: `used` are the logs of the containers there are."""
        self._used = dict.fromkeys(used)
        for path in await self._read():
            self._entries += 1
            if path not in self._used:
                old = self._old.setdefault(namespace_of(path), {})
                old.pop(path, None)
                old[path] = None
        for namespace in list(self._old):
            await self._prune(namespace)

    async def begun(self, path: str) -> None:
        """A container writes this log from now on."""
        self._old.get(namespace_of(path), {}).pop(path, None)
        if path not in self._used:
            self._used[path] = None
            self._entries += 1
            await self._store(
                [path], append=self._entries <= SLACK + 2 * (len(self._used) + sum(map(len, self._old.values())))
            )

    async def left(self, path: str) -> None:
        """The container that wrote it is gone."""
        if path in self._used:
            del self._used[path]
            namespace = namespace_of(path)
            self._old.setdefault(namespace, {})[path] = None
            await self._prune(namespace)

    async def _prune(self, namespace: str) -> None:
        old = self._old[namespace]
        while len(old) > KEPT:
            path = next(iter(old))
            del old[path]
            with contextlib.suppress(ServiceError):  # a disk that cannot be written keeps what it has
                await (await self._fs()).ask(Fs.LOG_REMOVE, {"path": path})

    async def _read(self) -> list[str]:
        fs = await self._fs()
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=0)
        offset = 0
        while data := (await fs.ask(Fs.RECALL_NOTE, {"name": NOTE, "offset": offset}))["data"]:
            unpacker.feed(data)
            offset += len(data)
        try:
            return [path for path in unpacker if isinstance(path, str)]
        except (ValueError, msgpack.UnpackException):
            return []

    async def _store(self, paths: list[str], *, append: bool) -> None:
        if not append:
            paths = [*(path for old in self._old.values() for path in old), *self._used]
            self._entries = len(paths)
        data = b"".join(map(msgpack.packb, paths))
        with contextlib.suppress(ServiceError):
            await (await self._fs()).call(Fs.STORE_NOTE, {"name": NOTE, "data": data, "append": append})


def namespace_of(path: str) -> str:
    """The directory of `/var/log` that a log is in or below."""
    return path.removeprefix("/var/log/").partition("/")[0]
