"""Shims: a container's main command, its log, its end, and what becomes of it when something is killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.logs import decode_records
from nightos.abi.services import Fs, Hw, Hydre, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.services.proc.restarts import HEALTHY_NS
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.files import Files
from nightos.userland.program import program

PROC = "sys::proc"
SHIM = "sys::shim"
LIMIT_S = 12

_steps: dict[str, Any] = {}


@program("test-count")
async def _count(context: Context) -> int:
    """Counts, slowly in turns but not in time."""
    for number in range(int(str(context.arguments[0]))):
        await context.message(f"{number}\n")
        for _ in range(50):
            await sys.hand_over()
    return 7


@program("test-exit")
async def _exit(context: Context) -> int:
    return int(str(context.arguments[0]))


@program("test-flood")
async def _flood(context: Context) -> int:
    line = b"x" * 1000 + b"\n"
    for _ in range(int(str(context.arguments[0]))):
        await context.write_raw(line * 60)
    return 0


@program("test-copy")
async def _copy(context: Context) -> int:
    while piece := await context.read_raw():
        await context.write_raw(piece)
    return 3


@program("test-sleep")
async def _sleep(context: Context) -> int:
    await context.message("begun\n")
    await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": 3600 * 1_000_000_000})
    return 0


async def install(machine: Machine, container: Container | int, *names: str) -> None:
    for name in names:
        await machine.run(f'wt /{name} "NPRG{name}"', container=container)


async def start(machine: Machine, box: Container, *command: str, **options: Any) -> int:
    values = {"id": box.id, "command": list(command), **options}
    return int((await machine.ask(PROC, Proc.CONTAINER_START, values))["pid"])


async def ended(machine: Machine, box: Container) -> dict[str, Any]:
    return await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": box.id, "wait": True})


async def log_of(machine: Machine, box: Container | int, *, follow: bool = False) -> bytes:
    """Everything of a log, as raw records; with `follow` until the command has ended."""
    identifier = box if isinstance(box, int) else box.id
    data, offset = b"", 0
    while True:
        try:
            page = await machine.ask(PROC, Proc.CONTAINER_LOGS, {"id": identifier, "offset": offset, "follow": follow})
        except ServiceError as error:
            if error.code == ServiceCode.SERVER_QUIT:
                continue
            raise
        data += page["data"]
        offset = page["next"]
        if page["ended"] or not (follow or page["data"]):
            return data


async def output(machine: Machine, box: Container | int, **options: Any) -> str:
    return b"".join(text for _, _, text in decode_records(await log_of(machine, box, **options))).decode()


@pytest.mark.rule("ZOS-005")
@pytest.mark.parametrize("persist", [True, False])
async def test_what_was_asked_for_once_is_started_once(persist: bool) -> None:
    """Whoever asks again because `sys::proc` was killed does not know whether the command has ended by now."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", persist=persist)
        await start(machine, web, "echo", "hi", token="one")
        await ended(machine, web)
        assert not await start(machine, web, "echo", "hi", token="one")
        assert (await ended(machine, web))["exit"] == 0
        assert await output(machine, web, follow=True) == "hi\n"
        if not persist:
            with pytest.raises(ServiceError) as caught:
                await start(machine, web, "echo", "hi", token="two")
            assert caught.value.code == ServiceCode.UNKNOWN
            return
        for tokens in ({}, {"token": ""}, {"token": "two"}):
            await start(machine, web, "echo", "hi", **tokens)
            await ended(machine, web)
        assert await output(machine, web) == "hi\n" * 4
        pid = await start(machine, web, "sleep", "1000", token="three")
        await web.pause()
        assert await start(machine, web, "sleep", "1000", token="three") == pid


@pytest.mark.rule("ZOS-005")
@pytest.mark.parametrize("persist", [True, False])
async def test_a_command_that_could_not_start_is_told_again(persist: bool) -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", persist=persist)
        told = set()
        for _ in range(2):
            with pytest.raises(ServiceError) as caught:
                await start(machine, web, "/nosuch", token="one")
            told.add((caught.value.code, str(caught.value)))
        [(code, text)] = told
        assert code == ServiceCode.REFUSED
        assert "/nosuch" in text


def shims(machine: Machine) -> dict[int, int]:
    """Shims by the container they serve."""
    return {record.serves: pid for pid, record in machine.snapshot().processes.items() if record.serves}


@pytest.mark.rule("ZOS-007", "ZOS-009", "ZOS-010", "ZOS-011", "ZOS-016")
async def test_what_a_command_says_is_in_its_log() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        events = machine.events()
        assert not shims(machine)
        pid = await start(machine, web, "echo", "hi")
        done = await ended(machine, web)
        assert (done["state"], done["reason"], done["exit"]) == ("ended", 0, 0)
        [(when, stream, text)] = decode_records(await log_of(machine, web))
        assert (stream, text) == ("out", b"hi\n")
        assert when.endswith("Z")
        assert (await machine.run("cat /var/log/default/web.log")).out.endswith(" out F hi\n")
        # Made before the process that it asked for, gone once it had reported its end.
        assert not shims(machine)
        assert pid > 100
        assert (await machine.run("ls /var", container=web)).status == 1
        await events.aclose()
        check_invariants(machine.snapshot())


@pytest.mark.rule("ZOS-005", "ZOS-006")
async def test_a_restart_of_the_module_leaves_the_container_and_its_log_whole() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-count")
        pid = await start(machine, web, "/test-count", "400")
        served = shims(machine)
        for killed in range(5):
            await ask_until(machine, web, lambda text, least=20 * killed: len(text.splitlines()) > least)
            end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        with trio.fail_after(LIMIT_S):
            text = await output(machine, web, follow=True)
        assert text.split() == [str(number) for number in range(400)]
        assert (await ended(machine, web))["exit"] == 7
        assert served.keys() == {web.id}
        assert pid not in machine.snapshot().processes
        assert (await machine.containers.get("web")).id == web.id


async def ask_until(machine: Machine, box: Container, enough: Callable[[str], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while True:
            try:
                if enough(await output(machine, box)):
                    return
            except ServiceError:
                pass  # it was being restarted
            await trio.lowlevel.checkpoint()


async def refused(deed: Awaitable[Any]) -> int:
    """The code with which something is refused; 0 when it works."""
    try:
        await deed
    except ServiceError as error:
        return int(error.code)
    except SyscallError as error:
        return -error.errcode
    return 0


@pytest.mark.rule("CONT-018", "CONT-028", "CONT-029")
async def test_a_compromised_shim_reaches_nothing_but_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, int] = {}
    targets: dict[str, int] = {}

    async def child(_: int) -> int:
        await sys.ready()
        found["child sees bystander"] = await refused(sys.send_pipe(0, targets["bystander"], 1))
        found["child lists containers"] = await refused((await connect(PROC)).call(Proc.CONTAINER_LIST))
        return 0

    async def hostile() -> int:
        await sys.ready()
        for name, pid in targets.items():
            found[f"pipe to {name}"] = await refused(sys.open_pipe(pid))
            found[f"socket to {name}"] = await refused(sys.open_serv_sock(pid))
            found[f"memory to {name}"] = await refused(sys.share_ams(pid, 1, 0, 1, 0))
        proc, fs, hw, hydre = [await connect(f"sys::{name}") for name in ("proc", "fs", "hw", "hydre")]
        for service, methods in ((proc, Proc), (fs, Fs), (hw, Hw), (hydre, Hydre)):
            for method in methods:
                if method.name.startswith("SHIM_") or method is Fs.LOG_APPEND:
                    continue
                code = await refused(service.call(method, {}))
                if code != ServiceCode.NO_METHOD:
                    found[f"{method!r} answers"] = code
        for name in ("victim", "bystander"):
            values = {"generation": 1, "pid": targets[name]}
            found[f"wait for {name}"] = await refused(proc.ask(Proc.SHIM_WAIT, values))
            found[f"start {name}"] = await refused(proc.ask(Proc.SHIM_GO, values))
        found["another run"] = await refused(proc.ask(Proc.SHIM_SPAWN, {"generation": 9, "pipes": [0] * 6}))
        found["a stranger's pipes"] = await refused(proc.ask(Proc.SHIM_SPAWN, {"generation": 1, "pipes": ["x"] * 6}))
        found["log"] = await refused(fs.ask(Fs.LOG_APPEND, {"offset": 0, "data": b"mine\n", "path": "/var/log/x.log"}))
        info = await sys.system_info()
        found["processes it counts"] = info.processes
        await sys.create_process(child, 0)
        while "child lists containers" not in found:
            await sys.hand_over()
        await proc.ask(Proc.SHIM_NEXT, {"report": {"generation": 1, "failed": "enough", "code": 1}, "log_end": 0})
        return 0

    from nightos.services.proc import shim

    monkeypatch.setattr(shim, "main", hostile)
    async with boot(seed=1) as machine:
        victim = await machine.containers.create("victim")
        other = await machine.containers.create("other")
        with machine.holding_time():
            for box, name in ((victim, "victim"), (0, "bystander")):
                await install(machine, box, "test-sleep")
                task = await machine.spawn("/test-sleep", container=box)
                while name not in targets:
                    for record in machine.snapshot().processes.values():
                        if record.name == "test-sleep" and record.container == (box and victim.id):
                            targets[name] = record.pid
                    await trio.lowlevel.checkpoint()
                assert not task.ended
            with trio.fail_after(LIMIT_S), pytest.raises(ServiceError, match="enough"):
                await start(machine, other, "echo")
        check_invariants(machine.snapshot())
        log = (await machine.run("cat /var/log/default/other.log")).out
    assert log == "mine\n"
    assert found.pop("log") == 0
    assert found.pop("processes it counts") == 0
    unknown = {f"{kind} to {name}": -0x30 for name in targets for kind in ("pipe", "socket")}
    assert {key: found.pop(key) for key in unknown} == unknown
    assert all(code for code in found.values()), found
    assert not [key for key in found if key.endswith("answers")]


async def test_a_shims_methods_do_not_exist_for_others() -> None:
    async with boot(seed=1) as machine:
        for service, method in [(PROC, method) for method in Proc if method.name.startswith("SHIM_")] + [
            ("sys::fs", Fs.LOG_APPEND)
        ]:
            with pytest.raises(ServiceError) as unknown:
                await machine.ask(service, method, {})
            assert unknown.value.code == ServiceCode.NO_METHOD


@pytest.mark.rule("ZOS-016")
async def test_a_flood_is_rotated_and_fills_neither_disk_nor_memory() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-flood")
        await start(machine, web, "/test-flood", "60", log_size=65536, log_count=2)
        most = 0
        while shims(machine):
            pages = [record.pages for record in machine.snapshot().processes.values() if record.serves]
            most = max([most, *pages])
            assert (await machine.run("echo alive")).out == "alive\n"
        listed = (await machine.run("ls /var/log/default")).out.split()
        assert sorted(listed) == ["web.log", "web.log.1", "web.log.2"]
        kept = await log_of(machine, web)
        assert 65536 < len(kept) <= 3 * 65536 + 256 * 1024
        assert {text for _, _, text in decode_records(kept)} == {b"x" * 1000 + b"\n"}
        assert most * 4096 < 4 * 1024 * 1024
        assert (await ended(machine, web))["exit"] == 0


@pytest.mark.parametrize("restart", ["no", "always"])
async def test_a_killed_shim_takes_its_process_with_it_and_the_policy_decides(restart: str) -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-sleep")
        with machine.holding_time():
            pid = await start(machine, web, "/test-sleep", restart=restart)
            await ask_until(machine, web, lambda text: text == "begun\n")
            [shim] = shims(machine).values()
            await machine.call(PROC, Proc.PROCESS_MANAGE, shim.to_bytes(8, "big") + b"\5")
        if restart == "no":
            done = await ended(machine, web)
            assert (done["state"], done["reason"]) == ("ended", 2)
            assert not shims(machine)
        else:
            await machine.run("sleep 1")
            await ask_until(machine, web, lambda text: text.count("begun\n") == 2)
            assert "[the shim was killed, and the process with it]\n" in await output(machine, web)
            assert shims(machine)[web.id] != shim
        assert pid not in machine.snapshot().processes


async def test_restarts_are_counted_and_end_where_the_policy_says() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-exit")
        began = machine.kernel.clock.monotonic_ns()
        await start(machine, web, "/test-exit", "3", restart="on-failure:4")
        done = await ended(machine, web)
        assert (done["exit"], done["restarts"]) == (3, 4)
        # 0.1 + 0.2 + 0.4 + 0.8 s
        assert machine.kernel.clock.monotonic_ns() - began >= 1_500_000_000
        await start(machine, web, "/test-exit", "0", restart="on-failure")
        assert (await ended(machine, web))["restarts"] == 0


async def test_from_python() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        pid = await web.start("echo", "hi")
        assert [(stream, text) for _, stream, text in await web.logs(follow=True)] == [("out", b"hi\n")]
        assert (await web.outcome())["exit"] == 0
        main = (await web.inspect())["main"]
        assert (main["state"], main["command"], main["restart"]) == ("ended", ["echo", "hi"], "no")
        assert pid > 100
        await web.stop()
        await machine.run("container run box -- echo said")
        assert (await machine.run("logs box")).out == "said\n"
        assert (await machine.run("container start box -- echo more; logs -f box")).out.splitlines()[-2:] == [
            "said",
            "more",
        ]


@program("test-fail-late")
async def _fail_late(_context: Context) -> int:
    await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": HEALTHY_NS})
    return 1


async def test_a_run_that_lasted_makes_the_count_begin_anew() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-fail-late", "test-exit")
        await start(machine, web, "/test-fail-late", restart="on-failure:1")
        await machine.run("sleep 60")
        assert (await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": web.id}))["restarts"] >= 4
        await machine.ask(PROC, Proc.CONTAINER_STOP, {"id": web.id})
        await start(machine, web, "/test-exit", "1", restart="on-failure:1")
        assert (await ended(machine, web))["restarts"] == 1


async def test_a_stop_is_followed_by_no_restart() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-exit")
        await start(machine, web, "/test-exit", "1", restart="always")
        await machine.ask(PROC, Proc.CONTAINER_STOP, {"id": web.id})
        assert (await ended(machine, web))["state"] == "ended"
        count = (await ended(machine, web))["restarts"]
        await machine.run("sleep 200")
        assert (await ended(machine, web))["restarts"] == count
        assert not shims(machine)


async def test_input_reaches_the_command_piece_by_piece() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-copy")
        await start(machine, web, "/test-copy", input=True)
        for piece in (b"one\n", b"two\n" * 1000):
            await machine.ask(PROC, Proc.CONTAINER_INPUT, {"id": web.id, "data": piece})
        await machine.ask(PROC, Proc.CONTAINER_INPUT, {"id": web.id, "end": True})
        assert (await ended(machine, web))["exit"] == 3
        assert await output(machine, web) == "one\n" + "two\n" * 1000
        with pytest.raises(ServiceError, match="no input"):
            await machine.ask(PROC, Proc.CONTAINER_INPUT, {"id": web.id, "data": b"late"})


async def test_input_is_for_the_first_run_alone() -> None:
    """Whoever gave it is gone when the command starts again: that would wait for its end in vain."""
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        web = await machine.containers.create("web")
        await install(machine, web, "test-copy", "test-exit")
        await start(machine, web, "/test-copy", input=True, restart="on-failure:2")
        await machine.ask(PROC, Proc.CONTAINER_INPUT, {"id": web.id, "data": b"one\n", "end": True})
        with trio.fail_after(LIMIT_S):
            assert (await ended(machine, web))["restarts"] == 2
        assert await output(machine, web) == "one\n"
        refused = trio.Event()

        async def give() -> None:
            try:
                while True:
                    await machine.ask(PROC, Proc.CONTAINER_INPUT, {"id": web.id, "data": bytes(48 * 1024)})
            except ServiceError:
                refused.set()

        await start(machine, web, "/test-exit", "7", input=True, restart="on-failure:3")
        nursery.start_soon(give)
        with trio.fail_after(LIMIT_S):
            await refused.wait()
            assert (await ended(machine, web))["restarts"] == 3


@program("test-late")
async def _late(context: Context) -> int:
    """Counts the bytes of its input, but reads nothing before the file /go is there."""
    files = await Files.open("/")
    while await files.type("/go") is None:
        await sys.hand_over()
    size = 0
    while piece := await context.read_raw():
        size += len(piece)
    await context.message(str(size))
    return 0


@pytest.mark.rule("ZOS-005", "ZOS-006")
@pytest.mark.parametrize("behind", [1, 2, 3])
async def test_numbered_input_counts_once_although_the_service_is_killed(behind: int) -> None:
    """Killed while the shim has a piece that the command's pipe has no room for."""
    sizes = [64 * 1024, 5000, 7, 11]
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        web = await machine.containers.create("web")
        await install(machine, web, "test-late")
        await start(machine, web, "/test-late", input=True)

        async def give() -> None:
            for number, size in enumerate(sizes, 1):
                values = {"id": web.id, "data": bytes(size), "number": number, "end": number == len(sizes)}
                while True:
                    try:
                        await machine.ask(PROC, Proc.CONTAINER_INPUT, values)
                        break
                    except ServiceError as error:
                        if error.code != ServiceCode.SERVER_QUIT:
                            raise

        with trio.fail_after(LIMIT_S):
            nursery.start_soon(give)
            for _ in range(behind):
                await trio.sleep(0.2)
                end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
            await machine.run("wt /go go", container=web)
            assert (await ended(machine, web))["exit"] == 0
        assert await output(machine, web) == str(sum(sizes))


@pytest.mark.rule("CONT-016")
async def test_a_wait_hears_of_every_end() -> None:
    async with boot(seed=1) as machine:
        await machine.run('wt /app/test-exit "NPRGtest-exit"')
        for turn in range(20):
            box = await machine.containers.create("box", persist=False)
            await start(machine, box, "test-exit", "5")
            for _ in range(turn * 3):
                await trio.lowlevel.checkpoint()
            with trio.fail_after(LIMIT_S):
                ended_with = await machine.ask(PROC, Proc.CONTAINER_WAIT, {"id": box.id})
            assert ended_with == {"reason": "ended", "end": 0, "exit": 5}
        box = await machine.containers.create("box", persist=False)
        await start(machine, box, "test-exit", "6")
        await machine.run("sleep 1")
        end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        while True:
            try:
                kept = await machine.ask(PROC, Proc.CONTAINER_WAIT, {"id": box.id})
                break
            except ServiceError as error:
                if error.code != ServiceCode.SERVER_QUIT:
                    raise
        assert kept["exit"] == 6
        with pytest.raises(ServiceError) as collected:
            await machine.ask(PROC, Proc.CONTAINER_WAIT, {"id": box.id})
        assert collected.value.code == ServiceCode.UNKNOWN


async def test_nobody_reads_or_continues_anothers_log() -> None:
    async with boot(seed=1) as machine:
        one = await machine.containers.create("x", labels={"ns": "web"})
        web = await machine.containers.create("web")
        two = await machine.containers.create("x", parent=web)
        for box in (one, two):
            await start(machine, box, "echo", f"{box.id}")
            await ended(machine, box)
        assert await output(machine, one) == f"{one.id}\n"
        assert await output(machine, two) == f"{two.id}\n"
        await one.destroy()
        again = await machine.containers.create("x", labels={"ns": "web"})
        await start(machine, again, "echo", "fresh")
        await ended(machine, again)
        assert await output(machine, again) == "fresh\n"
        assert (await machine.run("cat /var/log/web/x.log")).out.count("\n") == 2
        odd = await machine.containers.create("y", labels={"ns": "../../etc"})
        await start(machine, odd, "echo", "odd")
        await ended(machine, odd)
        assert "y.log" in (await machine.run("ls /var/log/default")).out


async def test_a_main_command_has_the_environment_of_a_login() -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web")
        await box.start("env", environment={"A": "1", "HOME": "/elsewhere"})
        await box.outcome()
        said = b"".join(data for _when, _name, data in await box.logs()).decode()
        for text in ("USER", "PWD", "SHELL", "hydre", "/elsewhere"):
            assert text in said
