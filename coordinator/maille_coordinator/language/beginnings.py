"""Caches that ended sessions left: new sessions whose prompt begins alike begin with them."""

import numpy as np

from maille_coordinator.language.kept import Kept, TokenArray
from maille_coordinator.language.orders import close_kept_order, close_order, keep_order
from maille_coordinator.language.state import Pipeline, PipelineState, Session, World
from maille_protocol import SessionOrder

LEAST_SHARED = 8
"""Fewer positions are computed as fast as they are asked for."""
EXPIRY_MS = 600_000.0
"""Nodes keep them for twice as long: a cache that is counted on is there."""


class Beginnings:
    """Keeps and finds them. Each pipeline has its own, the longest unused first."""

    def __init__(self, world: World) -> None:
        self._world = world

    def last_orders(self, session: Session, pipeline: Pipeline) -> list[tuple[str, SessionOrder]]:
        """What the nodes are told at a session's end: to keep its caches, or to free them."""
        routed = [
            (stage, node) for stage, slot in enumerate(pipeline.slots) for node in slot.routed
        ]
        if not self._worth_keeping(session, pipeline):
            return [(node, close_order(session, pipeline)) for _, node in routed]
        # The last token was chosen and never computed.
        tokens = np.array(session.known()[:-1], np.uint32)
        for other in list(pipeline.kept.values()):
            if _common(other.tokens, tokens) == len(other.tokens):
                self._drop(pipeline, other)
        kept = Kept(
            session.handle, tokens, [set(held) for held in session.holds], self._world.now_ms
        )
        pipeline.kept[kept.handle] = kept
        self.make_room(pipeline)
        if kept.handle not in pipeline.kept:
            return [(node, close_order(session, pipeline)) for _, node in routed]
        return [(node, keep_order(session, pipeline, stage, len(tokens))) for stage, node in routed]

    def _worth_keeping(self, session: Session, pipeline: Pipeline) -> bool:
        complete = all(
            slot.primary in held for slot, held in zip(pipeline.slots, session.holds, strict=False)
        )
        # A token that came since the last repair says that every stage has all before it.
        return (
            pipeline.state is PipelineState.READY
            and not session.check
            and bool(session.tokens)
            and not (session.pending or session.gaps or session.attempts)
            and len(session.holds) == len(pipeline.slots)
            and complete
            and session.length > LEAST_SHARED
        )

    def begin(self, session: Session, pipeline: Pipeline) -> None:
        """Choose what a session begins with; `source` 0 for nothing. Room is made afterwards."""
        session.source = session.shared = 0
        known = np.array(session.known()[:-1], np.uint32)
        best: Kept | None = None
        for kept in list(pipeline.kept.values()):
            if self._world.now_ms - kept.used_ms > EXPIRY_MS or not _is_whole(kept, pipeline):
                self._drop(pipeline, kept)
                continue
            shared = _common(kept.tokens, known)
            if shared >= LEAST_SHARED and shared > session.shared:
                best, session.shared = kept, shared
        if best is not None:
            session.source = best.handle
            best.used_ms = self._world.now_ms
            pipeline.kept[best.handle] = pipeline.kept.pop(best.handle)

    def make_room(self, pipeline: Pipeline) -> None:
        """Give up what is kept, the longest unused first, until all fits the caches.

        A node does the same by itself when it needs the room; what it gave up and is counted on
        here is found missing and computed again.
        """
        for kept in list(pipeline.kept.values()):
            taken = pipeline.used_tokens + sum(len(one.tokens) for one in pipeline.kept.values())
            if taken <= pipeline.cache_tokens:
                return
            self._drop(pipeline, kept)

    def _drop(self, pipeline: Pipeline, kept: Kept) -> None:
        pipeline.kept.pop(kept.handle, None)
        for node in sorted(set[str]().union(*kept.holds)):
            self._world.send(node, close_kept_order(kept.handle, pipeline))


def _common(one: TokenArray, other: TokenArray) -> int:
    """How many tokens two lists have in common at their beginnings."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if differ.size else length


def _is_whole(kept: Kept, pipeline: Pipeline) -> bool:
    """Whether every stage's node still has it."""
    return all(slot.primary in held for slot, held in zip(pipeline.slots, kept.holds, strict=True))
