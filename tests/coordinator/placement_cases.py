"""Brute force for placement, and random cases. Written apart from the planner, in plain loops."""

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from random import Random

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
