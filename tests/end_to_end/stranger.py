"""A program on the broker that belongs to no one: publishes whatever it likes, hears what it asked for."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from real_mesh import eventually

from maille_broker import Endpoint, Link, Message

MAX_BYTES = 2 * 1024 * 1024


class Stranger:
    """One connection in a thread of its own, for `with`.

    Args:
        endpoint: the broker, and the login if it asks for one.
        name: its MQTT client id.
        subscriptions: topic filters to listen to.
    """

    def __init__(self, endpoint: Endpoint, name: str, subscriptions: Sequence[str] = ()) -> None:
        self.heard: list[Message] = []
        self._endpoint = endpoint
        self._name = name
        self._subscriptions = [(pattern, 0) for pattern in subscriptions]
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        self._link = self._call(self._open)
        assert self._up.wait(10), "the broker does not let the stranger in"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send, and wait until the broker has read it."""

        async def send() -> bool:
            taken = self._link.publish(topic, payload, retain=retain)
            return await self._link.flush(10) and taken

        assert asyncio.run_coroutine_threadsafe(send(), self._loop).result(15)

    def wait_for(self, condition: Callable[[Message], bool], what: str) -> Message:
        """The first message heard, now or soon, that fits."""
        found: list[Message] = []

        def look() -> bool:
            found.extend(message for message in list(self.heard) if condition(message))
            return bool(found)

        eventually(look, what)
        return found[0]

    def _call(self, function: Callable[[], Link]) -> Link:
        async def call() -> Link:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def _open(self) -> Link:
        link = Link(
            self._endpoint,
            self._name,
            subscriptions=self._subscriptions,
            on_messages=self.heard.extend,
            on_up=self._up.set,
            max_payload_bytes=MAX_BYTES,
        )
        self._running = self._loop.create_task(link.run(first_connect_timeout_s=10))
        return link

    async def _close(self) -> None:
        await self._link.close()
        await self._running
