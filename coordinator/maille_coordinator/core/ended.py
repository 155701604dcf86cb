"""The memory of tasks that have ended: their ends for a while, their ids for longer."""

from collections import OrderedDict
from collections.abc import Iterable

from maille_coordinator.records import TaskEnd

_REFERENCE_BYTES = 40


class EndedTasks:
    """Bounded by the number of ids, and by the bytes of the ends that are kept whole."""

    def __init__(self, max_ids: int, max_bytes: int) -> None:
        self._max_ids = max_ids
        self._max_bytes = max_bytes
        self._ends: OrderedDict[bytes, TaskEnd | None] = OrderedDict()
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._bytes = 0

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def get(self, task_id: bytes) -> TaskEnd | None:
        """The end, if it is still kept whole; the journal has it longer."""
        return self._ends.get(task_id)

    def add(self, end: TaskEnd) -> None:
        """Keep an end."""
        size = len(end.content) if isinstance(end.content, bytes) else _REFERENCE_BYTES
        self._ends[end.task_id] = end
        self._sizes[end.task_id] = size
        self._bytes += size
        while self._bytes > self._max_bytes:
            task_id, size = self._sizes.popitem(last=False)
            self._bytes -= size
            self._ends[task_id] = None
        self._drop_oldest_ids()

    def add_ids(self, task_ids: Iterable[bytes]) -> None:
        """Keep ids of tasks that ended in an earlier run, oldest first."""
        for task_id in task_ids:
            self._ends[task_id] = None
        self._drop_oldest_ids()

    def _drop_oldest_ids(self) -> None:
        while len(self._ends) > self._max_ids:
            task_id, _ = self._ends.popitem(last=False)
            self._bytes -= self._sizes.pop(task_id, 0)
