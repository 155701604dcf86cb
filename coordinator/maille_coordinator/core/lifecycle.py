"""The life of tasks: opened, queued, tried, tried again, ended. The one place where they change."""

from collections.abc import Mapping
from random import Random

from maille_coordinator.core.actions import SendToNode, Tell, Write
from maille_coordinator.core.counters import Counters
from maille_coordinator.core.ended import EndedTasks
from maille_coordinator.core.outbox import Outbox
from maille_coordinator.core.registry import ModelKey, Registry
from maille_coordinator.core.scheduler import Scheduler
from maille_coordinator.core.tasks import Task, TaskQueue
from maille_coordinator.core.timers import EndBucket, RetryTask, Timers
from maille_coordinator.records import AttemptRecord, ModelRecord, TaskEnd, TaskRecord
from maille_protocol import (
    Cancel,
    ErrorCode,
    Outcome,
    OutcomeStatus,
    TaskEvent,
    TaskFlag,
    TaskState,
)
from maille_protocol.contents import Content

RETRY_FIRST_MS = 50.0
RETRY_MOST_MS = 5000.0
STRAYS_PER_ATTEMPT = 10
"""Attempts that got lost on the way count a tenth of a failure."""

HISTORY_ENTRIES = 100

NOT_THE_TASKS_FAULT = frozenset(
    {ErrorCode.BUSY, ErrorCode.DRAINING, ErrorCode.STALE_EPOCH, ErrorCode.LEASE_EXPIRED}
)
_AGAIN_AT_ONCE = frozenset({ErrorCode.NODE_LOST, ErrorCode.LEASE_EXPIRED, ErrorCode.BUSY})
"""Nothing is gained by waiting: the node is gone, or the scheduler leaves it alone for a while.

But when the second node is lost with a task, others may be about to be: where a network fails,
their losses come one by one within milliseconds, and would use up all of its attempts.
"""

_EVENT_OF_STATUS = {
    OutcomeStatus.DONE: TaskEvent.RESULT_ACCEPTED,
    OutcomeStatus.FAILED: TaskEvent.FAILED,
    OutcomeStatus.CANCELLED: TaskEvent.CANCELLED,
    OutcomeStatus.EXPIRED: TaskEvent.DEADLINE_PASSED,
    OutcomeStatus.DEAD: TaskEvent.ATTEMPTS_EXHAUSTED,
}


class Lifecycle:
    """The open tasks, the queues they wait in, and the memory of those that ended."""

    def __init__(
        self,
        *,
        models: Mapping[ModelKey, ModelRecord],
        registry: Registry,
        scheduler: Scheduler,
        timers: Timers,
        counters: Counters,
        outbox: Outbox,
        ended: EndedTasks,
        random: Random,
    ) -> None:
        self.tasks: dict[bytes, Task] = {}
        self.queues: dict[tuple[str, int, str | None], TaskQueue] = {}
        self.ended = ended
        self._models = models
        self._registry = registry
        self._scheduler = scheduler
        self._timers = timers
        self._counters = counters
        self._outbox = outbox
        self._random = random
        self._deadlines: dict[int, dict[bytes, None]] = {}
        """In the order of acceptance: a set's order differs from process to process."""
        self._order = 0

    @property
    def deadline_seconds(self) -> int:
        """In how many different seconds deadlines lie."""
        return len(self._deadlines)

    def end_attempt(
        self, task: Task, code: ErrorCode, reason: str, now_ms: float, *, refused: bool = False
    ) -> None:
        """An attempt is over without a result: again elsewhere, or dead.

        Args:
            task: whose attempt.
            code: why it is over.
            reason: the same for people.
            now_ms: the time.
            refused: whether the node says that it did not begin with it.
        """
        record = self._registry.get(task.node)
        if record is not None:
            record.outstanding.pop(task.record.task_id, None)
            self._scheduler.refresh(record)
        task.history.append(
            AttemptRecord(task.attempt, task.node, code, reason, int(task.offered_ms), int(now_ms))
        )
        if len(task.history) > HISTORY_ENTRIES:
            # A task that was refused again and again: the first and the last tries tell most.
            del task.history[HISTORY_ENTRIES // 2]
        at_most_once = task.record.flags & TaskFlag.AT_MOST_ONCE
        if at_most_once and not refused:
            text = f"node {task.node} may have run this at-most-once task: {reason}"
            self.end(task, OutcomeStatus.FAILED, ErrorCode.OUTCOME_UNKNOWN, text.encode(), now_ms)
            return
        if code in NOT_THE_TASKS_FAULT:
            task.strays += code is ErrorCode.LEASE_EXPIRED
        else:
            task.failures += 1
            task.avoid = task.node
        most = task.record.max_attempts
        if task.failures >= most or task.strays >= most * STRAYS_PER_ATTEMPT:
            text = f"{len(task.history)} attempts failed; the last on {task.node}: {reason}"
            self.end(task, OutcomeStatus.DEAD, ErrorCode.TOO_MANY_ATTEMPTS, text.encode(), now_ms)
            return
        task.move(TaskEvent.ATTEMPT_ENDED)
        self._counters.attempts_retried += 1
        if code in _AGAIN_AT_ONCE and (code is not ErrorCode.NODE_LOST or task.failures <= 1):
            self.requeue(task, now_ms)
            return
        delay_ms = min(RETRY_MOST_MS, RETRY_FIRST_MS * 2 ** min(max(0, task.failures - 1), 10))
        delay_ms *= 0.5 + self._random.random()
        self._timers.add(now_ms + delay_ms, RetryTask(task))

    def end(
        self,
        task: Task,
        status: OutcomeStatus,
        code: ErrorCode,
        content: Content,
        now_ms: float,
        *,
        run_us: int = 0,
    ) -> None:
        """The one place where a task ends."""
        holder = None
        if task.state is not TaskState.QUEUED:
            holder = self._registry.get(task.node)
        task.move(_EVENT_OF_STATUS[status])
        record = task.record
        if holder is not None:
            # Absent if the attempt ended first, as on the way to `dead`.
            if holder.outstanding.pop(record.task_id, None) is not None and status in (
                OutcomeStatus.CANCELLED,
                OutcomeStatus.EXPIRED,
            ):
                cancel = Cancel(((record.task_id, task.attempt),))
                self._outbox.add(SendToNode(holder.node, cancel))
            self._scheduler.refresh(holder)
        end = TaskEnd(
            record.task_id,
            status,
            code,
            content,
            task.node,
            task.attempt,
            run_us,
            max(0, int((now_ms - task.accepted_ms) * 1000)),
            int(now_ms),
            tuple(task.history),
        )
        del self.tasks[record.task_id]
        bucket = self._deadlines.get(int(task.deadline_ms / 1000))
        if bucket is not None:
            bucket.pop(record.task_id, None)
        self.ended.add(end)
        self._count_end(end)
        self._outbox.add(Write(end))
        self._outbox.add(Tell(record.client, outcome_of(end)))
        if status not in (OutcomeStatus.DONE, OutcomeStatus.CANCELLED):
            text = content.decode(errors="replace") if isinstance(content, bytes) else ""
            self._outbox.report(
                f"task.{status.name.lower()}", now_ms, record.task_id.hex(), text, {}
            )

    def _count_end(self, end: TaskEnd) -> None:
        counters = self._counters
        match end.status:
            case OutcomeStatus.DONE:
                counters.tasks_done += 1
                counters.task_latency.add(end.total_us / 1e6)
                counters.run_latency.add(end.run_us / 1e6)
            case OutcomeStatus.FAILED:
                counters.tasks_failed += 1
            case OutcomeStatus.CANCELLED:
                counters.tasks_cancelled += 1
            case OutcomeStatus.EXPIRED:
                counters.tasks_expired += 1
            case _:
                counters.tasks_dead += 1

    def open(self, record: TaskRecord, accepted_ms: float) -> Task:
        """A new task, waiting for a node."""
        self._order += 1
        task = Task(record, self._order, float(record.deadline_at_unix_ms), accepted_ms)
        self.tasks[record.task_id] = task
        second = int(task.deadline_ms / 1000)
        bucket = self._deadlines.get(second)
        if bucket is None:
            bucket = self._deadlines[second] = {}
            self._timers.add((second + 1) * 1000.0, EndBucket(second))
        bucket[record.task_id] = None
        self.enqueue(task)
        return task

    def enqueue(self, task: Task) -> None:
        """Put a waiting task into its model's queue; the model must be known."""
        record = task.record
        key = (record.model, record.version, record.target)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = TaskQueue.of(
                self._models[record.model, record.version], record.target
            )
        queue.push(task)
        queue.blocked_at = -1

    def end_restored(self, record: TaskRecord, now_ms: float, code: ErrorCode, text: str) -> None:
        """End a task of an earlier run that cannot go on."""
        self._order += 1
        task = Task(record, self._order, 0.0, float(record.accepted_at_unix_ms))
        self.tasks[record.task_id] = task
        self.end(task, OutcomeStatus.FAILED, code, text.encode(), now_ms)

    def requeue(self, task: Task, now_ms: float) -> None:
        """Let a task wait again, or end it if its model has gone meanwhile."""
        if (task.record.model, task.record.version) in self._models:
            self.enqueue(task)
            return
        text = f"model {task.record.model} version {task.record.version} was removed"
        self.end(task, OutcomeStatus.FAILED, ErrorCode.UNKNOWN_MODEL, text.encode(), now_ms)

    def expire(self, task: Task, now_ms: float) -> None:
        """End a task whose deadline has passed."""
        waited_s = (now_ms - task.accepted_ms) / 1000
        where = f"on node {task.node}" if task.state is not TaskState.QUEUED else "in the queue"
        text = f"no result after {waited_s:.0f} s; the task was {where}"
        self.end(task, OutcomeStatus.EXPIRED, ErrorCode.DEADLINE, text.encode(), now_ms)

    def expire_bucket(self, second: int, now_ms: float) -> None:
        """End the tasks whose deadline lies in this second."""
        for task_id in self._deadlines.pop(second, ()):
            self.expire(self.tasks[task_id], now_ms)

    def refuse_waiting(
        self, key: ModelKey, node: str | None, code: ErrorCode, text: str, now_ms: float
    ) -> None:
        """End the waiting tasks of a model that are for this node (None: for any node)."""
        waiting = [
            task
            for task in self.tasks.values()
            if task.state is TaskState.QUEUED
            and task.record.target == node
            and (task.record.model, task.record.version) == key
        ]
        for task in waiting:
            self.end(task, OutcomeStatus.FAILED, code, text.encode(), now_ms)

    def fail_waiting(self, key: ModelKey, text: str, now_ms: float) -> None:
        """End the waiting tasks of a model that is gone; what runs may finish."""
        waiting = [
            task
            for task in self.tasks.values()
            if task.state is TaskState.QUEUED and (task.record.model, task.record.version) == key
        ]
        for task in waiting:
            self.end(task, OutcomeStatus.FAILED, ErrorCode.UNKNOWN_MODEL, text.encode(), now_ms)
        for queue_key in [found for found in self.queues if found[:2] == key]:
            del self.queues[queue_key]


def outcome_of(end: TaskEnd) -> Outcome:
    """What a client is told of a task's end."""
    return Outcome(
        end.task_id,
        end.status,
        end.code,
        end.content,
        end.node,
        end.attempts,
        end.run_us,
        end.total_us,
    )
