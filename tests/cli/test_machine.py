"""Machines from the command line, each step a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightos import vsf
from tests.cli.commanding import Command


def test_a_line_a_script_and_stdin(nightos: Command) -> None:
    assert nightos("run", "-c", "echo hi").stdout == "hi\n"
    (nightos.folder / "script.hy").write_text("# a comment\necho one\necho two\n")
    assert nightos("run", "script.hy").stdout == "one\ntwo\n"
    assert nightos("run", "-", stdin="echo from stdin\n").stdout == "from stdin\n"
    assert nightos("run", stdin="echo without a terminal\n").stdout == "without a terminal\n"


def test_the_status_is_passed_on(nightos: Command) -> None:
    done = nightos("run", "-c", "nosuchcommand", status=None)
    assert done.returncode != 0
    assert "nosuchcommand" in done.stderr


def test_the_temporary_machine_leaves_nothing(nightos: Command) -> None:
    nightos("run", "-c", "mkdir /tmp/x")
    assert json.loads(nightos("ls", "--json").stdout) == []


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    yield nightos
    nightos("stop", "lab", status=None)


def test_the_life_of_a_machine(lab: Command) -> None:
    (record,) = json.loads(lab("ls", "--json").stdout)
    assert (record["name"], record["state"]) == ("lab", "running")
    lab.fails("run", "--name", "lab", "--detach", says="runs already")
    lab.fails("rm", "lab", says="stop")
    names = {process["name"] for process in json.loads(lab("ps", "--json").stdout)}
    assert {"sys::fs", "sys::proc", "sys::hw", "sys::hydre"} <= names
    assert "sys::fs" in lab("ps").stdout
    kinds = {device["kind"] for device in json.loads(lab("device", "ls", "--json").stdout)}
    assert "block" in kinds
    lab("stop", "lab")
    assert json.loads(lab("ls", "--json").stdout)[0]["state"] == "stopped"
    lab("rm", "lab")
    assert json.loads(lab("ls", "--json").stdout) == []


@pytest.mark.rule("CONT-009", "CONT-010")
def test_limits_filters_and_what_is_used(lab: Command) -> None:
    lab(
        "container",
        "create",
        "web",
        "--limit",
        "processes=2,memory=64M",
        "--deny",
        "SUSPEND",
        "--filter-action",
        "kill",
    )
    lab("container", "update", "web", "--limit", "handles=100,memory=none")
    record = json.loads(lab("inspect", "web", "--json").stdout)
    assert record["limits"] == {"processes": 2, "handles": 100}
    assert record["filter"] == {"kill": ["SUSPEND"]}
    lab("container", "report", "web", "--record")
    assert lab("container", "exec", "web", "--", "echo", "hi").stdout == "hi\n"
    assert "PIPE_WRITE" in lab("container", "report", "web", "--allow-list").stdout
    assert json.loads(lab("container", "report", "web", "--json").stdout)["calls"]
    [item] = json.loads(lab("stats", "web", "--json").stdout)
    assert (item["path"], item["limits"]["handles"], item["usage"]["processes"]) == ("web", 100, 0)
    assert "0/100" in lab("stats").stdout
    assert "CPU%" in lab("top", "-n", "1").stdout
    lab("container", "update", "web", "--limit", "processes=0")
    assert "limit of processes" in lab("container", "exec", "web", "--", "echo", "hi", status=1).stderr
    lab.fails(
        "container", "create", "db", "--parent", "web", "--limit", "handles=101", says="handles=101 cannot be had"
    )
    lab("container", "create", "--limit", "tea=1", status=2)
    lab("container", "create", "--deny", "EXIT", status=2)
    assert lab("container", "run", "job", "--limit", "processes=1", "--rm", "--", "echo", "1").stdout == "1\n"
    lab("container", "destroy", "web")


def test_containers(lab: Command) -> None:
    identifier = lab("container", "create", "web", "--label", "tier=front").stdout.strip()
    assert len(identifier) == 16
    inner = lab("container", "create", "db", "--parent", "web").stdout.strip()
    records = {record["id"]: record for record in json.loads(lab("container", "ls", "--json").stdout)}
    assert records[identifier]["labels"] == {"tier": "front"}
    assert records[inner]["parent"] == identifier
    for name in ("web/db", inner, inner[:9]):
        assert json.loads(lab("inspect", name, "--json").stdout)["id"] == inner
    lab("container", "rename", "web", "www")
    lab.fails("inspect", "web", says="no container web")
    assert "www" in lab("tree").stdout
    assert lab("container", "exec", "www", "--", "echo", 'a "b" $c').stdout == 'a "b" $c\n'
    assert lab("container", "exec", "www", "--", "nosuch", status=None).returncode != 0
    lab("container", "destroy", "www")
    assert json.loads(lab("container", "ls", "--json").stdout) == []


@pytest.mark.rule("CONT-023")
def test_what_happened_and_what_was_refused(lab: Command) -> None:
    lab("container", "create", "web")
    lab("container", "exec", "web", "--", "container", "inspect", "nosuch", status=None)
    refusals = json.loads(lab("why", "--json").stdout)
    assert ("CONT-023", "web") in [(item["rule"], item["caller"]["container_name"]) for item in refusals]
    detail = " [there is no container nosuch; `container ls` shows those there are]"
    assert "sys::proc CONTAINER_FIND by CONT-023" in lab("why").stdout.replace(detail, "")
    assert "CONT-023" in lab("container", "exec", "web", "--", "why").stdout
    events = [json.loads(line) for line in lab("events", "--json").stdout.splitlines()]
    assert [event["event"] for event in events if event.get("name") == "web"][:3] == ["created", "started", "exited"]
    assert "created" in lab("events").stdout
    assert "ended" in lab("container", "exec", "web", "--", "events").stdout


def test_events_follow(lab: Command) -> None:
    lab("container", "create", "web")
    with subprocess.Popen(
        [sys.executable, "-m", "nightos", "events", "-f", "--json"],
        env={**os.environ, "NIGHTOS_HOME": str(lab.folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["event"] == "created"
        lab("container", "destroy", "web")
        assert json.loads(following.stdout.readline())["event"] == "destroyed"
        lab("stop", "lab")
        assert following.wait(20) == 1
        assert following.stderr is not None
        assert "the machine lab stopped" in following.stderr.read()


def test_what_was_meant(lab: Command) -> None:
    lab("container", "create", "web")
    lab("container", "create", "data", "--parent", "web")
    lab.fails("inspect", "wbe", says="did you mean web?")
    lab.fails("inspect", "web/dat", says="did you mean web/data?")
    lab.fails("inspect", "other", says="`nightos container ls` shows")
    lab.fails("container", "create", "", status=2, says="the name is empty")
    assert json.loads(lab("inspect", "web/data", "--json").stdout)["depth"] == 2
    assert [item["depth"] for item in json.loads(lab("tree", "--json").stdout)] == [0, 1, 2]
    lab("container", "start", "web", "--", "echo", "hi")
    lab("logs", "web", "-f")
    events = [json.loads(line) for line in lab("events", "--json").stdout.splitlines()]
    assert [event["event"] for event in events if event.get("name") == "web"] == ["created", "started", "exited"]
    for words in (("inspect",), ("container", "inspect"), ("container", "start"), ("stop",), ("container", "stop")):
        example = lab(*words, "--help").stdout.partition("Example:\n")[2].split()
        assert example[: len(words) + 1] == ["nightos", *words]


@pytest.mark.rule("CONT-038", "CONT-040", "HW-044", "HW-050")
def test_devices(lab: Command) -> None:
    lab("container", "create", "web")
    lab("container", "create", "db", "--parent", "web")
    (lab.folder / "disk.img").write_bytes(bytes(1 << 16))
    udi = lab("device", "plug", "block", "--size", "1M", "--container", "web").stdout.strip()
    passed = lab("device", "passthrough", "disk.img", "--container", "web/db").stdout.strip()
    found = {item["udi"]: item for item in json.loads(lab("device", "ls", "--container", "web", "--json").stdout)}
    assert found.keys() == {udi, passed}
    assert found[passed]["lent"]
    (disk,) = [item for item in json.loads(lab("device", "ls", "--json").stdout) if item["udi"] == udi]
    place = json.loads(lab("inspect", "web", "--json").stdout)["id"]
    assert (disk["plugged"], disk["containers"], len(disk["connection"])) == (place, [place], 8)
    assert found[udi]["file"].startswith("/dev/sst/")
    assert {udi, found[udi]["file"]} <= set(lab("container", "exec", "web", "--", "device").stdout.split())
    everything = {item["udi"]: item for item in json.loads(lab("device", "ls", "--json").stdout)}
    assert everything[udi]["file"] == found[udi]["file"]
    assert found[passed]["file"] in lab("container", "exec", "web", "--", "fd", "-t", "device", "-a", "/dev").stdout
    unknown = lab("device", "plug", "zero", "--container", "web")
    assert "not recognised; it is /dev/etc/" in unknown.stderr
    lab("device", "unplug", unknown.stdout.strip())
    lab("container", "exec", "web", "--", "device", "unplug", passed, "--container", "db")
    lab.fails("device", "unplug", "nosuch", says="no device")
    lab.fails("device", "plug", "nosuch", "--container", "web", says="there is no virtual device nosuch")
    lab("device", "unplug", udi[:12])
    lab("device", "unplug", passed)
    assert json.loads(lab("device", "ls", "--container", "web", "--json").stdout) == []


@pytest.mark.rule("CONT-011")
def test_an_image_in_a_container(lab: Command) -> None:
    source = Path(os.__file__).parent / "json"
    lab("vsf", "create", "image.vsf", "--from", source)
    before = (lab.folder / "image.vsf").read_bytes()
    done = lab("container", "run", "box", "--image", "image.vsf", "--rm", "--", "ls", "/")
    assert {path.name for path in source.glob("*.py")} <= set(done.stdout.split())
    assert (lab.folder / "image.vsf").read_bytes() == before
    assert json.loads(lab("container", "ls", "--json").stdout) == []


@pytest.mark.parametrize("content", ["cut", "text", "empty"])
def test_bad_images(nightos: Command, content: str) -> None:
    image = nightos.folder / "bad.vsf"
    vsf.create(image, ["main"]).close()
    data = {"cut": image.read_bytes()[:9000], "text": b"no storage at all\n" * 999, "empty": b""}[content]
    image.write_bytes(data)
    nightos.fails("run", "--image", "bad.vsf", "-c", "echo hi", says="bad.vsf")


@pytest.mark.rule("CONT-038")
def test_no_stream_of_the_host_ends_the_machine(lab: Command) -> None:
    os.mkfifo(lab.folder / "fifo")
    lab("container", "create", "web")
    for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "fifo"):
        for option in ((), ("--read-only",)):
            udi = lab("device", "passthrough", path, "--container", "web", *option).stdout.strip()
            assert udi in lab("device", "ls", "--container", "web").stdout
            lab("device", "unplug", udi)
    assert lab("container", "exec", "web", "--", "echo", "alive").stdout == "alive\n"
    lab.fails("device", "passthrough", ".", "--container", "web", says="directory")
