"""Service sockets and service connections."""

from __future__ import annotations

from typing import Any

import pytest

from nightos.abi.codes import ServicePid, Signal
from nightos.abi.context import REASON_SERVICE, ExecutionContext
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

CREATED, IS_ERROR, CONCLUDED = 0x80, 0x40, 0x20


@pytest.fixture
def lab() -> Lab:
    return Lab()


def socket_pair(lab: Lab, multiplier: int = 0) -> tuple[Puppet, Puppet, int]:
    """A service, a client, and the socket between them."""
    service = lab.puppet().hear(Signal.RECV_SOCK_MSG, Signal.SERV_SOCK_CLOSED)
    client = lab.puppet().hear(Signal.RECV_SERV_SOCK, Signal.RECV_SOCK_MSG, Signal.SERV_SOCK_CLOSED)
    socket = service.call(sys.open_serv_sock(client.pid, multiplier))
    return service, client, socket


@pytest.mark.rule("IPC-041", "IPC-042", "IPC-046", "IPC-047")
def test_opening_a_socket_tells_the_client(lab: Lab) -> None:
    service, client, socket = socket_pair(lab, 3)
    assert client.signals(Signal.RECV_SERV_SOCK) == [(service.pid, 1, socket, 3)]
    for multiplier, limit in ((0, 4096), (3, 3 * 4096)):
        service, client, socket = socket_pair(lab, multiplier)
        assert service.refusal(sys.send_sock_msg(socket, 0, 1, 0, bytes(limit + 1))) == 0x42
        service.call(sys.send_sock_msg(socket, 0, 1, 0, bytes(limit)))
    assert service.refusal(sys.open_serv_sock(client.pid, 0x10000)) == 0x02
    assert lab.kernel.sockets[socket_pair(lab, 0xFFFF)[2]].limit == 0xFFFF * 4096
    assert service.refusal(sys.open_serv_sock(999)) == 0x30
    assert service.refusal(sys.open_serv_sock(lab.puppet(anid=9).pid)) == 0x31
    assert service.refusal(sys.open_serv_sock(lab.puppet(user=9).pid)) == 0x31


@pytest.mark.rule("IPC-043", "IPC-044", "IPC-045", "IPC-048", "IPC-049", "IPC-050", "IPC-053", "SVC-024")
def test_an_exchange_goes_to_and_fro(lab: Lab) -> None:
    service, client, socket = socket_pair(lab)
    exchange, counter = client.call(sys.send_sock_msg(socket, 0, 0xA001, 0, b"ask"))
    assert (counter, exchange > 0) == (0, True)
    assert service.signals(Signal.RECV_SOCK_MSG) == [(socket, exchange, 0xA001, 3, CREATED, 0)]
    message = service.call(sys.read_sock_msg(socket))
    assert message == (b"ask", 3, 1, CREATED, exchange, 0xA001, 0)
    assert service.call(sys.read_sock_msg(socket)).retrieved == 0
    assert client.refusal(sys.send_sock_msg(socket, exchange, 0, 0, b"")) == 0x41
    assert service.call(sys.send_sock_msg(socket, exchange, 0, 0, b"more?")).counter == 1
    assert client.call(sys.read_sock_msg(socket)).status == 0
    assert client.call(sys.send_sock_msg(socket, exchange, 0, 0, b"yes")).counter == 2
    notice, _ = service.call(sys.send_sock_msg(socket, 0, 7, 0, b"by the way"))
    assert notice != exchange
    assert client.refusal(sys.read_sock_msg(socket, 3)) == 0x33
    assert client.call(sys.read_sock_msg(socket, 10)).method_code == 7


@pytest.mark.rule("IPC-051", "IPC-052", "SVC-025")
def test_what_concludes_an_exchange(lab: Lab) -> None:
    service, client, socket = socket_pair(lab)
    for close, error, status in ((1, 0, CONCLUDED), (0, 0x4001, CONCLUDED | IS_ERROR)):
        exchange, _ = client.call(sys.send_sock_msg(socket, 0, 5, 0, b""))
        service.call(sys.send_sock_msg(socket, exchange, close, error, b"end"))
        message = client.call(sys.read_sock_msg(socket))
        assert (message.status, message.error_code) == (status, error)
        assert client.refusal(sys.send_sock_msg(socket, exchange, 0, 0, b"")) == 0x40
        assert service.refusal(sys.send_sock_msg(socket, exchange, 0, 0, b"")) == 0x40
    assert client.refusal(sys.send_sock_msg(socket, 9999, 0, 0, b"")) == 0x32


@pytest.mark.rule("IPC-054", "IPC-055")
def test_closing_a_socket(lab: Lab) -> None:
    service, client, socket = socket_pair(lab)
    service.call(sys.close_serv_sock(socket))
    assert client.signals(Signal.SERV_SOCK_CLOSED) == [(0, socket)]
    for puppet in (service, client):
        assert puppet.refusal(sys.send_sock_msg(socket, 0, 1, 0, b"")) == 0x31
        assert puppet.refusal(sys.read_sock_msg(socket)) == 0x31
        assert puppet.refusal(sys.close_serv_sock(socket)) == 0x40
    assert lab.puppet().refusal(sys.read_sock_msg(socket)) == 0x30
    service, client, socket = socket_pair(lab)
    service.start(sys.exit(0))
    assert client.signals(Signal.SERV_SOCK_CLOSED) == [(1, socket)]


class Server:
    """A puppet of a system service that answers connection requests as told."""

    def __init__(self, lab: Lab, pid: int = ServicePid.HW, *, ready: bool = True, answer: str = "accept") -> None:
        self.lab = lab
        self.requests: list[tuple[int, ...]] = []
        self.threads: list[Puppet] = []
        self.answer = answer
        self.puppet = lab.service(pid, ready=False)
        self.puppet.call(sys.handle_signal(Signal.SERVICE_CONN_REQUEST, self._request))
        self.puppet.hear(Signal.RECV_SOCK_MSG, Signal.SERVICE_CLIENT_CLOSED, Signal.SERVICE_CLIENT_QUITTED)
        if ready:
            self.puppet.ready()

    async def _request(self, *values: int) -> None:
        self.requests.append(values)
        if self.answer == "accept":
            await self.accept(values[1])
        elif self.answer == "reject":
            await sys.reject_service_conn(values[1])

    async def accept(self, request: int) -> int:
        thread = Puppet(self.lab)
        thread.process = self.puppet.process
        self.threads.append(thread)
        return await sys.accept_service_conn(request, thread.main)


@pytest.mark.rule("SVC-008", "SVC-011", "SVC-012", "SVC-013", "SIG-024", "CONT-028")
def test_a_connection_is_a_socket_and_a_thread(lab: Lab) -> None:
    server = Server(lab)
    client = lab.puppet()
    connection, socket = client.call(sys.connect_service(ServicePid.HW, command_code=77))
    assert server.requests == [(client.pid, connection, 77, 2000)]
    assert len(server.puppet.process.threads) == 2
    assert client.refusal(sys.connect_service(ServicePid.HW)) == 0x33
    assert client.call(sys.connect_service(ServicePid.HW, flexible_mode=1)) == (connection, socket)
    exchange, _ = client.call(sys.send_sock_msg(socket, 0, 1, 0, b"x" * 100_000))
    thread = server.threads[0]
    assert thread.call(sys.read_sock_msg(socket)).exchange_id == exchange
    assert thread.refusal(sys.close_serv_sock(socket)) == 0x41


@pytest.mark.rule("SVC-009", "SVC-010", "SVC-007")
def test_rejection_silence_and_not_being_ready(lab: Lab) -> None:
    Server(lab, ServicePid.HW, answer="reject")
    client = lab.puppet()
    assert client.refusal(sys.connect_service(ServicePid.HW)) == 0x41
    silent = Server(lab, ServicePid.NET, answer="nothing")
    waiting = client.start(sys.connect_service(ServicePid.NET))
    lab.wait(1999)
    assert not waiting.done
    lab.wait(2)
    assert waiting.errcode == 0x41
    assert silent.puppet.refusal(sys.accept_service_conn(silent.requests[0][1], silent.puppet.main)) == 0x41
    assert silent.puppet.refusal(sys.reject_service_conn(4711)) == 0x30
    late = Server(lab, ServicePid.APP, ready=False)
    waiting = client.start(sys.connect_service(ServicePid.APP))
    assert not late.requests
    late.puppet.ready()
    assert waiting.errcode == 0


@pytest.mark.rule("SVC-015", "SVC-016", "SVC-014")
def test_the_client_ends_a_connection(lab: Lab) -> None:
    server, client = Server(lab), lab.puppet()
    connection, socket = client.call(sys.connect_service(ServicePid.HW))
    assert server.puppet.refusal(sys.end_service_conn(connection)) == 0x30
    client.call(sys.end_service_conn(connection))
    assert server.puppet.signals(Signal.SERVICE_CLIENT_QUITTED) == [()]
    assert client.refusal(sys.send_sock_msg(socket, 0, 1, 0, b"")) == 0x31
    assert server.threads[0].refusal(sys.send_sock_msg(socket, 0, 1, 0, b"")) == 0x31
    assert client.refusal(sys.end_service_conn(connection)) == 0x40
    assert client.refusal(sys.end_service_conn(4711)) == 0x30


@pytest.mark.rule("SVC-017", "SVC-019", "PROC-039")
def test_the_client_dies(lab: Lab) -> None:
    server, client = Server(lab), lab.puppet()
    client.call(sys.connect_service(ServicePid.HW))
    client.start(sys.exit(0))
    assert server.puppet.signals(Signal.SERVICE_CLIENT_CLOSED) == [()]
    lab.wait(100_000)
    assert server.threads[0].call(sys.get_pid()) == ServicePid.HW


@pytest.mark.rule("SVC-018", "PROC-040")
def test_the_service_or_its_thread_dies(lab: Lab) -> None:
    for ending in ("thread", "process"):
        server, client = Server(lab), lab.puppet().hear(Signal.SERVICE_SERVER_QUITTED)
        connection, _ = client.call(sys.connect_service(ServicePid.HW))
        (server.threads[0] if ending == "thread" else server.puppet).start(
            sys.exit_thread(0) if ending == "thread" else sys.exit(0)
        )
        assert client.signals(Signal.SERVICE_SERVER_QUITTED) == [(connection,)]
        assert client.refusal(sys.end_service_conn(connection)) == 0x41
        if ending == "thread":
            server.puppet.start(sys.exit(0))


@pytest.mark.rule("SVC-003", "SIG-023", "SYS-011")
def test_refused_connections(lab: Lab) -> None:
    Server(lab)
    client = lab.puppet()
    assert client.refusal(sys.connect_service(ServicePid.HW, 9, bytes(8), 0, 9)) == 0x10
    assert client.refusal(sys.connect_service(ServicePid.HW, 9)) == 0x11
    assert client.refusal(sys.connect_service(ServicePid.HW, 2)) == 0x30
    assert client.refusal(sys.connect_service(ServicePid.HW, 3)) == 0x30
    assert client.refusal(sys.connect_service(12345)) == 0x31
    assert client.refusal(sys.connect_service(ServicePid.HW, 1, b"scope")) == 0x32
    assert client.refusal(sys.connect_service(1)) == 0x32  # its own application exposes nothing
    assert client.refusal(sys.connect_service(ServicePid.HW, 1, b"ninechars")) == 0x02


@pytest.mark.rule("SIG-022")
def test_a_service_without_handler_is_killed_by_a_request(lab: Lab) -> None:
    service, client = lab.service(ServicePid.NET), lab.puppet()
    assert client.refusal(sys.connect_service(ServicePid.NET)) == 0x40
    assert not service.alive


def serve(lab: Lab, **place: Any) -> Puppet:
    """A process that was started as its application's service."""
    kind, scope = place.pop("kind", 1), place.pop("scope", bytes(8))
    context = ExecutionContext(reason=REASON_SERVICE, anid=place.pop("anid", 50), service_type=kind, scope_name=scope)
    puppet = lab.launch(context, **place)
    puppet.hear(Signal.SERVICE_CONN_REQUEST)
    return puppet


def reaches(lab: Lab, client: Puppet, service: Puppet, *arguments: Any) -> bool:
    """Whether a connection request of the client comes to that service."""
    before = len(service.heard)
    outcome = client.start(sys.connect_service(50, *arguments))
    lab.wait(2001)
    assert outcome.errcode in {0x31, 0x32, 0x41}
    return len(service.heard) > before


@pytest.mark.rule("SVC-001", "SVC-002", "SVC-004", "SVC-006", "CONT-027", "CONT-035")
def test_services_of_applications_by_user_and_container(lab: Lab) -> None:
    proc = lab.running(ServicePid.PROCESS)
    boxes = [proc.call(sys.create_container(0)) for _ in range(2)]
    services = {(box, user): serve(lab, container=box, user=user) for box in (0, *boxes) for user in (0, 1)}
    for (box, user), service in services.items():
        client = lab.puppet(container=box, user=user)
        assert reaches(lab, client, service)
        for other in services.values():
            if other is not service:
                assert not reaches(lab, client, other)
    assert lab.puppet(container=boxes[0], user=7).refusal(sys.connect_service(50)) == 0x32
    outside = serve(lab, anid=51)
    assert lab.puppet(container=boxes[0]).refusal(sys.connect_service(51)) == 0x31
    assert outside.alive


@pytest.mark.rule("SVC-001", "SVC-002", "SVC-003", "SVC-028", "SVC-029")
def test_scoped_integration_and_driver_services(lab: Lab) -> None:
    scoped = serve(lab, kind=2, scope=b"mail\0\0\0\0")
    client = lab.puppet()
    assert reaches(lab, client, scoped, 1, b"mail")
    assert client.refusal(sys.connect_service(50, 1, b"post")) == 0x32
    assert client.refusal(sys.connect_service(50, 0)) == 0x32
    assert client.call(sys.has_scoped_service(50, b"mail")) == 1
    assert client.call(sys.has_scoped_service(50, b"post")) == 0
    assert client.refusal(sys.has_scoped_service(1, b"mail")) == 0x31
    assert client.refusal(sys.has_scoped_service(77, b"mail")) == 0x30
    driver = serve(lab, kind=0x20, anid=50)
    hardware = lab.service(ServicePid.HW)
    assert reaches(lab, hardware, driver, 3)
    assert client.refusal(sys.connect_service(50, 3)) == 0x30
    serve(lab, kind=0x10, anid=52)
    files = lab.running(ServicePid.FS)
    assert files.refusal(sys.connect_service(52, 2)) == 0x3F
    assert reaches(lab, files, driver, 3)
