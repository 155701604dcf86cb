"""`maille plan`: how a language model is cut over the nodes, and why."""

from typing import Annotated

import typer
from rich.markup import escape

from maille.cli import output
from maille.cli.arguments import LanguageModelArgument
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    friendly,
)
from maille.cli.language_output import places


@friendly
def plan(
    context: typer.Context,
    model: LanguageModelArgument,
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="With what each left-out node would have cost.")
    ] = False,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which nodes hold which layers of a language model, or would hold them now.

    Ends with exit code 1 if no set of nodes can hold the model; it then says what is missing.
    """
    with connected(context, url, mesh, key_file) as opened:
        found = opened.plan(model, explain=explain)
    if as_json:
        output.print_json(found)
    else:
        console = output.stdout()
        what = "runs like this" if found.current else "would be cut like this now"
        if not found.possible:
            what = "cannot be held by the nodes there are"
        console.print(f"[bold]{escape(found.model)}[/] version {found.version} {what}")
        # With an explanation its own lines tell the places, with more about each.
        shown = found.lines if explain and found.lines else places(found.stages)
        if not found.possible:
            shown = found.lines
        for line in shown:
            console.print(f"  {line}", markup=False)
        if found.predicted_tokens_per_s and not explain:
            console.print(f"  predicted: {found.predicted_tokens_per_s:.1f} tokens/s")
    if not found.possible:
        raise typer.Exit(output.EXIT_FAILED)
