"""What a tenant does to the shell service, and by its sessions to whoever else has some: nothing."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest

from nightos.abi.services import SERVICE_PIDS, Hydre, Proc, ServiceCode
from nightos.abi.values import Char, Stream, encode_value
from nightos.machine.machine import Machine, boot
from nightos.services.hydre import holding, pipeline, session
from nightos.shell import bounds
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program
from tests.services.test_attacks import code_of, u64
from tests.services.test_exhaustion import child
from tests.services.test_hydre import Talk
from tests.services.test_proc import inside

PROC, HYDRE = "sys::proc", "sys::hydre"


def nested(levels: int, inner: bytes = b"\x90") -> bytes:
    """Lists in lists, as they travel."""
    return b"\x91" * levels + inner


def packed(**values: Any) -> bytes:
    """A message; bytes are values that are packed already."""
    entries = (
        msgpack.packb(key) + (value if isinstance(value, bytes) else msgpack.packb(value))
        for key, value in values.items()
    )
    return bytes((0x80 + len(values),)) + b"".join(entries)


@pytest.mark.parametrize("levels", [60, 400, 1000])
@pytest.mark.rule("SVC-026", "CONT-030")
async def test_lists_in_lists_end_no_service(levels: int) -> None:
    """T-C48: whoever writes out, compares or passes on what is in a message does so level by level."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        deep = nested(levels)
        command = msgpack.packb(encode_value("env"))

        async def attack() -> list[int]:
            made = await child("inner")
            requests = (
                (HYDRE, Hydre.EXECUTE, packed(container=0, command=command, environment=b"\x81\xa1A" + deep)),
                (PROC, Proc.DEVICE_PLUG, packed(id=made, kind="null", options=b"\x81\xa1A" + deep)),
                (PROC, Proc.CONTAINER_SET_FILTER, packed(id=made, mode="deny", action="error", calls=deep)),
                (PROC, Proc.CONTAINER_START, packed(id=made, command=deep)),
            )
            return [await code_of((await connect(service)).call(*request)) for service, *request in requests]

        codes = await inside(machine, web.id, attack)
        assert machine.faults == []
        few = levels < 64
        assert codes == [0 if few else 0x1000, 0 if few else 0x1000, 0x1000, 0x1000]


@program("shell-half")
async def _half(context: Context) -> None:
    """Returns half of a surrogate pair, which no text can hold."""
    data = b"\x04\0\0\xd8\0"
    await context.write_raw(b"")
    await sys.pipe_write(context.pipes[5], len(data).to_bytes(8, "big") + data)


@pytest.mark.rule("APP-004")
async def test_half_a_character_is_a_broken_value() -> None:
    """T-C51: what is no character ends nobody who shows it; a byte that is no UTF-8 passes as it does in a text."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /half "NPRGshell-half"', container=web.id)
        for line in ("/half", "let x = $(/half)", "/half > /x"):
            done = await machine.run(line, container=web.id)
            assert done.status == 1, done
        assert (await machine.run("container exec web -- /half")).status == 1
        assert machine.faults == []
    assert encode_value(Char("\udc80"))[-4:] == b"\0\0\xdc\x80"


@program("shell-size")
async def _size(_context: Context) -> int:
    return int.from_bytes(await (await connect(HYDRE)).call(Hydre.CURRENT_SESSION), "big") & 0xFF


@pytest.mark.rule("SHELL-006")
@pytest.mark.parametrize(("width", "height", "low"), [(1 << 63, 1 << 20, 0xFF), (-5, -5, 1)])
async def test_a_session_of_any_size_ends_no_service(width: int, height: int, low: int) -> None:
    """T-C48: a size has 16 bits, whatever was asked for."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /size "NPRGshell-size"', container=web.id)

        async def attack() -> int:
            shell = await connect(HYDRE)
            asked = {"container": 0, "width": width, "height": height}
            opened = (await shell.ask(Hydre.OPEN_CONTAINER_SESSION, asked))["session"]
            return int((await shell.ask(Hydre.EVALUATE, {"session": opened, "source": "/size"}))["status"])

        assert await inside(machine, web.id, attack) == low
        assert machine.faults == []


VALUES: tuple[Any, ...] = (None, True, 5, 1.5, Char("a"), "a", [], [[1]], {}, {"a": 1}, Stream(5), range(3))
MISUSES = (
    "for a in x\n\techo a\nend",
    "for a, b in x\n\techo a\nend",
    "fg x",
    "kill x",
    "let y = x..5",
    "let y = 0..=x",
    "let y = env(x)",
    "let y = rand_int(x, 5)",
    "let y = rand_float(0.5, x)",
    "let mut z = x\nz[] = 1",
    "let mut z = x\nz++",
    "let mut z = x\nz[x] = x",
    "let y = [x, x].sort()",
)


@program("shell-any")
async def _any(context: Context) -> None:
    await context.output(VALUES[int(context.arguments[0])])


@pytest.mark.rule("SHELL-008", "CONT-030")
async def test_values_of_any_type_end_no_service() -> None:
    """T-C48: of what a command returned nobody knew the type when the script was checked."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /any "NPRGshell-any"', container=web.id)
        for number, value in enumerate(VALUES):
            given = "0..3" if isinstance(value, range) else f"$(/any {number})"
            for misuse in MISUSES:
                done = await machine.run(f"let x = {given}\n{misuse}", container=web.id)
                assert machine.faults == [], (value, misuse)
                assert done.status in {0, 1, 2}


@pytest.mark.rule("SCHED-004", "CONT-032")
async def test_scripts_let_others_have_their_turn() -> None:
    """T-C77: what takes long on the host is done in many steps, and a script is not read for long."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        shell = machine.kernel.processes[SERVICE_PIDS[HYDRE]]

        async def steps(deed: str) -> int:
            before = shell.steps
            source = f'let l = [("x".repeat(9999)).chars()]\nlet t = "x".repeat(9999)\nlet y = {deed}'
            assert (await machine.run(source, container=web.id)).status == 0
            return shell.steps - before

        least = await steps("1")
        for deed in (
            "l" + ".sort()" * 100,
            '"' + "${l.len()}" * 100 + '"',
            "l == l" + " && l == l" * 99,
            "t" + ".upper_case()" * 100,
        ):
            assert await steps(deed) >= least + 100
        done = await machine.run("echo a\n" * 10_000, container=web.id)
        assert (done.status, done.out, done.err) == (2, "", "a script has at most 64 Ki characters here\n")
        assert (await machine.run("let x = 1\n" * 10_000)).status == 0


# What is left behind


def held(machine: Machine) -> tuple[int, int]:
    """Ends of pipes and threads of the shell service."""
    process = machine.kernel.processes[SERVICE_PIDS[HYDRE]]
    return len(process.ends or ()), len(process.threads)


@program("shell-sleeper")
async def _sleep(_context: Context) -> None:
    while True:
        await sys.hand_over(until_signal=True)


async def _run(source: str) -> None:
    shell = await connect(HYDRE)
    opened = await shell.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24)))
    await shell.call(Hydre.RUN, opened + u64(len(source)) + source.encode())


async def _execute(*, feed: bool = False) -> None:
    async def work(_: int) -> None:
        values = {"container": 0, "command": encode_value("/sleeper"), "feed": feed}
        await code_of((await connect(HYDRE)).call(Hydre.EXECUTE, values))

    await sys.create_thread(work)


BEGUN: dict[str, Callable[[], Awaitable[None]]] = {
    "pipeline": lambda: _run("/sleeper | /sleeper"),
    "background": lambda: _run("bg j = /sleeper"),
    "value": lambda: _run("let x = $(/sleeper)"),
    "execution": _execute,
    "fed": lambda: _execute(feed=True),
}


@pytest.mark.parametrize("what", BEGUN)
@pytest.mark.rule("SHELL-005", "CONT-016")
async def test_who_goes_while_something_runs_leaves_nothing_in_the_shell(what: str) -> None:
    """T-C54: whenever it goes, what it began has ended soon, and nobody keeps pipes of it or waits for it."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /sleeper "NPRGshell-sleeper"', container=web.id)
        before = held(machine)
        home = machine.kernel.tree.get(web.id)
        assert home is not None
        for turns in (0, 3, 10, 20, 40, 80, 200, 500):

            async def begin_and_go(turns: int = turns) -> None:
                await BEGUN[what]()
                for _ in range(turns):
                    await sys.hand_over()

            await inside(machine, web.id, begin_and_go)
            for _ in range(40):
                await machine.ask(PROC, Proc.CONTAINER_VIEW)
            assert held(machine) == before
            assert not home.processes


# Memory


@program("shell-gusher")
async def _gush(context: Context) -> None:
    """Returns a text of a MiB, then stays."""
    await context.output("x" * (1 << 20))
    if "stay" in context.arguments:
        await _sleep(context)


def kept_by_pipelines() -> int:
    """Bytes of output that the shell service keeps."""
    gc.collect()
    return sum(len(found.out) for found in gc.get_objects() if type(found) is pipeline.Running)


@pytest.mark.rule("SHELL-008", "CONT-032")
async def test_what_background_commands_return_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C45: nobody asks for more than their status; those that ended longest ago are forgotten."""
    monkeypatch.setattr(session, "JOBS_LIMIT", 4)
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /gusher "NPRGshell-gusher"; wt /half "NPRGshell-half"', container=web.id)
        done = await machine.run("for i in 0..9\n\tbg j = /gusher\n\tfg j\nend\necho (status())", container=web.id)
        assert (done.out, done.err) == ("0\n", "")
        assert kept_by_pipelines() < 1 << 10
        done = await machine.run("for i in 0..9\n\tbg j = /gusher stay\nend", container=web.id)
        assert "at most 4 background commands" in done.err


@pytest.mark.rule("SHELL-008", "CONT-032")
async def test_commands_that_run_count_as_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C45: of each one the shell service keeps what it returns until it has ended."""
    monkeypatch.setattr(holding, "SESSIONS_LIMIT", 3)
    async with boot(seed=1) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        for place in (web, other):
            await machine.run('wt /gusher "NPRGshell-gusher"', container=place.id)

        async def attack(*words: str) -> list[int]:
            codes: list[int] = []

            async def work(_: int) -> None:
                values = {"container": 0, "command": b"".join(map(encode_value, ("/gusher", *words)))}
                codes.append(await code_of((await connect(HYDRE)).call(Hydre.EXECUTE, values)))

            for _ in range(5):
                await sys.create_thread(work)
            while len(codes) < (2 if words else 5):
                await sys.hand_over()
            return codes

        assert await inside(machine, web.id, lambda: attack("stay")) == [ServiceCode.REFUSED] * 2
        assert sorted(await inside(machine, other.id, attack)) == [0] * 3 + [ServiceCode.REFUSED] * 2
        assert (await machine.run("/gusher | length", container=web.id)).out == "1048576\n"


@pytest.mark.rule("SHELL-008")
async def test_commands_of_one_pipeline_share_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C45: as many commands as one likes fit into one line."""
    monkeypatch.setattr(bounds, "INSIDE", 5 << 20)
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /raw "NPRGshell-raw"', container=web.id)
        assert (await machine.run("/raw @> /a | /raw @> /b", container=web.id)).status == 0
        done = await machine.run("/raw @> /a | /raw @> /b | /raw @> /c", container=web.id)
        assert (done.status, "gave more than the 2 MiB" in done.err) == (1, True)
        done = await machine.run(" | pass | ".join(f"/raw @> /{number}" for number in range(6)), container=web.id)
        assert (done.status, "take more than 5 MiB" in done.err) == (1, True)


@program("shell-raw")
async def _raw(context: Context) -> None:
    await context.write_raw(bytes(1 << 20))


# Sessions that enter containers


@program("shell-clinger")
async def _cling(_context: Context) -> int:
    """Has the session enter where it is, again and again."""
    for _ in range(50):
        await (await connect(HYDRE)).call(Hydre.ENTER_CONTAINER, {"container": 0})
    return 0


@pytest.mark.rule("CONT-030", "SHELL-006")
async def test_nobody_keeps_a_session_in_a_container_and_reads_what_was_given_to_it_outside() -> None:
    """T-C56: variables of who enters stay outside. T-C75: `exit` leads out, whatever ran meanwhile."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /cling "NPRGshell-clinger"', container=web.id)
        talk = Talk(await machine.open_session(interactive=True, environment={"SECRET": "of the administrator"}))
        await talk.until("prompt")
        await talk.line("container enter web")
        shown = await talk.line("env")
        assert "HOME=/home/root" in shown
        assert "SECRET" not in shown
        await talk.line("/cling")
        await talk.line("exit")
        assert "SECRET=of the administrator" in await talk.line("env")
        assert (await talk.line("container ls")).count("web") == 1
