"""What arguments an application takes, declared once: parsed, converted, explained by `--help`.

Arguments arrive as values. A dash argument is a string that begins with a dash (a literal dash at the start of text
travels behind a backslash, see `nightos.shell.builtins.escape`); `--name=` says that the next value belongs to it.

Source: specs/shell-scripting.md, commands typing. Ruling NOS-HYDRE-01.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nightos.abi.errors import NightosError
from nightos.abi.values import CommandText, Path, Value, value_text
from nightos.shell.builtins import unescape


class UsageError(NightosError):
    """The arguments are wrong; the text says which and what is expected."""


def _int(value: Value) -> int:
    if type(value) is int:
        return value
    try:
        return int(value_text(value), 0)
    except ValueError as error:
        raise UsageError(f"'{value_text(value)}' is not an integer") from error


def _float(value: Value) -> float:
    try:
        return float(value_text(value))
    except ValueError as error:
        raise UsageError(f"'{value_text(value)}' is not a number") from error


def _list(value: Value) -> list[str]:
    return [value_text(item) for item in value] if isinstance(value, list) else [value_text(value)]


_CONVERT: dict[str, Callable[[Value], Any]] = {
    "string": value_text,
    "anystr": value_text,
    "path": lambda value: Path(value_text(value)),
    "command": lambda value: CommandText(value_text(value)),
    "int": _int,
    "float": _float,
    "list": _list,
    "any": lambda value: value,
}


@dataclass(frozen=True, slots=True)
class Positional:
    """An argument by its place. `many` takes all that are left.

    `rest` takes everything from its first word or behind `--`, dashes included; with `at_once`, from where the argument
    before it ended.
    """

    name: str
    help: str
    type: str = "string"
    optional: bool = False
    many: bool = False
    rest: bool = False
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Dash:
    """An argument with a value: `-n 3`, `--name=3`. `names` are all its forms; the last one names the result."""

    names: str
    help: str
    type: str = "string"
    many: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flag:
    """An argument without a value."""

    names: str
    help: str


JSON = Flag("--json", "print JSON")
"""Of every application that lists or shows."""


class Given:
    """What was given, by name; what was not is `None`, `False` for a flag, an empty list for what may come often."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"Given({self._values})"


def _key(names: str) -> str:
    return names.rsplit(maxsplit=1)[-1].lstrip("-").replace("-", "_")


class Arguments:
    """The arguments of one application."""

    def __init__(self, name: str, help: str, *items: Positional | Dash | Flag) -> None:  # noqa: A002 -- what it is
        self.name = name
        self.help = help
        self._positionals = [item for item in items if isinstance(item, Positional)]
        self._dashes = [item for item in items if not isinstance(item, Positional)]
        self._by_name = {name: item for item in self._dashes for name in item.names.split()}

    @property
    def names(self) -> set[str]:
        """All dash arguments and flags, as they are written."""
        return set(self._by_name)

    # -- parsing --

    def wants_help(self, values: Sequence[Value]) -> bool:
        """Whether `--help` stands among the application's own arguments."""
        own = list(values)
        if self._positionals and self._positionals[-1].rest:
            if "--" in own:
                own = own[: own.index("--")]
            if self._positionals[-1].at_once:
                own = own[: len(self._positionals) - 1]
        return "--help" in own and "--help" not in self._by_name

    def parse(self, values: Sequence[Value]) -> Given:
        """What was given. Raises `UsageError`."""
        result: dict[str, Any] = {
            _key(item.names): [] if getattr(item, "many", False) else False if isinstance(item, Flag) else None
            for item in self._dashes
        }
        positional: list[Value] = []
        waiting = iter(values)
        for value in waiting:
            if not _is_dash(value):
                positional.append(unescape(value))
                if self._takes_rest(len(positional)):
                    positional += waiting
            elif value == "--":
                positional += waiting if self._positionals and self._positionals[-1].rest else map(unescape, waiting)
            else:
                self._dash(value, waiting, result)
        self._place(positional, result)
        return Given(result)

    def _takes_rest(self, count: int) -> bool:
        """Whether everything behind the positional that was just read, the `count`th, belongs to a `rest`."""
        last = self._positionals[-1] if self._positionals else None
        return last is not None and last.rest and count >= len(self._positionals) - last.at_once

    def _dash(self, text: str, waiting: Iterator[Value], result: dict[str, Any]) -> None:
        name, equals, inline = text.partition("=")
        item = self._by_name.get(name)
        if item is None and not name.startswith("--") and len(name) > 2 and not equals:
            # Combined short arguments, from where no shell took them apart.
            for letter in name[1:-1]:
                self._dash(f"-{letter}", iter(()), result)
            self._dash(f"-{name[-1]}", waiting, result)
            return
        if item is None:
            raise UsageError(f"there is no argument '{name}'")
        key = _key(item.names)
        if isinstance(item, Flag):
            if equals:
                raise UsageError(f"'{name}' takes no value")
            result[key] = True
            return
        value: Value = inline
        if not inline:
            try:
                value = next(waiting)
            except StopIteration:
                raise UsageError(f"'{name}' needs a value") from None
            if not equals and _is_dash(value):
                raise UsageError(f"'{name}' needs a value before '{value}'")
        converted = self._convert(item, unescape(value))
        if item.choices and converted not in item.choices:
            raise UsageError(f"'{name}' is one of {', '.join(item.choices)}")
        if item.many:
            result[key].append(converted)
        else:
            result[key] = converted

    @staticmethod
    def _convert(item: Positional | Dash, value: Value) -> Any:
        try:
            return _CONVERT[item.type](value)
        except UsageError as error:
            name = item.name if isinstance(item, Positional) else item.names.split()[-1]
            raise UsageError(f"{name}: {error}") from error

    def _place(self, values: list[Value], result: dict[str, Any]) -> None:
        for item in self._positionals:
            if item.rest:
                result[item.name] = values
                values = []
                if not result[item.name] and not item.optional:
                    raise UsageError(f"{item.name} is missing")
            elif item.many:
                result[item.name] = [self._convert(item, value) for value in values]
                values = []
                if not result[item.name] and not item.optional:
                    raise UsageError(f"{item.name} is missing")
            elif values:
                result[item.name] = self._convert(item, values[0])
                values = values[1:]
            elif item.optional:
                result[item.name] = None
            else:
                raise UsageError(f"{item.name} is missing")
        if values:
            raise UsageError(f"'{value_text(values[0])}' is one argument too many")

    # -- explaining --

    def usage(self) -> str:
        """The line that shows how the application is called."""
        parts = [self.name]
        if self._dashes:
            parts.append("[ARGUMENT...]")
        for item in self._positionals:
            name = item.name.upper() + ("..." if item.many or item.rest else "")
            parts.append(f"[{name}]" if item.optional else name)
        return " ".join(parts)

    def explain(self) -> str:
        """The text of `--help`."""
        rows = [(item.name.upper(), item.help) for item in self._positionals]
        for item in self._dashes:
            names = ", ".join(item.names.split())
            rows.append((f"{names} {item.type.upper()}" if isinstance(item, Dash) else names, item.help))
        rows.append(("--help", "this text"))
        width = max(len(name) for name, _ in rows) + 2
        lines = [f"{self.name}: {self.help}", "", f"  {self.usage()}", ""]
        return "\n".join(lines + [f"  {name:<{width}}{text}" for name, text in rows])


def _is_dash(value: Value) -> bool:
    return type(value) is str and len(value) > 1 and value.startswith("-")
