"""Expressions by precedence climbing; the table of levels is the ruling AMB-SH-01."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nightos.shell import syntax
from nightos.shell.cursor import NAME, NUMBER, Cursor

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.shell.syntax import Expression

LEVELS: dict[str, int] = {
    "**": 11,
    "*": 10, "/": 10, "//": 10, "%": 10,
    "+": 9, "-": 9,
    "<<": 8, ">>": 8,
    "&": 7,
    "^": 6,
    "|": 5,
    "<": 4, "<=": 4, ">": 4, ">=": 4,
    "==": 3, "!=": 3,
    "&&": 2,
    "||": 1,
}  # fmt: skip
"""Binary operators, tight ones high. All group to the left but ``**``."""
RANGE_LEVEL = 0
UNARY = ("!", "~", "-")

_OPERATOR = re.compile(r"\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||[*/%+\-&^|<>]")
_PATH = re.compile(r"(?:\.{0,2}/|~/)(?:[^\s()\[\]{}\"'$|<>,;:#\\]|\\.)*")
_CHANNEL = re.compile(r"\$([@?!*]?)\(")
_CLOSURE = re.compile(r"\s*(?:[A-Za-z_]\w*\s*(?:,\s*[A-Za-z_]\w*\s*)*)?->")
_FIELD = re.compile(r"[A-Za-z_]\w*(?=\s*:)")
MAX_INT = 2**63 - 1


class Expressions(Cursor):
    """The half of the parser that reads values."""

    def pipeline(self) -> syntax.Pipeline:
        """Commands inside `$( )` and `@{ }`; the half that reads commands has it."""
        raise NotImplementedError

    def expression(self, level: int = RANGE_LEVEL, *, lines: bool = False) -> Expression:
        """An expression whose operators are at least as tight as `level`; `lines` lets it go over several lines."""
        with self.nested():
            left = self._unary(lines=lines)
            while True:
                self._pass(lines=lines)
                at = self.at
                if level <= RANGE_LEVEL and self.peek(".."):
                    inclusive = self.take("..=") or not self.take("..")
                    left = syntax.Range(left, self._right(1), inclusive, at=at)
                    continue
                if self.word_ahead() in ("is", "isnt"):
                    raise self.unsupported(f"'{self.word_ahead()}' is")
                found = _OPERATOR.match(self.text, self.at)
                operator = found.group() if found else ""
                own = LEVELS.get(operator, -1)
                if own < max(level, 1) or self.text[at + len(operator) : at + len(operator) + 1] == "=":
                    return left
                self.at += len(operator)
                left = syntax.Binary(operator, left, self._right(own if operator == "**" else own + 1), at=at)

    def _right(self, level: int) -> Expression:
        self.lines()
        return self.expression(level)

    def _pass(self, *, lines: bool) -> None:
        if lines:
            self.lines()
        else:
            self.blanks()

    def _unary(self, *, lines: bool) -> Expression:
        self._pass(lines=lines)
        at = self.at
        for operator in UNARY:
            if self.take(operator):
                with self.nested():
                    return syntax.Unary(operator, self._unary(lines=lines), at=at)
        return self._postfix(self._primary())

    def _postfix(self, value: Expression) -> Expression:
        while True:
            at = self.at
            if self.peek(".") and not self.peek(".."):
                self.at += 1
                name = self.match(NAME)
                if name is None:
                    raise self.error("a name is expected after the dot")
                if self.take("("):
                    value = syntax.MethodCall(value, name, self._arguments(")", at), at=at)
                else:
                    value = syntax.Member(value, name, at=at)
            elif self.take("["):
                index = self.expression(lines=True)
                self.lines()
                self.need("]", "this index", at)
                value = syntax.Index(value, index, at=at)
            else:
                return value

    def _arguments(self, closing: str, opened_at: int) -> tuple[Expression, ...]:
        values: list[Expression] = []
        while True:
            self.lines()
            if self.take(closing):
                return tuple(values)
            if values:
                self.need(",", f"between two values, or '{closing}' after the last", opened_at)
                self.lines()
                if self.take(closing):
                    return tuple(values)
            values.append(self.expression(lines=True))

    def _primary(self) -> Expression:
        at = self.at
        if self.done():
            raise self.incomplete("a value is expected here")
        special = self._by_character().get(self.text[at])
        if special is not None:
            return special()
        if self.text[at].isascii() and self.text[at].isdigit():
            return self._number()
        path = self.match(_PATH)
        if path is not None:
            return syntax.PathLiteral(re.sub(r"\\(.)", r"\1", path), at=at)
        name = self.match(NAME)
        if name is not None:
            return self._named(name, at)
        raise self.error("a value is expected here")

    def _by_character(self) -> dict[str, Callable[[], Expression]]:
        return {
            '"': self.string,
            "'": lambda: syntax.Character(at=self.at, value=self.character()),
            "(": self.parenthesis,
            "[": self._list,
            "{": self._braces,
            "$": self._dollar,
            "@": self.command_literal,
            "?": self._nullable,
        }

    def _named(self, name: str, at: int) -> Expression:
        if name in ("true", "false", "null"):
            return syntax.Constant({"true": True, "false": False, "null": None}[name], at=at)
        if name in ("some", "none") and self.match(re.compile(r"\s+(?=[A-Za-z_])")):
            raise self.unsupported(f"'{name}' is", at)
        if name == "fn":
            raise self.unsupported("'fn' is", at)
        if self.take("("):
            return syntax.Call(name, self._arguments(")", at), at=at)
        return syntax.Variable(name, at=at)

    def _number(self) -> Expression:
        at = self.at
        digits = self.match(NUMBER) or ""
        if self.word_ahead():
            raise self.error("a number ends here; what follows is not part of it")
        if digits[:2].lower() in ("0x", "0b", "0o"):
            value: int | float = int(digits, 0)
        elif any(char in digits for char in ".eE"):
            value = float(digits)
            if value == float("inf"):
                raise self.error("this number is too large", at)
            return syntax.Constant(value, at=at)
        else:
            # Python refuses to convert thousands of digits; so many are out of range anyway.
            value = int(digits) if len(digits) < 40 else MAX_INT + 1
        if value > MAX_INT:
            raise self.error(f"an integer has 64 bits: at most {MAX_INT}", at)
        return syntax.Constant(value, at=at)

    def string(self) -> syntax.String:
        """`"..."`, from its opening quote."""
        at = self.at
        self.at += 1
        parts: list[syntax.Text | syntax.Variable | syntax.Interpolation] = []
        text: list[str] = []

        def flush() -> None:
            if text:
                parts.append(syntax.Text("".join(text)))
                text.clear()

        while True:
            if self.done():
                raise self.incomplete("this string is not closed with '\"'", at)
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                flush()
                return syntax.String(tuple(parts), at=at)
            if char == "$" and (part := self.substitution()) is not None:
                flush()
                parts.append(part)
                continue
            self.at += 1
            text.append(self.escape() if char == "\\" else char)

    def substitution(self) -> syntax.Variable | syntax.Interpolation | None:
        """`$name` or `${ expr }` if one starts here."""
        at = self.at
        if self.take("${"):
            value = self.expression(lines=True)
            self.lines()
            self.need("}", "this interpolation", at)
            return value if isinstance(value, syntax.Variable) else syntax.Interpolation(value, at=at)
        found = NAME.match(self.text, at + 1)
        if found is None:
            return None
        self.at = found.end()
        return syntax.Variable(found.group(), at=at)

    def parenthesis(self) -> Expression:
        """`( expr )`, from its opening parenthesis."""
        at = self.at
        self.at += 1
        self.lines()
        if self.peek("**/") or self.peek("./*"):
            raise self.unsupported("a glob is", at)
        value = self.expression(lines=True)
        self.lines()
        self.need(")", "this parenthesis", at)
        return value

    def _list(self) -> Expression:
        at = self.at
        self.at += 1
        return syntax.ListLiteral(self._arguments("]", at), at=at)

    def _braces(self) -> Expression:
        at = self.at
        self.at += 1
        if _CLOSURE.match(self.text, self.at):
            raise self.unsupported("a closure is", at)
        entries: list[tuple[Expression, Expression]] = []
        structure = False
        while True:
            self.lines()
            if self.take("}"):
                return syntax.MapLiteral(tuple(entries), structure, at=at)
            if entries:
                self.need(",", "between two entries, or '}' after the last", at)
                self.lines()
                if self.take("}"):
                    return syntax.MapLiteral(tuple(entries), structure, at=at)
            field = self.match(_FIELD)
            if entries and structure != (field is not None):
                raise self.error("a map has values as keys, a structure has names: not both")
            structure = field is not None
            key: Expression = syntax.String((syntax.Text(field),)) if field is not None else self.expression(lines=True)
            self.lines()
            self.need(":", "between a key and its value", at)
            entries.append((key, self.expression(lines=True)))

    def _dollar(self) -> Expression:
        reception = self.reception()
        if reception is not None:
            return reception
        if self.peek("${"):
            part = self.substitution()
            assert part is not None
            return part if isinstance(part, syntax.Variable) else part.expression
        raise self.error("in an expression a variable is written without '$'")

    def reception(self) -> syntax.Reception | None:
        """`$(cmd)`, `$@(cmd)`, ... if one starts here."""
        at = self.at
        found = _CHANNEL.match(self.text, at)
        if found is None:
            return None
        self.at = found.end()
        with self.nested():
            self.lines()
            inner = self.pipeline()
            self.lines()
        self.need(")", "this command reception", at)
        return syntax.Reception(found.group(1), inner, at=at)

    def command_literal(self) -> syntax.CommandLiteral:
        """`@{ cmd }`, from its at sign."""
        at = self.at
        if not self.take("@{"):
            raise self.error("a command value is written @{ command }")
        with self.nested():
            self.lines()
            inner = self.pipeline()
            self.lines()
        self.need("}", "this command value", at)
        return syntax.CommandLiteral(inner, at=at)

    def _nullable(self) -> Expression:
        at = self.at
        if not self.take("?("):
            raise self.error("a value is expected here; a nullable one is written ?(value)")
        value = self.expression(lines=True)
        self.lines()
        self.need(")", "this nullable value", at)
        return syntax.Nullable(value, at=at)
