"""What can happen to boards. Past tense; the shell makes them, the core takes them."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.boards.records import SenseWish, Wish
from maille_coordinator.core.registry import NodeRecord
from maille_protocol import (
    BoardState,
    ModelFormat,
    ModelReference,
    ModelReport,
    NodeState,
    Readings,
)


@dataclass(frozen=True, slots=True)
class Restored:
    """The wishes of an earlier run."""

    wishes: tuple[Wish, ...]


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """What the task core knows of a board's presence has changed."""

    node: str
    boot: int
    reachable: bool
    held: frozenset[bytes]
    """First 8 bytes of the SHA-256 of each model on it, as its heartbeat says."""
    max_message_bytes: int
    runs_tiny: bool


@dataclass(frozen=True, slots=True)
class NodeForgotten:
    """A person has taken the node off the list."""

    node: str


@dataclass(frozen=True, slots=True)
class BoardSpoke:
    """A board said something; its boot is the present one."""

    node: str
    message: BoardState | ModelReport | Readings


@dataclass(frozen=True, slots=True)
class DeployAsked:
    """A person wants a model on a board, and to stay there."""

    node: str
    model: ModelReference


@dataclass(frozen=True, slots=True)
class EvictAsked:
    """A person wants a model off a board."""

    node: str
    model: ModelReference


@dataclass(frozen=True, slots=True)
class CalibrateAsked:
    """A person wants a board to measure itself again."""

    node: str


@dataclass(frozen=True, slots=True)
class SenseAsked:
    """A person wants a model to run on a sensor."""

    wish: SenseWish


@dataclass(frozen=True, slots=True)
class SenseStopped:
    """A person wants no more of that."""

    sense: int


@dataclass(frozen=True, slots=True)
class ModelNeeded:
    """Tasks wait for a model that the node they are for (None: any node) does not hold."""

    model: ModelReference
    node: str | None
    offer_bytes: int
    """What the largest waiting task's offer takes in one publish, about."""


@dataclass(frozen=True, slots=True)
class ModelRemoved:
    """The catalogue no longer has a model: nothing of it is wanted anywhere."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class ArtefactMissing:
    """The bytes of a model cannot be read."""

    sha256: bytes
    text: str


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The time of an earlier `WakeAt` has come."""


Event: TypeAlias = (
    Restored
    | NodeChanged
    | NodeForgotten
    | BoardSpoke
    | DeployAsked
    | EvictAsked
    | CalibrateAsked
    | SenseAsked
    | SenseStopped
    | ModelNeeded
    | ModelRemoved
    | ArtefactMissing
    | TimeReached
)


def node_changed(record: NodeRecord) -> NodeChanged | None:
    """What boards' core is to know of a node's presence; None before the node has said its info."""
    info = record.info
    if info is None:
        return None
    reachable = (
        record.confirmed
        and not record.suspect
        and record.state in (NodeState.READY, NodeState.DRAINING)
    )
    return NodeChanged(
        record.node,
        record.boot,
        reachable,
        record.warm,
        info.max_message_bytes,
        ModelFormat.TINY in info.formats,
    )
