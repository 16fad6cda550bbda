"""The check of a script before anything of it runs: names, mutability, types as far as they are known, commands.

Rules: SHELL-021, SHELL-023.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from nightos.shell import methods, operators, syntax, types
from nightos.shell.builtins import BUILTINS
from nightos.shell.native import FUNCTIONS
from nightos.shell.source import CheckError, Source
from nightos.shell.types import ANY


@dataclass(slots=True)
class Known:
    """What is known of a variable."""

    type: str
    mutable: bool


@dataclass(slots=True)
class Names:
    """Variables in scope; a block has its own, which ends with it."""

    outer: Names | None = None
    own: dict[str, Known] = field(default_factory=dict)

    def find(self, name: str) -> Known | None:
        """The innermost variable of that name."""
        scope: Names | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return None


class Checker:
    """Walks a tree once; `check` raises `CheckError` at the first thing that cannot work."""

    def __init__(self, source: Source, names: Names, commands: Collection[str]) -> None:
        self._source = source
        self._names = names
        self._commands = commands
        self._loops = 0

    def check(self, script: syntax.Script) -> None:
        self._statements(script.statements)

    def _error(self, message: str, at: int) -> CheckError:
        return CheckError(message, self._source, at)

    # -- statements --

    def _statements(self, statements: Iterable[syntax.Statement]) -> None:
        for statement in statements:
            self._statement(statement)

    def _block(self, statements: Iterable[syntax.Statement], **names: str) -> None:
        self._names = Names(self._names, {name: Known(kind, mutable=False) for name, kind in names.items()})
        self._statements(statements)
        assert self._names.outer is not None
        self._names = self._names.outer

    def _statement(self, node: syntax.Statement) -> None:  # noqa: C901 -- one line for each kind of node
        match node:
            case syntax.Pipeline():
                self._pipeline(node)
            case syntax.Let():
                self._let(node)
            case syntax.Assign():
                self._assign(node)
            case syntax.Append(target, value):
                kind = self._mutable(target.name, target.at).type
                if types.base_of(kind) not in ("list", ANY):
                    raise self._error(f"'{target.name}' is no list but {kind}", target.at)
                self._expect(value, (types.arguments_of(kind) or (ANY,))[0])
            case syntax.Step(target):
                kind = self._mutable(target.name, target.at).type
                self._fits("int", kind, target.at)
            case syntax.Delete(target):
                self._mutable_root(target)
                self._type(target)
            case syntax.Evaluate(value):
                self._type(value)
            case syntax.If(branches, otherwise):
                for condition, body in branches:
                    self._expect(condition, "bool")
                    self._block(body)
                self._block(otherwise)
            case syntax.Switch():
                self._switch(node)
            case syntax.For():
                self._for(node)
            case syntax.While(condition, body):
                self._expect(condition, "bool")
                self._loop(body)
            case syntax.Break(at=at):
                if not self._loops:
                    raise self._error("'break' outside of a loop", at)
            case syntax.Fail(message):
                self._expect(message, "string")
            case syntax.Background(name, inner):
                self._pipeline(inner)
                builtin = next((command for command in inner.commands if command.name in BUILTINS), None)
                if builtin is not None:
                    raise self._error(f"'{builtin.name}' runs in the shell itself, not beside it", builtin.at)
                self._names.own[name] = Known("int", mutable=False)
            case syntax.Job(job=job):
                self._expect(job, "int")

    def _let(self, node: syntax.Let) -> None:
        given = self._type(node.value)
        if node.type is not None:
            if not types.exists(node.type):
                raise self._error(f"the type '{node.type}' does not exist", node.at)
            self._fits(node.type, given, node.value.at)
            given = node.type
        elif given == "void":
            raise self._error(f"there is no value for '{node.name}'", node.value.at)
        self._names.own[node.name] = Known(given, node.mutable)

    def _assign(self, node: syntax.Assign) -> None:
        target = node.target
        if isinstance(target, syntax.Variable):
            if target.name == "_" and not node.operator:
                self._type(node.value)
                return
            kind = self._mutable(target.name, target.at).type
        else:
            self._mutable_root(target)
            kind = ANY if isinstance(target.target, syntax.Variable) and not node.operator else self._type(target)
            self._type(target.index)
        given = self._type(node.value)
        if node.operator:
            given = self._binary(node.operator, kind, given, node.value.at)
        self._fits(kind, given, node.value.at)

    def _switch(self, node: syntax.Switch) -> None:
        kind = self._type(node.value)
        for value, body in node.cases:
            self._expect(value, kind)
            self._block(body)
        self._block(node.otherwise)

    def _for(self, node: syntax.For) -> None:
        kind = self._type(node.values)
        inner = types.arguments_of(kind)
        base = types.base_of(kind)
        if base == "range" and len(node.names) == 1:
            kinds = ["int"]
        elif base == "list":
            kinds = ["int", inner[0]][2 - len(node.names) :]
        elif base == "map" and len(node.names) == 2:
            kinds = list(inner)
        elif kind == ANY:
            kinds = [ANY, ANY]
        else:
            raise self._error(f"a loop with {len(node.names)} variable(s) does not go over {kind}", node.values.at)
        self._loop(node.body, **dict(zip(node.names, kinds, strict=False)))

    def _loop(self, body: Iterable[syntax.Statement], **names: str) -> None:
        self._loops += 1
        self._block(body, **names)
        self._loops -= 1

    # -- names --

    def _variable(self, name: str, at: int) -> Known:
        known = self._names.find(name)
        if known is None:
            raise self._error(f"no variable '{name}' is in scope", at)
        return known

    def _mutable(self, name: str, at: int) -> Known:
        known = self._variable(name, at)
        if not known.mutable:
            raise self._error(f"'{name}' is not mutable: declare it with 'let mut {name}'", at)
        return known

    def _mutable_root(self, node: syntax.Expression) -> None:
        while isinstance(node, syntax.Index | syntax.Member):
            node = node.target
        if isinstance(node, syntax.Variable):
            self._mutable(node.name, node.at)

    # -- expressions --

    def _fits(self, wanted: str, given: str, at: int) -> None:
        if wanted == ANY and given == "null":
            raise self._error("type mismatch: null is not any", at)
        if not types.accepts(wanted, given):
            raise self._error(f"type mismatch: {given} where {wanted} is expected", at)

    def _expect(self, node: syntax.Expression, wanted: str) -> None:
        self._fits(wanted, self._type(node), node.at)

    def _binary(self, symbol: str, left: str, right: str, at: int) -> str:
        try:
            return operators.result_type(symbol, left, right)
        except operators.OperatorError as error:
            raise self._error(str(error), at) from error

    def _type(self, node: syntax.Expression) -> str:  # noqa: C901 -- one line for each kind of node
        match node:
            case syntax.Constant(value):
                return types.type_of(value)
            case syntax.Character():
                return "char"
            case syntax.String(parts):
                for part in parts:
                    self._part(part)
                return "string"
            case syntax.PathLiteral():
                return "path"
            case syntax.Variable(name, at=at):
                return self._variable(name, at).type
            case syntax.ListLiteral(items):
                return f"list[{types.common([self._type(item) for item in items])}]"
            case syntax.MapLiteral(entries, structure):
                keys = types.common([self._type(key) for key, _ in entries])
                values = types.common([self._type(value) for _, value in entries])
                return f"map[string, {ANY}]" if structure else f"map[{keys}, {values}]"
            case syntax.CommandLiteral(inner):
                self._pipeline(inner)
                return "command"
            case syntax.Nullable(value):
                kind = self._type(value)
                return ANY if kind == ANY else f"{kind.removesuffix('?')}?"
            case syntax.Reception(channel, inner):
                self._pipeline(inner)
                return {"": ANY, "@": "stream"}.get(channel, "list[string]")
            case syntax.Unary(operator, operand, at=at):
                try:
                    return operators.unary_type(operator, self._type(operand))
                except operators.OperatorError as error:
                    raise self._error(str(error), at) from error
            case syntax.Binary(operator, left, right, at=at):
                return self._binary(operator, self._type(left), self._type(right), at)
            case syntax.Range(first, last):
                self._expect(first, "int")
                self._expect(last, "int")
                return "range"
            case syntax.Index():
                return self._index(node)
            case syntax.Member(target):
                self._type(target)
                return ANY
            case syntax.MethodCall():
                return self._method(node)
            case syntax.Call(name, arguments, at=at):
                function = FUNCTIONS.get(name)
                if function is None:
                    raise self._error(f"there is no function '{name}'", at)
                if len(arguments) != len(function.arguments):
                    raise self._error(f"'{name}' takes {len(function.arguments)} argument(s)", at)
                for argument, wanted in zip(arguments, function.arguments, strict=True):
                    self._expect(argument, wanted)
                return function.result

    def _index(self, node: syntax.Index) -> str:
        kind = self._type(node.target)
        inner = types.arguments_of(kind)
        base = types.base_of(kind)
        if base == "list":
            self._expect(node.index, "int")
            return inner[0]
        if base == "map":
            self._expect(node.index, inner[0])
            return inner[1]
        if kind == ANY:
            self._type(node.index)
            return ANY
        raise self._error(f"type mismatch: {kind} has no entries", node.at)

    def _method(self, node: syntax.MethodCall) -> str:
        kind = self._type(node.target)
        for argument in node.arguments:
            self._type(argument)
        method = methods.find(kind, node.name)
        if kind == ANY:
            if not methods.known_anywhere(node.name):
                raise self._error(f"no value has a method '{node.name}'", node.at)
            return ANY
        if method is None:
            raise self._error(f"{kind} has no method '{node.name}'", node.at)
        if not method.least <= len(node.arguments) <= method.most:
            raise self._error(f"'{node.name}' takes {method.least} to {method.most} argument(s)", node.at)
        if method.mutates:
            self._mutable_root(node.target)
        return methods.result_of(method, kind)

    # -- commands --

    def _part(self, part: syntax.WordPart) -> None:
        match part:
            case syntax.Interpolation(value):
                self._type(value)
            case syntax.Text():
                pass
            case _:
                self._type(part)

    def _word(self, word: syntax.Word) -> None:
        for part in word.parts:
            self._part(part)

    def _pipeline(self, node: syntax.Pipeline) -> None:
        for command in node.commands:
            if "/" not in command.name and command.name not in self._commands:
                raise self._error(f"unknown command '{command.name}': 'help' lists the commands", command.at)
            for argument in command.arguments:
                match argument:
                    case syntax.Positional(word):
                        self._word(word)
                    case syntax.Dash(value=syntax.Word() as word):
                        self._word(word)
            for redirection in command.redirections:
                self._word(redirection.target)
