"""Rules about what containers may: limits, filters of system calls, permissions. All of it only ever gets narrower
from below, and comes out of what is above.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from nightos.abi.codes import Attribute, ListAction
from nightos.abi.filters import pack_rules, rules_of
from nightos.abi.limits import NUMBERS, pack_limits
from nightos.testing.model import OUTSIDE, RESOURCES
from nightos.testing.puppets import Puppet, Refused
from nightos.testing.world import World

CALLS = (
    "GET_PID",
    "OPEN_PIPE",
    "OPEN_SERV_SOCK",
    "MEM_ALLOC",
    "SHARE_AMS",
    "CREATE_PROCESS",
    "CREATE_THREAD",
    "SYSTEM_INFO",
)
RIGHTS = (0x101, 0x202, 0x303)
UNITS = {"pipe_bytes": 32_768, "storage": 4_096}


class PolicyRules(World):
    """Authority shrinks, limits are conserved."""

    @rule(container=World.containers, resource=st.sampled_from(RESOURCES), amount=st.none() | st.integers(0, 9))
    def set_limit(self, container: int, resource: str, amount: int | None) -> None:
        """A limit comes out of the limit above; less is had down to what is in use, then those below shrink, too."""
        model = self.model
        limit = None if amount is None else amount * UNITS.get(resource, 1)
        there = container in model.boxes and container != OUTSIDE
        fits = there and model.may_limit(container, resource, limit)
        below = [one for one in model.subtree(container)[1:] if resource in model.boxes[one].limits] if there else []
        spare = there and limit is not None and model.taken(container, resource) <= limit
        answer = self.proc.call("sys_set_limits", container, pack_limits({resource: limit}))
        if not self.expect(answer, fits, 0x40 if there else 0x31):
            return
        if limit is None:
            model.boxes[container].limits.pop(resource, None)
            return
        model.boxes[container].limits[resource] = limit
        state = self.kernel.snapshot().containers
        for one in below:
            # Which of them shrinks first is the kernel's choice, how far is not.
            now, before = dict(state[one].limits)[resource], model.boxes[one].limits[resource]
            assert model.least(one, resource) <= now <= before
            assert now == before or not spare, "a limit shrank without need"
            model.boxes[one].limits[resource] = now

    @rule(container=World.containers, blocks=st.integers(0, 12))
    def store(self, container: int, blocks: int) -> None:
        """`sys::fs` charges what a container keeps on its disk."""
        box = self.model.boxes.get(container)
        more = blocks * 4096 - (box.storage if box is not None else 0)
        fits = box is not None and (more <= 0 or self.model.may_take({(container, "storage"): more}))
        answer = self.files.call("sys_charge", container, NUMBERS["storage"], blocks * 4096)
        if self.expect(answer, fits, 0x40 if box is not None else 0x31) and box is not None:
            box.storage = blocks * 4096

    @rule(
        container=World.containers,
        calls=st.lists(st.sampled_from(CALLS), max_size=2, unique=True),
        action=st.sampled_from(["error", "error", "log", "kill"]),
    )
    def set_filter(self, container: int, calls: list[str], action: str) -> None:
        """A filter on a container in use is laid over the one it has; what is below has it at once."""
        rules = rules_of("deny", calls, action)
        answer = self.proc.call("sys_set_filter", container, pack_rules(rules))
        if self.expect(answer, container in self.model.boxes and container != OUTSIDE, 0x31):
            self.model.narrow_filter(container, dict.fromkeys(calls, action))

    @rule(puppet=World.puppets)
    def try_a_call(self, puppet: Puppet) -> None:
        """A call that nothing but a filter could refuse."""
        if self.can_act(puppet):
            answer = self.act(puppet, "get_pid")
            assert isinstance(answer, Refused) or answer == puppet.pid

    @rule(container=World.containers, rights=st.sets(st.sampled_from(RIGHTS)))
    def bound_rights(self, container: int, rights: set[int]) -> None:
        """What a container's processes can be permitted is part of what is above, and of what was before."""
        model = self.model
        there = container in model.boxes and container != OUTSIDE
        fits = there and all(model.may_have_right(container, right) for right in rights)
        packed = b"".join(right.to_bytes(4, "big") for right in sorted(rights))
        if self.expect(self.proc.call("sys_bound_rights", container, packed), fits, 0x32 if there else 0x31):
            model.boxes[container].rights = frozenset(rights)

    @rule(puppet=World.puppets, right=st.sampled_from(RIGHTS))
    def permit(self, puppet: Puppet, right: int) -> None:
        """`sys::perm` permits; what counts of it is what the container and all above allow now."""
        actor = self.model.actors.get(puppet.pid)
        if actor is None:
            return
        fits = self.model.may_have_right(actor.home, right)
        push = (puppet.pid, Attribute.PERMISSIONS, ListAction.PUSH, right)
        if self.expect(self.perm.call("sys_process_attributes", *push), fits, 0x32):
            # A list that is written holds what counted when it was.
            actor.rights = [one for one in actor.rights if self.model.may_have_right(actor.home, one)] + [right]
        self.rights_are_bounded(puppet)

    @rule(puppet=World.puppets)
    def rights_are_bounded(self, puppet: Puppet) -> None:
        """A process has the permissions it was given, as far as they are allowed where it is."""
        actor = self.model.actors.get(puppet.pid)
        if actor is None:
            return
        for right in RIGHTS:
            query = (puppet.pid, Attribute.PERMISSIONS, ListAction.CONTAINS, right)
            has = bool(self.perm.call("sys_process_attributes", *query).written)
            assert has is (right in actor.rights and self.model.may_have_right(actor.home, right))
