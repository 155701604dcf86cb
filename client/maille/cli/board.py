"""`maille board`: settings, log and library of a MicroPython board on a cable."""

from collections.abc import Iterable
from typing import Annotated

import typer

from maille.cli import output
from maille.cli.common import JsonOption, friendly, may_ask
from maille.cli.flash import LibraryOption, PortOption, Shown
from maille.errors import SettingsError
from maille.flashing.install import install
from maille.flashing.library import library_folder
from maille.flashing.ports import choose_port, list_ports
from maille.flashing.replink import BoardRepl, listen
from maille.flashing.settings import (
    SETTINGS_FILE,
    changed,
    encoded,
    parse_settings,
    shown,
    with_secret,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Boards of the mesh (list, show, calibrate), or on a cable (config, logs, update).",
)


@app.command("config")
@friendly
def config(
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="What to change, for instance mesh=lab or wifi.ssid=attic; NAME= removes.",
            show_default=False,
        ),
    ] = None,
    *,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="Ask for a secret: password (of the broker) or wifi.password."),
    ] = None,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a board's settings, or change them; the board then starts anew."""
    with BoardRepl(choose_port(port, None, list_ports())) as board:
        found = board.read(SETTINGS_FILE)
        settings = parse_settings(found) if found else {}
        before = dict(settings)
        if assignments:
            settings = changed(settings, assignments)
        for path in ask or []:
            if path not in {"password", "wifi.password"}:
                raise SettingsError(f"{path!r} is no secret. Ask for password or wifi.password.")
            if not may_ask():
                raise SettingsError(
                    f"Nobody is there to be asked for {path}. Run this at a terminal."
                )
            settings = with_secret(
                settings, path, str(typer.prompt(path, hide_input=True, err=True))
            )
        if settings != before:
            board.write(SETTINGS_FILE, encoded(settings))
        board.restart()
    if as_json:
        output.print_json(shown(settings))
        return
    _print_settings(shown(settings))
    if settings != before:
        output.stderr().print("written; the board starts anew")


@app.command("logs")
@friendly
def logs(
    *,
    port: PortOption = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start the board anew first, to see it from the start."),
    ] = False,
) -> None:
    """Show what a board prints, until Ctrl-C."""
    place = choose_port(port, None, list_ports())
    if restart:
        with BoardRepl(place) as board:
            board.restart()
            lines = board.follow(stop=lambda: False)
            _print_lines(lines)
        return
    _print_lines(listen(place, stop=lambda: False))


@app.command("update")
@friendly
def update(
    *,
    port: PortOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the board's library up to date; its settings and models stay."""
    folder = library_folder(library)
    show = Shown(as_json=as_json)
    with BoardRepl(choose_port(port, None, list_ports())) as board:
        with show.bar("library") as advance:
            show.advance = advance
            done = install(board, folder, None, show)
        board.restart()
    if as_json:
        output.print_json({"files_written": done.written, "files_unchanged": done.unchanged})
        return
    output.stdout().print(
        f"{done.written} files written, {done.unchanged} as they were; the board starts anew"
    )


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        if line:
            print(line, flush=True)


def _print_settings(settings: dict[str, object], indent: str = "") -> None:
    for key, value in settings.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            _print_settings(value, indent + "  ")
        else:
            print(f"{indent}{key} = {value}")
    if not settings and not indent:
        output.stdout().print("the board has no settings yet: give it some with `maille flash`")
