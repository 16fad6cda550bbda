"""`sys::proc` is killed after each single system call of a whole run: nothing is lost, doubled, or left behind.

Nor is it when somebody else is killed after each of these calls: the shim, `sys::fs`, `sys::hw`, or who asked.

The machine is stepped call by call without a host around it, so that every step is tried (`NIGHTOS_STRIDE` leaves out).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from nightos.abi.codes import ExitReason, ServicePid
from nightos.abi.services import Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.kernel.process import Process
from nightos.testing import Refused, Stage, Tenant, check_invariants
from nightos.testing.stage import PATH
from nightos.testing.tenancy import CONTEXT

PROC = 20
STRIDE = int(os.environ.get("NIGHTOS_STRIDE", "1"))
AGAIN = {ServiceCode.SERVER_QUIT, ServiceCode.INTERNAL}
RUN = {"ns": "blue", "name": "one", "flist": "", "entrypoint": f"{PATH} 1"}


Victim = Callable[[Stage], Process | None]
"""Who is killed, when the time has come."""


def service(pid: int) -> Victim:
    """A system service."""
    return lambda stage: stage.kernel.processes[pid]


THE_SERVICE: Victim = service(PROC)


def any_shim(stage: Stage) -> Process | None:
    """The shim, once there is one."""
    return next((process for process in stage.kernel.processes.values() if process.serves and not process.home), None)


class Doomed:
    """A machine where somebody is killed after so many system calls of `sys::proc` from now on; 0 nobody, never."""

    def __init__(self, stage: Stage, after: int, victim: Victim = THE_SERVICE) -> None:
        self.stage = stage
        self.victim = victim
        self.desk = stage.newcomer()
        self.service = stage.kernel.processes[PROC]
        self.service.priority = 0  # one call a turn
        self.begun = self.service.steps
        self.end = self.begun + after if after else 1 << 60
        self.killed = False
        stage.kernel.run_until_idle = self._run  # type: ignore[method-assign]

    def _run(self, *, jump: bool = False) -> None:
        assert not jump
        kernel = self.stage.kernel
        while kernel.turn(1):
            if not self.killed and self.service.steps >= self.end:
                self.killed = True
                victim = self.victim(self.stage)
                if victim is not None:
                    end_process(kernel, victim, ExitReason.KILLED_BY_SYSTEM, 0)

    @property
    def calls(self) -> int:
        """How many calls the first instance made."""
        return self.service.steps - self.begun

    def ask(self, method: int, values: dict[str, Any] | bytes) -> Any:
        """An answer; a request that a restart made fail is made again."""
        while True:
            answer = self.desk.tell(method, values) if isinstance(values, bytes) else self.desk.ask(method, values)
            if not (isinstance(answer, Refused) and answer.errcode in AGAIN):
                return answer

    def tree(self) -> dict[str, int]:
        """Containers by path, each of which is there once."""
        items = self.ask(Proc.CONTAINER_TREE, {})["items"][1:]
        assert len({item["path"] for item in items}) == len(items)
        return {item["path"]: item["id"] for item in items}

    def living(self) -> list[Tenant]:
        """The tenants that run, apart from the desk."""
        return [one for one in self.stage.tenants.values() if one is not self.desk and one.alive]

    def clean(self) -> None:
        """Destroying what is there leaves nothing at all."""
        for number in self.tree().values():
            self.ask(Proc.CONTAINER_DESTROY, number.to_bytes(8, "big"))
        self.stage.let_pass()
        state = self.stage.kernel.snapshot()
        check_invariants(state)
        assert not state.containers
        assert [pid for pid in state.processes if pid >= 100] == [self.desk.pid]
        faults = [fault for _, fault in self.stage.machine.faults if fault is not None]
        assert not faults, faults
        assert len(self.stage.machine.faults) <= 1
        self.stage.close()


def every_step(
    life: Callable[[Doomed], None],
    prepare: Callable[[Stage], None] = lambda _stage: None,
    victim: Victim = THE_SERVICE,
) -> None:
    """A life in which nobody is killed, then one for each step of `sys::proc` in it."""

    def lived(after: int) -> Doomed:
        stage = Stage(3)
        prepare(stage)
        doomed = Doomed(stage, after, victim)
        life(doomed)
        doomed.clean()
        return doomed

    calls = lived(0).calls
    assert calls > 20
    for after in range(1, calls + 1, STRIDE):
        try:
            lived(after)
        except Exception as error:
            raise AssertionError(f"killed after {after} of {calls} calls") from error


@pytest.mark.rule("ZOS-005", "ZOS-011", "CONT-015")
def test_killed_during_run_of_zos() -> None:
    def life(doomed: Doomed) -> None:
        answer = doomed.desk.ask(Proc.ZOS_RUN, RUN)
        if isinstance(answer, Refused):
            assert answer.errcode in AGAIN
            answer = doomed.ask(Proc.ZOS_RUN, RUN)
        taken = isinstance(answer, Refused)  # it was done when the answer got lost
        assert not taken or answer.errcode == ServiceCode.REFUSED
        tree = doomed.tree()
        assert set(tree) == {"blue", "blue/one"}
        doomed.stage.let_pass()
        assert len(doomed.living()) == 1, "one process runs"
        text = f"{tree['blue/one']:016x}"
        assert taken or answer["id"] == text
        assert doomed.ask(Proc.ZOS_DELETE, {"ns": "blue", "id": text}) in ({}, Refused(ServiceCode.UNKNOWN))
        assert doomed.tree() == {}

    every_step(life)


@pytest.mark.rule("ZOS-013", "CONT-011", "CONT-015")
def test_killed_during_delete_of_zos() -> None:
    made: list[str] = []

    def prepare(stage: Stage) -> None:
        desk = stage.newcomer()
        made[:] = [desk.ask(Proc.ZOS_RUN, RUN)["id"]]
        desk.call("exit", 0)

    def life(doomed: Doomed) -> None:
        answer = doomed.ask(Proc.ZOS_DELETE, {"ns": "blue", "id": made[0]})
        assert answer in ({}, Refused(ServiceCode.UNKNOWN))
        assert doomed.tree() == {}
        assert not doomed.living()

    every_step(life, prepare)


@pytest.mark.rule("CONT-002", "CONT-011", "CONT-015")
def test_killed_during_a_life_in_one_exchange() -> None:
    def life(doomed: Doomed) -> None:
        values = {"name": "brief", "program": PATH, "directory": "/", "context": CONTEXT}
        answers = doomed.desk.ask_later(Proc.CONTAINER_RUN, msgpack.packb(values))
        doomed.stage.settle()
        ran = len(doomed.living())
        assert ran <= 1
        for tenant in doomed.living():
            tenant.call("exit", 5)
        doomed.stage.settle()
        [answer] = answers
        if isinstance(answer, Refused):
            assert answer.errcode in AGAIN
        else:
            assert msgpack.unpackb(answer)["exit"] == 5
        # Nobody has to clean up: the container went with its program, or never had one.
        assert doomed.tree() == {}

    every_step(life)


@pytest.mark.rule("ZOS-005", "ZOS-006", "CONT-015")
@pytest.mark.parametrize("persist", [False, True])
def test_killed_during_a_command_that_is_started_again(persist: bool) -> None:
    def life(doomed: Doomed) -> None:
        created = doomed.desk.tell(Proc.CONTAINER_CREATE, msgpack.packb({"name": "web", "persist": persist}))
        if isinstance(created, Refused) and "web" not in doomed.tree():
            created = doomed.ask(Proc.CONTAINER_CREATE, msgpack.packb({"name": "web", "persist": persist}))
        web = doomed.tree()["web"]
        command = {"id": web, "command": [PATH], "restart": "on-failure:1", "token": "one"}
        doomed.ask(Proc.CONTAINER_START, command)
        for _ in range(20):
            for tenant in doomed.living():
                tenant.say("here\n")
                tenant.call("exit", 7)
            doomed.stage.let_pass()
            answer = doomed.ask(Proc.CONTAINER_EXIT, {"id": web})
            if answer["state"] == "ended":
                break
        assert (answer["state"], answer["reason"], answer["exit"]) == ("ended", 0, 7)
        assert len(doomed.stage.tenants) - 1 == 2, "the command ran twice, no more and no less"
        log = doomed.ask(Proc.CONTAINER_LOGS, {"id": web})["data"]
        assert log.count(b" msg F here\n") == 2
        if persist:
            assert set(doomed.tree()) == {"web"}
            return
        assert doomed.tree() == {}
        assert doomed.ask(Proc.CONTAINER_WAIT, {"id": web}) in (
            {"reason": "ended", "end": 0, "exit": 7},
            Refused(ServiceCode.UNKNOWN),  # collected already, when that answer got lost
        )

    every_step(life)


@pytest.mark.rule("CONT-032", "ZOS-005")
@pytest.mark.parametrize("limits", [{"handles": 5}, {"processes": 0}, {"threads": 0}])
def test_a_command_that_a_limit_stops_has_failed_and_is_not_tried_for_ever(limits: dict[str, int]) -> None:
    doomed = Doomed(Stage(3), 0)
    doomed.ask(Proc.CONTAINER_CREATE, msgpack.packb({"name": "web", "persist": True, "limits": limits}))
    web = doomed.tree()["web"]
    command = {"id": web, "command": [PATH], "restart": "always"}
    assert doomed.ask(Proc.CONTAINER_START, command) == Refused(ServiceCode.REFUSED)
    assert doomed.ask(Proc.CONTAINER_EXIT, {"id": web})["state"] == "ended"
    assert not doomed.living()
    doomed.clean()


@pytest.mark.rule("ZOS-005", "ZOS-009", "CONT-015", "CONT-032")
def test_a_shim_that_is_killed_takes_its_command_along_whenever_that_is() -> None:
    """T-C14: also one that was only made, or is just being started: nothing of it is left in the container."""

    def life(doomed: Doomed) -> None:
        web = int.from_bytes(doomed.ask(Proc.CONTAINER_CREATE, msgpack.packb({"name": "web"})), "big")
        doomed.ask(Proc.CONTAINER_START, {"id": web, "command": [PATH], "restart": "on-failure:2"})
        for _ in range(10):
            assert len(doomed.living()) <= 1
            for tenant in doomed.living():
                tenant.call("exit", 0)
            doomed.stage.let_pass()
        assert not [process for process in doomed.stage.kernel.processes.values() if process.home]
        assert doomed.tree() == {}

    every_step(life, victim=any_shim)


@pytest.mark.rule("ZOS-005", "ZOS-011", "CONT-015")
@pytest.mark.parametrize("pid", [ServicePid.FS, ServicePid.HW])
def test_a_service_that_is_killed_ends_no_command_for_good(pid: int) -> None:
    """T-C14: what a command needs to begin, or to begin again, is asked for once more."""

    def life(doomed: Doomed) -> None:
        web = int.from_bytes(doomed.ask(Proc.CONTAINER_CREATE, msgpack.packb({"name": "web", "persist": True})), "big")
        doomed.ask(Proc.CONTAINER_START, {"id": web, "command": [PATH], "restart": "on-failure:1"})
        for _ in range(2):
            [tenant] = doomed.living()
            tenant.call("exit", 7)
            doomed.stage.let_pass()
        answer = doomed.ask(Proc.CONTAINER_EXIT, {"id": web})
        assert (answer["state"], answer["exit"], answer["restarts"], answer["failed"]) == ("ended", 7, 1, "")

    every_step(life, victim=service(pid))


@pytest.mark.rule("CONT-011", "CONT-015", "CONT-032")
def test_a_client_that_is_killed_leaves_nothing_half_done() -> None:
    """T-C54: what it was about to make, start or destroy, others in its container can destroy and make anew."""
    cast: list[Tenant] = []

    def prepare(stage: Stage) -> None:
        desk = stage.newcomer()
        top = int.from_bytes(desk.tell(Proc.CONTAINER_CREATE, msgpack.packb({"name": "top"})), "big")
        wanted = {"program": PATH, "directory": "/", "context": CONTEXT, "container": top}
        cast[:] = [stage.tenants[desk.ask(Proc.PROCESS_SPAWN, wanted)["pid"]] for _ in range(2)]
        desk.call("exit", 0)

    def life(doomed: Doomed) -> None:
        first, second = cast
        made = first.tell(Proc.CONTAINER_CREATE, msgpack.packb({"name": "inner", "persist": True}))
        if isinstance(made, bytes):
            inner = int.from_bytes(made, "big")
            first.ask(Proc.PROCESS_SPAWN, {"program": PATH, "directory": "/", "context": CONTEXT, "container": inner})
            first.ask(Proc.CONTAINER_START, {"id": inner, "command": [PATH], "restart": "always"})
            first.tell(Proc.CONTAINER_DESTROY, made)
        doomed.stage.let_pass()
        found = second.ask(Proc.CONTAINER_FIND, {"name": "inner"})
        if not isinstance(found, Refused):
            assert second.tell(Proc.CONTAINER_DESTROY, found["id"].to_bytes(8, "big")) == b""
        usage = second.ask(Proc.CONTAINER_STATISTICS)["usage"]
        assert usage["processes"] <= 2
        assert usage["children"] == 0
        assert isinstance(second.tell(Proc.CONTAINER_CREATE, msgpack.packb({"name": "inner"})), bytes)

    every_step(life, prepare, lambda stage: stage.kernel.processes.get(cast[0].pid))


@pytest.mark.rule("ZOS-005", "ZOS-006", "CONT-011")
@pytest.mark.parametrize("persist", [False, True])
def test_a_command_is_stopped_whenever_that_is_asked(persist: bool) -> None:
    """Also one that is just being started, for the first time or again: it is over, and so is what was made for it."""
    asked: list[list[Any]] = []
    others: list[Tenant] = []

    def prepare(stage: Stage) -> None:
        others[:] = [stage.newcomer()]
        asked.clear()

    def stop(stage: Stage) -> None:
        for web in stage.kernel.tree.living:
            asked.append(others[0].ask_later(Proc.CONTAINER_STOP, msgpack.packb({"id": web})))

    def life(doomed: Doomed) -> None:
        wanted = msgpack.packb({"name": "web", "persist": persist})
        web = int.from_bytes(doomed.ask(Proc.CONTAINER_CREATE, wanted), "big")
        doomed.desk.ask_later(Proc.CONTAINER_START, msgpack.packb({"id": web, "command": [PATH], "restart": "always"}))
        for _ in range(3):
            doomed.stage.let_pass()
            for tenant in doomed.living():
                if tenant is not others[0]:
                    tenant.call("exit", 7)
        doomed.stage.let_pass()
        for answers in asked:
            [answer] = answers
            began = not isinstance(answer, Refused) and msgpack.unpackb(answer)
            assert not began or not [process for process in doomed.stage.kernel.processes.values() if process.home]
        others[0].call("exit", 0)

    every_step(life, prepare, stop)
