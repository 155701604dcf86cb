"""Makes a failing run small: less load, fewer nodes, fewer and simpler faults, better weather.

Every step keeps what it was given if the same promise still breaks. A run that goes otherwise
after a step may need other luck to break it: where nothing more can be left out as it is, fewer
faults are tried with other draws of the network and with faults at other times.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.faults import Fault
from maille_simulator.virtual.garbage import collect_run, runs
from maille_simulator.virtual.plan import RunPlan
from maille_simulator.virtual.simpler import (
    calmer_weathers,
    moved,
    simpler_faults,
    with_bursts,
    with_generations,
    with_nodes,
    with_tasks,
)
from maille_simulator.virtual.violation import Violation
from maille_simulator.virtual.world import World

Item = TypeVar("Item")
Outcome = Callable[[RunPlan], str]
"""The promise that a run breaks, "" if none."""

MAX_RUNS = 400
MOST_CALLS = 15_000.0
"""A smaller run that takes more has gone in circles, and shows something else."""

FIRST_SHARE = 0.4
"""Of all runs, for leaving things out as they are."""

SEARCH_SHARE = 0.6
"""Of the runs that are left then, for other luck."""


def broken_promise(plan: RunPlan) -> str:
    """Run a plan; the promise it breaks, "" if it keeps all."""
    try:
        World(plan).run()
    except Violation as violation:
        return violation.promise
    except Exception as error:  # noqa: BLE001 - a core that raises is a failing run as well
        return f"raised {type(error).__name__}"
    finally:
        collect_run()
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
        with runs():
            held_back = int(self.runs_left * (1 - FIRST_SHARE))
            self.runs_left -= held_back
            plan = self._leave_out(self._calm(plan))
            self.runs_left += held_back
            plan = self._with_other_luck(plan)
            plan = self._simplify(plan)
            plan = self._calm(self._leave_out(plan))
            return self._faults(plan)

    # --- steps -----------------------------------------------------------------------------

    def _leave_out(self, plan: RunPlan) -> RunPlan:
        """Drop what can be dropped, until a whole round drops nothing."""
        while True:
            before = _size(plan)
            # Load first: with little of it, all the other runs are short.
            plan = self._part(plan, plan.bursts, with_bursts)
            plan = self._faults(plan)
            plan = self._part(plan, plan.withdrawals, lambda p, kept: replace(p, withdrawals=kept))
            plan = self._part(plan, plan.nodes, with_nodes)
            if plan.language is not None:
                plan = self._part(plan, plan.language.generations, with_generations)
            tasks = [task_id for burst in plan.bursts for task_id, _ in burst.tasks]
            plan = self._part(plan, tasks, with_tasks)
            if _size(plan) == before or self.runs_left <= 0:
                return plan

    def _faults(self, plan: RunPlan) -> RunPlan:
        return self._part(plan, plan.faults, lambda p, kept: replace(p, faults=kept))

    def _part(
        self,
        plan: RunPlan,
        items: Sequence[Item],
        with_items: Callable[[RunPlan, tuple[Item, ...]], RunPlan],
    ) -> RunPlan:
        """Drop as many of one kind of items as possible.

        In halves, then quarters, and so on; after each success all that is left is tried anew.
        """
        kept = tuple(items)
        pieces = 1
        while kept and self.runs_left > 0:
            size = -(-len(kept) // pieces)
            for start in range(0, len(kept), size):
                fewer = kept[:start] + kept[start + size :]
                candidate = with_items(plan, fewer)
                if self._fails(candidate):
                    plan, kept = candidate, fewer
                    pieces = max(1, pieces - 1)
                    break
            else:
                if size == 1:
                    break
                pieces = min(len(kept), pieces * 2)
        return plan

    def _with_other_luck(self, plan: RunPlan) -> RunPlan:
        """Try fewer faults with other draws, and with what is left at other times."""
        random = Random(f"shrink/{plan.seed}")
        spent_at = self.runs_left * (1 - SEARCH_SHARE)
        luck = 0
        while len(plan.faults) > 1 and self.runs_left > spent_at:
            luck += 1
            for candidate in _fewer_otherwise(plan, luck, random):
                if self.runs_left <= spent_at:
                    break
                if self._fails(candidate):
                    plan = self._faults(candidate)
                    break
        return plan

    def _simplify(self, plan: RunPlan) -> RunPlan:
        """Try each fault as a simpler kind, then at rounder times, as long as one of them helps."""
        for place in range(len(plan.faults)):
            tried = True
            while tried and self.runs_left > 0:
                tried = False
                for simpler in simpler_faults(plan.faults[place]):
                    if simpler == plan.faults[place]:
                        continue
                    faults = (*plan.faults[:place], simpler, *plan.faults[place + 1 :])
                    candidate = replace(plan, faults=faults)
                    if self._fails(candidate):
                        plan, tried = candidate, True
                        break
        return replace(plan, faults=tuple(sorted(plan.faults, key=_time_of)))

    def _calm(self, plan: RunPlan) -> RunPlan:
        """Try better weather, the best first."""
        for better in calmer_weathers(plan.weather):
            if better != plan.weather and self._fails(replace(plan, weather=better)):
                plan = replace(plan, weather=better)
                if better == Weather():
                    break
        return plan

    def _fails(self, plan: RunPlan) -> bool:
        if self.runs_left <= 0:
            return False
        self.runs_left -= 1
        limited = replace(plan, most_calls=min(plan.most_calls, MOST_CALLS))
        return self.outcome(limited) == self.promise


def _size(plan: RunPlan) -> tuple[int, ...]:
    tasks = sum(len(burst.tasks) for burst in plan.bursts)
    generations = 0 if plan.language is None else len(plan.language.generations)
    return (
        len(plan.faults),
        len(plan.bursts),
        len(plan.withdrawals),
        len(plan.nodes),
        tasks,
        generations,
    )


def _time_of(fault: Fault) -> float:
    return fault.at_ms


def _fewer_otherwise(plan: RunPlan, luck: int, random: Random) -> Iterator[RunPlan]:
    """Without half of the faults, a quarter, each one, with other draws; in turns also moved."""
    faults = plan.faults
    for size in sorted({-(-len(faults) // 2), -(-len(faults) // 4), 1}, reverse=True):
        for start in range(0, len(faults), size):
            fewer = faults[:start] + faults[start + size :]
            if luck % 2 == 0:
                fewer = tuple(moved(fault, random) for fault in fewer)
            yield replace(plan, luck=luck, faults=tuple(sorted(fewer, key=_time_of)))


def describe(plan: RunPlan) -> str:
    """A plan in a few lines, for people."""
    tasks = sum(len(burst.tasks) for burst in plan.bursts)
    luck = f", luck {plan.luck}" if plan.luck else ""
    load = f"{len(plan.nodes)} nodes, {tasks} tasks"
    generations = () if plan.language is None else plan.language.generations
    if generations:
        load += f", {len(generations)} generations"
    lines = [f"seed {plan.seed}{luck}: {load}, {plan.weather}"]
    lines += [
        f"  {one.at_ms:8.0f} ms  {one.name}: {one.tokens} tokens after {len(one.prompt)}"
        + (f", withdrawn at {one.withdrawn_ms:.0f} ms" if one.withdrawn_ms is not None else "")
        for one in generations
    ]
    lines += [
        f"  {fault.at_ms:8.0f} ms  {fault.kind.value} {fault.target}, lasts {fault.lasts_ms:.0f} ms"
        f", amount {fault.amount:.2f}"
        for fault in plan.faults
    ]
    return "\n".join(lines)
