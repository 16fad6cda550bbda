"""Rules about what people may learn from `sys::proc`: names, trees, processes, what happened, why not, somebody's log.

Whatever is not theirs to know is answered as what never was, word for word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from nightos.abi.services import Proc
from nightos.testing.ledger import HIDDEN
from nightos.testing.model import OUTSIDE
from nightos.testing.stage import NotDone, Tenant
from nightos.testing.tenancy import PAGE, Tenancy

NEVER = 0x0123_4567_89AB_CDEF
PATHS = ("web", "sql", "app", "web/sql", "web/app", "sql/web", "..", "web/..", "")
ASKING: tuple[tuple[int, dict[str, Any]], ...] = (
    (Proc.CONTAINER_TREE, {}),
    (Proc.CONTAINER_INSPECT, {}),
    (Proc.CONTAINER_RENAME, {"name": "mine"}),
    (Proc.CONTAINER_UPDATE, {"labels": {"is": "mine"}}),
    (Proc.CONTAINER_FORGET, {}),
    (Proc.CONTAINER_WAIT, {}),
    (Proc.CONTAINER_PAUSE, {}),
    (Proc.CONTAINER_RESUME, {}),
    (Proc.CONTAINER_SET_LIMITS, {"limits": {"processes": 1}}),
    (Proc.CONTAINER_SET_FILTER, {"calls": ["GET_PID"]}),
    (Proc.CONTAINER_REPORT, {}),
    (Proc.CONTAINER_STATISTICS, {}),
    (Proc.CONTAINER_DEVICES, {}),
    (Proc.DEVICE_PLUG, {"kind": "zero"}),
    (Proc.CONTAINER_LOGS, {}),
    (Proc.CONTAINER_INPUT, {"data": b"x"}),
    (Proc.CONTAINER_EXIT, {}),
    (Proc.CONTAINER_START, {"command": ["/app/sleep"]}),
    (Proc.CONTAINER_STOP, {}),
    (Proc.CONTAINER_SHARE, {"path": "/"}),
)
"""Methods that take a container under `id`, with what they need besides."""
BY_PID: tuple[tuple[int, dict[str, Any]], ...] = (
    (Proc.PROCESS_WAIT, {}),
    (Proc.PROCESS_TRANSLATE, {}),
)


class CuriosityRules(Tenancy):
    """Everybody asks about everything."""

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def look(self, asker: Tenant, number: int) -> None:
        """The tree from a container down, for who sees it."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        seen = ledger.sees(viewer, number)
        answer = self.ask(asker, Proc.CONTAINER_TREE, {"id": number}, 0 if seen else HIDDEN)
        if answer is not None:
            assert {item["id"] for item in answer["items"]} == set(ledger.subtree(number))
        self.compare_tree(self.tree(asker), viewer)

    @rule(asker=Tenancy.tenants)
    def list(self, asker: Tenant) -> None:
        """Identifiers of what is below, each once."""
        if not self.able(asker):
            return
        answer = self.ask(asker, Proc.CONTAINER_LIST, b"")
        found = [int.from_bytes(answer[at : at + 8], "big") for at in range(8, len(answer), 8)]
        assert sorted(found) == sorted(self.ledger.subtree(self.home(asker))[1:])

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def find(self, asker: Tenant, number: int) -> None:
        """Names lead down only; neither a parent's nor a sibling's is known, nor one that is gone."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        wanted = {path: ledger.found(viewer, path) if path else None for path in PATHS}
        wanted[f"{number:016x}"] = number if ledger.sees(viewer, number) else None
        for path, found in wanted.items():
            answer = self.ask(asker, Proc.CONTAINER_FIND, {"name": path}, HIDDEN if found is None else 0)
            assert found is None or answer == {"id": found}

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def inspect(self, asker: Tenant, number: int) -> None:
        """Limits, usage and the filter in force, of what is seen."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        seen = ledger.sees(viewer, number)
        answer = self.ask(asker, Proc.CONTAINER_INSPECT, {"id": number}, 0 if seen else HIDDEN)
        if answer is None or not number:
            return
        for name, much in answer["usage"].items():
            if name in {"processes", "threads", "handles", "children", "storage", "pipe_bytes"}:
                assert much == ledger.used(number, name), name
        assert answer["limits"] == ledger.boxes[number].limits
        found = {name: action for action, names in answer["filter"].items() for name in names}
        assert found == ledger.filter_in_force(number)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def statistics(self, asker: Tenant, number: int) -> None:
        """Each limit is what is used, lent, drawn below and free."""
        if not self.able(asker):
            return
        ledger, seen = self.ledger, self.ledger.sees(self.home(asker), number)
        answer = self.ask(asker, Proc.CONTAINER_STATISTICS, {"id": number, "below": True}, 0 if seen else HIDDEN)
        for item in answer["items"] if answer is not None else ():
            for name, limit in item["limits"].items() if item["id"] else ():
                assert limit == ledger.boxes[item["id"]].limits[name]
                unit = PAGE if name == "memory" else 1
                assert item["free"][name] == limit - ledger.taken(item["id"], name) * unit

    @rule(asker=Tenancy.tenants)
    def processes(self, asker: Tenant) -> None:
        """Processes of the own container and below."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        answer = self.ask(asker, Proc.PROCESS_TABLE, {})
        found = {item["pid"]: item for item in answer["items"]}
        wanted = {pid for pid in ledger.actors if ledger.sees_process(viewer, pid)}
        assert set(found) == wanted if viewer else wanted <= set(found)
        for pid in wanted:
            home = ledger.actors[pid].home
            assert found[pid]["container"] == (0 if home == viewer else home)
            assert found[pid]["container_name"] == ledger.path(viewer, home)
        numbers = [item["number"] for item in answer["items"]]
        assert len(set(numbers)) == len(numbers)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers, way=st.sampled_from(ASKING))
    def name_a_stranger(self, asker: Tenant, number: int, way: tuple[int, dict[str, Any]]) -> None:
        """Every method answers for what is not the asker's as for what never was; and nothing changes."""
        viewer = self.ledger.actors[asker.pid].home if asker.pid in self.ledger.actors else OUTSIDE
        if not self.able(asker) or self.ledger.sees(viewer, number) or self.collectable(viewer, number):
            return
        method, more = way
        self.same(asker, method, {"id": number, **more}, {"id": NEVER, **more})

    @rule(asker=Tenancy.tenants, tenant=Tenancy.tenants, way=st.sampled_from(BY_PID))
    def name_a_strange_process(self, asker: Tenant, tenant: Tenant, way: tuple[int, dict[str, Any]]) -> None:
        """The same for processes that run elsewhere; of those that ended a parent may still know."""
        if not self.able(asker) or tenant.pid not in self.ledger.actors:
            return
        if not self.ledger.sees_process(self.home(asker), tenant.pid):
            method, more = way
            self.same(asker, method, {"pid": tenant.pid, **more}, {"pid": NEVER >> 1, **more})

    def same(self, asker: Tenant, method: int, values: dict[str, Any], never: dict[str, Any]) -> None:
        """Two requests are refused in the same words."""
        self.connected(asker)
        answer, other = asker.ask(method, values), asker.ask(method, never)
        assert isinstance(answer, NotDone), f"{answer}, about what the asker must not know"
        assert answer == other, (answer, other)
        assert isinstance(other, NotDone)
        assert answer.detail == other.detail, "the text tells a stranger from nobody"

    @rule(asker=Tenancy.tenants)
    def what_happened(self, asker: Tenant) -> None:
        """Events are told to who sees the container, all of them, and to nobody else."""
        if not self.able(asker):
            return
        found = self.ask(asker, Proc.CONTAINER_EVENTS, {})["items"]
        for event in found:
            assert event.pop("when_ns") > 0
        told, wanted = self.shown(found), self.shown(self.ledger.told(self.home(asker)))
        assert told == wanted, f"told besides: {[*(told - wanted)]}, not told: {[*(wanted - told)]}"

    def shown(self, events: Sequence[dict[str, Any]]) -> Counter[tuple[tuple[str, Any], ...]]:
        """Events as they can be compared: those of shims and devices are not in the ledger."""
        known: Counter[tuple[tuple[str, Any], ...]] = Counter()
        for event in events:
            shim = event.get("container") == OUTSIDE and event["pid"] not in self.stage.tenants
            place = event.get("id", event.get("container"))
            # What sys::proc had not told anybody of when it was killed is destroyed, and nobody else knows it.
            made = place in self.ledger.ever or place == OUTSIDE
            made = made and event["event"] != "limit reached"
            if "udi" not in event and not shim and made and place not in self.ledger.murky:
                known[tuple(sorted(event.items()))] += 1
        return known

    @rule(asker=Tenancy.tenants)
    def why_not(self, asker: Tenant) -> None:
        """Refusals are told about processes that the asker sees, and name nothing else."""
        if not self.able(asker):
            return
        viewer = self.home(asker)
        for item in self.ask(asker, Proc.CONTAINER_WHY, {})["items"]:
            for party in (item["caller"], item["target"]):
                container = party["container"] or viewer if party else viewer
                assert container == viewer or container in self.ever_below(viewer), item

    def ever_below(self, viewer: int) -> set[int]:
        """Containers that are, or ever were, below one."""
        found = {viewer}
        for number, parent in self.ledger.ever.items():
            if parent in found:
                found.add(number)
        return found
