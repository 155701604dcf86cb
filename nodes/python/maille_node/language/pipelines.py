"""What a node knows of the rings it is in, and what it counts."""

from collections import OrderedDict
from dataclasses import dataclass, field

from maille_node.language.sessions import HeldStage
from maille_node.language.waiting import Sent, WaitingRoom

__all__ = ["Counters", "Pipeline"]

MAX_CLOSED = 256


@dataclass(slots=True)
class Counters:
    """What was dropped, by why."""

    repeated: int = 0
    """Delivered twice, or a second ring of the same session."""
    old_layout: int = 0
    overtaken: int = 0
    """Orders that came after a later one of the same sender that undid them, or was undone."""
    stale_epoch: int = 0
    unknown: int = 0
    """Of a pipeline, stage or session that is not here."""
    misshapen: int = 0
    """Wrong kind, size or place, or parts that do not follow."""
    not_finite: int = 0
    gaps: int = 0
    overflow: int = 0
    """More than any correct sender has under way."""
    refused: int = 0
    """By the slice itself."""
    misplaced: int = 0
    """Messages of a type that is not for stages."""


@dataclass(slots=True, eq=False)
class Pipeline:
    """One ring, as far as this node knows it."""

    number: int
    layout: int = -1
    epoch: int = 0
    route: tuple[tuple[str, ...], ...] = ()
    stages: dict[int, HeldStage] = field(default_factory=dict)
    waiting: WaitingRoom = field(default_factory=WaitingRoom)
    closed: OrderedDict[int, Sent] = field(default_factory=OrderedDict)
    """Sessions lately closed, and by which order: what still comes for them is dropped at once."""

    def forget(self, session: int, sent: Sent) -> None:
        """Remember that a session is closed."""
        self.closed[session] = sent
        if len(self.closed) > MAX_CLOSED:
            self.closed.popitem(last=False)
