"""The simulator finds bugs that are planted into the cores, and makes the failing runs small."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from maille_coordinator.core import Core
from maille_coordinator.core.actions import Tell, Write
from maille_coordinator.core.attempts import Attempts
from maille_coordinator.core.lifecycle import Lifecycle, outcome_of
from maille_coordinator.core.presence import Presence
from maille_coordinator.core.registry import NodeRecord
from maille_coordinator.core.timers import LookAgain
from maille_node.core import NodeCore
from maille_protocol import Envelope, Heartbeat, Offers, Result, TaskFlag
from maille_simulator.virtual.campaign import first_failure
from maille_simulator.virtual.chaos import chaos_plan
from maille_simulator.virtual.plan import RunPlan
from maille_simulator.virtual.shrink import Shrinker, broken_promise, describe

MOST_SEEDS = 500
Plant = Callable[[pytest.MonkeyPatch], None]


def no_epoch_check_in_the_coordinator(patch: pytest.MonkeyPatch) -> None:
    check = Attempts.result

    def result(self: Attempts, record: NodeRecord, found: Result, now_ms: float) -> None:
        check(self, record, replace(found, epoch=self._epoch), now_ms)

    patch.setattr(Attempts, "result", result)


def no_epoch_check_in_the_node(patch: pytest.MonkeyPatch) -> None:
    hear = NodeCore._hear

    def heard(self: NodeCore, envelope: Envelope, now_ms: float) -> None:
        hear(self, replace(envelope, epoch=max(envelope.epoch, self.epoch)), now_ms)

    patch.setattr(NodeCore, "_hear", heard)


def a_silence_that_no_heartbeat_ends(patch: pytest.MonkeyPatch) -> None:
    hear = Presence.hear

    def heard(
        self: Presence, node: str, envelope: Envelope, retained: bool, now_ms: float
    ) -> object:
        record = self._registry.get(node)
        before = record.last_heard_ms if record is not None else now_ms
        found = hear(self, node, envelope, retained, now_ms)
        if isinstance(envelope.message, Heartbeat) and record is not None:
            record.last_heard_ms = before
        return found

    patch.setattr(Presence, "hear", heard)


def a_lease_that_is_never_renewed(patch: pytest.MonkeyPatch) -> None:
    heartbeat = Attempts.heartbeat

    def heard(self: Attempts, record: NodeRecord, beat: Heartbeat, now_ms: float) -> None:
        heartbeat(self, record, replace(beat, held=()), now_ms)

    patch.setattr(Attempts, "heartbeat", heard)


def a_result_that_is_accepted_twice(patch: pytest.MonkeyPatch) -> None:
    check = Attempts.result

    def result(self: Attempts, record: NodeRecord, found: Result, now_ms: float) -> None:
        end = self._life.ended.get(found.task_id)
        check(self, record, found, now_ms)
        if end is not None:
            self._life._outbox.add(Write(end), Tell("alice", outcome_of(end)))

    patch.setattr(Attempts, "result", result)


def slots_that_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("maille_node.tasks.NodeTasks.capacity", 1000)
    patch.setattr("maille_coordinator.core.scheduler.Scheduler._room", lambda *_arguments: 40)


def an_end_that_is_not_written(patch: pytest.MonkeyPatch) -> None:
    end = Lifecycle.end

    def ended(self: Lifecycle, *arguments: object, **named: object) -> None:
        end(self, *arguments, **named)  # type: ignore[arg-type]
        actions = self._outbox._actions
        place = max(i for i, action in enumerate(actions) if isinstance(action, Write))
        if len(self.ended) % 40 == 0:
            del actions[place]

    patch.setattr(Lifecycle, "end", ended)


def memory_that_grows(patch: pytest.MonkeyPatch) -> None:
    handle = Core.handle

    def handled(self: Core, *arguments: object) -> object:
        self._timers.add(1e15, LookAgain())
        return handle(self, *arguments)  # type: ignore[arg-type]

    patch.setattr(Core, "handle", handled)


def no_boot_check_in_the_node(patch: pytest.MonkeyPatch) -> None:
    hear = NodeCore._hear

    def heard(self: NodeCore, envelope: Envelope, now_ms: float) -> None:
        message = envelope.message
        if isinstance(message, Offers):
            boot = self._voice.boot
            offers = tuple(replace(offer, boot=boot) for offer in message.offers)
            envelope = replace(envelope, message=replace(message, offers=offers))
        hear(self, envelope, now_ms)

    patch.setattr(NodeCore, "_hear", heard)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("plant", "promises"),
    [
        (no_epoch_check_in_the_coordinator, {"no older epoch takes effect"}),
        (no_epoch_check_in_the_node, {"no older epoch takes effect"}),
        (a_silence_that_no_heartbeat_ends, {"no node is lost while it answers"}),
        (a_lease_that_is_never_renewed, {"a held task keeps its lease"}),
        (a_result_that_is_accepted_twice, {"one accepted result", "journal"}),
        (slots_that_are_not_counted, {"slots are respected", "the core agrees with itself"}),
        (an_end_that_is_not_written, {"told what is not on disk"}),
        (memory_that_grows, {"the core's memory is bounded"}),
    ],
)
def test_a_planted_bug_is_found(
    plant: Plant, promises: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = first_failure(MOST_SEEDS, lambda seed: broken_promise(chaos_plan(seed)))
    assert found is not None
    assert found[1] in promises


def once_plan(seed: int) -> RunPlan:
    """Chaos in which no task may run twice."""
    plan = chaos_plan(seed)
    bursts = tuple(
        replace(burst, settings=replace(burst.settings, flags=TaskFlag.AT_MOST_ONCE))
        for burst in plan.bursts
    )
    return replace(plan, bursts=bursts)


@pytest.mark.timeout(120)
def test_a_second_process_that_runs_what_is_meant_for_the_first_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        no_boot_check_in_the_node(patch)
        found = first_failure(MOST_SEEDS, lambda seed: broken_promise(once_plan(seed)))
    assert found is not None
    assert found[1] == "at most once"
    assert not broken_promise(once_plan(found[0]))


@pytest.mark.timeout(120)
def test_a_failing_run_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    no_epoch_check_in_the_coordinator(monkeypatch)
    found = first_failure(MOST_SEEDS, lambda seed: broken_promise(chaos_plan(seed)))
    assert found is not None
    seed, promise = found
    plan = chaos_plan(seed)
    small = Shrinker(promise, runs_left=150).shrink(plan)
    assert broken_promise(small) == promise
    # An older epoch takes a coordinator's death and a late result; nothing else is left in it.
    assert len(small.faults) <= 2 < len(plan.faults)
    assert len(small.bursts) <= 4 < len(plan.bursts)
    assert len(small.nodes) <= 10 < len(plan.nodes)
    for place in range(len(small.faults)):
        fewer = replace(small, faults=small.faults[:place] + small.faults[place + 1 :])
        assert broken_promise(fewer) != promise
    assert "coordinator_kill" in describe(small)
