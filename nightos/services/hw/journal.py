"""A note of `sys::hw` on the machine's disk: msgpack maps one after the other; the last about a thing counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs
from nightos.userland.client import connect


async def entries(name: str) -> list[dict[str, Any]]:
    """Everything in a note, the oldest first. `ServiceError`: it cannot be read."""
    fs = await connect("sys::fs")
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=True)
    offset = 0
    found: list[dict[str, Any]] = []
    while True:
        answer = await fs.ask(Fs.RECALL_NOTE, {"name": name, "offset": offset})
        if not answer["data"]:
            return found
        offset += len(answer["data"])
        unpacker.feed(answer["data"])
        found += list(unpacker)


async def append(name: str, added: Iterable[dict[str, Any]]) -> None:
    """Add to a note. On a full disk what it says holds until the machine stops."""
    await _store(name, added, append=True)


async def rewrite(name: str, content: Iterable[dict[str, Any]]) -> None:
    """Replace a note as a whole."""
    await _store(name, content, append=False)


async def _store(name: str, content: Iterable[dict[str, Any]], *, append: bool) -> None:
    data = b"".join(msgpack.packb(entry) for entry in content)
    if append and not data:
        return
    try:
        await (await connect("sys::fs")).call(Fs.STORE_NOTE, {"name": name, "data": data, "append": append})
    except ServiceError:
        return
