"""Those who want answers: they ask, read, ask again after a coordinator's death, and keep account."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from maille_coordinator.language.events import SessionCancelled
from maille_coordinator.language.records import SessionStart
from maille_protocol import Sampling
from maille_simulator.virtual.language.journal import SessionJournal
from maille_simulator.virtual.language.plan import Generation, LanguagePlan
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.violation import Violation

if TYPE_CHECKING:
    from maille_simulator.virtual.language.service import VirtualLanguage

RETRY_MS = 250.0
"""A reader whom nobody answers tries again after this."""

HONEST = frozenset({"queue_full", "model_impossible", "model_unavailable", "generation_failed"})
"""Codes of errors that the API may give while a mesh is in trouble."""


@dataclass(slots=True)
class Reading:
    """One generation as its reader sees it."""

    generation: Generation
    expected: tuple[int, ...]
    asked_ms: float | None = None
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    code: str = ""
    ended_ms: float = 0.0
    withdrawn: bool = False


class Desk(Protocol):
    """Where readers ask: the coordinator of the moment."""

    def __call__(self) -> "VirtualLanguage | None":
        """None while no coordinator answers."""


class Readers:
    """All of one run.

    Args:
        schedule: the virtual clock.
        plan: what they ask for.
        desk: where they ask.
        calm_ms: who asks later than this must get an answer, not an error.
    """

    def __init__(
        self,
        schedule: Schedule,
        plan: LanguagePlan,
        desk: Desk,
        *,
        calm_ms: float,
    ) -> None:
        self.readings: dict[str, Reading] = {}
        self.ends: Counter[str] = Counter()
        """How generations ended: a finish, or an error's code."""
        self._schedule = schedule
        self._plan = plan
        self._desk = desk
        self._calm_ms = calm_ms
        for generation in plan.generations:
            expected = plan.model.answer(self._start(generation))
            self.readings[generation.name] = Reading(generation, expected)
            schedule.at(generation.at_ms, self._ask, generation.name)
            if generation.withdrawn_ms is not None:
                schedule.at(generation.withdrawn_ms, self._withdraw, generation.name)

    @property
    def all_ended(self) -> bool:
        """Whether every generation has come to an end."""
        return self.ends.total() == len(self.readings)

    @property
    def answered(self) -> int:
        """Generations whose whole answer has been read."""
        return self.ends["stop"] + self.ends["length"]

    def open(self) -> list[str]:
        """Generations without an end."""
        return [name for name, reading in self.readings.items() if not reading.finish]

    # --- what readers do -------------------------------------------------------------------

    def _start(self, generation: Generation) -> SessionStart:
        return SessionStart(
            generation.name,
            *self._plan.model.key,
            generation.prompt,
            Sampling(seed=generation.seed, presence_ppm=1000 if generation.penalty else 0),
            generation.tokens,
            generation.end_tokens,
            int(self._schedule.now_ms),
        )

    def _ask(self, name: str) -> None:
        reading = self.readings[name]
        if reading.finish:
            return
        desk = self._desk()
        if desk is None:
            if reading.withdrawn:
                self._end(reading, "cancelled", "")
            else:
                self._schedule.after(RETRY_MS, self._ask, name)
            return
        reading.asked_ms = self._schedule.now_ms
        desk.ask(self._start(reading.generation))

    def _withdraw(self, name: str) -> None:
        reading = self.readings[name]
        reading.withdrawn = True
        if reading.finish or reading.asked_ms is None:
            return
        desk = self._desk()
        if desk is None:
            self._schedule.after(RETRY_MS, self._withdraw, name)
        else:
            desk.take(SessionCancelled(name, "cancelled"))

    def resume(self, desk: "VirtualLanguage", journal: SessionJournal) -> None:
        """A coordinator has started: readers go on where they were, as its journal has it."""
        for name, reading in self.readings.items():
            if reading.finish or reading.asked_ms is None:
                continue
            kept = journal.sessions.get(name)
            if kept is None:
                # It died before it had written that it had taken the generation on.
                if reading.withdrawn:
                    self._end(reading, "cancelled", "")
                else:
                    self._ask(name)
                continue
            for index, token in enumerate(kept.tokens):
                self.token(name, index, token.token)
            if kept.end is not None:
                self.ended(name, kept.end.finish, kept.end.code, kept.end.text)
            elif reading.withdrawn:
                desk.take(SessionCancelled(name, "cancelled"))

    # --- what they hear --------------------------------------------------------------------

    def token(self, name: str, index: int, token: int) -> None:
        """A token of an answer; after a coordinator's death some come again."""
        reading = self.readings[name]
        if reading.finish:
            raise Violation("a generation ends once", f"{name} has a token after its end")
        if index > len(reading.tokens):
            text = f"{name} has {len(reading.tokens)} tokens, number {index} comes next"
            raise Violation("each token comes once, in order", text)
        expected = reading.expected[index : index + 1]
        if expected != (token,):
            text = f"{name} has {token} at {index}, an undisturbed run has {expected}"
            raise Violation("tokens are those of an undisturbed run", text)
        if index == len(reading.tokens):
            reading.tokens.append(token)

    def ended(self, name: str, finish: str, code: str, text: str) -> None:
        """An answer is over."""
        reading = self.readings[name]
        if reading.finish:
            raise Violation("a generation ends once", f"{name} ended as {reading.finish}, {finish}")
        if finish in ("stop", "length"):
            end_tokens = reading.generation.end_tokens
            right = "stop" if reading.expected[-1] in end_tokens else "length"
            if finish != right or tuple(reading.tokens) != reading.expected:
                count, all_of_it = len(reading.tokens), len(reading.expected)
                text = f"{name} ends as {finish} with {count} of {all_of_it} tokens"
                raise Violation("tokens are those of an undisturbed run", text)
        elif finish == "cancelled":
            if not reading.withdrawn:
                raise Violation("cancelled", f"{name} was withdrawn by nobody")
        else:
            self._check_error(reading, code, text)
        self._end(reading, finish, code)

    def _check_error(self, reading: Reading, code: str, text: str) -> None:
        name = reading.generation.name
        if code not in HONEST or not text:
            raise Violation("errors are honest", f"{name} ended with {code!r}: {text}")
        if code == "model_impossible" and reading.tokens:
            raise Violation("errors are honest", f"{name} had begun, yet ends with {code}: {text}")
        if reading.asked_ms is not None and reading.asked_ms >= self._calm_ms:
            text = f"{name} was asked for in calm weather and ended with {code}: {text}"
            raise Violation("in calm weather answers come", text)

    def _end(self, reading: Reading, finish: str, code: str) -> None:
        reading.finish, reading.code = finish, code
        reading.ended_ms = self._schedule.now_ms
        self.ends[code or finish] += 1
