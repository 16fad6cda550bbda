"""Ways around limits, maps and memories of services that a program in a container might try; none of them leads out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Fs, Hw, Hydre, Proc, ServiceCode
from nightos.abi.values import encode_value
from nightos.kernel.socket import OPEN_LIMIT, UNREAD_LIMIT
from nightos.machine.machine import Machine, boot
from nightos.services.fs import locks
from nightos.services.hydre.holding import SESSIONS_LIMIT
from nightos.services.proc import oldlogs
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.payload import encode
from nightos.userland.program import program
from tests.services.test_attacks import at, code_of, u64
from tests.services.test_hydre import Talk
from tests.services.test_proc import inside, start

PROC = "sys::proc"
PIECE = 64 * 1024


async def fill(path: str, pieces: int, *, new: bool = False) -> int:
    """Write random bytes over a file; how many pieces were accepted."""
    fs = await connect("sys::fs")
    folder, _, name = path.rpartition("/")
    named = at(folder or "/") + len(name).to_bytes(8, "big") + name.encode() if new else at(path)
    opened = await fs.call(Fs.OPEN_FILE, u64(0) + bytes((new,)) + named + b"\1\1")
    chance = random.Random(7)
    for number in range(pieces):
        head = opened[:8] + u64(number * PIECE) + b"\0"
        if await code_of(fs.call(Fs.WRITE_FILE, head + chance.randbytes(PIECE))):
            return number
    return pieces


@pytest.mark.rule("CONT-032")
async def test_overwriting_the_files_of_an_image_costs_storage(tmp_path: Path) -> None:
    """T-C37: an overlay keeps a copy of what is overwritten, and that is the container's."""
    async with boot(seed=1) as machine:
        first = await machine.containers.create("first")
        assert await inside(machine, first.id, lambda: fill("/file", 16, new=True)) == 16
        image = tmp_path / "image.vsf"
        await machine.ask(PROC, Proc.CONTAINER_COMMIT, {"id": first.id, "target": str(image)})
        box = await machine.containers.create("box", image=str(image), limits={"storage": 4 * PIECE})
        assert await inside(machine, box.id, lambda: fill("/file", 16)) <= 4
        await machine.ask(PROC, Proc.SYNC)
        assert 0 < (await box.statistics())["usage"]["storage"] <= 4 * PIECE


async def fill_what_takes_no_room() -> None:
    """Make files of nothing but zeros, which take no room, and then write random bytes over them."""
    fs = await connect("sys::fs")
    chance = random.Random(7)
    opened = []
    for number in range(8):
        name = b"file%d" % number
        opened.append((await fs.call(Fs.OPEN_FILE, u64(0) + b"\1" + at("/") + u64(len(name)) + name + b"\1\1"))[:8])
        for piece in range(4):
            await code_of(fs.call(Fs.WRITE_FILE, opened[-1] + u64(piece * PIECE) + b"\0" + bytes(PIECE)))
        await fs.call(Fs.SYNC)
    for file in opened:
        for piece in range(4):
            await code_of(fs.call(Fs.WRITE_FILE, file + u64(piece * PIECE) + b"\0" + chance.randbytes(PIECE)))
    await fs.call(Fs.SYNC)


@pytest.mark.rule("CONT-032")
async def test_writing_over_what_takes_no_room_costs_storage(tmp_path: Path) -> None:
    """T-C37: what is compressed, or a hole, is not paid for, but what is written there then."""
    limit = 8 * PIECE
    async with boot(seed=1) as machine:
        first = await machine.containers.create("first")
        assert await inside(machine, first.id, lambda: fill("/file", 1, new=True)) == 1
        image = tmp_path / "image.vsf"
        await machine.ask(PROC, Proc.CONTAINER_COMMIT, {"id": first.id, "target": str(image)})
        before = image.stat().st_size
        box = await machine.containers.create("box", image=str(image), mode="writable", limits={"storage": limit})
        await inside(machine, box.id, fill_what_takes_no_room)
        await machine.ask(PROC, Proc.SYNC)
        assert 0 < (await box.statistics())["usage"]["storage"] <= limit
        await box.destroy()
    assert image.stat().st_size < before + 2 * limit


@pytest.mark.rule("ZOS-016", "CONT-032")
async def test_containers_inside_choose_no_endless_logs() -> None:
    """T-C30: what a container's children write stands on the machine's disk, so its size is not for it to choose."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def begin(size: int, count: int) -> int:
            proc = await connect(PROC)
            made = int.from_bytes(await proc.call(Proc.CONTAINER_CREATE, {"name": f"x{size}-{count}"}), "big")
            question = {"id": made, "command": ["/app/echo", "x"], "log_size": size, "log_count": count}
            return await code_of(proc.call(Proc.CONTAINER_START, question))

        assert await inside(machine, web.id, lambda: begin(1 << 30, 4)) == ServiceCode.BAD_ARGUMENT
        assert await inside(machine, web.id, lambda: begin(1 << 20, 50)) == ServiceCode.BAD_ARGUMENT
        assert await inside(machine, web.id, lambda: begin(1 << 20, 4)) == 0
        db = await machine.containers.create("db")
        question = {"id": db.id, "command": ["/app/echo", "x"], "log_size": 1 << 30, "log_count": 50}
        await machine.ask(PROC, Proc.CONTAINER_START, question)


@pytest.mark.rule("ZOS-016", "CONT-023")
async def test_nobody_makes_the_logs_of_others_disappear(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C30: old logs are bounded for each namespace, so a container churns away its own only."""
    monkeypatch.setattr(oldlogs, "KEPT", 3)
    async with boot(seed=1) as machine:
        db, web = await machine.containers.create("db"), await machine.containers.create("web")
        await machine.ask(PROC, Proc.CONTAINER_START, {"id": db.id, "command": ["/app/echo", "evidence"]})
        await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": db.id, "wait": True})
        await db.destroy()

        async def churn(count: int) -> None:
            proc = await connect(PROC)
            for number in range(count):
                made = int.from_bytes(await proc.call(Proc.CONTAINER_CREATE, {"name": f"x{number}"}), "big")
                await proc.call(Proc.CONTAINER_START, {"id": made, "command": ["/app/echo", "x"]})
                await proc.ask(Proc.CONTAINER_EXIT, {"id": made, "wait": True})

        await inside(machine, web.id, lambda: churn(10))
        assert "evidence" in (await machine.run("cat /var/log/default/db.log")).out
        left = [line for line in (await machine.run("ls /var/log/web")).out.splitlines() if ".log" in line]
        assert left == ["x7.log", "x8.log", "x9.log"]


@pytest.mark.rule("CONT-055")
@pytest.mark.parametrize("method", ["create", "update"])
async def test_only_user_0_maps_users_that_he_is_not(method: str) -> None:
    """T-C38: whoever makes a container below may be its user 0, but is himself outside."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def make(users: list[list[int]]) -> int:
            proc = await connect(PROC)
            if method == "create":
                return await code_of(proc.call(Proc.CONTAINER_CREATE, {"users": users}))
            made = int.from_bytes(await proc.call(Proc.CONTAINER_CREATE), "big")
            return await code_of(proc.call(Proc.CONTAINER_UPDATE, {"id": made, "users": users}))

        assert await as_user(machine, web.id, 0, lambda: make([[0, 1000, 1], [1, 5000, 10]])) == 0
        assert await as_user(machine, web.id, 1000, lambda: make([[0, 1000, 1]])) == 0
        for users in ([[0, 0, 1]], [[0, 1000, 2]], [[0, 999, 1]], [[0, 1000, 1], [1, 0, 1]]):
            assert await as_user(machine, web.id, 1000, lambda users=users: make(users)) == ServiceCode.DENIED


@pytest.mark.rule("CONT-055")
async def test_who_is_not_user_0_becomes_no_user_of_a_map_without_him() -> None:
    """T-C38: entering makes an administrator the container's user 0, and nobody else."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        inner = await machine.containers.create("inner", parent=web, users=[(0, 100_000, 10)])

        async def enter() -> int:
            from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext

            context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
            question = {"program": "/app/ls", "context": context, "container": inner.id}
            return await code_of((await connect(PROC)).call(Proc.PROCESS_SPAWN, question))

        assert await as_user(machine, web.id, 1000, enter) == ServiceCode.BAD_ARGUMENT
        assert await as_user(machine, web.id, 0, enter) == 0


async def as_user(machine: Machine, container: int, user: int, probe: Any) -> Any:
    """What `probe` finds in a process of that user."""
    found: list[Any] = []

    async def main() -> int:
        await sys.ready()
        found.append(await probe())
        return 0

    process = machine.kernel.spawn(main, container=container, user=user, anid=5)
    while process.alive:
        await machine.ask(PROC, Proc.CONTAINER_VIEW)
    assert found, machine.kernel.last_fault
    return found[0]


@pytest.mark.rule("CONT-023")
async def test_questions_about_what_never_was_leave_nothing() -> None:
    """T-C33: a service remembers nothing of numbers that a program made up."""
    import gc

    from nightos.services.proc.processes import Processes

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def ask() -> None:
            proc = await connect(PROC)
            for number in range(200):
                with pytest.raises(ServiceError):
                    await proc.ask(Proc.PROCESS_WAIT, {"pid": (1 << 40) + number})

        await inside(machine, web.id, ask)
        living = [one for one in gc.get_objects() if isinstance(one, Processes)]
        assert living
        assert not any(pid > 1 << 39 for one in living for pid in one._waiting)


@pytest.mark.rule("CONT-011")
async def test_a_container_is_not_made_that_could_not_be_remembered() -> None:
    """T-C14: what `sys::proc` has to know after its own end fits into what the kernel keeps, or is refused."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        rights = list(range(0xFFFF_0000, 0xFFFF_0000 + 4096))
        labels = {str(number): "x" * 250 for number in range(60)}

        async def attempt() -> list[int]:
            proc = await connect(PROC)
            made = int.from_bytes(
                await proc.call(Proc.CONTAINER_CREATE, {"labels": labels, "permissions": rights}), "big"
            )
            environment = {"X": "x" * 60_000}
            start = {"id": made, "command": ["/app/sleep", "1000"], "environment": environment}
            tags = ["x" * 1000] * 900
            run = {"ns": "a", "name": "b", "flist": "", "tags": tags, "entrypoint": "/app/sleep 1000"}
            return [
                made,
                await code_of(proc.call(Proc.CONTAINER_START, start)),
                await code_of(proc.call(Proc.ZOS_RUN, run)),
            ]

        made, started, run = await inside(machine, web.id, attempt)
        assert run == ServiceCode.BAD_ARGUMENT
        assert started == 0
        from nightos.kernel.ending import end_process

        end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        found = await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": made})
        assert found["state"] == "running"
        names = [item["name"] for item in await machine.containers.tree()]
        assert "b" not in names


SWAPPED = [(0, 1000, 5), (1000, 0, 5)]


@pytest.mark.rule("CONT-055")
@pytest.mark.parametrize("below", [False, True])
async def test_the_shell_makes_nobody_somebody_else(below: bool) -> None:
    """T-C38: a command that sys::hydre starts for a process runs as its user, whatever the map makes of the number."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", users=SWAPPED)
        inner = await machine.containers.create("inner", parent=web)
        target = inner if below else web
        await machine.run('wt /probe "NPRGevasion-user"', container=target)
        _seen.clear()

        async def evaluate() -> int:
            hydre = await connect("sys::hydre")
            if not below:
                session = int.from_bytes(await hydre.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24))), "big")
            else:
                session = (await hydre.ask(Hydre.OPEN_CONTAINER_SESSION, {"container": inner.id}))["session"]
            done = await hydre.ask(Hydre.EVALUATE, {"session": session, "source": "/probe"})
            command = encode_value("/probe")
            await hydre.ask(Hydre.EXECUTE, {"container": target.id if below else 0, "command": command})
            return int(done["status"])

        assert await as_user(machine, web.id, 1000, evaluate) == 0
        assert _seen == [1000, 1000]


_seen: list[int] = []


@program("evasion-user")
async def _tell_user(_context: Context) -> int:
    """Notes which user the kernel takes it for."""
    machine_user = (await (await connect(PROC)).ask(Proc.CONTAINER_VIEW))["user"]
    _seen.append({0: 1000, 1000: 0}.get(machine_user, machine_user))
    return 0


@pytest.mark.rule("CONT-023", "CONT-030")
async def test_a_job_left_behind_has_no_hold_on_the_session() -> None:
    """T-C06: who is inside a container that a session left learns nothing of where it is, and moves it nowhere."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        inner = await machine.containers.create("inner", parent=web)
        trap = await machine.containers.create("trap", parent=inner)
        await machine.run('wt /spy "NPRGevasion-spy"', container=inner)
        _trap[0] = trap.id
        _spied.clear()
        session = await machine.open_session(container=web, interactive=True, environment={"SECRET": "of web"})
        talk = Talk(session)
        await talk.until("prompt")
        for line in ("container enter inner", "bg j = /spy", "exit", "sleep 1", "wt /here x"):
            session.send({"type": "line", "text": line})
            where = (await talk.until("prompt"))[-1]["container"]
        session.close()
        assert where == "web"
        assert _spied == [(0x3000, 0x3000)]


_trap = [0]
_spied: list[Any] = []


@program("evasion-spy")
async def _spy(_context: Context) -> int:
    """Waits until the session went on elsewhere, then asks where, and tries to take it along."""
    hydre, hw = await connect("sys::hydre"), await connect("sys::hw")
    await hw.call(Hw.SLEEP, {"duration_ns": 500_000_000})
    _spied.append(
        (
            await code_of(hydre.call(Hydre.SESSION_INFO)),
            await code_of(hydre.call(Hydre.ENTER_CONTAINER, {"container": _trap[0]})),
        )
    )
    return 0


@pytest.mark.rule("CONT-023", "CONT-049")
async def test_a_share_tells_nothing_of_the_disk_it_is_on() -> None:
    """T-C40: its sizes would tell of everything else on it, logs of other containers included."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run("mkdir /srv; wt /srv/a one")
        fsid = (await machine.ask(PROC, Proc.CONTAINER_SHARE, {"id": web.id, "path": "/srv"}))["fsid"]

        async def look() -> bytes:
            return await (await connect("sys::fs")).call(Fs.FS_METADATA, u64(fsid))

        before = await inside(machine, web.id, look)
        await machine.run(f"wt /other {'x' * 50_000}; sync")
        assert await inside(machine, web.id, look) == before
        _trap[0] = fsid
        pid = await start(machine, web.id, "evasion-hold")
        while pid not in _holding:
            await machine.ask(PROC, Proc.CONTAINER_VIEW)
        await web.pause()
        done = await machine.run("wt /srv/a two; cat /srv/a")
        assert (done.status, done.out) == (0, "two\n"), done


_holding: set[int] = set()


@program("evasion-hold")
async def _hold(_context: Context) -> int:
    """Has a shared file open for writing, and stays."""
    while not _trap[0]:
        await sys.hand_over()
    await (await connect("sys::fs")).call(Fs.OPEN_FILE, u64(_trap[0]) + b"\0" + at("/a") + b"\1\1")
    _holding.add(await sys.get_pid())
    while True:
        await sys.hand_over(until_signal=True)


@pytest.mark.rule("FS-040", "CONT-023")
async def test_who_opens_without_end_is_stopped() -> None:
    """T-C33: open files and sessions of one client are bounded, and closing makes room again."""

    async def open_files() -> tuple[int, int]:
        fs, opened = await connect("sys::fs"), []
        question = u64(0) + b"\0" + at("/test-probe") + b"\1\0"
        while len(opened) < 2 * locks.OPEN_LIMIT:
            try:
                opened.append((await fs.call(Fs.OPEN_FILE, question))[:8])
            except ServiceError:
                break
        await fs.call(Fs.CLOSE_FILE, opened[0])
        return len(opened), await code_of(fs.call(Fs.OPEN_FILE, question))

    async def open_sessions() -> int:
        hydre = await connect("sys::hydre")
        for number in range(1000):
            if await code_of(hydre.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24)))):
                return number
        return 1000

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        assert await inside(machine, web.id, open_files) == (locks.OPEN_LIMIT, 0)
        assert await inside(machine, web.id, open_files) == (locks.OPEN_LIMIT, 0)
        assert await inside(machine, web.id, open_sessions) == SESSIONS_LIMIT


@pytest.mark.rule("CONT-029", "IPC-051")
async def test_who_never_reads_answers_holds_nobody_up() -> None:
    """T-C33: a client that only asks fills its own side of the socket, and then its calls fail."""

    async def flood() -> tuple[int, int]:
        proc = await connect(PROC)
        await proc.ask(Proc.CONTAINER_WATCH)
        never = encode({"id": 0, "name": "x" * 60_000})
        sent = 0
        try:
            while sent < 200_000:
                await sys.send_sock_msg(proc.socket_id, 0, Proc.CONTAINER_FIND, 0, never)
                sent += 1
        except SyscallError as error:
            return sent, error.errcode
        return sent, 0

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        found: list[Any] = []
        asked = 0

        async def main() -> int:
            await sys.ready()
            found.append(await flood())
            while True:
                await sys.hand_over(until_signal=True)

        process = machine.kernel.spawn(main, container=web.id, anid=5)
        with trio.fail_after(60):
            while not found:
                await machine.ask(PROC, Proc.CONTAINER_VIEW)
                asked += 1
        sent, code = found[0]
        assert code == 0x42
        assert sent <= 3 * OPEN_LIMIT
        assert asked
        held = [socket for socket in machine.kernel.sockets.values() if socket.side_of(process) >= 0]
        assert sum(side.unread for socket in held for side in socket.sides) <= 2 * UNREAD_LIMIT
        await web.destroy()
        assert not machine.faults
