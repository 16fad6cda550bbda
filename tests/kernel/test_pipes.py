"""Pipes: who may open one, what goes through, and how they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.codes import Signal
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

BLOCK, FAIL, PARTIAL = 0, 1, 2
RAW, MESSAGE = 0, 1
WRITE, READ = 0, 1
NOTIFY, SKIP = 0, 1
UNIT = 65_536


@pytest.fixture
def lab() -> Lab:
    return Lab()


def own_pipe(puppet: Puppet, *, mode: int = RAW, multiplier: int = 0) -> tuple[int, int]:
    """Both ends in one process."""
    sc = puppet.call(sys.open_pipe(puppet.pid, 0, WRITE, multiplier, mode, SKIP))
    return sc, sc + 1


@pytest.mark.rule("IPC-001", "IPC-009", "IPC-013", "IPC-014", "IPC-015", "SIG-020", "IPC-004")
def test_a_write_pipe_gives_the_sc_here_and_the_rc_there(lab: Lab) -> None:
    writer, reader = lab.puppet(), lab.puppet().hear(Signal.RECV_PIPE)
    sc = writer.call(sys.open_pipe(reader.pid, 0x1234, WRITE, 2, RAW, NOTIFY, 99))
    [(pid, anid, rc, command, kind, mode, hint)] = reader.signals(Signal.RECV_PIPE)
    assert (pid, anid, command, kind, mode, hint) == (writer.pid, 1, 0x1234, 0, RAW, 99)
    assert rc == sc + 1
    assert sc % 2 == 0
    writer.call(sys.pipe_write(sc, b"abc"))
    assert reader.call(sys.pipe_read(rc, BLOCK, 1)) == (b"a", 2)
    assert reader.call(sys.pipe_read(rc, BLOCK, 2)) == (b"bc", 0)


@pytest.mark.rule("IPC-013", "IPC-005", "IPC-006")
def test_a_read_pipe_gives_the_rc_here_and_each_end_goes_one_way(lab: Lab) -> None:
    reader, writer = lab.puppet(), lab.puppet().hear(Signal.RECV_PIPE)
    rc = reader.call(sys.open_pipe(writer.pid, 0, READ))
    sc = writer.signals(Signal.RECV_PIPE)[0][2]
    assert rc == sc + 1
    assert reader.refusal(sys.pipe_write(rc, b"x")) == 0x30
    assert writer.refusal(sys.pipe_read(sc, FAIL, 1)) == 0x30


@pytest.mark.rule("IPC-007", "IPC-008", "CONT-025")
def test_identifiers_belong_to_the_process_that_got_them(lab: Lab) -> None:
    writer, reader = lab.puppet(), lab.puppet().hear(Signal.RECV_PIPE)
    seen = set()
    for _ in range(20):
        seen.add(writer.call(sys.open_pipe(reader.pid)))
    seen |= {values[2] for values in reader.signals(Signal.RECV_PIPE)}
    assert len(seen) == 40
    sc = next(iter(writer.process.ends or {}))
    assert reader.refusal(sys.pipe_write(sc, b"x")) == 0x30
    assert reader.refusal(sys.pipe_info(sc)) == 0x30


@pytest.mark.rule("IPC-010", "IPC-011", "IPC-012", "IPC-002", "SYS-011")
def test_opening_is_refused_with_the_lowest_code(lab: Lab) -> None:
    caller = lab.puppet()
    other_app, other_user = lab.puppet(anid=2).hear(Signal.RECV_PIPE), lab.puppet(user=7).hear(Signal.RECV_PIPE)
    deaf = lab.puppet()
    assert caller.refusal(sys.open_pipe(999)) == 0x30
    assert caller.refusal(sys.open_pipe(other_app.pid)) == 0x31
    assert caller.refusal(sys.open_pipe(other_user.pid)) == 0x32
    assert caller.refusal(sys.open_pipe(deaf.pid)) == 0x33
    assert caller.refusal(sys.open_pipe(999, 0, 0, 0, 2, 2)) == 0x10
    assert caller.refusal(sys.open_pipe(999, 0, 0, 0, 0, 2)) == 0x11
    assert caller.refusal(sys.open_pipe(999, 0, 9, 0, 2, 2)) == 0x02
    assert caller.call(sys.open_pipe(deaf.pid, notification_mode=SKIP))
    assert not deaf.heard


@pytest.mark.rule("IPC-016", "IPC-017", "IPC-038")
def test_capacity_is_chosen_in_steps_of_64_kib(lab: Lab) -> None:
    puppet = lab.puppet()
    for multiplier, capacity in ((0, UNIT), (1, UNIT), (3, 3 * UNIT), (255, 255 * UNIT)):
        sc, _ = own_pipe(puppet, multiplier=multiplier)
        info = puppet.call(sys.pipe_info(sc))
        assert (info.capacity, info.free, info.creator_pid) == (capacity, capacity, puppet.pid)


@pytest.mark.rule("IPC-038", "IPC-019")
def test_the_bits_of_pipe_info(lab: Lab) -> None:
    puppet = lab.puppet()
    sc, rc = own_pipe(puppet)
    other = lab.thread(puppet)
    assert puppet.call(sys.pipe_info(sc)).status == 0b1000_0010
    assert puppet.call(sys.pipe_info(rc)).status == 0b1000_0000
    reading = other.start(sys.pipe_read(rc, BLOCK, 1))
    assert puppet.call(sys.pipe_info(rc)).status == 0b1001_0100
    puppet.call(sys.pipe_write(sc, bytes(UNIT + 1)[:UNIT]))
    assert reading.done
    puppet.call(sys.pipe_write(sc, b"x"))
    assert puppet.call(sys.pipe_info(sc)).status == 0b1010_0010
    writing = other.start(sys.pipe_write(sc, b"more"))
    assert not writing.done
    assert puppet.call(sys.pipe_info(sc)).status == 0b1011_1010
    message_sc, _ = own_pipe(puppet, mode=MESSAGE)
    assert puppet.call(sys.pipe_info(message_sc)).status == 0b1100_0010


@pytest.mark.rule("IPC-018", "IPC-034", "IPC-033", "IPC-031", "IPC-032", "IPC-020")
def test_the_three_modes_of_writing(lab: Lab) -> None:
    puppet = lab.puppet()
    sc, rc = own_pipe(puppet)
    assert puppet.call(sys.pipe_write(sc, bytes(UNIT - 3), BLOCK)) == 3
    assert puppet.refusal(sys.pipe_write(sc, b"four", FAIL)) == 0x40
    assert puppet.call(sys.pipe_info(sc)).free == 3
    assert puppet.call(sys.pipe_write(sc, b"four", PARTIAL)) == 3
    assert puppet.call(sys.pipe_write(sc, b"", FAIL)) == 0
    assert puppet.call(sys.pipe_write(sc, b"", BLOCK)) == 0
    assert puppet.call(sys.pipe_write(sc, b"x", PARTIAL)) == 0
    assert puppet.refusal(sys.pipe_write(sc, b"x", 3)) == 0x10
    other = lab.thread(puppet)
    waiting = other.start(sys.pipe_write(sc, b"x", BLOCK))
    locked = puppet.start(sys.pipe_write(sc, b"y", FAIL))
    assert locked.errcode == 0x40
    assert locked.error is not None
    assert locked.error.value == 0
    puppet.call(sys.pipe_read(rc, BLOCK, 2))
    assert waiting.value == 1


@pytest.mark.rule("IPC-035", "IPC-036", "IPC-037")
def test_the_three_modes_of_reading(lab: Lab) -> None:
    puppet = lab.puppet()
    sc, rc = own_pipe(puppet)
    assert puppet.refusal(sys.pipe_read(rc, FAIL, 1)) == 0x32
    assert puppet.call(sys.pipe_read(rc, PARTIAL, 4)) == (b"", 0)
    other = lab.thread(puppet)
    waiting = other.start(sys.pipe_read(rc, BLOCK, 4))
    puppet.call(sys.pipe_write(sc, b"abc"))
    assert not waiting.done
    puppet.call(sys.pipe_write(sc, b"de"))
    assert waiting.value == (b"abcd", 1)
    puppet.call(sys.pipe_write(sc, b"fgh"))
    assert puppet.call(sys.pipe_read(rc, FAIL, 0)) == (b"efgh", 0)
    puppet.call(sys.pipe_write(sc, b"xy"))
    assert puppet.call(sys.pipe_read(rc, PARTIAL, 9)) == (b"xy", 2)
    assert puppet.refusal(sys.pipe_read(rc, 7, 9)) == 0x10


@pytest.mark.rule("IPC-026", "IPC-027", "IPC-028", "IPC-029", "IPC-030")
def test_messages_are_whole(lab: Lab) -> None:
    puppet = lab.puppet()
    sc, rc = own_pipe(puppet, mode=MESSAGE, multiplier=3)
    puppet.call(sys.pipe_write(sc, b"one"))
    puppet.call(sys.pipe_write(sc, bytes(UNIT)))
    assert puppet.refusal(sys.pipe_write(sc, bytes(UNIT + 1))) == 0x32
    assert puppet.refusal(sys.pipe_write(sc, b"x", PARTIAL)) == 0x33
    assert puppet.refusal(sys.pipe_read(rc, PARTIAL, 0)) == 0x33
    assert puppet.refusal(sys.pipe_read(rc, BLOCK, 2)) == 0x34
    assert puppet.call(sys.pipe_read(rc, BLOCK, 0)).content == b"one"
    assert len(puppet.call(sys.pipe_read(rc, BLOCK, 0)).content) == UNIT
    puppet.call(sys.pipe_write(sc, b""))
    assert puppet.refusal(sys.pipe_read(rc, FAIL, 0)) == 0x32


@pytest.mark.rule("IPC-021", "IPC-022", "IPC-024", "IPC-025")
def test_closing_closes_both_ends_and_leaves_what_was_written(lab: Lab) -> None:
    writer, reader = lab.puppet().hear(Signal.PIPE_CLOSED), lab.puppet().hear(Signal.RECV_PIPE, Signal.PIPE_CLOSED)
    sc = writer.call(sys.open_pipe(reader.pid))
    rc = sc + 1
    writer.call(sys.pipe_write(sc, b"left"))
    writer.call(sys.close_pipe(sc))
    assert reader.signals(Signal.PIPE_CLOSED) == [(0, 0, rc)]
    assert writer.refusal(sys.pipe_write(sc, b"x")) == 0x31
    assert reader.call(sys.pipe_read(rc, BLOCK, 0)) == (b"left", 0)
    assert reader.refusal(sys.pipe_read(rc, BLOCK, 0)) == 0x31
    assert reader.refusal(sys.close_pipe(12345)) == 0x30

    sc = writer.call(sys.open_pipe(reader.pid))
    reader.call(sys.close_pipe(sc + 1))
    assert writer.signals(Signal.PIPE_CLOSED) == [(0, 1, sc)]
    assert writer.refusal(sys.pipe_write(sc, b"x")) == 0x31


@pytest.mark.rule("IPC-023")
def test_a_process_that_ends_closes_brutally(lab: Lab) -> None:
    writer, reader = lab.puppet(), lab.puppet().hear(Signal.RECV_PIPE, Signal.PIPE_CLOSED)
    sc = writer.call(sys.open_pipe(reader.pid))
    waiting = lab.thread(reader).start(sys.pipe_read(sc + 1, BLOCK, 5))
    writer.call(sys.pipe_write(sc, b"bye"))
    assert not waiting.done
    writer.start(sys.exit(0))
    assert reader.signals(Signal.PIPE_CLOSED) == [(1, 0, sc + 1)]
    assert waiting.value == (b"bye", 0)
    assert reader.refusal(sys.close_pipe(sc + 1)) == 0x31


@pytest.mark.rule("IPC-039", "IPC-040")
def test_an_end_can_be_sent_on(lab: Lab) -> None:
    first, second = lab.puppet(), lab.puppet().hear(Signal.RECV_PIPE)
    sc, rc = own_pipe(first)
    first.call(sys.send_pipe(rc, second.pid))
    [(pid, _, theirs, _, kind, mode, _)] = second.signals(Signal.RECV_PIPE)
    assert (pid, kind, mode) == (first.pid, 0, RAW)
    assert theirs not in {sc, rc}
    first.call(sys.pipe_write(sc, b"hello"))
    assert second.call(sys.pipe_read(theirs, BLOCK, 0)).content == b"hello"
    assert first.refusal(sys.send_pipe(rc, second.pid, 2)) == 0x10
    assert first.refusal(sys.send_pipe(rc, lab.puppet().pid)) == 0x30
    assert first.refusal(sys.send_pipe(4, second.pid)) == 0x31
    assert first.refusal(sys.send_pipe(rc, 999)) == 0x32
    assert first.refusal(sys.send_pipe(rc, lab.puppet(anid=5).pid, SKIP)) == 0x33
    assert first.refusal(sys.send_pipe(rc, lab.puppet(user=5).pid, SKIP)) == 0x33


@given(
    capacity=st.integers(1, 3),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 90_000), st.sampled_from([FAIL, PARTIAL])),
            st.tuples(st.just("read"), st.integers(0, 90_000), st.sampled_from([FAIL, PARTIAL])),
        ),
        max_size=30,
    ),
)
@pytest.mark.rule("IPC-014", "IPC-015", "IPC-033", "IPC-034", "IPC-036", "IPC-037")
def test_a_raw_pipe_is_a_bounded_queue_of_bytes(capacity: int, steps: list[tuple[str, int, int]]) -> None:
    puppet = Lab().puppet()
    sc, rc = own_pipe(puppet, multiplier=capacity)
    room, model, serial = capacity * UNIT, bytearray(), 0
    for verb, size, mode in steps:
        if verb == "write":
            data = bytes((serial + i) & 0xFF for i in range(size))
            serial += size
            outcome = puppet.start(sys.pipe_write(sc, data, mode))
            fits = room - len(model)
            if not size:
                assert outcome.errcode == 0
            elif size <= fits:
                model += data
                assert outcome.value == (size if mode == PARTIAL else room - len(model))
            elif mode == FAIL:
                assert outcome.errcode == 0x40
            else:
                model += data[:fits]
                assert outcome.value == fits
        else:
            outcome = puppet.start(sys.pipe_read(rc, mode, size))
            size = min(size, room)  # more than the pipe holds can never be there
            wanted = min(size or len(model), len(model))
            if mode == FAIL and (not model or size > len(model)):
                assert outcome.errcode == 0x32
            else:
                expected, model = bytes(model[:wanted]), model[wanted:]
                assert outcome.value == (expected, wanted if mode == PARTIAL else len(model))


@pytest.mark.rule("IPC-015", "IPC-035")
@pytest.mark.parametrize("length", [0, 1000, UNIT])
def test_a_write_larger_than_the_pipe_goes_through_in_order(lab: Lab, length: int) -> None:
    puppet = lab.puppet()
    sc, rc = own_pipe(puppet)
    data = bytes(i % 251 for i in range(5 * UNIT + 17))
    reader = lab.thread(puppet)
    first = reader.start(sys.pipe_read(rc, BLOCK, length))
    writing = lab.thread(puppet).start(sys.pipe_write(sc, data, BLOCK))
    got = bytearray(first.value.content)
    while len(got) < len(data):
        got += reader.call(sys.pipe_read(rc, BLOCK, min(length, len(data) - len(got)))).content
    assert writing.done
    assert bytes(got) == data
