"""What the core counts, for /metrics and for the invariants in the tests."""

from bisect import bisect_left
from dataclasses import dataclass, field

from maille_coordinator.records import Distribution

BOUNDS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)


@dataclass(slots=True)
class Histogram:
    """Counts of durations by upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, value_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_S, value_s)] += 1
        self.sum_s += value_s

    def distribution(self) -> Distribution:
        """What was counted so far."""
        total = 0
        pairs: list[tuple[float, int]] = []
        for bound, count in zip((*BOUNDS_S, float("inf")), self.counts, strict=True):
            total += count
            pairs.append((bound, total))
        return Distribution(tuple(pairs), self.sum_s)


@dataclass(slots=True)
class Counters:
    """Monotonic counts since start."""

    tasks_accepted: int = 0
    tasks_rejected: int = 0
    tasks_done: int = 0
    tasks_failed: int = 0
    tasks_cancelled: int = 0
    tasks_expired: int = 0
    tasks_dead: int = 0
    attempts_offered: int = 0
    attempts_retried: int = 0
    attempts_lost_on_the_way: int = 0
    attempts_refused_busy: int = 0
    results_duplicate: int = 0
    results_stale_attempt: int = 0
    results_stale_epoch: int = 0
    results_unknown_task: int = 0
    messages_unannounced: int = 0
    nodes_lost: int = 0
    nodes_duplicate: int = 0
    sequence_gaps: int = 0
    task_latency: Histogram = field(default_factory=Histogram)
    run_latency: Histogram = field(default_factory=Histogram)
