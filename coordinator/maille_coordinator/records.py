"""The plain records that the coordinator's parts hand to each other."""

from dataclasses import dataclass, field

from maille_protocol import ErrorCode, ModelFormat, NodeInfo, NodeState, OutcomeStatus
from maille_protocol.contents import Content
from maille_protocol.signature import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One version of one model in the catalogue."""

    name: str
    version: int
    sha256: bytes
    size_bytes: int
    format: ModelFormat
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    added_at_unix_ms: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as it was accepted; what a restart needs to run it again."""

    task_id: bytes
    client: str
    model: str
    version: int
    priority: int
    accepted_at_unix_ms: int
    deadline_at_unix_ms: int
    max_attempts: int
    flags: int
    target: str | None
    content: Content


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One ended attempt in a task's history."""

    attempt: int
    node: str
    code: ErrorCode
    reason: str
    started_at_unix_ms: int
    ended_at_unix_ms: int


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended: what its client is told and what `maille tasks show` prints."""

    task_id: bytes
    status: OutcomeStatus
    code: ErrorCode
    content: Content
    node: str
    attempts: int
    run_us: int
    total_us: int
    ended_at_unix_ms: int
    history: tuple[AttemptRecord, ...] = ()
    """Attempts before the last one; all of them if the task is dead."""


@dataclass(frozen=True, slots=True)
class StartedMark:
    """Written before an at-most-once task is offered: it is never offered again."""

    task_id: bytes
    node: str


@dataclass(frozen=True, slots=True)
class NodeWish:
    """What a person wants of a node: it holds until the person wants something else."""

    node: str
    drained: bool | None
    """True: no more work for it. False: work again; kept until the node says that it takes it.
    None: nothing, the wish is fulfilled or the node forgotten."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as lists and the HTTP API show it. `state` is a `TaskState` value."""

    task_id: bytes
    client: str
    model: str
    version: int
    state: str
    priority: int
    accepted_at_unix_ms: int
    node: str
    attempts: int
    ended_at_unix_ms: int | None = None
    code: ErrorCode = ErrorCode.NONE
    run_us: int = 0
    total_us: int = 0
    content: Content | None = None
    history: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as lists and the HTTP API show it."""

    node: str
    state: NodeState
    info: NodeInfo | None
    boot: int
    last_heard_ms_ago: int
    running: int
    queued: int
    outstanding: int
    """Attempts that the coordinator counts as being on the node."""
    latency_us: int
    done: int
    failed: int
    battery_percent: int | None
    warm_models: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MeshEvent:
    """One line of the event stream (`/api/events`). `kind` such as "node.ready", "task.dead"."""

    kind: str
    at_unix_ms: int
    subject: str
    """A node id, a task id in hex, or a model's name."""
    text: str = ""
    details: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram of durations."""

    buckets: tuple[tuple[float, int], ...]
    """(upper bound in seconds, how many were at most that long); the last bound is infinite."""
    sum_s: float
