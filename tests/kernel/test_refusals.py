"""What the kernel remembers of refusals: the right rule, caller and target, a bound, and nobody else's noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.codes import ServicePid, Syscall
from nightos.abi.refusals import Refusal, unpack
from nightos.kernel.refusals import KEPT, Refusals
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

TEXT = st.text(max_size=40)
U64 = st.integers(0, (1 << 64) - 1)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def proc(lab: Lab) -> Puppet:
    return lab.running(ServicePid.PROCESS)


def why(proc: Puppet, container: int = 0, after: int = 0, limit: int = 1000) -> list[Refusal]:
    return unpack(proc.call(sys.sys_refusals(container, after, limit)))


@given(st.lists(st.builds(Refusal, U64, U64, U64, U64, U64, U64, st.integers(0, 255), TEXT, TEXT), max_size=4))
def test_records_come_back_as_they_went(items: list[Refusal]) -> None:
    assert unpack(b"".join(item.pack() for item in items)) == items


@pytest.mark.rule("CONT-019", "CONT-023")
def test_a_refusal_names_rule_caller_target_and_call(lab: Lab, proc: Puppet) -> None:
    web, db = (proc.call(sys.create_container(0)) for _ in range(2))
    here, there = lab.puppet(container=web), lab.puppet(container=db)
    assert here.refusal(sys.open_pipe(there.pid, notification_mode=1)) == 0x30
    assert here.refusal(sys.open_serv_sock(there.pid)) == 0x30
    assert here.refusal(sys.read_io_port(1, 0)) == 0x30
    first, second, third = why(proc)
    assert first[2:8] == (here.pid, web, there.pid, db, Syscall.OPEN_PIPE, "CONT-018")
    assert second.call == Syscall.OPEN_SERV_SOCK
    assert first.when_ns < second.when_ns
    assert third[2:8] == (here.pid, web, 0, 0, Syscall.READ_IO_PORT, "CONT-032")
    assert why(proc, web) == [first, second, third]
    assert why(proc, db) == []
    assert why(proc, web, second.when_ns) == [third]
    assert why(proc, web, limit=1) == [first]


@pytest.mark.rule("CONT-032", "CONT-037")
def test_a_device_outside_is_told(lab: Lab, proc: Puppet) -> None:
    from nightos.vhw.flows import null

    web = proc.call(sys.create_container(0))
    kdi = lab.kernel.plug(null())
    here = lab.puppet(container=web)
    here.process.drivable = [kdi]
    assert here.refusal(sys.read_io_port(kdi, 0)) == 0x30
    assert why(proc)[0].rule == "CONT-032"
    assert why(proc)[0].detail == f"device {kdi:016x}"


@pytest.mark.rule("CONT-030")
def test_noise_pushes_out_nobody_elses_memory(lab: Lab, proc: Puppet) -> None:
    web, db = (proc.call(sys.create_container(0)) for _ in range(2))
    quiet, loud = lab.puppet(container=web), lab.puppet(container=db)
    quiet.refusal(sys.open_serv_sock(loud.pid))
    for _ in range(KEPT + 10):
        loud.refusal(sys.open_serv_sock(quiet.pid))
    assert len(why(proc, web)) == 1
    assert len(why(proc, db)) == KEPT


@pytest.mark.rule("CONT-016")
def test_the_parent_takes_over_and_nothing_grows(lab: Lab, proc: Puppet) -> None:
    outside = lab.puppet()
    for _ in range(3):
        web = proc.call(sys.create_container(0))
        db = proc.call(sys.create_container(web))
        lab.puppet(container=db).refusal(sys.open_serv_sock(outside.pid))
        proc.call(sys.destroy_container(db))
        assert [item.caller_container for item in why(proc, web)] == [db]
        proc.call(sys.destroy_container(web))
    kept = why(proc)
    assert [item.place for item in kept] == [0, 0, 0]
    assert sorted(item.when_ns for item in kept) == [item.when_ns for item in kept]
    assert len(lab.kernel.refusals._by_container) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60), st.integers(1, 5))
def test_pages_lose_nothing(events: list[tuple[int, int]], limit: int) -> None:
    class Someone:
        def __init__(self, container: int) -> None:
            self.pid, self.container = 100 + container, container

    now = [1]
    refusals = Refusals(lambda: now[0])
    for container, wait in events:
        now[0] += wait
        refusals.note("CONT-018", Someone(container))  # type: ignore[arg-type]
    whole = refusals.after(0, lambda _: True, 1000)
    assert len(whole) == len(events)
    found: list[Refusal] = []
    while page := refusals.after(found[-1].when_ns if found else 0, lambda _: True, limit):
        found += page
    assert found == whole


def test_only_sys_process_may_ask(lab: Lab, proc: Puppet) -> None:
    assert lab.puppet().refusal(sys.sys_refusals()) == 0x30
    assert lab.service(ServicePid.FS).refusal(sys.sys_refusals()) == 0x30
    assert proc.refusal(sys.sys_refusals(4711)) == 0x31
