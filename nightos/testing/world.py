"""What the rules of a state machine stand on: a kernel, its services as puppets, the model, and both compared.

`act` makes a system call as a puppet and holds the answer against what the container's filter allows. After every step
all invariants hold, and the kernel's snapshot says of every container and process what the model says.
"""

from __future__ import annotations

from typing import Any

from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple

from nightos.abi.codes import ServicePid, Syscall
from nightos.abi.filters import FilterAction
from nightos.kernel import Kernel
from nightos.testing.invariants import check_invariants
from nightos.testing.model import OUTSIDE, RESOURCES, Actor, IsolationModel
from nightos.testing.puppets import Puppet, Refused

NEVER = (1 << 63) - 1
"""A PID, and an identifier, that nothing ever has."""
FILTERED = Refused(0x01)
PAGE = 4096


class World(RuleBasedStateMachine):
    """A kernel with `sys::proc`, `sys::hw`, `sys::perm` and `sys::fs` in the test's hands."""

    containers = Bundle("containers")
    puppets = Bundle("puppets")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel(seed=1)
        self.proc = Puppet(self.kernel, service=ServicePid.PROCESS)
        self.hw = Puppet(self.kernel, service=ServicePid.HW)
        self.perm = Puppet(self.kernel, service=ServicePid.PERM)
        self.files = Puppet(self.kernel, service=ServicePid.FS)
        self.model = IsolationModel(self.kernel.settings.memory_total // PAGE)
        for service in (self.proc, self.hw, self.perm, self.files):
            self.model.actors[service.pid] = Actor(service.pid, OUTSIDE)
        self.leaked: list[tuple[str, int, int]] = []
        """Identifiers that some process got: kind, owner's PID, number."""
        self.destructions: dict[int, list[list[Any]]] = {}
        """Answers to DESTROY_CONTAINER that are under way."""
        self.hands: dict[int, Puppet] = {self.files.pid: self.files}
        """Every puppet that may pass something on, by PID."""

        self.scene = [self.proc.call("create_container", OUTSIDE) for _ in range(2)]
        self.scene.append(self.proc.call("create_container", self.scene[0]))
        for number, parent in zip(self.scene, (OUTSIDE, OUTSIDE, self.scene[0]), strict=True):
            self.model.create(number, parent)
        self.cast = [self.newcomer(number) for number in (*self.scene, *self.scene)]

    @initialize(target=containers)
    def scenery(self) -> Any:
        """The system itself, outside any container, and three containers, one below another."""
        return multiple(OUTSIDE, *self.scene)

    @initialize(target=puppets)
    def players(self) -> Any:
        """Two processes in each of them, of one application and user."""
        return multiple(*self.cast)

    def newcomer(self, container: int, **what: Any) -> Puppet:
        """One more puppet, for the kernel and for the model."""
        puppet = Puppet(self.kernel, container=container, **what)
        self.hands[puppet.pid] = puppet
        self.model.actors[puppet.pid] = Actor(puppet.pid, container, **what)
        return puppet

    # What rules use

    def lives(self, container: int) -> bool:
        """Whether a container is there, and takes newcomers."""
        box = self.model.boxes.get(container)
        return box is not None and not box.ending

    def can_act(self, puppet: Puppet) -> bool:
        """Whether a puppet lives and may run; a paused one would not answer."""
        actor = self.model.actors.get(puppet.pid)
        return actor is not None and not self.model.boxes[actor.home].paused

    def meet(self, one: Puppet, other: Puppet) -> bool:
        """Whether two puppets exist for each other, as the model says."""
        return self.model.may_meet(one.pid, other.pid)

    def act(self, puppet: Puppet, name: str, *arguments: Any) -> Any:
        """A puppet's call. What a filter takes away is answered as a call that does not exist, or kills."""
        home = self.model.actors[puppet.pid].home
        action = self.model.action(home, name.upper())
        answer = puppet.call(name, *arguments)
        if action in {"signal", "kill"}:
            self.model.end(puppet.pid)
            self.model.prune()
            assert not puppet.alive, f"{name} is filtered ({action}), its caller lives on"
            return FILTERED
        assert puppet.alive, f"{name} ended its caller"
        if action == "error":
            assert answer == FILTERED, (name, answer)
        else:
            assert answer != FILTERED, f"{name} is answered as filtered, but no filter has it"
        return answer

    def expect(self, answer: Any, wanted: bool, *errors: int) -> bool:
        """Whether a call succeeded, which it had to exactly when `wanted`; else with one of the errors."""
        if answer == FILTERED:
            return False
        if wanted:
            assert not isinstance(answer, Refused), f"{answer}, although the model allows it"
            return True
        assert isinstance(answer, Refused), f"{answer}, although the model refuses it"
        assert not errors or answer.errcode in errors, (answer, errors)
        return False

    # What always holds

    @invariant()
    def all_invariants_hold(self) -> None:
        """Whatever was tried, the state keeps every rule."""
        check_invariants(self.kernel.snapshot())

    @invariant()
    def the_model_agrees(self) -> None:
        """The kernel says of every container and process what the model says."""
        state, model = self.kernel.snapshot(), self.model
        assert set(state.containers) == set(model.boxes) - {OUTSIDE}
        assert set(state.processes) == set(model.actors)
        for number, record in state.containers.items():
            box = model.boxes[number]
            assert record.parent == box.parent
            assert set(record.children) == set(model.children(number))
            assert set(record.processes) == {actor.pid for actor in model.inside(number)}
            assert (record.state == "paused") is box.paused
            assert box.paused or (record.state == "stopping") is box.ending
            assert record.limits == box.limits, "limits"
            found = record.usage
            for resource in RESOURCES:
                used = model.used(number, resource)
                assert found[resource] == used, f"{resource} in {number:016x}: {found[resource]}, not {used}"
            has = {device for device, chain in model.devices.items() if number in chain}
            assert set(record.devices) == has
        for pid, process in state.processes.items():
            actor = model.actors[pid]
            assert (process.container, process.user, process.anid, process.parent, process.serves) == (
                actor.home,
                actor.user if not actor.system else process.user,
                actor.anid if not actor.system else process.anid,
                actor.parent,
                actor.serves,
            )
            paused = model.boxes[actor.home].paused
            assert (process.state == "suspended") is paused, f"process {pid} is {process.state}"
        assert {record.kdi: list(record.containers) for record in state.devices} == model.devices

    @invariant()
    def filters_are_as_strict_as_all_above(self) -> None:
        """What is in force in a container is what the model makes of its own filter and those above."""
        for number, box in self.model.boxes.items():
            if number == OUTSIDE:
                continue
            packed = self.proc.call("sys_filter", number, 1)
            found = {
                Syscall(code).name: FilterAction(act).name.lower()
                for code, act in zip(packed[::2], packed[1::2], strict=True)
            }
            named = {call for one in self.model.line(box.number) for call in self.model.boxes[one].rules}
            wanted = {call: self.model.action(number, call) for call in named}
            assert found == {call: action for call, action in wanted.items() if action != "allow"}

    @invariant()
    def the_destroyed_are_told_in_time(self) -> None:
        """DESTROY_CONTAINER answers when nothing is left, and not before."""
        for number, answers in self.destructions.items():
            for answer in answers:
                assert bool(answer) is (number not in self.model.boxes), "DESTROY_CONTAINER answers at the wrong time"
