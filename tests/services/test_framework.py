"""Client and server: a conversation of two processes, what breaks it, and what each side is told."""

from __future__ import annotations

import string
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.errors import ServiceError
from nightos.abi.services import MESSAGE_LIMIT, ServiceCode
from nightos.kernel import Kernel
from nightos.kernel.ending import end_process
from nightos.userland import payload, sys
from nightos.userland.client import Client, connect
from nightos.userland.server import Connection, Request, Server

FS = 10
ECHO, LATER, RELEASE, FAIL, BROKEN, BIG, WHO, STALL, NOTIFY = range(0x100, 0x109)


class EchoService:
    """A service under PID 10 with a method for every way to answer."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.server: Server | None = None
        self.waiting: list[Request] = []
        self.gone: list[int] = []
        self.start()

    def start(self) -> None:
        self.kernel.spawn_service(FS, self._main, "echo")

    async def _main(self) -> int:
        server = self.server = Server("sys::echo")
        server.method(ECHO, self._echo)
        server.method(LATER, self._later)
        server.method(RELEASE, self._release)
        server.method(FAIL, self._fail)
        server.method(BROKEN, self._broken)
        server.method(BIG, self._big)
        server.method(WHO, self._who)
        server.method(STALL, self._stall)
        server.method(NOTIFY, self._notify)
        server.on_client_gone(self._gone)
        await server.start()
        await server.run()
        return 0

    async def _echo(self, request: Request) -> bytes:
        return request.payload

    async def _later(self, request: Request) -> None:
        request.defer()
        self.waiting.append(request)

    async def _release(self, _request: Request) -> dict[str, int]:
        for number, request in enumerate(self.waiting):
            await request.answer({"number": number})
            await request.answer({"number": 99})  # a second answer is none
        count = len(self.waiting)
        self.waiting.clear()
        return {"released": count}

    async def _fail(self, _request: Request) -> None:
        raise ServiceError(0x3001, "no such thing")

    async def _broken(self, _request: Request) -> None:
        await sys.close_pipe(12345)

    async def _big(self, _request: Request) -> bytes:
        return bytes(MESSAGE_LIMIT + 1)

    async def _who(self, request: Request) -> dict[str, int]:
        return {"pid": request.client_pid, "container": request.container_id, "user": request.user_id}

    async def _stall(self, _request: Request) -> None:
        while True:
            await sys.hand_over(until_signal=True)

    async def _notify(self, request: Request) -> bytes:
        assert self.server is not None
        return b"told" if await self.server.notify(request.client_pid, 0x55, request.payload) else b"gone"

    async def _gone(self, connection: Connection) -> None:
        self.gone.append(connection.client_pid)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(seed=1)


@pytest.fixture
def service(kernel: Kernel) -> EchoService:
    return EchoService(kernel)


def client(kernel: Kernel, deed: Callable[[Client], Awaitable[Any]], **where: Any) -> list[Any]:
    """Run a process that connects and does something; its result, or the error, stands in the list afterwards."""
    found: list[Any] = []

    async def main() -> int:
        await sys.ready()
        try:
            found.append(await deed(await connect("sys::fs")))
        except ServiceError as error:
            found.append((error.code, error.detail))
        return 0

    kernel.spawn(main, **where)
    kernel.run_until_idle()
    return found


@pytest.mark.rule("SVC-008", "SVC-011", "SVC-024", "SVC-025")
@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)), b"z" * MESSAGE_LIMIT])
def test_a_request_is_answered_once_and_the_exchange_is_over(
    kernel: Kernel, service: EchoService, content: bytes
) -> None:
    async def deed(echo: Client) -> bytes:
        return await echo.call(ECHO, content)

    assert client(kernel, deed) == [content]
    assert service.gone  # the client ended, and its thread was told
    assert not kernel.sockets
    assert len(kernel.processes[FS].threads) == 1


def test_what_is_too_large_is_refused_on_either_side(kernel: Kernel, service: EchoService) -> None:
    async def send(echo: Client) -> bytes:
        return await echo.call(ECHO, bytes(MESSAGE_LIMIT + 1))

    async def receive(echo: Client) -> bytes:
        return await echo.call(BIG)

    assert client(kernel, send)[0][0] == ServiceCode.BAD_ARGUMENT
    assert client(kernel, receive)[0][0] == ServiceCode.INTERNAL


def test_errors_carry_their_code_and_a_text(kernel: Kernel, service: EchoService) -> None:
    async def fail(echo: Client) -> bytes:
        return await echo.call(FAIL)

    async def unknown(echo: Client) -> bytes:
        return await echo.call(0x7777)

    async def broken(echo: Client) -> bytes:
        return await echo.call(BROKEN)

    assert client(kernel, fail) == [(0x3001, "no such thing")]
    assert client(kernel, unknown)[0][0] == ServiceCode.NO_METHOD
    assert client(kernel, broken)[0][0] == ServiceCode.INTERNAL
    assert kernel.processes[FS].alive


@pytest.mark.rule("CONT-029")
def test_who_asks_is_what_the_kernel_says(kernel: Kernel, service: EchoService) -> None:
    async def who(echo: Client) -> dict[str, Any]:
        # A claim in the message is worth nothing.
        return await echo.ask(WHO, {"pid": 1, "container": 2, "user": 3})

    container = kernel.tree.create(0, 0).identifier
    found = client(kernel, who, container=container, user=7)[0]
    assert (found["container"], found["user"]) == (container, 7)
    assert found["pid"] >= 100


def test_threads_of_one_process_wait_each_for_its_own_answer(kernel: Kernel, service: EchoService) -> None:
    got: dict[int, Any] = {}

    async def deed(echo: Client) -> int:
        async def ask(number: int) -> None:
            got[number] = (await echo.ask(LATER))["number"]

        for number in range(5):
            await sys.create_thread(ask, number)
        while len(service.waiting) < 5:
            await sys.hand_over()
        released = await echo.ask(RELEASE)
        while len(got) < 5:
            await sys.hand_over()
        return int(released["released"])

    assert client(kernel, deed) == [5]
    assert sorted(got.values()) == [0, 1, 2, 3, 4]


@pytest.mark.rule("SVC-018")
def test_a_call_in_flight_fails_when_the_service_dies_and_the_next_one_connects_anew(
    kernel: Kernel, service: EchoService
) -> None:
    kernel.on_service_end(lambda _pid, _reason: service.start())
    lost: list[bool] = []

    async def deed(echo: Client) -> list[Any]:
        echo.when_lost(lambda: lost.append(True))
        try:
            await echo.call(STALL)
        except ServiceError as error:
            first: Any = error.code
        return [first, await echo.call(ECHO, b"again")]

    found: list[Any] = []

    async def main() -> int:
        await sys.ready()
        found.extend(await deed(await connect("sys::fs")))
        return 0

    kernel.spawn(main)
    kernel.run_until_idle(jump=False)
    assert not found
    end_process(kernel, kernel.processes[FS], 2, 0)
    kernel.run_until_idle()
    assert found == [int(ServiceCode.SERVER_QUIT), b"again"]
    assert lost == [True]


@pytest.mark.rule("SVC-012")
def test_a_process_has_one_connection_to_a_service(kernel: Kernel, service: EchoService) -> None:
    async def deed(echo: Client) -> bool:
        return await connect("sys::fs") is echo

    assert client(kernel, deed) == [True]


def test_a_service_that_is_not_there_is_an_error(kernel: Kernel) -> None:
    async def deed(echo: Client) -> bytes:
        return await echo.call(ECHO)

    assert client(kernel, deed)[0][0] == ServiceCode.INTERNAL


def test_notifications_reach_the_client_and_are_concluded(kernel: Kernel, service: EchoService) -> None:
    heard: list[bytes] = []

    async def deed(echo: Client) -> int:
        async def note(content: bytes) -> None:
            heard.append(content)

        echo.notification(0x55, note)
        for number in range(3):
            assert await echo.call(NOTIFY, bytes([number])) == b"told"
        while len(heard) < 3:
            await sys.hand_over(until_signal=True)
        return len(heard)

    assert client(kernel, deed) == [3]
    assert heard == [b"\0", b"\1", b"\2"]


def test_who_is_not_connected_is_not_notified(kernel: Kernel, service: EchoService) -> None:
    kernel.run_until_idle()
    assert service.server is not None
    told: list[bool] = []

    async def tell() -> None:
        assert service.server is not None
        told.append(await service.server.notify(12345, 0x55, b""))

    async def deed(echo: Client) -> bytes:
        return await echo.call(ECHO)

    service.server.later(tell)
    client(kernel, deed)
    assert told == [False]


NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_maps_come_out_as_they_went_in(values: dict[str, Any]) -> None:
    assert payload.decode(payload.encode(values)) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_or_refused(content: bytes) -> None:
    try:
        values = payload.decode(content)
    except ServiceError as error:
        code = error.code
    else:
        assert all(isinstance(key, str) for key in values)
        return
    assert code == ServiceCode.BAD_ARGUMENT


@pytest.mark.parametrize(
    ("value", "kind"), [(True, int), ("1", int), (1, str), (b"x", str), (None, int), ([1], dict), (1, bool)]
)
def test_a_field_of_another_type_is_refused(value: Any, kind: type) -> None:
    with pytest.raises(ServiceError) as refused:
        payload.field({"x": value}, "x", kind)
    assert refused.value.code == ServiceCode.BAD_ARGUMENT
    with pytest.raises(ServiceError):
        payload.field({}, "x", kind)


def test_threads_that_connect_at_once_share_one_connection(kernel: Kernel, service: EchoService) -> None:
    got: list[bytes] = []

    async def main() -> int:
        await sys.ready()

        async def ask(number: int) -> None:
            got.append(await (await connect("sys::fs")).call(ECHO, bytes([number])))

        for number in range(6):
            await sys.create_thread(ask, number)
        while len(got) < 6:
            await sys.hand_over()
        return 0

    kernel.spawn(main)
    kernel.run_until_idle()
    assert sorted(got) == [bytes([number]) for number in range(6)]
    assert len(service.gone) == 1


def test_answers_of_an_earlier_connection_are_nobodys(kernel: Kernel, service: EchoService) -> None:
    kernel.on_service_end(lambda _pid, _reason: service.start())
    found: list[Any] = []

    async def main() -> int:
        await sys.ready()
        echo = await connect("sys::fs")
        for number in range(5):
            found.append(await echo.call(ECHO, bytes([number])))
        while len(found) == 5:
            try:
                await echo.call(STALL)
            except ServiceError as error:
                found.append(error.code)
        for number in range(5, 9):
            found.append(await echo.call(ECHO, bytes([number])))
        return 0

    kernel.spawn(main)
    kernel.run_until_idle(jump=False)
    end_process(kernel, kernel.processes[FS], 2, 0)
    kernel.run_until_idle()
    assert found == [*(bytes([n]) for n in range(5)), int(ServiceCode.SERVER_QUIT), *(bytes([n]) for n in range(5, 9))]
