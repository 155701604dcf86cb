"""A cost that no ring is below: where the bisection starts."""

from math import sqrt

import numpy as np

from maille_coordinator.placement.problem import Floats, Problem, windows

__all__ = ["least_possible", "least_slowest"]

_STEPS = 16
_PRECISION = 1.003
_GIVE_UP = 8.0


def least_possible(problem: Problem, sessions: int) -> float:
    """A lower bound of max(T / sessions, S) over all rings, in seconds.

    For each number of nodes: T is at least the layers on the fastest nodes that hold them and the
    shortest hops, S at least the time in which that many nodes can do all layers, none more than
    it holds. Layers are cut at will for that.
    """
    count = len(problem.names)
    largest = np.searchsorted(problem.memory, problem.memory[:, None] + problem.room, "right") - 1
    held = (problem.weight[largest] - problem.weight[:, None]).max(axis=0)
    hop = problem.hop_s + np.where(np.eye(count, dtype=bool), np.inf, 0.0)
    shortest = np.sort(hop.min(axis=0))[: count - 1]
    hops = np.concatenate(([0.0], np.cumsum(shortest)))
    ring = hops + _least_work(problem, held) + problem.fixed_s
    ring += float(problem.first_s.min() + problem.final_s.min())
    ring += float(problem.enter_s.min() + problem.leave_s.min())
    cost = np.maximum(ring / sessions, _evenly(problem, held))
    enough = np.sort(held)[::-1].cumsum() >= problem.weight[-1]
    return max(float(np.where(enough, cost, cost[-1]).min()), problem.fixed_slowest_s)


def _least_work(problem: Problem, held: Floats) -> float:
    """Seconds of all layers, the fastest nodes filled first."""
    seconds, left = 0.0, float(problem.weight[-1])
    for place in np.argsort(problem.layer_s, kind="stable"):
        taken = min(left, float(held[place]))
        seconds += taken * float(problem.layer_s[place])
        left -= taken
    return seconds


def _evenly(problem: Problem, held: Floats) -> Floats:
    """Least slowest stage with at most 1, 2, ... nodes, in seconds."""
    count = len(problem.names)
    extra = float((problem.first_s / problem.layer_s).min()) + float(
        (problem.final_s / problem.layer_s).min()
    )
    needed = problem.weight[-1]
    low, high = (
        np.zeros(count),
        np.full(count, float(np.max(problem.layer_s * (needed + extra) + problem.busy_s))),
    )
    most = np.arange(count)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        time = np.maximum((middle[:, None] - problem.busy_s) / problem.layer_s, 0.0)
        # A node with an end does less layers for it; counted once over all nodes.
        done = np.sort(np.minimum(time, held + extra), axis=1)[:, ::-1]
        enough = done.cumsum(axis=1)[most, most] >= needed + extra
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    return low


def least_slowest(problem: Problem, lower: float) -> float:
    """A lower bound of the slowest stage S for few nodes, whole layers: at most 0.3 % too low.

    For a limit on S, what counts is how far each set of nodes gets, and a set gets furthest when
    all but its last node did.

    Args:
        problem: of so few nodes that their sets can be listed.
        lower: a bound from which to search upwards.
    """
    step, upper = 1.02, 0.0
    while not upper:
        limit = lower * step
        if _all_placed(problem, limit):
            upper = limit
        elif step > _GIVE_UP:
            return lower  # memory is what is missing
        else:
            lower, step = limit, step * step
    while upper > lower * _PRECISION:
        middle = sqrt(lower * upper)
        if _all_placed(problem, middle):
            upper = middle
        else:
            lower = middle
    return lower


def _all_placed(problem: Problem, slowest_s: float) -> bool:
    """Whether some set of nodes gets through all layers."""
    fit = windows(problem, slowest_s)
    if fit.whole_fits.any():
        return True
    count, layers = len(problem.names), problem.layer_count
    borders = np.arange(layers + 1)
    ends = [(np.searchsorted(row, borders, "right") - 1).tolist() for row in fit.lowest]
    starts = [int(np.flatnonzero(row)[-1]) if row.any() else 0 for row in fit.first_fits]
    finals = fit.final_lowest.tolist()
    quick = np.isfinite(fit.hop_s) & ~np.eye(count, dtype=bool)
    entered = [bool(column.any()) for column in quick.T]
    left = [bool(row.any()) for row in quick]
    furthest = [0] * (1 << count)
    for mask in range(1, 1 << count):
        reached = 0
        for node in range(count):
            bit = 1 << node
            if not mask & bit:
                continue
            before = furthest[mask ^ bit]
            if mask == bit:
                reached = min(starts[node], layers - 1) if left[node] else 0
            elif before and entered[node]:
                if finals[node] <= before:
                    return True
                if left[node]:
                    reached = max(reached, min(ends[node][before], layers - 1))
            reached = max(reached, before)
        furthest[mask] = reached
    return False
