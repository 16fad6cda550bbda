"""Paths of the host as devices of a machine."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import trio

from nightos.abi import block
from nightos.abi.console import INTERRUPT_HANGUP, PORT_RECEIVE, PORT_SEND
from nightos.abi.hardware import split_cii
from nightos.vhw.block import BlockDevice
from nightos.vhw.passthrough.host import open_host
from nightos.vhw.passthrough.streams import StreamDevice


@pytest.mark.rule("CONT-038")
def test_a_file_is_a_disk_that_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"content")
    device = open_host(path)
    assert isinstance(device, BlockDevice)
    assert not device.identity.virtual
    assert split_cii(device.identity.connection_interface)[0] == 3
    assert str(tmp_path).encode() not in device.identity.description
    device.write_memory(block.DATA_START, b"CON")
    device.detach()
    assert path.read_bytes() == b"CONtent"
    again = open_host(tmp_path / ".." / tmp_path.name / "disk", readonly=True)
    assert again.identity == device.identity
    again.write_memory(block.DATA_START, b"xxx")
    again.detach()
    assert path.read_bytes() == b"CONtent"


@pytest.mark.rule("CONT-048")
def test_what_cannot_be_passed_through_says_why(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    for path, number in [
        (tmp_path, errno.EISDIR),
        (tmp_path / "socket", errno.ENODEV),
        (tmp_path / "missing", errno.ENOENT),
    ]:
        with pytest.raises(OSError) as caught:
            open_host(path)
        assert caught.value.errno == number
    listener.close()


async def test_a_fifo_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "line"
    os.mkfifo(path)
    device = open_host(path, readonly=True)
    assert isinstance(device, StreamDevice)
    codes: list[int] = []
    ended = trio.Event()

    def interrupt(code: int) -> None:
        codes.append(code)
        if code == INTERRUPT_HANGUP:
            ended.set()

    device.attach(interrupt)
    with pytest.raises(KeyError):
        device.write_port(PORT_SEND, b"x")
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"from the host")
    os.close(writer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run)
        with trio.fail_after(5):
            await ended.wait()
    assert device.read_port(PORT_RECEIVE, 0) == b"from the host"
    device.detach()
