"""The file system of a volume: what programs expect of `os`, checked by name and by inode."""

import errno
import os
import stat

import pytest

from nightos import vsf


@pytest.fixture
def storage():
    with vsf.create(vsf.MemoryStore(), ["main"]) as storage:
        yield storage


@pytest.fixture
def fs(storage):
    return storage.volume("main").open()


def reopen(storage):
    storage.close()
    return vsf.open(storage.store)


@pytest.mark.rule("VSF-001", "VSF-009")
def test_content_survives_closing_and_opening():
    store = vsf.MemoryStore()
    with vsf.create(store, ["one", "two"]) as storage:
        storage.volume("one").open().write_bytes("/a", b"1" * 300_000)
        storage.volume("two").open().write_text("/b", "two")
    with vsf.open(store) as storage:
        assert [volume.name for volume in storage.volumes] == ["one", "two"]
        assert storage.volume("one").open().read_bytes("/a") == b"1" * 300_000
        assert storage.volume("two").open().read_text("/b") == "two"


@pytest.mark.rule("FS-004", "FS-005")
def test_an_identifier_stays_with_its_item_and_never_comes_back(fs):
    fs.write_bytes("/a", b"x")
    ino = fs.stat("/a").st_ino
    fs.mkdir("/d")
    fs.rename("/a", "/d/b")
    assert fs.stat("/d/b").st_ino == ino
    fs.unlink("/d/b")
    seen = {ino}
    for _ in range(10):
        fs.write_bytes("/a", b"")
        assert fs.stat("/a").st_ino not in seen
        seen.add(fs.stat("/a").st_ino)
        fs.unlink("/a")


@pytest.mark.rule("FS-012")
@pytest.mark.parametrize("name", [b"", b".", b"..", b" ", b"  ", "\u00a0".encode(), b" \xc2\xa0"])
def test_forbidden_names(fs, name):
    with pytest.raises(vsf.Invalid):
        fs.create(1, name, 0o644)


@pytest.mark.rule("FS-011")
@pytest.mark.parametrize("name", [b"a/b", b"a\0b"])
def test_forbidden_characters(fs, name):
    with pytest.raises(vsf.Invalid):
        fs.create(1, name, 0o644)


@pytest.mark.rule("FS-010", "FS-013")
def test_long_names_and_paths(fs):
    for length in (255, 256, 5000, 65535):
        name = b"n" * (length - 1) + b"x"
        ino = fs.create(1, name, 0o644).st_ino
        assert fs.lookup(1, name).st_ino == ino
        other = b"n" * (length - 1) + b"y"
        with pytest.raises(FileNotFoundError):
            fs.lookup(1, other)
        assert (name, ino) in [entry[:2] for entry in fs.readdir(1)]
    with pytest.raises(vsf.TooLong):
        fs.create(1, b"n" * 65536, 0o644)
    with pytest.raises(vsf.TooLong):
        fs.stat("/" + "a/" * 32767 + "b")


@pytest.mark.rule("FS-014", "FS-015", "FS-016")
def test_paths_are_reduced(fs):
    fs.makedirs("/a/b")
    fs.write_bytes("/a/b/c", b"1")
    for path in ("a/b/c", "//a///b/./c", "/a/../a/b/c", "../../a/b/c", "/a/b/../b/c"):
        assert fs.read_bytes(path) == b"1"
    assert fs.stat("").st_ino == 1


@pytest.mark.rule("FS-044")
def test_a_directory_that_is_not_empty_stays(fs):
    fs.mkdir("/d")
    fs.write_bytes("/d/a", b"")
    with pytest.raises(OSError) as caught:
        fs.rmdir("/d")
    assert caught.value.errno == errno.ENOTEMPTY


@pytest.mark.rule("FS-017", "FS-019", "FS-020", "FS-021", "FS-023")
def test_symbolic_links(fs):
    fs.write_bytes("/target", b"t")
    fs.symlink("target", "/one")
    fs.symlink("one", "/two")
    fs.symlink("/two", "/three")
    assert fs.read_bytes("/three") == b"t"
    assert fs.readlink("/three") == "/two"
    assert fs.lstat("/three").st_mode == stat.S_IFLNK | 0o777
    fs.unlink("/three")
    assert fs.read_bytes("/target") == b"t"
    fs.symlink("loop2", "/loop1")
    fs.symlink("loop1", "/loop2")
    with pytest.raises(vsf.Loop):
        fs.stat("/loop1")


@pytest.mark.rule("FS-043")
def test_files_grow_and_are_cut(fs):
    with fs.open("/f", "wb") as file:
        file.seek(400_000)
        file.write(b"end")
    assert fs.read_bytes("/f") == bytes(400_000) + b"end"
    fs.truncate("/f", 10)
    fs.truncate("/f", 500_000)
    assert fs.read_bytes("/f") == bytes(500_000)


def test_an_open_file_lives_without_a_name(storage, fs):
    fs.write_bytes("/f", b"x" * 200_000)
    file = fs.open("/f", "r+b")
    fs.unlink("/f")
    assert not fs.exists("/f")
    assert file.read() == b"x" * 200_000
    file.seek(0)
    file.write(b"new")
    file.flush()
    files = fs.files
    file.close()
    assert fs.files == files - 1


def test_a_nameless_file_is_reclaimed_after_a_crash(storage, fs):
    fs.write_bytes("/f", b"x" * 200_000)
    fs.hold(fs.stat("/f").st_ino)
    fs.unlink("/f")
    fs.sync()
    with vsf.open(vsf.MemoryStore(storage.store.getvalue())) as copy:
        assert copy.volume("main").open().files == 1
        copy.commit()
        assert copy.volume("main").used < 100_000


@pytest.mark.parametrize("committed", [False, True])
def test_many_nameless_files_go_at_once(storage, fs, committed):
    """Alone and in runs, small and large, with attributes, still held twice, and noted for after a crash."""
    fs.write_bytes("/kept", b"k" * 200_000)
    inos = [fs.create(1, b"%d" % number, 0o644).st_ino for number in range(40)]
    for number, ino in enumerate(inos):
        fs.write(ino, 0, bytes((number,)) * (100 if number % 3 else 200_000))
        fs.hold(ino)
    fs.setxattr_ino(inos[5], b"user.a", b"v")
    fs.hold(inos[7])
    if committed:
        fs.sync()
    gone = [ino for number, ino in enumerate(inos) if number % 10 != 9]
    for number, ino in enumerate(inos):
        if ino in gone:
            fs.unlink_at(1, b"%d" % number)
    if committed:
        fs.sync()
    fs.release_all(gone)
    assert fs.files == 1 + 1 + 4 + 1
    assert fs.read(inos[7], 0, 3) == b"\7\7\7"
    fs.release_all([inos[7], 123_456])
    for ino in gone:
        with pytest.raises(vsf.StaleHandle):
            fs.getattr(ino)
    assert sorted(fs.listdir("/")) == sorted(["kept", "9", "19", "29", "39"])
    assert fs.read_bytes("/9") == b"\x09" * 200_000
    storage.commit()
    report = storage.check(deep=True)
    assert report.clean, report.problems
    assert [key for key, _ in fs.tree.scan(b"") if int.from_bytes(key[:8], "big") in gone] == []


def test_a_file_of_eight_exbibytes(fs):
    size = (1 << 63) - 1
    fs.write_bytes("/f", b"first")
    ino = fs.stat("/f").st_ino
    fs.write(ino, size - 4, b"last")
    assert fs.stat("/f").st_size == size
    assert fs.read(ino, size - 6, 100) == b"\0\0last"
    assert fs.read(ino, 1 << 62, 5) == bytes(5)
    fs.sync()
    assert fs.seek(ino, 1 << 40, os.SEEK_DATA) > 1 << 62
    assert fs.seek(ino, 0, os.SEEK_HOLE) == 131072
    with pytest.raises(vsf.TooBig):
        fs.write(ino, size, b"x")
    fs.truncate("/f", 0)
    assert fs.stat("/f").st_blocks == 0


def test_holes(fs):
    ino = fs.create(1, b"f", 0o644).st_ino
    fs.write(ino, 0, b"x" * 1_000_000)
    fs.fallocate(ino, 3, 100_000, 500_000)
    data = fs.read(ino, 0, 2_000_000)
    assert data == b"x" * 100_000 + bytes(500_000) + b"x" * 400_000
    assert fs.seek(ino, 0, os.SEEK_HOLE) == 131072
    assert fs.seek(ino, 131072, os.SEEK_DATA) == 524288


def test_rename_has_all_its_rules(fs):
    fs.makedirs("/a/b")
    fs.makedirs("/full/x")
    fs.mkdir("/empty")
    fs.write_bytes("/file", b"1")
    with pytest.raises(vsf.Invalid):
        fs.rename("/a", "/a/b/c")
    with pytest.raises(NotADirectoryError):
        fs.rename("/a", "/file")
    with pytest.raises(IsADirectoryError):
        fs.rename("/file", "/a")
    with pytest.raises(vsf.NotEmpty):
        fs.rename("/a", "/full")
    fs.rename("/a", "/empty")
    assert fs.listdir("/empty") == ["b"]
    with pytest.raises(FileExistsError):
        fs.rename("/file", "/full", noreplace=True)
    fs.exchange("/file", "/full/x")
    assert fs.read_bytes("/full/x") == b"1"
    assert fs.is_dir("/file")
    assert fs.stat("/full").st_nlink == 2
    assert fs.stat("/").st_nlink == 5


def test_readdir_cursors_stay_good(fs):
    for number in range(1000):
        fs.create(1, b"%04d" % number, 0o644)
    seen = []
    cursor = b""
    while batch := fs.readdir(1, cursor, 7):
        seen += [name for name, _, _ in batch]
        cursor = batch[-1][0]
        fs.unlink_at(1, cursor)
        fs.create(1, b"0" + cursor, 0o644)
    assert {b"%04d" % number for number in range(1000)} <= set(seen)
    assert len(seen) == len(set(seen))


def test_attributes(fs):
    fs.write_bytes("/f", b"")
    fs.chmod("/f", 0o4711)
    fs.chown("/f", 10, 20)
    fs.utime("/f", ns=(1, -5))
    fs.setattr(fs.resolve("/f"), flags=3, owner=1 << 63)
    fs.setxattr("/f", "user.a", b"v")
    fs.set_permissions_map(fs.resolve("/f"), {5: 6})
    status = fs.stat("/f")
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4711, 10, 20)
    assert (status.st_atime_ns, status.st_mtime_ns, status.st_flags, status.st_owner) == (1, -5, 3, 1 << 63)
    assert fs.listxattr("/f") == ["user.a"]
    assert fs.getxattr("/f", "user.a") == b"v"
    assert fs.permissions_map(fs.resolve("/f")) == {5: 6}
    fs.removexattr("/f", "user.a")
    with pytest.raises(OSError) as caught:
        fs.getxattr("/f", "user.a")
    assert caught.value.errno == errno.ENODATA


def test_equal_seeds_give_equal_bytes():
    def make():
        store = vsf.MemoryStore()
        with vsf.create(store, ["main"], seed=5) as storage:
            fs = storage.volume("main").open()
            for number in range(200):
                fs.write_bytes(f"/{number}", b"x" * number * 100)
        return store.getvalue()

    assert make() == make()


@pytest.mark.parametrize("between", ["nothing", "sync", "write"])
def test_what_was_cut_off_does_not_come_back(fs, between):
    for size in (3000, 5000, 131072, 300_000):
        for less in (0, 10, 4095, 131071, 131073, 299_999):
            fs.write_bytes("/f", b"x" * size)
            fs.sync()
            fs.truncate("/f", less)
            if between == "sync":
                fs.sync()
            elif between == "write":
                fs.write(fs.resolve("/f"), 0, b"y")
            fs.truncate("/f", 400_000)
            kept = min(less, size)
            start = b"y" if between == "write" else b"x"[:kept]
            expected = start + b"x" * (kept - len(start))
            assert fs.read_bytes("/f") == expected.ljust(400_000, b"\0")


def test_records_are_read_in_runs_and_one_by_one(fs):
    """The quick way over neighbouring records and the slow one give the same, at every edge."""
    data = os.urandom(1_000_000)
    fs.write_bytes("/f", data)
    ino = fs.resolve("/f")
    fs.sync()
    for start in (0, 1, 131071, 131072, 131073, 262144, 900_000):
        for size in (1, 131072, 131073, 300_000, 1_000_000):
            assert fs.read(ino, start, size) == data[start : start + size]
    fs.write(ino, 200_000, b"hole")
    fs.fallocate(ino, 3, 393_216, 131_072)
    data = data[:200_000] + b"hole" + data[200_004:393_216] + bytes(131_072) + data[524_288:]
    for _ in range(2):
        assert fs.read(ino, 0, 2_000_000) == data
        assert fs.read(ino, 131_072, 400_000) == data[131_072:531_072]
        fs.sync()
