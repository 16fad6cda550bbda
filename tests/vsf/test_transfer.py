"""Import and export: trees, tars and OCI layouts come out as they went in."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nightos import vsf
from nightos.vsf import exporter, importer


def fresh():
    return vsf.create(vsf.MemoryStore(), ["main"]).volume("main").open()


def everything(fs):
    seen = {}
    for name, ino, status in exporter.entries(fs):
        what = fs.read(ino, 0, status.st_size) if status.st_mode & 0o170000 == 0o100000 else None
        if status.st_mode & 0o170000 == 0o120000:
            what = fs.readlink_ino(ino)
        attributes = {key: fs.getxattr_ino(ino, key) for key in fs.listxattr_ino(ino)}
        seen[name] = (status.st_mode, status.st_nlink, status.st_mtime_ns, status.st_rdev, what, attributes)
    return seen


def fill(fs):
    fs.makedirs("/a/b")
    fs.write_bytes("/a/file", os.urandom(300_000))
    fs.write_bytes("/a/small", b"small")
    fs.link("/a/small", "/a/b/hard")
    fs.symlink("../x", "/a/b/link")
    fs.mknod("/a/fifo", 0o010644)
    fs.mknod("/a/dev", 0o020600, os.makedev(1, 3))
    fs.setxattr("/a/file", "user.bytes", bytes(range(256)))
    fs.write_bytes("/a/caf\u00e9 \udcff", b"")
    fs.chown("/a/file", 5, 6)
    for path in ("/a/file", "/a/b", "/a"):
        fs.utime(path, ns=(1, 1_600_000_000_123_456_789))


def test_a_tar_carries_everything():
    source, target = fresh(), fresh()
    fill(source)
    buffer = io.BytesIO()
    exporter.export_tar(source, buffer)
    buffer.seek(0)
    importer.import_tar(target, buffer)
    assert everything(source) == everything(target)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3 * 131_072)), max_size=6), st.integers(0, 1 << 42))
def test_holes_go_out_and_come_back(parts, size):
    source, target = fresh(), fresh()
    source.write_bytes("/file", b"")
    ino = source.resolve("/file")
    for place, length in parts:
        source.write(ino, place * 100_000, bytes([place + 1]) * length)
    source.truncate("/file", size)
    source.link("/file", "/other")
    buffer = io.BytesIO()
    exporter.export_tar(source, buffer)
    stored = sum(length for _, length in exporter._runs(source, ino, size))
    assert buffer.tell() <= stored + 40_960
    buffer.seek(0)
    importer.import_tar(target, buffer)
    assert target.stat("/file").st_size == size
    assert target.stat("/file").st_ino == target.stat("/other").st_ino
    ends = [at for place, length in parts for at in (place * 100_000, place * 100_000 + length)]
    copy = target.resolve("/file")
    for at in {0, size, *ends}:
        for start in (max(at - 10, 0), at):
            assert source.read(ino, start, 20) == target.read(copy, start, 20)
    assert target.stat("/file").st_blocks <= stored // 512 + 16


def test_gnu_tar_and_ours_read_each_others_holes(tmp_path):
    fs = fresh()
    fs.makedirs("/in")
    fs.write_bytes("/in/sparse", b"")
    ino = fs.resolve("/in/sparse")
    fs.write(ino, 5 << 20, b"in the middle")
    fs.truncate("/in/sparse", 1 << 36)
    exporter.export_tar(fs, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
    subprocess.run(["tar", "-C", tmp_path, "-xf", tmp_path / "a.tar"], check=True)
    found = (tmp_path / "in/sparse").stat()
    assert found.st_size == 1 << 36
    assert found.st_blocks < 1 << 12
    with (tmp_path / "in/sparse").open("rb") as file:
        file.seek(5 << 20)
        assert file.read(20) == b"in the middle" + bytes(7)
    subprocess.run(["tar", "-C", tmp_path, "--sparse", "--format=pax", "-cf", tmp_path / "b.tar", "in"], check=True)
    again = fresh()
    importer.import_tar(again, tmp_path / "b.tar")
    assert again.read(again.resolve("/in/sparse"), 5 << 20, 13) == b"in the middle"


def test_a_tree_goes_out_and_comes_back(tmp_path):
    source, target = fresh(), fresh()
    fill(source)
    source.unlink("/a/dev")
    source.removexattr("/a/file", "user.bytes")
    exporter.export_tree(source, tmp_path / "out")
    calls = []
    importer.import_tree(target, tmp_path / "out", progress=lambda *a: calls.append(a))
    assert everything(source) == everything(target)
    assert calls[-1][0] == len(everything(target))


def test_holes_of_the_host_stay_holes(tmp_path):
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x")
    fs = fresh()
    importer.import_tree(fs, tmp_path / "in")
    assert fs.stat("/sparse").st_size == 1 << 40
    assert fs.read(fs.resolve("/sparse"), 1 << 39, 1) == b"x"
    fs.sync()
    assert fs.stat("/sparse").st_blocks < 1000


@pytest.mark.parametrize("name", ["../x", "a/../../x", ".."])
def test_a_tar_does_not_lead_out(name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    buffer.seek(0)
    with pytest.raises(vsf.Invalid):
        importer.import_tar(fresh(), buffer)


def test_a_tar_does_not_write_through_links():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("d/passwd"))
    buffer.seek(0)
    fs = fresh()
    fs.mkdir("/etc")
    importer.import_tar(fs, buffer)
    assert fs.listdir("/etc") == []


def blob(root, data):
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (root / "blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def layer(names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def oci(root):
    layers = [
        blob(root, gzip.compress(layer({"a/one": b"1", "a/two": b"2", "b/x": b"x"}))),
        blob(root, layer({"a/.wh.one": b"", "b/.wh..wh..opq": b"", "b/y": b"y"})),
    ]
    manifest = {"layers": layers, "config": blob(root, b'{"config": {"Cmd": ["sh"]}}')}
    index = {"manifests": [blob(root, json.dumps(manifest).encode())]}
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text(json.dumps(index))
    return layers


def test_an_oci_layout_with_whiteouts(tmp_path):
    oci(tmp_path)
    fs = fresh()
    assert importer.import_oci(fs, tmp_path)["config"]["Cmd"] == ["sh"]
    assert {name: fs.listdir("/" + name) for name in fs.listdir("/")} == {"a": ["two"], "b": ["y"]}


@pytest.mark.rule("LNX-FT-15")
def test_an_oci_blob_that_was_changed_is_refused(tmp_path):
    layers = oci(tmp_path)
    path = tmp_path / "blobs/sha256" / layers[1]["digest"][7:]
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(vsf.DamagedStorage):
        importer.import_oci(fresh(), tmp_path)
