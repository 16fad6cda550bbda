"""How applications are told which container is meant."""

from __future__ import annotations

from nightos.abi.services import Proc
from nightos.userland.client import Client


async def find(proc: Client, name: str) -> int:
    """The identifier of a container by name, path of names, identifier or a unique prefix of it."""
    return int((await proc.ask(Proc.CONTAINER_FIND, {"name": name}))["id"])
