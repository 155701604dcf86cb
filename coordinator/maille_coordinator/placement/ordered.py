"""The best ring over many nodes that keeps to one order of them, leaving out any.

For more nodes than sets can be listed for. The order itself comes from `search`.
"""

from collections.abc import Collection, Sequence
from math import inf

import numpy as np

from maille_coordinator.placement.problem import Answer, Floats, Problem, Run, windows

__all__ = ["OrderedSolver"]


class OrderedSolver:
    """Finds the ring of the least time among those whose nodes come in a given order."""

    def __init__(
        self, problem: Problem, order: Sequence[int], required: Collection[int] = ()
    ) -> None:
        """Prepare for a problem.

        Args:
            problem: of any number of nodes.
            order: places of the nodes that may take part.
            required: places of those that must.
        """
        self.problem = problem
        self._order = list(order)
        self._must = sorted(self._order.index(place) for place in required)

    def solve(self, slowest_s: float = inf, *, few_within: float = 0.0) -> Answer | None:
        """The ring of the least time, None if none fits.

        Args:
            slowest_s: no stage and no link may take longer.
            few_within: a ring of one node is taken if it takes at most this share longer.
        """
        problem, order = self.problem, self._order
        layers, count = problem.layer_count, len(order)
        fit = windows(problem, slowest_s)
        hop_s = fit.hop_s[np.ix_(order, order)]
        close_s = problem.close_s[np.ix_(order, order)]
        lowest = fit.lowest[order]
        least = np.full((layers + 1, count, count), inf)
        best, best_at, alone, alone_at = inf, (0, 0), inf, 0
        need_first = self._must[0] if self._must else count
        need_last = self._must[-1] if self._must else 0
        for turn, place in enumerate(order):
            spent = problem.weight * problem.layer_s[place]
            finish = problem.final_s[place] + problem.leave_s[place]
            since = max((must for must in self._must if must < turn), default=0)
            if turn:
                entered = (least[:layers, since:turn, :turn] + hop_s[since:turn, turn, None]).min(1)
                entered -= spent[:layers, None]
                if turn >= need_last:
                    low = min(int(fit.final_lowest[place]), layers)
                    ring = entered[low:].min(axis=0, initial=inf)
                    ring += spent[layers] + finish + close_s[turn, :turn]
                    first = int(ring.argmin())
                    if ring[first] < best:
                        best, best_at = float(ring[first]), (turn, first)
                least[1:layers, turn, :turn] = _window_minima(entered, lowest[turn])
                least[1:layers, turn, :turn] += spent[1:layers, None]
            if turn <= need_first:
                start = problem.enter_s[place] + problem.first_s[place] + spent
                fits = fit.first_fits[place]
                least[1:layers, turn, turn] = np.where(fits[1:layers], start[1:layers], inf)
                whole = float(start[layers] + finish + close_s[turn, turn])
                if turn >= need_last and fit.whole_fits[place] and whole < alone:
                    alone, alone_at = whole, place
        if alone < inf and alone <= best * (1 + few_within):
            return Answer(((alone_at, 0, layers),), alone)
        if best == inf:
            return None
        turn, first = best_at
        end, low = layers, int(fit.final_lowest[order[turn]])
        runs: list[Run] = []
        while turn != first:
            since = max((must for must in self._must if must < turn), default=0)
            place = order[turn]
            reached = least[low:end, since:turn, first] + hop_s[since:turn, turn]
            reached -= problem.weight[low:end, None] * problem.layer_s[place]
            offset, previous = divmod(int(reached.argmin()), reached.shape[1])
            runs.append((place, low + offset, end))
            end, turn = low + offset, since + previous
            low = int(lowest[turn, end])
        runs.append((order[first], 0, end))
        return Answer(tuple(reversed(runs)), best)


def _window_minima(values: Floats, lowest: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """Least of `values` (layers, k) from each border's `lowest` to before it, (layers - 1, k)."""
    layers = values.shape[0]
    borders = np.arange(1, layers)
    low = lowest[1:layers]
    width = np.maximum(borders - low, 1)
    power = np.floor(np.log2(width)).astype(np.int64)
    tables = [values]
    for step in range(1, int(power.max(initial=0)) + 1):
        half, size = 1 << (step - 1), layers - (1 << step) + 1
        table = np.empty_like(values)
        np.minimum(tables[-1][:size], tables[-1][half : half + size], out=table[:size])
        tables.append(table)
    stacked = np.stack(tables)
    low = np.minimum(low, borders - 1)
    found: Floats = np.minimum(stacked[power, low], stacked[power, borders - (1 << power)])
    found[lowest[1:layers] >= borders] = inf
    return found
