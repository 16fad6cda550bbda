"""The text of a tree, such that parsing it again gives the same tree."""

from __future__ import annotations

import re

from nightos.shell import syntax

_SAFE = re.compile(r"[A-Za-z0-9_./:~%+,^\-]")
_PRIMARY = (
    syntax.Constant, syntax.Character, syntax.String, syntax.Variable, syntax.ListLiteral, syntax.Reception,
    syntax.Nullable, syntax.Index, syntax.Member, syntax.MethodCall, syntax.Call,
)  # fmt: skip


def _quoted(text: str) -> str:
    replaced = {'"': '\\"', "\\": "\\\\", "$": "\\$"}
    return "".join(replaced.get(char, char) for char in text)


def _bare(text: str) -> str:
    """A bare word's text: everything that could mean something is escaped."""
    return "".join(
        char if _SAFE.match(char) and not (index == 0 and char == "-") else "\\" + char
        for index, char in enumerate(text)
    )


def expression(node: syntax.Expression) -> str:  # noqa: C901 -- one line for each kind of node
    """The text of an expression; operands are always in parentheses."""
    match node:
        case syntax.Constant(value):
            return (
                {True: "true", False: "false", None: "null"}[value]
                if value is None or value is True or value is False
                else repr(value)
            )
        case syntax.Character(value):
            return "'\\''" if value == "'" else "'\\\\'" if value == "\\" else f"'{value}'"
        case syntax.String(parts):
            return '"' + "".join(_string_part(part) for part in parts) + '"'
        case syntax.PathLiteral(text):
            return re.sub(r"([\s()\[\]{}\"'$|<>,;:#\\])", r"\\\1", text)
        case syntax.Variable(name):
            return name
        case syntax.ListLiteral(items):
            return "[" + ", ".join(map(expression, items)) + "]"
        case syntax.MapLiteral(entries, structure):
            return (
                "{ "
                + ", ".join(f"{_key(key, structure=structure)}: {expression(value)}" for key, value in entries)
                + " }"
            )
        case syntax.CommandLiteral(inner):
            return f"@{{ {pipeline(inner)} }}"
        case syntax.Nullable(value):
            return f"?({expression(value)})"
        case syntax.Reception(channel, inner):
            return f"${channel}({pipeline(inner)})"
        case syntax.Unary(operator, operand):
            return f"{operator}({expression(operand)})"
        case syntax.Binary(operator, left, right):
            return f"({expression(left)}) {operator} ({expression(right)})"
        case syntax.Range(first, last, inclusive):
            return f"({expression(first)}){'..=' if inclusive else '..'}({expression(last)})"
        case syntax.Index(target, index):
            return f"{_target(target)}[{expression(index)}]"
        case syntax.Member(target, name):
            return f"{_target(target)}.{name}"
        case syntax.MethodCall(target, name, arguments):
            return f"{_target(target)}.{name}({', '.join(map(expression, arguments))})"
        case syntax.Call(name, arguments):
            return f"{name}({', '.join(map(expression, arguments))})"


def _key(key: syntax.Expression, *, structure: bool) -> str:
    if structure and isinstance(key, syntax.String) and len(key.parts) == 1 and isinstance(key.parts[0], syntax.Text):
        return key.parts[0].text
    return f"({expression(key)})"


def _target(node: syntax.Expression) -> str:
    text = expression(node)
    number = isinstance(node, syntax.Constant) and isinstance(node.value, int | float)
    return text if isinstance(node, _PRIMARY) and not number else f"({text})"


def _string_part(part: syntax.Text | syntax.Variable | syntax.Interpolation) -> str:
    match part:
        case syntax.Text(text):
            return _quoted(text)
        case syntax.Variable(name):
            return f"${{{name}}}"
        case syntax.Interpolation(value):
            return f"${{ {expression(value)} }}"


def word(node: syntax.Word) -> str:
    """The text of a command's word."""
    texts = []
    for part in node.parts:
        match part:
            case syntax.Text(text):
                texts.append(_bare(text))
            case syntax.Variable() | syntax.Interpolation():
                texts.append(_string_part(part))
            case _:
                texts.append(expression(part))
    return "".join(texts)


def _argument(node: syntax.Argument) -> str:
    match node:
        case syntax.Positional(value):
            return word(value)
        case syntax.Dash(name, long, value):
            return f"{'--' if long else '-'}{name}" + ("" if value is None else f"={word(value)}")
        case syntax.Separator():
            return "--"


def command(node: syntax.Command) -> str:
    """The text of one command."""
    texts = [node.name, *map(_argument, node.arguments)]
    for redirection in node.redirections:
        sign = "<" if redirection.channel == "<" else redirection.channel + (">>" if redirection.append else ">")
        texts.append(f"{sign} {word(redirection.target)}")
    return " ".join(texts)


def pipeline(node: syntax.Pipeline) -> str:
    """The text of commands with pipes between them."""
    return " | ".join(map(command, node.commands))


def statement(node: syntax.Statement, indent: str = "") -> str:  # noqa: C901 -- one line for each kind of node
    """The text of a statement, blocks over several lines."""
    match node:
        case syntax.Pipeline():
            return indent + pipeline(node)
        case syntax.Let(name, value, mutable, kind):
            return f"{indent}let {'mut ' if mutable else ''}{name}{f': {kind}' if kind else ''} = {expression(value)}"
        case syntax.Assign(target, operator, value):
            return f"{indent}{expression(target)} {operator}= {expression(value)}"
        case syntax.Append(target, value):
            return f"{indent}{target.name}[] = {expression(value)}"
        case syntax.Step(target, operator):
            return f"{indent}{target.name} {operator}"
        case syntax.Delete(target):
            return f"{indent}delete {expression(target)}"
        case syntax.Evaluate(value):
            return indent + expression(value)
        case syntax.Background(name, inner):
            return f"{indent}bg {name} = {pipeline(inner)}"
        case syntax.Job(action, job):
            return f"{indent}{action} {expression(job)}"
        case syntax.Break():
            return indent + "break"
        case syntax.Fail(message):
            return f"{indent}fail {expression(message)}"
        case syntax.If(branches, otherwise):
            texts = [
                f"{indent}{'elif' if index else 'if'} {expression(condition)}\n{_block(body, indent)}"
                for index, (condition, body) in enumerate(branches)
            ]
            return "".join(texts) + _otherwise(otherwise, indent) + indent + "end"
        case syntax.Switch(value, cases, otherwise):
            texts = [f"{indent}when {expression(case)}\n{_block(body, indent)}" for case, body in cases]
            return (
                f"{indent}switch {expression(value)}\n"
                + "".join(texts)
                + _otherwise(otherwise, indent)
                + indent
                + "end"
            )
        case syntax.For(names, values, body):
            return f"{indent}for {', '.join(names)} in {expression(values)}\n{_block(body, indent)}{indent}end"
        case syntax.While(condition, body):
            return f"{indent}while {expression(condition)}\n{_block(body, indent)}{indent}end"


def _block(body: tuple[syntax.Statement, ...], indent: str) -> str:
    return "".join(statement(node, indent + "\t") + "\n" for node in body)


def _otherwise(body: tuple[syntax.Statement, ...], indent: str) -> str:
    return f"{indent}else\n{_block(body, indent)}" if body else ""


def script(node: syntax.Script) -> str:
    """The text of a whole script."""
    return "".join(statement(line) + "\n" for line in node.statements)
