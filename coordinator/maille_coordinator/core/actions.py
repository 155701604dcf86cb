"""What a coordinator's core wants done. Imperative; the shell carries them out, in order.

`Write` actions are committed to the journal before anyone is told something that rests on them;
offers of tasks that may run twice are the exception, they promise nothing.
"""

from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.records import MeshEvent, NodeWish, StartedMark, TaskEnd, TaskRecord
from maille_protocol import Cancel, ControlOrder, ModelReference, Offer, Outcome


@dataclass(frozen=True, slots=True)
class Write:
    """Put a record into the journal."""

    record: TaskRecord | TaskEnd | StartedMark | NodeWish


@dataclass(frozen=True, slots=True)
class SendOffers:
    """Offer attempts of one model's tasks to a node. The shell splits them into publishes."""

    node: str
    model: ModelReference
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class SendToNode:
    """Send one message to a node."""

    node: str
    message: Cancel | ControlOrder


@dataclass(frozen=True, slots=True)
class NeedModel:
    """Tasks wait for a model that their node (None: any node) does not hold: deliver it."""

    model: ModelReference
    node: str | None
    offer_bytes: int
    """What the first waiting task's offer takes, its inputs with it."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Tell a client, soon, that a batch is in the journal; an outcome told first says the same."""

    client: str
    batch: int
    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a client what became of a task. The shell joins them into publishes."""

    client: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class TellFromJournal:
    """Tell a client how tasks ended whose ends the core no longer keeps in memory."""

    client: str
    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ClearRetained:
    """Remove what the broker keeps of a node."""

    node: str


@dataclass(frozen=True, slots=True)
class Report:
    """Put an event into the stream for people."""

    event: MeshEvent


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Hand a `TimeReached` to the core at this time; replaces the time asked for before."""

    at_ms: float


Action: TypeAlias = (
    Write
    | SendOffers
    | SendToNode
    | NeedModel
    | Accept
    | Tell
    | TellFromJournal
    | ClearRetained
    | Report
    | WakeAt
)
