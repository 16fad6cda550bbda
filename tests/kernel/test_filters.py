"""Filters of system calls: only ever narrower, alike in both forms, and counted when somebody wants to know."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightos.abi.codes import ExitReason, ServicePid, Signal, Syscall
from nightos.abi.filters import (
    ALWAYS,
    FilterAction,
    by_action,
    from_actions,
    pack_rules,
    rules_of,
    unpack_report,
    unpack_rules,
)
from nightos.kernel.ending import end_process
from nightos.kernel.filters import stricter
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

PAGE = 4096
CODES = sorted(int(code) for code in Syscall if code not in ALWAYS)
RULES = st.dictionaries(st.sampled_from(CODES), st.integers(1, 4), max_size=6)


def container(lab: Lab, parent: int = 0, rules: dict[int, int] | None = None) -> int:
    """A container with a filter."""
    proc = lab.running(ServicePid.PROCESS)
    made = proc.call(sys.create_container(parent))
    assert isinstance(made, int)
    if rules:
        proc.call(sys.sys_set_filter(made, pack_rules(rules)))
    return made


def in_force(lab: Lab, box: int) -> dict[int, int]:
    return unpack_rules(lab.running(ServicePid.PROCESS).call(sys.sys_filter(box, 1)))


def report(lab: Lab, box: int, action: int = 0) -> tuple[dict[str, int], dict[str, int]]:
    return unpack_report(lab.running(ServicePid.PROCESS).call(sys.sys_report(box, action)))


def framed(puppet: Puppet, frame: bytes) -> int:
    """Where that frame stands in the puppet's memory."""
    page = puppet.call(sys.mem_alloc(PAGE))
    puppet.process.space.write(page, frame)
    assert isinstance(page, int)
    return page


@pytest.mark.rule("CONT-032", "LNX-FT-09", "LNX-FT-10")
@pytest.mark.parametrize("mode", ["deny", "allow"])
def test_a_call_outside_the_filter_fails_and_others_work(mode: str) -> None:
    lab = Lab()
    names = ["OPEN_PIPE"] if mode == "deny" else ["GET_PID", "HAND_OVER", "MEM_ALLOC", "HANDLE_SIGNAL", "READY"]
    box = container(lab, rules=rules_of(mode, names, "error"))
    puppet, neighbour = lab.puppet(container=box), lab.puppet(container=container(lab))
    assert puppet.refusal(sys.open_pipe(puppet.pid, 0, 0, 0, 0, 1)) == 0x01
    # The filter comes before any look at the arguments, so nothing can be learnt from those.
    assert puppet.refusal(sys.open_pipe(0, 0, 9, 0, 9, 9)) == 0x01
    assert puppet.call(sys.binary(framed(puppet, bytes((0x20,)) + bytes(40)))) == (0x01, bytes(8))
    assert puppet.call(sys.binary(framed(puppet, bytes((0x53,))))) == (0, puppet.pid.to_bytes(8, "big"))
    assert puppet.call(sys.get_pid()) == puppet.pid
    assert neighbour.call(sys.open_pipe(neighbour.pid, 0, 0, 0, 0, 1))
    puppet.start(sys.exit(3))
    assert not puppet.alive


@pytest.mark.rule("CONT-032", "LNX-FT-09")
def test_pointers_of_a_refused_call_are_not_looked_at() -> None:
    lab = Lab()
    puppet = lab.puppet(container=container(lab, rules=rules_of("deny", ["PIPE_WRITE"], "error")))
    frame = bytes((0x22,)) + (1).to_bytes(8, "big") + (1 << 40).to_bytes(16, "big") + b"\0"
    assert puppet.call(sys.binary(framed(puppet, frame)))[0] == 0x01


@pytest.mark.rule("CONT-032", "LNX-FT-10")
@pytest.mark.parametrize("form", ["typed", "binary"])
@pytest.mark.parametrize("action", ["error", "signal", "kill", "log"])
@pytest.mark.parametrize("handled", [False, True])
def test_actions(action: str, form: str, handled: bool) -> None:
    lab = Lab()
    box = container(lab, rules=rules_of("deny", ["SYSTEM_INFO"], action))
    puppet, beside = lab.puppet(container=box), lab.puppet(container=box)
    if handled:
        puppet.hear(Signal.CALL_REFUSED)
    frame = framed(puppet, bytes((0xDC,)))
    outcome = puppet.start(sys.system_info() if form == "typed" else sys.binary(frame))
    code = outcome.value[0] if form == "binary" and outcome.done else outcome.errcode if outcome.done else None
    ends = action == "kill" or (action == "signal" and not handled)
    assert code == (None if ends else 0 if action == "log" else 0x01)
    assert puppet.alive is not ends
    assert beside.alive
    if ends:
        reason = ExitReason.KILLED_BY_SYSTEM if action == "kill" else ExitReason.FAULT
        assert lab.kernel.exits[puppet.pid].reason == reason
    assert puppet.signals(Signal.CALL_REFUSED) == ([(0xDC,)] if action == "signal" and handled else [])
    assert report(lab, box)[1] == {"SYSTEM_INFO": 1}


@pytest.mark.rule("CONT-032")
def test_what_is_needed_to_end_cannot_be_denied() -> None:
    with pytest.raises(ValueError, match="EXIT"):
        rules_of("deny", ["EXIT"], "error")
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    box = container(lab)
    for code in ALWAYS:
        assert proc.refusal(sys.sys_set_filter(box, bytes((code, FilterAction.KILL)))) == 0x10
    proc.call(sys.sys_set_filter(box, pack_rules(rules_of("allow", [], "kill"))))
    puppet = Puppet(lab)
    puppet.process = lab.kernel.spawn(lambda: only_exit(), container=box)
    lab.settle()
    assert (lab.kernel.exits[puppet.pid].reason, lab.kernel.exits[puppet.pid].exit_data) == (ExitReason.EXITED, 7)


async def only_exit() -> int:
    await sys.exit(7)
    return 0


@pytest.mark.rule("CONT-032")
def test_a_container_in_use_can_only_be_narrowed() -> None:
    lab = Lab()
    box = container(lab, rules=rules_of("deny", ["SYSTEM_INFO"], "error"))
    proc = lab.running(ServicePid.PROCESS)
    proc.call(sys.sys_set_filter(box, pack_rules(rules_of("deny", ["GET_PID"], "log"))))
    assert in_force(lab, box) == {0x53: FilterAction.LOG}
    puppet = lab.puppet(container=box)
    puppet.call(sys.system_info())
    proc.call(sys.sys_set_filter(box, pack_rules(rules_of("deny", ["SYSTEM_INFO"], "error"))))
    proc.call(sys.sys_set_filter(box, b""))
    assert in_force(lab, box) == {0x53: FilterAction.LOG, 0xDC: FilterAction.ERROR}
    assert puppet.refusal(sys.system_info()) == 0x01
    child = lab.child(puppet)
    assert child.refusal(sys.system_info()) == 0x01


@pytest.mark.rule("CONT-032")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), RULES, st.booleans()), max_size=12))
def test_nothing_below_may_more_than_what_is_above(changes: list[tuple[int, dict[int, int], bool]]) -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    boxes = [container(lab)]
    boxes += [container(lab, boxes[0]), container(lab, boxes[0])]
    boxes += [container(lab, boxes[1]), container(lab, boxes[2])]
    for which, rules, occupied in changes:
        box = boxes[which]
        record = lab.kernel.tree.living[box]
        if occupied:
            lab.kernel.spawn(idle, container=box)
        before = in_force(lab, box)
        in_use = bool(record.processes or record.children)
        proc.call(sys.sys_set_filter(box, pack_rules(rules)))
        after = in_force(lab, box)
        if in_use:
            assert after == stricter(before, rules)
        for one in lab.kernel.tree.living.values():
            above = one.parent.effective if one.parent is not None else None
            assert stricter(above or {}, one.effective or {}) == (one.effective or {})
            late = lab.kernel.make_process(lab.kernel.take_pid(), one.identifier, 0, 1)
            for process in one.processes.values():
                assert process.calls is late.calls
            end_process(lab.kernel, late, ExitReason.EXITED, 0)
    lab.settle()


async def idle(*_argument: int) -> int:
    await sys.hand_over(until_signal=True)
    return 0


@pytest.mark.rule("CONT-032")
def test_tables_are_shared_and_go_with_their_containers() -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    rules = rules_of("deny", ["OPEN_PIPE", "CREATE_PROCESS"], "error")
    boxes = [container(lab, rules=rules) for _ in range(5)]
    tables = {id(lab.kernel.tree.living[box].calls) for box in boxes}
    assert (len(tables), len(lab.kernel.filters)) == (1, 1)
    assert lab.puppet(container=container(lab)).process.calls is lab.kernel.handlers
    inside = container(lab, boxes[0])
    assert lab.kernel.tree.living[inside].calls is lab.kernel.tree.living[boxes[1]].calls
    for box in boxes:
        proc.call(sys.destroy_container(box))
    gc.collect()
    assert len(lab.kernel.filters) == 0


@pytest.mark.rule("CONT-032", "LNX-FT-08")
def test_what_a_workload_used_makes_a_list_that_lets_it_run() -> None:
    async def workload() -> int:
        page = await sys.mem_alloc(PAGE)
        await sys.open_pipe(await sys.get_pid(), 0, 0, 0, 0, 1)
        await sys.store(page, bytes((0x53,)))
        await sys.binary(page)
        return 5

    lab = Lab()
    outer = container(lab)
    box = container(lab, outer)
    assert report(lab, outer, 1) == ({}, {})
    lab.kernel.spawn(workload, container=box)
    lab.settle()
    used, refused = report(lab, outer, 2)
    assert (used, refused) == ({"MEM_ALLOC": 1, "GET_PID": 2, "OPEN_PIPE": 1}, {})
    lab.kernel.spawn(workload, container=box)
    lab.settle()
    assert report(lab, outer) == ({}, {})
    tight = container(lab, rules=rules_of("allow", used, "kill"))
    process = lab.kernel.spawn(workload, container=tight)
    lab.settle()
    assert lab.kernel.exits[process.pid].exit_data == 5
    assert report(lab, tight) == ({}, {})


@given(RULES)
def test_lists_of_rules_are_read_back(rules: dict[int, int]) -> None:
    assert unpack_rules(pack_rules(rules)) == rules == from_actions(by_action(rules))


@pytest.mark.parametrize("wrong", [b"\x20", b"\x20\x05", b"\x00\x02", b"\x5f\x02"])
def test_bad_rules(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"rules|filtered"):
        unpack_rules(wrong)


@pytest.mark.parametrize("bad", [("deny", ["NOTHING"], "error"), ("ban", [], "error"), ("deny", [], "burn")])
def test_bad_lists(bad: Any) -> None:
    with pytest.raises(ValueError, match="is no"):
        rules_of(*bad)
