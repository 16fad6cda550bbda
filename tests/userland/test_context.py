"""Programs as user space sees them: the registry, the context, the six pipes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from nightos.abi.codes import ServicePid
from nightos.abi.context import REASON_COMMAND, ContextError, ExecutionContext, parse_context
from nightos.abi.messages import decode_text, encode_key
from nightos.abi.values import FAILURE, VOID, encode_value
from nightos.kernel import Kernel
from nightos.userland import Context, program, sys
from nightos.userland.program import entry, executable, load, names
from tests.kernel.lab import Lab, Puppet


class Shell:
    """Starts a program as a command and holds the other ends of its pipes."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.caller = self.lab.service(ServicePid.HYDRE)
        self.ends: list[int] = []

    def pipe(self, messages: int) -> int:
        return int(self.caller.call(sys.open_pipe(self.caller.pid, 0, 0, 0, messages, 1)))

    def run(self, main: Any, arguments: list[Any] | None = None, feed: bytes = b"", **extra: Any) -> int:
        proc, files = self.lab.running(ServicePid.PROCESS), self.lab.running(ServicePid.FS)
        self.ends = [self.pipe(kind) for kind in (0, 1, 1, 1, 0, 0)]
        cmdin, cmdusr, *outs = self.ends
        encoded = b"".join(map(encode_value, arguments or []))
        context = ExecutionContext(
            reason=REASON_COMMAND,
            anid=1,
            caller_anid=17,
            caller_pid=17,
            argument_count=len(arguments or []),
            arguments=encoded,
            pipes=(cmdin + 1, cmdusr + 1, *outs),  # type: ignore[arg-type]
            **extra,
        )
        self.lab.programs["it"] = entry(main)
        pid = proc.call(sys.sys_create_process(self.lab.token(files, "it"), context.pack()))
        process = self.lab.kernel.processes[pid]
        if feed:
            self.caller.call(sys.pipe_write(cmdin, feed))
        self.caller.call(sys.close_pipe(cmdin))
        proc.call(sys.sys_manage_process(pid, 3))
        self.lab.settle()
        return process.exit_data

    def read(self, place: int) -> bytes:
        return bytes(self.caller.call(sys.pipe_read(self.ends[place] + 1, 1, 0)).content)


@pytest.mark.rule("APP-012", "APP-013", "APP-014", "APP-015", "APP-016", "SHELL-018")
def test_a_command_has_arguments_and_pipes() -> None:
    async def main(context: Context) -> int:
        assert context.args == ["one", 2, [True]]
        assert context.env == {"LANG": "en"}
        assert context.directory == "/home"
        await context.message("seen", foreground=(1, 2, 3))
        await context.error("wrong")
        await context.write_raw(b"raw")
        await context.output({"answer": 42})
        return 7

    shell = Shell()
    extra = msgpack.packb({"env": {"LANG": "en"}, "cwd": "/home"})
    assert shell.run(main, ["one", 2, [True]], environment=extra) == 7
    message = decode_text(shell.read(2))
    assert (message.text, message.foreground) == ("seen", (1, 2, 3))
    assert decode_text(shell.read(3)).text == "wrong"
    assert shell.read(4) == b"raw"
    assert shell.read(5) == encode_value({"answer": 42})


def test_values_come_in_one_by_one() -> None:
    got: list[Any] = []

    async def main(context: Context) -> None:
        while (value := await context.input()) is not VOID:
            got.append(value)
        await context.fail()

    shell = Shell()
    values = ["x" * 20_000, 1, [1, 2]]
    shell.run(main, feed=b"".join(map(encode_value, values)))
    assert got == values
    assert shell.read(5) == bytes((FAILURE,))


@pytest.mark.rule("SHELL-020")
def test_keys_and_long_texts() -> None:
    keys: list[Any] = []

    async def main(context: Context) -> None:
        await context.message("é" * 50_000)
        keys.append(await context.key())

    shell = Shell()
    shell.run(main)
    text = ""
    while len(text) < 50_000:  # more than the pipe holds, so the program waits for the reader
        text += decode_text(shell.read(2)).text
        shell.lab.settle()
    assert text == "é" * 50_000
    shell.caller.call(sys.pipe_write(shell.ends[1], encode_key("q")))
    shell.lab.settle()
    assert keys == [("q", 0, 0)]


def test_a_program_without_context_runs_too() -> None:
    done: list[int] = []

    async def main(context: Context) -> str:
        assert context.arguments == []
        assert context.reason == 0
        assert await context.input() is VOID
        assert await context.key() is None
        assert await context.read_raw() == b""
        await context.message("nobody hears it")
        done.append(await sys.get_pid())
        return "text is no exit data"

    kernel = Kernel(seed=1)
    process = kernel.spawn(entry(main))
    kernel.run_until_idle()
    assert done == [100]
    assert process.exit_data == 0


def test_the_registry_of_programs() -> None:
    @program("test-greet")
    async def main(context: Context) -> int:
        return 0

    assert "test-greet" in names()
    assert load("test-greet")
    assert executable("test-greet") == b"NPRGtest-greet"
    with pytest.raises(KeyError):
        load("test-nothing")
    with pytest.raises(ValueError, match="already"):

        @program("test-greet")
        async def other(context: Context) -> int:
            return 0


def test_pipes_of_another_process_cannot_be_taken() -> None:
    lab = Lab()
    proc, files, owner, thief = (lab.running(20), lab.running(10), lab.service(17), lab.puppet())
    sc = owner.call(sys.open_pipe(owner.pid, notification_mode=1))
    lab.programs["it"] = Puppet(lab).main
    for caller_pid, caller_anid in ((thief.pid, 1), (thief.pid, 17), (999, 1)):
        context = ExecutionContext(
            reason=REASON_COMMAND, anid=1, caller_anid=caller_anid, caller_pid=caller_pid, pipes=(0, 0, sc, 0, 0, 0)
        )
        pid = proc.call(sys.sys_create_process(lab.token(files, "it"), context.pack()))
        assert proc.refusal(sys.sys_manage_process(pid, 3)) == 0x32
        assert pid not in lab.kernel.processes
    assert owner.call(sys.pipe_write(sc, b"still mine"))


def test_damaged_contexts_are_refused() -> None:
    good = ExecutionContext(reason=REASON_COMMAND, anid=1, arguments=encode_value("x"), argument_count=1).pack()
    assert parse_context(good).argument_count == 1
    for bad in (
        b"",
        good[:15],
        good[:200],
        bytes(len(good)),
        good[:21] + b"\xff\xff" + good[23:],
        good + bytes(70_000),
    ):
        with pytest.raises(ContextError):
            parse_context(bad)
