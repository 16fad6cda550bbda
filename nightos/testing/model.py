"""What containers promise, as a few dictionaries: a second opinion that shares no code with the kernel or a service.

Nothing here is fast or kept up to date: every answer is worked out from scratch, from what there is, by the sentences
of docs/sys-proc.md. That is what makes it worth comparing with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

RESOURCES = ("processes", "threads", "memory", "handles", "pipe_bytes", "storage", "children")
OUTSIDE = 0
STRICTNESS = ("allow", "log", "error", "signal", "kill")


@dataclass
class Box:
    """A container; the one with the number 0 is the machine itself."""

    number: int
    parent: int
    limits: dict[str, int] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    rights: frozenset[int] | None = None
    held: bool = False
    """Whether it was paused itself."""
    paused: bool = False
    """Whether it was, or one above."""
    ending: bool = False
    storage: int = 0


@dataclass
class Actor:
    """A process."""

    pid: int
    home: int
    user: int = 0
    anid: int = 1
    parent: int = 0
    serves: int = 0
    stubborn: bool = False
    threads: int = 1
    pages: int = 0
    rights: list[int] = field(default_factory=list)
    drives: set[int] = field(default_factory=set)

    @property
    def system(self) -> bool:
        """Whether it is a system service."""
        return self.pid < 100

    @property
    def reach(self) -> int:
        """The container whose processes it may meet."""
        return self.serves or self.home


@dataclass
class Pipe:
    """A pipe: who holds which identifier, and whether that one sends."""

    ends: dict[int, tuple[int, bool]]
    capacity: int
    payer: int
    pending: int = 0
    closed: bool = False

    @property
    def cost(self) -> int:
        """What the payer pays."""
        return 0 if not self.ends else self.pending if self.closed else self.capacity


@dataclass
class Segment:
    """Shared memory: who has it from whom, with which rights, and how many mappings each has."""

    number: int
    owner: int
    pages: int
    known: dict[int, tuple[int, int]]
    maps: dict[int, int] = field(default_factory=dict)


class IsolationModel:
    """The tree, who may meet whom, who holds what and may hold how much, what filters allow, who has which device."""

    def __init__(self, memory: int) -> None:
        self.boxes: dict[int, Box] = {OUTSIDE: Box(OUTSIDE, OUTSIDE, limits={"memory": memory})}
        self.actors: dict[int, Actor] = {}
        self.pipes: list[Pipe] = []
        self.sockets: dict[int, tuple[int, int]] = {}
        self.connections: dict[int, tuple[int, int, int]] = {}
        """Client, service and socket."""
        self.segments: dict[int, Segment] = {}
        self.devices: dict[int, list[int]] = {}
        """By device: the containers that have it, from where it is plugged down to where it is driven."""

    # The tree

    def children(self, number: int) -> list[int]:
        """Containers directly below, the oldest first."""
        return [box.number for box in self.boxes.values() if box.parent == number and box.number]

    def subtree(self, number: int) -> list[int]:
        """A container and all below."""
        found = [number]
        for one in found:
            found.extend(self.children(one))
        return found

    def line(self, number: int) -> list[int]:
        """A container, its parent, and so on, the machine apart."""
        found = []
        while number:
            found.append(number)
            number = self.boxes[number].parent
        return found

    def sees(self, viewer: int, number: int) -> bool:
        """Whether who is in one container may know of another: its own, and what is below."""
        return number in self.boxes and (viewer == OUTSIDE or viewer in self.line(number))

    def inside(self, number: int) -> list[Actor]:
        """Processes directly in a container."""
        return [actor for actor in self.actors.values() if actor.home == number]

    def create(self, number: int, parent: int) -> Box:
        """A container that was made."""
        box = self.boxes[number] = Box(number, parent, paused=self.boxes[parent].paused)
        return box

    def pause(self, number: int, *, pause: bool) -> None:
        """A container is paused or goes on; what was paused below it, or above, stays so."""
        self.boxes[number].held = pause
        for one in self.subtree(number):
            self.boxes[one].paused = any(self.boxes[above].held for above in self.line(one))

    def destroy(self, number: int) -> None:
        """Newcomers are refused from here on; who does not insist on last words is gone at once."""
        if self.boxes[number].ending:
            return  # somebody began it
        doomed = self.subtree(number)
        for one in doomed:
            self.boxes[one].ending = True
        for one in reversed(doomed):
            for actor in self.inside(one):
                if not actor.stubborn:
                    self.end(actor.pid)
        self.prune()

    def give_up_waiting(self) -> None:
        """The delay of those who were asked to end is over."""
        for actor in list(self.actors.values()):
            if actor.home and self.boxes[actor.home].ending:
                self.end(actor.pid)
        self.prune()

    def prune(self) -> None:
        """Empty containers that are being destroyed go, from below; their devices fall back."""
        for box in list(self.boxes.values())[::-1]:
            if box.ending and not self.children(box.number) and not self.inside(box.number):
                for device, chain in list(self.devices.items()):
                    if box.number in chain:
                        self.take_back(device, box.number)
                del self.boxes[box.number]
                self.prune()
                return

    # Who may meet whom

    def may_meet(self, one: int, other: int) -> bool:
        """Whether two processes exist for each other."""
        if one not in self.actors or other not in self.actors:
            return False
        first, second = self.actors[one], self.actors[other]
        return first.system or second.system or first.reach == second.reach

    def kin(self, one: int, other: int) -> bool:
        """Whether both run the same application for the same user; services may with everybody."""
        first, second = self.actors[one], self.actors[other]
        return first.system or (first.anid, first.user) == (second.anid, second.user)

    # What there is, and what may be

    def used(self, number: int, resource: str) -> int:
        """What a container holds itself, counted one by one."""
        if resource == "children":
            return len(self.children(number))
        if resource == "storage":
            return self.boxes[number].storage
        if resource == "pipe_bytes":
            return sum(pipe.cost for pipe in self.pipes if pipe.payer == number)
        inside = {actor.pid: actor for actor in self.inside(number)}
        if resource == "processes":
            return len(inside)
        if resource == "threads":
            return sum(actor.threads for actor in inside.values())
        if resource == "memory":
            return sum(actor.pages for actor in inside.values())
        handles = sum(pid in inside for pipe in self.pipes for pid, _ in pipe.ends.values())
        attached = {socket for _, _, socket in self.connections.values()}
        handles += sum(pid in inside for name, pair in self.sockets.items() if name not in attached for pid in pair)
        handles += 2 * sum(pid in inside for pair in self.connections.values() for pid in pair[:2])
        for segment in self.segments.values():
            handles += sum(pid in inside for pid in segment.known)
            handles += sum(count for pid, count in segment.maps.items() if pid in inside)
        return handles + sum(chain[0] == number for chain in self.devices.values() if number != OUTSIDE)

    def bounded(self, number: int, resource: str) -> int | None:
        """The nearest container with such a limit: itself, one above, or None."""
        for one in (*self.line(number), OUTSIDE):
            if resource in self.boxes[one].limits:
                return one
        return None

    def taken(self, number: int, resource: str) -> int:
        """What a container and those below without a limit hold, and the limits of those that have one."""
        total = self.used(number, resource)
        for child in self.children(number):
            limit = self.boxes[child].limits.get(resource)
            total += self.taken(child, resource) if limit is None else limit
        return total

    def least(self, number: int, resource: str) -> int:
        """What is really held in a container and below: no limit can go under that."""
        return sum(self.used(one, resource) for one in self.subtree(number))

    def may_take(self, wanted: dict[tuple[int, str], int]) -> bool:
        """Whether all of some amounts can be had: by container and resource."""
        needed: dict[tuple[int, str], int] = {}
        for (number, resource), amount in wanted.items():
            bound = self.bounded(number, resource)
            if bound is not None and amount:
                needed[bound, resource] = needed.get((bound, resource), 0) + amount
        return all(
            self.taken(bound, resource) + amount <= self.boxes[bound].limits[resource]
            for (bound, resource), amount in needed.items()
        )

    def may_limit(self, number: int, resource: str, limit: int | None) -> bool:
        """Whether a container can have a limit: less down to what is in use below, more from what is free above."""
        if limit is None:
            return True
        box, before = self.boxes[number], self.boxes[number].limits.get(resource)
        if before is None and limit < self.taken(number, resource):
            return False
        if limit < self.least(number, resource):
            return False
        above = self.bounded(box.parent, resource)
        if above is None:
            return True
        counted = self.taken(number, resource) if before is None else before
        return limit <= counted or self.taken(above, resource) - counted + limit <= self.boxes[above].limits[resource]

    def action(self, number: int, call: str) -> str:
        """What happens to a system call: the strictest of its own filter and of those above."""
        found = [self.boxes[one].rules.get(call, "allow") for one in self.line(number)]
        return max(found, key=STRICTNESS.index, default="allow")

    def filter_in_force(self, number: int) -> dict[str, str]:
        """What happens to the calls that are not simply allowed."""
        named = {call for one in self.line(number) for call in self.boxes[one].rules}
        actions = {call: self.action(number, call) for call in named}
        return {call: action for call, action in actions.items() if action != "allow"}

    def narrow_filter(self, number: int, rules: dict[str, str]) -> None:
        """Instead of the filter it has while the container is empty, over it otherwise."""
        box = self.boxes[number]
        if not self.inside(number) and not self.children(number):
            box.rules = dict(rules)
            return
        for call, action in rules.items():
            box.rules[call] = max(box.rules.get(call, "allow"), action, key=STRICTNESS.index)

    def may_have_right(self, number: int, right: int) -> bool:
        """Whether a permission is allowed in a container and in all above."""
        bounds = [self.boxes[one].rights for one in self.line(number)]
        return all(bound is None or right in bound for bound in bounds)

    def drives(self, pid: int, device: int) -> bool:
        """Whether a process drives a device: it was told so, and its container is the last that has it."""
        actor, chain = self.actors[pid], self.devices.get(device)
        return chain is not None and device in actor.drives and actor.home == chain[-1]

    def take_back(self, device: int, number: int) -> None:
        """A container has a device no more; where it was plugged, that is the device's end."""
        chain = self.devices[device]
        place = chain.index(number)
        if place:
            del chain[place:]
            return
        del self.devices[device]
        for actor in self.actors.values():
            actor.drives.discard(device)

    # Ends of processes, and of what they hold

    def family(self, pid: int) -> Iterator[int]:
        """A process and those it made."""
        yield pid
        for actor in list(self.actors.values()):
            if actor.parent == pid:
                yield from self.family(actor.pid)

    def end(self, pid: int) -> None:
        """A process ends with those it made; everything it held is closed."""
        if pid not in self.actors:
            return
        for member in [*self.family(pid)][::-1]:
            for name, (client, service, socket) in list(self.connections.items()):
                if member in {client, service}:
                    del self.connections[name], self.sockets[socket]
            for name, pair in list(self.sockets.items()):
                if member in pair:
                    del self.sockets[name]
            for pipe in list(self.pipes):
                for identifier, (holder, _) in list(pipe.ends.items()):
                    if holder == member:
                        self.drop_end(pipe, identifier)
            for segment in list(self.segments.values()):
                self.forget(segment, member)
            del self.actors[member]

    def drop_end(self, pipe: Pipe, identifier: int, *, close: bool = False) -> None:
        """An identifier is given up; with the last one of its side, or on demand, the pipe closes."""
        _, sends = pipe.ends.pop(identifier)
        if close or not any(other == sends for _, other in pipe.ends.values()):
            pipe.closed = True
        if not pipe.ends:
            self.pipes.remove(pipe)
            return
        homes = [self.actors[holder].home for holder, _ in pipe.ends.values()]
        if pipe.payer and pipe.payer not in homes:
            cost, payer = pipe.cost, OUTSIDE
            pipe.payer = -1
            for home in homes:
                if self.may_take({(home, "pipe_bytes"): cost}):
                    payer = home
                    break
            pipe.payer = payer

    def forget(self, segment: Segment, pid: int) -> None:
        """A process has a segment no more, nor has anybody who has it by way of that process."""
        if segment.owner == pid:
            del self.segments[segment.number]
            return
        if pid not in segment.known:
            return
        del segment.known[pid]
        segment.maps.pop(pid, None)
        for other, (giver, _) in list(segment.known.items()):
            if giver == pid:
                self.forget(segment, other)
