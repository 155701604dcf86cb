"""The bookkeeping of one `map`: what may be sent, what is in flight, what comes next in order.

Pure: the shells (`async_mesh`, `mesh`) bring inputs, time and outcomes. Memory is bounded by the
limiter, by bytes in flight, and by how far finished tasks may run ahead of the one to give next.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from maille.limiter import Limiter

MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
_AHEAD = 4
"""Finished tasks that wait for an earlier one: at most this many times the limit."""
_RETRY_S = 0.25

Item = TypeVar("Item")


@dataclass(slots=True)
class _Flight:
    index: int
    content: bytes
    sent_s: float


@dataclass(slots=True)
class Flow(Generic[Item]):
    """One map's flow. `Item` is what an ended task gives."""

    limiter: Limiter
    ordered: bool
    max_bytes: int = MAX_BYTES_IN_FLIGHT
    next_index: int = 0
    """Inputs taken so far."""
    ended: int = 0
    _in_flight: dict[bytes, _Flight] = field(default_factory=dict)
    _bytes: int = 0
    _next_out: int = 0
    _finished: dict[int, Item] = field(default_factory=dict)
    _again: deque[tuple[bytes, _Flight]] = field(default_factory=deque)
    _again_at_s: float = 0.0

    @property
    def in_flight(self) -> int:
        """Tasks sent and not ended, those that wait to be sent again included."""
        return len(self._in_flight) + len(self._again)

    def room(self) -> int:
        """How many more inputs may be taken now; at least one when nothing is under way."""
        limit = self.limiter.limit
        if self._bytes >= self.max_bytes or self._again:
            return 0
        return max(0, min(limit - self.in_flight, _AHEAD * limit + 1 - self._held()))

    def room_bytes(self) -> int:
        """How many more bytes may be sent."""
        return max(0, self.max_bytes - self._bytes)

    def sent(self, task_id: bytes, content: bytes, now_s: float) -> int:
        """A task was made of the next input; its index."""
        index = self.next_index
        self.next_index += 1
        self._in_flight[task_id] = _Flight(index, content, now_s)
        self._bytes += len(content)
        return index

    def take(self, task_id: bytes, now_s: float, *, well: bool) -> tuple[int, float] | None:
        """A task ended (`well`: its latency counts): index and latency; None if not ours."""
        flight = self._in_flight.get(task_id)
        if flight is None:
            return None
        if well:
            self.limiter.ended(now_s - flight.sent_s, len(self._in_flight), now_s)
        del self._in_flight[task_id]
        self._bytes -= len(flight.content)
        self.ended += 1
        return flight.index, now_s - flight.sent_s

    def refused(self, task_id: bytes, now_s: float) -> None:
        """The mesh had no room for a task: it is to be sent again later."""
        flight = self._in_flight.pop(task_id, None)
        if flight is not None:
            self.limiter.overloaded(now_s)
            self._again.append((task_id, flight))
            self._again_at_s = now_s + _RETRY_S

    def again(self, new_ids: Iterator[bytes], now_s: float) -> list[tuple[bytes, bytes]]:
        """(task id, content) of what is to be sent again now; the ids are new."""
        sent: list[tuple[bytes, bytes]] = []
        while (
            self._again and now_s >= self._again_at_s and len(self._in_flight) < self.limiter.limit
        ):
            _, flight = self._again.popleft()
            task_id = next(new_ids)
            flight.sent_s = now_s
            self._in_flight[task_id] = flight
            sent.append((task_id, flight.content))
        return sent

    def again_in_s(self, now_s: float) -> float | None:
        """Seconds until something is to be sent again; None if nothing waits for that."""
        return max(0.0, self._again_at_s - now_s) if self._again else None

    def finish(self, index: int, item: Item) -> None:
        """Put what a task gave in line."""
        self._finished[index] = item

    def ready(self) -> Iterator[Item]:
        """Take what is to be given out now, in order if asked."""
        if not self.ordered:
            while self._finished:
                yield self._finished.pop(next(iter(self._finished)))
            return
        while self._next_out in self._finished:
            item = self._finished.pop(self._next_out)
            self._next_out += 1
            yield item

    def open_ids(self) -> tuple[bytes, ...]:
        """Tasks in flight, to be cancelled when the program stops early."""
        return tuple(self._in_flight)

    def _held(self) -> int:
        return len(self._finished) + self.in_flight
