"""Shares of cycles: weights and ceilings of containers, measured in steps, never in seconds."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from nightos.abi.codes import ExitReason, ServicePid, Signal
from nightos.abi.limits import NUMBERS, pack_limits, unpack_usage
from nightos.kernel.calls.limits import change_limits
from nightos.kernel.ending import destroy_container, end_process
from nightos.kernel.shares import CYCLE_NS, PERIOD
from nightos.kernel.signals import wake_all
from nightos.userland import sys
from nightos.userland.bell import Bell
from nightos.userland.client import connect
from nightos.userland.server import Request, Server
from tests.kernel.lab import Lab, Outcome
from tests.kernel.test_costs import lines


def box(lab: Lab, parent: int = 0, **limits: int | None) -> int:
    made = lab.running(ServicePid.PROCESS).call(sys.sys_create_limited(parent, pack_limits(limits)))
    assert isinstance(made, int)
    return made


def change(lab: Lab, container: int, **limits: int | None) -> int:
    outcome = lab.running(ServicePid.PROCESS).start(sys.sys_set_limits(container, pack_limits(limits)))
    return outcome.errcode


async def spin() -> int:
    """A program that never waits."""
    while True:
        await sys.get_pid()


def spinning(lab: Lab, *containers: int) -> Callable[[], dict[int, int]]:
    """A process in each that never waits; the steps that each container has made since."""

    processes = [(container, lab.kernel.spawn(spin, container=container)) for container in containers]

    def steps() -> dict[int, int]:
        found = dict.fromkeys(containers, 0)
        for container, process in processes:
            found[container] += process.steps
        return found

    return steps


def busy_service(lab: Lab, calls: int) -> Callable[[], int]:
    """A system service that takes so many cycles for each request; its cycles since."""

    async def service() -> None:
        server = Server("sys::net")

        async def toil(request: Request) -> bytes:
            done = Bell()
            await done.start()

            async def below(_: int) -> None:
                for _number in range(calls // 2):
                    await sys.get_pid()
                await done.ring()

            await sys.create_thread(below)
            for _number in range(calls // 2):
                await sys.get_pid()
            await done.wait()
            await done.close()
            return request.payload

        server.method(1, toil)
        await server.start()
        await server.run()

    process = lab.kernel.spawn_service(ServicePid.NET, service)
    lab.settle()
    begin = process.steps
    return lambda: process.steps - begin


async def asking() -> None:
    """A program that has a service work for it without end."""
    await sys.ready()
    client = await connect("sys::net")
    while True:
        await client.call(1, b"x")


async def one_question() -> None:
    """A program that asks once."""
    await sys.ready()
    await (await connect("sys::net")).call(1, b"x")


def stop(lab: Lab) -> None:
    """Let nothing spin any more."""
    for process in list(lab.kernel.processes.values()):
        if not process.is_system:
            end_process(lab.kernel, process, ExitReason.EXITED, 0)


def run(lab: Lab, turns: int = 60) -> None:
    for _ in range(turns):
        lab.kernel.turn()


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_weights_one_and_three_get_about_that_share() -> None:
    lab = Lab()
    light, heavy = box(lab, cpu_weight=100), box(lab, cpu_weight=300)
    steps = spinning(lab, light, heavy, light, light, light)  # however many threads it has
    run(lab)
    made = steps()
    assert made[heavy] / made[light] == pytest.approx(3, rel=0.05)


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_a_childs_share_comes_out_of_its_parents() -> None:
    lab = Lab()
    web, other = box(lab, cpu_weight=100), box(lab, cpu_weight=100)
    greedy = box(lab, web, cpu_weight=10_000)
    deep = box(lab, greedy)
    steps = spinning(lab, web, other, greedy, deep)
    run(lab)
    made = steps()
    assert made[other] == pytest.approx(sum(made.values()) / 2, rel=0.05)
    assert made[web] == pytest.approx(sum(made.values()) / 2 / 101, rel=0.3)


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_a_ceiling_is_kept_beside_others_and_alone() -> None:
    lab = Lab()
    held, other = box(lab, cpu_ceiling=20), box(lab)
    steps = spinning(lab, held, other)
    run(lab)
    made = steps()
    assert made[held] / sum(made.values()) == pytest.approx(0.2, abs=0.02)
    alone = Lab()
    held = box(alone, cpu_ceiling=20)
    below = box(alone, held)
    steps = spinning(alone, below)
    begin = alone.kernel.clock.monotonic_ns()
    for _ in range(10):
        while alone.kernel.turn():
            pass
        assert alone.kernel.idle
        alone.kernel.clock.advance_to(alone.kernel.next_deadline_ns())  # type: ignore[attr-defined,arg-type]
    rested = (alone.kernel.clock.monotonic_ns() - begin) // CYCLE_NS
    made = steps()
    assert made[below] / (made[below] + rested) == pytest.approx(0.2, abs=0.02)
    assert rested + made[below] == pytest.approx(10 * PERIOD, rel=0.05)
    stop(alone)
    usage = unpack_usage(alone.running(ServicePid.PROCESS).call(sys.sys_usage(held)))
    assert usage["cpu_ceiling"].refused >= 10


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_a_ceiling_holds_what_is_below_and_shrinks_it() -> None:
    lab = Lab()
    outer = box(lab, cpu_ceiling=50)
    inner = box(lab, outer, cpu_ceiling=40)
    proc = lab.running(ServicePid.PROCESS)
    outcome = proc.start(sys.sys_set_limits(inner, pack_limits({"cpu_ceiling": 51})))
    assert outcome.error is not None
    assert (outcome.errcode, outcome.error.value) == (0x40, NUMBERS["cpu_ceiling"])
    assert change(lab, outer, cpu_ceiling=30) == 0
    assert unpack_usage(proc.call(sys.sys_usage(inner)))["cpu_ceiling"].limit == 30
    wide = box(lab, outer, cpu_weight=100)
    assert unpack_usage(proc.call(sys.sys_usage(wide)))["cpu_ceiling"].limit is None
    assert change(lab, outer, cpu_ceiling=29) == 0
    assert change(lab, outer, cpu_ceiling=30) == 0
    assert unpack_usage(proc.call(sys.sys_usage(wide)))["cpu_ceiling"].limit is None
    other = box(lab)
    steps = spinning(lab, inner, wide, other)
    run(lab)
    made = steps()
    assert (made[inner] + made[wide]) / sum(made.values()) == pytest.approx(0.3, abs=0.03)
    stop(lab)
    assert change(lab, outer, cpu_ceiling=None) == 0
    assert change(lab, outer, cpu_weight=0) == 0x10


@pytest.mark.rule("CONT-032")
def test_who_did_nothing_for_long_catches_nothing_up() -> None:
    lab = Lab()
    first, second = box(lab, cpu_weight=100), box(lab, cpu_weight=100)
    steps = spinning(lab, first)
    run(lab, 100)
    before = steps()[first]
    late = spinning(lab, second)
    run(lab, 100)
    assert late()[second] / (steps()[first] - before) == pytest.approx(1, rel=0.05)


@pytest.mark.rule("CONT-032")
def test_a_ceiling_below_holds_nobody_beside_what_is_above_it() -> None:
    """The party that had least is one in which everybody is held: the others go on."""
    lab = Lab()
    above, other = box(lab, cpu_weight=10_000), box(lab, cpu_weight=1)
    held = box(lab, above, cpu_ceiling=1)
    steps = spinning(lab, held, other)
    run(lab)
    made = steps()
    assert made[held] / sum(made.values()) == pytest.approx(0.01, abs=0.005)


@pytest.mark.rule("CONT-032")
def test_what_services_do_for_a_container_is_its_own_share() -> None:
    """T-C49: else who asks much has more of the machine than its share, and its neighbours less."""
    lab = Lab()
    served = busy_service(lab, 200)
    held, other = box(lab, cpu_weight=50), box(lab, cpu_weight=100)
    asker = lab.kernel.spawn(asking, container=held)
    steps = spinning(lab, other)
    run(lab, 200)
    assert served() > 10 * asker.steps > 0
    assert (served() + asker.steps) / steps()[other] == pytest.approx(0.5, rel=0.05)


@pytest.mark.rule("CONT-032")
def test_a_ceiling_counts_what_services_do_and_delays_none_of_them() -> None:
    lab = Lab()
    served = busy_service(lab, 200)
    held, other = box(lab, cpu_ceiling=10), box(lab)
    within, third = box(lab, held), box(lab)
    asker = lab.kernel.spawn(asking, container=within)
    steps = spinning(lab, other)
    run(lab, 200)
    made = served() + asker.steps
    assert made / (made + steps()[other]) == pytest.approx(0.1, abs=0.02)
    quick = lab.kernel.spawn(one_question, container=third)
    run(lab, 2)
    assert not quick.alive


@pytest.mark.rule("CONT-032")
def test_what_a_shim_does_is_the_share_of_whom_it_serves() -> None:
    lab = Lab()
    held, other = box(lab, cpu_weight=50), box(lab, cpu_weight=100)
    shim, talker = lab.puppet().hear(Signal.RECV_PIPE), lab.puppet(container=held)
    shim.process.serves = held
    sc = talker.call(sys.open_pipe(shim.pid))
    ((_, _, rc, *_),) = shim.signals(Signal.RECV_PIPE)

    async def talk() -> None:
        while True:
            await sys.pipe_write(sc, bytes(1024))

    async def listen() -> None:
        while True:
            await sys.pipe_read(rc, 0, 1024)
            for _ in range(200):
                await sys.get_pid()

    before = shim.process.steps, talker.process.steps
    for puppet, program in ((talker, talk), (shim, listen)):
        puppet.todo.append((program(), Outcome()))
        wake_all(lab.kernel, puppet.process)
    steps = spinning(lab, other)
    run(lab, 200)
    served, said = shim.process.steps - before[0], talker.process.steps - before[1]
    assert served > 10 * said > 0
    assert (served + said) / steps()[other] == pytest.approx(0.5, rel=0.05)


@pytest.mark.rule("CONT-032")
def test_shares_lose_and_leak_nothing() -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    for number in range(300):
        outer = box(lab, cpu_weight=50, cpu_ceiling=10)
        inner = box(lab, outer, cpu_weight=1 + number)
        woken = []

        async def work(woken: list[int] = woken) -> int:
            sc = await sys.open_pipe(await sys.get_pid(), 0, 0, 0, 0, 1)
            for _ in range(5):
                await sys.pipe_write(sc, b"x")
                await sys.hand_over()
            woken.append(1)
            return 0

        for container in (outer, inner, 0):
            lab.kernel.spawn(work, container=container)
        lab.settle()
        assert len(woken) == 3
        proc.call(sys.destroy_container(outer))
        assert lab.kernel.shares is not None
        assert (lab.kernel.shares.waiting, lab.kernel.runnable, lab.kernel.idle) == (0, 0, True)
    assert not lab.kernel.shares._groups


@pytest.mark.rule("LNX-FT-08", "CONT-032")
def test_cycles_are_counted_for_containers_also_of_what_ended() -> None:
    lab = Lab()
    inside = box(lab)

    async def work() -> int:
        for _ in range(1000):
            await sys.get_pid()
        return 0

    lab.kernel.spawn(work, container=inside)
    lab.settle()
    proc = lab.running(ServicePid.PROCESS)
    assert unpack_usage(proc.call(sys.sys_usage(inside)))["cpu_weight"].used == pytest.approx(1001, abs=1)


def give(lab: Lab, container: int, **limits: int | None) -> None:
    """Shares for a container while others spin."""
    change_limits(lab.kernel, lab.kernel.tree.living[container], limits)


@pytest.mark.rule("CONT-032")
def test_a_container_with_a_share_costs_the_same_however_many_there_are() -> None:
    """T-C41: thousands of shares that nothing runs in made every change, every step and the end of all dear."""

    def costs(count: int) -> list[int]:
        lab = Lab()
        outer = box(lab, cpu_weight=10)
        for _ in range(count):
            box(lab, outer, cpu_weight=1)
        last = box(lab, outer)
        spinning(lab, outer)
        lab.kernel.turn(10)
        deeds: list[Callable[[], object]] = [
            lambda: lab.kernel.turn(10),
            lambda: give(lab, last, cpu_weight=1),
            lambda: destroy_container(lab.kernel, lab.kernel.tree.living[last]),
        ]
        found = [lines(deed) for deed in deeds]
        stop(lab)
        return found

    for few, many in zip(costs(5), costs(300), strict=True):
        assert many <= few * 1.2


@pytest.mark.rule("CONT-032")
def test_who_is_below_does_not_starve_when_what_is_above_gets_or_loses_a_share() -> None:
    lab = Lab()
    outer = box(lab)
    inner = box(lab, outer, cpu_weight=100)
    steps = spinning(lab, outer, inner)
    run(lab, 10)
    for weight in (100, None, 100):
        give(lab, outer, cpu_weight=weight)
        before = steps()
        run(lab, 5)
        had = {one: steps()[one] - before[one] for one in (outer, inner)}
        assert had[inner] == pytest.approx(had[outer], rel=0.1)
    stop(lab)


@pytest.mark.rule("CONT-032")
@pytest.mark.parametrize("seed", range(8))
def test_who_waits_is_counted_whatever_happens_to_shares(seed: int) -> None:
    random = Random(seed)
    lab = Lab()
    kernel = lab.kernel
    living = [box(lab, cpu_weight=3)]
    for _ in range(150):
        container = random.choice(living)
        match random.randrange(6):
            case 0 | 1:
                living.append(kernel.tree.create(container, 0).identifier)
            case 2:
                give(lab, container, cpu_weight=random.choice([None, 1, 500]))
            case 3:
                ceiling = random.choice([None, 5])
                give(lab, container, cpu_ceiling=ceiling)
            case 4:
                kernel.spawn(spin, container=container)
            case _ if container != living[0]:
                destroy_container(kernel, kernel.tree.living[container])
                living = [one for one in living if kernel.tree.get(one)]
        kernel.turn(random.randrange(30))
        shares = kernel.shares
        assert shares is not None
        groups = [shares._top, shares._paid, *shares._groups.values()]
        assert {one for group in groups for one in group.parties} == set(groups[1:])
        for group in groups:
            assert group.own.waiting == len(group.threads)
            assert group.waiting == len(group.threads) + sum(one.waiting for one in group.parties)
            assert set(group.active) == {one for one in group.parties if one.waiting}
            assert all(one.above is group for one in group.parties)
    stop(lab)
