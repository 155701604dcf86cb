"""The best ring over few nodes: dynamic programming over (set of nodes, last node, layers placed).

A ring has to close, so the first node is a dimension too. Only what can be is kept: a last node is
in its set, and so is the first. The cheapest start of a stage that ends
at a border is the least value within a window of borders (as many layers as fit), which a table of
minima over powers of two gives for all borders, sets and nodes at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
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
        count = len(problem.names)
        parts = _split(problem.close_s)
        if parts is None:
            self._enter_s, self._leave_s = problem.enter_s, problem.leave_s
            self._close_s = problem.close_s
        else:
            # Which node is first matters only where the ring starts: no need to remember it.
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
        self._levels = _levels(count, parts is None) if problem.layer_count > 1 else ()
        masks = [1 << np.arange(count), *(level.mask.ravel() for level in self._levels)]
        self._offsets = np.cumsum([0, *(len(part) for part in masks[:-1])])
        self._masks = np.concatenate(masks)
        must = sum(1 << place for place in required)
        self._allowed = (self._masks & must) == must

    def solve(self, slowest_s: float = inf, *, few_within: float = 0.0) -> Answer | None:
        """The ring of the least time, None if none fits.

        Args:
            slowest_s: no stage and no link may take longer.
            few_within: of the rings that take at most this share longer, one with fewest stages.
        """
        problem = self.problem
        count, layers = len(problem.names), problem.layer_count
        fit = windows(problem, slowest_s)
        rows = np.arange(count)
        spent = (problem.layer_s * problem.weight[:, None]).astype(_SECONDS)
        hop_s = fit.hop_s.astype(_SECONDS)
        starts = self._enter_s + problem.first_s + spent[:layers]
        # Seconds up to a border: (border, ways to have come there).
        least = np.where(fit.first_fits[:, :layers].T, starts, inf).astype(_SECONDS)
        least[0] = inf
        rings = [np.where(fit.whole_fits, self._alone_s, inf)]
        opens = np.where(np.arange(layers)[:, None] >= fit.final_lowest, 0.0, inf)
        ends = (spent[layers] + problem.final_s + self._leave_s)[:, None] + self._close_s
        table = _Windows(fit.lowest[:, 1:layers], layers)
        kept = [least]
        for level in self._levels:
            entered = least[:, level.source[0]] + hop_s[level.last[0], rows[:, None]]
            for source, last in zip(level.source[1:], level.last[1:], strict=True):
                other = least[:, source]
                other += hop_s[last, rows[:, None]]
                np.minimum(entered, other, out=entered)
            entered -= spent[:layers, :, None]
            closing = (entered + opens[:, :, None].astype(_SECONDS)).min(axis=0)
            rings.append((closing + ends[rows[:, None], level.first]).ravel())
            if len(kept) < len(self._levels):
                least = np.full((layers, rings[-1].size), inf, dtype=_SECONDS)
                found = table.least(entered)
                found += spent[1:layers, :, None]
                least[1:] = found.reshape(layers - 1, -1)
                kept.append(least)
        cost = np.where(self._allowed, np.concatenate(rings), inf)
        best = float(cost.min())
        if best == inf:
            return None
        good = np.flatnonzero(cost <= best * (1 + few_within))
        way = min(
            (int(self._masks[at]).bit_count(), float(cost[at]), int(self._masks[at]), int(at))
            for at in good
        )[-1]
        return Answer(self._trace(kept, fit, way), float(cost[way]))

    def _trace(
        self, kept: Sequence[NDArray[np.float32]], fit: Windows, way: int
    ) -> tuple[Run, ...]:
        """Walk back from the last stage of a ring."""
        turn = int(np.searchsorted(self._offsets, way, "right")) - 1
        way -= int(self._offsets[turn])
        end = self.problem.layer_count
        runs: list[Run] = []
        low = -1
        while turn:
            level = self._levels[turn - 1]
            node, which = divmod(way, level.first.shape[1])
            if low < 0:
                low = int(fit.final_lowest[node])
            sources, lasts = level.source[:, node, which], level.last[:, node, which]
            reached = kept[turn - 1][low:end, sources] + fit.hop_s[lasts, node]
            reached -= self.problem.weight[low:end, None] * self.problem.layer_s[node]
            offset, at = divmod(int(reached.argmin()), len(sources))
            runs.append((node, low + offset, end))
            end, way, turn = low + offset, int(sources[at]), turn - 1
            low = int(fit.lowest[lasts[at], end])
        runs.append((way, 0, end))
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


@dataclass(frozen=True, slots=True)
class _Level:
    """Ways to have come to a set of nodes of one size, told apart by (last node, which).

    A way is a set, its last node, and its first node where that counts. Ways of the size before
    are numbered as their arrays are flattened; those of one node by the node.

    Attributes:
        source: ways of the size before that go on to each, (sources, n, ways).
        last: the last node of each source.
        first: the first node, 0 where it does not count, (n, ways).
        mask: the set, (n, ways).
    """

    source: Whole
    last: Whole
    first: Whole
    mask: Whole


@lru_cache(maxsize=2 * MOST_NODES)
def _levels(count: int, with_first: bool) -> tuple[_Level, ...]:
    """For each size of set from 2."""
    nodes = range(count)
    known = {(node * with_first, 1 << node, node): node for node in nodes}
    levels = []
    for size in range(2, count + 1):
        table: list[list[tuple[list[int], list[int], int, int]]] = []
        following: dict[tuple[int, int, int], int] = {}
        for node in nodes:
            ways = []
            for members in combinations([other for other in nodes if other != node], size - 1):
                mask = sum(1 << member for member in members)
                for first in members if with_first else (0,):
                    lasts = [last for last in members if (first, mask, last) in known]
                    sources = [known[first, mask, last] for last in lasts]
                    ways.append((sources, lasts, first, mask | 1 << node))
                    following[first, mask | 1 << node, node] = len(following)
            table.append(ways)
        levels.append(
            _Level(
                *(
                    np.array([[way[part] for way in ways] for ways in table], dtype=np.int64)
                    .transpose(2, 0, 1)
                    .copy()
                    for part in (0, 1)
                ),
                *(np.array([[way[part] for way in ways] for ways in table]) for part in (2, 3)),
            )
        )
        known = following
    return tuple(levels)
