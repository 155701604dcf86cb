"""Brute force for placement, and random cases. Written apart from the planner, in plain loops."""

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from math import inf, sqrt
from random import Random
from typing import Any

import numpy as np

from maille_coordinator.placement import (
    STAGE_OVERHEAD_BYTES,
    Links,
    ModelShape,
    NodeOffer,
    Objective,
    Wish,
)


def token_bytes(shape: ModelShape, wish: Wish) -> int:
    return shape.hidden_size * wish.value_bytes + 64


def ring_cost_ms(
    cut: Sequence[tuple[NodeOffer, int, int]], shape: ModelShape, links: Links, wish: Wish
) -> float | None:
    """Cost of stages (offer, first, last included) from the definition; None if one does not fit."""
    mean = sum(shape.layers) / len(shape.layers)
    slowest, total = 0.0, 0.0
    for place, (offer, first, last) in enumerate(cut):
        size = sum(shape.layers[first : last + 1])
        seconds = offer.layer_decode_s * size / mean
        kv = shape.kv_bytes_per_token * wish.context_tokens * wish.sessions * (last - first + 1)
        if place == 0:
            size += shape.embedding_bytes
            seconds += offer.embedding_s
        if place == len(cut) - 1:
            size += shape.head_bytes
            seconds += offer.head_s
        if len(cut) == 1:
            size -= shape.shared_bytes
        if size + kv + STAGE_OVERHEAD_BYTES > offer.memory_bytes:
            return None
        slowest = max(slowest, seconds)
        total += seconds
        if len(cut) > 1:
            follower = cut[(place + 1) % len(cut)][0].node
            closing = place == len(cut) - 1
            message = 64 if closing else token_bytes(shape, wish)
            total += links.hop_s(offer.node, follower, message)
            if not closing:
                slowest = max(slowest, links.transfer_s(offer.node, follower, message))
    sessions = wish.sessions if wish.objective is Objective.THROUGHPUT else 1
    return max(total / sessions, slowest) * 1000


def every_ring(
    offers: Sequence[NodeOffer], layers: int
) -> Iterator[list[tuple[NodeOffer, int, int]]]:
    for count in range(1, min(len(offers), layers) + 1):
        for chosen in permutations(offers, count):
            for cuts in combinations(range(1, layers), count - 1):
                borders = (0, *cuts, layers)
                yield [
                    (offer, borders[place], borders[place + 1] - 1)
                    for place, offer in enumerate(chosen)
                ]


def brute_force_ms(
    shape: ModelShape, offers: Sequence[NodeOffer], links: Links, wish: Wish
) -> float | None:
    costs = (
        ring_cost_ms(cut, shape, links, wish)
        for cut in every_ring(offers, len(shape.layers))
        if wish.pinned <= {offer.node for offer, _, _ in cut}
    )
    return min((cost for cost in costs if cost is not None), default=None)


def every_order_ms(
    shape: ModelShape, offers: Sequence[NodeOffer], links: Links, wish: Wish
) -> float | None:
    """What no ring is below, at most 0.05 % too low; None if no ring fits.

    Goes through every order of every set of nodes; for each, all cuts by the plain recursion over
    (start, end). A ring of cost c or less exists if, of those with no stage or link above c, one
    takes at most c times the sessions around.
    """
    sessions = wish.sessions if wish.objective is Objective.THROUGHPUT else 1
    least_s = _least_around_s(shape, offers, links, wish, inf)
    if least_s == inf:
        return None
    low, high = least_s / sessions, least_s
    while high > low * 1.0005:
        middle = sqrt(low * high)
        if _least_around_s(shape, offers, links, wish, middle) <= middle * sessions:
            high = middle
        else:
            low = middle
    return low * 1000


def _least_around_s(
    shape: ModelShape, offers: Sequence[NodeOffer], links: Links, wish: Wish, limit_s: float
) -> float:
    """Least time around of all rings with no stage and no link above a limit; inf if none."""
    count = len(shape.layers)
    mean = sum(shape.layers) / count
    kv = shape.kv_bytes_per_token * wish.context_tokens * wish.sessions
    before = np.concatenate(([0], np.cumsum(shape.layers)))
    start, end = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
    size = before[end] - before[start] + kv * (end - start) + STAGE_OVERHEAD_BYTES
    size = size + (start == 0) * shape.embedding_bytes + (end == count) * shape.head_bytes
    size = size - ((start == 0) & (end == count)) * shape.shared_bytes
    stage_s = []
    for offer in offers:
        seconds = offer.layer_decode_s * (before[end] - before[start]) / mean
        seconds = seconds + (start == 0) * offer.embedding_s + (end == count) * offer.head_s
        fits = (end > start) & (size <= offer.memory_bytes) & (seconds <= limit_s)
        stage_s.append(np.where(fits, seconds, inf))
    names = [offer.node for offer in offers]
    message = token_bytes(shape, wish)
    hop_s = [
        [
            links.hop_s(a, b, message) if links.transfer_s(a, b, message) <= limit_s else inf
            for b in names
        ]
        for a in names
    ]
    best = inf

    def go_on(order: tuple[int, ...], reached_s: "np.ndarray[tuple[int], np.dtype[Any]]") -> None:
        nonlocal best
        back = links.hop_s(names[order[-1]], names[order[0]], 64)
        best = min(best, float(reached_s[count]) + (back if len(order) > 1 else 0.0))
        for place in range(len(names)):
            if place not in order:
                entered = reached_s[:count] + hop_s[order[-1]][place]
                go_on((*order, place), (entered[:, None] + stage_s[place][:count]).min(axis=0))

    for place in range(len(names)):
        go_on((place,), stage_s[place][0])
    return best


def random_case(
    random: Random, *, nodes: int, layers: int, wish: Wish, tight: bool, direct: int = 0
) -> tuple[ModelShape, list[NodeOffer], Links, Wish]:
    """A model and nodes whose speeds, memories and links differ up to tenfold."""
    uneven = random.choice((0.0, 0.2, 0.8))
    shape = ModelShape(
        layers=tuple(int(3e6 * random.uniform(1 - uneven, 1 + uneven)) for _ in range(layers)),
        embedding_bytes=random.randrange(30_000_000),
        head_bytes=28_000_000,
        kv_bytes_per_token=random.choice((0, 768)),
        hidden_size=random.choice((576, 4096)),
    )
    whole = sum(shape.layers) + shape.embedding_bytes + shape.head_bytes
    whole += wish.context_tokens * wish.sessions * layers * shape.kv_bytes_per_token
    share = (0.1, 0.8) if tight else (0.5, 3.0)
    names = [f"n{number}" for number in range(nodes)]
    offers = [
        NodeOffer(
            node=name,
            layer_decode_s=10 ** random.uniform(-4, -3),
            layer_prefill_s=10 ** random.uniform(-4.7, -3.7),
            embedding_s=random.uniform(0, 1e-4),
            head_s=10 ** random.uniform(-3.3, -2.3),
            memory_bytes=STAGE_OVERHEAD_BYTES + int(whole * random.uniform(*share)),
        )
        for name in names
    ]
    links = Links(
        broker_ms={name: 10 ** random.uniform(-0.7, 1) for name in names},
        direct_ms={
            (random.choice(names), random.choice(names)): random.uniform(0.05, 1)
            for _ in range(direct)
        },
        bytes_per_s={name: 10 ** random.uniform(5.5, 8) for name in names},
    )
    return shape, offers, links, wish
