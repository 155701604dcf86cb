"""Mesh events for those who listen: each has a bounded queue, the oldest events give way."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from maille_coordinator.records import MeshEvent

_QUEUED_EVENTS = 1000


class EventStreams:
    """Hands every event to every present listener."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, event: MeshEvent) -> None:
        """Give an event to everyone who listens now."""
        for listener in self._listeners:
            listener.put(event)

    async def listen(self) -> AsyncIterator[MeshEvent]:
        """Events from now on; after a loss, an event "stream.dropped" says how many."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.take()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._events: deque[MeshEvent] = deque()
        self._dropped = 0
        self._filled = asyncio.Event()

    def put(self, event: MeshEvent) -> None:
        if len(self._events) >= _QUEUED_EVENTS:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event)
        self._filled.set()

    async def take(self) -> MeshEvent:
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        if self._dropped:
            event = self._events[0]
            text = f"{self._dropped} events were dropped: this listener reads too slowly"
            self._dropped = 0
            return MeshEvent("stream.dropped", event.at_unix_ms, "", text)
        return self._events.popleft()
