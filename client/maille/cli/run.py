"""`maille run` and `maille map`: a model on one input, or on many."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from maille.cli import output
from maille.cli.arguments import ModelArgument, VersionOption
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    friendly,
)
from maille.cli.completion import complete_node
from maille.cli.data import Writer, read_inputs, read_rows, save_outputs
from maille.errors import MailleError
from maille.mesh import Mesh
from maille.views import Answer

WAIT_BEFORE_SAYING_S = 3.0

DeadlineOption = Annotated[
    float | None, typer.Option("--deadline", help="Seconds that a task may take.")
]
PriorityOption = Annotated[int, typer.Option(min=0, max=9, help="Higher goes first.")]
TargetOption = Annotated[
    str | None,
    typer.Option("--node", "--on", help="Run on this node only.", autocompletion=complete_node),
]
CastOption = Annotated[
    bool, typer.Option("--cast", help="Convert numbers to the model's types, even if inexact.")
]


@friendly
def run(
    context: typer.Context,
    model: ModelArgument,
    *,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            help="NAME=VALUE or VALUE: a .npy, .npz or .json file, '-', or JSON like '[[1,2]]'.",
        ),
    ],
    save: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the outputs to an .npz, .npy or .json file."),
    ] = None,
    version: VersionOption = 0,
    deadline_s: DeadlineOption = None,
    priority: PriorityOption = 5,
    target: TargetOption = None,
    at_most_once: bool = typer.Option(False, help="Never start it twice."),
    cast_types: CastOption = False,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a model once and print its outputs."""
    with connected(context, url, mesh, key_file) as opened:
        known = opened.wait_for(opened.asynchronous.signature(model, version))
        named = read_inputs(inputs, known, cast_types=cast_types)
        with _told_when_nobody_runs_it(opened):
            answer = opened.run_detailed(
                model,
                named,
                version=version,
                deadline_s=deadline_s,
                priority=priority,
                target=target,
                at_most_once=at_most_once,
            )
    if save is not None:
        save_outputs(save, answer.outputs)
    if as_json:
        output.print_json(answer)
        return
    console = output.stdout()
    if save is None:
        for name, array in answer.outputs.items():
            console.print(
                f"[bold]{name}[/]", f"{array.dtype}{list(array.shape)}".replace("[", r"\[")
            )
            with np.printoptions(threshold=200, precision=6, suppress=True):
                console.print(f"  {array}".replace("\n", "\n  "), markup=False)
    tries = f", attempt {answer.attempts}" if answer.attempts > 1 else ""
    output.stderr().print(
        f"on {answer.node}, {output.duration(answer.run_s)} in the model, "
        f"{output.duration(answer.latency_s)} in all{tries}",
        style="dim",
    )


@friendly
def map_many(
    context: typer.Context,
    model: ModelArgument,
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help=".npz, .npy, .csv or .jsonl file, or '-' for JSON lines; NAME=FILE for each "
            "input where there are several.",
        ),
    ],
    save: Annotated[
        Path,
        typer.Option("--output", "-o", help=".npz or .jsonl file; '-' prints JSON lines."),
    ] = Path("-"),
    rows: int = typer.Option(1, min=1, help="Rows of an array in one task."),
    version: VersionOption = 0,
    deadline_s: DeadlineOption = None,
    priority: PriorityOption = 5,
    target: TargetOption = None,
    cast_types: CastOption = False,
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress."),
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a model over many inputs, spread over all nodes."""
    nodes: set[str] = set()
    done, failed, first_error = 0, 0, ""
    with connected(context, url, mesh, key_file) as opened:
        known = opened.wait_for(opened.asynchronous.signature(model, version))
        inputs = read_rows(data, known, cast_types=cast_types)
        writer = Writer(save)
        items = opened.map_detailed(
            model,
            inputs,
            version=version,
            deadline_s=deadline_s,
            priority=priority,
            target=target,
            rows=rows if isinstance(inputs, dict) else None,
            progress=not quiet and not as_json,
        )
        complete = False
        try:
            for index, item in enumerate(items):
                if isinstance(item, Answer):
                    done += 1
                    nodes.add(item.node)
                else:
                    failed += 1
                    first_error = first_error or str(item)
                writer.write(index, item)
            complete = failed == 0
        finally:
            items.close()
            writer.close(complete=complete)
    if as_json and str(save) != "-":
        output.print_json(
            {"done": done, "failed": failed, "nodes": sorted(nodes), "output": str(save)}
        )
    if failed:
        raise MailleError(
            f"{failed} of {done + failed} tasks failed; the first: {first_error} "
            + ("Nothing was written to " + str(save) if save.suffix == ".npz" else "")
        )


@contextmanager
def _told_when_nobody_runs_it(mesh: Mesh) -> Iterator[None]:
    """Say on standard error when a task waits because no node is there to run it."""

    def tell() -> None:
        try:
            ready = [node for node in mesh.nodes() if node.state == "ready" and node.slots]
        except MailleError:
            return
        if not ready:
            output.stderr().print(
                "The task waits: no node is ready. Start one with `maille node`, or press Ctrl-C."
            )

    timer = threading.Timer(WAIT_BEFORE_SAYING_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
