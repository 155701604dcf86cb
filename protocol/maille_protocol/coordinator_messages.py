"""Messages of the coordinator: offers and orders to nodes, who leads. Bodies as `messages` says."""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import Control, MessageType
from maille_protocol.contents import (
    Content,
    attempt_from_body,
    content_from_body,
    content_to_body,
    task_id_from_body,
)
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
                [o.task_id, o.attempt, o.remaining_ms, o.flags, content_to_body(o.content)]
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
                task_id_from_body(task_id),
                fields.uint(attempt, MAX_UINT32, "attempt"),
                fields.uint(remaining, MAX_UINT64, "remaining time"),
                fields.uint(flags, 255, "flags"),
                content_from_body(content),
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
