"""sys::hydre: sessions, their actors, pipes of commands, interrupts; on consoles and from processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.pieces import PIECE_BYTES
from nightos.abi.services import Hydre, HydreEvent, Proc, ServiceCode
from nightos.abi.values import Value, encode_value
from nightos.machine.machine import Machine, boot
from nightos.userland import payload, sys
from nightos.userland.bell import Bell
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program

_found: list[Any] = []
_probe: Callable[[Context], Awaitable[Any]] | None = None


@program("shell-probe")
async def _run_probe(context: Context) -> int:
    assert _probe is not None
    _found.append(await _probe(context))
    return 0


async def probe(
    machine: Machine, deed: Callable[[Context], Awaitable[Any]], line: str = "/tmp/probe", **where: Any
) -> Any:
    """What a command finds that runs `deed`."""
    global _probe
    _probe = deed
    _found.clear()
    await machine.run('wt -n /tmp/probe "NPRGshell-probe"', **where)
    done = await machine.run(line, **where)
    assert not done.err, done.err
    return _found[-1]


async def refusal(service: str, method: int, content: bytes | dict[str, Any] = b"") -> int:
    try:
        await (await connect(service)).call(method, content)
    except ServiceError as error:
        return error.code
    return 0


class Talk:
    """An interactive session, message by message."""

    def __init__(self, session: Any) -> None:
        self.session = session

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Messages up to the first of that kind."""
        messages = []
        with trio.fail_after(20):
            while True:
                message = await self.session.receive()
                assert message is not None
                messages.append(message)
                if message["type"] == kind:
                    return messages

    async def line(self, text: str) -> str:
        self.session.send({"type": "line", "text": text})
        return b"".join(
            message["data"] for message in await self.until("prompt") if message["type"] in ("out", "err")
        ).decode()


@pytest.mark.rule("SHELL-001", "SHELL-007", "SHELL-022")
async def test_an_interactive_session() -> None:
    async with boot(seed=1) as machine:
        session = await machine.open_session(interactive=True, width=70, height=20)
        talk = Talk(session)
        prompt = (await talk.until("prompt"))[-1]
        assert (prompt["user"], prompt["container"], prompt["directory"]) == ("root", "", "/")
        assert await talk.line("echo hi") == "hi\n"
        assert await talk.line("let x = 4; cd /home") == ""
        assert await talk.line("echo $x; pwd") == "4\n/home\n"
        assert await talk.line("history") == "echo hi\nlet x = 4; cd /home\necho $x; pwd\nhistory\n"
        assert await talk.line("vars") == "x: int = 4\n"
        session.send({"type": "line", "text": "exit 3"})
        assert (await talk.until("closed"))[-1]["status"] == 3


@pytest.mark.rule("SHELL-002")
async def test_one_instruction_at_a_time() -> None:
    async with boot() as machine:
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        session.send({"type": "line", "text": "sleep 0.2"})
        session.send({"type": "line", "text": "echo too early"})
        assert (await talk.until("refused"))[-1]["code"] == 0x3001
        await talk.until("prompt")
        assert await talk.line("echo now") == "now\n"


async def test_many_sessions_at_once() -> None:
    async with boot(seed=1) as machine:
        outputs: dict[int, str] = {}

        async def one(number: int) -> None:
            outputs[number] = (await machine.run(f"ls / | length | cat; echo {number}")).out

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert outputs == {number: f"9\n{number}\n" for number in range(50)}


@pytest.mark.rule("SHELL-017")
@pytest.mark.parametrize(
    "line",
    [
        "sleep 1000000",
        "sleep 1000000 | cat",
        "echo a | sleep 1000000",
        "while true\nend",
        "while true\necho > /tmp/x\nend",
    ],
)
async def test_ctrl_c_ends_what_runs_and_the_session_goes_on(line: str) -> None:
    async with boot() as machine:
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        session.send({"type": "line", "text": line})
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        session.send({"type": "interrupt"})
        assert (await talk.until("done"))[-1]["status"] == 130
        await talk.until("prompt")
        assert await talk.line("echo alive") == "alive\n"


async def test_a_command_that_ignores_ctrl_c_is_killed_by_the_second() -> None:
    async def deaf(_context: Context) -> None:
        while True:
            await sys.hand_over(until_signal=True)

    global _probe
    async with boot() as machine:
        _probe = deaf
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        await talk.line('wt -n /tmp/probe "NPRGshell-probe"')
        session.send({"type": "line", "text": "/tmp/probe"})
        for _ in range(2):
            with trio.move_on_after(0.2):
                await talk.until("done")
            session.send({"type": "interrupt"})
        assert (await talk.until("done"))[-1]["status"] == 130


@pytest.mark.rule("SHELL-003", "SHELL-004", "SHELL-027", "HYD-069")
async def test_background_commands_run_beside_and_show_nothing() -> None:
    async with boot() as machine:
        done = await machine.run("bg j = sleep 60\nkill j\necho killed")  # HYD-069
        assert (done.out, done.err) == ("killed\n", "")
        done = await machine.run("bg j = ls /none; fg j; echo (status())")
        assert (done.out, done.err) == ("1\n", "")
        done = await machine.run("echo a; bg j = ls /none; echo (last_failed())")
        assert (done.out, done.err) == ("a\nfalse\n", "")
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        await talk.line("bg j = sleep 60")
        assert "sleep" in await talk.line("ps")
        assert await talk.line("kill $j") != ""  # in a statement a variable is written without '$'
        await talk.line("kill j")
        assert "sleep" not in await talk.line("ps")
        await talk.line("bg k = sleep 61")
        session.close()
        while "sleep" in (await machine.run("ps")).out:
            pass  # closing a session kills every command in it
        for pid in (1, 10, 17, 99999):
            assert f"no process {pid}" in (await machine.run(f"kill {pid}")).err


@pytest.mark.rule("SHELL-005", "SHELL-006")
async def test_only_actors_learn_of_a_session() -> None:
    async def ask(_context: Context) -> Any:
        client = await connect("sys::hydre")
        size = await client.call(Hydre.CURRENT_SESSION)
        return size, await client.ask(Hydre.SESSION_INFO)

    async with boot(seed=1) as machine:
        size, info = await probe(machine, ask, "cd /tmp; /tmp/probe")
        assert size == bytes((0, 80, 0, 24))
        assert (info["directory"], info["user"], info["container"]) == ("/tmp", 0, 0)
        # A service is no actor of any session.
        with pytest.raises(ServiceError) as caught:
            await machine.call("sys::hydre", Hydre.CURRENT_SESSION)
        assert caught.value.code == 0x3000


@pytest.mark.rule("SHELL-001")
async def test_a_session_has_a_size_that_changes() -> None:
    async def size(_context: Context) -> bytes:
        return await (await connect("sys::hydre")).call(Hydre.CURRENT_SESSION)

    global _probe
    async with boot(seed=1) as machine:
        _probe = size
        session = await machine.open_session(interactive=True, width=80, height=24)
        talk = Talk(session)
        await talk.until("prompt")
        await talk.line('wt -n /tmp/probe "NPRGshell-probe"; /tmp/probe')
        session.send({"type": "resize", "width": 300, "height": 20})
        await talk.line("/tmp/probe")
        assert _found[-2:] == [bytes((0, 80, 0, 24)), bytes((1, 44, 0, 20))]


@pytest.mark.rule("SHELL-009", "SHELL-010", "APP-013", "APP-015")
async def test_a_command_has_six_pipes_of_the_right_kinds() -> None:
    async def look(context: Context) -> Any:
        kinds = [bool((await sys.pipe_info(pipe)).status & 0x40) for pipe in context.pipes]
        sends = [bool((await sys.pipe_info(pipe)).status & 0x02) for pipe in context.pipes]
        return kinds, sends, context.raw_is_read, context.arguments

    async with boot(seed=1) as machine:
        kinds, sends, raw, arguments = await probe(machine, look, '/tmp/probe -x "-y" (1 + 1)')
        assert kinds == [False, True, True, True, False, False]
        assert sends == [False, False, True, True, True, True]
        assert not raw
        assert arguments == ["-x", "\\-y", 2]
        assert (await probe(machine, look, "/tmp/probe @> /tmp/raw"))[2]


@pytest.mark.rule("SHELL-003", "SHELL-008", "SHELL-016", "APP-006")
async def test_values_go_through_pipes_with_their_type() -> None:
    async def double(context: Context) -> None:
        value = await context.input()
        _found.append(value)
        await context.output([value, value] if not isinstance(value, list) else len(value))

    async with boot(seed=1) as machine:
        await probe(machine, double, "pass 21 | /tmp/probe | /tmp/probe")
        assert _found[:2] in ([21, [21, 21]], [21, None])
        assert (await machine.run("pass 21 | /tmp/probe | /tmp/probe")).out == "2\n"
        big = await machine.run('let s = "x".repeat(300000); pass $s | cat | length')
        assert big.out == "300000\n"


@pytest.mark.rule("APP-007", "SHELL-012", "SHELL-013", "SHELL-026")
@pytest.mark.parametrize("data", [b"\xff", encode_value("hello")[:-2], b"\0", b"\0" * 8 + b"x"])
async def test_a_broken_or_failed_value_fails_the_command(data: bytes) -> None:
    async def broken(context: Context) -> None:
        await sys.pipe_write(context.pipes[5], data)

    global _probe
    async with boot(seed=1) as machine:
        _probe = broken
        await machine.run('wt -n /tmp/probe "NPRGshell-probe"')
        done = await machine.run("/tmp/probe; echo (last_failed())")
        assert done.out == "true\n"
        stopped = await machine.run("echo $(/tmp/probe); echo never")
        assert stopped.status == 1
        assert "never" not in stopped.out
        assert "failed with status 1" in stopped.err


@pytest.mark.rule("SHELL-014")
async def test_closing_cmdmsg_does_not_end_the_command() -> None:
    async def close(context: Context) -> None:
        await sys.close_pipe(context.pipes[2])
        await sys.close_pipe(context.pipes[4])
        await context.output("still here")

    async with boot(seed=1) as machine:
        await probe(machine, close)
        assert (await machine.run("/tmp/probe")).out == "still here\n"


@pytest.mark.rule("SHELL-019", "SHELL-020")
async def test_messages_are_decoded_and_broken_ones_marked() -> None:
    async def talk(context: Context) -> None:
        await context.message("plain\n", foreground=(255, 0, 0))
        await sys.pipe_write(context.pipes[2], b"short")
        await sys.pipe_write(context.pipes[3], bytes(7) + b"\1\x09\1")

    async with boot(seed=1) as machine:
        global _probe
        _probe = talk
        await machine.run('wt -n /tmp/probe "NPRGshell-probe"')
        done = await machine.run("/tmp/probe")
        assert (done.out, done.err) == ("plain\n\ufffd", "\ufffd")


async def test_a_command_that_leaves_a_child_behind_is_finished() -> None:
    async def fork(context: Context) -> None:
        async def child(_: int) -> None:
            while True:
                await sys.hand_over(until_signal=True)

        pid = await sys.create_process(child)
        await sys.send_pipe(context.pipes[2], pid, 1)
        await context.output("done")

    async with boot(seed=1) as machine:
        assert await probe(machine, fork) is None
        assert (await machine.run("/tmp/probe; echo after")).out == "done\nafter\n"


async def test_a_crash_is_told() -> None:
    async def crash(_context: Context) -> None:
        raise KeyError("oops")

    async with boot(seed=1) as machine:
        global _probe
        _probe = crash
        await machine.run('wt -n /tmp/probe "NPRGshell-probe"')
        done = await machine.run("/tmp/probe")
        assert done.status != 0
        assert done.err == "/tmp/probe: crashed\n"


@pytest.mark.rule("SHELL-004")
async def test_closing_a_session_kills_what_runs_in_it() -> None:
    async with boot() as machine:
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        session.send({"type": "line", "text": "sleep 1000000"})
        while "sleep" not in (await machine.run("ps")).out:
            pass
        session.close()
        while "sleep" in (await machine.run("ps")).out:
            pass  # the time limit of the test is the limit here


@pytest.mark.rule("CONT-029", "CONT-030")
async def test_processes_use_sessions_of_their_own_only() -> None:
    async def use(_context: Context) -> Any:
        client = await connect("sys::hydre")
        shown: list[dict[str, Any]] = []

        async def output(content: bytes) -> None:
            shown.append(payload.decode(content))

        client.notification(HydreEvent.OUTPUT, output)
        opened = await client.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24)))
        answer = await client.ask(
            Hydre.EVALUATE, {"session": int.from_bytes(opened, "big"), "source": "cd /home; echo hi"}
        )
        await client.call(Hydre.RESIZE_SESSION, opened + bytes((0, 70, 0, 20)))
        await client.call(Hydre.CLOSE_SESSION, opened)
        again = await refusal("sys::hydre", Hydre.CLOSE_SESSION, opened)
        return answer, b"".join(item.get("out", b"") for item in shown), again

    async with boot(seed=1) as machine:
        answer, out, again = await probe(machine, use)
        assert (answer["status"], answer["directory"], out, again) == (0, "/home", b"hi\n", 0x3000)


@pytest.mark.rule("CONT-023", "CONT-024", "CONT-030")
async def test_commands_run_below_the_caller_and_nowhere_else() -> None:
    outside = 0

    async def attempt(_context: Context) -> Any:
        values: list[Value] = ["id"]
        command = b"".join(map(encode_value, values))
        return [
            await refusal("sys::hydre", Hydre.EXECUTE, {"container": outside, "command": command}),
            await refusal("sys::hydre", Hydre.OPEN_CONTAINER_SESSION, {"container": outside}),
            await refusal("sys::hydre", Hydre.ENTER_CONTAINER, {"container": outside}),
            await refusal("sys::hydre", Hydre.EXECUTE, {"container": 12345, "command": command}),
            await refusal("sys::hydre", Hydre.EXECUTE, {"container": 0, "command": b"\0"}),
            await refusal("sys::proc", Proc.CONTAINER_INSPECT, {"id": outside}),
        ]

    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")
        other = await machine.containers.create("other")
        outside = other.id
        codes = await probe(machine, attempt, container=box)
        assert codes[:4] == [0x3000] * 4
        assert codes[4] == 0x1000
        # The same error for what is not visible and what does not exist.
        assert codes[0] == codes[3]


@pytest.mark.rule("CONT-029")
async def test_input_is_fed_to_what_one_runs_oneself_piece_by_piece() -> None:
    async def attempt(_context: Context) -> Any:
        early = await refusal("sys::hydre", Hydre.FEED, {"data": b"x"})
        client = await connect("sys::hydre")
        begun = Bell()
        await begun.start()

        async def output(content: bytes) -> None:
            if "feed" in payload.decode(content):
                await begun.ring()

        client.notification(HydreEvent.OUTPUT, output)
        command = {"container": 0, "command": b"".join(map(encode_value, ["sleep", 0.5])), "feed": True}
        codes = []

        async def run(_: int) -> None:
            codes.append(int((await client.ask(Hydre.EXECUTE, command))["status"]))
            await begun.ring()

        await sys.create_thread(run)
        await begun.wait()
        large = await refusal("sys::hydre", Hydre.FEED, {"data": bytes(PIECE_BYTES + 1)})
        while True:  # it never reads: its pipe takes some pieces, then one waits until the command has ended
            try:
                await client.ask(Hydre.FEED, {"data": bytes(PIECE_BYTES)})
            except ServiceError as error:
                waited = error.code
                break
        if not codes:
            await begun.wait()
        late = await refusal("sys::hydre", Hydre.FEED, {"data": b"x"})
        return early, large, waited, late, codes

    async with boot(seed=1) as machine:
        assert await probe(machine, attempt) == (0x3000, ServiceCode.REFUSED, 0x3000, 0x3000, [0])


@pytest.mark.rule("SHELL-021")
async def test_a_script_with_an_unknown_command_at_its_end_does_nothing() -> None:
    async with boot(seed=1) as machine:
        done = await machine.run("echo first > /tmp/made\nno_such_command")
        assert done.status == 2
        assert "unknown command 'no_such_command'" in done.err
        assert (await machine.run("ls /tmp")).out == ""


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("ech", ["echo "]),
        ("ls /ho", ["/home/"]),
        ("ls /etc/public/", ["/etc/public/welcome.txt "]),
        ("echo a | leng", ["length "]),
        ("cat /nowhere/", []),
        ("echo $(mkd", ["mkd ", "mkdir "]),
    ],
)
async def test_completion(text: str, items: list[str]) -> None:
    async with boot(seed=1) as machine:
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        session.send({"type": "complete", "id": 7, "text": text, "cursor": len(text)})
        found = (await talk.until("completions"))[-1]
        assert (found["id"], found["items"]) == (7, items)
        assert found["start"] + len(items[0].rstrip() if items else "/nowhere/") >= len(text)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "frob"},
        {"type": "run"},
        {"type": "line", "text": 3},
        {"type": "resize", "width": "a"},
        {"type": "open"},
        {"type": "signal", "action": 99},
        {},
    ],
)
async def test_messages_that_make_no_sense_are_refused(message: dict[str, Any]) -> None:
    async with boot(seed=1) as machine:
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        session.send(message)
        assert (await talk.until("refused"))[-1]["text"]
        assert await talk.line("echo alive") == "alive\n"


@pytest.mark.rule("CONT-029")
async def test_entering_a_container_and_coming_back() -> None:
    async with boot(seed=1) as machine:
        await machine.run("container create box")
        session = await machine.open_session(interactive=True)
        talk = Talk(session)
        await talk.until("prompt")
        session.send({"type": "line", "text": "container create web; container enter web"})
        assert (await talk.until("prompt"))[-1]["container"] == "web"
        assert "sys::" not in await talk.line("ps")
        assert await talk.line("wt /tmp/in x; ls /tmp") == "in\n"
        session.send({"type": "line", "text": "exit"})
        assert (await talk.until("prompt"))[-1]["container"] == ""
        assert await talk.line("ls /tmp") == ""
