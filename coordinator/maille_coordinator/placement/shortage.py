"""Why no set of nodes holds a model, and how many bytes are missing."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from maille_coordinator.placement.errors import PlacementImpossible
from maille_coordinator.placement.problem import full_problem
from maille_coordinator.placement.search import find_ring
from maille_coordinator.placement.values import (
    STAGE_OVERHEAD_BYTES,
    Links,
    ModelShape,
    NodeOffer,
    Wish,
)

__all__ = ["format_bytes", "impossible"]

_HELPER = "?"


def impossible(
    shape: ModelShape, allowed: Sequence[NodeOffer], links: Links, wish: Wish
) -> PlacementImpossible:
    """The error for a model that `allowed` cannot hold as wished."""
    count = len(shape.layers)
    weights = shape.weight_bytes(0, count - 1)
    caches = wish.kv_bytes(shape) * count
    usable = sum(offer.usable_bytes for offer in allowed)
    free = replace(wish, pinned=frozenset(), excluded=frozenset())
    if wish.pinned and _fits(shape, allowed, links, free):
        missing, why = _pinned(shape, allowed, links, wish)
    else:
        missing = _least_helper(shape, allowed, links, free)
        why = (
            f"{format_bytes(missing)} are missing: add a node that offers "
            f"{format_bytes(missing + STAGE_OVERHEAD_BYTES)}, or ask for fewer sessions or a "
            "shorter context"
        )
    nodes = "1 node" if len(allowed) == 1 else f"{len(allowed)} nodes"
    return PlacementImpossible(
        f"no set of the {nodes} can hold this model: it needs {format_bytes(weights + caches)} "
        f"({format_bytes(weights)} of weights and {format_bytes(caches)} for {wish.sessions} x "
        f"{wish.context_tokens} tokens), they have {format_bytes(usable)} to use after "
        f"{format_bytes(STAGE_OVERHEAD_BYTES)} each for the process. {why}",
        missing_bytes=missing,
        needed_bytes=weights + caches,
        usable_bytes=usable,
    )


def _pinned(
    shape: ModelShape, allowed: Sequence[NodeOffer], links: Links, wish: Wish
) -> tuple[int, str]:
    """What keeps the pinned nodes from taking part in a model that fits without the pins."""
    one_layer = min(shape.layers) + wish.kv_bytes(shape)
    small = [
        offer for offer in allowed if offer.node in wish.pinned and offer.usable_bytes < one_layer
    ]
    if small:
        missing = max(one_layer - offer.usable_bytes for offer in small)
        names = ", ".join(sorted(offer.node for offer in small))
        return missing, (
            f"It fits without {names}, pinned but too small for a single layer; "
            f"{format_bytes(missing)} are missing there: drop the pin"
        )
    if len(wish.pinned) > len(shape.layers):
        return 0, f"{len(wish.pinned)} nodes are pinned for {len(shape.layers)} layers: pin fewer"
    missing = _least_helper(shape, allowed, links, replace(wish, excluded=frozenset()))
    return missing, (
        f"It fits without the pins, but not so that {', '.join(sorted(wish.pinned))} all have a "
        f"layer; {format_bytes(missing)} are missing: drop a pin"
    )


def _fits(shape: ModelShape, offers: Sequence[NodeOffer], links: Links, wish: Wish) -> bool:
    smallest = min(shape.layers) + wish.kv_bytes(shape)
    useful = [offer for offer in offers if offer.usable_bytes >= smallest]
    if not useful:
        return False
    required = [place for place, offer in enumerate(useful) if offer.node in wish.pinned]
    if len(required) < len(wish.pinned):
        return False
    return find_ring(full_problem(shape, useful, links, wish), 1, required) is not None


def _least_helper(shape: ModelShape, offers: Sequence[NodeOffer], links: Links, wish: Wish) -> int:
    """Usable bytes of the smallest node more with which the model fits; exact for up to six nodes.

    What such a node holds is some run of layers, so its size is one of finitely many.
    """
    count, cache = len(shape.layers), wish.kv_bytes(shape)
    sizes = sorted(
        {
            shape.weight_bytes(first, last) + cache * (last - first + 1)
            for first in range(count)
            for last in range(first, count)
        }
    )
    return _first(
        sizes,
        lambda size: _fits(shape, [*offers, _helper(size)], links, wish),
    )


def _helper(usable_bytes: int) -> NodeOffer:
    return NodeOffer(
        node=_HELPER,
        layer_decode_s=1.0,
        layer_prefill_s=1.0,
        embedding_s=0.0,
        head_s=0.0,
        memory_bytes=usable_bytes + STAGE_OVERHEAD_BYTES,
    )


def _first(sizes: Sequence[int], good: Callable[[int], bool]) -> int:
    """The least size that is good; the greatest is."""
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        if good(sizes[middle]):
            high = middle
        else:
            low = middle + 1
    return sizes[low]


def format_bytes(size: int) -> str:
    """A size for a person, in decimal units."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"
