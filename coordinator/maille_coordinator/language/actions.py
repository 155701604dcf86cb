"""What the core of language models wants done. Imperative; the shell does them, in order.

`WriteSession` is committed to the journal before any action that follows it.
"""

from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.language.events import ModelKey
from maille_coordinator.language.records import SessionRecord
from maille_coordinator.records import MeshEvent
from maille_protocol import Route, SessionOrder, StageOrder, Token, topics
from maille_protocol.topics import Topic


@dataclass(frozen=True, slots=True)
class SendToStage:
    """Send one message to a node."""

    node: str
    message: StageOrder | Route | SessionOrder

    @property
    def topic(self) -> Topic:
        """Where it goes."""
        match self.message:
            case StageOrder():
                return topics.NODE_STAGE
            case Route():
                return topics.NODE_ROUTE
            case SessionOrder():
                return topics.NODE_SESSION


@dataclass(frozen=True, slots=True)
class CutSlice:
    """Cut a slice into the artefact store, then say `SliceCut`."""

    key: ModelKey
    first: int
    last: int
    with_ends: bool


@dataclass(frozen=True, slots=True)
class TokenOut:
    """Give a token to whoever reads the session; `index` counts the answer's tokens from 0."""

    session: str
    index: int
    token: Token


@dataclass(frozen=True, slots=True)
class SessionShared:
    """So many positions of a session's prompt need not be computed: an earlier one left them."""

    session: str
    count: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """Tell whoever reads the session that it is over."""

    session: str
    finish: str
    """"stop", "length", "cancelled" or "error"."""
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class WriteSession:
    """Put a record into the journal."""

    record: SessionRecord


@dataclass(frozen=True, slots=True)
class Report:
    """Put an event into the stream for people."""

    event: MeshEvent


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Hand a `TimeReached` to the core at this time; replaces the time asked for before."""

    at_ms: float


Action: TypeAlias = (
    SendToStage
    | CutSlice
    | TokenOut
    | SessionShared
    | SessionEnded
    | WriteSession
    | Report
    | WakeAt
)

__all__ = [
    "Action",
    "CutSlice",
    "Report",
    "SendToStage",
    "SessionEnded",
    "SessionShared",
    "TokenOut",
    "WakeAt",
    "WriteSession",
]
