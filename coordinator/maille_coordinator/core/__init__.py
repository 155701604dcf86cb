"""The coordinator's core: events in, actions out. No I/O, no clock, no randomness of its own."""

from maille_coordinator.core.core import Core, CoreLimits
from maille_coordinator.core.invariants import InvariantBroken
from maille_coordinator.core.lifecycle import outcome_of
from maille_coordinator.core.registry import NodeRecord
from maille_coordinator.core.tasks import ImpossibleTransition, Task

__all__ = [
    "Core",
    "CoreLimits",
    "ImpossibleTransition",
    "InvariantBroken",
    "NodeRecord",
    "Task",
    "outcome_of",
]
