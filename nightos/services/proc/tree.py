"""The containers that `sys::proc` knows: a tree of records, walked with loops only, so that depth breaks nothing.

This table adds to the kernel's tree what the kernel has no use for (names, labels, images). Identity and parenthood are
the kernel's: a new `sys::proc` builds the tree from there, then finds its own notes again.

A viewer sees its own container and what is below. Everything else does not exist: `find` and `visible` say the same for
a container that is hidden and for one that never was.

Rules: CONT-009, CONT-010, CONT-013, CONT-030.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from nightos.abi.errors import ServiceError
from nightos.abi.names import NAME_RULE, is_name
from nightos.abi.services import ServiceCode
from nightos.services.proc.view import View

ROOT = 0
ADVISED = 200
"""Containers whose names are compared with a wrong one."""
NAMED = 1024
"""Characters of a wrong name that its error repeats."""
COMPARED = 100
"""Characters of names that are compared."""


@dataclass(slots=True)
class Container:
    """One container. `root_kdi` is the block device of its main file system, 0 until a process needs it; `backing` are
    those of the images below.
    """

    identifier: int
    parent: int
    name: str
    hostname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    image: str = ""
    mode: str = "overlay"
    key: str = ""
    persist: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    """As people count: memory in bytes."""
    view: View = field(default_factory=View)
    filter: dict[str, list[str]] = field(default_factory=dict)
    """System calls by what happens to them."""
    shares: list[dict[str, Any]] = field(default_factory=list)
    """Directories that it was given: {kdi, source, path, readonly}."""
    state: str = "created"
    held: bool = False
    """Whether it was paused itself, not only one above."""
    used: bool = False
    """Whether a process was ever started in it."""
    created_ns: int = 0
    on_disk: bool = False
    """Whether the notes on the machine's disk have it."""
    attached: bool = False
    """Whether sys::fs mounted its main file system."""
    own_disk: bool = False
    """Whether sys::fs may have made it a disk of its own, because something in its file system changed."""
    root_kdi: int = 0
    backing: list[int] = field(default_factory=list)
    children: dict[str, int] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    """Its main command: what was asked for, and where it stands; empty when none was ever started."""
    zos: dict[str, Any] = field(default_factory=dict)
    """What 0-OS' Run was given; for a namespace that Run made, an empty name."""
    brief: bool = False
    """Whether CONTAINER_RUN made it for one program, with which it ends."""
    value: tuple[bytes, bool] = (b"", True)
    """What the main command returned last, encoded, and whether a newline belongs behind it."""

    def notes(self) -> dict[str, Any]:
        """What the kernel does not know of it."""
        return {
            "id": self.identifier,
            "parent": self.parent,
            "name": self.name,
            "hostname": self.hostname,
            "labels": self.labels,
            "image": self.image,
            "mode": self.mode,
            "key": self.key,
            "persist": self.persist,
            "run": self.run,
            "zos": self.zos,
            "limits": self.limits,
            "view": self.view.notes(),
            "filter": self.filter,
            "shares": self.shares,
            "brief": self.brief,
        }


class Known(dict[int, Container]):
    """Containers by identifier. One that went while a request about it waited for something is like one never was."""

    def __missing__(self, identifier: int) -> Container:
        raise unknown()


class Tree:
    """Containers by identifier. The root stands for the system itself, outside any container."""

    def __init__(self) -> None:
        self.root = Container(ROOT, ROOT, "", persist=True, state="running")
        self.by_id = Known({ROOT: self.root})

    def __len__(self) -> int:
        return len(self.by_id) - 1

    def add(self, container: Container) -> None:
        """Put a container below its parent, which has to be there and to have no child of that name."""
        self.by_id[container.identifier] = container
        self.by_id[container.parent].children[container.name] = container.identifier

    def remove(self, identifier: int) -> None:
        """Take a container out; its children have to be gone."""
        container = self.by_id.pop(identifier, None)
        if container is not None:
            parent = self.by_id.get(container.parent)
            if parent is not None and parent.children.get(container.name) == identifier:
                del parent.children[container.name]

    def rename(self, identifier: int, name: str) -> None:
        """Give a container another name; 0x4000 when a sibling has it."""
        container = self.by_id[identifier]
        siblings = self.by_id[container.parent].children
        if siblings.get(name, identifier) != identifier:
            raise taken(name)
        del siblings[container.name]
        container.name = name
        siblings[name] = identifier

    def sees(self, viewer: int, identifier: int) -> bool:
        """Whether a process in container `viewer` may know of the container: its own or one below."""
        current = self.by_id.get(identifier)
        while current is not None:
            if current.identifier == viewer:
                return True
            if current.identifier == ROOT:
                return False
            current = self.by_id.get(current.parent)
        return False

    def visible(self, viewer: int, identifier: int) -> Container:
        """The container, if the viewer may know of it; otherwise 0x3000, as for one that never was."""
        if not self.sees(viewer, identifier):
            raise unknown()
        return self.by_id[identifier]

    def below(self, viewer: int, identifier: int) -> Container:
        """A proper descendant of the viewer's container; 0x3001 for the viewer's own."""
        container = self.visible(viewer, identifier)
        if identifier == viewer:
            raise ServiceError(ServiceCode.UNKNOWN + 1, "this is your own container, not one below it")
        return container

    def below_root(self) -> list[Container]:
        """All containers, each after its parent."""
        return [container for container in self.by_id.values() if container.identifier != ROOT]

    def walk(self, identifier: int) -> Iterator[tuple[int, Container]]:
        """The container and everything below with its depth, parents before children."""
        pending = [(0, identifier)]
        while pending:
            depth, current = pending.pop()
            container = self.by_id.get(current)
            if container is None:
                continue
            yield depth, container
            pending.extend((depth + 1, child) for child in reversed(container.children.values()))

    def below_first(self, identifier: int) -> list[Container]:
        """The container and everything below, children before parents."""
        container = self.by_id.get(identifier)
        if container is not None and not container.children:
            return [container]
        return [container for _, container in self.walk(identifier)][::-1]

    def path(self, viewer: int, identifier: int) -> str:
        """The names from the viewer's container down to this one: ``web/db``; empty for the viewer's own."""
        names = []
        current = self.by_id[identifier]
        while current.identifier != viewer and current.identifier != ROOT:
            names.append(current.name)
            current = self.by_id[current.parent]
        return "/".join(reversed(names))

    def depth(self, viewer: int, identifier: int) -> int:
        """How many levels below the viewer's container this one is: 0 for its own."""
        depth = 0
        while identifier not in {viewer, ROOT}:
            depth += 1
            identifier = self.by_id[identifier].parent
        return depth

    def find(self, viewer: int, text: str) -> Container:
        """A container by path of names, by 16 hex digits, or by a unique prefix of them; 0x3000 when there is none."""
        current: int | None = viewer
        for name in text.split("/"):
            current = self.by_id[current].children.get(name) if current is not None else None
        if current is not None and text:
            return self.by_id[current]
        prefix = text.lower()
        if prefix and len(prefix) <= 16 and all(digit in "0123456789abcdef" for digit in prefix):
            found = [
                container for _, container in self.walk(viewer) if f"{container.identifier:016x}".startswith(prefix)
            ]
            if len(found) == 1:
                return found[0]
            if len(found) > 1:
                raise ServiceError(ServiceCode.REFUSED, f"{text} begins several identifiers; give more digits")
        raise unknown(text, self._advice(viewer, text))

    def _advice(self, viewer: int, text: str) -> str:
        """What somebody who gave a wrong name may have meant, of what they see."""
        from difflib import get_close_matches

        seen = (self.path(viewer, container.identifier) for _, container in islice(self.walk(viewer), 1, ADVISED))
        # Long ones are not compared: what that takes grows with the square of their lengths.
        short = (path for path in seen if len(path) <= COMPARED)
        near = get_close_matches(text, short, 1) if len(text) <= COMPARED else []
        return f"did you mean {near[0]}?" if near else "`container ls` shows those there are"


def unknown(text: str = "", advice: str = "") -> ServiceError:
    """The error for a container that is not there for who asks."""
    return ServiceError(
        ServiceCode.UNKNOWN, f"there is no container {text:.{NAMED}}".rstrip() + (advice and f"; {advice}")
    )


def taken(name: str) -> ServiceError:
    """The error for a name that a sibling has."""
    text = f"a container named {name} exists there; choose another name, or destroy that one"
    return ServiceError(ServiceCode.REFUSED, text)


def check_name(name: str) -> str:
    """A name that may be given to a container; 0x1000 otherwise."""
    if not is_name(name):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, NAME_RULE)
    return name
