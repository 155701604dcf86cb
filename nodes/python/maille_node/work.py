"""The tasks a node holds, queued by model, and the choice of what runs next."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from maille_protocol import ModelReference, Reference
from maille_protocol.contents import Content

MAX_BATCH_CONTENT_BYTES = 8 * 1024 * 1024
"""Inputs joined into one run: bounds what a batch takes in memory."""

JOINED_BATCH_US = 20_000
"""A joined run is meant to last no longer: its first task waits for its last."""

SINGLE_BATCH_US = 2_000
"""As above for tasks that run one by one, where a batch only spares hand-overs."""

WORTH_SPREADING_US = 500
"""Tasks that take longer are spread over all free workers instead of joined on one."""


class Stage(Enum):
    """Where a held task is."""

    FETCHING = "input on its way"
    QUEUED = "queued"
    RUNNING = "running"
    UPLOADING = "output on its way"


@dataclass(slots=True, eq=False)
class Held:
    """A task the node has accepted and not yet answered."""

    task_id: bytes
    attempt: int
    epoch: int
    model: ModelReference
    content: Content
    accepted_ms: float
    deadline_ms: float
    stage: Stage
    at_most_once: bool = False
    started_ms: float = 0.0
    run_us: int = 0
    batch: int = 0
    upload_bytes: int = 0
    gone: bool = False
    """Answered or cancelled; whatever still refers to it passes over it."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the encoded inputs."""
        if isinstance(self.content, Reference):
            return self.content.size_bytes
        return len(self.content)


@dataclass(slots=True, eq=False)
class ModelWork:
    """Everything held for one model."""

    model: ModelReference
    ready: bool = False
    joinable: bool = False
    held: int = 0
    queue: deque[Held] = field(default_factory=deque)
    task_us: float | None = None
    """Recent time per task, None before the first run."""

    def head(self) -> Held | None:
        """The oldest queued task."""
        while self.queue and self.queue[0].gone:
            self.queue.popleft()
        return self.queue[0] if self.queue else None

    def measured(self, task_us: float) -> None:
        """Take one more run into account."""
        self.task_us = task_us if self.task_us is None else 0.7 * self.task_us + 0.3 * task_us

    def batch_limit(self, max_batch: int, free_workers: int) -> int:
        """How many tasks the next batch should have at most."""
        if self.task_us is None:
            return 1
        target_us = JOINED_BATCH_US if self.joinable else SINGLE_BATCH_US
        limit = max(1, min(max_batch, int(target_us / max(self.task_us, 1.0))))
        if self.task_us > WORTH_SPREADING_US:
            limit = min(limit, -(-len(self.queue) // free_workers))
        return limit

    def take(self, max_batch: int, free_workers: int) -> list[Held]:
        """Remove the next batch, oldest first."""
        limit = self.batch_limit(max_batch, free_workers)
        batch: list[Held] = []
        size_bytes = 0
        while len(batch) < limit and (held := self.head()) is not None:
            size_bytes += held.size_bytes
            if batch and size_bytes > MAX_BATCH_CONTENT_BYTES:
                break
            batch.append(self.queue.popleft())
        return batch


def oldest_ready(works: Iterable[ModelWork]) -> ModelWork | None:
    """The ready model whose oldest queued task has waited longest."""
    best: ModelWork | None = None
    best_ms = 0.0
    for work in works:
        head = work.head() if work.ready else None
        if head is not None and (best is None or head.accepted_ms < best_ms):
            best, best_ms = work, head.accepted_ms
    return best
