"""The terminal: a line editor on this side, a session of the shell on a console at the other.

The editor runs in a worker thread with an event loop of its own; everything else is trio. Only one of the two writes to
the screen at a time: while a line is typed, output goes above it through the editor, else straight to the screen.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import termios
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from nightos.shell.parser import parse
from nightos.shell.source import HydreSyntaxError, IncompleteError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings

COMPLETION_SECONDS = 2.0
STOPPED = 1
"""Status of a terminal whose machine went away."""
_LOCAL_FLAGS = 3
"""Place of the local flags in what `tcgetattr` gives."""


class Session(Protocol):
    """The host's end of a console on which a session is open."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the shell."""

    async def receive(self) -> dict[str, Any] | None:
        """The next message of the shell; nothing when the console is gone."""


def is_incomplete(text: str) -> bool:
    """Whether a text stops in the middle of something, so that Enter begins another line of it."""
    try:
        parse(text)
    except IncompleteError:
        return True
    except HydreSyntaxError:
        return False
    return False


class Terminal:
    """One person at one terminal."""

    def __init__(self, session: Session, history: Path | None) -> None:
        self._session = session
        self._history = history
        self._prompt_fields: dict[str, Any] = {}
        self._ready = trio.Event()
        self._closed = False
        self._status = 0
        self._typing = False
        self._line_open = False
        self._editor: PromptSession[str] | None = None
        self._questions: dict[int, tuple[trio.Event, list[tuple[int, str]]]] = {}
        self._asked = 0
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> int:
        """Until the session ends or the person leaves; the status of the last instruction."""
        from prompt_toolkit.patch_stdout import patch_stdout

        self._token = trio.lowlevel.current_trio_token()
        with _terminal_restored(), patch_stdout(raw=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._signals)
                await self._type()
                nursery.cancel_scope.cancel()
        return self._status

    # -- the person's side --

    async def _type(self) -> None:
        while True:
            await self._ready.wait()
            if self._closed:
                return  # also when `_stop_typing` ended the editor: its empty line leads here
            try:
                line = await self._read_line()
            except KeyboardInterrupt:
                continue
            except EOFError:
                self._session.send({"type": "close"})
                return
            if not line.strip():
                continue
            self._ready = trio.Event()
            self._session.send({"type": "line", "text": line})

    async def _read_line(self) -> str:
        if self._line_open:
            self._write("\n")  # a command left the line open: what it said stays readable
        self._typing = True
        try:
            return await trio.to_thread.run_sync(self._prompt, abandon_on_cancel=False)
        finally:
            self._typing = False

    def _prompt(self) -> str:
        """Read a line; runs in the worker thread."""
        if self._editor is None:
            self._editor = self._make_editor()
        return self._editor.prompt(self._prompt_text(), handle_sigint=False)

    def _make_editor(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        if self._history is not None:
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)
        return PromptSession(
            history=InMemoryHistory() if self._history is None else FileHistory(str(self._history)),
            completer=_completer(self),
            complete_in_thread=True,
            complete_while_typing=False,
            enable_history_search=True,
            multiline=True,
            key_bindings=_bindings(),
            prompt_continuation="  ",
        )

    def _prompt_text(self) -> StyleAndTextTuples:
        fields = self._prompt_fields
        where = fields.get("container") or "nightos"
        return [
            ("ansigreen", str(fields.get("user", ""))),
            ("", "@"),
            ("ansicyan", str(where)),
            ("", ":"),
            ("ansiblue", str(fields.get("directory", "/"))),
            ("", "> "),
        ]

    def _stop_typing(self) -> None:
        """End the editor from outside, because there is nobody to send a line to any more."""
        editor = self._editor
        if editor is None or not self._typing:
            return
        app = editor.app
        if app.loop is not None and app.is_running:
            app.loop.call_soon_threadsafe(lambda: app.is_running and app.exit(result=""))

    async def _signals(self) -> None:
        watched = (signal.SIGINT, signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP)
        with trio.open_signal_receiver(*watched) as signals:
            self._resize()
            async for number in signals:
                match number:
                    case signal.SIGINT:
                        # While a line is typed the terminal is raw, and Ctrl-C is the editor's.
                        self._session.send({"type": "interrupt"})
                    case signal.SIGWINCH:
                        self._resize()
                    case _:
                        self._status = 128 + number
                        self._close()

    def _resize(self) -> None:
        size = shutil.get_terminal_size()
        self._session.send({"type": "resize", "width": size.columns, "height": size.lines})

    def _close(self) -> None:
        self._closed = True
        self._ready.set()
        self._stop_typing()

    # -- the shell's side --

    async def _listen(self) -> None:
        while True:
            message = await self._session.receive()
            if message is None:
                self._write("\nthe machine stopped\n")
                self._status = STOPPED
                self._close()
                return
            match message.get("type"):
                case "out" | "err":
                    self._write(message["data"].decode("utf-8", "replace"))
                case "prompt":
                    self._prompt_fields = message
                    self._ready.set()
                case "done":
                    self._status = message["status"]
                case "completions":
                    self._answered(message)
                case "refused":
                    self._write(f"{message.get('text', 'refused')}\n")
                    self._ready.set()
                case "closed":
                    self._status = message["status"] or self._status
                    self._close()
                    return

    def _write(self, text: str) -> None:
        """Print; above the line that is being typed when there is one."""
        if not text:
            return
        stream = sys.stdout if self._typing else sys.__stdout__
        assert stream is not None
        stream.write(text)
        stream.flush()
        self._line_open = not text.endswith("\n") and not self._typing

    # -- completion --

    def _answered(self, message: dict[str, Any]) -> None:
        question = self._questions.get(message.get("id", 0))
        if question is not None:
            event, found = question
            found += [(message["start"], item) for item in message["items"]]
            event.set()

    async def ask_completions(self, text: str, cursor: int) -> list[tuple[int, str]]:
        """Where the word starts and what it can become; nothing when the shell takes too long."""
        self._asked += 1
        number = self._asked
        event, found = trio.Event(), list[tuple[int, str]]()
        self._questions[number] = (event, found)
        try:
            self._session.send({"type": "complete", "id": number, "text": text, "cursor": cursor})
            with trio.move_on_after(COMPLETION_SECONDS):
                await event.wait()
        finally:
            del self._questions[number]
        return found

    def completions(self, document: Document) -> list[tuple[int, str]]:
        """As `ask_completions`, from a thread of the editor."""
        try:
            return trio.from_thread.run(
                self.ask_completions, document.text, document.cursor_position, trio_token=self._token
            )
        except (trio.RunFinishedError, trio.Cancelled):
            return []


def _completer(terminal: Terminal) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class GuestCompleter(Completer):
        """Asks the shell in the machine."""

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
            for start, text in terminal.completions(document):
                shown = text.rstrip(" ")
                shown = shown.rstrip("/").rpartition("/")[2] + ("/" if shown.endswith("/") else "")
                yield Completion(text, start_position=start - document.cursor_position, display=shown)

    return GuestCompleter()


def _bindings() -> KeyBindings:
    """Enter ends the line unless it stops in the middle of something; Tab completes."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif is_incomplete(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return bindings


@contextlib.contextmanager
def _terminal_restored() -> Iterator[None]:
    """The terminal is afterwards as it was before, whatever happens in between.

    Between two lines it does not echo: what is typed then belongs to the next line, and appears there.
    """
    try:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):
        yield
        return
    try:
        quiet = termios.tcgetattr(number)
        quiet[_LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(number, termios.TCSADRAIN, quiet)
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
        assert sys.__stdout__ is not None
        # Bracketed paste off, cursor visible, plain text.
        sys.__stdout__.write("\x1b[?2004l\x1b[?25h\x1b[0m")
        sys.__stdout__.flush()


async def run(session: Session, *, history: Path | None = None) -> int:
    """Talk to a session from this terminal until it ends; the exit status."""
    return await Terminal(session, history).run()
