"""What nodes say of attempts: results, heartbeats that list what they hold, and their loss."""

from maille_coordinator.core.counters import Counters
from maille_coordinator.core.lifecycle import NOT_THE_TASKS_FAULT, Lifecycle
from maille_coordinator.core.registry import NodeRecord
from maille_coordinator.core.scheduler import Scheduler
from maille_coordinator.core.tasks import Task
from maille_coordinator.core.timers import LookAgain, Timers
from maille_protocol import (
    ErrorCode,
    Heartbeat,
    NodeState,
    OutcomeStatus,
    Progress,
    Result,
    ResultStatus,
    TaskEvent,
    TaskState,
)
from maille_protocol.limits import MAX_TEXT_CHARACTERS

LISTING_GRACE_MS = 1500.0
"""An attempt that was offered this long ago must stand in the node's heartbeat."""


class Attempts:
    """Accepts one result per task, and none of an older attempt or epoch."""

    def __init__(
        self,
        *,
        epoch: int,
        life: Lifecycle,
        scheduler: Scheduler,
        timers: Timers,
        counters: Counters,
    ) -> None:
        self._epoch = epoch
        self._life = life
        self._scheduler = scheduler
        self._timers = timers
        self._counters = counters

    def result(self, record: NodeRecord, result: Result, now_ms: float) -> None:
        """Take one result; what is late, double or of another epoch is counted, nothing else."""
        task = self._life.tasks.get(result.task_id)
        if task is None:
            if result.task_id in self._life.ended:
                self._counters.results_duplicate += 1
            else:
                self._counters.results_unknown_task += 1
            return
        if result.epoch != self._epoch:
            self._counters.results_stale_epoch += 1
            return
        if result.attempt != task.attempt or task.node != record.node or task.boot != record.boot:
            self._counters.results_stale_attempt += 1
            return
        if task.state is TaskState.QUEUED:
            self._counters.results_stale_attempt += 1
            return
        match result.status:
            case ResultStatus.DONE:
                self._scheduler.learn_success(record, task, now_ms)
                record.done += 1
                self._life.end(
                    task,
                    OutcomeStatus.DONE,
                    ErrorCode.NONE,
                    result.content,
                    now_ms,
                    run_us=result.run_us,
                )
            case ResultStatus.EXPIRED:
                self._life.end(
                    task,
                    OutcomeStatus.EXPIRED,
                    ErrorCode.DEADLINE,
                    b"the deadline passed before the task ran",
                    now_ms,
                )
            case ResultStatus.FAILED if not result.code.retryable:
                # The task's own fault: no other node can mend it, and the node did its work.
                self._scheduler.learn_success(record, task, now_ms)
                record.failed += 1
                self._life.end(
                    task, OutcomeStatus.FAILED, result.code, result.content, now_ms,
                    run_us=result.run_us,
                )  # fmt: skip
            case ResultStatus.FAILED | ResultStatus.REFUSED | ResultStatus.CANCELLED:
                reason = result.content if isinstance(result.content, bytes) else b""
                text = reason.decode(errors="replace")[:MAX_TEXT_CHARACTERS]
                if result.code is ErrorCode.BUSY:
                    self._counters.attempts_refused_busy += 1
                    self._scheduler.learn_busy(record, now_ms)
                    self._timers.add(record.window_closed_until_ms, LookAgain())
                elif result.code is ErrorCode.DRAINING:
                    # It would not have been asked if its last state had not been missed.
                    if record.state is NodeState.READY:
                        record.missed_seq = max(record.missed_seq, record.last_seq)
                elif result.code not in NOT_THE_TASKS_FAULT:
                    record.failed += 1
                    key = (task.record.model, task.record.version)
                    self._scheduler.learn_failure(record, key, now_ms)
                    closed_until_ms = record.skills[key].closed_until_ms
                    if closed_until_ms > now_ms:
                        self._timers.add(closed_until_ms, LookAgain())
                if result.code.retryable:
                    refused = result.status is ResultStatus.REFUSED
                    self._life.end_attempt(task, result.code, text, now_ms, refused=refused)
                else:
                    self._life.end(task, OutcomeStatus.FAILED, result.code, text.encode(), now_ms)

    def heartbeat(self, record: NodeRecord, beat: Heartbeat, now_ms: float) -> None:
        """Renew the leases of what the node holds; what it should hold but does not was lost."""
        held = dict(beat.held)
        lost: list[Task] = []
        for task in record.outstanding.values():
            if held.get(task.record.task_id) == task.attempt:
                task.move(TaskEvent.RENEWED)
            elif now_ms - task.offered_ms > LISTING_GRACE_MS:
                lost.append(task)
        for task in lost:
            self._counters.attempts_lost_on_the_way += 1
            self._life.end_attempt(
                task,
                ErrorCode.LEASE_EXPIRED,
                "the node's heartbeat does not list it: the offer or its result got lost",
                now_ms,
            )

    def release(self, record: NodeRecord, reason: str, now_ms: float) -> None:
        """End every attempt on a node that is gone."""
        for task in list(record.outstanding.values()):
            self._life.end_attempt(task, ErrorCode.NODE_LOST, reason, now_ms)

    def progress(self, record: NodeRecord, progress: Progress) -> None:
        """Renew the leases of attempts that report how far they are."""
        for mark in progress.marks:
            task = record.outstanding.get(mark.task_id)
            if task is not None and (mark.attempt, mark.epoch) == (task.attempt, self._epoch):
                task.move(TaskEvent.RENEWED)
