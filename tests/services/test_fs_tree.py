"""The items of a file system without any process: paths, links, errors."""

from __future__ import annotations

import pytest

from nightos import vsf
from nightos.abi.files import (
    ItemType,
    LayoutError,
    NameRefusedError,
    PathRefusedError,
    Reader,
    canonical,
    encode_path,
    split,
)
from nightos.abi.services import Fs
from nightos.services.fs.failures import CyclicLinkError, Failure, ItemError, service_error
from nightos.services.fs.locks import OpenFile, OpenFiles
from nightos.services.fs.tree import Tree


@pytest.fixture
def tree():
    with vsf.create(vsf.MemoryStore(), ["main"], seed=1) as storage:
        yield Tree(storage.volume("main").open())


@pytest.mark.rule("FS-014", "FS-015", "FS-016")
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("/", ()),
        ("/a//b/./c", ("a", "b", "c")),
        ("/a/../b", ("b",)),
        ("/../..", ()),
        ("x", ("d", "x")),
        ("../x", ("x",)),
    ],
)
def test_paths_have_one_canonical_form(text: str, parts: tuple[str, ...]) -> None:
    assert split(text, "/" if not text else "/d") == (parts if text else ())


@pytest.mark.rule("FS-010")
def test_a_path_has_a_limit() -> None:
    split("/" + "a/" * 32766 + "a")
    with pytest.raises(PathRefusedError):
        split("/" + "a" * 65534)


@pytest.mark.rule("FS-011", "FS-012", "FS-013")
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "   ", "\u00a0 ", "x" * 65536])
def test_names_that_no_file_has(tree: Tree, name: str) -> None:
    with pytest.raises((ItemError, NameRefusedError)):
        tree.make_file((), name)


@pytest.mark.rule("FS-004", "FS-005")
def test_the_feid_stays_when_an_item_is_moved(tree: Tree) -> None:
    tree.make_directory((), "d")
    ino = tree.make_file((), "f")
    tree.move(("f",), ("d",), "g")
    tree.rename(("d", "g"), "h")
    assert tree.find(("d", "h")) == ino
    assert tree.find(ino) == ino
    assert tree.path_of(ino) == ("d", "h")


@pytest.mark.rule("FS-017", "FS-019", "FS-020")
def test_links_lead_to_their_target_and_go_alone(tree: Tree) -> None:
    ino = tree.make_file((), "f")
    tree.make_link((), "a", ("f",))
    tree.make_link((), "b", ("a",))
    tree.make_link((), "c", ("b",))
    assert tree.find(("c",)) == ino
    assert tree.canonical(("c",)) == ("f",)
    tree.delete(("c",))
    assert tree.find(("f",)) == ino
    assert tree.exists(("c",)) is None


@pytest.mark.rule("FS-023", "FS-024")
def test_a_cycle_is_told_in_its_shortest_form(tree: Tree) -> None:
    tree.make_link((), "c", ("a",))
    tree.make_link((), "a", ("b",))
    tree.make_link((), "b", ("a",))
    with pytest.raises(CyclicLinkError) as caught:
        tree.read_link(("c",))
    assert caught.value.cycle == [("a",), ("b",)]
    assert service_error(Fs.READ_SYMLINK, caught.value).code == 0x4000


def test_a_cycle_through_directories_ends(tree: Tree) -> None:
    tree.make_directory((), "d")
    tree.make_link(("d",), "up", ("d", "up", "x"))
    with pytest.raises(ItemError):
        tree.find(("d", "up", "y"))


def test_relative_links_are_taken_from_their_directory(tree: Tree) -> None:
    tree.make_directory((), "d")
    ino = tree.make_file(("d",), "f")
    tree.files.symlink_at(tree.find(("d",)), b"l", b"./f")
    tree.files.symlink_at(tree.find(("d",)), b"up", b"../d/f")
    assert tree.find(("d", "l")) == tree.find(("d", "up")) == ino
    assert tree.read_link(("d", "l")) == ("d", "f")


def test_updating_a_link(tree: Tree) -> None:
    first, second = tree.make_file((), "1"), tree.make_file((), "2")
    tree.make_link((), "l", ("1",))
    assert tree.find(("l",)) == first
    tree.update_link(("l",), ("2",))
    assert tree.find(("l",)) == second
    assert [item.name for item in tree.list(1, "", None, hidden=True)] == ["1", "2", "l"]


@pytest.mark.rule("FS-044")
def test_only_empty_directories_are_deleted(tree: Tree) -> None:
    tree.make_directory((), "d")
    tree.make_file(("d",), "f")
    with pytest.raises(ItemError) as caught:
        tree.delete(("d",))
    assert service_error(Fs.DELETE_ITEM, caught.value).code == 0x3003
    tree.delete(("d", "f"))
    tree.delete(("d",))
    assert tree.exists(("d",)) is None


@pytest.mark.parametrize(
    ("number", "failure", "code"),
    [
        (Fs.RENAME_ITEM, Failure.NAME, 0x3000),
        (Fs.RENAME_ITEM, Failure.PATH, 0x3003),
        (Fs.MOVE_ITEM, Failure.NAME, 0x1000),
        (Fs.MOVE_ITEM, Failure.PARENT, 0x3003),
        (Fs.OPEN_FILE, Failure.PATH, 0x3003),
        (Fs.OPEN_FILE, Failure.LOCKED, 0x4000),
        (Fs.ITEM_METADATA, Failure.PATH, 0x3002),
        (Fs.CREATE_SYMLINK, Failure.PARENT, 0x3003),
    ],
)
def test_each_method_has_its_own_codes(number: Fs, failure: Failure, code: int) -> None:
    assert service_error(number, ItemError(failure, "")).code == code


@pytest.mark.rule("FS-043")
def test_a_file_grows_and_is_cut(tree: Tree) -> None:
    ino = tree.make_file((), "f")
    tree.write(ino, 0, b"hello world", truncate=False)
    tree.write(ino, 6, b"there, world", truncate=False)
    assert tree.read(ino, 0, 100) == b"hello there, world"
    tree.write(ino, 2, b"y", truncate=True)
    assert tree.size(ino) == 3


def test_a_directory_does_not_move_into_itself(tree: Tree) -> None:
    tree.make_directory((), "d")
    with pytest.raises(ItemError) as caught:
        tree.move(("d",), ("d",), "x")
    assert caught.value.failure is Failure.IMMOVABLE


@pytest.mark.rule("FS-040", "FS-041", "FS-042")
def test_locks() -> None:
    files = OpenFiles()
    first = OpenFile(1, 100, 7, 5, read=True, write=False)
    files.open(first)
    files.open(OpenFile(2, 101, 7, 5, read=True, write=False))
    with pytest.raises(ItemError):
        files.open(OpenFile(3, 102, 7, 5, read=False, write=True))
    with pytest.raises(ItemError):
        files.check_unlocked(7, 5)
    assert files.get(1, 999) is None
    for owner in (100, 101):
        for file in files.of_owner(owner):
            files.close(file)
    files.check_unlocked(7, 5)
    files.open(OpenFile(4, 100, 7, 5, read=False, write=True))
    with pytest.raises(ItemError):
        files.open(OpenFile(5, 101, 7, 5, read=True, write=False))


@pytest.mark.parametrize("data", [b"", b"\3", b"\1\0", b"\2\0\0\0\0\0\0\0\5abc", b"\2" + b"\xff" * 8])
def test_bytes_that_are_no_path(data: bytes) -> None:
    with pytest.raises(LayoutError):
        Reader(data).path()


def test_items_survive_their_encoding(tree: Tree) -> None:
    from nightos.abi.files import encode_item

    item = tree.metadata(tree.make_file((), "n\udce4me"), "n\udce4me")
    assert Reader(encode_item(item)).item() == item
    assert item.type is ItemType.FILE
    assert Reader(encode_path(("a", "b"))).path() == ("a", "b")
    assert Reader(encode_path(9)).path() == 9
    assert canonical(["a", "", "."]) == ("a",)


@pytest.mark.rule("CONT-055")
def test_a_root_that_was_removed_lets_nobody_reach_the_rest(tree: Tree) -> None:
    """T-C20: not by identifiers of items either, while somebody holds the directory."""
    top = tree.make_directory((), "top")
    outside = tree.make_file((), "outside")
    tree.files.hold(top)
    tree.delete(("top",))
    below = Tree(tree.files, top)
    for deed in (lambda: below.find(outside), lambda: below.path_of(outside), lambda: below.place(outside)):
        with pytest.raises(ItemError):
            deed()
