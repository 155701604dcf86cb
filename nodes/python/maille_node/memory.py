"""What a node remembers of attempts that have ended, so that a repeated offer runs nothing twice."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from maille_protocol import Result

RESULT_OVERHEAD_BYTES = 300
"""What a remembered result takes in Python beside its content, roughly."""


def content_size(result: Result) -> int:
    """Bytes of a result's content as it stands in a message."""
    return len(result.content) if isinstance(result.content, bytes) else 40


@dataclass(frozen=True, slots=True)
class Remembered:
    """One ended task: its result, or None if it was cancelled."""

    epoch: int
    attempt: int
    result: Result | None
    repeatable: bool
    """Whether a newer attempt should run again instead of being answered with `result`."""
    ended_ms: float
    forget_at_ms: float


class FinishedMemory:
    """Ended tasks by id, the oldest forgotten first: bounded by count, by bytes and by time."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Remembered] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What all entries take, roughly."""
        return self._bytes

    def get(self, task_id: bytes, now_ms: float) -> Remembered | None:
        """What is known of an ended task; None if nothing, or no longer."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.forget_at_ms <= now_ms:
            self.forget(task_id)
            return None
        return entry

    def keep(self, task_id: bytes, entry: Remembered) -> None:
        """Remember the newest end of a task."""
        self.forget(task_id)
        self._entries[task_id] = entry
        self._bytes += self._cost(entry)
        while self._entries and (
            len(self._entries) > self._max_count or self._bytes > self._max_bytes
        ):
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= self._cost(dropped)

    def forget(self, task_id: bytes) -> None:
        """Drop what is known of a task."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            self._bytes -= self._cost(entry)

    def expire(self, now_ms: float, at_most: int) -> None:
        """Drop entries whose time has come among the `at_most` oldest."""
        due = [
            task_id
            for task_id, entry in islice(self._entries.items(), at_most)
            if entry.forget_at_ms <= now_ms
        ]
        for task_id in due:
            self.forget(task_id)

    def newest(self, count: int, since_ms: float) -> list[Result]:
        """Results of the last `count` entries that ended since a time, oldest first."""
        entries: Iterator[Remembered] = islice(reversed(self._entries.values()), count)
        recent = [
            entry.result
            for entry in entries
            if entry.result is not None and entry.ended_ms >= since_ms
        ]
        recent.reverse()
        return recent

    @staticmethod
    def _cost(entry: Remembered) -> int:
        return RESULT_OVERHEAD_BYTES + (0 if entry.result is None else content_size(entry.result))
