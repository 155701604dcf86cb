"""`maille tasks`: what the mesh is doing and has done."""

import time
from typing import Annotated

import typer

from maille.cli import output
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    friendly,
)
from maille.json_fields import Json
from maille.tasks import parse_task_id

app = typer.Typer(no_args_is_help=True, help="List, show and cancel tasks.")


def _text(view: Json, key: str) -> str:
    value = view.get(key)
    return "" if value is None else str(value)


def _number(view: Json, key: str) -> float:
    value = view.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _when(unix_ms: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_ms / 1000)) if unix_ms else ""


@app.command("list")
@friendly
def list_tasks(
    context: typer.Context,
    *,
    state: str | None = typer.Option(
        None, help="open, or one of queued offered running done failed cancelled expired dead."
    ),
    model: str | None = typer.Option(None, help="Tasks of this model only."),
    limit: int = typer.Option(50, min=1, max=10_000, help="At most so many, newest first."),
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first."""
    query: dict[str, str | int] = {"limit": limit}
    if state is not None:
        query["state"] = state
    if model is not None:
        query["model"] = model
    with connected(context, url, mesh, key_file) as opened:
        found = opened.wait_for(opened.asynchronous.http.tasks(**query))
    if as_json:
        output.print_json(found)
        return
    rows = [
        [
            _text(view, "task_id"),
            _text(view, "state"),
            f"{_text(view, 'model')}:{_text(view, 'version')}",
            _text(view, "node"),
            _text(view, "attempts"),
            _when(_number(view, "accepted_at_unix_ms")),
            output.duration(_number(view, "total_us") / 1e6),
        ]
        for view in found
    ]
    columns = ["task", "state", "model", "node", "attempts", "accepted", "took"]
    console = output.stdout()
    if not rows:
        console.print("There are no such tasks.")
        return
    console.print(output.table(columns, rows, right="attempts took"))


@app.command("show")
@friendly
def show(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="The task's id.")],
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one task and every attempt at it."""
    parse_task_id(task)
    with connected(context, url, mesh, key_file) as opened:
        view = opened.wait_for(opened.asynchronous.http.task(task))
    if as_json:
        output.print_json(view)
        return
    console = output.stdout()
    for key, value in view.items():
        if key not in {"history", "content", "outputs"} and value not in (None, "", []):
            console.print(f"{key.replace('_', ' ')}: {value}", markup=False)
    history = view.get("history")
    for item in history if isinstance(history, list) else []:
        console.print(
            f"  attempt {item.get('attempt')} on {item.get('node')}: "
            f"{item.get('code')} {item.get('reason')}",
            markup=False,
        )


@app.command("cancel")
@friendly
def cancel(
    context: typer.Context,
    tasks: Annotated[list[str], typer.Argument(help="Ids of tasks.")],
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel tasks."""
    for task in tasks:
        parse_task_id(task)
    with connected(context, url, mesh, key_file) as opened:
        for task in tasks:
            opened.wait_for(opened.asynchronous.http.cancel(task))
    if as_json:
        output.print_json({"cancelled": tasks})
    else:
        output.stdout().print(f"cancelled {len(tasks)}")
