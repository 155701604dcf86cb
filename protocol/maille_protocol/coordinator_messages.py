"""Messages of the coordinator: offers and orders to nodes, who leads. Bodies as `messages` says."""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import Control, MessageType, TaskFlag
from maille_protocol.contents import (
    Content,
    attempt_from_body,
    content_from_body,
    content_to_body,
    task_id_from_body,
)
from maille_protocol.errors import WireError
from maille_protocol.limits import MAX_UINT32, MAX_UINT64
from maille_protocol.reference import ModelReference


@dataclass(frozen=True, slots=True)
class Offer:
    """One attempt of one task, to be answered by a `Result` within `remaining_ms`."""

    task_id: bytes
    attempt: int
    remaining_ms: int
    flags: int
    content: Content
    boot: int = 0
    """The process that is meant, never 0, if the task is to run at most once; else always 0."""

    def to_body(self) -> Plain:
        """The array: `boot` stands in it only with `TaskFlag.AT_MOST_ONCE`."""
        content = content_to_body(self.content)
        body: list[Plain] = [self.task_id, self.attempt, self.remaining_ms, self.flags, content]
        if self.flags & TaskFlag.AT_MOST_ONCE:
            body.append(self.boot)
        return body

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the array; WireError."""
        length = 6 if isinstance(body, list) and len(body) == 6 else 5
        task_id, attempt, remaining, flags, content, *boot = fields.array(body, length, "offer")
        flag_bits = fields.uint(flags, 255, "flags")
        if bool(flag_bits & TaskFlag.AT_MOST_ONCE) is not bool(boot):
            raise WireError("offer: at-most-once tasks name the boot they are for, others do not")
        return cls(
            task_id_from_body(task_id),
            fields.uint(attempt, MAX_UINT32, "attempt"),
            fields.uint(remaining, MAX_UINT64, "remaining time"),
            flag_bits,
            content_from_body(content),
            fields.positive(boot[0], MAX_UINT64, "boot") if boot else 0,
        )


@dataclass(frozen=True, slots=True)
class Offers:
    """Attempts of tasks of one model, several in one publish under load."""

    TYPE: ClassVar = MessageType.OFFERS
    model: ModelReference
    offers: tuple[Offer, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [self.model.to_body(), [offer.to_body() for offer in self.offers]]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        model, offers = fields.array(body, 2, "offers")
        return cls(
            ModelReference.from_body(model),
            fields.items(offers, Offer.from_body, "offers"),
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
        return cls(fields.items(body, attempt_from_body, "cancel"))


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
