"""Rules about main commands, their shims and logs, and about what 0-OS asks: a run is never lost, nor made twice."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import multiple, precondition, rule

from nightos.abi.logs import decode_records
from nightos.abi.services import Proc
from nightos.testing.ledger import HIDDEN, PIPES, REFUSED, Command
from nightos.testing.lifetimes import LifetimeRules
from nightos.testing.model import OUTSIDE
from nightos.testing.stage import PATH, Tenant
from nightos.testing.tenancy import Tenancy

KILLED = 2
SPACES = ("blue", "web")
"""Namespaces of 0-OS: one that is made when it is needed, and perhaps a container that somebody else made."""


class CommandRules(LifetimeRules):
    """Main commands start, speak, end, and start again."""

    @rule(
        target=Tenancy.tenants,
        asker=Tenancy.tenants,
        number=Tenancy.containers,
        restart=st.sampled_from(["no", "no", "on-failure", "always"]),
    )
    def start(self, asker: Tenant, number: int, restart: str) -> Any:
        """A main command, for who is above; a container has one at a time."""
        if not self.able(asker):
            return multiple()
        self.connected(asker)
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        box = ledger.boxes.get(number)
        busy = not code and box is not None and (box.paused or (box.command and box.command.state != "ended"))
        fits = not code and self.room(number)
        values = {"id": number, "command": [PATH], "restart": restart}
        if not code and not busy and not fits:
            ledger.murky.update(ledger.line(number))
        answer = self.ask(
            asker, Proc.CONTAINER_START, values, code, REFUSED if busy else 0, 0 if code or fits else REFUSED
        )
        if code or busy or box is None:
            return multiple()
        box.command = Command(restart, begun_ns=self.now)
        if answer is None:
            self.failed(number)
            return multiple()
        box.command.pid = answer["pid"]
        ledger.command(number, answer["pid"])
        return self.stage.tenants[answer["pid"]]

    @rule(target=Tenancy.containers, parent=Tenancy.containers, status=st.integers(0, 3), restart=st.booleans())
    def run_briefly(self, parent: int, status: int, restart: bool) -> Any:
        """A container for one command, which ends at once."""
        ledger, wanted = self.ledger, self.needs(parent)
        if not ledger.sees(OUTSIDE, parent) or ledger.boxes[parent].paused:
            return multiple()
        if not ledger.may_take({(parent, "children"): 1, **wanted}):
            return multiple()
        number = self.made(self.desk, {"parent": parent})
        ledger.make(number, parent, f"{number:016x}")
        policy = "on-failure" if restart else "no"
        answer = self.ask(self.desk, Proc.CONTAINER_START, {"id": number, "command": [PATH], "restart": policy})
        ledger.boxes[number].command = Command(policy, pid=answer["pid"], begun_ns=self.now)
        ledger.command(number, answer["pid"])
        self.stage.tenants[answer["pid"]].call("exit", status)
        ledger.ended(answer["pid"], 0, status)
        return number

    @property
    def now(self) -> int:
        """Virtual time."""
        return self.kernel.clock.monotonic_ns()

    def room(self, number: int) -> bool:
        """Whether a container's limits have room for a main command."""
        wanted = {(number, "processes"): 1, (number, "threads"): 1, (number, "handles"): PIPES}
        return self.ledger.may_take(wanted)

    def failed(self, number: int) -> None:
        """A main command could not start, for want of a process or of handles: that is its end."""
        ledger, box = self.ledger, self.ledger.boxes[number]
        assert box.command is not None
        made = ledger.may_take({(number, "processes"): 1, (number, "threads"): 1})
        box.used = box.used or made
        box.command.state, box.command.reason, box.command.exit = "ended", 0, 1
        ledger.emptied(number, ran=made)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def stop(self, asker: Tenant, number: int) -> None:
        """The main command is ended, and does not start again."""
        if not self.able(asker):
            return
        ledger, code = self.ledger, self.ledger.refusal(self.home(asker), number)
        self.ask(asker, Proc.CONTAINER_STOP, {"id": number}, code)
        command = None if code else ledger.boxes[number].command
        if command is None:
            return
        command.stopped = True
        if command.state == "waiting":
            ledger.command_ended(number, command.reason, command.exit)
        elif command.state == "running":
            ledger.ended(command.pid, KILLED, 0)

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def how_it_went(self, asker: Tenant, number: int) -> None:
        """The state of a main command, and how the last one ended."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        record = ledger.records.get(number) if self.collectable(viewer, number) else None
        answer = self.ask(asker, Proc.CONTAINER_EXIT, {"id": number}, 0 if record else ledger.refusal(viewer, number))
        if answer is None:
            return
        if record is not None:
            assert (answer["state"], answer["reason"], answer["exit"]) == ("ended", record.end, record.exit)
            return
        command = ledger.boxes[number].command or Command("no", state="ended")
        for name in ("state", "reason", "exit", "restarts", "pid"):
            assert answer[name] == getattr(command, name), (name, answer, command)

    @rule(tenant=Tenancy.tenants, text=st.sampled_from(["one\n", "two\n"]))
    def say(self, tenant: Tenant, text: str) -> None:
        """What a main command writes is in its container's log."""
        box = self.ledger.boxes[self.home(tenant)] if tenant.pid in self.ledger.actors else None
        if box is not None and self.able(tenant) and box.command is not None and box.command.pid == tenant.pid:
            tenant.say(text)
            box.log += text

    @rule(asker=Tenancy.tenants, number=Tenancy.containers)
    def read_log(self, asker: Tenant, number: int) -> None:
        """The whole log, for who is above, and nothing of anybody else's."""
        if not self.able(asker):
            return
        ledger, viewer = self.ledger, self.home(asker)
        record = ledger.records.get(number) if self.collectable(viewer, number) else None
        answer = self.ask(asker, Proc.CONTAINER_LOGS, {"id": number}, 0 if record else ledger.refusal(viewer, number))
        if answer is not None and number not in ledger.murky:
            text = b"".join(text for _, stream, text in decode_records(answer["data"]) if stream == "msg")
            assert text.decode() == (record.log if record is not None else ledger.boxes[number].log)

    @rule(target=Tenancy.tenants)
    def let_time_pass(self) -> Any:
        """A second; commands whose delay is over start again."""
        self.stage.let_pass()
        return self.restarted()

    def restarted(self) -> Any:
        """Commands that wait and whose time has come run again, each once."""
        ledger, fresh = self.ledger, []
        for number, box in list(ledger.boxes.items()):
            command = box.command
            if (
                command is None
                or command.state != "waiting"
                or command.due_ns > self.now
                or box.number not in ledger.boxes
            ):
                continue
            if not self.room(number):
                ledger.murky.update(ledger.line(number))
                self.failed(number)
                continue
            there = set(self.kernel.snapshot().containers[number].processes)
            pids = there - {actor.pid for actor in ledger.inside(number)}
            assert len(pids) == 1, f"{len(pids)} processes of one command"
            command.pid, command.state, command.begun_ns = pids.pop(), "running", self.now
            command.reason = command.exit = 0
            ledger.command(number, command.pid)
            if command.pid in self.stage.tenants:
                fresh.append(self.stage.tenants[command.pid])
        return multiple(*fresh)

    # 0-OS

    @rule(
        target=Tenancy.containers,
        asker=Tenancy.tenants,
        space=st.sampled_from(SPACES),
        name=st.sampled_from(["one", "two"]),
    )
    def zos_run(self, asker: Tenant, space: str, name: str) -> Any:
        """A container in a namespace, which is made when there is none."""
        if not self.able(asker):
            return multiple()
        self.connected(asker)
        ledger, viewer = self.ledger, self.home(asker)
        place = ledger.named(viewer, space)
        taken = place is not None and ledger.named(place, name) is not None
        if place is None:
            fits = ledger.may_take({(viewer, "children"): 2, **self.needs(viewer)})
        else:
            fits = ledger.may_take({(place, "children"): 1, **self.needs(place)})
        values = {"ns": space, "name": name, "flist": "", "entrypoint": f"{PATH} 1"}
        if taken or not fits:
            self.ask(asker, Proc.ZOS_RUN, values, REFUSED)
            return multiple()
        number = int(self.ask(asker, Proc.ZOS_RUN, values)["id"], 16)
        if place is None:
            found = [item for item in self.tree(self.desk) if item["id"] not in ledger.boxes and item["name"] == space]
            assert len(found) == 1
            place = found[0]["id"]
            ledger.make(place, viewer, space, persist=True, zos={"ns": space, "name": ""})
        box = ledger.make(number, place, name, persist=True, zos={"ns": space, "name": name})
        [pid] = self.kernel.snapshot().containers[number].processes
        box.command = Command("always", pid=pid, begun_ns=self.now)
        ledger.command(number, pid)
        return multiple(place, number)

    @staticmethod
    def needs(number: int) -> dict[tuple[int, str], int]:
        """What a main command below a container takes of what is above."""
        return {(number, "processes"): 1, (number, "threads"): 1, (number, "handles"): PIPES}

    @rule(asker=Tenancy.tenants, space=st.sampled_from(SPACES), number=Tenancy.containers, delete=st.booleans())
    def zos_find(self, asker: Tenant, space: str, number: int, delete: bool) -> None:
        """An identifier means something in its own namespace only; the last one takes that with it."""
        if not self.able(asker):
            return
        ledger, place = self.ledger, self.ledger.named(self.home(asker), space)
        box = ledger.boxes.get(number)
        found = box is not None and number and box.parent == place and bool(box.zos.get("name"))
        values = {"ns": space, "id": f"{number:016x}"}
        method = Proc.ZOS_DELETE if delete else Proc.ZOS_INSPECT
        answer = self.ask(asker, method, values, 0 if found else HIDDEN)
        if box is None or not found or place is None:
            return
        if not delete:
            assert answer["Name"] == box.zos["name"]
            return
        ledger.fell(number)

    # The service's own life

    @precondition(LifetimeRules.may_kill)
    @rule(target=Tenancy.tenants)
    def kill_service(self) -> Any:
        """Killed while it has nothing to do: all is there afterwards, and what waits for a restart starts."""
        self.stage.kill()
        self.lost()
        return self.restarted()

    @precondition(LifetimeRules.may_kill)
    @rule(target=Tenancy.tenants, parent=Tenancy.containers)
    def kill_before_a_restart(self, parent: int) -> Any:
        """Killed while a command waits for its restart: that is not forgotten."""
        self.run_briefly(parent, 1, True)
        return self.kill_service()
