"""A run of layers to give to nodes, as arrays: what both solvers work on.

Times are those of choosing: a node's reluctance makes its own longer. Index 0 of a layer array is
the run's first layer; a stage holds the layers from `start` to `end`, `end` not included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from maille_coordinator.placement.values import MESSAGE_BYTES, Links, ModelShape, NodeOffer, Wish

__all__ = ["Answer", "Problem", "Run", "Windows", "cost_of", "full_problem", "windows"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Run = tuple[int, int, int]
"""(place of the node in the problem, start, end)."""

_SLACK = 1 + 1e-9


@dataclass(frozen=True, slots=True)
class Answer:
    """Runs in the order of the layers, and the seconds of a token around the ring."""

    runs: tuple[Run, ...]
    token_s: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Arrays over nodes (n) and layer borders (layers + 1).

    Attributes:
        names: of the nodes.
        weight: summed weights of the layers before each border.
        memory: summed bytes of the layers before each border, caches included.
        layer_s: seconds of a layer on each node.
        room: bytes each node has for this run.
        busy_s: what each node does already for a token.
        first_s: added where the run starts (embedding).
        final_s: added where it ends (head).
        first_bytes: as `first_s`, in memory.
        final_bytes: as `final_s`.
        whole_bytes: of both on one node.
        reach: lowest start of a stage that ends at each border, (n, layers + 1); for nodes that
            may only take what they have on disk.
        hop_s: from one node (row) to another (column).
        transfer_s: as `hop_s`, the time in which the link is busy.
        enter_s: hop into the run, where it starts on each node.
        leave_s: hop out of the run, where it ends on each node.
        close_s: hop from its end (row) to its start (column).
        fixed_s: what a token takes in stages and hops outside the run.
        fixed_slowest_s: slowest node or link outside the run.
    """

    names: tuple[str, ...]
    weight: Floats
    memory: Whole
    layer_s: Floats
    room: Whole
    busy_s: Floats
    first_s: Floats
    final_s: Floats
    first_bytes: int
    final_bytes: int
    whole_bytes: int
    reach: Whole | None
    hop_s: Floats
    transfer_s: Floats
    enter_s: Floats
    leave_s: Floats
    close_s: Floats
    fixed_s: float = 0.0
    fixed_slowest_s: float = 0.0

    @property
    def layer_count(self) -> int:
        """Layers in the run."""
        return len(self.weight) - 1


@dataclass(frozen=True, slots=True)
class Windows:
    """Which stages fit, in memory and below a stage time.

    Attributes:
        lowest: start of the longest stage in the middle that ends at each border, (n, layers + 1).
        first_fits: whether the run's first stage may end at each border, (n, layers + 1).
        final_lowest: start of the longest last stage, (n,).
        whole_fits: whether a node can take the whole run, (n,).
        hop_s: as the problem's, endless where the link is too slow.
    """

    lowest: Whole
    first_fits: NDArray[np.bool_]
    final_lowest: Whole
    whole_fits: NDArray[np.bool_]
    hop_s: Floats


def windows(problem: Problem, slowest_s: float = inf) -> Windows:
    """Which stages fit when none may take longer than `slowest_s`."""
    weight, memory = problem.weight, problem.memory
    bounded = slowest_s < inf
    budget = (
        (slowest_s * _SLACK - problem.busy_s) / problem.layer_s
        if bounded
        else np.full(len(problem.names), inf)
    )
    borders = np.arange(len(weight))
    lowest = np.empty((len(problem.names), len(weight)), dtype=np.int64)
    first_fits = np.empty(lowest.shape, dtype=bool)
    final_lowest = np.empty(len(problem.names), dtype=np.int64)
    whole_fits = np.empty(len(problem.names), dtype=bool)
    for place in range(len(problem.names)):
        room, time = problem.room[place], budget[place]
        reach = problem.reach[place] if problem.reach is not None else None
        first_time = time - problem.first_s[place] / problem.layer_s[place]
        final_time = time - problem.final_s[place] / problem.layer_s[place]
        low = np.searchsorted(memory, memory - room)
        fits = memory + problem.first_bytes <= room
        final = int(np.searchsorted(memory, memory[-1] + problem.final_bytes - room))
        whole = memory[-1] + problem.whole_bytes <= room
        if bounded:
            low = np.maximum(low, np.searchsorted(weight, weight - time))
            fits &= weight <= first_time
            final = max(final, int(np.searchsorted(weight, weight[-1] - final_time)))
            whole &= weight[-1] <= first_time + final_time - time
        if reach is not None:
            low = np.maximum(low, reach)
            fits &= reach == 0
            final = max(final, int(reach[-1]))
            whole &= reach[-1] == 0
        lowest[place] = np.minimum(low, borders)
        first_fits[place] = fits
        final_lowest[place] = final
        whole_fits[place] = whole
    hop = np.where(problem.transfer_s > slowest_s * _SLACK, inf, problem.hop_s)
    return Windows(lowest, first_fits, final_lowest, whole_fits, hop)


def cost_of(problem: Problem, answer: Answer, sessions: int) -> float:
    """What the objective minimises: max(T / n, S), in seconds."""
    slowest = problem.fixed_slowest_s
    previous = -1
    for place, start, end in answer.runs:
        seconds = problem.busy_s[place] + problem.layer_s[place] * (
            problem.weight[end] - problem.weight[start]
        )
        if start == 0:
            seconds += problem.first_s[place]
        if end == problem.layer_count:
            seconds += problem.final_s[place]
        slowest = max(slowest, seconds)
        if previous >= 0:
            slowest = max(slowest, problem.transfer_s[previous, place])
        previous = place
    return max((answer.token_s + problem.fixed_s) / sessions, float(slowest))


def full_problem(
    shape: ModelShape, offers: Sequence[NodeOffer], links: Links, wish: Wish
) -> Problem:
    """The problem of placing a whole model."""
    names = tuple(offer.node for offer in offers)
    size = wish.hop_bytes(shape)
    slower = np.array([1 + offer.reluctance for offer in offers])
    none = np.zeros(len(offers))
    return Problem(
        names=names,
        weight=np.concatenate(([0.0], np.cumsum(shape.layer_weights))),
        memory=np.concatenate(([0], np.cumsum(np.array(shape.layers) + wish.kv_bytes(shape)))),
        layer_s=np.array([offer.layer_decode_s for offer in offers]) * slower,
        room=np.array([offer.usable_bytes for offer in offers], dtype=np.int64),
        busy_s=none,
        first_s=np.array([offer.embedding_s for offer in offers]) * slower,
        final_s=np.array([offer.head_s for offer in offers]) * slower,
        first_bytes=shape.embedding_bytes,
        final_bytes=shape.head_bytes,
        whole_bytes=shape.embedding_bytes + shape.head_bytes - shape.shared_bytes,
        reach=None,
        hop_s=np.array([[links.hop_s(a, b, size) for b in names] for a in names]),
        transfer_s=np.array([[links.transfer_s(a, b, size) for b in names] for a in names]),
        enter_s=none,
        leave_s=none,
        close_s=np.array([[links.hop_s(a, b, MESSAGE_BYTES) for b in names] for a in names]),
    )
