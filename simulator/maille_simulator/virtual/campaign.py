"""Many seeds in parallel processes: which of them break a promise."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from maille_broker.process import die_with_parent
from maille_simulator.virtual.chaos import chaos_plan
from maille_simulator.virtual.garbage import begin_runs, collect_run, runs
from maille_simulator.virtual.plan import RunPlan
from maille_simulator.virtual.violation import Violation
from maille_simulator.virtual.world import World

CHUNK = 10
"""Seeds that a process takes at a time."""

PlanOf = Callable[[int], RunPlan]
"""A scenario: the plan of each seed."""


@dataclass(frozen=True, slots=True)
class SeedFailure:
    """A seed that broke a promise."""

    seed: int
    promise: str
    text: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a few seeds gave."""

    seeds: int
    tasks: int
    attempts: int
    generations: int
    failures: tuple[SeedFailure, ...]


def run_seeds(seeds: Sequence[int], plan_of: PlanOf = chaos_plan) -> ChunkResult:
    """Run a few seeds in this process."""
    failures: list[SeedFailure] = []
    tasks = attempts = generations = 0
    for seed in seeds:
        world = World(plan_of(seed))
        try:
            world.run()
        except Violation as violation:
            failures.append(SeedFailure(seed, violation.promise, violation.text))
        except Exception as error:  # noqa: BLE001 - a core that raises has failed this seed
            text = "".join(traceback.format_exception(error)[-4:])
            failures.append(SeedFailure(seed, f"raised {type(error).__name__}", text))
        tasks += world.ledger.delivered
        attempts += world.ledger.runs
        if world.language is not None:
            generations += world.language.readers.answered
        del world
        collect_run()
    return ChunkResult(len(seeds), tasks, attempts, generations, tuple(failures))


def campaign(
    first: int,
    count: int,
    *,
    processes: int | None = None,
    stop_after: int = 20,
    plan_of: PlanOf = chaos_plan,
) -> Iterator[ChunkResult]:
    """Results of seeds `first` to `first + count - 1`, as they come.

    Args:
        first: the first seed.
        count: how many.
        processes: worker processes; None: one for each core.
        stop_after: so many failures end it.
        plan_of: the scenario; a function of a module, so that processes can share it.
    """
    processes = processes or os.cpu_count() or 1
    seeds = iter(range(first, first + count))
    chunks = list(iter(lambda: list(islice(seeds, CHUNK)), []))
    run = partial(run_seeds, plan_of=plan_of)
    if processes == 1:
        with runs():
            yield from _until(map(run, chunks), stop_after)
        return
    # Forked while there is one thread: the children begin with everything imported.
    workers = multiprocessing.get_context("fork").Pool(
        processes, _begin_worker, (die_with_parent(),)
    )
    with workers as pool:
        yield from _until(pool.imap_unordered(run, chunks), stop_after)


def _begin_worker(with_parent: Callable[[], None] | None) -> None:
    """Ctrl-C and SIGTERM are for the parent, which ends its workers, also where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if with_parent is not None:
        with_parent()
    begin_runs()


def _until(results: Iterator[ChunkResult], stop_after: int) -> Iterator[ChunkResult]:
    failures = 0
    for result in results:
        yield result
        failures += len(result.failures)
        if failures >= stop_after:
            return


def first_failure(seeds: int, check: Callable[[int], str]) -> tuple[int, str] | None:
    """The first of seeds 0 to `seeds - 1` for which `check` names a broken promise."""
    with runs():
        for seed in range(seeds):
            promise = check(seed)
            if promise:
                return seed, promise
    return None
