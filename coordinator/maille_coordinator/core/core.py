"""The coordinator's decisions: `Core.handle(event, now_ms) -> actions`, the only mutator.

No I/O, no clock, no randomness of its own. `now_ms` is unix time in milliseconds that never goes
back while the process runs, so that deadlines in the journal keep their meaning over restarts.

The work is done by parts that share one outbox: `Presence` (who is there), `Admission` (what may
become a task), `Lifecycle` (what becomes of it), `Attempts` (what nodes say of it), `Scheduler`
(which node is best) and `Dispatcher` (gives it out).
"""

from dataclasses import dataclass
from random import Random

from maille_coordinator.core.actions import (
    Accept,
    Action,
    ClearRetained,
    SendToNode,
    Tell,
    TellFromJournal,
    WakeAt,
    Write,
)
from maille_coordinator.core.admission import Admission, StoredSize
from maille_coordinator.core.attempts import Attempts
from maille_coordinator.core.counters import Counters
from maille_coordinator.core.dispatch import Dispatcher
from maille_coordinator.core.ended import EndedTasks
from maille_coordinator.core.events import (
    BrokerConnected,
    BrokerLost,
    ClientSpoke,
    DrainAsked,
    Event,
    ForgetAsked,
    ModelAdded,
    ModelRefused,
    ModelRemoved,
    NodeSpoke,
    ProcessStalled,
    ResumeAsked,
    TasksRestored,
    TimeReached,
    WishesRestored,
)
from maille_coordinator.core.invariants import check
from maille_coordinator.core.lifecycle import Lifecycle, outcome_of
from maille_coordinator.core.outbox import Outbox
from maille_coordinator.core.presence import Presence
from maille_coordinator.core.registry import ModelKey, NodeRecord, Registry
from maille_coordinator.core.scheduler import Scheduler
from maille_coordinator.core.tasks import Task
from maille_coordinator.core.timers import CheckNode, EndBucket, LookAgain, RetryTask, Timers
from maille_coordinator.records import ModelRecord, NodeWish, TaskEnd, TaskRecord
from maille_protocol import (
    Ask,
    BoardState,
    Control,
    ControlOrder,
    ErrorCode,
    Heartbeat,
    Log,
    ModelReport,
    ModelState,
    NodeInfo,
    NodeStatus,
    Outcome,
    OutcomeStatus,
    Progress,
    Readings,
    Result,
    Results,
    StageReport,
    Submit,
    TaskState,
    Tokens,
    Withdraw,
)
from maille_protocol.limits import WARM_MODEL_BYTES

STALLED_MS = 500.0
"""A timer that is run so late shows that this process stood still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLimits:
    """Bounds and defaults of one coordinator."""

    max_open_tasks: int = 200_000
    max_input_bytes: int = 64 * 1024 * 1024
    default_deadline_ms: int = 3_600_000
    default_max_attempts: int = 5
    remembered_ids: int = 100_000
    """Ids of ended tasks kept, so that a task submitted again does not run again."""
    remembered_end_bytes: int = 32 * 1024 * 1024
    """Ends of tasks kept in memory for clients that ask again."""


class Core:
    """All that a coordinator knows and decides."""

    def __init__(
        self,
        *,
        epoch: int,
        random: Random,
        limits: CoreLimits | None = None,
        stored_size: StoredSize | None = None,
    ) -> None:
        self.epoch = epoch
        self.limits = limits or CoreLimits()
        self.counters = Counters()
        self.registry = Registry()
        self.models: dict[ModelKey, ModelRecord] = {}
        self._outbox = Outbox()
        self._timers = Timers()
        self._scheduler = Scheduler(random)
        self._presence = Presence(self.registry, self.counters)
        self._admission = Admission(self.models, self.limits.max_input_bytes, stored_size)
        self._life = Lifecycle(
            models=self.models,
            registry=self.registry,
            scheduler=self._scheduler,
            timers=self._timers,
            counters=self.counters,
            outbox=self._outbox,
            ended=EndedTasks(self.limits.remembered_ids, self.limits.remembered_end_bytes),
            random=random,
        )
        self._attempts = Attempts(
            epoch=epoch,
            life=self._life,
            scheduler=self._scheduler,
            timers=self._timers,
            counters=self.counters,
        )
        self._dispatcher = Dispatcher(
            life=self._life,
            registry=self.registry,
            scheduler=self._scheduler,
            counters=self.counters,
            outbox=self._outbox,
        )
        self._checked: set[str] = set()
        self._awake_at_ms = float("inf")
        self._deaf = True

    # --- the one entry ---------------------------------------------------------------------

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """Take an event; what is returned must be done, in order."""
        due_ms = self._timers.next_ms
        if due_ms is not None and now_ms - due_ms > STALLED_MS:
            # Nobody woke us: whatever nodes said meanwhile may still lie unread.
            self._grant_grace(now_ms)
        match event:
            case NodeSpoke():
                self._node_spoke(event, now_ms)
            case ClientSpoke(client, message):
                match message:
                    case Submit():
                        self._submit(client, message, now_ms)
                    case Ask():
                        self._ask(client, message)
                    case Withdraw():
                        for task_id in message.task_ids:
                            self._cancel(client, task_id, now_ms)
            case ModelAdded(model):
                self.models[model.name, model.version] = model
                # Added again because its bytes were damaged: nodes get a new chance at once.
                self._scheduler.forgive(self.registry, (model.name, model.version))
            case ModelRefused(name, version, node, code, text):
                self._life.refuse_waiting((name, version), node, code, text, now_ms)
            case ModelRemoved(name, version):
                self._remove_model(name, version, now_ms)
            case TasksRestored():
                self._restore(event, now_ms)
            case WishesRestored(wishes):
                for wish in wishes:
                    if wish.drained is not None:
                        self.registry.wishes[wish.node] = wish.drained
            case DrainAsked(node):
                self._drain(node, now_ms, wanted=True)
            case ResumeAsked(node):
                self._drain(node, now_ms, wanted=False)
            case ForgetAsked(node):
                self._forget(node)
            case BrokerConnected():
                self._deaf = False
                self._grant_grace(now_ms)
            case BrokerLost():
                self._deaf = True
            case ProcessStalled():
                self._grant_grace(now_ms)
            case TimeReached():
                self._awake_at_ms = float("inf")
        self._run_timers(now_ms)
        self._dispatcher.run(now_ms)
        wake_ms = self._timers.next_ms
        if wake_ms is not None and wake_ms < self._awake_at_ms:
            self._awake_at_ms = wake_ms
            self._outbox.add(WakeAt(wake_ms))
        return self._outbox.take()

    # --- what people and the shell may read --------------------------------------------------

    @property
    def tasks(self) -> dict[bytes, Task]:
        """The open tasks by id, oldest first."""
        return self._life.tasks

    @property
    def queued(self) -> int:
        """Tasks that wait for a node; cancelled ones may be counted for a while."""
        return sum(len(queue) for queue in self._life.queues.values())

    def end_of(self, task_id: bytes) -> TaskEnd | None:
        """How a task ended, if it did lately."""
        return self._life.ended.get(task_id)

    def sizes(self) -> dict[str, int]:
        """How much the core keeps, for tests and simulations that hold it to its bounds."""
        life = self._life
        return {
            "tasks": len(life.tasks),
            "queued": self.queued,
            "ended": len(life.ended),
            "timers": len(self._timers),
            "deadline_seconds": life.deadline_seconds,
            "nodes": len(self.registry),
        }

    def validate(self) -> None:
        """InvariantBroken if what the core holds contradicts itself."""
        waiting = {task.record.task_id for queue in self._life.queues.values() for task in queue}
        check(self.tasks, self.registry, waiting | self._timers.delayed_ids())

    # --- nodes -----------------------------------------------------------------------------

    def _node_spoke(self, event: NodeSpoke, now_ms: float) -> None:
        heard = self._presence.hear(event.node, event.envelope, event.retained, now_ms)
        self._outbox.add(*heard.actions)
        record = heard.record
        if record is None:
            return
        if heard.lost_reason is not None:
            self._attempts.release(record, heard.lost_reason, now_ms)
        if heard.accepted:
            self._take_message(record, event, now_ms)
        if record.alive and record.node not in self._checked:
            self._checked.add(record.node)
            self._timers.add(self._presence.check_at_ms(record), CheckNode(record.node))
        self._scheduler.refresh(record)

    def _take_message(self, record: NodeRecord, event: NodeSpoke, now_ms: float) -> None:
        message = event.envelope.message
        match message:
            case Results(results):
                for result in results:
                    if result.code is ErrorCode.MODEL_NOT_HELD:
                        self._not_held(record, result)
                    self._attempts.result(record, result, now_ms)
            case Heartbeat():
                self._attempts.heartbeat(record, message, now_ms)
            case Progress():
                self._attempts.progress(record, message)
            case Log(level, text):
                self._outbox.report("node.log", now_ms, record.node, text, {"level": level})
            case NodeStatus() | NodeInfo():
                pass  # presence took them
            case StageReport() | Tokens():
                pass  # for the language models, which the shell tells
            case BoardState(models=models):
                record.board = message
                record.warm = frozenset(model.sha256[:WARM_MODEL_BYTES] for model in models)
            case ModelReport(state=ModelState.READY, sha256=bytes() as sha256):
                record.warm |= {sha256[:WARM_MODEL_BYTES]}
            case ModelReport(state=ModelState.GONE, sha256=bytes() as sha256):
                record.warm -= {sha256[:WARM_MODEL_BYTES]}
            case ModelReport() | Readings():
                pass  # for the boards, which the shell tells
            case _:
                self.counters.messages_unannounced += 1

    def _not_held(self, record: NodeRecord, result: Result) -> None:
        """A board has lost a model: it is delivered again before the next offer."""
        task = record.outstanding.get(result.task_id)
        if task is None or not record.is_board:
            return
        model = self.models.get((task.record.model, task.record.version))
        if model is not None:
            record.warm -= {model.sha256[:WARM_MODEL_BYTES]}

    def _drain(self, node: str, now_ms: float, *, wanted: bool) -> None:
        record = self.registry.get(node)
        if record is None and node not in self.registry.wishes:
            return
        self.registry.wishes[node] = wanted
        self._outbox.add(Write(NodeWish(node, wanted)))
        if record is None:
            return  # told when it is there
        record.drain_wanted = wanted
        record.resume_wanted = not wanted
        record.wish_since_ms = now_ms
        record.order_sent_ms = now_ms
        command = Control.DRAIN if wanted else Control.RESUME
        self._outbox.add(SendToNode(node, ControlOrder(command, 0, "asked by a person")))
        self._scheduler.refresh(record)

    def _forget(self, node: str) -> None:
        record = self.registry.get(node)
        if record is not None and record.alive:
            return
        if self.registry.wishes.pop(node, None) is not None:
            self._outbox.add(Write(NodeWish(node, None)))
        if record is None:
            return
        self.registry.remove(node)
        self._scheduler.refresh(record)
        self._outbox.add(ClearRetained(node))

    def _grant_grace(self, now_ms: float) -> None:
        """Nobody could be heard for a while: start every node's silence anew."""
        for record in self.registry:
            if record.alive:
                record.last_heard_ms = now_ms
                for task in record.outstanding.values():
                    task.offered_ms = max(task.offered_ms, now_ms)

    # --- clients ---------------------------------------------------------------------------

    def _submit(self, client: str, submit: Submit, now_ms: float) -> None:
        admitted = self._admission.check(submit, self.registry)
        for submission, unfit in admitted.tasks:
            task_id = submission.task_id
            if task_id in self._life.ended:
                self._tell_again(client, task_id)
                continue
            if task_id in self.tasks:
                continue
            refusal = unfit
            if refusal is None and len(self.tasks) >= self.limits.max_open_tasks:
                refusal = self._admission.queue_full(self.limits.max_open_tasks)
            if refusal is not None or admitted.model is None:
                code, text = refusal or (ErrorCode.UNKNOWN_MODEL, "")
                self.counters.tasks_rejected += 1
                self._outbox.add(
                    Tell(
                        client,
                        Outcome(task_id, OutcomeStatus.REJECTED, code, text.encode(), "", 0, 0, 0),
                    )
                )
                continue
            deadline_ms = submit.deadline_ms or self.limits.default_deadline_ms
            record = TaskRecord(
                task_id,
                client,
                admitted.model.name,
                admitted.model.version,
                submit.priority,
                int(now_ms),
                int(now_ms) + deadline_ms,
                submit.max_attempts or self.limits.default_max_attempts,
                submit.flags,
                submit.target,
                submission.content,
            )
            self._life.open(record, now_ms)
            self._outbox.add(Write(record))
            self.counters.tasks_accepted += 1
        task_ids = tuple(task.task_id for task in submit.tasks)
        self._outbox.add(Accept(client, submit.batch, task_ids))

    def _ask(self, client: str, ask: Ask) -> None:
        for task_id in ask.task_ids:
            task = self.tasks.get(task_id)
            if task is not None:
                status = OutcomeStatus.OPEN
                text = task.state.value.encode()
                outcome = Outcome(
                    task_id, status, ErrorCode.NONE, text, task.node, task.attempt, 0, 0
                )
                self._outbox.add(Tell(client, outcome))
            elif task_id in self._life.ended:
                self._tell_again(client, task_id)
            else:
                # The journal may remember longer than this memory does.
                self._outbox.add(TellFromJournal(client, (task_id,)))

    def _tell_again(self, client: str, task_id: bytes) -> None:
        end = self._life.ended.get(task_id)
        if end is None:
            self._outbox.add(TellFromJournal(client, (task_id,)))
        else:
            self._outbox.add(Tell(client, outcome_of(end)))

    def _cancel(self, client: str, task_id: bytes, now_ms: float) -> None:
        task = self.tasks.get(task_id)
        if task is not None:
            self._life.end(
                task,
                OutcomeStatus.CANCELLED,
                ErrorCode.NONE,
                f"cancelled by {client}".encode(),
                now_ms,
            )
        elif task_id in self._life.ended:
            self._tell_again(client, task_id)

    # --- models ----------------------------------------------------------------------------

    def _remove_model(self, name: str, version: int, now_ms: float) -> None:
        self.models.pop((name, version), None)
        self._scheduler.forget_model((name, version))
        for record in self.registry:
            record.skills.pop((name, version), None)
        text = f"model {name} version {version} was removed"
        self._life.fail_waiting((name, version), text, now_ms)

    def _restore(self, event: TasksRestored, now_ms: float) -> None:
        self._life.ended.add_ids(event.ended_ids)
        for record, mark in event.open_tasks:
            if (record.model, record.version) not in self.models:
                self._life.end_restored(
                    record,
                    now_ms,
                    ErrorCode.UNKNOWN_MODEL,
                    f"model {record.model} version {record.version} is gone",
                )
            elif mark is not None:
                self._life.end_restored(
                    record,
                    now_ms,
                    ErrorCode.OUTCOME_UNKNOWN,
                    f"the coordinator restarted while node {mark.node} held this at-most-once task",
                )
            else:
                self._life.open(record, float(record.accepted_at_unix_ms))

    # --- time ------------------------------------------------------------------------------

    def _run_timers(self, now_ms: float) -> None:
        while (timer := self._timers.due(now_ms)) is not None:
            match timer:
                case CheckNode(node):
                    self._check_node(node, now_ms)
                case RetryTask(task):
                    if task.state is TaskState.QUEUED:
                        self._life.requeue(task, now_ms)
                case LookAgain():
                    self._scheduler.capacity_changes += 1
                case EndBucket(second):
                    self._life.expire_bucket(second, now_ms)

    def _check_node(self, node: str, now_ms: float) -> None:
        self._checked.discard(node)
        record = self.registry.get(node)
        if record is None or not record.alive:
            return
        if self._deaf:
            record.last_heard_ms = now_ms
        actions, lost_reason = self._presence.check(record, now_ms)
        self._outbox.add(*actions)
        if lost_reason is not None:
            self._attempts.release(record, lost_reason, now_ms)
        else:
            self._checked.add(node)
            self._timers.add(self._presence.check_at_ms(record), CheckNode(node))
        self._scheduler.refresh(record)
