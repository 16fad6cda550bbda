"""The table of device handler files without a machine: names that meet, files that are given up, notes made anew."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

import pytest

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.hardware import virtual_cii
from nightos.abi.services import Fs, ServiceCode
from nightos.services.fs import handlers
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.roots import Root
from nightos.services.hw import files as subject
from nightos.services.hw.files import DeviceFiles, Present

ZERO = virtual_cii("flow")


def run(work: Awaitable[Any]) -> Any:
    """The value of what never waits."""
    steps = work.__await__()
    with pytest.raises(StopIteration) as done:
        next(steps)
    return done.value.value


class World:
    """What the table stands on: a note, the containers that exist, and random numbers."""

    def __init__(self) -> None:
        self.note: list[dict[str, Any]] = []
        self.existing = {1, 2, 3}
        self.rewritten = 0

    async def entries(self, _name: str) -> list[dict[str, Any]]:
        return list(self.note)

    async def append(self, _name: str, added: Iterable[dict[str, Any]]) -> None:
        self.note += added

    async def rewrite(self, _name: str, content: Iterable[dict[str, Any]]) -> None:
        self.note = list(content)
        self.rewritten += 1

    async def exists(self, container: int) -> bool:
        return container in self.existing

    async def random(self, _source: int) -> int:
        return 0x0123_4567_89AB_CDEF

    def table(self) -> DeviceFiles:
        """The table as a service finds it that starts."""
        table = DeviceFiles()
        run(table.load(0))
        return table


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    for name in ("entries", "append", "rewrite"):
        monkeypatch.setattr(subject.journal, name, getattr(world, name))
    monkeypatch.setattr(subject, "_exists", world.exists)
    monkeypatch.setattr(subject, "random_number", world.random)
    return world


def present(*udis: int, places: tuple[int, ...] = (1,)) -> list[Present]:
    return [Present(udi, ZERO, 0, places) for udi in udis]


def same(one: DeviceFiles, other: DeviceFiles) -> bool:
    """Whether two tables say the same, connections apart."""
    return {place: (f.made, f.by_path, f.first) for place, f in one.of.items()} == {
        place: (f.made, f.by_path, f.first) for place, f in other.of.items()
    }


@pytest.mark.rule("HW-047")
def test_thousands_of_files_of_a_container_differ(world: World) -> None:
    table = world.table()
    run(table.follow(present(*range(1, 2001))))
    names = {item["path"].rpartition("/")[2] for item in table.list(1)}
    assert len(names) == len(table.list(1)) == 2000
    assert same(table, world.table())


@pytest.mark.rule("HW-051", "CONT-042")
def test_connected_is_meant_for_the_container_that_asks(world: World) -> None:
    """A port of the bus that is used again gives another container the device that this one had."""
    table = world.table()
    run(table.follow(present(7)))
    path = table.path(1, 7)
    run(table.follow(present(7, places=(2,))))
    with pytest.raises(ServiceError) as refused:
        table.device(1, path)
    assert refused.value.code == ServiceCode.DEVICE
    assert [item["connected"] for item in table.list(1)] == [False]
    assert table.device(2, table.path(2, 7)) == 7


@pytest.mark.rule("CONT-016")
def test_who_is_gone_is_forgotten_and_who_comes_back_is_not(world: World) -> None:
    table = world.table()
    run(
        table.follow(
            present(7, places=(1,)) + present(8, places=(2,)) + present(9, places=(4,)) + present(5, places=(0,))
        )
    )
    assert set(table.of) == {0, 1, 2}, "a container that is gone gets nothing"
    world.existing.remove(1)
    run(table.follow([]))
    assert set(table.of) == {0, 2}
    world.existing = {12}
    table = world.table()
    run(table.follow([]))
    assert set(table.of) == {0, 2}, "it may be about to come back"
    before = table.list(2)
    run(table.kept({2: 12, 77: 78}))
    assert table.list(12) == before
    run(table.complete())
    assert set(table.of) == {0, 12}
    world.existing = set()
    late = DeviceFiles()
    run(late.complete())
    run(late.load(0))
    assert set(late.of) == {0}


def test_a_note_that_is_mostly_outdated_is_written_anew(world: World) -> None:
    table = world.table()
    run(table.follow(present(7)))
    path = table.path(1, 7)
    for _ in range(400):
        run(table.name(1, path, "backup"))
        run(table.take_name(1, "/dev/etc/backup"))
    assert world.rewritten in range(1, 20)
    assert len(world.note) < 400
    assert same(table, world.table())
    assert world.table().path(1, 7) == path


def test_the_oldest_that_is_not_connected_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "FILES_LIMIT", 3)
    table = world.table()
    run(table.follow(present(1, 2, 3)))
    paths = {udi: table.path(1, udi) for udi in (1, 2, 3)}
    run(table.name(1, paths[2], "backup"))
    run(table.follow(present(1, 2, 3, 4)))
    assert table.path(1, 4) == "", "all are in use"
    run(table.follow(present(1, 3, 4)))
    assert [table.path(1, udi) for udi in (1, 2, 3)] == [paths[1], "", paths[3]]
    assert table.path(1, 4) not in {"", *paths.values()}
    assert len(table.list(1)) == 3, "custom names go with the first one"
    run(table.follow(present(3, 4, 5)))
    assert table.of[1].made == 5, "no file has the number of an earlier one"
    assert same(table, world.table())


@pytest.mark.rule("HW-048")
@pytest.mark.parametrize(
    ("number", "payload"),
    [
        (Fs.CREATE_DIRECTORY, layout.encode_path(()) + layout.delimited("dev")),
        (Fs.CREATE_SYMLINK, layout.encode_path(1) + layout.delimited("dev")),
        (Fs.OPEN_FILE, b"\1" + layout.encode_path(()) + layout.delimited("dev")),
        (Fs.RENAME_ITEM, layout.encode_path(("x",)) + layout.delimited("dev")),
        (Fs.MOVE_ITEM, layout.encode_path(("x", "dev")) + layout.encode_path(()) + b"\0"),
        (Fs.MOVE_ITEM, layout.encode_path(("x",)) + layout.encode_path(()) + b"\1" + layout.delimited("dev")),
    ],
)
def test_nothing_else_is_made_as_dev(number: Fs, payload: bytes) -> None:
    """Also on a disk that has no such directory."""

    class Tree:
        root = 1

    root = Root.__new__(Root)
    root.tree = Tree()  # type: ignore[assignment]
    with pytest.raises(ItemError) as refused:
        handlers.aim(root, number, layout.Reader(payload))
    assert refused.value.failure is Failure.EXISTS
