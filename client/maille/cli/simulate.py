"""`maille simulate`: whole meshes without hardware, in real or in virtual time."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from maille.cli import output
from maille.cli.common import JsonOption, friendly
from maille.errors import MailleError, SettingsError
from maille_node.firmware.targets import TARGETS

if TYPE_CHECKING:
    from maille_simulator.report.record import RunRecord


@friendly
def simulate(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(
            help="YAML files, or names of ready scenarios; none lists those. "
            "Or one of uno, nano, mega: boards on ports of this machine."
        ),
    ] = None,
    *,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="In virtual time: seconds instead of minutes.")
    ] = False,
    chaos: Annotated[
        int | None,
        typer.Option(min=1, help="Run so many seeds of the chaos scenario in virtual time."),
    ] = None,
    language: Annotated[
        bool,
        typer.Option("--language", help="With --chaos: a language model's answers under trouble."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The first seed of --chaos, or a scenario's.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=1.0, help="Shorten each scenario to so many seconds.")
    ] = None,
    twin: Annotated[
        bool, typer.Option("--twin", help="Predict a real run in virtual time, compare both.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes for --chaos; one a core if left out.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="With uno, nano or mega: how many.")] = 1,
    model: Annotated[
        Path | None,
        typer.Option(help="With uno, nano or mega: a model in the tiny format to build in."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with plots.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Play scenarios on a mesh of this machine and say whether their expectations held.

    Exit code 0 if everything held, 1 if not.
    """
    from maille_simulator.errors import ScenarioError, SimulatorError

    if scenarios is not None and len(scenarios) == 1 and scenarios[0] in TARGETS:
        _boards(scenarios[0], count, model)
        return
    try:
        if language and chaos is None:
            raise SettingsError("--language goes with --chaos: say how many seeds")
        if chaos is not None:
            _chaos(seed or 0, chaos, processes, language=language, as_json=as_json)
        elif not scenarios:
            _list(as_json=as_json)
        else:
            if virtual and twin:
                raise SettingsError("--twin compares a real run with its twin: leave --virtual out")
            _run(scenarios, virtual, twin, seed, duration, report, junit, as_json)
    except ScenarioError as error:
        raise SettingsError(str(error)) from error
    except SimulatorError as error:
        raise MailleError(str(error)) from error


def _boards(name: str, count: int, model: Path | None) -> None:
    """Boards as AVR machine code, each on a pseudo-terminal, until interrupted."""
    from maille_node.firmware.avr import FirmwareError
    from maille_protocol import WireError
    from maille_simulator.boards.fleet import run_boards
    from maille_simulator.boards.runner_build import RunnerError

    try:
        run_boards(name, count, lambda text: print(text, flush=True), model=model)
    except (FirmwareError, RunnerError) as error:
        raise SettingsError(str(error)) from error
    except (WireError, OSError) as error:
        raise SettingsError(f"{model} is no model in the tiny format: {error}") from error


def _list(*, as_json: bool) -> None:
    from maille_simulator.scenario.read import read_scenario, ready_scenarios

    found = [read_scenario(path) for path in ready_scenarios().values()]
    if as_json:
        output.print_json([{"name": one.name, "description": one.description} for one in found])
        return
    table = Table(title="ready scenarios: maille simulate NAME")
    for column in ("name", "nodes", "seconds", "description"):
        table.add_column(column)
    for one in found:
        table.add_row(one.name, str(len(one.nodes)), f"{one.duration_s:g}", one.description)
    output.stdout().print(table)


def _run(
    names: list[str],
    virtual: bool,
    twin: bool,
    seed: int | None,
    duration: float | None,
    report: Path | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from maille_simulator.real.run import run_for_real, with_twin
    from maille_simulator.report.junit import junit_xml
    from maille_simulator.scenario.read import find_scenario, read_scenario, shortened
    from maille_simulator.virtual.scenario_run import run_virtually

    found = [read_scenario(find_scenario(name)) for name in names]
    talking = next((one for one in found if twin and any(m.language for m in one.models)), None)
    if talking is not None:
        raise SettingsError(
            f"{talking.name} has a language model, which has no twin: leave --twin out"
        )
    if seed is not None:
        found = [replace(scenario, seed=seed) for scenario in found]
    if duration is not None:
        found = [shortened(scenario, duration) for scenario in found]
    for path in (report, junit):
        if path is not None:
            _check_writable(path)
    records: list[RunRecord] = []
    try:
        for scenario in found:
            if virtual:
                records.append(run_virtually(scenario))
            else:
                record = run_for_real(scenario, show=not as_json, measured=twin)
                records.append(with_twin(record) if twin else record)
    finally:
        # Also after Ctrl-C: what was seen until then is worth as much.
        if records:
            if report is not None:
                from maille_simulator.report.page import html_page

                _write(report, html_page(records))
            if junit is not None:
                _write(junit, junit_xml(records))
    if as_json:
        output.print_json([record.to_dict() for record in records])
    else:
        for record in records:
            _print(record)
    if not all(record.held for record in records):
        raise typer.Exit(output.EXIT_FAILED)


def _print(record: "RunRecord") -> None:
    word = "held" if record.held else "failed"
    table = Table(
        title=f"{record.scenario.name}, {record.mode} time, {record.took_s:.1f} s: {word}"
    )
    for column in ("expected", "wanted", "found", ""):
        table.add_column(column)
    for check in record.checks():
        table.add_row(check.name, check.wanted, check.found, "held" if check.held else "FAILED")
    output.stdout().print(table)


def _chaos(first: int, count: int, processes: int | None, *, language: bool, as_json: bool) -> None:
    from maille_simulator.virtual.campaign import SeedFailure, campaign
    from maille_simulator.virtual.chaos import chaos_plan
    from maille_simulator.virtual.language.chaos import language_chaos_plan
    from maille_simulator.virtual.shrink import Shrinker, describe

    started_s = time.perf_counter()
    plan_of = language_chaos_plan if language else chaos_plan
    seeds = tasks = attempts = generations = 0
    failures: list[SeedFailure] = []
    for result in campaign(first, count, processes=processes, plan_of=plan_of):
        seeds += result.seeds
        tasks += result.tasks
        attempts += result.attempts
        generations += result.generations
        failures += result.failures
        for failure in result.failures:
            output.stderr().print(
                f"seed {failure.seed}: {failure.promise}: {failure.text}", markup=False
            )
    took_s = time.perf_counter() - started_s
    smallest = ""
    if failures:
        failure = min(failures, key=lambda one: one.seed)
        plan = Shrinker(failure.promise).shrink(plan_of(failure.seed))
        smallest = describe(plan)
    if as_json:
        output.print_json(
            {
                "first": first,
                "seeds": seeds,
                "tasks": tasks,
                "attempts": attempts,
                "generations": generations,
                "took_s": took_s,
                "failures": [
                    {"seed": one.seed, "promise": one.promise, "text": one.text} for one in failures
                ],
                "smallest": smallest,
            }
        )
    else:
        answers = f", {generations:,} whole answers" if language else ""
        output.stdout().print(
            f"{seeds:,} seeds, {tasks:,} tasks, {attempts:,} runs on nodes{answers} in "
            f"{took_s:.0f} s: {len(failures)} broke a promise"
        )
        if smallest:
            output.stdout().print(f"made small, the first one is\n{smallest}", markup=False)
    if failures:
        raise typer.Exit(output.EXIT_FAILED)


def _check_writable(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(f"{path} cannot be written: make the folder {folder} first")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise MailleError(
            f"{path} cannot be written ({error.strerror}): free some space, or name another file; "
            "the figures are printed all the same with --json"
        ) from error
