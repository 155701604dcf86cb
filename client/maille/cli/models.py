"""`maille models`: what the mesh can run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

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
from maille.cli.convert import convert
from maille.cli.language_output import (
    print_language_model,
    state_text,
    wait_until_ready,
)
from maille.errors import MeshUnavailable, UnknownModel
from maille.language_views import LanguageModel
from maille.mesh import Mesh
from maille.views import Model

_READY_LIMIT_S = 900.0

app = typer.Typer(no_args_is_help=True, help="Add, list, remove and convert models.")
app.command("convert")(convert)


def print_model(model: Model) -> None:
    """One model for people."""
    console = output.stdout()
    console.print(f"[bold]{model.name}[/] version {model.version}")
    for spec in model.inputs:
        console.print(f"  input   {spec}", markup=False)
    for spec in model.outputs:
        console.print(f"  output  {spec}", markup=False)
    batches = "tasks run in batches" if model.batchable else "one task at a time"
    console.print(f"  {model.format}, {output.count(model.size_bytes, 'B')}, {batches}")
    if model.description:
        console.print(f"  {model.description}", markup=False)


def find_language_model(mesh: Mesh, model: Model) -> LanguageModel | None:
    """The language model that this is; None for any other model."""
    if model.format != "gguf":
        return None
    try:
        return mesh.language_model(f"{model.name}:{model.version}")
    except (UnknownModel, MeshUnavailable):
        # Not told yet, or a coordinator without language models: it is shown like any other.
        return None


def _until_ready(mesh: Mesh, model: LanguageModel, *, quiet: bool) -> LanguageModel:
    console = output.stderr()
    name = f"{model.name}:{model.version}"
    if quiet or not console.is_terminal:
        tell = (lambda _text: None) if quiet else (lambda text: console.print(text, markup=False))
        return wait_until_ready(mesh, name, tell, _READY_LIMIT_S)
    with console.status(state_text(model)) as status:
        return wait_until_ready(
            mesh, name, lambda text: status.update(escape(text)), _READY_LIMIT_S
        )


@app.command("add")
@friendly
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="An ONNX or tiny file, or a language model's GGUF.")],
    *,
    name: str | None = typer.Option(None, help="Name in the mesh; else made from the file's."),
    description: str = typer.Option("", help="What it does, for people."),
    wait: bool = typer.Option(True, help="Wait until a language model is ready to answer."),
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a model, or a new version of one.

    A language model is cut over the nodes at once; this tells how far that is, and why if it cannot
    be done.
    """
    with connected(context, url, mesh, key_file, timeout_s=120) as opened:
        console = output.stderr()
        columns = (
            TextColumn("uploading"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        shown = console.is_terminal and not as_json
        with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
            row = progress.add_task("upload", total=None)
            model = opened.models.add(
                file,
                name,
                description=description,
                on_progress=lambda sent, size: progress.update(row, completed=sent, total=size),
            )
        language = find_language_model(opened, model)
        if language is not None and wait:
            language = _until_ready(opened, language, quiet=as_json)
    if as_json:
        output.print_json(language or model)
    elif language is not None:
        print_language_model(output.stdout(), language)
    else:
        print_model(model)


@app.command("list")
@friendly
def list_models(
    context: typer.Context,
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all models."""
    with connected(context, url, mesh, key_file) as opened:
        found = opened.models.list()
    if as_json:
        output.print_json(found)
        return
    if not found:
        output.stdout().print("The mesh has no model. Add one with `maille models add FILE`.")
        return
    rows = [
        [
            model.name,
            str(model.version),
            model.format,
            output.count(model.size_bytes, "B"),
            ", ".join(str(spec) for spec in model.inputs),
            ", ".join(str(spec) for spec in model.outputs),
        ]
        for model in found
    ]
    columns = ["model", "version", "format", "size", "inputs", "outputs"]
    made = output.table(columns, [], right="version size")
    for row in rows:
        made.add_row(*[cell.replace("[", r"\[") for cell in row])
    output.stdout().print(made)


@app.command("show")
@friendly
def show(
    context: typer.Context,
    name: ModelArgument,
    *,
    version: VersionOption = 0,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one model's inputs and outputs, or where a language model's layers are."""
    with connected(context, url, mesh, key_file) as opened:
        model = opened.models.show(name, version)
        language = find_language_model(opened, model)
    if as_json:
        output.print_json(language or model)
    elif language is not None:
        print_language_model(output.stdout(), language)
    else:
        print_model(model)


@app.command("remove")
@friendly
def remove(
    context: typer.Context,
    name: ModelArgument,
    *,
    version: int = typer.Option(0, help="A version; else all of them.", show_default=False),
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a model; its open tasks fail."""
    with connected(context, url, mesh, key_file) as opened:
        opened.models.remove(name, version)
    if as_json:
        output.print_json({"removed": name, "version": version or None})
    else:
        what = f"version {version} of " if version else ""
        output.stdout().print(f"removed {what}{name}")
