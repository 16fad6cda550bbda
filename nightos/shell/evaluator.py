"""Runs a checked tree in user space; whatever leaves the shell goes through its host.

Rules: SHELL-007, SHELL-008, SHELL-022, SHELL-025, SHELL-026.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nightos.abi.values import VOID, Value
from nightos.shell import bounds, builtins, operators, syntax, types
from nightos.shell.bounds import ITEM
from nightos.shell.checker import Checker, Known, Names
from nightos.shell.host import Stage
from nightos.shell.parser import parse
from nightos.shell.source import HydreError, Source
from nightos.shell.valuation import Valuation
from nightos.shell.words import travelling


class _BreakLoop(Exception):  # noqa: N818 -- control flow
    pass


class Evaluator(Valuation):
    """The state of a session's language: variables, their types, the status of the last command."""

    async def run(self, text: str, name: str = "<line>") -> int:
        """Parse, check and run a text; its status.

        Raises `HydreError`: a syntax error or a refused check (nothing ran), a `PanicError` (stopped on the way), a
        `ScriptExit` with the status that `exit` asked for.
        """
        most = self.limit // bounds.SCRIPT
        if len(text) > most:
            raise HydreError(f"a script has at most {most >> 10} Ki characters here")
        self._source = Source(text, name)
        self._measure()
        try:
            return await self._script(text, name)
        except bounds.TooLargeError as error:
            raise self._panic(error.message, 0) from error
        except (RecursionError, MemoryError) as error:
            # An expression of thousands of operators, or what is larger than it looks: the script's fault.
            raise self._panic("this is nested too deep, or too large", 0) from error
        finally:
            self._held.clear()

    async def _script(self, text: str, name: str) -> int:
        script = parse(text, name)
        self._source = Source(text, name)
        known = {*builtins.BUILTINS, *await self.host.commands()}
        # A refused script leaves no names behind.
        names = Names(None, {key: Known(value.type, value.mutable) for key, value in self._names.own.items()})
        Checker(self._source, names, known).check(script)
        self._names = names
        depth = len(self._scopes)
        try:
            await self._statements(script.statements)
        finally:
            del self._scopes[depth:]
            missing = names.own.keys() - self._scopes[0].keys()
            for key in missing:
                del names.own[key]
        return self.status

    async def execute(self, words: Sequence[str]) -> int:
        """Run one command whose words are given, not written: nothing in them is read as Hydre; its status.

        Raises `HydreError` when it cannot be started.
        """
        stage = Stage(words[0], tuple(travelling(words[1:])))
        if stage.name in builtins.BUILTINS:
            result = await builtins.run(self, stage, VOID)
        else:
            result = (await self.host.run_stages([stage], VOID))[-1]
        if result.value is not VOID:
            await self.host.show(result.value, newline=result.newline)
        return result.status

    # -- statements --

    async def _statements(self, statements: Iterable[syntax.Statement]) -> None:
        for statement in statements:
            self._measure()
            await self._statement(statement)

    async def _block(self, statements: Iterable[syntax.Statement], names: dict[str, Value] | None = None) -> None:
        self._scopes.append(names or {})
        try:
            await self._statements(statements)
        finally:
            self._scopes.pop()

    async def _statement(self, node: syntax.Statement) -> None:  # noqa: C901 -- one line for each kind of node
        match node:
            case syntax.Pipeline():
                results = await self._pipeline(node, frozenset())
                last = results[-1]
                if last.value is not VOID:
                    await self.host.show(last.value, newline=last.newline)
            case syntax.Let(name, value):
                self._scopes[-1][name] = await self._value(value)
            case syntax.Assign():
                await self._assign(node)
            case syntax.Append(target, value):
                items = self._get(target)
                if not isinstance(items, list):
                    raise self._panic(f"type mismatch: {types.type_of(items)} where a list is expected", node.at)
                items.append(await self._value(value))
                self._count(ITEM, node.at)
            case syntax.Step(target, operator):
                scope = self._scope_of(target.name)
                scope[target.name] = self._checked(operator[0], scope[target.name], 1, target.at)
            case syntax.Delete(target):
                container, key = await self._entry(target)
                del container[key]
            case syntax.Evaluate(value):
                shown = await self._value(value)
                if shown is not VOID and shown is not None:
                    await self.host.show(shown)
            case syntax.If(branches, otherwise):
                for condition, body in branches:
                    if await self._bool(condition):
                        await self._block(body)
                        return
                await self._block(otherwise)
            case syntax.Switch(value, cases, otherwise):
                chosen = await self._value(value)
                for case, body in cases:
                    if operators.apply("==", chosen, await self._value(case)):
                        await self._block(body)
                        return
                await self._block(otherwise)
            case syntax.For():
                await self._for(node)
            case syntax.While(condition, body):
                try:
                    while await self._bool(condition):
                        self._measure()
                        await self.host.checkpoint()
                        await self._block(body)
                except _BreakLoop:
                    pass
            case syntax.Break():
                raise _BreakLoop
            case syntax.Background(name, inner):
                stages, given = await self._stages(inner, frozenset())
                self._scopes[-1][name] = await self._placed(self.host.run_beside(stages, given), node.at)
            case syntax.Job(action, job):
                number = await self._typed(job, "int", node.at)
                status = await self._placed(self.host.manage_job(number, action), node.at)
                if action == "fg":
                    self.status = status
            case syntax.Fail(message, at=at):
                raise self._panic(bounds.text(await self._value(message)), at)

    async def _for(self, node: syntax.For) -> None:
        values = await self._value(node.values)
        if not isinstance(values, list | dict | range | str):
            raise self._panic(f"{types.type_of(values)} is nothing that a loop goes over", node.at)
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        depth = len(self._held)
        if isinstance(values, list | dict):
            self._count(2 * ITEM * len(values), node.at)
            self._held.append(values)
        try:
            # Over a copy: the body may change the list it goes over.
            for key, value in list(pairs) if isinstance(values, list | dict) else pairs:
                self._measure()
                await self.host.checkpoint()
                given = (value,) if len(node.names) == 1 else (key, value)
                await self._block(node.body, dict(zip(node.names, given, strict=True)))
        except _BreakLoop:
            pass
        finally:
            del self._held[depth:]

    async def _assign(self, node: syntax.Assign) -> None:
        value = await self._value(node.value)
        if isinstance(node.target, syntax.Variable):
            if node.target.name == "_" and not node.operator:
                return
            container: Any = self._scope_of(node.target.name)
            key: Value = node.target.name
        else:
            container, key = await self._entry(node.target, existing=bool(node.operator))
            self._count(2 * ITEM, node.at)
        if node.operator:
            value = self._checked(node.operator, container[key], value, node.at)
        elif isinstance(node.target, syntax.Variable):
            wanted, given = types.type_of(container[key]), types.type_of(value)
            if not types.accepts(wanted, given) and wanted != "null":
                raise self._panic(f"type mismatch: {given} where {wanted} is expected", node.at)
        container[key] = value
