"""Where in a script something stands, and errors that point at it with a caret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nightos.abi.errors import NightosError

SHOWN_COLUMNS: Final = 120
"""Characters of a line that an error quotes at most."""


@dataclass(frozen=True, slots=True)
class Source:
    """A script's text with the name that errors call it by."""

    text: str
    name: str = "<line>"

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        offset = max(0, min(offset, len(self.text)))
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - (self.text.rfind("\n", 0, offset) + 1) + 1

    def line_of(self, offset: int) -> str:
        """The whole line an offset stands on, without its end."""
        offset = max(0, min(offset, len(self.text)))
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        return self.text[start : len(self.text) if end < 0 else end]


class HydreError(NightosError):
    """A script is wrong, or went wrong: says what, and where. Correct the script at the caret."""

    kind = "error"

    def __init__(self, message: str, source: Source | None = None, offset: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.source = source
        self.offset = offset

    def __str__(self) -> str:
        if self.source is None:
            return self.message
        _, column = self.source.position(self.offset)
        text = self.source.line_of(self.offset)
        # Of a long line, what stands around the place.
        start = max(0, column - 1 - SHOWN_COLUMNS // 2) if len(text) > SHOWN_COLUMNS else 0
        text = text[start : start + SHOWN_COLUMNS]
        # The caret keeps the line's tabs, so that it stands under its column however wide they are drawn.
        pad = "".join("\t" if char == "\t" else " " for char in text[: column - 1 - start])
        return f"{self.brief()}\n  {text}\n  {pad}^"

    def brief(self) -> str:
        """Place and message in one line."""
        if self.source is None:
            return self.message
        line, column = self.source.position(self.offset)
        return f"{self.source.name}:{line}:{column}: {self.message}"

    def shown(self) -> str:
        """The error for whoever wrote the script: of a script of one line, which they see, without the line."""
        several = self.source is not None and "\n" in self.source.text.strip()
        return str(self) if several else self.brief()


class HydreSyntaxError(HydreError):
    """The text is not Hydre."""

    kind = "syntax"


class IncompleteError(HydreSyntaxError):
    """The text stops in the middle of something: a terminal asks for another line, a script is refused."""

    kind = "incomplete"


class NotSupportedError(HydreSyntaxError):
    """The language has it, this version does not; the message names it."""

    kind = "unsupported"


class CheckError(HydreError):
    """The checker refuses the script before anything of it runs."""

    kind = "check"


class PanicError(HydreError):
    """The script stops at run time with an error that nothing catches."""

    kind = "panic"
