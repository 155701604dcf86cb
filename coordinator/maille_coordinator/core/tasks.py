"""Tasks and the queues they wait in."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from maille_coordinator.packing import offer_bytes
from maille_coordinator.records import AttemptRecord, ModelRecord, TaskRecord
from maille_protocol import TASK_TRANSITIONS, ModelReference, Reference, TaskEvent, TaskState
from maille_protocol.limits import MAX_PUBLISH_BYTES


class ImpossibleTransition(Exception):
    """Raised when the core does to a task what its state does not allow: a fault of the core."""

    def __init__(self, task: "Task", event: TaskEvent) -> None:
        story = "; ".join(
            f"attempt {attempt.attempt} on {attempt.node}: {attempt.code.name} {attempt.reason}"
            for attempt in task.history
        )
        super().__init__(
            f"task {task.record.task_id.hex()} is {task.state.value}, attempt {task.attempt} "
            f"on {task.node or 'no node'}; {event.name} is impossible. History: {story or 'none'}"
        )


@dataclass(slots=True, eq=False)
class Task:
    """One open task. A data holder; only `Core` changes it, through `move`."""

    record: TaskRecord
    order: int
    """Place in the order of acceptance."""
    deadline_ms: float
    accepted_ms: float
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    node: str = ""
    boot: int = 0
    offered_ms: float = 0.0
    load_at_offer: int = 0
    """Attempts on the node when this one was offered, itself among them."""
    failures: int = 0
    strays: int = 0
    """Attempts that ended without the task's or the node's fault."""
    avoid: str = ""
    """The node on which the last attempt failed."""
    history: list[AttemptRecord] = field(default_factory=list)

    def move(self, event: TaskEvent) -> None:
        """Change state as the protocol's table says; ImpossibleTransition otherwise."""
        state = TASK_TRANSITIONS[self.state].get(event)
        if state is None:
            raise ImpossibleTransition(self, event)
        self.state = state


@dataclass(slots=True, eq=False)
class TaskQueue:
    """Tasks of one model that wait for a node: highest priority first, then oldest."""

    model: ModelRecord
    reference: ModelReference
    target: str | None
    blocked_at: int = -1
    """The scheduler's count of capacity changes when no node could be found last."""
    _heap: list[tuple[int, int, Task]] = field(default_factory=list)

    @classmethod
    def of(cls, model: ModelRecord, target: str | None) -> "TaskQueue":
        """An empty queue."""
        reference = ModelReference(
            model.name, model.version, model.sha256, model.size_bytes, model.format
        )
        return cls(model, reference, target)

    def offer_bytes(self, task: Task) -> int:
        """Of the publish that offers one task alone, its inputs with it, at most."""
        content = task.record.content
        if isinstance(content, Reference):
            return MAX_PUBLISH_BYTES + content.size_bytes  # has to be fetched, whatever its size
        return offer_bytes(self.reference, task.record.flags, content)

    def push(self, task: Task) -> None:
        """Add a task that waits."""
        heapq.heappush(self._heap, (-task.record.priority, task.order, task))

    def peek(self) -> Task | None:
        """The next task; tasks that have left the queued state meanwhile are dropped."""
        heap = self._heap
        while heap:
            task = heap[0][2]
            if task.state is TaskState.QUEUED:
                return task
            heapq.heappop(heap)
        return None

    def pop(self) -> Task:
        """Take the task that `peek` showed."""
        return heapq.heappop(self._heap)[2]

    def __len__(self) -> int:
        """An upper bound: tasks that were cancelled count until they come to the front."""
        return len(self._heap)

    def __iter__(self) -> Iterator[Task]:
        return (task for _, _, task in self._heap if task.state is TaskState.QUEUED)
