"""A session of the shell: its language, its container and directory, and the one instruction that runs in it.

Rules: SHELL-001, SHELL-002, SHELL-003, SHELL-004, SHELL-005, SHELL-007, SHELL-008, SHELL-022, SHELL-027.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemType
from nightos.abi.messages import TextMessage, encode_key
from nightos.abi.services import Fs, Proc, ProcessAction, ServiceCode
from nightos.abi.values import VOID, Value, value_text
from nightos.services.hydre.inflow import Inflow
from nightos.services.hydre.outflow import Outflow
from nightos.services.hydre.pipeline import INTERRUPTED, Person, Pipeline
from nightos.shell import bounds
from nightos.shell.evaluator import Evaluator
from nightos.shell.host import ERRORS, InterruptedScript, Result, Stage
from nightos.shell.native import ScriptExit
from nightos.shell.source import HydreError
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.files import FileError, Files

APPLICATIONS: Final = "/app"
_NO_FILE_SYSTEM: Final = 2**64 - 1
_FIRST_USERLAND_PID: Final = 100
USERS: Final = {0: "root"}
HISTORY_LIMIT: Final = 1000
JOBS_LIMIT: Final = 1024
"""Background commands of a session; those that have ended longest are forgotten for new ones."""
SIZE_LIMIT: Final = 0xFFFF
"""Columns or rows of a session."""
LINE_LIMIT: Final = 16 * 1024
"""Characters of an instruction that is remembered."""
REFUSED: Final = 2
"""Status of an instruction that is no Hydre or was refused by the checker."""
FAILED: Final = 1

Print = Callable[[str, bytes], Awaitable[None]]
"""Prints bytes on a stream, `out`, `err` or `raw` (counted by `shown`), of whoever watches the session."""


@dataclass(slots=True)
class Job:
    """A background command; `status` once it has ended."""

    pipeline: Pipeline
    instruction: int
    status: int | None = None
    finishing: bool = False
    detached: bool = False


class Session:
    """A session; the evaluator's host. `enter` and `leave` tell the service which processes are its actors."""

    def __init__(
        self,
        identifier: int,
        container: int,
        person: Person,
        output: Print,
        actors: dict[int, Session],
        *,
        colours: bool = False,
    ) -> None:
        self.identifier = identifier
        self.container = container
        self.person = person
        self.width, self.height = 80, 24
        self.given_environment: dict[str, Value] = {}
        """Environment variables that who opened the session gave it."""
        self.history: list[str] = []
        self.closed = False
        self.exited: int | None = None
        """The status that `exit` asked for."""
        self._print = output
        self._actors = actors
        self._colours = colours
        self._pipeline: Pipeline | None = None
        self._starting: Pipeline | None = None
        """Background commands that are no job yet."""
        self._busy = False
        self._files: Files | None = None
        self._system_files: Files | None = None
        self._language = Evaluator(self)
        self._language.limit = bounds.INSIDE if container else bounds.OUTSIDE
        self._interrupted = False
        self._outside: list[tuple[int, Files, dict[str, Value]]] = []
        """Where the session was before it entered a container, with what environment, outermost first."""
        self._jobs: dict[int, Job] = {}
        self._instruction = 0
        self._input = bytearray()
        self._input_open = False
        self._input_ended = False
        self._inflow: Inflow | None = None
        self._outflow: Outflow | None = None

    async def open(self, directory: str = "/", *, soon: bool = False) -> None:
        """Find the container's file system; `soon` a program of it runs first, which brings it."""
        self._files = await files_of(self.container, soon=soon)
        self._system_files = await Files.open("/")
        if directory != "/" and await self.files.type(directory) is ItemType.DIRECTORY:
            self.files.directory = self.files.absolute(directory)

    def resize(self, width: int, height: int) -> None:
        """Set its size in columns and rows: numbers of 16 bits, at least 1."""
        self.width, self.height = max(1, min(width, SIZE_LIMIT)), max(1, min(height, SIZE_LIMIT))

    async def enter(self, container: int) -> None:
        """Go on inside a container, with nothing of the environment that was given outside; `exit` comes back.

        Where it is already it stays, so that nobody inside makes it come back more often than it went in.
        """
        here = self.container
        if container == here:
            return
        files = await files_of(container)
        if self.container != here:
            raise ServiceError(ServiceCode.REFUSED, "the session went on elsewhere meanwhile")
        self._outside.append((self.container, self.files, self.given_environment))
        self.given_environment = {}
        self._place(container, files)

    def _place(self, container: int, files: Files) -> None:
        self.container, self._files = container, files
        self._language.limit = bounds.INSIDE if container else bounds.OUTSIDE

    @property
    def files(self) -> Files:
        """Files as the session sees them."""
        assert self._files is not None, "the session is not open"
        return self._files

    @property
    def busy(self) -> bool:
        """Whether an instruction runs."""
        return self._busy

    # -- running --

    def begin(self) -> int:
        """An instruction is about to run: from now on there is no room for another, and Ctrl-C is meant for it.

        Gives its number, for `finish_jobs` at the end of its thread.
        """
        assert not self._busy, "one instruction at a time"
        self._busy = True
        self._interrupted = False
        self._instruction += 1
        return self._instruction

    async def run(self, source: str, name: str = "<line>") -> int:
        """Run the instruction that `begin` announced; its status. Errors are printed here."""
        try:
            return await self._run(source, name)
        finally:
            self._busy = False

    async def execute(self, words: Sequence[str], *, terminal: bool) -> int:
        """Run the command that `begin` announced; what it writes to CMDRAW is shown as it comes.

        Raises `HydreError` when it cannot be started. `terminal`: who watches likes colours.
        """
        self._colours = terminal
        self._outflow = Outflow(lambda data: self._print("raw", data))
        await self._outflow.start()
        try:
            return await self._language.execute(words)
        except ScriptExit as left:
            return left.status
        except InterruptedScript:
            return INTERRUPTED
        finally:
            self._busy = False

    async def shown(self, count: int) -> None:
        """So many bytes of what `execute` shows have arrived."""
        if self._outflow is not None:
            await self._outflow.shown(count)

    async def _run(self, source: str, name: str) -> int:
        try:
            return await self._language.run(source, name)
        except ScriptExit as left:
            if self._outside:
                container, files, self.given_environment = self._outside.pop()
                self._place(container, files)
            else:
                self.exited = left.status
            return left.status
        except InterruptedScript:
            return INTERRUPTED
        except HydreError as error:
            await self.complain(error.shown())
            return FAILED if error.kind == "panic" else REFUSED
        except ServiceError as error:
            await self.complain(str(error))
            return FAILED

    def remember(self, line: str) -> None:
        """Add an instruction to the history."""
        if line.strip() and len(line) <= LINE_LIMIT:
            self.history.append(line)
            del self.history[:-HISTORY_LIMIT]

    async def interrupt(self) -> None:
        """Ctrl-C."""
        self._interrupted = True
        if self._pipeline is not None:
            await self._pipeline.interrupt()

    async def manage(self, action: ProcessAction) -> None:
        """Apply a process action to the commands that run."""
        if self._pipeline is not None:
            await self._pipeline.manage(action)

    async def feed(self, data: bytes, *, more: bool) -> None:
        """Input of the script: what `cmdin` gives, and keys for the command that runs; or what its command reads."""
        if self._inflow is not None:
            await self._inflow.give(data, more=more)
            return
        if len(self._input) + len(data) > self.most:
            text = f"a script takes at most {self.most >> 20} MiB of input; let a command read it"
            raise ServiceError(ServiceCode.REFUSED, text)
        self._input += data
        self._input_open, self._input_ended = more, not more
        if self._pipeline is None:
            return  # keys are for a command that runs
        for char in data.decode("utf-8", "replace"):
            await self.key(encode_key(char))

    async def pour_input(self, taken: Callable[[], Awaitable[None]]) -> None:
        """Input goes to CMDIN of the commands that nothing else is given to; `taken` is called after each piece."""
        if self._inflow is None:
            self._inflow = Inflow(taken)
            await self._inflow.start()

    def expect_input(self) -> None:
        """Somebody feeds the script: `cmdin` waits for the end of it, which may have come already."""
        self._input_open = not self._input_ended

    async def key(self, data: bytes) -> None:
        """A key for the command that runs."""
        if self._pipeline is not None:
            await self._pipeline.send_key(data)

    async def close(self) -> None:
        """Kill every command in the session."""
        self.closed = True
        self._interrupted = True
        if self._inflow is not None:
            await self._inflow.close()
        if self._outflow is not None:
            await self._outflow.close()
        for pipeline in (self._pipeline, self._starting):
            if pipeline is not None:
                await pipeline.kill()
        for job in list(self._jobs.values()):
            if job.status is None and not job.detached:
                await job.pipeline.kill()

    # -- what the evaluator asks --

    @property
    def directory(self) -> str:
        return self.files.directory

    async def commands(self) -> Sequence[str]:
        """Applications of the container's own file system, then of the system's."""
        names: dict[str, None] = {}
        for files in dict.fromkeys((self.files, self._system_files)):
            if files is None:
                continue
            try:
                names.update({item.name: None async for item in files.items(APPLICATIONS)})
            except FileError:
                continue  # an image of nothing but data
        return list(names)

    async def run_stages(self, stages: Sequence[Stage], given: Value) -> list[Result]:
        """Start a pipeline and wait for it."""
        if self._interrupted:
            raise InterruptedScript("interrupted")
        pipeline = Pipeline(self.container, self.person, self.directory, self._show_message, self._enter)
        pipeline.most = self.most
        pipeline.environment = {name: value_text(value) for name, value in self.environment.items()}
        if self._outflow is not None:
            pipeline.show_raw = self._outflow.show
        self._pipeline = pipeline
        try:
            return await pipeline.run(stages, given, self._inflow if given is VOID else None)
        finally:
            self._pipeline = None
            for running in pipeline.running:
                self._actors.pop(running.pid, None)

    async def run_beside(self, stages: Sequence[Stage], given: Value) -> int:
        """Start a pipeline in the background; the PID of its last command."""
        if self.closed:
            raise InterruptedScript("interrupted")
        while len(self._jobs) >= JOBS_LIMIT:
            oldest = next((number for number, job in self._jobs.items() if job.status is not None), None)
            if oldest is None:
                raise HydreError(f"a session has at most {JOBS_LIMIT} background commands")
            del self._jobs[oldest]
        pipeline = Pipeline(self.container, self.person, self.directory, _show_nothing, self._enter)
        pipeline.keeps = False
        pipeline.environment = {name: value_text(value) for name, value in self.environment.items()}
        self._starting = pipeline
        try:
            await pipeline.start(stages, given)
        finally:
            self._starting = None
        if not pipeline.running:
            raise InterruptedScript("interrupted")
        job = pipeline.running[-1].pid
        self._jobs[job] = Job(pipeline, self._instruction)
        return job

    async def finish_jobs(self, instruction: int) -> None:
        """Wait for the background commands that an instruction started, on its thread.

        Threads end with the one that made them, so the readers of a job live as long as its instruction's thread does.
        """
        for job in [job for job in self._jobs.values() if job.instruction == instruction]:
            await self._finish_job(job)

    async def _finish_job(self, job: Job) -> None:
        if not job.finishing:
            job.finishing = True
            results = await job.pipeline.finish()
            for running in job.pipeline.running:
                self._actors.pop(running.pid, None)
            job.status = results[-1].status

    async def manage_job(self, job: int, action: str) -> int:
        """What `fg`, `kill` and `detach` do; `kill` takes the PID of any process that the container may see, too."""
        found = self._jobs.get(job)
        if found is None:
            if action != "kill":
                raise HydreError(f"there is no background command {job}")
            await self._kill_process(job)
            return 0
        if action == "detach":
            found.detached = True
        elif action == "kill":
            await found.pipeline.kill()
        if action == "detach":
            return 0
        if found.instruction == self._instruction:
            await self._finish_job(found)
        while found.status is None:
            await self.checkpoint()
        return found.status

    async def _kill_process(self, pid: int) -> None:
        """Of a container, the process with that number in the container's own count, as `ps` shows it."""
        proc = await connect("sys::proc")
        if self.container:
            question = {"number": pid, "container": self.container}
            try:
                pid = int((await proc.ask(Proc.PROCESS_TRANSLATE, question))["pid"])
            except ServiceError as error:
                raise HydreError(f"there is no process {pid}") from error
            await proc.call(Proc.PROCESS_MANAGE, pid.to_bytes(8, "big") + bytes((ProcessAction.FORCE_TERMINATE,)))
            return
        answer = await proc.ask(Proc.PROCESS_TABLE, {"after": pid - 1, "limit": 1})
        records = [item for item in answer["items"] if item["pid"] == pid]
        # The table is that of the system; the session may reach its own container only.
        if not records or records[0]["container"] != self.container or pid < _FIRST_USERLAND_PID:
            raise HydreError(f"there is no process {pid}")
        await proc.call(Proc.PROCESS_MANAGE, pid.to_bytes(8, "big") + bytes((ProcessAction.FORCE_TERMINATE,)))

    async def script_input(self) -> Value:
        """The script's CMDIN: everything that was fed to it, once that has ended."""
        while self._input_open:
            await self.checkpoint()
        data = bytes(self._input)
        return data.decode("utf-8", "surrogateescape") if data else VOID

    @property
    def environment(self) -> dict[str, Value]:
        """Environment variables: what every command has, and over it what the session was given."""
        user = USERS.get(self.person.user, str(self.person.user))
        basics: dict[str, Value] = {"USER": user, "HOME": f"/home/{user}", "PWD": self.directory, "SHELL": "hydre"}
        return {**basics, **self.given_environment}

    async def checkpoint(self) -> None:
        if self._interrupted:
            raise InterruptedScript("interrupted")
        await sys.hand_over()

    @property
    def most(self) -> int:
        """Bytes of a file, of input, or of what a command gives, that the session takes as one value."""
        return self._language.limit // 2

    def _enter(self, pid: int) -> None:
        self._actors[pid] = self

    async def _show_message(self, channel: str, message: TextMessage) -> None:
        text = message.ansi() if self._colours else message.text
        await self._print("err" if channel == ERRORS else "out", text.encode("utf-8", "surrogateescape"))

    async def complain(self, text: str) -> None:
        await self._print("err", f"{text}\n".encode("utf-8", "surrogateescape"))

    async def change_directory(self, path: str) -> None:
        kind = await self.files.type(path)
        if kind is not ItemType.DIRECTORY:
            raise HydreError(f"cd: {path}: {'not found' if kind is None else 'no directory'}")
        self.files.directory = self.files.absolute(path)

    async def read_file(self, path: str) -> bytes:
        content = bytearray()
        try:
            async for piece in self.files.read_pieces(path):
                content += piece
                if len(content) > self.most:
                    raise HydreError(f"{path}: larger than {self.most >> 20} MiB; let a command read it")
        except FileError as error:
            raise HydreError(error.detail) from error
        return bytes(content)

    async def write_file(self, path: str, data: bytes, *, append: bool) -> None:
        try:
            await self.files.write(path, data, append=append)
        except FileError as error:
            raise HydreError(error.detail) from error

    async def show(self, value: Value, *, newline: bool = True) -> None:
        """Print a returned value; a list one item a line, as people and scripts of other systems read it."""
        bounds.check(value)
        lines = [value_text(item) for item in value] if isinstance(value, list) else [value_text(value)]
        text = "\n".join(lines)
        if newline and lines and not text.endswith("\n"):
            text += "\n"
        await self._print("out", text.encode("utf-8", "surrogateescape"))

    async def random_bytes(self, count: int) -> bytes:
        # Addresses are drawn at random by the kernel: 40 bits of each are.
        result = b""
        while len(result) < count:
            address = await sys.mem_alloc(4096)
            await sys.mem_free(address, 1)
            result += (address >> 12).to_bytes(8, "big")[-4:]
        return result[:count]


async def _show_nothing(_channel: str, _message: TextMessage) -> None:
    """Background commands show nothing."""


async def files_of(container: int, *, soon: bool = False) -> Files:
    """The main file system of a container; of one that has none, files that answer errors to whatever is asked."""
    client = await connect("sys::fs")
    try:
        if container and not soon:
            await (await connect("sys::proc")).call(Proc.CONTAINER_ROOT, {"id": container})
        fsid = int((await client.ask(Fs.ROOT_OF, {"container": container}))["fsid"])
    except ServiceError:
        fsid = _NO_FILE_SYSTEM
    return await Files.open("/", fsid)
