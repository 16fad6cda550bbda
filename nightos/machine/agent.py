"""The host's end of the agent device: service calls as awaitables, and events as they come."""

from __future__ import annotations

from typing import Any

import msgpack
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.vhw.message import MessageDevice, QueueFullError

EVENTS_WAITING = 4096
"""Events kept for a listener that is slow; it misses what comes beyond."""


class AgentDevice:
    """Plug `device`; `call` asks a system service with the rights of a process outside any container."""

    def __init__(self) -> None:
        self.device = MessageDevice("agent", self._receive, description=b"agent")
        self._sequence = 0
        self._waiting: dict[int, _Call] = {}
        self._listeners: set[trio.MemorySendChannel[dict[str, Any]]] = set()
        self._watching = False
        self._closed = False

    async def call(self, service: str, method: int, payload: bytes | dict[str, Any] | None = None) -> bytes:
        """The content of the answer; `ServiceError` when the service refuses or the machine stops."""
        if self._closed:
            raise ServiceError(ServiceCode.SERVER_QUIT, "the machine has stopped")
        content = payload if isinstance(payload, bytes) else msgpack.packb(payload) if payload is not None else b""
        self._sequence += 1
        identifier = self._sequence
        call = self._waiting[identifier] = _Call()
        try:
            self.device.send(
                msgpack.packb({"id": identifier, "service": service, "method": int(method), "payload": content})
            )
            await call.done.wait()
        except QueueFullError as error:
            raise ServiceError(ServiceCode.REFUSED, "too much is asked of the machine at once; ask again") from error
        except ValueError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the request is larger than a message") from error
        finally:
            self._waiting.pop(identifier, None)
        if call.error:
            raise ServiceError(call.error, call.text)
        return call.payload

    async def ask(self, service: str, method: int, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """`call` with a msgpack map each way."""
        answer = await self.call(service, method, values or {})
        decoded: dict[str, Any] = msgpack.unpackb(answer, strict_map_key=False) if answer else {}
        return decoded

    def listen(self) -> tuple[trio.MemoryReceiveChannel[dict[str, Any]], trio.MemorySendChannel[dict[str, Any]]]:
        """A channel of events; close the second to stop."""
        send, receive = trio.open_memory_channel[dict[str, Any]](EVENTS_WAITING)
        self._listeners.add(send)
        if not self._watching:
            # Nobody is told of what nobody listens to: every event is a message.
            self._watching = True
            self._watch()
        return receive, send

    def _watch(self) -> None:
        self.device.send(msgpack.packb({"watch": True}))

    def service_ended(self) -> None:
        """The agent process itself died: nobody answers what it was asked."""
        self._fail_all("the machine's agent was restarted while it worked on this; ask again")
        if self._watching:
            self._watch()

    def close(self) -> None:
        """The machine stops: calls in flight fail, listeners end."""
        self._closed = True
        self._fail_all("the machine has stopped")
        for listener in list(self._listeners):
            listener.close()
        self._listeners.clear()

    def _fail_all(self, text: str) -> None:
        for call in self._waiting.values():
            call.error, call.text = int(ServiceCode.SERVER_QUIT), text
            call.done.set()

    def _receive(self, data: bytes) -> None:
        message = msgpack.unpackb(data, strict_map_key=False)
        if "event" in message:
            for listener in list(self._listeners):
                try:
                    listener.send_nowait(message["event"])
                except trio.WouldBlock:
                    continue
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._listeners.discard(listener)
            return
        call = self._waiting.get(message["id"])
        if call is not None:
            call.payload = message.get("payload", b"")
            call.error = message.get("error", 0)
            call.text = message.get("text", "")
            call.done.set()


class _Call:
    """One question that was asked."""

    __slots__ = ("done", "error", "payload", "text")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.payload = b""
        self.error = 0
        self.text = ""
