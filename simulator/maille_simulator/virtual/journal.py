"""The coordinator's journal in memory: what was committed survives, all else is lost.

It refuses what the real one refuses, and knows more of it: that a task ended twice is a broken
promise even if the coordinator no longer remembers the first end.
"""

from collections.abc import Sequence

from maille_coordinator.records import NodeWish, StartedMark, TaskEnd, TaskRecord
from maille_simulator.virtual.violation import Violation


class VirtualJournal:
    """Commits are all or nothing, as with the real one."""

    def __init__(self) -> None:
        self.ends: dict[bytes, TaskEnd] = {}
        self.wishes: dict[str, bool] = {}
        """What people want of nodes: True for drained."""
        self._open: dict[bytes, TaskRecord] = {}
        self._marks: dict[bytes, StartedMark] = {}
        self._epoch = 0

    def next_epoch(self, *, minimum: int) -> int:
        """Begin a new epoch."""
        self._epoch = max(self._epoch + 1, minimum)
        return self._epoch

    def commit(self, records: Sequence[TaskRecord | TaskEnd | StartedMark | NodeWish]) -> None:
        """Write records; Violation for what must never be written."""
        marks: list[StartedMark] = []
        ends: list[TaskEnd] = []
        for record in records:
            if isinstance(record, TaskEnd):
                ends.append(record)
            elif isinstance(record, StartedMark):
                marks.append(record)
            elif isinstance(record, NodeWish):
                if record.drained is None:
                    self.wishes.pop(record.node, None)
                else:
                    self.wishes[record.node] = record.drained
            elif record.task_id in self._open:
                raise Violation("accepted twice", f"task {record.task_id.hex()} was open already")
            elif record.task_id in self.ends:
                raise Violation("run again", f"task {record.task_id.hex()} had ended already")
            else:
                self._open[record.task_id] = record
        for mark in marks:
            self._require_open(mark.task_id, "marked")
            self._marks[mark.task_id] = mark
        for end in ends:
            self._require_open(end.task_id, "ended")
            del self._open[end.task_id]
            self._marks.pop(end.task_id, None)
            self.ends[end.task_id] = end

    def _require_open(self, task_id: bytes, what: str) -> None:
        if task_id in self._open:
            return
        if task_id in self.ends:
            text = f"task {task_id.hex()} is {what} though it has ended: two results accepted"
            raise Violation("one accepted result", text)
        raise Violation("journal", f"task {task_id.hex()} is {what} but was never accepted")

    def open_tasks(self) -> tuple[tuple[TaskRecord, StartedMark | None], ...]:
        """Every task that has not ended, in the order of acceptance, with its mark."""
        return tuple((record, self._marks.get(task_id)) for task_id, record in self._open.items())

    def node_wishes(self) -> tuple[NodeWish, ...]:
        """What people want of nodes."""
        return tuple(NodeWish(node, drained) for node, drained in self.wishes.items())

    def ended_ids(self, limit: int) -> tuple[bytes, ...]:
        """Ids of the last ended tasks, oldest first."""
        return tuple(self.ends)[-limit:]
