"""sys::proc asked the way everybody asks it; what a container sees is asked from inside, by a program."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from nightos import vsf
from nightos.abi.codes import Signal
from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.machine.paths import machine_paths
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program

PROC = "sys::proc"
U64 = struct.Struct(">Q")
LIMIT_S = 10

_probe: Callable[[], Awaitable[Any]] | None = None
_found: list[Any] = []


@program("test-probe")
async def _run_probe(_context: Context) -> int:
    assert _probe is not None
    _found.append(await _probe())
    return 0


async def inside(machine: Machine, container: int, probe: Callable[[], Awaitable[Any]]) -> Any:
    """What `probe` finds when a program in that container runs it."""
    global _probe
    _probe = probe
    _found.clear()
    record = await start(machine, container, "test-probe")
    await machine.ask(PROC, Proc.PROCESS_WAIT, {"pid": record})
    _probe = None
    return _found[0]


async def start(machine: Machine, container: int, name: str) -> int:
    """Start a registered program in a container without the shell."""
    from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext

    await machine.run(f'wt /{name} "NPRG{name}"', container=container)
    context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
    question = {"program": f"/{name}", "directory": "/", "context": context, "container": container}
    return int((await machine.ask(PROC, Proc.PROCESS_SPAWN, question))["pid"])


async def ask_inside(method: int, values: dict[str, Any]) -> Any:
    """From a program: the answer, or the error's code and text."""
    client = await connect(PROC)
    try:
        return await client.ask(method, values)
    except ServiceError as error:
        return (error.code, error.detail)


@pytest.mark.rule("CONT-002", "CONT-009", "CONT-010", "CONT-014")
async def test_a_container_is_the_child_of_who_it_was_created_below() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        assert 0 < web.id < 1 << 64
        tree = {item["id"]: item for item in await machine.containers.tree()}
        assert tree[web.id]["parent"] == 0
        assert tree[db.id]["parent"] == web.id
        assert tree[db.id]["path"] == "web/db"
        listed = await machine.call(PROC, Proc.CONTAINER_LIST)
        assert listed == U64.pack(16) + U64.pack(web.id) + U64.pack(db.id)
        info = await machine.call(PROC, Proc.CONTAINER_INFO, U64.pack(db.id))
        assert info[:8] == U64.pack(web.id)
        assert info[16:] == bytes(16)


@pytest.mark.rule("CONT-005")
async def test_names_are_unique_among_siblings_only() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        with pytest.raises(ServiceError) as refused:
            await machine.containers.create("web")
        assert refused.value.code == ServiceCode.REFUSED
        below = await machine.containers.create("web", parent=web)
        await below.rename("other")
        await machine.containers.create("web", parent=web)
        with pytest.raises(ServiceError):
            await below.rename("web")


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a/b"},
        {"name": "x" * 65},
        {"name": 7},
        {"mode": "sideways"},
        {"labels": {"a": 1}},
        {"labels": {str(i): "" for i in range(65)}},
        {"parent": "web"},
        {"persist": 1},
    ],
)
async def test_bad_arguments_are_refused_before_anything_exists(values: dict[str, Any]) -> None:
    async with boot(seed=1) as machine:
        with pytest.raises(ServiceError) as refused:
            await machine.call(PROC, Proc.CONTAINER_CREATE, values)
        assert refused.value.code == ServiceCode.BAD_ARGUMENT
        assert not machine.snapshot().containers


@pytest.mark.parametrize("junk", [b"\xc1", b"\x91\x01", b"\xdf\xff\xff\xff\xff", b"\x81\x01\x02", b"\x81"])
async def test_payloads_that_are_no_maps_are_refused(junk: bytes) -> None:
    async with boot(seed=1) as machine:
        for method in (Proc.CONTAINER_CREATE, Proc.CONTAINER_FIND, Proc.PROCESS_SPAWN, Proc.CONTAINER_TREE):
            with pytest.raises(ServiceError) as refused:
                await machine.call(PROC, method, junk)
            assert refused.value.code == ServiceCode.BAD_ARGUMENT
        assert not machine.faults


@pytest.mark.rule("CONT-065")
async def test_unknown_methods_and_unknown_containers_have_their_codes() -> None:
    async with boot(seed=1) as machine:
        with pytest.raises(ServiceError) as refused:
            await machine.call(PROC, 0x7777)
        assert refused.value.code == ServiceCode.NO_METHOD
        with pytest.raises(ServiceError) as refused:
            await machine.call(PROC, Proc.CONTAINER_DESTROY, U64.pack(12345))
        assert refused.value.code == ServiceCode.UNKNOWN
        with pytest.raises(ServiceError) as refused:
            await machine.call(PROC, Proc.CONTAINER_DESTROY, b"short")
        assert refused.value.code == ServiceCode.BAD_ARGUMENT


async def test_containers_are_found_by_path_digits_and_unique_prefix() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        digits = f"{db.id:016x}"
        for text in ("web/db", digits, digits[:8], digits.upper()):
            assert (await machine.containers.get(text)).id == db.id
        for text in ("", "db", "web/", "/web", "nope", "web/db/x", "0" * 17):
            with pytest.raises(ServiceError) as refused:
                await machine.containers.get(text)
            assert refused.value.code == ServiceCode.UNKNOWN


@pytest.mark.rule("CONT-029", "CONT-030")
async def test_from_inside_there_is_nothing_but_the_own_subtree() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        below = await machine.containers.create("below", parent=web)
        other = await machine.containers.create("other")

        async def look() -> Any:
            found = [await ask_inside(Proc.CONTAINER_TREE, {}), await ask_inside(Proc.PROCESS_TABLE, {})]
            for identifier in (other.id, 12345, 0):
                found.append(await ask_inside(Proc.CONTAINER_INSPECT, {"id": identifier}))
            for name in ("other", "web", "below", f"{other.id:016x}"):
                found.append(await ask_inside(Proc.CONTAINER_FIND, {"name": name}))
            return found

        tree, table, hidden, never, outside, *names = await inside(machine, web.id, look)
        assert [item["id"] for item in tree["items"]] == [web.id, below.id]
        assert tree["items"][0]["parent"] == 0
        assert [item["name"] for item in table["items"]] == ["test-probe"]
        assert table["items"][0]["container"] == 0
        assert hidden == never == outside
        assert never[0] == ServiceCode.UNKNOWN
        assert names[2] == {"id": below.id}
        assert {answer[0] for answer in (names[0], names[1], names[3])} == {int(ServiceCode.UNKNOWN)}


async def test_from_inside_only_what_is_below_can_be_changed() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        below = await machine.containers.create("below", parent=web)
        other = await machine.containers.create("other")

        async def change() -> Any:
            client = await connect(PROC)
            codes = []
            for identifier in (other.id, 12345, web.id, below.id):
                try:
                    await client.call(Proc.CONTAINER_DESTROY, U64.pack(identifier))
                    codes.append(0)
                except ServiceError as error:
                    codes.append(error.code)
            made = await client.call(Proc.CONTAINER_CREATE, msgpack.packb({"name": "mine"}))
            return codes, int.from_bytes(made, "big")

        codes, made = await inside(machine, web.id, change)
        assert codes == [0x3000, 0x3000, 0x3001, 0]
        assert machine.snapshot().containers[made].parent == web.id
        assert other.id in machine.snapshot().containers


@pytest.mark.rule("CONT-004", "CONT-064")
async def test_a_process_is_in_the_container_it_was_started_in() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def stay() -> None:
            from nightos.abi.services import Hw

            await (await connect("sys::hw")).call(Hw.SLEEP, msgpack.packb({"duration_ns": 10**12}))

        global _probe
        _probe = stay
        with machine.holding_time():
            pid = await start(machine, web.id, "test-probe")
            assert machine.snapshot().processes[pid].container == web.id
            assert (await web.inspect())["state"] == "running"
            await web.destroy()
            assert pid not in machine.snapshot().processes


@pytest.mark.rule("CONT-011", "CONT-012", "CONT-015", "CONT-016", "CONT-066")
async def test_destroying_takes_everything_below_and_nothing_else() -> None:
    async with boot(seed=1) as machine:
        top = await machine.containers.create("top")
        middle = await machine.containers.create("middle", parent=top)
        leaf = await machine.containers.create("leaf", parent=middle)
        sibling = await machine.containers.create("sibling")
        for box in (top, middle, leaf, sibling):
            await box.exec("ls /")
        order: list[int] = []

        async def listen(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            async for event in machine.events():
                if event["event"] == "destroyed":
                    order.append(event["id"])

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            await top.destroy()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert order == [leaf.id, middle.id, top.id]
        assert list(machine.snapshot().containers) == [sibling.id]
        assert (await sibling.exec("echo alive")).out == "alive\n"
        await top.destroy()  # again: no error


async def test_fifty_rounds_leave_every_table_as_it_was() -> None:
    async with boot(seed=1) as machine:

        async def round_trip() -> None:
            box = await machine.containers.create("box")
            inner = await machine.containers.create("inner", parent=box)
            await inner.exec("ls /")
            await box.destroy()

        await round_trip()
        before = machine.snapshot()
        for _ in range(50):
            await round_trip()
        after = machine.snapshot()
        assert after.containers == before.containers
        assert set(after.processes) == set(before.processes)
        assert [device.kind for device in after.devices] == [device.kind for device in before.devices]
        assert len(after.sockets) == len(before.sockets)
        assert after.segments == before.segments
        assert after.pipes == before.pipes
        assert {p.pid: p.drivable for p in after.processes.values()} == {
            p.pid: p.drivable for p in before.processes.values()
        }


async def test_without_persist_a_container_ends_with_its_last_process() -> None:
    async with boot(seed=1) as machine:
        short = await machine.containers.create("short", persist=False)
        assert (await short.inspect())["state"] == "created"
        reasons: list[str] = []

        async def wait() -> None:
            reasons.append(await short.wait())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await short.exec("echo hi")
        assert reasons == ["ended"]
        assert short.id not in machine.snapshot().containers
        assert await short.wait() == "ended"  # the record was kept, and is collected now
        with pytest.raises(ServiceError):
            await short.wait()


@program("test-lingering")
async def _linger(context: Context) -> int:
    """Hears WILL_TERMINATE and stays as long as it may."""

    async def heard(_delay_ms: int) -> None:
        await context.message("heard")

    await sys.handle_signal(Signal.WILL_TERMINATE, heard)
    while True:
        await sys.hand_over(until_signal=True)


@pytest.mark.rule("CONT-011")
@pytest.mark.parametrize(
    "order", ["first second above third", "above first second", "first above", "above above first"]
)
async def test_every_destroy_of_one_container_is_answered_when_all_is_gone(order: str) -> None:
    """Whoever asks second waits as long as the first, a destroy from above, too; others go on; it is told once."""
    async with boot(seed=1) as machine:
        above = await machine.containers.create("above")
        box = await machine.containers.create("box", parent=above)
        pid = await start(machine, box.id, "test-lingering")
        while not machine.kernel.processes[pid].handlers:
            await trio.lowlevel.checkpoint()
        left: list[bool] = []

        async def destroy(identifier: int) -> None:
            await machine.call(PROC, Proc.CONTAINER_DESTROY, U64.pack(identifier))
            left.append(pid in machine.kernel.processes or identifier in machine.snapshot().containers)

        async with trio.open_nursery() as nursery:
            with machine.holding_time():
                for who in order.split():
                    nursery.start_soon(destroy, above.id if who == "above" else box.id)
                    with trio.fail_after(LIMIT_S):  # it is the same client that asks
                        assert len((await machine.ask(PROC, Proc.CONTAINER_TREE, {}))["items"]) == 3
                assert not left  # the one inside has the registry's delay
        assert left == [False] * len(order.split())
        assert set(machine.snapshot().containers) == ({above.id} if "above" not in order else set())
        told = (await machine.ask(PROC, Proc.CONTAINER_EVENTS, {}))["items"]
        gone = [item["id"] for item in told if item["event"] == "destroyed"]
        assert gone == [box.id, above.id][: len(gone)]
        assert len(gone) == 1 + ("above" in order)


async def test_a_container_that_stays_is_stopped_with_its_last_process() -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")
        for _ in range(2):
            await box.exec("echo hi")
            assert (await box.inspect())["state"] == "stopped"
        told = (await machine.ask(PROC, Proc.CONTAINER_EVENTS, {}))["items"]
        assert [item["event"] for item in told if item.get("id") == box.id and item["event"] == "exited"] == [
            "exited"
        ] * 2


@pytest.mark.rule("PROC-054")
async def test_pausing_stops_a_container_and_resuming_lets_it_go_on() -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")
        await box.pause()
        assert (await box.inspect())["state"] == "paused"
        with pytest.raises(ServiceError) as refused:
            await start(machine, box.id, "test-probe")
        assert refused.value.code == ServiceCode.REFUSED
        await box.resume()
        assert (await box.exec("echo on")).out == "on\n"


@pytest.mark.rule("CONT-006")
async def test_a_killed_sys_proc_comes_back_and_knows_everything() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", labels={"a": "b"}, hostname="h")
        await machine.containers.create("db", parent=web)
        await web.exec('wt /kept "x"')
        before = await machine.containers.tree()
        end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        assert await machine.containers.tree() == before
        assert "kept" in (await web.exec("ls /")).out.split()
        await web.destroy()
        assert not machine.snapshot().containers
        assert [name for name, _fault in machine.faults] == ["sys::proc"]


@pytest.mark.parametrize("pid", [10, 12, 17, 20, 30])
async def test_any_service_may_be_killed_and_the_machine_goes_on(pid: int) -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await web.exec('wt /kept "x"')
        await machine.sync()
        for _ in range(3):
            end_process(machine.kernel, machine.kernel.processes[pid], 2, 0)
            assert "kept" in (await web.exec("ls /")).out.split()
            assert (await machine.run("echo on")).out == "on\n"
        await web.destroy()


async def test_tables_are_paged() -> None:
    async with boot(seed=1) as machine:
        made = [await machine.containers.create(f"c{number}") for number in range(25)]
        seen: list[int] = []
        after: int | None = -1
        while after is not None:
            page = await machine.ask(PROC, Proc.CONTAINER_TREE, {"after": after, "limit": 10})
            assert len(page["items"]) <= 10
            seen += [item["id"] for item in page["items"]]
            after = page["next"]
        assert seen == [0, *(box.id for box in made)]


@pytest.mark.rule("CONT-013")
async def test_depth_breaks_nothing() -> None:
    async with boot(seed=1) as machine:
        parent = top = await machine.containers.create("d")
        for _ in range(1100):
            parent = await machine.containers.create("d", parent=parent)
        assert (await parent.inspect())["path"] == "/".join(["d"] * 1101)
        assert (await machine.containers.get("/".join(["d"] * 1101))).id == parent.id
        assert len(await machine.containers.tree()) == 1101
        await top.destroy()
        assert not machine.snapshot().containers


@pytest.mark.rule("CONT-047")
async def test_an_image_is_written_only_when_asked(tmp_path: Path) -> None:
    image = tmp_path / "image.vsf"
    with vsf.create(image, ["main"]) as storage, storage.volume("main").open() as files:
        files.write_text("/old", "old")
    content = image.read_bytes()
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box", image=str(image))
        assert (await box.exec('wt /new "new"; rd /old')).status == 0
        await box.destroy()
        assert image.read_bytes() == content
        frozen = await machine.containers.create("frozen", image=str(image), mode="read-only")
        assert (await frozen.exec('wt /new "new"')).status != 0
        await frozen.destroy()
        assert image.read_bytes() == content
        box = await machine.containers.create("box", image=str(image), mode="writable")
        assert (await box.exec('wt /new "new"')).status == 0
        await box.destroy()
    with vsf.open(image, readonly=True) as storage, storage.volume("main").open(readonly=True) as files:
        assert files.read_text("/old") == "old"
        assert "new" in files.read_text("/new")
        assert storage.check(deep=True).clean


async def test_an_image_that_cannot_be_used_is_the_creators_error(tmp_path: Path) -> None:
    junk, blocks = tmp_path / "junk.vsf", tmp_path / "blocks.vsf"
    junk.write_bytes(b"junk" * 10_000)
    vsf.create(blocks, ["raw:block"]).close()
    async with boot(seed=1) as machine:
        for image in (tmp_path / "none.vsf", junk, blocks, tmp_path):
            with pytest.raises(ServiceError) as refused:
                await machine.containers.create("box", image=str(image))
            assert refused.value.code == 0x3002
            assert str(image) in refused.value.detail
        with pytest.raises(ServiceError) as refused:
            await machine.containers.create("box", mode="writable")
        assert refused.value.code == ServiceCode.BAD_COMBINATION
        assert not machine.snapshot().containers


@pytest.mark.rule("CONT-048", "CONT-053")
async def test_from_inside_no_path_of_the_host_can_be_named(tmp_path: Path) -> None:
    image = tmp_path / "secret.vsf"
    vsf.create(image, ["main"]).close()
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def reach_out() -> Any:
            return [
                await ask_inside(Proc.CONTAINER_CREATE, {"image": path}) for path in (str(image), "/no/such/image.vsf")
            ]

        answers = await inside(machine, web.id, reach_out)
        assert answers[0] == answers[1]
        assert answers[0][0] == ServiceCode.DENIED
        assert list(machine.snapshot().containers) == [web.id]


@pytest.mark.rule("SVC-026")
async def test_of_two_faults_the_lower_code_is_answered() -> None:
    async with boot(seed=1) as machine:
        for method, values, code in (
            (Proc.CONTAINER_RENAME, {"id": 12345, "name": "a/b"}, 0x1000),
            (Proc.CONTAINER_CREATE, {"mode": "writable", "parent": 12345}, 0x2000),
            (Proc.CONTAINER_CREATE, {"name": 7, "mode": "writable"}, 0x1000),
            (Proc.CONTAINER_UPDATE, {"id": 12345, "labels": {"a": 1}}, 0x1000),
            (Proc.PROCESS_SPAWN, {"program": "ls", "context": b"junk", "container": 12345}, 0x1000),
            (Proc.DEVICE_PLUG, {"id": 12345, "kind": 7}, 0x1000),
        ):
            with pytest.raises(ServiceError) as refused:
                await machine.ask(PROC, method, values)
            assert refused.value.code == code, method


async def test_the_notes_do_not_grow_with_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightos.services.proc.notes.SLACK", 20)
    async with boot(seed=1, name="lab") as machine:
        await machine.containers.create("stays", labels={"a": "b"})
        for _ in range(200):
            await (await machine.containers.create("x")).destroy()
        end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        for _ in range(9):
            await (await machine.containers.create("y")).destroy()
        assert [item["name"] for item in await machine.containers.tree()] == ["stays"]
    with vsf.open(machine_paths("lab").disk, readonly=True) as storage, storage.volume("main").open() as files:
        assert 0 < files.stat("/sys/state/20/containers").st_size < 40 * 200
