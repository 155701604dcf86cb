"""Every message as a frozen dataclass, with its place in the envelope's body.

A body is a CBOR array with fixed positions, in the order of the dataclass's fields.
`protocol/maille.cddl` is the same in CDDL; a test holds the two together.
Times are in milliseconds or microseconds of the sender's own clock: differences, never dates.
"""

from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

from maille_protocol import fields
from maille_protocol.boards import BoardState, Chunk, ModelOrder, ModelReport, Readings, SenseOrder
from maille_protocol.cbor import Plain
from maille_protocol.codes import (
    Control,
    ErrorCode,
    MessageType,
    ModelFormat,
    NodeKind,
    NodeState,
    OutcomeStatus,
    ResultStatus,
)
from maille_protocol.errors import WireError
from maille_protocol.language import (
    Activation,
    Route,
    StageOrder,
    StageReport,
    Tokens,
)
from maille_protocol.limits import (
    MAX_ARTEFACT_BYTES,
    MAX_INLINE_CONTENT_BYTES,
    MAX_UINT64,
    SHA256_BYTES,
    TASK_ID_BYTES,
    WARM_MODEL_BYTES,
)
from maille_protocol.reference import ModelReference, Reference
from maille_protocol.sessions import SessionOrder

_MAX_UINT32 = (1 << 32) - 1
_MAX_NAME_CHARACTERS = 64


Content: TypeAlias = bytes | Reference
"""Encoded tensors (see `tensors`), or a reference to an artefact that holds them."""


def _content_to_body(content: Content) -> Plain:
    if isinstance(content, bytes):
        return content
    return [content.sha256, content.size_bytes]


def _content_from_body(value: object) -> Content:
    if type(value) is bytes:
        if len(value) > MAX_INLINE_CONTENT_BYTES:
            raise WireError(f"content: {len(value)} bytes, {MAX_INLINE_CONTENT_BYTES} are allowed")
        return value
    sha256, size = fields.array(value, 2, "content")
    return Reference(
        fields.octets(sha256, SHA256_BYTES, "content sha256"),
        fields.uint(size, MAX_ARTEFACT_BYTES, "content size"),
    )


def _task_id(value: object) -> bytes:
    return fields.octets(value, TASK_ID_BYTES, "task id")


def _attempt_pair(value: object) -> tuple[bytes, int]:
    task_id, attempt = fields.array(value, 2, "attempt")
    return _task_id(task_id), fields.uint(attempt, _MAX_UINT32, "attempt")


# --- from a node -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Birth, change of state, or will (then `LOST`, with seq 0). Retained."""

    TYPE: ClassVar = MessageType.NODE_STATUS
    state: NodeState
    reason: str = ""

    def to_body(self) -> Plain:
        """The body's array."""
        return [int(self.state), self.reason]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        state, reason = fields.array(body, 2, "status")
        return cls(fields.code(state, NodeState, "state"), fields.text(reason, "reason"))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a node measured about itself when it started; 0 means not measured."""

    cores: int = 0
    memory_bytes: int = 0
    multiply_accumulates_per_s: int = 0
    memory_bytes_per_s: int = 0
    disk_free_bytes: int = 0
    accelerators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node's capabilities. Retained."""

    TYPE: ClassVar = MessageType.NODE_INFO
    kind: NodeKind
    name: str
    software: str
    slots: int
    formats: tuple[ModelFormat, ...]
    max_message_bytes: int
    measured: Measured
    gateway: str | None = None

    def to_body(self) -> Plain:
        """The body's array."""
        measured = self.measured
        return [
            int(self.kind),
            self.name,
            self.software,
            self.slots,
            [int(model_format) for model_format in self.formats],
            self.max_message_bytes,
            [
                measured.cores,
                measured.memory_bytes,
                measured.multiply_accumulates_per_s,
                measured.memory_bytes_per_s,
                measured.disk_free_bytes,
                list(measured.accelerators),
            ],
            self.gateway,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        kind, name, software, slots, formats, max_message, measured, gateway = fields.array(
            body, 8, "info"
        )
        cores, memory, macs, bandwidth, disk, accelerators = fields.array(measured, 6, "measured")
        return cls(
            fields.code(kind, NodeKind, "kind"),
            fields.text(name, "name", _MAX_NAME_CHARACTERS),
            fields.text(software, "software", _MAX_NAME_CHARACTERS),
            fields.uint(slots, 4096, "slots"),
            fields.items(formats, lambda item: fields.code(item, ModelFormat, "format"), "formats"),
            fields.uint(max_message, _MAX_UINT32, "largest message"),
            Measured(
                fields.uint(cores, 65535, "cores"),
                fields.uint(memory, MAX_UINT64, "memory"),
                fields.uint(macs, MAX_UINT64, "multiply-accumulates"),
                fields.uint(bandwidth, MAX_UINT64, "memory bandwidth"),
                fields.uint(disk, MAX_UINT64, "free disk"),
                fields.items(
                    accelerators,
                    lambda item: fields.text(item, "accelerator", 200),
                    "accelerators",
                ),
            ),
            None if gateway is None else fields.identifier(gateway, "gateway"),
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node is alive, and how busy it is. Renews the lease of every attempt in `held`."""

    TYPE: ClassVar = MessageType.HEARTBEAT
    uptime_ms: int
    running: int
    queued: int
    latency_us: int
    """Median time of recent runs, 0 if none."""
    battery_percent: int | None
    warm: tuple[bytes, ...]
    """Models in memory, each by the first 8 bytes of its SHA-256."""
    held: tuple[tuple[bytes, int], ...]
    """(task id, attempt) that the node has had for longer than half a heartbeat interval."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            self.uptime_ms,
            self.running,
            self.queued,
            self.latency_us,
            self.battery_percent,
            list(self.warm),
            [[task_id, attempt] for task_id, attempt in self.held],
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        uptime, running, queued, latency, battery, warm, held = fields.array(body, 7, "heartbeat")
        return cls(
            fields.uint(uptime, MAX_UINT64, "uptime"),
            fields.uint(running, _MAX_UINT32, "running"),
            fields.uint(queued, _MAX_UINT32, "queued"),
            fields.uint(latency, MAX_UINT64, "latency"),
            None if battery is None else fields.uint(battery, 100, "battery"),
            fields.items(
                warm, lambda item: fields.octets(item, WARM_MODEL_BYTES, "warm model"), "warm"
            ),
            fields.items(held, _attempt_pair, "held"),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """How one attempt ended. `content`: outputs if done, else a text that names the cause."""

    task_id: bytes
    attempt: int
    epoch: int
    status: ResultStatus
    code: ErrorCode
    content: Content
    run_us: int
    queue_us: int

    def to_body(self) -> Plain:
        """One element of `Results`."""
        return [
            self.task_id,
            self.attempt,
            self.epoch,
            int(self.status),
            int(self.code),
            _content_to_body(self.content),
            self.run_us,
            self.queue_us,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse one element of `Results`; WireError."""
        task_id, attempt, epoch, status, code, content, run, queue = fields.array(body, 8, "result")
        return cls(
            _task_id(task_id),
            fields.uint(attempt, _MAX_UINT32, "attempt"),
            fields.uint(epoch, MAX_UINT64, "epoch"),
            fields.code(status, ResultStatus, "status"),
            fields.code(code, ErrorCode, "code"),
            _content_from_body(content),
            fields.uint(run, MAX_UINT64, "run time"),
            fields.uint(queue, MAX_UINT64, "queue time"),
        )


@dataclass(frozen=True, slots=True)
class Results:
    """Ends of attempts, several in one publish under load."""

    TYPE: ClassVar = MessageType.RESULTS
    results: tuple[Result, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [result.to_body() for result in self.results]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(fields.items(body, Result.from_body, "results"))


@dataclass(frozen=True, slots=True)
class ProgressMark:
    """A long attempt is alive and this far."""

    task_id: bytes
    attempt: int
    epoch: int
    permille: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Renews the lease of long attempts between heartbeats and shows how far they are."""

    TYPE: ClassVar = MessageType.PROGRESS
    marks: tuple[ProgressMark, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [[mark.task_id, mark.attempt, mark.epoch, mark.permille] for mark in self.marks]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""

        def mark(value: object) -> ProgressMark:
            task_id, attempt, epoch, permille = fields.array(value, 4, "progress")
            return ProgressMark(
                _task_id(task_id),
                fields.uint(attempt, _MAX_UINT32, "attempt"),
                fields.uint(epoch, MAX_UINT64, "epoch"),
                fields.uint(permille, 1000, "permille"),
            )

        return cls(fields.items(body, mark, "progress"))


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the mesh's log. `level` as in Python's logging: 10 debug to 50 critical."""

    TYPE: ClassVar = MessageType.LOG
    level: int
    text: str

    def to_body(self) -> Plain:
        """The body's array."""
        return [self.level, self.text]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        level, text = fields.array(body, 2, "log")
        return cls(fields.uint(level, 50, "level"), fields.text(text, "text"))


# --- to a node ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """One attempt of one task, to be answered by a `Result` within `remaining_ms`."""

    task_id: bytes
    attempt: int
    remaining_ms: int
    flags: int
    content: Content


@dataclass(frozen=True, slots=True)
class Offers:
    """Attempts of tasks of one model, several in one publish under load."""

    TYPE: ClassVar = MessageType.OFFERS
    model: ModelReference
    offers: tuple[Offer, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            self.model.to_body(),
            [
                [o.task_id, o.attempt, o.remaining_ms, o.flags, _content_to_body(o.content)]
                for o in self.offers
            ],
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        model, offers = fields.array(body, 2, "offers")

        def offer(value: object) -> Offer:
            task_id, attempt, remaining, flags, content = fields.array(value, 5, "offer")
            return Offer(
                _task_id(task_id),
                fields.uint(attempt, _MAX_UINT32, "attempt"),
                fields.uint(remaining, MAX_UINT64, "remaining time"),
                fields.uint(flags, 255, "flags"),
                _content_from_body(content),
            )

        return cls(
            ModelReference.from_body(model),
            fields.items(offers, offer, "offers"),
        )


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget these attempts; their results are no longer wanted."""

    TYPE: ClassVar = MessageType.CANCEL
    attempts: tuple[tuple[bytes, int], ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [[task_id, attempt] for task_id, attempt in self.attempts]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(fields.items(body, _attempt_pair, "cancel"))


@dataclass(frozen=True, slots=True)
class ControlOrder:
    """An order to the node's process whose boot number is `boot` (0: whichever listens)."""

    TYPE: ClassVar = MessageType.CONTROL
    command: Control
    boot: int = 0
    reason: str = ""

    def to_body(self) -> Plain:
        """The body's array."""
        return [int(self.command), self.boot, self.reason]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        command, boot, reason = fields.array(body, 3, "control")
        return cls(
            fields.code(command, Control, "command"),
            fields.uint(boot, MAX_UINT64, "boot"),
            fields.text(reason, "reason"),
        )


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """Who leads (its epoch stands in the envelope) and where its HTTP is. Retained, and the will."""

    TYPE: ClassVar = MessageType.COORDINATOR_STATE
    online: bool
    http_url: str

    def to_body(self) -> Plain:
        """The body's array."""
        return [self.online, self.http_url]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        online, http_url = fields.array(body, 2, "coordinator state")
        return cls(fields.boolean(online, "online"), fields.text(http_url, "http url", 200))


# --- of a client -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """One task: an id that the client drew at random, and its inputs."""

    task_id: bytes
    content: Content


@dataclass(frozen=True, slots=True)
class Submit:
    """Tasks of one model. Sent again under the same ids until `Accepted` arrives."""

    TYPE: ClassVar = MessageType.SUBMIT
    batch: int
    """The client's number for this message, echoed in `Accepted`."""
    model: str
    version: int
    """0 means the newest."""
    priority: int
    """0 to 9, higher first; 5 is usual."""
    deadline_ms: int
    """Time the tasks may take from acceptance to result; 0 means the coordinator's default."""
    max_attempts: int
    """0 means the coordinator's default."""
    flags: int
    target: str | None
    """Run on this node only."""
    tasks: tuple[Submission, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            self.batch,
            self.model,
            self.version,
            self.priority,
            self.deadline_ms,
            self.max_attempts,
            self.flags,
            self.target,
            [[task.task_id, _content_to_body(task.content)] for task in self.tasks],
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        batch, model, version, priority, deadline, max_attempts, flags, target, tasks = (
            fields.array(body, 9, "submit")
        )

        def submission(value: object) -> Submission:
            task_id, content = fields.array(value, 2, "submission")
            return Submission(_task_id(task_id), _content_from_body(content))

        return cls(
            fields.uint(batch, MAX_UINT64, "batch"),
            fields.text(model, "model", _MAX_NAME_CHARACTERS),
            fields.uint(version, _MAX_UINT32, "version"),
            fields.uint(priority, 9, "priority"),
            fields.uint(deadline, _MAX_UINT32, "deadline"),
            fields.uint(max_attempts, 100, "attempts"),
            fields.uint(flags, 255, "flags"),
            None if target is None else fields.identifier(target, "target"),
            fields.items(tasks, submission, "tasks"),
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """What became of these tasks? Answered by `Outcomes`."""

    TYPE: ClassVar = MessageType.ASK
    task_ids: tuple[bytes, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return list(self.task_ids)

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(fields.items(body, _task_id, "ask"))


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Cancel these tasks."""

    TYPE: ClassVar = MessageType.WITHDRAW
    task_ids: tuple[bytes, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return list(self.task_ids)

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(fields.items(body, _task_id, "withdraw"))


@dataclass(frozen=True, slots=True)
class Accepted:
    """The submissions with these batch numbers are on the coordinator's disk."""

    TYPE: ClassVar = MessageType.ACCEPTED
    batches: tuple[int, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return list(self.batches)

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(
            fields.items(body, lambda item: fields.uint(item, MAX_UINT64, "batch"), "accepted")
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task. `content`: outputs if done, else a text that names the cause."""

    task_id: bytes
    status: OutcomeStatus
    code: ErrorCode
    content: Content
    node: str
    """The node that answered, "" if none did."""
    attempts: int
    run_us: int
    total_us: int
    """From acceptance to result, by the coordinator's clock."""

    def to_body(self) -> Plain:
        """One element of `Outcomes`."""
        return [
            self.task_id,
            int(self.status),
            int(self.code),
            _content_to_body(self.content),
            self.node,
            self.attempts,
            self.run_us,
            self.total_us,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse one element of `Outcomes`; WireError."""
        task_id, status, code, content, node, attempts, run, total = fields.array(
            body, 8, "outcome"
        )
        return cls(
            _task_id(task_id),
            fields.code(status, OutcomeStatus, "status"),
            fields.code(code, ErrorCode, "code"),
            _content_from_body(content),
            fields.text(node, "node", 32),
            fields.uint(attempts, _MAX_UINT32, "attempts"),
            fields.uint(run, MAX_UINT64, "run time"),
            fields.uint(total, MAX_UINT64, "total time"),
        )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of tasks: sent when they end, and in answer to `Ask`."""

    TYPE: ClassVar = MessageType.OUTCOMES
    outcomes: tuple[Outcome, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [outcome.to_body() for outcome in self.outcomes]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(fields.items(body, Outcome.from_body, "outcomes"))


Message: TypeAlias = (
    NodeStatus
    | NodeInfo
    | Heartbeat
    | Results
    | Progress
    | Log
    | Offers
    | Cancel
    | ControlOrder
    | CoordinatorState
    | Submit
    | Ask
    | Withdraw
    | Accepted
    | Outcomes
    | StageOrder
    | StageReport
    | Route
    | SessionOrder
    | Activation
    | Tokens
    | ModelOrder
    | Chunk
    | SenseOrder
    | ModelReport
    | Readings
    | BoardState
)

MESSAGE_CLASSES: dict[int, type[Message]] = {
    message_class.TYPE: message_class
    for message_class in (
        NodeStatus,
        NodeInfo,
        Heartbeat,
        Results,
        Progress,
        Log,
        Offers,
        Cancel,
        ControlOrder,
        CoordinatorState,
        Submit,
        Ask,
        Withdraw,
        Accepted,
        Outcomes,
        StageOrder,
        StageReport,
        Route,
        SessionOrder,
        Activation,
        Tokens,
        ModelOrder,
        Chunk,
        SenseOrder,
        ModelReport,
        Readings,
        BoardState,
    )
}
