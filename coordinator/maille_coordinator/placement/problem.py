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

    For several times at once each array has them as its first axis.

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


def windows(problem: Problem, slowest_s: float | Floats = inf) -> Windows:
    """Which stages fit when none may take longer than `slowest_s`, one time or several (k,)."""
    weight, memory = problem.weight, problem.memory
    limit = np.asarray(slowest_s)[..., None] * _SLACK
    first_weight = problem.first_s / problem.layer_s
    final_weight = problem.final_s / problem.layer_s
    time = (limit - problem.busy_s) / problem.layer_s
    low = np.searchsorted(memory, memory - problem.room[:, None])
    low = np.maximum(low, np.searchsorted(weight, weight - time[..., None]))
    fits = memory + problem.first_bytes <= problem.room[:, None]
    fits = fits & (weight <= (time - first_weight)[..., None])
    final = np.searchsorted(memory, memory[-1] + problem.final_bytes - problem.room)
    final = np.maximum(final, np.searchsorted(weight, weight[-1] - (time - final_weight)))
    whole = memory[-1] + problem.whole_bytes <= problem.room
    whole = whole & (weight[-1] <= time - first_weight - final_weight)
    if problem.reach is not None:
        low = np.maximum(low, problem.reach)
        fits &= problem.reach == 0
        final = np.maximum(final, problem.reach[:, -1])
        whole &= problem.reach[:, -1] == 0
    low = np.minimum(low, np.arange(len(weight)))
    hop = np.where(problem.transfer_s > limit[..., None], inf, problem.hop_s)
    return Windows(low, fits, final, whole, hop)


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
