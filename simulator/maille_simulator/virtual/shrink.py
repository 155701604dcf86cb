"""Makes a failing run small: drops faults, load and nodes as long as the same promise breaks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.plan import RunPlan
from maille_simulator.virtual.violation import Violation
from maille_simulator.virtual.world import World

Item = TypeVar("Item")
Outcome = Callable[[RunPlan], str]
"""The promise that a run breaks, "" if none."""

MAX_RUNS = 400


def broken_promise(plan: RunPlan) -> str:
    """Run a plan; the promise it breaks, "" if it keeps all."""
    try:
        World(plan).run()
    except Violation as violation:
        return violation.promise
    except Exception as error:  # noqa: BLE001 - a core that raises is a failing run as well
        return f"raised {type(error).__name__}"
    return ""


@dataclass(slots=True)
class Shrinker:
    """Delta debugging over one plan.

    Args:
        promise: what must go on breaking.
        outcome: runs a plan.
        runs_left: so many runs at most.
    """

    promise: str
    outcome: Outcome = broken_promise
    runs_left: int = MAX_RUNS

    def shrink(self, plan: RunPlan) -> RunPlan:
        """A plan that breaks the same promise with as little as was found."""
        for again in range(3):
            before = (len(plan.faults), len(plan.bursts), len(plan.withdrawals))
            plan = self._part(plan, plan.faults, lambda p, kept: replace(p, faults=kept))
            plan = self._part(plan, plan.bursts, _with_bursts)
            plan = self._part(plan, plan.withdrawals, lambda p, kept: replace(p, withdrawals=kept))
            if again and before == (len(plan.faults), len(plan.bursts), len(plan.withdrawals)):
                break
        return self._calm(plan)

    def _part(
        self,
        plan: RunPlan,
        items: Sequence[Item],
        with_items: Callable[[RunPlan, tuple[Item, ...]], RunPlan],
    ) -> RunPlan:
        """Drop as many of one kind of items as possible, in halves, then quarters, and so on."""
        kept = tuple(items)
        pieces = 1
        while kept:
            size = -(-len(kept) // pieces)
            for start in range(0, len(kept), size):
                fewer = kept[:start] + kept[start + size :]
                if self._fails(with_items(plan, fewer)):
                    kept = fewer
                    plan = with_items(plan, fewer)
                    pieces = max(1, pieces - 1)
                    break
            else:
                if size == 1:
                    break
                pieces = min(len(kept), pieces * 2)
            if self.runs_left <= 0:
                break
        return plan

    def _calm(self, plan: RunPlan) -> RunPlan:
        """Try better weather."""
        weather = plan.weather
        for better in (
            replace(weather, loss=0.0),
            replace(weather, duplicate=0.0),
            replace(weather, late=0.0),
            replace(weather, lost_will=0.0),
            Weather(),
        ):
            calmer = replace(plan, weather=better)
            if calmer != plan and self._fails(calmer):
                plan = calmer
        return plan

    def _fails(self, plan: RunPlan) -> bool:
        if self.runs_left <= 0:
            return False
        self.runs_left -= 1
        return self.outcome(plan) == self.promise


def _with_bursts(plan: RunPlan, bursts: tuple[object, ...]) -> RunPlan:
    kept = tuple(burst for burst in plan.bursts if burst in bursts)
    ids = {task_id for burst in kept for task_id, _ in burst.tasks}
    withdrawals = tuple(
        replace(one, task_ids=left)
        for one in plan.withdrawals
        if (left := tuple(task_id for task_id in one.task_ids if task_id in ids))
    )
    return replace(plan, bursts=kept, withdrawals=withdrawals)


def describe(plan: RunPlan) -> str:
    """A plan in a few lines, for people."""
    tasks = sum(len(burst.tasks) for burst in plan.bursts)
    lines = [f"seed {plan.seed}: {len(plan.nodes)} nodes, {tasks} tasks, {plan.weather}"]
    lines += [
        f"  {fault.at_ms:8.0f} ms  {fault.kind.value} {fault.target}, lasts {fault.lasts_ms:.0f} ms"
        f", amount {fault.amount:.2f}"
        for fault in plan.faults
    ]
    return "\n".join(lines)
