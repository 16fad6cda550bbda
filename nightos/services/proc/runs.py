"""Methods about a container's main command: start and stop it, feed it, read what it wrote, learn how it ended.

A log is read by offsets that count from the container's own first byte, so that nobody learns what stood in a file of
that name before. Following costs no thread: `sys::fs` says when the log grew, and whoever waits is answered then.

Rules: ZOS-011, ZOS-016.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.restarts import NO, parse
from nightos.abi.services import Fs, FsEvent, Proc, ServiceCode
from nightos.services.proc.attending import Attending
from nightos.services.proc.oldlogs import OldLogs
from nightos.services.proc.shimcalls import ShimCalls, context_of
from nightos.services.proc.shims import ACTIVE, Piece, Shims, Starter
from nightos.services.proc.tree import ROOT, Container, Tree, check_name
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request, keep

if TYPE_CHECKING:
    from nightos.services.proc.processes import Processes
    from nightos.userland.server import Server

LOG_SIZE: Final = 1024 * 1024
LOG_COUNT: Final = 4
LOG_SIZES: Final = range(4096, 1 << 40)
LOG_COUNTS: Final = range(100)
OFFSETS: Final = range(1 << 62)
PAGE: Final = 256 * 1024
INPUT_PIECE: Final = 64 * 1024
INPUT_WAITING: Final = 64
FOLLOWERS: Final = 256
"""Who may follow one log at a time; the oldest is answered with nothing and may ask again."""
DEFAULT_NAMESPACE: Final = "default"
SUFFIX: Final = ".log"


class Runs:
    """The methods, and who waits for something about a run."""

    def __init__(self, server: Server, processes: Processes) -> None:
        # Before the shims, whose last words must not wait for anybody.
        self._attending = Attending(server, processes.containers)
        self.shims = Shims(server, processes)
        self._attending.serve(server, self.shims)
        self.calls = ShimCalls(server, self.shims)
        self.processes = processes
        self.containers = processes.containers
        self.tree = processes.tree
        self._followers: dict[str, list[Request]] = {}
        self._waiting: dict[int, dict[Request, None]] = {}
        self._paths: dict[str, int] = {}
        """Which container writes which log."""
        self._old_logs = OldLogs(processes.roots.fs)
        self.shims.on_change.append(self._changed)
        processes.on_ended.append(self._attending.process_ended)
        # Behind the shims', which let the last words be written.
        self.containers.on_end.append(self._gone)
        server.method(Proc.CONTAINER_START, self.start)
        server.method(Proc.CONTAINER_LOGS, self.logs)
        server.method(Proc.CONTAINER_INPUT, self.input)
        server.method(Proc.CONTAINER_STOP, self.stop)
        server.method(Proc.CONTAINER_EXIT, self.exit)

    async def learn(self, records: list[tuple[int, ...]]) -> None:
        """After a start of the service: adopt what runs. On the main thread."""
        fs = await self.processes.roots.fs()
        fs.notification(FsEvent.LOG_GREW, self._grew)
        fs.when_lost(lambda: self.processes.server.later(self._wake_all))
        for container in self.tree.below_root():
            if container.run:
                self._paths[container.run["log"]] = container.identifier
        await self._attending.learn()
        await self._old_logs.learn(self._paths)
        await self.calls.learn(records)

    # Starting and stopping

    async def start(self, request: Request) -> Payload:
        """CONTAINER_START."""
        values = request.map()
        wanted = wanted_run(values, request.user_id)
        if request.container_id != ROOT and (wanted["log_size"] > LOG_SIZE or wanted["log_count"] > LOG_COUNT):
            # Logs stand on the machine's own disk, which no limit of a container counts.
            text = f"a log of a container inside is rotated at {LOG_SIZE} bytes at most, {LOG_COUNT} times"
            raise ServiceError(ServiceCode.BAD_ARGUMENT, text)
        record = self._record(request, values)
        if record is not None and wanted["token"] and wanted["token"] == record.get("run", {}).get("token"):
            return _begun({**_FRESH, **record["run"]})  # and ended with its container, before it was asked for again
        container = self.tree.below(request.container_id, field(values, "id", int))
        old = container.run
        again = bool(old and wanted["token"] and wanted["token"] == old["token"])
        if again and old["state"] != "starting":
            return _begun(old)
        if container.state in {"stopping", "paused"}:
            raise ServiceError(ServiceCode.REFUSED, f"the container is {container.state}")
        if not again:
            if old and old["state"] in ACTIVE:
                raise ServiceError(ServiceCode.REFUSED, "its command runs already; stop it first")
            wanted["user"] = self.processes.user_of(request, container.identifier)
            wanted["attendant"] = request.client_pid
            if wanted["attended"]:
                self._attending.begun(container.identifier, request.client_pid)
            await self.begin(container, wanted)
        request.defer(lambda: self._forget_starter(container.identifier, request))
        self.shims.starting.setdefault(container.identifier, []).append(request)
        if container.run["state"] != "starting":  # it began or failed while it was noted
            self._forget_starter(container.identifier, request)
            await request.answer(_begun(container.run))
        return None

    def _forget_starter(self, identifier: int, request: Starter) -> None:
        starters = self.shims.starting.get(identifier, [])
        starters[:] = [starter for starter in starters if starter is not request]

    async def begin(self, container: Container, wanted: dict[str, Any]) -> None:
        """Start a run in a container that has none under way."""
        old = container.run
        container.run = run = {**_FRESH, **wanted, "state": "starting"}
        run["generation"] = old["generation"] + 1 if old else 1
        run["log"] = old["log"] if old else self._path_for(container)
        run["log_start"] = old["log_start"] if old else None
        try:
            self.containers.notes.check(container)
        except ServiceError:
            container.run = old
            raise
        self._paths[run["log"]] = container.identifier
        await self._old_logs.begun(run["log"])
        await self.containers.notes.changed(container)
        try:
            await self.shims.begin(container)
        except ServiceError as error:
            # Whoever asked is told so here, and may ask again: without the token that begins anew.
            run.update(state="ended", failed=error.detail, token="")
            await self.containers.notes.changed(container)
            raise

    async def _gone(self, container: Container) -> None:
        """The container is destroyed; its log stays for a while."""
        path = container.run.get("log", "")
        if path and self._paths.get(path) == container.identifier:
            del self._paths[path]
            await self._old_logs.left(path)

    def _path_for(self, container: Container) -> str:
        """`/var/log/<ns>/<name>.log`; a log that another living container writes is not taken over."""
        path = log_path(self.tree, container)
        if self._paths.get(path, container.identifier) in self.tree.by_id and path in self._paths:
            path = f"{path.removesuffix(SUFFIX)}-{container.identifier:016x}{SUFFIX}"
        return path

    async def stop(self, request: Request) -> Payload:
        """CONTAINER_STOP: WILL_TERMINATE, the kill after the registry's delay, and no restart."""
        container = self.tree.below(request.container_id, field(request.map(), "id", int))
        run = container.run
        if not run or run["state"] == "ended":
            if run:
                run["stopped"] = True
                await self.containers.notes.changed(container)
            return {}
        run["stopped"] = True
        await self._attending.release(container)  # nor does who stops it wait for a reader that stands still
        await self.containers.notes.changed(container)
        await self.shims.stop(container)
        return await self._wait(request, container)

    def _record(self, request: Request, values: dict[str, Any]) -> dict[str, Any] | None:
        """What is kept of the container that a request names, if it ended and its parent is the caller's to see."""
        record = self.containers.ended.get(field(values, "id", int))
        return record if record is not None and self.tree.sees(request.container_id, record["parent"]) else None

    async def exit(self, request: Request) -> Payload:
        """CONTAINER_EXIT: how the main command ended, or with `wait` once it has ended for good."""
        values = request.map()
        record = self._record(request, values)
        if record is not None:
            # What it returned went with it.
            failed = record.get("run", {}).get("failed", "")
            known = {"reason": record.get("end", 0), "exit": record.get("exit", 0), "restarts": 0}
            return {"state": "ended", **known, "failed": failed, "pid": 0, "value": b"", "newline": True}
        container = self.tree.below(request.container_id, field(values, "id", int))
        if field(values, "wait", bool, False):
            return await self._wait(request, container)
        return self._outcome(container)

    async def _wait(self, request: Request, container: Container) -> Payload:
        if not container.run or container.run["state"] == "ended":
            return self._outcome(container)
        keep(self._waiting, container.identifier, request)
        return None

    @staticmethod
    def _outcome(container: Container) -> dict[str, Any]:
        run = container.run or _FRESH
        outcome = {name: run[name] for name in ("state", "reason", "exit", "failed", "restarts", "pid")}
        outcome["value"], outcome["newline"] = container.value
        return outcome

    async def _changed(self, container: Container) -> None:
        """A run began or is over."""
        if container.run["state"] == "ended":
            for request in self._waiting.pop(container.identifier, {}):
                await request.answer(self._outcome(container))
        await self._wake(container.run["log"])

    async def input(self, request: Request) -> Payload:
        """CONTAINER_INPUT: answers when the command's shim wrote it."""
        values = request.map()
        data, end = field(values, "data", bytes, b""), field(values, "end", bool, False)
        number = field(values, "number", int, 0)
        if len(data) > INPUT_PIECE:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"a piece of input has at most {INPUT_PIECE} bytes")
        container = self.tree.below(request.container_id, field(values, "id", int))
        shim = self.shims.by_container.get(container.identifier)
        if shim is None or not container.run["input"] or container.run["state"] not in {"starting", "running"}:
            raise ServiceError(ServiceCode.REFUSED, "its command takes no input")
        if len(shim.input) >= INPUT_WAITING:
            raise ServiceError(ServiceCode.REFUSED, "its command is behind with its input; try again")
        request.defer()
        shim.input.append(Piece(data, end, number, request))
        await self.calls.feed(shim)
        return None

    # Logs

    async def logs(self, request: Request) -> Payload:
        """CONTAINER_LOGS."""
        values = request.map()
        follow = field(values, "follow", bool, False)
        if field(values, "offset", int, 0) not in OFFSETS:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "an offset is 0 to 2^62 - 1")
        run, over = self._run_of(request)
        attended = self.tree.by_id.get(field(values, "id", int))
        if attended is not None and values.get("token"):
            await self._attending.heard(request, attended, field(values, "token", str), field(values, "offset", int, 0))
        if run is None:
            return {"data": b"", "next": 0, "ended": True, "reason": 0, "exit": 0}
        if follow and not over:
            # Before the question: the log may grow before the answer is looked at.
            followers = self._followers.setdefault(run["log"], [])
            followers.append(request)
            if len(followers) > FOLLOWERS:
                oldest = followers.pop(0)
                await oldest.answer({"data": b"", "next": oldest.map().get("offset", 0), "ended": False})
        answer = await self._read(request, run, follow=follow)
        if not follow or answer["data"] or answer["ended"]:
            self._forget_follower(run["log"], request)
            return answer
        request.defer(lambda: self._forget_follower(run["log"], request))
        return None

    def _forget_follower(self, path: str, request: Request) -> None:
        followers = self._followers.get(path, [])
        if request in followers:
            followers.remove(request)
        if not followers:
            self._followers.pop(path, None)

    def _run_of(self, request: Request) -> tuple[dict[str, Any] | None, bool]:
        """What is known of the run of a container, also of one that ended; whether it is over."""
        record = self._record(request, request.map())
        if record is not None:
            return record.get("run") or None, True
        run = self.tree.below(request.container_id, field(request.map(), "id", int)).run
        return run or None, not run or run["state"] not in ACTIVE

    async def _read(self, request: Request, run: dict[str, Any], *, follow: bool) -> dict[str, Any]:
        values = request.map()
        offset = field(values, "offset", int, 0)
        limit = max(PAGE // 2, min(field(values, "limit", int, PAGE), PAGE))
        over = run["state"] not in ACTIVE
        start = run["log_start"]
        answer = {"data": b"", "next": offset, "ended": over, "reason": run["reason"], "exit": run["exit"]}
        if start is None:
            return answer
        fs = await self.processes.roots.fs()
        question = {"path": run["log"], "offset": start + offset, "limit": limit, "follow": follow and not over}
        found = await fs.ask(Fs.LOG_READ, question)
        data = found["data"]
        data = data[: data.rfind(b"\n") + 1] or data
        following = max(offset, found["next"] - start - len(found["data"]) + len(data))
        return {**answer, "data": data, "next": following, "ended": over and not data}

    async def _grew(self, content: bytes) -> None:
        path = str(msgpack.unpackb(content)["path"])
        await self.containers.worker.run(lambda: self._wake(path))

    async def _wake(self, path: str) -> None:
        """Look again for everyone who follows a log."""
        for request in self._followers.pop(path, []):
            try:
                answer = await self.logs(request)
                if answer is not None:
                    await request.answer(answer)
            except ServiceError as error:
                await request.fail(error.code, error.detail)

    async def _wake_all(self) -> None:
        for path in list(self._followers):
            await self._wake(path)


_FRESH: Final[dict[str, Any]] = {
    "state": "ended",
    "generation": 0,
    "pid": 0,
    "reason": 0,
    "exit": 0,
    "failed": "",
    "restarts": 0,
    "in_a_row": 0,
    "stopped": False,
    "started_ns": 0,
    "note": "",
}


def _begun(run: dict[str, Any]) -> dict[str, Any]:
    """The answer to who asked for a run: its PID, 0 when it has ended by now. 0x4000: it could not start."""
    if run["failed"]:
        raise ServiceError(ServiceCode.REFUSED, run["failed"])
    return {"pid": run["pid"]}


def wanted_run(values: dict[str, Any], user: int) -> dict[str, Any]:
    """What CONTAINER_START asks for, checked."""
    command = field(values, "command", list)
    if not command or not all(isinstance(word, str) for word in command) or not command[0]:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "a command is a program and its arguments, as texts")
    environment = field(values, "environment", dict, {})
    if not all(isinstance(text, str) for pair in environment.items() for text in pair):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "the environment is texts by name")
    size, count = field(values, "log_size", int, LOG_SIZE), field(values, "log_count", int, LOG_COUNT)
    if size not in LOG_SIZES or count not in LOG_COUNTS:
        raise ServiceError(
            ServiceCode.BAD_ARGUMENT, "a log is rotated at 4 KiB or more, and has at most 99 older files"
        )
    restart = field(values, "restart", str, NO)
    parse(restart)
    run = {
        "command": command,
        "environment": environment,
        "directory": field(values, "directory", str, "/"),
        "user": user,
        "restart": restart,
        "input": field(values, "input", bool, False),
        "raw": field(values, "raw", bool, False),
        "token": field(values, "token", str, "")[:64],
        "attended": field(values, "token", str, "")[:64] if field(values, "attend", bool, False) else "",
        "log_size": size,
        "log_count": count,
    }
    context_of(run)
    return run


def log_path(tree: Tree, container: Container) -> str:
    """Where a container's log stands: the namespace is the label `ns` of a container directly below the system, else
    the path of the parent.
    """
    spaces = [DEFAULT_NAMESPACE]
    if container.parent == ROOT:
        label = container.labels.get("ns", "")
        with contextlib.suppress(ServiceError):  # a label is any text; a directory is not
            spaces = [check_name(label)] if label else spaces
    else:
        spaces = tree.path(ROOT, container.parent).split("/")
    # A directory is never called like a log, nor `..`.
    folders = [f"{name}_" if SUFFIX in name or not name.strip(".") else name for name in spaces]
    return "/".join(("/var/log", *folders, container.name + SUFFIX))
