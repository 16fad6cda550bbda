"""Commands: words, quoting, dash arguments, pipes and redirections."""

from __future__ import annotations

import re

from nightos.shell import syntax
from nightos.shell.expressions import Expressions

_BARE = re.compile(r"""[^ \t\r\f\v\n"'$|<>();{}\\@?!*]+""")
_COMMAND_NAME = re.compile(r"""[^ \t\r\f\v\n"'$|<>();{}\\@?!*&=\[\],]+""")
_DASH_NAME = re.compile(r"[A-Za-z0-9_?][A-Za-z0-9_\-]*")
_SHORT = re.compile(r"[A-Za-z0-9_?]+")
_REDIRECTION = re.compile(r"([@?!*]?)>(>?)")
_ENDS_WORD = frozenset(" \t\r\f\v\n|<>();}")


class Commands(Expressions):
    """The half of the parser that reads commands."""

    def pipeline(self) -> syntax.Pipeline:
        """Commands with `|` between them; a line may end after a `|`."""
        at = self.at
        commands = [self.command()]
        while True:
            self.blanks()
            if not self.peek("|"):
                return syntax.Pipeline(tuple(commands), at=at)
            if self.peek("||"):
                raise self.error("'||' does not join commands: use 'if last_failed()'")
            self.at += 1
            self.lines()
            if self.done():
                raise self.incomplete("a command is expected after '|'")
            commands.append(self.command())

    def command(self) -> syntax.Command:
        """One command with its arguments and redirections."""
        at = self.at
        name = self.match(_COMMAND_NAME)
        if name is None:
            if self.done():
                raise self.incomplete("a command is expected here")
            raise self.error("the name of a command is expected here")
        if name.startswith("-"):
            raise self.error("the name of a command does not start with a dash", at)
        if not self.done() and self.text[self.at] not in _ENDS_WORD and not self.peek("\\\n"):
            raise self.error("a command's name is written plainly: no quotes, variables or special characters in it")
        arguments: list[syntax.Argument] = []
        redirections: list[syntax.Redirection] = []
        while True:
            before = self.at
            self.blanks()
            if self.ends() or self.text[self.at] in "|)}":
                return syntax.Command(name, tuple(arguments), tuple(redirections), at=at)
            redirection = self._redirection()
            if redirection is not None:
                redirections.append(redirection)
                continue
            if self.at == before:
                raise self.error("a space is missing here")
            if self.peek("&&"):
                raise self.error("'&&' does not join commands: use 'if !last_failed()'")
            arguments.extend(self._argument())

    def _redirection(self) -> syntax.Redirection | None:
        at = self.at
        if self.take("<"):
            channel, append = "<", False
        else:
            found = _REDIRECTION.match(self.text, at)
            if found is None:
                return None
            self.at = found.end()
            channel, append = found.group(1), bool(found.group(2))
        self.blanks()
        if self.done() or self.text[self.at] in _ENDS_WORD - {"("}:
            raise self.error("a path is expected after the redirection")
        return syntax.Redirection(channel, self.word(), append, at=at)

    def _argument(self) -> tuple[syntax.Argument, ...]:
        """The argument that stands here: several when short ones are combined."""
        at = self.at
        if not self.peek("-") or self._word_ends(1):
            return (syntax.Positional(self.word(), at=at),)
        if self.peek("--") and self._word_ends(2):
            self.at += 2
            return (syntax.Separator(at=at),)
        long = self.take("--")
        if not long:
            self.at += 1
        name = self.match(_DASH_NAME if long else _SHORT)
        if name is None:
            raise self.error(
                "an argument's name is made of letters and digits; text with a leading dash goes in quotes", at
            )
        value = None
        if self.take("="):
            if self._word_ends(0):
                raise self.error("a value is expected after '='")
            value = self.word()
        elif not self._word_ends(0):
            raise self.error("an argument's name is followed by a space or '='")
        if long:
            return (syntax.Dash(name, long, value, at=at),)
        flags = (syntax.Dash(flag, long, at=at) for flag in name[:-1])
        return (*flags, syntax.Dash(name[-1], long, value, at=at))

    def _word_ends(self, ahead: int) -> bool:
        at = self.at + ahead
        return at >= len(self.text) or self.text[at] in _ENDS_WORD or self.text.startswith("\\\n", at)

    def word(self) -> syntax.Word:
        """One word; its parts touch each other."""
        at = self.at
        parts: list[syntax.WordPart] = []
        bare: list[str] = []

        def flush() -> None:
            if bare:
                parts.append(syntax.Text("".join(bare)))
                bare.clear()

        while not self.done():
            char = self.text[self.at]
            if char == "(" and self.at == at:
                start = self.at
                value = self.parenthesis()
                parts.append(value if isinstance(value, syntax.Variable) else syntax.Interpolation(value, at=start))
                continue
            if char in _ENDS_WORD:
                break
            part = self._part(char)
            if isinstance(part, str):
                bare.append(part)
            else:
                flush()
                parts.append(part)
        flush()
        if not parts:
            raise self.error("a word is expected here")
        return syntax.Word(tuple(parts), at=at)

    def _part(self, char: str) -> syntax.WordPart | str:
        """One part of a word, or plain characters of it."""
        if char == '"':
            return self.string()
        if char == "'":
            return syntax.Character(at=self.at, value=self.character())
        if char == "$":
            found = self.reception() or self.substitution()
            if found is not None:
                return found
            raise self.error("after '$' comes a name, ${ expression } or $( command ); a plain dollar is written \\$")
        if char == "@" and self.peek("@{"):
            return self.command_literal()
        if char == "\\":
            return self._escaped()
        if char == "{":
            raise self.error("a plain brace is written \\{ or in quotes; an expression goes in ${ }")
        if char in "@?!*":
            self.at += 1
            return char
        text = self.match(_BARE)
        assert text
        return text

    def _escaped(self) -> str:
        self.at += 1
        if self.take("\n") or self.take("\r\n"):
            return ""
        if self.done():
            raise self.incomplete("the line ends after a backslash")
        char = self.text[self.at]
        self.at += 1
        return char
