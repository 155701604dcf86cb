"""Vocabularies that sessions with a grammar need: orders wait until theirs is here."""

from collections import OrderedDict

from maille_node.language import stage_events as events
from maille_node.language.stage_events import StageAction
from maille_node.language.waiting import Early
from maille_protocol import SessionOrder

__all__ = ["Vocabularies"]

MAX_VOCABULARIES = 8
MAX_WAITING = 256


class Vocabularies:
    """What is here and what is fetched. Belongs to a `StageCore`."""

    def __init__(self, actions: list[StageAction]) -> None:
        self._actions = actions
        self._here: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: dict[bytes, list[Early]] = {}

    def lacks(self, early: Early) -> bool:
        """Whether an order has to wait for its vocabulary; it comes back from `ready`."""
        order = early.message
        sampling = order.sampling if isinstance(order, SessionOrder) else None
        grammar = None if sampling is None else sampling.grammar
        if grammar is None:
            return False
        sha256 = grammar.vocabulary.sha256
        if sha256 in self._here:
            self._here.move_to_end(sha256)
            return False
        waiting = self._waiting.get(sha256)
        if waiting is None:
            if len(self._waiting) >= MAX_VOCABULARIES:
                return True  # dropped: the coordinator repairs what goes on for too long
            waiting = self._waiting[sha256] = []
            self._actions.append(events.LoadVocabulary(grammar.vocabulary))
        if len(waiting) < MAX_WAITING:
            waiting.append(early)
        return True

    def ready(self, sha256: bytes) -> list[Early]:
        """A vocabulary is here: the orders that waited for it."""
        self._here[sha256] = None
        if len(self._here) > MAX_VOCABULARIES:
            self._actions.append(events.DropVocabulary(self._here.popitem(last=False)[0]))
        return self._waiting.pop(sha256, [])

    def failed(self, sha256: bytes) -> list[Early]:
        """It cannot be had: the orders that waited for it."""
        return self._waiting.pop(sha256, [])
