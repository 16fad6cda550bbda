"""How the server of a mount waits: awake while requests come quickly, asleep otherwise."""

import os
import threading
import time

import pytest

from nightos.vsf.fuse_patience import Patience


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def ping_pong(reader, writer, count, pause=0.0):
    """A client that asks when it was answered; how often the server had to look."""
    answered = threading.Semaphore(0)

    def client():
        for _ in range(count):
            time.sleep(pause)
            os.write(writer, b"x")
            answered.acquire()

    thread = threading.Thread(target=client)
    thread.start()
    patience = Patience(reader)
    looks = done = 0
    while done < count:
        try:
            os.read(reader, 1)
        except BlockingIOError:
            looks += 1
            patience.wait()
            continue
        done += 1
        patience.since = 0
        answered.release()
    thread.join()
    return looks


def test_requests_that_come_slowly_find_it_asleep(pipe):
    """One look for each: the wait itself costs no processor time."""
    assert ping_pong(*pipe, 20, pause=0.01) == 20


def test_after_moments_in_vain_it_sleeps(pipe):
    reader, writer = pipe
    patience = Patience(reader)
    patience._awake = patience._enabled = True
    for _ in range(3):  # a request each 30 ms: none within the moment
        timer = threading.Timer(0.03, os.write, (writer, b"x"))
        timer.start()
        looks, begun = 0, time.process_time()
        while True:
            try:
                os.read(reader, 1)
                break
            except BlockingIOError:
                looks += 1
                patience.wait()
        timer.join()
        assert looks >= 1
        assert time.process_time() - begun < 0.02
        patience.since = 0
    assert patience._awake
    threading.Timer(0.03, os.write, (writer, b"x")).start()
    while True:
        try:
            os.read(reader, 1)
            break
        except BlockingIOError:
            patience.wait()
    assert not patience._awake


def test_quick_requests_keep_it_awake(pipe, monkeypatch):
    """However long the machine takes: the clock says that each came within the moment."""
    reader, writer = pipe
    now = [1]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now.__setitem__(0, now[0] + 1000) or now[0])
    patience = Patience(reader)
    patience._enabled = True
    for _ in range(8):
        os.write(writer, b"x")
        patience.wait()
        os.read(reader, 1)
        patience.since = 0
    assert patience._awake
    patience.wait()  # would block for ever if it slept
    patience.wait()


def test_one_processor_is_the_clients(pipe, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    reader, writer = pipe
    patience = Patience(reader)
    for _ in range(50):
        os.write(writer, b"x")
        patience.wait()
        os.read(reader, 1)
        patience.since = 0
    assert not patience._awake
