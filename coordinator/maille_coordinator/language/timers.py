"""Times at which the core wants to look again, one for each subject; setting it later is cheap."""

import heapq
from typing import TypeAlias

Subject: TypeAlias = tuple[str, str | int]
"""What to look at: a kind such as "session", and which one."""


class Timers:
    """At most one wanted time for each subject."""

    def __init__(self) -> None:
        self._wanted: dict[Subject, float] = {}
        self._queued: dict[Subject, float] = {}
        self._heap: list[tuple[float, int, Subject]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_ms(self) -> float | None:
        """When to wake; sometimes earlier than the first subject is due."""
        return self._heap[0][0] if self._heap else None

    def set(self, subject: Subject, at_ms: float) -> None:
        """Want to look at `subject` at that time, and at no other."""
        self._wanted[subject] = at_ms
        queued = self._queued.get(subject)
        if queued is None or queued > at_ms:
            self._push(subject, at_ms)

    def cancel(self, subject: Subject) -> None:
        """Do not look at `subject` any more."""
        self._wanted.pop(subject, None)

    def due(self, now_ms: float) -> Subject | None:
        """Take the next subject whose time has come."""
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, _, subject = heapq.heappop(self._heap)
            if self._queued.get(subject) != at_ms:
                continue  # an earlier time took its place
            del self._queued[subject]
            wanted = self._wanted.get(subject)
            if wanted is None:
                continue
            if wanted > now_ms:
                self._push(subject, wanted)
                continue
            del self._wanted[subject]
            return subject
        return None

    def _push(self, subject: Subject, at_ms: float) -> None:
        self._queued[subject] = at_ms
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, subject))
