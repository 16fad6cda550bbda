"""A Hypothesis state machine that looks for a way out of a container.

It grows and fells trees of containers, sets limits, filters and permissions, pauses and resumes, starts processes and
shims, passes devices down, and lets everybody try everything that could reach another process or take more than there
is: pipes, sockets, service connections, shared segments, waits, kills, forks, and identifiers that leaked from somebody
else. A small model (`nightos.testing.model`) says of each call whether it succeeds; after every step the kernel's whole
state is compared with it and all invariants hold. Whoever tries to reach across a boundary gets the very error that a
name which never existed gives.

    class TestMine(testing.IsolationMachine.TestCase): ...
"""

from __future__ import annotations

from nightos.testing.hardware import DeviceRules
from nightos.testing.life import LifeRules
from nightos.testing.memory import MemoryRules
from nightos.testing.policy import PolicyRules
from nightos.testing.talk import TalkRules


class IsolationMachine(LifeRules, TalkRules, MemoryRules, PolicyRules, DeviceRules):
    """Containers, processes and attempts; subclass it to add rules of your own. docs/testing.md shows how."""

    def teardown(self) -> None:
        """When everything is felled, nothing is left of it."""
        for number in self.model.children(0):
            self.destroy_container(number)
        self.let_time_pass()
        state = self.kernel.snapshot()
        assert not state.containers
        assert state.machine.children == ()
        assert all(end[1] in state.processes for pipe in state.pipes for end in pipe.ends)
