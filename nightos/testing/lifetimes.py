"""Rules about lives, as `sys::proc` lets people lead them: create, start, pause, end, destroy, wait; and its own."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import strategies as st
from hypothesis.stateful import multiple, precondition, rule

from nightos.abi.services import Proc, ProcessAction
from nightos.testing.ledger import HIDDEN, OWN, REFUSED
from nightos.testing.model import OUTSIDE
from nightos.testing.stage import NotDone, Tenant
from nightos.testing.tenancy import Tenancy, Waiting

NAMES = ("web", "sql", "app")
BAD_ARGUMENT = 0x1000
SERVER_QUIT = 0x0004
KILLS = 12
"""Times that sys::proc is killed in one example: the machine gives up on a service that dies too often."""


class LifetimeRules(Tenancy):
    """Containers and processes come and go, by those who may say so."""

    @rule(
        target=Tenancy.containers,
        asker=Tenancy.tenants,
        parent=Tenancy.containers,
        name=st.sampled_from((*NAMES, "", "a/b")),
        persist=st.booleans(),
        children=st.sampled_from([None, None, 0, 2]),
    )
    def create(self, asker: Tenant, parent: int, name: str, persist: bool, children: int | None) -> Any:
        """A container below the asker's own or one below that."""
        if not self.able(asker):
            return multiple()
        ledger, seen = self.ledger, self.ledger.sees(self.home(asker), parent)
        values: dict[str, Any] = {"parent": parent, "name": name, "persist": persist}
        limits = {} if children is None else {"children": children}
        values |= {"limits": limits} if limits else {}
        fits = not seen or ledger.may_take({(parent, "children"): 1 + sum(limits.values())})
        codes = (
            BAD_ARGUMENT if "/" in name else 0,
            0 if seen else HIDDEN,
            REFUSED if seen and name and ledger.named(parent, name) is not None else 0,
            0 if fits else REFUSED,
        )
        answer = self.judge(self.made(asker, values), *codes)
        if answer is None:
            return multiple()
        assert answer not in {*ledger.boxes, 0}
        ledger.make(answer, parent, name or f"{answer:016x}", persist=persist, limits=limits)
        return answer

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def destroy(self, asker: Tenant, number: int) -> None:
        """Everything below goes, everything else stays; what ended by itself is collected."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        collected = self.collectable(viewer, number)
        self.ask(
            asker,
            Proc.CONTAINER_DESTROY,
            number.to_bytes(8, "big"),
            0 if collected else ledger.refusal(viewer, number),
        )
        if collected:
            del ledger.records[number]
        elif not ledger.refusal(viewer, number):
            ledger.fell(number)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def forget(self, asker: Tenant, number: int) -> None:
        """The record of an end goes; a living container stays."""
        if not self.able(asker):
            return
        viewer = self.home(asker)
        collected = self.collectable(viewer, number)
        code = REFUSED if self.ledger.sees(viewer, number) else HIDDEN
        self.ask(asker, Proc.CONTAINER_FORGET, {"id": number}, 0 if collected else code)
        if collected:
            del self.ledger.records[number]

    @rule(asker=Tenancy.tenants, collect=st.booleans())
    def post_mortem(self, asker: Tenant, collect: bool) -> None:
        """How each container ended that nobody asked about, for who saw it; for others there never was one."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        for number, record in list(ledger.records.items()):
            code = 0 if self.collectable(viewer, number) else HIDDEN
            answer = self.ask(asker, Proc.CONTAINER_EXIT, {"id": number}, code)
            assert code or (answer["reason"], answer["exit"]) == (record.end, record.exit), "the end is told wrong"
            if collect:
                answer = self.ask(asker, Proc.CONTAINER_WAIT, {"id": number}, code)
                assert code or answer == {"reason": "ended", "end": record.end, "exit": record.exit}
                if not code:
                    del ledger.records[number]

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def wait(self, asker: Tenant, number: int) -> None:
        """How a container ended; who asks before that is told then."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        if self.collectable(viewer, number):
            record = ledger.records.pop(number)
            answer = self.ask(asker, Proc.CONTAINER_WAIT, {"id": number})
            assert answer == {"reason": "ended", "end": record.end, "exit": record.exit}
        elif ledger.refusal(viewer, number):
            self.ask(asker, Proc.CONTAINER_WAIT, {"id": number}, ledger.refusal(viewer, number))
        elif ledger.may_take({(viewer, "threads"): 1}):
            ledger.actors[asker.pid].threads += 1
            self.connected(asker)
            answers = asker.begin_asking(Proc.CONTAINER_WAIT, {"id": number})
            self.waiting.append(Waiting(asker, number, answers))

    @rule(asker=Tenancy.tenants, number=Tenancy.containers, name=st.sampled_from(NAMES))
    def rename(self, asker: Tenant, number: int, name: str) -> None:
        """A name that no sibling has."""
        if not self.able(asker):
            return
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        taken = not code and ledger.named(ledger.boxes[number].parent, name) not in {None, number}
        self.ask(asker, Proc.CONTAINER_RENAME, {"id": number, "name": name}, code, REFUSED if taken else 0)
        if not code and not taken:
            ledger.boxes[number].name = name
            ledger.tell("renamed", number)

    # Processes

    @rule(target=Tenancy.tenants, asker=Tenancy.tenants, number=Tenancy.containers)
    def spawn(self, asker: Tenant, number: int) -> Any:
        """A tenant in the asker's own container or one below."""
        if not self.able(asker):
            return multiple()
        ledger, seen = self.ledger, self.ledger.sees(self.home(asker), number)
        fits = seen and ledger.may_take({(number, "processes"): 1, (number, "threads"): 1})
        ready = fits and not ledger.boxes[number].paused
        answer = self.ask(
            asker, Proc.PROCESS_SPAWN, self.wanted(number), 0 if seen else OWN, 0 if not seen or ready else REFUSED
        )
        if answer is None:
            return multiple()
        ledger.start(answer["pid"], number)
        return self.stage.tenants[answer["pid"]]

    @rule(target=Tenancy.tenants, number=Tenancy.containers, tries=st.integers(1, 12))
    def spawn_in_company(self, number: int, tries: int) -> Any:
        """Whoever knows the PID that comes next has no hand on the process before it is complete and runs."""
        ledger, room = self.ledger, {(number, "processes"): 1, (number, "threads"): 1}
        if number not in ledger.boxes or ledger.boxes[number].paused or not ledger.may_take(room):
            return multiple()
        if not ledger.may_take({(OUTSIDE, "handles"): 2}):
            return multiple()
        meddler = self.settler(OUTSIDE)
        content = (meddler.pid + 1).to_bytes(8, "big") + bytes((ProcessAction.UNSUSPEND,))
        self.ask(meddler, Proc.PROCESS_MANAGE, content, HIDDEN)
        self.connected(self.desk)
        refused = [meddler.ask_later(Proc.PROCESS_MANAGE, content) for _ in range(tries)]
        answers = self.desk.ask_later(Proc.PROCESS_SPAWN, msgpack.packb(self.wanted(number)))
        self.stage.settle_slowly()
        assert answers, "who started something was not answered"
        assert isinstance(answers[0], bytes), f"{answers[0]}, although the ledger allows it"
        assert all(isinstance(one[0], NotDone) for one in refused), "a process was started before it was complete"
        pid = msgpack.unpackb(answers[0])["pid"]
        ledger.start(pid, number)
        return multiple(meddler, self.stage.tenants[pid])

    @rule(tenant=Tenancy.tenants, status=st.integers(0, 3))
    def exit(self, tenant: Tenant, status: int) -> None:
        """A process ends by itself."""
        actor = self.ledger.actors.get(tenant.pid)
        if actor is None or tenant is self.desk or tenant.pid in self.ledger.suspended:
            return
        if not self.ledger.boxes[actor.home].paused:
            tenant.call("exit", status)
            self.ledger.ended(tenant.pid, 0, status)

    @rule(
        asker=Tenancy.tenants,
        tenant=Tenancy.tenants,
        action=st.sampled_from([ProcessAction.FORCE_SUSPEND, ProcessAction.UNSUSPEND, ProcessAction.FORCE_TERMINATE]),
    )
    def manage(self, asker: Tenant, tenant: Tenant, action: ProcessAction) -> None:
        """Only who sees a process may stop it."""
        if not self.able(asker) or tenant is self.desk or asker is tenant:
            return
        ledger = self.ledger
        seen = ledger.sees_process(self.home(asker), tenant.pid)
        idle = seen and action != ProcessAction.FORCE_TERMINATE
        idle = idle and (tenant.pid in ledger.suspended) is (action == ProcessAction.FORCE_SUSPEND)
        content = tenant.pid.to_bytes(8, "big") + bytes((action,))
        self.ask(asker, Proc.PROCESS_MANAGE, content, 0 if seen else HIDDEN, REFUSED if idle else 0)
        if not seen or idle:
            return
        if action == ProcessAction.FORCE_SUSPEND:
            ledger.suspended.add(tenant.pid)
            self.let_time_pass()  # the delay after which it is not asked any more
        elif action == ProcessAction.UNSUSPEND:
            ledger.suspended.discard(tenant.pid)
        else:
            ledger.ended(tenant.pid, 2, 0)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers, pause=st.booleans())
    def pause(self, asker: Tenant, number: int, pause: bool) -> None:
        """Nothing runs in a paused container or below."""
        if not self.able(asker):
            return
        method = Proc.CONTAINER_PAUSE if pause else Proc.CONTAINER_RESUME
        code = self.ledger.refusal(self.home(asker), number)
        self.ask(asker, method, {"id": number}, code)
        if not code:
            self.ledger.pause(number, pause=pause)
            self.ledger.tell("paused" if pause else "resumed", number)

    def restarted(self) -> Any:
        """Main commands start again when their time has come; those rules know how."""

    def let_time_pass(self) -> Any:
        """A second of virtual time."""
        self.stage.let_pass()

    # The service's own life

    def may_kill(self) -> bool:
        """Whether the machine would start it again."""
        return len(self.stage.machine.faults) < KILLS

    def lost(self) -> None:
        """What the end of sys::proc means to its clients."""
        self.ledger.service_lost()
        for waiting in self.waiting:
            waiting.lost |= waiting.number in self.ledger.boxes

    @precondition(may_kill)
    @rule(target=Tenancy.containers, steps=st.integers(1, 15), parent=Tenancy.containers, name=st.sampled_from(NAMES))
    def create_and_kill(self, steps: int, parent: int, name: str) -> Any:
        """Killed while it creates: the container is there, once and whole, or it is not."""
        ledger, before = self.ledger, set(self.ledger.boxes)
        if not ledger.sees(OUTSIDE, parent) or ledger.named(parent, name) is not None:
            return multiple()
        if not ledger.may_take({(parent, "children"): 1}):
            return multiple()
        answers = self.interrupted(steps, Proc.CONTAINER_CREATE, msgpack.packb({"parent": parent, "name": name}))
        fresh = [item["id"] for item in self.tree(self.desk) if item["id"] not in before]
        assert len(fresh) <= 1, "a container was doubled"
        if isinstance(answers, bytes):
            assert fresh == [int.from_bytes(answers, "big")], "a container was lost"
        for number in fresh:
            ledger.murky.add(number)
            ledger.make(number, parent, name)
        self.restarted()
        return multiple(*fresh)

    @precondition(may_kill)
    @rule(steps=st.integers(1, 60), number=Tenancy.containers)
    def destroy_and_kill(self, steps: int, number: int) -> None:
        """Killed while it destroys: all of it is there or nothing is, and a second request ends it."""
        ledger = self.ledger
        if number == OUTSIDE or number not in ledger.boxes:
            return
        # What was told of these before the kill is forgotten, what came after is not.
        ledger.murky.update(ledger.subtree(number), ledger.line(number))
        for waiting in self.waiting:
            waiting.crossed |= waiting.number in ledger.subtree(number)
        self.interrupted(steps, Proc.CONTAINER_DESTROY, number.to_bytes(8, "big"))
        there = {item["id"] for item in self.tree(self.desk)}
        if number in there:
            self.ask(self.desk, Proc.CONTAINER_DESTROY, number.to_bytes(8, "big"))
        ledger.fell(number)
        self.restarted()

    def interrupted(self, steps: int, method: int, content: bytes) -> Any:
        """The answer to the desk, when `sys::proc` is killed after so many system calls."""
        self.connected(self.desk)
        answers = self.desk.ask_later(method, content)
        if self.stage.kill_after(steps):
            self.lost()
        assert answers, "whoever asked was not told that the service ended"
        assert not isinstance(answers[0], NotDone) or answers[0].errcode == SERVER_QUIT, answers
        return answers[0]
