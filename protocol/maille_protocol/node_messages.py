"""Messages of a node: birth, capabilities, heartbeats, results. Bodies as `messages` says."""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import (
    ErrorCode,
    MessageType,
    ModelFormat,
    NodeKind,
    NodeState,
    ResultStatus,
)
from maille_protocol.contents import (
    Content,
    attempt_from_body,
    content_from_body,
    content_to_body,
    task_id_from_body,
)
from maille_protocol.limits import MAX_NAME_CHARACTERS, MAX_UINT32, MAX_UINT64, WARM_MODEL_BYTES


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
            fields.text(name, "name", MAX_NAME_CHARACTERS),
            fields.text(software, "software", MAX_NAME_CHARACTERS),
            fields.uint(slots, 4096, "slots"),
            fields.items(formats, lambda item: fields.code(item, ModelFormat, "format"), "formats"),
            fields.uint(max_message, MAX_UINT32, "largest message"),
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
            fields.uint(running, MAX_UINT32, "running"),
            fields.uint(queued, MAX_UINT32, "queued"),
            fields.uint(latency, MAX_UINT64, "latency"),
            None if battery is None else fields.uint(battery, 100, "battery"),
            fields.items(
                warm, lambda item: fields.octets(item, WARM_MODEL_BYTES, "warm model"), "warm"
            ),
            fields.items(held, attempt_from_body, "held"),
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
            content_to_body(self.content),
            self.run_us,
            self.queue_us,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse one element of `Results`; WireError."""
        task_id, attempt, epoch, status, code, content, run, queue = fields.array(body, 8, "result")
        return cls(
            task_id_from_body(task_id),
            fields.uint(attempt, MAX_UINT32, "attempt"),
            fields.uint(epoch, MAX_UINT64, "epoch"),
            fields.code(status, ResultStatus, "status"),
            fields.code(code, ErrorCode, "code"),
            content_from_body(content),
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
                task_id_from_body(task_id),
                fields.uint(attempt, MAX_UINT32, "attempt"),
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
