"""The virtual clock: what is to happen, in order of time."""

import heapq
from collections.abc import Callable
from typing import Any

from maille_simulator.virtual.violation import Violation

Call = Callable[..., None]


class Schedule:
    """Runs calls at their virtual times; the same calls in the same order give the same run.

    Times are milliseconds since the start of the run.

    Args:
        most_calls: a run of more raises Violation: it goes in circles.
    """

    __slots__ = ("_heap", "_most_calls", "_order", "now_ms")

    def __init__(self, most_calls: float = float("inf")) -> None:
        self.now_ms = 0.0
        self._most_calls = most_calls
        self._heap: list[tuple[float, int, Call, tuple[Any, ...]]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, at_ms: float, call: Call, *arguments: Any) -> None:
        """Call at this time, or now if it has passed."""
        self._order += 1
        if self._order > self._most_calls:
            text = f"{self._order} calls until {self.now_ms:.0f} ms, without an end"
            raise Violation("the mesh comes to rest", text)
        heapq.heappush(self._heap, (max(at_ms, self.now_ms), self._order, call, arguments))

    def after(self, delay_ms: float, call: Call, *arguments: Any) -> None:
        """Call after this time."""
        self.at(self.now_ms + delay_ms, call, *arguments)

    def run(self, until_ms: float, finished: Callable[[], bool] | None = None) -> None:
        """Let time pass until `until_ms`, or until `finished` says so, asked after each call."""
        heap = self._heap
        pop = heapq.heappop
        while heap and heap[0][0] <= until_ms:
            at_ms, _, call, arguments = pop(heap)
            self.now_ms = at_ms
            call(*arguments)
            if finished is not None and finished():
                return
        self.now_ms = max(self.now_ms, until_ms)
