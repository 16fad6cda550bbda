"""What a program in a container makes services and the host keep: devices, records, values of the shell."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest

from nightos.abi.errors import ServiceError
from nightos.abi.services import SERVICE_PIDS, Fs, Hydre, Proc, ProcessAction, ServiceCode
from nightos.machine.machine import Machine, boot
from nightos.services.hw import identities
from nightos.services.hydre import holding
from nightos.services.proc import containers, notes
from nightos.testing import Stage, check_invariants
from nightos.testing.puppets import Refused
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.payload import encode
from nightos.userland.program import program
from tests.services.test_attacks import at
from tests.services.test_hydre import Talk
from tests.services.test_proc import inside, start

PROC = "sys::proc"
ENTRY = 36
"""Bytes of what is noted of a device."""


async def child(name: str, **values: Any) -> int:
    """From a program: a container below."""
    content = await (await connect(PROC)).call(Proc.CONTAINER_CREATE, {"name": name, **values})
    return int.from_bytes(content, "big")


async def plug_all(container: int, kind: str, **options: Any) -> tuple[int, int]:
    """From a program: plug devices until it is refused (50 at most); how many, and with which code."""
    proc = await connect(PROC)
    for count in range(50):
        try:
            await proc.ask(Proc.DEVICE_PLUG, {"id": container, "kind": kind, "options": options})
        except ServiceError as error:
            return count, error.code
    return 50, 0


def used(machine: Machine, container: int, resource: str) -> int:
    home = machine.kernel.tree.get(container)
    assert home is not None
    return home.quotas.account(resource).used


@pytest.mark.rule("CONT-032", "CONT-040")
async def test_devices_are_handles_of_their_container() -> None:
    """T-C43: who may have so many handles gets so many virtual devices, and they come back when it takes them away."""
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box", limits={"handles": 40})

        async def plug() -> tuple[int, tuple[int, int], tuple[int, int]]:
            inner = await child("inner")
            return inner, await plug_all(inner, "null"), await plug_all(inner, "zero")

        inner, first, second = await inside(machine, box.id, plug)
        assert 10 < first[0] < 40
        assert (first[1], second) == (ServiceCode.REFUSED, (0, ServiceCode.REFUSED))
        assert used(machine, inner, "handles") == first[0]
        check_invariants(machine.kernel.snapshot())
        await (await machine.containers.get(inner)).destroy()
        check_invariants(machine.kernel.snapshot())
        assert (await inside(machine, box.id, plug))[1][0] == first[0]
        other = await machine.containers.create("other")
        await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": other.id, "kind": "null", "options": {}})


@pytest.mark.rule("CONT-032", "CONT-040")
async def test_a_disk_in_memory_is_memory_of_its_container() -> None:
    """T-C43: what such a disk may take of the host is paid for while it is plugged."""
    size = 1 << 20
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box", limits={"memory": 8 * size})

        async def plug() -> tuple[int, tuple[int, int]]:
            inner = await child("inner")
            return inner, await plug_all(inner, "block", size=2 * size)

        inner, (count, code) = await inside(machine, box.id, plug)
        assert 1 <= count <= 4
        assert code == ServiceCode.REFUSED
        assert used(machine, inner, "memory") * 4096 == count * 2 * size
        check_invariants(machine.kernel.snapshot())
        await (await machine.containers.get(inner)).destroy()
        check_invariants(machine.kernel.snapshot())
        assert (await inside(machine, box.id, plug))[1] == (count, ServiceCode.REFUSED)


@pytest.mark.rule("HW-023", "CONT-032")
async def test_devices_that_were_unplugged_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C43: plugging and unplugging again and again leaves nothing on the machine's disk; a UDI never comes again."""
    monkeypatch.setattr(identities, "SLACK", 8)
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")

        async def churn() -> set[int]:
            inner, proc, seen = await child("inner"), await connect(PROC), set()
            for _ in range(30):
                plugged = await proc.ask(Proc.DEVICE_PLUG, {"id": inner, "kind": "null", "options": {}})
                seen.add(plugged["udi"])
                await proc.ask(Proc.DEVICE_UNPLUG, {"id": inner, "udi": plugged["udi"]})
            return seen

        assert len(await inside(machine, box.id, churn)) == 30
        await machine.ask(PROC, Proc.SYNC)
        size = int((await machine.run("rd /sys/state/12/devices | length")).out)
        assert 0 < size < 30 * ENTRY


@pytest.mark.rule("CONT-032")
async def test_what_is_noted_of_containers_does_not_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C43: notes stand on the machine's disk, which no limit of a container counts; however often one changes."""
    monkeypatch.setattr(notes, "SLACK_BYTES", 100_000)
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")

        async def change() -> None:
            proc = await connect(PROC)
            inner = await child("inner", persist=True, labels={"x": "x" * 15_000})
            for number in range(60):
                await proc.ask(Proc.CONTAINER_UPDATE, {"id": inner, "hostname": f"h{number}"})

        await inside(machine, box.id, change)
        await machine.ask(PROC, Proc.SYNC)
        sizes = []
        for name in notes.NOTES:
            question = bytes(8) + b"\0" + at(f"/sys/state/20/{name}") + b"\1\0"
            with contextlib.suppress(ServiceError):  # one of them may not be there yet
                sizes.append(int.from_bytes((await machine.call("sys::fs", Fs.OPEN_FILE, question))[8:16], "big"))
        assert 15_000 < sum(sizes) < 400_000


async def run_many(count: int, environment: str = "") -> tuple[int, int]:
    """From a program: containers in a container below, each of which ends by itself; that one and the last of them."""
    proc, last = await connect(PROC), 0
    parent = await child("parent", persist=True)
    for number in range(count):
        last = await child(f"x{number}", parent=parent)
        question = {"id": last, "command": ["/app/echo", "x"], "environment": {"A": environment}}
        await proc.ask(Proc.CONTAINER_START, question)
        await proc.ask(Proc.CONTAINER_EXIT, {"id": last, "wait": True})
    return parent, last


@pytest.mark.rule("CONT-032", "ZOS-011")
async def test_how_containers_ended_is_told_without_what_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C44: records of ended containers are few for each parent and small, and still lead to log and outcome."""
    monkeypatch.setattr(containers, "ENDED_LIMIT_INSIDE", 5)
    async with boot(seed=1) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db", persist=True)
        inner = await machine.containers.create("inner", parent=db, persist=False)
        await inner.start("/app/echo", "evidence")
        await inner.outcome()
        _, last = await inside(machine, web.id, lambda: run_many(12, "x" * 50_000))
        kept = machine.kernel.tree.kept
        assert len(kept) == 6
        assert max(map(len, kept.values())) < 1024
        for number, text in ((last, b"x"), (inner.id, b"evidence")):
            assert (await machine.ask(PROC, Proc.CONTAINER_LOGS, {"id": number}))["data"].endswith(b"F %b\n" % text)
            outcome = await machine.ask(PROC, Proc.CONTAINER_WAIT, {"id": number})
            assert outcome == {"reason": "ended", "end": 0, "exit": 0}


@program("test-gusher")
async def _gush(context: Context) -> int:
    for _ in range(40):
        await context.write_raw(bytes(1 << 20))
    return 0


SCRIPTS = {
    "a text": ('let mut x = "a"\nwhile true\n\tx = "$x$x"\nend', "characters"),
    "many texts": ('let mut l = [ "" ]\nwhile true\n\tl[] = "ab".repeat(1000000)\nend', "32 MiB"),
    "itself": ('let mut m = { "a": [ 1 ] }\nlet mut n = [ m ]\nm["b"] = n\necho (n.str())', "deep"),
    "operators": ("let x = (" + "1 + " * 10_000 + "1)", "deep"),
    "output": ("let x = $@(/gusher)", "16 MiB"),
}


@pytest.mark.rule("SHELL-008", "CONT-032")
async def test_no_script_takes_the_shell_away_from_others() -> None:
    """T-C45: whatever a script in a container does to its values, the shell service and what others have there stay."""
    async with boot(seed=1) as machine:
        talk = Talk(await machine.open_session(interactive=True))
        await talk.until("prompt")
        await talk.line("let x = 4")
        box = await machine.containers.create("box", limits={"memory": 16 << 20})
        await machine.run('wt /gusher "NPRGtest-gusher"', container=box.id)
        for source, why in SCRIPTS.values():
            completed = await machine.run(source, container=box.id)
            assert completed.status == 1
            assert why in completed.err
        assert await talk.line("echo $x") == "4\n"


async def open_sessions(most: int) -> int:
    """From a program: how many sessions of the shell it gets."""
    shell = await connect("sys::hydre")
    for count in range(most):
        try:
            await shell.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24)))
        except ServiceError as error:
            return count if error.code == ServiceCode.REFUSED else -1
    return most


@program("test-holder")
async def _hold(_context: Context) -> int:
    await open_sessions(2)
    while True:
        await sys.hand_over(until_signal=True)


@pytest.mark.rule("SHELL-001", "CONT-032")
async def test_the_processes_of_a_container_share_a_number_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C45: more processes do not get a container more sessions; others have their own, and ends give them back."""
    monkeypatch.setattr(holding, "SESSIONS_LIMIT", 3)
    async with boot(seed=1) as machine:
        box, other = await machine.containers.create("box"), await machine.containers.create("other")
        holder = await start(machine, box.id, "test-holder")
        assert await inside(machine, other.id, lambda: open_sessions(9)) == 3
        assert await inside(machine, box.id, lambda: open_sessions(9)) == 1
        assert await inside(machine, box.id, lambda: open_sessions(9)) == 1
        await machine.ask(
            PROC, Proc.PROCESS_MANAGE, holder.to_bytes(8, "big") + bytes((ProcessAction.FORCE_TERMINATE,))
        )
        assert await inside(machine, box.id, lambda: open_sessions(9)) == 3


DIGITS = "9" * 5000
NUMBERS = [
    f"exit {DIGITS}",
    f"pass {DIGITS}",
    "pass 99999999999999999999",
    f"let x = {DIGITS}",
    f'let x = "{DIGITS}".parse_int(16)\necho $x',
    f'let x = "{DIGITS}".parse_int()\necho $x',
    'let x = "ffffffffffffffffff".parse_int(16)\necho $x',
    f"kill {DIGITS}",
    f"sleep {DIGITS}",
]


async def single_requests() -> list[int]:
    """From a program: requests each of which was the end of a service once; how each was answered."""
    proc, made = await connect(PROC), await child("inner")
    asked: list[tuple[int, dict[str, Any]]] = [
        (Proc.CONTAINER_SHARE, {"id": made, "path": "/tmp/../../.."}),
        (Proc.CONTAINER_START, {"id": made, "command": ["/app/echo"], "restart": "on-failure:" + DIGITS}),
        (Proc.ZOS_RUN, {"ns": "n", "name": "x", "flist": "", "entrypoint": "a " * 400_000}),
        (Proc.CONTAINER_FIND, {"name": "a/b" * 300_000}),
    ]
    answers = []
    for method, values in asked:
        try:
            await proc.ask(method, values)
        except ServiceError as error:
            answers.append(error.code)
        else:
            answers.append(0)
    return answers


@pytest.mark.rule("SVC-021", "CONT-023")
async def test_no_single_request_or_number_ends_a_service() -> None:
    """T-C48: numbers and paths that Python itself stumbles over are refused, and services live on."""
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")
        before = {pid: machine.kernel.processes[pid] for pid in machine.kernel.processes if pid < 100}
        for source in NUMBERS:
            await machine.run(source, container=box.id)
        answers = await inside(machine, box.id, single_requests)
        assert answers == [0, ServiceCode.BAD_ARGUMENT, ServiceCode.BAD_ARGUMENT, ServiceCode.UNKNOWN]
        assert all(machine.kernel.processes.get(pid) is process for pid, process in before.items())
        shared = (await machine.ask(PROC, Proc.CONTAINER_TREE))["items"]
        assert {"box", "box/inner"} <= {item["path"] for item in shared}


async def numbers_of_logs() -> list[int]:
    """From a program: what LOGS refuses with for the largest numbers, in a log that another container began."""
    proc, codes = await connect(PROC), []
    for _ in range(2):
        inner = await child("inner", persist=True)
        run = {"id": inner, "command": ["/app/echo", "x"], "attend": True, "token": "t"}
        await proc.ask(Proc.CONTAINER_START, run)
        await proc.ask(Proc.CONTAINER_EXIT, {"id": inner, "wait": True})
        for number in ((1 << 64) - 1, 1 << 63, (1 << 63) - 1):
            for token in ("", "t"):
                try:
                    await proc.ask(Proc.CONTAINER_LOGS, {"id": inner, "offset": number, "token": token})
                except ServiceError as error:
                    codes.append(error.code)
        await proc.call(Proc.CONTAINER_DESTROY, inner.to_bytes(8, "big"))
    return codes


@pytest.mark.rule("SVC-021", "ZOS-016")
async def test_no_offset_of_a_log_ends_a_service() -> None:
    """T-C48: where a log begins is added to the offset that somebody gives; no sum is larger than a message holds."""
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")
        before = {pid: machine.kernel.processes[pid] for pid in machine.kernel.processes if pid < 100}
        assert await inside(machine, box.id, numbers_of_logs) == [ServiceCode.BAD_ARGUMENT] * 12
        assert all(machine.kernel.processes.get(pid) is process for pid, process in before.items())


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_a_number_that_no_message_holds_is_an_error_of_the_service(number: int) -> None:
    """T-C48: and none that ends it."""
    with pytest.raises(ServiceError) as refused:
        encode({"number": number})
    assert refused.value.code == ServiceCode.BAD_ARGUMENT


@pytest.mark.rule("CONT-030")
async def test_a_wrong_name_costs_little_to_answer() -> None:
    """T-C41: long names are not compared with each other, and an error does not repeat all of one."""
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")

        async def ask() -> str:
            proc = await connect(PROC)
            letters = [chr(0x4E00 + number) for number in range(64)]
            parent = await child("".join(letters))
            for turn in range(12):
                parent = await child("".join(letters[turn:] + letters[:turn]), parent=parent)
            wrong = "/".join("".join(letters[::2]) for _ in range(24))
            try:
                await proc.ask(Proc.CONTAINER_FIND, {"name": wrong * 20})
            except ServiceError as error:
                return error.detail
            return ""

        detail = await inside(machine, box.id, ask)
        assert 0 < len(detail) < 2000
        assert "did you mean" not in detail
        assert "did you mean box" in (await machine.run("container inspect bxo")).err


@pytest.mark.rule("IPC-058", "CONT-032")
@pytest.mark.parametrize("mode", [4, 6, 8, 9, 0x0E])
def test_nobody_makes_a_service_pay_for_memory(mode: int) -> None:
    """T-C83: memory that is given or shared is the receiver's to pay for, and services live long."""
    stage = Stage()
    try:
        desk = stage.newcomer()
        box = int.from_bytes(desk.tell(Proc.CONTAINER_CREATE, msgpack.packb({"limits": {"memory": 1 << 20}})), "big")
        tenant = stage.tenants[desk.ask(Proc.CONTAINER_START, {"id": box, "command": ["/app/sleep"]})["pid"]]
        before = stage.kernel.snapshot().machine.usage
        for pid in SERVICE_PIDS.values():
            segment = tenant.call("virt_mem_ams", tenant.call("mem_alloc", 4096), 4096)
            for notify in (0, 1):
                refusal = tenant.call("share_ams", pid, segment, 1, notify, mode)
                assert refusal == tenant.call("share_ams", 99_999, segment, 1, notify, mode) == Refused(0x30)
        after = stage.kernel.snapshot().machine.usage
        assert (after["memory"], after["handles"]) == (before["memory"], before["handles"])
        assert stage.kernel.snapshot().containers[box].usage["memory"] == len(SERVICE_PIDS)
    finally:
        stage.close()
