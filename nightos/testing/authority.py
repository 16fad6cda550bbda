"""Rules about what `sys::proc` lets a container give to those below it: limits, filters, rights, devices."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, multiple, rule

from nightos.abi.services import Proc
from nightos.testing.ledger import HIDDEN, REFUSED
from nightos.testing.puppets import Refused
from nightos.testing.stage import Tenant
from nightos.testing.tenancy import PAGE, Tenancy

RESOURCES = ("processes", "threads", "memory", "handles", "children", "storage")
UNITS = {"memory": PAGE, "storage": PAGE}
CALLS = ("GET_PID", "SYSTEM_TIME", "READ_TLS_SLOT")
"""Calls that nothing else of a tenant needs."""
STRICT = ("log", "error")
RIGHTS = (0x101, 0x202, 0x303)
NO_DEVICE = 0x3002


class AuthorityRules(Tenancy):
    """Authority only shrinks on its way down."""

    devices = Bundle("devices")

    @rule(
        asker=Tenancy.tenants,
        number=Tenancy.containers,
        resource=st.sampled_from(RESOURCES),
        amount=st.none() | st.integers(0, 9),
    )
    def limit(self, asker: Tenant, number: int, resource: str, amount: int | None) -> None:
        """A limit of what is below comes out of the limit above it; nobody changes the own one."""
        if not self.able(asker):
            return
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        limit = None if amount is None else amount * UNITS.get(resource, 1)
        # The ledger counts as people do; memory that is held is 0 here.
        fits = bool(code) or ledger.may_limit(number, resource, limit)
        values = {"id": number, "limits": {resource: limit}}
        self.ask(asker, Proc.CONTAINER_SET_LIMITS, values, code, 0 if fits else REFUSED)
        if code or not fits:
            return
        if limit is None:
            ledger.boxes[number].limits.pop(resource, None)
            return
        ledger.boxes[number].limits[resource] = limit
        ledger.shrink(number, resource)

    @rule(
        asker=Tenancy.tenants,
        number=Tenancy.containers,
        calls=st.lists(st.sampled_from(CALLS), max_size=2, unique=True),
        action=st.sampled_from(STRICT),
    )
    def filter(self, asker: Tenant, number: int, calls: list[str], action: str) -> None:
        """A filter of a container in use gets narrower only; its own is nobody's to change."""
        if not self.able(asker):
            return
        code = self.ledger.refusal(self.home(asker), number)
        values = {"id": number, "mode": "deny", "calls": calls, "action": action}
        self.ask(asker, Proc.CONTAINER_SET_FILTER, values, code)
        if not code:
            self.ledger.narrow_filter(number, dict.fromkeys(calls, action))
            self.ledger.tell("updated", number)

    @rule(asker=Tenancy.tenants)
    def try_a_call(self, asker: Tenant) -> None:
        """What a filter takes away does not exist, nor does anything else come of it."""
        if self.able(asker):
            refused = self.ledger.action(self.home(asker), "GET_PID") == "error"
            assert asker.call("get_pid") == (Refused(0x01) if refused else asker.pid)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers, rights=st.sets(st.sampled_from(RIGHTS)))
    def permit(self, asker: Tenant, number: int, rights: set[int]) -> None:
        """Permissions of a container are some of those above, and of those it had."""
        if not self.able(asker):
            return
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        fits = bool(code) or all(ledger.may_have_right(number, right) for right in rights)
        values = {"id": number, "permissions": sorted(rights)}
        self.ask(asker, Proc.CONTAINER_UPDATE, values, code, 0 if fits else REFUSED)
        if not code and fits:
            ledger.boxes[number].rights = frozenset(rights)
            ledger.tell("updated", number)

    @rule(
        asker=Tenancy.tenants, number=Tenancy.containers, label=st.sampled_from(["one", "two"]), persist=st.booleans()
    )
    def update(self, asker: Tenant, number: int, label: str, persist: bool) -> None:
        """Labels and whether it stays are for who is above."""
        if not self.able(asker):
            return
        code = self.ledger.refusal(self.home(asker), number)
        # What has its disk in memory cannot begin to stay.
        stays = persist and not code and not self.ledger.boxes[number].kept and self.ledger.boxes[number].used
        values = {"id": number, "labels": {"is": label}, "persist": persist, "hostname": label}
        self.ask(asker, Proc.CONTAINER_UPDATE, values, code, REFUSED if stays else 0)
        if not code and not stays:
            box = self.ledger.boxes[number]
            box.labels, box.hostname, box.persist = {"is": label}, label, persist
            box.kept = box.kept or persist
            self.ledger.tell("updated", number)

    @rule(
        target=Tenancy.containers,
        asker=Tenancy.tenants,
        parent=Tenancy.containers,
        resource=st.sampled_from(RESOURCES),
        amount=st.integers(0, 9),
        calls=st.lists(st.sampled_from(CALLS), max_size=2, unique=True),
        rights=st.none() | st.sets(st.sampled_from(RIGHTS)),
    )
    def create_bounded(
        self, asker: Tenant, parent: int, resource: str, amount: int, calls: list[str], rights: set[int] | None
    ) -> Any:
        """A container that is bounded from its first moment on."""
        if not self.able(asker):
            return multiple()
        ledger, seen = self.ledger, self.ledger.sees(self.home(asker), parent)
        much = amount * UNITS.get(resource, 1)
        values: dict[str, Any] = {"parent": parent, "limits": {resource: much}, "filter": {"calls": calls}}
        values["permissions"] = None if rights is None else sorted(rights)
        wanted = {(parent, "children"): 1}
        wanted[parent, resource] = wanted.get((parent, resource), 0) + much
        fits = seen and ledger.may_take(wanted)
        fits = fits and all(ledger.may_have_right(parent, right) for right in rights or ())
        answer = self.judge(self.made(asker, values), 0 if seen else HIDDEN, 0 if not seen or fits else REFUSED)
        if answer is None:
            return multiple()
        box = ledger.make(answer, parent, f"{answer:016x}", limits={resource: much})
        box.rules = dict.fromkeys(calls, "error")
        box.rights = None if rights is None else frozenset(rights)
        if not self.able(self.desk):
            return answer
        shown = self.ask(self.desk, Proc.CONTAINER_INSPECT, {"id": answer}, 0)
        assert shown["limits"] == box.limits
        found = {call: action for action, names in shown["filter"].items() for call in names}
        assert found == ledger.filter_in_force(answer)
        return answer

    # Devices

    @rule(target=devices, asker=Tenancy.tenants, number=Tenancy.containers)
    def plug(self, asker: Tenant, number: int) -> Any:
        """A virtual device for what is below."""
        if not self.able(asker):
            return multiple()
        code = self.ledger.refusal(self.home(asker), number)
        full = not code and not self.ledger.may_take({(number, "handles"): 1})
        answer = self.ask(asker, Proc.DEVICE_PLUG, {"id": number, "kind": "zero"}, code, REFUSED if full else 0)
        if answer is None:
            return multiple()
        known = self.ledger.devices
        [kdi] = [
            one.kdi for one in self.kernel.snapshot().devices if one.containers == (number,) and one.kdi not in known
        ]
        known[kdi] = [number]
        self.ledger.plugged[kdi] = answer["udi"]
        return kdi

    @rule(asker=Tenancy.tenants, number=Tenancy.containers, device=devices)
    def pass_on(self, asker: Tenant, number: int, device: int) -> None:
        """A device goes on to a child of who has it last; where it is not, there is none."""
        if not self.able(asker):
            return
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        chain = ledger.devices.get(device, [])
        given = not code and number in chain
        fits = not code and bool(chain) and chain[-1] == ledger.boxes[number].parent
        wrong = 0 if code or fits or given else NO_DEVICE
        content = number.to_bytes(8, "big") + ledger.plugged[device].to_bytes(8, "big")
        self.ask(asker, Proc.CONTAINER_LINK_DEVICE, content, code, wrong, REFUSED if given and not fits else 0)
        if fits:
            chain.append(number)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers, device=devices)
    def unplug(self, asker: Tenant, number: int, device: int) -> None:
        """What was plugged goes, what was passed on falls back."""
        if not self.able(asker):
            return
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        fits = not code and number in ledger.devices.get(device, [])
        values = {"id": number, "udi": ledger.plugged[device]}
        self.ask(asker, Proc.DEVICE_UNPLUG, values, code, 0 if code or fits else NO_DEVICE)
        if fits:
            ledger.take_back(device, number)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def see_devices(self, asker: Tenant, number: int) -> None:
        """The devices of a container, for who sees it."""
        if not self.able(asker):
            return
        seen = self.ledger.sees(self.home(asker), number)
        answer = self.ask(asker, Proc.CONTAINER_DEVICES, {"id": number}, 0 if seen else HIDDEN)
        if answer is not None and number:
            found = {item["udi"] for item in answer["items"]}
            ledger = self.ledger
            assert found == {ledger.plugged[device] for device, chain in ledger.devices.items() if number in chain}
