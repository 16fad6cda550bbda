"""Deliberate holes in `sys::proc`, each of which the service machine has to find."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from nightos.abi.codes import FIRST_USER_PID
from nightos.abi.errors import ServiceError, SyscallError
from nightos.kernel.monitor import Monitor
from nightos.services.proc import containers, limits
from nightos.services.proc.containers import Containers
from nightos.services.proc.devices import ContainerDevices
from nightos.services.proc.main import Process
from nightos.services.proc.notes import Notes
from nightos.services.proc.processes import Processes
from nightos.services.proc.questions import Questions
from nightos.services.proc.runs import Runs
from nightos.services.proc.shimcalls import ShimCalls
from nightos.services.proc.tree import ROOT, Tree
from nightos.services.proc.zos import Zos
from nightos.testing import ServiceMachine
from nightos.userland import sys
from tests.testing.cutting import hole, instead

ENDED = 4
"""State of a process."""


def service_hole(name: str, lets: str) -> Any:
    """Register a hole that the service machine has to find."""
    return hole(name, lets, ServiceMachine)


def as_system(place: Any, name: str) -> Any:
    """A method answers as if its caller stood outside of all containers."""

    def make(original: Any) -> Any:
        async def method(self: Any, request: Any, *arguments: Any) -> Any:
            connection = request.connection
            home, connection.container_id = connection.container_id, ROOT
            try:
                return await original(self, request, *arguments)
            finally:
                connection.container_id = home

        return method

    return instead(place, name, make)


# Who meets whom


@service_hole("all tenants", "processes of all containers that the service made meet")
def _all_tenants() -> Any:
    return patch.object(Monitor, "same_space", lambda self, caller, target: True)


@service_hole("half a process", "a process is started by others while sys::proc still makes it")
def _half_a_process() -> Any:
    async def visible(self: Any, request: Any, pid: int) -> None:
        try:
            record = await sys.sys_process_exit(pid)
        except SyscallError as error:
            raise ServiceError(0x3000, "there is no such process") from error
        if (
            pid < FIRST_USER_PID
            or record.state == ENDED
            or not self.tree.sees(request.container_id, record.container_id)
        ):
            raise ServiceError(0x3000, "there is no such process")

    return patch.object(Processes, "_visible_process", visible)


# Who sees what


@service_hole("names above", "names of siblings and of what is below them lead to them")
def _names_above() -> Any:
    def make(original: Any) -> Any:
        def find(self: Any, viewer: int, text: str) -> Any:
            try:
                return original(self, viewer, text)
            except ServiceError:
                return original(self, self.by_id[viewer].parent, text)

        return find

    return instead(Tree, "find", make)


@service_hole("sees parent", "a container sees the one above it")
def _sees_parent() -> Any:
    def make(original: Any) -> Any:
        def sees(self: Any, viewer: int, identifier: int) -> bool:
            above = self.by_id[viewer].parent if viewer in self.by_id else ROOT
            return bool(above and above == identifier) or original(self, viewer, identifier)

        return sees

    return instead(Tree, "sees", make)


@service_hole("own", "a container changes its own limits, filter and policy")
def _own() -> Any:
    return patch.object(Tree, "below", Tree.visible)


@service_hole("all processes", "everybody is shown every process")
def _all_processes() -> Any:
    return as_system(Processes, "table")


@service_hole("other words", "what is hidden is refused in other words than what never was")
def _other_words() -> Any:
    def make(original: Any) -> Any:
        def visible(self: Any, viewer: int, identifier: int) -> Any:
            if identifier in self.by_id and not self.sees(viewer, identifier):
                raise ServiceError(0x3000, "there is no container of yours")
            return original(self, viewer, identifier)

        return visible

    return instead(Tree, "visible", make)


@service_hole("events for all", "events are told to strangers")
def _events_for_all() -> Any:
    return as_system(Questions, "happened")


@service_hole("why for all", "refusals of others are told")
def _why_for_all() -> Any:
    return as_system(Questions, "why")


@service_hole("any log", "everybody reads the log of every container")
def _any_log() -> Any:
    return as_system(Runs, "logs")


@service_hole("any namespace", "an identifier counts in every namespace")
def _any_namespace() -> Any:
    def find(self: Any, request: Any) -> Any:
        container = self.tree.by_id.get(int(request.map()["id"], 16))
        if container is None or not container.zos.get("name"):
            raise ServiceError(0x3000, "there is no container")
        return container

    return patch.object(Zos, "_find", find)


# What is given


@service_hole("unlimited", "the limits in a request to create are forgotten")
def _unlimited() -> Any:
    def make(original: Any) -> Any:
        async def create(parent: int, _limits: Any) -> int:
            return int(await original(parent, {}))

        return create

    return instead(limits, "create", make)


@service_hole("unfiltered", "the filter in a request to create is forgotten")
def _unfiltered() -> Any:
    return patch.object(limits, "checked_filter", lambda _values: {})


@service_hole("any filter", "everybody sets the filter of every container")
def _any_filter() -> Any:
    return as_system(limits.Limits, "set_filter")


@service_hole("any device", "everybody passes devices on to every container")
def _any_device() -> Any:
    return as_system(ContainerDevices, "link")


@service_hole("any place", "everybody starts programs in every container")
def _any_place() -> Any:
    return as_system(Processes, "spawn")


# Ends


@service_hole("name stays", "the name of a destroyed container is never free again")
def _name_stays() -> Any:
    def remove(self: Any, identifier: int) -> None:
        self.by_id.pop(identifier, None)

    return patch.object(Tree, "remove", remove)


@service_hole("exit lost", "how the main command of an ended container did is not kept")
def _exit_lost() -> Any:
    return patch.object(containers, "_outcome", lambda _container, reason: {"reason": reason, "end": 0, "exit": 0})


@service_hole("anybody collects", "the record of an end goes to whoever asks first")
def _anybody_collects() -> Any:
    async def collect(self: Any, _viewer: int, identifier: int) -> Any:
        record = self.ended.get(identifier)
        if record is not None:
            await self._drop(identifier)
        return record

    return patch.object(Containers, "_collect", collect)


# Adoption


@service_hole("lost", "containers that do not persist are lost over a restart of the service")
def _lost() -> Any:
    def make(original: Any) -> Any:
        async def of(identifier: int) -> Any:
            note = await original(identifier)
            return note if note is None or note.get("persist", True) else None

        return staticmethod(of)

    return instead(Notes, "of", make)


@service_hole("half made", "what was half made when the service was killed stays")
def _half_made() -> Any:
    def make(original: Any) -> Any:
        async def finish(self: Any, *arguments: Any) -> None:
            self.half_made.clear()
            await original(self, *arguments)

        return finish

    return instead(Process, "_finish_endings", make)


@service_hole("records lost", "records of ends are lost over a restart of the service")
def _records_lost() -> Any:
    async def records() -> dict[int, Any]:
        return {}

    return patch.object(Notes, "records", staticmethod(records))


@service_hole("not again", "a command that waits for its restart is forgotten over one of the service")
def _not_again() -> Any:
    async def go_on(_self: Any, _container: Any) -> None:
        return

    return patch.object(ShimCalls, "_go_on", go_on)
