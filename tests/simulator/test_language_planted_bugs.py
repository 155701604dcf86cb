"""The simulator finds bugs that are planted into the language cores, in few seeds, and shrinks them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from maille_coordinator.language.sessions import Sessions
from maille_coordinator.language.state import Session
from maille_node.language.opening import Opener
from maille_node.language.rings import Rings
from maille_node.language.sessions import HeldStage
from maille_node.language.stages import StageCore
from maille_protocol import Activation, Envelope, Tokens
from maille_simulator.virtual.campaign import first_failure
from maille_simulator.virtual.faults import FaultKind
from maille_simulator.virtual.language.chaos import language_chaos_plan
from maille_simulator.virtual.shrink import Shrinker, broken_promise, describe

MOST_SEEDS = 50
Plant = Callable[[pytest.MonkeyPatch], None]


def a_token_that_is_accepted_twice(patch: pytest.MonkeyPatch) -> None:
    check = Sessions.tokens

    def tokens(self: Sessions, node: str, message: Tokens) -> None:
        session = self._world.handles.get(message.session)
        if session is not None and session.length - len(message.tokens) == message.position:
            # What was said again is taken for the next one.
            message = replace(message, position=session.length)
        check(self, node, message)

    patch.setattr(Sessions, "tokens", tokens)


def no_epoch_check_in_a_stage(patch: pytest.MonkeyPatch) -> None:
    hear = StageCore._hear

    def heard(self: StageCore, envelope: Envelope, now_ms: float) -> None:
        if not isinstance(envelope.message, Activation):
            envelope = replace(envelope, epoch=max(envelope.epoch, self._epoch))
        hear(self, envelope, now_ms)

    patch.setattr(StageCore, "_hear", heard)


def a_gap_that_is_computed_over(patch: pytest.MonkeyPatch) -> None:
    begin = Rings._begin

    def began(
        self: Rings,
        pipeline: object,
        held: HeldStage,
        facts: object,
        session: object,
        step: object,
        now_ms: float,
    ) -> None:
        if step.position == session.length + 1:  # type: ignore[attr-defined]
            step = replace(step, position=session.length)  # type: ignore[type-var, attr-defined]
        begin(self, pipeline, held, facts, session, step, now_ms)  # type: ignore[arg-type]

    patch.setattr(Rings, "_begin", began)


def caches_that_are_not_freed(patch: pytest.MonkeyPatch) -> None:
    close = Opener.close

    def closed(self: Opener, held: HeldStage, number: int) -> None:
        before = len(self._actions)
        close(self, held, number)
        del self._actions[before:]

    patch.setattr(Opener, "close", closed)


def a_session_that_nobody_closes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Opener, "expired", lambda *_arguments: [])
    patch.setattr(Sessions, "close_again", lambda *_arguments: None)


def an_end_that_is_told_twice(patch: pytest.MonkeyPatch) -> None:
    end = Sessions.end

    def ended(self: Sessions, session: Session, finish: str, code: str, text: str) -> None:
        known = self._world.handles.get(session.handle)
        end(self, session, finish, code, text)
        if known is not None and finish == "cancelled":
            self._world.handles[session.handle] = known
            end(self, session, finish, code, text)

    patch.setattr(Sessions, "end", ended)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("plant", "promises"),
    [
        (a_token_that_is_accepted_twice, {"tokens are those of an undisturbed run"}),
        (a_gap_that_is_computed_over, {"tokens are those of an undisturbed run"}),
        (caches_that_are_not_freed, {"what ended generations took is freed"}),
        (a_session_that_nobody_closes, {"what ended generations took is freed"}),
        (an_end_that_is_told_twice, {"a generation ends once"}),
    ],
)
def test_a_planted_bug_is_found(
    plant: Plant, promises: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = first_failure(MOST_SEEDS, broken_by)
    assert found is not None
    assert found[1] in promises


def broken_by(seed: int) -> str:
    return broken_promise(language_chaos_plan(seed))


@pytest.mark.timeout(300)
def test_an_epoch_check_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    no_epoch_check_in_a_stage(monkeypatch)

    def broken_after_a_restart(seed: int) -> str:
        plan = language_chaos_plan(seed)
        restarts = any(fault.kind is FaultKind.COORDINATOR_KILL for fault in plan.faults)
        late = plan.weather.late * plan.weather.late_most_ms > 10
        # Without both, nothing of an older coordinator can come late: not worth a run.
        return broken_promise(plan) if restarts and late else ""

    found = first_failure(500, broken_after_a_restart)
    assert found is not None
    assert found[1] == "no older epoch takes effect"


@pytest.mark.timeout(300)
def test_a_failing_run_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gap_that_is_computed_over(monkeypatch)
    found = first_failure(MOST_SEEDS, broken_by)
    assert found is not None
    seed, promise = found
    plan = language_chaos_plan(seed)
    assert plan.language is not None
    small = Shrinker(promise, runs_left=100).shrink(plan)
    assert broken_promise(small) == promise
    assert small.language is not None
    # A gap takes one lost or late message in one answer; the tasks beside it take no part.
    assert len(small.language.generations) <= 2 < len(plan.language.generations)
    assert not small.bursts
    assert len(small.faults) < len(plan.faults)
    assert small.language.generations[0].name in describe(small)
