"""Joins what goes to one receiver into as few publishes as fit the limit of one."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from maille_protocol import Offer, Outcome
from maille_protocol.limits import MAX_ITEMS_PER_MESSAGE, MAX_PUBLISH_BYTES

ENVELOPE_BYTES = 256
"""Room for the envelope and for what stands once in a message, such as the model."""

_OFFER_BYTES = 16 + 5 + 9 + 9 + 2 + 5 + 44
_OUTCOME_BYTES = 16 + 2 + 3 + 5 + 34 + 5 + 9 + 9 + 44

Item = TypeVar("Item")


def split_offers(
    offers: Iterable[Offer], max_bytes: int = MAX_PUBLISH_BYTES
) -> Iterator[tuple[Offer, ...]]:
    """Groups of offers, each small enough for one publish of `max_bytes`.

    An offer that alone is larger forms a group of its own, for the receiver's limit to refuse.
    """
    return _split(offers, lambda offer: _OFFER_BYTES + _size(offer.content), max_bytes)


def split_outcomes(outcomes: Iterable[Outcome]) -> Iterator[tuple[Outcome, ...]]:
    """Groups of outcomes, each small enough for one publish."""
    return _split(
        outcomes, lambda outcome: _OUTCOME_BYTES + _size(outcome.content), MAX_PUBLISH_BYTES
    )


def _size(content: object) -> int:
    return len(content) if isinstance(content, bytes) else 0


def _split(
    items: Iterable[Item], size_of: Callable[[Item], int], max_bytes: int
) -> Iterator[tuple[Item, ...]]:
    room = max_bytes - ENVELOPE_BYTES
    group: list[Item] = []
    used = 0
    for item in items:
        size = size_of(item)
        if group and (used + size > room or len(group) >= MAX_ITEMS_PER_MESSAGE):
            yield tuple(group)
            group, used = [], 0
        group.append(item)
        used += size
    if group:
        yield tuple(group)
