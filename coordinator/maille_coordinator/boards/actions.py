"""What the core of boards wants done. Imperative; the shell carries them out, in order."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.boards.records import Wish
from maille_coordinator.records import MeshEvent
from maille_protocol import ErrorCode, ModelOrder, ModelReference, Reading, SenseOrder


@dataclass(frozen=True, slots=True)
class Keep:
    """Write a wish into the journal."""

    wish: Wish


@dataclass(frozen=True, slots=True)
class Drop:
    """Take a wish out of the journal."""

    wish: Wish


@dataclass(frozen=True, slots=True)
class SendOrder:
    """Send an order to a board."""

    node: str
    message: ModelOrder | SenseOrder


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Send a part of a model to a board."""

    node: str
    sha256: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class RefuseTasks:
    """End the tasks that wait for a model on a node (None: on any) that will not hold it."""

    model: ModelReference
    node: str | None
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class TakeReading:
    """A reading that is new."""

    node: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class ForgetReadings:
    """The sense is no more."""

    sense: int


@dataclass(frozen=True, slots=True)
class Report:
    """Put an event into the stream for people."""

    event: MeshEvent


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Hand a `TimeReached` to the core at this time; replaces the time asked for before."""

    at_ms: float


Action: TypeAlias = (
    Keep
    | Drop
    | SendOrder
    | SendChunk
    | RefuseTasks
    | TakeReading
    | ForgetReadings
    | Report
    | WakeAt
)
