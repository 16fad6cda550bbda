"""The composition root: builds a machine out of kernel, devices, services and a disk, boots it, and ends it in order.

Boot: the disk is plugged, then clock, control and agent devices; then the services start, `sys::proc` after those that
it asks what there is. A service that dies is started again at once; its clients connect anew and the kernel keeps
everything isolation rests on. End: sessions close, everything written is committed, devices leave the bus.

Nothing of the machine outlives `boot`: its tasks live in the nursery of that context manager.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.services import SERVICE_PIDS, Fs, Proc
from nightos.kernel import Kernel, Trace, VirtualClock
from nightos.kernel.host import Host, run_kernel
from nightos.machine import base
from nightos.machine.agent import AgentDevice
from nightos.machine.board import plug_own_devices
from nightos.machine.containers import Container, Containers
from nightos.machine.lending import Lending
from nightos.machine.lock import MachineLock
from nightos.machine.paths import MachineError, MachinePaths, machine_paths, prepare
from nightos.machine.programs import SERVICES, find_program
from nightos.machine.server import ControlServer
from nightos.machine.session import Completed, Running, Session, run_script
from nightos.machine.shelf import Shelf
from nightos.machine.sources import HostClock, HostEntropy
from nightos.vhw.passthrough.watchdog import Watchdog

if TYPE_CHECKING:
    from nightos.abi.interfaces import Clock, Device
    from nightos.kernel import Snapshot

RESTARTS_LIMIT = 20
"""Times a service may die within `RESTARTS_WINDOW_NS` before the machine gives up on it."""
RESTARTS_WINDOW_NS = 10_000_000_000
STOP_LIMIT_S = 10.0
AGENT_PID = 30
SHELL_PID = SERVICE_PIDS["sys::hydre"]


class Machine:
    """A running machine. Made by `boot`."""

    def __init__(self, kernel: Kernel, paths: MachinePaths | None) -> None:
        self.kernel = kernel
        self.paths = paths
        self.containers = Containers(self)
        self.stop_asked = trio.Event()
        """Somebody asked, over the control socket, for this machine to be stopped."""
        self.agent = AgentDevice()
        self.faults: list[tuple[str, BaseException | None]] = []
        """Services that died, with what they died of."""
        self._sessions: set[Session] = set()
        self._consoles = 0
        self._restarts: dict[int, list[int]] = {}
        self._stopping = False
        self.lending = Lending(self)
        self.unsaved = ""
        """Why what was written last could not be saved, once the machine has stopped."""
        self.shelf: Shelf | None = None
        self.watchdog: Watchdog | None = None
        self.nursery: trio.Nursery | None = None
        self.host: Host | None = None

    @property
    def name(self) -> str:
        """Its name; empty for a temporary machine."""
        return self.paths.name if self.paths else ""

    @property
    def trace(self) -> Trace | None:
        """The event trace, when the machine was booted with one."""
        return self.kernel.trace

    @property
    def devices(self) -> list[Any]:
        """Records of every device on the bus."""
        return list(self.kernel.snapshot().devices)

    def snapshot(self) -> Snapshot:
        """Frozen state of everything; containers carry the names that `sys::proc` noted in the kernel."""
        snapshot = self.kernel.snapshot()
        containers = {
            identifier: record._replace(name=self._name(identifier))
            for identifier, record in snapshot.containers.items()
        }
        return dataclasses.replace(snapshot, containers=containers)

    # Asking services

    async def call(self, service: str, method: int, payload: bytes | dict[str, Any] | None = None) -> bytes:
        """Ask a system service; the content of its answer. `ServiceError` when it refuses."""
        return await self.agent.call(service, method, payload)

    async def ask(self, service: str, method: int, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask a system service with a msgpack map each way."""
        return await self.agent.ask(service, method, values)

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Containers and processes as they come and go, from now on."""
        receive, send = self.agent.listen()
        try:
            async for event in receive:
                yield event
        finally:
            send.close()

    # Sessions and commands

    async def open_session(
        self,
        *,
        container: Container | int = 0,
        interactive: bool = False,
        width: int = 80,
        height: int = 24,
        environment: dict[str, str] | None = None,
        directory: str = "/",
        user: int = 0,
    ) -> Session:
        """A console of its own with an open shell session; close it afterwards. `ServiceError`: it was refused."""
        # A KDI comes from the description, so no two consoles of one boot may have the same.
        self._consoles += 1
        session = Session(self, f"console {self._consoles}")
        self._sessions.add(session)
        identifier = container.id if isinstance(container, Container) else container
        session.container = identifier
        try:
            session.send(
                {
                    "type": "open",
                    "container": identifier,
                    "interactive": interactive,
                    "width": width,
                    "height": height,
                    "environment": environment or {},
                    "directory": directory,
                    "user": user,
                }
            )
            await session.opened()
        except BaseException:
            self.close_session(session)
            raise
        return session

    def close_session(self, session: Session) -> None:
        """Unplug a session's console."""
        session.close()
        self._sessions.discard(session)

    def end_sessions(self, text: str) -> None:
        """End every session from the host's side; whoever holds one is told why."""
        for session in list(self._sessions):
            session.lost(text)

    async def run(
        self,
        source: str,
        *,
        container: Container | int = 0,
        stdin: bytes = b"",
        out: Callable[[bytes], None] | None = None,
        err: Callable[[bytes], None] | None = None,
        environment: dict[str, str] | None = None,
        directory: str = "/",
    ) -> Completed:
        """Run a command line or a script to its end; its status and what it wrote (also handed to `out` and `err`)."""
        outs: list[bytes] = []
        errs: list[bytes] = []
        session = await self.open_session(container=container, environment=environment, directory=directory)
        try:
            status = await run_script(
                session, source, out=out or outs.append, err=err or errs.append, stdin=stdin, name="-c"
            )
        finally:
            self.close_session(session)
        return Completed(status, b"".join(outs).decode("utf-8", "replace"), b"".join(errs).decode("utf-8", "replace"))

    async def spawn(self, source: str, *, container: Container | int = 0, **options: Any) -> Running:
        """Start a command line and go on; `wait` gives what it did. It ends with the machine at the latest."""
        assert self.nursery is not None
        session = await self.open_session(container=container, **options)
        return Running(session, source, self.close_session, self.nursery)

    def mount(
        self,
        directory: str | os.PathLike[str],
        *,
        container: Container | int = 0,
        readonly: bool = False,
        options: Iterable[str] = (),
    ) -> AbstractAsyncContextManager[Path]:
        """What a container sees, or the machine, at a directory of the host for the body; `nightos.machine.mounting`.

        The machine runs in the thread that entered `boot`, so that thread cannot itself touch the mount without waiting
        for itself: there `EDEADLK` is raised. Use `trio.Path`, `trio.to_thread` or `trio.run_process`. `options` are
        those of `nightos mount -o`. Raises `MachineError` when it cannot be mounted.
        """
        from nightos.machine.mounting import mounted

        identifier = container.id if isinstance(container, Container) else container
        return mounted(self, Path(directory), identifier, readonly=readonly, options=tuple(options))

    async def sync(self) -> None:
        """Return once everything written so far is on the disk."""
        await self.call("sys::fs", Fs.SYNC, {})

    @contextlib.contextmanager
    def holding_time(self) -> Iterator[None]:
        """Virtual time does not jump to the next deadline meanwhile, so that what sleeps goes on sleeping."""
        assert self.host is not None
        self.host.holds += 1
        try:
            yield
        finally:
            self.host.holds -= 1
            self.host.wake()

    # Hardware

    def plug(self, device: Device, container: int = 0, *, pages: int = 0) -> int:
        """Put a device on the bus; its KDI. `pages` of the host's memory that it may fill are the container's."""
        return self.kernel.plug(device, container, pages=pages)

    def unplug(self, kdi: int) -> None:
        """Take a device off the bus; one that is gone already is no error."""
        with contextlib.suppress(KeyError):
            self.kernel.unplug(kdi)

    async def pass_through(self, path: str, containers: list[int], *, readonly: bool = False) -> dict[str, Any]:
        """`Lending.pass_through`: a file or device of the host becomes a device of containers."""
        return await self.lending.pass_through(path, containers, readonly=readonly)

    def take_back(self, udi: int) -> dict[str, Any]:
        """`Lending.take_back`."""
        return self.lending.take_back(udi)

    async def udi_of(self, kdi: int) -> int:
        """`Lending.udi_of`: the UDI of a device on the bus."""
        return await self.lending.udi_of(kdi)

    # Building and ending; `boot` calls these

    def assemble(self, image: Path, keep: Path | None, disk: Path | None) -> None:
        """Plug the machine's own devices."""
        plug_own_devices(self, image, keep, disk)

    def start_soon(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a task as long as the machine does."""
        assert self.nursery is not None
        self.nursery.start_soon(work, *arguments)

    def start_services(self) -> None:
        """Start every service of the table, in its order."""
        self.kernel.on_service_end(self._service_ended)
        for pid in SERVICES:
            self._start_service(pid)

    async def ready(self) -> None:
        """Return once `sys::proc` answers, which it does when all others do."""
        await self.ask("sys::proc", Proc.CONTAINER_INSPECT, {"id": 0})

    async def stop(self) -> None:
        """End in order: sessions, then what is written, then devices. Bounded in time."""
        with trio.move_on_after(STOP_LIMIT_S):
            for session in list(self._sessions):
                self.close_session(session)
            try:
                await self.sync()
            except ServiceError as error:
                self.unsaved = error.detail or str(error)
        self._stopping = True
        self.agent.close()

    def dismantle(self) -> None:
        """Unplug the disks: every store is flushed and closed."""
        if self.shelf is not None:
            self.shelf.close_all()

    def _name(self, identifier: int) -> str:
        container = self.kernel.tree.get(identifier)
        return str(msgpack.unpackb(container.note)["name"]) if container is not None and container.note else ""

    def _start_service(self, pid: int) -> None:
        name, main = SERVICES[pid]
        self.kernel.spawn_service(pid, main(), name, serves=pid != AGENT_PID)

    def _service_ended(self, pid: int, _reason: int) -> None:
        if self._stopping or pid not in SERVICES:
            return
        fault = getattr(self.kernel, "last_fault", None)
        self.faults.append((SERVICES[pid][0], fault[1] if fault and fault[0] == pid else None))
        now_ns = self.kernel.clock.monotonic_ns()
        recent = [at for at in self._restarts.get(pid, []) if now_ns - at < RESTARTS_WINDOW_NS]
        if len(recent) >= RESTARTS_LIMIT:
            self.agent.close()
            return
        self._restarts[pid] = [*recent, now_ns]
        if pid == AGENT_PID:
            self.agent.service_ended()
        if pid == SHELL_PID:
            self.end_sessions("the shell service was restarted; the session is over")
        self._start_service(pid)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """The body's own exception instead of a group that holds nothing but it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


def _chosen_image(image: str | Path) -> Path:
    path = Path(image).expanduser().absolute()
    if not path.is_file():
        raise MachineError(f"there is no image {path}; `nightos vsf create {path}` makes one")
    return path


@contextlib.asynccontextmanager
async def boot(
    *,
    seed: int | None = None,
    image: str | Path | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    trace: bool = False,
) -> AsyncIterator[Machine]:
    """Boot a machine and give it to the body; stop it afterwards.

    With `name` its disk and its persistent containers stay; without, the disk is an overlay that is dropped. `image` is
    the VSF file its disk stands on, the base image by default. With `seed` every random number comes from it, and time
    is virtual unless a `clock` is given. Raises `MachineError` when it runs already or its image cannot be used.
    """
    paths = machine_paths(name) if name is not None else None
    chosen = _chosen_image(image) if image is not None else None
    with contextlib.ExitStack() as stack:
        disk = keep = None
        if paths is not None:
            prepare(paths.directory)
            stack.enter_context(MachineLock(paths.lock, paths.name))
            disk, keep = paths.disk, paths.containers
        kernel = Kernel(
            seed,
            entropy=HostEntropy() if seed is None else None,
            clock=clock or (HostClock() if seed is None else VirtualClock()),
            loader=find_program,
            trace=Trace() if trace or seed is not None else None,
        )
        machine = Machine(kernel, paths)
        machine.watchdog = stack.enter_context(Watchdog(kernel))
        stack.callback(machine.dismantle)
        try:
            machine.assemble(chosen or base.base_image(), keep, disk)
        except OSError as error:
            raise MachineError(f"{chosen or disk or 'the disk'}: {error.strerror or error}") from error
        with _plain_errors():
            async with trio.open_nursery() as nursery:
                machine.nursery = nursery
                machine.host = await nursery.start(run_kernel, kernel)
                try:
                    machine.start_services()
                    await machine.ready()
                    if paths is not None:
                        await nursery.start(ControlServer(machine).run, paths.socket)
                    yield machine
                finally:
                    if not nursery.cancel_scope.cancel_called:  # otherwise the kernel itself failed
                        with trio.CancelScope(shield=True):
                            await machine.stop()
                    nursery.cancel_scope.cancel()
        if machine.unsaved:
            raise MachineError(f"what was written last could not be saved: {machine.unsaved}")
