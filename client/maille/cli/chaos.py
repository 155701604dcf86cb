"""`maille simulate --chaos`: many seeds, what they broke, and the smallest case of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maille.cli import output
from maille.cli.reports import write_file

if TYPE_CHECKING:
    from maille_simulator.virtual.campaign import ChunkResult, SeedFailure


@dataclass(slots=True)
class _Sum:
    """What all seeds gave so far."""

    language: bool
    seeds: int = 0
    tasks: int = 0
    attempts: int = 0
    generations: int = 0
    failures: list["SeedFailure"] = field(default_factory=list)

    def add(self, result: "ChunkResult") -> None:
        self.seeds += result.seeds
        self.tasks += result.tasks
        self.attempts += result.attempts
        self.generations += result.generations
        self.failures += result.failures

    def line(self, took_s: float) -> str:
        answers = f", {self.generations:,} whole answers" if self.language else ""
        broke = len(self.failures) or "none"
        return (
            f"{self.seeds:,} seeds, {self.tasks:,} tasks, {self.attempts:,} runs on nodes{answers} in "
            f"{took_s:.0f} s: {broke} broke a promise"
        )


def run_chaos(
    first: int,
    count: int,
    processes: int | None,
    junit: Path | None,
    *,
    language: bool,
    as_json: bool,
) -> None:
    """Run seeds `first` to `first + count - 1`, print what they gave; exit code 1 if one failed."""
    from maille_simulator.virtual.campaign import campaign
    from maille_simulator.virtual.chaos import chaos_plan
    from maille_simulator.virtual.language.chaos import language_chaos_plan
    from maille_simulator.virtual.shrink import Shrinker, describe

    started_s = time.perf_counter()
    plan_of = language_chaos_plan if language else chaos_plan
    found = _Sum(language)
    try:
        with _progress(count) as bar:
            for result in campaign(first, count, processes=processes, plan_of=plan_of):
                found.add(result)
                bar.advance(bar.task_ids[0], result.seeds)
                for failure in result.failures:
                    bar.console.print(_failure_line(failure, language=language), markup=False)
    except KeyboardInterrupt:
        # What was seen until then is worth as much.
        if found.seeds:
            output.stderr().print(found.line(time.perf_counter() - started_s))
        raise
    took_s = time.perf_counter() - started_s
    smallest = ""
    if found.failures:
        failure = min(found.failures, key=lambda one: one.seed)
        smallest = describe(Shrinker(failure.promise).shrink(plan_of(failure.seed)))
    if junit is not None:
        from maille_simulator.report.junit import chaos_junit_xml

        write_file(junit, chaos_junit_xml(first, found.seeds, found.failures, smallest, took_s))
    if as_json:
        output.print_json(
            {
                "first": first,
                "seeds": found.seeds,
                "tasks": found.tasks,
                "attempts": found.attempts,
                "generations": found.generations,
                "took_s": took_s,
                "failures": [
                    {"seed": one.seed, "promise": one.promise, "text": one.text}
                    for one in found.failures
                ],
                "smallest": smallest,
            }
        )
    else:
        output.stdout().print(found.line(took_s))
        if smallest:
            output.stdout().print(f"made small, the first one is\n{smallest}", markup=False)
    if found.failures:
        raise typer.Exit(output.EXIT_FAILED)


def _failure_line(failure: "SeedFailure", *, language: bool) -> str:
    again = f"maille simulate --chaos 1 --seed {failure.seed}{' --language' * language}"
    return f"seed {failure.seed}: {failure.promise}: {failure.text}\n  again with: {again}"


@contextmanager
def _progress(count: int) -> Iterator[Progress]:
    """A bar on standard error; none where nobody looks."""
    console = output.stderr()
    with Progress(
        TextColumn("seeds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        bar.add_task("seeds", total=count)
        yield bar
