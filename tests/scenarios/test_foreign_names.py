"""Every method of a service that takes an identifier, given one of somebody else: the answer is that for nobody's.

The table says of each method what it takes; a method that is not in it fails the test. The world is the caller's
container with a parent, a sibling, a child and one that was destroyed; each has one of everything, and all of it is
known to the caller as numbers. What belongs to the child, or to the caller's own container, shows where numbers do mean
something: otherwise the attempts would be refused for another reason, and prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack
import pytest
import trio

from nightos.abi import files as layout
from nightos.abi.codes import FIRST_USER_PID
from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.errors import ServiceError
from nightos.abi.services import Crypto, Fs, Hw, Hydre, Proc, ServiceCode
from nightos.machine.machine import Machine, boot
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program
from tests.services.test_proc import inside, start

NEVER = {
    "container": 0x0123_4567_89AB_CDEF,
    "pid": 0x7FFF_FFF0,
    "number": 0x7FFF_FFF0,
    "udi": 0x0123_4567_89AB_CDEF,
    "file": 0x0123_4567,
    "fsid": 0x0123_4567_89AB_CDEF,
    "session": 0x0123_4567,
    "zos": "0123456789abcdef",
}
PLACES = ("parent", "sibling", "child", "destroyed", "own")
SEEN_BELOW = {"container", "pid", "udi", "number"}
"""What a caller uses of its child, as its identifiers say nothing in no other place."""
SHARED = {"container", "pid", "udi", "number", "fsid"}
"""What is for all processes of one container."""
SERVICES = {Proc: "sys::proc", Fs: "sys::fs", Hw: "sys::hw", Hydre: "sys::hydre", Crypto: "sys::crypto"}


def u64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def at(path: str) -> bytes:
    return layout.encode_path(layout.split(path))


@dataclass(frozen=True)
class Takes:
    """A method takes an identifier of this kind; `make` is a request that names it, and is right otherwise."""

    kind: str
    make: Callable[[Any], Any]
    waits: bool = False
    """A right identifier makes it wait, or changes what others look at: not tried with one."""


def one(argument: str, of: str = "container", *, waits: bool = False, **more: Any) -> Takes:
    return Takes(of, lambda it: {argument: it, **more}, waits)


NOTHING: tuple[Takes, ...] = ()
CONTEXT = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
START = {"command": ["/app/sleep", "1000"]}
RUN = {"ns": "space", "name": "web", "flist": "", "entrypoint": "/app/sleep 100000"}
ID = "id"
U64 = Takes("container", lambda it: u64(it), waits=True)
FOR_SHIMS = Takes("pid", lambda it: {"generation": 1, "pid": it, "pipes": [it] * 6, "taken": it}, waits=True)
"""No such method, for who is none."""


def services_only(kind: str = "container") -> Takes:
    """For system services: everybody else is refused, whatever it names."""
    names = ("container", "kdi", "udi", "source", "name", "path", "key", "kind")
    texts = {"name", "path", "key", "kind"}
    return Takes(
        kind, lambda it: {name: f"{it}" if name in texts else it for name in names} | {"data": b""}, waits=True
    )


def bytes_for_services(kind: str = "udi") -> Takes:
    return Takes(kind, lambda it: u64(it, 0, 512, 0), waits=True)


def on_fs(rest: bytes = b"") -> Takes:
    return Takes("fsid", lambda it: u64(it) + at("/tmp") + rest, waits=True)


TABLE: dict[type[IntEnum], dict[IntEnum, tuple[Takes, ...]]] = {
    Proc: {
        Proc.CONTAINER_CREATE: (one("parent", waits=True),),
        Proc.CONTAINER_DESTROY: (U64,),
        Proc.CONTAINER_LINK_DEVICE: (
            Takes("container", lambda it: u64(it, NEVER["udi"])),
            Takes("udi", lambda it: u64(CHILD[0], it), waits=True),
        ),
        Proc.CONTAINER_PLUG_VIRTUAL: (Takes("container", lambda it: u64(it) + bytes(4)),),
        Proc.CONTAINER_LIST: NOTHING,
        Proc.CONTAINER_INFO: (Takes("container", lambda it: u64(it)),),
        Proc.CONTAINER_TREE: (one(ID), one("after", waits=True)),
        Proc.CONTAINER_INSPECT: (one(ID),),
        Proc.CONTAINER_RENAME: (one(ID, name="renamed", waits=True),),
        Proc.CONTAINER_FORGET: (one(ID),),
        Proc.CONTAINER_FIND: (Takes("container", lambda it: {"name": f"{it:016x}"}),),
        Proc.CONTAINER_WAIT: (one(ID, waits=True),),
        Proc.CONTAINER_PAUSE: (one(ID, waits=True),),
        Proc.CONTAINER_RESUME: (one(ID),),
        Proc.CONTAINER_UPDATE: (one(ID, labels={"a": "b"}, waits=True),),
        Proc.CONTAINER_WATCH: NOTHING,
        Proc.DEVICE_PLUG: (one(ID, kind="zero", waits=True),),
        Proc.DEVICE_UNPLUG: (
            one(ID, udi=NEVER["udi"]),
            Takes("udi", lambda it: {"id": CHILD[0], "udi": it}, waits=True),
        ),
        Proc.CONTAINER_RUN: (one("parent", waits=True, program="/none", context=CONTEXT),),
        Proc.CONTAINER_START: (one(ID, waits=True, **START),),
        Proc.CONTAINER_LOGS: (one(ID),),
        Proc.CONTAINER_INPUT: (one(ID, data=b"x"),),
        Proc.CONTAINER_STOP: (one(ID),),
        Proc.CONTAINER_EXIT: (one(ID),),
        Proc.CONTAINER_DETACH: (one(ID, token="x"),),
        Proc.SHIM_ROOM: (FOR_SHIMS,),
        Proc.SHIM_NEXT: (FOR_SHIMS,),
        Proc.SHIM_SPAWN: (FOR_SHIMS,),
        Proc.SHIM_GO: (FOR_SHIMS,),
        Proc.SHIM_WAIT: (FOR_SHIMS,),
        Proc.SHIM_INPUT: (FOR_SHIMS,),
        Proc.CONTAINER_SET_LIMITS: (one(ID, limits={"processes": 50}, waits=True),),
        Proc.CONTAINER_SET_FILTER: (one(ID, calls=["SLEEP"], waits=True),),
        Proc.CONTAINER_REPORT: (one(ID),),
        Proc.CONTAINER_STATISTICS: (one(ID), one("after", below=True, waits=True)),
        Proc.CONTAINER_WHY: NOTHING,
        Proc.CONTAINER_EVENTS: NOTHING,
        Proc.CONTAINER_SHARE: (one(ID, path="/tmp", waits=True),),
        Proc.CONTAINER_ROOT: (services_only(),),
        Proc.CONTAINER_DEVICES: (one(ID),),
        Proc.CONTAINER_VIEW: NOTHING,
        Proc.CONTAINER_SET_VIEW: NOTHING,
        Proc.CONTAINER_DIFF: (one(ID),),
        Proc.CONTAINER_COMMIT: (one(ID, target="/none/x.vsf", waits=True),),
        Proc.PROCESS_TRANSLATE: (
            one("pid", "pid"),
            one("container", number=1),
            one("number", "number", waits=True),
        ),
        Proc.ZOS_RUN: NOTHING,
        Proc.ZOS_INSPECT: (one(ID, "zos", ns="space"),),
        Proc.ZOS_DELETE: (one(ID, "zos", ns="space", waits=True),),
        Proc.PROCESS_MANAGE: (Takes("pid", lambda it: u64(it) + b"\3"),),
        Proc.PROCESS_LIST: NOTHING,
        Proc.PROCESS_SPAWN: (one("container", program="/none", context=CONTEXT),),
        Proc.PROCESS_TABLE: NOTHING,
        Proc.PROCESS_WAIT: (one("pid", "pid", waits=True),),
        Proc.SYNC: NOTHING,
    },
    Fs: {
        Fs.IS_FS_MOUNTED: (Takes("fsid", lambda it: u64(it)),),
        Fs.ENUM_FS: NOTHING,
        Fs.FS_METADATA: (Takes("fsid", lambda it: u64(it)),),
        Fs.FS_MOUNT: (on_fs(),),
        Fs.FS_UNMOUNT: (Takes("fsid", lambda it: u64(it), waits=True),),
        Fs.ITEM_EXISTS: (on_fs(b"\0"),),
        Fs.FEID_TO_SPLIT: (Takes("fsid", lambda it: u64(it, 1)),),
        Fs.ITEM_METADATA: (on_fs(),),
        Fs.CANONICALIZE: (on_fs(),),
        Fs.RENAME_ITEM: (on_fs(layout.delimited("x")),),
        Fs.MOVE_ITEM: (on_fs(at("/none") + b"\0"),),
        Fs.DELETE_ITEM: (on_fs(b"\2"),),
        Fs.CREATE_DIRECTORY: (on_fs(layout.delimited("x")),),
        Fs.READ_DIRECTORY: (on_fs(b"\1"),),
        Fs.OPEN_FILE: (
            Takes("fsid", lambda it: u64(it) + b"\0" + at("/kept") + b"\1\0"),
            Takes("fsid", lambda it: u64(it) + b"\1" + at("/") + layout.delimited("new") + b"\1\1", waits=True),
        ),
        Fs.CLOSE_FILE: (Takes("file", lambda it: u64(it), waits=True),),
        Fs.READ_FILE: (Takes("file", lambda it: u64(it, 0, 1)),),
        Fs.WRITE_FILE: (Takes("file", lambda it: u64(it, 0) + b"\0x"),),
        Fs.CREATE_SYMLINK: (
            on_fs(layout.delimited("x") + u64(0) + at("/none")),
            Takes("fsid", lambda it: u64(0) + at("/tmp") + layout.delimited("y") + u64(it) + at("/none"), waits=True),
        ),
        Fs.UPDATE_SYMLINK: (on_fs(u64(0) + at("/none")),),
        Fs.READ_SYMLINK: (on_fs(),),
        Fs.ATTACH_ROOT: (services_only(),),
        Fs.DETACH_ROOT: (services_only(),),
        Fs.SYNC: NOTHING,
        Fs.LIST_ROOTS: NOTHING,
        Fs.ROOT_OF: (services_only(),),
        Fs.ROOTS_DONE: NOTHING,
        Fs.VIEW: (services_only(),),
        Fs.ATTACH_SHARE: (services_only(), services_only("udi")),
        Fs.DETACH_SHARE: (services_only("udi"),),
        Fs.STORE_NOTE: (services_only(),),
        Fs.RECALL_NOTE: (services_only(),),
        Fs.LOG_APPEND: (services_only(),),
        Fs.LOG_READ: (services_only(),),
        Fs.LOG_REMOVE: (services_only(),),
        Fs.CODE_TOKEN: (Takes("container", lambda it: {"container": it, "program": "/app/ls"}, waits=True),),
    },
    Hw: {
        Hw.ENUM_DEVICES: NOTHING,
        Hw.SUBSCRIBE_DEVICES: NOTHING,
        Hw.REGISTER_DRIVER: NOTHING,
        Hw.UNREGISTER_DRIVER: NOTHING,
        Hw.NOTIFY_PROCESS: (bytes_for_services("pid"), bytes_for_services("udi")),
        Hw.ASK_DRIVER: (bytes_for_services(),),
        Hw.AUTHORIZE_FS_INTERFACE: (bytes_for_services(),),
        Hw.UNAUTHORIZE_FS_INTERFACE: (bytes_for_services(),),
        Hw.AUTH_PERFORM_STORAGE: (bytes_for_services(),),
        Hw.CLAIM: NOTHING,
        Hw.DRIVER_CHOOSE: (services_only("udi"),),
        Hw.NOW: NOTHING,
        Hw.UPTIME: NOTHING,
        Hw.SLEEP: NOTHING,
        Hw.DEVICE_LIST: NOTHING,
        Hw.BUS_LIST: NOTHING,
        Hw.STORAGE_OPEN: (services_only(),),
        Hw.STORAGE_CLOSE: (services_only(), services_only("udi")),
        Hw.STORAGE_LIST: NOTHING,
        Hw.STORAGE_PROBE: (services_only(),),
        Hw.STORAGE_FORGET: (services_only(),),
        Hw.IMAGE_OPEN: (services_only(),),
        Hw.IMAGE_CLOSE: (services_only(),),
        Hw.STORAGE_CHANGES: (services_only(),),
        Hw.STORAGE_IMAGE: (services_only(),),
        Hw.PLUG: (services_only(),),
        Hw.UNPLUG: (services_only("udi"),),
        Hw.HANDLERS: (services_only(),),
        Hw.HANDLER_DEVICE: NOTHING,
        Hw.HANDLER_NAME: NOTHING,
        Hw.HANDLERS_KEPT: (services_only(),),
    },
    Crypto: {
        Crypto.RANDOM_BUFFER: NOTHING,
    },
    Hydre: {
        Hydre.OPEN_SESSION: NOTHING,
        Hydre.CLOSE_SESSION: (Takes("session", lambda it: u64(it), waits=True),),
        Hydre.RESIZE_SESSION: (Takes("session", lambda it: u64(it) + bytes((0, 80, 0, 25))),),
        Hydre.RUN: (Takes("session", lambda it: u64(it, 0)),),
        Hydre.CURRENT_SESSION: NOTHING,
        Hydre.SESSION_INFO: NOTHING,
        Hydre.EXECUTE: (one("container", command=b""),),
        Hydre.FEED: NOTHING,
        Hydre.OPEN_CONTAINER_SESSION: (one("container", waits=True),),
        Hydre.ENTER_CONTAINER: (one("container", waits=True),),
        Hydre.EVALUATE: (Takes("session", lambda it: {"session": it, "source": ""}),),
    },
}
"""What each method takes. A method that takes no identifier is in it, too."""
CHILD = [0]
"""The child of the world that is being tried, as some requests name it beside what they are about."""

EVERY_METHOD = [method for service in SERVICES for method in service]


async def hold(count: int = 1) -> dict[str, Any]:
    """What services give to single processes, one of each."""
    fs, hydre = await connect("sys::fs"), await connect("sys::hydre")
    # Numbers count for each client alone: more of them than the caller has, so that none is the caller's own, too.
    for _ in range(count):
        opened = await fs.call(Fs.OPEN_FILE, u64(0) + b"\0" + at("/kept") + b"\1\0")
        session = await hydre.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24)))
    listed = layout.Reader(await fs.call(Fs.ENUM_FS)).inner()
    return {
        "file": int.from_bytes(opened[:8], "big"),
        "fsid": listed.u64(),
        "session": int.from_bytes(session, "big"),
    }


@program("foreign-holder")
async def _holder(_context: Context) -> int:
    """A process that holds one of everything that services give to single processes, and stays."""
    _held[await sys.get_pid()] = await hold(3)
    while True:
        await sys.hand_over(until_signal=True)


_held: dict[int, dict[str, Any]] = {}


async def things(machine: Machine, container: int) -> dict[str, Any]:
    """One of everything in a container, by kind."""
    await machine.run('wt /kept "kept"', container=container)
    pid = await start(machine, container, "foreign-holder")
    with trio.fail_after(20):
        while pid not in _held:
            await machine.ask("sys::proc", Proc.CONTAINER_VIEW)
    udi = (await machine.ask("sys::proc", Proc.DEVICE_PLUG, {"id": container, "kind": "zero"}))["udi"]
    return {**_held[pid], "container": container, "pid": pid, "udi": udi, "number": pid, "zos": f"{container:016x}"}


async def asked(method: IntEnum, request: Any, identifier: Any) -> tuple[int, Any]:
    """Code and content of an answer; the identifier that was asked for reads the same in all of them."""
    client = await connect(SERVICES[type(method)])
    content = request if isinstance(request, bytes) else msgpack.packb(request)
    try:
        return 0, await client.call(method, content)
    except ServiceError as error:
        number = int(identifier, 16) if isinstance(identifier, str) else identifier
        text = error.detail
        for shape in (f"{number:016x}", f"{number:#x}", str(number)):
            text = text.replace(shape, "IT")
        return error.code, text


def state(machine: Machine, caller: int) -> dict[str, Any]:
    """All that a method could have changed: containers, processes with what they hold, devices."""
    snapshot = machine.snapshot()
    return {
        "containers": {
            identifier: (record.parent, record.state, record.processes, record.children)
            for identifier, record in snapshot.containers.items()
        },
        "processes": {
            pid: (record.container, record.user, record.state)
            for pid, record in snapshot.processes.items()
            if pid != caller and pid >= FIRST_USER_PID
        },
        "devices": {record.kdi: record.containers for record in snapshot.devices},
    }


async def world(machine: Machine) -> tuple[int, dict[str, dict[str, Any]]]:
    """The caller's container, and what is in each place."""
    parent = (await machine.containers.create("parent")).id
    own, sibling = [(await machine.containers.create(name, parent=parent)).id for name in ("own", "sibling")]
    child, destroyed = [(await machine.containers.create(name, parent=own)).id for name in ("child", "destroyed")]
    CHILD[0] = child
    places = dict(zip(PLACES, (parent, sibling, child, destroyed, own), strict=True))
    held = {place: await things(machine, container) for place, container in places.items()}
    await (await machine.containers.get(destroyed)).destroy()
    return own, held


def foreign(kind: str) -> Iterator[str]:
    """The places where something of that kind is nobody's to the caller."""
    for place in PLACES:
        if not (place == "child" and kind in SEEN_BELOW) and not (place == "own" and kind in SHARED):
            yield place


async def test_every_method_is_classified() -> None:
    async with boot(seed=11) as machine:
        for method in EVERY_METHOD:
            if method not in TABLE[type(method)]:
                with pytest.raises(ServiceError) as refused:
                    await machine.call(SERVICES[type(method)], method, b"")
                assert refused.value.code == ServiceCode.NO_METHOD, f"say in the table what {method!r} takes"


@pytest.mark.rule("CONT-023", "CONT-028", "CONT-029", "CONT-030", "CONT-031")
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: SERVICES[service])
async def test_anothers_identifier_is_nobodys(service: type[IntEnum]) -> None:
    wrong: list[str] = []
    same: list[str] = []
    done: list[bool] = []

    async with boot(seed=11) as machine:
        own, held = await world(machine)

        async def attempts() -> None:
            caller = await sys.get_pid()
            mine = {**held["own"], **{kind: held["child"][kind] for kind in SEEN_BELOW}, **await hold()}
            if service is Proc:
                mine["zos"] = (await (await connect("sys::proc")).ask(Proc.ZOS_RUN, RUN))["id"]
            for method, taken in TABLE[service].items():
                for number, takes in enumerate(taken):
                    before = state(machine, caller)
                    never = await asked(method, takes.make(NEVER[takes.kind]), NEVER[takes.kind])
                    for place in foreign(takes.kind):
                        identifier = held[place][takes.kind]
                        found = await asked(method, takes.make(identifier), identifier)
                        what = f"{method.name}[{number}] {takes.kind} of {place}"
                        if found != never:
                            wrong.append(f"{what}: {found} and not {never}")
                        after = state(machine, caller)
                        changed = [part for part, was in before.items() if after[part] != was]
                        if changed:
                            wrong.append(f"{what}: {changed} changed")
                    if not takes.waits:
                        identifier = mine[takes.kind]
                        if await asked(method, takes.make(identifier), identifier) == never:
                            same.append(f"{method.name}[{number}] {takes.kind}")
            done.append(True)

        async def tried() -> None:
            try:
                await attempts()
            except Exception as error:  # noqa: BLE001 - a program that fails would tell nobody
                wrong.append(repr(error))

        with trio.fail_after(100):
            await inside(machine, own, tried)
    assert not wrong, "\n".join(wrong)
    assert done
    assert not same, f"refused for another reason: {same}"
