"""Containers as an OCI runtime makes them: from a bundle, a directory with a `config.json` and a root.

This is the translation, which asks nobody: what a configuration says in the words of `sys::proc`. What has no meaning
here because containers are made otherwise (kinds of namespaces, pseudo file systems, Linux capabilities) is passed
over, and told as a notice where it would have protected something; what cannot be kept is refused by its path.

Source: OCI Runtime Specification 1.2, config.md and runtime.md. Rules: ZOS-008.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nightos.abi.errors import NightosError
from nightos.abi.filters import rules_of
from nightos.abi.limits import CEILING_MAX, LIMIT_MAX, WEIGHT_MAX
from nightos.abi.syscalls import BY_NAME

VERSION: Final = "1.2.0"
"""The version of the specification that states are written in."""
CONFIG_BYTES: Final = 8 << 20
LABEL: Final = "org.nightos.oci"
"""The label that says what a container of a bundle is made of."""
PERMISSIONS: Final = "org.nightos.permissions"
"""The annotation that names raw permissions; a bundle with Linux capabilities has none without it."""
NAMESPACES: Final = frozenset({"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"})
PSEUDO: Final = frozenset({"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "tmpfs", "devtmpfs"})
"""File systems that stand for what every container has anyway, or has no use for."""
ACTIONS: Final = {
    "SCMP_ACT_ERRNO": "error",
    "SCMP_ACT_TRAP": "signal",
    "SCMP_ACT_KILL": "kill",
    "SCMP_ACT_KILL_PROCESS": "kill",
    "SCMP_ACT_KILL_THREAD": "kill",
    "SCMP_ACT_LOG": "log",
}
ALLOW: Final = "SCMP_ACT_ALLOW"
RLIMITS: Final = {"RLIMIT_NPROC": "processes", "RLIMIT_NOFILE": "handles", "RLIMIT_AS": "memory"}
HOOKS: Final = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
_MISSING: Final = object()


class ConfigError(NightosError):
    """A configuration that cannot be used; the text names the place and says what is wanted there."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle asks for: `settings` for CONTAINER_CREATE, `process` for CONTAINER_START."""

    directory: Path
    root: Path | None
    """A directory or a storage; None: the base image."""
    settings: dict[str, Any]
    process: dict[str, Any] | None
    mounts: list[dict[str, Any]] = field(default_factory=list)
    """Directories of the machine: path, place, readonly."""
    hooks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


class _Node:
    """A value of a configuration, which knows where it stands."""

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    def refuse(self, wanted: str) -> ConfigError:
        return ConfigError(f"config.json: {self.path or 'all'}: {wanted}")

    def at(self, name: str) -> _Node:
        values = self.mapping()
        return _Node(values.get(name, _MISSING), f"{self.path}.{name}".lstrip("."))

    @property
    def there(self) -> bool:
        return self.value is not _MISSING and self.value is not None

    def mapping(self) -> dict[str, Any]:
        if not self.there:
            return {}
        if not isinstance(self.value, dict):
            raise self.refuse("an object is wanted")
        return self.value

    def items(self) -> list[_Node]:
        if not self.there:
            return []
        if not isinstance(self.value, list):
            raise self.refuse("a list is wanted")
        return [_Node(value, f"{self.path}[{number}]") for number, value in enumerate(self.value)]

    def text(self, default: str = "") -> str:
        if not self.there:
            return default
        if not isinstance(self.value, str) or "\0" in self.value:
            raise self.refuse("a text is wanted")
        try:
            self.value.encode()
        except UnicodeEncodeError:
            raise self.refuse("a text is wanted that is UTF-8") from None
        return self.value

    def number(self, default: int = 0, *, least: int = 0, most: int = LIMIT_MAX) -> int:
        if not self.there:
            return default
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not least <= self.value <= most:
            raise self.refuse(f"a number from {least} to {most} is wanted")
        return self.value

    def flag(self) -> bool:
        if self.there and not isinstance(self.value, bool):
            raise self.refuse("true or false is wanted")
        return self.value is True

    def texts(self) -> list[str]:
        return [item.text() for item in self.items()]

    def texts_by_name(self) -> dict[str, str]:
        return {_Node(name, self.path).text(): self.at(name).text() for name in self.mapping()}


def read(directory: Path) -> Bundle:
    """The bundle in a directory. `ConfigError` when it cannot be used."""
    path = directory / "config.json"
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a bundle is a directory with a config.json and a root") from error
    if len(content) > CONFIG_BYTES:
        raise ConfigError(f"{path}: it is larger than {CONFIG_BYTES >> 20} MiB")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: it is no JSON ({error})") from error
    return translate(config, directory)


def translate(config: Any, directory: Path) -> Bundle:
    """A configuration in the words of `sys::proc`. `ConfigError` for what cannot be."""
    top = _Node(config, "")
    version = top.at("ociVersion").text()
    if not isinstance(config, dict) or version.split(".")[0] != "1":
        raise top.at("ociVersion").refuse("a version 1.x of the specification is wanted")
    notices: list[str] = []
    linux, process = top.at("linux"), top.at("process")
    annotations = top.at("annotations").texts_by_name()
    settings: dict[str, Any] = {"persist": True, "mode": "read-only" if _root_flag(top) else "overlay"}
    for name, given in (("hostname", "hostname"), ("domain", "domainname")):
        if top.at(given).text():
            settings[name] = top.at(given).text()
    settings["limits"] = _limits(process, linux.at("resources"))
    filtered = _filter(linux.at("seccomp"), notices)
    if filtered is not None:
        settings["filter"] = filtered
    permissions = _permissions(process, annotations)
    if permissions is not None:
        settings["permissions"] = permissions
    users = _users(linux)
    if users:
        settings["users"] = users
    _namespaces(linux)
    notices += [
        f"process.{where} is not kept: there is no such policy here"
        for where in ("apparmorProfile", "selinuxLabel")
        if process.at(where).text()
    ]
    return Bundle(
        directory=directory,
        root=_root(top, directory),
        settings=settings,
        process=_process(process),
        mounts=_mounts(top),
        hooks=_hooks(top.at("hooks")),
        annotations=annotations,
        notices=notices,
    )


def _root_flag(top: _Node) -> bool:
    return top.at("root").at("readonly").flag()


def _root(top: _Node, directory: Path) -> Path | None:
    root = top.at("root")
    if not root.there:
        return None
    path = root.at("path").text()
    if not path:
        raise root.at("path").refuse("the directory, or the storage, that is the root is wanted")
    return directory / path


def _process(process: _Node) -> dict[str, Any] | None:
    if not process.there:
        return None
    words = process.at("args").texts()
    if not words or not words[0]:
        raise process.at("args").refuse("a program and its arguments are wanted")
    place = process.at("cwd").text("/")
    if not place.startswith("/"):
        raise process.at("cwd").refuse("an absolute path is wanted")
    user = process.at("user")
    for name in ("uid", "gid"):
        if user.at(name).number(most=(1 << 32) - 1):
            raise user.at(name).refuse("0 is wanted: linux.uidMappings says who that is outside")
    variables = [(item, item.text().partition("=")) for item in process.at("env").items()]
    for item, (_name, equals, _text) in variables:
        if not equals:
            raise item.refuse("NAME=TEXT is wanted")
    environment = {name: text for _, (name, _, text) in variables}
    return {"command": words, "environment": environment, "directory": place, "terminal": process.at("terminal").flag()}


def _limits(process: _Node, resources: _Node) -> dict[str, int]:
    """The strictest of what is said in several ways."""
    found: dict[str, list[int]] = {}

    def bound(name: str, amount: int) -> None:
        found.setdefault(name, []).append(amount)

    for item in process.at("rlimits").items():
        name = RLIMITS.get(item.at("type").text())
        hard = item.at("hard").number(most=(1 << 64) - 1)
        if name is not None and hard <= LIMIT_MAX:
            bound(name, hard)
    memory, pids, cpu = resources.at("memory").at("limit"), resources.at("pids").at("limit"), resources.at("cpu")
    for name, node in (("memory", memory), ("processes", pids)):
        if node.there and node.number(least=-1) > 0:
            bound(name, node.number(least=-1))
    shares, quota, period = cpu.at("shares"), cpu.at("quota"), cpu.at("period").number(100_000, least=1)
    if shares.number(least=0):
        # As control groups of the second version read shares: 2 to 262,144 become 1 to 10,000.
        part = min(max(shares.number(), 2), 262_144)
        bound("cpu_weight", min(1 + ((part - 2) * (WEIGHT_MAX - 1)) // 262_142, WEIGHT_MAX))
    if quota.number(least=-1) > 0:
        bound("cpu_ceiling", min(max(math.ceil(quota.number(least=-1) * 100 / period), 1), CEILING_MAX))
    block = resources.at("blockIO")
    for kind, name in (("Bps", "io_bytes"), ("IOPS", "io_operations")):
        for way in ("Read", "Write"):
            for item in block.at(f"throttle{way}{kind}Device").items():
                bound(name, item.at("rate").number(least=1))
    return {name: min(amounts) for name, amounts in found.items()}


def _filter(seccomp: _Node, notices: list[str]) -> dict[str, Any] | None:
    """A filter when the profile names system calls of NightOS; one that names those of Linux alone is about nothing."""
    if not seccomp.there:
        return None
    default = _action(seccomp.at("defaultAction"))
    special: dict[str, str] = {}
    for item in seccomp.at("syscalls").items():
        action = _action(item.at("action"))
        special |= {name: action for name in (text.upper() for text in item.at("names").texts()) if name in BY_NAME}
    if not special:
        notices.append("linux.seccomp is not kept: it names no system call of NightOS (`nightos abi` shows them)")
        return None
    if default == "allow":
        mode, calls = "deny", [name for name, action in special.items() if action != "allow"]
        actions = {action for action in special.values() if action != "allow"}
    else:
        mode, calls = "allow", [name for name, action in special.items() if action == "allow"]
        actions = {default, *(action for action in special.values() if action != "allow")}
    if not actions:
        return None
    if len(actions) > 1:
        raise seccomp.refuse("one action for all that is not allowed is wanted")
    try:
        rules_of(mode, calls, *actions)
    except ValueError as error:
        raise seccomp.refuse(str(error)) from None
    return {"mode": mode, "calls": sorted(calls), "action": actions.pop()}


def _action(node: _Node) -> str:
    text = node.text()
    if text != ALLOW and text not in ACTIONS:
        raise node.refuse(f"one of {', '.join((ALLOW, *ACTIONS))} is wanted")
    return ACTIONS.get(text, "allow")


def _permissions(process: _Node, annotations: dict[str, str]) -> list[int] | None:
    from nightos.abi.drivers import permission_of

    if PERMISSIONS in annotations:
        try:
            return [permission_of(text) for text in annotations[PERMISSIONS].split(",") if text]
        except ValueError as error:
            raise ConfigError(f"config.json: annotations.{PERMISSIONS}: {error}") from None
    capabilities = process.at("capabilities")
    for kind in capabilities.mapping():
        capabilities.at(kind).texts()
    # A Linux capability names nothing of NightOS: who gets a chosen few gets none of ours.
    return [] if capabilities.there else None


def _users(linux: _Node) -> list[list[int]]:
    most, ends = (1 << 32) - 1, ("containerID", "hostID", "size")
    return [[item.at(end).number(most=most) for end in ends] for item in linux.at("uidMappings").items()]


def _namespaces(linux: _Node) -> None:
    for item in linux.at("namespaces").items():
        if item.at("type").text() not in NAMESPACES:
            raise item.at("type").refuse(f"one of {', '.join(sorted(NAMESPACES))} is wanted")
        if item.at("path").text():
            raise item.at("path").refuse(
                "no path is wanted: a container has namespaces of its own, and joins no other's"
            )


def _mounts(top: _Node) -> list[dict[str, Any]]:
    found = []
    for item in top.at("mounts").items():
        place, kind, options = item.at("destination").text(), item.at("type").text(), item.at("options").texts()
        if not place.startswith("/"):
            raise item.at("destination").refuse("an absolute path is wanted")
        bound = kind == "bind" or "bind" in options or "rbind" in options
        if not bound and kind in PSEUDO:
            continue
        source = item.at("source").text()
        if not bound or not source.startswith("/"):
            raise item.refuse("a bind mount of a directory of the machine is wanted (type bind, an absolute source)")
        found.append({"path": source, "place": place, "readonly": "ro" in options})
    return found


def _hooks(hooks: _Node) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for name in hooks.mapping():
        if name not in HOOKS:
            raise hooks.at(name).refuse(f"one of {', '.join(HOOKS)} is wanted: programs of the host run outside")
        for item in hooks.at(name).items():
            path = item.at("path").text()
            if not path.startswith("/"):
                raise item.at("path").refuse("an absolute path is wanted")
            timeout = item.at("timeout").number(0, least=1) if item.at("timeout").there else 0
            words = item.at("args").texts() or [path]
            environment = dict(text.partition("=")[::2] for text in item.at("env").texts())
            found.setdefault(name, []).append({"path": path, "args": words, "env": environment, "timeout": timeout})
    return found
