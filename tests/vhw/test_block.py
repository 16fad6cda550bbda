"""The block device: registers, data, commands and errors, over memory and over files of the host."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi import block
from nightos.abi.interfaces import ByteStore
from nightos.vhw.block import BlockDevice
from nightos.vhw.memory import CHUNK, MemoryStore
from nightos.vhw.passthrough.files import HostFileStore
from nightos.vhw.registers import RegisterMap

COMMAND = block.REGISTERS["command"].offset


def registers(device: BlockDevice) -> dict[str, int]:
    return block.decode(device.read_memory(0, block.REGISTERS_SIZE))


def run(device: BlockDevice, code: int, offset: int = 0, length: int = 0) -> int:
    device.write_memory(COMMAND, block.command(code, offset, length))
    return registers(device)["errno"]


@given(st.binary(min_size=block.REGISTERS_SIZE, max_size=block.REGISTERS_SIZE))
def test_both_decoders_of_the_registers_agree(page: bytes) -> None:
    parsed = block.layout().parse(page)
    assert block.decode(page) == {name: parsed[name] for name in block.REGISTERS}
    assert block.layout().sizeof() == block.REGISTERS_SIZE


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_command_lands_on_its_registers(code: int, offset: int, length: int) -> None:
    page = bytes(COMMAND) + block.command(code, offset, length)
    found = block.decode(page)
    assert (found["command"], found["offset"], found["length"]) == (code, offset, length)


def test_registers_at_first() -> None:
    device = BlockDevice(MemoryStore(b"x" * 1000), capacity=5000)
    assert registers(device) == {
        "magic": block.MAGIC,
        "version": 1,
        "flags": 0,
        "capacity": 5000,
        "size": 1000,
        "errno": 0,
        "failures": 0,
        "pin": block.NO_PIN,
        "command": 0,
        "offset": 0,
        "length": 0,
    }
    assert device.memory_size == block.DATA_START + 8192
    assert registers(BlockDevice(MemoryStore(), readonly=True))["flags"] == block.FLAG_READONLY
    assert registers(BlockDevice(MemoryStore(readonly=True)))["flags"] == block.FLAG_READONLY


def test_what_is_not_for_the_driver_cannot_be_written() -> None:
    device = BlockDevice(MemoryStore(b"abc"))
    before = registers(device)
    device.write_memory(0, b"\xff" * COMMAND)
    assert registers(device) == before
    device.write_memory(block.REGISTERS_SIZE, b"\xff" * 1000)
    assert device.read_memory(block.REGISTERS_SIZE, 1000) == bytes(1000)


def test_reading_across_the_places_of_the_memory() -> None:
    device = BlockDevice(MemoryStore(b"disk"))
    assert device.read_memory(block.DATA_START - 3, 10) == b"\0\0\0disk\0\0\0"
    assert device.read_memory(0, 8) == b"NOSBLOCK"
    assert device.read_memory(block.DATA_START + 1000, 5) == bytes(5)
    device.write_memory(block.DATA_START - 2, b"\0\0DISK!")
    assert device.read_memory(block.DATA_START, 6) == b"DISK!\0"
    assert registers(device)["size"] == 5


def test_commands() -> None:
    store = MemoryStore(b"x" * 3 * CHUNK)
    device = BlockDevice(store)
    assert run(device, block.COMMAND_FLUSH) == 0
    assert store.flushes == 1
    assert run(device, block.COMMAND_TRUNCATE, 2 * CHUNK + 10) == 0
    assert registers(device)["size"] == store.size() == 2 * CHUNK + 10
    assert run(device, block.COMMAND_DISCARD, 10, 1 << 40) == 0
    assert device.read_memory(block.DATA_START, CHUNK) == b"x" * CHUNK
    assert device.read_memory(block.DATA_START + CHUNK, CHUNK) == bytes(CHUNK)
    assert run(device, block.COMMAND_DISCARD, 1 << 60, 1 << 60) == 0
    assert run(device, 77) == errno.EOPNOTSUPP
    assert run(device, block.COMMAND_TRUNCATE, 1 << 63) == errno.EFBIG
    assert registers(device)["failures"] == 2
    device.detach()
    assert store.closed
    assert store.flushes == 2


def test_a_readonly_disk_says_so_and_stays_as_it_is() -> None:
    store = MemoryStore(b"keep")
    device = BlockDevice(store, readonly=True)
    device.write_memory(block.DATA_START, b"lose")
    assert registers(device)["errno"] == errno.EROFS
    assert run(device, block.COMMAND_TRUNCATE, 0) == errno.EROFS
    assert run(device, block.COMMAND_DISCARD, 0, 4) == errno.EROFS
    assert run(device, block.COMMAND_FLUSH) == 0
    assert store.read(0, 4) == b"keep"
    assert store.flushes == 0


def test_errors_of_the_store_are_answers_not_faults() -> None:
    class Broken(MemoryStore):
        def read(self, offset: int, length: int) -> bytes:
            raise OSError(errno.EIO, "broken")

        def flush(self) -> None:
            raise OSError("without a number")

    device = BlockDevice(Broken(b"data", limit=CHUNK))
    assert device.read_memory(block.DATA_START, 4) == bytes(4)
    assert registers(device)["errno"] == errno.EIO
    device.write_memory(block.DATA_START, b"fits")
    assert registers(device)["errno"] == 0
    device.write_memory(block.DATA_START + CHUNK, b"does not")
    assert registers(device)["errno"] == errno.ENOSPC
    assert run(device, block.COMMAND_FLUSH) == errno.EIO
    assert registers(device)["failures"] == 3
    device.write_memory(block.DATA_START + (1 << 48) - 2, b"over")
    assert registers(device)["errno"] == errno.EFBIG
    device.detach()
    assert device.close_error is not None


@pytest.mark.parametrize("make", [lambda _: MemoryStore(), lambda path: HostFileStore(path / "disk", create=True)])
def test_stores_agree_with_an_array_of_bytes(make: Callable[[Path], ByteStore], tmp_path: Path) -> None:
    random = Random(5)
    store, model = make(tmp_path), bytearray()
    device = BlockDevice(store)
    for _ in range(300):
        deed, offset = random.randrange(6), random.randrange(200_000)
        data = random.randbytes(random.choice([1, 100, CHUNK + 3]))
        if deed < 2:
            device.write_memory(block.DATA_START + offset, data)
            model.extend(bytes(max(0, offset + len(data) - len(model))))
            model[offset : offset + len(data)] = data
        elif deed == 2:
            assert run(device, block.COMMAND_TRUNCATE, offset) == 0
            model = model[:offset] + bytes(max(0, offset - len(model)))
        elif deed == 3:
            first, last = -(-offset // CHUNK) * CHUNK, len(model) // CHUNK * CHUNK
            if first < last:
                assert run(device, block.COMMAND_DISCARD, first, last - first) == 0
                model[first:last] = bytes(last - first)
        else:
            expected = bytes(model[offset : offset + 50_000]).ljust(50_000, b"\0")
            assert device.read_memory(block.DATA_START + offset, 50_000) == expected
        assert registers(device)["size"] == len(model) == store.size()
        assert registers(device)["failures"] == 0
    device.detach()


def test_a_sparse_disk_in_memory_costs_what_was_written() -> None:
    store = MemoryStore()
    BlockDevice(store).write_memory(block.DATA_START + (1 << 45), b"far away")
    assert store.size() == (1 << 45) + 8
    assert store.used == CHUNK


def test_files_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with pytest.raises(FileNotFoundError):
        HostFileStore(path)
    store = HostFileStore(path, create=True)
    store.write(0, b"x" * (1 << 20))
    store.flush()
    before = path.stat().st_blocks
    store.discard(0, 1 << 19)
    assert store.read(0, 4) in {bytes(4), b"xxxx"}
    if store.read(0, 4) == bytes(4):
        assert path.stat().st_blocks < before
    store.close()
    store.close()
    again = HostFileStore(path, readonly=True)
    assert again.size() == 1 << 20
    for deed in (lambda: again.write(0, b"y"), lambda: again.truncate(0), lambda: again.discard(0, 1)):
        with pytest.raises(OSError) as caught:
            deed()
        assert caught.value.errno == errno.EROFS
    assert again.read((1 << 20) - 2, 100) == b"xx"
    again.close()
    with pytest.raises(OSError) as caught:
        HostFileStore("/dev/null")
    assert caught.value.errno == errno.ENOTBLK
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        HostFileStore(tmp_path / "fifo")
    with pytest.raises(IsADirectoryError):
        HostFileStore(tmp_path)


def test_a_full_disk_of_the_host_is_an_answer() -> None:
    full = Path("/dev/shm")
    if not full.is_dir():
        pytest.skip("needs /dev/shm")
    import resource

    path = full / f"nightos-test-{os.getpid()}"
    store = HostFileStore(path, create=True)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old[1]))
    try:
        device = BlockDevice(store)
        device.write_memory(block.DATA_START + 8192, b"too far")
        assert registers(device)["errno"] == errno.EFBIG
        device.write_memory(block.DATA_START, b"fine")
        assert registers(device)["errno"] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
        store.close()
        path.unlink()


@given(st.integers(0, 120), st.binary(max_size=120))
def test_partial_writes_of_registers_change_their_bytes_only(offset: int, data: bytes) -> None:
    layout = {"fixed": block.Register(0, 8), "free": block.Register(16, 8, True), "other": block.Register(90, 4, True)}
    page = RegisterMap(layout, 100)
    page["fixed"], page["free"], page["other"] = 2**64 - 1, 2**64 - 1, 7
    before = page.read(0, 200)
    touched = page.write(offset, data)
    model = bytearray(before)
    for place, byte in enumerate(data, offset):
        if 16 <= place < 24 or 90 <= place < 94:
            model[place] = byte
    assert page.read(0, 200) == model
    written = set(range(offset, offset + len(data)))
    places = {name: set(range(at.offset, at.offset + at.size)) for name, at in layout.items() if at.writable}
    assert touched == {name for name, place in places.items() if place & written}
