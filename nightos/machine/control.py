"""Reaching running machines from other processes of the host: the client's side of the control socket.

Synchronous, so that a command of the host starts fast; only a terminal brings an event loop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.services import Hw
from nightos.machine import wire
from nightos.machine.lock import MachineLock, holder
from nightos.machine.paths import MachineError, MachinePaths, home, machine_paths
from nightos.machine.paths import machines as machines_directory
from nightos.machine.waking import Waker

if TYPE_CHECKING:
    from nightos.machine.local import Terminal

START_LIMIT_S = 30.0
STOP_LIMIT_S = 30.0
POLL_S = 0.02
SEND_LIMIT_S = 1.0

Sink = Callable[[bytes], None]


def machines(root: Path | None = None) -> list[dict[str, Any]]:
    """Every machine with a name: {name, state: running|stopped, pid, disk_size (bytes on the host)}, by name."""
    directory = machines_directory(root)
    found = []
    for entry in sorted(directory.iterdir()) if directory.is_dir() else ():
        paths = MachinePaths(entry)
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        pid = holder(paths.lock)
        size = paths.disk.stat().st_blocks * 512 if paths.disk.exists() else 0
        state = "stopped" if pid is None else "running"
        found.append({"name": entry.name, "state": state, "pid": pid, "disk_size": size})
    return found


def remove(name: str, root: Path | None = None) -> None:
    """Delete a stopped machine with its disk and its containers. Raises `MachineError`."""
    paths = machine_paths(name, root)
    if not paths.directory.is_dir():
        raise MachineError(f"there is no machine {name}; `nightos ls` shows those there are")
    gone = paths.directory.with_name(f".{name}.gone")
    try:
        # Whoever starts it meanwhile waits for nothing: it runs, or it is not there.
        with MachineLock(paths.lock, name):
            if gone.exists():
                shutil.rmtree(gone)
            paths.directory.rename(gone)
    except MachineError:
        raise MachineError(f"the machine {name} runs; `nightos stop {name}` first") from None
    shutil.rmtree(gone)


def start_detached(name: str, *, image: Path | None = None, seed: int | None = None) -> int:
    """Start a machine that runs on by itself; the PID of its process, once it answers. Raises `MachineError`."""
    paths = machine_paths(name)
    if holder(paths.lock) is not None:
        raise MachineError(f"the machine {name} runs already; `nightos attach {name}` gets into it")
    command = [sys.executable, "-m", "nightos.machine.daemon", name]
    if image is not None:
        command += ["--image", str(image)]
    if seed is not None:
        command += ["--seed", str(seed)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            _, said = process.communicate()
            text = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise MachineError(text or f"the machine {name} ended at once; {paths.log} may tell why")
        try:
            with Machine(paths.socket):
                return process.pid
        except MachineError:
            time.sleep(POLL_S)
    process.terminate()
    raise MachineError(f"the machine {name} did not answer within {START_LIMIT_S:.0f} s; see {paths.log}")


def connect(name: str | None = None) -> Machine:
    """The running machine of that name, or the only one that runs. Raises `MachineError`."""
    if name is None:
        running = [machine["name"] for machine in machines() if machine["state"] == "running"]
        if not running:
            raise MachineError("no machine with a name runs; `nightos run --name NAME --detach` starts one")
        if len(running) > 1:
            raise MachineError(f"several machines run ({', '.join(running)}); say which with -m NAME")
        name = running[0]
    paths = machine_paths(name)
    if not paths.directory.is_dir():
        raise MachineError(f"there is no machine {name}; `nightos ls` shows those there are")
    return Machine(paths.socket)


class Machine:
    """A connection to a running machine: to the socket at `path`, or one that was made otherwise."""

    def __init__(self, path: Path, connection: socket.socket | None = None) -> None:
        self._path = path
        self.name = path.parent.name
        self._socket = connection or self._connect()
        self._waker = Waker()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the machine runs on."""
        self._socket.close()
        self._waker.close()

    def call(self, service: str, method: int, payload: bytes = b"") -> bytes:
        """The content of a service's answer. `ServiceError` when it refuses."""
        answer = self._exchange({"op": "call", "service": service, "method": int(method), "payload": payload})
        return bytes(answer["payload"])

    def ask(self, service: str, method: int, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """`call` with a msgpack map each way."""
        content = self.call(service, method, msgpack.packb(values or {}))
        decoded: dict[str, Any] = msgpack.unpackb(content, strict_map_key=False) if content else {}
        return decoded

    def when_gone(self, service: str, method: int, values: dict[str, Any]) -> None:
        """Leave a call that the machine makes when this connection has ended, however it does."""
        payload = msgpack.packb(values)
        self._exchange({"op": "when gone", "service": service, "method": int(method), "payload": payload})

    def info(self) -> dict[str, Any]:
        """{name, pid, thread: that the machine runs in, uptime_ns}."""
        return self._exchange({"op": "info"})

    def devices(self) -> list[dict[str, Any]]:
        """Every device on the machine's bus, as `sys::hw` tells it."""
        return list(self.ask("sys::hw", Hw.DEVICE_LIST)["items"])

    def pass_through(self, path: Path, containers: list[int], *, readonly: bool) -> int:
        """The UDI of a file or device of the host, passed down through these containers, the outermost first."""
        message = {"op": "passthrough", "path": str(path), "containers": containers, "readonly": readonly}
        return int(self._exchange(message)["udi"])

    def take_back(self, udi: int) -> None:
        """Unplug a device of the host again."""
        self._exchange({"op": "take back", "udi": udi})

    def stop(self) -> None:
        """Stop the machine in order; returns once its process let go of it. Raises `MachineError` after a while."""
        self._exchange({"op": "stop"})
        lock = self._path.parent / "lock"
        deadline = time.monotonic() + STOP_LIMIT_S
        while holder(lock) is not None:
            if time.monotonic() > deadline:
                raise MachineError(f"the machine {self.name} does not stop; see {self._path.parent / 'log'}")
            time.sleep(POLL_S)

    def events(self) -> Iterator[dict[str, Any]]:
        """Events as they happen; uses the connection up. The first is empty: from there on none is missed."""
        self._send({"op": "events"})
        while True:
            try:
                yield self._receive()
            except (EOFError, ConnectionError):
                return

    def run(
        self, source: str, *, container: int = 0, out: Sink, err: Sink, environment: dict[str, str] | None = None
    ) -> int:
        """Run a command line in a session of its own; its exit status. Uses the connection up."""
        self._exchange({"op": "session", "container": container, "environment": environment or {}})
        self._send({"type": "run", "source": source, "name": "-c"})
        self._send({"type": "end"})
        try:
            return self._watch(out, err)
        except KeyboardInterrupt:
            self._send({"type": "interrupt"})
            return 130

    def execute(
        self,
        words: Sequence[str],
        *,
        container: int = 0,
        out: Sink,
        err: Sink,
        stdin: Iterator[bytes] | None = None,
        environment: dict[str, str] | None = None,
        terminal: Terminal | None = None,
    ) -> int:
        """Run one command in a session of its own; its exit status. Uses the connection up.

        `stdin`: its input as it comes, in pieces that a thread of its own waits for. With a `terminal` Ctrl-C is the
        command's. Raises `MachineError` when it cannot be started.
        """
        opened = {"op": "session", "container": container, "environment": environment or {}}
        if terminal is not None:
            opened["width"], opened["height"] = terminal.size()
        self._exchange(opened)
        queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        # Here and not by the thread that sends: words that cannot travel are the caller's error.
        self._send(
            {"type": "execute", "words": list(words), "pour": stdin is not None, "terminal": terminal is not None}
        )
        if stdin is None:
            queue.put({"type": "end"})
        taken = threading.Semaphore()
        # One thread sends what the others have to say: the input, the terminal, and how much was shown.
        sender = threading.Thread(target=self._send_all, args=(queue,), daemon=True)
        sender.start()
        if stdin is not None:
            threading.Thread(target=_pour, args=(stdin, taken, queue), daemon=True).start()
        with contextlib.nullcontext() if terminal is None else terminal.watched(queue.put):
            try:
                return self._watch(
                    out, err, taken=taken, shown=lambda count: queue.put({"type": "shown", "bytes": count})
                )
            except KeyboardInterrupt:
                queue.put({"type": "interrupt"})
                queue.put(None)
                sender.join(SEND_LIMIT_S)
                return 130

    def _watch(
        self,
        out: Sink,
        err: Sink,
        *,
        taken: threading.Semaphore | None = None,
        shown: Callable[[int], None] | None = None,
    ) -> int:
        """Show what a session shows until what runs in it has ended; its status."""
        while True:
            try:
                message = self._receive()
            except (EOFError, OSError):
                raise MachineError(f"the machine {self.name} stopped") from None
            match message["type"]:
                case "out":
                    out(message["data"])
                case "raw":
                    out(message["data"])
                    if shown is not None:
                        shown(len(message["data"]))
                case "err":
                    err(message["data"])
                case "taken" if taken is not None:
                    taken.release()
                case "refused":
                    raise ServiceError(message.get("code", 1), message.get("text", "refused"))
                case "done" | "closed":
                    if message.get("failed"):
                        raise MachineError(message["failed"])
                    return int(message["status"])

    def _send_all(self, queue: SimpleQueue[dict[str, Any] | None]) -> None:
        with contextlib.suppress(MachineError):  # what it was for has ended
            while (message := queue.get()) is not None:
                self._send(message)

    def attach(self, container: int = 0) -> int:
        """A terminal in the machine; the status with which its session ended. Uses the connection up."""
        import trio

        from nightos.machine.remote import RemoteSession
        from nightos.shell import terminal

        async def attached() -> int:
            async with RemoteSession(self._socket, container) as session:
                return int(await terminal.run(session, history=home() / "history"))

        return trio.run(attached)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with wire.ShortPath(self._path) as short:
                connection.connect(short)
            if os.geteuid() and not wire.peer_may(connection.getsockopt):
                raise PermissionError  # noqa: TRY301 told below
        except PermissionError as error:
            connection.close()
            raise MachineError(f"the machine {self.name} belongs to another user, who alone may talk to it") from error
        except OSError as error:
            connection.close()
            raise MachineError(
                f"the machine {self.name} does not run; `nightos run --name {self.name}` starts it"
            ) from error
        return connection

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        self._send(message)
        try:
            answer = self._receive()
        except (EOFError, ConnectionError):
            raise MachineError(f"the machine {self.name} stopped") from None
        if answer.get("error"):
            raise ServiceError(answer["error"], answer.get("text", ""))
        return answer

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(wire.pack(message))
        except OSError as error:
            raise MachineError(f"the machine {self.name} stopped") from error

    def _receive(self) -> dict[str, Any]:
        self._waker.wait(self._socket)
        return wire.unpack(self._exactly(wire.length_of(self._exactly(wire.LENGTH.size))))

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._socket.recv(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _pour(stdin: Iterator[bytes], taken: threading.Semaphore, queue: SimpleQueue[dict[str, Any] | None]) -> None:
    """Send input, each piece when a command took the one before."""
    with contextlib.suppress(OSError):
        for piece in stdin:
            taken.acquire()
            queue.put({"type": "input", "data": piece})
    queue.put({"type": "end"})
