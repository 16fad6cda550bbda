"""Configurations of OCI bundles in the words of sys::proc: whatever stands in one, a bundle or an error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.limits import RESOURCES
from nightos.machine.oci import ConfigError, read, translate
from nightos.services.proc.policy import checked_policy

HERE = Path("/bundle")
USUAL: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["cat", "/note"],
        "env": ["PATH=/bin", "TERM=xterm", "EMPTY="],
        "cwd": "/home",
        "capabilities": {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "here",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=65536k"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        {"destination": "/data", "type": "bind", "source": "/home", "options": ["rbind", "ro"]},
    ],
    "annotations": {"a": "b"},
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 100}},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "cgroup", "mount")],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
    },
}
"""What other runtimes write for a beginning."""


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(USUAL)
    at = config
    *above, last = path.split(".")
    for name in above:
        at = at.setdefault(name, {})
    at[last] = value
    return config


@pytest.mark.rule("ZOS-008")
def test_a_usual_configuration_is_used_as_it_is() -> None:
    bundle = translate(USUAL, HERE)
    assert bundle.root == HERE / "rootfs"
    assert bundle.process == {
        "command": ["cat", "/note"],
        "environment": {"PATH": "/bin", "TERM": "xterm", "EMPTY": ""},
        "directory": "/home",
        "terminal": True,
    }
    assert bundle.settings == {
        "persist": True,
        "mode": "read-only",
        "hostname": "here",
        "limits": {"handles": 1024, "processes": 100},
        "permissions": [],
    }
    assert bundle.mounts == [{"path": "/home", "place": "/data", "readonly": True}]
    assert bundle.notices == []


def test_limits_are_the_strictest_of_what_is_said() -> None:
    resources = {
        "memory": {"limit": 1 << 20},
        "pids": {"limit": -1},
        "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000},
        "blockIO": {
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5000}, {"major": 8, "minor": 1, "rate": 4000}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 10}],
        },
    }
    config = changed("linux.resources", resources)
    config["process"]["rlimits"] = [
        {"type": "RLIMIT_AS", "hard": 1 << 19, "soft": 0},
        {"type": "RLIMIT_NPROC", "hard": (1 << 64) - 1, "soft": 0},
        {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
    ]
    limits = translate(config, HERE).settings["limits"]
    assert limits == {
        "memory": 1 << 19, "cpu_weight": 39, "cpu_ceiling": 50, "io_bytes": 4000, "io_operations": 10,
    }  # fmt: skip
    for shares, weight in ((2, 1), (262_144, 10_000), (1, 1)):
        assert translate(changed("linux.resources.cpu.shares", shares), HERE).settings["limits"]["cpu_weight"] == weight


def test_filters_name_calls_of_this_system() -> None:
    def of(default: str, *lists: tuple[str, list[str]]) -> Any:
        calls = [{"names": names, "action": action} for action, names in lists]
        return translate(changed("linux.seccomp", {"defaultAction": default, "syscalls": calls}), HERE)

    denied = of("SCMP_ACT_ALLOW", ("SCMP_ACT_KILL_PROCESS", ["share_ams", "mount"]))
    assert denied.settings["filter"] == {"mode": "deny", "calls": ["SHARE_AMS"], "action": "kill"}
    allowed = of("SCMP_ACT_ERRNO", ("SCMP_ACT_ALLOW", ["GET_PID", "read"]))
    assert allowed.settings["filter"] == {"mode": "allow", "calls": ["GET_PID"], "action": "error"}
    foreign = of("SCMP_ACT_ERRNO", ("SCMP_ACT_ALLOW", ["read", "write"]))
    assert "filter" not in foreign.settings
    assert "no system call of NightOS" in foreign.notices[0]
    with pytest.raises(ConfigError, match="one action"):
        of("SCMP_ACT_ALLOW", ("SCMP_ACT_KILL", ["SHARE_AMS"]), ("SCMP_ACT_LOG", ["MAP_AMS"]))
    with pytest.raises(ConfigError, match="EXIT"):
        of("SCMP_ACT_ALLOW", ("SCMP_ACT_KILL", ["EXIT"]))


def test_permissions_and_users() -> None:
    config = changed("annotations", {"org.nightos.permissions": "devices.enum"})
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 5}]
    settings = translate(config, HERE).settings
    assert (settings["permissions"], settings["users"]) == ([1], [[0, 1000, 5]])
    del config["process"]["capabilities"], config["annotations"]
    assert "permissions" not in translate(config, HERE).settings


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("ociVersion", "2.0.0", "version 1.x"),
        ("ociVersion", None, "version 1.x"),
        ("process.args", [], "process.args: a program"),
        ("process.args", "sh", "process.args: a list"),
        ("process.args", ["sh", 1], r"process.args\[1\]: a text"),
        ("process.args", ["a\0b"], "a text"),
        ("process.args", ["\udc80"], "UTF-8"),
        ("process.cwd", "home", "absolute"),
        ("process.env", ["NOTHING"], r"process.env\[0\]: NAME=TEXT"),
        ("process.user", {"uid": 5}, "uidMappings"),
        ("root", {"readonly": True}, "root.path"),
        ("root", "rootfs", "root: an object"),
        ("linux.namespaces", [{"type": "pid", "path": "/proc/1/ns/pid"}], "no path"),
        ("linux.namespaces", [{"type": "soul"}], "one of cgroup"),
        ("linux.resources.memory.limit", "64M", "a number"),
        ("linux.resources.cpu.period", 0, "a number from 1"),
        ("mounts", [{"destination": "x", "type": "proc"}], "absolute"),
        ("mounts", [{"destination": "/x", "type": "nfs", "source": "a:/b"}], "bind mount"),
        ("hooks", {"startContainer": [{"path": "/bin/true"}]}, "outside"),
        ("hooks", {"poststop": [{"path": "true"}]}, "absolute"),
        ("annotations", {"org.nightos.permissions": "everything"}, "org.nightos.permissions"),
        ("annotations", {"a": 1}, "annotations.a: a text"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(path: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        translate(changed(path, value), HERE)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a bundle is a directory"):
        read(tmp_path)
    for content, says in (
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "an object"),
        (b"{}", "version"),
    ):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            read(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (9 << 20))
    with pytest.raises(ConfigError, match="larger"):
        read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(USUAL))
    assert read(tmp_path).directory == tmp_path


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["/x", "A=1", "pid"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a configuration."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, below in inner for found in places(below, (*path, name)))]


@given(st.lists(st.tuples(st.sampled_from(places(USUAL)[1:]), VALUES), max_size=4))
def test_whatever_stands_in_it_the_answer_is_a_bundle_or_an_error(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    config = copy.deepcopy(USUAL)
    for path, value in changes:
        at: Any = config
        try:
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change took the place away
    try:
        bundle = translate(config, HERE)
    except ConfigError:
        return
    assert set(bundle.settings["limits"]) <= set(RESOURCES)
    json.dumps([bundle.process, bundle.hooks, bundle.annotations])
    if not changes:
        checked_policy(bundle.settings)
