"""The best ring for an objective: bisection on the slowest stage's time, and orders of many nodes.

max(T / n, S) falls into two: for a limit on S, a solver gives the least T. Of the limits, the best
is where T / n and the limit meet, because T only falls as the limit rises.
"""

from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import Protocol

import numpy as np

from maille_coordinator.placement.bounds import least_possible, least_slowest
from maille_coordinator.placement.exact import MOST_NODES, ExactSolver
from maille_coordinator.placement.ordered import OrderedSolver
from maille_coordinator.placement.problem import Answer, Problem, cost_of

__all__ = ["find_ring"]

TOLERANCE = 0.013
"""How far from the best the bisection may end, as a share."""

FEW_WITHIN = 0.003
"""More stages must gain more than this share: each one can be lost."""

_FIRST_STEP = 1.008
_ROUGH = 0.08
_EXACT_NODES = 6
_ROUNDS = 3


class Solver(Protocol):
    """Gives the least T for a limit on S."""

    problem: Problem

    def solve(self, slowest_s: float = ..., *, few_within: float = ...) -> Answer | None:
        """The ring of the least time, None if none fits."""


def find_ring(problem: Problem, sessions: int, required: Collection[int] = ()) -> Answer | None:
    """The ring with the least max(T / sessions, S), None if no ring fits.

    Within 2 % of the best for up to 7 nodes; for more, the best that several orders of them give.

    Args:
        problem: what to place on whom.
        sessions: that the objective thinks of.
        required: places of nodes that must take part.
    """
    if len(problem.names) <= MOST_NODES:
        if sessions == 1:
            return ExactSolver(problem, required).solve(few_within=FEW_WITHIN)
        lower = least_slowest(problem, least_possible(problem, sessions))
        return _least_cost(ExactSolver(problem, required), sessions, lower, TOLERANCE)
    return _many(problem, sessions, required)


def _least_cost(solver: Solver, sessions: int, lower: float, tolerance: float) -> Answer | None:
    """Bisect the limit on S upwards of `lower`, a cost that no ring is below."""
    problem = solver.problem
    if sessions == 1:
        return solver.solve(few_within=FEW_WITHIN)
    best: Answer | None = None
    upper, limit = inf, lower * _FIRST_STEP
    bounded = False  # whether the least T below `upper` is known
    while upper > lower * (1 + tolerance):
        answer = solver.solve(limit, few_within=FEW_WITHIN)
        waits = False
        if answer is None:
            if limit >= upper:
                return best  # none fits at all, or rounding took what fitted before
            lower = limit
        else:
            cost = cost_of(problem, answer, sessions)
            ring_s = answer.token_s / (1 + FEW_WITHIN) + problem.fixed_s
            waits = ring_s / sessions > limit
            lower = max(lower, min(limit, ring_s / sessions))
            if cost < upper:
                best, upper = answer, cost
            elif limit < upper and not waits:
                lower = limit  # rounding let through what it should not
        # The first guess failed: at the upper bound, the least T is a lower bound too. Later,
        # where T is what counts, it often does not change up to the upper bound.
        if not bounded:
            bounded, limit = True, upper
        elif waits:
            limit = max(upper / (1 + tolerance), lower * (upper / lower) ** 0.5)
        else:
            limit = lower * (upper / lower) ** 0.5
    return best


def _many(problem: Problem, sessions: int, required: Collection[int]) -> Answer | None:
    best: Answer | None = None
    best_cost = inf

    def consider(answer: Answer | None) -> bool:
        nonlocal best, best_cost
        if answer is None:
            return False
        cost = cost_of(problem, answer, sessions)
        if cost >= best_cost:
            return False
        best, best_cost = answer, cost
        return True

    lower = least_possible(problem, sessions)
    for order in _orders(problem):
        consider(_least_cost(OrderedSolver(problem, order, required), sessions, lower, _ROUGH))
    for _ in range(_ROUNDS):
        if best is None:
            return None
        order = _around([place for place, _, _ in best.runs], problem)
        solver = OrderedSolver(problem, order, required)
        if not consider(_least_cost(solver, sessions, lower, TOLERANCE)):
            break
    if best is None:
        return None
    ring = [place for place, _, _ in best.runs]
    if len(ring) <= _EXACT_NODES:
        near = [place for place in _by_speed(problem) if place not in ring]
        few = sorted([*ring, *near[: _EXACT_NODES - len(ring)]])
        answer = _least_cost(
            ExactSolver(_part(problem, few), [few.index(place) for place in required]),
            sessions,
            lower,
            TOLERANCE,
        )
        if answer is not None:
            runs = tuple((few[place], start, end) for place, start, end in answer.runs)
            consider(Answer(runs, answer.token_s))
    return best


def _by_speed(problem: Problem) -> list[int]:
    """Nodes by what a share of the layers, as large as they can hold, costs with a hop."""
    hops = np.median(problem.hop_s + problem.hop_s.T, axis=1)
    mean = problem.memory[-1] / problem.layer_count
    held = np.clip(problem.room / mean, 1e-3, problem.layer_count)
    order = np.argsort(problem.layer_s + hops / held, kind="stable")
    return [int(place) for place in order]


def _orders(problem: Problem) -> Iterable[list[int]]:
    fast = _by_speed(problem)
    yield fast
    yield _nearest(problem, fast)
    # Room for both ends: the largest node first, the second largest last.
    roomy = [int(place) for place in np.argsort(-problem.room, kind="stable")]
    yield [roomy[0], *[place for place in fast if place not in roomy[:2]], roomy[1]]


def _nearest(problem: Problem, fast: Sequence[int]) -> list[int]:
    """From the fastest node always to the node that is nearest and fast."""
    order, left = [fast[0]], list(fast[1:])
    while left:
        here = order[-1]
        scale = problem.weight[-1] / len(problem.names)
        nearest = min(
            left, key=lambda place: problem.hop_s[here, place] + scale * problem.layer_s[place]
        )
        order.append(nearest)
        left.remove(nearest)
    return order


def _around(ring: list[int], problem: Problem) -> list[int]:
    """A ring's order with every other node put where its detour is the shortest."""
    order = list(ring)
    hop = problem.hop_s
    for place in _by_speed(problem):
        if place in ring:
            continue
        detours = [
            hop[order[at - 1], place]
            + hop[place, order[at % len(order)]]
            - hop[order[at - 1], order[at % len(order)]]
            for at in range(1, len(order) + 1)
        ]
        order.insert(1 + int(np.argmin(detours)), place)
    return order


def _part(problem: Problem, places: Sequence[int]) -> Problem:
    """The same problem for some of the nodes."""
    few = np.array(places)
    square = np.ix_(few, few)
    return Problem(
        names=tuple(problem.names[place] for place in places),
        weight=problem.weight,
        memory=problem.memory,
        layer_s=problem.layer_s[few],
        room=problem.room[few],
        busy_s=problem.busy_s[few],
        first_s=problem.first_s[few],
        final_s=problem.final_s[few],
        first_bytes=problem.first_bytes,
        final_bytes=problem.final_bytes,
        whole_bytes=problem.whole_bytes,
        reach=problem.reach[few] if problem.reach is not None else None,
        hop_s=problem.hop_s[square],
        transfer_s=problem.transfer_s[square],
        enter_s=problem.enter_s[few],
        leave_s=problem.leave_s[few],
        close_s=problem.close_s[square],
        fixed_s=problem.fixed_s,
        fixed_slowest_s=problem.fixed_slowest_s,
    )
