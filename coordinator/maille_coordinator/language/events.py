"""What can happen to language models. Past tense; the shell makes them, the core takes them."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_coordinator.language.records import RingKept, SessionStart
from maille_coordinator.placement import ModelShape
from maille_protocol import Reference, StageReport, Token, Tokens

ModelKey: TypeAlias = tuple[str, int]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """A model's file was read. `check_tokens`: a short prompt for the first round of a ring."""

    key: ModelKey
    shape: ModelShape
    context_length: int
    check_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelRemoved:
    """A model is gone; its sessions end."""

    key: ModelKey


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """What the task core knows of a node that can hold slices."""

    node: str
    boot: int
    alive: bool
    ready: bool
    """Takes new work: alive, heard of lately, not draining."""
    draining: bool
    memory_bytes: int = 0
    """What it offers, as far as known before it measured; 0: unknown."""


@dataclass(frozen=True, slots=True)
class StageReported:
    """A node told of a slice."""

    node: str
    report: StageReport


@dataclass(frozen=True, slots=True)
class TokensCame:
    """A last stage sent tokens."""

    node: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class SessionAsked:
    """Somebody wants a generation."""

    start: SessionStart


@dataclass(frozen=True, slots=True)
class SessionCancelled:
    """Nobody wants the rest of it: a stop text was found, or the reader went away."""

    session: str
    finish: str
    """What its end is called: "stop" or "cancelled"."""


@dataclass(frozen=True, slots=True)
class SliceCut:
    """A slice lies in the artefact store, or cannot be made (`reference` None, `text` why)."""

    key: ModelKey
    first: int
    last: int
    with_ends: bool
    """Whether embedding and head are in it where they belong; not in a slice for measuring."""
    reference: Reference | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """A person wants a node to hand over its stages."""

    node: str


@dataclass(frozen=True, slots=True)
class BrokerChanged:
    """The coordinator's own connection: while it is down, silence means nothing."""

    connected: bool


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The time of an earlier `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class RestoredSession:
    """A generation that an earlier run of the coordinator had accepted and not ended."""

    start: SessionStart
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """The journal of an earlier run: open sessions, stages that nodes may still hold, rings."""

    sessions: tuple[RestoredSession, ...]
    stages: tuple[tuple[str, int, int], ...]
    """(node, pipeline, stage)"""
    rings: tuple[RingKept, ...] = ()


Event: TypeAlias = (
    ModelAdded
    | ModelRemoved
    | NodeChanged
    | StageReported
    | TokensCame
    | SessionAsked
    | SessionCancelled
    | SliceCut
    | DrainAsked
    | BrokerChanged
    | TimeReached
    | Restored
)

__all__ = [
    "BrokerChanged",
    "DrainAsked",
    "Event",
    "ModelAdded",
    "ModelKey",
    "ModelRemoved",
    "NodeChanged",
    "Restored",
    "RestoredSession",
    "SessionAsked",
    "SessionCancelled",
    "SliceCut",
    "StageReported",
    "TimeReached",
    "TokensCame",
]
