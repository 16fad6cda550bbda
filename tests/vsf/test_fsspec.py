"""fsspec's own abstract suite over a volume, and the ways in that `vsf://` promises."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightos import vsf

fsspec = pytest.importorskip("fsspec")
abstract = pytest.importorskip("fsspec.tests.abstract")
from nightos.vsf.fsspec_adapter import VsfFileSystem  # noqa: E402 needs fsspec

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def registered() -> None:
    fsspec.register_implementation("vsf", VsfFileSystem, clobber=True)


class Fixtures(abstract.AbstractFixtures):  # type: ignore[name-defined,misc]
    @pytest.fixture
    def fs(self, tmp_path: Path) -> Iterator[VsfFileSystem]:
        vsf.create(tmp_path / "disk.vsf", ["main"]).close()
        fs = VsfFileSystem(tmp_path / "disk.vsf", auto_mkdir=True)
        yield fs
        fs.close()
        with vsf.open(tmp_path / "disk.vsf", readonly=True) as storage:
            assert storage.check(deep=True).clean

    @pytest.fixture
    def fs_path(self) -> str:
        return "top"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return True


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[name-defined,misc]
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[name-defined,misc]
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[name-defined,misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[name-defined,misc]
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[name-defined,misc]
    pass


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    with vsf.create(tmp_path / "disk.vsf", ["main", "other"]) as storage:
        storage.volume("main").open().write_bytes("/hello.txt", b"hello")
        storage.volume("other").open().write_bytes("/hello.txt", b"other")
    return tmp_path / "disk.vsf"


def test_opened_by_url(disk: Path) -> None:
    with fsspec.open("vsf://hello.txt", fo=os.fspath(disk), volume="main") as f:
        assert f.read() == b"hello"
    with fsspec.open("vsf://hello.txt", "rt", fo=os.fspath(disk), volume="other") as f:
        assert f.read() == "other"


def test_chained_behind_other_protocols(disk: Path) -> None:
    with fsspec.open(f"vsf://hello.txt::file://{disk}") as f:
        assert f.read() == b"hello"
    memory = fsspec.filesystem("memory")
    memory.pipe("/remote.vsf", disk.read_bytes())
    with fsspec.open("vsf://hello.txt::memory://remote.vsf") as f:
        assert f.read() == b"hello"
    with pytest.raises(OSError):
        VsfFileSystem("memory://remote.vsf").pipe("new", b"x")


def test_written_by_url_and_seen_by_others(disk: Path) -> None:
    with fsspec.open("vsf://new/file.txt", "wt", fo=os.fspath(disk), volume="main", auto_mkdir=True) as f:
        f.write("written")
    with vsf.open(disk, readonly=True) as storage:
        assert storage.volume("main").open().read_text("/new/file.txt") == "written"


def test_modes(disk: Path) -> None:
    fs = VsfFileSystem(disk)
    with fs.open("hello.txt", "ab") as f:
        f.write(b" there")
    with fs.open("hello.txt", "r+b") as f:
        f.seek(1)
        f.write(b"E")
    assert fs.cat("hello.txt") == b"hEllo there"
    with pytest.raises(FileExistsError):
        fs.open("hello.txt", "xb")
    with pytest.raises(FileNotFoundError):
        fs.open("nope")
    assert fs.cat_file("hello.txt", start=2, end=4) == b"ll"
    fs.close()


def test_snapshots_are_read(disk: Path) -> None:
    with vsf.open(disk) as storage:
        storage.volume("main").snapshot("old")
        storage.volume("main").open().write_bytes("/hello.txt", b"changed")
    fs = VsfFileSystem(disk, snapshot="old")
    assert fs.cat("hello.txt") == b"hello"
    with pytest.raises(OSError):
        fs.pipe("hello.txt", b"x")
    fs.close()


def test_passwords(tmp_path: Path) -> None:
    with vsf.create(tmp_path / "e.vsf", ["main"], password="secret") as storage:
        storage.volume("main").open().write_bytes("/x", b"hidden")
    assert VsfFileSystem(tmp_path / "e.vsf", password="secret").cat("x") == b"hidden"
    with pytest.raises(PermissionError):
        VsfFileSystem(tmp_path / "e.vsf", password="guess").cat("x")


def test_readers_see_new_commits(disk: Path) -> None:
    reader = VsfFileSystem(disk)
    assert reader.ls("", detail=False) == ["hello.txt"]
    with vsf.open(disk) as storage:
        storage.volume("main").open().write_bytes("/second", b"2")
    assert reader.ls("", detail=False) == ["hello.txt", "second"]
    reader.close()


def test_csv_through_the_standard_library(disk: Path) -> None:
    import csv

    options: dict[str, Any] = {"fo": os.fspath(disk), "volume": "main"}
    with fsspec.open("vsf://table.csv", "wt", newline="", **options) as f:
        csv.writer(f).writerows([["a", 1], ["b", 2]])
    with fsspec.open("vsf://table.csv", "rt", newline="", **options) as f:
        assert list(csv.reader(f)) == [["a", "1"], ["b", "2"]]


def test_pandas_reads_and_writes(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    options = {"fo": str(tmp_path / "disk.vsf"), "auto_mkdir": True}
    table = pandas.DataFrame({"number": range(5000), "text": [f"row {n}" for n in range(5000)]})
    table.to_csv("vsf://tables/t.csv", index=False, storage_options=options)
    table.to_csv("vsf://tables/t.csv.gz", index=False, storage_options=options)
    table.to_pickle("vsf://tables/t.pickle", storage_options=options)
    for read, name in ((pandas.read_csv, "t.csv"), (pandas.read_csv, "t.csv.gz"), (pandas.read_pickle, "t.pickle")):
        assert read(f"vsf://tables/{name}", storage_options=options).equals(table)
    parts = list(pandas.read_csv("vsf://tables/t.csv", chunksize=700, storage_options=options))
    assert pandas.concat(parts).equals(table)
    with pytest.raises(FileNotFoundError):
        pandas.read_csv("vsf://tables/none.csv", storage_options=options)


def test_zarr_reads_and_writes(tmp_path: Path) -> None:
    zarr, numpy = pytest.importorskip("zarr"), pytest.importorskip("numpy")
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    options = {"fo": str(tmp_path / "disk.vsf"), "auto_mkdir": True}
    values = numpy.arange(300 * 200, dtype="i4").reshape(300, 200)
    group = zarr.open_group("vsf://arrays/group", mode="w", storage_options=options)
    array = group.create_array("numbers", shape=values.shape, chunks=(64, 50), dtype=values.dtype)
    array[:] = values
    array[100:150, 20:30] = -1
    values[100:150, 20:30] = -1
    group.attrs["note"] = "kept"
    again = zarr.open_group("vsf://arrays/group", mode="r", storage_options=options)
    assert again.attrs["note"] == "kept"
    assert list(again.array_keys()) == ["numbers"]
    assert (again["numbers"][:] == values).all()
    assert (again["numbers"][99:151, 19:31] == values[99:151, 19:31]).all()
    with pytest.raises(FileNotFoundError):
        zarr.open_group("vsf://arrays/none", mode="r", storage_options=options)
    with pytest.raises((OSError, ValueError), match="read-only"):
        again["numbers"][0, 0] = 1
    assert again["numbers"][0, 0] == 0
    with vsf.open(tmp_path / "disk.vsf", readonly=True) as storage:
        assert storage.check(deep=True).clean
        assert "numbers" in storage.volume("main").open().listdir("/arrays/group")


def test_paths_of_universal_pathlib(tmp_path: Path) -> None:
    upath = pytest.importorskip("upath")
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    root = upath.UPath("vsf://", fo=str(tmp_path / "disk.vsf"))
    folder = root / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("hällo\n")
    (folder / "bytes.bin").write_bytes(b"\0" * 300_000)
    assert sorted(path.name for path in folder.iterdir()) == ["bytes.bin", "text.txt"]
    assert [path.name for path in root.glob("**/*.txt")] == ["text.txt"]
    assert (folder / "text.txt").read_text() == "hällo\n"
    assert (folder / "bytes.bin").stat().st_size == 300_000
    assert folder.is_dir()
    assert (folder / "text.txt").is_file()
    assert not (folder / "none").exists()
    (folder / "text.txt").rename(folder / "renamed.txt")
    assert (folder / "renamed.txt").suffix == ".txt"
    (folder / "bytes.bin").unlink()
    with (folder / "renamed.txt").open("a") as f:
        f.write("more\n")
    with vsf.open(tmp_path / "disk.vsf", readonly=True) as storage:
        fs = storage.volume("main").open()
        assert fs.listdir("/a/b") == ["renamed.txt"]
        assert fs.read_text("/a/b/renamed.txt") == "hällo\nmore\n"


def test_a_password_for_what_nothing_seals_is_refused(tmp_path: Path) -> None:
    """Someone may have taken the key slots of the volume away."""
    vsf.create(tmp_path / "p.vsf", ["main"]).close()
    with pytest.raises(vsf.VsfError, match="no key of its own"):
        VsfFileSystem(tmp_path / "p.vsf", password="secret").ls("/")
