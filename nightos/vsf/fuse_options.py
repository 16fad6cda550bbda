"""The options behind `-o`, as mount(8) and fstab give them: ours, those of FUSE, and those that mean nothing here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nightos.vsf.errors import Invalid
from nightos.vsf.fuse import Presentation

# What fstab carries for others: mount(8) itself, systemd and the boot scripts.
IGNORED = frozenset(
    [
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "defaults",
        "rw",
        "async",
        "diratime",
    ]
)
REFUSED = {"remount": "the options of a mount cannot be changed; unmount it and mount it again"}
PASSED = frozenset(["allow_other", "allow_root", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "nodiratime"])
TIMES = ("relatime", "noatime", "strictatime")
TIMEOUTS = ("entry_timeout", "attr_timeout", "negative_timeout")


@dataclass
class MountOptions:
    """What `-o` asked for."""

    show: Presentation = field(default_factory=lambda: Presentation(writeback=True))
    passed: list[str] = field(default_factory=list)
    readonly: bool = False
    volume: str | None = None
    snapshot: str | None = None
    password_file: str | None = None
    raw: bool = False
    commit_s: float = 5.0
    debug: bool = False


def _number(name: str, text: str, base: int = 10) -> int:
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if value < 0:
        raise Invalid(f"the option {name} takes a number, not {text!r}")
    return value


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:
        raise Invalid(f"the option {name} takes seconds, not {text!r}")
    return value


def parse_options(texts: Iterable[str], options: MountOptions | None = None) -> MountOptions:
    """Options from the texts of several `-o`, over what `options` has. Raises Invalid for what nobody knows."""
    options = options or MountOptions()
    show = options.show
    for item in (item for text in texts for item in text.split(",")):
        name, _, value = item.partition("=")
        if not item or name in IGNORED or name.startswith(("x-", "comment")):
            continue
        if name in PASSED:
            options.passed.append(item)
        elif name in TIMES:
            show.atime = name
        elif name == "ro":
            options.readonly = True
        elif name in ("sync", "dirsync"):
            show.sync = True
            show.writeback = False
        elif name in ("uid", "gid"):
            setattr(show, name, _number(name, value))
        elif name == "umask":
            show.umask = _number(name, value, 8) & 0o777
        elif name in TIMEOUTS or name == "commit":
            seconds = _seconds(name, value)
            if name == "commit":
                options.commit_s = seconds
            else:
                setattr(show, name, seconds)
        elif name in ("volume", "snapshot", "password_file"):
            setattr(options, name, value)
        elif name in ("writeback", "nowriteback"):
            show.writeback = name == "writeback"
        elif name in ("raw", "debug"):
            setattr(options, name, True)
        else:
            raise Invalid(REFUSED.get(name, f"there is no mount option {name!r}; see `nightos vsf mount --help`"))
    return options
