"""Language models under chaos: the real cores keep their promises, seed by seed, and replay."""

import os
from collections import Counter

import pytest
from hash_seeds import printed_by_each

from maille_simulator.virtual.campaign import campaign, run_seeds
from maille_simulator.virtual.faults import FaultKind
from maille_simulator.virtual.language.chaos import (
    CALM_GENERATIONS,
    GENERATIONS,
    NODES,
    language_chaos_plan,
)
from maille_simulator.virtual.world import World

SEEDS = int(os.environ.get("MAILLE_LANGUAGE_SEEDS", "300"))
FIRST = int(os.environ.get("MAILLE_CHAOS_FIRST", "0"))
PART = 50
FOUND = (8, 10, 20, 25, 44, 63, 68, 101, 262, 654, 1044, 2650, 3166, 3436)
"""Seeds that once broke a promise, whose cause was mended."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(max(1, SEEDS // PART)))
def test_no_seed_breaks_a_promise(part: int) -> None:
    first, count = FIRST + part * PART, min(PART, SEEDS)
    results = list(campaign(first, count, processes=1, plan_of=language_chaos_plan))
    failures = [failure for result in results for failure in result.failures]
    text = "; replay with: maille simulate --chaos 1 --language --seed SEED"
    assert not failures, f"{failures[:3]}{text}"
    # Some are withdrawn, few end with an honest error.
    asked = count * (GENERATIONS + CALM_GENERATIONS)
    assert sum(result.generations for result in results) > 0.8 * asked


@pytest.mark.timeout(300)
def test_seeds_that_once_broke_a_promise_keep_it() -> None:
    assert not run_seeds(FOUND, language_chaos_plan).failures


@pytest.mark.timeout(300)
def test_a_seed_gives_the_same_run_in_every_process() -> None:
    code = (
        "from maille_simulator.virtual.language.chaos import language_chaos_plan\n"
        "from maille_simulator.virtual.world import World\n"
        "for seed in (10, 44):\n"
        "    world = World(language_chaos_plan(seed)); world.run()\n"
        "    ends = [(one.ended_ms, one.code) for one in world.language.readers.readings.values()]\n"
        "    print(world.broker.messages, world.schedule.now_ms, ends)\n"
    )
    assert len(printed_by_each(code)) == 1


@pytest.mark.timeout(300)
def test_every_kind_of_trouble_is_met_and_generations_end_in_every_way() -> None:
    kinds: Counter[FaultKind] = Counter()
    ends: Counter[str] = Counter()
    cuts: Counter[int] = Counter()
    for seed in range(20):
        world = World(language_chaos_plan(seed))
        kinds.update(fault.kind for fault in world.plan.faults)
        world.run()
        assert len(world.nodes) == NODES
        assert world.language is not None
        ends.update(world.language.readers.ends)
        language = world.coordinator.language
        assert language is not None
        cuts.update(len(ring.slots) for ring in language.core.pipelines.values())
    assert set(kinds) == set(FaultKind) - {FaultKind.LINK, FaultKind.RESUME}
    assert ends["length"] > 150
    assert ends["stop"]
    assert ends["cancelled"] > 8
    assert len(cuts) >= 3, "rings of many lengths"
