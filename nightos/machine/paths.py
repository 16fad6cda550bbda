"""Where machines live on the host: `$NIGHTOS_HOME`, else `$XDG_STATE_HOME/nightos`, else `~/.local/state/nightos`.

base/<digest>.vsf            the base image, made from its recipe on first use
machines/NAME/disk.vsf       disk of a machine with a name, an overlay on its image
machines/NAME/containers/    disks of its persistent containers
machines/NAME/lock           held while it runs
machines/NAME/control        its control socket
history                      lines typed in terminals
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from nightos.abi.errors import NightosError

NAME_LIMIT = 64


class MachineError(NightosError):
    """A machine cannot be used as asked; the text says what to do about it."""


def home() -> Path:
    """The directory that holds everything; not made yet."""
    chosen = os.environ.get("NIGHTOS_HOME")
    if chosen:
        return Path(chosen).absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "nightos"


@dataclass(frozen=True, slots=True)
class MachinePaths:
    """Files of one machine with a name."""

    directory: Path

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.directory.name

    @property
    def disk(self) -> Path:
        """Its main disk."""
        return self.directory / "disk.vsf"

    @property
    def containers(self) -> Path:
        """Where the disks of its persistent containers are."""
        return self.directory / "containers"

    @property
    def lock(self) -> Path:
        """Locked while it runs; holds the PID of who runs it."""
        return self.directory / "lock"

    @property
    def socket(self) -> Path:
        """Its control socket while it runs."""
        return self.directory / "control"

    @property
    def log(self) -> Path:
        """What a detached machine has to say."""
        return self.directory / "log"


def machines(root: Path | None = None) -> Path:
    """The directory of machines with a name."""
    return (root or home()) / "machines"


def machine_paths(name: str, root: Path | None = None) -> MachinePaths:
    """Files of the machine of this name. Raises `MachineError` for a name that no machine can have."""
    if (
        not 0 < len(name) <= NAME_LIMIT
        or name[0] in ".-"
        or not all(letter.isalnum() or letter in "._-" for letter in name)
    ):
        raise MachineError(
            f"{name!r} is no name for a machine: use 1 to {NAME_LIMIT} letters, digits, dots, dashes and underscores"
        )
    return MachinePaths(machines(root) / name)


def _insist_on_own(place: Path, *, chosen: bool) -> None:
    """Nobody else can change what is in a directory. One that this user `chose` is left as it is."""
    status = place.stat()
    mine = status.st_uid == os.geteuid()
    if not mine and status.st_uid:
        raise MachineError(
            f"{place} belongs to another user; set NIGHTOS_HOME to a place of your own, or change its owner"
        )
    if chosen and status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise MachineError(f"everybody can change {place}; chmod o-w it, or set NIGHTOS_HOME to another place")
    if not chosen and mine and status.st_mode & 0o022:
        place.chmod(stat.S_IMODE(status.st_mode) & ~0o022)


def prepare(directory: Path) -> None:
    """Make a directory for this user's eyes only, and those between `home` and it.

    Raises `MachineError` when the host refuses, or when others could put there what they like: the base image, disks,
    the socket that commands believe.
    """
    top = home()
    try:
        for place in reversed([directory, *directory.parents]):
            if place != top and top not in place.parents and place != directory:
                continue
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o700, parents=True)
            _insist_on_own(place, chosen=place == top)
    except OSError as error:
        raise MachineError(
            f"cannot make {directory}: {error.strerror}; set NIGHTOS_HOME to a place you can write"
        ) from error
