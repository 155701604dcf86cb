"""The shrinker by itself: what it must keep it keeps, all else goes. And runs that go in circles."""

import gc
from dataclasses import replace

import pytest

from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.campaign import campaign
from maille_simulator.virtual.chaos import chaos_plan
from maille_simulator.virtual.faults import FaultKind
from maille_simulator.virtual.plan import RunPlan
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.shrink import Shrinker
from maille_simulator.virtual.violation import Violation

PROMISE = "kept"


def test_only_what_the_failure_needs_is_left_and_as_simple_as_can_be() -> None:
    plan = chaos_plan(4)
    needed = {fault.kind for fault in plan.faults[:2]}
    task_id = plan.bursts[3].tasks[-1][0]

    def outcome(found: RunPlan) -> str:
        kinds = {fault.kind for fault in found.faults}
        tasks = {task for burst in found.bursts for task, _ in burst.tasks}
        return PROMISE if needed <= kinds and task_id in tasks else ""

    small = Shrinker(PROMISE, outcome).shrink(plan)
    assert {fault.kind for fault in small.faults} == needed
    assert len(small.faults) == len(needed)
    assert [task for burst in small.bursts for task, _ in burst.tasks] == [task_id]
    assert small.weather == Weather()
    assert not small.withdrawals
    assert {node for node, _, _ in small.nodes} == {fault.target for fault in small.faults} - {
        "coordinator"
    }
    assert all(fault.at_ms % 1000 == 0 and fault.lasts_ms % 1000 == 0 for fault in small.faults)


def test_a_fault_becomes_a_simpler_one_and_other_luck_is_tried() -> None:
    plan = chaos_plan(4)
    leaves = tuple(fault for fault in plan.faults if fault.kind is FaultKind.LEAVE)
    first = replace(plan.faults[0], kind=FaultKind.LEAVE, target="n03")
    plan = replace(plan, faults=(first, *plan.faults[1:3], *leaves))

    def outcome(found: RunPlan) -> str:
        # As it is, three faults are needed; with other draws any that ends a process will do.
        enough = 1 if found.luck > 2 else 3
        ends = {FaultKind.LEAVE, FaultKind.KILL}
        broken = len(found.faults) >= enough and any(one.kind in ends for one in found.faults)
        return PROMISE if broken else ""

    small = Shrinker(PROMISE, outcome).shrink(plan)
    assert [fault.kind for fault in small.faults] == [FaultKind.KILL]
    assert small.luck > 2


def test_no_more_runs_than_allowed() -> None:
    runs = 0

    def outcome(found: RunPlan) -> str:
        nonlocal runs
        runs += 1
        return PROMISE if len(found.faults) > 3 else ""

    Shrinker(PROMISE, outcome, runs_left=25).shrink(chaos_plan(4))
    assert 20 < runs <= 25


def test_a_run_that_goes_in_circles_is_ended() -> None:
    schedule = Schedule(most_calls=1000)

    def again() -> None:
        schedule.after(0.0, again)

    again()
    with pytest.raises(Violation, match="the mesh comes to rest"):
        schedule.run(10.0)


def test_collections_are_as_before_after_a_campaign() -> None:
    assert gc.isenabled()
    assert sum(result.seeds for result in campaign(0, 1, processes=1)) == 1
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
