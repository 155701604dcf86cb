"""Joins what goes to one receiver into as few publishes as fit the limit of one."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from maille_protocol import ModelReference, Offer, Outcome, TaskFlag
from maille_protocol.limits import MAX_ITEMS_PER_MESSAGE, MAX_PUBLISH_BYTES

ENVELOPE_BYTES = 256
"""Room for the envelope and for what stands once in a message, such as the model."""

_OFFER_BYTES = 16 + 5 + 9 + 9 + 2 + 5 + 44 + 9
_OUTCOME_BYTES = 16 + 2 + 3 + 5 + 34 + 5 + 9 + 9 + 44

_PUBLISH_BYTES = 31 + 1 + 1 + 2 + 5 + 34 + 9 + 1 + 1
"""Of offers: the envelope, the arrays, and a model but for its name, at most."""

_ONE_OFFER_BYTES = 1 + 17 + 5 + 9 + 2 + 3
"""An offer but for its content and boot, at most."""

_BOOT_BYTES = 9
"""In offers of at-most-once tasks."""

Item = TypeVar("Item")


def offer_bytes(model: ModelReference, flags: int, content: bytes) -> int:
    """The publish that offers one task with these flags and inputs is never larger than this."""
    size = _PUBLISH_BYTES + len(model.name.encode()) + _ONE_OFFER_BYTES + len(content)
    return size + _BOOT_BYTES if flags & TaskFlag.AT_MOST_ONCE else size


def split_offers(
    offers: Iterable[Offer],
    max_bytes: int = MAX_PUBLISH_BYTES,
    most: int = MAX_ITEMS_PER_MESSAGE,
) -> Iterator[tuple[Offer, ...]]:
    """Groups of at most `most` offers, each small enough for one publish of `max_bytes`.

    An offer that alone is larger forms a group of its own, for the receiver's limit to refuse.
    """
    return _split(offers, lambda offer: _OFFER_BYTES + _size(offer.content), max_bytes, most)


def split_outcomes(outcomes: Iterable[Outcome]) -> Iterator[tuple[Outcome, ...]]:
    """Groups of outcomes, each small enough for one publish."""
    return _split(
        outcomes, lambda outcome: _OUTCOME_BYTES + _size(outcome.content), MAX_PUBLISH_BYTES
    )


def _size(content: object) -> int:
    return len(content) if isinstance(content, bytes) else 0


def _split(
    items: Iterable[Item],
    size_of: Callable[[Item], int],
    max_bytes: int,
    most: int = MAX_ITEMS_PER_MESSAGE,
) -> Iterator[tuple[Item, ...]]:
    room = max_bytes - ENVELOPE_BYTES
    group: list[Item] = []
    used = 0
    for item in items:
        size = size_of(item)
        if group and (used + size > room or len(group) >= most):
            yield tuple(group)
            group, used = [], 0
        group.append(item)
        used += size
    if group:
        yield tuple(group)
