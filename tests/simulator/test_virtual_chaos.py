"""The chaos scenario: the real cores keep their promises, seed by seed, and a run replays exactly."""

import os
from collections import Counter

import pytest
from hash_seeds import printed_by_each

from maille_simulator.virtual.campaign import campaign, run_seeds
from maille_simulator.virtual.chaos import chaos_plan
from maille_simulator.virtual.faults import FaultKind
from maille_simulator.virtual.world import World

SEEDS = int(os.environ.get("MAILLE_CHAOS_SEEDS", "2000"))
FIRST = int(os.environ.get("MAILLE_CHAOS_FIRST", "0"))
PART = 250
FOUND = (400_557, 403_992, 404_906)
"""Seeds that once broke a promise, whose cause was mended."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(max(1, SEEDS // PART)))
def test_no_seed_breaks_a_promise(part: int) -> None:
    first = FIRST + part * PART
    # In parallel by pytest's own workers, so that each part needs one process.
    results = list(campaign(first, min(PART, SEEDS), processes=1))
    failures = [failure for result in results for failure in result.failures]
    text = "; replay with: maille simulate --virtual --seed SEED"
    assert not failures, f"{failures[:3]}{text}"
    assert sum(result.tasks for result in results) == 500 * min(PART, SEEDS)


def test_seeds_that_once_broke_a_promise_keep_it() -> None:
    assert not run_seeds(FOUND).failures


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = World(chaos_plan(11)), World(chaos_plan(11))
    first.run()
    second.run()
    assert first.broker.messages == second.broker.messages
    assert first.broker.bytes_by_topic == second.broker.bytes_by_topic
    assert first.schedule.now_ms == second.schedule.now_ms
    assert first.journal.ends == second.journal.ends
    other = World(chaos_plan(12))
    other.run()
    assert other.journal.ends != first.journal.ends


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    code = (
        "from maille_simulator.virtual.chaos import chaos_plan\n"
        "from maille_simulator.virtual.world import World\n"
        "for seed in (0, 4, 22):\n"
        "    world = World(chaos_plan(seed)); world.run()\n"
        "    print(world.broker.messages, world.schedule.now_ms, len(world.journal.ends))\n"
    )
    assert len(printed_by_each(code)) == 1


def test_every_kind_of_trouble_is_met_and_tasks_end_in_every_way() -> None:
    kinds: Counter[FaultKind] = Counter()
    ends: Counter[str] = Counter()
    for seed in range(20):
        world = World(chaos_plan(seed))
        kinds.update(fault.kind for fault in world.plan.faults)
        world.run()
        ends.update({status.name: count for status, count in world.ledger.outcomes.items()})
        assert len(world.plan.nodes) == 20
        assert sum(len(burst.tasks) for burst in world.plan.bursts) == 500
    assert set(kinds) == set(FaultKind) - {FaultKind.LINK, FaultKind.RESUME}
    assert set(ends) >= {"DONE", "FAILED", "CANCELLED", "EXPIRED"}
    assert ends["DONE"] > 8000
