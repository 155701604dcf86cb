"""The `maille` command. One module per group of commands; this one puts them together."""

import importlib.metadata
from pathlib import Path
from typing import Annotated, cast

import typer

from maille.cli import (
    bench,
    board,
    boards,
    chat,
    demo,
    doctor,
    flash,
    gateway,
    generate,
    models,
    nodes,
    output,
    parts,
    plan,
    run,
    simulate,
    tasks,
    up,
)
from maille.cli.common import State, friendly
from maille.cli.config import Command, config_path, read_config

app = typer.Typer(
    name="maille",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"auto_envvar_prefix": "MAILLE", "help_option_names": ["-h", "--help"]},
    epilog=output.EXIT_CODES.replace("\n", " "),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maille {importlib.metadata.version('maille')}")
        raise typer.Exit


@app.callback()
@friendly
def root(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="MAILLE_CONFIG",
            help="TOML file of settings; else config.toml in the folder of the user's settings for maille.",
        ),
    ] = None,
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Say what happens; twice: everything."),
    ] = 0,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run AI models on the devices you own, as one mesh.

    Settings come from flags, then MAILLE_* variables, then one TOML file.
    """
    output.set_up_logging(verbose)
    read = read_config(config_path(config), cast("Command", context.command))
    context.obj = State(read, verbose)
    context.default_map = read.defaults


app.command("up")(up.up)
app.command("broker")(parts.broker)
app.command("coordinator")(parts.coordinator)
app.add_typer(parts.node_app, name="node")
app.command("gateway")(gateway.gateway)
app.command("nodes")(nodes.nodes)
app.add_typer(models.app, name="models")
app.command("run")(run.run)
app.command("map")(run.map_many)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.command("plan")(plan.plan)
app.add_typer(tasks.app, name="tasks")
app.command("flash")(flash.flash)
app.command("deploy")(boards.deploy)
app.command("evict")(boards.evict)
app.command("sense")(boards.sense)
board.app.command("list")(boards.list_boards)
board.app.command("show")(boards.show_board)
board.app.command("calibrate")(boards.calibrate)
app.add_typer(board.app, name="board")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line."""
    app()
