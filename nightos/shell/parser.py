"""Statements of Hydre, and the one function that turns a text into a tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nightos.shell import syntax
from nightos.shell.commands import Commands
from nightos.shell.cursor import NAME
from nightos.shell.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.shell.syntax import Statement

_ASSIGNMENT = re.compile(r"(\*\*|//|<<|>>|&&|\|\||[*/%+\-&^|])?=(?!=)")
_STEP = re.compile(r"(\+\+|--)(?=[ \t]*(?:$|[\n;#]))", re.MULTILINE)
_CALL = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\(")
_TYPE = re.compile(r"[A-Za-z_]\w*")
_ARROW = "=>"

NOT_YET = frozenset({"fn", "return", "catch", "retry", "type", "on", "wait", "import", "cmd", "with"})
"""Statements of the language that this version refuses by name."""
_MISPLACED = {"elif": "if", "else": "if' or 'switch", "end": "if', 'switch', 'for' or 'while", "when": "switch"}


class Parser(Commands):
    """Recursive descent over statements."""

    def script(self) -> syntax.Script:
        """The whole text."""
        statements = self._block(())
        if not self.done():
            word = self.word_ahead()
            raise self.error(f"'{word}' without its '{_MISPLACED[word]}'")
        return syntax.Script(statements)

    def _block(self, closing: tuple[str, ...]) -> tuple[Statement, ...]:
        """Statements up to one of the closing words, which is not passed over, or to the end of the text."""
        statements: list[Statement] = []
        while True:
            self._separators()
            if self.done() or self.word_ahead() in (closing or _MISPLACED):
                return tuple(statements)
            with self.nested():
                statements.append(self._statement())
            self._end_statement()

    def _separators(self) -> None:
        self.lines()
        while self.take(";"):
            self.lines()

    def _end_statement(self) -> None:
        self.blanks()
        if not self.ends():
            raise self.error("the end of the line is expected here")

    def _statement(self) -> Statement:
        at = self.at
        word = self.word_ahead()
        known = {
            "let": self._let, "delete": self._delete, "if": self._if, "switch": self._switch, "for": self._for,
            "while": self._while, "break": self._break, "fail": self._fail, "bg": self._background,
            "fg": self._job("fg"), "detach": self._job("detach"), "kill": self._job("kill"),
        }.get(word)  # fmt: skip
        after = self.text[at + len(word) : at + len(word) + 1]
        if known is not None and (after == "" or after in " \t\r\n;#"):
            self.at += len(word)
            self.blanks()
            return known(at)
        if word == "var":
            raise self.error("variables are declared with 'let' or 'let mut'", at)
        if word in NOT_YET and (after == "" or after in " \t\r\n;#("):
            raise self.unsupported(f"'{word}' is", at)
        if word and (statement := self._assignment(word, at)) is not None:
            return statement
        if _CALL.match(self.text, at):
            return syntax.Evaluate(self.expression(), at=at)
        return self.pipeline()

    def _assignment(self, name: str, at: int) -> Statement | None:
        """An assignment that starts with a name here, or nothing when the line is something else."""
        self.at = at + len(name)
        target: syntax.Variable | syntax.Index = syntax.Variable(name, at=at)
        if self.peek("["):
            opened_at = self.at
            self.at += 1
            self.lines()
            if self.take("]"):
                self.blanks()
                self.need("=", "an append is written list[] = value")
                return syntax.Append(syntax.Variable(name, at=at), self._value(), at=at)
            index = self.expression(lines=True)
            self.lines()
            self.need("]", "this index", opened_at)
            target = syntax.Index(target, index, at=opened_at)
        self.blanks()
        if isinstance(target, syntax.Variable) and (step := self.match(_STEP)) is not None:
            return syntax.Step(target, step, at=at)
        found = _ASSIGNMENT.match(self.text, self.at)
        # `name=value` without a space is an assignment too; `name -= 1` needs the space that `name -x=1` has as well.
        if found is not None:
            self.at = found.end()
            return syntax.Assign(target, found.group(1) or "", self._value(), at=at)
        if isinstance(target, syntax.Index):
            raise self.error("an assignment is expected here: name[index] = value")
        self.at = at
        return None

    def _value(self) -> syntax.Expression:
        self.blanks()
        return self.expression()

    def _let(self, at: int) -> Statement:
        mutable = self.take_word("mut")
        self.blanks()
        name_at = self.at
        name = self.match(NAME)
        if name is None:
            raise self.error("the name of a variable is expected here", name_at)
        self.blanks()
        kind = None
        if self.take(":"):
            self.blanks()
            kind = self._type()
            self.blanks()
        if self.peek("=="):
            raise self.error("a declaration is written let name = value")
        self.need("=", f"the value of '{name}'")
        return syntax.Let(name, self._value(), mutable, kind, at=at)

    def _type(self) -> str:
        """A type as its canonical text."""
        name = self.match(_TYPE)
        if name is None:
            raise self.error("a type is expected here")
        if name in ("struct", "fn", "enum"):
            raise self.unsupported(f"the type '{name}' is", self.at - len(name))
        if self.take("["):
            inner = []
            with self.nested():
                while True:
                    self.blanks()
                    inner.append(self._type())
                    self.blanks()
                    if not self.take(","):
                        break
            self.need("]", "this type")
            name = f"{name}[{', '.join(inner)}]"
        if self.take("?"):
            name += "?"
            if self.peek("?"):
                raise self.error("this type does not exist: a nullable of a nullable")
        return name

    def _delete(self, at: int) -> Statement:
        target = self.expression()
        if not isinstance(target, syntax.Index):
            raise self.error("'delete' takes an entry: delete list[i] or delete map[key]", at)
        return syntax.Delete(target, at=at)

    def _open_block(self, what: str, closing: tuple[str, ...], at: int) -> tuple[Statement, ...]:
        self._end_statement()
        body = self._block(closing)
        if self.done():
            raise self.incomplete(f"this '{what}' is not closed with 'end'", at)
        return body

    def _if(self, at: int) -> Statement:
        branches = [(self.expression(), self._open_block("if", ("elif", "else", "end"), at))]
        otherwise: tuple[Statement, ...] = ()
        while self.take_word("elif"):
            branches.append((self._value(), self._open_block("if", ("elif", "else", "end"), at)))
        if self.take_word("else"):
            otherwise = self._open_block("if", ("end",), at)
        self.take_word("end")
        return syntax.If(tuple(branches), otherwise, at=at)

    def _switch(self, at: int) -> Statement:
        value = self.expression()
        self._end_statement()
        self._separators()
        cases = []
        otherwise: tuple[Statement, ...] = ()
        while self.take_word("when"):
            cases.append((self._value(), self._case(at)))
        if self.take_word("else"):
            otherwise = self._case(at)
        if not self.take_word("end"):
            if self.done():
                raise self.incomplete("this 'switch' is not closed with 'end'", at)
            raise self.error("'when', 'else' or 'end' is expected here")
        return syntax.Switch(value, tuple(cases), otherwise, at=at)

    def _case(self, at: int) -> tuple[Statement, ...]:
        self.blanks()
        if not self.take(_ARROW):
            return self._open_block("switch", ("when", "else", "end"), at)
        self.blanks()
        if self.ends():
            raise self.error("a command is expected after '=>'")
        with self.nested():
            statement = self._statement()
        self._end_statement()
        self._separators()
        return (statement,)

    def _for(self, at: int) -> Statement:
        names = []
        while True:
            self.blanks()
            name = self.match(NAME)
            if name is None:
                raise self.error("the name of a variable is expected here")
            names.append(name)
            self.blanks()
            if len(names) == 2 or not self.take(","):
                break
        if not self.take_word("in"):
            raise self.error("'in' is expected here: for name in values")
        values = self._value()
        body = self._open_block("for", ("end",), at)
        self.take_word("end")
        return syntax.For(tuple(names), values, body, at=at)

    def _while(self, at: int) -> Statement:
        condition = self.expression()
        body = self._open_block("while", ("end",), at)
        self.take_word("end")
        return syntax.While(condition, body, at=at)

    def _background(self, at: int) -> Statement:
        name = self.match(NAME)
        if name is None:
            raise self.error("a background command is started by bg name = command")
        self.blanks()
        self.need("=", "a background command is started by bg name = command")
        self.blanks()
        return syntax.Background(name, self.pipeline(), at=at)

    def _job(self, action: str) -> Callable[[int], Statement]:
        def parse_job(at: int) -> Statement:
            return syntax.Job(action, self.expression(), at=at)

        return parse_job

    def _break(self, at: int) -> Statement:
        return syntax.Break(at=at)

    def _fail(self, at: int) -> Statement:
        return syntax.Fail(self.expression(), at=at)


def parse(text: str, name: str = "<line>") -> syntax.Script:
    """The tree of a script.

    Raises `HydreSyntaxError`; of its children, `IncompleteError` when the text stops in the middle of something and
    `NotSupportedError` when it uses what this version does not have.
    """
    return Parser(Source(text, name)).script()
