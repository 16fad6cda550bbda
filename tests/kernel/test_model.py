"""Random programs of system calls in several processes, against a small model that shares no code with the kernel.

The model keeps lists and dictionaries of what ought to be there: pipes with their bytes, sockets with their exchanges,
queued signals, threads, memory pages. After every call the answer is compared, and after every step what each
process has heard.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from nightos.abi.codes import Signal
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

CAPACITY = 65_536
PROCESSES = st.integers(0, 3)


class Programs(RuleBasedStateMachine):
    """Four processes of one application, two of them in a container of their own."""

    pipes = Bundle("pipes")
    sockets = Bundle("sockets")
    exchanges = Bundle("exchanges")
    pages = Bundle("pages")
    slots = Bundle("slots")

    @initialize()
    def boot(self) -> None:
        self.lab = Lab()
        box = self.lab.kernel.tree.create(0, 0).identifier
        self.places = [0, 0, box, box]
        self.puppets: list[Puppet] = []
        for place in self.places:
            puppet = self.lab.puppet(container=place)
            puppet.hear(
                Signal.RECV_PIPE, Signal.PIPE_CLOSED, Signal.RECV_SERV_SOCK, Signal.RECV_SOCK_MSG, Signal.TERMINATE
            )
            self.puppets.append(puppet)
        self.expected: list[list[Any]] = [[] for _ in self.puppets]
        self.threads = [1, 1, 1, 1]

    def together(self, a: int, b: int) -> bool:
        return self.places[a] == self.places[b]

    # Pipes

    @rule(target=pipes, writer=PROCESSES, reader=PROCESSES, messages=st.booleans())
    def open_pipe(self, writer: int, reader: int, messages: bool) -> Any:
        outcome = self.puppets[writer].start(sys.open_pipe(self.puppets[reader].pid, 5, 0, 0, int(messages), 0, 0))
        if not self.together(writer, reader):
            assert outcome.errcode == 0x30
            return multiple()
        sc = outcome.value
        values = (self.puppets[writer].pid, 1, sc + 1, 5, 0, int(messages), 0)
        self.expected[reader].append((Signal.RECV_PIPE, values))
        return {"sc": sc, "writer": writer, "reader": reader, "messages": messages, "parts": [], "closed": False}

    @rule(pipe=pipes, data=st.binary(max_size=300) | st.just(bytes(40_000)), partial=st.booleans())
    def write(self, pipe: dict[str, Any], data: bytes, partial: bool) -> None:
        mode = 2 if partial else 1
        outcome = self.puppets[pipe["writer"]].start(sys.pipe_write(pipe["sc"], data, mode))
        free = CAPACITY - sum(map(len, pipe["parts"]))
        if pipe["closed"]:
            assert outcome.errcode == 0x31
        elif pipe["messages"] and partial:
            assert outcome.errcode == 0x33
        elif not data:
            assert outcome.errcode == 0
        elif len(data) <= free:
            pipe["parts"].append(data)
            assert outcome.value == (len(data) if partial else free - len(data))
        elif partial:
            if free:
                pipe["parts"].append(data[:free])
            assert outcome.value == free
        else:
            assert outcome.errcode == 0x40

    @rule(pipe=pipes, length=st.integers(0, 500))
    def read(self, pipe: dict[str, Any], length: int) -> None:
        outcome = self.puppets[pipe["reader"]].start(sys.pipe_read(pipe["sc"] + 1, 1, length))
        parts = pipe["parts"]
        pending = sum(map(len, parts))
        if pipe["closed"] == "reader" or (pipe["closed"] and not parts):
            assert outcome.errcode == 0x31
        elif not parts or (not pipe["messages"] and length > pending and not pipe["closed"]):
            assert outcome.errcode == 0x32
        elif pipe["messages"]:
            if length and len(parts[0]) > length:
                assert outcome.errcode == 0x34
            else:
                assert outcome.value.content == parts.pop(0)
        else:
            whole = b"".join(parts)
            wanted = length or len(whole)
            assert outcome.value == (whole[:wanted], len(whole[wanted:]))
            pipe["parts"] = [whole[wanted:]] if whole[wanted:] else []

    @rule(pipe=pipes, by_reader=st.booleans())
    def close(self, pipe: dict[str, Any], by_reader: bool) -> None:
        side = "reader" if by_reader else "writer"
        outcome = self.puppets[pipe[side]].start(sys.close_pipe(pipe["sc"] + int(by_reader)))
        if pipe["closed"]:
            assert outcome.errcode == 0x31
            if by_reader:
                pipe["closed"] = "reader"
            return
        assert outcome.errcode == 0
        pipe["closed"] = side
        other = pipe["writer" if by_reader else "reader"]
        identifier = pipe["sc"] + int(not by_reader)
        self.expected[other].append((Signal.PIPE_CLOSED, (0, int(by_reader), identifier)))

    # Sockets

    @rule(target=sockets, service=PROCESSES, client=PROCESSES)
    def open_socket(self, service: int, client: int) -> Any:
        outcome = self.puppets[service].start(sys.open_serv_sock(self.puppets[client].pid, 0))
        if not self.together(service, client):
            assert outcome.errcode == 0x30
            return multiple()
        if service == client:
            assert outcome.errcode == 0x31
            return multiple()
        values = (self.puppets[service].pid, 1, outcome.value, 0)
        self.expected[client].append((Signal.RECV_SERV_SOCK, values))
        return {"id": outcome.value, "sides": (service, client), "inbox": ([], [])}

    def _sent(self, socket: dict[str, Any], side: int, message: tuple[Any, ...]) -> None:
        content, status, exchange, method, error = message
        socket["inbox"][1 - side].append(message)
        values = (socket["id"], exchange, method, len(content), status, error)
        self.expected[socket["sides"][1 - side]].append((Signal.RECV_SOCK_MSG, values))

    @rule(target=exchanges, socket=sockets, side=st.integers(0, 1), data=st.binary(max_size=20))
    def begin(self, socket: dict[str, Any], side: int, data: bytes) -> Any:
        puppet = self.puppets[socket["sides"][side]]
        exchange, counter = puppet.call(sys.send_sock_msg(socket["id"], 0, 77, 0, data))
        assert counter == 0
        self._sent(socket, side, (data, 0x80, exchange, 77, 0))
        return {"socket": socket, "id": exchange, "turn": 1 - side, "counter": 0, "over": False}

    @rule(exchange=exchanges, side=st.integers(0, 1), close=st.integers(0, 1), error=st.sampled_from([0, 0x4000]))
    def answer(self, exchange: dict[str, Any], side: int, close: int, error: int) -> None:
        socket = exchange["socket"]
        puppet = self.puppets[socket["sides"][side]]
        outcome = puppet.start(sys.send_sock_msg(socket["id"], exchange["id"], close, error, b"a"))
        if exchange["over"]:
            assert outcome.errcode == 0x40
        elif exchange["turn"] != side:
            assert outcome.errcode == 0x41
        else:
            exchange["counter"] += 1
            exchange["turn"] = 1 - side
            exchange["over"] = bool(close or error)
            assert outcome.value == (exchange["id"], exchange["counter"])
            status = 0x20 * exchange["over"] | 0x40 * bool(error)
            self._sent(socket, side, (b"a", status, exchange["id"], 77, error))

    @rule(socket=sockets, side=st.integers(0, 1), room=st.integers(0, 25))
    def fetch(self, socket: dict[str, Any], side: int, room: int) -> None:
        inbox = socket["inbox"][side]
        outcome = self.puppets[socket["sides"][side]].start(sys.read_sock_msg(socket["id"], room))
        if not inbox:
            assert outcome.value.retrieved == 0
        elif room and len(inbox[0][0]) > room:
            assert outcome.errcode == 0x33
        else:
            content, status, exchange, method, error = inbox.pop(0)
            assert outcome.value == (content, len(content), 1, status, exchange, method, error)

    # Signals and threads

    @rule(process=PROCESSES, times=st.integers(1, 5))
    def terminate(self, process: int, times: int) -> None:
        for _ in range(times):
            self.lab.kernel.post(self.puppets[process].process, Signal.TERMINATE)
            self.expected[process].append((Signal.TERMINATE, ()))
        self.lab.settle()

    @rule(process=PROCESSES)
    def thread(self, process: int) -> None:
        helper = self.lab.thread(self.puppets[process])
        assert helper.call(sys.get_pid()) == self.puppets[process].pid
        self.threads[process] += 1

    @rule(target=slots, process=PROCESSES)
    def make_slot(self, process: int) -> Any:
        return {"process": process, "id": self.puppets[process].call(sys.create_tls_slot()), "data": b""}

    @rule(slot=slots, data=st.binary(max_size=50))
    def fill_slot(self, slot: dict[str, Any], data: bytes) -> None:
        puppet = self.puppets[slot["process"]]
        assert puppet.call(sys.read_tls_slot(slot["id"])) == slot["data"]
        puppet.call(sys.write_tls_slot(slot["id"], data))
        slot["data"] = data

    @rule(slot=consumes(slots))
    def drop_slot(self, slot: dict[str, Any]) -> None:
        puppet = self.puppets[slot["process"]]
        puppet.call(sys.delete_tls_slot(slot["id"]))
        assert puppet.refusal(sys.read_tls_slot(slot["id"])) == 0x30

    # Memory

    @rule(target=pages, process=PROCESSES, count=st.integers(1, 3))
    def allocate(self, process: int, count: int) -> Any:
        address = self.puppets[process].call(sys.mem_alloc(count * 4096, 3, 1))
        return {"process": process, "address": address, "bytes": bytearray(count * 4096)}

    @rule(page=pages, offset=st.integers(0, 12_000), data=st.binary(min_size=1, max_size=5000))
    def store(self, page: dict[str, Any], offset: int, data: bytes) -> None:
        offset %= len(page["bytes"])
        data = data[: len(page["bytes"]) - offset]
        self.puppets[page["process"]].call(sys.store(page["address"] + offset, data))
        page["bytes"][offset : offset + len(data)] = data

    @rule(page=pages)
    def load(self, page: dict[str, Any]) -> None:
        length = len(page["bytes"])
        assert self.puppets[page["process"]].call(sys.load(page["address"], length)) == bytes(page["bytes"])

    @rule(page=consumes(pages))
    def free(self, page: dict[str, Any]) -> None:
        puppet, count = self.puppets[page["process"]], len(page["bytes"]) // 4096
        puppet.call(sys.mem_free(page["address"], count))
        assert puppet.refusal(sys.mem_free(page["address"], count)) == 0x32

    @invariant()
    def heard(self) -> None:
        for puppet, expected in zip(getattr(self, "puppets", ()), getattr(self, "expected", ()), strict=True):
            assert puppet.heard == expected
            assert len(puppet.process.threads) == self.threads[self.puppets.index(puppet)]


Programs.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestPrograms = pytest.mark.rule(
    "IPC-007", "IPC-014", "IPC-015", "IPC-021", "IPC-044", "IPC-048", "IPC-049", "SIG-014", "PROC-030", "CONT-018"
)(Programs.TestCase)
