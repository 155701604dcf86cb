"""Gives waiting tasks to free nodes."""

from maille_coordinator.core.actions import NeedModel, SendOffers, Write
from maille_coordinator.core.counters import Counters
from maille_coordinator.core.lifecycle import Lifecycle
from maille_coordinator.core.outbox import Outbox
from maille_coordinator.core.registry import NodeRecord, Registry
from maille_coordinator.core.scheduler import Scheduler
from maille_coordinator.core.tasks import Task, TaskQueue
from maille_coordinator.records import StartedMark
from maille_protocol import ModelFormat, Offer, TaskEvent, TaskFlag


class Dispatcher:
    """Late binding: a task leaves its queue only for a node that has room for it now."""

    def __init__(
        self,
        *,
        life: Lifecycle,
        registry: Registry,
        scheduler: Scheduler,
        counters: Counters,
        outbox: Outbox,
    ) -> None:
        self._life = life
        self._registry = registry
        self._scheduler = scheduler
        self._counters = counters
        self._outbox = outbox

    def run(self, now_ms: float) -> None:
        """Give waiting tasks to free nodes, queue by queue in turn, until nothing moves."""
        moved = True
        while moved:
            moved = False
            for key in list(self._life.queues):
                queue = self._life.queues[key]
                if queue.blocked_at == self._scheduler.capacity_changes:
                    continue
                task = queue.peek()
                if task is None:
                    del self._life.queues[key]
                    continue
                target = None if queue.target is None else self._registry.get(queue.target)
                choice = self._scheduler.choose(queue, target, task, now_ms)
                if choice is None:
                    queue.blocked_at = self._scheduler.capacity_changes
                    if queue.reference.format is ModelFormat.TINY:
                        self._need(queue, target, task)
                    continue
                record, room = choice
                if record.is_board:
                    room = 1  # a publish to it carries one task
                self._offer(queue, record, self._share(queue, room), now_ms)
                moved = True

    def _need(self, queue: TaskQueue, target: NodeRecord | None, task: Task) -> None:
        """Have the model delivered if that, and not only a free slot, is what is missing."""
        size = queue.offer_bytes(task)
        if target is not None:
            if (
                target.is_board
                and target.takes_work
                and not target.can_run(queue.reference.sha256, size)
            ):
                self._outbox.add(NeedModel(queue.reference, target.node, size))
            return
        there = [
            record
            for record in self._registry
            if record.alive and record.info is not None and ModelFormat.TINY in record.info.formats
        ]
        if there and not any(record.can_run(queue.reference.sha256, size) for record in there):
            self._outbox.add(NeedModel(queue.reference, None, size))

    def _share(self, queue: TaskQueue, room: int) -> int:
        """How many tasks to give at once: no more than an even split over the free nodes."""
        free = max(1, self._scheduler.free_count(queue.reference.format))
        return min(room, max(1, -(-len(queue) // free)))

    def _offer(self, queue: TaskQueue, record: NodeRecord, count: int, now_ms: float) -> None:
        offers: list[Offer] = []
        while len(offers) < count:
            task = queue.peek()
            if task is None or (offers and task.avoid == record.node):
                break
            at_most_once = task.record.flags & TaskFlag.AT_MOST_ONCE
            if offers and at_most_once and record.shared_until_ms > now_ms:
                break
            queue.pop()
            remaining_ms = int(task.deadline_ms - now_ms)
            if remaining_ms <= 0:
                self._life.expire(task, now_ms)
                continue
            task.move(TaskEvent.OFFERED)
            task.attempt += 1
            task.node = record.node
            task.boot = record.boot
            task.offered_ms = now_ms
            record.outstanding[task.record.task_id] = task
            offers.append(
                Offer(
                    task.record.task_id,
                    task.attempt,
                    remaining_ms,
                    task.record.flags,
                    task.record.content,
                    # Whatever reaches other processes of this id is not for them.
                    record.boot if at_most_once else 0,
                )
            )
            if at_most_once:
                self._outbox.add(Write(StartedMark(task.record.task_id, record.node)))
        if not offers:
            return
        load = len(record.outstanding)
        for offer in offers:
            record.outstanding[offer.task_id].load_at_offer = load
        self._counters.attempts_offered += len(offers)
        self._outbox.add(SendOffers(record.node, queue.reference, tuple(offers)))
        self._scheduler.refresh(record)
