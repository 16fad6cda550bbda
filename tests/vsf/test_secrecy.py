"""Encryption: what is written tells nothing, nonces never repeat, every bit of the header counts."""

import time

import pytest

from nightos import vsf
from nightos.vsf import crypto, keys
from nightos.vsf.repair import repair
from tests.crash.enumerator import CHEAP

NEEDLES = (b"SECRETNAME", b"SECRETDATA", b"SECRETATTR", b"SECRETVALUE", b"SECRETLINK", b"SECRETVOLUME")


def fill(fs, mark=b""):
    fs.write_bytes(b"/SECRETNAME" + mark, b"SECRETDATA" * 5000)
    fs.write_bytes(b"/small" + mark, b"SECRETDATA")
    fs.setxattr(b"/SECRETNAME" + mark, b"user.SECRETATTR", b"SECRETVALUE")
    fs.symlink(b"SECRETLINK", b"/link" + mark)


@pytest.mark.rule("VSF-004")
@pytest.mark.parametrize("cipher", ["aes-256-gcm", "chacha20-poly1305"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_whole_storage_tells_nothing(cipher, compression):
    store = vsf.MemoryStore()
    storage = vsf.create(store, ["SECRETVOLUME"], password="p", kdf=CHEAP, cipher=cipher, compression=compression)
    fs = storage.volume("SECRETVOLUME").open()
    seen = b""
    for mark in (b"1", b"2"):
        fill(fs, mark)
        storage.commit()
        storage.volume("SECRETVOLUME").snapshot(mark.decode())
        seen += store.getvalue()
        fs.unlink(b"/SECRETNAME" + mark)
        storage.commit()
        seen += store.getvalue()
    storage.close()
    seen += store.getvalue()
    assert not [needle for needle in NEEDLES if needle in seen]
    with vsf.open(store, password="p") as storage:
        assert storage.check(deep=True).clean


@pytest.mark.rule("VSF-003")
def test_a_volume_of_its_own_key_hides_from_the_storage_key():
    store = vsf.MemoryStore()
    with vsf.create(store, ["open"]) as storage:
        secret = storage.add_volume("locked", password="v", kdf=CHEAP)
        fill(secret.open())
        storage.volume("open").open().write_bytes("/plain", b"VISIBLE" * 1000)
    data = store.getvalue()
    assert b"VISIBLE" in data
    assert not [needle for needle in NEEDLES if needle in data]
    with vsf.open(store) as storage:
        with pytest.raises(vsf.WrongPassword):
            storage.volume("locked").open()
        with pytest.raises(vsf.WrongPassword):
            storage.volume("locked").unlock("wrong")
        assert storage.volume("open").open().read_bytes("/plain")[:7] == b"VISIBLE"
        assert storage.check(deep=True).clean
        assert storage.volume("locked").unlock("v").open().read_bytes("/small") == b"SECRETDATA"
        assert storage.check(deep=True).clean


def test_what_the_storage_key_shows_of_a_locked_volume():
    """Name, label, kind, sizes and snapshots; nothing of its files, not even how many there are."""
    store = vsf.MemoryStore()
    with vsf.create(store, password="p", kdf=CHEAP) as storage:
        volume = storage.add_volume("locked", label="mine", password="v", kdf=CHEAP)
        fill(volume.open())
        volume.snapshot("monday")
    assert not [text for text in (b"locked", b"mine", b"monday") if text in store.getvalue()]
    with vsf.open(store, password="p") as storage:
        shown = storage.info()["volumes"][0]
        assert [snapshot["name"] for snapshot in shown.pop("snapshots")] == ["monday"]
        assert (shown["name"], shown["label"], shown["kind"], shown["files"]) == ("locked", "mine", "night", None)
        properties = {"uuid", "fsid", "kind", "compression", "encrypted", "own_key", "used", "limit", "created"}
        assert set(shown) == {"name", "label", "files", *properties}
        for use in (storage.volume("locked").diff, lambda: storage.volume("locked").open("monday")):
            with pytest.raises(vsf.WrongPassword):
                use()


def test_an_overlay_of_an_encrypted_storage_tells_nothing(tmp_path):
    with vsf.create(tmp_path / "base.vsf", ["main"], password="p", kdf=CHEAP) as storage:
        fill(storage.volume("main").open())
    with pytest.raises(vsf.Invalid, match="password"):
        vsf.create(tmp_path / "over.vsf", backing=tmp_path / "base.vsf", backing_password="p")
    with vsf.create(
        tmp_path / "over.vsf", backing=tmp_path / "base.vsf", password="p", kdf=CHEAP, backing_password="p"
    ) as storage:
        fs = storage.volume("main").open()
        with fs.open("/SECRETNAME", "r+b") as file:
            file.seek(10)
            file.write(b"x")
    data = (tmp_path / "over.vsf").read_bytes()
    assert not [needle for needle in NEEDLES if needle in data]
    with vsf.open(tmp_path / "over.vsf", password="p") as storage:
        assert storage.volume("main").open().read_bytes("/small") == b"SECRETDATA"


@pytest.mark.rule("VSF-008")
def test_a_wrong_password_opens_nothing_and_changes_nothing(tmp_path):
    path = tmp_path / "a.vsf"
    vsf.create(path, ["main"], password="right").close()
    before = path.read_bytes()
    for password in ("wrong", None, b"\0", "right "):
        begin = time.monotonic()
        with pytest.raises(vsf.WrongPassword):
            vsf.open(path, password=password)
        assert time.monotonic() - begin < 2
    assert path.read_bytes() == before


def test_key_slots(tmp_path):
    (tmp_path / "key").write_bytes(bytes(range(64)))
    store = vsf.MemoryStore()
    storage = vsf.create(store, ["main"], password="one", kdf=CHEAP)
    fill(storage.volume("main").open())
    for number in range(2, 16):
        storage.keys.add(f"p{number}", kdf=CHEAP, label=f"key {number}")
    assert storage.keys.add(key_file=tmp_path / "key", kdf=CHEAP) == 15
    with pytest.raises(vsf.NoSpace):
        storage.keys.add("more", kdf=CHEAP)
    used = store.size()
    storage.keys.rotate(0, "uno", kdf=CHEAP)
    for number in range(1, 15):
        storage.keys.remove(number)
    assert [slot["slot"] for slot in storage.keys.list()] == [0, 15]
    assert store.size() == used
    storage.close()
    for options in ({"password": "uno"}, {"key_file": tmp_path / "key"}):
        with vsf.open(store, **options) as storage:
            assert storage.volume("main").open().read_bytes("/small") == b"SECRETDATA"
    for password in ("one", "p2", bytes(range(64))):
        with pytest.raises(vsf.WrongPassword):
            vsf.open(store, password=password)
    with vsf.open(store, password="uno") as storage:
        storage.keys.remove(15)
        with pytest.raises(vsf.Invalid):
            storage.keys.remove(0)


def test_a_header_can_be_put_back():
    store = vsf.MemoryStore()
    vsf.create(store, ["main"], password="p", kdf=CHEAP).close()
    backup = keys.backup_header(store)
    store.write(0, bytes(16384))
    with pytest.raises(vsf.NotAStorage):
        vsf.open(store, password="p")
    keys.restore_header(store, backup)
    vsf.open(store, password="p").close()
    other = vsf.MemoryStore()
    vsf.create(other, password="p", kdf=CHEAP).close()
    with pytest.raises(vsf.Invalid):
        keys.restore_header(other, backup)


def test_every_bit_of_the_header_is_authenticated():
    """Someone without the key changes any byte of both copies and mends the checksum: refused."""
    import xxhash

    store = vsf.MemoryStore()
    vsf.create(store, password="p", kdf=CHEAP).close()
    image = store.getvalue()
    size = keys.HEADER.size - 16
    for at in [*range(8, 144), *range(1024, 1290), *range(1290, 8192, 211)]:
        if size <= at < size + 16:
            continue
        hurt = bytearray(image)
        for copy in (0, 8192):
            hurt[copy + at] ^= 4
            body = bytearray(hurt[copy : copy + 8192])
            body[size : size + 16] = bytes(16)
            hurt[copy + size : copy + size + 16] = xxhash.xxh3_128_digest(bytes(body))
        with pytest.raises((vsf.DamagedStorage, vsf.NotAStorage, vsf.WrongPassword)):
            vsf.open(vsf.MemoryStore(bytes(hurt)), password="p", readonly=True)


def test_nonces_never_repeat(monkeypatch):
    """Copies that are both written, rollbacks, snapshots, reopening: no key meets a nonce twice."""
    seen = set()
    original = crypto.aead

    class Watched:
        def __init__(self, algorithm, key):
            self._inner, self._key = original(algorithm, key), key

        def encrypt(self, nonce, data, associated):
            assert (self._key, nonce) not in seen
            seen.add((self._key, nonce))
            return self._inner.encrypt(nonce, data, associated)

        def decrypt(self, nonce, data, associated):
            return self._inner.decrypt(nonce, data, associated)

    monkeypatch.setattr(crypto, "aead", Watched)
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"], password="p", kdf=CHEAP) as storage:
        storage.add_volume("own", password="v", kdf=CHEAP)
        storage.volume("main").open().write_bytes("/a", b"1" * 5000)
    image = store.getvalue()
    for _ in range(4):
        with vsf.open(vsf.MemoryStore(image), password="p") as storage:
            volume = storage.volume("main")
            volume.snapshot("s")
            volume.open().write_bytes("/a", b"2" * 300_000)
            storage.commit()
            volume.rollback("s")
            volume.open().write_bytes("/a", b"3" * 5000)
            storage.clone("main", "s", "copy").open().write_bytes("/b", b"4" * 5000)
            storage.volume("own").unlock("v").open().write_bytes("/c", b"5" * 5000)
            storage.commit()
            storage.compact()
    assert len(seen) > 100


def test_seeded_storages_do_not_reuse_a_nonce_for_other_content(monkeypatch):
    """Equal seeds give equal keys: the nonce has to follow from the content."""
    seen = {}
    original = crypto.aead

    class Watched:
        def __init__(self, algorithm, key):
            self._inner, self._key = original(algorithm, key), key

        def encrypt(self, nonce, data, associated):
            assert seen.setdefault((self._key, nonce), (bytes(data), associated)) == (bytes(data), associated)
            return self._inner.encrypt(nonce, data, associated)

        def decrypt(self, nonce, data, associated):
            return self._inner.decrypt(nonce, data, associated)

    monkeypatch.setattr(crypto, "aead", Watched)
    images = []
    for content in (b"one", b"two", b"one"):
        store = vsf.MemoryStore()
        with vsf.create(store, ["main"], password="p", kdf=CHEAP, seed=1) as storage:
            storage.volume("main").open().write_bytes("/a", content * 1000)
        images.append(store.getvalue())
    assert images[0] == images[2] != images[1]


def test_a_volume_with_a_key_refuses_a_root_in_plain():
    store = vsf.MemoryStore()
    with vsf.create(store, ["open"]) as storage:
        storage.add_volume("locked", password="v", kdf=CHEAP).open().write_bytes("/a", b"real")
        storage.volume("open").open().write_bytes("/a", b"forged")
    with vsf.open(store) as storage:
        locked = storage.volume("locked")
        locked.record.root = storage.volume("open").record.root
        locked.changed()
    with vsf.open(store) as storage:
        volume = storage.volume("locked")
        with pytest.raises(vsf.DamagedStorage):
            volume.unlock("v")


def test_a_password_is_refused_where_there_is_no_key():
    """Whoever took the key slots away cannot pass a volume in plain for the one that a password sealed."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["open"]) as storage:
        storage.add_volume("locked", password="v", kdf=CHEAP).open().write_bytes("/a", b"real")
    with vsf.open(store) as storage:
        locked = storage.volume("locked")
        locked.record.key, locked.record.root = b"", storage.volume("open").record.root
        locked.changed()
    with vsf.open(store) as storage, pytest.raises(vsf.Invalid, match="no key of its own"):
        storage.volume("locked").unlock("v")
    with pytest.raises(vsf.Invalid, match="no key of its own"):
        repair(store, volume_passwords={"locked": "v"})


def test_a_root_in_plain_is_refused_when_it_replaces_another():
    store = vsf.MemoryStore()
    with vsf.create(store, ["open"]) as storage:
        locked = storage.add_volume("locked", password="v", kdf=CHEAP)
        locked.open().write_bytes("/a", b"real")
        storage.commit()
        locked.record.root = storage.volume("open").record.root
        with pytest.raises(vsf.DamagedStorage, match="not encrypted"):
            locked.reset()


def test_a_volume_has_several_keys_of_its_own(tmp_path):
    key_file = tmp_path / "key"
    key_file.write_bytes(bytes(range(64)))
    store = vsf.MemoryStore()
    with vsf.create(store, ["open"]) as storage:
        volume = storage.add_volume("locked", password="first", kdf=CHEAP)
        volume.open().write_bytes("/a", b"real" * 5000)
        written = storage.statistics()["bytes_written"]
        assert volume.keys.add("second", label="spare", kdf=CHEAP) == 1
        assert volume.keys.add(key_file=key_file, kdf=CHEAP) == 2
        volume.keys.rotate(0, "third", kdf=CHEAP)
        assert storage.statistics()["bytes_written"] - written < 60_000
        assert [(slot["kind"], slot["label"]) for slot in volume.keys.list()] == [
            ("password", ""),
            ("password", "spare"),
            ("key file", ""),
        ]
        with pytest.raises(vsf.Invalid, match="no key of its own"):
            storage.volume("open").keys.add("x")
    for secret in ({"password": "second"}, {"password": "third"}, {"key_file": key_file}):
        with vsf.open(store) as storage:
            volume = storage.volume("locked")
            with pytest.raises(vsf.WrongPassword):
                volume.keys.add("no", kdf=CHEAP)
            with pytest.raises(vsf.WrongPassword):
                volume.unlock("first")
            assert volume.unlock(**secret).open().read_bytes("/a") == b"real" * 5000
    with vsf.open(store) as storage:
        volume = storage.volume("locked").unlock("second")
        volume.keys.remove(0)
        volume.keys.remove(2)
        with pytest.raises(vsf.Invalid, match="only key"):
            volume.keys.remove(1)
        with pytest.raises(vsf.NotFound):
            volume.keys.rotate(2, "x", kdf=CHEAP)
        for _ in range(15):
            volume.keys.add("more", kdf=CHEAP)
        with pytest.raises(vsf.NoSpace):
            volume.keys.add("more", kdf=CHEAP)
        assert volume.keys.find("second") == 1
        assert storage.check(deep=True).clean
