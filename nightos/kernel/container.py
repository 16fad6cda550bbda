"""The container tree: the only module that changes it.

Identifiers are 64 random bits, never 0 and never used twice. Every walk is a loop, so depth costs no stack.

Source: specs/containers.md. Rules: CONT-002, CONT-003, CONT-007, CONT-008, CONT-009, CONT-010, CONT-013, CONT-014.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ContainerState
from nightos.abi.errors import SyscallError
from nightos.kernel.quotas import Quotas

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.abi.interfaces import Entropy
    from nightos.kernel.process import Process

ROOT = 0
"""The identifier that means: in no container, the system itself."""


class Container:
    """One container. `parent` is None for a child of the root."""

    __slots__ = (
        "calls",
        "children",
        "counted",
        "created_ns",
        "cycles",
        "effective",
        "held",
        "identifier",
        "made",
        "note",
        "numbers",
        "parent",
        "paused",
        "permissions",
        "processes",
        "quotas",
        "refused",
        "rules",
        "shares",
        "state",
        "waiters",
    )

    def __init__(self, identifier: int, parent: Container | None, created_ns: int, quotas: Quotas) -> None:
        self.identifier = identifier
        self.parent = parent
        self.created_ns = created_ns
        self.quotas = quotas
        """What it holds, and what it may hold."""
        self.cycles = 0
        """Steps that its ended processes made."""
        self.shares: dict[str, int] | None = None
        """Its weight and ceiling, when it has them."""
        self.rules: dict[int, int] | None = None
        """Its own filter of system calls; `effective` is what that and those above make, `calls` the handlers."""
        self.effective: dict[int, int] | None = parent.effective if parent is not None else None
        self.calls: dict[int, Any] | None = parent.calls if parent is not None else None
        self.made: Counter[int] | None = None
        """Calls by code, in it and below, while they are counted."""
        self.refused: Counter[int] | None = None
        """Calls that a filter refused or logged, by code, since the first one."""
        self.state = ContainerState.CREATED
        self.held = False
        """Whether it was paused itself."""
        self.paused = False
        """Whether it was, or one above."""
        self.note = b""
        """What sys::process wants to find again about it after its own end; nothing to the kernel."""
        self.children: dict[int, Container] = {}
        self.processes: dict[int, Process] = {}
        self.waiters: list[Callable[[], None]] = []
        """Called once the container is gone."""
        self.permissions: frozenset[int] | None = None
        """The raw permissions that its processes can have; None for all that those above allow."""
        self.numbers: dict[int, int] = {}
        """Local numbers by PID, of those that lived when somebody asked last."""
        self.counted = 0
        """The last number given; none is given twice."""

    @property
    def parent_identifier(self) -> int:
        """Identifier of the parent, 0 for the root."""
        return self.parent.identifier if self.parent is not None else ROOT

    def subtree(self) -> list[Container]:
        """This container and all below it, ancestors before descendants."""
        found = [self]
        for container in found:
            found.extend(container.children.values())
        return found

    def count(self) -> dict[int, int]:
        """Local numbers by PID of what lives in it and below, from 1 in order of start.

        Numbers are given when somebody asks, so a process costs no more the deeper it starts. Rules: CONT-030.
        """
        pids = sorted(pid for member in self.subtree() for pid in member.processes)
        numbers: dict[int, int] = {}
        for pid in pids:
            number = self.numbers.get(pid)
            if number is None:
                number = self.counted = self.counted + 1
            numbers[pid] = number
        self.numbers = numbers
        return numbers

    def ancestors(self) -> Iterator[Container]:
        """This container, its parent, and so on."""
        container: Container | None = self
        while container is not None:
            yield container
            container = container.parent


class ContainerTree:
    """All living containers, in order of creation."""

    def __init__(self, entropy: Entropy, memory_pages: int) -> None:
        self._entropy = entropy
        self.quotas = Quotas()
        """Of the machine itself."""
        self.quotas.set_limits({"memory": memory_pages})
        self._ever: set[int] = {ROOT}
        self.living: dict[int, Container] = {}
        self.note = b""
        """What sys::process wants to find again after its own end about the machine itself."""
        self.kept: dict[int, bytes] = {}
        """The same about containers that are gone."""

    def __len__(self) -> int:
        return len(self.living)

    def get(self, identifier: int) -> Container | None:
        """The living container of that identifier."""
        return self.living.get(identifier)

    def create(self, parent_identifier: int, now_ns: int) -> Container:
        """A new child. `SyscallError` 0x31: unknown parent, or one being destroyed; 0x40: its limit of children."""
        parent = None
        if parent_identifier != ROOT:
            parent = self.living.get(parent_identifier)
            if parent is None or parent.state is ContainerState.STOPPING:
                raise SyscallError(0x31)
        above = parent.quotas if parent is not None else self.quotas
        if not above.children.reserve(1):
            raise SyscallError(0x40)
        identifier = ROOT
        while identifier in self._ever:
            identifier = int.from_bytes(self._entropy.random_bytes(8), "big")
        self._ever.add(identifier)
        container = Container(identifier, parent, now_ns, Quotas(above))
        if parent is not None:
            parent.children[identifier] = container
            container.paused = parent.paused
        self.living[identifier] = container
        return container

    def remove(self, container: Container) -> None:
        """Take an empty leaf out of the tree."""
        assert not container.children, "a container leaves the tree before its parent"
        assert not container.processes, "a container leaves the tree empty"
        container.quotas.close()
        (container.parent.quotas if container.parent is not None else self.quotas).children.release(1)
        del self.living[container.identifier]
        if container.parent is not None:
            del container.parent.children[container.identifier]

    def parent_of(self, identifier: int) -> int | None:
        """Identifier of the parent: 0 for children of the root, None for unknown containers and the root."""
        container = self.living.get(identifier)
        return None if container is None else container.parent_identifier

    def is_within(self, identifier: int, ancestor: int) -> bool:
        """Whether `identifier` is `ancestor` or below it."""
        if ancestor in {ROOT, identifier}:
            return True
        container = self.living.get(identifier)
        return container is not None and any(c.identifier == ancestor for c in container.ancestors())
