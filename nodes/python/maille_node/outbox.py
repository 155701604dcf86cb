"""Results on their way out: kept while they cannot be sent, joined into publishes that fit."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from maille_node.memory import RESULT_OVERHEAD_BYTES, content_size
from maille_protocol import Result
from maille_protocol.limits import MAX_ITEMS_PER_MESSAGE, MAX_PUBLISH_BYTES

_ENVELOPE_BYTES = 64
_FIELDS_BYTES = 64
"""A result without its content: ids, codes and times in CBOR take at most 58 bytes."""


class Outbox:
    """The newest result of each task that waits to be sent; when full, the oldest is dropped."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._results: OrderedDict[bytes, Result] = OrderedDict()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._results)

    @property
    def size_bytes(self) -> int:
        """What all waiting results take, roughly."""
        return self._bytes

    def get(self, task_id: bytes) -> Result | None:
        """The waiting result of a task."""
        return self._results.get(task_id)

    def put(self, result: Result) -> None:
        """Queue a result, unless one of a newer attempt of its task waits."""
        waiting = self._results.get(result.task_id)
        if waiting is not None:
            if (waiting.epoch, waiting.attempt) > (result.epoch, result.attempt):
                return
            self.discard(result.task_id)
        self._results[result.task_id] = result
        self._bytes += _cost(result)
        while len(self._results) > self._max_count or self._bytes > self._max_bytes:
            _, oldest = self._results.popitem(last=False)
            self._bytes -= _cost(oldest)
            self.dropped += 1

    def put_back(self, results: Iterable[Result]) -> None:
        """Queue results that could not be sent, unless newer ones of their tasks wait."""
        for result in results:
            if result.task_id not in self._results:
                self.put(result)

    def discard(self, task_id: bytes) -> None:
        """Drop the waiting result of a task, if there is one."""
        result = self._results.pop(task_id, None)
        if result is not None:
            self._bytes -= _cost(result)

    def take_all(self) -> list[tuple[Result, ...]]:
        """Empty the box into groups, each small enough for one publish."""
        results = list(self._results.values())
        self._results.clear()
        self._bytes = 0
        return list(split(results))


def split(results: Iterable[Result]) -> Iterator[tuple[Result, ...]]:
    """Groups of results, in order, each small enough for one publish."""
    group: list[Result] = []
    size_bytes = _ENVELOPE_BYTES
    for result in results:
        needed = _FIELDS_BYTES + content_size(result)
        if group and (
            size_bytes + needed > MAX_PUBLISH_BYTES or len(group) == MAX_ITEMS_PER_MESSAGE
        ):
            yield tuple(group)
            group, size_bytes = [], _ENVELOPE_BYTES
        group.append(result)
        size_bytes += needed
    if group:
        yield tuple(group)


def _cost(result: Result) -> int:
    return RESULT_OVERHEAD_BYTES + content_size(result)
