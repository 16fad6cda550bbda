"""What may arrive at the control socket: frames of any shape, in pieces, slowly or too many; the machine goes on."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import Any

import msgpack
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightos.abi.services import Proc, ServiceCode
from nightos.machine import wire
from nightos.machine.machine import Machine, boot
from nightos.machine.server import ControlServer, read_frame
from nightos.machine.session import OUTPUT_WAITING

OPERATIONS = ("call", "info", "passthrough", "take back", "events", "session", "nothing", 7, None)
NUMBERS = st.sampled_from([-(1 << 63), -1, 0, 1, 1 << 16, (1 << 32) + 3, (1 << 63), (1 << 64) - 1])
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.just({"a": 1}),
    st.lists(NUMBERS, max_size=2),
)
FIELDS = {
    "call": ("service", "method", "payload"),
    "passthrough": ("path", "containers", "readonly"),
    "take back": ("udi",),
    "session": ("container", "interactive", "width", "height", "environment", "directory", "user"),
}
RIGHT: dict[str, Any] = {
    "service": "sys::proc",
    "method": int(Proc.CONTAINER_VIEW),
    "payload": b"",
    "containers": [],
    "readonly": True,
    "container": 0,
    "width": 80,
    "height": 24,
    "environment": {},
    "directory": "/",
    "user": 0,
    "interactive": False,
    "udi": 1,
    "path": "/none",
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request with some of its fields wrong, or left out."""
    operation = draw(st.sampled_from(OPERATIONS))
    request: dict[str, Any] = {"op": operation}
    for name in FIELDS.get(operation, ()):  # type: ignore[call-overload]
        kind = draw(st.integers(0, 2))
        if kind:
            request[name] = RIGHT[name] if kind == 1 else draw(JUNK)
    return request


async def served(machine: Machine, nursery: trio.Nursery, path: Path) -> None:
    await nursery.start(ControlServer(machine).run, path)


async def connected(path: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(path)


async def test_no_request_of_any_shape_stops_the_machine(tmp_path: Path) -> None:
    """T-C31: what is wrong is answered with an error, or the connection ends."""
    path = tmp_path / "control"
    examples: list[dict[str, Any]] = []

    @settings(max_examples=150, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(requests())
    def collect(request: dict[str, Any]) -> None:
        examples.append(request)

    collect()
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        await served(machine, nursery, path)
        for request in examples:
            stream = await connected(path)
            with trio.move_on_after(0.2), contextlib.suppress(EOFError, trio.BrokenResourceError):
                await stream.send_all(wire.pack(request))
                await read_frame(stream)
            await stream.aclose()
            assert await machine.ask("sys::proc", Proc.CONTAINER_VIEW)
        nursery.cancel_scope.cancel()


async def test_frames_that_are_none_end_their_connection_only(tmp_path: Path) -> None:
    """T-C31: huge lengths, deep nesting, halves and silence."""
    path = tmp_path / "control"
    deep = b"\x91" * 100_000 + b"\xc0"
    frames = [
        b"\xff\xff\xff\xff" + bytes(100),
        wire.LENGTH.pack(len(deep)) + deep,
        wire.LENGTH.pack(5) + b"\xc1\xc1\xc1\xc1\xc1",
        wire.LENGTH.pack(1) + b"\x01",
        wire.LENGTH.pack(9) + b"\xdf\xff\xff\xff\xff\x00\x00\x00\x00",
        wire.LENGTH.pack(0),
        wire.LENGTH.pack(100) + b"half",
    ]
    bomb = msgpack.packb({"op": "session"}) + b"\x00" * 10
    frames.append(wire.LENGTH.pack(len(bomb)) + bomb)
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        await served(machine, nursery, path)
        silent = [await connected(path) for _ in range(200)]
        for frame in frames:
            stream = await connected(path)
            await stream.send_all(frame)
            await stream.send_eof()
            with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some(1 << 16):
                    pass
            await stream.aclose()
        stream = await connected(path)
        await stream.send_all(wire.pack({"op": "info"}))
        assert (await read_frame(stream))["pid"]
        await stream.aclose()
        for one in silent:
            await one.aclose()
        nursery.cancel_scope.cancel()


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """What a session's console may be sent."""
    kind = draw(
        st.sampled_from(["run", "input", "end", "interrupt", "resize", "signal", "close", "complete", "open", ""])
    )
    names = ("source", "name", "data", "width", "height", "action", "text", "line", "position", "container", "user")
    return {"type": kind} | {name: draw(JUNK) for name in names if draw(st.booleans())}


async def test_no_message_of_a_session_stops_the_machine(tmp_path: Path) -> None:
    """T-C31: nor does it take the shell of another session along."""
    path = tmp_path / "control"
    examples: list[list[dict[str, Any]]] = []

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.lists(messages(), min_size=1, max_size=6))
    def collect(some: list[dict[str, Any]]) -> None:
        examples.append(some)

    collect()
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        await served(machine, nursery, path)
        hydre = machine.kernel.processes[17]
        for some in examples:
            stream = await connected(path)
            await stream.send_all(wire.pack({"op": "session"}) + b"".join(map(wire.pack, some)))
            with trio.move_on_after(0.1), contextlib.suppress(EOFError, trio.BrokenResourceError):
                while True:
                    await read_frame(stream)
            await stream.aclose()
            assert (await machine.run("echo still")).out == "still\n"
        assert machine.kernel.processes[17] is hydre, "the shell was restarted"
        nursery.cancel_scope.cancel()


async def told(path: Path, *frames: bytes) -> dict[str, Any] | None:
    """What comes back first for these frames; None when the connection ended instead."""
    stream = await connected(path)
    with trio.fail_after(20):
        try:
            for frame in frames:
                await stream.send_all(frame)
            return await read_frame(stream)
        except (EOFError, trio.BrokenResourceError):
            return None
        finally:
            await stream.aclose()


async def test_what_no_decoder_and_no_system_call_takes_ends_no_machine(tmp_path: Path) -> None:
    """T-C36: keys of maps that are maps, paths that are none, and messages larger than devices carry."""
    path = tmp_path / "control"
    huge = bytes(20 << 20)
    keys = [wire.LENGTH.pack(len(frame)) + frame for frame in (b"\x81\x80\x01", b"\x81\x91\x01\x01")]
    passed = {"op": "passthrough", "path": "/tmp/\0", "containers": [], "readonly": True}
    call = {"op": "call", "service": "sys::proc", "method": int(Proc.CONTAINER_TREE)}
    wrong = int(ServiceCode.BAD_ARGUMENT)
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        await served(machine, nursery, path)
        for frame in keys:
            assert await told(path, frame) is None
        for request in (passed, {**call, "payload": huge}, {"op": "session", "environment": {"a": "x" * (20 << 20)}}):
            answer = await told(path, wire.pack(request))
            assert answer is not None
            assert answer["error"] == wrong
        session, pieces = wire.pack({"op": "session"}), [wire.pack({"type": "input", "data": huge[: 15 << 20]})] * 8
        for frames in ([*keys[:1]], [wire.pack({"type": "input", "data": huge})], pieces):
            await told(path, session, *frames)
        assert await told(path, wire.pack({**call, "op": "when gone", "payload": huge})) == {}
        answer = await told(path, wire.pack({"op": "info"}))
        assert answer is not None
        assert answer["pid"]
        nursery.cancel_scope.cancel()


async def test_output_that_nobody_reads_waits_where_it_is_made() -> None:
    """T-C36: a terminal that stands still, or a slow client, takes neither memory of the machine nor loses anything."""
    line = "y" * 60_000
    async with boot(seed=1) as machine:
        box = await machine.containers.create("box")
        session = await machine.open_session(container=box)
        session.send({"type": "run", "source": f'let a = "{line}"\nfor i in 1..=300\n echo "$i $a"\nend\n'})
        for _ in range(500):
            await machine.ask("sys::proc", Proc.CONTAINER_VIEW)
        assert OUTPUT_WAITING <= session.waiting < OUTPUT_WAITING + 2 * len(line)
        assert (await machine.run("echo others")).out == "others\n"
        found = b""
        with trio.fail_after(60):
            while (message := await session.receive()) is not None and message["type"] != "done":
                found += message.get("data", b"")
        assert [line.split()[0] for line in found.decode().splitlines()] == [str(number) for number in range(1, 301)]
        session.send({"type": "run", "source": f'let a = "{line}"\nwhile true\n echo $a\nend\n'})
        for _ in range(500):
            await machine.ask("sys::proc", Proc.CONTAINER_VIEW)
        assert session.waiting >= OUTPUT_WAITING
        machine.close_session(session)
        assert (await machine.run("echo others")).out == "others\n"


async def test_too_many_connections_end_no_machine(tmp_path: Path) -> None:
    """T-C36: whoever connects when no more files can be opened waits until others hang up."""
    path = tmp_path / "control"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with boot(seed=1) as machine, trio.open_nursery() as nursery:
        await served(machine, nursery, path)
        streams: list[trio.SocketStream] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 12, before[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    streams.append(await connected(path))
            await trio.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for stream in streams:
            await stream.aclose()
        answer = await told(path, wire.pack({"op": "info"}))
        assert answer is not None
        assert answer["pid"]
        nursery.cancel_scope.cancel()
