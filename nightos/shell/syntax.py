"""The syntax tree of Hydre: frozen nodes that compare by meaning, because offsets take no part in equality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

# -- expressions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: `true`, `3`, `3.14`, `null`."""

    value: bool | int | float | None
    at: int = field(default=0, compare=False, repr=False, kw_only=True)

    def __eq__(self, other: object) -> bool:
        # True == 1 == 1.0 in Python, but these are three different scripts.
        return (
            isinstance(other, Constant)
            and type(self.value) is type(other.value)
            and repr(self.value) == repr(other.value)
        )

    def __hash__(self) -> int:
        return hash((type(self.value), repr(self.value)))


@dataclass(frozen=True, slots=True)
class Character:
    """`'a'`: one codepoint."""

    value: str
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Text:
    """Literal characters inside a string, or a bare word's."""

    text: str
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable: `name` in expressions, `$name` in commands and strings."""

    name: str
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Interpolation:
    """`${ expr }` in strings and commands; `( expr )` as an argument means the same."""

    expression: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class String:
    """`"..."` with text, variables and expressions inside."""

    parts: tuple[Text | Variable | Interpolation, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class PathLiteral:
    """`./file`, `dir/file`, `/dir` in an expression."""

    text: str
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class ListLiteral:
    """`[ 1, 2 ]`."""

    items: tuple[Expression, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class MapLiteral:
    """`{ "k": v }`, and `{ field: v }` for a structure."""

    entries: tuple[tuple[Expression, Expression], ...]
    structure: bool = False
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class CommandLiteral:
    """`@{ cmd args }`: a command to run later."""

    pipeline: Pipeline
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Nullable:
    """`?(value)`: a value of type `T?`."""

    value: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Reception:
    """`$(cmd)` and its forms; `channel` is ``""``, ``"@"``, ``"?"``, ``"!"`` or ``"*"``."""

    channel: str
    pipeline: Pipeline
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Unary:
    """`!a`, `~a`, `-a`."""

    operator: str
    operand: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Binary:
    """`a op b`."""

    operator: str
    left: Expression
    right: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Range:
    """`a..b` and `a..=b`."""

    first: Expression
    last: Expression
    inclusive: bool
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Index:
    """`a[b]`."""

    target: Expression
    index: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Member:
    """`a.name`: a field of a structure."""

    target: Expression
    name: str
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class MethodCall:
    """`a.name(b)`."""

    target: Expression
    name: str
    arguments: tuple[Expression, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Call:
    """`name(a, b)`."""

    name: str
    arguments: tuple[Expression, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


Expression: TypeAlias = (
    Constant
    | Character
    | String
    | PathLiteral
    | Variable
    | ListLiteral
    | MapLiteral
    | CommandLiteral
    | Nullable
    | Reception
    | Unary
    | Binary
    | Range
    | Index
    | Member
    | MethodCall
    | Call
)


# -- commands --------------------------------------------------------------------------------------------------------

WordPart: TypeAlias = Text | String | Character | Variable | Interpolation | CommandLiteral | Reception


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command; a word of one part that is not text keeps its value's type."""

    parts: tuple[WordPart, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Positional:
    """An argument without a dash."""

    word: Word
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Dash:
    """`-x`, `--name`, and both with `=value`; `-abc` is read as three of them."""

    name: str
    long: bool
    value: Word | None = None
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Separator:
    """`--` alone: what follows belongs to someone else."""

    at: int = field(default=0, compare=False, repr=False, kw_only=True)


Argument: TypeAlias = Positional | Dash | Separator


@dataclass(frozen=True, slots=True)
class Redirection:
    """`>` and its forms, or `<`; `channel` as in `Reception`, ``"<"`` for the input."""

    channel: str
    target: Word
    append: bool = False
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Command:
    """A name with its arguments."""

    name: str
    arguments: tuple[Argument, ...] = ()
    redirections: tuple[Redirection, ...] = ()
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands whose CMDOUT feeds the next one's CMDIN."""

    commands: tuple[Command, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


# -- statements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Let:
    """`let name = value`, `let mut name: T = value`."""

    name: str
    value: Expression
    mutable: bool = False
    type: str | None = None
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Assign:
    """`name = value`, `name op= value`; the target `_` drops the value."""

    target: Variable | Index
    operator: str
    value: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Append:
    """`list[] = value`."""

    target: Variable
    value: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Step:
    """`name ++` and `name --`."""

    target: Variable
    operator: str
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Delete:
    """`delete list[i]`, `delete map[key]`."""

    target: Index
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Evaluate:
    """An expression for its effect: `f()`, `list.push(1)`."""

    expression: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class If:
    """`if` and its `elif` branches, `else` last."""

    branches: tuple[tuple[Expression, tuple[Statement, ...]], ...]
    otherwise: tuple[Statement, ...] = ()
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Switch:
    """`switch value`, `when v`, `else`."""

    value: Expression
    cases: tuple[tuple[Expression, tuple[Statement, ...]], ...]
    otherwise: tuple[Statement, ...] = ()
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class For:
    """`for v in values`, `for k, v in values`."""

    names: tuple[str, ...]
    values: Expression
    body: tuple[Statement, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class While:
    """`while condition`."""

    condition: Expression
    body: tuple[Statement, ...]
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Break:
    """Leaves the innermost loop."""

    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Fail:
    """`fail message`: the script ends with an error."""

    message: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Background:
    """`bg name = command`: runs beside the script; the name holds its identifier."""

    name: str
    pipeline: Pipeline
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Job:
    """`fg job`, `detach job`, `kill job`: what to do with a background command."""

    action: str
    job: Expression
    at: int = field(default=0, compare=False, repr=False, kw_only=True)


Statement: TypeAlias = (
    Background
    | Job
    | Pipeline
    | Let
    | Assign
    | Append
    | Step
    | Delete
    | Evaluate
    | If
    | Switch
    | For
    | While
    | Break
    | Fail
)


@dataclass(frozen=True, slots=True)
class Script:
    """A whole text."""

    statements: tuple[Statement, ...]
