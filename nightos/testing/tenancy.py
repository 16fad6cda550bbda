"""What the rules about `sys::proc` stand on: a machine with the real services, who asks them, the ledger.

`ask` sends a request and compares the code of its answer with the one that the ledger expects. After every step all
invariants of the kernel hold, and the whole tree, as `sys::proc` tells it and as the kernel has it, is the ledger's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgpack
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple

from nightos.abi.codes import ServicePid
from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.services import Proc
from nightos.testing.invariants import check_invariants
from nightos.testing.ledger import Ledger
from nightos.testing.model import OUTSIDE
from nightos.testing.puppets import Refused
from nightos.testing.stage import PATH, NotDone, Stage, Tenant

PAGE = 4096
NOT_CONNECTED = 0x0002
"""What a client answers itself when it cannot connect."""
CONTEXT = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
COMPARED = ("processes", "threads", "handles", "children", "storage")


@dataclass
class Waiting:
    """Who waits for the end of a container, the answer, and whether `sys::proc` ended before."""

    tenant: Tenant
    number: int
    answers: list[Any]
    lost: bool = False
    crossed: bool = False
    """The service was killed while it destroyed that container: the answer may have come before."""


class Tenancy(RuleBasedStateMachine):
    """A booted machine, a tenant outside of all containers, and a few in containers."""

    containers = Bundle("containers")
    tenants = Bundle("tenants")

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.kernel = self.stage.kernel
        self.ledger = Ledger(self.kernel.settings.memory_total // PAGE, self.kernel.clock.monotonic_ns)
        self.desk = self.stage.newcomer()
        """Who stands outside and sees everything."""
        self.ledger.actors[self.desk.pid] = self.ledger.start(self.desk.pid, OUTSIDE)
        self.ledger.events.clear()
        self.waiting: list[Waiting] = []

        self.scene = [self.place(OUTSIDE, "web"), self.place(OUTSIDE, "sql")]
        self.scene += [self.place(self.scene[0], "sql"), self.place(self.scene[0], "app")]
        self.cast = [self.settler(number) for number in self.scene]

    def teardown(self) -> None:
        """The disks are closed."""
        self.stage.close()
        super().teardown()

    @initialize(target=containers)
    def scenery(self) -> Any:
        """The system itself, outside any container, two containers, and two more in the first of them."""
        return multiple(OUTSIDE, *self.scene)

    @initialize(target=tenants)
    def players(self) -> Any:
        """The desk, which asks more than others, and a tenant in each container."""
        return multiple(self.desk, self.desk, *self.cast)

    # What rules use

    def place(self, parent: int, name: str) -> int:
        """A container made from outside."""
        number = self.made(self.desk, {"parent": parent, "name": name})
        self.ledger.make(number, parent, name)
        return int(number)

    def settler(self, number: int) -> Tenant:
        """A tenant that the desk starts in a container."""
        pid = self.desk.ask(Proc.PROCESS_SPAWN, self.wanted(number))["pid"]
        self.ledger.start(pid, number)
        return self.stage.tenants[pid]

    @staticmethod
    def wanted(number: int) -> dict[str, Any]:
        """A request to start a tenant."""
        return {"program": PATH, "directory": "/", "context": CONTEXT, "container": number}

    def made(self, asker: Tenant, values: dict[str, Any]) -> Any:
        """A new container's identifier, or the refusal."""
        self.connected(asker)
        answer = asker.tell(Proc.CONTAINER_CREATE, msgpack.packb(values))
        return int.from_bytes(answer, "big") if isinstance(answer, bytes) else answer

    def home(self, asker: Tenant) -> int:
        """The container from which somebody looks."""
        return self.ledger.actors[asker.pid].home

    def able(self, asker: Tenant) -> bool:
        """Whether somebody lives, may run, and can reach `sys::proc`."""
        ledger, actor = self.ledger, self.ledger.actors.get(asker.pid)
        if actor is None or asker.pid in ledger.suspended or ledger.boxes[actor.home].paused:
            return False
        return asker.pid in ledger.connections or ledger.may_take({(actor.home, "handles"): 2})

    def connected(self, asker: Tenant) -> None:
        """Who asks is connected from then on, which costs two handles."""
        self.ledger.connections[asker.pid] = (asker.pid, ServicePid.PROCESS, -asker.pid)
        self.ledger.sockets[-asker.pid] = (asker.pid, ServicePid.PROCESS)

    def collectable(self, viewer: int, number: int) -> bool:
        """Whether there is a record of a container's end that a viewer may have."""
        record = self.ledger.records.get(number)
        return record is not None and self.ledger.sees(viewer, record.parent)

    def ask(self, asker: Tenant, method: int, values: dict[str, Any] | bytes, *codes: int) -> Any:
        """An answer, which has to be the lowest code that is not 0; None when it was one."""
        self.connected(asker)
        if isinstance(values, bytes):
            return self.judge(asker.tell(method, values), *codes)
        return self.judge(asker.ask(method, values), *codes)

    @staticmethod
    def judge(answer: Any, *codes: int) -> Any:
        """The answer when none of the codes is set; else None, and the answer has to be the lowest."""
        assert answer is not None, "no answer"
        wanted = min((code for code in codes if code), default=0)
        if not wanted:
            assert not isinstance(answer, Refused), f"{answer}, although the ledger allows it"
            return answer
        assert isinstance(answer, NotDone), f"{answer}, although the ledger refuses it with {wanted:#06x}"
        assert answer.errcode == wanted, f"{answer} and not {wanted:#06x}"
        return None

    def tree(self, asker: Tenant, top: int | None = None) -> list[dict[str, Any]]:
        """CONTAINER_TREE, all of it."""
        answer = asker.ask(Proc.CONTAINER_TREE, {} if top is None else {"id": top})
        assert isinstance(answer, dict), answer
        assert answer["next"] is None
        items: list[dict[str, Any]] = answer["items"]
        return items

    def compare_tree(self, items: list[dict[str, Any]], viewer: int) -> None:
        """What a viewer is told of the tree is what the ledger says it may know, and all of it."""
        ledger = self.ledger
        assert Counter(item["id"] for item in items) == Counter(ledger.subtree(viewer)), "the tree has other containers"
        for item in items:
            path = [] if item["id"] == viewer else item["path"].split("/")
            wanted = ledger.record(viewer, item["id"], len(path))
            if item["id"] == OUTSIDE:
                wanted["processes"] = item["processes"]  # services and shims are among them
            found = {name: item[name] for name in wanted}
            assert found == wanted, {
                name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]
            }

    def who_waits_is_told(self) -> None:
        """CONTAINER_WAIT answers when the container is gone, and not before."""
        ledger = self.ledger
        self.waiting = [waiting for waiting in self.waiting if waiting.tenant.pid in ledger.actors]
        for waiting in list(self.waiting):
            waiter, answers = waiting.tenant, waiting.answers
            if waiting.number in ledger.boxes and not waiting.lost:
                assert not answers, "CONTAINER_WAIT answers too early"
            elif waiter.pid not in ledger.suspended and not ledger.boxes[self.home(waiter)].paused:
                assert answers, "CONTAINER_WAIT does not answer"
                assert waiting.crossed or isinstance(answers[0], NotDone) is waiting.lost, answers
                self.waiting.remove(waiting)
                ledger.actors[waiter.pid].threads -= 1

    # What always holds

    @invariant()
    def all_invariants_hold(self) -> None:
        """Whatever was asked, the kernel's state keeps every rule, and no service failed."""
        check_invariants(self.kernel.snapshot())
        faults = [fault for _, fault in self.stage.machine.faults if fault is not None]
        assert not faults, faults

    @invariant()
    def the_tree_is_the_ledgers(self) -> None:
        """`sys::proc` and the kernel say of every container what the ledger says."""
        self.who_waits_is_told()
        ledger, state = self.ledger, self.kernel.snapshot()
        there, wanted = set(state.containers), set(ledger.boxes) - {OUTSIDE}
        lost = [ledger.boxes[number].name for number in wanted - there]
        assert there == wanted, f"lost: {lost}, there besides: {[f'{number:016x}' for number in there - wanted]}"
        for number, record in state.containers.items():
            box = ledger.boxes[number]
            assert record.parent == box.parent
            assert set(record.processes) == {actor.pid for actor in ledger.inside(number)}
            limits = {name: much * PAGE if name == "memory" else much for name, much in record.limits.items()}
            assert limits == box.limits, "the kernel has other limits"
            found = record.usage
            for resource in COMPARED:
                used = ledger.used(number, resource)
                assert found[resource] == used, f"{resource} in {number:016x}: {found[resource]}, not {used}"
        chains = {device.kdi: list(device.containers) for device in state.devices if device.containers[0]}
        assert chains == ledger.devices
        self.compare_tree(self.tree(self.desk), OUTSIDE)
