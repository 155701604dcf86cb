"""Messages between a client and the coordinator: tasks and what became of them.

Bodies as `messages` says.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import ErrorCode, MessageType, OutcomeStatus
from maille_protocol.contents import (
    Content,
    content_from_body,
    content_to_body,
    task_id_from_body,
)
from maille_protocol.limits import MAX_NAME_CHARACTERS, MAX_UINT32, MAX_UINT64


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
            [[task.task_id, content_to_body(task.content)] for task in self.tasks],
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        batch, model, version, priority, deadline, max_attempts, flags, target, tasks = (
            fields.array(body, 9, "submit")
        )

        def submission(value: object) -> Submission:
            task_id, content = fields.array(value, 2, "submission")
            return Submission(task_id_from_body(task_id), content_from_body(content))

        return cls(
            fields.uint(batch, MAX_UINT64, "batch"),
            fields.text(model, "model", MAX_NAME_CHARACTERS),
            fields.uint(version, MAX_UINT32, "version"),
            fields.uint(priority, 9, "priority"),
            fields.uint(deadline, MAX_UINT32, "deadline"),
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
        return cls(fields.items(body, task_id_from_body, "ask"))


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
        return cls(fields.items(body, task_id_from_body, "withdraw"))


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
            content_to_body(self.content),
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
            task_id_from_body(task_id),
            fields.code(status, OutcomeStatus, "status"),
            fields.code(code, ErrorCode, "code"),
            content_from_body(content),
            fields.text(node, "node", 32),
            fields.uint(attempts, MAX_UINT32, "attempts"),
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
