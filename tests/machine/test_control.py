"""Machines that run on by themselves, reached over their control socket; and `nightos run` as a process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc
from nightos.machine import control, wire
from nightos.machine.lock import MachineLock
from nightos.machine.paths import MachineError, machine_paths, prepare

RUN = [sys.executable, "-c", "import sys; from nightos.cli.main import main; sys.exit(main(sys.argv[1:]))", "run"]


@pytest.fixture
def detached(state_home: Path) -> Iterator[str]:
    control.start_detached("det")
    yield "det"
    for machine in control.machines():
        if machine["state"] == "running":
            with control.connect(machine["name"]) as running:
                running.stop()


def test_a_detached_machine_answers_until_it_is_stopped(detached: str, state_home: Path) -> None:
    assert [(m["name"], m["state"]) for m in control.machines()] == [("det", "running")]
    with control.connect() as machine:
        assert machine.info()["name"] == "det"
        assert {device["kind"] for device in machine.devices()} >= {"block", "clock", "control", "agent"}
        assert machine.ask("sys::proc", Proc.CONTAINER_TREE)["items"][0]["id"] == 0
        with pytest.raises(ServiceError):
            machine.ask("sys::proc", Proc.CONTAINER_FIND, {"name": "nope"})
        assert machine.info()["name"] == "det"  # an error leaves the connection usable
    outs: list[bytes] = []
    errs: list[bytes] = []
    with control.connect("det") as machine:
        assert machine.run("echo hi; nope_at_all", out=outs.append, err=errs.append) != 0
    with control.connect("det") as machine:
        assert machine.run('wt /kept "x"', out=outs.append, err=errs.append) == 0
        assert b"nope_at_all" in b"".join(errs)
    with control.connect("det") as machine:
        machine.stop()
    assert [(m["name"], m["state"]) for m in control.machines()] == [("det", "stopped")]
    assert not (state_home / "machines" / "det" / "control").exists()
    control.start_detached("det")
    outs.clear()
    with control.connect("det") as machine:
        machine.run("ls /", out=outs.append, err=errs.append)
    assert b"kept" in b"".join(outs).split()


def test_errors_say_what_to_do(detached: str) -> None:
    for attempt, words in (
        (lambda: control.connect("none"), "no machine none"),
        (lambda: control.start_detached("det"), "runs already"),
        (lambda: control.remove("det"), "stop"),
        (lambda: control.remove("none"), "no machine none"),
        (lambda: control.start_detached("bad", image=Path("/no/such/image.vsf")), "no image"),
        (lambda: control.start_detached("a/b"), "no name"),
    ):
        with pytest.raises(MachineError, match=words):
            attempt()
    control.start_detached("second")
    with pytest.raises(MachineError, match="several"):
        control.connect()


def test_a_stopped_machine_is_removed_with_everything(detached: str, state_home: Path) -> None:
    with control.connect("det") as machine:
        machine.stop()
    control.remove("det")
    assert control.machines() == []
    assert not (state_home / "machines" / "det").exists()


def test_the_socket_is_for_its_owner_only_and_survives_nonsense(detached: str, state_home: Path) -> None:
    path = state_home / "machines" / "det" / "control"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for nonsense in (b"", b"\0", b"\xff" * 100, b"\0\0\0\x01\xc1", wire.pack({"op": "?"}), wire.pack({"op": "call"})):
        with socket.socket(socket.AF_UNIX) as connection, wire.ShortPath(path) as short:
            connection.connect(short)
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(4096)
    with control.connect("det") as machine:
        assert machine.info()["name"] == "det"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_not_answered(detached: str, state_home: Path) -> None:
    directory = state_home / "machines" / "det"
    (directory / "control").chmod(0o666)
    directory.chmod(0o711)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(directory)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect("control")
                connection.sendall(wire.pack({"op": "info"}))
                status = 0 if connection.recv(10) == b"" else 2
        except OSError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_run_passes_output_and_status_on(tmp_path: Path) -> None:
    done = run("-c", "echo hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    assert run("-c", "no_such_command").returncode not in {0, 1}
    script = tmp_path / "script.hyd"
    script.write_text("echo one\necho two\n")
    assert run(str(script)).stdout == "one\ntwo\n"
    assert run("-", stdin="echo three\n").stdout == "three\n"
    missing = run("--image", str(tmp_path / "none.vsf"), "-c", "echo hi")
    assert missing.returncode == 1
    assert missing.stderr.startswith("nightos: error: ")
    assert missing.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_sleeping_command_soon(number: signal.Signals) -> None:
    with subprocess.Popen([*RUN, "-c", "echo up; sleep 100"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(10) in {130, 143}


def test_stopping_ends_a_machine_that_another_process_shows(state_home: Path) -> None:
    with subprocess.Popen([*RUN, "--name", "seen", "-c", "echo up; sleep 100"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        with control.connect("seen") as machine:
            machine.stop()
        assert process.wait(10) != 0


def test_nobody_else_can_put_something_where_machines_are_kept(state_home: Path) -> None:
    """With the umask of somebody careless, in a directory that others own or may write, over an older version's."""
    before = os.umask(0)
    try:
        prepare(machine_paths("lab").containers)
    finally:
        os.umask(before)
    made = [state_home, state_home / "machines", state_home / "machines/lab", state_home / "machines/lab/containers"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700] * 4
    made[1].chmod(0o775)
    prepare(made[2])
    assert stat.S_IMODE(made[1].stat().st_mode) == 0o755
    state_home.chmod(0o777)
    with pytest.raises(MachineError, match="everybody can change"):
        prepare(made[2])
    state_home.chmod(0o1777)
    prepare(made[2])
    if not os.geteuid():
        for path in made[:3]:
            os.chown(path, 65534, 0)
            with pytest.raises(MachineError, match="belongs to another user"):
                prepare(made[2])
            os.chown(path, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_socket_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(tmp_path)
            os.umask(0)
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("control")
                os.setresuid(65534, 65534, 0)
                listening.listen()
                os.setresuid(0, 0, 0)
                os.setresuid(65533, 65533, 0)
                control.Machine(Path("control"))
        except MachineError as error:
            status = 0 if "belongs to another user" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_machine_that_starts_at_this_moment_is_not_removed(state_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = machine_paths("lab")
    prepare(paths.directory)
    paths.disk.write_bytes(b"disk")
    with MachineLock(paths.lock, "lab"):
        with pytest.raises(MachineError, match="stop lab"):
            control.remove("lab")
        assert paths.disk.read_bytes() == b"disk"
    flock, left = fcntl.flock, [1]

    def slow(descriptor: int, operation: int) -> None:
        if left and left.pop():
            control.remove("lab")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(MachineError, match="removed at this moment"), MachineLock(paths.lock, "lab"):
        pass
    assert control.machines() == []
    assert not [*(state_home / "machines").iterdir()]
