"""`maille deploy`, `evict`, `sense`, and `maille board list|show|calibrate`: boards over the mesh."""

import json
import re
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from maille.board_views import Board, BoardModel, Reading, Sense
from maille.cli import output
from maille.cli.arguments import BoardArgument, ModelArgument, VersionOption
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    friendly,
)
from maille.cli.completion import complete_model, complete_node
from maille.errors import SettingsError
from maille.mesh import Mesh

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_STYLES = {"ready": "green", "running": "green", "failed": "red"}

OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        "--node",
        help="The board, as `maille nodes` shows it.",
        autocompletion=complete_node,
    ),
]
WaitOption = Annotated[bool, typer.Option(help="Wait until it is done.")]


def seconds(text: str) -> float:
    """A time as people write it: 2s, 500ms, 1m, 0.5.

    Raises:
        SettingsError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", text.strip())
    if match is None:
        raise SettingsError(f"{text!r} is no time. Write for example 2s, 500ms or 1m.")
    return float(match[1]) * _UNITS_S[match[2]]


@friendly
def deploy(
    context: typer.Context,
    model: ModelArgument,
    *,
    on: OnOption,
    version: VersionOption = 0,
    wait: WaitOption = True,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model on a board, and keep it there.

    The board fetches it piece by piece, verifies and tests it, and only then uses it.
    """
    with connected(context, url, mesh, key_file) as opened:
        console = output.stderr()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        shown = console.is_terminal and not as_json
        with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
            row = progress.add_task("waiting", total=None)

            def tell(delivery: BoardModel) -> None:
                progress.update(
                    row,
                    description=delivery.state,
                    completed=delivery.received_bytes,
                    total=delivery.size_bytes,
                )

            found = opened.boards.deploy(model, on, version=version, wait=wait, on_progress=tell)
    if as_json:
        output.print_json(found)
        return
    console = output.stdout()
    if found.state == "ready":
        took = f" after {output.duration(found.took_s)}" if found.took_s else ""
        run = f", {output.duration(found.run_s)} a run" if found.run_s else ""
        console.print(f"{model} version {found.version} is on {on}{took}: verified and tested{run}")
    else:
        console.print(f"{model} version {found.version} is wanted on {on}: {found.state}")


@friendly
def evict(
    context: typer.Context,
    model: ModelArgument,
    *,
    on: OnOption,
    version: VersionOption = 0,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model off a board, now or when the board is there again."""
    with connected(context, url, mesh, key_file) as opened:
        board = opened.boards.evict(model, on, version=version)
        until_s = time.monotonic() + 5
        while board.reachable and board.model(model) is not None and time.monotonic() < until_s:
            time.sleep(0.1)
            board = opened.boards.show(on)
    if as_json:
        output.print_json(board)
    elif board.model(model) is None:
        output.stdout().print(f"{model} is gone from {on}")
    else:
        output.stdout().print(f"{on} is asked to forget {model} as soon as it is there")


@friendly
def sense(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="The model's name.", autocompletion=complete_model)
    ] = None,
    *,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", "--node", help="The board that has the sensor.", autocompletion=complete_node
        ),
    ] = None,
    sensor: Annotated[
        str | None, typer.Option(help="The sensor, as `maille board show` names it.")
    ] = None,
    every: Annotated[str, typer.Option(help="From one run to the next: 2s, 500ms, 1m.")] = "1s",
    changes: Annotated[
        bool, typer.Option("--changes", help="Tell only outputs that differ from the last.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Print readings as they come, until Ctrl-C.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--list", help="List all senses.")] = False,
    stop: Annotated[int | None, typer.Option(help="End the sense of this number.")] = None,
    show: Annotated[
        int | None, typer.Option("--show", help="The last readings of the sense of this number.")
    ] = None,
    version: VersionOption = 0,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a model on a board's sensor, again and again; list and stop that.

    It goes on after this command has ended, and after a restart of the board or the coordinator,
    until it is stopped. The model is brought to the board if need be.
    """
    with connected(context, url, mesh, key_file) as opened:
        if show_all:
            _print_senses(opened.senses.list(), as_json=as_json)
        elif stop is not None:
            ended = opened.senses.stop(stop)
            if as_json:
                output.print_json(ended)
            else:
                output.stdout().print(
                    f"sense {stop} has ended: {ended.model} on {ended.node} {ended.sensor}, "
                    f"{ended.readings} readings"
                )
        elif show is not None:
            _print_readings(opened, show, watch=watch, as_json=as_json)
        else:
            _start(opened, model, on, sensor, every, version, changes, watch, as_json)


def _start(
    opened: Mesh,
    model: str | None,
    on: str | None,
    sensor: str | None,
    every: str,
    version: int,
    changes: bool,
    watch: bool,
    as_json: bool,
) -> None:
    if model is None or on is None or sensor is None:
        raise SettingsError(
            "Say what runs where: maille sense MODEL --on NODE --sensor SENSOR. Or --list, "
            "--show NUMBER, --stop NUMBER."
        )
    started = opened.senses.start(
        model, on, sensor, every_s=seconds(every), changes=changes, version=version
    )
    if watch:
        if not as_json:
            output.stderr().print(f"sense {started.id} is wanted; Ctrl-C ends only the watching")
        for reading in opened.senses.watch(started.id):
            _print_reading(reading, as_json=as_json)
        return
    if as_json:
        output.print_json(started)
    else:
        output.stdout().print(
            f"sense {started.id}: {model} on {on} {sensor} every {every}. "
            f"Follow it with `maille sense --show {started.id} --watch`, "
            f"end it with `maille sense --stop {started.id}`."
        )


def _print_readings(opened: Mesh, number: int, *, watch: bool, as_json: bool) -> None:
    found = opened.senses.readings(number)
    if watch:
        for reading in reversed(found):
            _print_reading(reading, as_json=as_json)
        for reading in opened.senses.watch(number):
            _print_reading(reading, as_json=as_json)
    elif as_json:
        output.print_json(found)
    else:
        for reading in reversed(found):
            _print_reading(reading, as_json=False)
        if not found:
            state = opened.senses.show(number)
            output.stdout().print(f"no reading yet: {state.state} {state.text}".strip())


def _print_reading(reading: Reading, *, as_json: bool) -> None:
    if as_json:
        output.print_line(reading)
        return
    at = time.strftime("%H:%M:%S", time.localtime(reading.at_unix_ms / 1000))
    print(f"{at}  {reading_text(reading)}", flush=True)


def reading_text(reading: Reading) -> str:
    """What a reading says, on one line: `class=high`."""
    if reading.outputs is None:
        return f"{reading.code}: {reading.text}"
    return "  ".join(f"{name}={_short(value)}" for name, value in reading.outputs.items())


def _short(value: object) -> str:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def _print_senses(found: Sequence[Sense], *, as_json: bool) -> None:
    if as_json:
        output.print_json(found)
        return
    console = output.stdout()
    if not found:
        console.print("Nothing runs on a sensor. Begin with `maille sense MODEL --on NODE ...`.")
        return
    made = output.table(
        ["sense", "model", "node", "sensor", "every", "state", "readings", "latest"],
        [],
        right="sense every readings",
    )
    for sense_found in found:
        style = _STYLES.get(sense_found.state, "yellow")
        latest = "" if sense_found.latest is None else reading_text(sense_found.latest)
        made.add_row(
            str(sense_found.id),
            sense_found.model,
            sense_found.node,
            sense_found.sensor,
            output.duration(sense_found.every_s) or "at once",
            f"[{style}]{sense_found.state}[/]",
            str(sense_found.readings),
            (sense_found.text or latest).replace("[", r"\["),
        )
    console.print(made)


# --- maille board ... --------------------------------------------------------------------------


@friendly
def list_boards(
    context: typer.Context,
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the boards of the mesh: what they hold, measured and can take."""
    with connected(context, url, mesh, key_file) as opened:
        found = opened.boards.list()
    if as_json:
        output.print_json(found)
        return
    if not found:
        output.stdout().print("No board has joined yet. Make one a node with `maille flash`.")
        return
    made = output.table(
        [
            "board",
            "there",
            "models",
            "sensors",
            "dense",
            "conv",
            "largest model",
            "resets",
            "faults",
        ],
        [],
        right="dense conv resets faults",
    )
    for board in found:
        made.add_row(
            board.name,
            "[green]yes[/]" if board.reachable else "[red]no[/]",
            ", ".join(model_text(model) for model in board.models),
            ", ".join(board.sensors),
            _speed(board, "dense"),
            _speed(board, "convolution"),
            output.count(board.max_model_bytes, "B") if board.max_model_bytes else "built in",
            str(board.resets),
            str(board.faults),
        )
    output.stdout().print(made)


@friendly
def show_board(
    context: typer.Context,
    node: BoardArgument,
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one board: models, sensors, measured speed, limits, resets."""
    with connected(context, url, mesh, key_file) as opened:
        board = opened.boards.show(node)
    if as_json:
        output.print_json(board)
    else:
        _print_board(board)


@friendly
def calibrate(
    context: typer.Context,
    node: BoardArgument,
    *,
    wait: WaitOption = True,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a board measure its kernels again."""
    with connected(context, url, mesh, key_file) as opened:
        board = opened.boards.calibrate(node, wait=wait)
    if as_json:
        output.print_json(board)
    else:
        _print_board(board)


def model_text(model: BoardModel) -> str:
    """A board's model on a few characters: name, version, and how far it is unless ready."""
    name = f"{model.model}:{model.version}" if model.version else model.model
    match model.state:
        case "ready":
            return name
        case "sending" if model.size_bytes:
            return f"{name} ({100 * model.received_bytes // model.size_bytes} %)"
        case state:
            return f"{name} ({state})"


def _speed(board: Board, kernel: str) -> str:
    speed = board.kernels.get(kernel, 0)
    return output.count(speed, "MAC/s") if speed else ""


def _print_board(board: Board) -> None:
    console = output.stdout()
    console.print(f"[bold]{board.name}[/] {'is there' if board.reachable else 'is away'}")
    for model in board.models:
        run = f", {output.duration(model.run_s)} a run" if model.run_s else ""
        console.print(f"  model   {model_text(model)}{run}  {model.text}".rstrip(), markup=False)
    for sensor in board.sensors:
        console.print(f"  sensor  {sensor}", markup=False)
    for kernel, speed in board.kernels.items():
        unit = "comparisons/s" if kernel == "forest" else "MAC/s"
        console.print(f"  speed   {kernel} {output.count(speed, unit)}")
    taken = "no models from the mesh"
    if board.max_models:
        size = output.count(board.max_model_bytes, "B")
        one = board.max_models == 1
        taken = f"one model of {size}" if one else f"{board.max_models} models of {size} each"
    console.print(
        f"  limits  {taken}, "
        f"arena {output.count(board.arena_bytes, 'B')}, "
        f"{output.count(board.free_memory_bytes, 'B')} free"
    )
    console.print(
        f"  life    {board.resets} starts (the last by: {board.reset_cause}), "
        f"{board.faults} messages refused"
    )
