"""What can happen to a coordinator. Past tense; the shell makes them, the core takes them."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.records import ModelRecord, NodeWish, StartedMark, TaskRecord
from maille_protocol import Ask, Envelope, ErrorCode, Submit, Withdraw


@dataclass(frozen=True, slots=True)
class NodeSpoke:
    """A message arrived on a node's branch. `retained`: the broker kept it, it may be old."""

    node: str
    envelope: Envelope
    retained: bool = False


@dataclass(frozen=True, slots=True)
class ClientSpoke:
    """A message arrived on a client's branch, or from the HTTP API."""

    client: str
    message: Submit | Ask | Withdraw


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """The catalogue has a new version of a model."""

    model: ModelRecord


@dataclass(frozen=True, slots=True)
class ModelRemoved:
    """A version of a model is gone."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class ModelRefused:
    """A model that tasks wait for will not be on their node (None: on any)."""

    name: str
    version: int
    node: str | None
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class TasksRestored:
    """The journal of an earlier run: open tasks, and ids that ended and must not run again."""

    open_tasks: tuple[tuple[TaskRecord, StartedMark | None], ...]
    ended_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WishesRestored:
    """The journal of an earlier run: what people want of nodes, whether they are there or not."""

    wishes: tuple[NodeWish, ...]


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """A person wants a node to take no more work."""

    node: str


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """A person wants a drained node back."""

    node: str


@dataclass(frozen=True, slots=True)
class ForgetAsked:
    """A person wants a node that is gone off the list."""

    node: str


@dataclass(frozen=True, slots=True)
class BrokerConnected:
    """The coordinator's own connection is up: nodes may be heard again."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The coordinator's own connection is down: silence means nothing now."""


@dataclass(frozen=True, slots=True)
class ProcessStalled:
    """This process did not run for a while: nodes were not silent, it was deaf."""

    gap_ms: float


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The time of an earlier `WakeAt` has come."""


Event: TypeAlias = (
    NodeSpoke
    | ClientSpoke
    | ModelAdded
    | ModelRemoved
    | ModelRefused
    | TasksRestored
    | WishesRestored
    | DrainAsked
    | ResumeAsked
    | ForgetAsked
    | BrokerConnected
    | BrokerLost
    | ProcessStalled
    | TimeReached
)
