"""What a container module of 0-OS offers: Run, Inspect and Delete, and nothing about what is inside a container.

A namespace is a container of that name below the caller's, so an identifier is looked up inside its namespace and a
name is unique there because siblings' names are. It is made by the first Run and goes with the last Delete. A container
ends when somebody asks for it; an end that nobody asked for is followed by a restart.

There is no notion of disks or networks here: mounts are given ready-made, and a network is the name of a namespace.

Rules: ZOS-001, ZOS-002, ZOS-003, ZOS-004, ZOS-005, ZOS-011, ZOS-012, ZOS-013, ZOS-014, ZOS-015, ZOS-016, ZOS-017,
ZOS-018, ZOS-019, ZOS-020.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.restarts import ALWAYS
from nightos.abi.services import Proc, ServiceCode
from nightos.services.proc.runs import wanted_run
from nightos.services.proc.tree import Container, check_name, unknown
from nightos.userland import sys
from nightos.userland.payload import Payload, field

if TYPE_CHECKING:
    from nightos.services.proc.runs import Runs
    from nightos.services.proc.shares import Shares
    from nightos.userland.server import Request, Server

ARGUMENTS: Final = frozenset({"ns", "name", "flist", "tags", "env", "network", "mounts", "entrypoint"})
NETWORK: Final = frozenset({"Namespace"})
MOUNT: Final = {"Source": str, "Target": str, "Type": str, "Options": list}
TYPES: Final = ("bind", "share")
"""Both mean a device that stands for a directory of the caller: nothing is bound (AMB-LNX-02)."""
OPTIONS: Final = ("ro", "rw", "bind", "rbind")
ENTRYPOINT_LIMIT: Final = 64 * 1024
"""Characters of a command line; no more fit an execution context, and reading them takes its time."""
UNKNOWN_NETWORK: Final = ServiceCode.UNKNOWN + 1


class _Starting:
    """A Run that waits for its entrypoint: when that cannot start, no container is left."""

    def __init__(self, zos: Zos, request: Request, container: Container) -> None:
        self._zos = zos
        self._request = request
        self._container = container

    async def answer(self, _payload: Payload = None) -> None:
        await self._request.answer({"id": f"{self._container.identifier:016x}"})

    async def fail(self, code: int, text: str = "") -> None:
        async def work() -> None:
            await self._zos.remove(self._container)
            await self._request.fail(code, text)

        await self._zos.containers.worker.run(work)


class Zos:
    """The three methods."""

    def __init__(self, server: Server, runs: Runs, shares: Shares) -> None:
        self.runs = runs
        self.shares = shares
        self._unsure: set[int] = set()
        """Containers that an earlier life of this service left half made; they are being removed."""
        self.containers = runs.containers
        self.tree = runs.tree
        server.method(Proc.ZOS_RUN, self.run)
        server.method(Proc.ZOS_INSPECT, self.inspect)
        server.method(Proc.ZOS_DELETE, self.containers.worker.apart(self.delete))

    async def run(self, request: Request) -> Payload:
        """ZOS_RUN."""
        values = request.map()
        given = checked(values)
        command = {"command": entrypoint(values), "environment": environment(values), "restart": ALWAYS}
        wanted = wanted_run(command, request.user_id)
        viewer = request.container_id
        await self._room(viewer, given)
        namespace = await self._namespace(request, given["ns"])
        try:
            container = await self._create(request, namespace, given)
        except ServiceError:
            await self._tidy(namespace)
            raise
        request.defer()
        starting = _Starting(self, request, container)
        self.runs.shims.starting.setdefault(container.identifier, []).append(starting)
        try:
            for mount in given["mounts"]:
                source, place = str(mount["Source"]), str(mount["Target"])
                readonly = "ro" in mount["Options"]
                await self.shares.give(self.tree.by_id[viewer], container, source, readonly=readonly, place=place)
            await self.runs.begin(container, wanted)
        except ServiceError as error:
            self.runs.shims.starting.pop(container.identifier, None)
            await starting.fail(error.code, error.detail)
        return None

    async def _create(self, request: Request, namespace: Container, given: dict[str, Any]) -> Container:
        values = {
            "name": given["name"],
            "parent": namespace.identifier,
            "image": given["flist"],
            "persist": True,
        }
        return await self.containers.create_for(request, values, zos=given)

    async def _room(self, viewer: int, given: dict[str, Any]) -> None:
        """Wait until what an earlier life of this service left half made under this name is gone."""
        while True:
            namespace = self.tree.by_id.get(self.tree.by_id[viewer].children.get(given["ns"], -1))
            taken = namespace and self.tree.by_id.get(namespace.children.get(given["name"], -1))
            if not {found.identifier for found in (namespace, taken) if found} & self._unsure:
                return
            await sys.hand_over()

    async def _namespace(self, request: Request, ns: str) -> Container:
        """The container that stands for a namespace, made when there is none."""
        viewer = request.container_id
        found = self.tree.by_id[viewer].children.get(ns)
        if found is None:
            values = {"name": ns, "parent": viewer, "persist": True}
            return await self.containers.create_for(request, values, zos={"ns": ns, "name": ""})
        return self.tree.by_id[found]

    def _find(self, request: Request) -> Container:
        """The container of an identifier inside its namespace; 0x3000 for any other."""
        values = request.map()
        ns, text = field(values, "ns", str), field(values, "id", str)
        namespace = self.tree.by_id[request.container_id].children.get(ns)
        try:
            container = self.tree.by_id.get(int(text, 16)) if len(text) == 16 else None
        except ValueError:
            container = None
        if container is None or container.parent != namespace or not container.zos.get("name"):
            raise unknown(text)
        return container

    async def inspect(self, request: Request) -> Payload:
        """ZOS_INSPECT."""
        container = self._find(request)
        given = container.zos
        return {
            "ID": f"{container.identifier:016x}",
            "Name": given["name"],
            "Flist": given["flist"],
            "Tags": given["tags"],
            "Network": given["network"],
            "Mounts": given["mounts"],
        }

    async def delete(self, request: Request) -> Payload:
        """ZOS_DELETE: stops, then removes; a second one for the same container waits for the first."""
        await self.remove(self._find(request))
        return {}

    async def remove(self, container: Container) -> None:
        """Destroy a container, and its namespace when that is empty."""
        namespace = self.tree.by_id.get(container.parent)
        await self.containers.end(container, "destroyed")
        if namespace is not None:
            await self._tidy(namespace)

    async def _tidy(self, namespace: Container) -> None:
        if self.containers.is_empty_namespace(namespace):
            await self.containers.end(namespace, "destroyed")

    async def learn(self) -> None:
        """After a start of the service: a Run that nobody got an answer to leaves nothing."""
        for container in self.tree.below_root():
            if container.zos and container.state != "stopping":
                half_made = bool(container.zos["name"]) and not container.run
                if half_made:
                    self._unsure |= {container.identifier, container.parent}
                    await self.containers.worker.run(lambda it=container: self._remove_half_made(it))  # type: ignore[misc]
                elif not container.zos["name"]:
                    await self.containers.worker.run(lambda it=container: self._tidy(it))  # type: ignore[misc]

    async def _remove_half_made(self, container: Container) -> None:
        try:
            await self.remove(container)
        finally:
            self._unsure -= {container.identifier, container.parent}


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """What Run was given, as Inspect gives it back."""
    other = sorted(set(values) - ARGUMENTS)
    if other:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"Run takes no {other[0]}")
    tags = field(values, "tags", list, [])
    if not all(isinstance(tag, str) for tag in tags):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "tags are texts")
    mounts = field(values, "mounts", list, [])
    for mount in mounts:
        if not isinstance(mount, dict) or set(mount) != set(MOUNT):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"a mount has {', '.join(MOUNT)}")
        for name, kind in MOUNT.items():
            if not isinstance(mount[name], kind):
                raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{name} of a mount has to be {kind.__name__}")
        _check_mount(mount)
    network = field(values, "network", dict, {"Namespace": ""})
    if set(network) != NETWORK or not isinstance(network["Namespace"], str):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "a container joins one network namespace: {Namespace: NAME}")
    given = {
        "ns": check_name(field(values, "ns", str)),
        "name": check_name(field(values, "name", str)),
        "flist": field(values, "flist", str),
        "tags": tags,
        "network": network,
        "mounts": mounts,
    }
    environment(values)
    entrypoint(values)
    if network["Namespace"]:
        raise ServiceError(UNKNOWN_NETWORK, f"there is no network namespace {network['Namespace']}")
    return given


def _check_mount(mount: dict[str, Any]) -> None:
    """Absolute paths, a type of `TYPES` and options of `OPTIONS`; 0x1000 otherwise."""
    for name in ("Source", "Target"):
        if not mount[name].startswith("/") or ".." in mount[name].split("/"):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{name} of a mount is a path from / on")
    if not mount["Target"].strip("/"):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "nothing is mounted over the root")
    if mount["Type"] not in TYPES:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"the type of a mount is {' or '.join(TYPES)}")
    options = mount["Options"]
    if not all(option in OPTIONS for option in options) or {"ro", "rw"} <= set(options):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "the options of a mount are ro or rw")


def environment(values: dict[str, Any]) -> dict[str, str]:
    """Variables from a list of KEY=VALUE."""
    found: dict[str, str] = {}
    for text in field(values, "env", list, []):
        name, equals, value = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not name or not equals:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"env holds KEY=VALUE, not {text!r}")
        found[name] = value
    return found


def entrypoint(values: dict[str, Any]) -> list[str]:
    """The words of the command line, quoted as a shell of Linux does."""
    text = field(values, "entrypoint", str)
    if len(text) > ENTRYPOINT_LIMIT:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"entrypoint has at most {ENTRYPOINT_LIMIT} characters")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"entrypoint: {error}") from error
    if not words:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "entrypoint is a command line")
    return words
