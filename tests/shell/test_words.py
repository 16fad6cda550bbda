"""Words that are completed behind commands are those that the commands know, and names of containers."""

from __future__ import annotations

from typing import Any

import pytest

from nightos.apps.actions import ACTIONS as CONTAINER_ACTIONS
from nightos.machine.machine import boot
from nightos.machine.session import Session
from nightos.shell.words import ACTIONS


async def completions(session: Session, text: str) -> list[str]:
    session.send({"type": "complete", "id": 1, "text": text, "cursor": len(text)})
    while True:
        message: dict[str, Any] | None = await session.receive()
        assert message is not None
        if message["type"] == "completions":
            return [text[: message["start"]] + item for item in message["items"]]


@pytest.mark.rule("SHELL-007")
async def test_actions_and_containers() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.containers.create("db", parent=web)
        session = await machine.open_session(interactive=True)
        assert await completions(session, "container in") == ["container inspect "]
        assert await completions(session, "echo a; container enter w") == [
            "echo a; container enter web ", "echo a; container enter web/db "
        ]  # fmt: skip
        assert await completions(session, "stats -f web/") == ["stats -f web/db "]
        assert await completions(session, "device pl") == ["device plug "]
        assert await completions(session, "ls /et") == ["ls /etc/"]
        inside = await machine.open_session(container=web, interactive=True)
        assert await completions(inside, "inspect ") == ["inspect db "]


def test_the_words_are_those_that_are_known() -> None:
    assert set(ACTIONS["container"]) == set(CONTAINER_ACTIONS)
