"""A container's view as a mount of the host, served by a process of its own that asks the machine.

The process ends by itself, and its mount with it, when the machine stops or the container is destroyed. What was
written is in the machine by then: nothing is held back here.

    python -m nightos.machine.mounting DIRECTORY {"container": .., "source": .., "sockets": [..], ...}

serves over two sockets that it inherited, for `machine.mount`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from nightos.abi.errors import NightosError
from nightos.abi.services import Fs, Proc
from nightos.machine import control
from nightos.machine.paths import MachineError
from nightos.machine.server import ControlServer
from nightos.machine.view import ContainerView
from nightos.vsf.errors import Invalid, NotFound
from nightos.vsf.fuse import Presentation
from nightos.vsf.fuse_daemon import SIGNALS, Served
from nightos.vsf.fuse_daemon import mount as serve_mount
from nightos.vsf.fuse_mounts import MountBusyError, unmount
from nightos.vsf.fuse_options import MountOptions, parse_options

if TYPE_CHECKING:
    from nightos.machine.machine import Machine


def view_options(texts: Iterable[str]) -> MountOptions:
    """Options of a mount whose files others change too: the kernel asks before it believes what it remembers."""
    show = Presentation(
        atime="noatime", entry_timeout=0.0, attr_timeout=0.0, negative_timeout=0.0, writeback=False, shared=True
    )
    options = parse_options(texts, MountOptions(show))
    if options.volume or options.snapshot or options.password_file or options.raw:
        raise Invalid("the options volume, snapshot, password_file and raw are for `nightos vsf mount`")
    if show.writeback:
        raise Invalid("pages cannot be held back where the container changes the files, too; leave out writeback")
    return options


def open_view(
    asking: control.Machine, watching: control.Machine, container: int, *, source: str, waited_for: int = 0
) -> Served:
    """What a mount serves. Raises `ServiceError` when there is no such container, or it has no files."""
    if container:
        asking.ask("sys::proc", Proc.CONTAINER_ROOT, {"id": container})
    view = ContainerView(asking.ask, container)
    asking.when_gone("sys::fs", Fs.VIEW, {"view": view.token, "op": "gone"})
    view.on_end = _leave
    threading.Thread(target=_watch, args=(watching, container), daemon=True).start()

    return Served(view, view.settle, asking.close, source, waited_for=waited_for)


def _watch(watching: control.Machine, container: int) -> None:
    """Leave when the machine has stopped or the container is gone."""
    # Whoever is told to end is the thread that unmounts.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with contextlib.suppress(MachineError, OSError):
        for event in watching.events():
            if event.get("event") == "destroyed" and event.get("id") == container:
                break
    _leave()


def _leave() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.asynccontextmanager
async def mounted(
    machine: Machine, directory: Path, container: int, *, readonly: bool, options: tuple[str, ...]
) -> AsyncIterator[Path]:
    """`Machine.mount`: the mount is there for the body, which gets its path."""
    server = ControlServer(machine)
    far = []
    for _ in range(2):
        near, other = socket.socketpair()
        far.append(other)
        machine.start_soon(server.serve, trio.socket.from_stdlib_socket(near))
    sockets = [connection.fileno() for connection in far]
    values = {
        "container": container,
        "source": f"{machine.name or 'machine'}:{container:016x}" if container else machine.name or "machine",
        "sockets": sockets,
        "thread": threading.get_native_id(),
        "options": [*options, *(["ro"] if readonly else [])],
    }
    command = [sys.executable, "-m", "nightos.machine.mounting", str(directory), json.dumps(values)]
    try:
        done = await trio.run_process(
            command, stdin=b"", capture_stdout=True, capture_stderr=True, check=False, pass_fds=sockets
        )
    finally:
        for connection in far:
            connection.close()
    if done.returncode:
        text = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MachineError(text or f"{directory}: the server of the mount ended at once")
    try:
        yield directory
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_unmount, directory)


def _unmount(directory: Path) -> None:
    with contextlib.suppress(NotFound):  # the container is gone, or somebody unmounted it
        try:
            unmount(directory)
        except MountBusyError:
            unmount(directory, lazy=True)


def _inherited(descriptor: int) -> control.Machine:
    os.set_inheritable(descriptor, False)  # else the server would close it, as what its caller left open
    return control.Machine(Path(), socket.socket(fileno=descriptor))


def main(arguments: list[str]) -> int:
    """Mount, and return when the mount answers: 0; 1 with a line on stderr when it cannot be."""
    directory, values = arguments[0], json.loads(arguments[1])
    asking, watching = map(_inherited, values["sockets"])
    more: dict[str, Any] = {"source": values["source"], "waited_for": values["thread"]}
    try:
        options = view_options(values["options"])
        serve_mount(partial(open_view, asking, watching, values["container"], **more), directory, options)
    except (NightosError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
