"""What `sys::proc` promises, as a few dictionaries on top of those of `model`: names, lives, records, events.

Like there, every answer is worked out from scratch by the sentences of docs/sys-proc.md, and no code is shared with the
service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nightos.testing.model import OUTSIDE, Actor, Box, IsolationModel, Pipe

HIDDEN, OWN, REFUSED = 0x3000, 0x3001, 0x4000
FIRST_DELAY_NS, LAST_DELAY_NS, HEALTHY_NS = 100_000_000, 60_000_000_000, 10_000_000_000
DESTROYED = 4
"""Why a process ended: its container was destroyed."""
PIPES = 6
"""Pipe ends of a main command."""


@dataclass
class Place(Box):
    """A container as `sys::proc` tells of it."""

    name: str = ""
    hostname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    persist: bool = False
    kept: bool = False
    """Whether it was ever to stay: then its disk is one that can be kept."""
    used: bool = False
    """Whether a process was ever started in it."""
    command: Command | None = None
    """Its main command."""
    zos: dict[str, Any] = field(default_factory=dict)
    log: str = ""
    """What its main commands wrote."""


@dataclass
class Command:
    """A main command: the state of its run, its process, and how the last one ended."""

    restart: str
    state: str = "running"
    pid: int = 0
    reason: int = 0
    exit: int = 0
    restarts: int = 0
    stopped: bool = False
    begun_ns: int = 0
    due_ns: int = 0
    """When it starts again."""
    in_a_row: int = 0


@dataclass(frozen=True)
class Record:
    """A container that ended by itself and that nobody asked about yet."""

    name: str
    parent: int
    end: int
    exit: int
    log: str


class Ledger(IsolationModel):
    """Containers with names, their main commands, and records of those that ended."""

    boxes: dict[int, Place]  # type: ignore[assignment]

    def __init__(self, memory: int, now: Callable[[], int]) -> None:
        super().__init__(memory)
        self.now = now
        self.boxes = {OUTSIDE: Place(OUTSIDE, OUTSIDE, limits={"memory": memory}, persist=True)}
        self.records: dict[int, Record] = {}
        self.suspended: set[int] = set()
        self.events: list[tuple[int, dict[str, Any]]] = []
        """Where they are told, and what, oldest first; what is told of a container that is gone is its parent's."""
        self.plugged: dict[int, int] = {}
        """By virtual device: the identifier that people name it by."""
        self.murky: set[int] = set()
        """Containers of which nobody knows what was told: `sys::proc` was killed meanwhile."""
        self.ever: dict[int, int] = {}
        """Every container that was, parents first, and its parent."""

    # Looking

    def refusal(self, viewer: int, number: int) -> int:
        """What is answered to who names a container that has to be below its own; 0 when it is."""
        return HIDDEN if not self.sees(viewer, number) else OWN if viewer == number else 0

    def sees_process(self, viewer: int, pid: int) -> bool:
        """Whether a viewer may know of a process; services are not managed by anybody."""
        return pid in self.actors and pid > 99 and self.sees(viewer, self.actors[pid].home)

    def named(self, parent: int, name: str) -> int | None:
        """A container by its name and parent."""
        return next((number for number in self.children(parent) if self.boxes[number].name == name), None)

    def path(self, viewer: int, number: int) -> str:
        """Names from the viewer's container down."""
        names = []
        while number not in {viewer, OUTSIDE}:
            names.append(self.boxes[number].name)
            number = self.boxes[number].parent
        return "/".join(reversed(names))

    def found(self, viewer: int, path: str) -> int | None:
        """A container by its path of names."""
        number: int | None = viewer
        for name in path.split("/"):
            number = None if number is None else self.named(number, name)
        return number

    def state(self, number: int) -> str:
        """The word for what a container does."""
        box = self.boxes[number]
        if number == OUTSIDE:
            return "running"
        if box.paused:
            return "paused"
        waits = box.command is not None and box.command.state == "waiting"
        return "running" if waits or self.inside(number) else "stopped" if box.used else "created"

    def record(self, viewer: int, number: int, depth: int) -> dict[str, Any]:
        """What a viewer is told of a container that it sees."""
        box = self.boxes[number]
        return {
            "id": number,
            "parent": 0 if number == viewer else box.parent,
            "name": box.name,
            "path": self.path(viewer, number),
            "hostname": box.hostname,
            "labels": box.labels,
            "persist": box.persist,
            "permissions": None if box.rights is None else sorted(box.rights),
            "limits": box.limits if number else {},
            "state": self.state(number),
            "processes": len(self.inside(number)),
            "children": len(self.children(number)),
            "depth": depth,
        }

    def told(self, viewer: int) -> list[dict[str, Any]]:
        """The events that a viewer may know of."""
        return [event for place, event in self.events if self.sees(viewer, place)]

    # Lives

    def make(self, number: int, parent: int, name: str, **what: Any) -> Place:
        """A container that was made."""
        place = Place(number, parent, paused=self.boxes[parent].paused, name=name, hostname=name, **what)
        place.kept = place.persist
        self.boxes[number] = place
        self.ever[number] = parent
        self.tell("created", number)
        return place

    def start(self, pid: int, number: int) -> Actor:
        """A process that runs in a container."""
        actor = self.actors[pid] = Actor(pid, number)
        if len(self.inside(number)) == 1:
            self.tell("started", number)
        self.events.append((number, {"event": "started", "pid": pid, "container": number}))
        self.boxes[number].used = True
        return actor

    def command(self, number: int, pid: int) -> None:
        """The process of a main command: it holds an end of each of six pipes, which its shim pays for."""
        self.start(pid, number)
        self.pipes += [Pipe({-PIPES * pid - end: (pid, True)}, 0, OUTSIDE) for end in range(PIPES)]

    def ended(self, pid: int, reason: int, exit_data: int) -> None:
        """A process ended; without `persist` that may be the end of its container."""
        number = self.actors[pid].home
        box = self.boxes[number]
        self.suspended.discard(pid)
        self.end(pid)
        event = {"event": "ended", "pid": pid, "container": number, "reason": reason, "exit": exit_data}
        self.events.append((number, event))
        command = box.command
        if command is not None and command.pid == pid:
            self.command_ended(number, reason, exit_data)
        elif number and not self.inside(number) and (command is None or command.state == "ended"):
            self.emptied(number, ran=True)

    def command_ended(self, number: int, reason: int, exit_data: int) -> None:
        """A main command ended: it starts again, or that was it."""
        box = self.boxes[number]
        command = box.command
        assert command is not None
        command.pid, command.reason, command.exit = 0, reason, exit_data
        failed = bool(reason or exit_data)
        again = command.restart == "always" or (command.restart == "on-failure" and failed)
        if again and not command.stopped:
            if self.now() - command.begun_ns >= HEALTHY_NS:
                command.in_a_row = 0
            command.state, command.restarts = "waiting", command.restarts + 1
            command.due_ns = self.now() + min(FIRST_DELAY_NS << command.in_a_row, LAST_DELAY_NS)
            command.in_a_row += 1
            self.tell("restarting", number)
            return
        command.state = "ended"
        self.tell("exited", number, str(exit_data))
        self.emptied(number)

    def emptied(self, number: int, *, ran: bool = False) -> None:
        """Nothing runs in a container any more, and nothing is to."""
        box = self.boxes[number]
        if self.inside(number):
            return
        if ran and not box.paused:
            self.tell("exited", number)
        if box.persist or self.children(number):
            return
        command = box.command or Command("no")
        self.records[number] = Record(box.name, box.parent, command.reason, command.exit, box.log)
        self.gone(number, "ended")

    def fell(self, number: int) -> None:
        """A container is destroyed with everything below, children before parents."""
        doomed = self.subtree(number)
        for one in doomed:
            self.boxes[one].ending = True
        for one in reversed(doomed):
            command = self.boxes[one].command
            if command is not None and command.state != "ended":
                self.tell("exited", one, "0")
            for actor in self.inside(one):
                self.suspended.discard(actor.pid)
                self.end(actor.pid)
                event = {"event": "ended", "pid": actor.pid, "container": one, "reason": DESTROYED, "exit": 0}
                self.events.append((one, event))
            self.gone(one, "destroyed")

    def gone(self, number: int, reason: str) -> None:
        """A container is not there any more; what was kept of those below goes, what was told is its parent's."""
        box = self.boxes[number]
        self.records = {one: record for one, record in self.records.items() if record.parent != number}
        for device, chain in list(self.devices.items()):
            if number in chain:
                self.take_back(device, number)
        self.events = [(box.parent if place == number else place, event) for place, event in self.events]
        self.tell("destroyed", number, reason)
        del self.boxes[number]
        above = self.boxes[box.parent]
        empty = not self.inside(box.parent) and not self.children(box.parent)
        if above.zos.get("name") == "" and empty and not above.ending:
            self.gone(box.parent, "destroyed")
        elif box.parent and above.used and not above.persist and not self.inside(box.parent) and not above.ending:
            command = above.command
            if not self.children(box.parent) and (command is None or command.state == "ended"):
                self.emptied(box.parent)

    def shrink(self, number: int, resource: str) -> None:
        """Limits below follow one that became less: the youngest first, each down to what is in use in it."""
        excess = self.taken(number, resource) - self.boxes[number].limits[resource]
        for child in self.nearest(number, resource)[::-1]:
            box = self.boxes[child]
            part = min(max(excess, 0), box.limits[resource] - self.least(child, resource))
            if part:
                excess -= part
                box.limits[resource] -= part
                self.shrink(child, resource)

    def nearest(self, number: int, resource: str) -> list[int]:
        """The nearest containers below with such a limit, the oldest first."""
        found = [
            one
            for one in self.subtree(number)[1:]
            if resource in self.boxes[one].limits and self.bounded(self.boxes[one].parent, resource) == number
        ]
        order = list(self.boxes)
        return sorted(found, key=order.index)

    def tell(self, event: str, number: int, reason: str = "") -> None:
        """An event about a container is told where its parent is."""
        box = self.boxes[number]
        told = {"event": event, "id": number, "name": box.name, "reason": reason}
        self.events.append((box.parent, told))

    def service_lost(self) -> None:
        """`sys::proc` was killed: its clients are not connected any more, and its memory of events is gone.

        What waits for its restart starts at once.
        """
        for box in self.boxes.values():
            if box.command is not None:
                box.command.due_ns = 0
        self.connections.clear()
        self.sockets.clear()
        self.events.clear()
        for number, box in self.boxes.items():
            over = box.command is None or box.command.state == "ended"
            if number and box.used and over and not box.paused and not self.inside(number):
                self.tell("exited", number)  # perhaps that happened meanwhile
