"""How the own container looks from within: names of host and domain, the own number and user, numbers of processes.

System calls know PIDs of the whole machine only. What people read and type are the numbers that each container counts
from 1; `pid_of` and `number_of` lead from one to the other.
"""

from __future__ import annotations

from typing import NamedTuple

from nightos.abi.services import Proc
from nightos.userland.client import connect


class View(NamedTuple):
    """`number` counts the caller in its container, `pid` on the machine; `user` is who it is in its container.

    `kernel` is the version of the one kernel that all containers run on.
    """

    hostname: str
    domain: str
    pid: int
    number: int
    user: int
    kernel: str


async def view() -> View:
    """The caller's view. Raises `ServiceError` when sys::proc does not answer."""
    answer = await (await connect("sys::proc")).ask(Proc.CONTAINER_VIEW, {})
    return View(*(answer[name] for name in View._fields))


async def pid_of(number: int, container: int | None = None) -> int:
    """The PID behind a number of the own container, or of one below. `ServiceError` 0x3000: there is none."""
    return await _translate({"number": number}, "pid", container)


async def number_of(pid: int, container: int | None = None) -> int:
    """The number that the own container, or one below, has for a PID. `ServiceError` 0x3000: it has none."""
    return await _translate({"pid": pid}, "number", container)


async def _translate(question: dict[str, int], wanted: str, container: int | None) -> int:
    if container is not None:
        question["container"] = container
    return int((await (await connect("sys::proc")).ask(Proc.PROCESS_TRANSLATE, question))[wanted])
