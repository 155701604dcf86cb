"""The probes that measure a machine before a scenario: the same in real and in virtual time."""

from dataclasses import dataclass

PROBES = 20
"""Light nodes, there before the scenario's own and gone when it begins."""

SLOTS = 2
RUN_MS = 5.0
SINGLES = 60
"""Tasks one at a time: what a message takes."""

BURST_TASKS = 40
BURSTS = 6
"""What a message costs where many come at once."""


@dataclass(frozen=True, slots=True)
class ProbeTimes:
    """Medians from submission to outcome."""

    single_ms: float
    burst_ms: float
    """Of all tasks of all bursts."""
    timer_ms: float = 0.0
    """How late a timer fires, which every delay of a real link waits for."""
