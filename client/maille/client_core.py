"""The client's half of the task protocol: what to send, when to send it again, what to believe.

`ClientCore.handle(event, now_ms)` returns actions; it does no I/O and reads no clock. Its promises,
over a broker that loses, repeats and reorders:

- a submission is sent under the same ids until the coordinator says it is on disk;
- every open task is asked about once a second, and at once after a reconnect or a new epoch;
- every task is delivered once, or reported as unheard of after `patience_ms` of silence.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from maille.client_events import (
    Action,
    BatchesAccepted,
    Confirm,
    CoordinatorSeen,
    Deliver,
    Event,
    GiveUp,
    LinkDown,
    LinkUp,
    OutcomesArrived,
    Send,
    TaskSettings,
    TasksReleased,
    TasksSubmitted,
    TasksWatched,
    TasksWithdrawn,
    TimePassed,
    WakeAt,
)
from maille.client_publishes import IDS_PER_MESSAGE, id_parts, in_publishes
from maille_protocol import (
    Ask,
    ErrorCode,
    Outcome,
    OutcomeStatus,
    Submission,
    Submit,
    TaskFlag,
    Withdraw,
)

FIRST_RESEND_MS = 250
LAST_RESEND_MS = 2_000
ASK_INTERVAL_MS = 1_000
ASK_PAUSE_MS = 100
"""Between two rounds of questions when more tasks are open than one message asks about."""


@dataclass(slots=True)
class _Task:
    """An open task; `submission` is None for one that was submitted elsewhere."""

    submission: Submission | None
    settings: TaskSettings | None
    batch: int | None
    """The batch that is not accepted yet."""
    accepted: bool = False
    withdrawn: bool = False


@dataclass(slots=True)
class _Batch:
    settings: TaskSettings
    open: dict[bytes, Submission]
    first_sent_ms: float
    wait_ms: float
    confirm: bool = False
    resend_at_ms: float = 0.0


@dataclass(slots=True)
class CoreCounters:
    """What the core counts; `maille bench` and the debug log show it."""

    submitted: int = 0
    delivered: int = 0
    resent: int = 0
    asked: int = 0
    resubmitted: int = 0
    duplicates: int = 0
    stale: int = 0
    given_up: int = 0


@dataclass(slots=True)
class ClientCore:
    """See the module's docstring.

    `jitter` gives numbers from 0 to below 1; `patience_ms` is how long the coordinator may be
    silent while tasks are open.
    """

    jitter: Callable[[], float]
    patience_ms: float = 30_000.0
    counters: CoreCounters = field(default_factory=CoreCounters)
    _tasks: dict[bytes, _Task] = field(default_factory=dict)
    _batches: dict[int, _Batch] = field(default_factory=dict)
    _resends: list[tuple[float, int]] = field(default_factory=list)
    _questions: dict[bytes, float] = field(default_factory=dict)
    """Task to the time of its next question, earliest first."""
    _last_batch: int = 0
    _epoch: int = 0
    _link_up: bool = False
    _heard_ms: float = 0.0
    _wake_ms: float | None = None

    @property
    def open_tasks(self) -> int:
        """Tasks that have neither been delivered, given up nor released."""
        return len(self._tasks)

    def is_open(self, task_id: bytes) -> bool:
        """Whether the task is one of them."""
        return task_id in self._tasks

    def is_accepted(self, task_id: bytes) -> bool:
        """Whether the coordinator has the task on disk, as far as is known."""
        task = self._tasks.get(task_id)
        return task is not None and task.accepted

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """Take one event; what is to be done about it, in order."""
        actions: list[Action] = []
        match event:
            case TasksSubmitted():
                self._start_waiting(now_ms)
                self.counters.submitted += len(event.tasks)
                self._submit(event.settings, event.tasks, now_ms, actions, confirm=event.confirm)
            case OutcomesArrived():
                self._take_outcomes(event, now_ms, actions)
            case BatchesAccepted():
                self._take_accepted(event, now_ms, actions)
            case TasksWatched():
                self._start_waiting(now_ms)
                new = [task_id for task_id in event.task_ids if task_id not in self._tasks]
                for task_id in new:
                    self._tasks[task_id] = _Task(None, None, None, accepted=True)
                self._ask(new, now_ms, actions)
            case TasksWithdrawn():
                self._withdraw(event.task_ids, now_ms, actions)
            case TasksReleased():
                for task_id in event.task_ids:
                    self._drop(task_id)
            case CoordinatorSeen():
                self._take_coordinator(event, now_ms, actions)
            case LinkUp():
                self._link_up = True
                self._renew(now_ms, actions)
            case LinkDown():
                self._link_up = False
            case TimePassed():
                self._wake_ms = None
                self._pass_time(now_ms, actions)
        self._plan(now_ms, actions)
        return actions

    # --- submissions -----------------------------------------------------------------------

    def _submit(
        self,
        settings: TaskSettings,
        tasks: Iterable[Submission],
        now_ms: float,
        actions: list[Action],
        *,
        confirm: bool = False,
    ) -> None:
        for part in in_publishes(tasks):
            self._last_batch += 1
            number = self._last_batch
            batch = _Batch(
                settings, {task.task_id: task for task in part}, now_ms, FIRST_RESEND_MS, confirm
            )
            self._batches[number] = batch
            for task in part:
                known = self._tasks.get(task.task_id)
                self._tasks[task.task_id] = _Task(
                    task, settings, number, withdrawn=known is not None and known.withdrawn
                )
            self._send_batch(number, batch, now_ms, actions)

    def _send_batch(self, number: int, batch: _Batch, now_ms: float, actions: list[Action]) -> None:
        batch.resend_at_ms = now_ms + batch.wait_ms * (1 + self.jitter() / 4)
        heapq.heappush(self._resends, (batch.resend_at_ms, number))
        if not self._link_up:
            return
        settings = batch.settings
        actions.append(
            Send(
                Submit(
                    number,
                    settings.model,
                    settings.version,
                    settings.priority,
                    settings.deadline_ms,
                    settings.max_attempts,
                    settings.flags,
                    settings.target,
                    tuple(batch.open.values()),
                )
            )
        )

    def _take_accepted(self, event: BatchesAccepted, now_ms: float, actions: list[Action]) -> None:
        if event.epoch < self._epoch:
            self.counters.stale += 1
            return
        self._heard_ms = now_ms
        for number in event.batches:
            batch = self._batches.pop(number, None)
            if batch is None:
                continue
            for task_id in batch.open:
                task = self._tasks[task_id]
                task.batch = None
                task.accepted = True
                self._questions[task_id] = now_ms + ASK_INTERVAL_MS
            if batch.confirm:
                actions.append(Confirm(tuple(batch.open)))

    # --- ends ------------------------------------------------------------------------------

    def _take_outcomes(self, event: OutcomesArrived, now_ms: float, actions: list[Action]) -> None:
        self._heard_ms = now_ms
        ended: list[Outcome] = []
        lost: dict[TaskSettings, list[Submission]] = {}
        for outcome in event.outcomes:
            task = self._tasks.get(outcome.task_id)
            if task is None:
                self.counters.duplicates += 1
            elif outcome.status == OutcomeStatus.OPEN:
                if task.batch is not None and event.epoch >= self._epoch:
                    if self._batches[task.batch].confirm:
                        actions.append(Confirm((outcome.task_id,)))
                    self._leave_batch(outcome.task_id, task)
                    task.accepted = True
                    self._questions[outcome.task_id] = now_ms + ASK_INTERVAL_MS
            elif outcome.status != OutcomeStatus.UNKNOWN:
                ended.append(outcome)
                self._drop(outcome.task_id)
            elif event.epoch < self._epoch or task.batch is not None:
                # An old coordinator's word, or an answer that crossed the new submission.
                self.counters.stale += 1
            elif task.submission is None or task.settings is None:
                ended.append(outcome)
                self._drop(outcome.task_id)
            elif task.withdrawn:
                ended.append(_ended(outcome, OutcomeStatus.CANCELLED, ErrorCode.NONE, "cancelled"))
                self._drop(outcome.task_id)
            elif task.settings.flags & TaskFlag.AT_MOST_ONCE:
                ended.append(
                    _ended(
                        outcome,
                        OutcomeStatus.DEAD,
                        ErrorCode.OUTCOME_UNKNOWN,
                        "the coordinator accepted it and no longer knows it",
                    )
                )
                self._drop(outcome.task_id)
            else:
                self._questions.pop(outcome.task_id, None)
                lost.setdefault(task.settings, []).append(task.submission)
        if ended:
            self.counters.delivered += len(ended)
            actions.append(Deliver(tuple(ended)))
        for settings, submissions in lost.items():
            self.counters.resubmitted += len(submissions)
            self._submit(settings, submissions, now_ms, actions)

    def _withdraw(self, task_ids: Iterable[bytes], now_ms: float, actions: list[Action]) -> None:
        withdrawn = [task_id for task_id in task_ids if task_id in self._tasks]
        for task_id in withdrawn:
            task = self._tasks[task_id]
            task.withdrawn = True
            self._leave_batch(task_id, task)
            self._questions.pop(task_id, None)
            self._questions[task_id] = now_ms + ASK_INTERVAL_MS
        if self._link_up:
            actions.extend(Send(Withdraw(part)) for part in id_parts(withdrawn))

    def _leave_batch(self, task_id: bytes, task: _Task) -> None:
        if task.batch is None:
            return
        batch = self._batches[task.batch]
        del batch.open[task_id]
        if not batch.open:
            del self._batches[task.batch]
        task.batch = None

    def _drop(self, task_id: bytes) -> None:
        task = self._tasks.pop(task_id, None)
        if task is not None:
            self._leave_batch(task_id, task)
            self._questions.pop(task_id, None)

    # --- questions and time ----------------------------------------------------------------

    def _ask(self, task_ids: list[bytes], now_ms: float, actions: list[Action]) -> None:
        for task_id in task_ids:
            self._questions.pop(task_id, None)
            self._questions[task_id] = now_ms + ASK_INTERVAL_MS
        if not self._link_up:
            return
        self.counters.asked += len(task_ids)
        actions.extend(Send(Ask(part)) for part in id_parts(task_ids))
        withdrawn = [task_id for task_id in task_ids if self._tasks[task_id].withdrawn]
        actions.extend(Send(Withdraw(part)) for part in id_parts(withdrawn))

    def _take_coordinator(
        self, event: CoordinatorSeen, now_ms: float, actions: list[Action]
    ) -> None:
        if event.epoch < self._epoch:
            self.counters.stale += 1
            return
        first, new = self._epoch == 0, event.epoch > self._epoch
        self._epoch = event.epoch
        if event.online:
            self._heard_ms = now_ms
            if new and not first:
                self._renew(now_ms, actions)

    def _renew(self, now_ms: float, actions: list[Action]) -> None:
        """Everything may have been lost: submit and ask again, now."""
        for number, batch in list(self._batches.items()):
            batch.wait_ms = FIRST_RESEND_MS
            self.counters.resent += len(batch.open)
            self._send_batch(number, batch, now_ms, actions)
        self._ask(list(self._questions), now_ms, actions)

    def _pass_time(self, now_ms: float, actions: list[Action]) -> None:
        if self._tasks and now_ms - self._heard_ms >= self.patience_ms:
            self._give_up(list(self._tasks), actions)
            return
        while self._resends and self._resends[0][0] <= now_ms:
            at_ms, number = heapq.heappop(self._resends)
            batch = self._batches.get(number)
            if batch is None or batch.resend_at_ms != at_ms:
                continue
            if now_ms - batch.first_sent_ms >= self.patience_ms:
                self._give_up(list(batch.open), actions)
                continue
            batch.wait_ms = min(LAST_RESEND_MS, batch.wait_ms * 2)
            self.counters.resent += len(batch.open)
            self._send_batch(number, batch, now_ms, actions)
        due = [
            task_id
            for task_id, at_ms in islice(self._questions.items(), IDS_PER_MESSAGE)
            if at_ms <= now_ms
        ]
        if due:
            self._ask(due, now_ms, actions)

    def _give_up(self, task_ids: list[bytes], actions: list[Action]) -> None:
        for task_id in task_ids:
            self._drop(task_id)
        self.counters.given_up += len(task_ids)
        actions.append(GiveUp(tuple(task_ids)))

    def _start_waiting(self, now_ms: float) -> None:
        if not self._tasks:
            self._heard_ms = now_ms

    def _plan(self, now_ms: float, actions: list[Action]) -> None:
        if not self._tasks:
            self._resends.clear()
            return
        wanted = self._heard_ms + self.patience_ms
        if self._resends:
            wanted = min(wanted, self._resends[0][0])
        if self._questions:
            first = next(iter(self._questions.values()))
            wanted = min(wanted, max(first, now_ms + ASK_PAUSE_MS))
        if self._wake_ms is None or wanted < self._wake_ms:
            self._wake_ms = wanted
            actions.append(WakeAt(wanted))


def _ended(outcome: Outcome, status: OutcomeStatus, code: ErrorCode, text: str) -> Outcome:
    return Outcome(outcome.task_id, status, code, text.encode(), "", 0, 0, 0)
