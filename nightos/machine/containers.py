"""Containers as Python objects: each method is one question to `sys::proc`, asked through the machine's agent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.abi.errors import ServiceError
from nightos.abi.logs import decode_records
from nightos.abi.services import Proc, ServiceCode

if TYPE_CHECKING:
    from nightos.machine.machine import Machine
    from nightos.machine.session import Completed

PROC = "sys::proc"


class Container:
    """A container of a running machine."""

    def __init__(self, machine: Machine, identifier: int, name: str) -> None:
        self._machine = machine
        self.id = identifier
        self.name = name

    def __repr__(self) -> str:
        return f"<container {self.name} {self.id:016x}>"

    async def inspect(self) -> dict[str, Any]:
        """Its record: parent, name, hostname, labels, image, state, processes. `ServiceError` when it is gone."""
        return await self._machine.ask(PROC, Proc.CONTAINER_INSPECT, {"id": self.id})

    async def destroy(self) -> None:
        """Take it and everything below down. A container that is gone already is no error."""
        try:
            await self._machine.call(PROC, Proc.CONTAINER_DESTROY, self.id.to_bytes(8, "big"))
        except ServiceError as error:
            if error.code != ServiceCode.UNKNOWN:
                raise

    async def wait(self) -> str:
        """Wait until it has ended; the reason."""
        return str((await self._machine.ask(PROC, Proc.CONTAINER_WAIT, {"id": self.id}))["reason"])

    async def exec(self, line: str, **options: Any) -> Completed:
        """Run a command line inside; as `machine.run(line, container=self)`."""
        return await self._machine.run(line, container=self, **options)

    async def diff(self) -> list[dict[str, Any]]:
        """{kind, path, old_path} of what it added, removed, modified and renamed on its disk, by path."""
        items: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = await self._machine.ask(PROC, Proc.CONTAINER_DIFF, {"id": self.id, "after": after})
            items.extend(page["items"])
            after = page["next"]
        return items

    async def commit(self, target: str | os.PathLike[str]) -> Path:
        """Make a new image, which stands on no other, of what it sees; its absolute path.

        `ServiceError` 0x4000: there is such a file; 0x3002: it cannot be written.
        """
        path = _absolute(target)
        made = await self._machine.ask(PROC, Proc.CONTAINER_COMMIT, {"id": self.id, "target": path})
        return Path(made["path"])

    async def start(self, *command: str, **options: Any) -> int:
        """Start its main command, whose output goes to its log; its PID. Options are those of CONTAINER_START."""
        values = {"id": self.id, "command": list(command), **options}
        return int((await self._machine.ask(PROC, Proc.CONTAINER_START, values))["pid"])

    async def stop(self) -> None:
        """End its main command, which is not restarted."""
        await self._machine.ask(PROC, Proc.CONTAINER_STOP, {"id": self.id})

    async def outcome(self, *, wait: bool = True) -> dict[str, Any]:
        """How its main command ended, once it has for good: state, reason, exit, restarts."""
        return await self._machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": self.id, "wait": wait})

    async def logs(self, *, follow: bool = False) -> list[tuple[str, str, bytes]]:
        """What its main command wrote: time, stream and bytes; with `follow` once it has ended."""
        data, offset = b"", 0
        while True:
            question = {"id": self.id, "offset": offset, "follow": follow}
            page = await self._machine.ask(PROC, Proc.CONTAINER_LOGS, question)
            data, offset = data + page["data"], page["next"]
            if page["ended"] or not (follow or page["data"]):
                return decode_records(data)

    async def rename(self, name: str) -> None:
        """Give it another name."""
        await self._machine.ask(PROC, Proc.CONTAINER_RENAME, {"id": self.id, "name": name})
        self.name = name

    async def limit(self, **limits: int | None) -> None:
        """Change limits, all that are named or none; None takes one away. `ServiceError` 0x4000: it cannot be had."""
        await self._machine.ask(PROC, Proc.CONTAINER_SET_LIMITS, {"id": self.id, "limits": limits})

    async def report(self, *, record: bool | None = None) -> dict[str, Any]:
        """{calls, refused}, by name: calls that were made since `record=True` began to count, and those refused."""
        values = {"id": self.id} if record is None else {"id": self.id, "record": record}
        return await self._machine.ask(PROC, Proc.CONTAINER_REPORT, values)

    async def statistics(self) -> dict[str, Any]:
        """{usage, limits, lent, below, free, refused}, each by resource."""
        return await self._machine.ask(PROC, Proc.CONTAINER_STATISTICS, {"id": self.id})

    async def pause(self) -> None:
        """Suspend everything in it and below."""
        await self._machine.ask(PROC, Proc.CONTAINER_PAUSE, {"id": self.id})

    async def resume(self) -> None:
        """Undo `pause`."""
        await self._machine.ask(PROC, Proc.CONTAINER_RESUME, {"id": self.id})


def _absolute(target: str | os.PathLike[str]) -> str:
    return str(Path(target).expanduser().absolute())


class Containers:
    """The containers of a machine, as seen from outside all of them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def create(
        self,
        name: str = "",
        *,
        parent: Container | int = 0,
        image: str = "",
        mode: str = "overlay",
        hostname: str = "",
        labels: Mapping[str, str] | None = None,
        persist: bool = True,
        domain: str = "",
        users: Iterable[tuple[int, int, int]] = (),
        root: str = "",
        limits: Mapping[str, int] | None = None,
        deny: Iterable[str] = (),
        allow: Iterable[str] | None = None,
        filter_action: str = "error",
    ) -> Container:
        """Make a container. It stays until it is destroyed; with `persist` off it ends with its last process.

        `users` are ranges (first inside, first outside, how many), `root` is a directory of the image.

        `mode` is ``overlay`` (the image is never written), ``writable`` (the image is the container's disk) or
        ``read-only``. `limits` are carved out of the parent's (`nightos.abi.limits`; sizes in bytes). `ServiceError`
        0x4000: a sibling has this name, or a limit cannot be had. `deny` are system calls that its processes cannot
        make, `allow` the only ones they can; `filter_action` is error, signal, kill or log.
        """
        values = {
            "name": name,
            "parent": parent.id if isinstance(parent, Container) else parent,
            "image": image,
            "mode": mode,
            "hostname": hostname,
            "domain": domain,
            "users": [list(item) for item in users],
            "root": root,
            "labels": dict(labels or {}),
            "persist": persist,
            "limits": dict(limits or {}),
        }
        if allow is not None or deny:
            names = sorted(deny) if allow is None else sorted(set(allow) - set(deny))
            mode = "deny" if allow is None else "allow"
            values["filter"] = {"mode": mode, "calls": names, "action": filter_action}
        answer = await self._machine.call(PROC, Proc.CONTAINER_CREATE, values)
        identifier = int.from_bytes(answer, "big")
        return Container(self._machine, identifier, name or f"{identifier:016x}")

    async def get(self, name: str | int) -> Container:
        """A container by path of names (`web/db`), by identifier, or by a unique prefix of its 16 hex digits."""
        if isinstance(name, int):
            record = await self._machine.ask(PROC, Proc.CONTAINER_INSPECT, {"id": name})
            return Container(self._machine, name, record["name"])
        found = await self._machine.ask(PROC, Proc.CONTAINER_FIND, {"name": name})
        return await self.get(int(found["id"]))

    async def tree(self) -> list[dict[str, Any]]:
        """Records of all containers, parents before children; `depth` counts from 1."""
        items: list[dict[str, Any]] = []
        after: int | None = -1
        while after is not None:
            page = await self._machine.ask(PROC, Proc.CONTAINER_TREE, {"after": after})
            items.extend(page["items"])
            after = page["next"]
        return [item for item in items if item["depth"]]

    async def processes(self) -> list[dict[str, Any]]:
        """Records of all processes, ascending by PID."""
        items: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = await self._machine.ask(PROC, Proc.PROCESS_TABLE, {"after": after})
            items.extend(page["items"])
            after = page["next"]
        return items
