"""The best ring over few nodes: dynamic programming over (set of nodes, last node, layers placed).

A ring has to close, so the first node is a dimension too. The cheapest start of a stage that ends
at a border is the least value within a window of borders (as many layers as fit), which a table of
minima over powers of two gives for all borders, sets and nodes at once.
"""

from collections.abc import Collection
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from maille_coordinator.placement.problem import (
    Answer,
    Floats,
    Problem,
    Run,
    Whole,
    Windows,
    windows,
)

__all__ = ["MOST_NODES", "ExactSolver"]

MOST_NODES = 7
"""More nodes double the work each: beyond this many another solver takes over."""


_SECONDS = np.float32
"""Precise enough to choose by, and half the memory to go through."""


class ExactSolver:
    """Finds the ring of the least time in which no stage takes longer than a limit."""

    def __init__(self, problem: Problem, required: Collection[int] = ()) -> None:
        """Prepare for a problem.

        Args:
            problem: of at most `MOST_NODES` nodes.
            required: places of nodes that must take part.
        """
        self.problem = problem
        self._must = sum(1 << place for place in required)
        count = len(problem.names)
        rows = np.arange(count)
        parts = _split(problem.close_s)
        if parts is None:
            self._firsts = rows
            self._enter_s, self._leave_s = problem.enter_s, problem.leave_s
            self._close_s = problem.close_s
        else:
            # Which node is first matters only where the ring starts: no need to remember it.
            self._firsts = np.zeros(count, dtype=np.int64)
            self._enter_s = problem.enter_s + parts[1]
            self._leave_s = problem.leave_s + parts[0]
            self._close_s = np.zeros((count, 1))
        self._alone_s = (
            problem.enter_s
            + problem.first_s
            + problem.weight[-1] * problem.layer_s
            + problem.final_s
            + problem.leave_s
            + np.diag(problem.close_s)
        )

    def solve(self, slowest_s: float = inf, *, few_within: float = 0.0) -> Answer | None:
        """The ring of the least time, None if none fits.

        Args:
            slowest_s: no stage and no link may take longer.
            few_within: of the rings that take at most this share longer, one with fewest stages.
        """
        problem = self.problem
        count, layers = len(problem.names), problem.layer_count
        fit = windows(problem, slowest_s)
        rows, firsts, widths = np.arange(count), self._firsts, self._close_s.shape[1]
        spent = (problem.layer_s[:, None] * problem.weight[None, :]).astype(_SECONDS)
        hop_s = fit.hop_s.astype(_SECONDS)
        # Seconds up to a border: (set, last node, first node, border).
        least = np.full((1 << count, count, widths, layers + 1), inf, dtype=_SECONDS)
        # Seconds of whole rings: (set, last node, first node).
        rings = np.full((1 << count, count, widths), inf)
        starts = (self._enter_s + problem.first_s)[:, None] + spent
        least[1 << rows, rows, firsts, 1:layers] = np.where(
            fit.first_fits[:, 1:layers], starts[:, 1:layers], inf
        )
        rings[1 << rows, rows, firsts] = np.where(fit.whole_fits, self._alone_s, inf)
        opens = np.where(np.arange(layers)[None, :] >= fit.final_lowest[:, None], 0.0, inf)
        ends = (spent[:, layers] + problem.final_s + self._leave_s)[:, None] + self._close_s
        table = _Windows(fit.lowest[:, 1:layers], layers)
        for before, after in _levels(count):
            entered = np.full((*before.shape, widths, layers), inf, dtype=_SECONDS)
            for last in rows:
                reached = least[before, last, :, :layers]
                reached += hop_s[last][:, None, None, None]
                np.minimum(entered, reached, out=entered)
            entered -= spent[:, None, None, :layers]
            closing = (entered + opens[:, None, None, :]).min(axis=3)
            rings[after, rows[:, None]] = closing + ends[:, None, :]
            if layers > 1 and after.shape[1] > 1:
                found = table.least(np.ascontiguousarray(entered.transpose(3, 0, 1, 2)))
                least[after, rows[:, None], :, 1:layers] = found.transpose(1, 2, 3, 0)
                least[after, rows[:, None], :, 1:layers] += spent[:, None, None, 1:layers]
        masks = np.arange(1 << count)
        allowed = (masks & self._must) == self._must
        by_set = np.where(allowed, rings.reshape(len(masks), -1).min(axis=1), inf)
        best = float(by_set.min())
        if best == inf:
            return None
        good = [int(mask) for mask in masks[by_set <= best * (1 + few_within)]]
        mask = min(good, key=lambda mask: (mask.bit_count(), by_set[mask], mask))
        last, first = divmod(int(rings[mask].argmin()), widths)
        runs = self._trace(least[:, :, first], fit, mask, last)
        return Answer(runs, float(by_set[mask]))

    def _trace(
        self, least: NDArray[np.float32], fit: Windows, mask: int, node: int
    ) -> tuple[Run, ...]:
        """Walk back from the last stage of a ring, on `node`."""
        end = self.problem.layer_count
        low = int(fit.final_lowest[node])
        runs: list[Run] = []
        while mask != 1 << node:
            mask ^= 1 << node
            reached = least[mask, :, low:end] + fit.hop_s[:, node, None]
            reached -= self.problem.weight[low:end] * self.problem.layer_s[node]
            previous, offset = divmod(int(reached.argmin()), reached.shape[1])
            runs.append((node, low + offset, end))
            end, node = low + offset, previous
            low = int(fit.lowest[node, end])
        runs.append((node, 0, end))
        return tuple(reversed(runs))


def _split(close_s: Floats) -> tuple[Floats, Floats] | None:
    """Parts x and y so that closing takes x (end) + y (start) between any two nodes, if any do.

    So it is when every hop goes through the broker.
    """
    count = len(close_s)
    if count < 3:
        return None if count == 2 else (np.zeros(1), np.zeros(1))
    start = close_s[0].copy()
    end = close_s[:, 1] - start[1]
    end[0] = 0.0
    end[1] = close_s[1, 2] - start[2]
    start[0] = close_s[1, 0] - end[1]
    between = ~np.eye(count, dtype=bool)
    made = end[:, None] + start[None, :]
    return (end, start) if np.allclose(made[between], close_s[between], 1e-9, 1e-12) else None


class _Windows:
    """Least values within the window that ends before each border, for every node."""

    def __init__(self, lowest: Whole, layers: int) -> None:
        """Take windows from `lowest` (n, layers - 1) to the borders 1 to layers - 1."""
        borders = np.arange(1, layers)
        width = np.maximum(borders[None, :] - lowest, 1)
        self._power = np.floor(np.log2(width)).astype(np.int64).T
        self._low = np.minimum(lowest, borders[None, :] - 1).T
        self._high = borders[:, None] - (1 << self._power)
        self._empty = (lowest >= borders[None, :]).T
        self._any_empty = bool(self._empty.any())
        self._columns = np.arange(lowest.shape[0])[None, :]
        self._powers = int(self._power.max(initial=0)) + 1

    def least(self, values: Floats) -> Floats:
        """From (layers, n, ...) to (layers - 1, n, ...)."""
        layers = values.shape[0]
        table = np.empty((self._powers, *values.shape), dtype=_SECONDS)
        table[0] = values
        for power in range(1, self._powers):
            half, size = 1 << (power - 1), layers - (1 << power) + 1
            np.minimum(
                table[power - 1, :size],
                table[power - 1, half : half + size],
                out=table[power, :size],
            )
        found: Floats = np.minimum(
            table[self._power, self._low, self._columns],
            table[self._power, self._high, self._columns],
        )
        if self._any_empty:
            found[self._empty] = inf
        return found


@lru_cache(maxsize=MOST_NODES + 1)
def _levels(count: int) -> tuple[tuple[Whole, Whole], ...]:
    """For each size of set from 2: sets without each node, and with it, (node, which)."""
    levels = []
    for size in range(2, count + 1):
        before = np.array(
            [
                [m for m in range(1 << count) if m.bit_count() == size - 1 and not m >> node & 1]
                for node in range(count)
            ],
            dtype=np.int64,
        )
        after = before | (1 << np.arange(count))[:, None]
        levels.append((before, after))
    return tuple(levels)
