"""The account that a run keeps of what was promised and what happened, apart from the cores."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from maille.client_events import TaskSettings
from maille_coordinator.core.lifecycle import NOT_THE_TASKS_FAULT
from maille_coordinator.records import TaskEnd
from maille_protocol import ErrorCode, Outcome, OutcomeStatus, Reference, TaskFlag
from maille_protocol.contents import Content
from maille_simulator.virtual.violation import Violation


@dataclass(slots=True)
class Promise:
    """One submitted task."""

    client: str
    settings: TaskSettings
    content: Content
    submitted_ms: float
    withdrawn: bool = False
    broken: bool = False
    """Whether its model fails by its own fault."""
    runs: int = 0
    outcome: Outcome | None = None
    delivered_ms: float = 0.0


@dataclass(slots=True)
class Ledger:
    """What was submitted, ran and was delivered; raises Violation where a promise breaks."""

    tasks: dict[bytes, Promise] = field(default_factory=dict)
    delivered: int = 0
    runs: int = 0
    clock_jumped: bool = False
    """Deadlines are dates of the coordinator's clock: a jump may end tasks early or late."""
    twinned: set[str] = field(default_factory=set)
    """Ids that two processes had at a time."""
    outcomes: Counter[OutcomeStatus] = field(default_factory=Counter)

    @property
    def all_delivered(self) -> bool:
        """Whether every client has heard of all its tasks."""
        return self.delivered == len(self.tasks)

    def submit(
        self,
        client: str,
        task_id: bytes,
        settings: TaskSettings,
        content: Content,
        now_ms: float,
        *,
        broken: bool,
    ) -> None:
        """A client hands a task to its core."""
        self.tasks[task_id] = Promise(client, settings, content, now_ms, broken=broken)

    def started(self, node: str, task_id: bytes, content: Content) -> None:
        """A node begins to run a task."""
        promise = self.tasks.get(task_id)
        if promise is None:
            raise Violation("unknown task", f"{node} runs {task_id.hex()}, which nobody submitted")
        if content != promise.content:
            raise Violation("content", f"{node} runs {task_id.hex()} with another task's input")
        promise.runs += 1
        self.runs += 1
        if promise.runs > 1 and promise.settings.flags & TaskFlag.AT_MOST_ONCE:
            raise Violation("at most once", f"{node} runs {task_id.hex()} a second time")

    def deliver(
        self, client: str, outcome: Outcome, ends: Mapping[bytes, TaskEnd], now_ms: float
    ) -> None:
        """A client's core hands an outcome to its program."""
        task_id = outcome.task_id
        promise = self.tasks.get(task_id)
        name = task_id.hex()
        if promise is None or promise.client != client:
            raise Violation("delivery", f"{client} hears of {name}, which is not its own")
        if promise.outcome is not None:
            raise Violation("delivered once", f"{client} hears of {name} a second time")
        promise.outcome = outcome
        promise.delivered_ms = now_ms
        self.delivered += 1
        self.outcomes[outcome.status] += 1
        self._check_end(name, promise, outcome, ends.get(task_id), now_ms)

    def _check_end(
        self, name: str, promise: Promise, outcome: Outcome, end: TaskEnd | None, now_ms: float
    ) -> None:
        status, code = outcome.status, outcome.code
        if status is OutcomeStatus.REJECTED and code is ErrorCode.NO_SUCH_NODE:
            if promise.settings.target is None:
                raise Violation("failed without a cause", f"{name} was meant for no node")
            return  # a coordinator that has just started knows no node yet
        if end is None and not (promise.withdrawn and status is OutcomeStatus.CANCELLED):
            text = f"{name} was told as {status.name} but the journal has no end of it"
            raise Violation("told what is not on disk", text)
        if end is not None and end.status is not status:
            text = f"{name} was told as {status.name}, the journal says {end.status.name}"
            raise Violation("told what is not on disk", text)
        at_most_once = bool(promise.settings.flags & TaskFlag.AT_MOST_ONCE)
        match status:
            case OutcomeStatus.DONE:
                right = not promise.broken and outcome.content == answer_to(promise.content)
                if not right:
                    raise Violation("content", f"{name} has another task's output")
                if not promise.runs:
                    raise Violation("content", f"{name} is done but never ran")
            case OutcomeStatus.CANCELLED:
                if not promise.withdrawn:
                    raise Violation("cancelled", f"{name} was cancelled by nobody")
            case OutcomeStatus.EXPIRED:
                took_ms = now_ms - promise.submitted_ms
                deadline_ms = promise.settings.deadline_ms
                if not self.clock_jumped and (not deadline_ms or took_ms < deadline_ms - 1):
                    text = f"{name} expired after {took_ms:.0f} ms, its deadline is {deadline_ms}"
                    raise Violation("expired early", text)
            case OutcomeStatus.DEAD if end is not None:
                tried = sum(one.code not in NOT_THE_TASKS_FAULT for one in end.history)
                strays = sum(one.code is ErrorCode.LEASE_EXPIRED for one in end.history)
                most = promise.settings.max_attempts or 5
                if tried < most and strays < most * 10:
                    text = f"{name} is dead after {tried} of {most} failures: {end.history}"
                    raise Violation("dead early", text)
            case OutcomeStatus.FAILED:
                allowed = (at_most_once and code is ErrorCode.OUTCOME_UNKNOWN) or (
                    promise.broken and code is ErrorCode.MODEL_ERROR
                )
                if not allowed:
                    text = f"{name} failed with {code.name}: {outcome.content!r}"
                    raise Violation("failed without a cause", text)
            case _:
                text = f"{name} ended as {status.name} {code.name}: {outcome.content!r}"
                raise Violation("failed without a cause", text)


def answer_to(content: Content) -> bytes:
    """What a run gives: it shows which input it had."""
    if isinstance(content, Reference):
        return b"of " + content.sha256
    return b"=" + content
