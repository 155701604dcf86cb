"""The journal's part on generations, in memory: what was committed survives, all else is lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from maille_coordinator.language import events as happened
from maille_coordinator.language.records import (
    RingKept,
    SessionEnd,
    SessionRecord,
    SessionStart,
    SessionTokens,
    StagesHeld,
)
from maille_protocol import Token
from maille_simulator.virtual.violation import Violation


@dataclass(slots=True)
class SessionKept:
    """A generation as the journal has it."""

    start: SessionStart
    tokens: list[Token] = field(default_factory=list)
    end: SessionEnd | None = None


class SessionJournal:
    """Refuses what must never be written."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionKept] = {}
        self._held: dict[int, tuple[tuple[str, int], ...]] = {}
        self._rings: dict[happened.ModelKey, RingKept] = {}

    def commit(self, records: Sequence[SessionRecord]) -> None:
        """Write records; Violation for what must never be written."""
        for record in records:
            match record:
                case SessionStart():
                    if record.session in self.sessions:
                        raise Violation("accepted twice", f"{record.session} was accepted before")
                    self.sessions[record.session] = SessionKept(record)
                case SessionTokens(session, index, tokens):
                    kept = self._open(session, "gets tokens")
                    if index != len(kept.tokens):
                        text = f"{session} has {len(kept.tokens)} tokens, {index} are to follow"
                        raise Violation("each token is written once, in order", text)
                    kept.tokens += tokens
                case SessionEnd(session):
                    self._open(session, "is ended").end = record
                case StagesHeld(pipeline, stages):
                    self._held[pipeline] = stages
                    if not stages:
                        del self._held[pipeline]
                case RingKept(model, version, ring):
                    self._rings[model, version] = record
                    if not ring:
                        del self._rings[model, version]

    def _open(self, session: str, what: str) -> SessionKept:
        kept = self.sessions.get(session)
        if kept is None:
            raise Violation("journal", f"{session} {what} but was never accepted")
        if kept.end is not None:
            raise Violation("a generation ends once", f"{session} {what} though it has ended")
        return kept

    def restored(self) -> happened.Restored:
        """What a coordinator that starts is told, in the order of the real journal."""
        kept = sorted(
            (one for one in self.sessions.values() if one.end is None),
            key=lambda one: (one.start.accepted_at_unix_ms, one.start.session),
        )
        return happened.Restored(
            tuple(happened.RestoredSession(one.start, tuple(one.tokens)) for one in kept),
            tuple(
                (node, pipeline, place)
                for pipeline, stages in sorted(self._held.items())
                for node, place in sorted(stages, key=lambda one: (one[1], one[0]))
            ),
            tuple(ring for _, ring in sorted(self._rings.items())),
        )

    @property
    def held(self) -> frozenset[int]:
        """Pipelines of which it thinks that nodes hold stages."""
        return frozenset(self._held)
