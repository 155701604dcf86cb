"""Whose step a stage computes next, and how many positions of a prompt go into one.

Decoding goes before prefill, but prefill never starves: it may take half of the stage's time. While
another session decodes, a prefill step is no longer than that session may be held up; a prompt that
has the stage to itself goes in large steps, which cost less a position. The values do not depend on
the steps (docs/decisions/0005-language-model-number-formats.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maille_node.language.stage_events import SliceFacts

if TYPE_CHECKING:
    from maille_node.language.sessions import Session, Work

__all__ = ["HOLD_UP_MS", "LEAST_STEP", "MOST_STEP", "Turns"]

HOLD_UP_MS = 30.0
"""So long may all stages together hold up a token by prefill, one step each."""

LEAST_STEP = 4
MOST_STEP = 128
"""Positions of one step where nobody else decodes on the only stage, ..."""
MOST_SHARED_STEP = 64
"""... and where several stages are to work at the same time on one prompt."""

_DECODES_MS = 1000.0
"""A session that had a token computed so lately is about to want the next."""
_LEAST_WAIT_MS = 2.0
_NEWEST = 0.5


@dataclass(slots=True)
class Turns:
    """What one stage has learnt about its time.

    Attributes:
        position_ms: of one position of a prefill step; 0 while that is not known.
        prefill_took_ms: of the last prefill step.
        prefill_ended_ms: when it ended.
        decoded_ms: when a session last had a token computed, by the session's number.
    """

    position_ms: float = 0.0
    prefill_took_ms: float = 0.0
    prefill_ended_ms: float = float("-inf")
    decoded_ms: dict[int, float] = field(default_factory=dict)

    def choose(self, sessions: "Iterable[Session]", now_ms: float) -> "Session | None":
        """Whose step comes next."""
        decoding: tuple[int, Session] | None = None
        prefilling: tuple[int, Session] | None = None
        since_ms = now_ms
        for session in sessions:
            head = session.next_work
            if head is None:
                continue
            if head.decode:
                if decoding is None or head.order < decoding[0]:
                    decoding = head.order, session
                continue
            since_ms = min(since_ms, head.since_ms)
            if prefilling is None or head.order < prefilling[0]:
                prefilling = head.order, session
        if decoding is None or prefilling is None:
            found = decoding or prefilling
            return None if found is None else found[1]
        waited_ms = now_ms - max(since_ms, self.prefill_ended_ms)
        due = waited_ms >= max(_LEAST_WAIT_MS, self.prefill_took_ms)
        return prefilling[1] if due else decoding[1]

    def step_positions(
        self,
        session: "Session",
        sessions: "Mapping[int, Session]",
        facts: SliceFacts,
        stage_count: int,
        now_ms: float,
    ) -> int:
        """How many positions of this session's prompt the next step may take.

        Args:
            session: whose prompt it is.
            sessions: all that are open on the stage.
            facts: of the slice.
            stage_count: of the whole ring.
            now_ms: the time.
        """
        most = MOST_STEP if stage_count <= 1 else MOST_SHARED_STEP
        if not self._others_decode(session, sessions, now_ms):
            return most
        share_ms = HOLD_UP_MS / max(1, stage_count)
        each_ms = self.position_ms or facts.prefill_us / 1000
        return max(LEAST_STEP, min(most, int(share_ms / each_ms)))

    def ended(self, session: "Session", step: "Work", began_ms: float, now_ms: float) -> None:
        """Learn from a step that was computed."""
        if step.decode or step.samples:
            self.decoded_ms[session.number] = now_ms
        if step.decode:
            return
        self.prefill_took_ms = now_ms - began_ms
        self.prefill_ended_ms = now_ms
        if step.count >= LEAST_STEP:
            each_ms = self.prefill_took_ms / step.count
            before_ms = self.position_ms or each_ms
            self.position_ms = before_ms + _NEWEST * (each_ms - before_ms)

    def _others_decode(
        self, session: "Session", sessions: "Mapping[int, Session]", now_ms: float
    ) -> bool:
        after_ms = now_ms - _DECODES_MS
        self.decoded_ms = {
            number: at_ms
            for number, at_ms in self.decoded_ms.items()
            if at_ms > after_ms and number in sessions
        }
        return any(number != session.number for number in self.decoded_ms)
