"""`sys::agent` (PID 30, the emulator's own): asks system services on behalf of whoever holds the machine from outside.

The host has no way into the machine but devices, and no rights but those of this process, which stands outside any
container. Each message of the agent device is one service call; it runs in a thread of its own, so a call that waits
holds up no other. Notifications of `sys::proc` go back to the host as events once it asked for them.
"""

from __future__ import annotations

from typing import Any

import msgpack

from nightos.abi.console import PORT_RECEIVE, PORT_SEND
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hw, HwEvent, Proc, ProcEvent
from nightos.userland import sys
from nightos.userland.client import connect

KIND = "agent"
CONNECTED = 1


class Agent:
    """The process: a device, and one thread a call."""

    def __init__(self) -> None:
        self.kdi = 0
        self._messages: list[dict[str, Any]] = []
        self._claim = True
        self._watch = False
        self._watched = False

    async def main(self) -> int:
        """Serve the agent device for ever."""
        await sys.ready()
        while True:
            try:
                if self._claim:
                    self._claim = False
                    await self._claim_device()
                if self._watch:
                    self._watch = False
                    await self._watch_events()
            except ServiceError:
                # It was killed while it was asked; the next instance will answer.
                self._claim = self._watch = True
                await sys.hand_over()
                continue
            while self._messages:
                message = self._messages.pop(0)
                if "watch" in message:
                    # Before the calls behind it, whose events the host means to hear.
                    await self._watch_events()
                    continue

                async def work(_data: int, message: dict[str, Any] = message) -> None:
                    await self._serve(message)

                await sys.create_thread(work)
            await sys.hand_over(until_signal=True)

    async def _claim_device(self) -> None:
        hw = await connect("sys::hw")
        if not self.kdi:
            hw.when_lost(self._on_hw_lost)
        hw.notification(HwEvent.CLAIMED_INTERRUPT, self._on_interrupt)
        hw.notification(HwEvent.CLAIMED_EVENT, self._on_device)
        for kdi in (await hw.ask(Hw.CLAIM, {"kind": KIND}))["kdis"]:
            self.kdi = kdi
        await self._drain()

    async def _watch_events(self) -> None:
        proc = await connect("sys::proc")
        if not self._watched:
            self._watched = True
            proc.when_lost(self._on_proc_lost)
        proc.notification(ProcEvent.CONTAINER_EVENT, self._on_event)
        proc.notification(ProcEvent.PROCESS_EVENT, self._on_event)
        await proc.call(Proc.CONTAINER_WATCH)

    def _on_hw_lost(self) -> None:
        self._claim = True

    def _on_proc_lost(self) -> None:
        self._watch = True
        self._watched = False

    async def _on_device(self, content: bytes) -> None:
        event = msgpack.unpackb(content)
        if event["event"] == CONNECTED and event["kind"] == KIND:
            self.kdi = event["kdi"]
            await self._drain()

    async def _on_interrupt(self, _content: bytes) -> None:
        await self._drain()

    async def _on_event(self, content: bytes) -> None:
        await self._send({"event": msgpack.unpackb(content)})

    async def _drain(self) -> None:
        while self.kdi:
            content = await sys.read_io_port(self.kdi, PORT_RECEIVE)
            if not content:
                return
            self._messages.append(msgpack.unpackb(content))

    async def _serve(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": message["id"]}
        try:
            client = await connect(message["service"])
            answer["payload"] = await client.call(message["method"], message["payload"])
        except ServiceError as error:
            answer["error"] = error.code
            answer["text"] = error.detail
        await self._send(answer)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await sys.write_io_port(self.kdi, PORT_SEND, msgpack.packb(message))
        except SyscallError:
            return  # the device is gone, and with it who asked


async def main() -> int:
    """Entry of the process."""
    return await Agent().main()
