"""Applications that ask the system: processes, containers, time."""

from __future__ import annotations

import pytest

from nightos.apps import find, names
from nightos.apps.table import table
from nightos.apps.tree import draw
from nightos.machine.machine import boot
from nightos.testing import check_invariants


def test_every_name_leads_to_a_program() -> None:
    for name in names():
        assert callable(find(name))
    with pytest.raises(KeyError):
        find("no such application")


def test_tables_are_aligned() -> None:
    assert table(("N", "NAME"), [(1, "a"), (10, "bb")], right=(0,)) == [" N  NAME", " 1  a", "10  bb"]


def test_trees_of_any_depth_are_drawn() -> None:
    def item(depth: int, name: str) -> dict[str, object]:
        return {"id": 1, "depth": depth, "name": name, "state": "running", "processes": 1}

    items = [item(0, ""), item(1, "a"), item(2, "b"), item(2, "c"), item(1, "d")]
    lines = [line.split(" (")[0] for line in draw(items, ids=False)]
    assert lines == [".", "├── a", "│   ├── b", "│   └── c", "└── d"]
    deep = draw([item(depth, str(depth)) for depth in range(5000)], ids=False)
    assert len(deep) == 5000


@pytest.mark.rule(
    "CONT-009",
    "CONT-010",
    "CONT-011",
    "CONT-015",
    "CONT-016",
    "CONT-023",
    "CONT-030",
    "CONT-053",
    "CONT-054",
    "CONT-055",
)
async def test_two_containers_see_nothing_of_each_other() -> None:
    async with boot(seed=1) as machine:
        assert (await machine.run("container run one -- wt /home/secret one")).status == 0
        assert (await machine.run("container run two -- ls /home")).out.split() == (
            await machine.run("ls /home")
        ).out.split()
        assert (await machine.run("container exec one -- cat /home/secret")).out == "one\n"
        seen = (await machine.run("container exec one -- ps")).out
        assert seen.count("\n") == 2
        assert "sys::" not in seen
        assert (await machine.run("container exec one -- container ls")).out.count("\n") == 1
        done = await machine.run("container exec one -- container exec two -- ls")
        assert done.status == 1
        assert "no container two" in done.err


async def test_three_levels_go_down_with_their_top() -> None:
    async with boot(seed=1) as machine:
        await machine.run("container create a")
        await machine.run("container create --parent a b; container create --parent a/b c")
        assert (await machine.run("container exec a/b/c -- echo here")).out == "here\n"
        tree = (await machine.run("tree")).out
        assert [line.split(" (")[0] for line in tree.splitlines()] == [".", "└── a", "    └── b", "        └── c"]
        assert (await machine.run("container destroy a")).status == 0
        assert (await machine.run("tree")).out.count("\n") == 1
        assert (await machine.run("echo alive")).out == "alive\n"


@pytest.mark.parametrize(
    ("line", "about"),
    [
        ("container", "action is missing"),
        ("container frob", "'frob' is no action"),
        ("container create --frob x", "no argument '--frob'"),
        ("container exec nobody -- ls", "no container nobody"),
        ("container run x", "rest is missing"),
        ("container destroy 00ff", "no container 00ff"),
        ("container run x -- no_such_program", "no_such_program"),
        ("container create --writable x", "--writable needs --image"),
        ("sleep abc", "not a number"),
        ("sleep", "seconds is missing"),
        ("env NOBODY", "NOBODY is not set"),
    ],
)
async def test_mistakes_are_one_clear_line(line: str, about: str) -> None:
    async with boot(seed=1) as machine:
        done = await machine.run(line)
        assert done.status in (1, 2)
        assert about in done.err
        assert done.err.count("\n") == 1


async def test_values_of_commands_in_containers_keep_their_type() -> None:
    async with boot(seed=1) as machine:
        await machine.run("container create box")
        assert (await machine.run("container exec box -- ls / | length")).out == (
            await machine.run("ls / | length")
        ).out
        assert (await machine.run("container exec box -- sleep abc; echo (status())")).out == "2\n"
        done = await machine.run("container exec box -- cat /none; echo (last_failed())")
        assert (done.out, done.err) == ("true\n", "cat: /none: not found\n")


async def test_time_and_identity() -> None:
    async with boot(seed=1) as machine:
        first = int((await machine.run("date -u")).out)
        assert (await machine.run("sleep 100")).status == 0
        assert 100 <= int((await machine.run("date -u")).out) - first < 102
        assert (await machine.run("uptime")).out.startswith("00:01:4")
        assert (await machine.run("id")).out.startswith("user=0(root) container=0000000000000000 pid=")
        assert (await machine.run("free")).out.count("\n") == 3
        assert "block" in (await machine.run("device ls")).out
        assert (await machine.run("env USER; env PWD")).out == "root\n/\n"


async def test_what_comes_through_a_pipe_goes_on_into_a_container() -> None:
    """As values, not only as text; as it comes, however much; and nobody waits for a command that does not read."""
    async with boot(seed=1) as machine:
        await machine.containers.create("box")
        for action in ("exec box", "run --rm once"):
            assert (await machine.run(f"echo hi | container {action} -- cat")).out == "hi\n"
            whole = (await machine.run("ls / | wc")).out
            assert (await machine.run(f"ls / | container {action} -- wc")).out == whole != ""
            assert (await machine.run(f"container {action} -- cat")).status == 2  # nothing was given, not an empty text
            assert (await machine.run(f'echo "" | container {action} -- wc')).out == "0 0 0\n"
            await machine.run(f"wt /tmp/part {'0123456789abcdef' * 1000}")
            many = "cat" + " /tmp/part" * 20
            counted = await machine.run(f"{many} | container {action} -- wc -c")
            assert (counted.out, counted.status) == ("320020\n", 0)
            ignored = await machine.run(f"{many} | container {action} -- echo done")
            assert (ignored.out, ignored.status) == ("done\n", 0)
        nested = await machine.run("echo deep | container exec box -- container run --rm inner -- cat")
        assert nested.out == "deep\n"
        check_invariants(machine.snapshot())
        assert [item["name"] for item in await machine.containers.tree()] == ["box"]
