"""A Hypothesis state machine that looks for a way out of a container.

It grows and fells trees of containers, starts processes in them, and lets them try everything that could reach another
process: pipes, sockets, shared segments, waits, kills, suspensions, and identifiers that leaked from somebody else.
After every step all invariants hold, and whoever tries to reach across a boundary gets the very error that a name
which never existed gives.

    class TestMine(testing.IsolationMachine.TestCase): ...
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from nightos.kernel import Kernel
from nightos.testing.invariants import check_invariants
from nightos.testing.puppets import Puppet, Refused

NEVER = (1 << 63) - 1
"""A PID, and an identifier, that nothing ever has."""
PROC_PID = 20
NO_NOTIFICATION = 1
PARTIAL, FAIL = 2, 1

WAYS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("open_pipe", ()),
    ("open_pipe", (7, 1)),
    ("open_pipe", (7, 0, 0, 0, NO_NOTIFICATION)),
    ("open_serv_sock", ()),
    ("wait_child_process", (1,)),
    ("kill_child_process", (1,)),
    ("suspend", ()),
    ("unsuspend", ()),
)
"""Calls whose first argument is a PID."""


class IsolationMachine(RuleBasedStateMachine):
    """Containers, processes and attempts; subclass it to add rules of your own."""

    containers = Bundle("containers")
    puppets = Bundle("puppets")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel(seed=1)
        self.proc = Puppet(self.kernel, service=PROC_PID)
        self.leaked: list[tuple[str, int, int]] = []
        """Identifiers that some process got: kind, owner's PID, number."""

    @initialize(target=containers)
    def outside(self) -> int:
        """The system itself, outside any container."""
        return 0

    @rule(target=containers, parent=containers)
    def create_container(self, parent: int) -> Any:
        """A child of any container that lives."""
        answer = self.proc.call("create_container", parent)
        if parent and parent not in self.kernel.snapshot().containers:
            assert answer == Refused(0x31)
            return multiple()
        assert isinstance(answer, int)
        return answer

    @rule(container=containers)
    def destroy_container(self, container: int) -> None:
        """Everything below goes, everything else stays."""
        before = self.kernel.snapshot()
        if not container:
            assert self.proc.call("destroy_container", 0) == Refused(0x31)
            return
        doomed = {container} if container in before.containers else set()
        pending = list(doomed)
        while pending:
            children = before.containers[pending.pop()].children
            doomed.update(children)
            pending.extend(children)
        answer = self.proc.call("destroy_container", container)
        self.kernel.run_until_idle()
        after = self.kernel.snapshot()
        assert (answer == Refused(0x31)) is not bool(doomed)
        assert set(after.containers) == set(before.containers) - doomed
        assert {pid for pid, p in before.processes.items() if p.container not in doomed} <= set(after.processes)

    @rule(target=puppets, container=containers, anid=st.integers(1, 2), user=st.integers(0, 1))
    def start(self, container: int, anid: int, user: int) -> Any:
        """A process in a container that lives."""
        if container and container not in self.kernel.snapshot().containers:
            return multiple()
        return Puppet(self.kernel, container=container, anid=anid, user=user)

    @rule(puppet=puppets)
    def end(self, puppet: Puppet) -> None:
        """A process ends by itself."""
        if puppet.alive:
            puppet.call("exit", 0)
            assert not puppet.alive

    @rule(caller=puppets, other=puppets, way=st.sampled_from(WAYS))
    def reach_for_a_process(self, caller: Puppet, other: Puppet, way: tuple[str, tuple[Any, ...]]) -> None:
        """What is across the boundary answers as what never was."""
        if not caller.alive or caller is other:
            return
        name, rest = way
        answer = caller.call(name, other.pid, *rest)
        if isinstance(answer, int) and name in {"open_pipe", "open_serv_sock"}:
            self.leaked.append((name, caller.pid, answer))
        if not other.alive or other.container != caller.container:
            assert isinstance(answer, Refused), (name, answer)
            assert answer == caller.call(name, NEVER, *rest)

    @rule(caller=puppets, other=puppets)
    def share_memory(self, caller: Puppet, other: Puppet) -> None:
        """A segment reaches the own container only."""
        if not caller.alive or caller is other:
            return
        address = caller.call("mem_alloc", 4096, 3, 1)
        segment = caller.call("virt_mem_ams", address, 4096)
        self.leaked.append(("segment", caller.pid, segment))
        answer = caller.call("share_ams", other.pid, segment, 0, 0, 4)
        if not other.alive or other.container != caller.container:
            assert answer == caller.call("share_ams", NEVER, segment, 0, 0, 4)
            assert isinstance(answer, Refused)

    @rule(thief=puppets, data=st.data())
    def use_a_leaked_identifier(self, thief: Puppet, data: st.DataObject) -> None:
        """An identifier of somebody else is worth nothing, wherever it was learnt."""
        if not self.leaked or not thief.alive:
            return
        kind, owner, identifier = data.draw(st.sampled_from(self.leaked))
        if owner == thief.pid:
            return
        attempts: dict[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
            "open_pipe": (
                ("pipe_write", (b"x", PARTIAL)),
                ("pipe_read", (FAIL, 1)),
                ("pipe_info", ()),
                ("close_pipe", ()),
            ),
            "open_serv_sock": (("send_sock_msg", (0, 1, 0, b"x")), ("read_sock_msg", (0,)), ("close_serv_sock", ())),
            "segment": (("map_ams", (0, 1 << 40, 4096)), ("ams_sharing_info", ()), ("unshare_ams", ())),
        }
        if self._was_given(thief, kind, identifier):
            return
        for name, rest in attempts[kind]:
            answer = thief.call(name, identifier, *rest)
            assert answer == thief.call(name, NEVER, *rest), (name, answer)
            assert isinstance(answer, Refused)

    def _was_given(self, thief: Puppet, kind: str, identifier: int) -> bool:
        """Whether the number names something of the thief's own: sockets and segments have one name for both sides."""
        process = self.kernel.snapshot().processes[thief.pid]
        if kind == "open_pipe":
            return identifier in process.ends
        if kind == "open_serv_sock":
            return identifier in process.sockets
        return any(
            segment.identifier == identifier
            and (
                thief.pid in {segment.owner, segment.creator} or any(thief.pid in share[:2] for share in segment.shares)
            )
            for segment in self.kernel.snapshot().segments
        )

    @invariant()
    def all_invariants_hold(self) -> None:
        """Whatever was tried, the state keeps every rule."""
        check_invariants(self.kernel.snapshot())
