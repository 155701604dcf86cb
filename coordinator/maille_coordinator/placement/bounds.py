"""A cost that no ring is below: where the bisection starts."""

from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from maille_coordinator.placement.problem import Floats, Problem, Whole, windows

__all__ = ["least_possible", "least_slowest"]

_STEPS = 16
_PRECISION = 1.003
_STEPS_UP = 1.02**2.0 ** np.arange(-1, 8)
_PARTS = np.arange(1, 17) / 16


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
    all but its last node did. Many limits are tried at once.

    Args:
        problem: of so few nodes that their sets can be listed.
        lower: a bound from which to search upwards.
    """
    limits = np.asarray(lower * _STEPS_UP, dtype=np.float64)
    placed = _all_placed(problem, limits)
    if not placed.any():
        return lower  # memory is what is missing
    while True:
        at = int(placed.argmax())
        upper = float(limits[at])
        lower = float(limits[at - 1]) if at else lower
        if upper <= lower * _PRECISION:
            return lower
        limits = np.asarray(lower * (upper / lower) ** _PARTS, dtype=np.float64)
        placed = _all_placed(problem, limits)
        placed[-1] = True


def _all_placed(problem: Problem, slowest_s: Floats) -> NDArray[np.bool_]:
    """Whether some set of nodes gets through all layers, for each limit (k,)."""
    fit = windows(problem, slowest_s)
    done: NDArray[np.bool_] = np.asarray(fit.whole_fits.any(axis=1))
    tries, count, borders = fit.lowest.shape
    last = borders - 2
    quick = np.isfinite(fit.hop_s) & ~np.eye(count, dtype=bool)
    entered, left = np.asarray(quick.any(axis=1)), np.asarray(quick.any(axis=2))
    ends = np.minimum(_furthest_ends(fit.lowest), last)
    starts = np.where(fit.first_fits, np.arange(borders), 0).max(axis=2)
    furthest = np.zeros((tries, 1 << count), dtype=np.int64)
    furthest[:, 1 << np.arange(count)] = np.where(left, np.minimum(starts, last), 0)
    each = np.arange(tries)[:, None, None]
    for sets, nodes in _members(count):
        before = furthest[:, sets[:, None] ^ (1 << nodes)]
        goes_on = (before > 0) & entered[:, nodes]
        finished = goes_on & (fit.final_lowest[:, nodes] <= before)
        np.logical_or(done, finished.any(axis=(1, 2)), out=done)
        reached = np.where(goes_on & left[:, nodes], ends[each, nodes, before], 0)
        furthest[:, sets] = np.maximum(reached, before).max(axis=2)
    return done


def _furthest_ends(lowest: Whole) -> Whole:
    """Last border that a stage from each border reaches, of rows that never fall."""
    borders = lowest.shape[-1]
    rows = np.arange(lowest.size // borders)[:, None] * borders
    flat = (lowest.reshape(-1, borders) + rows).ravel()
    starts = (np.arange(borders) + rows).ravel()
    found = np.searchsorted(flat, starts, "right").reshape(-1, borders) - 1 - rows
    ends: Whole = found.reshape(lowest.shape)
    return ends


@lru_cache(maxsize=16)
def _members(count: int) -> tuple[tuple[Whole, Whole], ...]:
    """For each size from 2: the sets of that size (m,), and the nodes of each (m, size)."""
    found = []
    for size in range(2, count + 1):
        nodes = np.array(list(combinations(range(count), size)), dtype=np.int64)
        found.append(((1 << nodes).sum(axis=1), nodes))
    return tuple(found)
