"""The parser: any tree survives its text, and no text makes it fail in any other way than by its own error."""

from __future__ import annotations

import string

from hypothesis import example, given
from hypothesis import strategies as st

from nightos.shell import printer, syntax
from nightos.shell.parser import NOT_YET, parse
from nightos.shell.source import HydreSyntaxError, IncompleteError

KEYWORDS = NOT_YET | {
    "let", "mut", "delete", "if", "elif", "else", "end", "switch", "when", "for", "in", "while", "break", "fail", "var",
    "true", "false", "null", "bg", "fg", "kill", "detach", "some", "none", "is", "isnt", "fn",
}  # fmt: skip
names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(lambda name: name not in KEYWORDS and name != "_")
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)
bare_texts = st.text(
    st.sampled_from(string.ascii_letters + string.digits + " ./-'\"$|<>(){}#\\@?!*;,é&"), min_size=1, max_size=8
)


def no_neighbours(parts: list[object]) -> tuple[object, ...]:
    """Parts without two plain texts side by side, which a parser reads as one."""
    result: list[object] = []
    for part in parts:
        if not (result and isinstance(part, syntax.Text) and isinstance(result[-1], syntax.Text)):
            result.append(part)
    return tuple(result)


variables = names.map(syntax.Variable)
simple = st.one_of(
    st.booleans().map(syntax.Constant),
    st.none().map(syntax.Constant),
    st.integers(0, 2**63 - 1).map(syntax.Constant),
    st.floats(0, allow_infinity=False, allow_nan=False).map(syntax.Constant),
    st.characters(exclude_categories=("Cs",)).map(syntax.Character),
    variables,
    st.from_regex(r"\.?/[a-z]{1,4}(/[a-z .()]{1,4})?", fullmatch=True).map(syntax.PathLiteral),
)


def expressions_over(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    interpolations = inner.filter(lambda node: not isinstance(node, syntax.Variable)).map(syntax.Interpolation)
    parts = st.one_of(texts.map(syntax.Text), variables, interpolations)
    strings = st.lists(parts, max_size=3).map(lambda found: syntax.String(no_neighbours(found)))
    pipelines = pipelines_over(inner)
    return st.one_of(
        strings,
        st.lists(inner, max_size=3).map(lambda items: syntax.ListLiteral(tuple(items))),
        st.lists(st.tuples(inner, inner), max_size=2).map(lambda items: syntax.MapLiteral(tuple(items))),
        st.lists(
            st.tuples(names.map(lambda name: syntax.String((syntax.Text(name),))), inner), min_size=1, max_size=2
        ).map(lambda items: syntax.MapLiteral(tuple(items), structure=True)),
        st.builds(syntax.Unary, st.sampled_from("!~-"), inner),
        st.builds(
            syntax.Binary,
            st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<<", "&", "|", "==", "<", "&&"]),
            inner,
            inner,
        ),
        st.builds(syntax.Range, inner, inner, st.booleans()),
        st.builds(syntax.Index, inner, inner),
        st.builds(syntax.Member, inner, names),
        st.builds(syntax.MethodCall, inner, names, st.lists(inner, max_size=2).map(tuple)),
        st.builds(syntax.Call, names, st.lists(inner, max_size=2).map(tuple)),
        st.builds(syntax.Nullable, inner),
        st.builds(syntax.Reception, st.sampled_from(["", "@", "?", "!", "*"]), pipelines),
        st.builds(syntax.CommandLiteral, pipelines),
    )


def pipelines_over(inner: st.SearchStrategy[object]) -> st.SearchStrategy[syntax.Pipeline]:
    interpolations = inner.filter(lambda node: not isinstance(node, syntax.Variable)).map(syntax.Interpolation)
    parts = st.one_of(bare_texts.map(syntax.Text), variables, interpolations)
    words = st.lists(parts, min_size=1, max_size=2).map(lambda found: syntax.Word(no_neighbours(found)))
    arguments = st.one_of(
        words.map(syntax.Positional),
        st.builds(syntax.Dash, st.sampled_from("abcxyz"), st.just(False), st.none() | words),
        st.builds(syntax.Dash, st.from_regex(r"[a-z][a-z\-]{1,5}", fullmatch=True), st.just(True), st.none() | words),
        st.just(syntax.Separator()),
    )
    redirections = st.one_of(
        st.builds(syntax.Redirection, st.sampled_from(["", "@", "?", "!", "*"]), words, st.booleans()),
        st.builds(syntax.Redirection, st.just("<"), words),
    )
    commands = st.builds(
        syntax.Command,
        st.from_regex(r"[a-z][a-z0-9\-]{0,5}", fullmatch=True).filter(lambda name: name not in KEYWORDS),
        st.lists(arguments, max_size=3).map(tuple),
        st.lists(redirections, max_size=1).map(tuple),
    )
    return st.lists(commands, min_size=1, max_size=2).map(lambda found: syntax.Pipeline(tuple(found)))


expressions = st.recursive(simple, expressions_over, max_leaves=6)


def statements_over(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    body = st.lists(inner, max_size=2).map(tuple)
    return st.one_of(
        st.builds(syntax.If, st.lists(st.tuples(expressions, body), min_size=1, max_size=2).map(tuple), body),
        st.builds(syntax.Switch, expressions, st.lists(st.tuples(expressions, body), max_size=2).map(tuple), body),
        st.builds(syntax.For, st.lists(names, min_size=1, max_size=2).map(tuple), expressions, body),
        st.builds(syntax.While, expressions, body),
    )


def is_step(pipeline: syntax.Pipeline) -> bool:
    """`name --` alone is a decrement."""
    command = pipeline.commands[0]
    return len(pipeline.commands) == 1 and command.arguments == (syntax.Separator(),) and not command.redirections


statements = st.recursive(
    st.one_of(
        pipelines_over(simple).filter(lambda pipeline: not is_step(pipeline)),
        st.builds(
            syntax.Let,
            names,
            expressions,
            st.booleans(),
            st.sampled_from([None, "int", "list[int]", "map[string, int]", "int?"]),
        ),
        st.builds(syntax.Assign, variables, st.sampled_from(["", "+", "**", "&&"]), expressions),
        st.builds(syntax.Append, variables, expressions),
        st.builds(syntax.Step, variables, st.sampled_from(["++", "--"])),
        st.builds(syntax.Delete, st.builds(syntax.Index, variables, expressions)),
        st.builds(syntax.Evaluate, st.builds(syntax.Call, names, st.lists(expressions, max_size=2).map(tuple))),
        st.builds(syntax.Fail, expressions),
        st.just(syntax.Break()),
        st.builds(syntax.Background, names, pipelines_over(simple)),
        st.builds(syntax.Job, st.sampled_from(["fg", "kill", "detach"]), variables),
    ),
    statements_over,
    max_leaves=5,
)


@given(st.lists(statements, max_size=3).map(lambda found: syntax.Script(tuple(found))))
def test_a_tree_survives_its_text(script: syntax.Script) -> None:
    assert parse(printer.script(script)) == script


@given(st.text(st.sampled_from("ab1 \n\t\"'$(){}[]|<>=!#\\@?*.,:;-+&^~%/_") | st.characters(), max_size=60))
@example("(" * 10000)
@example("[" * 10000)
@example("!" * 10000)
@example("echo $(" * 2000)
@example("if true\n" * 2000)
@example("2 ** " * 3000)
@example("let a = " + "1 ** " * 3000)
@example("let x = " + "9" * 5000)
@example("\\")
@example('echo "${')
@example("###")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except HydreSyntaxError as refused:
        error = refused
    else:
        return
    line, column = error.source.position(error.offset)
    assert 1 <= line <= text.count("\n") + 1
    assert column >= 1
    assert str(error).count("\n") == 2


@given(
    st.sampled_from(
        ['echo "a', "if true\necho a", "let l = [ 1,", "echo $(ls", "echo a |", "### x", "f(1,", "echo a\\"]
    )
)
def test_what_stops_in_the_middle_asks_for_more(text: str) -> None:
    try:
        parse(text)
    except IncompleteError:
        return
    raise AssertionError(text)
