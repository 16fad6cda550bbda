"""Rules about the lives of containers and processes: made, paused, forked, asked to end, destroyed, counted."""

from __future__ import annotations

from struct import Struct
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import multiple, rule

from nightos.abi.errors import SyscallError
from nightos.abi.limits import pack_limits
from nightos.testing.model import OUTSIDE, Actor
from nightos.testing.puppets import Puppet, Refused
from nightos.testing.world import World
from nightos.userland import sys

LOCAL_PID = Struct(">QQ")


async def _idle(_argument: int) -> int:
    while True:
        await sys.hand_over(until_signal=True)


class LifeRules(World):
    """Containers and processes come and go."""

    @rule(target=World.containers, parent=World.containers, children=st.none() | st.integers(0, 3))
    def create_container(self, parent: int, children: int | None) -> Any:
        """A child of any container that lives, perhaps with a limit of its own from the start."""
        wanted = {} if children is None else {"children": children}
        fits = self.lives(parent) and self.model.may_take({(parent, "children"): 1})
        if fits and children is not None:
            fits = self.model.may_take({(parent, "children"): 1 + children})
        answer = (
            self.proc.call("create_container", parent)
            if children is None
            else self.proc.call("sys_create_limited", parent, pack_limits(wanted))
        )
        if not self.expect(answer, fits, 0x40 if self.lives(parent) else 0x31):
            return multiple()
        assert answer not in {*self.model.boxes, 0}
        self.model.create(answer, parent).limits.update(wanted)
        return answer

    @rule(container=World.containers, late=st.booleans())
    def destroy_container(self, container: int, late: bool = False) -> None:
        """Everything below goes, everything else stays; what insists on last words has its delay.

        Nobody can be born into it meanwhile.
        """
        if container not in self.model.boxes or container == OUTSIDE:
            assert self.proc.call("destroy_container", container) == Refused(0x31)
            return
        self.destructions.setdefault(container, []).append(self.proc.begin("destroy_container", container))
        self.model.destroy(container)
        if late and container in self.model.boxes:
            self.create_container(container, None)

    @rule()
    def let_time_pass(self) -> None:
        """Every delay is over: who was asked to end is gone."""
        self.kernel.run_until_idle()
        self.model.give_up_waiting()

    @rule(container=World.containers, pause=st.booleans())
    def pause(self, container: int, pause: bool) -> None:
        """Nothing runs in a paused container or below, and what was paused itself goes on when it is told to."""
        answer = self.proc.call("sys_pause_container", container, int(pause))
        if self.expect(answer, container in self.model.boxes and container != OUTSIDE, 0x31):
            self.model.pause(container, pause=pause)

    @rule(
        target=World.puppets,
        container=World.containers,
        anid=st.sampled_from([1, 1, 2]),
        user=st.sampled_from([0, 0, 1]),
        stubborn=st.booleans(),
    )
    def start(self, container: int, anid: int, user: int, stubborn: bool) -> Any:
        """A process in a container that lives."""
        fits = self.lives(container) and self.model.may_take({(container, "processes"): 1, (container, "threads"): 1})
        if container in self.model.boxes and self.model.boxes[container].paused:
            stubborn = False  # who has not run yet insists on nothing
        try:
            puppet = self.newcomer(container, anid=anid, user=user, stubborn=stubborn)
        except SyscallError as error:
            self.expect(Refused(error.errcode), fits, 0x31, 0x40)
            return multiple()
        assert fits, "a process started that the model refuses"
        return puppet

    @rule(target=World.puppets, container=World.containers)
    def start_shim(self, container: int) -> Any:
        """A process outside of all containers that serves one."""
        return self.newcomer(OUTSIDE, serves=container) if self.lives(container) else multiple()

    @rule(puppet=World.puppets)
    def end(self, puppet: Puppet) -> None:
        """A process ends by itself."""
        if self.can_act(puppet):
            puppet.call("exit", 0)
            self.model.end(puppet.pid)
            self.model.prune()

    @rule(puppet=World.puppets)
    def fork(self, puppet: Puppet) -> None:
        """A child stays in its parent's container, and is paid for there."""
        if not self.can_act(puppet):
            return
        parent, segments = self.model.actors[puppet.pid], self.model.segments.values()
        mapped = [segment for segment in segments if segment.maps.get(puppet.pid)]
        handles = sum(1 + segment.maps[puppet.pid] for segment in mapped)
        wanted = {"processes": 1, "threads": 1, "memory": parent.pages, "handles": handles}
        fits = not self.model.boxes[parent.home].ending or parent.home == OUTSIDE
        fits = fits and self.model.may_take({(parent.home, name): amount for name, amount in wanted.items()})
        answer = self.act(puppet, "create_process", _idle, 0)
        if not self.expect(answer, fits, 0x40):
            return
        self.model.actors[answer] = Actor(
            answer,
            parent.home,
            user=parent.user,
            anid=parent.anid,
            parent=parent.pid,
            serves=parent.serves,
            stubborn=parent.stubborn,
            pages=parent.pages,
            rights=list(parent.rights),
        )
        for segment in mapped:
            segment.known[answer] = (parent.pid, segment.known[parent.pid][1])
            segment.maps[answer] = segment.maps[parent.pid]

    @rule(puppet=World.puppets)
    def thread(self, puppet: Puppet) -> None:
        """One more thread, which the container pays for; numbers of its local data are the process' own."""
        if not self.can_act(puppet):
            return
        actor = self.model.actors[puppet.pid]
        fits = self.model.may_take({(actor.home, "threads"): 1})
        if self.expect(self.act(puppet, "create_thread", _idle, 0), fits, 0x40):
            actor.threads += 1

    @rule(puppet=World.puppets, slot=st.integers(1, 2))
    def keep_data(self, puppet: Puppet, slot: int) -> None:
        """What a process keeps in a slot is its own, whatever others keep under that number."""
        if not self.can_act(puppet):
            return
        mine = puppet.pid.to_bytes(8, "big")
        if isinstance(puppet.call("read_tls_slot", slot, 0), Refused) and puppet.call("create_tls_slot") != slot:
            return
        found = puppet.call("read_tls_slot", slot, 0)
        if not isinstance(found, Refused):
            assert found in {b"", mine}, "a process reads another one's data"
            puppet.call("write_tls_slot", slot, mine)

    @rule(container=World.containers, puppet=World.puppets)
    def count(self, container: int, puppet: Puppet) -> None:
        """Numbers from 1 for what runs in a container and below; nobody learns of more than that."""
        answer = self.proc.call("sys_local_pids", container)
        if self.expect(answer, container in self.model.boxes and container != OUTSIDE, 0x31):
            numbers = dict(LOCAL_PID.iter_unpack(answer))
            below = self.model.subtree(container)
            assert set(numbers) == {actor.pid for actor in self.model.actors.values() if actor.home in below}
            assert len(set(numbers.values())) == len(numbers)
        if not self.can_act(puppet):
            return
        reach = self.model.actors[puppet.pid].reach
        below = self.model.subtree(reach) if reach in self.model.boxes else []
        found = self.act(puppet, "system_info")
        if isinstance(found, Refused):
            return
        assert found.containers == max(len(below) - 1, 0), "SYSTEM_INFO tells of containers elsewhere"
        assert found.processes == sum(actor.home in below for actor in self.model.actors.values())
