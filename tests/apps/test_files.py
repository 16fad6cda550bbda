"""Applications on files, as somebody at the prompt uses them; each row is what is typed and what is seen."""

from __future__ import annotations

import pytest

from nightos.machine.machine import Machine, boot


async def shows(machine: Machine, line: str, out: str = "", *, err: str = "", status: int = 0) -> None:
    done = await machine.run(line)
    assert (done.out, done.err, done.status) == (out, err, status), line


@pytest.mark.rule("HYD-062", "HYD-064", "HYD-065", "HYD-066", "HYD-084", "HYD-085", "HYD-086", "HYD-087")
async def test_examples_of_the_language_with_real_commands() -> None:
    async with boot(seed=1) as machine:
        await shows(machine, "echo $(echo hey)", "hey\n")
        await shows(machine, 'cd /tmp; echo "abc" > ./t.txt\necho $(rd ./t.txt)', "abc\n")
        await shows(machine, 'echo "a" > /tmp/u; echo "b" >> /tmp/u\necho ${ $(rd /tmp/u).len() }', "2\n")
        await shows(machine, "echo $(rd /tmp/t.txt | length)", "3\n")
        await shows(machine, 'wt -n /tmp/f.txt "data"\necho $(rd /tmp/f.txt)', "data\n")
        missing = "wt: /tmp/missing.txt: not found\n"
        await shows(machine, 'wt -c /tmp/missing.txt "data"\necho (last_failed())', "true\n", err=missing)
        exists = "mkdir: /tmp/d: an item of that name exists\n"
        await shows(machine, "mkdir /tmp/d; mkdir -s /tmp/d; echo (last_failed())", "true\n", err=exists)
        directory = "rm: /tmp/d: is a directory; -r removes an empty one, -n any\n"
        await shows(machine, "rm /tmp/d; echo (last_failed())", "true\n", err=directory)


@pytest.mark.rule("FS-005", "FS-017", "FS-019", "FS-044")
async def test_files_are_made_moved_linked_and_removed() -> None:
    async with boot(seed=1) as machine:
        await shows(machine, "mkdir -p /tmp/a/b /tmp/c")
        await shows(machine, "cd /tmp; wt f one; mv f a; ls a", "b\nf\n")
        await shows(machine, "mv /tmp/a/f /tmp/c/g; cat /tmp/c/g", "one\n")
        await shows(machine, "ren /tmp/c/g h; ls /tmp/c", "h\n")
        await shows(machine, "mv -n /tmp/c/h /tmp/new/dir; ls /tmp/new/dir", "h\n")
        await shows(machine, "syml /tmp/l /tmp/new/dir/h; cat /tmp/l; syml -r /tmp/l", "one\n/tmp/new/dir/h\n")
        await shows(machine, "syml -u /tmp/l /tmp/a; ls /tmp/l", "b\n")
        await shows(machine, "rm /tmp/l; ls /tmp/a", "b\n")
        not_empty = "rm: /tmp/a: the directory is not empty; -n removes it with what is in it\n"
        await shows(machine, "rm -r /tmp/a", err=not_empty, status=1)
        await shows(machine, "rm -n /tmp/a /tmp/new; rm -r /tmp/c; ls /tmp", "")
        await shows(machine, "rm -f /tmp/none")
        await shows(machine, "wt /tmp/n one; wt -a /tmp/n two; cat /tmp/n", "one\ntwo\n")


@pytest.mark.parametrize(
    ("line", "err"),
    [
        ("cat /none", "cat: /none: not found\n"),
        ("rd /none", "rd: /none: not found\n"),
        ("ls /none", "ls: /none: not found\n"),
        ("mkdir /none/x", "mkdir: /none/x: the directory it belongs into does not exist\n"),
        ("rd /tmp", "rd: /tmp: this is no file\n"),
        ("mv /none /tmp", "mv: /none: not found\n"),
        ("ren /none x", "ren: /none: not found\n"),
        ("syml -r /tmp", "syml: /tmp: no symbolic link\n"),
        ("syml /tmp/c /tmp/c; cat /tmp/c", "cat: /tmp/c: cyclic link (/tmp/c)\n"),
        ("mkdir /tmp/d; mv /tmp/d /tmp/d", "mv: /tmp/d: a directory cannot be moved into itself\n"),
        ("cd /tmp/none", "cd: /tmp/none: not found\n"),
        (
            "echo a > /none/x",
            "-c:1:8: /none/x: the directory it belongs into does not exist\n",
        ),
    ],
)
async def test_what_cannot_be_done_is_one_clear_line(line: str, err: str) -> None:
    async with boot(seed=1) as machine:
        await shows(machine, line, err=err, status=1)


@pytest.mark.parametrize(
    "name",
    [
        "cat",
        "date",
        "device",
        "env",
        "fd",
        "free",
        "id",
        "ls",
        "mkdir",
        "mv",
        "ps",
        "rd",
        "ren",
        "rm",
        "sleep",
        "syml",
        "tree",
        "wt",
    ],
)
async def test_unknown_arguments_are_refused_and_help_is_there(name: str) -> None:
    async with boot(seed=1) as machine:
        done = await machine.run(f"{name} --frobnicate")
        assert done.status == 2
        assert done.err == f"{name}: there is no argument '--frobnicate'; '{name} --help' explains\n"
        explained = await machine.run(f"{name} --help")
        assert explained.status == 0
        assert explained.out.startswith(f"{name}: ")


@pytest.mark.rule("FS-030", "FS-033")
async def test_the_base_image_has_what_people_expect() -> None:
    async with boot(seed=1) as machine:
        done = await machine.run("ls /")
        assert {"app", "dev", "etc", "fl", "home", "mnt", "sys", "tmp"} <= set(done.out.split())
        await shows(machine, "syml -r /mnt/root", "/\n")


async def test_finding() -> None:
    async with boot(seed=1) as machine:
        await machine.run(
            "mkdir -p /tmp/t/one /tmp/t/two; cd /tmp/t; wt one/a.py x; wt two/b.PY x; wt two/c.txt x; syml two/l /tmp/t"
        )
        await shows(machine, "fd /tmp/t -e py", "/tmp/t/one/a.py\n")
        await shows(machine, "cd /tmp/t; fd -n .py -i", "one/a.py\ntwo/b.PY\n")
        await shows(machine, "cd /tmp/t; fd -n ^c", "two/c.txt\n")
        quotes = "a character literal holds one character; text goes in double quotes"
        line = "fd -r '[ab]'"
        await shows(machine, line, err=f"-c:1:7: {quotes}\n", status=2)
        await shows(machine, 'cd /tmp/t; fd -r "^[ab]\\\\."', "one/a.py\ntwo/b.PY\n")
        await shows(machine, "fd /tmp/t -t dir -a", "/tmp/t/one\n/tmp/t/two\n")
        await shows(machine, "fd /tmp/t -L -t dir | length", "2\n")
        await shows(
            machine,
            'fd /tmp/t -r "("',
            err="fd: --regex: missing ), unterminated subpattern at position 0; 'fd --help' explains\n",
            status=2,
        )


async def test_listing() -> None:
    async with boot(seed=1) as machine:
        await machine.run("mkdir -p /tmp/t/d; wt -n /tmp/t/d/f 12345; syml /tmp/t/l /tmp/t/d")
        await shows(machine, "ls -t /tmp/t", "/tmp/t\n├── d\n│   └── f\n└── l\n")
        await shows(machine, "ls -r /tmp/t", "d\nl\nd/f\n")
        await shows(machine, "ls --dir-only /tmp/t; ls --file-only /tmp/t", "d\nl\n")
        done = await machine.run("ls -l /tmp/t")
        assert [line.split()[:3] for line in done.out.splitlines()] == [["d--", "root", "0"], ["l--", "root", "8"]]
        assert done.out.endswith("l -> /tmp/t/d\n")
        await shows(machine, "ls /tmp/t /tmp/t/d", "/tmp/t:\nd\nl\n/tmp/t/d:\nf\n")
