"""`maille simulate`: whole meshes without hardware, in real or in virtual time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from maille.cli import output
from maille.cli.chaos import run_chaos
from maille.cli.common import JsonOption, friendly, on_command_line
from maille.cli.reports import check_writable, write_file
from maille.errors import MailleError, SettingsError
from maille_node.firmware.targets import TARGETS

if TYPE_CHECKING:
    from maille_simulator.report.record import RunRecord


_WHERE = {
    "boards": ({"count", "model"}, "with uno, nano or mega"),
    "chaos": ({"chaos", "language", "seed", "processes", "junit", "as_json"}, "with --chaos"),
    "list": ({"as_json"}, "without a scenario"),
    "play": (
        {"virtual", "seed", "duration", "twin", "report", "junit", "as_json"},
        "with scenarios",
    ),
}
"""Which options mean something, by what is asked for."""


def _complete_scenario(incomplete: str) -> list[str]:
    from maille_simulator.scenario.read import ready_scenarios

    found = [name for name in (*ready_scenarios(), *TARGETS) if name.startswith(incomplete)]
    # Files are completed too: nothing else is offered by the shell once there is a list.
    head = Path(incomplete).parent
    files = [
        str(path) + ("/" if path.is_dir() else "")
        for path in sorted(Path(head).expanduser().glob("*"))
        if path.is_dir() or path.suffix in {".yaml", ".yml"}
    ]
    return found + [path for path in files if path.startswith(incomplete)]


@friendly
def simulate(
    context: typer.Context,
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(
            help="YAML files, or names of ready scenarios; none lists those. "
            "Or one of uno, nano, mega: boards on ports of this machine.",
            autocompletion=_complete_scenario,
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
        float | None,
        typer.Option(
            min=1.0, help="Shorten each scenario to so many seconds; the load keeps its rates."
        ),
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
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page with plots, of all scenarios.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, for CI.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Play scenarios on a mesh of this machine and say whether their expectations held.

    Exit code 0 if everything held, 1 if not.

    \b
      maille simulate home --report home.html
      maille simulate my-mesh.yaml --virtual
      maille simulate --chaos 2000
      maille simulate uno --count 3
    """  # noqa: D301 - \b keeps the lines as they stand
    from maille_simulator.errors import ScenarioError, ScenarioNotFound, SimulatorError, ToolMissing

    names = scenarios or []
    boards = sorted(set(names).intersection(TARGETS))
    _refuse_foreign(
        context, "boards" if boards else "chaos" if chaos else "play" if names else "list"
    )
    if boards and len(names) > 1:
        raise SettingsError(
            f"{boards[0]} starts boards on ports of this machine, and goes alone. Leave the rest out."
        )
    if chaos and names:
        raise SettingsError(
            f"--chaos makes up its own meshes. Leave {names[0]} out, or play it without --chaos."
        )
    if virtual and twin:
        raise SettingsError("--twin compares a real run with its twin: leave --virtual out")
    for path in (report, junit):
        if path is not None:
            check_writable(path)
    try:
        with _ended_in_order():
            if boards:
                _boards(boards[0], count, model)
            elif chaos:
                run_chaos(seed or 0, chaos, processes, junit, language=language, as_json=as_json)
            elif names:
                _run(names, virtual, twin, seed, duration, report, junit, as_json)
            else:
                _list(as_json=as_json)
    except (ScenarioError, ScenarioNotFound, ToolMissing) as error:
        raise SettingsError(str(error)) from error
    except SimulatorError as error:
        raise MailleError(str(error)) from error


def _refuse_foreign(context: typer.Context, what: str) -> None:
    """Nobody shall believe that an option which means nothing here was heeded."""
    known, where = _WHERE[what]
    for name in context.params:
        if name in {"scenarios", *known} or not on_command_line(context, name):
            continue
        flag = name.removeprefix("as_")
        fitting = [text for options, text in _WHERE.values() if name in options]
        raise SettingsError(
            f"--{flag} means nothing {where}. Leave it out; it goes {' or '.join(fitting)}."
        )


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what runs in order, once: who asks again while it ends is not heard."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


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
    except OSError as error:
        raise SettingsError(
            f"{error.filename or model} cannot be read: {error.strerror}. Correct the path after --model."
        ) from error
    except WireError as error:
        raise SettingsError(
            f"{model} is no model in the tiny format: {error}. Make one with: maille models convert"
        ) from error


def _list(*, as_json: bool) -> None:
    from maille_simulator.scenario.read import read_scenario, ready_scenarios

    found = [read_scenario(path) for path in ready_scenarios().values()]
    if as_json:
        output.print_json(
            [
                {
                    "name": one.name,
                    "nodes": len(one.nodes),
                    "duration_s": one.duration_s,
                    "description": one.description,
                }
                for one in found
            ]
        )
        return
    rows = [
        (one.name, str(len(one.nodes)), f"{one.duration_s:g}", one.description) for one in found
    ]
    output.stdout().print(
        output.table(("scenario", "nodes", "seconds", "description"), rows, right="nodes seconds")
    )
    output.stdout().print("play one: maille simulate NAME, in virtual time with --virtual")


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

                write_file(report, html_page(records))
            if junit is not None:
                write_file(junit, junit_xml(records))
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
