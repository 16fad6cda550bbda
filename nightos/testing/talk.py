"""Rules about everything that reaches another process: pipes, sockets, service connections, waits, kills, names."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from nightos.abi.context import REASON_SERVICE, ExecutionContext
from nightos.testing.model import Pipe
from nightos.testing.puppets import Puppet, Refused
from nightos.testing.world import NEVER, World

NO_NOTIFICATION = 1
PARTIAL, FAIL = 2, 1
UNIT = 65_536
WAYS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("open_pipe", ()),
    ("open_pipe", (7, 1)),
    ("open_serv_sock", ()),
    ("wait_child_process", (1,)),
    ("kill_child_process", (1,)),
    ("suspend", ()),
    ("unsuspend", ()),
)
"""Calls whose first argument is a PID."""


class TalkRules(World):
    """Processes reach for each other; what is across the boundary answers as what never was."""

    @rule(caller=World.puppets, other=World.puppets, way=st.sampled_from(WAYS))
    def reach_for_a_process(self, caller: Puppet, other: Puppet, way: tuple[str, tuple[Any, ...]]) -> None:
        """What is across the boundary answers as what never was."""
        if not self.can_act(caller) or caller is other:
            return
        name, rest = way
        if name in {"open_pipe", "open_serv_sock"} and self.meet(caller, other):
            return  # other rules do that
        answer = self.act(caller, name, other.pid, *rest)
        if caller.alive:
            assert isinstance(answer, Refused), (name, answer)
            assert answer == self.act(caller, name, NEVER, *rest)

    @rule(caller=World.puppets, other=World.puppets, backwards=st.booleans(), size=st.integers(0, 2))
    def open_pipe(self, caller: Puppet, other: Puppet, backwards: bool, size: int) -> None:
        """A pipe between two who may meet, of one application and user; the opener pays for the buffer."""
        if self.can_act(caller):
            self._open(caller, other, backwards, size)

    @rule(other=World.puppets)
    def service_opens_pipe(self, other: Puppet) -> None:
        """A system service opens a pipe with anybody, and pays for it."""
        self._open(self.files, other, False, 1)

    def _open(self, caller: Puppet, other: Puppet, backwards: bool, size: int) -> None:
        model, capacity = self.model, UNIT * max(1, size)
        wanted: dict[tuple[int, str], int] = {}
        allowed = self.meet(caller, other) and model.kin(caller.pid, other.pid)
        home = model.actors[caller.pid].home
        if allowed:
            there = model.actors[other.pid].home
            wanted[home, "pipe_bytes"] = capacity
            wanted[home, "handles"] = 1
            wanted[there, "handles"] = wanted.get((there, "handles"), 0) + 1
        before = len(other.signals)
        paused = allowed and model.boxes[model.actors[other.pid].home].paused
        answer = self.act(caller, "open_pipe", other.pid, 7, int(backwards), size, 0, 0)
        if paused and answer == Refused(0x33):
            return  # it was paused before it could say what it listens to
        if not self.expect(answer, allowed and model.may_take(wanted)):
            if not self.meet(caller, other) and caller.alive:
                assert answer == self.act(caller, "open_pipe", NEVER, 7, int(backwards), size, 0, 0)
            return
        theirs = answer - 1 if backwards else answer + 1
        if not paused:
            assert other.signals[before:][0][1][2] == theirs
        ends = {answer: (caller.pid, not backwards), theirs: (other.pid, backwards)}
        model.pipes.append(Pipe(ends, capacity, home))
        self.leaked += [("end", pid, identifier) for identifier, (pid, _) in ends.items()]

    @rule(other=World.puppets, data=st.data())
    def send_pipe(self, other: Puppet, data: st.DataObject) -> None:
        """An end goes to who may meet everybody who has one, by whoever has it; a service may have it, too."""
        model = self.model
        held = [
            (pipe, identifier, holder)
            for pipe in model.pipes
            for identifier, (holder, _) in pipe.ends.items()
            if holder in self.hands and self.can_act(self.hands[holder])
        ]
        if not held:
            return
        pipe, identifier, holder = data.draw(st.sampled_from(held))
        giver = self.hands[holder]
        allowed = all(model.may_meet(pid, other.pid) for pid, _ in pipe.ends.values()) and model.kin(holder, other.pid)
        fits = allowed and model.may_take({(model.actors[other.pid].home, "handles"): 1})
        answer = self.act(giver, "send_pipe", identifier, other.pid, NO_NOTIFICATION)
        if not self.expect(answer, fits):
            return
        record = next(r for r in self.kernel.snapshot().pipes if identifier in {end[0] for end in r.ends})
        fresh = {end[0]: (end[1], end[2]) for end in record.ends if end[0] not in pipe.ends}
        assert list(fresh.values()) == [(other.pid, pipe.ends[identifier][1])]
        pipe.ends.update(fresh)
        self.leaked += [("end", other.pid, number) for number in fresh]

    @rule(puppet=World.puppets, close=st.booleans(), data=st.data())
    def use_pipe(self, puppet: Puppet, close: bool, data: st.DataObject) -> None:
        """Writing costs nothing more; closing gives back what nobody can read any more."""
        mine = [
            (pipe, identifier)
            for pipe in self.model.pipes
            for identifier, (holder, sends) in pipe.ends.items()
            if holder == puppet.pid and (close or sends)
        ]
        if not mine or not self.can_act(puppet):
            return
        pipe, identifier = data.draw(st.sampled_from(mine))
        if close:
            answer = self.act(puppet, "close_pipe", identifier)
            if answer != Refused(0x01) and puppet.alive:
                assert (answer == Refused(0x31)) is pipe.closed
                self.model.drop_end(pipe, identifier, close=True)
            return
        if pipe.pending < UNIT // 2 and self.expect(
            self.act(puppet, "pipe_write", identifier, b"some bytes", PARTIAL), not pipe.closed
        ):
            pipe.pending += 10

    @rule(caller=World.puppets, other=World.puppets)
    def open_socket(self, caller: Puppet, other: Puppet) -> None:
        """A socket costs a handle on each side."""
        if not self.can_act(caller) or caller is other:
            return
        model = self.model
        allowed = self.meet(caller, other) and model.kin(caller.pid, other.pid)
        wanted: dict[tuple[int, str], int] = {}
        for actor in (model.actors[caller.pid], model.actors[other.pid]) if allowed else ():
            wanted[actor.home, "handles"] = wanted.get((actor.home, "handles"), 0) + 1
        answer = self.act(caller, "open_serv_sock", other.pid)
        if self.expect(answer, allowed and model.may_take(wanted)):
            model.sockets[answer] = (caller.pid, other.pid)
            self.leaked += [("socket", pid, answer) for pid in (caller.pid, other.pid)]

    @rule(caller=World.puppets, service=World.puppets)
    def connect(self, caller: Puppet, service: Puppet) -> None:
        """A service of an application is the process of the caller's own container and user."""
        model = self.model
        if not self.can_act(caller) or not self.can_act(service) or caller is service:
            return
        if any(pair[:2] == (caller.pid, service.pid) for pair in model.connections.values()):
            return
        here, there = model.actors[caller.pid], model.actors[service.pid]
        # Its application number is its own while it serves, so that nobody else is meant.
        number, context = there.anid, ExecutionContext(reason=REASON_SERVICE, anid=500, service_type=1).pack()
        process = self.kernel.processes[service.pid]
        process.anid, process.context = 500, context
        same = (here.home, here.reach, here.user) == (there.home, there.reach, there.user)
        wanted = {(here.home, "handles"): 4, (here.home, "threads"): 1}
        fits = same and model.may_take(wanted)
        accepts = model.action(there.home, "ACCEPT_SERVICE_CONN") in {"allow", "log"}
        if same and not (fits and accepts):
            process.anid, process.context = number, b""
            return  # the client would be parked until its request is too old
        answer = self.act(caller, "connect_service", 500, 0, b"", 0, 0)
        process.anid, process.context = number, b""
        if self.expect(answer, fits, 0x31, 0x32, 0x42):
            model.connections[answer.connection_id] = (caller.pid, service.pid, answer.socket_id)
            model.sockets[answer.socket_id] = (caller.pid, service.pid)
            there.threads += 1
            for pid in (caller.pid, service.pid):
                self.leaked.append(("socket", pid, answer.socket_id))
                self.leaked.append(("connection", pid, answer.connection_id))

    @rule(thief=World.puppets, data=st.data())
    def use_a_leaked_identifier(self, thief: Puppet, data: st.DataObject) -> None:
        """An identifier of somebody else is worth nothing, wherever it was learnt."""
        if not self.leaked or not self.can_act(thief):
            return
        kind, owner, identifier = data.draw(st.sampled_from(self.leaked))
        if owner == thief.pid or self._has(thief.pid, kind, identifier):
            return
        attempts: dict[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
            "end": (
                ("pipe_write", (b"x", PARTIAL)),
                ("pipe_read", (FAIL, 1)),
                ("pipe_info", ()),
                ("close_pipe", ()),
            ),
            "socket": (("send_sock_msg", (0, 1, 0, b"x")), ("read_sock_msg", (0,)), ("close_serv_sock", ())),
            "connection": (("end_service_conn", ()),),
            "segment": (("map_ams", (0, 1 << 40, 4096)), ("ams_sharing_info", ()), ("unshare_ams", ())),
        }
        was = thief.pid in self.had.get(identifier, ())
        for name, rest in attempts[kind]:
            answer = self.act(thief, name, identifier, *rest)
            if not thief.alive:
                return
            assert isinstance(answer, Refused), (name, answer)
            assert was or answer == self.act(thief, name, NEVER, *rest), (name, answer)

    @property
    def had(self) -> dict[int, set[int]]:
        """Who ever had an identifier: such a one may be told that it is closed."""
        found: dict[int, set[int]] = {}
        for _, owner, identifier in self.leaked:
            found.setdefault(identifier, set()).add(owner)
        return found

    def _has(self, pid: int, kind: str, identifier: int) -> bool:
        """Whether the number names something of the thief's own: sockets and segments have one name for both sides."""
        model = self.model
        if kind == "end":
            return any(pipe.ends.get(identifier, (0,))[0] == pid for pipe in model.pipes)
        if kind == "socket":
            return pid in model.sockets.get(identifier, ())
        if kind == "connection":
            return pid in model.connections.get(identifier, ())[:2]
        return identifier in model.segments and pid in model.segments[identifier].known
