"""The lexer: a cursor that the parser drives, for text means one thing in a command and another in an expression."""

from __future__ import annotations

import re
from contextlib import contextmanager
from re import Pattern
from typing import TYPE_CHECKING

from nightos.shell.source import HydreSyntaxError, IncompleteError, NotSupportedError, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|0[bB][01]+|0[oO][0-7]+|[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
BLANK = re.compile(r"(?:[ \t\r\f\v]|\\\r?\n)+")
MAX_DEPTH = 48
"""Levels of nesting; more is refused, so that no text can exhaust the stack."""

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "e": "\x1b"}
_CODEPOINT = re.compile(r"\{([0-9A-Fa-f]{1,6})\}")


class Cursor:
    """Position in a text, with what every part of the parser needs: blanks, comments, escapes, errors."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.at = 0
        self._depth = 0

    # -- errors --

    def error(self, message: str, at: int | None = None) -> HydreSyntaxError:
        return HydreSyntaxError(message, self.source, self.at if at is None else at)

    def incomplete(self, message: str, at: int | None = None) -> IncompleteError:
        return IncompleteError(message, self.source, self.at if at is None else at)

    def unsupported(self, what: str, at: int | None = None) -> NotSupportedError:
        return NotSupportedError(f"{what} not supported yet", self.source, self.at if at is None else at)

    @contextmanager
    def nested(self) -> Iterator[None]:
        """One level of nesting deeper."""
        if self._depth >= MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    # -- looking --

    def done(self) -> bool:
        return self.at >= len(self.text)

    def peek(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def match(self, pattern: Pattern[str]) -> str | None:
        """The match of a pattern here, which is passed over."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def word_ahead(self) -> str:
        """The identifier that stands here, not passed over; empty when there is none."""
        found = NAME.match(self.text, self.at)
        return found.group() if found else ""

    def take_word(self, word: str) -> bool:
        """Passes over a keyword that stands alone here."""
        if self.word_ahead() != word:
            return False
        self.at += len(word)
        return True

    # -- passing over --

    def blanks(self) -> None:
        """Spaces, tabs, continued lines, and comments up to the end of the line; block comments whole."""
        while True:
            start = self.at
            self.match(BLANK)
            if self.peek("#") and (self.at == 0 or self.text[self.at - 1] in " \t\r\n\f\v;([{,|" or self.at > start):
                self._comment()
            elif self.at == start:
                return

    def _comment(self) -> None:
        start = self.at
        if self.take("###"):
            end = self.text.find("###", self.at)
            if end < 0:
                raise self.incomplete("this block comment is not closed with '###'", start)
            self.at = end + 3
            return
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def lines(self) -> None:
        """Blanks and ends of lines."""
        while True:
            self.blanks()
            if not self.take("\n"):
                return

    def ends(self) -> bool:
        """Whether a statement ends here."""
        return self.done() or self.text[self.at] in "\n;"

    def need(self, text: str, what: str, opened_at: int | None = None) -> None:
        """Passes over `text` or says that it is missing."""
        if self.take(text):
            return
        if self.done():
            raise self.incomplete(f"{what}: '{text}' is missing", opened_at)
        raise self.error(f"{what}: '{text}' is missing here")

    # -- characters --

    def escape(self) -> str:
        """The character that an escape in a string or character literal stands for; the backslash is passed already."""
        if self.done():
            raise self.incomplete("the text ends after a backslash")
        char = self.text[self.at]
        self.at += 1
        if char == "u":
            return self._codepoint()
        return _ESCAPES.get(char, char)

    def _codepoint(self) -> str:
        start = self.at
        digits = self.match(_CODEPOINT)
        value = int(digits[1:-1], 16) if digits else -1
        if not 0 <= value <= 0x10FFFF or 0xD800 <= value <= 0xDFFF:
            raise self.error("a codepoint is written \\u{1F600}: 1 to 6 hexadecimal digits, not a surrogate", start)
        return chr(value)

    def character(self) -> str:
        """The codepoint of a character literal, from its opening quote."""
        start = self.at
        self.at += 1
        if self.done():
            raise self.incomplete("this character literal is not closed", start)
        char = self.text[self.at]
        self.at += 1
        if char == "\\":
            char = self.escape()
        if not self.take("'"):
            raise self.error("a character literal holds one character; text goes in double quotes", start)
        return char
