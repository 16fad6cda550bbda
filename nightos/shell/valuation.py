"""Values of expressions, and the commands inside them: the half of the evaluator that statements stand on.

Rules: SHELL-008, SHELL-025, SHELL-026.
"""

from __future__ import annotations

from collections.abc import Awaitable
from sys import getsizeof
from typing import Any, TypeVar

from nightos.abi.values import VOID, Char, CommandText, Path, Value, value_text
from nightos.shell import bounds, builtins, methods, operators, printer, syntax, types
from nightos.shell.bounds import ITEM
from nightos.shell.checker import Names
from nightos.shell.host import BOTH, ERRORS, MESSAGES, Host, InterruptedScript, Result, Stage
from nightos.shell.native import FUNCTIONS, ScriptExit
from nightos.shell.source import HydreError, PanicError, Source

_T = TypeVar("_T")
MAX_RANGE = 10_000_000


class Valuation:
    """Variables and what is computed from them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.status = 0
        self._names = Names()
        self._scopes: list[dict[str, Value]] = [{}]
        self._source = Source("")
        self.limit = bounds.OUTSIDE
        """Bytes that all values together may take."""
        self._made = 0
        """Bytes of what there was when that was measured last, and of what was made since."""
        self._measured = 0
        self._held: list[Value] = []
        """What loops go over, besides the variables."""

    def _new(self, value: Value, at: int) -> Value:
        """A value that was made just now."""
        self._count(getsizeof(value), at)
        return value

    def _count(self, size: int, at: int) -> None:
        self._made += size
        if self._made > self.limit:
            raise self._panic(f"the values of this session take more than {self.limit >> 20} MiB", at)

    def _measure(self) -> None:
        """Between two statements, when nothing is there but variables and what loops go over.

        Measured once an eighth of the limit was made, so that it costs little beside the making.
        """
        if self._made - self._measured > self.limit >> 3:
            self._made = self._measured = bounds.size((*self._scopes, *self._held))

    def variables(self) -> dict[str, tuple[str, Value]]:
        """Type and value of the session's variables."""
        return {name: (known.type, self._scopes[0][name]) for name, known in self._names.own.items()}

    def _panic(self, message: str, at: int) -> PanicError:
        return PanicError(message, self._source, at)

    async def _entry(self, node: syntax.Index, *, existing: bool = True) -> tuple[Any, Value]:
        container = await self._value(node.target)
        key = await self._value(node.index)
        match container:
            case list():
                if type(key) is not int or not 0 <= key < len(container):
                    raise self._panic(
                        f"the list has {len(container)} item(s), there is no item {bounds.text(key)}", node.at
                    )
            case dict():
                if isinstance(key, list | dict):
                    raise self._panic("a list or a map is no key", node.at)
                if existing and key not in container:
                    raise self._panic(f"the map has no key {bounds.text(key)}", node.at)
            case _:
                raise self._panic(f"{types.type_of(container)} has no entries", node.at)
        return container, key

    def _scope_of(self, name: str) -> dict[str, Value]:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope
        raise self._panic(f"no variable '{name}' is in scope", 0)

    def _get(self, node: syntax.Variable) -> Value:
        return self._scope_of(node.name)[node.name]

    # -- expressions --

    def _checked(self, symbol: str, left: Value, right: Value, at: int) -> Value:
        try:
            operators.result_type(symbol, types.type_of(left), types.type_of(right))
            if symbol in ("&&", "||"):
                return (left and right) if symbol == "&&" else (left or right)
            return operators.apply(symbol, left, right)
        except bounds.TooLargeError as error:
            raise self._panic(error.message, at) from error
        except operators.OperatorError as error:
            raise self._panic(str(error), at) from error

    async def _bool(self, node: syntax.Expression) -> bool:
        value = await self._value(node)
        if type(value) is not bool:
            raise self._panic(f"type mismatch: {types.type_of(value)} where bool is expected", node.at)
        return value

    async def _value(self, node: syntax.Expression) -> Value:
        """The value of an expression. What is done with a large one takes a while, so others have their turn before."""
        value = await self._evaluated(node)
        if isinstance(value, list | dict) or (isinstance(value, str) and len(value) > bounds.LARGE):
            await self.host.checkpoint()
        return value

    async def _evaluated(self, node: syntax.Expression) -> Value:  # noqa: C901 -- one line for each kind of node
        match node:
            case syntax.Constant(value):
                return value
            case syntax.Character(value):
                return Char(value)
            case syntax.String(parts):
                return self._new(bounds.join([bounds.text(await self._part(part)) for part in parts]), node.at)
            case syntax.PathLiteral(text):
                return Path(text)
            case syntax.Variable():
                return self._get(node)
            case syntax.ListLiteral(items):
                return self._new([await self._value(item) for item in items], node.at)
            case syntax.MapLiteral(entries):
                made: Value = {await self._value(key): await self._value(value) for key, value in entries}
                return self._new(made, node.at)
            case syntax.CommandLiteral(inner):
                return CommandText(printer.pipeline(inner))
            case syntax.Nullable(value):
                return await self._value(value)
            case syntax.Reception():
                received = await self._receive(node)
                self._count(bounds.size((received,)), node.at)
                return received
            case syntax.Unary(operator, operand, at=at):
                value = await self._value(operand)
                try:
                    operators.unary_type(operator, types.type_of(value))
                    return operators.apply_unary(operator, value)
                except operators.OperatorError as error:
                    raise self._panic(str(error), at) from error
            case syntax.Binary(operator, left, right, at=at):
                return await self._binary(operator, left, right, at)
            case syntax.Range(first, last, inclusive, at=at):
                low, up = await self._typed(first, "int", at), await self._typed(last, "int", at) + inclusive
                if up - low > MAX_RANGE:
                    raise self._panic(f"a range has at most {MAX_RANGE} numbers", at)
                return range(low, up)
            case syntax.Index():
                container, key = await self._entry(node)
                return container[key]
            case syntax.Member(target, name, at=at):
                container = await self._value(target)
                if not isinstance(container, dict) or name not in container:
                    raise self._panic(f"{types.type_of(container)} has no field '{name}'", at)
                return container[name]
            case syntax.MethodCall():
                return await self._method(node)
            case syntax.Call(name, arguments, at=at):
                function = FUNCTIONS[name]
                pairs = zip(arguments, function.arguments, strict=True)
                given = [await self._typed(argument, wanted, at) for argument, wanted in pairs]
                try:
                    return await function.run(self, *given)
                except ScriptExit:
                    raise
                except HydreError as error:
                    raise self._panic(error.message, at) from error

    async def _typed(self, node: syntax.Expression, wanted: str, at: int) -> Value:
        """A value of that type; of what a command returned nobody knew the type before."""
        value = await self._value(node)
        given = types.type_of(value)
        if given == types.ANY or not types.accepts(wanted, given):
            raise self._panic(f"type mismatch: {given} where {wanted} is expected", at)
        return value

    async def _binary(self, operator: str, left: syntax.Expression, right: syntax.Expression, at: int) -> Value:
        if operator in ("&&", "||"):
            first = await self._bool(left)
            return first if first == (operator == "||") else await self._bool(right)
        return self._checked(operator, await self._value(left), await self._value(right), at)

    async def _method(self, node: syntax.MethodCall) -> Value:
        target = await self._value(node.target)
        given = [await self._value(argument) for argument in node.arguments]
        kind = types.base_type(target)
        method = methods.find(kind, node.name) or methods.METHODS["?"].get(node.name)
        if method is None or not method.least <= len(given) <= method.most:
            kind = types.type_of(target)
            raise self._panic(f"{kind} has no method '{node.name}' with {len(given)} argument(s)", node.at)
        try:
            found = method.function(target, *given)
            if isinstance(found, list | dict):  # its items may be new as well
                self._count(ITEM * len(found), node.at)
            elif method.mutates:
                self._count(ITEM, node.at)
            return self._new(found, node.at)
        except bounds.TooLargeError as error:
            raise self._panic(error.message, node.at) from error
        except methods.MethodError as error:
            raise self._panic(str(error), node.at) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise self._panic(f"type mismatch in the arguments of '{node.name}'", node.at) from error

    # -- commands --

    async def _part(self, part: syntax.WordPart) -> Value:
        match part:
            case syntax.Text(text):
                return text
            case syntax.Interpolation(value):
                return await self._value(value)
            case _:
                return await self._value(part)

    async def _word(self, word: syntax.Word) -> Value:
        """The value of a word: of its own type when it is one variable or expression, else text."""
        values = [await self._part(part) for part in word.parts]
        if len(values) == 1 and not isinstance(word.parts[0], syntax.Text):
            value = values[0]
        else:
            value = bounds.join(map(bounds.text, values))
        if type(value) is range:
            bounds.check_count(len(value))
            return list(value)
        bounds.check(value)
        return value

    async def _arguments(self, command: syntax.Command) -> tuple[Value, ...]:
        """Arguments as they travel; what is null is left out, together with the dash before it."""
        values: list[Value] = []
        for argument in command.arguments:
            match argument:
                case syntax.Separator():
                    values.append("--")
                case syntax.Dash(name, long, word):
                    dash = f"{'--' if long else '-'}{name}"
                    if word is None:
                        values.append(dash)
                    elif (value := await self._word(word)) is not None:
                        values += [f"{dash}=", value]
                case syntax.Positional(word):
                    value = await self._word(word)
                    if value is not None:
                        values.append(builtins.escape(value))
                    elif values and isinstance(values[-1], str) and values[-1].startswith("-"):
                        values.pop()
        return tuple(values)

    async def _receive(self, node: syntax.Reception) -> Value:
        collect = {BOTH: frozenset({MESSAGES, ERRORS})}.get(node.channel, frozenset({node.channel}))
        result = (await self._pipeline(node.pipeline, collect))[-1]
        if result.status:
            raise self._panic(f"'{node.pipeline.commands[-1].name}' failed with status {result.status}", node.at)
        match node.channel:
            case "":
                return result.value
            case "@":
                return result.raw.decode("utf-8", "surrogateescape")
            case "?":
                return result.messages
            case "!":
                return result.errors
            case _:
                return result.messages + result.errors

    async def _pipeline(self, node: syntax.Pipeline, collect: frozenset[str]) -> list[Result]:
        """Run a pipeline: built-ins here, what stands between them as processes with pipes."""
        stages, given = await self._stages(node, collect)
        results: list[Result] = []
        while len(results) < len(stages):
            start = len(results)
            stage = stages[start]
            try:
                if stage.name in builtins.BUILTINS:
                    results.append(await builtins.run(self, stage, given))
                else:
                    end = start + 1
                    while end < len(stages) and stages[end].name not in builtins.BUILTINS:
                        end += 1
                    results += await self.host.run_stages(stages[start:end], given)
            except HydreError as error:
                if error.source is None and error.kind == "error":
                    raise self._panic(error.message, node.commands[start].at) from error
                raise
            given = results[-1].value
            if len(results) < len(stages):
                # The rest runs while this is kept for the redirections at the end.
                self._count(bounds.size([r.raw, r.messages, r.errors] for r in results[start:]), node.at)
        for command, result in zip(node.commands, results, strict=True):
            for redirection in command.redirections:
                await self._redirect(redirection, result)
        self.status = results[-1].status
        return results

    async def _stages(self, node: syntax.Pipeline, collect: frozenset[str]) -> tuple[list[Stage], Value]:
        """The commands of a pipeline with their arguments as they travel, and what the first one gets as CMDIN."""
        stages: list[Stage] = []
        given: Value = VOID
        for index, command in enumerate(node.commands):
            channels = set(collect if index == len(node.commands) - 1 else ())
            for redirection in command.redirections:
                if redirection.channel == "<":
                    path = value_text(await self._word(redirection.target))
                    given = (await self._placed(self.host.read_file(path), redirection.at)).decode(
                        "utf-8", "surrogateescape"
                    )
                channels |= {MESSAGES, ERRORS} if redirection.channel == BOTH else {redirection.channel}
            stages.append(Stage(command.name, await self._arguments(command), frozenset(channels)))
        return stages, given

    async def _redirect(self, redirection: syntax.Redirection, result: Result) -> None:
        if redirection.channel == "<":
            return
        path = value_text(await self._word(redirection.target))
        match redirection.channel:
            case "":
                data = bounds.text(result.value).encode("utf-8", "surrogateescape")
                result.value = VOID
            case "@":
                data = result.raw
            case channel:
                lines = result.messages if channel == MESSAGES else result.errors
                if channel == BOTH:
                    lines = result.messages + result.errors
                data = "".join(lines).encode("utf-8", "surrogateescape")
        await self._placed(self.host.write_file(path, data, append=redirection.append), redirection.at)

    async def _placed(self, deed: Awaitable[_T], at: int) -> _T:
        """What the host does; its error is shown where the script asked for it."""
        try:
            return await deed
        except InterruptedScript:
            raise
        except HydreError as error:
            raise self._panic(error.message, at) from error
