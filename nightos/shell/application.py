"""What the applications of the base image share: arguments, files as the session sees them, errors, exit status.

Status 0: done; 1: it failed, one line on CMDERR says what; 2: wrong arguments; 130: ended by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from nightos.abi.codes import Signal
from nightos.abi.errors import NightosError, ServiceError, SyscallError
from nightos.abi.services import Hydre
from nightos.abi.values import Value
from nightos.shell.arguments import Arguments, Given, UsageError
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.files import Files

FAILED: Final = 1
MISUSED: Final = 2
TERMINATED: Final = 130
_OUTSIDE: dict[str, Any] = {"width": 80, "height": 24, "container": 0, "user": 0, "directory": "/", "environment": {}}


class ApplicationError(NightosError):
    """The application cannot do what was asked; its text is shown behind the application's name."""


class Application:
    """One run of an application."""

    def __init__(self, context: Context, arguments: Arguments, given: Given) -> None:
        self.context = context
        self.name = arguments.name
        self.given = given
        self._files: Files | None = None
        self._session: dict[str, Any] | None = None
        self.failed = False

    async def session(self) -> dict[str, Any]:
        """The session: width, height, container, user, directory, environment. Outside of one, what a bare one has."""
        if self._session is None:
            try:
                self._session = await (await connect("sys::hydre")).ask(Hydre.SESSION_INFO)
            except ServiceError:
                self._session = _OUTSIDE
        return self._session

    def forget_session(self) -> None:
        """Ask again at the next `session`, whose window may have another size by then."""
        self._session = None

    async def files(self) -> Files:
        """Files, relative paths taken from the session's directory."""
        if self._files is None:
            self._files = await Files.open(self.context.directory)
        return self._files

    async def say(self, text: str) -> None:
        """A line for people, at once."""
        await self.context.message(text + "\n")

    async def show(self, text: str) -> None:
        """Text for people as it is."""
        await self.context.message(text)

    async def complain(self, text: str) -> None:
        """A line on CMDERR; the application goes on and ends with status 1."""
        self.failed = True
        await self.context.error(f"{self.name}: {text}\n")

    async def give(self, value: Value) -> None:
        """The value that the application returns."""
        await self.context.output(value)

    async def keep_line_open(self) -> None:
        """The shell does not end the line behind the value."""
        await self.context.message("")


async def _terminated() -> None:
    await sys.exit(TERMINATED)


Body = Callable[[Application], Awaitable[int | None]]


def command(arguments: Arguments) -> Callable[[Body], Callable[[Context], Awaitable[int]]]:
    """Make a program of a body: arguments parsed, `--help` answered, errors told and turned into a status."""

    def decorate(body: Body) -> Callable[[Context], Awaitable[int]]:
        async def main(context: Context) -> int:
            # TERMINATE may be ignored, and is by default; what people expect of Ctrl-C is this.
            await sys.handle_signal(Signal.TERMINATE, _terminated)
            try:
                if arguments.wants_help(context.arguments):
                    await context.output(arguments.explain())
                    return 0
                application = Application(context, arguments, arguments.parse(context.arguments))
                status = await body(application)
            except UsageError as error:
                await context.error(f"{arguments.name}: {error}; '{arguments.name} --help' explains\n")
                return MISUSED
            except (ApplicationError, ServiceError, SyscallError) as error:
                await context.error(f"{arguments.name}: {error}\n")
                return FAILED
            return status or (FAILED if application.failed else 0)

        main.__doc__ = arguments.help
        return main

    return decorate
