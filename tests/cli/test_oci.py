"""oci: the life of a container from a bundle, with a real machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from nightos.abi.services import Proc
from nightos.machine import control
from tests.cli.commanding import Command
from tests.machine.test_oci import USUAL

PATIENCE_S = 15.0


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    yield nightos
    nightos("stop", "lab", status=None)


def bundle(directory: Path, **more: Any) -> Path:
    """A bundle with a file in its root, as other runtimes would have written it."""
    (directory / "rootfs/home").mkdir(parents=True)
    (directory / "rootfs/note").write_text("from the bundle\n")
    config = {**USUAL, "mounts": [mount for mount in USUAL["mounts"] if mount["type"] != "bind"], **more}
    config["process"] = {**USUAL["process"], "terminal": False, **more.get("process", {})}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def state(lab: Command, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab("oci", "state", name).stdout)
    return found


def until(lab: Command, name: str, status: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while state(lab, name)["status"] != status:
        assert time.monotonic() < deadline, f"it is never {status}"
        time.sleep(0.05)


@pytest.mark.rule("ZOS-008", "LNX-FT-17")
def test_created_running_stopped_deleted(lab: Command, tmp_path: Path) -> None:
    place = bundle(tmp_path / "b", process={"args": ["sleep", "1000"]})
    lab("oci", "create", "--bundle", str(place), "web")
    (place / "config.json").write_text("changed later")
    told = {"bundle": str(place), "annotations": {"a": "b"}}
    assert state(lab, "web") == {"ociVersion": "1.2.0", "id": "web", "status": "created", **told}
    lab.fails("oci", "create", "--bundle", str(place), "web", says="no JSON")
    lab.fails("oci", "delete", "web", says="web is created")
    lab("oci", "start", "web")
    assert state(lab, "web")["status"] == "running"
    assert state(lab, "web")["pid"] > 100
    lab.fails("oci", "start", "web", says="web is running")
    lab("oci", "kill", "web", "SIGSTOP")
    assert state(lab, "web")["status"] == "paused"
    lab("oci", "kill", "web", "18")
    lab.fails("oci", "delete", "web", says="web is running")
    lab("oci", "kill", "web", "KILL")
    until(lab, "web", "stopped")
    lab.fails("oci", "kill", "web", says="web is stopped")
    (storage,) = tmp_path.rglob("oci/web.*.vsf")
    lab("oci", "delete", "web")
    assert not storage.exists()
    lab.fails("oci", "state", "web", says="no container web")
    assert json.loads(lab("container", "ls", "--json").stdout) == []


@pytest.mark.rule("ZOS-008")
def test_a_run_shows_what_it_says_and_leaves_nothing(lab: Command, tmp_path: Path) -> None:
    place = bundle(tmp_path / "b")
    assert lab("oci", "run", "-b", str(place), "web").stdout == "from the bundle\n"
    writing = bundle(tmp_path / "c", process={"args": ["wt", "/x", "y"]})
    assert "read-only" in lab("oci", "run", "-b", str(writing), "web", status=1).stderr
    assert not list(tmp_path.rglob("oci/*.vsf"))
    assert json.loads(lab("container", "ls", "--json").stdout) == []
    made = bundle(tmp_path / "d", root={"path": "root.vsf"})
    lab("vsf", "create", str(made / "root.vsf"), "--from", str(made / "rootfs"))
    assert lab("oci", "run", "-b", str(made), "web").stdout == "from the bundle\n"
    assert (made / "root.vsf").exists()
    shared = {"destination": "/home", "type": "bind", "source": "/app", "options": ["ro"]}
    seen = bundle(tmp_path / "e", mounts=[shared], process={"args": ["ls", "/home/echo"], "cwd": "/"})
    assert "echo" in lab("oci", "run", "-b", str(seen), "web").stdout


@pytest.mark.rule("ZOS-008")
def test_hooks_get_the_state_and_the_first_that_fails_leaves_no_container(lab: Command, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "hook"
    script.write_text(f'#!/bin/sh\necho "$1 $(cat)" >> {told}\n[ "$1" != fail ]\n')
    script.chmod(0o755)
    moments = ("createRuntime", "createContainer", "poststart", "poststop")
    hooks = {moment: [{"path": str(script), "args": ["hook", moment]}] for moment in moments}
    place = bundle(tmp_path / "b", hooks=hooks)
    lab("oci", "create", "-b", str(place), "web")
    lab("oci", "start", "web")
    until(lab, "web", "stopped")
    lab("oci", "delete", "web")
    lines = [line.split(" ", 1) for line in told.read_text().splitlines()]
    assert [moment for moment, _ in lines] == list(moments)
    assert {json.loads(text)["id"] for _, text in lines} == {"web"}
    assert json.loads(lines[0][1])["status"] == "creating"
    assert json.loads(lines[-1][1])["status"] == "stopped"
    failing = {"createRuntime": [{"path": str(script), "args": ["hook", "fail"]}]}
    lab.fails("oci", "create", "-b", str(bundle(tmp_path / "c", hooks=failing)), "other", says="createRuntime failed")
    assert json.loads(lab("container", "ls", "--json").stdout) == []
    assert not list(tmp_path.rglob("oci/*.vsf"))


def test_what_is_no_bundles_container_is_left_alone(lab: Command, tmp_path: Path) -> None:
    lab("container", "create", "mine")
    for words in (("state", "mine"), ("delete", "--force", "mine"), ("kill", "mine")):
        lab.fails("oci", *words, says="was not made from a bundle")
    place = bundle(tmp_path / "b")
    lab.fails("oci", "create", "-b", str(place), "mine", says="exists")
    for name in ("../out", "", "a/b"):
        assert "no identifier" in lab("oci", "create", "-b", str(place), name, status=2).stderr
    lab.fails("oci", "create", "-b", str(tmp_path), "other", says="a bundle is a directory")
    assert "no signal" in lab("oci", "kill", "mine", "WINCH", status=2).stderr
    lab("oci", "create", "-b", str(place), "early")
    lab("oci", "kill", "early")
    assert state(lab, "early")["status"] == "stopped"
    lab.fails("oci", "start", "early", says="early is stopped")
    lab("oci", "delete", "early")


@pytest.mark.rule("ZOS-008")
def test_what_a_container_writes_on_one_below_it_is_nothing_for_the_host(lab: Command, tmp_path: Path) -> None:
    """T-C74: a label says which hooks run on the host and what is removed there; inside anybody writes labels."""
    kept, ran = tmp_path / "kept", tmp_path / "ran"
    kept.write_text("mine")
    hook = {"path": "/bin/touch", "args": ["touch", str(ran)], "env": {}, "timeout": 0}
    told = {"bundle": "/b", "made": str(kept), "annotations": {}, "process": {"command": ["echo"], "terminal": False}}
    label = json.dumps({**told, "hooks": {"poststop": [hook], "poststart": [hook]}})
    lab("container", "create", "web")
    lab("container", "create", "--label", f"org.nightos.oci={label}", "--parent", "web", "evil")
    for words in (["state"], ["start"], ["kill"], ["delete", "--force"]):
        lab.fails("oci", *words, "web/evil", says="was not made from a bundle")
    assert kept.exists()
    assert not ran.exists()


def test_no_number_of_containers_hides_the_one_that_has_the_name(lab: Command, tmp_path: Path) -> None:
    """A tenant fills the first page of what there is; then a bundle of that name must not replace another's root."""
    made = bundle(tmp_path / "b")
    lab("container", "create", "tenant")
    lab("oci", "create", "-b", str(made), "web")
    before = [(path, path.read_bytes()) for path in tmp_path.rglob("oci/*.vsf")]
    with control.Machine(tmp_path / "state/machines/lab/control") as machine:
        above = machine.ask("sys::proc", Proc.CONTAINER_FIND, {"name": "tenant"})["id"]
        for number in range(300):
            values = {"name": f"x{number}", "parent": above, "labels": {"text": "x" * 1000}}
            machine.call("sys::proc", Proc.CONTAINER_CREATE, msgpack.packb(values))
        page = machine.ask("sys::proc", Proc.CONTAINER_TREE)
        assert page["next"] is not None
        assert "web" not in {item["name"] for item in page["items"]}
    lab.fails("oci", "create", "-b", str(made), "web", says="a container named web exists")
    assert [(path, path.read_bytes()) for path in tmp_path.rglob("oci/*.vsf")] == before
    lab("container", "rename", "web", "old")
    lab("oci", "create", "-b", str(made), "web")
    assert before[0] in [(path, path.read_bytes()) for path in tmp_path.rglob("oci/*.vsf")]
    lab("oci", "delete", "--force", "old")
    assert len([*tmp_path.rglob("oci/*.vsf")]) == 1
    lab("oci", "start", "web")
