"""The times at which the core wants to look again."""

import heapq
from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.core.tasks import Task


@dataclass(frozen=True, slots=True)
class CheckNode:
    """See whether a node has fallen silent."""

    node: str


@dataclass(frozen=True, slots=True)
class RetryTask:
    """Put a task whose attempt ended back into its queue."""

    task: Task


@dataclass(frozen=True, slots=True)
class LookAgain:
    """A node that was closed may take work again."""


@dataclass(frozen=True, slots=True)
class EndBucket:
    """Deadlines of one second have passed."""

    second: int


Timer: TypeAlias = CheckNode | RetryTask | LookAgain | EndBucket


class Timers:
    """A heap of timers."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_ms(self) -> float | None:
        """When the first timer is due."""
        return self._heap[0][0] if self._heap else None

    def add(self, at_ms: float, timer: Timer) -> None:
        """Want `timer` at that time."""
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, timer))

    def due(self, now_ms: float) -> Timer | None:
        """Take the first timer if its time has come."""
        if self._heap and self._heap[0][0] <= now_ms:
            return heapq.heappop(self._heap)[2]
        return None

    def delayed_ids(self) -> set[bytes]:
        """Ids of the tasks that wait for their back-off to pass."""
        return {
            timer.task.record.task_id for _, _, timer in self._heap if isinstance(timer, RetryTask)
        }
