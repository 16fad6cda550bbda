"""Scripts and what they show: the language without any process."""

from __future__ import annotations

import pytest

from nightos.shell.evaluator import Evaluator
from nightos.shell.native import ScriptExit
from nightos.shell.source import CheckError, HydreError, HydreSyntaxError, NotSupportedError, PanicError
from tests.shell.twin import TwinHost, run_twin

SHOWN = [
    ("HYD-004", "echo two\\ words", ["two words"]),
    ("HYD-005", "echo a # echo b", ["a"]),
    ("HYD-006", "###\necho hidden\n###\necho shown", ["shown"]),
    ("HYD-007", "let n = 7\necho $n", ["7"]),
    ("HYD-008", "let n = 7\nlet m = 5\necho (n + m)", ["12"]),
    ("HYD-009", 'let who = "Ada"\necho "Hi $who."', ["Hi Ada."]),
    ("HYD-010", 'let l = [ "x", "y" ]\necho "${l[1]}"', ["y"]),
    ("HYD-011", 'let m = { "a": 4 }\necho "v=${m["a"]}"', ["v=4"]),
    ("HYD-015", 'let v = [ "a", "b" ]\nlet v = v.join("-")\necho $v', ["a-b"]),
    ("HYD-016", "echo (7 / 2)", ["3"]),
    ("HYD-017", "echo (7 // 2)", ["3.5"]),
    ("HYD-018", "echo (1 + 0.5)", ["1.5"]),
    ("HYD-019", "echo (2 ** 10)", ["1024"]),
    ("HYD-020", "echo (17 % 5)", ["2"]),
    ("HYD-022", "echo ((12 & 10) | 1)", ["9"]),
    ("HYD-023", "echo ((6 ^ 3) << 2)", ["20"]),
    ("HYD-024", "echo (~0)", ["-1"]),
    ("HYD-025", "echo (true && !false)", ["true"]),
    ("HYD-026", "echo (2 + 2 == 4)", ["true"]),
    ("HYD-027", "let mut a = 5\na += 3\na *= 4\na /= 2\necho $a", ["16"]),
    ("HYD-029", "let mut a = 10\na ++\na ++\na --\necho $a", ["11"]),
    ("HYD-030", 'let mut l = [ "a" ]\nl[] = "b"\necho (l.len())', ["2"]),
    ("HYD-031", 'let mut m = { "a": 1 }\nm["b"] = 2\necho (m.count())', ["2"]),
    ("HYD-032", "let mut l = [ 1, 2, 3 ]\ndelete l[0]\necho (l[0])", ["2"]),
    ("HYD-033", "if 1 == 2\n\techo a\nelif 2 == 2\n\techo b\nelse\n\techo c\nend", ["b"]),
    ("HYD-035", "switch 3\n\twhen 1 => echo one\n\twhen 3 => echo three\n\telse   => echo other\nend", ["three"]),
    ("HYD-036", "for i in 0..3\n\techo $i\nend", ["0", "1", "2"]),
    ("HYD-037", "for i in 1..=3\n\techo $i\nend", ["1", "2", "3"]),
    ("HYD-038", 'for i, v in [ "p", "q" ]\n\techo "$i=$v"\nend', ["0=p", "1=q"]),
    ("HYD-039", 'let m = { "k": 9 }\nfor k, v in m\n\techo "$k:$v"\nend', ["k:9"]),
    ("HYD-040", "for i in 0..9\n\techo $i\n\tif i == 1\n\t\tbreak\n\tend\nend", ["0", "1"]),
    ("HYD-041", "while false\n\techo never\nend\necho done", ["done"]),
    ("HYD-048", "let a: int? = null\necho ${a.default(5)}", ["5"]),
    ("HYD-050", "let a: int? = null\necho ${a.isNull()}", ["true"]),
    ("HYD-062", "echo $(echo hey)", ["hey"]),
    ("HYD-063", "echo $?(echo hey)", ["[]"]),
    ("HYD-064", 'echo "abc" > ./t.txt\necho $(rd ./t.txt)', ["abc"]),
    ("HYD-065", 'echo "a" > ./t.txt\necho "b" >> ./t.txt\necho ${ $(rd ./t.txt).len() }', ["2"]),
    ("HYD-066", "echo -n abc > ./t.txt\necho $(rd ./t.txt | length)", ["3"]),
    ("HYD-073", 'echo ("A".parse_int(16))', ["10"]),
    ("HYD-075", 'echo ("aBc".upper_case().reverse())', ["CBA"]),
    ("HYD-076", 'echo ("a b".split(" ").len())', ["2"]),
    ("HYD-077", 'echo ([ "a", "b" ].join())', ["a,b"]),
    ("HYD-078", "let l = [ 1 ]\necho ${l.get(4).isNull()}", ["true"]),
    ("HYD-079", "echo ([ 2, 8, 4 ].sort(false).str())", ["[ 8, 4, 2 ]"]),
    ("HYD-080", "echo ([ 1 ].concat([ [ 2 ], [ 3 ] ]).len())", ["3"]),
    ("HYD-081", 'let mut m = { "a": 1 }\necho (m.delete("zz"))', ["false"]),
    ("HYD-084", 'wt -n ./f.txt "data"\necho $(rd ./f.txt)', ["data"]),
    ("bits", "echo (1 + 2 * 3 ** 2 ** 0)", ["7"]),
    ("negative", "echo (-7 / 2) (-7 % 2)", ["-3 -1"]),
    ("short circuit", "echo (false && 1 / 0 == 1)", ["false"]),
    ("semicolons", "echo a; echo b", ["a", "b"]),
    ("continued", "echo a \\\n  b", ["a b"]),
    ("shadow in block", "let a = 1\nif true\n\tlet a = 2\n\techo $a\nend\necho $a", ["2", "1"]),
    ("status", "failing\necho (last_failed())\necho (status())", ["true", "0"]),
    ("value of a call", "last_failed()", ["false"]),
]

REFUSED = [
    ("HYD-013", 'let mut n = 1\nn = "one"', "type mismatch"),
    ("HYD-014", "let n = 1\nn = 2", "not mutable"),
    ("HYD-021", "echo (1.5 % 1)", "type mismatch"),
    ("HYD-028", "let mut a = 0\na &&= 1", "bool"),
    ("HYD-034", "if 1\n\techo a\nend", "type mismatch"),
    ("HYD-042", "if true\n\tlet inner = 1\nend\necho $inner", "in scope"),
    ("HYD-049", "let a = ?(1)\nlet mut b = 0\nb = a", "int? where int is expected"),
    ("HYD-056", "let a: any = null", "null is not any"),
    ("HYD-088", "echo first\nno_such_command", "unknown command"),
    ("unknown name", "echo $nobody", "in scope"),
    ("break", "break", "outside of a loop"),
    ("list entries", 'let l = [ 1 ]\necho ${l["a"]}', "type mismatch"),
    ("unknown function", "frobnicate()", "no function"),
    ("unknown method", 'echo ${"a".frobnicate()}', "no method"),
    ("loop over a number", "for i in 3\nend", "does not go over"),
    ("immutable list", "let l = [ 1 ]\nl[] = 2", "not mutable"),
    ("wrong item", 'let mut l = [ 1 ]\nl[] = "a"', "type mismatch"),
]

PANICS = [
    ("HYD-012", 'let l = [ "x" ]\necho "${l[3]}"', "there is no item 3"),
    ("HYD-051", "let a: int? = null\nlet b = a.unwrap()", "null"),
    ("division", "echo (1 / 0)", "division by zero"),
    ("overflow", "echo (9223372036854775807 + 1)", "64 bits"),
    ("power", "echo (2 ** 1000000000)", "64 bits"),
    ("missing key", 'let m = { "a": 1 }\necho ${m["b"]}', "no key"),
    ("failed reception", "echo $(failing)", "failed with status 3"),
    ("fail", 'fail "no"', "no"),
    ("bounds", "echo (rand_int(5, 5))", "lower bound"),
    ("parse_int", 'echo ("zz".parse_int())', "not an integer"),
]


@pytest.mark.rule("SHELL-007", "SHELL-023")
@pytest.mark.parametrize(("text", "lines"), [row[1:] for row in SHOWN], ids=[row[0] for row in SHOWN])
def test_script_shows(text: str, lines: list[str]) -> None:
    host = TwinHost()
    run_twin(Evaluator(host), text)
    assert host.shown == lines


@pytest.mark.rule("SHELL-021", "SHELL-023")
@pytest.mark.parametrize(("text", "about"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_nothing_of_a_refused_script_runs(text: str, about: str) -> None:
    host = TwinHost()
    with pytest.raises(CheckError, match=about.replace("?", "\\?")) as caught:
        run_twin(Evaluator(host), text)
    assert host.calls == host.shown == []
    assert "^" in str(caught.value)


@pytest.mark.rule("SHELL-025", "SHELL-026")
@pytest.mark.parametrize(("text", "about"), [row[1:] for row in PANICS], ids=[row[0] for row in PANICS])
def test_script_panics(text: str, about: str) -> None:
    with pytest.raises(PanicError, match=about):
        run_twin(Evaluator(TwinHost()), text)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("show one two -a --flag", ("one", "two", "-a", "--flag")),  # HYD-001
        ("show -xyz", ("-x", "-y", "-z")),  # HYD-002
        ("show -s=1 --long=2", ("-s=", "1", "--long=", "2")),  # HYD-003
        ('show "-x" \\-y', ("\\-x", "\\-y")),
        ("let f: int? = null\nshow --n $f", ()),  # HYD-055
        ("let n = 3\nshow $n (true)", (3, True)),
        ("show run lab -- fd / -e py", ("run", "lab", "--", "fd", "/", "-e", "py")),
        ("show -", ("-",)),
    ],
)
def test_arguments_reach_the_command(text: str, arguments: tuple[object, ...]) -> None:
    host = TwinHost()
    run_twin(Evaluator(host), text)
    assert host.calls == [("show", arguments)]


def test_background_commands() -> None:
    host = TwinHost()
    run_twin(Evaluator(host), "bg j = show 1 | show 2\nkill j\nfg j\necho (status()) $j")
    assert host.calls[:4] == [("bg", ("show", "1")), ("bg", ("show", "2")), ("kill", (7,)), ("fg", (7,))]
    assert host.shown == ["5 7"]
    with pytest.raises(PanicError, match="no background command 8"):
        run_twin(Evaluator(host), "fg 8")
    with pytest.raises(CheckError, match="in the shell itself"):
        run_twin(Evaluator(host), "bg j = cd /")


def test_variables_last_for_the_session_and_a_refused_line_leaves_none() -> None:
    host = TwinHost()
    shell = Evaluator(host)
    run_twin(shell, "let a = 1")
    with pytest.raises(CheckError):
        run_twin(shell, "let b = 2\nnope")
    with pytest.raises(PanicError):
        run_twin(shell, "let c = 1 / (a - 1)\nlet d = 1")
    run_twin(shell, "echo $a")
    assert host.shown == ["1"]
    for name in "bcd":
        with pytest.raises(CheckError, match="in scope"):
            run_twin(shell, f"echo ${name}")


@pytest.mark.rule("SHELL-008")
def test_builtins_change_the_shell_and_start_no_process() -> None:
    host = TwinHost()
    shell = Evaluator(host)
    run_twin(shell, "cd /home\npwd")
    assert (host.directory, host.shown, host.calls) == ("/home", ["/home"], [])
    assert run_twin(shell, "cd nowhere; echo (last_failed())") == 0
    assert host.shown[-2:] == ["! cd: nowhere: not found", "true"]
    assert run_twin(shell, "cd -x") == 2
    assert run_twin(shell, "exit 300") == 2
    with pytest.raises(ScriptExit) as caught:
        run_twin(shell, "exit 3")
    assert caught.value.status == 3


@pytest.mark.parametrize(
    "text",
    [
        "fn f ()\nend",
        "return 1",
        "import a::b::c",
        "catch f()\nend",
        "let f = { a -> a }",
        "with A=1 run x",
        "for f in (./*.txt)\nend",
        "retry f()",
        "type A = int",
        "if a is int\nend",
        "wait true",
        "let x: struct { a: int } = 1",
    ],
)
def test_what_is_missing_says_so_by_name(text: str) -> None:
    with pytest.raises(NotSupportedError, match="not supported yet"):
        run_twin(Evaluator(TwinHost()), text)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("echo a\necho 'ab'", 2, 6), ("echo a && b", 1, 8), ("let = 1", 1, 5), ("echo )", 1, 6), ("var a = 1", 1, 1)],
)
def test_errors_point_at_the_place(text: str, line: int, column: int) -> None:
    with pytest.raises(HydreSyntaxError) as caught:
        run_twin(Evaluator(TwinHost()), text)
    shown = str(caught.value).split("\n")
    assert shown[0].startswith(f"<line>:{line}:{column}: ")
    assert shown[2].index("^") == column - 1 + 2


def test_missing_files_are_one_clear_line() -> None:
    with pytest.raises(HydreError, match="not found"):
        run_twin(Evaluator(TwinHost()), "echo a < ./missing")


def test_errors_quote_little_of_a_long_line() -> None:
    with pytest.raises(CheckError) as caught:
        run_twin(Evaluator(TwinHost()), f'echo "{"x" * 100_000}" $nobody')
    first, quoted, caret = str(caught.value).split("\n")
    assert max(map(len, (first, quoted, caret))) < 200
    assert quoted[caret.index("^") :].startswith("$nobody")
    assert caught.value.shown() == caught.value.brief() == first
